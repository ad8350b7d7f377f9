--
-- The same load on both sides.  The business table is emptied now and then, so
-- that what grows is the dedup alone.
--
CREATE SCHEMA steady;
CREATE TABLE steady.business (id bigserial PRIMARY KEY, key text, amount int);
CREATE TABLE steady.idempotency_keys (
	key text PRIMARY KEY,
	status text NOT NULL DEFAULT 'processing',
	request_hash bytea,
	response text,
	created_at timestamptz NOT NULL DEFAULT now(),
	expires_at timestamptz NOT NULL
);
CREATE INDEX ON steady.idempotency_keys (expires_at);
SELECT FROM idempotency.configure('steady', retention => '1 hour', max_lease => '1 minute');

-- bytes of the keys, on whichever side they are
CREATE VIEW steady.bytes AS
	SELECT sum(pg_total_relation_size(oid))::bigint AS bytes FROM pg_class
	WHERE relkind = 'r' AND (oid = 'steady.idempotency_keys'::regclass
		OR relnamespace = 'idempotency'::regnamespace AND relname LIKE 'key%');
