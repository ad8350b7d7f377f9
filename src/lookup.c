/*-------------------------------------------------------------------------
 *
 * lookup.c
 *		Reading what is remembered of a key: peek and await.
 *
 * Nothing is locked but tables, and only against rotation, so both work in a
 * read-only transaction and on a standby.  peek() reads with the statement's
 * snapshot; await() with a new one each time it looks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "claim.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "guc.h"
#include "response.h"
#include "txn.h"

/* await() looks again after this many ms: doubling, up to a limit */
#define AWAIT_POLL_MIN 2
#define AWAIT_POLL_MAX 64

/* claim()'s columns, then the fingerprint */
#define LOOKUP_COLUMNS (ANSWER_COLUMNS + 1)

COMPAT_FUNCTION_INFO(idempotency_peek);
COMPAT_FUNCTION_INFO(idempotency_await);

typedef enum LookupResult
{
	LOOKUP_NONE,				/* nothing is remembered */
	LOOKUP_UNSETTLED,			/* somebody is at it, or may try again */
	LOOKUP_SETTLED
} LookupResult;

typedef struct Lookup
{
	LookupResult result;
	Answer		answer;
	bool		has_fingerprint;
	uint8		fingerprint[DIGEST_LENGTH];
} Lookup;

/* Take over what a claim's answer doesn't tell a duplicate. */
static void
lookup_more(Lookup *lookup, const KeyRow *row)
{
	lookup->answer.recovery_point = store_detoast(row->recovery_point);
	lookup->answer.state = store_detoast(row->saved_state);
	lookup->has_fingerprint = row->has_fingerprint;
	memcpy(lookup->fingerprint, row->fingerprint, DIGEST_LENGTH);
}

/*
 * A leased row: what claim() would answer to a duplicate, and how far its
 * holder has come; "lease_expired" if the next claim would take it over.
 */
static void
lookup_running(Lookup *lookup, const Policy *policy, Probe *probe,
			   TimestampTz now)
{
	ClaimRequest duplicate = {0};
	Answer	   *answer = &lookup->answer;

	if (!claim_decide(&duplicate, policy, probe, now, answer))
	{
		if (policy->on_lease_expiry == LEASE_FORGET)
			return;
		answer_running(answer, &probe->row, now);
		answer->reason = "lease_expired";
	}
	answer->expires_at = probe->row.expires_at;
	lookup->result = answer->outcome == OUTCOME_EXHAUSTED ?
		LOOKUP_SETTLED : LOOKUP_UNSETTLED;
	lookup_more(lookup, &probe->row);
}

/*
 * A row that has succeeded, and what stands of its response.  Where a claim
 * would execute again, that is a replay without a response, and the reason.
 */
static void
lookup_succeeded(Lookup *lookup, const Policy *policy, Probe *probe,
				 TimestampTz now)
{
	KeyRow		row = probe->row;
	ResponseView view;

	response_view(policy, &probe->found, &row, now, &view);
	if (view.again || !view.shown)
		row.response = NULL;
	answer_from_row(&lookup->answer, OUTCOME_REPLAY, &row);
	lookup->answer.reason = view.reason;
}

/* What a row that counts says: what claim() would answer to a duplicate. */
static void
lookup_answer(Lookup *lookup, const Policy *policy, Probe *probe,
			  TimestampTz now)
{
	TxnClaim   *note = probe->own ? txn_find(&probe->found) : NULL;
	Outcome		outcome = OUTCOME_REPLAY;

	if (probe->row.state == KEY_RUNNING ||
		probe->row.state == KEY_COMPENSATING)
	{
		lookup_running(lookup, policy, probe, now);
		return;
	}
	lookup->result = LOOKUP_SETTLED;
	if (note && note->state.held && !note->state.settled)
	{
		outcome = OUTCOME_IN_PROGRESS;
		lookup->result = LOOKUP_UNSETTLED;
	}
	else if (probe->row.state == KEY_RETRY)
	{
		outcome = OUTCOME_RETRY_LATER;
		lookup->result = LOOKUP_UNSETTLED;
	}
	else if (probe->row.state == KEY_EXHAUSTED)
		outcome = OUTCOME_EXHAUSTED;

	if (outcome == OUTCOME_REPLAY && probe->row.state == KEY_SUCCEEDED)
		lookup_succeeded(lookup, policy, probe, now);
	else
		answer_from_row(&lookup->answer, outcome, &probe->row);
	if (outcome == OUTCOME_IN_PROGRESS)
		lookup->answer.reason = "own_transaction";
	if (outcome == OUTCOME_RETRY_LATER)
		answer_backoff(&lookup->answer, &probe->row, now);
	lookup_more(lookup, &probe->row);
}

/*
 * Read the key with a snapshot; NULL sees what is being written, too, and
 * answers in_progress for it.  Raises ID403.
 */
static void
lookup_key(Identity *identity, Snapshot snapshot, Lookup *lookup)
{
	Policy		policy;
	Store		store;
	Probe		probe;
	TimestampTz now;

	memset(lookup, 0, sizeof(*lookup));
	policy_lock();
	policy_get(identity->scope, identity->scope_len, &policy);
	policy_check_role(&policy, identity->scope, identity->scope_len);
	store_open(&store, &policy, AccessShareLock, snapshot);
	now = clock_now();
	store_probe(&store, identity, now, &probe);
	if (probe.result == PROBE_BUSY)
	{
		lookup->result = LOOKUP_UNSETTLED;
		claim_answer_busy(&lookup->answer);
	}
	else if (probe.result == PROBE_ROW &&
			 (probe.own || !keyrow_is_expired(&probe.row, now)))
		lookup_answer(lookup, &policy, &probe, now);
	store_close(&store);
	policy_unlock();
}

/* Return the row, or none. */
static void
lookup_put(FunctionCallInfo fcinfo, const Lookup *lookup)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[LOOKUP_COLUMNS];
	bool		isnull[LOOKUP_COLUMNS];

	InitMaterializedSRF(fcinfo, 0);
	if (lookup->result == LOOKUP_NONE)
		return;
	answer_values(&lookup->answer, values, isnull);
	isnull[ANSWER_COLUMNS] = !lookup->has_fingerprint;
	if (lookup->has_fingerprint)
	{
		bytea	   *fingerprint = palloc(VARHDRSZ + DIGEST_LENGTH);

		SET_VARSIZE(fingerprint, VARHDRSZ + DIGEST_LENGTH);
		memcpy(VARDATA(fingerprint), lookup->fingerprint, DIGEST_LENGTH);
		values[ANSWER_COLUMNS] = PointerGetDatum(fingerprint);
	}
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/* Read the latest committed state of the key. */
static void
lookup_latest(Identity *identity, Lookup *lookup)
{
	PushActiveSnapshot(GetLatestSnapshot());
	lookup_key(identity, GetActiveSnapshot(), lookup);
	PopActiveSnapshot();
}

/* Look again and again until the key is settled or the time is over. */
static void
lookup_await(Identity *identity, int64 timeout, Lookup *lookup)
{
	TimestampTz deadline = GetCurrentTimestamp() + timeout;
	static uint32 wait_event = 0;
	long		nap = AWAIT_POLL_MIN;

	for (;;)
	{
		TimestampTz now;

		CHECK_FOR_INTERRUPTS();
		lookup_latest(identity, lookup);
		now = GetCurrentTimestamp();
		if (lookup->result == LOOKUP_SETTLED || now >= deadline)
			break;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(nap, (deadline - now) / USECS_PER_MSEC + 1),
						 compat_wait_event(&wait_event,
										   "IdempotencyAwait"));
		ResetLatch(MyLatch);
		nap = Min(nap * 2, AWAIT_POLL_MAX);
	}
	if (lookup->result == LOOKUP_NONE)
		lookup_key(identity, NULL, lookup);
}

/* peek(scope text, key text, principal text) returns setof record */
Datum
idempotency_peek(PG_FUNCTION_ARGS)
{
	Identity	identity;
	Lookup		lookup;

	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(2),
				  TEXT_ARGUMENT(1));
	lookup_key(&identity, GetActiveSnapshot(), &lookup);
	lookup_put(fcinfo, &lookup);
	return (Datum) 0;
}

/*
 * await(scope text, key text, timeout interval, principal text)
 *		returns setof record
 */
Datum
idempotency_await(PG_FUNCTION_ARGS)
{
	Identity	identity;
	Lookup		lookup;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("timeout must not be null")));
	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(3),
				  TEXT_ARGUMENT(1));
	lookup_await(&identity, policy_wait_argument("timeout", PG_GETARG_INTERVAL_P(2)),
				 &lookup);
	lookup_put(fcinfo, &lookup);
	return (Datum) 0;
}
