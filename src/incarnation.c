/*-------------------------------------------------------------------------
 *
 * incarnation.c
 *		The lives of the database.
 *
 * A database that loses what was committed, or exists twice, would issue fences
 * again and tell another history under the same name: after a promotion, a
 * recovery to a point in time, a restore from a dump.  Each of them makes a new
 * place out of the database, that is, another system identifier, timeline,
 * database OID or OID of the table of incarnations.  Table incarnation
 * remembers them; before a backend's first leased claim, and before it first
 * writes to the ledger, it compares the latest one with the place it is at, and
 * begins the next incarnation if they differ.
 *
 * Lives that a backup knows nothing of have issued fences, too: those of the
 * database it is to replace, or of an earlier restore of the same backup.
 * Therefore numbers are taken from the clock (periods of five minutes), and
 * are only ever ahead of it where one life began several incarnations within
 * a period; and the base counts the microseconds of the period, which nobody
 * claims as fast as.  So a life that begins later issues greater fences.
 *
 * The origin names the ledger's log in this life (C2SP tlog-checkpoint); a
 * change of idempotency.origin counts from the next incarnation on.
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
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "guc.h"
#include "incarnation.h"

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
	INCARNATION_ORIGIN,
	INCARNATION_COLUMNS = INCARNATION_ORIGIN
};

IncarnationBegun incarnation_begun_hook = NULL;

/* the present incarnation, known to be committed; number 0: not known */
static int64 known_number = 0;
static int64 known_base = 0;
static uint64 known_generation = 0; /* of what is cached */

/* Where this backend is. */
static Incarnation
incarnation_here(Relation rel)
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
incarnation_read(Relation rel)
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
		latest.origin = TextDatumGetCString(values[INCARNATION_ORIGIN - 1]);
		latest.own = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	}
	systable_endscan(scan);
	return latest;
}

/* Is the latest incarnation that of this place? */
static bool
incarnation_is(const Incarnation *latest, const Incarnation *here)
{
	return latest->number > 0 &&
		latest->system == here->system &&
		latest->timeline == here->timeline &&
		latest->database == here->database &&
		latest->relation == here->relation;
}

/* What made this another place than the latest incarnation's? */
static const char *
incarnation_reason(const Incarnation *latest, const Incarnation *here)
{
	if (latest->number == 0)
		return "first use";
	if (latest->system != here->system)
		return "another system: restored from a dump, or upgraded";
	if (latest->timeline != here->timeline)
		return "another timeline: promoted, or recovered to a point in time";
	return "another database: restored or copied";
}

/* Name the ledger's log of an incarnation. */
static char *
incarnation_origin(const Incarnation *incarnation)
{
	if (guc_origin && guc_origin[0] != '\0')
		return psprintf("%s/" INT64_FORMAT, guc_origin, incarnation->number);
	return psprintf("idempotency/" UINT64_FORMAT "/" INT64_FORMAT "/" INT64_FORMAT,
					(uint64) incarnation->system, incarnation->database,
					incarnation->number);
}

/* Write an incarnation's row. */
static void
incarnation_write(Relation rel, const Incarnation *next, TimestampTz now,
				  text *reason)
{
	Datum		values[INCARNATION_COLUMNS];
	bool		isnull[INCARNATION_COLUMNS] = {0};

	values[INCARNATION_NUMBER - 1] = Int64GetDatum(next->number);
	values[INCARNATION_FENCE_BASE - 1] = Int64GetDatum(next->base);
	values[INCARNATION_SYSTEM - 1] = Int64GetDatum(next->system);
	values[INCARNATION_TIMELINE - 1] = Int64GetDatum(next->timeline);
	values[INCARNATION_DATABASE - 1] = Int64GetDatum(next->database);
	values[INCARNATION_RELATION - 1] = Int64GetDatum(next->relation);
	values[INCARNATION_BEGAN_AT - 1] = TimestampTzGetDatum(now);
	values[INCARNATION_REASON - 1] = PointerGetDatum(reason);
	values[INCARNATION_ORIGIN - 1] = CStringGetTextDatum(next->origin);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
											isnull));
	CacheInvalidateRelcache(rel);
	CommandCounterIncrement();
}

/*
 * Begin the incarnation after the latest one, in this place.  The caller holds
 * a lock on the table that conflicts with itself.  Raises 2200H when there are
 * none left.
 */
static Incarnation
incarnation_begin(Relation rel, const Incarnation *latest,
				  const Incarnation *here, text *reason)
{
	Incarnation next = *here;
	TimestampTz now = clock_now();
	int64		elapsed = Max(now - INCARNATION_EPOCH, 0);

	next.number = Max(latest->number + 1, elapsed / INCARNATION_PERIOD);
	if (next.number > INCARNATION_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("there are no incarnations left")));
	next.base = (next.number << FENCE_SEQUENCE_BITS) +
		elapsed % INCARNATION_PERIOD;
	next.origin = incarnation_origin(&next);
	next.own = true;
	incarnation_write(rel, &next, now, reason);
	if (incarnation_begun_hook)
		incarnation_begun_hook(latest, &next, reason);
	return next;
}

/*
 * The present incarnation; it is begun if need be, and remembered once it has
 * been seen committed.  Without "wait", number 0 if somebody else is beginning
 * it.  Only number, base and own are filled in.
 */
static Incarnation
incarnation_current(bool wait)
{
	uint64		generation = catalog_generation(CATALOG_INCARNATION);
	Relation	rel;
	Incarnation here;
	Incarnation latest = {0};

	if (likely(known_number > 0 && known_generation == generation))
	{
		latest.number = known_number;
		latest.base = known_base;
		return latest;
	}

	rel = table_open(catalog_relation(CATALOG_INCARNATION), AccessShareLock);
	here = incarnation_here(rel);
	latest = incarnation_read(rel);
	if (!incarnation_is(&latest, &here))
	{
		if (wait)
			LockRelation(rel, ShareRowExclusiveLock);
		else if (!ConditionalLockRelation(rel, ShareRowExclusiveLock))
		{
			table_close(rel, NoLock);
			memset(&latest, 0, sizeof(latest));
			return latest;
		}
		latest = incarnation_read(rel);
	}
	if (!incarnation_is(&latest, &here))
	{
		text	   *reason = cstring_to_text(incarnation_reason(&latest, &here));

		latest = incarnation_begin(rel, &latest, &here, reason);
	}
	if (!latest.own)
	{
		known_number = latest.number;
		known_base = latest.base;
		known_generation = generation;
	}
	table_close(rel, NoLock);
	return latest;
}

/*
 * Make sure that this place has its incarnation.  To be called before a leased
 * claim takes any lock: after a promotion or restore another transaction can
 * be beginning the new one, until it has ended.  Returns false if that is so
 * and the caller doesn't want to wait.
 */
bool
incarnation_prepare(bool wait)
{
	return incarnation_current(wait).number != 0;
}

/* What the present incarnation's fences are above; waits as above. */
int64
incarnation_base(void)
{
	return incarnation_current(true).base;
}

/* The latest incarnation that there is, here or before; number 0: none. */
Incarnation
incarnation_latest(void)
{
	Relation	rel = table_open(catalog_relation(CATALOG_INCARNATION),
								 AccessShareLock);
	Incarnation latest = incarnation_read(rel);

	table_close(rel, AccessShareLock);
	return latest;
}

/*
 * The number of the present incarnation, which is begun if need be and asked
 * for; or, rather than wait for somebody who is beginning it, of the latest
 * one, 0 if there is none.
 */
int64
incarnation_number(bool begin)
{
	int64		number = 0;

	if (likely(known_number > 0 &&
			   known_generation == catalog_generation(CATALOG_INCARNATION)))
		return known_number;
	if (begin)
		number = incarnation_current(false).number;
	return number != 0 ? number : incarnation_latest().number;
}

/* Is it this place's? */
bool
incarnation_is_here(const Incarnation *incarnation)
{
	Relation	rel = table_open(catalog_relation(CATALOG_INCARNATION),
								 AccessShareLock);
	Incarnation here = incarnation_here(rel);

	table_close(rel, AccessShareLock);
	return incarnation_is(incarnation, &here);
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
	rel = table_open(catalog_relation(CATALOG_INCARNATION), ShareRowExclusiveLock);
	LockRelationOid(catalog_policy_table(), AccessExclusiveLock);
	here = incarnation_here(rel);
	latest = incarnation_read(rel);
	latest = incarnation_begin(rel, &latest, &here, PG_GETARG_TEXT_PP(0));
	table_close(rel, NoLock);
	PG_RETURN_INT64(latest.number);
}
