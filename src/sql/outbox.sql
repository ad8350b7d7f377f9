-- The outbox: events that exist if and only if the work that emitted them has
-- committed.  Rows go round four tables (src/outbox_table.c); their columns are
-- named for Debezium's outbox event router, which reads them from the WAL.
CREATE TABLE idempotency.outbox_0 (
	position pg_catalog.int8 NOT NULL,
	emitted_at pg_catalog.timestamptz NOT NULL,
	id pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	aggregatetype pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	aggregateid pg_catalog.text COLLATE pg_catalog."C",
	type pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	payload pg_catalog.text,
	headers pg_catalog.jsonb NOT NULL,
	CONSTRAINT outbox_0_pkey PRIMARY KEY (position)
);
CREATE TABLE idempotency.outbox_1 (
	LIKE idempotency.outbox_0,
	CONSTRAINT outbox_1_pkey PRIMARY KEY (position)
);
CREATE TABLE idempotency.outbox_2 (
	LIKE idempotency.outbox_0,
	CONSTRAINT outbox_2_pkey PRIMARY KEY (position)
);
CREATE TABLE idempotency.outbox_3 (
	LIKE idempotency.outbox_0,
	CONSTRAINT outbox_3_pkey PRIMARY KEY (position)
);
-- not unique: that an id is there once is seen to under its lock, so that
-- whoever emits it again gets no error
CREATE INDEX outbox_0_id ON idempotency.outbox_0 (id);
CREATE INDEX outbox_1_id ON idempotency.outbox_1 (id);
CREATE INDEX outbox_2_id ON idempotency.outbox_2 (id);
CREATE INDEX outbox_3_id ON idempotency.outbox_3 (id);
COMMENT ON TABLE idempotency.outbox_0 IS
	'events, one of four tables that are filled in turn; read them through outbox_read(), or by logical decoding';
COMMENT ON TABLE idempotency.outbox_1 IS 'see outbox_0';
COMMENT ON TABLE idempotency.outbox_2 IS 'see outbox_0';
COMMENT ON TABLE idempotency.outbox_3 IS 'see outbox_0';
COMMENT ON COLUMN idempotency.outbox_0.position IS
	'rises; nearly in the order of the commits';
COMMENT ON COLUMN idempotency.outbox_0.emitted_at IS
	'when the transaction was about to commit';
COMMENT ON COLUMN idempotency.outbox_0.id IS
	'by which consumers tell that they have seen it';
COMMENT ON COLUMN idempotency.outbox_0.aggregatetype IS
	'the stream';
COMMENT ON COLUMN idempotency.outbox_0.aggregateid IS
	'the key, by which a broker partitions';
COMMENT ON COLUMN idempotency.outbox_0.payload IS
	'null: what the key names is gone';
-- events that no relay has read must survive a dump
SELECT pg_catalog.pg_extension_config_dump('idempotency.outbox_0', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.outbox_1', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.outbox_2', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.outbox_3', '');
-- show what applications tell each other
REVOKE ALL ON idempotency.outbox_0 FROM PUBLIC;
REVOKE ALL ON idempotency.outbox_1 FROM PUBLIC;
REVOKE ALL ON idempotency.outbox_2 FROM PUBLIC;
REVOKE ALL ON idempotency.outbox_3 FROM PUBLIC;

CREATE SEQUENCE idempotency.outbox_seq AS pg_catalog.int8 CACHE 1 NO CYCLE;
COMMENT ON SEQUENCE idempotency.outbox_seq IS
	'numbers the events; never set it back';
-- a restored database must go on where it was
SELECT pg_catalog.pg_extension_config_dump('idempotency.outbox_seq', '');
-- whoever sets it back hides events from relays
REVOKE ALL ON SEQUENCE idempotency.outbox_seq FROM PUBLIC;

CREATE TABLE idempotency.outbox_policy (
	stream pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	retention pg_catalog.int8,
	max_age pg_catalog.int8,
	max_payload_bytes pg_catalog.int4,
	notify pg_catalog.bool,
	allowed_role pg_catalog.text,
	CONSTRAINT outbox_policy_pkey PRIMARY KEY (stream)
);
COMMENT ON TABLE idempotency.outbox_policy IS
	'settings of streams; written by configure_outbox()';
COMMENT ON COLUMN idempotency.outbox_policy.stream IS
	'''*'' holds the defaults, and what is common to all';
COMMENT ON COLUMN idempotency.outbox_policy.retention IS
	'microseconds';
COMMENT ON COLUMN idempotency.outbox_policy.max_age IS
	'microseconds';
COMMENT ON COLUMN idempotency.outbox_policy.allowed_role IS
	'whose members may emit; empty: everybody';
-- settings must survive a dump
SELECT pg_catalog.pg_extension_config_dump('idempotency.outbox_policy', '');
-- whoever writes here can let events be lost
REVOKE ALL ON idempotency.outbox_policy FROM PUBLIC;

CREATE TABLE idempotency.outbox_relay (
	relay pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	stream pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	position pg_catalog.int8 NOT NULL,
	read_upto pg_catalog.int8 NOT NULL,
	decided pg_catalog.int8 NOT NULL,
	fence pg_catalog.int8 NOT NULL,
	lease pg_catalog.int8 NOT NULL,
	lease_until pg_catalog.timestamptz,
	moved_at pg_catalog.timestamptz NOT NULL,
	lost_upto pg_catalog.int8 NOT NULL,
	holder pg_catalog.text,
	allowed_role pg_catalog.text,
	CONSTRAINT outbox_relay_pkey PRIMARY KEY (relay, stream)
) WITH (fillfactor = 50);
COMMENT ON TABLE idempotency.outbox_relay IS
	'how far each relay has come';
COMMENT ON COLUMN idempotency.outbox_relay.stream IS
	'''*'': all';
COMMENT ON COLUMN idempotency.outbox_relay.position IS
	'what was acknowledged';
COMMENT ON COLUMN idempotency.outbox_relay.read_upto IS
	'what was handed out';
COMMENT ON COLUMN idempotency.outbox_relay.decided IS
	'nothing can appear any more up to here';
COMMENT ON COLUMN idempotency.outbox_relay.fence IS
	'of the latest reading; 0: none';
COMMENT ON COLUMN idempotency.outbox_relay.lease IS
	'its length, in microseconds';
COMMENT ON COLUMN idempotency.outbox_relay.lost_upto IS
	'events up to here were removed before the relay had read them; 0: none';
-- where to go on must survive a dump
SELECT pg_catalog.pg_extension_config_dump('idempotency.outbox_relay', '');
-- whoever writes here can let events be lost
REVOKE ALL ON idempotency.outbox_relay FROM PUBLIC;

CREATE FUNCTION idempotency.emit(
	stream pg_catalog.text,
	type pg_catalog.text,
	payload pg_catalog.text,
	key pg_catalog.text DEFAULT NULL,
	event_id pg_catalog.text DEFAULT NULL,
	headers pg_catalog.jsonb DEFAULT '{}')
RETURNS pg_catalog.text
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_emit';
COMMENT ON FUNCTION idempotency.emit IS
	'an event that exists if and only if this transaction commits; returns its id, which is the same if the operation is tried again';
-- tells other systems what to do; grant it to the roles of applications
REVOKE ALL ON FUNCTION idempotency.emit FROM PUBLIC;

CREATE FUNCTION idempotency.outbox_read(
	relay pg_catalog.text,
	stream pg_catalog.text DEFAULT NULL,
	max pg_catalog.int4 DEFAULT 100,
	lease pg_catalog.interval DEFAULT '30 seconds',
	OUT event_id pg_catalog.text,
	OUT "position" pg_catalog.int8,
	OUT stream pg_catalog.text,
	OUT type pg_catalog.text,
	OUT key pg_catalog.text,
	OUT payload pg_catalog.text,
	OUT headers pg_catalog.jsonb,
	OUT emitted_at pg_catalog.timestamptz,
	OUT fence pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 10000
AS 'MODULE_PATHNAME', 'idempotency_outbox_read';
COMMENT ON FUNCTION idempotency.outbox_read IS
	'the committed events after those that the relay has acknowledged, which are its until the lease is over; no row: there are none, or somebody has them';
-- shows events, and keeps other processes of the relay from them; grant it to the roles of relays
REVOKE ALL ON FUNCTION idempotency.outbox_read FROM PUBLIC;

CREATE FUNCTION idempotency.outbox_ack(
	relay pg_catalog.text,
	"position" pg_catalog.int8,
	fence pg_catalog.int8,
	release pg_catalog.bool DEFAULT false)
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_outbox_ack';
COMMENT ON FUNCTION idempotency.outbox_ack IS
	'the events up to this position are published; with the last of them, or with release, the next reading may begin';
-- lets events pass as published; grant it to the roles of relays
REVOKE ALL ON FUNCTION idempotency.outbox_ack FROM PUBLIC;

CREATE FUNCTION idempotency.configure_outbox(
	stream pg_catalog.text DEFAULT '*',
	retention pg_catalog.interval DEFAULT NULL,
	max_age pg_catalog.interval DEFAULT NULL,
	max_payload_bytes pg_catalog.int4 DEFAULT NULL,
	notify pg_catalog.bool DEFAULT NULL,
	role pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_configure_outbox';
COMMENT ON FUNCTION idempotency.configure_outbox IS
	'changes the settings of a stream, or of all; what is NULL stays';
-- decides how long events are kept, and who may emit; grant it to operators
REVOKE ALL ON FUNCTION idempotency.configure_outbox FROM PUBLIC;

CREATE FUNCTION idempotency.configure_relay(
	relay pg_catalog.text,
	stream pg_catalog.text DEFAULT NULL,
	role pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_configure_relay';
COMMENT ON FUNCTION idempotency.configure_relay IS
	'makes a relay, if there is none, and says whose members may use it; true: it was made';
-- decides who reads events; grant it to operators
REVOKE ALL ON FUNCTION idempotency.configure_relay FROM PUBLIC;

CREATE FUNCTION idempotency.reset_relay(
	relay pg_catalog.text,
	stream pg_catalog.text DEFAULT NULL,
	"position" pg_catalog.int8 DEFAULT NULL,
	reason pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_reset_relay';
COMMENT ON FUNCTION idempotency.reset_relay IS
	'lets a relay go on after another position, NULL for the last one; returns it; for operators';
-- lets events be published again, or not at all; grant it to operators
REVOKE ALL ON FUNCTION idempotency.reset_relay FROM PUBLIC;

CREATE FUNCTION idempotency.forget_relay(
	relay pg_catalog.text,
	stream pg_catalog.text DEFAULT NULL,
	reason pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.bool
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_forget_relay';
COMMENT ON FUNCTION idempotency.forget_relay IS
	'forgets a relay, for which events are kept no longer; false: there was none; for operators';
-- lets events be removed; grant it to operators
REVOKE ALL ON FUNCTION idempotency.forget_relay FROM PUBLIC;

CREATE VIEW idempotency.outbox WITH (security_barrier) AS
SELECT "position", emitted_at, id, aggregatetype, aggregateid, type, payload, headers
FROM idempotency.outbox_0
UNION ALL
SELECT "position", emitted_at, id, aggregatetype, aggregateid, type, payload, headers
FROM idempotency.outbox_1
UNION ALL
SELECT "position", emitted_at, id, aggregatetype, aggregateid, type, payload, headers
FROM idempotency.outbox_2
UNION ALL
SELECT "position", emitted_at, id, aggregatetype, aggregateid, type, payload, headers
FROM idempotency.outbox_3;
COMMENT ON VIEW idempotency.outbox IS
	'the events that are kept; to look at: whoever follows it by position misses events';
-- shows what applications tell each other; grant SELECT to operators
REVOKE ALL ON idempotency.outbox FROM PUBLIC;

CREATE VIEW idempotency.relays WITH (security_barrier) AS
SELECT r.relay, r.stream, r.position, r.read_upto,
	CASE WHEN r.lease_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
		THEN r.holder END AS holder,
	r.lease_until, r.moved_at, lag.events AS lag_events,
	EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) lag.since)::pg_catalog.float8 AS lag_seconds,
	CASE WHEN r.lost_upto OPERATOR(pg_catalog.>) 0 THEN r.lost_upto END AS lost_upto
FROM idempotency.outbox_relay AS r
CROSS JOIN LATERAL (
	SELECT pg_catalog.count(*), pg_catalog.min(e.emitted_at)
	FROM (SELECT o.emitted_at FROM idempotency.outbox AS o
		WHERE o.position OPERATOR(pg_catalog.>) r.position
			AND (r.stream OPERATOR(pg_catalog.=) '*'
				OR o.aggregatetype OPERATOR(pg_catalog.=) r.stream)
		ORDER BY o.position LIMIT 10000) AS e) AS lag(events, since);
COMMENT ON VIEW idempotency.relays IS
	'how far each relay has come, and who has its events';
COMMENT ON COLUMN idempotency.relays.stream IS
	'''*'': all';
COMMENT ON COLUMN idempotency.relays.holder IS
	'application_name and process of who has them; null if nobody has';
COMMENT ON COLUMN idempotency.relays.lag_events IS
	'committed and not acknowledged; counted up to 10000';
COMMENT ON COLUMN idempotency.relays.lag_seconds IS
	'age of the oldest of them';
COMMENT ON COLUMN idempotency.relays.lost_upto IS
	'events up to this position were removed before the relay had read them: see reset_relay()';
-- tells which systems there are; grant it to operators
REVOKE ALL ON idempotency.relays FROM PUBLIC;
