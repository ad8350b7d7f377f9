/*-------------------------------------------------------------------------
 *
 * watch.c
 *		What is seen of a call: its latency, its spans, its refusal.
 *
 * A function that SQL calls goes through watch_call(), which takes the time
 * and, if the call is sampled, has it recorded with its steps.  What the call
 * is about and how it was answered is told from inside, by whoever knows.  A
 * call that ends with an error has a span, but isn't counted among latencies.
 *
 * Calls can be nested: the command of run() can call claim().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "guc.h"
#include "notable.h"
#include "span.h"
#include "watch.h"

/* a call under way */
typedef struct Watch
{
	struct Watch *outer;
	StatsFunction function;
	TimestampTz began;
	int64		waited;			/* identity_waited when it began */
	int64		paused;			/* microseconds that aren't the call's */
	int64		paused_waited;	/* identity_waited when it paused */
	bool		is_refused;		/* and that has been told */
	bool		is_traced;
	int64		clock;			/* trace_clock() when it began, if traced */
	TraceSteps *outer_steps;
	int			scope_len;		/* 0: not known */
	char		scope[SCOPE_MAX_BYTES];
	Span		span;			/* the rest is filled in if traced */
	TraceSteps	steps;
} Watch;

/* the innermost call */
static Watch *watch_current = NULL;

/* A call begins to be recorded, if it is sampled. */
static void
watch_begin_span(Watch *watch)
{
	SpanParent	outer;
	SpanParent	parent;
	bool		has_outer = watch->outer && watch->outer->is_traced;
	Span	   *span = &watch->span;

	if (has_outer)
	{
		outer = watch->outer->span.parent;
		memcpy(outer.span, watch->outer->span.id, TRACE_SPAN_LENGTH);
		outer.has_span = true;
		outer.is_remote = false;
	}
	watch->is_traced = span_sample(has_outer ? &outer : NULL, &parent);
	if (!watch->is_traced)
		return;
	memset(span, 0, sizeof(*span));
	span->parent = parent;
	span->function = watch->function;
	span->started = (watch->began + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
					 USECS_PER_DAY) * 1000;
	span_new_id(span->id);
	watch->steps.n = 0;
	trace_recording = &watch->steps;
	watch->clock = trace_clock();
}

/* A call begins. */
static void
watch_begin(Watch *watch, StatsFunction function)
{
	watch->outer = watch_current;
	watch->outer_steps = trace_recording;
	watch->function = function;
	watch->began = GetCurrentTimestamp();
	watch->waited = identity_waited;
	watch->paused = 0;
	watch->scope_len = 0;
	watch->is_refused = false;
	watch->is_traced = false;
	trace_recording = NULL;
	if (unlikely(guc_trace_sample_rate > 0))
		watch_begin_span(watch);
	watch_current = watch;
}

/* A call has ended, with an error if sqlstate isn't 0: record it. */
static void
watch_end(Watch *watch, int sqlstate)
{
	watch_current = watch->outer;
	trace_recording = watch->outer_steps;
	if (!watch->is_traced)
		return;
	watch->span.duration = trace_clock() - watch->clock;
	if (sqlstate != 0)
		watch->span.sqlstate = sqlstate;
	watch->span.scope_len = watch->scope_len;
	memcpy(watch->span.scope, watch->scope, watch->scope_len);
	span_record(&watch->span, watch->clock, &watch->steps);
}

/* A call has ended well: count how long it took, and how long it waited. */
static void
watch_count(const Watch *watch)
{
	int64		waited = identity_waited - watch->waited;
	TimestampTz now;
	int64		usec;
	StatsSlot	slot;

	if (!stats_are_on() || watch->scope_len == 0)
		return;
	slot = stats_slot(watch->scope, watch->scope_len);
	now = GetCurrentTimestamp();
	usec = now - watch->began - waited - watch->paused;
	stats_latency(slot, watch->function, usec);
	notable_call(slot, watch->function, usec, waited, now);
	if (waited > 0)
	{
		stats_count(slot, STATS_WAITS, 1);
		stats_count(slot, STATS_WAIT_US, waited);
		stats_latency(slot, STATS_WAITING, waited);
	}
}

/* A call has ended with an error, which the caller raises again. */
static void
watch_failed(Watch *watch)
{
	int			sqlstate = geterrcode();

	watch_end(watch, sqlstate);
	if (unlikely(guc_log_refusals != LOG_REFUSALS_OFF) && !watch->is_refused)
	{
		Refusal		refusal = {
			.class = refusal_class_of(sqlstate),
			.function = stats_function_name(watch->function),
			.scope = watch->scope,
			.scope_len = watch->scope_len,
			.sqlstate = sqlstate
		};

		refusal_log(&refusal);
	}
}

/* Call the function, and see what it does.  Raises what it raises. */
Datum
watch_call(FunctionCallInfo fcinfo, StatsFunction function, PGFunction callee)
{
	Watch		watch;
	Datum		result;

	if (!stats_are_on() && guc_trace_sample_rate <= 0 &&
		guc_log_refusals == LOG_REFUSALS_OFF)
		return callee(fcinfo);
	watch_begin(&watch, function);
	PG_TRY();
	{
		result = callee(fcinfo);
	}
	PG_CATCH();
	{
		watch_failed(&watch);
		PG_RE_THROW();
	}
	PG_END_TRY();
	watch_end(&watch, 0);
	watch_count(&watch);
	return result;
}

/* Tell of which scope the call is, first; it has been checked. */
void
watch_scope(const char *scope, int scope_len)
{
	Watch	   *watch = watch_current;

	if (watch == NULL || watch->scope_len > 0 || scope_len > SCOPE_MAX_BYTES)
		return;
	watch->scope_len = scope_len;
	memcpy(watch->scope, scope, scope_len);
}

/* Tell how the call is answered; reason may be NULL, and the rest 0. */
void
watch_answer(const char *outcome, const char *reason, int64 fence,
			 int32 attempt)
{
	Watch	   *watch = watch_current;

	if (watch == NULL || !watch->is_traced)
		return;
	strlcpy(watch->span.outcome, outcome, SPAN_OUTCOME_MAX);
	strlcpy(watch->span.reason, reason ? reason : "", SPAN_REASON_MAX);
	watch->span.fence = fence;
	watch->span.attempt = attempt;
}

/*
 * Tell that what the call is for ended with an error, which doesn't end the
 * call; how it is answered is told after that.
 */
void
watch_error(int sqlstate)
{
	Watch	   *watch = watch_current;

	if (watch == NULL || !watch->is_traced)
		return;
	watch->span.sqlstate = sqlstate;
	watch->span.outcome[0] = '\0';
}

/* Tell that the call, or a part of it, is refused, by its answer. */
void
watch_refused(const char *scope, int scope_len, RefusalClass class,
			  const char *reason)
{
	Refusal		refusal = {class, NULL, scope, scope_len, reason, 0};

	if (likely(guc_log_refusals == LOG_REFUSALS_OFF))
		return;
	if (watch_current)
	{
		refusal.function = stats_function_name(watch_current->function);
		watch_current->is_refused = true;
	}
	refusal_log(&refusal);
}

/* The call does something else from now on, until watch_resume(). */
int64
watch_pause(void)
{
	if (watch_current == NULL)
		return 0;
	watch_current->paused_waited = identity_waited;
	return GetCurrentTimestamp();
}

/* It goes on; the argument is what watch_pause() returned. */
void
watch_resume(int64 paused)
{
	Watch	   *watch = watch_current;

	if (watch == NULL || paused == 0)
		return;
	watch->paused += GetCurrentTimestamp() - paused;
	watch->waited += identity_waited - watch->paused_waited;
}
