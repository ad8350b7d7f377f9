/*-------------------------------------------------------------------------
 *
 * tree.h
 *		Proofs about the Merkle tree of RFC 6962.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WITNESS_TREE_H
#define WITNESS_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "report.h"
#include "text.h"

#define HASH_LENGTH 32			/* bytes of a SHA-256 digest */
#define PROOF_MAX 64			/* hashes of a proof for sizes up to 2^63 */

typedef struct TreeHash
{
	unsigned char bytes[HASH_LENGTH];
} TreeHash;

typedef struct TreeProof
{
	int			n;
	TreeHash	hashes[PROOF_MAX];
} TreeProof;

extern void sha256(const void *data, size_t len, TreeHash *hash);
extern bool hash_equal(const TreeHash *a, const TreeHash *b);
extern void tree_empty(TreeHash *root);
extern void tree_leaf(const void *data, size_t len, TreeHash *hash);
extern bool tree_verify_inclusion(int64_t leaf_index, int64_t size, const TreeHash *leaf,
								  const TreeProof *proof, const TreeHash *root);
extern bool tree_verify_consistency(int64_t size1, int64_t size2, const TreeHash *root1,
									const TreeHash *root2, const TreeProof *proof);

extern bool hash_parse(Span line, TreeHash *hash);
extern bool proof_parse(Span text, TreeProof *proof, Failure *failure);
extern void proof_format(Text *text, const TreeProof *proof);

#endif							/* WITNESS_TREE_H */
