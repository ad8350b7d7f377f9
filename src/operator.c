/*-------------------------------------------------------------------------
 *
 * operator.c
 *		What an operator may do to a key that isn't his: forget it, resolve it.
 *
 * forget() deletes what is remembered, so that the operation can take effect
 * once more.  resolve() settles, in place of the holder, a claim whose lease
 * has run out, or one whose attempts are used up.  Both need a reason, and who
 * did it and why is logged.  Neither touches a claim that is running.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "errors.h"
#include "failure.h"
#include "key.h"
#include "response.h"
#include "txn.h"


COMPAT_FUNCTION_INFO(idempotency_forget);
COMPAT_FUNCTION_INFO(idempotency_resolve);

/* The reason, which has to be given.  Raises ID400, ID413. */
static text *
operator_reason(const char *function, text *reason)
{
	return policy_check_reason(function, reason,
							   "Say why: it decides whether an operation takes effect once more.");
}

/* Log who did what, and why. */
static void
operator_log(const Identity *identity, const char *what, text *reason)
{
	ereport(LOG,
			(errmsg("idempotency key %s by role \"%s\", in scope \"%.*s\"",
					what, GetUserNameFromId(GetUserId(), false),
					identity->scope_len, identity->scope),
			 errdetail("Reason: %s", text_to_cstring(reason))));
}

/* Raises ID409 if somebody is executing the operation at this moment. */
static void
operator_refuse_running(const OpenKey *key, const TxnClaim *note,
						const char *what)
{
	const Probe *probe = &key->probe;

	if (probe->result == PROBE_BUSY ||
		(note && note->state.held && !note->state.settled) ||
		(probe->result == PROBE_ROW && probe->row.state == KEY_RUNNING &&
		 probe->row.lease_until > key->now))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_IN_PROGRESS),
				 errmsg("a running claim cannot be %s, in scope \"%.*s\"",
						what, key->identity->scope_len,
						key->identity->scope),
				 errhint("Wait until it is settled or its lease is over, or end the transaction that holds it.")));
}

/*
 * Delete what is remembered of a key, if it carries the fence (NULL: in any
 * case).  Returns false if nothing is deleted.  Raises ID403, ID409.
 */
static bool
operator_forget(Identity *identity, const int64 *fence, const text *reason)
{
	OpenKey		key;
	TxnClaim   *note = txn_find(identity);
	bool		forgotten;

	key_open(&key, identity);
	forgotten = key.probe.result != PROBE_NONE &&
		(fence == NULL || key.probe.result == PROBE_BUSY ||
		 (key.probe.row.fence == *fence && *fence != NO_FENCE));
	if (forgotten)
	{
		operator_refuse_running(&key, note, "forgotten");
		if (key.probe.result == PROBE_ROW && key.probe.row.saga)
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_IN_PROGRESS),
					 errmsg("a key whose saga is not over cannot be forgotten, in scope \"%.*s\"",
							identity->scope_len, identity->scope),
					 errhint("resolve() it, or have its steps undone, first.")));
		decision_number_row(&key.policy, &key.probe.row);
		key_delete(&key);
		(void) decision_key(&key.policy, identity, ENTRY_FORGOTTEN,
							&key.probe.row, key.now, decision_reason(reason));
	}
	if (forgotten && note && note->state.held)
	{
		TxnClaimState state = note->state;

		state.held = false;
		txn_change(note, &state);
	}
	key_close(&key);
	return forgotten;
}

/*
 * forget(scope text, key text, reason text, fence bigint, principal text)
 *		returns boolean
 */
Datum
idempotency_forget(PG_FUNCTION_ARGS)
{
	Identity	identity;
	text	   *reason = TEXT_ARGUMENT(2);
	int64		fence = PG_ARGISNULL(3) ? NO_FENCE : PG_GETARG_INT64(3);
	bool		forgotten;

	catalog_check_writable("forget()");
	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(4),
				  TEXT_ARGUMENT(1));
	operator_reason("forget()", reason);
	forgotten = operator_forget(&identity, PG_ARGISNULL(3) ? NULL : &fence,
								reason);
	if (forgotten)
		operator_log(&identity, "forgotten", reason);
	PG_RETURN_BOOL(forgotten);
}

/* what resolve() makes of a claim */
static const struct
{
	const char *name;
	KeyState	state;
}			resolutions[] = {
	{"succeeded", KEY_SUCCEEDED},
	{"failed", KEY_FAILED},
	{"retry", KEY_RETRY}
};

/* The state that an outcome of resolve() stands for.  Raises ID400. */
static KeyState
operator_resolution(text *outcome)
{
	char	   *name = outcome ? text_to_cstring(outcome) : "";

	for (int i = 0; i < lengthof(resolutions); i++)
	{
		if (strcmp(name, resolutions[i].name) == 0)
			return resolutions[i].state;
	}
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
			 errmsg("outcome must be 'succeeded', 'failed' or 'retry'")));
}

/* What an operator has made of a claim, and why, as an entry's detail. */
static char *
operator_resolved(KeyState state, const text *reason)
{
	const char *outcome = "";

	for (int i = 0; i < lengthof(resolutions); i++)
	{
		if (resolutions[i].state == state)
			outcome = resolutions[i].name;
	}
	return psprintf("{\"outcome\": \"%s\", \"reason\": %s}", outcome,
					decision_json(reason));
}

/*
 * Resolve a key that has a saga: what was done is undone if it has failed, and
 * stays if it has succeeded; if it was being undone, no more of that is done.
 * Returns true if the row is written.  Raises ID400, ID409.
 */
static bool
operator_resolve_saga(OpenKey *key, KeyRow *row, KeyState state,
					  text *response)
{
	if (row->state == KEY_COMPENSATING)
	{
		if (state == KEY_RETRY)
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
					 errmsg("what is being undone cannot be resolved as 'retry'"),
					 errhint("retry_compensation() tries once more to undo it.")));
		key_saga.resolved(key, row);
	}
	else if (state == KEY_FAILED)
	{
		key_saga.failed(key, row, "resolved", response);
		return true;
	}
	else if (state == KEY_SUCCEEDED)
		key_saga.finished(key, row);
	return false;
}

/*
 * Settle a claim that its holder didn't: response is the response, or the
 * error.  Raises ID403, ID404, ID409, ID412, ID413.
 */
static void
operator_resolve(Identity *identity, KeyState state, text *response,
				 const text *reason)
{
	OpenKey		key;
	KeyRow		row;

	key_open(&key, identity);
	if (key.probe.result == PROBE_NONE)
		key_refuse_unknown(identity);
	operator_refuse_running(&key, txn_find(identity), "resolved");
	row = key.probe.row;
	if (row.state != KEY_RUNNING && row.state != KEY_EXHAUSTED &&
		row.state != KEY_RETRY && row.state != KEY_COMPENSATING)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_FENCE_LOST),
				 errmsg("a settled claim cannot be resolved, in scope \"%.*s\"",
						identity->scope_len, identity->scope),
				 errhint("forget() it, if the operation is to take effect once more.")));
	if (state == KEY_SUCCEEDED)
		policy_check_size("response", (struct varlena *) response,
						  key.policy.max_response_bytes);
	else
		policy_check_size("error", (struct varlena *) response,
						  ERROR_MAX_BYTES);

	if (row.saga && operator_resolve_saga(&key, &row, state, response))
	{
		key_close(&key);
		return;
	}
	keyrow_end_lease(&row);
	row.state = state;
	row.finished_at = key.now;
	row.expires_at = ring_expiry(key.now, key.policy.retention);
	row.retry_at = state == KEY_RETRY ? key.now : NO_TIME;
	response_store(&key.policy, identity, &row,
				   state == KEY_SUCCEEDED ? response : NULL, NULL);
	if (state == KEY_SUCCEEDED)
		row.error = NULL;
	else if (response)
		row.error = (struct varlena *) response;
	if (state != KEY_RETRY)
		keyrow_clear_progress(&row);
	decision_number_row(&key.policy, &row);
	key_replace(&key, &row);
	(void) decision_key(&key.policy, identity, ENTRY_RESOLVED, &row, key.now,
						operator_resolved(state, reason));
	ForceSyncCommit();
	key_close(&key);
}

/*
 * resolve(scope text, key text, outcome text, response text, reason text,
 *		   principal text) returns boolean
 */
Datum
idempotency_resolve(PG_FUNCTION_ARGS)
{
	Identity	identity;
	KeyState	state;
	text	   *reason;

	catalog_check_writable("resolve()");
	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(5),
				  TEXT_ARGUMENT(1));
	state = operator_resolution(TEXT_ARGUMENT(2));
	reason = operator_reason("resolve()", TEXT_ARGUMENT(4));
	operator_resolve(&identity, state, TEXT_ARGUMENT(3), reason);
	operator_log(&identity, "resolved", reason);
	PG_RETURN_BOOL(true);
}
