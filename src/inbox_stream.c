/*-------------------------------------------------------------------------
 *
 * inbox_stream.c
 *		The row that says how far a consumer has come in a stream.
 *
 * A consumer's transaction that accepts an event writes this row, so the row's
 * own xmin guards the stream until the transaction ends, as an offset does that
 * is committed with the work: of one consumer and stream, one transaction at a
 * time accepts; different streams never meet.  The lock of the row's id is held
 * only while a decision is made.
 *
 * From then on the row is this transaction's, and the stream is kept in its
 * memory: further events change that, without a lock, and the row is written
 * once more before the commit (or the prepare).  So a transaction that accepts
 * many events leaves two versions of the row, not one for each.
 *
 * Rolling back to a savepoint: before a subtransaction changes a stream that
 * was kept before it, what it was is saved; a rollback brings that back.  What
 * was first kept in the subtransaction is looked up again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "storage/lmgr.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "inbox.h"

/* up to this many kept streams are found by walking the list */
#define KEPT_LIST_MAX	8

/* what a kept stream was before a subtransaction of this depth changed it */
typedef struct SavedStream
{
	struct SavedStream *next;	/* of an outer one */
	int			depth;
	struct KeptStream *was;
} SavedStream;

/* all of this is in TopTransactionContext */
struct KeptStream
{
	struct KeptStream *next;	/* in the list of all */
	Identity   *name;
	bool		valid;			/* the row is ours, and the rest counts */
	bool		dirty;			/* the row doesn't say it yet */
	int			depth;			/* of the subtransaction that changed it last */
	ItemPointerData tid;
	InboxStream stream;
	SavedStream *saved;			/* the innermost one */
};

typedef struct KeptIndexEntry
{
	pg_uuid_t	id;				/* hash key */
	KeptStream *keep;
} KeptIndexEntry;

static KeptStream *kept = NULL;
static int	nkept = 0;
static HTAB *kept_index = NULL; /* once there are more than KEPT_LIST_MAX */

/* Make a stream one of which nothing is known. */
void
inbox_stream_clear(InboxStream *stream)
{
	InboxRanges ahead = stream->ahead;

	memset(stream, 0, sizeof(*stream));
	stream->floor = INBOX_NO_FLOOR;
	stream->ahead = ahead;
	stream->ahead.n = 0;
}

/* Free what belongs to a stream that was only read. */
void
inbox_stream_free(InboxStream *stream)
{
	if (stream->ahead.ranges)
		pfree(stream->ahead.ranges);
	memset(&stream->ahead, 0, sizeof(stream->ahead));
}

/* Have the index know the stream, and, when it is made, the ones before. */
static void
kept_index_add(KeptStream *keep)
{
	KeptStream *last = keep->next;

	if (nkept <= KEPT_LIST_MAX)
		return;
	if (kept_index == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(pg_uuid_t);
		ctl.entrysize = sizeof(KeptIndexEntry);
		ctl.hcxt = TopTransactionContext;
		kept_index = hash_create("idempotency streams", 256, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		last = NULL;
	}
	for (; keep != last; keep = keep->next)
	{
		KeptIndexEntry *entry = hash_search(kept_index,
											identity_id(keep->name),
											HASH_ENTER, NULL);

		entry->keep = keep;
	}
}

/* The kept stream of this name, valid or not, or NULL. */
static KeptStream *
kept_find(Identity *name)
{
	KeptIndexEntry *entry;

	if (kept == NULL || memcmp(identity_id(kept->name), identity_id(name),
							   UUID_LEN) == 0)
		return kept;
	if (kept_index == NULL)
	{
		KeptStream *keep = kept->next;

		while (keep && memcmp(identity_id(keep->name), identity_id(name),
							  UUID_LEN) != 0)
			keep = keep->next;
		return keep;
	}
	entry = hash_search(kept_index, identity_id(name), HASH_FIND, NULL);
	return entry ? entry->keep : NULL;
}

/* The kept stream of this name, a new one (not valid) if there is none. */
static KeptStream *
kept_enter(Identity *name)
{
	KeptStream *keep = kept_find(name);

	if (keep)
		return keep;
	(void) identity_id(name);
	keep = MemoryContextAllocZero(TopTransactionContext, sizeof(KeptStream));
	keep->name = identity_copy(name, TopTransactionContext);
	keep->next = kept;
	kept = keep;
	nkept++;
	kept_index_add(keep);
	return keep;
}

/* A copy of a set, in the given memory. */
static InboxRanges
stream_copy_ranges(const InboxRanges *set, MemoryContext where)
{
	InboxRanges copy = {NULL, set->n, set->n};

	if (set->n == 0)
		return copy;
	copy.ranges = MemoryContextAlloc(where, set->n * sizeof(InboxRange));
	memcpy(copy.ranges, set->ranges, set->n * sizeof(InboxRange));
	return copy;
}

/* Save what the kept stream is, unless this subtransaction has changed it. */
static void
kept_save(KeptStream *keep)
{
	int			depth = GetCurrentTransactionNestLevel();
	SavedStream *saved;

	if (likely(keep->depth >= depth))
		return;
	saved = MemoryContextAlloc(TopTransactionContext, sizeof(SavedStream));
	saved->was = MemoryContextAlloc(TopTransactionContext,
									sizeof(KeptStream));
	*saved->was = *keep;
	saved->was->stream.ahead = stream_copy_ranges(&keep->stream.ahead,
												  TopTransactionContext);
	saved->depth = depth;
	saved->next = keep->saved;
	keep->saved = saved;
	keep->depth = depth;
}

/* Forget what was saved last. */
static void
kept_drop_saved(KeptStream *keep)
{
	SavedStream *saved = keep->saved;

	keep->saved = saved->next;
	if (saved->was->stream.ahead.ranges)
		pfree(saved->was->stream.ahead.ranges);
	pfree(saved->was);
	pfree(saved);
}

/* Bring back what was saved last. */
static void
kept_restore(KeptStream *keep)
{
	KeptStream *was = keep->saved->was;
	InboxRanges unused = keep->stream.ahead;

	keep->valid = was->valid;
	keep->dirty = was->dirty;
	keep->depth = was->depth;
	keep->tid = was->tid;
	keep->stream = was->stream;
	was->stream.ahead = unused;
	kept_drop_saved(keep);
}

/* Look for the row, under the lock of its id. */
static void
stream_probe(InboxOpen *open)
{
	InboxProbe	probe;

	inbox_table_open(&open->table, CATALOG_INBOX_STREAM_PKEY,
					 RowExclusiveLock);
	open->locked = true;
	identity_lock(open->name);
	inbox_table_probe(&open->table, identity_id(open->name), NULL, &probe);
	if (probe.result == PROBE_BUSY)
	{
		open->busy_xid = probe.busy_xid;
		return;
	}
	open->keep = kept_enter(open->name);
	open->keep->dirty = false;
	open->stream = &open->keep->stream;
	open->found = probe.result == PROBE_ROW;
	open->own = probe.own;
	inbox_stream_clear(open->stream);
	if (!open->found)
		return;
	inbox_stream_deform(RelationGetDescr(open->table.heap), probe.tuple,
						open->stream, open->name);
	open->keep->tid = probe.tuple->t_self;
	heap_freetuple(probe.tuple);
}

/*
 * Open the stream, to decide by it and to change it; one that isn't found is
 * empty.  Returns false if another transaction has it; it has to be closed all
 * the same.  Raises 40001.
 */
bool
inbox_stream_open(InboxOpen *open, Identity *name)
{
	KeptStream *keep = kept_find(name);

	memset(open, 0, sizeof(*open));
	open->name = name;
	if (keep == NULL || !keep->valid)
	{
		stream_probe(open);
		return open->stream != NULL;
	}
	kept_save(keep);
	open->keep = keep;
	open->found = open->own = true;
	open->stream = &keep->stream;
	return true;
}

/*
 * The same, but wait, as for a row's lock, until no other transaction has the
 * stream.  Raises also 55P03 and 40P01.
 */
void
inbox_stream_open_wait(InboxOpen *open, Identity *name)
{
	while (!inbox_stream_open(open, name))
	{
		inbox_stream_close(open);
		XactLockTableWait(open->busy_xid, NULL, NULL, XLTW_None);
	}
}

/*
 * The stream that is opened was changed: make its row this transaction's, if it
 * isn't, and have it say so, at the latest before the commit.
 */
void
inbox_stream_write(InboxOpen *open)
{
	KeptStream *keep = open->keep;

	FAULT_POINT("inbox.before_write");
	if (!open->found || !open->own)
	{
		HeapTuple	tuple = inbox_stream_form(RelationGetDescr(open->table.heap),
										open->name, open->stream);

		if (open->found)
			keep->tid = inbox_table_update(&open->table, &keep->tid, tuple,
										   open->name, true);
		else
			keep->tid = inbox_table_insert(&open->table, tuple,
										   identity_id(open->name));
		heap_freetuple(tuple);
	}
	else
		keep->dirty = true;
	if (!keep->valid)
		keep->depth = GetCurrentTransactionNestLevel();
	keep->valid = true;
	open->found = open->own = true;
	FAULT_POINT("inbox.after_write");
}

/* Delete the stream's row, which was found. */
void
inbox_stream_delete(InboxOpen *open)
{
	if (!open->locked)
	{
		inbox_table_open(&open->table, CATALOG_INBOX_STREAM_PKEY,
						 RowExclusiveLock);
		open->locked = true;
		identity_lock(open->name);
	}
	inbox_table_delete(&open->table, &open->keep->tid);
	open->keep->valid = open->keep->dirty = false;
	open->found = false;
}

/* Close the stream; what was changed must have been written. */
void
inbox_stream_close(InboxOpen *open)
{
	if (!open->locked)
		return;
	identity_unlock(identity_id(open->name));
	inbox_table_close(&open->table);
}

/* Have the rows say what is kept of their streams. */
void
inbox_stream_flush(void)
{
	InboxTable	table = {0};
	bool		snapshot = false;

	for (KeptStream *keep = kept; keep; keep = keep->next)
	{
		HeapTuple	tuple;

		if (!keep->valid || !keep->dirty)
			continue;
		if (table.heap == NULL)
		{
			/* what is toasted needs one */
			snapshot = !ActiveSnapshotSet();
			if (snapshot)
				PushActiveSnapshot(GetTransactionSnapshot());
			inbox_table_open(&table, CATALOG_INBOX_STREAM_PKEY,
							 RowExclusiveLock);
		}
		kept_save(keep);
		tuple = inbox_stream_form(RelationGetDescr(table.heap), keep->name,
							&keep->stream);
		keep->tid = inbox_table_update(&table, &keep->tid, tuple, keep->name,
									   false);
		keep->dirty = false;
		heap_freetuple(tuple);
	}
	if (table.heap)
		inbox_table_close(&table);
	if (snapshot)
		PopActiveSnapshot();
}

/*
 * Read the stream with a snapshot, which the caller has registered, or as this
 * transaction has it; the caller frees it.  Returns false if nothing is known
 * of it.
 */
bool
inbox_stream_read(Identity *name, Snapshot snapshot, InboxStream *stream)
{
	KeptStream *keep = kept_find(name);
	InboxTable	table;
	InboxProbe	probe;

	if (keep && keep->valid)
	{
		*stream = keep->stream;
		stream->ahead = stream_copy_ranges(&keep->stream.ahead,
										   CurrentMemoryContext);
		return true;
	}
	memset(stream, 0, sizeof(*stream));
	inbox_table_open(&table, CATALOG_INBOX_STREAM_PKEY, AccessShareLock);
	inbox_table_probe(&table, identity_id(name), snapshot, &probe);
	if (probe.result == PROBE_ROW)
		inbox_stream_deform(RelationGetDescr(table.heap), probe.tuple, stream,
							name);
	inbox_table_close(&table);
	return probe.result == PROBE_ROW;
}

/* The transaction is about to end, or has; the memory goes with it. */
static void
stream_xact_callback(XactEvent event, void *arg)
{
	if (kept == NULL)
		return;
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
	{
		/* whoever has dropped the extension meanwhile wants none of it */
		if (catalog_is_there())
			inbox_stream_flush();
	}
	else if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
			 event == XACT_EVENT_PREPARE)
	{
		kept = NULL;
		kept_index = NULL;
		nkept = 0;
	}
}

/* A subtransaction of this depth has rolled back. */
static void
kept_abort(KeptStream *keep, int depth)
{
	while (keep->saved && keep->saved->depth >= depth)
		kept_restore(keep);
	if (keep->depth >= depth)
		keep->valid = keep->dirty = false;
}

/* A subtransaction of this depth has become a part of its parent. */
static void
kept_commit(KeptStream *keep, int depth)
{
	SavedStream *saved = keep->saved;

	keep->depth = Min(keep->depth, depth - 1);
	if (saved == NULL || saved->depth < depth)
		return;
	saved->depth = depth - 1;
	if (depth - 1 == 1 || (saved->next && saved->next->depth == depth - 1))
		kept_drop_saved(keep);
}

/* A subtransaction has ended. */
static void
stream_subxact_callback(SubXactEvent event, SubTransactionId subid,
						SubTransactionId parent, void *arg)
{
	int			depth = GetCurrentTransactionNestLevel();

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	for (KeptStream *keep = kept; keep; keep = keep->next)
	{
		if (keep->depth < depth)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB)
			kept_abort(keep, depth);
		else
			kept_commit(keep, depth);
	}
}

/* Register the callbacks; called once from _PG_init. */
void
inbox_stream_init(void)
{
	RegisterXactCallback(stream_xact_callback, NULL);
	RegisterSubXactCallback(stream_subxact_callback, NULL);
}
