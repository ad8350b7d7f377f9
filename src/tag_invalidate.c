/*-------------------------------------------------------------------------
 *
 * tag_invalidate.c
 *		Invalidating a tag's responses, and forgetting old invalidations.
 *
 * invalidate() writes one row, however many responses the tag has.  It is
 * written through SPI, as the owner of our tables, because two who invalidate
 * one tag at once have to wait for each other as for any row.
 *
 * A tag's row can go when every response that it could concern has expired: one
 * that was finished before the invalidation, or by a transaction that hadn't
 * seen it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/sinval.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "duty.h"
#include "errors.h"
#include "fault.h"
#include "guc.h"
#include "policy.h"
#include "tag.h"
#include "tag_columns.h"


/* a round of the duty begins this long after the last one's end */
#define TAG_CLEAN_EVERY		USECS_PER_MINUTE

/* how long a transaction can still run that has not seen an invalidation */
#define TAG_MARGIN			USECS_PER_DAY

COMPAT_FUNCTION_INFO(idempotency_invalidate);

/*
 * Tell all backends, this one included, that a tag is being invalidated, or its
 * row deleted.  To be called when that is written, and before it is committed.
 */
static void
tag_send_change(void)
{
	SharedInvalidationMessage message;

	memset(&message, 0, sizeof(message));
	message.rc.id = SHAREDINVALRELCACHE_ID;
	message.rc.dbId = MyDatabaseId;
	message.rc.relId = catalog_relation(CATALOG_TAG_GENERATION_SEQ);
	SendSharedInvalidMessages(&message, 1);
}

/* Raise the generation of a tag; returns the new one. */
static int64
tag_advance(const Identity *identity, text *tag, text *reason)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, REGCLASSOID};
	Datum		values[] = {
		PointerGetDatum(cstring_to_text_with_len(identity->scope,
												 identity->scope_len)),
		PointerGetDatum(tag),
		TimestampTzGetDatum(clock_now()),
		PointerGetDatum(reason),
		CStringGetTextDatum(GetUserNameFromId(GetUserId(), false)),
		/* a constant would have the plan made anew each time */
		ObjectIdGetDatum(catalog_relation(CATALOG_TAG_GENERATION_SEQ))
	};
	Oid			user;
	int			context;
	int			nesting;
	int64		generation;
	bool		isnull;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(catalog_owner(),
						   context | SECURITY_RESTRICTED_OPERATION);
	nesting = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (plan == NULL)
	{
		plan = SPI_prepare("INSERT INTO idempotency.tag_generation AS t"
						   " VALUES ($1, $2, pg_catalog.nextval($6), $3, $4, $5)"
						   " ON CONFLICT (scope, tag) DO UPDATE SET"
						   " generation = pg_catalog.nextval($6),"
						   " invalidated_at = excluded.invalidated_at,"
						   " reason = excluded.reason, role = excluded.role"
						   " RETURNING t.generation",
						   lengthof(types), types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare an invalidation");
	}
	if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_INSERT_RETURNING ||
		SPI_processed != 1)
		elog(ERROR, "could not raise the generation of a tag");
	generation = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1,
											 &isnull));
	SPI_finish();
	tag_send_change();
	AtEOXact_GUC(false, nesting);
	SetUserIdAndSecContext(user, context);
	return generation;
}

/* The argument, which must be there.  Raises ID400. */
static text *
tag_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	text	   *value = TEXT_ARGUMENT(arg);

	if (value == NULL || VARSIZE_ANY_EXHDR(value) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("invalidate() needs a %s", name)));
	return value;
}

/* Refuse whoever may not use the scope.  Raises ID403. */
static void
tag_check_role(const Identity *identity)
{
	Policy		policy;

	policy_lock();
	policy_get(identity->scope, identity->scope_len, &policy);
	policy_check_role(&policy, identity->scope, identity->scope_len);
	policy_unlock();
}

/* invalidate(scope text, tag text, reason text) returns bigint */
Datum
idempotency_invalidate(PG_FUNCTION_ARGS)
{
	Identity	identity;
	text	   *tag;
	text	   *reason;
	int64		generation;

	catalog_check_writable("invalidate()");
	/* no key is meant, so any will do */
	identity_make(&identity, TEXT_ARGUMENT(0), NULL, cstring_to_text("-"));
	tag = tag_argument(fcinfo, 1, "tag");
	reason = tag_argument(fcinfo, 2, "reason");
	tag_check(tag);
	policy_check_size("reason", (struct varlena *) reason, REASON_MAX_BYTES);
	tag_check_role(&identity);
	FAULT_POINT("invalidate.before_write");
	generation = tag_advance(&identity, tag, reason);
	decision_general(ENTRY_INVALIDATED, identity.scope, identity.scope_len,
					 psprintf("{\"tag\": %s, \"generation\": " INT64_FORMAT ", \"reason\": %s}",
							  decision_json(tag), generation,
							  decision_json(reason)));
	ereport(LOG,
			(errmsg("idempotent responses invalidated by role \"%s\", in scope \"%.*s\"",
					GetUserNameFromId(GetUserId(), false),
					identity.scope_len, identity.scope),
			 errdetail("Reason: %s", text_to_cstring(reason))));
	PG_RETURN_INT64(generation);
}

/* Can a response be alive that was finished before this invalidation? */
static bool
tag_is_needed(const char *scope, int scope_len, TimestampTz invalidated_at,
			  TimestampTz now)
{
	Policy		policy;

	policy_get(scope, scope_len, &policy);
	if (policy.retention == RETENTION_FOREVER)
		return true;
	for (int ring = 0; ring < RING_COUNT; ring++)
	{
		if (policy.kept_until[ring] > now)
			return true;
	}
	return invalidated_at + policy_reach(&policy) + TAG_MARGIN > now;
}

/* Delete what isn't needed any more in some pages; returns how many rows. */
static int64
tag_clean_pages(Relation rel, BlockNumber first, BlockNumber n)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan_strat(rel, snapshot, 0, NULL, true,
											   false);
	TimestampTz now = clock_now();
	int64		deleted = 0;
	HeapTuple	tuple;

	heap_setscanlimits(scan, first, n);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Datum		values[TAG_COLUMNS];
		bool		isnull[TAG_COLUMNS];
		text	   *scope;

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		scope = DatumGetTextPP(values[TAG_SCOPE - 1]);
		if (!tag_is_needed(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope),
						   DatumGetTimestampTz(values[TAG_INVALIDATED_AT - 1]),
						   now) &&
			compat_heap_delete_nowait(rel, &tuple->t_self,
									  GetCurrentCommandId(true)))
			deleted++;
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	CommandCounterIncrement();
	return deleted;
}

/*
 * Duty: delete tags whose responses have all expired, as many pages in a step
 * as maintain() cleans of a table; a minute after the last page, again from the
 * first.
 */
void
tag_clean(int step)
{
	static BlockNumber next = 0;
	static TimestampTz ended_at = 0;
	TimestampTz now = clock_now();
	BlockNumber blocks;
	BlockNumber n;
	Relation	rel;
	int64		deleted = 0;

	if (next == 0 && now < ended_at + TAG_CLEAN_EVERY && now >= ended_at)
		return;
	if (!duty_lock(catalog_relation(CATALOG_TAG_GENERATION), RowExclusiveLock))
		return;
	rel = table_open(catalog_relation(CATALOG_TAG_GENERATION), NoLock);
	blocks = RelationGetNumberOfBlocks(rel);
	next = next < blocks ? next : 0;
	n = Min(blocks - next, (BlockNumber) guc_maintain_pages);
	if (n > 0 && duty_lock(catalog_policy_table(), AccessShareLock))
	{
		deleted = tag_clean_pages(rel, next, n);
		policy_unlock();
		/* what is finished from now on is of generation 0 again */
		if (deleted > 0)
			tag_send_change();
	}
	next = next + n < blocks ? next + n : 0;
	ended_at = now;
	table_close(rel, NoLock);
	if (deleted > 0)
		duty_report("tag_generation", next == 0 ? "done" : "continues",
					deleted);
}
