/*-------------------------------------------------------------------------
 *
 * catalog.h
 *		Where the extension's own relations are, and whether they still are
 *		what the library takes them for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_CATALOG_H
#define IDEMPOTENCY_CATALOG_H

#include "access/tupdesc.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

#include "ring.h"

#define IDEMPOTENCY_SCHEMA	"idempotency"
#define IDEMPOTENCY_VERSION "0.1.0"

#define OUTBOX_SLOTS		4	/* tables of the outbox */

/* tables, indexes and sequences that are looked up by their names */
typedef enum CatalogRelation
{
	CATALOG_INCARNATION,
	CATALOG_FENCE_SEQ,
	CATALOG_ABORTED_ATTEMPT,
	CATALOG_LEDGER_SEQ,
	CATALOG_LEDGER_ENTRY,
	CATALOG_LEDGER_ENTRY_PKEY,
	CATALOG_LEDGER_PAYLOAD,
	CATALOG_LEDGER_PAYLOAD_PKEY,
	CATALOG_LEDGER_TILE,
	CATALOG_LEDGER_TILE_PKEY,
	CATALOG_LEDGER_CHECKPOINT,
	CATALOG_LEDGER_CHECKPOINT_PKEY,
	CATALOG_LEDGER_WITNESS,
	CATALOG_LEDGER_WITNESS_PKEY,
	CATALOG_LEDGER_PRUNE,
	CATALOG_TOKEN_KEY,
	CATALOG_TAG_GENERATION,
	CATALOG_TAG_GENERATION_PKEY,
	CATALOG_TAG_GENERATION_SEQ,
	CATALOG_INBOX_POLICY,
	CATALOG_INBOX_STREAM,
	CATALOG_INBOX_STREAM_PKEY,
	CATALOG_INBOX_EVENT,
	CATALOG_INBOX_EVENT_PKEY,
	CATALOG_OUTBOX_SEQ,
	CATALOG_OUTBOX_POLICY,
	CATALOG_OUTBOX_RELAY,
	CATALOG_OUTBOX,				/* the first of the ring's tables */
	CATALOG_OUTBOX_PKEY = CATALOG_OUTBOX + OUTBOX_SLOTS,
	CATALOG_OUTBOX_ID = CATALOG_OUTBOX_PKEY + OUTBOX_SLOTS,
	CATALOG_OUTBOX_LAST = CATALOG_OUTBOX_ID + OUTBOX_SLOTS - 1,
	CATALOG_SAGA_RUN,
	CATALOG_SAGA_RUN_PKEY,
	CATALOG_SAGA_RUN_DUE,
	CATALOG_SAGA_STEP,
	CATALOG_SAGA_STEP_PKEY,
	CATALOG_SAGA_CHILD,
	CATALOG_SAGA_CHILD_PKEY,
	CATALOG_RELATIONS
} CatalogRelation;

/* called when a backend has loaded the catalog; may be NULL */
extern void (*catalog_loaded_hook) (void);

extern void catalog_init(void);
extern Oid	catalog_policy_table(void);
extern Oid	catalog_segment_table(Segment segment);
extern Oid	catalog_segment_index(Segment segment);
extern Oid	catalog_segment_running_index(Segment segment);
extern Oid	catalog_relation(CatalogRelation relation);
extern bool catalog_is_there(void);
extern Oid	catalog_owner(void);
extern bool catalog_segment_is_checked(Segment segment);
extern void catalog_segment_checked(Segment segment);
extern bool catalog_segment_is_filled(Segment segment, Relation heap);
extern int64 catalog_segment_seen_empty(Segment segment);
extern void catalog_segment_see_empty(Segment segment, int64 epoch);
extern uint64 catalog_policy_generation(void);
extern uint64 catalog_generation(CatalogRelation relation);
extern TupleDesc catalog_result_desc(FunctionCallInfo fcinfo);
extern void catalog_check_writable(const char *command);
extern void catalog_require_columns(Relation rel, int n);
extern void catalog_require_indexed(Relation heap, CatalogRelation index,
									const char *column, const char *use);
extern void catalog_require_heap(Relation heap, int indexes, const char *use);
extern void catalog_require_ledger(Relation heap);
extern void catalog_require_outbox(Relation heap, int slot);
extern void catalog_require_plain(Relation heap, Segment segment);

#endif							/* IDEMPOTENCY_CATALOG_H */
