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
 * A backend remembers the generations it has read until somebody invalidates
 * anything.  It learns of that by a relcache invalidation of the sequence (a
 * relation that who replays never opens, so nothing has to be built anew), which
 * isn't sent at commit, as others are, but at once: at commit it would come a
 * moment after the new generation has become visible.  And what somebody has
 * written and not committed isn't remembered.  So whoever has written before
 * the generation was read is seen writing, or has committed and is seen; and
 * whoever writes later sends his message later.  At REPEATABLE READ and above
 * the snapshot decides, and on a standby no message comes: there nothing is
 * remembered.
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
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
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
#include "policy.h"
#include "tag.h"
#include "tag_columns.h"

/* tags whose generation a backend remembers */
#define TAG_CACHE_MAX		4096

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
	uint64		changes;		/* catalog_generation(CATALOG_TAG_GENERATION_SEQ) when it was read */
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

/* Begin to look a tag of a scope up in its table. */
static SysScanDesc
tag_begin_scan(Relation rel, const Identity *identity, text *tag,
			   Snapshot snapshot)
{
	ScanKeyData key[2];

	ScanKeyInit(&key[0], TAG_SCOPE, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(cstring_to_text_with_len(identity->scope,
														 identity->scope_len)));
	ScanKeyInit(&key[1], TAG_TAG, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(tag));
	key[0].sk_collation = key[1].sk_collation = C_COLLATION_OID;
	return systable_beginscan(rel, catalog_relation(CATALOG_TAG_GENERATION_PKEY), true, snapshot,
							  lengthof(key), key);
}

/* Is another transaction, running or prepared, invalidating the tag? */
static bool
tag_is_changing(const Identity *identity, text *tag)
{
	Relation	rel = table_open(catalog_relation(CATALOG_TAG_GENERATION), AccessShareLock);
	SnapshotData dirty;
	SysScanDesc scan;
	bool		changing = false;

	InitDirtySnapshot(dirty);
	scan = tag_begin_scan(rel, identity, tag, &dirty);
	while (!changing && HeapTupleIsValid(systable_getnext(scan)))
		changing = TransactionIdIsValid(dirty.xmin) ||
			TransactionIdIsValid(dirty.xmax);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return changing;
}

/* Look a tag of a scope up with a snapshot. */
static TagRow
tag_read(const Identity *identity, text *tag, Snapshot snapshot)
{
	Relation	rel = table_open(catalog_relation(CATALOG_TAG_GENERATION), AccessShareLock);
	TagRow		row = {NO_GENERATION, InvalidTransactionId};
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = tag_begin_scan(rel, identity, tag, snapshot);
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
	bool		changing;
	TagRow		row;

	if (IsolationUsesXactSnapshot())
		return tag_read(identity, tag, GetTransactionSnapshot()).generation;
	if (RecoveryInProgress())
		return tag_read_latest(identity, tag).generation;

	/* what was sent before something became visible to us is received here */
	pg_memory_barrier();
	AcceptInvalidationMessages();
	changes = catalog_generation(CATALOG_TAG_GENERATION_SEQ);
	hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(tag),
							   VARSIZE_ANY_EXHDR(tag), identity->scope_len);
	if (tag_cache)
		cached = hash_search(tag_cache, &hash, HASH_FIND, NULL);
	if (tag_is_cached(cached, identity, tag, changes))
		return cached->generation;
	changing = tag_is_changing(identity, tag);
	row = tag_read_latest(identity, tag);
	if (!changing && !TransactionIdIsCurrentTransactionId(row.xid))
		tag_cache_put(hash, identity, tag, changes, row.generation);
	return row.generation;
}

/* Register callback and duty; called once from _PG_init. */
void
tag_init(void)
{
	RegisterXactCallback(tag_xact_callback, NULL);
	duty_register("tags", 1, tag_clean);
}
