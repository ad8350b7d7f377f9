-- Claiming.  Argument names are API; answers are the OUT columns of one row.
CREATE FUNCTION idempotency.claim(
	scope pg_catalog.text,
	key pg_catalog.text,
	request pg_catalog.text DEFAULT NULL,
	lease pg_catalog.interval DEFAULT NULL,
	wait pg_catalog.interval DEFAULT NULL,
	principal pg_catalog.text DEFAULT '',
	owner pg_catalog.text DEFAULT NULL,
	first_sent pg_catalog.timestamptz DEFAULT NULL,
	retention pg_catalog.interval DEFAULT NULL,
	state pg_catalog.text DEFAULT NULL,
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
AS 'MODULE_PATHNAME', 'idempotency_claim';
COMMENT ON FUNCTION idempotency.claim IS
	'asks for the right to execute an operation; the answer is one row, whose outcome says what to do';
-- changes state and shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.claim FROM PUBLIC;

CREATE FUNCTION idempotency.claim_or_raise(
	scope pg_catalog.text,
	key pg_catalog.text,
	request pg_catalog.text DEFAULT NULL,
	lease pg_catalog.interval DEFAULT NULL,
	wait pg_catalog.interval DEFAULT NULL,
	principal pg_catalog.text DEFAULT '',
	owner pg_catalog.text DEFAULT NULL,
	first_sent pg_catalog.timestamptz DEFAULT NULL,
	retention pg_catalog.interval DEFAULT NULL,
	state pg_catalog.text DEFAULT NULL,
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
AS 'MODULE_PATHNAME', 'idempotency_claim_or_raise';
COMMENT ON FUNCTION idempotency.claim_or_raise IS
	'as claim(), but raises an error unless the operation is to be executed or has an answer';
-- changes state and shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.claim_or_raise FROM PUBLIC;

CREATE FUNCTION idempotency.once(
	scope pg_catalog.text,
	key pg_catalog.text,
	request pg_catalog.text DEFAULT NULL,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_once';
COMMENT ON FUNCTION idempotency.once IS
	'true: do it, this transaction settles it by committing; false: it was done before; any other outcome is an error';
-- changes state and shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.once FROM PUBLIC;
