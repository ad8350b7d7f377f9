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
CREATE TABLE posting (
	n bigint GENERATED ALWAYS AS IDENTITY,
	part text NOT NULL,
	"offset" bigint NOT NULL,
	account text NOT NULL,
	amount numeric NOT NULL
);
CREATE TABLE webhook (
	delivery text NOT NULL,
	event text NOT NULL,
	action text
);
CREATE TABLE copied (
	n_in_all bigint GENERATED ALWAYS AS IDENTITY,
	position bigint NOT NULL,
	n int NOT NULL,
	change text NOT NULL
);

-- a completer has nothing but what is stored to go by
SELECT idempotency.configure('payments.create', store_request => true, require_request => true,
	max_lease => '5 min', retention => '3 days');
SELECT idempotency.configure('payouts.run', require_request => true, max_lease => '5 min',
	retention => '30 days', max_attempts => 100);
-- how old a page can be that nobody invalidates, and how long who wants it waits
SELECT idempotency.configure('page', retention => '1 min', wait => '2 s');
-- positions have holes; only the broker's order counts
SELECT idempotency.configure_consumer('ledger', strategy => 'high_water');
SELECT idempotency.configure_consumer('copy', strategy => 'high_water');
-- for longer than the sender can deliver again
SELECT idempotency.configure_consumer('builds', strategy => 'id', retention => '4 days', wait => '5 s');

CREATE ROLE app LOGIN;
GRANT SELECT, INSERT ON payment, payout, payout_run TO app;
GRANT EXECUTE ON FUNCTION idempotency.claim, idempotency.checkpoint, idempotency.heartbeat,
	idempotency.finish, idempotency.fail TO app;
-- only for the cache
GRANT SELECT, UPDATE ON product TO app;
GRANT EXECUTE ON FUNCTION idempotency.run, idempotency.invalidate TO app;
-- only for consumers of events
GRANT INSERT ON posting, webhook, copied TO app;
GRANT EXECUTE ON FUNCTION idempotency.accept, idempotency.position TO app;
-- only for the completer
GRANT EXECUTE ON FUNCTION idempotency.take_abandoned TO app;
-- whoever stops in the middle of a transaction must not keep the others waiting
ALTER ROLE app SET idle_in_transaction_session_timeout = '10 s';
