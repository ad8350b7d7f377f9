/*-------------------------------------------------------------------------
 *
 * notable.c
 *		What stands out: keys with many duplicates, and slow calls.
 *
 * Duplicates are counted for as many keys as there are places, KEY_SETS sets of
 * KEY_WAYS; a key has the choice of one set, by its id.  A new one takes the
 * place of that with the least count, and goes on from there (Metwally's Space
 * Saving), so that a key with many duplicates stays, and its count may be too
 * high, by as much as the other says; never too low.
 *
 * Of the slowest calls of the last SLOW_FOR there are SLOW_CALLS.  Both are of
 * all databases together, know no key, and are gone with a restart.
 *
 * Locking: a spinlock for each set, and one for the slow calls, held for some
 * assignments.  Whoever isn't slower than the fastest of the slow ones takes
 * none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "compat.h"
#include "guc.h"
#include "notable.h"
#include "shmem.h"

#define KEY_SETS	256
#define KEY_WAYS	4
#define SLOW_CALLS	16
#define SLOW_FOR	USECS_PER_HOUR

COMPAT_FUNCTION_INFO(idempotency_top_duplicates);
COMPAT_FUNCTION_INFO(idempotency_slowest_calls);

/* a key that has duplicates */
typedef struct NotableKey
{
	Oid			database;		/* invalid: the place is free */
	StatsSlot	slot;
	pg_uuid_t	id;
	int64		duplicates;
	int64		excess;			/* so many at most are another's */
	TimestampTz last_at;
} NotableKey;

typedef struct NotableSet
{
	slock_t		mutex;
	NotableKey	keys[KEY_WAYS];
} NotableSet;

typedef struct NotableCall
{
	Oid			database;		/* invalid: the place is free */
	StatsSlot	slot;
	StatsFunction function;
	int32		pid;
	int64		usec;
	int64		waited;
	TimestampTz at;
} NotableCall;

typedef struct NotableArea
{
	pg_atomic_uint64 slow;		/* more microseconds than this are slow */
	pg_atomic_uint64 slow_until;	/* that holds until then */
	slock_t		mutex;			/* for calls */
	NotableCall calls[SLOW_CALLS];
	NotableSet	sets[KEY_SETS];
} NotableArea;

static NotableArea *notable_area = NULL;

/* Bytes of shared memory. */
static Size
notable_size(void)
{
	return sizeof(NotableArea);
}

/* Make the area. */
static void
notable_init_area(void *area, LWLock *lock)
{
	notable_area = area;
	memset(notable_area, 0, sizeof(NotableArea));
	pg_atomic_init_u64(&notable_area->slow, 0);
	pg_atomic_init_u64(&notable_area->slow_until, 0);
	SpinLockInit(&notable_area->mutex);
	for (int i = 0; i < KEY_SETS; i++)
		SpinLockInit(&notable_area->sets[i].mutex);
}

/* Ask for the area; called once from _PG_init. */
void
notable_init(void)
{
	shmem_register("idempotency notable", notable_size, notable_init_area,
				   (void **) &notable_area);
}

/* The key's place in its set, or the one that it takes. */
static NotableKey *
notable_place(NotableSet *set, const pg_uuid_t *id)
{
	NotableKey *least = &set->keys[0];

	for (int i = 0; i < KEY_WAYS; i++)
	{
		NotableKey *key = &set->keys[i];

		if (key->database == MyDatabaseId &&
			memcmp(&key->id, id, sizeof(*id)) == 0)
			return key;
		if (key->duplicates < least->duplicates)
			least = key;
	}
	least->database = MyDatabaseId;
	least->id = *id;
	least->excess = least->duplicates;
	return least;
}

/* Count a duplicate of a key. */
void
notable_duplicate(const pg_uuid_t *id, StatsSlot slot)
{
	NotableSet *set;
	NotableKey *key;
	TimestampTz now;

	if (notable_area == NULL || !guc_collect_stats)
		return;
	now = GetCurrentTimestamp();
	set = &notable_area->sets[id->data[0]];
	SpinLockAcquire(&set->mutex);
	key = notable_place(set, id);
	key->slot = slot;
	key->duplicates++;
	key->last_at = now;
	SpinLockRelease(&set->mutex);
}

/*
 * The place for a call that began to be slow at this moment: one that is free
 * or long ago, or else that of the fastest.  The spinlock is held.
 */
static NotableCall *
notable_call_place(TimestampTz now)
{
	NotableCall *place = &notable_area->calls[0];

	for (int i = 0; i < SLOW_CALLS; i++)
	{
		NotableCall *call = &notable_area->calls[i];

		if (call->at < now - SLOW_FOR)
			call->usec = -1;
		if (call->usec < place->usec)
			place = call;
	}
	return place;
}

/* What is slow from now on, and until when?  The spinlock is held. */
static void
notable_set_slow(TimestampTz now)
{
	int64		least = PG_INT64_MAX;
	TimestampTz oldest = now;

	for (int i = 0; i < SLOW_CALLS; i++)
	{
		least = Min(least, notable_area->calls[i].usec);
		oldest = Min(oldest, notable_area->calls[i].at);
	}
	pg_atomic_write_u64(&notable_area->slow, Max(least, 0));
	pg_atomic_write_u64(&notable_area->slow_until,
						least < 0 ? 0 : oldest + SLOW_FOR);
}

/* Look at how long a call took until now; waited is not among it. */
void
notable_call(StatsSlot slot, StatsFunction function, int64 usec, int64 waited,
			 TimestampTz now)
{
	NotableCall *call;

	if (notable_area == NULL ||
		(usec <= (int64) pg_atomic_read_u64(&notable_area->slow) &&
		 now < (TimestampTz) pg_atomic_read_u64(&notable_area->slow_until)))
		return;
	SpinLockAcquire(&notable_area->mutex);
	call = notable_call_place(now);
	if (call->usec < usec)
	{
		call->database = MyDatabaseId;
		call->slot = slot;
		call->function = function;
		call->pid = MyProcPid;
		call->usec = usec;
		call->waited = waited;
		call->at = now;
	}
	notable_set_slow(now);
	SpinLockRelease(&notable_area->mutex);
}

/* The scope's name, as it is shown. */
static Datum
notable_scope(StatsSlot slot)
{
	Oid			database;
	const char *scope;
	int			scope_len;

	if (slot == STATS_OTHERS ||
		!stats_slot_name(slot, &database, &scope, &scope_len))
		return CStringGetTextDatum("(others)");
	return PointerGetDatum(cstring_to_text_with_len(scope, scope_len));
}

/*
 * top_duplicates() returns setof record: id, scope, duplicates, excess,
 * last_at; in no order
 */
Datum
idempotency_top_duplicates(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; notable_area && i < KEY_SETS * KEY_WAYS; i++)
	{
		NotableSet *set = &notable_area->sets[i / KEY_WAYS];
		NotableKey	key;
		Datum		values[5];
		bool		isnull[5] = {0};

		SpinLockAcquire(&set->mutex);
		key = set->keys[i % KEY_WAYS];
		SpinLockRelease(&set->mutex);
		if (key.database != MyDatabaseId)
			continue;
		values[0] = UUIDPGetDatum(&key.id);
		values[1] = notable_scope(key.slot);
		values[2] = Int64GetDatum(key.duplicates);
		values[3] = Int64GetDatum(key.excess);
		values[4] = TimestampTzGetDatum(key.last_at);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
	}
	return (Datum) 0;
}

/*
 * slowest_calls() returns setof record: scope, function, duration_us,
 * waited_us, ended_at, pid; in no order
 */
Datum
idempotency_slowest_calls(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	NotableCall calls[SLOW_CALLS] = {0};
	TimestampTz since = GetCurrentTimestamp() - SLOW_FOR;

	InitMaterializedSRF(fcinfo, 0);
	if (notable_area)
	{
		SpinLockAcquire(&notable_area->mutex);
		memcpy(calls, notable_area->calls, sizeof(calls));
		SpinLockRelease(&notable_area->mutex);
	}
	for (int i = 0; i < SLOW_CALLS; i++)
	{
		Datum		values[6];
		bool		isnull[6] = {0};

		if (calls[i].database != MyDatabaseId || calls[i].at < since)
			continue;
		values[0] = notable_scope(calls[i].slot);
		values[1] = CStringGetTextDatum(stats_function_name(calls[i].function));
		values[2] = Int64GetDatum(calls[i].usec);
		values[3] = Int64GetDatum(calls[i].waited);
		values[4] = TimestampTzGetDatum(calls[i].at);
		values[5] = Int32GetDatum(calls[i].pid);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
	}
	return (Datum) 0;
}
