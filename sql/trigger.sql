--
-- dedup(): a BEFORE INSERT trigger that lets each key in once.
--
-- Convention: each section has a table and a scope of its own; the tables have
-- no unique constraint, so that a duplicate shows.
--
\pset null '(null)'
CREATE SCHEMA trigger_test;

--
-- skip: a row whose key was seen is left out
--
CREATE TABLE trigger_test.skip (id int GENERATED ALWAYS AS IDENTITY, request_id text, payload text);
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.skip
FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.skip', 'request_id');
INSERT INTO trigger_test.skip (request_id, payload) VALUES ('a', 'first') RETURNING id, request_id;
INSERT INTO trigger_test.skip (request_id, payload) VALUES ('a', 'second') RETURNING id, request_id;
-- several rows with duplicates among them
INSERT INTO trigger_test.skip (request_id, payload) VALUES ('b', '1'), ('c', '1'), ('b', '2'), ('a', '3'), ('c', '2') RETURNING request_id, payload;
INSERT INTO trigger_test.skip (request_id, payload) SELECT 'd' || i % 3, i::text FROM generate_series(0, 8) AS i;
-- COPY
COPY trigger_test.skip (request_id, payload) FROM stdin;
a	copied
e	copied
e	copied again
f	copied
\.
SELECT request_id, payload FROM trigger_test.skip ORDER BY request_id, payload;
-- rolled back, then again
BEGIN;
INSERT INTO trigger_test.skip (request_id) VALUES ('g');
ROLLBACK;
BEGIN;
SAVEPOINT s;
INSERT INTO trigger_test.skip (request_id) VALUES ('g');
ROLLBACK TO s;
INSERT INTO trigger_test.skip (request_id) VALUES ('g') RETURNING request_id;
INSERT INTO trigger_test.skip (request_id) VALUES ('g') RETURNING request_id;
COMMIT;
SELECT count(*) FROM trigger_test.skip WHERE request_id = 'g';
-- deleting the row does not forget the key
DELETE FROM trigger_test.skip WHERE request_id = 'g';
INSERT INTO trigger_test.skip (request_id) VALUES ('g') RETURNING request_id;
-- updating it claims nothing
UPDATE trigger_test.skip SET request_id = 'h' WHERE request_id = 'f';
INSERT INTO trigger_test.skip (request_id) VALUES ('h'), ('f') RETURNING request_id;
-- the keys are the scope's: what claim() has answered to is known here, and
-- the other way round
SELECT idempotency.once('trigger.skip', 'a');
SELECT idempotency.once('trigger.skip', 'from outside');
INSERT INTO trigger_test.skip (request_id) VALUES ('from outside') RETURNING request_id;

--
-- INSERT ... ON CONFLICT: the trigger fires before the conflict is found
--
CREATE TABLE trigger_test.conflict (request_id text, id int PRIMARY KEY, n int DEFAULT 1);
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.conflict
FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.conflict', 'request_id');
INSERT INTO trigger_test.conflict VALUES ('a', 1) ON CONFLICT (id) DO UPDATE SET n = conflict.n + 1;
INSERT INTO trigger_test.conflict VALUES ('b', 1) ON CONFLICT (id) DO UPDATE SET n = conflict.n + 1;
INSERT INTO trigger_test.conflict VALUES ('b', 1) ON CONFLICT (id) DO UPDATE SET n = conflict.n + 1;
SELECT * FROM trigger_test.conflict;
-- so DO NOTHING can lose a row for good: the key is taken, and nothing inserted
INSERT INTO trigger_test.conflict VALUES ('c', 1) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO trigger_test.conflict VALUES ('c', 3) ON CONFLICT DO NOTHING RETURNING *;
-- a constraint that fails takes the key back
INSERT INTO trigger_test.conflict VALUES ('d', 1);
INSERT INTO trigger_test.conflict VALUES ('d', 2) RETURNING *;

--
-- raise: a row whose key was seen is an error
--
CREATE TABLE trigger_test.raise (request_id text, payload text);
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.raise
FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.raise', 'request_id', 'raise');
INSERT INTO trigger_test.raise VALUES ('a', '1');
INSERT INTO trigger_test.raise VALUES ('a', '2');
INSERT INTO trigger_test.raise VALUES ('b', '1'), ('b', '2');
\set VERBOSITY sqlstate
INSERT INTO trigger_test.raise VALUES ('a', '2');
\set VERBOSITY default
SELECT * FROM trigger_test.raise;

--
-- A principal column; 'skip' written out
--
CREATE TABLE trigger_test.principal (tenant text, request_id uuid, n int);
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.principal
FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.principal', 'request_id', 'skip', 'tenant');
INSERT INTO trigger_test.principal VALUES
('x', '11111111-1111-1111-1111-111111111111', 1), ('y', '11111111-1111-1111-1111-111111111111', 2),
('x', '11111111-1111-1111-1111-111111111111', 3), ('', '11111111-1111-1111-1111-111111111111', 4);
SELECT tenant, n FROM trigger_test.principal;
SELECT principal, key FROM idempotency.keys WHERE scope = 'trigger.principal' ORDER BY principal COLLATE "C";
INSERT INTO trigger_test.principal VALUES (NULL, '22222222-2222-2222-2222-222222222222', 5);
INSERT INTO trigger_test.principal VALUES ('x', NULL, 6);
\set VERBOSITY sqlstate
INSERT INTO trigger_test.principal VALUES (NULL, '22222222-2222-2222-2222-222222222222', 5);
INSERT INTO trigger_test.principal VALUES ('x', NULL, 6);
-- what isn't a key
INSERT INTO trigger_test.skip (request_id) VALUES ('');
INSERT INTO trigger_test.skip (request_id) VALUES (repeat('k', 256));
\set VERBOSITY default

--
-- Columns of any type, and a column that another trigger sets before
--
CREATE TABLE trigger_test.typed (n bigint, at timestamptz, doc jsonb);
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.typed
FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.typed', 'n');
INSERT INTO trigger_test.typed VALUES (1), (2), (1);
SELECT n FROM trigger_test.typed;
CREATE FUNCTION trigger_test.fill() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.n := coalesce(NEW.n, 2); RETURN NEW; END $$;
CREATE TRIGGER before_dedup BEFORE INSERT ON trigger_test.typed FOR EACH ROW EXECUTE FUNCTION trigger_test.fill();
INSERT INTO trigger_test.typed VALUES (NULL), (NULL), (3) RETURNING n;

--
-- Partitioned tables: the key is one for all partitions
--
CREATE TABLE trigger_test.parted (request_id text, region int) PARTITION BY LIST (region);
CREATE TABLE trigger_test.part1 PARTITION OF trigger_test.parted FOR VALUES IN (1);
CREATE TABLE trigger_test.part2 PARTITION OF trigger_test.parted FOR VALUES IN (2);
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.parted
FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.parted', 'request_id');
INSERT INTO trigger_test.parted VALUES ('a', 1), ('a', 2), ('b', 2) RETURNING *;

--
-- Waiting for nobody: what another has its hand on is an error, not a
-- duplicate; here it is this transaction's own claim
--
BEGIN;
SELECT outcome FROM idempotency.claim('trigger.raise', 'own');
\set VERBOSITY sqlstate
INSERT INTO trigger_test.raise VALUES ('own', '1');
\set VERBOSITY default
ROLLBACK;

-- nor is what has failed a duplicate
BEGIN;
SELECT outcome FROM idempotency.claim('trigger.raise', 'failed');
SELECT outcome FROM idempotency.fail('trigger.raise', 'failed', 'e', retryable => false);
COMMIT;
INSERT INTO trigger_test.raise VALUES ('failed', '1');

--
-- Used in another way
--
CREATE TABLE trigger_test.wrong (request_id text);
SELECT idempotency.dedup();
CREATE TRIGGER dedup AFTER INSERT ON trigger_test.wrong FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.wrong', 'request_id');
INSERT INTO trigger_test.wrong VALUES ('a');
DROP TRIGGER dedup ON trigger_test.wrong;
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.wrong FOR EACH STATEMENT EXECUTE FUNCTION idempotency.dedup('trigger.wrong', 'request_id');
INSERT INTO trigger_test.wrong VALUES ('a');
DROP TRIGGER dedup ON trigger_test.wrong;
INSERT INTO trigger_test.wrong VALUES ('a');
CREATE TRIGGER dedup BEFORE UPDATE OR DELETE ON trigger_test.wrong FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.wrong', 'request_id');
UPDATE trigger_test.wrong SET request_id = 'b';
\set VERBOSITY sqlstate
DELETE FROM trigger_test.wrong;
\set VERBOSITY default
DROP TRIGGER dedup ON trigger_test.wrong;
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.wrong FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.wrong');
INSERT INTO trigger_test.wrong VALUES ('a');
DROP TRIGGER dedup ON trigger_test.wrong;
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.wrong FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.wrong', 'id');
INSERT INTO trigger_test.wrong VALUES ('a');
DROP TRIGGER dedup ON trigger_test.wrong;
\set VERBOSITY sqlstate
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.wrong FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.wrong', 'request_id', 'drop');
INSERT INTO trigger_test.wrong VALUES ('a');
DROP TRIGGER dedup ON trigger_test.wrong;
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.wrong FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.wrong', 'request_id', 'skip', 'request_id', 'x');
INSERT INTO trigger_test.wrong VALUES ('a');
DROP TRIGGER dedup ON trigger_test.wrong;
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.wrong FOR EACH ROW EXECUTE FUNCTION idempotency.dedup();
INSERT INTO trigger_test.wrong VALUES ('a');
DROP TRIGGER dedup ON trigger_test.wrong;
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.wrong FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('', 'request_id');
INSERT INTO trigger_test.wrong VALUES ('a');
DROP TRIGGER dedup ON trigger_test.wrong;
\set VERBOSITY default
SELECT count(*) FROM idempotency.keys WHERE scope = 'trigger.wrong';

--
-- Keys that are leased: an error while the lease lives; then the row goes in,
-- and stands for the operation
--
CREATE TABLE trigger_test.leased (request_id text);
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.leased FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.leased', 'request_id');
SELECT fence FROM idempotency.claim('trigger.leased', 'key', lease => '30 min') \gset
\set VERBOSITY sqlstate
INSERT INTO trigger_test.leased VALUES ('key');
\set VERBOSITY default
SELECT idempotency.heartbeat('trigger.leased', 'key', :fence, '1 ms') > now() - interval '1 s' AS shortened, pg_sleep(0.002);
INSERT INTO trigger_test.leased VALUES ('key'), ('key') RETURNING request_id;
\set VERBOSITY sqlstate
SELECT idempotency.finish('trigger.leased', 'key', 'r', :fence);
\set VERBOSITY default
SELECT outcome, response, attempt FROM idempotency.claim('trigger.leased', 'key');
SELECT fence FROM idempotency.claim('trigger.leased', 'finished', lease => '30 min') \gset
SELECT idempotency.finish('trigger.leased', 'finished', 'r', :fence) > now() AS finished;
INSERT INTO trigger_test.leased VALUES ('finished') RETURNING request_id;
SELECT * FROM trigger_test.leased;

--
-- A column that is renamed: an error, not a hole
--
ALTER TABLE trigger_test.skip RENAME COLUMN request_id TO request;
INSERT INTO trigger_test.skip (request) VALUES ('a');

--
-- Who inserts needs no right on dedup(); who creates the trigger does
--
CREATE ROLE regress_idempotency_inserts;
GRANT USAGE, CREATE ON SCHEMA trigger_test TO regress_idempotency_inserts;
GRANT INSERT, SELECT ON trigger_test.raise TO regress_idempotency_inserts;
SET ROLE regress_idempotency_inserts;
INSERT INTO trigger_test.raise VALUES ('as another', '1') RETURNING *;
CREATE TABLE trigger_test.own (request_id text);
CREATE TRIGGER dedup BEFORE INSERT ON trigger_test.own FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('trigger.own', 'request_id');
RESET ROLE;
DROP OWNED BY regress_idempotency_inserts;
DROP ROLE regress_idempotency_inserts;

SET client_min_messages = warning;
DROP SCHEMA trigger_test CASCADE;
