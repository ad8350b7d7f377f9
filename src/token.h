/*-------------------------------------------------------------------------
 *
 * token.h
 *		Keys that the server itself has issued.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_TOKEN_H
#define IDEMPOTENCY_TOKEN_H

#include "identity.h"
#include "policy.h"

extern void token_init(void);
extern TimestampTz token_require(const Identity *identity);
extern void token_check_retention(const Identity *identity,
								  TimestampTz expiry, int64 retention,
								  TimestampTz now);
extern void token_check_asked_retention(const Policy *policy,
										const Identity *identity,
										int64 asked, TimestampTz now);

#endif							/* IDEMPOTENCY_TOKEN_H */
