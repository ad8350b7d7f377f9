/*-------------------------------------------------------------------------
 *
 * response.h
 *		What is stored of a response, and what becomes of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_RESPONSE_H
#define IDEMPOTENCY_RESPONSE_H

#include "keyrow.h"
#include "policy.h"

/* what a duplicate is to be told of a stored response */
typedef struct ResponseView
{
	bool		again;			/* nothing: the operation is to be executed */
	bool		shown;			/* the response itself */
	const char *reason;			/* why it isn't, or is not as good as new; or NULL */
} ResponseView;

extern void response_store(const Policy *policy, const Identity *identity,
						   KeyRow *row, text *response, text *tag);
extern bool response_repeats(const KeyRow *row, const text *response);
extern void response_view(const Policy *policy, const Identity *identity,
						  const KeyRow *row, TimestampTz now,
						  ResponseView *view);

#endif							/* IDEMPOTENCY_RESPONSE_H */
