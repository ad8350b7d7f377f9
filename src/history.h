/*-------------------------------------------------------------------------
 *
 * history.h
 *		The last hour of a scope's duplicates, minute by minute.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_HISTORY_H
#define IDEMPOTENCY_HISTORY_H

extern void history_init(void);

#endif							/* IDEMPOTENCY_HISTORY_H */
