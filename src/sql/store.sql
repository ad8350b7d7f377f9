-- The rings.  A key's row is in the table of the epoch in which it expires
-- (src/ring.c); the library reads and writes these tables directly, and refuses
-- to use one that was given a trigger, a second index or the like.
--
-- state: l = running (leased), s = succeeded, f = failed for good, r = failed and
-- may be retried from retry_at on, x = failed as often as the policy allows, c = what
-- its attempts did is being undone.  saga: it has one that isn't over, and counts
-- until that is, whatever expires_at says.
-- The columns from lease_until to saved_state are those of leased claims.
-- response_version: of the policy when the response was stored; tag_generation:
-- of the tag, as the finish has seen it; withheld: why a settled row has no
-- response: n = the policy says not to store it.
CREATE TABLE idempotency.key_short_0 (
	id pg_catalog.uuid NOT NULL,
	expires_at pg_catalog.timestamptz NOT NULL,
	claimed_at pg_catalog.timestamptz NOT NULL,
	finished_at pg_catalog.timestamptz,
	retry_at pg_catalog.timestamptz,
	attempt pg_catalog.int4 NOT NULL,
	event_no pg_catalog.int4 NOT NULL,
	state pg_catalog."char" NOT NULL,
	scope pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	principal pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	fingerprint pg_catalog.bytea,
	tag pg_catalog.text,
	request pg_catalog.text,
	error pg_catalog.text,
	response pg_catalog.text,
	lease_until pg_catalog.timestamptz,
	fence pg_catalog.int8,
	owner pg_catalog.bytea,
	role pg_catalog.text,
	application pg_catalog.text,
	recovery_point pg_catalog.text,
	saved_state pg_catalog.text,
	response_version pg_catalog.int4,
	tag_generation pg_catalog.int8,
	withheld pg_catalog."char",
	saga pg_catalog.bool,
	CONSTRAINT key_short_0_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_short_1 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_short_1_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_short_2 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_short_2_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_short_3 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_short_3_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_day_0 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_day_0_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_day_1 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_day_1_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_day_2 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_day_2_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_day_3 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_day_3_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_week_0 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_week_0_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_week_1 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_week_1_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_week_2 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_week_2_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_week_3 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_week_3_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_month_0 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_month_0_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_month_1 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_month_1_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_month_2 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_month_2_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_month_3 (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_month_3_pkey PRIMARY KEY (id)
);
CREATE TABLE idempotency.key_permanent (
	LIKE idempotency.key_short_0,
	CONSTRAINT key_permanent_pkey PRIMARY KEY (id)
);

-- What is running, to be found without a search of everything.  A row enters
-- this index when it is leased; others cost it nothing.
CREATE INDEX key_short_0_running ON idempotency.key_short_0 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_short_1_running ON idempotency.key_short_1 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_short_2_running ON idempotency.key_short_2 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_short_3_running ON idempotency.key_short_3 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_day_0_running ON idempotency.key_day_0 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_day_1_running ON idempotency.key_day_1 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_day_2_running ON idempotency.key_day_2 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_day_3_running ON idempotency.key_day_3 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_week_0_running ON idempotency.key_week_0 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_week_1_running ON idempotency.key_week_1 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_week_2_running ON idempotency.key_week_2 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_week_3_running ON idempotency.key_week_3 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_month_0_running ON idempotency.key_month_0 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_month_1_running ON idempotency.key_month_1 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_month_2_running ON idempotency.key_month_2 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_month_3_running ON idempotency.key_month_3 (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";
CREATE INDEX key_permanent_running ON idempotency.key_permanent (scope)
	WHERE state OPERATOR(pg_catalog.=) 'l'::pg_catalog."char";

COMMENT ON TABLE idempotency.key_short_0 IS
	'idempotency keys, retention and lease up to 4 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_short_1 IS
	'idempotency keys, retention and lease up to 4 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_short_2 IS
	'idempotency keys, retention and lease up to 4 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_short_3 IS
	'idempotency keys, retention and lease up to 4 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_day_0 IS
	'idempotency keys, retention and lease up to 60 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_day_1 IS
	'idempotency keys, retention and lease up to 60 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_day_2 IS
	'idempotency keys, retention and lease up to 60 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_day_3 IS
	'idempotency keys, retention and lease up to 60 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_week_0 IS
	'idempotency keys, retention and lease up to 16 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_week_1 IS
	'idempotency keys, retention and lease up to 16 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_week_2 IS
	'idempotency keys, retention and lease up to 16 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_week_3 IS
	'idempotency keys, retention and lease up to 16 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_month_0 IS
	'idempotency keys, retention and lease up to 64 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_month_1 IS
	'idempotency keys, retention and lease up to 64 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_month_2 IS
	'idempotency keys, retention and lease up to 64 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_month_3 IS
	'idempotency keys, retention and lease up to 64 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_permanent IS
	'idempotency keys that never expire';

-- a dump carries the keys: what took effect must not do so again after a restore
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_short_0', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_short_1', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_short_2', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_short_3', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_day_0', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_day_1', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_day_2', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_day_3', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_week_0', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_week_1', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_week_2', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_week_3', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_month_0', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_month_1', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_month_2', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_month_3', '');
SELECT pg_catalog.pg_extension_config_dump('idempotency.key_permanent', '');

-- keys, requests and responses are nobody's business but their callers'
REVOKE ALL ON idempotency.key_short_0 FROM PUBLIC;
REVOKE ALL ON idempotency.key_short_1 FROM PUBLIC;
REVOKE ALL ON idempotency.key_short_2 FROM PUBLIC;
REVOKE ALL ON idempotency.key_short_3 FROM PUBLIC;
REVOKE ALL ON idempotency.key_day_0 FROM PUBLIC;
REVOKE ALL ON idempotency.key_day_1 FROM PUBLIC;
REVOKE ALL ON idempotency.key_day_2 FROM PUBLIC;
REVOKE ALL ON idempotency.key_day_3 FROM PUBLIC;
REVOKE ALL ON idempotency.key_week_0 FROM PUBLIC;
REVOKE ALL ON idempotency.key_week_1 FROM PUBLIC;
REVOKE ALL ON idempotency.key_week_2 FROM PUBLIC;
REVOKE ALL ON idempotency.key_week_3 FROM PUBLIC;
REVOKE ALL ON idempotency.key_month_0 FROM PUBLIC;
REVOKE ALL ON idempotency.key_month_1 FROM PUBLIC;
REVOKE ALL ON idempotency.key_month_2 FROM PUBLIC;
REVOKE ALL ON idempotency.key_month_3 FROM PUBLIC;
REVOKE ALL ON idempotency.key_permanent FROM PUBLIC;

-- What the last maintain() left: for which epoch each table was emptied or
-- cleaned, and how far a cleaning has come.
CREATE TABLE idempotency.segment_state (
	name pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	epoch pg_catalog.int8 NOT NULL,
	next_block pg_catalog.int8 NOT NULL,
	CONSTRAINT segment_state_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE idempotency.segment_state IS
	'how far the tables of keys have been emptied or cleaned; written by maintain()';
-- not dumped: block numbers mean nothing after a restore
-- a wrong row here could stop the cleaning
REVOKE ALL ON idempotency.segment_state FROM PUBLIC;

-- Both views are a UNION ALL over the tables; the filter of the second is the
-- predicate of their index.
DO $$
DECLARE
	all_keys pg_catalog.text;
	running pg_catalog.text;
BEGIN
	SELECT pg_catalog.string_agg(pg_catalog.format(
			'SELECT %1$L::pg_catalog.text AS segment, k.scope, k.principal, k.key, '
			'k.state, k.attempt, k.claimed_at, k.finished_at, k.retry_at, '
			'k.lease_until, k.expires_at, k.fence, k.tag, k.fingerprint, k.saga, '
			'pg_catalog.octet_length(k.response) AS response_bytes '
			'FROM idempotency.%1$I AS k', c.relname),
			' UNION ALL ' ORDER BY c.relname),
		pg_catalog.string_agg(pg_catalog.format(
			'SELECT k.scope, k.principal, k.key, k.role, k.application, k.attempt, '
			'k.claimed_at, k.lease_until, k.recovery_point, k.fence, k.expires_at, k.saga '
			'FROM idempotency.%I AS k '
			'WHERE k.state OPERATOR(pg_catalog.=) ''l''::pg_catalog."char"',
			c.relname), ' UNION ALL ' ORDER BY c.relname)
	INTO STRICT all_keys, running
	FROM pg_catalog.pg_class AS c
	WHERE c.relnamespace OPERATOR(pg_catalog.=)
			'idempotency'::pg_catalog.regnamespace
		AND c.relkind OPERATOR(pg_catalog.=) 'r'
		AND c.relname OPERATOR(pg_catalog.~) '^key_';

	EXECUTE 'CREATE VIEW idempotency.keys WITH (security_barrier) AS '
		'SELECT k.scope, k.principal, k.key, '
		'CASE k.state '
		'WHEN ''l''::pg_catalog."char" THEN ''running'' '
		'WHEN ''s''::pg_catalog."char" THEN ''succeeded'' '
		'WHEN ''f''::pg_catalog."char" THEN ''failed'' '
		'WHEN ''r''::pg_catalog."char" THEN ''retry'' '
		'WHEN ''x''::pg_catalog."char" THEN ''exhausted'' '
		'WHEN ''c''::pg_catalog."char" THEN ''compensating'' '
		'END AS state, '
		'k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.lease_until, k.expires_at, '
		'k.expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() AND k.saga IS NULL AS expired, '
		'k.fence, k.tag, k.fingerprint, k.response_bytes, k.segment '
		'FROM (' OPERATOR(pg_catalog.||) all_keys OPERATOR(pg_catalog.||) ') AS k';

	EXECUTE 'CREATE VIEW idempotency.activity WITH (security_barrier) AS '
		'SELECT k.scope, k.principal, k.key, k.role, k.application, k.attempt, '
		'k.claimed_at, k.lease_until, '
		'pg_catalog.ceil(EXTRACT(EPOCH FROM k.lease_until OPERATOR(pg_catalog.-) '
		'pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000)'
		'::pg_catalog.int8 AS lease_left_ms, '
		'k.recovery_point, k.fence '
		'FROM (' OPERATOR(pg_catalog.||) running OPERATOR(pg_catalog.||) ') AS k '
		'WHERE k.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() OR k.saga';
END
$$;
COMMENT ON VIEW idempotency.keys IS
	'every key that is stored, without requests, errors and responses';
COMMENT ON COLUMN idempotency.keys.state IS
	'running (leased); succeeded; failed (for good); retry (may be tried again from retry_at on); exhausted (no attempts left); compensating (what its attempts did is being undone)';
COMMENT ON COLUMN idempotency.keys.expired IS
	'whether the key no longer counts; its space is freed by maintain()';
COMMENT ON COLUMN idempotency.keys.fence IS
	'of the last leased claim';
COMMENT ON COLUMN idempotency.keys.segment IS
	'the table that the row is in';
-- keys tell who did what; grant it to operators
REVOKE ALL ON idempotency.keys FROM PUBLIC;

COMMENT ON VIEW idempotency.activity IS
	'leased claims that are not settled: who holds what since when, and for how long';
COMMENT ON COLUMN idempotency.activity.role IS
	'the role that claimed';
COMMENT ON COLUMN idempotency.activity.application IS
	'its application_name';
COMMENT ON COLUMN idempotency.activity.claimed_at IS
	'when this attempt began';
COMMENT ON COLUMN idempotency.activity.lease_left_ms IS
	'milliseconds until somebody else may take over; negative: since then nobody has';
-- keys tell who does what; grant it to operators
REVOKE ALL ON idempotency.activity FROM PUBLIC;
