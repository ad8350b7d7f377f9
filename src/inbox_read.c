/*-------------------------------------------------------------------------
 *
 * inbox_read.c
 *		Reading how far a consumer has come: position and gaps.
 *
 * Read with the statement's snapshot; nothing is written, so both work in a
 * read-only transaction and on a standby.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "fault.h"
#include "inbox.h"

#define POSITION_COLUMNS	8
#define GAPS_COLUMNS		5

COMPAT_FUNCTION_INFO(idempotency_position);
COMPAT_FUNCTION_INFO(idempotency_gaps);

/*
 * Read the stream that the first two arguments name; returns false if nothing
 * is known of it.  Raises ID400, ID403.
 */
static bool
read_stream(FunctionCallInfo fcinfo, InboxStream *stream)
{
	Identity	name;
	InboxPolicy policy;

	inbox_name(&name, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1));
	inbox_refuse_all(&name);
	inbox_policy_lock();
	inbox_policy_get(&name, &policy);
	inbox_policy_unlock();
	inbox_check_role(&policy, &name);
	return inbox_stream_read(&name, GetActiveSnapshot(), stream);
}

/* Set a nullable integer column, counted from 0. */
static void
read_set(Datum *values, bool *isnull, int column, bool has, int64 value)
{
	values[column] = Int64GetDatum(value);
	isnull[column] = !has;
}

/* position(consumer text, stream text) returns record */
Datum
idempotency_position(PG_FUNCTION_ARGS)
{
	InboxStream stream;
	Datum		values[POSITION_COLUMNS] = {0};
	bool		isnull[POSITION_COLUMNS];
	TupleDesc	desc;

	memset(isnull, true, sizeof(isnull));
	if (read_stream(fcinfo, &stream))
	{
		int			holes = inbox_ranges_holes(&stream.ahead);
		bool		has = stream.has_mark && stream.seq >= 0;

		read_set(values, isnull, 0,
				 stream.has_mark && stream.seq < PG_INT64_MAX,
				 (uint64) stream.seq + 1);
		read_set(values, isnull, 1, has, stream.seq);
		read_set(values, isnull, 2, has, stream.subseq);
		read_set(values, isnull, 3, stream.has_epoch, stream.epoch);
		values[4] = Int32GetDatum(holes);
		isnull[4] = isnull[6] = isnull[7] = false;
		if (holes > 0)
			read_set(values, isnull, 5, true, stream.ahead.ranges[0].since);
		values[6] = Int64GetDatum(stream.delivered);
		values[7] = TimestampTzGetDatum(stream.updated_at);
	}
	inbox_stream_free(&stream);
	desc = catalog_result_desc(fcinfo);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, isnull)));
}

/* gaps(consumer text, stream text) returns setof record */
Datum
idempotency_gaps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	InboxStream stream;
	bool		found = read_stream(fcinfo, &stream);
	TimestampTz now = clock_now();
	int64		before = found && stream.has_mark ? stream.seq : 0;
	int			holes = found ? inbox_ranges_holes(&stream.ahead) : 0;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < holes; i++)
	{
		const InboxRange *range = &stream.ahead.ranges[i];
		Datum		values[GAPS_COLUMNS];
		bool		isnull[GAPS_COLUMNS] = {0};

		values[0] = Int64GetDatum(before + 1);
		values[1] = Int64GetDatum(range->from - 1);
		values[2] = Int64GetDatum(range->from - 1 - before);
		values[3] = TimestampTzGetDatum(range->since);
		values[4] = Int64GetDatum(Max(now - range->since, 0) / USECS_PER_MSEC);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
		before = range->to;
	}
	inbox_stream_free(&stream);
	return (Datum) 0;
}
