/*-------------------------------------------------------------------------
 *
 * tally.c
 *		Counts that depend on how the transaction ends.
 *
 * A settlement counts when it is committed, a claim as aborted when it is
 * rolled back; statistics and breaker learn of both then, and the limit that
 * the claim no longer runs.  Until then they are noted here, with the depth of
 * the subtransaction they belong to; entries are in the order of their depth,
 * so that a subtransaction's are the last ones.  Equal entries are one, so a
 * transaction of a million claims has one entry.
 *
 * A transaction that is prepared is counted as committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "limit.h"
#include "tally.h"

typedef struct TallyEntry
{
	StatsSlot	slot;
	BreakerGeneration generation;	/* in which the claims began; or 0 */
	StatsCounter on_commit;
	StatsCounter on_abort;
	bool		running;		/* counts for the limit until it ends */
	bool		leased;
	int			depth;			/* 1 is the top transaction */
	uint64		n;
} TallyEntry;

/* in TopTransactionContext */
static TallyEntry *tally_entries = NULL;
static int	tally_n = 0;
static int	tally_max = 0;

/* Make room for one more entry. */
static void
tally_grow(void)
{
	int			max = Max(16, tally_max * 2);

	if (tally_n < tally_max)
		return;
	tally_entries = tally_entries ?
		repalloc_huge(tally_entries, max * sizeof(TallyEntry)) :
		MemoryContextAllocHuge(TopTransactionContext,
							   max * sizeof(TallyEntry));
	tally_max = max;
}

/* Add one to the entry that is like this one, in the present transaction. */
static void
tally_add(TallyEntry like)
{
	like.depth = GetCurrentTransactionNestLevel();
	like.n = 1;
	for (int i = tally_n - 1;
		 i >= 0 && tally_entries[i].depth == like.depth; i--)
	{
		TallyEntry *entry = &tally_entries[i];

		if (entry->slot == like.slot &&
			entry->generation == like.generation &&
			entry->on_commit == like.on_commit &&
			entry->on_abort == like.on_abort &&
			entry->running == like.running &&
			entry->leased == like.leased)
		{
			entry->n++;
			return;
		}
	}
	tally_grow();
	tally_entries[tally_n++] = like;
}

/*
 * A claim was admitted, after limit_enter(), in a generation of the breaker.
 * on_commit is STATS_FINISHED if commit settles it, else STATS_NONE.
 */
void
tally_claim(StatsSlot slot, BreakerGeneration generation,
			StatsCounter on_commit, bool leased)
{
	TallyEntry	entry = {
		.slot = slot,
		.generation = generation,
		.on_commit = on_commit,
		.on_abort = STATS_ABORTED,
		.running = true,
		.leased = leased
	};

	if (slot != STATS_NO_SLOT)
		tally_add(entry);
}

/* A claim was settled so, if the transaction is committed. */
void
tally_settle(StatsSlot slot, BreakerGeneration generation,
			 StatsCounter counter)
{
	TallyEntry	entry = {
		.slot = slot,
		.generation = generation,
		.on_commit = counter,
		.on_abort = STATS_NONE
	};

	if (slot != STATS_NO_SLOT)
		tally_add(entry);
}

/* How many leased claims of the scope has this transaction made? */
int64
tally_leased(StatsSlot slot)
{
	int64		n = 0;

	for (int i = 0; i < tally_n; i++)
	{
		if (tally_entries[i].leased && tally_entries[i].slot == slot)
			n += tally_entries[i].n;
	}
	return n;
}

/* Tell statistics, breaker and limit of an entry. */
static void
tally_tell(const TallyEntry *entry, bool committed)
{
	StatsCounter counter = committed ? entry->on_commit : entry->on_abort;

	stats_count(entry->slot, counter, entry->n);
	if (counter == STATS_FINISHED)
		breaker_result(entry->slot, entry->generation, true, entry->n);
	else if (counter == STATS_FAILED || counter == STATS_RETRIED ||
			 counter == STATS_ABORTED)
		breaker_result(entry->slot, entry->generation, false, entry->n);
	else if (counter == STATS_RELEASED)
		breaker_withdraw(entry->slot, entry->generation);
	if (entry->running)
		limit_leave(entry->slot, entry->n);
}

/* Tell of the entries from this depth on, and drop them. */
static void
tally_end(int depth, bool committed)
{
	while (tally_n > 0 && tally_entries[tally_n - 1].depth >= depth)
		tally_tell(&tally_entries[--tally_n], committed);
}

/* The transaction has ended. */
static void
tally_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_PREPARE &&
		event != XACT_EVENT_ABORT)
		return;
	tally_end(1, event != XACT_EVENT_ABORT);
	tally_entries = NULL;
	tally_n = tally_max = 0;
}

/*
 * A subtransaction has ended.  What it leaves to its parent stays where it is,
 * behind the parent's own; an equal entry may then be there twice.
 */
static void
tally_subxact_callback(SubXactEvent event, SubTransactionId subid,
					   SubTransactionId parent, void *arg)
{
	int			depth = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
		tally_end(depth, false);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = tally_n - 1;
			 i >= 0 && tally_entries[i].depth >= depth; i--)
			tally_entries[i].depth = depth - 1;
	}
}

/* Register the callbacks; called once from _PG_init. */
void
tally_init(void)
{
	RegisterXactCallback(tally_xact_callback, NULL);
	RegisterSubXactCallback(tally_subxact_callback, NULL);
}
