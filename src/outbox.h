/*-------------------------------------------------------------------------
 *
 * outbox.h
 *		Events that exist if and only if the work that emitted them committed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_OUTBOX_H
#define IDEMPOTENCY_OUTBOX_H

#include "access/genam.h"
#include "access/htup.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "identity.h"

#define OUTBOX_NAME_MAX_BYTES	128 /* of a stream, type, relay */
#define OUTBOX_ID_MAX_BYTES		255
#define OUTBOX_KEY_MAX_BYTES	1024
#define OUTBOX_ALL				"*"

/* attribute numbers of outbox_0 to 3, in the order of src/sql/outbox.sql */
enum
{
	OUTBOX_POSITION = 1,
	OUTBOX_EMITTED_AT,
	OUTBOX_ID,
	OUTBOX_STREAM,
	OUTBOX_KEY,
	OUTBOX_TYPE,
	OUTBOX_PAYLOAD,
	OUTBOX_HEADERS,
	OUTBOX_COLUMNS = OUTBOX_HEADERS
};

/* the columns that such a row begins with, which are filled in late */
typedef struct OutboxHead
{
	int64		position;
	TimestampTz emitted_at;
} OutboxHead;

/* an event to be written; id points into the tuple */
typedef struct OutboxEvent
{
	HeapTuple	tuple;
	const char *id;
	int			id_len;
	bool		is_new;			/* nobody can have emitted this id before */
	int			depth;			/* 1 is the top transaction */
	const char *notify;			/* the stream, if listeners are told; or NULL */
} OutboxEvent;

/* a stream's settings; retention and max_age are those of all */
typedef struct OutboxPolicy
{
	int64		retention;		/* microseconds */
	int64		max_age;
	int32		max_payload_bytes;
	bool		notify;
	char	   *allowed_role;	/* "": everybody may */
} OutboxPolicy;

/* how far a relay has come in a stream; the texts are palloc'd */
typedef struct OutboxRelay
{
	bool		exists;
	ItemPointerData tid;
	text	   *relay;
	text	   *stream;
	int64		position;
	int64		read_upto;
	int64		decided;
	int64		fence;
	int64		lease;
	bool		leased;			/* lease_until is not null */
	TimestampTz lease_until;
	TimestampTz moved_at;
	int64		lost_upto;
	text	   *holder;			/* or NULL */
	text	   *allowed_role;	/* or NULL */
} OutboxRelay;

/* from outbox_scan() to outbox_scan_end(): all tables, by position */
typedef struct OutboxScan
{
	int			n;
	Relation	heap[OUTBOX_SLOTS];
	Relation	index[OUTBOX_SLOTS];
	IndexScanDesc scan[OUTBOX_SLOTS];
	TupleTableSlot *slot[OUTBOX_SLOTS];
	int64		position[OUTBOX_SLOTS]; /* of what is in the slot */
	int			last;			/* whose slot was handed out; -1: none */
} OutboxScan;

/* outbox.c */
extern void outbox_init(void);
extern bool outbox_has_written(void);
extern void outbox_check_name(const char *what, const text *name,
							  bool may_be_all);

/* outbox_policy.c */
extern void outbox_policy_get(const text *stream, OutboxPolicy *policy);
extern void outbox_check_role(const char *role, const char *what,
							  const text *name);

/* outbox_table.c */
extern int	outbox_slot(TimestampTz now, int64 retention);
extern Relation outbox_open(int slot, LOCKMODE mode);
extern void outbox_write(OutboxEvent *events, int n);
extern void outbox_scan(OutboxScan *scan, int64 after, int64 upto,
						Snapshot snapshot);
extern TupleTableSlot *outbox_scan_next(OutboxScan *scan);
extern void outbox_scan_end(OutboxScan *scan);

/* outbox_relay.c */
extern bool outbox_relay_lock(const text *relay, const text *stream,
							  bool wait);
extern void outbox_relay_get(text *relay, text *stream, OutboxRelay *row);
extern List *outbox_relays(void);
extern void outbox_relay_put(OutboxRelay *row);
extern void outbox_relay_delete(const OutboxRelay *row);
extern int64 outbox_relay_fence(void);
extern void outbox_relay_require_writable(const char *command);

/* outbox_rotate.c */
extern void outbox_rotate_init(void);

#endif							/* IDEMPOTENCY_OUTBOX_H */
