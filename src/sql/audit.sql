-- Questions of auditors, answered from the ledger.  It has no index by who or
-- what, for which a writer would have to pay: each of these reads all of it.
CREATE FUNCTION idempotency.caller_history(
	role pg_catalog.text DEFAULT NULL,
	"from" pg_catalog.timestamptz DEFAULT NULL,
	"to" pg_catalog.timestamptz DEFAULT NULL,
	principal pg_catalog.text DEFAULT NULL,
	application pg_catalog.text DEFAULT NULL)
RETURNS TABLE (
	seq pg_catalog.int8,
	decided_at pg_catalog.timestamptz,
	decision pg_catalog.text,
	scope pg_catalog.text,
	of_principal pg_catalog.text,
	key pg_catalog.text,
	event_no pg_catalog.int4,
	attempt pg_catalog.int4,
	fence pg_catalog.int8,
	by_role pg_catalog.text,
	session_role pg_catalog.text,
	by_application pg_catalog.text,
	trace_id pg_catalog.bytea,
	detail pg_catalog.text)
LANGUAGE sql VOLATILE PARALLEL UNSAFE COST 10000
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT e.seq, e.decided_at, e.decision, e.scope, e.principal, e.key, e.event_no, e.attempt,
		e.fence, e.role, e.session_role, e.application, e.trace_id, e.detail
	FROM idempotency.ledger_entry AS e
	WHERE (caller_history.role IS NULL OR caller_history.role IN (e.role, e.session_role))
		AND (caller_history.principal IS NULL OR caller_history.principal = e.principal)
		AND (caller_history.application IS NULL OR caller_history.application = e.application)
		AND (caller_history."from" IS NULL OR e.decided_at >= caller_history."from")
		AND (caller_history."to" IS NULL OR e.decided_at < caller_history."to")
	ORDER BY e.seq
$$;
COMMENT ON FUNCTION idempotency.caller_history IS
	'what this caller (a role, logged in or acting; a principal; an application) decided from one moment to before another, in order; NULL is any';
-- shows who did what; grant it to auditors
REVOKE ALL ON FUNCTION idempotency.caller_history FROM PUBLIC;

CREATE FUNCTION idempotency.executed_more_than_once(
	scope pg_catalog.text DEFAULT NULL,
	since pg_catalog.timestamptz DEFAULT NULL,
	attempts pg_catalog.bool DEFAULT false)
RETURNS TABLE (
	of_scope pg_catalog.text,
	principal pg_catalog.text,
	key pg_catalog.text,
	id pg_catalog.uuid,
	executions pg_catalog.int8,
	begun pg_catalog.int8,
	fences pg_catalog.int8[],
	first_at pg_catalog.timestamptz,
	last_at pg_catalog.timestamptz,
	forgotten pg_catalog.int8)
LANGUAGE sql VOLATILE PARALLEL UNSAFE COST 10000
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT k.scope, k.principal, k.key, k.id, k.executions, k.begun, k.fences, k.first_at, k.last_at, k.forgotten
	FROM (SELECT e.scope, e.principal, e.key, e.id,
			count(*) FILTER (WHERE e.decision IN ('executed', 'finished')) AS executions,
			count(*) FILTER (WHERE e.decision IN ('executed', 'claimed', 'takeover')) AS begun,
			array_agg(DISTINCT e.fence ORDER BY e.fence) FILTER (WHERE e.fence IS NOT NULL) AS fences,
			min(e.decided_at) FILTER (WHERE e.decision <> 'forgotten') AS first_at,
			max(e.decided_at) FILTER (WHERE e.decision <> 'forgotten') AS last_at,
			count(*) FILTER (WHERE e.decision = 'forgotten') AS forgotten
		FROM idempotency.ledger_entry AS e
		WHERE e.id IS NOT NULL
			AND e.decision IN ('executed', 'finished', 'claimed', 'takeover', 'forgotten')
			AND (executed_more_than_once.scope IS NULL OR e.scope = executed_more_than_once.scope)
		GROUP BY e.scope, e.principal, e.key, e.id) AS k
	WHERE (k.executions > 1 OR (executed_more_than_once.attempts AND k.begun > 1))
		AND (executed_more_than_once.since IS NULL OR k.last_at >= executed_more_than_once.since)
	ORDER BY k.last_at, k.id
$$;
COMMENT ON FUNCTION idempotency.executed_more_than_once IS
	'keys that were executed more than once, the last time not before since, and the fences of their leases: forgotten by an operator, invalidated, or come again after their retention; attempts: also those that were only begun more than once';
-- shows who did what; grant it to auditors
REVOKE ALL ON FUNCTION idempotency.executed_more_than_once FROM PUBLIC;

CREATE FUNCTION idempotency.reused_after_window(
	scope pg_catalog.text DEFAULT NULL,
	since pg_catalog.timestamptz DEFAULT NULL)
RETURNS TABLE (
	of_scope pg_catalog.text,
	principal pg_catalog.text,
	key pg_catalog.text,
	id pg_catalog.uuid,
	settled_at pg_catalog.timestamptz,
	settled_fence pg_catalog.int8,
	reused_at pg_catalog.timestamptz,
	reused_fence pg_catalog.int8,
	after pg_catalog.interval)
LANGUAGE sql VOLATILE PARALLEL UNSAFE COST 10000
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT k.scope, k.principal, k.key, k.id, k.before_at, k.before_fence, k.decided_at, k.fence,
		k.decided_at - k.before_at
	FROM (SELECT e.scope, e.principal, e.key, e.id, e.seq, e.decided_at, e.fence, e.event_no, e.decision,
			lag(e.decision) OVER w AS before, lag(e.decided_at) OVER w AS before_at,
			lag(e.fence) OVER w AS before_fence
		FROM idempotency.ledger_entry AS e
		WHERE e.id IS NOT NULL AND e.event_no IS NOT NULL
			AND e.decision IN ('executed', 'claimed', 'takeover', 'checkpoint', 'finished', 'failed', 'retry',
				'exhausted', 'released', 'resolved', 'forgotten')
			AND (reused_after_window.scope IS NULL OR e.scope = reused_after_window.scope)
		WINDOW w AS (PARTITION BY e.id ORDER BY e.seq)) AS k
	WHERE k.event_no = 1 AND k.decision IN ('executed', 'claimed')
		AND k.before IN ('executed', 'finished', 'exhausted', 'resolved')
		AND (reused_after_window.since IS NULL OR k.decided_at >= reused_after_window.since)
	ORDER BY k.seq
$$;
COMMENT ON FUNCTION idempotency.reused_after_window IS
	'keys that came again after their retention was over, and were executed once more, not before since: duplicates that were missed, or keys that are used twice';
-- shows who did what; grant it to auditors
REVOKE ALL ON FUNCTION idempotency.reused_after_window FROM PUBLIC;
