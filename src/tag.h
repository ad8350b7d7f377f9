/*-------------------------------------------------------------------------
 *
 * tag.h
 *		Tags of responses, and their invalidation.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_TAG_H
#define IDEMPOTENCY_TAG_H

#include "identity.h"

#define TAG_MAX_BYTES	128

/* of a tag that was never invalidated; all others are greater */
#define NO_GENERATION	0

extern void tag_init(void);
extern void tag_check(const text *tag);
extern void tag_note_claim(void);
extern int64 tag_generation_seen(const Identity *identity, text *tag);
extern int64 tag_generation_now(const Identity *identity, struct varlena *tag);

#endif							/* IDEMPOTENCY_TAG_H */
