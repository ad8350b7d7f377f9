/*-------------------------------------------------------------------------
 *
 * response.c
 *		What is stored of a response, and what becomes of it.
 *
 * The policy decides whether a response is stored at all, for how long it is
 * shown, which version counts as up to date, and what a duplicate gets whose
 * response is of an older one, or was invalidated: the policy in force when the
 * duplicate comes, not when the response was stored.  The errors of what has
 * failed are none of this.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "response.h"
#include "tag.h"

/*
 * Put a response into the row that settles a claim, or note that it isn't
 * stored.  Response and tag may be NULL.
 */
void
response_store(const Policy *policy, const Identity *identity, KeyRow *row,
			   text *response, text *tag)
{
	bool		stored = response && policy->store_response;

	/* one that is withheld isn't stored, but its digest is recorded */
	row->response = (struct varlena *) response;
	row->withheld = response && !stored ? WITHHELD_NOT_STORED : WITHHELD_NOTHING;
	row->response_version = stored ? policy->response_version : 0;
	row->tag = (struct varlena *) tag;
	row->tag_generation = tag ? tag_generation_seen(identity, tag) :
		NO_GENERATION;
}

/*
 * Is this the response that the row was settled with?  Of one that wasn't
 * stored nobody knows, so any is taken for it.
 */
bool
response_repeats(const KeyRow *row, const text *response)
{
	if (row->withheld != WITHHELD_NOTHING)
		return response != NULL;
	return keyrow_same_text(row->response, response);
}

/* Has the response been shown for as long as it may be? */
static bool
response_is_over(const Policy *policy, const KeyRow *row, TimestampTz now)
{
	return policy->response_retention != RETENTION_FOREVER &&
		row->finished_at != NO_TIME &&
		row->finished_at <= now - policy->response_retention;
}

/* What a duplicate of a row that has succeeded is to be told of it. */
void
response_view(const Policy *policy, const Identity *identity,
			  const KeyRow *row, TimestampTz now, ResponseView *view)
{
	view->again = false;
	view->shown = true;
	view->reason = NULL;

	if (row->tag &&
		row->tag_generation < tag_generation_now(identity, row->tag))
	{
		view->again = policy->on_invalidated == INVALIDATED_EXECUTE;
		view->shown = false;
		view->reason = "invalidated";
		return;
	}
	if (row->response && row->response_version < policy->response_version)
	{
		view->again = policy->on_stale_version == STALE_EXECUTE;
		view->reason = "stale_version";
	}
	if (row->withheld != WITHHELD_NOTHING)
	{
		view->shown = false;
		view->reason = row->withheld == WITHHELD_ERASED ? "erased" :
			"response_not_stored";
	}
	else if (row->response && response_is_over(policy, row, now))
	{
		view->shown = false;
		view->reason = "response_expired";
	}
}
