/*-------------------------------------------------------------------------
 *
 * proof.c
 *		What the ledger can prove to others: checkpoints, and that an entry, or
 *		an earlier checkpoint, is a part of a later one.
 *
 * A checkpoint is a text of three lines (C2SP tlog-checkpoint): the log's
 * origin, the number of entries, and the root in base64.  It is signed
 * elsewhere: a key in the database would prove nothing against whoever
 * administers it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "guc.h"
#include "ledger.h"
#include "proof.h"
#include "standby.h"

#define NOTE_MAX_BYTES (64 * 1024)

/* attribute numbers of ledger_witness, in the order of src/sql/ledger.sql */
enum
{
	WITNESS_SIZE = 1,
	WITNESS_ORIGIN,
	WITNESS_AT,
	WITNESS_NOTE,
	WITNESS_COLUMNS = WITNESS_NOTE
};

COMPAT_FUNCTION_INFO(idempotency_checkpoint_text);
COMPAT_FUNCTION_INFO(idempotency_inclusion_proof);
COMPAT_FUNCTION_INFO(idempotency_consistency_proof);
COMPAT_FUNCTION_INFO(idempotency_leaf_data);
COMPAT_FUNCTION_INFO(idempotency_witnessed);

COMPAT_NORETURN static void proof_refuse_size(const char *name,
											  const TreeReader *reader);

/* The text of a checkpoint, palloc'd. */
char *
proof_checkpoint_text(const Checkpoint *checkpoint)
{
	return psprintf("%s\n" INT64_FORMAT "\n%s\n", checkpoint->origin,
					checkpoint->size, tree_base64(&checkpoint->root));
}

/* what proof_publishable() looks for */
typedef struct Publishable
{
	XLogRecPtr	flushed;
	int64		told;			/* up to this size it is known outside */
	Checkpoint *checkpoint;
	bool		found;
} Publishable;

/* Take the first checkpoint that standbys have. */
static bool
proof_take_publishable(Checkpoint *checkpoint, void *arg)
{
	Publishable *publishable = arg;

	publishable->found = checkpoint->lsn <= publishable->flushed ||
		checkpoint->size <= publishable->told;
	if (publishable->found)
		*publishable->checkpoint = *checkpoint;
	return !publishable->found;
}

/*
 * The latest checkpoint that may be told: as many standbys have its entries as
 * idempotency.checkpoint_standbys says, or it was witnessed before.  False if
 * there is none.
 */
bool
proof_publishable(Snapshot snapshot, Checkpoint *checkpoint)
{
	Publishable publishable = {0};

	publishable.flushed = RecoveryInProgress() ? PG_UINT64_MAX :
		standby_flushed(guc_checkpoint_standbys);
	publishable.told = tree_witnessed(PG_INT64_MAX, snapshot);
	publishable.checkpoint = checkpoint;
	tree_walk_checkpoints(PG_INT64_MAX, snapshot, proof_take_publishable,
						  &publishable);
	return publishable.found;
}

/* checkpoint_text(size bigint) returns text */
Datum
idempotency_checkpoint_text(PG_FUNCTION_ARGS)
{
	Checkpoint *checkpoint = palloc(sizeof(Checkpoint));
	Snapshot	snapshot = GetActiveSnapshot();
	bool		found;

	if (PG_ARGISNULL(0))
		found = proof_publishable(snapshot, checkpoint);
	else
		found = tree_checkpoint(PG_GETARG_INT64(0), snapshot, checkpoint);
	if (!found)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(proof_checkpoint_text(checkpoint)));
}

/* The hashes of a proof as bytea[]. */
static Datum
proof_array(const MerkleHash *proof, int n)
{
	Datum	   *elements = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
	{
		bytea	   *hash = palloc(VARHDRSZ + DIGEST_LENGTH);

		SET_VARSIZE(hash, VARHDRSZ + DIGEST_LENGTH);
		memcpy(VARDATA(hash), proof[i].bytes, DIGEST_LENGTH);
		elements[i] = PointerGetDatum(hash);
	}
	return PointerGetDatum(construct_array(elements, n, BYTEAOID, -1, false,
										   TYPALIGN_INT));
}

/* Open the tree of this statement's snapshot. */
static TreeReader *
proof_open(void)
{
	TreeReader *reader = palloc(sizeof(TreeReader));

	(void) tree_open(reader, GetActiveSnapshot());
	return reader;
}

/* Raises ID400: the tree isn't as large as that. */
static void
proof_refuse_size(const char *name, const TreeReader *reader)
{
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
			 errmsg("%s is out of range", name),
			 errdetail("The sealed tree has " INT64_FORMAT " entries.",
					   reader->latest.size)));
}

/* inclusion_proof(leaf_index bigint, tree_size bigint) returns bytea[] */
Datum
idempotency_inclusion_proof(PG_FUNCTION_ARGS)
{
	MerkleHash	proof[MERKLE_PROOF_MAX];
	TreeReader *reader = proof_open();
	int64		index = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT64(0);
	int64		size = PG_ARGISNULL(1) ? reader->latest.size :
		PG_GETARG_INT64(1);
	int			n;

	if (size < 1 || size > reader->latest.size)
		proof_refuse_size("tree_size", reader);
	if (index < 0 || index >= size)
		proof_refuse_size("leaf_index", reader);
	n = merkle_inclusion_proof(reader->digest, index, size, tree_fetch,
							   reader, proof);
	tree_close(reader);
	PG_RETURN_DATUM(proof_array(proof, n));
}

/* consistency_proof(size1 bigint, size2 bigint) returns bytea[] */
Datum
idempotency_consistency_proof(PG_FUNCTION_ARGS)
{
	MerkleHash	proof[MERKLE_PROOF_MAX];
	TreeReader *reader = proof_open();
	int64		size1 = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT64(0);
	int64		size2 = PG_ARGISNULL(1) ? reader->latest.size :
		PG_GETARG_INT64(1);
	int			n;

	if (size2 < 1 || size2 > reader->latest.size)
		proof_refuse_size("size2", reader);
	if (size1 < 1 || size1 > size2)
		proof_refuse_size("size1", reader);
	n = merkle_consistency_proof(reader->digest, size1, size2, tree_fetch,
								 reader, proof);
	tree_close(reader);
	PG_RETURN_DATUM(proof_array(proof, n));
}

/* leaf_data(leaf_index bigint) returns bytea */
Datum
idempotency_leaf_data(PG_FUNCTION_ARGS)
{
	TreeReader *reader = proof_open();
	int64		index = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT64(0);
	int64		seq;
	LedgerScan	scan;
	LedgerEntry entry;
	StringInfoData data;

	if (index < 0 || index >= reader->latest.size)
		proof_refuse_size("leaf_index", reader);
	seq = tree_leaf_seq(reader, index);
	initStringInfo(&data);
	appendStringInfoSpaces(&data, VARHDRSZ);
	ledger_scan(&scan, seq - 1, seq, GetActiveSnapshot());
	if (!ledger_scan_next(&scan, &entry))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_FOUND),
				 errmsg("the entry of leaf " INT64_FORMAT " is not there",
						index),
				 index < tree_pruned(GetActiveSnapshot()) ?
				 errdetail("It was pruned.") :
				 errhint("verify() says more.")));
	entry_encode(&entry, &data);
	ledger_scan_end(&scan);
	tree_close(reader);
	SET_VARSIZE(data.data, data.len);
	PG_RETURN_BYTEA_P((bytea *) data.data);
}

/*
 * The size that a note's text states, if its form is that of a signed
 * checkpoint: at least three lines, an empty one, and a signature.  Raises
 * ID400.
 */
static int64
proof_note_size(const char *note)
{
	const char *line = strchr(note, '\n');
	char	   *end = NULL;
	int64		size = 0;

	if (line && line[1] >= '1' && line[1] <= '9' &&
		strstr(note, "\n\n\xE2\x80\x94 ") != NULL)
	{
		errno = 0;
		size = strtoll(line + 1, &end, 10);
	}
	if (size <= 0 || errno != 0 || *end != '\n')
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("note is not a signed checkpoint"),
				 errhint("It is what idempotency-witness prints: the text of a checkpoint, an empty line, and signatures.")));
	return size;
}

/* Note that somebody outside holds this checkpoint. */
static void
proof_record_witness(const Checkpoint *checkpoint, text *note)
{
	Relation	rel = table_open(catalog_relation(CATALOG_LEDGER_WITNESS),
								 ShareRowExclusiveLock);
	Datum		values[WITNESS_COLUMNS];
	bool		isnull[WITNESS_COLUMNS] = {0};

	catalog_require_columns(rel, WITNESS_COLUMNS);
	PushActiveSnapshot(GetLatestSnapshot());
	if (tree_witnessed(checkpoint->size, GetActiveSnapshot()) !=
		checkpoint->size)
	{
		values[WITNESS_SIZE - 1] = Int64GetDatum(checkpoint->size);
		values[WITNESS_ORIGIN - 1] = CStringGetTextDatum(checkpoint->origin);
		values[WITNESS_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
		values[WITNESS_NOTE - 1] = PointerGetDatum(note);
		CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
												isnull));
	}
	PopActiveSnapshot();
	table_close(rel, NoLock);
}

/* witnessed(note text) returns bigint */
Datum
idempotency_witnessed(PG_FUNCTION_ARGS)
{
	Checkpoint *checkpoint = palloc(sizeof(Checkpoint));
	char	   *note;
	char	   *ours;
	int64		size;

	catalog_check_writable("witnessed()");
	if (PG_ARGISNULL(0) ||
		VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0)) > NOTE_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("note must be a text of up to %d bytes",
						NOTE_MAX_BYTES)));
	note = text_to_cstring(PG_GETARG_TEXT_PP(0));
	size = proof_note_size(note);
	if (!tree_checkpoint(size, GetActiveSnapshot(), checkpoint) ||
		(ours = proof_checkpoint_text(checkpoint),
		 strncmp(note, ours, strlen(ours)) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_FENCE_LOST),
				 errmsg("the note's checkpoint is not one of this ledger"),
				 errdetail("Its size is " INT64_FORMAT ".", size),
				 errhint("Keep the note as evidence, and call verify() with it.")));
	proof_record_witness(checkpoint, PG_GETARG_TEXT_PP(0));
	PG_RETURN_INT64(size);
}
