--
-- Settling transactional claims: finish, fail, release.  (Leased ones: lease.sql.)
--
-- Convention: each section has a scope of its own.  finish() returns until when
-- the key is remembered; it is compared, never printed.
--
\pset null '(null)'

--
-- finish: the same again is answered, anything else refused
--
BEGIN;
SELECT outcome FROM idempotency.claim('settle.finish', 'key');
SELECT idempotency.finish('settle.finish', 'key', 'r', tag => 'made by hand') - now() BETWEEN interval '23 h' AND interval '25 h' AS a_day;
SAVEPOINT s;
SELECT idempotency.finish('settle.finish', 'key', 'r') = (SELECT expires_at FROM idempotency.peek('settle.finish', 'key')) AS same_expiry;
SELECT idempotency.finish('settle.finish', 'key', 'another');
ROLLBACK TO s;
\set VERBOSITY sqlstate
SELECT idempotency.finish('settle.finish', 'key');
ROLLBACK TO s;
SELECT idempotency.finish('settle.finish', 'key', '');
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.finish', 'key', 'r');
ROLLBACK TO s;
\set VERBOSITY default
COMMIT;
SELECT response FROM idempotency.claim('settle.finish', 'key');
SELECT state, attempt, tag, response_bytes, finished_at >= claimed_at AS in_order, expires_at - finished_at AS retention
FROM idempotency.keys WHERE scope = 'settle.finish';

--
-- Only the transaction that has claimed settles
--
-- nobody has claimed
SELECT idempotency.finish('settle.stranger', 'key', 'r');
-- another transaction has, and is done
BEGIN;
SELECT outcome FROM idempotency.claim('settle.stranger', 'done');
SELECT idempotency.finish('settle.stranger', 'done', 'r') > now() AS finished;
COMMIT;
SELECT idempotency.finish('settle.stranger', 'done', 'r');
\set VERBOSITY sqlstate
SELECT idempotency.finish('settle.stranger', 'done', 'r');
SELECT * FROM idempotency.fail('settle.stranger', 'done');
SELECT idempotency.release('settle.stranger', 'done');
SELECT idempotency.finish('settle.stranger', 'key', 'r');
SELECT * FROM idempotency.fail('settle.stranger', 'key');
-- a claim that was rolled back, released, or forgotten
BEGIN;
SAVEPOINT s;
SELECT outcome FROM idempotency.claim('settle.stranger', 'key');
ROLLBACK TO s;
SELECT idempotency.finish('settle.stranger', 'key');
ROLLBACK TO s;
SELECT outcome FROM idempotency.claim('settle.stranger', 'key');
SELECT idempotency.release('settle.stranger', 'key');
SELECT idempotency.finish('settle.stranger', 'key');
ROLLBACK TO s;
SELECT outcome FROM idempotency.claim('settle.stranger', 'key');
SELECT idempotency.finish('settle.stranger', 'key') > now() AS finished;
SELECT idempotency.forget('settle.stranger', 'key', 'test');
SELECT idempotency.finish('settle.stranger', 'key');
ROLLBACK;
-- what once() took is settled
BEGIN;
SELECT idempotency.once('settle.stranger', 'once');
SELECT idempotency.finish('settle.stranger', 'once', 'r');
ROLLBACK;
-- another identity
BEGIN;
SELECT outcome FROM idempotency.claim('settle.stranger', 'key', principal => 'p');
SAVEPOINT s;
SELECT idempotency.finish('settle.stranger', 'key', 'r');
ROLLBACK TO s;
SELECT idempotency.finish('settle.stranger', 'key', 'r', principal => 'P');
ROLLBACK TO s;
SELECT idempotency.finish('settle.stranger', 'key', 'r', principal => 'p') > now() AS finished;
ROLLBACK;
-- a duplicate was answered, not granted
BEGIN;
SELECT outcome FROM idempotency.claim('settle.stranger', 'done');
SELECT idempotency.finish('settle.stranger', 'done', 'mine');
ROLLBACK;
\set VERBOSITY default
SELECT outcome, response FROM idempotency.claim('settle.stranger', 'done');

--
-- A transactional claim has no fence: whoever passes one means another claim
--
BEGIN;
SELECT outcome, fence FROM idempotency.claim('settle.fence', 'key');
SAVEPOINT s;
SELECT idempotency.finish('settle.fence', 'key', 'r', 1);
ROLLBACK TO s;
\set VERBOSITY sqlstate
SELECT idempotency.finish('settle.fence', 'key', 'r', 9223372036854775807);
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.fence', 'key', fence => -9223372036854775808);
ROLLBACK TO s;
SELECT idempotency.release('settle.fence', 'key', 0);
ROLLBACK TO s;
\set VERBOSITY default
-- the row is unchanged
SELECT outcome, reason FROM idempotency.claim('settle.fence', 'key');
ROLLBACK;

--
-- Limits: at the limit, and one over it
--
SELECT max_response_bytes FROM idempotency.configure('settle.limit', max_response_bytes => 10);
BEGIN;
SELECT outcome FROM idempotency.claim('settle.limit', 'key');
SAVEPOINT s;
SELECT idempotency.finish('settle.limit', 'key', '12345678901');
ROLLBACK TO s;
\set VERBOSITY sqlstate
-- it counts bytes
SELECT idempotency.finish('settle.limit', 'key', U&'123456789\00E9');
ROLLBACK TO s;
SELECT idempotency.finish('settle.limit', 'key', '1234567890') > now() AS finished;
ROLLBACK TO s;
SELECT idempotency.finish('settle.limit', 'key', tag => repeat('t', 128)) > now() AS finished;
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.limit', 'key', repeat('e', 65536), retry_after_ms => 0);
ROLLBACK TO s;
\set VERBOSITY default
SELECT idempotency.finish('settle.limit', 'key', tag => repeat('t', 129));
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.limit', 'key', repeat('e', 65537));
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.limit', 'key', retry_after_ms => -1);
ROLLBACK TO s;
\set VERBOSITY sqlstate
SELECT * FROM idempotency.fail('settle.limit', 'key', retry_after_ms => 5184000001);
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.limit', 'key', retry_after_ms => 9223372036854775807);
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.limit', 'key', retry_after_ms => -9223372036854775808);
ROLLBACK TO s;
-- a delay longer than the retention means: until it is forgotten
SELECT * FROM idempotency.fail('settle.limit', 'key', retry_after_ms => 5184000000);
ROLLBACK;
-- the default is 1 MB
BEGIN;
SELECT outcome FROM idempotency.claim('settle.megabyte', 'key');
SAVEPOINT s;
SELECT idempotency.finish('settle.megabyte', 'key', repeat('x', 1048577));
ROLLBACK TO s;
SELECT idempotency.finish('settle.megabyte', 'key', repeat('x', 1048576)) > now() AS finished;
SELECT octet_length(response) FROM idempotency.claim('settle.megabyte', 'key');
ROLLBACK;
-- NULL where it can't be
SELECT idempotency.finish(NULL, 'key');
SELECT idempotency.finish('settle.limit', NULL);
SELECT * FROM idempotency.fail(NULL, 'key');
SELECT * FROM idempotency.fail('settle.limit', NULL);
SELECT idempotency.release(NULL, 'key');
SELECT idempotency.release('settle.limit', NULL);
\set VERBOSITY default
-- and where it can: as if left out
BEGIN;
SELECT outcome FROM idempotency.claim('settle.limit', 'null');
SELECT idempotency.finish('settle.limit', 'null', NULL, NULL, NULL, NULL, NULL) > now() AS finished;
SELECT outcome FROM idempotency.claim('settle.limit', 'null fail');
SELECT outcome, retry_after_ms BETWEEN 0 AND 1000 AS within_a_second
FROM idempotency.fail('settle.limit', 'null fail', NULL, NULL, NULL, NULL, NULL, NULL);
ROLLBACK;
-- nothing of it in a read-only transaction
BEGIN READ ONLY;
SELECT idempotency.finish('settle.limit', 'key');
ROLLBACK;
\set VERBOSITY sqlstate
BEGIN READ ONLY;
SELECT * FROM idempotency.fail('settle.limit', 'key');
ROLLBACK;
BEGIN READ ONLY;
SELECT idempotency.release('settle.limit', 'key');
ROLLBACK;
BEGIN READ ONLY;
SELECT idempotency.forget('settle.limit', 'key', 'test');
ROLLBACK;
\set VERBOSITY default

--
-- Retention: less than the policy says, never more.  Where it moves the row to
-- another table, there is one row all the same.
--
SELECT retention, ring FROM idempotency.configure('settle.retention', retention => '30 days');
BEGIN;
SELECT outcome, expires_at - claimed_at AS retention FROM idempotency.claim('settle.retention', 'key');
SELECT regexp_replace(segment, '\d', 'N') AS segment, count(*) FROM idempotency.keys WHERE scope = 'settle.retention' GROUP BY 1;
SAVEPOINT s;
SELECT idempotency.finish('settle.retention', 'key', 'r', retention => '30 days 1 us');
ROLLBACK TO s;
SELECT idempotency.finish('settle.retention', 'key', 'r', retention => '60 days 1 us');
ROLLBACK TO s;
\set VERBOSITY sqlstate
SELECT idempotency.finish('settle.retention', 'key', 'r', retention => '0');
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.retention', 'key', retention => '31 days');
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.retention', 'key', retention => '-1 s');
ROLLBACK TO s;
\set VERBOSITY default
SELECT argument
FROM unnest(ARRAY['1 s', '1 h', '7 days', '30 days']::interval[]) AS argument
WHERE idempotency.finish('settle.retention', 'key', 'r', retention => argument) > now();
SELECT expires_at - finished_at AS the_first_counts FROM idempotency.keys WHERE scope = 'settle.retention';
ROLLBACK;
-- a claim's retention holds for its finish, unless that says otherwise
BEGIN;
SELECT outcome FROM idempotency.claim('settle.retention', 'claimed', retention => '1 h');
SELECT outcome FROM idempotency.claim('settle.retention', 'longer', retention => '1 h');
SELECT outcome FROM idempotency.claim('settle.retention', 'shorter');
SELECT idempotency.finish('settle.retention', 'claimed', 'r') > now() AS finished;
SELECT idempotency.finish('settle.retention', 'longer', 'r', retention => '29 days') > now() AS finished;
SELECT idempotency.finish('settle.retention', 'shorter', 'r', retention => '1 min') > now() AS finished;
COMMIT;
SELECT key, expires_at - finished_at AS retention, count(*) OVER () AS rows
FROM idempotency.keys WHERE scope = 'settle.retention' ORDER BY key;
SELECT key, outcome, response
FROM unnest(ARRAY['claimed', 'longer', 'shorter']) AS key, idempotency.claim('settle.retention', key);
-- across tables: with epochs of 2 hours, 1 s and 3 h end in different ones
SELECT ring FROM idempotency.configure('settle.short', retention => '3 h');
BEGIN;
SELECT outcome FROM idempotency.claim('settle.short', 'later', retention => '1 s');
SELECT outcome FROM idempotency.claim('settle.short', 'sooner');
SELECT outcome FROM idempotency.claim('settle.short', 'there and back', retention => '1 s');
CREATE TEMP TABLE segment AS SELECT key, segment FROM idempotency.keys WHERE scope = 'settle.short';
SELECT idempotency.finish('settle.short', 'later', 'r', retention => '3 h') > now() AS finished;
SELECT idempotency.finish('settle.short', 'sooner', 'r', retention => '5 min') > now() AS finished;
SAVEPOINT s;
SELECT idempotency.finish('settle.short', 'there and back', 'r', retention => '3 h') > now() AS finished;
SELECT key, segment <> (SELECT segment FROM segment AS s WHERE s.key = k.key) AS moved
FROM idempotency.keys AS k WHERE scope = 'settle.short' ORDER BY key;
ROLLBACK TO s;
SELECT segment <> (SELECT segment FROM segment AS s WHERE s.key = k.key) AS moved
FROM idempotency.keys AS k WHERE scope = 'settle.short' AND key = 'there and back';
SELECT outcome, attempt FROM idempotency.fail('settle.short', 'there and back', 'e', retry_after_ms => 0, retention => '3 h');
SELECT outcome, attempt FROM idempotency.claim('settle.short', 'there and back', retention => '1 s');
SELECT idempotency.release('settle.short', 'there and back');
COMMIT;
SELECT key, outcome, response, attempt
FROM unnest(ARRAY['later', 'sooner', 'there and back']) AS key, idempotency.peek('settle.short', key);
SELECT key, count(*) FROM idempotency.keys WHERE scope = 'settle.short' GROUP BY key ORDER BY key;
DROP TABLE segment;

--
-- fail: to be tried again after a while
--
SELECT max_attempts, backoff_base, backoff_cap
FROM idempotency.configure('settle.retry', max_attempts => 3, backoff_base => '2 s', backoff_cap => '3 s');
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('settle.retry', 'key', 'x');
SELECT * FROM idempotency.fail('settle.retry', 'key', 'e1', retry_after_ms => 60000);
-- again the same is answered
SELECT outcome, attempt, retry_after_ms BETWEEN 50000 AND 60000 AS in_a_minute
FROM idempotency.fail('settle.retry', 'key', 'e1', retry_after_ms => 60000);
SAVEPOINT s;
SELECT * FROM idempotency.fail('settle.retry', 'key', 'another');
ROLLBACK TO s;
\set VERBOSITY sqlstate
SELECT * FROM idempotency.fail('settle.retry', 'key', 'e1', retryable => false);
ROLLBACK TO s;
SELECT idempotency.finish('settle.retry', 'key');
ROLLBACK TO s;
SELECT idempotency.release('settle.retry', 'key');
ROLLBACK TO s;
\set VERBOSITY default
-- until then nobody may
SELECT outcome, reason, failed, error, attempt, retry_after_ms BETWEEN 50000 AND 60000 AS in_a_minute
FROM idempotency.claim('settle.retry', 'key', 'x');
COMMIT;
SELECT outcome, reason, failed, error, attempt, retry_after_ms BETWEEN 50000 AND 60000 AS in_a_minute
FROM idempotency.claim('settle.retry', 'key', 'x');
SELECT state, attempt, retry_at > now() AS later FROM idempotency.keys WHERE scope = 'settle.retry' AND key = 'key';
-- the second attempt, at once
BEGIN;
SELECT outcome FROM idempotency.claim('settle.retry', 'now', 'x');
SELECT * FROM idempotency.fail('settle.retry', 'now', 'e1', retry_after_ms => 0);
SELECT outcome, attempt, error FROM idempotency.claim('settle.retry', 'now', 'x');
SELECT * FROM idempotency.fail('settle.retry', 'now', 'e2', retry_after_ms => 0);
COMMIT;
SELECT outcome, attempt, error FROM idempotency.peek('settle.retry', 'now');
-- the third is rolled back, and doesn't count
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('settle.retry', 'now', 'x');
ROLLBACK;
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('settle.retry', 'now', 'x');
SELECT * FROM idempotency.fail('settle.retry', 'now', 'e3', retry_after_ms => 0);
SELECT * FROM idempotency.fail('settle.retry', 'now', 'e3', retry_after_ms => 0);
COMMIT;
-- used up; the last error is shown
SELECT outcome, attempt, failed, error FROM idempotency.claim('settle.retry', 'now', 'x');
SELECT outcome FROM idempotency.claim('settle.retry', 'now', 'y');
-- without retry_after_ms: anything up to min(cap, base * 2^(attempt - 1))
BEGIN;
SELECT count(*) FROM generate_series(1, 100) AS i, idempotency.claim('settle.retry', 'jitter ' || i);
SELECT min(retry_after_ms) >= 0 AS lower, max(retry_after_ms) <= 2000 AS upper, count(DISTINCT retry_after_ms) > 50 AS spread
FROM generate_series(1, 100) AS i, idempotency.fail('settle.retry', 'jitter ' || i);
SELECT outcome FROM idempotency.claim('settle.retry', 'cap');
SELECT outcome FROM idempotency.fail('settle.retry', 'cap', retry_after_ms => 0);
SELECT outcome FROM idempotency.claim('settle.retry', 'cap');
SELECT outcome, retry_after_ms BETWEEN 0 AND 3000 AS capped FROM idempotency.fail('settle.retry', 'cap');
ROLLBACK;
-- it is remembered as long as a success
BEGIN;
SELECT outcome FROM idempotency.claim('settle.retry', 'forgotten');
SELECT outcome FROM idempotency.fail('settle.retry', 'forgotten', 'e', retention => '1 s', retry_after_ms => 0);
COMMIT;
SELECT pg_sleep(1.1);
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('settle.retry', 'forgotten', 'another request');
ROLLBACK;
-- a success after a failure clears the error
BEGIN;
SELECT outcome FROM idempotency.claim('settle.retry', 'cleared');
SELECT outcome FROM idempotency.fail('settle.retry', 'cleared', 'e', retry_after_ms => 0);
SELECT outcome, attempt FROM idempotency.claim('settle.retry', 'cleared');
SELECT idempotency.finish('settle.retry', 'cleared', 'r') > now() AS finished;
COMMIT;
SELECT outcome, response, failed, error, attempt FROM idempotency.claim('settle.retry', 'cleared');
SELECT state, retry_at FROM idempotency.keys WHERE scope = 'settle.retry' AND key = 'cleared';

--
-- fail: for good
--
BEGIN;
SELECT outcome FROM idempotency.claim('settle.failed', 'key');
SELECT * FROM idempotency.fail('settle.failed', 'key', 'e', retryable => false);
SELECT * FROM idempotency.fail('settle.failed', 'key', 'e', retryable => false);
SELECT outcome, failed, error, response FROM idempotency.claim('settle.failed', 'key');
SELECT outcome FROM idempotency.claim('settle.failed', 'null');
SELECT * FROM idempotency.fail('settle.failed', 'null', retryable => false);
COMMIT;
SELECT key, outcome, failed, error, response
FROM unnest(ARRAY['key', 'null']) AS key, idempotency.claim('settle.failed', key);
SELECT key, state FROM idempotency.keys WHERE scope = 'settle.failed' ORDER BY key;
-- where failures are not stored, it is as if nobody had tried
SELECT store_failures FROM idempotency.configure('settle.dropped', store_failures => false);
BEGIN;
SELECT outcome FROM idempotency.claim('settle.dropped', 'key', 'x');
SELECT * FROM idempotency.fail('settle.dropped', 'key', 'e', retryable => false);
SELECT outcome, attempt FROM idempotency.claim('settle.dropped', 'key', 'y');
SELECT * FROM idempotency.fail('settle.dropped', 'key', 'e', retryable => false);
COMMIT;
SELECT count(*) FROM idempotency.keys WHERE scope = 'settle.dropped';
-- those that may be tried again are: they carry the backoff
BEGIN;
SELECT outcome FROM idempotency.claim('settle.dropped', 'key');
SELECT * FROM idempotency.fail('settle.dropped', 'key', 'e1', retry_after_ms => 0);
COMMIT;
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('settle.dropped', 'key');
SELECT * FROM idempotency.fail('settle.dropped', 'key', 'e2', retryable => false);
COMMIT;
SELECT outcome, attempt, error FROM idempotency.peek('settle.dropped', 'key');

--
-- release: as if the claim had never been made
--
SELECT idempotency.release('settle.release', 'nothing');
BEGIN;
SELECT outcome FROM idempotency.claim('settle.release', 'key', 'x');
SELECT idempotency.release('settle.release', 'key');
SELECT idempotency.release('settle.release', 'key');
SELECT outcome, attempt FROM idempotency.claim('settle.release', 'key', 'y');
SELECT idempotency.finish('settle.release', 'key', 'r') > now() AS finished;
SAVEPOINT s;
SELECT idempotency.release('settle.release', 'key');
ROLLBACK TO s;
COMMIT;
SELECT idempotency.release('settle.release', 'key');
-- that of a retry gives back what was before, in every column
BEGIN;
SELECT outcome FROM idempotency.claim('settle.release', 'retry', 'x');
SELECT outcome FROM idempotency.fail('settle.release', 'retry', 'e', retry_after_ms => 0);
COMMIT;
CREATE TEMP TABLE before AS SELECT * FROM idempotency.keys WHERE scope = 'settle.release' AND key = 'retry';
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('settle.release', 'retry', 'x');
SELECT idempotency.release('settle.release', 'retry');
SELECT outcome, attempt, error FROM idempotency.peek('settle.release', 'retry');
COMMIT;
SELECT state, attempt FROM before;
SELECT count(*) AS differences
FROM (SELECT * FROM before EXCEPT SELECT * FROM idempotency.keys WHERE scope = 'settle.release' AND key = 'retry') AS d;
SELECT outcome FROM idempotency.claim('settle.release', 'retry', 'y');
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('settle.release', 'retry', 'x');
SELECT idempotency.release('settle.release', 'retry');
SELECT outcome, attempt FROM idempotency.claim('settle.release', 'retry', 'x');
SELECT idempotency.finish('settle.release', 'retry', 'r') > now() AS finished;
COMMIT;
SELECT outcome, attempt, response FROM idempotency.claim('settle.release', 'retry', 'x');
DROP TABLE before;
-- the same, when the failure was in this transaction
BEGIN;
SELECT outcome FROM idempotency.claim('settle.release', 'own retry');
SELECT outcome FROM idempotency.fail('settle.release', 'own retry', 'e', retry_after_ms => 0);
SELECT outcome, attempt FROM idempotency.claim('settle.release', 'own retry');
SAVEPOINT s;
SELECT idempotency.release('settle.release', 'own retry');
ROLLBACK TO s;
SELECT idempotency.release('settle.release', 'own retry');
COMMIT;
SELECT outcome, attempt, error FROM idempotency.peek('settle.release', 'own retry');

--
-- ROLLBACK TO around each settlement, then another one
--
BEGIN;
SELECT outcome FROM idempotency.claim('settle.savepoint', 'key');
SAVEPOINT s;
SELECT idempotency.finish('settle.savepoint', 'key', 'r1') > now() AS finished;
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.savepoint', 'key', 'e1', retry_after_ms => 0);
ROLLBACK TO s;
SELECT * FROM idempotency.fail('settle.savepoint', 'key', 'e2', retryable => false);
ROLLBACK TO s;
SELECT idempotency.release('settle.savepoint', 'key');
ROLLBACK TO s;
SELECT idempotency.finish('settle.savepoint', 'key', 'r2') > now() AS finished;
SELECT idempotency.forget('settle.savepoint', 'key', 'test');
SELECT outcome FROM idempotency.claim('settle.savepoint', 'key', 'x');
ROLLBACK TO s;
SELECT outcome, reason FROM idempotency.claim('settle.savepoint', 'key', 'x');
SELECT idempotency.finish('settle.savepoint', 'key', 'r3') > now() AS finished;
COMMIT;
SELECT outcome, response FROM idempotency.claim('settle.savepoint', 'key');
-- a savepoint that is rolled back with the only settlement leaves it open
BEGIN;
SELECT outcome FROM idempotency.claim('settle.savepoint', 'open');
SAVEPOINT s;
SELECT idempotency.finish('settle.savepoint', 'open') > now() AS finished;
ROLLBACK TO s;
\set VERBOSITY sqlstate
COMMIT;
BEGIN;
SELECT outcome FROM idempotency.claim('settle.savepoint', 'open');
SAVEPOINT s;
SELECT idempotency.release('settle.savepoint', 'open');
ROLLBACK TO s;
COMMIT;
\set VERBOSITY default
