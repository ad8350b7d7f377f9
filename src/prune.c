/*-------------------------------------------------------------------------
 *
 * prune.c
 *		Retention and erasure: prune() and erase().
 *
 * prune() removes entries from the front of the ledger, and of the tree what no
 * proof about the rest needs.  It never goes beyond what somebody outside is
 * known to hold a checkpoint of: what is removed can still be proved to have
 * been there by who has kept it.
 *
 * erase() removes what was stored of a key's requests and responses, in its row
 * and beside its entries, with the salts.  The entries stay as they are, and so
 * does the tree; their commitments then say nothing any more.
 *
 * Both are recorded.  Our own triggers refuse a DELETE to everyone; the library
 * deletes directly.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "errors.h"
#include "explain.h"
#include "key.h"
#include "ledger.h"
#include "tree.h"


COMPAT_FUNCTION_INFO(idempotency_prune);
COMPAT_FUNCTION_INFO(idempotency_erase);

/* The reason, which has to be given.  Raises ID400. */
static text *
prune_reason(const char *function, text *reason)
{
	if (reason == NULL || VARSIZE_ANY_EXHDR(reason) == 0 ||
		VARSIZE_ANY_EXHDR(reason) > REASON_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s needs a reason of up to %d bytes", function,
						REASON_MAX_BYTES)));
	return reason;
}

/*
 * Delete the rows of a table of ours whose index's keys are as given.  Returns
 * how many.
 */
static int64
prune_delete(CatalogRelation table, CatalogRelation index, int nkeys,
			 ScanKey keys)
{
	Relation	rel = table_open(catalog_relation(table), RowExclusiveLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, catalog_relation(index), true,
										  snapshot, nkeys, keys);
	HeapTuple	tuple;
	int64		n = 0;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CHECK_FOR_INTERRUPTS();
		simple_heap_delete(rel, &tuple->t_self);
		n++;
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	CommandCounterIncrement();
	return n;
}

/* Refuse to prune there.  Raises ID400, ID412. */
static void
prune_check(int64 min_index, int64 pruned)
{
	int64		witnessed = tree_witnessed(PG_INT64_MAX, GetActiveSnapshot());

	if (min_index <= pruned || min_index % MERKLE_TILE_WIDTH != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("min_index must be a multiple of %d greater than " INT64_FORMAT,
						MERKLE_TILE_WIDTH, pruned)));
	if (min_index > witnessed)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_FENCE_LOST),
				 errmsg("min_index is beyond what is held outside"),
				 errdetail("The largest checkpoint that was reported to witnessed() has " INT64_FORMAT " entries.",
						   witnessed),
				 errhint("Run idempotency-witness first.")));
}

/*
 * Delete the entries below an index, their payloads, and what no proof about
 * the others needs: tiles whose roots are in a full tile above, and
 * checkpoints of smaller trees.  Returns how many entries.
 */
static int64
prune_below(int64 min_index)
{
	Tile	   *last = palloc(sizeof(Tile));
	int64		tile = min_index / MERKLE_TILE_WIDTH;
	ScanKeyData keys[2];
	int64		n;

	if (!tree_tile(0, tile - 1, GetActiveSnapshot(), last) ||
		!last->has_hashes)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the ledger's tree is incomplete: a tile is missing"),
				 errhint("verify() says more.")));
	ScanKeyInit(&keys[0], 1, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(last->seqs[MERKLE_TILE_WIDTH - 1]));
	n = prune_delete(CATALOG_LEDGER_ENTRY, CATALOG_LEDGER_ENTRY_PKEY, 1, keys);
	(void) prune_delete(CATALOG_LEDGER_PAYLOAD, CATALOG_LEDGER_PAYLOAD_PKEY, 1,
						keys);
	ScanKeyInit(&keys[0], 1, BTLessStrategyNumber, F_INT8LT,
				Int64GetDatum(min_index));
	(void) prune_delete(CATALOG_LEDGER_CHECKPOINT,
						CATALOG_LEDGER_CHECKPOINT_PKEY, 1, keys);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT2EQ,
				Int16GetDatum(0));
	ScanKeyInit(&keys[1], 2, BTLessStrategyNumber, F_INT8LT,
				Int64GetDatum(tile - tile % MERKLE_TILE_WIDTH));
	(void) prune_delete(CATALOG_LEDGER_TILE, CATALOG_LEDGER_TILE_PKEY, 2, keys);
	return n;
}

/* Note from where on the entries are there, and record it. */
static void
prune_record(int64 min_index, int64 n, const text *reason)
{
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_PRUNE),
								 RowExclusiveLock);
	Datum		values[2];
	bool		isnull[2] = {false, false};
	StringInfoData json;

	catalog_require_columns(rel, lengthof(values));
	values[0] = Int64GetDatum(min_index);
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
											isnull));
	table_close(rel, NoLock);

	initStringInfo(&json);
	appendStringInfo(&json, "{\"min_index\": " INT64_FORMAT ", \"entries\": " INT64_FORMAT ", \"reason\": ",
					 min_index, n);
	escape_json(&json, text_to_cstring(reason));
	appendStringInfoChar(&json, '}');
	decision_general(ENTRY_PRUNED, NULL, 0, json.data);
}

/* prune(min_index bigint, reason text) returns bigint */
Datum
idempotency_prune(PG_FUNCTION_ARGS)
{
	text	   *reason = prune_reason("prune()", TEXT_ARGUMENT(1));
	int64		min_index = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT64(0);
	int64		n;

	catalog_check_writable("prune()");
	/* keeps others from sealing and from pruning */
	LockRelationOid(catalog_relation(CATALOG_LEDGER_CHECKPOINT),
					ShareUpdateExclusiveLock);
	PushActiveSnapshot(GetLatestSnapshot());
	prune_check(min_index, tree_pruned(GetActiveSnapshot()));
	n = prune_below(min_index);
	PopActiveSnapshot();
	prune_record(min_index, n, reason);
	PG_RETURN_INT64(n);
}

/* An ExplainVisitor: delete an entry's payloads, and count them. */
static void
erase_payloads(const LedgerEntry *entry, int64 leaf_index, void *arg)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(entry->seq));
	*(int64 *) arg += prune_delete(CATALOG_LEDGER_PAYLOAD,
								   CATALOG_LEDGER_PAYLOAD_PKEY, 1, &key);
}

/*
 * Empty the key's row, if there is one.  Returns whether there was.  Raises
 * ID403, ID409.
 */
static bool
erase_row(OpenKey *key)
{
	KeyRow	   *row = &key->probe.row;

	if (key->probe.result == PROBE_NONE)
		return false;
	if (key->probe.result == PROBE_BUSY || key->probe.own ||
		row->state == KEY_RUNNING || row->state == KEY_RETRY ||
		row->state == KEY_COMPENSATING)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_IN_PROGRESS),
				 errmsg("the data of a claim that is not settled and committed cannot be erased, in scope \"%.*s\"",
						key->identity->scope_len, key->identity->scope),
				 errhint("Wait until it is, or resolve() it.")));
	row->request = row->response = row->error = row->tag = NULL;
	row->withheld = WITHHELD_ERASED;
	decision_number_row(&key->policy, row);
	key_replace(key, row);
	return true;
}

/*
 * erase(scope text, key text, reason text, principal text) returns bigint
 */
Datum
idempotency_erase(PG_FUNCTION_ARGS)
{
	text	   *reason = TEXT_ARGUMENT(2);
	Identity	identity;
	OpenKey		key;
	KeyRow		nothing = {.state = KEY_RUNNING,.claimed_at = NO_TIME};
	int64		n = 0;
	bool		found;

	catalog_check_writable("erase()");
	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(3),
				  TEXT_ARGUMENT(1));
	reason = prune_reason("erase()", reason);
	key_open(&key, &identity);
	found = erase_row(&key);
	PushActiveSnapshot(GetLatestSnapshot());
	explain_find(&identity, GetActiveSnapshot(), erase_payloads, &n);
	PopActiveSnapshot();
	if (found || n > 0)
		(void) decision_key(&key.policy, &identity, ENTRY_ERASED,
							found ? &key.probe.row : &nothing, key.now,
							decision_reason(reason));
	key_close(&key);
	PG_RETURN_INT64(n + (found ? 1 : 0));
}
