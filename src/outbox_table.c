/*-------------------------------------------------------------------------
 *
 * outbox_table.c
 *		The tables that events are kept in.
 *
 * Four plain tables are filled in turn, each for half of the retention: which
 * one is only a matter of the clock, and nothing depends on it.  Whoever looks
 * for an id looks in all that aren't empty; whoever reads by position merges
 * them; a table is emptied as a whole when what it holds tells that it may be
 * (outbox_rotate.c).
 *
 * Locking: positions are drawn under RowExclusiveLock on outbox_seq, held to
 * the end of the transaction (counter.c), by which readers know below which
 * number nothing can appear any more.  An id that could have been emitted
 * before is looked for, and written, under its lock; if another transaction
 * has it in hand, its end is waited for without that.  So two transactions that
 * emit the same ids in another order can wait for each other (40P01).  To write
 * them in the ids' order would prevent that, but logical decoding shows rows in
 * the order in which they were written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_collation.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "counter.h"
#include "fault.h"
#include "outbox.h"

/* what ids are locked as */
#define OUTBOX_LOCK_SCOPE	"outbox"

/* what writing needs, open */
typedef struct OutboxWriter
{
	int			slot;
	Relation	heap;
	Relation	pkey;
	Relation	ids;
	IndexInfo  *pkey_info;
	IndexInfo  *ids_info;
	CommandId	cid;
} OutboxWriter;

/* The table that is filled at this moment. */
int
outbox_slot(TimestampTz now, int64 retention)
{
	return (int) ((now / (retention / 2)) & (OUTBOX_SLOTS - 1));
}

/*
 * Open one of the tables, and make sure that it is what we take it for.
 * Raises 55000.
 */
Relation
outbox_open(int slot, LOCKMODE mode)
{
	static uint64 checked[OUTBOX_SLOTS] = {0};
	Relation	rel = table_open(catalog_relation(CATALOG_OUTBOX + slot), mode);
	uint64		generation = catalog_generation(CATALOG_OUTBOX + slot);

	if (unlikely(checked[slot] != generation))
	{
		catalog_require_columns(rel, OUTBOX_COLUMNS);
		catalog_require_outbox(rel, slot);
		checked[slot] = generation;
	}
	return rel;
}

/* Open what writing to a table needs. */
static void
outbox_writer_open(OutboxWriter *writer, int slot)
{
	writer->slot = slot;
	writer->heap = outbox_open(slot, RowExclusiveLock);
	writer->pkey = index_open(catalog_relation(CATALOG_OUTBOX_PKEY + slot),
							  RowExclusiveLock);
	writer->ids = index_open(catalog_relation(CATALOG_OUTBOX_ID + slot),
							 RowExclusiveLock);
	writer->pkey_info = BuildIndexInfo(writer->pkey);
	writer->ids_info = BuildIndexInfo(writer->ids);
	writer->cid = GetCurrentCommandId(true);
}

/* Close it; the locks are kept. */
static void
outbox_writer_close(OutboxWriter *writer)
{
	index_close(writer->ids, NoLock);
	index_close(writer->pkey, NoLock);
	table_close(writer->heap, NoLock);
}

/*
 * Look for an id by an index.  Returns whether it is there; *busy is the
 * transaction that has put it there and hasn't ended, if it isn't ours.
 */
static bool
outbox_probe_index(Relation heap, Relation index, Datum id,
				   TransactionId *busy)
{
	IndexScanDesc scan;
	ScanKeyData key;
	SnapshotData snapshot;
	TupleTableSlot *tuple = table_slot_create(heap, NULL);
	bool		found;

	InitDirtySnapshot(snapshot);
	ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, id);
	scan = compat_index_beginscan(heap, index, &snapshot);
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, tuple);
	*busy = found ? snapshot.xmin : InvalidTransactionId;
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(tuple);
	return found;
}

/* Likewise in one of the tables. */
static bool
outbox_probe_slot(int slot, Datum id, TransactionId *busy)
{
	Relation	heap = outbox_open(slot, AccessShareLock);
	bool		found = false;

	if (RelationGetNumberOfBlocks(heap) > 0)
	{
		Relation	index = index_open(catalog_relation(CATALOG_OUTBOX_ID +
														slot),
									   AccessShareLock);

		found = outbox_probe_index(heap, index, id, busy);
		index_close(index, AccessShareLock);
	}
	table_close(heap, AccessShareLock);
	return found;
}

/* Likewise in all of them, the one to be written first. */
static bool
outbox_probe(const OutboxWriter *writer, const OutboxEvent *event,
			 TransactionId *busy)
{
	Datum		id = PointerGetDatum(cstring_to_text_with_len(event->id,
															  event->id_len));

	if (outbox_probe_index(writer->heap, writer->ids, id, busy))
		return true;
	for (int i = 1; i < OUTBOX_SLOTS; i++)
	{
		if (outbox_probe_slot((writer->slot + i) % OUTBOX_SLOTS, id, busy))
			return true;
	}
	return false;
}

/* Insert an event. */
static void
outbox_insert(OutboxWriter *writer, const OutboxEvent *event)
{
	HeapTuple	tuple = event->tuple;
	OutboxHead *head = (OutboxHead *) GETSTRUCT(tuple);
	bool		isnull = false;
	Datum		value;

	heap_insert(writer->heap, tuple, writer->cid, 0, NULL);
	value = Int64GetDatum(head->position);
	(void) index_insert(writer->pkey, &value, &isnull, &tuple->t_self,
						writer->heap, UNIQUE_CHECK_YES, false,
						writer->pkey_info);
	value = PointerGetDatum(cstring_to_text_with_len(event->id,
													 event->id_len));
	(void) index_insert(writer->ids, &value, &isnull, &tuple->t_self,
						writer->heap, UNIQUE_CHECK_NO, false,
						writer->ids_info);
	pfree(DatumGetPointer(value));
}

/*
 * Insert an event unless its id is there already.  Waits for whoever is about
 * to commit it.
 */
static void
outbox_insert_once(OutboxWriter *writer, const OutboxEvent *event)
{
	Identity	identity = {
		.scope = OUTBOX_LOCK_SCOPE,
		.scope_len = strlen(OUTBOX_LOCK_SCOPE),
		.principal = "",
		.key = event->id,
		.key_len = event->id_len
	};

	for (;;)
	{
		TransactionId busy;

		identity_lock(&identity);
		if (!outbox_probe(writer, event, &busy))
			break;
		identity_unlock(&identity.id);
		if (!TransactionIdIsValid(busy))
			return;
		XactLockTableWait(busy, NULL, NULL, XLTW_None);
	}
	FAULT_POINT("outbox.before_insert");
	outbox_insert(writer, event);
	identity_unlock(&identity.id);
}

/*
 * Write n events, in this order, in this transaction: their positions are drawn
 * now.  Those whose ids are known already are left out.  Raises 55000 if the
 * table was tampered with, 40P01, 2200H.
 */
void
outbox_write(OutboxEvent *events, int n)
{
	OutboxWriter writer;
	OutboxPolicy policy;
	TimestampTz now = clock_now();
	int64		first;
	bool		toasts = false;

	outbox_policy_get(NULL, &policy);
	outbox_writer_open(&writer, outbox_slot(now, policy.retention));
	FAULT_POINT("outbox.before_position");
	first = counter_draw(catalog_relation(CATALOG_OUTBOX_SEQ), n);
	FAULT_POINT("outbox.after_position");
	for (int i = 0; i < n; i++)
	{
		OutboxHead *head = (OutboxHead *) GETSTRUCT(events[i].tuple);

		head->position = first + i;
		head->emitted_at = now;
		toasts |= events[i].tuple->t_len > TOAST_TUPLE_THRESHOLD;
	}
	/* what is toasted needs one */
	if (toasts)
		PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < n; i++)
	{
		if (events[i].is_new)
			outbox_insert(&writer, &events[i]);
		else
			outbox_insert_once(&writer, &events[i]);
	}
	if (toasts)
		PopActiveSnapshot();
	outbox_writer_close(&writer);
	CommandCounterIncrement();
	FAULT_POINT("outbox.after_write");
}

/* Fetch the next row of one table into its slot, if there is one. */
static void
outbox_scan_advance(OutboxScan *scan, int i)
{
	bool		isnull;

	if (index_getnext_slot(scan->scan[i], ForwardScanDirection, scan->slot[i]))
		scan->position[i] = DatumGetInt64(slot_getattr(scan->slot[i],
													   OUTBOX_POSITION,
													   &isnull));
	else
		scan->position[i] = PG_INT64_MAX;
}

/*
 * Begin to read the events after one position up to another, in their order,
 * as the snapshot, which the caller has registered, sees them.
 */
void
outbox_scan(OutboxScan *scan, int64 after, int64 upto, Snapshot snapshot)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(upto));
	scan->n = 0;
	scan->last = -1;
	for (int slot = 0; slot < OUTBOX_SLOTS; slot++)
	{
		Relation	heap = outbox_open(slot, AccessShareLock);
		int			i = scan->n;

		if (RelationGetNumberOfBlocks(heap) == 0)
		{
			table_close(heap, AccessShareLock);
			continue;
		}
		scan->heap[i] = heap;
		scan->index[i] = index_open(catalog_relation(CATALOG_OUTBOX_PKEY +
													 slot), AccessShareLock);
		scan->slot[i] = table_slot_create(heap, NULL);
		scan->scan[i] = compat_index_beginscan_keys(heap, scan->index[i],
													snapshot, lengthof(keys));
		index_rescan(scan->scan[i], keys, lengthof(keys), NULL, 0);
		outbox_scan_advance(scan, i);
		scan->n++;
	}
}

/* The next event, which lives until the next call; NULL: there is none. */
TupleTableSlot *
outbox_scan_next(OutboxScan *scan)
{
	int			next = -1;

	if (scan->last >= 0)
		outbox_scan_advance(scan, scan->last);
	for (int i = 0; i < scan->n; i++)
	{
		if (scan->position[i] != PG_INT64_MAX &&
			(next < 0 || scan->position[i] < scan->position[next]))
			next = i;
	}
	scan->last = next;
	return next < 0 ? NULL : scan->slot[next];
}

/* End a scan; gives the tables back, so that they may be emptied. */
void
outbox_scan_end(OutboxScan *scan)
{
	for (int i = 0; i < scan->n; i++)
	{
		index_endscan(scan->scan[i]);
		ExecDropSingleTupleTableSlot(scan->slot[i]);
		index_close(scan->index[i], AccessShareLock);
		table_close(scan->heap[i], AccessShareLock);
	}
}
