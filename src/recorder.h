/*-------------------------------------------------------------------------
 *
 * recorder.h
 *		Writing down what was noted in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_RECORDER_H
#define IDEMPOTENCY_RECORDER_H

extern void recorder_init(void);

#endif							/* IDEMPOTENCY_RECORDER_H */
