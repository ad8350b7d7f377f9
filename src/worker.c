/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The process that does the duties of one database.
 *
 * It is started by the launcher, and ends when the extension is gone.  Every
 * idempotency.naptime it does a round: each step of each duty (duty.c) in a
 * transaction of its own, so that it holds no lock for longer than a step
 * takes, and none between rounds.
 *
 * A step that fails ends with its transaction; the other steps go on.  Its
 * duty is then left alone for a second, and for twice as long each time it
 * fails again, up to a minute.  The log has the error once, until the duty has
 * gone well or fails with another one.  What is outside of the steps can fail
 * as well: then the process ends, and the launcher starts it again.
 *
 * Once a second at least, and between steps, it looks whether somebody waits
 * to have the database for himself (DROP DATABASE and its like), and makes way
 * by ending.
 *
 * The session is the bootstrap superuser's.  Settings of roles and databases
 * apply to it as to any other; those that could do harm are overruled.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "catalog.h"
#include "compat.h"
#include "duty.h"
#include "fault.h"
#include "guc.h"
#include "roster.h"

#define WORKER_LOOK_MS		1000	/* how often it sees if it is in the way */
#define WORKER_DELAY_MIN	1000
#define WORKER_DELAY_MAX	60000

PGDLLEXPORT void idempotency_worker_main(Datum arg);

/* what went wrong with a duty, or with looking around before them */
typedef struct WorkerTrouble
{
	int			sqlstate;		/* of the last failure; 0: all is well */
	int			delay;			/* ms */
	int64		retry_at;		/* by roster_clock() */
} WorkerTrouble;

static MemoryContext worker_context;	/* emptied after each transaction */
static WorkerTrouble *worker_troubles;	/* [0]: the look; then each duty */
static int	worker_sqlstate;	/* of this round's last failure, or 0 */

/* Settings that are not a role's or a database's business here. */
static void
worker_pin_settings(void)
{
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET,
					PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "false", PGC_SUSET,
					PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "false", PGC_SUSET,
					PGC_S_OVERRIDE);
	SetConfigOption("zero_damaged_pages", "false", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	/* shorter than deadlock_timeout: the one to give way is this process */
	SetConfigOption("lock_timeout", "300ms", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET,
					PGC_S_OVERRIDE);
	compat_no_transaction_timeout();
	/* locks are held while a commit waits for a standby */
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
}

/* End, for this reason. */
static void
worker_leave(RosterLeave reason)
{
	roster_leave(reason);
	proc_exit(0);
}

/*
 * Attend to what came in meanwhile; make way if somebody waits for that.
 * Called outside of transactions.
 */
static void
worker_attend(void)
{
	QueryCancelPending = false; /* there's nothing to cancel */
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (roster_database_is_wanted(MyDatabaseId))
		worker_leave(ROSTER_YIELDS);
}

/* Sleep until it is idempotency.naptime since the given moment. */
static void
worker_sleep(int64 since)
{
	static uint32 wait_event = 0;
	int64		left;

	pgstat_report_activity(STATE_IDLE, NULL);
	while ((left = since + guc_naptime - roster_clock()) > 0)
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, WORKER_LOOK_MS),
						 compat_wait_event(&wait_event,
										   "IdempotencyWorkerMain"));
		ResetLatch(MyLatch);
		worker_attend();
	}
}

/*
 * Is there work for this process here: is the extension here, in a database
 * that is neither a template nor closed to connections?
 */
static bool
worker_is_wanted(void)
{
	HeapTuple	tuple;
	Form_pg_database form;
	bool		open;

	if (!OidIsValid(get_extension_oid("idempotency", true)))
		return false;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_database) GETSTRUCT(tuple);
	open = form->datallowconn && !form->datistemplate;
	ReleaseSysCache(tuple);
	return open;
}

/*
 * What a transaction of the worker does: a step of a duty or, without a duty,
 * a look around.  Returns false if the worker isn't wanted any more.  Raises
 * what the step raises; the look around raises 55000 if the extension is of
 * another version than the library.
 */
static bool
worker_do(const Duty *duty, int step)
{
	FAULT_POINT("worker.step");
	if (duty != NULL)
	{
		/* if that can't be had, the extension is being dropped or altered */
		if (ConditionalLockRelationOid(catalog_relation(CATALOG_INCARNATION),
									   AccessShareLock))
			duty_run(duty, step, NULL);
		return true;
	}
	if (!worker_is_wanted())
		return false;
	(void) catalog_owner();
	return true;
}

/* Where an error of the worker comes from. */
static void
worker_error_context(void *arg)
{
	const Duty *duty = (const Duty *) arg;

	errcontext("duty \"%s\" of extension \"idempotency\"",
			   duty ? duty->name : "look around");
}

/*
 * Take note of the error that is being handled, and forget it.  It is logged
 * unless the same one was logged before and hasn't gone away since; that a lock
 * couldn't be had, only if it can't be had the next time either.
 */
static void
worker_failed(WorkerTrouble *trouble)
{
	int			sqlstate = geterrcode();

	if (sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ?
		trouble->sqlstate == sqlstate && trouble->delay == WORKER_DELAY_MIN :
		sqlstate != trouble->sqlstate)
		EmitErrorReport();
	FlushErrorState();
	trouble->sqlstate = worker_sqlstate = sqlstate;
}

/*
 * Do something in a transaction of its own.  Returns what worker_do() says; an
 * error is taken note of in *trouble.
 */
static bool
worker_transaction(const Duty *duty, int step, WorkerTrouble *trouble)
{
	volatile bool wanted = true;

	PG_TRY();
	{
		ErrorContextCallback callback = {
			error_context_stack, worker_error_context, unconstify(Duty *, duty)
		};

		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		error_context_stack = &callback;
		PushActiveSnapshot(GetTransactionSnapshot());
		wanted = worker_do(duty, step);
		PopActiveSnapshot();
		CommitTransactionCommand();
		error_context_stack = callback.previous;
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		disable_all_timeouts(false);
		QueryCancelPending = false;
		MemoryContextSwitchTo(worker_context);
		worker_failed(trouble);
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(worker_context);
	MemoryContextReset(worker_context);
	return wanted;
}

/*
 * The end of a duty's turn, or of a look around, that went well or not: when
 * is it to be tried again?
 */
static void
worker_settle(WorkerTrouble *trouble, bool well)
{
	if (well)
	{
		trouble->sqlstate = 0;
		trouble->delay = 0;
		return;
	}
	trouble->delay = Min(Max(2 * trouble->delay, WORKER_DELAY_MIN),
						 WORKER_DELAY_MAX);
	trouble->retry_at = roster_clock() + trouble->delay;
}

/* Do all steps of a duty, or look around, unless it is put off. */
static void
worker_turn(const Duty *duty, WorkerTrouble *trouble)
{
	int			before = worker_sqlstate;
	int			steps = duty ? duty->steps : 1;

	if (trouble->sqlstate != 0 && roster_clock() < trouble->retry_at)
		return;
	pgstat_report_activity(STATE_RUNNING, duty ? duty->name : "look around");
	worker_sqlstate = 0;
	for (int step = 0; step < steps; step++)
	{
		worker_attend();
		if (!worker_transaction(duty, step, trouble))
			worker_leave(ROSTER_NOT_WANTED);
	}
	worker_settle(trouble, worker_sqlstate == 0);
	if (worker_sqlstate == 0)
		worker_sqlstate = before;
}

/* Look around, and do what is due. */
static void
worker_round(void)
{
	bool		troubled;

	worker_sqlstate = 0;
	roster_begin_round();
	worker_turn(NULL, &worker_troubles[0]);
	troubled = worker_troubles[0].sqlstate != 0;
	if (!troubled)
	{
		for (int n = 0; n < duty_count(); n++)
		{
			worker_turn(duty_get(n), &worker_troubles[n + 1]);
			troubled |= worker_troubles[n + 1].sqlstate != 0;
		}
	}
	roster_end_round(troubled, worker_sqlstate);
	pgstat_report_stat(true);
}

/* The process; the argument is the database's OID. */
void
idempotency_worker_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!roster_attach_worker(database))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	worker_pin_settings();
	worker_context = AllocSetContextCreate(TopMemoryContext,
										   "idempotency worker",
										   ALLOCSET_DEFAULT_SIZES);
	worker_troubles = MemoryContextAllocZero(TopMemoryContext,
											 (duty_count() + 1) *
											 sizeof(WorkerTrouble));
	MemoryContextSwitchTo(worker_context);
	for (;;)
	{
		int64		began = roster_clock();

		worker_round();
		worker_sleep(began);
	}
}
