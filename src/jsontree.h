/*-------------------------------------------------------------------------
 *
 * jsontree.h
 *		A request's JSON as a tree, with the members of objects sorted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_JSONTREE_H
#define IDEMPOTENCY_JSONTREE_H

typedef enum JsonNodeKind
{
	NODE_OBJECT,				/* children: name, value, name, value, ... */
	NODE_ARRAY,					/* children: the elements */
	NODE_STRING,				/* text: de-escaped, in UTF-8 */
	NODE_NUMBER,				/* text: the token */
	NODE_LITERAL				/* text: true, false or null */
} JsonNodeKind;

/* Kept at 16 bytes, because a request can have millions of them. */
typedef struct JsonNode
{
	JsonNodeKind kind;
	int			count;			/* children, or bytes of text */
	union
	{
		struct JsonNode *children;
		char	   *text;		/* a C string */
		int			outer;		/* only inside jsontree.c */
	}			u;
} JsonNode;

extern JsonNode *json_tree_parse(const char *json, int len);

extern char *utf8_from_server(char *chars, int *len);
extern char *utf8_to_server(char *chars, int *len);

#endif							/* IDEMPOTENCY_JSONTREE_H */
