/*-------------------------------------------------------------------------
 *
 * policy.h
 *		The settings of a scope.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_POLICY_H
#define IDEMPOTENCY_POLICY_H

#include "canonical.h"
#include "fmgr.h"
#include "identity.h"
#include "ring.h"

#define WAIT_FOREVER	PG_INT64_MAX

/*
 * A scope's effective settings: its own, over those of '*', over the built-in
 * ones.  Durations are microseconds.
 */
typedef struct Policy
{
	int64		retention;		/* or RETENTION_FOREVER */
	int64		wait;			/* or WAIT_FOREVER */
	bool		unfinished_succeeds;	/* commit itself is the finish */
	bool		require_request;
	bool		store_request;
	bool		store_failures;
	int32		max_key_bytes;
	int32		max_request_bytes;
	int32		max_response_bytes;
	int32		max_attempts;
	int64		backoff_base;
	int64		backoff_cap;
	Oid			allowed_role;	/* InvalidOid: no restriction */
	bool		role_is_missing;	/* restricted to a role that isn't there */
	CanonicalPaths *exclude;	/* cached: only until the next policy_get() */
	ArrayType  *exclude_array;	/* the same, as it was configured */
	TimestampTz kept_until[RING_COUNT]; /* older promises, per ring */
	uint64		kept_xid;		/* the first transaction after the last of
								 * them was made; 0: there were none */
} Policy;

extern void policy_init(void);
extern void policy_lock(void);
extern void policy_unlock(void);
extern void policy_get(const char *scope, int scope_len, Policy *policy);
extern void policy_check_role(const Policy *policy, const char *scope,
							  int scope_len);
extern int64 policy_interval(Interval *interval);
extern int64 policy_wait_argument(const char *name, Interval *interval);
extern int64 policy_retention_argument(Interval *interval);

#endif							/* IDEMPOTENCY_POLICY_H */
