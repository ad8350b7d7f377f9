"""Changes of another database, each applied once: cdc.py SLOT

All changes of a transaction share its position in the WAL; a position and a
number within it are what tells them apart.  SOURCE says how to connect to the
other database, which has the logical replication slot SLOT, of test_decoding.
Ends when there is nothing more.
"""
import os
import sys

import psycopg
from psycopg.rows import dict_row

import payments

CONSUMER = "copy"
SOURCE = os.environ.get("SOURCE", "dbname=source")
PEEK = """
    SELECT lsn, (lsn - '0/0')::bigint AS position, data
    FROM pg_logical_slot_peek_changes(%s, NULL, 100, 'include-xids', '0', 'skip-empty-xacts', '1')"""
ACCEPT = """
    SELECT outcome FROM idempotency.accept(consumer => %(consumer)s, stream => %(stream)s,
        seq => %(position)s, subseq => %(n)s)"""


def transactions(source, slot):
    """The next transactions, whole: where each was committed, and its changes."""
    changes = []
    for row in source.execute(PEEK, (slot,)).fetchall():
        if row["data"].startswith("COMMIT"):
            yield row["lsn"], row["position"], changes
        if row["data"].startswith(("BEGIN", "COMMIT")):
            changes = []
        else:
            changes.append(row["data"])


def apply_change(db, slot, position, n, change):
    """Apply the nth change of the transaction at this position, unless it was."""
    with db.transaction():
        answer = db.execute(ACCEPT, {"consumer": CONSUMER, "stream": slot,
                                     "position": position, "n": n}).fetchone()
        if answer["outcome"] == "process":
            db.execute("INSERT INTO copied (position, n, change) VALUES (%s, %s, %s)",
                       (position, n, change))


def main(slot):
    with payments.connect() as db, psycopg.connect(SOURCE, autocommit=True, row_factory=dict_row) as source:
        more = True
        while more:
            more = False
            for lsn, position, changes in transactions(source, slot):
                for n, change in enumerate(changes):
                    apply_change(db, slot, position, n, change)
                # only now may the source forget them
                source.execute("SELECT pg_replication_slot_advance(%s, %s)", (slot, lsn))
                more = True


if __name__ == "__main__":
    main(*sys.argv[1:])
