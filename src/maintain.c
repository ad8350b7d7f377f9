/*-------------------------------------------------------------------------
 *
 * maintain.c
 *		Freeing the space of what has expired.
 *
 * Expiry itself needs nobody: expires_at decides when a key is read.  Two
 * duties free space, and both may come late, be interrupted, or run twice:
 *
 * rotate	A segment whose epoch is over is truncated whole.  The lock is only
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
 * Everything runs as the owner of the tables in a security-restricted
 * operation, and evaluates no expression of anybody.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "guc.h"
#include "keyrow.h"
#include "ring.h"
#include "txn.h"

#define TRUNCATE_POLL_MS 5

COMPAT_FUNCTION_INFO(idempotency_maintain);

/* what segment_state says of a segment */
typedef struct SegmentState
{
	bool		known;
	int64		epoch;			/* emptied or cleaned for this epoch */
	int64		next_block;		/* where the next cleaning goes on */
} SegmentState;

/* columns of maintain(): duty, object, result, amount */
#define MAINTAIN_COLUMNS 4

/* Report what was done. */
static void
maintain_report(ReturnSetInfo *result, const char *duty, Segment segment,
				const char *what, int64 amount)
{
	Datum		values[MAINTAIN_COLUMNS];
	bool		isnull[MAINTAIN_COLUMNS] = {0};

	values[0] = CStringGetTextDatum(duty);
	values[1] = CStringGetTextDatum(segment_name(segment));
	values[2] = CStringGetTextDatum(what);
	values[3] = Int64GetDatum(amount);
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/* Execute one of our own statements; raises what it raises. */
static void
maintain_execute(const char *command, int nargs, Oid *types, Datum *values,
				 int expected)
{
	int			code = SPI_execute_with_args(command, nargs, types, values,
											 NULL, false, 0);

	if (code != expected)
		elog(ERROR, "maintenance statement failed: %s",
			 SPI_result_code_string(code));
}

/* Read what is remembered of a segment. */
static SegmentState
maintain_read_state(Segment segment)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(segment_name(segment))};
	SegmentState state = {0};

	maintain_execute("SELECT s.epoch, s.next_block "
					 "FROM idempotency.segment_state AS s "
					 "WHERE s.name OPERATOR(pg_catalog.=) $1",
					 1, types, values, SPI_OK_SELECT);
	if (SPI_processed > 0)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		state.known = true;
		state.epoch = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		state.next_block = DatumGetInt64(SPI_getbinval(tuple, desc, 2,
													   &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return state;
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

	maintain_execute("INSERT INTO idempotency.segment_state AS s "
					 "(name, epoch, next_block) VALUES ($1, $2, $3) "
					 "ON CONFLICT (name) DO UPDATE "
					 "SET epoch = EXCLUDED.epoch, "
					 "next_block = EXCLUDED.next_block",
					 3, types, values, SPI_OK_INSERT);
}

/*
 * Try for a lock on the segment's table, without ever queuing, for as long as
 * idempotency.maintain_lock_timeout says.
 */
static bool
maintain_lock(Oid relid, LOCKMODE mode)
{
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									guc_maintain_lock_timeout);

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConditionalLockRelationOid(relid, mode))
			return true;
		if (GetCurrentTimestamp() >= deadline)
			return false;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TRUNCATE_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * Truncate a segment whose epoch is over.  The lock is held until the
 * transaction ends, as after any TRUNCATE.
 */
static void
maintain_rotate(Segment segment, ReturnSetInfo *result)
{
	Oid			relid = catalog_segment_table(segment);
	Relation	rel = table_open(relid, AccessShareLock);
	int64		bytes = (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	TimestampTz now;
	char	   *command;

	catalog_require_plain(rel, segment);
	table_close(rel, AccessShareLock);
	if (bytes == 0 || !ring_may_truncate(segment, clock_now()))
		return;
	if (!maintain_lock(relid, AccessExclusiveLock))
	{
		maintain_report(result, "rotate", segment, "busy", 0);
		return;
	}
	now = clock_now();
	if (!ring_may_truncate(segment, now))
	{
		UnlockRelationOid(relid, AccessExclusiveLock);
		return;
	}
	FAULT_POINT("sweep.after_select");
	command = psprintf("TRUNCATE TABLE ONLY %s.%s", IDEMPOTENCY_SCHEMA,
					   segment_name(segment));
	maintain_execute(command, 0, NULL, NULL, SPI_OK_UTILITY);
	maintain_write_state(segment,
						 ring_segment_epoch(segment, now) + RING_SLOTS, 0);
	maintain_report(result, "rotate", segment, "truncated", bytes);
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
	if (row.expires_at > deletable)
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
 * Clean a segment in use of leftovers, unless it was emptied or cleaned for
 * its present epoch already.
 */
static void
maintain_clean(Segment segment, int64 epoch, ReturnSetInfo *result)
{
	Oid			relid = catalog_segment_table(segment);
	SegmentState state = maintain_read_state(segment);
	Relation	rel;
	BlockNumber next;
	int64		deleted = 0;

	if (state.known && state.epoch >= epoch)
		return;
	/* conflicts with itself, so that one session cleans, but with no claim */
	if (!maintain_lock(relid, ShareUpdateExclusiveLock))
	{
		maintain_report(result, "clean", segment, "busy", 0);
		return;
	}
	rel = table_open(relid, RowExclusiveLock);
	catalog_require_plain(rel, segment);
	if (state.next_block == 0 && RelationGetNumberOfBlocks(rel) == 0)
		next = MaxBlockNumber;	/* nothing to do, nothing to remember */
	else
		next = maintain_clean_pages(rel, (BlockNumber) state.next_block,
									ring_deletable(ring_of(segment),
												   clock_now()), &deleted);
	table_close(rel, NoLock);
	if (next == MaxBlockNumber)
		return;
	if (next == InvalidBlockNumber)
		maintain_write_state(segment, epoch, 0);
	else
		maintain_write_state(segment, state.known ? state.epoch : epoch - 1,
							 next);
	if (deleted > 0 || next != InvalidBlockNumber)
		maintain_report(result, "clean", segment,
						next == InvalidBlockNumber ? "done" : "continues",
						deleted);
}

/* One round over all segments. */
static void
maintain_round(ReturnSetInfo *result)
{
	for (Segment segment = 0; segment < SEGMENT_COUNT; segment++)
	{
		TimestampTz now = clock_now();
		int64		epoch = ring_segment_epoch(segment, now);

		if (epoch < ring_epoch(ring_of(segment), now))
			maintain_rotate(segment, result);
		else
			maintain_clean(segment, epoch, result);
	}
}

/*
 * maintain() returns table (duty text, object text, result text,
 *							 amount bigint)
 */
Datum
idempotency_maintain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			user;
	int			context;
	int			nesting;

	catalog_check_writable("maintain()");
	if (txn_has_claims())
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("maintain() cannot run in a transaction that has claimed a key"),
				 errhint("Call it in a transaction of its own.")));
	InitMaterializedSRF(fcinfo, 0);

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(catalog_owner(),
						   context | SECURITY_RESTRICTED_OPERATION);
	nesting = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	maintain_round(result);
	SPI_finish();
	AtEOXact_GUC(false, nesting);
	SetUserIdAndSecContext(user, context);
	return (Datum) 0;
}
