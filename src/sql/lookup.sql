-- Reading.
CREATE FUNCTION idempotency.peek(
	scope pg_catalog.text,
	key pg_catalog.text,
	principal pg_catalog.text DEFAULT '',
	OUT outcome pg_catalog.text,
	OUT response pg_catalog.text,
	OUT failed pg_catalog.bool,
	OUT error pg_catalog.text,
	OUT fence pg_catalog.int8,
	OUT attempt pg_catalog.int4,
	OUT recovery_point pg_catalog.text,
	OUT state pg_catalog.text,
	OUT retry_after_ms pg_catalog.int8,
	OUT reason pg_catalog.text,
	OUT claimed_at pg_catalog.timestamptz,
	OUT finished_at pg_catalog.timestamptz,
	OUT lease_until pg_catalog.timestamptz,
	OUT expires_at pg_catalog.timestamptz,
	OUT fingerprint pg_catalog.bytea)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
ROWS 1
AS 'MODULE_PATHNAME', 'idempotency_peek';
COMMENT ON FUNCTION idempotency.peek IS
	'what is remembered of a key, or no row; changes nothing and works on a standby';
-- shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.peek FROM PUBLIC;

CREATE FUNCTION idempotency.await(
	scope pg_catalog.text,
	key pg_catalog.text,
	timeout pg_catalog.interval DEFAULT '10 s',
	principal pg_catalog.text DEFAULT '',
	OUT outcome pg_catalog.text,
	OUT response pg_catalog.text,
	OUT failed pg_catalog.bool,
	OUT error pg_catalog.text,
	OUT fence pg_catalog.int8,
	OUT attempt pg_catalog.int4,
	OUT recovery_point pg_catalog.text,
	OUT state pg_catalog.text,
	OUT retry_after_ms pg_catalog.int8,
	OUT reason pg_catalog.text,
	OUT claimed_at pg_catalog.timestamptz,
	OUT finished_at pg_catalog.timestamptz,
	OUT lease_until pg_catalog.timestamptz,
	OUT expires_at pg_catalog.timestamptz,
	OUT fingerprint pg_catalog.bytea)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
ROWS 1
AS 'MODULE_PATHNAME', 'idempotency_await';
COMMENT ON FUNCTION idempotency.await IS
	'as peek(), once the key is settled, or when the time is over';
-- shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.await FROM PUBLIC;
