/*-------------------------------------------------------------------------
 *
 * claim_settled.c
 *		What a claim is answered that has waited for a transaction which has
 *		settled the key.
 *
 * When a holder commits, all who have waited for it look at once.  Most of them
 * are duplicates by then, and a duplicate writes nothing; so they needn't queue
 * for the key's lock.  A committed row that has an answer for them was the
 * truth at the moment of the snapshot, and that is after they have asked.
 * Whoever finds anything else decides under the lock, as always: without it, a
 * row that is being moved can be missed.
 *
 * Not at REPEATABLE READ and above, where a row that was committed after the
 * transaction's snapshot is no answer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/snapmgr.h"

#include "claim.h"
#include "fault.h"

/* Is this a row from which duplicates are answered for as long as it stands? */
static bool
claim_is_settled(const Probe *probe, TimestampTz now)
{
	return probe->result == PROBE_ROW && !probe->own &&
		probe->row.expires_at > now &&
		(probe->row.state == KEY_SUCCEEDED || probe->row.state == KEY_FAILED ||
		 probe->row.state == KEY_EXHAUSTED);
}

/*
 * Answer a claim from a row that is settled and committed, without the key's
 * lock.  Returns false if there is no such row, or it is no answer.  The caller
 * holds the policy lock.
 */
bool
claim_answer_settled(ClaimRequest *claim, const Policy *policy, Answer *answer)
{
	Snapshot	snapshot;
	Store		store;
	Probe		probe;
	TimestampTz now;
	bool		answered;

	if (IsolationUsesXactSnapshot())
		return false;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	store_open(&store, policy, AccessShareLock, snapshot);
	now = clock_now();
	store_probe(&store, &claim->identity, now, &probe);
	answered = claim_is_settled(&probe, now) &&
		claim_decide(claim, policy, &probe, now, answer);
	if (answered)
	{
		claim_restrain_replay(claim, policy, now, answer);
		claim_record_answer(claim, policy, &probe, now, answer);
	}
	store_close(&store);
	UnregisterSnapshot(snapshot);
	return answered;
}
