/*-------------------------------------------------------------------------
 *
 * trace.c
 *		Which distributed trace a call belongs to.
 *
 * The client says so with SET LOCAL idempotency.traceparent, in the format of
 * the W3C's Trace Context: version, trace id, parent id and flags, in lower
 * case hexadecimal, with hyphens between.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "trace.h"

/* The value of a lower case hexadecimal digit, or -1. */
static inline int
trace_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* Read so many bytes of hexadecimal; returns where they end, or NULL. */
static const char *
trace_read(const char *string, uint8 *bytes, int n)
{
	for (int i = 0; i < n; i++)
	{
		int			high = trace_digit(string[0]);
		int			low = high < 0 ? -1 : trace_digit(string[1]);

		if (low < 0)
			return NULL;
		bytes[i] = (uint8) (high << 4 | low);
		string += 2;
	}
	return string;
}

/*
 * The trace id of the present call; false if there is none, or none that can
 * be parsed.  A later version may have more behind the flags.
 */
bool
trace_current(uint8 id[TRACE_ID_LENGTH])
{
	static const uint8 nothing[TRACE_ID_LENGTH] = {0};
	const char *at = guc_traceparent;
	uint8		version;
	uint8		parent[8];
	uint8		flags;

	if (at == NULL || at[0] == '\0')
		return false;
	if ((at = trace_read(at, &version, 1)) == NULL || *at++ != '-' ||
		(at = trace_read(at, id, TRACE_ID_LENGTH)) == NULL || *at++ != '-' ||
		(at = trace_read(at, parent, sizeof(parent))) == NULL ||
		*at++ != '-' || (at = trace_read(at, &flags, 1)) == NULL)
		return false;
	if (version == 0xFF || (version == 0 && *at != '\0') ||
		(*at != '\0' && *at != '-'))
		return false;
	return memcmp(id, nothing, TRACE_ID_LENGTH) != 0 &&
		memcmp(parent, nothing, sizeof(parent)) != 0;
}
