/*-------------------------------------------------------------------------
 *
 * canonical.c
 *		When are two requests the same: RFC 8785 form and fingerprint.
 *
 * A request is text.  A JSON object or array is compared by its canonical
 * form (RFC 8785), anything else, top-level scalars included, byte for byte.
 * The fingerprint says which of the two it is, so they never compare equal:
 *
 *		SHA-256("idempotency:fingerprint:v1" 00 kind bytes)
 *
 * where kind is 'J' or 'T' and the bytes are UTF-8 whatever the server's
 * encoding (in SQL_ASCII they are taken as they come).
 *
 * In one point the fingerprint departs from RFC 8785: a number keeps all its
 * digits, where the RFC rounds it to a double, so that two amounts that
 * differ are never the same request.  canonical() follows the RFC strictly.
 *
 * Parts of a request can be excluded by path.  They are left out of the
 * comparison, but they still have to be JSON that jsontree.c accepts.
 *
 * All work is done in a memory context of its own, a child of the caller's,
 * so an error leaks nothing.  No message contains anything of a request.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "canonical.h"
#include "compat.h"
#include "errors.h"
#include "es6number.h"
#include "jsontree.h"

#define PATH_HINT "Write paths such as $.meta.sent_at or $.items[*].at."

typedef enum PathSegmentKind
{
	PATH_END,					/* after the last segment of a path */
	PATH_NAME,					/* the member of that name */
	PATH_INDEX,					/* the element at that place */
	PATH_WILDCARD				/* every member or element */
} PathSegmentKind;

typedef struct PathSegment
{
	PathSegmentKind kind;
	int			value;			/* PATH_NAME: bytes of name; PATH_INDEX */
	const char *name;			/* PATH_NAME: in UTF-8, not terminated */
} PathSegment;

/* All paths one after the other, and behind them their names; one chunk. */
struct CanonicalPaths
{
	int			nsegments;
	PathSegment segments[FLEXIBLE_ARRAY_MEMBER];
};

/* What is left to read of a path, and where its next name goes. */
typedef struct PathReader
{
	const char *at;
	const char *end;
	char	   *names;
} PathReader;

/*
 * The paths that still match at some place of a request, each as the place of
 * the segment that the next child has to match.  All open levels share one
 * array, one level behind the other: as their segments all differ, it needs
 * no more room than there are segments.
 */
typedef struct PathState
{
	int		   *segments;
	int			count;
} PathState;

typedef struct JsonWriter
{
	StringInfoData out;			/* UTF-8 */
	bool		exact;			/* numbers keep all their digits */
	const CanonicalPaths *exclude;	/* or NULL */
} JsonWriter;

static void write_value(JsonWriter *writer, const JsonNode *node,
						PathState paths);

COMPAT_FUNCTION_INFO(idempotency_canonical);
COMPAT_FUNCTION_INFO(idempotency_fingerprint);

/* ------------------------------------------------------------------------
 * Exclude paths: $ followed by .name .* ['name'] ["name"] [n] [*]
 * ------------------------------------------------------------------------
 */

/* Consume one expected byte; returns whether it was there. */
static bool
path_take(PathReader *reader, char expected)
{
	if (reader->at >= reader->end || *reader->at != expected)
		return false;
	reader->at++;
	return true;
}

/* May a name without quotes contain this byte?  (RFC 9535, 2.5.1.1) */
static bool
is_name_byte(char c, bool first)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
		IS_HIGHBIT_SET(c) || (!first && c >= '0' && c <= '9');
}

/* Read a name without quotes; returns false if there is none. */
static bool
path_read_name(PathReader *reader, PathSegment *segment)
{
	segment->kind = PATH_NAME;
	segment->name = reader->names;
	while (reader->at < reader->end &&
		   is_name_byte(*reader->at, reader->names == segment->name))
		*reader->names++ = *reader->at++;
	segment->value = reader->names - segment->name;
	return segment->value > 0;
}

/*
 * Read a quoted name, which may be empty, behind its opening quote.  A
 * backslash escapes a quote or a backslash.  Returns false if it is not
 * complete or escapes something else.
 */
static bool
path_read_quoted(PathReader *reader, PathSegment *segment, char quote)
{
	segment->kind = PATH_NAME;
	segment->name = reader->names;
	while (reader->at < reader->end && *reader->at != quote)
	{
		if (path_take(reader, '\\') &&
			(reader->at >= reader->end || strchr("'\"\\", *reader->at) == NULL))
			return false;
		*reader->names++ = *reader->at++;
	}
	segment->value = reader->names - segment->name;
	return path_take(reader, quote);
}

/* Read an index without sign or leading zero; returns false if it is none. */
static bool
path_read_index(PathReader *reader, PathSegment *segment)
{
	const char *start = reader->at;
	int64		value = 0;

	while (reader->at < reader->end && *reader->at >= '0' &&
		   *reader->at <= '9' && value <= PG_INT32_MAX)
		value = value * 10 + (*reader->at++ - '0');
	segment->kind = PATH_INDEX;
	segment->value = (int) value;
	return reader->at > start && value <= PG_INT32_MAX &&
		(*start != '0' || reader->at == start + 1);
}

/* Read one segment; returns false if there is no valid one. */
static bool
path_read_segment(PathReader *reader, PathSegment *segment)
{
	bool		valid;

	if (path_take(reader, '.'))
	{
		segment->kind = PATH_WILDCARD;
		return path_take(reader, '*') || path_read_name(reader, segment);
	}
	if (!path_take(reader, '['))
		return false;
	segment->kind = PATH_WILDCARD;
	if (path_take(reader, '*'))
		valid = true;
	else if (path_take(reader, '\''))
		valid = path_read_quoted(reader, segment, '\'');
	else if (path_take(reader, '"'))
		valid = path_read_quoted(reader, segment, '"');
	else
		valid = path_read_index(reader, segment);
	return valid && path_take(reader, ']');
}

/* Add one path to the list; returns false if it is not valid. */
static bool
path_read(CanonicalPaths *paths, PathReader *reader)
{
	if (!path_take(reader, '$') || reader->at >= reader->end)
		return false;
	while (reader->at < reader->end)
	{
		if (!path_read_segment(reader, &paths->segments[paths->nsegments++]))
			return false;
	}
	paths->segments[paths->nsegments++].kind = PATH_END;
	return true;
}

/*
 * Parse a list of paths, a text[] or NULL, in the current memory context.
 * The result is one chunk, or NULL if there is no path.  Raises ID400, with
 * the place of the first bad path.
 */
CanonicalPaths *
canonical_parse_paths(ArrayType *paths)
{
	PathReader	reader;
	CanonicalPaths *result;
	ArrayIterator iterator;
	Size		bytes;
	Datum		path;
	bool		isnull;

	if (paths == NULL || ArrayGetNItems(ARR_NDIM(paths), ARR_DIMS(paths)) == 0)
		return NULL;
	if (ARR_NDIM(paths) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("exclude paths must be a one-dimensional array"),
				 errhint(PATH_HINT)));

	/* a segment takes at least two bytes, and the end of a path has its $ */
	bytes = (Size) ARR_SIZE(paths);
	if (GetDatabaseEncoding() != PG_UTF8)
		bytes *= MAX_CONVERSION_GROWTH;
	result = palloc(offsetof(CanonicalPaths, segments) +
					bytes / 2 * sizeof(PathSegment) + bytes);
	result->nsegments = 0;
	reader.names = (char *) &result->segments[bytes / 2];

	iterator = array_create_iterator(paths, 0, NULL);
	for (int position = 1; array_iterate(iterator, &path, &isnull); position++)
	{
		text	   *element = isnull ? NULL : DatumGetTextPP(path);
		int			len = isnull ? 0 : VARSIZE_ANY_EXHDR(element);

		reader.at = isnull ? "" : utf8_from_server(VARDATA_ANY(element), &len);
		reader.end = reader.at + len;
		if (!path_read(result, &reader))
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
					 errmsg("exclude path %d is not valid", position),
					 errhint(PATH_HINT)));
	}
	array_free_iterator(iterator);
	return result;
}

/* The state before the first child: every path at its first segment. */
static PathState
start_paths(const CanonicalPaths *paths)
{
	PathState	state = {NULL, 0};

	if (paths == NULL)
		return state;
	state.segments = palloc(paths->nsegments * sizeof(int));
	for (int i = 0; i < paths->nsegments; i++)
	{
		if (i == 0 || paths->segments[i - 1].kind == PATH_END)
			state.segments[state.count++] = i;
	}
	return state;
}

/*
 * Go down to a child: the member called name, or, if name is NULL, the
 * element at index.  Fills in the state inside the child; returns true if a
 * path ends at the child, which is then left out.
 */
static bool
follow_paths(const CanonicalPaths *paths, PathState here,
			 const JsonNode *name, int index, PathState *inside)
{
	inside->segments = here.segments;
	inside->count = 0;
	if (here.count == 0)
		return false;

	inside->segments += here.count;
	for (int i = 0; i < here.count; i++)
	{
		int			next = here.segments[i] + 1;
		const PathSegment *segment = &paths->segments[next - 1];

		if (segment->kind == PATH_NAME &&
			(name == NULL || name->count != segment->value ||
			 memcmp(name->u.text, segment->name, segment->value) != 0))
			continue;
		if (segment->kind == PATH_INDEX &&
			(name != NULL || index != segment->value))
			continue;
		if (paths->segments[next].kind == PATH_END)
			return true;
		inside->segments[inside->count++] = next;
	}
	return false;
}

/* ------------------------------------------------------------------------
 * Writing the canonical form
 * ------------------------------------------------------------------------
 */

/* Append a control character, quote or backslash as RFC 8785 escapes it. */
static void
write_escape(StringInfo out, unsigned char c)
{
	static const char special[] = "\b\t\n\f\r\"\\";
	static const char letters[] = "btnfr\"\\";
	const char *found = c != '\0' ? strchr(special, c) : NULL;

	if (found)
	{
		appendStringInfoCharMacro(out, '\\');
		appendStringInfoCharMacro(out, letters[found - special]);
	}
	else
		appendStringInfo(out, "\\u%04x", c);
}

/* Append a string in quotes. */
static void
write_string(StringInfo out, const JsonNode *node)
{
	const char *chars = node->u.text;
	int			written = 0;

	appendStringInfoCharMacro(out, '"');
	for (int i = 0; i < node->count; i++)
	{
		unsigned char c = chars[i];

		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		appendBinaryStringInfo(out, chars + written, i - written);
		write_escape(out, c);
		written = i + 1;
	}
	appendBinaryStringInfo(out, chars + written, node->count - written);
	appendStringInfoCharMacro(out, '"');
}

/* Append a number.  Raises if the wanted notation can't hold it. */
static void
write_number(JsonWriter *writer, const JsonNode *node)
{
	if (writer->exact)
	{
		if (!es6_append_exact(&writer->out, node->u.text, node->count))
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
					 errmsg("request contains a number whose exponent is out of range")));
	}
	else if (!es6_append_double(&writer->out, node->u.text))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("value contains a number beyond the range of double precision"),
				 errdetail("RFC 8785 has no canonical form for it.")));
}

/* Append an object or an array, without the children that are excluded. */
static void
write_container(JsonWriter *writer, const JsonNode *node, PathState paths)
{
	StringInfo	out = &writer->out;
	bool		object = (node->kind == NODE_OBJECT);
	int			step = object ? 2 : 1;
	bool		first = true;

	appendStringInfoCharMacro(out, object ? '{' : '[');
	for (int i = 0; i < node->count; i += step)
	{
		const JsonNode *child = &node->u.children[i];
		PathState	inside;

		if (follow_paths(writer->exclude, paths, object ? child : NULL, i,
						 &inside))
			continue;
		if (!first)
			appendStringInfoCharMacro(out, ',');
		first = false;
		if (object)
		{
			write_string(out, child++);
			appendStringInfoCharMacro(out, ':');
		}
		write_value(writer, child, inside);
	}
	appendStringInfoCharMacro(out, object ? '}' : ']');
}

/* Append any value. */
static void
write_value(JsonWriter *writer, const JsonNode *node, PathState paths)
{
	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	switch (node->kind)
	{
		case NODE_OBJECT:
		case NODE_ARRAY:
			write_container(writer, node, paths);
			break;
		case NODE_STRING:
			write_string(&writer->out, node);
			break;
		case NODE_NUMBER:
			write_number(writer, node);
			break;
		case NODE_LITERAL:
			appendBinaryStringInfo(&writer->out, node->u.text, node->count);
			break;
	}
}

/* Start writing.  The output is in the current memory context. */
static void
writer_init(JsonWriter *writer, bool exact, const CanonicalPaths *exclude)
{
	initStringInfo(&writer->out);
	writer->exact = exact;
	writer->exclude = exclude;
}

/* ------------------------------------------------------------------------
 * The fingerprint
 * ------------------------------------------------------------------------
 */

/* Skip JSON whitespace. */
static const char *
skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

/*
 * Raise ID400 if the request is what String(object) gives in JavaScript: it
 * says nothing of the object, so all of them would compare equal.
 */
static void
refuse_stringified_object(const char *request, const char *end)
{
	static const char stringified[] = "[object Object]";
	Size		len = sizeof(stringified) - 1;

	if ((Size) (end - request) >= len &&
		memcmp(request, stringified, len) == 0 &&
		skip_space(request + len, end) == end)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("request is a JavaScript object that was not serialized"),
				 errhint("One JavaScript driver sends the same text for every object; pass JSON.stringify(...) of it.")));
}

/*
 * Error context callback: conversions between the server's encoding and
 * UTF-8, the parser's own included, raise an error that shows the bytes in
 * question.  It becomes an ID400 that doesn't.
 */
static void
hide_request_callback(void *arg pg_attribute_unused())
{
	switch (geterrcode())
	{
		case ERRCODE_UNTRANSLATABLE_CHARACTER:
		case ERRCODE_CHARACTER_NOT_IN_REPERTOIRE:
		case ERRCODE_FEATURE_NOT_SUPPORTED:
			errcode(ERRCODE_IDEM_BAD_ARGUMENT);
			errmsg("request contains a character that cannot be converted");
			break;
	}
}

/*
 * Compute the fingerprint of a request in the server's encoding, without the
 * parts that the paths (or NULL) exclude.  Raises ID400 for requests that
 * can't be compared, and core's error if one is nested too deeply.
 */
void
canonical_fingerprint(const char *request, int len,
					  const CanonicalPaths *exclude,
					  uint8 result[DIGEST_LENGTH])
{
	static const char label[] = "idempotency:fingerprint:v1";
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext,
											   "idempotency fingerprint",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(work);
	ErrorContextCallback hide = {.callback = hide_request_callback};
	const char *end = request + len;
	const char *start = skip_space(request, end);
	JsonNode   *tree = NULL;
	char		kind = 'T';
	JsonWriter	writer;
	DigestPart	parts[] = {{label, sizeof(label)}, {&kind, 1}, {NULL, 0}};

	hide.previous = error_context_stack;
	error_context_stack = &hide;
	refuse_stringified_object(start, end);
	if (start < end && (*start == '{' || *start == '['))
		tree = json_tree_parse(request, len);

	if (tree != NULL)
	{
		kind = 'J';
		writer_init(&writer, true, exclude);
		write_value(&writer, tree, start_paths(exclude));
		parts[2].data = writer.out.data;
		parts[2].len = writer.out.len;
	}
	else
	{
		parts[2].data = utf8_from_server(unconstify(char *, request), &len);
		parts[2].len = len;
	}
	digest_sha256(parts, lengthof(parts), result);

	error_context_stack = hide.previous;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(work);
}

/*
 * canonical(value jsonb) returns text
 *
 * RFC 8785's form.  Raises 22003 for a number that overflows a double.
 */
Datum
idempotency_canonical(PG_FUNCTION_ARGS)
{
	Jsonb	   *value = PG_GETARG_JSONB_P(0);
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext,
											   "idempotency canonical",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(work);
	char	   *json = JsonbToCString(NULL, &value->root, VARSIZE(value));
	JsonNode   *tree = json_tree_parse(json, strlen(json));
	PathState	no_paths = {NULL, 0};
	JsonWriter	writer;
	text	   *result;
	int			len;

	if (tree == NULL)
		elog(ERROR, "could not parse the text of a jsonb value");
	writer_init(&writer, false, NULL);
	write_value(&writer, tree, no_paths);

	len = writer.out.len;
	json = utf8_to_server(writer.out.data, &len);
	MemoryContextSwitchTo(caller);
	result = cstring_to_text_with_len(json, len);
	MemoryContextDelete(work);
	PG_RETURN_TEXT_P(result);
}

/*
 * fingerprint(request text, exclude text[]) returns bytea
 *
 * A NULL request has no fingerprint; NULL paths exclude nothing.
 */
Datum
idempotency_fingerprint(PG_FUNCTION_ARGS)
{
	text	   *request;
	ArrayType  *exclude = NULL;
	bytea	   *result;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	request = PG_GETARG_TEXT_PP(0);
	if (!PG_ARGISNULL(1))
		exclude = PG_GETARG_ARRAYTYPE_P(1);

	result = palloc(VARHDRSZ + DIGEST_LENGTH);
	SET_VARSIZE(result, VARHDRSZ + DIGEST_LENGTH);
	canonical_fingerprint(VARDATA_ANY(request), VARSIZE_ANY_EXHDR(request),
						  canonical_parse_paths(exclude),
						  (uint8 *) VARDATA(result));
	PG_RETURN_BYTEA_P(result);
}
