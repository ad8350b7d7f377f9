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
	'of these calls, those that waited for somebody who had the key';
COMMENT ON COLUMN idempotency.stats.wait_us IS
	'microseconds that they waited in all';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON idempotency.stats FROM PUBLIC;

CREATE FUNCTION idempotency.stats_latency(
	OUT scope pg_catalog.text,
	OUT from_us pg_catalog.float8,
	OUT to_us pg_catalog.float8,
	OUT decisions pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_stats_latency';
COMMENT ON FUNCTION idempotency.stats_latency IS
	'how long decisions took, per scope of this database; see the view of this name';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON FUNCTION idempotency.stats_latency FROM PUBLIC;

CREATE VIEW idempotency.stats_latency WITH (security_barrier) AS SELECT * FROM idempotency.stats_latency();
COMMENT ON VIEW idempotency.stats_latency IS
	'how many calls of claim, claim_or_raise, once, run and dedup were decided in how many microseconds, without what they waited for others';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON idempotency.stats_latency FROM PUBLIC;

CREATE FUNCTION idempotency.stats_reset(scope pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_stats_reset';
COMMENT ON FUNCTION idempotency.stats_reset IS
	'sets the counts of a scope, or of all of this database, to zero; returns of how many';
-- hides what has happened; grant it to operators
REVOKE ALL ON FUNCTION idempotency.stats_reset FROM PUBLIC;
