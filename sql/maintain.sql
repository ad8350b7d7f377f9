--
-- maintain(), and what the extension refuses to write to.  (Concurrent and
-- late rotation are under test/specs and test/t.)
--
-- Convention: which table a key is in depends on the time, so tables are named
-- only where that is key_permanent.
--
\pset null '(null)'
CREATE SCHEMA maintain_test;
-- patience, in case autovacuum is at a table
SET idempotency.maintain_lock_timeout = '60 s';
-- as if never maintained
DELETE FROM idempotency.segment_state;

--
-- Nothing to do, nothing said
--
SELECT count(*) >= 0 AS cleaned FROM idempotency.maintain();
SELECT * FROM idempotency.maintain() WHERE duty NOT IN ('notes', 'seal');

--
-- key_permanent: what a finish gave a shorter life is deleted once it is over
--
SELECT ring FROM idempotency.configure('maintain.permanent', retention => 'infinity');
BEGIN;
SELECT count(*) FROM idempotency.claim_many('maintain.permanent', ARRAY(SELECT i::text FROM generate_series(1, 300) AS i));
SELECT count(idempotency.finish('maintain.permanent', i::text, repeat('r', 300), retention => '1 s')) FROM generate_series(1, 299) AS i;
SELECT idempotency.finish('maintain.permanent', '300', 'for ever') AS expires_at;
COMMIT;
-- it is not deleted at once, lest a clock that is set back finds it missing
SELECT count(*) AS deleted FROM idempotency.maintain() WHERE object = 'key_permanent';
UPDATE idempotency.key_permanent SET expires_at = expires_at - interval '1 day' WHERE scope = 'maintain.permanent' AND isfinite(expires_at);
SELECT expired, count(*) FROM idempotency.keys WHERE scope = 'maintain.permanent' GROUP BY expired ORDER BY expired;
DELETE FROM idempotency.segment_state;
-- not all pages at once
SELECT set_config('idempotency.maintain_pages', (pg_relation_size('idempotency.key_permanent') / current_setting('block_size')::int * 3 / 4)::text, false)::int > 1 AS pages;
CREATE TABLE maintain_test.round AS SELECT * FROM idempotency.maintain() WHERE object = 'key_permanent';
SELECT duty, object, result, amount > 0 AS some, amount < 299 AS not_all FROM maintain_test.round;
SELECT count(*) + (SELECT amount FROM maintain_test.round) AS all_rows FROM idempotency.keys WHERE scope = 'maintain.permanent';
-- then the rest
SET idempotency.maintain_pages = 10000;
INSERT INTO maintain_test.round SELECT * FROM idempotency.maintain() WHERE object = 'key_permanent';
SELECT duty, object, result FROM maintain_test.round;
SELECT sum(amount) FROM maintain_test.round;
RESET idempotency.maintain_pages;
SELECT key, expired FROM idempotency.keys WHERE scope = 'maintain.permanent';
SELECT response FROM idempotency.claim('maintain.permanent', '300');
SELECT * FROM idempotency.maintain() WHERE object = 'key_permanent';
-- a deleted key is a new one
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('maintain.permanent', '1');
ROLLBACK;

--
-- Rotation needs a clock that can be moved: test/t/005_rotation.pl.
--

--
-- It runs in a transaction that has claimed nothing
--
BEGIN;
SELECT outcome FROM idempotency.claim('maintain.transaction', 'key');
SELECT * FROM idempotency.maintain() WHERE duty NOT IN ('notes', 'seal');
ROLLBACK;
\set VERBOSITY sqlstate
BEGIN;
SELECT outcome FROM idempotency.claim('maintain.transaction', 'key');
SELECT idempotency.finish('maintain.transaction', 'key') > now() AS finished;
SELECT * FROM idempotency.maintain() WHERE duty NOT IN ('notes', 'seal');
ROLLBACK;
BEGIN;
SELECT idempotency.once('maintain.transaction', 'key');
SELECT * FROM idempotency.maintain() WHERE duty NOT IN ('notes', 'seal');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM idempotency.maintain() WHERE duty NOT IN ('notes', 'seal');
ROLLBACK;
\set VERBOSITY default
BEGIN;
SELECT outcome FROM idempotency.claim('maintain.transaction', 'key');
SELECT idempotency.release('maintain.transaction', 'key');
SELECT * FROM idempotency.maintain() WHERE duty NOT IN ('notes', 'seal');
COMMIT;

--
-- Nobody's objects run with the owner's rights.  Whoever may call maintain()
-- needs no other right.
--
CREATE ROLE regress_idempotency_cron;
GRANT EXECUTE ON FUNCTION idempotency.maintain TO regress_idempotency_cron;
GRANT USAGE, CREATE ON SCHEMA maintain_test TO regress_idempotency_cron;
DELETE FROM idempotency.segment_state;
SET ROLE regress_idempotency_cron;
CREATE FUNCTION maintain_test.trap(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'captured'; END $$;
CREATE OPERATOR maintain_test.= (LEFTARG = text, RIGHTARG = text, FUNCTION = maintain_test.trap);
SET search_path = maintain_test, pg_catalog;
SELECT count(*) AS said FROM idempotency.maintain() WHERE duty NOT IN ('notes', 'seal');
SELECT current_user, current_setting('search_path') AS search_path;
RESET search_path;
RESET ROLE;
SELECT count(*) > 0 AS remembered FROM idempotency.segment_state;
DROP OWNED BY regress_idempotency_cron;
DROP ROLE regress_idempotency_cron;

--
-- The tables are written directly.  Whatever somebody has put on one would be
-- bypassed in silence, so neither claim() nor maintain() goes on; once it is
-- gone, they do.
--
SELECT ring FROM idempotency.configure('maintain.obstacle', retention => 'infinity');
CREATE FUNCTION maintain_test.audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
-- the whole message, and that work under way is refused too
BEGIN;
SELECT outcome FROM idempotency.claim('maintain.obstacle', 'key');
CREATE TRIGGER audit BEFORE INSERT ON idempotency.key_permanent FOR EACH ROW EXECUTE FUNCTION maintain_test.audit();
SAVEPOINT s;
SELECT outcome FROM idempotency.claim('maintain.obstacle', 'key');
ROLLBACK TO s;
SELECT idempotency.finish('maintain.obstacle', 'key');
ROLLBACK;
-- each obstacle in a transaction that is rolled back: its detail
CREATE FUNCTION maintain_test.refused(obstacle text) RETURNS TABLE (command text, state text, detail text) LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM idempotency.segment_state;
    EXECUTE obstacle;
    FOREACH command IN ARRAY ARRAY['SELECT idempotency.maintain()',
                                   'SELECT idempotency.peek(''maintain.obstacle'', ''other'')',
                                   'SELECT idempotency.once(''maintain.obstacle'', ''other'')'] LOOP
        BEGIN
            EXECUTE command;
            state := '00000';
            detail := NULL;
        EXCEPTION WHEN object_not_in_prerequisite_state THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
        END;
        command := substring(command FROM 'idempotency\.(\w+)');
        RETURN NEXT;
    END LOOP;
END $$;
BEGIN;
SELECT * FROM maintain_test.refused('CREATE TRIGGER audit AFTER UPDATE ON idempotency.key_permanent FOR EACH ROW EXECUTE FUNCTION maintain_test.audit()');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('CREATE INDEX ON idempotency.key_permanent (scope)');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('ALTER TABLE idempotency.key_permanent ENABLE ROW LEVEL SECURITY');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('CREATE RULE twice AS ON INSERT TO idempotency.key_permanent DO ALSO NOTHING');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('ALTER TABLE idempotency.key_permanent ADD CHECK (length(key) < 10)');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('ALTER TABLE idempotency.key_permanent ALTER tag SET DEFAULT ''x''');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('ALTER TABLE idempotency.key_permanent SET UNLOGGED');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('CREATE TABLE maintain_test.child () INHERITS (idempotency.key_permanent)');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('CREATE TABLE maintain_test.referencing (id uuid REFERENCES idempotency.key_permanent)');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('ALTER TABLE idempotency.key_permanent DROP CONSTRAINT key_permanent_pkey');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('DROP INDEX idempotency.key_permanent_running');
ROLLBACK;
-- not even another one in its place, be it better
BEGIN;
SELECT * FROM maintain_test.refused('DROP INDEX idempotency.key_permanent_running; CREATE INDEX ON idempotency.key_permanent (scope, lease_until) WHERE state = ''l''');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('DROP INDEX idempotency.key_permanent_running; CREATE INDEX key_permanent_running ON idempotency.key_permanent (key)');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('ALTER INDEX idempotency.key_permanent_running RENAME TO other');
ROLLBACK;
-- what doesn't concern the writing is no obstacle
BEGIN;
SELECT * FROM maintain_test.refused('CREATE VIEW maintain_test.permanent AS SELECT scope, key FROM idempotency.key_permanent');
ROLLBACK;
BEGIN;
SELECT * FROM maintain_test.refused('CREATE STATISTICS maintain_test.s ON scope, principal FROM idempotency.key_permanent');
ROLLBACK;
-- put on and taken off again, for good
CREATE TRIGGER audit BEFORE INSERT ON idempotency.key_permanent FOR EACH ROW EXECUTE FUNCTION maintain_test.audit();
CREATE RULE twice AS ON INSERT TO idempotency.key_permanent DO ALSO NOTHING;
CREATE INDEX extra ON idempotency.key_permanent (scope);
ALTER TABLE idempotency.key_permanent ENABLE ROW LEVEL SECURITY;
CREATE TABLE maintain_test.child () INHERITS (idempotency.key_permanent);
\set VERBOSITY sqlstate
SELECT idempotency.once('maintain.obstacle', 'key');
\set VERBOSITY default
DROP TABLE maintain_test.child;
DROP TRIGGER audit ON idempotency.key_permanent;
DROP RULE twice ON idempotency.key_permanent;
DROP INDEX idempotency.extra;
ALTER TABLE idempotency.key_permanent DISABLE ROW LEVEL SECURITY;
SELECT idempotency.once('maintain.obstacle', 'key');
SELECT idempotency.once('maintain.obstacle', 'key');
-- a scope in another ring isn't concerned
BEGIN;
CREATE INDEX ON idempotency.key_permanent (scope);
SELECT idempotency.once('maintain.other', 'key');
ROLLBACK;
-- a table that is missing
BEGIN;
ALTER TABLE idempotency.key_permanent RENAME TO key_gone;
SELECT idempotency.once('maintain.other', 'key');
ROLLBACK;
SELECT idempotency.once('maintain.other', 'key');

SET client_min_messages = warning;
DROP SCHEMA maintain_test CASCADE;
