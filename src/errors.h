/*-------------------------------------------------------------------------
 *
 * errors.h
 *		SQLSTATEs that a caller of the extension can meet, in one place.
 *
 * The class is "ID"; the three digits after it repeat the HTTP status that a
 * service would answer with.  No driver takes an unknown class for a lost
 * connection or a reason to retry by itself, so the caller decides.
 *
 * Two conditions keep PostgreSQL's own codes, because frameworks know what to
 * do with them: 40001 (retry the transaction) and 40P01 (deadlock).
 *
 * A key, principal, request, response, error text or token never appears in a
 * message, detail, hint or log line.  A scope may: it names an operation.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_ERRORS_H
#define IDEMPOTENCY_ERRORS_H

#include "utils/elog.h"

/* bad or missing scope, key, principal, request, setting or argument */
#define ERRCODE_IDEM_BAD_ARGUMENT		MAKE_SQLSTATE('I','D','4','0','0')
/* not a valid token, where the policy requires one */
#define ERRCODE_IDEM_BAD_TOKEN			MAKE_SQLSTATE('I','D','4','0','1')
/* the current role may not use the scope */
#define ERRCODE_IDEM_NOT_GRANTED		MAKE_SQLSTATE('I','D','4','0','3')
/* no such claim, or it isn't remembered any more */
#define ERRCODE_IDEM_NOT_FOUND			MAKE_SQLSTATE('I','D','4','0','4')
/* someone else is executing the operation */
#define ERRCODE_IDEM_IN_PROGRESS		MAKE_SQLSTATE('I','D','4','0','9')
/* first sent before anything that is remembered, so nobody can know */
#define ERRCODE_IDEM_EXPIRED			MAKE_SQLSTATE('I','D','4','1','0')
/* the claim isn't the caller's, or isn't any more */
#define ERRCODE_IDEM_FENCE_LOST			MAKE_SQLSTATE('I','D','4','1','2')
/* a request, response, error text or tag is over its limit */
#define ERRCODE_IDEM_TOO_LARGE			MAKE_SQLSTATE('I','D','4','1','3')
/* the same key came with another request */
#define ERRCODE_IDEM_MISMATCH			MAKE_SQLSTATE('I','D','4','2','2')
/* the transaction claimed and did not settle */
#define ERRCODE_IDEM_UNSETTLED			MAKE_SQLSTATE('I','D','4','2','8')
/* backoff; try again later */
#define ERRCODE_IDEM_RETRY_LATER		MAKE_SQLSTATE('I','D','4','2','9')
/* a lease ran out on work that must not be repeated blindly */
#define ERRCODE_IDEM_INDETERMINATE		MAKE_SQLSTATE('I','D','5','0','0')
/* all attempts are used up */
#define ERRCODE_IDEM_EXHAUSTED			MAKE_SQLSTATE('I','D','5','0','8')

#endif							/* IDEMPOTENCY_ERRORS_H */
