/*-------------------------------------------------------------------------
 *
 * identity.h
 *		The triple (scope, principal, key) that names one operation.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_IDENTITY_H
#define IDEMPOTENCY_IDENTITY_H

#include "utils/uuid.h"

#define SCOPE_MAX_BYTES			128
#define SCOPE_RESERVED			"inbox/"	/* scopes that begin so are for events */
#define PRINCIPAL_MAX_BYTES		128
#define KEY_MAX_BYTES			1024	/* no policy may allow more */
#define KEY_DEFAULT_BYTES		255

/* a text argument of a SQL-callable function, or NULL */
#define TEXT_ARGUMENT(n) (PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n))

/*
 * The three texts point into the caller's memory.  The id is computed when it
 * is first asked for, because a settle mostly doesn't need it.
 */
typedef struct Identity
{
	const char *scope;
	const char *principal;
	const char *key;
	int			scope_len;
	int			principal_len;
	int			key_len;
	bool		has_id;
	pg_uuid_t	id;
} Identity;

/* microseconds that this backend has waited for keys: for locks and holders */
extern int64 identity_waited;

extern void identity_make(Identity *identity, text *scope, text *principal,
						  text *key);
extern void identity_check_scope(const char *scope, int len);
extern void identity_check_key(const Identity *identity, int max_key_bytes);
extern const pg_uuid_t *identity_id(Identity *identity);
extern bool identity_equal(const Identity *a, const Identity *b);
extern Identity *identity_copy(const Identity *identity, MemoryContext where);
extern void identity_lock(Identity *identity);
extern bool identity_trylock(const pg_uuid_t *id);
extern void identity_unlock(const pg_uuid_t *id);

#endif							/* IDEMPOTENCY_IDENTITY_H */
