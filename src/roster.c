/*-------------------------------------------------------------------------
 *
 * roster.c
 *		Which databases have a worker, or are to have one.
 *
 * A table in shared memory with a place for each database that is known to
 * have the extension, and for those that are just being looked at.  Sessions
 * announce their database; the launcher starts workers; each worker keeps its
 * place up to date, and gives it up, or leaves it to be started again, when it
 * ends.  Without shared memory nothing here does anything.
 *
 * Whoever CREATEs the extension announces at commit; so does each backend that
 * loads the extension's catalog for the first time, which is how a copy of a
 * database is noticed.  A worker that finds the extension gone may meet an
 * announcement that came too late for it to see: then its place stays.
 *
 * Locking: one LWLock for all of it, held for some assignments; nothing that
 * can fail, wait or allocate is done under it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "guc.h"
#include "roster.h"
#include "shmem.h"

COMPAT_FUNCTION_INFO(idempotency_workers);
COMPAT_FUNCTION_INFO(idempotency_worker_start);

/* how long a database has to wait for its worker, in milliseconds */
#define ROSTER_DELAY_MIN	1000
#define ROSTER_DELAY_MAX	60000
#define ROSTER_YIELD		1000

typedef enum RosterState
{
	ROSTER_WAITING,				/* to be started when it is due */
	ROSTER_YIELDING,			/* the same, after it has made way */
	ROSTER_STARTING,			/* asked for; due again if it doesn't come */
	ROSTER_RUNNING,
	ROSTER_FAILING				/* running, but something goes wrong */
} RosterState;

static const char *const roster_states[] = {
	"waiting", "yielding", "starting", "running", "failing"
};

typedef struct RosterEntry
{
	Oid			database;		/* invalid: the place is free */
	RosterState state;
	pid_t		pid;			/* 0: no process */
	bool		announced;		/* since the worker's last look */
	int64		due;			/* by roster_clock(), if there's no process */
	int			delay;			/* the next one, ms; 0 if all is well */
	TimestampTz started_at;		/* 0: never */
	TimestampTz last_round_at;	/* 0: never */
	int64		rounds;
	int64		failures;
	int			sqlstate;		/* of the last failure, or 0 */
} RosterEntry;

typedef struct RosterArea
{
	LWLock	   *lock;
	Latch	   *launcher;		/* NULL: it doesn't run */
	bool		was_full;		/* and it has been said */
	int			size;
	RosterEntry entries[FLEXIBLE_ARRAY_MEMBER];
} RosterArea;

static RosterArea *roster_area = NULL;

/* this process's place, if it is a worker, and how it leaves it */
static RosterEntry *roster_mine = NULL;
static RosterLeave roster_reason = ROSTER_STOPPED;

/* does the running transaction announce its database when it commits? */
static bool roster_announcing = false;

/* columns of workers() */
#define ROSTER_COLUMNS 8

/* Bytes of shared memory. */
static Size
roster_size(void)
{
	return offsetof(RosterArea, entries) +
		guc_max_databases * sizeof(RosterEntry);
}

/* Fill in the new area. */
static void
roster_init_area(void *area, LWLock *lock)
{
	RosterArea *roster = (RosterArea *) area;

	memset(roster, 0, roster_size());
	roster->lock = lock;
	roster->size = guc_max_databases;
}

/* Milliseconds by a clock that nobody sets; the same in all processes. */
int64
roster_clock(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/*
 * Does somebody hold, or wait for, a lock on the database that is meant to
 * keep everybody else out of it?  DROP DATABASE and its like do, while they
 * wait for the sessions in it to end.
 */
bool
roster_database_is_wanted(Oid database)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	if (LockAcquire(&tag, RowExclusiveLock, true, true) ==
		LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, true);
	return false;
}

/* The database's place, or NULL.  The caller holds the lock. */
static RosterEntry *
roster_find(Oid database)
{
	for (int i = 0; i < roster_area->size; i++)
	{
		if (roster_area->entries[i].database == database)
			return &roster_area->entries[i];
	}
	return NULL;
}

/* Put a database's start off.  The caller holds the lock. */
static void
roster_delay(RosterEntry *entry, RosterLeave reason)
{
	if (reason == ROSTER_YIELDS)
	{
		entry->state = ROSTER_YIELDING;
		entry->due = roster_clock() + ROSTER_YIELD;
		return;
	}
	entry->delay = Min(Max(2 * entry->delay, ROSTER_DELAY_MIN),
					   ROSTER_DELAY_MAX);
	entry->state = ROSTER_WAITING;
	entry->due = roster_clock() + entry->delay;
}

/*
 * Note that the database may have the extension, and wake the launcher if it
 * is to be started; "now" says not to wait for an earlier failure's delay.
 */
static void
roster_announce(Oid database, bool now)
{
	RosterEntry *entry;
	Latch	   *launcher = NULL;
	bool		full = false;

	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	entry = roster_find(database);
	if (entry == NULL)
	{
		entry = roster_find(InvalidOid);
		if (entry)
		{
			memset(entry, 0, sizeof(RosterEntry));
			entry->database = database;
			launcher = roster_area->launcher;
		}
		else
		{
			full = !roster_area->was_full;
			roster_area->was_full = true;
		}
	}
	else if (now && entry->pid == 0 && entry->state != ROSTER_STARTING)
	{
		entry->due = 0;
		launcher = roster_area->launcher;
	}
	if (entry)
		entry->announced = true;
	LWLockRelease(roster_area->lock);

	if (launcher)
		SetLatch(launcher);
	if (full)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("more databases have extension \"idempotency\" than can have a worker"),
				 errhint("Raise idempotency.max_databases.")));
}

/* Is there a launcher that could start workers, now or some day? */
static bool
roster_is_in_use(void)
{
	return roster_area != NULL && !IsBinaryUpgrade && !RecoveryInProgress();
}

/*
 * A backend has loaded the extension's catalog: the first time it announces
 * the database, unless it is the worker itself.
 */
static void
roster_catalog_loaded(void)
{
	static bool done = false;

	if (done || roster_mine != NULL || !roster_is_in_use())
		return;
	done = true;
	roster_announce(MyDatabaseId, false);
}

/* The transaction that was to announce ends. */
static void
roster_xact_callback(XactEvent event, void *arg)
{
	if (!roster_announcing)
		return;
	if (event == XACT_EVENT_COMMIT)
		roster_announce(MyDatabaseId, true);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		roster_announcing = false;
}

/* Ask for shared memory; called once from _PG_init. */
void
roster_init(void)
{
	shmem_register("idempotency workers", roster_size, roster_init_area,
				   (void **) &roster_area);
	catalog_loaded_hook = roster_catalog_loaded;
	RegisterXactCallback(roster_xact_callback, NULL);
}

/*----------------------------------------------------------------------
 * the launcher's
 *----------------------------------------------------------------------
 */

/* The launcher ends. */
static void
roster_detach_launcher(int code, Datum arg)
{
	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	roster_area->launcher = NULL;
	LWLockRelease(roster_area->lock);
}

/* This process is the launcher from now on until it ends. */
void
roster_attach_launcher(void)
{
	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	roster_area->launcher = MyLatch;
	LWLockRelease(roster_area->lock);
	on_shmem_exit(roster_detach_launcher, (Datum) 0);
}

/* Have a worker started in this database, if it has none. */
void
roster_add(Oid database)
{
	roster_announce(database, false);
}

/* The database is no more, or isn't one for workers. */
void
roster_remove(Oid database)
{
	RosterEntry *entry;

	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	entry = roster_find(database);
	if (entry && entry->pid == 0)
		entry->database = InvalidOid;
	LWLockRelease(roster_area->lock);
}

/*
 * A worker is about to be asked for.  If it hasn't come after so many
 * milliseconds, it will be due again.
 */
void
roster_starting(Oid database, int patience)
{
	RosterEntry *entry;

	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	entry = roster_find(database);
	if (entry && entry->pid == 0)
	{
		entry->state = ROSTER_STARTING;
		entry->due = roster_clock() + patience;
	}
	LWLockRelease(roster_area->lock);
}

/* The worker can't be started now. */
void
roster_postpone(Oid database, RosterLeave reason)
{
	RosterEntry *entry;

	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	entry = roster_find(database);
	if (entry && entry->pid == 0)
		roster_delay(entry, reason);
	LWLockRelease(roster_area->lock);
}

/* Has some worker been asked for that hasn't connected yet? */
bool
roster_is_starting(void)
{
	bool		is_starting = false;

	LWLockAcquire(roster_area->lock, LW_SHARED);
	for (int i = 0; i < roster_area->size && !is_starting; i++)
		is_starting = OidIsValid(roster_area->entries[i].database) &&
			roster_area->entries[i].state == ROSTER_STARTING &&
			roster_area->entries[i].pid == 0;
	LWLockRelease(roster_area->lock);
	return is_starting;
}

/* A database whose worker is to be started now, or InvalidOid. */
Oid
roster_next_due(void)
{
	int64		now = roster_clock();
	Oid			database = InvalidOid;

	LWLockAcquire(roster_area->lock, LW_SHARED);
	for (int i = 0; i < roster_area->size && !OidIsValid(database); i++)
	{
		RosterEntry *entry = &roster_area->entries[i];

		if (entry->pid == 0 && entry->due <= now)
			database = entry->database;
	}
	LWLockRelease(roster_area->lock);
	return database;
}

/* In how many milliseconds, limit at most, will there be one? */
int
roster_due_in(int limit)
{
	int64		now = roster_clock();
	int64		due = now + limit;

	LWLockAcquire(roster_area->lock, LW_SHARED);
	for (int i = 0; i < roster_area->size; i++)
	{
		RosterEntry *entry = &roster_area->entries[i];

		if (OidIsValid(entry->database) && entry->pid == 0)
			due = Min(due, entry->due);
	}
	LWLockRelease(roster_area->lock);
	return (int) Max(due - now, 0);
}

/*----------------------------------------------------------------------
 * the worker's
 *----------------------------------------------------------------------
 */

/* The worker ends. */
static void
roster_detach_worker(int code, Datum arg)
{
	Latch	   *launcher;

	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	roster_mine->pid = 0;
	if (roster_reason != ROSTER_NOT_WANTED)
		roster_delay(roster_mine, roster_reason);
	else if (roster_mine->announced)
	{
		roster_mine->state = ROSTER_WAITING;
		roster_mine->due = 0;
	}
	else
		roster_mine->database = InvalidOid;
	launcher = roster_area->launcher;
	LWLockRelease(roster_area->lock);
	roster_mine = NULL;
	if (launcher)
		SetLatch(launcher);
}

/*
 * This process is the database's worker from now on until it ends.  Returns
 * false if there is one already, or none is wanted any more.
 */
bool
roster_attach_worker(Oid database)
{
	RosterEntry *entry;
	Latch	   *launcher;

	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	entry = roster_find(database);
	if (entry && entry->pid == 0)
	{
		entry->pid = MyProcPid;
		entry->started_at = GetCurrentTimestamp();
		roster_mine = entry;
	}
	launcher = roster_area->launcher;
	LWLockRelease(roster_area->lock);
	if (roster_mine == NULL)
		return false;
	/* it tries no other database while one is starting */
	if (launcher)
		SetLatch(launcher);
	on_shmem_exit(roster_detach_worker, (Datum) 0);
	return true;
}

/* Say how the worker will have left, should it end now. */
void
roster_leave(RosterLeave reason)
{
	roster_reason = reason;
}

/* Whoever announces the database from now on may mean what isn't seen yet. */
void
roster_begin_round(void)
{
	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	roster_mine->announced = false;
	LWLockRelease(roster_area->lock);
}

/*
 * A round is over.  Is something going wrong; and with which SQLSTATE did it
 * go wrong in this round (0 if it didn't)?
 */
void
roster_end_round(bool troubled, int sqlstate)
{
	LWLockAcquire(roster_area->lock, LW_EXCLUSIVE);
	roster_mine->state = troubled ? ROSTER_FAILING : ROSTER_RUNNING;
	roster_mine->last_round_at = GetCurrentTimestamp();
	roster_mine->rounds++;
	if (sqlstate != 0)
	{
		roster_mine->failures++;
		roster_mine->sqlstate = sqlstate;
	}
	if (!troubled)
		roster_mine->delay = 0;
	LWLockRelease(roster_area->lock);
}

/*----------------------------------------------------------------------
 * SQL
 *----------------------------------------------------------------------
 */

/* One row of workers(); nothing for a database that was dropped. */
static void
roster_put_row(ReturnSetInfo *result, const RosterEntry *entry)
{
	Datum		values[ROSTER_COLUMNS] = {0};
	bool		isnull[ROSTER_COLUMNS] = {0};
	char	   *name = get_database_name(entry->database);

	if (name == NULL)
		return;
	values[0] = CStringGetTextDatum(name);
	values[1] = Int32GetDatum(entry->pid);
	isnull[1] = entry->pid == 0;
	values[2] = CStringGetTextDatum(roster_states[entry->state]);
	values[3] = TimestampTzGetDatum(entry->started_at);
	isnull[3] = entry->started_at == 0;
	values[4] = TimestampTzGetDatum(entry->last_round_at);
	isnull[4] = entry->last_round_at == 0;
	values[5] = Int64GetDatum(entry->rounds);
	values[6] = Int64GetDatum(entry->failures);
	isnull[7] = entry->sqlstate == 0;
	if (!isnull[7])
		values[7] = CStringGetTextDatum(unpack_sql_state(entry->sqlstate));
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/*
 * workers() returns table (database text, pid int, state text,
 *		started_at timestamptz, last_round_at timestamptz, rounds bigint,
 *		failures bigint, last_error text)
 */
Datum
idempotency_workers(PG_FUNCTION_ARGS)
{
	RosterEntry *entries;
	int			size;

	InitMaterializedSRF(fcinfo, 0);
	if (roster_area == NULL)
		return (Datum) 0;
	size = roster_area->size;
	entries = palloc(size * sizeof(RosterEntry));
	LWLockAcquire(roster_area->lock, LW_SHARED);
	memcpy(entries, roster_area->entries, size * sizeof(RosterEntry));
	LWLockRelease(roster_area->lock);
	for (int i = 0; i < size; i++)
	{
		if (OidIsValid(entries[i].database))
			roster_put_row((ReturnSetInfo *) fcinfo->resultinfo, &entries[i]);
	}
	return (Datum) 0;
}

/* worker_start() returns bool */
Datum
idempotency_worker_start(PG_FUNCTION_ARGS)
{
	if (!roster_is_in_use())
		PG_RETURN_BOOL(false);
	roster_announcing = true;
	PG_RETURN_BOOL(true);
}
