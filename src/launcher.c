/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The process that starts the workers.
 *
 * One for the server, if it preloads the library; connected to no database.
 * It sleeps until a session announces a database (roster.c), a worker ends, or
 * one that couldn't be started is due again.
 *
 * Whether a database has the extension can only be seen from inside.  So every
 * database that the launcher finds in pg_database, at its start and then once
 * a minute, is tried once: a worker is started, which ends at once if it isn't
 * wanted there.  These starts are made one after the other, lest they take all
 * slots for workers.
 *
 * It never starts a worker in a template or in a database that allows no
 * connections, nor while somebody waits to have the database for himself.
 *
 * What goes wrong here ends the process, and the postmaster starts it again;
 * all that it must not forget is in the roster.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "launcher.h"
#include "roster.h"

#define LAUNCHER_RESTART_S	5	/* after it has failed */
#define LAUNCHER_SCAN_MS	60000
#define LAUNCHER_PATIENCE_MS 10000	/* for a worker to come */

/* pg_database.datconnlimit of a database whose DROP was interrupted */
#define LAUNCHER_INVALID_DATABASE (-2)

PGDLLEXPORT void idempotency_launcher_main(Datum arg);

/* databases found by the last look; those of them that are still to be tried */
static List *launcher_known = NIL;
static List *launcher_untried = NIL;

/*
 * The databases in which a worker may run, a list of OIDs, allocated in the
 * given context.
 */
static List *
launcher_databases(MemoryContext context)
{
	List	   *databases = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (form->datistemplate || !form->datallowconn ||
			form->datconnlimit == LAUNCHER_INVALID_DATABASE)
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

/* Look for databases that weren't there at the last look. */
static void
launcher_scan(void)
{
	List	   *found = launcher_databases(TopMemoryContext);
	List	   *new = list_difference_oid(found, launcher_known);

	launcher_untried = list_concat_unique_oid(launcher_untried, new);
	list_free(new);
	list_free(launcher_known);
	launcher_known = found;
}

/* Have the next database tried, if no worker is just starting. */
static void
launcher_try_next(void)
{
	if (launcher_untried == NIL || roster_is_starting())
		return;
	roster_add(linitial_oid(launcher_untried));
	launcher_untried = list_delete_first(launcher_untried);
}

/* Ask the postmaster for a database's worker; false if there is no room. */
static bool
launcher_register(Oid database)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	strlcpy(worker.bgw_library_name, "idempotency", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "idempotency_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "idempotency worker", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN,
			 "idempotency worker for database %u", database);
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/*
 * Start the worker of a database that is due, or put it off; "databases" are
 * those in which one may run.
 */
static void
launcher_start(Oid database, List *databases)
{
	static bool no_slot = false;	/* and it has been said */

	if (!list_member_oid(databases, database))
	{
		roster_remove(database);
		return;
	}
	if (roster_database_is_wanted(database))
	{
		roster_postpone(database, ROSTER_YIELDS);
		return;
	}
	roster_starting(database, LAUNCHER_PATIENCE_MS);
	if (launcher_register(database))
	{
		no_slot = false;
		return;
	}
	roster_postpone(database, ROSTER_STOPPED);
	if (!no_slot)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free for extension \"idempotency\" in database %u",
						database),
				 errhint("It will be tried again. You may need to raise max_worker_processes.")));
	no_slot = true;
}

/* Start what is due. */
static void
launcher_round(MemoryContext context)
{
	Oid			database = roster_next_due();
	List	   *databases;

	if (!OidIsValid(database))
		return;
	databases = launcher_databases(context);
	for (; OidIsValid(database); database = roster_next_due())
		launcher_start(database, databases);
}

/*
 * Sleep until there may be something to do, limit milliseconds at most; then
 * attend to signals.
 */
static void
launcher_sleep(int limit)
{
	static uint32 wait_event = 0;

	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 roster_due_in(limit),
					 compat_wait_event(&wait_event, "IdempotencyLauncherMain"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* The process. */
void
idempotency_launcher_main(Datum arg)
{
	MemoryContext context;
	int64		next_scan = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, SIG_IGN);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_activity(STATE_IDLE, NULL);

	context = AllocSetContextCreate(TopMemoryContext, "idempotency launcher",
									ALLOCSET_SMALL_SIZES);
	roster_attach_launcher();
	for (;;)
	{
		if (roster_clock() >= next_scan)
		{
			next_scan = roster_clock() + LAUNCHER_SCAN_MS;
			launcher_scan();
		}
		MemoryContextSwitchTo(context);
		launcher_try_next();
		launcher_round(context);
		MemoryContextReset(context);
		launcher_sleep((int) Max(next_scan - roster_clock(), 0));
	}
}

/* Register the process; called once from _PG_init. */
void
launcher_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = LAUNCHER_RESTART_S;
	strlcpy(worker.bgw_library_name, "idempotency", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "idempotency_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "idempotency launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "idempotency launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
