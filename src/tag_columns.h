/*-------------------------------------------------------------------------
 *
 * tag_columns.h
 *		Columns of tag_generation, for the two files that know them: tag.c
 *		looks tags up, tag_invalidate.c writes and deletes them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_TAG_COLUMNS_H
#define IDEMPOTENCY_TAG_COLUMNS_H

/* attribute numbers, in the order of src/sql/tag.sql */
enum
{
	TAG_SCOPE = 1,
	TAG_TAG,
	TAG_GENERATION,
	TAG_INVALIDATED_AT,
	TAG_REASON,
	TAG_ROLE,
	TAG_COLUMNS = TAG_ROLE
};

extern void tag_clean(int step);

#endif							/* IDEMPOTENCY_TAG_COLUMNS_H */
