#!/usr/bin/env bash
#
# run.sh
#		The benchmark: what a claim costs beside a bare insert of its row, and
#		beside the hand-written table that most applications use.
#
# Every figure is a ratio of two medians, taken in turn in one run on one
# server, so that it says something on a noisy machine.  It fails no build.
#
# Environment: BENCH_ROUNDS (30), BENCH_KEYS, the keys of the growth test
# (10000000), BENCH_EXPIRY_KEYS (1000000), BENCH_TAG_KEYS (1000000), BENCH_SECONDS of each pgbench round
# (10) and of the hot key (30), BENCH_ONLY, a list of: calls preload bytes tps
# leases hot expiry growth ledger tokens inbox outbox saga seeing.

set -eu
# shellcheck source=test/lib/server.sh
. "$(dirname "$0")/../lib/server.sh"
here=$top/test/bench
# shellcheck source=test/bench/ledger.sh
. "$here/ledger.sh"
# shellcheck source=test/bench/events_inbox.sh
. "$here/events_inbox.sh"
# shellcheck source=test/bench/events_outbox.sh
. "$here/events_outbox.sh"
# shellcheck source=test/bench/seeing.sh
. "$here/seeing.sh"
# shellcheck source=test/bench/saga.sh
. "$here/saga.sh"

rounds=${BENCH_ROUNDS:-30}
growth_keys=${BENCH_KEYS:-10000000}
expiry_keys=${BENCH_EXPIRY_KEYS:-1000000}
seconds=${BENCH_SECONDS:-10}
hot_seconds=${BENCH_HOT_SECONDS:-30}
tag_keys=${BENCH_TAG_KEYS:-1000000}
only=${BENCH_ONLY:-calls preload bytes tps leases hot expiry growth ledger tokens inbox outbox saga seeing}

# The middle one of five numbers.
middle_of_five()
{
	tr ' ' '\n' | grep . | sort -n | sed -n 3p
}

say()
{
	printf 'bench: %s\n' "$*" >&2
}

psql_bench()
{
	"$pg_bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 -d bench "$@"
}

# row WHAT LEFT RIGHT UNIT GOAL: one line of the result.
row()
{
	awk -v what="$1" -v a="$2" -v b="$3" -v unit="$4" -v goal="$5" 'BEGIN {
		printf "%-46s %10.2f %10.2f %-4s %8.3f   %s\n", what, a, b, unit, a / b, goal
	}' | tee -a "$state/table"
}

median()
{
	psql_bench -c "SELECT us FROM bench.median WHERE name = '$1'"
}

start()
{
	bash "$top/test/lib/deps.sh" build
	find_pg || die "PostgreSQL with its server headers is missing"
	make_state bench
	say "building"
	build_and_install "$state/build.log"
	make -s -C "$top" testlib >>"$state/build.log" 2>&1
	cp "$top/build/test/idempotency.so" "$state/library.so"
	[ "$(id -u)" != 0 ] || chown "$(pg_user):" "$state/library.so"
	# the least that makes the disk matter as it does on a server
	server_start "$state" \
		"shared_buffers = 8GB" \
		"max_wal_size = 40GB" \
		"max_connections = 250" \
		"checkpoint_timeout = 1h" \
		"autovacuum = off" \
		"jit = off" \
		"max_parallel_workers_per_gather = 0"
	trap 'server_stop "$state" || true' EXIT
	"$pg_bindir/createdb" bench
	psql_bench -c "CREATE EXTENSION idempotency"
	psql_bench -c "UPDATE pg_proc SET probin = '$state/library.so' WHERE probin = '\$libdir/idempotency'"
	psql_bench -v library="$state/library.so" -f "$here/setup.sql" >/dev/null
	: >"$state/table"
}

# Server time of the calls, in transactions of 1000.
bench_calls()
{
	say "calls: $rounds rounds of 1000 keys, on fresh tables every five"
	psql_bench -f "$here/variants.sql"
	local round=0
	# the first round warms everything up
	psql_bench -c "SET synchronous_commit = off" -c "CALL bench.empty()" \
		-c "CALL bench.measure(1, 1000, 0)" -c "TRUNCATE bench.sample"
	while [ $round -lt "$rounds" ]; do
		psql_bench -c "SET synchronous_commit = off" -c "CALL bench.empty()" \
			-c "CALL bench.measure(5, 1000, $((round * 1000 + 1000)))"
		round=$((round + 5))
	done
	local call
	call=$(median nothing)
	net()
	{
		awk -v a="$(median "$1")" -v call="$call" -v n="$2" 'BEGIN { print a - n * call }'
	}
	row "claim + finish / bare insert of the row" "$(net 'claim + finish' 2)" "$(net floor 1)" us "<= 2.2"
	row "claim + finish / hand-written" "$(net 'claim + finish' 2)" "$(net 'hand-written' 2)" us "<= 0.4"
	row "replay / hand-written duplicate" "$(net replay 1)" "$(net 'hand-written duplicate' 1)" us "<= 0.5"
	row "claim_many of 1000 / 1000 claims" "$(median claim_many)" "$(median claim)" us "<= 0.4"
	say "(a call that does nothing, $call us, is taken off the first three)"
}

# What preloading costs: statistics, and a worker beside.  The same server is
# measured by turns with and without.
bench_preload()
{
	local round without='' with=''
	psql_bench -f "$here/variants.sql" -c "DELETE FROM bench.variant WHERE name <> 'claim + finish'"
	preload_library
	for round in 1 2 3 4 5 6; do
		say "preload: round $round of 6, without and with"
		without="$without $(preload_sample '' "$round")"
		with="$with $(preload_sample idempotency "$round")"
	done
	row "claim + finish: preloaded / not" "$(echo "$with" | lower_middle)" \
		"$(echo "$without" | lower_middle)" us "<= 1.05"
	restart_with ''
}

# Make the library one that can be preloaded, under its own name.
preload_library()
{
	[ ! -d "$state/preload" ] || return 0
	cat >>"$state/data/postgresql.conf" <<-CONF
		dynamic_library_path = '$state/preload:\$libdir'
		shared_preload_libraries = ''
	CONF
	mkdir "$state/preload"
	cp -p "$state/library.so" "$state/preload/idempotency.so"
	[ "$(id -u)" != 0 ] || chown -R "$(pg_user):" "$state/preload"
	psql_bench -c "UPDATE pg_proc SET probin = '$state/preload/idempotency.so' WHERE probin = '$state/library.so'"
}

# restart_with LIBRARIES: restarts the server with these preloaded.
restart_with()
{
	sed -i "s/^shared_preload_libraries = .*/shared_preload_libraries = '$1'/" "$state/data/postgresql.conf"
	(cd "$state" && as_pg "$pg_bindir/pg_ctl" -D "$state/data" -l "$state/server.log" -w restart) \
		>/dev/null 8>&-
}

# preload_sample LIBRARIES ROUND: median microseconds of a claim and a finish.
preload_sample()
{
	restart_with "$1"
	psql_bench -c "SET synchronous_commit = off" -c "CALL bench.empty()" \
		-c "CALL bench.measure(2, 1000, 0)" -c "TRUNCATE bench.sample" \
		-c "CALL bench.measure(20, 1000, 2000)"
	median 'claim + finish'
}

# The third of six.
lower_middle()
{
	tr ' ' '\n' | grep . | sort -n | sed -n 3p
}

# Bytes per key, after the same 100,000 claims and finishes on both sides.
bench_bytes()
{
	say "bytes per key"
	psql_bench -c "CALL bench.empty()" -c "
		SELECT count(*) FROM bench.key, LATERAL idempotency.claim('bench', k) AS c,
			LATERAL idempotency.finish('bench', k, repeat('x', 200)) AS f
			WHERE i <= 100000" -c "
		SELECT count(*) FROM bench.key, LATERAL bench.hand_claim(k) AS c,
			LATERAL bench.hand_finish(k, repeat('x', 200)) AS f
			WHERE i <= 100000" >/dev/null
	row "bytes per key: ring / hand-written table" \
		"$(psql_bench -c "SELECT sum(pg_total_relation_size(oid)) / 100000.0 FROM pg_class
			WHERE relnamespace = 'idempotency'::regnamespace AND relkind = 'r' AND relname LIKE 'key%'")" \
		"$(psql_bench -c "SELECT pg_total_relation_size('bench.idempotency_keys') / 100000.0")" \
		B ""
}

# tps SCRIPT CLIENTS [OPTION...]: scripts per second of one pgbench run.
tps()
{
	local script=$1 clients=$2
	shift 2
	"$pg_bindir/pgbench" -n -M prepared -c "$clients" -j "$((clients > 2 ? 2 : clients))" \
		-T "$seconds" "$@" -f "$here/$script.pgbench" bench 2>/dev/null |
		sed -n 's/^tps = \([0-9.]*\).*/\1/p'
}

# The middle one of three.
middle()
{
	tr ' ' '\n' | grep . | sort -n | sed -n 2p
}

# Transactions per second of one business insert, with and without us.
bench_tps()
{
	local clients i ours hand bare one
	for clients in 1 8; do
		ours='' hand='' bare='' one=''
		for i in 1 2 3; do
			say "transactions: $clients client(s), round $i of 3"
			psql_bench -c "CALL bench.empty()" -c CHECKPOINT
			bare="$bare $(tps bare "$clients")"
			ours="$ours $(tps claim_finish "$clients")"
			hand="$hand $(tps hand_written "$clients")"
			one="$one $(tps run "$clients")"
		done
		row "tps, $clients client(s): claim + finish / hand-written" \
			"$(echo "$ours" | middle)" "$(echo "$hand" | middle)" tps ">= 1.1"
		row "tps, $clients client(s): run() / hand-written" \
			"$(echo "$one" | middle)" "$(echo "$hand" | middle)" tps ""
		row "tps, $clients client(s): claim + finish / no dedup" \
			"$(echo "$ours" | middle)" "$(echo "$bare" | middle)" tps ""
	done
}

# micro TPS: microseconds that one takes.
micro()
{
	awk -v tps="$1" 'BEGIN { print 1e6 / tps }'
}

# A lease and its finish, two transactions on both sides, each made durable; and
# a heartbeat beside the update of one row, whose commit isn't waited for.
bench_leases()
{
	local clients i ours hand base
	for clients in 1 8; do
		ours='' hand=''
		for i in 1 2 3; do
			say "leases: $clients client(s), round $i of 3"
			psql_bench -c "CALL bench.empty()" -c CHECKPOINT
			ours="$ours $(tps lease "$clients")"
			hand="$hand $(tps lease_hand "$clients")"
		done
		row "lease, $clients client(s): claim, finish / hand-written" \
			"$(micro "$(echo "$ours" | middle)")" \
			"$(micro "$(echo "$hand" | middle)")" us "<= 1.1"
	done
	ours='' hand=''
	psql_bench -c "CALL bench.empty()" -c "
		INSERT INTO bench.leases SELECT 'lease-' || i, 'processing', gen_random_uuid()::text, now(), NULL, now()
			FROM generate_series(1, 1000) AS i"
	base=$(psql_bench -c "SELECT min(fence) - 1 FROM generate_series(1, 1000) AS i,
		LATERAL idempotency.claim('bench', 'lease-' || i, lease => '1 h')")
	for i in 1 2 3; do
		say "heartbeats: round $i of 3"
		psql_bench -c "VACUUM" -c CHECKPOINT
		ours="$ours $(PGOPTIONS='-c synchronous_commit=off' tps heartbeat 1 -D "base=$base")"
		hand="$hand $(PGOPTIONS='-c synchronous_commit=off' tps heartbeat_hand 1)"
	done
	row "heartbeat / UPDATE of one row" "$(micro "$(echo "$ours" | middle)")" \
		"$(micro "$(echo "$hand" | middle)")" us "<= 1.0"
}

# 64 clients that want one key: how many a second get it, and whether ever two
# had it at once.
bench_hot()
{
	local claims result
	say "one hot key: 64 clients, $hot_seconds s"
	psql_bench -c "CALL bench.empty()" -c "UPDATE bench.hot SET inside = 0, entered = 0, crowded = 0" -c VACUUM
	claims=$(seconds=$hot_seconds tps hot 64)
	result=$(psql_bench -c "SELECT entered || ' holders, ' || crowded || ' of them not alone' FROM bench.hot")
	row "hot key, 64 clients: holders/s / claims/s" \
		"$(psql_bench -c "SELECT entered / $hot_seconds.0 FROM bench.hot")" "$claims" "1/s" "$result"
}

# milliseconds COMMAND...: how long one psql command takes on the server.
milliseconds()
{
	psql_bench -c '\timing on' "$@" | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' |
		awk '{ sum += $1 } END { print sum }'
}

# Getting rid of what has expired.
bench_expiry()
{
	say "expiry of $expiry_keys keys"
	psql_bench -c "CALL bench.empty()" -v n="$expiry_keys" -f "$here/fill_hand.sql"
	psql_bench -v n="$expiry_keys" -v scope=bench -f "$here/fill_ring.sql"
	psql_bench -c CHECKPOINT
	local hand ring offset
	hand=$(milliseconds -c "DELETE FROM bench.idempotency_keys WHERE expires_at < now() + interval '2 days'" \
		-c "VACUUM bench.idempotency_keys")
	# to the middle of the epoch after the one in which the keys expire
	offset=$(psql_bench -c "SELECT (floor((extract(epoch FROM now()) - 946684800 + 86400) / 108000) + 1.5) * 108000
		- (extract(epoch FROM now()) - 946684800)" | sed 's/\..*//')
	ring=$(psql_bench -c "LOAD '$state/library.so'" -c "SET idempotency.clock_offset = $offset" \
		-c '\timing on' -c "SELECT duty, result FROM idempotency.maintain()" |
		tee -a "$state/build.log" | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | tail -n 1)
	row "expiry: rotate / DELETE + VACUUM" "$ring" "$hand" ms "<= 0.01"
}

# among SCOPE N: microseconds of a claim among N keys.  One session warms up and
# measures, for a new one meets every page of the buffers with a page fault; and
# no checkpoint passes, so that no page's first change after one is measured.
among()
{
	psql_bench -c "CALL bench.empty()" -c "TRUNCATE bench.sample" \
		-c "DELETE FROM bench.variant WHERE name <> 'claim'"
	psql_bench -v n="$2" -v scope="$1" -f "$here/fill_ring.sql"
	psql_bench -c "SET synchronous_commit = off" -c "CALL bench.measure($3, 1000, 100000)" \
		-c "TRUNCATE bench.sample" -c "CALL bench.measure(40, 1000, 350000)"
	median claim
}

# A claim among ten thousand keys, and among ten million.
bench_growth()
{
	local few many
	psql_bench -f "$here/variants.sql"
	few=$(among few 10000 5)
	say "growth: filling in $growth_keys keys"
	many=$(among many "$growth_keys" 240)
	row "claim among $growth_keys keys / among 10000" "$many" "$few" us "<= 1.5"
}

# What it costs to require a token, to replay a tagged response and to invalidate
# a tag with many keys; that a wrong token takes as long whatever is wrong; and
# 200 clients that want one result.
bench_tokens()
{
	local few many what wrong
	say "tokens and tags: $rounds rounds"
	psql_bench -c "CALL bench.empty()" -c "TRUNCATE bench.sample"
	psql_bench -f "$here/tokens.sql"
	psql_bench -c "SET synchronous_commit = off" -c "CALL bench.measure(5, 1000, 0)" \
		-c "TRUNCATE bench.sample" -c "CALL bench.measure($rounds, 1000, 5000)"
	row "claim: require_token / without" "$(median token)" "$(median 'no token')" us "<= 1.25"

	psql_bench -c "DELETE FROM bench.variant" -c "TRUNCATE bench.sample" -c "
		INSERT INTO bench.variant SELECT n, what, format(
			'SELECT count(*) FROM bench.wrong_token AS w WHERE w.what = %L AND i > \$1 AND i <= \$2 AND bench.refused(k) <> %L', what, 'ID401')
		FROM (SELECT DISTINCT what, dense_rank() OVER (ORDER BY what) AS n FROM bench.wrong_token WHERE i = 1) AS w"
	psql_bench -c "CALL bench.measure(3, 1000, 0)" -c "TRUNCATE bench.sample" \
		-c "CALL bench.measure($rounds, 1000, 0)"
	row "a wrong token: slowest kind / fastest" "$(psql_bench -c "SELECT max(us) FROM bench.median")" \
		"$(psql_bench -c "SELECT min(us) FROM bench.median")" us "<= 1.05"

	psql_bench -c "DELETE FROM bench.variant" -c "TRUNCATE bench.sample" -c "
		INSERT INTO bench.variant VALUES
		(1, 'tagged', 'SELECT count(*) FROM bench.key, LATERAL idempotency.claim(''bench.tag'', ''t'' || k) AS c WHERE i > \$1 AND i <= \$2'),
		(2, 'untagged', 'SELECT count(*) FROM bench.key, LATERAL idempotency.claim(''bench.tag'', ''u'' || k) AS c WHERE i > \$1 AND i <= \$2')" -c "
		SELECT count(idempotency.invalidate('bench.tag', 'tag-' || i, 'bench')) FROM generate_series(1, 1000) AS i;
		SELECT count(*) FROM bench.key, LATERAL idempotency.claim('bench.tag', 't' || k) AS c,
			LATERAL idempotency.finish('bench.tag', 't' || k, repeat('x', 200), tag => 'tag-' || i % 1000 + 1) AS f WHERE i <= 40000;
		SELECT count(*) FROM bench.key, LATERAL idempotency.claim('bench.tag', 'u' || k) AS c,
			LATERAL idempotency.finish('bench.tag', 'u' || k, repeat('x', 200)) AS f WHERE i <= 40000" >/dev/null
	psql_bench -c "CALL bench.measure($rounds, 1000, 0)" -c "TRUNCATE bench.sample" \
		-c "CALL bench.measure($rounds, 1000, 0)"
	row "replay: tagged / untagged" "$(median tagged)" "$(median untagged)" us "<= 1.15"

	say "invalidate: a tag with $tag_keys keys, and one with 1"
	psql_bench -c "
		SELECT count(*) FROM generate_series(1, $tag_keys) AS i, LATERAL idempotency.claim('bench.tag', 'many' || i) AS c,
			LATERAL idempotency.finish('bench.tag', 'many' || i, tag => 'many') AS f;
		SELECT idempotency.run('bench.tag', 'few', 'SELECT 1', tag => 'few')" >/dev/null
	psql_bench -c "DELETE FROM bench.variant" -c "TRUNCATE bench.sample" -c "
		INSERT INTO bench.variant SELECT 1, tag, format('SELECT count(idempotency.invalidate(''bench.tag'', %L, ''bench'')) FROM bench.key WHERE i > \$1 AND i <= \$2', tag)
		FROM unnest('{many,few}'::text[]) AS tag"
	psql_bench -c "SET log_min_messages = error" -c "CALL bench.measure(5, 100, 0)" -c "TRUNCATE bench.sample" \
		-c "CALL bench.measure($rounds, 100, 0)"
	row "invalidate: a tag with $tag_keys keys / with 1" "$(median many)" "$(median few)" us "<= 1.5"
	bench_stampede
}

# together SCRIPT CLIENTS: milliseconds from the moment at which so many clients
# start, each in a session that is warm, until the last one has its answer.
together()
{
	local script=$1 clients=$2 at
	rm -f "$state"/stampede.log*
	at=$(date +%s.%N | awk '{ printf "%.3f", $1 + 8 }')
	"$pg_bindir/pgbench" -n -M prepared -c "$clients" -j "$((clients > 2 ? 2 : clients))" -t 2 \
		-l --log-prefix="$state/stampede.log" -D turn=0 -D "start=$at" -D "base=$(date +%s%N)" \
		-D "command=SELECT pg_sleep(0.05)" -f "$here/$script.pgbench" bench >/dev/null 2>&1
	cat "$state"/stampede.log* | awk -v at="$at" '{ end = $5 + $6 / 1e6 - at; if (end > last) last = end }
		END { print last * 1000 }'
}

# 200 clients and one missing result that takes 50 ms.  What 200 clients take
# that sleep 50 ms, each by itself, is what the machine takes to wake 200
# processes and to tell their clients.
bench_stampede()
{
	local i all='' one='' each=''
	for i in 1 2 3; do
		say "200 clients, one result: round $i of 3"
		all="$all $(together stampede 200)"
		each="$each $(together stampede_each 200)"
		one="$one $(together stampede 1)"
	done
	row "200 clients, one result of 50 ms / 1 client" "$(echo "$all" | middle)" "$(echo "$one" | middle)" ms "<= 1.3"
	row "  ... / 200 clients, 50 ms each, no claim" "$(echo "$all" | middle)" "$(echo "$each" | middle)" ms ""
	row "  ... executions / results" "$(psql_bench -c "SELECT count(*) FROM idempotency.keys WHERE scope = 'bench.wait' AND attempt = 1")" \
		"$(psql_bench -c "SELECT count(*) FROM idempotency.keys WHERE scope = 'bench.wait'")" "" "1"
}

start
{
	printf '%-46s %10s %10s %-4s %8s   %s\n' "" left right unit ratio goal
} | tee -a "$state/table"
for part in $only; do
	"bench_$part"
done
say "the table is in $state/table"
