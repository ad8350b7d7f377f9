/*-------------------------------------------------------------------------
 *
 * inbox.h
 *		Consumers that process each event once: what their parts share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_INBOX_H
#define IDEMPOTENCY_INBOX_H

#include "access/htup.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "claim.h"
#include "identity.h"

/* the scope of a consumer's events by id is this, then the consumer */
#define INBOX_SCOPE			SCOPE_RESERVED
#define INBOX_SCOPE_LEN		((int) sizeof(INBOX_SCOPE) - 1)
#define CONSUMER_MAX_BYTES	(SCOPE_MAX_BYTES - INBOX_SCOPE_LEN)
#define STREAM_MAX_BYTES	PRINCIPAL_MAX_BYTES

/* how a consumer knows an event again; as stored */
typedef enum InboxStrategy
{
	INBOX_ID = 'i',
	INBOX_SEQUENCE = 's',		/* in any order */
	INBOX_ORDERED = 'o',		/* only the next one */
	INBOX_HIGH_WATER = 'h',		/* only later ones */
	INBOX_ID_AND_SEQUENCE = 'b'
} InboxStrategy;

/* A consumer's effective settings in a stream.  Durations are microseconds. */
typedef struct InboxPolicy
{
	InboxStrategy strategy;
	bool		has_retention;	/* else that of the scope */
	int64		retention;
	int64		wait;			/* or WAIT_FOREVER */
	int32		max_holes;
	int32		max_deliveries; /* 0: no limit */
	bool		has_first_seq;	/* else a stream begins with what comes first */
	int64		first_seq;
	Oid			allowed_role;	/* InvalidOid: no restriction */
	bool		role_is_missing;
} InboxPolicy;

/* what accept() is asked */
typedef struct InboxCall
{
	Identity	name;			/* of consumer and stream: no event, key is '' */
	Identity	event;			/* of the event; see inbox_event_make() */
	text	   *event_id;		/* NULL: none */
	bool		has_seq;
	int64		seq;
	int64		subseq;
	bool		has_epoch;
	int64		epoch;
	ArrayType  *after;			/* NULL: none */
	text	   *request;		/* NULL: none */
} InboxCall;

typedef enum InboxOutcome
{
	INBOX_PROCESS,
	INBOX_DUPLICATE,
	INBOX_GAP,
	INBOX_LATE,
	INBOX_BLOCKED,
	INBOX_STALE_EPOCH,
	INBOX_MISMATCH,
	INBOX_IN_PROGRESS,
	INBOX_EXHAUSTED
} InboxOutcome;

typedef struct InboxAnswer
{
	InboxOutcome outcome;
	const char *reason;			/* NULL: none */
	int64		expected_seq;	/* negative: none */
	int64		position;		/* negative: none */
	TimestampTz first_seen;		/* NO_TIME: unknown */
	int32		deliveries;		/* 0: unknown */
} InboxAnswer;

/* events with one subseq whose seqs follow each other; see inbox_ranges.c */
typedef struct InboxRange
{
	int64		subseq;
	int64		from;
	int64		to;
	TimestampTz since;			/* subseq 0: when the gap before it was seen */
} InboxRange;

/* a sorted set of events */
typedef struct InboxRanges
{
	InboxRange *ranges;			/* in memory of the transaction */
	int			n;
	int			max;
} InboxRanges;

#define INBOX_NO_FLOOR	(-1)

/*
 * How far a consumer has come in a stream, as its row says.  Of the events
 * with subseq 0, those from "first" to "seq" were accepted, and those in
 * "ahead", which are behind seq + 1; of the others, those in "ahead", and what
 * was accepted up to the floor is forgotten.
 */
typedef struct InboxStream
{
	InboxStrategy strategy;
	bool		has_epoch;
	int64		epoch;
	bool		has_mark;		/* the three below mean something */
	int64		first;
	int64		seq;			/* first - 1 before the first event */
	int64		subseq;
	bool		begun;			/* nothing before "first" is acceptable */
	int64		floor;
	InboxRanges ahead;
	int64		delivered;
	TimestampTz updated_at;
} InboxStream;

/* a small table of ours with a primary key on an id; see inbox_table.c */
typedef struct InboxTable
{
	CatalogRelation pkey;
	Relation	heap;
	Relation	index;			/* NULL until needed */
	LOCKMODE	lockmode;
	bool		written;		/* keep the table's lock until commit */
} InboxTable;

/* a row of such a table */
typedef struct InboxProbe
{
	ProbeResult result;
	TransactionId busy_xid;		/* PROBE_BUSY: who */
	HeapTuple	tuple;			/* PROBE_ROW: a copy */
	bool		own;			/* written by this transaction */
} InboxProbe;

typedef struct KeptStream KeptStream;

/* a stream, from inbox_stream_open() to inbox_stream_close() */
typedef struct InboxOpen
{
	Identity   *name;
	bool		locked;			/* and the table is open */
	InboxTable	table;
	TransactionId busy_xid;		/* another transaction has it; nothing below
								 * is set then */
	KeptStream *keep;
	bool		found;
	bool		own;			/* the row is this transaction's */
	InboxStream *stream;
} InboxOpen;

/* a row of inbox_event; texts point into the tuple or the caller's values */
typedef struct InboxEvent
{
	char		state;			/* of the two below */
	int32		deliveries;
	TimestampTz noted_at;
	bool		has_epoch;
	int64		epoch;
	bool		has_seq;
	int64		seq;
	int64		subseq;
	text	   *event_id;		/* NULL: none */
} InboxEvent;

#define EVENT_DEAD		'd'
#define EVENT_AGAIN		'r'

/* inbox.c */
extern void inbox_name(Identity *name, text *consumer, text *stream);
extern void inbox_event_make(InboxCall *call, InboxStrategy strategy);
extern bool inbox_knows_ids(InboxStrategy strategy);
extern bool inbox_knows_sequence(InboxStrategy strategy);
extern const char *const inbox_outcome_names[];

extern void inbox_check_id(text *event_id);
extern void inbox_check_number(const char *what, int64 number);
extern void inbox_refuse_all(const Identity *name);
extern void inbox_look_closer(InboxCall *call, const ClaimRequest *patience,
							  ClaimWait *wait, InboxAnswer *answer);
extern void inbox_check_role(const InboxPolicy *policy, const Identity *name);

/* inbox_policy.c */
extern void inbox_policy_init(void);
extern void inbox_policy_lock(void);
extern void inbox_policy_unlock(void);
extern void inbox_policy_get(const Identity *name, InboxPolicy *policy);

/* inbox_ranges.c */
extern bool inbox_ranges_have(const InboxRanges *set, int64 subseq, int64 seq);
extern bool inbox_ranges_grow(const InboxRanges *set, int64 subseq, int64 seq);
extern void inbox_ranges_add(InboxRanges *set, int64 subseq, int64 from,
							 int64 to, TimestampTz since);
extern void inbox_ranges_remove(InboxRanges *set, int at, int n);
extern int	inbox_ranges_holes(const InboxRanges *set);
extern bool inbox_ranges_forget(InboxStream *stream, int keep);
extern bytea *inbox_ranges_encode(const InboxStream *stream);
extern void inbox_ranges_decode(InboxStream *stream, const bytea *data,
								TimestampTz base);

/* inbox_table.c */
extern void inbox_table_open(InboxTable *table, CatalogRelation pkey,
							 LOCKMODE lockmode);
extern void inbox_table_probe(InboxTable *table, const pg_uuid_t *id,
							  Snapshot snapshot, InboxProbe *probe);
extern ItemPointerData inbox_table_insert(InboxTable *table, HeapTuple tuple,
										  const pg_uuid_t *id);
extern ItemPointerData inbox_table_update(InboxTable *table, ItemPointer tid,
										  HeapTuple tuple, Identity *name,
										  bool locked);
extern void inbox_table_delete(InboxTable *table, ItemPointer tid);
extern void inbox_table_close(InboxTable *table);

/* inbox_row.c */
extern HeapTuple inbox_stream_form(TupleDesc desc, Identity *name,
								   const InboxStream *stream);
extern void inbox_stream_name(TupleDesc desc, HeapTuple tuple,
							  Identity *name);
extern void inbox_stream_deform(TupleDesc desc, HeapTuple tuple,
								InboxStream *stream, Identity *name);

/* inbox_stream.c */
extern void inbox_stream_init(void);
extern bool inbox_stream_open(InboxOpen *open, Identity *name);
extern void inbox_stream_open_wait(InboxOpen *open, Identity *name);
extern void inbox_stream_write(InboxOpen *open);
extern void inbox_stream_delete(InboxOpen *open);
extern void inbox_stream_close(InboxOpen *open);
extern void inbox_stream_flush(void);
extern void inbox_stream_clear(InboxStream *stream);
extern void inbox_stream_free(InboxStream *stream);
extern bool inbox_stream_read(Identity *name, Snapshot snapshot,
							  InboxStream *stream);

/* inbox_decide.c */
extern void inbox_answer(InboxAnswer *answer, InboxOutcome outcome,
						 const char *reason);
extern bool inbox_prepare(InboxStream *stream, const InboxPolicy *policy,
						  bool has_epoch, int64 epoch, bool *touched);
extern void inbox_decide(InboxStream *stream, const InboxPolicy *policy,
						 int64 seq, int64 subseq, TimestampTz now,
						 InboxAnswer *answer);
extern void inbox_place(const InboxStream *stream, InboxAnswer *answer);
extern bool inbox_was_accepted(const InboxStream *stream, int64 seq,
							   int64 subseq);
extern void inbox_advance(InboxStream *stream);
extern bool inbox_is_open(const InboxStream *stream);

/* inbox_event.c */
extern TransactionId inbox_event_find(InboxCall *call, InboxEvent *event,
									  bool take, bool *found);
extern bool inbox_event_see(Identity *event, Snapshot snapshot,
							InboxEvent *row);
extern void inbox_event_put(InboxCall *call, const InboxEvent *event);
extern void inbox_event_clear(const Identity *name, int64 after);

/* inbox_after.c */
extern const char *inbox_blocked_by(const InboxCall *call,
									const InboxPolicy *policy);
extern bool inbox_id_is_known(InboxCall *call, Snapshot snapshot);

/* inbox_delivery.c */
extern void inbox_delivery_init(void);
extern int32 inbox_delivery_failures(Identity *event);
extern void inbox_delivery_begin(Identity *event, int32 failures);
extern void inbox_delivery_forget(Identity *event);

#endif							/* IDEMPOTENCY_INBOX_H */
