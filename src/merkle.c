/*-------------------------------------------------------------------------
 *
 * merkle.c
 *		The Merkle tree of RFC 6962: roots, proofs, verification.
 *
 * A leaf is SHA-256(00 || data), a node SHA-256(01 || left || right), so that
 * no leaf can pass for a node.  A tree of n > 1 leaves has the largest power
 * of two below n of them on its left, and the rest on its right; it follows
 * that it falls into complete subtrees, one for each bit of n, largest first.
 *
 * Proofs are built from the roots of complete subtrees (MerkleFetch) and
 * verified by the algorithms of RFC 9162, 2.1.3.2 and 2.1.4.2.  All of it is
 * iterative and takes O(log n) memory and fetches.
 *
 * What builds proofs trusts its arguments.  What verifies them trusts nobody:
 * whatever it is given, the answer is true or false.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "port/pg_bitutils.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "compat.h"
#include "merkle.h"

/* levels of the tallest tree there can be, the one of PG_INT64_MAX leaves */
#define MERKLE_MAX_HEIGHT 63

/* a proof that is being built, deepest hash last */
typedef struct ProofBuilder
{
	DigestContext *context;
	MerkleFetch fetch;
	void	   *arg;
	MerkleHash *proof;
	int			n;
} ProofBuilder;

COMPAT_FUNCTION_INFO(idempotency_verify_inclusion);
COMPAT_FUNCTION_INFO(idempotency_verify_consistency);

/*
 * The root of a tree without leaves: SHA-256 of nothing.
 */
void
merkle_empty(DigestContext *context, MerkleHash *root)
{
	digest_compute(context, NULL, 0, root->bytes);
}

/*
 * The hash of a leaf.
 */
void
merkle_leaf(DigestContext *context, const void *data, size_t len,
			MerkleHash *hash)
{
	static const uint8 prefix = 0x00;
	DigestPart	parts[] = {{&prefix, 1}, {data, len}};

	digest_compute(context, parts, lengthof(parts), hash->bytes);
}

/*
 * The hash of a node.  The result may be one of the children.
 */
void
merkle_node(DigestContext *context, const MerkleHash *left,
			const MerkleHash *right, MerkleHash *hash)
{
	static const uint8 prefix = 0x01;
	DigestPart	parts[] = {{&prefix, 1},
	{left->bytes, DIGEST_LENGTH},
	{right->bytes, DIGEST_LENGTH}};

	digest_compute(context, parts, lengthof(parts), hash->bytes);
}

/*
 * The root over n >= 1 nodes of equal height: the leaves of a tree, or the
 * roots of complete subtrees of one size.
 */
void
merkle_subtree(DigestContext *context, const MerkleHash *hashes, int64 n,
			   MerkleHash *root)
{
	/* roots of complete subtrees, largest first: one for each bit of i */
	MerkleHash	stack[MERKLE_MAX_HEIGHT];
	int			depth = 0;

	if (n < 1)
		elog(ERROR, "no root over " INT64_FORMAT " nodes", n);
	for (int64 i = 0; i < n; i++)
	{
		stack[depth++] = hashes[i];
		/* as many are completed as i ends with ones */
		for (int64 bits = i; bits & 1; bits >>= 1)
		{
			depth--;
			merkle_node(context, &stack[depth - 1], &stack[depth],
						&stack[depth - 1]);
		}
	}
	while (depth > 1)
	{
		depth--;
		merkle_node(context, &stack[depth - 1], &stack[depth],
					&stack[depth - 1]);
	}
	*root = stack[0];
}

/*
 * The root over the leaves from begin to end, exclusively.  Where the tree
 * splits, begin is a multiple of a power of two that is no smaller than
 * end - begin, so the complete subtrees in between are the tree's own.
 */
static void
range_root(DigestContext *context, int64 begin, int64 end, MerkleFetch fetch,
		   void *arg, MerkleHash *root)
{
	int64		left = end - begin;
	bool		first = true;

	Assert(begin >= 0 && begin < end);
	while (left > 0)
	{
		/* the smallest, which is the rightmost */
		int			height = pg_rightmost_one_pos64((uint64) left);
		MerkleHash	hash;

		left -= INT64CONST(1) << height;
		fetch(arg, height, (begin + left) >> height, &hash);
		if (first)
			*root = hash;
		else
			merkle_node(context, &hash, root, root);
		first = false;
	}
}

/*
 * The root of the tree over the first size leaves; size is not negative.
 */
void
merkle_root(DigestContext *context, int64 size, MerkleFetch fetch, void *arg,
			MerkleHash *root)
{
	if (size < 0)
		elog(ERROR, "no root of a tree of " INT64_FORMAT " leaves", size);
	if (size == 0)
		merkle_empty(context, root);
	else
		range_root(context, 0, size, fetch, arg, root);
}

/*
 * How many of n > 1 leaves are left of where their tree splits: the largest
 * power of two below n.
 */
static int64
split_point(int64 n)
{
	return INT64CONST(1) << pg_leftmost_one_pos64((uint64) (n - 1));
}

/*
 * Add the root over these leaves to a proof.
 */
static void
proof_add(ProofBuilder *builder, int64 begin, int64 end)
{
	Assert(builder->n < MERKLE_PROOF_MAX);
	range_root(builder->context, begin, end, builder->fetch, builder->arg,
			   &builder->proof[builder->n++]);
}

/*
 * The proof, now deepest hash first.  Returns how many hashes it has.
 */
static int
proof_finish(ProofBuilder *builder)
{
	for (int i = 0, j = builder->n - 1; i < j; i++, j--)
	{
		MerkleHash	hash = builder->proof[i];

		builder->proof[i] = builder->proof[j];
		builder->proof[j] = hash;
	}
	return builder->n;
}

/*
 * Prove that a leaf is in the tree over the first size leaves (RFC 9162,
 * 2.1.3.1): 0 <= leaf_index < size.  Returns how many hashes the proof has.
 */
int
merkle_inclusion_proof(DigestContext *context, int64 leaf_index, int64 size,
					   MerkleFetch fetch, void *arg,
					   MerkleHash proof[MERKLE_PROOF_MAX])
{
	ProofBuilder builder = {context, fetch, arg, proof, 0};
	int64		begin = 0;
	int64		end = size;

	if (leaf_index < 0 || leaf_index >= size)
		elog(ERROR, "no leaf " INT64_FORMAT " in a tree of " INT64_FORMAT,
			 leaf_index, size);
	/* from the root down to the leaf, and each time the side not taken */
	while (end - begin > 1)
	{
		int64		middle = begin + split_point(end - begin);

		if (leaf_index < middle)
		{
			proof_add(&builder, middle, end);
			end = middle;
		}
		else
		{
			proof_add(&builder, begin, middle);
			begin = middle;
		}
	}
	return proof_finish(&builder);
}

/*
 * Prove that the tree over the first size2 leaves extends the one over the
 * first size1 (RFC 9162, 2.1.4.1): 0 < size1 <= size2.  Returns how many
 * hashes the proof has, which is none if the sizes are equal.
 */
int
merkle_consistency_proof(DigestContext *context, int64 size1, int64 size2,
						 MerkleFetch fetch, void *arg,
						 MerkleHash proof[MERKLE_PROOF_MAX])
{
	ProofBuilder builder = {context, fetch, arg, proof, 0};
	int64		begin = 0;
	int64		end = size2;

	if (size1 < 1 || size1 > size2)
		elog(ERROR, "no proof from size " INT64_FORMAT " to " INT64_FORMAT,
			 size1, size2);
	/* down to the subtree that ends where the smaller tree does */
	while (end != size1)
	{
		int64		middle = begin + split_point(end - begin);

		if (size1 <= middle)
		{
			proof_add(&builder, middle, end);
			end = middle;
		}
		else
		{
			proof_add(&builder, begin, middle);
			begin = middle;
		}
	}
	/* which is the smaller tree itself, whose root is known, or a part of it */
	if (begin > 0)
		proof_add(&builder, begin, end);
	return proof_finish(&builder);
}

/*
 * Is this the hash of a leaf of the tree that has this size and root?
 */
bool
merkle_verify_inclusion(DigestContext *context, int64 leaf_index, int64 size,
						const MerkleHash *leaf, const MerkleHash *proof, int n,
						const MerkleHash *root)
{
	MerkleHash	hash = *leaf;
	int64		node = leaf_index;	/* fn and sn of the RFC: places at a level */
	int64		last = size - 1;

	if (leaf_index < 0 || leaf_index >= size)
		return false;
	for (int i = 0; i < n; i++)
	{
		if (last == 0)
			return false;		/* that was the root already */
		if ((node & 1) || node == last)
		{
			merkle_node(context, &proof[i], &hash, &hash);
			/* a rightmost node without a sibling is its own parent */
			while (!(node & 1) && node != 0)
			{
				node >>= 1;
				last >>= 1;
			}
		}
		else
			merkle_node(context, &hash, &proof[i], &hash);
		node >>= 1;
		last >>= 1;
	}
	return last == 0 && digest_equal(hash.bytes, root->bytes);
}

/*
 * verify_consistency() where the smaller tree isn't empty and isn't the larger
 * one.  Both roots are computed, from what the trees have in common.
 */
static bool
verify_extension(DigestContext *context, int64 size1, int64 size2,
				 const MerkleHash *root1, const MerkleHash *root2,
				 const MerkleHash *proof, int n)
{
	MerkleHash	hash1;
	MerkleHash	hash2;
	int64		node = size1 - 1;	/* fn and sn of the RFC */
	int64		last = size2 - 1;
	int			i = 0;

	if (n < 1)
		return false;
	/* a complete smaller tree is in common, and isn't repeated in the proof */
	hash1 = (size1 & (size1 - 1)) == 0 ? *root1 : proof[i++];
	hash2 = hash1;
	while (node & 1)
	{
		node >>= 1;
		last >>= 1;
	}
	for (; i < n; i++)
	{
		if (last == 0)
			return false;
		if ((node & 1) || node == last)
		{
			merkle_node(context, &proof[i], &hash1, &hash1);
			merkle_node(context, &proof[i], &hash2, &hash2);
			while (!(node & 1) && node != 0)
			{
				node >>= 1;
				last >>= 1;
			}
		}
		else
			merkle_node(context, &hash2, &proof[i], &hash2);
		node >>= 1;
		last >>= 1;
	}
	return last == 0 && digest_equal(hash1.bytes, root1->bytes) &&
		digest_equal(hash2.bytes, root2->bytes);
}

/*
 * Does the tree with the second size and root extend the one with the first?
 * Of an empty tree that can't be asked: everything extends it.
 */
bool
merkle_verify_consistency(DigestContext *context, int64 size1, int64 size2,
						  const MerkleHash *root1, const MerkleHash *root2,
						  const MerkleHash *proof, int n)
{
	if (size1 < 1 || size1 > size2)
		return false;
	if (size1 == size2)
		return n == 0 && digest_equal(root1->bytes, root2->bytes);
	return verify_extension(context, size1, size2, root1, root2, proof, n);
}

/*
 * An argument that has to be a hash.  Returns whether it is.
 */
static bool
get_hash(FunctionCallInfo fcinfo, int argno, MerkleHash *hash)
{
	bytea	   *value;

	if (PG_ARGISNULL(argno))
		return false;
	value = PG_GETARG_BYTEA_PP(argno);
	if (VARSIZE_ANY_EXHDR(value) != DIGEST_LENGTH)
		return false;
	memcpy(hash->bytes, VARDATA_ANY(value), DIGEST_LENGTH);
	return true;
}

/*
 * An argument that has to be an array of hashes, as many as a proof can have.
 * Returns how many they are, or -1 if it isn't one.
 */
static int
get_proof(FunctionCallInfo fcinfo, int argno, MerkleHash proof[MERKLE_PROOF_MAX])
{
	ArrayType  *array;
	Datum	   *values;
	int			n;

	if (PG_ARGISNULL(argno))
		return -1;
	array = PG_GETARG_ARRAYTYPE_P(argno);
	if (ARR_NDIM(array) > 1 ||
		ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) > MERKLE_PROOF_MAX ||
		array_contains_nulls(array))
		return -1;

	deconstruct_array(array, BYTEAOID, -1, false, TYPALIGN_INT, &values, NULL,
					  &n);
	for (int i = 0; i < n; i++)
	{
		bytea	   *value = DatumGetByteaPP(values[i]);

		if (VARSIZE_ANY_EXHDR(value) != DIGEST_LENGTH)
			return -1;
		memcpy(proof[i].bytes, VARDATA_ANY(value), DIGEST_LENGTH);
	}
	return n;
}

/*
 * verify_inclusion(leaf_index int8, tree_size int8, leaf_hash bytea,
 *					proof bytea[], root bytea) returns bool
 *
 * False for anything that isn't a proof, be it NULL; raises nothing.
 */
Datum
idempotency_verify_inclusion(PG_FUNCTION_ARGS)
{
	MerkleHash	leaf;
	MerkleHash	root;
	MerkleHash	proof[MERKLE_PROOF_MAX];
	DigestContext *context;
	int			n;
	bool		result;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || !get_hash(fcinfo, 2, &leaf) ||
		!get_hash(fcinfo, 4, &root))
		PG_RETURN_BOOL(false);
	n = get_proof(fcinfo, 3, proof);
	if (n < 0)
		PG_RETURN_BOOL(false);

	context = digest_create();
	result = merkle_verify_inclusion(context, PG_GETARG_INT64(0),
									 PG_GETARG_INT64(1), &leaf, proof, n, &root);
	digest_free(context);
	PG_RETURN_BOOL(result);
}

/*
 * verify_consistency(size1 int8, size2 int8, root1 bytea, root2 bytea,
 *					  proof bytea[]) returns bool
 *
 * False for anything that isn't a proof, be it NULL; raises nothing.
 */
Datum
idempotency_verify_consistency(PG_FUNCTION_ARGS)
{
	MerkleHash	root1;
	MerkleHash	root2;
	MerkleHash	proof[MERKLE_PROOF_MAX];
	DigestContext *context;
	int			n;
	bool		result;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || !get_hash(fcinfo, 2, &root1) ||
		!get_hash(fcinfo, 3, &root2))
		PG_RETURN_BOOL(false);
	n = get_proof(fcinfo, 4, proof);
	if (n < 0)
		PG_RETURN_BOOL(false);

	context = digest_create();
	result = merkle_verify_consistency(context, PG_GETARG_INT64(0),
									   PG_GETARG_INT64(1), &root1, &root2,
									   proof, n);
	digest_free(context);
	PG_RETURN_BOOL(result);
}
