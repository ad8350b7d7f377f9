-- Keys for callers that have none: derived from what they ask for, or new.

-- What derive_key() is where no bucket is given.  Its own comment says why
-- there are two.
CREATE FUNCTION idempotency.derive_key_immutable(
	request pg_catalog.text,
	include pg_catalog.text[] DEFAULT NULL,
	exclude pg_catalog.text[] DEFAULT '{}'::pg_catalog.text[],
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.text
LANGUAGE c IMMUTABLE PARALLEL SAFE COST 20
AS 'MODULE_PATHNAME', 'idempotency_derive_key_immutable';
COMMENT ON FUNCTION idempotency.derive_key_immutable IS
	'what derive_key() without a bucket is planned as; call that';
-- stays executable by PUBLIC: pure, it reads no table; a plan of a call of
-- derive_key() needs it

CREATE FUNCTION idempotency.derive_key_support(pg_catalog.internal)
RETURNS pg_catalog.internal
LANGUAGE c STRICT
AS 'MODULE_PATHNAME', 'idempotency_derive_key_support';
COMMENT ON FUNCTION idempotency.derive_key_support IS
	'planner support of derive_key()';
-- called by the planner, and by nobody else: it takes an "internal"
REVOKE ALL ON FUNCTION idempotency.derive_key_support FROM PUBLIC;

-- STABLE because of a bucket without "at"; its support function makes an
-- immutable call of one without a bucket.
CREATE FUNCTION idempotency.derive_key(
	request pg_catalog.text,
	include pg_catalog.text[] DEFAULT NULL,
	exclude pg_catalog.text[] DEFAULT '{}'::pg_catalog.text[],
	principal pg_catalog.text DEFAULT '',
	bucket pg_catalog.interval DEFAULT NULL,
	at pg_catalog.timestamptz DEFAULT NULL)
RETURNS pg_catalog.text
LANGUAGE c STABLE PARALLEL SAFE COST 20
SUPPORT idempotency.derive_key_support
AS 'MODULE_PATHNAME', 'idempotency_derive_key';
COMMENT ON FUNCTION idempotency.derive_key IS
	'a key from a request''s content, or the fields of it that the paths choose, the caller and, with a bucket, the time';
-- stays executable by PUBLIC: pure but for the clock, it reads no table;
-- anybody can compute the same outside

CREATE FUNCTION idempotency.new_key()
RETURNS pg_catalog.text
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_new_key';
COMMENT ON FUNCTION idempotency.new_key IS
	'a key that nobody can guess, greater than the session''s last: a UUID of version 7';
-- stays executable by PUBLIC: it reads and writes nothing
