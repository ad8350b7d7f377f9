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
#include "key.h"

extern void lease_open(OpenKey *key, Identity *identity, int64 fence);
extern void lease_open_running(OpenKey *key, Identity *identity, int64 fence);
extern void lease_refuse(const OpenKey *key);
extern TimestampTz lease_finish(Identity *identity, int64 fence,
								text *response, int64 asked, text *tag);
extern void lease_fail(Identity *identity, int64 fence,
					   const Failure *failure, FailureAnswer *answer);
extern bool lease_release(Identity *identity, int64 fence);

#endif							/* IDEMPOTENCY_LEASE_H */
