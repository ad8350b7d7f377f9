/*-------------------------------------------------------------------------
 *
 * run.c
 *		run(): claim, execute one statement as the caller, finish with its
 *		rows; in one round trip.
 *
 * The statement runs through SPI with the caller's rights, search_path and
 * transaction.  If it raises an error, so does run(), and the claim goes with
 * the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "claim.h"
#include "compat.h"
#include "errors.h"
#include "settle.h"
#include "tag.h"
#include "watch.h"

/* plans kept in a backend; one more, and all are made anew */
#define RUN_PLANS_MAX 64

COMPAT_FUNCTION_INFO(idempotency_run);

/*
 * A command's plan, kept for the next call with the same command.  PostgreSQL
 * itself plans anew when what the plan depends on has changed: tables, roles,
 * search_path.
 */
typedef struct RunPlan
{
	uint64		hash;			/* hash key, of the command */
	char	   *command;
	SPIPlanPtr	plan;
} RunPlan;

static HTAB *run_plans = NULL;

/* Throw all kept plans away. */
static void
run_drop_plans(void)
{
	HASH_SEQ_STATUS scan;
	RunPlan    *entry;

	hash_seq_init(&scan, run_plans);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		SPI_freeplan(entry->plan);
		pfree(entry->command);
		hash_search(run_plans, &entry->hash, HASH_REMOVE, NULL);
	}
}

/* Keep a plan.  One that has the same hash as another is not kept. */
static void
run_keep_plan(uint64 hash, const char *command, SPIPlanPtr plan)
{
	RunPlan    *entry;
	bool		found;
	char	   *copy;

	if (hash_get_num_entries(run_plans) >= RUN_PLANS_MAX)
		run_drop_plans();
	copy = MemoryContextStrdup(TopMemoryContext, command);
	entry = hash_search(run_plans, &hash, HASH_ENTER, &found);
	if (found)
	{
		pfree(copy);
		return;
	}
	entry->command = copy;
	entry->plan = plan;
	SPI_keepplan(plan);
}

/* Make the table of kept plans. */
static void
run_init_plans(void)
{
	HASHCTL		ctl;

	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(RunPlan);
	run_plans = hash_create("idempotency plans", RUN_PLANS_MAX, &ctl,
							HASH_ELEM | HASH_BLOBS);
}

/* The plan of a command, which must be one statement.  Raises ID400. */
static SPIPlanPtr
run_prepare(const char *command)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) command,
										   strlen(command), 0);
	Oid			argtypes[1] = {JSONBOID};
	SPIPlanPtr	plan;
	RunPlan    *entry;

	if (run_plans == NULL)
		run_init_plans();
	entry = hash_search(run_plans, &hash, HASH_FIND, NULL);
	if (entry && strcmp(entry->command, command) == 0)
		return entry->plan;

	plan = SPI_prepare(command, lengthof(argtypes), argtypes);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s",
			 SPI_result_code_string(SPI_result));
	if (list_length(SPI_plan_get_plan_sources(plan)) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("command must be exactly one statement"),
				 errhint("Put several statements into a function, or into one statement with WITH.")));
	run_keep_plan(hash, command, plan);
	return plan;
}

/* The rows of the last SPI command as a JSON array, in the given context. */
static text *
run_result(MemoryContext where)
{
	StringInfoData json;
	MemoryContext old;
	text	   *result;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	if (SPI_tuptable)
		(void) BlessTupleDesc(SPI_tuptable->tupdesc);
	for (uint64 i = 0; SPI_tuptable && i < SPI_tuptable->numvals; i++)
	{
		Datum		row = heap_copy_tuple_as_datum(SPI_tuptable->vals[i],
												   SPI_tuptable->tupdesc);
		text	   *object = DatumGetTextPP(DirectFunctionCall1(row_to_json,
																row));

		if (i > 0)
			appendStringInfoString(&json, ", ");
		appendBinaryStringInfo(&json, VARDATA_ANY(object),
							   VARSIZE_ANY_EXHDR(object));
		pfree(object);
		pfree(DatumGetPointer(row));
	}
	appendStringInfoChar(&json, ']');

	old = MemoryContextSwitchTo(where);
	result = cstring_to_text_with_len(json.data, json.len);
	MemoryContextSwitchTo(old);
	return result;
}

/*
 * Execute the command with $1 = args and return its rows.  Raises what the
 * command raises, and ID400.
 */
static text *
run_command(const char *command, Datum args)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[1] = {args};
	SPIPlanPtr	plan;
	text	   *result;
	int			code;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	plan = run_prepare(command);
	code = SPI_execute_plan(plan, values, NULL, false, 0);
	if (code < 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("command cannot be run"),
				 code == SPI_ERROR_COPY ?
				 errdetail("COPY to or from the client is not possible here.") :
				 errdetail("Transaction control is not possible here.")));
	result = run_result(caller);
	SPI_finish();
	return result;
}

/*
 * run(scope text, key text, command text, args jsonb, request text,
 *	   principal text, tag text) returns record
 */
static Datum
run_call(PG_FUNCTION_ARGS)
{
	ClaimRequest claim;
	Answer		answer;
	text	   *tag = TEXT_ARGUMENT(6);

	catalog_check_writable("run()");
	tag_check(tag);
	claim_request_init(&claim, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1),
					   TEXT_ARGUMENT(4), TEXT_ARGUMENT(5));
	if (PG_ARGISNULL(2) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not be null",
						PG_ARGISNULL(2) ? "command" : "args")));
	claim_execute(&claim, &answer);
	if (answer.outcome == OUTCOME_EXECUTE || answer.outcome == OUTCOME_RESUME)
	{
		int64		paused = watch_pause();
		int64		step = trace_begin();

		answer.response = run_command(text_to_cstring(TEXT_ARGUMENT(2)),
									  PG_GETARG_DATUM(3));
		trace_end(TRACE_COMMAND, step);
		watch_resume(paused);
		answer.expires_at = settle_finish(&claim.identity, answer.response, 0,
										  tag, &answer.finished_at);
	}
	PG_RETURN_DATUM(answer_datum(fcinfo, &answer));
}

WATCH_FUNCTION(idempotency_run, STATS_RUN, run_call);
