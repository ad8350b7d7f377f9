/*-------------------------------------------------------------------------
 *
 * inbox_table.c
 *		Reading and writing the inbox's tables, which have a row per id.
 *
 * Directly through the heap and index access methods, as the rings are
 * (store.c): nobody's trigger, rule or default takes part, and a probe sees
 * what another transaction is writing.
 *
 * Locking: the table is opened before the id's lock is taken, and every probe
 * that a write depends on, and every write, happens under that lock;
 * inbox_table_update() says why it can do without.  So a row that somebody is
 * changing is one whose xmin or xmax is in progress.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "executor/tuptable.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "errors.h"
#include "inbox.h"

/*
 * Open the table to which this primary key belongs; in the catalog's list it
 * stands right before the key.  Raises 55000 if it isn't what it was.
 */
void
inbox_table_open(InboxTable *table, CatalogRelation pkey, LOCKMODE lockmode)
{
	static uint64 checked[CATALOG_RELATIONS];
	CatalogRelation relation = pkey - 1;

	table->pkey = pkey;
	table->lockmode = lockmode;
	table->heap = table_open(catalog_relation(relation), lockmode);
	table->index = NULL;
	table->written = false;
	if (unlikely(checked[relation] != catalog_generation(relation)))
	{
		uint64		generation = catalog_generation(relation);

		catalog_require_indexed(table->heap, pkey, "id",
								"remember events");
		checked[relation] = generation;
	}
}

/* The table's index, opened. */
static Relation
table_index(InboxTable *table)
{
	if (table->index == NULL)
		table->index = index_open(catalog_relation(table->pkey),
								  table->lockmode);
	return table->index;
}

/*
 * Look for an id with a snapshot, which may be a dirty one.  Returns the slot
 * that holds the row, which the caller drops, or NULL.
 */
static TupleTableSlot *
table_find(InboxTable *table, const pg_uuid_t *id, Snapshot snapshot)
{
	IndexScanDesc scan = compat_index_beginscan(table->heap,
												table_index(table), snapshot);
	TupleTableSlot *slot = table_slot_create(table->heap, NULL);
	ScanKeyData key;
	bool		found;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(id));
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	if (found)
		return slot;
	ExecDropSingleTupleTableSlot(slot);
	return NULL;
}

/*
 * At REPEATABLE READ and above, raises 40001 if the row was committed after
 * the snapshot: the rest of the transaction can't see what was done meanwhile.
 */
static void
table_check_serialization(InboxTable *table, TupleTableSlot *slot)
{
	if (!IsolationUsesXactSnapshot() ||
		table_tuple_satisfies_snapshot(table->heap, slot,
									   GetTransactionSnapshot()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update"),
			 errdetail("Another event of the stream was accepted after this transaction's snapshot was taken."),
			 errhint("Retry the transaction.")));
}

/* Have a serializable reader's look at the id be known to PostgreSQL. */
static void
table_register_read(InboxTable *table, const pg_uuid_t *id)
{
	TupleTableSlot *slot;

	if (!IsolationIsSerializable())
		return;
	slot = table_find(table, id, GetTransactionSnapshot());
	if (slot)
		ExecDropSingleTupleTableSlot(slot);
}

/*
 * Look for an id.  The snapshot is that of a mere reader, or NULL for one who
 * decides: he also sees what others are writing, and holds the id's lock if he
 * is going to write.  Raises 40001.
 */
void
inbox_table_probe(InboxTable *table, const pg_uuid_t *id, Snapshot snapshot,
				  InboxProbe *probe)
{
	SnapshotData dirty;
	TupleTableSlot *slot;

	probe->result = PROBE_NONE;
	probe->own = false;
	InitDirtySnapshot(dirty);
	slot = table_find(table, id, snapshot ? snapshot : &dirty);
	if (slot && snapshot == NULL &&
		(TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax)))
	{
		probe->result = PROBE_BUSY;
		probe->busy_xid = TransactionIdIsValid(dirty.xmin) ?
			dirty.xmin : dirty.xmax;
	}
	else if (slot)
	{
		probe->result = PROBE_ROW;
		probe->tuple = ExecCopySlotHeapTuple(slot);
		probe->own = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(probe->tuple->t_data));
		if (snapshot == NULL && !probe->own)
			table_check_serialization(table, slot);
	}
	if (slot)
		ExecDropSingleTupleTableSlot(slot);
	if (snapshot == NULL && probe->result != PROBE_BUSY)
		table_register_read(table, id);
}

/* Give a tuple just written its index entry. */
static void
table_index_insert(InboxTable *table, const pg_uuid_t *id, ItemPointer tid)
{
	Relation	index = table_index(table);
	IndexInfo  *info = BuildIndexInfo(index);
	Datum		value = UUIDPGetDatum(id);
	bool		isnull = false;

	(void) index_insert(index, &value, &isnull, tid, table->heap,
						UNIQUE_CHECK_YES, false, info);
	pfree(info);
}

/*
 * Insert a row.  The caller holds the id's lock and has found none.  Returns
 * where it is.
 */
ItemPointerData
inbox_table_insert(InboxTable *table, HeapTuple tuple, const pg_uuid_t *id)
{
	table->written = true;
	heap_insert(table->heap, tuple, GetCurrentCommandId(true), 0, NULL);
	table_index_insert(table, id, &tuple->t_self);
	CommandCounterIncrement();
	return tuple->t_self;
}

/*
 * Replace a row.  The caller holds the id's lock, or this transaction wrote
 * the row, and has not committed it.  Then the lock is needed only for an
 * index entry, and is taken for that: a probe that comes by meets the old
 * version, whose xmin is in progress, or, after our commit, the new one at the
 * end of the same HOT chain.  Returns where it is.
 */
ItemPointerData
inbox_table_update(InboxTable *table, ItemPointer tid, HeapTuple tuple,
				   Identity *name, bool locked)
{
	table->written = true;
	if (compat_heap_update(table->heap, tid, tuple))
	{
		if (!locked)
			identity_lock(name);
		table_index_insert(table, identity_id(name), &tuple->t_self);
		if (!locked)
			identity_unlock(identity_id(name));
	}
	CommandCounterIncrement();
	return tuple->t_self;
}

/* Delete a row.  The caller holds the id's lock. */
void
inbox_table_delete(InboxTable *table, ItemPointer tid)
{
	table->written = true;
	simple_heap_delete(table->heap, tid);
	CommandCounterIncrement();
}

/* Close the table; it stays locked if it was written. */
void
inbox_table_close(InboxTable *table)
{
	if (table->index)
		index_close(table->index, table->lockmode);
	table_close(table->heap, table->written ? NoLock : table->lockmode);
}
