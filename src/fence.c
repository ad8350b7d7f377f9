/*-------------------------------------------------------------------------
 *
 * fence.c
 *		Fences: numbers that only rise, by which a stale holder is known.
 *
 * fence = base of the incarnation + sequence, and the base is the incarnation's
 * number << 40, and a bit.  The sequence is PostgreSQL's own; what it has given
 * out can be given out again after a crash, unless the transaction that drew
 * it has committed, so a fence counts only once its claim has.  It is added
 * rather than put into 40 bits of its own, so after 2^40 claims it just goes
 * on.
 *
 * A database that loses committed claims, or exists twice, would issue fences
 * again: after a promotion, a recovery to a point in time, a restore from a
 * dump.  Each of them makes a new place out of the database, that is, another
 * system identifier, timeline, database OID or OID of the table of
 * incarnations.  Table incarnation remembers them; before a backend's first
 * leased claim it compares the latest one with the place it is at, and begins
 * the next incarnation if they differ.
 *
 * Lives that a backup knows nothing of have issued fences, too: those of the
 * database it is to replace, or of an earlier restore of the same backup.
 * Therefore numbers are taken from the clock (periods of five minutes), and
 * are only ever ahead of it where one life began several incarnations within
 * a period; and the base counts the microseconds of the period, which nobody
 * claims as fast as.  So a life that begins later issues greater fences.
 *
 * Locking: who begins an incarnation holds ShareRowExclusiveLock on the table
 * until it has committed.  If that is a claim, nobody has drawn a fence in
 * this place before, as everybody passes here first.  bump_incarnation(), with
 * that lock, locks the policy table exclusively, so that no claim is being
 * decided by the number before; every claim learns of the new one when it
 * takes the policy lock.
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
#define INCARNATION_EPOCH	(9497 * USECS_PER_DAY)	/* 2026-01-01 UTC */
#define INCARNATION_PERIOD	(5 * USECS_PER_MINUTE)
#define REASON_MAX_BYTES	1024

COMPAT_FUNCTION_INFO(idempotency_bump_incarnation);

/* attribute numbers, in the order of src/sql/fence.sql */
enum
{
	INCARNATION_NUMBER = 1,
	INCARNATION_FENCE_BASE,
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
	int64		base;			/* what its fences are above */
	int64		system;			/* system identifier */
	int64		timeline;
	int64		database;		/* OID */
	int64		relation;		/* OID of the table of incarnations */
	bool		own;			/* begun by this transaction */
} Incarnation;

/* base of the present incarnation, known to be committed; 0: not known */
static int64 fence_base = 0;
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

	catalog_require_columns(rel, INCARNATION_COLUMNS);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[INCARNATION_COLUMNS];
		bool		isnull[INCARNATION_COLUMNS];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		if (DatumGetInt64(values[INCARNATION_NUMBER - 1]) <= latest.number)
			continue;
		latest.number = DatumGetInt64(values[INCARNATION_NUMBER - 1]);
		latest.base = DatumGetInt64(values[INCARNATION_FENCE_BASE - 1]);
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
 * Begin the incarnation after the latest one, in this place.  The caller holds
 * a lock on the table that conflicts with itself.
 */
static Incarnation
fence_begin(Relation rel, const Incarnation *latest, const Incarnation *here,
			text *reason)
{
	Incarnation next = *here;
	TimestampTz now = clock_now();
	int64		elapsed = Max(now - INCARNATION_EPOCH, 0);
	Datum		values[INCARNATION_COLUMNS];
	bool		isnull[INCARNATION_COLUMNS] = {0};

	next.number = Max(latest->number + 1, elapsed / INCARNATION_PERIOD);
	if (next.number > INCARNATION_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("there are no incarnations left")));
	next.base = (next.number << FENCE_SEQUENCE_BITS) +
		elapsed % INCARNATION_PERIOD;
	next.own = true;

	values[INCARNATION_NUMBER - 1] = Int64GetDatum(next.number);
	values[INCARNATION_FENCE_BASE - 1] = Int64GetDatum(next.base);
	values[INCARNATION_SYSTEM - 1] = Int64GetDatum(here->system);
	values[INCARNATION_TIMELINE - 1] = Int64GetDatum(here->timeline);
	values[INCARNATION_DATABASE - 1] = Int64GetDatum(here->database);
	values[INCARNATION_RELATION - 1] = Int64GetDatum(here->relation);
	values[INCARNATION_BEGAN_AT - 1] = TimestampTzGetDatum(now);
	values[INCARNATION_REASON - 1] = PointerGetDatum(reason);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
											isnull));
	CacheInvalidateRelcache(rel);
	CommandCounterIncrement();
	return next;
}

/*
 * What the present incarnation's fences are above; it is begun if need be, and
 * remembered once it has been seen committed.  Without "wait", 0 if somebody
 * else is beginning it.
 */
static int64
fence_current_base(bool wait)
{
	uint64		generation = catalog_incarnation_generation();
	Relation	rel;
	Incarnation here;
	Incarnation latest;

	if (likely(fence_base > 0 && fence_generation == generation))
		return fence_base;

	rel = table_open(catalog_incarnation_table(), AccessShareLock);
	here = fence_here(rel);
	latest = fence_latest(rel);
	if (!fence_is_here(&latest, &here))
	{
		if (wait)
			LockRelation(rel, ShareRowExclusiveLock);
		else if (!ConditionalLockRelation(rel, ShareRowExclusiveLock))
		{
			table_close(rel, NoLock);
			return 0;
		}
		latest = fence_latest(rel);
	}
	if (!fence_is_here(&latest, &here))
	{
		text	   *reason = cstring_to_text(fence_reason(&latest, &here));

		latest = fence_begin(rel, &latest, &here, reason);
	}
	if (!latest.own)
	{
		fence_base = latest.base;
		fence_generation = generation;
	}
	table_close(rel, NoLock);
	return latest.base;
}

/*
 * Make sure that this place has its incarnation.  To be called before a leased
 * claim takes any lock: after a promotion or restore another transaction can
 * be beginning the new one, until it has ended.  Returns false if that is so
 * and the caller doesn't want to wait.
 */
bool
fence_prepare(bool wait)
{
	return fence_current_base(wait) != 0;
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

	if (pg_add_s64_overflow(fence_current_base(true), sequence, &fence))
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

	/* whoever has begun one may still claim; so not in the other order */
	rel = table_open(catalog_incarnation_table(), ShareRowExclusiveLock);
	LockRelationOid(catalog_policy_table(), AccessExclusiveLock);
	here = fence_here(rel);
	latest = fence_latest(rel);
	latest = fence_begin(rel, &latest, &here, PG_GETARG_TEXT_PP(0));
	table_close(rel, NoLock);
	PG_RETURN_INT64(latest.number);
}
