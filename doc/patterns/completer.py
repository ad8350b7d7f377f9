"""Finishes the payments that others have left: completer.py [HOW MANY]

Goes on for ever, or until it has taken so many.  Any number may run at once.
"""
import json
import sys
import time

import psycopg

import payments

TAKE = "SELECT * FROM idempotency.take_abandoned(scope => %s, max => 1, lease => %s)"


def complete_one(db):
    """Take one over and carry it on; false if none is abandoned."""
    taken = db.execute(TAKE, (payments.SCOPE, payments.LEASE)).fetchone()
    if taken is None:
        return False
    try:
        payments.carry_on(db, taken["principal"], taken["key"], json.loads(taken["request"]), taken)
        print("completed, at attempt", taken["attempt"], flush=True)
    except (payments.Declined, payments.Busy) as e:
        print("failed:", e, flush=True)
    except (payments.Unknown, payments.Overtaken) as e:
        # its lease will run out, and it will be taken again
        print("left:", e, flush=True)
    except psycopg.DatabaseError as e:
        if e.sqlstate not in ("ID404", "ID412"):
            raise
        print("somebody else has it", flush=True)
    return True


def main(how_many="inf"):
    left = float(how_many)
    with payments.connect() as db:
        while left > 0:
            if complete_one(db):
                left -= 1
            elif left == float("inf"):
                time.sleep(1)
            else:
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
