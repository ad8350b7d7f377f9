-- For operators.
CREATE FUNCTION idempotency.forget(
	scope pg_catalog.text,
	key pg_catalog.text,
	reason pg_catalog.text,
	fence pg_catalog.int8 DEFAULT NULL,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_forget';
COMMENT ON FUNCTION idempotency.forget IS
	'deletes what is remembered of a key, so that the operation can take effect once more; for operators';
-- makes a duplicate execute; grant it to operators
REVOKE ALL ON FUNCTION idempotency.forget FROM PUBLIC;

CREATE FUNCTION idempotency.resolve(
	scope pg_catalog.text,
	key pg_catalog.text,
	outcome pg_catalog.text,
	response pg_catalog.text DEFAULT NULL,
	reason pg_catalog.text DEFAULT NULL,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_resolve';
COMMENT ON FUNCTION idempotency.resolve IS
	'settles a claim whose lease has run out, or whose attempts are used up, in place of its holder: succeeded, failed or retry; for operators';
-- decides what an operation's outcome was; grant it to operators
REVOKE ALL ON FUNCTION idempotency.resolve FROM PUBLIC;
