/*-------------------------------------------------------------------------
 *
 * lease.h
 *		Leased claims: what their holder may do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_LEASE_H
#define IDEMPOTENCY_LEASE_H

#include "failure.h"
#include "identity.h"

extern TimestampTz lease_finish(Identity *identity, int64 fence,
								text *response, int64 asked, text *tag);
extern void lease_fail(Identity *identity, int64 fence,
					   const Failure *failure, FailureAnswer *answer);
extern bool lease_release(Identity *identity, int64 fence);

#endif							/* IDEMPOTENCY_LEASE_H */
