--
-- Consumers: accept() by each strategy, accept_many(), what is missing, what
-- operators do, and what is refused.
--
-- Convention: a stream is fed through feed(), which tells what each event was
-- answered; an error is told by its SQLSTATE and message.
--
\pset null '(null)'
CREATE SCHEMA inbox_test;
CREATE FUNCTION inbox_test.feed(consumer text, stream text, VARIADIC seqs text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    e text;
    a record;
    answers text[];
BEGIN
    FOREACH e IN ARRAY seqs LOOP
        SELECT * INTO a FROM idempotency.accept(feed.consumer, feed.stream,
            seq => split_part(e, '.', 1)::bigint, subseq => coalesce(nullif(split_part(e, '.', 2), ''), '0')::bigint);
        answers := answers || (e || ' ' || a.outcome || coalesce(' (' || a.reason || ')', ''));
    END LOOP;
    RETURN array_to_string(answers, ', ');
END $$;
CREATE FUNCTION inbox_test.error(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN others THEN
    RETURN sqlstate || ': ' || sqlerrm;
END $$;

--
-- By id, which is what a consumer knows if nothing is configured
--
SELECT outcome, expected_seq, "position", reason, first_seen IS NOT NULL AS seen, deliveries FROM idempotency.accept('mail', 'orders', 'e1');
SELECT outcome, expected_seq, "position", reason, first_seen IS NOT NULL AS seen, deliveries FROM idempotency.accept('mail', 'orders', 'e1');
SELECT outcome FROM idempotency.accept('mail', 'invoices', 'e1');
SELECT outcome FROM idempotency.accept('audit', 'orders', 'e1');
-- a rollback, also to a savepoint, leaves nothing
BEGIN;
SELECT outcome FROM idempotency.accept('mail', 'orders', 'e2');
SAVEPOINT s;
SELECT outcome FROM idempotency.accept('mail', 'orders', 'e3');
SELECT outcome FROM idempotency.accept('mail', 'orders', 'e3');
ROLLBACK TO s;
SELECT outcome FROM idempotency.accept('mail', 'orders', 'e3');
ROLLBACK;
SELECT outcome FROM idempotency.accept('mail', 'orders', 'e2');
-- what the event says is compared, if it is told
SELECT outcome FROM idempotency.accept('mail', 'orders', 'e4', request => '{"a": 1}');
SELECT outcome FROM idempotency.accept('mail', 'orders', 'e4', request => '{ "a" : 1.0 }');
SELECT outcome FROM idempotency.accept('mail', 'orders', 'e4', request => '{"a": 2}');
-- ids are remembered for a retention, per stream if need be
SELECT * FROM idempotency.configure_consumer('mail', retention => '10 days');
SELECT consumer, stream, retention FROM idempotency.configure_consumer('mail', 'invoices', retention => '1 hour');
SELECT retention FROM idempotency.consumer_policy('mail', 'orders');
SELECT retention FROM idempotency.policy('inbox/mail');
SELECT outcome FROM idempotency.accept('mail', 'orders', 'e1');
SELECT outcome FROM idempotency.accept('mail', 'invoices', 'e5');
SELECT key, expires_at > now() + '9 days' AS long, expires_at > now() + '2 hours' AS longer FROM idempotency.keys WHERE scope = 'inbox/mail' AND key IN ('e4', 'e5') ORDER BY key;
-- nobody else claims in such a scope
SELECT outcome FROM idempotency.claim('inbox/mail', 'e9', principal => 'orders');
SELECT idempotency.once('inbox/mail', 'e9');

--
-- By sequence, in any order
--
SELECT strategy, max_holes FROM idempotency.configure_consumer('any', strategy => 'sequence');
SELECT inbox_test.feed('any', 's', '1', '3', '2', '3', '1', '7', '5', '6', '4', '4', '8');
SELECT next_seq, seq, subseq, epoch, holes, gap_since, delivered FROM idempotency.position('any', 's');
-- what comes before the first one that came was not dropped either
SELECT inbox_test.feed('any', 'late', '10', '8', '9', '3', '8', '3');
SELECT next_seq, seq, holes FROM idempotency.position('any', 'late');
-- several events may share a position
SELECT inbox_test.feed('any', 'pairs', '5', '5.1', '6', '5.1', '5.3', '5.2', '4.1', '4', '5.3', '4.1');
SELECT next_seq, seq, subseq, holes FROM idempotency.position('any', 'pairs');
-- one transaction, with savepoints
BEGIN;
SELECT inbox_test.feed('any', 'x', '1', '2');
SAVEPOINT a;
SELECT inbox_test.feed('any', 'x', '3', '5');
SAVEPOINT b;
SELECT inbox_test.feed('any', 'x', '4', '6');
SELECT seq, holes FROM idempotency.position('any', 'x');
ROLLBACK TO b;
SELECT inbox_test.feed('any', 'x', '4');
RELEASE a;
SELECT seq, holes FROM idempotency.position('any', 'x');
COMMIT;
SELECT seq, holes, delivered FROM idempotency.consumers WHERE consumer = 'any' AND stream = 'x';
-- one row was written, not one for each event
SELECT count(*) FROM idempotency.inbox_stream WHERE consumer = 'any' AND stream = 'x';

-- what is missing
SELECT inbox_test.feed('any', 'holes', '1', '4', '9', '5');
SELECT from_seq, to_seq, missing, since <= clock_timestamp() AS since, age_ms >= 0 AS age FROM idempotency.gaps('any', 'holes');
SELECT seq, holes, gap_since IS NOT NULL AS gap, delivered FROM idempotency.consumers WHERE stream = 'holes';
SELECT inbox_test.feed('any', 'holes', '7', '2', '3');
SELECT from_seq, to_seq, missing FROM idempotency.gaps('any', 'holes');
SELECT * FROM idempotency.gaps('any', 'unknown');
SELECT * FROM idempotency.position('any', 'unknown');
-- only so much can be missing: then it is for the consumer to come later
SELECT max_holes FROM idempotency.configure_consumer('any', 'small', max_holes => 4);
SELECT inbox_test.feed('any', 'small', '1', '3', '5', '7', '9', '11', '12', '9', '10', '11', '2', '13');
SELECT from_seq, to_seq FROM idempotency.gaps('any', 'small');
-- of events that share a position, what is long past is forgotten, and then late
SELECT inbox_test.feed('any', 'small', '4', '6', '8', '12', '1.1', '3.1', '5.1', '7.1', '9.1', '1.1', '2.1', '9.1', '10.1');
SELECT ahead_bytes < 30 AS small FROM idempotency.consumers WHERE stream = 'small';
-- a stream that begins at a given place
SELECT first_seq FROM idempotency.configure_consumer('any', 'begun', first_seq => 0);
SELECT inbox_test.feed('any', 'begun', '2', '1');
SELECT next_seq, seq FROM idempotency.position('any', 'begun');
SELECT from_seq, to_seq FROM idempotency.gaps('any', 'begun');
SELECT inbox_test.feed('any', 'begun', '0', '0');
-- the ends
SELECT inbox_test.feed('any', 'ends', '9223372036854775807', '0', '9223372036854775807', '9223372036854775806', '0.9223372036854775807');
SELECT next_seq, seq, holes FROM idempotency.position('any', 'ends');
SELECT * FROM idempotency.skip_gap('any', 'ends', 'test');
SELECT next_seq, seq, holes FROM idempotency.position('any', 'ends');

--
-- In order, and only the latest
--
SELECT strategy FROM idempotency.configure_consumer('next', strategy => 'ordered');
SELECT inbox_test.feed('next', 's', '7', '9', '8', '8', '9', '9.1', '9.3', '9.2', '10.1', '10', '9.3', '3');
SELECT outcome, expected_seq, "position" FROM idempotency.accept('next', 's', seq => 13);
SELECT first_seq FROM idempotency.configure_consumer('next', 'begun', first_seq => 5);
SELECT inbox_test.feed('next', 'begun', '6', '4', '5', '6');
SELECT first_seq FROM idempotency.configure_consumer('next', 'begun', first_seq => -1);
SELECT strategy FROM idempotency.configure_consumer('latest', strategy => 'high_water');
SELECT inbox_test.feed('latest', 's', '3', '9', '5', '9', '9.1', '9', '12');
SELECT outcome, expected_seq, "position" FROM idempotency.accept('latest', 's', seq => 10);

--
-- By both: an event is known if its id or its position is
--
SELECT strategy FROM idempotency.configure_consumer('both', strategy => 'id_and_sequence');
SELECT outcome, reason, "position" FROM idempotency.accept('both', 's', 'e1', 1);
SELECT outcome, reason, "position" FROM idempotency.accept('both', 's', 'e1', 1);
SELECT outcome, reason, "position" FROM idempotency.accept('both', 's', 'e1', 2);
SELECT outcome, reason, "position" FROM idempotency.accept('both', 's', 'other', 2);
SELECT outcome, reason, "position" FROM idempotency.accept('both', 's', 'e3', 3, request => 'a');
-- a mismatch leaves the position open
SELECT outcome, reason, "position" FROM idempotency.accept('both', 's', 'e3', 4, request => 'b');
SELECT outcome, reason, "position" FROM idempotency.accept('both', 's', 'e4', 4);
SELECT outcome FROM idempotency.accept('both', 'new', 'm', 1, request => 'a');
SELECT outcome FROM idempotency.accept('both', 'new2', 'm', 1, request => 'a');
BEGIN;
SELECT idempotency.set_position('both', 'new', NULL, 'test');
SELECT outcome FROM idempotency.accept('both', 'new', 'm', 8, request => 'b');
SELECT count(*) FROM idempotency.inbox_stream WHERE consumer = 'both' AND stream = 'new';
ROLLBACK;

--
-- A producer's epochs
--
SELECT outcome, "position" FROM idempotency.accept('any', 'epochs', seq => 5, epoch => 3);
SELECT outcome, "position" FROM idempotency.accept('any', 'epochs', seq => 6, epoch => 2);
SELECT outcome, "position" FROM idempotency.accept('any', 'epochs', seq => 7, epoch => 3);
SELECT outcome, "position" FROM idempotency.accept('any', 'epochs', seq => 1, epoch => 4);
SELECT outcome, "position" FROM idempotency.accept('any', 'epochs', seq => 6, epoch => 3);
SELECT epoch, seq, holes, delivered FROM idempotency.position('any', 'epochs');
SELECT outcome FROM idempotency.accept('any', 'epochs', seq => 2);
SELECT outcome FROM idempotency.accept_many('any', 'epochs', '{2,3}', epoch => 3);
SELECT outcome, "position" FROM idempotency.accept('mail', 'epochs', 'e1', epoch => 3);
SELECT outcome, "position" FROM idempotency.accept('mail', 'epochs', 'e2', epoch => 2);
SELECT outcome, "position" FROM idempotency.accept('mail', 'epochs', 'e2', epoch => 3);
SELECT outcome, "position" FROM idempotency.accept('mail', 'epochs', 'e2', epoch => 4);
-- one that has begun fences out those before, even if its first event is refused
SELECT outcome FROM idempotency.accept('both', 'epochs', 'e1', 0, epoch => 1, request => '1');
SELECT outcome FROM idempotency.accept('both', 'epochs', 'e1', 5, epoch => 2, request => '2');
SELECT outcome FROM idempotency.accept('both', 'epochs', 'e2', 1, epoch => 1);
SELECT epoch, seq, delivered FROM idempotency.position('both', 'epochs');

--
-- What an event depends on
--
SELECT outcome, reason FROM idempotency.accept('mail', 'orders', 'paid', after => '{created}');
SELECT outcome, reason FROM idempotency.accept('mail', 'orders', 'paid', after => '{e1,created}');
SELECT outcome, reason FROM idempotency.accept('mail', 'orders', 'created');
SELECT outcome, reason FROM idempotency.accept('mail', 'orders', 'paid', after => '{e1,created}');
SELECT outcome, reason FROM idempotency.accept('any', 'after', seq => 1, after => '{@s:9}');
SELECT outcome, reason FROM idempotency.accept('any', 'after', seq => 1, after => '{@s:8,@unknown:1}');
SELECT outcome, reason FROM idempotency.accept('any', 'after', seq => 1, after => '{@s:8}');
BEGIN;
SELECT outcome, reason FROM idempotency.accept('any', 'after', seq => 2, after => '{@s:9}');
SELECT inbox_test.feed('any', 's', '9');
SELECT outcome, reason FROM idempotency.accept('any', 'after', seq => 2, after => '{@s:9}');
COMMIT;

--
-- Many at once
--
SELECT * FROM idempotency.accept_many('any', 'many', '{1,2,2,5,4,3}');
SELECT * FROM idempotency.accept_many('any', 'many', '{5,6,7}', '{1,0,3}');
SELECT * FROM idempotency.accept_many('any', 'many', '{}');
SELECT string_agg(outcome, ' ' ORDER BY ordinal) FROM idempotency.accept_many('next', 'many', '{3,4,6,5,6}');
SELECT seq, subseq, holes, delivered FROM idempotency.position('any', 'many');

--
-- Operators
--
SELECT inbox_test.feed('any', 'op', '1', '3', '4', '8', '12');
SELECT * FROM idempotency.skip_gap('any', 'op', 'lost at the source');
SELECT inbox_test.feed('any', 'op', '2', '6');
SELECT * FROM idempotency.skip_gap('any', 'op', 'lost at the source', 9);
SELECT from_seq, to_seq FROM idempotency.gaps('any', 'op');
SELECT * FROM idempotency.skip_gap('any', 'op', 'lost at the source', 5);
SELECT * FROM idempotency.skip_gap('any', 'op', 'lost at the source');
SELECT * FROM idempotency.skip_gap('any', 'op', 'lost at the source');
SELECT * FROM idempotency.skip_gap('next', 's', 'lost at the source', 12);
SELECT inbox_test.feed('next', 's', '11', '13');
SELECT * FROM idempotency.set_position('any', 'op', 5, 'restored from a backup');
SELECT inbox_test.feed('any', 'op', '3', '5', '5.1', '4.1', '7', '6');
SELECT * FROM idempotency.set_position('any', 'op', 5, 'restored from a backup', 2);
SELECT inbox_test.feed('any', 'op', '5.1', '5.2', '5.3');
SELECT * FROM idempotency.set_position('any', 'op', NULL, 'from the beginning');
SELECT inbox_test.feed('any', 'op', '3', '2');
-- once more, and not twice
SELECT idempotency.redeliver('any', 'op', 'the effect was lost', seq => 3);
SELECT inbox_test.feed('any', 'op', '2', '3', '3');
SELECT idempotency.redeliver('any', 'op', 'the effect was lost', seq => 9);
SELECT inbox_test.feed('any', 'op', '9', '9');
SELECT idempotency.redeliver('mail', 'orders', 'the effect was lost', 'e1');
BEGIN;
SELECT outcome, reason FROM idempotency.accept('mail', 'orders', 'e1');
ROLLBACK;
SELECT outcome, reason FROM idempotency.accept('mail', 'orders', 'e1');
SELECT outcome, reason FROM idempotency.accept('mail', 'orders', 'e1');
SELECT idempotency.redeliver('mail', 'orders', 'the effect was lost', 'never seen');
SELECT idempotency.redeliver('next', 's', 'the effect was lost', seq => 8);
SELECT outcome, reason FROM idempotency.accept_many('next', 's', '{8,8}');
-- all of it is in the ledger
SELECT decision, scope, detail::jsonb->>'stream' AS stream, detail::jsonb->>'event' AS event, detail::jsonb->>'skipped' AS skipped,
    detail::jsonb->>'position' AS "position", detail::jsonb->>'previous' AS previous, detail::jsonb->>'reason' AS reason
FROM idempotency.ledger WHERE decision IN ('skipped', 'positioned', 'redelivered') ORDER BY seq;
SELECT count(*) > 0 AS recorded FROM idempotency.ledger WHERE decision = 'configured' AND scope = 'inbox/any' AND detail::jsonb ? 'consumer_policy';

--
-- A strategy that is changed
--
SELECT inbox_test.feed('any', 'change', '1', '2', '4');
SELECT strategy FROM idempotency.configure_consumer('any', 'change', strategy => 'ordered');
SELECT strategy FROM idempotency.consumer_policy('any', 'change');
BEGIN;
SELECT inbox_test.feed('any', 'change', '3', '6');
SELECT inbox_test.error($$SELECT idempotency.configure_consumer('any', 'change', strategy => 'high_water')$$);
ROLLBACK;
SELECT inbox_test.feed('any', 'change', '3');
SELECT strategy FROM idempotency.configure_consumer('any', 'change', strategy => 'ordered');
SELECT inbox_test.feed('any', 'change', '6', '5', '2');
SELECT strategy FROM idempotency.configure_consumer('any', 'change', strategy => 'sequence');
SELECT inbox_test.feed('any', 'change', '8', '5', '4.1', '7', '6');
SELECT strategy FROM idempotency.configure_consumer('any', 'change', strategy => 'high_water');
SELECT inbox_test.feed('any', 'change', '8', '7', '20');
SELECT strategy FROM idempotency.configure_consumer('any', 'change', strategy => 'id');
SELECT outcome FROM idempotency.accept('any', 'change', 'e1');

--
-- What is refused, and leaves nothing
--
SELECT inbox_test.error(command) FROM (VALUES
    (1, $$SELECT idempotency.accept(NULL, 's', 'e')$$),
    (2, $$SELECT idempotency.accept('c', NULL, 'e')$$),
    (3, $$SELECT idempotency.accept('', 's', 'e')$$),
    (4, $$SELECT idempotency.accept('c', '', 'e')$$),
    (5, $$SELECT idempotency.accept('*', 's', 'e')$$),
    (6, $$SELECT idempotency.accept('c', '*', 'e')$$),
    (7, $$SELECT idempotency.accept(repeat('c', 123), 's', 'e')$$),
    (8, $$SELECT idempotency.accept('c', repeat('s', 129), 'e')$$),
    (9, $$SELECT idempotency.accept('c', 's')$$),
    (10, $$SELECT idempotency.accept('c', 's', seq => 1)$$),
    (11, $$SELECT idempotency.accept('c', 's', '')$$),
    (12, $$SELECT idempotency.accept('c', 's', repeat('e', 256))$$),
    (13, $$SELECT idempotency.accept('any', 's', 'e')$$),
    (14, $$SELECT idempotency.accept('both', 's', 'e')$$),
    (15, $$SELECT idempotency.accept('both', 's', seq => 1)$$),
    (16, $$SELECT idempotency.accept('any', 's', seq => -1)$$),
    (17, $$SELECT idempotency.accept('any', 's', seq => 1, subseq => -1)$$),
    (18, $$SELECT idempotency.accept('any', 's', seq => 1, epoch => -1)$$),
    (19, $$SELECT idempotency.accept('any', 's', seq => 1, request => 'r')$$),
    (20, $$SELECT idempotency.accept('c', 's', 'e', after => '{NULL}')$$),
    (21, $$SELECT idempotency.accept('c', 's', 'e', after => '{""}')$$),
    (22, $$SELECT idempotency.accept('any', 's', seq => 100, after => '{e1}')$$),
    (23, $$SELECT idempotency.accept('any', 's', seq => 100, after => '{@s}')$$),
    (24, $$SELECT idempotency.accept('any', 's', seq => 100, after => '{@s:}')$$),
    (25, $$SELECT idempotency.accept('any', 's', seq => 100, after => '{@s:-1}')$$),
    (26, $$SELECT idempotency.accept('any', 's', seq => 100, after => '{@s:99999999999999999999}')$$),
    (27, $$SELECT idempotency.accept('any', 's', seq => 100, after => '{@:1}')$$),
    (28, $$SELECT idempotency.accept('mail', 's', 'x', after => '{@other:1}')$$),
    (29, $$SELECT idempotency.accept_many('any', 's', NULL)$$),
    (30, $$SELECT idempotency.accept_many('any', 's', '{100,NULL}')$$),
    (31, $$SELECT idempotency.accept_many('any', 's', '{100,-1}')$$),
    (32, $$SELECT idempotency.accept_many('any', 's', '{100,101}', '{0}')$$),
    (33, $$SELECT idempotency.accept_many('any', 's', '{100}', '{-5}')$$),
    (34, $$SELECT idempotency.accept_many('any', 's', '{{100},{101}}')$$),
    (35, $$SELECT idempotency.accept_many('c', 's', '{1}')$$),
    (36, $$SELECT idempotency.accept_many('both', 's', '{1}')$$),
    (37, $$SELECT idempotency.accept_many('any', 's', (SELECT array_agg(i) FROM generate_series(1, 100001) AS i))$$),
    (38, $$SELECT idempotency.configure_consumer(NULL)$$),
    (39, $$SELECT idempotency.configure_consumer('c', strategy => 'exact')$$),
    (40, $$SELECT idempotency.configure_consumer('c', retention => '0')$$),
    (41, $$SELECT idempotency.configure_consumer('c', retention => '100 days')$$),
    (42, $$SELECT idempotency.configure_consumer('c', wait => '-1 s')$$),
    (43, $$SELECT idempotency.configure_consumer('c', max_holes => 3)$$),
    (44, $$SELECT idempotency.configure_consumer('c', max_holes => 100001)$$),
    (45, $$SELECT idempotency.configure_consumer('c', max_deliveries => -1)$$),
    (46, $$SELECT idempotency.configure_consumer('c', first_seq => -2)$$),
    (47, $$SELECT idempotency.configure_consumer('c', role => 'regress_idempotency_unknown')$$),
    (48, $$SELECT idempotency.configure_consumer('*', 's')$$),
    (49, $$SELECT idempotency.configure_consumer('*', retention => '20 days')$$),
    (50, $$SELECT idempotency.skip_gap('any', 's', NULL)$$),
    (51, $$SELECT idempotency.skip_gap('any', 's', '')$$),
    (52, $$SELECT idempotency.skip_gap('any', 'unknown', 'test')$$),
    (53, $$SELECT idempotency.skip_gap('any', 's', 'test', 1000)$$),
    (54, $$SELECT idempotency.skip_gap('next', 's', 'test')$$),
    (55, $$SELECT idempotency.skip_gap('latest', 's', 'test')$$),
    (56, $$SELECT idempotency.skip_gap('any', 's', repeat('r', 1025))$$),
    (57, $$SELECT idempotency.set_position('any', 's', 5, NULL)$$),
    (58, $$SELECT idempotency.set_position('any', 's', -5, 'test')$$),
    (59, $$SELECT idempotency.set_position('mail', 'orders', 5, 'test')$$),
    (60, $$SELECT idempotency.redeliver('mail', 'orders', NULL, 'e1')$$),
    (61, $$SELECT idempotency.redeliver('mail', 'orders', 'test')$$),
    (62, $$SELECT idempotency.redeliver('any', 's', 'test', 'e1')$$),
    (63, $$SELECT idempotency.position(NULL, 's')$$),
    (64, $$SELECT idempotency.gaps('any', NULL)$$)) AS v(n, command) ORDER BY n;
SELECT count(*) FROM idempotency.inbox_stream WHERE consumer = 'c';
SELECT seq, holes FROM idempotency.position('any', 's');
-- a table that somebody has changed
CREATE FUNCTION inbox_test.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER t BEFORE INSERT ON idempotency.inbox_stream FOR EACH ROW EXECUTE FUNCTION inbox_test.nothing();
SELECT inbox_test.feed('any', 'trigger', '1');
DROP TRIGGER t ON idempotency.inbox_stream;
SELECT inbox_test.feed('any', 'trigger', '1');
-- a read-only transaction
BEGIN READ ONLY;
SELECT seq FROM idempotency.position('any', 's');
SELECT outcome FROM idempotency.accept('any', 's', seq => 100);
ROLLBACK;

--
-- A consumer that is reserved for a role
--
CREATE ROLE regress_idempotency_reader;
GRANT USAGE ON SCHEMA inbox_test TO regress_idempotency_reader;
GRANT EXECUTE ON FUNCTION idempotency.accept, idempotency.accept_many, idempotency.position, idempotency.gaps,
    idempotency.skip_gap, idempotency.set_position, idempotency.redeliver TO regress_idempotency_reader;
SELECT role = current_user AS is_mine FROM idempotency.configure_consumer('any', 'reserved', role => current_user);
SET ROLE regress_idempotency_reader;
SELECT inbox_test.error('SELECT idempotency.' || command) FROM (VALUES (1, $$accept('any', 'reserved', seq => 1)$$),
    (2, $$accept_many('any', 'reserved', '{1}')$$), (3, $$position('any', 'reserved')$$), (4, $$gaps('any', 'reserved')$$),
    (5, $$skip_gap('any', 'reserved', 'test')$$), (6, $$set_position('any', 'reserved', 1, 'test')$$),
    (7, $$redeliver('any', 'reserved', 'test', seq => 1)$$), (8, $$accept('any', 'free', seq => 1)$$),
    (9, $$accept('any', 'free', seq => 2, after => '{@reserved:1}')$$)) AS v(n, command) ORDER BY n;
RESET ROLE;
DROP OWNED BY regress_idempotency_reader;
DROP ROLE regress_idempotency_reader;

-- all consumers
SELECT strategy, retention, max_deliveries FROM idempotency.configure_consumer('*', strategy => 'ordered', max_deliveries => 7);
SELECT strategy, max_deliveries, role IS NULL AS free FROM idempotency.consumer_policy('new', 's');
SELECT strategy, max_deliveries FROM idempotency.consumer_policy('any', 's');
DELETE FROM idempotency.inbox_policy WHERE consumer = '*';

SET client_min_messages = warning;
DROP SCHEMA inbox_test CASCADE;
