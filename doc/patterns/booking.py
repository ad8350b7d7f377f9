"""A booking: a seat, a charge, an e-mail; all of them, or none.

booking.py book ORDER SEAT
    Books.  Run it again with the same order until it says "booked" or "not booked".
booking.py undo
    Undoes what is to be undone outside of the database, until there is nothing left.
booking.py crash
    Books again and again, killed at its first line, at its second, and so on.
    Prints what each crash leaves, and what becomes of it: every other client
    comes back, and the others' bookings are undone when their deadline has passed
    (by the worker, or whoever calls maintain()).  Its exit status is 1 if any
    booking is neither whole nor undone.

OUTSIDE is the directory that stands for the card company and the mail server:
a file for each charge, refund and mail.  Both know what they were asked before,
by its key.
"""
import os
import sys
import time

import psycopg
from psycopg.rows import dict_row

OUTSIDE = os.environ.get("OUTSIDE", "/tmp/outside")
LEASE = os.environ.get("LEASE", "2 s")
DEADLINE = os.environ.get("DEADLINE", "10 s")
SCOPE = "booking"


class NotBooked(Exception):
    pass


def connect():
    return psycopg.connect(autocommit=True, row_factory=dict_row)


def ask(db, sql, *values):
    return db.execute(sql, values).fetchone()


def outside(what, key, order):
    """Have something done outside, once for each key; the same again is fine."""
    with open(os.path.join(OUTSIDE, f"{what}.{order}.{key.replace('/', '_')}"), "w") as f:
        f.write(order)
        f.flush()
        os.fsync(f.fileno())


def take_seat(db, order, seat, fence):
    """In this database: the step and its effect are one transaction."""
    with db.transaction():
        ask(db, "SELECT idempotency.compensate_with(%s, %s, %s, 'seat', 'free_seat(text,jsonb)', %s, deadline => %s)",
            SCOPE, order, fence, seat, DEADLINE)
        taken = ask(db, "UPDATE seat SET taken_by = %s WHERE name = %s AND taken_by IS NULL RETURNING name",
                    order, seat)
        if not taken:
            raise NotBooked("the seat is taken")
        ask(db, "SELECT idempotency.step_done(%s, %s, %s, 'seat')", SCOPE, order, fence)


def do_outside(db, order, fence, step, what):
    """Outside of it: first how it is undone, then the effect, then that it was done."""
    if os.environ.get("CRASH_CONTROL") != "unregistered":
        ask(db, "SELECT idempotency.compensate_with(%s, %s, %s, %s, args => %s)", SCOPE, order, fence, step, what)
    outside(what, step, order)
    if os.environ.get("CRASH_CONTROL") != "unregistered":
        ask(db, "SELECT idempotency.step_done(%s, %s, %s, %s, %s)", SCOPE, order, fence, step, f"{what} {order}")


def book(db, order, seat):
    """One attempt; returns what to tell the client, or None: come again."""
    claim = ask(db, "SELECT * FROM idempotency.claim(%s, %s, %s, lease => %s, wait => '0')",
                SCOPE, order, seat, LEASE)
    if claim["outcome"] == "replay":
        return "not booked" if claim["failed"] else claim["response"]
    if claim["outcome"] not in ("execute", "resume"):
        return None
    fence = claim["fence"]
    rows = db.execute("SELECT step FROM idempotency.steps(%s, %s) WHERE done", (SCOPE, order)).fetchall()
    done = {row["step"] for row in rows}
    try:
        if "seat" not in done:
            take_seat(db, order, seat, fence)
        if "charge" not in done:
            do_outside(db, order, fence, "charge", "charge")
        if "mail" not in done:
            do_outside(db, order, fence, "mail", "mail")
    except NotBooked as e:
        ask(db, "SELECT idempotency.compensate(%s, %s, %s, %s)", SCOPE, order, fence, str(e))
        return "not booked"
    ask(db, "SELECT idempotency.finish(%s, %s, 'booked', %s)", SCOPE, order, fence)
    return "booked"


def undo_one(db):
    """Undo one step; false if none is due.  A mail can't be taken back: another one says so."""
    db.execute("SELECT * FROM idempotency.run_compensations()")
    step = ask(db, "SELECT * FROM idempotency.next_compensation(%s, %s)", SCOPE, LEASE)
    if step is None:
        return False
    if os.path.exists(os.path.join(OUTSIDE, f"{step['args']}.{step['key']}.{step['step']}")):
        outside("refund" if step["step"] == "charge" else "apology", step["idempotency_key"], step["key"])
    ask(db, "SELECT * FROM idempotency.settle_compensation(%s, %s, %s, %s)",
        SCOPE, step["key"], step["step"], step["fence"])
    return True


def left(db, order, seat):
    """What there is of a booking: its key's outcome, and its effects."""
    key = ask(db, "SELECT * FROM idempotency.peek(%s, %s)", SCOPE, order)
    taken = ask(db, "SELECT taken_by FROM seat WHERE name = %s", seat)["taken_by"] == order
    kinds = ("charge", "refund", "mail", "apology")
    found = [k for k in kinds for name in os.listdir(OUTSIDE) if name.startswith(f"{k}.{order}.")]
    if key is None:
        state = "nothing"
    elif key["outcome"] == "replay":
        state = "undone" if key["failed"] else "booked"
    else:
        state = key["reason"] or key["outcome"]
    return state, (["seat"] if taken else []) + found


def whole(state, effects):
    """Is a booking all there, or nothing of it?"""
    if state == "booked":
        return effects == ["seat", "charge", "mail"]
    # a lease that is over, and no step was registered: nothing was begun
    return (state in ("undone", "nothing", "lease_expired") and "seat" not in effects
            and effects.count("charge") == effects.count("refund")
            and effects.count("mail") == effects.count("apology"))


def crash_each(db):
    """Kill a booking at each of its lines; returns the orders, with where each was killed."""
    import crash
    runs = []
    while True:
        n = len(runs) + 1
        order, seat = f"order-{n}", f"seat-{n}"
        ask(db, "INSERT INTO seat VALUES (%s) ON CONFLICT DO NOTHING RETURNING name", seat)
        read, write = os.pipe()
        status = crash.run_once(os.path.abspath(__file__), ["book", order, seat],
                                crash.Fault("die", n, order, write))
        os.close(write)
        line = os.read(read, 1000).decode().strip().split(" ", 4)[-1]
        os.close(read)
        state, effects = left(db, order, seat)
        print(f"{order}: {line or 'not killed'}\n    leaves {state}: {', '.join(effects) or 'no effect'}", flush=True)
        runs.append((order, seat))
        if status == 0:
            return runs


def converge(db, runs):
    """Have every other client come back, and the rest undone; returns how many are neither whole nor undone."""
    until = time.monotonic() + float(os.environ.get("CONVERGE", "60"))
    pending = dict(runs)
    while pending and time.monotonic() < until:
        while undo_one(db):
            pass
        for i, (order, seat) in enumerate(runs):
            if order not in pending:
                continue
            if i % 2 == 0:
                book(db, order, seat)
            state, effects = left(db, order, seat)
            if whole(state, effects):
                print(f"{order}: ends {state}: {', '.join(effects) or 'no effect'}", flush=True)
                del pending[order]
        time.sleep(0.05)
    for order, seat in pending.items():
        print(f"{order}: NEITHER WHOLE NOR UNDONE: {left(db, order, seat)}", flush=True)
    return len(pending)


def main(what, *arguments):
    os.makedirs(OUTSIDE, exist_ok=True)
    db = connect()
    if what == "book":
        print(book(db, *arguments) or "come again", flush=True)
    elif what == "undo":
        while undo_one(db):
            pass
    else:
        bad = converge(db, crash_each(db))
        print("all are whole or undone" if bad == 0 else f"{bad} are neither", flush=True)
        sys.exit(1 if bad else 0)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(*sys.argv[1:])
