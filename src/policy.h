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
#include "nodes/pg_list.h"
#include "identity.h"
#include "ring.h"

#define REASON_MAX_BYTES	1024	/* of an operator's reason */
#define WAIT_FOREVER	PG_INT64_MAX

/* what becomes of a claim whose lease has run out */
typedef enum LeaseExpiry
{
	LEASE_RESUME = 'r',			/* the next claim takes it over */
	LEASE_INDETERMINATE = 'i',	/* nobody, until an operator resolves it */
	LEASE_FORGET = 'f'			/* as if it had never been claimed */
} LeaseExpiry;

/* what of a scope's decisions goes into the ledger */
typedef enum Audit
{
	AUDIT_OFF = 'o',
	AUDIT_DECISIONS = 'd',
	AUDIT_EVERYTHING = 'e'		/* replays, too */
} Audit;

/* what becomes of a duplicate whose response is of an older version */
typedef enum StaleVersion
{
	STALE_REPLAY = 'r',			/* it is replayed, with a reason */
	STALE_EXECUTE = 'e'			/* the operation executes again */
} StaleVersion;

/* what becomes of a duplicate whose response was invalidated */
typedef enum Invalidated
{
	INVALIDATED_EXECUTE = 'e',	/* the operation executes again */
	INVALIDATED_ACKNOWLEDGE = 'a'	/* it is told that it was done */
} Invalidated;

/* what becomes of a key when its saga has been undone */
typedef enum AfterCompensation
{
	COMPENSATED_FAILS = 'f',	/* it has failed for good */
	COMPENSATED_EXECUTES = 'e'	/* the next claim executes it anew */
} AfterCompensation;

/* how a scope is protected from too much; a number of 0 switches it off */
typedef struct Restraint
{
	int32		breaker_failures;	/* opens on so many in the window ... */
	int32		breaker_percent;	/* ... if they are so much of all */
	int32		breaker_probes;
	int64		breaker_window;
	int64		breaker_cooldown;
	int32		limit_claims;	/* per limit_interval */
	int32		limit_running;	/* at once */
	int32		limit_replays;	/* per key and limit_interval */
	int64		limit_interval;
} Restraint;

#define BREAKER_PROBES_MAX	16

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
	int64		max_lease;
	LeaseExpiry on_lease_expiry;
	int32		max_state_bytes;
	int32		max_attempts;
	int64		backoff_base;
	int64		backoff_cap;
	Restraint	restraint;
	Audit		audit;
	bool		audit_payloads; /* with request and response */
	int64		response_retention; /* or RETENTION_FOREVER: like the key's */
	bool		store_response;
	int32		response_version;
	StaleVersion on_stale_version;
	Invalidated on_invalidated;
	bool		require_token;
	int64		saga_deadline;	/* or RETENTION_FOREVER: none */
	AfterCompensation after_compensation;
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
extern List *policy_scopes(void);
extern void policy_check_role(const Policy *policy, const char *scope,
							  int scope_len);
extern int64 policy_reach(const Policy *policy);
extern Ring policy_ring(const Policy *policy);
extern void policy_check_retention(const Policy *policy, const char *scope,
								   int scope_len, int64 retention);
extern void policy_check_lease(const Policy *policy, const char *scope,
							   int scope_len, int64 lease);
extern void policy_check_size(const char *what, const struct varlena *value,
							  int32 limit);
extern text *policy_check_reason(const char *function, text *reason,
								 const char *hint);
extern int64 policy_interval(Interval *interval);
extern int64 policy_wait_argument(const char *name, Interval *interval);
extern int64 policy_retention_argument(Interval *interval);
extern int64 policy_lease_argument(const char *name, Interval *interval);

#endif							/* IDEMPOTENCY_POLICY_H */
