-- schema.sql: what the demo's database holds.
--
-- The effects tables have no unique constraint, so that a duplicate can show.

CREATE EXTENSION idempotency;

CREATE TABLE orders (order_id int PRIMARY KEY, amount numeric NOT NULL);

-- one side: the extension, which keeps its keys itself
CREATE SCHEMA with_extension;
CREATE TABLE with_extension.effects (
	effect_id	bigint GENERATED ALWAYS AS IDENTITY,
	order_id	int NOT NULL,
	amount		numeric NOT NULL,
	made_at		timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- the other: the table that most applications write by hand
CREATE SCHEMA hand_written;
CREATE TABLE hand_written.effects (LIKE with_extension.effects INCLUDING ALL);
CREATE TABLE hand_written.idempotency_keys (
	key			text PRIMARY KEY,
	status		text NOT NULL,
	response	text,
	locked_at	timestamptz NOT NULL
);

-- What the clients wrote down, each in a file of its own, loaded at the end:
-- S sent, C what the claim said, A answer received, D dropped its connection,
-- K was killed, T its backend was terminated, E an SQL error.
CREATE TABLE answers (
	side		text NOT NULL,		-- with_extension or hand_written
	phase		text NOT NULL,		-- storm, final or reuse
	client		text NOT NULL,
	kind		char(1) NOT NULL,
	order_id	int,
	answer		text,				-- execute, replay, ...; SQLSTATE of an error
	receipt		text				-- the response that the client was given
);

CREATE VIEW effects AS
	SELECT 'with_extension' AS side, * FROM with_extension.effects
	UNION ALL
	SELECT 'hand_written', * FROM hand_written.effects;

-- An order is done for a client when it was told so, at any time.
CREATE VIEW told_done AS
	SELECT DISTINCT side, order_id FROM answers
	 WHERE kind = 'A' AND answer IN ('execute', 'take_over', 'replay');

CREATE VIEW counts AS
	SELECT 1 AS n, 'orders' AS what, side, count(*)
	  FROM orders, (VALUES ('with_extension'), ('hand_written')) AS s (side) GROUP BY side
	UNION ALL
	SELECT 2, 'requests sent', side, count(*) FROM answers WHERE kind = 'S' GROUP BY side
	UNION ALL
	SELECT 3, '  cut off before an answer', side,
		   count(*) FILTER (WHERE kind = 'S') - count(*) FILTER (WHERE kind = 'A')
	  FROM answers GROUP BY side
	UNION ALL
	SELECT 4, '  connections dropped', side, count(*) FROM answers WHERE kind = 'D' GROUP BY side
	UNION ALL
	SELECT 5, '  clients killed (kill -9)', side, count(*) FROM answers WHERE kind = 'K' GROUP BY side
	UNION ALL
	SELECT 6, '  backends terminated', side, count(*) FROM answers WHERE kind = 'T' GROUP BY side
	UNION ALL
	SELECT 7, '  SQL errors (' || answer || ')', side, count(*)
	  FROM answers WHERE kind = 'E' GROUP BY side, answer
	UNION ALL
	SELECT 10, 'effects', side, count(*) FROM effects GROUP BY side
	UNION ALL
	SELECT 11, 'DUPLICATES: effects beyond one per order', side, count(*) - count(DISTINCT order_id)
	  FROM effects GROUP BY side
	UNION ALL
	SELECT 12, 'LOST: told "done", but no effect', side, count(*)
	  FROM told_done t
	 WHERE NOT EXISTS (SELECT FROM effects e WHERE e.side = t.side AND e.order_id = t.order_id)
	 GROUP BY side
	UNION ALL
	SELECT 13, 'LOST: never done, final round included', side, count(*)
	  FROM orders o, (VALUES ('with_extension'), ('hand_written')) AS s (side)
	 WHERE NOT EXISTS (SELECT FROM told_done t WHERE t.side = s.side AND t.order_id = o.order_id)
	 GROUP BY side
	UNION ALL
	SELECT 14, 'orders with two different receipts told', side, count(*)
	  FROM (SELECT side, order_id FROM answers
			 WHERE kind = 'A' AND receipt <> '-'
			 GROUP BY side, order_id HAVING count(DISTINCT receipt) > 1) AS contradicted
	 GROUP BY side
	UNION ALL
	SELECT 15, 'another request under a used key, sent', side, count(*)
	  FROM answers WHERE phase = 'reuse' AND kind = 'S' GROUP BY side
	UNION ALL
	SELECT 16, '  answered with the other one''s receipt', side, count(*)
	  FROM answers WHERE phase = 'reuse' AND kind = 'A' AND receipt <> '-' GROUP BY side
	UNION ALL
	SELECT 20, 'the claim said ' || answer, side, count(*)
	  FROM answers WHERE kind = 'C' GROUP BY side, answer;

CREATE VIEW comparison AS
	SELECT what AS " ",
		   coalesce(sum(count) FILTER (WHERE side = 'with_extension'), 0) AS "with idempotency",
		   coalesce(sum(count) FILTER (WHERE side = 'hand_written'), 0) AS "hand-written"
	  FROM (SELECT * FROM counts
			-- a line that counts nothing on either side is to be seen too
			UNION ALL
			SELECT n, what, 'with_extension', 0
			  FROM (VALUES (11, 'DUPLICATES: effects beyond one per order'),
						   (12, 'LOST: told "done", but no effect'),
						   (13, 'LOST: never done, final round included'),
						   (14, 'orders with two different receipts told'),
						   (16, '  answered with the other one''s receipt')) AS zero (n, what)) AS c
	 GROUP BY n, what
	 ORDER BY n, what;
