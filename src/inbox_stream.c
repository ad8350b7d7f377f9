/*-------------------------------------------------------------------------
 *
 * inbox_stream.c
 *		The row that says how far a consumer has come in a stream.
 *
 * A consumer's transaction that accepts an event writes this row, so the row's
 * own xmin guards the stream until the transaction ends, as an offset does that
 * is committed with the work: of one consumer and stream, one transaction at a
 * time accepts; different streams never meet.  The lock of the row's id is held
 * only while a decision is made.
 *
 * The streams that this transaction has written are remembered, with where
 * their rows are, so that the next event of one needs neither a search nor the
 * lock: nobody else can change them now.  What a subtransaction has written is
 * forgotten when it rolls back; then the row is looked up again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "inbox.h"

/* attribute numbers, in the order of src/sql/inbox.sql */
enum
{
	STREAM_ID = 1,
	STREAM_DELIVERED,
	STREAM_UPDATED_AT,
	STREAM_EPOCH,
	STREAM_FIRST_SEQ,
	STREAM_SEQ,
	STREAM_SUBSEQ,
	STREAM_FLOOR_SEQ,
	STREAM_GAP_SINCE,
	STREAM_HOLES,
	STREAM_STRATEGY,
	STREAM_BEGUN,
	STREAM_CONSUMER,
	STREAM_STREAM,
	STREAM_AHEAD,
	STREAM_COLUMNS = STREAM_AHEAD
};

/* so many streams are remembered */
#define STREAMS_KEPT	16

typedef struct KeptStream
{
	bool		valid;			/* the rest is what the row says */
	int			depth;			/* of the subtransaction that wrote it */
	pg_uuid_t	id;
	ItemPointerData tid;
	InboxStream stream;
} KeptStream;

static KeptStream kept[STREAMS_KEPT];
static int	nkept = 0;			/* in use, valid or not */
static int	next_kept = 0;		/* to be replaced next */

/* The consumer's name, out of the identity of a stream. */
static text *
stream_consumer(const Identity *name)
{
	return cstring_to_text_with_len(name->scope + INBOX_SCOPE_LEN,
									name->scope_len - INBOX_SCOPE_LEN);
}

/* Set a nullable integer column. */
static void
stream_set(Datum *values, bool *isnull, int column, bool has, int64 value)
{
	values[column - 1] = Int64GetDatum(value);
	isnull[column - 1] = !has;
}

/* The tuple that says this of a stream. */
static HeapTuple
stream_form(TupleDesc desc, Identity *name, const InboxStream *stream)
{
	Datum		values[STREAM_COLUMNS];
	bool		isnull[STREAM_COLUMNS] = {0};
	int			holes = inbox_ranges_holes(&stream->ahead);
	bytea	   *ahead = inbox_ranges_encode(stream);

	values[STREAM_ID - 1] = UUIDPGetDatum(identity_id(name));
	values[STREAM_DELIVERED - 1] = Int64GetDatum(stream->delivered);
	values[STREAM_UPDATED_AT - 1] = TimestampTzGetDatum(stream->updated_at);
	stream_set(values, isnull, STREAM_EPOCH, stream->has_epoch, stream->epoch);
	stream_set(values, isnull, STREAM_FIRST_SEQ, stream->has_mark,
			   stream->first);
	stream_set(values, isnull, STREAM_SEQ, stream->has_mark, stream->seq);
	stream_set(values, isnull, STREAM_SUBSEQ, stream->has_mark,
			   stream->subseq);
	stream_set(values, isnull, STREAM_FLOOR_SEQ,
			   stream->floor != INBOX_NO_FLOOR, stream->floor);
	isnull[STREAM_GAP_SINCE - 1] = holes == 0;
	if (holes > 0)
		values[STREAM_GAP_SINCE - 1] =
			TimestampTzGetDatum(stream->ahead.ranges[0].since);
	values[STREAM_HOLES - 1] = Int32GetDatum(holes);
	values[STREAM_STRATEGY - 1] = CharGetDatum((char) stream->strategy);
	values[STREAM_BEGUN - 1] = BoolGetDatum(stream->begun);
	values[STREAM_CONSUMER - 1] = PointerGetDatum(stream_consumer(name));
	values[STREAM_STREAM - 1] =
		PointerGetDatum(cstring_to_text_with_len(name->principal,
												 name->principal_len));
	values[STREAM_AHEAD - 1] = PointerGetDatum(ahead);
	isnull[STREAM_AHEAD - 1] = ahead == NULL;
	return heap_form_tuple(desc, values, isnull);
}

/* Is this text column, without the first bytes of what it's compared with? */
static bool
stream_text_is(Datum value, const char *expected, int len)
{
	text	   *found = DatumGetTextPP(value);

	return VARSIZE_ANY_EXHDR(found) == len &&
		memcmp(VARDATA_ANY(found), expected, len) == 0;
}

/*
 * Read a row; it must be this stream's, unless name is NULL.  Raises XX000,
 * XX001.
 */
void
inbox_stream_deform(TupleDesc desc, HeapTuple tuple, InboxStream *stream,
					Identity *name)
{
	Datum		values[STREAM_COLUMNS];
	bool		isnull[STREAM_COLUMNS];
	TimestampTz base = 0;

	heap_deform_tuple(tuple, desc, values, isnull);
	if (name &&
		(!stream_text_is(values[STREAM_CONSUMER - 1],
						 name->scope + INBOX_SCOPE_LEN,
						 name->scope_len - INBOX_SCOPE_LEN) ||
		 !stream_text_is(values[STREAM_STREAM - 1], name->principal,
						 name->principal_len)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("two streams have the same id"),
				 errhint("Use another name for this stream, and report this.")));
	inbox_stream_clear(stream);
	stream->delivered = DatumGetInt64(values[STREAM_DELIVERED - 1]);
	stream->updated_at = DatumGetTimestampTz(values[STREAM_UPDATED_AT - 1]);
	stream->strategy = (InboxStrategy) DatumGetChar(values[STREAM_STRATEGY - 1]);
	stream->has_epoch = !isnull[STREAM_EPOCH - 1];
	if (stream->has_epoch)
		stream->epoch = DatumGetInt64(values[STREAM_EPOCH - 1]);
	stream->has_mark = !isnull[STREAM_SEQ - 1];
	if (stream->has_mark)
	{
		stream->first = DatumGetInt64(values[STREAM_FIRST_SEQ - 1]);
		stream->seq = DatumGetInt64(values[STREAM_SEQ - 1]);
		stream->subseq = DatumGetInt64(values[STREAM_SUBSEQ - 1]);
	}
	if (!isnull[STREAM_FLOOR_SEQ - 1])
		stream->floor = DatumGetInt64(values[STREAM_FLOOR_SEQ - 1]);
	stream->begun = DatumGetBool(values[STREAM_BEGUN - 1]);
	if (!isnull[STREAM_GAP_SINCE - 1])
		base = DatumGetTimestampTz(values[STREAM_GAP_SINCE - 1]);
	if (!isnull[STREAM_AHEAD - 1])
		inbox_ranges_decode(stream, DatumGetByteaPP(values[STREAM_AHEAD - 1]),
							base);
}

/* The name of the stream whose row this is. */
void
inbox_stream_name(TupleDesc desc, HeapTuple tuple, Identity *name)
{
	bool		isnull;

	inbox_name(name,
			   DatumGetTextPP(heap_getattr(tuple, STREAM_CONSUMER, desc,
										   &isnull)),
			   DatumGetTextPP(heap_getattr(tuple, STREAM_STREAM, desc,
										   &isnull)));
}

/* Make a stream one of which nothing is known. */
void
inbox_stream_clear(InboxStream *stream)
{
	InboxRanges ahead = stream->ahead;

	memset(stream, 0, sizeof(*stream));
	stream->floor = INBOX_NO_FLOOR;
	stream->ahead = ahead;
	stream->ahead.n = 0;
}

/* The remembered stream with this id, valid or not, or NULL. */
static KeptStream *
stream_kept(const pg_uuid_t *id)
{
	for (int i = 0; i < nkept; i++)
	{
		if (memcmp(&kept[i].id, id, UUID_LEN) == 0)
			return &kept[i];
	}
	return NULL;
}

/* A place to remember the stream with this id; not valid yet. */
static KeptStream *
stream_keep(const pg_uuid_t *id)
{
	KeptStream *keep = stream_kept(id);

	if (keep == NULL && nkept < STREAMS_KEPT)
	{
		keep = &kept[nkept++];
		memset(keep, 0, sizeof(*keep));
	}
	else if (keep == NULL)
		keep = &kept[next_kept++ % STREAMS_KEPT];
	keep->valid = false;
	keep->id = *id;
	inbox_stream_clear(&keep->stream);
	return keep;
}

/* Look for the row, under the lock of its id. */
static void
stream_probe(InboxOpen *open)
{
	const pg_uuid_t *id = identity_id(open->name);
	KeptStream *keep = stream_keep(id);
	InboxProbe	probe;

	identity_lock(open->name);
	open->locked = true;
	inbox_table_probe(&open->table, id, NULL, &probe);
	if (probe.result == PROBE_BUSY)
	{
		open->busy_xid = probe.busy_xid;
		return;
	}
	open->stream = &keep->stream;
	open->found = probe.result == PROBE_ROW;
	if (!open->found)
		return;
	inbox_stream_deform(RelationGetDescr(open->table.heap), probe.tuple,
						open->stream, open->name);
	open->tid = probe.tuple->t_self;
	heap_freetuple(probe.tuple);
}

/*
 * Open the stream, to decide by it and to write it.  Returns false if another
 * transaction has it; it has to be closed all the same.  Raises 40001.
 */
bool
inbox_stream_open(InboxOpen *open, Identity *name)
{
	KeptStream *keep = stream_kept(identity_id(name));

	memset(open, 0, sizeof(*open));
	open->name = name;
	inbox_table_open(&open->table, CATALOG_INBOX_STREAM_PKEY,
					 RowExclusiveLock);
	if (keep == NULL || !keep->valid)
	{
		stream_probe(open);
		return open->stream != NULL;
	}
	keep->valid = false;		/* until it is closed, untouched or written */
	open->found = true;
	open->tid = keep->tid;
	open->stream = &keep->stream;
	return true;
}

/*
 * The same, but wait, as for a row's lock, until no other transaction has the
 * stream.  Raises also 55P03 and 40P01.
 */
void
inbox_stream_open_wait(InboxOpen *open, Identity *name)
{
	while (!inbox_stream_open(open, name))
	{
		inbox_stream_close(open, false);
		XactLockTableWait(open->busy_xid, NULL, NULL, XLTW_None);
	}
}

/* Write the stream's row. */
void
inbox_stream_write(InboxOpen *open)
{
	HeapTuple	tuple = stream_form(RelationGetDescr(open->table.heap),
									open->name, open->stream);
	KeptStream *keep = stream_kept(identity_id(open->name));

	FAULT_POINT("inbox.before_write");
	if (open->found)
		open->tid = inbox_table_update(&open->table, &open->tid, tuple,
									   open->name, open->locked);
	else
		open->tid = inbox_table_insert(&open->table, tuple,
									   identity_id(open->name));
	open->found = true;
	heap_freetuple(tuple);
	keep->valid = true;
	keep->tid = open->tid;
	keep->depth = GetCurrentTransactionNestLevel();
	FAULT_POINT("inbox.after_write");
}

/* Delete the stream's row, which was found. */
void
inbox_stream_delete(InboxOpen *open)
{
	inbox_table_delete(&open->table, &open->tid);
	open->found = false;
}

/*
 * Close the stream.  If it was touched it must have been written, or what was
 * changed in memory is dropped.
 */
void
inbox_stream_close(InboxOpen *open, bool touched)
{
	if (!open->locked && !touched)
		stream_kept(identity_id(open->name))->valid = true;
	if (open->locked)
		identity_unlock(identity_id(open->name));
	inbox_table_close(&open->table);
}

/*
 * Read the stream with a snapshot, which the caller has registered.  Returns
 * false if nothing is known of it.
 */
bool
inbox_stream_read(Identity *name, Snapshot snapshot, InboxStream *stream)
{
	InboxTable	table;
	InboxProbe	probe;

	memset(stream, 0, sizeof(*stream));
	inbox_table_open(&table, CATALOG_INBOX_STREAM_PKEY, AccessShareLock);
	inbox_table_probe(&table, identity_id(name), snapshot, &probe);
	if (probe.result == PROBE_ROW)
		inbox_stream_deform(RelationGetDescr(table.heap), probe.tuple, stream,
							name);
	inbox_table_close(&table);
	return probe.result == PROBE_ROW;
}

/* The transaction has ended: forget everything; the memory goes with it. */
static void
stream_xact_callback(XactEvent event, void *arg)
{
	if (nkept == 0 ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		 event != XACT_EVENT_PREPARE))
		return;
	memset(kept, 0, nkept * sizeof(KeptStream));
	nkept = next_kept = 0;
}

/* A subtransaction has ended. */
static void
stream_subxact_callback(SubXactEvent event, SubTransactionId subid,
						SubTransactionId parent, void *arg)
{
	int			depth = GetCurrentTransactionNestLevel();

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	for (int i = 0; i < nkept; i++)
	{
		if (kept[i].depth < depth)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB)
			kept[i].valid = false;
		else
			kept[i].depth = depth - 1;
	}
}

/* Register the callbacks; called once from _PG_init. */
void
inbox_stream_init(void)
{
	RegisterXactCallback(stream_xact_callback, NULL);
	RegisterSubXactCallback(stream_subxact_callback, NULL);
}
