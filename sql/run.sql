--
-- run(): claim, execute one statement as the caller, finish with its rows.
--
-- Convention: each section has a scope of its own.
--
\pset null '(null)'
CREATE SCHEMA run_test;
CREATE TABLE run_test.effect (id int GENERATED ALWAYS AS IDENTITY, operation text, amount numeric);

--
-- The response is the statement's rows as a JSON array
--
SELECT outcome, response, failed, error, attempt,
       claimed_at IS NOT NULL AS claimed, finished_at >= claimed_at AS finished, expires_at - finished_at AS retention
FROM idempotency.run('run.rows', 'insert', $$INSERT INTO run_test.effect (operation, amount) VALUES ($1->>'operation', ($1->>'amount')::numeric) RETURNING *$$,
                     '{"operation": "pay", "amount": 12.50}');
-- a duplicate gets the same, and nothing is executed
SELECT outcome, response, failed, error, attempt,
       claimed_at IS NOT NULL AS claimed, finished_at >= claimed_at AS finished, expires_at - finished_at AS retention
FROM idempotency.run('run.rows', 'insert', $$INSERT INTO run_test.effect (operation, amount) VALUES ($1->>'operation', ($1->>'amount')::numeric) RETURNING *$$,
                     '{"operation": "pay", "amount": 12.50}');
SELECT * FROM run_test.effect;
SELECT key, outcome, response
FROM (VALUES ('select', 'SELECT 1 AS one, NULL AS nothing, ''a "quoted" text'' AS words, ARRAY[1, 2] AS list'),
             ('some rows', 'SELECT i, i * i AS square FROM generate_series(1, 3) AS i'),
             ('no rows', 'SELECT 1 AS one WHERE false'),
             ('no columns', 'SELECT'),
             ('values', 'VALUES (1, ''a''), (2, ''b'')'),
             ('update', 'UPDATE run_test.effect SET amount = amount + 1 RETURNING operation, amount'),
             ('without returning', 'UPDATE run_test.effect SET amount = amount + 1'),
             ('with', 'WITH i AS (INSERT INTO run_test.effect (operation) VALUES (''with'') RETURNING operation) SELECT operation, ''done'' AS state FROM i'),
             ('function', 'SELECT * FROM unnest(ARRAY[''a'', ''b'']) WITH ORDINALITY AS u(letter, n)'),
             ('delete', 'DELETE FROM run_test.effect WHERE operation = ''with'' RETURNING operation'),
             ('definition', 'CREATE TABLE run_test.made (a int)'),
             ('semicolon', 'SELECT 1 AS one;'),
             ('args', 'SELECT $1 AS args, $1->''a''->>1 AS second')) AS v(key, command),
     idempotency.run('run.rows', key, command, '{"a": ["x", "y"]}');
SELECT operation, amount FROM run_test.effect;
-- without args: an empty object
SELECT response FROM idempotency.run('run.rows', 'no args', 'SELECT $1 AS args');

--
-- The claim is an ordinary one
--
SELECT outcome FROM idempotency.run('run.claim', 'key', 'SELECT 1', request => '{"a": 1}', principal => 'p');
SELECT outcome, response FROM idempotency.claim('run.claim', 'key', '{"a":1.0}', principal => 'p');
SELECT outcome, response FROM idempotency.run('run.claim', 'key', 'SELECT 2', request => '{"a": 2}', principal => 'p');
BEGIN;
SELECT outcome, response FROM idempotency.run('run.claim', 'key', 'SELECT 1 AS one');
SELECT outcome, response FROM idempotency.run('run.claim', 'key', 'SELECT 1 AS one');
ROLLBACK;
BEGIN;
SELECT outcome FROM idempotency.claim('run.claim', 'own');
SELECT outcome, reason, response FROM idempotency.run('run.claim', 'own', 'SELECT 1');
SELECT outcome FROM idempotency.fail('run.claim', 'own', 'e', retry_after_ms => 0);
SELECT outcome, attempt, response FROM idempotency.run('run.claim', 'own', 'SELECT 1 AS one');
COMMIT;
BEGIN;
SELECT outcome FROM idempotency.claim('run.claim', 'failed');
SELECT outcome FROM idempotency.fail('run.claim', 'failed', 'e', retryable => false);
COMMIT;
SELECT outcome, failed, error FROM idempotency.run('run.claim', 'failed', 'SELECT 1');

--
-- An error in the statement is the caller's, and leaves nothing
--
SELECT outcome FROM idempotency.run('run.error', 'key', 'INSERT INTO run_test.effect (operation) VALUES (''error'') RETURNING 1 / (id - id)');
SELECT outcome FROM idempotency.run('run.error', 'key', 'SELECT FROM run_test.nowhere');
DO $$
BEGIN
    BEGIN
        PERFORM idempotency.run('run.error', 'key', 'SELECT 1 / 0');
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'caught';
    END;
    RAISE NOTICE 'again: %', (SELECT outcome FROM idempotency.run('run.error', 'key', 'INSERT INTO run_test.effect (operation) VALUES (''error handled'')'));
END $$;
SELECT operation FROM run_test.effect WHERE operation LIKE 'error%';
-- also if it is the response that is refused
SELECT max_response_bytes FROM idempotency.configure('run.large', max_response_bytes => 11);
SELECT outcome FROM idempotency.run('run.large', 'key', 'INSERT INTO run_test.effect (operation) VALUES (''large'') RETURNING 10 AS ten');
SELECT outcome, octet_length(response) FROM idempotency.run('run.large', 'key', 'INSERT INTO run_test.effect (operation) VALUES (''not so large'') RETURNING 1 AS one');
SELECT operation FROM run_test.effect WHERE operation LIKE '%large';

--
-- What is refused
--
SELECT outcome FROM idempotency.run('run.refused', 'key', 'SELECT 1; SELECT 2');
SELECT outcome FROM idempotency.run('run.refused', 'key', '');
SELECT outcome FROM idempotency.run('run.refused', 'key', '-- nothing');
SELECT outcome FROM idempotency.run('run.refused', 'key', 'COMMIT');
SELECT outcome FROM idempotency.run('run.refused', 'key', 'COPY run_test.effect TO STDOUT');
SELECT outcome FROM idempotency.run('run.refused', 'key', 'COPY run_test.effect (operation) FROM STDIN');
SELECT outcome FROM idempotency.run('run.refused', 'key', NULL);
SELECT outcome FROM idempotency.run('run.refused', 'key', 'SELECT 1', NULL);
SELECT outcome FROM idempotency.run('run.refused', 'key', 'SELEC 1');
SELECT outcome FROM idempotency.run('run.refused', 'key', 'SELECT $2');
BEGIN READ ONLY;
SELECT outcome FROM idempotency.run('run.refused', 'key', 'SELECT 1');
ROLLBACK;
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.run('run.refused', 'key', 'SELECT 1; SELECT 2');
SELECT outcome FROM idempotency.run('run.refused', 'key', 'ROLLBACK');
SELECT outcome FROM idempotency.run('run.refused', 'key', 'SAVEPOINT s');
SELECT outcome FROM idempotency.run('run.refused', 'key', 'BEGIN');
SELECT outcome FROM idempotency.run('run.refused', 'key', 'VACUUM');
SELECT outcome FROM idempotency.run('run.refused', 'key', 'DO ''BEGIN COMMIT; END''');
SELECT outcome FROM idempotency.run(NULL, 'key', 'SELECT 1');
SELECT outcome FROM idempotency.run('run.refused', NULL, 'SELECT 1');
\set VERBOSITY default
SELECT count(*) FROM idempotency.keys WHERE scope = 'run.refused';

--
-- A statement that meddles with its own claim
--
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.run('run.own', 'released', $$SELECT idempotency.release('run.own', 'released')$$);
SELECT outcome FROM idempotency.run('run.own', 'finished', $$SELECT idempotency.finish('run.own', 'finished', 'mine')$$);
SELECT outcome FROM idempotency.run('run.own', 'failed', $$SELECT * FROM idempotency.fail('run.own', 'failed')$$);
SELECT outcome FROM idempotency.run('run.own', 'forgotten', $$SELECT idempotency.forget('run.own', 'forgotten', 'test')$$);
\set VERBOSITY default
SELECT outcome, response FROM idempotency.run('run.own', 'claimed', $$SELECT outcome, reason FROM idempotency.claim('run.own', 'claimed')$$);
-- and one that runs another, or itself
SELECT outcome, response
FROM idempotency.run('run.own', 'outer', $$SELECT outcome, response FROM idempotency.run('run.own', 'inner', 'SELECT 1 AS one')$$);
SELECT outcome, response FROM idempotency.claim('run.own', 'inner');
SELECT outcome, response
FROM idempotency.run('run.own', 'itself', $$SELECT outcome, reason FROM idempotency.run('run.own', 'itself', 'SELECT 1 AS one')$$);
-- claims left open by the statement are found at commit
SELECT outcome FROM idempotency.run('run.own', 'opens', $$SELECT outcome FROM idempotency.claim('run.own', 'opened')$$);
SELECT key FROM idempotency.keys WHERE scope = 'run.own' ORDER BY key COLLATE "C";

--
-- Keys that are leased: not while the lease lives; then the statement takes over
--
SELECT fence FROM idempotency.claim('run.leased', 'live', 'x', lease => '30 min') \gset
SELECT outcome, response, reason, fence, retry_after_ms > 0 AS wait FROM idempotency.run('run.leased', 'live', 'SELECT 1 / 0', request => 'x');
SELECT outcome, response FROM idempotency.run('run.leased', 'live', 'SELECT 1 / 0', request => 'y');
SELECT idempotency.finish('run.leased', 'live', 'r', :fence) > now() AS finished;
SELECT outcome, response FROM idempotency.run('run.leased', 'live', 'SELECT 1 / 0', request => 'x');
SELECT fence FROM idempotency.claim('run.leased', 'over', lease => '1 ms') \gset
SELECT idempotency.checkpoint('run.leased', 'over', :fence, 'charged', 's'), pg_sleep(0.002);
-- one that fails leaves the claim as it was
SELECT outcome FROM idempotency.run('run.leased', 'over', 'SELECT 1 / 0');
SELECT outcome, attempt, recovery_point, reason FROM idempotency.peek('run.leased', 'over');
SELECT idempotency.assert_fence('run.leased', 'over', :fence);
SELECT outcome, response, attempt, recovery_point, state, fence FROM idempotency.run('run.leased', 'over', 'SELECT 1 AS one');
\set VERBOSITY sqlstate
SELECT idempotency.finish('run.leased', 'over', 'r', :fence);
\set VERBOSITY default
-- a statement that takes a lease, and one that settles another's with its fence
SELECT outcome, response FROM idempotency.run('run.leased', 'leases', $$SELECT outcome, attempt FROM idempotency.claim('run.leased', 'leased', lease => '30 min')$$);
SELECT outcome, response
FROM idempotency.run('run.leased', 'settles', $$SELECT idempotency.finish(scope, key, 'r', fence) > now() AS finished FROM idempotency.keys WHERE scope = 'run.leased' AND key = 'leased'$$);
SELECT outcome, response FROM idempotency.claim('run.leased', 'leased');

--
-- It runs with the caller's rights, search_path and settings
--
CREATE ROLE regress_idempotency_run;
GRANT EXECUTE ON FUNCTION idempotency.run TO regress_idempotency_run;
GRANT USAGE ON SCHEMA run_test TO regress_idempotency_run;
SET ROLE regress_idempotency_run;
SELECT outcome FROM idempotency.run('run.rights', 'key', 'SELECT * FROM run_test.effect');
SELECT outcome FROM idempotency.run('run.rights', 'key', 'SELECT * FROM idempotency.key_day_0');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.run('run.rights', 'key', 'SELECT * FROM run_test.effect');
SELECT outcome FROM idempotency.run('run.rights', 'key', $$SELECT * FROM idempotency.claim('run.rights', 'other')$$);
\set VERBOSITY default
SELECT response FROM idempotency.run('run.rights', 'key', 'SELECT current_user, current_setting(''search_path'') AS search_path');
RESET ROLE;
GRANT SELECT ON run_test.effect TO regress_idempotency_run;
SET ROLE regress_idempotency_run;
SET search_path = run_test;
SELECT outcome, response FROM idempotency.run('run.rights', 'allowed', 'SELECT operation FROM effect WHERE id = 1');
RESET search_path;
RESET ROLE;
DROP OWNED BY regress_idempotency_run;
DROP ROLE regress_idempotency_run;

SET client_min_messages = warning;
DROP SCHEMA run_test CASCADE;
