/*-------------------------------------------------------------------------
 *
 * identity.c
 *		The triple (scope, principal, key): its limits, its id, its lock.
 *
 * Sameness is bytewise.  The id is the first 16 bytes of SHA-256 over the
 * three texts, each behind its length, so that ("ab", "c") and ("a", "bc")
 * differ.  It depends on nothing else: no node, no OID, no time.
 *
 * Locking: a key's lock is a heavyweight lock of class ADVISORY whose fourth
 * field is IDENTITY_LOCK_CLASS.  SQL's advisory lock functions use 1 and 2
 * there, so no session can take, or squat on, one of ours.  It covers 64 bits
 * of the id; two identities that share them only wait for each other.  It is
 * held for the few microseconds of one decision or write, never while waiting
 * for a transaction, and it belongs to the (sub)transaction, so an error
 * releases it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "digest.h"
#include "errors.h"
#include "fault.h"
#include "identity.h"
#include "trace.h"

int64		identity_waited = 0;

#define IDENTITY_LOCK_CLASS 0x1D	/* field 4 of the lock tag */

/*
 * Refuse a text that is empty when it must not be, or over its limit.
 */
static void
identity_check_part(const char *what, int len, int min, int max)
{
	if (len < min)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not be empty", what)));
	if (len > max)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s is too long", what),
				 errdetail("It has %d bytes; the limit is %d.", len, max)));
}

/*
 * Check a scope's length.  Raises ID400.
 */
void
identity_check_scope(const char *scope, int len)
{
	identity_check_part("scope", len, 1, SCOPE_MAX_BYTES);
}

/*
 * Check the key's length against the policy of its scope, in bytes.  Raises
 * ID400.
 */
void
identity_check_key(const Identity *identity, int max_key_bytes)
{
	identity_check_part("idempotency key", identity->key_len, 1,
						Min(max_key_bytes, KEY_MAX_BYTES));
}

/*
 * Fill in an identity from three SQL texts; NULL is refused for scope and
 * key, and stands for '' as principal.  Checks the limits that hold for every
 * scope.  The texts must outlive the identity.  Raises ID400.
 */
void
identity_make(Identity *identity, text *scope, text *principal, text *key)
{
	if (scope == NULL || key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not be null",
						scope == NULL ? "scope" : "idempotency key")));

	identity->scope = VARDATA_ANY(scope);
	identity->scope_len = VARSIZE_ANY_EXHDR(scope);
	identity->principal = principal ? VARDATA_ANY(principal) : "";
	identity->principal_len = principal ? VARSIZE_ANY_EXHDR(principal) : 0;
	identity->key = VARDATA_ANY(key);
	identity->key_len = VARSIZE_ANY_EXHDR(key);
	identity->has_id = false;

	identity_check_scope(identity->scope, identity->scope_len);
	identity_check_part("principal", identity->principal_len, 0,
						PRINCIPAL_MAX_BYTES);
	identity_check_key(identity, KEY_MAX_BYTES);
}

/*
 * The id: 16 bytes of SHA-256 over a version label and the length-prefixed
 * texts (lengths are 4 bytes, big-endian).
 */
const pg_uuid_t *
identity_id(Identity *identity)
{
	static const char label[] = "idempotency:id:v1";
	uint32		lengths[3];
	uint8		digest[DIGEST_LENGTH];

	if (!identity->has_id)
	{
		DigestPart	parts[] = {
			{label, sizeof(label)},
			{&lengths[0], sizeof(uint32)},
			{identity->scope, identity->scope_len},
			{&lengths[1], sizeof(uint32)},
			{identity->principal, identity->principal_len},
			{&lengths[2], sizeof(uint32)},
			{identity->key, identity->key_len},
		};

		lengths[0] = pg_hton32(identity->scope_len);
		lengths[1] = pg_hton32(identity->principal_len);
		lengths[2] = pg_hton32(identity->key_len);
		digest_sha256(parts, lengthof(parts), digest);
		memcpy(identity->id.data, digest, UUID_LEN);
		identity->has_id = true;
	}
	return &identity->id;
}

/* Are the two the same operation?  Bytewise. */
bool
identity_equal(const Identity *a, const Identity *b)
{
	return a->key_len == b->key_len &&
		a->scope_len == b->scope_len &&
		a->principal_len == b->principal_len &&
		memcmp(a->key, b->key, a->key_len) == 0 &&
		memcmp(a->scope, b->scope, a->scope_len) == 0 &&
		memcmp(a->principal, b->principal, a->principal_len) == 0;
}

/* A copy, texts included, in one chunk of the given context. */
Identity *
identity_copy(const Identity *identity, MemoryContext where)
{
	Identity   *copy = MemoryContextAlloc(where,
										  sizeof(Identity) +
										  identity->scope_len +
										  identity->principal_len +
										  identity->key_len);
	char	   *at = (char *) (copy + 1);

	*copy = *identity;
	copy->scope = memcpy(at, identity->scope, identity->scope_len);
	at += identity->scope_len;
	copy->principal = memcpy(at, identity->principal, identity->principal_len);
	at += identity->principal_len;
	copy->key = memcpy(at, identity->key, identity->key_len);
	return copy;
}

/* The lock tag of an id in this database. */
static void
identity_locktag(LOCKTAG *tag, const pg_uuid_t *id)
{
	uint32		half[2];

	memcpy(half, id->data, sizeof(half));
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, half[0], half[1],
						 IDENTITY_LOCK_CLASS);
}

/*
 * Take the key's lock, waiting for whoever decides or writes the same key at
 * this moment.  The caller holds the locks on the tables it will touch, so
 * that a holder of a key's lock never waits for a table.
 */
void
identity_lock(Identity *identity)
{
	LOCKTAG		tag;

	identity_locktag(&tag, identity_id(identity));
	if (FAULT_SKIPS("key.lock"))
		return;
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		TimestampTz began = GetCurrentTimestamp();

		int64		step = trace_begin();

		(void) LockAcquire(&tag, ExclusiveLock, false, false);
		identity_waited += GetCurrentTimestamp() - began;
		trace_end(TRACE_LOCK_WAIT, step);
	}
}

/* Take the key's lock if it is free; returns whether it was. */
bool
identity_trylock(const pg_uuid_t *id)
{
	LOCKTAG		tag;

	identity_locktag(&tag, id);
	return FAULT_SKIPS("key.lock") ||
		LockAcquire(&tag, ExclusiveLock, false, true) !=
		LOCKACQUIRE_NOT_AVAIL;
}

/* Release the key's lock. */
void
identity_unlock(const pg_uuid_t *id)
{
	LOCKTAG		tag;

	identity_locktag(&tag, id);
	if (!FAULT_SKIPS("key.lock"))
		(void) LockRelease(&tag, ExclusiveLock, false);
}
