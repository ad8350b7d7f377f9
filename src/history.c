/*-------------------------------------------------------------------------
 *
 * history.c
 *		The last hour of a scope's duplicates, minute by minute.
 *
 * Whether a rate of duplicates is unusual can only be said beside the scope's
 * own past.  The worker takes a sample of the statistics every minute; here
 * the last HISTORY_SAMPLES of each scope are kept, and compared with what has
 * been counted since.
 *
 * Locking: one area's lock; the worker of a database writes, whoever looks
 * reads.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "duty.h"
#include "history.h"
#include "shmem.h"
#include "stats.h"

#define HISTORY_SAMPLES	60
#define HISTORY_RECENT	5		/* the latest of them are "now" */
#define HISTORY_EVERY	USECS_PER_MINUTE
#define HISTORY_SLACK	(2 * USECS_PER_SEC)

COMPAT_FUNCTION_INFO(idempotency_duplicate_rates);

/* what had been counted at a moment */
typedef struct HistorySample
{
	uint64		claims;			/* executed, resumed or replayed */
	uint64		replays;
	uint64		mismatches;
	uint64		late;
} HistorySample;

typedef struct History
{
	TimestampTz sampled_at;
	TimestampTz reset_at;		/* of the counts that were sampled */
	int			n;
	HistorySample samples[HISTORY_SAMPLES]; /* oldest first */
} History;

typedef struct HistoryArea
{
	LWLock	   *lock;
	History		histories[FLEXIBLE_ARRAY_MEMBER];	/* by slot */
} HistoryArea;

static HistoryArea *history_area = NULL;

/* Bytes of shared memory. */
static Size
history_size(void)
{
	return offsetof(HistoryArea, histories) + stats_slots() * sizeof(History);
}

/* Make the area. */
static void
history_init_area(void *area, LWLock *lock)
{
	history_area = area;
	memset(history_area, 0, history_size());
	history_area->lock = lock;
}

/* What is counted at this moment. */
static HistorySample
history_now(StatsSlot slot)
{
	HistorySample now;

	now.replays = stats_read(slot, STATS_REPLAYED);
	now.claims = now.replays + stats_read(slot, STATS_EXECUTED) +
		stats_read(slot, STATS_RESUMED);
	now.mismatches = stats_read(slot, STATS_MISMATCHED);
	now.late = stats_read(slot, STATS_LATE_DUPLICATES);
	return now;
}

/* Add a sample of a scope; what was reset meanwhile begins anew. */
static void
history_add(History *history, StatsSlot slot)
{
	HistorySample sample = history_now(slot);

	if (history->reset_at != stats_reset_at(slot))
		history->n = 0;
	history->reset_at = stats_reset_at(slot);
	if (history->n == HISTORY_SAMPLES)
		memmove(history->samples, history->samples + 1,
				--history->n * sizeof(HistorySample));
	history->samples[history->n++] = sample;
}

/*
 * Duty: take a sample of each scope of this database, if it is time.
 */
static void
history_sample(int step)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();
	Oid			database;
	const char *scope;
	int			scope_len;

	if (history_area == NULL ||
		(now < last + HISTORY_EVERY && now >= last))
		return;
	last = now;
	LWLockAcquire(history_area->lock, LW_EXCLUSIVE);
	for (StatsSlot i = 1;
		 stats_slot_name(i, &database, &scope, &scope_len); i++)
	{
		History    *history = &history_area->histories[i];

		/* maintain() comes by, too */
		if (database != MyDatabaseId ||
			now < history->sampled_at + HISTORY_EVERY - HISTORY_SLACK)
			continue;
		history->sampled_at = now;
		history_add(history, i);
	}
	LWLockRelease(history_area->lock);
}

/* Ask for the area, and register the duty; called once from _PG_init. */
void
history_init(void)
{
	shmem_register("idempotency history", history_size, history_init_area,
				   (void **) &history_area);
	duty_register("history", 1, history_sample);
}

/* The part of duplicates among the claims between two samples. */
static double
history_rate(HistorySample from, HistorySample to)
{
	return to.claims > from.claims ?
		(double) (to.replays - from.replays) / (to.claims - from.claims) : 0;
}

/*
 * duplicate_rates() returns setof record: scope, recent_claims, recent_rate,
 * hour_claims, hour_rate, recent_mismatches, recent_late
 */
Datum
idempotency_duplicate_rates(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			database;
	const char *scope;
	int			scope_len;

	InitMaterializedSRF(fcinfo, 0);
	for (StatsSlot i = 1;
		 history_area && stats_slot_name(i, &database, &scope, &scope_len);
		 i++)
	{
		History		history;
		HistorySample now;
		HistorySample first;
		HistorySample recent;
		Datum		values[7];
		bool		isnull[7] = {0};

		LWLockAcquire(history_area->lock, LW_SHARED);
		history = history_area->histories[i];
		LWLockRelease(history_area->lock);
		now = history_now(i);
		if (database != MyDatabaseId || history.n == 0 ||
			history.reset_at != stats_reset_at(i))
			continue;
		first = history.samples[0];
		recent = history.samples[Max(history.n - HISTORY_RECENT, 0)];
		values[0] = PointerGetDatum(cstring_to_text_with_len(scope,
															 scope_len));
		values[1] = Int64GetDatum((int64) (now.claims - recent.claims));
		values[2] = Float8GetDatum(history_rate(recent, now));
		values[3] = Int64GetDatum((int64) (recent.claims - first.claims));
		values[4] = Float8GetDatum(history_rate(first, recent));
		values[5] = Int64GetDatum((int64) (now.mismatches -
										   recent.mismatches));
		values[6] = Int64GetDatum((int64) (now.late - recent.late));
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
	}
	return (Datum) 0;
}
