/*-------------------------------------------------------------------------
 *
 * saga_compensate.c
 *		Undoing the steps of a saga: the state machine.
 *
 * A key that is being compensated has a row of state KEY_COMPENSATING, which no
 * claim takes and which doesn't expire.  The steps that were registered are
 * undone in reverse order, those of unknown outcome included; one at a time:
 *
 *	taken		by an attempt with a fence of its own; saga_take()
 *	settled		by that fence, as undone or not; saga_settle()
 *
 * and so on until there is none left, or one can't be undone.  Who does it (a
 * client, a helper process, the worker for a step that is a saga itself) is
 * none of this file's business.
 *
 * Locking: everything happens under the key's lock, as in key.c, and writes the
 * key's row; so whoever comes meanwhile finds its writer running.  Only then
 * are the saga's rows read and written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"

#include "decision.h"
#include "errors.h"
#include "failure.h"
#include "fault.h"
#include "fence.h"
#include "saga.h"
#include "saga_attempt.h"
#include "txn.h"

/* a saga that is over is shown for so long, at most */
#define SAGA_SHOWN		(30 * USECS_PER_DAY)
/* how often a completed one asks whether its parent is over */
#define SAGA_HELD_LOOK	USECS_PER_MINUTE

/*
 * Write the key's row, new or in the place of what was found, and record why;
 * without a decision (ENTRY_DECISIONS), just write it.
 */
void
saga_write_key(OpenKey *key, KeyRow *row, EntryDecision decision,
			   const char *detail)
{
	if (decision != ENTRY_DECISIONS)
		decision_number_row(&key->policy, row);
	if (key->probe.result == PROBE_ROW)
		key_replace(key, row);
	else
	{
		key->probe.place = store_insert(&key->store, key->identity, row,
										ring_segment_at(policy_ring(&key->policy),
														row->expires_at));
		key->probe.result = PROBE_ROW;
		key->probe.own = true;
		txn_wrote_unnoted();
	}
	key->probe.row = *row;
	if (decision != ENTRY_DECISIONS)
		(void) decision_key(&key->policy, key->identity, decision, row,
							key->now, detail);
	ForceSyncCommit();
}

/*
 * The key's row, or, if it is gone, what can be known of it.
 */
KeyRow
saga_key_row(const OpenKey *key, const SagaRun *run)
{
	KeyRow		row = {0};

	if (key->probe.result == PROBE_ROW)
		return key->probe.row;
	row.state = KEY_COMPENSATING;
	row.claimed_at = run->started_at;
	row.finished_at = NO_TIME;
	row.retry_at = NO_TIME;
	row.lease_until = NO_TIME;
	row.attempt = 1;
	row.fence = run->fence;
	row.saga = true;
	return row;
}

/* Until when is a row remembered that is written now, at the least? */
TimestampTz
saga_key_expiry(const OpenKey *key)
{
	return ring_expiry(key->now, policy_reach(&key->policy));
}

/*
 * Open the key and find its saga; *found says whether there is one.  Returns
 * false, with nothing open, if another transaction has its hand on the key and
 * the caller doesn't want to wait.  Raises ID403 unless trusted.
 */
bool
saga_open(OpenKey *key, Identity *identity, SagaRun *run, bool *found,
		  bool trusted, bool wait)
{
	for (;;)
	{
		if (trusted)
			key_open_trusted(key, identity);
		else
			key_open(key, identity);
		if (key->probe.result != PROBE_BUSY)
			break;
		key_close(key);
		if (!wait)
			return false;
		XactLockTableWait(key->probe.busy_xid, NULL, NULL, XLTW_None);
	}
	*found = saga_run_find(identity_id(identity), run);
	if (*found)
		run->identity = *identity;
	return true;
}

/* The last step that isn't undone, or NULL. */
static SagaStep *
saga_last(List *steps)
{
	SagaStep   *last = NULL;
	ListCell   *cell;

	foreach(cell, steps)
	{
		SagaStep   *step = lfirst(cell);

		if (step->state != STEP_COMPENSATED &&
			(last == NULL || step->step_no > last->step_no))
			last = step;
	}
	return last;
}

/* The step of a saga that is being undone, or NULL. */
SagaStep *
saga_present_step(const SagaRun *run)
{
	ListCell   *cell;

	foreach(cell, saga_steps(&run->identity.id))
	{
		SagaStep   *step = lfirst(cell);

		if (step->step_no == run->step)
			return step;
	}
	return NULL;
}

/* The step is the next to be undone. */
void
saga_aim(SagaRun *run, const SagaStep *step, TimestampTz now)
{
	run->step = step->step_no;
	run->todo = step->child_scope ? TODO_WORKER :
		step->handler ? TODO_HANDLER : TODO_EXTERNAL;
	run->due_at = Max(now, step->not_before);
}

/* Everything was undone: the key is settled by that. */
static void
saga_complete(OpenKey *key, KeyRow *row, SagaRun *run)
{
	bool		again =
		key->policy.after_compensation == COMPENSATED_EXECUTES ||
		!key->policy.store_failures;

	keyrow_clear_progress(row);
	row->saga = false;
	row->state = again ? KEY_RETRY : KEY_FAILED;
	row->retry_at = again ? key->now : NO_TIME;
	row->finished_at = key->now;
	row->expires_at = ring_expiry(key->now, key->policy.retention);
	if (again)
		row->attempt = 0;
	run->state = SAGA_COMPENSATED;
	run->todo = TODO_WORKER;
	run->step = 0;
	run->changed_at = key->now;
	run->due_at = Min(row->expires_at, key->now + SAGA_SHOWN);
	saga_write_key(key, row, ENTRY_COMPENSATED, NULL);
	/* another execution begins with nothing */
	if (again)
		saga_delete(identity_id(key->identity));
	else
		saga_run_update(run);
}

/* Go on with the next step, or complete. */
static void
saga_advance(OpenKey *key, KeyRow *row, SagaRun *run, List *steps)
{
	SagaStep   *next = saga_last(steps);

	run->changed_at = key->now;
	if (next == NULL)
		saga_complete(key, row, run);
	else
	{
		saga_aim(run, next, key->now);
		saga_run_update(run);
	}
}

/* {"reason": ..., "steps": n}, as an entry's detail. */
static char *
saga_begin_detail(const char *reason, int steps)
{
	return psprintf("{\"reason\": %s, \"steps\": %d}",
					decision_json(cstring_to_text(reason)), steps);
}

/*
 * Begin to undo what was done under the key, for this reason; error is what
 * duplicates are told in the end, or NULL.  Writes the row.  The key is open.
 */
void
saga_begin(OpenKey *key, KeyRow *row, const char *reason, text *error)
{
	SagaRun		run;
	bool		found = saga_run_find(identity_id(key->identity), &run);
	List	   *steps = found ? saga_steps(identity_id(key->identity)) : NIL;

	/* what it says is of an earlier life of the key */
	if (found && !row->saga)
	{
		saga_delete(identity_id(key->identity));
		found = false;
		steps = NIL;
	}
	if (!found)
	{
		saga_run_init(&run, key, row);
		saga_run_insert(&run);
	}
	run.identity = *key->identity;
	run.state = SAGA_COMPENSATING;
	run.fence = row->fence;
	run.reason = cstring_to_text(reason);

	keyrow_end_lease(row);
	row->state = KEY_COMPENSATING;
	row->saga = true;
	row->finished_at = NO_TIME;
	row->retry_at = NO_TIME;
	row->response = NULL;
	row->tag = NULL;
	row->withheld = WITHHELD_NOTHING;
	row->error = (struct varlena *) error;
	row->expires_at = saga_key_expiry(key);
	FAULT_POINT("saga.before_begin");
	saga_write_key(key, row, ENTRY_COMPENSATING,
				   saga_begin_detail(reason, list_length(steps)));
	saga_advance(key, row, &run, steps);
	FAULT_POINT("saga.after_begin");
}

/* A new saga of the open key, whose row is given; not stored yet. */
void
saga_run_init(SagaRun *run, const OpenKey *key, const KeyRow *row)
{
	memset(run, 0, sizeof(*run));
	run->identity = *key->identity;
	run->fence = row->fence;
	run->state = SAGA_RUNNING;
	run->todo = TODO_WORKER;
	run->started_at = row->claimed_at;
	run->changed_at = key->now;
	run->deadline = DT_NOEND;
	run->due_at = key->now;
	run->has_parent = saga_child_find(identity_id(key->identity),
									  &run->parent);
}

/* The step can't be undone: nothing more happens until an operator acts. */
static void
saga_give_up(OpenKey *key, KeyRow *row, SagaRun *run, SagaStep *step)
{
	step->state = STEP_FAILED;
	step->lease_until = NO_TIME;
	step->settled_at = key->now;
	saga_step_update(step);
	run->state = SAGA_FAILED;
	run->todo = TODO_NOTHING;
	run->due_at = DT_NOEND;
	run->changed_at = key->now;
	saga_run_update(run);
	row->expires_at = saga_key_expiry(key);
	saga_write_key(key, row, ENTRY_COMPENSATION_FAILED,
				   saga_step_detail(step, step->error));
	ereport(LOG,
			(errmsg("compensation failed for good, in scope \"%.*s\"",
					key->identity->scope_len, key->identity->scope),
			 errdetail("Step %d of a saga could not be undone in %d attempts.",
					   step->step_no, step->attempt),
			 errhint("See the views idempotency.sagas and idempotency.saga_steps; then retry_compensation() or resolve().")));
}

/* May the step be tried now: is it due, or its last attempt's process gone? */
static bool
saga_is_free(OpenKey *key, const SagaRun *run, const SagaStep *step)
{
	if (run->due_at > key->now)
		return false;
	return step->handler == NULL || step->lease_until == NO_TIME ||
		saga_attempt_is_dead(&step->id);
}

/* Begin an attempt, which the open key's step is free for. */
static void
saga_begin_attempt(OpenKey *key, SagaRun *run, SagaStep *step, int64 lease)
{
	KeyRow		row = saga_key_row(key, run);

	step->state = STEP_COMPENSATING;
	step->attempt++;
	step->fence = fence_next();
	step->lease_until = key->now + lease;
	step->not_before = step->handler == NULL ? step->lease_until :
		key->now + Max(failure_backoff(&key->policy, step->attempt),
					   USECS_PER_SEC);
	saga_step_update(step);
	run->due_at = step->not_before;
	saga_run_update(run);
	row.expires_at = saga_key_expiry(key);
	saga_write_key(key, &row, ENTRY_COMPENSATING_STEP,
				   saga_step_detail(step, NULL));
}

/*
 * Begin an attempt to undo the key's present step, which has a handler that is
 * this role's, or (InvalidOid) is external; lease is in microseconds, 0 for
 * the longest.  Returns false if it isn't due, somebody else is at it, or it
 * has been tried often enough.  The caller has had the incarnation begun.
 */
bool
saga_take(Identity *identity, int64 lease, Oid role, SagaAttempt *attempt)
{
	OpenKey		key;
	SagaRun    *run = &attempt->run;
	SagaStep   *step = NULL;
	bool		found;
	bool		taken = false;

	if (!saga_open(&key, identity, run, &found, true, false))
		return false;
	if (found && run->state == SAGA_COMPENSATING &&
		run->todo == (OidIsValid(role) ? TODO_HANDLER : TODO_EXTERNAL))
		step = saga_present_step(run);
	if (step && OidIsValid(role) && saga_step_role(step) != role)
		step = NULL;
	if (step && saga_is_free(&key, run, step))
	{
		if (step->attempt >= key.policy.max_attempts)
		{
			KeyRow		row = saga_key_row(&key, run);

			step->error = cstring_to_text("the last attempt ended without an answer");
			saga_give_up(&key, &row, run, step);
		}
		else
		{
			saga_begin_attempt(&key, run, step,
							   lease == 0 ? key.policy.max_lease :
							   Min(lease, key.policy.max_lease));
			attempt->step = *step;
			taken = true;
		}
	}
	key_close(&key);
	return taken;
}

/* The attempt has failed: it is repeated later, unless that is no use. */
static void
saga_attempt_failed(OpenKey *key, SagaRun *run, SagaStep *step,
					const SagaResult *result)
{
	KeyRow		row = saga_key_row(key, run);
	int64		delay = result->retry_after_ms >= 0 ?
		result->retry_after_ms * USECS_PER_MSEC :
		failure_backoff(&key->policy, step->attempt);

	step->error = result->error;
	step->lease_until = NO_TIME;
	if (!result->retryable || step->attempt >= key->policy.max_attempts)
	{
		saga_give_up(key, &row, run, step);
		return;
	}
	step->not_before = key->now + delay;
	saga_step_update(step);
	run->due_at = step->not_before;
	run->changed_at = key->now;
	saga_run_update(run);
	row.expires_at = saga_key_expiry(key);
	saga_write_key(key, &row, ENTRY_COMPENSATION_RETRY,
				   saga_step_detail(step, step->error));
}

/* An attempt at the open key's present step has ended so. */
void
saga_settle_open(OpenKey *key, SagaRun *run, SagaStep *step,
				 const SagaResult *result)
{
	KeyRow		row = saga_key_row(key, run);
	List	   *steps;

	if (!result->success)
	{
		saga_attempt_failed(key, run, step, result);
		return;
	}
	step->state = STEP_COMPENSATED;
	step->error = NULL;
	step->lease_until = NO_TIME;
	step->settled_at = key->now;
	FAULT_POINT("saga.before_settle");
	saga_step_update(step);
	row.expires_at = saga_key_expiry(key);
	saga_write_key(key, &row, ENTRY_COMPENSATED_STEP,
				   saga_step_detail(step, NULL));
	steps = saga_steps(identity_id(key->identity));
	saga_advance(key, &row, run, steps);
	FAULT_POINT("saga.after_settle");
}

/* Raises ID412: this isn't, or isn't any more, the step's attempt. */
static void
saga_refuse_attempt(const Identity *identity)
{
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_FENCE_LOST),
			 errmsg("the compensation does not carry this fence, in scope \"%.*s\"",
					identity->scope_len, identity->scope),
			 errdetail("Another attempt was begun, or it has been settled differently."),
			 errhint("Do not settle it; next_compensation() tells what is to be undone.")));
}

/* Was the attempt settled in this way before? */
static bool
saga_repeats(const SagaStep *step, const SagaResult *result)
{
	if (step->lease_until != NO_TIME)
		return false;
	if (result->success)
		return step->state == STEP_COMPENSATED;
	return step->state != STEP_COMPENSATED &&
		keyrow_same_text((struct varlena *) step->error, result->error);
}

/*
 * Settle an attempt to undo a step, by its fence; the same again is answered.
 * Returns what has become of it, and the step.  Raises ID403 unless trusted,
 * ID404, ID412.
 */
const char *
saga_settle(Identity *identity, const text *name, int64 fence,
			const SagaResult *result, bool trusted, SagaStep *settled)
{
	OpenKey		key;
	SagaRun		run;
	SagaStep   *step;
	bool		found;

	(void) saga_open(&key, identity, &run, &found, trusted, true);
	step = found ? saga_find_step(saga_steps(identity_id(identity)), name) :
		NULL;
	if (step == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_FOUND),
				 errmsg("there is no compensation to settle, in scope \"%.*s\"",
						identity->scope_len, identity->scope)));
	if (step->fence != fence || fence == NO_FENCE)
		saga_refuse_attempt(identity);
	if (step->lease_until != NO_TIME && run.state == SAGA_COMPENSATING &&
		run.step == step->step_no)
		saga_settle_open(&key, &run, step, result);
	else if (!saga_repeats(step, result))
		saga_refuse_attempt(identity);
	key_close(&key);
	*settled = *step;
	return step->state == STEP_COMPENSATED ? "compensated" :
		step->state == STEP_FAILED ? "failed" : "retry_later";
}

/* The key is settled as succeeded: KeySaga.finished. */
static void
saga_finished(OpenKey *key, KeyRow *row)
{
	const pg_uuid_t *id = identity_id(key->identity);
	SagaRun		run;
	SagaRun		parent;

	row->saga = false;
	if (!saga_run_find(id, &run))
		return;
	if (run.has_parent && saga_run_find(&run.parent, &parent) &&
		parent.state != SAGA_COMPENSATED)
	{
		row->saga = true;
		run.state = SAGA_HELD;
		run.todo = TODO_WORKER;
		run.changed_at = key->now;
		run.due_at = key->now + SAGA_HELD_LOOK;
		run.fence = row->fence;
		saga_run_update(&run);
	}
	else
		saga_delete(id);
}

/* An operator settles what is being undone: KeySaga.resolved. */
static void
saga_resolved(OpenKey *key, KeyRow *row)
{
	const pg_uuid_t *id = identity_id(key->identity);
	SagaRun		run;

	if (saga_run_find(id, &run) && run.state != SAGA_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_IN_PROGRESS),
				 errmsg("a saga that is being compensated cannot be resolved, in scope \"%.*s\"",
						key->identity->scope_len, key->identity->scope),
				 errhint("Wait until it has been, or could not be.")));
	saga_delete(id);
	row->saga = false;
}

/* Have the lower layers tell us; called once, from saga_init(). */
void
saga_init_hooks(void)
{
	key_saga.finished = saga_finished;
	key_saga.failed = saga_begin;
	key_saga.resolved = saga_resolved;
}
