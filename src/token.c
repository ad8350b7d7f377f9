/*-------------------------------------------------------------------------
 *
 * token.c
 *		Keys that the server itself has issued.
 *
 * A token is 63 bytes in base64url:
 *
 *		version		1 byte
 *		key id		4 bytes, big-endian, of the signing key
 *		expiry		8 bytes, microseconds since 2000
 *		nonce		18 bytes, random
 *		MAC			32 bytes, HMAC-SHA-256 with the signing key
 *
 * The MAC covers a label, scope and principal, each behind its length, and what
 * stands before it; so a token holds for one scope and one principal, though
 * it names neither.  It is the key: who brings it twice is a duplicate.
 *
 * Where the policy requires a token, any other key is refused in one way and
 * in the same time: the MAC is always computed, with a key that nobody has if
 * need be, everything is always looked at, and what was wrong isn't told.
 *
 * Signing keys are in table token_key, which only its owner reads; a backend
 * keeps a copy until the table changes.  They are made by the first
 * issue_token(), and by rotate_token_key().  One that was rotated away verifies
 * for as long as a token can live.  They aren't dumped: a restored database
 * makes its own, and what was issued before is refused in it.
 *
 * Locking: who issues a token holds RowShareLock on the table until it is
 * signed; who changes the keys holds ExclusiveLock until it has committed.  So
 * nobody signs with a key after the time from which its retirement counts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base64url.h"
#include "catalog.h"
#include "compat.h"
#include "decision.h"
#include "digest.h"
#include "duty.h"
#include "errors.h"
#include "fault.h"
#include "token.h"

#define TOKEN_VERSION	1
#define TTL_MIN			USECS_PER_SEC
#define TTL_MAX			USECS_PER_DAY

COMPAT_FUNCTION_INFO(idempotency_issue_token);
COMPAT_FUNCTION_INFO(idempotency_rotate_token_key);

/* a token's bytes; nothing in it is aligned */
typedef struct Token
{
	uint8		version;
	uint8		key_id[4];
	uint8		expiry[8];
	uint8		nonce[18];
	uint8		mac[DIGEST_LENGTH];
} Token;

#define TOKEN_SIGNED	offsetof(Token, mac)
#define TOKEN_LENGTH	BASE64URL_LENGTH(sizeof(Token))

StaticAssertDecl(sizeof(Token) == 63, "a token must be without gaps");

/* attribute numbers, in the order of src/sql/token.sql */
enum
{
	TOKEN_KEY_ID = 1,
	TOKEN_KEY_SECRET,
	TOKEN_KEY_CREATED_AT,
	TOKEN_KEY_VERIFIES_UNTIL,
	TOKEN_KEY_COLUMNS = TOKEN_KEY_VERIFIES_UNTIL
};

typedef struct TokenKey
{
	uint32		id;
	uint8		secret[DIGEST_LENGTH];
	TimestampTz verifies_until; /* DT_NOEND: the one that signs */
} TokenKey;

/* this backend's copy of the table */
static MemoryContext token_context = NULL;
static TokenKey *token_keys = NULL;
static int	token_nkeys = 0;
static uint64 token_generation = 0; /* of what is cached */

/* Read a row of the table. */
static void
token_read_key(Relation rel, HeapTuple tuple, TokenKey *key)
{
	Datum		values[TOKEN_KEY_COLUMNS];
	bool		isnull[TOKEN_KEY_COLUMNS];
	bytea	   *secret;

	heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
	secret = DatumGetByteaPP(values[TOKEN_KEY_SECRET - 1]);
	if (VARSIZE_ANY_EXHDR(secret) != DIGEST_LENGTH)
		elog(ERROR, "stored signing key has the wrong length");
	key->id = (uint32) DatumGetInt32(values[TOKEN_KEY_ID - 1]);
	memcpy(key->secret, VARDATA_ANY(secret), DIGEST_LENGTH);
	key->verifies_until = isnull[TOKEN_KEY_VERIFIES_UNTIL - 1] ? DT_NOEND :
		DatumGetTimestampTz(values[TOKEN_KEY_VERIFIES_UNTIL - 1]);
}

/* Read the signing keys again if they may have changed. */
static void
token_load(void)
{
	Oid			relid = catalog_relation(CATALOG_TOKEN_KEY);
	uint64		generation = catalog_generation(CATALOG_TOKEN_KEY);
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			max = 8;

	if (likely(token_generation == generation))
		return;

	token_generation = 0;		/* in case of an error below */
	token_nkeys = 0;
	if (token_context == NULL)
		token_context = AllocSetContextCreate(TopMemoryContext,
											  "idempotency signing keys",
											  ALLOCSET_SMALL_SIZES);
	MemoryContextReset(token_context);
	token_keys = MemoryContextAlloc(token_context, max * sizeof(TokenKey));

	rel = table_open(relid, AccessShareLock);
	catalog_require_columns(rel, TOKEN_KEY_COLUMNS);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (token_nkeys == max)
		{
			max *= 2;
			token_keys = repalloc(token_keys, max * sizeof(TokenKey));
		}
		token_read_key(rel, tuple, &token_keys[token_nkeys++]);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	token_generation = generation;
}

/* The key that signs, or NULL if there is none yet. */
static const TokenKey *
token_signing_key(void)
{
	token_load();
	for (int i = 0; i < token_nkeys; i++)
	{
		if (token_keys[i].verifies_until == DT_NOEND)
			return &token_keys[i];
	}
	return NULL;
}

/*
 * Copy the secret of the key with this id, if it still verifies.  If not,
 * returns false and one that nobody has; takes as long.
 */
static bool
token_secret(uint32 id, TimestampTz now, uint8 secret[DIGEST_LENGTH])
{
	static uint8 nobodys[DIGEST_LENGTH];
	static bool has_nobodys = false;
	bool		found = false;

	if (!has_nobodys && !pg_strong_random(nobodys, DIGEST_LENGTH))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	has_nobodys = true;
	memcpy(secret, nobodys, DIGEST_LENGTH);
	token_load();
	for (int i = 0; i < token_nkeys; i++)
	{
		bool		is = token_keys[i].id == id &&
			token_keys[i].verifies_until > now;
		uint8		mask = is ? 0xFF : 0;

		for (int j = 0; j < DIGEST_LENGTH; j++)
			secret[j] = (secret[j] & ~mask) | (token_keys[i].secret[j] & mask);
		found |= is;
	}
	return found;
}

/* The MAC of a token for an identity's scope and principal. */
static void
token_mac(const Token *token, const Identity *identity,
		  const uint8 secret[DIGEST_LENGTH], uint8 mac[DIGEST_LENGTH])
{
	static const char label[] = "idempotency:token:v1";
	uint8		lengths[2] = {
		(uint8) identity->scope_len, (uint8) identity->principal_len
	};
	uint8		message[sizeof(label) + 2 + SCOPE_MAX_BYTES +
						PRINCIPAL_MAX_BYTES + TOKEN_SIGNED];
	uint8	   *at = message;
	pg_hmac_ctx *ctx;

	StaticAssertStmt(SCOPE_MAX_BYTES <= 255 && PRINCIPAL_MAX_BYTES <= 255,
					 "a length must fit into a byte");
	memcpy(at, label, sizeof(label));
	at += sizeof(label);
	*at++ = lengths[0];
	memcpy(at, identity->scope, identity->scope_len);
	at += identity->scope_len;
	*at++ = lengths[1];
	memcpy(at, identity->principal, identity->principal_len);
	at += identity->principal_len;
	memcpy(at, token, TOKEN_SIGNED);
	at += TOKEN_SIGNED;

	ctx = pg_hmac_create(PG_SHA256);
	if (ctx == NULL || pg_hmac_init(ctx, secret, DIGEST_LENGTH) < 0 ||
		pg_hmac_update(ctx, message, at - message) < 0 ||
		pg_hmac_final(ctx, mac, DIGEST_LENGTH) < 0)
	{
		const char *reason = pg_hmac_error(ctx);

		pg_hmac_free(ctx);
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute HMAC: %s", reason)));
	}
	pg_hmac_free(ctx);
}

/* Read a number out of a token. */
static uint64
token_number(const uint8 *bytes, int n)
{
	uint64		number = 0;

	for (int i = 0; i < n; i++)
		number = number << 8 | bytes[i];
	return number;
}

/* Write a number into a token. */
static void
token_put_number(uint8 *bytes, int n, uint64 number)
{
	for (int i = n - 1; i >= 0; i--, number >>= 8)
		bytes[i] = (uint8) number;
}

/*
 * Take a key apart as a token.  Returns whether it has the form of one; if it
 * hasn't, the token is what came of it.
 */
static bool
token_parse(const Identity *identity, Token *token)
{
	char		chars[TOKEN_LENGTH] = {0};
	bool		valid = identity->key_len == TOKEN_LENGTH;

	memcpy(chars, identity->key, Min(identity->key_len, TOKEN_LENGTH));
	valid &= base64url_decode(chars, (uint8 *) token, sizeof(Token));
	valid &= token->version == TOKEN_VERSION;
	return valid;
}

/*
 * Refuse a key that isn't a token which this database has issued for this
 * scope and principal, and which is still good.  Returns until when it is.
 * Raises ID401.
 */
TimestampTz
token_require(const Identity *identity)
{
	TimestampTz now = clock_now();
	Token		token;
	uint8		secret[DIGEST_LENGTH];
	uint8		mac[DIGEST_LENGTH];
	TimestampTz expiry;
	bool		good;

	good = token_parse(identity, &token);
	good &= token_secret((uint32) token_number(token.key_id, sizeof(token.key_id)),
						 now, secret);
	token_mac(&token, identity, secret, mac);
	good &= digest_equal(mac, token.mac);
	expiry = (TimestampTz) token_number(token.expiry, sizeof(token.expiry));
	good &= expiry > now;
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_TOKEN),
				 errmsg("the idempotency key is not a valid token, in scope \"%.*s\"",
						identity->scope_len, identity->scope),
				 errhint("Get one from issue_token(), for this scope and principal, and use it before it expires.")));
	return expiry;
}

/*
 * Refuse to forget a key while it is still good as a token: it could be used
 * again.  Raises ID400.
 */
void
token_check_retention(const Identity *identity, TimestampTz expiry,
					  int64 retention, TimestampTz now)
{
	if (retention != RETENTION_FOREVER && expiry > now + retention)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("retention is shorter than the life of the token, in scope \"%.*s\"",
						identity->scope_len, identity->scope),
				 errhint("Ask for more, or issue tokens with a shorter ttl.")));
}

/*
 * The same where the settlement of a claim, which has brought a token if the
 * policy requires one, asks for a retention of its own.  Raises ID400.
 */
void
token_check_asked_retention(const Policy *policy, const Identity *identity,
							int64 asked, TimestampTz now)
{
	Token		token;

	if (policy->require_token && token_parse(identity, &token))
		token_check_retention(identity,
							  (TimestampTz) token_number(token.expiry,
														 sizeof(token.expiry)),
							  asked, now);
}

/*
 * Replace the key that signs by a new one, and delete those that nothing can
 * need any more.  The caller holds ExclusiveLock on the table.  Returns the
 * new key's id.
 */
static uint32
token_replace_key(Relation rel)
{
	TimestampTz now = clock_now();
	uint32		last = 0;
	bytea	   *secret = palloc(VARHDRSZ + DIGEST_LENGTH);
	Datum		values[TOKEN_KEY_COLUMNS];
	bool		isnull[TOKEN_KEY_COLUMNS] = {0};
	bool		replace[TOKEN_KEY_COLUMNS] = {0};
	SysScanDesc scan;
	HeapTuple	tuple;

	catalog_require_columns(rel, TOKEN_KEY_COLUMNS);
	replace[TOKEN_KEY_VERIFIES_UNTIL - 1] = true;
	values[TOKEN_KEY_VERIFIES_UNTIL - 1] = TimestampTzGetDatum(now + TTL_MAX);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		TokenKey	key;

		token_read_key(rel, tuple, &key);
		last = Max(last, key.id);
		if (key.verifies_until <= now)
			CatalogTupleDelete(rel, &tuple->t_self);
		else if (key.verifies_until == DT_NOEND)
			CatalogTupleUpdate(rel, &tuple->t_self,
							   heap_modify_tuple(tuple, RelationGetDescr(rel),
												 values, isnull, replace));
	}
	systable_endscan(scan);

	SET_VARSIZE(secret, VARHDRSZ + DIGEST_LENGTH);
	if (last == PG_INT32_MAX ||
		!pg_strong_random(VARDATA(secret), DIGEST_LENGTH))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not make a signing key")));
	values[TOKEN_KEY_ID - 1] = Int32GetDatum((int32) last + 1);
	values[TOKEN_KEY_SECRET - 1] = PointerGetDatum(secret);
	values[TOKEN_KEY_CREATED_AT - 1] = TimestampTzGetDatum(now);
	isnull[TOKEN_KEY_VERIFIES_UNTIL - 1] = true;
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
											isnull));
	CacheInvalidateRelcache(rel);
	CommandCounterIncrement();
	decision_general(ENTRY_TOKEN_KEY, NULL, 0,
					 psprintf("{\"key_id\": %u}", last + 1));
	return last + 1;
}

/*
 * Make the first signing key, unless somebody else has by the time that we
 * have the lock.
 */
static void
token_make_first_key(void)
{
	Relation	rel;

	if (RecoveryInProgress() || XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("there is no signing key yet, and none can be made here"),
				 errhint("Call issue_token() or rotate_token_key() once where the database can be written.")));
	catalog_check_writable("issue_token()");
	rel = table_open(catalog_relation(CATALOG_TOKEN_KEY), ExclusiveLock);
	if (token_signing_key() == NULL)
		(void) token_replace_key(rel);
	table_close(rel, NoLock);
}

/*
 * Fill in and sign a token that is good for so long, in microseconds.  The
 * table is locked so that the key isn't rotated away meanwhile.
 */
static void
token_sign(const Identity *identity, int64 ttl, Token *token)
{
	const TokenKey *key;

	LockRelationOid(catalog_relation(CATALOG_TOKEN_KEY), RowShareLock);
	while ((key = token_signing_key()) == NULL)
	{
		UnlockRelationOid(catalog_relation(CATALOG_TOKEN_KEY), RowShareLock);
		token_make_first_key();
		LockRelationOid(catalog_relation(CATALOG_TOKEN_KEY), RowShareLock);
	}
	token->version = TOKEN_VERSION;
	token_put_number(token->key_id, sizeof(token->key_id), key->id);
	token_put_number(token->expiry, sizeof(token->expiry),
					 (uint64) (clock_now() + ttl));
	if (!pg_strong_random(token->nonce, sizeof(token->nonce)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	token_mac(token, identity, key->secret, token->mac);
	UnlockRelationOid(catalog_relation(CATALOG_TOKEN_KEY), RowShareLock);
}

/* Would a token of that life serve in its scope?  Raises ID400, ID403. */
static void
token_check_issue(const Identity *identity, int64 ttl)
{
	Policy		policy;

	if (ttl < TTL_MIN || ttl > TTL_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("ttl must be between 1 second and 1 day"),
				 errhint("A number without a unit is read as seconds.")));
	policy_lock();
	policy_get(identity->scope, identity->scope_len, &policy);
	policy_check_role(&policy, identity->scope, identity->scope_len);
	policy_unlock();
	if (ttl > policy.retention)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("ttl is longer than keys are remembered in scope \"%.*s\"",
						identity->scope_len, identity->scope),
				 errdetail("A token that outlives its key could be used twice."),
				 errhint("Ask for less, or raise the scope's retention with configure().")));
	if (policy.max_key_bytes < TOKEN_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("a token is longer than the keys of scope \"%.*s\" may be",
						identity->scope_len, identity->scope),
				 errdetail("It has %d bytes; the limit is %d.",
						   (int) TOKEN_LENGTH, policy.max_key_bytes),
				 errhint("Raise the scope's max_key_bytes with configure().")));
}

/* issue_token(scope text, principal text, ttl interval) returns text */
Datum
idempotency_issue_token(PG_FUNCTION_ARGS)
{
	Identity	identity;
	int64		ttl = PG_ARGISNULL(2) ? 0 :
		policy_interval(PG_GETARG_INTERVAL_P(2));
	Token		token;
	char		chars[TOKEN_LENGTH];

	/* the key is what is to be made */
	identity_make(&identity, TEXT_ARGUMENT(0), TEXT_ARGUMENT(1),
				  cstring_to_text("-"));
	token_check_issue(&identity, ttl);
	token_sign(&identity, ttl, &token);
	base64url_encode((uint8 *) &token, sizeof(Token), chars);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(chars, TOKEN_LENGTH));
}

/* rotate_token_key() returns integer */
Datum
idempotency_rotate_token_key(PG_FUNCTION_ARGS)
{
	Relation	rel;
	uint32		id;

	catalog_check_writable("rotate_token_key()");
	rel = table_open(catalog_relation(CATALOG_TOKEN_KEY), ExclusiveLock);
	id = token_replace_key(rel);
	table_close(rel, NoLock);
	ereport(LOG,
			(errmsg("signing key of idempotency tokens rotated by role \"%s\"",
					GetUserNameFromId(GetUserId(), false)),
			 errdetail("The new key has id %u.", id)));
	PG_RETURN_INT32((int32) id);
}

/*
 * Duty: delete signing keys that nothing can need any more.
 */
static void
token_clean(int step)
{
	TimestampTz now = clock_now();
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		deleted = 0;
	bool		any = false;

	token_load();
	for (int i = 0; i < token_nkeys; i++)
		any |= token_keys[i].verifies_until <= now;
	if (!any || !duty_lock(catalog_relation(CATALOG_TOKEN_KEY), ExclusiveLock))
		return;
	rel = table_open(catalog_relation(CATALOG_TOKEN_KEY), NoLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		TokenKey	key;

		token_read_key(rel, tuple, &key);
		if (key.verifies_until > now)
			continue;
		CatalogTupleDelete(rel, &tuple->t_self);
		deleted++;
	}
	systable_endscan(scan);
	CacheInvalidateRelcache(rel);
	CommandCounterIncrement();
	table_close(rel, NoLock);
	duty_report("token_key", "deleted", deleted);
}

/* Register the duty; called once from _PG_init. */
void
token_init(void)
{
	duty_register("token keys", 1, token_clean);
}
