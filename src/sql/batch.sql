-- Many claims in one call.
CREATE FUNCTION idempotency.claim_many(
	scope pg_catalog.text,
	keys pg_catalog.text[],
	requests pg_catalog.text[] DEFAULT NULL,
	lease pg_catalog.interval DEFAULT NULL,
	wait pg_catalog.interval DEFAULT NULL,
	principal pg_catalog.text DEFAULT '',
	OUT ordinal pg_catalog.int4,
	OUT key pg_catalog.text,
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
AS 'MODULE_PATHNAME', 'idempotency_claim_many';
COMMENT ON FUNCTION idempotency.claim_many IS
	'claims many keys of one scope at once, without deadlocks; one row for each key, in the order given';
-- changes state and shows responses; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.claim_many FROM PUBLIC;
