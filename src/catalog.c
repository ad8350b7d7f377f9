/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		Where the extension's own relations are, and whether they still are
 *		what the library takes them for.
 *
 * OIDs are looked up by name once per backend and dropped by a relcache
 * invalidation of any of them.  The callback only clears flags: it can run
 * inside any lock acquisition, so nobody keeps a pointer into this state.
 *
 * Each table is checked (catalog_check.c) when it is first used after an
 * invalidation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"

/* result descriptors of this many functions are kept per backend */
#define RESULT_DESCS 16

typedef struct ResultDesc
{
	Oid			function;
	TupleDesc	desc;			/* blessed; in TopMemoryContext */
} ResultDesc;

static struct
{
	bool		valid;
	Oid			owner;
	Oid			policy;
	Oid			table[SEGMENT_COUNT];
	Oid			index[SEGMENT_COUNT];
	Oid			running_index[SEGMENT_COUNT];
	Oid			relation[CATALOG_RELATIONS];
	bool		checked[SEGMENT_COUNT];
	bool		filled[SEGMENT_COUNT];
	int64		seen_empty[SEGMENT_COUNT];	/* epoch, or PG_INT64_MIN */
	uint64		policy_generation;
	uint64		generation[CATALOG_RELATIONS];
}			catalog;

static const char *const catalog_relation_names[CATALOG_RELATIONS] = {
	[CATALOG_INCARNATION] = "incarnation",
	[CATALOG_FENCE_SEQ] = "fence_seq",
	[CATALOG_ABORTED_ATTEMPT] = "aborted_attempt",
	[CATALOG_LEDGER_SEQ] = "ledger_seq",
	[CATALOG_LEDGER_ENTRY] = "ledger_entry",
	[CATALOG_LEDGER_ENTRY_PKEY] = "ledger_entry_pkey",
	[CATALOG_LEDGER_PAYLOAD] = "ledger_payload",
	[CATALOG_LEDGER_PAYLOAD_PKEY] = "ledger_payload_pkey",
	[CATALOG_LEDGER_TILE] = "ledger_tile",
	[CATALOG_LEDGER_TILE_PKEY] = "ledger_tile_pkey",
	[CATALOG_LEDGER_CHECKPOINT] = "ledger_checkpoint",
	[CATALOG_LEDGER_CHECKPOINT_PKEY] = "ledger_checkpoint_pkey",
	[CATALOG_LEDGER_WITNESS] = "ledger_witness",
	[CATALOG_LEDGER_WITNESS_PKEY] = "ledger_witness_pkey",
	[CATALOG_LEDGER_PRUNE] = "ledger_prune",
	[CATALOG_TOKEN_KEY] = "token_key",
	[CATALOG_TAG_GENERATION] = "tag_generation",
	[CATALOG_TAG_GENERATION_PKEY] = "tag_generation_pkey",
	[CATALOG_TAG_GENERATION_SEQ] = "tag_generation_seq",
	[CATALOG_INBOX_POLICY] = "inbox_policy",
	[CATALOG_INBOX_STREAM] = "inbox_stream",
	[CATALOG_INBOX_STREAM_PKEY] = "inbox_stream_pkey",
	[CATALOG_INBOX_EVENT] = "inbox_event",
	[CATALOG_INBOX_EVENT_PKEY] = "inbox_event_pkey",
	[CATALOG_OUTBOX_SEQ] = "outbox_seq",
	[CATALOG_OUTBOX_POLICY] = "outbox_policy",
	[CATALOG_OUTBOX_RELAY] = "outbox_relay",
	[CATALOG_OUTBOX] = "outbox_0", "outbox_1", "outbox_2", "outbox_3",
	[CATALOG_OUTBOX_PKEY] = "outbox_0_pkey", "outbox_1_pkey",
	"outbox_2_pkey", "outbox_3_pkey",
	[CATALOG_OUTBOX_ID] = "outbox_0_id", "outbox_1_id", "outbox_2_id",
	"outbox_3_id",
	[CATALOG_SAGA_RUN] = "saga_run",
	[CATALOG_SAGA_RUN_PKEY] = "saga_run_pkey",
	[CATALOG_SAGA_RUN_DUE] = "saga_run_due",
	[CATALOG_SAGA_STEP] = "saga_step",
	[CATALOG_SAGA_STEP_PKEY] = "saga_step_pkey",
	[CATALOG_SAGA_CHILD] = "saga_child",
	[CATALOG_SAGA_CHILD_PKEY] = "saga_child_pkey"
};

static ResultDesc result_descs[RESULT_DESCS];
static bool result_descs_valid = false;

void		(*catalog_loaded_hook) (void) = NULL;

/* One of our relations changed (relid), or anything may have (InvalidOid). */
static void
catalog_relation_changed(Datum arg, Oid relid)
{
	bool		ours = relid == InvalidOid || relid == catalog.policy;

	if (ours)
		catalog.policy_generation++;
	for (int i = 0; i < SEGMENT_COUNT && !ours; i++)
		ours = relid == catalog.table[i];
	for (int i = 0; i < CATALOG_RELATIONS; i++)
	{
		if (relid != InvalidOid && relid != catalog.relation[i])
			continue;
		catalog.generation[i]++;
		/* invalidate() sends that, and the relation has not changed */
		ours |= i != CATALOG_TAG_GENERATION_SEQ;
	}
	if (ours)
		catalog.valid = false;
}

/* Some function was created, changed or dropped. */
static void
catalog_function_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	result_descs_valid = false;
}

/* Register the invalidation callbacks; called once from _PG_init. */
void
catalog_init(void)
{
	catalog.policy_generation = 1;
	for (int i = 0; i < CATALOG_RELATIONS; i++)
		catalog.generation[i] = 1;
	CacheRegisterRelcacheCallback(catalog_relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, catalog_function_changed,
								  (Datum) 0);
}

/*
 * The installed version of the extension's SQL, palloc'd.  Raises 55000 if
 * the extension is not installed in this database.
 */
static char *
catalog_sql_version(void)
{
	Oid			extension = get_extension_oid("idempotency", true);
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *version = NULL;

	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		datum = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(rel), &isnull);

		if (!isnull)
			version = TextDatumGetCString(datum);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (version == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"idempotency\" is not installed in this database")));
	return version;
}

/* Refuse to work on tables of another version.  Raises 55000. */
static void
catalog_check_version(void)
{
	char	   *version = catalog_sql_version();

	if (strcmp(version, IDEMPOTENCY_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"idempotency\" has version %s, but the extension's SQL objects have version %s",
						IDEMPOTENCY_VERSION, version),
				 errhint("Install the matching library and reconnect, or run ALTER EXTENSION idempotency UPDATE.")));
	pfree(version);
}

/* Look a relation of ours up by name.  Raises 55000 if it isn't there. */
static Oid
catalog_lookup(const char *name, Oid schema)
{
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s.%s\" is missing", IDEMPOTENCY_SCHEMA,
						name),
				 errhint("Drop the extension and create it again, or restore the relation from a dump.")));
	return relid;
}

/* Look everything up again if something has changed since. */
static void
catalog_load(void)
{
	Oid			schema;
	char		index_name[NAMEDATALEN];

	if (likely(catalog.valid))
		return;

	catalog_check_version();
	schema = get_namespace_oid(IDEMPOTENCY_SCHEMA, false);
	catalog.policy = catalog_lookup("scope_policy", schema);
	for (int i = 0; i < CATALOG_RELATIONS; i++)
		catalog.relation[i] = catalog_lookup(catalog_relation_names[i],
											 schema);
	for (Segment i = 0; i < SEGMENT_COUNT; i++)
	{
		snprintf(index_name, NAMEDATALEN, "%s_pkey", segment_name(i));
		catalog.table[i] = catalog_lookup(segment_name(i), schema);
		catalog.index[i] = catalog_lookup(index_name, schema);
		snprintf(index_name, NAMEDATALEN, "%s_running", segment_name(i));
		catalog.running_index[i] = catalog_lookup(index_name, schema);
		catalog.checked[i] = false;
		catalog.filled[i] = false;
		catalog.seen_empty[i] = PG_INT64_MIN;
	}
	catalog.valid = true;
	if (catalog_loaded_hook)
		catalog_loaded_hook();
}

/* OID of the policy table. */
Oid
catalog_policy_table(void)
{
	catalog_load();
	return catalog.policy;
}

/* OID of a segment's table. */
Oid
catalog_segment_table(Segment segment)
{
	catalog_load();
	return catalog.table[segment];
}

/* OID of one of our other relations. */
Oid
catalog_relation(CatalogRelation relation)
{
	catalog_load();
	return catalog.relation[relation];
}

/* Is the extension, still, in this database? */
bool
catalog_is_there(void)
{
	return catalog.valid || OidIsValid(get_extension_oid("idempotency", true));
}

/* OID of a segment's primary key, on id. */
Oid
catalog_segment_index(Segment segment)
{
	catalog_load();
	return catalog.index[segment];
}

/* OID of a segment's index of the rows whose state is "running", on scope. */
Oid
catalog_segment_running_index(Segment segment)
{
	catalog_load();
	return catalog.running_index[segment];
}

/* Has the segment passed catalog_require_plain() since its last change? */
bool
catalog_segment_is_checked(Segment segment)
{
	return catalog.valid && catalog.checked[segment];
}

/* Remember that the segment has passed. */
void
catalog_segment_checked(Segment segment)
{
	catalog.checked[segment] = true;
}

/*
 * Has the segment held anything since its last change?  What was truncated
 * has changed, so once yes, it stays yes, and spares asking for the size.
 */
bool
catalog_segment_is_filled(Segment segment, Relation heap)
{
	if (!catalog.filled[segment] || !catalog.valid)
		catalog.filled[segment] = RelationGetNumberOfBlocks(heap) > 0;
	return catalog.filled[segment];
}

/* The last epoch in which this backend saw the segment empty. */
int64
catalog_segment_seen_empty(Segment segment)
{
	catalog_load();
	return catalog.seen_empty[segment];
}

/* Remember that the segment was empty in this epoch. */
void
catalog_segment_see_empty(Segment segment, int64 epoch)
{
	catalog.seen_empty[segment] = epoch;
}

/* Rises whenever the policies may have changed. */
uint64
catalog_policy_generation(void)
{
	return catalog.policy_generation;
}

/* Changes whenever the relation may have changed. */
uint64
catalog_generation(CatalogRelation relation)
{
	return catalog.generation[relation];
}

/* The role that owns the extension's tables. */
Oid
catalog_owner(void)
{
	Oid			owner;
	HeapTuple	tuple = SearchSysCache1(RELOID,
										ObjectIdGetDatum(catalog_policy_table()));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for the policy table");
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Refuse to write where nothing can be written: a read-only transaction, a
 * standby, a parallel worker.  Raises 25006 and 25000.
 */
void
catalog_check_writable(const char *command)
{
	PreventCommandIfReadOnly(command);
	PreventCommandIfParallelMode(command);
	PreventCommandDuringRecovery(command);
}

/* Forget the result descriptors that a change of functions made doubtful. */
static void
catalog_reset_result_descs(void)
{
	for (int i = 0; i < RESULT_DESCS; i++)
	{
		if (result_descs[i].desc)
			FreeTupleDesc(result_descs[i].desc);
		result_descs[i].desc = NULL;
		result_descs[i].function = InvalidOid;
	}
	result_descs_valid = true;
}

/*
 * The blessed row type of the running function's OUT columns.  Kept per
 * backend, since looking it up costs as much as half a claim; whoever calls
 * this forms its tuple before anything can be invalidated.
 */
TupleDesc
catalog_result_desc(FunctionCallInfo fcinfo)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	TupleDesc	desc;
	int			i;

	if (!result_descs_valid)
		catalog_reset_result_descs();
	for (i = 0; i < RESULT_DESCS && result_descs[i].desc; i++)
	{
		if (result_descs[i].function == function)
			return result_descs[i].desc;
	}
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	if (i < RESULT_DESCS)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		result_descs[i].desc = desc = CreateTupleDescCopy(desc);
		result_descs[i].function = function;
		MemoryContextSwitchTo(old);
	}
	return desc;
}
