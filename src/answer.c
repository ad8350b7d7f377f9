/*-------------------------------------------------------------------------
 *
 * answer.c
 *		What a claim is answered, as a row or as an error.
 *
 * The columns are the same wherever a claim is answered; a column that says
 * nothing for an outcome is NULL.  The fence is only told to its holder.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "answer.h"
#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "store.h"

/* columns of src/sql/claim.sql, counted from 0 */
enum
{
	ANSWER_OUTCOME,
	ANSWER_RESPONSE,
	ANSWER_FAILED,
	ANSWER_ERROR,
	ANSWER_FENCE,
	ANSWER_ATTEMPT,
	ANSWER_RECOVERY_POINT,
	ANSWER_STATE,
	ANSWER_RETRY_AFTER_MS,
	ANSWER_REASON,
	ANSWER_CLAIMED_AT,
	ANSWER_FINISHED_AT,
	ANSWER_LEASE_UNTIL,
	ANSWER_EXPIRES_AT
};

static const char *const outcome_names[] = {
	[OUTCOME_EXECUTE] = "execute",
	[OUTCOME_RESUME] = "resume",
	[OUTCOME_REPLAY] = "replay",
	[OUTCOME_IN_PROGRESS] = "in_progress",
	[OUTCOME_MISMATCH] = "mismatch",
	[OUTCOME_RETRY_LATER] = "retry_later",
	[OUTCOME_EXHAUSTED] = "exhausted",
	[OUTCOME_INDETERMINATE] = "indeterminate",
	[OUTCOME_EXPIRED] = "expired"
};

/* How an outcome is called. */
const char *
answer_outcome_name(Outcome outcome)
{
	return outcome_names[outcome];
}

/* An answer that says only its outcome. */
void
answer_init(Answer *answer, Outcome outcome)
{
	memset(answer, 0, sizeof(*answer));
	answer->outcome = outcome;
	answer->retry_after_ms = -1;
	answer->claimed_at = NO_TIME;
	answer->finished_at = NO_TIME;
	answer->lease_until = NO_TIME;
	answer->expires_at = NO_TIME;
}

/*
 * An answer that tells what a row remembers.  The row's table is locked.
 */
void
answer_from_row(Answer *answer, Outcome outcome, const KeyRow *row)
{
	answer_init(answer, outcome);
	answer->failed = row->state != KEY_SUCCEEDED && row->state != KEY_RUNNING;
	answer->response = store_detoast(row->response);
	answer->error = store_detoast(row->error);
	answer->attempt = row->attempt;
	answer->claimed_at = row->claimed_at;
	answer->finished_at = row->finished_at;
	answer->expires_at = row->expires_at;
	if (row->withheld == WITHHELD_ERASED)
		answer->reason = "erased";
}

/*
 * An answer to whom the key was given: what the row says of the claim, and
 * what an earlier attempt has left.  The row's table is locked.
 */
void
answer_granted(Answer *answer, const KeyRow *row, bool resume)
{
	answer_init(answer, resume || row->recovery_point ?
				OUTCOME_RESUME : OUTCOME_EXECUTE);
	answer->fence = row->state == KEY_RUNNING ? row->fence : NO_FENCE;
	answer->attempt = row->attempt;
	answer->recovery_point = store_detoast(row->recovery_point);
	answer->state = store_detoast(row->saved_state);
	answer->claimed_at = row->claimed_at;
	answer->lease_until = row->lease_until;
	answer->expires_at = row->expires_at;
}

/* An answer to others while somebody holds the key. */
void
answer_running(Answer *answer, const KeyRow *row, TimestampTz now)
{
	answer_init(answer, OUTCOME_IN_PROGRESS);
	answer->attempt = row->attempt;
	answer->claimed_at = row->claimed_at;
	answer->lease_until = row->lease_until;
	answer->retry_after_ms = answer_ms(row->lease_until - now);
}

/*
 * A duration in ms, rounded up, so that nobody comes back too early; 0 for
 * what is over.
 */
int64
answer_ms(int64 duration)
{
	return duration <= 0 ? 0 :
		(duration + USECS_PER_MSEC - 1) / USECS_PER_MSEC;
}

/* Say when what failed may be tried again. */
void
answer_backoff(Answer *answer, const KeyRow *row, TimestampTz now)
{
	answer->retry_after_ms = answer_ms(row->retry_at - now);
	answer->reason = "backoff";
}

/* Set one nullable timestamp column. */
static void
answer_set_time(Datum *values, bool *isnull, int column, TimestampTz at)
{
	isnull[column] = at == NO_TIME;
	values[column] = TimestampTzGetDatum(at);
}

/* Set one nullable text column. */
static void
answer_set_text(Datum *values, bool *isnull, int column, text *value)
{
	isnull[column] = value == NULL;
	values[column] = PointerGetDatum(value);
}

/* Fill in the ANSWER_COLUMNS columns of a result row. */
void
answer_values(const Answer *answer, Datum *values, bool *isnull)
{
	memset(isnull, true, ANSWER_COLUMNS * sizeof(bool));

	values[ANSWER_OUTCOME] =
		CStringGetTextDatum(outcome_names[answer->outcome]);
	isnull[ANSWER_OUTCOME] = false;
	values[ANSWER_FAILED] = BoolGetDatum(answer->failed);
	isnull[ANSWER_FAILED] = false;
	answer_set_text(values, isnull, ANSWER_RESPONSE, answer->response);
	answer_set_text(values, isnull, ANSWER_ERROR, answer->error);
	values[ANSWER_FENCE] = Int64GetDatum(answer->fence);
	isnull[ANSWER_FENCE] = answer->fence == NO_FENCE;
	answer_set_text(values, isnull, ANSWER_RECOVERY_POINT,
					answer->recovery_point);
	answer_set_text(values, isnull, ANSWER_STATE, answer->state);
	values[ANSWER_ATTEMPT] = Int32GetDatum(answer->attempt);
	isnull[ANSWER_ATTEMPT] = answer->attempt == 0;
	values[ANSWER_RETRY_AFTER_MS] = Int64GetDatum(answer->retry_after_ms);
	isnull[ANSWER_RETRY_AFTER_MS] = answer->retry_after_ms < 0;
	if (answer->reason)
	{
		values[ANSWER_REASON] = CStringGetTextDatum(answer->reason);
		isnull[ANSWER_REASON] = false;
	}
	answer_set_time(values, isnull, ANSWER_CLAIMED_AT, answer->claimed_at);
	answer_set_time(values, isnull, ANSWER_FINISHED_AT, answer->finished_at);
	answer_set_time(values, isnull, ANSWER_LEASE_UNTIL, answer->lease_until);
	answer_set_time(values, isnull, ANSWER_EXPIRES_AT, answer->expires_at);
}

/* The result row of a function that returns claim()'s columns. */
Datum
answer_datum(FunctionCallInfo fcinfo, const Answer *answer)
{
	Datum		values[ANSWER_COLUMNS];
	bool		isnull[ANSWER_COLUMNS];
	TupleDesc	desc = catalog_result_desc(fcinfo);

	answer_values(answer, values, isnull);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, isnull));
}

/* How long a client should wait, as an error's detail. */
static int
answer_errdetail(const Answer *answer)
{
	if (answer->retry_after_ms < 0)
		return 0;
	return errdetail("Retry after %lld ms.",
					 (long long) answer->retry_after_ms);
}

/* Raises ID409; it is this transaction itself, or another that is at it. */
static void
answer_raise_in_progress(const Answer *answer, const char *scope,
						 int scope_len)
{
	bool		own = answer->reason &&
		strcmp(answer->reason, "own_transaction") == 0;
	bool		undone = answer->reason != NULL && !own;

	ereport(ERROR,
			(errcode(ERRCODE_IDEM_IN_PROGRESS),
			 errmsg("the operation is in progress, in scope \"%.*s\"",
					scope_len, scope),
			 own ?
			 errdetail("This transaction has claimed the key and has not settled it.") :
			 undone ?
			 errdetail("What was done is being undone.") :
			 answer_errdetail(answer),
			 own ? errhint("Call finish(), fail() or release() first.") :
			 errhint("Retry with the same key; the answer will be the stored one, or yours to execute.")));
}

/*
 * Raise the error that stands for an outcome; returns if the outcome is an
 * answer that a caller can go on with.
 */
void
answer_raise(const Answer *answer, const char *scope, int scope_len)
{
	switch (answer->outcome)
	{
		case OUTCOME_EXECUTE:
		case OUTCOME_RESUME:
		case OUTCOME_REPLAY:
			return;
		case OUTCOME_IN_PROGRESS:
			answer_raise_in_progress(answer, scope, scope_len);
			break;
		case OUTCOME_MISMATCH:
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_MISMATCH),
					 errmsg("the idempotency key was used for another request, in scope \"%.*s\"",
							scope_len, scope),
					 errhint("Do not retry.  Send the original request, or use a new key for a new operation.")));
			break;
		case OUTCOME_RETRY_LATER:
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_RETRY_LATER),
					 errmsg("the operation must not be retried yet, in scope \"%.*s\"",
							scope_len, scope),
					 answer_errdetail(answer),
					 errhint("Retry with the same key after that time.")));
			break;
		case OUTCOME_EXHAUSTED:
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_EXHAUSTED),
					 errmsg_plural("the operation failed %d time and is not tried again, in scope \"%.*s\"",
								   "the operation failed %d times and is not tried again, in scope \"%.*s\"",
								   answer->attempt, answer->attempt,
								   scope_len, scope),
					 errhint("Do not retry; escalate.  peek() shows the last error to those who may see it.")));
			break;
		case OUTCOME_INDETERMINATE:
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_INDETERMINATE),
					 errmsg("nobody knows whether the operation took effect, in scope \"%.*s\"",
							scope_len, scope),
					 errdetail("A lease ran out before the claim was settled, and the scope's policy is on_lease_expiry => 'indeterminate'."),
					 errhint("Do not retry; escalate.  Somebody has to find out, and call resolve().")));
			break;
		case OUTCOME_EXPIRED:
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_EXPIRED),
					 errmsg("the request was first sent before anything that is remembered, in scope \"%.*s\"",
							scope_len, scope),
					 errhint("Do not retry.  Find out whether the operation took effect, and use a new key if it did not.")));
			break;
	}
}

/*
 * The answer of a gate, which knows only yes (true) and no: raises the error
 * that stands for anything else, and ID508 for what failed for good, which was
 * never done.
 */
bool
answer_gate(const Answer *answer, const char *scope, int scope_len)
{
	answer_raise(answer, scope, scope_len);
	if (answer->outcome == OUTCOME_REPLAY && answer->failed)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_EXHAUSTED),
				 errmsg("the operation failed for good, in scope \"%.*s\"",
						scope_len, scope),
				 errhint("Do not retry; escalate.  peek() shows the error to those who may see it.")));
	return answer->outcome == OUTCOME_EXECUTE ||
		answer->outcome == OUTCOME_RESUME;
}
