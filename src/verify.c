/*-------------------------------------------------------------------------
 *
 * verify.c
 *		verify(): is the ledger what it was?
 *
 * It takes nothing for granted that another row doesn't bear out:
 *
 *	verify_tree.c		tiles and checkpoints against each other
 *	verify_entries.c	entries against the tree's leaves, and the heap against
 *						its index
 *	verify_keys.c		the events of each key, and what is remembered of it,
 *						against the entries
 *	verify_external.c	the tree against checkpoints that are held elsewhere
 *	verify_rows.c		reading rows that anything may have happened to
 *
 * Everything is read by the snapshot of the caller's statement, so that what is
 * sealed, pruned or settled meanwhile is no finding.  Nothing is held in memory
 * that grows with the ledger; what has to be sorted goes to temporary files.
 * It writes nothing, and works in a read-only transaction and on a standby.
 *
 * What is damaged so that it can't be read raises errors, in core or here.
 * Therefore all work is done in subtransactions (verify_attempt()), and such an
 * error is a finding; others, such as a cancel, go to the caller.
 *
 * Whoever may call it need not have any right on the tables: a finding names
 * places and numbers, never a key, request or response.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "errors.h"
#include "verify.h"

#define VERIFY_PROGRESS 1000000	/* a notice after so many rows */
#define EXTERNAL_MAX	10000

COMPAT_FUNCTION_INFO(idempotency_verify);

/* columns of verify(), counted from 0 */
enum
{
	FINDING_SEVERITY,
	FINDING_WHAT,
	FINDING_PLACE,
	FINDING_DETAIL,
	FINDING_COLUMNS
};

/* Return a row. */
static void
verify_put(Verify *verify, const char *severity, const char *what,
		   const char *place, const char *detail)
{
	Datum		values[FINDING_COLUMNS];
	bool		isnull[FINDING_COLUMNS] = {0};

	values[FINDING_SEVERITY] = CStringGetTextDatum(severity);
	values[FINDING_WHAT] = CStringGetTextDatum(what);
	values[FINDING_PLACE] = CStringGetTextDatum(place);
	values[FINDING_DETAIL] = CStringGetTextDatum(detail);
	tuplestore_putvalues(verify->result->setResult, verify->result->setDesc,
						 values, isnull);
}

/* Return a finding, unless this step has very many. */
static void
verify_find(Verify *verify, const char *severity, const char *what,
			const char *place, const char *detail, va_list args)
{
	char		text[512];

	if (++verify->nfindings > VERIFY_FINDINGS_MAX)
		return;
	vsnprintf(text, sizeof(text), detail, args);
	verify_put(verify, severity, what, place, text);
}

/* Something isn't as it was, or can't have been so. */
void
verify_error(Verify *verify, const char *what, const char *place,
			 const char *detail,...)
{
	va_list		args;

	va_start(args, detail);
	verify_find(verify, "error", what, place, detail, args);
	va_end(args);
}

/* Something can't be checked, or should be looked at. */
void
verify_warning(Verify *verify, const char *what, const char *place,
			   const char *detail,...)
{
	va_list		args;

	va_start(args, detail);
	verify_find(verify, "warning", what, place, detail, args);
	va_end(args);
}

/*
 * The error that verify_attempt() has caught is a finding.  Its message can
 * have data in it only if a conversion failed.
 */
void
verify_unreadable(Verify *verify, const char *place, int sqlstate)
{
	bool		tell = ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_DATA_EXCEPTION;

	verify_error(verify, "could not be read", place, "SQLSTATE %s: %s",
				 unpack_sql_state(sqlstate),
				 tell ? verify->message : "a value is damaged");
}

/* Say how far a pass over many rows has come; to be called for each. */
void
verify_progress(int64 n, int64 total, const char *what)
{
	CHECK_FOR_INTERRUPTS();
	if (n % VERIFY_PROGRESS != 0 || n == 0)
		return;
	if (total > n)
		ereport(NOTICE,
				(errmsg("verify: " INT64_FORMAT " of " INT64_FORMAT " %s",
						n, total, what)));
	else
		ereport(NOTICE, (errmsg("verify: " INT64_FORMAT " %s", n, what)));
}

/* Does an error say that something is damaged, missing or of another shape? */
static bool
verify_is_damage(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_INTERNAL_ERROR:
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
	}
	return sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE ||
		sqlstate == ERRCODE_FEATURE_NOT_SUPPORTED ||
		sqlstate == ERRCODE_UNDEFINED_TABLE ||
		sqlstate == ERRCODE_IDEM_NOT_FOUND;
}

/* The end of a failed attempt.  Returns its SQLSTATE, or throws again. */
static int
verify_failed(Verify *verify, MemoryContext caller, ResourceOwner owner)
{
	ErrorData  *error;
	int			sqlstate;

	MemoryContextSwitchTo(caller);
	error = CopyErrorData();
	FlushErrorState();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	if (!verify_is_damage(error->sqlerrcode))
		ReThrowError(error);
	strlcpy(verify->message, error->message, sizeof(verify->message));
	sqlstate = error->sqlerrcode;
	FreeErrorData(error);
	return sqlstate;
}

/*
 * Do some work in a subtransaction.  Returns 0, or the SQLSTATE with which it
 * failed because of damage.  What is opened in it ends with it.
 */
int
verify_attempt(Verify *verify, VerifyWork work, void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int sqlstate = 0;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		work(verify, arg);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		sqlstate = verify_failed(verify, caller, owner);
	}
	PG_END_TRY();
	return sqlstate;
}

/* Begin a step; if there is much to do, say so. */
static void
verify_begin_step(Verify *verify, const char *step)
{
	verify->step = step;
	verify->nfindings = 0;
	if (verify->latest.size > VERIFY_PROGRESS)
		ereport(NOTICE, (errmsg("verify: checking %s", step)));
}

/* End a step: how many findings were only counted? */
static void
verify_end_step(Verify *verify)
{
	if (verify->nfindings <= VERIFY_FINDINGS_MAX)
		return;
	verify_put(verify, "error", "more findings", verify->step,
			   psprintf("There are " INT64_FORMAT " more of this kind.",
						verify->nfindings - VERIFY_FINDINGS_MAX));
}

/* A step that is one attempt.  Returns whether it did all its work. */
static bool
verify_step(Verify *verify, const char *step, VerifyWork work)
{
	int			sqlstate;

	verify_begin_step(verify, step);
	sqlstate = verify_attempt(verify, work, NULL);
	if (sqlstate != 0)
		verify_unreadable(verify, step, sqlstate);
	verify_end_step(verify);
	return sqlstate == 0;
}

/* Find out how far the tree goes, and from where on there are entries. */
static void
verify_bounds(Verify *verify, void *arg)
{
	VerifyScan	scan;
	HeapTuple	tuple;

	verify_scan_begin(&scan, VERIFY_CHECKPOINT, verify->snapshot, 0, NULL);
	tuple = verify_scan_next(&scan, BackwardScanDirection);
	if (tuple != NULL)
		(void) verify_checkpoint(&scan, tuple, &verify->latest);
	verify_scan_end(&scan);

	verify_scan_begin(&scan, VERIFY_PRUNE, verify->snapshot, 0, NULL);
	while ((tuple = verify_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		verify->pruned = Max(verify->pruned, verify_integer(&scan, tuple, 1));
		verify->pruned_here |=
			TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	}
	verify_scan_end(&scan);

	if (verify->pruned % MERKLE_TILE_WIDTH != 0 ||
		verify->pruned > verify->latest.size || verify->pruned < 0)
	{
		verify_error(verify, "prune impossible", "ledger_prune",
					 "Nothing can have been pruned below leaf " INT64_FORMAT ": the tree has " INT64_FORMAT " entries.",
					 verify->pruned, verify->latest.size);
		verify->pruned = 0;
	}
}

/* Check everything that was asked for. */
static void
verify_all(Verify *verify, ExternalCheckpoint *externals, int nexternals,
		   bool deep)
{
	/* a damaged checkpoint has a size all the same */
	verify->bounded = verify_step(verify, "the tree's bounds", verify_bounds) ||
		verify->latest.size > 0;
	(void) verify_step(verify, "the tables", verify_tables);
	if (verify->from > 0 && verify->from < verify->pruned)
		verify_warning(verify, "entries pruned",
					   psprintf("leaves " INT64_FORMAT " to " INT64_FORMAT,
								verify->from,
								Min(verify->upto, verify->pruned) - 1),
					   "They were removed by prune(), and can't be checked.");
	if (verify->bounded)
	{
		verify_begin_step(verify, "the tree and its entries");
		verify_tree(verify);
		verify_end_step(verify);
	}
	if (deep)
	{
		(void) verify_step(verify, "the entries' heap and index", verify_heap);
		(void) verify_step(verify, "keys", verify_keys);
		(void) verify_step(verify, "payloads", verify_payloads);
	}
	verify_begin_step(verify, "external checkpoints");
	verify_external(verify, externals, nexternals);
	verify_end_step(verify);
}

/*
 * The external checkpoints that were given, palloc'd; returns how many.
 * Raises ID400.
 */
static int
verify_externals(ArrayType *array, ExternalCheckpoint **externals)
{
	Datum	   *texts;
	bool	   *isnull;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &texts,
					  &isnull, &n);
	if (n > EXTERNAL_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("external must not have more than %d elements",
						EXTERNAL_MAX)));
	*externals = palloc(Max(n, 1) * sizeof(ExternalCheckpoint));
	for (int i = 0; i < n; i++)
	{
		text	   *given = isnull[i] ? NULL : DatumGetTextPP(texts[i]);

		if (given == NULL ||
			!verify_parse_checkpoint(VARDATA_ANY(given),
									 VARSIZE_ANY_EXHDR(given),
									 &(*externals)[i]))
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
					 errmsg("element %d of external is not a checkpoint",
							i + 1),
					 errhint("It is three lines: an origin, a size, and a root in base64; what follows an empty line is ignored.")));
	}
	return n;
}

/*
 * verify(from_index bigint, to_index bigint, external text[], deep boolean)
 *		returns setof record
 */
Datum
idempotency_verify(PG_FUNCTION_ARGS)
{
	Verify	   *verify = palloc0(sizeof(Verify));
	ExternalCheckpoint *externals = NULL;
	int			nexternals = 0;

	verify->from = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);
	verify->upto = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT64(1);
	if (verify->from < 0 || verify->upto < verify->from)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("from_index must not be negative or greater than to_index")));
	if (!PG_ARGISNULL(2))
		nexternals = verify_externals(PG_GETARG_ARRAYTYPE_P(2), &externals);

	InitMaterializedSRF(fcinfo, 0);
	verify->result = (ReturnSetInfo *) fcinfo->resultinfo;
	verify->context = CurrentMemoryContext;
	verify->snapshot = RegisterSnapshot(GetActiveSnapshot());
	verify_all(verify, externals, nexternals,
			   PG_ARGISNULL(3) || PG_GETARG_BOOL(3));
	UnregisterSnapshot(verify->snapshot);
	return (Datum) 0;
}
