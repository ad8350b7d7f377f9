/*-------------------------------------------------------------------------
 *
 * note.c
 *		What leaves nothing in the database, noted in shared memory until the
 *		worker writes it.
 *
 * A transaction that rolls back leaves nothing, so that it had claimed a key,
 * or was refused one, is noted here; so are a breaker's changes of state and,
 * where a policy asks for it, replays, whose transactions shouldn't have to
 * write.  The worker takes the notes of its database (recorder.c).
 *
 * There are so many bytes of room as idempotency.note_buffer says; what finds
 * none is counted, and dropped.  A crash of the server loses what was not
 * written.
 *
 * Locking: the area's lock, for as long as it takes to copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "fault.h"
#include "guc.h"
#include "note.h"
#include "shmem.h"

COMPAT_FUNCTION_INFO(idempotency_notes_dropped);
COMPAT_FUNCTION_INFO(idempotency_notes_dropped_at);

typedef struct NoteArea
{
	LWLock	   *lock;
	int64		dropped;
	TimestampTz dropped_at;		/* the last time */
	int64		recorded;		/* so many of the dropped ones are told of */
	Size		room;
	Size		used;
	char		notes[FLEXIBLE_ARRAY_MEMBER];
} NoteArea;

static NoteArea *note_area = NULL;

/* Bytes of shared memory. */
static Size
note_size(void)
{
	return MAXALIGN(offsetof(NoteArea, notes)) + guc_note_buffer * (Size) 1024;
}

/* Make the area. */
static void
note_init_area(void *area, LWLock *lock)
{
	note_area = area;
	memset(note_area, 0, offsetof(NoteArea, notes));
	note_area->lock = lock;
	note_area->room = guc_note_buffer * (Size) 1024;
}

/* Ask for the area; called once from _PG_init. */
void
note_init(void)
{
	shmem_register("idempotency notes", note_size, note_init_area,
				   (void **) &note_area);
}

/* Is there room for notes at all? */
bool
note_is_there(void)
{
	return note_area != NULL;
}

/*
 * Put a note with its texts into the area.  Can be called while a transaction
 * aborts: raises nothing, and allocates nothing.
 */
static void
note_put(Note *note, const char *const texts[5])
{
	char	   *at;

	note->size = sizeof(Note);
	for (int i = 0; i < lengthof(note->lens); i++)
		note->size += note->lens[i];
	note->size = MAXALIGN(note->size);

	LWLockAcquire(note_area->lock, LW_EXCLUSIVE);
	if (note_area->used + note->size <= note_area->room)
	{
		at = note_area->notes + note_area->used;
		note_area->used += note->size;
		memcpy(at, note, sizeof(Note));
		at += sizeof(Note);
		for (int i = 0; i < lengthof(note->lens); i++)
		{
			memcpy(at, texts[i], note->lens[i]);
			at += note->lens[i];
		}
	}
	else
	{
		note_area->dropped++;
		note_area->dropped_at = note->decided_at;
	}
	LWLockRelease(note_area->lock);
}

/*
 * Note what was decided about a key; request is its fingerprint, or NULL, and
 * detail is JSON, or NULL.  Raises nothing.
 */
void
note_decision(EntryDecision decision, const Identity *identity, int32 attempt,
			  int32 event_no, int64 fence, TimestampTz claimed_at,
			  const uint8 *request, const char *detail)
{
	Note		note = {0};
	const char *texts[5] = {identity->scope, identity->principal,
	identity->key, application_name ? application_name : "", detail};

	if (note_area == NULL)
		return;
	note.database = MyDatabaseId;
	note.decision = decision;
	note.has_key = true;
	note.id = identity->id;
	note.attempt = attempt;
	note.event_no = event_no;
	note.fence = fence;
	note.pid = MyProcPid;
	note.claimed_at = claimed_at;
	note.decided_at = clock_now();
	note.session_role = GetSessionUserId();
	note.role = GetUserId();
	note.has_request = request != NULL;
	if (request)
		memcpy(note.request, request, DIGEST_LENGTH);
	note.has_trace = trace_current(note.trace);
	note.lens[NOTE_SCOPE] = identity->scope_len;
	note.lens[NOTE_PRINCIPAL] = identity->principal_len;
	note.lens[NOTE_KEY] = identity->key_len;
	note.lens[NOTE_APPLICATION] = strlen(texts[NOTE_APPLICATION]);
	note.lens[NOTE_DETAIL] = detail ? strlen(detail) : 0;
	note_put(&note, texts);
}

/*
 * Note what became of a scope of a database at a moment, by itself; detail is
 * JSON.  Raises nothing.
 */
void
note_scope(EntryDecision decision, Oid database, const char *scope,
		   int scope_len, TimestampTz at, const char *detail)
{
	Note		note = {0};
	const char *texts[5] = {scope, "", "", "", detail};

	if (note_area == NULL)
		return;
	note.database = database;
	note.decision = decision;
	note.pid = MyProcPid;
	note.claimed_at = DT_NOBEGIN;
	note.decided_at = at;
	note.lens[NOTE_SCOPE] = scope_len;
	note.lens[NOTE_DETAIL] = strlen(detail);
	note_put(&note, texts);
}

/*
 * Take this database's notes out.  Returns them one behind the other in
 * palloc'd memory, and their size; NULL if there are none.
 */
char *
note_take(Size *size)
{
	Size		room;
	Size		taken = 0;
	Size		kept = 0;
	char	   *notes;

	*size = 0;
	if (note_area == NULL || note_area->used == 0)
		return NULL;
	room = note_area->room;
	notes = palloc(room);
	LWLockAcquire(note_area->lock, LW_EXCLUSIVE);
	for (Size at = 0; at < note_area->used;)
	{
		Note	   *note = (Note *) (note_area->notes + at);
		uint32		len = note->size;

		if (note->database == MyDatabaseId)
		{
			memcpy(notes + taken, note, len);
			taken += len;
		}
		else
		{
			memmove(note_area->notes + kept, note, len);
			kept += len;
		}
		at += len;
	}
	note_area->used = kept;
	LWLockRelease(note_area->lock);
	*size = taken;
	return notes;
}

/* One of a note's texts, without an end; *len is its length. */
const char *
note_text(const Note *note, int which, int *len)
{
	const char *at = (const char *) (note + 1);

	for (int i = 0; i < which; i++)
		at += note->lens[i];
	*len = note->lens[which];
	return at;
}

/*
 * How many notes were dropped, when (0: never) the last one was, and how many
 * of them the ledger tells of; either may be NULL.
 */
int64
note_dropped(TimestampTz *at, int64 *recorded)
{
	NoteArea	area = {0};

	if (note_area)
	{
		LWLockAcquire(note_area->lock, LW_SHARED);
		memcpy(&area, note_area, offsetof(NoteArea, notes));
		LWLockRelease(note_area->lock);
	}
	if (at)
		*at = area.dropped_at;
	if (recorded)
		*recorded = area.recorded;
	return area.dropped;
}

/* The ledger tells of so many that were dropped. */
void
note_dropped_is_recorded(int64 dropped)
{
	LWLockAcquire(note_area->lock, LW_EXCLUSIVE);
	note_area->recorded = Max(note_area->recorded, dropped);
	LWLockRelease(note_area->lock);
}

/* notes_dropped() returns bigint */
Datum
idempotency_notes_dropped(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(note_dropped(NULL, NULL));
}

/* notes_dropped_at() returns timestamptz */
Datum
idempotency_notes_dropped_at(PG_FUNCTION_ARGS)
{
	TimestampTz at;

	(void) note_dropped(&at, NULL);
	if (at == 0)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(at);
}
