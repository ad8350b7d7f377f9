# Expiry and rotation under a clock that is walked through many epochs.
#
# Runs on the library with fault points, where idempotency.clock_offset moves
# the clock that deadlines are compared with.  The short ring has epochs of two
# hours; at(n, s) is s seconds into the nth epoch after the present one.
#
# A key is known until its expires_at, and not a moment longer, whatever
# maintain() does or is kept from doing.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'the library with fault points is not built (make testlib)'
  unless have_test_library();

my $width = 7200;
my $started = time();

# The offset with which the clock stands s seconds into the nth epoch.
sub at
{
	my ($epoch, $seconds) = @_;
	my $boundary = $started - $started % $width + $width;

	return $boundary + $epoch * $width + $seconds - time();
}

my $node = new_node('rotation');
install_app($node);
use_test_library($node);

# Set a session's clock.
sub set_clock
{
	my ($session, $epoch, $seconds) = @_;

	$session->query_safe('SET idempotency.clock_offset = ' . at($epoch, $seconds));
	return;
}

sub clocked_session
{
	my $session = session($node);

	$session->query_safe(q{SELECT FROM idempotency.policy('*')});
	return $session;
}

# Claim and finish keys at once; returns their expiry in seconds since 1970.
sub settle
{
	my ($session, $scope, @keys) = @_;
	my $list = join(', ', map { "'$_'" } @keys);

	return $session->query_safe(qq{
		SELECT max(extract(epoch FROM expires)) FROM (
			SELECT idempotency.finish('$scope', k, 'response of ' || k) AS expires
			FROM unnest(ARRAY[$list]) AS k,
				LATERAL idempotency.claim('$scope', k) AS c
			WHERE c.outcome = 'execute') AS f});
}

# What one claim would be answered; leaves nothing.
sub probe
{
	my ($session, $scope, $key) = @_;

	$session->query_safe('BEGIN');
	my $outcome = $session->query_safe(
		"SELECT outcome FROM idempotency.claim('$scope', '$key', wait => '0')");
	$session->query_safe('ROLLBACK');
	return $outcome;
}

# What maintain() reports, as "duty|object|result|amount" lines.
sub maintain
{
	my ($session) = @_;

	return $session->query_safe('SELECT * FROM idempotency.maintain()');
}

# The table that holds a key.
sub table_of
{
	my ($session, $scope, $key) = @_;

	return $session->query_safe(
		"SELECT segment FROM idempotency.keys WHERE scope = '$scope' AND key = '$key'"
	);
}

my $clock = clocked_session();
my $other = clocked_session();

# a retention and the longest lease, together four hours at most: the short ring
$clock->query_safe(qq{SELECT idempotency.configure('$_->[0]', retention => '$_->[1]', max_lease => '1 min')})
  foreach ([ 'hour', '1 h' ], [ 'long', '239 min' ], [ 'app', '150 min' ]);

#----------------------------------------------------------------------
# walk through ten epochs: known until expires_at, and no longer
#----------------------------------------------------------------------
{
	my %expiry;
	my $wrong = '';
	my $unexpected = '';
	my $truncated = 0;

	foreach my $step (0 .. 25)
	{
		my ($epoch, $seconds) = (0, 60 + $step * 47 * 60);
		my $now = $started + at($epoch, $seconds) + (time() - $started);

		set_clock($clock, $epoch, $seconds);
		foreach my $scope ('hour', 'long')
		{
			$expiry{"$scope-$step"} = settle($clock, $scope, "$scope-$step");
		}
		if ($step % 3 == 2)
		{
			$truncated++ foreach maintain($clock) =~ /truncated/g;
		}

		my $known = $clock->query_safe(q{
			SELECT string_agg(s || '-' || n, ' ') FROM unnest(ARRAY['hour', 'long']) AS s,
				generate_series(0, 25) AS n,
				LATERAL idempotency.peek(s, s || '-' || n) AS p
			WHERE p.response = 'response of ' || s || '-' || n});
		my %known = map { $_ => 1 } split / /, $known;

		foreach my $key (sort keys %expiry)
		{
			my $left = $expiry{$key} - $now;

			next if abs($left) < 10;
			$wrong .= " $key($left)" if ($left > 0) != exists $known{$key};
			my ($scope) = split /-/, $key;
			next if $step % 5 != 4;
			my $outcome = probe($clock, $scope, $key);
			$unexpected .= " $key($left): $outcome"
			  if $outcome ne ($left > 0 ? 'replay' : 'execute');
		}
	}
	is($wrong, '', 'walking: peek knows a key until it expires, and no longer');
	is($unexpected, '', 'walking: claim replays until then, and executes after');
	cmp_ok($truncated, '>=', 4, "walking: maintain() truncated $truncated times");
	is( $clock->query_safe(
			q{SELECT count(*) FROM idempotency.keys WHERE segment NOT LIKE 'key_short%'}),
		'0',
		'walking: everything was in the short ring');
}

#----------------------------------------------------------------------
# somebody's lock on the table: maintain() says busy, and cleans later
#----------------------------------------------------------------------
{
	my $locker = session($node);

	# begin with empty tables
	foreach my $epoch (16 .. 19)
	{
		set_clock($clock, $epoch, 3600);
		maintain($clock);
	}
	set_clock($clock, 20, 600);
	settle($clock, 'hour', 'old-1', 'old-2', 'old-3');
	my $table = table_of($clock, 'hour', 'old-1');

	set_clock($clock, 21, 1200);
	$locker->query_safe("BEGIN; LOCK TABLE idempotency.$table IN ACCESS SHARE MODE");
	my $before = time();
	like(maintain($clock), qr/^rotate\|$table\|busy\|0$/m,
		'a locked table is reported as busy');
	cmp_ok(time() - $before, '<=', 5, 'maintain() does not wait for the lock');
	is(probe($clock, 'hour', 'old-1'), 'execute', 'what has expired has, truncated or not');

	# three epochs on, the table is in use again, with leftovers in it
	set_clock($clock, 22, 600);
	settle($clock, 'long', 'new-1');
	is(table_of($clock, 'long', 'new-1'), $table, 'new rows go into the table with leftovers');
	is(probe($clock, 'hour', 'old-1'), 'execute', 'leftovers are ignored');
	settle($clock, 'long', 'old-1');

	$locker->query_safe('COMMIT');
	$locker->query_safe(
		"BEGIN; LOCK TABLE idempotency.$table IN SHARE UPDATE EXCLUSIVE MODE");
	like(maintain($clock), qr/^clean\|$table\|busy\|0$/m,
		'cleaning makes way for a VACUUM, too');
	$locker->query_safe('COMMIT');
	like(maintain($clock), qr/^clean\|$table\|done\|3$/m,
		'then the leftovers are deleted');
	unlike(maintain($clock), qr/$table/, '... once');
	is( $clock->query_safe(
			"SELECT string_agg(scope || ' ' || key, ', ' ORDER BY key) FROM idempotency.keys WHERE segment = '$table'"
		),
		'long new-1, long old-1',
		'... and nothing else');
	is(probe($clock, 'long', 'new-1'), 'replay', '... the new rows are known');
	$locker->quit;
}

#----------------------------------------------------------------------
# nobody rotates for a long time, and then in small steps
#----------------------------------------------------------------------
{
	set_clock($clock, 28, 600);
	maintain($clock) foreach 1 .. 2;
	settle($clock, 'hour', map { "late-$_" } 1 .. 400);
	my $table = table_of($clock, 'hour', 'late-1');

	# four epochs are skipped: the same table's turn has come again
	set_clock($clock, 32, 600);
	is(settle($clock, 'hour', 'late-7') ne '', 1, 'an expired leftover can be claimed anew');
	settle($clock, 'hour', 'fresh');
	is(table_of($clock, 'hour', 'fresh'), $table, 'it is the same table');
	is(probe($clock, 'hour', 'late-8'), 'execute', 'its leftovers are ignored');
	is(probe($clock, 'hour', 'late-7'), 'replay', 'the one that was claimed anew is not');

	$clock->query_safe('SET idempotency.maintain_pages = 3');
	my ($rounds, $deleted) = (0, 0);
	while ($rounds < 100)
	{
		my $report = maintain($clock);

		last unless $report =~ /^clean\|$table\|(\w+)\|(\d+)$/m;
		$rounds++;
		$deleted += $2;
		last if $1 eq 'done';
	}
	$clock->query_safe('RESET idempotency.maintain_pages');
	is($deleted, 399, "late: all leftovers are cleaned, in $rounds small steps");
	cmp_ok($rounds, '>', 1, 'late: it took more than one step');
	is(probe($clock, 'hour', 'fresh'), 'replay', 'late: the fresh key is known');
	is(probe($clock, 'hour', 'late-7'), 'replay', 'late: so is the one claimed anew');
}

#----------------------------------------------------------------------
# a leftover lies in the table that the key moves to
#----------------------------------------------------------------------
{
	# each key leaves a row that expires in epoch 100; a retry moves from
	# epoch 102's table into that of 104, which is the same as 100's
	set_clock($clock, 100, 600);
	foreach my $key ('again-finish', 'again-fail', 'again-release', 'again-rollback')
	{
		$clock->query_safe(qq{
			SELECT idempotency.finish('long', '$key', 'first', retention => '10 min')
			FROM idempotency.claim('long', '$key')});
	}
	my $table = table_of($clock, 'long', 'again-finish');
	set_clock($clock, 101, 600);
	foreach my $key ('again-finish', 'again-fail', 'again-release', 'again-rollback')
	{
		is( $clock->query_safe(qq{
				SELECT c.outcome, f.outcome FROM idempotency.claim('long', '$key') AS c,
					LATERAL idempotency.fail('long', '$key', 'broken',
						retry_after_ms => 0, retention => '2 h') AS f}),
			'execute|retry_later',
			"$key: the second life begins with a failure");
	}
	set_clock($clock, 102, 300);
	$clock->query_safe(q{
		SELECT idempotency.finish('long', 'again-finish', 'second')
		FROM idempotency.claim('long', 'again-finish')});
	is(table_of($clock, 'long', 'again-finish'), $table, 'again-finish: moved to where it was before');
	$clock->query_safe(q{
		SELECT f.outcome FROM idempotency.claim('long', 'again-fail') AS c,
			LATERAL idempotency.fail('long', 'again-fail', 'declined', retryable => false) AS f});
	$clock->query_safe(q{BEGIN; SELECT idempotency.claim('long', 'again-release');
		SELECT idempotency.release('long', 'again-release'); COMMIT;});
	$clock->query_safe(q{BEGIN; SELECT idempotency.claim('long', 'again-rollback');
		SELECT idempotency.finish('long', 'again-rollback'); ROLLBACK;});
	is( $clock->query_safe(q{
			SELECT string_agg(outcome || coalesce(' ' || response, '') || coalesce(' ' || error, ''), ', ')
			FROM unnest(ARRAY['finish', 'fail', 'release', 'rollback']) AS k,
				LATERAL idempotency.peek('long', 'again-' || k)}),
		'replay second, replay declined, retry_later broken, retry_later broken',
		'again: what counts is the later row');
	is(maintain($clock) =~ /\|done\|(\d+)/ ? 'cleaned' : 'nothing to clean',
		'cleaned', 'again: leftovers are cleaned');
	is( $clock->query_safe(
			q{SELECT count(*), count(DISTINCT key) FROM idempotency.keys WHERE key LIKE 'again-%'}),
		'4|4',
		'again: one row for each key is left');
}

#----------------------------------------------------------------------
# a claim that runs longer than its epoch, and longer than its retention
#----------------------------------------------------------------------
{
	my $holder = clocked_session();

	set_clock($holder, 36, 600);
	$holder->query_safe('BEGIN');
	is( $holder->query_safe(q{SELECT outcome FROM idempotency.claim('hour', 'running')}),
		'execute',
		'running: claimed');
	set_clock($clock, 36, 5000);
	is(probe($clock, 'hour', 'running'), 'in_progress',
		'running: in progress when its retention is over');
	set_clock($clock, 37, 1200);
	like(maintain($clock), qr/busy/, 'running: it keeps its table from being truncated');
	is(probe($clock, 'hour', 'running'), 'in_progress',
		'running: in progress when its epoch is over');
	set_clock($clock, 38, 1200);
	maintain($clock);
	is(probe($clock, 'hour', 'running'), 'in_progress',
		'running: in progress when its table serves another epoch');
	set_clock($holder, 38, 1300);
	$holder->query_safe(q{SELECT idempotency.finish('hour', 'running', 'at last')});
	is(probe($clock, 'hour', 'running'), 'in_progress', 'running: settled and not committed');
	$holder->query_safe('COMMIT');
	is(probe($clock, 'hour', 'running'), 'replay', 'running: known once it has committed');
	maintain($clock) foreach 1 .. 2;
	set_clock($clock, 38, 4700);
	is(probe($clock, 'hour', 'running'), 'replay',
		'running: retention counts from the settlement');

	# the same with a prepared transaction
	set_clock($holder, 40, 600);
	$holder->query_safe('BEGIN');
	settle($holder, 'hour', 'prepared');
	$holder->query_safe(q{PREPARE TRANSACTION 'rotation'});
	set_clock($clock, 40, 1200);
	is(probe($clock, 'hour', 'prepared'), 'in_progress', 'prepared: in progress');
	set_clock($clock, 41, 1200);
	like(maintain($clock), qr/busy/, 'prepared: it keeps its table from being truncated');
	is(probe($clock, 'hour', 'prepared'), 'in_progress',
		'prepared: in progress when its epoch is over');
	$holder->query_safe(q{ROLLBACK PREPARED 'rotation'});
	is(probe($clock, 'hour', 'prepared'), 'execute', 'prepared: free when it was rolled back');
	$holder->quit;
}

#----------------------------------------------------------------------
# a scope moves to another ring while the clock moves
#----------------------------------------------------------------------
{
	set_clock($clock, 48, 600);
	$clock->query_safe(q{SELECT idempotency.configure('moving', retention => '20 h')});
	settle($clock, 'moving', 'day');
	set_clock($clock, 48, 900);
	$clock->query_safe(q{SELECT idempotency.configure('moving', retention => '1 h')});
	settle($clock, 'moving', 'short');
	like(table_of($clock, 'moving', 'day'), qr/key_day/, 'moving: the old ring');
	like(table_of($clock, 'moving', 'short'), qr/key_short/, 'moving: the new ring');

	set_clock($clock, 49, 1200);
	maintain($clock);
	is(probe($clock, 'moving', 'short'), 'execute', 'moving: the new promise has run out');
	is(probe($clock, 'moving', 'day'), 'replay', 'moving: the old one has not');
	set_clock($clock, 57, 600);
	maintain($clock);
	is(probe($clock, 'moving', 'day'), 'replay', 'moving: ... 18 hours later');
	set_clock($clock, 58, 1000);
	is(probe($clock, 'moving', 'day'), 'execute', 'moving: ... until it has');

	# and back to a longer one
	settle($clock, 'moving', 'short again');
	$clock->query_safe(q{SELECT idempotency.configure('moving', retention => '10 days')});
	is(probe($clock, 'moving', 'short again'), 'replay', 'moving: to a longer ring');
	set_clock($clock, 58, 4500);
	is(probe($clock, 'moving', 'short again'), 'replay', 'moving: ... nearly an hour later');
	set_clock($clock, 58, 4700);
	is(probe($clock, 'moving', 'short again'), 'execute', 'moving: ... and after it');

	# the longest lease decides, too, and '*' decides for those who don't say
	set_clock($clock, 60, 600);
	$clock->query_safe(q{SELECT idempotency.configure('default', retention => '3 h')});
	settle($clock, 'default', 'before');
	like(table_of($clock, 'default', 'before'), qr/key_short/, 'moving: three hours and a lease of one');
	$clock->query_safe(q{SELECT idempotency.configure('*', max_lease => '4 days')});
	settle($clock, 'default', 'between');
	like(table_of($clock, 'default', 'between'), qr/key_week/, 'moving: three hours and a lease of days');
	is(probe($clock, 'default', 'before'), 'replay', 'moving: the old ring is looked into');
	set_clock($clock, 60, 4000);
	$clock->query_safe(q{SELECT idempotency.configure('*', max_lease => '1 h')});
	settle($clock, 'default', 'after');
	like(table_of($clock, 'default', 'after'), qr/key_short/, 'moving: and back');
	set_clock($clock, 61, 1300);
	maintain($clock);
	is(join(' ', map { probe($clock, 'default', $_) } 'before', 'between', 'after'),
		'replay replay replay', 'moving: all are known by the same policy');
	set_clock($clock, 61, 4300);
	maintain($clock);
	is(join(' ', map { probe($clock, 'default', $_) } 'before', 'between', 'after'),
		'execute execute replay', 'moving: ... for three hours');
	set_clock($clock, 61, 7200 + 500);
	is(probe($clock, 'default', 'after'), 'execute', 'moving: ... each');
}

#----------------------------------------------------------------------
# the clock is set back by a few minutes
#----------------------------------------------------------------------
{
	my %epochs = (hour => 1, long => 2, app => 1);

	# right behind a boundary, where a step back changes the epoch
	set_clock($clock, 64, 300);
	settle($clock, $_, "back-$_") foreach sort keys %epochs;
	set_clock($clock, 63, 7200 - 300);
	foreach my $scope (sort keys %epochs)
	{
		is(probe($clock, $scope, "back-$scope"), 'replay',
			"back by ten minutes over a boundary: scope $scope");
	}
	# ... and maintain() on either side takes nothing that counts
	set_clock($clock, 64, 400);
	maintain($clock);
	set_clock($clock, 63, 7200 - 400);
	maintain($clock);
	foreach my $scope (sort keys %epochs)
	{
		is(probe($clock, $scope, "back-$scope"), 'replay',
			"back by ten minutes, maintained: scope $scope");
	}
	set_clock($clock, 64, 1500);
	foreach my $scope (sort keys %epochs)
	{
		is(probe($clock, $scope, "back-$scope"), 'replay', "forward again: scope $scope");
	}
	# a key about to expire when the clock goes back
	set_clock($clock, 64, 300 + 3600 + 60);
	is(probe($clock, 'hour', 'back-hour'), 'execute', 'back: expired');
	maintain($clock);
	set_clock($clock, 64, 300 + 3600 - 120);
	is(probe($clock, 'hour', 'back-hour'), 'replay', 'back: known, as it has not expired then');

	# a table is truncated right behind a boundary, and the clock set back
	set_clock($clock, 110, 1200);
	settle($clock, 'hour', 'just');
	set_clock($clock, 110, 4740);
	is(probe($clock, 'hour', 'just'), 'replay', 'back: a minute before it expires');
	set_clock($clock, 110, 7000);
	settle($clock, 'hour', 'recent');
	$clock->query_safe(q{SELECT idempotency.finish('hour', 'brief', 'brief', retention => '2 min')
		FROM idempotency.claim('hour', 'brief')});
	set_clock($clock, 111, 120);
	maintain($clock);
	set_clock($clock, 110, 7060);
	is(probe($clock, 'hour', 'brief'), 'replay', 'back: known, whether maintain() came in between or not');
	is(probe($clock, 'hour', 'recent'), 'replay', 'back: so is one of the next epoch');
	set_clock($clock, 111, 1200);
	like(maintain($clock), qr/truncated/, 'back: it is truncated later in the epoch');

	# a key has expired and was claimed anew, and the clock is set back: what
	# counts is the later one
	set_clock($clock, 112, 3000);
	$clock->query_safe(q{SELECT idempotency.finish('long', 'twice', 'first', retention => '1 min')
		FROM idempotency.claim('long', 'twice')});
	set_clock($clock, 112, 3100);
	$clock->query_safe(q{SELECT idempotency.finish('long', 'twice', 'second')
		FROM idempotency.claim('long', 'twice')});
	set_clock($clock, 112, 3030);
	is( $clock->query_safe(q{SELECT response FROM idempotency.claim('long', 'twice')}),
		'second', 'back: the later of two lives is replayed');
	is( $clock->query_safe(q{SELECT idempotency.forget('long', 'twice', 'test')}) . probe($clock, 'long', 'twice'),
		'texecute', 'back: and forgotten, with nothing behind it');
}

#----------------------------------------------------------------------
# many clients, while the clock moves on and maintain() runs all the time
#----------------------------------------------------------------------
{
	my $broken = '';
	my $processed = 0;
	my $truncated = 0;

	# every client has a clock of its own, ahead of the others' by up to 20 s
	foreach my $step (0 .. 7)
	{
		my ($epoch, $seconds) = (70, 300 + $step * 50 * 60);
		my $offset = at($epoch, $seconds);
		my $bench = start_pgbench(
			$node,
			"\\set k random(1, 40)\nSELECT deliver('rotating-' || :k);\n",
			clients => 8,
			seconds => 1,
			options => "-c idempotency.clock_offset=$offset");

		while ($bench->{run}->pumpable)
		{
			set_clock($clock, $epoch, $seconds);
			$truncated++ foreach maintain($clock) =~ /truncated/g;
			$bench->{run}->pump_nb;
			select(undef, undef, undef, 0.02);
		}
		$processed += wait_pgbench($bench);
		$broken .= $bench->{err} if $bench->{status} != 0;
		$node->safe_psql('postgres',
			"UPDATE effect SET at = at + interval '$offset s' WHERE at < clock_timestamp() + interval '1 h'"
		);
	}
	is($broken, '', "storm: no client failed in $processed deliveries");
	cmp_ok($truncated, '>', 0, "storm: tables were truncated meanwhile ($truncated)");
	is( $node->safe_psql(
			'postgres', q{
			SELECT count(*) FROM (
				SELECT at - lag(at) OVER (PARTITION BY key ORDER BY at) AS since
				FROM effect WHERE key LIKE 'rotating-%') AS e
			WHERE since < '149 min'}),
		'0',
		'storm: no key took effect again within its retention');
	cmp_ok(
		$node->safe_psql(
			'postgres',
			q{SELECT count(*) FROM (SELECT FROM effect WHERE key LIKE 'rotating-%'
				GROUP BY key HAVING count(*) >= 2) AS e}),
		'==', 40,
		'storm: ... and each did after it');
}

$clock->quit;
$other->quit;
$node->stop;
done_testing();
