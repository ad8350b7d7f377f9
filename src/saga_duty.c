/*-------------------------------------------------------------------------
 *
 * saga_duty.c
 *		What has to be done about sagas from time to time.
 *
 * The duty "sagas": where a deadline has passed, or nobody comes to resume the
 * saga, its steps begin to be undone; a step that is a saga of its own is
 * followed; what is over is removed; and where a handler of a role is due, its
 * helper process is started, if this is the worker.  maintain() does all but
 * the last.
 *
 * While there are no sagas, that is one look at the size of a table.
 *
 * Each saga is attended to in a subtransaction of its own, so that what fails
 * with one of them doesn't keep the others waiting; it waits for no key that
 * somebody has his hand on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "duty.h"
#include "errors.h"
#include "fault.h"
#include "incarnation.h"
#include "saga.h"
#include "saga_attempt.h"

#define SAGA_BATCH		500		/* sagas in a round, at most */
#define SAGA_AGAIN		USECS_PER_SEC	/* something is awaited: look again */
#define SAGA_LOOK		(10 * USECS_PER_SEC)	/* nobody has resumed it yet */
#define SAGA_RENEWAL	(10 * USECS_PER_MINUTE) /* how often keys are renewed */

/* Look again later at a saga whose key is open. */
static void
duty_postpone(OpenKey *key, SagaRun *run, TimestampTz due_at)
{
	KeyRow		row = saga_key_row(key, run);

	run->due_at = due_at;
	saga_write_key(key, &row, ENTRY_DECISIONS, NULL);
	saga_run_update(run);
}

/* The saga and all it has is over. */
static void
duty_drop(OpenKey *key, SagaRun *run)
{
	if (key->probe.result == PROBE_ROW && key->probe.row.saga)
	{
		KeyRow		row = key->probe.row;

		row.saga = false;
		saga_write_key(key, &row, ENTRY_DECISIONS, NULL);
	}
	saga_delete(identity_id(key->identity));
}

/* Why must a running saga be undone now?  NULL if it needn't. */
static const char *
duty_why(const OpenKey *key, const SagaRun *run)
{
	const KeyRow *row = &key->probe.row;
	bool		over;

	if (run->deadline <= key->now)
		return "deadline";
	if (key->probe.result != PROBE_ROW)
		return "abandoned";
	over = row->state != KEY_RUNNING || row->lease_until <= key->now;
	if (!over || (row->state == KEY_RUNNING &&
				  key->policy.on_lease_expiry == LEASE_INDETERMINATE))
		return NULL;
	if (row->state == KEY_RUNNING && row->attempt >= key->policy.max_attempts)
		return "exhausted";
	if (row->expires_at <= key->now ||
		(row->state == KEY_RUNNING &&
		 key->policy.on_lease_expiry == LEASE_FORGET))
		return "abandoned";
	return NULL;
}

/* What duplicates are told of a saga that was undone for this reason. */
static text *
duty_error(const char *why)
{
	return cstring_to_text(strcmp(why, "deadline") == 0 ?
						   "the saga's deadline has passed" :
						   "the saga was given up by those who executed it");
}

/* A running saga is due. */
static void
duty_running(OpenKey *key, SagaRun *run)
{
	const char *why = duty_why(key, run);
	KeyRow		row = saga_key_row(key, run);

	if (why == NULL)
	{
		TimestampTz next = key->now + SAGA_LOOK;

		if (row.state == KEY_RUNNING && row.lease_until > key->now)
			next = row.lease_until;
		duty_postpone(key, run, Min(next, run->deadline));
		return;
	}
	saga_begin(key, &row, why, duty_error(why));
	duty_report("saga", why, 1);
}

/*
 * A completed saga of which its parent may still want that it be undone: is
 * the parent over?
 */
static void
duty_held(OpenKey *key, SagaRun *run)
{
	SagaRun		parent;

	if (!run->has_parent || !saga_run_find(&run->parent, &parent) ||
		parent.state == SAGA_COMPENSATED)
		duty_drop(key, run);
	else
		duty_postpone(key, run, key->now + USECS_PER_MINUTE);
}

/*
 * The row of a key that is a step of a saga which is undone, and was never
 * claimed: whoever comes late must find that it has failed.
 */
static void
duty_forestall(OpenKey *key)
{
	KeyRow		row = {0};

	row.state = KEY_FAILED;
	row.claimed_at = row.finished_at = key->now;
	row.retry_at = row.lease_until = NO_TIME;
	row.attempt = 1;
	row.error = (struct varlena *) cstring_to_text("the saga that it is a step of was compensated");
	row.expires_at = ring_expiry(key->now, key->policy.retention);
	saga_write_key(key, &row, ENTRY_COMPENSATED, NULL);
}

/*
 * Undo the saga of a key that is a step of another's.  Returns true if it is
 * over.
 */
static bool
duty_undo_child(Identity *child)
{
	OpenKey		key;
	SagaRun		run;
	KeyRow		row;
	bool		found;
	bool		over = false;

	if (!saga_open(&key, child, &run, &found, true, false))
		return false;
	row = key.probe.row;
	if (key.probe.result == PROBE_NONE)
	{
		duty_forestall(&key);
		over = true;
	}
	else if (row.state == KEY_COMPENSATING)
		over = false;
	else if (row.state == KEY_RUNNING || row.saga)
		saga_begin(&key, &row, "parent",
				   cstring_to_text("the saga that it is a step of was compensated"));
	else
		over = true;
	key_close(&key);
	return over;
}

/*
 * A saga whose present step is a saga itself is due; nothing is open.  The
 * child's key is opened before the parent's, never both.
 */
static void
duty_follow(SagaRun *due)
{
	SagaStep   *step = saga_present_step(due);
	SagaResult	result = {.success = true};
	OpenKey		key;
	SagaRun		run;
	Identity	child;
	bool		found;
	bool		over;

	if (step == NULL || step->child_scope == NULL)
		return;
	identity_make(&child, step->child_scope, step->child_principal,
				  step->child_key);
	over = duty_undo_child(&child);
	if (!saga_open(&key, &due->identity, &run, &found, true, false))
		return;
	step = found ? saga_present_step(&run) : NULL;
	if (step && run.state == SAGA_COMPENSATING && step->child_scope)
	{
		if (over)
			saga_settle_open(&key, &run, step, &result);
		else
			duty_postpone(&key, &run, key.now + SAGA_AGAIN);
	}
	key_close(&key);
}

/* A saga is due with which the worker has to do something. */
static void
duty_attend(SagaRun *due)
{
	OpenKey		key;
	SagaRun		run;
	bool		found;

	if (due->state == SAGA_COMPENSATING)
	{
		duty_follow(due);
		return;
	}
	if (!saga_open(&key, &due->identity, &run, &found, true, false))
		return;
	if (found && run.todo == TODO_WORKER && run.due_at <= key.now)
	{
		if (run.state == SAGA_RUNNING)
			duty_running(&key, &run);
		else if (run.state == SAGA_HELD)
			duty_held(&key, &run);
		else if (run.state == SAGA_COMPENSATED)
			duty_drop(&key, &run);
	}
	key_close(&key);
}

/*
 * Nobody can execute the handler of a saga's present step: that is a failed
 * attempt.
 */
static void
duty_refuse(SagaRun *due, const char *trouble)
{
	SagaResult	result = {.retryable = true,.retry_after_ms = -1};
	OpenKey		key;
	SagaRun		run;
	SagaStep   *step;
	bool		found;

	if (!saga_open(&key, &due->identity, &run, &found, true, false))
		return;
	step = found ? saga_present_step(&run) : NULL;
	if (step && run.state == SAGA_COMPENSATING && run.due_at <= key.now &&
		step->handler)
	{
		step->attempt++;
		step->state = STEP_COMPENSATING;
		result.error = cstring_to_text(trouble);
		saga_settle_open(&key, &run, step, &result);
	}
	key_close(&key);
}

/* Is this process the worker of its database? */
static bool
duty_is_worker(void)
{
	return MyBgworkerEntry != NULL &&
		strcmp(MyBgworkerEntry->bgw_function_name,
			   "idempotency_worker_main") == 0;
}

/* A SQL handler is due. */
static void
duty_handler(SagaRun *due)
{
	SagaStep   *step = saga_present_step(due);
	Oid			role;
	const char *trouble;

	if (step == NULL || step->handler == NULL)
		return;
	role = saga_step_role(step);
	trouble = saga_role_trouble(role);
	if (trouble)
		duty_refuse(due, trouble);
	else if (duty_is_worker())
		saga_helper_start(role);
}

/*
 * Give the row of a key a later end, if it is in this segment (-1: wherever it
 * is).  Returns false if somebody has his hand on it.
 */
static bool
duty_renew(SagaRun *due, Segment segment)
{
	OpenKey		key;
	SagaRun		run;
	bool		found;

	if (!saga_open(&key, &due->identity, &run, &found, true, false))
		return false;
	if (found && key.probe.result == PROBE_ROW && key.probe.row.saga &&
		(segment < 0 || key.probe.place.segment == segment))
	{
		KeyRow		row = key.probe.row;

		row.expires_at = Max(row.expires_at, saga_key_expiry(&key));
		key_replace(&key, &row);
	}
	key_close(&key);
	return true;
}

/* Do something about one saga; an error is logged, and undone. */
static void
duty_one(void (*attend) (SagaRun *run), SagaRun *run)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	CHECK_FOR_INTERRUPTS();
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		attend(run);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		if (geterrcode() == ERRCODE_QUERY_CANCELED ||
			geterrcode() == ERRCODE_ADMIN_SHUTDOWN)
			PG_RE_THROW();
		/* that a lock couldn't be had isn't worth a line: it comes again */
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			EmitErrorReport();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
}

/* Do something about each of the sagas. */
static void
duty_each(List *runs, void (*attend) (SagaRun *run))
{
	ListCell   *cell;

	foreach(cell, runs)
		duty_one(attend, lfirst(cell));
}

/* duty_renew(), for duty_each(). */
static void
duty_renew_one(SagaRun *run)
{
	if (run->state != SAGA_RUNNING && run->state != SAGA_COMPENSATED)
		(void) duty_renew(run, -1);
}

/*
 * Renew the keys that are kept for their sagas: from time to time, and when a
 * policy has changed, which may have their rows belong elsewhere.
 */
static void
duty_renew_all(TimestampTz now)
{
	static TimestampTz renewed_at = DT_NOBEGIN;
	static uint64 renewed_for = 0;

	if (renewed_for == catalog_policy_generation() &&
		renewed_at <= now && now - renewed_at < SAGA_RENEWAL)
		return;
	duty_each(saga_run_all(), duty_renew_one);
	renewed_at = now;
	renewed_for = catalog_policy_generation();
}

/* The duty. */
static void
duty_sagas(int step)
{
	TimestampTz now;

	if (saga_is_empty())
		return;
	now = clock_now();
	duty_each(saga_run_due(TODO_WORKER, now, NULL, SAGA_BATCH), duty_attend);
	duty_each(saga_run_due(TODO_HANDLER, now, NULL, SAGA_BATCH),
			  duty_handler);
	duty_renew_all(now);
}

/*
 * A segment is about to be emptied: move the keys out of it that are kept for
 * their sagas.  Returns false if one of them can't be now.
 */
bool
saga_leave(Segment segment)
{
	ListCell   *cell;

	if (saga_is_empty())
		return true;
	foreach(cell, saga_run_all())
	{
		SagaRun    *run = lfirst(cell);

		if (run->state != SAGA_COMPENSATED && !duty_renew(run, segment))
			return false;
	}
	return true;
}

/* Register the duty and the hooks; called once from _PG_init. */
void
saga_init(void)
{
	saga_init_hooks();
	duty_register("sagas", 1, duty_sagas);
}
