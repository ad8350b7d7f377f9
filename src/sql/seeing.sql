-- What is seen of the tables: rings, the ledger's exposure, consumers.
CREATE VIEW idempotency.rings WITH (security_barrier) AS
SELECT s.ring, pg_catalog.count(*) AS tables,
	pg_catalog.count(*) FILTER (WHERE s.bytes OPERATOR(pg_catalog.>) 0) AS tables_in_use,
	pg_catalog.sum(s.bytes)::pg_catalog.int8 AS bytes,
	GREATEST(0, (EXTRACT(EPOCH FROM pg_catalog.max(pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) s.ends_at)
		FILTER (WHERE s.bytes OPERATOR(pg_catalog.>) 0)) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8) AS rotation_lag_ms,
	pg_catalog.min(s.ends_at) FILTER (WHERE s.bytes OPERATOR(pg_catalog.>) 0
		AND s.ends_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()) AS next_rotation_at
FROM idempotency.segments() AS s
GROUP BY s.ring;
COMMENT ON VIEW idempotency.rings IS
	'how full the rings of tables are, and whether they are emptied in time';
COMMENT ON COLUMN idempotency.rings.ring IS
	'the tables of keys that are remembered about equally long';
COMMENT ON COLUMN idempotency.rings.tables IS
	'of which it consists';
COMMENT ON COLUMN idempotency.rings.tables_in_use IS
	'that are not empty';
COMMENT ON COLUMN idempotency.rings.bytes IS
	'their size, without indexes and TOAST';
COMMENT ON COLUMN idempotency.rings.rotation_lag_ms IS
	'milliseconds since the last key of a table has expired that isn''t emptied yet; 0 if there is none';
COMMENT ON COLUMN idempotency.rings.next_rotation_at IS
	'when the next table may be emptied';
-- tells how much is stored; grant it to operators
REVOKE ALL ON idempotency.rings FROM PUBLIC;

CREATE VIEW idempotency.ledger_exposure WITH (security_barrier) AS
SELECT l.unsealed,
	CASE WHEN l.unsealed_since IS NULL THEN 0 ELSE
		(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) l.unsealed_since)
			OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8 END AS seal_lag_ms,
	CASE WHEN l.size IS NULL THEN 0 ELSE l.size END OPERATOR(pg_catalog.-)
		CASE WHEN l.witnessed_size IS NULL THEN 0 ELSE l.witnessed_size END AS unwitnessed,
	e.decided_at AS exposed_since,
	CASE WHEN e.decided_at IS NULL THEN 0 ELSE
		(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) e.decided_at)
			OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8 END AS exposure_ms
FROM idempotency.ledger_status AS l
LEFT JOIN idempotency.ledger_checkpoint AS c ON c.size OPERATOR(pg_catalog.=) l.witnessed_size
LEFT JOIN LATERAL (SELECT n.decided_at FROM idempotency.ledger_entry AS n
	WHERE n.seq OPERATOR(pg_catalog.>) CASE WHEN c.sealed_seq IS NULL THEN 0 ELSE c.sealed_seq END
	ORDER BY n.seq LIMIT 1) AS e ON true;
COMMENT ON VIEW idempotency.ledger_exposure IS
	'how long what was decided could be forged unnoticed: until it is sealed, and the seal is held outside';
COMMENT ON COLUMN idempotency.ledger_exposure.unsealed IS
	'entries that are committed and in no checkpoint yet';
COMMENT ON COLUMN idempotency.ledger_exposure.seal_lag_ms IS
	'milliseconds since the oldest of them was decided; 0 if there is none';
COMMENT ON COLUMN idempotency.ledger_exposure.unwitnessed IS
	'entries that are sealed, and in no checkpoint that is known to be held outside';
COMMENT ON COLUMN idempotency.ledger_exposure.exposed_since IS
	'when the oldest entry was decided that no witness has';
COMMENT ON COLUMN idempotency.ledger_exposure.exposure_ms IS
	'milliseconds since then; 0 if there is none';
-- tells how much happens; grant it to operators and auditors
REVOKE ALL ON idempotency.ledger_exposure FROM PUBLIC;

CREATE VIEW idempotency.stats_consumers WITH (security_barrier) AS
SELECT k.consumer,
	pg_catalog.max(s.executed) AS processed, pg_catalog.max(s.replayed) AS duplicates,
	pg_catalog.max(s.gaps) AS gaps, pg_catalog.max(s.late_events) AS late_events,
	pg_catalog.max(s.in_progress) AS in_progress, pg_catalog.max(s.exhausted) AS exhausted,
	pg_catalog.count(c.stream) AS streams, pg_catalog.sum(c.holes)::pg_catalog.int8 AS holes,
	pg_catalog.min(c.gap_since) AS gap_since, pg_catalog.sum(c.ahead_bytes)::pg_catalog.int8 AS ahead_bytes,
	(SELECT pg_catalog.count(*) FROM idempotency.dead_events AS d
		WHERE d.consumer OPERATOR(pg_catalog.=) k.consumer) AS dead
FROM (SELECT pg_catalog.substr(t.scope, 7) AS consumer FROM idempotency.stats() AS t
		WHERE pg_catalog.starts_with(t.scope, 'inbox/')
	UNION SELECT i.consumer FROM idempotency.consumers AS i
	UNION SELECT e.consumer FROM idempotency.dead_events AS e) AS k(consumer)
LEFT JOIN idempotency.stats() AS s ON s.scope OPERATOR(pg_catalog.=) ('inbox/' OPERATOR(pg_catalog.||) k.consumer)
LEFT JOIN idempotency.consumers AS c ON c.consumer OPERATOR(pg_catalog.=) k.consumer
GROUP BY k.consumer;
COMMENT ON VIEW idempotency.stats_consumers IS
	'what was counted per consumer of events of this database since stats.reset_at, and how it stands';
COMMENT ON COLUMN idempotency.stats_consumers.consumer IS
	'as it calls accept(); counts are null unless the server preloads the library and has room for it';
COMMENT ON COLUMN idempotency.stats_consumers.processed IS
	'events answered process';
COMMENT ON COLUMN idempotency.stats_consumers.duplicates IS
	'events answered duplicate';
COMMENT ON COLUMN idempotency.stats_consumers.gaps IS
	'events answered gap or blocked';
COMMENT ON COLUMN idempotency.stats_consumers.late_events IS
	'events answered late';
COMMENT ON COLUMN idempotency.stats_consumers.in_progress IS
	'events that another transaction was processing';
COMMENT ON COLUMN idempotency.stats_consumers.exhausted IS
	'events answered exhausted';
COMMENT ON COLUMN idempotency.stats_consumers.streams IS
	'whose position is known';
COMMENT ON COLUMN idempotency.stats_consumers.holes IS
	'gaps in all of them';
COMMENT ON COLUMN idempotency.stats_consumers.gap_since IS
	'since when the oldest of them is known';
COMMENT ON COLUMN idempotency.stats_consumers.ahead_bytes IS
	'what it takes to remember what was processed behind gaps';
COMMENT ON COLUMN idempotency.stats_consumers.dead IS
	'events that were given up';
-- tells who reads what; grant it to operators
REVOKE ALL ON idempotency.stats_consumers FROM PUBLIC;
