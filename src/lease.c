/*-------------------------------------------------------------------------
 *
 * lease.c
 *		Leased claims: what their holder may do.
 *
 * claim.c gives a lease, in a row of state "running" that is committed before
 * the work begins.  Whoever comes with the row's fence is its holder, from any
 * connection, in any transaction, also after the lease is over: a holder
 * becomes stale only when somebody takes over or settles.  Both give the row
 * another fence or another state, under the key's lock; so comparing them here,
 * under that lock, decides.  A stale holder is refused, and the row stays as
 * it is.
 *
 * What is written here is as uncommitted as the rest of the transaction; who
 * comes meanwhile finds the row's writer running, and waits for it (or is told
 * to come again).  So a takeover and a finish are ordered like two updates of
 * one row, and assert_fence(), which writes the row as it is, keeps a takeover
 * out until the transaction has ended.
 *
 * What a client will act upon outside the database (a checkpoint, a
 * settlement) is made durable, whatever synchronous_commit says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "errors.h"
#include "fault.h"
#include "key.h"
#include "lease.h"
#include "response.h"
#include "tally.h"
#include "token.h"
#include "watch.h"

#define RECOVERY_POINT_MAX_BYTES 255

COMPAT_FUNCTION_INFO(idempotency_heartbeat);
COMPAT_FUNCTION_INFO(idempotency_checkpoint);
COMPAT_FUNCTION_INFO(idempotency_assert_fence);

/* Is this the row's fence?  One comparison of words, as long for any fence. */
static inline bool
lease_fence_matches(const KeyRow *row, int64 fence)
{
	return FAULT_SKIPS("fence.check") || row->fence == fence;
}

/* Raises ID412: the caller is not, or no longer, the holder. */
void
lease_refuse(const OpenKey *key)
{
	const KeyRow *row = &key->probe.row;

	stats_count(stats_slot(key->identity->scope, key->identity->scope_len),
				STATS_FENCE_REFUSED, 1);
	if (key->probe.own && row->fence == NO_FENCE)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_FENCE_LOST),
				 errmsg("the claim does not carry this fence, in scope \"%.*s\"",
						key->identity->scope_len, key->identity->scope),
				 errdetail("It is a transactional claim of this transaction."),
				 errhint("A transactional claim has no fence; leave it out.")));

	ereport(ERROR,
			(errcode(ERRCODE_IDEM_FENCE_LOST),
			 errmsg("the claim does not carry this fence, in scope \"%.*s\"",
					key->identity->scope_len, key->identity->scope),
			 row->state == KEY_RUNNING ?
			 errdetail("Another attempt holds it.") :
			 row->state == KEY_COMPENSATING ?
			 errdetail("What its attempts did is being undone.") :
			 errdetail("It has been settled."),
			 row->state == KEY_COMPENSATING ?
			 errhint("Stop; the registered steps are undone without this attempt.") :
			 errhint("Undo what this attempt did, or stop; do not settle the operation.")));
}

/*
 * Open the key of a claim that carries this fence, be it running or settled.
 * Raises ID403, ID404, ID412.
 */
void
lease_open(OpenKey *key, Identity *identity, int64 fence)
{
	key_open_wait(key, identity);
	if (key->probe.result == PROBE_NONE)
		key_refuse_unknown(identity);
	if (key->probe.row.fence == NO_FENCE ||
		!lease_fence_matches(&key->probe.row, fence))
		lease_refuse(key);
}

/* Open the key of a claim that is running, and carries this fence. */
void
lease_open_running(OpenKey *key, Identity *identity, int64 fence)
{
	lease_open(key, identity, fence);
	if (key->probe.row.state != KEY_RUNNING)
		lease_refuse(key);
}

/*
 * How long is a running row remembered after its lease, and, unless the settle
 * asks otherwise, after it is settled?  As the claim asked, in microseconds,
 * as far as the policy still allows.
 */
static int64
lease_retention(const OpenKey *key)
{
	const KeyRow *row = &key->probe.row;

	if (row->expires_at == DT_NOEND)
		return key->policy.retention;
	return Min(row->expires_at - row->lease_until, key->policy.retention);
}

/* The retention that a settle asks for, or (0) the claim's.  Raises ID400. */
static int64
lease_asked_retention(const OpenKey *key, int64 asked)
{
	policy_check_retention(&key->policy, key->identity->scope,
						   key->identity->scope_len, asked);
	if (asked != 0)
		token_check_asked_retention(&key->policy, key->identity, asked,
									key->now);
	return asked != 0 ? asked : lease_retention(key);
}

/* Count a settlement, for when it is committed. */
static void
lease_count(const OpenKey *key, StatsCounter counter)
{
	StatsSlot	slot = stats_slot(key->identity->scope,
								  key->identity->scope_len);

	tally_settle(slot, breaker_generation_at(slot, key->probe.row.claimed_at),
				 counter);
}

/*
 * Write the row as settled at "finished_at" (NO_TIME: given up) and remembered
 * for so long from now.  Only what may be tried again keeps what its last
 * attempt has reached.
 */
static void
lease_settle(OpenKey *key, KeyRow *row, TimestampTz finished_at,
			 int64 retention)
{
	keyrow_end_lease(row);
	row->finished_at = finished_at;
	row->expires_at = ring_expiry(key->now, retention);
	if (row->state != KEY_RETRY)
		keyrow_clear_progress(row);
	decision_number_row(&key->policy, row);
	FAULT_POINT("finish.before_update");
	key_replace(key, row);
	if (finished_at == NO_TIME)
	{
		/* the entry is about the attempt that was given up */
		KeyRow		attempt = key->probe.row;

		attempt.event_no = row->event_no;
		(void) decision_key(&key->policy, key->identity, ENTRY_RELEASED,
							&attempt, key->now, NULL);
	}
	else
		(void) decision_key(&key->policy, key->identity,
							failure_decision(row), row, key->now, NULL);
	lease_count(key, finished_at == NO_TIME ? STATS_RELEASED :
				failure_counter(row));
	ForceSyncCommit();
	FAULT_POINT("finish.after_update");
}

/* Delete the row of a claim that leaves nothing but a record. */
static void
lease_delete(OpenKey *key, KeyRow *row, EntryDecision decision,
			 StatsCounter counter)
{
	decision_number_row(&key->policy, row);
	key_delete(key);
	(void) decision_key(&key->policy, key->identity, decision, row, key->now,
						NULL);
	lease_count(key, counter);
}

/* The same fence has settled differently before.  Raises ID412. */
static void
lease_refuse_change(const OpenKey *key)
{
	if (key->probe.row.state == KEY_COMPENSATING)
		lease_refuse(key);
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_FENCE_LOST),
			 errmsg("the claim has been settled differently before, in scope \"%.*s\"",
					key->identity->scope_len, key->identity->scope)));
}

/*
 * Settle a leased claim with a response; arguments and result as in
 * settle_finish().  The same response again is answered.  Raises ID400, ID403,
 * ID404, ID412, ID413.
 */
TimestampTz
lease_finish(Identity *identity, int64 fence, text *response, int64 asked,
			 text *tag)
{
	OpenKey		key;
	KeyRow		row;

	lease_open(&key, identity, fence);
	row = key.probe.row;
	if (row.state == KEY_RUNNING)
	{
		int64		retention = lease_asked_retention(&key, asked);

		policy_check_size("response", (struct varlena *) response,
						  key.policy.max_response_bytes);
		row.state = KEY_SUCCEEDED;
		response_store(&key.policy, identity, &row, response, tag);
		row.error = NULL;
		if (row.saga)
			key_saga.finished(&key, &row);
		lease_settle(&key, &row, key.now, retention);
	}
	else if (row.state != KEY_SUCCEEDED ||
			 !response_repeats(&row, response))
		lease_refuse_change(&key);
	key_close(&key);
	return row.expires_at;
}

/*
 * Settle a leased claim with an error.  The same failure again is answered.
 * Raises ID400, ID403, ID404, ID412.
 */
void
lease_fail(Identity *identity, int64 fence, const Failure *failure,
		   FailureAnswer *answer)
{
	OpenKey		key;
	KeyRow		row;

	lease_open(&key, identity, fence);
	row = key.probe.row;
	if (row.state != KEY_RUNNING)
	{
		if (!failure_repeats(&row, failure, key.now, answer))
			lease_refuse_change(&key);
	}
	else if (row.saga && failure_is_final(&key.policy, failure, &row))
	{
		key_saga.failed(&key, &row,
						failure->retryable ? "exhausted" : "failed",
						failure->error);
		lease_count(&key, STATS_FAILED);
		failure_answer(&row, key.now, answer);
	}
	else if (!failure->retryable && !key.policy.store_failures)
	{
		failure_released(&row, answer);
		lease_delete(&key, &row, ENTRY_FAILED, STATS_FAILED);
		ForceSyncCommit();
	}
	else
	{
		int64		retention = lease_asked_retention(&key,
													  failure->retention);

		failure_apply(&key.policy, failure, key.now, retention, &row, answer);
		lease_settle(&key, &row, key.now, retention);
	}
	key_close(&key);
}

/*
 * Give a leased claim up, as if it had never been made: an attempt that
 * followed another leaves that one's row, to be tried again at once.  Returns
 * false if nothing is remembered, or if that is what it has left already.
 * Raises ID403, ID412.
 */
bool
lease_release(Identity *identity, int64 fence)
{
	OpenKey		key;
	KeyRow		row;

	key_open_wait(&key, identity);
	row = key.probe.row;
	if (key.probe.result == PROBE_NONE ||
		(row.state == KEY_RETRY && row.finished_at == NO_TIME &&
		 lease_fence_matches(&row, fence)))
	{
		key_close(&key);
		return false;
	}
	if (row.state != KEY_RUNNING || !lease_fence_matches(&row, fence))
		lease_refuse(&key);
	if (row.attempt == 1 && !row.saga)
		lease_delete(&key, &row, ENTRY_RELEASED, STATS_RELEASED);
	else
	{
		int64		retention = lease_retention(&key);

		row.state = KEY_RETRY;
		row.attempt--;
		row.retry_at = key.now;
		lease_settle(&key, &row, NO_TIME, retention);
	}
	key_close(&key);
	return true;
}

/*
 * Extend a lease to end "lease" microseconds from now; its row moves on with
 * it.  Returns its new end.
 */
static TimestampTz
lease_heartbeat(Identity *identity, int64 fence, int64 lease)
{
	OpenKey		key;
	KeyRow		row;
	int64		retention;

	lease_open_running(&key, identity, fence);
	FAULT_POINT("heartbeat.after_lock");
	policy_check_lease(&key.policy, identity->scope, identity->scope_len,
					   lease);
	row = key.probe.row;
	retention = lease_retention(&key);
	row.lease_until = key.now + lease;
	row.expires_at = ring_expiry(row.lease_until, retention);
	key_replace(&key, &row);
	key_close(&key);
	return row.lease_until;
}

/*
 * The identity and the fence that all functions of a holder begin with, the
 * principal being their last argument.  Raises ID400.
 */
static int64
lease_arguments(FunctionCallInfo fcinfo, Identity *identity)
{
	identity_make(identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(PG_NARGS() - 1),
				  TEXT_ARGUMENT(1));
	watch_scope(identity->scope, identity->scope_len);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("fence must not be null"),
				 errhint("Pass the fence that claim() has answered.")));
	return PG_GETARG_INT64(2);
}

/*
 * heartbeat(scope text, key text, fence bigint, lease interval,
 *			 principal text) returns timestamptz
 */
static Datum
heartbeat_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	int64		fence;
	int64		lease;
	TimestampTz until;

	catalog_check_writable("heartbeat()");
	fence = lease_arguments(fcinfo, &identity);
	lease = policy_lease_argument("lease", PG_ARGISNULL(3) ? NULL :
								  PG_GETARG_INTERVAL_P(3));
	until = lease_heartbeat(&identity, fence, lease);
	watch_answer("held", NULL, fence, 0);
	PG_RETURN_TIMESTAMPTZ(until);
}

WATCH_FUNCTION(idempotency_heartbeat, STATS_HEARTBEAT, heartbeat_call);

/* {"recovery_point": ...}, as an entry's detail. */
static char *
lease_recovery_point(const text *point)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"recovery_point\": ");
	escape_json(&json, text_to_cstring(point));
	appendStringInfoChar(&json, '}');
	return json.data;
}

/*
 * checkpoint(scope text, key text, fence bigint, recovery_point text,
 *			  state text, principal text) returns boolean
 */
static Datum
checkpoint_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	int64		fence;
	text	   *point = TEXT_ARGUMENT(3);
	text	   *state = TEXT_ARGUMENT(4);
	OpenKey		key;
	KeyRow		row;

	catalog_check_writable("checkpoint()");
	fence = lease_arguments(fcinfo, &identity);
	if (point == NULL || VARSIZE_ANY_EXHDR(point) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("recovery_point must not be null or empty")));
	policy_check_size("recovery_point", (struct varlena *) point,
					  RECOVERY_POINT_MAX_BYTES);

	lease_open_running(&key, &identity, fence);
	policy_check_size("state", (struct varlena *) state,
					  key.policy.max_state_bytes);
	row = key.probe.row;
	row.recovery_point = (struct varlena *) point;
	if (state)
		row.saved_state = (struct varlena *) state;
	decision_number_row(&key.policy, &row);
	key_replace(&key, &row);
	(void) decision_key(&key.policy, &identity, ENTRY_CHECKPOINT, &row,
						key.now, lease_recovery_point(point));
	ForceSyncCommit();
	key_close(&key);
	watch_answer("held", NULL, fence, 0);
	PG_RETURN_BOOL(true);
}

WATCH_FUNCTION(idempotency_checkpoint, STATS_CHECKPOINT, checkpoint_call);

/*
 * assert_fence(scope text, key text, fence bigint, principal text)
 *		returns boolean
 */
static Datum
assert_fence_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	int64		fence;
	OpenKey		key;

	catalog_check_writable("assert_fence()");
	fence = lease_arguments(fcinfo, &identity);
	lease_open_running(&key, &identity, fence);
	key_replace(&key, &key.probe.row);
	key_close(&key);
	watch_answer("held", NULL, fence, 0);
	PG_RETURN_BOOL(true);
}

WATCH_FUNCTION(idempotency_assert_fence, STATS_ASSERT_FENCE, assert_fence_call);
