/*-------------------------------------------------------------------------
 *
 * entry.h
 *		An entry of the ledger in memory, and what is hashed of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_ENTRY_H
#define IDEMPOTENCY_ENTRY_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "digest.h"
#include "identity.h"
#include "trace.h"

#define ENTRY_VERSION		1	/* of the encoding; old ones stay readable */

/* what was decided; the names are in entry.c, and are hashed */
typedef enum EntryDecision
{
	ENTRY_EXECUTED,				/* claimed and finished by one transaction */
	ENTRY_CLAIMED,				/* a lease was given */
	ENTRY_TAKEOVER,				/* ... to an attempt that follows another */
	ENTRY_CHECKPOINT,			/* a recovery point was reached */
	ENTRY_FINISHED,				/* a leased claim */
	ENTRY_FAILED,				/* for good */
	ENTRY_RETRY,				/* failed, and may be tried again */
	ENTRY_EXHAUSTED,			/* failed as often as the policy allows */
	ENTRY_RELEASED,
	ENTRY_RESOLVED,				/* by an operator, in the holder's place */
	ENTRY_FORGOTTEN,			/* by an operator */
	ENTRY_ERASED,				/* what was stored of request and response */
	ENTRY_MISMATCH,				/* refused: another request */
	ENTRY_EXPIRED,				/* refused: older than what is remembered */
	ENTRY_REPLAYED,				/* answered with what is stored */
	ENTRY_ABORTED,				/* an attempt was rolled back */
	ENTRY_CONFIGURED,			/* a policy was changed */
	ENTRY_BREAKER,				/* a breaker changed its state */
	ENTRY_INCARNATION,			/* a new life of the database began */
	ENTRY_PRUNED,				/* old entries were removed */
	ENTRY_LOST,					/* notes of the kinds that the worker writes */
	ENTRY_INVALIDATED,			/* the responses of a tag */
	ENTRY_TOKEN_KEY,			/* a new key signs tokens */
	ENTRY_SKIPPED,				/* events that a consumer missed were given up */
	ENTRY_POSITIONED,			/* a consumer goes on elsewhere in a stream */
	ENTRY_REDELIVERED,			/* an event may be processed once more */
	ENTRY_DEAD,					/* an event is given up */
	ENTRY_STEP,					/* a saga's step: how to undo it is known */
	ENTRY_STEP_DONE,			/* ... it is known to be done */
	ENTRY_COMPENSATING,			/* what was done is going to be undone */
	ENTRY_COMPENSATING_STEP,	/* an attempt to undo a step began */
	ENTRY_COMPENSATED_STEP,		/* a step was undone */
	ENTRY_COMPENSATION_RETRY,	/* an attempt failed, and is going to be repeated */
	ENTRY_COMPENSATION_FAILED,	/* ... as often as the policy allows */
	ENTRY_COMPENSATED			/* all steps were undone */
} EntryDecision;

#define ENTRY_DECISIONS (ENTRY_COMPENSATED + 1)

/* columns of a digest, in an entry */
typedef enum EntryDigest
{
	DIGEST_REQUEST,				/* the request's fingerprint */
	DIGEST_RESPONSE,			/* SHA-256 of the response, or error, in UTF-8 */
	DIGEST_REQUEST_SALTED,		/* HMAC-SHA-256 of the request, by its salt */
	DIGEST_RESPONSE_SALTED,
	ENTRY_DIGESTS
} EntryDigest;

/*
 * Texts point into the tuple it was read from, or to the writer's values; they
 * are not null unless said so.  Everything is a part of what is hashed.
 */
typedef struct LedgerEntry
{
	int64		seq;
	int16		version;
	int64		incarnation;	/* 0: none has begun */
	TimestampTz decided_at;
	text	   *decision;
	bool		has_key;		/* it is about one key, not a scope or all */
	Identity	identity;		/* without a key, the scope alone, or nothing */
	int32		event_no;		/* of the key's state changes; 0: none */
	int64		fence;			/* 0: none */
	int32		attempt;		/* 0: none */
	TimestampTz claimed_at;		/* DT_NOBEGIN: never */
	bool		has_digest[ENTRY_DIGESTS];
	uint8		digest[ENTRY_DIGESTS][DIGEST_LENGTH];
	text	   *session_role;
	text	   *role;
	text	   *application;
	bool		has_trace;
	uint8		trace[TRACE_ID_LENGTH];
	text	   *detail;			/* JSON, or NULL */
	bool		malformed;		/* read from a row that we don't write so */
} LedgerEntry;

extern void entry_digest(const text *value, uint8 result[DIGEST_LENGTH]);
extern void entry_commitment(const uint8 salt[DIGEST_LENGTH],
							 const text *value, uint8 result[DIGEST_LENGTH]);
extern text *entry_role(Oid role);
extern const char *entry_decision_name(EntryDecision decision);
extern int	entry_decision_find(const text *name);
extern bool entry_changes_state(EntryDecision decision);
extern int	entry_columns(void);
extern HeapTuple entry_form(TupleDesc desc, LedgerEntry *entry);
extern void entry_deform(TupleDesc desc, HeapTuple tuple, LedgerEntry *entry);
extern bool entry_is_known(const LedgerEntry *entry);
extern void entry_encode(const LedgerEntry *entry, StringInfo data);

#endif							/* IDEMPOTENCY_ENTRY_H */
