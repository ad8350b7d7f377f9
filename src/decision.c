/*-------------------------------------------------------------------------
 *
 * decision.c
 *		What this transaction has decided, until it goes into the ledger.
 *
 * Whoever decides something about a key says so here, with the key's row as it
 * is written; at pre-commit (or pre-prepare) the entries are written, in the
 * order of the decisions, by ledger_write().  So a claim and its finish in one
 * transaction make one entry, and an entry's number is drawn as late as can
 * be: the order of the numbers is nearly that of the commits, and nobody holds
 * a number for long.
 *
 * Decisions carry the depth of the subtransaction they belong to; they are in
 * the order of their depth, so that those of one that rolls back are the last.
 * One that supersedes an earlier one, as a finish does the claim that commit
 * itself would have settled, is a decision of its own until the end: if it is
 * rolled back, the earlier one stands again.
 *
 * A transaction that decides very much (dedup() on a bulk load) writes part of
 * it earlier, to bound its memory; that holds sealing up until it ends.
 *
 * What was refused and then rolled back is noted (note.c), as an aborted
 * attempt is: it says something of the client.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "decision.h"
#include "fault.h"
#include "incarnation.h"
#include "ledger.h"
#include "note.h"
#include "tree.h"

/* so many are kept, if they can be written earlier */
#define DECISIONS_KEPT	10000
#define DECISIONS_CHUNK 256

typedef struct Decision
{
	EntryDecision decision;
	int			depth;			/* 1 is the top transaction */
	bool		supersedable;
	bool		superseded;		/* only while they are written */
	DecisionNumber supersedes;
	Oid			ledger;			/* the table that it is meant for */
	Identity   *identity;		/* NULL: of no key */
	const char *scope;			/* of no key, but of a scope; or NULL */
	int			scope_len;
	TimestampTz decided_at;
	TimestampTz claimed_at;
	int64		fence;
	int32		event_no;
	int32		attempt;
	Oid			session_role;
	Oid			role;
	const char *application;
	bool		has_trace;
	uint8		trace[TRACE_ID_LENGTH];
	bool		has_digest[2];	/* of DIGEST_REQUEST and DIGEST_RESPONSE */
	uint8		digest[2][DIGEST_LENGTH];
	text	   *payload[2];		/* to be stored, in place of the digest */
	char	   *detail;
} Decision;

/* in decision_context, which is in TopTransactionContext */
static MemoryContext decision_context = NULL;
static Decision *decisions = NULL;
static int	ndecisions = 0;
static int	max_decisions = 0;
static int	nsupersedable = 0;
static int64 decisions_written = 0; /* number of the one before the first */

/* The application's name; mostly it is that of the decision before. */
static const char *
decision_application(void)
{
	const char *name = application_name ? application_name : "";

	if (ndecisions > 1 && decisions[ndecisions - 2].application &&
		strcmp(decisions[ndecisions - 2].application, name) == 0)
		return decisions[ndecisions - 2].application;
	return MemoryContextStrdup(decision_context, name);
}

/* Add an empty decision at the present depth. */
static Decision *
decision_add(EntryDecision what)
{
	Decision   *decision;

	if (decision_context == NULL)
		decision_context = AllocSetContextCreate(TopTransactionContext,
												 "idempotency decisions",
												 ALLOCSET_DEFAULT_SIZES);
	if (ndecisions == max_decisions)
	{
		int			max = Max(16, max_decisions * 2);

		decisions = decisions ?
			repalloc_huge(decisions, max * sizeof(Decision)) :
			MemoryContextAllocHuge(decision_context, max * sizeof(Decision));
		max_decisions = max;
	}
	decision = &decisions[ndecisions++];
	memset(decision, 0, sizeof(*decision));
	decision->decision = what;
	decision->ledger = catalog_relation(CATALOG_LEDGER_ENTRY);
	decision->depth = GetCurrentTransactionNestLevel();
	decision->claimed_at = DT_NOBEGIN;
	decision->decided_at = clock_now();
	decision->session_role = GetSessionUserId();
	decision->role = GetUserId();
	decision->application = decision_application();
	decision->has_trace = trace_current(decision->trace);
	return decision;
}

/* A copy of a stored text that lives as long as the decision. */
static text *
decision_copy(struct varlena *value)
{
	MemoryContext old = MemoryContextSwitchTo(decision_context);
	text	   *copy = (text *) pg_detoast_datum_copy(value);

	MemoryContextSwitchTo(old);
	return copy;
}

/*
 * Does an entry come with the payload of its request?  The entries of one
 * attempt carry it once; so do refusals, for it is another one.
 */
static bool
decision_has_request(EntryDecision what, const KeyRow *row)
{
	switch (what)
	{
		case ENTRY_EXECUTED:
		case ENTRY_CLAIMED:
		case ENTRY_TAKEOVER:
		case ENTRY_MISMATCH:
		case ENTRY_EXPIRED:
			return true;
		case ENTRY_FAILED:
		case ENTRY_RETRY:
		case ENTRY_EXHAUSTED:
			return row->fence == NO_FENCE;
		default:
			return false;
	}
}

/* Store request and result beside the entry; never a plain digest of them. */
static void
decision_payloads(Decision *decision, const KeyRow *row,
				  struct varlena *result)
{
	if (row->request && decision_has_request(decision->decision, row))
		decision->payload[DIGEST_REQUEST] = decision_copy(row->request);
	if (result && decision->decision != ENTRY_FORGOTTEN)
		decision->payload[DIGEST_RESPONSE] = decision_copy(result);
}

/* Take over what a row says of request and result, by digest or in full. */
static void
decision_contents(Decision *decision, const Policy *policy, const KeyRow *row)
{
	struct varlena *result = row->state == KEY_SUCCEEDED ? row->response :
		row->state == KEY_RUNNING ? NULL : row->error;

	if (policy->audit_payloads)
	{
		decision_payloads(decision, row, result);
		return;
	}
	decision->has_digest[DIGEST_REQUEST] = row->has_fingerprint;
	if (row->has_fingerprint)
		memcpy(decision->digest[DIGEST_REQUEST], row->fingerprint,
			   DIGEST_LENGTH);
	decision->has_digest[DIGEST_RESPONSE] = result != NULL;
	if (result)
		entry_digest((text *) pg_detoast_datum(result),
					 decision->digest[DIGEST_RESPONSE]);
}

/* Give a row that is about to be changed the next event's number. */
void
decision_number_row(const Policy *policy, KeyRow *row)
{
	if (policy->audit != AUDIT_OFF)
		row->event_no++;
}

/* How many decisions, the last ones, are of this depth or below it? */
static int
decision_deeper(int depth)
{
	int			n = 0;

	while (n < ndecisions && decisions[ndecisions - 1 - n].depth >= depth)
		n++;
	return n;
}

/* The entry that a decision makes. */
static void
decision_entry(const Decision *decision, LedgerWrite *write)
{
	LedgerEntry *entry = &write->entry;

	memset(write, 0, sizeof(*write));
	entry->decided_at = decision->decided_at;
	entry->claimed_at = decision->claimed_at;
	entry->decision = cstring_to_text(entry_decision_name(decision->decision));
	entry->has_key = decision->identity != NULL;
	if (decision->identity)
		entry->identity = *decision->identity;
	else if (decision->scope)
	{
		entry->identity.scope = decision->scope;
		entry->identity.scope_len = decision->scope_len;
	}
	entry->fence = decision->fence;
	entry->event_no = decision->event_no;
	entry->attempt = decision->attempt;
	for (int i = 0; i < lengthof(decision->has_digest); i++)
	{
		entry->has_digest[i] = decision->has_digest[i];
		if (decision->has_digest[i])
			memcpy(entry->digest[i], decision->digest[i], DIGEST_LENGTH);
	}
	if (decision->payload[DIGEST_REQUEST])
		ledger_salt(write, PAYLOAD_REQUEST, decision->payload[DIGEST_REQUEST],
					DIGEST_REQUEST_SALTED);
	if (decision->payload[DIGEST_RESPONSE])
		ledger_salt(write, PAYLOAD_RESPONSE,
					decision->payload[DIGEST_RESPONSE],
					DIGEST_RESPONSE_SALTED);
	entry->session_role = entry_role(decision->session_role);
	entry->role = decision->role == decision->session_role ?
		entry->session_role : entry_role(decision->role);
	entry->application = cstring_to_text(decision->application);
	entry->has_trace = decision->has_trace;
	if (decision->has_trace)
		memcpy(entry->trace, decision->trace, TRACE_ID_LENGTH);
	entry->detail = decision->detail ? cstring_to_text(decision->detail) : NULL;
}

/*
 * Write the entries of all decisions but the superseded ones, and those that
 * were meant for a ledger that was dropped meanwhile: either the entries of
 * incarnations, which come first, or the others.
 */
static void
decision_write_some(int64 incarnation, bool incarnations)
{
	LedgerWrite *writes = palloc(Min(ndecisions, DECISIONS_CHUNK) *
								 sizeof(LedgerWrite));
	Oid			ledger = catalog_relation(CATALOG_LEDGER_ENTRY);
	int			n = 0;

	for (int i = 0; i < ndecisions; i++)
	{
		Decision   *decision = &decisions[i];

		if (decision->superseded || decision->ledger != ledger ||
			(decision->decision == ENTRY_INCARNATION) != incarnations)
			continue;
		decision_entry(decision, &writes[n++]);
		if (n == DECISIONS_CHUNK)
		{
			ledger_write(writes, n, incarnation);
			n = 0;
		}
	}
	if (n > 0)
		ledger_write(writes, n, incarnation);
}

/*
 * Write all decisions, and forget them.  A transaction that is to be prepared
 * begins no incarnation: others would wait for its end.
 */
static void
decision_write_all(bool prepare)
{
	MemoryContext old = MemoryContextSwitchTo(AllocSetContextCreate(CurrentMemoryContext,
																	"idempotency entries",
																	ALLOCSET_DEFAULT_SIZES));
	int64		incarnation = incarnation_number(!prepare);
	bool		toasts = false;

	for (int i = 0; i < ndecisions; i++)
	{
		int64		earlier = decisions[i].supersedes - decisions_written - 1;

		if (earlier >= 0)
			decisions[earlier].superseded = true;
		toasts |= decisions[i].detail || decisions[i].payload[DIGEST_REQUEST] ||
			decisions[i].payload[DIGEST_RESPONSE];
	}
	/* what is toasted needs one */
	if (toasts)
		PushActiveSnapshot(GetTransactionSnapshot());
	decision_write_some(incarnation, true);
	decision_write_some(incarnation, false);
	if (toasts)
		PopActiveSnapshot();
	decisions_written += ndecisions;
	ndecisions = 0;
	MemoryContextDelete(MemoryContextSwitchTo(old));
}

/* Write the entries; to be called at pre-commit or pre-prepare. */
void
decision_write(bool prepare)
{
	/* whoever has dropped the extension meanwhile wants none of it */
	if (ndecisions > 0 && catalog_is_there())
		decision_write_all(prepare);
}

/*
 * Too much is kept: write it, in the present (sub)transaction, so that a
 * rollback of that undoes it.  It must all be of this depth, or what belongs to
 * an outer one would get later numbers than what came after it; and nothing
 * must be there that could be superseded.
 */
static void
decision_write_early(void)
{
	if (nsupersedable > 0 ||
		decision_deeper(GetCurrentTransactionNestLevel()) < ndecisions)
		return;
	decision_write_all(false);
	MemoryContextReset(decision_context);
	decisions = NULL;
	max_decisions = 0;
}

/*
 * Something was decided about a key, whose row, as it is now (or was, if it is
 * gone), is given; detail is JSON, or NULL.  Nothing is done if the policy
 * says so.  Returns the decision's number, or 0.
 */
DecisionNumber
decision_key(const Policy *policy, Identity *identity, EntryDecision what,
			 const KeyRow *row, TimestampTz now, const char *detail)
{
	Decision   *decision;

	if (policy->audit == AUDIT_OFF)
		return 0;
	if (unlikely(ndecisions >= DECISIONS_KEPT))
		decision_write_early();
	decision = decision_add(what);
	(void) identity_id(identity);
	decision->identity = identity_copy(identity, decision_context);
	decision->decided_at = now;
	decision->claimed_at = row->claimed_at;
	decision->event_no = row->event_no;
	decision->fence = row->fence;
	decision->attempt = row->attempt;
	decision_contents(decision, policy, row);
	if (detail)
		decision->detail = MemoryContextStrdup(decision_context, detail);
	return decisions_written + ndecisions;
}

/*
 * Something was decided about a scope, or (scope is NULL) about all; detail is
 * JSON.  It is recorded whatever the policies say.
 */
void
decision_general(EntryDecision what, const char *scope, int scope_len,
				 const char *detail)
{
	Decision   *decision = decision_add(what);

	if (scope)
		decision->scope = MemoryContextStrdup(decision_context,
											  pnstrdup(scope, scope_len));
	decision->scope_len = scope_len;
	decision->detail = MemoryContextStrdup(decision_context, detail);
}

/* A later decision of this transaction may supersede this one. */
void
decision_supersedable(DecisionNumber number)
{
	if (number == 0)
		return;
	decisions[number - decisions_written - 1].supersedable = true;
	nsupersedable++;
}

/* The later decision says all that the earlier one does; either may be 0. */
void
decision_supersede(DecisionNumber later, DecisionNumber earlier)
{
	if (later != 0)
		decisions[later - decisions_written - 1].supersedes = earlier;
}

/* A text as a JSON string, palloc'd. */
char *
decision_json(const text *value)
{
	StringInfoData json;

	initStringInfo(&json);
	escape_json(&json, text_to_cstring(value));
	return json.data;
}

/* {"reason": ...}, as detail. */
char *
decision_reason(const text *reason)
{
	return psprintf("{\"reason\": %s}", decision_json(reason));
}

/* The transaction has ended: forget everything; the memory goes with it. */
static void
decision_reset(void)
{
	decision_context = NULL;
	decisions = NULL;
	ndecisions = max_decisions = nsupersedable = 0;
	decisions_written = 0;
}

/* Drop the last n decisions; what was refused is noted. */
static void
decision_drop(int n)
{
	while (n-- > 0)
	{
		Decision   *decision = &decisions[--ndecisions];

		nsupersedable -= decision->supersedable;
		if ((decision->decision == ENTRY_MISMATCH ||
			 decision->decision == ENTRY_EXPIRED) && decision->identity)
			note_decision(decision->decision, decision->identity,
						  decision->attempt, decision->event_no,
						  decision->fence, decision->claimed_at,
						  decision->has_digest[DIGEST_REQUEST] ?
						  decision->digest[DIGEST_REQUEST] : NULL, NULL);
	}
}

/* The transaction has ended. */
static void
decision_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		decision_drop(ndecisions);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE ||
		event == XACT_EVENT_ABORT)
		decision_reset();
}

/* A subtransaction has ended. */
static void
decision_subxact_callback(SubXactEvent event, SubTransactionId subid,
						  SubTransactionId parent, void *arg)
{
	int			depth = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
		decision_drop(decision_deeper(depth));
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = ndecisions - 1;
			 i >= 0 && decisions[i].depth >= depth; i--)
			decisions[i].depth = depth - 1;
	}
}

/* A new incarnation has begun: what it follows is a part of its history. */
static void
decision_incarnation(const Incarnation *before, const Incarnation *now,
					 const text *reason)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"origin\": ");
	escape_json(&json, now->origin);
	appendStringInfoString(&json, ", \"reason\": ");
	escape_json(&json, text_to_cstring(reason));
	tree_describe_latest(&json);
	appendStringInfoChar(&json, '}');
	decision_general(ENTRY_INCARNATION, NULL, 0, json.data);
}

/* Register the callbacks; called once from _PG_init. */
void
decision_init(void)
{
	RegisterXactCallback(decision_xact_callback, NULL);
	RegisterSubXactCallback(decision_subxact_callback, NULL);
	incarnation_begun_hook = decision_incarnation;
}
