/*-------------------------------------------------------------------------
 *
 * guc.c
 *		Server settings (idempotency.*).
 *
 * What belongs to one kind of operation is a policy of its scope, not a
 * setting of the server; here is only what concerns the server as a whole.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "guc.h"

/* How long may one call's "wait" be?  Milliseconds. */
int			guc_max_wait = 60 * 60 * 1000;

/* What does in_progress tell a client whose rival's end can't be foreseen? */
int			guc_busy_retry_after = 100;

/* How long may maintain() try for the lock on a table that is over? */
int			guc_maintain_lock_timeout = 100;

/* How many pages of leftovers may one maintain() clean per table? */
int			guc_maintain_pages = 4096;

/* How many scopes, of all databases, have statistics of their own? */
int			guc_max_scopes = 256;

/* How many databases can have a worker? */
int			guc_max_databases = 64;

/* How often does a worker look for something to do? */
int			guc_naptime = 1000;

/* Define the settings that size shared memory; without it they don't exist. */
static void
guc_init_preloaded(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	DefineCustomIntVariable("idempotency.max_scopes",
							"Scopes, of all databases, that have statistics, breakers and limits of their own.",
							"Further ones share a place.",
							&guc_max_scopes,
							256,	/* default */
							1, 65536,	/* range */
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);	/* hooks */
	DefineCustomIntVariable("idempotency.max_databases",
							"Databases that can have a worker.",
							"Each worker that runs takes one of max_worker_processes, too.",
							&guc_max_databases,
							64, /* default */
							1, 65536,	/* range */
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);	/* hooks */
}

/* Define the settings; called once from _PG_init. */
void
guc_init(void)
{
	DefineCustomIntVariable("idempotency.max_wait",
							"Longest bounded wait that a call may ask for.",
							"A call or policy with a longer one is refused.",
							&guc_max_wait,
							60 * 60 * 1000, /* default: 1 h */
							0, INT_MAX, /* range */
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);	/* hooks */
	DefineCustomIntVariable("idempotency.busy_retry_after",
							"retry_after_ms of an in_progress answer when the other transaction's end cannot be known.",
							NULL,
							&guc_busy_retry_after,
							100,	/* default */
							1, 60 * 60 * 1000,	/* range */
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);	/* hooks */
	DefineCustomIntVariable("idempotency.maintain_lock_timeout",
							"How long maintain() tries for the lock on a table whose time is over.",
							"It never queues for the lock, so that nobody queues behind it.",
							&guc_maintain_lock_timeout,
							100,	/* default */
							0, 60 * 1000,	/* range */
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);	/* hooks */
	DefineCustomIntVariable("idempotency.maintain_pages",
							"Pages of expired leftovers that one maintain() cleans per table.",
							NULL,
							&guc_maintain_pages,
							4096,	/* default: 32 MB */
							1, INT_MAX, /* range */
							PGC_SUSET, 0,
							NULL, NULL, NULL);	/* hooks */
	DefineCustomIntVariable("idempotency.naptime",
							"Time from one round of a database's worker to the next.",
							"There are workers only if the server preloads the library.",
							&guc_naptime,
							1000,	/* default: 1 s */
							100, 60 * 60 * 1000,	/* range */
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);	/* hooks */
	guc_init_preloaded();
}
