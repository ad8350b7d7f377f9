/*-------------------------------------------------------------------------
 *
 * digest.h
 *		SHA-256 over several pieces, through PostgreSQL's hash API.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_DIGEST_H
#define IDEMPOTENCY_DIGEST_H

#define DIGEST_LENGTH 32		/* bytes of a SHA-256 digest */

/* one piece of the input; the pieces are hashed as if concatenated */
typedef struct DigestPart
{
	const void *data;
	size_t		len;
} DigestPart;

extern void digest_sha256(const DigestPart *parts, int nparts,
						  uint8 result[DIGEST_LENGTH]);

/* to hash many things one after the other */
typedef struct pg_cryptohash_ctx DigestContext;

extern DigestContext *digest_create(void);
extern void digest_compute(DigestContext *context, const DigestPart *parts,
						   int nparts, uint8 result[DIGEST_LENGTH]);
extern void digest_free(DigestContext *context);

extern bool digest_equal(const uint8 *a, const uint8 *b);

#endif							/* IDEMPOTENCY_DIGEST_H */
