/*-------------------------------------------------------------------------
 *
 * saga_handler.c
 *		Executing a SQL handler, with the rights of the current role.
 *
 * The caller is a session of the role that registered the handler: it is
 * called as any function is, by a statement of that role, which PostgreSQL
 * checks.  What it sets is reset afterwards.
 *
 * While an attempt goes on, its transaction holds a lock of its own; so
 * whoever finds the lock free knows that the attempt has ended, by a crash if
 * it isn't settled.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "fault.h"
#include "incarnation.h"
#include "saga.h"
#include "saga_attempt.h"
#include "watch.h"

/* field 4 of the lock tags; see identity.c */
#define SAGA_LOCK_CLASS			0x1E
#define SAGA_CHILD_LOCK_CLASS	0x1F

/* A lock of this class on a saga's id. */
static void
handler_locktag(LOCKTAG *tag, const pg_uuid_t *id, uint16 class)
{
	uint32		half[2];

	memcpy(half, id->data, sizeof(half));
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, half[0], half[1],
						 class);
}

/*
 * Take the lock of an attempt until the transaction ends.  Returns false if
 * another session has it.
 */
bool
saga_attempt_lock(const pg_uuid_t *id)
{
	LOCKTAG		tag;

	handler_locktag(&tag, id, SAGA_LOCK_CLASS);
	return LockAcquire(&tag, ExclusiveLock, false, true) !=
		LOCKACQUIRE_NOT_AVAIL;
}

/* Is nobody at it any more? */
bool
saga_attempt_is_dead(const pg_uuid_t *id)
{
	LOCKTAG		tag;

	handler_locktag(&tag, id, SAGA_LOCK_CLASS);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	(void) LockRelease(&tag, ExclusiveLock, false);
	return true;
}

/*
 * Keep others from noting whose step a key is, until the transaction ends.
 * Raises 55P03, 40P01.
 */
void
saga_child_lock(const pg_uuid_t *child)
{
	LOCKTAG		tag;

	handler_locktag(&tag, child, SAGA_CHILD_LOCK_CLASS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* Is this still the attempt that is to undo the step? */
bool
saga_attempt_is_current(Identity *identity, const SagaAttempt *attempt)
{
	SagaStep   *step = saga_find_step(saga_steps(identity_id(identity)),
									  attempt->step.name);

	return step && step->fence == attempt->step.fence &&
		step->state == STEP_COMPENSATING;
}

/*
 * The role that registered the step, or InvalidOid if it is gone.  In the
 * incarnation in which it was registered the OID tells; after a restore, or a
 * promotion, the name.
 */
Oid
saga_step_role(const SagaStep *step)
{
	Incarnation latest = incarnation_latest();

	if (latest.number == step->incarnation && incarnation_is_here(&latest))
		return SearchSysCacheExists1(AUTHOID,
									 ObjectIdGetDatum(step->role_oid)) ?
			step->role_oid : InvalidOid;
	return get_role_oid(text_to_cstring(step->role), true);
}

/* A role can't execute its handlers: why?  NULL if it can. */
const char *
saga_role_trouble(Oid role)
{
	HeapTuple	tuple;
	bool		login;

	if (!OidIsValid(role))
		return "the role that registered the handler does not exist";
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	login = HeapTupleIsValid(tuple) &&
		((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (!login)
		return "the role that registered the handler cannot log in";
	if (!compat_may_connect(MyDatabaseId, role))
		return "the role that registered the handler may not connect to the database";
	return NULL;
}

/* The same for every attempt at the step, and for no other step. */
text *
saga_step_key(const SagaStep *step)
{
	char		hex[2 * UUID_LEN + 1];

	hex_encode((const char *) step->id.data, UUID_LEN, hex);
	hex[2 * UUID_LEN] = '\0';
	return cstring_to_text(psprintf("compensate/%s/%d", hex, step->step_no));
}

/* Append a member whose value is a string, or null. */
static void
context_member(StringInfo json, const char *name, const text *value)
{
	appendStringInfo(json, "%s\"%s\": ", json->len > 1 ? ", " : "", name);
	if (value)
		escape_json(json, text_to_cstring(value));
	else
		appendStringInfoString(json, "null");
}

/* What a handler is told about the step, as jsonb. */
static Datum
handler_context(const SagaAttempt *attempt)
{
	const Identity *identity = &attempt->run.identity;
	const SagaStep *step = &attempt->step;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	context_member(&json, "scope",
				   cstring_to_text_with_len(identity->scope,
											identity->scope_len));
	context_member(&json, "principal",
				   cstring_to_text_with_len(identity->principal,
											identity->principal_len));
	context_member(&json, "key",
				   cstring_to_text_with_len(identity->key,
											identity->key_len));
	context_member(&json, "step", step->name);
	appendStringInfo(&json, ", \"step_no\": %d, \"attempt\": %d, \"done\": %s",
					 step->step_no, step->attempt,
					 step->done_at == NO_TIME ? "false" : "true");
	context_member(&json, "result", step->result);
	context_member(&json, "reason", attempt->run.reason);
	context_member(&json, "idempotency_key", saga_step_key(step));
	appendStringInfoChar(&json, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/* saga_handle(), without the clock. */
static void
handler_execute(const SagaAttempt *attempt)
{
	Oid			types[] = {TEXTOID, JSONBOID};
	Datum		values[2];
	char		nulls[2] = {' ', ' '};
	Oid			function;
	char	   *command;
	int			nesting;
	int			code;

	FAULT_POINT("saga.before_handler");
	nesting = NewGUCNestLevel();
	function = DatumGetObjectId(DirectFunctionCall1(regprocedurein,
													CStringGetDatum(text_to_cstring(attempt->step.handler))));
	command = psprintf("SELECT %s($1, $2)",
					   quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
												  get_func_name(function)));
	values[0] = PointerGetDatum(attempt->step.args);
	if (attempt->step.args == NULL)
		nulls[0] = 'n';
	values[1] = handler_context(attempt);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	code = SPI_execute_with_args(command, lengthof(types), types, values,
								 nulls, false, 0);
	if (code != SPI_OK_SELECT)
		elog(ERROR, "handler's statement failed: %s",
			 SPI_result_code_string(code));
	SPI_finish();
	AtEOXact_GUC(false, nesting);
	FAULT_POINT("saga.after_handler");
}

/*
 * Execute the step's handler as the current role.  Raises what it raises, and
 * 42883 if there is none any more.
 */
void
saga_handle(const SagaAttempt *attempt)
{
	int64		paused = watch_pause();
	int64		step = trace_begin();

	PG_TRY();
	{
		handler_execute(attempt);
	}
	PG_FINALLY();
	{
		trace_end(TRACE_HANDLER, step);
		watch_resume(paused);
	}
	PG_END_TRY();
}

/*
 * Have an attempt be made and settled, as a call that is watched: of a process
 * that nobody calls, or one of several in a call.  The function's argument is
 * the attempt, where it returns rows is "report".
 */
void
saga_watch_attempt(PGFunction function, SagaAttempt *attempt,
				   ReturnSetInfo *report)
{
	LOCAL_FCINFO(fcinfo, 1);

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL,
							 (fmNodePtr) report);
	fcinfo->args[0].value = PointerGetDatum(attempt);
	fcinfo->args[0].isnull = false;
	(void) watch_call(fcinfo, STATS_COMPENSATION, function);
}

/*
 * The attempt that such a call is about.  Its span has the fence of the claim,
 * as the spans have by which the steps were registered.
 */
SagaAttempt *
saga_watched(FunctionCallInfo fcinfo)
{
	SagaAttempt *attempt = (SagaAttempt *) PG_GETARG_POINTER(0);
	const Identity *identity = &attempt->run.identity;

	watch_scope(identity->scope, identity->scope_len);
	watch_answer("", NULL, attempt->run.fence, attempt->step.attempt);
	return attempt;
}
