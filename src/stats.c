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
 * A clean stop writes the area to a file, which the next start reads and
 * removes; a crash begins at zero.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bitutils.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "guc.h"
#include "shmem.h"
#include "stats.h"

#define STATS_FILE		PGSTAT_STAT_PERMANENT_DIRECTORY "/idempotency.stat"
#define STATS_MAGIC		(0x1D3E0000 + (uint32) sizeof(StatsScope))

COMPAT_FUNCTION_INFO(idempotency_stats);
COMPAT_FUNCTION_INFO(idempotency_stats_latency);
COMPAT_FUNCTION_INFO(idempotency_stats_reset);

/* one scope of one database */
typedef struct StatsScope
{
	Oid			database;
	int32		scope_len;
	char		scope[SCOPE_MAX_BYTES];
	pg_atomic_uint64 reset_at;	/* TimestampTz */
	pg_atomic_uint64 counters[STATS_COUNTERS];
	pg_atomic_uint64 latency[STATS_LATENCY_CLASSES];
	pg_atomic_uint64 latency_us;
} StatsScope;

typedef struct StatsArea
{
	LWLock	   *lock;			/* for new slots */
	int			nslots;			/* in use; only grows */
	int			max_slots;
	int			buckets;		/* a power of two */
	Size		table;			/* offset of the table of slot numbers */
	StatsScope	slots[FLEXIBLE_ARRAY_MEMBER];
} StatsArea;

static StatsArea *stats_area = NULL;

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

/* Fill in a new slot, all zero. */
static void
stats_init_slot(StatsScope *slot, Oid database, const char *scope,
				int scope_len)
{
	slot->database = database;
	slot->scope_len = scope_len;
	memcpy(slot->scope, scope, scope_len);
	pg_atomic_init_u64(&slot->reset_at, GetCurrentTimestamp());
	for (int i = 0; i < STATS_COUNTERS; i++)
		pg_atomic_init_u64(&slot->counters[i], 0);
	for (int i = 0; i < STATS_LATENCY_CLASSES; i++)
		pg_atomic_init_u64(&slot->latency[i], 0);
	pg_atomic_init_u64(&slot->latency_us, 0);
}

/* Publish a slot's number.  The caller holds the lock, or is alone. */
static void
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
	if (slot != STATS_NO_SLOT && counter != STATS_NONE)
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
static double
stats_class_begin(int class)
{
	return ldexp(1.0 + (class % 4) / 4.0, class / 4);
}

/* Count how long a decision took, without what it waited for. */
void
stats_latency(StatsSlot slot, int64 usec)
{
	StatsScope *scope;

	if (slot == STATS_NO_SLOT)
		return;
	scope = &stats_area->slots[slot];
	pg_atomic_fetch_add_u64(&scope->latency[stats_latency_class(usec)], 1);
	pg_atomic_fetch_add_u64(&scope->latency_us, usec);
}

/* Write the area to its file, unless the server crashes. */
static void
stats_save(int code, Datum arg)
{
	const uint32 magic = STATS_MAGIC;
	int32		n;
	FILE	   *file;

	if (code != 0 || stats_area == NULL)
		return;
	file = AllocateFile(STATS_FILE ".tmp", PG_BINARY_W);
	n = stats_area->nslots;
	if (file == NULL ||
		fwrite(&magic, sizeof(magic), 1, file) != 1 ||
		fwrite(&n, sizeof(n), 1, file) != 1 ||
		fwrite(stats_area->slots, sizeof(StatsScope), n, file) != n ||
		FreeFile(file) != 0)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", STATS_FILE ".tmp")));
		unlink(STATS_FILE ".tmp");
		return;
	}
	(void) durable_rename(STATS_FILE ".tmp", STATS_FILE, LOG);
}

/*
 * Add the slots of the file for which there is no room any more to that of the
 * others.  Returns false if they are not there.
 */
static bool
stats_load_rest(FILE *file, int n)
{
	StatsScope	slot;

	for (int i = stats_area->max_slots; i < n; i++)
	{
		if (fread(&slot, sizeof(slot), 1, file) != 1)
			return false;
		for (int c = 0; c < STATS_COUNTERS; c++)
			stats_count(STATS_OTHERS, c, pg_atomic_read_u64(&slot.counters[c]));
	}
	return true;
}

/* Read what stats_save() has left, and remove it. */
static void
stats_load(void)
{
	FILE	   *file = AllocateFile(STATS_FILE, PG_BINARY_R);
	uint32		magic = 0;
	int32		n = 0;

	if (file == NULL)
		return;
	if (fread(&magic, sizeof(magic), 1, file) != 1 || magic != STATS_MAGIC ||
		fread(&n, sizeof(n), 1, file) != 1 || n < 1 ||
		fread(stats_area->slots, sizeof(StatsScope),
			  Min(n, stats_area->max_slots), file) !=
		Min(n, stats_area->max_slots) || !stats_load_rest(file, n))
	{
		ereport(LOG,
				(errmsg("file \"%s\" is not understood, and ignored",
						STATS_FILE)));
		memset(stats_area->slots, 0, sizeof(StatsScope));
		n = 1;
	}
	FreeFile(file);
	unlink(STATS_FILE);
	stats_area->nslots = Min(n, stats_area->max_slots);
	for (StatsSlot slot = 1; slot < stats_area->nslots; slot++)
		stats_publish(slot);
}

/* Make the area. */
static void
stats_init_area(void *area, LWLock *lock)
{
	stats_area = area;
	memset(stats_area, 0, stats_size());
	stats_area->lock = lock;
	stats_area->max_slots = stats_slots();
	stats_area->buckets = stats_buckets();
	stats_area->table = stats_table_offset();
	for (int i = 0; i < stats_area->buckets; i++)
		pg_atomic_init_u32(&stats_table()[i], 0);
	stats_init_slot(&stats_area->slots[STATS_OTHERS], InvalidOid, "", 0);
	stats_area->nslots = 1;
	if (!IsUnderPostmaster)
	{
		stats_load();
		on_shmem_exit(stats_save, (Datum) 0);
	}
}

/* Ask for the area; called once from _PG_init. */
void
stats_init(void)
{
	shmem_register("idempotency stats", stats_size, stats_init_area,
				   (void **) &stats_area);
}

/*
 * Is the slot to be shown in this database: one of its own, or the one of all
 * the others, if there is anything in it?
 */
static bool
stats_is_shown(StatsSlot slot)
{
	if (slot == STATS_OTHERS)
	{
		for (int i = 0; i < STATS_COUNTERS; i++)
		{
			if (stats_read(slot, i) > 0)
				return true;
		}
		return false;
	}
	return stats_area->slots[slot].database == MyDatabaseId;
}

/* The scope's name as it is shown. */
static Datum
stats_shown_name(StatsSlot slot)
{
	if (slot == STATS_OTHERS)
		return CStringGetTextDatum("(others)");
	return PointerGetDatum(cstring_to_text_with_len(stats_area->slots[slot].scope,
													stats_area->slots[slot].scope_len));
}

/* stats() returns setof record: scope, the counters, reset_at */
Datum
idempotency_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (StatsSlot i = 0; stats_area && i < stats_area->nslots; i++)
	{
		StatsScope *slot = &stats_area->slots[i];
		Datum		values[STATS_COUNTERS + 2];
		bool		isnull[STATS_COUNTERS + 2] = {0};

		if (!stats_is_shown(i))
			continue;
		values[0] = stats_shown_name(i);
		for (int c = 0; c < STATS_COUNTERS; c++)
			values[1 + c] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->counters[c]));
		values[1 + STATS_COUNTERS] =
			TimestampTzGetDatum((int64) pg_atomic_read_u64(&slot->reset_at));
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
	}
	return (Datum) 0;
}

/*
 * stats_latency() returns setof record: scope, from_us, to_us, decisions; a
 * row for each class that has any
 */
Datum
idempotency_stats_latency(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (StatsSlot i = 0; stats_area && i < stats_area->nslots; i++)
	{
		for (int class = 0; class < STATS_LATENCY_CLASSES; class++)
		{
			uint64		n = pg_atomic_read_u64(&stats_area->slots[i].latency[class]);
			Datum		values[4];
			bool		isnull[4] = {0};

			if (n == 0 || !stats_is_shown(i))
				continue;
			values[0] = stats_shown_name(i);
			values[1] = Float8GetDatum(stats_class_begin(class));
			values[2] = Float8GetDatum(class + 1 < STATS_LATENCY_CLASSES ?
									   stats_class_begin(class + 1) :
									   get_float8_infinity());
			values[3] = Int64GetDatum((int64) n);
			tuplestore_putvalues(result->setResult, result->setDesc, values,
								 isnull);
		}
	}
	return (Datum) 0;
}

/* Set a slot back to zero. */
static void
stats_reset_slot(StatsScope *slot)
{
	for (int i = 0; i < STATS_COUNTERS; i++)
		pg_atomic_write_u64(&slot->counters[i], 0);
	for (int i = 0; i < STATS_LATENCY_CLASSES; i++)
		pg_atomic_write_u64(&slot->latency[i], 0);
	pg_atomic_write_u64(&slot->latency_us, 0);
	pg_atomic_write_u64(&slot->reset_at, GetCurrentTimestamp());
}

/*
 * stats_reset(scope text) returns bigint: how many scopes were reset; NULL is
 * all of this database
 */
Datum
idempotency_stats_reset(PG_FUNCTION_ARGS)
{
	text	   *scope = TEXT_ARGUMENT(0);
	int64		n = 0;

	shmem_require("stats_reset()");
	for (StatsSlot i = 0; i < stats_area->nslots; i++)
	{
		StatsScope *slot = &stats_area->slots[i];

		if (i == STATS_OTHERS ? scope != NULL :
			slot->database != MyDatabaseId)
			continue;
		if (scope && (slot->scope_len != VARSIZE_ANY_EXHDR(scope) ||
					  memcmp(slot->scope, VARDATA_ANY(scope),
							 slot->scope_len) != 0))
			continue;
		stats_reset_slot(slot);
		n++;
	}
	PG_RETURN_INT64(n);
}
