/*-------------------------------------------------------------------------
 *
 * inbox.c
 *		Consumers that process each event once: accept().
 *
 * In the consumer's transaction an event is looked up and, if it is to be
 * processed, noted; both commit or roll back with the work.  Two ways to know
 * an event again, alone or together:
 *
 *	by its id		a claim that settles itself (claim.c), in the rings, in scope
 *					"inbox/" || consumer, with the stream as principal
 *	by its sequence	the stream's row (inbox_stream.c, inbox_decide.c)
 *
 *	1  under the policy's lock: the settings; what the event depends on
 *	2  under the stream's lock, if it has a sequence or an epoch: decide, write.
 *	   If another transaction has the stream: let go of all, wait, begin again
 *	3  the claim, if it has an id.  If it is refused, what 2 wrote is taken back
 *	4  of what was seen before: is it dead, or to be processed once more?  Of
 *	   what is to be processed: has it failed too often?
 *
 * Losing a race is an answer, never an error (40001 and 40P01 excepted).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "inbox.h"
#include "watch.h"

#define ACCEPT_COLUMNS		6

COMPAT_FUNCTION_INFO(idempotency_accept);

const char *const inbox_outcome_names[] = {
	[INBOX_PROCESS] = "process",
	[INBOX_DUPLICATE] = "duplicate",
	[INBOX_GAP] = "gap",
	[INBOX_LATE] = "late",
	[INBOX_BLOCKED] = "blocked",
	[INBOX_STALE_EPOCH] = "stale_epoch",
	[INBOX_MISMATCH] = "mismatch",
	[INBOX_IN_PROGRESS] = "in_progress",
	[INBOX_EXHAUSTED] = "exhausted"
};

/* Does the strategy know events by their ids? */
bool
inbox_knows_ids(InboxStrategy strategy)
{
	return strategy == INBOX_ID || strategy == INBOX_ID_AND_SEQUENCE;
}

/* Does the strategy know events by their sequence? */
bool
inbox_knows_sequence(InboxStrategy strategy)
{
	return strategy != INBOX_ID;
}

/* Refuse a name that is null, empty or too long.  Raises ID400. */
static void
inbox_check_name(const char *what, text *name, int max)
{
	if (name == NULL || VARSIZE_ANY_EXHDR(name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not be %s", what, name ? "empty" : "null")));
	if (VARSIZE_ANY_EXHDR(name) > max)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s is too long", what),
				 errdetail("It has %zu bytes; the limit is %d.",
						   VARSIZE_ANY_EXHDR(name), max)));
}

/*
 * The identity of a consumer in a stream: that of an event without its key.
 * Raises ID400.
 */
void
inbox_name(Identity *name, text *consumer, text *stream)
{
	char	   *scope;
	int			len;

	inbox_check_name("consumer", consumer, CONSUMER_MAX_BYTES);
	inbox_check_name("stream", stream, STREAM_MAX_BYTES);
	len = VARSIZE_ANY_EXHDR(consumer);
	scope = palloc(INBOX_SCOPE_LEN + len);
	memcpy(scope, INBOX_SCOPE, INBOX_SCOPE_LEN);
	memcpy(scope + INBOX_SCOPE_LEN, VARDATA_ANY(consumer), len);
	name->scope = scope;
	name->scope_len = INBOX_SCOPE_LEN + len;
	name->principal = VARDATA_ANY(stream);
	name->principal_len = VARSIZE_ANY_EXHDR(stream);
	name->key = "";
	name->key_len = 0;
	name->has_id = false;
}

/*
 * The identity of the call's event: by its id, or, where there are none, by its
 * epoch and position.
 */
void
inbox_event_make(InboxCall *call, InboxStrategy strategy)
{
	call->event = call->name;
	call->event.has_id = false;
	if (inbox_knows_ids(strategy))
	{
		call->event.key = VARDATA_ANY(call->event_id);
		call->event.key_len = VARSIZE_ANY_EXHDR(call->event_id);
	}
	else
	{
		call->event.key = call->has_epoch ?
			psprintf("@%lld:%lld/%lld", (long long) call->epoch,
					 (long long) call->seq, (long long) call->subseq) :
			psprintf("@%lld/%lld", (long long) call->seq,
					 (long long) call->subseq);
		call->event.key_len = strlen(call->event.key);
	}
}

/*
 * Refuse whoever isn't a member of the role that the consumer is reserved for.
 * Raises ID403.
 */
void
inbox_check_role(const InboxPolicy *policy, const Identity *name)
{
	if (likely(!OidIsValid(policy->allowed_role) && !policy->role_is_missing))
		return;
	if (policy->role_is_missing ||
		!has_privs_of_role(GetUserId(), policy->allowed_role))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_GRANTED),
				 errmsg("permission denied for consumer \"%.*s\"",
						name->scope_len - INBOX_SCOPE_LEN,
						name->scope + INBOX_SCOPE_LEN),
				 policy->role_is_missing ?
				 errdetail("The consumer is reserved for a role that does not exist.") :
				 errdetail("The consumer is reserved for role \"%s\".",
						   GetUserNameFromId(policy->allowed_role, true)),
				 errhint("Ask for membership in the role, or have the settings changed with configure_consumer().")));
}

/* Refuse an id that is empty or too long for any scope.  Raises ID400. */
void
inbox_check_id(text *event_id)
{
	if (event_id)
		inbox_check_name("event_id", event_id, KEY_MAX_BYTES);
}

/* Refuse a number that is below 0.  Raises ID400. */
void
inbox_check_number(const char *what, int64 number)
{
	if (number < 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not be negative", what)));
}

/* Refuse names that stand for all.  Raises ID400. */
void
inbox_refuse_all(const Identity *name)
{
	if ((name->scope_len == INBOX_SCOPE_LEN + 1 &&
		 name->scope[INBOX_SCOPE_LEN] == '*') ||
		(name->principal_len == 1 && name->principal[0] == '*'))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("\"*\" is not the name of a consumer or stream")));
}

/* Does the call have what the strategy needs?  Raises ID400, ID403. */
static void
inbox_check_call(const InboxCall *call, const InboxPolicy *policy)
{
	inbox_check_role(policy, &call->name);
	if (inbox_knows_ids(policy->strategy) && call->event_id == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("an event of this stream needs an event_id"),
				 errhint("It is what the consumer's strategy knows events by; configure_consumer() changes that.")));
	if (inbox_knows_sequence(policy->strategy) && !call->has_seq)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("an event of this stream needs a seq"),
				 errhint("It is what the consumer's strategy knows events by; configure_consumer() changes that.")));
	if (call->request && !inbox_knows_ids(policy->strategy))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("a request cannot be compared where events are known by their sequence"),
				 errhint("Leave it out, or configure a strategy with ids.")));
}

/* what became of an event in its stream's row */
typedef struct Step
{
	bool		wrote;			/* it was changed */
	bool		stays;			/* even if the event is refused */
	InboxStream before;			/* what it said before the event, if there is
								 * an id to be looked at, too */
} Step;

/* A copy of a stream, to be written back. */
static void
step_save(Step *step, const InboxOpen *open)
{
	step->before = *open->stream;
	/* an epoch that has begun fences out those before */
	step->stays = open->found || step->before.has_epoch;
	step->before.ahead.ranges = NULL;
	step->before.ahead.max = 0;
	if (step->before.ahead.n == 0)
		return;
	step->before.ahead.max = step->before.ahead.n;
	step->before.ahead.ranges =
		MemoryContextAlloc(TopTransactionContext,
						   step->before.ahead.n * sizeof(InboxRange));
	memcpy(step->before.ahead.ranges, open->stream->ahead.ranges,
		   step->before.ahead.n * sizeof(InboxRange));
}

/* Take back what was written of an event that isn't processed after all. */
static void
step_undo(Step *step, InboxCall *call, InboxAnswer *answer)
{
	InboxOpen	open;
	InboxRanges unused;

	/* nobody else can have it */
	if (!inbox_stream_open(&open, &call->name))
		elog(ERROR, "another transaction has the stream");
	unused = open.stream->ahead;
	*open.stream = step->before;
	step->before.ahead = unused;
	if (step->stays)
		inbox_stream_write(&open);
	else
		inbox_stream_delete(&open);
	inbox_place(open.stream, answer);
	inbox_stream_close(&open);
}

/*
 * Decide the event by the stream's row, under the policy lock.  Returns the
 * transaction that has the stream, if another one has, else the answer.
 */
static TransactionId
inbox_step(InboxCall *call, const InboxPolicy *policy, Step *step,
		   InboxAnswer *answer)
{
	InboxOpen	open;
	bool		touched = false;

	if (!inbox_stream_open(&open, &call->name))
	{
		inbox_stream_close(&open);
		return open.busy_xid;
	}
	if (!inbox_prepare(open.stream, policy, call->has_epoch, call->epoch,
					   &touched))
		inbox_answer(answer, INBOX_STALE_EPOCH, NULL);
	else if (inbox_knows_sequence(policy->strategy))
	{
		if (policy->strategy == INBOX_ID_AND_SEQUENCE)
			step_save(step, &open);
		inbox_decide(open.stream, policy, call->seq, call->subseq,
					 clock_now(), answer);
	}
	step->wrote = touched || (answer->outcome == INBOX_PROCESS &&
							  inbox_knows_sequence(policy->strategy));
	if (step->wrote)
		inbox_stream_write(&open);
	inbox_stream_close(&open);
	return InvalidTransactionId;
}

/* What a claim's answer means for an event. */
static void
inbox_claimed(const Answer *claimed, InboxAnswer *answer)
{
	switch (claimed->outcome)
	{
		case OUTCOME_EXECUTE:
		case OUTCOME_RESUME:
			answer->outcome = INBOX_PROCESS;
			break;
		case OUTCOME_REPLAY:
			answer->outcome = INBOX_DUPLICATE;
			break;
		case OUTCOME_MISMATCH:
			answer->outcome = INBOX_MISMATCH;
			break;
		case OUTCOME_EXHAUSTED:
			answer->outcome = INBOX_EXHAUSTED;
			break;
		case OUTCOME_IN_PROGRESS:
		case OUTCOME_RETRY_LATER:
		case OUTCOME_INDETERMINATE:
		case OUTCOME_EXPIRED:
			answer->outcome = INBOX_IN_PROGRESS;
			break;
	}
	answer->reason = claimed->reason;
	answer->first_seen = claimed->claimed_at;
}

/*
 * Claim the event's id.  Raises ID400, ID413, what a wait raises, 40001.
 */
static void
inbox_claim(InboxCall *call, const InboxPolicy *policy, InboxAnswer *answer)
{
	ClaimRequest claim;
	Answer		claimed;

	memset(&claim, 0, sizeof(claim));
	claim.identity = call->event;
	claim.slot = stats_slot(call->event.scope, call->event.scope_len);
	claim.request = call->request;
	claim.settles = true;
	claim.has_wait = true;
	claim.wait = policy->wait;
	claim.has_retention = policy->has_retention;
	claim.retention = policy->retention;
	claim_execute(&claim, &claimed);
	inbox_claimed(&claimed, answer);
}

/* Have the ledger say that an event is given up. */
static void
inbox_record_dead(const InboxCall *call, int32 deliveries)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"stream\": ");
	escape_json(&json, pnstrdup(call->name.principal,
								call->name.principal_len));
	appendStringInfoString(&json, ", \"event\": ");
	escape_json(&json, pnstrdup(call->event.key, call->event.key_len));
	appendStringInfo(&json, ", \"deliveries\": %d}", deliveries);
	decision_general(ENTRY_DEAD, call->name.scope, call->name.scope_len,
					 json.data);
}

/* The event has failed too often: it is dead. */
static void
inbox_bury(InboxCall *call, int32 failures, InboxAnswer *answer)
{
	InboxEvent	event = {EVENT_DEAD, failures, clock_now(), call->has_epoch,
	call->epoch, call->has_seq, call->seq, call->subseq, call->event_id};

	inbox_event_put(call, &event);
	inbox_record_dead(call, failures);
	answer->outcome = INBOX_EXHAUSTED;
	answer->reason = NULL;
	answer->deliveries = failures;
}

/* Let an event be processed, unless it has failed too often. */
static void
inbox_deliver(InboxCall *call, const InboxPolicy *policy, InboxAnswer *answer)
{
	int32		failures;

	if (policy->max_deliveries == 0)
		return;
	failures = inbox_delivery_failures(&call->event);
	if (failures >= policy->max_deliveries)
	{
		inbox_bury(call, failures, answer);
		return;
	}
	inbox_delivery_begin(&call->event, failures);
	answer->deliveries = failures + 1;
}

/*
 * Is more known of the event than the answer says?  What is dead stays so; what
 * is to be processed once more is.  If another transaction has its hand on
 * that, a duplicate waits as the settings say, and is then told in_progress;
 * what is written down as processed can't be but what it is, and waits.
 */
void
inbox_look_closer(InboxCall *call, const ClaimRequest *patience,
				  ClaimWait *wait, InboxAnswer *answer)
{
	static const ClaimRequest forever = {.wait = WAIT_FOREVER};
	InboxEvent	event;
	bool		found;
	TransactionId busy;

	while (TransactionIdIsValid(busy = inbox_event_find(call, &event, true,
														&found)))
	{
		if (claim_wait(answer->outcome == INBOX_PROCESS ? &forever : patience,
					   busy, wait))
			continue;
		inbox_answer(answer, INBOX_IN_PROGRESS, NULL);
		return;
	}
	if (!found)
		return;
	answer->reason = NULL;
	if (event.state == EVENT_DEAD)
	{
		answer->outcome = INBOX_EXHAUSTED;
		answer->deliveries = event.deliveries;
	}
	else
	{
		answer->outcome = INBOX_PROCESS;
		answer->reason = "redelivered";
	}
}

/* Count what an event was answered that a claim hasn't counted. */
static void
inbox_count(const InboxCall *call, const InboxAnswer *answer)
{
	StatsSlot	slot = stats_slot(call->name.scope, call->name.scope_len);

	if (slot == STATS_NO_SLOT)
		return;
	if (answer->outcome == INBOX_PROCESS)
		stats_count(slot, STATS_EXECUTED, 1);
	else if (answer->outcome == INBOX_DUPLICATE)
		stats_count(slot, STATS_REPLAYED, 1);
	else if (answer->outcome == INBOX_IN_PROGRESS)
		stats_count(slot, STATS_IN_PROGRESS, 1);
	else if (answer->outcome == INBOX_EXHAUSTED)
		stats_count(slot, STATS_EXHAUSTED, 1);
	else if (answer->outcome == INBOX_GAP || answer->outcome == INBOX_BLOCKED)
		stats_count(slot, STATS_GAPS, 1);
	else if (answer->outcome == INBOX_LATE)
		stats_count(slot, STATS_LATE_EVENTS, 1);
}

/* Steps 3 and 4. */
static void
inbox_finish(InboxCall *call, const InboxPolicy *policy, Step *step,
			 const ClaimRequest *patience, ClaimWait *wait,
			 InboxAnswer *answer)
{
	bool		both = policy->strategy == INBOX_ID_AND_SEQUENCE;

	if (both && answer->outcome == INBOX_DUPLICATE)
		answer->reason = "sequence";
	if (answer->outcome == INBOX_PROCESS && inbox_knows_ids(policy->strategy))
	{
		inbox_claim(call, policy, answer);
		if (both && answer->outcome == INBOX_DUPLICATE)
			answer->reason = "id";
		else if (both && answer->outcome != INBOX_PROCESS)
			step_undo(step, call, answer);
	}
	else
		inbox_count(call, answer);

	if (answer->outcome == INBOX_DUPLICATE ||
		answer->outcome == INBOX_LATE ||
		(answer->outcome == INBOX_PROCESS && policy->max_deliveries > 0))
		inbox_look_closer(call, patience, wait, answer);
	if (answer->outcome == INBOX_PROCESS)
		inbox_deliver(call, policy, answer);
}

/*
 * Decide one event, waiting as the settings say.  Raises ID400, ID403, ID413,
 * 40001, and what waits raise.
 */
static void
inbox_accept(InboxCall *call, InboxAnswer *answer)
{
	ClaimRequest patience = {0};
	ClaimWait	wait;
	Step		step;
	InboxPolicy policy;

	claim_wait_start(&wait);
	for (;;)
	{
		TransactionId busy = InvalidTransactionId;
		const char *obstacle = NULL;

		memset(&step, 0, sizeof(step));
		inbox_policy_lock();
		inbox_policy_get(&call->name, &policy);
		inbox_check_call(call, &policy);
		patience.wait = policy.wait;
		inbox_event_make(call, policy.strategy);
		inbox_answer(answer, INBOX_PROCESS, NULL);
		if (call->after)
			obstacle = inbox_blocked_by(call, &policy);
		if (obstacle)
			inbox_answer(answer, INBOX_BLOCKED, obstacle);
		else if (inbox_knows_sequence(policy.strategy) || call->has_epoch)
			busy = inbox_step(call, &policy, &step, answer);
		inbox_policy_unlock();
		if (!TransactionIdIsValid(busy))
			break;
		if (!claim_wait(&patience, busy, &wait))
		{
			inbox_answer(answer, INBOX_IN_PROGRESS, "stream");
			break;
		}
		FAULT_POINT("inbox.after_wait");
	}
	inbox_finish(call, &policy, &step, &patience, &wait, answer);
	if (step.before.ahead.ranges)
		pfree(step.before.ahead.ranges);
}

/* The result row of accept(). */
static Datum
inbox_datum(FunctionCallInfo fcinfo, const InboxAnswer *answer)
{
	Datum		values[ACCEPT_COLUMNS];
	bool		isnull[ACCEPT_COLUMNS];
	TupleDesc	desc = catalog_result_desc(fcinfo);

	values[0] = CStringGetTextDatum(inbox_outcome_names[answer->outcome]);
	isnull[0] = false;
	values[1] = Int64GetDatum(answer->expected_seq);
	isnull[1] = answer->expected_seq < 0;
	values[2] = Int64GetDatum(answer->position);
	isnull[2] = answer->position < 0;
	isnull[3] = answer->reason == NULL;
	if (answer->reason)
		values[3] = CStringGetTextDatum(answer->reason);
	values[4] = TimestampTzGetDatum(answer->first_seen);
	isnull[4] = answer->first_seen == NO_TIME;
	values[5] = Int32GetDatum(answer->deliveries);
	isnull[5] = answer->deliveries == 0;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, isnull));
}

/*
 * accept(consumer text, stream text, event_id text, seq bigint, subseq bigint,
 *		  epoch bigint, after text[], request text) returns record
 */
static Datum
accept_call(PG_FUNCTION_ARGS)
{
	InboxCall	call;
	InboxAnswer answer;

	catalog_check_writable("accept()");
	inbox_name(&call.name, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1));
	watch_scope(call.name.scope, call.name.scope_len);
	inbox_refuse_all(&call.name);
	call.event_id = TEXT_ARGUMENT(2);
	inbox_check_id(call.event_id);
	call.has_seq = !PG_ARGISNULL(3);
	call.seq = call.has_seq ? PG_GETARG_INT64(3) : 0;
	call.subseq = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT64(4);
	call.has_epoch = !PG_ARGISNULL(5);
	call.epoch = call.has_epoch ? PG_GETARG_INT64(5) : 0;
	inbox_check_number("seq", call.seq);
	inbox_check_number("subseq", call.subseq);
	inbox_check_number("epoch", call.epoch);
	call.after = PG_ARGISNULL(6) ? NULL : PG_GETARG_ARRAYTYPE_P(6);
	call.request = TEXT_ARGUMENT(7);
	inbox_accept(&call, &answer);
	watch_answer(inbox_outcome_names[answer.outcome], answer.reason, 0,
				 answer.deliveries);
	PG_RETURN_DATUM(inbox_datum(fcinfo, &answer));
}

WATCH_FUNCTION(idempotency_accept, STATS_ACCEPT, accept_call);
