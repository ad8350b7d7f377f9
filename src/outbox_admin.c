/*-------------------------------------------------------------------------
 *
 * outbox_admin.c
 *		For operators: the settings of streams, and where relays go on.
 *
 * Everything done here is recorded in the ledger.
 *
 * Locking: configure_outbox() keeps others of its kind out by
 * ShareRowExclusiveLock on outbox_policy; for relays see outbox_relay.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"

#include "catalog.h"
#include "compat.h"
#include "counter.h"
#include "decision.h"
#include "errors.h"
#include "outbox.h"
#include "policy.h"

#define OUTBOX_RETENTION_MIN	(10 * USECS_PER_SEC)
#define OUTBOX_AGE_MAX			(3650 * USECS_PER_DAY)
#define OUTBOX_PAYLOAD_MAX		(256 * 1024 * 1024)

COMPAT_FUNCTION_INFO(idempotency_configure_outbox);
COMPAT_FUNCTION_INFO(idempotency_configure_relay);
COMPAT_FUNCTION_INFO(idempotency_reset_relay);
COMPAT_FUNCTION_INFO(idempotency_forget_relay);

/*
 * Execute one of our own statements as the owner of our tables, as a duty would
 * be.
 */
static void
admin_execute(const char *command, int nargs, Oid *types, Datum *values,
			  const char *nulls)
{
	Oid			user;
	int			context;
	int			code;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(catalog_owner(),
						   context | SECURITY_RESTRICTED_OPERATION);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	code = SPI_execute_with_args(command, nargs, types, values, nulls, false,
								 0);
	if (code != SPI_OK_INSERT)
		elog(ERROR, "configuration statement failed: %s",
			 SPI_result_code_string(code));
	SPI_finish();
	SetUserIdAndSecContext(user, context);
}

/* An interval argument in microseconds; 0 if it is NULL.  Raises ID400. */
static int64
admin_duration(FunctionCallInfo fcinfo, int arg, const char *name, int64 min,
			   int64 max, const char *limits)
{
	int64		value;

	if (PG_ARGISNULL(arg))
		return 0;
	value = policy_interval(PG_GETARG_INTERVAL_P(arg));
	if (value < min || value > max)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must be between %s", name, limits),
				 errhint("A number without a unit is read as seconds.")));
	return value;
}

/* Raises ID400 unless the role is NULL, '' or that of somebody. */
static void
admin_check_role(const text *role)
{
	char	   *name = role ? text_to_cstring(role) : "";

	if (name[0] != '\0' && !OidIsValid(get_role_oid(name, true)))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("role \"%s\" does not exist", name)));
}

/* Check what belongs together, over what is set already.  Raises ID400. */
static void
admin_check_durations(const text *stream, int64 retention, int64 max_age)
{
	OutboxPolicy policy;

	if (retention == 0 && max_age == 0)
		return;
	if (strcmp(text_to_cstring(stream), OUTBOX_ALL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("retention and max_age can only be set for '*'"),
				 errdetail("The events of all streams are kept in the same tables.")));
	outbox_policy_get(NULL, &policy);
	if ((max_age != 0 ? max_age : policy.max_age) <
		(retention != 0 ? retention : policy.retention))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("max_age must not be less than retention")));
}

/* What was configured, as an entry's detail. */
static void
admin_record_policy(text *stream, int64 retention, int64 max_age)
{
	decision_general(ENTRY_CONFIGURED, NULL, 0,
					 psprintf("{\"outbox\": %s, \"retention_us\": " INT64_FORMAT ", \"max_age_us\": " INT64_FORMAT "}",
							  decision_json(stream), retention, max_age));
}

/*
 * configure_outbox(stream text, retention interval, max_age interval,
 *		max_payload_bytes int, notify boolean, role text) returns boolean
 */
Datum
idempotency_configure_outbox(PG_FUNCTION_ARGS)
{
	text	   *stream = TEXT_ARGUMENT(0);
	int64		retention;
	int64		max_age;
	Oid			types[] = {TEXTOID, INT8OID, INT8OID, INT4OID, BOOLOID, TEXTOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types) + 1] = "      ";

	catalog_check_writable("configure_outbox()");
	outbox_check_name("stream", stream, true);
	retention = admin_duration(fcinfo, 1, "retention", OUTBOX_RETENTION_MIN,
							   RETENTION_MAX, "10 seconds and 60 days");
	max_age = admin_duration(fcinfo, 2, "max_age", OUTBOX_RETENTION_MIN,
							 OUTBOX_AGE_MAX, "10 seconds and 3650 days");
	if (!PG_ARGISNULL(3) && (PG_GETARG_INT32(3) < 1 ||
							 PG_GETARG_INT32(3) > OUTBOX_PAYLOAD_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("max_payload_bytes must be between 1 and %d",
						OUTBOX_PAYLOAD_MAX)));
	admin_check_role(TEXT_ARGUMENT(5));
	LockRelationOid(catalog_relation(CATALOG_OUTBOX_POLICY),
					ShareRowExclusiveLock);
	admin_check_durations(stream, retention, max_age);
	for (int i = 0; i < lengthof(types); i++)
	{
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	values[1] = Int64GetDatum(retention);
	values[2] = Int64GetDatum(max_age);
	admin_execute("INSERT INTO idempotency.outbox_policy AS p "
				  "(stream, retention, max_age, max_payload_bytes, notify, allowed_role) "
				  "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (stream) DO UPDATE SET "
				  "retention = coalesce(EXCLUDED.retention, p.retention), "
				  "max_age = coalesce(EXCLUDED.max_age, p.max_age), "
				  "max_payload_bytes = coalesce(EXCLUDED.max_payload_bytes, p.max_payload_bytes), "
				  "notify = coalesce(EXCLUDED.notify, p.notify), "
				  "allowed_role = coalesce(EXCLUDED.allowed_role, p.allowed_role)",
				  lengthof(types), types, values, nulls);
	CacheInvalidateRelcacheByRelid(catalog_relation(CATALOG_OUTBOX_POLICY));
	admin_record_policy(stream, retention, max_age);
	PG_RETURN_BOOL(true);
}

/* Lock and read a relay that two arguments name.  Raises ID400. */
static void
admin_open_relay(FunctionCallInfo fcinfo, const char *command,
				 OutboxRelay *row)
{
	text	   *relay = TEXT_ARGUMENT(0);
	text	   *stream = PG_ARGISNULL(1) ? cstring_to_text(OUTBOX_ALL) :
		PG_GETARG_TEXT_PP(1);

	outbox_check_name("relay", relay, false);
	outbox_check_name("stream", stream, true);
	outbox_relay_require_writable(command);
	(void) outbox_relay_lock(relay, stream, true);
	outbox_relay_get(relay, stream, row);
}

/* Check a reason.  Raises ID400, ID413. */
static text *
admin_reason(const char *command, text *reason)
{
	return policy_check_reason(command, reason,
							   "Say why: it decides whether events are published again, or not at all.");
}

/* Record what was done to a relay. */
static void
admin_record_relay(const OutboxRelay *row, const char *what,
				   const text *reason)
{
	decision_general(ENTRY_CONFIGURED, NULL, 0,
					 psprintf("{\"relay\": %s, \"stream\": %s, \"%s\": " INT64_FORMAT ", \"reason\": %s}",
							  decision_json(row->relay),
							  decision_json(row->stream), what, row->position,
							  reason ? decision_json(reason) : "null"));
}

/*
 * configure_relay(relay text, stream text, role text) returns boolean
 */
Datum
idempotency_configure_relay(PG_FUNCTION_ARGS)
{
	OutboxRelay row;
	bool		existed;

	admin_check_role(TEXT_ARGUMENT(2));
	admin_open_relay(fcinfo, "configure_relay()", &row);
	existed = row.exists;
	if (!PG_ARGISNULL(2))
		row.allowed_role = PG_GETARG_TEXT_PP(2);
	outbox_relay_put(&row);
	admin_record_relay(&row, "position", NULL);
	PG_RETURN_BOOL(!existed);
}

/* Raises ID404 if the relay isn't there. */
static void
admin_require_relay(const OutboxRelay *row)
{
	if (!row->exists)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_FOUND),
				 errmsg("there is no relay \"%s\" of this stream",
						text_to_cstring(row->relay))));
}

/*
 * reset_relay(relay text, stream text, position bigint, reason text)
 *		returns bigint
 */
Datum
idempotency_reset_relay(PG_FUNCTION_ARGS)
{
	text	   *reason = admin_reason("reset_relay()", TEXT_ARGUMENT(3));
	OutboxRelay row;
	int64		last;
	int64		position;

	admin_open_relay(fcinfo, "reset_relay()", &row);
	admin_require_relay(&row);
	last = counter_last(catalog_relation(CATALOG_OUTBOX_SEQ));
	position = PG_ARGISNULL(2) ? last : PG_GETARG_INT64(2);
	if (position < 0 || position > last)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("position must be between 0 and the last one, " INT64_FORMAT,
						last)));
	row.position = row.read_upto = position;
	row.fence = outbox_relay_fence();	/* whoever reads now is stale */
	row.leased = false;
	row.holder = NULL;
	row.lost_upto = 0;
	row.moved_at = GetCurrentTimestamp();
	outbox_relay_put(&row);
	admin_record_relay(&row, "reset_to", reason);
	PG_RETURN_INT64(position);
}

/*
 * forget_relay(relay text, stream text, reason text) returns boolean
 */
Datum
idempotency_forget_relay(PG_FUNCTION_ARGS)
{
	text	   *reason = admin_reason("forget_relay()", TEXT_ARGUMENT(2));
	OutboxRelay row;

	admin_open_relay(fcinfo, "forget_relay()", &row);
	if (!row.exists)
		PG_RETURN_BOOL(false);
	outbox_relay_delete(&row);
	admin_record_relay(&row, "forgotten_at", reason);
	PG_RETURN_BOOL(true);
}
