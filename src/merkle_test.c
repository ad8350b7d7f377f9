/*-------------------------------------------------------------------------
 *
 * merkle_test.c
 *		The Merkle tree without tables, callable from SQL; for test builds only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef IDEMPOTENCY_FAULTS

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "compat.h"
#include "merkle.h"

COMPAT_FUNCTION_INFO(idempotency_merkle_test);

/* a tree whose leaves are in an array; a single one is every leaf of it */
typedef struct TestTree
{
	DigestContext *context;
	int64		size;
	MerkleHash *leaves;
	int			n;
} TestTree;

/*
 * The hashes of an array, each of the right length.
 */
static void
read_hashes(TestTree *tree, ArrayType *array)
{
	Datum	   *values;

	deconstruct_array(array, BYTEAOID, -1, false, TYPALIGN_INT, &values, NULL,
					  &tree->n);
	tree->leaves = palloc((tree->n + 1) * sizeof(MerkleHash));
	for (int i = 0; i < tree->n; i++)
		memcpy(tree->leaves[i].bytes, VARDATA_ANY(DatumGetByteaPP(values[i])),
			   DIGEST_LENGTH);
}

/*
 * MerkleFetch of such a tree.  Raises an error if asked for anything but a
 * complete subtree of it.
 */
static void
test_fetch(void *arg, int height, int64 index, MerkleHash *hash)
{
	TestTree   *tree = arg;

	if (height < 0 || height > 62 || index < 0 || index >= tree->size >> height)
		elog(ERROR, "asked for subtree " INT64_FORMAT " of height %d", index,
			 height);
	if (tree->n > 1)
	{
		merkle_subtree(tree->context, tree->leaves + (index << height),
					   INT64CONST(1) << height, hash);
		return;
	}
	*hash = tree->leaves[0];
	while (height-- > 0)
		merkle_node(tree->context, hash, hash, hash);
}

/*
 * merkle_test(what text, a int8, b int8, data bytea, hashes bytea[])
 *		returns bytea[]
 *
 * Calls merkle_<what>: of these data for a leaf, otherwise of these hashes,
 * which are those of the leaves where there is a tree.  Trusts its arguments.
 */
Datum
idempotency_merkle_test(PG_FUNCTION_ARGS)
{
	char	   *what = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64		a = PG_GETARG_INT64(1);
	int64		b = PG_GETARG_INT64(2);
	DigestContext *context = digest_create();
	TestTree	tree = {context, Max(a, b), NULL, 0};
	MerkleHash	result[MERKLE_PROOF_MAX];
	Datum		values[MERKLE_PROOF_MAX];
	int			n = 1;

	read_hashes(&tree, PG_GETARG_ARRAYTYPE_P(4));
	if (strcmp(what, "empty") == 0)
		merkle_empty(context, result);
	else if (strcmp(what, "leaf") == 0)
	{
		bytea	   *data = PG_GETARG_BYTEA_PP(3);

		merkle_leaf(context, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), result);
	}
	else if (strcmp(what, "node") == 0)
		merkle_node(context, &tree.leaves[0], &tree.leaves[1], result);
	else if (strcmp(what, "subtree") == 0)
		merkle_subtree(context, tree.leaves, tree.n, result);
	else if (strcmp(what, "root") == 0)
		merkle_root(context, a, test_fetch, &tree, result);
	else if (strcmp(what, "inclusion_proof") == 0)
		n = merkle_inclusion_proof(context, a, b, test_fetch, &tree, result);
	else if (strcmp(what, "consistency_proof") == 0)
		n = merkle_consistency_proof(context, a, b, test_fetch, &tree, result);
	else
		elog(ERROR, "there is no merkle_%s()", what);
	digest_free(context);

	for (int i = 0; i < n; i++)
	{
		bytea	   *value = palloc(VARHDRSZ + DIGEST_LENGTH);

		SET_VARSIZE(value, VARHDRSZ + DIGEST_LENGTH);
		memcpy(VARDATA(value), result[i].bytes, DIGEST_LENGTH);
		values[i] = PointerGetDatum(value);
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(values, n, BYTEAOID, -1, false,
										  TYPALIGN_INT));
}

#endif							/* IDEMPOTENCY_FAULTS */
