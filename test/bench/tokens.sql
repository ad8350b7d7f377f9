--
-- What bench.measure() takes in turn to see what tokens, tags and wrong tokens
-- cost.  The keys are tokens on both sides, so that they are as long.
--
SELECT FROM idempotency.configure('bench.token', unfinished => 'succeed', require_token => true);
SELECT FROM idempotency.configure('bench.tag');
SELECT FROM idempotency.configure('bench.wait', wait => '10 s');
CREATE UNLOGGED TABLE IF NOT EXISTS bench.token (i int, k text);
TRUNCATE bench.token;
INSERT INTO bench.token SELECT i, idempotency.issue_token('bench.token', ttl => '1 day') FROM generate_series(1, 100000) AS i;
CREATE INDEX IF NOT EXISTS token_i ON bench.token (i);
VACUUM ANALYZE bench.token;
TRUNCATE bench.variant;
INSERT INTO bench.variant VALUES
(1, 'token', $$SELECT count(*) FROM bench.token, LATERAL idempotency.claim('bench.token', k) AS c WHERE i > $1 AND i <= $2$$),
(2, 'no token', $$SELECT count(*) FROM bench.token, LATERAL idempotency.claim('bench.commit', k) AS c WHERE i > $1 AND i <= $2$$);

-- a wrong token raises, so each is caught; what that costs is on all sides
CREATE OR REPLACE FUNCTION bench.refused(k text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idempotency.claim('bench.token', k);
	RETURN 'taken';
EXCEPTION WHEN others THEN
	RETURN sqlstate;
END $$;
SET client_min_messages = warning;
DROP TABLE IF EXISTS bench.wrong_token;
CREATE UNLOGGED TABLE bench.wrong_token AS
SELECT i, what, CASE what
	WHEN 'MAC' THEN left(k, 83) || CASE right(k, 1) WHEN 'A' THEN 'B' ELSE 'A' END
	WHEN 'first byte of the MAC' THEN overlay(k PLACING CASE substr(k, 44, 1) WHEN 'A' THEN 'B' ELSE 'A' END FROM 44 FOR 1)
	WHEN 'key id' THEN overlay(k PLACING 'f___' FROM 3 FOR 4)
	WHEN 'version' THEN 'B' || substr(k, 2)
	WHEN 'character' THEN '!' || substr(k, 2)
	WHEN 'length' THEN left(k, 83)
	WHEN 'everything' THEN 'no token at all' END AS k
FROM bench.token, unnest('{MAC,first byte of the MAC,key id,version,character,length,everything}'::text[]) AS what
WHERE i <= 30000;
CREATE INDEX ON bench.wrong_token (what, i);
VACUUM ANALYZE bench.wrong_token;
