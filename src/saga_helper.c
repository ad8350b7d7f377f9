/*-------------------------------------------------------------------------
 *
 * saga_helper.c
 *		The process that executes the SQL handlers of one role.
 *
 * The worker of a database starts it when a handler of the role is due.  It is
 * connected as that role, so that a handler can do what its role can, and
 * nothing else; it never sees the worker's rights.  It ends when nothing has
 * been due for some seconds.
 *
 * Each attempt is two transactions: the first counts it, so that a handler
 * that brings down its process, or the server, is not repeated for ever; the
 * second executes the handler and marks the step as undone.  So a step is
 * undone exactly once.  If the second fails, a third says why.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "incarnation.h"
#include "roster.h"
#include "saga.h"
#include "saga_attempt.h"
#include "watch.h"

#define HELPER_LINGER_MS	5000
#define HELPER_NAP_MS		100
#define HELPER_LOOKS		200
#define HELPER_DELAY_MIN	500		/* after one that ended at once, ms */
#define HELPER_DELAY_MAX	30000

PGDLLEXPORT void idempotency_saga_main(Datum arg);

/* a helper that this process, a worker, has started */
typedef struct Helper
{
	Oid			role;
	BackgroundWorkerHandle *handle;
	int64		started_at;		/* by roster_clock() */
	int64		delay;			/* until the next start, ms */
} Helper;

static List *helpers = NIL;		/* in TopMemoryContext */
static MemoryContext helper_context;
static Oid	helper_role;

/* The helper of a role, a new one (not started) if there is none. */
static Helper *
helper_of(Oid role)
{
	MemoryContext old;
	Helper	   *helper;
	ListCell   *cell;

	foreach(cell, helpers)
	{
		helper = lfirst(cell);
		if (helper->role == role)
			return helper;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	helper = palloc0(sizeof(Helper));
	helper->role = role;
	helpers = lappend(helpers, helper);
	MemoryContextSwitchTo(old);
	return helper;
}

/* Ask the postmaster for the process; false if there is no room. */
static bool
helper_register(Helper *helper)
{
	BackgroundWorker worker;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool		done;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	memcpy(worker.bgw_extra, &helper->role, sizeof(Oid));
	strlcpy(worker.bgw_library_name, "idempotency", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "idempotency_saga_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "idempotency saga helper", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN,
			 "idempotency saga helper of role %u in database %u",
			 helper->role, MyDatabaseId);
	if (helper->handle)
		pfree(helper->handle);
	helper->handle = NULL;
	done = RegisterDynamicBackgroundWorker(&worker, &helper->handle);
	MemoryContextSwitchTo(old);
	return done;
}

/*
 * Start the role's helper, unless it runs; called in the worker only.  One that
 * ends at once is started again later and later.
 */
void
saga_helper_start(Oid role)
{
	Helper	   *helper = helper_of(role);
	int64		now = roster_clock();
	pid_t		pid;

	if (helper->handle &&
		GetBackgroundWorkerPid(helper->handle, &pid) != BGWH_STOPPED)
		return;
	if (helper->started_at != 0 && now < helper->started_at + helper->delay)
		return;
	helper->delay = helper->started_at == 0 ||
		now > helper->started_at + 2 * HELPER_LINGER_MS ?
		HELPER_DELAY_MIN : Min(2 * helper->delay, HELPER_DELAY_MAX);
	helper->started_at = now;
	if (!helper_register(helper))
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free for a saga's compensations"),
				 errhint("It will be tried again. You may need to raise max_worker_processes.")));
}

/* Begin a transaction. */
static void
helper_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* Commit it. */
static void
helper_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(helper_context);
}

/* A copy of an attempt, its texts included, that outlives the transaction. */
static SagaAttempt *
helper_keep(const SagaAttempt *attempt)
{
	MemoryContext old = MemoryContextSwitchTo(helper_context);
	SagaAttempt *copy = palloc(sizeof(SagaAttempt));
	SagaStep   *step = &copy->step;
	text	  **texts[] = {&step->name, &step->handler, &step->role,
		&step->args, &step->result, &step->error, &copy->run.reason};

	*copy = *attempt;
	copy->run.identity = *identity_copy(&attempt->run.identity,
										helper_context);
	for (int i = 0; i < lengthof(texts); i++)
	{
		if (*texts[i])
			*texts[i] = (text *) pg_detoast_datum_copy((struct varlena *) *texts[i]);
	}
	MemoryContextSwitchTo(old);
	return copy;
}

/*
 * The first transaction: begin an attempt at what has been due longest.
 * Returns NULL if there is nothing.
 */
static SagaAttempt *
helper_take(void)
{
	SagaAttempt attempt;
	SagaAttempt *kept = NULL;
	ListCell   *cell;

	helper_begin();
	/* what it could when it was connected it may not be able to any more */
	if (saga_role_trouble(helper_role) != NULL)
		proc_exit(0);
	if (catalog_is_there() && !saga_is_empty())
	{
		List	   *runs = saga_run_due(TODO_HANDLER, clock_now(), NULL,
										HELPER_LOOKS);

		if (runs != NIL)
			(void) incarnation_prepare(true);
		foreach(cell, runs)
		{
			SagaRun    *run = lfirst(cell);

			if (saga_take(&run->identity, 0, helper_role, &attempt))
			{
				kept = helper_keep(&attempt);
				break;
			}
		}
	}
	helper_commit();
	return kept;
}

/* The second: execute the handler, and mark the step. */
static void
helper_execute(SagaAttempt *attempt)
{
	SagaResult	result = {.success = true,.retry_after_ms = -1};
	Identity   *identity = &attempt->run.identity;
	int64		limit = (attempt->step.lease_until - clock_now()) / 1000;
	SagaStep	step;
	const char *outcome;

	helper_begin();
	enable_timeout_after(STATEMENT_TIMEOUT,
						 (int) Max(Min(limit, PG_INT32_MAX), 1));
	if (saga_attempt_lock(identity_id(identity)) &&
		saga_attempt_is_current(identity, attempt))
	{
		saga_handle(attempt);
		outcome = saga_settle(identity, attempt->step.name,
							  attempt->step.fence, &result, true, &step);
		watch_answer(outcome, NULL, attempt->run.fence,
					 attempt->step.attempt);
	}
	disable_timeout(STATEMENT_TIMEOUT, false);
	helper_commit();
}

/* The third, if the second has failed. */
static void
helper_fail(SagaAttempt *attempt, const char *message)
{
	SagaResult	result = {.retryable = true,.retry_after_ms = -1};
	Identity   *identity = &attempt->run.identity;
	SagaStep	step;
	const char *outcome;

	helper_begin();
	result.error = cstring_to_text(message);
	if (saga_attempt_lock(identity_id(identity)) &&
		saga_attempt_is_current(identity, attempt))
	{
		outcome = saga_settle(identity, attempt->step.name,
							  attempt->step.fence, &result, true, &step);
		watch_answer(outcome, NULL, attempt->run.fence,
					 attempt->step.attempt);
	}
	helper_commit();
}

/*
 * The second transaction, and the third, for saga_watch_attempt().  An error of the handler is not
 * logged, as it may quote what it is about: its message is in the step's row.
 */
static Datum
helper_attempt(PG_FUNCTION_ARGS)
{
	SagaAttempt *attempt = saga_watched(fcinfo);
	char	   *volatile message = NULL;

	PG_TRY();
	{
		helper_execute(attempt);
	}
	PG_CATCH();
	{
		ErrorData  *data;

		HOLD_INTERRUPTS();
		disable_all_timeouts(false);
		QueryCancelPending = false;
		MemoryContextSwitchTo(helper_context);
		data = CopyErrorData();
		message = data->message ? data->message : "";
		watch_error(data->sqlerrcode);
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(helper_context);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	if (message)
		helper_fail(attempt, message);
	return (Datum) 0;
}

/* Attend to signals; end if somebody wants the database to himself. */
static void
helper_attend(void)
{
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (roster_database_is_wanted(MyDatabaseId))
		proc_exit(0);
}

/* Settings that would keep a step from being marked. */
static void
helper_pin_settings(void)
{
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "false", PGC_SUSET,
					PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "false", PGC_SUSET,
					PGC_S_OVERRIDE);
	SetConfigOption("application_name", "idempotency saga helper",
					PGC_USERSET, PGC_S_OVERRIDE);
}

/* The process; the argument is the database's OID, the role's is in extra. */
void
idempotency_saga_main(Datum arg)
{
	static uint32 wait_event = 0;
	int64		last;

	memcpy(&helper_role, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg),
											  helper_role, 0);
	helper_pin_settings();
	helper_context = AllocSetContextCreate(TopMemoryContext,
										   "idempotency saga helper",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(helper_context);
	last = roster_clock();
	while (roster_clock() < last + HELPER_LINGER_MS)
	{
		SagaAttempt *attempt;

		helper_attend();
		pgstat_report_activity(STATE_RUNNING, "compensations");
		MemoryContextReset(helper_context);
		attempt = helper_take();
		if (attempt)
		{
			saga_watch_attempt(helper_attempt, attempt, NULL);
			last = roster_clock();
			continue;
		}
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 HELPER_NAP_MS,
						 compat_wait_event(&wait_event,
										   "IdempotencySagaHelper"));
		ResetLatch(MyLatch);
	}
	pgstat_report_stat(true);
	proc_exit(0);
}
