/*-------------------------------------------------------------------------
 *
 * breaker.h
 *		Circuit breakers, one per scope, in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_BREAKER_H
#define IDEMPOTENCY_BREAKER_H

#include "policy.h"
#include "stats.h"

/* counts the states that a breaker has been in; 0 is none of them */
typedef uint32 BreakerGeneration;

extern void breaker_init(void);
extern bool breaker_admit(StatsSlot slot, const Restraint *settings,
						  TimestampTz now, int64 lease,
						  BreakerGeneration *generation,
						  TimestampTz *retry_at);
extern void breaker_withdraw(StatsSlot slot, BreakerGeneration generation);
extern BreakerGeneration breaker_generation_at(StatsSlot slot,
											   TimestampTz claimed_at);
extern void breaker_result(StatsSlot slot, BreakerGeneration generation,
						   bool success, uint64 n);

#endif							/* IDEMPOTENCY_BREAKER_H */
