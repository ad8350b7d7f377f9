/*-------------------------------------------------------------------------
 *
 * store_open.c
 *		Which tables a key can be in, and their locks.
 *
 * A claim looks into as few tables as it can, and may not miss one.  Live are
 * those in which a row of the scope's policy can be by its expiry (ring.c), in
 * its own ring and in rings that it has left not long ago.  Any other table of
 * such a ring can still hold the row of a transaction that has been running
 * ever since; it is looked into unless it is known to be clean.
 *
 * Locking rules:
 *	- The caller holds the policy lock while a store is open.
 *	- Tables are locked before any key's lock is taken.
 *	- The clock is read after the tables are locked, and the tables are those
 *	  of that moment; otherwise all is let go and tried again.
 *	- A table that was written stays locked until the transaction ends, so
 *	  that it isn't rotated away under it; the others are released at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "fault.h"
#include "store.h"

/* Lock and open one segment's table, checked. */
static StoreSegment *
store_open_segment(Store *store, Segment segment)
{
	StoreSegment *seg = &store->segments[store->nsegments];

	memset(seg, 0, sizeof(*seg));
	seg->segment = segment;
	seg->heap = table_open(catalog_segment_table(segment), store->lockmode);
	if (unlikely(!catalog_segment_is_checked(segment)))
	{
		catalog_require_plain(seg->heap, segment);
		keyrow_check_table(seg->heap);
		catalog_segment_checked(segment);
	}
	store->nsegments++;
	return seg;
}

/* Release a segment; its table stays locked if it was written. */
static void
store_close_segment(Store *store, StoreSegment *seg)
{
	if (seg->scan)
		index_endscan(seg->scan);
	if (seg->slot)
		ExecDropSingleTupleTableSlot(seg->slot);
	if (seg->index)
		index_close(seg->index, store->lockmode);
	table_close(seg->heap, seg->written ? NoLock : store->lockmode);
}

/*
 * Can a transaction be running that claimed under a former policy?  Those that
 * did had their xid before configure() wrote kept_xid.
 */
static bool
store_predecessors_run(const Policy *policy)
{
	FullTransactionId next;
	TransactionId xmin;
	uint64		full_xmin;

	if (policy->kept_xid == 0 || !ActiveSnapshotSet())
		return policy->kept_xid != 0;
	next = ReadNextFullTransactionId();
	xmin = GetActiveSnapshot()->xmin;
	full_xmin = ((uint64) EpochFromFullTransactionId(next) << 32) + xmin;
	if (xmin > XidFromFullTransactionId(next))
		full_xmin -= UINT64CONST(1) << 32;
	return full_xmin < policy->kept_xid;
}

/* the segments to look into, and what is known of them */
typedef struct StorePlan
{
	TimestampTz until;			/* when this ceases to be true */
	int			n;
	Segment		segments[SEGMENT_COUNT];
	bool		live[SEGMENT_COUNT];	/* else only long transactions' rows */
} StorePlan;

/* Add a ring's segments to the plan, less those that are known to be clean. */
static void
store_plan_ring(StorePlan *plan, Ring ring, TimestampTz now, int64 reach)
{
	Segment		segments[RING_SLOTS];
	int			nlive;
	int			n = ring_segments(ring, now, reach, segments, &nlive,
								  &plan->until);

	for (int i = 0; i < n; i++)
	{
		bool		live = i < nlive;

		if (!live && catalog_segment_seen_empty(segments[i]) >=
			ring_clean_epoch(segments[i], now))
			continue;
		plan->segments[plan->n] = segments[i];
		plan->live[plan->n++] = live;
	}
}

/*
 * Which segments can hold a row of this policy that counts at this moment?
 * Those of its own ring first; then those of rings that it has left.
 */
static void
store_plan(StorePlan *plan, const Policy *policy, TimestampTz now)
{
	Ring		own = policy_ring(policy);
	bool		predecessors = store_predecessors_run(policy);

	plan->until = DT_NOEND;
	plan->n = 0;
	for (int i = 0; i < RING_COUNT; i++)
	{
		Ring		ring = (Ring) ((own + i) % RING_COUNT);
		bool		kept = policy->kept_until[ring] > now ||
			(predecessors && policy->kept_until[ring] != DT_NOBEGIN);

		if (kept)
			store_plan_ring(plan, ring, now, RETENTION_FOREVER);
		else if (ring == own)
			store_plan_ring(plan, ring, now, policy_reach(policy));
	}
}

/*
 * Close the segment opened last if nothing can be in it, and remember that.
 */
static void
store_drop_if_clean(Store *store, TimestampTz now)
{
	StoreSegment *seg = &store->segments[store->nsegments - 1];

	if (RelationGetNumberOfBlocks(seg->heap) > 0)
		return;
	catalog_segment_see_empty(seg->segment,
							  ring_epoch(ring_of(seg->segment), now));
	store_close_segment(store, seg);
	store->nsegments--;
}

/*
 * Lock and open the segments in which a row of this policy can be that
 * counts, and verify, with a clock read after the locks are held, that they
 * are those.
 *
 * The snapshot is NULL for a store that decides or writes (it then reads what
 * other transactions are writing, too), or the MVCC snapshot of a mere reader.
 */
void
store_open(Store *store, const Policy *policy, LOCKMODE lockmode,
		   Snapshot snapshot)
{
	store->lockmode = lockmode;
	InitDirtySnapshot(store->dirty);
	store->snapshot = snapshot ? snapshot : &store->dirty;

	for (;;)
	{
		StorePlan	plan;
		TimestampTz now = clock_now();

		store_plan(&plan, policy, now);
		store->valid_from = now;
		store->valid_until = plan.until;
		store->nsegments = 0;
		for (int i = 0; i < plan.n; i++)
		{
			(void) store_open_segment(store, plan.segments[i]);
			if (!plan.live[i])
				store_drop_if_clean(store, now);
		}
		if (likely(store_ready(store, clock_now())))
			return;
		store_close(store);
	}
}

/*
 * Lock and open the given segments, to write rows whose place is known.  A
 * segment that is named twice is opened once.
 */
void
store_open_segments(Store *store, const Segment *segments, int n)
{
	store->lockmode = RowExclusiveLock;
	InitDirtySnapshot(store->dirty);
	store->snapshot = &store->dirty;
	store->nsegments = 0;
	for (int i = 0; i < n; i++)
	{
		if (i == 0 || segments[i] != segments[0])
			(void) store_open_segment(store, segments[i]);
	}
}

/*
 * Are the opened segments still all that count at this moment?  To be asked
 * with the clock that a decision is made by, after the keys' locks are taken.
 */
bool
store_ready(Store *store, TimestampTz now)
{
	if (now < store->valid_from || now >= store->valid_until)
		return false;
	for (int i = 0; i < store->nsegments; i++)
		store->segments[i].sized = false;
	return true;
}

/*
 * Was the segment empty when the caller had got the locks of the keys it asks
 * for?  Then it holds none of them: whoever wrote one did so before that.  A
 * serializable reader has to scan even an empty one, or nobody knows that it
 * has looked.
 */
bool
store_is_empty(const Store *store, StoreSegment *seg)
{
	if (IsolationIsSerializable() && store->snapshot != &store->dirty)
		return false;
	if (!seg->sized)
	{
		seg->empty = !catalog_segment_is_filled(seg->segment, seg->heap);
		seg->sized = true;
	}
	return seg->empty;
}

/*
 * Open as store_open() does, take the key's lock, and read the clock by which
 * to decide.
 */
void
store_open_locked(Store *store, const Policy *policy, Identity *identity,
				  TimestampTz *now)
{
	for (;;)
	{
		store_open(store, policy, RowExclusiveLock, NULL);
		identity_lock(identity);
		*now = clock_now();
		if (likely(store_ready(store, *now)))
			return;
		identity_unlock(identity_id(identity));
		store_close(store);
	}
}

/* Close all segments. */
void
store_close(Store *store)
{
	for (int i = 0; i < store->nsegments; i++)
		store_close_segment(store, &store->segments[i]);
	store->nsegments = 0;
}
