/*-------------------------------------------------------------------------
 *
 * saga_table.c
 *		The rows of sagas and of their steps.
 *
 * This file alone knows the columns of src/sql/saga.sql.  The tables are read
 * and written as catalogs are, so that nobody's trigger, rule or default takes
 * part.
 *
 * Locking: whoever writes a saga's rows holds its key's lock, and writes the
 * key's row in the same transaction.  So whoever has opened the key (key.c),
 * and found nobody's hand on it, sees the saga's rows as they are, with a
 * snapshot taken after that.  Others look for what is due without any lock,
 * and decide nothing by it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "saga.h"

/* attribute numbers, in the order of src/sql/saga.sql */
enum
{
	RUN_ID = 1,
	RUN_FENCE,
	RUN_STARTED_AT,
	RUN_CHANGED_AT,
	RUN_DUE_AT,
	RUN_DEADLINE,
	RUN_PARENT,
	RUN_STEP,
	RUN_STATE,
	RUN_TODO,
	RUN_SCOPE,
	RUN_PRINCIPAL,
	RUN_KEY,
	RUN_REASON,
	RUN_COLUMNS = RUN_REASON
};

enum
{
	STEP_ID = 1,
	STEP_NO,
	STEP_ATTEMPT,
	STEP_FENCE,
	STEP_REGISTERED_AT,
	STEP_DONE_AT,
	STEP_NOT_BEFORE,
	STEP_LEASE_UNTIL,
	STEP_SETTLED_AT,
	STEP_INCARNATION,
	STEP_ROLE_OID,
	STEP_STATE,
	STEP_NAME,
	STEP_HANDLER,
	STEP_ROLE,
	STEP_ARGS,
	STEP_RESULT,
	STEP_ERROR,
	STEP_CHILD_SCOPE,
	STEP_CHILD_PRINCIPAL,
	STEP_CHILD_KEY,
	STEP_COLUMNS = STEP_CHILD_KEY
};

enum
{
	CHILD_ID = 1,
	CHILD_PARENT,
	CHILD_COLUMNS = CHILD_PARENT
};

/* columns and indexes of the three tables */
static const struct
{
	CatalogRelation table;
	int			columns;
	int			indexes;
}			saga_shapes[] = {
	{CATALOG_SAGA_RUN, RUN_COLUMNS, 2},
	{CATALOG_SAGA_STEP, STEP_COLUMNS, 1},
	{CATALOG_SAGA_CHILD, CHILD_COLUMNS, 1}
};

/* Open one of the tables.  Raises 55000 if it isn't what it was. */
static Relation
table_of(CatalogRelation relation, LOCKMODE mode)
{
	static uint64 checked[CATALOG_RELATIONS];
	Relation	rel = table_open(catalog_relation(relation), mode);

	if (unlikely(checked[relation] != catalog_generation(relation)))
	{
		uint64		generation = catalog_generation(relation);

		for (int i = 0; i < lengthof(saga_shapes); i++)
		{
			if (saga_shapes[i].table != relation)
				continue;
			catalog_require_columns(rel, saga_shapes[i].columns);
			catalog_require_heap(rel, saga_shapes[i].indexes,
								 "remember sagas");
		}
		checked[relation] = generation;
	}
	return rel;
}

/* one look into a table, from look_begin() to look_end() */
typedef struct Look
{
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
} Look;

/*
 * Begin to read the rows that the keys select, by an index, or (CATALOG_RELATIONS)
 * all of them; with a new snapshot.
 */
static void
look_begin(Look *look, CatalogRelation relation, CatalogRelation index,
		   LOCKMODE mode, int nkeys, ScanKey keys)
{
	bool		indexed = index != CATALOG_RELATIONS;

	look->rel = table_of(relation, mode);
	look->snapshot = RegisterSnapshot(GetLatestSnapshot());
	look->scan = systable_beginscan(look->rel,
									indexed ? catalog_relation(index) :
									InvalidOid, indexed, look->snapshot,
									nkeys, keys);
}

/* A copy of the next row, or NULL. */
static HeapTuple
look_next(Look *look)
{
	HeapTuple	tuple;

	CHECK_FOR_INTERRUPTS();
	tuple = systable_getnext(look->scan);
	return HeapTupleIsValid(tuple) ? heap_copytuple(tuple) : NULL;
}

/* End the look; what was written keeps its table locked. */
static void
look_end(Look *look, bool written)
{
	systable_endscan(look->scan);
	UnregisterSnapshot(look->snapshot);
	table_close(look->rel, written ? NoLock : AccessShareLock);
	if (written)
		CommandCounterIncrement();
}

/* A key for an id. */
static void
key_of_id(ScanKey key, const pg_uuid_t *id)
{
	ScanKeyInit(key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
}

/* Insert (tid is NULL) or replace a row.  Fills in where it is. */
static void
table_write(CatalogRelation relation, const ItemPointerData *at,
			Datum *values, bool *isnull, ItemPointer tid)
{
	Relation	rel = table_of(relation, RowExclusiveLock);
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel), values,
										isnull);

	if (at)
	{
		ItemPointerData old = *at;

		CatalogTupleUpdate(rel, &old, tuple);
	}
	else
		CatalogTupleInsert(rel, tuple);
	*tid = tuple->t_self;
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Set a nullable timestamp. */
static void
set_time(Datum *values, bool *isnull, int column, TimestampTz at)
{
	values[column - 1] = TimestampTzGetDatum(at);
	isnull[column - 1] = at == NO_TIME;
}

/* Set a nullable text. */
static void
set_text(Datum *values, bool *isnull, int column, const text *value)
{
	values[column - 1] = PointerGetDatum(value);
	isnull[column - 1] = value == NULL;
}

/* Set an identity's text. */
static void
set_name(Datum *values, int column, const char *name, int len)
{
	values[column - 1] = PointerGetDatum(cstring_to_text_with_len(name, len));
}

/* A nullable timestamp. */
static TimestampTz
get_time(const Datum *values, const bool *isnull, int column)
{
	return isnull[column - 1] ? NO_TIME :
		DatumGetTimestampTz(values[column - 1]);
}

/* A nullable text, detoasted. */
static text *
get_text(const Datum *values, const bool *isnull, int column)
{
	return isnull[column - 1] ? NULL : DatumGetTextPP(values[column - 1]);
}

/* An identity's text. */
static const char *
get_name(Datum value, int *len)
{
	text	   *name = DatumGetTextPP(value);

	*len = VARSIZE_ANY_EXHDR(name);
	return VARDATA_ANY(name);
}

/* Read a row of saga_run, which points into the tuple. */
static void
run_deform(TupleDesc desc, HeapTuple tuple, SagaRun *run)
{
	Identity   *identity = &run->identity;
	Datum		values[RUN_COLUMNS];
	bool		isnull[RUN_COLUMNS];

	heap_deform_tuple(tuple, desc, values, isnull);
	identity->id = *DatumGetUUIDP(values[RUN_ID - 1]);
	identity->has_id = true;
	identity->scope = get_name(values[RUN_SCOPE - 1], &identity->scope_len);
	identity->principal = get_name(values[RUN_PRINCIPAL - 1],
								   &identity->principal_len);
	identity->key = get_name(values[RUN_KEY - 1], &identity->key_len);
	run->fence = DatumGetInt64(values[RUN_FENCE - 1]);
	run->state = (SagaState) DatumGetChar(values[RUN_STATE - 1]);
	run->todo = (SagaTodo) DatumGetChar(values[RUN_TODO - 1]);
	run->started_at = DatumGetTimestampTz(values[RUN_STARTED_AT - 1]);
	run->changed_at = DatumGetTimestampTz(values[RUN_CHANGED_AT - 1]);
	run->due_at = DatumGetTimestampTz(values[RUN_DUE_AT - 1]);
	run->deadline = DatumGetTimestampTz(values[RUN_DEADLINE - 1]);
	run->step = DatumGetInt32(values[RUN_STEP - 1]);
	run->has_parent = !isnull[RUN_PARENT - 1];
	if (run->has_parent)
		run->parent = *DatumGetUUIDP(values[RUN_PARENT - 1]);
	run->reason = get_text(values, isnull, RUN_REASON);
	run->tid = tuple->t_self;
}

/* Write a row of saga_run, in the place of another unless "at" is NULL. */
static void
run_write(SagaRun *run, const ItemPointerData *at)
{
	Identity   *identity = &run->identity;
	Datum		values[RUN_COLUMNS];
	bool		isnull[RUN_COLUMNS] = {0};

	values[RUN_ID - 1] = UUIDPGetDatum(identity_id(identity));
	values[RUN_FENCE - 1] = Int64GetDatum(run->fence);
	values[RUN_STARTED_AT - 1] = TimestampTzGetDatum(run->started_at);
	values[RUN_CHANGED_AT - 1] = TimestampTzGetDatum(run->changed_at);
	values[RUN_DUE_AT - 1] = TimestampTzGetDatum(run->due_at);
	values[RUN_DEADLINE - 1] = TimestampTzGetDatum(run->deadline);
	values[RUN_PARENT - 1] = UUIDPGetDatum(&run->parent);
	isnull[RUN_PARENT - 1] = !run->has_parent;
	values[RUN_STEP - 1] = Int32GetDatum(run->step);
	values[RUN_STATE - 1] = CharGetDatum((char) run->state);
	values[RUN_TODO - 1] = CharGetDatum((char) run->todo);
	set_name(values, RUN_SCOPE, identity->scope, identity->scope_len);
	set_name(values, RUN_PRINCIPAL, identity->principal,
			 identity->principal_len);
	set_name(values, RUN_KEY, identity->key, identity->key_len);
	set_text(values, isnull, RUN_REASON, run->reason);
	table_write(CATALOG_SAGA_RUN, at, values, isnull, &run->tid);
}

/* Has there been no saga, as far as can be seen without reading? */
bool
saga_is_empty(void)
{
	Relation	rel = table_of(CATALOG_SAGA_RUN, AccessShareLock);
	bool		empty = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, AccessShareLock);
	return empty;
}

/* Find a saga by its key's id; false if there is none. */
bool
saga_run_find(const pg_uuid_t *id, SagaRun *run)
{
	Look		look;
	ScanKeyData key;
	HeapTuple	tuple;

	key_of_id(&key, id);
	look_begin(&look, CATALOG_SAGA_RUN, CATALOG_SAGA_RUN_PKEY,
			   AccessShareLock, 1, &key);
	tuple = look_next(&look);
	if (tuple)
		run_deform(RelationGetDescr(look.rel), tuple, run);
	look_end(&look, false);
	return tuple != NULL;
}

/* Insert a saga. */
void
saga_run_insert(SagaRun *run)
{
	run_write(run, NULL);
}

/* Write what has changed of a saga. */
void
saga_run_update(SagaRun *run)
{
	ItemPointerData at = run->tid;

	run_write(run, &at);
}

/* Delete a table's rows of an id, by its primary key. */
static void
table_delete(CatalogRelation relation, const pg_uuid_t *id)
{
	Look		look;
	ScanKeyData key;
	HeapTuple	tuple;

	key_of_id(&key, id);
	look_begin(&look, relation, relation + 1, RowExclusiveLock, 1, &key);
	while ((tuple = look_next(&look)) != NULL)
		CatalogTupleDelete(look.rel, &tuple->t_self);
	look_end(&look, true);
}

/* Add copies of a look's rows to a list, of one scope (NULL: of any). */
static List *
run_collect(Look *look, text *scope, int max)
{
	List	   *runs = NIL;
	HeapTuple	tuple;

	while (list_length(runs) < max && (tuple = look_next(look)) != NULL)
	{
		SagaRun    *run = palloc(sizeof(SagaRun));

		run_deform(RelationGetDescr(look->rel), tuple, run);
		if (scope == NULL ||
			(VARSIZE_ANY_EXHDR(scope) == run->identity.scope_len &&
			 memcmp(VARDATA_ANY(scope), run->identity.scope,
					run->identity.scope_len) == 0))
			runs = lappend(runs, run);
		else
			heap_freetuple(tuple);
	}
	return runs;
}

/*
 * The sagas with which somebody has to do something now, max of them at most,
 * those due longest first; of one scope, or (NULL) of all.
 */
List *
saga_run_due(SagaTodo todo, TimestampTz now, text *scope, int max)
{
	Look		look;
	ScanKeyData keys[2];
	List	   *runs;

	ScanKeyInit(&keys[0], RUN_TODO, BTEqualStrategyNumber, F_CHAREQ,
				CharGetDatum((char) todo));
	ScanKeyInit(&keys[1], RUN_DUE_AT, BTLessEqualStrategyNumber,
				F_TIMESTAMPTZ_LE, TimestampTzGetDatum(now));
	look_begin(&look, CATALOG_SAGA_RUN, CATALOG_SAGA_RUN_DUE,
			   AccessShareLock, lengthof(keys), keys);
	runs = run_collect(&look, scope, max);
	look_end(&look, false);
	return runs;
}

/* All sagas. */
List *
saga_run_all(void)
{
	Look		look;
	List	   *runs;

	look_begin(&look, CATALOG_SAGA_RUN, CATALOG_RELATIONS, AccessShareLock, 0,
			   NULL);
	runs = run_collect(&look, NULL, PG_INT32_MAX);
	look_end(&look, false);
	return runs;
}

/* Read a row of saga_step, which points into the tuple. */
static void
step_deform(TupleDesc desc, HeapTuple tuple, SagaStep *step)
{
	Datum		values[STEP_COLUMNS];
	bool		isnull[STEP_COLUMNS];

	heap_deform_tuple(tuple, desc, values, isnull);
	step->id = *DatumGetUUIDP(values[STEP_ID - 1]);
	step->step_no = DatumGetInt32(values[STEP_NO - 1]);
	step->attempt = DatumGetInt32(values[STEP_ATTEMPT - 1]);
	step->fence = isnull[STEP_FENCE - 1] ? NO_FENCE :
		DatumGetInt64(values[STEP_FENCE - 1]);
	step->registered_at = DatumGetTimestampTz(values[STEP_REGISTERED_AT - 1]);
	step->done_at = get_time(values, isnull, STEP_DONE_AT);
	step->not_before = get_time(values, isnull, STEP_NOT_BEFORE);
	step->lease_until = get_time(values, isnull, STEP_LEASE_UNTIL);
	step->settled_at = get_time(values, isnull, STEP_SETTLED_AT);
	step->incarnation = DatumGetInt64(values[STEP_INCARNATION - 1]);
	step->role_oid = DatumGetObjectId(values[STEP_ROLE_OID - 1]);
	step->state = (SagaStepState) DatumGetChar(values[STEP_STATE - 1]);
	step->name = get_text(values, isnull, STEP_NAME);
	step->handler = get_text(values, isnull, STEP_HANDLER);
	step->role = get_text(values, isnull, STEP_ROLE);
	step->args = get_text(values, isnull, STEP_ARGS);
	step->result = get_text(values, isnull, STEP_RESULT);
	step->error = get_text(values, isnull, STEP_ERROR);
	step->child_scope = get_text(values, isnull, STEP_CHILD_SCOPE);
	step->child_principal = get_text(values, isnull, STEP_CHILD_PRINCIPAL);
	step->child_key = get_text(values, isnull, STEP_CHILD_KEY);
	step->tid = tuple->t_self;
}

/* Write a row of saga_step, in the place of another unless "at" is NULL. */
static void
step_write(SagaStep *step, const ItemPointerData *at)
{
	Datum		values[STEP_COLUMNS];
	bool		isnull[STEP_COLUMNS] = {0};

	values[STEP_ID - 1] = UUIDPGetDatum(&step->id);
	values[STEP_NO - 1] = Int32GetDatum(step->step_no);
	values[STEP_ATTEMPT - 1] = Int32GetDatum(step->attempt);
	values[STEP_FENCE - 1] = Int64GetDatum(step->fence);
	isnull[STEP_FENCE - 1] = step->fence == NO_FENCE;
	set_time(values, isnull, STEP_REGISTERED_AT, step->registered_at);
	set_time(values, isnull, STEP_DONE_AT, step->done_at);
	set_time(values, isnull, STEP_NOT_BEFORE, step->not_before);
	set_time(values, isnull, STEP_LEASE_UNTIL, step->lease_until);
	set_time(values, isnull, STEP_SETTLED_AT, step->settled_at);
	values[STEP_INCARNATION - 1] = Int64GetDatum(step->incarnation);
	values[STEP_ROLE_OID - 1] = ObjectIdGetDatum(step->role_oid);
	values[STEP_STATE - 1] = CharGetDatum((char) step->state);
	set_text(values, isnull, STEP_NAME, step->name);
	set_text(values, isnull, STEP_HANDLER, step->handler);
	set_text(values, isnull, STEP_ROLE, step->role);
	set_text(values, isnull, STEP_ARGS, step->args);
	set_text(values, isnull, STEP_RESULT, step->result);
	set_text(values, isnull, STEP_ERROR, step->error);
	set_text(values, isnull, STEP_CHILD_SCOPE, step->child_scope);
	set_text(values, isnull, STEP_CHILD_PRINCIPAL, step->child_principal);
	set_text(values, isnull, STEP_CHILD_KEY, step->child_key);
	table_write(CATALOG_SAGA_STEP, at, values, isnull, &step->tid);
}

/* The steps of a saga, in their order: a list of SagaStep. */
List *
saga_steps(const pg_uuid_t *id)
{
	Look		look;
	ScanKeyData key;
	HeapTuple	tuple;
	List	   *steps = NIL;

	key_of_id(&key, id);
	look_begin(&look, CATALOG_SAGA_STEP, CATALOG_SAGA_STEP_PKEY,
			   AccessShareLock, 1, &key);
	while ((tuple = look_next(&look)) != NULL)
	{
		SagaStep   *step = palloc(sizeof(SagaStep));

		step_deform(RelationGetDescr(look.rel), tuple, step);
		steps = lappend(steps, step);
	}
	look_end(&look, false);
	return steps;
}

/* Insert a step. */
void
saga_step_insert(SagaStep *step)
{
	step_write(step, NULL);
}

/* Write what has changed of a step. */
void
saga_step_update(SagaStep *step)
{
	ItemPointerData at = step->tid;

	step_write(step, &at);
}

/* Note that the saga of a key is a step of another's, unless it is noted. */
void
saga_child_insert(const pg_uuid_t *child, const pg_uuid_t *parent)
{
	Datum		values[CHILD_COLUMNS];
	bool		isnull[CHILD_COLUMNS] = {0};
	ItemPointerData tid;

	values[CHILD_ID - 1] = UUIDPGetDatum(child);
	values[CHILD_PARENT - 1] = UUIDPGetDatum(parent);
	table_write(CATALOG_SAGA_CHILD, NULL, values, isnull, &tid);
}

/* Whose step is the saga of a key?  False: nobody's. */
bool
saga_child_find(const pg_uuid_t *child, pg_uuid_t *parent)
{
	Look		look;
	ScanKeyData key;
	HeapTuple	tuple;

	key_of_id(&key, child);
	look_begin(&look, CATALOG_SAGA_CHILD, CATALOG_SAGA_CHILD_PKEY,
			   AccessShareLock, 1, &key);
	tuple = look_next(&look);
	if (tuple)
	{
		bool		isnull;

		*parent = *DatumGetUUIDP(heap_getattr(tuple, CHILD_PARENT,
											  RelationGetDescr(look.rel),
											  &isnull));
	}
	look_end(&look, false);
	return tuple != NULL;
}

/*
 * Delete a saga and its steps, if there are any, and the notes of the sagas
 * that are its steps.
 */
void
saga_delete(const pg_uuid_t *id)
{
	List	   *steps = saga_steps(id);
	ListCell   *cell;

	foreach(cell, steps)
	{
		SagaStep   *step = lfirst(cell);
		Identity	child;

		if (step->child_scope == NULL)
			continue;
		identity_make(&child, step->child_scope, step->child_principal,
					  step->child_key);
		table_delete(CATALOG_SAGA_CHILD, identity_id(&child));
	}
	if (steps != NIL)
		table_delete(CATALOG_SAGA_STEP, id);
	table_delete(CATALOG_SAGA_RUN, id);
}
