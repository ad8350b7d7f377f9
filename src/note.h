/*-------------------------------------------------------------------------
 *
 * note.h
 *		What leaves nothing in the database, noted in shared memory until the
 *		worker writes it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_NOTE_H
#define IDEMPOTENCY_NOTE_H

#include "entry.h"

/*
 * One note; its texts stand behind it, in this order and without an end: the
 * scope, the principal, the key, the application's name, the detail.
 */
typedef struct Note
{
	uint32		size;			/* of all, aligned */
	Oid			database;
	EntryDecision decision;
	bool		has_key;
	pg_uuid_t	id;
	int32		attempt;
	int32		event_no;
	int64		fence;
	int32		pid;
	TimestampTz claimed_at;		/* DT_NOBEGIN: never */
	TimestampTz decided_at;
	Oid			session_role;	/* InvalidOid: nobody's doing */
	Oid			role;
	bool		has_request;
	uint8		request[DIGEST_LENGTH];
	bool		has_trace;
	uint8		trace[TRACE_ID_LENGTH];
	uint16		lens[5];
} Note;

#define NOTE_SCOPE			0
#define NOTE_PRINCIPAL		1
#define NOTE_KEY			2
#define NOTE_APPLICATION	3
#define NOTE_DETAIL			4

extern void note_init(void);
extern bool note_is_there(void);
extern void note_decision(EntryDecision decision, const Identity *identity,
						  int32 attempt, int32 event_no, int64 fence,
						  TimestampTz claimed_at, const uint8 *request,
						  const char *detail);
extern void note_scope(EntryDecision decision, Oid database,
					   const char *scope, int scope_len, TimestampTz at,
					   const char *detail);
extern char *note_take(Size *size);
extern const char *note_text(const Note *note, int which, int *len);
extern int64 note_dropped(TimestampTz *at, int64 *recorded);
extern void note_dropped_is_recorded(int64 dropped);

#endif							/* IDEMPOTENCY_NOTE_H */
