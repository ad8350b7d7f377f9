-- Claim, execute, finish in one call.
CREATE FUNCTION idempotency.run(
	scope pg_catalog.text,
	key pg_catalog.text,
	command pg_catalog.text,
	args pg_catalog.jsonb DEFAULT '{}',
	request pg_catalog.text DEFAULT NULL,
	principal pg_catalog.text DEFAULT '',
	tag pg_catalog.text DEFAULT NULL,
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
	OUT expires_at pg_catalog.timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_run';
COMMENT ON FUNCTION idempotency.run IS
	'claims, executes one statement as the caller with $1 = args, and finishes with its rows as a JSON array';
-- changes state and shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.run FROM PUBLIC;
