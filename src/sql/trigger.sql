-- The trigger that lets each key in once.
CREATE FUNCTION idempotency.dedup()
RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_dedup';
COMMENT ON FUNCTION idempotency.dedup IS
	'BEFORE INSERT trigger, dedup(scope, key column [, skip or raise [, principal column]]): lets each key in once';
-- whoever creates the trigger decides which rows are dropped
REVOKE ALL ON FUNCTION idempotency.dedup FROM PUBLIC;
