# shellcheck shell=bash
#
# events_inbox.sh
#		The consumers' part of the benchmark, sourced by run.sh: accept() beside
#		INSERT ... ON CONFLICT DO NOTHING into a hand-written inbox.
#
# Environment: BENCH_INBOX_EVENTS, those accepted for the size (1000000).

inbox_events=${BENCH_INBOX_EVENTS:-1000000}

# inbox_timed PROCEDURE ARGUMENT...: what a procedure of events_inbox.sql measures.
inbox_timed()
{
	local procedure=$1
	shift
	psql_bench -c "SET synchronous_commit = off" -c "CALL bench.inbox_$procedure($(IFS=,; echo "$*"))"
}

# Prints how many bytes the streams' table and its index have.
inbox_bytes()
{
	psql_bench -c "SELECT pg_total_relation_size('idempotency.inbox_stream')"
}

bench_inbox()
{
	local i first each strategy hand many hand_many shuffled
	local -A ours
	psql_bench -f "$here/events_inbox.sql" >/dev/null
	for each in 1000 1; do
		hand='' shuffled='' ours=([sequence]='' [ordered]='' [high_water]='')
		for i in 1 2 3 4 5; do
			say "inbox: transactions of $each, round $i of 5"
			first=$((i * 100000 + (each == 1 ? 1000000 : 0)))
			hand="$hand $(inbox_timed hand "$first" 10000 "$each")"
			for strategy in sequence ordered high_water; do
				psql_bench -c "SELECT idempotency.set_position('$strategy', 'orders', $first, 'bench')" >/dev/null
				ours[$strategy]="${ours[$strategy]} $(inbox_timed accept "'$strategy'" "$first" 10000 "$each")"
			done
			psql_bench -c "SELECT idempotency.set_position('sequence', 'orders', $((first + 20000)), 'bench')" >/dev/null
			shuffled="$shuffled $(inbox_timed shuffled "$((first + 20000))" 10000 "$each")"
		done
		for strategy in sequence ordered high_water; do
			row "accept, $strategy, by $each / INSERT ON CONFLICT" \
				"$(echo "${ours[$strategy]}" | middle_of_five)" "$(echo "$hand" | middle_of_five)" us "<= 0.6"
		done
		row "accept by $each: 30 % out of order / in order" "$(echo "$shuffled" | middle_of_five)" \
			"$(echo "${ours[sequence]}" | middle_of_five)" us "<= 2"
	done
	many='' hand_many=''
	for i in 1 2 3 4 5; do
		hand_many="$hand_many $(inbox_timed hand_many $((i * 100000)) 1000)"
		many="$many $(inbox_timed accept_many $((i * 100000)) 1000)"
	done
	row "accept_many of 1000 / one INSERT of 1000" "$(echo "$many" | middle_of_five)" \
		"$(echo "$hand_many" | middle_of_five)" us "<= 0.1"
	say "inbox: size after $inbox_events events more"
	local before after
	before=$(inbox_bytes)
	first=$(psql_bench -c "SELECT seq FROM idempotency.position('sequence', 'orders')")
	inbox_timed accept "'sequence'" "$first" "$inbox_events" 100 >/dev/null
	after=$(inbox_bytes)
	psql_bench -c "TRUNCATE bench.inbox" >/dev/null
	inbox_timed hand 0 100000 100 >/dev/null
	row "bytes per event: accept / hand-written" \
		"$(awk -v a="$before" -v b="$after" -v n="$inbox_events" 'BEGIN { print (b - a) / n }')" \
		"$(psql_bench -c "SELECT pg_total_relation_size('bench.inbox') / 100000.0")" B "< 1 B"
}
