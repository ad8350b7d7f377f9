-- The rings.  A key's row is in the table of the epoch in which it expires
-- (src/ring.c); the library reads and writes these tables directly, and refuses
-- to use one that was given a trigger, a second index or the like.
--
-- state: s = succeeded, f = failed for good, r = failed and may be retried from
-- retry_at on, x = failed as often as the policy allows.
CREATE TABLE idempotency.key_short_0 (
	id pg_catalog.uuid NOT NULL,
	expires_at pg_catalog.timestamptz NOT NULL,
	claimed_at pg_catalog.timestamptz NOT NULL,
	finished_at pg_catalog.timestamptz,
	retry_at pg_catalog.timestamptz,
	attempt pg_catalog.int4 NOT NULL,
	state pg_catalog."char" NOT NULL,
	scope pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	principal pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	fingerprint pg_catalog.bytea,
	tag pg_catalog.text,
	request pg_catalog.text,
	error pg_catalog.text,
	response pg_catalog.text,
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

COMMENT ON TABLE idempotency.key_short_0 IS
	'idempotency keys, retention up to 4 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_short_1 IS
	'idempotency keys, retention up to 4 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_short_2 IS
	'idempotency keys, retention up to 4 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_short_3 IS
	'idempotency keys, retention up to 4 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_day_0 IS
	'idempotency keys, retention up to 60 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_day_1 IS
	'idempotency keys, retention up to 60 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_day_2 IS
	'idempotency keys, retention up to 60 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_day_3 IS
	'idempotency keys, retention up to 60 hours, one of four tables in turn';
COMMENT ON TABLE idempotency.key_week_0 IS
	'idempotency keys, retention up to 16 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_week_1 IS
	'idempotency keys, retention up to 16 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_week_2 IS
	'idempotency keys, retention up to 16 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_week_3 IS
	'idempotency keys, retention up to 16 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_month_0 IS
	'idempotency keys, retention up to 60 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_month_1 IS
	'idempotency keys, retention up to 60 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_month_2 IS
	'idempotency keys, retention up to 60 days, one of four tables in turn';
COMMENT ON TABLE idempotency.key_month_3 IS
	'idempotency keys, retention up to 60 days, one of four tables in turn';
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

CREATE VIEW idempotency.keys WITH (security_barrier) AS
SELECT k.scope, k.principal, k.key,
	CASE k.state
		WHEN 's'::pg_catalog."char" THEN 'succeeded'
		WHEN 'f'::pg_catalog."char" THEN 'failed'
		WHEN 'r'::pg_catalog."char" THEN 'retry'
		WHEN 'x'::pg_catalog."char" THEN 'exhausted'
	END AS state,
	k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at,
	k.expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() AS expired,
	k.tag, k.fingerprint, k.response_bytes, k.segment
FROM (
	SELECT 'key_short_0'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_short_0 AS k
	UNION ALL
	SELECT 'key_short_1'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_short_1 AS k
	UNION ALL
	SELECT 'key_short_2'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_short_2 AS k
	UNION ALL
	SELECT 'key_short_3'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_short_3 AS k
	UNION ALL
	SELECT 'key_day_0'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_day_0 AS k
	UNION ALL
	SELECT 'key_day_1'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_day_1 AS k
	UNION ALL
	SELECT 'key_day_2'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_day_2 AS k
	UNION ALL
	SELECT 'key_day_3'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_day_3 AS k
	UNION ALL
	SELECT 'key_week_0'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_week_0 AS k
	UNION ALL
	SELECT 'key_week_1'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_week_1 AS k
	UNION ALL
	SELECT 'key_week_2'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_week_2 AS k
	UNION ALL
	SELECT 'key_week_3'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_week_3 AS k
	UNION ALL
	SELECT 'key_month_0'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_month_0 AS k
	UNION ALL
	SELECT 'key_month_1'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_month_1 AS k
	UNION ALL
	SELECT 'key_month_2'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_month_2 AS k
	UNION ALL
	SELECT 'key_month_3'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_month_3 AS k
	UNION ALL
	SELECT 'key_permanent'::pg_catalog.text AS segment, k.scope, k.principal, k.key, k.state,
		k.attempt, k.claimed_at, k.finished_at, k.retry_at, k.expires_at, k.tag,
		k.fingerprint, pg_catalog.octet_length(k.response) AS response_bytes
	FROM idempotency.key_permanent AS k
) AS k;
COMMENT ON VIEW idempotency.keys IS
	'every key that is stored, without requests, errors and responses';
COMMENT ON COLUMN idempotency.keys.state IS
	'succeeded; failed (for good); retry (may be tried again from retry_at on); exhausted (no attempts left)';
COMMENT ON COLUMN idempotency.keys.expired IS
	'whether the key no longer counts; its space is freed by maintain()';
COMMENT ON COLUMN idempotency.keys.segment IS
	'the table that the row is in';
-- keys tell who did what; grant it to operators
REVOKE ALL ON idempotency.keys FROM PUBLIC;
