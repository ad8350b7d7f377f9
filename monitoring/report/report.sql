-- What report.sh draws: fragments of HTML, and data for gnuplot, in the current
-- directory; all of one moment.  psql escapes what is in its tables; what is
-- echoed otherwise are numbers.
--
-- Variables: hours, the time that the plots show.
\set ON_ERROR_STOP on
\pset format html
\pset border 0
\pset footer off
\pset null ''
BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL timezone = 'UTC';

-- ------------------------------------------------------------ the top
\o head.html
SELECT current_database() AS "Database", current_setting('server_version') AS "PostgreSQL",
       (SELECT extversion FROM pg_extension WHERE extname = 'idempotency') AS "idempotency",
       to_char(now(), 'YYYY-MM-DD HH24:MI:SS UTC') AS "At",
       coalesce((SELECT to_char(min(reset_at), 'YYYY-MM-DD HH24:MI:SS UTC') FROM idempotency.stats), 'nothing counted') AS "Counted since";

\o figures.html
SELECT coalesce(sum(executed + resumed), 0) AS attempts,
       coalesce(sum(replayed + in_progress), 0) AS duplicates,
       coalesce(to_char(100.0 * sum(replayed + in_progress)
                        / nullif(sum(executed + resumed + replayed + in_progress), 0), 'FM990.0'), '–') AS percent,
       coalesce(sum(late_duplicates), 0) AS late, coalesce(sum(mismatched), 0) AS mismatched,
       coalesce(sum(aborted), 0) AS aborted
  FROM idempotency.stats \gset
SELECT count(*) AS alerts, coalesce(sum((severity = 'critical')::int), 0) AS critical, count(*) > 0 AS has_alerts,
       CASE WHEN bool_or(severity = 'critical') THEN 'critical' WHEN count(*) > 0 THEN 'warning' ELSE 'good' END AS worst
  FROM idempotency.alerts \gset
SELECT idempotency.preloaded() AS preloaded \gset
\qecho '<div class="figures">'
\qecho '<div class="figure ' :worst '"><b>' :alerts '</b><span>alerts</span></div>'
\qecho '<div class="figure"><b>' :attempts '</b><span>attempts</span></div>'
\qecho '<div class="figure"><b>' :duplicates '</b><span>duplicates answered</span></div>'
\qecho '<div class="figure"><b>' :percent '<i>%</i></b><span>of claims were duplicates</span></div>'
\qecho '<div class="figure"><b>' :late '</b><span>duplicates too late</span></div>'
\qecho '<div class="figure"><b>' :mismatched '</b><span>mismatches</span></div>'
\qecho '<div class="figure"><b>' :aborted '</b><span>rolled back</span></div>'
\qecho '</div>'

\o alerts.html
\if :has_alerts
SELECT CASE a.severity WHEN 'critical' THEN '● ' ELSE '○ ' END || a.severity AS severity, a.name AS alert, a.scope,
       round(a.value::numeric, 2) AS value, round(a.threshold::numeric, 2) AS threshold,
       to_char(a.since, 'YYYY-MM-DD HH24:MI:SS') AS since
  FROM idempotency.alerts AS a
 ORDER BY a.severity, a.name, a.scope;
\else
\qecho '<p class="none">Nothing needs anybody.</p>'
\endif
\if :preloaded
\else
\qecho '<p class="none">The library is not preloaded: there are no statistics, no worker, and not every alert.</p>'
\endif

-- ------------------------------------------------------------ scopes
\o scopes.html
SELECT count(*) > 0 AS any, count(*) > 30 AS more FROM idempotency.stats \gset
\if :any
SELECT s.scope, repeat('█', round(10 * part)::int) || repeat('░', 10 - round(10 * part)::int)
           || to_char(100 * part, '990') || ' %' AS duplicates,
       s.executed + s.resumed AS attempts, s.replayed, s.in_progress AS "in progress",
       s.mismatched, s.retry_later + s.exhausted + s.indeterminate + s.expired AS refused,
       s.failed + s.retried AS failed, s.aborted AS "rolled back", s.late_duplicates AS late, s.takeovers
  FROM idempotency.stats AS s
 CROSS JOIN LATERAL (SELECT coalesce((s.replayed + s.in_progress)::float8
                     / nullif(s.executed + s.resumed + s.replayed + s.in_progress, 0), 0)) AS d (part)
 ORDER BY s.executed + s.resumed + s.replayed + s.in_progress DESC, s.scope
 LIMIT 30;
\if :more
\qecho '<p class="none">The 30 busiest.</p>'
\endif
\else
\qecho '<p class="none">Nothing counted yet.</p>'
\endif

\o functions.html
SELECT count(*) > 0 AS any FROM idempotency.latency_by_function \gset
\if :any
SELECT l.function, l.calls, round(l.mean_us::numeric, 1) AS "mean, µs", round(l.p50_us::numeric, 1) AS "p50, µs",
       round(l.p95_us::numeric, 1) AS "p95, µs", round(l.p99_us::numeric, 1) AS "p99, µs"
  FROM idempotency.latency_by_function AS l
 ORDER BY l.function = 'waiting', l.calls DESC, l.function;
\endif

\o leases.html
SELECT count(*) > 0 AS any FROM idempotency.activity \gset
\if :any
SELECT a.scope, count(*) AS running, count(*) FILTER (WHERE a.lease_left_ms < 0) AS over,
       round(max(-a.lease_left_ms) FILTER (WHERE a.lease_left_ms < 0) / 1e3, 1) AS "longest over, s",
       max(a.attempt) AS "highest attempt"
  FROM idempotency.activity AS a GROUP BY a.scope ORDER BY 3 DESC, 2 DESC LIMIT 30;
\else
\qecho '<p class="none">No leased claim is open.</p>'
\endif

\o sagas.html
SELECT count(*) > 0 AS any FROM idempotency.sagas \gset
\if :any
SELECT s.scope, count(*) FILTER (WHERE s.state = 'running') AS running,
       count(*) FILTER (WHERE s.state = 'compensating') AS compensating,
       count(*) FILTER (WHERE s.state = 'compensation_failed') AS "could not be undone",
       count(*) FILTER (WHERE s.state = 'compensated') AS compensated,
       count(*) FILTER (WHERE s.state = 'completed') AS "completed, as a step"
  FROM idempotency.sagas AS s GROUP BY s.scope ORDER BY 4 DESC, 3 DESC, 1 LIMIT 30;
\else
\qecho '<p class="none">No saga is remembered.</p>'
\endif

\o consumers.html
SELECT count(*) > 0 AS any FROM idempotency.stats_consumers \gset
\if :any
SELECT c.consumer, c.streams, c.processed, c.duplicates, c.late_events AS late, c.holes AS gaps,
       round(extract(epoch FROM clock_timestamp() - c.gap_since)) AS "oldest gap, s", c.dead
  FROM idempotency.stats_consumers AS c ORDER BY c.consumer LIMIT 30;
\else
\qecho '<p class="none">No consumer has processed anything.</p>'
\endif

\o relays.html
SELECT count(*) > 0 AS any FROM idempotency.relays \gset
\if :any
SELECT r.relay, r.stream, r.lag_events AS "events behind", round(r.lag_seconds::numeric, 1) AS "seconds behind",
       r.lost_upto AS "lost up to"
  FROM idempotency.relays AS r ORDER BY r.lag_seconds DESC NULLS LAST, r.relay LIMIT 30;
\else
\qecho '<p class="none">No relay reads the outbox.</p>'
\endif

\o ledger.html
SELECT l.size AS sealed, l.unsealed, l.witnessed_size AS witnessed,
       (SELECT round(e.exposure_ms / 1e3, 1) FROM idempotency.ledger_exposure AS e) AS "exposed for, s",
       to_char(l.witnessed_at, 'YYYY-MM-DD HH24:MI:SS') AS "witnessed at", l.pruned_below AS "pruned below", l.origin
  FROM idempotency.ledger_status AS l;

-- ------------------------------------------------------------ data
-- Steps of which about a hundred are in the time shown.
SELECT greatest(round(:hours * 36)::int, 1) AS step,
       now() - make_interval(secs => :hours * 3600) AS since \gset
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' '

-- What was decided: cumulated, for stacked boxes.
\o decisions.dat
SELECT extract(epoch FROM b.at)::int8 + :step / 2,
       a, a + b, a + b + c, a + b + c + d, a + b + c + d + e, a + b + c + d + e + f
  FROM (SELECT date_bin(make_interval(secs => :step), e.decided_at, 'epoch'),
               count(*) FILTER (WHERE e.decision IN ('executed', 'finished')),
               count(*) FILTER (WHERE e.decision IN ('claimed', 'takeover', 'checkpoint')),
               count(*) FILTER (WHERE e.decision IN ('replayed', 'deduplicated')),
               count(*) FILTER (WHERE e.decision IN ('failed', 'retry', 'exhausted', 'released', 'aborted')),
               count(*) FILTER (WHERE e.decision IN ('mismatch', 'expired')),
               count(*) FILTER (WHERE e.decision NOT IN ('executed', 'finished', 'claimed', 'takeover', 'checkpoint',
                   'replayed', 'deduplicated', 'failed', 'retry', 'exhausted', 'released', 'aborted', 'mismatch', 'expired'))
          FROM idempotency.ledger_entry AS e
         WHERE e.decided_at > :'since'
         GROUP BY 1) AS b (at, a, b, c, d, e, f)
 ORDER BY b.at;

-- From the decision of the oldest entry of each seal to the seal: the longest
-- and the mean of each step.
\o exposure.dat
SELECT extract(epoch FROM date_bin(make_interval(secs => :step), c.sealed_at, 'epoch'))::int8 + :step / 2,
       max(x.seconds), avg(x.seconds)
  FROM (SELECT k.sealed_at, k.sealed_seq, lag(k.sealed_seq, 1, 0::int8) OVER (ORDER BY k.size) AS after_seq
          FROM idempotency.ledger_checkpoint AS k) AS c
 CROSS JOIN LATERAL (SELECT greatest(extract(epoch FROM c.sealed_at - e.decided_at), 0.001) AS seconds
                       FROM idempotency.ledger_entry AS e
                      WHERE e.seq > c.after_seq AND e.seq <= c.sealed_seq ORDER BY e.seq LIMIT 1) AS x
 WHERE c.sealed_at > :'since'
 GROUP BY 1 ORDER BY 1;

\o latency.dat
SELECT c.from_us, c.to_us, sum(c.decisions)
  FROM idempotency.stats_latency AS c
 WHERE c.function <> 'waiting' AND c.to_us < 'infinity'
 GROUP BY c.from_us, c.to_us ORDER BY c.from_us;

\o quantiles.dat
SELECT q.name, min(c.to_us)
  FROM (SELECT l.to_us, sum(sum(l.decisions)) OVER (ORDER BY l.to_us) / sum(sum(l.decisions)) OVER () AS part
          FROM idempotency.stats_latency AS l WHERE l.function <> 'waiting' AND l.to_us < 'infinity' GROUP BY l.to_us) AS c
  JOIN (VALUES ('p50', 0.5), ('p95', 0.95), ('p99', 0.99)) AS q (name, part) ON c.part >= q.part
 GROUP BY q.name, q.part ORDER BY q.part;

\o segments.dat
SELECT row_number() OVER (ORDER BY array_position(ARRAY['short', 'day', 'week', 'month', 'permanent'], s.ring), s.segment),
       '"' || replace(replace(replace(s.segment, 'key_', ''), '_', ' '), 'permanent', 'perm.') || '"', s.bytes,
       CASE WHEN s.bytes > 0 AND s.ends_at < clock_timestamp() THEN 2 ELSE 1 END
  FROM idempotency.segments() AS s
 WHERE EXISTS (SELECT FROM idempotency.segments() AS t WHERE t.bytes > 0)
 ORDER BY 1;

\o times.dat
SELECT extract(epoch FROM :'since'::timestamptz)::int8, extract(epoch FROM now())::int8, :step;
\o
COMMIT;
