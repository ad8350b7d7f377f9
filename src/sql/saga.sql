-- Sagas: undoing, step by step, what can't be made idempotent.
--
-- A row for each saga that isn't over, or was undone not long ago; id is its
-- key's.  state: r = running, c = compensating, x = a step could not be undone,
-- d = compensated, h = completed, but a step of another saga that isn't over.
-- todo: who has to do the next thing, from due_at on: w = the worker, s = whoever
-- runs the SQL handlers of a role, e = a client, n = nobody but an operator.
CREATE TABLE idempotency.saga_run (
	id pg_catalog.uuid NOT NULL,
	fence pg_catalog.int8 NOT NULL,
	started_at pg_catalog.timestamptz NOT NULL,
	changed_at pg_catalog.timestamptz NOT NULL,
	due_at pg_catalog.timestamptz NOT NULL,
	deadline pg_catalog.timestamptz NOT NULL,
	parent pg_catalog.uuid,
	step pg_catalog.int4 NOT NULL,
	state pg_catalog."char" NOT NULL,
	todo pg_catalog."char" NOT NULL,
	scope pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	principal pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	reason pg_catalog.text,
	CONSTRAINT saga_run_pkey PRIMARY KEY (id)
);
CREATE INDEX saga_run_due ON idempotency.saga_run (todo, due_at);
COMMENT ON TABLE idempotency.saga_run IS
	'sagas that are not over, or were undone not long ago; see the view sagas';
-- a dump carries it: what is to be undone must be so after a restore
SELECT pg_catalog.pg_extension_config_dump('idempotency.saga_run', '');
-- who may write here decides what is undone
REVOKE ALL ON idempotency.saga_run FROM PUBLIC;

-- The steps of those sagas.  state: r = registered, d = done, c = being undone,
-- k = undone, x = could not be undone.  role_oid is true in the incarnation of
-- the row; in another one, after a restore, role is.
CREATE TABLE idempotency.saga_step (
	id pg_catalog.uuid NOT NULL,
	step_no pg_catalog.int4 NOT NULL,
	attempt pg_catalog.int4 NOT NULL,
	fence pg_catalog.int8,
	registered_at pg_catalog.timestamptz NOT NULL,
	done_at pg_catalog.timestamptz,
	not_before pg_catalog.timestamptz,
	lease_until pg_catalog.timestamptz,
	settled_at pg_catalog.timestamptz,
	incarnation pg_catalog.int8 NOT NULL,
	role_oid pg_catalog.oid NOT NULL,
	state pg_catalog."char" NOT NULL,
	name pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	handler pg_catalog.text,
	role pg_catalog.text NOT NULL,
	args pg_catalog.text,
	result pg_catalog.text,
	error pg_catalog.text,
	child_scope pg_catalog.text COLLATE pg_catalog."C",
	child_principal pg_catalog.text COLLATE pg_catalog."C",
	child_key pg_catalog.text COLLATE pg_catalog."C",
	CONSTRAINT saga_step_pkey PRIMARY KEY (id, step_no)
);
COMMENT ON TABLE idempotency.saga_step IS
	'steps of sagas, and how each is undone; see the view saga_steps';
-- a dump carries it, as it does the sagas
SELECT pg_catalog.pg_extension_config_dump('idempotency.saga_step', '');
-- who may write here decides what is executed, and as which role
REVOKE ALL ON idempotency.saga_step FROM PUBLIC;

-- Keys whose sagas are steps of others'.
CREATE TABLE idempotency.saga_child (
	id pg_catalog.uuid NOT NULL,
	parent pg_catalog.uuid NOT NULL,
	CONSTRAINT saga_child_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE idempotency.saga_child IS
	'keys whose sagas are steps of other keys'' sagas';
-- a dump carries it, as it does the sagas
SELECT pg_catalog.pg_extension_config_dump('idempotency.saga_child', '');
-- who may write here decides what is undone
REVOKE ALL ON idempotency.saga_child FROM PUBLIC;

CREATE FUNCTION idempotency.compensate_with(
	scope pg_catalog.text,
	key pg_catalog.text,
	fence pg_catalog.int8,
	step pg_catalog.text,
	handler pg_catalog.regprocedure DEFAULT NULL,
	args pg_catalog.text DEFAULT NULL,
	principal pg_catalog.text DEFAULT '',
	deadline pg_catalog.interval DEFAULT NULL,
	child_scope pg_catalog.text DEFAULT NULL,
	child_key pg_catalog.text DEFAULT NULL,
	child_principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.int4
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_compensate_with';
COMMENT ON FUNCTION idempotency.compensate_with IS
	'registers how a step of a leased claim is undone, and returns the step''s number; the same again returns the same';
-- changes state; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.compensate_with FROM PUBLIC;

CREATE FUNCTION idempotency.step_done(
	scope pg_catalog.text,
	key pg_catalog.text,
	fence pg_catalog.int8,
	step pg_catalog.text,
	result pg_catalog.text DEFAULT NULL,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_step_done';
COMMENT ON FUNCTION idempotency.step_done IS
	'marks a registered step as done, with its result, for whoever resumes or undoes it';
-- changes state; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.step_done FROM PUBLIC;

CREATE FUNCTION idempotency.steps(
	scope pg_catalog.text,
	key pg_catalog.text,
	principal pg_catalog.text DEFAULT '',
	OUT step_no pg_catalog.int4,
	OUT step pg_catalog.text,
	OUT state pg_catalog.text,
	OUT done pg_catalog.bool,
	OUT result pg_catalog.text,
	OUT args pg_catalog.text,
	OUT handler pg_catalog.text,
	OUT attempt pg_catalog.int4,
	OUT error pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_steps';
COMMENT ON FUNCTION idempotency.steps IS
	'the steps that were registered under a key whose saga is not over, in their order; changes nothing and works on a standby';
-- shows args and results; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.steps FROM PUBLIC;

CREATE FUNCTION idempotency.compensate(
	scope pg_catalog.text,
	key pg_catalog.text,
	fence pg_catalog.int8,
	reason pg_catalog.text DEFAULT NULL,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_compensate';
COMMENT ON FUNCTION idempotency.compensate IS
	'gives a leased claim up and has its steps undone, the last one first; in the end it has failed, with the reason as its error';
-- changes state; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.compensate FROM PUBLIC;

CREATE FUNCTION idempotency.next_compensation(
	scope pg_catalog.text,
	lease pg_catalog.interval DEFAULT '30 s',
	OUT step pg_catalog.text,
	OUT step_no pg_catalog.int4,
	OUT principal pg_catalog.text,
	OUT key pg_catalog.text,
	OUT args pg_catalog.text,
	OUT result pg_catalog.text,
	OUT done pg_catalog.bool,
	OUT attempt pg_catalog.int4,
	OUT fence pg_catalog.int8,
	OUT idempotency_key pg_catalog.text,
	OUT reason pg_catalog.text,
	OUT lease_until pg_catalog.timestamptz)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_next_compensation';
COMMENT ON FUNCTION idempotency.next_compensation IS
	'begins an attempt to undo a step of the scope that has no SQL handler; no row if none is due';
-- changes state and shows args and results; grant it to the roles that undo steps
REVOKE ALL ON FUNCTION idempotency.next_compensation FROM PUBLIC;

CREATE FUNCTION idempotency.settle_compensation(
	scope pg_catalog.text,
	key pg_catalog.text,
	step pg_catalog.text,
	fence pg_catalog.int8,
	success pg_catalog.bool DEFAULT true,
	error pg_catalog.text DEFAULT NULL,
	retryable pg_catalog.bool DEFAULT true,
	retry_after_ms pg_catalog.int8 DEFAULT NULL,
	principal pg_catalog.text DEFAULT '',
	OUT outcome pg_catalog.text,
	OUT attempt pg_catalog.int4,
	OUT retry_after_ms pg_catalog.int8)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_settle_compensation';
COMMENT ON FUNCTION idempotency.settle_compensation IS
	'says how an attempt ended that next_compensation() began: compensated, retry_later or failed; the same again is answered';
-- changes state; grant it to the roles that undo steps
REVOKE ALL ON FUNCTION idempotency.settle_compensation FROM PUBLIC;

CREATE FUNCTION idempotency.run_compensations(
	max pg_catalog.int8 DEFAULT 100,
	OUT scope pg_catalog.text,
	OUT principal pg_catalog.text,
	OUT key pg_catalog.text,
	OUT step pg_catalog.text,
	OUT outcome pg_catalog.text,
	OUT error pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_run_compensations';
COMMENT ON FUNCTION idempotency.run_compensations IS
	'executes the SQL handlers that the current role has registered and that are due; for servers without the worker';
-- changes state; grant it to the roles that register handlers
REVOKE ALL ON FUNCTION idempotency.run_compensations FROM PUBLIC;

CREATE FUNCTION idempotency.retry_compensation(
	scope pg_catalog.text,
	key pg_catalog.text,
	reason pg_catalog.text,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_retry_compensation';
COMMENT ON FUNCTION idempotency.retry_compensation IS
	'has a step be tried again that could not be undone; false if there is none; for operators';
-- has something done on behalf of somebody else; grant it to operators
REVOKE ALL ON FUNCTION idempotency.retry_compensation FROM PUBLIC;

CREATE VIEW idempotency.sagas WITH (security_barrier) AS
SELECT r.scope, r.principal, r.key,
	CASE r.state
		WHEN 'r'::pg_catalog."char" THEN 'running'
		WHEN 'c'::pg_catalog."char" THEN 'compensating'
		WHEN 'x'::pg_catalog."char" THEN 'compensation_failed'
		WHEN 'd'::pg_catalog."char" THEN 'compensated'
		WHEN 'h'::pg_catalog."char" THEN 'completed'
	END AS state,
	r.reason, r.started_at, r.changed_at,
	NULLIF(r.deadline, 'infinity'::pg_catalog.timestamptz) AS deadline,
	(SELECT pg_catalog.count(*) FROM idempotency.saga_step AS s
		WHERE s.id OPERATOR(pg_catalog.=) r.id) AS steps,
	NULLIF(r.step, 0) AS compensating_step,
	CASE r.todo
		WHEN 'w'::pg_catalog."char" THEN 'worker'
		WHEN 's'::pg_catalog."char" THEN 'handler'
		WHEN 'e'::pg_catalog."char" THEN 'client'
		WHEN 'n'::pg_catalog."char" THEN 'operator'
	END AS next_by,
	NULLIF(r.due_at, 'infinity'::pg_catalog.timestamptz) AS due_at,
	p.scope AS parent_scope, p.key AS parent_key, r.fence
FROM idempotency.saga_run AS r
	LEFT JOIN idempotency.saga_run AS p ON p.id OPERATOR(pg_catalog.=) r.parent;
COMMENT ON VIEW idempotency.sagas IS
	'sagas that are not over, and those that were undone, as long as their keys are remembered; completed ones are in the ledger';
COMMENT ON COLUMN idempotency.sagas.state IS
	'running; compensating; compensation_failed (an operator has to act); compensated; completed (a step of another saga that is not over)';
COMMENT ON COLUMN idempotency.sagas.reason IS
	'why it is undone: compensate, failed, exhausted, deadline, abandoned, resolved, parent';
COMMENT ON COLUMN idempotency.sagas.next_by IS
	'who has to do the next thing: the worker, the handler''s process, a client, an operator';
COMMENT ON COLUMN idempotency.sagas.due_at IS
	'from when on it is to be done';
-- keys tell who did what; grant it to operators
REVOKE ALL ON idempotency.sagas FROM PUBLIC;

CREATE VIEW idempotency.saga_steps WITH (security_barrier) AS
SELECT r.scope, r.principal, r.key, s.step_no, s.name AS step,
	CASE s.state
		WHEN 'r'::pg_catalog."char" THEN 'registered'
		WHEN 'd'::pg_catalog."char" THEN 'done'
		WHEN 'c'::pg_catalog."char" THEN 'compensating'
		WHEN 'k'::pg_catalog."char" THEN 'compensated'
		WHEN 'x'::pg_catalog."char" THEN 'failed'
	END AS state,
	s.handler, s.role, s.attempt, s.error, s.registered_at, s.done_at, s.not_before,
	s.lease_until, s.settled_at, s.child_scope, s.child_principal, s.child_key
FROM idempotency.saga_step AS s
	JOIN idempotency.saga_run AS r ON r.id OPERATOR(pg_catalog.=) s.id;
COMMENT ON VIEW idempotency.saga_steps IS
	'steps of the sagas in the view sagas, without args and results';
COMMENT ON COLUMN idempotency.saga_steps.attempt IS
	'how often it was tried to undo the step';
COMMENT ON COLUMN idempotency.saga_steps.error IS
	'what the last attempt to undo it failed with';
COMMENT ON COLUMN idempotency.saga_steps.settled_at IS
	'when it was undone, or given up';
-- keys tell who did what; grant it to operators
REVOKE ALL ON idempotency.saga_steps FROM PUBLIC;
