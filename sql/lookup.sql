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
-- Leased claims: what claim() would tell a duplicate, and how far they are.  The
-- fence is the holder's only.
--
SELECT on_lease_expiry FROM idempotency.configure('lookup.indeterminate', on_lease_expiry => 'indeterminate');
SELECT on_lease_expiry FROM idempotency.configure('lookup.forget', on_lease_expiry => 'forget');
CREATE VIEW lookup_test.leased AS
SELECT scope, key FROM (VALUES ('lookup.leased', 'live'), ('lookup.leased', 'over'), ('lookup.indeterminate', 'over'), ('lookup.forget', 'over'), ('lookup.exhausted', 'over')) AS v(scope, key);
SELECT s.*, outcome, idempotency.checkpoint(scope, key, fence, 'charged', '{"n": 1}')
FROM lookup_test.leased AS s, idempotency.claim(scope, key, 'x', lease => CASE key WHEN 'live' THEN interval '30 min' ELSE '1 ms' END, owner => 'me') AS c;
SELECT pg_sleep(0.01);
BEGIN READ ONLY;
SELECT s.*, outcome, failed, attempt, recovery_point, state, reason, retry_after_ms > 0 AS wait, fence, fingerprint = idempotency.fingerprint('x') AS same
FROM lookup_test.leased AS s LEFT JOIN LATERAL idempotency.peek(scope, key) ON true;
SELECT s.*, lookup_test.filled(to_json(p)) FROM lookup_test.leased AS s, idempotency.peek(scope, key) AS p;
SELECT outcome, retry_after_ms BETWEEN 1700000 AND 1800000 AS rest_of_lease, lease_until - claimed_at AS lease, expires_at - lease_until AS retention FROM idempotency.peek('lookup.leased', 'live');
-- await() waits while it is running, or to be taken over, or to be resolved
SELECT s.*, a.outcome, a.recovery_point, a.state, a.reason FROM lookup_test.leased AS s LEFT JOIN LATERAL idempotency.await(scope, key, '20 ms') AS a ON true;
SELECT a.outcome FROM idempotency.await('lookup.exhausted', 'over', '1 h') AS a;
-- activity shows all that nobody has settled
SELECT scope, key, role = current_user AS role, application, attempt, lease_until - claimed_at AS lease, lease_left_ms > 0 AS live, lease_left_ms BETWEEN -600000 AND 1800000 AS plausible, recovery_point, fence > 0 AS fenced
FROM idempotency.activity WHERE scope LIKE 'lookup.%' ORDER BY scope, key;
SELECT scope, key, state, attempt, lease_until - claimed_at AS lease, expires_at - lease_until AS retention, finished_at, fence > 0 AS fenced
FROM idempotency.keys WHERE (scope, key) IN (TABLE lookup_test.leased) ORDER BY scope, key;
COMMIT;
-- what is settled is not active, but keeps its fence
SELECT idempotency.finish(scope, key, 'r', fence) > now() AS finished, idempotency.finish(scope, key, 'r', fence) > now() AS again
FROM idempotency.keys WHERE scope = 'lookup.leased' AND key = 'live';
SELECT key FROM idempotency.activity WHERE scope = 'lookup.leased';
SELECT outcome, response, recovery_point, state, lookup_test.filled(to_json(p)) FROM idempotency.peek('lookup.leased', 'live') AS p;
SELECT outcome, response FROM idempotency.await('lookup.leased', 'live', '1 min');
SELECT state, lease_until, fence > 0 AS fenced FROM idempotency.keys WHERE scope = 'lookup.leased' AND key = 'live';
-- one that has failed and may be tried again
SELECT idempotency.fail(scope, key, 'e', fence => fence, retry_after_ms => 0) AS failed FROM idempotency.keys WHERE scope = 'lookup.leased' AND key = 'over';
SELECT outcome, error, attempt, recovery_point, state, reason FROM idempotency.peek('lookup.leased', 'over');
-- in the transaction that claims, and at REPEATABLE READ
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT outcome, idempotency.checkpoint('lookup.leased', 'own', fence, 'charged') FROM idempotency.claim('lookup.leased', 'own', lease => '30 min');
SELECT outcome, reason, attempt, recovery_point, fence FROM idempotency.peek('lookup.leased', 'own');
SELECT outcome, reason, fence FROM idempotency.await('lookup.leased', 'own', '1 ms');
SELECT outcome, attempt FROM idempotency.claim('lookup.leased', 'over', lease => '30 min');
SELECT outcome, reason, attempt FROM idempotency.peek('lookup.leased', 'over');
ROLLBACK;
SELECT outcome FROM idempotency.peek('lookup.leased', 'own');

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
