/*-------------------------------------------------------------------------
 *
 * ledger.h
 *		Writing and reading entries of the ledger.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_LEDGER_H
#define IDEMPOTENCY_LEDGER_H

#include "access/genam.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "entry.h"

/* a payload to be stored beside an entry; its commitment goes into that */
typedef struct LedgerPayload
{
	char		part;			/* of the two below */
	const text *payload;
	uint8		salt[DIGEST_LENGTH];
} LedgerPayload;

#define PAYLOAD_REQUEST		'q'
#define PAYLOAD_RESPONSE	'r'

/* an entry to be written, with what belongs to it */
typedef struct LedgerWrite
{
	LedgerEntry entry;			/* seq, version and incarnation are filled in */
	int			npayloads;
	LedgerPayload payloads[2];
} LedgerWrite;

/* from ledger_scan() to ledger_scan_end() */
typedef struct LedgerScan
{
	Relation	heap;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	MemoryContext context;		/* of the scan's own memory */
	HeapTuple	tuple;			/* of the entry; copied if it wasn't there */
	bool		free_tuple;
	int64		index_seq;		/* what the index says the entry's seq is */
} LedgerScan;

extern void ledger_write(LedgerWrite *writes, int n, int64 incarnation);
extern void ledger_salt(LedgerWrite *write, char part, const text *payload,
						EntryDigest digest);
extern void ledger_scan(LedgerScan *scan, int64 after, int64 upto,
						Snapshot snapshot);
extern bool ledger_scan_next(LedgerScan *scan, LedgerEntry *entry);
extern void ledger_scan_end(LedgerScan *scan);
extern int64 ledger_last_seq(void);

#endif							/* IDEMPOTENCY_LEDGER_H */
