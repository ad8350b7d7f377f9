/*-------------------------------------------------------------------------
 *
 * explain.h
 *		Finding all entries of a key in the ledger.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_EXPLAIN_H
#define IDEMPOTENCY_EXPLAIN_H

#include "entry.h"
#include "utils/snapshot.h"

/* is shown an entry, which ends with the call, and its leaf index, or -1 */
typedef void (*ExplainVisitor) (const LedgerEntry *entry, int64 leaf_index,
								void *arg);

extern void explain_find(Identity *identity, Snapshot snapshot,
						 ExplainVisitor visit, void *arg);

#endif							/* IDEMPOTENCY_EXPLAIN_H */
