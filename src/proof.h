/*-------------------------------------------------------------------------
 *
 * proof.h
 *		What the ledger can prove to others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_PROOF_H
#define IDEMPOTENCY_PROOF_H

#include "tree.h"

extern bool proof_publishable(Snapshot snapshot, Checkpoint *checkpoint);
extern char *proof_checkpoint_text(const Checkpoint *checkpoint);

#endif							/* IDEMPOTENCY_PROOF_H */
