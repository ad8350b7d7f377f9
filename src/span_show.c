/*-------------------------------------------------------------------------
 *
 * span_show.c
 *		Spans, as SQL shows them, and as OpenTelemetry's collectors want them.
 *
 * otlp_spans() answers an ExportTraceServiceRequest in the JSON encoding of
 * OTLP 1: lowerCamelCase names, ids in hexadecimal, 64 bit integers as strings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "guc.h"
#include "span.h"

COMPAT_FUNCTION_INFO(idempotency_spans);
COMPAT_FUNCTION_INFO(idempotency_otlp_spans);
COMPAT_FUNCTION_INFO(idempotency_trace_status);

#define SPAN_TAKE_DEFAULT	512

/* columns of spans(), counted from 0 */
enum
{
	SHOW_TRACE_ID,
	SHOW_SPAN_ID,
	SHOW_PARENT_SPAN_ID,
	SHOW_NAME,
	SHOW_SCOPE,
	SHOW_FUNCTION,
	SHOW_OUTCOME,
	SHOW_REASON,
	SHOW_FENCE,
	SHOW_ATTEMPT,
	SHOW_STARTED_AT,
	SHOW_DURATION_US,
	SHOW_SQLSTATE,
	SHOW_PID,
	SHOW_COLUMNS
};

/* OTLP's Span.SpanKind, Status.StatusCode and SpanFlags */
#define OTLP_INTERNAL		1
#define OTLP_SERVER			2
#define OTLP_ERROR			2
#define OTLP_SAMPLED		0x001
#define OTLP_HAS_REMOTE		0x100	/* the next one says something */
#define OTLP_IS_REMOTE		0x200

static const char *const span_step_names[TRACE_STEPS] = {
	[TRACE_LOCK_WAIT] = "lock_wait",
	[TRACE_HOLDER_WAIT] = "holder_wait",
	[TRACE_PROBE] = "probe",
	[TRACE_INSERT] = "insert",
	[TRACE_UPDATE] = "update",
	[TRACE_DELETE] = "delete",
	[TRACE_COMMAND] = "command",
	[TRACE_HANDLER] = "handler"
};

/* The part of a span's name behind "idempotency.". */
static const char *
span_name(const Span *span)
{
	return span->is_step ? span_step_names[span->step] :
		stats_function_name(span->function);
}

/* Append bytes in hexadecimal. */
static void
span_append_hex(StringInfo to, const uint8 *bytes, int n)
{
	enlargeStringInfo(to, 2 * n);
	to->len += hex_encode((const char *) bytes, n, to->data + to->len);
	to->data[to->len] = '\0';
}

/* Bytes in hexadecimal, as a text. */
static Datum
span_hex(const uint8 *bytes, int n)
{
	StringInfoData hex;

	initStringInfo(&hex);
	span_append_hex(&hex, bytes, n);
	return CStringGetTextDatum(hex.data);
}

/* Copy this database's spans into palloc'd memory, or take them. */
static Span *
span_fetch(int max, bool take, int *n)
{
	Span	   *spans;

	max = Min(max, span_room());
	spans = MemoryContextAllocHuge(CurrentMemoryContext,
								   Max(max, 1) * sizeof(Span));
	*n = span_copy(spans, max, take);
	return spans;
}

/* Return the row of one span. */
static void
span_put_row(ReturnSetInfo *result, const Span *span)
{
	Datum		values[SHOW_COLUMNS];
	bool		isnull[SHOW_COLUMNS] = {0};
	StringInfoData name;

	initStringInfo(&name);
	appendStringInfo(&name, "idempotency.%s", span_name(span));
	values[SHOW_TRACE_ID] = span_hex(span->parent.trace, TRACE_ID_LENGTH);
	values[SHOW_SPAN_ID] = span_hex(span->id, TRACE_SPAN_LENGTH);
	values[SHOW_PARENT_SPAN_ID] = span_hex(span->parent.span,
										   TRACE_SPAN_LENGTH);
	isnull[SHOW_PARENT_SPAN_ID] = !span->parent.has_span;
	values[SHOW_NAME] = CStringGetTextDatum(name.data);
	values[SHOW_SCOPE] =
		PointerGetDatum(cstring_to_text_with_len(span->scope,
												 span->scope_len));
	isnull[SHOW_SCOPE] = span->scope_len == 0;
	values[SHOW_FUNCTION] =
		CStringGetTextDatum(stats_function_name(span->function));
	values[SHOW_OUTCOME] = CStringGetTextDatum(span->outcome);
	isnull[SHOW_OUTCOME] = span->outcome[0] == '\0';
	values[SHOW_REASON] = CStringGetTextDatum(span->reason);
	isnull[SHOW_REASON] = span->reason[0] == '\0';
	values[SHOW_FENCE] = Int64GetDatum(span->fence);
	isnull[SHOW_FENCE] = span->fence == 0;
	values[SHOW_ATTEMPT] = Int32GetDatum(span->attempt);
	isnull[SHOW_ATTEMPT] = span->attempt == 0;
	values[SHOW_STARTED_AT] =
		TimestampTzGetDatum(span->started / 1000 -
							(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
							USECS_PER_DAY);
	values[SHOW_DURATION_US] = Float8GetDatum(span->duration / 1000.0);
	isnull[SHOW_SQLSTATE] = span->sqlstate == 0;
	if (span->sqlstate != 0)
		values[SHOW_SQLSTATE] =
			CStringGetTextDatum(unpack_sql_state(span->sqlstate));
	values[SHOW_PID] = Int32GetDatum(span->pid);
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

/* spans() returns setof record: a row for each span of this database */
Datum
idempotency_spans(PG_FUNCTION_ARGS)
{
	int			n;
	Span	   *spans;

	InitMaterializedSRF(fcinfo, 0);
	spans = span_fetch(INT_MAX, false, &n);
	for (int i = 0; i < n; i++)
		span_put_row((ReturnSetInfo *) fcinfo->resultinfo, &spans[i]);
	return (Datum) 0;
}

/* Append an attribute; a comma goes before all but the first. */
static void
otlp_string(StringInfo to, const char *key, const char *value)
{
	if (to->data[to->len - 1] != '[')
		appendStringInfoChar(to, ',');
	appendStringInfo(to, "{\"key\":\"%s\",\"value\":{\"stringValue\":", key);
	escape_json(to, value);
	appendStringInfoString(to, "}}");
}

/* The same for an integer. */
static void
otlp_integer(StringInfo to, const char *key, int64 value)
{
	if (to->data[to->len - 1] != '[')
		appendStringInfoChar(to, ',');
	appendStringInfo(to,
					 "{\"key\":\"%s\",\"value\":{\"intValue\":\"%lld\"}}",
					 key, (long long) value);
}

/* Append a span's attributes. */
static void
otlp_attributes(StringInfo to, const Span *span)
{
	appendStringInfoString(to, ",\"attributes\":[");
	if (span->scope_len > 0)
		otlp_string(to, "idempotency.scope",
					pnstrdup(span->scope, span->scope_len));
	otlp_string(to, "idempotency.function",
				stats_function_name(span->function));
	if (span->outcome[0] != '\0')
		otlp_string(to, "idempotency.outcome", span->outcome);
	if (span->reason[0] != '\0')
		otlp_string(to, "idempotency.reason", span->reason);
	if (span->fence != 0)
		otlp_integer(to, "idempotency.fence", span->fence);
	if (span->attempt != 0)
		otlp_integer(to, "idempotency.attempt", span->attempt);
	if (span->sqlstate != 0)
		otlp_string(to, "db.response.status_code",
					unpack_sql_state(span->sqlstate));
	otlp_integer(to, "process.pid", span->pid);
	appendStringInfoChar(to, ']');
}

/* Append a span. */
static void
otlp_span(StringInfo to, const Span *span)
{
	uint32		flags = OTLP_SAMPLED | OTLP_HAS_REMOTE |
		(span->parent.is_remote ? OTLP_IS_REMOTE : 0);

	appendStringInfoString(to, "{\"traceId\":\"");
	span_append_hex(to, span->parent.trace, TRACE_ID_LENGTH);
	appendStringInfoString(to, "\",\"spanId\":\"");
	span_append_hex(to, span->id, TRACE_SPAN_LENGTH);
	appendStringInfoChar(to, '"');
	if (span->parent.has_span)
	{
		appendStringInfoString(to, ",\"parentSpanId\":\"");
		span_append_hex(to, span->parent.span, TRACE_SPAN_LENGTH);
		appendStringInfoChar(to, '"');
	}
	appendStringInfo(to,
					 ",\"flags\":%u,\"name\":\"idempotency.%s\",\"kind\":%d,"
					 "\"startTimeUnixNano\":\"%lld\",\"endTimeUnixNano\":\"%lld\"",
					 flags, span_name(span),
					 span->is_step ? OTLP_INTERNAL : OTLP_SERVER,
					 (long long) span->started,
					 (long long) (span->started + span->duration));
	otlp_attributes(to, span);
	appendStringInfo(to, ",\"droppedAttributesCount\":0,\"events\":[],"
					 "\"droppedEventsCount\":0,\"links\":[],"
					 "\"droppedLinksCount\":0,\"status\":{\"code\":%d}}",
					 span->sqlstate != 0 ? OTLP_ERROR : 0);
}

/* The request that exports so many spans. */
static text *
otlp_request(const Span *spans, int n)
{
	StringInfoData json;
	char	   *database = get_database_name(MyDatabaseId);

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
	otlp_string(&json, "service.name", "postgresql");
	otlp_string(&json, "db.system.name", "postgresql");
	if (database)
		otlp_string(&json, "db.namespace", database);
	appendStringInfo(&json, "],\"droppedAttributesCount\":0},"
					 "\"scopeSpans\":[{\"scope\":{\"name\":\"idempotency\","
					 "\"version\":\"%s\"},\"spans\":[", IDEMPOTENCY_VERSION);
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			appendStringInfoChar(&json, ',');
		otlp_span(&json, &spans[i]);
		CHECK_FOR_INTERRUPTS();
	}
	appendStringInfoString(&json, "]}]}]}");
	return cstring_to_text_with_len(json.data, json.len);
}

/* otlp_spans(max int) returns text; NULL if there is no span */
Datum
idempotency_otlp_spans(PG_FUNCTION_ARGS)
{
	int			max = PG_ARGISNULL(0) ? SPAN_TAKE_DEFAULT : PG_GETARG_INT32(0);
	int			n;
	Span	   *spans;

	if (max < 1)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("max must be at least 1")));
	spans = span_fetch(max, true, &n);
	if (n == 0)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(otlp_request(spans, n));
}

/*
 * trace_status() returns record: sample_rate, room, used, recorded, dropped,
 * taken, unparsable
 */
Datum
idempotency_trace_status(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	SpanCounts	counts;
	Datum		values[7];
	bool		isnull[7] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	span_counts(&counts);
	values[0] = Float8GetDatum(guc_trace_sample_rate);
	values[1] = Int64GetDatum(counts.room);
	values[2] = Int64GetDatum(counts.used);
	values[3] = Int64GetDatum(counts.recorded);
	values[4] = Int64GetDatum(counts.dropped);
	values[5] = Int64GetDatum(counts.taken);
	values[6] = Int64GetDatum(counts.unparsable);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, isnull)));
}
