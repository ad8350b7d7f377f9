-- A page of text for whoever sits at a terminal.
CREATE FUNCTION idempotency.report()
RETURNS pg_catalog.text
LANGUAGE sql VOLATILE PARALLEL UNSAFE COST 10000
SET search_path = pg_catalog, pg_temp
AS $$
	WITH scopes AS (
		SELECT s.scope, s.executed + s.resumed + s.replayed AS claims, s.replayed,
			s.in_progress + s.mismatched + s.retry_later + s.exhausted + s.indeterminate + s.expired
				+ s.fence_refused AS refused,
			s.aborted, s.late_duplicates,
			(SELECT l.p99_us FROM idempotency.latency(true) AS l
				WHERE l.scope = s.scope AND l.function <> 'waiting' ORDER BY l.calls DESC, l.function LIMIT 1) AS p99
		FROM idempotency.stats() AS s
	), page(part, n, line) AS (
		SELECT 1, 1, format('idempotency: database %s, %s', current_database(),
			to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS TZH:TZM'))
		UNION ALL
		SELECT 1, 2, CASE WHEN idempotency.preloaded() THEN
			'counts since ' || coalesce((SELECT to_char(min(s.reset_at), 'YYYY-MM-DD HH24:MI:SS TZH:TZM')
				FROM idempotency.stats() AS s), 'now') || '; worker: '
			|| coalesce((SELECT w.state FROM idempotency.workers() AS w WHERE w.database = current_database()), 'absent')
			ELSE 'the library is not preloaded: nothing is counted, and there is no worker' END
		UNION ALL
		SELECT 2, 0, E'\nNEEDS ATTENTION'
		UNION ALL
		SELECT 2, row_number() OVER (ORDER BY a.severity, a.name, a.scope),
			format('  %-8s %-16s %-24s %s (limit %s)%s  %s', a.severity, a.name, coalesce(a.scope, ''),
				round(a.value::numeric, 2), round(a.threshold::numeric, 2),
				coalesce(' since ' || to_char(a.since, 'YYYY-MM-DD HH24:MI:SS'), ''), a.runbook)
		FROM idempotency.alerts AS a
		WHERE a.name <> 'worker_absent' OR idempotency.preloaded()
		UNION ALL
		SELECT 2, 1, '  nothing'
		WHERE NOT EXISTS (SELECT FROM idempotency.alerts AS a WHERE a.name <> 'worker_absent' OR idempotency.preloaded())
		UNION ALL
		SELECT 3, 0, E'\n' || format('%-32s %10s %8s  %-20s %8s %8s %6s %9s', 'SCOPE', 'claims', 'dup %', 'duplicates',
			'refused', 'aborted', 'late', 'p99 us')
		UNION ALL
		SELECT 3, row_number() OVER (ORDER BY s.claims DESC, s.scope),
			format('%-32s %10s %8s  %-20s %8s %8s %6s %9s',
				CASE WHEN length(s.scope) > 32 THEN left(s.scope, 29) || '...' ELSE s.scope END, s.claims,
				round(100.0 * s.replayed / greatest(s.claims, 1), 1),
				rpad(repeat('#', (20.0 * s.replayed / greatest(s.claims, 1))::int), 20, '.'),
				s.refused, s.aborted, s.late_duplicates, coalesce(round(s.p99::numeric)::text, ''))
		FROM scopes AS s
		UNION ALL
		SELECT 3, 1, '  none' WHERE NOT EXISTS (SELECT FROM scopes)
		UNION ALL
		SELECT 4, 0, E'\nMOST DUPLICATED KEYS, by id'
		UNION ALL
		SELECT 4, t.n, format('  %s %10s  %s', t.id, t.duplicates, t.scope)
		FROM (SELECT row_number() OVER (ORDER BY d.duplicates DESC, d.id) AS n, d.*
			FROM idempotency.top_duplicates() AS d) AS t
		WHERE t.n <= 5
		UNION ALL
		SELECT 4, 1, '  none' WHERE NOT EXISTS (SELECT FROM idempotency.top_duplicates())
		UNION ALL
		SELECT 5, 0, E'\nSLOWEST CALLS of the last hour'
		UNION ALL
		SELECT 5, t.n, format('  %10s us  %-14s %-32s %s  pid %s', t.duration_us, t.function, t.scope,
			to_char(t.ended_at, 'HH24:MI:SS'), t.pid)
		FROM (SELECT row_number() OVER (ORDER BY c.duration_us DESC, c.ended_at) AS n, c.*
			FROM idempotency.slowest_calls() AS c) AS t
		WHERE t.n <= 5
		UNION ALL
		SELECT 5, 1, '  none' WHERE NOT EXISTS (SELECT FROM idempotency.slowest_calls())
		UNION ALL
		SELECT 6, 0, E'\nSAGAS' WHERE EXISTS (SELECT FROM idempotency.sagas)
		UNION ALL
		SELECT 6, row_number() OVER (ORDER BY r.scope, r.state), format('  %10s  %-20s %s', r.runs, r.state, r.scope)
		FROM (SELECT s.scope, s.state, count(*) AS runs FROM idempotency.sagas AS s GROUP BY s.scope, s.state) AS r
	)
	SELECT string_agg(p.line, E'\n' ORDER BY p.part, p.n) || E'\n' FROM page AS p
$$;
COMMENT ON FUNCTION idempotency.report IS
	'a page of text: what needs attention, what happens in each scope, the most duplicated keys by id, the slowest calls; for psql -XAtc';
-- tells how an operation fares; grant it to operators
REVOKE ALL ON FUNCTION idempotency.report FROM PUBLIC;
