#!/usr/bin/env bash
#
# demo.sh
#		A retry storm for a person to watch, once with the extension and once with
#		the hand-written table that most applications use.
#
# Several clients send the same orders again and again, in random order.  They
# drop their connections between statements, are killed with kill -9, and have
# their backends terminated; then they come back.  A final round sends each
# order until it is answered.  Both sides get the same treatment, and what is
# printed at the end is counted by SQL from the effects tables and from what
# the clients wrote down (schema.sql).
#
# Environment: DEMO_SECONDS of storm a side (20), DEMO_CLIENTS (8),
# DEMO_ORDERS (150 a second), DEMO_DROPS, the share of requests whose connection
# is dropped (0.06).

set -eu
# shellcheck source=test/lib/server.sh
. "$(dirname "$0")/../lib/server.sh"
here=$top/test/demo

seconds=${DEMO_SECONDS:-20}
clients=${DEMO_CLIENTS:-8}
orders=${DEMO_ORDERS:-$((150 * seconds))}
drops=${DEMO_DROPS:-0.06}
for number in "$seconds" "$clients" "$orders"; do
	[[ $number =~ ^[1-9][0-9]{0,5}$ ]] || die "DEMO_SECONDS, DEMO_CLIENTS and DEMO_ORDERS are positive integers"
done

say()
{
	printf 'demo: %s\n' "$*"
}

# Milliseconds since the epoch.
now()
{
	echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

psql_demo()
{
	"$pg_bindir/psql" -X -q -v ON_ERROR_STOP=1 -d demo "$@"
}

# order_list LOW HIGH COUNT SEED: COUNT order numbers, drawn at random.
order_list()
{
	awk -v low="$1" -v high="$2" -v count="$3" -v seed="$4" 'BEGIN {
		srand(seed)
		while (count-- > 0)
			print low + int(rand() * (high - low + 1))
	}'
}

# requests SIDE DROPS SEED [EXTRA]: for each order number on standard input the
# script of one request; EXTRA is added to the amount, which makes it another
# request under the same key.
requests()
{
	awk -v drops="$2" -v seed="$3" -v extra="${4:-0}" -v template="$here/$1.sql" '
		BEGIN {
			srand(seed)
			while ((getline line < template) > 0)
				if (line !~ /^--/)
					text = text line "\n"
			print "\\set VERBOSITY sqlstate"
		}
		{
			place = rand() < drops ? 1 + int(rand() * 3) : 0
			amount = sprintf("%.2f", $1 * 7 % 500 + 0.5 + extra)
			printf "\\set order_id %d\n\\set amount %s\n\\set key order-%d\n", $1, amount, $1
			printf "\\set request \047{\"order\": %d, \"amount\": %s}\047\n", $1, amount
			printf "\\set drop_after_claim %d\n", place == 1
			printf "\\set drop_after_work %d\n", place == 2
			printf "\\set drop_before_answer %d\n", place == 3
			printf "%s", text
		}'
}

# send SIDE PHASE CLIENT [LIFE]: runs the script that was written for a client,
# which appends what it sees to a file of its own; after LIFE seconds it is
# killed.  A line of that file is a line, killed or not: stdbuf sees to it.
send()
{
	local file=$dir/$1.$2.$3 status=0

	PGAPPNAME="demo client $3" timeout --foreground -s KILL "${4:-600}" \
		stdbuf -oL "$pg_bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 -d demo \
		-f "$file.sql" >>"$file.log" 2>>"$file.err" </dev/null || status=$?
	[ $status != 137 ] || echo K >>"$file.log"
}

# client SIDE N: one client of the storm, started again and again until the end.
# The orders that it draws from move on with the time.
client()
{
	local side=$1 n=$2 elapsed high low life

	RANDOM=$((n * 101 + SECONDS))
	while elapsed=$(($(now) - storm_start)) && [ $elapsed -lt $((seconds * 1000)) ]; do
		high=$((orders * elapsed / (seconds * 1000) + orders / 20 + 1))
		[ $high -le "$orders" ] || high=$orders
		low=$((high - orders / 6))
		[ $low -ge 1 ] || low=1
		order_list "$low" "$high" 60 $RANDOM |
			requests "$side" "$drops" $RANDOM >"$dir/$side.storm.$n.sql"
		life=$((30 + RANDOM % 570))
		send "$side" storm "$n" "$((life / 1000)).$(printf '%03d' $((life % 1000)))"
	done
}

# Prints one line about where a side is, from its tables and its clients' files.
progress()
{
	local side=$1 phase=$2 counted line sent

	sent=$(cat "$dir/$side".*.log 2>/dev/null | grep -c '^S' || true)
	counted=$(psql_demo -A -t -F ' ' -c "SELECT count(*), count(*) - count(DISTINCT order_id) FROM $side.effects")
	line=$(printf '%-15s %-12s %6d requests %6d effects %4d duplicates' \
		"$side" "$phase" "$sent" "${counted% *}" "${counted#* }")
	if [ -t 1 ]; then
		printf '\r%s' "$line"
	else
		printf '%s\n' "$line"
	fi
}

# The storm: all clients at once, and from here on every half second one backend
# is terminated.
storm()
{
	local side=$1 n elapsed round=0

	storm_start=$(now)
	clients_running=''
	for n in $(seq "$clients"); do
		client "$side" "$n" 2>>"$dir/client.err" &
		clients_running="$clients_running $!"
	done
	while elapsed=$(($(now) - storm_start)) && [ $elapsed -lt $((seconds * 1000)) ]; do
		sleep 0.5
		psql_demo -A -t -c "SELECT pg_terminate_backend(pid) FROM (
				SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'demo client%'
				 ORDER BY random() LIMIT 1) AS victim" |
			sed -n 's/^t$/T/p' >>"$dir/$side.storm.0.log"
		round=$((round + 1))
		if [ -t 1 ] || [ $((round % 4)) = 0 ]; then
			progress "$side" "$((elapsed / 1000)) of $seconds s"
		fi
	done
	# shellcheck disable=SC2086
	wait $clients_running || true
	clients_running=''
}

# send_all SIDE PHASE FILE [EXTRA]: the orders in a file, shared out among the
# clients, without anybody dropping anything.
send_all()
{
	local side=$1 phase=$2 file=$3 n

	clients_running=''
	for n in $(seq "$clients"); do
		awk -v n="$n" -v clients="$clients" 'NR % clients == n % clients' "$file" |
			requests "$side" 0 "$n" "${4:-0}" >"$dir/$side.$phase.$n.sql"
		send "$side" "$phase" "$n" 2>>"$dir/client.err" &
		clients_running="$clients_running $!"
	done
	# shellcheck disable=SC2086
	wait $clients_running || true
	clients_running=''
}

# Each order until it has an answer to stay with, twelve times at most.
final_round()
{
	local side=$1 try pending=$dir/$1.pending

	seq "$orders" >"$pending"
	for try in $(seq 12); do
		send_all "$side" final "$pending"
		cat "$dir/$side".final.*.log |
			awk '$1 == "A" && $3 != "in_progress" { done[$2] = 1 }
				END { for (i = 1; i <= '"$orders"'; i++) if (!(i in done)) print i }' >"$pending"
		progress "$side" "final, try $try"
		[ -s "$pending" ] || break
		sleep 0.3
	done
	[ ! -t 1 ] || echo
}

run_side()
{
	local side=$1

	storm "$side"
	final_round "$side"
	# a client with a bug: the keys of the first orders for another request
	seq 20 | head -n "$orders" >"$dir/$side.reused"
	send_all "$side" reuse "$dir/$side.reused" 1000
}

# Loads what the clients wrote down.
load_answers()
{
	local file side phase n rest

	for file in "$dir"/*.*.*.log; do
		rest=$(basename "$file" .log)
		side=${rest%%.*} n=${rest##*.} phase=${rest#*.}
		phase=${phase%.*}
		awk -v OFS='\t' -v side="$side" -v phase="$phase" -v n="$n" '
			/^[SCADKT]( |$)/ {
				print side, phase, n, $1, $2 == "" ? "\\N" : $2, $3 == "" ? "\\N" : $3, $4 == "" ? "\\N" : $4
			}' "$file"
		[ ! -f "${file%.log}.err" ] ||
			sed -n 's/.*ERROR:  \([0-9A-Z]\{5\}\)$/\1/p' "${file%.log}.err" |
			awk -v OFS='\t' -v side="$side" -v phase="$phase" -v n="$n" \
				'{ print side, phase, n, "E", "\\N", $1, "\\N" }'
	done >"$dir/answers.tsv"
	psql_demo -c "\\copy answers FROM '$dir/answers.tsv'" -c 'ANALYZE'
}

# ---------------------------------------------------------------- here it goes

"$top/test/lib/deps.sh" build
find_pg || die "could not find a PostgreSQL installation with a server and its headers"
"$here/stop.sh" | grep -v 'no server' || true
mkdir -p "$top/tmp"
say "building and installing the extension ($("$PG_CONFIG" --version))"
build_and_install "$top/tmp/build.log"

make_state demo
dir=$state
say "starting a server in $dir"
trap 'server_stop "$dir" || true' EXIT		# not left behind half made
server_start "$dir" 'max_connections = 60'
"$pg_bindir/createdb" demo
psql_demo -f "$here/schema.sql"
psql_demo -c "INSERT INTO orders SELECT n, n * 7 % 500 + 0.5 FROM generate_series(1, $orders) AS n"
trap - EXIT

clients_running=''
# shellcheck disable=SC2086
trap 'kill $clients_running 2>/dev/null; say "interrupted; the server is still running, \"make demo-stop\" stops it"; exit 130' INT TERM
say "$orders orders, $clients clients, $seconds s a side: sent again and again, dropped, killed, terminated"
run_side with_extension
run_side hand_written
trap - INT TERM
load_answers

echo
psql_demo -P pager=off -P footer=off -P border=1 -c 'SELECT * FROM comparison'
cat <<END
The server is still running. To look around:

    $pg_bindir/psql -h $PGHOST -U postgres demo

    SELECT * FROM comparison;
    SELECT order_id, count(*) FROM hand_written.effects GROUP BY 1 HAVING count(*) > 1;
    SELECT * FROM answers WHERE side = 'hand_written' AND order_id = 1;
    SELECT * FROM idempotency.keys LIMIT 10;

To stop it: make demo-stop
END
