/*-------------------------------------------------------------------------
 *
 * saga.h
 *		Sagas: undoing, step by step, what can't be made idempotent.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_SAGA_H
#define IDEMPOTENCY_SAGA_H

#include "nodes/pg_list.h"
#include "storage/itemptr.h"

#include "entry.h"
#include "key.h"

/* what the "char" column state of saga_run says */
typedef enum SagaState
{
	SAGA_RUNNING = 'r',
	SAGA_COMPENSATING = 'c',
	SAGA_FAILED = 'x',			/* a step could not be undone */
	SAGA_COMPENSATED = 'd',
	SAGA_HELD = 'h'				/* completed; its parent may still want it undone */
} SagaState;

/* who has to do the next thing, in the "char" column todo, from due_at on */
typedef enum SagaTodo
{
	TODO_WORKER = 'w',			/* the worker, or maintain() */
	TODO_HANDLER = 's',			/* whoever runs the role's SQL handlers */
	TODO_EXTERNAL = 'e',		/* a client, by next_compensation() */
	TODO_NOTHING = 'n'			/* nobody but an operator */
} SagaTodo;

/* what the "char" column state of saga_step says */
typedef enum SagaStepState
{
	STEP_REGISTERED = 'r',		/* nobody knows whether it was done */
	STEP_DONE = 'd',
	STEP_COMPENSATING = 'c',	/* an attempt to undo it began */
	STEP_COMPENSATED = 'k',
	STEP_FAILED = 'x'			/* could not be undone */
} SagaStepState;

/* a row of saga_run; texts point into the tuple or to the writer's values */
typedef struct SagaRun
{
	Identity	identity;
	int64		fence;			/* the key's, when it was written */
	SagaState	state;
	SagaTodo	todo;
	TimestampTz started_at;
	TimestampTz changed_at;
	TimestampTz due_at;
	TimestampTz deadline;		/* DT_NOEND: none */
	int32		step;			/* being undone, or 0 */
	bool		has_parent;
	pg_uuid_t	parent;
	text	   *reason;			/* NULL: none */
	ItemPointerData tid;
} SagaRun;

/* a row of saga_step */
typedef struct SagaStep
{
	pg_uuid_t	id;
	int32		step_no;
	int32		attempt;		/* to undo it */
	int64		fence;			/* of the attempt; NO_FENCE: none is under way */
	TimestampTz registered_at;
	TimestampTz done_at;		/* NO_TIME: unknown */
	TimestampTz not_before;		/* of the next attempt; NO_TIME: at once */
	TimestampTz lease_until;	/* of the attempt; NO_TIME: none */
	TimestampTz settled_at;		/* when it was undone, or given up; or NO_TIME */
	int64		incarnation;	/* in which role_oid was true */
	Oid			role_oid;
	SagaStepState state;
	text	   *name;
	text	   *handler;		/* qualified signature; NULL: external */
	text	   *role;
	text	   *args;			/* NULL: none, here and below */
	text	   *result;
	text	   *error;			/* of the last attempt */
	text	   *child_scope;	/* NULL: it is no key with a saga of its own */
	text	   *child_principal;
	text	   *child_key;
	ItemPointerData tid;
} SagaStep;

/* an attempt to undo a step, as it is told to whoever is to do it */
typedef struct SagaAttempt
{
	SagaRun		run;
	SagaStep	step;
} SagaAttempt;

/* how an attempt ended */
typedef struct SagaResult
{
	bool		success;
	bool		retryable;
	int64		retry_after_ms; /* negative: as the policy's backoff says */
	text	   *error;
} SagaResult;

#define STEP_MAX_BYTES		255
#define SAGA_STEPS_MAX		1000

/* saga_table.c */
extern bool saga_is_empty(void);
extern bool saga_run_find(const pg_uuid_t *id, SagaRun *run);
extern void saga_run_insert(SagaRun *run);
extern void saga_run_update(SagaRun *run);
extern void saga_delete(const pg_uuid_t *id);
extern List *saga_run_due(SagaTodo todo, TimestampTz now, text *scope, int max);
extern List *saga_run_all(void);
extern List *saga_steps(const pg_uuid_t *id);
extern void saga_step_insert(SagaStep *step);
extern void saga_step_update(SagaStep *step);
extern void saga_child_insert(const pg_uuid_t *child, const pg_uuid_t *parent);
extern bool saga_child_find(const pg_uuid_t *child, pg_uuid_t *parent);

/* saga.c */
extern void saga_identity(Identity *identity, FunctionCallInfo fcinfo,
						  int principal);
extern SagaStep *saga_find_step(List *steps, const text *name);
extern char *saga_step_detail(const SagaStep *step, const text *error);

/* saga_compensate.c */
extern void saga_init_hooks(void);
extern void saga_write_key(OpenKey *key, KeyRow *row, EntryDecision decision,
						   const char *detail);
extern void saga_begin(OpenKey *key, KeyRow *row, const char *reason,
					   text *error);
extern bool saga_open(OpenKey *key, Identity *identity, SagaRun *run, bool *found,
					  bool trusted, bool wait);
extern bool saga_take(Identity *identity, int64 lease, Oid role,
					  SagaAttempt *attempt);
extern const char *saga_settle(Identity *identity, const text *name,
							   int64 fence, const SagaResult *result,
							   bool trusted, SagaStep *step);
extern void saga_settle_open(OpenKey *key, SagaRun *run, SagaStep *step,
							 const SagaResult *result);

/* saga_handler.c */
extern Oid	saga_step_role(const SagaStep *step);

/* saga_helper.c */
extern void saga_helper_start(Oid role);

/* saga_duty.c */
extern void saga_init(void);
extern bool saga_leave(Segment segment);

#endif							/* IDEMPOTENCY_SAGA_H */
