/*-------------------------------------------------------------------------
 *
 * outbox_read.c
 *		Relays: reading the events that have been committed, and saying that
 *		they are published.
 *
 * A relay reads the events after its cursor, up to a watermark (watermark.c),
 * so that nothing can ever appear behind the cursor.  What it has read is its
 * own, by a fence, until the lease is over or the last of it is acknowledged;
 * meanwhile another process of the same relay gets nothing.  Who dies is
 * followed by the next one, after the lease, at the cursor.
 *
 * What a relay is given is durable first: a transaction that committed
 * asynchronously could be lost after its events were published.
 *
 * A reading that finds nothing writes nothing, but for the cursor, now and
 * then, of a relay whose stream has no events while others have.
 *
 * Locking: outbox_relay.c; a reading only tries for the relay's lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "counter.h"
#include "errors.h"
#include "fault.h"
#include "incarnation.h"
#include "outbox.h"
#include "policy.h"
#include "watermark.h"

#define READ_MAX		10000	/* events at once */
#define READ_WAIT_MS	50		/* for commits that are under way */
#define READ_SKIP		1000	/* so many of other streams move the cursor, */
#define READ_SKIP_AFTER	(10 * USECS_PER_SEC)	/* or so much time */

/* columns of outbox_read() */
enum
{
	READ_EVENT_ID,
	READ_POSITION,
	READ_STREAM,
	READ_TYPE,
	READ_KEY,
	READ_PAYLOAD,
	READ_HEADERS,
	READ_EMITTED_AT,
	READ_FENCE,
	READ_COLUMNS
};

COMPAT_FUNCTION_INFO(idempotency_outbox_read);
COMPAT_FUNCTION_INFO(idempotency_outbox_ack);

/*
 * Up to which position can nothing appear any more?  "known": up to there, at
 * least.  Waits a little for commits under way, unless there may be something
 * to read before that.
 */
static int64
read_decided(int64 known, bool may_wait)
{
	static Watermark watermark = {0};	/* lives from call to call */
	static int64 decided = 0;
	static uint64 generation = 0;
	Oid			sequence = catalog_relation(CATALOG_OUTBOX_SEQ);

	/* a restored sequence's numbers are others */
	if (generation != catalog_generation(CATALOG_OUTBOX_SEQ))
	{
		watermark.pending = false;
		decided = 0;
		generation = catalog_generation(CATALOG_OUTBOX_SEQ);
	}
	decided = Max(decided, known);
	if (counter_last(sequence) > decided &&
		(FAULT_SKIPS("outbox.watermark") ||
		 watermark_await(&watermark, sequence, may_wait ? READ_WAIT_MS : 0)))
	{
		decided = FAULT_SKIPS("outbox.watermark") ? counter_last(sequence) :
			Max(decided, watermark.seq);
		watermark.pending = false;
	}
	return decided;
}

/* Is the event of the relay's stream? */
static bool
read_wants(const OutboxRelay *row, Datum stream)
{
	text	   *value = DatumGetTextPP(stream);

	return (VARSIZE_ANY_EXHDR(row->stream) == 1 &&
			VARDATA_ANY(row->stream)[0] == OUTBOX_ALL[0]) ||
		(VARSIZE_ANY_EXHDR(value) == VARSIZE_ANY_EXHDR(row->stream) &&
		 memcmp(VARDATA_ANY(value), VARDATA_ANY(row->stream),
				VARSIZE_ANY_EXHDR(value)) == 0);
}

/* Hand out an event. */
static void
read_put(ReturnSetInfo *result, TupleTableSlot *slot, int64 fence)
{
	static const int columns[READ_COLUMNS] = {
		[READ_EVENT_ID] = OUTBOX_ID,
		[READ_POSITION] = OUTBOX_POSITION,
		[READ_STREAM] = OUTBOX_STREAM,
		[READ_TYPE] = OUTBOX_TYPE,
		[READ_KEY] = OUTBOX_KEY,
		[READ_PAYLOAD] = OUTBOX_PAYLOAD,
		[READ_HEADERS] = OUTBOX_HEADERS,
		[READ_EMITTED_AT] = OUTBOX_EMITTED_AT
	};
	Datum		values[READ_COLUMNS];
	bool		isnull[READ_COLUMNS] = {0};

	for (int i = 0; i < READ_FENCE; i++)
		values[i] = slot_getattr(slot, columns[i], &isnull[i]);
	/* the table may be emptied before the caller looks */
	if (!isnull[READ_PAYLOAD])
		values[READ_PAYLOAD] =
			PointerGetDatum(PG_DETOAST_DATUM(values[READ_PAYLOAD]));
	values[READ_HEADERS] =
		PointerGetDatum(PG_DETOAST_DATUM(values[READ_HEADERS]));
	values[READ_FENCE] = Int64GetDatum(fence);
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/*
 * Hand out up to max events after the relay's cursor, under a new fence;
 * returns how many, and moves read_upto to the last of them.  *skipped is how
 * many others there were.
 */
static int
read_events(OutboxRelay *row, int64 upto, int max, ReturnSetInfo *result,
			int *skipped)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	MemoryContext each = AllocSetContextCreate(CurrentMemoryContext,
											   "idempotency outbox_read",
											   ALLOCSET_DEFAULT_SIZES);
	OutboxScan	scan;
	TupleTableSlot *slot = NULL;
	int			n = 0;
	bool		isnull;

	*skipped = 0;
	outbox_scan(&scan, row->position, upto, snapshot);
	while (n < max && (slot = outbox_scan_next(&scan)) != NULL)
	{
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (!read_wants(row, slot_getattr(slot, OUTBOX_STREAM, &isnull)))
		{
			(*skipped)++;
			continue;
		}
		if (n == 0)
			row->fence = outbox_relay_fence();
		old = MemoryContextSwitchTo(each);
		read_put(result, slot, row->fence);
		MemoryContextSwitchTo(old);
		MemoryContextReset(each);
		row->read_upto = DatumGetInt64(slot_getattr(slot, OUTBOX_POSITION,
													&isnull));
		n++;
	}
	outbox_scan_end(&scan);
	MemoryContextDelete(each);
	UnregisterSnapshot(snapshot);
	return n;
}

/* Raises ID410 if events were removed before the relay had read them. */
static void
read_refuse_lost(const OutboxRelay *row)
{
	if (row->lost_upto > row->position)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_EXPIRED),
				 errmsg("events were removed before relay \"%s\" had read them",
						text_to_cstring(row->relay)),
				 errdetail("Of the events after position " INT64_FORMAT " up to " INT64_FORMAT ", some or all are gone: they were older than max_age.",
						   row->position, row->lost_upto),
				 errhint("Find out what the other side lacks, and call reset_relay().")));
}

/* Who reads: application_name and process. */
static text *
read_holder(void)
{
	return cstring_to_text(psprintf("%s %d",
									application_name ? application_name : "",
									MyProcPid));
}

/*
 * Read for a relay whose lock is held.  What is handed out is durable, and the
 * relay's until the lease is over.
 */
static void
read_relay(OutboxRelay *row, int max, int64 lease, ReturnSetInfo *result)
{
	TimestampTz now = clock_now();
	bool		existed = row->exists;
	int			skipped;
	int64		upto;

	read_refuse_lost(row);
	if (row->leased && row->read_upto > row->position &&
		row->lease_until > now)
		return;
	upto = read_decided(row->decided, row->decided <= row->position);
	if (upto <= row->position && existed)
		return;
	row->read_upto = row->position;
	if (read_events(row, upto, max, result, &skipped) > 0)
	{
		row->lease = lease;
		row->leased = true;
		row->lease_until = clock_now() + lease;
		row->holder = read_holder();
	}
	else if (existed && skipped < READ_SKIP &&
			 now < row->moved_at + READ_SKIP_AFTER)
		return;
	else
	{
		/* nothing of its own up to here */
		row->position = row->read_upto = upto;
		row->moved_at = now;
	}
	row->decided = upto;
	FAULT_POINT("outbox.before_cursor");
	outbox_relay_put(row);
	ForceSyncCommit();
	XLogFlush(XactLastRecEnd);
	FAULT_POINT("outbox.after_cursor");
}

/*
 * outbox_read(relay text, stream text, max int, lease interval)
 *		returns setof record
 */
Datum
idempotency_outbox_read(PG_FUNCTION_ARGS)
{
	text	   *relay = TEXT_ARGUMENT(0);
	text	   *stream = PG_ARGISNULL(1) ? cstring_to_text(OUTBOX_ALL) :
		PG_GETARG_TEXT_PP(1);
	int32		max = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	int64		lease;
	OutboxRelay row;

	outbox_check_name("relay", relay, false);
	outbox_check_name("stream", stream, true);
	if (max < 1 || max > READ_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("max must be between 1 and %d", READ_MAX)));
	lease = policy_lease_argument("lease",
								  PG_ARGISNULL(3) ? NULL :
								  PG_GETARG_INTERVAL_P(3));
	catalog_check_writable("outbox_read()");
	if (outbox_has_written())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot read the outbox in a transaction that has emitted more events than are kept in memory")));
	InitMaterializedSRF(fcinfo, 0);
	/* nothing is waited for */
	if (!incarnation_prepare(false) ||
		!outbox_relay_lock(relay, stream, false))
		return (Datum) 0;
	outbox_relay_get(relay, stream, &row);
	if (row.allowed_role)
		outbox_check_role(text_to_cstring(row.allowed_role), "relay", relay);
	read_relay(&row, max, lease, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/*
 * Find the row of a relay that was given this fence, and take its lock.  Raises
 * ID404 if there is no such relay, ID412 if the fence isn't the latest.
 */
static void
ack_find(text *relay, int64 fence, OutboxRelay *row)
{
	bool		is_known = false;
	ListCell   *lc;
	char	   *name = text_to_cstring(relay);

	foreach(lc, outbox_relays())
	{
		OutboxRelay *found = lfirst(lc);

		if (strcmp(text_to_cstring(found->relay), name) != 0)
			continue;
		is_known = true;
		if (found->fence != fence)
			continue;
		(void) outbox_relay_lock(found->relay, found->stream, true);
		outbox_relay_get(found->relay, found->stream, row);
		if (row->exists && row->fence == fence)
			return;
	}
	if (!is_known)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_FOUND),
				 errmsg("there is no relay \"%s\"", name)));
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_FENCE_LOST),
			 errmsg("events are not this process's any more, of relay \"%s\"",
					name),
			 errdetail("Its lease was over, and another process has read them, or the relay was reset."),
			 errhint("Stop publishing, and read again.")));
}

/* The events up to a position are published.  Raises ID400. */
static void
ack_relay(OutboxRelay *row, int64 position, bool release)
{
	TimestampTz now = clock_now();

	if (position > row->read_upto)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("position is beyond what was read"),
				 errdetail("What was read ends at " INT64_FORMAT ".",
						   row->read_upto)));
	if (position <= row->position && !(release && row->leased))
		return;
	if (position > row->position)
	{
		row->position = position;
		row->moved_at = now;
	}
	if (release)
		row->read_upto = row->position;
	if (row->read_upto == row->position)
	{
		row->leased = false;
		row->holder = NULL;
	}
	else
		row->lease_until = now + row->lease;
	FAULT_POINT("outbox.before_ack");
	outbox_relay_put(row);
	FAULT_POINT("outbox.after_ack");
}

/*
 * outbox_ack(relay text, position bigint, fence bigint, release boolean)
 *		returns boolean
 */
Datum
idempotency_outbox_ack(PG_FUNCTION_ARGS)
{
	text	   *relay = TEXT_ARGUMENT(0);
	OutboxRelay row;

	catalog_check_writable("outbox_ack()");
	outbox_check_name("relay", relay, false);
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not be null",
						PG_ARGISNULL(1) ? "position" : "fence")));
	if (PG_GETARG_INT64(1) < 0 || PG_GETARG_INT64(2) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not be negative",
						PG_GETARG_INT64(1) < 0 ? "position" : "fence")));
	ack_find(relay, PG_GETARG_INT64(2), &row);
	if (row.allowed_role)
		outbox_check_role(text_to_cstring(row.allowed_role), "relay", relay);
	ack_relay(&row, PG_GETARG_INT64(1),
			  !PG_ARGISNULL(3) && PG_GETARG_BOOL(3));
	PG_RETURN_BOOL(true);
}
