/*-------------------------------------------------------------------------
 *
 * ring.c
 *		Geometry of the rings: which table a key lives in, and until when.
 *
 * Time is cut into epochs as wide as the ring; epoch e lives in table e mod 4.
 * A row goes to the table of the epoch in which it expires.  A ring serves a
 * reach (how far ahead of now a row can expire: the retention, after the
 * longest lease) of up to two widths, so at any time the rows that count are
 * in the tables of epochs e, e+1 and e+2, and the table of e-1 (which will be
 * that of e+3) holds nothing that counts and may be truncated.
 *
 * Epochs are absolute (they count from 2000-01-01 UTC), so a dump that is
 * restored later, elsewhere, finds every row in its place.
 *
 * A transaction that runs longer than the retention it claimed with has its
 * row in a table whose time is over, or has come round again.  It counts until
 * the transaction ends, however late, so the other tables of the ring are
 * looked at too unless they are known to be clean: they have been seen empty
 * since anything was put there that could matter.
 *
 * Clocks that are set back: a row is looked for as if the clock could be
 * ahead by an eighth of the width (RING_SLACK), nothing is taken for clean in
 * the last eighth of an epoch, and nothing is truncated in the last or the
 * first; so a step back of up to that much neither hides a row nor loses one.
 *
 * No catalog, no state: everything here is arithmetic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ring.h"

typedef struct RingGeometry
{
	const char *name;
	int64		width;			/* microseconds */
} RingGeometry;

/* smallest first; the permanent table's "width" is how often it is cleaned */
static const RingGeometry rings[RING_COUNT] = {
	{"short", 2 * USECS_PER_HOUR},
	{"day", 30 * USECS_PER_HOUR},
	{"week", 8 * USECS_PER_DAY},
	{"month", 32 * USECS_PER_DAY},
	{"permanent", USECS_PER_DAY}
};

static const char *const segment_names[SEGMENT_COUNT] = {
	"key_short_0", "key_short_1", "key_short_2", "key_short_3",
	"key_day_0", "key_day_1", "key_day_2", "key_day_3",
	"key_week_0", "key_week_1", "key_week_2", "key_week_3",
	"key_month_0", "key_month_1", "key_month_2", "key_month_3",
	"key_permanent"
};

#define RING_SLACK(ring) (rings[ring].width / 8)

/* The smallest ring for rows that expire up to "reach" from now. */
Ring
ring_for(int64 reach)
{
	if (reach == RETENTION_FOREVER)
		return RING_PERMANENT;
	for (Ring ring = RING_SHORT; ring < RING_PERMANENT; ring++)
	{
		if (reach <= 2 * rings[ring].width)
			return ring;
	}
	elog(ERROR, "reach of " INT64_FORMAT " microseconds fits no ring", reach);
}

/* The ring that a segment belongs to. */
Ring
ring_of(Segment segment)
{
	return (Ring) (segment / RING_SLOTS);
}

/* The ring's name, as users see it. */
const char *
ring_name(Ring ring)
{
	return rings[ring].name;
}

/* Name of the segment's table. */
const char *
segment_name(Segment segment)
{
	return segment_names[segment];
}

/* The epoch that contains this moment. */
int64
ring_epoch(Ring ring, TimestampTz at)
{
	int64		width = rings[ring].width;
	int64		epoch = at / width;

	return at % width < 0 ? epoch - 1 : epoch;
}

/* When an epoch begins. */
TimestampTz
ring_epoch_begin(Ring ring, int64 epoch)
{
	return epoch * rings[ring].width;
}

/* The segment that serves an epoch. */
Segment
ring_segment(Ring ring, int64 epoch)
{
	if (ring == RING_PERMANENT)
		return SEGMENT_PERMANENT;
	return ring * RING_SLOTS + (int) (epoch & (RING_SLOTS - 1));
}

/* The segment for a row that expires at this moment. */
Segment
ring_segment_at(Ring ring, TimestampTz expires_at)
{
	if (ring == RING_PERMANENT)
		return SEGMENT_PERMANENT;
	return ring_segment(ring, ring_epoch(ring, expires_at));
}

/*
 * The epoch that the segment serves at this moment: one of e-1 (it is over),
 * e, e+1, e+2.
 */
int64
ring_segment_epoch(Segment segment, TimestampTz now)
{
	Ring		ring = ring_of(segment);
	int64		epoch = ring_epoch(ring, now);

	if (ring == RING_PERMANENT)
		return epoch;
	for (int64 candidate = epoch - 1; candidate <= epoch + 2; candidate++)
	{
		if (ring_segment(ring, candidate) == segment)
			return candidate;
	}
	pg_unreachable();
}

/*
 * The segments of a ring: first those in which a live row can be, given that
 * no row lives longer than reach (microseconds from now; RETENTION_FOREVER for
 * "not known"), *nlive of them, the one that the newest rows are in before the
 * others; then those that only a row of a long transaction can be in.  Lowers
 * *until to the moment at which another segment becomes live.  Returns how
 * many there are in all.
 */
int
ring_segments(Ring ring, TimestampTz now, int64 reach, Segment *segments,
			  int *nlive, TimestampTz *until)
{
	int64		width = rings[ring].width;
	int64		first = ring_epoch(ring, now);
	int64		last = first + 2;
	int64		newest = first;
	int			n = 0;

	*nlive = 1;
	if (ring == RING_PERMANENT)
	{
		segments[0] = SEGMENT_PERMANENT;
		return 1;
	}
	*until = Min(*until, (first + 1) * width);
	if (reach <= 2 * width)
	{
		int64		reached = now + reach + RING_SLACK(ring);

		newest = ring_epoch(ring, now + reach);
		if (ring_epoch(ring, reached) < last)
		{
			last = ring_epoch(ring, reached);
			*until = Min(*until, now + (last + 1) * width - reached);
		}
	}
	segments[n++] = ring_segment(ring, newest);
	for (int64 epoch = first; epoch < first + RING_SLOTS; epoch++)
	{
		if (epoch != newest)
			segments[n++] = ring_segment(ring, epoch);
		if (epoch <= last)
			*nlive = n;
	}
	return n;
}

/*
 * In which epoch, or later, must a segment that isn't live have been seen
 * empty to be clean at this moment?  Nobody puts a row into e-1 in epoch e;
 * what was put into another since the epoch before its last turn ended is of
 * scopes for which it is live.
 */
int64
ring_clean_epoch(Segment segment, TimestampTz now)
{
	Ring		ring = ring_of(segment);
	int64		epoch = ring_epoch(ring, now);
	int64		serves = ring_segment_epoch(segment, now);

	if (serves >= epoch)
		return serves - RING_SLOTS + 1;
	if (ring_epoch(ring, now + RING_SLACK(ring)) != epoch)
		return PG_INT64_MAX;
	return epoch;
}

/*
 * May the segment be emptied as a whole at this moment?  The caller holds an
 * exclusive lock on its table and has read the clock after getting it.
 */
bool
ring_may_truncate(Segment segment, TimestampTz now)
{
	Ring		ring = ring_of(segment);

	return ring != RING_PERMANENT &&
		ring_segment_epoch(segment, now) == ring_epoch(ring, now) - 1 &&
		ring_epoch(ring, now) == ring_epoch(ring, now + RING_SLACK(ring)) &&
		ring_epoch(ring, now) == ring_epoch(ring, now - RING_SLACK(ring));
}

/*
 * What has expired up to this moment may be deleted: not at once, lest a
 * clock that is set back finds it missing.
 */
TimestampTz
ring_deletable(Ring ring, TimestampTz now)
{
	return now - RING_SLACK(ring);
}

/* When does what is settled at this moment stop to count? */
TimestampTz
ring_expiry(TimestampTz from, int64 retention)
{
	return retention == RETENTION_FOREVER ? DT_NOEND : from + retention;
}
