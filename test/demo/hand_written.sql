-- hand_written.sql: one request as most applications send it.
--
-- A row is inserted as "processing", the work is done, the row is updated to
-- "done": three transactions.  A retry that finds it "done" gets the stored
-- response; "processing" for more than a second means that somebody died, and
-- is taken over.  Expects the same variables as with_extension.sql.
\echo S :order_id
WITH inserted AS (
	INSERT INTO hand_written.idempotency_keys (key, status, locked_at)
	VALUES (:'key', 'processing', clock_timestamp())
	ON CONFLICT DO NOTHING
	RETURNING key)
SELECT 'execute' AS outcome, EXISTS (SELECT FROM inserted) AS execute, '-' AS response \gset
\if :execute
\else
	SELECT CASE WHEN status = 'done' THEN 'replay' ELSE 'in_progress' END AS outcome,
		   coalesce(response, '-') AS response,
		   status = 'processing' AND locked_at < clock_timestamp() - interval '1 second' AS stale
	  FROM hand_written.idempotency_keys WHERE key = :'key' \gset
	\if :stale
		WITH taken AS (
			UPDATE hand_written.idempotency_keys SET locked_at = clock_timestamp()
			 WHERE key = :'key' AND status = 'processing'
			   AND locked_at < clock_timestamp() - interval '1 second'
			RETURNING key)
		SELECT EXISTS (SELECT FROM taken) AS execute,
			   CASE WHEN EXISTS (SELECT FROM taken) THEN 'take_over' ELSE 'in_progress' END AS outcome \gset
	\endif
\endif
\echo C :order_id :outcome
\if :drop_after_claim
	\echo D :order_id
	\q
\endif
\if :execute
	-- the business write, which takes its time
	INSERT INTO hand_written.effects (order_id, amount)
	SELECT :order_id, :amount FROM pg_sleep(0.02)
	RETURNING '{"receipt":' || effect_id || '}' AS response \gset
	\if :drop_after_work
		\echo D :order_id
		\q
	\endif
	UPDATE hand_written.idempotency_keys SET status = 'done', response = :'response'
	 WHERE key = :'key';
\endif
\if :drop_before_answer
	\echo D :order_id
	\q
\endif
\echo A :order_id :outcome :response
