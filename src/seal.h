/*-------------------------------------------------------------------------
 *
 * seal.h
 *		Sealing the ledger's entries into the Merkle tree.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_SEAL_H
#define IDEMPOTENCY_SEAL_H

extern void seal_init(void);

#endif							/* IDEMPOTENCY_SEAL_H */
