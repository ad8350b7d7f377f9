/*-------------------------------------------------------------------------
 *
 * stats.c
 *		Counts and latencies per scope, in shared memory.
 *
 * A scope of a database has a slot from when it is first seen until the server
 * is stopped for good; slot 0 is for all that find no room
 * (idempotency.max_scopes).  Nothing is counted in a transaction, so nothing
 * is lost with it.
 *
 * Locking: counters are atomics.  A slot is found through a table of slot
 * numbers, open addressing, that only grows: a reader needs no lock, as a slot
 * is filled in before its number is published.  Who meets a scope for the
 * first time takes the area's lock.  Without shared memory every slot is
 * STATS_NO_SLOT, and counting it does nothing.
 *
 * What is counted survives a restart: stats_file.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "duty.h"
#include "guc.h"
#include "shmem.h"
#include "stats_area.h"

StatsArea  *stats_area = NULL;

/* The table of slot numbers; 0 is a free bucket. */
static pg_atomic_uint32 *
stats_table(void)
{
	return (pg_atomic_uint32 *) ((char *) stats_area + stats_area->table);
}

/* How many buckets the table has: at most half of them are ever used. */
static int
stats_buckets(void)
{
	return pg_nextpower2_32(2 * (guc_max_scopes + 1));
}

/* How many slots there are, with slot 0; for areas that go by slots. */
int
stats_slots(void)
{
	return guc_max_scopes + 1;
}

/* Where the table of slot numbers begins. */
static Size
stats_table_offset(void)
{
	return MAXALIGN(offsetof(StatsArea, slots) +
					stats_slots() * sizeof(StatsScope));
}

/* Bytes of shared memory. */
static Size
stats_size(void)
{
	return stats_table_offset() + stats_buckets() * sizeof(pg_atomic_uint32);
}

/* Set a slot's counts to zero. */
void
stats_clear_slot(StatsScope *slot)
{
	for (int i = 0; i < STATS_COUNTERS; i++)
		pg_atomic_write_u64(&slot->counters[i], 0);
	for (int h = 0; h < STATS_HISTOGRAMS; h++)
	{
		for (int i = 0; i < STATS_LATENCY_CLASSES; i++)
			pg_atomic_write_u64(&slot->latency[h][i], 0);
	}
	for (int i = 0; i < STATS_FUNCTIONS; i++)
		pg_atomic_write_u64(&slot->latency_us[i], 0);
	pg_atomic_write_u64(&slot->reset_at, GetCurrentTimestamp());
}

/* Fill in a new slot, all zero. */
static void
stats_init_slot(StatsScope *slot, Oid database, const char *scope,
				int scope_len)
{
	slot->database = database;
	slot->scope_len = scope_len;
	memcpy(slot->scope, scope, scope_len);
	stats_clear_slot(slot);
}

/* Publish a slot's number.  The caller holds the lock, or is alone. */
void
stats_publish(StatsSlot number)
{
	StatsScope *slot = &stats_area->slots[number];
	uint32		mask = stats_area->buckets - 1;
	uint32		at = hash_bytes_extended((unsigned char *) slot->scope,
										 slot->scope_len,
										 slot->database) & mask;

	while (pg_atomic_read_u32(&stats_table()[at]) != 0)
		at = (at + 1) & mask;
	pg_write_barrier();
	pg_atomic_write_u32(&stats_table()[at], number);
}

/* The number of a scope's slot, or 0. */
static StatsSlot
stats_find(const char *scope, int scope_len)
{
	uint32		mask = stats_area->buckets - 1;
	uint32		at = hash_bytes_extended((const unsigned char *) scope,
										 scope_len, MyDatabaseId) & mask;
	uint32		number;

	while ((number = pg_atomic_read_u32(&stats_table()[at])) != 0)
	{
		StatsScope *slot = &stats_area->slots[number];

		pg_read_barrier();
		if (slot->database == MyDatabaseId && slot->scope_len == scope_len &&
			memcmp(slot->scope, scope, scope_len) == 0)
			break;
		at = (at + 1) & mask;
	}
	return number;
}

/* Give a scope that has none its slot; 0 if there is no room. */
static StatsSlot
stats_add(const char *scope, int scope_len)
{
	StatsSlot	number;

	LWLockAcquire(stats_area->lock, LW_EXCLUSIVE);
	number = stats_find(scope, scope_len);
	if (number == 0 && stats_area->nslots < stats_area->max_slots)
	{
		number = stats_area->nslots++;
		stats_init_slot(&stats_area->slots[number], MyDatabaseId, scope,
						scope_len);
		stats_publish(number);
	}
	LWLockRelease(stats_area->lock);
	return number;
}

/*
 * The slot of a scope of this database.  Mostly it is the one that this
 * backend has asked for last.
 */
StatsSlot
stats_slot(const char *scope, int scope_len)
{
	static StatsSlot last = 0;
	StatsScope *slot;
	StatsSlot	number;

	if (stats_area == NULL)
		return STATS_NO_SLOT;
	slot = &stats_area->slots[last];
	if (last != 0 && slot->scope_len == scope_len &&
		memcmp(slot->scope, scope, scope_len) == 0)
		return last;
	number = stats_find(scope, scope_len);
	if (number == 0)
		number = stats_add(scope, scope_len);
	last = number;
	return number;
}

/* The slot of a scope if it has one of its own, or 0. */
StatsSlot
stats_known_slot(const char *scope, int scope_len)
{
	return stats_area ? stats_find(scope, scope_len) : STATS_NO_SLOT;
}

/* Whose slot it is; false if it is nobody's. */
bool
stats_slot_name(StatsSlot number, Oid *database, const char **scope,
				int *scope_len)
{
	StatsScope *slot;

	if (stats_area == NULL || number >= stats_area->nslots)
		return false;
	pg_read_barrier();
	slot = &stats_area->slots[number];
	*database = slot->database;
	*scope = slot->scope;
	*scope_len = slot->scope_len;
	return true;
}

/* Count something n times. */
void
stats_count(StatsSlot slot, StatsCounter counter, uint64 n)
{
	if (slot != STATS_NO_SLOT && counter != STATS_NONE && guc_collect_stats)
		pg_atomic_fetch_add_u64(&stats_area->slots[slot].counters[counter],
								n);
}

/* When its counts were set to zero. */
TimestampTz
stats_reset_at(StatsSlot slot)
{
	return (TimestampTz) pg_atomic_read_u64(&stats_area->slots[slot].reset_at);
}

/* How often something was counted. */
uint64
stats_read(StatsSlot slot, StatsCounter counter)
{
	return pg_atomic_read_u64(&stats_area->slots[slot].counters[counter]);
}

/* The class of a latency. */
static int
stats_latency_class(int64 usec)
{
	uint32		value = (uint32) Max(Min(usec, PG_INT32_MAX), 1);
	int			octave = pg_leftmost_one_pos32(value);
	int			quarter = octave >= 2 ? (value >> (octave - 2)) & 3 :
		(value << (2 - octave)) & 3;

	return Min(4 * octave + quarter, STATS_LATENCY_CLASSES - 1);
}

/* Where a class begins, in microseconds. */
double
stats_class_begin(int class)
{
	return ldexp(1.0 + (class % 4) / 4.0, class / 4);
}

/* Is anything counted? */
bool
stats_are_on(void)
{
	return stats_area != NULL && guc_collect_stats;
}

/* Count how long a call took, or waited. */
void
stats_latency(StatsSlot slot, StatsFunction function, int64 usec)
{
	StatsScope *scope;

	if (slot == STATS_NO_SLOT || !guc_collect_stats)
		return;
	scope = &stats_area->slots[slot];
	pg_atomic_fetch_add_u64(&scope->latency[function][stats_latency_class(usec)],
							1);
	pg_atomic_fetch_add_u64(&scope->latency_us[function], Max(usec, 0));
}

/* Count a duplicate that came so long after its key was forgotten. */
void
stats_late(StatsSlot slot, int64 usec)
{
	StatsScope *scope;
	uint64		most;

	if (slot == STATS_NO_SLOT || !guc_collect_stats)
		return;
	scope = &stats_area->slots[slot];
	stats_count(slot, STATS_LATE_DUPLICATES, 1);
	stats_count(slot, STATS_LATE_US, usec);
	pg_atomic_fetch_add_u64(&scope->latency[STATS_LATE][stats_latency_class(usec / USECS_PER_SEC)],
							1);
	most = pg_atomic_read_u64(&scope->counters[STATS_LATE_MAX_US]);
	while (most < (uint64) usec &&
		   !pg_atomic_compare_exchange_u64(&scope->counters[STATS_LATE_MAX_US],
										   &most, usec))
		;
}

/* Make the area. */
static void
stats_init_area(void *area, LWLock *lock)
{
	stats_area = area;
	/* slots are filled in when they are given out: most may never be */
	memset(stats_area, 0, offsetof(StatsArea, slots));
	stats_area->lock = lock;
	stats_area->max_slots = stats_slots();
	stats_area->buckets = stats_buckets();
	stats_area->table = stats_table_offset();
	for (int i = 0; i < stats_area->buckets; i++)
		pg_atomic_init_u32(&stats_table()[i], 0);
	stats_init_slot(&stats_area->slots[STATS_OTHERS], InvalidOid, "", 0);
	stats_area->nslots = 1;
	pg_atomic_init_u64(&stats_area->saved_at, GetCurrentTimestamp());
	if (!IsUnderPostmaster)
	{
		stats_load();
		on_shmem_exit(stats_save_at_exit, (Datum) 0);
	}
}

/* Ask for the area; called once from _PG_init. */
void
stats_init(void)
{
	shmem_register("idempotency stats", stats_size, stats_init_area,
				   (void **) &stats_area);
	duty_register("stats", 1, stats_save_now_and_then);
}

