-- Freeing the space of what has expired.
CREATE FUNCTION idempotency.maintain(
	OUT duty pg_catalog.text,
	OUT object pg_catalog.text,
	OUT result pg_catalog.text,
	OUT amount pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_maintain';
COMMENT ON FUNCTION idempotency.maintain IS
	'frees the space of what has expired, and returns what it did: amount is in bytes for rotate, in rows for clean';
-- truncates tables; grant it to the role that schedules it
REVOKE ALL ON FUNCTION idempotency.maintain FROM PUBLIC;
