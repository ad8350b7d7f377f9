/*-------------------------------------------------------------------------
 *
 * stats.h
 *		Counts and latencies per scope, in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_STATS_H
#define IDEMPOTENCY_STATS_H

#include "port/atomics.h"

#include "identity.h"

/* what is counted, in the order of the columns of view stats */
typedef enum StatsCounter
{
	STATS_EXECUTED,				/* claims by their answers */
	STATS_RESUMED,
	STATS_REPLAYED,
	STATS_IN_PROGRESS,
	STATS_MISMATCHED,
	STATS_RETRY_LATER,
	STATS_EXHAUSTED,
	STATS_INDETERMINATE,
	STATS_EXPIRED,
	STATS_FINISHED,				/* settlements that were committed */
	STATS_FAILED,
	STATS_RETRIED,
	STATS_RELEASED,
	STATS_ABORTED,				/* claims that were rolled back */
	STATS_LATE_DUPLICATES,		/* claims of a key that had expired */
	STATS_TAKEOVERS,			/* of leases that were over */
	STATS_FENCE_REFUSED,
	STATS_WAITS,				/* for somebody who had the key */
	STATS_WAIT_US,
	STATS_BREAKER_REFUSED,		/* of those told to come again: by whom */
	STATS_LIMITED_CLAIMS,
	STATS_LIMITED_RUNNING,
	STATS_LIMITED_REPLAYS,
	STATS_BREAKER_OPENED,
	STATS_GAPS,					/* events that came before another */
	STATS_LATE_EVENTS,			/* events that came after a later one */
	STATS_LATE_US,				/* how late the late duplicates came */
	STATS_LATE_MAX_US,			/* a maximum, not a sum */
	STATS_COUNTERS,
	STATS_NONE = STATS_COUNTERS
} StatsCounter;

/* whose latencies are counted; the names are in stats_show.c */
typedef enum StatsFunction
{
	STATS_CLAIM,				/* claim_or_raise and dedup, too */
	STATS_CLAIM_MANY,
	STATS_ONCE,
	STATS_RUN,					/* without the command */
	STATS_FINISH,
	STATS_FAIL,
	STATS_RELEASE,
	STATS_HEARTBEAT,
	STATS_CHECKPOINT,
	STATS_ASSERT_FENCE,
	STATS_ACCEPT,
	STATS_ACCEPT_MANY,
	STATS_EMIT,
	STATS_COMPENSATE_WITH,
	STATS_STEP_DONE,
	STATS_COMPENSATE,
	STATS_NEXT_COMPENSATION,
	STATS_SETTLE_COMPENSATION,
	STATS_COMPENSATION,			/* an attempt by a SQL handler, without that */
	STATS_WAITING,				/* how long those waited that did */
	STATS_FUNCTIONS,
	STATS_LATE = STATS_FUNCTIONS,	/* late duplicates, in seconds */
	STATS_HISTOGRAMS
} StatsFunction;

/*
 * Latencies are counted by microseconds, in four classes an octave: class
 * 4 * n + m holds those from 2^n * (1 + m/4) on.
 */
#define STATS_LATENCY_OCTAVES	24
#define STATS_LATENCY_CLASSES	(4 * STATS_LATENCY_OCTAVES)

/* a scope's place in shared memory, the same in all areas; 0 is "the others" */
typedef int StatsSlot;

#define STATS_NO_SLOT		(-1)	/* there is no shared memory */
#define STATS_OTHERS		0

extern void stats_init(void);
extern int	stats_slots(void);
extern StatsSlot stats_slot(const char *scope, int scope_len);
extern StatsSlot stats_known_slot(const char *scope, int scope_len);
extern bool stats_slot_name(StatsSlot slot, Oid *database, const char **scope,
							int *scope_len);
extern void stats_count(StatsSlot slot, StatsCounter counter, uint64 n);
extern TimestampTz stats_reset_at(StatsSlot slot);
extern uint64 stats_read(StatsSlot slot, StatsCounter counter);
extern void stats_latency(StatsSlot slot, StatsFunction function, int64 usec);
extern void stats_late(StatsSlot slot, int64 usec);
extern bool stats_are_on(void);
extern const char *stats_function_name(StatsFunction function);

#endif							/* IDEMPOTENCY_STATS_H */
