/*-------------------------------------------------------------------------
 *
 * benchmark.c
 *		The floor that claims are measured against; for test builds only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef IDEMPOTENCY_FAULTS

#include "answer.h"
#include "compat.h"
#include "fault.h"
#include "policy.h"
#include "store.h"

COMPAT_FUNCTION_INFO(idempotency_bench_floor);
COMPAT_FUNCTION_INFO(idempotency_bench_nothing);

/*
 * bench_floor(scope text, key text, response text) returns record
 *
 * Inserts the row that claim() and finish() leave, through the same code, but
 * asks nobody whether it is there: no policy, no lock, no probe.
 */
Datum
idempotency_bench_floor(PG_FUNCTION_ARGS)
{
	Identity	identity;
	KeyRow		row = {0};
	Store		store;
	Segment		segment;
	Answer		answer;

	identity_make(&identity, PG_GETARG_TEXT_PP(0), NULL, PG_GETARG_TEXT_PP(1));
	row.state = KEY_SUCCEEDED;
	row.claimed_at = row.finished_at = clock_now();
	row.expires_at = ring_expiry(row.claimed_at, USECS_PER_DAY);
	row.retry_at = NO_TIME;
	row.lease_until = NO_TIME;
	row.attempt = 1;
	row.response = (struct varlena *) PG_GETARG_TEXT_PP(2);
	segment = ring_segment_at(RING_DAY, row.expires_at);
	store_open_segments(&store, &segment, 1);
	(void) store_insert(&store, &identity, &row, segment);
	store_close(&store);
	answer_init(&answer, OUTCOME_EXECUTE);
	PG_RETURN_DATUM(answer_datum(fcinfo, &answer));
}

/*
 * bench_nothing(scope text, key text, response text) returns record
 *
 * Returns a row of the same form: the cost of a call.
 */
Datum
idempotency_bench_nothing(PG_FUNCTION_ARGS)
{
	Answer		answer;

	answer_init(&answer, OUTCOME_EXECUTE);
	PG_RETURN_DATUM(answer_datum(fcinfo, &answer));
}

#endif							/* IDEMPOTENCY_FAULTS */
