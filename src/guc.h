/*-------------------------------------------------------------------------
 *
 * guc.h
 *		Server settings (idempotency.*).
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_GUC_H
#define IDEMPOTENCY_GUC_H

extern int	guc_max_wait;		/* ms */
extern int	guc_busy_retry_after;	/* ms */
extern int	guc_maintain_lock_timeout;	/* ms */
extern int	guc_maintain_pages;
extern int	guc_max_scopes;
extern int	guc_max_databases;
extern int	guc_naptime;		/* ms */

extern void guc_init(void);

#endif							/* IDEMPOTENCY_GUC_H */
