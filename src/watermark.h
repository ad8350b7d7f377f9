/*-------------------------------------------------------------------------
 *
 * watermark.h
 *		A number below which nothing can appear any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_WATERMARK_H
#define IDEMPOTENCY_WATERMARK_H

#include "storage/lock.h"

/* a static one, all zero, is a good start */
typedef struct Watermark
{
	bool		pending;		/* it was taken, and is used up by nobody yet */
	int64		seq;
	int			n;
	VirtualTransactionId *holders;	/* in TopMemoryContext */
} Watermark;

extern bool watermark_await(Watermark *watermark, Oid sequence, int wait_ms);

#endif							/* IDEMPOTENCY_WATERMARK_H */
