/*-------------------------------------------------------------------------
 *
 * export.h
 *		Checkpoints in files, for others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_EXPORT_H
#define IDEMPOTENCY_EXPORT_H

extern void export_init(void);

#endif							/* IDEMPOTENCY_EXPORT_H */
