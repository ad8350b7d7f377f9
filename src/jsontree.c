/*-------------------------------------------------------------------------
 *
 * jsontree.c
 *		A request's JSON as a tree, with the members of objects sorted.
 *
 * PostgreSQL's own parser reads the text once; its semantic actions put
 * nodes on a stack, and a container that closes takes its children off it.
 * So an array of any length grows geometrically, and each node is copied
 * once more, to where it stays.
 *
 * What parsers are known to disagree on is refused: duplicate member names,
 * unpaired surrogates, the code point zero.  Whether that or the text as a
 * whole is wrong is decided in this order: a bad Unicode escape is refused
 * where the parser meets it; text that is not JSON is none of our business;
 * duplicate names are refused once the whole text has turned out to be JSON.
 *
 * Everything is allocated in the current memory context and is left for the
 * caller to free with it.  No message contains anything of a request.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "compat.h"
#include "errors.h"
#include "jsontree.h"

/* How two neighbouring children of an object are sorted. */
typedef struct JsonMember
{
	JsonNode	name;
	JsonNode	value;
} JsonMember;

/*
 * The state of one parse.  Nodes wait on the stack until the container that
 * they belong to is complete.
 */
typedef struct JsonBuilder
{
	JsonNode   *stack;
	int			used;
	int			allocated;
	int			open;			/* innermost open container, or -1 */
	bool		duplicate;		/* some object names a member twice */
} JsonBuilder;

/* Is the server's text something other than UTF-8 that can be converted? */
static inline bool
needs_conversion(void)
{
	return GetDatabaseEncoding() != PG_UTF8 &&
		GetDatabaseEncoding() != PG_SQL_ASCII;
}

/*
 * Server text of *len bytes as UTF-8: the argument itself where nothing has
 * to be converted, else a new C string whose length replaces *len.
 */
char *
utf8_from_server(char *chars, int *len)
{
	char	   *converted;

	if (!needs_conversion())
		return chars;
	converted = pg_server_to_any(chars, *len, PG_UTF8);
	if (converted != chars)
		*len = strlen(converted);
	return converted;
}

/* The same in the other direction. */
char *
utf8_to_server(char *chars, int *len)
{
	char	   *converted;

	if (!needs_conversion())
		return chars;
	converted = pg_any_to_server(chars, *len, PG_UTF8);
	if (converted != chars)
		*len = strlen(converted);
	return converted;
}

/*
 * Order of two names by UTF-16 code units (RFC 8785, 3.2.3).  It is the order
 * of the UTF-8 bytes, except that surrogate pairs (lead bytes F0 and up) come
 * before U+E000..U+FFFF (lead bytes EE and EF).
 */
static int
compare_names(const JsonNode *a, const JsonNode *b)
{
	int			shared = Min(a->count, b->count);

	for (int i = 0; i < shared; i++)
	{
		unsigned char x = a->u.text[i];
		unsigned char y = b->u.text[i];

		if (x == y)
			continue;
		if (x >= 0xEE && y >= 0xEE && (x >= 0xF0) != (y >= 0xF0))
			return x >= 0xF0 ? -1 : 1;
		return x < y ? -1 : 1;
	}
	return (a->count > b->count) - (a->count < b->count);
}

/* Do the names strictly ascend?  If sorted, "no" means a duplicate. */
static bool
members_ascend(const JsonMember *members, int n)
{
	for (int i = 1; i < n; i++)
	{
		if (compare_names(&members[i - 1].name, &members[i].name) >= 0)
			return false;
	}
	return true;
}

/* Merge members from..middle and middle..to, both sorted, into target. */
static void
merge_members(const JsonMember *members, int64 from, int64 middle, int64 to,
			  JsonMember *target)
{
	int64		left = from;
	int64		right = middle;

	CHECK_FOR_INTERRUPTS();
	for (int64 i = from; i < to; i++)
	{
		if (left < middle &&
			(right >= to || compare_names(&members[left].name,
										  &members[right].name) <= 0))
			target[i] = members[left++];
		else
			target[i] = members[right++];
	}
}

/*
 * Sort an object's members by name.  A merge sort, because requests come
 * from outside and qsort has inputs that make it quadratic.
 */
static void
sort_members(JsonMember *members, int n)
{
	Size		size = n * sizeof(JsonMember);
	JsonMember *scratch = MemoryContextAllocHuge(CurrentMemoryContext, size);
	JsonMember *from = members;
	JsonMember *to = scratch;

	for (int64 width = 1; width < n; width *= 2)
	{
		JsonMember *sorted = to;

		for (int64 start = 0; start < n; start += 2 * width)
			merge_members(from, start, Min(start + width, n),
						  Min(start + 2 * width, n), to);
		to = from;
		from = sorted;
	}
	if (from != members)
		memcpy(members, from, size);
	pfree(scratch);
}

/* Put a node on the stack, in which it may move; returns its place. */
static JsonNode *
push_node(JsonBuilder *builder, JsonNodeKind kind)
{
	JsonNode   *node;

	CHECK_FOR_INTERRUPTS();
	if (builder->used == builder->allocated)
	{
		builder->allocated *= 2;
		builder->stack = repalloc_huge(builder->stack,
									   builder->allocated * sizeof(JsonNode));
	}
	node = &builder->stack[builder->used++];
	node->kind = kind;
	node->count = 0;
	return node;
}

/* Put a node with text, a C string, on the stack. */
static void
push_text(JsonBuilder *builder, JsonNodeKind kind, char *chars)
{
	JsonNode   *node = push_node(builder, kind);

	node->count = strlen(chars);
	if (kind == NODE_STRING)
		chars = utf8_from_server(chars, &node->count);
	node->u.text = chars;
}

/* Open a container: the nodes pushed from now on are its children. */
static void
open_container(JsonBuilder *builder, JsonNodeKind kind)
{
	JsonNode   *node = push_node(builder, kind);

	node->u.outer = builder->open;
	builder->open = builder->used - 1;
}

/* Close the innermost container: take its children off the stack. */
static void
close_container(JsonBuilder *builder)
{
	JsonNode   *node = &builder->stack[builder->open];
	int			count = builder->used - builder->open - 1;
	Size		size = count * sizeof(JsonNode);
	JsonNode   *children = NULL;

	if (count > 0)
	{
		children = MemoryContextAllocHuge(CurrentMemoryContext, size);
		memcpy(children, node + 1, size);
	}
	builder->used = builder->open + 1;
	builder->open = node->u.outer;
	node->count = count;
	node->u.children = children;
}

/* Semantic actions of the JSON parser; state is the JsonBuilder. */
static CompatJsonAction
object_start_action(void *state)
{
	open_container(state, NODE_OBJECT);
	COMPAT_JSON_ACTION_DONE();
}

/* An array begins. */
static CompatJsonAction
array_start_action(void *state)
{
	open_container(state, NODE_ARRAY);
	COMPAT_JSON_ACTION_DONE();
}

/* An array ends. */
static CompatJsonAction
array_end_action(void *state)
{
	close_container(state);
	COMPAT_JSON_ACTION_DONE();
}

/* An object ends. */
static CompatJsonAction
object_end_action(void *state)
{
	JsonBuilder *builder = state;
	JsonNode   *object = &builder->stack[builder->open];
	JsonMember *members;
	int			n;

	close_container(builder);
	members = (JsonMember *) object->u.children;
	n = object->count / 2;
	if (!members_ascend(members, n))
	{
		sort_members(members, n);
		if (!members_ascend(members, n))
			builder->duplicate = true;
	}
	COMPAT_JSON_ACTION_DONE();
}

/* A member's name was read; its value follows. */
static CompatJsonAction
member_start_action(void *state, char *name,
					bool isnull pg_attribute_unused())
{
	push_text(state, NODE_STRING, name);
	COMPAT_JSON_ACTION_DONE();
}

/* A string, number, boolean or null was read. */
static CompatJsonAction
scalar_action(void *state, char *token, JsonTokenType type)
{
	JsonNodeKind kind = NODE_LITERAL;

	if (type == JSON_TOKEN_STRING)
		kind = NODE_STRING;
	else if (type == JSON_TOKEN_NUMBER)
		kind = NODE_NUMBER;
	push_text(state, kind, token);
	COMPAT_JSON_ACTION_DONE();
}

/* Raise ID400 for JSON that means different things to different parsers. */
static void
refuse_ambiguous(const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
			 errmsg_internal("%s", message)));
}

/*
 * Parse text in the server's encoding into a tree with sorted members, in the
 * current memory context.  Returns NULL if it isn't JSON; raises ID400 if it
 * is JSON that is refused, and core's error if it is nested too deeply.
 */
JsonNode *
json_tree_parse(const char *json, int len)
{
	JsonBuilder builder = {.allocated = 64,.open = -1};
	JsonSemAction actions = {
		.semstate = &builder,
		.object_start = object_start_action,
		.object_end = object_end_action,
		.array_start = array_start_action,
		.array_end = array_end_action,
		.object_field_start = member_start_action,
		.scalar = scalar_action,
	};
	JsonParseErrorType error;

	builder.stack = palloc(builder.allocated * sizeof(JsonNode));
	error = pg_parse_json(compat_json_lexer(json, len), &actions);

	if (error == JSON_UNICODE_HIGH_SURROGATE ||
		error == JSON_UNICODE_LOW_SURROGATE)
		refuse_ambiguous("request contains an unpaired Unicode surrogate");
	if (error == JSON_UNICODE_CODE_POINT_ZERO)
		refuse_ambiguous("request contains the Unicode code point zero");
	if (compat_json_untranslatable(error))
		refuse_ambiguous("request contains a character that cannot be converted");
	if (error != JSON_SUCCESS)
		return NULL;
	if (builder.duplicate)
		refuse_ambiguous("request contains an object with a duplicate member name");
	return builder.stack;
}
