/*-------------------------------------------------------------------------
 *
 * newkey.c
 *		New keys: UUIDs of version 7 (RFC 9562, 5.7).
 *
 *		48 bits: milliseconds since 1970 · 4 bits: 7
 *		12 bits: counter · 2 bits: binary 10 · 62 bits: random
 *
 * The counter begins anew, at random in the lower half of its range, with each
 * millisecond, so that the keys of one session are in order.  When it is used
 * up, or the clock goes back, the time in the keys runs ahead of the clock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "compat.h"
#include "fault.h"

#define NEWKEY_COUNTER_MAX 0xFFF

COMPAT_FUNCTION_INFO(idempotency_new_key);

/* of the last key of this backend */
static int64 newkey_ms = 0;
static int	newkey_counter = 0;

/* Milliseconds since 1970. */
static int64
newkey_clock(void)
{
	return clock_now() / 1000 +
		(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000;
}

/*
 * Fill in a key greater than all others of this backend.  Raises XX000 if the
 * server has no randomness.
 */
static void
newkey_make(pg_uuid_t *key)
{
	int64		now = newkey_clock();
	uint64		time;

	if (!pg_strong_random(key->data, UUID_LEN))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	if (now <= newkey_ms && newkey_counter == NEWKEY_COUNTER_MAX)
		now = newkey_ms + 1;
	if (now > newkey_ms)
	{
		newkey_ms = now;
		newkey_counter = (key->data[6] << 8 | key->data[7]) &
			(NEWKEY_COUNTER_MAX >> 1);
	}
	else
		newkey_counter++;

	time = pg_hton64((uint64) newkey_ms << 16 | 0x7000 | newkey_counter);
	memcpy(key->data, &time, sizeof(time));
	key->data[8] = (key->data[8] & 0x3F) | 0x80;
}

/* new_key() returns text */
Datum
idempotency_new_key(PG_FUNCTION_ARGS)
{
	pg_uuid_t	key;

	newkey_make(&key);
	PG_RETURN_TEXT_P(cstring_to_text(DatumGetCString(DirectFunctionCall1(uuid_out,
																		 UUIDPGetDatum(&key)))));
}
