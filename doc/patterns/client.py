"""Sends one payment until it is answered: client.py URL KEY BODY

The key is made once, when the user presses the button, and is the same for
every try.  Prints the status and the response.
"""
import http.client
import sys
import time
import urllib.error
import urllib.request


def send(url, key, body):
    """Status, text, and in how many seconds to come again, or None."""
    request = urllib.request.Request(url, body.encode(), {"Idempotency-Key": key})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), None
    except urllib.error.HTTPError as e:
        after = e.headers["Retry-After"]
        return e.code, e.read().decode(), int(after) if after else None
    except (OSError, http.client.HTTPException):
        return 0, "no answer", 1


def main(url, key, body, give_up_after="120"):
    give_up = time.monotonic() + float(give_up_after)
    while True:
        status, text, again = send(url, key, body)
        if again is None or time.monotonic() + again > give_up:
            break
        time.sleep(again)
    print(status, text)


if __name__ == "__main__":
    main(*sys.argv[1:])
