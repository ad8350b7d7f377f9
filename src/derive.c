/*-------------------------------------------------------------------------
 *
 * derive.c
 *		Keys that are derived from what is asked for, by whom, and when.
 *
 * A key is "d1:" and, in base64url, SHA-256 over
 *
 *		"idempotency:key:v1" 00
 *		kind			1 byte	J: canonical JSON (RFC 8785), T: any other text
 *		length, content	8 bytes, big-endian, and the content, in UTF-8
 *		length, caller	4 bytes, and the principal
 *		bucket			1 byte	0: none, else 1 and
 *			width, begin	8 bytes each, in microseconds; begin counts from 1970
 *
 * so that no two different things are written alike.  It is the same for ever:
 * who wants another key for the same content writes a new version, beside
 * this one.  Numbers keep all their digits, as in a fingerprint.
 *
 * derive_key() is STABLE, because a bucket without a moment is that of the
 * statement's beginning.  A support function replaces a call without a bucket,
 * when it is planned, by derive_key_immutable(), so that such a call can stand
 * in an index.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/supportnodes.h"
#include "port/pg_bswap.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base64url.h"
#include "canonical.h"
#include "compat.h"
#include "errors.h"
#include "identity.h"

#define DERIVE_PREFIX		"d1:"
#define DERIVE_LENGTH		(sizeof(DERIVE_PREFIX) - 1 + BASE64URL_LENGTH(DIGEST_LENGTH))
#define BUCKET_MIN			USECS_PER_SEC
#define BUCKET_MAX			(366 * USECS_PER_DAY)
#define UNIX_EPOCH_USECS	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

COMPAT_FUNCTION_INFO(idempotency_derive_key);
COMPAT_FUNCTION_INFO(idempotency_derive_key_immutable);
COMPAT_FUNCTION_INFO(idempotency_derive_key_support);

/* a span of time that has one key; a width of 0 is all time */
typedef struct Bucket
{
	int64		width;			/* microseconds */
	int64		begin;			/* microseconds since 1970 */
} Bucket;

/* The bucket that a moment falls into.  Raises ID400. */
static Bucket
derive_bucket(const Interval *width, TimestampTz at)
{
	Bucket		bucket;
	int64		since;

	if (width->month != 0 || width->day < 0 || width->day > 366 ||
		width->time < 0 || width->time > BUCKET_MAX)
		bucket.width = 0;
	else
		bucket.width = width->day * USECS_PER_DAY + width->time;
	if (bucket.width < BUCKET_MIN || bucket.width > BUCKET_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("bucket must be between 1 second and 366 days"),
				 errdetail("Months and years are not allowed, because they are not all of the same length.")));
	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("at must be finite")));
	since = at + UNIX_EPOCH_USECS;
	bucket.begin = since - since % bucket.width;
	if (since % bucket.width < 0)
		bucket.begin -= bucket.width;
	return bucket;
}

/* What is chosen of the request.  Raises ID400 if that is nothing. */
static void
derive_content(text *request, ArrayType *include, ArrayType *exclude,
			   CanonicalContent *content)
{
	if (request == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("request must not be null")));
	canonical_content(VARDATA_ANY(request), VARSIZE_ANY_EXHDR(request),
					  include == NULL,
					  canonical_parse_named_paths("include", include),
					  canonical_parse_named_paths("exclude", exclude),
					  content);
	if (content->nothing)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("there is nothing in the request to derive a key from"),
				 errdetail("It is empty, or lacks every field that was chosen; everybody would have the same key."),
				 errhint("Choose other fields, or refuse the request.")));
}

/* The key.  Raises ID400. */
static text *
derive_key(text *request, ArrayType *include, ArrayType *exclude,
		   text *principal, const Bucket *bucket)
{
	static const char label[] = "idempotency:key:v1";
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext,
											   "idempotency derive",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(work);
	CanonicalContent content;
	uint64		content_len;
	uint32		principal_len;
	uint8		has_bucket = bucket->width != 0;
	uint64		times[2];
	uint8		digest[DIGEST_LENGTH];
	char		result[DERIVE_LENGTH];

	derive_content(request, include, exclude, &content);
	content_len = pg_hton64(content.len);
	principal_len = pg_hton32(principal ? VARSIZE_ANY_EXHDR(principal) : 0);
	times[0] = pg_hton64((uint64) bucket->width);
	times[1] = pg_hton64((uint64) bucket->begin);
	{
		DigestPart	parts[] = {
			{label, sizeof(label)},
			{&content.kind, 1},
			{&content_len, sizeof(content_len)},
			{content.data, content.len},
			{&principal_len, sizeof(principal_len)},
			{principal ? VARDATA_ANY(principal) : "", pg_ntoh32(principal_len)},
			{&has_bucket, 1},
			{times, has_bucket ? sizeof(times) : 0}
		};

		digest_sha256(parts, lengthof(parts), digest);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(work);
	memcpy(result, DERIVE_PREFIX, sizeof(DERIVE_PREFIX) - 1);
	base64url_encode(digest, DIGEST_LENGTH,
					 result + sizeof(DERIVE_PREFIX) - 1);
	return cstring_to_text_with_len(result, DERIVE_LENGTH);
}

/*
 * derive_key(request text, include text[], exclude text[], principal text,
 *			  bucket interval, at timestamptz) returns text
 */
Datum
idempotency_derive_key(PG_FUNCTION_ARGS)
{
	Bucket		bucket = {0};

	if (!PG_ARGISNULL(4))
		bucket = derive_bucket(PG_GETARG_INTERVAL_P(4),
							   PG_ARGISNULL(5) ?
							   GetCurrentStatementStartTimestamp() :
							   PG_GETARG_TIMESTAMPTZ(5));
	else if (!PG_ARGISNULL(5))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("at belongs to a bucket"),
				 errhint("Pass a bucket too, or leave it out.")));
	PG_RETURN_TEXT_P(derive_key(TEXT_ARGUMENT(0),
								PG_ARGISNULL(1) ? NULL : PG_GETARG_ARRAYTYPE_P(1),
								PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2),
								TEXT_ARGUMENT(3), &bucket));
}

/*
 * derive_key_immutable(request text, include text[], exclude text[],
 *						principal text) returns text
 */
Datum
idempotency_derive_key_immutable(PG_FUNCTION_ARGS)
{
	Bucket		bucket = {0};

	PG_RETURN_TEXT_P(derive_key(TEXT_ARGUMENT(0),
								PG_ARGISNULL(1) ? NULL : PG_GETARG_ARRAYTYPE_P(1),
								PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2),
								TEXT_ARGUMENT(3), &bucket));
}

/* Is the argument known to be NULL? */
static bool
derive_is_null(FuncExpr *call, int arg)
{
	Node	   *node = list_nth(call->args, arg);

	return IsA(node, Const) && ((Const *) node)->constisnull;
}

/*
 * derive_key_support(internal) returns internal
 *
 * A planner support function: a call without bucket and moment becomes one of
 * derive_key_immutable().
 */
Datum
idempotency_derive_key_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	Oid			types[] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID};
	FuncExpr   *call;
	Oid			twin;

	if (!IsA(request, SupportRequestSimplify))
		PG_RETURN_POINTER(NULL);
	call = ((SupportRequestSimplify *) request)->fcall;
	if (list_length(call->args) != 6 || !derive_is_null(call, 4) ||
		!derive_is_null(call, 5))
		PG_RETURN_POINTER(NULL);
	twin = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum("derive_key_immutable"),
						   PointerGetDatum(buildoidvector(types,
														  lengthof(types))),
						   ObjectIdGetDatum(get_func_namespace(call->funcid)));
	if (!OidIsValid(twin))
		PG_RETURN_POINTER(NULL);
	PG_RETURN_POINTER(makeFuncExpr(twin, TEXTOID,
								   list_copy_head(call->args, lengthof(types)),
								   call->funccollid, call->inputcollid,
								   COERCE_EXPLICIT_CALL));
}
