/*-------------------------------------------------------------------------
 *
 * canonical_path.h
 *		Paths into a request, for the parts of canonical.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_CANONICAL_PATH_H
#define IDEMPOTENCY_CANONICAL_PATH_H

#include "canonical.h"
#include "jsontree.h"

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

/* what stands in an array for elements that weren't selected */
extern char canonical_gap[];

extern PathState canonical_start_paths(const CanonicalPaths *paths);
extern bool canonical_follow_paths(const CanonicalPaths *paths, PathState here,
								   const JsonNode *name, int index,
								   PathState *inside);
extern bool canonical_select(const CanonicalPaths *paths, JsonNode *tree);

#endif							/* IDEMPOTENCY_CANONICAL_PATH_H */
