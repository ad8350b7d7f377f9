/*-------------------------------------------------------------------------
 *
 * base64url.c
 *		Bytes as characters that need no escaping in a URL (RFC 4648, 5).
 *
 * Only whole groups are decoded, so that no two texts stand for the same
 * bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base64url.h"

static const char alphabet[] =
"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Write n bytes as BASE64URL_LENGTH(n) characters, without an end mark. */
void
base64url_encode(const uint8 *bytes, int n, char *chars)
{
	uint32		bits = 0;
	int			nbits = 0;

	for (int i = 0; i < n; i++)
	{
		bits = (bits << 8 | bytes[i]) & 0xFFFF;
		for (nbits += 8; nbits >= 6; nbits -= 6)
			*chars++ = alphabet[bits >> (nbits - 6) & 0x3F];
	}
	if (nbits > 0)
		*chars++ = alphabet[bits << (6 - nbits) & 0x3F];
}

/* all ones if a byte is in a range, else 0 */
#define IN_RANGE(byte, first, last) \
	(((((first) - 1 - (byte)) & ((byte) - (last) - 1)) >> 31) * PG_UINT32_MAX)

/*
 * The six bits of a character; over 63 if it isn't in the alphabet.  Takes as
 * long for any.
 */
static uint32
base64url_value(char c)
{
	uint32		in = (uint8) c;
	uint32		upper = IN_RANGE(in, 'A', 'Z');
	uint32		lower = IN_RANGE(in, 'a', 'z');
	uint32		digit = IN_RANGE(in, '0', '9');
	uint32		dash = IN_RANGE(in, '-', '-');
	uint32		line = IN_RANGE(in, '_', '_');

	return (upper & (in - 'A')) | (lower & (in - 'a' + 26)) |
		(digit & (in - '0' + 52)) | (dash & 62) | (line & 63) |
		(~(upper | lower | digit | dash | line) & 0xFF);
}

/*
 * Read n bytes, a multiple of three, from BASE64URL_LENGTH(n) characters.
 * Returns whether all of them were valid, and takes as long if not.
 */
bool
base64url_decode(const char *chars, uint8 *bytes, int n)
{
	uint32		seen = 0;

	Assert(n % 3 == 0);
	for (int i = 0; i < n / 3; i++)
	{
		uint32		group = 0;

		for (int j = 0; j < 4; j++)
		{
			uint32		value = base64url_value(chars[i * 4 + j]);

			seen |= value;
			group = group << 6 | (value & 0x3F);
		}
		bytes[i * 3] = (uint8) (group >> 16);
		bytes[i * 3 + 1] = (uint8) (group >> 8);
		bytes[i * 3 + 2] = (uint8) group;
	}
	return seen <= 0x3F;
}
