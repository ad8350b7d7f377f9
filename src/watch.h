/*-------------------------------------------------------------------------
 *
 * watch.h
 *		What is seen of a call: its latency, its spans, its refusal.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_WATCH_H
#define IDEMPOTENCY_WATCH_H

#include "fmgr.h"

#include "identity.h"
#include "refusal.h"
#include "stats.h"

/*
 * Define the function that SQL calls, of the one that does what it is for, as
 * one that is watched.
 */
#define WATCH_FUNCTION(name, function, callee) \
	Datum \
	name(PG_FUNCTION_ARGS) \
	{ \
		return watch_call(fcinfo, function, callee); \
	} \
	extern int	no_such_variable

extern Datum watch_call(FunctionCallInfo fcinfo, StatsFunction function,
						PGFunction callee);
extern void watch_scope(const char *scope, int scope_len);
extern void watch_answer(const char *outcome, const char *reason, int64 fence,
						 int32 attempt);
extern void watch_error(int sqlstate);
extern void watch_refused(const char *scope, int scope_len,
						  RefusalClass class, const char *reason);
extern int64 watch_pause(void);
extern void watch_resume(int64 paused);

#endif							/* IDEMPOTENCY_WATCH_H */
