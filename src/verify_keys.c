/*-------------------------------------------------------------------------
 *
 * verify_keys.c
 *		Checking, key by key, its events, and its row against the last of them.
 *
 * The entries have no index by key.  So what is needed of those that changed a
 * key is sorted by the key's id and the entry's number, what is needed of the
 * keys' rows by id, and both are read side by side.  What a row says of its
 * last event, and what the event's entry says, is compared by a digest; only
 * if those differ are row and entry read again, to see why.
 *
 * A row that has expired may be a leftover beside that of the key's next life;
 * those are passed over.  So are rows that this transaction has written, if it
 * has decided anything: the entries are written when it commits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "fault.h"
#include "txn.h"
#include "verify.h"
#include "verify_keys.h"

#define KEYS_SORT_MEMORY (16 * 1024)	/* kB, for each of two */

/* columns of what is sorted, counted from 0 */
enum
{
	EVENT_ID,
	EVENT_SEQ,
	EVENT_NO,
	EVENT_FENCE,
	EVENT_DECISION,
	EVENT_MATCH,
	EVENT_COLUMNS
};

enum
{
	POSITION_ID,
	POSITION_SEGMENT,
	POSITION_TID,
	POSITION_EVENT_NO,
	POSITION_CLAIMED_AT,
	POSITION_MATCH,
	POSITION_COLUMNS
};

static const Oid event_types[EVENT_COLUMNS] =
{UUIDOID, INT8OID, INT4OID, INT8OID, INT4OID, UUIDOID};

static const Oid position_types[POSITION_COLUMNS] =
{UUIDOID, INT4OID, INT8OID, INT4OID, INT8OID, UUIDOID};

/* Begin to sort by the first columns; the slot is what to put and get with. */
static Tuplesortstate *
keys_sort_begin(const Oid *types, int ncolumns, int nkeys,
				TupleTableSlot **slot)
{
	TupleDesc	desc = CreateTemplateTupleDesc(ncolumns);
	AttrNumber	columns[2] = {1, 2};
	Oid			operators[2];
	Oid			collations[2] = {InvalidOid, InvalidOid};
	bool		nulls_first[2] = {false, false};

	for (int i = 0; i < ncolumns; i++)
		TupleDescInitEntry(desc, i + 1, NULL, types[i], -1, 0);
	for (int i = 0; i < nkeys; i++)
		operators[i] = lookup_type_cache(types[i], TYPECACHE_LT_OPR)->lt_opr;
	*slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	return tuplesort_begin_heap(desc, nkeys, columns, operators, collations,
								nulls_first, KEYS_SORT_MEMORY, NULL,
								TUPLESORT_NONE);
}

/* Put a tuple without nulls. */
static void
keys_sort_put(Tuplesortstate *sort, TupleTableSlot *slot, Datum *values)
{
	bool		isnull[Max((int) EVENT_COLUMNS, (int) POSITION_COLUMNS)] = {0};
	HeapTuple	tuple = heap_form_tuple(slot->tts_tupleDescriptor, values,
										isnull);

	ExecForceStoreHeapTuple(tuple, slot, true);
	tuplesort_puttupleslot(sort, slot);
	ExecClearTuple(slot);
}

/* Note the scopes whose policy has been, at some time, not to be audited. */
static void
keys_note_policy(VerifyKeys *keys, const LedgerEntry *entry)
{
	const Identity *identity = &entry->identity;
	MemoryContext caller;

	if (entry->detail == NULL || identity->scope == NULL ||
		strstr(text_to_cstring(entry->detail), "\"audit\":\"off\"") == NULL)
		return;
	caller = MemoryContextSwitchTo(keys->verify->context);
	if (identity->scope_len == 1 && identity->scope[0] == '*')
		keys->all_unaudited = true;
	else
		keys->unaudited =
			list_append_unique(keys->unaudited,
							   makeString(pnstrdup(identity->scope,
												   identity->scope_len)));
	MemoryContextSwitchTo(caller);
}

/* Put an entry, if it is of a key's event. */
static void
keys_put_entry(VerifyKeys *keys, const LedgerEntry *entry)
{
	int			decision = entry_decision_find(entry->decision);
	Datum		values[EVENT_COLUMNS];
	pg_uuid_t	id = entry->identity.id;
	pg_uuid_t	match;

	if (decision == ENTRY_CONFIGURED)
		keys_note_policy(keys, entry);
	if (decision < 0 || !entry_changes_state(decision) || !entry->has_key ||
		entry->event_no == 0)
		return;
	verify_match_entry(keys, entry, &match);
	values[EVENT_ID] = UUIDPGetDatum(&id);
	values[EVENT_SEQ] = Int64GetDatum(entry->seq);
	values[EVENT_NO] = Int32GetDatum(entry->event_no);
	values[EVENT_FENCE] = Int64GetDatum(entry->fence);
	values[EVENT_DECISION] = Int32GetDatum(decision);
	values[EVENT_MATCH] = UUIDPGetDatum(&match);
	keys_sort_put(keys->events, keys->event_slot, values);
}

/* Put all entries. */
static void
keys_put_entries(VerifyKeys *keys)
{
	Relation	heap = keys->lookup.scan.heap;
	TableScanDesc scan = table_beginscan_strat(heap, keys->verify->snapshot,
											   0, NULL, true, false);
	MemoryContext caller = MemoryContextSwitchTo(keys->each);
	HeapTuple	tuple;
	int64		n = 0;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		LedgerEntry entry;

		MemoryContextReset(keys->each);
		verify_progress(++n, 0, "entries sorted by key");
		if (!verify_sound(heap, tuple, VERIFY_ENTRY))
			continue;			/* which has been said */
		entry_deform(RelationGetDescr(heap), tuple, &entry);
		keys_put_entry(keys, &entry);
	}
	MemoryContextSwitchTo(caller);
	table_endscan(scan);
}

/* Where a key's row is, as a finding says it. */
static char *
keys_place(Relation heap, ItemPointer tid)
{
	return psprintf("%s, ctid (%u,%u)", RelationGetRelationName(heap),
					ItemPointerGetBlockNumber(tid),
					ItemPointerGetOffsetNumber(tid));
}

/* Can a key's row be taken apart, its digests included? */
static bool
keys_row_is_sound(Relation heap, HeapTuple tuple)
{
	static const AttrNumber digests[] = {12, 19};	/* fingerprint, owner */

	if (!verify_sound(heap, tuple, VERIFY_KEY))
		return false;
	for (int i = 0; i < lengthof(digests); i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, digests[i],
										 RelationGetDescr(heap), &isnull);

		if (!isnull &&
			VARSIZE_ANY_EXHDR(DatumGetByteaPP(value)) != DIGEST_LENGTH)
			return false;
	}
	return true;
}

/* Put a key's row. */
static void
keys_put_row(VerifyKeys *keys, Segment segment, HeapTuple tuple,
			 TimestampTz now)
{
	Relation	heap = keys->heaps[segment];
	Datum		values[POSITION_COLUMNS];
	KeyRow		row;
	Identity	identity;
	pg_uuid_t	id;
	pg_uuid_t	match;

	if (!keys_row_is_sound(heap, tuple))
	{
		verify_error(keys->verify, "row damaged",
					 keys_place(heap, &tuple->t_self),
					 "It can't be taken apart.");
		return;
	}
	keyrow_deform(RelationGetDescr(heap), tuple, &row, &identity);
	if (keyrow_is_expired(&row, now))
		return;
	id = identity.id;
	identity.has_id = false;
	if (memcmp(&id, identity_id(&identity), UUID_LEN) != 0)
	{
		verify_error(keys->verify, "key damaged",
					 keys_place(heap, &tuple->t_self),
					 "Its id is not that of its scope, principal and key.");
		return;
	}
	verify_match_row(keys, &row, &match);
	values[POSITION_ID] = UUIDPGetDatum(&id);
	values[POSITION_SEGMENT] = Int32GetDatum(segment);
	values[POSITION_TID] =
		Int64GetDatum((int64) ItemPointerGetBlockNumber(&tuple->t_self) << 16 |
					  ItemPointerGetOffsetNumber(&tuple->t_self));
	values[POSITION_EVENT_NO] = Int32GetDatum(row.event_no);
	values[POSITION_CLAIMED_AT] = Int64GetDatum(row.claimed_at);
	values[POSITION_MATCH] = UUIDPGetDatum(&match);
	keys_sort_put(keys->positions, keys->position_slot, values);
}

/* Put all rows of keys that count, and keep their tables open. */
static void
keys_put_rows(VerifyKeys *keys)
{
	TimestampTz now = clock_now();
	bool		own = txn_has_claims();
	int64		n = 0;

	for (Segment segment = 0; segment < SEGMENT_COUNT; segment++)
	{
		Relation	heap = table_open(catalog_segment_table(segment),
									  AccessShareLock);
		MemoryContext caller;
		TableScanDesc scan;
		HeapTuple	tuple;

		keys->heaps[segment] = heap;
		verify_shape(heap, VERIFY_KEY);
		scan = table_beginscan_strat(heap, keys->verify->snapshot, 0, NULL,
									 true, false);
		caller = MemoryContextSwitchTo(keys->each);
		while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		{
			MemoryContextReset(keys->each);
			verify_progress(++n, 0, "keys sorted");
			if (!own || !TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
				keys_put_row(keys, segment, tuple, now);
		}
		MemoryContextSwitchTo(caller);
		table_endscan(scan);
	}
}

/* The next entry in the order of keys; false if there is none. */
static bool
keys_next_event(VerifyKeys *keys, KeyEvent *event)
{
	TupleTableSlot *slot = keys->event_slot;

	if (!tuplesort_gettupleslot(keys->events, true, false, slot, NULL))
		return false;
	slot_getallattrs(slot);
	event->id = *DatumGetUUIDP(slot->tts_values[EVENT_ID]);
	event->seq = DatumGetInt64(slot->tts_values[EVENT_SEQ]);
	event->event_no = DatumGetInt32(slot->tts_values[EVENT_NO]);
	event->fence = DatumGetInt64(slot->tts_values[EVENT_FENCE]);
	event->decision = DatumGetInt32(slot->tts_values[EVENT_DECISION]);
	event->match = *DatumGetUUIDP(slot->tts_values[EVENT_MATCH]);
	return true;
}

/* The next key's row; false if there is none. */
static bool
keys_next_position(VerifyKeys *keys, KeyPosition *position)
{
	TupleTableSlot *slot = keys->position_slot;
	int64		tid;

	if (!tuplesort_gettupleslot(keys->positions, true, false, slot, NULL))
		return false;
	slot_getallattrs(slot);
	tid = DatumGetInt64(slot->tts_values[POSITION_TID]);
	position->id = *DatumGetUUIDP(slot->tts_values[POSITION_ID]);
	position->segment = DatumGetInt32(slot->tts_values[POSITION_SEGMENT]);
	ItemPointerSet(&position->tid, (BlockNumber) (tid >> 16), tid & 0xFFFF);
	position->event_no = DatumGetInt32(slot->tts_values[POSITION_EVENT_NO]);
	position->claimed_at =
		DatumGetInt64(slot->tts_values[POSITION_CLAIMED_AT]);
	position->match = *DatumGetUUIDP(slot->tts_values[POSITION_MATCH]);
	return true;
}

/*
 * Check an event against the one before it of the same key, if there is one:
 * its number follows, or begins anew, and a new lease has a greater fence than
 * any before, which is in fence.
 */
static void
keys_check_event(VerifyKeys *keys, const KeyEvent *before,
				 const KeyEvent *event, int64 fence)
{
	bool		new_lease = event->decision == ENTRY_CLAIMED ||
		event->decision == ENTRY_TAKEOVER;
	char	   *place = psprintf("seq " INT64_FORMAT, event->seq);

	if (before == NULL && event->event_no != 1 && keys->verify->pruned == 0)
		verify_error(keys->verify, "event missing", place,
					 "Event %d is the first of its key in the ledger.",
					 event->event_no);
	else if (before != NULL && event->event_no != 1 &&
			 event->event_no != before->event_no + 1)
		verify_error(keys->verify, "event missing", place,
					 "It is event %d of its key, and the one before, of seq " INT64_FORMAT ", is event %d.",
					 event->event_no, before->seq, before->event_no);
	if (new_lease ? event->fence <= fence :
		event->fence != 0 && event->fence < fence)
		verify_error(keys->verify, "fence not above", place,
					 "Its fence is not above those that the key had before.");
	pfree(place);
}

/*
 * Which event is the row of, if this one's attempt was given up and the row
 * before it restored?  A transactional attempt leaves what was before it; what
 * a lease leaves that was released is not that of any entry.
 */
static int64
keys_lasting_seq(const KeyEvent *before, const KeyEvent *event)
{
	bool		given_up = event->decision == ENTRY_RELEASED ||
		event->decision == ENTRY_FAILED;

	if (given_up && event->fence == 0)
		return before && event->event_no > 1 ? before->lasting_seq : 0;
	return event->decision == ENTRY_RELEASED ? 0 : event->seq;
}

/*
 * Read the next key's events, of which *next is the first, and check them.
 * The last one is left in *last, and in *next the first of another key.
 * Returns whether there is another.
 */
static bool
keys_read_events(VerifyKeys *keys, KeyEvent *next, KeyEvent *last)
{
	int64		fence = next->fence;

	keys_check_event(keys, NULL, next, 0);
	next->lasting_seq = keys_lasting_seq(NULL, next);
	for (;;)
	{
		*last = *next;
		CHECK_FOR_INTERRUPTS();
		if (!keys_next_event(keys, next))
			return false;
		if (memcmp(&next->id, &last->id, UUID_LEN) != 0)
			return true;
		keys_check_event(keys, last, next, fence);
		next->lasting_seq = keys_lasting_seq(last, next);
		fence = Max(fence, next->fence);
	}
}

/* Read what was sorted, side by side. */
static void
keys_merge(VerifyKeys *keys)
{
	KeyEvent	next;
	KeyEvent	last;
	KeyPosition position;
	bool		more_events = keys_next_event(keys, &next);
	bool		more_positions = keys_next_position(keys, &position);

	while (more_events || more_positions)
	{
		int			order = !more_events ? 1 : !more_positions ? -1 :
			memcmp(&next.id, &position.id, UUID_LEN);

		if (order > 0)
		{
			verify_compare_key(keys, &position, NULL);
			more_positions = keys_next_position(keys, &position);
			continue;
		}
		more_events = keys_read_events(keys, &next, &last);
		while (more_positions &&
			   memcmp(&last.id, &position.id, UUID_LEN) == 0)
		{
			verify_compare_key(keys, &position, &last);
			more_positions = keys_next_position(keys, &position);
		}
	}
}

/* When the first checkpoint was sealed that there still is. */
static TimestampTz
keys_pruned_until(Verify *verify)
{
	VerifyScan	scan;
	HeapTuple	tuple;
	Checkpoint *first = palloc(sizeof(Checkpoint));
	TimestampTz until = DT_NOBEGIN;

	if (verify->pruned == 0)
		return until;
	verify_scan_begin(&scan, VERIFY_CHECKPOINT, verify->snapshot, 0, NULL);
	tuple = verify_scan_next(&scan, ForwardScanDirection);
	if (tuple != NULL && verify_checkpoint(&scan, tuple, first))
		until = first->sealed_at;
	verify_scan_end(&scan);
	pfree(first);
	return until;
}

/* A VerifyWork: the events of each key, and its row. */
void
verify_keys(Verify *verify, void *arg)
{
	VerifyKeys *keys = palloc0(sizeof(VerifyKeys));

	keys->verify = verify;
	keys->each = AllocSetContextCreate(CurrentMemoryContext,
									   "idempotency verify key",
									   ALLOCSET_DEFAULT_SIZES);
	keys->digest = digest_create();
	keys->pruned_until = keys_pruned_until(verify);
	verify_lookup_begin(&keys->lookup, verify->snapshot);
	keys->events = keys_sort_begin(event_types, EVENT_COLUMNS, 2,
								   &keys->event_slot);
	keys->positions = keys_sort_begin(position_types, POSITION_COLUMNS, 1,
									  &keys->position_slot);
	keys_put_entries(keys);
	keys_put_rows(keys);
	tuplesort_performsort(keys->events);
	tuplesort_performsort(keys->positions);
	keys_merge(keys);
	ExecDropSingleTupleTableSlot(keys->event_slot);
	ExecDropSingleTupleTableSlot(keys->position_slot);
	tuplesort_end(keys->events);
	tuplesort_end(keys->positions);
	for (Segment segment = 0; segment < SEGMENT_COUNT; segment++)
		table_close(keys->heaps[segment], AccessShareLock);
	verify_lookup_end(&keys->lookup);
	digest_free(keys->digest);
	MemoryContextDelete(keys->each);
}
