-- Is the ledger what it was?
CREATE FUNCTION idempotency.verify(
	from_index pg_catalog.int8 DEFAULT 0,
	to_index pg_catalog.int8 DEFAULT NULL,
	external pg_catalog.text[] DEFAULT '{}',
	deep pg_catalog.bool DEFAULT true,
	OUT severity pg_catalog.text,
	OUT what pg_catalog.text,
	OUT place pg_catalog.text,
	OUT detail pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000000 ROWS 10
AS 'MODULE_PATHNAME', 'idempotency_verify';
COMMENT ON FUNCTION idempotency.verify IS
	'checks the ledger from one leaf up to another, exclusively (NULL: all), against external checkpoints, too, and, if deep, its index, its keys and its payloads: a row for each finding; none if all is well';
-- reads everything, and takes long; shows no key, request or response: grant it to auditors
REVOKE ALL ON FUNCTION idempotency.verify FROM PUBLIC;
