/*-------------------------------------------------------------------------
 *
 * claim.c
 *		The protocol by which a claim is decided.
 *
 *	1  lock: the policy, the tables in which the key can be, then the key
 *	2  probe those tables by id, seeing what others are writing
 *	3  another running or prepared transaction is writing the row: let go of
 *	   all locks, then answer in_progress, or wait for that transaction and
 *	   begin again
 *	4  a row that counts: answer by it; none, or one that may be tried again:
 *	   write ours
 *	5  release the key's lock; from here on the row's own xmin guards it
 *
 * A transactional claim inserts its row as "succeeded".  Others see it only
 * once the transaction has committed, so commit is completion, and a crash, a
 * rollback or a ROLLBACK TO is release.  MVCC is the state machine.
 *
 * Losing a race never raises an error (SQLSTATE 40001 and 40P01 excepted):
 * outcomes are rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "claim.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "guc.h"
#include "txn.h"

/* a bounded wait looks again after this many ms: doubling, up to a limit */
#define WAIT_POLL_MIN 1
#define WAIT_POLL_MAX 16

COMPAT_FUNCTION_INFO(idempotency_claim);
COMPAT_FUNCTION_INFO(idempotency_claim_or_raise);
COMPAT_FUNCTION_INFO(idempotency_once);

/* A request for a claim by the policy's terms.  Raises ID400. */
void
claim_request_init(ClaimRequest *claim, text *scope, text *key, text *request,
				   text *principal)
{
	memset(claim, 0, sizeof(*claim));
	identity_make(&claim->identity, scope, principal, key);
	claim->request = request;
}

/* Check what the caller asks for against the policy.  Raises ID400, ID413. */
static void
claim_check(const ClaimRequest *claim, const Policy *policy)
{
	identity_check_key(&claim->identity, policy->max_key_bytes);
	if (claim->request == NULL && policy->require_request)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("scope \"%.*s\" requires a request with every claim",
						claim->identity.scope_len, claim->identity.scope),
				 errhint("Pass what the client asked for as \"request\", so that a key used for another request is found out.")));
	if (claim->request &&
		VARSIZE_ANY_EXHDR(claim->request) > policy->max_request_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_TOO_LARGE),
				 errmsg("request is too large"),
				 errdetail("It has %zu bytes; the limit of scope \"%.*s\" is %d.",
						   VARSIZE_ANY_EXHDR(claim->request),
						   claim->identity.scope_len, claim->identity.scope,
						   policy->max_request_bytes)));
	if (claim->has_retention && claim->retention > policy->retention)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("retention is longer than the policy of scope \"%.*s\" allows",
						claim->identity.scope_len, claim->identity.scope),
				 errhint("Ask for less, or raise the scope's retention with configure().")));
}

/*
 * Check the request against a policy just read, and, the first time, compute
 * its fingerprint.  Raises ID400, ID413.
 */
void
claim_prepare_more(ClaimRequest *claim, const Policy *policy)
{
	claim_check(claim, policy);
	if (!claim->has_wait)
		claim->wait = policy->wait;
	if (!claim->has_retention)
		claim->retention = policy->retention;
	if (claim->request && !claim->has_fingerprint)
	{
		canonical_fingerprint(VARDATA_ANY(claim->request),
							  VARSIZE_ANY_EXHDR(claim->request),
							  policy->exclude, claim->fingerprint);
		claim->has_fingerprint = true;
	}
}

/*
 * Take the policy lock, read the scope's policy, and check the request
 * against it.  Raises ID400, ID403, ID413.
 */
void
claim_prepare(ClaimRequest *claim, Policy *policy)
{
	policy_lock();
	policy_get(claim->identity.scope, claim->identity.scope_len, policy);
	policy_check_role(policy, claim->identity.scope,
					  claim->identity.scope_len);
	claim_prepare_more(claim, policy);
}

/* Nothing is remembered of the key.  Could the operation be older than that? */
static bool
claim_decide_unknown(const ClaimRequest *claim, TimestampTz now,
					 Answer *answer)
{
	if (!claim->has_first_sent || claim->retention == RETENTION_FOREVER ||
		claim->first_sent > now - claim->retention)
		return false;
	answer_init(answer, OUTCOME_EXPIRED);
	return true;
}

/* A row that succeeded, or is about to if it is our own. */
static void
claim_decide_succeeded(const ClaimRequest *claim, const Probe *probe,
					   Answer *answer)
{
	Identity	identity = claim->identity;
	TxnClaim   *note = probe->own ? txn_find(&identity) : NULL;

	if (note && note->state.held && !note->state.settled)
	{
		answer_init(answer, OUTCOME_IN_PROGRESS);
		answer->reason = "own_transaction";
		answer->attempt = probe->row.attempt;
		answer->claimed_at = probe->row.claimed_at;
		return;
	}
	answer_from_row(answer, OUTCOME_REPLAY, &probe->row);
}

/* A row that failed and may be tried again: is it time?  False: it is. */
static bool
claim_decide_retry(const Probe *probe, TimestampTz now, Answer *answer)
{
	if (probe->row.retry_at <= now)
		return false;
	answer_from_row(answer, OUTCOME_RETRY_LATER, &probe->row);
	answer_backoff(answer, &probe->row, now);
	return true;
}

/*
 * Decide a claim by what the probe found (never PROBE_BUSY).  Returns true
 * and the answer, or false if the key is the caller's to take.  Whether the
 * request is the same is asked here, before anything else is answered.
 */
bool
claim_decide(const ClaimRequest *claim, const Policy *policy,
			 const Probe *probe, TimestampTz now, Answer *answer)
{
	/* our own row counts until we have committed, however long that takes */
	if (probe->result == PROBE_NONE ||
		(probe->row.expires_at <= now && !probe->own))
		return claim_decide_unknown(claim, now, answer);

	if (claim->has_fingerprint && probe->row.has_fingerprint &&
		memcmp(claim->fingerprint, probe->row.fingerprint,
			   DIGEST_LENGTH) != 0)
	{
		answer_init(answer, OUTCOME_MISMATCH);
		return true;
	}

	switch (probe->row.state)
	{
		case KEY_SUCCEEDED:
			claim_decide_succeeded(claim, probe, answer);
			return true;
		case KEY_FAILED:
			answer_from_row(answer, OUTCOME_REPLAY, &probe->row);
			return true;
		case KEY_EXHAUSTED:
			answer_from_row(answer, OUTCOME_EXHAUSTED, &probe->row);
			return true;
		case KEY_RETRY:
			return claim_decide_retry(probe, now, answer);
	}
	elog(ERROR, "stored key has unknown state %d", (int) probe->row.state);
}

/* Does the row that the probe found stand for an attempt to be repeated? */
static inline bool
claim_is_retry(const Probe *probe, TimestampTz now)
{
	return probe->result == PROBE_ROW && probe->row.state == KEY_RETRY &&
		(probe->own || probe->row.expires_at > now);
}

/*
 * The row that takes the key.  A repeated attempt that brings no request
 * keeps the fingerprint, and the request, of the first.
 */
void
claim_new_row(const ClaimRequest *claim, const Policy *policy,
			  const Probe *probe, TimestampTz now, KeyRow *row)
{
	bool		retry = claim_is_retry(probe, now);

	memset(row, 0, sizeof(*row));
	row->state = KEY_SUCCEEDED;
	row->claimed_at = now;
	row->expires_at = ring_expiry(now, claim->retention);
	row->finished_at = (claim->settles || policy->unfinished_succeeds) ?
		now : NO_TIME;
	row->retry_at = NO_TIME;
	row->attempt = retry ? probe->row.attempt + 1 : 1;
	if (claim->has_fingerprint)
	{
		row->has_fingerprint = true;
		memcpy(row->fingerprint, claim->fingerprint, DIGEST_LENGTH);
		if (policy->store_request)
			row->request = (struct varlena *) claim->request;
	}
	else if (retry && probe->row.has_fingerprint)
	{
		row->has_fingerprint = true;
		memcpy(row->fingerprint, probe->row.fingerprint, DIGEST_LENGTH);
		row->request = probe->row.request;
	}
}

/* Note for this transaction that it has taken the key, unless it is settled. */
void
claim_note(const ClaimRequest *claim, const Policy *policy, const KeyRow *row,
		   const Probe *probe, const KeyPlace *place)
{
	Identity	identity = claim->identity;
	TxnClaim   *note;
	TxnClaimState state = {0};

	if (claim->settles)
	{
		txn_wrote_unnoted();
		return;
	}
	note = txn_enter(&identity);
	state.held = true;
	state.commit_settles = policy->unfinished_succeeds;
	state.place = *place;
	state.had_row = row->attempt > 1;
	if (state.had_row)
		state.before = probe->place;
	state.ring = ring_for(policy->retention);
	state.retention = claim->retention;
	state.claimed_at = row->claimed_at;
	state.attempt = row->attempt;
	txn_change(note, &state);
}

/* Take the key: write our row, in the place of what the probe found. */
static void
claim_take(ClaimRequest *claim, const Policy *policy, Store *store,
		   const Probe *probe, TimestampTz now, Answer *answer)
{
	KeyRow		row;
	KeyPlace	place;
	Segment		segment;

	FAULT_POINT("claim.before_insert");
	claim_new_row(claim, policy, probe, now, &row);
	segment = ring_segment_at(ring_for(policy->retention), row.expires_at);
	if (probe->result == PROBE_NONE)
		place = store_insert(store, &claim->identity, &row, segment);
	else
		place = store_replace(store, &claim->identity, &row, segment,
							  &probe->place);
	claim_note(claim, policy, &row, probe, &place);
	FAULT_POINT("claim.after_insert");

	answer_init(answer, OUTCOME_EXECUTE);
	answer->attempt = row.attempt;
	answer->claimed_at = row.claimed_at;
	answer->expires_at = row.expires_at;
}

/*
 * Steps 1, 2, 4 and 5, under the policy lock.  Returns the transaction that
 * has its hand on the key, if one has, else InvalidTransactionId and the
 * answer.
 */
static TransactionId
claim_attempt(ClaimRequest *claim, const Policy *policy, Answer *answer)
{
	Store		store;
	Probe		probe;
	TimestampTz now;

	store_open_locked(&store, policy, &claim->identity, &now);
	store_probe(&store, &claim->identity, now, &probe);
	if (probe.result != PROBE_BUSY &&
		!claim_decide(claim, policy, &probe, now, answer))
		claim_take(claim, policy, &store, &probe, now, answer);

	identity_unlock(identity_id(&claim->identity));
	store_close(&store);
	return probe.result == PROBE_BUSY ? probe.busy_xid : InvalidTransactionId;
}

/*
 * Wait up to "deadline" for a transaction to end; returns whether it has.
 * Holds no lock meanwhile.  Raises 55P03 when lock_timeout passes first, and
 * what a cancel or a termination raises.
 */
static bool
claim_wait_until(TransactionId xid, TimestampTz deadline)
{
	TimestampTz lock_deadline = LockTimeout > 0 ?
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LockTimeout) :
		DT_NOEND;
	long		nap = WAIT_POLL_MIN;

	for (;;)
	{
		TimestampTz now;
		long		left;

		CHECK_FOR_INTERRUPTS();
		if (compat_xact_has_ended(xid))
			return true;
		now = GetCurrentTimestamp();
		if (now >= lock_deadline)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("canceling statement due to lock timeout")));
		left = TimestampDifferenceMilliseconds(now,
											   Min(deadline, lock_deadline));
		if (now >= deadline)
			return false;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(nap, Max(left, 1)), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		nap = Min(nap * 2, WAIT_POLL_MAX);
	}
}

/*
 * Step 3: wait for the transaction that has its hand on the key, as long as
 * the caller wants to in all.  Returns false if that is over.
 */
bool
claim_wait(const ClaimRequest *claim, TransactionId xid, TimestampTz started)
{
	if (claim->wait == WAIT_FOREVER)
	{
		XactLockTableWait(xid, NULL, NULL, XLTW_None);
		return true;
	}
	if (claim->wait == 0)
		return false;
	return claim_wait_until(xid, started + claim->wait);
}

/* The answer to a claim whose key another transaction is writing. */
void
claim_answer_busy(Answer *answer)
{
	answer_init(answer, OUTCOME_IN_PROGRESS);
	answer->retry_after_ms = guc_busy_retry_after;
}

/*
 * Decide one claim, waiting as it asks to.  Raises what claim_prepare(),
 * store_probe() and the waits raise; losing a race is an answer.
 */
void
claim_execute(ClaimRequest *claim, Answer *answer)
{
	TimestampTz started = GetCurrentTimestamp();

	for (;;)
	{
		Policy		policy;
		TransactionId busy;

		claim_prepare(claim, &policy);
		busy = claim_attempt(claim, &policy, answer);
		policy_unlock();
		if (!TransactionIdIsValid(busy))
			return;
		if (!claim_wait(claim, busy, started))
		{
			claim_answer_busy(answer);
			return;
		}
		FAULT_POINT("claim.after_conflict_wait");
	}
}

/* Raises 0A000 if the caller asks for what only a leased claim has. */
void
claim_refuse_lease(bool asked)
{
	if (asked)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("leased claims are not available in version %s",
						IDEMPOTENCY_VERSION),
				 errhint("Leave out lease, owner and state: the claim then belongs to the transaction.")));
}

/*
 * The arguments of claim() and claim_or_raise().  Raises ID400.
 */
static void
claim_arguments(FunctionCallInfo fcinfo, ClaimRequest *claim)
{
	claim_request_init(claim, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1),
					   TEXT_ARGUMENT(2), TEXT_ARGUMENT(5));
	claim_refuse_lease(!PG_ARGISNULL(3) || !PG_ARGISNULL(6) ||
					   !PG_ARGISNULL(9));
	claim->has_wait = !PG_ARGISNULL(4);
	if (claim->has_wait)
		claim->wait = policy_wait_argument("wait",
										   PG_GETARG_INTERVAL_P(4));
	claim->has_first_sent = !PG_ARGISNULL(7);
	if (claim->has_first_sent)
		claim->first_sent = PG_GETARG_TIMESTAMPTZ(7);
	claim->has_retention = !PG_ARGISNULL(8);
	if (claim->has_retention)
		claim->retention = policy_retention_argument(PG_GETARG_INTERVAL_P(8));
}

/*
 * claim(scope text, key text, request text, lease interval, wait interval,
 *		 principal text, owner text, first_sent timestamptz,
 *		 retention interval, state text) returns record
 */
Datum
idempotency_claim(PG_FUNCTION_ARGS)
{
	ClaimRequest claim;
	Answer		answer;

	catalog_check_writable("claim()");
	claim_arguments(fcinfo, &claim);
	claim_execute(&claim, &answer);
	PG_RETURN_DATUM(answer_datum(fcinfo, &answer));
}

/* claim_or_raise(... as claim() ...) returns record */
Datum
idempotency_claim_or_raise(PG_FUNCTION_ARGS)
{
	ClaimRequest claim;
	Answer		answer;

	catalog_check_writable("claim_or_raise()");
	claim_arguments(fcinfo, &claim);
	claim_execute(&claim, &answer);
	answer_raise(&answer, claim.identity.scope, claim.identity.scope_len);
	PG_RETURN_DATUM(answer_datum(fcinfo, &answer));
}

/* once(scope text, key text, request text, principal text) returns boolean */
Datum
idempotency_once(PG_FUNCTION_ARGS)
{
	ClaimRequest claim;
	Answer		answer;

	catalog_check_writable("once()");
	claim_request_init(&claim, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1),
					   TEXT_ARGUMENT(2), TEXT_ARGUMENT(3));
	claim.settles = true;
	claim_execute(&claim, &answer);
	PG_RETURN_BOOL(answer_gate(&answer, claim.identity.scope,
							   claim.identity.scope_len));
}
