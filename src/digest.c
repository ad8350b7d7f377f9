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
#include "utils/memutils.h"

#include "digest.h"

/*
 * Raise an internal error with the context's reason, and free the context if
 * that is asked for.  It may be NULL: it could not be allocated.
 */
static void
digest_failed(DigestContext *context, bool free)
{
	/* a constant string, so it outlives the context */
	const char *reason = pg_cryptohash_error(context);

	if (free)
		pg_cryptohash_free(context);
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("could not compute SHA-256 digest: %s", reason)));
}

/*
 * Hash the pieces in order.  Returns whether that went well.
 */
static bool
digest_parts(DigestContext *context, const DigestPart *parts, int nparts,
			 uint8 result[DIGEST_LENGTH])
{
	if (pg_cryptohash_init(context) < 0)
		return false;
	for (int i = 0; i < nparts; i++)
	{
		if (pg_cryptohash_update(context, parts[i].data, parts[i].len) < 0)
			return false;
	}
	return pg_cryptohash_final(context, result, DIGEST_LENGTH) >= 0;
}

/*
 * Hash the pieces in order.  Raises only if the server's hash fails.
 */
void
digest_sha256(const DigestPart *parts, int nparts, uint8 result[DIGEST_LENGTH])
{
	DigestContext *context = pg_cryptohash_create(PG_SHA256);

	if (!digest_parts(context, parts, nparts, result))
		digest_failed(context, true);
	pg_cryptohash_free(context);
}

/*
 * A context for any number of digest_compute(), one after the other; cheaper
 * than digest_sha256() for each.  Lives until digest_free(), which the caller
 * owes before the current resource owner ends; after an error the end of the
 * (sub)transaction frees it.  Needs a transaction.
 */
DigestContext *
digest_create(void)
{
	/* a server without OpenSSL allocates it here, one with it elsewhere */
	MemoryContext caller = MemoryContextSwitchTo(CurTransactionContext);
	DigestContext *context = pg_cryptohash_create(PG_SHA256);

	MemoryContextSwitchTo(caller);
	if (context == NULL)
		digest_failed(NULL, false);
	return context;
}

/*
 * Hash the pieces in order; what the context has hashed before is forgotten.
 * Raises only if the server's hash fails; the context is then still the
 * caller's.
 */
void
digest_compute(DigestContext *context, const DigestPart *parts, int nparts,
			   uint8 result[DIGEST_LENGTH])
{
	if (!digest_parts(context, parts, nparts, result))
		digest_failed(context, false);
}

/*
 * The context's end.
 */
void
digest_free(DigestContext *context)
{
	pg_cryptohash_free(context);
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
