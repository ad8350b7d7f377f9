/*-------------------------------------------------------------------------
 *
 * stats_show.c
 *		Statistics, as SQL shows them.
 *
 * Quantiles are of the histograms, and as exact as their classes are wide: a
 * quarter of an octave.  Within a class the values are taken to be spread
 * evenly.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "shmem.h"
#include "stats_area.h"

COMPAT_FUNCTION_INFO(idempotency_stats);
COMPAT_FUNCTION_INFO(idempotency_stats_latency);
COMPAT_FUNCTION_INFO(idempotency_stats_late);
COMPAT_FUNCTION_INFO(idempotency_latency);
COMPAT_FUNCTION_INFO(idempotency_stats_reset);

static const char *const stats_function_names[STATS_FUNCTIONS] = {
	[STATS_CLAIM] = "claim",
	[STATS_CLAIM_MANY] = "claim_many",
	[STATS_ONCE] = "once",
	[STATS_RUN] = "run",
	[STATS_FINISH] = "finish",
	[STATS_FAIL] = "fail",
	[STATS_RELEASE] = "release",
	[STATS_HEARTBEAT] = "heartbeat",
	[STATS_CHECKPOINT] = "checkpoint",
	[STATS_ASSERT_FENCE] = "assert_fence",
	[STATS_ACCEPT] = "accept",
	[STATS_ACCEPT_MANY] = "accept_many",
	[STATS_EMIT] = "emit",
	[STATS_COMPENSATE_WITH] = "compensate_with",
	[STATS_STEP_DONE] = "step_done",
	[STATS_COMPENSATE] = "compensate",
	[STATS_NEXT_COMPENSATION] = "next_compensation",
	[STATS_SETTLE_COMPENSATION] = "settle_compensation",
	[STATS_COMPENSATION] = "compensation",
	[STATS_WAITING] = "waiting"
};

/* the parts below which latency() says where calls are */
static const double stats_quantiles[] = {0.5, 0.95, 0.99};

/* a histogram that is summed up */
typedef struct StatsSum
{
	uint64		calls;
	uint64		us;
	uint64		classes[STATS_LATENCY_CLASSES];
} StatsSum;

/* How a function is called in views. */
const char *
stats_function_name(StatsFunction function)
{
	return stats_function_names[function];
}

/*
 * Is the slot to be shown in this database: one of its own, or the one of all
 * the others, if there is anything in it?
 */
static bool
stats_is_shown(StatsSlot slot)
{
	if (slot == STATS_OTHERS)
	{
		for (int i = 0; i < STATS_COUNTERS; i++)
		{
			if (stats_read(slot, i) > 0)
				return true;
		}
		return false;
	}
	return stats_area->slots[slot].database == MyDatabaseId;
}

/* The scope's name as it is shown. */
static Datum
stats_shown_name(StatsSlot slot)
{
	if (slot == STATS_OTHERS)
		return CStringGetTextDatum("(others)");
	return PointerGetDatum(cstring_to_text_with_len(stats_area->slots[slot].scope,
													stats_area->slots[slot].scope_len));
}

/* stats() returns setof record: scope, the counters, reset_at */
Datum
idempotency_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (StatsSlot i = 0; stats_area && i < stats_area->nslots; i++)
	{
		StatsScope *slot = &stats_area->slots[i];
		Datum		values[STATS_COUNTERS + 2];
		bool		isnull[STATS_COUNTERS + 2] = {0};

		if (!stats_is_shown(i))
			continue;
		values[0] = stats_shown_name(i);
		for (int c = 0; c < STATS_COUNTERS; c++)
			values[1 + c] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->counters[c]));
		values[1 + STATS_COUNTERS] =
			TimestampTzGetDatum((int64) pg_atomic_read_u64(&slot->reset_at));
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
	}
	return (Datum) 0;
}

/* Return the classes of a slot's histogram that have any. */
static void
stats_put_histogram(ReturnSetInfo *result, StatsSlot slot, int histogram)
{
	for (int class = 0; class < STATS_LATENCY_CLASSES; class++)
	{
		uint64		n = pg_atomic_read_u64(&stats_area->slots[slot].latency[histogram][class]);
		Datum		values[5];
		bool		isnull[5] = {0};
		int			i = 0;

		if (n == 0)
			continue;
		values[i++] = stats_shown_name(slot);
		if (histogram < STATS_FUNCTIONS)
			values[i++] = CStringGetTextDatum(stats_function_names[histogram]);
		values[i++] = Float8GetDatum(class == 0 ? 0 :
									 stats_class_begin(class));
		values[i++] = Float8GetDatum(class + 1 < STATS_LATENCY_CLASSES ?
									 stats_class_begin(class + 1) :
									 get_float8_infinity());
		values[i] = Int64GetDatum((int64) n);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
	}
}

/*
 * stats_latency() returns setof record: scope, function, from_us, to_us,
 * decisions; a row for each class that has any
 */
Datum
idempotency_stats_latency(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for (StatsSlot i = 0; stats_area && i < stats_area->nslots; i++)
	{
		for (int f = 0; f < STATS_FUNCTIONS && stats_is_shown(i); f++)
			stats_put_histogram((ReturnSetInfo *) fcinfo->resultinfo, i, f);
	}
	return (Datum) 0;
}

/* stats_late() returns setof record: scope, from_s, to_s, duplicates */
Datum
idempotency_stats_late(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for (StatsSlot i = 0; stats_area && i < stats_area->nslots; i++)
	{
		if (stats_is_shown(i))
			stats_put_histogram((ReturnSetInfo *) fcinfo->resultinfo, i,
								STATS_LATE);
	}
	return (Datum) 0;
}

/* Add a slot's calls of a function to a sum. */
static void
stats_add_up(StatsSum *sum, StatsSlot slot, StatsFunction function)
{
	StatsScope *scope = &stats_area->slots[slot];

	for (int i = 0; i < STATS_LATENCY_CLASSES; i++)
	{
		uint64		n = pg_atomic_read_u64(&scope->latency[function][i]);

		sum->classes[i] += n;
		sum->calls += n;
	}
	sum->us += pg_atomic_read_u64(&scope->latency_us[function]);
}

/* Below which value is this part of the calls?  Microseconds. */
static double
stats_quantile(const StatsSum *sum, double part)
{
	double		wanted = part * sum->calls;
	double		before = 0;
	double		begin = 0;

	for (int i = 0; i < STATS_LATENCY_CLASSES; i++)
	{
		uint64		n = sum->classes[i];

		if (n == 0)
			continue;
		begin = i == 0 ? 0 : stats_class_begin(i);
		if (before + n >= wanted && i + 1 < STATS_LATENCY_CLASSES)
			return begin + (stats_class_begin(i + 1) - begin) *
				(wanted - before) / n;
		before += n;
	}
	return begin;
}

/* Return the row of a sum, unless it is empty. */
static void
stats_put_sum(ReturnSetInfo *result, const StatsSum *sum, StatsSlot slot,
			  bool by_scope, StatsFunction function)
{
	Datum		values[8];
	bool		isnull[8] = {0};

	if (sum->calls == 0)
		return;
	isnull[0] = !by_scope;
	if (by_scope)
		values[0] = stats_shown_name(slot);
	values[1] = CStringGetTextDatum(stats_function_names[function]);
	values[2] = Int64GetDatum((int64) sum->calls);
	values[3] = Int64GetDatum((int64) sum->us);
	values[4] = Float8GetDatum((double) sum->us / sum->calls);
	for (int i = 0; i < lengthof(stats_quantiles); i++)
		values[5 + i] = Float8GetDatum(stats_quantile(sum,
													  stats_quantiles[i]));
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/*
 * latency(by_scope boolean) returns setof record: scope (NULL if not), function,
 * calls, total_us, mean_us, p50_us, p95_us, p99_us
 */
Datum
idempotency_latency(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		by_scope = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0);
	StatsSum   *sums = palloc0(STATS_FUNCTIONS * sizeof(StatsSum));

	InitMaterializedSRF(fcinfo, 0);
	for (StatsSlot i = 0; stats_area && i < stats_area->nslots; i++)
	{
		if (!stats_is_shown(i))
			continue;
		for (int f = 0; f < STATS_FUNCTIONS; f++)
		{
			stats_add_up(&sums[f], i, f);
			if (by_scope)
			{
				stats_put_sum(result, &sums[f], i, true, f);
				memset(&sums[f], 0, sizeof(StatsSum));
			}
		}
	}
	for (int f = 0; f < STATS_FUNCTIONS; f++)
		stats_put_sum(result, &sums[f], STATS_OTHERS, false, f);
	return (Datum) 0;
}

/*
 * stats_reset(scope text) returns bigint: how many scopes were reset; NULL is
 * all of this database
 */
Datum
idempotency_stats_reset(PG_FUNCTION_ARGS)
{
	text	   *scope = TEXT_ARGUMENT(0);
	int64		n = 0;

	shmem_require("stats_reset()");
	for (StatsSlot i = 0; i < stats_area->nslots; i++)
	{
		StatsScope *slot = &stats_area->slots[i];

		if (i == STATS_OTHERS ? scope != NULL :
			slot->database != MyDatabaseId)
			continue;
		if (scope && (slot->scope_len != VARSIZE_ANY_EXHDR(scope) ||
					  memcmp(slot->scope, VARDATA_ANY(scope),
							 slot->scope_len) != 0))
			continue;
		stats_clear_slot(slot);
		n++;
	}
	PG_RETURN_INT64(n);
}
