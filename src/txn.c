/*-------------------------------------------------------------------------
 *
 * txn.c
 *		What this transaction has claimed.
 *
 * The truth about a key is its row; this is a note of where the row is, so
 * that a settle needn't look for it, and of whether it has been settled, so
 * that a commit that would record as done what never happened can be refused.
 * It all lives in the top transaction's memory and ends with it: the session
 * holds nothing between transactions.
 *
 * Rolling back to a savepoint: changes made inside a subtransaction are
 * written to a journal, whose frames mirror the nesting.  An aborted
 * subtransaction's records are the newest ones and are undone one by one; a
 * committed one's become its parent's.  Outside any subtransaction nothing is
 * journalled, as an abort ends everything.  Each callback costs as much as
 * there is to undo, however many savepoints and claims there are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "compat.h"
#include "errors.h"
#include "note.h"
#include "tally.h"
#include "txn.h"
#include "watch.h"

/* up to this many claims are found by walking the list */
#define TXN_LIST_MAX 8

/* a change to undo */
typedef struct TxnRecord
{
	TxnClaim   *claim;
	TxnClaimState before;
} TxnRecord;

/* the records of one subtransaction begin here */
typedef struct TxnFrame
{
	SubTransactionId subid;
	int			start;
} TxnFrame;

typedef struct TxnIndexEntry
{
	pg_uuid_t	id;				/* hash key */
	TxnClaim   *claim;
} TxnIndexEntry;

/* everything below points into TopTransactionContext */
typedef struct TxnState
{
	TxnClaim   *claims;			/* newest first */
	int			nclaims;
	int			nunsettled;		/* claims that a commit is refused for */
	bool		commit_settles; /* a claim that commit settles was made */
	bool		wrote_unnoted;	/* a claim settled itself, and has no note */
	HTAB	   *index;			/* once there are more than TXN_LIST_MAX */
	TxnRecord  *records;
	int			nrecords;
	int			max_records;
	TxnFrame   *frames;
	int			nframes;
	int			max_frames;
} TxnState;

static TxnState txn;

/* Does this state make the commit wait for a settle? */
static inline bool
txn_is_unsettled(const TxnClaimState *state)
{
	return state->held && !state->settled && !state->commit_settles;
}

/* Is there a claim that a rollback would undo? */
static inline bool
txn_is_claimed(const TxnClaimState *state)
{
	return state->held || state->leased;
}

/* Put a state into force. */
static void
txn_set(TxnClaim *claim, const TxnClaimState *state)
{
	txn.nunsettled += (int) txn_is_unsettled(state) -
		(int) txn_is_unsettled(&claim->state);
	txn.commit_settles |= state->commit_settles;
	claim->state = *state;
}

/* Make room for one more element; the array lives as long as the transaction. */
static void *
txn_grow(void *array, int n, int *max, Size size)
{
	if (n < *max)
		return array;
	*max = Max(16, *max * 2);
	if (array == NULL)
		return MemoryContextAllocHuge(TopTransactionContext, *max * size);
	return repalloc_huge(array, *max * size);
}

/* Note what a change replaces, if a ROLLBACK TO could ask for it. */
static void
txn_journal(TxnClaim *claim)
{
	SubTransactionId subid = GetCurrentSubTransactionId();

	if (GetCurrentTransactionNestLevel() == 1)
		return;
	if (txn.nframes == 0 || txn.frames[txn.nframes - 1].subid != subid)
	{
		txn.frames = txn_grow(txn.frames, txn.nframes, &txn.max_frames,
							  sizeof(TxnFrame));
		txn.frames[txn.nframes].subid = subid;
		txn.frames[txn.nframes++].start = txn.nrecords;
	}
	txn.records = txn_grow(txn.records, txn.nrecords, &txn.max_records,
						   sizeof(TxnRecord));
	txn.records[txn.nrecords].claim = claim;
	txn.records[txn.nrecords++].before = claim->state;
}

/* Index a claim by id, creating the index when the list has grown long. */
static void
txn_index(TxnClaim *claim)
{
	TxnClaim   *first = claim;

	if (txn.nclaims <= TXN_LIST_MAX)
		return;
	if (txn.index == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(pg_uuid_t);
		ctl.entrysize = sizeof(TxnIndexEntry);
		ctl.hcxt = TopTransactionContext;
		txn.index = hash_create("idempotency claims", 256, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	else
		first = NULL;			/* the older ones are in it */

	do
	{
		TxnIndexEntry *entry = hash_search(txn.index,
										   identity_id(claim->identity),
										   HASH_ENTER, NULL);

		entry->claim = claim;
		claim = claim->next;
	} while (first && claim);
}

/*
 * This transaction's note of an identity, held or not, or NULL.
 */
TxnClaim *
txn_find(Identity *identity)
{
	TxnIndexEntry *entry;

	/* mostly it is the newest one that is settled */
	if (txn.claims && identity_equal(txn.claims->identity, identity))
		return txn.claims;
	if (txn.index == NULL)
	{
		TxnClaim   *claim = txn.claims;

		while (claim && !identity_equal(claim->identity, identity))
			claim = claim->next;
		return claim;
	}
	entry = hash_search(txn.index, identity_id(identity), HASH_FIND, NULL);
	if (entry && identity_equal(entry->claim->identity, identity))
		return entry->claim;
	return NULL;
}

/*
 * This transaction's note of an identity, a new one (not held) if there is
 * none.
 */
TxnClaim *
txn_enter(Identity *identity)
{
	TxnClaim   *claim = txn_find(identity);

	if (claim)
		return claim;
	(void) identity_id(identity);
	claim = MemoryContextAllocZero(TopTransactionContext, sizeof(TxnClaim));
	claim->identity = identity_copy(identity, TopTransactionContext);
	claim->next = txn.claims;
	txn.claims = claim;
	txn.nclaims++;
	txn_index(claim);
	return claim;
}

/* Record a change, to be undone if its subtransaction rolls back. */
void
txn_change(TxnClaim *claim, const TxnClaimState *state)
{
	txn_journal(claim);
	txn_set(claim, state);
}

/* Remember that there are rows of this transaction without a note of them. */
void
txn_wrote_unnoted(void)
{
	txn.wrote_unnoted = true;
}

/* Has this transaction claimed anything that it holds? */
bool
txn_has_claims(void)
{
	if (txn.wrote_unnoted)
		return true;
	for (TxnClaim *claim = txn.claims; claim; claim = claim->next)
	{
		if (claim->state.held)
			return true;
	}
	return false;
}

/*
 * An event is emitted by the operation that this transaction executes: the
 * claim that was made last of those still to be settled, or of all.  Returns the
 * event's number in that claim, from 1, and the claim's id; 0 if there is no
 * claim.  A rollback gives the number back.
 */
int32
txn_next_event(pg_uuid_t *id)
{
	TxnClaim   *claim = txn.claims;
	TxnClaim   *settled = NULL;
	TxnClaimState state;

	for (; claim; claim = claim->next)
	{
		if (!claim->state.held)
			continue;
		if (!claim->state.settled)
			break;
		if (settled == NULL)
			settled = claim;
		if (txn.nunsettled == 0)
			break;
	}
	if (claim == NULL || claim->state.settled)
		claim = settled;
	if (claim == NULL)
		return 0;
	state = claim->state;
	state.nevents++;
	txn_change(claim, &state);
	*id = *identity_id(claim->identity);
	return state.nevents;
}

/*
 * Refuse to commit, or prepare, what was claimed and not settled: the row
 * says "succeeded", and that may not be true.  Raises ID428.
 */
static void
txn_require_settled(void)
{
	if (txn.nunsettled == 0)
		return;
	for (TxnClaim *claim = txn.claims; claim; claim = claim->next)
	{
		if (!txn_is_unsettled(&claim->state))
			continue;
		watch_refused(claim->identity->scope, claim->identity->scope_len,
					  REFUSAL_UNSETTLED, NULL);
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_UNSETTLED),
				 errmsg("transaction claimed an idempotency key and did not settle it"),
				 errdetail_plural("%d claim is not settled, in scope \"%.*s\".",
								  "%d claims are not settled, the latest in scope \"%.*s\".",
								  txn.nunsettled, txn.nunsettled,
								  claim->identity->scope_len,
								  claim->identity->scope),
				 errhint("Call finish(), fail() or release() in the transaction that called claim(), or let commit settle the scope's claims: configure(..., unfinished => 'succeed').")));
	}
}

/* Count the claims that this commit settles. */
static void
txn_count_settled(void)
{
	for (TxnClaim *claim = txn.commit_settles ? txn.claims : NULL; claim;
		 claim = claim->next)
	{
		StatsSlot	slot;

		if (!claim->state.held || claim->state.settled)
			continue;
		slot = stats_slot(claim->identity->scope, claim->identity->scope_len);
		tally_settle(slot, breaker_generation_at(slot,
												 claim->state.claimed_at),
					 STATS_FINISHED);
	}
}

/* Note that a claim is being rolled back. */
static void
txn_note_abort(const TxnClaim *claim)
{
	note_decision(ENTRY_ABORTED, claim->identity, claim->state.attempt, 0,
				  NO_FENCE, claim->state.claimed_at, NULL, NULL);
}

/* Forget everything; the memory goes with the transaction's context. */
static void
txn_reset(void)
{
	memset(&txn, 0, sizeof(txn));
}

/* The transaction is about to end, or has. */
static void
txn_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			txn_require_settled();
			txn_count_settled();
			decision_write(event == XACT_EVENT_PRE_PREPARE);
			break;
		case XACT_EVENT_ABORT:
			for (TxnClaim *claim = txn.claims; claim; claim = claim->next)
			{
				if (txn_is_claimed(&claim->state))
					txn_note_abort(claim);
			}
			txn_reset();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			txn_reset();
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			break;				/* nothing is claimed in a worker */
	}
}

/* Undo the records of the innermost frame, newest first. */
static void
txn_undo_frame(void)
{
	TxnFrame   *frame = &txn.frames[--txn.nframes];

	while (txn.nrecords > frame->start)
	{
		TxnRecord  *record = &txn.records[--txn.nrecords];

		if (txn_is_claimed(&record->claim->state) &&
			!txn_is_claimed(&record->before))
			txn_note_abort(record->claim);
		txn_set(record->claim, &record->before);
	}
}

/* Hand the innermost frame to the parent of its subtransaction. */
static void
txn_merge_frame(SubTransactionId parent)
{
	if (parent == TopSubTransactionId)
	{
		txn.nframes = 0;
		txn.nrecords = 0;
	}
	else if (txn.nframes > 1 && txn.frames[txn.nframes - 2].subid == parent)
		txn.nframes--;
	else
		txn.frames[txn.nframes - 1].subid = parent;
}

/* A subtransaction has ended. */
static void
txn_subxact_callback(SubXactEvent event, SubTransactionId subid,
					 SubTransactionId parent, void *arg)
{
	if (txn.nframes == 0 || txn.frames[txn.nframes - 1].subid != subid)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		txn_undo_frame();
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		txn_merge_frame(parent);
}

/* Register the callbacks; called once from _PG_init. */
void
txn_init(void)
{
	RegisterXactCallback(txn_xact_callback, NULL);
	RegisterSubXactCallback(txn_subxact_callback, NULL);
}
