--
-- Installing: what CREATE EXTENSION refuses, what it makes, and that it can be
-- undone.  Every other test needs this one, and none other, to have run.
--
-- Convention: a query that looks for mistakes returns no row if all is well.
--
\pset null '(null)'

--
-- The schema must be the installing role's own and empty.  Whatever lies in it
-- is not adopted, and nobody else may own it.
--
CREATE ROLE regress_idempotency_other;
CREATE SCHEMA idempotency;
CREATE FUNCTION idempotency.claim(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''mine''';
\set VERBOSITY terse
CREATE EXTENSION idempotency;
\set VERBOSITY default
DROP FUNCTION idempotency.claim(text, text);
\set VERBOSITY sqlstate
CREATE TABLE idempotency.key_day_0 (id uuid);
CREATE EXTENSION idempotency;
DROP TABLE idempotency.key_day_0;
CREATE TYPE idempotency.anything AS (a int);
CREATE EXTENSION idempotency;
DROP TYPE idempotency.anything;
CREATE OPERATOR idempotency.= (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);
CREATE EXTENSION idempotency;
DROP OPERATOR idempotency.= (text, text);
ALTER SCHEMA idempotency OWNER TO regress_idempotency_other;
CREATE EXTENSION idempotency;
\set VERBOSITY default
DROP SCHEMA idempotency;
-- it has a schema of its own
CREATE EXTENSION idempotency SCHEMA public;
-- an empty schema of this role will do
CREATE SCHEMA idempotency;
CREATE EXTENSION idempotency;
DROP EXTENSION idempotency;
SELECT count(*) AS left_behind FROM pg_class WHERE relnamespace = 'idempotency'::regnamespace;
DROP SCHEMA idempotency;
-- only a superuser may install
GRANT CREATE ON DATABASE :"DBNAME" TO regress_idempotency_other;
SET ROLE regress_idempotency_other;
CREATE EXTENSION idempotency;
RESET ROLE;
REVOKE CREATE ON DATABASE :"DBNAME" FROM regress_idempotency_other;

--
-- Nothing on the installing session's search_path takes part.  The impostors
-- below fit better than the originals, and raise an error when used.
--
CREATE SCHEMA install_test;
CREATE FUNCTION install_test.trap(text, name) RETURNS bool LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'captured'; END $$;
CREATE OPERATOR install_test.= (LEFTARG = text, RIGHTARG = name, FUNCTION = install_test.trap);
CREATE FUNCTION install_test.trap(name, text) RETURNS bool LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'captured'; END $$;
CREATE OPERATOR install_test.= (LEFTARG = name, RIGHTARG = text, FUNCTION = install_test.trap);
CREATE FUNCTION install_test.pg_extension_config_dump(text, text) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'captured'; END $$;
CREATE FUNCTION install_test.octet_length(text) RETURNS int LANGUAGE sql AS 'SELECT -1';
CREATE DOMAIN install_test.text AS pg_catalog.text CHECK (false);
CREATE DOMAIN install_test.int8 AS pg_catalog.int8 CHECK (false);
SET search_path = install_test, pg_catalog, public;
CREATE EXTENSION idempotency;
RESET search_path;
SELECT d.objid, d.refobjid
FROM pg_depend AS d
WHERE d.classid = 'pg_proc'::regclass AND d.objid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'idempotency'::regnamespace)
AND d.refclassid = 'pg_type'::regclass
AND d.refobjid IN (SELECT oid FROM pg_type WHERE typnamespace = 'install_test'::regnamespace);
-- so nothing of the extension goes with it
SET client_min_messages = warning;
DROP SCHEMA install_test CASCADE;
RESET client_min_messages;
SELECT count(*) > 20 AS still_there FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idempotency');

--
-- Dropped in the transaction that has claimed and finished: the commit goes
-- through, the session works on, and a new installation knows nothing.
--
BEGIN;
SELECT outcome FROM idempotency.claim('install', 'key');
SELECT idempotency.finish('install', 'key') > now() AS finished;
DROP EXTENSION idempotency;
COMMIT;
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('install', 'key');
\set VERBOSITY default
CREATE EXTENSION idempotency;
BEGIN;
SELECT outcome FROM idempotency.claim('install', 'key');
ROLLBACK;
-- a drop that is undone leaves what was decided as it was
BEGIN;
SELECT outcome FROM idempotency.claim('install', 'kept');
SAVEPOINT s;
DROP EXTENSION idempotency;
ROLLBACK TO s;
SELECT idempotency.finish('install', 'kept') > now() AS finished;
COMMIT;
BEGIN;
SELECT outcome FROM idempotency.claim('install', 'undone');
SELECT idempotency.finish('install', 'undone') > now() AS finished;
DROP EXTENSION idempotency;
ROLLBACK;
SELECT decision, key FROM idempotency.ledger_entry WHERE decision <> 'aborted' ORDER BY seq;
-- made anew in the same transaction, it knows nothing of what was before
BEGIN;
SELECT idempotency.once('install', 'before');
SAVEPOINT s;
DROP EXTENSION idempotency;
CREATE EXTENSION idempotency;
SELECT idempotency.once('install', 'undone');
ROLLBACK TO s;
SELECT idempotency.once('install', 'between');
COMMIT;
SELECT decision, key FROM idempotency.ledger_entry WHERE decision <> 'aborted' ORDER BY seq;
BEGIN;
SELECT idempotency.once('install', 'old');
DROP EXTENSION idempotency;
CREATE EXTENSION idempotency;
SELECT idempotency.once('install', 'after');
COMMIT;
SELECT decision, key FROM idempotency.ledger_entry WHERE decision <> 'aborted' ORDER BY seq;
-- so much is decided that a part is recorded before the drop
BEGIN;
SELECT count(idempotency.once('install', i::text)) FROM generate_series(1, 12000) AS i;
DROP EXTENSION idempotency;
COMMIT;
CREATE EXTENSION idempotency;
-- the same with a lease, that nobody has to settle
BEGIN;
SELECT outcome FROM idempotency.claim('install', 'leased', lease => '30 min');
SELECT idempotency.bump_incarnation('test') > 0 AS begun;
DROP EXTENSION idempotency;
COMMIT;
CREATE EXTENSION idempotency;
-- the same, and a claim that nothing settles: the commit is refused
BEGIN;
SELECT outcome FROM idempotency.claim('install', 'key');
DROP EXTENSION idempotency;
COMMIT;
SELECT count(*) FROM pg_extension WHERE extname = 'idempotency';

--
-- What there is
--
SELECT e.extversion = a.default_version AS default_version, e.extrelocatable, n.nspname,
       pg_get_userbyid(n.nspowner) = current_user AS own_schema
FROM pg_extension AS e
JOIN pg_available_extensions AS a ON a.name = e.extname
JOIN pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname = 'idempotency';

CREATE TEMP VIEW member AS
SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS object
FROM pg_depend AS d
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idempotency');

CREATE TEMP VIEW function AS
SELECT p.*, (SELECT string_agg(a.name || ' ' || format_type(a.type, NULL) || coalesce(' = ' || pg_get_function_arg_default(p.oid, a.n::int), ''),
                               E',\n    ' ORDER BY a.n)
             FROM unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes) WITH ORDINALITY AS a(name, type, mode, n)
             WHERE coalesce(a.mode, 'i') = 'i') AS arguments,
       (SELECT string_agg(a.name || ' ' || format_type(a.type, NULL), E',\n    ' ORDER BY a.n)
        FROM unnest(p.proargnames, p.proallargtypes, p.proargmodes) WITH ORDINALITY AS a(name, type, mode, n)
        WHERE a.mode IN ('o', 't')) AS result
FROM pg_proc AS p
JOIN member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid;

\pset format unaligned
\pset tuples_only on
-- functions, their arguments (names and defaults are API)
SELECT proname || '(' || coalesce(E'\n    ' || arguments, '') || ')'
FROM function
ORDER BY proname COLLATE "C";
-- and what they return
SELECT string_agg(proname, ', ' ORDER BY proname COLLATE "C") || ' -> ' || format_type(prorettype, NULL)
FROM function
WHERE result IS NULL
GROUP BY prorettype
ORDER BY min(proname) COLLATE "C";
SELECT string_agg(proname || CASE WHEN proretset THEN ' (setof)' ELSE '' END, ', ' ORDER BY proname COLLATE "C") || E' ->\n    ' || result
FROM function
WHERE result IS NOT NULL
GROUP BY result
ORDER BY min(proname) COLLATE "C";
\pset tuples_only off
\pset format aligned

-- volatile and unsafe in parallel plans, but for what is pure
SELECT provolatile, proparallel, string_agg(proname, ' ' ORDER BY proname COLLATE "C") AS functions
FROM function
GROUP BY provolatile, proparallel
ORDER BY provolatile, proparallel;
-- what claims costs more than other conditions, so that those are looked at first
SELECT proname, procost FROM function
WHERE proname IN ('claim', 'claim_many', 'claim_or_raise', 'once', 'run', 'take_abandoned') AND procost < 1000;
-- nothing runs with its owner's rights, and nothing is overloaded
SELECT proname FROM function WHERE prosecdef;
SELECT proname FROM function GROUP BY proname HAVING count(*) > 1;
-- no argument that a driver can't send: no composite, no polymorphic, no void
SELECT proname FROM function AS f
WHERE prorettype IN ('void'::regtype, 'interval'::regtype)
OR EXISTS (SELECT FROM unnest(f.proargtypes::oid[]) AS a(type) JOIN pg_type AS t ON t.oid = a.type
           WHERE t.typtype <> 'b' AND f.prorettype <> 'trigger'::regtype)
AND f.oid NOT IN (SELECT prosupport FROM pg_proc);

-- tables and views
SELECT c.relkind, c.relpersistence, string_agg(c.relname, ' ' ORDER BY c.relname COLLATE "C") AS relations
FROM pg_class AS c JOIN member AS m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
GROUP BY c.relkind, c.relpersistence
ORDER BY c.relkind, c.relpersistence;
SELECT attname, format_type(atttypid, atttypmod) AS type
FROM pg_attribute
WHERE attrelid = 'idempotency.keys'::regclass AND attnum > 0
ORDER BY attnum;
-- the seventeen tables of keys are alike: two indexes each, on id and on what
-- is running, and the identity's texts compare bytewise
SELECT count(*), string_agg(DISTINCT a.columns, ' / ') AS columns
FROM (SELECT c.relname, string_agg(attname || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN '!' ELSE '' END ||
                                   CASE WHEN attcollation = '"C"'::regcollation THEN ' C' ELSE '' END, ', ' ORDER BY attnum) AS columns
      FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
      WHERE c.relnamespace = 'idempotency'::regnamespace AND c.relkind = 'r' AND c.relname LIKE 'key\_%'
      GROUP BY c.relname) AS a;
SELECT count(*), string_agg(DISTINCT replace(pg_get_indexdef(i.indexrelid), c.relname, '%'), ' / ') AS index
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
WHERE c.relnamespace = 'idempotency'::regnamespace AND c.relname LIKE 'key\_%';
-- it owns nothing else
SELECT object FROM member
WHERE classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass) AND object NOT LIKE 'type %'
ORDER BY object COLLATE "C";

-- every object says what it is for
SELECT object FROM member
WHERE object NOT LIKE 'type %' AND obj_description(objid, classid::regclass::name) IS NULL
ORDER BY object COLLATE "C";

-- what a dump carries, as a whole: all keys and policies
SELECT c.relname, e.condition
FROM pg_extension AS x, unnest(x.extconfig, x.extcondition) AS e(relid, condition)
JOIN pg_class AS c ON c.oid = e.relid
WHERE x.extname = 'idempotency'
ORDER BY c.relname COLLATE "C";
-- and what it doesn't
SELECT c.relname
FROM pg_class AS c JOIN member AS m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE c.relkind IN ('r', 'S')
AND c.oid <> ALL (SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'idempotency')
ORDER BY c.relname COLLATE "C";

-- every setting tells what it is for
SELECT name, context, unit, vartype, boot_val, min_val, max_val, short_desc
FROM pg_settings
WHERE name LIKE 'idempotency.%' AND name NOT LIKE 'idempotency.fault%' AND name NOT LIKE 'idempotency.clock%'
	-- these are there only if the server preloads the library
	AND name NOT IN ('idempotency.max_databases', 'idempotency.max_scopes', 'idempotency.note_buffer',
		'idempotency.span_buffer')
ORDER BY name COLLATE "C";

-- no fence has been issued, and no incarnation has begun, unless by a worker
SELECT last_value, is_called, (SELECT count(*) FROM idempotency.incarnation WHERE NOT idempotency.preloaded()) AS incarnations FROM idempotency.fence_seq;

DROP VIEW function, member;
DROP ROLE regress_idempotency_other;
