/*-------------------------------------------------------------------------
 *
 * counter.c
 *		Numbers that only rise, from a sequence.
 *
 * As nextval() does, but without becoming the session's latest sequence: a
 * client that asks for lastval() after its INSERT, or after its COMMIT, must
 * get its own table's number, not one of ours.  Increment and limits of the
 * sequence are not heeded; ours have the usual ones.
 *
 * The sequence's page and its WAL record are those of core (its
 * commands/sequence.c): the record says how far the numbers may have been
 * drawn, so that it need not be written for each.  A number that was drawn can
 * come again after a crash, unless the transaction that drew it has committed.
 *
 * Locking: whoever draws holds RowExclusiveLock on the sequence until the end
 * of its (sub)transaction.  So when nobody else holds that lock, all numbers
 * up to the last one belong to transactions that have ended.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "commands/sequence.h"
#include "common/int.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/rel.h"

#include "compat.h"
#include "counter.h"

/* a record covers so many numbers more than are drawn */
#define COUNTER_AHEAD 32

/*
 * Lock the sequence's page and return its tuple, which points into the page.
 */
static Form_pg_sequence_data
counter_read(Relation rel, int mode, Buffer *buffer, HeapTupleData *tuple)
{
	Page		page;
	ItemId		item;

	if (rel->rd_rel->relkind != RELKIND_SEQUENCE)
		elog(ERROR, "relation \"%s\" is not a sequence",
			 RelationGetRelationName(rel));
	*buffer = ReadBuffer(rel, 0);
	LockBuffer(*buffer, mode);
	page = BufferGetPage(*buffer);
	item = PageGetItemId(page, FirstOffsetNumber);
	if (!ItemIdIsNormal(item))
		elog(ERROR, "sequence \"%s\" is damaged",
			 RelationGetRelationName(rel));
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple->t_len = ItemIdGetLength(item);
	return (Form_pg_sequence_data) GETSTRUCT(tuple);
}

/* Write the WAL record: the numbers up to "ahead" may have been drawn. */
static void
counter_log(Relation rel, Buffer buffer, HeapTupleData *tuple, int64 ahead)
{
	Form_pg_sequence_data data = (Form_pg_sequence_data) GETSTRUCT(tuple);
	xl_seq_rec	record;
	XLogRecPtr	lsn;

	XLogBeginInsert();
	XLogRegisterBuffer(0, buffer, REGBUF_WILL_INIT);
	data->last_value = ahead;
	data->is_called = true;
	data->log_cnt = 0;
	compat_seq_record(&record, rel);
	XLogRegisterData((char *) &record, sizeof(record));
	XLogRegisterData((char *) tuple->t_data, tuple->t_len);
	lsn = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
	PageSetLSN(BufferGetPage(buffer), lsn);
}

/*
 * Draw n numbers that follow each other; returns the first.  Raises 2200H when
 * there are none left.
 */
int64
counter_draw(Oid sequence, int64 n)
{
	Relation	rel = relation_open(sequence, RowExclusiveLock);
	Buffer		buffer;
	HeapTupleData tuple;
	Form_pg_sequence_data data = counter_read(rel, BUFFER_LOCK_EXCLUSIVE,
											  &buffer, &tuple);
	int64		first = data->last_value + (data->is_called ? 1 : 0);
	int64		last = first + n - 1;
	int64		left = data->log_cnt - n;
	bool		log = left < 0 || !data->is_called ||
		PageGetLSN(BufferGetPage(buffer)) <= GetRedoRecPtr();

	if (data->last_value > PG_INT64_MAX - n - COUNTER_AHEAD - 1)
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("sequence \"%s\" has no numbers left",
						RelationGetRelationName(rel))));
	if (log)
	{
		left = COUNTER_AHEAD;
		/* so that the commit flushes the record */
		(void) GetTopTransactionId();
	}

	START_CRIT_SECTION();
	MarkBufferDirty(buffer);
	if (log && RelationNeedsWAL(rel))
		counter_log(rel, buffer, &tuple, last + COUNTER_AHEAD);
	data->last_value = last;
	data->is_called = true;
	data->log_cnt = left;
	END_CRIT_SECTION();

	UnlockReleaseBuffer(buffer);
	relation_close(rel, NoLock);
	return first;
}

/*
 * The last number that was drawn, 0 if none was.  Whoever drew it may still be
 * running.
 */
int64
counter_last(Oid sequence)
{
	Relation	rel = relation_open(sequence, AccessShareLock);
	Buffer		buffer;
	HeapTupleData tuple;
	Form_pg_sequence_data data = counter_read(rel, BUFFER_LOCK_SHARE,
											  &buffer, &tuple);
	int64		last = data->is_called ? data->last_value : 0;

	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	return last;
}
