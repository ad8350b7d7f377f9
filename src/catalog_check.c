/*-------------------------------------------------------------------------
 *
 * catalog_check.c
 *		Whether the extension's own tables still are what the library takes
 *		them for.
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
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"

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

/* Is this a valid index on the column alone, and of this kind? */
static bool
catalog_index_is(Oid index, Oid relid, const char *column, bool unique,
				 bool partial)
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
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL) != partial;
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
		catalog_index_is(catalog_segment_index(segment), relid, "id", true,
						 false) &&
		catalog_index_is(catalog_segment_running_index(segment), relid,
						 "scope", false, true);
}

/* Why can't a table of ours be written directly?  NULL if it can. */
static const char *
catalog_obstacle(Relation heap)
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
	if (heap->rd_rules != NULL)
		return "It has a rule.";
	if (form->relrowsecurity)
		return "It has row security.";
	if (constraints && (constraints->num_check > 0 ||
						constraints->num_defval > 0))
		return "It has a check constraint or a default.";
	if (catalog_is_distributed(RelationGetRelid(heap)))
		return "It is a distributed table.";
	return NULL;
}

/* Raises 55000: the table isn't what a direct write would do justice to. */
static void
catalog_refuse(Relation heap, const char *use, const char *obstacle)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s.%s\" cannot be used to %s",
					IDEMPOTENCY_SCHEMA, RelationGetRelationName(heap), use),
			 errdetail_internal("%s", obstacle),
			 errhint("The extension writes its tables directly; restore the table to the form in which CREATE EXTENSION made it.")));
}

/*
 * Refuse a segment's table if a direct write would not do justice to it.  The
 * caller holds a lock on it.  Raises 55000.
 */
void
catalog_require_plain(Relation heap, Segment segment)
{
	const char *obstacle = catalog_obstacle(heap);

	if (obstacle == NULL && heap->trigdesc != NULL)
		obstacle = "It has a trigger or a foreign key.";
	if (obstacle == NULL && !catalog_has_own_indexes(heap, segment))
		obstacle = "It lacks one of its indexes, or has another.";
	if (obstacle)
		catalog_refuse(heap, "remember idempotency keys", obstacle);
}

/*
 * Likewise for the ledger's table, which has a trigger of ours.  Raises 55000.
 */
void
catalog_require_ledger(Relation heap)
{
	const char *obstacle = catalog_obstacle(heap);
	List	   *indexes = RelationGetIndexList(heap);

	if (obstacle == NULL && heap->trigdesc != NULL &&
		(heap->trigdesc->numtriggers > 1 ||
		 strcmp(heap->trigdesc->triggers[0].tgname,
				"ledger_entry_append_only") != 0))
		obstacle = "It has a trigger or a foreign key of somebody else's.";
	if (obstacle == NULL &&
		(list_length(indexes) != 1 ||
		 !catalog_index_is(catalog_relation(CATALOG_LEDGER_ENTRY_PKEY),
						   RelationGetRelid(heap), "seq", true, false)))
		obstacle = "It lacks its index, or has another.";
	list_free(indexes);
	if (obstacle)
		catalog_refuse(heap, "record decisions", obstacle);
}

/*
 * Likewise for a table that has one index, on a column of this name; use says
 * what the table is for.  Raises 55000.
 */
void
catalog_require_indexed(Relation heap, CatalogRelation index,
						const char *column, const char *use)
{
	const char *obstacle = catalog_obstacle(heap);
	List	   *indexes = RelationGetIndexList(heap);

	if (obstacle == NULL && heap->trigdesc != NULL)
		obstacle = "It has a trigger or a foreign key.";
	if (obstacle == NULL &&
		(list_length(indexes) != 1 ||
		 !catalog_index_is(catalog_relation(index), RelationGetRelid(heap),
						   column, true, false)))
		obstacle = "It lacks its index, or has another.";
	list_free(indexes);
	if (obstacle)
		catalog_refuse(heap, use, obstacle);
}

/*
 * Likewise for a table of the outbox, whose index on position is unique.
 * Others may publish it, or set its replica identity.  Raises 55000.
 */
void
catalog_require_outbox(Relation heap, int slot)
{
	const char *obstacle = catalog_obstacle(heap);
	List	   *indexes = RelationGetIndexList(heap);
	Oid			relid = RelationGetRelid(heap);

	if (obstacle == NULL && heap->trigdesc != NULL)
		obstacle = "It has a trigger or a foreign key.";
	if (obstacle == NULL &&
		(list_length(indexes) != 2 ||
		 !catalog_index_is(catalog_relation(CATALOG_OUTBOX_PKEY + slot), relid,
						   "position", true, false) ||
		 !catalog_index_is(catalog_relation(CATALOG_OUTBOX_ID + slot), relid,
						   "id", false, false)))
		obstacle = "It lacks one of its indexes, or has another.";
	list_free(indexes);
	if (obstacle)
		catalog_refuse(heap, "keep events", obstacle);
}

/*
 * Likewise for a table with so many indexes, which are written as a catalog's
 * are.  Raises 55000.
 */
void
catalog_require_heap(Relation heap, int indexes, const char *use)
{
	const char *obstacle = catalog_obstacle(heap);
	List	   *list = RelationGetIndexList(heap);

	if (obstacle == NULL && heap->trigdesc != NULL)
		obstacle = "It has a trigger or a foreign key.";
	if (obstacle == NULL && list_length(list) != indexes)
		obstacle = "It lacks one of its indexes, or has another.";
	list_free(list);
	if (obstacle)
		catalog_refuse(heap, use, obstacle);
}
