/*-------------------------------------------------------------------------
 *
 * trace.h
 *		Which distributed trace a call belongs to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_TRACE_H
#define IDEMPOTENCY_TRACE_H

#define TRACE_ID_LENGTH 16

extern bool trace_current(uint8 id[TRACE_ID_LENGTH]);

#endif							/* IDEMPOTENCY_TRACE_H */
