/*-------------------------------------------------------------------------
 *
 * inbox_configure.c
 *		configure_consumer() writes a consumer's settings; consumer_policy()
 *		shows them.
 *
 * configure_consumer() takes AccessExclusiveLock on inbox_policy until its
 * transaction ends (inbox_policy.c says why), and sends a relcache
 * invalidation that makes everybody read anew.
 *
 * Where events are known by id, the rings remember them in the consumer's scope
 * (inbox.c), whose retention is therefore raised to what is configured here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "configure.h"
#include "errors.h"
#include "guc.h"
#include "inbox.h"
#include "inbox_columns.h"
#include "setting.h"

#define HOLES_MAX		100000
#define DELIVERIES_MAX	1000000

COMPAT_FUNCTION_INFO(idempotency_configure_consumer);
COMPAT_FUNCTION_INFO(idempotency_consumer_policy);

static const struct
{
	InboxStrategy value;
	const char *name;
}			strategies[] = {
	{INBOX_ID, "id"},
	{INBOX_SEQUENCE, "sequence"},
	{INBOX_ORDERED, "ordered"},
	{INBOX_HIGH_WATER, "high_water"},
	{INBOX_ID_AND_SEQUENCE, "id_and_sequence"}
};

/* the row to be written */
typedef struct ConsumerRow
{
	Datum		values[INBOX_POLICY_COLUMNS];
	bool		isnull[INBOX_POLICY_COLUMNS];
	bool		replace[INBOX_POLICY_COLUMNS];
} ConsumerRow;

/* Set one column of the row. */
static void
consumer_set(ConsumerRow *row, int column, Datum value)
{
	row->values[column - 1] = value;
	row->isnull[column - 1] = false;
	row->replace[column - 1] = true;
}

/* Set the strategy.  Raises ID400. */
static void
consumer_strategy(FunctionCallInfo fcinfo, int arg, ConsumerRow *row)
{
	char	   *value;

	if (PG_ARGISNULL(arg))
		return;
	value = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	for (int i = 0; i < lengthof(strategies); i++)
	{
		if (strcmp(value, strategies[i].name) != 0)
			continue;
		consumer_set(row, INBOX_POLICY_STRATEGY,
					 CharGetDatum((char) strategies[i].value));
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
			 errmsg("strategy must be 'id', 'sequence', 'ordered', 'high_water' or 'id_and_sequence'")));
}

/* Set an integer column from an argument.  Raises ID400. */
static void
consumer_integer(FunctionCallInfo fcinfo, int arg, const char *name,
				 int64 min, int64 max, ConsumerRow *row, int column)
{
	if (!PG_ARGISNULL(arg))
		consumer_set(row, column,
					 Int32GetDatum((int32) setting_integer(name,
														   PG_GETARG_INT64(arg),
														   min, max)));
}

/* Take over the arguments that were given.  Raises ID400, 42704. */
static void
consumer_arguments(FunctionCallInfo fcinfo, ConsumerRow *row)
{
	consumer_strategy(fcinfo, 2, row);
	if (!PG_ARGISNULL(3))
		consumer_set(row, INBOX_POLICY_RETENTION,
					 Int64GetDatum(setting_retention("retention",
													 PG_GETARG_TEXT_PP(3))));
	if (!PG_ARGISNULL(4))
		consumer_set(row, INBOX_POLICY_WAIT,
					 Int64GetDatum(setting_wait(PG_GETARG_TEXT_PP(4))));
	consumer_integer(fcinfo, 5, "max_holes", 4, HOLES_MAX, row,
					 INBOX_POLICY_MAX_HOLES);
	consumer_integer(fcinfo, 6, "max_deliveries", 0, DELIVERIES_MAX, row,
					 INBOX_POLICY_MAX_DELIVERIES);
	if (!PG_ARGISNULL(7))
		consumer_set(row, INBOX_POLICY_FIRST_SEQ,
					 Int64GetDatum(setting_integer("first_seq",
												   PG_GETARG_INT64(7), -1,
												   PG_INT64_MAX)));
	if (!PG_ARGISNULL(8))
		consumer_set(row, INBOX_POLICY_ALLOWED_ROLE,
					 setting_role(PG_GETARG_TEXT_PP(8)));
}

/* Write the row, over the old one if there is one. */
static void
consumer_write(Relation rel, ConsumerRow *row)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	old;

	ScanKeyInit(&keys[0], INBOX_POLICY_CONSUMER, BTEqualStrategyNumber,
				F_TEXTEQ, row->values[INBOX_POLICY_CONSUMER - 1]);
	ScanKeyInit(&keys[1], INBOX_POLICY_STREAM, BTEqualStrategyNumber,
				F_TEXTEQ, row->values[INBOX_POLICY_STREAM - 1]);
	keys[0].sk_collation = keys[1].sk_collation = C_COLLATION_OID;
	scan = systable_beginscan(rel, InvalidOid, false, NULL, lengthof(keys),
							  keys);
	old = systable_getnext(scan);
	if (HeapTupleIsValid(old))
	{
		HeapTuple	tuple = heap_modify_tuple(old, RelationGetDescr(rel),
											  row->values, row->isnull,
											  row->replace);

		CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	}
	else
		CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel),
												row->values, row->isnull));
	systable_endscan(scan);
	CacheInvalidateRelcache(rel);
	CommandCounterIncrement();
}

/* Are this consumer and stream among those that the settings are of? */
static bool
consumer_covers(const Identity *settings, const Identity *name)
{
	bool		all_consumers = settings->scope_len == INBOX_SCOPE_LEN + 1 &&
		settings->scope[INBOX_SCOPE_LEN] == '*';
	bool		all_streams = settings->principal_len == 1 &&
		settings->principal[0] == '*';

	return (all_consumers ||
			(settings->scope_len == name->scope_len &&
			 memcmp(settings->scope, name->scope, name->scope_len) == 0)) &&
		(all_streams ||
		 (settings->principal_len == name->principal_len &&
		  memcmp(settings->principal, name->principal,
				 name->principal_len) == 0));
}

/*
 * The strategy has changed: raises ID409 if a stream of another one, to which
 * that applies, has gaps, of which the new one would know nothing.
 */
static void
consumer_refuse_open(const Identity *changed)
{
	Relation	rel = table_open(catalog_relation(CATALOG_INBOX_STREAM),
								 AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	HeapTuple	tuple;
	int			open = 0;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		InboxStream stream = {0};
		InboxPolicy policy;
		Identity	name;

		CHECK_FOR_INTERRUPTS();
		inbox_stream_name(RelationGetDescr(rel), tuple, &name);
		if (!consumer_covers(changed, &name))
			continue;
		inbox_policy_get(&name, &policy);
		inbox_stream_deform(RelationGetDescr(rel), tuple, &stream, NULL);
		if (policy.strategy != stream.strategy && inbox_is_open(&stream))
			open++;
		inbox_stream_free(&stream);
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	if (open > 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_IN_PROGRESS),
				 errmsg("the strategy of consumer \"%.*s\" cannot be changed while events are open",
						changed->scope_len - INBOX_SCOPE_LEN,
						changed->scope + INBOX_SCOPE_LEN),
				 errdetail_plural("%d stream has accepted events behind a gap.",
								  "%d streams have accepted events behind a gap.",
								  open, open),
				 errhint("Wait until the gaps are filled, or give them up with skip_gap().")));
}

/*
 * Have the scope of the consumer's ids remember them for so long.  Raises
 * ID400 for all consumers, whose scopes aren't known.
 */
static void
consumer_raise_retention(const Identity *name, int64 retention)
{
	if (name->scope_len == INBOX_SCOPE_LEN + 1 &&
		name->scope[INBOX_SCOPE_LEN] == '*')
	{
		Policy		policy;

		policy_lock();
		policy_get("*", 1, &policy);
		policy_unlock();
		policy_check_retention(&policy, "*", 1, retention);
	}
	else
		configure_raise_retention(cstring_to_text_with_len(name->scope,
														   name->scope_len),
								  retention);
}

/*
 * The names that the settings are of, where '*' is for all.  Raises ID400.
 */
static void
consumer_names(FunctionCallInfo fcinfo, Identity *name)
{
	inbox_name(name, TEXT_ARGUMENT(0),
			   PG_ARGISNULL(1) ? cstring_to_text("*") : TEXT_ARGUMENT(1));
	if (name->scope_len == INBOX_SCOPE_LEN + 1 &&
		name->scope[INBOX_SCOPE_LEN] == '*' &&
		(name->principal_len != 1 || name->principal[0] != '*'))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("settings for all consumers are for all streams")));
}

/* The result row: the effective settings. */
static Datum
consumer_show(FunctionCallInfo fcinfo, const Identity *name,
			  const InboxPolicy *policy)
{
	Datum		values[INBOX_POLICY_COLUMNS];
	bool		isnull[INBOX_POLICY_COLUMNS] = {0};
	int64		retention = policy->retention;
	Policy		scope;

	values[0] = PointerGetDatum(cstring_to_text_with_len(name->scope + INBOX_SCOPE_LEN,
														 name->scope_len - INBOX_SCOPE_LEN));
	values[1] = PointerGetDatum(cstring_to_text_with_len(name->principal,
														 name->principal_len));
	for (int i = 0; i < lengthof(strategies); i++)
	{
		if (strategies[i].value == policy->strategy)
			values[2] = CStringGetTextDatum(strategies[i].name);
	}
	if (!policy->has_retention)
	{
		policy_lock();
		policy_get(name->scope, name->scope_len, &scope);
		policy_unlock();
		retention = scope.retention;
	}
	values[3] = setting_duration_text(retention);
	values[4] = setting_duration_text(policy->wait);
	values[5] = Int32GetDatum(policy->max_holes);
	values[6] = Int32GetDatum(policy->max_deliveries);
	values[7] = Int64GetDatum(policy->first_seq);
	isnull[7] = !policy->has_first_seq;
	isnull[8] = !OidIsValid(policy->allowed_role) && !policy->role_is_missing;
	if (policy->role_is_missing)
		values[8] = CStringGetTextDatum("(missing)");
	else if (!isnull[8])
		values[8] = CStringGetTextDatum(GetUserNameFromId(policy->allowed_role,
														  false));
	return HeapTupleGetDatum(heap_form_tuple(catalog_result_desc(fcinfo),
											 values, isnull));
}

/* Record the change: what the settings are now. */
static void
consumer_record(const Identity *name, Datum shown)
{
	text	   *json = DatumGetTextPP(DirectFunctionCall1(row_to_json, shown));

	decision_general(ENTRY_CONFIGURED, name->scope, name->scope_len,
					 psprintf("{\"consumer_policy\": %s}",
							  text_to_cstring(json)));
}

/*
 * configure_consumer(consumer text, stream text, strategy text,
 *					  retention text, wait text, max_holes bigint,
 *					  max_deliveries bigint, first_seq bigint, role text)
 *					  returns record
 */
Datum
idempotency_configure_consumer(PG_FUNCTION_ARGS)
{
	Identity	name;
	ConsumerRow row;
	InboxPolicy policy;
	Relation	rel;
	Datum		shown;

	catalog_check_writable("configure_consumer()");
	consumer_names(fcinfo, &name);
	memset(row.isnull, true, sizeof(row.isnull));
	memset(row.replace, false, sizeof(row.replace));
	consumer_set(&row, INBOX_POLICY_CONSUMER,
				 PointerGetDatum(cstring_to_text_with_len(name.scope + INBOX_SCOPE_LEN,
														  name.scope_len - INBOX_SCOPE_LEN)));
	consumer_set(&row, INBOX_POLICY_STREAM,
				 PointerGetDatum(cstring_to_text_with_len(name.principal,
														  name.principal_len)));
	consumer_arguments(fcinfo, &row);

	rel = table_open(catalog_relation(CATALOG_INBOX_POLICY),
					 AccessExclusiveLock);
	catalog_require_columns(rel, INBOX_POLICY_COLUMNS);
	if (row.replace[INBOX_POLICY_RETENTION - 1])
		consumer_raise_retention(&name,
								 DatumGetInt64(row.values[INBOX_POLICY_RETENTION - 1]));
	consumer_write(rel, &row);
	table_close(rel, NoLock);
	if (row.replace[INBOX_POLICY_STRATEGY - 1])
	{
		inbox_stream_flush();
		consumer_refuse_open(&name);
	}

	inbox_policy_get(&name, &policy);
	shown = consumer_show(fcinfo, &name, &policy);
	consumer_record(&name, shown);
	PG_RETURN_DATUM(shown);
}

/* consumer_policy(consumer text, stream text) returns record */
Datum
idempotency_consumer_policy(PG_FUNCTION_ARGS)
{
	Identity	name;
	InboxPolicy policy;

	consumer_names(fcinfo, &name);
	inbox_policy_lock();
	inbox_policy_get(&name, &policy);
	inbox_policy_unlock();
	PG_RETURN_DATUM(consumer_show(fcinfo, &name, &policy));
}
