/*-------------------------------------------------------------------------
 *
 * standby.c
 *		How far standbys have the write-ahead log.
 *
 * What a checkpoint says is not to be told before so many standbys have it:
 * otherwise one that is promoted without it would tell another history.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/spin.h"

#include "standby.h"

/* Order from the greatest down. */
static int
standby_compare(const void *a, const void *b)
{
	XLogRecPtr	left = *(const XLogRecPtr *) a;
	XLogRecPtr	right = *(const XLogRecPtr *) b;

	return left < right ? 1 : left > right ? -1 : 0;
}

/*
 * Does this process send the log to a standby?  A logical subscriber hasn't
 * what isn't published to it.  A physical sender has no database.
 */
static bool
standby_is_physical(pid_t pid)
{
	PGPROC	   *proc = BackendPidGetProc(pid);

	return proc && !OidIsValid(proc->databaseId);
}

/*
 * Up to where have at least n standbys flushed the log?  With n = 0, anywhere;
 * 0 if there aren't as many.
 */
XLogRecPtr
standby_flushed(int n)
{
	XLogRecPtr *flushed;
	XLogRecPtr	result = 0;
	int			found = 0;

	if (n <= 0)
		return PG_UINT64_MAX;
	flushed = palloc((max_wal_senders + 1) * sizeof(XLogRecPtr));
	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *sender = &WalSndCtl->walsnds[i];

		pid_t		pid;

		SpinLockAcquire(&sender->mutex);
		pid = sender->state == WALSNDSTATE_STREAMING ? sender->pid : 0;
		flushed[found] = sender->flush;
		SpinLockRelease(&sender->mutex);
		if (pid != 0 && standby_is_physical(pid))
			found++;
	}
	qsort(flushed, found, sizeof(XLogRecPtr), standby_compare);
	if (found >= n)
		result = flushed[n - 1];
	pfree(flushed);
	return result;
}
