/*-------------------------------------------------------------------------
 *
 * configure_show.c
 *		policy() shows the effective policy of a scope, and so does the answer
 *		of configure().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "compat.h"
#include "configure.h"
#include "errors.h"
#include "setting.h"

COMPAT_FUNCTION_INFO(idempotency_policy);

const LeaseExpiryName configure_lease_expiries[] = {
	{LEASE_RESUME, "resume"},
	{LEASE_INDETERMINATE, "indeterminate"},
	{LEASE_FORGET, "forget"},
	{0, NULL}
};

const AuditName configure_audits[] = {
	{AUDIT_OFF, "off"},
	{AUDIT_DECISIONS, "decisions"},
	{AUDIT_EVERYTHING, "everything"},
	{0, NULL}
};

/*
 * The scope argument of configure() and policy(): a scope, or '*'.  Raises
 * ID400.
 */
text *
configure_scope(FunctionCallInfo fcinfo)
{
	text	   *scope;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("scope must not be null"),
				 errhint("The default for all scopes is that of '*'.")));
	scope = PG_GETARG_TEXT_PP(0);
	identity_check_scope(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	return scope;
}

/* The name of what becomes of a claim whose lease has run out. */
static const char *
configure_lease_expiry_name(LeaseExpiry value)
{
	for (int i = 0; configure_lease_expiries[i].name; i++)
	{
		if (configure_lease_expiries[i].value == value)
			return configure_lease_expiries[i].name;
	}
	elog(ERROR, "unknown on_lease_expiry %d", (int) value);
}

/* The name of what is recorded. */
static const char *
configure_audit_name(Audit value)
{
	for (int i = 0; configure_audits[i].name; i++)
	{
		if (configure_audits[i].value == value)
			return configure_audits[i].name;
	}
	elog(ERROR, "unknown audit %d", (int) value);
}

/* columns of policy(), counted from 0 */
enum
{
	SHOW_SCOPE,
	SHOW_RETENTION,
	SHOW_WAIT,
	SHOW_UNFINISHED,
	SHOW_REQUIRE_REQUEST,
	SHOW_STORE_REQUEST,
	SHOW_EXCLUDE,
	SHOW_MAX_KEY_BYTES,
	SHOW_MAX_REQUEST_BYTES,
	SHOW_MAX_RESPONSE_BYTES,
	SHOW_ROLE,
	SHOW_MAX_ATTEMPTS,
	SHOW_BACKOFF_BASE,
	SHOW_BACKOFF_CAP,
	SHOW_STORE_FAILURES,
	SHOW_MAX_LEASE,
	SHOW_ON_LEASE_EXPIRY,
	SHOW_MAX_STATE_BYTES,
	SHOW_BREAKER_FAILURES,
	SHOW_BREAKER_PERCENT,
	SHOW_BREAKER_WINDOW,
	SHOW_BREAKER_COOLDOWN,
	SHOW_BREAKER_PROBES,
	SHOW_LIMIT_CLAIMS,
	SHOW_LIMIT_RUNNING,
	SHOW_LIMIT_REPLAYS,
	SHOW_LIMIT_INTERVAL,
	SHOW_AUDIT,
	SHOW_AUDIT_PAYLOADS,
	SHOW_RESPONSE_RETENTION,
	SHOW_STORE_RESPONSE,
	SHOW_RESPONSE_VERSION,
	SHOW_ON_STALE_VERSION,
	SHOW_ON_INVALIDATED,
	SHOW_REQUIRE_TOKEN,
	SHOW_SAGA_DEADLINE,
	SHOW_AFTER_COMPENSATION,
	SHOW_RING,
	SHOW_COLUMNS
};

/* The columns of the breaker and the limits. */
static void
configure_show_restraint(const Restraint *restraint, Datum *values)
{
	values[SHOW_BREAKER_FAILURES] =
		Int32GetDatum(restraint->breaker_failures);
	values[SHOW_BREAKER_PERCENT] = Int32GetDatum(restraint->breaker_percent);
	values[SHOW_BREAKER_WINDOW] =
		setting_duration_text(restraint->breaker_window);
	values[SHOW_BREAKER_COOLDOWN] =
		setting_duration_text(restraint->breaker_cooldown);
	values[SHOW_BREAKER_PROBES] = Int32GetDatum(restraint->breaker_probes);
	values[SHOW_LIMIT_CLAIMS] = Int32GetDatum(restraint->limit_claims);
	values[SHOW_LIMIT_RUNNING] = Int32GetDatum(restraint->limit_running);
	values[SHOW_LIMIT_REPLAYS] = Int32GetDatum(restraint->limit_replays);
	values[SHOW_LIMIT_INTERVAL] =
		setting_duration_text(restraint->limit_interval);
}

/* The columns of responses, tokens and sagas. */
static void
configure_show_response(const Policy *policy, Datum *values)
{
	values[SHOW_RESPONSE_RETENTION] =
		setting_duration_text(policy->response_retention);
	values[SHOW_STORE_RESPONSE] = BoolGetDatum(policy->store_response);
	values[SHOW_RESPONSE_VERSION] = Int32GetDatum(policy->response_version);
	values[SHOW_ON_STALE_VERSION] =
		CStringGetTextDatum(policy->on_stale_version == STALE_EXECUTE ?
							"execute" : "replay");
	values[SHOW_ON_INVALIDATED] =
		CStringGetTextDatum(policy->on_invalidated == INVALIDATED_EXECUTE ?
							"execute" : "acknowledge");
	values[SHOW_REQUIRE_TOKEN] = BoolGetDatum(policy->require_token);
	values[SHOW_SAGA_DEADLINE] =
		setting_duration_text(policy->saga_deadline);
	values[SHOW_AFTER_COMPENSATION] =
		CStringGetTextDatum(policy->after_compensation == COMPENSATED_EXECUTES ?
							"execute" : "fail");
}

/* The result row: the effective policy of a scope. */
Datum
configure_show(FunctionCallInfo fcinfo, text *scope, const Policy *policy)
{
	Datum		values[SHOW_COLUMNS];
	bool		isnull[SHOW_COLUMNS] = {0};

	values[SHOW_SCOPE] = PointerGetDatum(scope);
	values[SHOW_RETENTION] = setting_duration_text(policy->retention);
	values[SHOW_WAIT] = setting_duration_text(policy->wait);
	values[SHOW_UNFINISHED] =
		CStringGetTextDatum(policy->unfinished_succeeds ? "succeed" : "refuse");
	values[SHOW_REQUIRE_REQUEST] = BoolGetDatum(policy->require_request);
	values[SHOW_STORE_REQUEST] = BoolGetDatum(policy->store_request);
	values[SHOW_EXCLUDE] =
		PointerGetDatum(policy->exclude_array ? policy->exclude_array :
						construct_empty_array(TEXTOID));
	values[SHOW_MAX_KEY_BYTES] = Int32GetDatum(policy->max_key_bytes);
	values[SHOW_MAX_REQUEST_BYTES] = Int32GetDatum(policy->max_request_bytes);
	values[SHOW_MAX_RESPONSE_BYTES] =
		Int32GetDatum(policy->max_response_bytes);
	isnull[SHOW_ROLE] = !OidIsValid(policy->allowed_role) &&
		!policy->role_is_missing;
	if (policy->role_is_missing)
		values[SHOW_ROLE] = CStringGetTextDatum("(missing)");
	else if (!isnull[SHOW_ROLE])
		values[SHOW_ROLE] =
			CStringGetTextDatum(GetUserNameFromId(policy->allowed_role,
												  false));
	values[SHOW_MAX_ATTEMPTS] = Int32GetDatum(policy->max_attempts);
	values[SHOW_BACKOFF_BASE] = setting_duration_text(policy->backoff_base);
	values[SHOW_BACKOFF_CAP] = setting_duration_text(policy->backoff_cap);
	values[SHOW_STORE_FAILURES] = BoolGetDatum(policy->store_failures);
	values[SHOW_MAX_LEASE] = setting_duration_text(policy->max_lease);
	values[SHOW_ON_LEASE_EXPIRY] =
		CStringGetTextDatum(configure_lease_expiry_name(policy->on_lease_expiry));
	values[SHOW_MAX_STATE_BYTES] = Int32GetDatum(policy->max_state_bytes);
	configure_show_restraint(&policy->restraint, values);
	values[SHOW_AUDIT] =
		CStringGetTextDatum(configure_audit_name(policy->audit));
	values[SHOW_AUDIT_PAYLOADS] = BoolGetDatum(policy->audit_payloads);
	configure_show_response(policy, values);
	values[SHOW_RING] =
		CStringGetTextDatum(ring_name(policy_ring(policy)));

	return HeapTupleGetDatum(heap_form_tuple(catalog_result_desc(fcinfo),
											 values, isnull));
}

/* policy(scope text) returns record */
Datum
idempotency_policy(PG_FUNCTION_ARGS)
{
	text	   *scope = configure_scope(fcinfo);
	Policy		policy;
	Datum		result;

	policy_lock();
	policy_get(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope), &policy);
	result = configure_show(fcinfo, scope, &policy);
	policy_unlock();
	PG_RETURN_DATUM(result);
}
