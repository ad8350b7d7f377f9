/*-------------------------------------------------------------------------
 *
 * text.c
 *		Growing text, and strict readers of what stands in it.
 *
 * A reader takes one spelling of each value and refuses every other, so that
 * two texts that are read as the same are the same, byte for byte.
 *
 *-------------------------------------------------------------------------
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"
#include "text.h"

static const char base64_digits[] =
"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Makes room for so many more bytes; ends the program if there is no memory. */
static void
text_room(Text *text, size_t more)
{
	size_t		size = text->size > 0 ? text->size : 256;

	while (size < text->len + more + 1)
		size *= 2;
	if (size > text->size)
	{
		char	   *data = realloc(text->data, size);

		if (data == NULL)
		{
			warning("out of memory");
			exit(EXIT_TROUBLE);
		}
		text->data = data;
		text->size = size;
	}
}

/* Appends bytes. */
void
text_add(Text *text, const void *data, size_t len)
{
	text_room(text, len);
	if (len > 0)
		memcpy(text->data + text->len, data, len);
	text->len += len;
	text->data[text->len] = '\0';
}

/* Appends what printf() would print. */
void
text_format(Text *text, const char *format,...)
{
	va_list		args;
	int			len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	if (len <= 0)
		return;
	text_room(text, len);
	va_start(args, format);
	vsnprintf(text->data + text->len, (size_t) len + 1, format, args);
	va_end(args);
	text->len += len;
}

/* Makes it empty, and keeps its memory. */
void
text_clear(Text *text)
{
	text_room(text, 0);
	text->len = 0;
	text->data[0] = '\0';
}

/* Gives its memory back; it is empty afterwards. */
void
text_free(Text *text)
{
	free(text->data);
	memset(text, 0, sizeof(*text));
}

/*
 * Takes the first line off the rest, without its newline.  Returns false, and
 * takes nothing, if no newline is left.
 */
bool
next_line(Span *rest, Span *line)
{
	const char *end = rest->len > 0 ? memchr(rest->data, '\n', rest->len) : NULL;

	if (end == NULL)
		return false;
	line->data = rest->data;
	line->len = end - rest->data;
	rest->data += line->len + 1;
	rest->len -= line->len + 1;
	return true;
}

/* Is the span this string? */
bool
span_is(Span span, const char *string)
{
	return span.len == strlen(string) && memcmp(span.data, string, span.len) == 0;
}

/*
 * Reads the character at the begin of a span.  Returns its length in bytes, 0
 * if it is not the shortest UTF-8 of a Unicode scalar value.
 */
static size_t
utf8_char(Span span, uint32_t *character)
{
	const unsigned char *p = (const unsigned char *) span.data;
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t		len = p[0] < 0x80 ? 1 : p[0] < 0xC2 ? 0 :
		p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF5 ? 4 : 0;

	if (len == 0 || len > span.len)
		return 0;
	*character = len == 1 ? p[0] : p[0] & (0xFF >> (len + 1));
	for (size_t i = 1; i < len; i++)
	{
		if ((p[i] & 0xC0) != 0x80)
			return 0;
		*character = *character << 6 | (p[i] & 0x3F);
	}
	if (*character < least[len] || *character > 0x10FFFF ||
		(*character >= 0xD800 && *character <= 0xDFFF))
		return 0;
	return len;
}

/* Is it UTF-8? */
bool
is_utf8(Span span)
{
	while (span.len > 0)
	{
		uint32_t	character;
		size_t		len = utf8_char(span, &character);

		if (len == 0)
			return false;
		span.data += len;
		span.len -= len;
	}
	return true;
}

/* Has it a Unicode space?  The span is UTF-8. */
bool
has_space(Span span)
{
	while (span.len > 0)
	{
		uint32_t	c = 0;
		size_t		len = utf8_char(span, &c);

		if (len == 0)
			return true;
		if ((c >= 0x09 && c <= 0x0D) || c == ' ' || c == 0x85 || c == 0xA0 ||
			c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
			c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000)
			return true;
		span.data += len;
		span.len -= len;
	}
	return false;
}

/* Reads a number from 0 to 2^63 - 1, without sign and leading zeros. */
bool
parse_decimal(Span span, int64_t *number)
{
	int64_t		value = 0;

	if (span.len == 0 || (span.len > 1 && span.data[0] == '0'))
		return false;
	for (size_t i = 0; i < span.len; i++)
	{
		int			digit = span.data[i] - '0';

		if (digit < 0 || digit > 9 || value > (INT64_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*number = value;
	return true;
}

/* The value of a digit of base64, -1 if it is none. */
static int
base64_value(char c)
{
	const char *digit = c == '\0' ? NULL : strchr(base64_digits, c);

	return digit == NULL ? -1 : (int) (digit - base64_digits);
}

/*
 * Decodes standard base64 with its padding, and the bits that are not used
 * zero.  Returns false if it is anything else, or has more bytes than room.
 */
bool
base64_decode(Span span, unsigned char *result, size_t room, size_t *len)
{
	size_t		n = 0;

	if (span.len % 4 != 0)
		return false;
	for (size_t i = 0; i < span.len; i += 4)
	{
		const char *p = span.data + i;
		bool		last = i + 4 == span.len;
		int			bytes = last && p[3] == '=' ? (p[2] == '=' ? 1 : 2) : 3;
		uint32_t	bits = 0;

		for (int j = 0; j < 4; j++)
		{
			int			value = j > bytes ? 0 : base64_value(p[j]);

			if (value < 0)
				return false;
			bits = bits << 6 | (uint32_t) value;
		}
		if ((bits & ((1U << (8 * (3 - bytes))) - 1)) != 0)
			return false;
		if (n + bytes > room)
			return false;
		for (int j = 0; j < bytes; j++)
			result[n++] = bits >> (16 - 8 * j) & 0xFF;
	}
	*len = n;
	return true;
}

/* Appends the base64 of some bytes. */
void
base64_encode(Text *text, const unsigned char *data, size_t len)
{
	for (size_t i = 0; i < len; i += 3)
	{
		size_t		bytes = len - i < 3 ? len - i : 3;
		uint32_t	bits = 0;
		char		digits[4];

		for (size_t j = 0; j < 3; j++)
			bits = bits << 8 | (j < bytes ? data[i + j] : 0);
		for (size_t j = 0; j < 4; j++)
			digits[j] = j > bytes ? '=' : base64_digits[bits >> (18 - 6 * j) & 0x3F];
		text_add(text, digits, sizeof(digits));
	}
}

/* Decodes exactly so many bytes of hexadecimal digits, small or large. */
bool
hex_decode(Span span, unsigned char *result, size_t len)
{
	if (span.len != 2 * len)
		return false;
	for (size_t i = 0; i < 2 * len; i++)
	{
		char		c = span.data[i];
		int			value = c >= '0' && c <= '9' ? c - '0' :
			c >= 'a' && c <= 'f' ? c - 'a' + 10 :
			c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;

		if (value < 0)
			return false;
		result[i / 2] = (unsigned char) (i % 2 == 0 ? value << 4 : result[i / 2] | value);
	}
	return true;
}

/* Appends the small hexadecimal digits of some bytes. */
void
hex_encode(Text *text, const unsigned char *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		text_format(text, "%02x", data[i]);
}
