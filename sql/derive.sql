--
-- Keys for callers that have none: derived from what they ask for, or new.
--
-- Convention: the values below never change: a key that is derived tomorrow
-- has to be the one that was derived yesterday.
--
SET client_encoding = 'UTF8';
\pset null '(null)'
CREATE SCHEMA derive_test;

-- What a key is: the documentation in SQL.
CREATE FUNCTION derive_test.key(kind text, content text, principal text DEFAULT '', bucket bytea DEFAULT '\x00')
RETURNS text LANGUAGE sql AS $$
    SELECT 'd1:' || rtrim(translate(replace(encode(sha256(
        'idempotency:key:v1'::bytea || '\x00'::bytea || kind::bytea ||
        int8send(octet_length(convert_to(content, 'UTF8'))) || convert_to(content, 'UTF8') ||
        int4send(octet_length(principal)) || principal::bytea || bucket), 'base64'), E'\n', ''), '+/', '-_'), '=')
$$;

-- How derive_key() ends: the key, or SQLSTATE, message and hint.
CREATE FUNCTION derive_test.try(command text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    key text;
    message text;
    hint text;
BEGIN
    EXECUTE 'SELECT idempotency.derive_key(' || command || ')' INTO key;
    RETURN key;
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' / ', SQLSTATE, message, nullif(hint, ''));
END $$;

--
-- Golden values, and that they are what the definition says
--
CREATE TABLE derive_test.golden (n int, command text, kind text, content text, principal text, bucket bytea);
INSERT INTO derive_test.golden VALUES
(1, $$'{"amount": 60, "to": "bob"}'$$, 'J', '{"amount":60,"to":"bob"}', '', '\x00'),
(2, $$'{"to": "bob", "amount": 6e1}'$$, 'J', '{"amount":60,"to":"bob"}', '', '\x00'),
(3, $$'{"amount": 60, "to": "bob"}', principal => 'alice'$$, 'J', '{"amount":60,"to":"bob"}', 'alice', '\x00'),
(4, $$'{"amount": 60, "to": "bob", "at": "noon"}', include => '{$.amount,$.to}'$$, 'J', '{"amount":60,"to":"bob"}', '', '\x00'),
(5, $$'{"amount": 60, "to": "bob", "at": "noon"}', exclude => '{$.at}'$$, 'J', '{"amount":60,"to":"bob"}', '', '\x00'),
(6, $$'{"amount": 60, "to": {"name": "bob", "at": 1}}', include => '{$.to}', exclude => '{$.to.at}'$$, 'J', '{"to":{"name":"bob"}}', '', '\x00'),
(7, $$'{"items": [{"id": 1, "n": 2}, {"id": 3}, 4]}', include => '{$.items[*].id}'$$, 'J', '{"items":[{"id":1},{"id":3}]}', '', '\x00'),
(8, $$'{"items": [{"n": 2}, {"id": 3}, 4]}', include => '{$.items[*].id}'$$, 'J', '{"items":[null,{"id":3}]}', '', '\x00'),
(9, $$'[10, 20, 30, 40]', include => '{$[2],$[0]}'$$, 'J', '[10,null,30]', '', '\x00'),
(10, $$'{"a": {}, "b": [], "c": null}', include => '{$.a,$.c}'$$, 'J', '{"a":{},"c":null}', '', '\x00'),
(11, $$'pay bob 60'$$, 'T', 'pay bob 60', '', '\x00'),
(12, $$'60'$$, 'T', '60', '', '\x00'),
(13, $$'{}'$$, 'J', '{}', '', '\x00'),
(14, $$U&'{"name": "\00E9"}'$$, 'J', U&'{"name":"\00E9"}', '', '\x00'),
(15, $$'{"n": 12345678901234567890123}'$$, 'J', '{"n":1.2345678901234567890123e+22}', '', '\x00'),
-- the 20,780th day since 1970 begins 1795392000 s after it
(16, $$'nightly', bucket => '1 day', at => '2026-11-23 00:00:00+00'$$, 'T', 'nightly', '', '\x01' || int8send(86400000000) || int8send(1795392000000000)),
(17, $$'nightly', bucket => '24 h', at => '2026-11-23 23:59:59.999999+00'$$, 'T', 'nightly', '', '\x01' || int8send(86400000000) || int8send(1795392000000000)),
(18, $$'nightly', bucket => '1 day', at => '2026-11-24 00:00:00+00'$$, 'T', 'nightly', '', '\x01' || int8send(86400000000) || int8send(1795478400000000)),
(19, $$'old', principal => 'alice', bucket => '1 h', at => '1969-12-31 23:59:59+00'$$, 'T', 'old', 'alice', '\x01' || int8send(3600000000) || int8send(-3600000000));
SELECT n, derive_test.try(command) FROM derive_test.golden ORDER BY n;
SELECT n FROM derive_test.golden
WHERE derive_test.try(command) IS DISTINCT FROM derive_test.key(kind, content, principal, bucket);

--
-- What differs has different keys
--
SELECT count(*), count(DISTINCT idempotency.derive_key(request, principal => principal))
FROM (VALUES ('ab', 'c'), ('a', 'bc'), ('abc', ''), ('"a"', ''), ('["a"]', ''), ('{"a":1}', ''), ('{"a":"1"}', ''), ('{"a":1.5}', ''),
             ('[1,2]', ''), ('[2,1]', ''), ('[[1],2]', ''), ('1', ''), ('1.0', ''), ('A', ''), ('a ', ''), ('a', '')) AS v(request, principal);
SELECT count(DISTINCT key) AS four
FROM (SELECT idempotency.derive_key('r', bucket => width, at => at) AS key
      FROM (VALUES ('1 day'::interval), ('12 h')) AS w(width), (VALUES ('2026-11-23 06:00+00'::timestamptz), ('2026-11-23 18:00+00')) AS a(at)
      UNION SELECT idempotency.derive_key('r')) AS k;
-- an element that isn't there doesn't move the others
SELECT idempotency.derive_key('[{"id":1},{"x":2}]', include => '{$[*].id}') = idempotency.derive_key('[{"x":9},{"id":1}]', include => '{$[*].id}') AS same;
-- nothing of the session takes part
SET TimeZone = 'Asia/Kathmandu';
SET DateStyle = 'German';
SET IntervalStyle = 'iso_8601';
SET extra_float_digits = -15;
SELECT n FROM derive_test.golden
WHERE derive_test.try(command) IS DISTINCT FROM derive_test.key(kind, content, principal, bucket);
RESET ALL;

--
-- Errors, never a key that everybody has
--
SELECT command, derive_test.try(command)
FROM (VALUES (1, $$NULL$$), (2, $$''$$), (3, $$'  '$$),
             (4, $$'{"a": 1}', include => '{$.b}'$$),
             (5, $$'{"a": {"c": 1}}', include => '{$.a.b}'$$),
             (6, $$'{"a": 1}', include => '{$.a.b}'$$),
             (7, $$'{"a": 1}', include => '{}'$$),
             (8, $$'{"a": 1, "b": 2}', exclude => '{$.a,$.b}'$$),
             (9, $$'{"a": {"b": 1}}', exclude => '{$.a.b}'$$),
             (10, $$'{"a": {"b": 1}}', include => '{$.a}', exclude => '{$.a.b}'$$),
             (11, $$'[1, 2]', include => '{$[1]}', exclude => '{$[1]}'$$),
             (12, $$'text', include => '{$.a}'$$),
             (13, $$'17', include => '{$.a}'$$),
             (14, $$'{}', exclude => '{$.a}'$$),
             (15, $$'{"a": 1', include => '{$.a}'$$),
             (20, $$'{"a": 1}', include => '{a}'$$),
             (21, $$'{"a": 1}', include => '{$.a,$..b}'$$),
             (22, $$'{"a": 1}', include => '{$}'$$),
             (23, $$'{"a": 1}', include => '{NULL}'$$),
             (24, $$'{"a": 1}', include => '{{$.a},{$.b}}'$$),
             (25, $$'{"a": 1}', exclude => '{$.a[-1]}'$$),
             (30, $$'{"a": 1, "a": 2}'$$), (31, $$'[object Object]'$$),
             (40, $$'r', bucket => '1 month'$$), (41, $$'r', bucket => '0'$$), (42, $$'r', bucket => '-1 day'$$),
             (43, $$'r', bucket => '999 ms'$$), (44, $$'r', bucket => '367 days'$$), (45, $$'r', bucket => '1 day', at => 'infinity'$$),
             (46, $$'r', at => now()$$), (47, $$'r', bucket => '1 day -1 h'$$), (48, $$'r', bucket => '1 day', at => '-infinity'$$)) AS v(n, command)
ORDER BY n;

--
-- Immutable without a bucket: such a call can stand in an index and in a
-- generated column, and one with a bucket can't
--
CREATE TABLE derive_test.body (body text, key text GENERATED ALWAYS AS (idempotency.derive_key(body, exclude => '{$.at}')) STORED);
CREATE UNIQUE INDEX ON derive_test.body (idempotency.derive_key(body, exclude => '{$.at}'));
INSERT INTO derive_test.body VALUES ('{"a": 1, "at": 1}');
SELECT key = idempotency.derive_key('{"a": 1}') AS same FROM derive_test.body;
\set VERBOSITY terse
CREATE INDEX ON derive_test.body (idempotency.derive_key(body, bucket => '1 day'));
CREATE INDEX ON derive_test.body (idempotency.derive_key(body, bucket => '1 day', at => '2026-01-01'));
\set VERBOSITY default
-- a kept plan doesn't keep the day
PREPARE daily AS SELECT idempotency.derive_key('r', bucket => '1 s') AS key;
EXECUTE daily \gset first_
SELECT FROM pg_sleep(1.1);
EXECUTE daily \gset
SELECT :'key' <> :'first_key' AS another_second, idempotency.derive_key('r', bucket => '366 days') = idempotency.derive_key('r', bucket => '366 days', at => now()) AS statements_own;
DEALLOCATE daily;
-- a bucket that isn't known when it is planned
PREPARE maybe(interval) AS SELECT idempotency.derive_key('r', bucket => $1) = idempotency.derive_key('r') AS same;
EXECUTE maybe(NULL);
EXECUTE maybe('1 day');
DEALLOCATE maybe;

--
-- The window slides from the first sight with a policy's retention; a bucket's
-- doesn't
--
SELECT outcome FROM idempotency.run('derive.day', idempotency.derive_key('report', bucket => '1 day', at => '2026-11-23 10:00+00'), 'SELECT 1');
SELECT outcome FROM idempotency.run('derive.day', idempotency.derive_key('report', bucket => '1 day', at => '2026-11-23 20:00+00'), 'SELECT 1');
SELECT outcome FROM idempotency.run('derive.day', idempotency.derive_key('report', bucket => '1 day', at => '2026-11-24 00:00+00'), 'SELECT 1');

--
-- New keys: UUIDs of version 7, in order, of this moment
--
CREATE TABLE derive_test.new (i int, key text);
INSERT INTO derive_test.new SELECT i, idempotency.new_key() FROM generate_series(1, 20000) AS i;
SELECT count(DISTINCT key), bool_and(key ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') AS version_7 FROM derive_test.new;
SELECT count(*) FROM (SELECT key <= lag(key) OVER (ORDER BY i) AS wrong FROM derive_test.new) AS w WHERE wrong;
-- "now" within two seconds: counters that are used up run ahead of the clock
SELECT bool_and(abs(extract(epoch FROM now()) * 1000 - ('x' || left(replace(key, '-', ''), 12))::bit(48)::bigint) < 2000) AS recent FROM derive_test.new;
-- the 62 bits behind are random: each of them is on in about half of the keys
SELECT count(*) AS odd_bits
FROM (SELECT bit, avg(get_bit(uuid_send(key::uuid), bit)) AS ones FROM derive_test.new, generate_series(72, 127) AS bit GROUP BY bit) AS b
WHERE ones NOT BETWEEN 0.47 AND 0.53;

SET client_min_messages = warning;
DROP SCHEMA derive_test CASCADE;
