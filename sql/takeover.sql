--
-- Leased claims whose lease is over: who takes over, with what, and what becomes
-- of the holder before.
--
-- Convention: each section has a scope of its own.  Times and fences are never
-- printed; filled() names the columns of an answer that are not null.  A lease
-- that is to be over is of 1 ms, one that is to live is of 30 min.
--
\pset null '(null)'
CREATE SCHEMA takeover_test;
CREATE FUNCTION takeover_test.filled(answer json) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(name, ' ') FROM json_object_keys(json_strip_nulls(answer)) AS name $$;
-- a key's row as it is stored, with the place where it lies
CREATE FUNCTION takeover_test.stored(wanted_scope text, wanted_key text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    segment text;
    result jsonb;
BEGIN
    SELECT k.segment INTO STRICT segment FROM idempotency.keys AS k WHERE k.scope = wanted_scope AND k.key = wanted_key;
    EXECUTE format('SELECT to_jsonb(s) || jsonb_build_object(''place'', concat_ws('' '', s.tableoid, s.ctid, s.xmin)) FROM idempotency.%I AS s WHERE scope = $1 AND key = $2', segment)
    INTO STRICT result USING wanted_scope, wanted_key;
    RETURN result;
END $$;
-- a lease that is over, at a recovery point if one is given
CREATE FUNCTION takeover_test.abandon(scope text, key text, request text DEFAULT NULL, owner text DEFAULT NULL, state text DEFAULT NULL, recovery_point text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    result bigint;
BEGIN
    SELECT fence INTO STRICT result FROM idempotency.claim(abandon.scope, abandon.key, abandon.request, '1 ms', owner => abandon.owner, state => abandon.state);
    IF recovery_point IS NOT NULL THEN
        PERFORM idempotency.checkpoint(abandon.scope, abandon.key, result, recovery_point);
    END IF;
    PERFORM pg_sleep(0.002);
    RETURN result;
END $$;
-- what the holder of a fence is told by each function
CREATE FUNCTION takeover_test.stale(scope text, key text, fence bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := takeover_test.stored(scope, key);
    command text;
    result text[];
BEGIN
    FOREACH command IN ARRAY ARRAY['finish($1, $2, ''r'', $3)', 'fail($1, $2, ''e'', fence => $3)', 'fail($1, $2, ''e'', false, $3)', 'release($1, $2, $3)', 'heartbeat($1, $2, $3)', 'checkpoint($1, $2, $3, ''p'')', 'assert_fence($1, $2, $3)'] LOOP
        BEGIN
            EXECUTE 'SELECT idempotency.' || command USING scope, key, fence;
            result := result || split_part(command, '(', 1);
        EXCEPTION WHEN others THEN
            result := result || sqlstate::text;
        END;
    END LOOP;
    RETURN array_to_string(result, ' ') || CASE WHEN before = takeover_test.stored(scope, key) THEN ', row unchanged' ELSE ', row changed' END;
END $$;

--
-- resume: the next claim gets the key, with a new fence, and what was reached
--
SELECT takeover_test.abandon('takeover.resume', 'key', '{"amount": 1}', 'me', 's', 'charged') AS fence, clock_timestamp() AS since \gset
-- until then it is the first one's
SELECT outcome, reason, attempt, recovery_point, state, retry_after_ms FROM idempotency.peek('takeover.resume', 'key');
SELECT outcome, response, failed, error, attempt, recovery_point, state, reason, fence > :fence AS new_fence, claimed_at > :'since' AS claimed, lease_until - claimed_at AS lease, expires_at - lease_until AS retention,
       takeover_test.filled(to_json(c))
FROM idempotency.claim('takeover.resume', 'key', '{"amount": 1.0}', lease => '30 min', owner => 'you', state => 'mine') AS c;
SELECT takeover_test.stale('takeover.resume', 'key', :fence);
SELECT idempotency.finish('takeover.resume', 'key', 'r', :fence);
SELECT outcome, attempt FROM idempotency.claim('takeover.resume', 'key', '{"amount": 1}', lease => '30 min', owner => 'me');
SELECT outcome, attempt, fence > :fence AS new_fence, fence FROM idempotency.claim('takeover.resume', 'key', '{"amount": 1}', lease => '30 min', owner => 'you') \gset
SELECT :'outcome' AS outcome, :attempt AS attempt, :'new_fence' AS new_fence;
-- the new holder goes on from there
SELECT idempotency.checkpoint('takeover.resume', 'key', :fence, 'shipped'), idempotency.finish('takeover.resume', 'key', 'done', :fence) > now() AS finished;
SELECT outcome, response, attempt FROM idempotency.claim('takeover.resume', 'key', '{"amount": 1}');
-- another request doesn't resume it
SELECT takeover_test.abandon('takeover.resume', 'other', 'x') AS fence \gset
SELECT outcome, attempt FROM idempotency.claim('takeover.resume', 'other', 'y', lease => '30 min');
SELECT idempotency.assert_fence('takeover.resume', 'other', :fence);
-- one that brings no request, or comes after one that brought none, does; the
-- first fingerprint stays
SELECT outcome, attempt FROM idempotency.claim('takeover.resume', 'other', lease => '1 ms');
SELECT pg_sleep(0.002);
SELECT outcome FROM idempotency.claim('takeover.resume', 'other', 'y', lease => '1 ms');
SELECT outcome, attempt FROM idempotency.claim('takeover.resume', 'other', 'x', lease => '1 ms');
SELECT takeover_test.abandon('takeover.resume', 'none') AS fence \gset
SELECT outcome, attempt FROM idempotency.claim('takeover.resume', 'none', 'x', lease => '1 ms');
SELECT outcome FROM idempotency.claim('takeover.resume', 'none', 'y', lease => '1 ms');
-- it is to resume also if nothing is known of how far the last one came, and the
-- state, if there is none, is the new one's
SELECT takeover_test.abandon('takeover.resume', 'blank') AS fence \gset
SELECT outcome, attempt, recovery_point, state FROM idempotency.claim('takeover.resume', 'blank', lease => '1 ms', state => 'mine');
SELECT pg_sleep(0.002);
SELECT outcome, attempt, recovery_point, state FROM idempotency.claim('takeover.resume', 'blank', lease => '30 min', state => 'too late');
-- the owner's lease being over, it takes over like anybody else
SELECT takeover_test.abandon('takeover.resume', 'owner', owner => 'me', recovery_point => 'p') AS fence \gset
SELECT outcome, attempt, recovery_point, fence > :fence AS new_fence FROM idempotency.claim('takeover.resume', 'owner', lease => '30 min', owner => 'me');
SELECT takeover_test.stale('takeover.resume', 'owner', :fence);
-- with claim_or_raise(), claim_many(), run(), once()
SELECT key, takeover_test.abandon('takeover.resume', key, recovery_point => 'p') > 0 AS abandoned FROM unnest(ARRAY['raise', 'many', 'run', 'once']) AS key;
SELECT outcome, attempt, recovery_point, fence > 0 AS fenced FROM idempotency.claim_or_raise('takeover.resume', 'raise', lease => '30 min');
SELECT ordinal, key, outcome, attempt, recovery_point, fence > 0 AS fenced FROM idempotency.claim_many('takeover.resume', '{new,many,raise,many}', lease => '30 min');
SELECT outcome, response, attempt, recovery_point, fence, lease_until FROM idempotency.run('takeover.resume', 'run', 'SELECT 1 AS one');
SELECT idempotency.once('takeover.resume', 'once');
SELECT key, outcome, response, attempt, recovery_point FROM unnest(ARRAY['run', 'once']) AS key, idempotency.claim('takeover.resume', key);
-- who waits takes over when the lease is over
SELECT outcome FROM idempotency.claim('takeover.resume', 'wait', lease => '100 ms');
SELECT outcome, attempt, reason FROM idempotency.claim('takeover.resume', 'wait', wait => '1 min', lease => '30 min');

--
-- Taken over by a transaction: it works, and settles, or leaves it as it was
--
SELECT takeover_test.abandon('takeover.transaction', 'key', 'x', 'me', 's', 'charged') AS fence \gset
SELECT takeover_test.stored('takeover.transaction', 'key') AS row \gset
BEGIN;
SELECT outcome, attempt, recovery_point, state, fence, lease_until, takeover_test.filled(to_json(c)) FROM idempotency.claim('takeover.transaction', 'key', 'x') AS c;
SELECT outcome, reason FROM idempotency.claim('takeover.transaction', 'key', 'x');
SELECT outcome, reason FROM idempotency.claim('takeover.transaction', 'key', 'x', lease => '30 min', owner => 'me');
SELECT takeover_test.stale('takeover.transaction', 'key', :fence);
ROLLBACK;
SELECT takeover_test.stored('takeover.transaction', 'key') = :'row' AS same;
BEGIN;
SAVEPOINT s;
SELECT outcome, attempt FROM idempotency.claim('takeover.transaction', 'key', 'x');
ROLLBACK TO s;
SELECT takeover_test.stored('takeover.transaction', 'key') = :'row' AS same;
-- released: in everything but its place, and the number of events, as it was
SELECT outcome, attempt FROM idempotency.claim('takeover.transaction', 'key', 'x');
SELECT idempotency.release('takeover.transaction', 'key');
SELECT (s->>'event_no')::int - (:'row'::jsonb->>'event_no')::int AS events, s - '{event_no,place}'::text[] = :'row'::jsonb - '{event_no,place}'::text[] AS same
FROM takeover_test.stored('takeover.transaction', 'key') AS s;
SELECT outcome, attempt FROM idempotency.claim('takeover.transaction', 'key', 'x');
SAVEPOINT s;
SELECT idempotency.finish('takeover.transaction', 'key', 'r') > now() AS finished;
ROLLBACK TO s;
SELECT idempotency.release('takeover.transaction', 'key');
COMMIT;
SELECT (s->>'event_no')::int - (:'row'::jsonb->>'event_no')::int AS events, s - '{event_no,place}'::text[] = :'row'::jsonb - '{event_no,place}'::text[] AS same
FROM takeover_test.stored('takeover.transaction', 'key') AS s;
-- so its holder is still the holder
SELECT idempotency.assert_fence('takeover.transaction', 'key', :fence);
-- not settled: the commit is refused
\set VERBOSITY sqlstate
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('takeover.transaction', 'key', 'x');
COMMIT;
\set VERBOSITY default
-- failed, to be tried again: what was reached is kept
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('takeover.transaction', 'key', 'x');
SELECT * FROM idempotency.fail('takeover.transaction', 'key', 'e', retry_after_ms => 0);
COMMIT;
SELECT takeover_test.stale('takeover.transaction', 'key', :fence);
BEGIN;
SELECT outcome, attempt, recovery_point, state FROM idempotency.claim('takeover.transaction', 'key', 'x');
SELECT * FROM idempotency.fail('takeover.transaction', 'key', 'e', retry_after_ms => 0);
COMMIT;
SELECT outcome, attempt, recovery_point, state, fence > :fence AS new_fence FROM idempotency.claim('takeover.transaction', 'key', 'x', lease => '1 ms');
SELECT pg_sleep(0.002);
BEGIN;
SELECT outcome, attempt, recovery_point, state FROM idempotency.claim('takeover.transaction', 'key', 'x');
SELECT idempotency.finish('takeover.transaction', 'key', 'done') > now() AS finished;
COMMIT;
SELECT outcome, response, attempt FROM idempotency.claim('takeover.transaction', 'key', 'x');
SELECT jsonb_strip_nulls(s - '{id,expires_at,claimed_at,finished_at,fingerprint,place}'::text[]) AS row FROM takeover_test.stored('takeover.transaction', 'key') AS s;
SELECT takeover_test.stale('takeover.transaction', 'key', :fence);
-- where commit settles
SELECT unfinished FROM idempotency.configure('takeover.commit', unfinished => 'succeed');
SELECT takeover_test.abandon('takeover.commit', 'key', recovery_point => 'p') AS fence \gset
SELECT outcome, attempt, recovery_point FROM idempotency.claim('takeover.commit', 'key');
SELECT outcome, response, attempt, recovery_point FROM idempotency.claim('takeover.commit', 'key');
SELECT takeover_test.stale('takeover.commit', 'key', :fence);

--
-- attempts: each takeover is one
--
SELECT max_attempts FROM idempotency.configure('takeover.attempts', max_attempts => 3);
SELECT takeover_test.abandon('takeover.attempts', 'key', recovery_point => 'p') AS first \gset
SELECT takeover_test.abandon('takeover.attempts', 'key') AS second \gset
SELECT takeover_test.abandon('takeover.attempts', 'key') AS third \gset
SELECT :first < :second AND :second < :third AS rising;
SELECT outcome, failed, error, attempt, fence, takeover_test.filled(to_json(c)) FROM idempotency.claim('takeover.attempts', 'key', lease => '30 min') AS c;
SELECT outcome, failed, error, attempt FROM idempotency.claim('takeover.attempts', 'key');
SELECT outcome, failed, attempt, recovery_point FROM idempotency.peek('takeover.attempts', 'key');
SELECT outcome, attempt FROM idempotency.await('takeover.attempts', 'key', '1 min');
SELECT idempotency.once('takeover.attempts', 'key');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim_or_raise('takeover.attempts', 'key');
\set VERBOSITY default
SELECT count(*) FROM idempotency.take_abandoned('takeover.attempts');
-- nothing is written: the third holder can still finish, the others can't
SELECT state, attempt FROM idempotency.keys WHERE scope = 'takeover.attempts';
SELECT takeover_test.stale('takeover.attempts', 'key', :first), takeover_test.stale('takeover.attempts', 'key', :second);
SELECT idempotency.finish('takeover.attempts', 'key', 'at last', :third) > now() AS finished;
SELECT outcome, response, attempt FROM idempotency.claim('takeover.attempts', 'key');
-- an error of an attempt before stays, until the end
SELECT fence FROM idempotency.claim('takeover.attempts', 'error', lease => '30 min') \gset
SELECT outcome FROM idempotency.fail('takeover.attempts', 'error', 'e1', fence => :fence, retry_after_ms => 0);
SELECT takeover_test.abandon('takeover.attempts', 'error') AS fence \gset
SELECT takeover_test.abandon('takeover.attempts', 'error') AS fence \gset
SELECT outcome, failed, error, attempt FROM idempotency.claim('takeover.attempts', 'error');
-- the last attempt may fail, and that is the end
SELECT outcome, attempt FROM idempotency.fail('takeover.attempts', 'error', 'e3', fence => :fence);
SELECT outcome, failed, error, attempt FROM idempotency.claim('takeover.attempts', 'error');

--
-- indeterminate: nobody takes over until somebody has found out
--
SELECT on_lease_expiry, max_attempts FROM idempotency.configure('takeover.indeterminate', on_lease_expiry => 'indeterminate', max_attempts => 2);
SELECT takeover_test.abandon('takeover.indeterminate', 'key', 'x', 'me', 's', 'charged') AS fence \gset
SELECT takeover_test.stored('takeover.indeterminate', 'key') AS row \gset
SELECT outcome, response, failed, error, attempt, fence, takeover_test.filled(to_json(c)) FROM idempotency.claim('takeover.indeterminate', 'key', 'x') AS c;
SELECT outcome FROM idempotency.claim('takeover.indeterminate', 'key', 'x', lease => '30 min', owner => 'me');
SELECT outcome FROM idempotency.claim('takeover.indeterminate', 'key', 'y', lease => '30 min');
SELECT key, outcome FROM idempotency.claim_many('takeover.indeterminate', '{key}', lease => '30 min');
SELECT outcome, response FROM idempotency.run('takeover.indeterminate', 'key', 'SELECT 1 / 0');
SELECT outcome, reason, recovery_point, state FROM idempotency.peek('takeover.indeterminate', 'key');
SELECT outcome FROM idempotency.claim_or_raise('takeover.indeterminate', 'key', 'x');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim_or_raise('takeover.indeterminate', 'key', 'x');
SELECT idempotency.once('takeover.indeterminate', 'key', 'x');
\set VERBOSITY default
SELECT count(*) FROM idempotency.take_abandoned('takeover.indeterminate');
SELECT key, attempt, recovery_point FROM idempotency.abandoned('takeover.indeterminate');
SELECT takeover_test.stored('takeover.indeterminate', 'key') = :'row' AS same;
-- a late holder is one who knows
SELECT idempotency.finish('takeover.indeterminate', 'key', 'done', :fence) > now() AS finished;
SELECT outcome, response FROM idempotency.claim('takeover.indeterminate', 'key', 'x');
-- an operator who has found out (more in operator.sql)
SELECT takeover_test.abandon('takeover.indeterminate', 'resolved', recovery_point => 'charged') AS fence \gset
SELECT idempotency.resolve('takeover.indeterminate', 'resolved', 'retry', reason => 'test');
SELECT outcome, attempt, recovery_point, fence > :fence AS new_fence FROM idempotency.claim('takeover.indeterminate', 'resolved', lease => '30 min');
SELECT takeover_test.stale('takeover.indeterminate', 'resolved', :fence);
-- a failure that may be retried is retried: the holder said so
SELECT fence FROM idempotency.claim('takeover.indeterminate', 'failed', lease => '30 min') \gset
SELECT outcome FROM idempotency.fail('takeover.indeterminate', 'failed', fence => :fence, retry_after_ms => 0);
SELECT outcome, attempt FROM idempotency.claim('takeover.indeterminate', 'failed', lease => '1 ms');
SELECT pg_sleep(0.002);
-- and used-up attempts don't make a lease that ran out known
SELECT outcome, attempt FROM idempotency.claim('takeover.indeterminate', 'failed', lease => '1 ms');

--
-- forget: as if it had never been claimed
--
SELECT on_lease_expiry FROM idempotency.configure('takeover.forget', on_lease_expiry => 'forget');
SELECT takeover_test.abandon('takeover.forget', 'key', 'x', 'me', 's', 'charged') AS fence \gset
SELECT outcome FROM idempotency.peek('takeover.forget', 'key');
SELECT outcome FROM idempotency.await('takeover.forget', 'key', '0');
SELECT count(*) FROM idempotency.take_abandoned('takeover.forget');
SELECT outcome, attempt, recovery_point, state, fence > :fence AS new_fence FROM idempotency.claim('takeover.forget', 'key', 'another', lease => '30 min', state => 'mine');
SELECT takeover_test.stale('takeover.forget', 'key', :fence);
SELECT outcome FROM idempotency.claim('takeover.forget', 'key', 'x');
-- a holder whom nobody has replaced is the holder
SELECT takeover_test.abandon('takeover.forget', 'late') AS fence \gset
SELECT idempotency.finish('takeover.forget', 'late', 'r', :fence) > now() AS finished;
SELECT outcome, response FROM idempotency.claim('takeover.forget', 'late');
-- for a transaction, and undone with it
SELECT takeover_test.abandon('takeover.forget', 'transaction', 'x') AS fence \gset
BEGIN;
SELECT outcome, attempt, recovery_point FROM idempotency.claim('takeover.forget', 'transaction', 'y');
SELECT idempotency.release('takeover.forget', 'transaction');
SELECT outcome, attempt FROM idempotency.claim('takeover.forget', 'transaction', 'z');
ROLLBACK;
SELECT idempotency.finish('takeover.forget', 'transaction', 'r', :fence) > now() AS finished;
-- first_sent: what is forgotten so is as unknown as anything else
SELECT takeover_test.abandon('takeover.forget', 'sent') AS fence \gset
SELECT outcome FROM idempotency.claim('takeover.forget', 'sent', first_sent => now() - interval '25 h');
SELECT outcome FROM idempotency.claim('takeover.resume', 'blank', first_sent => now() - interval '25 h');

--
-- The policy is that of the moment when somebody comes
--
SELECT takeover_test.abandon('takeover.policy', 'key', 'x') AS fence \gset
BEGIN;
SELECT on_lease_expiry FROM idempotency.configure('takeover.policy', on_lease_expiry => 'indeterminate');
SELECT outcome FROM idempotency.claim('takeover.policy', 'key', 'x');
SELECT on_lease_expiry FROM idempotency.configure('takeover.policy', on_lease_expiry => 'forget');
SELECT outcome, attempt FROM idempotency.claim('takeover.policy', 'key', 'y');
ROLLBACK;
BEGIN;
SELECT max_attempts FROM idempotency.configure('takeover.policy', max_attempts => 1);
SELECT outcome, attempt FROM idempotency.claim('takeover.policy', 'key', 'x');
ROLLBACK;
-- a lease that is longer than may be is cut by whoever meets it
SELECT fence FROM idempotency.claim('takeover.policy', 'long', lease => '30 min') \gset
SELECT max_lease FROM idempotency.configure('takeover.policy', max_lease => '50 ms');
SELECT outcome, retry_after_ms BETWEEN 1 AND 50 AS soon FROM idempotency.claim('takeover.policy', 'long');
SELECT pg_sleep(0.06);
SELECT outcome, attempt, fence > :fence AS new_fence FROM idempotency.claim('takeover.policy', 'long', lease => '50 ms');
SELECT takeover_test.stale('takeover.policy', 'long', :fence);
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('takeover.policy', 'long', lease => '51 ms');
\set VERBOSITY default

--
-- abandoned: what nobody has settled or taken over, those overdue longest first
--
SELECT store_request FROM idempotency.configure('takeover.abandoned', store_request => true);
SELECT max_attempts FROM idempotency.configure('takeover.abandoned', max_attempts => 3);
SET application_name = 'the first';
SELECT fence FROM idempotency.claim('takeover.abandoned', '1', '{"b": 1, "a" : 1.0}', lease => '1 ms', principal => 'p', owner => 'me', state => 's') \gset
SELECT idempotency.checkpoint('takeover.abandoned', '1', :fence, 'charged', principal => 'p');
RESET application_name;
SELECT key, takeover_test.abandon('takeover.abandoned', key) > 0 AS abandoned FROM unnest(ARRAY['2', '3', '4']) AS key;
-- not these: running, settled, to be retried, of another scope, forgotten
SELECT outcome FROM idempotency.claim('takeover.abandoned', 'running', lease => '30 min');
SELECT takeover_test.abandon('takeover.abandoned', 'settled') AS fence \gset
SELECT idempotency.finish('takeover.abandoned', 'settled', 'r', :fence) > now() AS finished;
SELECT takeover_test.abandon('takeover.abandoned', 'retry') AS fence \gset
SELECT outcome FROM idempotency.fail('takeover.abandoned', 'retry', 'e', fence => :fence, retry_after_ms => 0);
SELECT idempotency.once('takeover.abandoned', 'once');
SELECT takeover_test.abandon('takeover.abandoned.not', 'key') > 0 AS abandoned;
SELECT outcome FROM idempotency.claim('takeover.abandoned', 'expired', lease => '1 ms', retention => '1 s');
SELECT pg_sleep(1.1);
-- '4' is on its last attempt
SELECT takeover_test.abandon('takeover.abandoned', '4') < takeover_test.abandon('takeover.abandoned', '4') AS rising;
CREATE VIEW takeover_test.abandoned AS
SELECT principal, key, attempt, claimed_at < lease_until AS claimed, overdue_ms > 0 AS overdue, recovery_point, role = current_user AS role, application, fence > 0 AS fenced
FROM idempotency.abandoned('takeover.abandoned');
BEGIN READ ONLY;
SELECT * FROM takeover_test.abandoned;
COMMIT;
SELECT key FROM idempotency.abandoned('takeover.abandoned', 2);
SELECT key, overdue_ms >= 1000 AS overdue FROM idempotency.abandoned('takeover.abandoned', max => 1);
SELECT count(*) FROM idempotency.abandoned('takeover.abandoned', 10000);
SELECT count(*) FROM idempotency.abandoned('takeover.unknown');
-- what it shows can be taken, but for the last one
BEGIN;
SELECT principal, key, request, outcome, response, failed, error, attempt, recovery_point, state, reason, fence > :fence AS new_fence, takeover_test.filled(to_json(t)),
       lease_until - claimed_at AS lease, expires_at - lease_until AS retention
FROM idempotency.take_abandoned('takeover.abandoned', 10) AS t;
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', 10);
SELECT key FROM takeover_test.abandoned;
ROLLBACK;
SELECT key FROM takeover_test.abandoned;
-- one at a time, whoever has waited longest
SELECT principal, key, attempt, recovery_point, state FROM idempotency.take_abandoned('takeover.abandoned');
SELECT takeover_test.stored('takeover.abandoned', '1')->'owner' AS owner, takeover_test.stored('takeover.abandoned', '1')->'application' AS application, takeover_test.stored('takeover.abandoned', '1')->'request' AS request;
SELECT key, lease_until - claimed_at AS lease FROM idempotency.take_abandoned('takeover.abandoned', lease => '2 ms');
SELECT pg_sleep(0.003);
SELECT key, attempt FROM idempotency.take_abandoned('takeover.abandoned', 2);
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', 2);
SELECT key FROM takeover_test.abandoned;
-- the one that took is the holder
SELECT takeover_test.stale('takeover.abandoned', '2', :fence);
SELECT idempotency.finish('takeover.abandoned', '2', 'done', fence) > now() AS finished FROM idempotency.keys WHERE scope = 'takeover.abandoned' AND key = '2';
SELECT outcome, response, attempt FROM idempotency.claim('takeover.abandoned', '2');
-- the request of a claim that was taken over without one is the first one's
SELECT outcome, attempt FROM idempotency.claim('takeover.abandoned', '1', '{"a": 1, "b": 1}', principal => 'p');
SELECT outcome FROM idempotency.claim('takeover.abandoned', '1', '{"a": 2, "b": 1}', principal => 'p');
-- arguments
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', 0);
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', lease => '1 h 1 us');
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', lease => NULL);
SELECT key FROM idempotency.abandoned(NULL);
BEGIN READ ONLY;
SELECT key FROM idempotency.take_abandoned('takeover.abandoned');
ROLLBACK;
\set VERBOSITY sqlstate
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', 10001);
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', -9223372036854775808);
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', NULL);
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', lease => '0');
SELECT key FROM idempotency.take_abandoned('takeover.abandoned', lease => '-178000000 years');
SELECT key FROM idempotency.take_abandoned(NULL);
SELECT key FROM idempotency.take_abandoned('');
SELECT key FROM idempotency.abandoned('takeover.abandoned', 0);
SELECT key FROM idempotency.abandoned('takeover.abandoned', 9223372036854775807);
SELECT key FROM idempotency.abandoned('takeover.abandoned', NULL);
SELECT key FROM idempotency.abandoned(repeat('s', 129));
BEGIN READ ONLY;
SELECT key FROM idempotency.take_abandoned('takeover.abandoned');
ROLLBACK;
\set VERBOSITY default

--
-- bump_incarnation: every later fence is greater than any before
--
SELECT takeover_test.abandon('takeover.bump', 'before') AS before \gset
SELECT max(number) AS number, count(*) AS incarnations FROM idempotency.incarnation \gset
SELECT idempotency.bump_incarnation('a test') > :number AS greater;
SELECT count(*) - :incarnations AS begun FROM idempotency.incarnation;
SELECT reason, began_at <= clock_timestamp() AS began FROM idempotency.incarnation ORDER BY number DESC LIMIT 1;
SELECT fence AS after FROM idempotency.claim('takeover.bump', 'after', lease => '30 min') \gset
SELECT :after - :before > 1::bigint << 39 AS far, (:after >> 40) = max(number) AS numbered FROM idempotency.incarnation;
SELECT fence > :after AS greater FROM idempotency.claim_many('takeover.bump', '{many}', lease => '30 min');
-- who holds a claim since before goes on
SELECT idempotency.assert_fence('takeover.bump', 'before', :before);
SELECT idempotency.finish('takeover.bump', 'before', 'r', :before) > now() AS finished;
-- undone, it hasn't been; within its transaction, it has
BEGIN;
SELECT max(number) AS number FROM idempotency.incarnation \gset
SAVEPOINT s;
SELECT idempotency.bump_incarnation('a test') > :number AS greater;
SELECT fence >> 40 > :number AS greater FROM idempotency.claim('takeover.bump', 'within', lease => '30 min');
ROLLBACK TO s;
SELECT fence >> 40 = :number AS same, fence > :after AS greater FROM idempotency.claim('takeover.bump', 'within', lease => '30 min');
COMMIT;
SELECT fence >> 40 = :number AS same, fence > :after AS greater FROM idempotency.claim('takeover.bump', 'then', lease => '30 min');
SELECT idempotency.bump_incarnation(repeat('r', 1024)) > :number AS greater;
SELECT idempotency.bump_incarnation(NULL);
SELECT idempotency.bump_incarnation('');
BEGIN READ ONLY;
SELECT idempotency.bump_incarnation('a test');
ROLLBACK;
\set VERBOSITY sqlstate
SELECT idempotency.bump_incarnation(NULL);
SELECT idempotency.bump_incarnation(repeat('r', 1025));
BEGIN READ ONLY;
SELECT idempotency.bump_incarnation('a test');
ROLLBACK;
\set VERBOSITY default

--
-- The last fences: the greatest there is, then an error, and nothing is claimed
--
SELECT last_value AS last FROM idempotency.fence_seq \gset
SELECT takeover_test.abandon('takeover.last', 'abandoned') AS fence \gset
SELECT setval('idempotency.fence_seq', 9223372036854775807 - max(fence_base), false) > 0 AS set FROM idempotency.incarnation;
SELECT fence, outcome FROM idempotency.claim('takeover.last', 'last', lease => '30 min', owner => 'me');
SELECT outcome FROM idempotency.claim('takeover.last', 'none', lease => '30 min');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('takeover.last', 'none', lease => '30 min');
SELECT outcome FROM idempotency.claim_many('takeover.last', '{none,abandoned,nothing}', lease => '30 min');
SELECT outcome FROM idempotency.claim('takeover.last', 'abandoned', lease => '30 min');
SELECT outcome FROM idempotency.take_abandoned('takeover.last');
SELECT setval('idempotency.fence_seq', 9223372036854775807) > 0 AS set;
SELECT outcome FROM idempotency.claim('takeover.last', 'none', lease => '30 min');
\set VERBOSITY default
SELECT key, state, attempt, fence = 9223372036854775807 AS last, fence = :fence AS fence FROM idempotency.keys WHERE scope = 'takeover.last' ORDER BY key;
-- what needs no new one works
SELECT outcome, fence FROM idempotency.claim('takeover.last', 'last', lease => '30 min', owner => 'me');
SELECT outcome FROM idempotency.claim('takeover.last', 'last', lease => '30 min');
SELECT idempotency.heartbeat('takeover.last', 'last', 9223372036854775807, '30 min') > now() AS extended, idempotency.checkpoint('takeover.last', 'last', 9223372036854775807, 'p'),
       idempotency.finish('takeover.last', 'last', 'r', 9223372036854775807) > now() AS finished;
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('takeover.last', 'abandoned');
SELECT idempotency.finish('takeover.last', 'abandoned', 'r') > now() AS finished;
COMMIT;
SELECT setval('idempotency.fence_seq', :last + 1000) > 0 AS set_back;
SELECT outcome FROM idempotency.claim('takeover.last', 'none', lease => '30 min');
-- the last incarnation
BEGIN;
INSERT INTO idempotency.incarnation SELECT (1 << 23) - 1, fence_base, system_identifier, timeline, database_oid, relation_oid, began_at, reason, origin FROM idempotency.incarnation ORDER BY number LIMIT 1;
SELECT idempotency.bump_incarnation('a test');
ROLLBACK;

SET client_min_messages = warning;
DROP SCHEMA takeover_test CASCADE;
