-- complain if the script is fed to psql rather than through CREATE EXTENSION
\echo Use "CREATE EXTENSION idempotency" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

-- The schema must be this role's own and empty: whoever owns it could replace
-- what is made in it, and whatever lies in it could be called by mistake.
DO $$
BEGIN
	IF EXISTS (SELECT FROM pg_catalog.pg_namespace AS n
			   WHERE n.nspname OPERATOR(pg_catalog.=) 'idempotency'
			   AND (n.nspowner OPERATOR(pg_catalog.<>)
					(SELECT r.oid FROM pg_catalog.pg_roles AS r
					 WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER)
					OR EXISTS (SELECT FROM pg_catalog.pg_depend AS d
							   WHERE d.refclassid OPERATOR(pg_catalog.=)
									 'pg_catalog.pg_namespace'::pg_catalog.regclass
							   AND d.refobjid OPERATOR(pg_catalog.=) n.oid
							   AND d.classid OPERATOR(pg_catalog.<>)
									 'pg_catalog.pg_extension'::pg_catalog.regclass
							   AND d.deptype OPERATOR(pg_catalog.=) 'n')))
	THEN
		RAISE EXCEPTION 'schema "idempotency" exists, and is not an empty one of this role'
			USING ERRCODE = '55000',
				  HINT = 'Drop or rename it before CREATE EXTENSION idempotency.';
	END IF;
END
$$;

-- To look a function up, a role needs the schema; to call one, its own grant.
GRANT USAGE ON SCHEMA idempotency TO PUBLIC;
