/*-------------------------------------------------------------------------
 *
 * limit.c
 *		Limits per scope: claims per interval, claims at once, replays per key.
 *
 * The rate is limited by a token bucket that holds one interval's claims, and
 * fills up evenly.
 *
 * What runs at once is counted here as long as the transaction that claimed
 * has not ended; leases that are committed are rows, which the claim counts.
 * Whoever asks is counted first, so two that ask together may both be
 * refused, never both admitted over the limit.
 *
 * Replays are counted per key in a table of fixed size, by the key's id; a key
 * that finds its place taken takes it over, so two that share one are only
 * limited less.
 *
 * Locking: spinlocks, for a few instructions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/spin.h"

#include "limit.h"
#include "shmem.h"

#define LIMIT_REPLAY_PLACES 4096

typedef struct Limit
{
	slock_t		mutex;
	TimestampTz filled_at;		/* 0: full */
	double		tokens;
	pg_atomic_uint64 running;
} Limit;

typedef struct LimitReplay
{
	slock_t		mutex;
	Oid			database;
	pg_uuid_t	id;
	TimestampTz since;			/* when the interval began */
	int32		replays;
} LimitReplay;

typedef struct LimitArea
{
	LimitReplay replays[LIMIT_REPLAY_PLACES];
	Limit		limits[FLEXIBLE_ARRAY_MEMBER];	/* by slot */
} LimitArea;

static LimitArea *limit_area = NULL;

/* Bytes of shared memory. */
static Size
limit_size(void)
{
	return offsetof(LimitArea, limits) + stats_slots() * sizeof(Limit);
}

/* Make the area. */
static void
limit_init_area(void *area, LWLock *lock)
{
	limit_area = area;
	memset(limit_area, 0, limit_size());
	for (int i = 0; i < LIMIT_REPLAY_PLACES; i++)
		SpinLockInit(&limit_area->replays[i].mutex);
	for (int i = 0; i < stats_slots(); i++)
	{
		SpinLockInit(&limit_area->limits[i].mutex);
		pg_atomic_init_u64(&limit_area->limits[i].running, 0);
	}
}

/* Ask for the area; called once from _PG_init. */
void
limit_init(void)
{
	shmem_register("idempotency limits", limit_size, limit_init_area,
				   (void **) &limit_area);
}

/*
 * May one more claim begin by the rate?  If so a token is taken; if not,
 * *retry_at is when there will be one.
 */
bool
limit_rate(StatsSlot slot, const Restraint *settings, TimestampTz now,
		   TimestampTz *retry_at)
{
	double		per_usec;
	Limit	   *limit;
	bool		admitted;

	if (limit_area == NULL || slot == STATS_OTHERS ||
		settings->limit_claims == 0)
		return true;
	per_usec = (double) settings->limit_claims / settings->limit_interval;
	limit = &limit_area->limits[slot];
	SpinLockAcquire(&limit->mutex);
	if (limit->filled_at == 0)
		limit->tokens = settings->limit_claims;
	else if (now > limit->filled_at)
		limit->tokens += (now - limit->filled_at) * per_usec;
	limit->tokens = Min(limit->tokens, settings->limit_claims);
	limit->filled_at = Max(limit->filled_at, now);
	admitted = limit->tokens >= 1;
	if (admitted)
		limit->tokens -= 1;
	else
		*retry_at = now + (TimestampTz) ((1 - limit->tokens) / per_usec) + 1;
	SpinLockRelease(&limit->mutex);
	return admitted;
}

/*
 * One more claim of the scope runs in a transaction; limit_leave() takes it
 * back.  Returns how many do, 0 without shared memory.
 */
int64
limit_enter(StatsSlot slot)
{
	if (limit_area == NULL || slot == STATS_NO_SLOT)
		return 0;
	return (int64) pg_atomic_add_fetch_u64(&limit_area->limits[slot].running,
										   1);
}

/* The transactions of n claims of the scope have ended. */
void
limit_leave(StatsSlot slot, uint64 n)
{
	if (limit_area && slot != STATS_NO_SLOT)
		pg_atomic_fetch_sub_u64(&limit_area->limits[slot].running, n);
}

/*
 * May a key's answer be replayed once more in this interval?  If not,
 * *retry_at is when it may.
 */
bool
limit_replay(const pg_uuid_t *id, const Restraint *settings, TimestampTz now,
			 TimestampTz *retry_at)
{
	uint32		place;
	LimitReplay *entry;
	bool		admitted;

	if (limit_area == NULL || settings->limit_replays == 0)
		return true;
	memcpy(&place, id->data, sizeof(place));
	entry = &limit_area->replays[place % LIMIT_REPLAY_PLACES];
	SpinLockAcquire(&entry->mutex);
	if (entry->database != MyDatabaseId ||
		memcmp(&entry->id, id, sizeof(*id)) != 0 ||
		now >= entry->since + settings->limit_interval || now < entry->since)
	{
		entry->database = MyDatabaseId;
		entry->id = *id;
		entry->since = now;
		entry->replays = 0;
	}
	admitted = entry->replays < settings->limit_replays;
	if (admitted)
		entry->replays++;
	else
		*retry_at = entry->since + settings->limit_interval;
	SpinLockRelease(&entry->mutex);
	return admitted;
}
