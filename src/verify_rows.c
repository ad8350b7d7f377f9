/*-------------------------------------------------------------------------
 *
 * verify_rows.c
 *		Reading rows that anything may have happened to.
 *
 * Elsewhere the library trusts its tables: that a column has its type, isn't
 * null where it never is, and that a tuple isn't cut short.  Whoever
 * administers the database can change all of that, and what edits files can do
 * anything.  So here it is looked at before a value is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupmacs.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/pg_lsn.h"

#include "catalog.h"
#include "compat.h"
#include "verify.h"

/* the columns of src/sql/ledger.sql, fence.sql and store.sql */
static const VerifyColumn entry_shape[] = {
	{INT8OID, true}, {TIMESTAMPTZOID, true}, {TIMESTAMPTZOID, false},
	{INT8OID, true}, {INT8OID, false}, {INT4OID, false}, {INT4OID, false},
	{INT2OID, true}, {UUIDOID, false}, {TEXTOID, true}, {TEXTOID, false},
	{TEXTOID, false}, {TEXTOID, false}, {BYTEAOID, false}, {BYTEAOID, false},
	{BYTEAOID, false}, {BYTEAOID, false}, {TEXTOID, true}, {TEXTOID, true},
	{TEXTOID, true}, {BYTEAOID, false}, {TEXTOID, false}
};
static const VerifyColumn payload_shape[] = {
	{INT8OID, true}, {CHAROID, true}, {BYTEAOID, true}, {TEXTOID, true}
};
static const VerifyColumn tile_shape[] = {
	{INT2OID, true}, {INT8OID, true}, {INT8OID, false}, {INT8OID, false},
	{BYTEAOID, true}, {BYTEAOID, false}, {BYTEAOID, false}, {BYTEAOID, false}
};
static const VerifyColumn checkpoint_shape[] = {
	{INT8OID, true}, {TIMESTAMPTZOID, true}, {LSNOID, true}, {INT8OID, true},
	{INT8OID, true}, {BYTEAOID, true}, {TEXTOID, true}, {BYTEAOID, true},
	{BYTEAOID, true}
};
static const VerifyColumn witness_shape[] = {
	{INT8OID, true}, {TEXTOID, true}, {TIMESTAMPTZOID, true}, {TEXTOID, true}
};
static const VerifyColumn prune_shape[] = {
	{INT8OID, true}, {TIMESTAMPTZOID, true}
};
static const VerifyColumn incarnation_shape[] = {
	{INT8OID, true}, {INT8OID, true}, {INT8OID, true}, {INT8OID, true},
	{INT8OID, true}, {INT8OID, true}, {TIMESTAMPTZOID, true},
	{TEXTOID, true}, {TEXTOID, true}
};
static const VerifyColumn key_shape[] = {
	{UUIDOID, true}, {TIMESTAMPTZOID, true}, {TIMESTAMPTZOID, true},
	{TIMESTAMPTZOID, false}, {TIMESTAMPTZOID, false}, {INT4OID, true},
	{INT4OID, true}, {CHAROID, true}, {TEXTOID, true}, {TEXTOID, true},
	{TEXTOID, true}, {BYTEAOID, false}, {TEXTOID, false}, {TEXTOID, false},
	{TEXTOID, false}, {TEXTOID, false}, {TIMESTAMPTZOID, false},
	{INT8OID, false}, {BYTEAOID, false}, {TEXTOID, false}, {TEXTOID, false},
	{TEXTOID, false}, {TEXTOID, false}, {INT4OID, false}, {INT8OID, false},
	{CHAROID, false}, {BOOLOID, false}
};

static const struct
{
	CatalogRelation table;
	CatalogRelation index;		/* CATALOG_RELATIONS: read without one */
	const VerifyColumn *columns;
	int			ncolumns;
}			shapes[VERIFY_TABLES] = {
	[VERIFY_ENTRY] = {CATALOG_LEDGER_ENTRY, CATALOG_LEDGER_ENTRY_PKEY,
	entry_shape, lengthof(entry_shape)},
	[VERIFY_PAYLOAD] = {CATALOG_LEDGER_PAYLOAD, CATALOG_LEDGER_PAYLOAD_PKEY,
	payload_shape, lengthof(payload_shape)},
	[VERIFY_TILE] = {CATALOG_LEDGER_TILE, CATALOG_LEDGER_TILE_PKEY,
	tile_shape, lengthof(tile_shape)},
	[VERIFY_CHECKPOINT] = {CATALOG_LEDGER_CHECKPOINT,
		CATALOG_LEDGER_CHECKPOINT_PKEY, checkpoint_shape,
	lengthof(checkpoint_shape)},
	[VERIFY_WITNESS] = {CATALOG_LEDGER_WITNESS, CATALOG_RELATIONS,
	witness_shape, lengthof(witness_shape)},
	[VERIFY_PRUNE] = {CATALOG_LEDGER_PRUNE, CATALOG_RELATIONS, prune_shape,
	lengthof(prune_shape)},
	[VERIFY_INCARNATION] = {CATALOG_INCARNATION, CATALOG_RELATIONS,
	incarnation_shape, lengthof(incarnation_shape)},
	[VERIFY_KEY] = {CATALOG_RELATIONS, CATALOG_RELATIONS, key_shape,
	lengthof(key_shape)}
};

/* attribute numbers of ledger_tile, in the order of src/sql/ledger.sql */
enum
{
	TILE_LEVEL = 1,
	TILE_INDEX,
	TILE_FIRST_SEQ,
	TILE_LAST_SEQ,
	TILE_ROOT,
	TILE_FILTER,
	TILE_SEQS,
	TILE_HASHES,
	TILE_COLUMNS = TILE_HASHES
};

/* likewise of ledger_checkpoint */
enum
{
	CHECKPOINT_SIZE = 1,
	CHECKPOINT_SEALED_AT,
	CHECKPOINT_LSN,
	CHECKPOINT_SEALED_SEQ,
	CHECKPOINT_INCARNATION,
	CHECKPOINT_ROOT,
	CHECKPOINT_ORIGIN,
	CHECKPOINT_TAIL_SEQS,
	CHECKPOINT_TAIL,
	CHECKPOINT_COLUMNS = CHECKPOINT_TAIL
};

/* Refuse a table that has not the columns that we made.  Raises 55000. */
void
verify_shape(Relation rel, VerifyTable table)
{
	TupleDesc	desc = RelationGetDescr(rel);

	catalog_require_columns(rel, shapes[table].ncolumns);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (column->attisdropped ||
			column->atttypid != shapes[table].columns[i].type)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column %d of table \"%s.%s\" is not what the extension made",
							i + 1, IDEMPOTENCY_SCHEMA,
							RelationGetRelationName(rel))));
	}
}

/*
 * The length of a value of variable length at a place of a tuple of so many
 * bytes; 0 if it can't be one.
 */
static uint32
rows_value_length(const char *tuple, uint32 at, uint32 end)
{
	const char *value = tuple + at;
	uint32		len;

	if (at >= end)
		return 0;
	if (VARATT_IS_1B_E(value))
	{
		if (at + VARHDRSZ_EXTERNAL > end || VARTAG_1B_E(value) != VARTAG_ONDISK)
			return 0;
		len = VARSIZE_EXTERNAL(value);
	}
	else if (VARATT_IS_1B(value))
		len = VARSIZE_1B(value);
	else
	{
		if (at + VARHDRSZ > end)
			return 0;
		len = VARSIZE_4B(value);
		if (len < VARHDRSZ)
			return 0;
	}
	return len <= end - at ? len : 0;
}

/* Is the head of a tuple one of a row of so many columns? */
static bool
rows_head_is_sound(HeapTuple tuple, int natts)
{
	HeapTupleHeader header = tuple->t_data;
	uint32		hoff = header->t_hoff;
	uint32		least = SizeofHeapTupleHeader;

	if (tuple->t_len < SizeofHeapTupleHeader ||
		HeapTupleHeaderGetNatts(header) != natts)
		return false;
	if (HeapTupleHasNulls(tuple))
		least += BITMAPLEN(natts);
	return hoff == MAXALIGN(least) && hoff <= tuple->t_len;
}

/*
 * Can the tuple be taken apart: are its values in it, and those not null that
 * never are?
 */
bool
verify_sound(Relation rel, HeapTuple tuple, VerifyTable table)
{
	TupleDesc	desc = RelationGetDescr(rel);
	const VerifyColumn *columns = shapes[table].columns;
	const bits8 *nulls;
	const char *values;
	uint32		at = 0;
	uint32		end;

	if (!rows_head_is_sound(tuple, desc->natts))
		return false;
	nulls = HeapTupleHasNulls(tuple) ? tuple->t_data->t_bits : NULL;
	values = (const char *) tuple->t_data + tuple->t_data->t_hoff;
	end = tuple->t_len - tuple->t_data->t_hoff;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		uint32		len = column->attlen;

		if (nulls && att_isnull(i, nulls))
		{
			if (columns[i].not_null)
				return false;
			continue;
		}
		if (column->attlen == -1)
		{
			if (at >= end)
				return false;
			at = att_align_pointer(at, column->attalign, -1, values + at);
			len = rows_value_length(values, at, end);
			if (len == 0)
				return false;
		}
		else
			at = att_align_nominal(at, column->attalign);
		if (at + len > end)
			return false;
		at += len;
	}
	return true;
}

/*
 * Begin to read a table by the snapshot, in the order of its index if it has
 * one that we know.  Raises 55000 if it has another shape.
 */
void
verify_scan_begin(VerifyScan *scan, VerifyTable table, Snapshot snapshot,
				  int nkeys, ScanKey keys)
{
	CatalogRelation index = shapes[table].index;

	scan->table = table;
	scan->rel = table_open(catalog_relation(shapes[table].table),
						   AccessShareLock);
	verify_shape(scan->rel, table);
	scan->index = NULL;
	if (index == CATALOG_RELATIONS)
		scan->scan = systable_beginscan(scan->rel, InvalidOid, false,
										snapshot, nkeys, keys);
	else
	{
		scan->index = index_open(catalog_relation(index), AccessShareLock);
		scan->scan = systable_beginscan_ordered(scan->rel, scan->index,
												snapshot, nkeys, keys);
	}
}

/* The next tuple, or NULL. */
HeapTuple
verify_scan_next(VerifyScan *scan, ScanDirection direction)
{
	CHECK_FOR_INTERRUPTS();
	return scan->index == NULL ? systable_getnext(scan->scan) :
		systable_getnext_ordered(scan->scan, direction);
}

/* End a scan. */
void
verify_scan_end(VerifyScan *scan)
{
	if (scan->index)
	{
		systable_endscan_ordered(scan->scan);
		index_close(scan->index, AccessShareLock);
	}
	else
		systable_endscan(scan->scan);
	table_close(scan->rel, AccessShareLock);
}

/*
 * An integer among the columns of fixed length that a table begins with.
 * Raises XX001 if it isn't there.
 */
int64
verify_integer(const VerifyScan *scan, HeapTuple tuple, int column)
{
	TupleDesc	desc = RelationGetDescr(scan->rel);
	bool		isnull = true;
	Datum		value = 0;

	if (rows_head_is_sound(tuple, desc->natts) &&
		tuple->t_len >= tuple->t_data->t_hoff + column * sizeof(int64))
		value = heap_getattr(tuple, column, desc, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("table \"%s.%s\" has a row that is damaged",
						IDEMPOTENCY_SCHEMA,
						RelationGetRelationName(scan->rel))));
	return TupleDescAttr(desc, column - 1)->atttypid == INT2OID ?
		DatumGetInt16(value) : DatumGetInt64(value);
}

/* Copy a bytea that must have exactly this length; false if it hasn't. */
static bool
rows_bytes(Datum value, void *target, int len)
{
	bytea	   *bytes = DatumGetByteaPP(value);
	bool		fits = VARSIZE_ANY_EXHDR(bytes) == len;

	if (fits)
		memcpy(target, VARDATA_ANY(bytes), len);
	if ((Pointer) bytes != DatumGetPointer(value))
		pfree(bytes);
	return fits;
}

/* Copy so many big-endian numbers; false if they aren't so many. */
static bool
rows_seqs(Datum value, int64 *seqs, int n)
{
	if (!rows_bytes(value, seqs, n * sizeof(int64)))
		return false;
	for (int i = 0; i < n; i++)
		seqs[i] = (int64) pg_ntoh64((uint64) seqs[i]);
	return true;
}

/* How many bytes does a bytea have? */
static int
rows_length(Datum value)
{
	return toast_raw_datum_size(value) - VARHDRSZ;
}

/*
 * Read a checkpoint's tuple.  Returns false if it can't be one; then only its
 * size is filled in.
 */
bool
verify_checkpoint(const VerifyScan *scan, HeapTuple tuple,
				  Checkpoint *checkpoint)
{
	Datum		values[CHECKPOINT_COLUMNS];
	bool		isnull[CHECKPOINT_COLUMNS];
	int			len;

	memset(checkpoint, 0, offsetof(Checkpoint, tail_seqs));
	checkpoint->size = verify_integer(scan, tuple, CHECKPOINT_SIZE);
	if (!verify_sound(scan->rel, tuple, VERIFY_CHECKPOINT))
		return false;
	heap_deform_tuple(tuple, RelationGetDescr(scan->rel), values, isnull);
	checkpoint->sealed_at =
		DatumGetTimestampTz(values[CHECKPOINT_SEALED_AT - 1]);
	checkpoint->lsn = DatumGetLSN(values[CHECKPOINT_LSN - 1]);
	checkpoint->sealed_seq = DatumGetInt64(values[CHECKPOINT_SEALED_SEQ - 1]);
	checkpoint->incarnation =
		DatumGetInt64(values[CHECKPOINT_INCARNATION - 1]);
	len = rows_length(values[CHECKPOINT_TAIL_SEQS - 1]);
	if (len % sizeof(int64) != 0 ||
		len >= MERKLE_TILE_WIDTH * sizeof(int64) ||
		!rows_bytes(values[CHECKPOINT_ROOT - 1], &checkpoint->root,
					DIGEST_LENGTH))
		return false;
	checkpoint->ntail = len / sizeof(int64);
	checkpoint->origin = TextDatumGetCString(values[CHECKPOINT_ORIGIN - 1]);
	return rows_seqs(values[CHECKPOINT_TAIL_SEQS - 1], checkpoint->tail_seqs,
					 checkpoint->ntail) &&
		rows_bytes(values[CHECKPOINT_TAIL - 1], checkpoint->tail,
				   checkpoint->ntail * DIGEST_LENGTH);
}

/*
 * Read a tile's tuple; bounds are what it says that its first and last entries
 * are.  Returns false if it can't be one; then only its level and index are
 * filled in.
 */
bool
verify_tile(const VerifyScan *scan, HeapTuple tuple, Tile *tile,
			int64 bounds[2])
{
	Datum		values[TILE_COLUMNS];
	bool		isnull[TILE_COLUMNS];

	tile->level = (int) verify_integer(scan, tuple, TILE_LEVEL);
	tile->index = verify_integer(scan, tuple, TILE_INDEX);
	tile->has_hashes = false;
	if (!verify_sound(scan->rel, tuple, VERIFY_TILE))
		return false;
	heap_deform_tuple(tuple, RelationGetDescr(scan->rel), values, isnull);
	if (isnull[TILE_HASHES - 1] ||
		!rows_bytes(values[TILE_ROOT - 1], &tile->root, DIGEST_LENGTH) ||
		!rows_bytes(values[TILE_HASHES - 1], tile->hashes,
					sizeof(tile->hashes)))
		return false;
	tile->has_hashes = true;
	if (tile->level > 0)
		return true;
	if (isnull[TILE_FIRST_SEQ - 1] || isnull[TILE_LAST_SEQ - 1] ||
		isnull[TILE_FILTER - 1] || isnull[TILE_SEQS - 1] ||
		!rows_bytes(values[TILE_FILTER - 1], tile->filter,
					TREE_FILTER_BYTES) ||
		!rows_seqs(values[TILE_SEQS - 1], tile->seqs, MERKLE_TILE_WIDTH))
		return false;
	bounds[0] = DatumGetInt64(values[TILE_FIRST_SEQ - 1]);
	bounds[1] = DatumGetInt64(values[TILE_LAST_SEQ - 1]);
	return true;
}

/*
 * Look for a tile.  Returns whether there is a row; *damaged says that it
 * can't be read.
 */
bool
verify_find_tile(Verify *verify, int level, int64 index, Tile *tile,
				 bool *damaged)
{
	VerifyScan	scan;
	ScanKeyData keys[2];
	HeapTuple	tuple;
	int64		bounds[2];

	ScanKeyInit(&keys[0], TILE_LEVEL, BTEqualStrategyNumber, F_INT2EQ,
				Int16GetDatum(level));
	ScanKeyInit(&keys[1], TILE_INDEX, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(index));
	verify_scan_begin(&scan, VERIFY_TILE, verify->snapshot, lengthof(keys),
					  keys);
	tuple = verify_scan_next(&scan, ForwardScanDirection);
	*damaged = tuple != NULL && !verify_tile(&scan, tuple, tile, bounds);
	verify_scan_end(&scan);
	return tuple != NULL;
}
