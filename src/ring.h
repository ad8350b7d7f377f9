/*-------------------------------------------------------------------------
 *
 * ring.h
 *		Geometry of the rings: which table a key lives in, and until when.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_RING_H
#define IDEMPOTENCY_RING_H

#include "utils/timestamp.h"

typedef enum Ring
{
	RING_SHORT,
	RING_DAY,
	RING_WEEK,
	RING_MONTH,
	RING_PERMANENT				/* one table; what it holds never expires */
} Ring;

#define USECS_PER_MSEC		INT64CONST(1000)

#define RING_COUNT			5
#define RING_SLOTS			4	/* tables of a ring that turns */
#define SEGMENT_PERMANENT	(RING_PERMANENT * RING_SLOTS)
#define SEGMENT_COUNT		(SEGMENT_PERMANENT + 1)

/* a segment is one table: ring * RING_SLOTS + slot */
typedef int Segment;

/* retention, in microseconds, that stands for "never expires" */
#define RETENTION_FOREVER	PG_INT64_MAX
#define RETENTION_MIN		USECS_PER_SEC
#define RETENTION_MAX		(60 * USECS_PER_DAY)

/* the widest ring holds the longest retention after the longest lease */
#define LEASE_MIN			USECS_PER_MSEC
#define LEASE_MAX			(4 * USECS_PER_DAY)

extern Ring ring_for(int64 reach);
extern Ring ring_of(Segment segment);
extern const char *ring_name(Ring ring);
extern const char *segment_name(Segment segment);
extern int64 ring_epoch(Ring ring, TimestampTz at);
extern TimestampTz ring_epoch_begin(Ring ring, int64 epoch);
extern Segment ring_segment(Ring ring, int64 epoch);
extern Segment ring_segment_at(Ring ring, TimestampTz expires_at);
extern int64 ring_segment_epoch(Segment segment, TimestampTz now);
extern int	ring_segments(Ring ring, TimestampTz now, int64 reach,
						  Segment *segments, int *nlive, TimestampTz *until);
extern int64 ring_clean_epoch(Segment segment, TimestampTz now);
extern bool ring_may_truncate(Segment segment, TimestampTz now);
extern TimestampTz ring_deletable(Ring ring, TimestampTz now);
extern TimestampTz ring_expiry(TimestampTz from, int64 retention);

#endif							/* IDEMPOTENCY_RING_H */
