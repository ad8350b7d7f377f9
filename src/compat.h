/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between PostgreSQL majors; the only file that looks at
 *		PG_VERSION_NUM.
 *
 * The code elsewhere is written to one set of names, defined here as static
 * inlines.  The floor is PostgreSQL 15.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_COMPAT_H
#define IDEMPOTENCY_COMPAT_H

#include "access/genam.h"
#include "access/heapam.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "commands/sequence.h"
#include "common/jsonapi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "idempotency needs PostgreSQL 15 or newer"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/*
 * Declare a function that SQL calls.  The library is compiled with hidden
 * visibility, and only since 16 does PostgreSQL's own macro export it.
 */
#define COMPAT_FUNCTION_INFO(name) \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name)

/* Before a declaration: the function doesn't return. */
#if PG_VERSION_NUM >= 180000
#define COMPAT_NORETURN pg_noreturn
#else
#define COMPAT_NORETURN pg_attribute_noreturn()
#endif

/*
 * Replace the tuple at otid, which nobody else can be changing.  Returns
 * whether the new version needs an index entry of its own (it isn't HOT).
 */
static inline bool
compat_heap_update(Relation rel, ItemPointer otid, HeapTuple tuple)
{
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes update_indexes;

	simple_heap_update(rel, otid, tuple, &update_indexes);
	return update_indexes == TU_All;
#else
	simple_heap_update(rel, otid, tuple);
	return !HeapTupleIsHeapOnly(tuple);
#endif
}

/* Start an index scan on so many keys. */
static inline IndexScanDesc
compat_index_beginscan_keys(Relation heap, Relation index, Snapshot snapshot,
							int n)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, n, 0);
#else
	return index_beginscan(heap, index, snapshot, n, 0);
#endif
}

/* Start an index scan on one key. */
static inline IndexScanDesc
compat_index_beginscan(Relation heap, Relation index, Snapshot snapshot)
{
	return compat_index_beginscan_keys(heap, index, snapshot, 1);
}

/*
 * Delete the tuple at tid without waiting for anybody.  Returns false if
 * somebody else has changed it or is about to.
 */
static inline bool
compat_heap_delete_nowait(Relation rel, ItemPointer tid, CommandId cid)
{
	TM_FailureData failure;

	return heap_delete(rel, tid, cid, InvalidSnapshot, false, &failure,
					   false) == TM_Ok;
}

/* Has the transaction ended?  Doesn't wait. */
static inline bool
compat_xact_has_ended(TransactionId xid)
{
#if PG_VERSION_NUM >= 180000
	return ConditionalXactLockTableWait(xid, false);
#else
	return ConditionalXactLockTableWait(xid);
#endif
}

/*
 * The JSON parser.  Semantic actions are declared as returning
 * CompatJsonAction and end with COMPAT_JSON_ACTION_DONE().
 */

/* Since PostgreSQL 17 a semantic action can stop the parser. */
#if PG_VERSION_NUM >= 170000
typedef JsonParseErrorType CompatJsonAction;
#define COMPAT_JSON_ACTION_DONE() return JSON_SUCCESS
#else
typedef void CompatJsonAction;
#define COMPAT_JSON_ACTION_DONE() return
#endif

/* A lexer over text in the server's encoding that de-escapes strings. */
static inline JsonLexContext *
compat_json_lexer(const char *json, int len)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, len,
										GetDatabaseEncoding(), true);
#else
	return makeJsonLexContextCstringLen(unconstify(char *, json), len,
										GetDatabaseEncoding(), true);
#endif
}

/*
 * Did the parser stop at a \u escape that the server's encoding can't
 * represent?  Before PostgreSQL 16 the parser raises that itself.
 */
static inline bool
compat_json_untranslatable(JsonParseErrorType error)
{
#if PG_VERSION_NUM >= 160000
	if (error == JSON_UNICODE_UNTRANSLATABLE)
		return true;
#endif
	return error == JSON_UNICODE_HIGH_ESCAPE;
}

/*
 * What pg_stat_activity shows for a wait of ours: an event of this name, which
 * *event keeps, where extensions can have their own (17).
 */
static inline uint32
compat_wait_event(uint32 *event, const char *name)
{
#if PG_VERSION_NUM >= 170000
	if (*event == 0)
		*event = WaitEventExtensionNew(name);
	return *event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* Switch off, in this process, the timeout of transactions (17). */
static inline void
compat_no_transaction_timeout(void)
{
#if PG_VERSION_NUM >= 170000
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
#endif
}

/* May the role execute the function? */
static inline AclResult
compat_function_acl(Oid function, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE);
#else
	return pg_proc_aclcheck(function, role, ACL_EXECUTE);
#endif
}

/* May the role connect to the database? */
static inline bool
compat_may_connect(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(DatabaseRelationId, database, role,
						   ACL_CONNECT) == ACLCHECK_OK;
#else
	return pg_database_aclcheck(database, role, ACL_CONNECT) == ACLCHECK_OK;
#endif
}

/* The head of a sequence's WAL record. */
static inline void
compat_seq_record(xl_seq_rec *record, Relation rel)
{
#if PG_VERSION_NUM >= 160000
	record->locator = rel->rd_locator;
#else
	record->node = rel->rd_node;
#endif
}

#endif							/* IDEMPOTENCY_COMPAT_H */
