--
-- What bench.measure() takes in turn.
--
TRUNCATE bench.variant;
INSERT INTO bench.variant VALUES
(1, 'nothing',
 $$SELECT count(*) FROM bench.key, LATERAL bench.nothing('bench', k, repeat('x', 200)) AS c
	WHERE i > $1 AND i <= $2$$),
(2, 'floor',
 $$SELECT count(*) FROM bench.key, LATERAL bench.floor('bench.floor', k, repeat('x', 200)) AS c
	WHERE i > $1 AND i <= $2$$),
(3, 'claim + finish',
 $$SELECT count(*) FROM bench.key, LATERAL idempotency.claim('bench', k) AS c,
	LATERAL idempotency.finish('bench', k, repeat('x', 200)) AS f
	WHERE i > $1 AND i <= $2$$),
(4, 'hand-written',
 $$SELECT count(*) FROM bench.key, LATERAL bench.hand_claim(k) AS c,
	LATERAL bench.hand_finish(k, repeat('x', 200)) AS f
	WHERE i > $1 AND i <= $2$$),
(5, 'replay',
 $$SELECT count(*) FROM bench.key, LATERAL idempotency.claim('bench', k) AS c
	WHERE i > $1 AND i <= $2$$),
(6, 'hand-written duplicate',
 $$SELECT count(*) FROM bench.key, LATERAL bench.hand_claim(k) AS c
	WHERE i > $1 AND i <= $2$$),
(7, 'claim',
 $$SELECT count(*) FROM bench.key, LATERAL idempotency.claim('bench.commit', k) AS c
	WHERE i > $1 AND i <= $2$$),
(8, 'claim_many',
 $$SELECT count(*) FROM idempotency.claim_many('bench.commit',
	(SELECT array_agg('many' || k) FROM bench.key WHERE i > $1 AND i <= $2)) AS c$$);
