/*-------------------------------------------------------------------------
 *
 * claim_admit.c
 *		What holds a claim back that is about to execute, or a duplicate that
 *		is about to be replayed: limits and the circuit breaker; and what is
 *		counted of a claim.
 *
 * Asked under the key's lock, after the decision that nothing else stands
 * against it.  Without shared memory nothing is held back, or counted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/snapmgr.h"

#include "claim.h"
#include "fault.h"
#include "guc.h"
#include "limit.h"
#include "notable.h"
#include "tally.h"
#include "watch.h"

/* leases that are running */
typedef struct Leases
{
	TimestampTz now;
	int64		running;
} Leases;

/* A StoreVisitor: count what is running. */
static void
claim_visit_lease(const Identity *identity, const KeyRow *row, bool own,
				  void *arg)
{
	Leases	   *leases = arg;

	if (row->lease_until > leases->now)
		leases->running++;
}

/*
 * How many leases of the scope are running, beyond those that limit_enter()
 * counts: committed ones, and this transaction's own.  An error or a cancel
 * meanwhile takes back what limit_enter() has counted for this claim.
 */
static int64
claim_running_leases(const ClaimRequest *claim, Store *store, TimestampTz now)
{
	Leases		leases = {now, 0};

	PG_TRY();
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

		FAULT_POINT("limit.count");
		store_visit_running(store, claim->identity.scope,
							claim->identity.scope_len, snapshot,
							claim_visit_lease, &leases);
		UnregisterSnapshot(snapshot);
	}
	PG_CATCH();
	{
		limit_leave(claim->slot, 1);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return leases.running - tally_leased(claim->slot);
}

/* The claim has to come again, at this moment. */
static bool
claim_hold_back(Answer *answer, const char *reason, TimestampTz now,
				TimestampTz retry_at)
{
	answer_init(answer, OUTCOME_RETRY_LATER);
	answer->reason = reason;
	answer->retry_after_ms = retry_at == DT_NOEND ? guc_busy_retry_after :
		Max(answer_ms(retry_at - now), 1);
	return false;
}

/* Why can't the claim execute now, and when can it?  NULL: it can. */
static const char *
claim_obstacle(ClaimRequest *claim, const Restraint *restraint, Store *store,
			   TimestampTz now, int64 running, TimestampTz *retry_at)
{
	if (restraint->limit_running > 0 && claim->slot != STATS_OTHERS &&
		running + claim_running_leases(claim, store, now) >
		restraint->limit_running)
		return "limit_running";
	if (!breaker_admit(claim->slot, restraint, now,
					   claim->has_lease ? claim->lease : 0,
					   &claim->generation, retry_at))
		return "breaker_open";
	if (!limit_rate(claim->slot, restraint, now, retry_at))
	{
		breaker_withdraw(claim->slot, claim->generation);
		return "limit_claims";
	}
	return NULL;
}

/*
 * May the claim execute?  Counts it as running if so; else the answer is
 * retry_later.  If it follows an attempt whose lease has run out, that one has
 * failed.
 */
bool
claim_admit(ClaimRequest *claim, const Policy *policy, Store *store,
			const Probe *probe, TimestampTz now, Answer *answer)
{
	TimestampTz retry_at = DT_NOEND;
	const char *reason;

	if (claim->slot == STATS_NO_SLOT)
		return true;
	reason = claim_obstacle(claim, &policy->restraint, store, now,
							limit_enter(claim->slot), &retry_at);
	if (reason)
	{
		limit_leave(claim->slot, 1);
		return claim_hold_back(answer, reason, now, retry_at);
	}
	if (claim_follows(policy, probe, now) && probe->row.state == KEY_RUNNING)
	{
		stats_count(claim->slot, STATS_TAKEOVERS, 1);
		breaker_result(claim->slot,
					   breaker_generation_at(claim->slot,
											 probe->row.claimed_at),
					   false, 1);
	}
	tally_claim(claim->slot, claim->generation,
				claim->settles ? STATS_FINISHED : STATS_NONE,
				claim->has_lease);
	return true;
}

/* A duplicate has an answer; has it had it too often in this interval? */
void
claim_restrain_replay(ClaimRequest *claim, const Policy *policy,
					  TimestampTz now, Answer *answer)
{
	TimestampTz retry_at;

	if (answer->outcome == OUTCOME_REPLAY &&
		!limit_replay(identity_id(&claim->identity), &policy->restraint, now,
					  &retry_at))
		(void) claim_hold_back(answer, "limit_replays", now, retry_at);
}

/* Whom does a claim owe it to that it has to come again? */
static StatsCounter
claim_held_back(const Answer *answer)
{
	const char *reason = answer->reason ? answer->reason : "";

	if (strcmp(reason, "breaker_open") == 0)
		return STATS_BREAKER_REFUSED;
	if (strcmp(reason, "limit_claims") == 0)
		return STATS_LIMITED_CLAIMS;
	if (strcmp(reason, "limit_running") == 0)
		return STATS_LIMITED_RUNNING;
	if (strcmp(reason, "limit_replays") == 0)
		return STATS_LIMITED_REPLAYS;
	return STATS_NONE;			/* its own backoff */
}

/* Tell of a claim that is refused. */
static void
claim_log(const ClaimRequest *claim, const Answer *answer)
{
	static const RefusalClass classes[] = {
		[OUTCOME_IN_PROGRESS] = REFUSAL_IN_PROGRESS,
		[OUTCOME_MISMATCH] = REFUSAL_MISMATCH,
		[OUTCOME_RETRY_LATER] = REFUSAL_BACKOFF,
		[OUTCOME_EXHAUSTED] = REFUSAL_EXHAUSTED,
		[OUTCOME_INDETERMINATE] = REFUSAL_INDETERMINATE,
		[OUTCOME_EXPIRED] = REFUSAL_EXPIRED
	};
	RefusalClass class = classes[answer->outcome];

	if (answer->outcome == OUTCOME_RETRY_LATER)
	{
		StatsCounter by = claim_held_back(answer);

		if (by == STATS_BREAKER_REFUSED)
			class = REFUSAL_BREAKER;
		else if (by != STATS_NONE)
			class = REFUSAL_LIMIT;
	}
	watch_refused(claim->identity.scope, claim->identity.scope_len, class,
				  answer->reason);
}

/* Count what a claim was answered. */
void
claim_count(const ClaimRequest *claim, const Answer *answer)
{
	static const StatsCounter counters[] = {
		[OUTCOME_EXECUTE] = STATS_EXECUTED,
		[OUTCOME_RESUME] = STATS_RESUMED,
		[OUTCOME_REPLAY] = STATS_REPLAYED,
		[OUTCOME_IN_PROGRESS] = STATS_IN_PROGRESS,
		[OUTCOME_MISMATCH] = STATS_MISMATCHED,
		[OUTCOME_RETRY_LATER] = STATS_RETRY_LATER,
		[OUTCOME_EXHAUSTED] = STATS_EXHAUSTED,
		[OUTCOME_INDETERMINATE] = STATS_INDETERMINATE,
		[OUTCOME_EXPIRED] = STATS_EXPIRED
	};

	stats_count(claim->slot, counters[answer->outcome], 1);
	if (answer->outcome == OUTCOME_REPLAY)
	{
		Identity	identity = claim->identity;

		notable_duplicate(identity_id(&identity), claim->slot);
	}
	if (answer->outcome == OUTCOME_RETRY_LATER)
		stats_count(claim->slot, claim_held_back(answer), 1);
	if (unlikely(guc_log_refusals != LOG_REFUSALS_OFF))
		claim_log(claim, answer);
}
