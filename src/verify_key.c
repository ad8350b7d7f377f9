/*-------------------------------------------------------------------------
 *
 * verify_key.c
 *		Checking one key's row against the entry of its last event.
 *
 * What a row has depends on the decision that made it so, and on what the
 * policy was then: see decision_contents() in decision.c, failure.c, and the
 * places that restore an earlier row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "policy.h"
#include "verify.h"
#include "verify_keys.h"

/* what is compared first, as one digest */
typedef struct KeyMatch
{
	TimestampTz claimed_at;
	int64		fence;
	int32		attempt;
	char		state;
	bool		has_digest[2];	/* of the request, of the result */
	uint8		digest[2][DIGEST_LENGTH];
} KeyMatch;

/* The digest of it. */
static void
key_match(VerifyKeys *keys, const KeyMatch *match, pg_uuid_t *result)
{
	DigestPart	part = {match, sizeof(*match)};
	uint8		digest[DIGEST_LENGTH];

	digest_compute(keys->digest, &part, 1, digest);
	memcpy(result, digest, UUID_LEN);
}

/* The state that a decision leaves, where it leaves only one; or '?'. */
static char
key_state_after(EntryDecision decision)
{
	switch (decision)
	{
		case ENTRY_EXECUTED:
		case ENTRY_FINISHED:
			return KEY_SUCCEEDED;
		case ENTRY_CLAIMED:
		case ENTRY_TAKEOVER:
		case ENTRY_CHECKPOINT:
		case ENTRY_STEP:
		case ENTRY_STEP_DONE:
			return KEY_RUNNING;
		case ENTRY_COMPENSATING:
		case ENTRY_COMPENSATING_STEP:
		case ENTRY_COMPENSATED_STEP:
		case ENTRY_COMPENSATION_RETRY:
		case ENTRY_COMPENSATION_FAILED:
			return KEY_COMPENSATING;
		case ENTRY_FAILED:
			return KEY_FAILED;
		case ENTRY_RETRY:
			return KEY_RETRY;
		case ENTRY_EXHAUSTED:
			return KEY_EXHAUSTED;
		default:
			return '?';
	}
}

/* The digest of what the row says after an entry's event. */
void
verify_match_entry(VerifyKeys *keys, const LedgerEntry *entry,
				   pg_uuid_t *match)
{
	KeyMatch	parts;

	memset(&parts, 0, sizeof(parts));
	parts.claimed_at = entry->claimed_at;
	parts.fence = entry->fence;
	parts.attempt = entry->attempt;
	parts.state = key_state_after(entry_decision_find(entry->decision));
	for (int i = 0; i < lengthof(parts.digest); i++)
	{
		EntryDigest which = i == 0 ? DIGEST_REQUEST : DIGEST_RESPONSE;

		parts.has_digest[i] = entry->has_digest[which];
		if (entry->has_digest[which])
			memcpy(parts.digest[i], entry->digest[which], DIGEST_LENGTH);
	}
	key_match(keys, &parts, match);
}

/* The result that a row has: a response, an error, or NULL. */
static struct varlena *
key_result(const KeyRow *row)
{
	if (row->state == KEY_SUCCEEDED)
		return row->response;
	return row->state == KEY_RUNNING ? NULL : row->error;
}

/* The digest of what a row says. */
void
verify_match_row(VerifyKeys *keys, const KeyRow *row, pg_uuid_t *match)
{
	struct varlena *result = key_result(row);
	KeyMatch	parts;

	memset(&parts, 0, sizeof(parts));
	parts.claimed_at = row->claimed_at;
	parts.fence = row->fence;
	parts.attempt = row->attempt;
	parts.state = row->withheld != WITHHELD_NOTHING ? '!' : (char) row->state;
	parts.has_digest[0] = row->has_fingerprint;
	if (row->has_fingerprint)
		memcpy(parts.digest[0], row->fingerprint, DIGEST_LENGTH);
	parts.has_digest[1] = result != NULL;
	if (result)
		entry_digest((text *) pg_detoast_datum(result), parts.digest[1]);
	key_match(keys, &parts, match);
}

/* Is a stored text what an entry's digest is of? */
static bool
key_digest_is(struct varlena *value, const uint8 *digest)
{
	uint8		computed[DIGEST_LENGTH];

	if (value == NULL)
		return false;
	entry_digest((text *) pg_detoast_datum(value), computed);
	return digest_equal(computed, digest);
}

/*
 * Is a stored text what an entry's commitment is to?  The salt is that of the
 * payload beside the entry.
 */
static bool
key_commitment_is(VerifyKeys *keys, int64 seq, char part,
				  struct varlena *value, const uint8 *commitment)
{
	VerifyScan	scan;
	ScanKeyData key[2];
	HeapTuple	tuple;
	uint8		computed[DIGEST_LENGTH];
	bool		same = false;

	if (value == NULL)
		return false;
	ScanKeyInit(&key[0], 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(seq));
	ScanKeyInit(&key[1], 2, BTEqualStrategyNumber, F_CHAREQ,
				CharGetDatum(part));
	verify_scan_begin(&scan, VERIFY_PAYLOAD, keys->verify->snapshot,
					  lengthof(key), key);
	tuple = verify_scan_next(&scan, ForwardScanDirection);
	if (tuple != NULL && verify_sound(scan.rel, tuple, VERIFY_PAYLOAD))
	{
		bool		isnull;
		bytea	   *salt = DatumGetByteaPP(heap_getattr(tuple, 3,
														RelationGetDescr(scan.rel),
														&isnull));

		if (VARSIZE_ANY_EXHDR(salt) == DIGEST_LENGTH)
		{
			entry_commitment((const uint8 *) VARDATA_ANY(salt),
							 (text *) pg_detoast_datum(value), computed);
			same = digest_equal(computed, commitment);
		}
	}
	verify_scan_end(&scan);
	return same;
}

/*
 * In what does the row's request differ from its entry's?  Or NULL.  An entry
 * that comes with payloads need not say anything of it.
 */
static const char *
key_request_difference(VerifyKeys *keys, const KeyRow *row,
					   const LedgerEntry *entry)
{
	bool		same = true;

	if (entry->has_digest[DIGEST_REQUEST])
		same = row->has_fingerprint &&
			digest_equal(row->fingerprint, entry->digest[DIGEST_REQUEST]);
	else if (entry->has_digest[DIGEST_REQUEST_SALTED])
		same = row->has_fingerprint &&
			key_commitment_is(keys, entry->seq, PAYLOAD_REQUEST, row->request,
							  entry->digest[DIGEST_REQUEST_SALTED]);
	else if (entry->has_digest[DIGEST_RESPONSE])
		same = !row->has_fingerprint;
	return same ? NULL : "Its request is not what its entry says.";
}

/* In what does the row's result differ from its entry's?  Or NULL. */
static const char *
key_result_difference(VerifyKeys *keys, const KeyRow *row,
					  const LedgerEntry *entry)
{
	struct varlena *result = key_result(row);
	bool		same;

	if (row->state == KEY_RUNNING)
		return NULL;
	if (row->withheld == WITHHELD_NOT_STORED && row->state == KEY_SUCCEEDED)
		return NULL;			/* the entry's digest is of what isn't there */
	if (row->withheld != WITHHELD_NOTHING)
		return "What it held is gone, and no entry says so.";
	if (entry->has_digest[DIGEST_RESPONSE])
		same = key_digest_is(result, entry->digest[DIGEST_RESPONSE]);
	else if (entry->has_digest[DIGEST_RESPONSE_SALTED])
		same = key_commitment_is(keys, entry->seq, PAYLOAD_RESPONSE, result,
								 entry->digest[DIGEST_RESPONSE_SALTED]);
	else
		same = result == NULL;
	return same ? NULL : "Its response or error is not what its entry says.";
}

/*
 * Is this the row of an attempt before, which was restored when the entry's
 * was given up?  Or that attempt's own, if it was a lease.
 */
static bool
key_is_restored(const KeyRow *row, EntryDecision decision)
{
	return (decision == ENTRY_RELEASED || decision == ENTRY_FAILED) &&
		(row->state == KEY_RETRY || row->state == KEY_RUNNING ||
		 row->state == KEY_SUCCEEDED);
}

/* Can the row's state be that after the decision? */
static bool
key_state_suits(const KeyRow *row, EntryDecision decision)
{
	if (decision == ENTRY_RESOLVED)
		return row->state == KEY_SUCCEEDED || row->state == KEY_FAILED ||
			row->state == KEY_RETRY;
	if (decision == ENTRY_COMPENSATED)
		return row->state == KEY_FAILED || row->state == KEY_RETRY;
	if (decision == ENTRY_ERASED)
		return row->withheld == WITHHELD_ERASED && (row->state == KEY_SUCCEEDED ||
			   row->state == KEY_FAILED || row->state == KEY_EXHAUSTED);
	return (char) row->state == key_state_after(decision);
}

/* In what does a row differ from the entry that it is of?  Or NULL. */
static const char *
key_entry_difference(VerifyKeys *keys, const KeyRow *row,
					 const LedgerEntry *entry)
{
	int			decision = entry_decision_find(entry->decision);
	const char *difference;

	if (decision == ENTRY_FORGOTTEN)
		return "The ledger's last event of its key is that it was forgotten.";
	if (!key_state_suits(row, decision))
		return "Its state is not what its entry says.";
	if (row->claimed_at != entry->claimed_at || row->fence != entry->fence ||
		row->attempt != entry->attempt)
		return "Its attempt is not that of its entry.";
	difference = key_request_difference(keys, row, entry);
	return difference || decision == ENTRY_ERASED ? difference :
		key_result_difference(keys, row, entry);
}

/*
 * In what does a row differ from the entry of its last event, or, if it was
 * restored since, from that of its own?  Or NULL.
 */
static const char *
key_difference(VerifyKeys *keys, const KeyRow *row, const KeyEvent *event)
{
	int64		seq = event->seq;
	LedgerEntry entry;

	if (!verify_lookup(&keys->lookup, seq, &entry))
		return NULL;			/* which has been said */
	if (row->event_no == 0)
		return row->claimed_at == entry.claimed_at ?
			"Its event number was cleared." : NULL;
	if (row->event_no > entry.event_no)
		return "The entry of its last event is gone.";
	if (row->event_no < entry.event_no)
		return "The ledger has a later event of its key.";
	if (key_is_restored(row, event->decision))
	{
		seq = event->lasting_seq;
		if (seq == 0 || !verify_lookup(&keys->lookup, seq, &entry))
			return NULL;
	}
	return key_entry_difference(keys, row, &entry);
}

/* Can a scope's key have been changed while its scope wasn't audited? */
static bool
key_was_unaudited(VerifyKeys *keys, const Identity *identity)
{
	char	   *scope = pnstrdup(identity->scope, identity->scope_len);

	return keys->all_unaudited ||
		list_member(keys->unaudited, makeString(scope));
}

/* Read a row and the entry of its last event, and report how they differ. */
static void
key_report_difference(VerifyKeys *keys, const KeyPosition *position,
					  const KeyEvent *event, const char *place)
{
	Relation	heap = keys->heaps[position->segment];
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	ItemPointerData tid = position->tid;
	const char *difference = NULL;
	bool		unaudited = false;

	if (table_tuple_fetch_row_version(heap, &tid, keys->verify->snapshot,
									  slot))
	{
		HeapTuple	tuple = ExecCopySlotHeapTuple(slot);
		KeyRow		row;
		Identity	identity;

		keyrow_deform(RelationGetDescr(heap), tuple, &row, &identity);
		difference = key_difference(keys, &row, event);
		unaudited = key_was_unaudited(keys, &identity);
	}
	ExecDropSingleTupleTableSlot(slot);
	if (difference && unaudited)
		verify_warning(keys->verify, "key not audited", place,
					   "Since the entry of seq " INT64_FORMAT " it was changed, perhaps while its scope was not audited. %s",
					   event->seq, difference);
	else if (difference)
		verify_error(keys->verify, "key differs", place, "%s (seq " INT64_FORMAT ")",
					 difference, event->seq);
}

/* Check a key's row against its last event, NULL if that has no entry. */
void
verify_compare_key(VerifyKeys *keys, const KeyPosition *position,
				   const KeyEvent *event)
{
	MemoryContext caller;
	char	   *place;

	CHECK_FOR_INTERRUPTS();
	if (event && position->event_no == event->event_no &&
		memcmp(&position->match, &event->match, UUID_LEN) == 0)
		return;
	if (event == NULL && (position->event_no == 0 ||
						  position->claimed_at < keys->pruned_until))
		return;
	caller = MemoryContextSwitchTo(keys->each);
	MemoryContextReset(keys->each);
	place = psprintf("%s, ctid (%u,%u)",
					 RelationGetRelationName(keys->heaps[position->segment]),
					 ItemPointerGetBlockNumber(&position->tid),
					 ItemPointerGetOffsetNumber(&position->tid));
	if (event == NULL)
		verify_error(keys->verify, "key without entry", place,
					 "It has event number %d, but the ledger has no event of its key.",
					 position->event_no);
	else
		key_report_difference(keys, position, event, place);
	MemoryContextSwitchTo(caller);
}
