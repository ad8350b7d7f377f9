/*-------------------------------------------------------------------------
 *
 * failure.c
 *		What becomes of an operation that failed: tried again after a backoff,
 *		exhausted, or failed for good.
 *
 * The same for transactional and leased claims; both write the row themselves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "answer.h"
#include "failure.h"

/*
 * When may an operation that failed for the nth time be tried again, in
 * microseconds from now?  Exponential backoff with full jitter: anything up
 * to min(cap, base * 2^(n-1)), so that those who failed together don't return
 * together.  (M. Brooker, "Exponential Backoff and Jitter", AWS, 2015.)
 */
int64
failure_backoff(const Policy *policy, int32 attempt)
{
	int64		ceiling = policy->backoff_base;

	for (int i = 1; i < attempt && ceiling < policy->backoff_cap; i++)
		ceiling *= 2;
	ceiling = Min(ceiling, policy->backoff_cap);
	return (int64) (pg_prng_double(&pg_global_prng_state) * ceiling);
}

/* Is there no further attempt after this failure? */
bool
failure_is_final(const Policy *policy, const Failure *failure,
				 const KeyRow *row)
{
	return !failure->retryable || row->attempt >= policy->max_attempts;
}

/* Say what has become of a row. */
void
failure_answer(const KeyRow *row, TimestampTz now, FailureAnswer *answer)
{
	answer->attempt = row->attempt;
	answer->retry_after_ms = -1;
	if (row->state == KEY_RETRY)
	{
		answer->outcome = "retry_later";
		answer->retry_after_ms = answer_ms(row->retry_at - now);
	}
	else if (row->state == KEY_COMPENSATING)
		answer->outcome = "compensating";
	else
		answer->outcome = row->state == KEY_FAILED ? "failed" : "exhausted";
}

/*
 * Turn the row of a running attempt into that of a failure, which is
 * remembered for so long (microseconds) from now.
 */
void
failure_apply(const Policy *policy, const Failure *failure, TimestampTz now,
			  int64 retention, KeyRow *row, FailureAnswer *answer)
{
	row->response = NULL;
	row->error = (struct varlena *) failure->error;
	row->retry_at = NO_TIME;
	if (!failure->retryable)
		row->state = KEY_FAILED;
	else if (row->attempt >= policy->max_attempts)
		row->state = KEY_EXHAUSTED;
	else
	{
		int64		delay = failure->retry_after_ms >= 0 ?
			failure->retry_after_ms * USECS_PER_MSEC :
			failure_backoff(policy, row->attempt);

		/* what is forgotten sooner may be tried again sooner */
		row->state = KEY_RETRY;
		row->retry_at = now + Min(delay, retention);
	}
	failure_answer(row, now, answer);
}

/* The policy says that a failure for good is not remembered. */
void
failure_released(const KeyRow *row, FailureAnswer *answer)
{
	answer->outcome = "released";
	answer->attempt = row->attempt;
	answer->retry_after_ms = -1;
}

/*
 * Has the row been settled by this very failure?  Then that is answered again.
 */
bool
failure_repeats(const KeyRow *row, const Failure *failure, TimestampTz now,
				FailureAnswer *answer)
{
	if (row->state != KEY_FAILED && row->state != KEY_RETRY &&
		row->state != KEY_EXHAUSTED && row->state != KEY_COMPENSATING)
		return false;
	if (row->state != KEY_COMPENSATING &&
		(row->state != KEY_FAILED) != failure->retryable)
		return false;
	if (!keyrow_same_text(row->error, failure->error))
		return false;
	failure_answer(row, now, answer);
	return true;
}

/* What a settled row is counted as. */
StatsCounter
failure_counter(const KeyRow *row)
{
	if (row->state == KEY_SUCCEEDED)
		return STATS_FINISHED;
	return row->state == KEY_RETRY ? STATS_RETRIED : STATS_FAILED;
}

/* What a settled row is recorded as; one that succeeded, of a leased claim. */
EntryDecision
failure_decision(const KeyRow *row)
{
	switch (row->state)
	{
		case KEY_SUCCEEDED:
			return ENTRY_FINISHED;
		case KEY_RETRY:
			return ENTRY_RETRY;
		case KEY_EXHAUSTED:
			return ENTRY_EXHAUSTED;
		default:
			return ENTRY_FAILED;
	}
}
