--
-- Consumers: accept() beside the hand-written inbox.
--
CREATE TABLE bench.inbox (
	consumer text NOT NULL,
	stream text NOT NULL,
	seq bigint NOT NULL,
	received_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (consumer, stream, seq)
);

-- microseconds per event, of n events from first on, in transactions of "each"
CREATE PROCEDURE bench.inbox_hand(first bigint, n int, each int, INOUT us float8 = 0) LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz := clock_timestamp();
	done int;
BEGIN
	FOR i IN 1 .. n LOOP
		INSERT INTO bench.inbox (consumer, stream, seq) VALUES ('bench', 'orders', first + i)
			ON CONFLICT DO NOTHING;
		GET DIAGNOSTICS done = ROW_COUNT;
		IF i % each = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
	us := extract(epoch FROM clock_timestamp() - began) * 1e6 / n;
END
$$;

CREATE PROCEDURE bench.inbox_accept(strategy text, first bigint, n int, each int, INOUT us float8 = 0) LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz := clock_timestamp();
	done text;
BEGIN
	FOR i IN 1 .. n LOOP
		done := (idempotency.accept(strategy, 'orders', seq => first + i)).outcome;
		IF i % each = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
	us := extract(epoch FROM clock_timestamp() - began) * 1e6 / n;
END
$$;

-- the same events, 30 of a hundred up to 1000 places late
CREATE PROCEDURE bench.inbox_shuffled(first bigint, n int, each int, INOUT us float8 = 0) LANGUAGE plpgsql AS $$
DECLARE
	seqs bigint[] := ARRAY(SELECT first + i FROM generate_series(1, n) AS i
		ORDER BY CASE WHEN random() < 0.3 THEN i + random() * 1000 ELSE i END);
	began timestamptz := clock_timestamp();
	done text;
BEGIN
	FOR i IN 1 .. n LOOP
		done := (idempotency.accept('sequence', 'orders', seq => seqs[i])).outcome;
		IF i % each = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
	us := extract(epoch FROM clock_timestamp() - began) * 1e6 / n;
END
$$;

-- microseconds of one statement that takes n events
CREATE PROCEDURE bench.inbox_hand_many(first bigint, n int, INOUT us float8 = 0) LANGUAGE plpgsql AS $$
DECLARE
	seqs bigint[];
	began timestamptz;
BEGIN
	-- the first one warms the session up
	FOR i IN 0 .. 10 LOOP
		seqs := ARRAY(SELECT first + i * n + j FROM generate_series(1, n) AS j);
		began := clock_timestamp();
		INSERT INTO bench.inbox (consumer, stream, seq) SELECT 'bench', 'many', s FROM unnest(seqs) AS s
			ON CONFLICT DO NOTHING;
		us := us + CASE WHEN i > 0 THEN extract(epoch FROM clock_timestamp() - began) * 1e5 ELSE 0 END;
		COMMIT;
	END LOOP;
END
$$;

CREATE PROCEDURE bench.inbox_accept_many(first bigint, n int, INOUT us float8 = 0) LANGUAGE plpgsql AS $$
DECLARE
	seqs bigint[];
	began timestamptz;
	done int;
BEGIN
	FOR i IN 0 .. 10 LOOP
		seqs := ARRAY(SELECT first + i * n + j FROM generate_series(1, n) AS j);
		began := clock_timestamp();
		SELECT count(*) INTO done FROM idempotency.accept_many('sequence', 'many', seqs) WHERE outcome = 'process';
		us := us + CASE WHEN i > 0 THEN extract(epoch FROM clock_timestamp() - began) * 1e5 ELSE 0 END;
		COMMIT;
	END LOOP;
END
$$;

SELECT idempotency.configure_consumer(s, strategy => s) IS NOT NULL
FROM unnest('{sequence,ordered,high_water}'::text[]) AS s;
