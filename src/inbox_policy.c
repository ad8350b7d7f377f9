/*-------------------------------------------------------------------------
 *
 * inbox_policy.c
 *		The settings of consumers, cached per backend.
 *
 * A stream has the settings of its own row; what that doesn't say, of the
 * consumer's row of '*'; then of the row of all consumers; then built-in ones.
 * All rows are read at once and kept until the table changes, as the scopes'
 * policies are (policy.c).  inbox_configure.c writes them.
 *
 * Locking: whoever decides holds AccessShareLock on the table from before he
 * reads the settings until he has written the stream's row;
 * configure_consumer() holds AccessExclusiveLock until it has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "errors.h"
#include "inbox.h"
#include "inbox_columns.h"

/* consumer and stream, each filled up with zeros */
typedef struct PolicyKey
{
	char		consumer[CONSUMER_MAX_BYTES + 1];
	char		stream[STREAM_MAX_BYTES + 1];
} PolicyKey;

/* a row as it is; what is null in it says nothing */
typedef struct PolicyEntry
{
	PolicyKey	key;			/* hash key */
	bool		has[INBOX_POLICY_COLUMNS];
	InboxPolicy policy;
} PolicyEntry;

static const InboxPolicy policy_builtin = {
	.strategy = INBOX_ID,
	.wait = WAIT_FOREVER,
	.max_holes = 1000
};

static MemoryContext policy_context = NULL;
static HTAB *policies = NULL;
static uint64 policy_generation = 0;	/* of what is cached; 0: nothing is */
static bool policy_roles_valid = false;

/* the answer to the last question, if it was about this */
static PolicyKey last_key;
static InboxPolicy last_policy;
static bool last_valid = false;

/* A role was created, renamed or dropped. */
static void
policy_role_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	policy_roles_valid = false;
}

/* Register the invalidation callback; called once from _PG_init. */
void
inbox_policy_init(void)
{
	CacheRegisterSyscacheCallback(AUTHNAME, policy_role_changed, (Datum) 0);
}

/* Keep configure_consumer() out, and learn of what it has committed. */
void
inbox_policy_lock(void)
{
	LockRelationOid(catalog_relation(CATALOG_INBOX_POLICY), AccessShareLock);
}

/* Let configure_consumer() in again. */
void
inbox_policy_unlock(void)
{
	UnlockRelationOid(catalog_relation(CATALOG_INBOX_POLICY),
					  AccessShareLock);
}

/* Read a row into an entry, whose key is set. */
static void
policy_read_row(PolicyEntry *entry, Datum *values, bool *isnull)
{
	InboxPolicy *policy = &entry->policy;
	char	   *role;

	memset(policy, 0, sizeof(*policy));
	for (int i = 0; i < INBOX_POLICY_COLUMNS; i++)
		entry->has[i] = !isnull[i];
#define GET(column, convert) \
	(isnull[(column) - 1] ? 0 : convert(values[(column) - 1]))
	policy->strategy = (InboxStrategy) GET(INBOX_POLICY_STRATEGY,
										   DatumGetChar);
	policy->retention = GET(INBOX_POLICY_RETENTION, DatumGetInt64);
	policy->wait = GET(INBOX_POLICY_WAIT, DatumGetInt64);
	policy->max_holes = GET(INBOX_POLICY_MAX_HOLES, DatumGetInt32);
	policy->max_deliveries = GET(INBOX_POLICY_MAX_DELIVERIES, DatumGetInt32);
	policy->first_seq = GET(INBOX_POLICY_FIRST_SEQ, DatumGetInt64);
#undef GET
	if (isnull[INBOX_POLICY_ALLOWED_ROLE - 1])
		return;
	role = TextDatumGetCString(values[INBOX_POLICY_ALLOWED_ROLE - 1]);
	if (role[0] == '\0')
		return;
	policy->allowed_role = get_role_oid(role, true);
	policy->role_is_missing = !OidIsValid(policy->allowed_role);
}

/* Read all rows into the hash table. */
static void
policy_read(Relation rel)
{
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[INBOX_POLICY_COLUMNS];
		bool		isnull[INBOX_POLICY_COLUMNS];
		PolicyKey	key = {{0}};
		PolicyEntry *entry;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		text_to_cstring_buffer(DatumGetTextPP(values[INBOX_POLICY_CONSUMER - 1]),
							   key.consumer, sizeof(key.consumer));
		text_to_cstring_buffer(DatumGetTextPP(values[INBOX_POLICY_STREAM - 1]),
							   key.stream, sizeof(key.stream));
		entry = hash_search(policies, &key, HASH_ENTER, NULL);
		policy_read_row(entry, values, isnull);
	}
	systable_endscan(scan);
}

/* Read all settings again if they may have changed; the lock is held. */
static void
policy_load(void)
{
	uint64		generation = catalog_generation(CATALOG_INBOX_POLICY);
	Relation	rel;
	HASHCTL		ctl;
	MemoryContext old;

	if (likely(policy_generation == generation && policy_roles_valid))
		return;
	policy_generation = 0;		/* in case of an error below */
	last_valid = false;
	if (policy_context == NULL)
		policy_context = AllocSetContextCreate(TopMemoryContext,
											   "idempotency consumers",
											   ALLOCSET_SMALL_SIZES);
	MemoryContextReset(policy_context);
	old = MemoryContextSwitchTo(policy_context);
	ctl.keysize = sizeof(PolicyKey);
	ctl.entrysize = sizeof(PolicyEntry);
	ctl.hcxt = policy_context;
	policies = hash_create("idempotency consumers", 64, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	policy_roles_valid = true;
	rel = table_open(catalog_relation(CATALOG_INBOX_POLICY), AccessShareLock);
	catalog_require_columns(rel, INBOX_POLICY_COLUMNS);
	policy_read(rel);
	table_close(rel, AccessShareLock);
	MemoryContextSwitchTo(old);
	policy_generation = generation;
}

/* Lay a row, if there is one of this key, over the settings. */
static void
policy_apply(const PolicyKey *key, InboxPolicy *policy)
{
	PolicyEntry *entry = hash_search(policies, key, HASH_FIND, NULL);

	if (entry == NULL)
		return;
#define APPLY(column, field) \
	if (entry->has[(column) - 1]) \
		policy->field = entry->policy.field
	APPLY(INBOX_POLICY_STRATEGY, strategy);
	APPLY(INBOX_POLICY_RETENTION, retention);
	APPLY(INBOX_POLICY_WAIT, wait);
	APPLY(INBOX_POLICY_MAX_HOLES, max_holes);
	APPLY(INBOX_POLICY_MAX_DELIVERIES, max_deliveries);
	APPLY(INBOX_POLICY_FIRST_SEQ, first_seq);
	APPLY(INBOX_POLICY_ALLOWED_ROLE, allowed_role);
	APPLY(INBOX_POLICY_ALLOWED_ROLE, role_is_missing);
#undef APPLY
	policy->has_retention |= entry->has[INBOX_POLICY_RETENTION - 1];
	policy->has_first_seq |= entry->has[INBOX_POLICY_FIRST_SEQ - 1];
	/* a negative one lifts what the others say */
	if (policy->first_seq < 0)
		policy->has_first_seq = false;
}

/* Is this the key of the last question?  Both are filled up with zeros. */
static bool
policy_is_last(const Identity *name)
{
	int			consumer_len = name->scope_len - INBOX_SCOPE_LEN;

	return last_valid &&
		last_key.consumer[consumer_len] == '\0' &&
		last_key.stream[name->principal_len] == '\0' &&
		memcmp(last_key.consumer, name->scope + INBOX_SCOPE_LEN,
			   consumer_len) == 0 &&
		memcmp(last_key.stream, name->principal, name->principal_len) == 0;
}

/*
 * Copy the effective settings of a consumer ('*' for all) in a stream ('*'
 * for all).  The caller holds the lock.
 */
void
inbox_policy_get(const Identity *name, InboxPolicy *policy)
{
	PolicyKey	key = {{0}};
	PolicyKey	any = {{0}};

	policy_load();
	if (policy_is_last(name))
	{
		*policy = last_policy;
		return;
	}
	last_valid = false;
	memcpy(key.consumer, name->scope + INBOX_SCOPE_LEN,
		   name->scope_len - INBOX_SCOPE_LEN);
	memcpy(key.stream, name->principal, name->principal_len);
	last_key = key;
	*policy = policy_builtin;
	any.consumer[0] = any.stream[0] = '*';
	policy_apply(&any, policy);
	memcpy(any.consumer, key.consumer, sizeof(any.consumer));
	policy_apply(&any, policy);
	policy_apply(&key, policy);
	last_policy = *policy;
	last_valid = true;
}
