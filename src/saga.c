/*-------------------------------------------------------------------------
 *
 * saga.c
 *		Sagas: what the holder of a lease says of its steps.
 *
 * A leased claim whose work has effects in several places registers, before
 * each effect or together with it, how that is undone.  finish() forgets it
 * all; compensate(), a final fail(), or the deadline have it undone, the last
 * step first (saga_compensate.c).
 *
 * Each of these functions opens the claim as checkpoint() does, and writes its
 * row: a stale holder is refused, and nobody can take the claim over before
 * the transaction that registers a step has ended.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "errors.h"
#include "failure.h"
#include "fault.h"
#include "lease.h"
#include "saga.h"
#include "saga_attempt.h"
#include "watch.h"


COMPAT_FUNCTION_INFO(idempotency_compensate_with);
COMPAT_FUNCTION_INFO(idempotency_step_done);
COMPAT_FUNCTION_INFO(idempotency_steps);
COMPAT_FUNCTION_INFO(idempotency_compensate);

/* The identity of a call; its principal is this argument.  Raises ID400. */
void
saga_identity(Identity *identity, FunctionCallInfo fcinfo, int principal)
{
	identity_make(identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(principal),
				  TEXT_ARGUMENT(1));
	watch_scope(identity->scope, identity->scope_len);
}

/* The fence, the third argument of a holder's call.  Raises ID400. */
static int64
saga_fence_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("fence must not be null"),
				 errhint("Pass the fence that claim() has answered.")));
	return PG_GETARG_INT64(2);
}

/* A step's name, the fourth argument.  Raises ID400, ID413. */
static text *
saga_step_argument(FunctionCallInfo fcinfo)
{
	text	   *name = TEXT_ARGUMENT(3);

	if (name == NULL || VARSIZE_ANY_EXHDR(name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("step must not be null or empty")));
	policy_check_size("step", (struct varlena *) name, STEP_MAX_BYTES);
	return name;
}

/* The step of this name, or NULL. */
SagaStep *
saga_find_step(List *steps, const text *name)
{
	ListCell   *cell;

	foreach(cell, steps)
	{
		SagaStep   *step = lfirst(cell);

		if (keyrow_same_text((struct varlena *) step->name, name))
			return step;
	}
	return NULL;
}

/* {"step": ..., "step_no": n, "attempt": n}, as an entry's detail. */
char *
saga_step_detail(const SagaStep *step, const text *error)
{
	uint8		digest[DIGEST_LENGTH];
	char		hex[2 * DIGEST_LENGTH + 1] = "";

	/* an error may quote what it is about: a digest has to do */
	if (error)
	{
		entry_digest(error, digest);
		hex_encode((char *) digest, DIGEST_LENGTH, hex);
		hex[2 * DIGEST_LENGTH] = '\0';
	}
	return psprintf("{\"step\": %s, \"step_no\": %d, \"attempt\": %d%s%s%s}",
					decision_json(step->name), step->step_no, step->attempt,
					error ? ", \"error_sha256\": \"" : "", hex,
					error ? "\"" : "");
}

/* Raises ID400: the handler can't be one, for this reason. */
static void
saga_refuse_handler(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
			 errmsg("function cannot be a saga's handler"),
			 errdetail_internal("%s", detail),
			 errhint("A handler is a function (args text, context jsonb) that returns void or text.")));
}

/* Has the function a handler's form?  Raises ID400. */
static void
saga_check_form(Form_pg_proc form, bool has_args)
{
	if (form->prokind != PROKIND_FUNCTION)
		saga_refuse_handler("It is a procedure, an aggregate or a window function.");
	if (form->proretset)
		saga_refuse_handler("It returns a set.");
	if (form->pronargs != 2 || form->proargtypes.values[0] != TEXTOID ||
		form->proargtypes.values[1] != JSONBOID)
		saga_refuse_handler("Its arguments are not text and jsonb.");
	if (form->prorettype != VOIDOID && form->prorettype != TEXTOID)
		saga_refuse_handler("It returns neither void nor text.");
	if (form->proisstrict && !has_args)
		saga_refuse_handler("It is strict, and would not be called with args that are null.");
}

/*
 * Check that the function can be a handler, and that the current role may
 * execute it and can be connected as.  Returns its qualified signature.
 * Raises ID400, 42883, 42501.
 */
static text *
saga_check_handler(Oid handler, bool has_args)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(handler));
	AclResult	acl;
	bool		login;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler with OID %u does not exist", handler)));
	saga_check_form((Form_pg_proc) GETSTRUCT(tuple), has_args);
	ReleaseSysCache(tuple);
	acl = compat_function_acl(handler, GetUserId());
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_FUNCTION, get_func_name(handler));

	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	login = HeapTupleIsValid(tuple) &&
		((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (!login)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("role \"%s\" cannot register a handler",
						GetUserNameFromId(GetUserId(), false)),
				 errdetail("It cannot log in, and a handler is executed in a session of the role that registered it.")));
	return cstring_to_text(format_procedure_qualified(handler));
}

/* Both given and the same, or both null? */
static bool
saga_same(const text *a, const text *b)
{
	return keyrow_same_text((struct varlena *) unconstify(text *, a), b);
}

/* Is this the step that was registered before?  Raises ID422 if it isn't. */
static void
saga_require_same(const SagaStep *before, const SagaStep *step,
				  const Identity *identity)
{
	if (saga_same(before->handler, step->handler) &&
		saga_same(before->args, step->args) &&
		saga_same(before->child_scope, step->child_scope) &&
		saga_same(before->child_principal, step->child_principal) &&
		saga_same(before->child_key, step->child_key))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_MISMATCH),
			 errmsg("the step was registered with another handler or args, in scope \"%.*s\"",
					identity->scope_len, identity->scope),
			 errhint("A resumed attempt registers its steps as the attempt before did; another step needs another name.")));
}

/* Note that the step is the saga of another key.  Raises ID400, ID422. */
static void
saga_note_child(const Identity *parent, const SagaStep *step)
{
	Identity	child;
	Identity	own = *parent;
	pg_uuid_t	other;

	identity_make(&child, step->child_scope, step->child_principal,
				  step->child_key);
	if (identity_equal(&child, &own))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("a saga cannot be a step of itself")));
	saga_child_lock(identity_id(&child));
	if (!saga_child_find(identity_id(&child), &other))
		saga_child_insert(identity_id(&child), identity_id(&own));
	else if (memcmp(&other, identity_id(&own), UUID_LEN) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_MISMATCH),
				 errmsg("the key is a step of another saga, in scope \"%.*s\"",
						child.scope_len, child.scope)));
}

/*
 * When the worker has to look at a running saga: at its deadline, and when its
 * lease is over.
 */
static void
saga_set_due(SagaRun *run, const KeyRow *row, TimestampTz now)
{
	run->todo = TODO_WORKER;
	run->due_at = Min(run->deadline,
					  row->state == KEY_RUNNING ? row->lease_until :
					  row->expires_at);
	run->fence = row->fence;
	run->changed_at = now;
}

/*
 * The saga of the open key: that which it has, or one that begins now.  A
 * deadline (microseconds, 0: as before, or as the policy says) counts from now.
 */
static void
saga_begin_run(OpenKey *key, KeyRow *row, int64 deadline)
{
	SagaRun		run;
	bool		known = row->saga &&
		saga_run_find(identity_id(key->identity), &run);

	if (known && deadline == 0)
		return;
	if (!known)
	{
		saga_delete(identity_id(key->identity));
		saga_run_init(&run, key, row);
		if (deadline == 0)
			deadline = key->policy.saga_deadline;
	}
	run.identity = *key->identity;
	run.deadline = ring_expiry(key->now, deadline);
	saga_set_due(&run, row, key->now);
	if (known)
		saga_run_update(&run);
	else
		saga_run_insert(&run);
	row->saga = true;
}

/*
 * Register a step.  Returns its number, the same if it was registered before.
 * Raises ID403, ID404, ID412, ID413, ID422.
 */
static int32
saga_register(Identity *identity, int64 fence, SagaStep *step, int64 deadline)
{
	OpenKey		key;
	KeyRow		row;
	SagaStep   *before;
	List	   *steps = NIL;

	lease_open_running(&key, identity, fence);
	policy_check_size("args", (struct varlena *) step->args,
					  key.policy.max_state_bytes);
	row = key.probe.row;
	if (row.saga)
		steps = saga_steps(identity_id(identity));
	before = saga_find_step(steps, step->name);
	if (before)
		saga_require_same(before, step, identity);
	else if (list_length(steps) >= SAGA_STEPS_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_TOO_LARGE),
				 errmsg("a saga has at most %d steps", SAGA_STEPS_MAX)));
	if (!before || deadline != 0)
		saga_begin_run(&key, &row, deadline);
	if (!before)
	{
		step->id = *identity_id(identity);
		step->step_no = list_length(steps) + 1;
		step->registered_at = key.now;
		step->incarnation = row.fence >> 40;
		if (step->child_scope)
			saga_note_child(identity, step);
		saga_step_insert(step);
		FAULT_POINT("saga.after_step");
		saga_write_key(&key, &row, ENTRY_STEP, saga_step_detail(step, NULL));
	}
	else if (deadline != 0)
		saga_write_key(&key, &row, ENTRY_DECISIONS, NULL);
	key_close(&key);
	return before ? before->step_no : step->step_no;
}

/* The arguments that name another key as a step.  Raises ID400. */
static void
saga_child_arguments(FunctionCallInfo fcinfo, SagaStep *step)
{
	Identity	child;

	if (PG_ARGISNULL(8) && PG_ARGISNULL(9))
		return;
	if (step->handler)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("a step that is a saga of its own has no handler")));
	step->child_scope = TEXT_ARGUMENT(8);
	step->child_key = TEXT_ARGUMENT(9);
	step->child_principal = PG_ARGISNULL(10) ? cstring_to_text("") :
		TEXT_ARGUMENT(10);
	identity_make(&child, step->child_scope, step->child_principal,
				  step->child_key);
	identity_check_key(&child, KEY_MAX_BYTES);
}

/* A deadline from now, in microseconds; 0: none is given.  Raises ID400. */
static int64
saga_deadline_argument(FunctionCallInfo fcinfo, int arg)
{
	int64		deadline;

	if (PG_ARGISNULL(arg))
		return 0;
	deadline = policy_interval(PG_GETARG_INTERVAL_P(arg));
	if (deadline < USECS_PER_MSEC || deadline > RETENTION_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("deadline must be between 1 ms and 60 days")));
	return deadline;
}

/*
 * compensate_with(scope text, key text, fence bigint, step text,
 *				   handler regprocedure, args text, principal text,
 *				   deadline interval, child_scope text, child_key text,
 *				   child_principal text) returns integer
 */
static Datum
compensate_with_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	SagaStep	step = {.state = STEP_REGISTERED};
	int64		fence;
	int64		deadline;
	int32		number;

	catalog_check_writable("compensate_with()");
	saga_identity(&identity, fcinfo, 6);
	fence = saga_fence_argument(fcinfo);
	step.name = saga_step_argument(fcinfo);
	step.args = TEXT_ARGUMENT(5);
	step.role_oid = GetUserId();
	step.role = cstring_to_text(GetUserNameFromId(GetUserId(), false));
	step.done_at = step.not_before = NO_TIME;
	step.lease_until = step.settled_at = NO_TIME;
	if (!PG_ARGISNULL(4))
		step.handler = saga_check_handler(PG_GETARG_OID(4),
										  step.args != NULL);
	saga_child_arguments(fcinfo, &step);
	deadline = saga_deadline_argument(fcinfo, 7);
	number = saga_register(&identity, fence, &step, deadline);
	watch_answer("registered", NULL, fence, 0);
	PG_RETURN_INT32(number);
}

WATCH_FUNCTION(idempotency_compensate_with, STATS_COMPENSATE_WITH,
			   compensate_with_call);

/*
 * step_done(scope text, key text, fence bigint, step text, result text,
 *			 principal text) returns boolean
 */
static Datum
step_done_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	int64		fence;
	text	   *name;
	text	   *result = TEXT_ARGUMENT(4);
	OpenKey		key;
	KeyRow		row;
	SagaStep   *step;

	catalog_check_writable("step_done()");
	saga_identity(&identity, fcinfo, 5);
	fence = saga_fence_argument(fcinfo);
	name = saga_step_argument(fcinfo);
	lease_open_running(&key, &identity, fence);
	policy_check_size("result", (struct varlena *) result,
					  key.policy.max_state_bytes);
	row = key.probe.row;
	step = row.saga ? saga_find_step(saga_steps(identity_id(&identity)), name) :
		NULL;
	if (step == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_FOUND),
				 errmsg("there is no such step, in scope \"%.*s\"",
						identity.scope_len, identity.scope),
				 errhint("Register it with compensate_with() first.")));
	if (step->state == STEP_DONE && !saga_same(step->result, result))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_FENCE_LOST),
				 errmsg("the step was marked as done with another result before, in scope \"%.*s\"",
						identity.scope_len, identity.scope)));
	if (step->state == STEP_REGISTERED)
	{
		step->state = STEP_DONE;
		step->result = result;
		step->done_at = key.now;
		saga_step_update(step);
		saga_write_key(&key, &row, ENTRY_STEP_DONE,
					   saga_step_detail(step, NULL));
	}
	key_close(&key);
	watch_answer("done", NULL, fence, 0);
	PG_RETURN_BOOL(true);
}

WATCH_FUNCTION(idempotency_step_done, STATS_STEP_DONE, step_done_call);

/* columns of steps(), counted from 0 */
enum
{
	SHOW_STEP_NO,
	SHOW_STEP,
	SHOW_STATE,
	SHOW_DONE,
	SHOW_RESULT,
	SHOW_ARGS,
	SHOW_HANDLER,
	SHOW_ATTEMPT,
	SHOW_ERROR,
	SHOW_COLUMNS
};

/* The name of a step's state. */
static const char *
saga_state_name(SagaStepState state)
{
	switch (state)
	{
		case STEP_REGISTERED:
			return "registered";
		case STEP_DONE:
			return "done";
		case STEP_COMPENSATING:
			return "compensating";
		case STEP_COMPENSATED:
			return "compensated";
		case STEP_FAILED:
			return "failed";
	}
	elog(ERROR, "stored step has unknown state %d", (int) state);
}

/* Set a nullable text. */
static void
saga_put_text(Datum *values, bool *isnull, int column, const text *value)
{
	values[column] = PointerGetDatum(value);
	isnull[column] = value == NULL;
}

/* steps(scope text, key text, principal text) returns setof record */
Datum
idempotency_steps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Identity	identity;
	Policy		policy;
	SagaRun		run;
	ListCell   *cell;

	saga_identity(&identity, fcinfo, 2);
	policy_lock();
	policy_get(identity.scope, identity.scope_len, &policy);
	policy_unlock();
	policy_check_role(&policy, identity.scope, identity.scope_len);
	InitMaterializedSRF(fcinfo, 0);
	if (!saga_run_find(identity_id(&identity), &run) ||
		run.state == SAGA_COMPENSATED)
		return (Datum) 0;
	foreach(cell, saga_steps(identity_id(&identity)))
	{
		SagaStep   *step = lfirst(cell);
		Datum		values[SHOW_COLUMNS];
		bool		isnull[SHOW_COLUMNS] = {0};

		values[SHOW_STEP_NO] = Int32GetDatum(step->step_no);
		values[SHOW_STEP] = PointerGetDatum(step->name);
		values[SHOW_STATE] = CStringGetTextDatum(saga_state_name(step->state));
		values[SHOW_DONE] = BoolGetDatum(step->done_at != NO_TIME);
		saga_put_text(values, isnull, SHOW_RESULT, step->result);
		saga_put_text(values, isnull, SHOW_ARGS, step->args);
		saga_put_text(values, isnull, SHOW_HANDLER, step->handler);
		values[SHOW_ATTEMPT] = Int32GetDatum(step->attempt);
		saga_put_text(values, isnull, SHOW_ERROR, step->error);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
	}
	return (Datum) 0;
}

/*
 * compensate(scope text, key text, fence bigint, reason text,
 *			  principal text) returns boolean
 */
static Datum
compensate_call(PG_FUNCTION_ARGS)
{
	Identity	identity;
	int64		fence;
	text	   *reason = TEXT_ARGUMENT(3);
	OpenKey		key;
	KeyRow		row;

	catalog_check_writable("compensate()");
	saga_identity(&identity, fcinfo, 4);
	fence = saga_fence_argument(fcinfo);
	policy_check_size("reason", (struct varlena *) reason, REASON_MAX_BYTES);
	lease_open(&key, &identity, fence);
	row = key.probe.row;
	if (row.state == KEY_RUNNING)
		saga_begin(&key, &row, "compensate", reason);
	else if (row.state != KEY_COMPENSATING &&
			 !(row.state == KEY_FAILED &&
			   saga_same((text *) store_detoast(row.error), reason)))
		lease_refuse(&key);
	key_close(&key);
	watch_answer("compensating", NULL, fence, 0);
	PG_RETURN_BOOL(true);
}

WATCH_FUNCTION(idempotency_compensate, STATS_COMPENSATE, compensate_call);
