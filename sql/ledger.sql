--
-- What goes into the ledger: every decision, by whom it is made, and in which
-- transaction.  (How it is sealed and proved: test/t.  Two sessions:
-- test/specs/ledger.spec.)
--
-- Convention: each section has a scope of its own.  Numbers of entries,
-- incarnations, fences and times are never printed.
--
\pset null '(null)'
SET client_min_messages = warning;
CREATE SCHEMA ledger_test;
-- the entries of a scope in their order; "contents" names what there is of
-- request and response.  Aborted attempts are entered by the worker, if there
-- is one.
CREATE FUNCTION ledger_test.entries(wanted text)
RETURNS TABLE (key text, decision text, event_no int, attempt int, fenced bool, contents text, detail text) LANGUAGE sql AS $$
SELECT key, decision, event_no, attempt, fence IS NOT NULL,
       concat_ws(' ', CASE WHEN request_digest IS NOT NULL THEN 'request' END, CASE WHEN response_digest IS NOT NULL THEN 'response' END,
                 CASE WHEN request_commitment IS NOT NULL THEN 'salted-request' END, CASE WHEN response_commitment IS NOT NULL THEN 'salted-response' END), detail
FROM idempotency.ledger_entry
WHERE scope = wanted AND decision <> 'aborted'
ORDER BY seq
$$;
-- the same in a line for each key
CREATE FUNCTION ledger_test.history(wanted text) RETURNS TABLE (key text, history text) LANGUAGE sql AS $$
SELECT key, string_agg(concat_ws(' ', decision, event_no), ', ' ORDER BY seq)
FROM idempotency.ledger_entry
WHERE scope = wanted AND decision <> 'aborted'
GROUP BY key
ORDER BY key
$$;
-- a key's row as it is stored
CREATE FUNCTION ledger_test.stored(wanted_scope text, wanted_key text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    segment text;
    result jsonb;
BEGIN
    SELECT k.segment INTO STRICT segment FROM idempotency.keys AS k WHERE k.scope = wanted_scope AND k.key = wanted_key;
    EXECUTE format('SELECT to_jsonb(s) FROM idempotency.%I AS s WHERE scope = $1 AND key = $2', segment) INTO STRICT result USING wanted_scope, wanted_key;
    RETURN result;
END $$;

--
-- A transactional claim: one entry, when it is settled
--
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.transaction', 'finished', '{"amount": 1}');
SELECT idempotency.finish('ledger.transaction', 'finished', 'résponse') > now() AS finished;
SELECT count(*) AS before_commit FROM idempotency.ledger_entry WHERE scope = 'ledger.transaction';
COMMIT;
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.transaction', 'failed', 'x');
SELECT outcome FROM idempotency.fail('ledger.transaction', 'failed', 'e', retryable => false);
SELECT outcome FROM idempotency.claim('ledger.transaction', 'retried', 'x');
SELECT outcome FROM idempotency.fail('ledger.transaction', 'retried', 'e', retry_after_ms => 0);
SELECT outcome FROM idempotency.claim('ledger.transaction', 'released', 'x');
SELECT idempotency.release('ledger.transaction', 'released');
COMMIT;
-- the second attempt; given up, it leaves the first one's row; then all used up
SELECT max_attempts FROM idempotency.configure('ledger.transaction', max_attempts => 2);
BEGIN;
SELECT attempt FROM idempotency.claim('ledger.transaction', 'retried', 'x');
SELECT idempotency.release('ledger.transaction', 'retried');
COMMIT;
BEGIN;
SELECT attempt FROM idempotency.claim('ledger.transaction', 'retried', 'x');
SELECT outcome FROM idempotency.fail('ledger.transaction', 'retried', 'e');
COMMIT;
-- failures that aren't remembered are recorded
SELECT store_failures FROM idempotency.configure('ledger.transaction', store_failures => false);
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.transaction', 'unstored');
SELECT outcome FROM idempotency.fail('ledger.transaction', 'unstored', 'e', retryable => false);
SELECT outcome FROM idempotency.claim('ledger.transaction', 'unstored');
SELECT idempotency.finish('ledger.transaction', 'unstored') > now() AS finished;
COMMIT;
-- in one transaction, everything
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.transaction', 'all');
SELECT idempotency.release('ledger.transaction', 'all');
SELECT outcome FROM idempotency.claim('ledger.transaction', 'all');
SELECT outcome FROM idempotency.fail('ledger.transaction', 'all', 'e', retry_after_ms => 0);
SELECT outcome FROM idempotency.claim('ledger.transaction', 'all');
SELECT idempotency.release('ledger.transaction', 'all');
SELECT outcome FROM idempotency.claim('ledger.transaction', 'all');
SELECT idempotency.finish('ledger.transaction', 'all', 'r') > now() AS finished;
COMMIT;
-- what is answered without a change, and what is refused at commit, is no entry
SELECT outcome FROM idempotency.claim('ledger.transaction', 'finished', '{"amount": 1}');
SELECT outcome FROM idempotency.claim('ledger.transaction', 'retried', 'x');
\set VERBOSITY sqlstate
SELECT outcome FROM idempotency.claim('ledger.transaction', 'unsettled');
\set VERBOSITY default
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.transaction', 'rolled back');
SELECT idempotency.finish('ledger.transaction', 'rolled back') > now() AS finished;
ROLLBACK;
SELECT key, decision, event_no, attempt, fenced, contents FROM ledger_test.entries('ledger.transaction') WHERE key IS NOT NULL;
-- what an entry says is what the row says
SELECT e.id = (s->>'id')::uuid AS id, e.claimed_at = (s->>'claimed_at')::timestamptz AS claimed_at, e.decided_at = (s->>'finished_at')::timestamptz AS decided_at,
       e.event_no = (s->>'event_no')::int AS event_no, e.request_digest = idempotency.fingerprint('{"amount":1.0}') AS request, e.request_digest = (s->>'fingerprint')::bytea AS fingerprint,
       e.response_digest = sha256(convert_to('résponse', 'UTF8')) AS response, e.principal, e.version
FROM idempotency.ledger_entry AS e, ledger_test.stored('ledger.transaction', 'finished') AS s WHERE e.scope = 'ledger.transaction' AND e.key = 'finished';
SELECT e.response_digest = sha256('e') AS error FROM idempotency.ledger_entry AS e WHERE e.scope = 'ledger.transaction' AND e.key = 'failed';
-- a principal's key is another one's
SELECT idempotency.once('ledger.principal', 'key', principal => p) FROM unnest('{"",p}'::text[]) AS p;
SELECT principal, key, decision, event_no FROM idempotency.ledger_entry WHERE scope = 'ledger.principal' ORDER BY seq;

--
-- A leased claim: an entry for each step
--
SELECT fence FROM idempotency.claim('ledger.lease', 'finished', '{"amount": 1}', lease => '30 min', owner => 'me') \gset
-- whoever asks again, extends or asserts changes nothing
SELECT outcome FROM idempotency.claim('ledger.lease', 'finished', '{"amount": 1}', lease => '30 min', owner => 'me');
SELECT outcome FROM idempotency.claim('ledger.lease', 'finished', '{"amount": 1}');
SELECT idempotency.heartbeat('ledger.lease', 'finished', :fence, '30 min') > now() AS extended, idempotency.assert_fence('ledger.lease', 'finished', :fence);
SELECT idempotency.checkpoint('ledger.lease', 'finished', :fence, 'char"ged', 'state');
SELECT idempotency.finish('ledger.lease', 'finished', 'r', :fence) > now() AS finished;
-- the same again is answered
SELECT idempotency.finish('ledger.lease', 'finished', 'r', :fence) > now() AS finished;
-- retried, released after that, taken over, failed
SELECT fence FROM idempotency.claim('ledger.lease', 'retried', lease => '30 min') \gset
SELECT outcome FROM idempotency.fail('ledger.lease', 'retried', 'e', fence => :fence, retry_after_ms => 0);
SELECT fence FROM idempotency.claim('ledger.lease', 'retried', lease => '30 min') \gset
SELECT idempotency.release('ledger.lease', 'retried', :fence);
SELECT outcome FROM idempotency.claim('ledger.lease', 'retried', lease => '1 ms');
SELECT pg_sleep(0.002);
SELECT fence FROM idempotency.claim('ledger.lease', 'retried', lease => '30 min') \gset
SELECT outcome FROM idempotency.fail('ledger.lease', 'retried', 'e', retryable => false, fence => :fence);
-- released without an attempt before, and anew
SELECT fence FROM idempotency.claim('ledger.lease', 'released', lease => '30 min') \gset
SELECT idempotency.release('ledger.lease', 'released', :fence);
SELECT idempotency.release('ledger.lease', 'released', :fence);
SELECT outcome FROM idempotency.claim('ledger.lease', 'released', lease => '30 min');
-- taken over by take_abandoned(), by a transaction, by the gate
SELECT k, outcome FROM unnest('{abandoned,transaction,gate}'::text[]) AS k, idempotency.claim('ledger.lease', k, lease => '1 ms');
SELECT pg_sleep(0.002);
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.lease', 'transaction');
SELECT idempotency.finish('ledger.lease', 'transaction', 'r') > now() AS finished;
COMMIT;
SELECT idempotency.once('ledger.lease', 'gate');
SELECT key FROM idempotency.take_abandoned('ledger.lease', lease => '30 min');
-- claim, checkpoint and finish in one transaction are three decisions
BEGIN;
SELECT idempotency.checkpoint('ledger.lease', 'at once', fence, 'p'), idempotency.finish('ledger.lease', 'at once', 'r', fence) > now() AS finished FROM idempotency.claim('ledger.lease', 'at once', lease => '30 min');
COMMIT;
-- used up; and a failure that isn't remembered
SELECT max_attempts FROM idempotency.configure('ledger.lease', max_attempts => 1, store_failures => false);
SELECT f.outcome FROM idempotency.claim('ledger.lease', 'exhausted', lease => '30 min') AS c, idempotency.fail('ledger.lease', 'exhausted', 'e', fence => c.fence) AS f;
SELECT f.outcome FROM idempotency.claim('ledger.lease', 'unstored', lease => '30 min') AS c, idempotency.fail('ledger.lease', 'unstored', 'e', false, c.fence) AS f;
-- somebody else's, refused
\set VERBOSITY sqlstate
SELECT idempotency.finish('ledger.lease', 'abandoned', 'r', 1);
\set VERBOSITY default
SELECT * FROM ledger_test.entries('ledger.lease') WHERE key IS NOT NULL;
-- the fence is the lease's
SELECT count(DISTINCT fence) AS fences, min(fence) = :fence AS same FROM idempotency.ledger_entry WHERE scope = 'ledger.lease' AND key = 'released';
SELECT decision, fence = min(fence) OVER () AS the_first, response_digest = sha256('r') AS response FROM idempotency.ledger_entry WHERE scope = 'ledger.lease' AND key = 'finished' ORDER BY seq;

--
-- Operators: who settles in the holder's place, or makes forget, says why
--
SELECT k, outcome FROM unnest('{succeeded,failed,retry}'::text[]) AS k, idempotency.claim('ledger.operator', k, 'x', lease => '1 ms');
SELECT pg_sleep(0.002);
SELECT idempotency.resolve('ledger.operator', o, o, 'r', 'the "bank" says so') FROM unnest('{succeeded,failed,retry}'::text[]) AS o;
SELECT idempotency.forget('ledger.operator', k, 'a test') FROM unnest('{succeeded,retry,unknown}'::text[]) AS k;
SELECT idempotency.once('ledger.operator', 'succeeded', 'y');
-- one's own, in the transaction that has settled it
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.operator', 'own');
SELECT idempotency.finish('ledger.operator', 'own') > now() AS finished, idempotency.forget('ledger.operator', 'own', 'a test');
SELECT outcome FROM idempotency.claim('ledger.operator', 'own');
SELECT idempotency.finish('ledger.operator', 'own') > now() AS finished;
COMMIT;
SELECT * FROM ledger_test.entries('ledger.operator');

--
-- Refusals: by the row that refuses, with the request that was refused
--
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.refused', 'settled', 'x');
SELECT idempotency.finish('ledger.refused', 'settled', 'r') > now() AS finished;
COMMIT;
SELECT outcome FROM idempotency.claim('ledger.refused', 'leased', 'x', lease => '30 min');
SELECT k, outcome FROM unnest('{settled,leased}'::text[]) AS k, idempotency.claim('ledger.refused', k, 'y', lease => '30 min');
SELECT outcome FROM idempotency.claim_many('ledger.refused', '{settled}', '{z}');
SELECT outcome FROM idempotency.claim('ledger.refused', 'older', 'x', first_sent => now() - interval '2 days');
SELECT * FROM ledger_test.entries('ledger.refused');
SELECT key, decision, request_digest = idempotency.fingerprint('x') AS x, claimed_at IS NOT NULL AS claimed FROM idempotency.ledger_entry WHERE scope = 'ledger.refused' ORDER BY seq;
-- rolled back, it is not recorded; if there is a worker, by that
SELECT idempotency.once('ledger.raised', 'key', 'x');
\set VERBOSITY sqlstate
SELECT idempotency.once('ledger.raised', 'key', 'y');
\set VERBOSITY default
SELECT idempotency.preloaded() OR count(*) = 1 AS rolled_back FROM ledger_test.entries('ledger.raised');

--
-- Whatever settles by itself: once(), run(), dedup(); one entry for each
--
SELECT idempotency.once('ledger.gate', 'once', 'x') FROM generate_series(1, 3);
SELECT outcome, response FROM idempotency.run('ledger.gate', 'run', 'SELECT $1->>''a'' AS a', '{"a": 1}', 'x');
SELECT outcome FROM idempotency.run('ledger.gate', 'run', 'SELECT $1->>''a'' AS a', '{"a": 1}', 'x');
CREATE TABLE ledger_test.event (id text);
CREATE TRIGGER dedup BEFORE INSERT ON ledger_test.event FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('ledger.gate', 'id');
INSERT INTO ledger_test.event VALUES ('a'), ('b'), ('a'), ('once') RETURNING id;
-- at the end of the transaction
CREATE FUNCTION ledger_test.late() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM idempotency.once('ledger.gate', 'late ' || NEW.id); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON ledger_test.event DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_test.late();
INSERT INTO ledger_test.event VALUES ('c');
DROP TRIGGER late ON ledger_test.event;
BEGIN;
SELECT key, outcome FROM idempotency.claim_many('ledger.gate', '{many 1,many 2,many 1,once}');
SELECT idempotency.finish('ledger.gate', k, 'r') > now() AS finished FROM unnest('{many 2,many 1}'::text[]) AS k;
COMMIT;
SELECT key, outcome FROM idempotency.claim_many('ledger.gate', '{lease 1,lease 2}', lease => '30 min');
SELECT * FROM ledger_test.entries('ledger.gate');

--
-- unfinished => 'succeed': commit is the finish, unless one is called
--
SELECT unfinished FROM idempotency.configure('ledger.succeed', unfinished => 'succeed');
SELECT outcome FROM idempotency.claim('ledger.succeed', 'committed', 'x');
BEGIN;
SELECT k, outcome FROM unnest('{finished,failed,released,undone,retried}'::text[]) AS k, idempotency.claim('ledger.succeed', k, 'x');
SELECT idempotency.finish('ledger.succeed', 'finished', 'r') > now() AS finished;
SELECT outcome FROM idempotency.fail('ledger.succeed', 'failed', 'e', retryable => false);
SELECT idempotency.release('ledger.succeed', 'released');
-- the settlement is undone, and the claim stands again
SAVEPOINT s;
SELECT idempotency.finish('ledger.succeed', 'undone', 'r') > now() AS finished;
ROLLBACK TO s;
SELECT outcome FROM idempotency.fail('ledger.succeed', 'retried', 'e', retry_after_ms => 0);
SELECT attempt FROM idempotency.claim('ledger.succeed', 'retried', 'x');
COMMIT;
SELECT * FROM ledger_test.entries('ledger.succeed') WHERE key IS NOT NULL;

--
-- Policies, whatever they say of the ledger, and incarnations
--
SELECT detail::jsonb->'policy'->>'unfinished' AS unfinished, decision, key, event_no FROM idempotency.ledger_entry WHERE scope = 'ledger.succeed' AND decision = 'configured';
SELECT audit FROM idempotency.configure('ledger.configured', audit => 'off');
SELECT max_attempts FROM idempotency.configure('ledger.configured', max_attempts => 3);
BEGIN;
SELECT audit FROM idempotency.configure('ledger.configured', audit => 'everything');
ROLLBACK;
SELECT max_attempts FROM idempotency.configure('ledger.configured');
SELECT audit FROM idempotency.configure('ledger.configured', audit => 'decisions');
SELECT decision, detail::jsonb->'policy'->>'scope' AS scope, detail::jsonb->'policy'->>'audit' AS audit, detail::jsonb->'policy'->>'max_attempts' AS max_attempts
FROM ledger_test.entries('ledger.configured');
BEGIN;
SELECT audit FROM idempotency.configure('*', audit => 'off');
SELECT idempotency.once('ledger.configured', 'default');
SELECT idempotency.once('ledger.inherits', 'default');
SELECT idempotency.bump_incarnation('a "test"') > 0 AS begun;
SELECT audit FROM idempotency.configure('*', audit => 'decisions');
COMMIT;
SELECT key, decision FROM ledger_test.entries('ledger.inherits');
-- an incarnation comes first, and names the one before
SELECT e.decision, e.scope, e.key, e.detail::jsonb->>'reason' AS reason, e.detail::jsonb->>'origin' = i.origin AS origin, e.incarnation = i.number AS number,
       i.origin LIKE 'idempotency/%/' || i.number AS system
FROM (SELECT * FROM idempotency.incarnation ORDER BY number DESC LIMIT 1) AS i
JOIN idempotency.ledger_entry AS e ON e.incarnation = i.number
ORDER BY seq;

--
-- audit => 'off': no entry, and events aren't numbered
--
SELECT audit FROM idempotency.configure('ledger.off', audit => 'off');
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.off', 'key', 'x');
SELECT outcome FROM idempotency.fail('ledger.off', 'key', 'e', retry_after_ms => 0);
COMMIT;
SELECT outcome FROM idempotency.claim('ledger.off', 'key', 'mismatch');
SELECT fence FROM idempotency.claim('ledger.off', 'key', 'x', lease => '30 min') \gset
SELECT idempotency.checkpoint('ledger.off', 'key', :fence, 'p'), ledger_test.stored('ledger.off', 'key')->'event_no' AS event_no;
SELECT idempotency.once('ledger.off', 'once'), idempotency.forget('ledger.off', 'once', 'a test');
SELECT decision, key FROM ledger_test.entries('ledger.off');
-- switched on, events go on being numbered from where they are
SELECT audit FROM idempotency.configure('ledger.off', audit => 'decisions');
SELECT idempotency.checkpoint('ledger.off', 'key', :fence, 'p'), ledger_test.stored('ledger.off', 'key')->'event_no' AS event_no;
SELECT audit FROM idempotency.configure('ledger.off', audit => 'off');
SELECT idempotency.checkpoint('ledger.off', 'key', :fence, 'p'), ledger_test.stored('ledger.off', 'key')->'event_no' AS event_no;
SELECT audit FROM idempotency.configure('ledger.off', audit => 'decisions');
SELECT idempotency.finish('ledger.off', 'key', 'r', :fence) > now() AS finished;
-- a transactional claim is recorded as it was when it was claimed
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.off', 'on, off');
SELECT audit FROM idempotency.configure('ledger.off', audit => 'off');
SELECT idempotency.finish('ledger.off', 'on, off') > now() AS finished;
SELECT outcome FROM idempotency.claim('ledger.off', 'off, on');
SELECT audit FROM idempotency.configure('ledger.off', audit => 'decisions');
SELECT idempotency.finish('ledger.off', 'off, on') > now() AS finished;
COMMIT;
SELECT key, decision, event_no, detail::jsonb->'policy'->>'audit' AS audit FROM ledger_test.entries('ledger.off');
SELECT k, ledger_test.stored('ledger.off', k)->'event_no' AS event_no FROM unnest('{"on, off","off, on"}'::text[]) AS k;

--
-- audit => 'everything': replays, too.  Without shared memory they are written
-- by the transaction that replays, otherwise by the worker.
--
SELECT audit FROM idempotency.configure('ledger.everything', audit => 'everything');
SELECT idempotency.once('ledger.everything', 'once', 'x') FROM generate_series(1, 3);
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.everything', 'failed', 'x');
SELECT outcome FROM idempotency.fail('ledger.everything', 'failed', 'e', retryable => false);
COMMIT;
SELECT outcome, failed FROM idempotency.claim('ledger.everything', 'failed', 'x');
SELECT key, outcome FROM idempotency.claim_many('ledger.everything', '{once,failed}');
SELECT fence FROM idempotency.claim('ledger.everything', 'leased', lease => '30 min') \gset
SELECT idempotency.finish('ledger.everything', 'leased', 'r', :fence) > now() AS finished;
SELECT outcome FROM idempotency.claim('ledger.everything', 'leased');
-- whoever is told to wait gets no entry
SELECT outcome FROM idempotency.claim('ledger.everything', 'running', lease => '30 min');
SELECT outcome FROM idempotency.claim('ledger.everything', 'running', wait => '0');
DO $$ BEGIN
    FOR i IN 1..600 LOOP
        PERFORM idempotency.maintain();
        EXIT WHEN 6 = (SELECT count(*) FROM idempotency.ledger_entry WHERE scope = 'ledger.everything' AND decision = 'replayed');
        PERFORM pg_sleep(0.05);
        COMMIT;
    END LOOP;
END $$;
SELECT * FROM ledger_test.entries('ledger.everything') WHERE decision <> 'configured' ORDER BY key COLLATE "C", event_no, decision, contents;
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.everything', 'once');
ROLLBACK;
SELECT idempotency.preloaded() OR count(*) = 6 AS rolled_back FROM idempotency.ledger_entry WHERE scope = 'ledger.everything' AND decision = 'replayed';

--
-- audit_payloads: request and response are kept beside the entry, which has
-- nothing of them but HMAC-SHA-256 by a salt
--
CREATE FUNCTION ledger_test.hmac(salt bytea, message bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    inner_pad bytea := salt || decode(repeat('00', 64 - length(salt)), 'hex');
    outer_pad bytea := inner_pad;
BEGIN
    FOR i IN 0..63 LOOP
        outer_pad := set_byte(outer_pad, i, get_byte(inner_pad, i) # 92);
        inner_pad := set_byte(inner_pad, i, get_byte(inner_pad, i) # 54);
    END LOOP;
    RETURN sha256(outer_pad || sha256(inner_pad || message));
END $$;
SELECT audit_payloads FROM idempotency.configure('ledger.payload', audit_payloads => true);
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.payload', 'finished', '{"náme": "MARK"}');
SELECT idempotency.finish('ledger.payload', 'finished', repeat('résponse ', 10000)) > now() AS finished;
SELECT outcome FROM idempotency.claim('ledger.payload', 'failed', 'x');
SELECT outcome FROM idempotency.fail('ledger.payload', 'failed', 'error', retryable => false);
SELECT outcome FROM idempotency.claim('ledger.payload', 'empty', '');
SELECT idempotency.finish('ledger.payload', 'empty', '') > now() AS finished;
SELECT outcome FROM idempotency.claim('ledger.payload', 'none');
SELECT idempotency.finish('ledger.payload', 'none') > now() AS finished;
SELECT outcome FROM idempotency.claim('ledger.payload', 'rolled back', 'x');
ROLLBACK;
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.payload', 'finished', '{"náme": "MARK"}');
SELECT idempotency.finish('ledger.payload', 'finished', repeat('résponse ', 10000)) > now() AS finished;
SELECT outcome FROM idempotency.claim('ledger.payload', 'failed', 'x');
SELECT outcome FROM idempotency.fail('ledger.payload', 'failed', 'error', retryable => false);
SELECT outcome FROM idempotency.claim('ledger.payload', 'empty', '');
SELECT idempotency.finish('ledger.payload', 'empty', '') > now() AS finished;
SELECT outcome FROM idempotency.claim('ledger.payload', 'none');
SELECT idempotency.finish('ledger.payload', 'none') > now() AS finished;
COMMIT;
-- of a lease, the request goes with the claim, and the response with the finish
SELECT fence FROM idempotency.claim('ledger.payload', 'leased', 'x', lease => '30 min') \gset
SELECT idempotency.checkpoint('ledger.payload', 'leased', :fence, 'p', 'state');
SELECT idempotency.finish('ledger.payload', 'leased', 'r', :fence) > now() AS finished;
SELECT outcome FROM idempotency.claim('ledger.payload', 'leased', 'refused');
SELECT key, decision, contents FROM ledger_test.entries('ledger.payload') WHERE key IS NOT NULL;
SELECT e.key, e.decision, p.part, left(p.payload, 20) AS payload, length(p.payload) AS length, length(p.salt) AS salt,
       ledger_test.hmac(p.salt, convert_to(p.payload, 'UTF8')) = CASE p.part WHEN 'q' THEN e.request_commitment ELSE e.response_commitment END AS commitment
FROM idempotency.ledger_entry AS e JOIN idempotency.ledger_payload AS p USING (seq)
WHERE e.scope = 'ledger.payload' ORDER BY seq, part;
SELECT count(DISTINCT salt) = count(*) AS of_its_own FROM idempotency.ledger_payload;
-- nothing belongs to nobody
SELECT p.part, p.payload FROM idempotency.ledger_payload AS p LEFT JOIN idempotency.ledger_entry AS e USING (seq) WHERE e.seq IS NULL;
-- what is forgotten is not stored once more
SELECT idempotency.forget('ledger.payload', 'failed', 'a test');
SELECT key, decision, event_no, contents FROM ledger_test.entries('ledger.payload') WHERE decision = 'forgotten';
-- erased: the entries stay as they are, and one says so
CREATE TABLE ledger_test.before AS SELECT * FROM idempotency.ledger_entry WHERE scope = 'ledger.payload';
SELECT idempotency.erase('ledger.payload', 'finished', 'a "test"');
SELECT outcome, response, reason FROM idempotency.claim('ledger.payload', 'finished', '{"náme": "MARK"}');
SELECT key, decision, event_no, contents, detail FROM ledger_test.entries('ledger.payload') WHERE decision = 'erased';
SELECT count(*) AS changed FROM (TABLE ledger_test.before EXCEPT TABLE idempotency.ledger_entry) AS gone;
SELECT count(*) AS left_behind FROM idempotency.ledger_payload JOIN idempotency.ledger_entry USING (seq) WHERE scope = 'ledger.payload' AND key = 'finished';

--
-- Who, from where, in which trace
--
CREATE ROLE regress_idempotency_login;
CREATE ROLE regress_idempotency_role;
GRANT regress_idempotency_role TO regress_idempotency_login;
GRANT USAGE ON SCHEMA idempotency TO regress_idempotency_role, regress_idempotency_login;
GRANT EXECUTE ON FUNCTION idempotency.once, idempotency.claim, idempotency.finish TO regress_idempotency_role, regress_idempotency_login;
SET application_name = 'ledger test';
SET SESSION AUTHORIZATION regress_idempotency_login;
SELECT idempotency.once('ledger.who', 'login');
SET ROLE regress_idempotency_role;
SELECT idempotency.once('ledger.who', 'role');
-- as it is when the decision is made, not when it is committed
BEGIN;
SELECT idempotency.once('ledger.who', 'role at first');
RESET ROLE;
SET LOCAL application_name = 'then another';
SELECT idempotency.once('ledger.who', 'login then');
COMMIT;
-- whoever finishes makes it
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.who', 'two');
SET LOCAL ROLE regress_idempotency_role;
SELECT idempotency.finish('ledger.who', 'two') > now() AS finished;
COMMIT;
SET application_name = 'another';
SELECT idempotency.once('ledger.who', 'application');
SET application_name = '';
SELECT idempotency.once('ledger.who', 'no application');
RESET SESSION AUTHORIZATION;
-- with another's rights
CREATE FUNCTION ledger_test.as_owner() RETURNS bool LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$ SELECT idempotency.once('ledger.who', 'definer') $$;
ALTER FUNCTION ledger_test.as_owner OWNER TO regress_idempotency_role;
GRANT USAGE ON SCHEMA ledger_test TO regress_idempotency_login, regress_idempotency_role;
SET SESSION AUTHORIZATION regress_idempotency_login;
SELECT ledger_test.as_owner();
RESET SESSION AUTHORIZATION;
SELECT key, session_role, role, application FROM idempotency.ledger_entry WHERE scope = 'ledger.who' ORDER BY seq;
-- a role that is gone at the end has no name
BEGIN;
CREATE ROLE regress_idempotency_gone;
GRANT USAGE ON SCHEMA idempotency TO regress_idempotency_gone;
GRANT EXECUTE ON FUNCTION idempotency.once TO regress_idempotency_gone;
SET LOCAL ROLE regress_idempotency_gone;
SELECT idempotency.once('ledger.who', 'gone');
RESET ROLE;
DROP OWNED BY regress_idempotency_gone;
DROP ROLE regress_idempotency_gone;
COMMIT;
SELECT key, session_role = session_user AS session_role, role FROM idempotency.ledger_entry WHERE scope = 'ledger.who' AND key = 'gone';
DROP OWNED BY regress_idempotency_login, regress_idempotency_role;
DROP ROLE regress_idempotency_login, regress_idempotency_role;

-- the trace, as it is when the decision is made
BEGIN;
SET LOCAL idempotency.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
SELECT idempotency.once('ledger.trace', 'first');
SET LOCAL idempotency.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00';
SELECT idempotency.once('ledger.trace', 'second');
SAVEPOINT s;
SET LOCAL idempotency.traceparent = '';
ROLLBACK TO s;
SELECT idempotency.once('ledger.trace', 'after a savepoint');
COMMIT;
SELECT idempotency.once('ledger.trace', 'after the transaction');
-- of a claim and its finish, the finish's
BEGIN;
SET LOCAL idempotency.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
SELECT outcome FROM idempotency.claim('ledger.trace', 'two');
SET LOCAL idempotency.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00';
SELECT idempotency.finish('ledger.trace', 'two') > now() AS finished;
COMMIT;
-- what can't be parsed, or is of a version that can't be, is ignored
SELECT n, idempotency.once('ledger.trace', concat('value ', lpad(n::text, 2, '0'), left(set_config('idempotency.traceparent', value, true), 0)))
FROM (VALUES (1, '01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later'), (2, 'cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00'),
             (3, 'ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'), (4, '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later'),
             (5, '00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01'), (6, '00-00000000000000000000000000000000-b7ad6b7169203331-01'),
             (7, '00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01'), (8, '00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01'),
             (9, '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331'), (10, '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0'),
             (11, '0'), (12, '00-'), (13, 'nonsense'), (14, ' 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'), (15, '01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01later'),
             (16, '00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01')) AS v(n, value)
ORDER BY n;
RESET idempotency.traceparent;
SELECT key, trace_id FROM idempotency.ledger_entry WHERE scope = 'ledger.trace' ORDER BY seq;

--
-- Savepoints: what is rolled back is not recorded, and nothing else is missing
--
BEGIN;
SELECT idempotency.once('ledger.savepoint', '1');
SAVEPOINT a;
SELECT idempotency.once('ledger.savepoint', '2 (a)');
SAVEPOINT b;
SELECT idempotency.once('ledger.savepoint', '3 (a b)');
SAVEPOINT c;
SELECT idempotency.once('ledger.savepoint', '4 (a b c)');
ROLLBACK TO b;
SELECT idempotency.once('ledger.savepoint', '5 (a b)');
RELEASE b;
SELECT idempotency.once('ledger.savepoint', '6 (a)');
SAVEPOINT b;
SELECT idempotency.once('ledger.savepoint', '7 (a b)');
RELEASE a;
SAVEPOINT a;
SELECT idempotency.once('ledger.savepoint', '8 (a)');
SAVEPOINT b;
RELEASE b;
ROLLBACK TO a;
SELECT idempotency.once('ledger.savepoint', '9 (a)');
ROLLBACK TO a;
RELEASE a;
SELECT idempotency.once('ledger.savepoint', '10');
COMMIT;
SELECT key FROM ledger_test.entries('ledger.savepoint');
-- a settlement that is undone, and another in its place
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.savepoint', 'settled');
SAVEPOINT a;
SELECT outcome FROM idempotency.fail('ledger.savepoint', 'settled', 'e', retry_after_ms => 0);
SELECT outcome FROM idempotency.claim('ledger.savepoint', 'settled');
SELECT idempotency.finish('ledger.savepoint', 'settled', 'r') > now() AS finished;
ROLLBACK TO a;
SELECT idempotency.finish('ledger.savepoint', 'settled', 'r') > now() AS finished;
COMMIT;
-- a policy and an incarnation that are undone
BEGIN;
SELECT idempotency.once('ledger.savepoint', 'last');
SELECT count(*) AS before FROM idempotency.incarnation \gset
SAVEPOINT a;
SELECT max_attempts FROM idempotency.configure('ledger.savepoint', max_attempts => 5);
SELECT idempotency.bump_incarnation('ledger.savepoint') > 0 AS begun;
SELECT outcome FROM idempotency.claim('ledger.savepoint', 'leased', lease => '30 min');
ROLLBACK TO a;
COMMIT;
-- an exception does the same
DO $$
BEGIN
    PERFORM idempotency.once('ledger.savepoint', 'outside');
    BEGIN
        PERFORM idempotency.once('ledger.savepoint', 'inside');
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN
        PERFORM idempotency.once('ledger.savepoint', 'handler');
    END;
END $$;
SELECT key, decision, event_no FROM ledger_test.entries('ledger.savepoint') WHERE key !~ '^\d';
SELECT count(*) FROM idempotency.ledger_entry WHERE detail LIKE '%ledger.savepoint%';

--
-- A procedure that commits and rolls back
--
CREATE PROCEDURE ledger_test.work() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..6 LOOP
        PERFORM idempotency.once('ledger.procedure', i::text);
        PERFORM outcome FROM idempotency.claim('ledger.procedure', 'claimed ' || i);
        PERFORM idempotency.finish('ledger.procedure', 'claimed ' || i, 'r');
        IF i % 3 = 0 THEN
            ROLLBACK;
        ELSE
            COMMIT;
        END IF;
    END LOOP;
    PERFORM idempotency.once('ledger.procedure', 'last');
END $$;
CALL ledger_test.work();
SELECT string_agg(key, ', ') AS keys FROM ledger_test.entries('ledger.procedure');
-- each COMMIT has written its own
SELECT count(DISTINCT xmin::text) AS transactions FROM idempotency.ledger_entry WHERE scope = 'ledger.procedure';

--
-- Isolation levels
--
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT outcome FROM idempotency.claim('ledger.level', 'repeatable read', 'x');
SELECT idempotency.finish('ledger.level', 'repeatable read', 'r') > now() AS finished;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT outcome FROM idempotency.claim('ledger.level', 'serializable', 'x', lease => '30 min');
SELECT outcome FROM idempotency.claim('ledger.level', 'serializable', 'y');
SELECT count(*) FROM idempotency.ledger_entry WHERE scope = 'ledger.level';
COMMIT;
SELECT key, decision, event_no, contents FROM ledger_test.entries('ledger.level');

--
-- Nobody changes an entry, not even who may do anything
--
UPDATE idempotency.ledger_entry SET detail = 'forged';
\set VERBOSITY sqlstate
DELETE FROM idempotency.ledger_entry;
DELETE FROM idempotency.ledger_entry WHERE false;
TRUNCATE idempotency.ledger_entry;
TRUNCATE idempotency.scope_policy, idempotency.ledger_entry;
INSERT INTO idempotency.ledger_entry SELECT * FROM idempotency.ledger_entry ORDER BY seq LIMIT 1 ON CONFLICT (seq) DO UPDATE SET detail = 'forged';
UPDATE idempotency.ledger_tile SET root = '';
DELETE FROM idempotency.ledger_tile;
TRUNCATE idempotency.ledger_tile;
UPDATE idempotency.ledger_checkpoint SET root = '';
DELETE FROM idempotency.ledger_checkpoint;
TRUNCATE idempotency.ledger_checkpoint;
CREATE ROLE regress_idempotency_owner;
CREATE ROLE regress_idempotency_other;
GRANT USAGE ON SCHEMA idempotency TO regress_idempotency_owner, regress_idempotency_other;
BEGIN;
ALTER TABLE idempotency.ledger_entry OWNER TO regress_idempotency_owner;
SET LOCAL ROLE regress_idempotency_owner;
SAVEPOINT s;
UPDATE idempotency.ledger_entry SET detail = 'forged';
ROLLBACK TO s;
DELETE FROM idempotency.ledger_entry;
ROLLBACK TO s;
TRUNCATE idempotency.ledger_entry;
ROLLBACK;
-- others don't even write
SET ROLE regress_idempotency_other;
INSERT INTO idempotency.ledger_entry (seq, decided_at, incarnation, version, decision, session_role, role, application) VALUES (-1, now(), 1, 1, 'executed', '', '', '');
UPDATE idempotency.ledger_entry SET detail = 'forged';
DELETE FROM idempotency.ledger_entry;
TRUNCATE idempotency.ledger_entry;
SELECT nextval('idempotency.ledger_seq');
SELECT setval('idempotency.ledger_seq', 1);
RESET ROLE;
GRANT UPDATE, DELETE, TRUNCATE, SELECT ON idempotency.ledger_entry TO regress_idempotency_other;
SET ROLE regress_idempotency_other;
UPDATE idempotency.ledger_entry SET detail = 'forged';
DELETE FROM idempotency.ledger_entry;
TRUNCATE idempotency.ledger_entry;
RESET ROLE;
\set VERBOSITY default
DROP OWNED BY regress_idempotency_owner, regress_idempotency_other;
DROP ROLE regress_idempotency_owner, regress_idempotency_other;
SELECT count(*) AS forged FROM idempotency.ledger_entry WHERE detail = 'forged' OR seq < 0;
-- the library doesn't write to a table that isn't as it made it
BEGIN;
SELECT idempotency.once('ledger.obstacle', 'security');
ALTER TABLE idempotency.ledger_entry ENABLE ROW LEVEL SECURITY;
COMMIT;
\set VERBOSITY sqlstate
BEGIN;
SELECT idempotency.once('ledger.obstacle', 'index');
CREATE INDEX ON idempotency.ledger_entry (id);
COMMIT;
BEGIN;
SELECT idempotency.once('ledger.obstacle', 'no index');
ALTER TABLE idempotency.ledger_entry DROP CONSTRAINT ledger_entry_pkey;
COMMIT;
BEGIN;
SELECT idempotency.once('ledger.obstacle', 'column');
ALTER TABLE idempotency.ledger_entry ADD COLUMN comment text;
COMMIT;
BEGIN;
SELECT idempotency.once('ledger.obstacle', 'rule');
CREATE RULE nothing AS ON INSERT TO idempotency.ledger_entry DO INSTEAD NOTHING;
COMMIT;
BEGIN;
SELECT idempotency.once('ledger.obstacle', 'trigger');
CREATE FUNCTION ledger_test.ignore() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER ignore BEFORE INSERT ON idempotency.ledger_entry FOR EACH ROW EXECUTE FUNCTION ledger_test.ignore();
COMMIT;
BEGIN;
SELECT idempotency.once('ledger.obstacle', 'foreign key');
CREATE TABLE ledger_test.referencing (seq bigint REFERENCES idempotency.ledger_entry);
COMMIT;
BEGIN;
SELECT idempotency.once('ledger.obstacle', 'missing');
ALTER TABLE idempotency.ledger_entry RENAME TO gone;
COMMIT;
\set VERBOSITY default
SELECT key FROM ledger_test.entries('ledger.obstacle');
SELECT idempotency.once('ledger.obstacle', 'after');
SELECT key FROM ledger_test.entries('ledger.obstacle');

--
-- The session's latest sequence is the client's, not ours
--
CREATE SEQUENCE ledger_test.number START 42;
SELECT nextval('ledger_test.number');
SELECT idempotency.once('ledger.lastval', 'once');
SELECT outcome FROM idempotency.claim('ledger.lastval', 'leased', lease => '30 min');
SELECT idempotency.bump_incarnation('a test') > 0 AS begun;
SELECT lastval(), currval('ledger_test.number');
\c -
\pset null '(null)'
SET client_min_messages = warning;
SELECT outcome FROM idempotency.claim('ledger.lastval', 'first', lease => '30 min');
SELECT idempotency.once('ledger.lastval', 'then');
SELECT lastval();

--
-- Many decisions in one transaction: none is missing, none is there twice, and
-- they are in order; also where they are written before the end
--
CREATE TABLE ledger_test.bulk (id text);
CREATE TRIGGER dedup BEFORE INSERT ON ledger_test.bulk FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('ledger.bulk', 'id');
CREATE VIEW ledger_test.bulk_entries AS
SELECT count(*), count(DISTINCT key) AS keys, bool_and(decision = 'executed' AND event_no = 1) AS executed,
       bool_and(number > before) AS in_order, max(seq) - min(seq) + 1 - count(*) AS gaps
FROM (SELECT *, key::int AS number, lag(key::int, 1, 0) OVER (ORDER BY seq) AS before FROM idempotency.ledger_entry WHERE scope = 'ledger.bulk') AS e;
BEGIN;
INSERT INTO ledger_test.bulk SELECT i FROM generate_series(1, 30000) AS i;
SELECT count(*) > 0 AS written_before_the_end FROM ledger_test.bulk_entries WHERE count > 0;
COMMIT;
SELECT * FROM ledger_test.bulk_entries;
-- rolled back to a savepoint: none; what is outside of it, each
BEGIN;
INSERT INTO ledger_test.bulk SELECT i FROM generate_series(30001, 30010) AS i;
SAVEPOINT a;
INSERT INTO ledger_test.bulk SELECT i FROM generate_series(40001, 60000) AS i;
SAVEPOINT b;
INSERT INTO ledger_test.bulk SELECT i FROM generate_series(60001, 72000) AS i;
RELEASE b;
ROLLBACK TO a;
INSERT INTO ledger_test.bulk SELECT i FROM generate_series(30011, 30020) AS i;
COMMIT;
SELECT count, keys, executed, in_order, (SELECT max(key::int) FROM idempotency.ledger_entry WHERE scope = 'ledger.bulk') AS last FROM ledger_test.bulk_entries;
-- all of it
BEGIN;
INSERT INTO ledger_test.bulk SELECT i FROM generate_series(40001, 60000) AS i;
ROLLBACK;
SELECT count, keys FROM ledger_test.bulk_entries;
-- a key's events stay in order when the later ones are written before the end
BEGIN;
SELECT outcome FROM idempotency.claim('ledger.order', 'retried');
SELECT outcome FROM idempotency.fail('ledger.order', 'retried', 'e', retry_after_ms => 0);
SELECT fence FROM idempotency.claim('ledger.order', 'leased', lease => '30 min') \gset
SAVEPOINT a;
SELECT outcome FROM idempotency.claim('ledger.order', 'retried');
SELECT idempotency.finish('ledger.order', 'retried', 'r') > now() AS finished, idempotency.checkpoint('ledger.order', 'leased', :fence, 'p');
INSERT INTO ledger_test.bulk SELECT i FROM generate_series(100001, 112000) AS i;
RELEASE a;
COMMIT;
SELECT * FROM ledger_test.history('ledger.order');

--
-- Sealed by maintain(), unless the worker was quicker; nothing is left over
--
DO $$ BEGIN
    -- patience, in case autovacuum is at a table
    FOR i IN 1..600 LOOP
        PERFORM idempotency.maintain();
        EXIT WHEN NOT EXISTS (SELECT FROM idempotency.ledger WHERE NOT coalesce(sealed, false));
        COMMIT;
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
SELECT count(*) AS unsealed FROM idempotency.ledger WHERE NOT sealed AND scope LIKE 'ledger.%';
SELECT (SELECT count(*) FROM idempotency.ledger_entry) = (SELECT max(size) FROM idempotency.ledger_checkpoint) AS all_of_them;
-- a key's history, with its proofs
SELECT event_no, decision, summary, attempt, sealed FROM idempotency.explain('ledger.transaction', 'retried');
SELECT count(*), bool_and(idempotency.verify_inclusion(e.leaf_index, s.size, sha256('\x00'::bytea || idempotency.leaf_data(e.leaf_index)), idempotency.inclusion_proof(e.leaf_index, s.size), s.root)) AS proved
FROM idempotency.explain('ledger.transaction', 'retried') AS e, idempotency.ledger_status AS s;

--
-- Of all that every test has done up to here: a key's events are numbered from
-- 1 without a gap, and again from 1 where it was forgotten (in two scopes, since
-- its time was over); fences rise
--
CREATE TABLE ledger_test.event_order AS
SELECT seq, id, scope, key, decision, event_no, fence,
       lag(event_no) OVER (PARTITION BY id ORDER BY seq) AS event_before, lag(decision) OVER (PARTITION BY id ORDER BY seq) AS decision_before,
       max(fence) OVER (PARTITION BY id ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS fence_before
FROM idempotency.ledger_entry
WHERE id IS NOT NULL AND decision <> ALL ('{mismatch,expired,replayed,aborted}');
SELECT scope, key, decision, event_no, event_before FROM ledger_test.event_order WHERE event_no IS NULL OR event_no <> 1 AND event_no IS DISTINCT FROM event_before + 1 ORDER BY seq;
SELECT scope, key, decision, decision_before FROM ledger_test.event_order WHERE event_no = 1 AND event_before IS NOT NULL AND decision_before <> ALL ('{released,forgotten,failed}')
AND scope <> ALL ('{lease.expired,takeover.forget}') ORDER BY seq;
SELECT scope, key, decision FROM ledger_test.event_order WHERE fence < fence_before ORDER BY seq;
SELECT scope, key, decision FROM ledger_test.event_order WHERE decision IN ('claimed', 'takeover') AND fence <= fence_before ORDER BY seq;
SELECT count(*) > 10000 AS many, count(DISTINCT decision) AS kinds FROM ledger_test.event_order;
-- and everything is decided after it was claimed, by somebody
SELECT seq, decision FROM idempotency.ledger_entry WHERE claimed_at > decided_at OR session_role = '' AND decision <> ALL ('{breaker,lost}') ORDER BY seq;

DROP SCHEMA ledger_test CASCADE;
