/*-------------------------------------------------------------------------
 *
 * fence.h
 *		Fences: numbers that only rise, by which a stale holder is known.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_FENCE_H
#define IDEMPOTENCY_FENCE_H

extern int64 fence_next(void);

#endif							/* IDEMPOTENCY_FENCE_H */
