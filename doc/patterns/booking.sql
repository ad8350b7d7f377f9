-- What booking.py needs, on top of schema.sql.
CREATE TABLE seat (
	name text PRIMARY KEY,
	taken_by text
);

-- Undoes the step "seat"; there may be nothing to undo.
CREATE FUNCTION free_seat(args text, context jsonb) RETURNS void LANGUAGE sql AS $$
	UPDATE seat SET taken_by = NULL WHERE name = args AND taken_by = context->>'key';
$$;

SELECT idempotency.configure('booking', backoff_base => '100 ms', max_attempts => 100, saga_deadline => '1 hour');

GRANT SELECT, INSERT, UPDATE ON seat TO app;
GRANT EXECUTE ON FUNCTION idempotency.claim, idempotency.finish, idempotency.peek,
	idempotency.compensate_with, idempotency.step_done, idempotency.steps, idempotency.compensate,
	idempotency.next_compensation, idempotency.settle_compensation, idempotency.run_compensations TO app;
