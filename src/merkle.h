/*-------------------------------------------------------------------------
 *
 * merkle.h
 *		The Merkle tree of RFC 6962: roots, proofs, verification.
 *
 * Pure: knows nothing of tables.  Whoever has the leaves answers for complete
 * subtrees (MerkleFetch), and from those everything else is computed.
 *
 * A proof says nothing about a size: trees of different sizes can have paths
 * of one shape.  A size and a root belong together, and have to come from one
 * checkpoint.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_MERKLE_H
#define IDEMPOTENCY_MERKLE_H

#include "digest.h"

#define MERKLE_TILE_HEIGHT	8	/* levels of the tree in a tile (C2SP) */
#define MERKLE_TILE_WIDTH	256 /* hashes in a tile: 1 << height */
#define MERKLE_PROOF_MAX	64	/* hashes in the longest proof there can be */

typedef struct MerkleHash
{
	uint8		bytes[DIGEST_LENGTH];
} MerkleHash;

/*
 * Fetches the root of a complete subtree: of the leaves from index << height
 * to (index + 1) << height, exclusively.  Only asked for what is in the tree.
 */
typedef void (*MerkleFetch) (void *arg, int height, int64 index,
							 MerkleHash *hash);

/* hashing */
extern void merkle_empty(DigestContext *context, MerkleHash *root);
extern void merkle_leaf(DigestContext *context, const void *data, size_t len,
						MerkleHash *hash);
extern void merkle_node(DigestContext *context, const MerkleHash *left,
						const MerkleHash *right, MerkleHash *hash);
extern void merkle_subtree(DigestContext *context, const MerkleHash *hashes,
						   int64 n, MerkleHash *root);

/* what a log can say about its tree */
extern void merkle_root(DigestContext *context, int64 size, MerkleFetch fetch,
						void *arg, MerkleHash *root);
extern int	merkle_inclusion_proof(DigestContext *context, int64 leaf_index,
								   int64 size, MerkleFetch fetch, void *arg,
								   MerkleHash proof[MERKLE_PROOF_MAX]);
extern int	merkle_consistency_proof(DigestContext *context, int64 size1,
									 int64 size2, MerkleFetch fetch, void *arg,
									 MerkleHash proof[MERKLE_PROOF_MAX]);

/* what anybody can check */
extern bool merkle_verify_inclusion(DigestContext *context, int64 leaf_index,
									int64 size, const MerkleHash *leaf,
									const MerkleHash *proof, int n,
									const MerkleHash *root);
extern bool merkle_verify_consistency(DigestContext *context, int64 size1,
									  int64 size2, const MerkleHash *root1,
									  const MerkleHash *root2,
									  const MerkleHash *proof, int n);

#endif							/* IDEMPOTENCY_MERKLE_H */
