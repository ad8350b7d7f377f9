/*-------------------------------------------------------------------------
 *
 * outbox_rotate.c
 *		Freeing the space of events that everybody has seen.
 *
 * A duty, of one step per table.  A table is truncated whole when it isn't the
 * one being filled, its last event is older than the retention, and every relay
 * is past it.  A relay that isn't, and has let events grow older than max_age,
 * loses them: that is remembered in its row, so that its next reading is an
 * error rather than a gap that nobody sees.
 *
 * Locking: AccessExclusiveLock on the table, and the locks of the relays that
 * lose something, all only tried for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "duty.h"
#include "fault.h"
#include "outbox.h"

/* what a table holds, as far as that matters here */
typedef struct OutboxContents
{
	int64		bytes;
	int64		last;			/* position; 0: it holds nothing */
	TimestampTz last_at;
} OutboxContents;

/* The name of one of the tables, palloc'd. */
static char *
rotate_name(int slot)
{
	return psprintf("outbox_%d", slot);
}

/* Look at what a table holds; the caller holds a lock on it. */
static OutboxContents
rotate_look(int slot)
{
	Relation	heap = outbox_open(slot, NoLock);
	OutboxContents contents = {0};
	Snapshot	snapshot;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *tuple;
	bool		isnull;

	contents.bytes = (int64) RelationGetNumberOfBlocks(heap) * BLCKSZ;
	if (contents.bytes == 0)
	{
		table_close(heap, NoLock);
		return contents;
	}
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	index = index_open(catalog_relation(CATALOG_OUTBOX_PKEY + slot),
					   AccessShareLock);
	tuple = table_slot_create(heap, NULL);
	scan = compat_index_beginscan_keys(heap, index, snapshot, 0);
	index_rescan(scan, NULL, 0, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, tuple))
	{
		contents.last = DatumGetInt64(slot_getattr(tuple, OUTBOX_POSITION,
												   &isnull));
		contents.last_at = DatumGetTimestampTz(slot_getattr(tuple,
															OUTBOX_EMITTED_AT,
															&isnull));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(tuple);
	index_close(index, AccessShareLock);
	UnregisterSnapshot(snapshot);
	table_close(heap, NoLock);
	return contents;
}

/* Is every relay past this position? */
static bool
rotate_is_read(int64 position)
{
	ListCell   *lc;

	foreach(lc, outbox_relays())
	{
		OutboxRelay *row = lfirst(lc);

		if (row->position < position)
			return false;
	}
	return true;
}

/* May the table be emptied, by its contents? */
static bool
rotate_is_due(const OutboxContents *contents, TimestampTz now,
			  const OutboxPolicy *policy)
{
	return contents->bytes > 0 &&
		(contents->last == 0 ||
		 contents->last_at < now - policy->max_age ||
		 (contents->last_at < now - policy->retention &&
		  rotate_is_read(contents->last)));
}

/* Does the table hold an event that the relay hasn't read? */
static bool
rotate_holds_unread(int slot, const OutboxRelay *row)
{
	char	   *command =
		psprintf("SELECT FROM ONLY %s.outbox_%d AS o WHERE o.position > $1 "
				 "AND ($2 = '*' OR o.aggregatetype = $2) LIMIT 1",
				 IDEMPOTENCY_SCHEMA, slot);
	Oid			types[] = {INT8OID, TEXTOID};
	Datum		values[] = {
		Int64GetDatum(row->position),
		PointerGetDatum(row->stream)
	};
	bool		found;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(command, lengthof(types), types, values, NULL,
							  true, 1) != SPI_OK_SELECT)
		elog(ERROR, "maintenance statement failed");
	found = SPI_processed > 0;
	SPI_finish();
	return found;
}

/* Let one relay know that it loses the events of a table. */
static void
rotate_lose(OutboxRelay *row, int slot, int64 upto)
{
	if (rotate_holds_unread(slot, row))
	{
		row->lost_upto = Max(row->lost_upto, upto);
		decision_general(ENTRY_CONFIGURED, NULL, 0,
						 psprintf("{\"relay\": %s, \"stream\": %s, \"position\": " INT64_FORMAT ", \"lost_upto\": " INT64_FORMAT "}",
								  decision_json(row->relay),
								  decision_json(row->stream), row->position,
								  row->lost_upto));
		outbox_relay_put(row);
	}
}

/*
 * Let the relays know that lose the events of a table.  Returns false if one of
 * them is busy.
 */
static bool
rotate_tell(int slot, int64 upto)
{
	ListCell   *lc;
	List	   *relays = outbox_relays();

	foreach(lc, relays)
	{
		OutboxRelay *row = lfirst(lc);

		if (row->position < upto &&
			!outbox_relay_lock(row->relay, row->stream, false))
			return false;
	}
	foreach(lc, outbox_relays())
	{
		OutboxRelay *row = lfirst(lc);

		if (row->position >= upto)
			continue;
		/* one that was made meanwhile begins with what is left */
		if (outbox_relay_lock(row->relay, row->stream, false))
			rotate_lose(row, slot, upto);
	}
	return true;
}

/* Duty: empty one table, if everybody has seen what it holds. */
static void
rotate_step(int slot)
{
	Oid			relid = catalog_relation(CATALOG_OUTBOX + slot);
	OutboxPolicy policy;
	OutboxContents contents;

	outbox_policy_get(NULL, &policy);
	if (outbox_slot(clock_now(), policy.retention) == slot)
		return;
	if (!duty_lock(relid, AccessShareLock))
		return;
	contents = rotate_look(slot);
	UnlockRelationOid(relid, AccessShareLock);
	if (!rotate_is_due(&contents, clock_now(), &policy))
		return;
	if (!duty_lock(relid, AccessExclusiveLock))
	{
		duty_report(rotate_name(slot), "busy", 0);
		return;
	}
	contents = rotate_look(slot);
	if (!rotate_is_due(&contents, clock_now(), &policy))
	{
		UnlockRelationOid(relid, AccessExclusiveLock);
		return;
	}
	if (contents.last > 0 && !rotate_tell(slot, contents.last))
	{
		UnlockRelationOid(relid, AccessExclusiveLock);
		duty_report(rotate_name(slot), "busy", 0);
		return;
	}
	FAULT_POINT("outbox.before_truncate");
	duty_execute(psprintf("TRUNCATE TABLE ONLY %s.%s", IDEMPOTENCY_SCHEMA,
						  rotate_name(slot)), 0, NULL, NULL, SPI_OK_UTILITY);
	duty_report(rotate_name(slot), "truncated", contents.bytes);
}

/* Register the duty; called once from outbox_init(). */
void
outbox_rotate_init(void)
{
	duty_register("outbox", OUTBOX_SLOTS, rotate_step);
}
