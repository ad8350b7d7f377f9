/*-------------------------------------------------------------------------
 *
 * report.c
 *		Failures and messages.
 *
 * Messages go to standard error.  They quote what a database said that is not
 * trusted, so whatever a terminal could act on is replaced.
 *
 *-------------------------------------------------------------------------
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "report.h"

static bool quiet = false;

/* From now on, no notices. */
void
be_quiet(void)
{
	quiet = true;
}

/* Writes one message on a line of its own, control characters replaced. */
static void
put_line(const char *label, const char *text)
{
	size_t		len = strlen(text);

	while (len > 0 && text[len - 1] == '\n')
		len--;
	fprintf(stderr, "idempotency-witness: %s", label);
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = text[i];

		if (c == '\n')
			fputs("; ", stderr);
		else if (c < 0x20 || c == 0x7F)
			fputc('?', stderr);
		else if (c == 0xC2 && i + 1 < len && (unsigned char) text[i + 1] < 0xA0)
		{
			/* U+0080 to U+009F */
			fputc('?', stderr);
			i++;
		}
		else
			fputc(c, stderr);
	}
	fputc('\n', stderr);
}

/* Notes why something failed; returns false, for the caller to return. */
bool
fail(Failure *failure, int code, const char *format,...)
{
	va_list		args;

	failure->code = code;
	va_start(args, format);
	vsnprintf(failure->text, sizeof(failure->text), format, args);
	va_end(args);
	return false;
}

/* Says what is worth knowing and is not wrong. */
void
notice(const char *format,...)
{
	char		text[2048];
	va_list		args;

	if (quiet)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	put_line("", text);
}

/* Says what is wrong and does not end the program. */
void
warning(const char *format,...)
{
	char		text[2048];
	va_list		args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	put_line("warning: ", text);
}

/* Says what the program ends because of. */
void
complain(const Failure *failure)
{
	put_line(EXIT_IS_ALARM(failure->code) ? "ALARM: " : "", failure->text);
}
