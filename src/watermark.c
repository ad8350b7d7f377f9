/*-------------------------------------------------------------------------
 *
 * watermark.c
 *		A number below which nothing can appear any more.
 *
 * Of rows that are numbered from a sequence by counter.c, in transactions that
 * go on after that.  How it is known:
 *
 *	1  q := the last number drawn
 *	2  X := the transactions that hold the lock on the sequence under which
 *	   numbers are drawn (counter.c), prepared ones included
 *	3  once all of X have let go of it, every row up to q has been committed,
 *	   and a snapshot taken then sees it, or never will be
 *
 * Whoever drew a number up to q did so before 1, and so was in X at 2 or had
 * ended by then: a lock is released only after the transaction's end, or the
 * subtransaction's rollback, is visible.  Neither readers nor writers that have
 * drawn nothing are waited for, and in what the clock or another cluster's
 * transaction ids say there is no trust, so it doesn't matter where the rows
 * come from.
 *
 * The caller's own transaction is not in X: whoever has drawn numbers in it
 * must not take the watermark for more than it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "counter.h"
#include "watermark.h"

#define WATERMARK_POLL_MS		2

/* Who holds the lock under which numbers are drawn?  palloc'd. */
static VirtualTransactionId *
watermark_holders(Oid sequence, int *n)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, sequence);
	return GetLockConflicts(&tag, ShareLock, n);
}

/* Take a new watermark: steps 1 and 2. */
static void
watermark_take(Watermark *watermark, Oid sequence)
{
	VirtualTransactionId *holders;

	watermark->seq = counter_last(sequence);
	holders = watermark_holders(sequence, &watermark->n);
	if (watermark->holders)
		pfree(watermark->holders);
	watermark->holders = NULL;
	watermark->holders =
		MemoryContextAlloc(TopMemoryContext,
						   Max(watermark->n, 1) *
						   sizeof(VirtualTransactionId));
	memcpy(watermark->holders, holders,
		   watermark->n * sizeof(VirtualTransactionId));
	watermark->pending = true;
	pfree(holders);
}

/*
 * Have the transactions of the watermark let go of the lock?  Forgets those
 * that have: they have ended, or rolled back what had drawn a number.
 */
static bool
watermark_is_decided(Watermark *watermark, Oid sequence)
{
	VirtualTransactionId *holders;
	int			nholders;
	int			n = 0;

	if (watermark->n == 0)
		return true;
	holders = watermark_holders(sequence, &nholders);
	for (int i = 0; i < watermark->n; i++)
	{
		for (int j = 0; j < nholders; j++)
		{
			if (VirtualTransactionIdEquals(watermark->holders[i], holders[j]))
			{
				watermark->holders[n++] = watermark->holders[i];
				break;
			}
		}
	}
	watermark->n = n;
	pfree(holders);
	return n == 0;
}

/*
 * Step 3: take a watermark unless one is pending, and wait a little for it to
 * be decided.  Returns whether it is; then it is the caller's to set pending
 * to false.
 */
bool
watermark_await(Watermark *watermark, Oid sequence, int wait_ms)
{
	static uint32 wait_event = 0;
	TimestampTz deadline;

	if (!watermark->pending)
		watermark_take(watermark, sequence);
	if (watermark_is_decided(watermark, sequence))
		return true;
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait_ms);
	while (GetCurrentTimestamp() < deadline)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 WATERMARK_POLL_MS,
						 compat_wait_event(&wait_event,
										   "IdempotencySealWait"));
		ResetLatch(MyLatch);
		if (watermark_is_decided(watermark, sequence))
			return true;
	}
	return false;
}
