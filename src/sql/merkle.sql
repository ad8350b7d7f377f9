--
-- The Merkle tree of RFC 6962: what anybody can check of the ledger.
--

-- Neither is STRICT: NULL is no proof, and so false.
CREATE FUNCTION idempotency.verify_inclusion(leaf_index pg_catalog.int8,
                                             tree_size pg_catalog.int8,
                                             leaf_hash pg_catalog.bytea,
                                             proof pg_catalog.bytea[],
                                             root pg_catalog.bytea)
RETURNS pg_catalog.bool
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_verify_inclusion';

COMMENT ON FUNCTION idempotency.verify_inclusion(pg_catalog.int8, pg_catalog.int8, pg_catalog.bytea, pg_catalog.bytea[], pg_catalog.bytea) IS
'does this proof show that the leaf is in the tree of this size and root (both of one checkpoint)? (RFC 9162); never an error';

-- Stays executable by PUBLIC: pure, it reads no table; anybody can compute the same outside.

CREATE FUNCTION idempotency.verify_consistency(size1 pg_catalog.int8,
                                               size2 pg_catalog.int8,
                                               root1 pg_catalog.bytea,
                                               root2 pg_catalog.bytea,
                                               proof pg_catalog.bytea[])
RETURNS pg_catalog.bool
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_verify_consistency';

COMMENT ON FUNCTION idempotency.verify_consistency(pg_catalog.int8, pg_catalog.int8, pg_catalog.bytea, pg_catalog.bytea, pg_catalog.bytea[]) IS
'does this proof show that the second tree extends the first, each of the size and root of one checkpoint? (RFC 9162); never an error';

-- Stays executable by PUBLIC: pure, it reads no table; anybody can compute the same outside.
