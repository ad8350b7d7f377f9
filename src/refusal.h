/*-------------------------------------------------------------------------
 *
 * refusal.h
 *		One line of the log for each class of refusals, now and then.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_REFUSAL_H
#define IDEMPOTENCY_REFUSAL_H

/* the names are in refusal.c */
typedef enum RefusalClass
{
	REFUSAL_NONE,
	REFUSAL_IN_PROGRESS,
	REFUSAL_MISMATCH,
	REFUSAL_BACKOFF,
	REFUSAL_BREAKER,
	REFUSAL_LIMIT,
	REFUSAL_EXHAUSTED,
	REFUSAL_INDETERMINATE,
	REFUSAL_EXPIRED,
	REFUSAL_FENCE,
	REFUSAL_UNKNOWN,
	REFUSAL_UNSETTLED,
	REFUSAL_ROLE,
	REFUSAL_TOKEN,
	REFUSAL_TOO_LARGE,
	REFUSAL_ARGUMENT,
	REFUSAL_CLASSES
} RefusalClass;

/* what a line tells */
typedef struct Refusal
{
	RefusalClass class;
	const char *function;		/* or NULL */
	const char *scope;
	int			scope_len;		/* 0: none */
	const char *reason;			/* or NULL */
	int			sqlstate;		/* 0: it was no error */
} Refusal;

extern void refusal_init(void);
extern RefusalClass refusal_class_of(int sqlstate);
extern void refusal_log(const Refusal *refusal);

#endif							/* IDEMPOTENCY_REFUSAL_H */
