/*-------------------------------------------------------------------------
 *
 * saga_client.c
 *		Undoing steps from a session: a client's, or an operator's.
 *
 * next_compensation() and settle_compensation() are for steps whose handler is
 * outside of the database.  run_compensations() executes the SQL handlers that
 * the current role has registered: what the helper process does
 * (saga_helper.c), for whoever hasn't got one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "answer.h"
#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "errors.h"
#include "failure.h"
#include "fault.h"
#include "incarnation.h"
#include "saga.h"
#include "saga_attempt.h"
#include "txn.h"
#include "watch.h"

#define CLIENT_LOOKS		1000	/* sagas that one call looks at, at most */
#define CLIENT_MAX			10000

COMPAT_FUNCTION_INFO(idempotency_next_compensation);
COMPAT_FUNCTION_INFO(idempotency_settle_compensation);
COMPAT_FUNCTION_INFO(idempotency_run_compensations);
COMPAT_FUNCTION_INFO(idempotency_retry_compensation);

/* columns of next_compensation(), counted from 0 */
enum
{
	NEXT_STEP,
	NEXT_STEP_NO,
	NEXT_PRINCIPAL,
	NEXT_KEY,
	NEXT_ARGS,
	NEXT_RESULT,
	NEXT_DONE,
	NEXT_ATTEMPT,
	NEXT_FENCE,
	NEXT_IDEMPOTENCY_KEY,
	NEXT_REASON,
	NEXT_LEASE_UNTIL,
	NEXT_COLUMNS
};

/* Set a nullable text. */
static void
client_text(Datum *values, bool *isnull, int column, const text *value)
{
	values[column] = PointerGetDatum(value);
	isnull[column] = value == NULL;
}

/* Return the attempt that was begun. */
static void
client_put_next(ReturnSetInfo *result, const SagaAttempt *attempt)
{
	const Identity *identity = &attempt->run.identity;
	const SagaStep *step = &attempt->step;
	Datum		values[NEXT_COLUMNS];
	bool		isnull[NEXT_COLUMNS] = {0};

	values[NEXT_STEP] = PointerGetDatum(step->name);
	values[NEXT_STEP_NO] = Int32GetDatum(step->step_no);
	values[NEXT_PRINCIPAL] =
		PointerGetDatum(cstring_to_text_with_len(identity->principal,
												 identity->principal_len));
	values[NEXT_KEY] =
		PointerGetDatum(cstring_to_text_with_len(identity->key,
												 identity->key_len));
	client_text(values, isnull, NEXT_ARGS, step->args);
	client_text(values, isnull, NEXT_RESULT, step->result);
	values[NEXT_DONE] = BoolGetDatum(step->done_at != NO_TIME);
	values[NEXT_ATTEMPT] = Int32GetDatum(step->attempt);
	values[NEXT_FENCE] = Int64GetDatum(step->fence);
	values[NEXT_IDEMPOTENCY_KEY] = PointerGetDatum(saga_step_key(step));
	client_text(values, isnull, NEXT_REASON, attempt->run.reason);
	values[NEXT_LEASE_UNTIL] = TimestampTzGetDatum(step->lease_until);
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/*
 * next_compensation(scope text, lease interval) returns setof record
 */
static Datum
next_compensation_call(PG_FUNCTION_ARGS)
{
	text	   *scope = TEXT_ARGUMENT(0);
	int64		lease;
	Policy		policy;
	List	   *runs;
	ListCell   *cell;

	catalog_check_writable("next_compensation()");
	if (scope == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("scope must not be null")));
	identity_check_scope(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	watch_scope(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	lease = policy_lease_argument("lease", PG_ARGISNULL(1) ? NULL :
								  PG_GETARG_INTERVAL_P(1));
	InitMaterializedSRF(fcinfo, 0);
	(void) incarnation_prepare(true);
	policy_lock();
	policy_get(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope), &policy);
	policy_unlock();
	policy_check_role(&policy, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	policy_check_lease(&policy, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope),
					   lease);
	runs = saga_run_due(TODO_EXTERNAL, clock_now(), scope, CLIENT_LOOKS);
	watch_answer("nothing", NULL, 0, 0);
	foreach(cell, runs)
	{
		SagaAttempt attempt;
		SagaRun    *run = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		if (!saga_take(&run->identity, lease, InvalidOid, &attempt))
			continue;
		client_put_next((ReturnSetInfo *) fcinfo->resultinfo, &attempt);
		watch_answer("begun", NULL, attempt.step.fence, attempt.step.attempt);
		break;
	}
	return (Datum) 0;
}

WATCH_FUNCTION(idempotency_next_compensation, STATS_NEXT_COMPENSATION,
			   next_compensation_call);

/* How the attempt ended, from the arguments behind the fence.  Raises ID400. */
static void
client_result(FunctionCallInfo fcinfo, SagaResult *result)
{
	if (PG_ARGISNULL(4))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("success must not be null")));
	result->success = PG_GETARG_BOOL(4);
	result->error = TEXT_ARGUMENT(5);
	result->retryable = PG_ARGISNULL(6) || PG_GETARG_BOOL(6);
	result->retry_after_ms = PG_ARGISNULL(7) ? -1 : PG_GETARG_INT64(7);
	policy_check_size("error", (struct varlena *) result->error,
					  ERROR_MAX_BYTES);
	if (!PG_ARGISNULL(7) &&
		(result->retry_after_ms < 0 ||
		 result->retry_after_ms > BACKOFF_MAX / USECS_PER_MSEC))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("retry_after_ms must be between 0 and 60 days")));
}

/*
 * settle_compensation(scope text, key text, step text, fence bigint,
 *					   success boolean, error text, retryable boolean,
 *					   retry_after_ms bigint, principal text) returns record
 */
static Datum
settle_compensation_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	text	   *name = TEXT_ARGUMENT(2);
	SagaResult	result;
	SagaStep	step;
	const char *outcome;
	Datum		values[3];
	bool		isnull[3] = {false, false, false};

	catalog_check_writable("settle_compensation()");
	saga_identity(&identity, fcinfo, 8);
	if (name == NULL || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("step and fence must not be null"),
				 errhint("Pass those that next_compensation() has answered.")));
	client_result(fcinfo, &result);
	outcome = saga_settle(&identity, name, PG_GETARG_INT64(3), &result, false,
						  &step);
	watch_answer(outcome, NULL, step.fence, step.attempt);
	values[0] = CStringGetTextDatum(outcome);
	values[1] = Int32GetDatum(step.attempt);
	isnull[2] = strcmp(outcome, "retry_later") != 0;
	values[2] = Int64GetDatum(isnull[2] ? 0 :
							  answer_ms(step.not_before - clock_now()));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(catalog_result_desc(fcinfo),
													  values, isnull)));
}

WATCH_FUNCTION(idempotency_settle_compensation, STATS_SETTLE_COMPENSATION,
			   settle_compensation_call);

/* Return what has become of an attempt that this call has made. */
static void
client_put_run(ReturnSetInfo *report, const SagaAttempt *attempt,
			   const char *outcome, const text *error)
{
	const Identity *identity = &attempt->run.identity;
	Datum		values[6];
	bool		isnull[6] = {0};

	values[0] = PointerGetDatum(cstring_to_text_with_len(identity->scope,
														 identity->scope_len));
	values[1] =
		PointerGetDatum(cstring_to_text_with_len(identity->principal,
												 identity->principal_len));
	values[2] = PointerGetDatum(cstring_to_text_with_len(identity->key,
														 identity->key_len));
	values[3] = PointerGetDatum(attempt->step.name);
	values[4] = CStringGetTextDatum(outcome);
	client_text(values, isnull, 5, error);
	tuplestore_putvalues(report->setResult, report->setDesc, values, isnull);
}

/*
 * Execute a handler in a subtransaction.  Returns NULL, or, if it has failed,
 * the error's message, in the caller's memory.
 */
static text *
client_try(SagaAttempt *attempt)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	text	   *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		saga_handle(attempt);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *data;

		MemoryContextSwitchTo(caller);
		data = CopyErrorData();
		if (data->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			data->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		watch_error(data->sqlerrcode);
		error = cstring_to_text(data->message ? data->message : "");
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return error;
}

/* Make an attempt that was begun, for saga_watch_attempt(). */
static Datum
client_attempt(PG_FUNCTION_ARGS)
{
	SagaAttempt *attempt = saga_watched(fcinfo);
	SagaResult	result = {.retryable = true,.retry_after_ms = -1};
	SagaStep	step;
	const char *outcome;

	result.error = client_try(attempt);
	result.success = result.error == NULL;
	outcome = saga_settle(&attempt->run.identity, attempt->step.name,
						  attempt->step.fence, &result, true, &step);
	watch_answer(outcome, NULL, attempt->run.fence, attempt->step.attempt);
	client_put_run((ReturnSetInfo *) fcinfo->resultinfo, attempt, outcome,
				   result.error);
	return (Datum) 0;
}

/* Undo one step whose handler is this role's; false if it isn't to be had. */
static bool
client_run_one(SagaRun *run, ReturnSetInfo *report)
{
	SagaAttempt attempt;

	if (!saga_take(&run->identity, 0, GetUserId(), &attempt))
		return false;
	if (!saga_attempt_lock(identity_id(&run->identity)))
		return false;
	saga_watch_attempt(client_attempt, &attempt, report);
	return true;
}

/*
 * run_compensations(max bigint) returns setof record
 */
Datum
idempotency_run_compensations(PG_FUNCTION_ARGS)
{
	int64		max = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT64(0);
	int64		n = 0;
	bool		more = true;

	catalog_check_writable("run_compensations()");
	if (max < 1 || max > CLIENT_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("max must be between 1 and %d", CLIENT_MAX)));
	InitMaterializedSRF(fcinfo, 0);
	(void) incarnation_prepare(true);
	/* undoing one step can make the one before it due */
	while (more && n < max)
	{
		List	   *runs = saga_run_due(TODO_HANDLER, clock_now(), NULL,
										CLIENT_LOOKS);
		ListCell   *cell;

		more = false;
		foreach(cell, runs)
		{
			CHECK_FOR_INTERRUPTS();
			if (n < max && client_run_one(lfirst(cell),
										  (ReturnSetInfo *) fcinfo->resultinfo))
			{
				n++;
				more = true;
			}
		}
	}
	return (Datum) 0;
}

/*
 * Try once more to undo what couldn't be.  Returns false if there is no such
 * saga.  Raises ID403, ID409.
 */
static bool
client_retry(Identity *identity, const text *reason)
{
	OpenKey		key;
	SagaRun		run;
	bool		found;
	SagaStep   *failed = NULL;
	ListCell   *cell;

	(void) saga_open(&key, identity, &run, &found, false, true);
	if (found && run.state == SAGA_COMPENSATING)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_IN_PROGRESS),
				 errmsg("the saga is being compensated, in scope \"%.*s\"",
						identity->scope_len, identity->scope)));
	if (found && run.state == SAGA_FAILED)
	{
		foreach(cell, saga_steps(identity_id(identity)))
		{
			SagaStep   *step = lfirst(cell);

			if (step->step_no == run.step)
				failed = step;
		}
	}
	if (failed)
	{
		KeyRow		row = saga_key_row(&key, &run);

		failed->state = STEP_COMPENSATING;
		failed->attempt = 0;
		failed->fence = NO_FENCE;
		failed->not_before = failed->lease_until = failed->settled_at = NO_TIME;
		saga_step_update(failed);
		run.state = SAGA_COMPENSATING;
		saga_aim(&run, failed, key.now);
		run.changed_at = key.now;
		saga_run_update(&run);
		row.expires_at = saga_key_expiry(&key);
		saga_write_key(&key, &row, ENTRY_COMPENSATING,
					   decision_reason(reason));
	}
	key_close(&key);
	return failed != NULL;
}

/*
 * retry_compensation(scope text, key text, reason text, principal text)
 *		returns boolean
 */
Datum
idempotency_retry_compensation(PG_FUNCTION_ARGS)
{
	Identity	identity;
	text	   *reason = TEXT_ARGUMENT(2);
	bool		retried;

	catalog_check_writable("retry_compensation()");
	saga_identity(&identity, fcinfo, 3);
	(void) policy_check_reason("retry_compensation()", reason,
							   "Say why: it decides whether what has failed is tried once more.");
	retried = client_retry(&identity, reason);
	if (retried)
		ereport(LOG,
				(errmsg("compensation retried by role \"%s\", in scope \"%.*s\"",
						GetUserNameFromId(GetUserId(), false),
						identity.scope_len, identity.scope),
				 errdetail("Reason: %s", text_to_cstring(reason))));
	PG_RETURN_BOOL(retried);
}
