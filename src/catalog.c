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
 * The library writes its tables directly.  What others may have put on them
 * (triggers, row security, partitions, a second index, Citus metadata) would
 * be bypassed in silence, and a key could be claimed twice.  Therefore each
 * table is checked when it is first used after an invalidation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
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
	Oid			incarnation;
	Oid			fence_sequence;
	Oid			aborted;
	Oid			token;
	Oid			tag;
	Oid			tag_index;
	Oid			tag_sequence;
	bool		checked[SEGMENT_COUNT];
	bool		filled[SEGMENT_COUNT];
	int64		seen_empty[SEGMENT_COUNT];	/* epoch, or PG_INT64_MIN */
	uint64		policy_generation;
	uint64		incarnation_generation;
	uint64		token_generation;
	uint64		tag_changes;
}			catalog;

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
	if (relid == InvalidOid || relid == catalog.incarnation)
	{
		catalog.incarnation_generation++;
		ours = true;
	}
	if (relid == InvalidOid || relid == catalog.token)
	{
		catalog.token_generation++;
		ours = true;
	}
	/* sent by invalidate(); the relation itself has not changed */
	if (relid == InvalidOid || relid == catalog.tag_sequence)
		catalog.tag_changes++;
	for (int i = 0; i < SEGMENT_COUNT && !ours; i++)
		ours = relid == catalog.table[i];
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
	catalog.incarnation_generation = 1;
	catalog.token_generation = 1;
	catalog.tag_changes = 1;
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
	catalog.incarnation = catalog_lookup("incarnation", schema);
	catalog.fence_sequence = catalog_lookup("fence_seq", schema);
	catalog.aborted = catalog_lookup("aborted_attempt", schema);
	catalog.token = catalog_lookup("token_key", schema);
	catalog.tag = catalog_lookup("tag_generation", schema);
	catalog.tag_index = catalog_lookup("tag_generation_pkey", schema);
	catalog.tag_sequence = catalog_lookup("tag_generation_seq", schema);
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

/* OID of the table of incarnations. */
Oid
catalog_incarnation_table(void)
{
	catalog_load();
	return catalog.incarnation;
}

/* OID of the sequence that fences are drawn from. */
Oid
catalog_fence_sequence(void)
{
	catalog_load();
	return catalog.fence_sequence;
}

/* OID of the table of aborted attempts. */
Oid
catalog_aborted_table(void)
{
	catalog_load();
	return catalog.aborted;
}

/* OID of the table of the keys that tokens are signed with. */
Oid
catalog_token_table(void)
{
	catalog_load();
	return catalog.token;
}

/* OID of the table of tags that were invalidated. */
Oid
catalog_tag_table(void)
{
	catalog_load();
	return catalog.tag;
}

/* OID of that table's primary key, on scope and tag. */
Oid
catalog_tag_index(void)
{
	catalog_load();
	return catalog.tag_index;
}

/* OID of the sequence that numbers their generations. */
Oid
catalog_tag_sequence(void)
{
	catalog_load();
	return catalog.tag_sequence;
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

/* Rises whenever the incarnation may have changed. */
uint64
catalog_incarnation_generation(void)
{
	return catalog.incarnation_generation;
}

/* Rises whenever the keys that tokens are signed with may have changed. */
uint64
catalog_token_generation(void)
{
	return catalog.token_generation;
}

/* Rises whenever a tag may have been invalidated. */
uint64
catalog_tag_changes(void)
{
	return catalog.tag_changes;
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

/*
 * Refuse a table of ours that hasn't as many columns as this library knows: it
 * was made by another one that had the same version.  Raises 55000.
 */
void
catalog_require_columns(Relation rel, int n)
{
	if (RelationGetDescr(rel)->natts != n)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" has %d columns, but the library knows %d",
						IDEMPOTENCY_SCHEMA, RelationGetRelationName(rel),
						RelationGetDescr(rel)->natts, n),
				 errhint("Install the library that belongs to the extension's SQL objects, or run ALTER EXTENSION idempotency UPDATE.")));
}

/*
 * Does Citus know this table?  Then the local one may be a mere shell of a
 * distributed table.
 */
static bool
catalog_is_distributed(Oid relid)
{
	Oid			metadata = get_relname_relid("pg_dist_partition",
											 PG_CATALOG_NAMESPACE);
	AttrNumber	attno;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	if (!OidIsValid(metadata))
		return false;
	attno = get_attnum(metadata, "logicalrelid");
	if (attno == InvalidAttrNumber)
		return false;
	rel = table_open(metadata, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		datum = heap_getattr(tuple, attno, RelationGetDescr(rel),
										 &isnull);

		found = !isnull && DatumGetObjectId(datum) == relid;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Is this a valid index on the column alone, unique or else partial? */
static bool
catalog_index_is(Oid index, Oid relid, const char *column, bool unique)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;
	bool		is;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_index) GETSTRUCT(tuple);
	is = form->indrelid == relid && form->indisvalid && form->indnatts == 1 &&
		form->indkey.values[0] == get_attnum(relid, column) &&
		form->indisunique == unique &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL) == unique;
	ReleaseSysCache(tuple);
	return is;
}

/* Does the table have its two indexes, and no other? */
static bool
catalog_has_own_indexes(Relation heap, Segment segment)
{
	Oid			relid = RelationGetRelid(heap);
	List	   *indexes = RelationGetIndexList(heap);
	int			n = list_length(indexes);

	list_free(indexes);
	return n == 2 &&
		catalog_index_is(catalog_segment_index(segment), relid, "id", true) &&
		catalog_index_is(catalog_segment_running_index(segment), relid,
						 "scope", false);
}

/* Why can't this table be written directly?  NULL if it can. */
static const char *
catalog_obstacle(Relation heap, Segment segment)
{
	Form_pg_class form = heap->rd_rel;
	TupleConstr *constraints = RelationGetDescr(heap)->constr;

	if (form->relkind != RELKIND_RELATION || form->relispartition ||
		form->relam != HEAP_TABLE_AM_OID)
		return "It is not a plain heap table.";
	/* relhassubclass may be out of date */
	if (form->relhassubclass &&
		find_inheritance_children(RelationGetRelid(heap), NoLock) != NIL)
		return "It has an inheritance child.";
	if (form->relpersistence != RELPERSISTENCE_PERMANENT)
		return "It is not a logged table.";
	if (heap->trigdesc != NULL)
		return "It has a trigger or a foreign key.";
	if (heap->rd_rules != NULL)
		return "It has a rule.";
	if (form->relrowsecurity)
		return "It has row security.";
	if (constraints && (constraints->num_check > 0 ||
						constraints->num_defval > 0))
		return "It has a check constraint or a default.";
	if (!catalog_has_own_indexes(heap, segment))
		return "It lacks one of its indexes, or has another.";
	if (catalog_is_distributed(RelationGetRelid(heap)))
		return "It is a distributed table.";
	return NULL;
}

/*
 * Refuse a segment's table if a direct write would not do justice to it.  The
 * caller holds a lock on it.  Raises 55000.
 */
void
catalog_require_plain(Relation heap, Segment segment)
{
	const char *obstacle = catalog_obstacle(heap, segment);

	if (obstacle)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" cannot be used to remember idempotency keys",
						IDEMPOTENCY_SCHEMA, RelationGetRelationName(heap)),
				 errdetail_internal("%s", obstacle),
				 errhint("The extension writes its tables directly; restore the table to the form in which CREATE EXTENSION made it.")));
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
