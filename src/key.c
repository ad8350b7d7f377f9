/*-------------------------------------------------------------------------
 *
 * key.c
 *		One key, locked and looked up, to be written by another than a claim:
 *		by whoever holds its lease, or by an operator.
 *
 * Locking: between key_open() and key_close() the policy, the tables in which
 * the key can be and the key itself are locked, in this order, as in claim.c;
 * an error in between releases all, with its (sub)transaction.  Nothing is
 * locked while another transaction is waited for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/timestamp.h"

#include "errors.h"
#include "key.h"
#include "trace.h"
#include "txn.h"

KeySaga		key_saga;

/*
 * Lock the key and look it up, on nobody's behalf: whether the role may use the
 * scope isn't asked.  What has expired counts as nothing; the row of another
 * running transaction is PROBE_BUSY.  Raises what store_probe() does.
 */
void
key_open_trusted(OpenKey *key, Identity *identity)
{
	key->identity = identity;
	policy_lock();
	policy_get(identity->scope, identity->scope_len, &key->policy);
	store_open_locked(&key->store, &key->policy, identity, &key->now);
	store_probe(&key->store, identity, key->now, &key->probe);
	if (key->probe.result == PROBE_ROW && !key->probe.own &&
		keyrow_is_expired(&key->probe.row, key->now))
		key->probe.result = PROBE_NONE;
}

/* The same on the current role's behalf.  Raises also ID403. */
void
key_open(OpenKey *key, Identity *identity)
{
	key_open_trusted(key, identity);
	policy_check_role(&key->policy, identity->scope, identity->scope_len);
}

/*
 * The same, but wait, as for a row's lock, until no other transaction has its
 * hand on the key.  Raises also 55P03 and 40P01.
 */
void
key_open_wait(OpenKey *key, Identity *identity)
{
	for (;;)
	{
		TimestampTz began;
		int64		step;

		key_open(key, identity);
		if (key->probe.result != PROBE_BUSY)
			return;
		key_close(key);
		began = GetCurrentTimestamp();
		step = trace_begin();
		XactLockTableWait(key->probe.busy_xid, NULL, NULL, XLTW_None);
		trace_end(TRACE_HOLDER_WAIT, step);
		identity_waited += GetCurrentTimestamp() - began;
	}
}

/*
 * Replace the row that was found.  If it expires at another time now, which is
 * in the policy's reach, it goes to the table for that; else it stays in its
 * table, also if the policy has changed since and would choose another.
 */
void
key_replace(OpenKey *key, KeyRow *row)
{
	Segment		segment = key->probe.place.segment;

	if (row->expires_at != key->probe.row.expires_at)
		segment = ring_segment_at(policy_ring(&key->policy), row->expires_at);
	key->probe.place = store_replace(&key->store, key->identity, row, segment,
									 &key->probe.place);
	txn_wrote_unnoted();
}

/* Delete the row that was found. */
void
key_delete(OpenKey *key)
{
	store_delete(&key->store, &key->probe.place);
	txn_wrote_unnoted();
}

/* Let go of everything. */
void
key_close(OpenKey *key)
{
	identity_unlock(identity_id(key->identity));
	store_close(&key->store);
	policy_unlock();
}

/* Raises ID404. */
void
key_refuse_unknown(const Identity *identity)
{
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_NOT_FOUND),
			 errmsg("there is no claim to settle, in scope \"%.*s\"",
					identity->scope_len, identity->scope),
			 errhint("A transactional claim is settled in the transaction that called claim(), and undone by a rollback, also to a savepoint; a leased one is remembered for its retention after the lease.")));
}
