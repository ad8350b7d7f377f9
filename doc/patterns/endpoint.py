"""POST /payments, however often it is sent: endpoint.py PORT

The client sends {"account", "amount", "card"} and the header Idempotency-Key.
"""
import json
import math
import sys
from decimal import Decimal, InvalidOperation
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

import payments

STATUS = {"in_progress": 409, "mismatch": 422, "retry_later": 429, "exhausted": 409,
          "indeterminate": 409, "expired": 410}


def refusal(status, error, retry_after_ms=None):
    body = {"error": error}
    if retry_after_ms is not None:
        body["retry_after_ms"] = retry_after_ms
    return status, json.dumps(body), retry_after_ms


def pay(principal, key, text, body, state):
    db, claimed = payments.claim(payments.SCOPE, principal, key, text, state)
    with db:
        outcome = claimed["outcome"]
        if outcome in ("execute", "resume"):
            return 201, payments.carry_on(db, principal, key, body, claimed), None
        if outcome == "replay" and claimed["failed"]:
            return refusal(402, claimed["error"])
        if outcome == "replay":
            return 201, claimed["response"], None
        return refusal(STATUS[outcome], outcome, claimed["retry_after_ms"])


class Endpoint(BaseHTTPRequestHandler):

    def do_POST(self):
        # answered once, whatever happens: nothing is caught around the answer itself
        self.answer(*self.receive())

    def receive(self):
        """Status, text, and in how many milliseconds to come again, or None."""
        try:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            body = json.loads(text)
            # what is decided once is decided here: any later attempt is given this state
            amount = Decimal(str(body["amount"])) + Decimal("0.30")
            key = self.headers["Idempotency-Key"]
            account = body["account"]
        except (ValueError, TypeError, KeyError, InvalidOperation):
            return refusal(400, "bad request")
        if not key or not account:
            return refusal(400, "bad request")
        # who the client is; after authentication, in a real one
        principal = self.headers["Tenant"] or ""
        try:
            return pay(principal, key, text, body, json.dumps({"amount": str(amount)}))
        except payments.Declined as e:
            return refusal(402, str(e))
        except payments.Busy as e:
            return refusal(429, str(e), e.retry_after_ms)
        except (payments.Unknown, payments.Overtaken):
            # the lease is running: who comes later is told how long, or goes on
            return refusal(503, "not known yet", 1000)
        except psycopg.Error as e:
            if e.sqlstate in ("ID400", "ID413"):
                return refusal(int(e.sqlstate[2:]), "bad request")
            if e.sqlstate in ("ID404", "ID412"):
                # somebody else has taken over, and answers
                return refusal(409, "in_progress", 1000)
            return refusal(503, "not known yet", 1000)

    def answer(self, status, text, retry_after_ms):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after_ms is not None:
            self.send_header("Retry-After", str(math.ceil(retry_after_ms / 1000)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def main(port):
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Endpoint)
    print("endpoint on port", server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
