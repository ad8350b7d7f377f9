# Leased claims through faults and crashes.
#
# First every fault point on the way of a leased claim, with each way to fail
# there: the claim is afterwards exactly what was last committed, nothing of the
# failed step is left, and the next one succeeds with a greater fence.
#
# Then workers under load, while the postmaster is killed.  An operation is: a
# leased claim, an effect outside the database, a checkpoint, and a finish
# together with an effect inside.  Workers die, or sleep over their lease, at
# any step; others take over.  The resource outside keeps the highest fence it
# has met, and refuses those below.  At the end every operation has one effect
# inside and one outside, and whoever was told of a result was told the truth.
#
# Controls: without the comparison of fences a stale holder settles; without the
# key's lock two workers hold one lease; the resource did meet stale holders.

use strict;
use warnings;

use Fcntl qw(:flock SEEK_SET);
use FindBin;
use IO::Handle;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'the library with fault points is not built (make testlib)'
  unless have_test_library();

my $kills = $ENV{IDEMPOTENCY_CRASHES} // 10;
my $node = new_node('leases', conf => "restart_after_crash = on\nautovacuum = off\n");

install_app($node);
use_test_library($node);
$node->safe_psql('postgres', q{
	SELECT idempotency.configure('leased', max_attempts => 1000000, backoff_base => '1 ms');
	CREATE TABLE held (key text, fence bigint);
});

# every fence that was seen to commit
my @fences;

# a session that is begun again where the server was
my $server = start_clients($node, 0);
my $session;

# Run one command; returns its SQLSTATE ('' if it succeeded) and output.
sub try_sql
{
	my ($sql) = @_;

	foreach my $try (1 .. 300)
	{
		my ($state, $answer) = call($server, \$session, "$sql;");

		return ($state, $answer) if $state ne 'lost';
		sleep(0.05);
	}
	die 'the server did not come back';
}

# Run one that must succeed; returns its output.
sub sql
{
	my ($state, $answer) = try_sql(@_);

	die "$state: @_" if $state ne '';
	return $answer;
}

# The SQLSTATE of a transaction of these commands.
sub transaction
{
	my ($state) = try_sql(join '\; ', 'BEGIN', @_, 'COMMIT');

	try_sql('ROLLBACK') if $state ne '';
	return $state;
}

# Lease a key; returns outcome and fence, and writes the fence down.
sub lease
{
	my ($key, $lease) = @_;
	my ($outcome, $fence, $at) = split /\|/, sql(
		"SELECT outcome, fence, (extract(epoch FROM claimed_at) * 1000000)::bigint
		FROM idempotency.claim('leased', '$key', lease => '$lease', wait => '0')");

	push @fences, [ $key, $fence, $at ] if $fence;
	return ($outcome, $fence);
}

# All that is stored of a key, each byte and column of it.
sub stored
{
	my ($key) = @_;

	return sql('SELECT string_agg(row, chr(10)) FROM ('
		  . join(' UNION ALL ', map { "SELECT k::text AS row FROM idempotency.key_day_$_ AS k WHERE key = '$key'" } 0 .. 3)
		  . ') AS stored');
}

#----------------------------------------------------------------------
# every fault point, and each way to fail there
#----------------------------------------------------------------------

# What the steps need before them (a lease, over or not, or nothing), and the
# SQL of the step with KEY and FENCE in it.
my %steps = (
	'claim' => [ '', q{claim('leased', 'KEY', lease => '1 h', state => 'mine')} ],
	'takeover' => [ '1 ms', q{claim('leased', 'KEY', lease => '1 h', state => 'mine')} ],
	'transactional takeover' => [ '1 ms', q{claim('leased', 'KEY')} ],
	'take_abandoned' => [ '1 ms', q{take_abandoned('leased', 100, '1 h')} ],
	'heartbeat' => [ '1 h', q{heartbeat('leased', 'KEY', FENCE, '30 min')} ],
	'finish' => [ '1 h', q{finish('leased', 'KEY', 'result', fence => FENCE)} ],
	'late finish' => [ '1 ms', q{finish('leased', 'KEY', 'result', fence => FENCE)} ],
	'fail' => [ '1 h', q{fail('leased', 'KEY', 'error', fence => FENCE, retry_after_ms => 0)} ]);
my @cases = (
	[ 'claim', 'claim.before_insert' ], [ 'claim', 'claim.after_insert' ],
	[ 'takeover', 'claim.before_insert' ], [ 'takeover', 'takeover.after_lock' ],
	[ 'takeover', 'claim.after_insert' ], [ 'transactional takeover', 'takeover.after_lock' ],
	[ 'take_abandoned', 'takeover.after_lock' ], [ 'take_abandoned', 'claim.after_insert' ],
	[ 'heartbeat', 'heartbeat.after_lock' ],
	[ 'finish', 'finish.before_update' ], [ 'finish', 'finish.after_update' ],
	[ 'late finish', 'finish.after_update' ],
	[ 'fail', 'finish.before_update' ], [ 'fail', 'finish.after_update' ]);
my %expected = (
	error => 'XX000', fatal => 'lost', kill => 'lost', crash => 'lost',
	cancel => '57014', lock_timeout => '55P03');
my $n = 0;

# Run a step in a transaction with an effect, and fail at a point.  Returns the
# SQLSTATE, or 'lost' if the connection was.
sub fail_at
{
	my ($point, $how, @commands) = @_;
	my $action = $how =~ /^(cancel|lock_timeout)$/ ? 'block' : $how;
	my @sql = (
		"SET idempotency.fault = '$point:$action';",
		$how eq 'lock_timeout' ? "SET lock_timeout = '50 ms';" : '',
		join('\; ', 'BEGIN', @commands, 'COMMIT;'));
	my $blocked;
	my $state;

	sql('SELECT pg_advisory_lock(7001)') if $action eq 'block';
	if ($how eq 'cancel')
	{
		my $pid;

		$blocked = session($node);
		$pid = $blocked->query_safe('SELECT pg_backend_pid()');
		$blocked->query_safe('\set VERBOSITY sqlstate');
		$blocked->query_until(qr/waiting/, join("\n", '\echo waiting', @sql, ''));
		sleep(0.01) until sql(
			"SELECT pg_cancel_backend(pid) FROM pg_locks WHERE pid = $pid AND locktype = 'advisory' AND NOT granted")
		  eq 't';
		$blocked->query('SELECT 1');
		($state) = $blocked->{stderr} =~ /(?:ERROR|FATAL):\s+(\w{5})/;
		$blocked->quit;
	}
	else
	{
		($state) = call($server, \$blocked, join("\n", @sql));
		hang_up(\$blocked) if $blocked;
	}
	sql('SELECT pg_advisory_unlock(7001)') if $action eq 'block';
	try_start($node) if $how eq 'crash';
	if ($how eq 'kill')
	{
		# until the postmaster has noticed, and ends everybody
		1 until (call($server, \$session, 'SELECT 1;'))[0] eq 'lost';
	}
	sql('SELECT 1');
	return $state // '';
}

foreach my $case (@cases)
{
	my ($step, $point) = @$case;
	my ($lease, $sql) = @{ $steps{$step} };

	foreach my $how (qw(error fatal kill crash cancel lock_timeout))
	{
		my $key = 'matrix-' . ++$n;
		my $name = "$step, $point, $how";
		my $fence = 0;
		my $wrong = '';
		my ($outcome, $next);

		if ($lease)
		{
			($outcome, $fence) = lease($key, $lease);
			sleep(0.003) if $lease eq '1 ms';
		}
		my $before = stored($key);
		my $call = $sql =~ s/KEY/$key/gr =~ s/FENCE/$fence/gr;
		my @commands = ("INSERT INTO effect (key) VALUES ('$key')", "SELECT * FROM idempotency.$call");

		my $state = fail_at($point, $how, @commands);
		$wrong .= " it ended in $state;" if $state ne $expected{$how};
		$wrong .= ' the row is another;' if stored($key) ne $before;
		$wrong .= ' an effect is left;' if sql("SELECT count(*) FROM effect WHERE key = '$key'") ne '0';
		$wrong .= ' a lock is left;' if sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}) ne '0';

		if ($lease eq '1 h')
		{
			# it is as it was held: by its holder, who does it again
			($outcome) = lease($key, '1 h');
			$wrong .= " another was told $outcome;" if $outcome ne 'in_progress';
			$wrong .= ' its holder is refused;' if transaction(@commands) ne '';
			$wrong .= ' its finish is refused;'
			  if $step eq 'heartbeat' && transaction("SELECT idempotency.finish('leased', '$key', 'x', fence => $fence)") ne '';
		}
		else
		{
			# it is free, once, and for a greater fence
			($outcome, $next) = lease($key, '1 h');
			$wrong .= " then it was told $outcome;" if $outcome ne ($lease ? 'resume' : 'execute');
			$wrong .= ' the fence has fallen;' if $next <= $fence;
			my ($other) = lease($key, '1 h');
			$wrong .= " another was told $other;" if $other ne 'in_progress';
			$wrong .= ' the stale holder counts;'
			  if $fence && transaction("SELECT idempotency.heartbeat('leased', '$key', $fence)") ne 'ID412';
			$wrong .= ' the new holder is refused;'
			  if transaction("INSERT INTO effect (key) VALUES ('$key')",
				"SELECT idempotency.finish('leased', '$key', 'x', fence => $next)") ne '';
		}
		my $effects = sql("SELECT count(*) FROM effect WHERE key = '$key'");
		$wrong .= " it has $effects effects;" if $effects ne '1';
		is($wrong, '', $name);
	}
}
is(wrong_fences(@fences), '0 repeated, 0 fallen', 'faults: of ' . @fences . ' fences');

#----------------------------------------------------------------------
# controls: without the comparison of fences, without the key's lock
#----------------------------------------------------------------------
{
	my (undef, $first) = lease('control', '1 ms');
	sleep(0.003);
	my (undef, $second) = lease('control', '1 h');
	my $finish = "SELECT idempotency.finish('leased', 'control', 'by $first', fence => $first)";

	is(sqlstate($node, $finish), 'ID412', 'a stale holder is refused');
	is(sqlstate($node, "SET idempotency.fault = 'fence.check:skip'; $finish"),
		'', 'control: without the comparison of fences it is not');
	is(sqlstate($node, "SELECT idempotency.finish('leased', 'control', 'by $second', fence => $second)"),
		'ID412', 'control: ... and the holder is');
}

# Workers who take over the same abandoned leases at the same moment.
$node->safe_psql('postgres', q{
	CREATE FUNCTION take_over(space text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		k text := space || '-' || floor(extract(epoch FROM clock_timestamp()) * 50)::bigint % 400;
		c record;
	BEGIN
		SELECT * INTO c FROM idempotency.claim('leased', k, lease => '1 h', wait => '0');
		IF c.outcome IN ('execute', 'resume') THEN
			INSERT INTO held VALUES (k, c.fence);
		END IF;
		RETURN c.outcome;
	EXCEPTION WHEN unique_violation OR internal_error THEN
		INSERT INTO held VALUES ('violation', 0);
		RETURN SQLSTATE;
	END;
	$$;
});
foreach my $control (0, 1)
{
	my $space = $control ? 'unlocked' : 'locked';

	sql("SELECT count(*) FROM generate_series(0, 399) AS i,
		LATERAL idempotency.claim('leased', '$space-' || i, lease => '1 ms')");
	my $bench = run_pgbench($node, "SELECT take_over('$space');\n", clients => 16, seconds => 3,
		options => $control ? '-c idempotency.fault=key.lock:skip' : '');
	my $twice = sql("SELECT count(*) FROM (SELECT FROM held WHERE key LIKE '$space-%' GROUP BY key HAVING count(*) > 1) AS h");
	my $violations = sql(q{SELECT count(*) FROM held WHERE key = 'violation'});
	my $taken = sql("SELECT count(DISTINCT key) FROM held WHERE key LIKE '$space-%'");

	is($bench->{status}, 0, "$space: the storm ran") or diag($bench->{err});
	if ($control)
	{
		cmp_ok($twice + $violations, '>', 0,
			"control: without the key's lock, of $taken leases $twice have two holders, and $violations violations");
		next;
	}
	cmp_ok($taken, '>', 50, "$space: $taken leases were taken over");
	is("$twice $violations", '0 0', "$space: each by one, in $bench->{processed} tries");
}

#----------------------------------------------------------------------
# the resource outside: for each operation, the highest fence that it has met,
# the effect, and whether a checkpoint after it was acknowledged (by whom)
#----------------------------------------------------------------------

# Let a function change what the resource has of a key: [highest, effect,
# checkpointed], under a lock, on disk when this returns.
sub with_resource
{
	my ($clients, $key, $change) = @_;

	open(my $file, '+>>', "$clients->{dir}/resource.$key") or die "could not open the resource: $!";
	flock($file, LOCK_EX);
	seek($file, 0, SEEK_SET);
	my @lines = <$file>;
	chomp @lines;
	my $record = [ split / /, $lines[-1] // '0 - 0' ];
	my $result = $change->($record);
	if ("@$record" ne ($lines[-1] // ''))
	{
		print $file "@$record\n";
		$file->flush;
		$file->sync;
	}
	close $file;
	return $result;
}

# The effect: refused to a fence below the highest, and there once at most.
sub affect
{
	my ($clients, $key, $fence) = @_;

	return with_resource($clients, $key, sub {
			my ($record) = @_;

			return 'refused' if $fence < $record->[0];
			$record->[0] = $fence;
			return 'again' if $record->[1] ne '-';
			$record->[1] = "effect-$fence";
			return 'affected';
		});
}

# What a worker says with its finish; to be replayed byte for byte.
sub response
{
	my ($fence, $effect) = @_;

	return qq({"by": $fence, "ä":  1.0, "effect": "$effect", "tab": "\t"} );
}

# One worker: operations of the moment, a few at a time, over and over.
sub worker
{
	my ($clients, $number, $file) = @_;
	my $session;

	until (-e "$clients->{dir}/stop")
	{
		my $key = 'op-' . int(time() * 2) . '-' . int(rand(30));

		operate($clients, \$session, $file, $key, "lease => '120 ms', wait => '0'");
		sleep(0.002);
	}
	return;
}

# One try at one operation.
sub operate
{
	my ($clients, $session, $file, $key, $how) = @_;
	my ($state, $answer) = call($clients, $session,
		"SELECT outcome, fence, (extract(epoch FROM claimed_at) * 1000000)::bigint, attempt,
			coalesce(recovery_point, '-'), coalesce(state, '-'), coalesce(encode(response::bytea, 'hex'), '-')
		FROM idempotency.claim('leased', '$key', '{\"op\": \"$key\"}', $how);");

	return sleep(0.02) if $state eq 'lost';
	return journal($file, "strange $state $key") if $state ne '';
	my ($outcome, $fence, $at, $attempt, $point, $effect, $hex) = split /\|/, $answer;
	return journal($file, "replay $key $hex") if $outcome eq 'replay';
	return if $outcome eq 'in_progress';
	return journal($file, "strange $answer") if $outcome !~ /^(execute|resume)$/;
	journal($file, "fence $key $fence $at $attempt");

	# an acknowledged checkpoint of an earlier attempt is never lost
	with_resource($clients, $key, sub {
			my ($record) = @_;

			journal($file, "strange lost checkpoint $key $fence")
			  if $record->[2] && $record->[2] < $fence && $point ne 'affected';
			journal($file, "strange state $effect $key")
			  if $point eq 'affected' && $effect ne $record->[1];
			return;
		});

	# some die, some sleep over their lease, before each step
	my $trouble = sub {
		my $r = rand();

		sleep(0.13 + rand(0.1)) if $r < 0.08;
		return $r > 0.92;
	};
	return journal($file, "died $key") if $trouble->();
	if ($point ne 'affected')
	{
		my $said = affect($clients, $key, $fence);

		journal($file, "$said $key $fence");
		return if $said eq 'refused' || $trouble->();
		$effect = with_resource($clients, $key, sub { return $_[0][1]; });
		($state) = call($clients, $session,
			"SELECT idempotency.checkpoint('leased', '$key', $fence, 'affected', '$effect');");
		journal($file, "checkpoint $key $fence $state");
		return journal($file, "strange $state checkpoint $key") if $state !~ /^(|lost|ID412)$/;
		return if $state ne '';
		with_resource($clients, $key, sub { $_[0][2] = $fence if $_[0][2] < $fence; return; });
		return if $trouble->();
	}
	elsif (rand() < 0.3)
	{
		call($clients, $session, "SELECT idempotency.heartbeat('leased', '$key', $fence, '200 ms');");
	}

	# with the effect inside; lost, it is for another claim to find out
	my $response = response($fence, $effect);
	my $assert = rand() < 0.5 ? "SELECT idempotency.assert_fence('leased', '$key', $fence)\\;" : '';

	($state) = call($clients, $session,
		"BEGIN\\; $assert INSERT INTO effect (key) VALUES ('$key')\\;
		SELECT idempotency.finish('leased', '$key', '$response', fence => $fence)\\; COMMIT;");
	return journal($file, 'done ' . $key . ' ' . unpack('H*', $response)) if $state eq '';
	call($clients, $session, 'ROLLBACK;') if $state ne 'lost';
	journal($file, ($state =~ /^(lost|ID412)$/ ? '' : 'strange ') . "$state finish $key");
	return;
}

my $clients = start_clients($node, 6, work => \&worker);
foreach my $round (1 .. $kills)
{
	sleep(0.3 + rand(0.6));
	$node->kill9;
	try_start($node);
}
sleep(1);
stop_clients($clients);
is($clients->{failed}, 0, 'load: every worker ended well');

#----------------------------------------------------------------------
# what is left open is found, and finished by somebody else
#----------------------------------------------------------------------
sleep(0.3);
{
	my $open = sql(q{SELECT count(*) FROM idempotency.abandoned('leased', 1000) WHERE key LIKE 'op-%'});

	cmp_ok($open, '>', 0, "left open: $open operations");
	is(sql(q{SELECT count(*) FROM idempotency.keys WHERE key LIKE 'op-%' AND state = 'running'}), $open,
		'left open: no other is running');

	my $sweep = start_clients($node, 3, work => sub {
			my ($sweepers, $number, $file) = @_;
			my $session;

			until (-e "$sweepers->{dir}/stop")
			{
				my ($state, $answer) = call($sweepers, \$session,
					"SELECT key, fence, (extract(epoch FROM claimed_at) * 1000000)::bigint,
						coalesce(state, '-') FROM idempotency.take_abandoned('leased', 5, '20 s') WHERE key LIKE 'op-%';");
				foreach my $row (split /\n/, $answer)
				{
					my ($key, $fence, $at, $effect) = split /\|/, $row;

					journal($file, "fence $key $fence $at");
					if ($effect eq '-')
					{
						journal($file, affect($clients, $key, $fence) . " $key $fence");
						$effect = with_resource($clients, $key, sub { return $_[0][1]; });
					}
					my $response = response($fence, $effect);
					($state) = call($sweepers, \$session,
						"BEGIN\\; INSERT INTO effect (key) VALUES ('$key')\\;
						SELECT idempotency.finish('leased', '$key', '$response', fence => $fence)\\; COMMIT;");
					journal($file, $state eq '' ? 'done ' . $key . ' ' . unpack('H*', $response) : "strange $state sweep $key");
				}
				sleep(0.02);
			}
			return;
		});
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM idempotency.keys WHERE key LIKE 'op-%' AND state = 'running'})
	  or die 'the sweepers do not come to an end';
	sleep(0.1);
	stop_clients($sweep);
	is($sweep->{failed}, 0, 'swept: every sweeper ended well');

	my @swept = grep { $_->[0] eq 'done' } read_lines($sweep);
	is(scalar @swept, $open, 'swept: each of them once');

	#------------------------------------------------------------------
	# what everybody was told
	#------------------------------------------------------------------
	my @lines = (read_lines($clients), read_lines($sweep));
	my (%count, %told, %done);

	foreach my $line (@lines)
	{
		$count{ $line->[0] }++;
		next unless $line->[0] =~ /^(done|replay)$/;
		$told{ $line->[1] }{ $line->[2] } = 1;
		$done{ $line->[1] }++ if $line->[0] eq 'done';
	}
	note(join ', ', map { "$count{$_} $_" } sort keys %count);
	is(join("\n", map { "@$_" } grep { $_->[0] eq 'strange' } @lines), '', 'told: nothing strange');
	cmp_ok(scalar keys %done, '>', 50, 'told: ' . keys(%done) . ' operations were finished');
	cmp_ok(scalar(grep { $_->[0] eq 'fence' && ($_->[4] // 2) > 1 } @lines), '>', 10, 'told: many were taken over');
	is(scalar(grep { $_ > 1 } values %done), 0, 'told: no finish was acknowledged twice');
	is(scalar(grep { keys %$_ > 1 } values %told), 0, 'told: all who asked were told the same');

	my @fenced = (@fences, map { [ @$_[ 1 .. 3 ] ] } grep { $_->[0] eq 'fence' } @lines);
	is(wrong_fences(@fenced), '0 repeated, 0 fallen', 'told: of ' . @fenced . ' fences');

	my %stored = map { split /\|/ } split /\n/, sql(
		q{SELECT k.key, encode(c.response::bytea, 'hex') FROM idempotency.keys AS k,
			LATERAL idempotency.claim('leased', k.key, wait => '0') AS c
			WHERE k.key LIKE 'op-%' AND c.outcome = 'replay'});
	is(scalar(grep { my $key = $_; grep { $_ ne ($stored{$key} // '') } keys %{ $told{$key} } } keys %told),
		0, 'told: every result is replayed, byte for byte');

	# inside and outside
	is(sql(q{SELECT count(*), count(DISTINCT key) FROM effect WHERE key LIKE 'op-%'}),
		join('|', (scalar keys %stored) x 2), 'inside: one effect for each of ' . keys(%stored) . ' operations');
	my ($once, $stale, $refused) = (0, 0, 0);
	foreach my $key (keys %stored)
	{
		my @records = map { [ split / / ] } split /\n/, slurp_file("$clients->{dir}/resource.$key");
		my %effects = map { $_->[1] => 1 } grep { $_->[1] ne '-' } @records;
		my ($effect) = keys %effects;

		$once++ if keys %effects == 1 && index(pack('H*', $stored{$key}), qq("$effect")) >= 0;
		$stale++ if grep { $records[ $_ - 1 ][0] > $records[$_][0] } 1 .. $#records;
	}
	is($once, scalar keys %stored, 'outside: one effect for each, which its result names');
	is($stale, 0, 'outside: fences only rise');
	cmp_ok($count{refused} // 0, '>', 0, 'control: the resource has refused ' . ($count{refused} // 0) . ' stale holders');
	cmp_ok($count{again} // 0, '>', 0, 'control: ' . ($count{again} // 0) . ' effects had been made before by others');
}
is(sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', 'no lock is left');

$node->stop;
done_testing();
