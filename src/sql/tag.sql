-- Tags of responses, and their invalidation.

-- A row for each tag that was invalidated; written by invalidate().  The
-- responses of a lesser generation are gone.
CREATE TABLE idempotency.tag_generation (
	scope pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	tag pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	generation pg_catalog.int8 NOT NULL,
	invalidated_at pg_catalog.timestamptz NOT NULL,
	reason pg_catalog.text NOT NULL,
	role pg_catalog.text NOT NULL,
	CONSTRAINT tag_generation_pkey PRIMARY KEY (scope, tag)
);
COMMENT ON TABLE idempotency.tag_generation IS
	'tags whose responses were invalidated: when the last time, why and by whom';
-- a restored database must not replay what was invalidated
SELECT pg_catalog.pg_extension_config_dump('idempotency.tag_generation', '');
-- a wrong row here makes duplicates execute, or brings back what is out of date
REVOKE ALL ON idempotency.tag_generation FROM PUBLIC;

CREATE SEQUENCE idempotency.tag_generation_seq AS pg_catalog.int8 CACHE 1 NO CYCLE;
COMMENT ON SEQUENCE idempotency.tag_generation_seq IS
	'numbers the generations of all tags; never set it back';
-- a restored database must go on where it was
SELECT pg_catalog.pg_extension_config_dump('idempotency.tag_generation_seq', '');
-- whoever sets it back makes invalidations ineffective
REVOKE ALL ON SEQUENCE idempotency.tag_generation_seq FROM PUBLIC;

CREATE FUNCTION idempotency.invalidate(
	scope pg_catalog.text,
	tag pg_catalog.text,
	reason pg_catalog.text)
RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_invalidate';
COMMENT ON FUNCTION idempotency.invalidate IS
	'makes all responses of the scope that were finished with the tag out of date, and returns the tag''s new generation';
-- makes duplicates execute; grant it to those who know what responses are made of
REVOKE ALL ON FUNCTION idempotency.invalidate FROM PUBLIC;
