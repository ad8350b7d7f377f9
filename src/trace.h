/*-------------------------------------------------------------------------
 *
 * trace.h
 *		Which distributed trace a call belongs to, and what it does when.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_TRACE_H
#define IDEMPOTENCY_TRACE_H

#define TRACE_ID_LENGTH 16
#define TRACE_SPAN_LENGTH 8

/* what the client's traceparent says */
typedef struct TraceContext
{
	uint8		id[TRACE_ID_LENGTH];
	uint8		parent[TRACE_SPAN_LENGTH];
	bool		sampled;
} TraceContext;

/* a part of a call that has a span of its own */
typedef enum TraceStep
{
	TRACE_LOCK_WAIT,			/* for the key's lock */
	TRACE_HOLDER_WAIT,			/* for the transaction, or lease, that has it */
	TRACE_PROBE,
	TRACE_INSERT,
	TRACE_UPDATE,
	TRACE_DELETE,
	TRACE_COMMAND,				/* of run() */
	TRACE_HANDLER,				/* of a step that is undone */
	TRACE_STEPS
} TraceStep;

/* the steps of one call, as far as there is room */
#define TRACE_STEPS_MAX 12

typedef struct TraceTimed
{
	TraceStep	step;
	int64		began;			/* by trace_clock() */
	int64		ended;
} TraceTimed;

typedef struct TraceSteps
{
	int			n;
	TraceTimed	timed[TRACE_STEPS_MAX];
} TraceSteps;

/* those of the call that runs, if it is recorded; else NULL */
extern TraceSteps *trace_recording;

/* counts a traceparent that can't be parsed; or NULL */
extern void (*trace_unparsable_hook) (void);

extern const TraceContext *trace_context(void);
extern bool trace_current(uint8 id[TRACE_ID_LENGTH]);
extern int64 trace_clock(void);
extern void trace_step(TraceStep step, int64 began);

/* A step begins; the result is for trace_end(). */
static inline int64
trace_begin(void)
{
	return unlikely(trace_recording != NULL) ? trace_clock() : 0;
}

/* The step that began then ends. */
static inline void
trace_end(TraceStep step, int64 began)
{
	if (unlikely(began != 0))
		trace_step(step, began);
}

#endif							/* IDEMPOTENCY_TRACE_H */
