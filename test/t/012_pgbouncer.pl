# Behind PgBouncer in transaction mode: many clients, three server connections.
#
# Every transaction of a client can run in another backend, between those of
# other clients, and nothing resets a backend in between.  Claims, leased and
# transactional, need nothing of a session: the answers are those of a direct
# connection, and every operation takes effect once.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';
plan skip_all => 'pgbouncer is not installed' unless $pgbouncer;
my ($major, $minor) = `$pgbouncer --version` =~ /PgBouncer (\d+)\.(\d+)/;
plan skip_all => 'pgbouncer does not say its version' unless defined $minor;

my $servers = 3;
my $seconds = $ENV{IDEMPOTENCY_STORM_SECONDS} // 5;
my $node = new_node('pooled');
install_app($node);
$node->safe_psql('postgres', q{
	SELECT idempotency.configure('leased', max_attempts => 1000000, backoff_base => '1 ms');
});

sub sql { return $node->safe_psql('postgres', $_[0]); }

#----------------------------------------------------------------------
# the pooler, run by the user who runs the tests, on a socket of its own
#----------------------------------------------------------------------
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $user = sql('SELECT current_user');
# from 1.21 on, it knows of prepared statements
my $knows_prepared = $major > 1 || $minor >= 21;
my $max_prepared = $knows_prepared ? 'max_prepared_statements = 100' : '';

append_to_file("$dir/users", qq("$user" ""\n));
append_to_file("$dir/pgbouncer.ini", qq{
[databases]
postgres = host='${\$node->host}' port=${\$node->port} dbname=postgres
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $dir
auth_type = trust
auth_file = $dir/users
pool_mode = transaction
default_pool_size = $servers
max_client_conn = 100
server_reset_query =
server_round_robin = 1
ignore_startup_parameters = extra_float_digits,options
logfile = $dir/log
pidfile = $dir/pid
$max_prepared
});

my ($said, $errors) = ('', '');
my $pooler = IPC::Run::start([ $pgbouncer, '-q', "$dir/pgbouncer.ini" ], '<', \undef, '>', \$said, '2>', \$errors);
my $connstr = "host=$dir port=$port dbname=postgres user=$user";

END
{
	local $?;
	$pooler->kill_kill(grace => 2) if $pooler;
}

foreach my $attempt (1 .. 100)
{
	last if -S "$dir/.s.PGSQL.$port";
	sleep(0.05);
}
note("PgBouncer $major.$minor");

# Run pgbench through the pooler, in each way of sending queries that it knows.
sub pgbench
{
	my ($script, $mode, $clients) = @_;
	my ($out, $err) = ('', '');
	my $file = "$dir/script." . int(rand(1 << 30));

	append_to_file($file, $script);
	my $status = IPC::Run::run(
		[
			$node->installed_command('pgbench'), '--no-vacuum', '--file', $file, '--client', $clients,
			'--jobs', 2, '--time', $seconds, '--protocol', $mode, $connstr
		],
		'<', \undef, '>', \$out, '2>', \$err);
	my ($processed) = $out =~ /actually processed: (\d+)/;

	ok($status, "$mode: no client failed") or diag($err);
	return $processed // 0;
}

#----------------------------------------------------------------------
# leased claims: each step in another transaction
#----------------------------------------------------------------------

# Operations whose steps are scattered over the backends, told by two clients
# each; between the steps, whatever else resets or litters a session.
sub operator
{
	my ($clients, $number, $file) = @_;
	my @between = ('DISCARD ALL;', 'SELECT 1;', 'RESET ALL;', 'SELECT pg_sleep(0.002);');
	my $session;
	my $n = 0;

	until (-e "$clients->{dir}/stop")
	{
		my $key = 'pair-' . int($number / 2) . '-' . int($n++ / 3);
		my $identity = "'leased', '$key'";
		my @pids;
		my $step = sub {
			my ($sql) = @_;
			my ($state, $answer) = call($clients, \$session, $sql);
			my ($pid, $rest) = $answer =~ /^(\d+)\|(.*)$/s;

			push @pids, $pid if defined $pid;
			journal($file, "strange $state $sql") if $state ne '';
			call($clients, \$session, $between[ rand @between ]) if rand() < 0.7;
			return $rest // '';
		};
		my $claim = $step->(
			"SELECT pg_backend_pid(), outcome, fence, coalesce(response, '-'), (extract(epoch FROM claimed_at) * 1000000)::bigint
			FROM idempotency.claim($identity, '{\"n\": 1.0}', lease => '20 s', wait => '0', owner => 'client $number');");
		my ($outcome, $fence, $response, $at) = split /\|/, $claim;

		journal($file, "$outcome $key $response");
		next if $outcome ne 'execute';
		journal($file, "fence $key $fence $at");
		$step->("SELECT pg_backend_pid(), idempotency.checkpoint($identity, $fence, 'half', 'state of $fence');");
		$step->("SELECT pg_backend_pid(), idempotency.heartbeat($identity, $fence, '20 s');");
		my $again = $step->("SELECT pg_backend_pid(), outcome, fence, recovery_point, state
			FROM idempotency.claim($identity, '{\"n\": 1}', lease => '1 s', wait => '0', owner => 'client $number');");
		journal($file, "strange $again for $fence") if $again ne "resume|$fence|half|state of $fence";
		$step->("BEGIN\\; SELECT idempotency.assert_fence($identity, $fence)\\; INSERT INTO effect (key) VALUES ('$key')\\;
			SELECT pg_backend_pid(), idempotency.finish($identity, 'by $fence', fence => $fence)\\; COMMIT;");
		journal($file, "done $key $fence");
		journal($file, 'pids ' . join(' ', @pids));
	}
	return;
}

my $operators = start_clients($node, 20, work => \&operator, connstr => $connstr);

sleep(1);
cmp_ok(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()}),
	'<=', $servers, "leased: 20 clients have no more than $servers backends");
sleep($seconds - 1);
stop_clients($operators);
is($operators->{failed}, 0, 'leased: every client ended well');
{
	my @lines = read_lines($operators);
	my %fence = map { $_->[1] => $_->[2] } grep { $_->[0] eq 'done' } @lines;
	my @scattered = grep { my %pid = map { $_ => 1 } @$_[ 1 .. $#$_ ]; keys %pid > 1 } grep { $_->[0] eq 'pids' } @lines;
	my @wrong = grep { $_->[0] eq 'replay' && "$_->[2] $_->[3]" ne "by $fence{$_->[1]}" } @lines;
	my @fences = read_fences($operators);

	is(join("\n", map { "@$_" } grep { $_->[0] !~ /^(execute|in_progress|replay|fence|done|pids)$/ } @lines),
		'', 'leased: nobody was told anything strange');
	cmp_ok(scalar keys %fence, '>', 100, 'leased: ' . keys(%fence) . ' operations were finished');
	cmp_ok(scalar @scattered, '>', 50, 'leased: ' . @scattered . ' of them by more than one backend');
	cmp_ok(scalar(grep { $_->[0] eq 'replay' } @lines), '>', 100, 'leased: others were told their results');
	is(scalar @wrong, 0, 'leased: and each the right one');
	is(wrong_fences(@fences), '0 repeated, 0 fallen', 'leased: of ' . @fences . ' fences');
	is(sql(q{SELECT count(*), count(DISTINCT key) FROM effect WHERE key LIKE 'pair-%'}),
		join('|', (scalar keys %fence) x 2), 'leased: one effect each');
}

# takeovers, failures, releases, as they come
my $leasers = start_clients($node, 12, work => \&leaser, done => 1, connstr => $connstr);
sleep($seconds / 2);

#----------------------------------------------------------------------
# the same answers as on a direct connection, while others use the backends
#----------------------------------------------------------------------

# What one client is told, in order; FENCE is the last one that it was given.
my @script = (
	q{SELECT outcome, fence > 0, attempt FROM idempotency.claim('SCOPE', 'a', '{"n": 1}', lease => '1 h', owner => 'me', state => 's')},
	q{SELECT outcome, lease_until IS NULL, reason FROM idempotency.claim('SCOPE', 'a', '{"n": 1}', wait => '0')},
	q{SELECT outcome FROM idempotency.claim('SCOPE', 'a', '{"n": 2}', wait => '0')},
	q{SELECT outcome, fence > 0, attempt FROM idempotency.claim('SCOPE', 'a', '{"n": 1.0}', lease => '1 h', owner => 'me')},
	q{SELECT outcome FROM idempotency.claim('SCOPE', 'a', lease => '1 h', owner => 'you', wait => '0')},
	q{SELECT idempotency.checkpoint('SCOPE', 'a', FENCE, 'one', 'state one')},
	q{SELECT idempotency.checkpoint('SCOPE', 'a', 1, 'two')},
	q{SELECT idempotency.heartbeat('SCOPE', 'a', FENCE) > now()},
	q{SELECT outcome, recovery_point, state FROM idempotency.claim('SCOPE', 'a', lease => '1 h', owner => 'me')},
	q{SELECT idempotency.assert_fence('SCOPE', 'a', FENCE)},
	q{SELECT idempotency.finish('SCOPE', 'a', 'x')},
	q{SELECT idempotency.finish('SCOPE', 'a', ' the  answer ', fence => FENCE) > now()},
	q{SELECT idempotency.finish('SCOPE', 'a', ' the  answer ', fence => FENCE) > now()},
	q{SELECT idempotency.finish('SCOPE', 'a', 'another', fence => FENCE)},
	q{SELECT outcome, response, state FROM idempotency.claim('SCOPE', 'a', '{"n":1}')},
	q{SELECT idempotency.release('SCOPE', 'a', FENCE)},
	q{SELECT outcome, fence > 0 FROM idempotency.claim('SCOPE', 'b', lease => '1 ms')},
	q{SELECT pg_sleep(0.005)},
	q{SELECT outcome, fence > 0, attempt FROM idempotency.claim('SCOPE', 'b', lease => '1 h')},
	q{SELECT outcome, attempt, retry_after_ms FROM idempotency.fail('SCOPE', 'b', 'no', fence => FENCE, retry_after_ms => 0)},
	q{SELECT outcome, attempt FROM idempotency.claim('SCOPE', 'b', lease => '1 h')},
	q{SELECT idempotency.release('SCOPE', 'b', FENCE)},
	q{SELECT idempotency.forget('SCOPE', 'b', 'test')},
	q{SELECT idempotency.finish('SCOPE', 'c', 'in one', fence => c.fence) > now() FROM idempotency.claim('SCOPE', 'c', lease => '1 h') AS c},
	q{BEGIN\; SELECT outcome FROM idempotency.claim('SCOPE', 'd')\; SELECT idempotency.finish('SCOPE', 'd', 'both') > now()\; COMMIT},
	q{SELECT outcome, response FROM idempotency.claim('SCOPE', 'd')},
	q{SELECT outcome FROM idempotency.claim('SCOPE', 'e')},
	q{BEGIN\; SELECT outcome FROM idempotency.claim('SCOPE', 'f')\; ROLLBACK},
	q{SELECT idempotency.finish('SCOPE', 'f', 'x')},
	q{SELECT idempotency.once('SCOPE', 'g')},
	q{SELECT idempotency.once('SCOPE', 'g')},
	q{SELECT outcome, response FROM idempotency.run('SCOPE', 'h', 'SELECT 1 AS one')},
	q{SELECT key, outcome FROM idempotency.claim_many('SCOPE', ARRAY['i', 'd', 'c'], lease => '1 h') ORDER BY ordinal},
	q{SELECT key, outcome FROM idempotency.peek('SCOPE', 'a') AS p, (VALUES ('a')) AS k (key)},
	q{SELECT count(*) FROM idempotency.activity WHERE scope = 'SCOPE'});

# Say the script; returns what was answered, and in how many backends.
sub recite
{
	my ($scope, $connection, $between) = @_;
	my $client = start_clients($node, 0, connstr => $connection);
	my ($session, %pids);
	my $fence = 0;
	my $told = '';

	foreach my $line (@script)
	{
		my $sql = $line =~ s/SCOPE/$scope/gr =~ s/FENCE/$fence/gr;
		my ($state, $answer) = call($client, \$session, "$sql;");

		$told .= "$line\n$state $answer\n";
		if ($sql =~ /idempotency\.claim\('\w+', '(.)'.* lease =>/)
		{
			my (undef, $now) = call($client, \$session,
				"SELECT fence FROM idempotency.keys WHERE scope = '$scope' AND key = '$1' AND state = 'running';");
			$fence = $now if $now;
		}
		call($client, \$session, $between) if $between;
		my (undef, $pid) = call($client, \$session, 'SELECT pg_backend_pid();');
		$pids{$pid} = 1;
	}
	hang_up(\$session);
	return ($told, scalar keys %pids);
}

my ($direct, $one) = recite('direct', $node->connstr('postgres'));
like($direct, qr/resume\|one\|state one/, 'script: it says what it should');
is($one, 1, 'script: told directly, in one backend');
foreach my $case ([ 'alone', '' ], [ 'discard', 'DISCARD ALL;' ])
{
	my ($told, $backends) = recite($case->[0], $connstr, $case->[1]);

	is($told, $direct, "script: the same through the pooler ($case->[0])");
	cmp_ok($backends, '>', 1, "script: ... in $backends backends");
}
stop_clients($leasers);
is($leasers->{failed}, 0, 'mixed: every client ended well');
{
	my @fences = read_fences($leasers);
	my @done = grep { $_->[0] eq 'done' } read_lines($leasers);
	my $values = join ', ', map { "('$_->[1]', '$_->[2]')" } @done;

	is(join("\n", map { "@$_" } grep { $_->[0] eq 'strange' } read_lines($leasers)), '', 'mixed: nothing strange');
	is(wrong_fences(@fences), '0 repeated, 0 fallen', 'mixed: of ' . @fences . ' fences');
	is(sql("SELECT count(*) FROM (VALUES $values) AS d (key, fence), LATERAL idempotency.peek('leased', d.key) AS p
			WHERE p.response = 'by ' || d.fence"),
		scalar @done, 'mixed: each of ' . @done . ' finishes is kept');
}

#----------------------------------------------------------------------
# transactional claims, in every way that statements are sent
#----------------------------------------------------------------------
foreach my $mode ('simple', 'extended', $knows_prepared ? 'prepared' : ())
{
	my $processed = pgbench("\\set k random(1, 300)\nSELECT deliver('$mode-' || :k);\n"
		  . "BEGIN;\nSELECT deliver('$mode-two-' || :k);\nSELECT deliver('$mode-three-' || :k);\nCOMMIT;\n", $mode, 20);

	# three keys for each number that was drawn
	is( sql("SELECT count(*) = count(DISTINCT key), count(DISTINCT key) > 300 FROM effect WHERE key LIKE '$mode-%'"),
		't|t', "$mode: one effect for each key, in $processed deliveries");
}
is(duplicates($node), '0', 'no key has two effects in all');

#----------------------------------------------------------------------
# what is left in the backends: nothing
#----------------------------------------------------------------------
is( sql(q{SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
		WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()}),
	'0', 'no lock is left in the pooled backends');
is( sql(q{SELECT count(*) FROM pg_class WHERE relpersistence = 't'}), '0', 'nor a temporary object');

# stopped by its process id, which it wrote itself
my $pid = slurp_file("$dir/pid") + 0;
kill 'INT', $pid;
$pooler->finish;
$pooler = undef;
ok(!kill(0, $pid), 'the pooler has ended');
$node->stop;
done_testing();
