--
-- n keys in the hand-written table.
--
INSERT INTO bench.idempotency_keys (key, status, response, expires_at)
SELECT md5('fill' || i)::uuid::text, 'done', repeat('x', 200),
	now() + interval '24 hours'
FROM generate_series(1, :n) AS i;
