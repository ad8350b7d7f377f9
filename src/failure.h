/*-------------------------------------------------------------------------
 *
 * failure.h
 *		What becomes of an operation that failed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_FAILURE_H
#define IDEMPOTENCY_FAILURE_H

#include "entry.h"
#include "keyrow.h"
#include "policy.h"
#include "stats.h"

#define BACKOFF_MAX			RETENTION_MAX
#define ERROR_MAX_BYTES		(64 * 1024)

/* what fail() asks for */
typedef struct Failure
{
	text	   *error;
	bool		retryable;
	int64		retry_after_ms; /* negative: as the policy's backoff says */
	int64		retention;		/* 0: as the claim's */
} Failure;

/* what fail() answers */
typedef struct FailureAnswer
{
	const char *outcome;
	int32		attempt;
	int64		retry_after_ms; /* negative: none */
} FailureAnswer;

extern int64 failure_backoff(const Policy *policy, int32 attempt);
extern bool failure_is_final(const Policy *policy, const Failure *failure,
							 const KeyRow *row);
extern void failure_answer(const KeyRow *row, TimestampTz now,
						   FailureAnswer *answer);
extern void failure_apply(const Policy *policy, const Failure *failure,
						  TimestampTz now, int64 retention, KeyRow *row,
						  FailureAnswer *answer);
extern void failure_released(const KeyRow *row, FailureAnswer *answer);
extern StatsCounter failure_counter(const KeyRow *row);
extern EntryDecision failure_decision(const KeyRow *row);
extern bool failure_repeats(const KeyRow *row, const Failure *failure,
							TimestampTz now, FailureAnswer *answer);

#endif							/* IDEMPOTENCY_FAILURE_H */
