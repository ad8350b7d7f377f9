--
-- When are two requests the same: RFC 8785 form and fingerprint.
--

CREATE FUNCTION idempotency.canonical(value pg_catalog.jsonb)
RETURNS pg_catalog.text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_canonical';

COMMENT ON FUNCTION idempotency.canonical(pg_catalog.jsonb) IS
'canonical form of a JSON value (RFC 8785, JCS)';

-- Stays executable by PUBLIC: pure, it reads no table and so reveals nothing.

-- Not STRICT: a NULL request gives NULL, but NULL paths exclude nothing.
CREATE FUNCTION idempotency.fingerprint(request pg_catalog.text,
                                        exclude pg_catalog.text[] DEFAULT '{}'::pg_catalog.text[])
RETURNS pg_catalog.bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_fingerprint';

COMMENT ON FUNCTION idempotency.fingerprint(pg_catalog.text, pg_catalog.text[]) IS
'SHA-256 that decides whether two requests are the same, without the parts that the paths exclude';

-- Stays executable by PUBLIC: pure, it reads no table; anybody can compute the same outside.
