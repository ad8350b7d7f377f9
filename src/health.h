/*-------------------------------------------------------------------------
 *
 * health.h
 *		What an operator's checks need to know.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_HEALTH_H
#define IDEMPOTENCY_HEALTH_H

extern void health_init(void);

#endif							/* IDEMPOTENCY_HEALTH_H */
