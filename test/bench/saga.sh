# shellcheck shell=bash
#
# saga.sh
#		The sagas' part of the benchmark, sourced by run.sh: a three-step saga
#		that succeeds beside the same steps as checkpoints, compensations by one
#		helper, and what the duty costs where there are no sagas.

# Milliseconds of CPU time that the worker takes in ten seconds.
saga_idle()
{
	local pid before after
	sleep 2
	pid=$(psql_bench -c "SELECT pid FROM idempotency.workers() WHERE pid IS NOT NULL" | head -n 1)
	before=$(cut -d' ' -f1 "/proc/$pid/schedstat")
	sleep 10
	after=$(cut -d' ' -f1 "/proc/$pid/schedstat")
	awk -v ns=$((after - before)) 'BEGIN { print ns / 1e6 }'
}

bench_saga()
{
	local i what saga='' checkpoint='' first last
	psql_bench >/dev/null <<-'SQL'
		CREATE TABLE bench.undone (n int);
		CREATE FUNCTION bench.undo(args text, context jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO bench.undone VALUES (1)';
		CREATE PROCEDURE bench.saga_three(first int, n int, saga bool) LANGUAGE plpgsql AS $$
		DECLARE
			f bigint;
		BEGIN
			FOR i IN first .. first + n - 1 LOOP
				SELECT fence INTO f FROM idempotency.claim('saga', 'k' || i, lease => '1 minute');
				COMMIT;
				FOR s IN 1 .. 3 LOOP
					IF saga THEN
						PERFORM idempotency.compensate_with('saga', 'k' || i, f, 'step ' || s, 'bench.undo(text,jsonb)', 'args');
					ELSE
						PERFORM idempotency.checkpoint('saga', 'k' || i, f, 'step ' || s, 'args');
					END IF;
					COMMIT;
				END LOOP;
				PERFORM idempotency.finish('saga', 'k' || i, 'done', f);
				COMMIT;
			END LOOP;
		END $$;
		CREATE PROCEDURE bench.saga_undo(first int, n int) LANGUAGE plpgsql AS $$
		DECLARE
			f bigint;
		BEGIN
			FOR i IN first .. first + n - 1 LOOP
				SELECT fence INTO f FROM idempotency.claim('saga', 'u' || i, lease => '1 minute');
				FOR s IN 1 .. 3 LOOP
					PERFORM idempotency.compensate_with('saga', 'u' || i, f, 'step ' || s, 'bench.undo(text,jsonb)', 'args');
				END LOOP;
				PERFORM idempotency.compensate('saga', 'u' || i, f, 'no');
			END LOOP;
		END $$;
		CREATE PROCEDURE bench.saga_run(first int, n int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN first .. first + n - 1 LOOP
				PERFORM idempotency.compensate_with('saga', 'r' || i, fence, 'step', args => 'args')
				FROM idempotency.claim('saga', 'r' || i, lease => '1 hour');
			END LOOP;
		END $$;
	SQL
	first=1
	for i in 1 2 3 4 5; do
		for what in true false; do
			say "saga: round $i of 5, $what"
			last=$(psql_bench -c "SELECT clock_timestamp() AS t" -c "CALL bench.saga_three($first, 1000, $what)" \
				-c "SELECT clock_timestamp()" | awk 'NF' | tr '\n' '|')
			last=$(psql_bench -c "SELECT extract(epoch FROM split_part('$last', '|', 2)::timestamptz - split_part('$last', '|', 1)::timestamptz) * 1000")
			if $what; then saga="$saga $last"; else checkpoint="$checkpoint $last"; fi
			first=$((first + 1000))
		done
	done
	row "three steps: a saga / checkpoints, us per saga" "$(echo "$saga" | tr ' ' '\n' | grep . | sort -n | sed -n 3p)" \
		"$(echo "$checkpoint" | tr ' ' '\n' | grep . | sort -n | sed -n 3p)" us "<= 1.3"
	say "saga: compensations of one helper"
	preload_library
	restart_with idempotency
	psql_bench -c "CALL bench.saga_undo(1, 1000)" >/dev/null
	until [ "$(psql_bench -c "SELECT count(*) FROM bench.undone")" = 3000 ]; do sleep 0.1; done
	row "compensations a second, by one helper" \
		"$(psql_bench -c "SELECT 2999 / extract(epoch FROM max(settled_at) - min(settled_at)) FROM idempotency.saga_steps WHERE key ~ '^u'")" 1 "/s" "reported"
	say "saga: what an idle worker takes, without sagas and with 10000 that run"
	psql_bench -c "DELETE FROM idempotency.saga_step" -c "DELETE FROM idempotency.saga_run" -c "VACUUM idempotency.saga_run"
	first=$(saga_idle)
	psql_bench -c "CALL bench.saga_run(1, 10000)" >/dev/null
	last=$(saga_idle)
	row "idle worker: 10000 running sagas / none" "$last" "$first" ms "reported"
	restart_with ''
}
