--
-- What an operator may do to a key that isn't his: forget() and resolve().
--
-- Convention: each section has a scope of its own; times and fences are never
-- printed.  A lease that is to be over is of 1 ms, one that is to live of 30 min.
--
\pset null '(null)'
CREATE SCHEMA operator_test;
-- a key's row as it is stored, with the place where it lies
CREATE FUNCTION operator_test.stored(wanted_scope text, wanted_key text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    segment text;
    result jsonb;
BEGIN
    SELECT k.segment INTO STRICT segment FROM idempotency.keys AS k WHERE k.scope = wanted_scope AND k.key = wanted_key;
    EXECUTE format('SELECT to_jsonb(s) || jsonb_build_object(''place'', concat_ws('' '', s.tableoid, s.ctid, s.xmin)) FROM idempotency.%I AS s WHERE scope = $1 AND key = $2', segment)
    INTO STRICT result USING wanted_scope, wanted_key;
    RETURN result;
END $$;
-- a function's answer or SQLSTATE, and whether it has left the row as it was, in
-- its place
CREATE FUNCTION operator_test.attempt(wanted_scope text, wanted_key text, command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := operator_test.stored(wanted_scope, wanted_key);
    result text;
BEGIN
    BEGIN
        EXECUTE 'SELECT idempotency.' || command INTO result;
    EXCEPTION WHEN others THEN
        result := sqlstate;
    END;
    RETURN result || CASE WHEN before = operator_test.stored(wanted_scope, wanted_key) THEN ', row unchanged' ELSE ', row changed' END;
END $$;
-- a lease that is over, at a recovery point
CREATE FUNCTION operator_test.abandon(scope text, key text, request text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    result bigint;
BEGIN
    SELECT fence INTO STRICT result FROM idempotency.claim(abandon.scope, abandon.key, abandon.request, '1 ms', owner => 'me', state => 's');
    PERFORM idempotency.checkpoint(abandon.scope, abandon.key, result, 'charged');
    PERFORM pg_sleep(0.002);
    RETURN result;
END $$;

--
-- forget: an operator's decision, with a reason
--
SELECT idempotency.forget('operator.forget', 'key', NULL);
SELECT idempotency.forget('operator.forget', 'key', '');
SELECT idempotency.forget('operator.forget', 'key', repeat('r', 1025));
SELECT idempotency.forget('operator.forget', 'key', repeat('r', 1024));
BEGIN;
SELECT outcome FROM idempotency.claim('operator.forget', 'key', 'x');
SAVEPOINT s;
SELECT idempotency.forget('operator.forget', 'key', 'test');
ROLLBACK TO s;
SELECT idempotency.finish('operator.forget', 'key', 'r1') > now() AS finished;
COMMIT;
-- a fence names a row that isn't here
SELECT idempotency.forget('operator.forget', 'key', 'test', 1);
SELECT idempotency.forget('operator.forget', 'key', 'test', 0);
SELECT idempotency.forget('operator.forget', 'key', 'test', principal => 'other');
BEGIN;
SELECT idempotency.forget('operator.forget', 'key', 'test');
ROLLBACK;
SELECT response FROM idempotency.claim('operator.forget', 'key', 'x');
SELECT idempotency.forget('operator.forget', 'key', 'test');
SELECT idempotency.forget('operator.forget', 'key', 'test');
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('operator.forget', 'key', 'another request');
SELECT idempotency.finish('operator.forget', 'key', 'r2') > now() AS finished;
SELECT idempotency.forget('operator.forget', 'key', 'test');
SELECT outcome, attempt FROM idempotency.claim('operator.forget', 'key', 'one more');
SELECT idempotency.finish('operator.forget', 'key', 'r3') > now() AS finished;
COMMIT;
SELECT response FROM idempotency.claim('operator.forget', 'key', 'one more');
-- of a failure, an exhausted key, a retry
BEGIN;
SELECT outcome FROM idempotency.claim('operator.forget', 'failed');
SELECT outcome FROM idempotency.fail('operator.forget', 'failed', retryable => false);
SELECT outcome FROM idempotency.claim('operator.forget', 'retry');
SELECT outcome FROM idempotency.fail('operator.forget', 'retry', retry_after_ms => 3600000);
COMMIT;
SELECT key, idempotency.forget('operator.forget', key, 'test') FROM unnest(ARRAY['failed', 'retry']) AS key;
BEGIN;
SELECT key, outcome, attempt FROM unnest(ARRAY['failed', 'retry']) AS key, idempotency.claim('operator.forget', key);
ROLLBACK;
\set VERBOSITY sqlstate
SELECT idempotency.forget('operator.forget', 'key', NULL);
BEGIN;
SELECT outcome FROM idempotency.claim('operator.forget', 'own');
SELECT idempotency.forget('operator.forget', 'own', 'test');
ROLLBACK;
SELECT idempotency.forget('operator.forget', 'key', repeat('r', 1025));
\set VERBOSITY default

--
-- forget: a leased claim, once its lease is over
--
SELECT fence FROM idempotency.claim('operator.leased', 'live', 'x', lease => '30 min') \gset
SELECT idempotency.forget('operator.leased', 'live', 'test');
SELECT operator_test.attempt('operator.leased', 'live', $$forget('operator.leased', 'live', 'test')$$) AS any_fence,
       operator_test.attempt('operator.leased', 'live', format($$forget('operator.leased', 'live', 'test', %s)$$, :fence)) AS its_fence,
       operator_test.attempt('operator.leased', 'live', format($$forget('operator.leased', 'live', 'test', %s)$$, :fence - 1)) AS another;
BEGIN;
SELECT outcome FROM idempotency.claim('operator.leased', 'own', lease => '30 min');
SELECT operator_test.attempt('operator.leased', 'own', $$forget('operator.leased', 'own', 'test')$$);
ROLLBACK;
-- one that is over, with a fence: only if the row carries it
SELECT operator_test.abandon('operator.leased', 'over', 'x') AS first \gset
SELECT operator_test.abandon('operator.leased', 'over', 'x') AS second \gset
SELECT operator_test.attempt('operator.leased', 'over', format($$forget('operator.leased', 'over', 'test', %s)$$, fence))
FROM unnest(ARRAY[0, 1, -1, :first, :second + 1, -:second, 9223372036854775807, -9223372036854775807]) AS fence;
SELECT idempotency.forget('operator.leased', 'over', 'test', :second);
SELECT idempotency.forget('operator.leased', 'over', 'test', :second);
-- its holder has nothing left to settle, and the next one begins anew
SELECT idempotency.finish('operator.leased', 'over', 'r', :second);
SELECT outcome, attempt, recovery_point, state, fence > :second AS new_fence FROM idempotency.claim('operator.leased', 'over', 'another', lease => '30 min');
\set VERBOSITY sqlstate
SELECT idempotency.finish('operator.leased', 'over', 'r', :second);
\set VERBOSITY default
-- settled ones carry their last fence
SELECT operator_test.abandon('operator.leased', 'settled') AS fence \gset
SELECT idempotency.finish('operator.leased', 'settled', 'r', :fence) > now() AS finished;
SELECT idempotency.forget('operator.leased', 'settled', 'test', :fence + 1), idempotency.forget('operator.leased', 'settled', 'test', :fence);
-- indeterminate ones
SELECT on_lease_expiry FROM idempotency.configure('operator.indeterminate', on_lease_expiry => 'indeterminate');
SELECT operator_test.abandon('operator.indeterminate', 'key', 'x') AS fence \gset
SELECT idempotency.forget('operator.indeterminate', 'key', 'test');
SELECT outcome, attempt FROM idempotency.claim('operator.indeterminate', 'key', 'y', lease => '30 min');
-- expired ones are nothing
SELECT outcome FROM idempotency.claim('operator.leased', 'expired', lease => '1 ms', retention => '1 s');
SELECT outcome FROM idempotency.claim('operator.resolve', 'expired', lease => '1 ms', retention => '1 s');
SELECT pg_sleep(1.1);
SELECT idempotency.forget('operator.leased', 'expired', 'test');
-- undone by a rollback
SELECT operator_test.abandon('operator.leased', 'rollback', 'x') AS fence \gset
BEGIN;
SELECT idempotency.forget('operator.leased', 'rollback', 'test');
SELECT outcome FROM idempotency.claim('operator.leased', 'rollback', 'y', lease => '30 min');
ROLLBACK;
SELECT idempotency.finish('operator.leased', 'rollback', 'r', :fence) > now() AS finished;

--
-- resolve: settles what the holder hasn't
--
-- it has happened
SELECT operator_test.abandon('operator.resolve', 'succeeded', 'x') AS fence \gset
SELECT idempotency.resolve('operator.resolve', 'succeeded', 'succeeded', '{"found": true}', 'test');
SELECT outcome, response, failed, error, attempt, recovery_point FROM idempotency.claim('operator.resolve', 'succeeded', 'x');
SELECT outcome FROM idempotency.claim('operator.resolve', 'succeeded', 'y');
SELECT state, expires_at - finished_at AS retention, lease_until, fence = :fence AS fence FROM idempotency.keys WHERE scope = 'operator.resolve' AND key = 'succeeded';
SELECT s->'recovery_point' AS recovery_point, s->'saved_state' AS state FROM operator_test.stored('operator.resolve', 'succeeded') AS s;
-- the holder is refused, unless it says the same
\set VERBOSITY sqlstate
SELECT idempotency.finish('operator.resolve', 'succeeded', 'another', :fence);
SELECT idempotency.heartbeat('operator.resolve', 'succeeded', :fence);
\set VERBOSITY default
SELECT idempotency.finish('operator.resolve', 'succeeded', '{"found": true}', :fence) > now() AS answered;
-- without a response
SELECT operator_test.abandon('operator.resolve', 'no response') > 0 AS abandoned;
SELECT idempotency.resolve('operator.resolve', 'no response', 'succeeded', reason => 'test');
SELECT outcome, response, failed FROM idempotency.claim('operator.resolve', 'no response');
-- it has not, and is not to be
SELECT operator_test.abandon('operator.resolve', 'failed') AS fence \gset
SELECT idempotency.resolve('operator.resolve', 'failed', 'failed', 'e', 'test');
SELECT outcome, response, failed, error, attempt FROM idempotency.claim('operator.resolve', 'failed');
SELECT s->>'state' AS state, s->'recovery_point' AS recovery_point, s->'saved_state' AS saved_state FROM operator_test.stored('operator.resolve', 'failed') AS s;
-- it has not, and is
SELECT operator_test.abandon('operator.resolve', 'retry', 'x') AS fence \gset
SELECT idempotency.resolve('operator.resolve', 'retry', 'retry', 'lost', 'test');
SELECT outcome, error, attempt, retry_after_ms FROM idempotency.peek('operator.resolve', 'retry');
SELECT state, expires_at - finished_at AS retention FROM idempotency.keys WHERE scope = 'operator.resolve' AND key = 'retry';
\set VERBOSITY sqlstate
SELECT idempotency.finish('operator.resolve', 'retry', 'r', :fence);
SELECT idempotency.release('operator.resolve', 'retry', :fence);
\set VERBOSITY default
-- once more: nothing is settled yet
SELECT idempotency.resolve('operator.resolve', 'retry', 'retry', reason => 'test');
SELECT error FROM idempotency.peek('operator.resolve', 'retry');
SELECT outcome, attempt, recovery_point, state, fence > :fence AS new_fence FROM idempotency.claim('operator.resolve', 'retry', 'x', lease => '30 min');
-- used-up attempts: one more, or the end
SELECT max_attempts FROM idempotency.configure('operator.exhausted', max_attempts => 1);
SELECT key, operator_test.abandon('operator.exhausted', key) > 0 AS abandoned FROM unnest(ARRAY['succeeded', 'failed', 'retry']) AS key;
SELECT outcome FROM idempotency.claim('operator.exhausted', 'x failed', lease => '30 min');
SELECT outcome FROM idempotency.fail('operator.exhausted', 'x failed', 'e', fence => (SELECT fence FROM idempotency.keys WHERE scope = 'operator.exhausted' AND key = 'x failed'));
SELECT key, c.outcome, error, attempt FROM unnest(ARRAY['succeeded', 'failed', 'retry', 'x failed']) AS key, idempotency.claim('operator.exhausted', key) AS c;
SELECT key, idempotency.resolve('operator.exhausted', key, key, key, 'test') FROM unnest(ARRAY['succeeded', 'failed', 'retry']) AS key;
SELECT idempotency.resolve('operator.exhausted', 'x failed', 'retry', reason => 'test');
SELECT key, c.outcome, response, failed, error, attempt FROM unnest(ARRAY['succeeded', 'failed', 'retry', 'x failed']) AS key, idempotency.claim('operator.exhausted', key, lease => '30 min') AS c;
-- also transactional ones that failed
BEGIN;
SELECT outcome FROM idempotency.claim('operator.resolve', 'transactional');
SELECT outcome FROM idempotency.fail('operator.resolve', 'transactional', 'e', retry_after_ms => 3600000);
COMMIT;
SELECT idempotency.resolve('operator.resolve', 'transactional', 'retry', reason => 'test');
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('operator.resolve', 'transactional');
SELECT idempotency.finish('operator.resolve', 'transactional', 'r') > now() AS finished;
COMMIT;
-- a principal's
SELECT outcome FROM idempotency.claim('operator.resolve', 'p', lease => '1 ms', principal => 'p');
SELECT pg_sleep(0.002);
SELECT idempotency.resolve('operator.resolve', 'p', 'failed', principal => 'p', reason => 'test');
SELECT outcome, failed, error FROM idempotency.claim('operator.resolve', 'p', principal => 'p');
-- where a lease that ran out counts for nothing, its row can be resolved as long
-- as nobody has replaced it, as it could be settled
SELECT on_lease_expiry FROM idempotency.configure('operator.forgetting', on_lease_expiry => 'forget');
SELECT operator_test.abandon('operator.forgetting', 'key') > 0 AS abandoned;
SELECT idempotency.resolve('operator.forgetting', 'key', 'succeeded', 'r', 'test');
SELECT outcome, response FROM idempotency.claim('operator.forgetting', 'key');
-- undone by a rollback
SELECT operator_test.abandon('operator.resolve', 'rollback') AS fence \gset
BEGIN;
SELECT idempotency.resolve('operator.resolve', 'rollback', 'failed', 'e', 'test');
SELECT outcome FROM idempotency.claim('operator.resolve', 'rollback');
ROLLBACK;
SELECT idempotency.finish('operator.resolve', 'rollback', 'r', :fence) > now() AS finished;

--
-- resolve: what it refuses, and leaves as it is
--
SELECT idempotency.resolve('operator.resolve', 'unknown', 'failed', reason => 'test');
SELECT idempotency.resolve('operator.resolve', 'succeeded', 'failed', reason => 'test');
SELECT idempotency.resolve('operator.leased', 'live', 'failed', reason => 'test');
SELECT idempotency.resolve('operator.leased', 'live', 'failed');
SELECT idempotency.resolve('operator.leased', 'live', 'done', reason => 'test');
SELECT key, operator_test.attempt('operator.resolve', key, format($$resolve('operator.resolve', %L, 'succeeded', 'r', 'test')$$, key))
FROM unnest(ARRAY['succeeded', 'no response', 'failed', 'retry', 'transactional', 'rollback', 'expired']) AS key;
BEGIN;
SELECT outcome FROM idempotency.claim('operator.resolve', 'own');
SELECT operator_test.attempt('operator.resolve', 'own', $$resolve('operator.resolve', 'own', 'failed', 'r', 'test')$$);
SELECT idempotency.finish('operator.resolve', 'own', 'r') > now() AS finished;
SELECT operator_test.attempt('operator.resolve', 'own', $$resolve('operator.resolve', 'own', 'failed', 'r', 'test')$$);
SELECT outcome FROM idempotency.claim('operator.resolve', 'own leased', lease => '30 min');
SELECT operator_test.attempt('operator.resolve', 'own leased', $$resolve('operator.resolve', 'own leased', 'failed', 'r', 'test')$$);
ROLLBACK;
-- a retry of this transaction's own, resolved and then claimed again
BEGIN;
SELECT outcome FROM idempotency.claim('operator.resolve', 'own retry');
SELECT outcome FROM idempotency.fail('operator.resolve', 'own retry', 'e', retry_after_ms => 3600000);
SELECT idempotency.resolve('operator.resolve', 'own retry', 'retry', reason => 'test');
SELECT outcome, attempt FROM idempotency.claim('operator.resolve', 'own retry');
SELECT idempotency.finish('operator.resolve', 'own retry', 'r') > now() AS finished;
COMMIT;
SELECT outcome, response, attempt FROM idempotency.claim('operator.resolve', 'own retry');
-- arguments out of bounds
SELECT max_response_bytes FROM idempotency.configure('operator.bounds', max_response_bytes => 5);
SELECT operator_test.abandon('operator.bounds', 'key') > 0 AS abandoned;
SELECT command, operator_test.attempt('operator.bounds', 'key', command)
FROM unnest(ARRAY[$$resolve('operator.bounds', 'key', 'succeeded', '123456', 'test')$$,
                  $$resolve('operator.bounds', 'key', NULL, 'r', 'test')$$,
                  $$resolve('operator.bounds', 'key', '', 'r', 'test')$$,
                  $$resolve('operator.bounds', 'key', 'Failed', 'r', 'test')$$,
                  $$resolve('operator.bounds', 'key', 'retry ', 'r', 'test')$$,
                  $$resolve('operator.bounds', 'key', 's', 'r', 'test')$$,
                  $$resolve('operator.bounds', 'key', 'failed', 'r')$$,
                  $$resolve('operator.bounds', 'key', 'failed', 'r', '')$$,
                  $$resolve('operator.bounds', 'key', 'failed', 'r', repeat('r', 1025))$$,
                  $$resolve('operator.bounds', NULL, 'failed', 'r', 'test')$$,
                  $$resolve('operator.bounds', '', 'failed', 'r', 'test')$$,
                  $$resolve(NULL, 'key', 'failed', 'r', 'test')$$,
                  $$resolve('operator.bounds', 'key', 'failed', 'r', 'test', 'p')$$,
                  $$resolve('operator.bounds', 'key', 'failed', 'r', 'test', repeat('p', 129))$$,
                  $$forget('operator.bounds', 'key', NULL)$$,
                  $$forget('operator.bounds', 'key', '')$$,
                  $$forget('operator.bounds', NULL, 'test')$$,
                  $$forget('operator.bounds', 'key', 'test', principal => 'p')$$]) AS command;
BEGIN READ ONLY;
SAVEPOINT s;
SELECT idempotency.resolve('operator.bounds', 'key', 'failed', 'e', 'test');
ROLLBACK TO s;
SELECT idempotency.forget('operator.bounds', 'key', 'test');
ROLLBACK;
SELECT idempotency.resolve('operator.bounds', 'key', 'succeeded', '12345', repeat('r', 1024));
SELECT outcome, response FROM idempotency.claim('operator.bounds', 'key');
-- an error text is no response: its limit is its own
SELECT operator_test.abandon('operator.bounds', 'error') > 0 AS abandoned;
SELECT operator_test.attempt('operator.bounds', 'error', $$resolve('operator.bounds', 'error', 'failed', repeat('e', 100000), 'test')$$);
SELECT idempotency.resolve('operator.bounds', 'error', 'failed', 'longer than five', 'test');
SELECT outcome, error FROM idempotency.claim('operator.bounds', 'error');

SET client_min_messages = warning;
DROP SCHEMA operator_test CASCADE;
