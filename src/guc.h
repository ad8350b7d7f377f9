/*-------------------------------------------------------------------------
 *
 * guc.h
 *		Server settings (idempotency.*).
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_GUC_H
#define IDEMPOTENCY_GUC_H

#define ORIGIN_MAX_BYTES 128
#define LOG_REFUSALS_OFF 0

extern int	guc_max_wait;		/* ms */
extern int	guc_busy_retry_after;	/* ms */
extern int	guc_maintain_lock_timeout;	/* ms */
extern int	guc_maintain_pages;
extern int	guc_max_scopes;
extern int	guc_max_databases;
extern int	guc_note_buffer;	/* kB */
extern int	guc_naptime;		/* ms */
extern char *guc_origin;		/* or NULL */
extern char *guc_traceparent;
extern int	guc_traceparent_changes;
extern double guc_trace_sample_rate;
extern int	guc_span_buffer;	/* kB */
extern bool guc_collect_stats;
extern int	guc_log_refusals;	/* an elevel, or LOG_REFUSALS_OFF */
extern char *guc_export_directory;
extern int	guc_export_interval;	/* ms */
extern int	guc_checkpoint_standbys;

extern void guc_init(void);

#endif							/* IDEMPOTENCY_GUC_H */
