/*-------------------------------------------------------------------------
 *
 * verify_tree.c
 *		Checking the tree: its tiles against each other, and its leaves against
 *		the entries.
 *
 * The leaves are walked in their order, as the full tiles and then the tails of
 * the last checkpoints have them.  What is kept on the way is the compact range
 * of the leaves so far (the roots of the complete subtrees they fall into), from
 * which each checkpoint's root follows (verify_checkpoint.c); and, for each
 * higher level, the hashes that its present tile must have.
 *
 * A walk that doesn't begin with the first leaf takes what is left of it from
 * the tiles.  Where a tile can't be read, the walk goes on behind it, and what
 * can't be computed any more isn't compared.
 *
 * The walk is done in attempts (verify_attempt()): when one fails, the state
 * says what was being read, and the next goes on behind that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "verify.h"
#include "verify_walk.h"

#define WALK_ATTEMPTS_MAX 10000

/* Append the root of a complete subtree. */
static void
range_push(CompactRange *range, DigestContext *digest, int height,
		   const MerkleHash *hash)
{
	MerkleHash	node = *hash;

	while (range->n > 0 && range->heights[range->n - 1] == height)
	{
		range->n--;
		merkle_node(digest, &range->hashes[range->n], &node, &node);
		height++;
	}
	range->heights[range->n] = height;
	range->hashes[range->n++] = node;
}

/* Join a range to the root of what is right of it, if there is anything. */
static void
range_fold(const CompactRange *range, DigestContext *digest, bool *any,
		   MerkleHash *root)
{
	for (int i = range->n - 1; i >= 0; i--)
	{
		if (*any)
			merkle_node(digest, &range->hashes[i], root, root);
		else
			*root = range->hashes[i];
		*any = true;
	}
}

/* The root of the tree of the leaves so far; false if it isn't known. */
bool
verify_walk_root(Walk *walk, MerkleHash *root)
{
	bool		any = false;

	if (!walk->roots_known)
		return false;
	range_fold(&walk->inside, walk->digest, &any, root);
	range_fold(&walk->before, walk->digest, &any, root);
	return any;
}

/* Say what is wrong with a tile. */
static void
walk_tile_error(Walk *walk, const char *what, int level, int64 index,
				const char *detail)
{
	verify_error(walk->verify, what,
				 psprintf("tile (%d, " INT64_FORMAT ")", level, index),
				 "%s", detail);
}

/*
 * Take what is left of a walk that doesn't begin with the first leaf: roots,
 * and, unless there are no entries, the number of the last one.
 */
static void
walk_take_left(Walk *walk)
{
	TreeReader *reader = palloc(sizeof(TreeReader));
	int64		left = 0;

	verify_require_tree(walk->verify);
	walk->before.n = 0;
	(void) tree_open(reader, walk->verify->snapshot);
	for (int height = 62; height >= MERKLE_TILE_HEIGHT; height--)
	{
		MerkleHash	hash;

		if ((walk->index & INT64CONST(1) << height) == 0)
			continue;
		tree_fetch(reader, height, left >> height, &hash);
		range_push(&walk->before, walk->digest, height, &hash);
		left += INT64CONST(1) << height;
	}
	if (walk->index > walk->verify->pruned)
		walk->last_seq = tree_leaf_seq(reader, walk->index - 1);
	tree_close(reader);
	pfree(reader);
	walk->roots_known = true;
}

/* Begin the walk. */
static void
walk_begin(Walk *walk)
{
	Verify	   *verify = walk->verify;

	if (!walk->lives_read)
	{
		walk->reading = WALK_LIVES;
		verify_read_lives(walk);
		walk->lives_read = true;
	}
	if (walk->left_read)
		return;
	walk->reading = WALK_LEFT;
	if (walk->index > 0)
		walk_take_left(walk);
	else
		walk->roots_known = true;
	walk->left_read = true;
	verify_cursor_init(&walk->cursor, verify, walk->last_seq);
}

/* Have the scan read its next tile; false if there is none. */
static bool
walk_read_tile(Walk *walk)
{
	HeapTuple	tuple;

	if (!walk->tiles_open)
	{
		ScanKeyData keys[2];

		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT2EQ,
					Int16GetDatum(0));
		ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT8GE,
					Int64GetDatum(walk->index / MERKLE_TILE_WIDTH));
		verify_scan_begin(&walk->tiles, VERIFY_TILE, walk->verify->snapshot,
						  lengthof(keys), keys);
		walk->tiles_open = true;
	}
	tuple = verify_scan_next(&walk->tiles, ForwardScanDirection);
	if (tuple == NULL)
		return false;
	walk->tile_damaged = !verify_tile(&walk->tiles, tuple, walk->tile,
									  walk->tile_bounds);
	return true;
}

/* Begin with a tile of level 0, or with what stands behind the last one. */
static void
walk_begin_tile(Walk *walk, int64 number)
{
	Tile	   *tile = walk->tile;

	walk->reading = WALK_TILE;
	walk->tile_known = true;
	if (number < walk->full && walk->tiles_broken)
		walk->tile_known = false;
	else if (number < walk->full)
	{
		while (!walk->tile_read || tile->index < number)
		{
			walk->tile_read = walk_read_tile(walk);
			if (!walk->tile_read)
				break;
		}
		if (!walk->tile_read || tile->index > number)
		{
			walk->tile_known = false;
			walk_tile_error(walk, "tile missing", 0, number, "It is gone.");
		}
		else
		{
			walk->tile_read = false;
			walk->tile_known = !walk->tile_damaged;
			if (walk->tile_damaged)
				walk_tile_error(walk, "tile damaged", 0, number,
								"It is not one of 256 entries.");
			else if (walk->tile_bounds[0] != tile->seqs[0] ||
					 walk->tile_bounds[1] != tile->seqs[MERKLE_TILE_WIDTH - 1])
				walk_tile_error(walk, "tile numbers wrong", 0, number,
								"Its first_seq or last_seq is not that of its entries.");
		}
	}
	walk->tile_number = number;
	walk->inside.n = 0;
	memset(walk->filter, 0, sizeof(walk->filter));
	walk->filter_known = true;
}

/* Enter a hash of a level, which is the root of a tile below. */
static void
walk_set_hash(Walk *walk, int level, int64 index, const MerkleHash *hash)
{
	int			place = index % MERKLE_TILE_WIDTH;

	walk->known[level][place] = hash != NULL;
	if (hash)
		walk->hashes[level][place] = *hash;
	walk->level = place == MERKLE_TILE_WIDTH - 1 && level < TREE_LEVELS ?
		level : 0;
}

/* The hash that the stored tile has, and that it should have, differ. */
static void
walk_compare_level(Walk *walk, const Tile *stored, bool *all_known)
{
	int			wrong = 0;

	*all_known = true;
	for (int i = 0; i < MERKLE_TILE_WIDTH; i++)
	{
		*all_known &= walk->known[stored->level][i];
		if (walk->known[stored->level][i] &&
			!digest_equal(walk->hashes[stored->level][i].bytes,
						  stored->hashes[i].bytes))
			wrong++;
	}
	if (wrong > 0)
		walk_tile_error(walk, "tile hashes wrong", stored->level,
						stored->index,
						psprintf("%d of its hashes are not the roots of the tiles below.",
								 wrong));
}

/* All hashes of a tile of a higher level have been computed: check it. */
static void
walk_check_level(Walk *walk)
{
	int			level = walk->level;
	int64		index = (walk->index >> (level + 1) * MERKLE_TILE_HEIGHT) - 1;
	Tile	   *stored = palloc(sizeof(Tile));
	bool		damaged = true;
	bool		found;
	bool		all_known;
	MerkleHash	root;

	walk->reading = WALK_LEVEL;
	found = !walk->level_failed &&
		verify_find_tile(walk->verify, level, index, stored, &damaged);
	if (!found && !walk->level_failed)
		walk_tile_error(walk, "tile missing", level, index, "It is gone.");
	else if (damaged && !walk->level_failed)
		walk_tile_error(walk, "tile damaged", level, index,
						"It is not one of 256 hashes.");
	if (!found || damaged)
		walk_set_hash(walk, level + 1, index, NULL);
	else
	{
		walk_compare_level(walk, stored, &all_known);
		merkle_subtree(walk->digest, all_known ? walk->hashes[level] :
					   stored->hashes, MERKLE_TILE_WIDTH, &root);
		if (!digest_equal(root.bytes, stored->root.bytes))
			walk_tile_error(walk, "tile root wrong", level, index,
							"It is not that of its hashes.");
		walk_set_hash(walk, level + 1, index, &root);
	}
	memset(walk->known[level], 0, sizeof(walk->known[level]));
	walk->level_failed = false;
	pfree(stored);
}

/* All leaves of a full tile have been walked: check the rest of it. */
static void
walk_end_tile(Walk *walk)
{
	const MerkleHash *root = &walk->inside.hashes[0];

	Assert(walk->inside.n == 1 &&
		   walk->inside.heights[0] == MERKLE_TILE_HEIGHT);
	if (!digest_equal(root->bytes, walk->tile->root.bytes))
		walk_tile_error(walk, "tile root wrong", 0, walk->tile_number,
						"It is not that of its hashes.");
	if (walk->filter_known &&
		memcmp(walk->filter, walk->tile->filter, TREE_FILTER_BYTES) != 0)
		walk_tile_error(walk, "tile filter wrong", 0, walk->tile_number,
						"explain() would not find all entries, or look in vain.");
	range_push(&walk->before, walk->digest, MERKLE_TILE_HEIGHT, root);
	walk_set_hash(walk, 1, walk->tile_number, root);
	walk->inside.n = 0;
}

/* Leave leaves out that can't be known, up to one. */
static void
walk_skip(Walk *walk, int64 upto)
{
	int64		last = upto - 1;

	if (upto % MERKLE_TILE_WIDTH == 0)
		walk_set_hash(walk, 1, last / MERKLE_TILE_WIDTH, NULL);
	walk->index = upto;
	walk->roots_known = false;
	walk->cursor.gap = true;
}

/* Compare a leaf with its entry. */
static void
walk_compare_leaf(Walk *walk, int64 seq, const MerkleHash *hash)
{
	const LedgerEntry *entry = NULL;

	walk->reading = WALK_ENTRY;
	if (seq <= walk->checkpoints.sealed_seq)
	{
		walk->checkpoints.sealed_seq = PG_INT64_MIN;
		verify_error(walk->verify, "checkpoint sealed_seq wrong",
					 psprintf("checkpoint of size " INT64_FORMAT,
							  walk->checkpoints.size),
					 "The leaf behind it is of an entry that it should have had, seq " INT64_FORMAT ".",
					 seq);
	}
	if (seq > walk->last_seq)
		entry = verify_leaf(&walk->cursor, walk->index, seq, hash);
	else
	{
		char	   *place = psprintf("leaf " INT64_FORMAT, walk->index);

		verify_error(walk->verify, "leaf numbers wrong", place,
					 "Its seq is " INT64_FORMAT ", which isn't above that of the leaf before.",
					 seq);
		pfree(place);
	}
	if (entry == NULL)
		walk->filter_known = false;
	else if (entry->has_key)
		tree_filter_add(walk->filter, &entry->identity.id);
}

/* Walk over the next leaf. */
static void
walk_leaf(Walk *walk)
{
	int			place = walk->index % MERKLE_TILE_WIDTH;
	int64		seq = walk->tile->seqs[place];
	const MerkleHash *hash = &walk->tile->hashes[place];

	if (walk->compared <= walk->index)
	{
		walk_compare_leaf(walk, seq, hash);
		walk->compared = walk->index + 1;
	}
	walk->last_seq = Max(walk->last_seq, seq);
	range_push(&walk->inside, walk->digest, 0, hash);
	walk->index++;
	if (place == MERKLE_TILE_WIDTH - 1)
		walk_end_tile(walk);
	verify_progress(walk->index, walk->end,
					"leaves compared with their entries");
}

/* Walk on by one leaf, or over what can't be known. */
static void
walk_step(Walk *walk)
{
	int64		number = walk->index / MERKLE_TILE_WIDTH;

	if (walk->tile_number != number)
		walk_begin_tile(walk, number);
	if (!walk->tile_known)
		walk_skip(walk, Min((number + 1) * MERKLE_TILE_WIDTH, walk->end));
	else if (number < walk->full || verify_tail_leaf(walk))
		walk_leaf(walk);
	else if (walk->checkpoints.has_next)
		walk_skip(walk, Max(walk->index + 1, walk->checkpoints.next->size -
							walk->checkpoints.next->ntail));
	else
		walk->stopped = true;
}

/* A VerifyWork: walk to the end. */
static void
walk_on(Verify *verify, void *arg)
{
	Walk	   *walk = arg;

	walk->digest = digest_create();
	walk_begin(walk);
	for (;;)
	{
		verify_checkpoints(walk);
		if (walk->level > 0)
			walk_check_level(walk);
		else if (walk->index < walk->end && !walk->stopped)
			walk_step(walk);
		else
			break;
	}
	walk->reading = WALK_REST;
	verify_missing(&walk->cursor);
	if (walk->end == verify->latest.size)
		verify_rest(&walk->cursor);
	verify_cursor_close(&walk->cursor);
	verify_checkpoints_close(walk);
	if (walk->tiles_open)
		verify_scan_end(&walk->tiles);
	digest_free(walk->digest);
}

/* An attempt has failed: arrange for the next to go on behind that. */
static void
walk_failed(Walk *walk, int sqlstate)
{
	Verify	   *verify = walk->verify;
	int			place = walk->index % MERKLE_TILE_WIDTH;

	walk->tiles_open = walk->tile_read = false;
	switch (walk->reading)
	{
		case WALK_LIVES:
			verify_unreadable(verify, "table incarnation", sqlstate);
			walk->lives_read = true;
			return;
		case WALK_LEFT:
			verify_unreadable(verify, "the tree's left part", sqlstate);
			walk->left_read = true;
			verify_cursor_init(&walk->cursor, verify, walk->last_seq);
			walk->cursor.gap = true;
			return;
		case WALK_CHECKPOINT:
			verify_checkpoint_failed(walk, sqlstate);
			break;
		case WALK_TILE:
			walk->tiles_broken =
				sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
			verify_unreadable(verify, walk->tiles_broken ? "ledger_tile" :
							  psprintf("tile (0, " INT64_FORMAT ")",
									   walk->index / MERKLE_TILE_WIDTH),
							  sqlstate);
			walk->tile_number = walk->index / MERKLE_TILE_WIDTH;
			walk->tile_known = false;
			break;
		case WALK_LEVEL:
			verify_unreadable(verify,
							  psprintf("a tile of level %d", walk->level),
							  sqlstate);
			walk->level_failed = true;
			break;
		case WALK_ENTRY:
			verify_unreadable_leaf(&walk->cursor, walk->index,
								   walk->tile->seqs[place], sqlstate);
			walk->compared = walk->index + 1;
			walk->filter_known = false;
			break;
		case WALK_REST:
			verify_unreadable(verify, "entries behind the last leaf",
							  sqlstate);
			walk->stopped = true;
			break;
	}
	verify_cursor_reset(&walk->cursor);
	walk->checkpoints.open = walk->checkpoints.has_next = false;
}

/* Was what table ledger_prune says recorded by an entry? */
static void
walk_check_prune(Walk *walk)
{
	Verify	   *verify = walk->verify;

	if (verify->pruned_here || walk->stopped ||
		verify->from > verify->pruned || walk->end < verify->latest.size ||
		walk->cursor.prune_recorded == verify->pruned)
		return;
	verify_error(verify, "prune not recorded", "ledger_prune",
				 "It says that entries below leaf " INT64_FORMAT " were pruned, but the last entry about that says " INT64_FORMAT ".",
				 verify->pruned, walk->cursor.prune_recorded);
}

/*
 * Check the tree, and the entries against it, from the tile with the first
 * leaf that was asked for to the one with the last.
 */
void
verify_tree(Verify *verify)
{
	Walk	   *walk = palloc0(sizeof(Walk));
	int64		size = verify->latest.size;
	int64		from = verify->from - verify->from % MERKLE_TILE_WIDTH;
	int			sqlstate = 0;

	walk->verify = verify;
	walk->tile = palloc0(sizeof(Tile));
	walk->checkpoints.next = palloc0(sizeof(Checkpoint));
	walk->context = AllocSetContextCreate(verify->context,
										  "idempotency verify walk",
										  ALLOCSET_DEFAULT_SIZES);
	walk->index = Min(Max(from, verify->pruned),
					  size - size % MERKLE_TILE_WIDTH);
	walk->end = size;
	if (verify->upto < size)
	{
		int64		tiles = (verify->upto + MERKLE_TILE_WIDTH - 1) /
			MERKLE_TILE_WIDTH;

		walk->end = Max(Min(tiles * MERKLE_TILE_WIDTH, size), walk->index);
	}
	walk->full = size / MERKLE_TILE_WIDTH;
	walk->tile_number = -1;
	walk->last_seq = PG_INT64_MIN;
	walk->checkpoints.size = walk->index;
	walk->checkpoints.after = walk->index > 0 ? walk->index - 1 : PG_INT64_MIN;
	walk->checkpoints.sealed_seq = PG_INT64_MIN;
	for (int attempt = 0; attempt < WALK_ATTEMPTS_MAX; attempt++)
	{
		MemoryContext caller = MemoryContextSwitchTo(walk->context);

		MemoryContextReset(walk->context);
		sqlstate = verify_attempt(verify, walk_on, walk);
		MemoryContextSwitchTo(caller);
		if (sqlstate == 0)
			break;
		walk_failed(walk, sqlstate);
		if (walk->reading == WALK_REST)
		{
			sqlstate = 0;
			break;
		}
	}
	if (sqlstate != 0)
		verify_unreadable(verify, "the rest of the tree", sqlstate);
	verify_checkpoints_end(walk);
	if (walk->left_read)
		walk_check_prune(walk);
	MemoryContextDelete(walk->context);
}
