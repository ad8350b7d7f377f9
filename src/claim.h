/*-------------------------------------------------------------------------
 *
 * claim.h
 *		The protocol by which a claim is decided.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_CLAIM_H
#define IDEMPOTENCY_CLAIM_H

#include "answer.h"
#include "breaker.h"
#include "decision.h"
#include "policy.h"
#include "store.h"

/* what a caller asks for */
typedef struct ClaimRequest
{
	Identity	identity;
	StatsSlot	slot;			/* of the scope */
	text	   *request;		/* NULL: none */
	bool		has_wait;
	int64		wait;			/* microseconds */
	bool		has_retention;
	int64		retention;		/* microseconds */
	bool		has_first_sent;
	TimestampTz first_sent;
	bool		settles;		/* the claim is its own finish */
	bool		has_lease;
	int64		lease;			/* microseconds */
	text	   *state;			/* of a leased claim, to begin with; or NULL */
	bool		has_owner;
	uint8		owner[DIGEST_LENGTH];

	BreakerGeneration generation;	/* filled in by claim_admit() */

	/* filled in by claim_prepare() */
	TimestampTz token_expiry;	/* of the key, verified; 0: it isn't one */
	bool		has_fingerprint;
	uint8		fingerprint[DIGEST_LENGTH];
} ClaimRequest;

/* a wait under way */
typedef struct ClaimWait
{
	TimestampTz started;
	long		nap;			/* the next one, ms */
} ClaimWait;

extern void claim_request_init(ClaimRequest *claim, text *scope, text *key,
							   text *request, text *principal);
extern void claim_prepare(ClaimRequest *claim, Policy *policy);
extern void claim_prepare_more(ClaimRequest *claim, const Policy *policy);
extern void claim_lease_arguments(ClaimRequest *claim, Interval *lease,
								  text *owner, text *state);
extern bool claim_decide(const ClaimRequest *claim, const Policy *policy,
						 const Probe *probe, TimestampTz now, Answer *answer);
extern bool claim_admit(ClaimRequest *claim, const Policy *policy,
						Store *store, const Probe *probe, TimestampTz now,
						Answer *answer);
extern void claim_restrain_replay(ClaimRequest *claim, const Policy *policy,
								  TimestampTz now, Answer *answer);
extern DecisionNumber claim_record_taken(const ClaimRequest *claim,
										 const Policy *policy,
										 const KeyRow *row,
										 const Probe *probe);
extern void claim_record_answer(const ClaimRequest *claim,
								const Policy *policy, const Probe *probe,
								TimestampTz now, const Answer *answer);
extern void claim_count(const ClaimRequest *claim, const Answer *answer);
extern bool claim_follows(const Policy *policy, const Probe *probe,
						  TimestampTz now);
extern bool claim_repeats(const Policy *policy, const Probe *probe,
						  TimestampTz now);
extern void claim_new_row(const ClaimRequest *claim, const Policy *policy,
						  const Probe *probe, TimestampTz now, KeyRow *row,
						  Answer *answer);
extern void claim_note(const ClaimRequest *claim, const Policy *policy,
					   const KeyRow *row, const Probe *probe,
					   const KeyPlace *place);
extern void claim_take(ClaimRequest *claim, const Policy *policy,
					   Store *store, const Probe *probe, TimestampTz now,
					   Answer *answer);
extern void claim_cap_lease(const Policy *policy, Store *store,
							Identity *identity, Probe *probe, TimestampTz now);
extern void claim_wait_start(ClaimWait *wait);
extern bool claim_wait(const ClaimRequest *claim, TransactionId xid,
					   ClaimWait *wait);
extern bool claim_answer_settled(ClaimRequest *claim, const Policy *policy,
								 Answer *answer);
extern void claim_execute(ClaimRequest *claim, Answer *answer);
extern void claim_answer_busy(Answer *answer);

#endif							/* IDEMPOTENCY_CLAIM_H */
