-- What the holder of a leased claim does, besides settling it.
CREATE FUNCTION idempotency.heartbeat(
	scope pg_catalog.text,
	key pg_catalog.text,
	fence pg_catalog.int8,
	lease pg_catalog.interval DEFAULT '30 s',
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_heartbeat';
COMMENT ON FUNCTION idempotency.heartbeat IS
	'extends a lease to end so long from now, and returns its new end';
-- changes state; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.heartbeat FROM PUBLIC;

CREATE FUNCTION idempotency.checkpoint(
	scope pg_catalog.text,
	key pg_catalog.text,
	fence pg_catalog.int8,
	recovery_point pg_catalog.text,
	state pg_catalog.text DEFAULT NULL,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_checkpoint';
COMMENT ON FUNCTION idempotency.checkpoint IS
	'records durably how far a leased claim has come, for whoever resumes it';
-- changes state; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.checkpoint FROM PUBLIC;

CREATE FUNCTION idempotency.assert_fence(
	scope pg_catalog.text,
	key pg_catalog.text,
	fence pg_catalog.int8,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_assert_fence';
COMMENT ON FUNCTION idempotency.assert_fence IS
	'true, and nobody can take the claim over before this transaction ends; an error if somebody has';
-- changes state; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.assert_fence FROM PUBLIC;

-- Finishing what others have left.
CREATE FUNCTION idempotency.abandoned(
	scope pg_catalog.text,
	max pg_catalog.int8 DEFAULT 100,
	OUT principal pg_catalog.text,
	OUT key pg_catalog.text,
	OUT attempt pg_catalog.int4,
	OUT claimed_at pg_catalog.timestamptz,
	OUT lease_until pg_catalog.timestamptz,
	OUT overdue_ms pg_catalog.int8,
	OUT recovery_point pg_catalog.text,
	OUT role pg_catalog.text,
	OUT application pg_catalog.text,
	OUT fence pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_abandoned';
COMMENT ON FUNCTION idempotency.abandoned IS
	'the leased claims of a scope whose lease is over and that nobody has settled or taken over, those overdue longest first';
-- shows keys; grant it to operators
REVOKE ALL ON FUNCTION idempotency.abandoned FROM PUBLIC;

CREATE FUNCTION idempotency.take_abandoned(
	scope pg_catalog.text,
	max pg_catalog.int8 DEFAULT 1,
	lease pg_catalog.interval DEFAULT '30 s',
	OUT principal pg_catalog.text,
	OUT key pg_catalog.text,
	OUT request pg_catalog.text,
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
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_take_abandoned';
COMMENT ON FUNCTION idempotency.take_abandoned IS
	'takes over leased claims of a scope whose lease is over, passing over what others are taking; one row, as claim() answers, for each';
-- changes state and shows keys and requests; grant it to the roles that finish what others have left
REVOKE ALL ON FUNCTION idempotency.take_abandoned FROM PUBLIC;
