/*-------------------------------------------------------------------------
 *
 * settle.h
 *		Settling a claim: finish, fail, release.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_SETTLE_H
#define IDEMPOTENCY_SETTLE_H

#include "identity.h"
#include "policy.h"
#include "store.h"

extern TimestampTz settle_finish(Identity *identity, text *response,
								 int64 asked, text *tag,
								 TimestampTz *finished_at);

#endif							/* IDEMPOTENCY_SETTLE_H */
