/*-------------------------------------------------------------------------
 *
 * txn.h
 *		What this transaction has claimed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_TXN_H
#define IDEMPOTENCY_TXN_H

#include "decision.h"
#include "store.h"

/* the part of a claim that a ROLLBACK TO must bring back */
typedef struct TxnClaimState
{
	bool		held;			/* claimed, and not released or forgotten */
	bool		settled;		/* finished or failed */
	bool		leased;			/* a leased claim was made: if it is rolled back,
								 * that is told; it is not to be settled */
	bool		commit_settles; /* policy: commit itself is the finish */
	bool		had_row;		/* a row that was to be tried again, or to be
								 * done again, stood at "before" */
	KeyPlace	place;			/* the row's newest version */
	KeyPlace	before;			/* the version that the claim replaced */
	Ring		ring;			/* of the policy it was claimed by */
	int64		retention;		/* what the claim asked for, microseconds */
	TimestampTz claimed_at;
	int32		attempt;
	bool		audited;		/* its event is numbered, and to be recorded */
	DecisionNumber decision;	/* that the settle supersedes, or 0 */
	int32		nevents;		/* whose ids were derived from it */
} TxnClaimState;

/* one identity that this transaction has claimed */
typedef struct TxnClaim
{
	Identity   *identity;
	TxnClaimState state;
	struct TxnClaim *next;		/* in the list of all, newest first */
} TxnClaim;

extern void txn_init(void);
extern TxnClaim *txn_find(Identity *identity);
extern TxnClaim *txn_enter(Identity *identity);
extern void txn_change(TxnClaim *claim, const TxnClaimState *state);
extern void txn_wrote_unnoted(void);
extern bool txn_has_claims(void);
extern int32 txn_next_event(pg_uuid_t *id);

#endif							/* IDEMPOTENCY_TXN_H */
