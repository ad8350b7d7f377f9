/*-------------------------------------------------------------------------
 *
 * maintain.c
 *		Freeing the space of what has expired.
 *
 * Expiry itself needs nobody: expires_at decides when a key is read.  Two
 * duties free space, and both may come late, be interrupted, or run twice:
 *
 * rotate	A segment whose epoch is over is truncated whole, after the keys have
 *			left it that don't expire, because of their sagas.  The lock is only
 *			tried for, never queued for, so no claim ever waits behind it.
 * clean	A segment that wasn't truncated in time holds leftovers among the
 *			rows of its new epoch; key_permanent can hold rows that a finish
 *			gave a shorter life.  Expired rows are deleted there one by one,
 *			some thousand pages a call, each under its key's lock, and skipped
 *			if anybody is using them.
 *
 * segment_state remembers for which epoch a segment was emptied or cleaned,
 * and how far a cleaning has come.  It is only written when that changes.
 *
 * Both are duties (duty.c) with one step per segment: the worker does them if
 * the server preloads the library, maintain() whenever somebody calls it.
 *
 * A step looks at the clock and at the table's size first, and mostly that is
 * all.  No lock is waited for while another is held, but for the short one on
 * segment_state, which is asked for before any other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "duty.h"
#include "errors.h"
#include "fault.h"
#include "guc.h"
#include "keyrow.h"
#include "maintain.h"
#include "ring.h"
#include "saga.h"
#include "txn.h"

COMPAT_FUNCTION_INFO(idempotency_maintain);

/* what segment_state says of a segment */
typedef struct SegmentState
{
	bool		known;
	int64		epoch;			/* emptied or cleaned for this epoch */
	int64		next_block;		/* where the next cleaning goes on */
} SegmentState;

/* columns of segment_state */
#define STATE_NAME			1
#define STATE_EPOCH			2
#define STATE_NEXT_BLOCK	3

/* OID of segment_state. */
static Oid
maintain_state_table(void)
{
	Oid			schema = get_namespace_oid(IDEMPOTENCY_SCHEMA, false);
	Oid			relid = get_relname_relid("segment_state", schema);

	if (!OidIsValid(relid))
		elog(ERROR, "segment_state is missing");
	return relid;
}

/*
 * Read what is remembered of a segment.  Directly, since this is done in each
 * round for each segment that isn't empty.
 */
static SegmentState
maintain_read_state(Segment segment)
{
	Relation	rel = table_open(maintain_state_table(), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	SegmentState state = {0};
	HeapTuple	tuple;

	while (!state.known && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		char	   *name = TextDatumGetCString(heap_getattr(tuple, STATE_NAME,
															desc, &isnull));

		state.known = strcmp(name, segment_name(segment)) == 0;
		pfree(name);
		if (!state.known)
			continue;
		state.epoch = DatumGetInt64(heap_getattr(tuple, STATE_EPOCH, desc,
												 &isnull));
		state.next_block = DatumGetInt64(heap_getattr(tuple, STATE_NEXT_BLOCK,
													  desc, &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return state;
}

/* Was the segment emptied or cleaned for this epoch? */
static bool
maintain_is_clean(Segment segment, int64 epoch)
{
	SegmentState state = maintain_read_state(segment);

	return state.known && state.epoch >= epoch;
}

/* Remember a segment's new state. */
static void
maintain_write_state(Segment segment, int64 epoch, int64 next_block)
{
	Oid			types[] = {TEXTOID, INT8OID, INT8OID};
	Datum		values[] = {
		CStringGetTextDatum(segment_name(segment)),
		Int64GetDatum(epoch),
		Int64GetDatum(next_block)
	};

	duty_execute("INSERT INTO idempotency.segment_state AS s "
				 "(name, epoch, next_block) VALUES ($1, $2, $3) "
				 "ON CONFLICT (name) DO UPDATE "
				 "SET epoch = EXCLUDED.epoch, "
				 "next_block = EXCLUDED.next_block",
				 3, types, values, SPI_OK_INSERT);
}

/*
 * Open a segment's table with a lock that is only tried for.  Returns NULL if
 * the lock isn't to be had, which is reported, or the table was dropped.
 * Raises 55000 if the table can't be written directly.
 */
static Relation
maintain_open(Segment segment, LOCKMODE mode)
{
	Oid			relid = catalog_segment_table(segment);
	Relation	rel;

	if (!duty_lock(relid, mode))
	{
		duty_report(segment_name(segment), "busy", 0);
		return NULL;
	}
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		UnlockRelationOid(relid, mode);
	else
		catalog_require_plain(rel, segment);
	return rel;
}

/*
 * Bytes of a segment's table; 0 also if that can't be had now.  Raises 55000
 * if it can't be written directly.
 */
static int64
maintain_size(Segment segment)
{
	Relation	rel = maintain_open(segment, AccessShareLock);
	int64		bytes;

	if (rel == NULL)
		return 0;
	bytes = (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	relation_close(rel, AccessShareLock);
	return bytes;
}

/*
 * Get hold of what a change of the segment needs: segment_state, and the
 * segment's table in this mode.  Returns NULL if either isn't to be had.  Both
 * locks are kept until the transaction ends.
 */
static Relation
maintain_open_to_change(Segment segment, LOCKMODE mode)
{
	if (!duty_lock(maintain_state_table(), RowExclusiveLock))
	{
		duty_report(segment_name(segment), "busy", 0);
		return NULL;
	}
	return maintain_open(segment, mode);
}

/*
 * Duty: truncate a segment whose epoch is over.  The lock is held until the
 * transaction ends, as after any TRUNCATE.
 */
static void
maintain_rotate(int segment)
{
	int64		bytes;
	TimestampTz now;
	Relation	rel;
	char	   *command;

	if (!ring_may_truncate(segment, clock_now()))
		return;
	bytes = maintain_size(segment);
	if (bytes == 0)
		return;
	if (!saga_leave(segment))
	{
		duty_report(segment_name(segment), "busy", 0);
		return;
	}
	rel = maintain_open_to_change(segment, AccessExclusiveLock);
	if (rel == NULL)
		return;
	relation_close(rel, NoLock);
	now = clock_now();
	if (!ring_may_truncate(segment, now))
	{
		UnlockRelationOid(catalog_segment_table(segment),
						  AccessExclusiveLock);
		return;
	}
	FAULT_POINT("sweep.after_select");
	command = psprintf("TRUNCATE TABLE ONLY %s.%s", IDEMPOTENCY_SCHEMA,
					   segment_name(segment));
	duty_execute(command, 0, NULL, NULL, SPI_OK_UTILITY);
	maintain_write_state(segment,
						 ring_segment_epoch(segment, now) + RING_SLOTS, 0);
	duty_report(segment_name(segment), "truncated", bytes);
}

/*
 * Delete a row that expired before the given moment, unless somebody is using
 * its key or has changed it since the scan's snapshot.  Returns whether it was
 * deleted.
 */
static bool
maintain_delete(Relation rel, HeapTuple tuple, TimestampTz deletable)
{
	Identity	identity;
	KeyRow		row;
	bool		deleted;

	keyrow_deform(RelationGetDescr(rel), tuple, &row, &identity);
	if (!keyrow_is_expired(&row, deletable))
		return false;
	if (!identity_trylock(identity_id(&identity)))
		return false;
	deleted = compat_heap_delete_nowait(rel, &tuple->t_self,
										GetCurrentCommandId(true));
	identity_unlock(identity_id(&identity));
	return deleted;
}

/*
 * Delete the expired rows of some pages.  Returns the block to go on with, or
 * InvalidBlockNumber at the end.
 */
static BlockNumber
maintain_clean_pages(Relation rel, BlockNumber first, TimestampTz deletable,
					 int64 *deleted)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);
	BlockNumber n;
	Snapshot	snapshot;
	TableScanDesc scan;
	HeapTuple	tuple;

	if (first >= blocks)
		return InvalidBlockNumber;
	n = Min(blocks - first, (BlockNumber) guc_maintain_pages);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	heap_setscanlimits(scan, first, n);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (maintain_delete(rel, tuple, deletable))
		{
			(*deleted)++;
			FAULT_POINT("sweep.mid_batch");
		}
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	CommandCounterIncrement();
	return first + n < blocks ? first + n : InvalidBlockNumber;
}

/*
 * Duty: clean a segment in use of leftovers, unless it was emptied or cleaned
 * for its present epoch already.
 */
static void
maintain_clean(int segment)
{
	TimestampTz now = clock_now();
	int64		epoch = ring_segment_epoch(segment, now);
	int64		deleted = 0;
	SegmentState state;
	Relation	rel;
	BlockNumber next;

	if (epoch < ring_epoch(ring_of(segment), now) ||
		maintain_size(segment) == 0 || maintain_is_clean(segment, epoch))
		return;
	/* conflicts with itself, so that one session cleans, but with no claim */
	rel = maintain_open_to_change(segment, ShareUpdateExclusiveLock);
	if (rel == NULL)
		return;
	state = maintain_read_state(segment);
	next = maintain_clean_pages(rel, (BlockNumber) state.next_block,
								ring_deletable(ring_of(segment), clock_now()),
								&deleted);
	relation_close(rel, NoLock);
	if (next == InvalidBlockNumber)
		maintain_write_state(segment, epoch, 0);
	else
		maintain_write_state(segment, state.known ? state.epoch : epoch - 1,
							 next);
	if (deleted > 0 || next != InvalidBlockNumber)
		duty_report(segment_name(segment),
					next == InvalidBlockNumber ? "done" : "continues",
					deleted);
}

/* Register the two duties; called once from _PG_init. */
void
maintain_init(void)
{
	duty_register("rotate", SEGMENT_COUNT, maintain_rotate);
	duty_register("clean", SEGMENT_COUNT, maintain_clean);
}

/*
 * maintain() returns table (duty text, object text, result text,
 *							 amount bigint)
 */
Datum
idempotency_maintain(PG_FUNCTION_ARGS)
{
	catalog_check_writable("maintain()");
	if (txn_has_claims())
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("maintain() cannot run in a transaction that has claimed a key"),
				 errhint("Call it in a transaction of its own.")));
	InitMaterializedSRF(fcinfo, 0);
	for (int n = 0; n < duty_count(); n++)
	{
		for (int step = 0; step < duty_get(n)->steps; step++)
			duty_run(duty_get(n), step,
					 (ReturnSetInfo *) fcinfo->resultinfo);
	}
	return (Datum) 0;
}
