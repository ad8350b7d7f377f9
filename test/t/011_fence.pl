# Fences never repeat and only rise, whatever happens to the database.
#
# Clients write down, outside the server and synced to disk, every fence of a
# leased claim that they saw commit.  One database then goes through its lives,
# each born of the one before: crashes under load; a synchronous standby that
# is promoted; an asynchronous one that has lost committed claims; a recovery
# to a point in time; dumps, restored in each way; copies; bump_incarnation().
# All claims of all lives are in one journal.  After each, no fence in it was
# issued twice, and each key's fences rise in the order in which they were
# issued.
#
# Controls: what was never committed does come again after a crash; and where
# the table of incarnations is made to say that nothing has changed, or the
# sequence is set back by hand, fences repeat.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $kills = $ENV{IDEMPOTENCY_CRASHES} // 6;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $conf = q{
autovacuum = off
fsync = on
wal_writer_delay = 10s
bgwriter_lru_maxpages = 0
wal_keep_size = 64MB
};

# every fence that was seen to commit, and every finish that was acknowledged
my @fences;
my @done;

# Run commands on a server; returns what they print.
sub sql
{
	my ($node, $sql, $db) = @_;

	return $node->safe_psql($db // 'postgres', $sql);
}

# Lease all keys of the journal directly.  Returns the claims: [key, fence, when].
sub lease_all
{
	my ($node, $db) = @_;

	return map { [ split /\|/ ] } split /\n/, sql(
		$node, q{
		SELECT k.key, c.fence, (extract(epoch FROM c.claimed_at) * 1000000)::bigint
		FROM (SELECT 'k-' || i AS key FROM generate_series(0, 11) AS i) AS k,
			LATERAL idempotency.claim('leased', k.key, lease => '1 ms', wait => '0') AS c
		WHERE c.fence IS NOT NULL}, $db);
}

# Stop the clients, and take their journals over.
sub collect
{
	my ($clients, $name) = @_;

	stop_clients($clients);
	is($clients->{failed}, 0, "$name: every client ended well");
	my @strange = map { "@$_" } grep { $_->[0] eq 'strange' } read_lines($clients);
	is("@strange[0 .. ($#strange > 4 ? 4 : $#strange)]", '', "$name: nobody was told anything strange");
	push @done, map { [ @$_[ 1, 2 ] ] } grep { $_->[0] eq 'done' } read_lines($clients);

	my @new = read_fences($clients);
	push @fences, @new;
	return @new;
}

sub fences_are_right
{
	my ($name) = @_;

	is(wrong_fences(@fences), '0 repeated, 0 fallen', "$name: of " . @fences . ' fences');
	return;
}

# How many lives has the database had, and why did the last one begin?
sub lives_are
{
	my ($node, $number, $like, $name, $db) = @_;

	like(
		sql($node, q{SELECT count(*) || ', ' || (array_agg(reason ORDER BY number DESC))[1]
			FROM idempotency.incarnation}, $db),
		qr/^$number, .*$like/,
		"$name: incarnation $number of the database");
	return;
}

# In which life of a database were these fences issued?
sub lives_of
{
	my ($node, $db, @given) = @_;
	my @bases = split /\n/, sql($node, 'SELECT fence_base FROM idempotency.incarnation ORDER BY number', $db);

	return map { my $fence = $_; scalar grep { $_ < $fence } @bases } @given;
}

# Every finish that was acknowledged replays what its holder said.
sub finishes_are_kept
{
	my ($node, $name) = @_;
	my $values = join ', ', map { "('$_->[0]', '$_->[1]')" } @done;

	is( sql($node, "SELECT count(*) FROM (VALUES $values) AS d (key, fence)
			LEFT JOIN LATERAL idempotency.claim('leased', d.key, wait => '0') AS c ON true
			WHERE c.outcome IS DISTINCT FROM 'replay'
				OR c.response IS DISTINCT FROM 'by ' || d.fence"),
		'0',
		"$name: each of " . @done . ' acknowledged finishes is replayed');
	return;
}

#----------------------------------------------------------------------
# crashes under load
#----------------------------------------------------------------------
my $first = new_node('first', conf => $conf, init => [ allows_streaming => 1 ]);

$first->safe_psql('postgres', 'CREATE EXTENSION idempotency');
is(sql($first, 'SELECT count(*) FROM idempotency.incarnation'), '0', 'no incarnation before the first use');
sql($first, q{SELECT scope FROM idempotency.configure('leased', max_attempts => 1000000)});

my $clients = start_clients($first, 4, work => \&leaser, done => 1);
foreach my $round (1 .. $kills)
{
	sleep(0.2 + rand(0.5));
	$first->kill9;
	try_start($first);
}
foreach my $round (1 .. 2)
{
	sleep(0.2 + rand(0.3));
	$first->stop('immediate');
	$first->start;
}
sleep(0.3);
cmp_ok(scalar collect($clients, 'crashes'), '>', 200, 'crashes: many fences were issued');
fences_are_right('crashes');
finishes_are_kept($first, 'crashes');
lives_are($first, 1, 'first use', 'crashes');

# The control: the fence of a claim that never committed is issued again, since
# the sequence is as it was.  A walwriter that wakes up at the wrong moment
# makes it durable; so a few times.
{
	my $again = 0;

	foreach my $round (1 .. 5)
	{
		my $session = session($first);
		my $fence;

		sql($first, 'CHECKPOINT');
		$session->query_safe('BEGIN');
		$fence = $session->query_safe(q{SELECT fence FROM idempotency.claim('leased', 'never', lease => '10 s')});
		$first->kill9;
		eval { $session->quit };
		try_start($first);
		my @claims = lease_all($first);

		push @fences, @claims;
		$again++ if grep { $_->[1] == $fence } @claims;
		last if $again;
	}
	cmp_ok($again, '>', 0, 'control: a fence that was never committed is issued again after a crash');
	fences_are_right('... but none that was');
}

#----------------------------------------------------------------------
# what a holder was told of is durable without synchronous_commit
#----------------------------------------------------------------------
{
	my ($lost, $fence) = (0, 0);

	sql($first, 'CREATE TABLE plain (step text)');
	foreach my $step ('claim', 'checkpoint', 'finish', 'claim again', 'fail', 'release')
	{
		my $session = session($first);

		$session->query_safe('SET synchronous_commit = off');
		if ($step =~ /^claim/)
		{
			my $key = $step eq 'claim' ? 'async' : 'async again';

			$fence = $session->query_safe(
				"SELECT fence FROM idempotency.claim('leased', '$key', lease => '1 h', owner => 'me')");
		}
		$session->query_safe("SELECT idempotency.checkpoint('leased', 'async', $fence, 'half', 'bytes')")
		  if $step eq 'checkpoint';
		$session->query_safe("SELECT idempotency.finish('leased', 'async', 'the answer', fence => $fence)")
		  if $step eq 'finish';
		$session->query_safe("SELECT idempotency.fail('leased', 'async again', 'the error', fence => $fence, retry_after_ms => 0)")
		  if $step eq 'fail';
		$session->query_safe(q{SELECT idempotency.release('leased', 'async again', c.fence)
			FROM idempotency.claim('leased', 'async again', lease => '1 h') AS c})
		  if $step eq 'release';
		$session->query_safe("INSERT INTO plain VALUES ('$step')");
		$first->kill9;
		eval { $session->quit };
		try_start($first);

		my $key = $step =~ /again|fail|release/ ? 'async again' : 'async';
		my $found = sql($first, "SELECT outcome, fence, recovery_point, state, response, error, attempt
			FROM idempotency.peek('leased', '$key')");
		my %expected = (
			'claim' => qr/^in_progress\|\d*\|\|\|\|\|1$/,
			'checkpoint' => qr/^in_progress\|\d*\|half\|bytes\|\|\|1$/,
			'finish' => qr/^replay\|\d*\|\|\|the answer\|\|1$/,
			'claim again' => qr/^in_progress\|\d*\|\|\|\|\|1$/,
			'fail' => qr/^retry_later\|\d*\|\|\|\|the error\|1$|^\w+\|\d*\|\|\|\|the error\|1$/,
			'release' => qr/^\w+\|\d*\|\|\|\|the error\|1$/);

		like($found, $expected{$step}, "committed asynchronously, then killed: the $step is there");
		$lost++ if sql($first, "SELECT count(*) FROM plain WHERE step = '$step'") eq '0';
		if ($step =~ /^claim/)
		{
			is( sql($first, "SELECT outcome, fence FROM idempotency.claim('leased', '$key', lease => '1 h', owner => 'me')"),
				"execute|$fence", '... and its owner recognises it');
		}
	}
	cmp_ok($lost, '>', 0, "control: of 6 rows committed asynchronously after those, $lost are lost");
}

#----------------------------------------------------------------------
# a synchronous standby is promoted under load
#----------------------------------------------------------------------
$first->backup('base');
my $second = PostgreSQL::Test::Cluster->new('second');
$second->init_from_backup($first, 'base', has_streaming => 1);
$second->start;
$first->append_conf('postgresql.conf', "synchronous_standby_names = 'second'\n");
$first->reload;
$first->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication})
  or die 'the standby did not become synchronous';

my $hot = session($second);
is($hot->query_safe(q{SELECT outcome FROM idempotency.peek('leased', 'async')}),
	'replay', 'a session reads on the standby');
my $zombie = sql($first, q{SELECT fence FROM idempotency.claim('leased', 'zombie', lease => '1 ms')});
my $prepared = sql($first, q{BEGIN; SELECT fence FROM idempotency.claim('leased', 'prepared', lease => '1 ms');
	PREPARE TRANSACTION 'prepared';});
my $kept = sql($first, q{SELECT fence FROM idempotency.claim('leased', 'kept', lease => '1 ms')});

$clients = start_clients($first, 4, work => \&leaser, done => 1);
sleep(1);
$first->kill9;
$second->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$second->promote;

# the first claims of the new place: rolled back, waited for, concurrent
{
	my @waiters;

	my $fence = $hot->query_safe(q{BEGIN; SELECT fence FROM idempotency.claim('leased', 'hot', lease => '1 ms')});

	cmp_ok($fence, '>', $kept, 'promoted: a session that was there before gets a greater fence');
	foreach my $n (1 .. 3)
	{
		my $waiter = session($second);

		$waiter->query_until(qr/waiting/,
			"\\echo waiting\nSELECT fence FROM idempotency.claim('leased', 'waiter-$n', lease => '1 ms');\n");
		push @waiters, $waiter;
	}
	$second->poll_query_until('postgres', 'SELECT count(*) = 3 FROM pg_locks WHERE NOT granted')
	  or die 'the others do not wait';
	is( sqlstate($second, q{BEGIN; SELECT idempotency.claim('app', 'transactional', wait => '0'); ROLLBACK;}),
		'', 'promoted: a transactional claim does not wait for the incarnation');
	is(sqlstate($second, q{SET lock_timeout = '50 ms'; SELECT idempotency.claim('leased', 'x', lease => '1 ms')}),
		'55P03', 'promoted: a leased one does, no longer than lock_timeout');
	$hot->query_safe('ROLLBACK');
	my @given = map { (split /\n/, $_->query('SELECT 1'))[0] } @waiters;
	is(join(' ', lives_of($second, 'postgres', $kept, @given)),
		'1 2 2 2', 'promoted: rolled back, one of those who wait begins the incarnation of all');
	$_->quit foreach @waiters;
}
lives_are($second, 2, 'another timeline', 'promoted');
move_clients($clients, $second);
sleep(1);
my @new = collect($clients, 'promoted');
foreach my $life (1, 2)
{
	cmp_ok(scalar(grep { $_ == $life } lives_of($second, 'postgres', map { $_->[1] } @new)),
		'>', 50, "promoted: fences of incarnation $life were issued");
}
fences_are_right('promoted');
finishes_are_kept($second, 'promoted');

# the first primary's holders, met by the second
is( sqlstate($second, "SELECT idempotency.heartbeat('leased', 'kept', $kept)"),
	'', 'promoted: a holder whom nobody replaced still counts');
is( sqlstate($second, "SELECT idempotency.finish('leased', 'kept', 'late', fence => $kept)"),
	'', 'promoted: and finishes');
my $taken = sql($second, q{SELECT outcome || ' ' || fence FROM idempotency.claim('leased', 'zombie', lease => '1 h')});
like($taken, qr/^resume /, 'promoted: another is taken over');
cmp_ok((split / /, $taken)[1], '>', $zombie, '... with a greater fence');
foreach my $call (
	"finish('leased', 'zombie', 'x', fence => $zombie)", "fail('leased', 'zombie', 'x', fence => $zombie)",
	"release('leased', 'zombie', $zombie)", "heartbeat('leased', 'zombie', $zombie)",
	"checkpoint('leased', 'zombie', $zombie, 'p')", "assert_fence('leased', 'zombie', $zombie)")
{
	is(sqlstate($second, "SELECT idempotency.$call"), 'ID412', "promoted: the old holder is refused: $call");
}
is( sql($second, q{SELECT outcome FROM idempotency.claim('leased', 'prepared', lease => '1 h', wait => '0')}),
	'in_progress', 'promoted: a prepared claim still holds its key');
is(sqlstate($second, "SET lock_timeout = '50 ms'; SELECT idempotency.finish('leased', 'prepared', 'x', fence => $prepared)"),
	'55P03', 'promoted: its holder waits for its second phase');
sql($second, q{COMMIT PREPARED 'prepared'});
is(sqlstate($second, "SELECT idempotency.heartbeat('leased', 'prepared', $prepared, '1 ms')"),
	'', 'promoted: committed, its fence counts');
$taken = sql($second, q{SELECT outcome || ' ' || fence FROM idempotency.claim('leased', 'prepared', lease => '1 h')});
like($taken, qr/^resume /, 'promoted: until its lease is over');
cmp_ok((split / /, $taken)[1], '>', $prepared, '... and the next is greater');
is(sqlstate($second, "SELECT idempotency.finish('leased', 'prepared', 'x', fence => $prepared)"),
	'ID412', '... and it no longer counts');

#----------------------------------------------------------------------
# an asynchronous standby is promoted that has lost committed claims; the old
# primary lives on
#----------------------------------------------------------------------
sql($second, 'CREATE DATABASE control');
sql($second, q{CREATE EXTENSION idempotency;
	SELECT idempotency.configure('leased', max_attempts => 1000000)}, 'control');
my @control = lease_all($second, 'control');
$second->backup('base');
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init_from_backup($second, 'base', has_streaming => 1);
$third->enable_archiving;
$third->start;
$clients = start_clients($second, 4, work => \&leaser);
sleep(0.5);
$third->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$third->reload;
$third->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver')
  or die 'the standby goes on receiving';
my $at = sql($third, 'SELECT pg_last_wal_receive_lsn()');
sleep(1);
my @lost;
foreach my $i (1 .. 8)
{
	sleep(0.005);
	push @control, lease_all($second, 'control');
}
@lost = grep { $_->[1] } collect($clients, 'before the split');
is(sql($second, "SELECT pg_current_wal_lsn() > '$at'"), 't', 'split: the standby has lost committed claims');

$third->promote;
# both are primaries now
my $old = start_clients($second, 2, work => \&leaser);
$clients = start_clients($third, 3, work => \&leaser);
sleep(1.2);
stop_clients($old);
my @old = read_fences($old);
my $highest = (sort { $b <=> $a } map { $_->[1] } @fences, @old)[0];
@new = collect($clients, 'split');
cmp_ok(scalar @old, '>', 30, 'split: the old primary has issued ' . @old . ' fences since');
cmp_ok(scalar @new, '>', 30, 'split: and the new one ' . @new);
is(scalar(grep { $_->[1] <= $highest } @new), 0, 'split: each of the new one is greater than any of the old one');
fences_are_right('split');
lives_are($third, 3, 'another timeline', 'split');

# a resource outside that has seen the new primary once refuses the old one
{
	my %seen;

	$seen{ $_->[0] } = $_->[1] foreach sort { $a->[1] <=> $b->[1] } @new;
	is(scalar(grep { exists $seen{ $_->[0] } && $_->[1] >= $seen{ $_->[0] } } @old),
		0, 'split: a resource that keeps the highest fence refuses the old primary');
}
my $stale = $old[-1];
lease_all($third);
is(sqlstate($third, "SELECT idempotency.finish('leased', '$stale->[0]', 'x', fence => $stale->[1])"),
	'ID412', 'split: so does the new primary');
$second->stop;

# The control: a database whose table of incarnations is made to say that it is
# where it was.
{
	sql($third, q{UPDATE idempotency.incarnation SET timeline = 3}, 'control');
	push @control, lease_all($third, 'control') foreach 1 .. 2;
	my ($repeated) = wrong_fences(@control) =~ /^(\d+) repeated/;

	cmp_ok($repeated, '>', 0, "control: with the incarnation left out, $repeated fences repeat");
	is(sql($third, 'SELECT count(*) FROM idempotency.incarnation', 'control'), '1', '... of the same incarnation');

	my @before = lease_all($third, 'control');
	sql($third, q{SELECT setval('idempotency.fence_seq', 1, false)}, 'control');
	my @after = lease_all($third, 'control');
	isnt(wrong_fences(@before, @after), '0 repeated, 0 fallen', 'control: with the sequence set back, they fall');
}

#----------------------------------------------------------------------
# recovery to a point in time
#----------------------------------------------------------------------
$third->backup('base');
$clients = start_clients($third, 3, work => \&leaser);
sleep(0.5);
sql($third, q{SELECT pg_create_restore_point('here')});
sleep(0.5);
collect($clients, 'recovered');
push @fences, lease_all($third);
my $segment = sql($third, 'SELECT pg_walfile_name(pg_switch_wal())');
$third->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver")
  or die 'the log was not archived';
$third->stop;

my $fourth = PostgreSQL::Test::Cluster->new('fourth');
$fourth->init_from_backup($third, 'base', has_restoring => 1, standby => 0);
$fourth->append_conf('postgresql.conf',
	"recovery_target_name = 'here'\nrecovery_target_action = 'promote'\narchive_mode = off\n");
$fourth->start;
$fourth->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
  or die 'the recovery did not end';
$clients = start_clients($fourth, 3, work => \&leaser);
sleep(0.7);
@new = collect($clients, 'recovered');
is(scalar(grep { $_ != 4 } lives_of($fourth, 'postgres', map { $_->[1] } @new)),
	0, 'recovered: all fences are of the fourth incarnation');
fences_are_right('recovered');
lives_are($fourth, 4, 'another timeline', 'recovered');

#----------------------------------------------------------------------
# dump and restore; copies
#----------------------------------------------------------------------

# Run a client program on a server; it must say nothing.
sub run_ok
{
	my ($server, $name, @cmd) = @_;
	my ($out, $err) = ('', '');

	local %ENV = $server->_get_env();
	$cmd[0] = $server->installed_command($cmd[0]);
	my $status = IPC::Run::run(\@cmd, '>', \$out, '2>', \$err);
	ok($status && $err eq '', $name) or diag("$out$err");
	return;
}

run_ok($fourth, 'custom: dumped', 'pg_dump', '-Fc', '-f', "$dir/custom", 'postgres');
run_ok($fourth, 'directory: dumped', 'pg_dump', '-Fd', '-j2', '-f', "$dir/directory", 'postgres');
run_ok($fourth, 'plain: dumped', 'pg_dump', '-Fp', '-f', "$dir/plain", 'postgres');
push @fences, lease_all($fourth);
sleep(0.01);

my $fifth = new_node('fifth');
my @siblings;

# What was restored begins an incarnation, whose fences are new.
sub restored
{
	my ($server, $db, $like, $name) = @_;
	my @claims = lease_all($server, $db);

	cmp_ok(scalar @claims, '>', 6, "$name: keys are leased");
	is(wrong_fences(@fences, @claims), '0 repeated, 0 fallen', "$name: with new fences");
	is(scalar(grep { $_ != 5 } lives_of($server, $db, map { $_->[1] } @claims)), 0, "$name: of the fifth incarnation");
	lives_are($server, 5, $like, $name, $db);
	push @siblings, @claims;
	return @claims;
}

sql($fifth, "CREATE DATABASE $_") foreach ('custom', 'plain', 'directory');
run_ok($fifth, 'custom: restored', 'pg_restore', '--exit-on-error', '-j2', '-d', 'custom', "$dir/custom");
run_ok($fifth, 'directory: restored', 'pg_restore', '--exit-on-error', '-j2', '-d', 'directory', "$dir/directory");
run_ok($fifth, 'plain: restored', 'psql', '-Xqo', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-d', 'plain', '-f', "$dir/plain");
restored($fifth, $_, 'another system', "$_, another cluster") foreach ('custom', 'plain', 'directory');

sql($fourth, 'CREATE DATABASE other');
run_ok($fourth, 'other database: restored', 'pg_restore', '--exit-on-error', '-d', 'other', "$dir/custom");
restored($fourth, 'other', 'another database', 'another database');
sql($fourth, 'CREATE DATABASE copy TEMPLATE postgres', 'other');
restored($fourth, 'copy', 'another database', 'template');

# over what is there, in sessions that go on
{
	my $session = session($fourth);

	my $before = $session->query_safe(q{SELECT fence FROM idempotency.claim('leased', 'cached', lease => '1 ms')});

	# a second time: the dump knows nothing of the life in between
	foreach my $time ('first', 'second')
	{
		run_ok($fourth, "--clean, $time time: restored", 'pg_restore', '--exit-on-error', '--clean', '--if-exists',
			'-d', 'postgres', "$dir/custom");
		my $after = $session->query_safe(q{SELECT fence FROM idempotency.claim('leased', 'cached', lease => '1 ms')});

		cmp_ok($after, '>', $before, "--clean, $time time: a session that has claimed before notices");
		$before = $after;
		push @fences, restored($fourth, 'postgres', 'another database', "--clean, $time time");
		sleep(0.01);
	}
	$session->quit;
}
is( sqlstate($fourth, "SELECT idempotency.finish('leased', '$new[-1][0]', 'x', fence => $new[-1][1])"),
	'ID412', '--clean: a holder of before is refused once taken over');

is(wrong_fences(@siblings), '0 repeated, 0 fallen', 'the lives of one dump have fences of their own');

#----------------------------------------------------------------------
# bump_incarnation() under load, in backends that know the one before
#----------------------------------------------------------------------
{
	my @sessions = map { session($fourth) } 1 .. 3;
	my $lease = q{SELECT fence FROM idempotency.claim('leased', 'bumped-' || pg_backend_pid(), lease => '1 ms')};
	my $number = sql($fourth, 'SELECT max(number) FROM idempotency.incarnation');
	my $lives = 5;

	$clients = start_clients($fourth, 3, work => \&leaser);
	$_->query_safe($lease) foreach @sessions;
	foreach my $round (1 .. 4)
	{
		sleep(0.2);
		is(sql($fourth, q{SELECT idempotency.bump_incarnation('by hand')}),
			++$number, "bumped: incarnation $number");
		$lives++;
		is(join(' ', lives_of($fourth, 'postgres', map { $_->query_safe($lease) } @sessions)),
			"$lives $lives $lives", 'bumped: every session knows at once');
	}
	# rolled back, it was never begun
	my $highest = (sort { $b <=> $a } map { $_->query_safe($lease) } @sessions)[0];
	$sessions[0]->query_safe(q{BEGIN; SELECT idempotency.bump_incarnation('not really')});
	cmp_ok($sessions[0]->query_safe($lease) - $highest, '>', 1 << 39, 'bumped: its own transaction counts with it');
	$sessions[0]->query_safe('ROLLBACK');
	is(join(' ', lives_of($fourth, 'postgres', map { $_->query_safe($lease) } @sessions)),
		"$lives $lives $lives", 'bumped: rolled back, nobody does');

	# while the transaction that began it is open, others wait, and nobody deadlocks
	sql($fourth, 'CREATE DATABASE begun');
	sql($fourth, 'CREATE EXTENSION idempotency', 'begun');
	{
		my ($first_one, $bumper) = map { session($fourth, db => 'begun') } 1 .. 2;

		$first_one->query_safe(q{BEGIN; SELECT idempotency.claim('leased', 'a', lease => '1 ms')});
		$bumper->query_until(qr/waiting/, "\\echo waiting\nSELECT idempotency.bump_incarnation('hasty');\n");
		$fourth->poll_query_until('begun', 'SELECT count(*) = 1 FROM pg_locks WHERE NOT granted')
		  or die 'the other does not wait';
		is($first_one->query_safe(q{SELECT outcome FROM idempotency.claim('leased', 'b', lease => '1 ms')}),
			'execute', 'bumped: who began an incarnation goes on while a bump waits');
		is(sqlstate($fourth, q{SET lock_timeout = '1 s'; BEGIN; SELECT idempotency.claim('app', 'c'); ROLLBACK;}, db => 'begun'),
			'', '... so do transactional claims');
		$first_one->query_safe('COMMIT');
		like($bumper->query('SELECT 1'), qr/^\d+\n1$/, '... and then it is begun');
		lives_are($fourth, 2, 'hasty', 'bumped', 'begun');
		$_->quit foreach ($first_one, $bumper);
	}
	$_->quit foreach @sessions;
	@new = collect($clients, 'bumped');

	# a claim decided after an incarnation was begun is of that incarnation
	my @began = map { [ split /\|/ ] } split /\n/,
	  sql($fourth, 'SELECT (extract(epoch FROM began_at) * 1000000)::bigint FROM idempotency.incarnation ORDER BY number');
	my @given = lives_of($fourth, 'postgres', map { $_->[1] } @new);
	my ($wrong, %seen) = (0);
	foreach my $i (0 .. $#new)
	{
		my $expected = grep { $_->[0] <= $new[$i][2] } @began;

		$wrong++ if $given[$i] != $expected;
		$seen{$expected} = 1;
	}
	is($wrong, 0, 'bumped: each of ' . @new . ' claims is of the incarnation of its time');
	is(join(' ', sort keys %seen), '5 6 7 8 9', 'bumped: claims were made in each');
	fences_are_right('bumped');
	lives_are($fourth, $lives, 'by hand', 'bumped');
	is(sqlstate($fourth, 'SELECT idempotency.bump_incarnation(NULL)'), 'ID400', 'bumped: not without a reason');
}

#----------------------------------------------------------------------
# the ends of the numbers
#----------------------------------------------------------------------
{
	my $claim = q{FROM idempotency.claim('leased', 'end-' || clock_timestamp()::text, lease => '1 ms')};

	sql($fourth, q{CREATE DATABASE ends});
	sql($fourth, q{CREATE EXTENSION idempotency}, 'ends');
	my $before = sql($fourth, "SELECT fence $claim", 'ends');
	# where the sequence outgrows its 40 bits, the sum goes on
	sql($fourth, q{SELECT setval('idempotency.fence_seq', (1::bigint << 40) - 2)}, 'ends');
	foreach my $n (1 .. 4)
	{
		my $fence = sql($fourth, "SELECT fence $claim", 'ends');

		cmp_ok($fence, '>', $before, "ends: beyond 40 bits, $fence is greater than $before");
		$before = $fence;
	}
	sql($fourth, q{SELECT setval('idempotency.fence_seq', 9223372036854775806)}, 'ends');
	is(sqlstate($fourth, "SELECT 1 $claim", db => 'ends'), '2200H', 'ends: a fence beyond 64 bits is refused');
	is(sqlstate($fourth, "SELECT 1 $claim", db => 'ends'), '2200H', 'ends: a sequence at its end is refused');
	is(sqlstate($fourth, "SELECT 1 $claim", db => 'ends'), '2200H', '... and does not wrap');
	is( sql($fourth, q{SELECT count(*) FROM idempotency.keys WHERE key LIKE 'end-%'}, 'ends'),
		'5', 'ends: what was refused is not claimed');
	is( sql($fourth, q{BEGIN; SELECT outcome FROM idempotency.claim('app', 'k'); SELECT idempotency.finish('app', 'k') IS NOT NULL; COMMIT}, 'ends'),
		"execute\nt", 'ends: transactional claims need no fence');
	sql($fourth, q{UPDATE idempotency.incarnation SET number = (1 << 23) - 1, fence_base = ((1 << 23) - 1)::bigint << 40}, 'ends');
	is(sqlstate($fourth, q{SELECT idempotency.bump_incarnation('one more')}, db => 'ends'),
		'2200H', 'ends: there is a last incarnation');
}

is(sql($fourth, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', 'no lock is left');
$fourth->stop;
$fifth->stop;
done_testing();
