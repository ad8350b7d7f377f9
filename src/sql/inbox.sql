-- Events: consumers that process each event once.
--
-- A row for each consumer and stream that somebody configured; '*' as stream is
-- for all of a consumer's streams, and as both for all consumers.  NULL: as the
-- row of '*' says, or as the library does.  Written by configure_consumer()
-- only: it tells every backend, a plain UPDATE doesn't.
CREATE TABLE idempotency.inbox_policy (
	consumer pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	stream pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	strategy pg_catalog."char",
	retention_usec pg_catalog.int8,
	wait_usec pg_catalog.int8,
	max_holes pg_catalog.int4,
	max_deliveries pg_catalog.int4,
	first_seq pg_catalog.int8,
	allowed_role pg_catalog.text,
	CONSTRAINT inbox_policy_pkey PRIMARY KEY (consumer, stream)
);
COMMENT ON TABLE idempotency.inbox_policy IS
	'settings of the consumers of events; write with configure_consumer(), read with consumer_policy()';
SELECT pg_catalog.pg_extension_config_dump('idempotency.inbox_policy', '');
-- who may write here decides what is a duplicate
REVOKE ALL ON idempotency.inbox_policy FROM PUBLIC;

-- How far each consumer has come in each stream (src/inbox_stream.c).  Pages are
-- kept nearly empty, so that the new version of a row finds room beside the old
-- one, and no index is touched.
--
-- strategy: i = id, s = sequence, o = ordered, h = high_water, b = id and
-- sequence.  ahead: what was accepted behind the first gap (src/inbox_ranges.c).
CREATE TABLE idempotency.inbox_stream (
	id pg_catalog.uuid NOT NULL,
	delivered pg_catalog.int8 NOT NULL,
	updated_at pg_catalog.timestamptz NOT NULL,
	epoch pg_catalog.int8,
	first_seq pg_catalog.int8,
	seq pg_catalog.int8,
	subseq pg_catalog.int8,
	floor_seq pg_catalog.int8,
	gap_since pg_catalog.timestamptz,
	holes pg_catalog.int4 NOT NULL,
	strategy pg_catalog."char" NOT NULL,
	begun pg_catalog.bool NOT NULL,
	consumer pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	stream pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	ahead pg_catalog.bytea,
	CONSTRAINT inbox_stream_pkey PRIMARY KEY (id)
) WITH (fillfactor = 20, toast_tuple_target = 8160);
ALTER TABLE idempotency.inbox_stream ALTER COLUMN ahead SET STORAGE MAIN;
COMMENT ON TABLE idempotency.inbox_stream IS
	'how far each consumer has come in each stream; see the view consumers';
-- a dump carries it: what was processed must not be so again after a restore
SELECT pg_catalog.pg_extension_config_dump('idempotency.inbox_stream', '');
-- who may write here decides what is a duplicate
REVOKE ALL ON idempotency.inbox_stream FROM PUBLIC;

-- The few events of which more must be known.  state: d = dead, r = to be
-- processed once more when it comes.  deliveries: 0 for one that was processed.
CREATE TABLE idempotency.inbox_event (
	id pg_catalog.uuid NOT NULL,
	noted_at pg_catalog.timestamptz NOT NULL,
	epoch pg_catalog.int8,
	seq pg_catalog.int8,
	subseq pg_catalog.int8,
	deliveries pg_catalog.int4 NOT NULL,
	state pg_catalog."char" NOT NULL,
	consumer pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	stream pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	event_id pg_catalog.text COLLATE pg_catalog."C",
	CONSTRAINT inbox_event_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE idempotency.inbox_event IS
	'events that are dead, or that are to be processed once more; see the view dead_events';
-- a dump carries it, as it does the rest
SELECT pg_catalog.pg_extension_config_dump('idempotency.inbox_event', '');
-- who may write here decides what is processed again
REVOKE ALL ON idempotency.inbox_event FROM PUBLIC;

CREATE FUNCTION idempotency.accept(
	consumer pg_catalog.text,
	stream pg_catalog.text,
	event_id pg_catalog.text DEFAULT NULL,
	seq pg_catalog.int8 DEFAULT NULL,
	subseq pg_catalog.int8 DEFAULT 0,
	epoch pg_catalog.int8 DEFAULT NULL,
	after pg_catalog.text[] DEFAULT NULL,
	request pg_catalog.text DEFAULT NULL,
	OUT outcome pg_catalog.text,
	OUT expected_seq pg_catalog.int8,
	OUT "position" pg_catalog.int8,
	OUT reason pg_catalog.text,
	OUT first_seen pg_catalog.timestamptz,
	OUT deliveries pg_catalog.int4)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_accept';
COMMENT ON FUNCTION idempotency.accept IS
	'asks, in the consumer''s transaction, whether an event is to be processed; the outcome says what to do';
-- changes state; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.accept FROM PUBLIC;

CREATE FUNCTION idempotency.accept_many(
	consumer pg_catalog.text,
	stream pg_catalog.text,
	seqs pg_catalog.int8[],
	subseqs pg_catalog.int8[] DEFAULT NULL,
	epoch pg_catalog.int8 DEFAULT NULL,
	OUT ordinal pg_catalog.int4,
	OUT seq pg_catalog.int8,
	OUT subseq pg_catalog.int8,
	OUT outcome pg_catalog.text,
	OUT reason pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_accept_many';
COMMENT ON FUNCTION idempotency.accept_many IS
	'as accept(), for many events of one stream that are known by their sequence; one row for each, in the order given';
-- changes state; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.accept_many FROM PUBLIC;

CREATE FUNCTION idempotency.position(
	consumer pg_catalog.text,
	stream pg_catalog.text,
	OUT next_seq pg_catalog.int8,
	OUT seq pg_catalog.int8,
	OUT subseq pg_catalog.int8,
	OUT epoch pg_catalog.int8,
	OUT holes pg_catalog.int4,
	OUT gap_since pg_catalog.timestamptz,
	OUT delivered pg_catalog.int8,
	OUT updated_at pg_catalog.timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_position';
COMMENT ON FUNCTION idempotency.position IS
	'how far a consumer has come in a stream: where to go on reading after a restart; changes nothing and works on a standby';
-- tells how far somebody is; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.position FROM PUBLIC;

CREATE FUNCTION idempotency.gaps(
	consumer pg_catalog.text,
	stream pg_catalog.text,
	OUT from_seq pg_catalog.int8,
	OUT to_seq pg_catalog.int8,
	OUT missing pg_catalog.int8,
	OUT since pg_catalog.timestamptz,
	OUT age_ms pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_gaps';
COMMENT ON FUNCTION idempotency.gaps IS
	'what is missing in a stream, though later events were accepted, and since when; changes nothing and works on a standby';
-- tells how far somebody is; grant it to operators
REVOKE ALL ON FUNCTION idempotency.gaps FROM PUBLIC;

CREATE FUNCTION idempotency.skip_gap(
	consumer pg_catalog.text,
	stream pg_catalog.text,
	reason pg_catalog.text,
	upto pg_catalog.int8 DEFAULT NULL,
	OUT skipped pg_catalog.int8,
	OUT "position" pg_catalog.int8)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_skip_gap';
COMMENT ON FUNCTION idempotency.skip_gap IS
	'declares what is missing up to a seq (null: the first gap) to be processed, so that the stream goes on; for operators';
-- gives events up; grant it to operators
REVOKE ALL ON FUNCTION idempotency.skip_gap FROM PUBLIC;

CREATE FUNCTION idempotency.set_position(
	consumer pg_catalog.text,
	stream pg_catalog.text,
	seq pg_catalog.int8,
	reason pg_catalog.text,
	subseq pg_catalog.int8 DEFAULT 0,
	epoch pg_catalog.int8 DEFAULT NULL,
	OUT "position" pg_catalog.int8,
	OUT previous pg_catalog.int8)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_set_position';
COMMENT ON FUNCTION idempotency.set_position IS
	'declares everything up to a seq to be processed, and nothing behind it; null: nothing at all; for operators';
-- makes events be processed again, or not at all; grant it to operators
REVOKE ALL ON FUNCTION idempotency.set_position FROM PUBLIC;

CREATE FUNCTION idempotency.redeliver(
	consumer pg_catalog.text,
	stream pg_catalog.text,
	reason pg_catalog.text,
	event_id pg_catalog.text DEFAULT NULL,
	seq pg_catalog.int8 DEFAULT NULL,
	subseq pg_catalog.int8 DEFAULT 0)
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_redeliver';
COMMENT ON FUNCTION idempotency.redeliver IS
	'lets an event that is dead, or was processed, be processed once more when it comes again; false if it is neither; for operators';
-- makes a duplicate be processed; grant it to operators
REVOKE ALL ON FUNCTION idempotency.redeliver FROM PUBLIC;

CREATE FUNCTION idempotency.configure_consumer(
	consumer pg_catalog.text,
	stream pg_catalog.text DEFAULT '*',
	strategy pg_catalog.text DEFAULT NULL,
	retention pg_catalog.text DEFAULT NULL,
	wait pg_catalog.text DEFAULT NULL,
	max_holes pg_catalog.int8 DEFAULT NULL,
	max_deliveries pg_catalog.int8 DEFAULT NULL,
	first_seq pg_catalog.int8 DEFAULT NULL,
	role pg_catalog.text DEFAULT NULL,
	OUT consumer pg_catalog.text,
	OUT stream pg_catalog.text,
	OUT strategy pg_catalog.text,
	OUT retention pg_catalog.text,
	OUT wait pg_catalog.text,
	OUT max_holes pg_catalog.int4,
	OUT max_deliveries pg_catalog.int4,
	OUT first_seq pg_catalog.int8,
	OUT role pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_configure_consumer';
COMMENT ON FUNCTION idempotency.configure_consumer IS
	'changes the given settings of a consumer, in one stream or (''*'') in all that do not say otherwise, leaves the rest, and returns the effective ones';
-- whoever may change a strategy can have an event processed twice
REVOKE ALL ON FUNCTION idempotency.configure_consumer FROM PUBLIC;

CREATE FUNCTION idempotency.consumer_policy(
	consumer pg_catalog.text,
	stream pg_catalog.text DEFAULT '*',
	OUT consumer pg_catalog.text,
	OUT stream pg_catalog.text,
	OUT strategy pg_catalog.text,
	OUT retention pg_catalog.text,
	OUT wait pg_catalog.text,
	OUT max_holes pg_catalog.int4,
	OUT max_deliveries pg_catalog.int4,
	OUT first_seq pg_catalog.int8,
	OUT role pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_consumer_policy';
COMMENT ON FUNCTION idempotency.consumer_policy IS
	'the effective settings of a consumer in a stream';
-- shows how events are protected
REVOKE ALL ON FUNCTION idempotency.consumer_policy FROM PUBLIC;

CREATE VIEW idempotency.consumers WITH (security_barrier) AS
SELECT s.consumer, s.stream,
	CASE s.strategy
		WHEN 'i'::pg_catalog."char" THEN 'id'
		WHEN 's'::pg_catalog."char" THEN 'sequence'
		WHEN 'o'::pg_catalog."char" THEN 'ordered'
		WHEN 'h'::pg_catalog."char" THEN 'high_water'
		WHEN 'b'::pg_catalog."char" THEN 'id_and_sequence'
	END AS strategy,
	s.epoch, s.seq, s.subseq, s.holes, s.gap_since,
	pg_catalog.octet_length(s.ahead) AS ahead_bytes,
	s.delivered, s.updated_at
FROM idempotency.inbox_stream AS s;
COMMENT ON VIEW idempotency.consumers IS
	'how far each consumer has come in each stream whose events are known by their sequence, or whose producer has epochs';
COMMENT ON COLUMN idempotency.consumers.strategy IS
	'that of the last event accepted';
COMMENT ON COLUMN idempotency.consumers.seq IS
	'everything up to here was processed, or given up';
COMMENT ON COLUMN idempotency.consumers.holes IS
	'how many gaps there are behind seq';
COMMENT ON COLUMN idempotency.consumers.gap_since IS
	'since when the first of them is known';
COMMENT ON COLUMN idempotency.consumers.ahead_bytes IS
	'what it takes to remember what was accepted behind the first gap';
COMMENT ON COLUMN idempotency.consumers.delivered IS
	'events that were processed';
-- tells who reads what; grant it to operators
REVOKE ALL ON idempotency.consumers FROM PUBLIC;

CREATE VIEW idempotency.dead_events WITH (security_barrier) AS
SELECT e.consumer, e.stream, e.event_id, e.epoch, e.seq, e.subseq, e.deliveries,
	e.noted_at AS died_at
FROM idempotency.inbox_event AS e
WHERE e.state OPERATOR(pg_catalog.=) 'd'::pg_catalog."char";
COMMENT ON VIEW idempotency.dead_events IS
	'events that were delivered as often as their consumer allows, and never processed; redeliver() lets one be tried again';
-- tells who reads what; grant it to operators
REVOKE ALL ON idempotency.dead_events FROM PUBLIC;
