-- with_extension.sql: one request as a client of the extension sends it.
--
-- Claim, work and finish are one transaction.  Expects order_id, amount, key,
-- request, and the places where this request's connection is to be dropped.
\echo S :order_id
BEGIN;
SELECT outcome, outcome = 'execute' AS execute, coalesce(response, '-') AS response
  FROM idempotency.claim('orders.create', :'key', :'request', wait => '5 ms') \gset
\echo C :order_id :outcome
\if :drop_after_claim
	\echo D :order_id
	\q
\endif
\if :execute
	-- the business write, which takes its time
	INSERT INTO with_extension.effects (order_id, amount)
	SELECT :order_id, :amount FROM pg_sleep(0.02)
	RETURNING '{"receipt":' || effect_id || '}' AS response \gset
	\if :drop_after_work
		\echo D :order_id
		\q
	\endif
	SELECT 1 AS finished FROM idempotency.finish('orders.create', :'key', :'response') \gset
\endif
COMMIT;
\if :drop_before_answer
	\echo D :order_id
	\q
\endif
\echo A :order_id :outcome :response
