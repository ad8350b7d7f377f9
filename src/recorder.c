/*-------------------------------------------------------------------------
 *
 * recorder.c
 *		Writing down what was noted in shared memory (note.c).
 *
 * A duty: aborted attempts go to table aborted_attempt, from where they are
 * deleted after a day, and everything goes into the ledger, as the policy of
 * its scope says.  What was taken and not committed is lost.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "duty.h"
#include "incarnation.h"
#include "ledger.h"
#include "note.h"
#include "policy.h"
#include "recorder.h"

#define ABORTED_DELETE_PAGES 256	/* looked at by one round */
#define ABORTED_DELETE_EVERY USECS_PER_MINUTE
#define RECORDER_CHUNK		256 /* entries written at once */

/* how many dropped notes this transaction tells of; 0: it doesn't */
static int64 recorder_lost_upto = 0;

/* attribute numbers, in the order of src/sql/note.sql */
enum
{
	ABORTED_ID = 1,
	ABORTED_SCOPE,
	ABORTED_ATTEMPT,
	ABORTED_CLAIMED_AT,
	ABORTED_ABORTED_AT,
	ABORTED_PID,
	ABORTED_COLUMNS = ABORTED_PID
};

/* A note's text as a text datum. */
static text *
recorder_text(const Note *note, int which)
{
	int			len;
	const char *string = note_text(note, which, &len);

	return cstring_to_text_with_len(string, len);
}

/* Write an aborted attempt to its table. */
static void
recorder_write_aborted(Relation rel, const Note *note)
{
	Datum		values[ABORTED_COLUMNS];
	bool		isnull[ABORTED_COLUMNS] = {0};

	values[ABORTED_ID - 1] = UUIDPGetDatum(&note->id);
	values[ABORTED_SCOPE - 1] = PointerGetDatum(recorder_text(note, NOTE_SCOPE));
	values[ABORTED_ATTEMPT - 1] = Int32GetDatum(note->attempt);
	values[ABORTED_CLAIMED_AT - 1] = TimestampTzGetDatum(note->claimed_at);
	values[ABORTED_ABORTED_AT - 1] = TimestampTzGetDatum(note->decided_at);
	values[ABORTED_PID - 1] = Int32GetDatum(note->pid);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
											isnull));
}

/* The entry that a note makes. */
static void
recorder_entry(const Note *note, LedgerWrite *write)
{
	LedgerEntry *entry = &write->entry;
	Identity   *identity = &entry->identity;

	memset(write, 0, sizeof(*write));
	entry->decided_at = note->decided_at;
	entry->claimed_at = note->claimed_at;
	entry->decision = cstring_to_text(entry_decision_name(note->decision));
	entry->has_key = note->has_key;
	identity->scope = note_text(note, NOTE_SCOPE, &identity->scope_len);
	if (note->has_key)
	{
		identity->principal = note_text(note, NOTE_PRINCIPAL,
										&identity->principal_len);
		identity->key = note_text(note, NOTE_KEY, &identity->key_len);
		identity->id = note->id;
		identity->has_id = true;
	}
	entry->event_no = note->event_no;
	entry->fence = note->fence;
	entry->attempt = note->attempt;
	entry->has_digest[DIGEST_REQUEST] = note->has_request;
	memcpy(entry->digest[DIGEST_REQUEST], note->request, DIGEST_LENGTH);
	entry->session_role = entry_role(note->session_role);
	entry->role = entry_role(note->role);
	entry->application = recorder_text(note, NOTE_APPLICATION);
	entry->has_trace = note->has_trace;
	memcpy(entry->trace, note->trace, TRACE_ID_LENGTH);
	entry->detail = note->lens[NOTE_DETAIL] == 0 ? NULL :
		recorder_text(note, NOTE_DETAIL);
}

/* Does the policy of a note's scope want it recorded? */
static bool
recorder_wants(const Note *note)
{
	Policy		policy;
	int			len;
	const char *scope = note_text(note, NOTE_SCOPE, &len);

	if (note->decision == ENTRY_BREAKER)
		return true;
	policy_get(scope, len, &policy);
	return policy.audit == AUDIT_EVERYTHING ||
		(policy.audit == AUDIT_DECISIONS && note->decision != ENTRY_REPLAYED);
}

/*
 * Say in the ledger that notes were dropped since that was last said; that it
 * was said counts from commit on.
 */
static void
recorder_lost(void)
{
	int64		recorded;
	int64		dropped = note_dropped(NULL, &recorded);

	if (dropped <= recorded)
		return;
	decision_general(ENTRY_LOST, NULL, 0,
					 psprintf("{\"notes\": " INT64_FORMAT ", \"of\": \"all databases\"}",
							  dropped - recorded));
	recorder_lost_upto = dropped;
}

/* The transaction has ended. */
static void
recorder_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && recorder_lost_upto > 0)
		note_dropped_is_recorded(recorder_lost_upto);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		recorder_lost_upto = 0;
}

/* Write the notes; returns how many were aborted attempts. */
static int
recorder_write(Relation aborted, const char *notes, Size size)
{
	LedgerWrite *writes = palloc(RECORDER_CHUNK * sizeof(LedgerWrite));
	int64		incarnation = incarnation_number(true);
	int			naborted = 0;
	int			n = 0;

	for (Size at = 0; at < size;)
	{
		const Note *note = (const Note *) (notes + at);

		at += note->size;
		if (note->decision == ENTRY_ABORTED)
		{
			recorder_write_aborted(aborted, note);
			naborted++;
		}
		if (recorder_wants(note))
			recorder_entry(note, &writes[n++]);
		if (n == RECORDER_CHUNK)
		{
			ledger_write(writes, n, incarnation);
			n = 0;
		}
	}
	if (n > 0)
		ledger_write(writes, n, incarnation);
	return naborted;
}

/* Delete aborted attempts of more than a day ago in the next pages. */
static void
recorder_delete_old(Relation rel)
{
	static BlockNumber next = 0;
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);
	TimestampTz now = GetCurrentTimestamp();
	Snapshot	snapshot;
	TableScanDesc scan;
	HeapTuple	tuple;

	if (blocks == 0)
		return;
	if (next >= blocks)
		next = 0;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	heap_setscanlimits(scan, next, Min(blocks - next, ABORTED_DELETE_PAGES));
	next += ABORTED_DELETE_PAGES;
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;
		Datum		at = heap_getattr(tuple, ABORTED_ABORTED_AT,
									  RelationGetDescr(rel), &isnull);

		if (DatumGetTimestampTz(at) < now - USECS_PER_DAY)
			(void) compat_heap_delete_nowait(rel, &tuple->t_self,
											 GetCurrentCommandId(true));
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
}

/* Duty: write the notes of this database, and every minute delete old ones. */
static void
recorder_flush(int step)
{
	static TimestampTz deleted_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	bool		delete = now >= deleted_at + ABORTED_DELETE_EVERY;
	Relation	rel;
	char	   *notes;
	Size		size;

	if (!note_is_there())
		return;
	/* somebody's open configure() must not stop the worker */
	if (!duty_lock(catalog_policy_table(), AccessShareLock))
		return;
	recorder_lost();
	notes = note_take(&size);
	if (size == 0 && !delete)
	{
		policy_unlock();
		return;
	}
	rel = table_open(catalog_relation(CATALOG_ABORTED_ATTEMPT),
					 RowExclusiveLock);
	if (size > 0)
	{
		int			n = recorder_write(rel, notes, size);

		if (n > 0)
			duty_report("aborted_attempt", "written", n);
	}
	if (delete)
	{
		recorder_delete_old(rel);
		deleted_at = now;
	}
	table_close(rel, NoLock);
	policy_unlock();
}

/* Register the duty; called once from _PG_init. */
void
recorder_init(void)
{
	RegisterXactCallback(recorder_xact_callback, NULL);
	duty_register("notes", 1, recorder_flush);
}
