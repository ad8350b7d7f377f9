/*-------------------------------------------------------------------------
 *
 * configure.h
 *		Writing a scope's policy, and showing it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_CONFIGURE_H
#define IDEMPOTENCY_CONFIGURE_H

#include "policy.h"

/* names of what becomes of a claim whose lease has run out; NULL ends them */
typedef struct LeaseExpiryName
{
	LeaseExpiry value;
	const char *name;
} LeaseExpiryName;

/* likewise of what is recorded */
typedef struct AuditName
{
	Audit		value;
	const char *name;
} AuditName;

extern const LeaseExpiryName configure_lease_expiries[];
extern const AuditName configure_audits[];

extern void configure_raise_retention(text *scope, int64 retention);
extern text *configure_scope(FunctionCallInfo fcinfo);
extern Datum configure_show(FunctionCallInfo fcinfo, text *scope,
							const Policy *policy);

#endif							/* IDEMPOTENCY_CONFIGURE_H */
