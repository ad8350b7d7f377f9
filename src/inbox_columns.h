/*-------------------------------------------------------------------------
 *
 * inbox_columns.h
 *		The columns of table inbox_policy.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_INBOX_COLUMNS_H
#define IDEMPOTENCY_INBOX_COLUMNS_H

/* attribute numbers, in the order of src/sql/inbox.sql */
enum
{
	INBOX_POLICY_CONSUMER = 1,
	INBOX_POLICY_STREAM,
	INBOX_POLICY_STRATEGY,
	INBOX_POLICY_RETENTION,
	INBOX_POLICY_WAIT,
	INBOX_POLICY_MAX_HOLES,
	INBOX_POLICY_MAX_DELIVERIES,
	INBOX_POLICY_FIRST_SEQ,
	INBOX_POLICY_ALLOWED_ROLE,
	INBOX_POLICY_COLUMNS = INBOX_POLICY_ALLOWED_ROLE
};

#endif							/* IDEMPOTENCY_INBOX_COLUMNS_H */
