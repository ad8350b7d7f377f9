/*-------------------------------------------------------------------------
 *
 * module.c
 *		Loading the library: wires the subjects together, no more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "breaker.h"
#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "export.h"
#include "fault.h"
#include "guc.h"
#include "history.h"
#include "inbox.h"
#include "launcher.h"
#include "limit.h"
#include "maintain.h"
#include "notable.h"
#include "note.h"
#include "outbox.h"
#include "policy.h"
#include "recorder.h"
#include "refusal.h"
#include "roster.h"
#include "saga.h"
#include "seal.h"
#include "shmem.h"
#include "span.h"
#include "stats.h"
#include "tag.h"
#include "tally.h"
#include "token.h"
#include "txn.h"

#ifdef PG_MODULE_MAGIC_EXT
PG_MODULE_MAGIC_EXT(.name = "idempotency", .version = IDEMPOTENCY_VERSION);
#else
PG_MODULE_MAGIC;
#endif

PGDLLEXPORT void _PG_init(void);

/* Called once in each process that loads the library. */
void
_PG_init(void)
{
	guc_init();
	FAULT_INIT();
	MarkGUCPrefixReserved("idempotency");
	catalog_init();
	policy_init();
	decision_init();
	txn_init();
	shmem_init();
	stats_init();
	breaker_init();
	limit_init();
	note_init();
	history_init();
	refusal_init();
	span_init();
	notable_init();
	tally_init();
	roster_init();
	saga_init();
	maintain_init();
	recorder_init();
	seal_init();
	export_init();
	token_init();
	tag_init();
	inbox_policy_init();
	inbox_stream_init();
	inbox_delivery_init();
	outbox_init();
	launcher_init();
}
