/*-------------------------------------------------------------------------
 *
 * setting.c
 *		Values of settings: how they are given, and how they are shown.
 *
 * What the policies of scopes (configure.c) and of consumers
 * (inbox_configure.c) have in common.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "errors.h"
#include "guc.h"
#include "policy.h"
#include "setting.h"

/*
 * A duration given as text, in microseconds; 'infinity' is PG_INT64_MAX.  (An
 * interval can't be infinite before PostgreSQL 17.)  Raises what interval
 * input raises.
 */
int64
setting_duration(text *value)
{
	char	   *string = text_to_cstring(value);

	if (pg_strcasecmp(string, "infinity") == 0)
		return PG_INT64_MAX;
	return policy_interval(DatumGetIntervalP(DirectFunctionCall3(interval_in,
																 CStringGetDatum(string),
																 ObjectIdGetDatum(InvalidOid),
																 Int32GetDatum(-1))));
}

/* A duration as text, such as interval output gives; 'infinity' if it is. */
Datum
setting_duration_text(int64 duration)
{
	Interval	interval = {0};
	char	   *string;

	if (duration == PG_INT64_MAX)
		return CStringGetTextDatum("infinity");
	interval.time = duration;
	string = DatumGetCString(DirectFunctionCall1(interval_out,
												 IntervalPGetDatum(&interval)));
	return CStringGetTextDatum(string);
}

/* How long something is remembered, of this name.  Raises ID400. */
int64
setting_retention(const char *name, text *value)
{
	int64		retention = setting_duration(value);

	if (retention != RETENTION_FOREVER &&
		(retention < RETENTION_MIN || retention > RETENTION_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must be between 1 second and 60 days, or 'infinity'",
						name),
				 errhint("A number without a unit is read as seconds.")));
	return retention;
}

/* How long another transaction is waited for.  Raises ID400. */
int64
setting_wait(text *value)
{
	int64		wait = setting_duration(value);

	if (wait != WAIT_FOREVER &&
		(wait < 0 || wait > guc_max_wait * USECS_PER_MSEC))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("wait must be between 0 and idempotency.max_wait, or 'infinity'"),
				 errdetail("The setting is %d ms.", guc_max_wait),
				 errhint("A number without a unit is read as seconds.")));
	return wait;
}

/* A number within these bounds.  Raises ID400. */
int64
setting_integer(const char *name, int64 value, int64 min, int64 max)
{
	if (value < min || value > max)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s is out of range", name),
				 errdetail("It must be between %lld and %lld.",
						   (long long) min, (long long) max)));
	return value;
}

/* The role that something is reserved for, or ''.  Raises 42704. */
Datum
setting_role(text *value)
{
	char	   *role = text_to_cstring(value);

	if (role[0] != '\0')
		(void) get_role_oid(role, false);
	return PointerGetDatum(value);
}
