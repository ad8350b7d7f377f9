/*-------------------------------------------------------------------------
 *
 * inbox_event.c
 *		The few events of which more must be known: those that are dead, and
 *		those that are to be processed once more.
 *
 * They are looked up when an event is not to be processed anyway, or may be
 * used up; mostly the table is empty, and then nobody looks.
 *
 * Locking: a row is read to be taken, and written, under the lock of its
 * event's id, taken last of all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "inbox.h"

/* attribute numbers, in the order of src/sql/inbox.sql */
enum
{
	EVENT_ID = 1,
	EVENT_NOTED_AT,
	EVENT_EPOCH,
	EVENT_SEQ,
	EVENT_SUBSEQ,
	EVENT_DELIVERIES,
	EVENT_STATE,
	EVENT_CONSUMER,
	EVENT_STREAM,
	EVENT_EVENT_ID,
	EVENT_COLUMNS = EVENT_EVENT_ID
};

/* Read a row; its text points into the tuple. */
static void
event_deform(TupleDesc desc, HeapTuple tuple, InboxEvent *event)
{
	Datum		values[EVENT_COLUMNS];
	bool		isnull[EVENT_COLUMNS];

	heap_deform_tuple(tuple, desc, values, isnull);
	event->state = DatumGetChar(values[EVENT_STATE - 1]);
	event->deliveries = DatumGetInt32(values[EVENT_DELIVERIES - 1]);
	event->noted_at = DatumGetTimestampTz(values[EVENT_NOTED_AT - 1]);
	event->has_epoch = !isnull[EVENT_EPOCH - 1];
	event->epoch = event->has_epoch ?
		DatumGetInt64(values[EVENT_EPOCH - 1]) : 0;
	event->has_seq = !isnull[EVENT_SEQ - 1];
	event->seq = event->has_seq ? DatumGetInt64(values[EVENT_SEQ - 1]) : 0;
	event->subseq = event->has_seq ?
		DatumGetInt64(values[EVENT_SUBSEQ - 1]) : 0;
	event->event_id = isnull[EVENT_EVENT_ID - 1] ? NULL :
		DatumGetTextPP(values[EVENT_EVENT_ID - 1]);
}

/* The tuple that says this of a call's event. */
static HeapTuple
event_form(TupleDesc desc, InboxCall *call, const InboxEvent *event)
{
	Datum		values[EVENT_COLUMNS];
	bool		isnull[EVENT_COLUMNS] = {0};
	const Identity *name = &call->name;

	values[EVENT_ID - 1] = UUIDPGetDatum(identity_id(&call->event));
	values[EVENT_NOTED_AT - 1] = TimestampTzGetDatum(event->noted_at);
	values[EVENT_EPOCH - 1] = Int64GetDatum(event->epoch);
	isnull[EVENT_EPOCH - 1] = !event->has_epoch;
	values[EVENT_SEQ - 1] = Int64GetDatum(event->seq);
	values[EVENT_SUBSEQ - 1] = Int64GetDatum(event->subseq);
	isnull[EVENT_SEQ - 1] = isnull[EVENT_SUBSEQ - 1] = !event->has_seq;
	values[EVENT_DELIVERIES - 1] = Int32GetDatum(event->deliveries);
	values[EVENT_STATE - 1] = CharGetDatum(event->state);
	values[EVENT_CONSUMER - 1] =
		PointerGetDatum(cstring_to_text_with_len(name->scope + INBOX_SCOPE_LEN,
												 name->scope_len - INBOX_SCOPE_LEN));
	values[EVENT_STREAM - 1] =
		PointerGetDatum(cstring_to_text_with_len(name->principal,
												 name->principal_len));
	values[EVENT_EVENT_ID - 1] = PointerGetDatum(event->event_id);
	isnull[EVENT_EVENT_ID - 1] = event->event_id == NULL;
	return heap_form_tuple(desc, values, isnull);
}

/*
 * Look for the call's event; "take" deletes the row if it lets the event be
 * processed once more.  Returns the transaction that has its hand on it, if
 * one has.  Raises 40001.
 */
TransactionId
inbox_event_find(InboxCall *call, InboxEvent *event, bool take, bool *found)
{
	InboxTable	table;
	InboxProbe	probe = {PROBE_NONE};

	*found = false;
	inbox_table_open(&table, CATALOG_INBOX_EVENT_PKEY, RowExclusiveLock);
	if (RelationGetNumberOfBlocks(table.heap) > 0 || IsolationIsSerializable())
	{
		identity_lock(&call->event);
		inbox_table_probe(&table, identity_id(&call->event), NULL, &probe);
		*found = probe.result == PROBE_ROW;
		if (*found)
			event_deform(RelationGetDescr(table.heap), probe.tuple, event);
		if (*found && take && event->state == EVENT_AGAIN)
			inbox_table_delete(&table, &probe.tuple->t_self);
		identity_unlock(identity_id(&call->event));
	}
	inbox_table_close(&table);
	return probe.result == PROBE_BUSY ? probe.busy_xid : InvalidTransactionId;
}

/* Look for an event with a snapshot; returns whether there is a row. */
bool
inbox_event_see(Identity *event, Snapshot snapshot, InboxEvent *row)
{
	InboxTable	table;
	InboxProbe	probe = {PROBE_NONE};

	inbox_table_open(&table, CATALOG_INBOX_EVENT_PKEY, AccessShareLock);
	if (RelationGetNumberOfBlocks(table.heap) > 0)
		inbox_table_probe(&table, identity_id(event), snapshot, &probe);
	if (probe.result == PROBE_ROW)
		event_deform(RelationGetDescr(table.heap), probe.tuple, row);
	inbox_table_close(&table);
	return probe.result == PROBE_ROW;
}

/*
 * Write down what is to be known of the call's event, over what was, waiting
 * for another transaction that has its hand on it.  Raises 40001, 40P01.
 */
void
inbox_event_put(InboxCall *call, const InboxEvent *event)
{
	for (;;)
	{
		InboxTable	table;
		InboxProbe	probe;

		inbox_table_open(&table, CATALOG_INBOX_EVENT_PKEY, RowExclusiveLock);
		identity_lock(&call->event);
		inbox_table_probe(&table, identity_id(&call->event), NULL, &probe);
		if (probe.result != PROBE_BUSY)
		{
			HeapTuple	tuple = event_form(RelationGetDescr(table.heap), call,
										   event);

			if (probe.result == PROBE_ROW)
				(void) inbox_table_update(&table, &probe.tuple->t_self, tuple,
										  &call->event, true);
			else
				(void) inbox_table_insert(&table, tuple,
										  identity_id(&call->event));
		}
		identity_unlock(identity_id(&call->event));
		inbox_table_close(&table);
		if (probe.result != PROBE_BUSY)
			return;
		XactLockTableWait(probe.busy_xid, NULL, NULL, XLTW_None);
	}
}

/* Is this column the text of so many bytes? */
static bool
event_text_is(HeapTuple tuple, TupleDesc desc, int column, const char *string,
			  int len)
{
	bool		isnull;
	text	   *value = DatumGetTextPP(heap_getattr(tuple, column, desc,
												   &isnull));

	return VARSIZE_ANY_EXHDR(value) == len &&
		memcmp(VARDATA_ANY(value), string, len) == 0;
}

/*
 * The stream begins anew behind a seq: forget what was to be processed once
 * more, and what is dead behind that.  What others are changing stays.
 */
void
inbox_event_clear(const Identity *name, int64 after)
{
	InboxTable	table;
	TupleDesc	desc;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan;
	HeapTuple	tuple;

	inbox_table_open(&table, CATALOG_INBOX_EVENT_PKEY, RowExclusiveLock);
	desc = RelationGetDescr(table.heap);
	scan = table_beginscan(table.heap, snapshot, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		InboxEvent	event;

		if (!event_text_is(tuple, desc, EVENT_CONSUMER,
						   name->scope + INBOX_SCOPE_LEN,
						   name->scope_len - INBOX_SCOPE_LEN) ||
			!event_text_is(tuple, desc, EVENT_STREAM, name->principal,
						   name->principal_len))
			continue;
		event_deform(desc, tuple, &event);
		if (event.state == EVENT_AGAIN || (event.has_seq && event.seq > after))
			table.written |= compat_heap_delete_nowait(table.heap,
													   &tuple->t_self,
													   GetCurrentCommandId(true));
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	inbox_table_close(&table);
	CommandCounterIncrement();
}
