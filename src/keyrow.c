/*-------------------------------------------------------------------------
 *
 * keyrow.c
 *		Between a key row in memory and a tuple of a segment's table.
 *
 * This file alone knows the columns of src/sql/store.sql.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "compat.h"
#include "keyrow.h"

/* attribute numbers, in the order of src/sql/store.sql */
enum
{
	KEY_ID = 1,
	KEY_EXPIRES_AT,
	KEY_CLAIMED_AT,
	KEY_FINISHED_AT,
	KEY_RETRY_AT,
	KEY_ATTEMPT,
	KEY_EVENT_NO,
	KEY_STATE,
	KEY_SCOPE,
	KEY_PRINCIPAL,
	KEY_KEY,
	KEY_FINGERPRINT,
	KEY_TAG,
	KEY_REQUEST,
	KEY_ERROR,
	KEY_RESPONSE,
	KEY_LEASE_UNTIL,
	KEY_FENCE,
	KEY_OWNER,
	KEY_ROLE,
	KEY_APPLICATION,
	KEY_RECOVERY_POINT,
	KEY_SAVED_STATE,
	KEY_RESPONSE_VERSION,
	KEY_TAG_GENERATION,
	KEY_WITHHELD,
	KEY_SAGA,
	KEY_COLUMNS = KEY_SAGA
};

/* space for a short text or bytea datum built on the stack */
#define SHORT_DATUM(limit) \
	union \
	{ \
		struct varlena header; \
		char		space[VARHDRSZ + (limit)]; \
	}

/* Build a varlena in the given space. */
static Datum
keyrow_varlena(void *space, const void *data, size_t len)
{
	SET_VARSIZE(space, VARHDRSZ + len);
	memcpy(VARDATA(space), data, len);
	return PointerGetDatum(space);
}

/* Set a nullable timestamp column. */
static void
keyrow_set_time(Datum *values, bool *isnull, int column, TimestampTz at)
{
	values[column - 1] = TimestampTzGetDatum(at);
	isnull[column - 1] = at == NO_TIME;
}

/* Set a nullable text column. */
static void
keyrow_set_text(Datum *values, bool *isnull, int column,
				struct varlena *value)
{
	values[column - 1] = PointerGetDatum(value);
	isnull[column - 1] = value == NULL;
}

/* Set a nullable digest column, built in the given space. */
static void
keyrow_set_digest(Datum *values, bool *isnull, int column, bool has,
				  const uint8 *digest, void *space)
{
	isnull[column - 1] = !has;
	if (has)
		values[column - 1] = keyrow_varlena(space, digest, DIGEST_LENGTH);
}

/* Set the columns that say what stands of the response. */
static void
keyrow_set_response(Datum *values, bool *isnull, const KeyRow *row)
{
	values[KEY_RESPONSE_VERSION - 1] = Int32GetDatum(row->response_version);
	isnull[KEY_RESPONSE_VERSION - 1] = row->response_version == 0;
	values[KEY_TAG_GENERATION - 1] = Int64GetDatum(row->tag_generation);
	isnull[KEY_TAG_GENERATION - 1] = row->tag_generation == 0;
	values[KEY_WITHHELD - 1] = CharGetDatum((char) row->withheld);
	isnull[KEY_WITHHELD - 1] = row->withheld == WITHHELD_NOTHING;
}

/* Refuse a table that has other columns than a key row.  Raises 55000. */
void
keyrow_check_table(Relation heap)
{
	catalog_require_columns(heap, KEY_COLUMNS);
}

/* A tuple for the table that desc describes, palloc'd. */
HeapTuple
keyrow_form(TupleDesc desc, Identity *identity, const KeyRow *row)
{
	Datum		values[KEY_COLUMNS];
	bool		isnull[KEY_COLUMNS] = {0};

	SHORT_DATUM(SCOPE_MAX_BYTES) scope;
	SHORT_DATUM(PRINCIPAL_MAX_BYTES) principal;
	SHORT_DATUM(KEY_MAX_BYTES) key;
	SHORT_DATUM(DIGEST_LENGTH) fingerprint;
	SHORT_DATUM(DIGEST_LENGTH) owner;

	values[KEY_ID - 1] = UUIDPGetDatum(identity_id(identity));
	values[KEY_EXPIRES_AT - 1] = TimestampTzGetDatum(row->expires_at);
	values[KEY_CLAIMED_AT - 1] = TimestampTzGetDatum(row->claimed_at);
	keyrow_set_time(values, isnull, KEY_FINISHED_AT, row->finished_at);
	keyrow_set_time(values, isnull, KEY_RETRY_AT, row->retry_at);
	values[KEY_ATTEMPT - 1] = Int32GetDatum(row->attempt);
	values[KEY_EVENT_NO - 1] = Int32GetDatum(row->event_no);
	values[KEY_STATE - 1] = CharGetDatum((char) row->state);
	values[KEY_SCOPE - 1] = keyrow_varlena(&scope, identity->scope,
										   identity->scope_len);
	values[KEY_PRINCIPAL - 1] = keyrow_varlena(&principal,
											   identity->principal,
											   identity->principal_len);
	values[KEY_KEY - 1] = keyrow_varlena(&key, identity->key,
										 identity->key_len);
	keyrow_set_digest(values, isnull, KEY_FINGERPRINT, row->has_fingerprint,
					  row->fingerprint, &fingerprint);
	keyrow_set_text(values, isnull, KEY_TAG, row->tag);
	keyrow_set_text(values, isnull, KEY_REQUEST, row->request);
	keyrow_set_text(values, isnull, KEY_ERROR, row->error);
	keyrow_set_text(values, isnull, KEY_RESPONSE,
					row->withheld == WITHHELD_NOTHING ? row->response : NULL);

	keyrow_set_time(values, isnull, KEY_LEASE_UNTIL, row->lease_until);
	values[KEY_FENCE - 1] = Int64GetDatum(row->fence);
	isnull[KEY_FENCE - 1] = row->fence == NO_FENCE;
	keyrow_set_digest(values, isnull, KEY_OWNER, row->has_owner, row->owner,
					  &owner);
	keyrow_set_text(values, isnull, KEY_ROLE, row->role);
	keyrow_set_text(values, isnull, KEY_APPLICATION, row->application);
	keyrow_set_text(values, isnull, KEY_RECOVERY_POINT, row->recovery_point);
	keyrow_set_text(values, isnull, KEY_SAVED_STATE, row->saved_state);
	keyrow_set_response(values, isnull, row);
	values[KEY_SAGA - 1] = BoolGetDatum(true);
	isnull[KEY_SAGA - 1] = !row->saga;

	return heap_form_tuple(desc, values, isnull);
}

/* A nullable timestamp. */
static TimestampTz
keyrow_get_time(const Datum *values, const bool *isnull, int column)
{
	return isnull[column - 1] ? NO_TIME :
		DatumGetTimestampTz(values[column - 1]);
}

/* A nullable text, as stored. */
static struct varlena *
keyrow_get_text(const Datum *values, const bool *isnull, int column)
{
	return isnull[column - 1] ? NULL :
		(struct varlena *) DatumGetPointer(values[column - 1]);
}

/* One of the identity's texts; they are short, hence stored in line. */
static const char *
keyrow_get_name(Datum value, int *len)
{
	text	   *name = DatumGetTextPP(value);

	*len = VARSIZE_ANY_EXHDR(name);
	return VARDATA_ANY(name);
}

/* A nullable digest; returns whether there is one. */
static bool
keyrow_get_digest(const Datum *values, const bool *isnull, int column,
				  uint8 *digest)
{
	bytea	   *value;

	if (isnull[column - 1])
		return false;
	value = DatumGetByteaPP(values[column - 1]);
	if (VARSIZE_ANY_EXHDR(value) != DIGEST_LENGTH)
		elog(ERROR, "stored digest has the wrong length");
	memcpy(digest, VARDATA_ANY(value), DIGEST_LENGTH);
	return true;
}

/*
 * Read a tuple.  Row and identity point into it.
 */
void
keyrow_deform(TupleDesc desc, HeapTuple tuple, KeyRow *row,
			  Identity *identity)
{
	Datum		values[KEY_COLUMNS];
	bool		isnull[KEY_COLUMNS];

	heap_deform_tuple(tuple, desc, values, isnull);

	identity->id = *DatumGetUUIDP(values[KEY_ID - 1]);
	identity->has_id = true;
	identity->scope = keyrow_get_name(values[KEY_SCOPE - 1],
									  &identity->scope_len);
	identity->principal = keyrow_get_name(values[KEY_PRINCIPAL - 1],
										  &identity->principal_len);
	identity->key = keyrow_get_name(values[KEY_KEY - 1], &identity->key_len);

	row->state = (KeyState) DatumGetChar(values[KEY_STATE - 1]);
	row->expires_at = DatumGetTimestampTz(values[KEY_EXPIRES_AT - 1]);
	row->claimed_at = DatumGetTimestampTz(values[KEY_CLAIMED_AT - 1]);
	row->finished_at = keyrow_get_time(values, isnull, KEY_FINISHED_AT);
	row->retry_at = keyrow_get_time(values, isnull, KEY_RETRY_AT);
	row->attempt = DatumGetInt32(values[KEY_ATTEMPT - 1]);
	row->event_no = DatumGetInt32(values[KEY_EVENT_NO - 1]);
	row->has_fingerprint = keyrow_get_digest(values, isnull, KEY_FINGERPRINT,
											 row->fingerprint);
	row->tag = keyrow_get_text(values, isnull, KEY_TAG);
	row->request = keyrow_get_text(values, isnull, KEY_REQUEST);
	row->error = keyrow_get_text(values, isnull, KEY_ERROR);
	row->response = keyrow_get_text(values, isnull, KEY_RESPONSE);

	row->lease_until = keyrow_get_time(values, isnull, KEY_LEASE_UNTIL);
	row->fence = isnull[KEY_FENCE - 1] ? NO_FENCE :
		DatumGetInt64(values[KEY_FENCE - 1]);
	row->has_owner = keyrow_get_digest(values, isnull, KEY_OWNER, row->owner);
	row->role = keyrow_get_text(values, isnull, KEY_ROLE);
	row->application = keyrow_get_text(values, isnull, KEY_APPLICATION);
	row->recovery_point = keyrow_get_text(values, isnull, KEY_RECOVERY_POINT);
	row->saved_state = keyrow_get_text(values, isnull, KEY_SAVED_STATE);
	row->response_version = isnull[KEY_RESPONSE_VERSION - 1] ? 0 :
		DatumGetInt32(values[KEY_RESPONSE_VERSION - 1]);
	row->tag_generation = isnull[KEY_TAG_GENERATION - 1] ? 0 :
		DatumGetInt64(values[KEY_TAG_GENERATION - 1]);
	row->withheld = isnull[KEY_WITHHELD - 1] ? WITHHELD_NOTHING :
		(Withheld) DatumGetChar(values[KEY_WITHHELD - 1]);
	row->saga = !isnull[KEY_SAGA - 1] && DatumGetBool(values[KEY_SAGA - 1]);
}

/*
 * Nobody holds the lease any more: clear what is said of the holder.  The
 * fence stays, so that the holder's call, repeated, is known again.
 */
void
keyrow_end_lease(KeyRow *row)
{
	row->lease_until = NO_TIME;
	row->has_owner = false;
	row->role = NULL;
	row->application = NULL;
}

/* The operation is settled: clear what its attempts have reached. */
void
keyrow_clear_progress(KeyRow *row)
{
	row->recovery_point = NULL;
	row->saved_state = NULL;
}

/* Are a stored text and a given one, both nullable, the same byte for byte? */
bool
keyrow_same_text(struct varlena *stored, const text *given)
{
	text	   *plain;

	if (stored == NULL || given == NULL)
		return stored == NULL && given == NULL;
	plain = (text *) pg_detoast_datum(stored);
	return VARSIZE_ANY_EXHDR(plain) == VARSIZE_ANY_EXHDR(given) &&
		memcmp(VARDATA_ANY(plain), VARDATA_ANY(given),
			   VARSIZE_ANY_EXHDR(given)) == 0;
}
