/*-------------------------------------------------------------------------
 *
 * fence.c
 *		Fences: numbers that only rise, by which a stale holder is known.
 *
 * fence = (incarnation << 40) + sequence.  The sequence is PostgreSQL's own;
 * what it has given out can be given out again after a crash, unless the
 * transaction that drew it has committed, so a fence counts only once its
 * claim has.  It is added rather than put into 40 bits of its own, so after
 * 2^40 claims it just goes on.
 *
 * A database that loses committed claims, or exists twice, would issue fences
 * again: after a promotion, a recovery to a point in time, a restore from a
 * dump.  Each of them makes a new place out of the database, that is, another
 * system identifier, timeline, database OID or OID of the table of
 * incarnations.  Table incarnation remembers them; before a backend's first
 * leased claim it compares the latest one with the place it is at, and begins
 * the next incarnation if they differ.
 *
 * Locking: who begins an incarnation by itself holds ShareRowExclusiveLock on
 * the table until it has committed; nobody has drawn a fence in this place by
 * then, as everybody passes here first.  bump_incarnation() locks the policy
 * table exclusively, so that no claim is being decided by the number before;
 * every claim learns of the new one when it takes the policy lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "commands/sequence.h"
#include "common/int.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "fence.h"

#define FENCE_SEQUENCE_BITS 40
#define INCARNATION_MAX		((INT64CONST(1) << (63 - FENCE_SEQUENCE_BITS)) - 1)
#define REASON_MAX_BYTES	1024

COMPAT_FUNCTION_INFO(idempotency_bump_incarnation);

/* attribute numbers, in the order of src/sql/fence.sql */
enum
{
	INCARNATION_NUMBER = 1,
	INCARNATION_SYSTEM,
	INCARNATION_TIMELINE,
	INCARNATION_DATABASE,
	INCARNATION_RELATION,
	INCARNATION_BEGAN_AT,
	INCARNATION_REASON,
	INCARNATION_COLUMNS = INCARNATION_REASON
};

/* one life of the database; number 0 stands for "none yet" */
typedef struct Incarnation
{
	int64		number;
	int64		system;			/* system identifier */
	int64		timeline;
	int64		database;		/* OID */
	int64		relation;		/* OID of the table of incarnations */
	bool		own;			/* begun by this transaction */
} Incarnation;

/* the present incarnation, known to be committed */
static int64 fence_incarnation = 0;
static uint64 fence_generation = 0; /* of what is cached */

/* Where this backend is. */
static Incarnation
fence_here(Relation rel)
{
	Incarnation here = {0};

	here.system = (int64) GetSystemIdentifier();
	here.timeline = GetWALInsertionTimeLine();
	here.database = MyDatabaseId;
	here.relation = RelationGetRelid(rel);
	return here;
}

/* The latest incarnation in the table. */
static Incarnation
fence_latest(Relation rel)
{
	Incarnation latest = {0};
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[INCARNATION_COLUMNS];
		bool		isnull[INCARNATION_COLUMNS];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		if (DatumGetInt64(values[INCARNATION_NUMBER - 1]) <= latest.number)
			continue;
		latest.number = DatumGetInt64(values[INCARNATION_NUMBER - 1]);
		latest.system = DatumGetInt64(values[INCARNATION_SYSTEM - 1]);
		latest.timeline = DatumGetInt64(values[INCARNATION_TIMELINE - 1]);
		latest.database = DatumGetInt64(values[INCARNATION_DATABASE - 1]);
		latest.relation = DatumGetInt64(values[INCARNATION_RELATION - 1]);
		latest.own = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	}
	systable_endscan(scan);
	return latest;
}

/* Is the latest incarnation that of this place? */
static bool
fence_is_here(const Incarnation *latest, const Incarnation *here)
{
	return latest->number > 0 &&
		latest->system == here->system &&
		latest->timeline == here->timeline &&
		latest->database == here->database &&
		latest->relation == here->relation;
}

/* What made this another place than the latest incarnation's? */
static const char *
fence_reason(const Incarnation *latest, const Incarnation *here)
{
	if (latest->number == 0)
		return "first leased claim";
	if (latest->system != here->system)
		return "another system: restored from a dump, or upgraded";
	if (latest->timeline != here->timeline)
		return "another timeline: promoted, or recovered to a point in time";
	return "another database: restored or copied";
}

/*
 * Begin the incarnation after the latest one.  The caller holds a lock on the
 * table that conflicts with itself.  Returns its number.
 */
static int64
fence_begin(Relation rel, const Incarnation *latest, const Incarnation *here,
			text *reason)
{
	Datum		values[INCARNATION_COLUMNS];
	bool		isnull[INCARNATION_COLUMNS] = {0};

	if (latest->number >= INCARNATION_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("there are no incarnations left")));
	values[INCARNATION_NUMBER - 1] = Int64GetDatum(latest->number + 1);
	values[INCARNATION_SYSTEM - 1] = Int64GetDatum(here->system);
	values[INCARNATION_TIMELINE - 1] = Int64GetDatum(here->timeline);
	values[INCARNATION_DATABASE - 1] = Int64GetDatum(here->database);
	values[INCARNATION_RELATION - 1] = Int64GetDatum(here->relation);
	values[INCARNATION_BEGAN_AT - 1] = TimestampTzGetDatum(clock_now());
	values[INCARNATION_REASON - 1] = PointerGetDatum(reason);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
											isnull));
	CacheInvalidateRelcache(rel);
	CommandCounterIncrement();
	return latest->number + 1;
}

/*
 * The present incarnation, begun if need be.  It is remembered once it has
 * been seen committed.
 */
static int64
fence_current(void)
{
	uint64		generation = catalog_incarnation_generation();
	Relation	rel;
	Incarnation here;
	Incarnation latest;

	if (likely(fence_incarnation > 0 && fence_generation == generation))
		return fence_incarnation;

	rel = table_open(catalog_incarnation_table(), AccessShareLock);
	here = fence_here(rel);
	latest = fence_latest(rel);
	if (!fence_is_here(&latest, &here))
	{
		LockRelation(rel, ShareRowExclusiveLock);
		latest = fence_latest(rel);
	}
	if (!fence_is_here(&latest, &here))
	{
		latest.number = fence_begin(rel, &latest, &here,
									cstring_to_text(fence_reason(&latest,
																 &here)));
		latest.own = true;
	}
	else if (!latest.own)
	{
		fence_incarnation = latest.number;
		fence_generation = generation;
	}
	table_close(rel, NoLock);
	return latest.number;
}

/*
 * Make sure that this place has its incarnation.  To be called before a leased
 * claim takes any lock: after a promotion or restore it can wait for another
 * transaction that begins the new one.
 */
void
fence_prepare(void)
{
	(void) fence_current();
}

/*
 * A fence greater than any that was drawn before.  The caller holds the policy
 * lock, and commits durably.  Raises 2200H when there are none left.
 */
int64
fence_next(void)
{
	int64		sequence = nextval_internal(catalog_fence_sequence(), false);
	int64		fence;

	if (pg_add_s64_overflow(fence_current() << FENCE_SEQUENCE_BITS, sequence,
							&fence))
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("there are no fences left")));
	return fence;
}

/* bump_incarnation(reason text) returns bigint */
Datum
idempotency_bump_incarnation(PG_FUNCTION_ARGS)
{
	Relation	rel;
	Incarnation here;
	Incarnation latest;

	catalog_check_writable("bump_incarnation()");
	if (PG_ARGISNULL(0) || VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0)) == 0 ||
		VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0)) > REASON_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("bump_incarnation() needs a reason of up to %d bytes",
						REASON_MAX_BYTES)));

	LockRelationOid(catalog_policy_table(), AccessExclusiveLock);
	rel = table_open(catalog_incarnation_table(), ShareRowExclusiveLock);
	here = fence_here(rel);
	latest = fence_latest(rel);
	latest.number = fence_begin(rel, &latest, &here, PG_GETARG_TEXT_PP(0));
	table_close(rel, NoLock);
	PG_RETURN_INT64(latest.number);
}
