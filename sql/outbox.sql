--
-- The producers' side of events: emit(), relays, and what operators can do.
-- (Two sessions: test/specs/outbox.spec.  Crashes: test/t.)
--
-- Convention: positions count from 1 in this database as long as nobody else
-- emits, so they are printed; fences, times and new ids never are.
--
\pset null '(null)'
SET client_min_messages = warning;
CREATE SCHEMA outbox_test;
CREATE TABLE outbox_test.fence (relay text, fence bigint);
CREATE FUNCTION outbox_test.read(relay text, stream text DEFAULT NULL, max int DEFAULT 100, lease interval DEFAULT '1 hour')
RETURNS TABLE (event_id text, "position" bigint, stream_ text, type text, key text, payload text, headers jsonb) LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT * FROM idempotency.outbox_read(relay, stream, max, lease) LOOP
        IF NOT EXISTS (SELECT FROM outbox_test.fence AS f WHERE f.fence = r.fence) THEN
            INSERT INTO outbox_test.fence VALUES (relay, r.fence);
        END IF;
        event_id := r.event_id; "position" := r.position; stream_ := r.stream; type := r.type;
        key := r.key; payload := r.payload; headers := r.headers;
        RETURN NEXT;
    END LOOP;
END $$;
-- acknowledge by the nth last fence that the relay was given
CREATE FUNCTION outbox_test.ack(relay text, "position" bigint, release boolean DEFAULT false, back int DEFAULT 0) RETURNS boolean LANGUAGE sql AS $$
SELECT idempotency.outbox_ack(relay, position, (SELECT fence FROM outbox_test.fence AS f WHERE f.relay = ack.relay ORDER BY fence DESC OFFSET back LIMIT 1), release)
$$;
CREATE FUNCTION outbox_test.state(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RETURN '00000';
EXCEPTION WHEN others THEN
    RETURN sqlstate || ': ' || sqlerrm;
END $$;

--
-- An event exists if and only if the transaction commits
--
SELECT idempotency.emit('orders', 'created', '{"n": 1}', key => 'k1', event_id => 'e1', headers => '{"h": [1]}');
BEGIN;
SELECT idempotency.emit('orders', 'created', 'rolled back', event_id => 'never');
ROLLBACK;
BEGIN;
SELECT idempotency.emit('orders', 'paid', '2', key => 'k1', event_id => 'e2');
SAVEPOINT a;
SELECT idempotency.emit('orders', 'paid', 'rolled back', event_id => 'e2.1');
SAVEPOINT b;
SELECT idempotency.emit('orders', 'paid', 'rolled back', event_id => 'e2.2');
RELEASE b;
ROLLBACK TO a;
SELECT idempotency.emit('orders', 'paid', '3', event_id => 'e3');
RELEASE a;
-- a tombstone, and a payload that is not JSON
SELECT idempotency.emit('users', 'deleted', NULL, key => 'u1', event_id => 'e4');
SELECT idempotency.emit('users', 'greeted', repeat('ä', 10), event_id => 'e5', headers => NULL);
COMMIT;
SELECT position, id, aggregatetype, aggregateid, type, payload, headers FROM idempotency.outbox ORDER BY position;
-- large payloads come back as they were
SELECT idempotency.emit('large', 'x', string_agg(md5(i::text), ''), event_id => 'large') FROM generate_series(1, 30000) AS i;
SELECT md5(payload) = (SELECT md5(string_agg(md5(i::text), '')) FROM generate_series(1, 30000) AS i) AS same FROM outbox_test.read('large', 'large');
SELECT outbox_test.ack('large', 6);

--
-- An id is emitted once
--
SELECT idempotency.emit('orders', 'created', 'again', event_id => 'e1');
BEGIN;
SELECT idempotency.emit('orders', 'created', 'first', event_id => 'twice');
SELECT idempotency.emit('orders', 'created', 'second', event_id => 'twice');
SELECT idempotency.emit('orders', 'created', 'again', event_id => 'e1');
COMMIT;
SELECT id, payload FROM idempotency.outbox WHERE id IN ('e1', 'twice') ORDER BY position;
-- whose first emission was rolled back is emitted
BEGIN;
SAVEPOINT a;
SELECT idempotency.emit('orders', 'created', 'first', event_id => 'thrice');
ROLLBACK TO a;
SELECT idempotency.emit('orders', 'created', 'second', event_id => 'thrice');
COMMIT;
SELECT id, payload FROM idempotency.outbox WHERE id = 'thrice';

--
-- Ids that are not given: of the claim, or new
--
CREATE TABLE outbox_test.id (attempt int, n serial, id text);
BEGIN;
SELECT outcome FROM idempotency.claim('outbox', 'k1');
INSERT INTO outbox_test.id (attempt, id) VALUES (1, idempotency.emit('orders', 'a', '1')), (1, idempotency.emit('orders', 'a', '2'));
-- what happens outside is not rolled back
SELECT id AS first_id FROM outbox_test.id ORDER BY n LIMIT 1 \gset
SELECT id AS second_id FROM outbox_test.id ORDER BY n OFFSET 1 LIMIT 1 \gset
ROLLBACK;
BEGIN;
SELECT outcome FROM idempotency.claim('outbox', 'k1');
SELECT idempotency.emit('orders', 'a', '1') = :'first_id' AS same;
SAVEPOINT a;
SELECT idempotency.emit('orders', 'a', '2') = :'second_id' AS same;
ROLLBACK TO a;
SELECT idempotency.emit('orders', 'a', '2') = :'second_id' AS same;
SELECT idempotency.finish('outbox', 'k1', 'r') IS NOT NULL AS finished;
SELECT idempotency.emit('orders', 'a', '3') NOT IN (:'first_id', :'second_id') AS another;
COMMIT;
-- version 8: derived; version 7: new
SELECT :'first_id' ~ '^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$' AS derived;
SELECT idempotency.emit('orders', 'a', '4') ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$' AS new;
-- the inner claim's, while it isn't settled, then the outer one's again
BEGIN;
SELECT outcome FROM idempotency.claim('outbox', 'outer');
SELECT idempotency.emit('orders', 'o', '1') AS o1 \gset
SELECT outcome FROM idempotency.claim('outbox', 'inner');
SELECT idempotency.emit('orders', 'i', '1') AS i1 \gset
SELECT idempotency.finish('outbox', 'inner') IS NOT NULL AS finished;
SELECT idempotency.emit('orders', 'o', '2') AS o2 \gset
SELECT idempotency.finish('outbox', 'outer') IS NOT NULL AS finished;
ROLLBACK;
BEGIN;
SELECT outcome FROM idempotency.claim('outbox', 'outer');
SELECT idempotency.emit('orders', 'o', '1') = :'o1', idempotency.emit('orders', 'o', '2') = :'o2';
ROLLBACK;
-- the operation is forgotten and done again: its events are the same ones
SELECT idempotency.forget('outbox', 'k1', 'test');
BEGIN;
SELECT outcome FROM idempotency.claim('outbox', 'k1');
SELECT idempotency.emit('orders', 'a', 'done again') = :'first_id' AS same;
SELECT idempotency.finish('outbox', 'k1', 'r') IS NOT NULL AS finished;
COMMIT;
SELECT payload FROM idempotency.outbox WHERE id = :'first_id';

--
-- A relay
--
SELECT event_id, position, stream_, type, key, payload, headers FROM outbox_test.read('r', max => 3);
-- they are somebody's
SELECT count(*) FROM outbox_test.read('r');
-- another relay, and the same relay in one stream, have cursors of their own
SELECT event_id, position FROM outbox_test.read('r2', max => 2);
SELECT event_id, position FROM outbox_test.read('r', 'users');
SELECT relay, stream, position, read_upto, holder IS NOT NULL AS held, lag_events FROM idempotency.relays ORDER BY relay, stream;
SELECT outbox_test.ack('r', 4);
SELECT outbox_test.ack('r', 4, release => true);
SELECT event_id, position FROM outbox_test.read('r', 'users');
SELECT outbox_test.ack('r', 5);
-- the first reading's fence is still good
SELECT outbox_test.ack('r', 2, back => 2);
SELECT outbox_test.ack('r', 2, back => 2);
SELECT outbox_test.ack('r', 1, back => 2);
SELECT outbox_test.state('SELECT outbox_test.ack(''r'', 4, back => 2)');
SELECT outbox_test.ack('r', 3, back => 2);
SELECT relay, stream, position, read_upto, holder IS NOT NULL AS held FROM idempotency.relays WHERE relay = 'r' ORDER BY stream;
SELECT event_id, position FROM outbox_test.read('r', max => 2, lease => '1 ms');
SELECT pg_sleep(0.01);
-- the lease is over: taken over, and whoever had them is told
SELECT event_id, position FROM outbox_test.read('r', max => 1);
SELECT outbox_test.state('SELECT outbox_test.ack(''r'', 4, back => 1)');
SELECT outbox_test.ack('r', 4);
-- a reading that is rolled back was none
BEGIN;
SELECT event_id, position FROM outbox_test.read('r', max => 1);
ROLLBACK;
SELECT event_id, position FROM outbox_test.read('r', max => 1);
SELECT outbox_test.ack('r', 5);

--
-- Bad input: an error, and nothing else
--
SELECT outbox_test.state(c) FROM unnest(ARRAY[
    $$SELECT idempotency.emit(NULL, 'a', 'p')$$, $$SELECT idempotency.emit('', 'a', 'p')$$, $$SELECT idempotency.emit('*', 'a', 'p')$$,
    $$SELECT idempotency.emit(repeat('s', 129), 'a', 'p')$$, $$SELECT idempotency.emit('s', NULL, 'p')$$, $$SELECT idempotency.emit('s', '', 'p')$$,
    $$SELECT idempotency.emit('s', 'a', 'p', key => '')$$, $$SELECT idempotency.emit('s', 'a', 'p', key => repeat('k', 1025))$$,
    $$SELECT idempotency.emit('s', 'a', 'p', event_id => '')$$, $$SELECT idempotency.emit('s', 'a', 'p', event_id => repeat('e', 256))$$,
    $$SELECT idempotency.emit('s', 'a', 'p', headers => '[]')$$, $$SELECT idempotency.emit('s', 'a', 'p', headers => '1')$$,
    $$SELECT idempotency.emit('s', 'a', 'p', headers => jsonb_build_object('h', repeat('h', 65536)))$$,
    $$SELECT idempotency.emit('s', 'a', repeat('p', 1024 * 1024 + 1))$$,
    $$SELECT idempotency.outbox_read(NULL)$$, $$SELECT idempotency.outbox_read('')$$, $$SELECT idempotency.outbox_read('*')$$, $$SELECT idempotency.outbox_read('bad', '')$$,
    $$SELECT idempotency.outbox_read('bad', max => 0)$$, $$SELECT idempotency.outbox_read('bad', max => NULL)$$, $$SELECT idempotency.outbox_read('bad', max => 10001)$$,
    $$SELECT idempotency.outbox_read('bad', lease => NULL)$$, $$SELECT idempotency.outbox_read('bad', lease => '0')$$, $$SELECT idempotency.outbox_read('bad', lease => '5 days')$$,
    $$SELECT idempotency.outbox_ack(NULL, 1, 1)$$, $$SELECT idempotency.outbox_ack('r', NULL, 1)$$, $$SELECT idempotency.outbox_ack('r', 1, NULL)$$,
    $$SELECT idempotency.outbox_ack('r', -1, 1)$$, $$SELECT idempotency.outbox_ack('r', 1, 0)$$, $$SELECT idempotency.outbox_ack('bad', 1, 1)$$, $$SELECT idempotency.outbox_ack('r', 1, 1)$$,
    $$SELECT idempotency.configure_outbox(retention => '1 s')$$, $$SELECT idempotency.configure_outbox(retention => '61 days')$$, $$SELECT idempotency.configure_outbox(max_age => '1 hour')$$,
    $$SELECT idempotency.configure_outbox('orders', retention => '1 hour')$$, $$SELECT idempotency.configure_outbox('', notify => true)$$, $$SELECT idempotency.configure_outbox(NULL)$$,
    $$SELECT idempotency.configure_outbox(max_payload_bytes => 0)$$, $$SELECT idempotency.configure_outbox('orders', role => 'regress_no_such_role')$$,
    $$SELECT idempotency.configure_relay('*')$$, $$SELECT idempotency.configure_relay('bad', role => 'regress_no_such_role')$$,
    $$SELECT idempotency.reset_relay('bad', reason => 'x')$$, $$SELECT idempotency.reset_relay('r')$$, $$SELECT idempotency.reset_relay('r', NULL, -1, 'x')$$, $$SELECT idempotency.reset_relay('r', NULL, 1000000, 'x')$$,
    $$SELECT idempotency.forget_relay('r', reason => '')$$]) AS c;
SELECT count(*) FROM idempotency.outbox_relay WHERE relay = 'bad';
SELECT count(*) FROM idempotency.outbox WHERE aggregatetype = 's';
BEGIN READ ONLY;
SELECT idempotency.emit('s', 'a', 'p');
ROLLBACK;

--
-- Settings
--
SELECT idempotency.configure_outbox('small', max_payload_bytes => 10, notify => true);
SELECT outbox_test.state($$SELECT idempotency.emit('small', 'a', '12345678901')$$);
-- a transaction that listeners would be told of can be prepared: they aren't told then
BEGIN;
SELECT idempotency.emit('small', 'a', '1234567890', event_id => 'small');
PREPARE TRANSACTION 'outbox';
-- readers wait for it, whatever comes after it
SELECT idempotency.emit('small', 'a', 'after', event_id => 'after');
SELECT count(*) FROM outbox_test.read('r3', 'small');
COMMIT PREPARED 'outbox';
SELECT event_id FROM outbox_test.read('r3', 'small');
SELECT detail FROM idempotency.ledger WHERE decision = 'configured' AND detail LIKE '%outbox%';

--
-- Roles
--
CREATE ROLE regress_outbox_app;
CREATE ROLE regress_outbox_other;
GRANT EXECUTE ON FUNCTION idempotency.emit, idempotency.outbox_read, idempotency.outbox_ack TO regress_outbox_app, regress_outbox_other;
SELECT idempotency.configure_outbox('private', role => 'regress_outbox_app');
SELECT idempotency.configure_relay('private', role => 'regress_outbox_app');
GRANT USAGE ON SCHEMA outbox_test TO regress_outbox_app, regress_outbox_other;
SET ROLE regress_outbox_app;
SELECT idempotency.emit('private', 'a', 'p', event_id => 'private');
SELECT count(*) > 0 AS reads FROM idempotency.outbox_read('private');
SELECT * FROM idempotency.outbox;
SET ROLE regress_outbox_other;
SELECT outbox_test.state($$SELECT idempotency.emit('private', 'a', 'p')$$);
SELECT outbox_test.state($$SELECT idempotency.outbox_read('private')$$);
RESET ROLE;
SELECT idempotency.configure_outbox('private', role => '');

--
-- Operators
--
SELECT event_id, position FROM outbox_test.read('r', max => 1);
SELECT idempotency.reset_relay('r', NULL, 3, 'the broker lost a day');
SELECT outbox_test.state('SELECT outbox_test.ack(''r'', 4)');
SELECT event_id, position FROM outbox_test.read('r', max => 1);
SELECT idempotency.reset_relay('r', reason => 'skip what there is') = (SELECT last_value FROM idempotency.outbox_seq) AS at_the_end;
SELECT count(*) FROM outbox_test.read('r');
SELECT idempotency.forget_relay('r', reason => 'gone'), idempotency.forget_relay('r', reason => 'gone');
SELECT detail FROM idempotency.ledger WHERE detail LIKE '{"relay": "r", %' ORDER BY seq;

--
-- Much in one transaction, and tables that somebody has changed
--
BEGIN;
SELECT count(idempotency.emit('bulk', 'a', 'p' || i)) FROM generate_series(1, 25000) AS i;
-- some of it is written already
SELECT outbox_test.state($$SELECT idempotency.outbox_read('bulk')$$);
SELECT count(idempotency.emit('bulk', 'a', 'p' || i)) FROM generate_series(25001, 25010) AS i;
COMMIT;
SELECT count(*), count(DISTINCT id), bool_and(payload = 'p' || n) AS in_order
FROM (SELECT id, payload, row_number() OVER (ORDER BY position) AS n FROM idempotency.outbox WHERE aggregatetype = 'bulk') AS o;
BEGIN;
SELECT count(idempotency.emit('bulk2', 'a', 'p' || i)) FROM generate_series(1, 25000) AS i;
ROLLBACK;
SELECT count(*) FROM idempotency.outbox WHERE aggregatetype = 'bulk2';
BEGIN;
CREATE INDEX outbox_extra ON idempotency.outbox_0 (type);
SELECT idempotency.emit('s', 'a', 'p');
ROLLBACK;
-- logical decoding may read them
BEGIN;
SET LOCAL client_min_messages = error;
CREATE PUBLICATION outbox_test FOR TABLE idempotency.outbox_0, idempotency.outbox_1, idempotency.outbox_2, idempotency.outbox_3;
ALTER TABLE idempotency.outbox_0 REPLICA IDENTITY FULL;
SELECT idempotency.emit('s', 'a', 'p', event_id => 'published');
ROLLBACK;

-- leave nothing behind
SELECT relay, stream, idempotency.forget_relay(relay, stream, 'end of test') FROM idempotency.relays ORDER BY relay, stream;
REVOKE ALL ON FUNCTION idempotency.emit, idempotency.outbox_read, idempotency.outbox_ack FROM regress_outbox_app, regress_outbox_other;
DROP SCHEMA outbox_test CASCADE;
DROP ROLE regress_outbox_app, regress_outbox_other;
