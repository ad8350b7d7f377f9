/*-------------------------------------------------------------------------
 *
 * note.h
 *		Aborted attempts, noted in shared memory until the worker writes them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_NOTE_H
#define IDEMPOTENCY_NOTE_H

#include "stats.h"

extern void note_init(void);
extern void note_abort(const pg_uuid_t *id, StatsSlot slot, int32 attempt,
					   TimestampTz claimed_at);

#endif							/* IDEMPOTENCY_NOTE_H */
