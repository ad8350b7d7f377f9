/*-------------------------------------------------------------------------
 *
 * verify_tables.c
 *		Checking what the walk over the leaves doesn't come by: triggers, tiles
 *		that should not be, and payloads.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "verify.h"

/* Is the trigger that refuses changes of a table there and enabled? */
static void
tables_check_trigger(Verify *verify, CatalogRelation table)
{
	Relation	rel = table_open(catalog_relation(table), AccessShareLock);
	char	   *name = psprintf("%s_append_only", RelationGetRelationName(rel));
	bool		enabled = false;

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &rel->trigdesc->triggers[i];

		if (strcmp(trigger->tgname, name) == 0)
			enabled = trigger->tgenabled == TRIGGER_FIRES_ON_ORIGIN ||
				trigger->tgenabled == TRIGGER_FIRES_ALWAYS;
	}
	if (!enabled)
		verify_warning(verify, "trigger disabled", name,
					   "Nothing refuses UPDATE, DELETE and TRUNCATE of the table.");
	table_close(rel, AccessShareLock);
}

/*
 * Look for tiles that the tree has no place for.  Returns whether all can be
 * taken apart.
 */
static bool
tables_check_tiles(Verify *verify)
{
	VerifyScan	scan;
	HeapTuple	tuple;
	bool		sound = true;

	verify_scan_begin(&scan, VERIFY_TILE, verify->snapshot, 0, NULL);
	while ((tuple = verify_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		int64		level = verify_integer(&scan, tuple, 1);
		int64		index = verify_integer(&scan, tuple, 2);

		sound &= verify_sound(scan.rel, tuple, VERIFY_TILE);
		if (!verify->bounded)
			continue;
		if (level < 0 || level >= TREE_LEVELS || index < 0 ||
			index >= verify->latest.size >> (level + 1) * MERKLE_TILE_HEIGHT)
			verify_error(verify, "tile unexpected",
						 psprintf("tile (" INT64_FORMAT ", " INT64_FORMAT ")",
								  level, index),
						 "A tree of " INT64_FORMAT " entries hasn't got it.",
						 verify->latest.size);
	}
	verify_scan_end(&scan);
	return sound;
}

/* Can all checkpoints be taken apart? */
static bool
tables_checkpoints_are_sound(Verify *verify)
{
	VerifyScan	scan;
	HeapTuple	tuple;
	bool		sound = true;

	verify_scan_begin(&scan, VERIFY_CHECKPOINT, verify->snapshot, 0, NULL);
	while (sound &&
		   (tuple = verify_scan_next(&scan, ForwardScanDirection)) != NULL)
		sound = verify_sound(scan.rel, tuple, VERIFY_CHECKPOINT);
	verify_scan_end(&scan);
	return sound;
}

/*
 * A VerifyWork: the triggers, and tiles that should not be; and can the tree be
 * read by those who trust it?
 */
void
verify_tables(Verify *verify, void *arg)
{
	tables_check_trigger(verify, CATALOG_LEDGER_ENTRY);
	tables_check_trigger(verify, CATALOG_LEDGER_TILE);
	tables_check_trigger(verify, CATALOG_LEDGER_CHECKPOINT);
	verify->tree_sound = tables_check_tiles(verify) &&
		tables_checkpoints_are_sound(verify);
}

/* To be called before the tree is read by those.  Raises XX001. */
void
verify_require_tree(const Verify *verify)
{
	if (!verify->tree_sound)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("tiles or checkpoints are damaged")));
}

/* Check a payload against its entry, found or not. */
static void
tables_check_payload(Verify *verify, char part, bytea *salt,
					 const text *payload, const LedgerEntry *entry,
					 const char *place)
{
	EntryDigest which = part == PAYLOAD_REQUEST ? DIGEST_REQUEST_SALTED :
		DIGEST_RESPONSE_SALTED;
	uint8		commitment[DIGEST_LENGTH];

	if (entry == NULL || !entry->has_digest[which] ||
		(part != PAYLOAD_REQUEST && part != PAYLOAD_RESPONSE))
	{
		verify_error(verify, "payload without entry", place,
					 "No entry has a commitment to it.");
		return;
	}
	if (VARSIZE_ANY_EXHDR(salt) == DIGEST_LENGTH)
	{
		entry_commitment((const uint8 *) VARDATA_ANY(salt), payload,
						 commitment);
		if (digest_equal(commitment, entry->digest[which]))
			return;
	}
	verify_error(verify, "payload changed", place,
				 "It is not what its entry's commitment is to.");
}

/* A VerifyWork: each stored payload against its entry's commitment. */
void
verify_payloads(Verify *verify, void *arg)
{
	MemoryContext each = AllocSetContextCreate(CurrentMemoryContext,
											   "idempotency verify payload",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller;
	EntryLookup lookup;
	VerifyScan	scan;
	HeapTuple	tuple;
	int64		n = 0;

	verify_lookup_begin(&lookup, verify->snapshot);
	verify_scan_begin(&scan, VERIFY_PAYLOAD, verify->snapshot, 0, NULL);
	while ((tuple = verify_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		Datum		values[4];
		bool		isnull[4];
		LedgerEntry entry;
		int64		seq;
		bool		found;

		verify_progress(++n, 0, "payloads compared");
		if (!verify_sound(scan.rel, tuple, VERIFY_PAYLOAD))
		{
			verify_error(verify, "row damaged", "ledger_payload",
						 "A row can't be taken apart.");
			continue;
		}
		caller = MemoryContextSwitchTo(each);
		MemoryContextReset(each);
		heap_deform_tuple(tuple, RelationGetDescr(scan.rel), values, isnull);
		seq = DatumGetInt64(values[0]);
		found = verify_lookup(&lookup, seq, &entry);
		tables_check_payload(verify, DatumGetChar(values[1]),
							 DatumGetByteaPP(values[2]),
							 DatumGetTextPP(values[3]),
							 found ? &entry : NULL,
							 psprintf("ledger_payload, seq " INT64_FORMAT,
									  seq));
		MemoryContextSwitchTo(caller);
	}
	verify_scan_end(&scan);
	verify_lookup_end(&lookup);
	MemoryContextDelete(each);
}
