"""Records of a partitioned log, as Kafka's, each processed once: offsets.py PARTITION GENERATION

The offset is kept where the effects are, and committed with them.  GENERATION
is that of the assignment: whoever is given the partition anew has a higher one.
The log to try it with is the directory TOPIC: a file for each partition, a
record of {"offset", "key", "value"} for each line.  Ends where the log does.
"""
import json
import os
import sys

import psycopg

import payments

CONSUMER = "ledger"
TOPIC = os.environ.get("TOPIC", "/tmp/topic")
BATCH = int(os.environ.get("BATCH", "3"))

POSITION = "SELECT next_seq FROM idempotency.position(%(consumer)s, %(stream)s)"
ACCEPT = """
    SELECT outcome, reason FROM idempotency.accept(consumer => %(consumer)s, stream => %(stream)s,
        seq => %(offset)s, epoch => %(generation)s)"""


class Overtaken(Exception):
    """Somebody else has the partition now."""


def records(partition, start):
    """What the broker has from an offset on; offsets rise, and have holes."""
    with open(os.path.join(TOPIC, partition), encoding="utf-8") as log:
        later = [record for record in map(json.loads, log) if record["offset"] >= start]
    return later[:BATCH]


def process_batch(db, partition, generation):
    """Process what comes next, and remember how far that is; false at the end of the log."""
    who = {"consumer": CONSUMER, "stream": partition, "generation": generation}
    with db.transaction():
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        start = db.execute(POSITION, who).fetchone()["next_seq"] or 0
        batch = records(partition, start)
        for record in batch:
            answer = db.execute(ACCEPT, {**who, "offset": record["offset"]}).fetchone()
            if answer["outcome"] == "stale_epoch":
                raise Overtaken(partition)
            if answer["outcome"] == "process":
                db.execute("INSERT INTO posting (part, \"offset\", account, amount) VALUES (%s, %s, %s, %s)",
                           (partition, record["offset"], record["key"], record["value"]))
    return bool(batch)


def main(partition, generation):
    with payments.connect() as db:
        more = True
        while more:
            try:
                more = process_batch(db, partition, int(generation))
            except psycopg.errors.SerializationFailure:
                continue            # somebody was faster: look again where it goes on
            except Overtaken:
                print("overtaken", flush=True)
                sys.exit(75)


if __name__ == "__main__":
    main(*sys.argv[1:])
