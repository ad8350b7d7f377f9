/*-------------------------------------------------------------------------
 *
 * inbox_operator.c
 *		What an operator may do to a consumer: give up what is missing, put it
 *		elsewhere in a stream, have an event processed once more.
 *
 * All need a reason; who did what and why is recorded in the ledger, and
 * logged.  They wait for a transaction that has the stream, as for a row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "inbox.h"

#define SUBSEQS_MAX			1000

COMPAT_FUNCTION_INFO(idempotency_skip_gap);
COMPAT_FUNCTION_INFO(idempotency_set_position);
COMPAT_FUNCTION_INFO(idempotency_redeliver);

/* The reason, which has to be given.  Raises ID400, ID413. */
static text *
operator_reason(const char *function, text *reason)
{
	return policy_check_reason(function, reason,
							   "Say why: it decides which events take effect.");
}

/* Record and log who did what, and why; what more is to be said is JSON. */
static void
operator_record(EntryDecision what, const Identity *name, const char *more,
				text *reason)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"stream\": ");
	escape_json(&json, pnstrdup(name->principal, name->principal_len));
	appendStringInfo(&json, ", %s, \"reason\": ", more);
	escape_json(&json, text_to_cstring(reason));
	appendStringInfoChar(&json, '}');
	decision_general(what, name->scope, name->scope_len, json.data);
	ereport(LOG,
			(errmsg("event stream %s by role \"%s\", of consumer \"%.*s\"",
					entry_decision_name(what),
					GetUserNameFromId(GetUserId(), false),
					name->scope_len - INBOX_SCOPE_LEN,
					name->scope + INBOX_SCOPE_LEN),
			 errdetail("Reason: %s", text_to_cstring(reason))));
}

/* The settings of a stream.  Raises ID403. */
static void
operator_policy(const Identity *name, InboxPolicy *policy)
{
	inbox_policy_lock();
	inbox_policy_get(name, policy);
	inbox_policy_unlock();
	inbox_check_role(policy, name);
}

/*
 * Let the mark of a stream whose events come in any order go on to upto.
 * Returns how many were missing.  Raises ID400.
 */
static int64
skip_in_set(InboxStream *stream, int64 upto)
{
	InboxRanges *set = &stream->ahead;
	int			holes = inbox_ranges_holes(set);
	int64		skipped;

	if (upto <= stream->seq)
		return 0;
	if (holes == 0 || upto > set->ranges[holes - 1].to)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("no event behind that was accepted, so it isn't known to be missing"),
				 errhint("set_position() puts a consumer where none of its events has been.")));
	skipped = upto - stream->seq;
	while (inbox_ranges_holes(set) > 0 && set->ranges[0].from - 1 <= upto)
	{
		const InboxRange *range = &set->ranges[0];

		if (range->from <= upto)
			skipped -= Min(range->to, upto) - range->from + 1;
		stream->seq = range->to;
		inbox_ranges_remove(set, 0, 1);
	}
	stream->seq = Max(stream->seq, upto);
	inbox_advance(stream);
	return skipped;
}

/* Give up what is missing up to a seq; returns how many.  Raises ID400. */
static int64
operator_skip(InboxStream *stream, bool has_upto, int64 upto)
{
	int64		skipped;

	switch (stream->strategy)
	{
		case INBOX_SEQUENCE:
		case INBOX_ID_AND_SEQUENCE:
			if (!has_upto && inbox_ranges_holes(&stream->ahead) == 0)
				return 0;
			return skip_in_set(stream, has_upto ? upto :
							   stream->ahead.ranges[0].from - 1);
		case INBOX_ORDERED:
			if (!has_upto)
				ereport(ERROR,
						(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
						 errmsg("skip_gap() needs upto where events come in order"),
						 errhint("What came too early was not remembered: the answer \"gap\" said what is expected.")));
			skipped = Max(upto - stream->seq, 0);
			if (skipped > 0)
			{
				stream->seq = upto;
				stream->subseq = 0;
			}
			return skipped;
		case INBOX_ID:
		case INBOX_HIGH_WATER:
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
			 errmsg("the stream has no gaps, by its strategy")));
}

/*
 * skip_gap(consumer text, stream text, reason text, upto bigint)
 *		returns record
 */
Datum
idempotency_skip_gap(PG_FUNCTION_ARGS)
{
	Identity	name;
	InboxPolicy policy;
	InboxOpen	open;
	Datum		values[2];
	bool		isnull[2] = {0};
	text	   *reason = operator_reason("skip_gap()", TEXT_ARGUMENT(2));
	int64		skipped;

	catalog_check_writable("skip_gap()");
	inbox_name(&name, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1));
	inbox_refuse_all(&name);
	if (!PG_ARGISNULL(3))
		inbox_check_number("upto", PG_GETARG_INT64(3));
	operator_policy(&name, &policy);
	inbox_stream_open_wait(&open, &name);
	if (!open.found || !open.stream->has_mark)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_FOUND),
				 errmsg("the consumer has no position in the stream")));
	skipped = operator_skip(open.stream, !PG_ARGISNULL(3),
							PG_ARGISNULL(3) ? 0 : PG_GETARG_INT64(3));
	if (skipped > 0)
	{
		open.stream->updated_at = clock_now();
		inbox_stream_write(&open);
	}
	values[0] = Int64GetDatum(skipped);
	values[1] = Int64GetDatum(open.stream->seq);
	isnull[1] = open.stream->seq < 0;
	inbox_stream_close(&open);
	if (skipped > 0)
		operator_record(ENTRY_SKIPPED, &name,
						psprintf("\"skipped\": %lld, \"position\": %lld",
								 (long long) skipped,
								 (long long) DatumGetInt64(values[1])),
						reason);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(catalog_result_desc(fcinfo),
													  values, isnull)));
}

/* Make the stream one of which everything up to a position was processed. */
static void
operator_put(InboxStream *stream, const InboxPolicy *policy, int64 seq,
			 int64 subseq, bool has_epoch, int64 epoch)
{
	InboxStream before = *stream;

	inbox_stream_clear(stream);
	stream->strategy = policy->strategy;
	stream->has_epoch = has_epoch || before.has_epoch;
	stream->epoch = has_epoch ? epoch : before.epoch;
	stream->delivered = before.delivered;
	stream->updated_at = clock_now();
	stream->has_mark = stream->begun = true;
	stream->seq = seq;
	stream->subseq = subseq;
	if (policy->strategy != INBOX_SEQUENCE &&
		policy->strategy != INBOX_ID_AND_SEQUENCE)
		return;
	stream->floor = seq - 1;
	if (subseq > Min(SUBSEQS_MAX, policy->max_holes / 2))
		stream->floor = seq;	/* too many to be told one by one */
	else
	{
		for (int64 i = 1; i <= subseq; i++)
			inbox_ranges_add(&stream->ahead, i, seq, seq, 0);
	}
}

/*
 * set_position(consumer text, stream text, seq bigint, reason text,
 *				subseq bigint, epoch bigint) returns record
 */
Datum
idempotency_set_position(PG_FUNCTION_ARGS)
{
	Identity	name;
	InboxPolicy policy;
	InboxOpen	open;
	Datum		values[2];
	bool		isnull[2];
	text	   *reason = operator_reason("set_position()", TEXT_ARGUMENT(3));
	int64		seq = PG_ARGISNULL(2) ? -1 : PG_GETARG_INT64(2);
	int64		subseq = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT64(4);

	catalog_check_writable("set_position()");
	inbox_name(&name, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1));
	inbox_refuse_all(&name);
	inbox_check_number("seq", PG_ARGISNULL(2) ? 0 : seq);
	inbox_check_number("subseq", subseq);
	inbox_check_number("epoch", PG_ARGISNULL(5) ? 0 : PG_GETARG_INT64(5));
	operator_policy(&name, &policy);
	if (!inbox_knows_sequence(policy.strategy))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("a stream whose events are known by their ids has no position")));
	inbox_stream_open_wait(&open, &name);
	isnull[0] = PG_ARGISNULL(2);
	values[0] = Int64GetDatum(seq);
	isnull[1] = !open.stream->has_mark || open.stream->seq < 0;
	values[1] = Int64GetDatum(open.stream->seq);
	if (!PG_ARGISNULL(2))
	{
		operator_put(open.stream, &policy, seq, subseq, !PG_ARGISNULL(5),
					 PG_ARGISNULL(5) ? 0 : PG_GETARG_INT64(5));
		inbox_stream_write(&open);
	}
	else if (open.found)
		inbox_stream_delete(&open);
	inbox_stream_close(&open);
	inbox_event_clear(&name, seq);
	operator_record(ENTRY_POSITIONED, &name,
					psprintf("\"position\": %s, \"previous\": %s",
							 isnull[0] ? "null" : psprintf("%lld", (long long) seq),
							 isnull[1] ? "null" :
							 psprintf("%lld", (long long) DatumGetInt64(values[1]))),
					reason);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(catalog_result_desc(fcinfo),
													  values, isnull)));
}

/* Was the call's event processed, or given up? */
static bool
operator_was_processed(InboxCall *call, const InboxPolicy *policy)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	InboxStream stream;
	bool		processed;

	if (inbox_knows_ids(policy->strategy))
		processed = inbox_id_is_known(call, snapshot);
	else
	{
		processed = inbox_stream_read(&call->name, snapshot, &stream) &&
			inbox_was_accepted(&stream, call->seq, call->subseq);
		inbox_stream_free(&stream);
	}
	UnregisterSnapshot(snapshot);
	return processed;
}

/* The event that the arguments name.  Raises ID400. */
static void
operator_event(FunctionCallInfo fcinfo, InboxCall *call,
			   const InboxPolicy *policy)
{
	InboxStream stream;

	inbox_check_id(call->event_id);
	inbox_check_number("seq", call->seq);
	inbox_check_number("subseq", call->subseq);
	if (inbox_knows_ids(policy->strategy) ? call->event_id == NULL :
		!call->has_seq)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("an event of this stream needs %s",
						inbox_knows_ids(policy->strategy) ? "an event_id" :
						"a seq")));
	/* positions are those of the present epoch */
	if (!inbox_knows_ids(policy->strategy))
	{
		(void) inbox_stream_read(&call->name, GetActiveSnapshot(), &stream);
		call->has_epoch = stream.has_epoch;
		call->epoch = stream.epoch;
		inbox_stream_free(&stream);
	}
	inbox_event_make(call, policy->strategy);
}

/*
 * redeliver(consumer text, stream text, reason text, event_id text,
 *			 seq bigint, subseq bigint) returns boolean
 */
Datum
idempotency_redeliver(PG_FUNCTION_ARGS)
{
	InboxCall	call = {0};
	InboxPolicy policy;
	InboxEvent	event;
	bool		found;
	TransactionId busy;
	StringInfoData json;
	text	   *reason = operator_reason("redeliver()", TEXT_ARGUMENT(2));

	catalog_check_writable("redeliver()");
	inbox_name(&call.name, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1));
	inbox_refuse_all(&call.name);
	call.event_id = TEXT_ARGUMENT(3);
	call.has_seq = !PG_ARGISNULL(4);
	call.seq = call.has_seq ? PG_GETARG_INT64(4) : 0;
	call.subseq = PG_ARGISNULL(5) ? 0 : PG_GETARG_INT64(5);
	operator_policy(&call.name, &policy);
	operator_event(fcinfo, &call, &policy);
	while (TransactionIdIsValid(busy = inbox_event_find(&call, &event, false,
														&found)))
		XactLockTableWait(busy, NULL, NULL, XLTW_None);
	if (!found)
	{
		if (!operator_was_processed(&call, &policy))
			PG_RETURN_BOOL(false);
		memset(&event, 0, sizeof(event));
		event.event_id = call.event_id;
		event.has_epoch = call.has_epoch;
		event.epoch = call.epoch;
		event.has_seq = call.has_seq;
		event.seq = call.seq;
		event.subseq = call.subseq;
	}
	event.state = EVENT_AGAIN;
	event.noted_at = clock_now();
	inbox_event_put(&call, &event);
	inbox_delivery_forget(&call.event);
	initStringInfo(&json);
	appendStringInfoString(&json, "\"event\": ");
	escape_json(&json, pnstrdup(call.event.key, call.event.key_len));
	operator_record(ENTRY_REDELIVERED, &call.name, json.data, reason);
	PG_RETURN_BOOL(true);
}
