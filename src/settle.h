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

extern void settle_check_size(const char *what, const struct varlena *value,
							  int32 limit);
extern void settle_probe(Identity *identity, const Policy *policy,
						 Store *store, Probe *probe, TimestampTz *now);
extern void settle_probe_end(Identity *identity, Store *store);

#endif							/* IDEMPOTENCY_SETTLE_H */
