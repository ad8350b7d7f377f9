/*-------------------------------------------------------------------------
 *
 * claim_decide.c
 *		What a claim is answered for the row that was found, and the row that
 *		takes a key.
 *
 * Everything here is a function of the request, the policy, the row, the
 * generation of its tag and the clock, all read under the key's lock; claim.c
 * fetches and writes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "claim.h"
#include "errors.h"
#include "fence.h"
#include "guc.h"
#include "response.h"
#include "txn.h"

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

/*
 * A row that succeeded, or is about to if it is our own.  False: its response
 * is worth nothing any more, and the operation the caller's to execute again.
 */
static bool
claim_decide_succeeded(const ClaimRequest *claim, const Policy *policy,
					   const Probe *probe, TimestampTz now, Answer *answer)
{
	Identity	identity = claim->identity;
	TxnClaim   *note = probe->own ? txn_find(&identity) : NULL;
	KeyRow		row = probe->row;
	ResponseView view;

	if (note && note->state.held && !note->state.settled)
	{
		answer_init(answer, OUTCOME_IN_PROGRESS);
		answer->reason = "own_transaction";
		answer->attempt = probe->row.attempt;
		answer->claimed_at = probe->row.claimed_at;
		return true;
	}
	response_view(policy, &identity, &row, now, &view);
	if (view.again && !row.saga)
		return false;
	if (!view.shown)
		row.response = NULL;
	answer_from_row(answer, OUTCOME_REPLAY, &row);
	answer->reason = view.reason;
	return true;
}

/* Is the lease of a running row over? */
static inline bool
claim_lease_is_over(const KeyRow *row, TimestampTz now)
{
	return row->state == KEY_RUNNING && row->lease_until <= now;
}

/* Does the caller hold this lease, and only not know the answer? */
static bool
claim_is_owner(const ClaimRequest *claim, const KeyRow *row)
{
	return claim->has_owner && row->has_owner &&
		digest_equal(claim->owner, row->owner);
}

/*
 * What was done is being undone, or is about to be: whoever comes has to wait
 * for the outcome.
 */
static bool
claim_decide_compensating(const Probe *probe, TimestampTz now, Answer *answer)
{
	answer_running(answer, &probe->row, now);
	answer->lease_until = NO_TIME;
	answer->retry_after_ms = guc_busy_retry_after;
	answer->reason = "compensating";
	return true;
}

/*
 * A leased row.  False: the lease is over, and the key the caller's to take.
 */
static bool
claim_decide_running(const ClaimRequest *claim, const Policy *policy,
					 const Probe *probe, TimestampTz now, Answer *answer)
{
	const KeyRow *row = &probe->row;

	if (!claim_lease_is_over(row, now))
	{
		if (claim_is_owner(claim, row))
			answer_granted(answer, row, false);
		else
		{
			answer_running(answer, row, now);
			answer->reason = probe->own ? "own_transaction" : NULL;
		}
		return true;
	}
	if (policy->on_lease_expiry == LEASE_INDETERMINATE)
	{
		answer_running(answer, row, now);
		answer->outcome = OUTCOME_INDETERMINATE;
		answer->retry_after_ms = -1;
		return true;
	}
	if (row->saga && (row->attempt >= policy->max_attempts ||
					  policy->on_lease_expiry == LEASE_FORGET))
		return claim_decide_compensating(probe, now, answer);
	if (row->attempt >= policy->max_attempts)
	{
		answer_from_row(answer, OUTCOME_EXHAUSTED, row);
		answer->failed = true;
		return true;
	}
	return false;
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
 * Does the row that the probe found count?  Our own counts until we have
 * committed, however long that takes.
 */
static bool
claim_counts(const Policy *policy, const Probe *probe, TimestampTz now)
{
	if (probe->result == PROBE_NONE)
		return false;
	if (keyrow_is_expired(&probe->row, now) && !probe->own)
		return false;
	return probe->row.saga || policy->on_lease_expiry != LEASE_FORGET ||
		!claim_lease_is_over(&probe->row, now);
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
	if (!claim_counts(policy, probe, now))
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
		case KEY_RUNNING:
			return claim_decide_running(claim, policy, probe, now, answer);
		case KEY_SUCCEEDED:
			return claim_decide_succeeded(claim, policy, probe, now, answer);
		case KEY_FAILED:
			answer_from_row(answer, OUTCOME_REPLAY, &probe->row);
			return true;
		case KEY_EXHAUSTED:
			answer_from_row(answer, OUTCOME_EXHAUSTED, &probe->row);
			return true;
		case KEY_RETRY:
			return claim_decide_retry(probe, now, answer);
		case KEY_COMPENSATING:
			return claim_decide_compensating(probe, now, answer);
	}
	elog(ERROR, "stored key has unknown state %d", (int) probe->row.state);
}

/*
 * Does the row that the probe found stand for an attempt that this one
 * follows?
 */
bool
claim_follows(const Policy *policy, const Probe *probe, TimestampTz now)
{
	return claim_counts(policy, probe, now) &&
		(probe->row.state == KEY_RETRY || probe->row.state == KEY_RUNNING);
}

/*
 * Does the row that the probe found stand for an operation that succeeded, and
 * that this attempt executes again?
 */
bool
claim_repeats(const Policy *policy, const Probe *probe, TimestampTz now)
{
	return claim_counts(policy, probe, now) &&
		probe->row.state == KEY_SUCCEEDED;
}

/* A claim that brings no request is for that of the row which it replaces. */
static void
claim_keep_request(const KeyRow *before, KeyRow *row)
{
	if (!row->has_fingerprint && before->has_fingerprint)
	{
		row->has_fingerprint = true;
		memcpy(row->fingerprint, before->fingerprint, DIGEST_LENGTH);
		row->request = before->request;
	}
}

/*
 * Take over into the new row what an attempt that brings no request, or no
 * state, keeps of the one it follows.
 */
static void
claim_keep(const KeyRow *before, KeyRow *row)
{
	row->attempt = before->attempt + 1;
	row->event_no = before->event_no;
	claim_keep_request(before, row);
	row->saga = before->saga;
	row->recovery_point = before->recovery_point;
	if (before->saved_state)
		row->saved_state = before->saved_state;
	if (row->state == KEY_RUNNING)
		row->error = before->error;
}

/* Make a row that of a lease of this backend. */
static void
claim_lease_row(const ClaimRequest *claim, TimestampTz now, KeyRow *row)
{
	row->state = KEY_RUNNING;
	row->lease_until = now + claim->lease;
	row->expires_at = ring_expiry(row->lease_until, claim->retention);
	row->finished_at = NO_TIME;
	row->fence = fence_next();
	row->has_owner = claim->has_owner;
	memcpy(row->owner, claim->owner, DIGEST_LENGTH);
	row->role = (struct varlena *)
		cstring_to_text(GetUserNameFromId(GetUserId(), false));
	row->application = (struct varlena *) cstring_to_text(application_name);
	row->saved_state = (struct varlena *) claim->state;
}

/* Was the key settled, and is it only forgotten because it has expired? */
static bool
claim_is_late(const Policy *policy, const Probe *probe, TimestampTz now)
{
	return probe->result == PROBE_ROW && !claim_counts(policy, probe, now) &&
		(probe->row.state == KEY_SUCCEEDED || probe->row.state == KEY_FAILED);
}

/*
 * The row that takes the key, and the answer that says so.  What a leased
 * claim writes must be durable before its commit is acknowledged.
 */
void
claim_new_row(const ClaimRequest *claim, const Policy *policy,
			  const Probe *probe, TimestampTz now, KeyRow *row, Answer *answer)
{
	bool		follows = claim_follows(policy, probe, now);

	if (follows && probe->row.saga && !claim->has_lease)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("a claim that resumes a saga needs a lease, in scope \"%.*s\"",
						claim->identity.scope_len, claim->identity.scope),
				 errhint("Pass lease => '30 s', as the attempt before did.")));
	if (claim_is_late(policy, probe, now))
		stats_late(claim->slot, Max(now - probe->row.expires_at, 0));
	memset(row, 0, sizeof(*row));
	row->state = KEY_SUCCEEDED;
	row->claimed_at = now;
	row->expires_at = ring_expiry(now, claim->retention);
	row->finished_at = (claim->settles || policy->unfinished_succeeds) ?
		now : NO_TIME;
	row->retry_at = NO_TIME;
	row->lease_until = NO_TIME;
	row->fence = NO_FENCE;
	row->attempt = 1;
	if (claim->has_fingerprint)
	{
		row->has_fingerprint = true;
		memcpy(row->fingerprint, claim->fingerprint, DIGEST_LENGTH);
		if (policy->store_request || policy->audit_payloads)
			row->request = (struct varlena *) claim->request;
	}
	if (claim->has_lease)
	{
		claim_lease_row(claim, now, row);
		ForceSyncCommit();
	}
	if (follows)
		claim_keep(&probe->row, row);
	else if (claim_repeats(policy, probe, now))
	{
		claim_keep_request(&probe->row, row);
		row->event_no = probe->row.event_no;
	}
	decision_number_row(policy, row);
	answer_granted(answer, row,
				   follows && (probe->row.state == KEY_RUNNING ||
							   probe->row.saga));
	/* otherwise it is kept until the claim is settled */
	if (row->finished_at != NO_TIME)
		keyrow_clear_progress(row);
}
