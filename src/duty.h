/*-------------------------------------------------------------------------
 *
 * duty.h
 *		What has to be done from time to time in each database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_DUTY_H
#define IDEMPOTENCY_DUTY_H

#include "nodes/execnodes.h"
#include "storage/lockdefs.h"

/* does one step; runs in a transaction, as the owner of our tables */
typedef void (*DutyFunction) (int step);

typedef struct Duty
{
	const char *name;
	int			steps;			/* the function is called with 0 to steps - 1 */
	DutyFunction function;
} Duty;

extern void duty_register(const char *name, int steps, DutyFunction function);
extern int	duty_count(void);
extern const Duty *duty_get(int number);
extern void duty_run(const Duty *duty, int step, ReturnSetInfo *report);
extern void duty_report(const char *object, const char *result, int64 amount);
extern void duty_execute(const char *command, int nargs, Oid *types,
						 Datum *values, int expected);
extern bool duty_lock(Oid relid, LOCKMODE mode);

#endif							/* IDEMPOTENCY_DUTY_H */
