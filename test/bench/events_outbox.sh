# shellcheck shell=bash
#
# events_outbox.sh
#		The producers' part of the benchmark, sourced by run.sh: what it costs to
#		emit an event, against a plain INSERT of the same row into a table with
#		the same two indexes, each in a transaction of its own.

# emitted CALL: microseconds of server time per transaction, of 10000.
emitted()
{
	psql_bench -c "SET synchronous_commit = off" -c "CALL bench.events('$1', 10000)" 2>&1 |
		sed -n 's/.*NOTICE: *//p'
}

# the third of five
third_of_five()
{
	echo "$1" | tr ' ' '\n' | grep . | sort -n | sed -n 3p
}

bench_outbox()
{
	local round insert='' new='' given=''
	psql_bench <<-'SQL'
		SET client_min_messages = warning;
		DROP TABLE IF EXISTS bench.outbox;
		CREATE TABLE bench.outbox (
			position bigserial PRIMARY KEY,
			emitted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
			id text COLLATE "C" NOT NULL, aggregatetype text NOT NULL, aggregateid text,
			type text NOT NULL, payload text, headers jsonb NOT NULL DEFAULT '{}');
		CREATE UNIQUE INDEX ON bench.outbox (id);
		CREATE OR REPLACE PROCEDURE bench.events(what text, n int) LANGUAGE plpgsql AS $$
		DECLARE
			began timestamptz := clock_timestamp();
			p text := '{"order": 1234567, "customer": "c-42", "total": "12.50", "currency": "EUR", "lines": [1, 2, 3]}';
		BEGIN
			FOR i IN 1 .. n LOOP
				IF what = 'insert' THEN
					INSERT INTO bench.outbox (id, aggregatetype, aggregateid, type, payload)
						VALUES (gen_random_uuid()::text, 'orders', 'k1', 'created', p);
				ELSIF what = 'new' THEN
					PERFORM idempotency.emit('orders', 'created', p, 'k1');
				ELSE
					PERFORM idempotency.emit('orders', 'created', p, 'k1', gen_random_uuid()::text);
				END IF;
				COMMIT;
			END LOOP;
			RAISE NOTICE '%', extract(epoch FROM clock_timestamp() - began) * 1e6 / n;
		END $$;
	SQL
	for what in insert new given; do emitted $what >/dev/null; done
	for round in 1 2 3 4 5; do
		say "outbox: round $round of 5"
		insert="$insert $(emitted insert)"
		new="$new $(emitted new)"
		given="$given $(emitted given)"
	done
	row "emit / plain INSERT of the row" "$(third_of_five "$new")" "$(third_of_five "$insert")" us "<= 1.3"
	row "emit with an id / plain INSERT of the row" "$(third_of_five "$given")" "$(third_of_five "$insert")" us "<= 1.3"
}
