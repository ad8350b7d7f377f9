/*-------------------------------------------------------------------------
 *
 * counter.h
 *		Numbers that only rise, from a sequence.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_COUNTER_H
#define IDEMPOTENCY_COUNTER_H

extern int64 counter_draw(Oid sequence, int64 n);
extern int64 counter_last(Oid sequence);

#endif							/* IDEMPOTENCY_COUNTER_H */
