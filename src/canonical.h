/*-------------------------------------------------------------------------
 *
 * canonical.h
 *		When are two requests the same: RFC 8785 form and fingerprint.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_CANONICAL_H
#define IDEMPOTENCY_CANONICAL_H

#include "digest.h"
#include "utils/array.h"

/* a parsed list of paths to leave out of a fingerprint; NULL means none */
typedef struct CanonicalPaths CanonicalPaths;

extern CanonicalPaths *canonical_parse_paths(ArrayType *paths);
extern void canonical_fingerprint(const char *request, int len,
								  const CanonicalPaths *exclude,
								  uint8 result[DIGEST_LENGTH]);

#endif							/* IDEMPOTENCY_CANONICAL_H */
