/*-------------------------------------------------------------------------
 *
 * keyrow.h
 *		A key row in memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_KEYROW_H
#define IDEMPOTENCY_KEYROW_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "digest.h"
#include "identity.h"

/* what the "char" column state says */
typedef enum KeyState
{
	KEY_RUNNING = 'l',			/* leased: somebody is at it, or was */
	KEY_SUCCEEDED = 's',		/* the transaction that wrote this is the
								 * effect's */
	KEY_FAILED = 'f',			/* finally, with an error to be replayed */
	KEY_RETRY = 'r',			/* failed, may be tried again from retry_at on */
	KEY_EXHAUSTED = 'x',		/* failed as often as the policy allows */
	KEY_COMPENSATING = 'c'		/* what its attempts did is being undone */
} KeyState;

/* why a row that has succeeded is without its response, in "char" withheld */
typedef enum Withheld
{
	WITHHELD_NOTHING = 0,		/* it isn't, or there was none; NULL */
	WITHHELD_NOT_STORED = 'n',	/* the policy said not to store it */
	WITHHELD_ERASED = 'e'		/* by erase() */
} Withheld;

#define NO_TIME DT_NOBEGIN		/* stands for NULL in a timestamp */
#define NO_FENCE 0				/* stands for NULL in a fence */

/*
 * All columns but the identity.  A text may still be compressed or out of
 * line; it points into the tuple it was read from, or to the caller's value.
 */
typedef struct KeyRow
{
	KeyState	state;
	TimestampTz expires_at;
	TimestampTz claimed_at;
	TimestampTz finished_at;	/* NO_TIME while unsettled */
	TimestampTz retry_at;		/* NO_TIME unless state is KEY_RETRY */
	TimestampTz lease_until;	/* NO_TIME unless state is KEY_RUNNING */
	int32		attempt;
	int32		event_no;		/* of the last change that was recorded; or 0 */
	int64		fence;			/* of the last lease; NO_FENCE: none yet */
	bool		has_fingerprint;
	uint8		fingerprint[DIGEST_LENGTH];
	bool		has_owner;		/* only in state KEY_RUNNING */
	uint8		owner[DIGEST_LENGTH];
	struct varlena *role;		/* who holds the lease; NULL: nobody */
	struct varlena *application;
	struct varlena *recovery_point;
	struct varlena *saved_state;
	struct varlena *tag;
	struct varlena *request;
	struct varlena *error;
	struct varlena *response;
	int32		response_version;	/* of the policy that stored the response */
	int64		tag_generation; /* of the tag, as the finish has seen it */
	Withheld	withheld;
	bool		saga;			/* it has one that isn't over: it counts until
								 * that is, whatever expires_at says */
} KeyRow;

/* Does the row no longer count? */
static inline bool
keyrow_is_expired(const KeyRow *row, TimestampTz now)
{
	return row->expires_at <= now && !row->saga;
}

extern void keyrow_check_table(Relation heap);
extern HeapTuple keyrow_form(TupleDesc desc, Identity *identity,
							 const KeyRow *row);
extern void keyrow_deform(TupleDesc desc, HeapTuple tuple, KeyRow *row,
						  Identity *identity);
extern void keyrow_end_lease(KeyRow *row);
extern void keyrow_clear_progress(KeyRow *row);
extern bool keyrow_same_text(struct varlena *stored, const text *given);

#endif							/* IDEMPOTENCY_KEYROW_H */
