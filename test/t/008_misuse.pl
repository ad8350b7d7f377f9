# What applications, poolers, operators and intruders do to it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_node('misuse', conf => qq{
max_locks_per_transaction = 1024
log_min_messages = info
log_min_error_statement = panic
});
install_app($node);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# No heavyweight lock of ours, of any session.
sub no_locks
{
	my ($name) = @_;

	is(sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', "$name: no lock is left");
	return;
}

# A session that holds a key of scope app.
sub holder
{
	my ($key) = @_;
	my $session = session($node);

	$session->query_safe("BEGIN; SELECT deliver('$key')");
	return $session;
}

# Run a command in a session that will be blocked; returns the session and its
# backend, once that is in the command.
sub waiting
{
	my ($command) = @_;
	my $session = session($node);

	$session->query_safe("\\set VERBOSITY sqlstate");
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/waiting/, "\\echo waiting\n$command;\n");
	$node->poll_query_until('postgres',
		"SELECT wait_event_type IN ('Lock', 'Extension') FROM pg_stat_activity WHERE pid = $pid")
	  or die 'the command does not wait';
	return ($session, $pid);
}

# The SQLSTATE with which a command fails in a session; '' if it doesn't.
# Without a command, of the one that it is waiting for.
sub error_of
{
	my ($session, $command) = @_;

	$session->query($command // 'SELECT 1');
	my $state = $session->{stderr} =~ /(?:ERROR|FATAL):\s+(\w{5})/ ? $1 : '';
	$session->{stderr} = '';
	return $state;
}

#----------------------------------------------------------------------
# cancelled and terminated while waiting, bounded and unbounded
#----------------------------------------------------------------------
foreach my $wait ('NULL', q{'10 min'})
{
	my $holder = holder("cancel $wait" =~ s/'//gr);
	my $key = "cancel $wait" =~ s/'//gr;
	my $claim = "SELECT outcome FROM idempotency.claim('app', '$key', wait => $wait)";

	my ($session, $pid) = waiting($claim);
	sql("SELECT pg_cancel_backend($pid)");
	is(error_of($session), '57014', "wait => $wait: cancelled");
	no_locks("wait => $wait, cancelled");
	is($session->query_safe("SELECT outcome FROM idempotency.claim('app', '$key', wait => '0')"),
		'in_progress', "wait => $wait: the session goes on");
	like($session->query_safe("SELECT deliver('other of $key')"),
		qr/^execute/, "wait => $wait: and claims another key");
	$session->quit;

	($session, $pid) = waiting($claim);
	sql("SELECT pg_terminate_backend($pid, 60000)");
	eval { $session->quit };
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"), '0', "wait => $wait: terminated");
	no_locks("wait => $wait, terminated");

	# the holder is terminated: the waiter is told to execute
	my $holder_pid = $holder->query_safe('SELECT pg_backend_pid()');
	($session, $pid) = waiting("BEGIN; $claim");
	sql("SELECT pg_terminate_backend($holder_pid, 60000)");
	like($session->query(''), qr/execute/, "wait => $wait: the holder was terminated, the waiter executes");
	$session->query_safe('ROLLBACK');
	$session->quit;
	eval { $holder->quit };
	is(sql(qq{SELECT count(*) FROM effect WHERE key = '$key'}), '0', "wait => $wait: nothing took effect");
}

#----------------------------------------------------------------------
# timeouts, and how long a wait is
#----------------------------------------------------------------------
{
	my $holder = holder('timed');
	my $session = session($node);
	my $claim = q{FROM idempotency.claim('app', 'timed', wait => };

	$session->query_safe('\\set VERBOSITY sqlstate');
	foreach my $case (
		[ 'lock_timeout', 'NULL', '55P03' ],
		[ 'lock_timeout', q{'10 min'}, '55P03' ],
		[ 'statement_timeout', 'NULL', '57014' ],
		[ 'statement_timeout', q{'10 min'}, '57014' ])
	{
		my ($setting, $wait, $state) = @$case;

		$session->query_safe("SET $setting = '100 ms'; BEGIN; SAVEPOINT s");
		my $start = time();
		is(error_of($session, "SELECT outcome $claim $wait)"), $state, "$setting, wait => $wait: $state");
		my $took = time() - $start;
		cmp_ok(abs($took - 0.1), '<', 0.5, "$setting, wait => $wait: after its time");
		$session->query_safe("ROLLBACK TO s; RESET $setting");
		is($session->query_safe("SELECT outcome $claim '0')"),
			'in_progress', "$setting, wait => $wait: goes on behind the savepoint");
		$session->query_safe('COMMIT');
		no_locks("$setting, wait => $wait");
	}

	# a wait that is over sooner is an answer
	is(sqlstate($node, "SET lock_timeout = '5 s'; SET statement_timeout = '10 s'; SELECT outcome $claim '50 ms')"),
		'', 'a wait below the timeouts ends in an answer');
	my @took;
	foreach my $round (1 .. 5)
	{
		my $took = $session->query_safe(qq{
			SELECT (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000)::int
			$claim '200 ms') WHERE outcome = 'in_progress'});
		push @took, $took;
	}
	my ($median) = (sort { $a <=> $b } @took)[2];
	cmp_ok($median, '>=', 195, "wait => 200 ms: takes that long (@took)");
	cmp_ok($median, '<=', 350, "wait => 200 ms: and not much longer");
	my $took = $session->query_safe(qq{
		SELECT (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000)::int
		$claim '0') WHERE outcome = 'in_progress'});
	cmp_ok($took, '<', 100, "wait => 0: takes $took ms");
	$_->quit foreach ($holder, $session);
}

#----------------------------------------------------------------------
# transaction pooling: every transaction on another backend
#----------------------------------------------------------------------
{
	my @pool = map { session($node) } 1 .. 2;
	my $turn = 0;
	my $answers = '';

	# prepared statements are per backend, as with a pooler that knows of them
	foreach my $round (1 .. 12)
	{
		my $backend = $pool[ $turn++ % 2 ];
		my $key = 'pooled-' . int(($round + 1) / 2);

		$backend->query_safe('DISCARD ALL; PREPARE d AS SELECT deliver($1)') if $round % 3;
		my $answer = $backend->query_safe($round % 3 ? "EXECUTE d('$key')" : "SELECT deliver('$key')");
		$answers .= ($answer =~ /^(\w+)/)[0] . ' ';
	}
	is($answers, 'execute replay ' x 6, 'pooled: each key executes on one backend and replays on the other');

	# a claim does not outlive its transaction, whatever happens between
	foreach my $between ('DISCARD ALL', 'RESET SESSION AUTHORIZATION', 'SELECT 1')
	{
		$pool[0]->query_safe("BEGIN; SELECT deliver('between'); ROLLBACK");
		$pool[0]->query_safe($between);
		$pool[0]->query_safe('\\set VERBOSITY sqlstate');
		is(error_of($pool[0], q{SELECT idempotency.finish('app', 'between', 'x')}),
			'ID404', "pooled: nothing to finish after $between");
		my $holder = holder('between');
		is(error_of($pool[0], q{SELECT idempotency.finish('app', 'between', 'x')}),
			'ID412', 'pooled: nor what another backend holds');
		$holder->quit;
	}
	$_->quit foreach @pool;
}

#----------------------------------------------------------------------
# a session that squats on advisory locks, those with our keys' hashes first
#----------------------------------------------------------------------
{
	my $squatter = session($node);

	# the two halves of an id, in either byte order, as either kind of lock
	$squatter->query_safe(q{
		CREATE FUNCTION key_halves(k text, OUT a int, OUT b int, OUT c int, OUT d int)
		LANGUAGE sql AS $$
			WITH id AS (
				SELECT sha256('idempotency:id:v1'::bytea || '\x00' || int4send(3) || 'app'::bytea
					|| int4send(0) || int4send(length(k)) || k::bytea) AS bytes)
			SELECT ('x' || encode(substr(bytes, 1, 4), 'hex'))::bit(32)::int,
				('x' || encode(substr(bytes, 5, 4), 'hex'))::bit(32)::int,
				('x' || encode(substr(bytes, 4, 1) || substr(bytes, 3, 1) || substr(bytes, 2, 1)
					|| substr(bytes, 1, 1), 'hex'))::bit(32)::int,
				('x' || encode(substr(bytes, 8, 1) || substr(bytes, 7, 1) || substr(bytes, 6, 1)
					|| substr(bytes, 5, 1), 'hex'))::bit(32)::int
			FROM id
		$$});
	$squatter->query_safe(q{
		SELECT count(*) FROM generate_series(1, 50) AS i, key_halves('squat-' || i) AS h,
			LATERAL (SELECT pg_advisory_lock(a, b), pg_advisory_lock(c, d),
				pg_advisory_lock((a::bigint << 32) | (b::bigint & 4294967295)),
				pg_advisory_lock((c::bigint << 32) | (d::bigint & 4294967295))) AS l});
	$squatter->query_safe(q{
		SELECT count(pg_advisory_lock(i)) + count(pg_advisory_lock(i, -i)) FROM generate_series(1, 25000) AS i});
	is(sql(q{SELECT count(*) > 50000 FROM pg_locks WHERE locktype = 'advisory'}), 't', 'squatter: holds its locks');
	is( sql(q{SET statement_timeout = '20 s';
			SELECT string_agg(DISTINCT left(deliver('squat-' || i), 7), ' ') FROM generate_series(1, 50) AS i}),
		'execute',
		'squatter: claims are unaffected');
	is( sql(q{SET statement_timeout = '20 s';
			SELECT string_agg(DISTINCT left(deliver('squat-' || i), 6), ' ') FROM generate_series(1, 50) AS i}),
		'replay',
		'squatter: so are replays');
	is(sqlstate($node, q{SET statement_timeout = '20 s'; SELECT count(*) FROM idempotency.maintain()}),
		'', 'squatter: so is maintain()');
	is(sqlstate($node, q{SET statement_timeout = '20 s'; SELECT idempotency.forget('app', 'squat-1', 'test')}),
		'', 'squatter: and forget()');
	is( sql('SELECT sum(n) FROM (' . join(
				' UNION ALL ',
				map {
					"SELECT count(*) AS n FROM idempotency.key_day_$_ AS k, key_halves(k.key) AS h
						WHERE k.key LIKE 'squat-%'
						AND ('x' || left(replace(k.id::text, '-', ''), 8))::bit(32)::int = h.a
						AND ('x' || substr(replace(k.id::text, '-', ''), 9, 8))::bit(32)::int = h.b"
				} 0 .. 3) . ') AS t'),
		'49',
		'squatter: those were the right hashes');
	$squatter->query_safe('SELECT pg_advisory_unlock_all()');
	$squatter->quit;
	no_locks('squatter');
}

#----------------------------------------------------------------------
# many claims in one transaction, many savepoints
#----------------------------------------------------------------------
{
	my $session = session($node);

	$session->query_safe('BEGIN');
	is( $session->query_safe(q{
			SELECT outcome, count(*) FROM idempotency.claim_many('app',
				ARRAY(SELECT 'many-' || i FROM generate_series(1, 100000) AS i)) GROUP BY 1}),
		'execute|100000',
		'100000 claims in one transaction');
	cmp_ok($session->query_safe('SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()'),
		'<=', 12, '... need few locks');
	is( $session->query_safe(q{
			SELECT count(idempotency.finish('app', 'many-' || i, 'r' || i)) FROM generate_series(1, 100000) AS i}),
		'100000', '... and are finished');
	$session->query_safe('COMMIT');
	is( sql(q{SELECT outcome, count(*) FROM idempotency.claim_many('app',
			ARRAY(SELECT 'many-' || i FROM generate_series(100000, 1, -1) AS i)) GROUP BY 1}),
		'replay|100000',
		'... and replayed');

	$session->query_safe(q{
		CREATE FUNCTION many_savepoints(n int) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. n LOOP
				BEGIN
					PERFORM deliver('sub-' || i);
					IF i % 3 = 0 THEN
						RAISE EXCEPTION USING ERRCODE = 'P1111';
					END IF;
				EXCEPTION WHEN SQLSTATE 'P1111' THEN
					NULL;
				END;
			END LOOP;
		END;
		$$});
	$session->query_safe('BEGIN; SELECT many_savepoints(10000)');
	is( sql(q{SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM (
			SELECT outcome, count(*) AS n FROM idempotency.claim_many('app',
				ARRAY(SELECT 'sub-' || i FROM generate_series(2, 400) AS i WHERE i % 3 <> 0), wait => '0')
			GROUP BY 1) AS o}),
		'in_progress 266',
		'10000 savepoints: those that were released hold their keys');
	is( sql(q{BEGIN; SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM (
			SELECT outcome, count(*) AS n FROM idempotency.claim_many('app',
				ARRAY(SELECT 'sub-' || i FROM generate_series(1, 400) AS i WHERE i % 3 = 0), wait => '0')
			GROUP BY 1) AS o; ROLLBACK}),
		'execute 133',
		'10000 savepoints: those that were rolled back do not');
	$session->query_safe('COMMIT');
	is( sql(q{BEGIN; SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM (
			SELECT outcome, count(*) AS n FROM idempotency.claim_many('app',
				ARRAY(SELECT 'sub-' || i FROM generate_series(1, 10000) AS i), wait => '0')
			GROUP BY 1) AS o; ROLLBACK}),
		'execute 3333, replay 6667',
		'10000 savepoints: committed');
	is(sql(q{SELECT count(*), count(DISTINCT key) FROM effect WHERE key LIKE 'sub-%'}),
		'6667|6667', '10000 savepoints: one effect each');
	$session->quit;
}

#----------------------------------------------------------------------
# parallel plans forced wherever PostgreSQL thinks them safe
#----------------------------------------------------------------------
{
	my $setting = $node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
	my $flow = q{
		SELECT deliver('parallel-' || i) ~ '^execute' FROM generate_series(1, 3) AS i;
		SELECT outcome FROM idempotency.claim_many('app', ARRAY['parallel-1', 'parallel-2']);
		SELECT outcome FROM idempotency.peek('app', 'parallel-3');
		SELECT count(*) FROM idempotency.keys WHERE key LIKE 'parallel-%';
		SELECT idempotency.once('app', 'parallel-4'), idempotency.once('app', 'parallel-4');
		SELECT encode(idempotency.fingerprint('{"a": 1}'), 'hex') = encode(idempotency.fingerprint('{"a":1.0}'), 'hex');
		SELECT outcome, response FROM idempotency.run('app', 'parallel-5', 'SELECT count(*) FROM effect WHERE key LIKE ''parallel-%''');
		SELECT idempotency.forget('app', 'parallel-' || i, 'test') FROM generate_series(1, 5) AS i;
		DELETE FROM effect WHERE key LIKE 'parallel-%';
	};
	my $serial = sql($flow);

	is(sql("SET $setting = regress; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; $flow"),
		$serial, 'forced parallel plans: the same answers');
	like($serial, qr/^t\nt\nt\nreplay\nreplay\nreplay\n3\nt\|f\nt\nexecute\|/, '... and the right ones');
}

#----------------------------------------------------------------------
# the extension goes, or changes, under its users
#----------------------------------------------------------------------
{
	sql('CREATE DATABASE gone');
	install_app($node, 'gone');
	foreach my $end ('ROLLBACK', 'COMMIT')
	{
		my $session = session($node, db => 'gone');

		$session->query_safe("BEGIN; SELECT deliver('gone'); DROP FUNCTION deliver; DROP EXTENSION idempotency; $end");
		is($session->query_safe('SELECT 1'), '1', "dropped after a claim, then $end: the session lives");
		$session->quit;
	}
	is(sqlstate($node, q{SELECT idempotency.claim('app', 'gone')}, db => 'gone') =~ /^(3F000|42883)$/ ? 1 : 0,
		1, 'dropped: there is no such function');
	install_app_again();

	sub install_app_again
	{
		$node->safe_psql('gone', 'DROP TABLE effect');
		install_app($node, 'gone');
		like($node->safe_psql('gone', q{SELECT deliver('gone')}), qr/^execute/,
			'created again: begins with nothing');
		return;
	}

	my $version = $node->safe_psql('gone', q{SELECT extversion FROM pg_extension WHERE extname = 'idempotency'});
	foreach my $other ('0.0.1', '99.0')
	{
		$node->safe_psql('gone', "UPDATE pg_extension SET extversion = '$other' WHERE extname = 'idempotency'");
		foreach my $call (q{claim('app', 'k')}, q{peek('app', 'k')}, q{configure('app')}, q{maintain()})
		{
			is(sqlstate($node, "SELECT * FROM idempotency.$call", db => 'gone'),
				'55000', "SQL objects of version $other: $call is refused");
		}
	}
	$node->safe_psql('gone', "UPDATE pg_extension SET extversion = '$version' WHERE extname = 'idempotency'");
	like($node->safe_psql('gone', q{SELECT deliver('gone')}), qr/^replay/, 'the right version again');
}

#----------------------------------------------------------------------
# secrets: planted in every argument, never in the server's log
#----------------------------------------------------------------------
{
	my $marker = 'Geheim7391';
	my $offset = -s $node->logfile;
	my $states = '';

	sql(qq{SELECT idempotency.configure('secret', max_key_bytes => 40, max_request_bytes => 100, max_response_bytes => 100);
		SELECT idempotency.configure('strict', require_request => true);
		CREATE TABLE card (number text);
		CREATE TRIGGER dedup BEFORE INSERT ON card FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('card', 'number', 'raise')});
	my $holder = session($node);
	$holder->query_safe(qq{BEGIN; SELECT outcome FROM idempotency.claim('secret', '$marker held', '$marker', principal => '$marker')});
	sql(qq{SELECT idempotency.finish('secret', '$marker', 'response $marker', tag => '$marker', principal => '$marker')
		FROM idempotency.claim('secret', '$marker', '["$marker"]', principal => '$marker')});
	sql(qq{SELECT idempotency.fail('secret', '$marker-f', 'error $marker', retryable => false)
		FROM idempotency.claim('secret', '$marker-f')});
	sql(qq{SELECT idempotency.fail('secret', '$marker-r', 'error $marker', retry_after_ms => 3600000)
		FROM idempotency.claim('secret', '$marker-r')});

	foreach my $case (
		[ 'ID422', qq{claim_or_raise('secret', '$marker', '["$marker", 2]', principal => '$marker')} ],
		[ 'ID409', qq{claim_or_raise('secret', '$marker held', '$marker', wait => '0', principal => '$marker')} ],
		[ 'ID409', qq{forget('secret', '$marker held', '$marker', principal => '$marker')} ],
		[ 'ID429', qq{claim_or_raise('secret', '$marker-r')} ],
		[ 'ID410', qq{claim_or_raise('secret', '$marker-new', first_sent => '2001-01-01')} ],
		[ 'ID400', qq{claim('secret', '$marker' || repeat('x', 50))} ],
		[ 'ID400', qq{claim('secret', '')} ],
		[ 'ID400', qq{claim('strict', '$marker')} ],
		[ 'ID400', qq{claim('secret', '$marker', '{"$marker": 1, "$marker": 2}', principal => '$marker')} ],
		[ 'ID400', qq{claim('secret', '$marker', '{"$marker": "\\ud800 $marker"}', principal => '$marker')} ],
		[ 'ID400', qq{claim('secret', '$marker', '[object Object]', principal => '$marker')} ],
		[ 'ID400', qq{claim('secret', '$marker', principal => '$marker' || repeat('x', 130))} ],
		[ 'ID400', qq{claim('secret', '$marker', retention => '50 days')} ],
		[ 'ID413', qq{claim('secret', '$marker', '$marker' || repeat('x', 200))} ],
		[ 'ID413', qq{finish('secret', '$marker-big', '$marker' || repeat('x', 200)) FROM idempotency.claim('secret', '$marker-big')} ],
		[ 'ID404', qq{finish('secret', '$marker-none', '$marker')} ],
		[ 'ID412', qq{finish('secret', '$marker', '$marker', principal => '$marker')} ],
		[ 'ID412', qq{finish('secret', '$marker held', '$marker', principal => '$marker')} ],
		[ 'ID412', qq{release('secret', '$marker', principal => '$marker')} ],
		[ 'ID428', qq{claim('secret', '$marker-unsettled', '$marker')} ])
	{
		my ($expected, $call) = @$case;
		my $state = sqlstate($node, $call =~ / FROM / ? "SELECT idempotency.$call" : "SELECT * FROM idempotency.$call");

		$states .= " $call: $state" if $state ne $expected;
	}
	is($states, '', 'secrets: every error was provoked');
	sql(qq{INSERT INTO card VALUES ('$marker')});
	is(sqlstate($node, qq{INSERT INTO card VALUES ('$marker')}), '23505', 'secrets: dedup() raises');
	is(sqlstate($node, qq{SET lock_timeout = '10 ms'; SELECT idempotency.claim('secret', '$marker held', principal => '$marker')}),
		'55P03', 'secrets: a wait that is cut off');
	is(sql(qq{SELECT idempotency.forget('secret', '$marker', 'customer asked', principal => '$marker')}),
		't', 'secrets: forgotten');
	$holder->quit;

	my $log = slurp_file($node->logfile, $offset);
	like($log, qr/ID|idempotency/, 'secrets: the errors are in the log');
	my @leaks = grep { /$marker/ } split /\n/, $log;
	is(join("\n", @leaks), '', 'secrets: and no marker is');

	# nor in what a client is told
	my $told = '';
	foreach my $call (
		qq{claim_or_raise('secret', '$marker-f', '$marker')},
		qq{claim('secret', '$marker', '{"$marker": 1, "$marker": 2}')},
		qq{finish('secret', '$marker-none', '$marker')},
		qq{claim('secret', '$marker-unsettled', '$marker')})
	{
		my ($out, $err) = ('', '');

		$node->psql('postgres', "SELECT 1 FROM idempotency.$call", stdout => \$out, stderr => \$err,
			extra_params => [ '-v', 'VERBOSITY=verbose' ]);
		$told .= join("\n", grep { !/^(LINE|STATEMENT| *\^)/ } split /\n/, $err);
	}
	unlike($told, qr/$marker/, 'secrets: nor in a message to the client');
}

$node->stop;
done_testing();
