# Two-phase commit: a prepared claim belongs to the prepared transaction, over
# restarts, and blocks its key until the second phase; the session that prepared
# it keeps nothing of it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('prepared');
install_app($node);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# What one claim would be answered; leaves nothing.
sub probe
{
	my ($key) = @_;

	return sql("BEGIN;
				SELECT outcome || coalesce(': ' || response, '')
				FROM idempotency.claim('app', '$key', wait => '0');
				ROLLBACK;");
}

sub prepare
{
	my ($key) = @_;

	sql("BEGIN; SELECT deliver('$key'); PREPARE TRANSACTION '$key';");
	return;
}

#----------------------------------------------------------------------
# prepared, restarted, committed or rolled back
#----------------------------------------------------------------------
prepare($_) foreach ('p-commit', 'p-rollback', 'p-crash-commit', 'p-crash-rollback');
is(probe($_), 'in_progress', "$_: in progress while prepared")
  foreach ('p-commit', 'p-rollback', 'p-crash-commit', 'p-crash-rollback');

$node->restart;
is(probe($_), 'in_progress', "$_: in progress after a restart")
  foreach ('p-commit', 'p-rollback');
sql(q{COMMIT PREPARED 'p-commit'});
sql(q{ROLLBACK PREPARED 'p-rollback'});
like(probe('p-commit'), qr/^replay: by \d+$/, 'p-commit: known after COMMIT PREPARED');
is(probe('p-rollback'), 'execute', 'p-rollback: free after ROLLBACK PREPARED');

$node->stop('immediate');
$node->start;
is(probe($_), 'in_progress', "$_: in progress after a crash")
  foreach ('p-crash-commit', 'p-crash-rollback');
is(sqlstate($node, q{SELECT idempotency.forget('app', 'p-crash-commit', 'test')}),
	'ID409', 'a prepared claim cannot be forgotten');
is(sqlstate($node, q{SELECT idempotency.finish('app', 'p-crash-commit', 'x')}),
	'ID412', '... nor settled by anybody else');

# waiters: one before the second phase, for each way it can end
foreach my $how ('COMMIT', 'ROLLBACK')
{
	my $key = 'p-crash-' . lc $how;
	my $waiter = session($node);

	$waiter->query_until(qr/waiting/, "\\echo waiting\nSELECT deliver('$key');\n");
	ok( $node->poll_query_until(
			'postgres',
			q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted}
		),
		"$key: a claim waits for the prepared transaction");
	sql("$how PREPARED '$key'");
	like($waiter->query('SELECT 1'),
		$how eq 'COMMIT' ? qr/^replay: by \d+$/m : qr/^execute: by \d+$/m,
		"$key: and gets its answer by $how PREPARED");
	$waiter->quit;
}
is(sql(q{SELECT string_agg(key, ' ' ORDER BY key) FROM effect}),
	'p-commit p-crash-commit p-crash-rollback',
	'one effect each of what was committed');

# a waiter that was waiting when the session prepared
{
	my $holder = session($node);
	my $waiter = session($node);

	$holder->query_safe(q{BEGIN; SELECT deliver('p-waited')});
	$waiter->query_until(qr/waiting/, "\\echo waiting\nSELECT deliver('p-waited');\n");
	ok( $node->poll_query_until(
			'postgres',
			q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted}
		),
		'p-waited: a claim waits for the running transaction');
	$holder->query_safe(q{PREPARE TRANSACTION 'p-waited'});
	select(undef, undef, undef, 0.2);
	is( sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted}),
		'1',
		'p-waited: it waits on when that is prepared');
	sql(q{ROLLBACK PREPARED 'p-waited'});
	like($waiter->query('SELECT 1'), qr/^execute: by \d+$/m, 'p-waited: and executes');
	$_->quit foreach ($holder, $waiter);
}

#----------------------------------------------------------------------
# a lease that is given, or given up, by a prepared transaction
#----------------------------------------------------------------------
{
	my $claim = q{SELECT outcome, attempt FROM idempotency.claim('app', 'l-1', lease => '1 h', wait => '0')};

	# the very first one begins the incarnation, which the others wait for
	sql(q{SELECT outcome FROM idempotency.claim('app', 'l-0', lease => '1 h')});
	my $fence = sql(q{BEGIN; SELECT fence FROM idempotency.claim('app', 'l-1', lease => '1 h');
		PREPARE TRANSACTION 'l-1'});
	my $finish = "SELECT idempotency.finish('app', 'l-1', 'done', fence => $fence) IS NOT NULL";

	is(sqlstate($node, "SET lock_timeout = '50 ms'; $finish"), '55P03', 'leased: its holder waits for the second phase');
	$node->stop('immediate');
	$node->start;
	is(sql($claim), 'in_progress|', 'leased: prepared, the key is busy after a crash');
	sql(q{ROLLBACK PREPARED 'l-1'});
	is(sqlstate($node, $finish), 'ID404', 'leased: rolled back, there is no claim');

	my $next = sql(q{BEGIN; SELECT fence FROM idempotency.claim('app', 'l-1', lease => '1 h');
		PREPARE TRANSACTION 'l-1'});
	cmp_ok($next, '>', $fence, 'leased: claimed again, with a greater fence');
	$node->stop('immediate');
	$node->start;
	sql(q{COMMIT PREPARED 'l-1'});
	is(sql($claim), 'in_progress|1', 'leased: committed, the lease is there');
	is(sqlstate($node, $finish), 'ID412', 'leased: the fence that was rolled back is refused');

	# the finish, prepared as well
	$finish = "SELECT idempotency.finish('app', 'l-1', 'done', fence => $next) IS NOT NULL";
	sql("BEGIN; $finish; PREPARE TRANSACTION 'f-1'");
	$node->stop('immediate');
	$node->start;
	is(sql($claim), 'in_progress|', 'leased: a prepared finish keeps the key busy');
	sql(q{ROLLBACK PREPARED 'f-1'});
	is(sql($claim), 'in_progress|1', 'leased: rolled back, the lease goes on');
	sql("BEGIN; $finish; PREPARE TRANSACTION 'f-1'");
	sql(q{COMMIT PREPARED 'f-1'});
	is(sql(q{SELECT outcome, response FROM idempotency.claim('app', 'l-1')}), 'replay|done', 'leased: committed, it is settled');
}

#----------------------------------------------------------------------
# what the session keeps: nothing
#----------------------------------------------------------------------
{
	my $session = session($node);

	$session->query_safe('\\set VERBOSITY sqlstate');
	foreach my $round (1 .. 3)
	{
		$session->query_safe(
			"BEGIN; SAVEPOINT s; SELECT deliver('s-$round'); RELEASE s; PREPARE TRANSACTION 's-$round'"
		);
		$session->query_safe('BEGIN');
		is( $session->query_safe(
				"SELECT outcome FROM idempotency.claim('app', 's-$round', wait => '0')"),
			'in_progress',
			"round $round: the session meets its own prepared claim as a stranger's");
		like($session->query_safe("SELECT deliver('t-$round')"),
			qr/^execute/, "round $round: and can claim another key");
		$session->query_safe('COMMIT');
		$session->query_safe("COMMIT PREPARED 's-$round'");
		like($session->query_safe("SELECT deliver('s-$round')"),
			qr/^replay/, "round $round: and finds it settled");
	}
	$session->quit;
}

#----------------------------------------------------------------------
# an unsettled claim cannot be prepared
#----------------------------------------------------------------------
is( sqlstate(
		$node,
		q{BEGIN; SELECT idempotency.claim('app', 'u-1'); PREPARE TRANSACTION 'u-1';}),
	'ID428',
	'PREPARE with an unsettled claim is refused');
is( sqlstate(
		$node,
		q{BEGIN; SELECT idempotency.claim('app', 'u-1'); SAVEPOINT s;
		SELECT idempotency.finish('app', 'u-1'); ROLLBACK TO s; PREPARE TRANSACTION 'u-1';}),
	'ID428',
	'... also if the settlement was rolled back');
is(sql('SELECT count(*) FROM pg_prepared_xacts'), '0', '... and nothing is left prepared');
is(probe('u-1'), 'execute', '... and the key is free');
is( sqlstate(
		$node,
		q{BEGIN; SELECT idempotency.claim('app', 'u-1'); SELECT idempotency.release('app', 'u-1');
		PREPARE TRANSACTION 'u-1'; COMMIT PREPARED 'u-1';}),
	'',
	'a released claim can');

# with a policy that lets commit settle, so does the second phase
sql(q{SELECT idempotency.configure('lazy', unfinished => 'succeed')});
sql(q{BEGIN; SELECT idempotency.claim('lazy', 'u-2'); PREPARE TRANSACTION 'u-2';});
$node->stop('immediate');
$node->start;
sql(q{COMMIT PREPARED 'u-2'});
is(sql(q{SELECT outcome FROM idempotency.claim('lazy', 'u-2')}),
	'replay', 'unfinished => succeed: COMMIT PREPARED settles');

#----------------------------------------------------------------------
# many claims, batches and shortened lives in prepared transactions
#----------------------------------------------------------------------
sql(q{SELECT idempotency.configure('ring', retention => '10 days')});
sql(q{BEGIN;
	SELECT count(idempotency.finish('ring', c.key, 'batch', retention => '20 min'))
		FROM idempotency.claim_many('ring', ARRAY(SELECT 'b-' || i FROM generate_series(1, 500) AS i)) AS c;
	PREPARE TRANSACTION 'batch';});
$node->stop('immediate');
$node->start;
is( sql(q{SELECT count(*) FROM generate_series(1, 500) AS i,
		LATERAL idempotency.claim('ring', 'b-' || i, wait => '0') AS c
		WHERE c.outcome = 'in_progress'}),
	'500',
	'500 keys on the way to another table are in progress after a crash');
sql(q{COMMIT PREPARED 'batch'});
is( sql(q{SELECT count(*) FROM generate_series(1, 500) AS i,
		LATERAL idempotency.claim('ring', 'b-' || i, wait => '0') AS c
		WHERE c.outcome = 'replay' AND c.response = 'batch'}),
	'500',
	'... and known when they were committed');
is(sql(q{SELECT count(*) FROM idempotency.keys WHERE scope = 'ring'}),
	'500', '... each once');
is(sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', 'no lock is left');

$node->stop;
done_testing();
