/*-------------------------------------------------------------------------
 *
 * span.c
 *		Spans of calls, in shared memory, until somebody takes them.
 *
 * A call that is sampled leaves a span, and its steps one each, when it ends;
 * what its transaction does after that doesn't matter.  Where the client's
 * trace says whether it is sampled, that counts; a call without one is sampled
 * by idempotency.trace_sample_rate, with the others of its transaction, of
 * which the first is the parent.  With that setting at 0 nothing is.
 *
 * There is room for so many as idempotency.span_buffer says, of all databases
 * together.  The oldest makes way for a new one, and is counted as dropped
 * unless it was taken.  A restart of the server loses all.
 *
 * Locking: the area's lock, for as long as it takes to copy.  Nothing raises
 * an error under it, so it can be taken while one is handled.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "shmem.h"
#include "span.h"

typedef struct SpanArea
{
	LWLock	   *lock;
	pg_atomic_uint64 unparsable;
	uint64		first;			/* number of the oldest that is there */
	uint64		next;			/* of the next one to come */
	uint64		dropped;
	uint64		taken;
	int			size;
	Span		spans[FLEXIBLE_ARRAY_MEMBER];	/* by number modulo size */
} SpanArea;

static SpanArea *span_area = NULL;

/* a transaction that has no trace of the client's */
static struct
{
	TimestampTz began;			/* by which it is known again */
	bool		is_sampled;
	SpanParent	parent;			/* of its next call */
} span_own;

/* How many spans there is room for. */
static int
span_size(void)
{
	return guc_span_buffer * (Size) 1024 / sizeof(Span);
}

/* Bytes of shared memory. */
static Size
span_bytes(void)
{
	return offsetof(SpanArea, spans) + span_size() * sizeof(Span);
}

/* Make the area. */
static void
span_init_area(void *area, LWLock *lock)
{
	span_area = area;
	memset(span_area, 0, offsetof(SpanArea, spans));
	pg_atomic_init_u64(&span_area->unparsable, 0);
	span_area->lock = lock;
	span_area->size = span_size();
}

/* The trace_unparsable_hook. */
static void
span_count_unparsable(void)
{
	if (span_area)
		pg_atomic_fetch_add_u64(&span_area->unparsable, 1);
}

/* Ask for the area; called once from _PG_init. */
void
span_init(void)
{
	shmem_register("idempotency spans", span_bytes, span_init_area,
				   (void **) &span_area);
	trace_unparsable_hook = span_count_unparsable;
}

/* Fill in random bytes that are not all zero; n is a multiple of 8. */
static void
span_random(uint8 *bytes, int n)
{
	for (int i = 0; i < n; i += sizeof(uint64))
	{
		uint64		value = pg_prng_uint64(&pg_global_prng_state) | 1;

		memcpy(bytes + i, &value, sizeof(value));
	}
}

/* The id of a new span. */
void
span_new_id(uint8 id[TRACE_SPAN_LENGTH])
{
	span_random(id, TRACE_SPAN_LENGTH);
}

/* Sample a call by the rate, or as the others of its transaction. */
static bool
span_sample_own(SpanParent *parent)
{
	TimestampTz began = GetCurrentTransactionStartTimestamp();

	if (span_own.began != began)
	{
		memset(&span_own, 0, sizeof(span_own));
		span_own.began = began;
		span_own.is_sampled =
			pg_prng_double(&pg_global_prng_state) < guc_trace_sample_rate;
		if (span_own.is_sampled)
			span_random(span_own.parent.trace, TRACE_ID_LENGTH);
	}
	*parent = span_own.parent;
	return span_own.is_sampled;
}

/*
 * Is a call that begins now to be recorded?  Then *parent is whose child it
 * is; outer is the call that it is a part of, if that is recorded, or NULL.
 */
bool
span_sample(const SpanParent *outer, SpanParent *parent)
{
	const TraceContext *context;

	if (span_area == NULL || guc_trace_sample_rate <= 0)
		return false;
	if (outer)
	{
		*parent = *outer;
		return true;
	}
	context = trace_context();
	if (context == NULL)
		return span_sample_own(parent);
	memcpy(parent->trace, context->id, TRACE_ID_LENGTH);
	memcpy(parent->span, context->parent, TRACE_SPAN_LENGTH);
	parent->has_span = parent->is_remote = true;
	return context->sampled;
}

/* Put a span into the area.  The caller holds the lock. */
static void
span_put(const Span *span)
{
	if (span_area->next - span_area->first == span_area->size)
	{
		if (!span_area->spans[span_area->first % span_area->size].taken)
			span_area->dropped++;
		span_area->first++;
	}
	span_area->spans[span_area->next++ % span_area->size] = *span;
}

/*
 * Record a call that began at that moment of trace_clock(), and its steps.
 * Raises nothing.
 */
void
span_record(Span *call, int64 began, const TraceSteps *steps)
{
	Span		children[TRACE_STEPS_MAX];

	call->taken = false;
	call->database = MyDatabaseId;
	call->pid = MyProcPid;
	for (int i = 0; i < steps->n; i++)
	{
		Span	   *child = &children[i];

		*child = *call;
		child->is_step = true;
		child->step = steps->timed[i].step;
		child->started += steps->timed[i].began - began;
		child->duration = steps->timed[i].ended - steps->timed[i].began;
		memcpy(child->parent.span, call->id, TRACE_SPAN_LENGTH);
		child->parent.has_span = true;
		child->parent.is_remote = false;
		child->outcome[0] = child->reason[0] = '\0';
		child->fence = child->attempt = child->sqlstate = 0;
		span_new_id(child->id);
	}
	LWLockAcquire(span_area->lock, LW_EXCLUSIVE);
	span_put(call);
	for (int i = 0; i < steps->n; i++)
		span_put(&children[i]);
	LWLockRelease(span_area->lock);

	/* what the transaction calls next goes below its first call */
	if (!call->parent.has_span && !span_own.parent.has_span)
	{
		memcpy(span_own.parent.span, call->id, TRACE_SPAN_LENGTH);
		span_own.parent.has_span = true;
	}
}

/* How many spans there can be at most; 0 without shared memory. */
int
span_room(void)
{
	return span_area ? span_area->size : 0;
}

/*
 * Copy this database's spans, the oldest ones first, up to "max" of them, and
 * take them out if asked to.  Returns how many.
 */
int
span_copy(Span *spans, int max, bool take)
{
	int			n = 0;

	if (span_area == NULL)
		return 0;
	LWLockAcquire(span_area->lock, take ? LW_EXCLUSIVE : LW_SHARED);
	for (uint64 i = span_area->first; i < span_area->next && n < max; i++)
	{
		Span	   *span = &span_area->spans[i % span_area->size];

		if (span->taken || span->database != MyDatabaseId)
			continue;
		spans[n++] = *span;
		span->taken = take;
	}
	if (take)
	{
		span_area->taken += n;
		while (span_area->first < span_area->next &&
			   span_area->spans[span_area->first % span_area->size].taken)
			span_area->first++;
	}
	LWLockRelease(span_area->lock);
	return n;
}

/* What became of all spans; zeros without shared memory. */
void
span_counts(SpanCounts *counts)
{
	memset(counts, 0, sizeof(*counts));
	if (span_area == NULL)
		return;
	LWLockAcquire(span_area->lock, LW_SHARED);
	counts->room = span_area->size;
	counts->used = span_area->next - span_area->first;
	counts->recorded = span_area->next;
	counts->dropped = span_area->dropped;
	counts->taken = span_area->taken;
	LWLockRelease(span_area->lock);
	counts->unparsable = pg_atomic_read_u64(&span_area->unparsable);
}
