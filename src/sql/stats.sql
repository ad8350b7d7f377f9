-- Statistics, from shared memory (src/stats.c).
CREATE FUNCTION idempotency.stats(
	OUT scope pg_catalog.text,
	OUT executed pg_catalog.int8,
	OUT resumed pg_catalog.int8,
	OUT replayed pg_catalog.int8,
	OUT in_progress pg_catalog.int8,
	OUT mismatched pg_catalog.int8,
	OUT retry_later pg_catalog.int8,
	OUT exhausted pg_catalog.int8,
	OUT indeterminate pg_catalog.int8,
	OUT expired pg_catalog.int8,
	OUT finished pg_catalog.int8,
	OUT failed pg_catalog.int8,
	OUT retried pg_catalog.int8,
	OUT released pg_catalog.int8,
	OUT aborted pg_catalog.int8,
	OUT late_duplicates pg_catalog.int8,
	OUT takeovers pg_catalog.int8,
	OUT fence_refused pg_catalog.int8,
	OUT waits pg_catalog.int8,
	OUT wait_us pg_catalog.int8,
	OUT breaker_refused pg_catalog.int8,
	OUT limited_claims pg_catalog.int8,
	OUT limited_running pg_catalog.int8,
	OUT limited_replays pg_catalog.int8,
	OUT breaker_opened pg_catalog.int8,
	OUT gaps pg_catalog.int8,
	OUT late_events pg_catalog.int8,
	OUT late_us pg_catalog.int8,
	OUT late_max_us pg_catalog.int8,
	OUT reset_at pg_catalog.timestamptz)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_stats';
COMMENT ON FUNCTION idempotency.stats IS
	'what was counted per scope of this database since reset_at; see the view of this name';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON FUNCTION idempotency.stats FROM PUBLIC;

CREATE VIEW idempotency.stats WITH (security_barrier) AS SELECT * FROM idempotency.stats();
COMMENT ON VIEW idempotency.stats IS
	'what was counted per scope of this database; empty unless the server preloads the library';
COMMENT ON COLUMN idempotency.stats.scope IS
	'(others) is for all scopes, of all databases, that found no room: raise idempotency.max_scopes';
COMMENT ON COLUMN idempotency.stats.executed IS
	'claims answered execute';
COMMENT ON COLUMN idempotency.stats.resumed IS
	'claims answered resume: takeovers, and retries that have a recovery point';
COMMENT ON COLUMN idempotency.stats.replayed IS
	'duplicates that got the stored answer';
COMMENT ON COLUMN idempotency.stats.in_progress IS
	'duplicates that came while somebody was at it, after their wait';
COMMENT ON COLUMN idempotency.stats.mismatched IS
	'claims of a key that was used for another request';
COMMENT ON COLUMN idempotency.stats.retry_later IS
	'claims that came before a backoff was over, or were held back by a breaker or limit';
COMMENT ON COLUMN idempotency.stats.exhausted IS
	'claims of a key whose attempts are used up';
COMMENT ON COLUMN idempotency.stats.indeterminate IS
	'claims of a key that an operator has to resolve';
COMMENT ON COLUMN idempotency.stats.expired IS
	'claims that were first sent before anything that is remembered';
COMMENT ON COLUMN idempotency.stats.finished IS
	'claims settled with a response, or by their commit';
COMMENT ON COLUMN idempotency.stats.failed IS
	'claims settled with an error for good, exhausted ones included';
COMMENT ON COLUMN idempotency.stats.retried IS
	'claims settled with an error, to be tried again';
COMMENT ON COLUMN idempotency.stats.released IS
	'claims given up';
COMMENT ON COLUMN idempotency.stats.aborted IS
	'claims undone by a rollback, also to a savepoint, or by the end of their session';
COMMENT ON COLUMN idempotency.stats.late_duplicates IS
	'claims of a key that was settled, but whose retention was over: duplicates that were missed';
COMMENT ON COLUMN idempotency.stats.takeovers IS
	'claims of a key whose lease was over, given to them';
COMMENT ON COLUMN idempotency.stats.fence_refused IS
	'calls of holders that were stale';
COMMENT ON COLUMN idempotency.stats.waits IS
	'calls that waited for somebody who had the key';
COMMENT ON COLUMN idempotency.stats.wait_us IS
	'microseconds that they waited in all';
COMMENT ON COLUMN idempotency.stats.breaker_refused IS
	'of retry_later, those that the circuit breaker held back';
COMMENT ON COLUMN idempotency.stats.limited_claims IS
	'of retry_later, those that limit_claims held back';
COMMENT ON COLUMN idempotency.stats.limited_running IS
	'of retry_later, those that limit_running held back';
COMMENT ON COLUMN idempotency.stats.limited_replays IS
	'of retry_later, duplicates that limit_replays held back';
COMMENT ON COLUMN idempotency.stats.breaker_opened IS
	'how often the circuit breaker opened';
COMMENT ON COLUMN idempotency.stats.gaps IS
	'of a consumer: events that were answered gap or blocked';
COMMENT ON COLUMN idempotency.stats.late_events IS
	'of a consumer: events that were answered late';
COMMENT ON COLUMN idempotency.stats.late_us IS
	'microseconds after their keys had expired that late duplicates came, in all';
COMMENT ON COLUMN idempotency.stats.late_max_us IS
	'the most of that for one of them';
COMMENT ON COLUMN idempotency.stats.reset_at IS
	'since when is counted: stats_reset(), or the first call';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON idempotency.stats FROM PUBLIC;

CREATE FUNCTION idempotency.stats_latency(
	OUT scope pg_catalog.text,
	OUT function pg_catalog.text,
	OUT from_us pg_catalog.float8,
	OUT to_us pg_catalog.float8,
	OUT decisions pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_stats_latency';
COMMENT ON FUNCTION idempotency.stats_latency IS
	'how long calls took, per scope of this database; see the view of this name';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON FUNCTION idempotency.stats_latency FROM PUBLIC;

CREATE VIEW idempotency.stats_latency WITH (security_barrier) AS SELECT * FROM idempotency.stats_latency();
COMMENT ON VIEW idempotency.stats_latency IS
	'how many calls of each function took how many microseconds, without what they waited for others; those that ended with an error are not counted';
COMMENT ON COLUMN idempotency.stats_latency.function IS
	'claim: also claim_or_raise and dedup; run: without its command; waiting: how long those calls waited that had to';
COMMENT ON COLUMN idempotency.stats_latency.from_us IS
	'where the class begins; four of them are an octave';
COMMENT ON COLUMN idempotency.stats_latency.to_us IS
	'where it ends';
COMMENT ON COLUMN idempotency.stats_latency.decisions IS
	'calls in this class; one without any is not shown';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON idempotency.stats_latency FROM PUBLIC;

CREATE FUNCTION idempotency.latency(
	by_scope pg_catalog.bool,
	OUT scope pg_catalog.text,
	OUT function pg_catalog.text,
	OUT calls pg_catalog.int8,
	OUT total_us pg_catalog.int8,
	OUT mean_us pg_catalog.float8,
	OUT p50_us pg_catalog.float8,
	OUT p95_us pg_catalog.float8,
	OUT p99_us pg_catalog.float8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_latency';
COMMENT ON FUNCTION idempotency.latency IS
	'how long calls took, per scope and function, or per function alone; see the views latency and latency_by_function';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON FUNCTION idempotency.latency FROM PUBLIC;

CREATE VIEW idempotency.latency WITH (security_barrier) AS
	SELECT * FROM idempotency.latency(true);
COMMENT ON VIEW idempotency.latency IS
	'how long the calls of each function took in each scope, without what they waited for others';
COMMENT ON COLUMN idempotency.latency.function IS
	'as in stats_latency; waiting is how long those calls waited that had to';
COMMENT ON COLUMN idempotency.latency.calls IS
	'how many there were since stats.reset_at, without those that ended with an error';
COMMENT ON COLUMN idempotency.latency.total_us IS
	'microseconds that they took in all';
COMMENT ON COLUMN idempotency.latency.mean_us IS
	'microseconds that they took on average';
COMMENT ON COLUMN idempotency.latency.p50_us IS
	'half of them took no longer; as exact as a quarter of an octave is wide, like the others';
COMMENT ON COLUMN idempotency.latency.p95_us IS
	'95 of a hundred took no longer';
COMMENT ON COLUMN idempotency.latency.p99_us IS
	'99 of a hundred took no longer';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON idempotency.latency FROM PUBLIC;

CREATE VIEW idempotency.latency_by_function WITH (security_barrier) AS
	SELECT l.function, l.calls, l.total_us, l.mean_us, l.p50_us, l.p95_us, l.p99_us
	FROM idempotency.latency(false) AS l;
COMMENT ON VIEW idempotency.latency_by_function IS
	'how long the calls of each function took in all scopes of this database; columns as in latency';
COMMENT ON COLUMN idempotency.latency_by_function.function IS
	'as in stats_latency';
COMMENT ON COLUMN idempotency.latency_by_function.calls IS
	'as in latency';
COMMENT ON COLUMN idempotency.latency_by_function.total_us IS
	'as in latency';
COMMENT ON COLUMN idempotency.latency_by_function.mean_us IS
	'as in latency';
COMMENT ON COLUMN idempotency.latency_by_function.p50_us IS
	'as in latency';
COMMENT ON COLUMN idempotency.latency_by_function.p95_us IS
	'as in latency';
COMMENT ON COLUMN idempotency.latency_by_function.p99_us IS
	'as in latency';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON idempotency.latency_by_function FROM PUBLIC;

CREATE FUNCTION idempotency.stats_late(
	OUT scope pg_catalog.text,
	OUT from_s pg_catalog.float8,
	OUT to_s pg_catalog.float8,
	OUT duplicates pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_stats_late';
COMMENT ON FUNCTION idempotency.stats_late IS
	'how late late duplicates came; see the view of this name';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON FUNCTION idempotency.stats_late FROM PUBLIC;

CREATE VIEW idempotency.stats_late WITH (security_barrier) AS
	SELECT * FROM idempotency.stats_late();
COMMENT ON VIEW idempotency.stats_late IS
	'how many seconds after their keys had expired late duplicates came: so much more retention would have answered them';
COMMENT ON COLUMN idempotency.stats_late.from_s IS
	'where the class begins; four of them are an octave';
COMMENT ON COLUMN idempotency.stats_late.to_s IS
	'where it ends';
COMMENT ON COLUMN idempotency.stats_late.duplicates IS
	'as in stats.late_duplicates';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON idempotency.stats_late FROM PUBLIC;

CREATE FUNCTION idempotency.top_duplicates(
	OUT id pg_catalog.uuid,
	OUT scope pg_catalog.text,
	OUT duplicates pg_catalog.int8,
	OUT excess pg_catalog.int8,
	OUT last_at pg_catalog.timestamptz)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_top_duplicates';
COMMENT ON FUNCTION idempotency.top_duplicates IS
	'keys with many duplicates since the server was started, by the id of their rows, in no order; duplicates may be too many by as much as excess says';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON FUNCTION idempotency.top_duplicates FROM PUBLIC;

CREATE FUNCTION idempotency.slowest_calls(
	OUT scope pg_catalog.text,
	OUT function pg_catalog.text,
	OUT duration_us pg_catalog.int8,
	OUT waited_us pg_catalog.int8,
	OUT ended_at pg_catalog.timestamptz,
	OUT pid pg_catalog.int4)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_slowest_calls';
COMMENT ON FUNCTION idempotency.slowest_calls IS
	'the slowest calls of the last hour, in no order; duration_us is without waited_us';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON FUNCTION idempotency.slowest_calls FROM PUBLIC;

CREATE FUNCTION idempotency.stats_reset(scope pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_stats_reset';
COMMENT ON FUNCTION idempotency.stats_reset IS
	'sets the counts of a scope, or of all of this database, to zero; returns of how many';
-- hides what has happened; grant it to operators
REVOKE ALL ON FUNCTION idempotency.stats_reset FROM PUBLIC;
