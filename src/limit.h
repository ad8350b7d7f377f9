/*-------------------------------------------------------------------------
 *
 * limit.h
 *		Limits per scope: claims per interval, claims at once, replays per key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_LIMIT_H
#define IDEMPOTENCY_LIMIT_H

#include "policy.h"
#include "stats.h"

extern void limit_init(void);
extern bool limit_rate(StatsSlot slot, const Restraint *settings,
					   TimestampTz now, TimestampTz *retry_at);
extern int64 limit_enter(StatsSlot slot);
extern void limit_leave(StatsSlot slot, uint64 n);
extern bool limit_replay(const pg_uuid_t *id, const Restraint *settings,
						 TimestampTz now, TimestampTz *retry_at);

#endif							/* IDEMPOTENCY_LIMIT_H */
