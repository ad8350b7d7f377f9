"""A result that many want, and that is made once: cache.py ask|change PRODUCT [TIMES]

ask prints the page as often as asked; change raises the price as often.
"""
import json
import sys

import payments

SCOPE = "page"
RUN = """
    SELECT outcome, response FROM idempotency.run(scope => %(scope)s, key => %(key)s, command => %(command)s,
        args => %(args)s, tag => %(tag)s)"""
# slow, as what is worth a cache is
MAKE = "SELECT p.name, p.price FROM product AS p, pg_sleep(0.05) WHERE p.id = ($1 ->> 'product')::int"


def page(db, product):
    """The page, made now or by somebody else; None if that takes too long."""
    answer = db.execute(RUN, {"scope": SCOPE, "key": f"product {product}", "command": MAKE,
                              "args": json.dumps({"product": product}), "tag": f"product {product}"}).fetchone()
    return answer["response"] and json.loads(answer["response"])[0]


def change(db, product):
    """The price and the invalidation commit together."""
    with db.transaction():
        db.execute("UPDATE product SET price = price + 1 WHERE id = %s", (product,))
        db.execute("SELECT idempotency.invalidate(%s, %s, 'price changed')", (SCOPE, f"product {product}"))


def main(what, product, times="1"):
    with payments.connect() as db:
        for _ in range(int(times)):
            if what == "change":
                change(db, product)
                continue
            known = db.execute("SELECT price FROM product WHERE id = %s", (product,)).fetchone()["price"]
            shown = page(db, product)
            print("late" if shown is None else shown["price"] if shown["price"] >= known else "stale", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
