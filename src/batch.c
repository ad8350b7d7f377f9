/*-------------------------------------------------------------------------
 *
 * batch.c
 *		claim_many(): many keys of one scope in one call.
 *
 * The keys are claimed in the order of their ids, bytewise, whatever order
 * they are given in, so two calls that want the same keys never deadlock.
 *
 * What makes it cheaper than as many claims: the policy and the tables are
 * locked and opened once, the scans are reused, and new rows are inserted many
 * at a time.  For that, the keys' locks of one chunk are held together, from
 * the probe to the insert: up to CHUNK_KEYS of them, taken in order, never
 * while waiting for a transaction.
 *
 * When another transaction has its hand on a key, everything decided so far is
 * written, all locks are released, and the call waits as it was asked to; then
 * it goes on with that key.  For the end of somebody's lease it doesn't wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "claim.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "incarnation.h"
#include "watch.h"

/* keys whose locks are held together */
#define CHUNK_KEYS 64

/* the columns before claim()'s: ordinal and key */
#define BATCH_OWN_COLUMNS 2

COMPAT_FUNCTION_INFO(idempotency_claim_many);

/* one key of the call */
typedef struct BatchItem
{
	text	   *key;
	ClaimRequest claim;
	Answer		answer;
} BatchItem;

/* a row that was decided on and is not written yet */
typedef struct BatchPending
{
	BatchItem  *item;
	KeyRow		row;
	Segment		segment;
} BatchPending;

typedef struct Batch
{
	int			nitems;
	BatchItem  *items;			/* in the order of the arguments */
	BatchItem **sorted;			/* in the order of the ids */
	int			next;			/* position in sorted */
	Policy		policy;
	Store		store;
	int			npending;
	BatchPending pending[CHUNK_KEYS];
} Batch;

/* Order by id, then by position, so that the first of equals is first. */
static int
batch_compare(const void *a, const void *b)
{
	BatchItem  *left = *(BatchItem *const *) a;
	BatchItem  *right = *(BatchItem *const *) b;
	int			order = memcmp(identity_id(&left->claim.identity)->data,
							   identity_id(&right->claim.identity)->data,
							   UUID_LEN);

	if (order != 0)
		return order;
	return left < right ? -1 : left > right;
}

/*
 * Write the pending rows, grouped by segment, and note the claims.
 */
static void
batch_flush(Batch *batch)
{
	Probe		nothing = {PROBE_NONE};

	for (int done = 0; done < batch->npending;)
	{
		Segment		segment = batch->pending[done].segment;
		Identity   *identities[CHUNK_KEYS];
		const KeyRow *rows[CHUNK_KEYS];
		KeyPlace	places[CHUNK_KEYS];
		int			n = 0;

		/* expiries rise with time, so equal segments stand together */
		while (done + n < batch->npending &&
			   batch->pending[done + n].segment == segment)
		{
			identities[n] = &batch->pending[done + n].item->claim.identity;
			rows[n] = &batch->pending[done + n].row;
			n++;
		}
		store_insert_many(&batch->store, identities, rows, n, segment,
						  places);
		for (int i = 0; i < n; i++)
			claim_note(&batch->pending[done + i].item->claim, &batch->policy,
					   &batch->pending[done + i].row, &nothing, &places[i]);
		done += n;
	}
	batch->npending = 0;
}

/* Take a key: pend its row, or write it if it replaces another. */
static void
batch_take(Batch *batch, BatchItem *item, const Probe *probe, TimestampTz now)
{
	BatchPending *pending = &batch->pending[batch->npending];

	claim_new_row(&item->claim, &batch->policy, probe, now, &pending->row,
				  &item->answer);
	pending->item = item;
	pending->segment = ring_segment_at(policy_ring(&batch->policy),
									   pending->row.expires_at);
	if (probe->result == PROBE_NONE)
		batch->npending++;
	else
	{
		KeyPlace	place = store_replace(&batch->store,
										  &item->claim.identity,
										  &pending->row, pending->segment,
										  &probe->place);

		claim_note(&item->claim, &batch->policy, &pending->row, probe,
				   &place);
	}
}

/* Take a key if nothing holds the claim back. */
static void
batch_admit(Batch *batch, BatchItem *item, const Probe *probe,
			TimestampTz now)
{
	/* leases are counted by their rows */
	if (item->claim.has_lease && batch->policy.restraint.limit_running > 0)
		batch_flush(batch);
	if (claim_admit(&item->claim, &batch->policy, &batch->store, probe, now,
					&item->answer))
		batch_take(batch, item, probe, now);
}

/* How many of the next keys make a chunk?  One key is never in it twice. */
static int
batch_chunk(Batch *batch)
{
	int			n = 1;

	while (n < CHUNK_KEYS && batch->next + n < batch->nitems &&
		   !identity_equal(&batch->sorted[batch->next + n]->claim.identity,
						   &batch->sorted[batch->next + n - 1]->claim.identity))
		n++;
	return n;
}

/* Take the locks of the chunk's keys, in order. */
static void
batch_lock(Batch *batch, int n)
{
	for (int i = 0; i < n; i++)
		identity_lock(&batch->sorted[batch->next + i]->claim.identity);
}

/* Release the locks of the chunk's keys. */
static void
batch_unlock(Batch *batch, int start, int n)
{
	for (int i = 0; i < n; i++)
		identity_unlock(identity_id(&batch->sorted[start + i]->claim.identity));
}

/*
 * Decide the next chunk.  Returns the transaction that has its hand on the
 * key that batch->next stands at then, else InvalidTransactionId.
 */
static TransactionId
batch_decide_chunk(Batch *batch)
{
	int			start = batch->next;
	int			n = batch_chunk(batch);
	TransactionId busy = InvalidTransactionId;
	TimestampTz now;

	batch_lock(batch, n);
	now = clock_now();
	while (!store_ready(&batch->store, now))
	{
		batch_unlock(batch, start, n);
		store_close(&batch->store);
		store_open(&batch->store, &batch->policy, RowExclusiveLock, NULL);
		batch_lock(batch, n);
		now = clock_now();
	}
	while (batch->next < start + n)
	{
		BatchItem  *item = batch->sorted[batch->next];
		Probe		probe;

		store_probe(&batch->store, &item->claim.identity, now, &probe);
		if (probe.result == PROBE_BUSY)
		{
			busy = probe.busy_xid;
			break;
		}
		claim_cap_lease(&batch->policy, &batch->store, &item->claim.identity,
						&probe, now);
		if (claim_decide(&item->claim, &batch->policy, &probe, now,
						 &item->answer))
		{
			claim_restrain_replay(&item->claim, &batch->policy, now,
								  &item->answer);
			claim_record_answer(&item->claim, &batch->policy, &probe, now,
								&item->answer);
		}
		else
			batch_admit(batch, item, &probe, now);
		claim_count(&item->claim, &item->answer);
		batch->next++;
	}
	batch_flush(batch);
	batch_unlock(batch, start, n);
	return busy;
}

/*
 * Check all items against the policy, under its lock, which is held on
 * return.  Raises what claim_prepare() does.
 */
static void
batch_prepare(Batch *batch)
{
	claim_prepare(&batch->sorted[batch->next]->claim, &batch->policy);
	for (int i = batch->next + 1; i < batch->nitems; i++)
		claim_prepare_more(&batch->sorted[i]->claim, &batch->policy);
}

/* Decide all keys, waiting as the call asks to. */
static void
batch_execute(Batch *batch)
{
	ClaimWait	wait;

	claim_wait_start(&wait);
	if (batch->nitems > 0 && batch->items[0].claim.has_lease)
		(void) incarnation_prepare(true);
	while (batch->next < batch->nitems)
	{
		TransactionId busy = InvalidTransactionId;
		BatchItem  *item;

		batch_prepare(batch);
		store_open(&batch->store, &batch->policy, RowExclusiveLock, NULL);
		while (batch->next < batch->nitems && !TransactionIdIsValid(busy))
		{
			CHECK_FOR_INTERRUPTS();
			busy = batch_decide_chunk(batch);
		}
		store_close(&batch->store);
		policy_unlock();
		if (!TransactionIdIsValid(busy))
			return;
		item = batch->sorted[batch->next];
		if (!claim_wait(&item->claim, busy, &wait))
		{
			claim_answer_busy(&item->answer);
			claim_count(&item->claim, &item->answer);
			batch->next++;
		}
	}
}

/*
 * The elements of a one-dimensional text array.  Raises ID400.
 */
static Datum *
batch_elements(ArrayType *array, const char *name, bool **nulls, int *n)
{
	Datum	   *elements;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must be a one-dimensional array", name)));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  nulls, n);
	return elements;
}

/*
 * Check the scope by itself: with no keys, nobody else would.  Raises ID400,
 * ID403.
 */
static void
batch_check_scope(FunctionCallInfo fcinfo)
{
	text	   *scope = TEXT_ARGUMENT(0);
	Policy		policy;

	if (scope == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("scope must not be null")));
	identity_check_scope(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	policy_lock();
	policy_get(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope), &policy);
	policy_check_role(&policy, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	if (!PG_ARGISNULL(3))
		policy_check_lease(&policy, VARDATA_ANY(scope),
						   VARSIZE_ANY_EXHDR(scope),
						   policy_lease_argument("lease",
												 PG_GETARG_INTERVAL_P(3)));
	policy_unlock();
}

/* Read the arguments into the batch.  Raises ID400. */
static void
batch_arguments(FunctionCallInfo fcinfo, Batch *batch)
{
	text	   *scope = TEXT_ARGUMENT(0);
	text	   *principal = TEXT_ARGUMENT(5);
	Datum	   *keys;
	Datum	   *requests = NULL;
	bool	   *key_nulls;
	bool	   *request_nulls = NULL;
	int			nrequests;
	bool		has_wait = !PG_ARGISNULL(4);
	int64		wait = 0;
	ClaimRequest leased = {0};

	claim_lease_arguments(&leased, PG_ARGISNULL(3) ? NULL :
						  PG_GETARG_INTERVAL_P(3), NULL, NULL);
	keys = batch_elements(PG_GETARG_ARRAYTYPE_P(1), "keys", &key_nulls,
						  &batch->nitems);
	if (!PG_ARGISNULL(2))
	{
		requests = batch_elements(PG_GETARG_ARRAYTYPE_P(2), "requests",
								  &request_nulls, &nrequests);
		if (nrequests != batch->nitems)
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
					 errmsg("keys and requests differ in length"),
					 errdetail("Their lengths are %d and %d.", batch->nitems,
							   nrequests)));
	}
	batch->items = MemoryContextAllocHuge(CurrentMemoryContext,
										  Max(batch->nitems, 1) *
										  sizeof(BatchItem));
	batch->sorted = MemoryContextAllocHuge(CurrentMemoryContext,
										   Max(batch->nitems, 1) *
										   sizeof(BatchItem *));
	if (has_wait)
		wait = policy_wait_argument("wait", PG_GETARG_INTERVAL_P(4));
	for (int i = 0; i < batch->nitems; i++)
	{
		BatchItem  *item = &batch->items[i];
		bool		has_request = requests && !request_nulls[i];

		item->key = key_nulls[i] ? NULL : DatumGetTextPP(keys[i]);
		claim_request_init(&item->claim, scope, item->key,
						   has_request ? DatumGetTextPP(requests[i]) : NULL,
						   principal);
		item->claim.has_lease = leased.has_lease;
		item->claim.lease = leased.lease;
		item->claim.has_wait = has_wait;
		item->claim.wait = wait;
		(void) identity_id(&item->claim.identity);
		batch->sorted[i] = item;
	}
	qsort(batch->sorted, batch->nitems, sizeof(BatchItem *), batch_compare);
}

/*
 * claim_many(scope text, keys text[], requests text[], lease interval,
 *			  wait interval, principal text) returns setof record
 */
static Datum
batch_call(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Batch	   *batch = palloc0(sizeof(Batch));

	catalog_check_writable("claim_many()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("keys must not be null")));
	batch_check_scope(fcinfo);
	batch_arguments(fcinfo, batch);
	batch_execute(batch);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < batch->nitems; i++)
	{
		Datum		values[BATCH_OWN_COLUMNS + ANSWER_COLUMNS];
		bool		isnull[BATCH_OWN_COLUMNS + ANSWER_COLUMNS] = {0};

		values[0] = Int32GetDatum(i + 1);
		values[1] = PointerGetDatum(batch->items[i].key);
		answer_values(&batch->items[i].answer, values + BATCH_OWN_COLUMNS,
					  isnull + BATCH_OWN_COLUMNS);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
	}
	return (Datum) 0;
}

WATCH_FUNCTION(idempotency_claim_many, STATS_CLAIM_MANY, batch_call);
