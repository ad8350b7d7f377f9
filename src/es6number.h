/*-------------------------------------------------------------------------
 *
 * es6number.h
 *		JSON numbers in the notation of ECMAScript's Number.toString().
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_ES6NUMBER_H
#define IDEMPOTENCY_ES6NUMBER_H

#include "lib/stringinfo.h"

extern bool es6_append_double(StringInfo out, const char *token);
extern bool es6_append_exact(StringInfo out, const char *token, int len);

#endif							/* IDEMPOTENCY_ES6NUMBER_H */
