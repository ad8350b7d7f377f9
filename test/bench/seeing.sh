# shellcheck shell=bash
#
# seeing.sh
#		What it costs to see what happens, sourced by run.sh: statistics, spans,
#		and looking at the statistics of 1000 scopes.

# us_seeing SETTING: us of a transaction of claim and finish, with that setting.
us_seeing()
{
	psql_bench -c "SET synchronous_commit = off" -c "SET idempotency.$1" -c "CALL bench.transactions(3000)" 2>&1 |
		sed -n 's/.*NOTICE: *//p'
}

# The third least of eleven samples: what others do meanwhile only adds.
of_eleven()
{
	tr ' ' '\n' | grep . | sort -n | sed -n 3p
}

# By turns, on one server that preloads the library.
bench_seeing()
{
	local i on='' off='' some='' none='' clients
	preload_library
	echo "idempotency.max_scopes = 2000" >>"$state/data/postgresql.conf"
	restart_with idempotency
	psql_bench -c "CALL bench.empty()"
	us_seeing 'collect_stats = on' >/dev/null
	for i in 1 2 3 4 5 6 7 8 9 10 11; do
		say "statistics: round $i of 11"
		on="$on $(us_seeing 'collect_stats = on')"
		off="$off $(us_seeing 'collect_stats = off')"
		some="$some $(us_seeing 'trace_sample_rate = 0.01')"
		none="$none $(us_seeing 'trace_sample_rate = 0')"
	done
	row "transaction: statistics on / off" "$(echo "$on" | of_eleven)" "$(echo "$off" | of_eleven)" us "<= 1.05"
	row "transaction: spans at 1 % / none" "$(echo "$some" | of_eleven)" "$(echo "$none" | of_eleven)" us "<= 1.02"

	psql_bench -c "SELECT count(idempotency.once('bench.scope.' || i, 'k')) FROM generate_series(1, 1000) AS i" >/dev/null
	"$pg_bindir/pgbench" -n -M prepared -c 8 -j 2 -T 15 -f "$here/claim_finish.pgbench" bench >/dev/null 2>&1 &
	clients=$!
	sleep 2
	on=$(psql_bench -c '\timing on' -c 'SELECT count(*) FROM idempotency.stats' -c 'SELECT count(*) FROM idempotency.stats' \
		-c 'SELECT count(*) FROM idempotency.stats' -c 'SELECT count(*) FROM idempotency.stats' \
		-c 'SELECT count(*) FROM idempotency.stats' | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | tr '\n' ' ')
	wait $clients
	sed -i '/^idempotency.max_scopes/d' "$state/data/postgresql.conf"
	row "view stats, 1000 scopes, 8 clients / 10 ms" "$(echo "$on" | tr " " "\n" | grep . | sort -n | sed -n 3p)" 10 ms "<= 1"
	restart_with ''
}
