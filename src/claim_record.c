/*-------------------------------------------------------------------------
 *
 * claim_record.c
 *		What goes into the ledger of a claim.
 *
 * A transactional claim is recorded when it is settled, together with the
 * settlement; so here are only those that nobody settles after this: leased
 * claims, claims that settle themselves, and refusals.  Replays, which don't
 * write, are noted for the worker, where a policy wants them recorded at all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "claim.h"
#include "note.h"

/*
 * Record that the key was taken, with the row that was written in the place of
 * what the probe found, if that is all.  Returns the decision's number, or 0.
 */
DecisionNumber
claim_record_taken(const ClaimRequest *claim, const Policy *policy,
				   const KeyRow *row, const Probe *probe)
{
	Identity	identity = claim->identity;
	EntryDecision decision = ENTRY_EXECUTED;

	if (claim->has_lease)
		decision = probe->result == PROBE_ROW &&
			probe->row.state == KEY_RUNNING &&
			claim_follows(policy, probe, row->claimed_at) ?
			ENTRY_TAKEOVER : ENTRY_CLAIMED;
	else if (!claim->settles && !policy->unfinished_succeeds)
		return 0;
	return decision_key(policy, &identity, decision, row, row->claimed_at,
						NULL);
}

/* The decision that an answer is, or -1 if it isn't one. */
static int
claim_answer_decision(const Answer *answer)
{
	switch (answer->outcome)
	{
		case OUTCOME_MISMATCH:
			return ENTRY_MISMATCH;
		case OUTCOME_EXPIRED:
			return ENTRY_EXPIRED;
		case OUTCOME_REPLAY:
			return ENTRY_REPLAYED;
		default:
			return -1;
	}
}

/*
 * Record an answer by which the caller does not execute, if it is one that is
 * recorded: what was asked for, and the row by which it was answered.
 */
void
claim_record_answer(const ClaimRequest *claim, const Policy *policy,
					const Probe *probe, TimestampTz now, const Answer *answer)
{
	Identity	identity = claim->identity;
	int			decision = claim_answer_decision(answer);
	KeyRow		row = {.claimed_at = NO_TIME};

	if (policy->audit == AUDIT_OFF || decision < 0 ||
		(decision == ENTRY_REPLAYED && policy->audit != AUDIT_EVERYTHING))
		return;
	if (decision != ENTRY_EXPIRED)
	{
		row.claimed_at = probe->row.claimed_at;
		row.attempt = probe->row.attempt;
		row.event_no = probe->row.event_no;
		row.fence = probe->row.fence;
	}
	row.state = KEY_RUNNING;	/* without a result of its own */
	row.has_fingerprint = claim->has_fingerprint;
	memcpy(row.fingerprint, claim->fingerprint, DIGEST_LENGTH);
	row.request = (struct varlena *) claim->request;
	if (decision == ENTRY_REPLAYED && note_is_there())
	{
		(void) identity_id(&identity);
		note_decision(decision, &identity, row.attempt, row.event_no,
					  row.fence, row.claimed_at,
					  row.has_fingerprint && !policy->audit_payloads ?
					  row.fingerprint : NULL, NULL);
	}
	else
		(void) decision_key(policy, &identity, decision, &row, now, NULL);
}
