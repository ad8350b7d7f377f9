/*-------------------------------------------------------------------------
 *
 * store.h
 *		Finding and writing key rows in the rings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_STORE_H
#define IDEMPOTENCY_STORE_H

#include "access/genam.h"
#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/snapshot.h"

#include "keyrow.h"
#include "policy.h"

/* where a row is */
typedef struct KeyPlace
{
	Segment		segment;
	ItemPointerData tid;
} KeyPlace;

/* one opened segment */
typedef struct StoreSegment
{
	Segment		segment;
	Relation	heap;
	Relation	index;			/* NULL until needed */
	IndexScanDesc scan;			/* NULL until needed */
	TupleTableSlot *slot;
	bool		sized;			/* "empty" was found out since store_ready() */
	bool		empty;
	bool		written;		/* keep the table's lock until commit */
} StoreSegment;

/* the opened segments in which a scope's keys can be */
typedef struct Store
{
	LOCKMODE	lockmode;
	SnapshotData dirty;			/* what the probes' scans read with */
	Snapshot	snapshot;		/* points to dirty, or an MVCC snapshot */
	TimestampTz valid_from;		/* the segments are those of this period */
	TimestampTz valid_until;
	int			nsegments;
	StoreSegment segments[SEGMENT_COUNT];
} Store;

typedef enum ProbeResult
{
	PROBE_NONE,					/* nobody has the key, or nobody any more */
	PROBE_ROW,					/* a row, committed or our own */
	PROBE_BUSY					/* another transaction is writing the row */
} ProbeResult;

typedef struct Probe
{
	ProbeResult result;
	TransactionId busy_xid;		/* PROBE_BUSY: who */
	KeyPlace	place;			/* PROBE_ROW: the rest */
	bool		own;			/* written by this transaction */
	Identity	found;
	KeyRow		row;
} Probe;

/*
 * Is shown a row of a scope that is running, and whether this transaction
 * wrote it; the row and the identity end with the call.
 */
typedef void (*StoreVisitor) (const Identity *identity, const KeyRow *row,
							  bool own, void *arg);

extern void store_open(Store *store, const Policy *policy, LOCKMODE lockmode,
					   Snapshot snapshot);
extern void store_open_locked(Store *store, const Policy *policy,
							  Identity *identity, TimestampTz *now);
extern void store_open_segments(Store *store, const Segment *segments, int n);
extern bool store_is_empty(const Store *store, StoreSegment *seg);
extern bool store_ready(Store *store, TimestampTz now);
extern void store_probe(Store *store, Identity *identity, TimestampTz now,
						Probe *probe);
extern void store_fetch(Store *store, const KeyPlace *place, KeyRow *row);
extern KeyPlace store_insert(Store *store, Identity *identity,
							 const KeyRow *row, Segment segment);
extern void store_insert_many(Store *store, Identity **identities,
							  const KeyRow **rows, int n, Segment segment,
							  KeyPlace *places);
extern KeyPlace store_replace(Store *store, Identity *identity,
							  const KeyRow *row, Segment segment,
							  const KeyPlace *old);
extern KeyPlace store_rewrite(Store *store, Identity *identity,
							  const KeyRow *row, const KeyPlace *old);
extern void store_delete(Store *store, const KeyPlace *place);
extern void store_visit_running(Store *store, const char *scope, int scope_len,
								Snapshot snapshot, StoreVisitor visit,
								void *arg);
extern void store_close(Store *store);
extern text *store_detoast(struct varlena *value);

#endif							/* IDEMPOTENCY_STORE_H */
