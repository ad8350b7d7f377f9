/*-------------------------------------------------------------------------
 *
 * fence.c
 *		Fences: numbers that only rise, by which a stale holder is known.
 *
 * fence = base of the incarnation (incarnation.c) + sequence, and the base is
 * the incarnation's number << 40, and a bit.  The sequence is PostgreSQL's own;
 * what it has given out can be given out again after a crash, unless the
 * transaction that drew it has committed, so a fence counts only once its
 * claim has.  It is added rather than put into 40 bits of its own, so after
 * 2^40 claims it just goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"

#include "catalog.h"
#include "counter.h"
#include "fence.h"
#include "incarnation.h"

/*
 * A fence greater than any that was drawn before.  The caller holds the policy
 * lock, and commits durably.  Raises 2200H when there are none left.
 */
int64
fence_next(void)
{
	int64		number = counter_draw(catalog_relation(CATALOG_FENCE_SEQ), 1);
	int64		fence;

	if (pg_add_s64_overflow(incarnation_base(), number, &fence))
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("there are no fences left")));
	return fence;
}
