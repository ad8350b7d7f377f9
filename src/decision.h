/*-------------------------------------------------------------------------
 *
 * decision.h
 *		What this transaction has decided, until it goes into the ledger.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_DECISION_H
#define IDEMPOTENCY_DECISION_H

#include "entry.h"
#include "keyrow.h"
#include "policy.h"

/* names a decision of this transaction; 0: none */
typedef int64 DecisionNumber;

extern void decision_init(void);
extern void decision_number_row(const Policy *policy, KeyRow *row);
extern DecisionNumber decision_key(const Policy *policy, Identity *identity,
								   EntryDecision decision, const KeyRow *row,
								   TimestampTz now, const char *detail);
extern void decision_general(EntryDecision decision, const char *scope,
							 int scope_len, const char *detail);
extern void decision_supersedable(DecisionNumber number);
extern void decision_supersede(DecisionNumber later, DecisionNumber earlier);
extern void decision_write(bool prepare);
extern char *decision_json(const text *value);
extern char *decision_reason(const text *reason);

#endif							/* IDEMPOTENCY_DECISION_H */
