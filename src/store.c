/*-------------------------------------------------------------------------
 *
 * store.c
 *		Finding and writing key rows in the rings.
 *
 * Rows are read and written through the heap and index access methods, as the
 * catalogs are, so that nobody's trigger, rule, default or search_path takes
 * part, and so that a probe can see what another transaction is writing.
 *
 * Locking rule: every write, and every probe that a write depends on, happens
 * under the key's lock (identity.c), in tables that store_open.c has locked;
 * store_rewrite() says why it is an exception.
 * That makes a probe exact: without it, a scan that has read the index page
 * could miss a row moved meanwhile.  It also means that "somebody is changing
 * this row" is the same as "its xmin or xmax is in progress".
 *
 * Each table has two indexes: the primary key on id, and one on scope of those
 * rows only whose state is KEY_RUNNING.  State and scope, being in the second,
 * keep an update that changes them from being HOT; so every version in a HOT
 * chain is of one state, and belongs, or doesn't, into both indexes as a whole.
 *
 * Invariant: an identity has at most one row that isn't expired.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "store.h"
#include "trace.h"

/* The opened segment; it is an internal error if it isn't opened. */
static StoreSegment *
store_segment(Store *store, Segment segment)
{
	for (int i = 0; i < store->nsegments; i++)
	{
		if (store->segments[i].segment == segment)
			return &store->segments[i];
	}
	elog(ERROR, "segment %s is not open", segment_name(segment));
}

/* Open the segment's index if it isn't. */
static Relation
store_index(Store *store, StoreSegment *seg)
{
	if (seg->index == NULL)
		seg->index = index_open(catalog_segment_index(seg->segment),
								store->lockmode);
	return seg->index;
}

/* Position the segment's scan on an id, starting it if need be. */
static void
store_rescan(Store *store, StoreSegment *seg, const pg_uuid_t *id)
{
	ScanKeyData key;

	if (seg->scan == NULL)
	{
		seg->scan = compat_index_beginscan(seg->heap, store_index(store, seg),
										   store->snapshot);
		seg->slot = table_slot_create(seg->heap, NULL);
	}
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(id));
	index_rescan(seg->scan, &key, 1, NULL, 0);
}

/*
 * At REPEATABLE READ and above, a row that was committed after the snapshot
 * can't be answered with, as the rest of the transaction can't see its
 * effect.  Raises 40001, as INSERT ... ON CONFLICT does.
 */
static void
store_check_serialization(StoreSegment *seg)
{
	if (!IsolationUsesXactSnapshot())
		return;
	if (!table_tuple_satisfies_snapshot(seg->heap, seg->slot,
										GetTransactionSnapshot()))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update"),
				 errdetail("The idempotency key was settled after this transaction's snapshot was taken."),
				 errhint("Retry the transaction.")));
}

/*
 * Take the row that the scan stands on as the probe's, unless the probe has
 * found a later one.  The tuple is copied.
 */
static void
store_take(Store *store, StoreSegment *seg, Identity *identity, Probe *probe)
{
	HeapTuple	tuple = ExecCopySlotHeapTuple(seg->slot);
	Identity	found;
	KeyRow		row;

	keyrow_deform(RelationGetDescr(seg->heap), tuple, &row, &found);
	if (!identity_equal(&found, identity))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("two idempotency keys have the same id"),
				 errdetail("The row of another scope, principal or key was found in table \"%s\".",
						   segment_name(seg->segment)),
				 errhint("Use another key for this operation, and report this.")));
	if (probe->result == PROBE_ROW && probe->row.expires_at >= row.expires_at)
		return;

	probe->result = PROBE_ROW;
	probe->place.segment = seg->segment;
	probe->place.tid = tuple->t_self;
	probe->row = row;
	probe->found = found;
	probe->own = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
}

/* Look for the identity in one segment; see store_probe(). */
static void
store_probe_segment(Store *store, StoreSegment *seg, Identity *identity,
					Probe *probe)
{
	store_rescan(store, seg, identity_id(identity));
	while (probe->result != PROBE_BUSY &&
		   index_getnext_slot(seg->scan, ForwardScanDirection, seg->slot))
	{
		if (store->snapshot != &store->dirty)
			store_take(store, seg, identity, probe);
		else if (TransactionIdIsValid(store->dirty.xmin) ||
				 TransactionIdIsValid(store->dirty.xmax))
		{
			probe->result = PROBE_BUSY;
			probe->busy_xid = TransactionIdIsValid(store->dirty.xmin) ?
				store->dirty.xmin : store->dirty.xmax;
		}
		else
		{
			store_take(store, seg, identity, probe);
			if (!probe->own)
				store_check_serialization(seg);
		}
	}
	ExecClearTuple(seg->slot);
}

/*
 * Read the key once more as a serializable reader does, so that the read is
 * part of what PostgreSQL watches for read/write conflicts.  A dirty snapshot
 * is invisible to that.
 */
static void
store_register_read(Store *store, Identity *identity)
{
	Snapshot	snapshot = GetTransactionSnapshot();
	ScanKeyData key;

	for (int i = 0; i < store->nsegments; i++)
	{
		StoreSegment *seg = &store->segments[i];
		IndexScanDesc scan = compat_index_beginscan(seg->heap,
													store_index(store, seg),
													snapshot);
		TupleTableSlot *slot = table_slot_create(seg->heap, NULL);

		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ,
					UUIDPGetDatum(identity_id(identity)));
		index_rescan(scan, &key, 1, NULL, 0);
		while (index_getnext_slot(scan, ForwardScanDirection, slot))
			;
		index_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
	}
}

/*
 * Look for an identity in the opened segments, after store_ready().  For an
 * answer that a write depends on, the caller holds the key's lock.  What is
 * found may be expired; of several rows it is the one that expires last.
 * Raises 40001 (see above), and XX000 if another identity has the same id.
 */
void
store_probe(Store *store, Identity *identity, TimestampTz now, Probe *probe)
{
	int64		step = trace_begin();

	probe->result = PROBE_NONE;
	probe->own = false;
	for (int i = 0; i < store->nsegments && probe->result != PROBE_BUSY; i++)
	{
		StoreSegment *seg = &store->segments[i];

		if (!store_is_empty(store, seg))
			store_probe_segment(store, seg, identity, probe);
		/* by the invariant, there is no other that counts */
		if (probe->result == PROBE_ROW && probe->row.expires_at > now)
			break;
	}
	if (IsolationIsSerializable() && store->snapshot == &store->dirty)
		store_register_read(store, identity);
	trace_end(TRACE_PROBE, step);
}

/*
 * Read the row at a place that this transaction remembers.  The row's texts
 * point into a palloc'd copy.
 */
void
store_fetch(Store *store, const KeyPlace *place, KeyRow *row)
{
	StoreSegment *seg = store_segment(store, place->segment);
	Identity	identity;
	HeapTupleData tuple;
	Buffer		buffer;

	tuple.t_self = place->tid;
	if (!heap_fetch(seg->heap, SnapshotAny, &tuple, &buffer, false))
		elog(ERROR, "could not find the claimed row in table \"%s\"",
			 segment_name(place->segment));
	keyrow_deform(RelationGetDescr(seg->heap), heap_copytuple(&tuple), row,
				  &identity);
	ReleaseBuffer(buffer);
}

/*
 * Another row with the id of the tuple just written at tid is in the segment:
 * a leftover of an earlier turn of the ring, which nobody has cleaned up yet,
 * and which the caller's probe passed over for one that expires later.  Delete
 * it.  Anything else is against the invariant, and an internal error.
 */
static void
store_evict(Store *store, StoreSegment *seg, Identity *identity,
			ItemPointer tid)
{
	store_rescan(store, seg, identity_id(identity));
	while (index_getnext_slot(seg->scan, ForwardScanDirection, seg->slot))
	{
		ItemPointerData other = seg->slot->tts_tid;
		Probe		probe = {PROBE_NONE};

		if (ItemPointerEquals(&other, tid))
			continue;
		store_take(store, seg, identity, &probe);
		if (TransactionIdIsValid(store->dirty.xmin) ||
			TransactionIdIsValid(store->dirty.xmax) ||
			probe.row.expires_at > clock_now())
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("idempotency key is stored twice in table \"%s\"",
							segment_name(seg->segment))));
		simple_heap_delete(seg->heap, &other);
	}
	ExecClearTuple(seg->slot);
}

/* Enter a running row, at tid, into the index of those. */
static void
store_index_running(StoreSegment *seg, Identity *identity, ItemPointer tid)
{
	Relation	index = index_open(catalog_segment_running_index(seg->segment),
								   RowExclusiveLock);
	IndexInfo  *info = BuildIndexInfo(index);
	Datum		value = PointerGetDatum(cstring_to_text_with_len(identity->scope,
																 identity->scope_len));
	bool		isnull = false;

	(void) index_insert(index, &value, &isnull, tid, seg->heap,
						UNIQUE_CHECK_NO, false, info);
	index_close(index, NoLock);
}

/* Give a tuple just written its index entries. */
static void
store_index_insert(Store *store, StoreSegment *seg, Identity *identity,
				   const KeyRow *row, ItemPointer tid)
{
	Relation	index = store_index(store, seg);
	IndexInfo  *info = BuildIndexInfo(index);
	Datum		value = UUIDPGetDatum(identity_id(identity));
	bool		isnull = false;
	bool		unique;

	unique = index_insert(index, &value, &isnull, tid, seg->heap,
						  UNIQUE_CHECK_PARTIAL, false, info);
	pfree(info);
	if (unlikely(!unique))
		store_evict(store, seg, identity, tid);
	if (row->state == KEY_RUNNING)
		store_index_running(seg, identity, tid);
}

/*
 * Insert a row into an opened segment.  The caller holds the key's lock and
 * has found no row there.  Returns where it is.
 */
KeyPlace
store_insert(Store *store, Identity *identity, const KeyRow *row,
			 Segment segment)
{
	int64		step = trace_begin();
	StoreSegment *seg = store_segment(store, segment);
	HeapTuple	tuple = keyrow_form(RelationGetDescr(seg->heap), identity,
									row);
	KeyPlace	place;

	seg->written = true;
	heap_insert(seg->heap, tuple, GetCurrentCommandId(true), 0, NULL);
	store_index_insert(store, seg, identity, row, &tuple->t_self);
	place.segment = segment;
	place.tid = tuple->t_self;
	heap_freetuple(tuple);
	CommandCounterIncrement();
	trace_end(TRACE_INSERT, step);
	return place;
}

/*
 * Insert n rows into one opened segment at once.  The caller holds all the
 * keys' locks and has found no row.  Fills in where they are.
 */
void
store_insert_many(Store *store, Identity **identities, const KeyRow **rows,
				  int n, Segment segment, KeyPlace *places)
{
	int64		step = trace_begin();
	StoreSegment *seg = store_segment(store, segment);
	TupleDesc	desc = RelationGetDescr(seg->heap);
	TupleTableSlot **slots = palloc(n * sizeof(TupleTableSlot *));

	for (int i = 0; i < n; i++)
	{
		slots[i] = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
		ExecStoreHeapTuple(keyrow_form(desc, identities[i], rows[i]),
						   slots[i], true);
	}
	seg->written = true;
	heap_multi_insert(seg->heap, slots, n, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < n; i++)
	{
		store_index_insert(store, seg, identities[i], rows[i],
						   &slots[i]->tts_tid);
		places[i].segment = segment;
		places[i].tid = slots[i]->tts_tid;
		ExecDropSingleTupleTableSlot(slots[i]);
	}
	pfree(slots);
	CommandCounterIncrement();
	trace_end(TRACE_INSERT, step);
}

/*
 * Replace a row in its segment; locked says whether the caller holds the key's
 * lock, which an index entry needs.  Returns where it is.
 */
static KeyPlace
store_update(Store *store, Identity *identity, const KeyRow *row,
			 const KeyPlace *old, bool locked)
{
	int64		step = trace_begin();
	StoreSegment *seg = store_segment(store, old->segment);
	KeyPlace	place = *old;
	HeapTuple	tuple = keyrow_form(RelationGetDescr(seg->heap), identity,
									row);

	seg->written = true;
	if (compat_heap_update(seg->heap, &place.tid, tuple))
	{
		if (!locked)
			identity_lock(identity);
		store_index_insert(store, seg, identity, row, &tuple->t_self);
		if (!locked)
			identity_unlock(identity_id(identity));
	}
	place.tid = tuple->t_self;
	heap_freetuple(tuple);
	CommandCounterIncrement();
	trace_end(TRACE_UPDATE, step);
	return place;
}

/*
 * Replace a row, moving it if it belongs into another segment now.  The
 * caller holds the key's lock.  Returns where it is.
 */
KeyPlace
store_replace(Store *store, Identity *identity, const KeyRow *row,
			  Segment segment, const KeyPlace *old)
{
	KeyPlace	place;

	if (old->segment == segment)
		return store_update(store, identity, row, old, true);
	place = store_insert(store, identity, row, segment);
	store_delete(store, old);
	return place;
}

/*
 * Replace, in its segment, a row that this transaction wrote and has not
 * committed.  The key's lock is not needed while no index entry is made: a
 * probe that comes by meets the old version, whose xmin is in progress, or,
 * after our commit, the new one at the end of the same HOT chain.  If the new
 * version needs an entry of its own, the lock is taken for that: a probe that
 * has read the index before it meets the old version, still uncommitted, and
 * one that reads it later meets both.  Returns where it is.
 */
KeyPlace
store_rewrite(Store *store, Identity *identity, const KeyRow *row,
			  const KeyPlace *old)
{
	return store_update(store, identity, row, old, false);
}

/* Delete a row.  The caller holds the key's lock. */
void
store_delete(Store *store, const KeyPlace *place)
{
	int64		step = trace_begin();
	StoreSegment *seg = store_segment(store, place->segment);
	ItemPointerData tid = place->tid;

	seg->written = true;
	simple_heap_delete(seg->heap, &tid);
	CommandCounterIncrement();
	trace_end(TRACE_DELETE, step);
}

/* Show a segment's running rows of a scope to the visitor. */
static void
store_visit_segment(StoreSegment *seg, text *scope, Snapshot snapshot,
					StoreVisitor visit, void *arg)
{
	Relation	index = index_open(catalog_segment_running_index(seg->segment),
								   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(seg->heap, NULL);
	IndexScanDesc scan = compat_index_beginscan(seg->heap, index, snapshot);
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(scope));
	key.sk_collation = C_COLLATION_OID;
	index_rescan(scan, &key, 1, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		HeapTuple	tuple = ExecCopySlotHeapTuple(slot);
		Identity	identity;
		KeyRow		row;

		CHECK_FOR_INTERRUPTS();
		keyrow_deform(RelationGetDescr(seg->heap), tuple, &row, &identity);
		visit(&identity, &row,
			  TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)),
			  arg);
		heap_freetuple(tuple);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
}

/*
 * Show all running rows of a scope that the snapshot sees, expired or not, to
 * the visitor, in no order.  No key is locked: whoever wants to write
 * one looks again.
 */
void
store_visit_running(Store *store, const char *scope, int scope_len,
					Snapshot snapshot, StoreVisitor visit, void *arg)
{
	text	   *name = cstring_to_text_with_len(scope, scope_len);

	for (int i = 0; i < store->nsegments; i++)
		store_visit_segment(&store->segments[i], name, snapshot, visit, arg);
}

/*
 * A stored text as a plain one, or NULL.  Must be called while the row's
 * table is locked: afterwards it may be rotated away.
 */
text *
store_detoast(struct varlena *value)
{
	return value ? (text *) pg_detoast_datum(value) : NULL;
}
