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

/* How much room is there for what the worker has to write down?  kB. */
int			guc_note_buffer = 4096;

/* How often does a worker look for something to do? */
int			guc_naptime = 1000;

/* How is the ledger's log named to the outside?  NULL: by the system. */
char	   *guc_origin = NULL;

/* Which trace does the client's call belong to?  W3C traceparent, or "". */
char	   *guc_traceparent = NULL;

/* How often was it set?  For whoever keeps what it says. */
int			guc_traceparent_changes = 0;

/* Which part of the calls without a sampled parent has spans?  0: none has. */
double		guc_trace_sample_rate = 0;

/* How much room is there for spans, until somebody takes them?  kB. */
int			guc_span_buffer = 1024;

/* Is anything counted? */
bool		guc_collect_stats = true;

/* At which level are refusals logged?  LOG_REFUSALS_OFF: at none. */
int			guc_log_refusals = LOG_REFUSALS_OFF;

static const struct config_enum_entry guc_log_levels[] = {
	{"off", LOG_REFUSALS_OFF, false},
	{"debug", DEBUG1, true},
	{"debug1", DEBUG1, false},
	{"notice", NOTICE, false},
	{"warning", WARNING, false},
	{"log", LOG, false},
	{NULL, 0, false}
};

/* Where does the worker put checkpoints for others?  NULL: nowhere. */
char	   *guc_export_directory = NULL;

/* How often does it, at most? */
int			guc_export_interval = 10000;

/* How many standbys must have an entry before its checkpoint is told? */
int			guc_checkpoint_standbys = 0;

/*
 * Could this be the name of a log?  A checkpoint's first line: not empty, no
 * white space, no plus sign, printable ASCII, so that it can name a key, too
 * (C2SP tlog-checkpoint, signed-note).  NULL means that it isn't set.
 */
static bool
guc_check_origin(char **newval, void **extra, GucSource source)
{
	if (*newval == NULL)
		return true;
	for (const char *c = *newval; *c; c++)
	{
		if (*c <= ' ' || *c > '~' || *c == '+')
		{
			GUC_check_errdetail("It must consist of printable ASCII characters other than space and \"+\".");
			return false;
		}
	}
	if (**newval == '\0' || strlen(*newval) > ORIGIN_MAX_BYTES)
	{
		GUC_check_errdetail("It must have between 1 and %d bytes.",
							ORIGIN_MAX_BYTES);
		return false;
	}
	return true;
}

/* A GucStringAssignHook: the trace's parent is another one. */
static void
guc_assign_traceparent(const char *newval, void *extra)
{
	guc_traceparent_changes++;
}

/* Define the settings by which one sees what happens. */
static void
guc_init_seeing(void)
{
	DefineCustomStringVariable("idempotency.traceparent",
							   "Trace that the client's calls belong to (W3C Trace Context).",
							   "What can't be parsed is ignored.",
							   &guc_traceparent,
							   "",	/* default: none */
							   PGC_USERSET, 0,
							   NULL, guc_assign_traceparent, NULL); /* hooks */
	DefineCustomRealVariable("idempotency.trace_sample_rate",
							 "Part of the calls that leave spans.",
							 "Where the client's trace says whether it is sampled, that counts, unless this is 0.",
							 &guc_trace_sample_rate,
							 0, /* default: none */
							 0, 1,	/* range */
							 PGC_SUSET, 0,
							 NULL, NULL, NULL); /* hooks */
	DefineCustomBoolVariable("idempotency.collect_stats",
							 "Counts what happens, and how long it takes.",
							 NULL,
							 &guc_collect_stats,
							 true,	/* default */
							 PGC_SUSET, 0,
							 NULL, NULL, NULL); /* hooks */
	DefineCustomEnumVariable("idempotency.log_refusals",
							 "Level at which refusals are logged.",
							 "At most one of a kind a second; without keys and payloads.",
							 &guc_log_refusals,
							 LOG_REFUSALS_OFF,	/* default */
							 guc_log_levels,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL); /* hooks */
}

/* Define the settings of the ledger. */
static void
guc_init_ledger(void)
{
	DefineCustomStringVariable("idempotency.origin",
							   "Name of the ledger's log in its checkpoints, like example.com/payments.",
							   "The incarnation's number is appended; a change counts from the next incarnation on.",
							   &guc_origin,
							   NULL,	/* default: of the system and database */
							   PGC_SUSET, 0,
							   guc_check_origin, NULL, NULL);	/* hooks */
	DefineCustomStringVariable("idempotency.export_directory",
							   "Directory into which the worker writes checkpoints.",
							   "Best one that leaves the machine.  Empty: none is written.",
							   &guc_export_directory,
							   "",	/* default: none */
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);	/* hooks */
	DefineCustomIntVariable("idempotency.export_interval",
							"Time from one exported checkpoint to the next.",
							NULL,
							&guc_export_interval,
							10 * 1000,	/* default: 10 s */
							0, 24 * 60 * 60 * 1000, /* range */
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);	/* hooks */
	DefineCustomIntVariable("idempotency.checkpoint_standbys",
							"Standbys that must have flushed a checkpoint's entries before it is told.",
							"So that no promotion can contradict a checkpoint that somebody holds.",
							&guc_checkpoint_standbys,
							0,	/* default: don't ask */
							0, 100, /* range */
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);	/* hooks */
}

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
	DefineCustomIntVariable("idempotency.note_buffer",
							"Room for aborted attempts and the like, until the workers write them.",
							"What finds none is counted, and lost.",
							&guc_note_buffer,
							4096,	/* default: 4 MB */
							64, 1024 * 1024,	/* range */
							PGC_POSTMASTER, GUC_UNIT_KB,
							NULL, NULL, NULL);	/* hooks */
	DefineCustomIntVariable("idempotency.span_buffer",
							"Room for spans, until somebody takes them.",
							"The oldest make way for new ones, and are counted.",
							&guc_span_buffer,
							1024,	/* default: 1 MB */
							64, 1024 * 1024,	/* range */
							PGC_POSTMASTER, GUC_UNIT_KB,
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
	guc_init_ledger();
	guc_init_seeing();
	guc_init_preloaded();
}
