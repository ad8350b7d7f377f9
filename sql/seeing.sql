--
-- What is seen of operations, as far as it needs no shared memory: rings, the
-- ledger's exposure, auditors' questions, the trace of a statement, the report.
-- What needs it is tested in test/t/021_stats.pl and 023_spans.pl.
--
-- Convention: a query that looks for mistakes returns no row if all is well.
--
\pset null '(null)'

--
-- Without shared memory everything is there, and empty
--
SELECT what FROM (VALUES
	('latency', EXISTS (SELECT FROM idempotency.latency)),
	('latency_by_function', EXISTS (SELECT FROM idempotency.latency_by_function)),
	('stats_late', EXISTS (SELECT FROM idempotency.stats_late)),
	('spans', EXISTS (SELECT FROM idempotency.spans)),
	('otlp_spans', idempotency.otlp_spans() IS NOT NULL),
	('trace_status', EXISTS (SELECT FROM idempotency.trace_status() AS t WHERE t.room <> 0 OR t.used <> 0 OR t.recorded <> 0)),
	('top_duplicates', EXISTS (SELECT FROM idempotency.top_duplicates())),
	('slowest_calls', EXISTS (SELECT FROM idempotency.slowest_calls())),
	('report says so', split_part(idempotency.report(), E'\n\n', 1) NOT LIKE '%the library is not preloaded: nothing is counted%'),
	('report', split_part(idempotency.report(), E'\n\n', 3) NOT LIKE 'SCOPE%none')) AS t(what, is_wrong)
WHERE is_wrong AND NOT idempotency.preloaded();
\set VERBOSITY sqlstate
SELECT idempotency.otlp_spans(0);
SELECT idempotency.otlp_spans(-1);
\set VERBOSITY default

--
-- Rings and exposure
--
SELECT ring, tables, tables_in_use <= tables AS used, bytes >= 0 AS sized, rotation_lag_ms >= 0 AS lag FROM idempotency.rings ORDER BY ring;
SELECT count(*), bool_and(unsealed >= 0 AND seal_lag_ms >= 0 AND exposure_ms >= seal_lag_ms) AS sane FROM idempotency.ledger_exposure;
SELECT * FROM idempotency.stats_consumers WHERE consumer = 'nobody';

--
-- The trace of a statement goes into the ledger
--
SELECT idempotency.once('seeing.trace', 'comment') /*application='a',traceparent='00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'*/;
SET idempotency.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
SELECT idempotency.once('seeing.trace', 'both') /*traceparent='00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'*/;
SELECT idempotency.once('seeing.trace', 'setting') /*traceparent='nonsense'*/;
RESET idempotency.traceparent;
SELECT idempotency.once('seeing.trace', 'none') /*traceparent='nonsense'*/;
SELECT key, encode(trace_id, 'hex') AS trace FROM idempotency.ledger WHERE scope = 'seeing.trace' ORDER BY seq;

--
-- What did this caller do?
--
CREATE ROLE regress_idempotency_caller;
GRANT USAGE ON SCHEMA idempotency TO regress_idempotency_caller;
GRANT EXECUTE ON FUNCTION idempotency.once TO regress_idempotency_caller;
SELECT clock_timestamp() AS began \gset
SET ROLE regress_idempotency_caller;
SELECT idempotency.once('seeing.caller', 'k1', principal => 'seeing alice');
SELECT idempotency.once('seeing.caller', 'k2', principal => 'bob');
RESET ROLE;
SELECT clock_timestamp() AS ended \gset
SELECT idempotency.once('seeing.caller', 'k3', principal => 'seeing alice');
SELECT decision, scope, of_principal, key, by_role FROM idempotency.caller_history('regress_idempotency_caller');
SELECT key FROM idempotency.caller_history(principal => 'seeing alice');
SELECT key FROM idempotency.caller_history("from" => :'began', "to" => :'ended');
SELECT key FROM idempotency.caller_history('regress_idempotency_caller', "to" => :'began');
SELECT count(*) FROM idempotency.caller_history('regress_idempotency_caller', application => 'another');
DROP OWNED BY regress_idempotency_caller;
DROP ROLE regress_idempotency_caller;

--
-- What was executed more than once?
--
SELECT idempotency.once('seeing.more', 'once');
SELECT idempotency.once('seeing.more', 'forgotten');
SELECT idempotency.forget('seeing.more', 'forgotten', 'test');
SELECT idempotency.once('seeing.more', 'forgotten');
SELECT outcome FROM idempotency.claim('seeing.more', 'taken over', lease => '1 ms');
SELECT pg_sleep(0.002);
SELECT fence, outcome FROM idempotency.claim('seeing.more', 'taken over', lease => '1 h') \gset taken_
SELECT idempotency.finish('seeing.more', 'taken over', 'r', fence => :taken_fence) > now() AS finished;
SELECT key, executions, begun, fences, forgotten, first_at < last_at AS in_order FROM idempotency.executed_more_than_once('seeing.more');
SELECT key, executions, begun, cardinality(fences) AS fences, fences[2] = :taken_fence AS last FROM idempotency.executed_more_than_once('seeing.more', attempts => true) ORDER BY key;
SELECT count(*) FROM idempotency.executed_more_than_once('seeing.more', clock_timestamp());
SELECT count(*) FROM idempotency.executed_more_than_once('seeing.nothing');

--
-- What came again after its retention?
--
SELECT idempotency.once('seeing.late', 'kept');
BEGIN;
SELECT outcome FROM idempotency.claim('seeing.late', 'short', retention => '1 s');
SELECT idempotency.finish('seeing.late', 'short', 'r', retention => '1 s') IS NOT NULL AS finished;
COMMIT;
SELECT pg_sleep(1.1);
SELECT idempotency.once('seeing.late', 'short') AS again;
SELECT idempotency.once('seeing.late', 'kept') AS again;
SELECT idempotency.once('seeing.late', 'forgotten');
SELECT idempotency.forget('seeing.late', 'forgotten', 'test');
SELECT idempotency.once('seeing.late', 'forgotten');
SELECT of_scope, key, settled_at < reused_at AS in_order, after > '0' AS after FROM idempotency.reused_after_window('seeing.late');
SELECT count(*) FROM idempotency.reused_after_window('seeing.late', clock_timestamp());

--
-- Settings are the superuser's
--
CREATE ROLE regress_idempotency_caller;
SET ROLE regress_idempotency_caller;
\set VERBOSITY sqlstate
SET idempotency.trace_sample_rate = 1;
SET idempotency.collect_stats = off;
SET idempotency.log_refusals = log;
SELECT * FROM idempotency.spans;
SELECT idempotency.report();
SELECT * FROM idempotency.caller_history();
\set VERBOSITY default
RESET ROLE;
DROP ROLE regress_idempotency_caller;
SET idempotency.trace_sample_rate = 1.1;
SET idempotency.log_refusals = 'fatal';

--
-- A refusal's line, at a level that the client sees: without key and payload
--
SET idempotency.log_refusals = notice;
SELECT idempotency.once('seeing.log', 'a secret', 'r');
SELECT outcome FROM idempotency.claim('seeing.log', 'a secret', 'another secret');
SELECT idempotency.finish('seeing.log', 'another secret', 'r', fence => 1);
RESET idempotency.log_refusals;
