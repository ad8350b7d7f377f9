-- Fences.  A row for each life of the database, written by the library; the
-- latest one's number is in the upper bits of every fence (src/fence.c).
CREATE TABLE idempotency.incarnation (
	number pg_catalog.int8 NOT NULL,
	fence_base pg_catalog.int8 NOT NULL,
	system_identifier pg_catalog.int8 NOT NULL,
	timeline pg_catalog.int8 NOT NULL,
	database_oid pg_catalog.int8 NOT NULL,
	relation_oid pg_catalog.int8 NOT NULL,
	began_at pg_catalog.timestamptz NOT NULL,
	reason pg_catalog.text NOT NULL,
	origin pg_catalog.text NOT NULL,
	CONSTRAINT incarnation_pkey PRIMARY KEY (number)
);
COMMENT ON TABLE idempotency.incarnation IS
	'the lives of this database: a new one begins with a promotion, a recovery to a point in time, a restore, an upgrade, or bump_incarnation()';
COMMENT ON COLUMN idempotency.incarnation.origin IS
	'names the ledger''s log in this life';
-- a restored database must know which fences were issued before
SELECT pg_catalog.pg_extension_config_dump('idempotency.incarnation', '');
-- a wrong row here makes fences repeat
REVOKE ALL ON idempotency.incarnation FROM PUBLIC;

CREATE SEQUENCE idempotency.fence_seq AS pg_catalog.int8 CACHE 1 NO CYCLE;
COMMENT ON SEQUENCE idempotency.fence_seq IS
	'numbers the fences; never set it back';
-- a restored database must go on where it was
SELECT pg_catalog.pg_extension_config_dump('idempotency.fence_seq', '');
-- whoever sets it back makes fences repeat
REVOKE ALL ON SEQUENCE idempotency.fence_seq FROM PUBLIC;

CREATE FUNCTION idempotency.bump_incarnation(reason pg_catalog.text)
RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_bump_incarnation';
COMMENT ON FUNCTION idempotency.bump_incarnation IS
	'begins a new incarnation, so that every later fence is greater than any before; returns its number';
-- holds up all claims until it commits; grant it to operators
REVOKE ALL ON FUNCTION idempotency.bump_incarnation FROM PUBLIC;
