/*-------------------------------------------------------------------------
 *
 * verify.h
 *		Checking that the ledger is what it was: what the parts of verify()
 *		share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_VERIFY_H
#define IDEMPOTENCY_VERIFY_H

#include "access/htup.h"
#include "access/genam.h"
#include "lib/stringinfo.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "catalog.h"
#include "entry.h"
#include "ledger.h"
#include "tree.h"

/* one call of verify() */
typedef struct Verify
{
	ReturnSetInfo *result;
	MemoryContext context;		/* lives as long as the call */
	Snapshot	snapshot;		/* registered; everything is read by it */
	int64		from;			/* leaf indexes asked for, the first ... */
	int64		upto;			/* ... and the one after the last */
	int64		pruned;			/* leaves below this index were pruned; or 0 */
	bool		pruned_here;	/* by this transaction, which still has to record it */
	Checkpoint	latest;			/* size 0: nothing is sealed */
	bool		bounded;		/* the rest of this is known */
	bool		tree_sound;		/* the tree's rows can be taken apart */
	const char *step;			/* what is being checked */
	int64		nfindings;		/* of this step */
	char		message[256];	/* of the last failed attempt */
} Verify;

#define VERIFY_FINDINGS_MAX 1000	/* of a step; more are only counted */

/* does some work; what it raises becomes a finding */
typedef void (*VerifyWork) (Verify *verify, void *arg);

/* what a column of a table of ours must be */
typedef struct VerifyColumn
{
	Oid			type;
	bool		not_null;
} VerifyColumn;

typedef enum VerifyTable
{
	VERIFY_ENTRY,
	VERIFY_PAYLOAD,
	VERIFY_TILE,
	VERIFY_CHECKPOINT,
	VERIFY_WITNESS,
	VERIFY_PRUNE,
	VERIFY_INCARNATION,
	VERIFY_KEY,					/* any table of keys */
	VERIFY_TABLES
} VerifyTable;

/* an index scan of one of the tree's tables */
typedef struct VerifyScan
{
	VerifyTable table;
	Relation	rel;
	Relation	index;
	SysScanDesc scan;
} VerifyScan;

/* the entries, read in the order of the index, beside the tree's leaves */
typedef struct EntryCursor
{
	Verify	   *verify;
	MemoryContext scan_context; /* what the open scan needs */
	MemoryContext each;			/* what one entry needs */
	DigestContext *digest;		/* of the present attempt */
	bool		open;
	LedgerScan	scan;
	int64		after;			/* up to here they have been read */
	bool		ended;			/* there are no more */
	bool		has;			/* one has been read and not compared */
	bool		sound;			/* it can be looked into */
	int64		seq;			/* what the index says */
	LedgerEntry entry;
	bool		gap;			/* what leaves come before is not known */
	bool		broken;			/* there is no table to be read */
	int64		drawn;			/* the last number */
	StringInfoData data;
	int64		missing;		/* in a row, up to now */
	int64		missing_leaf[2];	/* the first and the last of them */
	int64		missing_seq[2];
	int64		prune_recorded; /* the largest min_index that an entry names */
	int64		unsealed;		/* behind the last leaf */
	TimestampTz unsealed_since; /* DT_NOEND: none */
} EntryCursor;

/* an entry that is looked up by its number */
typedef struct EntryLookup
{
	LedgerScan	scan;
	MemoryContext context;
} EntryLookup;

/* verify.c */
extern void verify_error(Verify *verify, const char *what, const char *place,
						 const char *detail,...) pg_attribute_printf(4, 5);
extern void verify_warning(Verify *verify, const char *what,
						   const char *place,
						   const char *detail,...) pg_attribute_printf(4, 5);
extern int	verify_attempt(Verify *verify, VerifyWork work, void *arg);
extern void verify_unreadable(Verify *verify, const char *place, int sqlstate);
extern void verify_progress(int64 n, int64 total, const char *what);

/* verify_rows.c */
extern void verify_shape(Relation rel, VerifyTable table);
extern bool verify_sound(Relation rel, HeapTuple tuple, VerifyTable table);
extern void verify_scan_begin(VerifyScan *scan, VerifyTable table,
							  Snapshot snapshot, int nkeys, ScanKey keys);
extern HeapTuple verify_scan_next(VerifyScan *scan, ScanDirection direction);
extern void verify_scan_end(VerifyScan *scan);
extern int64 verify_integer(const VerifyScan *scan, HeapTuple tuple,
							int column);
extern bool verify_checkpoint(const VerifyScan *scan, HeapTuple tuple,
							  Checkpoint *checkpoint);
extern bool verify_tile(const VerifyScan *scan, HeapTuple tuple, Tile *tile,
						int64 bounds[2]);
extern bool verify_find_tile(Verify *verify, int level, int64 index,
							 Tile *tile, bool *damaged);

/* verify_entries.c */
extern void verify_cursor_init(EntryCursor *cursor, Verify *verify,
							   int64 after);
extern void verify_cursor_reset(EntryCursor *cursor);
extern void verify_cursor_close(EntryCursor *cursor);
extern const LedgerEntry *verify_leaf(EntryCursor *cursor, int64 leaf,
									  int64 seq, const MerkleHash *hash);
extern void verify_unreadable_leaf(EntryCursor *cursor, int64 leaf, int64 seq,
								   int sqlstate);
extern void verify_rest(EntryCursor *cursor);
extern void verify_missing(EntryCursor *cursor);
extern void verify_lookup_begin(EntryLookup *lookup, Snapshot snapshot);
extern bool verify_lookup(EntryLookup *lookup, int64 seq, LedgerEntry *entry);
extern void verify_lookup_end(EntryLookup *lookup);
extern void verify_heap(Verify *verify, void *arg);

/* the other steps */
extern void verify_tree(Verify *verify);
extern void verify_tables(Verify *verify, void *arg);
extern void verify_require_tree(const Verify *verify);
extern void verify_keys(Verify *verify, void *arg);
extern void verify_payloads(Verify *verify, void *arg);

/* verify_external.c */
typedef struct ExternalCheckpoint
{
	char	   *origin;
	int64		size;
	MerkleHash	root;
} ExternalCheckpoint;

extern bool verify_parse_checkpoint(const char *text, int len,
									ExternalCheckpoint *checkpoint);
extern void verify_external(Verify *verify, ExternalCheckpoint *externals,
							int n);

#endif							/* IDEMPOTENCY_VERIFY_H */
