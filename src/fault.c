/*-------------------------------------------------------------------------
 *
 * fault.c
 *		Fault points and a movable clock, for test builds only.
 *
 * idempotency.fault = 'point:action[:nth]' arms one point of this session;
 * the nth time (1 by default) that execution comes by, the action is taken:
 *
 *		error	raise an error
 *		fatal	end the session
 *		kill	SIGKILL this backend
 *		crash	SIGKILL the postmaster, then this backend
 *		block	wait until the advisory lock 7001 is free
 *		skip	leave out what the point guards (every time, from the nth)
 *
 * idempotency.clock_offset, in seconds, is added to every reading of the
 * clock that a deadline is compared with.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef IDEMPOTENCY_FAULTS

#include <signal.h>

#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/guc.h"

#include "fault.h"

#define FAULT_BLOCK_KEY 7001

static char *fault_setting = NULL;
static int	fault_clock_offset = 0;
static int	fault_passed = 0;

/* A new setting starts counting anew. */
static void
fault_assigned(const char *newval, void *extra)
{
	fault_passed = 0;
}

/* Define the two settings; called once from _PG_init. */
void
fault_init(void)
{
	DefineCustomStringVariable("idempotency.fault",
							   "Arms one fault point: point:action[:nth].",
							   NULL, &fault_setting, "", PGC_SUSET,
							   GUC_NOT_IN_SAMPLE, NULL, fault_assigned, NULL);
	DefineCustomIntVariable("idempotency.clock_offset",
							"Seconds added to the clock of deadlines.",
							NULL, &fault_clock_offset, 0, -2000000000,
							2000000000, PGC_SUSET,
							GUC_NOT_IN_SAMPLE | GUC_UNIT_S, NULL, NULL, NULL);
}

/*
 * Is this point armed, and due?  On yes, *action points behind the colon.
 */
static bool
fault_due(const char *point, const char **action)
{
	size_t		len = strlen(point);
	const char *nth;

	if (fault_setting == NULL || strncmp(fault_setting, point, len) != 0 ||
		fault_setting[len] != ':')
		return false;
	*action = fault_setting + len + 1;
	nth = strchr(*action, ':');
	return ++fault_passed >= (nth ? atoi(nth + 1) : 1);
}

/* Wait, interruptibly, until nobody holds the test's advisory lock. */
static void
fault_block(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, FAULT_BLOCK_KEY, 1);
	(void) LockAcquire(&tag, ShareLock, false, false);
	LockRelease(&tag, ShareLock, false);
}

/* Take the armed action, if this is its point and its turn. */
void
fault_point(const char *point)
{
	const char *action;

	if (!fault_due(point, &action))
		return;
	if (strncmp(action, "block", 5) == 0)
		fault_block();
	else if (strncmp(action, "error", 5) == 0)
		elog(ERROR, "fault at %s", point);
	else if (strncmp(action, "fatal", 5) == 0)
		elog(FATAL, "fault at %s", point);
	else if (strncmp(action, "crash", 5) == 0)
		kill(PostmasterPid, SIGKILL);
	if (strncmp(action, "crash", 5) == 0 || strncmp(action, "kill", 4) == 0)
		kill(MyProcPid, SIGKILL);
}

/* Is this point armed with the action "skip"? */
bool
fault_skips(const char *point)
{
	const char *action;

	return fault_due(point, &action) && strncmp(action, "skip", 4) == 0;
}

/* The clock that deadlines are compared with. */
TimestampTz
fault_clock(void)
{
	return GetCurrentTimestamp() + fault_clock_offset * USECS_PER_SEC;
}

#endif							/* IDEMPOTENCY_FAULTS */
