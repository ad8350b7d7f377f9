-- Attempts that left nothing else behind, written by the worker (src/note.c).
CREATE TABLE idempotency.aborted_attempt (
	id pg_catalog.uuid NOT NULL,
	scope pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	attempt pg_catalog.int4 NOT NULL,
	claimed_at pg_catalog.timestamptz NOT NULL,
	aborted_at pg_catalog.timestamptz NOT NULL,
	pid pg_catalog.int4 NOT NULL
);
COMMENT ON TABLE idempotency.aborted_attempt IS
	'claims that were rolled back in the last day, as far as there was room to note them; id is that of the key''s row';
COMMENT ON COLUMN idempotency.aborted_attempt.pid IS
	'the process that claimed';
-- not dumped: says nothing of another server
-- tells how an operation fares; grant it to operators
REVOKE ALL ON idempotency.aborted_attempt FROM PUBLIC;

CREATE FUNCTION idempotency.notes_dropped()
RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_notes_dropped';
COMMENT ON FUNCTION idempotency.notes_dropped IS
	'how many aborted attempts, replays to be audited and the like were not noted since the server was started, because the worker didn''t come by in time';
-- tells how an operation fares; grant it to operators
REVOKE ALL ON FUNCTION idempotency.notes_dropped FROM PUBLIC;

CREATE FUNCTION idempotency.notes_dropped_at()
RETURNS pg_catalog.timestamptz
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_notes_dropped_at';
COMMENT ON FUNCTION idempotency.notes_dropped_at IS
	'when one was last not noted; null if never';
-- tells how an operation fares; grant it to operators
REVOKE ALL ON FUNCTION idempotency.notes_dropped_at FROM PUBLIC;
