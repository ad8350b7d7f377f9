/*-------------------------------------------------------------------------
 *
 * breaker.c
 *		Circuit breakers, one per scope, in shared memory.
 *
 * A breaker (M. Nygard, "Release It!", 2007) looks at how claims end.  Closed,
 * it counts successes and failures over a window that slides in ten steps;
 * when there are too many failures it opens.  Open, it admits nothing until
 * its cooldown is over; then it is half open, and admits as many claims as the
 * policy says, its probes.  When so many have succeeded it closes, when one
 * fails it opens again.
 *
 * Each change of state begins a new generation.  The end of a claim counts
 * only in the generation in which it began, so what was admitted before the
 * breaker opened neither opens nor closes it.  A probe has a deadline, after
 * which its place is free again, should its end never be told.
 *
 * It is asked only when a claim is about to execute: a duplicate that has an
 * answer is never refused here.
 *
 * Locking: a spinlock per scope, for a few dozen instructions.  The settings
 * are copied from the policy by whoever asks; the ends of transactions, which
 * can't read one, go by the copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "breaker.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "note.h"
#include "shmem.h"

#define BREAKER_STEPS 10

COMPAT_FUNCTION_INFO(idempotency_breakers);
COMPAT_FUNCTION_INFO(idempotency_breaker_reset);

typedef enum BreakerState
{
	BREAKER_CLOSED,
	BREAKER_OPEN,
	BREAKER_HALF_OPEN
} BreakerState;

static const char *const breaker_state_names[] = {
	[BREAKER_CLOSED] = "closed",
	[BREAKER_OPEN] = "open",
	[BREAKER_HALF_OPEN] = "half_open"
};

/* how the claims that ended in a part of the window have ended */
typedef struct BreakerStep
{
	int64		number;			/* of the part, counted from 2000 */
	uint64		successes;
	uint64		failures;
} BreakerStep;

typedef struct Breaker
{
	slock_t		mutex;
	Restraint	settings;
	BreakerState state;
	BreakerGeneration generation;	/* 0: nobody has asked yet */
	TimestampTz since;			/* when this generation began */
	uint64		openings;
	BreakerStep steps[BREAKER_STEPS];	/* while closed */
	TimestampTz probes[BREAKER_PROBES_MAX]; /* half open: their deadlines, or 0 */
	int32		succeeded;		/* half open: probes that have */
} Breaker;

/* by slot; NULL without shared memory */
static Breaker *breakers = NULL;

/* Bytes of shared memory. */
static Size
breaker_size(void)
{
	return stats_slots() * sizeof(Breaker);
}

/* Make the area. */
static void
breaker_init_area(void *area, LWLock *lock)
{
	breakers = area;
	memset(breakers, 0, breaker_size());
	for (int i = 0; i < stats_slots(); i++)
		SpinLockInit(&breakers[i].mutex);
}

/* Ask for the area; called once from _PG_init. */
void
breaker_init(void)
{
	shmem_register("idempotency breakers", breaker_size, breaker_init_area,
				   (void **) &breakers);
}

/*
 * Note that the breaker's state is another one than it was.  Not to be called
 * under the spinlock; raises nothing.
 */
static void
breaker_note(StatsSlot slot, BreakerState before, BreakerState after,
			 TimestampTz now)
{
	char		detail[64];
	const char *scope;
	int			scope_len;
	Oid			database;

	if (before == after ||
		!stats_slot_name(slot, &database, &scope, &scope_len))
		return;
	if (after == BREAKER_OPEN)
		stats_count(slot, STATS_BREAKER_OPENED, 1);
	snprintf(detail, sizeof(detail), "{\"from\": \"%s\", \"to\": \"%s\"}",
			 breaker_state_names[before], breaker_state_names[after]);
	note_scope(ENTRY_BREAKER, database, scope, scope_len, now, detail);
}

/* Change the state.  The caller holds the spinlock. */
static void
breaker_change(Breaker *breaker, BreakerState state, TimestampTz now)
{
	breaker->state = state;
	breaker->generation++;
	breaker->since = now;
	breaker->succeeded = 0;
	memset(breaker->steps, 0, sizeof(breaker->steps));
	memset(breaker->probes, 0, sizeof(breaker->probes));
	if (state == BREAKER_OPEN)
		breaker->openings++;
}

/* The step of the window for this moment, emptied if it is an old one. */
static BreakerStep *
breaker_step(Breaker *breaker, TimestampTz now)
{
	int64		number = now / (breaker->settings.breaker_window / BREAKER_STEPS);
	BreakerStep *step = &breaker->steps[number % BREAKER_STEPS];

	if (step->number != number)
	{
		step->number = number;
		step->successes = 0;
		step->failures = 0;
	}
	return step;
}

/* Are there too many failures in the window?  The spinlock is held. */
static bool
breaker_is_tripped(Breaker *breaker, TimestampTz now)
{
	const Restraint *settings = &breaker->settings;
	int64		newest = breaker_step(breaker, now)->number;
	uint64		successes = 0;
	uint64		failures = 0;

	for (int i = 0; i < BREAKER_STEPS; i++)
	{
		BreakerStep *step = &breaker->steps[i];

		if (step->number <= newest - BREAKER_STEPS || step->number > newest)
			continue;
		successes += step->successes;
		failures += step->failures;
	}
	return failures >= settings->breaker_failures &&
		failures * 100 >= (successes + failures) * settings->breaker_percent;
}

/* Give a probe its place; false if there is none.  The spinlock is held. */
static bool
breaker_probe(Breaker *breaker, TimestampTz now, int64 lease,
			  TimestampTz *retry_at)
{
	TimestampTz free_at = DT_NOEND;

	for (int i = 0; i < breaker->settings.breaker_probes; i++)
	{
		if (breaker->probes[i] <= now)
		{
			breaker->probes[i] = now +
				Max(lease, breaker->settings.breaker_cooldown);
			return true;
		}
		free_at = Min(free_at, breaker->probes[i]);
	}
	*retry_at = free_at;
	return false;
}

/* Decide by the state.  The spinlock is held. */
static bool
breaker_decide(Breaker *breaker, TimestampTz now, int64 lease,
			   TimestampTz *retry_at)
{
	TimestampTz reopens = breaker->since + breaker->settings.breaker_cooldown;

	if (breaker->generation == 0)
		breaker_change(breaker, BREAKER_CLOSED, now);
	/* from that moment on: others have read the clock, and not come so far */
	if (breaker->state == BREAKER_OPEN && reopens <= now)
		breaker_change(breaker, BREAKER_HALF_OPEN, reopens);
	switch (breaker->state)
	{
		case BREAKER_CLOSED:
			return true;
		case BREAKER_OPEN:
			*retry_at = reopens;
			return false;
		case BREAKER_HALF_OPEN:
			return breaker_probe(breaker, now, lease, retry_at);
	}
	pg_unreachable();
}

/*
 * Take over the policy's settings.  Switched off it closes; with another
 * window it counts anew.  The spinlock is held.
 */
static void
breaker_configure(Breaker *breaker, const Restraint *settings,
				  TimestampTz now)
{
	if (settings->breaker_failures == 0)
		breaker_change(breaker, BREAKER_CLOSED, now);
	else if (settings->breaker_window != breaker->settings.breaker_window)
		memset(breaker->steps, 0, sizeof(breaker->steps));
	breaker->settings = *settings;
}

/*
 * May a claim of this scope execute?  If so, *generation is what its end is to
 * be told with; if not, *retry_at is when to ask again.  The lease, in
 * microseconds, is how long it may take, or 0.
 */
bool
breaker_admit(StatsSlot slot, const Restraint *settings, TimestampTz now,
			  int64 lease, BreakerGeneration *generation,
			  TimestampTz *retry_at)
{
	Breaker    *breaker;
	BreakerState before;
	BreakerState after;
	bool		admitted;

	*generation = 0;
	if (breakers == NULL || slot == STATS_OTHERS)
		return true;
	breaker = &breakers[slot];
	if (settings->breaker_failures == 0 &&
		breaker->settings.breaker_failures == 0)
		return true;
	SpinLockAcquire(&breaker->mutex);
	before = breaker->state;
	breaker_configure(breaker, settings, now);
	admitted = settings->breaker_failures == 0 ||
		breaker_decide(breaker, now, lease, retry_at);
	*generation = breaker->generation;
	after = breaker->state;
	SpinLockRelease(&breaker->mutex);
	breaker_note(slot, before, after, now);
	return admitted;
}

/* The claim that was admitted doesn't execute: its probe's place is free. */
void
breaker_withdraw(StatsSlot slot, BreakerGeneration generation)
{
	Breaker    *breaker;

	if (generation == 0)
		return;
	breaker = &breakers[slot];
	SpinLockAcquire(&breaker->mutex);
	for (int i = 0; i < BREAKER_PROBES_MAX &&
		 breaker->generation == generation; i++)
	{
		if (breaker->probes[i] != 0 && breaker->probes[i] != DT_NOEND)
		{
			breaker->probes[i] = 0;
			break;
		}
	}
	SpinLockRelease(&breaker->mutex);
}

/* The generation of what was claimed at this moment, if it is the present. */
BreakerGeneration
breaker_generation_at(StatsSlot slot, TimestampTz claimed_at)
{
	BreakerGeneration generation;

	if (breakers == NULL || slot <= STATS_OTHERS)
		return 0;
	SpinLockAcquire(&breakers[slot].mutex);
	generation = claimed_at >= breakers[slot].since ?
		breakers[slot].generation : 0;
	SpinLockRelease(&breakers[slot].mutex);
	return generation;
}

/* A probe has ended.  The spinlock is held. */
static void
breaker_probe_ended(Breaker *breaker, bool success, TimestampTz now)
{
	if (!success)
	{
		breaker_change(breaker, BREAKER_OPEN, now);
		return;
	}
	for (int i = 0; i < BREAKER_PROBES_MAX; i++)
	{
		if (breaker->probes[i] != 0 && breaker->probes[i] != DT_NOEND)
		{
			breaker->probes[i] = DT_NOEND;	/* its place is used up */
			break;
		}
	}
	if (++breaker->succeeded >= breaker->settings.breaker_probes)
		breaker_change(breaker, BREAKER_CLOSED, now);
}

/*
 * Tell how n claims that were admitted in this generation have ended.  Can be
 * called while a transaction ends: raises nothing.
 */
void
breaker_result(StatsSlot slot, BreakerGeneration generation, bool success,
			   uint64 n)
{
	Breaker    *breaker;
	BreakerState before;
	BreakerState after;
	TimestampTz now;

	if (breakers == NULL || slot <= STATS_OTHERS || generation == 0)
		return;
	now = clock_now();
	breaker = &breakers[slot];
	SpinLockAcquire(&breaker->mutex);
	before = breaker->state;
	if (breaker->generation == generation &&
		breaker->settings.breaker_failures > 0)
	{
		if (breaker->state == BREAKER_HALF_OPEN)
		{
			while (n-- > 0 && breaker->generation == generation)
				breaker_probe_ended(breaker, success, now);
		}
		else if (breaker->state == BREAKER_CLOSED)
		{
			BreakerStep *step = breaker_step(breaker, now);

			if (success)
				step->successes += n;
			else
				step->failures += n;
			if (!success && breaker_is_tripped(breaker, now))
				breaker_change(breaker, BREAKER_OPEN, now);
		}
	}
	after = breaker->state;
	SpinLockRelease(&breaker->mutex);
	breaker_note(slot, before, after, now);
}

/* columns of breakers(), counted from 0 */
enum
{
	SHOW_SCOPE,
	SHOW_STATE,
	SHOW_SINCE,
	SHOW_RETRY_AT,
	SHOW_SUCCESSES,
	SHOW_FAILURES,
	SHOW_OPENINGS,
	SHOW_COLUMNS
};

/* One row of breakers(). */
static void
breaker_put(ReturnSetInfo *result, const char *scope, int scope_len,
			const Breaker *breaker)
{
	Datum		values[SHOW_COLUMNS];
	bool		isnull[SHOW_COLUMNS] = {0};
	int64		newest = clock_now() /
		(breaker->settings.breaker_window / BREAKER_STEPS);
	int64		successes = 0;
	int64		failures = 0;

	for (int i = 0; i < BREAKER_STEPS; i++)
	{
		if (breaker->steps[i].number <= newest - BREAKER_STEPS ||
			breaker->steps[i].number > newest)
			continue;
		successes += breaker->steps[i].successes;
		failures += breaker->steps[i].failures;
	}
	values[SHOW_SCOPE] = PointerGetDatum(cstring_to_text_with_len(scope,
																  scope_len));
	values[SHOW_STATE] =
		CStringGetTextDatum(breaker_state_names[breaker->state]);
	values[SHOW_SINCE] = TimestampTzGetDatum(breaker->since);
	values[SHOW_RETRY_AT] =
		TimestampTzGetDatum(breaker->since + breaker->settings.breaker_cooldown);
	isnull[SHOW_RETRY_AT] = breaker->state != BREAKER_OPEN;
	values[SHOW_SUCCESSES] =
		Int64GetDatum(breaker->state == BREAKER_HALF_OPEN ?
					  breaker->succeeded : successes);
	values[SHOW_FAILURES] = Int64GetDatum(failures);
	values[SHOW_OPENINGS] = Int64GetDatum((int64) breaker->openings);
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/* breakers() returns setof record */
Datum
idempotency_breakers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			database;
	const char *scope;
	int			scope_len;

	InitMaterializedSRF(fcinfo, 0);
	for (StatsSlot i = 1;
		 breakers && stats_slot_name(i, &database, &scope, &scope_len); i++)
	{
		Breaker		copy;

		if (database != MyDatabaseId)
			continue;
		SpinLockAcquire(&breakers[i].mutex);
		copy = breakers[i];
		SpinLockRelease(&breakers[i].mutex);
		if (copy.generation > 0 && copy.settings.breaker_failures > 0)
			breaker_put(result, scope, scope_len, &copy);
	}
	return (Datum) 0;
}

/* breaker_reset(scope text) returns boolean: whether there was one */
Datum
idempotency_breaker_reset(PG_FUNCTION_ARGS)
{
	text	   *scope = TEXT_ARGUMENT(0);
	TimestampTz now = clock_now();
	BreakerState before;
	StatsSlot	slot;
	bool		found;

	shmem_require("breaker_reset()");
	if (scope == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("scope must not be null")));
	identity_check_scope(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	slot = stats_known_slot(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	if (slot == STATS_OTHERS)
		PG_RETURN_BOOL(false);
	SpinLockAcquire(&breakers[slot].mutex);
	before = breakers[slot].state;
	found = breakers[slot].generation > 0;
	if (found)
		breaker_change(&breakers[slot], BREAKER_CLOSED, now);
	SpinLockRelease(&breakers[slot].mutex);
	breaker_note(slot, before, BREAKER_CLOSED, now);
	PG_RETURN_BOOL(found);
}
