# Breakers and limits: how an operation is held back, and only as far as it
# should be.
#
# A breaker must see what is rolled back, let exactly so many probes through
# when it is half open, and not be misled by results that come late.  A limit
# must hold under concurrency, and give back what has ended in any way.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_node('held', conf => q{
shared_preload_libraries = 'idempotency'
max_connections = 150
restart_after_crash = on
});

# One query.
sub ask
{
	my ($sql, $db) = @_;

	return $node->safe_psql($db // 'postgres', $sql);
}

# Change a scope's policy.
sub configure
{
	my ($scope, $settings, $db) = @_;

	return ask("SELECT scope FROM idempotency.configure('$scope', wait => '0', $settings)", $db);
}

# Claim a key for a minute, or as the lease says: the outcome, and why not.
sub claim
{
	my ($scope, $key, $lease, $db) = @_;

	$lease //= '1 min';
	return ask("SELECT concat_ws(' ', outcome, reason) FROM idempotency.claim('$scope', '$key', lease => '$lease')", $db);
}

# ... and its fence.
sub fence
{
	my ($scope, $key, $lease) = @_;

	return ask("SELECT fence FROM idempotency.claim('$scope', '$key', lease => '$lease')");
}

# Claims that are rolled back by an error.
sub fails
{
	my ($scope, $n, $db) = @_;

	$node->psql($db // 'postgres', join('', map { "BEGIN; SELECT idempotency.claim('$scope', 'fails $_'); SELECT 1 / 0; ROLLBACK;\n" } 1 .. $n),
		on_error_stop => 0);
	return;
}

# Claims that are finished.
my $finished = 0;

sub succeeds
{
	my ($scope, $n) = @_;

	$finished += $n;
	ask("SELECT idempotency.once('$scope', 'succeeds ' || i) FROM generate_series($finished - $n + 1, $finished) AS i") if $n;
	return;
}

# A scope's breaker.
sub breaker
{
	my ($scope, $columns, $db) = @_;

	return ask("SELECT $columns FROM idempotency.breakers WHERE scope = '$scope'", $db);
}

# A scope whose breaker is open, with these settings.
sub opened
{
	my ($scope, $settings) = @_;

	configure($scope, "breaker_failures => 1, $settings");
	fails($scope, 1);
	return breaker($scope, 'state') eq 'open' ? $scope : die "$scope did not open";
}

# Sessions that are in a transaction, and have claimed this key.
sub claimer
{
	my ($scope, $key) = @_;
	my $session = session($node);

	$session->query_safe("BEGIN; SELECT outcome FROM idempotency.claim('$scope', '$key')");
	return $session;
}

install_app($node);
ask('CREATE DATABASE shop');
ask('CREATE EXTENSION idempotency', 'shop');

#----------------------------------------------------------------------
# what opens it
#----------------------------------------------------------------------
configure('rollback', 'breaker_failures => 3');
fails('rollback', 2);
is(breaker('rollback', 'state, failures, openings'), 'closed|2|0', 'BEGIN; claim; error; ROLLBACK is counted');
fails('rollback', 1);
is(breaker('rollback', 'state, openings, retry_at - since'), 'open|1|00:00:30', '... and the third opens it');
is(claim('rollback', 'k'), 'retry_later breaker_open', '... for everybody');
is(ask(q{SELECT severity, value FROM idempotency.alerts WHERE name = 'breaker_open' AND scope = 'rollback'}), 'critical|1', '... which is an alert');
fails('off', 20);
is(claim('off', 'k'), 'execute', 'without a breaker nothing is held back');
is(breaker('off', 'state'), '', '... and there is none');
is(breaker('rollback', 'state', 'shop') . claim('rollback', 'k', '1 min', 'shop'), 'execute', 'another database has its own');
configure('rollback', 'breaker_failures => 3', 'shop');
fails('rollback', 2, 'shop');
is(breaker('rollback', 'state, failures', 'shop'), 'closed|2', '... with its own count');

configure('ways', 'breaker_failures => 100');
ask(q{BEGIN; SELECT idempotency.claim('ways', 'f1'); SELECT idempotency.fail('ways', 'f1', retry_after_ms => 0); COMMIT});
is(breaker('ways', 'successes, failures'), '0|1', 'fail(), to be tried again');
ask(q{BEGIN; SELECT idempotency.claim('ways', 'f2'); SELECT idempotency.fail('ways', 'f2', retryable => false); COMMIT});
is(breaker('ways', 'successes, failures'), '0|2', 'fail() for good');
ask(q{BEGIN; SAVEPOINT s; SELECT idempotency.claim('ways', 'f3'); ROLLBACK TO s; SELECT idempotency.claim('ways', 'f3'); SELECT idempotency.finish('ways', 'f3'); COMMIT});
is(breaker('ways', 'successes, failures'), '1|3', 'a savepoint that is rolled back; a success');
my $session = claimer('ways', 'f4');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
ask("SELECT pg_terminate_backend($pid, 10000)");
is(breaker('ways', 'successes, failures'), '1|4', 'a session that is terminated');
ask(q{BEGIN; SELECT idempotency.claim('ways', 'f5'); SELECT idempotency.release('ways', 'f5'); COMMIT});
is(breaker('ways', 'successes, failures'), '1|4', 'release() is neither');
ask(q{SELECT idempotency.claim('ways', 'f3'); SELECT idempotency.claim('ways', 'f3')});
is(breaker('ways', 'successes, failures'), '1|4', 'nor is a duplicate');
my $fence = fence('ways', 'f6', '1 min');
ask("SELECT idempotency.finish('ways', 'f6', 'r', $fence)");
is(breaker('ways', 'successes, failures'), '2|4', 'a leased claim that is finished');
$fence = fence('ways', 'f7', '1 min');
ask("BEGIN; SELECT idempotency.finish('ways', 'f7', 'r', $fence); ROLLBACK");
is(breaker('ways', 'successes, failures'), '2|4', '... or whose finish is rolled back');
ask("SELECT idempotency.fail('ways', 'f7', 'e', fence => $fence, retry_after_ms => 0)");
is(breaker('ways', 'successes, failures'), '2|5', '... or which fails');

configure('percent', 'breaker_failures => 3, breaker_percent => 50');
succeeds('percent', 7);
fails('percent', 6);
is(breaker('percent', 'state, successes, failures'), 'closed|7|6', 'as many failures as asked for, but not so many percent');
fails('percent', 1);
is(breaker('percent', 'state'), 'open', '... with one more it is half of them');

configure('window', q{breaker_failures => 3, breaker_window => '1 s'});
fails('window', 2);
sleep(1.2);
is(breaker('window', 'state, failures'), 'closed|0', 'failures leave the window');
fails('window', 2);
is(breaker('window', 'state, failures'), 'closed|2', '... and are too few in the next');
fails('window', 1);
is(breaker('window', 'state'), 'open', '... until there is one more');

configure('lost', q{breaker_failures => 3, breaker_window => '1 h', limit_claims => 1000, limit_interval => '1 h'});
claim('lost', "k$_", '1 ms') foreach 1 .. 3;
sleep(0.01);
is(claim('lost', 'k1', '1 ms'), 'resume', 'a lease that is lost');
is(breaker('lost', 'state, failures'), 'closed|1', '... is a failure when it is taken over');
sleep(0.01);
configure('lost', 'limit_running => 1');
my $running = fence('lost', 'other', '1 min');
is(claim('lost', 'k1'), 'retry_later limit_running', '... not when that is refused') foreach 1 .. 4;
is(ask(q{SELECT count(*) FROM idempotency.take_abandoned('lost', 10)}), '0', '... nor when nobody may take it');
is(breaker('lost', 'state, failures'), 'closed|1', '... however often');
ask("SELECT idempotency.release('lost', 'other', $running)");
configure('lost', 'limit_running => 0');
is(ask(q{SELECT count(*) FROM idempotency.take_abandoned('lost', 10)}), '2', 'of three that are abandoned two are taken');
is(breaker('lost', 'state, openings'), 'open|1', '... and then it opens');

#----------------------------------------------------------------------
# open: what is answered, and how
#----------------------------------------------------------------------
configure('open', 'breaker_failures => 4');
ask(q{BEGIN; SELECT idempotency.claim('open', 'done', 'x'); SELECT idempotency.finish('open', 'done', 'r'); COMMIT});
ask(q{BEGIN; SELECT idempotency.claim('open', 'failed'); SELECT idempotency.fail('open', 'failed', 'e', retryable => false); COMMIT});
ask(q{BEGIN; SELECT idempotency.claim('open', 'backoff'); SELECT idempotency.fail('open', 'backoff', 'e', retry_after_ms => 3600000); COMMIT});
my $live = fence('open', 'live', '5 min');
my $failing = fence('open', 'failing', '5 min');
claim('open', 'lost', '1 ms');
fails('open', 4);
is(breaker('open', 'state'), 'open', 'it is open');
is( ask(q{SELECT outcome, reason, retry_after_ms BETWEEN 25000 AND 30000, fence IS NULL, attempt FROM idempotency.claim('open', 'new')}),
	'retry_later|breaker_open|t|t|', 'a new key has to come again when the cooldown is over');
is(ask(q{SELECT outcome, response FROM idempotency.claim('open', 'done', 'x')}), 'replay|r', 'a duplicate gets its answer');
is(ask(q{SELECT outcome, failed, error FROM idempotency.claim('open', 'failed')}), 'replay|t|e', '... also of a failure');
is(claim('open', 'done') . ask(q{SELECT outcome FROM idempotency.claim('open', 'done', 'y')}), 'replaymismatch', '... or that it is none');
is(claim('open', 'live'), 'in_progress', '... or that somebody is at it');
is(ask(q{SELECT outcome, reason FROM idempotency.claim('open', 'backoff')}), 'retry_later|backoff', '... or that it is too early');
is(ask(q{SELECT outcome FROM idempotency.claim('open', 'old', first_sent => now() - interval '3 days')}), 'expired', '... or too late');
is(claim('open', 'lost'), 'retry_later breaker_open', 'nothing is taken over');
is(ask(q{SELECT count(*) FROM idempotency.take_abandoned('open', 5)}), '0', '... by nobody');
is(ask(q{SELECT outcome, reason FROM idempotency.run('open', 'run', 'SELECT 1')}), 'retry_later|breaker_open', 'run()');
is(ask(q{SELECT string_agg(outcome || coalesce(' ' || reason, ''), ', ' ORDER BY key) FROM idempotency.claim_many('open', '{done,new,newer}')}),
	'replay, retry_later breaker_open, retry_later breaker_open', 'claim_many()');
is(sqlstate($node, q{SELECT idempotency.claim_or_raise('open', 'new')}), 'ID429', 'claim_or_raise()');
is(sqlstate($node, q{SELECT idempotency.once('open', 'new')}), 'ID429', 'once()');
is(ask("SELECT idempotency.finish('open', 'live', 'r', $live) > now(); SELECT outcome FROM idempotency.fail('open', 'failing', 'e', fence => $failing)"),
	"t\nretry_later", 'who has begun can settle');
is(breaker('open', 'state, openings'), 'open|1', '... and changes nothing');
is(ask(q{SELECT retry_later FROM idempotency.stats WHERE scope = 'open'}), '10', 'what was held back is counted');

is(ask(q{SELECT idempotency.breaker_reset('open'), idempotency.breaker_reset('unknown')}), 't|f', 'breaker_reset()');
is(breaker('open', 'state, failures, openings') . claim('open', 'new'), 'closed|0|1execute', '... closes it');
is(ask(q{SELECT count(*) FROM idempotency.alerts WHERE name = 'breaker_open' AND scope = 'open'}), '0', '... and ends the alert');
opened('switched', q{breaker_cooldown => '1 h'});
configure('switched', 'breaker_failures => 0');
is(claim('switched', 'k'), 'execute', 'one that is switched off holds nothing back');
ask(q{BEGIN; SELECT idempotency.claim('switched', 'k2'); SELECT idempotency.fail('switched', 'k2'); COMMIT});
is(breaker('switched', 'state') . ask(q{SELECT count(*) FROM idempotency.alerts WHERE scope = 'switched'}), '0', '... and is not to be seen');
configure('switched', 'breaker_failures => 5');
is(claim('switched', 'k3') . ' ' . breaker('switched', 'state, failures'), 'execute closed|0', '... switched on again it begins anew');

#----------------------------------------------------------------------
# half open: probes
#----------------------------------------------------------------------
ask(q{CREATE TABLE asked (scope text, outcome text, reason text, retry_after_ms int8)});

# 64 clients come at once when the cooldown is over; returns how many of them
# execute, and the state when those have finished.
sub rush
{
	my ($scope) = @_;
	my $gate = session($node);
	my $bench;
	my $admitted;

	$gate->query_safe('SELECT pg_advisory_lock(1), pg_advisory_lock(2)');
	$bench = start_pgbench($node, qq{
SELECT pg_advisory_lock_shared(1);
SELECT probe('$scope');
}, clients => 64, transactions => 1);
	$node->poll_query_until('postgres', q{SELECT count(*) = 64 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted})
	  or die 'the clients do not come';
	sleep(0.05) until ask("SELECT coalesce((SELECT retry_at <= clock_timestamp() FROM idempotency.breakers WHERE scope = '$scope'), true)") eq 't';
	$gate->query_safe('SELECT pg_advisory_unlock(1)');
	$node->poll_query_until('postgres', q{SELECT 64 = (SELECT count(*) FROM asked WHERE scope = '} . $scope . q{')
		+ (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 2 AND NOT granted)}) or die 'the clients do not come on';
	$admitted = ask(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 2 AND NOT granted});
	$gate->query_safe('SELECT pg_advisory_unlock(2)');
	wait_pgbench($bench);
	is($bench->{err} =~ /error/ ? $bench->{err} : '', '', "$scope: no client fails");
	$gate->quit;
	return "$admitted " . (breaker($scope, 'state') || 'none');
}

ask(q{
	CREATE FUNCTION probe(s text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		c record;
		k text := 'rush ' || pg_backend_pid();
	BEGIN
		SELECT * INTO c FROM idempotency.claim(s, k, wait => '0');
		IF c.outcome = 'execute' THEN
			PERFORM pg_advisory_lock_shared(2);
			PERFORM idempotency.finish(s, k);
		ELSE
			INSERT INTO asked VALUES (s, c.outcome, c.reason, c.retry_after_ms);
		END IF;
	END $$});
foreach my $probes (1, 5, 16)
{
	my $scope = opened("rush$probes", "breaker_probes => $probes, breaker_cooldown => '2 s'");

	is(rush($scope), "$probes closed", "64 clients, room for $probes: so many are admitted, and when they have finished it closes");
	is(ask("SELECT DISTINCT outcome, reason, retry_after_ms BETWEEN 1 AND 2500 FROM asked WHERE scope = '$scope'"), 'retry_later|breaker_open|t', '... the others come again');
}
is(rush('rush off'), '64 none', 'without a breaker all are');

my $half = opened('half', q{breaker_cooldown => '1 s', breaker_probes => 1});
like(claim($half, 'early'), qr/breaker_open/, 'it is not time yet');
sleep(1.05);
succeeds($half, 1);
is(breaker($half, 'state, openings'), 'closed|1', 'a probe that succeeds closes it');
fails($half, 1);
sleep(1.05);
ask(qq{BEGIN; SELECT idempotency.claim('$half', 'p1'); SELECT idempotency.fail('$half', 'p1'); COMMIT});
is(breaker($half, 'state, openings'), 'open|3', 'one that fails opens it again');
like(claim($half, 'early'), qr/breaker_open/, '... for another cooldown');
sleep(1.05);
fails($half, 1);
is(breaker($half, 'state, openings'), 'open|4', 'one that is rolled back, too');
sleep(1.05);
$session = claimer($half, 'p2');
is(breaker($half, 'state, retry_at'), 'half_open|', 'one is under way');
$pid = $session->query_safe('SELECT pg_backend_pid()');
ask("SELECT pg_terminate_backend($pid, 10000)");
is(breaker($half, 'state, openings'), 'open|5', 'one that is killed, too');
sleep(1.05);
ask(qq{BEGIN; SAVEPOINT s; SELECT idempotency.claim('$half', 'p3'); ROLLBACK TO s; COMMIT});
is(breaker($half, 'state, openings'), 'open|6', 'one that a savepoint undoes, too');
configure($half, q{breaker_cooldown => '2 s'});
sleep(2.05);
ask(qq{BEGIN; SELECT idempotency.claim('$half', 'p4'); SELECT idempotency.release('$half', 'p4'); COMMIT});
is(breaker($half, 'state, openings'), 'half_open|6', 'one that is released tells nothing, and leaves its place');
is(claim($half, 'silent', '50 ms'), 'execute', 'one that is never heard of again');
is(ask("SELECT outcome, reason, retry_after_ms BETWEEN 1 AND 2000 FROM idempotency.claim('$half', 'next', lease => '10 s')"), 'retry_later|breaker_open|t', '... keeps its place, though its lease is over');
sleep(2.05);
$fence = fence($half, 'next', '10 s');
ok($fence, '... for a cooldown');
is(ask("SELECT outcome, reason, retry_after_ms BETWEEN 2001 AND 10000 FROM idempotency.claim('$half', 'nextnext')"), 'retry_later|breaker_open|t', '... or as long as its lease, if that is longer');
ask("SELECT idempotency.finish('$half', 'next', 'r', $fence)");
is(breaker($half, 'state'), 'closed', 'the next one closes it');

my $three = opened('three', q{breaker_cooldown => '400 ms', breaker_probes => 3});
sleep(0.45);
my @fences = map { fence($three, "p$_", '3 s') } 1 .. 3;
is(claim($three, 'p4'), 'retry_later breaker_open', 'three probes, not four');
ask("SELECT idempotency.finish('$three', 'p1', 'r', $fences[0])");
ask("SELECT idempotency.finish('$three', 'p2', 'r', $fences[1])");
is(breaker($three, 'state, successes') . ' ' . claim($three, 'p4'), 'half_open|2 retry_later breaker_open', 'two have succeeded: their places are not free');
sleep(3.05);
is(claim($three, 'p4') . ', ' . claim($three, 'p5'), 'execute, retry_later breaker_open', 'the third is silent: only its place is');
is(ask("SELECT idempotency.breaker_reset('$three')"), 't', 'a reset');
fails($three, 1);
sleep(0.45);
ask(qq{BEGIN; SELECT idempotency.finish('$three', key) FROM idempotency.claim_many('$three', '{a,b,c,d}') WHERE outcome = 'execute'; COMMIT});
is(breaker($three, 'state'), 'closed', 'three probes of one transaction');

#----------------------------------------------------------------------
# results of what began before
#----------------------------------------------------------------------
my $old = 'old';
configure($old, q{breaker_failures => 1, breaker_cooldown => '1 s', breaker_probes => 1});
my @old = map { claimer($old, "old $_") } 1 .. 3;
my @leased = map { fence($old, "leased $_", '1 min') } 1 .. 3;
claim($old, 'abandoned', '1 ms');
fails($old, 1);
is(breaker($old, 'state, openings'), 'open|1', 'it opens while others are under way');
$old[0]->query_safe('ROLLBACK');
is(breaker($old, 'state, openings'), 'open|1', 'one of them fails: that is past');
sleep(1.05);
$fence = fence($old, 'probe', '10 s');
is(breaker($old, 'state'), 'half_open', 'half open');
$old[1]->query_safe("SELECT idempotency.finish('$old', 'old 2'); COMMIT");
ask("SELECT idempotency.finish('$old', 'leased 1', 'r', $leased[0])");
is(breaker($old, 'state, successes'), 'half_open|0', '... what succeeds now of what began before does not close it');
$old[2]->query_safe('ROLLBACK');
ask("SELECT idempotency.fail('$old', 'leased 2', 'e', fence => $leased[1])");
is(breaker($old, 'state, openings'), 'half_open|1', '... what fails does not open it');
ask("SELECT idempotency.finish('$old', 'probe', 'r', $fence)");
is(breaker($old, 'state'), 'closed', 'the probe does');
ask("SELECT idempotency.fail('$old', 'leased 3', 'e', fence => $leased[2])");
is(breaker($old, 'state, failures'), 'closed|0', '... and in the new state what began before does not count');
is(claim($old, 'abandoned') . breaker($old, 'state, failures'), 'resumeclosed|0', '... nor does what was abandoned then');
$_->quit foreach @old;

#----------------------------------------------------------------------
# the rate
#----------------------------------------------------------------------
my $rate = q{
SELECT outcome, extract(epoch FROM clock_timestamp()) AS at FROM idempotency.claim('SCOPE', random()::text, lease => '1 min') \gset
SELECT count(*) FROM took('SCOPE', ':outcome', :at);
};
ask(q{
	CREATE UNLOGGED TABLE grants (scope text, at float8);
	CREATE FUNCTION took(s text, outcome text, at float8) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO grants SELECT s, at WHERE outcome = 'execute' $$});
configure('rate', q{limit_claims => 50, limit_interval => '500 ms'});
foreach my $scope ('rate', 'rate off')
{
	my $script = $rate =~ s/SCOPE/$scope/gr;
	my $bench = run_pgbench($node, $script, clients => 64, seconds => $scope eq 'rate' ? 3 : 1);

	is($bench->{err} =~ /error/ ? $bench->{err} : '', '', "$scope: no client fails");
}
my ($granted, $seconds) = split /\|/, ask(q{SELECT count(*), max(at) - min(at) FROM grants WHERE scope = 'rate'});
my $expected = 50 + 100 * $seconds;
ok(abs($granted - $expected) < 0.1 * $expected, sprintf('%d claims were admitted in %.1f s, where %.0f may be', $granted, $seconds, $expected));
my $most = ask(q{SELECT max(n - 100 * (b_at - a_at)) FROM (SELECT a.at AS a_at, b.at AS b_at, b.n - a.n + 1 AS n
	FROM (SELECT at, row_number() OVER (ORDER BY at) AS n FROM grants WHERE scope = 'rate') AS a
	JOIN (SELECT at, row_number() OVER (ORDER BY at) AS n FROM grants WHERE scope = 'rate') AS b ON b.n >= a.n) AS pair});
cmp_ok($most, '<', 50 * 1.15, 'never more at once than the limit');
cmp_ok(ask(q{SELECT count(*) FROM grants WHERE scope = 'rate off'}), '>', 300, 'without the limit it would be more');
configure('slow', q{limit_claims => 2, limit_interval => '3 s'});
is(join(', ', map { claim('slow', "k$_") } 1 .. 3), 'execute, execute, retry_later limit_claims', 'two in three seconds');
is(ask(q{SELECT retry_after_ms BETWEEN 1 AND 1500 FROM idempotency.claim('slow', 'k3')}), 't', '... the next one when there is a token');
is(claim('slow', 'k1'), 'in_progress', 'a duplicate needs none');
sleep(1.55);
is(claim('slow', 'k3') . ', ' . claim('slow', 'k4'), 'execute, retry_later limit_claims', '... one later');
sleep(4);
is(ask(q{SELECT string_agg(concat_ws(' ', outcome, reason), ', ' ORDER BY outcome) FROM idempotency.claim_many('slow', '{a,b,c}', lease => '1 min')}),
	'execute, execute, retry_later limit_claims', '... and no more than two after a long pause');
is(claim('slow', "k$_", '1 min', 'shop'), 'execute', 'another database has its own') foreach 1 .. 3;

#----------------------------------------------------------------------
# claims at once
#----------------------------------------------------------------------
ask(q{CREATE UNLOGGED TABLE inside (scope text, entered float8, gone float8)});
my $inside = q{
\set way random(1, 5)
\set k random(1, 1000000000)
\if :way <= 2
BEGIN;
SELECT (outcome = 'execute')::int AS granted, extract(epoch FROM clock_timestamp()) AS entered FROM idempotency.claim('SCOPE', 'k:k') \gset
\if :granted
\sleep 5 ms
SELECT idempotency.finish('SCOPE', 'k:k');
\endif
SELECT extract(epoch FROM clock_timestamp()) AS gone \gset
\if :way = 1
COMMIT;
\else
ROLLBACK;
\endif
\elif :way = 3
BEGIN;
SAVEPOINT s;
SELECT (outcome = 'execute')::int AS granted, extract(epoch FROM clock_timestamp()) AS entered FROM idempotency.claim('SCOPE', 'k:k') \gset
\sleep 2 ms
SELECT extract(epoch FROM clock_timestamp()) AS gone \gset
ROLLBACK TO s;
COMMIT;
\else
SELECT (outcome = 'execute')::int AS granted, coalesce(fence, 0) AS fence, extract(epoch FROM clock_timestamp()) AS entered FROM idempotency.claim('SCOPE', 'k:k', lease => '1 min') \gset
\if :granted
\sleep 5 ms
SELECT extract(epoch FROM clock_timestamp()) AS gone \gset
SELECT idempotency.finish('SCOPE', 'k:k', 'r', :fence);
\endif
\endif
\if :granted
INSERT INTO inside VALUES ('SCOPE', :entered, :gone);
\endif
};
configure('running', 'limit_running => 5');
foreach my $scope ('running', 'running off')
{
	my $script = $inside =~ s/SCOPE/$scope/gr;
	my $bench = run_pgbench($node, $script, clients => 64, seconds => 3);
	my ($n, $at_once) = split /\|/, ask("SELECT (SELECT count(*) FROM inside WHERE scope = '$scope'), max(n) FROM (SELECT sum(d) OVER (ORDER BY at, d) AS n
		FROM (SELECT entered AS at, 1 AS d FROM inside WHERE scope = '$scope' UNION ALL SELECT gone, -1 FROM inside WHERE scope = '$scope') AS e) AS s");

	is($bench->{err} =~ /error/ ? $bench->{err} : '', '', "$scope: no client fails");
	cmp_ok($n, '>', 100, "$scope: $n were inside");
	cmp_ok($at_once, $scope eq 'running' ? '<=' : '>', 5, "... at once $at_once");
}
is(ask(q{SELECT count(*) FROM idempotency.activity WHERE scope = 'running'}), '0', 'nobody is left inside');
is(ask(q{SELECT string_agg(outcome, ' ' ORDER BY outcome) FROM idempotency.claim_many('running', '{a,b,c,d,e,f,g}', lease => '1 min')}),
	'execute execute execute execute execute retry_later retry_later', '... and there is room for five again');

configure('one', 'limit_running => 1');
my $full = 'retry_later limit_running';
$session = claimer('one', 'a');
is(claim('one', 'b'), $full, 'one is inside');
is(ask(q{SELECT retry_after_ms > 0 FROM idempotency.claim('one', 'b')}), 't', '... the others come again');
is(ask(q{SELECT outcome FROM idempotency.claim('one', 'c')}), 'retry_later', '... whatever their claim');
$session->query_safe('ROLLBACK');
is(ask(q{BEGIN; SELECT outcome FROM idempotency.claim('one', 'b'); ROLLBACK}), 'execute', 'a rollback gives its place back');
$node->psql('postgres', q{BEGIN; SELECT idempotency.claim('one', 'b'); SELECT 1 / 0; ROLLBACK});
is(ask(q{BEGIN; SAVEPOINT s; SELECT outcome FROM idempotency.claim('one', 'b'); ROLLBACK TO s; SELECT outcome FROM idempotency.claim('one', 'c');
	SELECT outcome FROM idempotency.claim('one', 'd'); ROLLBACK}), "execute\nexecute\nretry_later", 'an error does, and a savepoint that is rolled back');
$session->query_safe(q{BEGIN; SELECT outcome FROM idempotency.claim('one', 'a')});
$pid = $session->query_safe('SELECT pg_backend_pid()');
ask("SELECT pg_terminate_backend($pid, 10000)");
$fence = fence('one', 'b', '2 s');
ok($fence, 'a session that is terminated does');
is(claim('one', 'c'), $full, 'a lease keeps it');
is(claim('one', 'b'), 'in_progress', '... a duplicate is none');
is(ask("BEGIN; SELECT idempotency.heartbeat('one', 'b', $fence, '2 s') > now(); SELECT outcome FROM idempotency.claim('one', 'c', lease => '1 min'); COMMIT"),
	"t\nretry_later", '... also for who has prolonged it in this transaction');
is(ask("BEGIN; SELECT idempotency.finish('one', 'b', 'r', $fence) > now(); SELECT outcome FROM idempotency.claim('one', 'c', lease => '300 ms'); ROLLBACK"),
	"t\nexecute", '... but not for who has finished it in this');
is(claim('one', 'c'), $full, '... which was rolled back');
sleep(2.05);
is(claim('one', 'c', '200 ms'), 'execute', 'a lease that is over gives it back');
sleep(0.25);
is(ask(q{SELECT count(*) FROM idempotency.take_abandoned('one', 10)}), '1', 'of two that are abandoned one is taken over');
is(ask(q{SELECT count(*) FROM idempotency.take_abandoned('one', 10)}), '0', '... and then no more');
is(claim('one', 'x', '1 min', 'shop') . claim('two', 'x'), 'executeexecute', 'other scopes and databases have their own');

#----------------------------------------------------------------------
# replays of a key
#----------------------------------------------------------------------
configure('replay', q{limit_replays => 3, limit_interval => '4 s'});
ask(q{SELECT idempotency.once('replay', 'a'), idempotency.once('replay', 'b')});
my @replays = map { ask(q{SELECT concat_ws(' ', outcome, reason) FROM idempotency.claim('replay', 'a', 'x')}) } 1 .. 4;
is("@replays", 'replay replay replay retry_later limit_replays', 'three replays of a key, then it has to wait');
is(ask(q{SELECT retry_after_ms BETWEEN 1 AND 4000 FROM idempotency.claim('replay', 'a')}), 't', '... until the interval is over');
is(claim('replay', 'b') . ' ' . claim('replay', 'new'), 'replay execute', '... other keys do not');
configure('replay', q{limit_replays => 3, limit_interval => '4 s'}, 'shop');
ask(q{SELECT idempotency.once('replay', 'a')}, 'shop');
is(claim('replay', 'a', '1 min', 'shop'), 'replay', '... nor that of another database');
sleep(4.1);
is(claim('replay', 'a'), 'replay', '... and then it is replayed again');
configure('replay', 'limit_replays => 0');
@replays = map { claim('replay', 'a') } 1 .. 6;
is("@replays", 'replay replay replay replay replay replay', 'without the limit all are');

#----------------------------------------------------------------------
# scopes without a place of their own; a crash
#----------------------------------------------------------------------
$node->append_conf('postgresql.conf', 'idempotency.max_scopes = 1');
opened('crash', q{breaker_cooldown => '1 h'});
configure('crash2', 'limit_running => 1');
$session = claimer('crash2', 'a');
$pid = $session->query_safe('SELECT pg_backend_pid()');
kill_backend($node, $pid);
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM idempotency.breakers}) or die 'the server did not begin anew';
is(claim('crash', 'k') . ' ' . breaker('crash', 'state, failures, openings'), 'execute closed|0|0', 'a crash closes every breaker, and nothing is counted');
is(claim('crash2', 'b'), 'execute', '... and nobody is inside but who holds a lease');
is(claim('crash2', 'c'), $full, '... as before');
$node->stop;
unlink($node->data_dir . '/pg_stat/idempotency.stat');
$node->start;
configure('crash', 'limit_running => 1');
is(claim('crash', 'c'), $full, 'a restart with too little room: this scope has its place');
is(claim('crash2', 'c'), 'execute', '... this one has it no more, and is not held back');
configure('others', q{limit_running => 1, limit_claims => 1, breaker_failures => 1});
$session = claimer('shared', 'a');
is(claim('others', 'k1') . ' ' . claim('others', 'k2'), 'execute execute', '... nor is this one, by others least of all');
fails('others', 3);
is(claim('others', 'k3'), 'execute', '... by nothing');
$session->quit;
$node->stop;

done_testing();
