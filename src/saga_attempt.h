/*-------------------------------------------------------------------------
 *
 * saga_attempt.h
 *		What the parts of sagas that undo steps share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_SAGA_ATTEMPT_H
#define IDEMPOTENCY_SAGA_ATTEMPT_H

#include "nodes/execnodes.h"

#include "saga.h"

/* saga_compensate.c */
extern KeyRow saga_key_row(const OpenKey *key, const SagaRun *run);
extern SagaStep *saga_present_step(const SagaRun *run);
extern TimestampTz saga_key_expiry(const OpenKey *key);
extern void saga_run_init(SagaRun *run, const OpenKey *key,
						  const KeyRow *row);

extern void saga_aim(SagaRun *run, const SagaStep *step, TimestampTz now);

/* saga_handler.c */
extern bool saga_attempt_lock(const pg_uuid_t *id);
extern bool saga_attempt_is_dead(const pg_uuid_t *id);
extern void saga_child_lock(const pg_uuid_t *child);
extern bool saga_attempt_is_current(Identity *identity,
									const SagaAttempt *attempt);
extern const char *saga_role_trouble(Oid role);
extern text *saga_step_key(const SagaStep *step);
extern void saga_handle(const SagaAttempt *attempt);
extern void saga_watch_attempt(PGFunction function, SagaAttempt *attempt,
							   ReturnSetInfo *report);
extern SagaAttempt *saga_watched(FunctionCallInfo fcinfo);

#endif							/* IDEMPOTENCY_SAGA_ATTEMPT_H */
