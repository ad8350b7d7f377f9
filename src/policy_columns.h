/*-------------------------------------------------------------------------
 *
 * policy_columns.h
 *		Columns of scope_policy, for the two files that know them: policy.c
 *		reads the table, configure.c writes it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_POLICY_COLUMNS_H
#define IDEMPOTENCY_POLICY_COLUMNS_H

/* attribute numbers, in the order of src/sql/policy.sql */
enum
{
	POLICY_SCOPE = 1,
	POLICY_RETENTION,
	POLICY_WAIT,
	POLICY_UNFINISHED_SUCCEEDS,
	POLICY_REQUIRE_REQUEST,
	POLICY_STORE_REQUEST,
	POLICY_STORE_FAILURES,
	POLICY_EXCLUDE,
	POLICY_MAX_KEY_BYTES,
	POLICY_MAX_REQUEST_BYTES,
	POLICY_MAX_RESPONSE_BYTES,
	POLICY_MAX_ATTEMPTS,
	POLICY_BACKOFF_BASE,
	POLICY_BACKOFF_CAP,
	POLICY_ALLOWED_ROLE,
	POLICY_MAX_LEASE,
	POLICY_ON_LEASE_EXPIRY,
	POLICY_MAX_STATE_BYTES,
	POLICY_KEPT_SHORT_UNTIL,
	POLICY_KEPT_DAY_UNTIL,
	POLICY_KEPT_WEEK_UNTIL,
	POLICY_KEPT_MONTH_UNTIL,
	POLICY_KEPT_PERMANENT_UNTIL,
	POLICY_KEPT_XID,
	POLICY_COLUMNS = POLICY_KEPT_XID
};

#endif							/* IDEMPOTENCY_POLICY_COLUMNS_H */
