--
-- verify(): what it finds, and that it finds nothing where nothing is.
--
-- Conventions: tampered() does what an administrator could, says what verify()
-- finds then, and undoes it.  Which table a key is in depends on the time, so
-- tables of keys are named "keys"; how often was sealed depends on whether
-- there is a worker, so a checkpoint's size is not printed.  (Random tampers
-- and files that are edited are under test/t.)
--
\pset null '(null)'

--
-- Everything that the tests before this one have done
--
SELECT count(*) >= 0 AS maintained FROM idempotency.maintain();
SELECT * FROM idempotency.verify();

--
-- A ledger of its own
--
CREATE DATABASE regress_idempotency_verify;
\set before :DBNAME
\c regress_idempotency_verify
CREATE EXTENSION idempotency;
-- there is nothing yet
SELECT * FROM idempotency.verify();
SELECT * FROM idempotency.verify(100, 200, '{}', false);

CREATE SCHEMA verify_test;
CREATE PROCEDURE verify_test.seal() LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        PERFORM * FROM idempotency.maintain();
        COMMIT;
        EXIT WHEN (SELECT unsealed = 0 FROM idempotency.ledger_status);
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
CREATE FUNCTION verify_test.tampered(command text) RETURNS SETOF text LANGUAGE plpgsql
SET session_replication_role = replica AS $$
DECLARE
    found text[];
BEGIN
    BEGIN
        EXECUTE command;
        found := ARRAY(SELECT what || ': ' || regexp_replace(regexp_replace(regexp_replace(place,
                'key_\w+', 'keys'), '\(\d+,\d+\)$', '(...)'), 'checkpoints? of sizes? .*', 'checkpoint')
            FROM idempotency.verify());
        RAISE SQLSTATE 'ZZZZZ';
    EXCEPTION WHEN SQLSTATE 'ZZZZZ' THEN
        NULL;
    END;
    RETURN QUERY SELECT unnest(found);
END $$;

CREATE FUNCTION verify_test.kinds(command text) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(DISTINCT regexp_replace(tampered, ':.*', ''), ', ') FROM verify_test.tampered(command) AS tampered $$;

-- 1 is the incarnation, 2 and 3 these
SELECT audit_payloads FROM idempotency.configure('verify.payload', audit_payloads => true);
SELECT max_attempts FROM idempotency.configure('verify.lease', max_attempts => 2);
-- 4 to 603
SELECT count(idempotency.once('verify.bulk', 'k' || i, 'request ' || i)) FROM generate_series(1, 600) AS i;
CALL verify_test.seal();
-- 604 to 606: a lease
SELECT fence FROM idempotency.claim('verify.lease', 'finished', 'request', lease => '30 min') \gset
SELECT idempotency.checkpoint('verify.lease', 'finished', :fence, 'half');
SELECT idempotency.finish('verify.lease', 'finished', 'response', :fence) IS NOT NULL AS finished;
-- 607 to 610: two attempts
SELECT fence FROM idempotency.claim('verify.lease', 'exhausted', lease => '30 min') \gset
SELECT outcome FROM idempotency.fail('verify.lease', 'exhausted', 'error', fence => :fence, retry_after_ms => 0);
SELECT fence FROM idempotency.claim('verify.lease', 'exhausted', lease => '30 min') \gset
SELECT outcome FROM idempotency.fail('verify.lease', 'exhausted', 'error', fence => :fence);
-- 611: running
SELECT fence FROM idempotency.claim('verify.lease', 'running', lease => '30 min') \gset running_
-- 612 and 613: given up, and what was before stands again
BEGIN;
SELECT outcome FROM idempotency.claim('verify.lease', 'restored', 'request');
SELECT outcome FROM idempotency.fail('verify.lease', 'restored', 'error', retry_after_ms => 0);
COMMIT;
BEGIN;
SELECT outcome FROM idempotency.claim('verify.lease', 'restored');
SELECT idempotency.release('verify.lease', 'restored');
COMMIT;
-- 614 to 616: forgotten, and a new life
BEGIN;
SELECT outcome FROM idempotency.claim('verify.tx', 'forgotten', 'request');
SELECT idempotency.finish('verify.tx', 'forgotten', 'response') IS NOT NULL AS finished;
SELECT idempotency.forget('verify.tx', 'forgotten', 'test');
COMMIT;
SELECT idempotency.once('verify.tx', 'forgotten', 'request');
-- 617: a response
BEGIN;
SELECT outcome FROM idempotency.claim('verify.tx', 'finished', 'request');
SELECT idempotency.finish('verify.tx', 'finished', 'response') IS NOT NULL AS finished;
COMMIT;
-- 618 to 620: payloads, one of them erased
BEGIN;
SELECT outcome FROM idempotency.claim('verify.payload', 'kept', 'request');
SELECT idempotency.finish('verify.payload', 'kept', 'response') IS NOT NULL AS finished;
SELECT outcome FROM idempotency.claim('verify.payload', 'erased', 'request');
SELECT idempotency.finish('verify.payload', 'erased', 'response') IS NOT NULL AS finished;
COMMIT;
SELECT idempotency.erase('verify.payload', 'erased', 'test');
CALL verify_test.seal();
-- 621 and 622: not sealed, unless there is a worker
SELECT idempotency.once('verify.bulk', 'k601'), idempotency.once('verify.bulk', 'k602');

SELECT seq, decision, key, event_no FROM idempotency.ledger_entry WHERE seq NOT BETWEEN 5 AND 602 ORDER BY seq;
SELECT * FROM idempotency.verify();
SELECT * FROM idempotency.verify(deep => false);
SELECT * FROM idempotency.verify(256, 512);
SELECT * FROM idempotency.verify(300);
SELECT * FROM idempotency.verify(NULL, NULL, NULL, NULL);
SELECT * FROM verify_test.tampered('');

--
-- What isn't asked properly
--
\set VERBOSITY sqlstate
SELECT * FROM idempotency.verify(-1);
SELECT * FROM idempotency.verify(10, 9);
SELECT * FROM idempotency.verify(external => '{NULL}');
\set VERBOSITY default
-- in the order of the array, which one
SELECT * FROM idempotency.verify(external => ARRAY[idempotency.checkpoint_text(), 'nonsense']);
CREATE FUNCTION verify_test.refused(checkpoint text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM * FROM idempotency.verify(external => ARRAY[checkpoint], deep => false);
    RETURN 'taken';
EXCEPTION WHEN SQLSTATE 'ID400' THEN
    RETURN 'refused';
END $$;
SELECT verify_test.refused(replace(v, '$', encode(sha256(''), 'base64'))) AS answer, v AS checkpoint
FROM unnest(ARRAY[E'o\n1\n$\n', E'o\n1\n$', E'o\n1\n$\n\n', E'o\n0\n$\n\n— key sig\n', E'o\n9223372036854775807\n$\n',
    '', 'o', E'o\n1', E'o\n1\n', E'\n1\n$\n', E'o\n\n$\n', E'o\n01\n$\n', E'o\n-1\n$\n', E'o\n+1\n$\n', E'o\n 1\n$\n', E'o\n9223372036854775808\n$\n', E'o\n1x\n$\n',
    E'o\n1\n$\nextension\n', E'o\n1\n$=\n', E'o\n1\n $\n', E'o\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=\n', E'o\n1\nAAAA\n', E'o\r\n1\r\n$\r\n']) AS v;

--
-- Entries.  Changed: each column in turn
--
SELECT string_agg(tampered, E'\n') FROM verify_test.tampered($$
    UPDATE idempotency.ledger_entry SET application = 'another' WHERE seq = 5 $$);
SELECT attname, (SELECT string_agg(t, '; ') FROM verify_test.tampered(format('UPDATE idempotency.ledger_entry SET %I = %s WHERE seq = 606', attname,
    CASE WHEN atttypid IN ('text'::regtype, 'bytea'::regtype) THEN format('coalesce(%I || %L, %L)', attname, CASE atttypid WHEN 'text'::regtype THEN 'x' ELSE '\x00' END, '')
         WHEN atttypid = 'timestamptz'::regtype THEN format('%I + interval ''1 us''', attname)
         WHEN atttypid = 'uuid'::regtype THEN format('encode(set_byte(uuid_send(%I), 3, get_byte(uuid_send(%I), 3) # 1), ''hex'')::uuid', attname, attname)
         ELSE format('%I + 1', attname) END)) AS t) AS found
FROM pg_attribute WHERE attrelid = 'idempotency.ledger_entry'::regclass AND attnum > 1 ORDER BY attnum;
-- null and empty differ; so do ("ab", "c") and ("a", "bc")
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_entry SET detail = '''' WHERE seq = 617');
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_entry SET principal = NULL WHERE seq = 617');
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_entry SET scope = ''verify.t'', principal = ''x'' WHERE seq = 617');
-- deleted, one and many
SELECT * FROM verify_test.tampered('DELETE FROM idempotency.ledger_entry WHERE seq = 3');
SELECT * FROM verify_test.tampered('DELETE FROM idempotency.ledger_entry WHERE decision = ''incarnation''');
SELECT tampered, count(*) FROM verify_test.tampered('DELETE FROM idempotency.ledger_entry WHERE seq BETWEEN 10 AND 509') AS tampered GROUP BY 1 ORDER BY 1;
-- inserted: a number that was free, one that was never drawn
SELECT setval('idempotency.ledger_seq', 624) AS drawn;
SELECT idempotency.once('verify.bulk', 'k603');
CALL verify_test.seal();
CREATE TABLE verify_test.forged AS SELECT * FROM idempotency.ledger_entry WHERE seq = 3;
SELECT * FROM verify_test.tampered('UPDATE verify_test.forged SET seq = 624; INSERT INTO idempotency.ledger_entry SELECT * FROM verify_test.forged');
SELECT * FROM verify_test.tampered('UPDATE verify_test.forged SET seq = 0; INSERT INTO idempotency.ledger_entry SELECT * FROM verify_test.forged');
SELECT * FROM verify_test.tampered('UPDATE verify_test.forged SET seq = 9000000; INSERT INTO idempotency.ledger_entry SELECT * FROM verify_test.forged');
-- swapped, renumbered, duplicated
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_entry SET seq = CASE seq WHEN 2 THEN -2 ELSE 2 END WHERE seq IN (2, 3); UPDATE idempotency.ledger_entry SET seq = 3 WHERE seq = -2');
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_entry SET seq = 624 WHERE seq = 3');
SELECT * FROM verify_test.tampered('UPDATE pg_index SET indisunique = false WHERE indexrelid = ''idempotency.ledger_entry_pkey''::regclass; INSERT INTO idempotency.ledger_entry SELECT * FROM verify_test.forged;
    UPDATE pg_index SET indisunique = true WHERE indexrelid = ''idempotency.ledger_entry_pkey''::regclass');
-- of a version that isn't known
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_entry SET version = 2 WHERE seq = 3');
-- the tail cut, before it was sealed and after
SELECT * FROM verify_test.tampered('DELETE FROM idempotency.ledger_entry WHERE seq = 625');
SELECT tampered, count(*) FROM verify_test.tampered('TRUNCATE idempotency.ledger_entry') AS tampered GROUP BY 1 ORDER BY 1;

--
-- Tiles and checkpoints
--
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET hashes = set_byte(hashes, 96, get_byte(hashes, 96) # 1) WHERE index = 0') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET root = set_byte(root, 0, get_byte(root, 0) # 1) WHERE index = 0') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET filter = set_byte(filter, 0, get_byte(filter, 0) # 1) WHERE index = 0') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET first_seq = 2 WHERE index = 0') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET last_seq = NULL WHERE index = 1') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET seqs = set_byte(seqs, 23, 2) WHERE index = 0') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET seqs = substr(seqs, 1, 2040) WHERE index = 0') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET hashes = NULL WHERE index = 0') AS found;
SELECT verify_test.kinds('DELETE FROM idempotency.ledger_tile WHERE index = 0') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET index = 2 WHERE index = 1') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET level = 1 WHERE index = 0') AS found;
SELECT verify_test.kinds('INSERT INTO idempotency.ledger_tile (level, index, root) VALUES (7, 0, ''\x''), (8, 1, ''\x''), (-1, 0, ''\x'')') AS found;
SELECT verify_test.kinds('TRUNCATE idempotency.ledger_tile') AS found;
CREATE VIEW verify_test.latest AS SELECT max(size) AS size FROM idempotency.ledger_checkpoint;
SELECT verify_test.kinds('UPDATE idempotency.ledger_checkpoint SET root = set_byte(root, 5, get_byte(root, 5) # 1) WHERE size = (SELECT size FROM verify_test.latest)') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_checkpoint SET root = ''\x00'' WHERE size < (SELECT size FROM verify_test.latest)') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_checkpoint SET origin = ''another'' WHERE size = (SELECT size FROM verify_test.latest)') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_checkpoint SET incarnation = 1 WHERE size = (SELECT size FROM verify_test.latest)') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_checkpoint SET lsn = ''0/1'' WHERE size = (SELECT size FROM verify_test.latest)') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_checkpoint SET sealed_seq = 10 WHERE size = (SELECT size FROM verify_test.latest)') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_checkpoint SET sealed_seq = 625 WHERE size < (SELECT size FROM verify_test.latest)') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_checkpoint SET sealed_seq = 1000000 WHERE size = (SELECT size FROM verify_test.latest)') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_checkpoint SET size = size + 1 WHERE size = (SELECT size FROM verify_test.latest)') AS found;
SELECT verify_test.kinds('UPDATE idempotency.incarnation SET origin = ''another''') AS found;
-- without the last checkpoint, its leaves are to be sealed again
SELECT verify_test.kinds('DELETE FROM idempotency.ledger_checkpoint WHERE size = (SELECT size FROM verify_test.latest)') AS found;
-- without all, there are tiles of no tree
SELECT verify_test.kinds('TRUNCATE idempotency.ledger_checkpoint') AS found;

--
-- What is remembered of keys, and payloads
--
CREATE FUNCTION verify_test.tampered_key(wanted text, assignment text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(t, '; ') FROM verify_test.tampered((SELECT string_agg(format('UPDATE idempotency.%I SET %s WHERE key = %L', relname, assignment, wanted), ';')
        FROM pg_class WHERE relnamespace = 'idempotency'::regnamespace AND relkind = 'r' AND relname ~ '^key_')) AS t $$;
SELECT wanted, assignment, verify_test.tampered_key(wanted, assignment) AS found
FROM (VALUES (1, 'finished', 'response = ''another'''), (2, 'finished', 'response = NULL'), (3, 'finished', 'state = ''f'''), (4, 'finished', 'fingerprint = sha256(''another'')'), (5, 'finished', 'fingerprint = NULL'),
             (6, 'finished', 'fingerprint = ''\x00'''), (7, 'finished', 'attempt = 2'), (8, 'finished', 'claimed_at = claimed_at + interval ''1 us'''), (9, 'finished', 'event_no = 7'), (10, 'finished', 'event_no = 0'),
             (11, 'finished', 'key = ''another'''), (12, 'finished', 'id = gen_random_uuid()'), (13, 'finished', 'withheld = ''e'', response = NULL'), (14, 'exhausted', 'error = ''another'''), (15, 'exhausted', 'state = ''r'''),
             (16, 'running', 'fence = fence + 1'), (17, 'running', 'state = ''s'''), (18, 'restored', 'state = ''s'''), (19, 'restored', 'fingerprint = sha256(''another'')'), (20, 'restored', 'event_no = 1'), (20, 'restored', 'error = ''another'''),
             (21, 'kept', 'response = ''another'''), (22, 'kept', 'request = ''another'''), (23, 'kept', 'request = NULL'), (24, 'erased', 'response = ''another'', withheld = NULL'),
             (25, 'forgotten', 'event_no = 2'),
             -- the ledger says nothing of these, or of what has expired
             (26, 'finished', 'tag = ''another'''), (27, 'finished', 'expires_at = expires_at + interval ''1 minute'''), (28, 'running', 'lease_until = lease_until + interval ''1 minute'''),
             (29, 'finished', 'response = ''another'', expires_at = ''-infinity''')) AS v(n, wanted, assignment)
ORDER BY n;
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_payload SET payload = ''another'' WHERE part = ''r''');
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_payload SET salt = sha256(salt) WHERE part = ''q''');
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_payload SET part = ''x'' WHERE part = ''q''');
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_payload SET seq = 3 WHERE part = ''q''');
SELECT * FROM verify_test.tampered('DELETE FROM idempotency.ledger_payload WHERE part = ''r''');
-- events that don't follow each other, before they are sealed
SELECT DISTINCT tampered FROM verify_test.tampered('UPDATE idempotency.ledger_entry SET event_no = 5, fence = 1 WHERE seq IN (605, 608); TRUNCATE idempotency.ledger_checkpoint, idempotency.ledger_tile') AS tampered ORDER BY 1;
-- nobody has sealed for long
SELECT * FROM verify_test.tampered('UPDATE idempotency.ledger_entry SET decided_at = decided_at - interval ''1 hour'' WHERE seq < 10; TRUNCATE idempotency.ledger_checkpoint, idempotency.ledger_tile');

--
-- What was changed while it was not audited can't be checked
--
SELECT fence FROM idempotency.claim('verify.off', 'k', lease => '30 min') \gset
SELECT audit FROM idempotency.configure('verify.off', audit => 'off');
SELECT idempotency.finish('verify.off', 'k', 'response', :fence) IS NOT NULL AS finished;
SELECT severity, what, detail FROM idempotency.verify();
SELECT audit FROM idempotency.configure('verify.off', audit => 'decisions');
SELECT severity, what FROM idempotency.verify();
-- nor does it need to be recorded
SELECT idempotency.forget('verify.off', 'k', 'test');
SELECT * FROM idempotency.verify();

--
-- A response that isn't stored is recorded all the same; what is executed once
-- more goes on with its events, and what is given up then was done before
--
SELECT store_response FROM idempotency.configure('verify.unstored', store_response => false);
SELECT on_stale_version FROM idempotency.configure('verify.again', response_version => 1, on_stale_version => 'execute');
BEGIN;
SELECT outcome FROM idempotency.claim('verify.unstored', 'unstored', 'request');
SELECT idempotency.finish('verify.unstored', 'unstored', 'response') IS NOT NULL AS finished;
SELECT outcome FROM idempotency.claim('verify.again', 'again', 'request');
SELECT idempotency.finish('verify.again', 'again', 'response') IS NOT NULL AS finished;
COMMIT;
SELECT response_version FROM idempotency.configure('verify.again', response_version => 2);
BEGIN;
SELECT outcome FROM idempotency.claim('verify.again', 'again', 'request');
SELECT idempotency.release('verify.again', 'again');
COMMIT;
SELECT decision, event_no FROM idempotency.ledger_entry WHERE scope = 'verify.again' AND key = 'again' ORDER BY seq;
SELECT * FROM idempotency.verify();
SELECT verify_test.tampered_key('again', 'response = ''another''') AS found;
BEGIN;
SELECT outcome FROM idempotency.claim('verify.again', 'again');
SELECT idempotency.finish('verify.again', 'again', 'response') IS NOT NULL AS finished;
COMMIT;
SELECT * FROM idempotency.verify();
SELECT verify_test.tampered_key('again', 'response = ''another''') AS found;
SELECT verify_test.tampered_key('unstored', 'state = ''r''') AS found;

--
-- In a transaction that has decided something, and may only read
--
BEGIN;
SELECT outcome FROM idempotency.claim('verify.tx', 'mine', 'request');
SELECT idempotency.finish('verify.tx', 'mine', 'response') IS NOT NULL AS finished;
SELECT outcome FROM idempotency.claim('verify.tx', 'finished', 'another request');
SAVEPOINT s;
SELECT outcome FROM idempotency.claim('verify.lease', 'restored');
SELECT * FROM idempotency.verify();
ROLLBACK TO s;
SELECT * FROM idempotency.verify();
COMMIT;
BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT * FROM idempotency.verify();
COMMIT;

--
-- External checkpoints.  Who can write everything makes a ledger that is
-- consistent in itself, but not with what others have kept
--
CALL verify_test.seal();
CREATE TABLE verify_test.kept AS
SELECT size, origin, idempotency.checkpoint_text(size) AS text FROM idempotency.ledger_checkpoint WHERE size > 256;
SELECT * FROM idempotency.verify(external => ARRAY(SELECT text FROM verify_test.kept ORDER BY size));
SELECT * FROM idempotency.verify(external => ARRAY(SELECT text || E'\n— signature\n' FROM verify_test.kept ORDER BY size), deep => false);
SELECT severity, what, detail FROM verify_test.kept, idempotency.verify(external => ARRAY[origin || E'/x\n600\n' || split_part(text, E'\n', 3)]) WHERE size = (SELECT size FROM verify_test.latest);
SELECT severity, what, place FROM verify_test.kept, idempotency.verify(external => ARRAY[origin || E'\n600\n' || split_part(text, E'\n', 3)]) WHERE size = (SELECT size FROM verify_test.latest);
SELECT severity, what, place, detail FROM verify_test.kept, idempotency.verify(external => ARRAY[origin || E'\n700\n' || split_part(text, E'\n', 3)]) WHERE size = (SELECT size FROM verify_test.latest);
-- the size is right, and the root that of another
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE idempotency.ledger_entry SET application = 'nobody' WHERE seq = 606;
TRUNCATE idempotency.ledger_tile, idempotency.ledger_checkpoint;
SELECT result FROM idempotency.maintain() WHERE duty = 'seal';
SELECT * FROM idempotency.verify();
SELECT DISTINCT what, detail LIKE 'Of the first % entries some were changed%' AS said FROM idempotency.verify(external => ARRAY(SELECT text FROM verify_test.kept WHERE size > 606), deep => false);
-- the tail is cut
DELETE FROM idempotency.ledger_entry WHERE seq > 610;
TRUNCATE idempotency.ledger_tile, idempotency.ledger_checkpoint;
SELECT result FROM idempotency.maintain() WHERE duty = 'seal';
SELECT DISTINCT what FROM idempotency.verify(external => ARRAY(SELECT text FROM verify_test.kept WHERE size > 615), deep => false);
SELECT DISTINCT what FROM idempotency.verify();
ROLLBACK;
-- the note of a witness is one more thing to think of
SELECT idempotency.witnessed(text || E'\n— signature\n') = size AS witnessed FROM verify_test.kept WHERE size = (SELECT size FROM verify_test.latest);
SELECT * FROM idempotency.verify();
SELECT verify_test.kinds('UPDATE idempotency.ledger_witness SET note = replace(note, size::text, ''600''), size = 600') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_witness SET note = ''another''') AS found;

--
-- Tables that are not what they were
--
SELECT * FROM verify_test.tampered('ALTER TABLE idempotency.ledger_entry DISABLE TRIGGER ALL; DROP TRIGGER ledger_tile_append_only ON idempotency.ledger_tile; ALTER TABLE idempotency.ledger_checkpoint ENABLE REPLICA TRIGGER ledger_checkpoint_append_only');
SELECT verify_test.kinds('ALTER TABLE idempotency.ledger_entry ALTER decision DROP NOT NULL; UPDATE idempotency.ledger_entry SET decision = NULL WHERE seq = 606') AS found;
SELECT verify_test.kinds('ALTER TABLE idempotency.ledger_tile ALTER root DROP NOT NULL; UPDATE idempotency.ledger_tile SET root = NULL WHERE index = 1') AS found;
SELECT verify_test.kinds('ALTER TABLE idempotency.ledger_checkpoint ALTER root DROP NOT NULL; UPDATE idempotency.ledger_checkpoint SET root = NULL') AS found;
SELECT verify_test.kinds('ALTER TABLE idempotency.ledger_payload ALTER salt DROP NOT NULL; UPDATE idempotency.ledger_payload SET salt = NULL') AS found;
SELECT verify_test.kinds('ALTER TABLE idempotency.key_day_0 ALTER owner TYPE text') AS found;
SELECT verify_test.kinds('ALTER TABLE idempotency.ledger_tile ALTER seqs TYPE text') AS found;
SELECT verify_test.kinds('ALTER TABLE idempotency.ledger_tile DROP COLUMN filter') AS found;
SELECT * FROM verify_test.tampered('ALTER TABLE idempotency.ledger_checkpoint ADD COLUMN another int');
SELECT * FROM verify_test.tampered('CREATE INDEX another ON idempotency.ledger_entry (scope)');
SELECT * FROM verify_test.tampered('ALTER EXTENSION idempotency DROP TABLE idempotency.ledger_payload; DROP TABLE idempotency.ledger_payload');

--
-- Pruned
--
BEGIN;
SELECT idempotency.prune(512, 'test') AS pruned;
SELECT * FROM idempotency.verify();
COMMIT;
SELECT * FROM idempotency.verify();
SELECT * FROM idempotency.verify(100);
SELECT * FROM idempotency.verify(600);
SELECT * FROM idempotency.verify(0, 512);
CALL verify_test.seal();
SELECT * FROM idempotency.verify(external => ARRAY(SELECT text FROM verify_test.kept ORDER BY size));
SELECT verify_test.kinds('TRUNCATE idempotency.ledger_prune') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_prune SET min_index = 256') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_prune SET min_index = 500') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_prune SET min_index = 1024') AS found;
SELECT verify_test.kinds('DELETE FROM idempotency.ledger_entry WHERE seq = 514') AS found;
SELECT verify_test.kinds('INSERT INTO idempotency.ledger_entry SELECT * FROM verify_test.forged') AS found;
SELECT verify_test.kinds('UPDATE idempotency.ledger_tile SET root = sha256(root)') AS found;

--
-- Who may: an auditor sees places and numbers, and needs no other right
--
CREATE ROLE regress_idempotency_auditor;
SET ROLE regress_idempotency_auditor;
SELECT * FROM idempotency.verify();
RESET ROLE;
GRANT EXECUTE ON FUNCTION idempotency.verify TO regress_idempotency_auditor;
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE idempotency.ledger_entry SET key = 'secret', detail = 'secret' WHERE key = 'finished';
SET ROLE regress_idempotency_auditor;
SELECT DISTINCT what FROM idempotency.verify();
SELECT count(*) AS telling FROM idempotency.verify() AS v WHERE v::text ~ 'secret|finished|request|verify[.]';
SELECT count(*) FROM idempotency.ledger_entry;
ROLLBACK;
REVOKE EXECUTE ON FUNCTION idempotency.verify FROM regress_idempotency_auditor;
DROP ROLE regress_idempotency_auditor;
-- and after all of that
SELECT * FROM idempotency.verify(external => ARRAY(SELECT text FROM verify_test.kept ORDER BY size));
\c :before
DROP DATABASE regress_idempotency_verify;
