--
-- Issued tokens, and scopes that require one.
--
-- Convention: "try" answers the outcome of a claim, or its SQLSTATE and
-- message; tokens are never printed.
--
\pset null '(null)'
CREATE SCHEMA token_test;
CREATE FUNCTION token_test.try(key text, scope text DEFAULT 'token.pay', principal text DEFAULT '')
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
BEGIN
    RETURN (SELECT outcome || coalesce(' ' || reason, '') FROM idempotency.run(scope, key, 'SELECT 1', principal => principal));
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
    RETURN SQLSTATE || ' ' || message;
END $$;
-- bytes of a token, and back
CREATE FUNCTION token_test.bytes(token text) RETURNS bytea LANGUAGE sql AS
    $$ SELECT decode(translate(token, '-_', '+/'), 'base64') $$;
CREATE FUNCTION token_test.chars(bytes bytea) RETURNS text LANGUAGE sql AS
    $$ SELECT translate(replace(encode(bytes, 'base64'), E'\n', ''), '+/', '-_') $$;

-- no key yet, and none can be made in a transaction that only reads
SELECT count(*) FROM idempotency.token_key;
SET default_transaction_read_only = on;
SELECT idempotency.issue_token('token.pay');
RESET default_transaction_read_only;
SELECT require_token, max_key_bytes FROM idempotency.configure('token.pay', require_token => true);

--
-- A token executes once
--
SELECT idempotency.issue_token('token.pay') AS token \gset
SELECT :'token' ~ '^[A-Za-z0-9_-]{84}$' AS url_safe;
SELECT token_test.try(:'token');
SELECT token_test.try(:'token');
-- it is the key: finish, peek, forget take it as any
SELECT response FROM idempotency.peek('token.pay', :'token');
SELECT idempotency.forget('token.pay', :'token', 'test');
SELECT token_test.try(:'token');
-- by every way of claiming
SELECT idempotency.once('token.pay', :'token') AS done_before;
SELECT outcome FROM idempotency.claim_or_raise('token.pay', :'token');
SELECT outcome FROM idempotency.claim_many('token.pay', ARRAY[:'token']);
SELECT outcome FROM idempotency.claim('token.pay', idempotency.issue_token('token.pay'), lease => '1 min');
\set VERBOSITY sqlstate
SELECT idempotency.once('token.pay', 'made up');
SELECT outcome FROM idempotency.claim_or_raise('token.pay', 'made up');
SELECT outcome FROM idempotency.claim_many('token.pay', ARRAY[:'token', 'made up']);
SELECT outcome FROM idempotency.claim('token.pay', 'made up', lease => '1 min');
CREATE TABLE token_test.import (id text);
CREATE TRIGGER dedup BEFORE INSERT ON token_test.import FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('token.pay', 'id');
INSERT INTO token_test.import VALUES ('made up');
\set VERBOSITY default
INSERT INTO token_test.import VALUES (idempotency.issue_token('token.pay'));

--
-- Anything else is refused, in one way
--
SELECT outcome FROM idempotency.claim('token.pay', 'made up');
SELECT idempotency.issue_token('token.pay', 'alice') AS alices \gset
SELECT idempotency.issue_token('token.other') AS others \gset
SELECT token_test.try(:'alices'), token_test.try(:'alices', principal => 'bob'), token_test.try(:'others');
SELECT token_test.try(:'alices', principal => 'alice');
-- of every bit of a token, changed
SELECT idempotency.issue_token('token.pay') AS token \gset
SELECT token_test.try(token_test.chars(set_bit(token_test.bytes(:'token'), bit, 1 - get_bit(token_test.bytes(:'token'), bit)))) AS answer, count(*)
FROM generate_series(0, 63 * 8 - 1) AS bit
GROUP BY answer;
-- of every character, replaced by one that isn't base64url
SELECT token_test.try(overlay(:'token' PLACING c FROM i FOR 1)) AS answer, count(*)
FROM generate_series(1, 84) AS i, unnest('{+,/,=,.," ",é,~}'::text[]) AS c
GROUP BY answer;
-- cut off, with something behind, in other cases, padded
SELECT token_test.try(left(:'token', n)) AS answer, count(*) FROM generate_series(1, 83) AS n GROUP BY answer;
SELECT token_test.try(key) AS answer, count(*)
FROM unnest(ARRAY[:'token' || 'A', :'token' || '=', :'token' || ' ', ' ' || :'token', lower(:'token'), repeat('A', 84), repeat(:'token', 12), :'token' || :'token',
                  encode(token_test.bytes(:'token'), 'hex')]) AS key
GROUP BY answer;
-- from what a key can't be, whatever the policy
SELECT token_test.try(''), token_test.try(NULL), token_test.try(repeat('A', 1025));
-- and it is still good
SELECT token_test.try(:'token');

--
-- What a token is: version, key id, expiry, nonce, and an HMAC over them, scope
-- and principal.  Without the secret nobody makes one; its owner can.
--
SELECT pg_get_userbyid(relowner) = current_user AS owner, relacl IS NULL OR relacl::text NOT LIKE '%,=%' AS nobody_else FROM pg_class WHERE oid = 'idempotency.token_key'::regclass;
CREATE FUNCTION token_test.hmac(secret bytea, message bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    inner_pad bytea = decode(repeat('36', 64), 'hex');
    outer_pad bytea = decode(repeat('5c', 64), 'hex');
BEGIN
    FOR i IN 0 .. 31 LOOP
        inner_pad = set_byte(inner_pad, i, get_byte(secret, i) # 54);
        outer_pad = set_byte(outer_pad, i, get_byte(secret, i) # 92);
    END LOOP;
    RETURN sha256(outer_pad || sha256(inner_pad || message));
END $$;
CREATE FUNCTION token_test.forge(scope text, principal text, head bytea, key_id int DEFAULT 1) RETURNS text LANGUAGE sql AS $$
    SELECT token_test.chars(head || token_test.hmac(secret,
        'idempotency:token:v1'::bytea || '\x00' || set_byte('\x00', 0, octet_length(scope)) || scope::bytea ||
        set_byte('\x00', 0, octet_length(principal)) || principal::bytea || head))
    FROM idempotency.token_key WHERE id = key_id
$$;
CREATE FUNCTION token_test.head(version int, key_id int, expires_at timestamptz, nonce bytea DEFAULT '\x000102030405060708090a0b0c0d0e0f1011') RETURNS bytea LANGUAGE sql AS $$
    SELECT set_byte('\x00', 0, version) || int4send(key_id) || timestamptz_send(expires_at) || nonce
$$;
SELECT get_byte(bytes, 0) AS version, substr(bytes, 2, 4) AS key_id, octet_length(bytes) AS bytes
FROM token_test.bytes(:'token') AS bytes;
SELECT :'token' = token_test.forge('token.pay', '', substr(token_test.bytes(:'token'), 1, 31)) AS as_defined;
SELECT token_test.try(token_test.forge('token.pay', '', token_test.head(1, 1, now() + '1 min'))) AS good,
       token_test.try(token_test.forge('token.pay', '', token_test.head(1, 1, now() + '1 min', '\x000102030405060708090a0b0c0d0e0f1012'))) AS another,
       token_test.try(token_test.forge('token.pay', '', token_test.head(0, 1, now() + '1 min'))) AS version,
       token_test.try(token_test.forge('token.pay', '', token_test.head(1, 2, now() + '1 min'))) AS key_id,
       token_test.try(token_test.forge('token.pay', '', token_test.head(1, 1, now()))) AS expired,
       token_test.try(token_test.forge('token.pay', '', token_test.head(1, 1, '-infinity'))) AS long_ago,
       token_test.try(token_test.forge('token.pa', 'y', token_test.head(1, 1, now() + '1 min'))) AS boundary \gx

--
-- It expires; then it is refused, also if it was used
--
SELECT idempotency.issue_token('token.pay', ttl => '1 s') AS short \gset
SELECT token_test.try(:'short');
SELECT FROM pg_sleep(1.1);
SELECT token_test.try(:'short');
SELECT outcome FROM idempotency.peek('token.pay', :'short');
-- bounds
SELECT idempotency.issue_token('token.pay', ttl => '999 ms');
\set VERBOSITY sqlstate
SELECT idempotency.issue_token('token.pay', ttl => '1 day 1 us');
SELECT idempotency.issue_token('token.pay', ttl => '-1 h');
SELECT idempotency.issue_token('token.pay', ttl => '2000000000 h');
SELECT idempotency.issue_token('token.pay', ttl => NULL);
SELECT idempotency.issue_token(NULL);
SELECT idempotency.issue_token('');
SELECT idempotency.issue_token(repeat('s', 129));
SELECT idempotency.issue_token('token.pay', repeat('p', 129));
\set VERBOSITY default
SELECT length(idempotency.issue_token('token.pay', NULL, '1 day')), length(idempotency.issue_token(repeat('s', 128), repeat('p', 128)));
SELECT token_test.try(idempotency.issue_token('token.pay', NULL));

--
-- A key isn't forgotten while its token is good, or it could be used again
--
SELECT retention, require_token FROM idempotency.configure('token.short', retention => '1 min', require_token => true);
SELECT idempotency.issue_token('token.short', ttl => '61 s');
SELECT idempotency.issue_token('token.short', ttl => '30 s') AS token \gset
SELECT outcome FROM idempotency.claim('token.short', :'token', retention => '20 s');
BEGIN;
SELECT outcome FROM idempotency.claim('token.short', :'token', retention => '40 s');
SAVEPOINT s;
SELECT idempotency.finish('token.short', :'token', 'r', retention => '20 s');
ROLLBACK TO s;
SELECT idempotency.finish('token.short', :'token', 'r', retention => '35 s') > now() AS finished;
COMMIT;
SELECT fence FROM idempotency.claim('token.short', idempotency.issue_token('token.short', ttl => '30 s'), lease => '1 s') \gset
SELECT key AS leased FROM idempotency.keys WHERE scope = 'token.short' AND state = 'running' \gset
\set VERBOSITY sqlstate
SELECT idempotency.finish('token.short', :'leased', 'r', :fence, retention => '2 s');
\set VERBOSITY default
SELECT idempotency.finish('token.short', :'leased', 'r', :fence) > now() AS finished;
-- nor can a policy be too narrow for it
SELECT max_key_bytes FROM idempotency.configure('token.narrow', max_key_bytes => 83, require_token => true);
SELECT idempotency.issue_token('token.narrow');

--
-- Rotation: the old key verifies, the new one signs
--
SELECT idempotency.issue_token('token.pay', ttl => '1 h') AS old \gset
SELECT idempotency.rotate_token_key();
SELECT id, verifies_until - now() BETWEEN '23 h' AND '25 h' AS retired FROM idempotency.token_key ORDER BY id;
SELECT idempotency.issue_token('token.pay') AS new \gset
SELECT substr(token_test.bytes(:'old'), 2, 4) AS old_id, substr(token_test.bytes(:'new'), 2, 4) AS new_id;
SELECT token_test.try(:'old'), token_test.try(:'new');
SELECT token_test.try(token_test.forge('token.pay', '', token_test.head(1, 1, now() + '1 min', '\x100102030405060708090a0b0c0d0e0f1012'), 2)) AS wrong_secret;
-- it rolls back
BEGIN;
SELECT idempotency.rotate_token_key();
SELECT idempotency.issue_token('token.pay') AS undone \gset
SELECT token_test.try(:'undone');
ROLLBACK;
SELECT token_test.try(:'undone');
SELECT count(*) FROM idempotency.token_key;
-- a key that has retired for long enough no longer verifies, and goes
SELECT idempotency.issue_token('token.pay', ttl => '1 h') AS old \gset
SELECT idempotency.rotate_token_key();
\set VERBOSITY terse
BEGIN;
UPDATE idempotency.token_key SET verifies_until = now() - interval '1 s' WHERE verifies_until IS NOT NULL;
-- a plain UPDATE tells nobody, a rotation does
SELECT idempotency.rotate_token_key();
SELECT id, verifies_until IS NULL AS signs FROM idempotency.token_key ORDER BY id;
SELECT token_test.try(:'old');
ROLLBACK;
\set VERBOSITY default
SELECT token_test.try(:'old');

--
-- Nobody else reads or signs
--
CREATE ROLE regress_idempotency_token;
GRANT USAGE ON SCHEMA token_test TO regress_idempotency_token;
SET ROLE regress_idempotency_token;
\set VERBOSITY sqlstate
SELECT secret FROM idempotency.token_key;
SELECT idempotency.issue_token('token.pay');
SELECT idempotency.rotate_token_key();
\set VERBOSITY default
RESET ROLE;
-- who may issue tokens needs nothing else, and may in his own scopes only
GRANT EXECUTE ON FUNCTION idempotency.issue_token, idempotency.run TO regress_idempotency_token;
SELECT role FROM idempotency.configure('token.reserved', role => 'regress_idempotency_token');
SET ROLE regress_idempotency_token;
SELECT token_test.try(idempotency.issue_token('token.pay'));
SELECT length(idempotency.issue_token('token.reserved'));
RESET ROLE;
CREATE ROLE regress_idempotency_stranger;
GRANT EXECUTE ON FUNCTION idempotency.issue_token TO regress_idempotency_stranger;
SET ROLE regress_idempotency_stranger;
\set VERBOSITY sqlstate
SELECT idempotency.issue_token('token.reserved');
\set VERBOSITY default
RESET ROLE;
SELECT role FROM idempotency.configure('token.reserved', role => '');
DROP OWNED BY regress_idempotency_token, regress_idempotency_stranger;
DROP ROLE regress_idempotency_token, regress_idempotency_stranger;
SET client_min_messages = warning;
DROP SCHEMA token_test CASCADE;
