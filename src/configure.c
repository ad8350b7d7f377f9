/*-------------------------------------------------------------------------
 *
 * configure.c
 *		configure() writes a scope's policy; configure_show.c shows it.
 *
 * configure() takes AccessExclusiveLock on scope_policy until its transaction
 * ends, so that no claim is decided while the rules change (policy.c says
 * why), and sends a relcache invalidation that makes everybody read anew.
 *
 * A scope whose retention or longest lease moves it to another ring, or
 * shrinks within its ring, has made promises that outlive the change.  Until
 * the last of them has run out, the old ring is searched too: that moment is
 * kept in the row, and the row's own and the default's are heeded together.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/rel.h"
#include "utils/xid8.h"

#include "catalog.h"
#include "compat.h"
#include "configure.h"
#include "decision.h"
#include "errors.h"
#include "fault.h"
#include "guc.h"
#include "policy.h"
#include "policy_columns.h"
#include "setting.h"
#include "shmem.h"

#define RESPONSE_BYTES_MAX	(256 * 1024 * 1024)
#define REQUEST_BYTES_MAX	(64 * 1024 * 1024)
#define STATE_BYTES_MAX		(64 * 1024 * 1024)
#define ATTEMPTS_MAX		1000000

COMPAT_FUNCTION_INFO(idempotency_configure);

/* the row to be written */
typedef struct PolicyRow
{
	Datum		values[POLICY_COLUMNS];
	bool		isnull[POLICY_COLUMNS];
	bool		replace[POLICY_COLUMNS];
} PolicyRow;

/* Set one column of the row. */
static void
configure_set(PolicyRow *row, int column, Datum value)
{
	row->values[column - 1] = value;
	row->isnull[column - 1] = false;
	row->replace[column - 1] = true;
}

/* A row that changes nothing yet. */
static void
configure_row(PolicyRow *row, text *scope)
{
	memset(row->isnull, true, sizeof(row->isnull));
	memset(row->replace, false, sizeof(row->replace));
	configure_set(row, POLICY_SCOPE, PointerGetDatum(scope));
}

/* Set a duration that may be infinite.  Raises ID400. */
static void
configure_long(FunctionCallInfo fcinfo, int arg, const char *name,
			   PolicyRow *row, int column)
{
	if (!PG_ARGISNULL(arg))
		configure_set(row, column,
					  Int64GetDatum(setting_retention(name,
													  PG_GETARG_TEXT_PP(arg))));
}

/* Set how long a claim waits for another transaction.  Raises ID400. */
static void
configure_wait(FunctionCallInfo fcinfo, int arg, PolicyRow *row)
{
	if (!PG_ARGISNULL(arg))
		configure_set(row, POLICY_WAIT,
					  Int64GetDatum(setting_wait(PG_GETARG_TEXT_PP(arg))));
}

/* Set an integer column from an argument.  Raises ID400 if out of range. */
static void
configure_integer(FunctionCallInfo fcinfo, int arg, const char *name,
				  int64 min, int64 max, PolicyRow *row, int column)
{
	if (!PG_ARGISNULL(arg))
		configure_set(row, column,
					  Int32GetDatum((int32) setting_integer(name,
															PG_GETARG_INT64(arg),
															min, max)));
}

/* Set a bounded interval column from an argument.  Raises ID400. */
static void
configure_interval(FunctionCallInfo fcinfo, int arg, const char *name,
				   PolicyRow *row, int column)
{
	int64		value;

	if (PG_ARGISNULL(arg))
		return;
	value = policy_interval(PG_GETARG_INTERVAL_P(arg));
	if (value < USECS_PER_MSEC || value > RETENTION_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must be between 1 ms and 60 days", name)));
	configure_set(row, column, Int64GetDatum(value));
}

/* Set a boolean column from an argument. */
static void
configure_boolean(FunctionCallInfo fcinfo, int arg, PolicyRow *row,
				  int column)
{
	if (!PG_ARGISNULL(arg))
		configure_set(row, column, PG_GETARG_DATUM(arg));
}

/* Set what commit does to an unfinished claim.  Raises ID400. */
static void
configure_unfinished(FunctionCallInfo fcinfo, int arg, PolicyRow *row)
{
	char	   *value;

	if (PG_ARGISNULL(arg))
		return;
	value = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (strcmp(value, "refuse") != 0 && strcmp(value, "succeed") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("unfinished must be 'refuse' or 'succeed'")));
	configure_set(row, POLICY_UNFINISHED_SUCCEEDS,
				  BoolGetDatum(strcmp(value, "succeed") == 0));
}

/* Set how long a lease may be.  Raises ID400. */
static void
configure_max_lease(FunctionCallInfo fcinfo, int arg, PolicyRow *row)
{
	if (!PG_ARGISNULL(arg))
		configure_set(row, POLICY_MAX_LEASE,
					  Int64GetDatum(policy_lease_argument("max_lease",
														  PG_GETARG_INTERVAL_P(arg))));
}

/* Set what becomes of a claim whose lease has run out.  Raises ID400. */
static void
configure_on_lease_expiry(FunctionCallInfo fcinfo, int arg, PolicyRow *row)
{
	char	   *value;

	if (PG_ARGISNULL(arg))
		return;
	value = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	for (int i = 0; configure_lease_expiries[i].name; i++)
	{
		if (strcmp(value, configure_lease_expiries[i].name) != 0)
			continue;
		configure_set(row, POLICY_ON_LEASE_EXPIRY,
					  CharGetDatum((char) configure_lease_expiries[i].value));
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
			 errmsg("on_lease_expiry must be 'resume', 'indeterminate' or 'forget'")));
}

/* Set the role that the scope is reserved for.  Raises 42704. */
static void
configure_role(FunctionCallInfo fcinfo, int arg, PolicyRow *row)
{
	if (!PG_ARGISNULL(arg))
		configure_set(row, POLICY_ALLOWED_ROLE,
					  setting_role(PG_GETARG_TEXT_PP(arg)));
}

/* Set the excluded fields.  Raises ID400 if a path is not understood. */
static void
configure_exclude(FunctionCallInfo fcinfo, int arg, PolicyRow *row)
{
	if (PG_ARGISNULL(arg))
		return;
	(void) canonical_parse_paths(PG_GETARG_ARRAYTYPE_P(arg));
	configure_set(row, POLICY_EXCLUDE, PG_GETARG_DATUM(arg));
}

/*
 * Take over the settings of the breaker and the limits; they need shared
 * memory, so without it they are stored, and a warning says so.  Raises ID400.
 */
static void
configure_restraint(FunctionCallInfo fcinfo, PolicyRow *row)
{
	configure_integer(fcinfo, 18, "breaker_failures", 0, PG_INT32_MAX, row,
					  POLICY_BREAKER_FAILURES);
	configure_integer(fcinfo, 19, "breaker_percent", 0, 100, row,
					  POLICY_BREAKER_PERCENT);
	configure_interval(fcinfo, 20, "breaker_window", row,
					   POLICY_BREAKER_WINDOW);
	configure_interval(fcinfo, 21, "breaker_cooldown", row,
					   POLICY_BREAKER_COOLDOWN);
	configure_integer(fcinfo, 22, "breaker_probes", 1, BREAKER_PROBES_MAX,
					  row, POLICY_BREAKER_PROBES);
	configure_integer(fcinfo, 23, "limit_claims", 0, PG_INT32_MAX, row,
					  POLICY_LIMIT_CLAIMS);
	configure_integer(fcinfo, 24, "limit_running", 0, PG_INT32_MAX, row,
					  POLICY_LIMIT_RUNNING);
	configure_integer(fcinfo, 25, "limit_replays", 0, PG_INT32_MAX, row,
					  POLICY_LIMIT_REPLAYS);
	configure_interval(fcinfo, 26, "limit_interval", row,
					   POLICY_LIMIT_INTERVAL);
	if (!shmem_is_there() &&
		((!PG_ARGISNULL(18) && PG_GETARG_INT64(18) > 0) ||
		 (!PG_ARGISNULL(23) && PG_GETARG_INT64(23) > 0) ||
		 (!PG_ARGISNULL(24) && PG_GETARG_INT64(24) > 0) ||
		 (!PG_ARGISNULL(25) && PG_GETARG_INT64(25) > 0)))
		ereport(WARNING,
				(errmsg("breakers and limits have no effect without shared memory"),
				 errhint("Add idempotency to shared_preload_libraries, and restart the server.")));
}

/*
 * Set what goes into the ledger: only whoever owns the extension may, as it
 * decides what an auditor will find.  Raises ID400, 42501.
 */
static void
configure_audit(FunctionCallInfo fcinfo, PolicyRow *row)
{
	char	   *value;

	if (PG_ARGISNULL(27) && PG_ARGISNULL(28))
		return;
	if (!has_privs_of_role(GetUserId(), catalog_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to change what is audited"),
				 errhint("Only members of the role that owns the extension may.")));
	configure_boolean(fcinfo, 28, row, POLICY_AUDIT_PAYLOADS);
	if (PG_ARGISNULL(27))
		return;
	value = text_to_cstring(PG_GETARG_TEXT_PP(27));
	for (int i = 0; configure_audits[i].name; i++)
	{
		if (strcmp(value, configure_audits[i].name) != 0)
			continue;
		configure_set(row, POLICY_AUDIT,
					  CharGetDatum((char) configure_audits[i].value));
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
			 errmsg("audit must be 'off', 'decisions' or 'everything'")));
}

/* Record the change: what the policy is now. */
static void
configure_record(text *scope, Datum shown)
{
	text	   *json = DatumGetTextPP(DirectFunctionCall1(row_to_json, shown));

	decision_general(ENTRY_CONFIGURED, VARDATA_ANY(scope),
					 VARSIZE_ANY_EXHDR(scope),
					 psprintf("{\"policy\": %s}", text_to_cstring(json)));
}

/* Set a "char" column from the name of one of two values.  Raises ID400. */
static void
configure_choice(FunctionCallInfo fcinfo, int arg, const char *name,
				 const char *first, char first_value, const char *second,
				 char second_value, PolicyRow *row, int column)
{
	char	   *value;

	if (PG_ARGISNULL(arg))
		return;
	value = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (strcmp(value, first) != 0 && strcmp(value, second) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must be '%s' or '%s'", name, first, second)));
	configure_set(row, column,
				  CharGetDatum(strcmp(value, first) == 0 ? first_value :
							   second_value));
}

/* Take over what was said of responses, tokens and sagas.  Raises ID400. */
static void
configure_response(FunctionCallInfo fcinfo, PolicyRow *row)
{
	configure_long(fcinfo, 29, "response_retention", row,
				   POLICY_RESPONSE_RETENTION);
	configure_boolean(fcinfo, 30, row, POLICY_STORE_RESPONSE);
	configure_integer(fcinfo, 31, "response_version", 0, PG_INT32_MAX, row,
					  POLICY_RESPONSE_VERSION);
	configure_choice(fcinfo, 32, "on_stale_version", "replay", STALE_REPLAY,
					 "execute", STALE_EXECUTE, row, POLICY_ON_STALE_VERSION);
	configure_choice(fcinfo, 33, "on_invalidated", "execute",
					 INVALIDATED_EXECUTE, "acknowledge",
					 INVALIDATED_ACKNOWLEDGE, row, POLICY_ON_INVALIDATED);
	configure_boolean(fcinfo, 34, row, POLICY_REQUIRE_TOKEN);
	configure_long(fcinfo, 35, "saga_deadline", row, POLICY_SAGA_DEADLINE);
	configure_choice(fcinfo, 36, "after_compensation", "fail",
					 COMPENSATED_FAILS, "execute", COMPENSATED_EXECUTES, row,
					 POLICY_AFTER_COMPENSATION);
}

/* Take over the arguments that were given.  Raises ID400, 42501. */
static void
configure_arguments(FunctionCallInfo fcinfo, PolicyRow *row)
{
	configure_long(fcinfo, 1, "retention", row, POLICY_RETENTION);
	configure_wait(fcinfo, 2, row);
	configure_unfinished(fcinfo, 3, row);
	configure_boolean(fcinfo, 4, row, POLICY_REQUIRE_REQUEST);
	configure_boolean(fcinfo, 5, row, POLICY_STORE_REQUEST);
	configure_exclude(fcinfo, 6, row);
	configure_integer(fcinfo, 7, "max_key_bytes", 1, KEY_MAX_BYTES, row,
					  POLICY_MAX_KEY_BYTES);
	configure_integer(fcinfo, 8, "max_request_bytes", 0, REQUEST_BYTES_MAX,
					  row, POLICY_MAX_REQUEST_BYTES);
	configure_integer(fcinfo, 9, "max_response_bytes", 0, RESPONSE_BYTES_MAX,
					  row, POLICY_MAX_RESPONSE_BYTES);
	configure_role(fcinfo, 10, row);
	configure_integer(fcinfo, 11, "max_attempts", 1, ATTEMPTS_MAX, row,
					  POLICY_MAX_ATTEMPTS);
	configure_interval(fcinfo, 12, "backoff_base", row, POLICY_BACKOFF_BASE);
	configure_interval(fcinfo, 13, "backoff_cap", row, POLICY_BACKOFF_CAP);
	configure_boolean(fcinfo, 14, row, POLICY_STORE_FAILURES);
	configure_max_lease(fcinfo, 15, row);
	configure_on_lease_expiry(fcinfo, 16, row);
	configure_integer(fcinfo, 17, "max_state_bytes", 0, STATE_BYTES_MAX, row,
					  POLICY_MAX_STATE_BYTES);
	configure_restraint(fcinfo, row);
	configure_audit(fcinfo, row);
	configure_response(fcinfo, row);
}

/* Write the row, over the scope's old one if there is one. */
static void
configure_write(Relation rel, text *scope, PolicyRow *row)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	old;
	HeapTuple	tuple;

	ScanKeyInit(&key, POLICY_SCOPE, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(scope));
	key.sk_collation = C_COLLATION_OID;
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	old = systable_getnext(scan);
	if (HeapTupleIsValid(old))
	{
		tuple = heap_modify_tuple(old, RelationGetDescr(rel), row->values,
								  row->isnull, row->replace);
		CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	}
	else
	{
		tuple = heap_form_tuple(RelationGetDescr(rel), row->values,
								row->isnull);
		CatalogTupleInsert(rel, tuple);
	}
	systable_endscan(scan);
	CacheInvalidateRelcache(rel);
	CommandCounterIncrement();
}

/* how far a scope's rows could expire from now, before a change */
typedef struct Reach
{
	text	   *scope;
	int64		reach;			/* microseconds */
} Reach;

/*
 * What the change of a scope's row can change: its own reach, and with '*'
 * that of every scope.
 */
static List *
configure_reaches(text *scope)
{
	List	   *scopes = list_make1(scope);
	List	   *reaches = NIL;
	ListCell   *cell;

	if (VARSIZE_ANY_EXHDR(scope) == 1 && *VARDATA_ANY(scope) == '*')
		scopes = list_concat(scopes, policy_scopes());
	foreach(cell, scopes)
	{
		Reach	   *reach = palloc(sizeof(Reach));
		Policy		policy;

		reach->scope = lfirst(cell);
		policy_get(VARDATA_ANY(reach->scope),
				   VARSIZE_ANY_EXHDR(reach->scope), &policy);
		reach->reach = policy_reach(&policy);
		reaches = lappend(reaches, reach);
	}
	return reaches;
}

/*
 * After a change, note in the row of the scope until when the rings that it,
 * or another, has left, or shrunk in, must still be searched as a whole: until
 * what was promised has run out, and the transactions that run now have ended.
 * (A claim of theirs counts from its own finish only while the ring stays;
 * settle.c.)
 */
static void
configure_keep(Relation rel, text *scope, List *reaches)
{
	PolicyRow	row;
	Policy		policy;
	TimestampTz now = clock_now();
	bool		kept = false;
	ListCell   *cell;

	configure_row(&row, scope);
	policy_get(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope), &policy);
	foreach(cell, reaches)
	{
		Reach	   *before = lfirst(cell);
		Ring		ring = ring_for(before->reach);
		Policy		after;

		policy_get(VARDATA_ANY(before->scope),
				   VARSIZE_ANY_EXHDR(before->scope), &after);
		if (policy_reach(&after) == before->reach)
			continue;
		policy.kept_until[ring] = Max(policy.kept_until[ring],
									  ring_expiry(now, before->reach));
		configure_set(&row, POLICY_KEPT_SHORT_UNTIL + ring,
					  TimestampTzGetDatum(policy.kept_until[ring]));
		kept = true;
	}
	if (!kept)
		return;
	configure_set(&row, POLICY_KEPT_XID,
				  FullTransactionIdGetDatum(ReadNextFullTransactionId()));
	configure_write(rel, scope, &row);
}

/*
 * See to it that a scope remembers its keys for at least so long, microseconds
 * or RETENTION_FOREVER.
 */
void
configure_raise_retention(text *scope, int64 retention)
{
	const char *name = VARDATA_ANY(scope);
	int			len = VARSIZE_ANY_EXHDR(scope);
	Relation	rel = table_open(catalog_policy_table(), AccessExclusiveLock);
	Policy		policy;

	policy_get(name, len, &policy);
	if (policy.retention < retention)
	{
		List	   *reaches = configure_reaches(scope);
		PolicyRow	row;

		configure_row(&row, scope);
		configure_set(&row, POLICY_RETENTION, Int64GetDatum(retention));
		configure_write(rel, scope, &row);
		configure_keep(rel, scope, reaches);
		decision_general(ENTRY_CONFIGURED, name, len,
						 psprintf("{\"policy\": {\"retention\": \"%s\"}}",
								  TextDatumGetCString(setting_duration_text(retention))));
	}
	table_close(rel, NoLock);
}

/*
 * configure(scope text, retention text, wait text, unfinished text,
 *			 require_request boolean, store_request boolean, exclude text[],
 *			 max_key_bytes bigint, max_request_bytes bigint,
 *			 max_response_bytes bigint, role text, max_attempts bigint,
 *			 backoff_base interval, backoff_cap interval,
 *			 store_failures boolean, max_lease interval,
 *			 on_lease_expiry text, max_state_bytes bigint,
 *			 breaker_failures bigint, breaker_percent bigint,
 *			 breaker_window interval, breaker_cooldown interval,
 *			 breaker_probes bigint, limit_claims bigint,
 *			 limit_running bigint, limit_replays bigint,
 *			 limit_interval interval, audit text, audit_payloads boolean,
 *			 response_retention text, store_response boolean,
 *			 response_version bigint, on_stale_version text,
 *			 on_invalidated text, require_token boolean,
 *			 saga_deadline text, after_compensation text) returns record
 */
Datum
idempotency_configure(PG_FUNCTION_ARGS)
{
	text	   *scope = configure_scope(fcinfo);
	PolicyRow	row;
	Policy		policy;
	Relation	rel;
	List	   *reaches;
	Datum		shown;

	catalog_check_writable("configure()");
	configure_row(&row, scope);
	configure_arguments(fcinfo, &row);

	rel = table_open(catalog_policy_table(), AccessExclusiveLock);
	reaches = configure_reaches(scope);
	configure_write(rel, scope, &row);
	configure_keep(rel, scope, reaches);
	table_close(rel, NoLock);

	policy_get(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope), &policy);
	shown = configure_show(fcinfo, scope, &policy);
	configure_record(scope, shown);
	PG_RETURN_DATUM(shown);
}
