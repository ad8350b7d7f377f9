-- What the recipes need: their tables, their policies, and a role for them.
CREATE TABLE payment (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	account text NOT NULL,
	amount numeric NOT NULL,
	charge text NOT NULL
);
CREATE TABLE payout (
	run text NOT NULL,
	invoice text NOT NULL,
	charge text NOT NULL
);
CREATE TABLE payout_run (
	run text NOT NULL,
	invoices int NOT NULL
);
CREATE TABLE product (
	id int PRIMARY KEY,
	name text NOT NULL,
	price int NOT NULL
);

-- a completer has nothing but what is stored to go by
SELECT idempotency.configure('payments.create', store_request => true, require_request => true,
	max_lease => '5 min', retention => '3 days');
SELECT idempotency.configure('payouts.run', require_request => true, max_lease => '5 min',
	retention => '30 days', max_attempts => 100);
-- how old a page can be that nobody invalidates, and how long who wants it waits
SELECT idempotency.configure('page', retention => '1 min', wait => '2 s');

CREATE ROLE app LOGIN;
GRANT SELECT, INSERT ON payment, payout, payout_run TO app;
GRANT EXECUTE ON FUNCTION idempotency.claim, idempotency.checkpoint, idempotency.heartbeat,
	idempotency.finish, idempotency.fail TO app;
-- only for the cache
GRANT SELECT, UPDATE ON product TO app;
GRANT EXECUTE ON FUNCTION idempotency.run, idempotency.invalidate TO app;
-- only for the completer
GRANT EXECUTE ON FUNCTION idempotency.take_abandoned TO app;
-- whoever stops in the middle of a transaction must not keep the others waiting
ALTER ROLE app SET idle_in_transaction_session_timeout = '10 s';
