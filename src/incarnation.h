/*-------------------------------------------------------------------------
 *
 * incarnation.h
 *		The lives of the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_INCARNATION_H
#define IDEMPOTENCY_INCARNATION_H

/* one life of the database; number 0 stands for "none yet" */
typedef struct Incarnation
{
	int64		number;
	int64		base;			/* what its fences are above */
	int64		system;			/* system identifier */
	int64		timeline;
	int64		database;		/* OID */
	int64		relation;		/* OID of the table of incarnations */
	char	   *origin;			/* names its ledger; palloc'd */
	bool		own;			/* begun by this transaction */
} Incarnation;

/* told of each one that begins, in the transaction that begins it */
typedef void (*IncarnationBegun) (const Incarnation *before,
								  const Incarnation *now, const text *reason);
extern IncarnationBegun incarnation_begun_hook;

extern bool incarnation_prepare(bool wait);
extern int64 incarnation_number(bool begin);
extern int64 incarnation_base(void);
extern Incarnation incarnation_latest(void);
extern bool incarnation_is_here(const Incarnation *incarnation);

#endif							/* IDEMPOTENCY_INCARNATION_H */
