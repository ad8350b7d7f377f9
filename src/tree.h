/*-------------------------------------------------------------------------
 *
 * tree.h
 *		The ledger's Merkle tree in its tables: tiles and checkpoints.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_TREE_H
#define IDEMPOTENCY_TREE_H

#include "access/xlogdefs.h"
#include "lib/stringinfo.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "merkle.h"

/* 256^7 entries and more don't fit 63 bits */
#define TREE_LEVELS		8

/* bytes of a tile's Bloom filter, and how many bits of it an id sets */
#define TREE_FILTER_BYTES	512
#define TREE_FILTER_HASHES	8

/* what the tree was when it was sealed; texts are palloc'd */
typedef struct Checkpoint
{
	int64		size;
	TimestampTz sealed_at;
	XLogRecPtr	lsn;
	int64		sealed_seq;		/* up to here all entries are in the tree */
	int64		incarnation;
	MerkleHash	root;
	char	   *origin;
	int			ntail;			/* what this seal added, in no full tile yet */
	int64		tail_seqs[MERKLE_TILE_WIDTH];
	MerkleHash	tail[MERKLE_TILE_WIDTH];
} Checkpoint;

/* a full tile */
typedef struct Tile
{
	int			level;
	int64		index;
	MerkleHash	root;
	bool		has_hashes;		/* false: pruned */
	MerkleHash	hashes[MERKLE_TILE_WIDTH];
	int64		seqs[MERKLE_TILE_WIDTH];	/* at level 0 */
	uint8		filter[TREE_FILTER_BYTES];	/* at level 0 */
} Tile;

/* reads the tree as it is at a checkpoint */
typedef struct TreeReader
{
	Snapshot	snapshot;
	DigestContext *digest;
	Checkpoint	latest;			/* size 0: nothing is sealed */
	int			ntail;			/* the partial tile at level 0 */
	int64		tail_seqs[MERKLE_TILE_WIDTH];
	MerkleHash	tail[MERKLE_TILE_WIDTH];
	bool		cached[TREE_LEVELS];
	Tile	   *cache[TREE_LEVELS];	/* the last tile that was read */
} TreeReader;

/*
 * Is shown a tile without its hashes, and of its seqs only the first and the
 * last; false ends the visit.
 */
typedef bool (*TileVisitor) (const Tile *tile, void *arg);

/* is shown a checkpoint; false ends the walk */
typedef bool (*CheckpointVisitor) (Checkpoint *checkpoint, void *arg);

extern void tree_filter_add(uint8 *filter, const pg_uuid_t *id);
extern bool tree_filter_has(const uint8 *filter, const pg_uuid_t *id);

extern bool tree_checkpoint(int64 size, Snapshot snapshot,
							Checkpoint *checkpoint);
extern void tree_walk_checkpoints(int64 size, Snapshot snapshot,
								  CheckpointVisitor show, void *arg);
extern bool tree_latest(Snapshot snapshot, Checkpoint *checkpoint);
extern bool tree_tile(int level, int64 index, Snapshot snapshot, Tile *tile);
extern bool tree_tile_root(int level, int64 index, Snapshot snapshot,
						   MerkleHash *root);
extern void tree_visit_tiles(int level, Snapshot snapshot, TileVisitor visit,
							 void *arg);
extern void tree_add_tile(const Tile *tile);
extern void tree_add_checkpoint(const Checkpoint *checkpoint);

extern bool tree_open(TreeReader *reader, Snapshot snapshot);
extern void tree_fetch(void *reader, int height, int64 index,
					   MerkleHash *hash);
extern int64 tree_leaf_seq(TreeReader *reader, int64 leaf_index);
extern void tree_close(TreeReader *reader);

extern int64 tree_pruned(Snapshot snapshot);
extern int64 tree_witnessed(int64 upto, Snapshot snapshot);
extern void tree_describe_latest(StringInfo json);
extern char *tree_base64(const MerkleHash *hash);

#endif							/* IDEMPOTENCY_TREE_H */
