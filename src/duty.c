/*-------------------------------------------------------------------------
 *
 * duty.c
 *		What has to be done from time to time in each database.
 *
 * A subject that has something to do registers a duty in its xxx_init(): a
 * name, and a function that does one step of it.  The worker runs each step in
 * a transaction of its own, maintain() all of them in the caller's.
 *
 * What a step has to keep to:
 *
 * It finds out whether there is anything to do before it takes a lock that
 * could be in anybody's way, and if there isn't, it writes nothing and takes
 * no transaction id.
 * It may come late, be interrupted by an error or a crash, or run in several
 * sessions at once.
 * It waits for no lock while it holds another: what others need it tries for
 * (duty_lock), so that it is never a part of a deadlock and nobody queues
 * behind it.
 * It evaluates nobody's expression.  It runs as the owner of our tables, in a
 * security-restricted operation, with a fixed search_path.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "duty.h"
#include "guc.h"

#define DUTY_MAX		16
#define DUTY_POLL_MS	5

/* columns of maintain(): duty, object, result, amount */
#define DUTY_COLUMNS	4

static Duty duties[DUTY_MAX];
static int	nduties = 0;

/* what runs, and where it reports to; set anew by each duty_run() */
static const Duty *duty_running = NULL;
static ReturnSetInfo *duty_reported = NULL;

/*
 * Add a duty; the name is the caller's, for good.  To be called from
 * _PG_init; duties run in the order of their registration.
 */
void
duty_register(const char *name, int steps, DutyFunction function)
{
	if (nduties == DUTY_MAX)
		elog(ERROR, "too many duties");
	duties[nduties].name = name;
	duties[nduties].steps = steps;
	duties[nduties++].function = function;
}

/* How many there are. */
int
duty_count(void)
{
	return nduties;
}

/* The nth of them, from 0. */
const Duty *
duty_get(int number)
{
	return &duties[number];
}

/*
 * Do one step of a duty, in the caller's transaction, whose abort undoes all
 * of it, the change of user included.  What the step reports goes to "report",
 * of a function that returns maintain()'s columns, or nowhere if NULL.  Raises
 * what the step raises, and 55000 if the extension isn't here or is of another
 * version.
 */
void
duty_run(const Duty *duty, int step, ReturnSetInfo *report)
{
	Oid			user;
	int			context;
	int			nesting;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(catalog_owner(),
						   context | SECURITY_RESTRICTED_OPERATION);
	nesting = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	duty_running = duty;
	duty_reported = report;
	duty->function(step);
	duty_reported = NULL;
	AtEOXact_GUC(false, nesting);
	SetUserIdAndSecContext(user, context);
}

/* Report what was done to an object; called from a duty's function. */
void
duty_report(const char *object, const char *result, int64 amount)
{
	Datum		values[DUTY_COLUMNS];
	bool		isnull[DUTY_COLUMNS] = {0};

	if (duty_reported == NULL)
		return;
	values[0] = CStringGetTextDatum(duty_running->name);
	values[1] = CStringGetTextDatum(object);
	values[2] = CStringGetTextDatum(result);
	values[3] = Int64GetDatum(amount);
	tuplestore_putvalues(duty_reported->setResult, duty_reported->setDesc,
						 values, isnull);
}

/*
 * Execute one of our own statements, which returns nothing that matters;
 * raises what it raises.
 */
void
duty_execute(const char *command, int nargs, Oid *types, Datum *values,
			 int expected)
{
	int			code;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	code = SPI_execute_with_args(command, nargs, types, values, NULL, false,
								 0);
	if (code != expected)
		elog(ERROR, "maintenance statement failed: %s",
			 SPI_result_code_string(code));
	SPI_finish();
}

/*
 * Try for a lock on a table, without ever queuing, for as long as
 * idempotency.maintain_lock_timeout says.
 */
bool
duty_lock(Oid relid, LOCKMODE mode)
{
	static uint32 wait_event = 0;
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									guc_maintain_lock_timeout);

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConditionalLockRelationOid(relid, mode))
			return true;
		if (GetCurrentTimestamp() >= deadline)
			return false;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 DUTY_POLL_MS,
						 compat_wait_event(&wait_event,
										   "IdempotencyMaintainLock"));
		ResetLatch(MyLatch);
	}
}
