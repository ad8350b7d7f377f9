/*-------------------------------------------------------------------------
 *
 * fault.h
 *		Fault points and a movable clock, for test builds only.
 *
 * A build with -DIDEMPOTENCY_FAULTS has two settings that only a superuser
 * can change: idempotency.fault and idempotency.clock_offset.  In any other
 * build the macros below vanish.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_FAULT_H
#define IDEMPOTENCY_FAULT_H

#include "utils/timestamp.h"

#ifdef IDEMPOTENCY_FAULTS

extern void fault_init(void);
extern void fault_point(const char *point);
extern bool fault_skips(const char *point);
extern TimestampTz fault_clock(void);

#define FAULT_INIT()		fault_init()
#define FAULT_POINT(name)	fault_point(name)
#define FAULT_SKIPS(name)	fault_skips(name)
#define clock_now()			fault_clock()

#else

#define FAULT_INIT()		((void) 0)
#define FAULT_POINT(name)	((void) 0)
#define FAULT_SKIPS(name)	false
#define clock_now()			GetCurrentTimestamp()

#endif							/* IDEMPOTENCY_FAULTS */

#endif							/* IDEMPOTENCY_FAULT_H */
