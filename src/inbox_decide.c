/*-------------------------------------------------------------------------
 *
 * inbox_decide.c
 *		What an event is answered, by how far its consumer has come.
 *
 * Everything here is a function of the stream, the policy and the event; who
 * calls it has the stream open, and writes it if it was changed.
 *
 * A position is a pair (seq, subseq), as several events may share a seq.  By
 * seq alone is known whether something is missing, as nobody knows how many
 * events share one:
 *
 *	sequence	takes what wasn't taken, in any order.  What comes with a subseq
 *				above 0 so late that it is forgotten whether it was taken
 *				(below the floor) is "late", never "duplicate".
 *	ordered		takes (s, n + 1) or (s + 1, 0) after (s, n): the producer's
 *				order says that a seq is complete when the next one begins.
 *	high_water	takes what is behind the last one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "errors.h"
#include "fault.h"
#include "inbox.h"

/* An answer that says only its outcome, and perhaps why. */
void
inbox_answer(InboxAnswer *answer, InboxOutcome outcome, const char *reason)
{
	answer->outcome = outcome;
	answer->reason = reason;
	answer->expected_seq = answer->position = -1;
	answer->first_seen = NO_TIME;
	answer->deliveries = 0;
}

/* Is anything accepted behind a gap, or with a subseq whose seq isn't? */
bool
inbox_is_open(const InboxStream *stream)
{
	const InboxRanges *set = &stream->ahead;

	for (int i = 0; i < set->n; i++)
	{
		if (!stream->has_mark || set->ranges[i].to > stream->seq)
			return true;
	}
	return false;
}

/*
 * Go over to the strategy that is configured.  What is open stays under the old
 * one until it isn't: configure_consumer() refuses such a change, but it can't
 * see what isn't committed.
 */
static bool
decide_convert(InboxStream *stream, const InboxPolicy *policy)
{
	bool		was_set = stream->strategy == INBOX_SEQUENCE ||
		stream->strategy == INBOX_ID_AND_SEQUENCE;
	bool		is_set = policy->strategy == INBOX_SEQUENCE ||
		policy->strategy == INBOX_ID_AND_SEQUENCE;

	if (stream->strategy == policy->strategy ||
		(was_set && !is_set && inbox_is_open(stream)))
		return false;
	stream->strategy = policy->strategy;
	if (was_set == is_set)
		return true;
	stream->ahead.n = 0;
	stream->floor = INBOX_NO_FLOOR;
	if (is_set && stream->has_mark)
	{
		/* what is behind the mark counts as processed */
		stream->begun = true;
		stream->floor = Max(stream->seq, INBOX_NO_FLOOR);
	}
	return true;
}

/*
 * Prepare the stream for an event with this epoch, if it has one.  Sets
 * *touched if that changes it, which is to be written even if the event is
 * refused: an epoch that has begun fences out those before.  Returns false if the epoch is over.  Raises ID400.
 */
bool
inbox_prepare(InboxStream *stream, const InboxPolicy *policy, bool has_epoch,
			  int64 epoch, bool *touched)
{
	if (stream->has_epoch && !has_epoch)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("an event of this stream needs an epoch"),
				 errdetail("Its producer has had one since its epoch %lld.",
						   (long long) stream->epoch)));
	if (stream->has_epoch && epoch < stream->epoch)
		return false;
	if (has_epoch && (!stream->has_epoch || epoch > stream->epoch))
	{
		int64		delivered = stream->delivered;

		inbox_stream_clear(stream);
		stream->has_epoch = true;
		stream->epoch = epoch;
		stream->delivered = delivered;
		stream->updated_at = clock_now();
		*touched = true;
	}
	if (stream->strategy == 0)
	{
		stream->strategy = policy->strategy;
		stream->updated_at = clock_now();
		*touched = true;
	}
	else if (decide_convert(stream, policy))
		*touched = true;
	if (!stream->has_mark && stream->ahead.n == 0 && policy->has_first_seq &&
		inbox_knows_sequence(stream->strategy))
	{
		stream->has_mark = stream->begun = true;
		stream->first = policy->first_seq;
		stream->seq = policy->first_seq - 1;
		stream->subseq = 0;
		*touched = true;
	}
	return true;
}

/* After an event, the mark's subseq, and what the mark has reached. */
void
inbox_advance(InboxStream *stream)
{
	InboxRanges *set = &stream->ahead;

	if (set->n > 0 && set->ranges[0].subseq == 0 &&
		set->ranges[0].from - 1 == stream->seq)
	{
		stream->seq = set->ranges[0].to;
		inbox_ranges_remove(set, 0, 1);
	}
	stream->subseq = 0;
	while (set->n > 0 &&
		   inbox_ranges_have(set, stream->subseq + 1, stream->seq))
		stream->subseq++;
}

/* Was the event, of a stream whose events come in any order, accepted? */
static bool
decide_is_in_set(const InboxStream *stream, int64 seq, int64 subseq)
{
	if (subseq == 0 && stream->has_mark && seq >= stream->first &&
		seq <= stream->seq)
		return true;
	return stream->ahead.n > 0 &&
		inbox_ranges_have(&stream->ahead, subseq, seq);
}

/*
 * Is there room for an event that isn't accepted?  If not, what is forgotten
 * first is what lies below the mark.
 */
static bool
decide_has_room(InboxStream *stream, const InboxPolicy *policy, int64 seq,
				int64 subseq)
{
	if (stream->ahead.n < policy->max_holes)
		return true;
	if (subseq == 0 && stream->has_mark &&
		(seq - 1 == stream->seq || seq + 1 == stream->first))
		return true;
	if (!inbox_ranges_grow(&stream->ahead, subseq, seq))
		return true;
	return inbox_ranges_forget(stream, policy->max_holes * 3 / 4) ||
		inbox_ranges_forget(stream, policy->max_holes - 1);
}

/* Add an event to the set. */
static void
decide_add(InboxStream *stream, int64 seq, int64 subseq, TimestampTz now)
{
	if (subseq > 0)
		inbox_ranges_add(&stream->ahead, subseq, seq, seq, now);
	else if (!stream->has_mark)
	{
		stream->has_mark = true;
		stream->first = stream->seq = seq;
	}
	else if (seq - 1 == stream->seq)
		stream->seq = seq;
	else if (seq > stream->seq)
		inbox_ranges_add(&stream->ahead, 0, seq, seq, now);
	else if (seq + 1 == stream->first)
		stream->first = seq;
	else
	{
		/* before what was taken for the beginning */
		inbox_ranges_add(&stream->ahead, 0, stream->first, stream->seq, now);
		stream->first = stream->seq = seq;
	}
	if (stream->has_mark)
		inbox_advance(stream);
}

/* An event of a stream whose events come in any order. */
static void
decide_sequence(InboxStream *stream, const InboxPolicy *policy, int64 seq,
				int64 subseq, TimestampTz now, InboxAnswer *answer)
{
	if (decide_is_in_set(stream, seq, subseq))
		inbox_answer(answer, INBOX_DUPLICATE, NULL);
	else if (stream->begun && seq < stream->first)
		inbox_answer(answer, INBOX_LATE, "before_first");
	else if (subseq > 0 && seq <= stream->floor)
		inbox_answer(answer, INBOX_LATE, "forgotten");
	else if (!decide_has_room(stream, policy, seq, subseq))
		inbox_answer(answer, INBOX_GAP, "max_holes");
	else if (subseq > 0 && seq <= stream->floor)	/* just now */
		inbox_answer(answer, INBOX_LATE, "forgotten");
	else
	{
		decide_add(stream, seq, subseq, now);
		inbox_answer(answer, INBOX_PROCESS, NULL);
	}
}

/* Is the position behind the mark, before it, or at it?  As a comparison. */
static int
decide_compare(const InboxStream *stream, int64 seq, int64 subseq)
{
	if (seq != stream->seq)
		return seq < stream->seq ? -1 : 1;
	return subseq < stream->subseq ? -1 : subseq > stream->subseq;
}

/* Put the mark at the event. */
static void
decide_mark(InboxStream *stream, int64 seq, int64 subseq, InboxAnswer *answer)
{
	if (!stream->has_mark)
		stream->first = seq;
	stream->has_mark = true;
	stream->seq = seq;
	stream->subseq = subseq;
	inbox_answer(answer, INBOX_PROCESS, NULL);
}

/* An event of a stream whose events come one after the other. */
static void
decide_ordered(InboxStream *stream, int64 seq, int64 subseq,
			   InboxAnswer *answer)
{
	if (!stream->has_mark)
		decide_mark(stream, seq, subseq, answer);
	else if (seq < stream->first)
		inbox_answer(answer, INBOX_LATE, "before_first");
	else if (decide_compare(stream, seq, subseq) <= 0)
		inbox_answer(answer, INBOX_DUPLICATE, NULL);
	else if ((seq == stream->seq && subseq - 1 == stream->subseq) ||
			 (seq - 1 == stream->seq && subseq == 0))
		decide_mark(stream, seq, subseq, answer);
	else
		inbox_answer(answer, INBOX_GAP, "out_of_order");
}

/* An event of a stream of which only the latest counts. */
static void
decide_high_water(InboxStream *stream, int64 seq, int64 subseq,
				  InboxAnswer *answer)
{
	int			compared = stream->has_mark ?
		decide_compare(stream, seq, subseq) : 1;

	if (stream->has_mark && seq < stream->first)
		inbox_answer(answer, INBOX_LATE, "before_first");
	else if (compared > 0)
		decide_mark(stream, seq, subseq, answer);
	else if (compared < 0)
		inbox_answer(answer, INBOX_LATE, "overtaken");
	else
		inbox_answer(answer, INBOX_DUPLICATE, NULL);
}

/* Have an answer say where the stream is. */
void
inbox_place(const InboxStream *stream, InboxAnswer *answer)
{
	bool		has = stream->has_mark;

	answer->position = has ? stream->seq : -1;
	answer->expected_seq = has && stream->strategy != INBOX_HIGH_WATER &&
		stream->seq < PG_INT64_MAX ? stream->seq + 1 : -1;
}

/*
 * Decide an event of a stream that was prepared; if the answer is "process",
 * the stream says afterwards that it was.
 */
void
inbox_decide(InboxStream *stream, const InboxPolicy *policy, int64 seq,
			 int64 subseq, TimestampTz now, InboxAnswer *answer)
{
	switch (stream->strategy)
	{
		case INBOX_SEQUENCE:
		case INBOX_ID_AND_SEQUENCE:
			decide_sequence(stream, policy, seq, subseq, now, answer);
			break;
		case INBOX_ORDERED:
			decide_ordered(stream, seq, subseq, answer);
			break;
		case INBOX_HIGH_WATER:
			decide_high_water(stream, seq, subseq, answer);
			break;
		case INBOX_ID:
			elog(ERROR, "strategy without a sequence");
	}
	if (answer->outcome == INBOX_PROCESS)
	{
		stream->delivered++;
		stream->updated_at = now;
		answer->first_seen = now;
	}
	inbox_place(stream, answer);
}

/* Was the event accepted, or given up? */
bool
inbox_was_accepted(const InboxStream *stream, int64 seq, int64 subseq)
{
	if (stream->strategy == INBOX_SEQUENCE ||
		stream->strategy == INBOX_ID_AND_SEQUENCE)
		return decide_is_in_set(stream, seq, subseq) ||
			(subseq > 0 && seq <= stream->floor);
	return stream->has_mark && seq >= stream->first &&
		decide_compare(stream, seq, subseq) <= 0;
}
