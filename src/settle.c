/*-------------------------------------------------------------------------
 *
 * settle.c
 *		Settling a claim: finish, fail, release.
 *
 * A transactional claim can be settled only by the transaction that made it,
 * and its row is where txn.c remembers it.  Nothing is searched for, except to
 * tell a caller who holds nothing why.  A caller who passes a fence means a
 * leased claim; lease.c settles those.
 *
 * Retention counts from the moment of the settlement, which can move the row
 * into another table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "answer.h"
#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "errors.h"
#include "failure.h"
#include "fault.h"
#include "key.h"
#include "lease.h"
#include "response.h"
#include "settle.h"
#include "tag.h"
#include "tally.h"
#include "token.h"
#include "txn.h"
#include "watch.h"

COMPAT_FUNCTION_INFO(idempotency_finish);
COMPAT_FUNCTION_INFO(idempotency_fail);
COMPAT_FUNCTION_INFO(idempotency_release);

/* a settlement under way: from settle_begin() to settle_end() */
typedef struct Settle
{
	Identity   *identity;
	Policy		policy;
	TxnClaim   *claim;			/* held by this transaction */
	Store		store;
	bool		locked;			/* the key is */
	TimestampTz now;
	KeyRow		row;			/* as it is stored */
} Settle;

/*
 * Tell a caller who holds no claim on the key why.  Raises ID403, ID404 if
 * nobody has, or had, one, else ID412; returns only if there is nothing and
 * the caller doesn't mind.
 */
static void
settle_refuse_stranger(Identity *identity, bool nothing_is_fine)
{
	OpenKey		key;

	key_open(&key, identity);
	key_close(&key);
	if (key.probe.result == PROBE_NONE)
	{
		if (!nothing_is_fine)
			key_refuse_unknown(identity);
		return;
	}
	if (key.probe.result == PROBE_ROW && key.probe.row.state == KEY_RUNNING)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_FENCE_LOST),
				 errmsg("the claim is leased, and its fence is missing, in scope \"%.*s\"",
						identity->scope_len, identity->scope),
				 errhint("Pass the fence that claim() has answered.")));
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_FENCE_LOST),
			 errmsg("this transaction does not hold the claim, in scope \"%.*s\"",
					identity->scope_len, identity->scope),
			 key.probe.result == PROBE_BUSY ?
			 errdetail("Another transaction holds it.") :
			 errdetail("It has been settled."),
			 errhint("Settle only after claim() has answered \"execute\", in the same transaction; a leased claim, with its fence.")));
}

/*
 * Until when is the key remembered that is settled at this moment?  After the
 * scope has moved to another ring, no longer than was promised when it was
 * claimed: that is how long others look into the old one.
 */
static TimestampTz
settle_expiry(const Settle *settle, TimestampTz now, int64 retention)
{
	const TxnClaimState *state = &settle->claim->state;

	if (policy_ring(&settle->policy) != state->ring)
		return ring_expiry(state->claimed_at,
						   Min(retention, state->retention));
	return ring_expiry(now, retention);
}

/* Take the key's lock, unless it is taken. */
static void
settle_lock(Settle *settle)
{
	if (!settle->locked)
		identity_lock(settle->claim->identity);
	settle->locked = true;
}

/* Release the key's lock, if it is taken. */
static void
settle_unlock(Settle *settle)
{
	if (settle->locked)
		identity_unlock(identity_id(settle->claim->identity));
	settle->locked = false;
}

/*
 * Open the segments that the row is in and will be in, and read the clock;
 * take the key's lock if they differ.  Retention can move the row; if the
 * clock has moved past an epoch meanwhile, begin again.
 */
static void
settle_open(Settle *settle, int64 retention)
{
	const TxnClaimState *state = &settle->claim->state;

	for (;;)
	{
		Segment		segments[2];

		segments[0] = state->place.segment;
		segments[1] = ring_segment_at(state->ring,
									  settle_expiry(settle, clock_now(),
													retention));
		store_open_segments(&settle->store, segments, lengthof(segments));
		if (segments[0] != segments[1])
			settle_lock(settle);
		settle->now = clock_now();
		if (ring_segment_at(state->ring,
							settle_expiry(settle, settle->now,
										  retention)) == segments[1])
			break;
		settle_unlock(settle);
		store_close(&settle->store);
	}
	store_fetch(&settle->store, &state->place, &settle->row);
}

/*
 * Begin to settle: check that this transaction holds the claim.  Takes the
 * policy lock.  Raises ID403, ID404, ID412.
 */
static void
settle_begin(Settle *settle, Identity *identity)
{
	settle->identity = identity;
	settle->locked = false;
	policy_lock();
	policy_get(identity->scope, identity->scope_len, &settle->policy);
	policy_check_role(&settle->policy, identity->scope, identity->scope_len);
	settle->claim = txn_find(identity);
	if (settle->claim == NULL || !settle->claim->state.held)
		settle_refuse_stranger(identity, false);
}

/*
 * How long the settled key is remembered: what the settle asks for, or (0) as
 * the claim did.  Raises ID400.
 */
static int64
settle_retention(const Settle *settle, int64 asked)
{
	policy_check_retention(&settle->policy, settle->identity->scope,
						   settle->identity->scope_len, asked);
	if (asked != 0)
	{
		token_check_asked_retention(&settle->policy, settle->identity, asked,
									clock_now());
		return asked;
	}
	return Min(settle->claim->state.retention, settle->policy.retention);
}

/*
 * Record the settlement.  Whether it is recorded was settled by the claim,
 * which numbered the event.
 */
static void
settle_record(Settle *settle, EntryDecision decision, const KeyRow *row,
			  TimestampTz now)
{
	const TxnClaimState *state = &settle->claim->state;

	if (!state->audited)
		return;
	if (settle->policy.audit == AUDIT_OFF)
		settle->policy.audit = AUDIT_DECISIONS;
	decision_supersede(decision_key(&settle->policy, settle->claim->identity,
									decision, row, now, NULL),
					   state->decision);
}

/* Count the settlement, for when it is committed. */
static void
settle_count(const Identity *identity, TimestampTz claimed_at,
			 StatsCounter counter)
{
	StatsSlot	slot = stats_slot(identity->scope, identity->scope_len);

	tally_settle(slot, breaker_generation_at(slot, claimed_at), counter);
}

/*
 * Write the settled row and note it; then let go of everything.
 */
static void
settle_write(Settle *settle, int64 retention)
{
	TxnClaimState state = settle->claim->state;
	Segment		segment;

	if (settle->row.state != KEY_RETRY)
		keyrow_clear_progress(&settle->row);
	settle->row.finished_at = settle->now;
	settle->row.expires_at = settle_expiry(settle, settle->now, retention);
	segment = ring_segment_at(state.ring, settle->row.expires_at);
	FAULT_POINT("finish.before_update");
	if (segment == state.place.segment)
		state.place = store_rewrite(&settle->store, settle->claim->identity,
									&settle->row, &state.place);
	else
		state.place = store_replace(&settle->store, settle->claim->identity,
									&settle->row, segment, &state.place);
	settle_record(settle, settle->row.state == KEY_SUCCEEDED ?
				  ENTRY_EXECUTED : failure_decision(&settle->row),
				  &settle->row, settle->now);
	state.settled = true;
	txn_change(settle->claim, &state);
	settle_count(settle->identity, settle->row.claimed_at,
				 failure_counter(&settle->row));
	FAULT_POINT("finish.after_update");
}

/* Let go of the key's lock, the tables and the policy. */
static void
settle_end(Settle *settle)
{
	settle_unlock(settle);
	store_close(&settle->store);
	policy_unlock();
}

/*
 * The claim has been settled before, in this transaction: the same again is
 * answered, anything else is refused.  Raises ID412.
 */
static void
settle_again(const Settle *settle, bool same)
{
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_FENCE_LOST),
				 errmsg("the claim has been settled differently before, in scope \"%.*s\"",
						settle->identity->scope_len,
						settle->identity->scope)));
}

/*
 * Settle with a response: asked is a retention in microseconds, or 0 for the
 * claim's; the tag may be NULL.  Returns until when the key is remembered,
 * and, unless it is NULL, fills in when it was settled.  Raises ID400, ID403,
 * ID404, ID412, ID413.
 */
TimestampTz
settle_finish(Identity *identity, text *response, int64 asked, text *tag,
			  TimestampTz *finished_at)
{
	Settle		settle;
	int64		retention;

	settle_begin(&settle, identity);
	policy_check_size("response", (struct varlena *) response,
					  settle.policy.max_response_bytes);
	retention = settle_retention(&settle, asked);
	settle_open(&settle, retention);
	if (settle.claim->state.settled)
		settle_again(&settle, settle.row.state == KEY_SUCCEEDED &&
					 response_repeats(&settle.row, response));
	else
	{
		response_store(&settle.policy, identity, &settle.row, response, tag);
		settle.row.error = NULL;
		settle_write(&settle, retention);
	}
	settle_end(&settle);
	if (finished_at)
		*finished_at = settle.row.finished_at;
	return settle.row.expires_at;
}

/*
 * Give the key up as if it had never been claimed, but for the event's number,
 * and count and record that.
 */
static void
settle_release_row(Settle *settle, EntryDecision decision,
				   StatsCounter counter)
{
	TxnClaimState state = settle->claim->state;
	KeyRow		row;

	store_fetch(&settle->store, &state.place, &row);
	settle_record(settle, decision, &row, clock_now());
	settle_lock(settle);
	if (state.had_row)
	{
		KeyRow		before;

		store_fetch(&settle->store, &state.before, &before);
		before.event_no = row.event_no;
		(void) store_replace(&settle->store, settle->claim->identity, &before,
							 state.before.segment, &state.place);
	}
	else
		store_delete(&settle->store, &state.place);
	state.held = false;
	txn_change(settle->claim, &state);
	settle_count(settle->identity, state.claimed_at, counter);
}

/* Settle with an error. */
static void
settle_fail(Identity *identity, const Failure *failure, FailureAnswer *answer)
{
	Settle		settle;
	int64		retention;

	settle_begin(&settle, identity);
	retention = settle_retention(&settle, failure->retention);
	settle_open(&settle, retention);
	if (settle.claim->state.settled)
		settle_again(&settle, failure_repeats(&settle.row, failure, settle.now,
											  answer));
	else if (!failure->retryable && !settle.policy.store_failures)
	{
		failure_released(&settle.row, answer);
		settle_release_row(&settle, ENTRY_FAILED, STATS_FAILED);
	}
	else
	{
		failure_apply(&settle.policy, failure, settle.now, retention,
					  &settle.row, answer);
		settle_write(&settle, retention);
	}
	settle_end(&settle);
}

/*
 * Give a claim of this transaction up.  Returns false if there is none.
 * Raises ID412 if it is settled or another's.
 */
static bool
settle_release(Identity *identity)
{
	Settle		settle;

	settle.identity = identity;
	settle.locked = false;
	policy_lock();
	policy_get(identity->scope, identity->scope_len, &settle.policy);
	policy_check_role(&settle.policy, identity->scope, identity->scope_len);
	settle.claim = txn_find(identity);
	if (settle.claim == NULL || !settle.claim->state.held)
	{
		settle_refuse_stranger(identity, true);
		policy_unlock();
		return false;
	}
	if (settle.claim->state.settled)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_FENCE_LOST),
				 errmsg("a settled claim cannot be released, in scope \"%.*s\"",
						identity->scope_len, identity->scope),
				 errhint("An operator can forget() it.")));

	if (settle.claim->state.had_row)
	{
		Segment		segments[2];

		segments[0] = settle.claim->state.place.segment;
		segments[1] = settle.claim->state.before.segment;
		store_open_segments(&settle.store, segments, lengthof(segments));
	}
	else
		store_open_segments(&settle.store,
							&settle.claim->state.place.segment, 1);
	settle_release_row(&settle, ENTRY_RELEASED, STATS_RELEASED);
	settle_end(&settle);
	return true;
}

/*
 * finish(scope text, key text, response text, fence bigint,
 *		  retention interval, tag text, principal text) returns timestamptz
 */
static Datum
finish_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	text	   *tag = TEXT_ARGUMENT(5);
	int64		retention = PG_ARGISNULL(4) ? 0 :
		policy_retention_argument(PG_GETARG_INTERVAL_P(4));
	int64		fence = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT64(3);
	TimestampTz expires_at;

	catalog_check_writable("finish()");
	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(6),
				  TEXT_ARGUMENT(1));
	watch_scope(identity.scope, identity.scope_len);
	tag_check(tag);
	if (!PG_ARGISNULL(3))
		expires_at = lease_finish(&identity, fence, TEXT_ARGUMENT(2),
								  retention, tag);
	else
		expires_at = settle_finish(&identity, TEXT_ARGUMENT(2), retention,
								   tag, NULL);
	watch_answer("finished", NULL, fence, 0);
	PG_RETURN_TIMESTAMPTZ(expires_at);
}

WATCH_FUNCTION(idempotency_finish, STATS_FINISH, finish_call);

/* The arguments of fail() behind scope and key.  Raises ID400, ID413. */
static void
settle_failure_arguments(FunctionCallInfo fcinfo, Failure *failure)
{
	failure->error = TEXT_ARGUMENT(2);
	failure->retryable = PG_ARGISNULL(3) || PG_GETARG_BOOL(3);
	failure->retry_after_ms = PG_ARGISNULL(5) ? -1 : PG_GETARG_INT64(5);
	failure->retention = PG_ARGISNULL(6) ? 0 :
		policy_retention_argument(PG_GETARG_INTERVAL_P(6));
	policy_check_size("error", (struct varlena *) failure->error,
					  ERROR_MAX_BYTES);
	if (!PG_ARGISNULL(5) &&
		(failure->retry_after_ms < 0 ||
		 failure->retry_after_ms > BACKOFF_MAX / USECS_PER_MSEC))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("retry_after_ms must be between 0 and 60 days")));
}

/*
 * fail(scope text, key text, error text, retryable boolean, fence bigint,
 *		retry_after_ms bigint, retention interval, principal text)
 *		returns record
 */
static Datum
fail_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	Failure		failure;
	FailureAnswer answer;
	Datum		values[3];
	bool		isnull[3] = {false, false, false};
	TupleDesc	desc;

	catalog_check_writable("fail()");
	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(7),
				  TEXT_ARGUMENT(1));
	watch_scope(identity.scope, identity.scope_len);
	settle_failure_arguments(fcinfo, &failure);
	if (!PG_ARGISNULL(4))
		lease_fail(&identity, PG_GETARG_INT64(4), &failure, &answer);
	else
		settle_fail(&identity, &failure, &answer);

	watch_answer(answer.outcome, NULL,
				 PG_ARGISNULL(4) ? 0 : PG_GETARG_INT64(4), answer.attempt);
	values[0] = CStringGetTextDatum(answer.outcome);
	values[1] = Int32GetDatum(answer.attempt);
	values[2] = Int64GetDatum(answer.retry_after_ms);
	isnull[2] = answer.retry_after_ms < 0;
	desc = catalog_result_desc(fcinfo);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, isnull)));
}

WATCH_FUNCTION(idempotency_fail, STATS_FAIL, fail_call);

/*
 * release(scope text, key text, fence bigint, principal text)
 *		returns boolean
 */
static Datum
release_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	int64		fence = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
	bool		released;

	catalog_check_writable("release()");
	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(3),
				  TEXT_ARGUMENT(1));
	watch_scope(identity.scope, identity.scope_len);
	if (!PG_ARGISNULL(2))
		released = lease_release(&identity, fence);
	else
		released = settle_release(&identity);
	watch_answer(released ? "released" : "nothing", NULL, fence, 0);
	PG_RETURN_BOOL(released);
}

WATCH_FUNCTION(idempotency_release, STATS_RELEASE, release_call);
