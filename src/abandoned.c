/*-------------------------------------------------------------------------
 *
 * abandoned.c
 *		Leased claims whose holder has gone: abandoned, take_abandoned.
 *
 * Both read, per table, the index of what is running, in the scope's tables.
 * abandoned() shows what its statement's snapshot sees, and changes nothing.
 * take_abandoned() looks with a snapshot of its own, and then decides each key
 * as a claim does, under its lock; a key that somebody else has his hand on is
 * passed over.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "claim.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "incarnation.h"

#define ABANDONED_MAX 10000

COMPAT_FUNCTION_INFO(idempotency_abandoned);
COMPAT_FUNCTION_INFO(idempotency_take_abandoned);

/* one claim whose lease is over, copied from its row */
typedef struct Abandoned
{
	Identity   *identity;
	TimestampTz claimed_at;
	TimestampTz lease_until;
	int32		attempt;
	int64		fence;
	text	   *recovery_point;
	text	   *role;
	text	   *application;
} Abandoned;

/* those of one scope */
typedef struct AbandonedList
{
	int64		max;			/* more than the caller wants is not needed */
	TimestampTz now;
	TimestampTz latest;			/* leases that end later are to be looked at */
	Abandoned  *items;
	int			n;
	int			allocated;
} AbandonedList;

/* columns of abandoned(), counted from 0 */
enum
{
	SHOW_PRINCIPAL,
	SHOW_KEY,
	SHOW_ATTEMPT,
	SHOW_CLAIMED_AT,
	SHOW_LEASE_UNTIL,
	SHOW_OVERDUE_MS,
	SHOW_RECOVERY_POINT,
	SHOW_ROLE,
	SHOW_APPLICATION,
	SHOW_FENCE,
	SHOW_COLUMNS
};

/* columns of take_abandoned() before claim()'s */
enum
{
	TAKE_PRINCIPAL,
	TAKE_KEY,
	TAKE_REQUEST,
	TAKE_OWN_COLUMNS
};

/* A copy of a nullable stored text. */
static text *
abandoned_text(struct varlena *value)
{
	return value ? (text *) pg_detoast_datum_copy(value) : NULL;
}

/*
 * A StoreVisitor: add the row if its lease is over, or its end further off
 * than the caller takes for possible.
 */
static void
abandoned_visit(const Identity *identity, const KeyRow *row, bool own,
				void *arg)
{
	AbandonedList *list = arg;
	Abandoned  *item;

	if (row->state != KEY_RUNNING || keyrow_is_expired(row, list->now) ||
		(row->lease_until > list->now && row->lease_until <= list->latest))
		return;
	if (list->n == list->allocated)
	{
		list->allocated = Max(64, list->allocated * 2);
		list->items = list->items ?
			repalloc_huge(list->items, list->allocated * sizeof(Abandoned)) :
			palloc(list->allocated * sizeof(Abandoned));
	}
	item = &list->items[list->n++];
	item->identity = identity_copy(identity, CurrentMemoryContext);
	item->claimed_at = row->claimed_at;
	item->lease_until = row->lease_until;
	item->attempt = row->attempt;
	item->fence = row->fence;
	item->recovery_point = abandoned_text(row->recovery_point);
	item->role = abandoned_text(row->role);
	item->application = abandoned_text(row->application);
}

/* Order by the end of the lease. */
static int
abandoned_compare(const void *a, const void *b)
{
	TimestampTz left = ((const Abandoned *) a)->lease_until;
	TimestampTz right = ((const Abandoned *) b)->lease_until;

	return left < right ? -1 : left > right;
}

/*
 * Fill in the list from an opened store, those overdue longest first; with
 * those whose lease lasts longer than max_lease (microseconds) from now.
 */
static void
abandoned_find(AbandonedList *list, Store *store, const char *scope,
			   int scope_len, int64 max_lease)
{
	list->now = clock_now();
	list->latest = max_lease == PG_INT64_MAX ? DT_NOEND :
		list->now + max_lease;
	store_visit_running(store, scope, scope_len, GetActiveSnapshot(),
						abandoned_visit, list);
	if (list->n > 1)
		qsort(list->items, list->n, sizeof(Abandoned), abandoned_compare);
}

/* The arguments scope and max of both functions.  Raises ID400. */
static text *
abandoned_arguments(FunctionCallInfo fcinfo, AbandonedList *list)
{
	text	   *scope = TEXT_ARGUMENT(0);

	if (scope == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("scope must not be null")));
	identity_check_scope(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	memset(list, 0, sizeof(*list));
	list->max = PG_ARGISNULL(1) ? -1 : PG_GETARG_INT64(1);
	if (list->max < 1 || list->max > ABANDONED_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("max must be between 1 and %d", ABANDONED_MAX)));
	return scope;
}

/* An identity's text as a text datum. */
static Datum
abandoned_name(const char *name, int len)
{
	return PointerGetDatum(cstring_to_text_with_len(name, len));
}

/* Return one row of abandoned(). */
static void
abandoned_put(ReturnSetInfo *result, const AbandonedList *list,
			  const Abandoned *item)
{
	Datum		values[SHOW_COLUMNS];
	bool		isnull[SHOW_COLUMNS] = {0};

	values[SHOW_PRINCIPAL] = abandoned_name(item->identity->principal,
											item->identity->principal_len);
	values[SHOW_KEY] = abandoned_name(item->identity->key,
									  item->identity->key_len);
	values[SHOW_ATTEMPT] = Int32GetDatum(item->attempt);
	values[SHOW_CLAIMED_AT] = TimestampTzGetDatum(item->claimed_at);
	values[SHOW_LEASE_UNTIL] = TimestampTzGetDatum(item->lease_until);
	values[SHOW_OVERDUE_MS] = Int64GetDatum(answer_ms(list->now -
													  item->lease_until));
	values[SHOW_RECOVERY_POINT] = PointerGetDatum(item->recovery_point);
	isnull[SHOW_RECOVERY_POINT] = item->recovery_point == NULL;
	values[SHOW_ROLE] = PointerGetDatum(item->role);
	isnull[SHOW_ROLE] = item->role == NULL;
	values[SHOW_APPLICATION] = PointerGetDatum(item->application);
	isnull[SHOW_APPLICATION] = item->application == NULL;
	values[SHOW_FENCE] = Int64GetDatum(item->fence);
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/* abandoned(scope text, max bigint) returns setof record */
Datum
idempotency_abandoned(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	AbandonedList list;
	text	   *scope = abandoned_arguments(fcinfo, &list);
	Policy		policy;
	Store		store;

	policy_lock();
	policy_get(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope), &policy);
	policy_check_role(&policy, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	store_open(&store, &policy, AccessShareLock, GetActiveSnapshot());
	abandoned_find(&list, &store, VARDATA_ANY(scope),
				   VARSIZE_ANY_EXHDR(scope), PG_INT64_MAX);
	store_close(&store);
	policy_unlock();

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < list.n && i < list.max; i++)
		abandoned_put(result, &list, &list.items[i]);
	return (Datum) 0;
}

/* Return one row of take_abandoned(). */
static void
abandoned_put_taken(ReturnSetInfo *result, const Identity *identity,
					text *request, const Answer *answer)
{
	Datum		values[TAKE_OWN_COLUMNS + ANSWER_COLUMNS];
	bool		isnull[TAKE_OWN_COLUMNS + ANSWER_COLUMNS] = {0};

	values[TAKE_PRINCIPAL] = abandoned_name(identity->principal,
											identity->principal_len);
	values[TAKE_KEY] = abandoned_name(identity->key, identity->key_len);
	values[TAKE_REQUEST] = PointerGetDatum(request);
	isnull[TAKE_REQUEST] = request == NULL;
	answer_values(answer, values + TAKE_OWN_COLUMNS,
				  isnull + TAKE_OWN_COLUMNS);
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/*
 * Take one claim over, if, under its key's lock, its lease is over; returns
 * whether it was.
 */
static bool
abandoned_take(ClaimRequest *claim, const Policy *policy, Store *store,
			   ReturnSetInfo *result)
{
	Probe		probe;
	Answer		answer;
	TimestampTz now;
	bool		taken = false;

	if (!identity_trylock(identity_id(&claim->identity)))
		return false;
	now = clock_now();
	if (store_ready(store, now))
	{
		store_probe(store, &claim->identity, now, &probe);
		claim_cap_lease(policy, store, &claim->identity, &probe, now);
		if (probe.result == PROBE_ROW && probe.row.state == KEY_RUNNING &&
			!keyrow_is_expired(&probe.row, now))
			taken = !claim_decide(claim, policy, &probe, now, &answer);
	}
	if (taken && !claim_admit(claim, policy, store, &probe, now, &answer))
		taken = false;
	if (taken)
	{
		text	   *request = store_detoast(probe.row.request);

		claim_take(claim, policy, store, &probe, now, &answer);
		claim_count(claim, &answer);
		abandoned_put_taken(result, &claim->identity, request, &answer);
	}
	identity_unlock(identity_id(&claim->identity));
	return taken;
}

/* The claim that takes an abandoned one over. */
static void
abandoned_claim(const Abandoned *item, const Policy *policy, int64 lease,
				ClaimRequest *claim)
{
	memset(claim, 0, sizeof(*claim));
	claim->identity = *item->identity;
	claim->slot = stats_slot(item->identity->scope,
							 item->identity->scope_len);
	claim->has_lease = true;
	claim->lease = lease;
	claim->retention = policy->retention;
}

/*
 * take_abandoned(scope text, max bigint, lease interval)
 *		returns setof record
 */
Datum
idempotency_take_abandoned(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	AbandonedList list;
	text	   *scope;
	int64		lease;
	int64		taken = 0;
	Policy		policy;
	Store		store;

	catalog_check_writable("take_abandoned()");
	scope = abandoned_arguments(fcinfo, &list);
	lease = policy_lease_argument("lease", PG_ARGISNULL(2) ? NULL :
								  PG_GETARG_INTERVAL_P(2));
	InitMaterializedSRF(fcinfo, 0);
	(void) incarnation_prepare(true);
	policy_lock();
	policy_get(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope), &policy);
	policy_check_role(&policy, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	policy_check_lease(&policy, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope),
					   lease);
	/* otherwise there is nothing that a next attempt could go on with */
	if (policy.on_lease_expiry == LEASE_RESUME)
	{
		PushActiveSnapshot(GetLatestSnapshot());
		store_open(&store, &policy, RowExclusiveLock, NULL);
		/* claim_cap_lease() will see to a lease that is too long */
		abandoned_find(&list, &store, VARDATA_ANY(scope),
					   VARSIZE_ANY_EXHDR(scope), policy.max_lease);
		PopActiveSnapshot();
		for (int i = 0; i < list.n && taken < list.max; i++)
		{
			ClaimRequest claim;

			CHECK_FOR_INTERRUPTS();
			abandoned_claim(&list.items[i], &policy, lease, &claim);
			if (abandoned_take(&claim, &policy, &store, result))
				taken++;
		}
		store_close(&store);
	}
	policy_unlock();
	return (Datum) 0;
}
