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
#include "canonical_path.h"
#include "compat.h"
#include "errors.h"
#include "es6number.h"
#include "jsontree.h"

typedef struct JsonWriter
{
	StringInfoData out;			/* UTF-8 */
	bool		exact;			/* numbers keep all their digits */
	const CanonicalPaths *exclude;	/* or NULL */
	int64		leaves;			/* values written that hold no others */
} JsonWriter;

static void write_value(JsonWriter *writer, const JsonNode *node,
						PathState paths);

COMPAT_FUNCTION_INFO(idempotency_canonical);
COMPAT_FUNCTION_INFO(idempotency_fingerprint);

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

	if (node->count == 0)
		writer->leaves++;
	appendStringInfoCharMacro(out, object ? '{' : '[');
	for (int i = 0; i < node->count; i += step)
	{
		const JsonNode *child = &node->u.children[i];
		PathState	inside;

		if (canonical_follow_paths(writer->exclude, paths,
								   object ? child : NULL, i, &inside))
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

	if (node->kind != NODE_OBJECT && node->kind != NODE_ARRAY &&
		node->u.text != canonical_gap)
		writer->leaves++;
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
	writer->leaves = 0;
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

/* Write the content of a JSON request, or what is selected of it. */
static void
write_content(JsonNode *tree, const CanonicalPaths *exclude, bool selected,
			  CanonicalContent *content)
{
	JsonWriter	writer;

	writer_init(&writer, true, exclude);
	write_value(&writer, tree, canonical_start_paths(exclude));
	content->kind = 'J';
	content->data = writer.out.data;
	content->len = writer.out.len;
	content->nothing = writer.leaves == 0 || (tree->count == 0 && selected);
}

/*
 * What is compared of a request, which is in the server's encoding: of JSON
 * what the paths include (with select_all: everything), less what they exclude
 * (NULL: nothing); of anything else all, or nothing if paths have to select
 * it.  Left in the current memory context.  Raises ID400 for requests that
 * can't be compared, and core's error if one is nested too deeply.
 */
void
canonical_content(const char *request, int len, bool select_all,
				  const CanonicalPaths *include, const CanonicalPaths *exclude,
				  CanonicalContent *content)
{
	ErrorContextCallback hide = {.callback = hide_request_callback};
	const char *end = request + len;
	const char *start = skip_space(request, end);
	JsonNode   *tree = NULL;

	hide.previous = error_context_stack;
	error_context_stack = &hide;
	refuse_stringified_object(start, end);
	if (start < end && (*start == '{' || *start == '['))
		tree = json_tree_parse(request, len);

	memset(content, 0, sizeof(*content));
	content->nothing = true;
	if (tree == NULL)
	{
		content->kind = 'T';
		content->data = utf8_from_server(unconstify(char *, request), &len);
		content->len = len;
		content->nothing = !select_all || start == end;
	}
	else if (select_all || canonical_select(include, tree))
		write_content(tree, exclude, !select_all || exclude, content);
	error_context_stack = hide.previous;
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
	CanonicalContent content;
	DigestPart	parts[] = {{label, sizeof(label)}, {&content.kind, 1}, {NULL, 0}};

	canonical_content(request, len, true, NULL, exclude, &content);
	parts[2].data = content.data;
	parts[2].len = content.len;
	digest_sha256(parts, lengthof(parts), result);

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
