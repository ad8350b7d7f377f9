--
-- claim_many(): many keys of one scope in one call.
--
-- Convention: each section has a scope of its own.
--
\pset null '(null)'

--
-- One row for each key, in the order given
--
BEGIN;
SELECT ordinal, key, outcome, attempt, claimed_at IS NOT NULL AS claimed, expires_at - claimed_at AS retention
FROM idempotency.claim_many('batch.order', ARRAY['c', 'a', 'b', 'e', 'd']);
SELECT idempotency.finish('batch.order', key, upper(key)) > now() AS finished FROM unnest(ARRAY['a', 'b', 'c', 'd', 'e']) AS key;
COMMIT;
BEGIN;
SELECT ordinal, key, outcome, response FROM idempotency.claim_many('batch.order', ARRAY['d', 'f', 'a', 'c', 'g']);
SELECT key, idempotency.release('batch.order', key) FROM unnest(ARRAY['f', 'g']) AS key;
COMMIT;
SELECT key FROM idempotency.keys WHERE scope = 'batch.order' ORDER BY key;

--
-- A key that is given twice is taken once
--
BEGIN;
SELECT ordinal, key, outcome, reason FROM idempotency.claim_many('batch.duplicates', ARRAY['b', 'a', 'b', 'a', 'b']);
ROLLBACK;
-- with other requests: the first of them counts
BEGIN;
SELECT ordinal, key, outcome, reason
FROM idempotency.claim_many('batch.duplicates', ARRAY['b', 'a', 'b', 'a', 'b'], ARRAY['1', '{"n":2}', '3', '{"n": 2.0}', NULL]);
SELECT idempotency.finish('batch.duplicates', 'a') > now() AS finished;
SELECT idempotency.finish('batch.duplicates', 'b') > now() AS finished;
COMMIT;
SELECT ordinal, key, outcome
FROM idempotency.claim_many('batch.duplicates', ARRAY['b', 'a', 'b', 'a', 'b'], ARRAY['1', '{"n":2}', '3', '{"n": 3}', NULL]);
-- where commit settles
SELECT unfinished FROM idempotency.configure('batch.commit', unfinished => 'succeed');
SELECT ordinal, key, outcome, reason FROM idempotency.claim_many('batch.commit', ARRAY['a', 'b', 'a']);
SELECT ordinal, key, outcome, reason FROM idempotency.claim_many('batch.commit', ARRAY['a', 'b', 'a']);
SELECT count(*) FROM idempotency.keys WHERE scope = 'batch.commit';

--
-- Every outcome beside the others
--
BEGIN;
SELECT count(*) FROM idempotency.claim_many('batch.mixed', '{done,failed,later,now}', '{x,x,x,x}');
SELECT idempotency.finish('batch.mixed', 'done', 'r') > now() AS finished;
SELECT outcome FROM idempotency.fail('batch.mixed', 'failed', 'e', retryable => false);
SELECT outcome FROM idempotency.fail('batch.mixed', 'later', 'e', retry_after_ms => 3600000);
SELECT outcome FROM idempotency.fail('batch.mixed', 'now', 'e', retry_after_ms => 0);
COMMIT;
BEGIN;
SELECT outcome FROM idempotency.claim('batch.mixed', 'own');
SELECT ordinal, key, outcome, response, failed, error, attempt, reason
FROM idempotency.claim_many('batch.mixed', '{done,done,failed,failed,later,later,now,new,own,now}', '{x,y,x,y,x,y,x,x,x,x}');
ROLLBACK;

--
-- Rollback, savepoints, and commit without a settlement
--
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM idempotency.claim_many('batch.unsettled', '{a,b,c}') WHERE outcome = 'execute';
ROLLBACK TO s;
SELECT ordinal, key, outcome FROM idempotency.claim_many('batch.unsettled', '{c,b}');
SELECT idempotency.finish('batch.unsettled', 'c') > now() AS finished;
COMMIT;
SELECT outcome FROM idempotency.claim_many('batch.unsettled', '{a,b,c}');
SELECT count(*) FROM idempotency.keys WHERE scope = 'batch.unsettled';

--
-- Arrays
--
SELECT ordinal FROM idempotency.claim_many('batch.array', '{}');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{}', '{}');
BEGIN;
-- bounds that don't begin at 1; requests of NULL; requests that are NULL
SELECT ordinal, key, outcome FROM idempotency.claim_many('batch.array', '[5:6]={a,b}', '[-1:0]={x,y}');
SELECT ordinal, key, outcome FROM idempotency.claim_many('batch.array', '{a,b}', '{x,NULL}');
SELECT ordinal, key, outcome FROM idempotency.claim_many('batch.array', '{a,b}', NULL);
SELECT ordinal, key, outcome FROM idempotency.claim_many('batch.array', '{a,b}', '{NULL,x}');
ROLLBACK;
SELECT ordinal FROM idempotency.claim_many('batch.array', NULL);
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,NULL}');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,b}', '{x}');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{{a,b},{c,d}}');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,b,c,d}', '{{a,b},{c,d}}');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,b}', lease => '2 h');
BEGIN READ ONLY;
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a}');
ROLLBACK;
\set VERBOSITY sqlstate
SELECT ordinal FROM idempotency.claim_many('batch.array', NULL);
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,b}', '{}');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{{{{{{a}}}}}}');
SELECT ordinal FROM idempotency.claim_many(NULL, '{a}');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,b}', lease => '2 h');
-- one that is not allowed, and none is claimed
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,""}');
SELECT ordinal FROM idempotency.claim_many('batch.array', ARRAY['a', repeat('k', 256)]);
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,b}', ARRAY['x', '[object Object]']);
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,b}', ARRAY['x', '{"a":1,"a":1}']);
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,b}', wait => '-1 s');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{a,b}', wait => '2 h');
-- also if there is nothing to claim
SELECT ordinal FROM idempotency.claim_many(NULL, '{}');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{}', wait => '-1 s');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{}', lease => '0');
SELECT ordinal FROM idempotency.claim_many('batch.array', '{}', lease => '2 h');
\set VERBOSITY default
SELECT count(*) FROM idempotency.keys WHERE scope = 'batch.array';
-- the policy's terms hold for each
SELECT require_request FROM idempotency.configure('batch.required', require_request => true);
SELECT ordinal FROM idempotency.claim_many('batch.required', '{a,b}', '{x,NULL}');

--
-- Leased
--
SELECT ordinal, key, outcome, reason, attempt, lease_until - claimed_at AS lease, expires_at - lease_until AS retention
FROM idempotency.claim_many('batch.leased', '{c,a,b,a}', '{3,1,2,1}', lease => '30 min');
SELECT count(DISTINCT fence) AS fences, min(fence) > 0 AS fenced, count(*), bool_and(state = 'running') AS running FROM idempotency.keys WHERE scope = 'batch.leased';
-- whoever comes meanwhile is told so at once, also with a wait
BEGIN;
SELECT ordinal, key, outcome, reason, fence, attempt, retry_after_ms > 0 AS wait FROM idempotency.claim_many('batch.leased', '{a,b,c,d}', '{1,2,4,4}', wait => '1 h');
ROLLBACK;
SELECT ordinal, key, outcome, fence > 0 AS fenced FROM idempotency.claim_many('batch.leased', '{a,d}', lease => '1 ms', wait => '0');
-- each is settled by itself
SELECT key, idempotency.finish('batch.leased', key, upper(key), fence) > now() AS finished FROM idempotency.keys WHERE scope = 'batch.leased' AND key < 'd' ORDER BY key;
SELECT pg_sleep(0.002);
SELECT ordinal, key, outcome, response, attempt, fence > 0 AS fenced FROM idempotency.claim_many('batch.leased', '{e,d,c,b,a,d}', lease => '30 min');
-- in one transaction: its own, undone by a rollback
BEGIN;
SELECT ordinal, key, outcome, reason FROM idempotency.claim_many('batch.leased', '{f,g}', lease => '30 min');
SELECT ordinal, key, outcome, reason FROM idempotency.claim_many('batch.leased', '{g,h,f}');
SELECT idempotency.release('batch.leased', 'h');
SAVEPOINT s;
SELECT ordinal, key, outcome, reason FROM idempotency.claim_many('batch.leased', '{h,i}', lease => '30 min');
ROLLBACK TO s;
COMMIT;
SELECT key FROM idempotency.keys WHERE scope = 'batch.leased' ORDER BY key;
-- many: each has a fence of its own
SELECT outcome, count(*), count(DISTINCT fence) AS fences FROM idempotency.claim_many('batch.leased.many', ARRAY(SELECT i::text FROM generate_series(1, 1000) AS i), lease => '30 min') GROUP BY outcome;
SELECT outcome, count(*), count(fence) AS fences FROM idempotency.claim_many('batch.leased.many', ARRAY(SELECT i::text FROM generate_series(1, 1000) AS i), lease => '30 min') GROUP BY outcome;
SELECT count(*), bool_and(finish > now()) AS finished FROM idempotency.keys, idempotency.finish(scope, key, 'r', fence) WHERE scope = 'batch.leased.many';
SELECT outcome, response, count(*) FROM idempotency.claim_many('batch.leased.many', ARRAY(SELECT i::text FROM generate_series(1, 1000) AS i)) GROUP BY outcome, response;

--
-- Principals
--
BEGIN;
SELECT ordinal, key, outcome FROM idempotency.claim_many('batch.principal', '{a,b}', principal => 'p');
SELECT ordinal, key, outcome FROM idempotency.claim_many('batch.principal', '{a,b}', principal => 'q');
SELECT ordinal, key, outcome FROM idempotency.claim_many('batch.principal', '{a,b}');
SELECT ordinal, key, outcome, reason FROM idempotency.claim_many('batch.principal', '{a,b}', principal => NULL);
ROLLBACK;

--
-- Many: chunks of 64 keys are decided together
--
BEGIN;
SELECT count(*), count(*) FILTER (WHERE outcome = 'execute') AS execute,
       bool_and(key = 'key ' || ordinal) AS in_order
FROM idempotency.claim_many('batch.many', ARRAY(SELECT 'key ' || i FROM generate_series(1, 1000) AS i));
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory';
SELECT count(idempotency.finish('batch.many', 'key ' || i, i::text)) FROM generate_series(1, 1000) AS i;
COMMIT;
SELECT count(*) FROM idempotency.keys WHERE scope = 'batch.many';
-- a third of the keys is new, and each is given three times
BEGIN;
SELECT n, outcome, reason, count(*), bool_and(response IS NOT DISTINCT FROM CASE WHEN outcome = 'replay' THEN split_part(key, ' ', 2) END) AS response_is_its_own
FROM (SELECT c.*, CASE WHEN row_number() OVER (PARTITION BY key ORDER BY ordinal) = 1 THEN 'first' ELSE 'again' END AS n
      FROM idempotency.claim_many('batch.many', ARRAY(SELECT 'key ' || i FROM generate_series(1, 3) AS n, generate_series(501, 1250) AS i)) AS c) AS c
GROUP BY n, outcome, reason
ORDER BY n, outcome;
ROLLBACK;
-- 50,000, which is more than there are locks
BEGIN;
SELECT outcome, count(*)
FROM idempotency.claim_many('batch.more', ARRAY(SELECT i::text FROM generate_series(1, 50000) AS i))
GROUP BY outcome;
SELECT count(*) <= 12 AS few FROM pg_locks WHERE pid = pg_backend_pid();
ROLLBACK;
SELECT count(*) FROM idempotency.keys WHERE scope = 'batch.more';
