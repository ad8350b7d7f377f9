--
-- Leased claims: what their holder does, and what others are told meanwhile.
-- (What comes after the lease: takeover.sql.  Two sessions: test/specs.)
--
-- Convention: each section has a scope of its own.  Times and fences are never
-- printed; filled() names the columns of an answer that are not null.  Leases
-- that are to live through a test are long.
--
\pset null '(null)'
CREATE SCHEMA lease_test;
CREATE FUNCTION lease_test.filled(answer json) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(name, ' ') FROM json_object_keys(json_strip_nulls(answer)) AS name $$;
-- a key's row as it is stored, with the place where it lies
CREATE FUNCTION lease_test.stored(wanted_scope text, wanted_key text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    segment text;
    result jsonb;
BEGIN
    SELECT k.segment INTO STRICT segment FROM idempotency.keys AS k WHERE k.scope = wanted_scope AND k.key = wanted_key;
    EXECUTE format('SELECT to_jsonb(s) || jsonb_build_object(''place'', concat_ws('' '', s.tableoid, s.ctid, s.xmin)) FROM idempotency.%I AS s WHERE scope = $1 AND key = $2', segment)
    INTO STRICT result USING wanted_scope, wanted_key;
    RETURN result;
END $$;
-- the fence that a key's row carries
CREATE FUNCTION lease_test.fence(wanted_scope text, wanted_key text) RETURNS bigint LANGUAGE sql AS
$$ SELECT fence FROM idempotency.keys WHERE scope = wanted_scope AND key = wanted_key $$;
-- a command's SQLSTATE, and whether it has left the row as it was, in its
-- place; $1 is the fence of the row
CREATE FUNCTION lease_test.attempt(wanted_scope text, wanted_key text, command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := lease_test.stored(wanted_scope, wanted_key);
    result text := '00000';
BEGIN
    BEGIN
        EXECUTE command USING (before->>'fence')::bigint;
    EXCEPTION WHEN others THEN
        result := sqlstate;
    END;
    RETURN result || CASE WHEN before = lease_test.stored(wanted_scope, wanted_key) THEN ', row unchanged' ELSE ', row changed' END;
END $$;

--
-- The claim is committed before the work; the transaction need not settle it
--
SELECT outcome, response, failed, error, attempt, reason, fence > 0 AS fenced, lease_test.filled(to_json(c)),
       lease_until - claimed_at AS lease, expires_at - lease_until AS retention
FROM idempotency.claim('lease.claim', 'key', '{"amount": 1}', lease => '30 min') AS c;
SELECT key, state, attempt, lease_until - claimed_at AS lease, expires_at - lease_until AS retention, fence > 0 AS fenced, finished_at, retry_at, expired
FROM idempotency.keys WHERE scope = 'lease.claim';
-- also with claim_or_raise(), for a retention of its own, and with all arguments
SELECT outcome, lease_test.filled(to_json(c)), lease_until - claimed_at AS lease, expires_at - lease_until AS retention
FROM idempotency.claim_or_raise('lease.claim', 'all', 'x', lease => '1 h', wait => '1 s', principal => 'p', owner => 'me', first_sent => 'now', retention => '2 h', state => 'from the start') AS c;
-- every fence is greater than the one before, of whatever key
SELECT fence AS first FROM idempotency.claim('lease.claim', 'first', lease => '1 min') \gset
SELECT fence > :first AS greater FROM idempotency.claim('lease.claim', 'second', lease => '1 min');
SELECT fence > :first + 1 AS greater FROM idempotency.claim('lease.other', 'third', lease => '1 min');
-- the first entry of the ledger has begun an incarnation
SELECT reason FROM idempotency.incarnation ORDER BY number LIMIT 1;
SELECT number > 0 AS numbered, began_at <= now() AS began, fence_base BETWEEN number << 40 AND (number + 1) << 40 AS based,
       (SELECT bool_and(fence > fence_base AND fence < (number + 1) << 40) FROM idempotency.keys WHERE scope LIKE 'lease.%') AS in_its_range
FROM idempotency.incarnation ORDER BY number DESC LIMIT 1;
-- nothing of the owner but a hash is stored
SELECT octet_length((s->>'owner')::bytea) AS owner, s->>'owner' LIKE '%6d65%' AS plain, s->>'role' = current_user AS role, s->>'application' AS application, s->>'saved_state' AS state
FROM lease_test.stored('lease.claim', 'all') AS s;

--
-- While the lease lives, others are told when it ends, and never the fence
--
SELECT outcome, response, failed, error, attempt, reason, lease_test.filled(to_json(c)), retry_after_ms BETWEEN 1700000 AND 1800000 AS rest_of_lease
FROM idempotency.claim('lease.claim', 'key', '{"amount": 1}') AS c;
SELECT outcome, lease_test.filled(to_json(c)) FROM idempotency.claim('lease.claim', 'key', '{"amount": 1.0}', lease => '1 min') AS c;
SELECT outcome, lease_test.filled(to_json(c)) FROM idempotency.claim('lease.claim', 'key') AS c;
SELECT outcome, lease_test.filled(to_json(c)) FROM idempotency.claim('lease.claim', 'key', wait => '0') AS c;
SELECT ordinal, key, outcome, lease_test.filled(to_json(c)) FROM idempotency.claim_many('lease.claim', '{key,first}', wait => '1 h') AS c;
SELECT outcome, response, lease_test.filled(to_json(c)) FROM idempotency.run('lease.claim', 'key', 'SELECT 1/0') AS c;
\set VERBOSITY sqlstate
SELECT idempotency.once('lease.claim', 'key');
SELECT outcome FROM idempotency.claim_or_raise('lease.claim', 'key');
SELECT outcome FROM idempotency.claim_or_raise('lease.claim', 'key', 'x', lease => '1 min');
\set VERBOSITY default
-- for another request: mismatch, nothing of what is stored
SELECT outcome, lease_test.filled(to_json(c)) FROM idempotency.claim('lease.claim', 'key', '{"amount": 2}') AS c;
SELECT outcome, lease_test.filled(to_json(c)) FROM idempotency.claim('lease.claim', 'key', '{"amount": 2}', lease => '1 min', owner => 'me') AS c;
-- none of them has written anything
SELECT lease_test.attempt('lease.claim', 'key', command)
FROM unnest(ARRAY['SELECT idempotency.claim(''lease.claim'', ''key'')',
                  'SELECT idempotency.claim(''lease.claim'', ''key'', lease => ''1 min'')',
                  'SELECT idempotency.claim_many(''lease.claim'', ''{key}'', lease => ''1 min'')']) AS command;
-- a bounded wait is waited, by the call's terms or the policy's
CREATE FUNCTION lease_test.waited(command text) RETURNS TABLE (outcome text, waited bool, in_time bool) LANGUAGE plpgsql AS $$
DECLARE
    start timestamptz := clock_timestamp();
BEGIN
    EXECUTE command INTO outcome;
    RETURN QUERY SELECT outcome, clock_timestamp() - start >= '100 ms', clock_timestamp() - start < '10 s';
END $$;
SELECT * FROM lease_test.waited($$SELECT outcome FROM idempotency.claim('lease.claim', 'key', wait => '100 ms')$$);
SELECT * FROM lease_test.waited($$SELECT outcome FROM idempotency.claim('lease.claim', 'key', wait => '100 ms', lease => '1 min')$$);
BEGIN;
SELECT wait FROM idempotency.configure('lease.claim', wait => '100 ms');
SELECT * FROM lease_test.waited($$SELECT outcome FROM idempotency.claim('lease.claim', 'key')$$);
SELECT * FROM lease_test.waited($$SELECT outcome FROM idempotency.claim('lease.claim', 'key', wait => '0')$$);
ROLLBACK;
\set VERBOSITY sqlstate
SET lock_timeout = '50 ms';
SELECT outcome FROM idempotency.claim('lease.claim', 'key', wait => '1 h');
RESET lock_timeout;
SET statement_timeout = '50 ms';
SELECT outcome FROM idempotency.claim('lease.claim', 'key', wait => '1 h');
RESET statement_timeout;
\set VERBOSITY default
-- another principal's key, and another scope's, is another key
SELECT outcome FROM idempotency.claim('lease.claim', 'key', lease => '1 min', principal => 'p');
SELECT outcome FROM idempotency.claim('lease.other', 'key', lease => '1 min');

--
-- owner: the holder that has lost the answer gets it again, and nothing is
-- written
--
SELECT fence, claimed_at, lease_until FROM idempotency.claim('lease.owner', 'key', 'x', lease => '30 min', owner => 'me', state => 's') \gset
SELECT outcome, attempt, fence = :fence AS same_fence, claimed_at = :'claimed_at' AS same_time, lease_until = :'lease_until' AS same_lease, lease_test.filled(to_json(c))
FROM unnest(ARRAY['30 min', '1 ms', '1 h']::interval[]) AS lease, idempotency.claim('lease.owner', 'key', 'x', lease => lease, owner => 'me', state => 'other') AS c;
SELECT outcome, state, fence = :fence AS same_fence FROM idempotency.claim_or_raise('lease.owner', 'key', lease => '1 min', owner => 'me');
SELECT lease_test.attempt('lease.owner', 'key', 'SELECT idempotency.claim(''lease.owner'', ''key'', lease => ''1 min'', owner => ''me'')');
-- another owner is another caller, whatever it is; so is none
SELECT length(owner) AS length, outcome, lease_test.filled(to_json(c))
FROM unnest(ARRAY['m', 'ME', 'mE', 'me ', 'mem', repeat('m', 255), NULL]) AS owner, idempotency.claim('lease.owner', 'key', 'x', lease => '1 min', owner => owner) AS c;
SELECT outcome FROM idempotency.claim('lease.owner', 'key', 'x');
-- another request is a mismatch, also of the owner's
SELECT outcome, fence FROM idempotency.claim('lease.owner', 'key', 'y', lease => '1 min', owner => 'me');
-- once there is a recovery point, the owner resumes
SELECT idempotency.checkpoint('lease.owner', 'key', :fence, 'charged', '{"n": 1}');
SELECT outcome, recovery_point, state, attempt, fence = :fence AS same_fence, lease_test.filled(to_json(c))
FROM idempotency.claim('lease.owner', 'key', 'x', lease => '1 min', owner => 'me') AS c;
-- once it is settled, it is told the answer
SELECT idempotency.finish('lease.owner', 'key', 'r', :fence) > now() AS finished;
SELECT outcome, response, fence FROM idempotency.claim('lease.owner', 'key', 'x', lease => '1 min', owner => 'me');
-- a claim that nobody owns is nobody's
SELECT fence FROM idempotency.claim('lease.owner', 'none', lease => '30 min') \gset
SELECT outcome FROM idempotency.claim('lease.owner', 'none', lease => '1 min', owner => 'me');
-- in one transaction
BEGIN;
SELECT fence FROM idempotency.claim('lease.owner', 'own', lease => '30 min', owner => 'me') \gset
SELECT outcome, reason, fence = :fence AS same_fence FROM idempotency.claim('lease.owner', 'own', lease => '30 min', owner => 'me');
SELECT outcome, reason, fence FROM idempotency.claim('lease.owner', 'own', lease => '30 min', owner => 'other');
SELECT outcome, reason, fence FROM idempotency.claim('lease.owner', 'own');
SELECT outcome, reason, fence FROM idempotency.claim('lease.owner', 'own', wait => '1 h');
ROLLBACK;

--
-- heartbeat: the lease ends so long from now, and the row is remembered so
-- much longer
--
SELECT fence, lease_until FROM idempotency.claim('lease.heartbeat', 'key', lease => '1 min', retention => '2 h', owner => 'me', state => 's') \gset
SELECT lease_test.stored('lease.heartbeat', 'key') - '{lease_until,expires_at,place}'::text[] AS row \gset
SELECT idempotency.heartbeat('lease.heartbeat', 'key', :fence, '30 min') - now() BETWEEN '29 min' AND '31 min' AS extended;
SELECT lease_until > :'lease_until' AS extended, expires_at - lease_until AS retention FROM idempotency.keys WHERE scope = 'lease.heartbeat';
SELECT idempotency.heartbeat('lease.heartbeat', 'key', :fence, '1 h') - now() > '59 min' AS longest;
SELECT idempotency.heartbeat('lease.heartbeat', 'key', :fence) - now() BETWEEN '25 s' AND '35 s' AS shorter;
SELECT expires_at - lease_until AS retention FROM idempotency.keys WHERE scope = 'lease.heartbeat';
SELECT lease_test.stored('lease.heartbeat', 'key') - '{lease_until,expires_at,place}'::text[] = :'row' AS nothing_else_changed;
SELECT idempotency.heartbeat('lease.heartbeat', 'key', :fence, '1 h 1 us');
SELECT idempotency.heartbeat('lease.heartbeat', 'key', :fence, '0');
SELECT idempotency.heartbeat('lease.heartbeat', 'key', :fence, NULL);
SELECT lease_test.attempt('lease.heartbeat', 'key', format('SELECT idempotency.heartbeat(''lease.heartbeat'', ''key'', $1, %L)', lease))
FROM unnest(ARRAY['0', '-1 s', '999 us', '1 h 1 us', '4 days 1 us', '178000000 years', '-178000000 years', NULL]) AS lease;
-- a holder whose lease is over still is, as long as nobody takes over or settles
SELECT fence FROM idempotency.claim('lease.heartbeat', 'late', lease => '1 ms') \gset
SELECT pg_sleep(0.01);
SELECT idempotency.assert_fence('lease.heartbeat', 'late', :fence), idempotency.checkpoint('lease.heartbeat', 'late', :fence, 'p'), idempotency.heartbeat('lease.heartbeat', 'late', :fence) > now() AS extended;
SELECT outcome FROM idempotency.claim('lease.heartbeat', 'late');
SELECT idempotency.heartbeat('lease.heartbeat', 'late', :fence, '1 ms') > now() - interval '1 s' AS shortened;
SELECT pg_sleep(0.01);
SELECT idempotency.finish('lease.heartbeat', 'late', 'in the end', :fence) > now() AS finished;
SELECT outcome, response FROM idempotency.claim('lease.heartbeat', 'late');

--
-- checkpoint: how far it has come
--
SELECT max_state_bytes FROM idempotency.configure('lease.checkpoint', max_state_bytes => 10);
SELECT fence FROM idempotency.claim('lease.checkpoint', 'key', lease => '30 min', owner => 'me', state => '0123456789') \gset
SELECT lease_test.stored('lease.checkpoint', 'key') - '{recovery_point,saved_state,place}'::text[] AS row \gset
CREATE VIEW lease_test.reached AS SELECT outcome, recovery_point, state FROM idempotency.peek('lease.checkpoint', 'key');
SELECT * FROM lease_test.reached;
-- the state stays unless there is another; '' is one
SELECT idempotency.checkpoint('lease.checkpoint', 'key', :fence, 'charged');
SELECT * FROM lease_test.reached;
SELECT idempotency.checkpoint('lease.checkpoint', 'key', :fence, 'shipped', '9876543210'), idempotency.checkpoint('lease.checkpoint', 'key', :fence, repeat('p', 255), NULL, '');
SELECT outcome, length(recovery_point), state FROM lease_test.reached;
SELECT idempotency.checkpoint('lease.checkpoint', 'key', :fence, 'shipped', '');
SELECT * FROM lease_test.reached;
-- backwards, too: the holder decides
SELECT idempotency.checkpoint('lease.checkpoint', 'key', :fence, 'charged', 'null');
SELECT * FROM lease_test.reached;
-- each was an event, and nothing else has changed
SELECT (s->>'event_no')::int - (:'row'::jsonb->>'event_no')::int AS events, s - '{recovery_point,saved_state,event_no,place}'::text[] = :'row'::jsonb - 'event_no' AS nothing_else_changed
FROM lease_test.stored('lease.checkpoint', 'key') AS s;
-- whoever isn't the holder doesn't learn of it from claim()
SELECT outcome, recovery_point, state FROM idempotency.claim('lease.checkpoint', 'key');
-- what is refused
SELECT idempotency.checkpoint('lease.checkpoint', 'key', :fence, NULL);
SELECT idempotency.checkpoint('lease.checkpoint', 'key', :fence, 'p', '01234567890');
SELECT idempotency.checkpoint('lease.checkpoint', 'key', :fence, repeat('p', 256));
SELECT what, lease_test.attempt('lease.checkpoint', 'key', command)
FROM (VALUES ('no point', 'SELECT idempotency.checkpoint(''lease.checkpoint'', ''key'', $1, NULL, ''s'')'),
             ('empty point', 'SELECT idempotency.checkpoint(''lease.checkpoint'', ''key'', $1, '''', ''s'')'),
             ('long point', 'SELECT idempotency.checkpoint(''lease.checkpoint'', ''key'', $1, repeat(''p'', 256))'),
             ('long point, in bytes', 'SELECT idempotency.checkpoint(''lease.checkpoint'', ''key'', $1, repeat(''é'', 128))'),
             ('long state', 'SELECT idempotency.checkpoint(''lease.checkpoint'', ''key'', $1, ''p'', ''01234567890'')'),
             ('very long state', 'SELECT idempotency.checkpoint(''lease.checkpoint'', ''key'', $1, ''p'', repeat(''s'', 1000000))')) AS v(what, command);
SELECT * FROM lease_test.reached;
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('lease.checkpoint', 'new', lease => '1 min', state => '01234567890');
\set VERBOSITY default
SELECT outcome FROM idempotency.peek('lease.checkpoint', 'new');
-- it goes with the settlement
SELECT idempotency.finish('lease.checkpoint', 'key', 'r', :fence) > now() AS finished;
SELECT s->'recovery_point' AS recovery_point, s->'saved_state' AS state FROM lease_test.stored('lease.checkpoint', 'key') AS s;
SELECT outcome, recovery_point, state FROM lease_test.reached;

--
-- assert_fence: the row is written as it is
--
SELECT fence FROM idempotency.claim('lease.assert', 'key', 'x', lease => '30 min', owner => 'me', state => 's') \gset
SELECT lease_test.stored('lease.assert', 'key') AS row \gset
SELECT idempotency.assert_fence('lease.assert', 'key', :fence);
SELECT s - 'place' = :'row'::jsonb - 'place' AS same, s->>'place' = :'row'::jsonb->>'place' AS untouched FROM lease_test.stored('lease.assert', 'key') AS s;
BEGIN;
SELECT idempotency.assert_fence('lease.assert', 'key', :fence), idempotency.assert_fence('lease.assert', 'key', :fence);
SELECT idempotency.finish('lease.assert', 'key', 'r', :fence) > now() AS finished;
COMMIT;

--
-- finish: settled with a response, by whatever transaction has the fence
--
SELECT fence FROM idempotency.claim('lease.finish', 'key', 'x', lease => '30 min', state => 's') \gset
SELECT idempotency.finish('lease.finish', 'key', '{"b":1, "a" : 1.0}', :fence, tag => 't') - now() BETWEEN '23 h' AND '25 h' AS remembered;
SELECT outcome, response, failed, error, attempt, lease_test.filled(to_json(c)) FROM idempotency.claim('lease.finish', 'key', 'x') AS c;
SELECT outcome FROM idempotency.claim('lease.finish', 'key', 'y');
-- remembered from the settlement on, not from the lease's end
SELECT state, tag, expires_at - finished_at AS retention, lease_until, fence = :fence AS fence FROM idempotency.keys WHERE scope = 'lease.finish';
-- the same once more is answered; another is not, and changes nothing
SELECT idempotency.finish('lease.finish', 'key', '{"b":1, "a" : 1.0}', :fence) = expires_at AS same FROM idempotency.keys WHERE scope = 'lease.finish';
SELECT idempotency.finish('lease.finish', 'key', 'another', :fence);
CREATE VIEW lease_test.held AS
SELECT n, command
FROM (VALUES (1, 'SELECT idempotency.finish(%1$L, %2$L, ''another'', %3$s)'),
             (2, 'SELECT idempotency.finish(%1$L, %2$L, NULL, %3$s)'),
             (3, 'SELECT idempotency.fail(%1$L, %2$L, ''another'', fence => %3$s)'),
             (4, 'SELECT idempotency.fail(%1$L, %2$L, NULL, false, fence => %3$s)'),
             (5, 'SELECT idempotency.release(%1$L, %2$L, %3$s)'),
             (6, 'SELECT idempotency.heartbeat(%1$L, %2$L, %3$s)'),
             (7, 'SELECT idempotency.checkpoint(%1$L, %2$L, %3$s, ''p'')'),
             (8, 'SELECT idempotency.assert_fence(%1$L, %2$L, %3$s)')) AS v(n, command);
SELECT n, lease_test.attempt('lease.finish', 'key', format(command, 'lease.finish', 'key', '$1')) FROM lease_test.held ORDER BY n;
-- a response that looks like none is one, and differs from the others
SELECT count(fence) FROM generate_series(1, 6) AS n, idempotency.claim('lease.finish', 'empty ' || n, lease => '1 min');
SELECT n, c.outcome, c.response, again = expires_at AS again, lease_test.attempt('lease.finish', 'empty ' || n, format('SELECT idempotency.finish(''lease.finish'', %L, %L, $1)', 'empty ' || n, CASE WHEN given IS NULL THEN '' END)) AS another
FROM (VALUES (1, NULL), (2, ''), (3, 'null'), (4, 'false'), (5, '""'), (6, '0')) AS v(n, given),
     idempotency.finish('lease.finish', 'empty ' || n, given, lease_test.fence('lease.finish', 'empty ' || n)) AS first,
     idempotency.claim('lease.finish', 'empty ' || n) AS c,
     idempotency.finish('lease.finish', 'empty ' || n, given, lease_test.fence('lease.finish', 'empty ' || n)) AS again
ORDER BY n;
-- a retention of its own, up to the policy's
SELECT fence FROM idempotency.claim('lease.finish', 'retention', lease => '30 min', retention => '1 h') \gset
SELECT lease_test.attempt('lease.finish', 'retention', format('SELECT idempotency.finish(''lease.finish'', ''retention'', ''r'', $1, retention => %L)', retention))
FROM unnest(ARRAY['0', '24 h 1 us', '-1 s', '178000000 years']) AS retention;
BEGIN;
SELECT idempotency.finish('lease.finish', 'retention', 'r', :fence) - now() BETWEEN '59 min' AND '61 min' AS as_claimed;
ROLLBACK;
SELECT idempotency.finish('lease.finish', 'retention', 'r', :fence, '24 h') - now() BETWEEN '23 h' AND '25 h' AS longer;
-- up to the limit
SELECT max_response_bytes FROM idempotency.configure('lease.limit', max_response_bytes => 5);
SELECT fence FROM idempotency.claim('lease.limit', 'key', lease => '30 min') \gset
SELECT idempotency.finish('lease.limit', 'key', '123456', :fence);
SELECT lease_test.attempt('lease.limit', 'key', command)
FROM unnest(ARRAY['SELECT idempotency.finish(''lease.limit'', ''key'', ''123456'', $1)',
                  'SELECT idempotency.finish(''lease.limit'', ''key'', ''12345'', $1, tag => repeat(''t'', 1000))',
                  'SELECT idempotency.fail(''lease.limit'', ''key'', repeat(''e'', 100000), fence => $1)',
                  'SELECT idempotency.fail(''lease.limit'', ''key'', ''e'', fence => $1, retry_after_ms => -1)']) AS command;
SELECT idempotency.finish('lease.limit', 'key', '12345', :fence) > now() AS finished;

--
-- fail: to be tried again, keeping what was reached; or for good
--
SELECT max_attempts FROM idempotency.configure('lease.fail', max_attempts => 3);
SELECT fence FROM idempotency.claim('lease.fail', 'key', 'x', lease => '30 min', state => 's') \gset
SELECT idempotency.checkpoint('lease.fail', 'key', :fence, 'charged');
SELECT * FROM idempotency.fail('lease.fail', 'key', 'e1', fence => :fence, retry_after_ms => 60000);
SELECT outcome, attempt, retry_after_ms BETWEEN 50000 AND 60000 AS in_a_minute FROM idempotency.fail('lease.fail', 'key', 'e1', fence => :fence, retry_after_ms => 60000);
SELECT lease_test.attempt('lease.fail', 'key', 'SELECT idempotency.fail(''lease.fail'', ''key'', ''e1'', fence => $1)') AS again;
SELECT n, lease_test.attempt('lease.fail', 'key', format(command, 'lease.fail', 'key', '$1')) FROM lease_test.held ORDER BY n;
SELECT outcome, failed, error, attempt, reason, lease_test.filled(to_json(c)) FROM idempotency.claim('lease.fail', 'key', 'x', lease => '1 min') AS c;
SELECT state, lease_until, expires_at - finished_at AS retention FROM idempotency.keys WHERE scope = 'lease.fail';
-- the second attempt goes on where the first has got to
SELECT fence FROM idempotency.claim('lease.fail', 'now', 'x', lease => '30 min', state => 's') \gset
SELECT idempotency.checkpoint('lease.fail', 'now', :fence, 'charged');
SELECT * FROM idempotency.fail('lease.fail', 'now', 'e1', fence => :fence, retry_after_ms => 0);
SELECT outcome, attempt, recovery_point, state, error, fence > :fence AS new_fence, lease_test.filled(to_json(c))
FROM idempotency.claim('lease.fail', 'now', 'x', lease => '30 min', state => 'mine') AS c;
SELECT n, lease_test.attempt('lease.fail', 'now', format(command, 'lease.fail', 'now', :fence)) FROM lease_test.held ORDER BY n;
SELECT * FROM idempotency.fail('lease.fail', 'now', 'e2', fence => lease_test.fence('lease.fail', 'now'), retry_after_ms => 0);
-- the last one; nothing is kept
SELECT outcome, attempt FROM idempotency.claim('lease.fail', 'now', 'x', lease => '30 min');
SELECT * FROM idempotency.fail('lease.fail', 'now', 'e3', fence => lease_test.fence('lease.fail', 'now'), retry_after_ms => 0);
SELECT outcome, failed, error, attempt FROM idempotency.claim('lease.fail', 'now', 'x', lease => '30 min');
SELECT s->>'state' AS state, s->'recovery_point' AS recovery_point, s->'saved_state' AS saved_state FROM lease_test.stored('lease.fail', 'now') AS s;
-- without a checkpoint the next attempt executes; the state is the first one's
SELECT fence FROM idempotency.claim('lease.fail', 'without', lease => '30 min', state => 's') \gset
SELECT outcome FROM idempotency.fail('lease.fail', 'without', fence => :fence, retry_after_ms => 0);
SELECT outcome, attempt, recovery_point, state FROM idempotency.claim('lease.fail', 'without', lease => '30 min', state => 'mine');
-- for good
SELECT fence FROM idempotency.claim('lease.fail', 'good', lease => '30 min') \gset
SELECT idempotency.checkpoint('lease.fail', 'good', :fence, 'charged');
SELECT * FROM idempotency.fail('lease.fail', 'good', 'e', false, :fence);
SELECT * FROM idempotency.fail('lease.fail', 'good', 'e', false, :fence);
SELECT outcome, failed, error, recovery_point FROM idempotency.claim('lease.fail', 'good');
SELECT n, lease_test.attempt('lease.fail', 'good', format(command, 'lease.fail', 'good', '$1')) FROM lease_test.held ORDER BY n;
-- where failures are not stored, it is as if nobody had tried
SELECT store_failures FROM idempotency.configure('lease.dropped', store_failures => false);
SELECT fence FROM idempotency.claim('lease.dropped', 'key', 'x', lease => '30 min') \gset
SELECT * FROM idempotency.fail('lease.dropped', 'key', 'e', false, :fence);
SELECT count(*) FROM idempotency.keys WHERE scope = 'lease.dropped';
SELECT outcome, attempt, fence > :fence AS new_fence FROM idempotency.claim('lease.dropped', 'key', 'y', lease => '1 min');

--
-- release: as if the claim had never been made
--
SELECT fence FROM idempotency.claim('lease.release', 'key', 'x', lease => '30 min') \gset
SELECT idempotency.checkpoint('lease.release', 'key', :fence, 'charged');
SELECT idempotency.release('lease.release', 'key', :fence);
SELECT idempotency.release('lease.release', 'key', :fence);
SELECT outcome FROM idempotency.peek('lease.release', 'key');
SELECT outcome, attempt, recovery_point, fence > :fence AS new_fence FROM idempotency.claim('lease.release', 'key', 'y', lease => '1 min');
-- that of a second attempt leaves the first one's failure, due at once, and
-- how far the second has come
SELECT fence FROM idempotency.claim('lease.release', 'retry', 'x', lease => '30 min') \gset
SELECT outcome FROM idempotency.fail('lease.release', 'retry', 'e1', fence => :fence, retry_after_ms => 0);
SELECT fence, attempt FROM idempotency.claim('lease.release', 'retry', 'x', lease => '30 min') \gset
SELECT :attempt AS attempt, idempotency.checkpoint('lease.release', 'retry', :fence, 'charged'), idempotency.release('lease.release', 'retry', :fence);
SELECT idempotency.release('lease.release', 'retry', :fence);
SELECT state, attempt, retry_at <= clock_timestamp() AS due, lease_until, expires_at - retry_at AS retention FROM idempotency.keys WHERE scope = 'lease.release' AND key = 'retry';
SELECT outcome, attempt, error, retry_after_ms FROM idempotency.peek('lease.release', 'retry');
SELECT outcome, attempt, recovery_point, fence > :fence AS new_fence FROM idempotency.claim('lease.release', 'retry', 'x', lease => '1 min');
SELECT idempotency.release('lease.release', 'retry', :fence);

--
-- Transactions: nothing counts until it is committed
--
BEGIN;
SELECT fence FROM idempotency.claim('lease.transaction', 'key', lease => '30 min', owner => 'me') \gset
SELECT idempotency.checkpoint('lease.transaction', 'key', :fence, 'charged');
ROLLBACK;
SELECT outcome FROM idempotency.peek('lease.transaction', 'key');
SELECT idempotency.finish('lease.transaction', 'key', 'r', :fence);
BEGIN;
SELECT fence > :fence AS greater, fence, outcome FROM idempotency.claim('lease.transaction', 'key', lease => '30 min', owner => 'me') \gset
SELECT :'greater' AS greater, :'outcome' AS outcome;
SAVEPOINT s;
SELECT idempotency.checkpoint('lease.transaction', 'key', :fence, 'charged'), idempotency.heartbeat('lease.transaction', 'key', :fence, '1 h') > now() AS extended;
ROLLBACK TO s;
SELECT recovery_point, lease_until - claimed_at AS lease FROM idempotency.peek('lease.transaction', 'key');
SELECT idempotency.finish('lease.transaction', 'key', 'r', :fence) > now() AS finished;
SELECT outcome, response FROM idempotency.claim('lease.transaction', 'key');
ROLLBACK TO s;
SELECT idempotency.release('lease.transaction', 'key', :fence);
SELECT outcome, attempt FROM idempotency.claim('lease.transaction', 'key');
ROLLBACK TO s;
SELECT outcome FROM idempotency.fail('lease.transaction', 'key', 'e', fence => :fence);
ROLLBACK TO s;
COMMIT;
SELECT outcome, attempt, recovery_point FROM idempotency.peek('lease.transaction', 'key');
-- after a release, in the same transaction, a new claim of either kind
BEGIN;
SELECT idempotency.release('lease.transaction', 'key', :fence);
SELECT outcome, attempt, fence FROM idempotency.claim('lease.transaction', 'key', 'another');
SELECT idempotency.release('lease.transaction', 'key');
SELECT outcome, attempt, fence > :fence AS greater FROM idempotency.claim('lease.transaction', 'key', 'another', lease => '30 min');
SELECT idempotency.release('lease.transaction', 'key', lease_test.fence('lease.transaction', 'key'));
SELECT outcome FROM idempotency.claim('lease.transaction', 'key');
SELECT idempotency.finish('lease.transaction', 'key', 'r') > now() AS finished;
COMMIT;
SELECT outcome, response, fence FROM idempotency.claim('lease.transaction', 'key');
-- claimed in this transaction: a lease for what it holds, and the reverse
BEGIN;
SELECT outcome FROM idempotency.claim('lease.transaction', 'both');
SELECT outcome, reason, fence FROM idempotency.claim('lease.transaction', 'both', lease => '1 min');
SELECT idempotency.finish('lease.transaction', 'both', 'r') > now() AS finished;
SELECT outcome, response, fence FROM idempotency.claim('lease.transaction', 'both', lease => '1 min');
SELECT outcome FROM idempotency.claim('lease.transaction', 'reverse', lease => '30 min');
SELECT outcome, reason FROM idempotency.claim('lease.transaction', 'reverse');
COMMIT;
-- while its transaction is prepared nobody sees the lease, or gets the key
BEGIN;
SELECT outcome FROM idempotency.claim('lease.transaction', 'prepared', lease => '30 min');
PREPARE TRANSACTION 'lease prepared';
SELECT outcome, attempt FROM idempotency.claim('lease.transaction', 'prepared', wait => '10 ms');
SELECT outcome, attempt FROM idempotency.claim('lease.transaction', 'prepared', wait => '10 ms', lease => '1 min');
COMMIT PREPARED 'lease prepared';
SELECT outcome, attempt FROM idempotency.claim('lease.transaction', 'prepared', wait => '10 ms');
-- another isolation level
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT fence FROM idempotency.claim('lease.transaction', 'serializable', lease => '30 min') \gset
SELECT idempotency.checkpoint('lease.transaction', 'serializable', :fence, 'p');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT idempotency.assert_fence('lease.transaction', 'serializable', :fence), idempotency.finish('lease.transaction', 'serializable', 'r', :fence) > now() AS finished;
COMMIT;

--
-- Without its fence, or with another, nobody is the holder
--
SELECT fence FROM idempotency.claim('lease.fence', 'key', lease => '30 min', owner => 'me', state => 's') \gset
SELECT fence AS other FROM idempotency.claim('lease.fence', 'other', lease => '30 min', owner => 'me', state => 's') \gset
SELECT idempotency.heartbeat('lease.fence', 'key', :fence + 1);
SELECT idempotency.finish('lease.fence', 'key', 'r');
SELECT * FROM idempotency.fail('lease.fence', 'key', 'e');
SELECT idempotency.release('lease.fence', 'key');
SELECT idempotency.assert_fence('lease.fence', 'key', NULL);
-- the extremes, the next and the last one, another identity's, and one with half
-- of its bits are ID412 from each function; and so, from some, is none
SELECT fence, n, attempt
FROM (SELECT fence, n, lease_test.attempt('lease.fence', 'key', format(command, 'lease.fence', 'key', coalesce(fence, 'NULL'))) AS attempt
      FROM lease_test.held, unnest(ARRAY[NULL, '0', '1', '-1', '9223372036854775807', '(-9223372036854775808)', '$1 + 1', '$1 - 1', '-$1',
                                         'lease_test.fence(''lease.fence'', ''other'')', '$1 % 4294967296', '($1 >> 40) << 40', '$1 # (1::bigint << 63)']) AS fence
      OFFSET 0) AS a
WHERE attempt <> 'ID412, row unchanged'
ORDER BY fence, n;
-- another's key is no claim of the fence's holder
SELECT n, lease_test.attempt('lease.fence', 'key', format(command, 'lease.fence', 'unknown', '$1')) AS unknown_key,
       lease_test.attempt('lease.fence', 'key', format(command, 'lease.unknown', 'key', '$1')) AS unknown_scope,
       lease_test.attempt('lease.fence', 'key', replace(format(command, 'lease.fence', 'key', '$1'), ')', ', principal => ''p'')')) AS unknown_principal,
       lease_test.attempt('lease.fence', 'other', format(command, 'lease.fence', 'other', :fence)) AS other_key
FROM lease_test.held ORDER BY n;
-- the holder's own call is still good after all of these
SELECT idempotency.finish('lease.fence', 'key', 'r', :fence) > now() AS finished;
-- a transactional claim has no fence
BEGIN;
SELECT outcome FROM idempotency.claim('lease.fence', 'transactional');
SELECT n, lease_test.attempt('lease.fence', 'transactional', format(command, 'lease.fence', 'transactional', fence))
FROM lease_test.held, unnest(ARRAY[0, :fence]) AS fence ORDER BY n, fence;
SAVEPOINT s;
SELECT idempotency.finish('lease.fence', 'transactional', 'r', 1);
ROLLBACK TO s;
SELECT idempotency.finish('lease.fence', 'transactional', 'r') > now() AS finished;
COMMIT;
SELECT lease_test.attempt('lease.fence', 'transactional', 'SELECT idempotency.finish(''lease.fence'', ''transactional'', ''r'', 1)');
SELECT idempotency.heartbeat('lease.fence', 'transactional', :fence);

--
-- What isn't remembered any more can't be settled
--
SELECT fence FROM idempotency.claim('lease.expired', 'key', lease => '1 ms', retention => '1 s') \gset
SELECT fence AS beating FROM idempotency.claim('lease.expired', 'beating', lease => '1 ms', retention => '1 s') \gset
SELECT idempotency.heartbeat('lease.expired', 'beating', :beating, '30 min') > now() AS extended;
SELECT pg_sleep(1.1);
SELECT n, lease_test.attempt('lease.expired', 'key', format(command, 'lease.expired', 'key', '$1')) FROM lease_test.held ORDER BY n;
SELECT outcome FROM idempotency.peek('lease.expired', 'key');
SELECT key, state, expired FROM idempotency.keys WHERE scope = 'lease.expired' ORDER BY key;
SELECT outcome, attempt, fence > :fence AS new_fence FROM idempotency.claim('lease.expired', 'key', 'another', lease => '30 min');
SELECT idempotency.finish('lease.expired', 'beating', 'r', :beating) > now() AS finished;
-- for ever
SELECT ring FROM idempotency.configure('lease.permanent', retention => 'infinity');
SELECT fence, expires_at AS expires FROM idempotency.claim('lease.permanent', 'key', lease => '30 min') \gset
SELECT :'expires' AS expires_at, idempotency.heartbeat('lease.permanent', 'key', :fence, '1 h') > now() AS extended;
SELECT lease_until - claimed_at > '59 min' AS extended, expires_at FROM idempotency.keys WHERE scope = 'lease.permanent';
SELECT idempotency.finish('lease.permanent', 'key', 'r', :fence);

--
-- Arguments out of bounds.  Nothing is written.
--
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '0');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '1 h 1 us');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '1 min', owner => '');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '1 min', owner => repeat('o', 256));
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '1 min', state => repeat('s', 65537));
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', owner => 'me');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', state => 's');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '-1 ms');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '999 us');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '4 days 1 us');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '1 month');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '178000000 years');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '-178000000 years');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '-178000000 years 1 h');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '2147483647 days');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '2147483647 days 2562047788 h');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '1 h 1 us', owner => 'me');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '1 min', owner => repeat('é', 128));
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '1 min', retention => '25 h');
SELECT outcome FROM idempotency.claim('lease.bounds', 'key', lease => '1 min', retention => '0');
SELECT outcome FROM idempotency.claim_or_raise('lease.bounds', 'key', lease => '0');
SELECT outcome FROM idempotency.claim_or_raise('lease.bounds', 'key', owner => 'me');
SELECT outcome FROM idempotency.claim_many('lease.bounds', '{key}', lease => '-1 s');
\set VERBOSITY default
-- an infinite interval is one only from 17 on
DO $$
BEGIN
    PERFORM idempotency.claim('lease.bounds', 'key', lease => 'infinity');
EXCEPTION
    WHEN sqlstate 'ID400' OR invalid_datetime_format THEN RAISE NOTICE 'refused';
END $$;
SELECT count(*) FROM idempotency.keys WHERE scope = 'lease.bounds';
SELECT lease, outcome, lease_until - claimed_at = lease AS exact
FROM unnest(ARRAY['1 ms', '1.5 ms', '1 h']::interval[]) AS lease, idempotency.claim('lease.bounds', lease::text, lease => lease);
SELECT outcome, octet_length(state) AS state FROM idempotency.claim('lease.bounds', 'longest', lease => '1 h', owner => repeat('o', 255), state => repeat('s', 65536));
BEGIN;
SELECT outcome, fence, attempt, lease_until FROM idempotency.claim('lease.bounds', 'null', lease => NULL, owner => NULL, state => NULL);
ROLLBACK;
SELECT outcome FROM idempotency.claim('lease.bounds', repeat('k', 255), lease => '1 ms', principal => repeat('p', 128));

--
-- In a read-only transaction
--
BEGIN READ ONLY;
SAVEPOINT s;
SELECT idempotency.heartbeat('lease.bounds', 'longest', 1);
ROLLBACK TO s;
SELECT idempotency.checkpoint('lease.bounds', 'longest', 1, 'p');
ROLLBACK TO s;
SELECT idempotency.assert_fence('lease.bounds', 'longest', 1);
ROLLBACK TO s;
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('lease.bounds', 'longest', lease => '1 min');
ROLLBACK TO s;
SELECT idempotency.finish('lease.bounds', 'longest', 'r', 1);
ROLLBACK TO s;
SELECT idempotency.fail('lease.bounds', 'longest', 'e', fence => 1);
ROLLBACK TO s;
SELECT idempotency.release('lease.bounds', 'longest', 1);
ROLLBACK TO s;
\set VERBOSITY default
SELECT outcome FROM idempotency.peek('lease.bounds', 'longest');
SELECT key FROM idempotency.activity WHERE scope = 'lease.bounds' AND lease_left_ms > 0 ORDER BY key;
ROLLBACK;

SET client_min_messages = warning;
DROP SCHEMA lease_test CASCADE;
