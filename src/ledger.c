/*-------------------------------------------------------------------------
 *
 * ledger.c
 *		Writing and reading entries of the ledger.
 *
 * An entry is one heap insert and one insert at the right end of an index; no
 * chain, no lock that others wait for.  What makes a change of it show is done
 * later, by whoever seals (seal.c).
 *
 * Locking: its number is drawn under RowExclusiveLock on the sequence, held to
 * the end of the transaction (counter.c): that is how the sealer knows which
 * numbers are decided.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "counter.h"
#include "fault.h"
#include "ledger.h"

#define LEDGER_CHUNK 256		/* entries that are inserted at once */

/* attribute numbers of ledger_payload, in the order of src/sql/ledger.sql */
enum
{
	PAYLOAD_SEQ = 1,
	PAYLOAD_PART,
	PAYLOAD_SALT,
	PAYLOAD_PAYLOAD,
	PAYLOAD_COLUMNS = PAYLOAD_PAYLOAD
};

COMPAT_FUNCTION_INFO(idempotency_ledger_refuse_change);

/*
 * Open the table of entries, and make sure that it is what we take it for.
 * Raises 55000.
 */
static Relation
ledger_open(LOCKMODE mode)
{
	static uint64 checked = 0;
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_ENTRY), mode);

	if (unlikely(checked != catalog_generation(CATALOG_LEDGER_ENTRY)))
	{
		catalog_require_columns(rel, entry_columns());
		catalog_require_ledger(rel);
		checked = catalog_generation(CATALOG_LEDGER_ENTRY);
	}
	return rel;
}

/* Enter a tuple into the index, which is at its right end. */
static void
ledger_index_insert(Relation heap, Relation index, IndexInfo *info, int64 seq,
					ItemPointer tid)
{
	Datum		value = Int64GetDatum(seq);
	bool		isnull = false;

	(void) index_insert(index, &value, &isnull, tid, heap, UNIQUE_CHECK_YES,
						false, info);
}

/* Insert some tuples, whose entries' numbers follow each other. */
static void
ledger_insert(Relation heap, HeapTuple *tuples, int n, int64 first)
{
	CommandId	cid = GetCurrentCommandId(true);
	Relation	index = index_open(catalog_relation(CATALOG_LEDGER_ENTRY_PKEY),
								   RowExclusiveLock);
	IndexInfo  *info = BuildIndexInfo(index);
	TupleTableSlot **slots;

	if (n == 1)
	{
		heap_insert(heap, tuples[0], cid, 0, NULL);
		ledger_index_insert(heap, index, info, first, &tuples[0]->t_self);
		index_close(index, NoLock);
		return;
	}
	slots = palloc(n * sizeof(TupleTableSlot *));
	for (int i = 0; i < n; i++)
	{
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(heap),
											&TTSOpsHeapTuple);
		ExecStoreHeapTuple(tuples[i], slots[i], false);
	}
	heap_multi_insert(heap, slots, n, cid, 0, NULL);
	for (int i = 0; i < n; i++)
	{
		ledger_index_insert(heap, index, info, first + i,
							&slots[i]->tts_tid);
		ExecDropSingleTupleTableSlot(slots[i]);
	}
	index_close(index, NoLock);
}

/* Store an entry's payloads. */
static void
ledger_write_payloads(const LedgerWrite *write)
{
	Relation	rel;

	if (write->npayloads == 0)
		return;
	rel = table_open(catalog_relation(CATALOG_LEDGER_PAYLOAD),
					 RowExclusiveLock);
	catalog_require_columns(rel, PAYLOAD_COLUMNS);
	for (int i = 0; i < write->npayloads; i++)
	{
		const LedgerPayload *payload = &write->payloads[i];
		Datum		values[PAYLOAD_COLUMNS];
		bool		isnull[PAYLOAD_COLUMNS] = {0};
		bytea	   *salt = palloc(VARHDRSZ + DIGEST_LENGTH);

		SET_VARSIZE(salt, VARHDRSZ + DIGEST_LENGTH);
		memcpy(VARDATA(salt), payload->salt, DIGEST_LENGTH);
		values[PAYLOAD_SEQ - 1] = Int64GetDatum(write->entry.seq);
		values[PAYLOAD_PART - 1] = CharGetDatum(payload->part);
		values[PAYLOAD_SALT - 1] = PointerGetDatum(salt);
		values[PAYLOAD_PAYLOAD - 1] = PointerGetDatum(payload->payload);
		CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
												isnull));
	}
	table_close(rel, NoLock);
}

/*
 * Write n entries, in this order, in this transaction.  They become a part of
 * the tree once it has committed.  With payloads, there must be an active
 * snapshot.  Raises 55000 if the table was tampered with, 2200H.
 */
void
ledger_write(LedgerWrite *writes, int n, int64 incarnation)
{
	Relation	heap = ledger_open(RowExclusiveLock);
	HeapTuple	tuples[LEDGER_CHUNK];

	for (int done = 0; done < n;)
	{
		int			chunk = Min(n - done, LEDGER_CHUNK);
		int64		first = counter_draw(catalog_relation(CATALOG_LEDGER_SEQ),
										 chunk);

		for (int i = 0; i < chunk; i++)
		{
			LedgerWrite *write = &writes[done + i];

			write->entry.seq = first + i;
			write->entry.version = ENTRY_VERSION;
			write->entry.incarnation = incarnation;
			tuples[i] = entry_form(RelationGetDescr(heap), &write->entry);
		}
		ledger_insert(heap, tuples, chunk, first);
		for (int i = 0; i < chunk; i++)
		{
			heap_freetuple(tuples[i]);
			ledger_write_payloads(&writes[done + i]);
		}
		done += chunk;
	}
	table_close(heap, NoLock);
	/* whoever seals in this transaction must see them */
	CommandCounterIncrement();
	FAULT_POINT("ledger.after_append");
}

/*
 * Have a payload stored beside an entry, which gets its commitment:
 * HMAC-SHA-256 of the payload in UTF-8, by a new random salt.
 */
void
ledger_salt(LedgerWrite *write, char part, const text *payload,
			EntryDigest digest)
{
	LedgerPayload *stored = &write->payloads[write->npayloads++];

	stored->part = part;
	stored->payload = payload;
	if (!pg_strong_random(stored->salt, sizeof(stored->salt)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	entry_commitment(stored->salt, payload, write->entry.digest[digest]);
	write->entry.has_digest[digest] = true;
}

/*
 * Begin to read the entries after one number up to another, in their order, as
 * the snapshot, which the caller has registered, sees them.
 */
void
ledger_scan(LedgerScan *scan, int64 after, int64 upto, Snapshot snapshot)
{
	ScanKeyData keys[2];

	scan->heap = ledger_open(AccessShareLock);
	scan->index = index_open(catalog_relation(CATALOG_LEDGER_ENTRY_PKEY),
							 AccessShareLock);
	scan->slot = table_slot_create(scan->heap, NULL);
	scan->context = CurrentMemoryContext;
	scan->tuple = NULL;
	scan->free_tuple = false;
	ScanKeyInit(&keys[0], 1, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(upto));
	scan->scan = compat_index_beginscan_keys(scan->heap, scan->index,
											 snapshot, lengthof(keys));
	scan->scan->xs_want_itup = true;
	index_rescan(scan->scan, keys, lengthof(keys), NULL, 0);
}

/*
 * The next entry; it lives until the next call, or until the caller resets its
 * memory, which the scan's own survives.  False: there is none.
 */
bool
ledger_scan_next(LedgerScan *scan, LedgerEntry *entry)
{
	MemoryContext caller = MemoryContextSwitchTo(scan->context);
	bool		found;
	bool		isnull;

	if (scan->free_tuple)
		heap_freetuple(scan->tuple);
	scan->free_tuple = false;
	found = index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot);
	if (found)
		scan->tuple = ExecFetchSlotHeapTuple(scan->slot, false,
											 &scan->free_tuple);
	MemoryContextSwitchTo(caller);
	if (!found)
		return false;
	entry_deform(RelationGetDescr(scan->heap), scan->tuple, entry);
	scan->index_seq =
		DatumGetInt64(index_getattr(scan->scan->xs_itup, 1,
									scan->scan->xs_itupdesc, &isnull));
	return true;
}

/* End a scan. */
void
ledger_scan_end(LedgerScan *scan)
{
	if (scan->free_tuple)
		heap_freetuple(scan->tuple);
	index_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->slot);
	index_close(scan->index, NoLock);
	table_close(scan->heap, AccessShareLock);
}

/* The last number that was drawn; whoever did may still be running. */
int64
ledger_last_seq(void)
{
	return counter_last(catalog_relation(CATALOG_LEDGER_SEQ));
}

/* ledger_refuse_change() returns trigger */
Datum
idempotency_ledger_refuse_change(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("the ledger is append-only"),
			 errdetail("What has been recorded is neither changed nor deleted."),
			 errhint("An operator can remove old entries with prune(), and stored payloads with erase(); both are recorded.")));
	PG_RETURN_NULL();
}
