/*-------------------------------------------------------------------------
 *
 * tag.c
 *		Tags of responses, and their invalidation.
 *
 * A finish can give its response a tag.  invalidate() raises the generation of
 * a tag of a scope, and with it all responses of a lesser one are gone, however
 * many there are: a row has the generation that its finish has seen, and a
 * replay compares it with the one in table tag_generation.  A tag that isn't in
 * the table has generation 0.
 *
 * What a finish has "seen" is the point.  A response is made of what was read
 * between the claim and the finish; if an invalidation commits meanwhile, what
 * was read may be of before it.  So a finish counts as having seen an
 * invalidation only if it was visible to the snapshot in which this transaction
 * claimed for the first time (for a leased claim, which is finished by another
 * transaction: to the snapshot of the finish), or is this transaction's own.
 * An invalidation that commits later has a greater generation in any case.
 *
 * Generations are drawn from a sequence, while the tag's row is locked; so one
 * tag's are in the order of their commits, also across the deletion of its
 * row, and a dump and restore.
 *
 * A backend remembers the generations it has read until somebody invalidates.
 * It learns of that by a relcache invalidation of the sequence, which is sent
 * at commit, before the commit is acknowledged; that relation was chosen
 * because who replays never opens it, so nothing has to be built anew.  At
 * REPEATABLE READ and above the snapshot decides, and nothing is remembered.
 *
 * A tag's row can go when every response that it could concern has expired; a
 * duty sees to that.
 *
 * Locking: the lookup takes its table's AccessShareLock for as long as it
 * reads, although the caller may hold a key's lock: nobody who waits for that
 * table holds anything that a claim waits for, DROP EXTENSION apart, which the
 * deadlock detector sorts out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "duty.h"
#include "errors.h"
#include "fault.h"
#include "guc.h"
#include "policy.h"
#include "tag.h"

#define REASON_MAX_BYTES	1024

/* tags whose generation a backend remembers */
#define TAG_CACHE_MAX		4096

/* a round of the duty begins this long after the last one's end */
#define TAG_CLEAN_EVERY		USECS_PER_MINUTE

/* how long a transaction can still run that has not seen an invalidation */
#define TAG_MARGIN			USECS_PER_DAY

COMPAT_FUNCTION_INFO(idempotency_invalidate);

/* attribute numbers, in the order of src/sql/tag.sql */
enum
{
	TAG_SCOPE = 1,
	TAG_TAG,
	TAG_GENERATION,
	TAG_INVALIDATED_AT,
	TAG_REASON,
	TAG_ROLE,
	TAG_COLUMNS = TAG_ROLE
};

/* a tag's row, or that there is none */
typedef struct TagRow
{
	int64		generation;
	TransactionId xid;			/* who wrote it */
} TagRow;

/* a tag's latest generation */
typedef struct TagCached
{
	uint64		hash;			/* hash key, of scope and tag */
	uint64		changes;		/* catalog_tag_changes() when it was read */
	char	   *names;			/* scope and tag */
	int			scope_len;
	int			tag_len;
	int64		generation;
} TagCached;

static MemoryContext tag_cache_context = NULL;
static HTAB *tag_cache = NULL;

/* in which this transaction claimed for the first time; NULL: it hasn't */
static Snapshot tag_claimed_in = NULL;

/* Forget, with the transaction, what it has seen. */
static void
tag_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			tag_claimed_in = NULL;
			break;
		default:
			break;
	}
}

/* Raises ID400 if a tag is given, and empty; ID413 if it is too long. */
void
tag_check(const text *tag)
{
	if (tag == NULL)
		return;
	if (VARSIZE_ANY_EXHDR(tag) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("tag must not be empty")));
	policy_check_size("tag", (const struct varlena *) tag, TAG_MAX_BYTES);
}

/*
 * This transaction has claimed a key.  The first time, keep a copy of what its
 * snapshot sees; it is only asked about transactions, and reads nothing, so it
 * needn't be registered.
 */
void
tag_note_claim(void)
{
	Snapshot	active;
	Snapshot	copy;

	if (likely(tag_claimed_in != NULL) || !ActiveSnapshotSet())
		return;
	active = GetActiveSnapshot();
	copy = MemoryContextAlloc(TopTransactionContext,
							  sizeof(SnapshotData) +
							  (active->xcnt + Max(active->subxcnt, 0)) *
							  sizeof(TransactionId));
	*copy = *active;
	copy->xip = (TransactionId *) (copy + 1);
	copy->subxip = copy->xip + active->xcnt;
	if (active->xcnt > 0)
		memcpy(copy->xip, active->xip, active->xcnt * sizeof(TransactionId));
	if (active->subxcnt > 0)
		memcpy(copy->subxip, active->subxip,
			   active->subxcnt * sizeof(TransactionId));
	tag_claimed_in = copy;
}

/*
 * Was a committed transaction visible to the snapshot in which this one
 * claimed, or else to the statement's?  If that can't be known any more, no.
 */
static bool
tag_has_seen(TransactionId xid)
{
	Snapshot	snapshot = tag_claimed_in ? tag_claimed_in : GetActiveSnapshot();

	if (FAULT_SKIPS("tag.seen") || !TransactionIdIsNormal(xid) ||
		TransactionIdIsCurrentTransactionId(xid) ||
		TransactionIdPrecedes(xid, snapshot->xmin))
		return true;
	/* whose subtransaction it was, is forgotten by then */
	if (snapshot->suboverflowed && TransactionIdPrecedes(xid, TransactionXmin))
		return false;
	return !XidInMVCCSnapshot(xid, snapshot);
}

/* Make an empty cache, in place of what there is. */
static void
tag_cache_reset(void)
{
	HASHCTL		ctl;

	tag_cache = NULL;
	if (tag_cache_context == NULL)
		tag_cache_context = AllocSetContextCreate(TopMemoryContext,
												  "idempotency tags",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(tag_cache_context);
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(TagCached);
	ctl.hcxt = tag_cache_context;
	tag_cache = hash_create("idempotency tags", 128, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Is a tag's generation known, and has nothing been invalidated since? */
static bool
tag_is_cached(const TagCached *cached, const Identity *identity,
			  const text *tag, uint64 changes)
{
	return cached && cached->changes == changes &&
		cached->scope_len == identity->scope_len &&
		cached->tag_len == VARSIZE_ANY_EXHDR(tag) &&
		memcmp(cached->names, identity->scope, identity->scope_len) == 0 &&
		memcmp(cached->names + identity->scope_len, VARDATA_ANY(tag),
			   cached->tag_len) == 0;
}

/* Remember a tag's generation.  Of tags with the same hash, one is. */
static void
tag_cache_put(uint64 hash, const Identity *identity, const text *tag,
			  uint64 changes, int64 generation)
{
	int			tag_len = VARSIZE_ANY_EXHDR(tag);
	char	   *names;
	TagCached  *cached;
	bool		found;

	if (tag_cache == NULL || hash_get_num_entries(tag_cache) >= TAG_CACHE_MAX)
		tag_cache_reset();
	names = MemoryContextAlloc(tag_cache_context,
							   identity->scope_len + tag_len);
	memcpy(names, identity->scope, identity->scope_len);
	memcpy(names + identity->scope_len, VARDATA_ANY(tag), tag_len);
	cached = hash_search(tag_cache, &hash, HASH_ENTER, &found);
	if (found)
		pfree(cached->names);
	cached->names = names;
	cached->scope_len = identity->scope_len;
	cached->tag_len = tag_len;
	cached->generation = generation;
	cached->changes = changes;
}

/* Look a tag of a scope up with a snapshot. */
static TagRow
tag_read(const Identity *identity, text *tag, Snapshot snapshot)
{
	Relation	rel = table_open(catalog_tag_table(), AccessShareLock);
	TagRow		row = {NO_GENERATION, InvalidTransactionId};
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key[0], TAG_SCOPE, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(cstring_to_text_with_len(identity->scope,
														 identity->scope_len)));
	ScanKeyInit(&key[1], TAG_TAG, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(tag));
	key[0].sk_collation = key[1].sk_collation = C_COLLATION_OID;
	scan = systable_beginscan(rel, catalog_tag_index(), true, snapshot, 2, key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;

		row.generation = DatumGetInt64(heap_getattr(tuple, TAG_GENERATION,
													RelationGetDescr(rel),
													&isnull));
		row.xid = HeapTupleHeaderGetXmin(tuple->t_data);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return row;
}

/* The same, with a snapshot of this moment. */
static TagRow
tag_read_latest(const Identity *identity, text *tag)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TagRow		row = tag_read(identity, tag, snapshot);

	UnregisterSnapshot(snapshot);
	return row;
}

/*
 * The generation that a response finished at this moment is of: one less than
 * the tag's if this transaction has not seen its latest invalidation.
 */
int64
tag_generation_seen(const Identity *identity, text *tag)
{
	TagRow		row = tag_read_latest(identity, tag);

	if (row.generation == NO_GENERATION || tag_has_seen(row.xid))
		return row.generation;
	return row.generation - 1;
}

/*
 * The generation that a stored response is compared with: the latest, or, at
 * REPEATABLE READ and above, that of the transaction's snapshot.
 */
int64
tag_generation_now(const Identity *identity, struct varlena *stored)
{
	text	   *tag = (text *) pg_detoast_datum_packed(stored);
	TagCached  *cached = NULL;
	uint64		changes;
	uint64		hash;
	int64		generation;

	if (IsolationUsesXactSnapshot())
		return tag_read(identity, tag, GetTransactionSnapshot()).generation;

	/* whoever was told of his commit has sent what this receives */
	pg_memory_barrier();
	AcceptInvalidationMessages();
	changes = catalog_tag_changes();
	hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(tag),
							   VARSIZE_ANY_EXHDR(tag), identity->scope_len);
	if (tag_cache)
		cached = hash_search(tag_cache, &hash, HASH_FIND, NULL);
	if (tag_is_cached(cached, identity, tag, changes))
		return cached->generation;
	generation = tag_read_latest(identity, tag).generation;
	tag_cache_put(hash, identity, tag, changes, generation);
	return generation;
}

/* Raise the generation of a tag; returns the new one. */
static int64
tag_advance(const Identity *identity, text *tag, text *reason)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, REGCLASSOID};
	Datum		values[] = {
		PointerGetDatum(cstring_to_text_with_len(identity->scope,
												 identity->scope_len)),
		PointerGetDatum(tag),
		TimestampTzGetDatum(clock_now()),
		PointerGetDatum(reason),
		CStringGetTextDatum(GetUserNameFromId(GetUserId(), false)),
		/* a constant would have the plan made anew each time */
		ObjectIdGetDatum(catalog_tag_sequence())
	};
	Oid			user;
	int			context;
	int			nesting;
	int64		generation;
	bool		isnull;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(catalog_owner(),
						   context | SECURITY_RESTRICTED_OPERATION);
	nesting = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (plan == NULL)
	{
		plan = SPI_prepare("INSERT INTO idempotency.tag_generation AS t"
						   " VALUES ($1, $2, pg_catalog.nextval($6), $3, $4, $5)"
						   " ON CONFLICT (scope, tag) DO UPDATE SET"
						   " generation = pg_catalog.nextval($6),"
						   " invalidated_at = excluded.invalidated_at,"
						   " reason = excluded.reason, role = excluded.role"
						   " RETURNING t.generation",
						   lengthof(types), types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare an invalidation");
	}
	if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_INSERT_RETURNING ||
		SPI_processed != 1)
		elog(ERROR, "could not raise the generation of a tag");
	generation = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1,
											 &isnull));
	SPI_finish();
	CacheInvalidateRelcacheByRelid(catalog_tag_sequence());
	CommandCounterIncrement();
	AtEOXact_GUC(false, nesting);
	SetUserIdAndSecContext(user, context);
	return generation;
}

/* The argument, which must be there.  Raises ID400. */
static text *
tag_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	text	   *value = TEXT_ARGUMENT(arg);

	if (value == NULL || VARSIZE_ANY_EXHDR(value) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("invalidate() needs a %s", name)));
	return value;
}

/* Refuse whoever may not use the scope.  Raises ID403. */
static void
tag_check_role(const Identity *identity)
{
	Policy		policy;

	policy_lock();
	policy_get(identity->scope, identity->scope_len, &policy);
	policy_check_role(&policy, identity->scope, identity->scope_len);
	policy_unlock();
}

/* invalidate(scope text, tag text, reason text) returns bigint */
Datum
idempotency_invalidate(PG_FUNCTION_ARGS)
{
	Identity	identity;
	text	   *tag;
	text	   *reason;
	int64		generation;

	catalog_check_writable("invalidate()");
	/* no key is meant, so any will do */
	identity_make(&identity, TEXT_ARGUMENT(0), NULL, cstring_to_text("-"));
	tag = tag_argument(fcinfo, 1, "tag");
	reason = tag_argument(fcinfo, 2, "reason");
	tag_check(tag);
	policy_check_size("reason", (struct varlena *) reason, REASON_MAX_BYTES);
	tag_check_role(&identity);
	FAULT_POINT("invalidate.before_write");
	generation = tag_advance(&identity, tag, reason);
	/* the decision is recorded here */
	ereport(LOG,
			(errmsg("idempotent responses invalidated by role \"%s\", in scope \"%.*s\"",
					GetUserNameFromId(GetUserId(), false),
					identity.scope_len, identity.scope),
			 errdetail("Reason: %s", text_to_cstring(reason))));
	PG_RETURN_INT64(generation);
}

/* Can a response be alive that was finished before this invalidation? */
static bool
tag_is_needed(const char *scope, int scope_len, TimestampTz invalidated_at,
			  TimestampTz now)
{
	Policy		policy;

	policy_get(scope, scope_len, &policy);
	if (policy.retention == RETENTION_FOREVER)
		return true;
	for (int ring = 0; ring < RING_COUNT; ring++)
	{
		if (policy.kept_until[ring] > now)
			return true;
	}
	return invalidated_at + policy_reach(&policy) + TAG_MARGIN > now;
}

/* Delete what isn't needed any more in some pages; returns how many rows. */
static int64
tag_clean_pages(Relation rel, BlockNumber first, BlockNumber n)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan_strat(rel, snapshot, 0, NULL, true,
											   false);
	TimestampTz now = clock_now();
	int64		deleted = 0;
	HeapTuple	tuple;

	heap_setscanlimits(scan, first, n);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Datum		values[TAG_COLUMNS];
		bool		isnull[TAG_COLUMNS];
		text	   *scope;

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		scope = DatumGetTextPP(values[TAG_SCOPE - 1]);
		if (!tag_is_needed(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope),
						   DatumGetTimestampTz(values[TAG_INVALIDATED_AT - 1]),
						   now) &&
			compat_heap_delete_nowait(rel, &tuple->t_self,
									  GetCurrentCommandId(true)))
			deleted++;
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	CommandCounterIncrement();
	return deleted;
}

/*
 * Duty: delete tags whose responses have all expired, as many pages in a step
 * as maintain() cleans of a table; a minute after the last page, again from the
 * first.
 */
static void
tag_clean(int step)
{
	static BlockNumber next = 0;
	static TimestampTz ended_at = 0;
	TimestampTz now = clock_now();
	BlockNumber blocks;
	BlockNumber n;
	Relation	rel;
	int64		deleted = 0;

	if (next == 0 && now < ended_at + TAG_CLEAN_EVERY && now >= ended_at)
		return;
	if (!duty_lock(catalog_tag_table(), RowExclusiveLock))
		return;
	rel = table_open(catalog_tag_table(), NoLock);
	blocks = RelationGetNumberOfBlocks(rel);
	next = next < blocks ? next : 0;
	n = Min(blocks - next, (BlockNumber) guc_maintain_pages);
	if (n > 0 && duty_lock(catalog_policy_table(), AccessShareLock))
	{
		deleted = tag_clean_pages(rel, next, n);
		policy_unlock();
	}
	next = next + n < blocks ? next + n : 0;
	ended_at = now;
	table_close(rel, NoLock);
	if (deleted > 0)
		duty_report("tag_generation", next == 0 ? "done" : "continues",
					deleted);
}

/* Register callback and duty; called once from _PG_init. */
void
tag_init(void)
{
	RegisterXactCallback(tag_xact_callback, NULL);
	duty_register("tags", 1, tag_clean);
}
