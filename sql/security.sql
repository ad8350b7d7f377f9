--
-- Who may do what: grants, ownership, settings, and what error messages tell.
--
-- Convention: a query that looks for mistakes returns no row if all is well.
--
\pset null '(null)'
CREATE SCHEMA security_test;
CREATE ROLE regress_idempotency_nobody;
CREATE ROLE regress_idempotency_app;
CREATE ROLE regress_idempotency_operator;

--
-- What the catalog says
--
CREATE VIEW security_test.member AS
SELECT d.classid, d.objid
FROM pg_depend AS d
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idempotency');
-- PUBLIC executes nothing but what is pure
SELECT p.proname
FROM pg_proc AS p JOIN security_test.member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid,
     aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
WHERE a.grantee = 0
ORDER BY p.proname COLLATE "C";
SELECT p.proname
FROM pg_proc AS p JOIN security_test.member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid,
     aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
WHERE a.grantee = 0 AND p.provolatile <> 'i';
-- nobody but the owner has a right on a table or view, not on a column either
SELECT c.relname, a.grantee, a.privilege_type
FROM pg_class AS c JOIN security_test.member AS m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid,
     aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
WHERE a.grantee <> c.relowner;
SELECT attrelid::regclass, attname FROM pg_attribute
WHERE attrelid IN (SELECT objid FROM security_test.member WHERE classid = 'pg_class'::regclass) AND attacl IS NOT NULL;
-- one owner has it all, and only it can create in the schema
SELECT n.nspname
FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
WHERE n.nspname = 'idempotency' AND a.privilege_type <> 'USAGE' AND a.grantee <> n.nspowner;
SELECT pg_describe_object(m.classid, m.objid, 0)
FROM security_test.member AS m
LEFT JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
LEFT JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
WHERE coalesce(p.proowner, c.relowner) <> (SELECT nspowner FROM pg_namespace WHERE nspname = 'idempotency');
-- views don't let a condition of their reader see more than they show
SELECT relname FROM pg_class AS c JOIN security_test.member AS m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE relkind = 'v' AND NOT coalesce('security_barrier=true' = ANY (reloptions), false);
-- no function changes roles, and all are C, so that none looks a name up
SELECT proname FROM pg_proc AS p JOIN security_test.member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
WHERE prosecdef OR prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') OR proconfig IS NOT NULL OR proleakproof;
-- nothing takes or returns an internal value
SELECT proname FROM pg_proc AS p JOIN security_test.member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
WHERE 'internal'::regtype = ANY (proargtypes::oid[]) OR prorettype = 'internal'::regtype;

--
-- A role without a grant: 42501 from each function and each table
--
CREATE FUNCTION security_test.state(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RETURN '00000';
EXCEPTION WHEN others THEN
    RETURN sqlstate;
END $$;
CREATE FUNCTION security_test.call(function oid) RETURNS text LANGUAGE sql AS $$
SELECT format('SELECT FROM idempotency.%I(%s)', proname,
              (SELECT string_agg('NULL::' || format_type(type, NULL), ', ') FROM unnest(proargtypes) AS type))
FROM pg_proc WHERE oid = function
$$;
GRANT USAGE ON SCHEMA security_test TO PUBLIC;
CREATE TABLE security_test.subject AS
SELECT proname::text AS name, security_test.call(oid) AS command
FROM pg_proc WHERE pronamespace = 'idempotency'::regnamespace AND proname <> 'dedup'
UNION ALL
SELECT c.relname || ' ' || verb, format(command, 'idempotency.' || c.relname)
FROM pg_class AS c, (VALUES ('select', 'SELECT FROM %s'), ('delete', 'DELETE FROM %s'), ('truncate', 'TRUNCATE %s')) AS v(verb, command)
WHERE relnamespace = 'idempotency'::regnamespace AND relkind IN ('r', 'v') AND (relkind = 'r' OR verb = 'select');
GRANT SELECT ON security_test.subject TO PUBLIC;
SELECT count(*) > 60 AS many FROM security_test.subject;
SET ROLE regress_idempotency_nobody;
SELECT name, security_test.state(command) FROM security_test.subject WHERE security_test.state(command) <> '42501' ORDER BY name;
CREATE TABLE idempotency.mine (a int);
CREATE FUNCTION idempotency.claim(text) RETURNS text LANGUAGE sql AS 'SELECT ''mine''';
-- the messages
SELECT outcome FROM idempotency.claim('security.nobody', 'key');
SELECT * FROM idempotency.keys;
RESET ROLE;

--
-- An application needs one statement
--
GRANT EXECUTE ON FUNCTION idempotency.claim, idempotency.claim_or_raise, idempotency.claim_many, idempotency.once, idempotency.run,
    idempotency.finish, idempotency.fail, idempotency.release, idempotency.peek, idempotency.await TO regress_idempotency_app;
SET ROLE regress_idempotency_app;
BEGIN;
SELECT outcome FROM idempotency.claim('security.app', 'k1', 'x');
SELECT idempotency.finish('security.app', 'k1', 'r') > now() AS finished;
SELECT outcome FROM idempotency.claim_or_raise('security.app', 'k2');
SELECT outcome FROM idempotency.fail('security.app', 'k2', 'e', retryable => false);
SELECT outcome FROM idempotency.claim_many('security.app', '{k1,k3}');
SELECT idempotency.release('security.app', 'k3');
SELECT idempotency.once('security.app', 'k4');
SELECT outcome, response FROM idempotency.run('security.app', 'k5', 'SELECT 1 AS one');
COMMIT;
SELECT outcome, response FROM idempotency.claim('security.app', 'k1', 'x');
SELECT outcome, response FROM idempotency.peek('security.app', 'k1');
SELECT outcome, response FROM idempotency.await('security.app', 'k1');
-- and has no more than that
SELECT name, security_test.state(command) FROM security_test.subject
WHERE name <> ALL ('{claim,claim_or_raise,claim_many,once,run,finish,fail,release,peek,await,canonical,fingerprint}')
AND security_test.state(command) <> '42501';
RESET ROLE;
-- a right that is taken back is gone in the same session
REVOKE EXECUTE ON FUNCTION idempotency.claim FROM regress_idempotency_app;
SET ROLE regress_idempotency_app;
SELECT outcome FROM idempotency.claim('security.app', 'k1', 'x');
RESET ROLE;

--
-- An operator sees keys, not what is in them
--
GRANT SELECT ON idempotency.keys TO regress_idempotency_operator;
GRANT EXECUTE ON FUNCTION idempotency.forget, idempotency.configure, idempotency.policy, idempotency.maintain TO regress_idempotency_operator;
SET ROLE regress_idempotency_operator;
SELECT key, state, tag, response_bytes FROM idempotency.keys WHERE scope = 'security.app' ORDER BY key;
SELECT idempotency.forget('security.app', 'k1', 'test');
SELECT max_attempts FROM idempotency.configure('security.app', max_attempts => 2);
SELECT max_attempts FROM idempotency.policy('security.app');
SELECT count(*) >= 0 AS maintained FROM idempotency.maintain();
SELECT outcome FROM idempotency.claim('security.app', 'k1');
SELECT response FROM idempotency.key_day_0;
RESET ROLE;
-- one who may see a part of them, through a view, doesn't see the rest by a
-- function that tells what it is given
CREATE VIEW security_test.part WITH (security_barrier) AS SELECT key FROM idempotency.keys WHERE scope = 'security.app';
CREATE FUNCTION security_test.tell(text) RETURNS bool LANGUAGE plpgsql COST 0.0000001 AS
$$ BEGIN RAISE NOTICE 'told: %', $1; RETURN true; END $$;
SELECT idempotency.once('security.other', 'secret');
GRANT SELECT ON security_test.part TO regress_idempotency_nobody;
SET ROLE regress_idempotency_nobody;
SELECT key FROM security_test.part WHERE security_test.tell(key) AND key = 'k4';
RESET ROLE;

--
-- Settings.  The library is loaded by now, in this session.
--
SET ROLE regress_idempotency_app;
SET idempotency.max_wait = '10 h';
SET idempotency.maintain_lock_timeout = 0;
SET idempotency.maintain_pages = 1;
SET idempotency.busy_retry_after = '1 s';
SHOW idempotency.busy_retry_after;
RESET idempotency.busy_retry_after;
SET idempotency.nonsense = 1;
RESET ROLE;
-- out of range (the wording is PostgreSQL's, and changes)
\set VERBOSITY sqlstate
SET idempotency.max_wait = -1;
SET idempotency.max_wait = '25 days';
SET idempotency.busy_retry_after = 0;
SET idempotency.busy_retry_after = '2 h';
SET idempotency.maintain_lock_timeout = '61 s';
SET idempotency.maintain_pages = 0;
SET idempotency.maintain_pages = 'many';
\set VERBOSITY default
-- values set before the library is loaded count no more than after
\c -
\pset null '(null)'
SET ROLE regress_idempotency_app;
DO $$ BEGIN SET idempotency.max_wait = '10 h'; EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;
DO $$ BEGIN SET idempotency.nonsense = 1; EXCEPTION WHEN invalid_name THEN NULL; END $$;
-- PostgreSQL warns that they are refused, or refused them above
SET client_min_messages = error;
SELECT idempotency.once('security.app', 'k6');
RESET client_min_messages;
SHOW idempotency.max_wait;
SHOW idempotency.nonsense;
RESET ROLE;

--
-- No message tells a key, a principal, a request, a response, an error text or
-- a reason.  Each call below fails, and is given marked values.
--
CREATE FUNCTION security_test.leak(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE command USING 'security.leak', 'MARK-key', '{"MARK-name": "MARK-value"}', 'MARK-principal', '{"MARK": 1, "MARK": 2}', 'MARK {', repeat('MARK', 100);
    RETURN 'no error';
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN sqlstate || CASE WHEN concat(message, detail, hint) ~ 'MARK' THEN concat_ws(' / ', ' LEAKS', message, detail, hint) ELSE '' END;
END $$;
SELECT max_response_bytes FROM idempotency.configure('security.leak', max_response_bytes => 100);
BEGIN;
SELECT outcome FROM idempotency.claim('security.leak', 'MARK-key', 'MARK-other', principal => 'MARK-principal');
SELECT idempotency.finish('security.leak', 'MARK-key', 'MARK-response', principal => 'MARK-principal') > now() AS finished;
COMMIT;
SELECT n, security_test.leak(command)
FROM (VALUES (1, 'SELECT idempotency.once($1, $2, $3, $4)'),
             (2, 'SELECT idempotency.claim_or_raise($1, $2, $3, principal => $4)'),
             (3, 'SELECT idempotency.once($1, $2, $5)'),
             (4, 'SELECT idempotency.finish($1, $2, $3, principal => $4)'),
             (5, 'SELECT idempotency.finish($1, $2, $3)'),
             (6, 'SELECT idempotency.fail($1, $2, $3, principal => $4)'),
             (7, 'SELECT idempotency.release($1, $2, principal => $4)'),
             (8, 'SELECT idempotency.once($1, $7)'),
             (9, 'SELECT idempotency.once($1, $2, principal => $7)'),
             (10, 'SELECT idempotency.finish($1, $2, $7) FROM idempotency.claim($1, $2)'),
             (11, 'SELECT idempotency.finish($1, $2, $3, tag => $7) FROM idempotency.claim($1, $2)'),
             (12, 'SELECT idempotency.fail($1, $2, repeat($3, 3000)) FROM idempotency.claim($1, $2)'),
             (13, 'SELECT idempotency.forget($1, $2, $3) FROM idempotency.claim($1, $2)'),
             (14, 'SELECT idempotency.forget($1, $2, repeat($3, 1000))'),
             (15, 'SELECT idempotency.claim_or_raise($1, $2) FROM idempotency.claim($1, $2)'),
             (16, 'SELECT * FROM idempotency.claim_many($1, ARRAY[$2, $7])'),
             (17, 'SELECT * FROM idempotency.claim_many($1, ARRAY[$2], ARRAY[$5])'),
             (18, 'SELECT * FROM idempotency.peek($1, repeat($7, 10))'),
             (19, 'SELECT idempotency.fingerprint($5)'),
             (20, 'SELECT idempotency.release($1, $2, 1, $4)')) AS v(n, command)
ORDER BY n;

DROP OWNED BY regress_idempotency_nobody, regress_idempotency_app, regress_idempotency_operator;
DROP ROLE regress_idempotency_nobody, regress_idempotency_app, regress_idempotency_operator;
SET client_min_messages = warning;
DROP SCHEMA security_test CASCADE;
