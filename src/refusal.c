/*-------------------------------------------------------------------------
 *
 * refusal.c
 *		One line of the log for each class of refusals, now and then.
 *
 * Where idempotency.log_refusals says so, a refusal is logged in one line of
 * key=value pairs: never with a key, principal or payload, and so without the
 * statement and the context.  Of each class there is a line a second at most,
 * for the whole server, or without shared memory for each session; the next
 * line of the class says how many were suppressed since the last one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "port/atomics.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "errors.h"
#include "guc.h"
#include "refusal.h"
#include "shmem.h"
#include "trace.h"

typedef struct RefusalArea
{
	pg_atomic_uint64 second[REFUSAL_CLASSES];	/* of the last line */
	pg_atomic_uint64 suppressed[REFUSAL_CLASSES];	/* since then */
} RefusalArea;

static RefusalArea *refusal_area = NULL;

static const char *const refusal_names[REFUSAL_CLASSES] = {
	[REFUSAL_NONE] = "none",
	[REFUSAL_IN_PROGRESS] = "in_progress",
	[REFUSAL_MISMATCH] = "mismatch",
	[REFUSAL_BACKOFF] = "backoff",
	[REFUSAL_BREAKER] = "breaker_open",
	[REFUSAL_LIMIT] = "limit",
	[REFUSAL_EXHAUSTED] = "exhausted",
	[REFUSAL_INDETERMINATE] = "indeterminate",
	[REFUSAL_EXPIRED] = "expired",
	[REFUSAL_FENCE] = "fence",
	[REFUSAL_UNKNOWN] = "unknown",
	[REFUSAL_UNSETTLED] = "unsettled",
	[REFUSAL_ROLE] = "role",
	[REFUSAL_TOKEN] = "token",
	[REFUSAL_TOO_LARGE] = "too_large",
	[REFUSAL_ARGUMENT] = "argument"
};

/* which error is of which class */
static const struct
{
	int			sqlstate;
	RefusalClass class;
}			refusal_sqlstates[] = {
	{ERRCODE_IDEM_BAD_ARGUMENT, REFUSAL_ARGUMENT},
	{ERRCODE_IDEM_BAD_TOKEN, REFUSAL_TOKEN},
	{ERRCODE_IDEM_NOT_GRANTED, REFUSAL_ROLE},
	{ERRCODE_IDEM_NOT_FOUND, REFUSAL_UNKNOWN},
	{ERRCODE_IDEM_IN_PROGRESS, REFUSAL_IN_PROGRESS},
	{ERRCODE_IDEM_EXPIRED, REFUSAL_EXPIRED},
	{ERRCODE_IDEM_FENCE_LOST, REFUSAL_FENCE},
	{ERRCODE_IDEM_TOO_LARGE, REFUSAL_TOO_LARGE},
	{ERRCODE_IDEM_MISMATCH, REFUSAL_MISMATCH},
	{ERRCODE_IDEM_UNSETTLED, REFUSAL_UNSETTLED},
	{ERRCODE_IDEM_RETRY_LATER, REFUSAL_BACKOFF},
	{ERRCODE_IDEM_INDETERMINATE, REFUSAL_INDETERMINATE},
	{ERRCODE_IDEM_EXHAUSTED, REFUSAL_EXHAUSTED}
};

/* Bytes of shared memory. */
static Size
refusal_size(void)
{
	return sizeof(RefusalArea);
}

/* Make the area; without shared memory, the session's own. */
static void
refusal_init_area(void *area, LWLock *lock)
{
	refusal_area = area;
	for (int i = 0; i < REFUSAL_CLASSES; i++)
	{
		pg_atomic_init_u64(&refusal_area->second[i], 0);
		pg_atomic_init_u64(&refusal_area->suppressed[i], 0);
	}
}

/* Ask for the area; called once from _PG_init. */
void
refusal_init(void)
{
	shmem_register("idempotency refusals", refusal_size, refusal_init_area,
				   (void **) &refusal_area);
}

/* The class of an error, or REFUSAL_NONE if it isn't one of ours. */
RefusalClass
refusal_class_of(int sqlstate)
{
	for (int i = 0; i < lengthof(refusal_sqlstates); i++)
	{
		if (refusal_sqlstates[i].sqlstate == sqlstate)
			return refusal_sqlstates[i].class;
	}
	return REFUSAL_NONE;
}

/*
 * May there be a line now?  Then *suppressed is how many there might have been
 * since the last one.
 */
static bool
refusal_is_due(RefusalClass class, uint64 *suppressed)
{
	static RefusalArea own;
	uint64		now = GetCurrentTimestamp() / USECS_PER_SEC;
	uint64		last;

	if (refusal_area == NULL)
		refusal_init_area(&own, NULL);
	last = pg_atomic_read_u64(&refusal_area->second[class]);
	if (last == now ||
		!pg_atomic_compare_exchange_u64(&refusal_area->second[class], &last,
										now))
	{
		pg_atomic_fetch_add_u64(&refusal_area->suppressed[class], 1);
		return false;
	}
	*suppressed = pg_atomic_exchange_u64(&refusal_area->suppressed[class], 0);
	return true;
}

/* Log a refusal, if they are logged and it is time for one. */
void
refusal_log(const Refusal *refusal)
{
	StringInfoData line;
	uint8		trace[TRACE_ID_LENGTH];
	uint64		suppressed;

	if (guc_log_refusals == LOG_REFUSALS_OFF ||
		refusal->class == REFUSAL_NONE ||
		!refusal_is_due(refusal->class, &suppressed))
		return;
	initStringInfo(&line);
	appendStringInfo(&line, "class=%s", refusal_names[refusal->class]);
	if (refusal->function)
		appendStringInfo(&line, " function=%s", refusal->function);
	if (refusal->scope_len > 0)
	{
		appendStringInfoString(&line, " scope=");
		escape_json(&line, pnstrdup(refusal->scope, refusal->scope_len));
	}
	if (refusal->reason)
		appendStringInfo(&line, " reason=%s", refusal->reason);
	if (refusal->sqlstate != 0)
		appendStringInfo(&line, " sqlstate=%s",
						 unpack_sql_state(refusal->sqlstate));
	if (trace_current(trace))
	{
		appendStringInfoString(&line, " trace_id=");
		enlargeStringInfo(&line, 2 * TRACE_ID_LENGTH);
		line.len += hex_encode((const char *) trace, TRACE_ID_LENGTH,
							   line.data + line.len);
		line.data[line.len] = '\0';
	}
	appendStringInfo(&line, " suppressed=%llu",
					 (unsigned long long) suppressed);
	ereport(guc_log_refusals,
			(errmsg("idempotency refusal: %s", line.data),
			 errhidestmt(true), errhidecontext(true)));
	pfree(line.data);
}
