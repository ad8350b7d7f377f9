/*-------------------------------------------------------------------------
 *
 * inbox_many.c
 *		Many events of one stream in one call: accept_many().
 *
 * For streams whose events are known by their sequence: all are decided while
 * the stream is held, and its row is written once.  What fails then has failed
 * together, so nobody can say which event was at fault: nothing is counted
 * against max_deliveries.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "inbox.h"
#include "watch.h"

#define MANY_COLUMNS	5
#define MANY_MAX		100000

COMPAT_FUNCTION_INFO(idempotency_accept_many);

/* the events, and what they are answered */
typedef struct Batch
{
	int			n;
	const int64 *seqs;
	const int64 *subseqs;		/* NULL: all are 0 */
	InboxAnswer *answers;
} Batch;

/* The elements of an array argument.  Raises ID400, ID413. */
static const int64 *
batch_array(const char *what, ArrayType *array, int *n)
{
	const int64 *elements;

	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must have one dimension", what)));
	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not contain nulls", what)));
	if (*n > MANY_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_TOO_LARGE),
				 errmsg("%s has too many elements", what),
				 errdetail("It has %d; the limit is %d.", *n, MANY_MAX)));
	elements = (const int64 *) ARR_DATA_PTR(array);
	for (int i = 0; i < *n; i++)
		inbox_check_number(what, elements[i]);
	return elements;
}

/* The events that are asked for.  Raises ID400, ID413. */
static void
batch_arguments(FunctionCallInfo fcinfo, Batch *batch)
{
	int			n;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("seqs must not be null")));
	batch->seqs = batch_array("seqs", PG_GETARG_ARRAYTYPE_P(2), &batch->n);
	batch->subseqs = NULL;
	if (!PG_ARGISNULL(3))
	{
		batch->subseqs = batch_array("subseqs", PG_GETARG_ARRAYTYPE_P(3), &n);
		if (n != batch->n)
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
					 errmsg("seqs and subseqs must have the same length")));
	}
	batch->answers = palloc((batch->n + 1) * sizeof(InboxAnswer));
}

/* Has the stream what this function can know events by?  Raises ID400, ID403. */
static void
batch_check(const InboxCall *call, const InboxPolicy *policy)
{
	inbox_check_role(policy, &call->name);
	if (inbox_knows_ids(policy->strategy))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("accept_many() needs a stream whose events are known by their sequence alone"),
				 errhint("Call accept() for each event, or have the strategy changed with configure_consumer().")));
}

/*
 * Decide all events, under the policy lock.  Returns the transaction that has
 * the stream, if another one has.
 */
static TransactionId
batch_step(InboxCall *call, const InboxPolicy *policy, Batch *batch)
{
	InboxOpen	open;
	TimestampTz now;
	bool		touched = false;
	bool		wrote = false;

	if (!inbox_stream_open(&open, &call->name))
	{
		inbox_stream_close(&open);
		return open.busy_xid;
	}
	now = clock_now();
	if (!inbox_prepare(open.stream, policy, call->has_epoch, call->epoch,
					   &touched))
	{
		for (int i = 0; i < batch->n; i++)
			inbox_answer(&batch->answers[i], INBOX_STALE_EPOCH, NULL);
	}
	else
	{
		for (int i = 0; i < batch->n; i++)
		{
			inbox_decide(open.stream, policy, batch->seqs[i],
						 batch->subseqs ? batch->subseqs[i] : 0, now,
						 &batch->answers[i]);
			wrote |= batch->answers[i].outcome == INBOX_PROCESS;
		}
	}
	if (touched || wrote)
		inbox_stream_write(&open);
	inbox_stream_close(&open);
	return InvalidTransactionId;
}

/* Look closer at what was seen before, and count. */
static void
batch_finish(InboxCall *call, const InboxPolicy *policy,
			 const ClaimRequest *patience, ClaimWait *wait, Batch *batch)
{
	StatsSlot	slot = stats_slot(call->name.scope, call->name.scope_len);
	int			nprocessed = 0;
	int			nduplicates = 0;
	int			ngaps = 0;
	int			nlate = 0;

	for (int i = 0; i < batch->n; i++)
	{
		InboxAnswer *answer = &batch->answers[i];

		if (answer->outcome == INBOX_DUPLICATE ||
			answer->outcome == INBOX_LATE)
		{
			call->seq = batch->seqs[i];
			call->subseq = batch->subseqs ? batch->subseqs[i] : 0;
			inbox_event_make(call, policy->strategy);
			inbox_look_closer(call, patience, wait, answer);
			CHECK_FOR_INTERRUPTS();
		}
		nprocessed += answer->outcome == INBOX_PROCESS;
		nduplicates += answer->outcome == INBOX_DUPLICATE;
		ngaps += answer->outcome == INBOX_GAP;
		nlate += answer->outcome == INBOX_LATE;
	}
	if (slot == STATS_NO_SLOT)
		return;
	stats_count(slot, STATS_EXECUTED, nprocessed);
	stats_count(slot, STATS_REPLAYED, nduplicates);
	stats_count(slot, STATS_GAPS, ngaps);
	stats_count(slot, STATS_LATE_EVENTS, nlate);
}

/*
 * Decide all events, waiting as the settings say.  Raises ID400, ID403, 40001,
 * and what waits raise.
 */
static void
batch_accept(InboxCall *call, Batch *batch)
{
	ClaimRequest patience = {0};
	ClaimWait	wait;
	InboxPolicy policy;

	claim_wait_start(&wait);
	for (;;)
	{
		TransactionId busy;

		inbox_policy_lock();
		inbox_policy_get(&call->name, &policy);
		batch_check(call, &policy);
		patience.wait = policy.wait;
		busy = batch_step(call, &policy, batch);
		inbox_policy_unlock();
		if (!TransactionIdIsValid(busy))
			break;
		if (!claim_wait(&patience, busy, &wait))
		{
			for (int i = 0; i < batch->n; i++)
				inbox_answer(&batch->answers[i], INBOX_IN_PROGRESS, "stream");
			break;
		}
	}
	batch_finish(call, &policy, &patience, &wait, batch);
}

/* Return a row for each event. */
static void
batch_put(FunctionCallInfo fcinfo, const Batch *batch)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		outcomes[INBOX_EXHAUSTED + 1];

	for (int i = 0; i <= INBOX_EXHAUSTED; i++)
		outcomes[i] = CStringGetTextDatum(inbox_outcome_names[i]);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < batch->n; i++)
	{
		const InboxAnswer *answer = &batch->answers[i];
		Datum		values[MANY_COLUMNS];
		bool		isnull[MANY_COLUMNS] = {0};

		values[0] = Int32GetDatum(i + 1);
		values[1] = Int64GetDatum(batch->seqs[i]);
		values[2] = Int64GetDatum(batch->subseqs ? batch->subseqs[i] : 0);
		values[3] = outcomes[answer->outcome];
		isnull[4] = answer->reason == NULL;
		if (answer->reason)
			values[4] = CStringGetTextDatum(answer->reason);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
	}
}

/*
 * accept_many(consumer text, stream text, seqs bigint[], subseqs bigint[],
 *			   epoch bigint) returns setof record
 */
static Datum
accept_many_call(PG_FUNCTION_ARGS)
{
	InboxCall	call = {0};
	Batch		batch;

	catalog_check_writable("accept_many()");
	inbox_name(&call.name, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1));
	watch_scope(call.name.scope, call.name.scope_len);
	inbox_refuse_all(&call.name);
	call.has_seq = true;
	call.has_epoch = !PG_ARGISNULL(4);
	call.epoch = call.has_epoch ? PG_GETARG_INT64(4) : 0;
	inbox_check_number("epoch", call.epoch);
	batch_arguments(fcinfo, &batch);
	batch_accept(&call, &batch);
	batch_put(fcinfo, &batch);
	return (Datum) 0;
}

WATCH_FUNCTION(idempotency_accept_many, STATS_ACCEPT_MANY, accept_many_call);
