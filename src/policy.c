/*-------------------------------------------------------------------------
 *
 * policy.c
 *		The settings of a scope, cached per backend.
 *
 * All rows of scope_policy are read at once (there are as many as somebody
 * configured) and kept until the table changes; a scope without a row has the
 * settings of '*'.  configure.c writes them.
 *
 * Locking: every claim and settle holds AccessShareLock on scope_policy from
 * before it reads its policy until it has written its row; configure() holds
 * AccessExclusiveLock until it has committed and its invalidation is sent.  So
 * no claim is decided by a policy that another claim no longer follows:
 * otherwise, after a change of rings, the two could look in different tables
 * for the same key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "common/int.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/xid8.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "guc.h"
#include "policy.h"
#include "policy_columns.h"

typedef struct PolicyEntry
{
	char		scope[SCOPE_MAX_BYTES + 1]; /* hash key */
	Policy		policy;
} PolicyEntry;

static const Policy policy_builtin = {
	.retention = USECS_PER_DAY,
	.wait = WAIT_FOREVER,
	.store_failures = true,
	.max_key_bytes = KEY_DEFAULT_BYTES,
	.max_request_bytes = 1024 * 1024,
	.max_response_bytes = 1024 * 1024,
	.max_lease = USECS_PER_HOUR,
	.on_lease_expiry = LEASE_RESUME,
	.max_state_bytes = 64 * 1024,
	.max_attempts = 10,
	.backoff_base = USECS_PER_SEC,
	.backoff_cap = 5 * USECS_PER_MINUTE,
	.restraint = {
		.breaker_probes = 1,
		.breaker_window = USECS_PER_MINUTE,
		.breaker_cooldown = 30 * USECS_PER_SEC,
		.limit_interval = USECS_PER_SEC
	},
	.audit = AUDIT_DECISIONS,
	.response_retention = RETENTION_FOREVER,
	.store_response = true,
	.on_stale_version = STALE_REPLAY,
	.on_invalidated = INVALIDATED_EXECUTE,
	.saga_deadline = RETENTION_FOREVER,
	.after_compensation = COMPENSATED_FAILS,
	.kept_until = {DT_NOBEGIN, DT_NOBEGIN, DT_NOBEGIN, DT_NOBEGIN, DT_NOBEGIN}
};

static MemoryContext policy_context = NULL;
static HTAB *policies = NULL;	/* NULL: only the default exists */
static Policy policy_default;
static uint64 policy_generation = 0;	/* of what is cached */
static bool policy_roles_valid = false;

/* A role was created, renamed or dropped. */
static void
policy_role_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	policy_roles_valid = false;
}

/* Register the invalidation callback; called once from _PG_init. */
void
policy_init(void)
{
	CacheRegisterSyscacheCallback(AUTHNAME, policy_role_changed, (Datum) 0);
}

/*
 * Keep configure() out, and learn of what it has committed.  Held while a
 * claim is decided, never while waiting for a transaction.
 */
void
policy_lock(void)
{
	LockRelationOid(catalog_policy_table(), AccessShareLock);
}

/* Let configure() in again. */
void
policy_unlock(void)
{
	UnlockRelationOid(catalog_policy_table(), AccessShareLock);
}

/* Overwrite one setting if the row has it. */
#define POLICY_SET(column, target, convert) \
	do { \
		if (!isnull[(column) - 1]) \
			(target) = convert(values[(column) - 1]); \
	} while (0)

/* Apply a row's breaker and limits. */
static void
policy_apply_restraint(Restraint *restraint, Datum *values, bool *isnull)
{
	POLICY_SET(POLICY_BREAKER_FAILURES, restraint->breaker_failures,
			   DatumGetInt32);
	POLICY_SET(POLICY_BREAKER_PERCENT, restraint->breaker_percent,
			   DatumGetInt32);
	POLICY_SET(POLICY_BREAKER_PROBES, restraint->breaker_probes,
			   DatumGetInt32);
	POLICY_SET(POLICY_BREAKER_WINDOW, restraint->breaker_window,
			   DatumGetInt64);
	POLICY_SET(POLICY_BREAKER_COOLDOWN, restraint->breaker_cooldown,
			   DatumGetInt64);
	POLICY_SET(POLICY_LIMIT_CLAIMS, restraint->limit_claims, DatumGetInt32);
	POLICY_SET(POLICY_LIMIT_RUNNING, restraint->limit_running, DatumGetInt32);
	POLICY_SET(POLICY_LIMIT_REPLAYS, restraint->limit_replays, DatumGetInt32);
	POLICY_SET(POLICY_LIMIT_INTERVAL, restraint->limit_interval,
			   DatumGetInt64);
}

/* Apply what a row says of responses and tokens. */
static void
policy_apply_response(Policy *policy, Datum *values, bool *isnull)
{
	POLICY_SET(POLICY_RESPONSE_RETENTION, policy->response_retention,
			   DatumGetInt64);
	POLICY_SET(POLICY_STORE_RESPONSE, policy->store_response, DatumGetBool);
	POLICY_SET(POLICY_RESPONSE_VERSION, policy->response_version,
			   DatumGetInt32);
	POLICY_SET(POLICY_ON_STALE_VERSION, policy->on_stale_version,
			   (StaleVersion) DatumGetChar);
	POLICY_SET(POLICY_ON_INVALIDATED, policy->on_invalidated,
			   (Invalidated) DatumGetChar);
	POLICY_SET(POLICY_REQUIRE_TOKEN, policy->require_token, DatumGetBool);
}

/* Apply a row's role restriction: '' lifts what '*' says. */
static void
policy_apply_role(Policy *policy, Datum value)
{
	char	   *role = TextDatumGetCString(value);

	policy->allowed_role = InvalidOid;
	policy->role_is_missing = false;
	if (role[0] != '\0')
	{
		policy->allowed_role = get_role_oid(role, true);
		policy->role_is_missing = !OidIsValid(policy->allowed_role);
	}
	pfree(role);
}

/* Apply a row's list of excluded fields. */
static void
policy_apply_exclude(Policy *policy, Datum value)
{
	policy->exclude_array = DatumGetArrayTypePCopy(value);
	policy->exclude = canonical_parse_paths(policy->exclude_array);
}

/*
 * Lay one row of scope_policy over a policy.  What the policy was kept for
 * before stays: old promises bind whoever follows.
 */
static void
policy_apply(Policy *policy, Datum *values, bool *isnull)
{
	POLICY_SET(POLICY_RETENTION, policy->retention, DatumGetInt64);
	POLICY_SET(POLICY_WAIT, policy->wait, DatumGetInt64);
	POLICY_SET(POLICY_UNFINISHED_SUCCEEDS, policy->unfinished_succeeds,
			   DatumGetBool);
	POLICY_SET(POLICY_REQUIRE_REQUEST, policy->require_request, DatumGetBool);
	POLICY_SET(POLICY_STORE_REQUEST, policy->store_request, DatumGetBool);
	POLICY_SET(POLICY_STORE_FAILURES, policy->store_failures, DatumGetBool);
	POLICY_SET(POLICY_MAX_KEY_BYTES, policy->max_key_bytes, DatumGetInt32);
	POLICY_SET(POLICY_MAX_REQUEST_BYTES, policy->max_request_bytes,
			   DatumGetInt32);
	POLICY_SET(POLICY_MAX_RESPONSE_BYTES, policy->max_response_bytes,
			   DatumGetInt32);
	POLICY_SET(POLICY_MAX_ATTEMPTS, policy->max_attempts, DatumGetInt32);
	POLICY_SET(POLICY_BACKOFF_BASE, policy->backoff_base, DatumGetInt64);
	POLICY_SET(POLICY_BACKOFF_CAP, policy->backoff_cap, DatumGetInt64);
	POLICY_SET(POLICY_MAX_LEASE, policy->max_lease, DatumGetInt64);
	POLICY_SET(POLICY_ON_LEASE_EXPIRY, policy->on_lease_expiry,
			   (LeaseExpiry) DatumGetChar);
	POLICY_SET(POLICY_MAX_STATE_BYTES, policy->max_state_bytes,
			   DatumGetInt32);
	policy_apply_restraint(&policy->restraint, values, isnull);
	POLICY_SET(POLICY_AUDIT, policy->audit, (Audit) DatumGetChar);
	POLICY_SET(POLICY_AUDIT_PAYLOADS, policy->audit_payloads, DatumGetBool);
	policy_apply_response(policy, values, isnull);
	POLICY_SET(POLICY_SAGA_DEADLINE, policy->saga_deadline, DatumGetInt64);
	POLICY_SET(POLICY_AFTER_COMPENSATION, policy->after_compensation,
			   (AfterCompensation) DatumGetChar);
	if (!isnull[POLICY_ALLOWED_ROLE - 1])
		policy_apply_role(policy, values[POLICY_ALLOWED_ROLE - 1]);
	if (!isnull[POLICY_EXCLUDE - 1])
		policy_apply_exclude(policy, values[POLICY_EXCLUDE - 1]);

	if (!isnull[POLICY_KEPT_XID - 1])
		policy->kept_xid = Max(policy->kept_xid,
							   U64FromFullTransactionId(DatumGetFullTransactionId(values[POLICY_KEPT_XID - 1])));
	for (int ring = 0; ring < RING_COUNT; ring++)
	{
		int			column = POLICY_KEPT_SHORT_UNTIL - 1 + ring;

		if (!isnull[column])
			policy->kept_until[ring] = Max(policy->kept_until[ring],
										   DatumGetTimestampTz(values[column]));
	}
}

/*
 * Read the rows of scope_policy: with only_default, the row of '*' into
 * policy_default; without, all others into the hash table.
 */
static void
policy_read(Relation rel, bool only_default)
{
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[POLICY_COLUMNS];
		bool		isnull[POLICY_COLUMNS];
		char		scope[SCOPE_MAX_BYTES + 1];
		PolicyEntry *entry;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		text_to_cstring_buffer(DatumGetTextPP(values[POLICY_SCOPE - 1]),
							   scope, sizeof(scope));
		if ((strcmp(scope, "*") == 0) != only_default)
			continue;
		if (only_default)
		{
			policy_apply(&policy_default, values, isnull);
			continue;
		}
		entry = hash_search(policies, scope, HASH_ENTER, NULL);
		entry->policy = policy_default;
		policy_apply(&entry->policy, values, isnull);
	}
	systable_endscan(scan);
}

/*
 * Read all policies again if they may have changed.  The caller holds the
 * policy lock, so the generation can't move under it for a reason that
 * matters.
 */
static void
policy_load(void)
{
	Relation	rel;
	HASHCTL		ctl;
	MemoryContext old;
	uint64		generation = catalog_policy_generation();

	if (likely(policy_generation == generation && policy_roles_valid))
		return;

	policy_generation = 0;		/* in case of an error below */
	if (policy_context == NULL)
		policy_context = AllocSetContextCreate(TopMemoryContext,
											   "idempotency policies",
											   ALLOCSET_SMALL_SIZES);
	MemoryContextReset(policy_context);
	old = MemoryContextSwitchTo(policy_context);

	ctl.keysize = sizeof(((PolicyEntry *) NULL)->scope);
	ctl.entrysize = sizeof(PolicyEntry);
	ctl.hcxt = policy_context;
	policies = hash_create("idempotency policies", 64, &ctl,
						   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	policy_default = policy_builtin;
	policy_roles_valid = true;

	rel = table_open(catalog_policy_table(), AccessShareLock);
	catalog_require_columns(rel, POLICY_COLUMNS);
	policy_read(rel, true);
	policy_read(rel, false);
	table_close(rel, AccessShareLock);

	MemoryContextSwitchTo(old);
	policy_generation = generation;
}

/*
 * Copy the effective policy of a scope ('*' for the default).  The caller
 * holds the policy lock.
 */
void
policy_get(const char *scope, int scope_len, Policy *policy)
{
	char		name[SCOPE_MAX_BYTES + 1];
	PolicyEntry *entry = NULL;

	policy_load();
	if (hash_get_num_entries(policies) > 0)
	{
		memcpy(name, scope, scope_len);
		name[scope_len] = '\0';
		entry = hash_search(policies, name, HASH_FIND, NULL);
	}
	*policy = entry ? entry->policy : policy_default;
}

/*
 * The scopes that have a row of their own, as texts.  The caller holds the
 * policy lock.
 */
List *
policy_scopes(void)
{
	List	   *scopes = NIL;
	HASH_SEQ_STATUS status;
	PolicyEntry *entry;

	policy_load();
	hash_seq_init(&status, policies);
	while ((entry = hash_seq_search(&status)) != NULL)
		scopes = lappend(scopes, cstring_to_text(entry->scope));
	return scopes;
}

/*
 * Refuse whoever isn't a member of the role that the scope is reserved for.
 * Raises ID403.
 */
void
policy_check_role(const Policy *policy, const char *scope, int scope_len)
{
	if (likely(!OidIsValid(policy->allowed_role) && !policy->role_is_missing))
		return;
	if (policy->role_is_missing ||
		!has_privs_of_role(GetUserId(), policy->allowed_role))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_GRANTED),
				 errmsg("permission denied for scope \"%.*s\"", scope_len,
						scope),
				 policy->role_is_missing ?
				 errdetail("The scope is reserved for a role that does not exist.") :
				 errdetail("The scope is reserved for role \"%s\".",
						   GetUserNameFromId(policy->allowed_role, true)),
				 errhint("Ask for membership in the role, or have the scope's policy changed with configure().")));
}

/*
 * How far ahead of now can a row of this scope expire, in microseconds?  At
 * the end of a retention that begins with the end of the longest lease.
 */
int64
policy_reach(const Policy *policy)
{
	return policy->retention == RETENTION_FOREVER ? RETENTION_FOREVER :
		policy->retention + policy->max_lease;
}

/* The ring that the scope's rows go to. */
Ring
policy_ring(const Policy *policy)
{
	return ring_for(policy_reach(policy));
}

/* Raises ID400 if a call asks for a longer retention than the scope's. */
void
policy_check_retention(const Policy *policy, const char *scope, int scope_len,
					   int64 retention)
{
	if (retention > policy->retention)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("retention is longer than the policy of scope \"%.*s\" allows",
						scope_len, scope),
				 errhint("Ask for less, or raise the scope's retention with configure().")));
}

/* Raises ID400 if a call asks for a longer lease than the scope's longest. */
void
policy_check_lease(const Policy *policy, const char *scope, int scope_len,
				   int64 lease)
{
	if (lease > policy->max_lease)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("lease is longer than the policy of scope \"%.*s\" allows",
						scope_len, scope),
				 errdetail("Its max_lease is %lld ms.",
						   (long long) (policy->max_lease / USECS_PER_MSEC)),
				 errhint("Ask for less and extend it with heartbeat(), or raise the scope's max_lease with configure().")));
}

/* Raises ID413 if the value has more bytes than it may. */
void
policy_check_size(const char *what, const struct varlena *value, int32 limit)
{
	if (value && VARSIZE_ANY_EXHDR(value) > limit)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_TOO_LARGE),
				 errmsg("%s is too large", what),
				 errdetail("It has %zu bytes; the limit is %d.",
						   VARSIZE_ANY_EXHDR(value), limit)));
}

/*
 * An operator's reason, which has to be given; the hint says why it is wanted.
 * Raises ID400, ID413.
 */
text *
policy_check_reason(const char *function, text *reason, const char *hint)
{
	if (reason == NULL || VARSIZE_ANY_EXHDR(reason) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s needs a reason", function),
				 errhint("%s", hint)));
	policy_check_size("reason", (struct varlena *) reason, REASON_MAX_BYTES);
	return reason;
}

/*
 * An interval in microseconds, with days of 24 hours and months of 30 days.
 * One too large to count is the largest number, or the smallest.
 */
int64
policy_interval(Interval *interval)
{
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	int64		result;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &result))
		return days > 0 ? PG_INT64_MAX : PG_INT64_MIN;
	if (pg_add_s64_overflow(result, interval->time, &result))
		return interval->time > 0 ? PG_INT64_MAX : PG_INT64_MIN;
	return result;
}

/*
 * A wait as the named argument, in microseconds.  Raises ID400 if it is negative or
 * over idempotency.max_wait.
 */
int64
policy_wait_argument(const char *name, Interval *interval)
{
	int64		wait = policy_interval(interval);

	if (wait < 0 || wait > guc_max_wait * USECS_PER_MSEC)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must be between 0 and idempotency.max_wait", name),
				 errdetail("The setting is %d ms.", guc_max_wait),
				 errhint("A number without a unit is read as seconds.")));
	return wait;
}

/*
 * A retention as an argument, in microseconds.  Raises ID400 if it is outside
 * what any scope could have.
 */
int64
policy_retention_argument(Interval *interval)
{
	int64		retention = policy_interval(interval);

	if (retention < RETENTION_MIN || retention > RETENTION_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("retention must be between 1 second and 60 days"),
				 errhint("A number without a unit is read as seconds.")));
	return retention;
}

/*
 * A lease as the named argument, in microseconds.  Raises ID400 if it is NULL,
 * or outside what any scope could have.
 */
int64
policy_lease_argument(const char *name, Interval *interval)
{
	int64		lease = interval ? policy_interval(interval) : 0;

	if (lease < LEASE_MIN || lease > LEASE_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 interval ?
				 errmsg("%s must be between 1 ms and 4 days", name) :
				 errmsg("%s must not be null", name),
				 interval ?
				 errhint("A number without a unit is read as seconds.") : 0));
	return lease;
}
