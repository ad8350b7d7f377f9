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
-- PUBLIC executes nothing but what is pure, or would be without the clock and
-- chance
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
-- no function changes roles, and all are C, so that none looks a name up, or
-- look for it where nobody else can put one
SELECT proname, proconfig FROM pg_proc AS p JOIN security_test.member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
WHERE prosecdef OR prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') OR proconfig IS NOT NULL OR proleakproof ORDER BY proname;
-- nothing takes or returns an internal value, but for what the planner calls
SELECT proname FROM pg_proc AS p JOIN security_test.member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
WHERE ('internal'::regtype = ANY (proargtypes::oid[]) OR prorettype = 'internal'::regtype)
AND p.oid NOT IN (SELECT prosupport FROM pg_proc);

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
FROM pg_proc WHERE pronamespace = 'idempotency'::regnamespace AND prorettype <> 'trigger'::regtype AND proname <> 'derive_key_support'
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
    idempotency.finish, idempotency.fail, idempotency.release, idempotency.peek, idempotency.await,
    idempotency.heartbeat, idempotency.checkpoint, idempotency.assert_fence TO regress_idempotency_app;
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
SELECT fence FROM idempotency.claim('security.app', 'k7', lease => '30 min', owner => 'me') \gset
SELECT idempotency.heartbeat('security.app', 'k7', :fence) > now() AS extended, idempotency.checkpoint('security.app', 'k7', :fence, 'p'), idempotency.assert_fence('security.app', 'k7', :fence);
SELECT outcome FROM idempotency.fail('security.app', 'k7', 'e', fence => :fence, retry_after_ms => 0);
SELECT fence FROM idempotency.claim('security.app', 'k7', lease => '30 min') \gset
SELECT idempotency.release('security.app', 'k7', :fence);
SELECT fence FROM idempotency.claim('security.app', 'k7', lease => '30 min') \gset
SELECT idempotency.finish('security.app', 'k7', 'r', :fence) > now() AS finished;
-- and has no more than that
SELECT name, security_test.state(command) FROM security_test.subject
WHERE name <> ALL ('{claim,claim_or_raise,claim_many,once,run,finish,fail,release,peek,await,heartbeat,checkpoint,assert_fence,canonical,fingerprint,derive_key,derive_key_immutable,new_key,verify_consistency,verify_inclusion}')
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
GRANT SELECT ON idempotency.keys, idempotency.activity TO regress_idempotency_operator;
GRANT EXECUTE ON FUNCTION idempotency.forget, idempotency.resolve, idempotency.abandoned, idempotency.bump_incarnation, idempotency.configure, idempotency.policy, idempotency.maintain
    TO regress_idempotency_operator;
SELECT outcome FROM idempotency.claim('security.app', 'left', lease => '1 ms');
SELECT pg_sleep(0.002);
SET ROLE regress_idempotency_operator;
SELECT key, state, tag, response_bytes FROM idempotency.keys WHERE scope = 'security.app' ORDER BY key;
SELECT idempotency.forget('security.app', 'k1', 'test');
SELECT key, role = session_user AS role FROM idempotency.activity WHERE scope = 'security.app';
SELECT key, overdue_ms > 0 AS overdue FROM idempotency.abandoned('security.app');
SELECT idempotency.resolve('security.app', 'left', 'retry', reason => 'test');
SELECT idempotency.bump_incarnation('test') > 0 AS begun;
SELECT max_attempts FROM idempotency.configure('security.app', max_attempts => 2);
SELECT max_attempts FROM idempotency.policy('security.app');
-- but doesn't decide what an auditor will find
SELECT audit FROM idempotency.configure('security.app', audit => 'off');
SELECT audit_payloads FROM idempotency.configure('security.app', audit_payloads => false);
SELECT decision FROM idempotency.ledger_entry;
SELECT count(*) >= 0 AS maintained FROM idempotency.maintain();
SELECT outcome FROM idempotency.claim('security.app', 'k1');
SELECT response FROM idempotency.key_day_0;
SELECT number FROM idempotency.incarnation;
SELECT setval('idempotency.fence_seq', 1);
SELECT nextval('idempotency.fence_seq');
SELECT key FROM idempotency.take_abandoned('security.app');
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
-- A scope that is reserved for a role: ID403 for whoever isn't a member, from
-- each function, whatever else is wrong
--
CREATE ROLE regress_idempotency_payments;
SELECT role FROM idempotency.configure('security.reserved', role => 'regress_idempotency_payments');
SELECT fence FROM idempotency.claim('security.reserved', 'live', lease => '30 min') \gset
SELECT fence AS over FROM idempotency.claim('security.reserved', 'over', lease => '1 ms') \gset
CREATE TABLE security_test.reserved AS
SELECT n, 'SELECT idempotency.' || format(command, key, fence) AS command
FROM (VALUES (1, 'claim(''security.reserved'', %L, lease => ''1 s'')'), (2, 'claim_or_raise(''security.reserved'', %L, lease => ''1 s'', owner => ''me'')'), (3, 'claim_many(''security.reserved'', ARRAY[%L], lease => ''1 s'')'),
             (4, 'once(''security.reserved'', %L)'), (5, 'run(''security.reserved'', %L, ''SELECT 1'')'), (6, 'finish(''security.reserved'', %L, ''r'', %s)'), (7, 'fail(''security.reserved'', %L, ''e'', fence => %s)'),
             (8, 'release(''security.reserved'', %L, %s)'), (9, 'heartbeat(''security.reserved'', %L, %s)'), (10, 'checkpoint(''security.reserved'', %L, %s, ''p'')'), (11, 'assert_fence(''security.reserved'', %L, %s)'),
             (12, 'forget(''security.reserved'', %L, ''test'', %s)'), (13, 'resolve(''security.reserved'', %L, ''failed'', reason => ''test'')'), (14, 'abandoned(''security.reserved'')'), (15, 'take_abandoned(''security.reserved'')'),
             (16, 'peek(''security.reserved'', %L)'), (17, 'await(''security.reserved'', %L, ''0'')'), (18, 'heartbeat(''security.reserved'', %L, %s + 1, ''2 h'')'), (19, 'checkpoint(''security.reserved'', %L, 1, ''p'', repeat(''s'', 100000))')) AS v(n, command),
     (VALUES ('live', :fence), ('over', :over), ('unknown', 1)) AS k(key, fence);
GRANT SELECT ON security_test.reserved TO PUBLIC;
GRANT USAGE ON SCHEMA idempotency TO regress_idempotency_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA idempotency TO regress_idempotency_app, regress_idempotency_payments;
SET ROLE regress_idempotency_app;
SELECT n, command, security_test.state(command) FROM security_test.reserved WHERE security_test.state(command) <> 'ID403' ORDER BY n, command;
SELECT idempotency.heartbeat('security.reserved', 'live', :fence);
SELECT key FROM idempotency.take_abandoned('security.reserved');
SELECT key FROM idempotency.abandoned('security.reserved');
RESET ROLE;
SELECT key, state, attempt FROM idempotency.keys WHERE scope = 'security.reserved' ORDER BY key;
-- a member may, until it isn't one any more
GRANT regress_idempotency_payments TO regress_idempotency_app;
SET ROLE regress_idempotency_app;
SELECT idempotency.heartbeat('security.reserved', 'live', :fence, '30 min') > now() AS extended, idempotency.checkpoint('security.reserved', 'live', :fence, 'p');
SELECT key FROM idempotency.abandoned('security.reserved');
SELECT key, attempt FROM idempotency.take_abandoned('security.reserved', lease => '1 ms');
RESET ROLE;
REVOKE regress_idempotency_payments FROM regress_idempotency_app;
SET ROLE regress_idempotency_app;
SELECT n, security_test.state(command) FROM security_test.reserved WHERE security_test.state(command) <> 'ID403' ORDER BY n;
RESET ROLE;
-- the role is gone, and nobody may
DROP OWNED BY regress_idempotency_payments;
DROP ROLE regress_idempotency_payments;
\set VERBOSITY sqlstate
SELECT idempotency.finish('security.reserved', 'live', 'r', :fence);
SELECT key FROM idempotency.take_abandoned('security.reserved');
\set VERBOSITY default
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA idempotency FROM regress_idempotency_app;
GRANT EXECUTE ON FUNCTION idempotency.once TO regress_idempotency_app;

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
SET idempotency.origin = 'mine';
SET idempotency.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
RESET idempotency.traceparent;
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
-- what can't be a checkpoint's first line (C2SP tlog-checkpoint), nor name a key
SET idempotency.origin = '';
SET idempotency.origin = 'a b';
SET idempotency.origin = E'a\nb';
SET idempotency.origin = 'a+b';
SET idempotency.origin = 'ä';
DO $$ BEGIN PERFORM set_config('idempotency.origin', repeat('o', 129), false); END $$;
SHOW idempotency.origin;
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
SELECT require_token FROM idempotency.configure('security.token', require_token => true);
BEGIN;
SELECT outcome FROM idempotency.claim('security.leak', 'MARK-key', 'MARK-other', principal => 'MARK-principal');
SELECT idempotency.finish('security.leak', 'MARK-key', 'MARK-response', principal => 'MARK-principal') > now() AS finished;
COMMIT;
SELECT outcome FROM idempotency.claim('security.leak', 'MARK-leased', lease => '30 min', owner => 'MARK-owner', state => 'MARK-state');
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
             (20, 'SELECT idempotency.release($1, $2, 1, $4)'),
             (21, 'SELECT idempotency.claim($1, $2, $3, lease => ''1 s'', owner => repeat($7, 2))'),
             (22, 'SELECT idempotency.claim($1, $2, $3, owner => $7)'),
             (23, 'SELECT idempotency.claim($1, ''new'', $3, lease => ''1 s'', state => repeat($7, 1000))'),
             (24, 'SELECT idempotency.heartbeat($1, $2, 1, principal => $4)'),
             (25, 'SELECT idempotency.heartbeat($1, $2, 1)'),
             (26, 'SELECT idempotency.checkpoint($1, $2, 1, $7, $3, $4)'),
             (27, 'SELECT idempotency.checkpoint($1, ''MARK-leased'', fence, $7, repeat($7, 1000)) FROM idempotency.keys WHERE key = ''MARK-leased'''),
             (28, 'SELECT idempotency.checkpoint($1, ''MARK-leased'', fence, $7 || $7) FROM idempotency.keys WHERE key = ''MARK-leased'''),
             (29, 'SELECT idempotency.finish($1, ''MARK-leased'', $3) FROM idempotency.keys WHERE key = ''MARK-leased'''),
             (30, 'SELECT idempotency.finish($1, ''MARK-leased'', $7, fence) FROM idempotency.keys WHERE key = ''MARK-leased'''),
             (31, 'SELECT idempotency.fail($1, ''MARK-leased'', repeat($7, 1000), fence => fence) FROM idempotency.keys WHERE key = ''MARK-leased'''),
             (32, 'SELECT idempotency.assert_fence($1, ''MARK-leased'', 1)'),
             (33, 'SELECT idempotency.resolve($1, ''MARK-leased'', ''failed'', $3, $7)'),
             (34, 'SELECT idempotency.resolve($1, $2, $7, $3, $7)'),
             (35, 'SELECT idempotency.resolve($1, $2, ''failed'', $3, repeat($7, 3))'),
             (36, 'SELECT idempotency.resolve($1, $2, ''failed'', $3, $7, $4)'),
             (37, 'SELECT idempotency.forget($1, ''MARK-leased'', $7)'),
             (38, 'SELECT idempotency.claim_or_raise($1, ''MARK-leased'', lease => ''1 s'', owner => $2)'),
             (39, 'SELECT idempotency.bump_incarnation(repeat($7, 3))'),
             (40, 'SELECT idempotency.configure($1, on_lease_expiry => $7)'),
             (41, 'SELECT idempotency.configure($1, audit => $7)'),
             (42, 'SELECT idempotency.derive_key($3, include => ARRAY[$7])'),
             (43, 'SELECT idempotency.derive_key($3, include => ''{$.x}'', principal => $4)'),
             (44, 'SELECT idempotency.derive_key($5)'),
             (45, 'SELECT idempotency.issue_token($1, $7)'),
             (46, 'SELECT idempotency.issue_token($1, $4, ''2 days'')'),
             (47, 'SELECT idempotency.claim(''security.token'', $2, $3, principal => $4)'),
             (48, 'SELECT idempotency.invalidate($1, $7, $3)'),
             (49, 'SELECT idempotency.invalidate($1, $2, repeat($7, 3))'),
             (50, 'SELECT idempotency.run($1, $2, ''SELECT 1'', tag => $7)'),
             (51, 'SELECT idempotency.configure($1, on_invalidated => $7, on_stale_version => $2)')) AS v(n, command)
ORDER BY n;

DROP OWNED BY regress_idempotency_nobody, regress_idempotency_app, regress_idempotency_operator;
DROP ROLE regress_idempotency_nobody, regress_idempotency_app, regress_idempotency_operator;
SET client_min_messages = warning;
DROP SCHEMA security_test CASCADE;
