/*-------------------------------------------------------------------------
 *
 * verify_checkpoint.c
 *		Checking the checkpoints, on the walk over the tree's leaves.
 *
 * They are read in the order of their sizes.  When the walk has come to a
 * checkpoint's size, its root must be that of the leaves so far, and its tail
 * the last of them: those that it added and that were in no full tile then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "catalog.h"
#include "compat.h"
#include "verify.h"
#include "verify_walk.h"

/* Read the incarnations, to know whose checkpoints there can be. */
void
verify_read_lives(Walk *walk)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;
	MemoryContext caller = MemoryContextSwitchTo(walk->verify->context);
	VerifyScan	scan;
	HeapTuple	tuple;
	int			max = 0;

	verify_scan_begin(&scan, VERIFY_INCARNATION, walk->verify->snapshot, 0,
					  NULL);
	while ((tuple = verify_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		Life	   *life;
		bool		isnull;

		if (!verify_sound(scan.rel, tuple, VERIFY_INCARNATION))
			continue;
		if (checkpoints->nlives == max)
		{
			max = Max(16, max * 2);
			checkpoints->lives = checkpoints->lives ?
				repalloc(checkpoints->lives, max * sizeof(Life)) :
				palloc(max * sizeof(Life));
		}
		life = &checkpoints->lives[checkpoints->nlives++];
		life->number = verify_integer(&scan, tuple, 1);
		life->origin =
			TextDatumGetCString(heap_getattr(tuple, 9,
											 RelationGetDescr(scan.rel),
											 &isnull));
	}
	verify_scan_end(&scan);
	MemoryContextSwitchTo(caller);
}

/* Say what is wrong with the next checkpoint. */
static void
checkpoint_error(Walk *walk, const char *what, const char *detail)
{
	char	   *place = psprintf("checkpoint of size " INT64_FORMAT,
								 walk->checkpoints.next->size);

	verify_error(walk->verify, what, place, "%s", detail);
	pfree(place);
}

/* Report the checkpoints whose roots are wrong, if there are any. */
static void
checkpoint_report_wrong(Walk *walk)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;
	const int64 *size = checkpoints->wrong_size;

	if (checkpoints->wrong == 1)
		verify_error(walk->verify, "checkpoint root wrong",
					 psprintf("checkpoint of size " INT64_FORMAT, size[0]),
					 "It is not the root of the leaves.");
	else if (checkpoints->wrong > 1)
		verify_error(walk->verify, "checkpoint root wrong",
					 psprintf("checkpoints of sizes " INT64_FORMAT " to " INT64_FORMAT,
							  size[0], size[1]),
					 "The roots of all " INT64_FORMAT " are not those of the leaves.",
					 checkpoints->wrong);
	checkpoints->wrong = 0;
}

/* The root of the next checkpoint can't be compared. */
static void
checkpoint_skip(WalkCheckpoints *checkpoints)
{
	if (checkpoints->skipped++ == 0)
		checkpoints->skipped_size = checkpoints->next->size;
}

/* Check the next checkpoint's root. */
static void
checkpoint_check_root(Walk *walk)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;
	const Checkpoint *checkpoint = checkpoints->next;
	MerkleHash	root;

	if (checkpoint->size < 1)
		checkpoint_error(walk, "checkpoint damaged",
						 "A tree has at least one entry.");
	else if (!verify_walk_root(walk, &root))
		checkpoint_skip(checkpoints);
	else if (digest_equal(root.bytes, checkpoint->root.bytes))
		checkpoint_report_wrong(walk);
	else
	{
		if (checkpoints->wrong++ == 0)
			checkpoints->wrong_size[0] = checkpoint->size;
		checkpoints->wrong_size[1] = checkpoint->size;
	}
}

/* Check the next checkpoint's tail against the leaves. */
static void
checkpoint_check_tail(Walk *walk)
{
	const Checkpoint *checkpoint = walk->checkpoints.next;
	int			last = checkpoint->size % MERKLE_TILE_WIDTH;
	int64		ntail = Min(last, checkpoint->size - walk->checkpoints.size);
	int			first = last - checkpoint->ntail;

	if (checkpoint->ntail != ntail)
		checkpoint_error(walk, "checkpoint tail wrong",
						 "It hasn't the leaves that were added since the checkpoint before, or that is gone.");
	if (first < 0 || !walk->tile_known)
		return;
	for (int i = 0; i < checkpoint->ntail; i++)
	{
		if (!digest_equal(checkpoint->tail[i].bytes,
						  walk->tile->hashes[first + i].bytes) ||
			checkpoint->tail_seqs[i] != walk->tile->seqs[first + i])
		{
			checkpoint_error(walk, "checkpoint tail wrong",
							 "It hasn't the leaves that are in the tile.");
			return;
		}
	}
}

/* Is the checkpoint of an incarnation that there was? */
static bool
checkpoint_has_life(const WalkCheckpoints *checkpoints)
{
	const Checkpoint *checkpoint = checkpoints->next;

	for (int i = 0; i < checkpoints->nlives; i++)
	{
		if (checkpoints->lives[i].number == checkpoint->incarnation)
			return strcmp(checkpoints->lives[i].origin,
						  checkpoint->origin) == 0;
	}
	return false;
}

/* Check what else the next checkpoint says. */
static void
checkpoint_check_rest(Walk *walk)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;
	const Checkpoint *checkpoint = checkpoints->next;

	if (checkpoint->sealed_seq < walk->last_seq ||
		checkpoint->sealed_seq < checkpoints->sealed_seq ||
		checkpoint->sealed_seq > ledger_last_seq())
		checkpoint_error(walk, "checkpoint sealed_seq wrong",
						 "It is below the last entry's, or was never drawn.");
	if (!checkpoint_has_life(checkpoints) ||
		checkpoint->incarnation < checkpoints->incarnation)
		checkpoint_error(walk, "checkpoint origin wrong",
						 "It is not that of an incarnation, or of an earlier one than the checkpoint before.");
	else if (checkpoint->incarnation == checkpoints->incarnation &&
			 checkpoint->lsn < checkpoints->lsn)
		checkpoint_error(walk, "checkpoint lsn wrong",
						 "It is below that of the checkpoint before.");
	checkpoints->sealed_seq = checkpoint->sealed_seq;
	checkpoints->incarnation = checkpoint->incarnation;
	checkpoints->lsn = checkpoint->lsn;
}

/* Have the scan read the next checkpoint; false if there is none. */
static bool
checkpoint_read(Walk *walk)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;
	HeapTuple	tuple;

	walk->reading = WALK_CHECKPOINT;
	checkpoints->next->size = PG_INT64_MIN;
	if (!checkpoints->open)
	{
		ScanKeyData key;

		ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_INT8GT,
					Int64GetDatum(checkpoints->after));
		verify_scan_begin(&checkpoints->scan, VERIFY_CHECKPOINT,
						  walk->verify->snapshot, 1, &key);
		checkpoints->open = true;
	}
	tuple = verify_scan_next(&checkpoints->scan, ForwardScanDirection);
	if (tuple == NULL)
		return false;
	checkpoints->damaged = !verify_checkpoint(&checkpoints->scan, tuple,
											  checkpoints->next);
	return true;
}

/* Check the next checkpoint, whose size the walk has come to, or passed. */
static void
checkpoint_check(Walk *walk)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;
	Checkpoint *checkpoint = checkpoints->next;

	if (checkpoints->damaged)
		checkpoint_error(walk, "checkpoint damaged",
						 "Its values can't be those of one.");
	else if (checkpoint->size < walk->index && checkpoint->size > 0)
		checkpoint_skip(checkpoints);
	else
	{
		checkpoint_check_root(walk);
		if (checkpoint->size > 0)
		{
			checkpoint_check_tail(walk);
			checkpoint_check_rest(walk);
		}
	}
	checkpoints->size = checkpoints->after = checkpoint->size;
	checkpoints->has_next = false;
	if (checkpoint->origin)
		pfree(checkpoint->origin);
	checkpoint->origin = NULL;
}

/*
 * Check the checkpoints of the leaves so far, and have the next one read.
 */
void
verify_checkpoints(Walk *walk)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;

	while (!checkpoints->done)
	{
		if (!checkpoints->has_next)
		{
			checkpoints->has_next = checkpoint_read(walk);
			checkpoints->done = !checkpoints->has_next;
			continue;
		}
		if (checkpoints->next->size > walk->index)
			break;
		checkpoint_check(walk);
	}
}

/*
 * The next leaf is in no full tile: take it from the next checkpoint's tail
 * into the walk's tile.  False if that hasn't got it.
 */
bool
verify_tail_leaf(Walk *walk)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;
	const Checkpoint *checkpoint = checkpoints->next;
	int64		in_tail = checkpoints->has_next && !checkpoints->damaged ?
		walk->index - (checkpoint->size - checkpoint->ntail) : -1;
	int			place = walk->index % MERKLE_TILE_WIDTH;

	if (in_tail < 0)
	{
		verify_error(walk->verify, "leaves missing",
					 psprintf("leaf " INT64_FORMAT, walk->index),
					 "From there on leaves are in no tile and in no checkpoint's tail.");
		return false;
	}
	walk->tile->hashes[place] = checkpoint->tail[in_tail];
	walk->tile->seqs[place] = checkpoint->tail_seqs[in_tail];
	return true;
}

/* The attempt to read the next checkpoint has failed. */
void
verify_checkpoint_failed(Walk *walk, int sqlstate)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;

	if (checkpoints->next->size == PG_INT64_MIN)
	{
		verify_unreadable(walk->verify, "the next checkpoints", sqlstate);
		checkpoints->done = true;
		return;
	}
	verify_unreadable(walk->verify,
					  psprintf("checkpoint of size " INT64_FORMAT,
							   checkpoints->next->size), sqlstate);
	checkpoints->size = checkpoints->after = checkpoints->next->size;
}

/* An attempt has done its work. */
void
verify_checkpoints_close(Walk *walk)
{
	if (walk->checkpoints.open)
		verify_scan_end(&walk->checkpoints.scan);
	walk->checkpoints.open = walk->checkpoints.has_next = false;
}

/* The walk has ended: report what was found in a row. */
void
verify_checkpoints_end(Walk *walk)
{
	WalkCheckpoints *checkpoints = &walk->checkpoints;

	checkpoint_report_wrong(walk);
	if (checkpoints->skipped > 0)
		verify_warning(walk->verify, "checkpoints not compared",
					   psprintf("from size " INT64_FORMAT " on",
								checkpoints->skipped_size),
					   "The roots of " INT64_FORMAT " can't be computed, as leaves before are not known.",
					   checkpoints->skipped);
}
