-- Circuit breakers, in shared memory (src/breaker.c).
CREATE FUNCTION idempotency.breakers(
	OUT scope pg_catalog.text,
	OUT state pg_catalog.text,
	OUT since pg_catalog.timestamptz,
	OUT retry_at pg_catalog.timestamptz,
	OUT successes pg_catalog.int8,
	OUT failures pg_catalog.int8,
	OUT openings pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_breakers';
COMMENT ON FUNCTION idempotency.breakers IS
	'the circuit breakers of this database; see the view of this name';
-- tells how an operation fares; grant it to operators
REVOKE ALL ON FUNCTION idempotency.breakers FROM PUBLIC;

CREATE VIEW idempotency.breakers WITH (security_barrier) AS SELECT * FROM idempotency.breakers();
COMMENT ON VIEW idempotency.breakers IS
	'the circuit breakers of this database that have been asked; empty unless the server preloads the library';
COMMENT ON COLUMN idempotency.breakers.state IS
	'closed: admits everything; open: admits nothing until retry_at; half_open: admits a few probes';
COMMENT ON COLUMN idempotency.breakers.since IS
	'when the state began; ends of claims that began before don''t count';
COMMENT ON COLUMN idempotency.breakers.successes IS
	'claims that were finished in the window, or probes that were';
COMMENT ON COLUMN idempotency.breakers.failures IS
	'claims that failed, were rolled back or abandoned in the window';
COMMENT ON COLUMN idempotency.breakers.openings IS
	'how often it has opened since the server was started';
-- tells how an operation fares; grant it to operators
REVOKE ALL ON idempotency.breakers FROM PUBLIC;

CREATE FUNCTION idempotency.breaker_reset(scope pg_catalog.text)
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_breaker_reset';
COMMENT ON FUNCTION idempotency.breaker_reset IS
	'closes the circuit breaker of a scope; false if there is none';
-- lets an operation go on that was stopped; grant it to operators
REVOKE ALL ON FUNCTION idempotency.breaker_reset FROM PUBLIC;
