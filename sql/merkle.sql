--
-- The Merkle tree of RFC 6962: what anybody can check of the ledger.
--
-- Conventions: hashes have the names that RFC 9162 gives them in the example of
-- 2.1.5, a tree of seven leaves.  A query that looks for mistakes returns no
-- row if all is well.
--
--                root
--               /    \
--              k      l
--             / \    / \
--            g   h  i   j      root3 = (g, c), root4 = k, root6 = (k, i)
--           /|  /| /|   |
--          a b c d e f  d6
--
\pset null '(null)'
CREATE SCHEMA merkle_test;
SET search_path = merkle_test, public;
CREATE TABLE hash (name text PRIMARY KEY, value bytea NOT NULL);

-- RFC 6962's definitions
CREATE FUNCTION leaf(data bytea) RETURNS bytea LANGUAGE sql AS
$$ SELECT sha256('\x00'::bytea || data) $$;
CREATE FUNCTION node("left" bytea, "right" bytea) RETURNS bytea LANGUAGE sql AS
$$ SELECT sha256('\x01'::bytea || "left" || "right") $$;
-- the hash of this name, and the proof that consists of these: h('k'), p('b h l')
CREATE FUNCTION h(wanted text) RETURNS bytea LANGUAGE sql AS
$$ SELECT value FROM merkle_test.hash WHERE name = wanted $$;
CREATE FUNCTION p(wanted text) RETURNS bytea[] LANGUAGE sql AS
$$ SELECT coalesce(array_agg(merkle_test.h(name) ORDER BY place), '{}')
   FROM string_to_table(wanted, ' ') WITH ORDINALITY AS w(name, place) WHERE name <> '' $$;

INSERT INTO hash VALUES ('empty', sha256(''));
INSERT INTO hash SELECT name, leaf(name::bytea) FROM unnest('{a,b,c,d,e,f}'::text[]) AS name;
INSERT INTO hash VALUES ('j', leaf('d6'));
INSERT INTO hash VALUES ('g', node(h('a'), h('b'))), ('h', node(h('c'), h('d'))), ('i', node(h('e'), h('f')));
INSERT INTO hash VALUES ('k', node(h('g'), h('h'))), ('l', node(h('i'), h('j')));
INSERT INTO hash VALUES ('root', node(h('k'), h('l'))),
    ('root3', node(h('g'), h('c'))), ('root4', h('k')), ('root6', node(h('k'), h('i')));

--
-- The RFC's proofs
--
SELECT leaf, path, idempotency.verify_inclusion(index, 7, h(leaf), p(path), h('root'))
FROM (VALUES (0, 'a', 'b h l'), (3, 'd', 'c g l'), (4, 'e', 'f j k'), (6, 'j', 'i k')) AS t(index, leaf, path);
SELECT size, proof, idempotency.verify_consistency(size, 7, h(root), h('root'), p(proof))
FROM (VALUES (3, 'root3', 'c d g l'), (4, 'root4', 'l'), (6, 'root6', 'i j k')) AS t(size, root, proof);
-- one for one leaf and another, of one tree and another
SELECT t.index, t.leaf, u.path
FROM (VALUES (0, 'a'), (3, 'd'), (4, 'e'), (6, 'j')) AS t(index, leaf),
     (VALUES ('a', 'b h l'), ('d', 'c g l'), ('e', 'f j k'), ('j', 'i k')) AS u(leaf, path)
WHERE idempotency.verify_inclusion(t.index, 7, h(t.leaf), p(u.path), h('root')) <> (t.leaf = u.leaf);
SELECT t.size, t.root, u.proof
FROM (VALUES (3, 'root3'), (4, 'root4'), (6, 'root6')) AS t(size, root),
     (VALUES ('root3', 'c d g l'), ('root4', 'l'), ('root6', 'i j k')) AS u(root, proof)
WHERE idempotency.verify_consistency(t.size, 7, h(t.root), h('root'), p(u.proof)) <> (t.root = u.root);

--
-- The smallest trees.  The root of no leaves isn't that of an empty leaf.
--
SELECT h('empty') = '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' AS no_leaves,
       leaf('') = '\x6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d' AS empty_leaf,
       leaf('L123456') = '\x395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56' AS a_leaf,
       node('N123', 'N456') = '\xaa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb' AS a_node;
SELECT idempotency.verify_inclusion(0, 1, leaf(''), '{}', leaf('')) AS a_leaf_is_its_tree,
       idempotency.verify_inclusion(0, 1, leaf(''), '{}', h('empty')) AS in_no_leaves,
       idempotency.verify_inclusion(0, 0, h('empty'), '{}', h('empty')) AS in_an_empty_tree,
       idempotency.verify_inclusion(1, 2, h('b'), p('a'), h('g')) AS second_of_two,
       idempotency.verify_inclusion(0, 2, h('b'), p('a'), h('g')) AS as_the_first;

--
-- A leaf is no node: of data that are two hashes it is hashed otherwise.
--
SELECT leaf(h('a') || h('b')) <> h('g') AS another_hash,
       idempotency.verify_inclusion(0, 1, leaf(h('a') || h('b')), '{}', h('g')) AS in_place_of_the_node;
-- and no node is a leaf of the tree that it is a node of
SELECT index, idempotency.verify_inclusion(index, 7, h('g'), p('h l'), h('root')) AS node_g_as_leaf,
       idempotency.verify_inclusion(index, 7, h('l'), p('k'), h('root')) AS node_l_as_leaf
FROM generate_series(0, 6) AS index;

--
-- What is no proof is false, and no error.
--
CREATE VIEW inclusion AS
SELECT 0::bigint AS index, 7::bigint AS size, h('a') AS leaf, p('b h l') AS proof, h('root') AS root;
CREATE VIEW consistency AS
SELECT 3::bigint AS size1, 7::bigint AS size2, h('root3') AS root1, h('root') AS root2, p('c d g l') AS proof;
-- none is missing, and none is NULL
SELECT (SELECT idempotency.verify_inclusion(index, size, leaf, proof, root) FROM inclusion) AS inclusion,
       (SELECT idempotency.verify_consistency(size1, size2, root1, root2, proof) FROM consistency) AS consistency;
SELECT idempotency.verify_inclusion(NULL, size, leaf, proof, root) AS index,
       idempotency.verify_inclusion(index, NULL, leaf, proof, root) AS size,
       idempotency.verify_inclusion(index, size, NULL, proof, root) AS leaf,
       idempotency.verify_inclusion(index, size, leaf, NULL, root) AS proof,
       idempotency.verify_inclusion(index, size, leaf, proof, NULL) AS root,
       idempotency.verify_inclusion(NULL, NULL, NULL, NULL, NULL) AS every
FROM inclusion;
SELECT idempotency.verify_consistency(NULL, size2, root1, root2, proof) AS size1,
       idempotency.verify_consistency(size1, NULL, root1, root2, proof) AS size2,
       idempotency.verify_consistency(size1, size2, NULL, root2, proof) AS root1,
       idempotency.verify_consistency(size1, size2, root1, NULL, proof) AS root2,
       idempotency.verify_consistency(size1, size2, root1, root2, NULL) AS proof,
       idempotency.verify_consistency(NULL, NULL, NULL, NULL, NULL) AS every
FROM consistency;

-- elements: missing, too many, in another order, one bit wrong, in another form
CREATE FUNCTION wrong_proofs(proof bytea[]) RETURNS TABLE (what text, wrong bytea[]) LANGUAGE sql AS $$
    SELECT 'none', '{}'::bytea[]
    UNION ALL SELECT 'the first is missing', proof[2:]
    UNION ALL SELECT 'the last is missing', trim_array(proof, 1)
    UNION ALL SELECT 'the first twice', proof[1] || proof
    UNION ALL SELECT 'the last twice', proof || proof[array_length(proof, 1)]
    UNION ALL SELECT 'swapped', proof[2] || (proof[1] || proof[3:])
    UNION ALL SELECT 'one bit', set_bit(proof[1], 77, 1 - get_bit(proof[1], 77)) || proof[2:]
    UNION ALL SELECT '31 bytes', substr(proof[1], 1, 31) || proof[2:]
    UNION ALL SELECT '33 bytes', (proof[1] || '\x00'::bytea) || proof[2:]
    UNION ALL SELECT 'no bytes', ''::bytea || proof[2:]
    UNION ALL SELECT 'one is NULL', array_append(proof, NULL)
    UNION ALL SELECT 'one is NULL instead', NULL::bytea || proof[2:]
    UNION ALL SELECT 'two dimensions', ARRAY[proof]
    UNION ALL SELECT 'two dimensions, one each', (SELECT array_agg(ARRAY[e]) FROM unnest(proof) AS e)
    UNION ALL SELECT '65 elements', proof || array_fill(proof[1], ARRAY[65 - array_length(proof, 1)])
    UNION ALL SELECT 'a million', array_fill(proof[1], ARRAY[1000000])
    UNION ALL SELECT 'six dimensions', array_fill(proof[1], ARRAY[1, 2, 1, 2, 1, 1])
$$;
SELECT what, idempotency.verify_inclusion(index, size, leaf, wrong, root)
FROM inclusion, wrong_proofs(proof)
WHERE idempotency.verify_inclusion(index, size, leaf, wrong, root) IS NOT FALSE;
SELECT what, idempotency.verify_consistency(size1, size2, root1, root2, wrong)
FROM consistency, wrong_proofs(proof)
WHERE idempotency.verify_consistency(size1, size2, root1, root2, wrong) IS NOT FALSE;
SELECT count(*) FROM consistency, wrong_proofs(proof) WHERE wrong IS DISTINCT FROM proof;
-- where an array begins doesn't matter
SELECT idempotency.verify_inclusion(index, size, leaf, ('[-5:-3]=' || proof::text)::bytea[], root) FROM inclusion;

-- other hashes
SELECT what, bad
FROM inclusion, consistency,
     (VALUES ('31 bytes', substr(h('a'), 1, 31)), ('33 bytes', h('a') || '\x00'), ('no bytes', ''), ('64 bytes', h('a') || h('b')),
             ('zeros', decode(repeat('00', 32), 'hex')), ('a megabyte', repeat('a', 1000000)::bytea)) AS t(what, bad)
WHERE idempotency.verify_inclusion(index, size, bad, inclusion.proof, root) IS NOT FALSE
OR idempotency.verify_inclusion(index, size, leaf, inclusion.proof, bad) IS NOT FALSE
OR (length(bad) <> 32 AND idempotency.verify_inclusion(0, 1, bad, '{}', bad) IS NOT FALSE)
OR idempotency.verify_consistency(size1, size2, bad, root2, consistency.proof) IS NOT FALSE
OR idempotency.verify_consistency(size1, size2, root1, bad, consistency.proof) IS NOT FALSE
OR (length(bad) <> 32 AND idempotency.verify_consistency(7, 7, bad, bad, '{}') IS NOT FALSE);

-- numbers: out of the tree, and as large and as small as there are
SELECT t.i, t.n
FROM inclusion, (VALUES (-1, 7), (7, 7), (8, 7), (0, 0), (0, -7), (-7, -7), (0, 1), (0, 2), (7, 8), (6, 7),
    (0, 9223372036854775807), (9223372036854775807, 7), (9223372036854775806, 9223372036854775807),
    (9223372036854775807, 9223372036854775807), (-9223372036854775808, 7), (0, -9223372036854775808),
    (-9223372036854775808, -9223372036854775808), (4294967296, 4294967303), (0, 4294967303)) AS t(i, n)
WHERE idempotency.verify_inclusion(t.i, t.n, leaf, proof, root) IS NOT FALSE;
SELECT t.m, t.n
FROM consistency, (VALUES (0, 7), (-3, 7), (3, 0), (3, -7), (7, 3), (8, 7), (2, 7), (4, 7), (3, 3), (7, 7), (0, 0), (3, 4), (3, 16),
    (3, 9223372036854775807), (9223372036854775807, 7), (9223372036854775807, 9223372036854775807),
    (9223372036854775806, 9223372036854775807), (4611686018427387904, 9223372036854775807), (-9223372036854775808, 7),
    (3, -9223372036854775808), (-9223372036854775808, -9223372036854775808), (4294967299, 4294967303), (3, 4294967303)) AS t(m, n)
WHERE idempotency.verify_consistency(t.m, t.n, root1, root2, proof) IS NOT FALSE;

--
-- Two trees of one size: equal roots, and nothing to prove.  Of a tree without
-- leaves nothing can be shown.
--
SELECT idempotency.verify_consistency(n, n, h('root'), h('root'), '{}') AS equal,
       idempotency.verify_consistency(n, n, h('root'), h('root4'), '{}') AS unequal,
       idempotency.verify_consistency(n, n, h('root'), h('root'), p('root')) AS with_a_proof
FROM (VALUES (1), (7), (8), (9223372036854775807)) AS t(n);
SELECT idempotency.verify_consistency(0, 0, h('empty'), h('empty'), '{}') AS empty_and_empty,
       idempotency.verify_consistency(0, 7, h('empty'), h('root'), '{}') AS empty_first,
       idempotency.verify_consistency(0, 7, h('empty'), h('root'), p('root')) AS with_a_proof,
       idempotency.verify_consistency(7, 0, h('root'), h('empty'), '{}') AS empty_second;

--
-- A proof doesn't tell the size: paths of one shape are in trees of several.
-- So size and root have to come from one checkpoint.
--
SELECT size, idempotency.verify_inclusion(0, size, h('a'), p('b c'), h('root3')) AS path_of_size_3
FROM generate_series(1, 6) AS size;

--
-- Stored hashes, compressed and out of line
--
CREATE TABLE stored (proof bytea[], root bytea);
INSERT INTO stored SELECT p('b h l'), h('root');
INSERT INTO stored SELECT array_fill(h('root'), ARRAY[64]), h('root');
INSERT INTO stored SELECT array_fill(h('root'), ARRAY[100000]), h('root');
SELECT array_length(proof, 1), idempotency.verify_inclusion(0, 7, h('a'), proof, root) FROM stored;

--
-- Anybody can call them, anywhere
--
SELECT proname, provolatile, proparallel, proisstrict, prosecdef, has_function_privilege('public', oid, 'EXECUTE') AS by_anybody
FROM pg_proc
WHERE pronamespace = 'idempotency'::regnamespace AND proname IN ('verify_consistency', 'verify_inclusion')
ORDER BY proname COLLATE "C";

SET client_min_messages = warning;
DROP SCHEMA merkle_test CASCADE;
