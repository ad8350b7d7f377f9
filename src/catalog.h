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

/* called when a backend has loaded the catalog; may be NULL */
extern void (*catalog_loaded_hook) (void);

extern void catalog_init(void);
extern Oid	catalog_policy_table(void);
extern Oid	catalog_segment_table(Segment segment);
extern Oid	catalog_segment_index(Segment segment);
extern Oid	catalog_segment_running_index(Segment segment);
extern Oid	catalog_incarnation_table(void);
extern Oid	catalog_fence_sequence(void);
extern Oid	catalog_aborted_table(void);
extern Oid	catalog_token_table(void);
extern Oid	catalog_tag_table(void);
extern Oid	catalog_tag_index(void);
extern Oid	catalog_tag_sequence(void);
extern Oid	catalog_owner(void);
extern bool catalog_segment_is_checked(Segment segment);
extern void catalog_segment_checked(Segment segment);
extern bool catalog_segment_is_filled(Segment segment, Relation heap);
extern int64 catalog_segment_seen_empty(Segment segment);
extern void catalog_segment_see_empty(Segment segment, int64 epoch);
extern uint64 catalog_policy_generation(void);
extern uint64 catalog_incarnation_generation(void);
extern uint64 catalog_token_generation(void);
extern uint64 catalog_tag_changes(void);
extern TupleDesc catalog_result_desc(FunctionCallInfo fcinfo);
extern void catalog_check_writable(const char *command);
extern void catalog_require_columns(Relation rel, int n);
extern void catalog_require_plain(Relation heap, Segment segment);

#endif							/* IDEMPOTENCY_CATALOG_H */
