/*-------------------------------------------------------------------------
 *
 * verify_walk.h
 *		The walk over the tree's leaves that verify() does.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_VERIFY_WALK_H
#define IDEMPOTENCY_VERIFY_WALK_H

#include "verify.h"

/* the roots of the complete subtrees that a row of leaves falls into */
typedef struct CompactRange
{
	int			n;				/* largest first */
	int			heights[64];
	MerkleHash	hashes[64];
} CompactRange;

/* an incarnation of the ledger */
typedef struct Life
{
	int64		number;
	char	   *origin;
} Life;

/* what is being read */
typedef enum WalkReading
{
	WALK_LIVES,
	WALK_LEFT,
	WALK_CHECKPOINT,
	WALK_TILE,
	WALK_LEVEL,
	WALK_ENTRY,
	WALK_REST
} WalkReading;

/* the leaves' checkpoints */
typedef struct WalkCheckpoints
{
	VerifyScan	scan;
	bool		open;
	bool		done;			/* there are no more, or none to be read */
	int64		after;			/* up to this size they have been read */
	Checkpoint *next;
	bool		has_next;
	bool		damaged;		/* the next one is */
	int64		size;			/* of the one before; likewise: */
	int64		sealed_seq;
	int64		incarnation;
	XLogRecPtr	lsn;
	int64		wrong;			/* roots in a row */
	int64		wrong_size[2];	/* the first and the last of them */
	int64		skipped;		/* could not be compared */
	int64		skipped_size;	/* the first of them */
	Life	   *lives;
	int			nlives;
} WalkCheckpoints;

typedef struct Walk
{
	Verify	   *verify;
	WalkReading reading;
	MemoryContext context;		/* of an attempt */
	DigestContext *digest;		/* likewise */
	int64		index;			/* the next leaf */
	int64		end;
	int64		full;			/* so many tiles of level 0 are full */
	bool		stopped;		/* no further leaves are known */
	bool		lives_read;
	bool		left_read;

	/* what has been computed */
	CompactRange before;		/* the leaves of the tiles so far */
	CompactRange inside;		/* those of the present one */
	bool		roots_known;	/* ... and no leaf was left out */
	MerkleHash	hashes[TREE_LEVELS + 1][MERKLE_TILE_WIDTH];
	bool		known[TREE_LEVELS + 1][MERKLE_TILE_WIDTH];
	int			level;			/* where a tile is to be checked; 0: nowhere */
	bool		level_failed;

	/* the present tile, or what stands behind the last full one */
	Tile	   *tile;
	int64		tile_bounds[2];
	int64		tile_number;	/* -1: none */
	bool		tile_known;
	uint8		filter[TREE_FILTER_BYTES];	/* of its entries */
	bool		filter_known;
	VerifyScan	tiles;
	bool		tiles_open;
	bool		tiles_broken;	/* there is no table to be read */
	bool		tile_read;		/* by the scan, but not taken yet */
	bool		tile_damaged;

	/* the leaves */
	int64		last_seq;		/* PG_INT64_MIN: not known */
	int64		compared;		/* leaves below this index have been */
	EntryCursor cursor;
	WalkCheckpoints checkpoints;
} Walk;

/* verify_checkpoint.c */
extern void verify_read_lives(Walk *walk);
extern void verify_checkpoints(Walk *walk);
extern bool verify_tail_leaf(Walk *walk);
extern void verify_checkpoint_failed(Walk *walk, int sqlstate);
extern void verify_checkpoints_close(Walk *walk);
extern void verify_checkpoints_end(Walk *walk);

/* verify_tree.c */
extern bool verify_walk_root(Walk *walk, MerkleHash *root);

#endif							/* IDEMPOTENCY_VERIFY_WALK_H */
