--
-- Reading: peek() and await().  (What another transaction is doing is under
-- test/specs.)
--
-- Convention: each section has a scope of its own; filled() names the columns
-- of an answer that are not null.
--
\pset null '(null)'
CREATE SCHEMA lookup_test;
CREATE FUNCTION lookup_test.filled(answer json) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(name, ' ') FROM json_object_keys(json_strip_nulls(answer)) AS name $$;

--
-- Every state that a key can be in
--
SELECT max_attempts FROM idempotency.configure('lookup.exhausted', max_attempts => 1);
BEGIN;
SELECT count(*) FROM idempotency.claim_many('lookup.state', '{done,nothing,failed,later,now}', '{"{\"a\": 1}",x,x,x,x}');
SELECT idempotency.finish('lookup.state', 'done', '{"b":1, "a" : 1.0}') > now() AS finished;
SELECT idempotency.finish('lookup.state', 'nothing') > now() AS finished;
SELECT outcome FROM idempotency.fail('lookup.state', 'failed', 'e', retryable => false);
SELECT outcome FROM idempotency.fail('lookup.state', 'later', 'e', retry_after_ms => 3600000);
SELECT outcome FROM idempotency.fail('lookup.state', 'now', 'e', retry_after_ms => 0);
SELECT outcome FROM idempotency.claim('lookup.exhausted', 'key');
SELECT outcome FROM idempotency.fail('lookup.exhausted', 'key', 'e');
COMMIT;
CREATE VIEW lookup_test.state AS
SELECT scope, key
FROM (VALUES ('lookup.state', 'done'), ('lookup.state', 'nothing'), ('lookup.state', 'failed'), ('lookup.state', 'later'), ('lookup.state', 'now'),
             ('lookup.exhausted', 'key'), ('lookup.state', 'unknown'), ('lookup.unknown', 'done')) AS v(scope, key);
SELECT s.*, outcome, response, failed, error, attempt, reason FROM lookup_test.state AS s, idempotency.peek(scope, key);
SELECT s.*, lookup_test.filled(to_json(p)) FROM lookup_test.state AS s, idempotency.peek(scope, key) AS p;
SELECT outcome, retry_after_ms BETWEEN 3500000 AND 3600000 AS in_an_hour FROM idempotency.peek('lookup.state', 'later');
SELECT outcome, retry_after_ms FROM idempotency.peek('lookup.state', 'now');
SELECT fingerprint = idempotency.fingerprint('{"a":1}') AS same FROM idempotency.peek('lookup.state', 'done');
-- it says what claim() answers, and await() the same
SELECT s.*, c.outcome
FROM lookup_test.state AS s, idempotency.peek(scope, key) AS p, idempotency.claim(scope, key) AS c
WHERE key NOT IN ('now', 'unknown')
AND (c.response, c.failed, c.error, c.attempt, c.claimed_at, c.finished_at, c.expires_at)
    IS NOT DISTINCT FROM (p.response, p.failed, p.error, p.attempt, p.claimed_at, p.finished_at, p.expires_at);
SELECT s.*, a.outcome
FROM lookup_test.state AS s, idempotency.peek(scope, key) AS p, idempotency.await(scope, key, '0') AS a
WHERE (a.outcome, a.response, a.failed, a.error, a.attempt, a.claimed_at, a.finished_at, a.expires_at, a.fingerprint)
      IS NOT DISTINCT FROM (p.outcome, p.response, p.failed, p.error, p.attempt, p.claimed_at, p.finished_at, p.expires_at, p.fingerprint);
-- another principal's key is another key
SELECT outcome FROM idempotency.peek('lookup.state', 'done', 'p');
SELECT outcome FROM idempotency.peek('lookup.state', 'done', NULL);
SELECT outcome FROM idempotency.await('lookup.state', 'done', '0', 'p');

--
-- In the transaction that claims
--
BEGIN;
SELECT outcome FROM idempotency.claim('lookup.own', 'key', 'x');
SELECT outcome, reason, attempt, lookup_test.filled(to_json(p)) FROM idempotency.peek('lookup.own', 'key') AS p;
SELECT outcome, reason FROM idempotency.await('lookup.own', 'key', '1 ms');
SAVEPOINT s;
SELECT idempotency.finish('lookup.own', 'key', 'r') > now() AS finished;
SELECT outcome, response FROM idempotency.peek('lookup.own', 'key');
SELECT outcome, response FROM idempotency.await('lookup.own', 'key', '1 min');
ROLLBACK TO s;
SELECT outcome, reason FROM idempotency.peek('lookup.own', 'key');
SELECT idempotency.release('lookup.own', 'key');
SELECT outcome FROM idempotency.peek('lookup.own', 'key');
SELECT outcome FROM idempotency.claim('lookup.own', 'key', 'x');
SELECT outcome FROM idempotency.fail('lookup.own', 'key', 'e', retry_after_ms => 60000);
SELECT outcome, reason, error FROM idempotency.peek('lookup.own', 'key');
ROLLBACK;
SELECT outcome FROM idempotency.peek('lookup.own', 'key');

--
-- A read-only transaction is enough, and nothing is written
--
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
BEGIN READ ONLY;
SELECT outcome, response FROM idempotency.peek('lookup.state', 'done');
SELECT outcome, response FROM idempotency.await('lookup.state', 'done');
SELECT outcome FROM idempotency.peek('lookup.state', 'unknown');
SELECT outcome FROM idempotency.await('lookup.state', 'unknown', '1 ms');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT outcome, response FROM idempotency.peek('lookup.state', 'done');
COMMIT;
-- a replay writes nothing either
BEGIN;
SELECT outcome, response FROM idempotency.claim('lookup.state', 'done', '{"a": 1}');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
COMMIT;

--
-- At REPEATABLE READ peek() sees what the transaction sees
--
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT outcome FROM idempotency.claim('lookup.repeatable', 'key');
SELECT outcome, reason FROM idempotency.peek('lookup.repeatable', 'key');
SELECT idempotency.finish('lookup.repeatable', 'key', 'r') > now() AS finished;
SELECT outcome, response FROM idempotency.peek('lookup.repeatable', 'key');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT outcome, response FROM idempotency.peek('lookup.repeatable', 'key');
SELECT outcome, response FROM idempotency.claim('lookup.repeatable', 'key');
SELECT outcome, response FROM idempotency.await('lookup.repeatable', 'key');
COMMIT;

--
-- await(): as long as it takes, up to the timeout
--
CREATE FUNCTION lookup_test.await(key text, timeout interval, OUT outcome text, OUT in_time bool, OUT at_once bool) LANGUAGE plpgsql AS $$
DECLARE
    start timestamptz := clock_timestamp();
BEGIN
    SELECT a.outcome INTO outcome FROM idempotency.await('lookup.state', await.key, await.timeout) AS a;
    in_time := clock_timestamp() - start >= await.timeout;
    at_once := clock_timestamp() - start < interval '10 s';
END $$;
-- settled, also with an error: at once
SELECT key, a.outcome, at_once FROM unnest(ARRAY['done', 'nothing', 'failed']) AS key, lookup_test.await(key, '1 min') AS a;
-- not settled, or unknown: when the time is over
SELECT key, a.outcome, in_time FROM unnest(ARRAY['later', 'now', 'unknown']) AS key, lookup_test.await(key, '150 ms') AS a;
SELECT key, a.outcome, at_once FROM unnest(ARRAY['later', 'now', 'unknown']) AS key, lookup_test.await(key, '0') AS a;
-- it can be interrupted
SET statement_timeout = '100 ms';
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.await('lookup.state', 'unknown', '1 min');
\set VERBOSITY default
RESET statement_timeout;

--
-- What has expired is not remembered, though it is still there
--
BEGIN;
SELECT outcome FROM idempotency.claim('lookup.expired', 'key', retention => '1 s');
SELECT idempotency.finish('lookup.expired', 'key', 'r') > now() AS finished;
COMMIT;
SELECT pg_sleep(1.1);
SELECT outcome FROM idempotency.peek('lookup.expired', 'key');
SELECT outcome FROM idempotency.await('lookup.expired', 'key', '0');
SELECT key, state, expired FROM idempotency.keys WHERE scope = 'lookup.expired';

--
-- Arguments
--
SELECT outcome FROM idempotency.peek(NULL, 'key');
SELECT outcome FROM idempotency.peek('lookup.state', NULL);
SELECT outcome FROM idempotency.peek('lookup.state', '');
SELECT outcome FROM idempotency.await('lookup.state', 'key', NULL);
SELECT outcome FROM idempotency.await('lookup.state', 'key', '-1 ms');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.peek('', 'key');
SELECT outcome FROM idempotency.peek('lookup.state', repeat('k', 1025));
SELECT outcome FROM idempotency.peek('lookup.state', 'key', repeat('p', 129));
SELECT outcome FROM idempotency.await(NULL, 'key', '0');
SELECT outcome FROM idempotency.await('lookup.state', NULL, '0');
SELECT outcome FROM idempotency.await('lookup.state', 'key', NULL);
SELECT outcome FROM idempotency.await('lookup.state', 'key', '-1 ms');
SELECT outcome FROM idempotency.await('lookup.state', 'key', '1 h 1 us');
SELECT outcome FROM idempotency.await('lookup.state', 'key', '178000000 years');
\set VERBOSITY default
-- the bound is a setting
SET idempotency.max_wait = '20 ms';
SELECT outcome FROM idempotency.await('lookup.state', 'done', '20 ms');
SELECT outcome FROM idempotency.await('lookup.state', 'done', '21 ms');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('lookup.state', 'done', wait => '21 ms');
SELECT wait FROM idempotency.configure('lookup.state', wait => '21 ms');
\set VERBOSITY default
RESET idempotency.max_wait;

SET client_min_messages = warning;
DROP SCHEMA lookup_test CASCADE;
