/*-------------------------------------------------------------------------
 *
 * notable.h
 *		What stands out: keys with many duplicates, and slow calls.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_NOTABLE_H
#define IDEMPOTENCY_NOTABLE_H

#include "utils/timestamp.h"

#include "stats.h"

extern void notable_init(void);
extern void notable_duplicate(const pg_uuid_t *id, StatsSlot slot);
extern void notable_call(StatsSlot slot, StatsFunction function, int64 usec,
						 int64 waited, TimestampTz now);

#endif							/* IDEMPOTENCY_NOTABLE_H */
