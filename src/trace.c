/*-------------------------------------------------------------------------
 *
 * trace.c
 *		Which distributed trace a call belongs to, and what it does when.
 *
 * The client says so in the format of the W3C's Trace Context (version, trace
 * id, parent id and flags, in lower case hexadecimal, with hyphens between):
 * in a comment at the end of the statement, as sqlcommenter writes it,
 *
 *		SELECT ... [comment] application='shop',traceparent='00-4bf9...-01'
 *
 * or with SET LOCAL idempotency.traceparent.  The comment is nearer to the
 * call, and counts if both are there.  What can't be parsed is ignored, and
 * counted once a statement.  The statement is the one that the client sent,
 * also for what a function in it calls.
 *
 * What a statement says is kept until the next one; what the transaction said
 * last, for what is decided when it rolls back and no statement is there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "portability/instr_time.h"
#include "tcop/tcopprot.h"

#include "guc.h"
#include "trace.h"

/* a comment that is longer is not looked at */
#define TRACE_COMMENT_MAX	8192

/* the longest traceparent that is looked at, and longer than that of 00 */
#define TRACE_PARENT_MAX	127

TraceSteps *trace_recording = NULL;
void		(*trace_unparsable_hook) (void) = NULL;

/* what was found for a statement, and by what it is known again */
static struct
{
	const char *statement;
	TimestampTz at;				/* when the statement began */
	int			setting;		/* guc_traceparent_changes */
	bool		has;
	TraceContext context;
} trace_kept;

/* the last one found in a transaction, and when that began */
static struct
{
	TimestampTz began;
	uint8		id[TRACE_ID_LENGTH];
} trace_last;

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
 * Parse a traceparent; false if it isn't one.  A later version may have more
 * behind the flags.
 */
static bool
trace_parse(const char *at, TraceContext *context)
{
	static const uint8 nothing[TRACE_ID_LENGTH] = {0};
	uint8		version;
	uint8		flags;

	if ((at = trace_read(at, &version, 1)) == NULL || *at++ != '-' ||
		(at = trace_read(at, context->id, TRACE_ID_LENGTH)) == NULL ||
		*at++ != '-' ||
		(at = trace_read(at, context->parent, TRACE_SPAN_LENGTH)) == NULL ||
		*at++ != '-' || (at = trace_read(at, &flags, 1)) == NULL)
		return false;
	if (version == 0xFF || (version == 0 && *at != '\0') ||
		(*at != '\0' && *at != '-'))
		return false;
	context->sampled = (flags & 1) != 0;
	return memcmp(context->id, nothing, TRACE_ID_LENGTH) != 0 &&
		memcmp(context->parent, nothing, TRACE_SPAN_LENGTH) != 0;
}

/* Is this white space, or the end of a statement? */
static inline bool
trace_is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f';
}

/*
 * The inside of the comment that the statement ends with, behind which only
 * white space and semicolons may stand; returns its length, or 0.
 */
static int
trace_comment(const char *statement, const char **comment)
{
	const char *end = statement + strlen(statement);
	const char *limit;

	while (end > statement && (trace_is_space(end[-1]) || end[-1] == ';'))
		end--;
	if (end - statement < 4 || end[-1] != '/' || end[-2] != '*')
		return 0;
	end -= 2;
	limit = end - Min(end - statement, TRACE_COMMENT_MAX);
	for (const char *at = end - 2; at >= limit; at--)
	{
		if (at[0] == '/' && at[1] == '*')
		{
			*comment = at + 2;
			return end - *comment;
		}
	}
	return 0;
}

/* The value of a hexadecimal digit of either case, or -1. */
static inline int
trace_any_digit(char c)
{
	return trace_digit(c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c);
}

/*
 * Decode %XX and \' of a part of a comment up to its end or, if "quoted", to
 * the next quote; returns where that is.  What is longer than there is room is
 * cut off, one byte behind anything that is looked for.
 */
static const char *
trace_decode(const char *at, const char *end, bool quoted, char *result,
			 int room)
{
	int			n = 0;

	while (at < end && (quoted ? *at != '\'' :
						*at != '=' && *at != ',' && !trace_is_space(*at)))
	{
		char		c = *at++;

		if (c == '\\' && at < end)
			c = *at++;
		else if (c == '%' && end - at >= 2 && trace_any_digit(at[0]) >= 0 &&
				 trace_any_digit(at[1]) >= 0)
		{
			c = (char) (trace_any_digit(at[0]) << 4 | trace_any_digit(at[1]));
			at += 2;
		}
		if (n < room - 1)
			result[n++] = c;
	}
	result[n] = '\0';
	return at;
}

/*
 * The value of "traceparent" in a comment of key='value' pairs, decoded; false
 * if it has none, or isn't of that kind.
 */
static bool
trace_find(const char *at, int len, char *value, int room)
{
	const char *end = at + len;
	char		key[32];

	while (at < end)
	{
		while (at < end && (trace_is_space(*at) || *at == ','))
			at++;
		at = trace_decode(at, end, false, key, sizeof(key));
		while (at < end && trace_is_space(*at))
			at++;
		if (at >= end || *at++ != '=')
			return false;
		while (at < end && trace_is_space(*at))
			at++;
		if (at >= end || *at++ != '\'')
			return false;
		at = trace_decode(at, end, true, value, room);
		if (at >= end)
			return false;
		at++;
		if (strcmp(key, "traceparent") == 0)
			return true;
	}
	return false;
}

/* Look for a context at this moment; false if there is none. */
static bool
trace_look(TraceContext *context)
{
	const char *comment;
	int			len = debug_query_string ?
		trace_comment(debug_query_string, &comment) : 0;
	char		value[TRACE_PARENT_MAX + 1];
	bool		unparsable = false;

	if (len > 0 && trace_find(comment, len, value, sizeof(value)))
	{
		if (trace_parse(value, context))
			return true;
		unparsable = true;
	}
	if (guc_traceparent && guc_traceparent[0] != '\0')
	{
		if (trace_parse(guc_traceparent, context))
			return true;
		unparsable = true;
	}
	if (unparsable && trace_unparsable_hook)
		trace_unparsable_hook();
	return false;
}

/* The context of the present call, until the next statement; or NULL. */
const TraceContext *
trace_context(void)
{
	TimestampTz at = GetCurrentStatementStartTimestamp();

	if (trace_kept.statement != debug_query_string || trace_kept.at != at ||
		trace_kept.setting != guc_traceparent_changes)
	{
		trace_kept.has = trace_look(&trace_kept.context);
		trace_kept.statement = debug_query_string;
		trace_kept.at = at;
		trace_kept.setting = guc_traceparent_changes;
	}
	if (!trace_kept.has)
		return NULL;
	trace_last.began = GetCurrentTransactionStartTimestamp();
	memcpy(trace_last.id, trace_kept.context.id, TRACE_ID_LENGTH);
	return &trace_kept.context;
}

/*
 * The trace id of the present call; false if there is none.  While a
 * transaction aborts, that of its last call that had one.
 */
bool
trace_current(uint8 id[TRACE_ID_LENGTH])
{
	const TraceContext *context = trace_context();

	if (context)
		memcpy(id, context->id, TRACE_ID_LENGTH);
	else if (!IsTransactionState() && trace_last.began != 0 &&
			 trace_last.began == GetCurrentTransactionStartTimestamp())
		memcpy(id, trace_last.id, TRACE_ID_LENGTH);
	else
		return false;
	return true;
}

/* Nanoseconds by a clock that nobody sets; never 0. */
int64
trace_clock(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return Max((int64) (INSTR_TIME_GET_DOUBLE(now) * 1e9), 1);
}

/*
 * Record a step from then until now.  One that follows another of its kind
 * goes on with that; what finds no room is left out.
 */
void
trace_step(TraceStep step, int64 began)
{
	TraceSteps *steps = trace_recording;
	TraceTimed *timed;

	if (steps == NULL)
		return;
	timed = steps->n > 0 ? &steps->timed[steps->n - 1] : NULL;
	if (timed == NULL || timed->step != step)
	{
		if (steps->n == TRACE_STEPS_MAX)
			return;
		timed = &steps->timed[steps->n++];
		timed->step = step;
		timed->began = began;
	}
	timed->ended = trace_clock();
}
