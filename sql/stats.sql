--
-- Statistics, breakers and limits on a server that does not preload the
-- library: nothing fails, nothing is counted or held back, and it is said so.
-- What they do where there is shared memory is tested in test/t.
--
-- Convention: a query that looks for mistakes returns no row if all is well.
--
\pset null '(null)'
SELECT idempotency.preloaded() \gset
\if :preloaded
\quit
\endif

--
-- Everything is there, and empty
--
SELECT idempotency.once('stats', 'key') FROM generate_series(1, 3);
BEGIN;
SELECT outcome FROM idempotency.claim('stats', 'rolled back');
ROLLBACK;
SELECT * FROM idempotency.stats;
SELECT * FROM idempotency.stats_latency;
SELECT * FROM idempotency.breakers;
SELECT * FROM idempotency.duplicate_rates();
SELECT * FROM idempotency.workers;
SELECT * FROM idempotency.aborted_attempt;
SELECT idempotency.notes_dropped();
SELECT idempotency.worker_start();
-- maintain() has nothing to do for them
SELECT * FROM idempotency.maintain() WHERE duty NOT IN ('rotate', 'clean', 'seal');
-- what is in tables is known
SELECT ring, count(*), bool_and(begins_at < ends_at) AS in_order, bool_and(bytes >= 0) AS sized
FROM idempotency.segments() GROUP BY ring ORDER BY ring;
SELECT count(*) FILTER (WHERE begins_at <= now() AND now() < ends_at) AS present FROM idempotency.segments() GROUP BY ring ORDER BY ring;
SELECT segment FROM idempotency.segments() AS s WHERE bytes <> pg_relation_size('idempotency.' || segment);
SELECT outcome FROM idempotency.claim('stats', 'lost', lease => '1 ms');
SELECT pg_sleep(0.002);
SELECT name, severity, scope, value, threshold, since <= now() AS since FROM idempotency.alerts
WHERE scope IS NULL OR scope = 'stats' ORDER BY name;

--
-- Whoever asks is told what to do
--
SELECT * FROM idempotency.health() WHERE "check" = 'shared memory';
SELECT "check", ok, hint FROM idempotency.health() WHERE "check" <> 'shared memory';
SELECT idempotency.stats_reset();
SELECT idempotency.stats_reset('stats');
SELECT idempotency.breaker_reset('stats');
\set VERBOSITY sqlstate
SELECT idempotency.stats_reset();
SELECT idempotency.breaker_reset('stats');
\set VERBOSITY default

--
-- Settings without effect are stored, with a warning; to turn them off is none
--
SELECT breaker_failures FROM idempotency.configure('stats.breaker', breaker_failures => 1, breaker_percent => 1, breaker_window => '1 h', breaker_cooldown => '1 h', breaker_probes => 16);
SELECT limit_claims FROM idempotency.configure('stats.limit', limit_claims => 1);
SELECT limit_running FROM idempotency.configure('stats.limit', limit_running => 1);
SELECT limit_replays FROM idempotency.configure('stats.limit', limit_replays => 1);
SELECT limit_interval FROM idempotency.configure('stats.limit', limit_interval => '1 h');
SELECT breaker_failures, limit_claims FROM idempotency.configure('stats', breaker_failures => 0, limit_claims => 0, limit_running => 0, limit_replays => 0);
SELECT count(*) AS changed FROM idempotency.configure('stats', max_attempts => 3);
BEGIN;
SELECT outcome FROM idempotency.claim('stats.breaker', 'k1');
ROLLBACK;
SELECT outcome FROM idempotency.claim('stats.breaker', 'k2', lease => '1 ms');
SELECT pg_sleep(0.002);
SELECT key, outcome FROM unnest(ARRAY['k1', 'k2', 'k3']) AS key, idempotency.claim('stats.breaker', key, lease => '1 h') ORDER BY key;
SELECT key, outcome FROM unnest(ARRAY['k1', 'k2', 'k3']) AS key, idempotency.claim('stats.limit', key, lease => '1 h') ORDER BY key;
SELECT idempotency.once('stats.limit', 'once') AS first FROM generate_series(1, 3);

--
-- Settings of the server: what sizes shared memory does not exist without it,
-- and who is no superuser changes none
--
\set VERBOSITY sqlstate
SHOW idempotency.max_scopes;
SET idempotency.naptime = '2 s';
ALTER SYSTEM SET idempotency.naptime = '99 ms';
ALTER SYSTEM SET idempotency.naptime = '61 min';
\set VERBOSITY default
SHOW idempotency.naptime;

--
-- An operator's grants
--
CREATE ROLE regress_idempotency_watcher;
GRANT USAGE ON SCHEMA idempotency TO regress_idempotency_watcher;
GRANT SELECT ON idempotency.stats, idempotency.stats_latency, idempotency.breakers, idempotency.workers, idempotency.alerts, idempotency.aborted_attempt TO regress_idempotency_watcher;
GRANT EXECUTE ON FUNCTION idempotency.stats, idempotency.stats_latency, idempotency.breakers, idempotency.workers, idempotency.duplicate_rates,
    idempotency.segments, idempotency.notes_dropped, idempotency.notes_dropped_at, idempotency.preloaded, idempotency.health TO regress_idempotency_watcher;
SET ROLE regress_idempotency_watcher;
SELECT (SELECT count(*) FROM idempotency.stats), (SELECT count(*) FROM idempotency.stats_latency), (SELECT count(*) FROM idempotency.breakers),
       (SELECT count(*) FROM idempotency.workers), (SELECT count(*) FROM idempotency.aborted_attempt), (SELECT count(*) > 0 FROM idempotency.alerts) AS alerts;
SELECT "check", ok FROM idempotency.health();
\set VERBOSITY sqlstate
SELECT idempotency.stats_reset();
SELECT idempotency.breaker_reset('stats');
DELETE FROM idempotency.aborted_attempt;
\set VERBOSITY default
RESET ROLE;
DROP OWNED BY regress_idempotency_watcher;
DROP ROLE regress_idempotency_watcher;
-- not one name of another schema is looked up in health()
CREATE SCHEMA stats_test;
CREATE FUNCTION stats_test.count() RETURNS bigint LANGUAGE sql AS 'SELECT -1::bigint';
CREATE FUNCTION stats_test.preloaded() RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION stats_test.wrong(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR stats_test.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = stats_test.wrong);
SET search_path = stats_test, pg_catalog, idempotency;
SELECT "check", ok FROM idempotency.health();
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA stats_test CASCADE;
RESET client_min_messages;
SELECT count(*) FROM unnest(ARRAY['lost']) AS key WHERE idempotency.resolve('stats', key, 'failed', reason => 'test');
