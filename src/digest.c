/*-------------------------------------------------------------------------
 *
 * digest.c
 *		SHA-256 over several pieces, through PostgreSQL's hash API.
 *
 * The server's API is used rather than a hash of our own, so that a server
 * built with OpenSSL uses OpenSSL (and its FIPS mode, where that is on).
 *
 * What the pieces mean is the caller's business: they are hashed as if
 * concatenated, so a caller that needs ("ab", "c") and ("a", "bc") to differ
 * puts lengths or separators between them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/cryptohash.h"

#include "digest.h"

/*
 * Free the hash context and raise an internal error with its reason.  The
 * context may be NULL, which means that it could not be allocated.
 */
static void
digest_failed(pg_cryptohash_ctx *ctx)
{
	/* a constant string, so it outlives the context */
	const char *reason = pg_cryptohash_error(ctx);

	pg_cryptohash_free(ctx);
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("could not compute SHA-256 digest: %s", reason)));
}

/*
 * Hash the pieces in order.  Raises only if the server's hash fails.
 */
void
digest_sha256(const DigestPart *parts, int nparts, uint8 result[DIGEST_LENGTH])
{
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);

	if (pg_cryptohash_init(ctx) < 0)
		digest_failed(ctx);

	for (int i = 0; i < nparts; i++)
	{
		if (pg_cryptohash_update(ctx, parts[i].data, parts[i].len) < 0)
			digest_failed(ctx);
	}

	if (pg_cryptohash_final(ctx, result, DIGEST_LENGTH) < 0)
		digest_failed(ctx);
	pg_cryptohash_free(ctx);
}

/*
 * Are two digests the same?  Takes as long whatever they hold, so that what is
 * compared can't be guessed byte by byte.
 */
bool
digest_equal(const uint8 *a, const uint8 *b)
{
	uint8		difference = 0;

	for (int i = 0; i < DIGEST_LENGTH; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}
