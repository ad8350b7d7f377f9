# shellcheck shell=bash
#
# ledger.sh
#		The ledger's part of the benchmark, sourced by run.sh: what writing
#		entries costs, how fast they are sealed and verified.
#
# Environment: BENCH_LEDGER_ENTRIES (1000000).

ledger_entries=${BENCH_LEDGER_ENTRIES:-1000000}

# audited WHAT: changes what is recorded of the benchmark's scopes.
audited()
{
	psql_bench -c "SELECT audit FROM idempotency.configure('*', audit => '$1')" >/dev/null
}

# us_per_transaction N: of claim, finish and commit, on the server.
us_per_transaction()
{
	psql_bench -c "SET synchronous_commit = off" -c "CALL bench.transactions($1)" 2>&1 |
		sed -n 's/.*NOTICE: *//p'
}

# seal_all: has everything sealed, and prints how many entries there were.
seal_all()
{
	local sealed total=0
	while :; do
		sealed=$(psql_bench -c "SELECT coalesce(sum(amount), 0) FROM idempotency.maintain() WHERE duty = 'seal'")
		[ "$sealed" != 0 ] || break
		total=$((total + sealed))
	done
	echo "$total"
}

# The rate of SHA-256 over so many bytes at a time, on one core, per second.
sha256_rate()
{
	openssl speed -seconds 2 -bytes "$1" -evp sha256 2>/dev/null |
		awk -v bytes="$1" '/^sha256|^SHA256/ { sub("k$", "", $NF); print $NF * 1000 / bytes }' |
		tail -n 1
}

# A transaction with and without its entry; then with many clients.
ledger_writers()
{
	local clients i on off
	on='' off=''
	for i in 1 2 3 4 5; do
		say "ledger: a transaction, round $i of 5"
		psql_bench -c "CALL bench.empty()"
		audited off
		us_per_transaction 500 >/dev/null
		off="$off $(us_per_transaction 4000)"
		audited decisions
		us_per_transaction 500 >/dev/null
		on="$on $(us_per_transaction 4000)"
	done
	row "transaction: audit => decisions / off" "$(echo "$on" | tr ' ' '\n' | grep . | sort -n | sed -n 3p)" \
		"$(echo "$off" | tr ' ' '\n' | grep . | sort -n | sed -n 3p)" us "<= 1.45"
	for clients in 8 32; do
		on='' off=''
		for i in 1 2 3; do
			say "ledger: $clients clients, round $i of 3"
			psql_bench -c "CALL bench.empty()" -c CHECKPOINT
			audited off
			off="$off $(tps claim_finish "$clients")"
			audited decisions
			on="$on $(tps claim_finish "$clients")"
		done
		row "tps, $clients clients: audit => decisions / off" \
			"$(echo "$on" | middle)" "$(echo "$off" | middle)" tps ">= 0.8"
		[ "$clients" != 8 ] || written=$(echo "$on" | middle)
	done
}

# Sealing a backlog, beside the hash alone, and beside what 8 clients write.
ledger_sealing()
{
	local began ended n bytes
	say "ledger: writing $ledger_entries entries"
	psql_bench -c "CALL bench.empty()" -c "SET synchronous_commit = off" -c "
		INSERT INTO bench.deduped SELECT 'ledger-' || i FROM generate_series(1, $ledger_entries) AS i" \
		-c "TRUNCATE bench.deduped" -c "VACUUM ANALYZE idempotency.ledger_entry" -c CHECKPOINT
	say "ledger: sealing them"
	began=$(date +%s.%N)
	n=$(seal_all)
	ended=$(date +%s.%N)
	rate=$(awk -v n="$n" -v a="$began" -v b="$ended" 'BEGIN { print n / (b - a) }')
	bytes=$(psql_bench -c "SELECT round(avg(length(idempotency.leaf_data(i)))) FROM generate_series(1, 200) AS i")
	row "entries sealed / SHA-256 of $bytes bytes" "$rate" "$(sha256_rate "$bytes")" "1/s" ""
	row "entries sealed / written by 8 clients" "$rate" "$written" "1/s" ">= 20"
}

# Verifying all of it.
ledger_verifying()
{
	local began ended n findings
	say "ledger: verifying"
	began=$(date +%s.%N)
	findings=$(psql_bench -c "SELECT count(*) FROM idempotency.verify()" 2>/dev/null)
	ended=$(date +%s.%N)
	n=$(psql_bench -c "SELECT size FROM idempotency.ledger_status")
	row "entries verified / sealed" \
		"$(awk -v n="$n" -v a="$began" -v b="$ended" 'BEGIN { print n / (b - a) }')" "$rate" "1/s" "$findings findings"
}

# From the decision to the checkpoint, with a worker that seals every second.
ledger_exposure()
{
	local p99
	say "ledger: 8 clients, and a worker that seals every second"
	preload_library
	restart_with idempotency
	psql_bench -c "CALL bench.empty()"
	psql_bench -c "SELECT count(*) FROM idempotency.maintain()" >/dev/null
	sleep 3
	local first
	first=$(psql_bench -c "SELECT max(seq) FROM idempotency.ledger_entry")
	tps claim_finish 8 >/dev/null
	sleep 3
	p99=$(psql_bench -c "
		SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM c.sealed_at - e.decided_at))
		FROM idempotency.ledger_entry AS e, LATERAL (SELECT min(k.sealed_at) AS sealed_at
			FROM idempotency.ledger_checkpoint AS k WHERE k.sealed_seq >= e.seq) AS c
		WHERE e.seq > ${first:-0} AND e.seq % 10 = 0")
	row "decided to sealed, p99 / the worker's naptime" "$p99" 1 s "<= 2"
	restart_with ''
}

bench_ledger()
{
	ledger_writers
	ledger_sealing
	ledger_verifying
	ledger_exposure
	audited off
}
