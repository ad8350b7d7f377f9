/*-------------------------------------------------------------------------
 *
 * outbox_policy.c
 *		The settings of streams, cached per backend.
 *
 * All rows of outbox_policy are read at once and kept until a relation of ours
 * changes; a stream without a row has the settings of '*'.  A change counts for
 * transactions that begin after it: nothing breaks if two go by different
 * settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "catalog.h"
#include "errors.h"
#include "outbox.h"

/* attribute numbers, in the order of src/sql/outbox.sql */
enum
{
	POLICY_STREAM = 1,
	POLICY_RETENTION,
	POLICY_MAX_AGE,
	POLICY_MAX_PAYLOAD_BYTES,
	POLICY_NOTIFY,
	POLICY_ALLOWED_ROLE,
	POLICY_COLUMNS = POLICY_ALLOWED_ROLE
};

typedef struct OutboxPolicyEntry
{
	char		stream[OUTBOX_NAME_MAX_BYTES + 1];	/* hash key */
	OutboxPolicy policy;
} OutboxPolicyEntry;

static const OutboxPolicy policy_builtin = {
	.retention = USECS_PER_DAY,
	.max_age = 7 * USECS_PER_DAY,
	.max_payload_bytes = 1024 * 1024,
	.allowed_role = ""
};

static MemoryContext policy_context = NULL;
static HTAB *policies = NULL;
static OutboxPolicy policy_default;
static uint64 policy_generation = 0;	/* of what is cached */

/* Overwrite the settings that the row has. */
static void
outbox_policy_apply(OutboxPolicy *policy, Datum *values, bool *isnull)
{
	if (!isnull[POLICY_RETENTION - 1])
		policy->retention = DatumGetInt64(values[POLICY_RETENTION - 1]);
	if (!isnull[POLICY_MAX_AGE - 1])
		policy->max_age = DatumGetInt64(values[POLICY_MAX_AGE - 1]);
	if (!isnull[POLICY_MAX_PAYLOAD_BYTES - 1])
		policy->max_payload_bytes =
			DatumGetInt32(values[POLICY_MAX_PAYLOAD_BYTES - 1]);
	if (!isnull[POLICY_NOTIFY - 1])
		policy->notify = DatumGetBool(values[POLICY_NOTIFY - 1]);
	if (!isnull[POLICY_ALLOWED_ROLE - 1])
		policy->allowed_role =
			TextDatumGetCString(values[POLICY_ALLOWED_ROLE - 1]);
}

/* Read the row of '*', or all others. */
static void
outbox_policy_read(Relation rel, bool only_default)
{
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[POLICY_COLUMNS];
		bool		isnull[POLICY_COLUMNS];
		char		stream[OUTBOX_NAME_MAX_BYTES + 1];
		OutboxPolicyEntry *entry;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		text_to_cstring_buffer(DatumGetTextPP(values[POLICY_STREAM - 1]),
							   stream, sizeof(stream));
		if ((strcmp(stream, OUTBOX_ALL) == 0) != only_default)
			continue;
		if (only_default)
		{
			outbox_policy_apply(&policy_default, values, isnull);
			continue;
		}
		entry = hash_search(policies, stream, HASH_ENTER, NULL);
		entry->policy = policy_default;
		outbox_policy_apply(&entry->policy, values, isnull);
	}
	systable_endscan(scan);
}

/* Read all settings again if they may have changed. */
static void
outbox_policy_load(void)
{
	Oid			relid = catalog_relation(CATALOG_OUTBOX_POLICY);
	uint64		generation = catalog_generation(CATALOG_OUTBOX_POLICY);
	MemoryContext old;
	HASHCTL		ctl;
	Relation	rel;

	if (likely(policy_generation == generation))
		return;
	policy_generation = 0;		/* in case of an error below */
	if (policy_context == NULL)
		policy_context = AllocSetContextCreate(TopMemoryContext,
											   "idempotency outbox policies",
											   ALLOCSET_SMALL_SIZES);
	MemoryContextReset(policy_context);
	old = MemoryContextSwitchTo(policy_context);
	ctl.keysize = sizeof(((OutboxPolicyEntry *) NULL)->stream);
	ctl.entrysize = sizeof(OutboxPolicyEntry);
	ctl.hcxt = policy_context;
	policies = hash_create("idempotency outbox policies", 16, &ctl,
						   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	policy_default = policy_builtin;
	rel = table_open(relid, AccessShareLock);
	catalog_require_columns(rel, POLICY_COLUMNS);
	outbox_policy_read(rel, true);
	outbox_policy_read(rel, false);
	table_close(rel, AccessShareLock);
	MemoryContextSwitchTo(old);
	policy_generation = generation;
}

/*
 * The effective settings of a stream, or (NULL) of all.  The role's name is
 * only good until the next call.
 */
void
outbox_policy_get(const text *stream, OutboxPolicy *policy)
{
	OutboxPolicyEntry *entry = NULL;

	outbox_policy_load();
	if (stream && hash_get_num_entries(policies) > 0)
	{
		char		name[OUTBOX_NAME_MAX_BYTES + 1];

		text_to_cstring_buffer(stream, name, sizeof(name));
		entry = hash_search(policies, name, HASH_FIND, NULL);
	}
	*policy = entry ? entry->policy : policy_default;
	policy->retention = policy_default.retention;
	policy->max_age = policy_default.max_age;
}

/*
 * Refuse whoever isn't a member of the role that a stream or relay is reserved
 * for; "" is nobody's.  Raises ID403.
 */
void
outbox_check_role(const char *role, const char *what, const text *name)
{
	Oid			roleid;

	if (likely(role[0] == '\0'))
		return;
	roleid = get_role_oid(role, true);
	if (!OidIsValid(roleid) || !has_privs_of_role(GetUserId(), roleid))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_GRANTED),
				 errmsg("permission denied for %s \"%s\"", what,
						text_to_cstring(name)),
				 OidIsValid(roleid) ?
				 errdetail("It is reserved for role \"%s\".", role) :
				 errdetail("It is reserved for a role that does not exist.")));
}
