# Crashes under load.
#
# Clients deliver keys and keep a journal outside the server, synced to disk:
# what they are about to send, and what they were answered.  A client whose
# connection is lost does not know whether its transaction has committed; it
# sends the same key again until it is answered.  Meanwhile the postmaster is
# killed (SIGKILL), backends are killed, the server is stopped without a
# checkpoint.  At any time, an effect is there if and only if its key is, and
# no key has two; at the end every answer that a client got is still true.
#
# Controls: the same clients write rows without a claim, and retry those as
# well, which must show duplicates; and one client commits asynchronously, whose
# answers may be forgotten, but only together with their effects.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use IO::Handle;
use IPC::Open2;
use POSIX qw(_exit);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $killed_postmasters = $ENV{IDEMPOTENCY_CRASHES} // 10;
my $others = int(($killed_postmasters + 1) / 2);
my $workers = 7;

my $node = new_node('crash', conf => "restart_after_crash = on\ncheckpoint_timeout = 30s\n");
install_app($node);
$node->safe_psql('postgres', 'CREATE TABLE unchecked (key text)');

my $dir = PostgreSQL::Test::Utils::tempdir();
my $psql = $node->installed_command('psql');
my $connstr = $node->connstr('postgres');

#----------------------------------------------------------------------
# a client
#----------------------------------------------------------------------

# Append a line to the journal, on disk when this returns.
sub journal
{
	my ($file, $line) = @_;

	print $file "$line\n";
	$file->flush;
	$file->sync;
	return;
}

# Send one batch; returns its output, or undef if the connection was lost, on
# which a FATAL error may or may not have come through before.
sub ask
{
	my ($session, $sql) = @_;
	my $answer = '';

	if (!$$session)
	{
		my ($out, $in);
		my $pid = open2($out, $in, $psql, '-XAtq', '-d', $connstr);

		$$session = { pid => $pid, in => $in, out => $out };
	}
	print { $$session->{in} } "$sql\n\\echo END :ERROR\n" or goto LOST;
	$$session->{in}->flush or goto LOST;
	while (defined(my $line = readline $$session->{out}))
	{
		return $answer if $line eq "END false\n";
		last if $line eq "END true\n";
		$answer .= $line;
	}
LOST:
	close $$session->{in};
	close $$session->{out};
	waitpid $$session->{pid}, 0;
	$$session = undef;
	return;
}

# Deliver until told to stop.
sub client
{
	my ($number) = @_;
	my $async = $number == 0;
	my $session;
	my $unsynced = $async ? 'SET LOCAL synchronous_commit = off\;' : '';

	$SIG{PIPE} = 'IGNORE';
	srand($number * 1000 + $$);
	open(STDERR, '>', "$dir/stderr.$number") or _exit(1);
	open(my $file, '>', "$dir/journal.$number") or _exit(1);
	until (-e "$dir/stop")
	{
		my $space = int(time() / 2);
		my $key = ($async ? 'async' : 'sync') . "-$space-" . int(rand(150));
		my $row = "$number-$space-" . rand();
		my $late = rand() < 0.2 ? '\; SELECT pg_sleep(0.02)' : '';
		my $sql = "BEGIN\\; $unsynced SELECT deliver('$key')\\; COMMIT$late;";
		my $answer;

		journal($file, "send $key");
		until (defined($answer = ask(\$session, $sql)))
		{
			journal($file, "lost $key");
			sleep(0.02);
		}
		$answer =~ s/\s*$//;
		journal($file, "answer $key $answer");

		next if $number != 1;
		sleep(0.01) until defined ask(\$session, "BEGIN\\; INSERT INTO unchecked VALUES ('$row')\\; COMMIT\\; SELECT pg_sleep(0.02);");
	}
	_exit(0);
}

#----------------------------------------------------------------------
# the load, and the crashes
#----------------------------------------------------------------------
my @clients;

foreach my $number (0 .. $workers - 1)
{
	my $pid = fork() // die "could not fork: $!";

	client($number) if $pid == 0;
	push @clients, $pid;
}

# An effect is there if and only if its key is; both were made by one command.
sub check_consistency
{
	my ($when) = @_;

	is( $node->safe_psql(
			'postgres', q{
			SELECT count(*) FILTER (WHERE e.n IS NULL), count(*) FILTER (WHERE k.key IS NULL),
				count(*) FILTER (WHERE e.n > 1)
			FROM (SELECT key, count(*) AS n FROM effect GROUP BY key) AS e
			FULL JOIN idempotency.keys AS k USING (key)}),
		'0|0|0',
		"$when: no key without effect, no effect without key, none twice");
	return;
}

foreach my $round (1 .. $killed_postmasters)
{
	sleep(0.2 + rand(0.5));
	$node->kill9;
	try_start($node);
	check_consistency("postmaster killed, $round");
}
foreach my $round (1 .. $others)
{
	sleep(0.2 + rand(0.3));
	$node->stop('immediate');
	$node->start;
	check_consistency("immediate stop $round");
}
foreach my $round (1 .. $others)
{
	sleep(0.2 + rand(0.3));
	my $pid = $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'
			AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1});
	kill 'KILL', $pid if $pid;
	sleep(0.1);
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
	  or die 'the server did not come back';
	check_consistency("backend killed, $round");
}
# terminated: no crash, the claim goes with the transaction
foreach my $round (1 .. $others)
{
	sleep(0.1);
	$node->safe_psql('postgres',
		q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()});
	check_consistency("backends terminated, $round");
}

append_to_file("$dir/stop", '');
foreach my $pid (@clients)
{
	waitpid $pid, 0;
	is($?, 0, "client $pid ended well");
}

#----------------------------------------------------------------------
# what the clients were told
#----------------------------------------------------------------------
my (%told, %executed);
my ($answers, $lost, $resolved, $strange) = (0, 0, 0, '');

foreach my $number (0 .. $workers - 1)
{
	my %open;

	foreach my $line (split /\n/, slurp_file("$dir/journal.$number"))
	{
		my ($what, $key, $answer) = split / /, $line, 3;

		$open{$key} = 1 if $what eq 'lost';
		$lost++ if $what eq 'lost';
		next if $what ne 'answer';
		$answers++;
		if ($answer !~ /^(execute|replay): by (\d+)$/)
		{
			$strange .= "$line\n";
			next;
		}
		$resolved++ if delete $open{$key} && $1 eq 'replay';
		next if $number == 0;
		$told{$key}{$2} = 1;
		$executed{$key}++ if $1 eq 'execute';
	}
}
note("$answers answers, $lost lost connections, $resolved of them answered by a replay");
is($strange, '', 'every answer was execute or replay');
cmp_ok($lost, '>', 20, "answers were lost ($lost)");
cmp_ok($resolved, '>', 0, "retries of lost answers found their work done ($resolved)");
is(scalar(grep { $_ > 1 } values %executed), 0, 'nobody was told twice to execute the same key');
is(scalar(grep { keys %$_ > 1 } values %told), 0, 'all who asked for a key were told the same');

my %effect = map { split /\|/ } split /\n/,
  $node->safe_psql('postgres', q{SELECT key, xid FROM effect WHERE key LIKE 'sync-%'});
is( scalar(grep { !exists $effect{$_} || !exists $told{$_}{ $effect{$_} } } keys %told),
	0,
	'every answer is still true: ' . keys(%told) . ' acknowledged keys have that effect');
is( $node->safe_psql(
		'postgres', q{
		SELECT count(*) FROM effect AS e
		LEFT JOIN LATERAL idempotency.claim('app', e.key, wait => '0') AS c ON true
		WHERE c.outcome IS DISTINCT FROM 'replay'
			OR c.response IS DISTINCT FROM 'by ' || e.xid}),
	'0',
	'every effect is replayed, with its own response');
is(duplicates($node), '0', 'no key has two effects');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}),
	'0', 'no lock is left');

# the control
cmp_ok(
	$node->safe_psql(
		'postgres',
		'SELECT count(*) FROM (SELECT FROM unchecked GROUP BY key HAVING count(*) > 1) AS d'),
	'>', 0,
	'control: rows written without a claim, and retried, are there twice');

$node->stop;
done_testing();
