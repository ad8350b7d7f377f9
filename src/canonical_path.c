/*-------------------------------------------------------------------------
 *
 * canonical_path.c
 *		Paths into a request: what to leave out of it, or to select from it.
 *
 * A path is $ followed by .name .* ['name'] ["name"] [n] [*].
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "canonical_path.h"
#include "errors.h"

#define PATH_HINT "Write paths such as $.meta.sent_at or $.items[*].at."

/* What is left to read of a path, and where its next name goes. */
typedef struct PathReader
{
	const char *at;
	const char *end;
	char	   *names;
} PathReader;

char		canonical_gap[] = "null";

static bool select_child(const CanonicalPaths *paths, PathState here,
						 const JsonNode *name, int index, JsonNode *child);

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
 * Parse a list of paths, a text[] or NULL, in the current memory context; what
 * they are for, "include" or "exclude", is for messages.  The result is one
 * chunk, or NULL if there is no path.  Raises ID400, with the place of the
 * first bad path.
 */
CanonicalPaths *
canonical_parse_named_paths(const char *what, ArrayType *paths)
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
				 errmsg("%s paths must be a one-dimensional array", what),
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
					 errmsg("%s path %d is not valid", what, position),
					 errhint(PATH_HINT)));
	}
	array_free_iterator(iterator);
	return result;
}

/* The same for the paths that a fingerprint leaves out. */
CanonicalPaths *
canonical_parse_paths(ArrayType *paths)
{
	return canonical_parse_named_paths("exclude", paths);
}

/* The state before the first child: every path at its first segment. */
PathState
canonical_start_paths(const CanonicalPaths *paths)
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
 * path ends at the child.
 */
bool
canonical_follow_paths(const CanonicalPaths *paths, PathState here,
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

/* Keep of an object the members in which something is selected. */
static bool
select_members(const CanonicalPaths *paths, JsonNode *object, PathState here)
{
	JsonNode   *children = object->u.children;
	int			kept = 0;

	for (int i = 0; i < object->count; i += 2)
	{
		if (!select_child(paths, here, &children[i], i, &children[i + 1]))
			continue;
		children[kept] = children[i];
		children[kept + 1] = children[i + 1];
		kept += 2;
	}
	object->count = kept;
	return kept > 0;
}

/*
 * Keep of an array the elements in which something is selected, up to the last
 * one; those between them become gaps, so that every element stays in its
 * place.
 */
static bool
select_elements(const CanonicalPaths *paths, JsonNode *array, PathState here)
{
	JsonNode   *children = array->u.children;
	int			kept = 0;

	for (int i = 0; i < array->count; i++)
	{
		if (select_child(paths, here, NULL, i, &children[i]))
		{
			kept = i + 1;
			continue;
		}
		children[i].kind = NODE_LITERAL;
		children[i].count = strlen(canonical_gap);
		children[i].u.text = canonical_gap;
	}
	array->count = kept;
	return kept > 0;
}

/* Keep of a container what is selected inside. */
static bool
select_inside(const CanonicalPaths *paths, JsonNode *node, PathState here)
{
	check_stack_depth();
	if (node->kind == NODE_OBJECT)
		return select_members(paths, node, here);
	return node->kind == NODE_ARRAY && select_elements(paths, node, here);
}

/*
 * Keep of a child what is selected: all of it if a path ends there.  The
 * arguments are those of canonical_follow_paths().
 */
static bool
select_child(const CanonicalPaths *paths, PathState here,
			 const JsonNode *name, int index, JsonNode *child)
{
	PathState	inside;

	return canonical_follow_paths(paths, here, name, index, &inside) ||
		(inside.count > 0 && select_inside(paths, child, inside));
}

/*
 * Reduce a tree, in place, to what the paths select; NULL paths select
 * nothing.  Returns whether anything is left.
 */
bool
canonical_select(const CanonicalPaths *paths, JsonNode *tree)
{
	return paths != NULL &&
		select_inside(paths, tree, canonical_start_paths(paths));
}
