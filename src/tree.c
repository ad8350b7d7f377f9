/*-------------------------------------------------------------------------
 *
 * tree.c
 *		The ledger's Merkle tree in its tables: tiles and checkpoints.
 *
 * Only full tiles are stored, and no row of either table is ever changed.  What
 * is at the right edge of the tree, in no full tile yet, follows from the rest:
 * at level 0 it is the tails of the last checkpoints, at a higher level the
 * roots of the last full tiles of the level below.
 *
 * All reads are by a snapshot that the caller has registered or pushed; seal.c
 * alone writes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "tree.h"

/* attribute numbers of ledger_tile, in the order of src/sql/ledger.sql */
enum
{
	TILE_LEVEL = 1,
	TILE_INDEX,
	TILE_FIRST_SEQ,
	TILE_LAST_SEQ,
	TILE_ROOT,
	TILE_FILTER,
	TILE_SEQS,
	TILE_HASHES,
	TILE_COLUMNS = TILE_HASHES
};

/* likewise of ledger_checkpoint */
enum
{
	CHECKPOINT_SIZE = 1,
	CHECKPOINT_SEALED_AT,
	CHECKPOINT_LSN,
	CHECKPOINT_SEALED_SEQ,
	CHECKPOINT_INCARNATION,
	CHECKPOINT_ROOT,
	CHECKPOINT_ORIGIN,
	CHECKPOINT_TAIL_SEQS,
	CHECKPOINT_TAIL,
	CHECKPOINT_COLUMNS = CHECKPOINT_TAIL
};

static void tree_damaged(const char *table) pg_attribute_noreturn();

/*
 * The nth bit that an id sets in a filter.  An id is a part of a SHA-256
 * digest, so its own bits serve as hashes: 12 each.
 */
static int
tree_filter_bit(const pg_uuid_t *id, int n)
{
	int			bit = n * 12;
	int			pair = id->data[bit / 8] << 8 | id->data[bit / 8 + 1];

	return bit % 8 == 0 ? pair >> 4 : pair & 0xFFF;
}

/* Enter an id into a filter. */
void
tree_filter_add(uint8 *filter, const pg_uuid_t *id)
{
	for (int n = 0; n < TREE_FILTER_HASHES; n++)
	{
		int			bit = tree_filter_bit(id, n);

		filter[bit / 8] |= 1 << bit % 8;
	}
}

/* Could the filter have the id?  If not, it surely hasn't. */
bool
tree_filter_has(const uint8 *filter, const pg_uuid_t *id)
{
	for (int n = 0; n < TREE_FILTER_HASHES; n++)
	{
		int			bit = tree_filter_bit(id, n);

		if ((filter[bit / 8] & 1 << bit % 8) == 0)
			return false;
	}
	return true;
}

/* Raises XX001: a row of the tree isn't as we wrote it. */
static void
tree_damaged(const char *table)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("table \"%s.%s\" has a row that is damaged",
					IDEMPOTENCY_SCHEMA, table),
			 errhint("verify() says more.")));
}

/* Copy a bytea of exactly this length, or of any multiple of "unit" up to it. */
static int
tree_copy(const char *table, Datum value, void *target, int unit, int max)
{
	bytea	   *bytes = DatumGetByteaPP(value);
	int			len = VARSIZE_ANY_EXHDR(bytes);

	if (len % unit != 0 || len > max)
		tree_damaged(table);
	memcpy(target, VARDATA_ANY(bytes), len);
	if ((Pointer) bytes != DatumGetPointer(value))
		pfree(bytes);
	return len / unit;
}

/* Copy big-endian numbers; returns how many. */
static int
tree_copy_seqs(const char *table, Datum value, int64 *seqs)
{
	int			n = tree_copy(table, value, seqs, sizeof(int64),
							  MERKLE_TILE_WIDTH * sizeof(int64));

	for (int i = 0; i < n; i++)
		seqs[i] = (int64) pg_ntoh64((uint64) seqs[i]);
	return n;
}

/* A bytea of these bytes. */
static Datum
tree_bytea(const void *bytes, int len)
{
	bytea	   *value = palloc(VARHDRSZ + len);

	SET_VARSIZE(value, VARHDRSZ + len);
	memcpy(VARDATA(value), bytes, len);
	return PointerGetDatum(value);
}

/* A bytea of these numbers, big-endian. */
static Datum
tree_seqs_bytea(const int64 *seqs, int n)
{
	Datum		value = tree_bytea(seqs, n * sizeof(int64));
	int64	   *stored = (int64 *) VARDATA(DatumGetPointer(value));

	for (int i = 0; i < n; i++)
	{
		int64		seq = (int64) pg_hton64((uint64) seqs[i]);

		memcpy(&stored[i], &seq, sizeof(seq));
	}
	return value;
}

/* Read a checkpoint's tuple. */
static void
tree_read_checkpoint(Relation rel, HeapTuple tuple, Checkpoint *checkpoint)
{
	static const char table[] = "ledger_checkpoint";
	Datum		values[CHECKPOINT_COLUMNS];
	bool		isnull[CHECKPOINT_COLUMNS];

	heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
	for (int i = 0; i < CHECKPOINT_COLUMNS; i++)
	{
		if (isnull[i])
			tree_damaged(table);
	}
	checkpoint->size = DatumGetInt64(values[CHECKPOINT_SIZE - 1]);
	checkpoint->sealed_at =
		DatumGetTimestampTz(values[CHECKPOINT_SEALED_AT - 1]);
	checkpoint->lsn = DatumGetLSN(values[CHECKPOINT_LSN - 1]);
	checkpoint->sealed_seq = DatumGetInt64(values[CHECKPOINT_SEALED_SEQ - 1]);
	checkpoint->incarnation =
		DatumGetInt64(values[CHECKPOINT_INCARNATION - 1]);
	if (tree_copy(table, values[CHECKPOINT_ROOT - 1], &checkpoint->root,
				  DIGEST_LENGTH, DIGEST_LENGTH) != 1)
		tree_damaged(table);
	checkpoint->origin = TextDatumGetCString(values[CHECKPOINT_ORIGIN - 1]);
	checkpoint->ntail = tree_copy_seqs(table, values[CHECKPOINT_TAIL_SEQS - 1],
									   checkpoint->tail_seqs);
	if (tree_copy(table, values[CHECKPOINT_TAIL - 1], checkpoint->tail,
				  DIGEST_LENGTH, sizeof(checkpoint->tail)) !=
		checkpoint->ntail)
		tree_damaged(table);
}

/*
 * Show the checkpoints of up to a size, from the largest one down, until the
 * function returns false.
 */
void
tree_walk_checkpoints(int64 size, Snapshot snapshot, CheckpointVisitor show,
					  void *arg)
{
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_CHECKPOINT),
								 AccessShareLock);
	Relation	index = index_open(catalog_relation(CATALOG_LEDGER_CHECKPOINT_PKEY),
								   AccessShareLock);
	Checkpoint *checkpoint = palloc(sizeof(Checkpoint));
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	catalog_require_columns(rel, CHECKPOINT_COLUMNS);
	ScanKeyInit(&key, CHECKPOINT_SIZE, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(size));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan,
															 BackwardScanDirection)))
	{
		tree_read_checkpoint(rel, tuple, checkpoint);
		if (!show(checkpoint, arg))
			break;
	}
	systable_endscan_ordered(scan);
	pfree(checkpoint);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/* Take the first one that is shown. */
static bool
tree_take_checkpoint(Checkpoint *checkpoint, void *arg)
{
	*(Checkpoint *) arg = *checkpoint;
	return false;
}

/* The latest checkpoint; false, and size 0, if there is none. */
bool
tree_latest(Snapshot snapshot, Checkpoint *checkpoint)
{
	memset(checkpoint, 0, offsetof(Checkpoint, tail_seqs));
	tree_walk_checkpoints(PG_INT64_MAX, snapshot, tree_take_checkpoint,
						  checkpoint);
	return checkpoint->size > 0;
}

/* The checkpoint of this size; false if there is none. */
bool
tree_checkpoint(int64 size, Snapshot snapshot, Checkpoint *checkpoint)
{
	memset(checkpoint, 0, offsetof(Checkpoint, tail_seqs));
	tree_walk_checkpoints(size, snapshot, tree_take_checkpoint, checkpoint);
	return checkpoint->size == size && size > 0;
}

/* Read a tile's tuple, with or without what can be out of line. */
static void
tree_read_tile(Relation rel, HeapTuple tuple, bool whole, Tile *tile)
{
	static const char table[] = "ledger_tile";
	Datum		values[TILE_COLUMNS];
	bool		isnull[TILE_COLUMNS];

	heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
	if (isnull[TILE_LEVEL - 1] || isnull[TILE_INDEX - 1] ||
		isnull[TILE_ROOT - 1])
		tree_damaged(table);
	tile->level = DatumGetInt16(values[TILE_LEVEL - 1]);
	tile->index = DatumGetInt64(values[TILE_INDEX - 1]);
	if (tree_copy(table, values[TILE_ROOT - 1], &tile->root, DIGEST_LENGTH,
				  DIGEST_LENGTH) != 1)
		tree_damaged(table);
	tile->has_hashes = !isnull[TILE_HASHES - 1];
	if (!isnull[TILE_FILTER - 1] &&
		tree_copy(table, values[TILE_FILTER - 1], tile->filter,
				  TREE_FILTER_BYTES, TREE_FILTER_BYTES) != 1)
		tree_damaged(table);
	if (tile->level == 0 && !isnull[TILE_FIRST_SEQ - 1] &&
		!isnull[TILE_LAST_SEQ - 1])
	{
		tile->seqs[0] = DatumGetInt64(values[TILE_FIRST_SEQ - 1]);
		tile->seqs[MERKLE_TILE_WIDTH - 1] =
			DatumGetInt64(values[TILE_LAST_SEQ - 1]);
	}
	if (!whole || !tile->has_hashes)
		return;
	if (tree_copy(table, values[TILE_HASHES - 1], tile->hashes, DIGEST_LENGTH,
				  sizeof(tile->hashes)) != MERKLE_TILE_WIDTH)
		tree_damaged(table);
	if (tile->level == 0 &&
		(isnull[TILE_SEQS - 1] ||
		 tree_copy_seqs(table, values[TILE_SEQS - 1], tile->seqs) !=
		 MERKLE_TILE_WIDTH))
		tree_damaged(table);
}

/* Look for a tile; "whole" as above.  False if it isn't there. */
static bool
tree_find_tile(int level, int64 index, Snapshot snapshot, bool whole,
			   Tile *tile)
{
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_TILE),
								 AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	catalog_require_columns(rel, TILE_COLUMNS);
	ScanKeyInit(&keys[0], TILE_LEVEL, BTEqualStrategyNumber, F_INT2EQ,
				Int16GetDatum(level));
	ScanKeyInit(&keys[1], TILE_INDEX, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(index));
	scan = systable_beginscan(rel, catalog_relation(CATALOG_LEDGER_TILE_PKEY),
							  true, snapshot, lengthof(keys), keys);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
		tree_read_tile(rel, tuple, whole, tile);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* A full tile; false if it isn't there. */
bool
tree_tile(int level, int64 index, Snapshot snapshot, Tile *tile)
{
	return tree_find_tile(level, index, snapshot, true, tile);
}

/* The root of a full tile; false if it isn't there. */
bool
tree_tile_root(int level, int64 index, Snapshot snapshot, MerkleHash *root)
{
	Tile	   *tile = palloc(sizeof(Tile));
	bool		found = tree_find_tile(level, index, snapshot, false, tile);

	if (found)
		*root = tile->root;
	pfree(tile);
	return found;
}

/*
 * Show a level's tiles, without their hashes and of the seqs only the first
 * and the last, in order.
 */
void
tree_visit_tiles(int level, Snapshot snapshot, TileVisitor visit, void *arg)
{
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_TILE),
								 AccessShareLock);
	Relation	index = index_open(catalog_relation(CATALOG_LEDGER_TILE_PKEY),
								   AccessShareLock);
	Tile	   *tile = palloc(sizeof(Tile));
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		more = true;

	catalog_require_columns(rel, TILE_COLUMNS);
	ScanKeyInit(&key, TILE_LEVEL, BTEqualStrategyNumber, F_INT2EQ,
				Int16GetDatum(level));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	while (more &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan,
															 ForwardScanDirection)))
	{
		CHECK_FOR_INTERRUPTS();
		tree_read_tile(rel, tuple, false, tile);
		more = visit(tile, arg);
	}
	systable_endscan_ordered(scan);
	pfree(tile);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/* Store a full tile. */
void
tree_add_tile(const Tile *tile)
{
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_TILE),
								 RowExclusiveLock);
	Datum		values[TILE_COLUMNS];
	bool		isnull[TILE_COLUMNS] = {0};
	HeapTuple	tuple;

	catalog_require_columns(rel, TILE_COLUMNS);
	values[TILE_LEVEL - 1] = Int16GetDatum(tile->level);
	values[TILE_INDEX - 1] = Int64GetDatum(tile->index);
	values[TILE_ROOT - 1] = tree_bytea(&tile->root, DIGEST_LENGTH);
	values[TILE_HASHES - 1] = tree_bytea(tile->hashes, sizeof(tile->hashes));
	isnull[TILE_FIRST_SEQ - 1] = isnull[TILE_LAST_SEQ - 1] =
		isnull[TILE_FILTER - 1] = isnull[TILE_SEQS - 1] = tile->level > 0;
	if (tile->level == 0)
	{
		values[TILE_FIRST_SEQ - 1] = Int64GetDatum(tile->seqs[0]);
		values[TILE_LAST_SEQ - 1] =
			Int64GetDatum(tile->seqs[MERKLE_TILE_WIDTH - 1]);
		values[TILE_FILTER - 1] = tree_bytea(tile->filter, TREE_FILTER_BYTES);
		values[TILE_SEQS - 1] = tree_seqs_bytea(tile->seqs, MERKLE_TILE_WIDTH);
	}
	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
}

/* Store a checkpoint. */
void
tree_add_checkpoint(const Checkpoint *checkpoint)
{
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_CHECKPOINT),
								 RowExclusiveLock);
	Datum		values[CHECKPOINT_COLUMNS];
	bool		isnull[CHECKPOINT_COLUMNS] = {0};

	catalog_require_columns(rel, CHECKPOINT_COLUMNS);
	values[CHECKPOINT_SIZE - 1] = Int64GetDatum(checkpoint->size);
	values[CHECKPOINT_SEALED_AT - 1] =
		TimestampTzGetDatum(checkpoint->sealed_at);
	values[CHECKPOINT_LSN - 1] = LSNGetDatum(checkpoint->lsn);
	values[CHECKPOINT_SEALED_SEQ - 1] = Int64GetDatum(checkpoint->sealed_seq);
	values[CHECKPOINT_INCARNATION - 1] =
		Int64GetDatum(checkpoint->incarnation);
	values[CHECKPOINT_ROOT - 1] = tree_bytea(&checkpoint->root, DIGEST_LENGTH);
	values[CHECKPOINT_ORIGIN - 1] = CStringGetTextDatum(checkpoint->origin);
	values[CHECKPOINT_TAIL_SEQS - 1] = tree_seqs_bytea(checkpoint->tail_seqs,
													   checkpoint->ntail);
	values[CHECKPOINT_TAIL - 1] = tree_bytea(checkpoint->tail,
											 checkpoint->ntail *
											 DIGEST_LENGTH);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
											isnull));
	table_close(rel, NoLock);
}
