"""A long job with a heartbeat: payouts.py RUN INVOICE...

Pays each invoice at the provider.  Run again with the same arguments it goes on
where it was.  Exit status: 0 done, 75 somebody else is at it, come again.
"""
import json
import sys
import threading
import time

import psycopg

import payments

SCOPE = "payouts.run"
HEARTBEAT = """
    SELECT idempotency.heartbeat(scope => %(scope)s, principal => %(principal)s, key => %(key)s,
        fence => %(fence)s, lease => %(lease)s)"""
TEMPORARY_FAILURE = 75


class Heart(threading.Thread):
    """Extends a lease, on a connection of its own, until it is stopped or refused."""

    def __init__(self, who, claimed):
        super().__init__(daemon=True)
        self.who = {**who, "lease": payments.LEASE}
        self.lease = (claimed["lease_until"] - claimed["claimed_at"]).total_seconds()
        self.until = time.monotonic()       # a resumed lease may end soon: beat at once
        self.stopped = threading.Event()
        self.beat(payments.connect())

    def beat(self, db):
        began = time.monotonic()
        db.execute(HEARTBEAT, self.who)
        self.db, self.until = db, began + self.lease

    def run(self):
        while not self.stopped.wait(self.lease / 3):
            try:
                self.beat(payments.connect() if self.db.closed else self.db)
            except psycopg.OperationalError:
                self.db.close()             # and try again; time runs
            except psycopg.Error:
                self.until = 0              # refused: ID412
                return

    def stop(self):
        self.stopped.set()

    def check(self):
        """Exits if the lease is lost, or may be."""
        if time.monotonic() >= self.until:
            print("the lease is lost", flush=True)
            sys.exit(TEMPORARY_FAILURE)


def work(db, who, claimed):
    heart = Heart(who, claimed)
    heart.start()
    state = json.loads(claimed["state"])
    while state["paid"] < len(state["invoices"]):
        invoice = state["invoices"][state["paid"]]
        heart.check()
        charge = payments.charge(payments.provider_key(SCOPE, who["key"], invoice), who["fence"],
                                 {"account": invoice, "amount": "1", "card": None})
        state["paid"] += 1
        with db.transaction():
            db.execute("INSERT INTO payout VALUES (%s, %s, %s)", (who["key"], invoice, charge))
            db.execute(payments.CHECKPOINT, {**who, "point": f"paid {state['paid']}",
                                             "state": json.dumps(state)})
    with db.transaction():
        db.execute("INSERT INTO payout_run VALUES (%s, %s)", (who["key"], state["paid"]))
        db.execute(payments.FINISH, {**who, "response": json.dumps({"paid": state["paid"]})})
    heart.stop()


def main(run, *invoices):
    request = json.dumps(invoices)
    db, claimed = payments.claim(SCOPE, "", run, request,
                                 json.dumps({"paid": 0, "invoices": invoices}))
    print(claimed["outcome"], claimed["recovery_point"] or "", flush=True)
    if claimed["outcome"] == "replay":
        return
    if claimed["outcome"] not in ("execute", "resume"):
        sys.exit(TEMPORARY_FAILURE)
    who = {"scope": SCOPE, "principal": "", "key": run, "fence": claimed["fence"]}
    try:
        work(db, who, claimed)
    except psycopg.DatabaseError as e:
        if e.sqlstate != "ID412":
            raise
        print("somebody else has it", flush=True)
        sys.exit(TEMPORARY_FAILURE)


if __name__ == "__main__":
    main(*sys.argv[1:])
