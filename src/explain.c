/*-------------------------------------------------------------------------
 *
 * explain.c
 *		explain(): the history of one key, from the ledger.
 *
 * The entries have no index by key, since a writer would have to pay for it.
 * Each full tile has a Bloom filter of the keys of its 256 entries: those tiles
 * are read that could have the key, and what is in no full tile yet.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "explain.h"
#include "ledger.h"
#include "policy.h"
#include "tree.h"

COMPAT_FUNCTION_INFO(idempotency_explain);

/* columns of explain(), counted from 0 */
enum
{
	SHOW_EVENT_NO,
	SHOW_DECIDED_AT,
	SHOW_DECISION,
	SHOW_SUMMARY,
	SHOW_ATTEMPT,
	SHOW_FENCE,
	SHOW_CLAIMED_AT,
	SHOW_ROLE,
	SHOW_SESSION_ROLE,
	SHOW_APPLICATION,
	SHOW_TRACE_ID,
	SHOW_REQUEST_DIGEST,
	SHOW_RESPONSE_DIGEST,
	SHOW_DETAIL,
	SHOW_INCARNATION,
	SHOW_SEQ,
	SHOW_LEAF_INDEX,
	SHOW_SEALED,
	SHOW_COLUMNS
};

/* what each decision means, in a sentence */
static const char *const explain_summaries[ENTRY_DECISIONS] = {
	[ENTRY_EXECUTED] = "took effect, and its response was stored",
	[ENTRY_CLAIMED] = "a caller got a lease to execute it",
	[ENTRY_TAKEOVER] = "the lease had run out, and another caller took over",
	[ENTRY_CHECKPOINT] = "the lease's holder reached a recovery point",
	[ENTRY_FINISHED] = "the lease's holder finished it, and its response was stored",
	[ENTRY_FAILED] = "failed for good; duplicates get the error",
	[ENTRY_RETRY] = "failed, and may be tried again",
	[ENTRY_EXHAUSTED] = "failed as often as the policy allows",
	[ENTRY_RELEASED] = "was given up as if it had never been claimed",
	[ENTRY_RESOLVED] = "an operator settled it in place of its holder",
	[ENTRY_FORGOTTEN] = "an operator had it forgotten, so that it could take effect once more",
	[ENTRY_ERASED] = "what was stored of its request and response was erased",
	[ENTRY_MISMATCH] = "the same key with another request was refused",
	[ENTRY_EXPIRED] = "refused, because it was sent before what is remembered",
	[ENTRY_REPLAYED] = "a duplicate got the stored response",
	[ENTRY_ABORTED] = "an attempt was rolled back, and left no effect",
	[ENTRY_STEP] = "a step was registered, with how to undo it",
	[ENTRY_STEP_DONE] = "a step was marked as done",
	[ENTRY_COMPENSATING] = "its steps are going to be undone, the last one first",
	[ENTRY_COMPENSATING_STEP] = "an attempt to undo a step began",
	[ENTRY_COMPENSATED_STEP] = "a step was undone",
	[ENTRY_COMPENSATION_RETRY] = "an attempt to undo a step failed, and is going to be repeated",
	[ENTRY_COMPENSATION_FAILED] = "a step could not be undone; an operator has to see to it",
	[ENTRY_COMPENSATED] = "all its steps were undone"
};

/* Set a nullable bytea of a fixed length. */
static void
explain_bytes(Datum *values, bool *isnull, int column, bool has,
			  const uint8 *bytes, int len)
{
	bytea	   *value;

	isnull[column] = !has;
	if (!has)
		return;
	value = palloc(VARHDRSZ + len);
	SET_VARSIZE(value, VARHDRSZ + len);
	memcpy(VARDATA(value), bytes, len);
	values[column] = PointerGetDatum(value);
}

/* A digest of an entry, or the commitment that stands in its place. */
static void
explain_digest(Datum *values, bool *isnull, int column,
			   const LedgerEntry *entry, EntryDigest plain,
			   EntryDigest salted)
{
	EntryDigest which = entry->has_digest[plain] ? plain : salted;

	explain_bytes(values, isnull, column, entry->has_digest[which],
				  entry->digest[which], DIGEST_LENGTH);
}

/* Return one row; leaf_index is negative if the entry is not sealed. */
static void
explain_put(ReturnSetInfo *result, const LedgerEntry *entry, int64 leaf_index)
{
	Datum		values[SHOW_COLUMNS];
	bool		isnull[SHOW_COLUMNS] = {0};
	int			decision = entry_decision_find(entry->decision);
	const char *summary = decision >= 0 ? explain_summaries[decision] : NULL;

	values[SHOW_EVENT_NO] = Int32GetDatum(entry->event_no);
	isnull[SHOW_EVENT_NO] = entry->event_no == 0;
	values[SHOW_DECIDED_AT] = TimestampTzGetDatum(entry->decided_at);
	values[SHOW_DECISION] = PointerGetDatum(entry->decision);
	values[SHOW_SUMMARY] = CStringGetTextDatum(summary ? summary : "");
	values[SHOW_ATTEMPT] = Int32GetDatum(entry->attempt);
	isnull[SHOW_ATTEMPT] = entry->attempt == 0;
	values[SHOW_FENCE] = Int64GetDatum(entry->fence);
	isnull[SHOW_FENCE] = entry->fence == 0;
	values[SHOW_CLAIMED_AT] = TimestampTzGetDatum(entry->claimed_at);
	isnull[SHOW_CLAIMED_AT] = entry->claimed_at == DT_NOBEGIN;
	values[SHOW_ROLE] = PointerGetDatum(entry->role);
	values[SHOW_SESSION_ROLE] = PointerGetDatum(entry->session_role);
	values[SHOW_APPLICATION] = PointerGetDatum(entry->application);
	explain_bytes(values, isnull, SHOW_TRACE_ID, entry->has_trace,
				  entry->trace, TRACE_ID_LENGTH);
	explain_digest(values, isnull, SHOW_REQUEST_DIGEST, entry, DIGEST_REQUEST,
				   DIGEST_REQUEST_SALTED);
	explain_digest(values, isnull, SHOW_RESPONSE_DIGEST, entry,
				   DIGEST_RESPONSE, DIGEST_RESPONSE_SALTED);
	values[SHOW_DETAIL] = PointerGetDatum(entry->detail);
	isnull[SHOW_DETAIL] = entry->detail == NULL;
	values[SHOW_INCARNATION] = Int64GetDatum(entry->incarnation);
	values[SHOW_SEQ] = Int64GetDatum(entry->seq);
	values[SHOW_LEAF_INDEX] = Int64GetDatum(leaf_index);
	isnull[SHOW_LEAF_INDEX] = leaf_index < 0;
	values[SHOW_SEALED] = BoolGetDatum(leaf_index >= 0);
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/* what explain_find() looks for, and where it looks next */
typedef struct Explain
{
	Identity   *identity;
	TreeReader	reader;
	int64	   *tiles;			/* level 0 tiles that could have the key */
	int			ntiles;
	int			max_tiles;
	int64		last_seq;		/* of the last full tile */
	ExplainVisitor visit;
	void	   *arg;
} Explain;

/* A TileVisitor: keep a tile that could have the key. */
static bool
explain_tile(const Tile *tile, void *arg)
{
	Explain    *explain = arg;

	explain->last_seq = tile->seqs[MERKLE_TILE_WIDTH - 1];
	if (!tile->has_hashes ||
		!tree_filter_has(tile->filter, identity_id(explain->identity)))
		return true;
	if (explain->ntiles == explain->max_tiles)
	{
		explain->max_tiles = Max(64, explain->max_tiles * 2);
		explain->tiles = explain->tiles ?
			repalloc_huge(explain->tiles,
						  explain->max_tiles * sizeof(int64)) :
			palloc(explain->max_tiles * sizeof(int64));
	}
	explain->tiles[explain->ntiles++] = tile->index;
	return true;
}

/* Where is an entry among the seqs of a tile, whose first leaf is given? */
static int64
explain_leaf(const int64 *seqs, int n, int64 first_leaf, int64 seq)
{
	for (int i = 0; i < n; i++)
	{
		if (seqs[i] == seq)
			return first_leaf + i;
	}
	return -1;
}

/* Show the key's entries after one seq up to another. */
static void
explain_scan(Explain *explain, int64 after, int64 upto, const int64 *seqs,
			 int n, int64 first_leaf)
{
	LedgerScan	scan;
	LedgerEntry entry;

	ledger_scan(&scan, after, upto, explain->reader.snapshot);
	while (ledger_scan_next(&scan, &entry))
	{
		CHECK_FOR_INTERRUPTS();
		if (entry.has_key &&
			memcmp(&entry.identity.id, identity_id(explain->identity),
				   UUID_LEN) == 0)
			explain->visit(&entry,
						   explain_leaf(seqs, n, first_leaf, entry.seq),
						   explain->arg);
	}
	ledger_scan_end(&scan);
}

/*
 * Show all entries of a key, in their order, to the visitor; with their leaf
 * indexes, or -1 for those that are not sealed.
 */
void
explain_find(Identity *identity, Snapshot snapshot, ExplainVisitor visit,
			 void *arg)
{
	Explain    *explain = palloc0(sizeof(Explain));
	Tile	   *tile = palloc(sizeof(Tile));
	TreeReader *reader = &explain->reader;

	explain->identity = identity;
	explain->visit = visit;
	explain->arg = arg;
	(void) tree_open(reader, snapshot);
	tree_visit_tiles(0, snapshot, explain_tile, explain);
	for (int i = 0; i < explain->ntiles; i++)
	{
		if (!tree_tile(0, explain->tiles[i], snapshot, tile))
			continue;
		explain_scan(explain, tile->seqs[0] - 1,
					 tile->seqs[MERKLE_TILE_WIDTH - 1], tile->seqs,
					 MERKLE_TILE_WIDTH, tile->index * MERKLE_TILE_WIDTH);
	}
	explain_scan(explain, explain->last_seq, PG_INT64_MAX, reader->tail_seqs,
				 reader->ntail, reader->latest.size - reader->ntail);
	tree_close(reader);
}

/* An ExplainVisitor that returns a row. */
static void
explain_show(const LedgerEntry *entry, int64 leaf_index, void *arg)
{
	explain_put(arg, entry, leaf_index);
}

/* explain(scope text, key text, principal text) returns setof record */
Datum
idempotency_explain(PG_FUNCTION_ARGS)
{
	Identity	identity;
	Policy		policy;

	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(2),
				  TEXT_ARGUMENT(1));
	policy_lock();
	policy_get(identity.scope, identity.scope_len, &policy);
	policy_unlock();
	policy_check_role(&policy, identity.scope, identity.scope_len);
	InitMaterializedSRF(fcinfo, 0);
	explain_find(&identity, GetActiveSnapshot(), explain_show,
				 fcinfo->resultinfo);
	return (Datum) 0;
}
