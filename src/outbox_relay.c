/*-------------------------------------------------------------------------
 *
 * outbox_relay.c
 *		How far each relay has come: its row.
 *
 * Locking: whoever decides by a relay's row, or changes it, holds the relay's
 * lock until its transaction ends, and reads the row after that.  So nobody
 * meets a row that another transaction is about to change, and two processes
 * of a relay never get the same events by reading at the same moment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "fence.h"
#include "incarnation.h"
#include "outbox.h"
#include "policy.h"

/* what relays are locked as */
#define RELAY_LOCK_SCOPE	"outbox relay"

/* attribute numbers, in the order of src/sql/outbox.sql */
enum
{
	RELAY_RELAY = 1,
	RELAY_STREAM,
	RELAY_POSITION,
	RELAY_READ_UPTO,
	RELAY_DECIDED,
	RELAY_FENCE,
	RELAY_LEASE,
	RELAY_LEASE_UNTIL,
	RELAY_MOVED_AT,
	RELAY_LOST_UPTO,
	RELAY_HOLDER,
	RELAY_ALLOWED_ROLE,
	RELAY_COLUMNS = RELAY_ALLOWED_ROLE
};

/*
 * Take the relay's lock, for the rest of the (sub)transaction; returns whether
 * it was to be had.
 */
bool
outbox_relay_lock(const text *relay, const text *stream, bool wait)
{
	Identity	identity = {
		.scope = RELAY_LOCK_SCOPE,
		.scope_len = strlen(RELAY_LOCK_SCOPE),
		.principal = VARDATA_ANY(stream),
		.principal_len = VARSIZE_ANY_EXHDR(stream),
		.key = VARDATA_ANY(relay),
		.key_len = VARSIZE_ANY_EXHDR(relay)
	};

	if (!wait)
		return identity_trylock(identity_id(&identity));
	identity_lock(&identity);
	return true;
}

/* A column's text, copied; NULL if it is null. */
static text *
outbox_relay_text(Datum *values, bool *isnull, int column)
{
	return isnull[column - 1] ? NULL :
		DatumGetTextPCopy(values[column - 1]);
}

/* What a row says. */
static void
outbox_relay_deform(Relation rel, HeapTuple tuple, OutboxRelay *row)
{
	Datum		values[RELAY_COLUMNS];
	bool		isnull[RELAY_COLUMNS];

	heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
	row->exists = true;
	row->tid = tuple->t_self;
	row->relay = outbox_relay_text(values, isnull, RELAY_RELAY);
	row->stream = outbox_relay_text(values, isnull, RELAY_STREAM);
	row->position = DatumGetInt64(values[RELAY_POSITION - 1]);
	row->read_upto = DatumGetInt64(values[RELAY_READ_UPTO - 1]);
	row->decided = DatumGetInt64(values[RELAY_DECIDED - 1]);
	row->fence = DatumGetInt64(values[RELAY_FENCE - 1]);
	row->lease = DatumGetInt64(values[RELAY_LEASE - 1]);
	row->leased = !isnull[RELAY_LEASE_UNTIL - 1];
	row->lease_until = row->leased ?
		DatumGetTimestampTz(values[RELAY_LEASE_UNTIL - 1]) : 0;
	row->moved_at = DatumGetTimestampTz(values[RELAY_MOVED_AT - 1]);
	row->lost_upto = DatumGetInt64(values[RELAY_LOST_UPTO - 1]);
	row->holder = outbox_relay_text(values, isnull, RELAY_HOLDER);
	row->allowed_role = outbox_relay_text(values, isnull, RELAY_ALLOWED_ROLE);
}

/* All rows, as they are now, palloc'd. */
List *
outbox_relays(void)
{
	Relation	rel = table_open(catalog_relation(CATALOG_OUTBOX_RELAY),
								 AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	List	   *rows = NIL;
	HeapTuple	tuple;

	catalog_require_columns(rel, RELAY_COLUMNS);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		OutboxRelay *row = palloc(sizeof(OutboxRelay));

		outbox_relay_deform(rel, tuple, row);
		rows = lappend(rows, row);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return rows;
}

/* Are the two texts the same, byte for byte? */
static bool
outbox_text_equal(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/*
 * Read a relay's row, or make one in memory that doesn't exist yet.  The caller
 * holds the relay's lock.
 */
void
outbox_relay_get(text *relay, text *stream, OutboxRelay *row)
{
	ListCell   *lc;

	foreach(lc, outbox_relays())
	{
		OutboxRelay *found = lfirst(lc);

		if (outbox_text_equal(found->relay, relay) &&
			outbox_text_equal(found->stream, stream))
		{
			*row = *found;
			return;
		}
	}
	memset(row, 0, sizeof(*row));
	row->relay = relay;
	row->stream = stream;
	row->moved_at = GetCurrentTimestamp();
}

/* A text as a column's value. */
static void
outbox_relay_set(Datum *values, bool *isnull, int column, text *value)
{
	values[column - 1] = PointerGetDatum(value);
	isnull[column - 1] = value == NULL;
}

/* Write a relay's row.  The caller holds the relay's lock. */
void
outbox_relay_put(OutboxRelay *row)
{
	Relation	rel = table_open(catalog_relation(CATALOG_OUTBOX_RELAY),
								 RowExclusiveLock);
	Datum		values[RELAY_COLUMNS];
	bool		isnull[RELAY_COLUMNS] = {0};
	HeapTuple	tuple;

	outbox_relay_set(values, isnull, RELAY_RELAY, row->relay);
	outbox_relay_set(values, isnull, RELAY_STREAM, row->stream);
	values[RELAY_POSITION - 1] = Int64GetDatum(row->position);
	values[RELAY_READ_UPTO - 1] = Int64GetDatum(row->read_upto);
	values[RELAY_DECIDED - 1] = Int64GetDatum(row->decided);
	values[RELAY_FENCE - 1] = Int64GetDatum(row->fence);
	values[RELAY_LEASE - 1] = Int64GetDatum(row->lease);
	values[RELAY_LEASE_UNTIL - 1] = TimestampTzGetDatum(row->lease_until);
	isnull[RELAY_LEASE_UNTIL - 1] = !row->leased;
	values[RELAY_MOVED_AT - 1] = TimestampTzGetDatum(row->moved_at);
	values[RELAY_LOST_UPTO - 1] = Int64GetDatum(row->lost_upto);
	outbox_relay_set(values, isnull, RELAY_HOLDER, row->holder);
	outbox_relay_set(values, isnull, RELAY_ALLOWED_ROLE, row->allowed_role);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	if (row->exists)
		CatalogTupleUpdate(rel, &row->tid, tuple);
	else
		CatalogTupleInsert(rel, tuple);
	row->tid = tuple->t_self;
	row->exists = true;
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Delete a relay's row.  The caller holds the relay's lock. */
void
outbox_relay_delete(const OutboxRelay *row)
{
	Relation	rel = table_open(catalog_relation(CATALOG_OUTBOX_RELAY),
								 RowExclusiveLock);
	ItemPointerData tid = row->tid;

	CatalogTupleDelete(rel, &tid);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/*
 * Get ready to draw a fence; to be called before any lock is taken.  Raises
 * 25006, 25000.
 */
void
outbox_relay_require_writable(const char *command)
{
	catalog_check_writable(command);
	(void) incarnation_prepare(true);
}

/* A fence greater than any before.  Raises 2200H. */
int64
outbox_relay_fence(void)
{
	int64		fence;

	policy_lock();
	fence = fence_next();
	policy_unlock();
	return fence;
}
