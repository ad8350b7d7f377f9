-- Spans of calls, from shared memory (src/span.c).
CREATE FUNCTION idempotency.spans(
	OUT trace_id pg_catalog.text,
	OUT span_id pg_catalog.text,
	OUT parent_span_id pg_catalog.text,
	OUT name pg_catalog.text,
	OUT scope pg_catalog.text,
	OUT function pg_catalog.text,
	OUT outcome pg_catalog.text,
	OUT reason pg_catalog.text,
	OUT fence pg_catalog.int8,
	OUT attempt pg_catalog.int4,
	OUT started_at pg_catalog.timestamptz,
	OUT duration_us pg_catalog.float8,
	OUT sqlstate pg_catalog.text,
	OUT pid pg_catalog.int4)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_spans';
COMMENT ON FUNCTION idempotency.spans IS
	'the spans of this database that nobody has taken; see the view of this name';
-- shows who does what; grant it to operators
REVOKE ALL ON FUNCTION idempotency.spans FROM PUBLIC;

CREATE VIEW idempotency.spans WITH (security_barrier) AS SELECT * FROM idempotency.spans();
COMMENT ON VIEW idempotency.spans IS
	'the spans of this database that nobody has taken, oldest first; empty unless idempotency.trace_sample_rate is set and the server preloads the library';
COMMENT ON COLUMN idempotency.spans.trace_id IS
	'of the client''s traceparent, or one for each transaction that has none';
COMMENT ON COLUMN idempotency.spans.parent_span_id IS
	'the client''s span, or the call of which this is a step';
COMMENT ON COLUMN idempotency.spans.name IS
	'idempotency.claim and so on for calls; lock_wait, holder_wait, probe, insert, update, delete and command for their steps';
COMMENT ON COLUMN idempotency.spans.function IS
	'that was called';
COMMENT ON COLUMN idempotency.spans.outcome IS
	'how the call was answered; null for steps and errors';
COMMENT ON COLUMN idempotency.spans.reason IS
	'as the call was answered';
COMMENT ON COLUMN idempotency.spans.sqlstate IS
	'of the error with which the call ended';
COMMENT ON COLUMN idempotency.spans.pid IS
	'the process that called';
-- shows who does what; grant it to operators
REVOKE ALL ON idempotency.spans FROM PUBLIC;

CREATE FUNCTION idempotency.otlp_spans(max pg_catalog.int4 DEFAULT 512)
RETURNS pg_catalog.text
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_otlp_spans';
COMMENT ON FUNCTION idempotency.otlp_spans IS
	'takes the oldest spans of this database, and returns them as OpenTelemetry''s collectors want them: an ExportTraceServiceRequest in OTLP/JSON; null if there are none';
-- takes what others may want; grant it to whoever exports them
REVOKE ALL ON FUNCTION idempotency.otlp_spans FROM PUBLIC;

CREATE FUNCTION idempotency.trace_status(
	OUT sample_rate pg_catalog.float8,
	OUT room pg_catalog.int8,
	OUT used pg_catalog.int8,
	OUT recorded pg_catalog.int8,
	OUT dropped pg_catalog.int8,
	OUT taken pg_catalog.int8,
	OUT unparsable pg_catalog.int8)
RETURNS pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_trace_status';
COMMENT ON FUNCTION idempotency.trace_status IS
	'the spans of all databases since the server was started: how many there is room for, how many there are, were recorded, made way for others before anybody took them, were taken; and statements whose traceparent could not be parsed';
-- tells how much is used; grant it to operators
REVOKE ALL ON FUNCTION idempotency.trace_status FROM PUBLIC;
