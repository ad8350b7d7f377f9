/*-------------------------------------------------------------------------
 *
 * verify_entries.c
 *		Checking the entries: against the tree's leaves, and the heap against
 *		its index.
 *
 * The tree's leaves come in the order of their entries' numbers, and so do the
 * entries from the index; so both are read once, side by side (EntryCursor). An
 * entry is read only when a leaf asks for it: if that fails, it is known which
 * leaf's it was, and the next attempt goes on behind it.
 *
 * What an index scan keeps must outlive an entry, so it has a memory context of
 * its own (btgettuple() allocates when it likes).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "verify.h"

#define UNSEALED_FOR_LONG (10 * USECS_PER_MINUTE)

/* Prepare to read the entries after one number. */
void
verify_cursor_init(EntryCursor *cursor, Verify *verify, int64 after)
{
	MemoryContext caller = MemoryContextSwitchTo(verify->context);

	memset(cursor, 0, sizeof(*cursor));
	cursor->verify = verify;
	cursor->after = after;
	cursor->unsealed_since = DT_NOEND;
	cursor->scan_context = AllocSetContextCreate(verify->context,
												 "idempotency verify scan",
												 ALLOCSET_DEFAULT_SIZES);
	cursor->each = AllocSetContextCreate(verify->context,
										 "idempotency verify entry",
										 ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&cursor->data);
	MemoryContextSwitchTo(caller);
}

/* An attempt has ended, and with it what it had opened. */
void
verify_cursor_reset(EntryCursor *cursor)
{
	cursor->open = cursor->ended = cursor->has = false;
	cursor->digest = NULL;
}

/* An attempt has done its work: close what it had opened. */
void
verify_cursor_close(EntryCursor *cursor)
{
	if (cursor->open)
	{
		ledger_scan_end(&cursor->scan);
		digest_free(cursor->digest);
	}
	verify_cursor_reset(cursor);
}

/* Open the scan behind what has been read. */
static void
cursor_open(EntryCursor *cursor)
{
	MemoryContext caller = MemoryContextSwitchTo(cursor->scan_context);

	MemoryContextReset(cursor->scan_context);
	ledger_scan(&cursor->scan, cursor->after, PG_INT64_MAX,
				cursor->verify->snapshot);
	verify_shape(cursor->scan.heap, VERIFY_ENTRY);
	cursor->digest = digest_create();
	cursor->drawn = ledger_last_seq();
	cursor->open = true;
	MemoryContextSwitchTo(caller);
}

/*
 * Read the scan's next tuple; returns whether there is one.  *sound says
 * whether the entry could be taken apart.
 */
static bool
entries_next(LedgerScan *scan, MemoryContext context, LedgerEntry *entry,
			 bool *sound)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	bool		isnull;

	if (scan->free_tuple)
		heap_freetuple(scan->tuple);
	scan->free_tuple = false;
	if (!index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot))
	{
		MemoryContextSwitchTo(caller);
		return false;
	}
	scan->tuple = ExecFetchSlotHeapTuple(scan->slot, false,
										 &scan->free_tuple);
	scan->index_seq =
		DatumGetInt64(index_getattr(scan->scan->xs_itup, 1,
									scan->scan->xs_itupdesc, &isnull));
	MemoryContextSwitchTo(caller);
	*sound = verify_sound(scan->heap, scan->tuple, VERIFY_ENTRY);
	if (*sound)
		entry_deform(RelationGetDescr(scan->heap), scan->tuple, entry);
	return true;
}

/* Where a leaf is, as a finding says it. */
static char *
entries_place(int64 leaf, int64 seq)
{
	return psprintf("leaf " INT64_FORMAT ", seq " INT64_FORMAT, leaf, seq);
}

/* Where an entry is that has no leaf. */
static char *
entries_seq(int64 seq)
{
	return psprintf("seq " INT64_FORMAT, seq);
}

/* Note what the entry of a prune says: {"min_index": ... */
static void
cursor_note_prune(EntryCursor *cursor)
{
	static const char label[] = "{\"min_index\": ";
	const LedgerEntry *entry = &cursor->entry;
	char	   *detail;

	if (entry_decision_find(entry->decision) != ENTRY_PRUNED ||
		entry->detail == NULL)
		return;
	detail = text_to_cstring(entry->detail);
	if (strncmp(detail, label, strlen(label)) == 0)
		cursor->prune_recorded = Max(cursor->prune_recorded,
									 strtoll(detail + strlen(label), NULL,
											 10));
}

/* Read the next entry, unless one is waiting; false if there is none. */
static bool
cursor_next(EntryCursor *cursor)
{
	Verify	   *verify = cursor->verify;

	/* a scan that has ended would begin anew */
	if (cursor->has || cursor->ended || cursor->broken)
		return cursor->has;
	if (!cursor->open)
		cursor_open(cursor);
	MemoryContextReset(cursor->each);
	if (!entries_next(&cursor->scan, cursor->scan_context, &cursor->entry,
					  &cursor->sound))
	{
		cursor->ended = true;
		return false;
	}
	cursor->has = true;
	cursor->seq = cursor->scan.index_seq;
	if (!cursor->sound)
		verify_error(verify, "entry damaged", entries_seq(cursor->seq),
					 "Its row can't be taken apart.");
	else if (cursor->entry.seq != cursor->seq)
	{
		cursor->sound = false;
		verify_error(verify, "index differs from heap",
					 entries_seq(cursor->seq),
					 "The index says so, but the row's seq is " INT64_FORMAT ".",
					 cursor->entry.seq);
	}
	else
		cursor_note_prune(cursor);
	if (cursor->seq > cursor->drawn || cursor->seq < 1)
		verify_error(verify, "number never drawn", entries_seq(cursor->seq),
					 "The sequence has only come to " INT64_FORMAT ".",
					 cursor->drawn);
	return true;
}

/* The waiting entry is done with. */
static void
cursor_done(EntryCursor *cursor)
{
	cursor->after = cursor->seq;
	cursor->has = false;
}

/* The waiting entry has no leaf, though all up to here are in the tree. */
static void
cursor_extra(EntryCursor *cursor)
{
	verify_error(cursor->verify, "entry not in the tree",
				 entries_seq(cursor->seq),
				 "It was inserted, renumbered or duplicated after the entries around it were sealed.");
}

/* Report the leaves whose entries are missing, if there are any. */
void
verify_missing(EntryCursor *cursor)
{
	const int64 *leaf = cursor->missing_leaf;
	const int64 *seq = cursor->missing_seq;
	int64		n = cursor->missing;

	cursor->missing = 0;
	if (n == 1)
		verify_error(cursor->verify, "entry missing",
					 entries_place(leaf[0], seq[0]), "The entry is gone.");
	else if (n > 1)
		verify_error(cursor->verify, "entry missing",
					 psprintf("leaves " INT64_FORMAT " to " INT64_FORMAT
							  ", seqs " INT64_FORMAT " to " INT64_FORMAT,
							  leaf[0], leaf[1], seq[0], seq[1]),
					 "All " INT64_FORMAT " entries are gone.", n);
}

/* A leaf's entry is missing; those in a row are one finding. */
static void
cursor_miss(EntryCursor *cursor, int64 leaf, int64 seq)
{
	if (cursor->missing++ == 0)
	{
		cursor->missing_leaf[0] = leaf;
		cursor->missing_seq[0] = seq;
	}
	cursor->missing_leaf[1] = leaf;
	cursor->missing_seq[1] = seq;
}

/* Does the waiting entry hash to its leaf? */
static bool
cursor_compare(EntryCursor *cursor, int64 leaf, const MerkleHash *hash)
{
	MerkleHash	computed;

	if (!cursor->sound)
		return false;			/* which has been said */
	if (!entry_is_known(&cursor->entry))
	{
		verify_error(cursor->verify, "entry of unknown version",
					 entries_place(leaf, cursor->seq),
					 "This library doesn't know how version %d is encoded.",
					 cursor->entry.version);
		return false;
	}
	resetStringInfo(&cursor->data);
	entry_encode(&cursor->entry, &cursor->data);
	merkle_leaf(cursor->digest, cursor->data.data, cursor->data.len,
				&computed);
	if (digest_equal(computed.bytes, hash->bytes))
		return true;
	verify_error(cursor->verify, "entry changed",
				 entries_place(leaf, cursor->seq),
				 "It does not hash to what is in the tree.");
	return false;
}

/*
 * Look for the entry of the tree's next leaf, and compare it.  Returns it, if
 * it is as it was; it lives until the next call.
 */
const LedgerEntry *
verify_leaf(EntryCursor *cursor, int64 leaf, int64 seq,
			const MerkleHash *hash)
{
	MemoryContext caller = MemoryContextSwitchTo(cursor->each);
	bool		same;

	while (cursor_next(cursor) && cursor->seq < seq)
	{
		if (!cursor->gap)
			cursor_extra(cursor);
		cursor_done(cursor);
	}
	cursor->gap = false;
	if (!cursor->has || cursor->seq > seq)
	{
		if (!cursor->broken)
			cursor_miss(cursor, leaf, seq);
		MemoryContextSwitchTo(caller);
		return NULL;
	}
	verify_missing(cursor);
	same = cursor_compare(cursor, leaf, hash);
	cursor_done(cursor);
	MemoryContextSwitchTo(caller);
	return same ? &cursor->entry : NULL;
}

/* The attempt to read a leaf's entry has failed. */
void
verify_unreadable_leaf(EntryCursor *cursor, int64 leaf, int64 seq,
					   int sqlstate)
{
	verify_missing(cursor);
	if (sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
	{
		cursor->broken = true;
		verify_unreadable(cursor->verify, "ledger_entry", sqlstate);
		return;
	}
	verify_unreadable(cursor->verify, entries_place(leaf, seq), sqlstate);
	cursor->after = Max(cursor->after, seq);
}

/* When this statement's snapshot was taken, or a little before. */
static TimestampTz
entries_snapshot_time(void)
{
	return IsolationUsesXactSnapshot() ? GetCurrentTransactionStartTimestamp() :
		GetCurrentStatementStartTimestamp();
}

/*
 * Read what comes behind the last leaf: up to where entries are sealed there
 * must be none, and then come those that are to be sealed next.
 */
void
verify_rest(EntryCursor *cursor)
{
	Verify	   *verify = cursor->verify;
	MemoryContext caller = MemoryContextSwitchTo(cursor->each);

	verify_missing(cursor);
	while (cursor_next(cursor))
	{
		CHECK_FOR_INTERRUPTS();
		if (cursor->seq <= verify->latest.sealed_seq)
			cursor_extra(cursor);
		else if (cursor->seq <= cursor->after)
			verify_error(verify, "entry duplicated", entries_seq(cursor->seq),
						 "There is more than one of this number.");
		else
		{
			cursor->unsealed++;
			if (cursor->sound)
				cursor->unsealed_since = Min(cursor->unsealed_since,
											 cursor->entry.decided_at);
		}
		cursor_done(cursor);
	}
	MemoryContextSwitchTo(caller);
	if (cursor->unsealed > 0 && cursor->unsealed_since <
		entries_snapshot_time() - UNSEALED_FOR_LONG)
		verify_warning(verify, "entries not sealed",
					   psprintf("after seq " INT64_FORMAT,
								verify->latest.sealed_seq),
					   "The oldest of " INT64_FORMAT " is of %s; what isn't sealed can be changed without a trace.",
					   cursor->unsealed,
					   timestamptz_to_str(cursor->unsealed_since));
}

/* Prepare to look entries up. */
void
verify_lookup_begin(EntryLookup *lookup, Snapshot snapshot)
{
	MemoryContext caller;

	lookup->context = AllocSetContextCreate(CurrentMemoryContext,
											"idempotency verify lookup",
											ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(lookup->context);
	ledger_scan(&lookup->scan, 0, 0, snapshot);
	verify_shape(lookup->scan.heap, VERIFY_ENTRY);
	MemoryContextSwitchTo(caller);
}

/*
 * The entry of a number, as the index finds it, which lives until the next
 * call.  False if there is none, or if it can't be taken apart.
 */
bool
verify_lookup(EntryLookup *lookup, int64 seq, LedgerEntry *entry)
{
	MemoryContext caller = MemoryContextSwitchTo(lookup->context);
	ScanKeyData keys[2];
	bool		sound = false;

	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(seq));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(seq));
	index_rescan(lookup->scan.scan, keys, lengthof(keys), NULL, 0);
	MemoryContextSwitchTo(caller);
	return entries_next(&lookup->scan, lookup->context, entry, &sound) &&
		sound;
}

/* End looking up. */
void
verify_lookup_end(EntryLookup *lookup)
{
	ledger_scan_end(&lookup->scan);
	MemoryContextDelete(lookup->context);
}

/* Is a row of the table found by the index, where it is? */
static bool
heap_is_indexed(EntryLookup *lookup, HeapTuple tuple, int64 seq)
{
	LedgerEntry found;
	bool		sound;

	if (!verify_lookup(lookup, seq, &found))
		return false;
	do
	{
		if (ItemPointerEquals(&lookup->scan.slot->tts_tid, &tuple->t_self))
			return true;
	} while (entries_next(&lookup->scan, lookup->context, &found, &sound));
	return false;
}

/* A VerifyWork: is every row of the table of entries in the index, too? */
void
verify_heap(Verify *verify, void *arg)
{
	MemoryContext each = AllocSetContextCreate(CurrentMemoryContext,
											   "idempotency verify row",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller;
	EntryLookup lookup;
	TableScanDesc scan;
	HeapTuple	tuple;
	int64		n = 0;

	verify_lookup_begin(&lookup, verify->snapshot);
	scan = table_beginscan_strat(lookup.scan.heap, verify->snapshot, 0, NULL,
								 true, false);
	caller = MemoryContextSwitchTo(each);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		int64		seq;
		bool		isnull;
		char	   *place;

		MemoryContextReset(each);
		place = psprintf("ledger_entry, ctid (%u,%u)",
						 ItemPointerGetBlockNumber(&tuple->t_self),
						 ItemPointerGetOffsetNumber(&tuple->t_self));
		verify_progress(++n, 0, "rows looked up in the index");
		if (!verify_sound(lookup.scan.heap, tuple, VERIFY_ENTRY))
		{
			verify_error(verify, "row damaged", place,
						 "It can't be taken apart.");
			continue;
		}
		seq = DatumGetInt64(heap_getattr(tuple, 1,
										 RelationGetDescr(lookup.scan.heap),
										 &isnull));
		if (!heap_is_indexed(&lookup, tuple, seq))
			verify_error(verify, "heap differs from index", place,
						 "The index doesn't find this row by its seq, which is " INT64_FORMAT ".",
						 seq);
	}
	MemoryContextSwitchTo(caller);
	table_endscan(scan);
	verify_lookup_end(&lookup);
	MemoryContextDelete(each);
}
