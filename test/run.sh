#!/usr/bin/env bash
#
# run.sh [STAGE...]
#		Everything that tests: installs what is missing, builds, installs, runs
#		the stages and closes with the line "N passed, N failed".
#
# The stages are lint, regress, isolation and tap; without arguments all run,
# in this order, also if one fails.  What they leave is in tmp/test/<stage>.
# Servers run as an ordinary user, from the work tree if that user can read it,
# otherwise from a copy.
#
# Environment: PG_CONFIG; REGRESS and ISOLATION, the lists of tests (the
# Makefile's by default); TAP, the list of TAP files (test/t/*.pl by default);
# TAP_JOBS, how many of them run at once (2).
#
# It fails if a test fails, and if a stage ran nothing.

set -eu
# shellcheck source=test/lib/server.sh
. "$(dirname "$0")/lib/server.sh"
cd "$top"

stages=${*:-lint regress isolation tap}
for stage in $stages; do
	case $stage in
		lint|regress|isolation|tap) ;;
		*) die "unknown stage \"$stage\": lint, regress, isolation or tap" ;;
	esac
done

total_passed=0
total_failed=0

# Runs a command and says how long it took.
timed()
{
	local what=$1 start=$SECONDS
	shift
	"$@" || exit
	printf '== %s: done in %d s\n' "$what" $((SECONDS - start))
}

# Prints the value that the Makefile gives a variable.
make_variable()
{
	# shellcheck disable=SC2016
	printf 'include Makefile\nprint-it:\n\t@echo $(%s)\n' "$1" |
		env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL \
			make -s -f - print-it PG_CONFIG="$PG_CONFIG"
}

# Makes $sources a tree that the servers' user can read: the work tree itself,
# or a copy.
find_sources()
{
	sources=$top
	if ! (cd / && as_pg test -r "$top/test/run.sh" -a -r "$top/build/test/idempotency.so"); then
		sources=$state/sources
		mkdir "$sources"
		tar -C "$top" --exclude=./tmp --exclude=./.git -cf - . | tar -C "$sources" -xf -
		[ "$(id -u)" != 0 ] || chown -R "$(pg_user):" "$sources"
	fi
	export IDEMPOTENCY_TESTLIB=$sources/build/test/idempotency.so
}

build()
{
	build_and_install "$top/tmp/build.log" COPT=-Werror
	make -C "$top" testlib PG_CONFIG="$PG_CONFIG" COPT=-Werror >>"$top/tmp/build.log" 2>&1 ||
		{ tail -n 40 "$top/tmp/build.log" >&2; die "could not build the library with fault points"; }
}

# stage_result PASSED FAILED: adds up, and calls a stage that ran nothing failed.
stage_result()
{
	local passed=$1 failed=$2

	if [ $((passed + failed)) = 0 ]; then
		echo "not ok - $stage ran nothing"
		failed=1
	fi
	printf '== %s: %d passed, %d failed in %d s\n' \
		"$stage" "$passed" "$failed" $((SECONDS - stage_start))
	total_passed=$((total_passed + passed))
	total_failed=$((total_failed + failed))
}

# Counts the lines of standard input that match.
count()
{
	grep -cE -- "$1" || true
}

run_lint()
{
	local script log passed=0 failed=0 good bad status

	for script in test/lint/*.sh; do
		log=$dir/$(basename "$script" .sh).log
		status=0
		bash "$script" >"$log" 2>&1 </dev/null || status=$?
		good=$(count '^ok ' <"$log")
		bad=$(count '^not ok ' <"$log")
		# a script that died, or that counts nothing itself, is one check
		if [ $status != 0 ] && [ "$bad" = 0 ]; then
			echo "not ok - $script ended with status $status"
			tail -n 20 "$log"
			bad=1
		elif [ $((good + bad)) = 0 ]; then
			good=1
		fi
		grep -v '^ok ' "$log" | head -n 100 || true
		passed=$((passed + good))
		failed=$((failed + bad))
	done
	stage_result $passed $failed
}

# run_pg_regress PROGRAM INPUTDIR CONF NAME...: pg_regress or its isolation
# brother on a temporary instance of its own.
run_pg_regress()
{
	local program=$1 inputdir=$2 conf=$3 log=$dir/output.log passed=0 failed=0 status=0
	shift 3

	cp "$conf" "$dir/server.conf"
	echo "idempotency_test.library = '$IDEMPOTENCY_TESTLIB'" >>"$dir/server.conf"
	# shellcheck disable=SC2086
	[ $# = 0 ] || (
		cd "$sources"
		as_pg env -u MAKEFLAGS -u MAKELEVEL "$pgxs_src/test/$program" \
			--inputdir="$inputdir" --outputdir="$dir" --bindir="$pg_bindir" \
			--temp-instance="$dir/instance" --temp-config="$dir/server.conf" \
			--encoding=UTF8 --no-locale --dbname=contrib_regression \
			${REGRESS_OPTS:-} "$@" </dev/null 8>&-
	) >"$log" 2>&1 || status=$?
	[ -f "$log" ] || : >"$log"

	# "test x ... ok  12 ms" up to 15, "ok 1 - x  12 ms" from 16
	passed=$(count '^(test .*\.\.\. ok |ok [0-9]+ )' <"$log")
	failed=$(count '^(test .*\.\.\. (FAILED|failed)|not ok [0-9]+ )' <"$log")
	grep -E '^(test .*\.\.\. (FAILED|failed)|not ok [0-9]+ )' "$log" || true
	if [ $((passed + failed)) -lt $# ]; then
		echo "not ok - of $# tests only $((passed + failed)) ran"
		tail -n 20 "$log"
		failed=$(($# - passed))
	elif [ $status != 0 ] && [ "$failed" = 0 ]; then
		echo "not ok - every test passed, but $program ended with status $status"
		tail -n 20 "$log"
		failed=1
	fi
	if [ "$failed" != 0 ]; then
		[ ! -s "$dir/regression.diffs" ] || head -n 200 "$dir/regression.diffs"
		echo "-- the end of the server's log, $dir/log/postmaster.log:"
		grep -E 'PANIC|FATAL|terminated by signal|TRAP' "$dir/log/postmaster.log" 2>/dev/null |
			tail -n 15 || true
	fi
	stage_result "$passed" "$failed"
}

run_regress()
{
	# shellcheck disable=SC2086
	run_pg_regress regress/pg_regress "$sources" test/regress.conf \
		${REGRESS-$(make_variable REGRESS)}
}

run_isolation()
{
	# shellcheck disable=SC2086
	run_pg_regress isolation/pg_isolation_regress "$sources/test" test/isolation.conf \
		${ISOLATION-$(make_variable SPECS)}
}

# tap_file FILE: runs one file by itself, so that its exit status can be told
# from its tests'; leaves its log, and "PASSED FAILED" beside.
tap_file()
{
	local file=$1 name log status=0 good bad start=$SECONDS

	name=$(basename "$file" .pl)
	log=$dir/$name.log
	mkdir "$dir/$name"
	[ "$(id -u)" != 0 ] || chown "$(pg_user):" "$dir/$name"
	(
		cd "$sources"
		as_pg env -u MAKEFLAGS -u MAKELEVEL \
			PATH="$pg_bindir:$PATH" PERL5LIB="$pgxs_src/test/perl:$sources/test/t" \
			PG_CONFIG="$PG_CONFIG" PG_REGRESS="$pgxs_src/test/regress/pg_regress" \
			TESTDIR="$dir/$name" TESTDATADIR="$dir/$name/tmp_check" \
			TESTLOGDIR="$dir/$name/tmp_check/log" PG_TEST_PORT_DIR="$dir/ports" \
			prove --verbose --merge "$file" </dev/null 8>&-
	) >"$log" 2>&1 || status=$?
	good=$(count '^ok ' <"$log")
	bad=$(grep -E '^not ok ' "$log" | grep -vc '# TODO' || true)
	if [ $status != 0 ] && [ "$bad" = 0 ]; then
		bad=1
	elif [ $((good + bad)) = 0 ] && ! grep -q '^Result: NOTESTS' "$log"; then
		bad=1
	fi
	echo "$good $bad" >"$dir/$name.count"
	if [ "$bad" != 0 ]; then
		grep -E '^not ok ' "$log" | head -n 20 || true
		echo "not ok - $file (status $status), the end of $log:"
		tail -n 25 "$log"
	elif [ "$good" = 0 ]; then
		echo "skipped: $file ($(sed -n 's/.* skipped: //p' "$log"))"
	else
		echo "ok - $file: $good in $((SECONDS - start)) s"
	fi
}

# They mostly wait for something, so some run at once: TAP_JOBS of them.
run_tap()
{
	local file name good bad passed=0 failed=0 running=0

	mkdir "$dir/ports"
	[ "$(id -u)" != 0 ] || chown "$(pg_user):" "$dir/ports"
	for file in ${TAP:-test/t/*.pl}; do
		[ -f "$file" ] || continue
		if [ $running -ge "${TAP_JOBS:-2}" ]; then
			wait -n || true
			running=$((running - 1))
		fi
		tap_file "$file" &
		running=$((running + 1))
	done
	wait
	for file in ${TAP:-test/t/*.pl}; do
		[ -f "$file" ] || continue
		name=$(basename "$file" .pl)
		good=0 bad=1
		[ ! -s "$dir/$name.count" ] || read -r good bad <"$dir/$name.count"
		passed=$((passed + good))
		failed=$((failed + bad))
	done
	stage_result $passed $failed
}

# what ends before the stages have run is a failure too, and says so last
trap 'echo "0 passed, 1 failed"' EXIT
mkdir -p "$top/tmp"
exec 8>"$top/tmp/test.lock"
flock -n 8 || { echo "waiting for another run in this tree to end"; flock 8; }

timed dependencies "$top/test/lib/deps.sh" test
find_pg || die "could not find a PostgreSQL installation with a server and its headers"
timed "build and install ($("$PG_CONFIG" --version))" build
make_state test
find_sources
trap - EXIT

for stage in $stages; do
	stage_start=$SECONDS
	dir=$state/$stage
	mkdir "$dir"
	[ "$(id -u)" != 0 ] || chown "$(pg_user):" "$dir"
	"run_$stage"
done

printf '%d passed, %d failed\n' $total_passed $total_failed
[ $total_failed = 0 ]
