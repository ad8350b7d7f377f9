-- Sagas: steps, and undoing them.  There is no worker here: maintain() and
-- run_compensations() do what it does.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE TABLE saga_log (n serial, step text, args text, attempt int, role text DEFAULT current_user);
CREATE FUNCTION saga_undo(args text, context jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO saga_log (step, args, attempt) VALUES (context->>'step', args, (context->>'attempt')::int) $$;
CREATE FUNCTION saga_bad(args text, context jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO saga_log (step, args) VALUES ('bad', args);
	RAISE 'cannot undo';
END $$;
CREATE FUNCTION saga_one(args text) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION saga_set(args text, context jsonb) RETURNS SETOF text LANGUAGE sql AS 'SELECT args';
CREATE FUNCTION saga_int(args text, context jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION saga_strict(args text, context jsonb) RETURNS void STRICT LANGUAGE sql AS '';
CREATE PROCEDURE saga_procedure(args text, context jsonb) LANGUAGE sql AS '';
SELECT max_attempts, saga_deadline, after_compensation
FROM idempotency.configure('saga', backoff_base => '1 ms', backoff_cap => '1 ms', max_attempts => 3);
CREATE FUNCTION begin_saga(k text, s text DEFAULT 'saga') RETURNS bigint LANGUAGE sql AS $$
	SELECT c.fence FROM idempotency.claim(s, k, lease => '1 minute') AS c $$;
CREATE FUNCTION show_saga(k text, s text DEFAULT 'saga')
RETURNS TABLE (state text, reason text, steps bigint, step int, next_by text) LANGUAGE sql AS $$
	SELECT v.state, v.reason, v.steps, v.compensating_step, v.next_by
	FROM idempotency.sagas AS v WHERE v.scope = s AND v.key = k $$;

--
-- steps
--
SELECT begin_saga('a') AS f \gset
SELECT idempotency.compensate_with('saga', 'a', :f, 'seat', 'saga_undo(text,jsonb)', 'A');
SELECT idempotency.compensate_with('saga', 'a', :f, 'seat', 'saga_undo(text,jsonb)', 'A');
SELECT idempotency.compensate_with('saga', 'a', :f, 'seat', 'saga_undo(text,jsonb)', 'B');
SELECT idempotency.compensate_with('saga', 'a', :f, 'seat');
SELECT idempotency.compensate_with('saga', 'a', :f, 'charge', args => 'C');
SELECT idempotency.step_done('saga', 'a', :f, 'seat', '17A');
SELECT idempotency.step_done('saga', 'a', :f, 'seat', '17A');
SELECT idempotency.step_done('saga', 'a', :f, 'seat', '17B');
SELECT idempotency.step_done('saga', 'a', :f, 'none');
SELECT * FROM idempotency.steps('saga', 'a');
SELECT * FROM show_saga('a');
-- what is rolled back is not registered
BEGIN;
SAVEPOINT s;
SELECT idempotency.compensate_with('saga', 'a', :f, 'mail');
ROLLBACK TO s;
SELECT count(*) FROM idempotency.steps('saga', 'a');
COMMIT;
-- a resumed attempt finds them, and its fence counts
UPDATE idempotency.key_day_0 SET lease_until = now() WHERE scope = 'saga' AND key = 'a';
UPDATE idempotency.key_day_1 SET lease_until = now() WHERE scope = 'saga' AND key = 'a';
UPDATE idempotency.key_day_2 SET lease_until = now() WHERE scope = 'saga' AND key = 'a';
UPDATE idempotency.key_day_3 SET lease_until = now() WHERE scope = 'saga' AND key = 'a';
SELECT outcome FROM idempotency.claim('saga', 'a');
SELECT outcome, attempt, fence > :f AS rises, fence AS g FROM idempotency.claim('saga', 'a', lease => '1 minute') \gset
SELECT :'outcome' AS outcome, :attempt AS attempt, :'rises' AS rises;
SELECT idempotency.compensate_with('saga', 'a', :f, 'mail');
SELECT idempotency.step_done('saga', 'a', :f, 'charge');
SELECT idempotency.compensate('saga', 'a', :f, 'stale');
SELECT idempotency.compensate_with('saga', 'a', :g, 'charge', args => 'C');
-- finish drops them
SELECT idempotency.finish('saga', 'a', 'done', :g) IS NOT NULL AS finished;
SELECT count(*) FROM idempotency.saga_steps;
SELECT count(*) FROM idempotency.sagas;
SELECT idempotency.compensate('saga', 'a', :g, 'too late');
SELECT idempotency.compensate_with('saga', 'a', :g, 'late');
SELECT outcome, response FROM idempotency.claim('saga', 'a');

--
-- bad input: clear errors, nothing changed
--
SELECT begin_saga('bad') AS f \gset
\set VERBOSITY terse
SELECT idempotency.compensate_with('saga', 'bad', 1, 's', 'saga_none(text,jsonb)');
\set VERBOSITY default
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', 4294967294::oid::regprocedure);
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', 'saga_one(text)');
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', 'saga_set(text,jsonb)');
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', 'saga_int(text,jsonb)');
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', 'saga_procedure(text,jsonb)');
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', 'saga_strict(text,jsonb)');
SELECT idempotency.compensate_with('saga', 'bad', :f, '');
SELECT idempotency.compensate_with('saga', 'bad', :f, NULL);
SELECT idempotency.compensate_with('saga', 'bad', :f, repeat('s', 256));
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', args => repeat('s', 70000));
SELECT idempotency.compensate_with('saga', 'bad', NULL, 's');
SELECT idempotency.compensate_with('saga', NULL, :f, 's');
SELECT idempotency.compensate_with('saga', 'nothing', :f, 's');
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', deadline => '-1 s');
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', child_scope => 'saga', child_key => 'bad');
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', child_scope => 'saga');
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', 'saga_undo(text,jsonb)', child_scope => 'saga', child_key => 'x');
SELECT idempotency.compensate('saga', 'bad', NULL);
SELECT idempotency.compensate('saga', 'bad', :f, repeat('s', 1025));
SELECT * FROM idempotency.next_compensation(NULL);
SELECT * FROM idempotency.next_compensation('saga', '0 s');
SELECT * FROM idempotency.next_compensation('saga', '2 hours');
SELECT * FROM idempotency.settle_compensation('saga', 'bad', 's', 1);
SELECT * FROM idempotency.settle_compensation('saga', 'bad', NULL, 1);
SELECT * FROM idempotency.settle_compensation('saga', 'bad', 's', 1, NULL);
SELECT * FROM idempotency.settle_compensation('saga', 'bad', 's', 1, false, retry_after_ms => -1);
SELECT * FROM idempotency.run_compensations(0);
SELECT idempotency.retry_compensation('saga', 'bad', NULL);
SELECT idempotency.retry_compensation('saga', 'bad', 'none has failed');
SELECT count(*) FROM idempotency.steps('saga', 'bad');
SELECT count(*) FROM idempotency.sagas;
-- what a client can tell them apart by
\set VERBOSITY sqlstate
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', 'saga_none(text,jsonb)');
SELECT idempotency.compensate_with('saga', 'bad', :f, 's', 'saga_one(text)');
SELECT idempotency.compensate_with('saga', 'bad', :f, NULL);
SELECT idempotency.compensate_with('saga', 'bad', 1, 's');
SELECT idempotency.compensate_with('saga', 'nothing', :f, 's');
SELECT idempotency.compensate('saga', 'a', :g);
\set VERBOSITY default
-- without a step there is nothing to undo
SELECT idempotency.compensate('saga', 'bad', :f, 'no');
SELECT outcome, failed, error FROM idempotency.claim('saga', 'bad');

--
-- undoing: in reverse order, SQL handlers and external ones
--
SELECT begin_saga('c') AS f \gset
SELECT idempotency.compensate_with('saga', 'c', :f, 'one', 'saga_undo(text,jsonb)', '1');
SELECT idempotency.compensate_with('saga', 'c', :f, 'two', args => '2');
SELECT idempotency.step_done('saga', 'c', :f, 'two', 'result of two');
SELECT idempotency.compensate_with('saga', 'c', :f, 'three', 'saga_undo(text,jsonb)');
SELECT idempotency.compensate('saga', 'c', :f, 'sold out');
SELECT idempotency.compensate('saga', 'c', :f, 'sold out');
SELECT * FROM show_saga('c');
-- what everybody else sees
SELECT outcome, reason, retry_after_ms, lease_until FROM idempotency.claim('saga', 'c', lease => '1 s');
SELECT outcome, reason FROM idempotency.claim('saga', 'c');
SELECT outcome, reason FROM idempotency.claim('saga', 'c', wait => '10 ms');
SELECT ordinal, outcome, reason FROM idempotency.claim_many('saga', '{c}');
SELECT idempotency.once('saga', 'c');
SELECT outcome, reason FROM idempotency.peek('saga', 'c');
SELECT outcome, reason FROM idempotency.await('saga', 'c', '10 ms');
SELECT state, expired FROM idempotency.keys WHERE scope = 'saga' AND key = 'c';
SELECT count(*) FROM idempotency.activity WHERE scope = 'saga' AND key = 'c';
SELECT count(*) FROM idempotency.abandoned('saga') WHERE key = 'c';
SELECT count(*) FROM idempotency.take_abandoned('saga', 10);
SELECT idempotency.heartbeat('saga', 'c', :f);
SELECT idempotency.checkpoint('saga', 'c', :f, 'x');
SELECT idempotency.assert_fence('saga', 'c', :f);
SELECT idempotency.compensate_with('saga', 'c', :f, 'four');
SELECT idempotency.step_done('saga', 'c', :f, 'one');
SELECT idempotency.finish('saga', 'c', 'x', :f);
SELECT * FROM idempotency.fail('saga', 'c', 'other', false, :f);
SELECT * FROM idempotency.fail('saga', 'c', 'sold out', false, :f);
SELECT idempotency.release('saga', 'c', :f);
SELECT idempotency.forget('saga', 'c', 'test');
SELECT idempotency.resolve('saga', 'c', 'failed', reason => 'test');
SELECT idempotency.erase('saga', 'c', 'test');
-- the last one first
SELECT * FROM idempotency.next_compensation('saga');
SELECT scope, key, step, outcome, error FROM idempotency.run_compensations();
SELECT * FROM show_saga('c');
SELECT step, step_no, key, args, result, done, attempt, reason, lease_until - now() < '31 s' AS leased,
	idempotency_key ~ '^compensate/[0-9a-f]{32}/2$' AS key_ok, fence AS cf FROM idempotency.next_compensation('saga') \gset n_
SELECT :'n_step' AS step, :n_step_no AS step_no, :'n_key' AS key, :'n_args' AS args, :'n_result' AS result,
	:'n_done' AS done, :n_attempt AS attempt, :'n_reason' AS reason, :'n_leased' AS leased, :'n_key_ok' AS key_ok;
SELECT count(*) FROM idempotency.next_compensation('saga');
SELECT count(*) FROM idempotency.run_compensations();
SELECT outcome FROM idempotency.settle_compensation('saga', 'c', 'two', :f);
SELECT outcome FROM idempotency.settle_compensation('saga', 'c', 'one', :n_cf);
SELECT outcome, attempt FROM idempotency.settle_compensation('saga', 'c', 'two', :n_cf, false, 'no answer', retry_after_ms => 0);
SELECT outcome, attempt FROM idempotency.settle_compensation('saga', 'c', 'two', :n_cf, false, 'no answer', retry_after_ms => 0);
SELECT outcome FROM idempotency.settle_compensation('saga', 'c', 'two', :n_cf);
SELECT attempt, fence AS cf2 FROM idempotency.next_compensation('saga') \gset n_
SELECT outcome FROM idempotency.settle_compensation('saga', 'c', 'two', :n_cf);
BEGIN;
SELECT outcome FROM idempotency.settle_compensation('saga', 'c', 'two', :n_cf2);
ROLLBACK;
SELECT outcome FROM idempotency.settle_compensation('saga', 'c', 'two', :n_cf2);
SELECT outcome FROM idempotency.settle_compensation('saga', 'c', 'two', :n_cf2);
SELECT outcome FROM idempotency.settle_compensation('saga', 'c', 'two', :n_cf2, false);
SELECT step, outcome FROM idempotency.run_compensations();
SELECT step, args, attempt FROM saga_log ORDER BY n;
SELECT * FROM show_saga('c');
SELECT step, state, attempt FROM idempotency.saga_steps WHERE key = 'c' ORDER BY step_no;
SELECT outcome, failed, error FROM idempotency.claim('saga', 'c', lease => '1 s');
SELECT idempotency.compensate('saga', 'c', :f, 'sold out');
SELECT idempotency.compensate('saga', 'c', :f, 'other');

--
-- fail() for good, or as often as the policy allows
--
SELECT begin_saga('d') AS f \gset
SELECT idempotency.compensate_with('saga', 'd', :f, 'one', 'saga_undo(text,jsonb)', 'd1');
SELECT outcome, attempt FROM idempotency.fail('saga', 'd', 'try again', true, :f, 0);
SELECT * FROM show_saga('d');
SELECT outcome FROM idempotency.claim('saga', 'd');
SELECT outcome, attempt, fence AS f FROM idempotency.claim('saga', 'd', lease => '1 minute') \gset
SELECT :'outcome' AS outcome, :attempt AS attempt;
SELECT idempotency.release('saga', 'd', :f);
SELECT outcome, attempt, fence AS f FROM idempotency.claim('saga', 'd', lease => '1 minute') \gset
SELECT outcome, attempt FROM idempotency.fail('saga', 'd', 'try again', true, :f, 0);
SELECT outcome, attempt, fence AS f FROM idempotency.claim('saga', 'd', lease => '1 minute') \gset
SELECT outcome, attempt FROM idempotency.fail('saga', 'd', 'at last', true, :f, 0);
SELECT outcome, attempt FROM idempotency.fail('saga', 'd', 'at last', true, :f, 0);
SELECT * FROM show_saga('d');
SELECT step, outcome FROM idempotency.run_compensations();
SELECT outcome, failed, error FROM idempotency.claim('saga', 'd', lease => '1 s');
-- a release keeps what was registered
SELECT begin_saga('e') AS f \gset
SELECT idempotency.compensate_with('saga', 'e', :f, 'one', 'saga_undo(text,jsonb)', 'e1');
SELECT idempotency.release('saga', 'e', :f);
SELECT outcome, attempt, fence AS f FROM idempotency.claim('saga', 'e', lease => '1 minute') \gset
SELECT :'outcome' AS outcome, :attempt AS attempt;
SELECT step FROM idempotency.steps('saga', 'e');
SELECT outcome FROM idempotency.fail('saga', 'e', 'no', false, :f);
SELECT step, outcome FROM idempotency.run_compensations();

--
-- what can't be undone
--
SELECT begin_saga('x') AS f \gset
SELECT idempotency.compensate_with('saga', 'x', :f, 'one', 'saga_undo(text,jsonb)', 'x1');
SELECT idempotency.compensate_with('saga', 'x', :f, 'two', 'saga_bad(text,jsonb)', 'x2');
SELECT idempotency.compensate('saga', 'x', :f, 'no');
SELECT step, outcome, error FROM idempotency.run_compensations(1);
SELECT pg_sleep(0.02) IS NOT NULL AS slept;
SELECT step, outcome, error FROM idempotency.run_compensations(1);
SELECT pg_sleep(0.02) IS NOT NULL AS slept;
SELECT step, outcome, error FROM idempotency.run_compensations(1);
SELECT count(*) FROM idempotency.run_compensations();
SELECT count(*) FROM saga_log WHERE step = 'bad';
SELECT * FROM show_saga('x');
SELECT step, state, attempt, error FROM idempotency.saga_steps WHERE key = 'x' ORDER BY step_no;
SELECT name, severity, scope, value FROM idempotency.alerts WHERE name ~ 'compensation';
SELECT outcome, reason FROM idempotency.claim('saga', 'x', lease => '1 s');
SELECT idempotency.resolve('saga', 'x', 'retry', reason => 'test');
SELECT idempotency.retry_compensation('saga', 'x', 'the bug is fixed');
SELECT idempotency.retry_compensation('saga', 'x', 'the bug is fixed');
CREATE OR REPLACE FUNCTION saga_bad(args text, context jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'well' $$;
SELECT step, outcome, error FROM idempotency.run_compensations();
SELECT * FROM show_saga('x');
-- or an operator decides
SELECT begin_saga('y') AS f \gset
SELECT idempotency.compensate_with('saga', 'y', :f, 'one');
SELECT idempotency.compensate('saga', 'y', :f, 'no');
SELECT fence AS cf FROM idempotency.next_compensation('saga') \gset
SELECT outcome FROM idempotency.settle_compensation('saga', 'y', 'one', :cf, false, 'never', false);
SELECT * FROM show_saga('y');
SELECT idempotency.resolve('saga', 'y', 'failed', 'undone by hand', 'test');
SELECT outcome, failed, error FROM idempotency.claim('saga', 'y', lease => '1 s');
SELECT count(*) FROM show_saga('y');

--
-- by itself: deadlines, and those who don't come back
--
SELECT begin_saga('t1') AS f1, begin_saga('t2') AS f2, begin_saga('t3') AS f3 \gset
SELECT idempotency.compensate_with('saga', 't1', :f1, 'one', 'saga_undo(text,jsonb)', 't1', deadline => '1 ms');
SELECT idempotency.compensate_with('saga', 't2', :f2, 'one', 'saga_undo(text,jsonb)', 't2');
SELECT idempotency.compensate_with('saga', 't3', :f3, 'one', 'saga_undo(text,jsonb)', 't3', deadline => '1 hour');
SELECT pg_sleep(0.01) IS NOT NULL AS slept;
SELECT duty, object, result FROM idempotency.maintain() WHERE duty = 'sagas';
SELECT key, state, reason FROM idempotency.sagas WHERE key ~ '^t' ORDER BY key;
SELECT step, outcome FROM idempotency.run_compensations();
SELECT outcome, error FROM idempotency.claim('saga', 't1', lease => '1 s');
-- a key that has a saga is kept until that is over
DO $$
DECLARE
	t text;
BEGIN
	FOR t IN SELECT DISTINCT segment FROM idempotency.keys WHERE scope = 'saga' AND key IN ('t2', 't3') LOOP
		EXECUTE format('UPDATE idempotency.%I SET lease_until = now() - interval ''2 s'',
			expires_at = now() - interval ''1 s'' WHERE scope = ''saga'' AND key IN (''t2'', ''t3'')', t);
	END LOOP;
	UPDATE idempotency.saga_run SET due_at = now() WHERE key = 't2';
END $$;
SELECT key, state, expired FROM idempotency.keys WHERE scope = 'saga' AND key IN ('t2', 't3') ORDER BY key;
SELECT outcome, attempt FROM idempotency.claim('saga', 't3', lease => '1 minute');
SELECT duty, object, result FROM idempotency.maintain() WHERE duty = 'sagas';
SELECT key, state, reason FROM idempotency.sagas WHERE key IN ('t2', 't3') ORDER BY key;
SELECT step, outcome FROM idempotency.run_compensations();

--
-- policies
--
SELECT after_compensation, saga_deadline FROM idempotency.configure('saga again', after_compensation => 'execute', saga_deadline => '1 hour');
SELECT idempotency.configure('saga again', after_compensation => 'x');
SELECT idempotency.configure('saga again', saga_deadline => '1 ms');
SELECT begin_saga('p', 'saga again') AS f \gset
SELECT idempotency.compensate_with('saga again', 'p', :f, 'one', 'saga_undo(text,jsonb)', 'p1');
SELECT deadline - started_at > '59 minutes' AS has_deadline FROM idempotency.sagas WHERE key = 'p';
SELECT idempotency.compensate('saga again', 'p', :f, 'no');
SELECT step, outcome FROM idempotency.run_compensations();
SELECT outcome, attempt, fence AS f FROM idempotency.claim('saga again', 'p', lease => '1 minute') \gset
SELECT :'outcome' AS outcome, :attempt AS attempt;
SELECT count(*) FROM idempotency.steps('saga again', 'p');
SELECT idempotency.compensate_with('saga again', 'p', :f, 'one', 'saga_undo(text,jsonb)', 'p2');
SELECT idempotency.finish('saga again', 'p', 'ok', :f) IS NOT NULL AS finished;
SELECT count(*) FROM show_saga('p', 'saga again');
SELECT on_lease_expiry FROM idempotency.configure('saga forget', on_lease_expiry => 'forget');
SELECT fence AS f FROM idempotency.claim('saga forget', 'q', lease => '1 ms') \gset
SELECT idempotency.compensate_with('saga forget', 'q', :f, 'one', 'saga_undo(text,jsonb)', 'q1');
SELECT pg_sleep(0.01) IS NOT NULL AS slept;
SELECT outcome, reason FROM idempotency.claim('saga forget', 'q', lease => '1 minute');
SELECT duty, object, result FROM idempotency.maintain() WHERE duty = 'sagas';
SELECT step, outcome FROM idempotency.run_compensations();
SELECT outcome, error FROM idempotency.claim('saga forget', 'q', lease => '1 minute');

--
-- a step that is a saga itself
--
CREATE FUNCTION nest(k text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	f bigint := begin_saga(k);
BEGIN
	PERFORM idempotency.compensate_with('saga', k, f, 'own', 'saga_undo(text,jsonb)', k || ' own');
	PERFORM idempotency.compensate_with('saga', k, f, 'nested', child_scope => 'saga', child_key => k || '/child');
	RETURN f;
END $$;
SELECT nest('n1') AS f \gset
SELECT begin_saga('n1/child') AS g \gset
SELECT idempotency.compensate_with('saga', 'n1/child', :g, 'inner', 'saga_undo(text,jsonb)', 'n1 inner');
SELECT idempotency.finish('saga', 'n1/child', 'child done', :g) IS NOT NULL AS finished;
SELECT * FROM show_saga('n1/child');
SELECT outcome, response FROM idempotency.claim('saga', 'n1/child', lease => '1 s');
SELECT idempotency.compensate('saga', 'n1', :f, 'parent gives up');
SELECT count(*) FROM idempotency.maintain() WHERE duty = 'sagas';
SELECT key, state, reason, next_by FROM idempotency.sagas WHERE key ~ '^n1' ORDER BY key;
SELECT key, step, outcome FROM idempotency.run_compensations();
UPDATE idempotency.saga_run SET due_at = now() WHERE todo = 'w' AND state = 'c';
SELECT count(*) FROM idempotency.maintain() WHERE duty = 'sagas';
SELECT key, step, outcome FROM idempotency.run_compensations();
SELECT key, state FROM idempotency.sagas WHERE key ~ '^n1' ORDER BY key;
SELECT outcome, error FROM idempotency.claim('saga', 'n1/child', lease => '1 s');
-- a child that was never begun can't be any more
SELECT nest('n2') AS f \gset
SELECT idempotency.compensate('saga', 'n2', :f, 'parent gives up');
SELECT count(*) FROM idempotency.maintain() WHERE duty = 'sagas';
SELECT key, step, outcome FROM idempotency.run_compensations();
SELECT outcome, failed, error FROM idempotency.claim('saga', 'n2/child', lease => '1 s');
-- and one that is completed is let go when its parent is
SELECT nest('n3') AS f \gset
SELECT begin_saga('n3/child') AS g \gset
SELECT idempotency.compensate_with('saga', 'n3/child', :g, 'inner', 'saga_undo(text,jsonb)', 'n3 inner');
SELECT idempotency.finish('saga', 'n3/child', 'child done', :g) IS NOT NULL AS finished;
SELECT idempotency.finish('saga', 'n3', 'done', :f) IS NOT NULL AS finished;
UPDATE idempotency.saga_run SET due_at = now() WHERE state = 'h';
SELECT count(*) FROM idempotency.maintain() WHERE duty = 'sagas';
SELECT count(*) FROM idempotency.sagas WHERE key ~ '^n3';
SELECT saga FROM (SELECT saga FROM idempotency.key_day_0 WHERE key = 'n3/child' UNION ALL SELECT saga FROM idempotency.key_day_1 WHERE key = 'n3/child'
	UNION ALL SELECT saga FROM idempotency.key_day_2 WHERE key = 'n3/child' UNION ALL SELECT saga FROM idempotency.key_day_3 WHERE key = 'n3/child') AS k;
SELECT count(*) FROM idempotency.saga_child WHERE parent NOT IN (SELECT id FROM idempotency.saga_run);

--
-- rights
--
CREATE ROLE saga_app LOGIN;
CREATE ROLE saga_group;
GRANT EXECUTE ON FUNCTION idempotency.claim, idempotency.compensate_with, idempotency.compensate, idempotency.run_compensations TO saga_app, saga_group;
REVOKE EXECUTE ON FUNCTION saga_undo FROM PUBLIC;
CREATE FUNCTION saga_as(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO saga_log (step) VALUES ('never');
END $$;
SET ROLE saga_app;
SELECT fence AS f FROM idempotency.claim('saga', 'r', lease => '1 minute') \gset
SELECT idempotency.compensate_with('saga', 'r', :f, 'one', 'saga_undo(text,jsonb)');
SELECT idempotency.compensate_with('saga', 'r', :f, 'one', 'saga_as(text,jsonb)');
SET ROLE saga_group;
SELECT idempotency.compensate_with('saga', 'r', :f, 'two', 'saga_as(text,jsonb)');
SET ROLE saga_app;
SELECT idempotency.compensate('saga', 'r', :f, 'no');
RESET ROLE;
-- nobody runs it but its role, with that role's rights
SELECT count(*) FROM idempotency.run_compensations();
SET ROLE saga_app;
SELECT step, outcome, error FROM idempotency.run_compensations(1);
RESET ROLE;
SELECT count(*) FROM saga_log WHERE step = 'never';
-- a role that is gone is an error state
DROP OWNED BY saga_app, saga_group;
DROP ROLE saga_app, saga_group;
UPDATE idempotency.saga_run SET due_at = now() WHERE key = 'r';
SELECT count(*) FROM idempotency.maintain() WHERE duty = 'sagas';
UPDATE idempotency.saga_run SET due_at = now() WHERE key = 'r' AND state = 'c';
SELECT count(*) FROM idempotency.maintain() WHERE duty = 'sagas';
SELECT state, attempt, error FROM idempotency.saga_steps WHERE key = 'r';
SELECT * FROM show_saga('r');

--
-- the ledger has it all
--
SELECT decision, count(*) FROM idempotency.ledger WHERE scope = 'saga'
AND decision ~ 'step|compensat' GROUP BY decision ORDER BY decision;
SELECT event_no, decision, summary FROM idempotency.explain('saga', 'c');
SELECT * FROM idempotency.verify();
SELECT idempotency.resolve('saga', 'r', 'failed', 'undone by hand', 'test');
DROP FUNCTION saga_undo, saga_bad, saga_one, saga_set, saga_int, saga_strict, saga_as, begin_saga, show_saga, nest;
DROP PROCEDURE saga_procedure;
DROP TABLE saga_log;
