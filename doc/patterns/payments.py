"""A payment that a provider outside the database charges, in three phases.

1. claim() claims the key with a lease; that is committed before anything else.
2. carry_on() calls the provider, between two checkpoints.
3. carry_on() then writes the payment and settles the key, in one transaction.

Whoever comes after an attempt that died goes on with carry_on() where the last
checkpoint was.  The connection is that of the PG* environment variables.
"""
import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
import uuid

import psycopg
from psycopg.rows import dict_row

SCOPE = os.environ.get("SCOPE", "payments.create")
LEASE = os.environ.get("LEASE", "30 s")
PROVIDER = os.environ.get("PROVIDER", "http://127.0.0.1:8081")
# one call must end well before the lease does
PROVIDER_TIMEOUT = float(os.environ.get("PROVIDER_TIMEOUT", "10"))

CLAIM = """
    SELECT * FROM idempotency.claim(scope => %(scope)s, principal => %(principal)s, key => %(key)s,
        request => %(request)s, lease => %(lease)s, owner => %(owner)s, state => %(state)s,
        wait => '0')"""
CHECKPOINT = """
    SELECT idempotency.checkpoint(scope => %(scope)s, principal => %(principal)s, key => %(key)s,
        fence => %(fence)s, recovery_point => %(point)s, state => %(state)s)"""
FINISH = """
    SELECT idempotency.finish(scope => %(scope)s, principal => %(principal)s, key => %(key)s,
        fence => %(fence)s, response => %(response)s)"""
FAIL = """
    SELECT * FROM idempotency.fail(scope => %(scope)s, principal => %(principal)s, key => %(key)s,
        fence => %(fence)s, error => %(error)s, retryable => %(retryable)s)"""


class Declined(Exception):
    """The provider has refused, for good."""


class Busy(Exception):
    """The provider has done nothing in this call, and may later."""


class Unknown(Exception):
    """The provider may or may not have done it."""


class Overtaken(Exception):
    """The provider has seen a later fence than ours."""


def connect():
    # autocommit: claim, checkpoint and fail are transactions of their own
    return psycopg.connect(autocommit=True, row_factory=dict_row)


def claim(scope, principal, key, request, state):
    """A connection, and what the claim was answered.

    The owner is new for each piece of work.  If the connection is lost with the
    answer on its way, the second try recognises the claim of the first by it.
    """
    who = {"scope": scope, "principal": principal, "key": key, "request": request,
           "lease": LEASE, "owner": uuid.uuid4().hex, "state": state}
    for last in False, True:
        try:
            db = connect()
            answer = db.execute(CLAIM, who).fetchone()
            return db, answer
        except psycopg.OperationalError:
            if last:
                raise


def provider_key(*identity):
    """The same for every attempt at one operation, and for no other operation."""
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def charge(key, fence, call):
    """Charge at the provider, and return the charge's name."""
    request = urllib.request.Request(PROVIDER + "/charges", json.dumps(call).encode(),
                                     {"Idempotency-Key": key, "Fence": str(fence)})
    try:
        with urllib.request.urlopen(request, timeout=PROVIDER_TIMEOUT) as answer:
            return json.load(answer)["charge"]
    except urllib.error.HTTPError as e:
        error = {402: Declined, 412: Overtaken, 503: Busy}.get(e.code, Unknown)
        raise error(f"the provider answered {e.code}") from e
    except (OSError, ValueError, http.client.HTTPException) as e:
        raise Unknown("the provider's answer was lost") from e


def carry_on(db, principal, key, body, claimed):
    """From where the last attempt stopped, if there was one, to the end.

    Returns the response.  Declined and Busy have been settled when they are
    raised.  After any other error the claim is left to its lease.
    """
    who = {"scope": SCOPE, "principal": principal, "key": key, "fence": claimed["fence"]}
    state = json.loads(claimed["state"])
    if claimed["recovery_point"] != "charged":
        db.execute(CHECKPOINT, {**who, "point": "charging", "state": None})
        try:
            state["charge"] = charge(provider_key(SCOPE, principal, key), claimed["fence"],
                                     {"account": body["account"], "card": body.get("card"),
                                      "amount": state["amount"]})
        except Declined as e:
            db.execute(FAIL, {**who, "error": str(e), "retryable": False})
            raise
        except Busy as e:
            if claimed["recovery_point"] is not None:
                raise Unknown("an earlier attempt may have been charged") from e
            failed = db.execute(FAIL, {**who, "error": str(e), "retryable": True}).fetchone()
            e.retry_after_ms = failed["retry_after_ms"]
            raise
        db.execute(CHECKPOINT, {**who, "point": "charged", "state": json.dumps(state)})
    with db.transaction():
        payment = db.execute("INSERT INTO payment (account, amount, charge)"
                             " VALUES (%s, %s, %s) RETURNING id",
                             (body["account"], state["amount"], state["charge"])).fetchone()
        response = json.dumps({"payment": payment["id"], "amount": state["amount"],
                               "charge": state["charge"]})
        db.execute(FINISH, {**who, "response": response})
    return response
