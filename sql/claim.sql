--
-- Claiming: every answer, in one session.  What two sessions see of each other
-- is under test/specs.
--
-- Convention: each section has a scope of its own.  Times are never printed;
-- filled() names the columns of an answer that are not null.
--
\pset null '(null)'
CREATE SCHEMA claim_test;
CREATE FUNCTION claim_test.filled(answer json) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(name, ' ') FROM json_object_keys(json_strip_nulls(answer)) AS name $$;
-- the effects: no unique constraint, so that a duplicate shows
CREATE TABLE claim_test.effect (operation text);

--
-- The outcomes and their columns
--
-- execute
BEGIN;
SELECT outcome, response, failed, error, attempt, reason, claim_test.filled(to_json(c))
FROM idempotency.claim('claim.outcome', 'done', '{"amount": 1}') AS c;
-- in_progress: claimed twice in one transaction
SELECT outcome, response, failed, attempt, reason, claim_test.filled(to_json(c))
FROM idempotency.claim('claim.outcome', 'done', '{"amount": 1}') AS c;
SELECT idempotency.finish('claim.outcome', 'done', 'receipt 1') > now() AS finished;
-- replay: in the same transaction, and in the next
SELECT outcome, response, failed, error, attempt, reason, claim_test.filled(to_json(c))
FROM idempotency.claim('claim.outcome', 'done', '{"amount": 1}') AS c;
COMMIT;
SELECT outcome, response, failed, error, attempt, reason, claim_test.filled(to_json(c))
FROM idempotency.claim('claim.outcome', 'done', '{"amount": 1}') AS c;
-- mismatch: shows nothing of what is stored
SELECT outcome, response, failed, error, attempt, reason, claim_test.filled(to_json(c))
FROM idempotency.claim('claim.outcome', 'done', '{"amount": 2}') AS c;
-- retry_later
BEGIN;
SELECT outcome FROM idempotency.claim('claim.outcome', 'later');
SELECT outcome, attempt, retry_after_ms FROM idempotency.fail('claim.outcome', 'later', 'bank is closed', retry_after_ms => 3600000);
COMMIT;
SELECT outcome, response, failed, error, attempt, reason, retry_after_ms BETWEEN 3500000 AND 3600000 AS in_an_hour,
       claim_test.filled(to_json(c))
FROM idempotency.claim('claim.outcome', 'later') AS c;
-- replay of a final failure
BEGIN;
SELECT outcome FROM idempotency.claim('claim.outcome', 'failed');
SELECT * FROM idempotency.fail('claim.outcome', 'failed', 'account is closed', retryable => false);
COMMIT;
SELECT outcome, response, failed, error, attempt, reason, claim_test.filled(to_json(c))
FROM idempotency.claim('claim.outcome', 'failed') AS c;
-- exhausted
SELECT max_attempts FROM idempotency.configure('claim.exhausted', max_attempts => 1);
BEGIN;
SELECT outcome FROM idempotency.claim('claim.exhausted', 'key');
SELECT * FROM idempotency.fail('claim.exhausted', 'key', 'no luck');
COMMIT;
SELECT outcome, response, failed, error, attempt, reason, claim_test.filled(to_json(c))
FROM idempotency.claim('claim.exhausted', 'key') AS c;
-- expired
SELECT outcome, response, failed, error, attempt, reason, claim_test.filled(to_json(c))
FROM idempotency.claim('claim.outcome', 'old', first_sent => now() - interval '2 days') AS c;

--
-- The request: the same key with another request is never answered with the
-- stored response, whatever state the key is in
--
BEGIN;
SELECT outcome FROM idempotency.claim('claim.request', 'done', '{"a": 1, "b": [true, null]}');
-- own transaction, not settled
SELECT outcome, reason FROM idempotency.claim('claim.request', 'done', '{"a": 2}');
SELECT idempotency.finish('claim.request', 'done', 'r') > now() AS finished;
-- own transaction, settled
SELECT outcome, response FROM idempotency.claim('claim.request', 'done', '{"a": 2}');
SELECT outcome FROM idempotency.claim('claim.request', 'later', 'x');
SELECT outcome FROM idempotency.fail('claim.request', 'later', retry_after_ms => 60000);
SELECT outcome FROM idempotency.claim('claim.request', 'now', 'x');
SELECT outcome FROM idempotency.fail('claim.request', 'now', retry_after_ms => 0);
SELECT outcome FROM idempotency.claim('claim.request', 'failed', 'x');
SELECT outcome FROM idempotency.fail('claim.request', 'failed', 'secret', retryable => false);
SELECT outcome FROM idempotency.claim('claim.request', 'without');
SELECT idempotency.finish('claim.request', 'without', 'r') > now() AS finished;
COMMIT;
SELECT key, outcome, response, failed, error
FROM unnest(ARRAY['done', 'later', 'now', 'failed']) AS key, idempotency.claim('claim.request', key, 'y');
SELECT outcome FROM idempotency.claim('claim.exhausted', 'key', 'y');
-- JSON objects and arrays are compared by value, anything else byte for byte
SELECT outcome, request
FROM unnest(ARRAY['{"b":[true,null],"a":1.0}', E'\n{"a":1e0, "b":[ true,null ]}\t', '{"\u0061":1,"b":[true,null]}',
                  '{"a":"1","b":[true,null]}', '{"a":1,"b":[null,true]}', '{"a":1,"b":[true]}', '']) AS request,
     idempotency.claim('claim.request', 'done', request);
-- a claim without a request is not checked, nor is one against a key without
SELECT outcome, response FROM idempotency.claim('claim.request', 'done');
SELECT outcome, response FROM idempotency.claim('claim.request', 'without', 'y');
-- a retry without a request keeps that of the first attempt
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('claim.request', 'now');
SELECT outcome FROM idempotency.claim('claim.request', 'now', 'y');
SELECT idempotency.finish('claim.request', 'now', 'r') > now() AS finished;
COMMIT;
SELECT outcome FROM idempotency.claim('claim.request', 'now', 'y');
SELECT outcome FROM idempotency.claim('claim.request', 'now', 'x');
-- what a request must not be
SELECT outcome FROM idempotency.claim('claim.request', 'bad', '[object Object]');
SELECT outcome FROM idempotency.claim('claim.request', 'bad', '{"a": 1, "a": 2}');
SELECT outcome FROM idempotency.claim('claim.request', 'bad', '{"a": "\ud800"}');
SELECT count(*) FROM idempotency.keys WHERE scope = 'claim.request' AND key = 'bad';
-- a scope can require one, and limit its size
SELECT require_request, max_request_bytes
FROM idempotency.configure('claim.required', require_request => true, max_request_bytes => 10);
SELECT outcome FROM idempotency.claim('claim.required', 'key');
SELECT outcome FROM idempotency.claim('claim.required', 'key', '{"a":12345}');
BEGIN;
SELECT outcome FROM idempotency.claim('claim.required', 'key', '{"a":1234}');
ROLLBACK;

--
-- The response comes back byte for byte; '' and NULL are not the same
--
CREATE TABLE claim_test.response (key text, response text);
INSERT INTO claim_test.response VALUES
('01 empty', ''), ('02 null', NULL), ('03 json null', 'null'), ('04 json false', 'false'), ('05 json ""', '""'),
('06 zero', '0'), ('07 json as it was written', '{"b":1, "a" : 1.0}'), ('08 blanks', E'  \t\r\n '),
('09 not json', '{"a":'), ('10 composed', U&'\00E9'), ('11 decomposed', U&'e\0301'), ('12 zero width', U&'\200B'),
('13 outside the basic plane', U&'\+01F600'), ('14 large number', '1e400'), ('15 compressible', repeat('x', 100000)),
('16 incompressible', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 3000) AS i));
BEGIN;
SELECT count(*) FROM claim_test.response AS r, idempotency.claim('claim.response', r.key) AS c WHERE c.outcome = 'execute';
SELECT count(idempotency.finish('claim.response', key, response)) FROM claim_test.response;
COMMIT;
SELECT r.key, c.outcome, c.response IS NULL AS "null", c.response IS NOT DISTINCT FROM r.response COLLATE "C" AS same,
       octet_length(c.response)
FROM claim_test.response AS r, idempotency.claim('claim.response', r.key) AS c
ORDER BY r.key COLLATE "C";

--
-- A rollback undoes the claim with the effect, also one to a savepoint
--
BEGIN;
SELECT outcome FROM idempotency.claim('claim.rollback', 'all');
INSERT INTO claim_test.effect VALUES ('rolled back');
SELECT idempotency.finish('claim.rollback', 'all', 'r1') > now() AS finished;
ROLLBACK;
SELECT * FROM claim_test.effect;
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('claim.rollback', 'all');
-- the claim in a savepoint
SAVEPOINT a;
SELECT outcome FROM idempotency.claim('claim.rollback', 'savepoint');
ROLLBACK TO a;
SELECT outcome, attempt FROM idempotency.claim('claim.rollback', 'savepoint');
SELECT idempotency.finish('claim.rollback', 'savepoint') > now() AS finished;
RELEASE a;
SELECT outcome FROM idempotency.claim('claim.rollback', 'savepoint');
-- the finish in a savepoint: the claim is open again
SAVEPOINT b;
SELECT idempotency.finish('claim.rollback', 'all', 'r2') > now() AS finished;
ROLLBACK TO b;
SELECT outcome, reason FROM idempotency.claim('claim.rollback', 'all');
-- released savepoints become part of what is around them
SAVEPOINT c;
SAVEPOINT d;
SELECT outcome FROM idempotency.claim('claim.rollback', 'nested');
RELEASE d;
SAVEPOINT e;
SELECT idempotency.finish('claim.rollback', 'nested', 'r3') > now() AS finished;
RELEASE e;
SELECT outcome, response FROM idempotency.claim('claim.rollback', 'nested');
ROLLBACK TO c;
SELECT outcome FROM idempotency.claim('claim.rollback', 'nested');
-- given up inside, and claimed again, and again undone
SAVEPOINT f;
SELECT idempotency.release('claim.rollback', 'nested');
SELECT outcome FROM idempotency.claim('claim.rollback', 'nested', 'another request');
SAVEPOINT g;
SELECT idempotency.finish('claim.rollback', 'nested', 'r4') > now() AS finished;
SELECT outcome FROM idempotency.claim('claim.rollback', 'nested', 'one more');
ROLLBACK TO g;
SELECT outcome, reason FROM idempotency.claim('claim.rollback', 'nested', 'another request');
ROLLBACK TO f;
SELECT outcome, reason FROM idempotency.claim('claim.rollback', 'nested', 'one more');
SELECT idempotency.finish('claim.rollback', 'nested', 'r5') > now() AS finished;
SELECT idempotency.finish('claim.rollback', 'all', 'r6') > now() AS finished;
COMMIT;
SELECT key, outcome, response
FROM unnest(ARRAY['all', 'savepoint', 'nested']) AS key, idempotency.claim('claim.rollback', key);

--
-- PL/pgSQL's exception block is a savepoint.  A claim inside it is undone with
-- the work; one outside of it stays, and says so.
--
DO $$
BEGIN
    BEGIN
        PERFORM idempotency.claim('claim.block', 'inside');
        INSERT INTO claim_test.effect VALUES (1 / 0);
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'work failed, claim again: %', (SELECT outcome FROM idempotency.claim('claim.block', 'inside'));
    END;
    PERFORM idempotency.finish('claim.block', 'inside');
END $$;
DO $$
BEGIN
    PERFORM idempotency.claim('claim.block', 'outside');
    BEGIN
        INSERT INTO claim_test.effect VALUES (1 / 0);
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'work failed, claim again: %', (SELECT outcome FROM idempotency.claim('claim.block', 'outside'));
    END;
    PERFORM idempotency.release('claim.block', 'outside');
END $$;
-- an error is swallowed and nothing settles the claim: commit does not record
-- as done what never happened
DO $$
BEGIN
    PERFORM idempotency.claim('claim.block', 'outside');
    BEGIN
        INSERT INTO claim_test.effect VALUES (1 / 0);
        PERFORM idempotency.finish('claim.block', 'outside');
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
END $$;
SELECT key, outcome
FROM unnest(ARRAY['inside', 'outside']) AS key, idempotency.peek('claim.block', key);

--
-- Not settled at commit
--
SELECT outcome FROM idempotency.claim('claim.unsettled', 'k1');
BEGIN;
SELECT count(*) FROM generate_series(1, 3) AS i, idempotency.claim('claim.unsettled', 'k' || i) AS c;
SELECT idempotency.finish('claim.unsettled', 'k2') > now() AS finished;
COMMIT;
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('claim.unsettled', 'k1');
\set VERBOSITY default
SELECT count(*) FROM idempotency.keys WHERE scope = 'claim.unsettled';
-- a failed transaction has nothing to settle
BEGIN;
SELECT outcome FROM idempotency.claim('claim.unsettled', 'k1');
SELECT 1 / 0;
COMMIT;
-- nor has one that took the claim back
BEGIN;
SELECT outcome FROM idempotency.claim('claim.unsettled', 'k1');
SELECT idempotency.release('claim.unsettled', 'k1');
COMMIT;
-- where commit itself is the finish
SELECT unfinished FROM idempotency.configure('claim.commit', unfinished => 'succeed');
SELECT outcome FROM idempotency.claim('claim.commit', 'k1');
SELECT outcome, response, failed, claim_test.filled(to_json(c)) FROM idempotency.claim('claim.commit', 'k1') AS c;
BEGIN;
SELECT outcome FROM idempotency.claim('claim.commit', 'k2');
SELECT outcome, reason FROM idempotency.claim('claim.commit', 'k2');
SELECT idempotency.finish('claim.commit', 'k2', 'r') > now() AS finished;
SELECT outcome FROM idempotency.claim('claim.commit', 'k3');
SELECT outcome FROM idempotency.fail('claim.commit', 'k3', 'e', retryable => false);
COMMIT;
SELECT key, outcome, response, failed, error
FROM unnest(ARRAY['k2', 'k3']) AS key, idempotency.claim('claim.commit', key);

--
-- claim_or_raise(): returns what a caller can go on with, raises the rest
--
BEGIN;
SELECT outcome, claim_test.filled(to_json(c)) FROM idempotency.claim_or_raise('claim.raise', 'done', 'x') AS c;
SAVEPOINT s;
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'done', 'x');
ROLLBACK TO s;
SELECT idempotency.finish('claim.raise', 'done', 'r') > now() AS finished;
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'later');
SELECT outcome FROM idempotency.fail('claim.raise', 'later', 'secret', retry_after_ms => 5184000000);
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'failed');
SELECT outcome FROM idempotency.fail('claim.raise', 'failed', 'why', retryable => false);
COMMIT;
SELECT outcome, response FROM idempotency.claim_or_raise('claim.raise', 'done', 'x');
SELECT outcome, failed, error FROM idempotency.claim_or_raise('claim.raise', 'failed');
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'done', 'y');
SELECT outcome FROM idempotency.claim_or_raise('claim.exhausted', 'key');
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'old', first_sent => '2020-01-01');
-- how much of the delay is left varies, so without the detail
\set VERBOSITY terse
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'later');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'later');
BEGIN;
SELECT outcome FROM idempotency.claim('claim.raise', 'own');
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'own');
ROLLBACK;
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'done', 'y');
SELECT outcome FROM idempotency.claim_or_raise('claim.exhausted', 'key');
SELECT outcome FROM idempotency.claim_or_raise('claim.raise', 'old', first_sent => '2020-01-01');
\set VERBOSITY default

--
-- once(): true = do it, false = done before; commit settles it
--
BEGIN;
SELECT idempotency.once('claim.once', 'k1', 'x');
SELECT idempotency.once('claim.once', 'k1', 'x');
SELECT outcome FROM idempotency.claim('claim.once', 'k1');
ROLLBACK;
SELECT idempotency.once('claim.once', 'k1', 'x');
SELECT idempotency.once('claim.once', 'k1', 'x');
SELECT idempotency.once('claim.once', 'k1');
SELECT idempotency.once('claim.once', 'k1', 'x', principal => 'other');
SELECT idempotency.once('claim.once', 'k1', 'y');
-- what has failed for good was not done
SELECT idempotency.once('claim.raise', 'failed');
\set VERBOSITY sqlstate
SELECT idempotency.once('claim.raise', 'later');
SELECT idempotency.once('claim.once', 'k1', 'y');
SELECT idempotency.once('claim.exhausted', 'key');
SELECT idempotency.once('claim.raise', 'failed');
SELECT idempotency.once(NULL, 'k1');
SELECT idempotency.once('claim.once', NULL);
-- what claim() holds is not settled by once()
BEGIN;
SELECT outcome FROM idempotency.claim('claim.once', 'k2');
SELECT idempotency.once('claim.once', 'k2');
ROLLBACK;
\set VERBOSITY default
SELECT outcome, response, claim_test.filled(to_json(c)) FROM idempotency.claim('claim.once', 'k1') AS c;

--
-- first_sent: an operation that may be older than what is remembered
--
BEGIN;
SELECT sent, outcome
FROM (VALUES ('25 h ago', now() - interval '25 hours'), ('23 h ago', now() - interval '23 hours'), ('now', now()),
             ('tomorrow', now() + interval '1 day'), ('infinity', 'infinity'), ('-infinity', '-infinity')) AS v(sent, at),
     idempotency.claim('claim.first_sent', sent, first_sent => at);
-- with a shorter retention, less is remembered
SELECT outcome FROM idempotency.claim('claim.first_sent', 'short', first_sent => now() - interval '2 min', retention => '1 min');
SELECT outcome FROM idempotency.claim('claim.first_sent', 'short', first_sent => now() - interval '50 s', retention => '1 min');
-- what is remembered is answered, however old
SELECT outcome, reason FROM idempotency.claim('claim.first_sent', 'short', first_sent => '-infinity');
ROLLBACK;
SELECT retention FROM idempotency.configure('claim.first_sent', retention => 'infinity');
BEGIN;
SELECT outcome FROM idempotency.claim('claim.first_sent', 'ever', first_sent => '-infinity');
ROLLBACK;

--
-- Arguments out of bounds.  Nothing is written.
--
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', retention => '999999 us');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', retention => '1 day 1 us');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', wait => '-1 us');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', wait => '1 h 1 us');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', owner => 'me');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', state => '{}');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', retention => '0');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', retention => '-1 day');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', retention => '61 days');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', retention => '178000000 years');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', retention => '-178000000 years');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', wait => '178000000 years');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', wait => '-178000000 years');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', owner => 'me');
SELECT outcome FROM idempotency.claim('claim.bounds', 'key', state => '{}');
SELECT outcome FROM idempotency.claim_or_raise('claim.bounds', 'key', owner => 'me', state => '{}');
\set VERBOSITY default
SELECT count(*) FROM idempotency.keys WHERE scope = 'claim.bounds';
BEGIN;
SELECT argument, outcome, expires_at - claimed_at = argument AS exact
FROM unnest(ARRAY['1 s', '1 h', '4 h 1 us', '24 h']::interval[]) AS argument,
     idempotency.claim('claim.bounds', argument::text, retention => argument);
SELECT argument, outcome
FROM unnest(ARRAY['0', '1 us', '1 ms', '1 h']::interval[]) AS argument,
     idempotency.claim('claim.bounds', argument::text, wait => argument);
SELECT outcome, expires_at - claimed_at AS retention
FROM idempotency.claim('claim.bounds', 'null', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
ROLLBACK;

--
-- A read-only transaction can't claim, whatever is remembered
--
BEGIN READ ONLY;
SELECT outcome FROM idempotency.claim('claim.outcome', 'done');
ROLLBACK;
\set VERBOSITY sqlstate
BEGIN READ ONLY;
SELECT outcome FROM idempotency.claim_or_raise('claim.outcome', 'done');
ROLLBACK;
BEGIN READ ONLY;
SELECT idempotency.once('claim.outcome', 'done');
ROLLBACK;
\set VERBOSITY default

--
-- Retention counts from the settlement, and an own row counts until commit
--
BEGIN;
SELECT outcome FROM idempotency.claim('claim.short', 'key', retention => '1 s');
SELECT pg_sleep(1.1);
SELECT outcome, reason FROM idempotency.claim('claim.short', 'key');
SELECT idempotency.finish('claim.short', 'key', 'r') > clock_timestamp() - interval '1 h' AS finished;
SELECT outcome FROM idempotency.claim('claim.short', 'key');
COMMIT;
SELECT expires_at - finished_at AS retention, finished_at - claimed_at > interval '1 s' AS took_longer
FROM idempotency.keys WHERE scope = 'claim.short';
SELECT pg_sleep(1.1);
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('claim.short', 'key', 'another request');
ROLLBACK;

--
-- Where a claim can stand.  PostgreSQL may evaluate a volatile function more
-- often than it is written, or use one answer for several rows; of several
-- evaluations at most one says "execute".
--
BEGIN;
SELECT (idempotency.claim('claim.twice', 'star')).outcome, (idempotency.claim('claim.twice', 'star')).outcome AS again;
VALUES ((SELECT outcome FROM idempotency.claim('claim.twice', 'values'))), ((SELECT outcome FROM idempotency.claim('claim.twice', 'values')));
SELECT outcome FROM idempotency.claim('claim.twice', 'union')
UNION ALL
SELECT outcome FROM idempotency.claim('claim.twice', 'union');
WITH c AS (SELECT outcome FROM idempotency.claim('claim.twice', 'cte')) SELECT a.outcome, b.outcome AS again FROM c AS a, c AS b;
WITH c AS NOT MATERIALIZED (SELECT outcome FROM idempotency.claim('claim.twice', 'inline'))
SELECT a.outcome, b.outcome AS again FROM c AS a, c AS b;
ROLLBACK;
-- a rule copies the expression
CREATE TABLE claim_test.ruled (granted bool);
CREATE TABLE claim_test.copied (granted bool);
CREATE RULE copy AS ON INSERT TO claim_test.ruled DO ALSO INSERT INTO claim_test.copied VALUES (new.granted);
INSERT INTO claim_test.ruled VALUES (idempotency.once('claim.twice', 'rule'));
SELECT (SELECT granted FROM claim_test.ruled) AS ruled, (SELECT granted FROM claim_test.copied) AS copied;
-- a default
CREATE TABLE claim_test.defaulted (n int, granted bool DEFAULT idempotency.once('claim.twice', 'default'));
INSERT INTO claim_test.defaulted VALUES (1), (2);
SELECT * FROM claim_test.defaulted ORDER BY n;
DROP TABLE claim_test.defaulted;

-- INSERT ... SELECT: of five requests with two keys, two take effect
SELECT unfinished FROM idempotency.configure('claim.statement', unfinished => 'succeed');
INSERT INTO claim_test.effect
SELECT key FROM unnest(ARRAY['a', 'b', 'a', 'a', 'b']) AS key, idempotency.claim('claim.statement', key) WHERE outcome = 'execute';
SELECT operation FROM claim_test.effect ORDER BY operation;
-- WITH ... INSERT
WITH c AS (SELECT outcome FROM idempotency.claim('claim.statement', 'with'))
INSERT INTO claim_test.effect SELECT 'with' FROM c WHERE outcome = 'execute';
WITH c AS (SELECT outcome FROM idempotency.claim('claim.statement', 'with'))
INSERT INTO claim_test.effect SELECT 'with' FROM c WHERE outcome = 'execute';
-- MERGE
MERGE INTO claim_test.effect AS e
USING (SELECT key, outcome FROM unnest(ARRAY['m', 'n', 'm']) AS key, idempotency.claim('claim.statement', key)) AS c
ON e.operation = c.key
WHEN NOT MATCHED AND c.outcome = 'execute' THEN INSERT VALUES ('merge ' || c.key);
SELECT operation, count(*) FROM claim_test.effect GROUP BY operation ORDER BY operation;
-- UPDATE and DELETE: cheaper conditions are looked at first
UPDATE claim_test.effect SET operation = operation || '!' WHERE operation = 'a' AND idempotency.once('claim.statement', 'update');
UPDATE claim_test.effect SET operation = operation || '!' WHERE operation LIKE 'a%' AND idempotency.once('claim.statement', 'update');
DELETE FROM claim_test.effect WHERE operation = 'a!' AND idempotency.once('claim.statement', 'delete');
SELECT operation FROM claim_test.effect ORDER BY operation;

-- a function with a SET clause, and with its owner's rights
CREATE FUNCTION claim_test.claim(key text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_temp SET work_mem = '1MB' AS
$$ BEGIN RETURN (SELECT outcome FROM idempotency.claim('claim.function', key)); END $$;
BEGIN;
SELECT claim_test.claim('key');
SELECT claim_test.claim('key');
SELECT idempotency.finish('claim.function', 'key') > now() AS finished;
COMMIT;
SELECT claim_test.claim('key');

-- a procedure that commits: each of its transactions answers for itself
CREATE PROCEDURE claim_test.work(last_is_finished bool) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..3 LOOP
        RAISE NOTICE '%: %', i, (SELECT outcome FROM idempotency.claim('claim.procedure', 'k' || i));
        IF i < 3 OR last_is_finished THEN
            PERFORM idempotency.finish('claim.procedure', 'k' || i);
        END IF;
        COMMIT;
    END LOOP;
END $$;
CALL claim_test.work(false);
SELECT key FROM idempotency.keys WHERE scope = 'claim.procedure' ORDER BY key;
DO $$ BEGIN PERFORM idempotency.claim('claim.procedure', 'k3'); ROLLBACK; END $$;
DO $$ BEGIN
    PERFORM idempotency.claim('claim.procedure', 'k3');
    PERFORM idempotency.finish('claim.procedure', 'k3', 'r');
    COMMIT;
    RAISE NOTICE '%', (SELECT outcome FROM idempotency.claim('claim.procedure', 'k3'));
END $$;

-- a cursor claims as it is read, and what it claimed is bound to where it was read
BEGIN;
DECLARE c CURSOR FOR SELECT i, outcome FROM generate_series(1, 3) AS i, idempotency.claim('claim.cursor', 'k' || i);
FETCH 1 FROM c;
SAVEPOINT s;
FETCH 1 FROM c;
ROLLBACK TO s;
FETCH 1 FROM c;
CLOSE c;
SELECT key, outcome, reason FROM unnest(ARRAY['k1', 'k2', 'k3']) AS key, idempotency.peek('claim.cursor', key);
SELECT idempotency.release('claim.cursor', key) FROM unnest(ARRAY['k1', 'k2', 'k3']) AS key;
COMMIT;
-- WITH HOLD: read at commit, which then asks for what is not settled.  What
-- PostgreSQL keeps of the cursor is not to be read: the commit has failed.
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT outcome FROM idempotency.claim('claim.cursor', 'held');
COMMIT;
CLOSE c;
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT outcome FROM idempotency.claim('claim.commit', 'held');
COMMIT;
FETCH ALL FROM c;
CLOSE c;
SELECT outcome FROM idempotency.claim('claim.commit', 'held');

-- a deferred trigger, which runs at commit
CREATE FUNCTION claim_test.deferred() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '%', (SELECT outcome FROM idempotency.claim('claim.deferred', new.operation));
    IF new.operation = 'finished' THEN
        PERFORM idempotency.finish('claim.deferred', new.operation);
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON claim_test.effect DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION claim_test.deferred();
INSERT INTO claim_test.effect VALUES ('finished');
INSERT INTO claim_test.effect VALUES ('unfinished');
DROP TRIGGER deferred ON claim_test.effect;

-- a plan with a claim is never parallel, even if it is forced to be
SELECT set_config(name, CASE vartype WHEN 'enum' THEN 'regress' ELSE '0' END, false) <> '' AS forced FROM pg_settings
WHERE name IN ('force_parallel_mode', 'debug_parallel_query', 'parallel_setup_cost', 'parallel_tuple_cost', 'min_parallel_table_scan_size')
ORDER BY name;
CREATE FUNCTION claim_test.has_gather(query text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF, FORMAT JSON) ' || query LOOP
        IF line ~ 'Gather' THEN RETURN true; END IF;
    END LOOP;
    RETURN false;
END $$;
SELECT claim_test.has_gather('SELECT count(*) FROM claim_test.effect') AS control,
       claim_test.has_gather('SELECT count(idempotency.once(''claim.parallel'', operation)) FROM claim_test.effect') AS claim;
BEGIN;
SELECT outcome FROM idempotency.claim('claim.parallel', 'key');
SELECT idempotency.finish('claim.parallel', 'key', count(*)::text) > now() AS finished FROM claim_test.effect WHERE false;
SELECT outcome, reason FROM idempotency.claim('claim.parallel', 'key');
ROLLBACK;
RESET ALL;

--
-- The session holds nothing between transactions, and within one the claim is
-- the transaction's, not the role's
--
CREATE ROLE regress_idempotency_claim;
GRANT EXECUTE ON FUNCTION idempotency.finish, idempotency.claim TO regress_idempotency_claim;
BEGIN;
SELECT outcome FROM idempotency.claim('claim.session', 'key');
SELECT idempotency.finish('claim.session', 'key', 'r') > now() AS finished;
COMMIT;
DISCARD ALL;
\pset null '(null)'
SELECT outcome, response FROM idempotency.claim('claim.session', 'key');
PREPARE claim(text) AS SELECT outcome FROM idempotency.claim('claim.session', $1);
BEGIN;
EXECUTE claim('prepared');
SET LOCAL ROLE regress_idempotency_claim;
SELECT outcome, reason FROM idempotency.claim('claim.session', 'prepared');
SELECT idempotency.finish('claim.session', 'prepared') > now() AS finished;
COMMIT;
EXECUTE claim('prepared');
DISCARD PLANS;
EXECUTE claim('prepared');
\c
EXECUTE claim('prepared');
SELECT outcome, response FROM idempotency.claim('claim.session', 'key');
REVOKE EXECUTE ON FUNCTION idempotency.finish, idempotency.claim FROM regress_idempotency_claim;
DROP ROLE regress_idempotency_claim;

--
-- The extension is dropped in the transaction that claims, and is back after
-- the rollback, with all keys
--
SET client_min_messages = warning;
DROP SCHEMA claim_test CASCADE;
RESET client_min_messages;
BEGIN;
SELECT outcome FROM idempotency.claim('claim.drop', 'key');
DROP EXTENSION idempotency;
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('claim.drop', 'key');
\set VERBOSITY default
ROLLBACK;
BEGIN;
SELECT outcome FROM idempotency.claim('claim.drop', 'key');
SAVEPOINT s;
DROP EXTENSION idempotency;
ROLLBACK TO s;
SELECT outcome, reason FROM idempotency.claim('claim.drop', 'key');
SELECT idempotency.finish('claim.drop', 'key', 'r') > now() AS finished;
COMMIT;
SELECT outcome, response FROM idempotency.claim('claim.drop', 'key');
-- dropped and created: another extension, which knows nothing
BEGIN;
SELECT outcome FROM idempotency.claim('claim.drop', 'key');
DROP EXTENSION idempotency;
CREATE EXTENSION idempotency;
SELECT outcome FROM idempotency.claim('claim.drop', 'key');
SELECT idempotency.release('claim.drop', 'key');
ROLLBACK;
SELECT outcome, response FROM idempotency.claim('claim.drop', 'key');

--
-- Many
--
-- ten thousand savepoints, more than are cached of a transaction; every third
-- is rolled back
DO $$
DECLARE
    answer record;
BEGIN
    FOR i IN 1..10000 LOOP
        BEGIN
            SELECT * INTO answer FROM idempotency.claim('claim.many', i::text);
            IF answer.outcome <> 'execute' THEN
                RAISE EXCEPTION 'claim % was answered %', i, answer.outcome;
            END IF;
            PERFORM idempotency.finish('claim.many', i::text, i::text);
            IF i % 3 = 0 THEN
                RAISE division_by_zero;
            END IF;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT count(*), count(*) FILTER (WHERE key::int % 3 = 0) AS rolled_back FROM idempotency.keys WHERE scope = 'claim.many';
SELECT count(*) FROM generate_series(1, 10000) AS i, idempotency.claim('claim.many', i::text) AS c
WHERE i % 3 <> 0 AND (c.outcome <> 'replay' OR c.response <> i::text);
-- twenty thousand claims in one transaction take no more locks than one
BEGIN;
SELECT count(*) FROM generate_series(1, 20000) AS i, idempotency.claim('claim.locks', i::text) AS c WHERE c.outcome = 'execute';
SELECT count(*) <= 12 AS few FROM pg_locks WHERE pid = pg_backend_pid();
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory';
SELECT count(idempotency.finish('claim.locks', i::text)) FROM generate_series(1, 20000) AS i;
SELECT count(*) <= 12 AS few FROM pg_locks WHERE pid = pg_backend_pid();
COMMIT;
SELECT count(*) FROM idempotency.keys WHERE scope = 'claim.locks';
-- someone else's advisory locks are in nobody's way
BEGIN;
SELECT count(pg_advisory_xact_lock(i)) + count(pg_advisory_xact_lock(i, i)) AS locks FROM generate_series(1, 1000) AS i;
SELECT outcome FROM idempotency.claim('claim.locks', 'one more', wait => '0');
ROLLBACK;
