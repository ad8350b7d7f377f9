/*-------------------------------------------------------------------------
 *
 * maintain.h
 *		Freeing the space of what has expired.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_MAINTAIN_H
#define IDEMPOTENCY_MAINTAIN_H

extern void maintain_init(void);

#endif							/* IDEMPOTENCY_MAINTAIN_H */
