"""Webhooks as GitHub sends them, each taken once: webhook.py PORT

The sender delivers at least once, and again when somebody presses its button.
X-GitHub-Delivery is the same each time; X-Hub-Signature-256 is made with SECRET.
"""
import hashlib
import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

import payments

CONSUMER = "builds"
STREAM = "github"
SECRET = os.environ.get("SECRET", "not a secret").encode()
ACCEPT = """
    SELECT outcome FROM idempotency.accept(consumer => %(consumer)s, stream => %(stream)s,
        event_id => %(delivery)s, request => %(body)s)"""
STATUS = {"process": 200, "duplicate": 200, "mismatch": 422, "exhausted": 200, "in_progress": 503}


def signature(data):
    return "sha256=" + hmac.new(SECRET, data, hashlib.sha256).hexdigest()


def take(db, delivery, event, body):
    """Take a delivery; its effect and that it was taken commit together."""
    with db.transaction():
        answer = db.execute(ACCEPT, {"consumer": CONSUMER, "stream": STREAM,
                                     "delivery": delivery, "body": body}).fetchone()
        if answer["outcome"] == "process":
            action = json.loads(body).get("action")
            db.execute("INSERT INTO webhook (delivery, event, action) VALUES (%s, %s, %s)",
                       (delivery, event, action))
    return answer["outcome"]


class Endpoint(BaseHTTPRequestHandler):

    def do_POST(self):
        self.answer(*self.receive())

    def receive(self):
        """Status, and what to say."""
        data = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if not hmac.compare_digest(self.headers["X-Hub-Signature-256"] or "", signature(data)):
            return 401, "not signed"
        try:
            with payments.connect() as db:
                outcome = take(db, self.headers["X-GitHub-Delivery"], self.headers["X-GitHub-Event"],
                               data.decode())
            return STATUS[outcome], outcome
        except (ValueError, AttributeError):
            return 400, "bad request"
        except psycopg.Error as e:
            # what isn't answered with a success is delivered again
            return (int(e.sqlstate[2:]), "bad request") if e.sqlstate in ("ID400", "ID413") else (503, "later")

    def answer(self, status, text):
        data = json.dumps({"outcome": text}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
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
