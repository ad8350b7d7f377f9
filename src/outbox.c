/*-------------------------------------------------------------------------
 *
 * outbox.c
 *		emit(): events that exist if and only if the work that emitted them
 *		has committed.
 *
 * emit() keeps the event in memory; at pre-commit (or pre-prepare) all of them
 * are written, in their order, by outbox_write().  So a position is drawn as
 * late as can be: the order of positions is nearly that of the commits, nobody
 * holds one for long, and readers hardly ever wait.
 *
 * Events carry the depth of the subtransaction they belong to, in the order of
 * their depth, so that those of one that rolls back are the last.  A
 * transaction that emits very much writes part of it earlier, to bound its
 * memory; that holds readers up until it ends.
 *
 * An event's id is the caller's; or, where this transaction has claimed a key,
 * made of the claim's identity and the event's number in it, so that it is the
 * same when the operation is tried again; or new.
 *
 * Locking: AccessShareLock on outbox_seq until the transaction ends, so that
 * the extension isn't dropped under what is in memory; and that of
 * outbox_table.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "compat.h"
#include "digest.h"
#include "errors.h"
#include "outbox.h"
#include "policy.h"
#include "txn.h"
#include "watch.h"

/* so much is kept, if it can be written earlier */
#define OUTBOX_KEPT			10000
#define OUTBOX_KEPT_BYTES	(16 * 1024 * 1024)

#define OUTBOX_HEADERS_MAX_BYTES	(64 * 1024)
#define OUTBOX_CHANNEL		"idempotency_outbox"
#define UUID_STRING_LEN		36

COMPAT_FUNCTION_INFO(idempotency_emit);

/* in outbox_context, which is in TopTransactionContext */
static MemoryContext outbox_context = NULL;
static OutboxEvent *events = NULL;
static int	nevents = 0;
static int	max_events = 0;
static Size event_bytes = 0;
static bool has_written = false;

/* streams whose listeners are told at the commit, in TopTransactionContext */
static List *told = NIL;

/* Remember which listeners are to be told of what is kept. */
static void
outbox_remember_listeners(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	for (int i = 0; i < nevents; i++)
	{
		bool		known = events[i].notify == NULL;
		ListCell   *lc;

		foreach(lc, told)
			known |= !known && strcmp(lfirst(lc), events[i].notify) == 0;
		if (!known)
			told = lappend(told, pstrdup(events[i].notify));
	}
	MemoryContextSwitchTo(old);
}

/*
 * Tell the listeners; not before the commit, as a transaction that has told
 * somebody cannot be prepared.
 */
static void
outbox_notify(void)
{
	ListCell   *lc;

	foreach(lc, told)
		Async_Notify(OUTBOX_CHANNEL, lfirst(lc));
}

/* Forget what is kept. */
static void
outbox_forget(void)
{
	outbox_context = NULL;
	events = NULL;
	nevents = max_events = 0;
	event_bytes = 0;
}

/* Write everything that is kept, and forget it. */
static void
outbox_flush(void)
{
	MemoryContext context = outbox_context;

	if (nevents == 0)
		return;
	has_written = true;
	outbox_write(events, nevents);
	outbox_remember_listeners();
	outbox_forget();
	MemoryContextDelete(context);
}

/*
 * Too much is kept: write it, in the present (sub)transaction, so that a
 * rollback of that undoes it.  It must all be of this depth, or what belongs to
 * an outer one would get later positions than what came after it.
 */
static void
outbox_flush_early(void)
{
	if (events[0].depth == GetCurrentTransactionNestLevel())
		outbox_flush();
}

/* Has this transaction written events, in places that are drawn already? */
bool
outbox_has_written(void)
{
	return has_written;
}

/* A random number's bytes.  Raises XX000. */
static void
outbox_random(void *bytes, size_t len)
{
	if (!pg_strong_random(bytes, len))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
}

/* A new id: a UUID of version 7 (RFC 9562). */
static void
outbox_new_id(pg_uuid_t *uuid)
{
	int64		unix_ms = (GetCurrentTimestamp() +
						   (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
						   USECS_PER_DAY) / 1000;
	uint64		ms = pg_hton64((uint64) unix_ms << 16);

	memcpy(uuid->data, &ms, 6);
	outbox_random(uuid->data + 6, UUID_LEN - 6);
	uuid->data[6] = (uuid->data[6] & 0x0f) | 0x70;
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
}

/* The id of the nth event of a claim: a UUID of version 8, of SHA-256. */
static void
outbox_derived_id(const pg_uuid_t *claim, int32 n, pg_uuid_t *uuid)
{
	static const char label[] = "idempotency:event:v1";
	uint32		number = pg_hton32(n);
	uint8		digest[DIGEST_LENGTH];
	DigestPart	parts[] = {
		{label, sizeof(label)},
		{claim->data, UUID_LEN},
		{&number, sizeof(number)}
	};

	digest_sha256(parts, lengthof(parts), digest);
	memcpy(uuid->data, digest, UUID_LEN);
	uuid->data[6] = (uuid->data[6] & 0x0f) | 0x80;
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
}

/* A UUID as text, palloc'd. */
static text *
outbox_uuid_text(const pg_uuid_t *uuid)
{
	static const char hex[] = "0123456789abcdef";
	text	   *result = palloc(VARHDRSZ + UUID_STRING_LEN);
	char	   *at = VARDATA(result);

	SET_VARSIZE(result, VARHDRSZ + UUID_STRING_LEN);
	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		*at++ = hex[uuid->data[i] >> 4];
		*at++ = hex[uuid->data[i] & 0x0f];
	}
	return result;
}

/* An id for an event whose caller gave none; *is_new: it was never used. */
static text *
outbox_make_id(bool *is_new)
{
	pg_uuid_t	claim;
	pg_uuid_t	uuid;
	int32		n = txn_next_event(&claim);

	*is_new = n == 0;
	if (n == 0)
		outbox_new_id(&uuid);
	else
		outbox_derived_id(&claim, n, &uuid);
	return outbox_uuid_text(&uuid);
}

/* Raises ID400 unless the text has from 1 to max bytes. */
static void
outbox_check_text(const char *what, const text *value, int max)
{
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not be null", what)));
	if (VARSIZE_ANY_EXHDR(value) < 1 || VARSIZE_ANY_EXHDR(value) > max)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must have from 1 to %d bytes", what, max),
				 errdetail("It has %zu bytes.", VARSIZE_ANY_EXHDR(value))));
}

/* Check the name of a stream, type or relay.  Raises ID400. */
void
outbox_check_name(const char *what, const text *name, bool may_be_all)
{
	outbox_check_text(what, name, OUTBOX_NAME_MAX_BYTES);
	if (!may_be_all && VARSIZE_ANY_EXHDR(name) == 1 &&
		VARDATA_ANY(name)[0] == OUTBOX_ALL[0])
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("%s must not be '*', which stands for all", what)));
}

/* Room for one more event, in memory that is the transaction's. */
static OutboxEvent *
outbox_add(void)
{
	if (nevents >= OUTBOX_KEPT || event_bytes >= OUTBOX_KEPT_BYTES)
		outbox_flush_early();
	if (outbox_context == NULL)
		outbox_context = AllocSetContextCreate(TopTransactionContext,
											   "idempotency events",
											   ALLOCSET_DEFAULT_SIZES);
	if (nevents == max_events)
	{
		max_events = Max(16, max_events * 2);
		events = events == NULL ?
			MemoryContextAllocHuge(outbox_context,
								   max_events * sizeof(OutboxEvent)) :
			repalloc_huge(events, max_events * sizeof(OutboxEvent));
	}
	return &events[nevents];
}

/*
 * Keep an event, as the row that it will be; the values are those of its
 * columns from the id on.
 */
static void
outbox_keep(Datum *values, bool *isnull, bool is_new, bool notify)
{
	OutboxEvent *event = outbox_add();
	MemoryContext old;
	Relation	rel;
	Datum		id;
	Datum		stream;
	bool		is_null;

	LockRelationOid(catalog_relation(CATALOG_OUTBOX_SEQ), AccessShareLock);
	values[OUTBOX_POSITION - 1] = Int64GetDatum(0);
	values[OUTBOX_EMITTED_AT - 1] = TimestampTzGetDatum(0);
	isnull[OUTBOX_POSITION - 1] = isnull[OUTBOX_EMITTED_AT - 1] = false;
	rel = outbox_open(0, AccessShareLock);
	old = MemoryContextSwitchTo(outbox_context);
	event->tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	id = heap_getattr(event->tuple, OUTBOX_ID, RelationGetDescr(rel),
					  &is_null);
	stream = heap_getattr(event->tuple, OUTBOX_STREAM, RelationGetDescr(rel),
						  &is_null);
	event->notify = notify ?
		TextDatumGetCString(values[OUTBOX_STREAM - 1]) : NULL;
	MemoryContextSwitchTo(old);
	relation_close(rel, AccessShareLock);
	event->id = VARDATA_ANY(DatumGetPointer(id));
	event->id_len = VARSIZE_ANY_EXHDR(DatumGetPointer(id));
	event->stream = VARDATA_ANY(DatumGetPointer(stream));
	event->stream_len = VARSIZE_ANY_EXHDR(DatumGetPointer(stream));
	event->is_new = is_new;
	event->depth = GetCurrentTransactionNestLevel();
	event_bytes += event->tuple->t_len;
	nevents++;
}

/* Check an event's headers; NULL is '{}'.  Raises ID400, ID413. */
static Datum
outbox_headers(FunctionCallInfo fcinfo, int arg)
{
	Jsonb	   *headers;

	if (PG_ARGISNULL(arg))
		return DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	headers = PG_GETARG_JSONB_P(arg);
	if (!JB_ROOT_IS_OBJECT(headers))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("headers must be a JSON object")));
	policy_check_size("headers", (struct varlena *) headers,
					  OUTBOX_HEADERS_MAX_BYTES);
	return JsonbPGetDatum(headers);
}

/* Tell of which stream the call is; one with a long name goes to the others. */
static void
outbox_watch(const text *stream)
{
	char		scope[SCOPE_MAX_BYTES];
	int			len = snprintf(scope, sizeof(scope), "outbox/%.*s",
							   (int) VARSIZE_ANY_EXHDR(stream),
							   VARDATA_ANY(stream));

	if (len < sizeof(scope))
		watch_scope(scope, len);
}

/*
 * emit(stream text, type text, payload text, key text, event_id text,
 *		headers jsonb) returns text
 */
static Datum
emit_call(PG_FUNCTION_ARGS)
{
	text	   *stream = TEXT_ARGUMENT(0);
	text	   *type = TEXT_ARGUMENT(1);
	text	   *payload = TEXT_ARGUMENT(2);
	text	   *key = TEXT_ARGUMENT(3);
	text	   *id = TEXT_ARGUMENT(4);
	bool		is_new = false;
	OutboxPolicy policy;
	Datum		values[OUTBOX_COLUMNS];
	bool		isnull[OUTBOX_COLUMNS] = {0};

	catalog_check_writable("emit()");
	outbox_check_name("stream", stream, false);
	outbox_watch(stream);
	outbox_check_name("type", type, true);
	if (key)
		outbox_check_text("key", key, OUTBOX_KEY_MAX_BYTES);
	if (id)
		outbox_check_text("event_id", id, OUTBOX_ID_MAX_BYTES);
	values[OUTBOX_HEADERS - 1] = outbox_headers(fcinfo, 5);
	outbox_policy_get(stream, &policy);
	outbox_check_role(policy.allowed_role, "stream", stream);
	policy_check_size("payload", (struct varlena *) payload,
					  policy.max_payload_bytes);

	if (id == NULL)
		id = outbox_make_id(&is_new);
	values[OUTBOX_ID - 1] = PointerGetDatum(id);
	values[OUTBOX_STREAM - 1] = PointerGetDatum(stream);
	values[OUTBOX_KEY - 1] = PointerGetDatum(key);
	isnull[OUTBOX_KEY - 1] = key == NULL;
	values[OUTBOX_TYPE - 1] = PointerGetDatum(type);
	values[OUTBOX_PAYLOAD - 1] = PointerGetDatum(payload);
	isnull[OUTBOX_PAYLOAD - 1] = payload == NULL;
	outbox_keep(values, isnull, is_new, policy.notify);
	watch_answer("emitted", NULL, 0, 0);
	PG_RETURN_TEXT_P(id);
}

WATCH_FUNCTION(idempotency_emit, STATS_EMIT, emit_call);

/* The transaction is about to end, or has. */
static void
outbox_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			/* whoever has dropped the extension meanwhile wants none of it */
			if (nevents > 0 && catalog_is_there())
				outbox_flush();
			if (event == XACT_EVENT_PRE_COMMIT)
				outbox_notify();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			outbox_forget();
			told = NIL;
			has_written = false;
			break;
		default:
			break;				/* nothing is emitted in a worker */
	}
}

/* A subtransaction has ended. */
static void
outbox_subxact_callback(SubXactEvent event, SubTransactionId subid,
						SubTransactionId parent, void *arg)
{
	int			depth = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (nevents > 0 && events[nevents - 1].depth >= depth)
		{
			event_bytes -= events[nevents - 1].tuple->t_len;
			heap_freetuple(events[--nevents].tuple);
		}
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = nevents - 1; i >= 0 && events[i].depth >= depth; i--)
			events[i].depth = depth - 1;
	}
}

/* Register what the outbox needs; called once from _PG_init. */
void
outbox_init(void)
{
	RegisterXactCallback(outbox_xact_callback, NULL);
	RegisterSubXactCallback(outbox_subxact_callback, NULL);
	outbox_rotate_init();
}
