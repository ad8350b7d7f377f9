/*-------------------------------------------------------------------------
 *
 * verify_keys.h
 *		Checking keys' rows against the entries, for verify().
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_VERIFY_KEYS_H
#define IDEMPOTENCY_VERIFY_KEYS_H

#include "nodes/pg_list.h"
#include "utils/tuplesort.h"
#include "utils/uuid.h"

#include "keyrow.h"
#include "verify.h"

/* the last event of a key that has an entry */
typedef struct KeyEvent
{
	pg_uuid_t	id;
	int64		seq;
	int32		event_no;
	int64		fence;
	EntryDecision decision;
	pg_uuid_t	match;			/* digest of what the row then says */
	int64		lasting_seq;	/* the last event of which the row may be, if an
								 * attempt that was given up left that; or 0 */
} KeyEvent;

/* a key's row, and where it is */
typedef struct KeyPosition
{
	pg_uuid_t	id;
	Segment		segment;
	ItemPointerData tid;
	int32		event_no;
	TimestampTz claimed_at;
	pg_uuid_t	match;
} KeyPosition;

/* what the step keeps */
typedef struct VerifyKeys
{
	Verify	   *verify;
	MemoryContext each;			/* what one row needs */
	DigestContext *digest;
	Relation	heaps[SEGMENT_COUNT];
	EntryLookup lookup;
	Tuplesortstate *events;
	Tuplesortstate *positions;
	TupleTableSlot *event_slot;
	TupleTableSlot *position_slot;
	List	   *unaudited;		/* scopes whose audit was off at some time */
	bool		all_unaudited;
	TimestampTz pruned_until;	/* entries of events before may be pruned */
} VerifyKeys;

extern void verify_compare_key(VerifyKeys *keys, const KeyPosition *position,
							   const KeyEvent *event);
extern void verify_match_entry(VerifyKeys *keys, const LedgerEntry *entry,
							   pg_uuid_t *match);
extern void verify_match_row(VerifyKeys *keys, const KeyRow *row,
							 pg_uuid_t *match);

#endif							/* IDEMPOTENCY_VERIFY_KEYS_H */
