--
-- The contenders, in a session of its own: the library under test is the one
-- built with the floor function (make testlib), for all sides.
--
CREATE SCHEMA bench;

-- the floor: the row that claim() and finish() leave, inserted once, unasked
CREATE FUNCTION bench.floor(scope text, key text, response text,
	OUT outcome text, OUT response text, OUT failed bool, OUT error text,
	OUT fence int8, OUT attempt int4, OUT recovery_point text, OUT state text,
	OUT retry_after_ms int8, OUT reason text, OUT claimed_at timestamptz,
	OUT finished_at timestamptz, OUT lease_until timestamptz,
	OUT expires_at timestamptz)
LANGUAGE c AS :'library', 'idempotency_bench_floor';

-- what a call costs that does nothing
CREATE FUNCTION bench.nothing(scope text, key text, response text,
	OUT outcome text, OUT response text, OUT failed bool, OUT error text,
	OUT fence int8, OUT attempt int4, OUT recovery_point text, OUT state text,
	OUT retry_after_ms int8, OUT reason text, OUT claimed_at timestamptz,
	OUT finished_at timestamptz, OUT lease_until timestamptz,
	OUT expires_at timestamptz)
LANGUAGE c AS :'library', 'idempotency_bench_nothing';

-- the hand-written table, as it is found in applications
CREATE TABLE bench.idempotency_keys (
	key text PRIMARY KEY,
	status text NOT NULL DEFAULT 'processing',
	request_hash bytea,
	response text,
	created_at timestamptz NOT NULL DEFAULT now(),
	expires_at timestamptz NOT NULL
);
CREATE INDEX ON bench.idempotency_keys (expires_at);

CREATE FUNCTION bench.hand_claim(k text, OUT outcome text, OUT stored text)
LANGUAGE plpgsql AS $$
DECLARE
	n int;
BEGIN
	INSERT INTO bench.idempotency_keys (key, expires_at)
		VALUES (k, clock_timestamp() + interval '1 day')
		ON CONFLICT (key) DO NOTHING;
	GET DIAGNOSTICS n = ROW_COUNT;
	IF n = 1 THEN
		outcome := 'execute';
		RETURN;
	END IF;
	SELECT CASE t.status WHEN 'done' THEN 'replay' ELSE 'in_progress' END,
		t.response
		INTO outcome, stored
		FROM bench.idempotency_keys AS t WHERE t.key = k;
END
$$;

CREATE FUNCTION bench.hand_finish(k text, r text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
	UPDATE bench.idempotency_keys SET status = 'done', response = r
		WHERE key = k;
	RETURN FOUND;
END
$$;

-- the hand-written lease: a token and a deadline
CREATE TABLE bench.leases (
	key text PRIMARY KEY,
	status text NOT NULL DEFAULT 'processing',
	token text NOT NULL,
	locked_until timestamptz NOT NULL,
	response text,
	expires_at timestamptz NOT NULL
);
CREATE INDEX ON bench.leases (expires_at);

-- who is at the hot key: more than one at a time would be seen here
CREATE TABLE bench.hot (inside int NOT NULL, entered bigint NOT NULL, crowded bigint NOT NULL)
	WITH (fillfactor = 10, autovacuum_enabled = false);
INSERT INTO bench.hot VALUES (0, 0, 0);
CREATE FUNCTION bench.enter() RETURNS void LANGUAGE sql AS
	'UPDATE bench.hot SET inside = inside + 1, entered = entered + 1, crowded = crowded + (inside > 0)::int';
CREATE FUNCTION bench.leave() RETURNS void LANGUAGE sql AS
	'UPDATE bench.hot SET inside = inside - 1';

-- keys as clients make them: UUIDs, in no order
CREATE UNLOGGED TABLE bench.key AS
	SELECT i, md5('bench' || i)::uuid::text AS k
	FROM generate_series(1, 400000) AS i;
CREATE UNIQUE INDEX ON bench.key (i);
VACUUM ANALYZE bench.key;

-- what a transaction is for
CREATE TABLE bench.business (id bigserial PRIMARY KEY, key text, amount int);

CREATE UNLOGGED TABLE bench.variant (ord int, name text PRIMARY KEY, sql text);
CREATE UNLOGGED TABLE bench.sample (name text, round int, us float8);

-- one transaction per sample and the variants in turn, so that whatever else
-- the machine is doing hits all alike
CREATE PROCEDURE bench.measure(rounds int, n int, first int)
LANGUAGE plpgsql AS $$
DECLARE
	v record;
	started timestamptz;
BEGIN
	FOR r IN 1 .. rounds LOOP
		FOR v IN SELECT * FROM bench.variant ORDER BY ord LOOP
			started := clock_timestamp();
			EXECUTE v.sql USING first + (r - 1) * n, first + r * n;
			INSERT INTO bench.sample VALUES (v.name, r,
				extract(epoch FROM clock_timestamp() - started) * 1e6 / n);
			COMMIT;
		END LOOP;
	END LOOP;
END
$$;

CREATE VIEW bench.median AS
	SELECT name, percentile_cont(0.5) WITHIN GROUP (ORDER BY us) AS us
	FROM bench.sample GROUP BY name;

-- empties both sides, and sets the free space map and the caches even
CREATE PROCEDURE bench.empty()
LANGUAGE plpgsql AS $$
DECLARE
	t text;
BEGIN
	TRUNCATE bench.idempotency_keys, bench.business, bench.leases;
	FOR t IN SELECT relname FROM pg_class
		WHERE relnamespace = 'idempotency'::regnamespace AND relkind = 'r'
		AND relname LIKE 'key%' LOOP
		EXECUTE format('TRUNCATE idempotency.%I', t);
	END LOOP;
END
$$;

SELECT FROM idempotency.configure('bench.commit', unfinished => 'succeed');

-- the ledger is measured by itself (ledger.sh)
SELECT audit FROM idempotency.configure('*', audit => 'off');

-- claim, finish and commit, so many times; says how many microseconds each took
CREATE PROCEDURE bench.transactions(n int) LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz := clock_timestamp();
	prefix text := md5(random()::text);
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM c.outcome FROM idempotency.claim('bench', prefix || i) AS c;
		PERFORM idempotency.finish('bench', prefix || i, '{"status": "created", "id": 12345}');
		COMMIT;
	END LOOP;
	RAISE NOTICE '%', round(extract(epoch FROM clock_timestamp() - began) * 1e6 / n, 2);
END
$$;

-- one entry for each row
CREATE TABLE bench.deduped (key text);
CREATE TRIGGER once BEFORE INSERT ON bench.deduped
	FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('bench', 'key');
