/*-------------------------------------------------------------------------
 *
 * inbox_row.c
 *		The columns of a row that says how far a consumer has come in a stream.
 *
 * This file alone knows the columns of table inbox_stream (src/sql/inbox.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/builtins.h"

#include "errors.h"
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
HeapTuple
inbox_stream_form(TupleDesc desc, Identity *name, const InboxStream *stream)
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
