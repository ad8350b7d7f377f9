"""A payment provider to try the recipes with: provider.py PORT LEDGER [DELAY]

POST /charges takes {"account", "amount", "card"} and charges; what it has done
is in the file LEDGER, a line of JSON for each charge, on disk before it answers.
Each call takes DELAY seconds.

With the header Idempotency-Key the same key gets the same charge.  With the
header Fence besides, a call that carries a lower fence than an earlier one of
the same key is refused: 412.  Without a key each call is a charge.

Some cards misbehave: "declined" is refused, 402; and at the first call of a key
"busy" is answered 503 and nothing is done, "lost" is charged and the answer is
lost, "slow" is charged only after 1.5 seconds.
"""
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Ledger:
    """What the provider knows, and its file."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.count = 0
        self.charges = {}       # by key: the call, the charge
        self.fences = {}        # by key: the highest
        self.file = open(path, "a+")
        self.file.seek(0)
        for line in self.file:
            self.remember(json.loads(line))

    def remember(self, entry):
        key = entry["key"]
        if entry["charge"]:
            self.count += 1
        if key:
            self.fences[key] = max(entry["fence"], self.fences.get(key, 0))
            if entry["charge"]:
                self.charges[key] = entry["call"], entry["charge"]

    def write(self, entry):
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.remember(entry)

    def charge(self, key, fence, call):
        """Status and body of the answer."""
        with self.lock:
            if key and fence < self.fences.get(key, 0):
                return 412, {"error": "a later attempt has been here"}
            if key in self.charges:
                earlier, charge = self.charges[key]
                if fence > self.fences[key]:
                    self.write({"key": key, "fence": fence, "charge": None, "call": None})
                if earlier != call:
                    return 422, {"error": "the key was used for another charge"}
                return 201, {"charge": charge}
            charge = f"ch_{self.count + 1}"
            self.write({"key": key, "fence": fence, "charge": charge, "call": call})
            return 201, {"charge": charge}


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = set()

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Idempotency-Key"]
        fence = int(self.headers["Fence"] or 0)
        card = call.get("card")
        first = key not in self.seen
        self.seen.add(key)
        time.sleep(self.server.delay)
        if card == "declined":
            return self.answer(402, {"error": "the card was declined"})
        if card == "busy" and first:
            return self.answer(503, {"error": "not now"})
        if card == "slow" and first:
            time.sleep(1.5)
        status, body = self.server.ledger.charge(key, fence, call)
        if card == "lost" and first:
            self.close_connection = True
            return
        self.answer(status, body)

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


def main(port, ledger, delay="0"):
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Provider)
    server.ledger = Ledger(ledger)
    server.delay = float(delay)
    print("provider on port", server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
