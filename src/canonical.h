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

/* a parsed list of paths to leave out, or to select; NULL means none */
typedef struct CanonicalPaths CanonicalPaths;

/* what is compared of a request */
typedef struct CanonicalContent
{
	char		kind;			/* J: canonical JSON; T: text as it came */
	const char *data;			/* in UTF-8 */
	int			len;
	bool		nothing;		/* nothing is in it that could tell two apart */
} CanonicalContent;

extern CanonicalPaths *canonical_parse_paths(ArrayType *paths);
extern CanonicalPaths *canonical_parse_named_paths(const char *what,
												   ArrayType *paths);
extern void canonical_content(const char *request, int len, bool select_all,
							  const CanonicalPaths *include,
							  const CanonicalPaths *exclude,
							  CanonicalContent *content);
extern void canonical_fingerprint(const char *request, int len,
								  const CanonicalPaths *exclude,
								  uint8 result[DIGEST_LENGTH]);

#endif							/* IDEMPOTENCY_CANONICAL_H */
