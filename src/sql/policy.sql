-- A row for each scope that somebody configured, and one, '*', for the
-- default.  NULL: as '*' says, or, in the row of '*', as the library does.
-- Written by configure() only: it tells every backend, a plain UPDATE doesn't.
CREATE TABLE idempotency.scope_policy (
	scope pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	retention_usec pg_catalog.int8,
	wait_usec pg_catalog.int8,
	unfinished_succeeds pg_catalog.bool,
	require_request pg_catalog.bool,
	store_request pg_catalog.bool,
	store_failures pg_catalog.bool,
	exclude pg_catalog.text[],
	max_key_bytes pg_catalog.int4,
	max_request_bytes pg_catalog.int4,
	max_response_bytes pg_catalog.int4,
	max_attempts pg_catalog.int4,
	backoff_base_usec pg_catalog.int8,
	backoff_cap_usec pg_catalog.int8,
	allowed_role pg_catalog.text,
	max_lease_usec pg_catalog.int8,
	on_lease_expiry pg_catalog."char",
	max_state_bytes pg_catalog.int4,
	breaker_failures pg_catalog.int4,
	breaker_percent pg_catalog.int4,
	breaker_probes pg_catalog.int4,
	breaker_window_usec pg_catalog.int8,
	breaker_cooldown_usec pg_catalog.int8,
	limit_claims pg_catalog.int4,
	limit_running pg_catalog.int4,
	limit_replays pg_catalog.int4,
	limit_interval_usec pg_catalog.int8,
	kept_short_until pg_catalog.timestamptz,
	kept_day_until pg_catalog.timestamptz,
	kept_week_until pg_catalog.timestamptz,
	kept_month_until pg_catalog.timestamptz,
	kept_permanent_until pg_catalog.timestamptz,
	kept_xid pg_catalog.xid8,
	CONSTRAINT scope_policy_pkey PRIMARY KEY (scope)
);
COMMENT ON TABLE idempotency.scope_policy IS
	'settings of the scopes; write with configure(), read with policy()';
SELECT pg_catalog.pg_extension_config_dump('idempotency.scope_policy', '');
-- who may write here decides what is a duplicate
REVOKE ALL ON idempotency.scope_policy FROM PUBLIC;

CREATE FUNCTION idempotency.configure(
	scope pg_catalog.text,
	retention pg_catalog.text DEFAULT NULL,
	wait pg_catalog.text DEFAULT NULL,
	unfinished pg_catalog.text DEFAULT NULL,
	require_request pg_catalog.bool DEFAULT NULL,
	store_request pg_catalog.bool DEFAULT NULL,
	exclude pg_catalog.text[] DEFAULT NULL,
	max_key_bytes pg_catalog.int8 DEFAULT NULL,
	max_request_bytes pg_catalog.int8 DEFAULT NULL,
	max_response_bytes pg_catalog.int8 DEFAULT NULL,
	role pg_catalog.text DEFAULT NULL,
	max_attempts pg_catalog.int8 DEFAULT NULL,
	backoff_base pg_catalog.interval DEFAULT NULL,
	backoff_cap pg_catalog.interval DEFAULT NULL,
	store_failures pg_catalog.bool DEFAULT NULL,
	max_lease pg_catalog.interval DEFAULT NULL,
	on_lease_expiry pg_catalog.text DEFAULT NULL,
	max_state_bytes pg_catalog.int8 DEFAULT NULL,
	breaker_failures pg_catalog.int8 DEFAULT NULL,
	breaker_percent pg_catalog.int8 DEFAULT NULL,
	breaker_window pg_catalog.interval DEFAULT NULL,
	breaker_cooldown pg_catalog.interval DEFAULT NULL,
	breaker_probes pg_catalog.int8 DEFAULT NULL,
	limit_claims pg_catalog.int8 DEFAULT NULL,
	limit_running pg_catalog.int8 DEFAULT NULL,
	limit_replays pg_catalog.int8 DEFAULT NULL,
	limit_interval pg_catalog.interval DEFAULT NULL,
	OUT scope pg_catalog.text,
	OUT retention pg_catalog.text,
	OUT wait pg_catalog.text,
	OUT unfinished pg_catalog.text,
	OUT require_request pg_catalog.bool,
	OUT store_request pg_catalog.bool,
	OUT exclude pg_catalog.text[],
	OUT max_key_bytes pg_catalog.int4,
	OUT max_request_bytes pg_catalog.int4,
	OUT max_response_bytes pg_catalog.int4,
	OUT role pg_catalog.text,
	OUT max_attempts pg_catalog.int4,
	OUT backoff_base pg_catalog.text,
	OUT backoff_cap pg_catalog.text,
	OUT store_failures pg_catalog.bool,
	OUT max_lease pg_catalog.text,
	OUT on_lease_expiry pg_catalog.text,
	OUT max_state_bytes pg_catalog.int4,
	OUT breaker_failures pg_catalog.int4,
	OUT breaker_percent pg_catalog.int4,
	OUT breaker_window pg_catalog.text,
	OUT breaker_cooldown pg_catalog.text,
	OUT breaker_probes pg_catalog.int4,
	OUT limit_claims pg_catalog.int4,
	OUT limit_running pg_catalog.int4,
	OUT limit_replays pg_catalog.int4,
	OUT limit_interval pg_catalog.text,
	OUT ring pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_configure';
COMMENT ON FUNCTION idempotency.configure IS
	'changes the given settings of a scope (''*'': of all that do not say otherwise), leaves the rest, and returns the effective ones';
-- whoever may change a policy can make a duplicate execute
REVOKE ALL ON FUNCTION idempotency.configure FROM PUBLIC;

CREATE FUNCTION idempotency.policy(
	scope pg_catalog.text,
	OUT scope pg_catalog.text,
	OUT retention pg_catalog.text,
	OUT wait pg_catalog.text,
	OUT unfinished pg_catalog.text,
	OUT require_request pg_catalog.bool,
	OUT store_request pg_catalog.bool,
	OUT exclude pg_catalog.text[],
	OUT max_key_bytes pg_catalog.int4,
	OUT max_request_bytes pg_catalog.int4,
	OUT max_response_bytes pg_catalog.int4,
	OUT role pg_catalog.text,
	OUT max_attempts pg_catalog.int4,
	OUT backoff_base pg_catalog.text,
	OUT backoff_cap pg_catalog.text,
	OUT store_failures pg_catalog.bool,
	OUT max_lease pg_catalog.text,
	OUT on_lease_expiry pg_catalog.text,
	OUT max_state_bytes pg_catalog.int4,
	OUT breaker_failures pg_catalog.int4,
	OUT breaker_percent pg_catalog.int4,
	OUT breaker_window pg_catalog.text,
	OUT breaker_cooldown pg_catalog.text,
	OUT breaker_probes pg_catalog.int4,
	OUT limit_claims pg_catalog.int4,
	OUT limit_running pg_catalog.int4,
	OUT limit_replays pg_catalog.int4,
	OUT limit_interval pg_catalog.text,
	OUT ring pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_policy';
COMMENT ON FUNCTION idempotency.policy IS
	'the effective settings of a scope';
-- shows how scopes are protected
REVOKE ALL ON FUNCTION idempotency.policy FROM PUBLIC;
