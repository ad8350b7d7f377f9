/*-------------------------------------------------------------------------
 *
 * stats_area.h
 *		The memory that statistics are in: for the parts of stats alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_STATS_AREA_H
#define IDEMPOTENCY_STATS_AREA_H

#include "storage/lwlock.h"

#include "stats.h"

/* one scope of one database */
typedef struct StatsScope
{
	Oid			database;
	int32		scope_len;
	char		scope[SCOPE_MAX_BYTES];
	pg_atomic_uint64 reset_at;	/* TimestampTz */
	pg_atomic_uint64 counters[STATS_COUNTERS];
	pg_atomic_uint64 latency[STATS_HISTOGRAMS][STATS_LATENCY_CLASSES];
	pg_atomic_uint64 latency_us[STATS_FUNCTIONS];
} StatsScope;

typedef struct StatsArea
{
	LWLock	   *lock;			/* for new slots */
	int			nslots;			/* in use; only grows */
	int			max_slots;
	int			buckets;		/* a power of two */
	pg_atomic_uint64 saved_at;	/* when the file was written, or begun */
	Size		table;			/* offset of the table of slot numbers */
	StatsScope	slots[FLEXIBLE_ARRAY_MEMBER];
} StatsArea;

extern StatsArea *stats_area;

extern void stats_clear_slot(StatsScope *slot);
extern void stats_publish(StatsSlot number);
extern double stats_class_begin(int class);
extern void stats_load(void);
extern void stats_save_at_exit(int code, Datum arg);
extern void stats_save_now_and_then(int step);

#endif							/* IDEMPOTENCY_STATS_AREA_H */
