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
	KEY_STATE,
	KEY_SCOPE,
	KEY_PRINCIPAL,
	KEY_KEY,
	KEY_FINGERPRINT,
	KEY_TAG,
	KEY_REQUEST,
	KEY_ERROR,
	KEY_RESPONSE,
	KEY_COLUMNS = KEY_RESPONSE
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

	values[KEY_ID - 1] = UUIDPGetDatum(identity_id(identity));
	values[KEY_EXPIRES_AT - 1] = TimestampTzGetDatum(row->expires_at);
	values[KEY_CLAIMED_AT - 1] = TimestampTzGetDatum(row->claimed_at);
	keyrow_set_time(values, isnull, KEY_FINISHED_AT, row->finished_at);
	keyrow_set_time(values, isnull, KEY_RETRY_AT, row->retry_at);
	values[KEY_ATTEMPT - 1] = Int32GetDatum(row->attempt);
	values[KEY_STATE - 1] = CharGetDatum((char) row->state);
	values[KEY_SCOPE - 1] = keyrow_varlena(&scope, identity->scope,
										   identity->scope_len);
	values[KEY_PRINCIPAL - 1] = keyrow_varlena(&principal,
											   identity->principal,
											   identity->principal_len);
	values[KEY_KEY - 1] = keyrow_varlena(&key, identity->key,
										 identity->key_len);
	if (row->has_fingerprint)
		values[KEY_FINGERPRINT - 1] = keyrow_varlena(&fingerprint,
													 row->fingerprint,
													 DIGEST_LENGTH);
	isnull[KEY_FINGERPRINT - 1] = !row->has_fingerprint;
	keyrow_set_text(values, isnull, KEY_TAG, row->tag);
	keyrow_set_text(values, isnull, KEY_REQUEST, row->request);
	keyrow_set_text(values, isnull, KEY_ERROR, row->error);
	keyrow_set_text(values, isnull, KEY_RESPONSE, row->response);

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
	row->has_fingerprint = !isnull[KEY_FINGERPRINT - 1];
	if (row->has_fingerprint)
	{
		bytea	   *fingerprint = DatumGetByteaPP(values[KEY_FINGERPRINT - 1]);

		if (VARSIZE_ANY_EXHDR(fingerprint) != DIGEST_LENGTH)
			elog(ERROR, "stored fingerprint has the wrong length");
		memcpy(row->fingerprint, VARDATA_ANY(fingerprint), DIGEST_LENGTH);
	}
	row->tag = keyrow_get_text(values, isnull, KEY_TAG);
	row->request = keyrow_get_text(values, isnull, KEY_REQUEST);
	row->error = keyrow_get_text(values, isnull, KEY_ERROR);
	row->response = keyrow_get_text(values, isnull, KEY_RESPONSE);
}
