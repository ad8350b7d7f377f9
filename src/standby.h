/*-------------------------------------------------------------------------
 *
 * standby.h
 *		How far standbys have the write-ahead log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_STANDBY_H
#define IDEMPOTENCY_STANDBY_H

#include "access/xlogdefs.h"

extern XLogRecPtr standby_flushed(int n);

#endif							/* IDEMPOTENCY_STANDBY_H */
