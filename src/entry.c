/*-------------------------------------------------------------------------
 *
 * entry.c
 *		An entry of the ledger: its columns, and what is hashed of it.
 *
 * This file alone knows the columns of table ledger_entry (src/sql/ledger.sql).
 *
 * What is hashed is an encoding that no two different entries share, and that
 * depends on the entry alone: not on the server's byte order, encoding, time
 * zone or version.  It is
 *
 *		"idempotency/entry/v1", a newline, then each field in a fixed order:
 *		integers	8 bytes, big-endian, two's complement
 *		times		microseconds since 1970-01-01 UTC, as an integer
 *		texts		their length in bytes as 4 bytes, big-endian, then UTF-8;
 *					in an SQL_ASCII database the bytes as they are, and where
 *					they have no equivalent in UTF-8 likewise, with the length's
 *					top bit set
 *		bytes		likewise
 *		nullable	a byte 0 (null), or 1 and the value
 *
 * A field that is added needs a new version and label; entries of the old one
 * go on being encoded as they were.  test/t/031_ledger.pl has golden ones.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "common/hmac.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "entry.h"

/* from PostgreSQL's epoch to Unix's, microseconds */
#define UNIX_EPOCH_OFFSET \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* added to the length of a text that can't be converted */
#define RAW_TEXT 0x80000000U

static const char entry_label[] = "idempotency/entry/v1\n";

/* attribute numbers, in the order of src/sql/ledger.sql */
enum
{
	COLUMN_SEQ = 1,
	COLUMN_DECIDED_AT,
	COLUMN_CLAIMED_AT,
	COLUMN_INCARNATION,
	COLUMN_FENCE,
	COLUMN_EVENT_NO,
	COLUMN_ATTEMPT,
	COLUMN_VERSION,
	COLUMN_ID,
	COLUMN_DECISION,
	COLUMN_SCOPE,
	COLUMN_PRINCIPAL,
	COLUMN_KEY,
	COLUMN_DIGESTS,				/* in the order of EntryDigest */
	COLUMN_SESSION_ROLE = COLUMN_DIGESTS + ENTRY_DIGESTS,
	COLUMN_ROLE,
	COLUMN_APPLICATION,
	COLUMN_TRACE_ID,
	COLUMN_DETAIL,
	ENTRY_COLUMNS = COLUMN_DETAIL
};

static const char *const decision_names[ENTRY_DECISIONS] = {
	[ENTRY_EXECUTED] = "executed",
	[ENTRY_CLAIMED] = "claimed",
	[ENTRY_TAKEOVER] = "takeover",
	[ENTRY_CHECKPOINT] = "checkpoint",
	[ENTRY_FINISHED] = "finished",
	[ENTRY_FAILED] = "failed",
	[ENTRY_RETRY] = "retry",
	[ENTRY_EXHAUSTED] = "exhausted",
	[ENTRY_RELEASED] = "released",
	[ENTRY_RESOLVED] = "resolved",
	[ENTRY_FORGOTTEN] = "forgotten",
	[ENTRY_ERASED] = "erased",
	[ENTRY_MISMATCH] = "mismatch",
	[ENTRY_EXPIRED] = "expired",
	[ENTRY_REPLAYED] = "replayed",
	[ENTRY_ABORTED] = "aborted",
	[ENTRY_CONFIGURED] = "configured",
	[ENTRY_BREAKER] = "breaker",
	[ENTRY_INCARNATION] = "incarnation",
	[ENTRY_PRUNED] = "pruned",
	[ENTRY_LOST] = "lost",
	[ENTRY_INVALIDATED] = "invalidated",
	[ENTRY_TOKEN_KEY] = "token_key",
	[ENTRY_SKIPPED] = "skipped",
	[ENTRY_POSITIONED] = "positioned",
	[ENTRY_REDELIVERED] = "redelivered",
	[ENTRY_DEAD] = "dead",
	[ENTRY_STEP] = "step",
	[ENTRY_STEP_DONE] = "step_done",
	[ENTRY_COMPENSATING] = "compensating",
	[ENTRY_COMPENSATING_STEP] = "compensating_step",
	[ENTRY_COMPENSATED_STEP] = "compensated_step",
	[ENTRY_COMPENSATION_RETRY] = "compensation_retry",
	[ENTRY_COMPENSATION_FAILED] = "compensation_failed",
	[ENTRY_COMPENSATED] = "compensated"
};

/* a text, to be hashed */
typedef struct Utf8
{
	const char *bytes;			/* the text's own, or palloc'd */
	int			len;
	bool		raw;			/* it can't be converted; as it is stored */
} Utf8;

/* Is a text the same in every encoding? */
static bool
entry_is_ascii(const char *string, int len)
{
	for (int i = 0; i < len; i++)
	{
		if (IS_HIGHBIT_SET(string[i]))
			return false;
	}
	return true;
}

/*
 * A text in UTF-8, so that what is hashed doesn't depend on the server's
 * encoding.  Where that is SQL_ASCII it is the bytes that are there, and so it
 * is where they have no equivalent in UTF-8.  Raises nothing.
 */
static Utf8
entry_utf8(const char *string, int len)
{
	Utf8		utf8 = {string, len, false};
	int			encoding = GetDatabaseEncoding();
	unsigned char *converted;
	Size		room;
	Oid			proc;

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII ||
		entry_is_ascii(string, len))
		return utf8;
	utf8.raw = true;
	proc = FindDefaultConversionProc(encoding, PG_UTF8);
	if (!OidIsValid(proc))
		return utf8;
	room = (Size) len * MAX_CONVERSION_GROWTH + 1;
	converted = MemoryContextAllocHuge(CurrentMemoryContext, room);
	if (pg_do_encoding_conversion_buf(proc, encoding, PG_UTF8,
									  (unsigned char *) unconstify(char *, string),
									  len, converted, (int) Min(room, PG_INT32_MAX),
									  true) == len)
	{
		utf8.bytes = (char *) converted;
		utf8.len = strlen((char *) converted);
		utf8.raw = false;
	}
	else
		pfree(converted);
	return utf8;
}

/* SHA-256 of a text in UTF-8: what the digest of a response is. */
void
entry_digest(const text *value, uint8 result[DIGEST_LENGTH])
{
	Utf8		utf8 = entry_utf8(VARDATA_ANY(value),
								  VARSIZE_ANY_EXHDR(value));
	DigestPart	part = {utf8.bytes, utf8.len};

	digest_sha256(&part, 1, result);
}

/*
 * HMAC-SHA-256 of a text in UTF-8 by a salt: a commitment that says nothing
 * once the salt is gone.  Raises only if the server's HMAC fails.
 */
void
entry_commitment(const uint8 salt[DIGEST_LENGTH], const text *value,
				 uint8 result[DIGEST_LENGTH])
{
	Utf8		utf8 = entry_utf8(VARDATA_ANY(value),
								  VARSIZE_ANY_EXHDR(value));
	pg_hmac_ctx *context = pg_hmac_create(PG_SHA256);

	if (context == NULL ||
		pg_hmac_init(context, salt, DIGEST_LENGTH) < 0 ||
		pg_hmac_update(context, (const uint8 *) utf8.bytes, utf8.len) < 0 ||
		pg_hmac_final(context, result, DIGEST_LENGTH) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute an HMAC: %s",
						pg_hmac_error(context))));
	pg_hmac_free(context);
}

/*
 * A role's name; empty if there is none, or it is gone.  Names are shared by
 * all databases, and may be of another's encoding: what can't be read here is
 * replaced by question marks.
 */
text *
entry_role(Oid role)
{
	char	   *name = OidIsValid(role) ? GetUserNameFromId(role, true) : NULL;

	if (name == NULL)
		return cstring_to_text("");
	if (!pg_verifymbstr(name, strlen(name), true))
	{
		for (char *c = name; *c; c++)
		{
			if (IS_HIGHBIT_SET(*c))
				*c = '?';
		}
	}
	return cstring_to_text(name);
}

/* The name of a decision, as it is stored. */
const char *
entry_decision_name(EntryDecision decision)
{
	return decision_names[decision];
}

/* The decision of this name, or -1. */
int
entry_decision_find(const text *name)
{
	for (int i = 0; i < ENTRY_DECISIONS; i++)
	{
		if (strlen(decision_names[i]) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(decision_names[i], VARDATA_ANY(name),
				   VARSIZE_ANY_EXHDR(name)) == 0)
			return i;
	}
	return -1;
}

/* Does the decision change what is remembered of a key? */
bool
entry_changes_state(EntryDecision decision)
{
	return decision <= ENTRY_ERASED ||
		(decision >= ENTRY_STEP && decision <= ENTRY_COMPENSATED);
}

/* How many columns the table has. */
int
entry_columns(void)
{
	return ENTRY_COLUMNS;
}

/* Set a nullable bytea column, in the given space. */
static void
entry_set_bytes(Datum *values, bool *isnull, int column, bool has,
				const uint8 *bytes, size_t len, char *space)
{
	isnull[column - 1] = !has;
	if (!has)
		return;
	SET_VARSIZE(space, VARHDRSZ + len);
	memcpy(VARDATA(space), bytes, len);
	values[column - 1] = PointerGetDatum(space);
}

/* Set a text column from a part of an identity. */
static void
entry_set_name(Datum *values, bool *isnull, int column, bool has,
			   const char *name, int len)
{
	isnull[column - 1] = !has;
	if (has)
		values[column - 1] =
			PointerGetDatum(cstring_to_text_with_len(name, len));
}

/* Set the columns that say whom an entry is about. */
static void
entry_set_identity(Datum *values, bool *isnull, LedgerEntry *entry)
{
	Identity   *identity = &entry->identity;

	isnull[COLUMN_ID - 1] = !entry->has_key;
	if (entry->has_key)
		values[COLUMN_ID - 1] = UUIDPGetDatum(identity_id(identity));
	entry_set_name(values, isnull, COLUMN_SCOPE, identity->scope != NULL,
				   identity->scope, identity->scope_len);
	entry_set_name(values, isnull, COLUMN_PRINCIPAL,
				   identity->principal != NULL, identity->principal,
				   identity->principal_len);
	entry_set_name(values, isnull, COLUMN_KEY, identity->key != NULL,
				   identity->key, identity->key_len);
}

/* A tuple for the table that desc describes, palloc'd. */
HeapTuple
entry_form(TupleDesc desc, LedgerEntry *entry)
{
	Datum		values[ENTRY_COLUMNS];
	bool		isnull[ENTRY_COLUMNS] = {0};
	char		digests[ENTRY_DIGESTS][VARHDRSZ + DIGEST_LENGTH] pg_attribute_aligned(4);
	char		trace[VARHDRSZ + TRACE_ID_LENGTH] pg_attribute_aligned(4);

	values[COLUMN_SEQ - 1] = Int64GetDatum(entry->seq);
	values[COLUMN_DECIDED_AT - 1] = TimestampTzGetDatum(entry->decided_at);
	values[COLUMN_CLAIMED_AT - 1] = TimestampTzGetDatum(entry->claimed_at);
	isnull[COLUMN_CLAIMED_AT - 1] = entry->claimed_at == DT_NOBEGIN;
	values[COLUMN_INCARNATION - 1] = Int64GetDatum(entry->incarnation);
	values[COLUMN_FENCE - 1] = Int64GetDatum(entry->fence);
	isnull[COLUMN_FENCE - 1] = entry->fence == 0;
	values[COLUMN_EVENT_NO - 1] = Int32GetDatum(entry->event_no);
	isnull[COLUMN_EVENT_NO - 1] = entry->event_no == 0;
	values[COLUMN_ATTEMPT - 1] = Int32GetDatum(entry->attempt);
	isnull[COLUMN_ATTEMPT - 1] = entry->attempt == 0;
	values[COLUMN_VERSION - 1] = Int16GetDatum(entry->version);
	values[COLUMN_DECISION - 1] = PointerGetDatum(entry->decision);
	entry_set_identity(values, isnull, entry);
	for (int i = 0; i < ENTRY_DIGESTS; i++)
		entry_set_bytes(values, isnull, COLUMN_DIGESTS + i,
						entry->has_digest[i], entry->digest[i],
						DIGEST_LENGTH, digests[i]);
	values[COLUMN_SESSION_ROLE - 1] = PointerGetDatum(entry->session_role);
	values[COLUMN_ROLE - 1] = PointerGetDatum(entry->role);
	values[COLUMN_APPLICATION - 1] = PointerGetDatum(entry->application);
	entry_set_bytes(values, isnull, COLUMN_TRACE_ID, entry->has_trace,
					entry->trace, TRACE_ID_LENGTH, trace);
	values[COLUMN_DETAIL - 1] = PointerGetDatum(entry->detail);
	isnull[COLUMN_DETAIL - 1] = entry->detail == NULL;
	return heap_form_tuple(desc, values, isnull);
}

/* Read nullable bytes of a fixed length; returns whether there are any. */
static bool
entry_get_bytes(const Datum *values, const bool *isnull, int column,
				uint8 *bytes, size_t len, bool *malformed)
{
	bytea	   *value;

	if (isnull[column - 1])
		return false;
	value = DatumGetByteaPP(values[column - 1]);
	memset(bytes, 0, len);
	memcpy(bytes, VARDATA_ANY(value), Min(VARSIZE_ANY_EXHDR(value), len));
	*malformed |= VARSIZE_ANY_EXHDR(value) != len;
	return true;
}

/* Read an integer for which 0 stands for NULL. */
static int64
entry_get_integer(const bool *isnull, int column, int64 value,
				  bool *malformed)
{
	if (isnull[column - 1])
		return 0;
	*malformed |= value == 0;
	return value;
}

/* Read a nullable text as a part of an identity. */
static const char *
entry_get_name(const Datum *values, const bool *isnull, int column, int *len)
{
	text	   *name;

	*len = 0;
	if (isnull[column - 1])
		return NULL;
	name = DatumGetTextPP(values[column - 1]);
	*len = VARSIZE_ANY_EXHDR(name);
	return VARDATA_ANY(name);
}

/* Read a text that isn't null, unless somebody has seen to that. */
static text *
entry_get_text(const Datum *values, const bool *isnull, int column,
			   bool *malformed)
{
	if (!isnull[column - 1])
		return DatumGetTextPP(values[column - 1]);
	*malformed = true;
	return cstring_to_text("");
}

/* Read a tuple.  The entry points into it. */
void
entry_deform(TupleDesc desc, HeapTuple tuple, LedgerEntry *entry)
{
	Datum		values[ENTRY_COLUMNS];
	bool		isnull[ENTRY_COLUMNS];
	Identity   *identity = &entry->identity;

	heap_deform_tuple(tuple, desc, values, isnull);
	entry->seq = DatumGetInt64(values[COLUMN_SEQ - 1]);
	entry->decided_at = DatumGetTimestampTz(values[COLUMN_DECIDED_AT - 1]);
	entry->claimed_at = isnull[COLUMN_CLAIMED_AT - 1] ? DT_NOBEGIN :
		DatumGetTimestampTz(values[COLUMN_CLAIMED_AT - 1]);
	entry->malformed = (!isnull[COLUMN_CLAIMED_AT - 1] &&
						entry->claimed_at == DT_NOBEGIN) ||
		isnull[COLUMN_SEQ - 1] || isnull[COLUMN_DECIDED_AT - 1] ||
		isnull[COLUMN_INCARNATION - 1] || isnull[COLUMN_VERSION - 1];
	entry->incarnation = DatumGetInt64(values[COLUMN_INCARNATION - 1]);
	entry->fence = entry_get_integer(isnull, COLUMN_FENCE,
									 DatumGetInt64(values[COLUMN_FENCE - 1]),
									 &entry->malformed);
	entry->event_no = entry_get_integer(isnull, COLUMN_EVENT_NO,
										DatumGetInt32(values[COLUMN_EVENT_NO - 1]),
										&entry->malformed);
	entry->attempt = entry_get_integer(isnull, COLUMN_ATTEMPT,
									   DatumGetInt32(values[COLUMN_ATTEMPT - 1]),
									   &entry->malformed);
	entry->version = DatumGetInt16(values[COLUMN_VERSION - 1]);
	entry->decision = entry_get_text(values, isnull, COLUMN_DECISION,
									 &entry->malformed);

	entry->has_key = !isnull[COLUMN_ID - 1];
	identity->has_id = entry->has_key;
	if (entry->has_key)
		identity->id = *DatumGetUUIDP(values[COLUMN_ID - 1]);
	identity->scope = entry_get_name(values, isnull, COLUMN_SCOPE,
									 &identity->scope_len);
	identity->principal = entry_get_name(values, isnull, COLUMN_PRINCIPAL,
										 &identity->principal_len);
	identity->key = entry_get_name(values, isnull, COLUMN_KEY,
								   &identity->key_len);
	for (int i = 0; i < ENTRY_DIGESTS; i++)
		entry->has_digest[i] = entry_get_bytes(values, isnull,
											   COLUMN_DIGESTS + i,
											   entry->digest[i],
											   DIGEST_LENGTH,
											   &entry->malformed);
	entry->session_role = entry_get_text(values, isnull, COLUMN_SESSION_ROLE,
										 &entry->malformed);
	entry->role = entry_get_text(values, isnull, COLUMN_ROLE,
								 &entry->malformed);
	entry->application = entry_get_text(values, isnull, COLUMN_APPLICATION,
										&entry->malformed);
	entry->has_trace = entry_get_bytes(values, isnull, COLUMN_TRACE_ID,
									   entry->trace, TRACE_ID_LENGTH,
									   &entry->malformed);
	entry->detail = isnull[COLUMN_DETAIL - 1] ? NULL :
		DatumGetTextPP(values[COLUMN_DETAIL - 1]);
}

/* Does this library know how such an entry is encoded? */
bool
entry_is_known(const LedgerEntry *entry)
{
	return entry->version == ENTRY_VERSION;
}

/* Append bytes with their length. */
static void
encode_bytes(StringInfo data, const void *bytes, int len)
{
	pq_sendint32(data, len);
	appendBinaryStringInfo(data, bytes, len);
}

/* Append a text, in UTF-8, with its length. */
static void
encode_text(StringInfo data, const char *string, int len)
{
	Utf8		utf8 = entry_utf8(string, len);

	pq_sendint32(data, utf8.len | (utf8.raw ? RAW_TEXT : 0));
	appendBinaryStringInfo(data, utf8.bytes, utf8.len);
	if (utf8.bytes != string)
		pfree(unconstify(char *, utf8.bytes));
}

/* Append a varlena text. */
static void
encode_varlena(StringInfo data, const text *value)
{
	encode_text(data, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

/* Append whether a nullable field has a value; returns it. */
static bool
encode_presence(StringInfo data, bool present)
{
	pq_sendbyte(data, present ? 1 : 0);
	return present;
}

/* Append a nullable integer. */
static void
encode_optional(StringInfo data, bool present, int64 value)
{
	if (encode_presence(data, present))
		pq_sendint64(data, value);
}

/* Append a nullable part of an identity. */
static void
encode_name(StringInfo data, const char *name, int len)
{
	if (encode_presence(data, name != NULL))
		encode_text(data, name, len);
}

/*
 * Append what is hashed of an entry.  Raises 0A000 if it is of a version that
 * this library doesn't know (entry_is_known()).
 */
void
entry_encode(const LedgerEntry *entry, StringInfo data)
{
	const Identity *identity = &entry->identity;

	if (!entry_is_known(entry))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ledger entry has version %d, which this library does not know",
						entry->version)));
	appendBinaryStringInfo(data, entry_label, strlen(entry_label));
	pq_sendint64(data, entry->seq);
	pq_sendint64(data, entry->decided_at + UNIX_EPOCH_OFFSET);
	encode_optional(data, entry->claimed_at != DT_NOBEGIN,
					entry->claimed_at + UNIX_EPOCH_OFFSET);
	pq_sendint64(data, entry->incarnation);
	encode_optional(data, entry->fence != 0, entry->fence);
	encode_optional(data, entry->event_no != 0, entry->event_no);
	encode_optional(data, entry->attempt != 0, entry->attempt);
	encode_varlena(data, entry->decision);
	if (encode_presence(data, entry->has_key))
		encode_bytes(data, identity->id.data, UUID_LEN);
	encode_name(data, identity->scope, identity->scope_len);
	encode_name(data, identity->principal, identity->principal_len);
	encode_name(data, identity->key, identity->key_len);
	for (int i = 0; i < ENTRY_DIGESTS; i++)
	{
		if (encode_presence(data, entry->has_digest[i]))
			encode_bytes(data, entry->digest[i], DIGEST_LENGTH);
	}
	encode_varlena(data, entry->session_role);
	encode_varlena(data, entry->role);
	encode_varlena(data, entry->application);
	if (encode_presence(data, entry->has_trace))
		encode_bytes(data, entry->trace, TRACE_ID_LENGTH);
	if (encode_presence(data, entry->detail != NULL))
		encode_varlena(data, entry->detail);
	if (entry->malformed)
		pq_sendbyte(data, 0xFF);	/* like no entry that we write */
}
