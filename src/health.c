/*-------------------------------------------------------------------------
 *
 * health.c
 *		What an operator's checks need to know, and only the library does; the
 *		checks themselves are in src/sql/health.sql.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "fault.h"
#include "ring.h"
#include "shmem.h"

COMPAT_FUNCTION_INFO(idempotency_preloaded);
COMPAT_FUNCTION_INFO(idempotency_segments);

/* preloaded() returns boolean */
Datum
idempotency_preloaded(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(shmem_is_there());
}

/*
 * segments() returns setof record: segment, ring, begins_at, ends_at, bytes; a
 * row for each table of keys, with the epoch that it serves
 */
Datum
idempotency_segments(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = clock_now();

	InitMaterializedSRF(fcinfo, 0);
	for (Segment segment = 0; segment < SEGMENT_COUNT; segment++)
	{
		Relation	rel = table_open(catalog_segment_table(segment),
									 AccessShareLock);
		Ring		ring = ring_of(segment);
		int64		epoch = ring_segment_epoch(segment, now);
		Datum		values[5];
		bool		isnull[5] = {0};

		values[0] = CStringGetTextDatum(segment_name(segment));
		values[1] = CStringGetTextDatum(ring_name(ring));
		values[2] = TimestampTzGetDatum(ring_epoch_begin(ring, epoch));
		values[3] = TimestampTzGetDatum(ring_epoch_begin(ring, epoch + 1));
		isnull[2] = isnull[3] = ring == RING_PERMANENT;
		values[4] = Int64GetDatum((int64) RelationGetNumberOfBlocks(rel) *
								  BLCKSZ);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 isnull);
		table_close(rel, AccessShareLock);
	}
	return (Datum) 0;
}
