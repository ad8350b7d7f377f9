/*-------------------------------------------------------------------------
 *
 * tree.c
 *		Proofs about the Merkle tree of RFC 6962.
 *
 * Written from RFC 9162, 2.1.3.2 and 2.1.4.2, on OpenSSL's SHA-256.  It has no
 * line in common with the server's, on purpose: one mistake must not deceive
 * both.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "tree.h"

/* SHA-256 of so many pieces, one after the other. */
static void
hash_pieces(const Span *pieces, int n, TreeHash *hash)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	unsigned int len = 0;
	bool		ok = context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1;

	for (int i = 0; ok && i < n; i++)
		ok = EVP_DigestUpdate(context, pieces[i].data, pieces[i].len) == 1;
	ok = ok && EVP_DigestFinal_ex(context, hash->bytes, &len) == 1 && len == HASH_LENGTH;
	EVP_MD_CTX_free(context);
	if (!ok)
	{
		warning("OpenSSL could not compute a SHA-256 digest");
		exit(EXIT_TROUBLE);
	}
}

/* SHA-256 of some bytes. */
void
sha256(const void *data, size_t len, TreeHash *hash)
{
	Span		piece = {data, len};

	hash_pieces(&piece, 1, hash);
}

/* Are they the same? */
bool
hash_equal(const TreeHash *a, const TreeHash *b)
{
	return memcmp(a->bytes, b->bytes, HASH_LENGTH) == 0;
}

/* The root of a tree without leaves. */
void
tree_empty(TreeHash *root)
{
	sha256("", 0, root);
}

/* The hash of a leaf. */
void
tree_leaf(const void *data, size_t len, TreeHash *hash)
{
	Span		pieces[] = {{"\0", 1}, {data, len}};

	hash_pieces(pieces, 2, hash);
}

/* The hash of an inner node; the result may be one of the children. */
static void
tree_node(const TreeHash *left, const TreeHash *right, TreeHash *hash)
{
	Span		pieces[] = {
		{"\1", 1},
		{(const char *) left->bytes, HASH_LENGTH},
		{(const char *) right->bytes, HASH_LENGTH}
	};

	hash_pieces(pieces, 3, hash);
}

/* Is this leaf the one at this index in the tree of this size and root? */
bool
tree_verify_inclusion(int64_t leaf_index, int64_t size, const TreeHash *leaf,
					  const TreeProof *proof, const TreeHash *root)
{
	int64_t		fn = leaf_index;
	int64_t		sn = size - 1;
	TreeHash	r = *leaf;

	if (leaf_index < 0 || leaf_index >= size)
		return false;
	for (int i = 0; i < proof->n; i++)
	{
		const TreeHash *p = &proof->hashes[i];

		if (sn == 0)
			return false;
		if ((fn & 1) == 1 || fn == sn)
		{
			tree_node(p, &r, &r);
			while ((fn & 1) == 0 && fn != 0)
			{
				fn >>= 1;
				sn >>= 1;
			}
		}
		else
			tree_node(&r, p, &r);
		fn >>= 1;
		sn >>= 1;
	}
	return sn == 0 && hash_equal(&r, root);
}

/*
 * Does the tree of the second size and root begin with that of the first?  A
 * tree without leaves is the begin of every tree, and takes no proof.
 */
bool
tree_verify_consistency(int64_t size1, int64_t size2, const TreeHash *root1,
						const TreeHash *root2, const TreeProof *proof)
{
	int64_t		fn = size1 - 1;
	int64_t		sn = size2 - 1;
	int			next = 0;
	TreeHash	fr;
	TreeHash	sr;

	if (size1 < 0 || size1 > size2)
		return false;
	tree_empty(&fr);
	if (size1 == 0 && !hash_equal(root1, &fr))
		return false;
	if (size1 == size2)
		return proof->n == 0 && hash_equal(root1, root2);
	if (size1 == 0)
		return proof->n == 0;
	if (proof->n == 0)
		return false;

	/* a first tree that is a complete one is a node of the second */
	fr = (size1 & (size1 - 1)) == 0 ? *root1 : proof->hashes[next++];
	sr = fr;
	while ((fn & 1) == 1)
	{
		fn >>= 1;
		sn >>= 1;
	}
	for (; next < proof->n; next++)
	{
		const TreeHash *c = &proof->hashes[next];

		if (sn == 0)
			return false;
		if ((fn & 1) == 1 || fn == sn)
		{
			tree_node(c, &fr, &fr);
			tree_node(c, &sr, &sr);
			while ((fn & 1) == 0 && fn != 0)
			{
				fn >>= 1;
				sn >>= 1;
			}
		}
		else
			tree_node(&sr, c, &sr);
		fn >>= 1;
		sn >>= 1;
	}
	return sn == 0 && hash_equal(&fr, root1) && hash_equal(&sr, root2);
}

/* Reads a hash: base64, hexadecimal, or as psql shows a bytea. */
bool
hash_parse(Span line, TreeHash *hash)
{
	size_t		len;

	if (line.len == 2 * HASH_LENGTH + 2 && memcmp(line.data, "\\x", 2) == 0)
	{
		line.data += 2;
		line.len -= 2;
	}
	if (line.len == 2 * HASH_LENGTH)
		return hex_decode(line, hash->bytes, HASH_LENGTH);
	return base64_decode(line, hash->bytes, HASH_LENGTH, &len) && len == HASH_LENGTH;
}

/* Reads a proof: one hash a line, nothing else. */
bool
proof_parse(Span text, TreeProof *proof, Failure *failure)
{
	Span		line;

	proof->n = 0;
	while (next_line(&text, &line))
	{
		if (proof->n == PROOF_MAX)
			return fail(failure, EXIT_MALFORMED, "the proof has more than %d hashes", PROOF_MAX);
		if (!hash_parse(line, &proof->hashes[proof->n]))
			return fail(failure, EXIT_MALFORMED,
						"line %d of the proof is no hash in base64 or hexadecimal", proof->n + 1);
		proof->n++;
	}
	if (text.len > 0)
		return fail(failure, EXIT_MALFORMED, "the proof does not end with a newline");
	return true;
}

/* Appends a proof, one hash in base64 a line. */
void
proof_format(Text *text, const TreeProof *proof)
{
	for (int i = 0; i < proof->n; i++)
	{
		base64_encode(text, proof->hashes[i].bytes, HASH_LENGTH);
		text_add(text, "\n", 1);
	}
}
