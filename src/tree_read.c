/*-------------------------------------------------------------------------
 *
 * tree_read.c
 *		Reading the ledger's tree: any complete subtree of it, and what stands
 *		at the right edge.
 *
 * A reader is for the tree of the latest checkpoint; as a tree only grows, it
 * answers for all smaller ones, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "common/base64.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "tree.h"

/* the partial tile, filled from its end */
typedef struct TreeTail
{
	TreeReader *reader;
	int64		start;			/* leaf index of the tile's first hash */
	int64		end;			/* leaves from here on are there */
} TreeTail;

COMPAT_NORETURN static void tree_missing(TreeReader *reader, int level,
										 int64 index);

/* Take over the tail of a checkpoint; the walk is from the latest one down. */
static bool
tree_take_tail(Checkpoint *checkpoint, void *arg)
{
	TreeTail   *tail = arg;
	TreeReader *reader = tail->reader;
	int			first;

	if (checkpoint->size != tail->end || checkpoint->ntail == 0 ||
		tail->end - checkpoint->ntail < tail->start)
		return false;
	first = (int) (tail->end - checkpoint->ntail - tail->start);
	memcpy(&reader->tail[first], checkpoint->tail,
		   checkpoint->ntail * sizeof(MerkleHash));
	memcpy(&reader->tail_seqs[first], checkpoint->tail_seqs,
		   checkpoint->ntail * sizeof(int64));
	tail->end -= checkpoint->ntail;
	return tail->end > tail->start;
}

/*
 * Begin to read the tree of the latest checkpoint, as the snapshot sees it.
 * Returns false if nothing is sealed.  Raises XX001 if the partial tile can't
 * be put together.
 */
bool
tree_open(TreeReader *reader, Snapshot snapshot)
{
	TreeTail	tail;

	memset(reader->cached, 0, sizeof(reader->cached));
	memset(reader->cache, 0, sizeof(reader->cache));
	reader->snapshot = snapshot;
	reader->digest = digest_create();
	reader->ntail = 0;
	if (!tree_latest(snapshot, &reader->latest))
		return false;
	reader->ntail = reader->latest.size % MERKLE_TILE_WIDTH;
	tail.reader = reader;
	tail.end = reader->latest.size;
	tail.start = tail.end - reader->ntail;
	if (reader->ntail > 0)
		tree_walk_checkpoints(reader->latest.size, snapshot, tree_take_tail,
							  &tail);
	if (tail.end != tail.start)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the ledger's tree is incomplete: checkpoints are missing"),
				 errhint("verify() says more.")));
	return true;
}

/* A full tile, kept until another one of its level is read. */
static Tile *
tree_cached_tile(TreeReader *reader, int level, int64 index)
{
	Tile	   *tile = reader->cache[level];

	if (reader->cached[level] && tile->index == index)
		return tile;
	if (tile == NULL)
		tile = reader->cache[level] = palloc(sizeof(Tile));
	reader->cached[level] = tree_tile(level, index, reader->snapshot, tile) &&
		tile->has_hashes;
	return reader->cached[level] ? tile : NULL;
}

/* Raises ID404 or XX001: a part of the tree isn't there. */
static void
tree_missing(TreeReader *reader, int level, int64 index)
{
	int64		pruned = tree_pruned(reader->snapshot);

	if (level == 0 && index * MERKLE_TILE_WIDTH < pruned)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_FOUND),
				 errmsg("the ledger was pruned below leaf " INT64_FORMAT,
						pruned),
				 errhint("Proofs that were fetched before stay valid.")));
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the ledger's tree is incomplete: a tile is missing"),
			 errhint("verify() says more.")));
}

/* One hash of a level: of an entry, or the root of a tile below. */
static void
tree_hash(TreeReader *reader, int level, int64 index, MerkleHash *hash)
{
	int64		tile_index = index / MERKLE_TILE_WIDTH;
	int64		full = reader->latest.size >>
		((level + 1) * MERKLE_TILE_HEIGHT);

	if (tile_index < full)
	{
		Tile	   *tile = tree_cached_tile(reader, level, tile_index);

		if (tile == NULL)
			tree_missing(reader, level, tile_index);
		*hash = tile->hashes[index % MERKLE_TILE_WIDTH];
	}
	else if (level == 0)
		*hash = reader->tail[index % MERKLE_TILE_WIDTH];
	else if (!tree_tile_root(level - 1, index, reader->snapshot, hash))
		tree_missing(reader, level - 1, index);
}

/*
 * A MerkleFetch: the root of a complete subtree of the reader's tree.  Raises
 * ID404 if it was pruned, XX001 if it is missing.
 */
void
tree_fetch(void *arg, int height, int64 index, MerkleHash *hash)
{
	TreeReader *reader = arg;
	int			level = height / MERKLE_TILE_HEIGHT;
	int			width = 1 << height % MERKLE_TILE_HEIGHT;
	MerkleHash	hashes[MERKLE_TILE_WIDTH];

	if (level >= TREE_LEVELS)
		tree_missing(reader, level, index);
	for (int i = 0; i < width; i++)
		tree_hash(reader, level, index * width + i, &hashes[i]);
	merkle_subtree(reader->digest, hashes, width, hash);
}

/* The entry of a leaf of the tree: its seq.  Raises as above. */
int64
tree_leaf_seq(TreeReader *reader, int64 leaf_index)
{
	int64		tile_index = leaf_index / MERKLE_TILE_WIDTH;
	Tile	   *tile;

	if (tile_index == reader->latest.size / MERKLE_TILE_WIDTH)
		return reader->tail_seqs[leaf_index % MERKLE_TILE_WIDTH];
	tile = tree_cached_tile(reader, 0, tile_index);
	if (tile == NULL)
		tree_missing(reader, 0, tile_index);
	return tile->seqs[leaf_index % MERKLE_TILE_WIDTH];
}

/* End reading. */
void
tree_close(TreeReader *reader)
{
	for (int i = 0; i < TREE_LEVELS; i++)
	{
		if (reader->cache[i])
			pfree(reader->cache[i]);
	}
	digest_free(reader->digest);
}

/* Leaves below this index were pruned; 0: none. */
int64
tree_pruned(Snapshot snapshot)
{
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_PRUNE),
								 AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	HeapTuple	tuple;
	int64		pruned = 0;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int64		index = DatumGetInt64(heap_getattr(tuple, 1,
													   RelationGetDescr(rel),
													   &isnull));

		pruned = Max(pruned, index);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return pruned;
}

/*
 * The largest size, up to the one given, of which somebody outside holds a
 * checkpoint; 0: none.
 */
int64
tree_witnessed(int64 upto, Snapshot snapshot)
{
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_WITNESS),
								 AccessShareLock);
	Relation	index = index_open(catalog_relation(CATALOG_LEDGER_WITNESS_PKEY),
								   AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		size = 0;
	bool		isnull;

	ScanKeyInit(&key, 1, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(upto));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
		size = DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(rel),
										  &isnull));
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return size;
}

/* A hash in base64, palloc'd. */
char *
tree_base64(const MerkleHash *hash)
{
	int			len = pg_b64_enc_len(DIGEST_LENGTH);
	char	   *base64 = palloc(len + 1);

	len = pg_b64_encode((const void *) hash->bytes, DIGEST_LENGTH, base64,
						len);
	if (len < 0)
		elog(ERROR, "could not encode a hash");
	base64[len] = '\0';
	return base64;
}

/* Append to a JSON object what the latest checkpoint is, if there is one. */
void
tree_describe_latest(StringInfo json)
{
	Checkpoint *latest = palloc(sizeof(Checkpoint));
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	if (tree_latest(snapshot, latest))
	{
		appendStringInfoString(json, ", \"previous\": {\"origin\": ");
		escape_json(json, latest->origin);
		appendStringInfo(json, ", \"size\": " INT64_FORMAT ", \"root\": \"%s\"}",
						 latest->size, tree_base64(&latest->root));
	}
	UnregisterSnapshot(snapshot);
	pfree(latest);
}
