--
-- What becomes of stored responses: retention, versions, invalidation.
--
-- Convention: each section has a scope of its own.  "do" is an operation: it
-- claims, counts its execution, and finishes with "<key> <count>".
--
\pset null '(null)'
CREATE SCHEMA response_test;
CREATE SEQUENCE response_test.executions;
CREATE FUNCTION response_test."do"(scope text, key text, tag text DEFAULT NULL, request text DEFAULT NULL, OUT outcome text, OUT response text, OUT reason text)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT c.outcome, c.response, c.reason INTO outcome, response, reason FROM idempotency.claim("do".scope, "do".key, "do".request) AS c;
    IF outcome = 'execute' THEN
        response = "do".key || ' ' || nextval('response_test.executions');
        PERFORM idempotency.finish("do".scope, "do".key, response, tag => "do".tag);
    END IF;
END $$;
CREATE FUNCTION response_test.refusal(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'ok';
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' / ', SQLSTATE, message, nullif(hint, ''));
END $$;

--
-- response_retention: the response goes, the key stays
--
SELECT retention, response_retention FROM idempotency.configure('response.retention', response_retention => '1 s');
SELECT * FROM response_test."do"('response.retention', 'a');
SELECT * FROM response_test."do"('response.retention', 'a');
SELECT state, response_bytes FROM idempotency.keys WHERE scope = 'response.retention';
SELECT FROM pg_sleep(1.1);
SELECT * FROM response_test."do"('response.retention', 'a');
SELECT outcome, response, failed, reason, attempt, finished_at IS NOT NULL AS finished FROM idempotency.claim_or_raise('response.retention', 'a');
SELECT outcome, response, reason FROM idempotency.peek('response.retention', 'a');
SELECT outcome, response, reason FROM idempotency.await('response.retention', 'a', '0');
SELECT outcome, response, reason FROM idempotency.claim_many('response.retention', '{a}');
SELECT idempotency.once('response.retention', 'a') AS done_before;
-- an operation without a response has nothing to lose, and a failure keeps its error
BEGIN;
SELECT outcome FROM idempotency.claim('response.retention', 'none');
SELECT idempotency.finish('response.retention', 'none') > now() AS finished;
SELECT outcome FROM idempotency.claim('response.retention', 'failed');
SELECT outcome FROM idempotency.fail('response.retention', 'failed', 'declined', retryable => false);
COMMIT;
SELECT FROM pg_sleep(1.1);
SELECT key, outcome, response, failed, error, reason FROM idempotency.claim_many('response.retention', '{failed,none}');
-- the policy of now decides
SELECT response_retention FROM idempotency.configure('response.retention', response_retention => 'infinity');
SELECT * FROM response_test."do"('response.retention', 'a');

--
-- store_response => false: an acknowledgement from the beginning
--
SELECT store_response FROM idempotency.configure('response.none', store_response => false);
SELECT * FROM response_test."do"('response.none', 'a');
SELECT * FROM response_test."do"('response.none', 'a');
SELECT outcome, response, reason FROM idempotency.peek('response.none', 'a');
SELECT outcome, response, reason FROM idempotency.run('response.none', 'run', 'SELECT 1 AS one');
SELECT outcome, response, reason FROM idempotency.run('response.none', 'run', 'SELECT 1 AS one');
SELECT key, state, response_bytes FROM idempotency.keys WHERE scope = 'response.none' ORDER BY key;
-- none was given
BEGIN;
SELECT outcome FROM idempotency.claim('response.none', 'none');
SELECT idempotency.finish('response.none', 'none') > now() AS finished;
COMMIT;
SELECT outcome, response, reason FROM idempotency.claim('response.none', 'none');
-- leased: the same call again is taken for the same response
SELECT fence FROM idempotency.claim('response.none', 'leased', lease => '1 min') \gset
SELECT idempotency.finish('response.none', 'leased', 'r', :fence) = idempotency.finish('response.none', 'leased', 'r', :fence) AS again;
\set VERBOSITY sqlstate
SELECT idempotency.finish('response.none', 'leased', fence => :fence);
\set VERBOSITY default
SELECT outcome, response, reason FROM idempotency.claim('response.none', 'leased');
-- resolved by an operator
SELECT on_lease_expiry FROM idempotency.configure('response.none', on_lease_expiry => 'indeterminate');
SELECT outcome FROM idempotency.claim('response.none', 'resolved', lease => '1 ms');
SELECT FROM pg_sleep(0.01);
SELECT idempotency.resolve('response.none', 'resolved', 'succeeded', 'r', 'test');
SELECT outcome, response, reason FROM idempotency.claim('response.none', 'resolved');
-- what is too large is refused, stored or not
SELECT max_response_bytes FROM idempotency.configure('response.none', max_response_bytes => 3);
BEGIN;
SELECT outcome FROM idempotency.claim('response.none', 'large');
SAVEPOINT s;
SELECT idempotency.finish('response.none', 'large', 'four');
ROLLBACK TO s;
SELECT idempotency.finish('response.none', 'large', 'two') > now() AS finished;
COMMIT;

--
-- Large responses compress and go out of line, and come back byte for byte
--
BEGIN;
SELECT outcome FROM idempotency.claim('response.large', 'alike');
SELECT idempotency.finish('response.large', 'alike', repeat('0123456789', 100000)) > now() AS finished;
SELECT outcome FROM idempotency.claim('response.large', 'random');
SELECT idempotency.finish('response.large', 'random', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 10000) AS i)) > now() AS finished;
COMMIT;
SELECT response = repeat('0123456789', 100000) AS same FROM idempotency.claim('response.large', 'alike');
SELECT response = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 10000) AS i) AS same FROM idempotency.claim('response.large', 'random');
SELECT key, octet_length(response) AS bytes, pg_column_size(response) < octet_length(response) / 50 AS compressed FROM idempotency.key_day_0
WHERE scope = 'response.large'
UNION ALL SELECT key, octet_length(response), pg_column_size(response) < octet_length(response) / 50 FROM idempotency.key_day_1 WHERE scope = 'response.large'
UNION ALL SELECT key, octet_length(response), pg_column_size(response) < octet_length(response) / 50 FROM idempotency.key_day_2 WHERE scope = 'response.large'
UNION ALL SELECT key, octet_length(response), pg_column_size(response) < octet_length(response) / 50 FROM idempotency.key_day_3 WHERE scope = 'response.large'
ORDER BY key;

--
-- Versions
--
SELECT response_version, on_stale_version FROM idempotency.configure('response.version', response_version => 1);
SELECT * FROM response_test."do"('response.version', 'a');
SELECT idempotency.once('response.version', 'gate') AS first_time;
SELECT response_version FROM idempotency.configure('response.version', response_version => 2);
SELECT * FROM response_test."do"('response.version', 'a');
SELECT outcome, response, reason FROM idempotency.peek('response.version', 'a');
-- older than the policy counts, not newer; what was stored before has version 0
SELECT response_version FROM idempotency.configure('response.version', response_version => 0);
SELECT * FROM response_test."do"('response.version', 'a');
SELECT * FROM response_test."do"('response.version', 'zero');
SELECT response_version, on_stale_version FROM idempotency.configure('response.version', response_version => 1, on_stale_version => 'execute');
SELECT * FROM response_test."do"('response.version', 'a');
SELECT * FROM response_test."do"('response.version', 'zero');
SELECT * FROM response_test."do"('response.version', 'zero');
SELECT response_version FROM idempotency.configure('response.version', response_version => 2);
SELECT outcome, response, reason FROM idempotency.peek('response.version', 'a');
SELECT * FROM response_test."do"('response.version', 'a');
SELECT * FROM response_test."do"('response.version', 'a');
-- what has no response has no version
SELECT idempotency.once('response.version', 'gate') AS first_time;
-- a policy that stores none no more
SELECT response_version, store_response FROM idempotency.configure('response.version', response_version => 3, store_response => false);
SELECT * FROM response_test."do"('response.version', 'a');
SELECT * FROM response_test."do"('response.version', 'a');
SELECT response_version FROM idempotency.configure('response.version', response_version => 4);
SELECT * FROM response_test."do"('response.version', 'a');

--
-- Invalidation
--
SELECT on_invalidated FROM idempotency.policy('response.tag');
SELECT idempotency.invalidate('response.tag', 'never used', 'test') > 0 AS generation;
SELECT key, d.* FROM unnest('{a,b,c}'::text[]) AS key, response_test."do"('response.tag', key, CASE key WHEN 'c' THEN 'other' ELSE 'tag' END) AS d;
SELECT key, d.* FROM unnest('{a,b,c}'::text[]) AS key, response_test."do"('response.tag', key, CASE key WHEN 'c' THEN 'other' ELSE 'tag' END) AS d;
SELECT idempotency.invalidate('response.tag', 'tag', 'the price has changed') > 0 AS generation;
SELECT scope, tag, reason, role = current_user AS by_me FROM idempotency.tag_generation WHERE scope LIKE 'response.%' ORDER BY tag;
SELECT outcome, response, reason FROM idempotency.peek('response.tag', 'a');
SELECT key, d.* FROM unnest('{a,b,c}'::text[]) AS key, response_test."do"('response.tag', key, CASE key WHEN 'c' THEN 'other' ELSE 'tag' END) AS d;
SELECT key, d.* FROM unnest('{a,b,c}'::text[]) AS key, response_test."do"('response.tag', key, CASE key WHEN 'c' THEN 'other' ELSE 'tag' END) AS d;
-- once more, and again
SELECT count(DISTINCT idempotency.invalidate('response.tag', 'tag', 'test')) FROM generate_series(1, 3);
SELECT * FROM response_test."do"('response.tag', 'a', 'tag');
SELECT * FROM response_test."do"('response.tag', 'a', 'tag');
-- of this scope only
SELECT * FROM response_test."do"('response.tag2', 'a', 'tag');
SELECT idempotency.invalidate('response.tag', 'tag', 'test') > 0 AS generation;
SELECT * FROM response_test."do"('response.tag2', 'a', 'tag');
-- it rolls back
BEGIN;
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome, reason FROM idempotency.peek('response.tag2', 'a');
SAVEPOINT s;
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
ROLLBACK TO s;
SELECT outcome, reason FROM idempotency.peek('response.tag2', 'a');
ROLLBACK;
SELECT * FROM response_test."do"('response.tag2', 'a', 'tag');
BEGIN;
SAVEPOINT s;
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome, reason FROM idempotency.peek('response.tag2', 'a');
ROLLBACK TO s;
SELECT outcome, reason FROM idempotency.peek('response.tag2', 'a');
COMMIT;
SELECT * FROM response_test."do"('response.tag2', 'a', 'tag');
-- so does what was executed again
BEGIN;
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome FROM response_test."do"('response.tag2', 'a', 'tag');
ROLLBACK;
SELECT * FROM response_test."do"('response.tag2', 'a', 'tag');
-- a finish after it, in one transaction, is of after it
BEGIN;
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome FROM response_test."do"('response.tag2', 'a', 'tag');
SELECT outcome FROM response_test."do"('response.tag2', 'a', 'tag');
COMMIT;
SELECT outcome FROM response_test."do"('response.tag2', 'a', 'tag');
-- a finish before it is gone, and can be executed again at once
BEGIN;
SELECT outcome FROM response_test."do"('response.tag2', 'b', 'tag');
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome FROM response_test."do"('response.tag2', 'b', 'tag');
COMMIT;
SELECT outcome FROM response_test."do"('response.tag2', 'b', 'tag');
-- another request under the key is still another request
SELECT outcome FROM response_test."do"('response.tag2', 'request', 'tag', '{"a": 1}');
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome FROM response_test."do"('response.tag2', 'request', 'tag', '{"a": 2}');
SELECT outcome FROM response_test."do"('response.tag2', 'request', 'tag', '{"a": 1}');
-- also after an execution that brought none
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome FROM response_test."do"('response.tag2', 'request', 'tag');
SELECT outcome FROM response_test."do"('response.tag2', 'request', 'tag', '{"a": 2}');
SELECT outcome FROM response_test."do"('response.tag2', 'request', 'tag', '{"a": 1}');
-- given up, the row stands as it stood
BEGIN;
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome, attempt FROM idempotency.claim('response.tag2', 'request');
SELECT idempotency.release('response.tag2', 'request');
SELECT outcome, reason FROM idempotency.peek('response.tag2', 'request');
SELECT outcome FROM idempotency.claim('response.tag2', 'request', '{"a": 2}');
COMMIT;
-- leased
SELECT fence FROM idempotency.claim('response.tag2', 'leased', lease => '1 min') \gset
SELECT idempotency.finish('response.tag2', 'leased', 'r', :fence, tag => 'tag') > now() AS finished;
SELECT outcome, response FROM idempotency.claim('response.tag2', 'leased', lease => '1 min');
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome, attempt, fence > :fence AS next_fence, fence FROM idempotency.claim('response.tag2', 'leased', lease => '1 min') \gset
SELECT :'outcome' AS outcome, :attempt AS attempt, :'next_fence' AS next_fence;
SELECT idempotency.finish('response.tag2', 'leased', 'r2', :fence, tag => 'tag') > now() AS finished;
SELECT outcome, response FROM idempotency.claim('response.tag2', 'leased');
-- a gate opens again, and a tag needs no response
BEGIN;
SELECT outcome FROM idempotency.claim('response.tag2', 'gate');
SELECT idempotency.finish('response.tag2', 'gate', tag => 'tag') > now() AS finished;
COMMIT;
SELECT idempotency.once('response.tag2', 'gate') AS again;
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT idempotency.once('response.tag2', 'gate') AS again;
SELECT idempotency.once('response.tag2', 'gate') AS again;
-- run() tags, too
SELECT outcome FROM idempotency.run('response.tag2', 'run', 'SELECT 1', tag => 'tag');
SELECT outcome FROM idempotency.run('response.tag2', 'run', 'SELECT 1', tag => 'tag');
SELECT idempotency.invalidate('response.tag2', 'tag', 'test') > 0 AS generation;
SELECT outcome FROM idempotency.run('response.tag2', 'run', 'SELECT 1', tag => 'tag');
-- by policy an acknowledgement
SELECT on_invalidated FROM idempotency.configure('response.tag3', on_invalidated => 'acknowledge');
SELECT * FROM response_test."do"('response.tag3', 'a', 'tag');
SELECT idempotency.invalidate('response.tag3', 'tag', 'test') > 0 AS generation;
SELECT * FROM response_test."do"('response.tag3', 'a', 'tag');
SELECT outcome, response, reason FROM idempotency.claim_many('response.tag3', '{a}');
SELECT on_invalidated FROM idempotency.configure('response.tag3', on_invalidated => 'execute');
SELECT outcome, reason FROM response_test."do"('response.tag3', 'a', 'tag');
-- at REPEATABLE READ, too
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT outcome, reason FROM response_test."do"('response.tag3', 'a', 'tag');
SELECT idempotency.invalidate('response.tag3', 'tag', 'test') > 0 AS generation;
SELECT outcome, reason FROM response_test."do"('response.tag3', 'a', 'tag');
SELECT outcome, reason FROM response_test."do"('response.tag3', 'a', 'tag');
COMMIT;

--
-- The first request of an operation that is remembered no more
--
SELECT retention FROM idempotency.configure('response.window', retention => '1 s');
SELECT outcome FROM idempotency.run('response.window', 'a', 'SELECT 1');
SELECT FROM pg_sleep(1.1);
SELECT outcome FROM idempotency.claim('response.window', 'a', first_sent => now() - interval '1 s');

--
-- Bad input
--
SELECT command, response_test.refusal(command)
FROM (VALUES (1, $$SELECT idempotency.configure('response.bad', response_version => -1)$$),
             (2, $$SELECT idempotency.configure('response.bad', response_version => 2147483648)$$),
             (3, $$SELECT idempotency.configure('response.bad', response_retention => '0')$$),
             (4, $$SELECT idempotency.configure('response.bad', response_retention => '61 days')$$),
             (5, $$SELECT idempotency.configure('response.bad', on_stale_version => 'EXECUTE')$$),
             (6, $$SELECT idempotency.configure('response.bad', on_invalidated => '')$$),
             (10, $$SELECT idempotency.invalidate(NULL, 'tag', 'test')$$),
             (11, $$SELECT idempotency.invalidate('', 'tag', 'test')$$),
             (12, $$SELECT idempotency.invalidate('response.bad', NULL, 'test')$$),
             (13, $$SELECT idempotency.invalidate('response.bad', '', 'test')$$),
             (14, $$SELECT idempotency.invalidate('response.bad', 'tag', NULL)$$),
             (15, $$SELECT idempotency.invalidate('response.bad', 'tag', '')$$),
             (16, $$SELECT idempotency.invalidate('response.bad', 'tag', repeat('r', 1025))$$),
             (17, $$SELECT idempotency.invalidate('response.bad', repeat('t', 129), 'test')$$),
             (18, $$SELECT idempotency.invalidate('response.bad', repeat('t', 128), repeat('r', 1024))$$),
             (20, $$SELECT idempotency.finish('response.bad', 'key', 'r', tag => '')$$),
             (21, $$SELECT idempotency.finish('response.bad', 'key', 'r', tag => repeat('t', 129))$$),
             (22, $$SELECT idempotency.run('response.bad', 'key', 'SELECT 1', tag => repeat('t', 129))$$),
             (23, $$SELECT idempotency.run('response.bad', 'key', 'SELECT 1', tag => '')$$)) AS v(n, command)
ORDER BY n;
BEGIN READ ONLY;
\set VERBOSITY sqlstate
SELECT idempotency.invalidate('response.bad', 'tag', 'test');
\set VERBOSITY default
ROLLBACK;

--
-- Who may: with EXECUTE, in scopes that aren't another role's.  The caller has
-- no right on the table, and what he has made doesn't take part.
--
CREATE ROLE regress_idempotency_response;
GRANT USAGE, CREATE ON SCHEMA response_test TO regress_idempotency_response;
SELECT role FROM idempotency.configure('response.reserved', role => 'pg_monitor');
SET ROLE regress_idempotency_response;
\set VERBOSITY sqlstate
SELECT idempotency.invalidate('response.tag', 'tag', 'test');
RESET ROLE;
GRANT EXECUTE ON FUNCTION idempotency.invalidate TO regress_idempotency_response;
SET ROLE regress_idempotency_response;
SELECT idempotency.invalidate('response.reserved', 'tag', 'test');
\set VERBOSITY default
CREATE FUNCTION response_test.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'captured'; END $$;
CREATE TABLE response_test.tag_generation (scope text, tag text);
SET search_path = response_test, pg_catalog;
SELECT pg_catalog.count(DISTINCT idempotency.invalidate('response.role', 'tag', 'test')) FROM pg_catalog.generate_series(1, 2);
SELECT current_user = 'regress_idempotency_response' AS still_me, pg_catalog.current_setting('search_path') AS path;
RESET search_path;
RESET ROLE;
SELECT role FROM idempotency.tag_generation WHERE scope = 'response.role';
DROP OWNED BY regress_idempotency_response;
DROP ROLE regress_idempotency_response;
SELECT role FROM idempotency.configure('response.reserved', role => '');

SET client_min_messages = warning;
DROP SCHEMA response_test CASCADE;
