--
-- Policies: configure() and policy().
--
-- Convention: each section has a scope of its own; what it changes of '*' is
-- rolled back.  That breakers and limits need shared memory is said elsewhere
-- (stats.sql), so here no warning is shown.
--
\pset null '(null)'
SET client_min_messages = error;
CREATE SCHEMA policy_test;
-- what is stored of a scope's keys, in whichever table they are
CREATE FUNCTION policy_test.stored(wanted text)
RETURNS TABLE (key text, request text, has_fingerprint bool) LANGUAGE plpgsql AS $$
DECLARE
    segment text;
BEGIN
    FOR segment IN SELECT relname FROM pg_class WHERE relnamespace = 'idempotency'::regnamespace AND relkind = 'r' AND relname LIKE 'key\_%' LOOP
        RETURN QUERY EXECUTE format('SELECT key, request, fingerprint IS NOT NULL FROM idempotency.%I WHERE scope = $1 ORDER BY key', segment) USING wanted;
    END LOOP;
END $$;
-- which rings a scope's keys are in
CREATE FUNCTION policy_test.rings(wanted text) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(DISTINCT split_part(segment, '_', 2), ' ') FROM idempotency.keys WHERE scope = wanted $$;

--
-- What holds if nobody has configured anything
--
SELECT * FROM idempotency.policy('*') \gx
SELECT scope, retention, max_attempts FROM idempotency.policy('policy.unknown');

--
-- Every setting; what is left out, or NULL, stays as it is
--
CREATE ROLE regress_idempotency_policy;
SELECT * FROM idempotency.configure('policy.all',
    retention => '2 days', wait => '500 ms', unfinished => 'succeed', require_request => true, store_request => true,
    exclude => ARRAY['$.sent_at', '$.meta.trace'], max_key_bytes => 40, max_request_bytes => 5000, max_response_bytes => 6000,
    role => 'regress_idempotency_policy', max_attempts => 7, backoff_base => '20 ms', backoff_cap => '3 min', store_failures => false,
    max_lease => '2 h', on_lease_expiry => 'forget', max_state_bytes => 70,
    breaker_failures => 11, breaker_percent => 12, breaker_window => '13 s', breaker_cooldown => '14 s', breaker_probes => 15,
    limit_claims => 16, limit_running => 17, limit_replays => 18, limit_interval => '19 s',
    audit => 'everything', audit_payloads => true) \gx
SELECT * FROM idempotency.configure('policy.all', retention => '3 days') \gx
SELECT (SELECT p FROM idempotency.policy('policy.all') AS p) = (SELECT c FROM idempotency.configure('policy.all', NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) AS c) AS unchanged;
SELECT (SELECT p FROM idempotency.policy('policy.all') AS p) = (SELECT c FROM idempotency.configure('policy.all') AS c) AS unchanged;
-- and back
SELECT * FROM idempotency.configure('policy.all',
    retention => '24 h', wait => 'infinity', unfinished => 'refuse', require_request => false, store_request => false,
    exclude => '{}', max_key_bytes => 255, max_request_bytes => 1048576, max_response_bytes => 1048576,
    role => '', max_attempts => 10, backoff_base => '1 s', backoff_cap => '5 min', store_failures => true,
    max_lease => '1 h', on_lease_expiry => 'resume', max_state_bytes => 65536,
    breaker_failures => 0, breaker_percent => 0, breaker_window => '1 min', breaker_cooldown => '30 s', breaker_probes => 1,
    limit_claims => 0, limit_running => 0, limit_replays => 0, limit_interval => '1 s',
    audit => 'decisions', audit_payloads => false) \gx
DROP ROLE regress_idempotency_policy;

--
-- '*' is what the others inherit, as far as they don't say otherwise
--
BEGIN;
SELECT max_attempts FROM idempotency.configure('policy.own', max_attempts => 3);
SELECT max_attempts, max_key_bytes FROM idempotency.configure('*', max_attempts => 5, max_key_bytes => 2);
SELECT scope, max_attempts, max_key_bytes
FROM unnest(ARRAY['*', 'policy.own', 'policy.other']) AS s, idempotency.policy(s);
SAVEPOINT s;
\set VERBOSITY sqlstate
SELECT idempotency.once('policy.other', 'key');
\set VERBOSITY default
ROLLBACK TO s;
SELECT max_key_bytes FROM idempotency.configure('policy.other', max_key_bytes => 3);
SELECT idempotency.once('policy.other', 'key');
-- '*' is no pattern, and no scope matches another
SELECT max_attempts FROM idempotency.policy('policy.own*');
SELECT max_attempts FROM idempotency.policy('policy.OWN');
ROLLBACK;
SELECT scope, max_attempts, max_key_bytes
FROM unnest(ARRAY['*', 'policy.own', 'policy.other']) AS s, idempotency.policy(s);

--
-- A change is the transaction's until it commits
--
BEGIN;
SELECT max_key_bytes FROM idempotency.configure('policy.rollback', max_key_bytes => 2);
SAVEPOINT s;
SELECT idempotency.once('policy.rollback', 'key');
ROLLBACK TO s;
SELECT max_key_bytes FROM idempotency.configure('policy.rollback', max_key_bytes => 3);
SELECT idempotency.once('policy.rollback', 'key');
ROLLBACK TO s;
SELECT max_key_bytes FROM idempotency.policy('policy.rollback');
ROLLBACK;
SELECT max_key_bytes FROM idempotency.policy('policy.rollback');
SELECT idempotency.once('policy.rollback', 'key');
SELECT count(*) FROM idempotency.scope_policy WHERE scope = 'policy.rollback';

--
-- What is refused, and changes nothing
--
SELECT retention FROM idempotency.configure('policy.bad', retention => '0');
SELECT retention FROM idempotency.configure('policy.bad', retention => 'abc');
SELECT wait FROM idempotency.configure('policy.bad', wait => '-1 ms');
SELECT unfinished FROM idempotency.configure('policy.bad', unfinished => 'SUCCEED');
SELECT exclude FROM idempotency.configure('policy.bad', exclude => ARRAY['a']);
SELECT exclude FROM idempotency.configure('policy.bad', exclude => ARRAY['$.a', NULL]);
SELECT max_key_bytes FROM idempotency.configure('policy.bad', max_key_bytes => 1025);
SELECT max_request_bytes FROM idempotency.configure('policy.bad', max_request_bytes => -1);
SELECT max_response_bytes FROM idempotency.configure('policy.bad', max_response_bytes => -1);
SELECT role FROM idempotency.configure('policy.bad', role => 'regress_idempotency_nobody');
SELECT max_attempts FROM idempotency.configure('policy.bad', max_attempts => 0);
SELECT backoff_base FROM idempotency.configure('policy.bad', backoff_base => '0');
SELECT backoff_cap FROM idempotency.configure('policy.bad', backoff_cap => '61 days');
SELECT max_lease FROM idempotency.configure('policy.bad', max_lease => '0');
SELECT on_lease_expiry FROM idempotency.configure('policy.bad', on_lease_expiry => 'retry');
SELECT max_state_bytes FROM idempotency.configure('policy.bad', max_state_bytes => -1);
SELECT breaker_failures FROM idempotency.configure('policy.bad', breaker_failures => -1);
SELECT breaker_percent FROM idempotency.configure('policy.bad', breaker_percent => 101);
SELECT breaker_window FROM idempotency.configure('policy.bad', breaker_window => '0');
SELECT breaker_cooldown FROM idempotency.configure('policy.bad', breaker_cooldown => '61 days');
SELECT breaker_probes FROM idempotency.configure('policy.bad', breaker_probes => 0);
SELECT limit_claims FROM idempotency.configure('policy.bad', limit_claims => -1);
SELECT limit_running FROM idempotency.configure('policy.bad', limit_running => -1);
SELECT limit_replays FROM idempotency.configure('policy.bad', limit_replays => -1);
SELECT limit_interval FROM idempotency.configure('policy.bad', limit_interval => '0');
SELECT audit FROM idempotency.configure('policy.bad', audit => 'all');
SELECT scope FROM idempotency.configure(NULL);
SELECT scope FROM idempotency.configure('');
SELECT scope FROM idempotency.configure(repeat('s', 129));
SELECT scope FROM idempotency.policy(NULL);
BEGIN READ ONLY;
SELECT retention FROM idempotency.configure('policy.bad', retention => '1 h');
ROLLBACK;
\set VERBOSITY sqlstate
SELECT retention FROM idempotency.configure('policy.bad', retention => '999999 us');
SELECT retention FROM idempotency.configure('policy.bad', retention => '-1 s');
SELECT retention FROM idempotency.configure('policy.bad', retention => '60 days 1 us');
SELECT retention FROM idempotency.configure('policy.bad', retention => '61 days');
SELECT retention FROM idempotency.configure('policy.bad', retention => '178000000 years');
SELECT retention FROM idempotency.configure('policy.bad', retention => '1000000000 years');
SELECT retention FROM idempotency.configure('policy.bad', retention => '');
SELECT wait FROM idempotency.configure('policy.bad', wait => '1 h 1 us');
SELECT unfinished FROM idempotency.configure('policy.bad', unfinished => '');
SELECT exclude FROM idempotency.configure('policy.bad', exclude => '{{$.a},{$.b}}');
SELECT max_key_bytes FROM idempotency.configure('policy.bad', max_key_bytes => 0);
SELECT max_key_bytes FROM idempotency.configure('policy.bad', max_key_bytes => 9223372036854775807);
SELECT max_key_bytes FROM idempotency.configure('policy.bad', max_key_bytes => 4294967297);
SELECT max_request_bytes FROM idempotency.configure('policy.bad', max_request_bytes => 67108865);
SELECT max_response_bytes FROM idempotency.configure('policy.bad', max_response_bytes => 268435457);
SELECT max_attempts FROM idempotency.configure('policy.bad', max_attempts => 1000001);
SELECT max_attempts FROM idempotency.configure('policy.bad', max_attempts => -9223372036854775808);
SELECT backoff_base FROM idempotency.configure('policy.bad', backoff_base => '999 us');
SELECT backoff_cap FROM idempotency.configure('policy.bad', backoff_cap => '-1 s');
SELECT max_lease FROM idempotency.configure('policy.bad', max_lease => '999 us');
SELECT max_lease FROM idempotency.configure('policy.bad', max_lease => '-1 s');
SELECT max_lease FROM idempotency.configure('policy.bad', max_lease => '4 days 1 us');
SELECT max_lease FROM idempotency.configure('policy.bad', max_lease => '178000000 years');
SELECT max_lease FROM idempotency.configure('policy.bad', max_lease => '-178000000 years');
SELECT on_lease_expiry FROM idempotency.configure('policy.bad', on_lease_expiry => '');
SELECT on_lease_expiry FROM idempotency.configure('policy.bad', on_lease_expiry => 'Resume');
SELECT on_lease_expiry FROM idempotency.configure('policy.bad', on_lease_expiry => 'l');
SELECT audit FROM idempotency.configure('policy.bad', audit => '');
SELECT audit FROM idempotency.configure('policy.bad', audit => 'Off');
SELECT audit FROM idempotency.configure('policy.bad', audit => 'd');
SELECT max_state_bytes FROM idempotency.configure('policy.bad', max_state_bytes => 9223372036854775807);
SELECT max_state_bytes FROM idempotency.configure('policy.bad', max_state_bytes => -9223372036854775808);
SELECT max_state_bytes FROM idempotency.configure('policy.bad', max_state_bytes => 67108865);
SELECT breaker_failures FROM idempotency.configure('policy.bad', breaker_failures => 2147483648);
SELECT breaker_percent FROM idempotency.configure('policy.bad', breaker_percent => -1);
SELECT breaker_window FROM idempotency.configure('policy.bad', breaker_window => '999 us');
SELECT breaker_window FROM idempotency.configure('policy.bad', breaker_window => '-1 s');
SELECT breaker_window FROM idempotency.configure('policy.bad', breaker_window => '60 days 1 us');
SELECT breaker_cooldown FROM idempotency.configure('policy.bad', breaker_cooldown => '0');
SELECT breaker_cooldown FROM idempotency.configure('policy.bad', breaker_cooldown => '178000000 years');
SELECT breaker_probes FROM idempotency.configure('policy.bad', breaker_probes => 17);
SELECT breaker_probes FROM idempotency.configure('policy.bad', breaker_probes => -1);
SELECT limit_claims FROM idempotency.configure('policy.bad', limit_claims => 2147483648);
SELECT limit_running FROM idempotency.configure('policy.bad', limit_running => 9223372036854775807);
SELECT limit_replays FROM idempotency.configure('policy.bad', limit_replays => 4294967297);
SELECT limit_interval FROM idempotency.configure('policy.bad', limit_interval => '999 us');
SELECT limit_interval FROM idempotency.configure('policy.bad', limit_interval => '61 days');
-- a setting that there isn't
SELECT retention FROM idempotency.configure('policy.bad', retention => '1 h', retenion => '1 h');
-- one bad value, and the good ones aren't taken either
SELECT retention FROM idempotency.configure('policy.bad', retention => '1 h', max_attempts => 0);
\set VERBOSITY default
SELECT count(*) FROM idempotency.scope_policy WHERE scope = 'policy.bad';
-- what is just allowed
BEGIN;
-- (a ring is for retention and longest lease together)
SELECT value, retention, ring
FROM unnest(ARRAY['1 s', '1', '3 h', '3 h 1 us', '59 h', '59 h 1 us', '15 days 23 h', '15 days 23 h 1 us', '1 month', '60 days', 'infinity', 'INFINITY']) AS value,
     idempotency.configure('policy.edge', retention => value);
SELECT value, wait
FROM unnest(ARRAY['0', '1 ms', '1 h', 'infinity']) AS value, idempotency.configure('policy.edge', wait => value);
SELECT max_key_bytes, max_request_bytes, max_response_bytes, max_attempts, backoff_base, backoff_cap
FROM idempotency.configure('policy.edge', max_key_bytes => 1, max_request_bytes => 0, max_response_bytes => 0, max_attempts => 1,
                           backoff_base => '1 ms', backoff_cap => '1 ms');
SELECT max_key_bytes, max_request_bytes, max_response_bytes, max_attempts, backoff_base, backoff_cap
FROM idempotency.configure('policy.edge', max_key_bytes => 1024, max_request_bytes => 67108864, max_response_bytes => 268435456, max_attempts => 1000000,
                           backoff_base => '60 days', backoff_cap => '60 days');
SELECT max_lease, on_lease_expiry, max_state_bytes
FROM idempotency.configure('policy.edge', max_lease => '1 ms', on_lease_expiry => 'indeterminate', max_state_bytes => 0);
SELECT max_lease, on_lease_expiry, max_state_bytes
FROM idempotency.configure('policy.edge', max_lease => '4 days', on_lease_expiry => 'forget', max_state_bytes => 67108864);
SELECT breaker_failures, breaker_percent, breaker_window, breaker_cooldown, breaker_probes
FROM idempotency.configure('policy.edge', breaker_failures => 1, breaker_percent => 100, breaker_window => '1 ms', breaker_cooldown => '1 ms', breaker_probes => 1);
SELECT breaker_failures, breaker_percent, breaker_window, breaker_cooldown, breaker_probes
FROM idempotency.configure('policy.edge', breaker_failures => 2147483647, breaker_percent => 0, breaker_window => '60 days', breaker_cooldown => '60 days', breaker_probes => 16);
SELECT limit_claims, limit_running, limit_replays, limit_interval
FROM idempotency.configure('policy.edge', limit_claims => 2147483647, limit_running => 2147483647, limit_replays => 2147483647, limit_interval => '60 days');
SELECT limit_claims, limit_running, limit_replays, limit_interval
FROM idempotency.configure('policy.edge', limit_claims => 1, limit_running => 1, limit_replays => 1, limit_interval => '1 ms');
SELECT octet_length(scope) FROM idempotency.configure(repeat('s', 128));
ROLLBACK;

--
-- exclude: fields that don't belong to the request
--
SELECT exclude FROM idempotency.configure('policy.exclude', exclude => ARRAY['$.sent_at', '$.items[*].seen']);
SELECT idempotency.once('policy.exclude', 'key', '{"amount": 1, "sent_at": "10:00", "items": [{"id": 1, "seen": true}]}');
SELECT idempotency.once('policy.exclude', 'key', '{"amount": 1, "sent_at": "10:05", "items": [{"id": 1, "seen": false}]}');
SELECT idempotency.once('policy.exclude', 'key', '{"amount": 1, "items": [{"id": 1}]}');
SELECT idempotency.once('policy.exclude', 'key', '{"amount": 2, "items": [{"id": 1}]}');
SELECT fingerprint = idempotency.fingerprint('{"amount": 1, "items": [{"id": 1}]}') AS same
FROM idempotency.keys WHERE scope = 'policy.exclude';

--
-- store_request: the request beside its fingerprint, byte for byte
--
SELECT idempotency.once('policy.store', '1 not stored', '{"b": 1, "a" : 1.0}');
SELECT store_request FROM idempotency.configure('policy.store', store_request => true);
SELECT idempotency.once('policy.store', '2 stored', '{"b": 1, "a" : 1.0}');
SELECT idempotency.once('policy.store', '3 none');
SELECT * FROM policy_test.stored('policy.store');
-- a retry without a request keeps it
BEGIN;
SELECT outcome FROM idempotency.claim('policy.store', '4 retry', 'x');
SELECT outcome FROM idempotency.fail('policy.store', '4 retry', retry_after_ms => 0);
SELECT outcome, attempt FROM idempotency.claim('policy.store', '4 retry');
SELECT idempotency.finish('policy.store', '4 retry') > now() AS finished;
COMMIT;
SELECT * FROM policy_test.stored('policy.store') WHERE key LIKE '4%';

--
-- role: who may use the scope
--
CREATE ROLE regress_idempotency_member;
CREATE ROLE regress_idempotency_payments;
CREATE ROLE regress_idempotency_app;
GRANT regress_idempotency_payments TO regress_idempotency_member;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA idempotency TO regress_idempotency_member, regress_idempotency_app, regress_idempotency_payments;
SELECT role FROM idempotency.configure('policy.role', role => 'regress_idempotency_payments');
SET ROLE regress_idempotency_member;
SELECT idempotency.once('policy.role', 'key', 'x');
SET ROLE regress_idempotency_payments;
SELECT idempotency.once('policy.role', 'key', 'x');
SET ROLE regress_idempotency_app;
SELECT idempotency.once('policy.role', 'key', 'x');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('policy.role', 'key');
-- not even that the request is another one
SELECT outcome FROM idempotency.claim('policy.role', 'key', 'y');
SELECT outcome FROM idempotency.claim_or_raise('policy.role', 'key');
SELECT outcome FROM idempotency.claim_many('policy.role', '{key}');
SELECT outcome FROM idempotency.run('policy.role', 'key', 'SELECT 1');
SELECT idempotency.finish('policy.role', 'key');
SELECT * FROM idempotency.fail('policy.role', 'key');
SELECT idempotency.release('policy.role', 'key');
SELECT idempotency.forget('policy.role', 'key', 'test');
SELECT outcome FROM idempotency.peek('policy.role', 'key');
SELECT outcome FROM idempotency.await('policy.role', 'key', '0');
-- nor whether there is one
SELECT outcome FROM idempotency.peek('policy.role', 'unknown');
-- claimed as a member, settled as none
SET ROLE regress_idempotency_member;
BEGIN;
SELECT outcome FROM idempotency.claim('policy.role', 'two');
SET LOCAL ROLE regress_idempotency_app;
SAVEPOINT s;
SELECT idempotency.finish('policy.role', 'two');
ROLLBACK TO s;
SET LOCAL ROLE regress_idempotency_member;
SELECT idempotency.finish('policy.role', 'two') > now() AS finished;
COMMIT;
-- membership ends, and so does the right, in the same session
RESET ROLE;
REVOKE regress_idempotency_payments FROM regress_idempotency_member;
SET ROLE regress_idempotency_member;
SELECT outcome FROM idempotency.claim('policy.role', 'key');
RESET ROLE;
GRANT regress_idempotency_payments TO regress_idempotency_member;
SET ROLE regress_idempotency_member;
SELECT outcome FROM idempotency.claim('policy.role', 'key');
RESET ROLE;
-- other scopes are anybody's
SET ROLE regress_idempotency_app;
SELECT idempotency.once('policy.role.other', 'key');
RESET ROLE;
-- '*' can reserve all, and a scope can open itself
BEGIN;
SELECT role FROM idempotency.configure('*', role => 'regress_idempotency_payments');
SELECT role FROM idempotency.configure('policy.role.open', role => '');
SET LOCAL ROLE regress_idempotency_app;
SELECT idempotency.once('policy.role.open', 'key');
SELECT idempotency.once('policy.role.other', 'key');
ROLLBACK;
-- a role that is gone lets nobody in, and one that has another name is gone
\set VERBOSITY default
ALTER ROLE regress_idempotency_payments RENAME TO regress_idempotency_renamed;
SELECT role FROM idempotency.policy('policy.role');
SELECT outcome FROM idempotency.claim('policy.role', 'key');
ALTER ROLE regress_idempotency_renamed RENAME TO regress_idempotency_payments;
SELECT outcome FROM idempotency.claim('policy.role', 'key');
DROP OWNED BY regress_idempotency_payments;
DROP ROLE regress_idempotency_payments;
SELECT outcome FROM idempotency.claim('policy.role', 'key');
SELECT role FROM idempotency.configure('policy.role', role => '');
SELECT outcome FROM idempotency.claim('policy.role', 'key');
DROP OWNED BY regress_idempotency_member, regress_idempotency_app;
DROP ROLE regress_idempotency_member, regress_idempotency_app;

--
-- retention: a scope that moves from one ring to another, and back, forgets
-- nothing on the way
--
SELECT retention, ring FROM idempotency.configure('policy.move', retention => '1 day');
SELECT idempotency.once('policy.move', 'day', 'x');
SELECT retention, ring FROM idempotency.configure('policy.move', retention => '30 days');
SELECT idempotency.once('policy.move', 'month', 'x');
SELECT key, outcome FROM unnest(ARRAY['day', 'month']) AS key, idempotency.claim('policy.move', key, 'x');
SELECT outcome FROM idempotency.claim('policy.move', 'day', 'y');
SELECT key, outcome FROM unnest(ARRAY['day', 'month']) AS key, idempotency.peek('policy.move', key);
SELECT retention, ring FROM idempotency.configure('policy.move', retention => '1 h');
SELECT idempotency.once('policy.move', 'short', 'x');
SELECT retention, ring FROM idempotency.configure('policy.move', retention => '1 week');
SELECT idempotency.once('policy.move', 'week', 'x');
SELECT retention, ring FROM idempotency.configure('policy.move', retention => 'infinity');
SELECT idempotency.once('policy.move', 'permanent', 'x');
SELECT retention, ring FROM idempotency.configure('policy.move', retention => '1 day');
SELECT policy_test.rings('policy.move');
SELECT key, outcome FROM unnest(ARRAY['short', 'day', 'week', 'month', 'permanent']) AS key, idempotency.claim('policy.move', key, 'x');
SELECT outcome, count(*) FROM idempotency.claim_many('policy.move', '{short,day,week,month,permanent}', '{x,x,x,x,x}') GROUP BY outcome;
SELECT key, idempotency.forget('policy.move', key, 'test') FROM unnest(ARRAY['short', 'day', 'week', 'month', 'permanent']) AS key;
SELECT count(*) FROM idempotency.keys WHERE scope = 'policy.move';
-- a retry that was left in another ring
SELECT retention FROM idempotency.configure('policy.move', retention => '1 week');
BEGIN;
SELECT outcome FROM idempotency.claim('policy.move', 'retry', 'x');
SELECT outcome FROM idempotency.fail('policy.move', 'retry', 'e', retry_after_ms => 0);
COMMIT;
SELECT retention FROM idempotency.configure('policy.move', retention => '1 h');
BEGIN;
SELECT outcome, attempt FROM idempotency.claim('policy.move', 'retry', 'x');
SELECT policy_test.rings('policy.move');
SAVEPOINT s;
SELECT idempotency.release('policy.move', 'retry');
SELECT policy_test.rings('policy.move');
SELECT outcome, attempt, error FROM idempotency.peek('policy.move', 'retry');
ROLLBACK TO s;
SELECT idempotency.finish('policy.move', 'retry', 'r') > now() AS finished;
COMMIT;
SELECT outcome, attempt, response FROM idempotency.claim('policy.move', 'retry', 'x');
SELECT count(*), policy_test.rings('policy.move') FROM idempotency.keys WHERE scope = 'policy.move';
-- the change in the transaction that claims: no longer than was promised
SELECT retention FROM idempotency.configure('policy.within', retention => '1 h');
BEGIN;
SELECT outcome FROM idempotency.claim('policy.within', 'key');
SELECT retention FROM idempotency.configure('policy.within', retention => '30 days');
SELECT outcome, reason FROM idempotency.claim('policy.within', 'key');
SELECT idempotency.finish('policy.within', 'key', 'r') > now() AS finished;
COMMIT;
SELECT outcome, response FROM idempotency.claim('policy.within', 'key');
SELECT expires_at - claimed_at AS remembered, policy_test.rings(scope) FROM idempotency.keys WHERE scope = 'policy.within';
-- within a ring: less is kept from now on, and what was promised is kept
SELECT retention, ring FROM idempotency.configure('policy.shrink', retention => '59 h');
SELECT idempotency.once('policy.shrink', 'long');
SELECT retention, ring FROM idempotency.configure('policy.shrink', retention => '5 h');
SELECT idempotency.once('policy.shrink', 'long');
SELECT idempotency.once('policy.shrink', 'short');
SELECT key, expires_at - finished_at AS retention FROM idempotency.keys WHERE scope = 'policy.shrink' ORDER BY key;
-- the default's promises bind those who inherit it
SELECT idempotency.once('policy.inherit', 'key');
BEGIN;
SELECT ring FROM idempotency.configure('*', retention => '30 days');
SELECT idempotency.once('policy.inherit', 'key');
SELECT idempotency.once('policy.inherit', 'new');
SELECT ring FROM idempotency.configure('policy.inherit', retention => '1 h');
SELECT key, idempotency.once('policy.inherit', key) FROM unnest(ARRAY['key', 'new']) AS key;
SELECT policy_test.rings('policy.inherit');
ROLLBACK;
SELECT ring FROM idempotency.policy('policy.inherit');
SELECT idempotency.once('policy.inherit', 'key');
-- the longest lease counts too, as rows are remembered from its end on; also the
-- default's, for a scope that has a retention of its own
SELECT retention, max_lease, ring FROM idempotency.configure('policy.lease', retention => '3 h');
SELECT outcome FROM idempotency.claim('policy.lease', 'running', lease => '1 h');
SELECT idempotency.once('policy.lease', 'once');
SELECT policy_test.rings('policy.lease');
BEGIN;
SELECT max_lease, ring FROM idempotency.configure('policy.lease', max_lease => '1 h 1 us');
ROLLBACK;
BEGIN;
SELECT ring FROM idempotency.configure('*', max_lease => '4 days');
SELECT retention, max_lease, ring FROM idempotency.policy('policy.lease');
SELECT outcome, attempt FROM idempotency.claim('policy.lease', 'running');
SELECT idempotency.once('policy.lease', 'once');
SELECT idempotency.once('policy.lease', 'twice');
SELECT outcome, lease_until - claimed_at AS lease FROM idempotency.claim('policy.lease', 'longest', lease => '4 days');
SELECT policy_test.rings('policy.lease');
SELECT key, idempotency.finish('policy.lease', key, 'r', fence) > now() AS finished FROM idempotency.keys WHERE scope = 'policy.lease' AND state = 'running' ORDER BY key;
SELECT policy_test.rings('policy.lease');
SELECT max_lease FROM idempotency.configure('*', max_lease => '1 ms');
SELECT retention, max_lease, ring FROM idempotency.policy('policy.lease');
SELECT key, outcome FROM idempotency.claim_many('policy.lease', '{running,once,twice,longest}');
ROLLBACK;
SELECT key, outcome FROM idempotency.claim_many('policy.lease', '{running,once}');
-- infinite retention with a lease
SELECT retention, max_lease, ring FROM idempotency.configure('policy.lease', retention => 'infinity', max_lease => '4 days');
SELECT retention, max_lease, ring FROM idempotency.configure('policy.lease', retention => '60 days');
SELECT key, outcome FROM idempotency.claim_many('policy.lease', '{running,once}');
-- one that is running when its policy changes goes on under the new one
SELECT fence FROM idempotency.claim('policy.lease.running', 'key', lease => '1 h', state => 'ssssss') \gset
SELECT max_lease, max_state_bytes, ring FROM idempotency.configure('policy.lease.running', max_lease => '1 min', max_state_bytes => 5, retention => '1 h');
SELECT idempotency.assert_fence('policy.lease.running', 'key', :fence), idempotency.checkpoint('policy.lease.running', 'key', :fence, 'charged');
\set VERBOSITY sqlstate
SELECT idempotency.checkpoint('policy.lease.running', 'key', :fence, 'charged', 'ssssss');
SELECT idempotency.heartbeat('policy.lease.running', 'key', :fence, '61 s');
\set VERBOSITY default
SELECT idempotency.heartbeat('policy.lease.running', 'key', :fence, '60 s') > now() AS extended;
SELECT expires_at - lease_until AS retention, policy_test.rings(scope) FROM idempotency.keys WHERE scope = 'policy.lease.running';
SELECT idempotency.finish('policy.lease.running', 'key', 'r', :fence) > now() AS finished;
SELECT expires_at - finished_at AS retention FROM idempotency.keys WHERE scope = 'policy.lease.running';

SET client_min_messages = warning;
DROP SCHEMA policy_test CASCADE;
