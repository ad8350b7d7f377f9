/*-------------------------------------------------------------------------
 *
 * verify_external.c
 *		Checking the tree against checkpoints that are held elsewhere.
 *
 * Whoever can write all tables can make a ledger that is consistent in itself.
 * It is not consistent with a checkpoint that somebody else has kept: that
 * states a root for a size, and the tree's root for this size is another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/base64.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "verify.h"

#define BASE64_HASH_LENGTH 44	/* of 32 bytes */

/* one of them, being compared */
typedef struct External
{
	const ExternalCheckpoint *checkpoint;
	const char *place;
} External;

/* The next line, without its end; false if there is none. */
static bool
external_line(const char **at, const char *end, const char **line, int *len)
{
	const char *newline = memchr(*at, '\n', end - *at);

	if (*at == end)
		return false;
	*line = *at;
	*len = (newline ? newline : end) - *at;
	*at = newline ? newline + 1 : end;
	return true;
}

/* Read a size: digits, without leading zeros. */
static bool
external_size(const char *line, int len, int64 *size)
{
	*size = 0;
	if (len < 1 || (line[0] == '0' && len > 1))
		return false;
	for (int i = 0; i < len; i++)
	{
		int			digit = line[i] - '0';

		if (digit < 0 || digit > 9 || *size > (PG_INT64_MAX - digit) / 10)
			return false;
		*size = *size * 10 + digit;
	}
	return true;
}

/* Read a root: 32 bytes in base64, as they are written. */
static bool
external_root(const char *line, int len, MerkleHash *root)
{
	return len == BASE64_HASH_LENGTH &&
		pg_b64_decode(line, len, (void *) root->bytes, DIGEST_LENGTH) ==
		DIGEST_LENGTH &&
		strncmp(tree_base64(root), line, len) == 0;
}

/*
 * Read the text of a checkpoint: three lines, after which comes the end, or an
 * empty line and anything.  False if it isn't one.
 */
bool
verify_parse_checkpoint(const char *text, int len,
						ExternalCheckpoint *checkpoint)
{
	const char *end = text + len;
	const char *origin;
	const char *line;
	int			origin_len;
	int			line_len;

	if (!external_line(&text, end, &origin, &origin_len) || origin_len == 0 ||
		!external_line(&text, end, &line, &line_len) ||
		!external_size(line, line_len, &checkpoint->size) ||
		!external_line(&text, end, &line, &line_len) ||
		!external_root(line, line_len, &checkpoint->root))
		return false;
	if (external_line(&text, end, &line, &line_len) && line_len != 0)
		return false;
	checkpoint->origin = pnstrdup(origin, origin_len);
	return true;
}

/* Is it the origin of one of this ledger's incarnations? */
static bool
external_origin_is_known(Verify *verify, const char *origin)
{
	VerifyScan	scan;
	HeapTuple	tuple;
	bool		known = false;

	verify_scan_begin(&scan, VERIFY_INCARNATION, verify->snapshot, 0, NULL);
	while (!known &&
		   (tuple = verify_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;

		known = verify_sound(scan.rel, tuple, VERIFY_INCARNATION) &&
			strcmp(TextDatumGetCString(heap_getattr(tuple, 9,
													RelationGetDescr(scan.rel),
													&isnull)),
				   origin) == 0;
	}
	verify_scan_end(&scan);
	return known;
}

/* A VerifyWork: compare one with the tree. */
static void
external_compare(Verify *verify, void *arg)
{
	const External *external = arg;
	const ExternalCheckpoint *checkpoint = external->checkpoint;
	TreeReader *reader;
	MerkleHash	root;

	if (!verify->bounded)
	{
		verify_error(verify, "external checkpoint not compared",
					 external->place, "The tree could not be read.");
		return;
	}
	if (!external_origin_is_known(verify, checkpoint->origin))
	{
		verify_error(verify, "external checkpoint of another ledger",
					 external->place,
					 "Its origin is that of no incarnation of this one.");
		return;
	}
	if (checkpoint->size > verify->latest.size)
	{
		verify_error(verify, "smaller than the external checkpoint",
					 external->place,
					 INT64_FORMAT " entries were cut: the tree has " INT64_FORMAT ", and had at least " INT64_FORMAT ".",
					 checkpoint->size - verify->latest.size,
					 verify->latest.size, checkpoint->size);
		return;
	}
	verify_require_tree(verify);
	reader = palloc(sizeof(TreeReader));
	(void) tree_open(reader, verify->snapshot);
	merkle_root(reader->digest, checkpoint->size, tree_fetch, reader, &root);
	tree_close(reader);
	if (!digest_equal(root.bytes, checkpoint->root.bytes))
		verify_error(verify, "another root than the external checkpoint",
					 external->place,
					 "Of the first " INT64_FORMAT " entries some were changed, removed or inserted since, and the tree was made anew.",
					 checkpoint->size);
}

/* Compare one, and report what can't be compared. */
static void
external_check(Verify *verify, const ExternalCheckpoint *checkpoint,
			   const char *place)
{
	External	external = {checkpoint, place};
	MemoryContext each = AllocSetContextCreate(CurrentMemoryContext,
											   "idempotency verify external",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(each);
	int			sqlstate = verify_attempt(verify, external_compare, &external);

	MemoryContextSwitchTo(caller);
	MemoryContextDelete(each);
	if (sqlstate == ERRCODE_IDEM_NOT_FOUND)
		verify_warning(verify, "external checkpoint not compared", place,
					   "The tree of its size can't be computed any more, since entries were pruned.");
	else if (sqlstate != 0)
		verify_unreadable(verify, place, sqlstate);
}

/*
 * A VerifyWork: the last checkpoint that is known to be held outside is kept
 * in the database, too; so whoever forges has one thing more to think of.
 */
static void
external_read_witness(Verify *verify, void *arg)
{
	ExternalCheckpoint *latest = arg;
	VerifyScan	scan;
	HeapTuple	tuple;

	verify_scan_begin(&scan, VERIFY_WITNESS, verify->snapshot, 0, NULL);
	while ((tuple = verify_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		ExternalCheckpoint checkpoint = {0};
		text	   *note = NULL;
		bool		isnull;

		if (verify_sound(scan.rel, tuple, VERIFY_WITNESS))
			note = DatumGetTextPP(heap_getattr(tuple, 4,
											   RelationGetDescr(scan.rel),
											   &isnull));
		if (note == NULL ||
			!verify_parse_checkpoint(VARDATA_ANY(note),
									 VARSIZE_ANY_EXHDR(note), &checkpoint) ||
			checkpoint.size != verify_integer(&scan, tuple, 1))
			verify_error(verify, "note damaged", "ledger_witness",
						 "A row's note is not a checkpoint of its size.");
		else if (checkpoint.size > latest->size)
			*latest = checkpoint;
	}
	verify_scan_end(&scan);
}

/* Check the tree against external checkpoints. */
void
verify_external(Verify *verify, ExternalCheckpoint *externals, int n)
{
	ExternalCheckpoint witnessed = {0};
	int			sqlstate;

	sqlstate = verify_attempt(verify, external_read_witness, &witnessed);
	if (sqlstate != 0)
		verify_unreadable(verify, "ledger_witness", sqlstate);
	if (witnessed.size > 0)
		external_check(verify, &witnessed,
					   psprintf("ledger_witness, size " INT64_FORMAT,
								witnessed.size));
	for (int i = 0; i < n; i++)
		external_check(verify, &externals[i],
					   psprintf("external checkpoint %d, of size " INT64_FORMAT,
								i + 1, externals[i].size));
}
