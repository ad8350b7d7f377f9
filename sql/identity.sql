--
-- What an operation is identified by: scope, principal and key, byte for byte.
--
-- Convention: claims are made with once(), which says true for an operation
-- that was not seen.
--
\pset null '(null)'
SET client_encoding = 'UTF8';
CREATE SCHEMA identity_test;
-- the rows of a scope, in whichever table they are
CREATE FUNCTION identity_test.stored(wanted text) RETURNS TABLE (id uuid, principal text, key text) LANGUAGE plpgsql AS $$
DECLARE
    segment text;
BEGIN
    FOR segment IN SELECT relname FROM pg_class WHERE relnamespace = 'idempotency'::regnamespace AND relkind = 'r' AND relname LIKE 'key\_%' LOOP
        RETURN QUERY EXECUTE format('SELECT id, principal, key FROM idempotency.%I WHERE scope = $1', segment) USING wanted;
    END LOOP;
END $$;

--
-- Limits: at the limit, and one over it.  They count bytes.
--
SELECT idempotency.once('', 'key');
SELECT idempotency.once(repeat('s', 129), 'key');
SELECT idempotency.once('identity.limit', '');
SELECT idempotency.once('identity.limit', repeat('k', 256));
SELECT idempotency.once('identity.limit', 'key', principal => repeat('p', 129));
SELECT idempotency.once(NULL, 'key');
SELECT idempotency.once('identity.limit', NULL);
\set VERBOSITY sqlstate
SELECT idempotency.once('', 'key');
SELECT idempotency.once(repeat('s', 129), 'key');
SELECT idempotency.once(repeat(U&'\00E9', 64) || 's', 'key');
SELECT idempotency.once('identity.limit', repeat(U&'\00E9', 128));
SELECT idempotency.once('identity.limit', 'key', principal => repeat(U&'\00E9', 64) || 'p');
-- a key that would compress to next to nothing is as long as it is
SELECT idempotency.once('identity.limit', repeat('k', 200000));
SELECT idempotency.once(repeat('s', 200000), 'key');
SELECT idempotency.once('identity.limit', 'key', principal => repeat('p', 200000));
\set VERBOSITY default
SELECT idempotency.once(repeat('s', 128), 'key');
SELECT idempotency.once(repeat(U&'\00E9', 64), 'key');
SELECT idempotency.once('s', 'key');
SELECT idempotency.once('identity.limit', 'k');
SELECT idempotency.once('identity.limit', repeat('k', 255));
SELECT idempotency.once('identity.limit', repeat(U&'\00E9', 127) || 'k');
SELECT idempotency.once('identity.limit', 'key', principal => repeat('p', 128));
SELECT idempotency.once('identity.limit', 'key', principal => '');
-- no principal is the principal ''
SELECT idempotency.once('identity.limit', 'key', principal => NULL);
SELECT idempotency.once('identity.limit', 'key');
-- a scope can allow longer keys, and shorter ones only
SELECT max_key_bytes FROM idempotency.configure('identity.long', max_key_bytes => 1024);
SELECT max_key_bytes FROM idempotency.configure('identity.short', max_key_bytes => 3);
SELECT idempotency.once('identity.long', repeat('k', 1024));
SELECT idempotency.once('identity.long', repeat('k', 1024));
SELECT idempotency.once('identity.long', repeat('k', 1023) || 'l');
SELECT idempotency.once('identity.long', repeat('k', 1025));
SELECT idempotency.once('identity.short', 'abc');
SELECT idempotency.once('identity.short', 'abcd');
SELECT key, octet_length(key) FROM idempotency.keys WHERE scope IN ('identity.long', 'identity.short') AND octet_length(key) < 10;
-- nothing of what was refused is stored
SELECT count(*) FROM idempotency.keys WHERE scope = 'identity.limit';

--
-- Keys that are almost the same are different operations
--
CREATE TABLE identity_test.key (n int, key text);
INSERT INTO identity_test.key
SELECT row_number() OVER (), v FROM unnest(ARRAY['key', 'Key', 'KEY', 'key ', ' key', 'ke', 'key1', E'key\n', E'key\t', 'key' || U&'\200B',
    U&'\00E9', U&'e\0301', U&'\0065', 'stra' || U&'\00DF' || 'e', 'strasse', U&'\FB01x', 'fix', U&'\FF4Bey',
    '1', '01', '1.0', '{"a":1}', '{"a": 1}', 'null', 'NULL', '%', '_', '''', '"', '\', '\x6b6579', ':key', '$1']) AS v;
SELECT count(*) AS keys, count(DISTINCT key COLLATE "C") AS different FROM identity_test.key;
SELECT n, key FROM identity_test.key WHERE NOT idempotency.once('identity.alike', key) ORDER BY n;
SELECT count(*) AS known FROM identity_test.key WHERE NOT idempotency.once('identity.alike', key);
SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM identity_test.stored('identity.alike');
-- the same as principals
SELECT n, key FROM identity_test.key WHERE NOT idempotency.once('identity.alike', 'one key', principal => key) ORDER BY n;
-- and as scopes
SELECT n, key FROM identity_test.key WHERE NOT idempotency.once('identity.' || key, 'one key') ORDER BY n;

--
-- Where one part ends and the next begins counts
--
SELECT scope, principal, key, idempotency.once(scope, key, principal => principal)
FROM (VALUES ('identity.ab', '', 'c'), ('identity.a', '', 'bc'), ('identity.a', 'b', 'c'), ('identity.ab', 'c', 'c'),
             ('identity.a', 'bc', 'c'), ('identity.', 'ab', 'c'), ('identity.', 'a', 'bc')) AS v(scope, principal, key);
-- another caller's operation of the same name is another operation, and its
-- response isn't shown
BEGIN;
SELECT outcome FROM idempotency.claim('identity.caller', 'key', 'x', principal => 'a');
SELECT outcome FROM idempotency.claim('identity.caller', 'key', 'y', principal => 'b');
SELECT idempotency.finish('identity.caller', 'key', 'for a', principal => 'a') > now() AS finished;
SELECT idempotency.finish('identity.caller', 'key', 'for b', principal => 'b') > now() AS finished;
COMMIT;
SELECT principal, outcome, response
FROM unnest(ARRAY['a', 'b', 'c', '']) AS principal, idempotency.peek('identity.caller', 'key', principal);

--
-- The id is a pure function of the three, the same everywhere and for ever:
-- the first 16 bytes of SHA-256 over a label and the length-prefixed texts.
-- The values were computed with another implementation.
--
CREATE TABLE identity_test.golden (id uuid, scope text, principal text, key text);
INSERT INTO identity_test.golden VALUES
('56dd4768-d06d-c766-5152-34517f630012', 'identity.golden', '', 'k'),
('d4ffbab9-05e0-b30a-bb38-0242b3633644', 'identity.golden', 'tenant-1', 'k'),
('293cc930-1430-403c-b013-9f05b4d8aa22', 'identity.golden', '', 'order-4711'),
('f9126f6d-6b03-a665-a4e7-896bb721ef24', 'identity.golden', U&'K\00E4ufer', U&'Bestellung \20AC'),
('a5e3684a-bb17-99c9-8bc3-f4b109d532a3', 'identity.golden', '', U&'\+01F600'),
('28bc3c5c-352f-58f2-4595-4c9d4f36e4dc', 'identity.golden', repeat('p', 128), repeat('k', 255)),
('e3c6c16c-b366-8a1c-a412-9b24446198ed', 'identity.golden.' || repeat('s', 112), '', 'k');
SELECT count(*) AS taken FROM identity_test.golden WHERE idempotency.once(scope, key, principal => principal);
SELECT g.id, left(g.scope, 20) AS scope, left(g.principal, 8) AS principal, left(g.key, 20) AS key
FROM identity_test.golden AS g
WHERE NOT EXISTS (SELECT FROM identity_test.stored(g.scope) AS s WHERE s.id = g.id AND s.principal = g.principal AND s.key = g.key);
-- and computed here
SELECT g.id, left(g.scope, 20) AS scope, left(g.principal, 8) AS principal, left(g.key, 20) AS key,
       g.id = encode(substr(sha256('idempotency:id:v1'::bytea || '\x00'::bytea ||
                                   int4send(octet_length(g.scope)) || convert_to(g.scope, 'UTF8') ||
                                   int4send(octet_length(g.principal)) || convert_to(g.principal, 'UTF8') ||
                                   int4send(octet_length(g.key)) || convert_to(g.key, 'UTF8')), 1, 16), 'hex')::uuid AS same
FROM identity_test.golden AS g;

--
-- What isn't text never gets as far as a key
--
\set VERBOSITY sqlstate
SELECT idempotency.once('identity.bytes', convert_from('\x6b00', 'UTF8'));
SELECT idempotency.once('identity.bytes', convert_from('\xff', 'UTF8'));
SELECT idempotency.once('identity.bytes', '"\u0000"'::jsonb #>> '{}');
SELECT idempotency.once('identity.bytes', 1);
SELECT idempotency.once('identity.bytes', '\x00'::bytea);
\set VERBOSITY default
SELECT count(*) FROM idempotency.keys WHERE scope = 'identity.bytes';

--
-- A table that was tampered with: a row of another identity under the id is
-- never taken for the key's
--
BEGIN;
SELECT ring FROM idempotency.configure('identity.collision', retention => 'infinity');
SELECT idempotency.once('identity.collision', 'one');
UPDATE idempotency.key_permanent SET key = 'two' WHERE scope = 'identity.collision';
SELECT idempotency.once('identity.collision', 'one');
ROLLBACK;

SET client_min_messages = warning;
DROP SCHEMA identity_test CASCADE;
