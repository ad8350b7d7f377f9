/*-------------------------------------------------------------------------
 *
 * inbox_ranges.c
 *		The set of events that were accepted out of order.
 *
 * Events are pairs (seq, subseq).  What tells whether events are missing is
 * the seq alone: nobody knows how many events share one.  So the set is kept by
 * subseq: for each, ranges of seqs, in order.  Mostly all events have subseq 0,
 * and the set is what lies behind the first gap.
 *
 * In the row the set is a string of numbers of variable length, each relative
 * to what stands before it, so that a range takes some three bytes:
 *
 *		for each subseq: the subseq, how many ranges, and for each range:
 *			its begin, counted from the end of the one before (the first:
 *				from the mark's seq if subseq is 0, else from the floor),
 *			its length less one,
 *			subseq 0: whole seconds from the time when the first gap was seen
 *				(a column of the row) until the gap before it was
 *
 * A number is in groups of seven bits, the lowest first; the highest bit of a
 * byte says that another one follows.
 *
 * Invariants: ranges of a subseq neither touch nor overlap; the times of those
 * of subseq 0 don't fall, since a gap that is split has been there before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "inbox.h"

/* Where the first range is that lies behind the event. */
static int
ranges_behind(const InboxRanges *set, int64 subseq, int64 seq)
{
	int			low = 0;
	int			high = set->n;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		const InboxRange *range = &set->ranges[middle];

		if (range->subseq > subseq ||
			(range->subseq == subseq && range->from > seq))
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Is the event in the set? */
bool
inbox_ranges_have(const InboxRanges *set, int64 subseq, int64 seq)
{
	int			at = ranges_behind(set, subseq, seq);

	return at > 0 && set->ranges[at - 1].subseq == subseq &&
		set->ranges[at - 1].to >= seq;
}

/* Does the range at "at", if there is one, end right before the event? */
static bool
ranges_ends_at(const InboxRanges *set, int at, int64 subseq, int64 seq)
{
	return at >= 0 && set->ranges[at].subseq == subseq &&
		set->ranges[at].to == seq - 1;
}

/* Does the range at "at", if there is one, begin right behind the event? */
static bool
ranges_begins_at(const InboxRanges *set, int at, int64 subseq, int64 seq)
{
	return at < set->n && set->ranges[at].subseq == subseq &&
		set->ranges[at].from - 1 == seq;
}

/* Would the event, which isn't in the set, be a range of its own? */
bool
inbox_ranges_grow(const InboxRanges *set, int64 subseq, int64 seq)
{
	int			at = ranges_behind(set, subseq, seq);

	return !ranges_ends_at(set, at - 1, subseq, seq) &&
		!ranges_begins_at(set, at, subseq, seq);
}

/* Make room for a range at "at". */
static void
ranges_insert(InboxRanges *set, int at)
{
	if (set->n == set->max)
	{
		int			max = Max(8, set->max * 2);

		set->ranges = set->ranges ?
			repalloc(set->ranges, max * sizeof(InboxRange)) :
			MemoryContextAlloc(TopTransactionContext,
							   max * sizeof(InboxRange));
		set->max = max;
	}
	memmove(&set->ranges[at + 1], &set->ranges[at],
			(set->n - at) * sizeof(InboxRange));
	set->n++;
}

/* Remove n ranges from "at" on. */
void
inbox_ranges_remove(InboxRanges *set, int at, int n)
{
	memmove(&set->ranges[at], &set->ranges[at + n],
			(set->n - at - n) * sizeof(InboxRange));
	set->n -= n;
}

/* Add events of which none is in the set; since when is the gap before? */
void
inbox_ranges_add(InboxRanges *set, int64 subseq, int64 from, int64 to,
				 TimestampTz since)
{
	int			at = ranges_behind(set, subseq, from);
	bool		after = ranges_ends_at(set, at - 1, subseq, from);
	bool		before = ranges_begins_at(set, at, subseq, to);

	if (after && before)
	{
		set->ranges[at - 1].to = set->ranges[at].to;
		inbox_ranges_remove(set, at, 1);
	}
	else if (after)
		set->ranges[at - 1].to = to;
	else if (before)
		set->ranges[at].from = from;
	else
	{
		InboxRange	range = {subseq, from, to, since};

		if (at < set->n && set->ranges[at].subseq == subseq)
			range.since = Min(since, set->ranges[at].since);
		ranges_insert(set, at);
		set->ranges[at] = range;
	}
}

/* How many gaps are there?  As many as ranges of subseq 0. */
int
inbox_ranges_holes(const InboxRanges *set)
{
	return ranges_behind(set, 0, PG_INT64_MAX);
}

/* For qsort(). */
static int
ranges_compare_ends(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* Drop what lies up to the floor, of subseqs other than 0. */
static void
ranges_cut(InboxStream *stream)
{
	InboxRanges *set = &stream->ahead;
	int			kept = inbox_ranges_holes(set);

	for (int i = kept; i < set->n; i++)
	{
		InboxRange	range = set->ranges[i];

		if (range.to <= stream->floor)
			continue;
		range.from = Max(range.from, stream->floor + 1);
		set->ranges[kept++] = range;
	}
	set->n = kept;
}

/*
 * Forget the oldest of what was accepted with other subseqs than 0, up to the
 * mark, so that no more than "keep" ranges are left; returns whether that
 * could be done.
 */
bool
inbox_ranges_forget(InboxStream *stream, int keep)
{
	InboxRanges *set = &stream->ahead;
	int			holes = inbox_ranges_holes(set);
	int64	   *ends = palloc((set->n - holes + 1) * sizeof(int64));
	int			n = 0;
	int			excess = set->n - keep;

	for (int i = holes; i < set->n; i++)
	{
		if (stream->has_mark && set->ranges[i].to <= stream->seq)
			ends[n++] = set->ranges[i].to;
	}
	if (excess > 0 && excess <= n)
	{
		qsort(ends, n, sizeof(int64), ranges_compare_ends);
		stream->floor = Max(stream->floor, ends[excess - 1]);
		ranges_cut(stream);
	}
	pfree(ends);
	return excess <= n;
}

/* Append a number. */
static void
ranges_put(StringInfo data, uint64 number)
{
	while (number >= 0x80)
	{
		appendStringInfoCharMacro(data, (char) (number | 0x80));
		number >>= 7;
	}
	appendStringInfoCharMacro(data, (char) number);
}

/* What the set of a stream is in its row; NULL if it is empty. */
bytea *
inbox_ranges_encode(const InboxStream *stream)
{
	const InboxRanges *set = &stream->ahead;
	StringInfoData data;

	if (set->n == 0)
		return NULL;
	initStringInfo(&data);
	appendStringInfoSpaces(&data, VARHDRSZ);
	for (int i = 0; i < set->n;)
	{
		int64		subseq = set->ranges[i].subseq;
		int64		end = subseq == 0 ? stream->seq : stream->floor;
		int			n = ranges_behind(set, subseq, PG_INT64_MAX) - i;

		ranges_put(&data, subseq);
		ranges_put(&data, n);
		for (; n > 0; n--, i++)
		{
			const InboxRange *range = &set->ranges[i];

			ranges_put(&data, (uint64) range->from - (uint64) end);
			ranges_put(&data, range->to - range->from);
			if (subseq == 0)
				ranges_put(&data, (range->since - set->ranges[0].since) /
						   USECS_PER_SEC);
			end = range->to;
		}
	}
	SET_VARSIZE(data.data, data.len);
	return (bytea *) data.data;
}

/* Take a number; raises XX001 at the end of the data. */
static uint64
ranges_take(const uint8 **at, const uint8 *end)
{
	uint64		number = 0;

	for (int shift = 0; *at < end && shift < 64; shift += 7)
	{
		uint8		byte = *(*at)++;

		number |= (uint64) (byte & 0x7F) << shift;
		if ((byte & 0x80) == 0)
			return number;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a row of table \"%s.inbox_stream\" is damaged",
					IDEMPOTENCY_SCHEMA)));
}

/*
 * Read the set of a stream, whose other fields are set, from its row; base is
 * the time when the first gap was seen.  Raises XX001.
 */
void
inbox_ranges_decode(InboxStream *stream, const bytea *data, TimestampTz base)
{
	const uint8 *at = (const uint8 *) VARDATA_ANY(data);
	const uint8 *end = at + VARSIZE_ANY_EXHDR(data);
	InboxRanges *set = &stream->ahead;

	while (at < end)
	{
		int64		subseq = ranges_take(&at, end);
		uint64		n = ranges_take(&at, end);
		int64		before = subseq == 0 ? stream->seq : stream->floor;

		for (; n > 0; n--)
		{
			InboxRange	range = {subseq};

			range.from = before + ranges_take(&at, end);
			range.to = range.from + ranges_take(&at, end);
			range.since = base;
			if (subseq == 0)
				range.since += ranges_take(&at, end) * USECS_PER_SEC;
			before = range.to;
			ranges_insert(set, set->n);
			set->ranges[set->n - 1] = range;
		}
	}
}
