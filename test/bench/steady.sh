#!/usr/bin/env bash
#
# steady.sh
#		The long run: does it stay as fast as it begins, and how much does it
#		keep?  The same load on the rings, which the worker rotates, and on the
#		hand-written table, which is cleaned by DELETE in batches and autovacuum.
#
# The server's clock runs 360 times as fast for what expires: an hour of
# retention is ten seconds, and a table is rotated every 20 seconds.  It needs
# the library with fault points, on both sides.
#
# Prints the last part of the run beside the first, and draws throughput, p99
# and size over time: tmp/steady/steady.svg.  It fails no build.
#
# Environment: STEADY_SECONDS of each side (60; 600 for a release),
# STEADY_CLIENTS (4), STEADY_SIDES (ring hand).

set -eu
# shellcheck source=test/lib/server.sh
. "$(dirname "$0")/../lib/server.sh"
here=$top/test/bench
seconds=${STEADY_SECONDS:-60}
clients=${STEADY_CLIENTS:-4}
sides=${STEADY_SIDES:-ring hand}
speed=360

say()
{
	printf 'steady: %s\n' "$*" >&2
}

psql_steady()
{
	"$pg_bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 -d steady "$@"
}

start()
{
	bash "$top/test/lib/deps.sh" build
	command -v gnuplot >/dev/null || bash "$top/test/lib/deps.sh" plot
	find_pg || die "PostgreSQL with its server headers is missing"
	make_state steady
	say "building"
	build_and_install "$state/build.log"
	make -s -C "$top" testlib PG_CONFIG="$PG_CONFIG" >>"$state/build.log" 2>&1
	cp "$top/build/test/idempotency.so" "$state/idempotency.so"
	[ "$(id -u)" != 0 ] || chown "$(pg_user):" "$state/idempotency.so"
	server_start "$state" \
		"shared_buffers = 1GB" \
		"max_wal_size = 8GB" \
		"autovacuum_naptime = 5s" \
		"jit = off"
	trap 'server_stop "$state" || true' EXIT
	"$pg_bindir/createdb" steady
	psql_steady -c "CREATE EXTENSION idempotency"
	psql_steady -c "UPDATE pg_proc SET probin = '$state/idempotency.so' WHERE probin = '\$libdir/idempotency'"
	# only now, or CREATE EXTENSION would load the installed library beside it
	{
		echo "dynamic_library_path = '$state:\$libdir'"
		echo "shared_preload_libraries = 'idempotency'"
	} >>"$state/data/postgresql.conf"
	(cd "$state" && as_pg "$pg_bindir/pg_ctl" -D "$state/data" -l "$state/server.log" -w restart >/dev/null)
	psql_steady -f "$here/steady.sql" >/dev/null
}

# every_second SIDE: what happens beside the load, until it is killed.
every_second()
{
	local side=$1 second=0
	while :; do
		if [ "$side" = ring ]; then
			psql_steady -c "ALTER SYSTEM SET idempotency.clock_offset = $((second * speed))" \
				-c "SELECT pg_reload_conf()" >/dev/null
		else
			psql_steady -c "DELETE FROM steady.idempotency_keys WHERE key IN
				(SELECT key FROM steady.idempotency_keys WHERE expires_at < clock_timestamp() LIMIT 20000)"
		fi
		printf '%d %s\n' "$second" "$(psql_steady -c 'TABLE steady.bytes')" >>"$state/$side.bytes"
		[ $((second % 20)) != 19 ] || psql_steady -c "TRUNCATE steady.business"
		second=$((second + 1))
		sleep 1
	done
}

# load SIDE SCRIPT: one side's run; leaves per second: transactions, p99 in ms.
load()
{
	local side=$1 script=$2 beside
	say "$side: $clients clients, $seconds s"
	psql_steady -c CHECKPOINT
	every_second "$side" &
	beside=$!
	mkdir "$state/log.$side"
	(cd "$state/log.$side" && "$pg_bindir/pgbench" -n -M prepared -c "$clients" -j 2 \
		-T "$seconds" -l -f "$here/$script.pgbench" steady >"$state/$side.pgbench" 2>&1) ||
		{ tail -n 5 "$state/$side.pgbench" >&2; }
	kill $beside 2>/dev/null || true
	wait $beside 2>/dev/null || true
	# columns of pgbench's log: client, number, latency in us, script, s, us
	cat "$state/log.$side"/pgbench_log.* | awk '{ print $5, $3 }' | sort -k1,1n -k2,2n |
		awk 'function put() { print s - first, n, us[int(n * 0.99 + 0.999)] / 1000 }
			$1 != s { if (s != "") put(); else first = $1; n = 0; s = $1 }
			{ us[++n] = $2 } END { put() }' >"$state/$side.seconds"
}

# part SIDE COLUMN first|last: mean over the first or last minute, or quarter
# of a shorter run; the first and the last second are not whole.
part()
{
	awk -v column="$2" -v which="$3" 'NR > 1 { line[++n] = $column }
		END { n--; part = n > 240 ? 60 : int(n / 4)
			from = which == "first" ? 1 : n - part + 1
			for (i = from; i < from + part; i++) sum += line[i]
			print sum / part }' "$state/$1.seconds"
}

report()
{
	local side
	printf '%-14s %10s %10s %7s %10s %10s %7s %10s %10s\n' side first/s last/s ratio \
		"p99 first" "p99 last" ratio "most MB" "last MB"
	for side in $sides; do
		awk -v side=$side -v a="$(part $side 2 first)" -v b="$(part $side 2 last)" \
			-v c="$(part $side 3 first)" -v d="$(part $side 3 last)" \
			'{ if ($2 > most) most = $2; last = $2 }
			END { printf "%-14s %10.0f %10.0f %7.3f %10.2f %10.2f %7.3f %10.1f %10.1f\n",
				side, a, b, b / a, c, d, d / c, most / 1048576, last / 1048576 }' "$state/$side.bytes"
	done
	echo "goal: throughput >= 0.95, p99 <= 1.2"
}

draw()
{
	gnuplot <<GNUPLOT
set terminal svg size 900,900 background rgb 'white'
set output '$state/steady.svg'
set multiplot layout 3,1
set key outside top center horizontal
set xlabel 'seconds'
set ylabel 'transactions/s'
set yrange [0:*]
plot for [side in '$sides'] '$state/'.side.'.seconds' using 1:2 with lines title side
set ylabel 'p99, ms'
plot for [side in '$sides'] '$state/'.side.'.seconds' using 1:3 with lines title side
set ylabel 'keys, MB'
plot for [side in '$sides'] '$state/'.side.'.bytes' using 1:(\$2/1048576) with lines title side
unset multiplot
GNUPLOT
	say "the picture is $state/steady.svg"
}

# clear: takes away what one side has left, before the other is measured.
clear()
{
	psql_steady -c "ALTER SYSTEM RESET idempotency.clock_offset" -c "SELECT pg_reload_conf()" \
		-c "TRUNCATE steady.business, steady.idempotency_keys" >/dev/null
	psql_steady -c "SELECT format('TRUNCATE %s', string_agg(oid::regclass::text, ', ')) FROM pg_class
		WHERE relnamespace = 'idempotency'::regnamespace AND relkind = 'r' AND relname LIKE 'key%'" |
		psql_steady
}

start
for side in $sides; do
	case $side in
		ring) load ring steady ;;
		hand) load hand steady_hand ;;
		*) die "unknown side \"$side\": ring or hand" ;;
	esac
	clear
done
report
draw
