/*-------------------------------------------------------------------------
 *
 * text.h
 *		Growing text, and strict readers of what stands in it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WITNESS_TEXT_H
#define WITNESS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* bytes, with a zero after the last that does not count */
typedef struct Text
{
	char	   *data;
	size_t		len;
	size_t		size;
} Text;

/* a piece of somebody's text */
typedef struct Span
{
	const char *data;
	size_t		len;
} Span;

extern void text_add(Text *text, const void *data, size_t len);
extern void text_format(Text *text, const char *format,...)
			__attribute__((format(printf, 2, 3)));
extern void text_clear(Text *text);
extern void text_free(Text *text);

extern bool next_line(Span *rest, Span *line);
extern bool span_is(Span span, const char *string);
extern bool is_utf8(Span span);
extern bool has_space(Span span);
extern bool parse_decimal(Span span, int64_t *number);

extern bool base64_decode(Span span, unsigned char *result, size_t room, size_t *len);
extern void base64_encode(Text *text, const unsigned char *data, size_t len);
extern bool hex_decode(Span span, unsigned char *result, size_t len);
extern void hex_encode(Text *text, const unsigned char *data, size_t len);

#endif							/* WITNESS_TEXT_H */
