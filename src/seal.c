/*-------------------------------------------------------------------------
 *
 * seal.c
 *		Sealing the ledger's entries into the Merkle tree.
 *
 * A duty.  It appends to the tree, in the order of their numbers, the entries
 * up to a number below which nothing can appear any more (watermark.c).  What
 * was waited for is kept from round to round until it has ended, so that a
 * steady stream of slow commits can't put sealing off for ever.
 *
 * Locking: ShareUpdateExclusiveLock on ledger_checkpoint, tried for, so that
 * one session seals; see seal_lock().  A checkpoint is durable before anybody
 * can see it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "duty.h"
#include "fault.h"
#include "incarnation.h"
#include "ledger.h"
#include "seal.h"
#include "tree.h"
#include "watermark.h"

#define SEAL_ENTRIES_MAX	262144	/* in one transaction */
#define SEAL_WAIT_MS		50	/* for commits that are under way */
#define SEAL_LOOK_AGAIN		USECS_PER_SEC

static Watermark watermark = {0};	/* lives from round to round */

/* what of the tree is in no full tile, per level, and what is added to it */
typedef struct SealBuilder
{
	DigestContext *digest;
	int64		size;			/* leaves */
	int			n[TREE_LEVELS];
	MerkleHash	hashes[TREE_LEVELS][MERKLE_TILE_WIDTH];
	int64		seqs[MERKLE_TILE_WIDTH];	/* at level 0 */
	uint8		filter[TREE_FILTER_BYTES];	/* likewise */
	int			old_tail;		/* at level 0, sealed before */
} SealBuilder;

/* Begin with what the tree has at its right edge. */
static void
seal_begin(SealBuilder *builder, TreeReader *reader)
{
	builder->digest = reader->digest;
	builder->size = reader->latest.size;
	memset(builder->n, 0, sizeof(builder->n));
	memset(builder->filter, 0, sizeof(builder->filter));
	builder->n[0] = builder->old_tail = reader->ntail;
	memcpy(builder->hashes[0], reader->tail,
		   reader->ntail * sizeof(MerkleHash));
	memcpy(builder->seqs, reader->tail_seqs, reader->ntail * sizeof(int64));
	for (int level = 1; level < TREE_LEVELS; level++)
	{
		int64		nodes = builder->size >> (level * MERKLE_TILE_HEIGHT);
		int64		first = nodes - nodes % MERKLE_TILE_WIDTH;

		for (int64 i = first; i < nodes; i++)
			tree_fetch(reader, level * MERKLE_TILE_HEIGHT, i,
					   &builder->hashes[level][builder->n[level]++]);
	}
}

/* A level's tile is full: store it, and add its root to the level above. */
static void
seal_tile(SealBuilder *builder, int level)
{
	Tile	   *tile = palloc(sizeof(Tile));

	tile->level = level;
	tile->index = (builder->size >> ((level + 1) * MERKLE_TILE_HEIGHT)) - 1;
	memcpy(tile->hashes, builder->hashes[level], sizeof(tile->hashes));
	merkle_subtree(builder->digest, tile->hashes, MERKLE_TILE_WIDTH,
				   &tile->root);
	if (level == 0)
	{
		memcpy(tile->seqs, builder->seqs, sizeof(tile->seqs));
		memcpy(tile->filter, builder->filter, sizeof(tile->filter));
		memset(builder->filter, 0, sizeof(builder->filter));
		builder->old_tail = 0;
	}
	tree_add_tile(tile);
	builder->n[level] = 0;
	builder->hashes[level + 1][builder->n[level + 1]++] = tile->root;
	pfree(tile);
}

/* Append an entry. */
static void
seal_entry(SealBuilder *builder, const LedgerEntry *entry, StringInfo data)
{
	int			n = builder->n[0]++;

	resetStringInfo(data);
	entry_encode(entry, data);
	merkle_leaf(builder->digest, data->data, data->len,
				&builder->hashes[0][n]);
	builder->seqs[n] = entry->seq;
	if (entry->has_key)
		tree_filter_add(builder->filter, &entry->identity.id);
	builder->size++;
	for (int level = 0; builder->n[level] == MERKLE_TILE_WIDTH; level++)
		seal_tile(builder, level);
}

/*
 * The root of the whole tree: level by level from below, what is left over of
 * one stands behind the last node of the next.
 */
static void
seal_root(SealBuilder *builder, MerkleHash *root)
{
	bool		carried = false;

	for (int level = 0; level < TREE_LEVELS; level++)
	{
		MerkleHash	nodes[MERKLE_TILE_WIDTH + 1];
		int			n = builder->n[level];

		memcpy(nodes, builder->hashes[level], n * sizeof(MerkleHash));
		if (carried)
			nodes[n++] = *root;
		if (n > 0)
			merkle_subtree(builder->digest, nodes, n, root);
		carried |= n > 0;
	}
}

/*
 * The ids of the entries that the partial tile begins with go into its filter,
 * too.
 */
static void
seal_refill_filter(SealBuilder *builder, Snapshot snapshot)
{
	LedgerScan	scan;
	LedgerEntry entry;

	if (builder->old_tail == 0)
		return;
	ledger_scan(&scan, builder->seqs[0] - 1,
				builder->seqs[builder->old_tail - 1], snapshot);
	while (ledger_scan_next(&scan, &entry))
	{
		if (entry.has_key)
			tree_filter_add(builder->filter, &entry.identity.id);
	}
	ledger_scan_end(&scan);
}

/*
 * Append the entries after one number up to another.  Returns the last one's
 * number if there were too many, else "upto".
 */
static int64
seal_entries(SealBuilder *builder, int64 after, int64 upto,
			 Snapshot snapshot)
{
	int64		sealed = upto;
	int64		n = 0;
	LedgerScan	scan;
	LedgerEntry entry;
	StringInfoData data;
	MemoryContext caller;
	MemoryContext each = AllocSetContextCreate(CurrentMemoryContext,
											   "idempotency seal",
											   ALLOCSET_DEFAULT_SIZES);

	initStringInfo(&data);
	ledger_scan(&scan, after, upto, snapshot);
	caller = MemoryContextSwitchTo(each);
	while (ledger_scan_next(&scan, &entry))
	{
		CHECK_FOR_INTERRUPTS();
		seal_entry(builder, &entry, &data);
		if (++n == SEAL_ENTRIES_MAX)
		{
			sealed = entry.seq;
			break;
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(each);
		MemoryContextSwitchTo(each);
	}
	MemoryContextSwitchTo(caller);
	ledger_scan_end(&scan);
	MemoryContextDelete(each);
	pfree(data.data);
	return sealed;
}

/* The checkpoint of what the builder has built. */
static void
seal_checkpoint(SealBuilder *builder, int64 sealed_seq)
{
	Checkpoint *checkpoint = palloc0(sizeof(Checkpoint));
	Incarnation incarnation = incarnation_latest();

	checkpoint->size = builder->size;
	checkpoint->sealed_at = clock_now();
	checkpoint->lsn = GetXLogInsertRecPtr();
	checkpoint->sealed_seq = sealed_seq;
	checkpoint->incarnation = incarnation.number;
	checkpoint->origin = incarnation.origin;
	seal_root(builder, &checkpoint->root);
	checkpoint->ntail = builder->n[0] - builder->old_tail;
	memcpy(checkpoint->tail, builder->hashes[0] + builder->old_tail,
		   checkpoint->ntail * sizeof(MerkleHash));
	memcpy(checkpoint->tail_seqs, builder->seqs + builder->old_tail,
		   checkpoint->ntail * sizeof(int64));
	FAULT_POINT("seal.before_state");
	tree_add_checkpoint(checkpoint);
	ForceSyncCommit();
}

/* Is there an entry after one number up to another? */
static bool
seal_is_due(int64 after, int64 upto, Snapshot snapshot)
{
	LedgerScan	scan;
	LedgerEntry entry;
	bool		due;

	ledger_scan(&scan, after, upto, snapshot);
	due = ledger_scan_next(&scan, &entry);
	ledger_scan_end(&scan);
	return due;
}

/*
 * Make sure of the lock that only one can have, and that the place has its
 * incarnation.  If it hasn't, the database may be being restored at this
 * moment, into the very tables that are written here: then nobody else must be
 * writing them.  Nothing is waited for.
 */
static bool
seal_lock(void)
{
	Incarnation latest = incarnation_latest();
	LOCKMODE	mode = incarnation_is_here(&latest) ?
		ShareUpdateExclusiveLock : ShareRowExclusiveLock;

	return ConditionalLockRelationOid(catalog_relation(CATALOG_LEDGER_CHECKPOINT),
									  mode) &&
		(mode == ShareUpdateExclusiveLock ||
		 ConditionalLockRelationOid(catalog_relation(CATALOG_LEDGER_TILE),
									mode));
}

/*
 * Seal the entries up to a number that is decided, as many as there are.
 * Returns up to where there is nothing more to seal, or -1 if it can't be done
 * now; *any says whether there was anything.
 */
static int64
seal_upto(int64 upto, bool *any)
{
	Snapshot	snapshot;
	TreeReader *reader = palloc(sizeof(TreeReader));
	SealBuilder *builder = palloc(sizeof(SealBuilder));
	int64		sealed = -1;

	*any = false;
	if (!seal_lock())
		return -1;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	(void) tree_open(reader, snapshot);
	if (!seal_is_due(reader->latest.sealed_seq, upto, snapshot))
		sealed = upto;
	else if (incarnation_prepare(false))
	{
		seal_begin(builder, reader);
		FAULT_POINT("seal.after_read");
		seal_refill_filter(builder, snapshot);
		sealed = seal_entries(builder, reader->latest.sealed_seq, upto,
							  snapshot);
		FAULT_POINT("seal.after_tiles");
		seal_checkpoint(builder, sealed);
		duty_report("ledger", "sealed", builder->size - reader->latest.size);
		*any = true;
	}
	tree_close(reader);
	UnregisterSnapshot(snapshot);
	return sealed;
}

/* Duty: seal what is decided. */
static void
seal_step(int step)
{
	static int64 nothing_upto = -1; /* there was nothing to seal up to here */
	static TimestampTz looked_at = 0;
	static uint64 generation = 0;
	TimestampTz now = GetCurrentTimestamp();
	int64		last = ledger_last_seq();
	int64		sealed;
	bool		any;

	/* a restored table's numbers are others */
	if (generation != catalog_generation(CATALOG_LEDGER_ENTRY))
	{
		nothing_upto = -1;
		watermark.pending = false;
		generation = catalog_generation(CATALOG_LEDGER_ENTRY);
	}
	/* a restore can bring entries below the last number */
	if (last == 0 || (last == nothing_upto && now >= looked_at &&
					  now < looked_at + SEAL_LOOK_AGAIN))
		return;
	if (!watermark_await(&watermark, catalog_relation(CATALOG_LEDGER_SEQ),
						 SEAL_WAIT_MS))
		return;
	sealed = seal_upto(watermark.seq, &any);
	/* what was too much, or could not be sealed now, is decided all the same */
	watermark.pending = sealed < watermark.seq;
	nothing_upto = any ? -1 : sealed;
	looked_at = now;
	FAULT_POINT("seal.after_commit");
}

/* Register the duty; called once from _PG_init. */
void
seal_init(void)
{
	duty_register("seal", 1, seal_step);
}
