-- Settling claims.
CREATE FUNCTION idempotency.finish(
	scope pg_catalog.text,
	key pg_catalog.text,
	response pg_catalog.text DEFAULT NULL,
	fence pg_catalog.int8 DEFAULT NULL,
	retention pg_catalog.interval DEFAULT NULL,
	tag pg_catalog.text DEFAULT NULL,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_finish';
COMMENT ON FUNCTION idempotency.finish IS
	'settles a claim with a response, and returns until when it is remembered';
-- changes state and shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.finish FROM PUBLIC;

CREATE FUNCTION idempotency.fail(
	scope pg_catalog.text,
	key pg_catalog.text,
	error pg_catalog.text DEFAULT NULL,
	retryable pg_catalog.bool DEFAULT true,
	fence pg_catalog.int8 DEFAULT NULL,
	retry_after_ms pg_catalog.int8 DEFAULT NULL,
	retention pg_catalog.interval DEFAULT NULL,
	principal pg_catalog.text DEFAULT '',
	OUT outcome pg_catalog.text,
	OUT attempt pg_catalog.int4,
	OUT retry_after_ms pg_catalog.int8)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_fail';
COMMENT ON FUNCTION idempotency.fail IS
	'settles a claim with an error: for good, or to be tried again after a backoff';
-- changes state and shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.fail FROM PUBLIC;

CREATE FUNCTION idempotency.release(
	scope pg_catalog.text,
	key pg_catalog.text,
	fence pg_catalog.int8 DEFAULT NULL,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_release';
COMMENT ON FUNCTION idempotency.release IS
	'gives a claim up as if it had never been made; false if there is none';
-- changes state and shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.release FROM PUBLIC;
