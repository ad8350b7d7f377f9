-- What an operator looks at first.
CREATE FUNCTION idempotency.preloaded()
RETURNS pg_catalog.bool
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_preloaded';
COMMENT ON FUNCTION idempotency.preloaded IS
	'whether the library is in shared_preload_libraries, so that there are a worker, statistics, breakers and limits';
-- tells how the server is set up; grant it to operators
REVOKE ALL ON FUNCTION idempotency.preloaded FROM PUBLIC;

CREATE FUNCTION idempotency.segments(
	OUT segment pg_catalog.text,
	OUT ring pg_catalog.text,
	OUT begins_at pg_catalog.timestamptz,
	OUT ends_at pg_catalog.timestamptz,
	OUT bytes pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'idempotency_segments';
COMMENT ON FUNCTION idempotency.segments IS
	'the tables of keys: keys that expire from begins_at to ends_at are in this one; it is emptied after that';
-- tells how much is stored; grant it to operators
REVOKE ALL ON FUNCTION idempotency.segments FROM PUBLIC;

CREATE FUNCTION idempotency.duplicate_rates(
	OUT scope pg_catalog.text,
	OUT recent_claims pg_catalog.int8,
	OUT recent_rate pg_catalog.float8,
	OUT hour_claims pg_catalog.int8,
	OUT hour_rate pg_catalog.float8,
	OUT recent_mismatches pg_catalog.int8,
	OUT recent_late pg_catalog.int8)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'idempotency_duplicate_rates';
COMMENT ON FUNCTION idempotency.duplicate_rates IS
	'which part of a scope''s claims were duplicates in the last five minutes, and in the hour before; and how many claims were mismatches, or late duplicates, in the last five minutes; needs the worker';
-- tells how much an operation is used; grant it to operators
REVOKE ALL ON FUNCTION idempotency.duplicate_rates FROM PUBLIC;

CREATE VIEW idempotency.alerts WITH (security_barrier) AS
SELECT a.name, a.severity, a.scope, a.value, a.threshold, a.since,
	'doc/operations.md#' OPERATOR(pg_catalog.||) a.name AS runbook
FROM (
	SELECT 'worker_absent', 'warning', NULL::pg_catalog.text,
		1::pg_catalog.float8, 0::pg_catalog.float8, NULL::pg_catalog.timestamptz
	WHERE NOT pg_catalog.pg_is_in_recovery() AND NOT EXISTS (SELECT FROM idempotency.workers AS w
		WHERE w.database OPERATOR(pg_catalog.=) pg_catalog.current_database()
			AND w.pid IS NOT NULL)
	UNION ALL
	SELECT 'rotation_late', 'warning', s.segment,
		EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) s.ends_at)::pg_catalog.float8,
		EXTRACT(EPOCH FROM s.ends_at OPERATOR(pg_catalog.-) s.begins_at)::pg_catalog.float8 OPERATOR(pg_catalog./) 4,
		s.ends_at
	FROM idempotency.segments() AS s
	WHERE s.bytes OPERATOR(pg_catalog.>) 0 AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>)
		(s.ends_at OPERATOR(pg_catalog.+) ((s.ends_at OPERATOR(pg_catalog.-) s.begins_at) OPERATOR(pg_catalog./) 4::pg_catalog.float8))
	UNION ALL
	SELECT 'duplicate_rate', 'warning', d.scope, d.recent_rate,
		2 OPERATOR(pg_catalog.*) d.hour_rate OPERATOR(pg_catalog.+) 0.1, NULL
	FROM idempotency.duplicate_rates() AS d
	WHERE d.recent_claims OPERATOR(pg_catalog.>=) 20
		AND d.hour_claims OPERATOR(pg_catalog.>=) 20
		AND d.recent_rate OPERATOR(pg_catalog.>)
			(2 OPERATOR(pg_catalog.*) d.hour_rate OPERATOR(pg_catalog.+) 0.1)
	UNION ALL
	SELECT 'breaker_open', 'critical', b.scope, b.openings, 0, b.since
	FROM idempotency.breakers() AS b
	WHERE b.state OPERATOR(pg_catalog.<>) 'closed'
	UNION ALL
	SELECT CASE l.what WHEN 'lost' THEN 'indeterminate'
			WHEN 'over' THEN 'leases_expired' ELSE 'lease_expiring' END,
		CASE l.what WHEN 'lost' THEN 'critical' ELSE 'warning' END,
		l.scope, pg_catalog.count(*), 0, pg_catalog.min(l.lease_until)
	FROM (SELECT b.scope, b.lease_until,
			CASE WHEN b.lease_left_ms OPERATOR(pg_catalog.>=) 0 THEN 'short'
				WHEN CASE WHEN p.on_lease_expiry IS NULL THEN d.on_lease_expiry
					ELSE p.on_lease_expiry END OPERATOR(pg_catalog.=) 'i'::pg_catalog."char" THEN 'lost'
				ELSE 'over' END AS what
		FROM idempotency.activity AS b
		LEFT JOIN idempotency.scope_policy AS p ON p.scope OPERATOR(pg_catalog.=) b.scope
		LEFT JOIN idempotency.scope_policy AS d ON d.scope OPERATOR(pg_catalog.=) '*'
		WHERE b.lease_left_ms OPERATOR(pg_catalog.<) 0
			OR (b.lease_until OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp())
				OPERATOR(pg_catalog.<) ((b.lease_until OPERATOR(pg_catalog.-) b.claimed_at)
					OPERATOR(pg_catalog./) 10::pg_catalog.float8)) AS l
	GROUP BY l.scope, l.what
	UNION ALL
	SELECT 'mismatches', 'warning', d.scope, d.recent_mismatches, 0, NULL
	FROM idempotency.duplicate_rates() AS d
	WHERE d.recent_mismatches OPERATOR(pg_catalog.>) 0
	UNION ALL
	SELECT 'late_duplicates', 'warning', d.scope, d.recent_late, 0, NULL
	FROM idempotency.duplicate_rates() AS d
	WHERE d.recent_late OPERATOR(pg_catalog.>) 0
	UNION ALL
	SELECT 'seal_late', 'critical', NULL,
		EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) l.unsealed_since)::pg_catalog.float8,
		60, l.unsealed_since
	FROM idempotency.ledger_status AS l
	WHERE l.unsealed_since OPERATOR(pg_catalog.<)
		(pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 minute'::pg_catalog.interval)
	UNION ALL
	SELECT 'witness_late', 'warning', NULL,
		EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) l.witnessed_at)::pg_catalog.float8,
		86400, l.witnessed_at
	FROM idempotency.ledger_status AS l
	WHERE l.size OPERATOR(pg_catalog.>) l.witnessed_size AND l.witnessed_at OPERATOR(pg_catalog.<)
		(pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 day'::pg_catalog.interval)
	UNION ALL
	SELECT 'notes_dropped', 'warning', NULL, idempotency.notes_dropped(), 0, n.at
	FROM idempotency.notes_dropped_at() AS n(at)
	WHERE n.at OPERATOR(pg_catalog.>)
		(pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 hour'::pg_catalog.interval)
	UNION ALL
	SELECT 'gap_old', 'warning', 'inbox/' OPERATOR(pg_catalog.||) s.consumer,
		EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.min(s.gap_since))::pg_catalog.float8,
		300, pg_catalog.min(s.gap_since)
	FROM idempotency.consumers AS s
	WHERE s.gap_since OPERATOR(pg_catalog.<)
		(pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '5 minutes'::pg_catalog.interval)
	GROUP BY s.consumer
	UNION ALL
	SELECT 'dead_events', 'warning', 'inbox/' OPERATOR(pg_catalog.||) d.consumer,
		pg_catalog.count(*), 0, pg_catalog.min(d.died_at)
	FROM idempotency.dead_events AS d
	GROUP BY d.consumer
	UNION ALL
	SELECT 'outbox_lag', 'warning', r.relay, r.lag_seconds, 300,
		pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
			pg_catalog.make_interval(secs => r.lag_seconds)
	FROM idempotency.relays AS r
	WHERE r.lag_seconds OPERATOR(pg_catalog.>) 300
	UNION ALL
	SELECT 'outbox_lost', 'critical', r.relay, r.lost_upto, r.position, NULL
	FROM idempotency.relays AS r
	WHERE r.lost_upto OPERATOR(pg_catalog.>) r.position
	UNION ALL
	SELECT 'compensation_failed', 'critical', s.scope, pg_catalog.count(*), 0,
		pg_catalog.min(s.changed_at)
	FROM idempotency.sagas AS s
	WHERE s.state OPERATOR(pg_catalog.=) 'compensation_failed'
	GROUP BY s.scope
	UNION ALL
	SELECT 'compensation_late', 'warning', s.scope,
		EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.min(s.due_at))::pg_catalog.float8,
		60, pg_catalog.min(s.due_at)
	FROM idempotency.sagas AS s
	WHERE s.state OPERATOR(pg_catalog.=) ANY (ARRAY['running', 'compensating'])
		AND s.due_at OPERATOR(pg_catalog.<)
			(pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 minute'::pg_catalog.interval)
	GROUP BY s.scope
) AS a(name, severity, scope, value, threshold, since);
COMMENT ON VIEW idempotency.alerts IS
	'what needs somebody''s attention, now; empty if nothing does';
COMMENT ON COLUMN idempotency.alerts.scope IS
	'the scope; of rotation_late, the table; of outbox_lag and outbox_lost, the relay; NULL where it is about all';
COMMENT ON COLUMN idempotency.alerts.value IS
	'worker_absent: 1; rotation_late: seconds since the table''s keys have expired; duplicate_rate: part of duplicates; breaker_open: openings; leases_expired, lease_expiring, indeterminate: claims; mismatches, late_duplicates: claims in the last five minutes; seal_late: seconds since the oldest entry was decided that is not sealed; witness_late: seconds since a checkpoint was witnessed, if one ever was; notes_dropped: notes since the server was started, if any in the last hour; gap_old: seconds since the oldest gap in a stream was seen; dead_events: events; outbox_lag: age in seconds of the oldest event that a relay has not acknowledged; outbox_lost: position up to which events were removed before a relay had read them; compensation_failed: sagas; compensation_late: seconds since something was due that a saga waits for';
COMMENT ON COLUMN idempotency.alerts.since IS
	'when it began, where that is known; of lease_expiring, when the first lease will be over';
COMMENT ON COLUMN idempotency.alerts.runbook IS
	'the paragraph that says what to do';
-- tells how an operation fares; grant it to operators
REVOKE ALL ON idempotency.alerts FROM PUBLIC;

CREATE FUNCTION idempotency.health(
	OUT "check" pg_catalog.text,
	OUT ok pg_catalog.bool,
	OUT detail pg_catalog.text,
	OUT hint pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'shared memory', idempotency.preloaded(),
		CASE WHEN idempotency.preloaded() THEN 'the library is preloaded'
			ELSE 'the library is not preloaded: no worker, statistics, breakers, limits' END,
		CASE WHEN NOT idempotency.preloaded()
			THEN 'Add idempotency to shared_preload_libraries, and restart the server.' END
	UNION ALL
	SELECT 'alerts', count(*) = 0,
		CASE count(*) WHEN 0 THEN 'none'
			ELSE string_agg(DISTINCT a.name, ', ' ORDER BY a.name) END,
		CASE WHEN count(*) > 0 THEN 'See the view idempotency.alerts.' END
	FROM idempotency.alerts AS a
	WHERE a.name <> 'worker_absent' OR idempotency.preloaded()
$$;
COMMENT ON FUNCTION idempotency.health IS
	'is all well?  One row for each check, with what to do if not';
-- tells how the server is set up; grant it to operators
REVOKE ALL ON FUNCTION idempotency.health FROM PUBLIC;
