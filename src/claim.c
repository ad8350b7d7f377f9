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
 * A leased claim inserts its row as "running", commits, and is settled by a
 * later transaction (lease.c).  Until its lease is over the key is in progress;
 * then the next claim takes it over, as the policy says, with a new fence.
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
#include "utils/memutils.h"

#include "catalog.h"
#include "claim.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "guc.h"
#include "incarnation.h"
#include "tag.h"
#include "token.h"
#include "txn.h"
#include "watch.h"

/* who waits looks again after this many ms: doubling, up to a limit */
#define WAIT_POLL_MIN 1
#define WAIT_POLL_MAX 16

#define OWNER_MAX_BYTES 255

COMPAT_FUNCTION_INFO(idempotency_claim);
COMPAT_FUNCTION_INFO(idempotency_claim_or_raise);
COMPAT_FUNCTION_INFO(idempotency_once);

/*
 * Refuse a scope that is for events.  Raises ID400.
 */
static void
claim_refuse_reserved(const Identity *identity)
{
	static const char reserved[] = SCOPE_RESERVED;
	int			len = sizeof(reserved) - 1;

	if (identity->scope_len >= len &&
		memcmp(identity->scope, reserved, len) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("scope \"%.*s\" is reserved for events",
						identity->scope_len, identity->scope),
				 errhint("A consumer calls accept(); for anything else, use a scope that doesn't begin with \"%s\".",
						 reserved)));
}

/* A request for a claim by the policy's terms.  Raises ID400. */
void
claim_request_init(ClaimRequest *claim, text *scope, text *key, text *request,
				   text *principal)
{
	memset(claim, 0, sizeof(*claim));
	identity_make(&claim->identity, scope, principal, key);
	claim_refuse_reserved(&claim->identity);
	watch_scope(claim->identity.scope, claim->identity.scope_len);
	claim->slot = stats_slot(claim->identity.scope,
							 claim->identity.scope_len);
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
	if (claim->has_retention)
		policy_check_retention(policy, claim->identity.scope,
							   claim->identity.scope_len, claim->retention);
	if (claim->has_lease)
		policy_check_lease(policy, claim->identity.scope,
						   claim->identity.scope_len, claim->lease);
	if (claim->state && VARSIZE_ANY_EXHDR(claim->state) > policy->max_state_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_TOO_LARGE),
				 errmsg("state is too large"),
				 errdetail("It has %zu bytes; the limit of scope \"%.*s\" is %d.",
						   VARSIZE_ANY_EXHDR(claim->state),
						   claim->identity.scope_len, claim->identity.scope,
						   policy->max_state_bytes)));
}

/*
 * Check the request against a policy just read, and, the first time, compute
 * its fingerprint, and verify the token that the key has to be.  Raises ID400,
 * ID401, ID413.
 */
void
claim_prepare_more(ClaimRequest *claim, const Policy *policy)
{
	if (policy->require_token && claim->token_expiry == 0)
		claim->token_expiry = token_require(&claim->identity);
	claim_check(claim, policy);
	if (!claim->has_wait)
		claim->wait = policy->wait;
	if (!claim->has_retention)
		claim->retention = policy->retention;
	if (claim->token_expiry != 0)
		token_check_retention(&claim->identity, claim->token_expiry,
							  claim->retention, clock_now());
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
 * against it.  Raises ID400, ID401, ID403, ID413.
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

/*
 * Note for this transaction that it has taken the key, and what goes into the
 * ledger of that, unless the claim is settled.
 * A leased one is not held by this transaction, and need not be settled in it.
 */
void
claim_note(const ClaimRequest *claim, const Policy *policy, const KeyRow *row,
		   const Probe *probe, const KeyPlace *place)
{
	Identity	identity = claim->identity;
	TxnClaim   *note;
	TxnClaimState state = {0};
	DecisionNumber decision = claim_record_taken(claim, policy, row, probe);

	tag_note_claim();
	if (claim->settles || claim->has_lease)
		txn_wrote_unnoted();
	if (claim->settles)
		return;
	if (policy->audit != AUDIT_OFF)
		(void) trace_context(); /* should it be rolled back */
	note = txn_enter(&identity);
	state.held = !claim->has_lease;
	state.leased = claim->has_lease;
	state.commit_settles = policy->unfinished_succeeds;
	state.place = *place;
	state.had_row = claim_follows(policy, probe, row->claimed_at) ||
		claim_repeats(policy, probe, row->claimed_at);
	if (state.had_row)
		state.before = probe->place;
	state.ring = policy_ring(policy);
	state.retention = claim->retention;
	state.claimed_at = row->claimed_at;
	state.attempt = row->attempt;
	state.audited = policy->audit != AUDIT_OFF;
	if (state.commit_settles && state.held)
	{
		decision_supersedable(decision);
		state.decision = decision;
	}
	txn_change(note, &state);
}

/* Take the key: write our row, in the place of what the probe found. */
void
claim_take(ClaimRequest *claim, const Policy *policy, Store *store,
		   const Probe *probe, TimestampTz now, Answer *answer)
{
	KeyRow		row;
	KeyPlace	place;
	Segment		segment;

	FAULT_POINT("claim.before_insert");
	if (probe->result == PROBE_ROW && probe->row.state == KEY_RUNNING)
		FAULT_POINT("takeover.after_lock");
	claim_new_row(claim, policy, probe, now, &row, answer);
	segment = ring_segment_at(policy_ring(policy), row.expires_at);
	if (probe->result == PROBE_NONE)
		place = store_insert(store, &claim->identity, &row, segment);
	else
		place = store_replace(store, &claim->identity, &row, segment,
							  &probe->place);
	claim_note(claim, policy, &row, probe, &place);
	FAULT_POINT("claim.after_insert");
}

/*
 * A clock that was set back makes a lease last longer than any may: let the
 * one that the probe found end after the longest that the policy allows.  The
 * caller holds the key's lock.
 */
void
claim_cap_lease(const Policy *policy, Store *store, Identity *identity,
				Probe *probe, TimestampTz now)
{
	KeyRow	   *row = &probe->row;
	int64		retention = policy->retention;

	if (probe->result != PROBE_ROW || row->state != KEY_RUNNING ||
		row->lease_until <= now + policy->max_lease)
		return;
	if (row->expires_at != DT_NOEND)
		retention = Min(retention, row->expires_at - row->lease_until);
	row->lease_until = now + policy->max_lease;
	row->expires_at = ring_expiry(row->lease_until, retention);
	probe->place = store_replace(store, identity, row,
								 ring_segment_at(policy_ring(policy),
												 row->expires_at),
								 &probe->place);
	txn_wrote_unnoted();
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
	claim_cap_lease(policy, &store, &claim->identity, &probe, now);
	if (probe.result != PROBE_BUSY)
	{
		if (claim_decide(claim, policy, &probe, now, answer))
		{
			claim_restrain_replay(claim, policy, now, answer);
			claim_record_answer(claim, policy, &probe, now, answer);
		}
		else if (claim_admit(claim, policy, &store, &probe, now, answer))
			claim_take(claim, policy, &store, &probe, now, answer);
	}

	identity_unlock(identity_id(&claim->identity));
	store_close(&store);
	return probe.result == PROBE_BUSY ? probe.busy_xid : InvalidTransactionId;
}

/*
 * Doze a little, longer each time; returns false if the caller's time is over.
 * Holds no lock.  Raises 55P03 when lock_timeout has passed since the wait
 * began, and what a cancel or a termination raises.
 */
static bool
claim_doze(const ClaimRequest *claim, ClaimWait *wait)
{
	static uint32 wait_event = 0;
	int64		step = trace_begin();
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz deadline = wait->started + claim->wait;
	TimestampTz lock_deadline = LockTimeout > 0 ?
		TimestampTzPlusMilliseconds(wait->started, LockTimeout) : DT_NOEND;
	long		left;

	CHECK_FOR_INTERRUPTS();
	if (now >= lock_deadline)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("canceling statement due to lock timeout")));
	if (now >= deadline)
		return false;
	left = TimestampDifferenceMilliseconds(now, Min(deadline, lock_deadline));
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(wait->nap, Max(left, 1)),
					 compat_wait_event(&wait_event, "IdempotencyClaimWait"));
	ResetLatch(MyLatch);
	identity_waited += GetCurrentTimestamp() - now;
	wait->nap = Min(wait->nap * 2, WAIT_POLL_MAX);
	trace_end(TRACE_HOLDER_WAIT, step);
	return true;
}

/* The caller begins to wait, in all for as long as its claim says. */
void
claim_wait_start(ClaimWait *wait)
{
	wait->started = GetCurrentTimestamp();
	wait->nap = WAIT_POLL_MIN;
}

/*
 * Step 3: wait for the transaction that has its hand on the key, as long as
 * the caller wants to in all.  Returns false if that is over.
 */
bool
claim_wait(const ClaimRequest *claim, TransactionId xid, ClaimWait *wait)
{
	if (claim->wait == WAIT_FOREVER)
	{
		TimestampTz began = GetCurrentTimestamp();
		int64		step = trace_begin();

		XactLockTableWait(xid, NULL, NULL, XLTW_None);
		trace_end(TRACE_HOLDER_WAIT, step);
		identity_waited += GetCurrentTimestamp() - began;
		return true;
	}
	if (claim->wait == 0)
		return false;
	wait->nap = WAIT_POLL_MIN;
	while (!compat_xact_has_ended(xid))
	{
		if (!claim_doze(claim, wait))
			return false;
	}
	return true;
}

/*
 * Is the answer that somebody else holds a lease, and does the caller want to
 * wait for its end?  A wait without limit is for transactions only.
 */
static bool
claim_awaits_lease(const ClaimRequest *claim, const Answer *answer)
{
	return answer->outcome == OUTCOME_IN_PROGRESS && answer->reason == NULL &&
		claim->wait > 0 && claim->wait != WAIT_FOREVER;
}

/* The answer to a claim whose key another transaction is writing. */
void
claim_answer_busy(Answer *answer)
{
	answer_init(answer, OUTCOME_IN_PROGRESS);
	answer->retry_after_ms = guc_busy_retry_after;
}

/*
 * Have the place's incarnation begun, before any lock is taken, waiting for
 * somebody who is beginning it as long as the claim would wait for a key.
 * Returns false if that is over.
 */
static bool
claim_prepare_fence(ClaimRequest *claim, ClaimWait *wait)
{
	Policy		policy;

	if (likely(incarnation_prepare(false)))
		return true;
	claim_prepare(claim, &policy);
	policy_unlock();
	if (claim->wait == WAIT_FOREVER)
		return incarnation_prepare(true);
	while (!incarnation_prepare(false))
	{
		if (!claim_doze(claim, wait))
			return false;
	}
	return true;
}

/*
 * Decide one claim, waiting as it asks to.  Raises what claim_prepare(),
 * store_probe() and the waits raise; losing a race is an answer.
 *
 * Somebody's lease is waited for by looking again: whoever settles it need not
 * know of us.
 */
void
claim_execute(ClaimRequest *claim, Answer *answer)
{
	ClaimWait	wait;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext round = NULL;
	TransactionId busy = InvalidTransactionId;

	claim_wait_start(&wait);
	if (claim->has_lease && !claim_prepare_fence(claim, &wait))
	{
		claim_answer_busy(answer);
		claim_count(claim, answer);
		return;
	}
	for (;;)
	{
		Policy		policy;

		claim_prepare(claim, &policy);
		if (TransactionIdIsValid(busy) &&
			claim_answer_settled(claim, &policy, answer))
		{
			policy_unlock();
			break;
		}
		busy = claim_attempt(claim, &policy, answer);
		policy_unlock();
		if (TransactionIdIsValid(busy))
		{
			if (!claim_wait(claim, busy, &wait))
			{
				claim_answer_busy(answer);
				break;
			}
			FAULT_POINT("claim.after_conflict_wait");
		}
		else if (!claim_awaits_lease(claim, answer) ||
				 !claim_doze(claim, &wait))
			break;

		/* what a round leaves goes with the next one, or with the caller's */
		if (round == NULL)
			round = AllocSetContextCreate(caller, "idempotency claim",
										  ALLOCSET_SMALL_SIZES);
		MemoryContextReset(round);
		MemoryContextSwitchTo(round);
	}
	MemoryContextSwitchTo(caller);
	claim_count(claim, answer);
	watch_answer(answer_outcome_name(answer->outcome), answer->reason,
				 answer->fence, answer->attempt);
}

/*
 * The arguments of a leased claim; without a lease (NULL) the others make no
 * sense.  Raises ID400.
 */
void
claim_lease_arguments(ClaimRequest *claim, Interval *lease, text *owner,
					  text *state)
{
	static const char label[] = "idempotency:owner:v1";

	if (lease == NULL && (owner || state))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s belongs to a leased claim",
						owner ? "owner" : "state"),
				 errhint("Pass a lease too, or leave it out.")));
	claim->has_lease = lease != NULL;
	if (lease)
		claim->lease = policy_lease_argument("lease", lease);
	claim->state = state;
	claim->has_owner = owner != NULL;
	if (owner)
	{
		DigestPart	parts[] = {
			{label, sizeof(label)},
			{VARDATA_ANY(owner), VARSIZE_ANY_EXHDR(owner)}
		};

		if (parts[1].len == 0 || parts[1].len > OWNER_MAX_BYTES)
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
					 errmsg("owner must have between 1 and %d bytes",
							OWNER_MAX_BYTES)));
		digest_sha256(parts, lengthof(parts), claim->owner);
	}
}

/*
 * The arguments of claim() and claim_or_raise().  Raises ID400.
 */
static void
claim_arguments(FunctionCallInfo fcinfo, ClaimRequest *claim)
{
	claim_request_init(claim, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1),
					   TEXT_ARGUMENT(2), TEXT_ARGUMENT(5));
	claim_lease_arguments(claim,
						  PG_ARGISNULL(3) ? NULL : PG_GETARG_INTERVAL_P(3),
						  TEXT_ARGUMENT(6), TEXT_ARGUMENT(9));
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
static Datum
claim_call(PG_FUNCTION_ARGS)
{
	ClaimRequest claim;
	Answer		answer;

	catalog_check_writable("claim()");
	claim_arguments(fcinfo, &claim);
	claim_execute(&claim, &answer);
	PG_RETURN_DATUM(answer_datum(fcinfo, &answer));
}

WATCH_FUNCTION(idempotency_claim, STATS_CLAIM, claim_call);

/* claim_or_raise(... as claim() ...) returns record */
static Datum
claim_or_raise_call(PG_FUNCTION_ARGS)
{
	ClaimRequest claim;
	Answer		answer;

	catalog_check_writable("claim_or_raise()");
	claim_arguments(fcinfo, &claim);
	claim_execute(&claim, &answer);
	answer_raise(&answer, claim.identity.scope, claim.identity.scope_len);
	PG_RETURN_DATUM(answer_datum(fcinfo, &answer));
}

WATCH_FUNCTION(idempotency_claim_or_raise, STATS_CLAIM, claim_or_raise_call);

/* once(scope text, key text, request text, principal text) returns boolean */
static Datum
once_call(PG_FUNCTION_ARGS)
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

WATCH_FUNCTION(idempotency_once, STATS_ONCE, once_call);
