/*-------------------------------------------------------------------------
 *
 * inbox_after.c
 *		Whether the events that an event depends on were processed.
 *
 * An event names the ids of events of its own stream, or, as "@stream:seq",
 * positions of this or other streams of the same consumer.  What counts is
 * committed, or this transaction's own; what is dead doesn't.
 *
 * Nothing is locked but tables against rotation; what counts once counts for
 * good, as long as it is remembered.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "errors.h"
#include "fault.h"
#include "inbox.h"

#define AFTER_MAX	1000

COMPAT_NORETURN static void after_refuse_position(void);

/* Raises ID400: this is not the position of a stream. */
static void
after_refuse_position(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
			 errmsg("a position in \"after\" must be \"@stream:seq\""),
			 errhint("What begins with \"@\" is a position; anything else is the id of an event of the same stream.")));
}

/* Take a position apart.  Raises ID400. */
static void
after_position(const char *entry, int len, text **stream, int64 *seq)
{
	const char *colon = NULL;
	char	   *digits;
	char	   *end;

	for (int i = 1; i < len; i++)
	{
		if (entry[i] == ':')
			colon = entry + i;
	}
	if (colon == NULL)
		after_refuse_position();
	digits = pnstrdup(colon + 1, entry + len - colon - 1);
	errno = 0;
	*seq = strtoll(digits, &end, 10);
	if (*end != '\0' || end == digits || errno != 0 || *seq < 0 ||
		digits[0] < '0' || digits[0] > '9')
		after_refuse_position();
	*stream = cstring_to_text_with_len(entry + 1, colon - entry - 1);
}

/* Is the call's event dead, or was it, and hasn't been processed since? */
static bool
after_is_dead(InboxCall *call, Snapshot snapshot)
{
	InboxEvent	event;

	return inbox_event_see(&call->event, snapshot, &event) &&
		(event.state == EVENT_DEAD || event.deliveries > 0);
}

/*
 * Was the event at this position processed?  Raises ID400 if a stream of that
 * name has no positions, ID403.
 */
static bool
after_position_is_done(const InboxCall *call, const char *entry, int len,
					   Snapshot snapshot)
{
	InboxCall	other = {0};
	InboxStream stream;
	InboxPolicy policy;
	text	   *name;
	bool		done;

	after_position(entry, len, &name, &other.seq);
	inbox_name(&other.name,
			   cstring_to_text_with_len(call->name.scope + INBOX_SCOPE_LEN,
										call->name.scope_len - INBOX_SCOPE_LEN),
			   name);
	inbox_policy_get(&other.name, &policy);
	if (!inbox_knows_sequence(policy.strategy))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("a stream in \"after\" has no positions"),
				 errdetail("Its events are known by their ids only.")));
	inbox_check_role(&policy, &other.name);
	done = inbox_stream_read(&other.name, snapshot, &stream) &&
		inbox_was_accepted(&stream, other.seq, 0);
	inbox_stream_free(&stream);
	if (!done || policy.strategy == INBOX_ID_AND_SEQUENCE)
		return done;
	other.has_seq = true;
	other.has_epoch = stream.has_epoch;
	other.epoch = stream.epoch;
	inbox_event_make(&other, policy.strategy);
	return !after_is_dead(&other, snapshot);
}

/*
 * Is the id of the call's event, as made for a strategy with ids, remembered?
 * What is dead is, too.
 */
bool
inbox_id_is_known(InboxCall *call, Snapshot snapshot)
{
	Policy		policy;
	Store		store;
	Probe		probe;
	TimestampTz now;
	bool		known;

	policy_lock();
	policy_get(call->name.scope, call->name.scope_len, &policy);
	policy_check_role(&policy, call->name.scope, call->name.scope_len);
	identity_check_key(&call->event, policy.max_key_bytes);
	store_open(&store, &policy, AccessShareLock, snapshot);
	now = clock_now();
	store_probe(&store, &call->event, now, &probe);
	known = probe.result == PROBE_ROW && probe.row.state == KEY_SUCCEEDED &&
		(probe.own || probe.row.expires_at > now);
	store_close(&store);
	policy_unlock();
	return known;
}

/* The same for an entry, whichever it is.  Raises ID400. */
static bool
after_is_done(const InboxCall *call, const InboxPolicy *policy, text *entry,
			  Snapshot snapshot)
{
	const char *string = VARDATA_ANY(entry);
	int			len = VARSIZE_ANY_EXHDR(entry);
	InboxCall	other = *call;

	if (len > 0 && string[0] == '@')
		return after_position_is_done(call, string, len, snapshot);
	if (!inbox_knows_ids(policy->strategy))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("\"after\" names an event by its id, but the stream's events are known by their sequence"),
				 errhint("Name a position, \"@stream:seq\", or configure a strategy with ids.")));
	inbox_check_id(entry);
	other.event_id = entry;
	inbox_event_make(&other, INBOX_ID);
	return inbox_id_is_known(&other, snapshot) &&
		!after_is_dead(&other, snapshot);
}

/*
 * The first of the events that this one depends on that wasn't processed, or
 * NULL.  The caller holds the inbox's policy lock.  Raises ID400.
 */
const char *
inbox_blocked_by(const InboxCall *call, const InboxPolicy *policy)
{
	Datum	   *entries;
	bool	   *isnull;
	int			n;
	Snapshot	snapshot;
	const char *reason = NULL;

	deconstruct_array(call->after, TEXTOID, -1, false, TYPALIGN_INT, &entries,
					  &isnull, &n);
	if (n > AFTER_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("\"after\" has too many elements"),
				 errdetail("It has %d; the limit is %d.", n, AFTER_MAX)));
	for (int i = 0; i < n; i++)
	{
		if (isnull[i])
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
					 errmsg("\"after\" must not contain nulls")));
	}
	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	/* all of them, so that a bad one is an error whatever the others are */
	for (int i = 0; i < n; i++)
	{
		text	   *entry = DatumGetTextPP(entries[i]);

		if (!after_is_done(call, policy, entry, snapshot) && reason == NULL)
			reason = text_to_cstring(entry);
	}
	UnregisterSnapshot(snapshot);
	return reason;
}
