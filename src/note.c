/*-------------------------------------------------------------------------
 *
 * note.c
 *		Aborted attempts, noted in shared memory until the worker writes them.
 *
 * A transaction that rolls back leaves nothing in the database, so that it had
 * claimed a key is noted here; the worker writes the notes of its database
 * to table aborted_attempt, and deletes those of more than a day ago.  There
 * is room for NOTES; what finds none is counted, and dropped.  A crash of the
 * server loses what was not written.
 *
 * Locking: the area's lock, for as long as it takes to copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "duty.h"
#include "note.h"
#include "shmem.h"

#define NOTES			4096
#define NOTE_DELETE_PAGES 256	/* looked at by one flush */
#define NOTE_DELETE_EVERY USECS_PER_MINUTE

COMPAT_FUNCTION_INFO(idempotency_notes_dropped);
COMPAT_FUNCTION_INFO(idempotency_notes_dropped_at);

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

typedef struct Note
{
	Oid			database;
	StatsSlot	slot;
	pg_uuid_t	id;
	int32		attempt;
	int32		pid;
	TimestampTz claimed_at;
	TimestampTz aborted_at;
} Note;

typedef struct NoteArea
{
	LWLock	   *lock;
	int64		dropped;
	TimestampTz dropped_at;		/* the last time */
	int			n;
	Note		notes[NOTES];
} NoteArea;

static NoteArea *note_area = NULL;

/* Bytes of shared memory. */
static Size
note_size(void)
{
	return sizeof(NoteArea);
}

/* Make the area. */
static void
note_init_area(void *area, LWLock *lock)
{
	note_area = area;
	memset(note_area, 0, sizeof(NoteArea));
	note_area->lock = lock;
}

/*
 * Note that a claim was rolled back.  Can be called while a transaction
 * aborts: raises nothing.
 */
void
note_abort(const pg_uuid_t *id, StatsSlot slot, int32 attempt,
		   TimestampTz claimed_at)
{
	Note	   *note;

	if (note_area == NULL)
		return;
	LWLockAcquire(note_area->lock, LW_EXCLUSIVE);
	if (note_area->n < NOTES)
	{
		note = &note_area->notes[note_area->n++];
		note->database = MyDatabaseId;
		note->slot = slot;
		note->id = *id;
		note->attempt = attempt;
		note->pid = MyProcPid;
		note->claimed_at = claimed_at;
		note->aborted_at = GetCurrentTimestamp();
	}
	else
	{
		note_area->dropped++;
		note_area->dropped_at = GetCurrentTimestamp();
	}
	LWLockRelease(note_area->lock);
}

/* Take this database's notes out; returns how many, *notes is palloc'd. */
static int
note_take(Note **notes)
{
	int			taken = 0;
	int			kept = 0;

	*notes = palloc(sizeof(Note) * NOTES);
	LWLockAcquire(note_area->lock, LW_EXCLUSIVE);
	for (int i = 0; i < note_area->n; i++)
	{
		if (note_area->notes[i].database == MyDatabaseId)
			(*notes)[taken++] = note_area->notes[i];
		else
			note_area->notes[kept++] = note_area->notes[i];
	}
	note_area->n = kept;
	LWLockRelease(note_area->lock);
	return taken;
}

/* Write one note. */
static void
note_write(Relation rel, const Note *note)
{
	Datum		values[ABORTED_COLUMNS];
	bool		isnull[ABORTED_COLUMNS] = {0};
	Oid			database;
	const char *scope = "(others)";
	int			scope_len = strlen(scope);

	if (note->slot != STATS_OTHERS)
		(void) stats_slot_name(note->slot, &database, &scope, &scope_len);
	values[ABORTED_ID - 1] = UUIDPGetDatum(&note->id);
	values[ABORTED_SCOPE - 1] =
		PointerGetDatum(cstring_to_text_with_len(scope, scope_len));
	values[ABORTED_ATTEMPT - 1] = Int32GetDatum(note->attempt);
	values[ABORTED_CLAIMED_AT - 1] = TimestampTzGetDatum(note->claimed_at);
	values[ABORTED_ABORTED_AT - 1] = TimestampTzGetDatum(note->aborted_at);
	values[ABORTED_PID - 1] = Int32GetDatum(note->pid);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
											isnull));
}

/* Delete what is older than a day in the next pages. */
static void
note_delete_old(Relation rel)
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
	heap_setscanlimits(scan, next, Min(blocks - next, NOTE_DELETE_PAGES));
	next += NOTE_DELETE_PAGES;
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

/*
 * Duty: write the notes of this database to its table, and every minute delete
 * old ones.  What is not committed is lost.
 */
static void
note_flush(int step)
{
	static TimestampTz deleted_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	bool		delete = now >= deleted_at + NOTE_DELETE_EVERY;
	Relation	rel;
	Note	   *notes;
	int			n;

	if (note_area == NULL || (note_area->n == 0 && !delete))
		return;
	n = note_take(&notes);
	if (n > 0 || delete)
	{
		rel = table_open(catalog_aborted_table(), RowExclusiveLock);
		for (int i = 0; i < n; i++)
			note_write(rel, &notes[i]);
		if (delete)
			note_delete_old(rel);
		table_close(rel, NoLock);
		deleted_at = delete ? now : deleted_at;
	}
	pfree(notes);
	if (n > 0)
		duty_report("aborted_attempt", "written", n);
}

/* Ask for the area, and register the duty; called once from _PG_init. */
void
note_init(void)
{
	shmem_register("idempotency notes", note_size, note_init_area,
				   (void **) &note_area);
	duty_register("notes", 1, note_flush);
}

/* notes_dropped() returns bigint */
Datum
idempotency_notes_dropped(PG_FUNCTION_ARGS)
{
	int64		dropped = 0;

	if (note_area)
	{
		LWLockAcquire(note_area->lock, LW_SHARED);
		dropped = note_area->dropped;
		LWLockRelease(note_area->lock);
	}
	PG_RETURN_INT64(dropped);
}

/* notes_dropped_at() returns timestamptz */
Datum
idempotency_notes_dropped_at(PG_FUNCTION_ARGS)
{
	TimestampTz at = 0;

	if (note_area)
	{
		LWLockAcquire(note_area->lock, LW_SHARED);
		at = note_area->dropped_at;
		LWLockRelease(note_area->lock);
	}
	if (at == 0)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(at);
}
