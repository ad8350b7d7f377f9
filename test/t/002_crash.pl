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
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $killed_postmasters = $ENV{IDEMPOTENCY_CRASHES} // 10;
my $others = int(($killed_postmasters + 1) / 2);
my $workers = 7;

my $node = new_node('crash', conf => "restart_after_crash = on\ncheckpoint_timeout = 30s\n");
install_app($node);
$node->safe_psql('postgres', 'CREATE TABLE unchecked (key text)');

#----------------------------------------------------------------------
# the load, and the crashes
#----------------------------------------------------------------------
my $clients = start_clients($node, $workers, unchecked => 1, async => 0);

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
	kill_backend($node, $pid) if $pid;
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

stop_clients($clients);
is($clients->{failed}, 0, 'every client ended well');

#----------------------------------------------------------------------
# what the clients were told
#----------------------------------------------------------------------
my $told = read_journals($clients);

note("$told->{answers} answers, $told->{lost} lost connections, "
	  . "$told->{resolved} of them answered by a replay");
is($told->{strange}, '', 'every answer was execute or replay');
cmp_ok($told->{lost}, '>', 20, "answers were lost ($told->{lost})");
cmp_ok($told->{resolved}, '>', 0,
	"retries of lost answers found their work done ($told->{resolved})");
is($told->{executed_twice}, 0, 'nobody was told twice to execute the same key');
is($told->{contradicted}, 0, 'all who asked for a key were told the same');
is(broken_promises($node, $told),
	0, "every answer is still true: $told->{keys} acknowledged keys have that effect");
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
