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
#include "utils/timestamp.h"

#include "digest.h"
#include "identity.h"

/* what the "char" column state says */
typedef enum KeyState
{
	KEY_SUCCEEDED = 's',		/* the transaction that wrote this is the
								 * effect's */
	KEY_FAILED = 'f',			/* finally, with an error to be replayed */
	KEY_RETRY = 'r',			/* failed, may be tried again from retry_at on */
	KEY_EXHAUSTED = 'x'			/* failed as often as the policy allows */
} KeyState;

#define NO_TIME DT_NOBEGIN		/* stands for NULL in a timestamp */

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
	int32		attempt;
	bool		has_fingerprint;
	uint8		fingerprint[DIGEST_LENGTH];
	struct varlena *tag;
	struct varlena *request;
	struct varlena *error;
	struct varlena *response;
} KeyRow;

extern HeapTuple keyrow_form(TupleDesc desc, Identity *identity,
							 const KeyRow *row);
extern void keyrow_deform(TupleDesc desc, HeapTuple tuple, KeyRow *row,
						  Identity *identity);

#endif							/* IDEMPOTENCY_KEYROW_H */
