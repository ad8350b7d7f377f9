-- The workers: who does the duties of which database (src/roster.c).
CREATE FUNCTION idempotency.workers(
	OUT database pg_catalog.text,
	OUT pid pg_catalog.int4,
	OUT state pg_catalog.text,
	OUT started_at pg_catalog.timestamptz,
	OUT last_round_at pg_catalog.timestamptz,
	OUT rounds pg_catalog.int8,
	OUT failures pg_catalog.int8,
	OUT last_error pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_workers';
COMMENT ON FUNCTION idempotency.workers IS
	'the workers of all databases; see the view of this name';
-- names other databases; grant it to operators
REVOKE ALL ON FUNCTION idempotency.workers FROM PUBLIC;

CREATE VIEW idempotency.workers WITH (security_barrier) AS
	SELECT * FROM idempotency.workers();
COMMENT ON VIEW idempotency.workers IS
	'the workers of all databases, and those that are to be started; empty unless the server preloads the library';
COMMENT ON COLUMN idempotency.workers.database IS
	'whose duties it does';
COMMENT ON COLUMN idempotency.workers.pid IS
	'its process, as in pg_stat_activity; null if there is none now';
COMMENT ON COLUMN idempotency.workers.state IS
	'running; failing: it runs, but something goes wrong, see the log; starting; waiting: for its next start; yielding: for somebody who wants the database for himself';
COMMENT ON COLUMN idempotency.workers.started_at IS
	'when its process, or the last one there was, began';
COMMENT ON COLUMN idempotency.workers.last_round_at IS
	'when it last finished a round, one each idempotency.naptime';
COMMENT ON COLUMN idempotency.workers.rounds IS
	'rounds since the server started, or since the extension was created';
COMMENT ON COLUMN idempotency.workers.failures IS
	'those of them in which something went wrong';
COMMENT ON COLUMN idempotency.workers.last_error IS
	'the SQLSTATE of what went wrong last, even if it goes well now';
-- names other databases; grant it to operators
REVOKE ALL ON idempotency.workers FROM PUBLIC;

CREATE FUNCTION idempotency.worker_start()
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_worker_start';
COMMENT ON FUNCTION idempotency.worker_start IS
	'once this transaction has committed, has this database''s worker started, if it does not run; false if there can be none here';
-- makes the server start a process; nobody needs it but this script
REVOKE ALL ON FUNCTION idempotency.worker_start FROM PUBLIC;

SELECT idempotency.worker_start();
