/*-------------------------------------------------------------------------
 *
 * forget.c
 *		forget(): an operator deletes what is remembered of a key.
 *
 * The operation can then take effect once more, so a reason must be given, and
 * who did it and why is logged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "settle.h"
#include "txn.h"

#define REASON_MAX_BYTES	1024

COMPAT_FUNCTION_INFO(idempotency_forget);

/*
 * Delete what is remembered of a key.  Returns false if nothing is.  Raises
 * ID409 if somebody is executing it.
 */
static bool
forget_key(Identity *identity)
{
	Policy		policy;
	Store		store;
	Probe		probe;
	TimestampTz now;
	TxnClaim   *note;

	policy_lock();
	policy_get(identity->scope, identity->scope_len, &policy);
	policy_check_role(&policy, identity->scope, identity->scope_len);
	note = txn_find(identity);
	settle_probe(identity, &policy, &store, &probe, &now);
	if (probe.result == PROBE_BUSY ||
		(note && note->state.held && !note->state.settled))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_IN_PROGRESS),
				 errmsg("a running claim cannot be forgotten, in scope \"%.*s\"",
						identity->scope_len, identity->scope),
				 errhint("Wait until it is settled, or end the transaction that holds it.")));
	if (probe.result == PROBE_ROW)
		store_delete(&store, &probe.place);
	if (note && note->state.held)
	{
		TxnClaimState state = note->state;

		state.held = false;
		txn_change(note, &state);
	}
	settle_probe_end(identity, &store);
	policy_unlock();
	return probe.result == PROBE_ROW;
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
	bool		forgotten;

	catalog_check_writable("forget()");
	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(4),
				  TEXT_ARGUMENT(1));
	if (reason == NULL || VARSIZE_ANY_EXHDR(reason) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("forget() needs a reason"),
				 errhint("Say why: a forgotten operation can take effect once more.")));
	settle_check_size("reason", (struct varlena *) reason, REASON_MAX_BYTES);
	if (!PG_ARGISNULL(3))
		PG_RETURN_BOOL(false);	/* no transactional claim carries a fence */
	forgotten = forget_key(&identity);
	if (forgotten)
		ereport(LOG,
				(errmsg("idempotency key forgotten by role \"%s\", in scope \"%.*s\"",
						GetUserNameFromId(GetUserId(), false),
						identity.scope_len, identity.scope),
				 errdetail("Reason: %s", text_to_cstring(reason))));
	PG_RETURN_BOOL(forgotten);
}
