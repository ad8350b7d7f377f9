"""Kills a recipe at the n-th line that it executes.

crash.py each FAULT SCRIPT ARGUMENT...
    Runs the script again and again, with a fault at its first line, at its
    second, and so on, until one run gets to its end.  {n} in an argument is the
    number of the run.  Prints each line at which there was a fault.
crash.py once FAULT N SCRIPT ARGUMENT...
    Runs it with a fault at its n-th line.
crash.py times HOW_MANY SCRIPT ARGUMENT...
    Runs it so many times without a fault, and prints its exit statuses.
crash.py serve PORT LOG [MODULE]
    The endpoint (of endpoint.py, or another), each request in a process of its
    own, with a fault if the request asks for one: "Fault: die 17".  The lines go
    to the file LOG.

Lines are those of the recipes' functions in this directory, in one thread.  The
faults, just before the line: "die", SIGKILL; "stop", SIGSTOP, until somebody
sends SIGCONT; "lose", the error of a lost connection, whatever the line is, so
that what the line before has sent has arrived and its answer has not.

CRASH_CONTROL takes away what prevents duplicates: no_provider_key or no_key of
the endpoint, no_accept or read_committed of the consumers of events.
"""
import importlib
import linecache
import os
import runpy
import signal
import sys
import urllib.request       # here, so that the processes need not load it one by one
import uuid
from http.server import HTTPServer
from socketserver import ForkingMixIn

import psycopg
import psycopg.rows

HERE = os.path.dirname(os.path.abspath(__file__))
OTHERS = {os.path.join(HERE, name) for name in ("crash.py", "provider.py", "client.py")}

# the exit status of a run that went on after its fault
STRUCK = 7


class Fault:
    """A fault at the n-th line from now."""

    def __init__(self, kind, n, label, log):
        self.kind = kind
        self.n = n
        self.left = n
        self.label = label
        self.log = log

    def arm(self):
        sys.settrace(self.enter)

    def enter(self, frame, event, arg):
        code = frame.f_code
        if (os.path.dirname(code.co_filename) != HERE or code.co_filename in OTHERS
                or code.co_name == "<module>"):
            return None
        return self.line

    def line(self, frame, event, arg):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.strike(frame)
        return self.line

    def strike(self, frame):
        path, number = frame.f_code.co_filename, frame.f_lineno
        sys.settrace(None)
        os.write(self.log, f"{self.kind} {self.n} {self.label} {os.getpid()} "
                           f"{os.path.basename(path)}:{number}: "
                           f"{linecache.getline(path, number).strip()}\n".encode())
        if self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            raise psycopg.OperationalError("the connection is lost")


def run_once(path, arguments, fault=None):
    """Run a script in a process of its own; returns its exit status, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 0
    sys.argv = [path] + arguments
    try:
        if fault:
            fault.arm()
        runpy.run_path(path, run_name="__main__")
    except SystemExit as e:
        status = e.code or 0
    except Exception:
        status = 1
    sys.stdout.flush()
    os._exit(STRUCK if fault and fault.left <= 0 else status)


def each(kind, script, *arguments):
    control(os.environ.get("CRASH_CONTROL"))
    n = 0
    status = STRUCK
    while status in (STRUCK, -signal.SIGKILL):
        n += 1
        mine = [a.replace("{n}", str(n)) for a in arguments]
        status = run_once(os.path.join(HERE, script), mine, Fault(kind, n, " ".join(mine), 1))
    print("runs", n, "and then status", status, flush=True)


def times(how_many, script, *arguments):
    for n in range(1, int(how_many) + 1):
        mine = [a.replace("{n}", str(n)) for a in arguments]
        print("status", run_once(os.path.join(HERE, script), mine), *mine, flush=True)


def once(kind, n, script, *arguments):
    control(os.environ.get("CRASH_CONTROL"))
    sys.argv = [os.path.join(HERE, script), *arguments]
    Fault(kind, int(n), " ".join(arguments), 1).arm()
    runpy.run_path(sys.argv[0], run_name="__main__")


class Yes:
    """What accept() answers to an event that is new."""

    def fetchone(self):
        return {"outcome": "process"}


def control(what, endpoint=None, payments=None):
    """Take away what prevents duplicates."""
    execute = psycopg.Connection.execute
    if what == "no_accept":
        psycopg.Connection.execute = lambda db, query, *rest: (
            Yes() if "idempotency.accept" in query else execute(db, query, *rest))
    elif what == "read_committed":
        psycopg.Connection.execute = lambda db, query, *rest: execute(
            db, query.replace("REPEATABLE READ", "READ COMMITTED"), *rest)
    elif what == "no_provider_key":
        payments.provider_key = lambda *identity: ""
    elif what == "no_key":
        # as if the claim were left out: each try is an operation of its own
        pay = endpoint.pay
        endpoint.pay = lambda principal, key, *rest: pay(principal, uuid.uuid4().hex, *rest)


def serve(port, log, module="endpoint"):
    import payments

    endpoint = importlib.import_module(module)
    lines = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    control(os.environ.get("CRASH_CONTROL"), endpoint, payments)

    class Faulty(endpoint.Endpoint):
        def do_POST(self):
            if "Fault" in self.headers:
                kind, n = self.headers["Fault"].split()
                label = self.headers["Idempotency-Key"] or self.headers["X-GitHub-Delivery"]
                Fault(kind, int(n), label, lines).arm()
            super().do_POST()

    class Forking(ForkingMixIn, HTTPServer):
        request_queue_size = 64
        max_children = 200

        def handle_error(self, request, client_address):
            pass

    server = Forking(("127.0.0.1", int(port)), Faulty)
    print("endpoint on port", server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    {"each": each, "once": once, "times": times, "serve": serve}[sys.argv[1]](*sys.argv[2:])
