# A standby reads what is remembered, refuses to claim, and takes over.
#
# With synchronous replication a promotion loses nothing that a client was told:
# a retry on the new primary is a replay.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $primary = new_node('primary', init => [ allows_streaming => 1 ]);
install_app($primary);
$primary->safe_psql('postgres', q{
	CREATE TABLE deduped (id int);
	CREATE TRIGGER dedup BEFORE INSERT ON deduped
		FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('deduped', 'id');
	SELECT idempotency.configure('week', retention => '10 days');
	SELECT idempotency.finish('week', 'moved', 'moved', retention => '10 min')
		FROM idempotency.claim('week', 'moved');
	SELECT deliver('before');
});
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->append_conf('postgresql.conf', "synchronous_standby_names = 'standby'\n");
$primary->reload;
$primary->poll_query_until('postgres',
	q{SELECT sync_state = 'sync' FROM pg_stat_replication})
  or die 'the standby did not become synchronous';

#----------------------------------------------------------------------
# what writes is refused
#----------------------------------------------------------------------
foreach my $call (
	q{claim('app', 'k')}, q{claim('app', 'before')},
	q{claim('app', 'k', wait => '0')}, q{claim_or_raise('app', 'k')},
	q{claim_many('app', ARRAY['k'])}, q{claim_many('app', ARRAY[]::text[])},
	q{once('app', 'k')}, q{run('app', 'k', 'SELECT 1')},
	q{finish('app', 'k')}, q{fail('app', 'k')},
	q{release('app', 'k')}, q{forget('app', 'before', 'test')},
	q{configure('app', wait => '0')}, q{maintain()},
	q{claim('app', 'k', lease => '1 s')}, q{finish('app', 'k', fence => 1)},
	q{heartbeat('app', 'k', 1)}, q{checkpoint('app', 'k', 1, 'p')},
	q{assert_fence('app', 'k', 1)}, q{take_abandoned('app')},
	q{resolve('app', 'k', 'retry', reason => 'test')}, q{bump_incarnation('test')})
{
	is(sqlstate($standby, "SELECT * FROM idempotency.$call"), '25006', "refused on a standby: $call");
	is( sqlstate($primary, "BEGIN READ ONLY; SELECT * FROM idempotency.$call"),
		'25006', "... and in a read-only transaction");
}
is(sqlstate($standby, 'INSERT INTO deduped VALUES (1)'), '25006', 'refused on a standby: dedup()');

#----------------------------------------------------------------------
# what reads works
#----------------------------------------------------------------------
$primary->safe_psql('postgres', q{SELECT deliver('key-' || i) FROM generate_series(1, 200) AS i});
$primary->wait_for_catchup($standby);

sub told
{
	my ($node) = @_;

	return $node->safe_psql(
		'postgres', q{
		SELECT count(*), md5(string_agg(k::text || p::text, '' ORDER BY k.key))
		FROM idempotency.keys AS k, LATERAL idempotency.peek(k.scope, k.key, k.principal) AS p});
}

is(told($standby), told($primary), 'the standby remembers the same');
like(told($standby), qr/^202\|/, '... all of it');
is( $standby->safe_psql('postgres', q{SELECT response FROM idempotency.peek('week', 'moved')}),
	'moved', 'peek finds a key that has moved between tables');
is( $standby->safe_psql('postgres', q{SELECT response = 'by ' || xid FROM effect,
		LATERAL idempotency.await('app', key, '0') WHERE key = 'before'}),
	't', 'await answers at once what is settled');
is( $standby->safe_psql('postgres', q{SELECT ring FROM idempotency.policy('week')}),
	'week', 'policies can be read');
is( $primary->safe_psql('postgres',
		q{SELECT ring FROM idempotency.configure('week', retention => '1 h')}),
	'short', 'a policy changes on the primary');
$primary->wait_for_catchup($standby);
is( $standby->safe_psql('postgres', q{SELECT ring FROM idempotency.policy('week')}),
	'short', '... and on the standby');

# leases, from where others could take them over
my $fence = $primary->safe_psql('postgres', q{
	SELECT fence FROM idempotency.claim('leased', 'left', lease => '1 ms', state => 'where it was')});
$primary->safe_psql('postgres', q{
	SELECT idempotency.claim('leased', 'held', lease => '1 h');});
$primary->wait_for_catchup($standby);
is( $standby->safe_psql('postgres', q{SELECT key, fence FROM idempotency.abandoned('leased')}),
	"left|$fence", 'the standby shows which leases were abandoned');
is( $standby->safe_psql('postgres', q{SELECT key FROM idempotency.activity ORDER BY key}),
	"held\nleft", '... and who is at work');
$primary->safe_psql('postgres', q{SELECT idempotency.forget('leased', 'left', 'test')});
$primary->safe_psql('postgres', "SELECT idempotency.release('leased', 'held', fence)
	FROM idempotency.activity WHERE key = 'held'");

# a session of the standby that has cached the policy
{
	my $reader = session($standby);

	is($reader->query_safe(q{SELECT ring FROM idempotency.policy('week')}), 'short', 'cached');
	$primary->safe_psql('postgres', q{SELECT idempotency.configure('week', retention => '60 days')});
	$primary->wait_for_catchup($standby);
	is($reader->query_safe(q{SELECT ring FROM idempotency.policy('week')}),
		'month', '... and invalidated by replay');
	is($reader->query_safe(q{SELECT response FROM idempotency.peek('week', 'moved')}),
		'moved', '... and the key is found in its old ring');

	# await on the standby, while the primary is at it
	my $worker = session($primary);

	$worker->query_safe(q{BEGIN; SELECT deliver('awaited'); SELECT pg_switch_wal();});
	is($reader->query_safe(q{SELECT outcome, response FROM idempotency.peek('app', 'awaited')}),
		'', 'a running claim is not visible');
	ok( $standby->poll_query_until(
			'postgres',
			q{SELECT outcome FROM idempotency.await('app', 'awaited', '100 ms')},
			'in_progress'),
		'await says that it is running');
	$reader->query_until(qr/waiting/,
		"\\echo waiting\nSELECT response FROM idempotency.await('app', 'awaited', '60 s');\n");
	sleep(0.1);
	$worker->query_safe('COMMIT');
	like($reader->query('SELECT 1'), qr/^by \d+$/m, 'await returns the response when it is committed');
	$_->quit foreach ($reader, $worker);
}

#----------------------------------------------------------------------
# the primary dies under load; the standby takes over
#----------------------------------------------------------------------
$primary->safe_psql('postgres', q{BEGIN; SELECT deliver('prepared-1'); PREPARE TRANSACTION 'one';
	BEGIN; SELECT deliver('prepared-2'); PREPARE TRANSACTION 'two';});
my $clients = start_clients($primary, 6);

sleep(2);
$primary->kill9;
$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$standby->promote;
move_clients($clients, $standby);
sleep(2);
stop_clients($clients);
is($clients->{failed}, 0, 'every client ended well');

my $told = read_journals($clients);
note("$told->{answers} answers, $told->{lost} lost connections, "
	  . "$told->{resolved} of them answered by a replay");
is($told->{strange}, '', 'promoted: every answer was execute or replay');
cmp_ok($told->{lost}, '>=', 6, "promoted: answers were lost ($told->{lost})");
is($told->{executed_twice}, 0, 'promoted: nobody was told twice to execute the same key');
is($told->{contradicted}, 0, 'promoted: all who asked for a key were told the same');
is(broken_promises($standby, $told),
	0, "promoted: $told->{keys} acknowledged keys have their effect");
is(duplicates($standby), '0', 'promoted: no key has two effects');
is( $standby->safe_psql(
		'postgres', q{
		SELECT count(*) FILTER (WHERE e.key IS NULL), count(*) FILTER (WHERE k.key IS NULL)
		FROM effect AS e FULL JOIN (SELECT * FROM idempotency.keys WHERE scope = 'app') AS k
			USING (key)}),
	'0|0',
	'promoted: no key without effect, no effect without key');
like($standby->safe_psql('postgres', q{SELECT deliver('before')}),
	qr/^replay/, 'promoted: what was known is known');
like($standby->safe_psql('postgres', q{SELECT deliver('after')}),
	qr/^execute/, 'promoted: what is new executes');
is( $standby->safe_psql(
		'postgres', q{
		SELECT string_agg(outcome, ' ') FROM generate_series(1, 2) AS i,
			LATERAL idempotency.claim('app', 'prepared-' || i, wait => '0')}),
	'in_progress in_progress',
	'promoted: prepared claims still hold their keys');
$standby->safe_psql('postgres', q{COMMIT PREPARED 'one'});
$standby->safe_psql('postgres', q{ROLLBACK PREPARED 'two'});
like($standby->safe_psql('postgres', q{SELECT deliver('prepared-1')}), qr/^replay/, '... until committed');
like($standby->safe_psql('postgres', q{SELECT deliver('prepared-2')}), qr/^execute/, '... or rolled back');
is( $standby->safe_psql('postgres', q{SELECT count(*) >= 0 FROM idempotency.maintain()}),
	't', 'promoted: maintain() works');

$standby->stop;
done_testing();
