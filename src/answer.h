/*-------------------------------------------------------------------------
 *
 * answer.h
 *		What a claim is answered, and how SQL sees it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_ANSWER_H
#define IDEMPOTENCY_ANSWER_H

#include "fmgr.h"
#include "keyrow.h"

typedef enum Outcome
{
	OUTCOME_EXECUTE,
	OUTCOME_RESUME,
	OUTCOME_REPLAY,
	OUTCOME_IN_PROGRESS,
	OUTCOME_MISMATCH,
	OUTCOME_RETRY_LATER,
	OUTCOME_EXHAUSTED,
	OUTCOME_INDETERMINATE,
	OUTCOME_EXPIRED
} Outcome;

typedef struct Answer
{
	Outcome		outcome;
	bool		failed;
	text	   *response;		/* NULL: none */
	text	   *error;			/* NULL: none */
	int64		fence;			/* NO_FENCE: none */
	int32		attempt;		/* 0: unknown */
	text	   *recovery_point; /* NULL: none */
	text	   *state;			/* NULL: none */
	int64		retry_after_ms; /* negative: none */
	const char *reason;			/* NULL: none */
	TimestampTz claimed_at;		/* NO_TIME: unknown, here and below */
	TimestampTz finished_at;
	TimestampTz lease_until;
	TimestampTz expires_at;
} Answer;

/* columns of claim()'s result; peek() and claim_many() add some */
#define ANSWER_COLUMNS 14

extern const char *answer_outcome_name(Outcome outcome);
extern void answer_init(Answer *answer, Outcome outcome);
extern void answer_from_row(Answer *answer, Outcome outcome,
							const KeyRow *row);
extern void answer_granted(Answer *answer, const KeyRow *row, bool resume);
extern void answer_running(Answer *answer, const KeyRow *row, TimestampTz now);
extern void answer_backoff(Answer *answer, const KeyRow *row, TimestampTz now);
extern int64 answer_ms(int64 duration);
extern void answer_values(const Answer *answer, Datum *values, bool *isnull);
extern Datum answer_datum(FunctionCallInfo fcinfo, const Answer *answer);
extern void answer_raise(const Answer *answer, const char *scope,
						 int scope_len);

extern bool answer_gate(const Answer *answer, const char *scope,
						int scope_len);

#endif							/* IDEMPOTENCY_ANSWER_H */
