/*-------------------------------------------------------------------------
 *
 * tally.h
 *		Counts that depend on how the transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_TALLY_H
#define IDEMPOTENCY_TALLY_H

#include "breaker.h"

extern void tally_init(void);
extern void tally_claim(StatsSlot slot, BreakerGeneration generation,
						StatsCounter on_commit, bool leased);
extern int64 tally_leased(StatsSlot slot);
extern void tally_settle(StatsSlot slot, BreakerGeneration generation,
						 StatsCounter counter);

#endif							/* IDEMPOTENCY_TALLY_H */
