/*-------------------------------------------------------------------------
 *
 * span.h
 *		Spans of calls, in shared memory, until somebody takes them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_SPAN_H
#define IDEMPOTENCY_SPAN_H

#include "stats.h"
#include "trace.h"

#define SPAN_OUTCOME_MAX	16
#define SPAN_REASON_MAX		24

/* whose child a call is */
typedef struct SpanParent
{
	uint8		trace[TRACE_ID_LENGTH];
	uint8		span[TRACE_SPAN_LENGTH];
	bool		has_span;		/* else it is the first of its trace */
	bool		is_remote;		/* the client's */
} SpanParent;

/* a call, or a step of one */
typedef struct Span
{
	bool		taken;
	bool		is_step;
	uint8		function;		/* StatsFunction */
	uint8		step;			/* TraceStep */
	Oid			database;
	int32		pid;
	int32		sqlstate;		/* 0: it ended well */
	int32		attempt;		/* 0: none */
	int64		fence;			/* 0: none */
	int64		started;		/* nanoseconds since 1970 */
	int64		duration;		/* nanoseconds */
	SpanParent	parent;
	uint8		id[TRACE_SPAN_LENGTH];
	char		outcome[SPAN_OUTCOME_MAX];	/* "": none */
	char		reason[SPAN_REASON_MAX];
	int32		scope_len;
	char		scope[SCOPE_MAX_BYTES];
} Span;

/* what became of spans since the server was started */
typedef struct SpanCounts
{
	int64		room;
	int64		used;
	int64		recorded;
	int64		dropped;
	int64		taken;
	int64		unparsable;		/* traceparents */
} SpanCounts;

extern void span_init(void);
extern bool span_sample(const SpanParent *outer, SpanParent *parent);
extern void span_new_id(uint8 id[TRACE_SPAN_LENGTH]);
extern void span_record(Span *call, int64 began, const TraceSteps *steps);
extern int	span_room(void);
extern int	span_copy(Span *spans, int max, bool take);
extern void span_counts(SpanCounts *counts);

#endif							/* IDEMPOTENCY_SPAN_H */
