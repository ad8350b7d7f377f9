# Consumers of events on a server of their own: many at once, crashes, what
# fails too often, what comes after the retention, dump and restore.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_node('inbox', conf => "shared_preload_libraries = 'idempotency'\nidempotency.naptime = 200ms");

sub sql { return $node->safe_psql('postgres', $_[0]); }

sql(q{
	CREATE EXTENSION idempotency;
	CREATE TABLE effect (consumer text, seq bigint);
	CREATE TABLE answer (consumer text, outcome text);
	-- What a consumer does, in one transaction.
	CREATE FUNCTION consume(c text, n bigint) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		a record;
	BEGIN
		SELECT * INTO a FROM idempotency.accept(c, 's', 'e' || n, n);
		IF a.outcome = 'process' THEN
			INSERT INTO effect VALUES (c, n);
		END IF;
		INSERT INTO answer VALUES (c, a.outcome);
		RETURN a.outcome;
	END;
	$$;
});
sql("SELECT strategy FROM idempotency.configure_consumer('$_', strategy => '$_')")
  foreach qw(id sequence ordered high_water id_and_sequence);

#----------------------------------------------------------------------
# one event, a thousand deliveries, 16 consumers
#----------------------------------------------------------------------
foreach my $c (qw(id sequence ordered high_water id_and_sequence))
{
	run_pgbench($node, "SELECT consume('$c', 7);", clients => 16, transactions => 63);
	is(sql("SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM (SELECT outcome, count(*) AS n FROM answer WHERE consumer = '$c' GROUP BY 1) AS a"),
		'duplicate 1007, process 1', "$c: delivered 1008 times, processed once");
	is(sql("SELECT count(*) FROM effect WHERE consumer = '$c'"), 1, "$c: one effect");
}

#----------------------------------------------------------------------
# what fails too often
#----------------------------------------------------------------------
sub failing
{
	my ($c, $n, $times) = @_;

	$node->psql('postgres', "BEGIN; SELECT consume('$c', $n); SELECT 1 / 0; COMMIT;") foreach 1 .. $times;
	return;
}

sub deliver
{
	my ($c, $n) = @_;

	return sql("SELECT outcome || coalesce(' ' || deliveries, '') || coalesce(' ' || reason, '') FROM idempotency.accept('$c', 's', 'e$n', $n)");
}

sql("SELECT max_deliveries FROM idempotency.configure_consumer('$_', max_deliveries => 3)") foreach qw(id ordered sequence id_and_sequence);
foreach my $c (qw(id ordered sequence id_and_sequence))
{
	failing($c, 8, 2);
	is(sql("BEGIN; SELECT outcome || ' ' || deliveries FROM idempotency.accept('$c', 's', 'e8', 8); ROLLBACK"),
		'process 3', "$c: the third delivery of what failed twice");
	is(deliver($c, 8), 'exhausted 3', "$c: there is no fourth");
	is(deliver($c, 8), 'exhausted 3', "$c: ... whenever it comes");
	is(deliver($c, 9), 'process 1', "$c: what is behind it goes on");
	is(sql("SELECT event_id || ' ' || coalesce(seq::text, '') || ' ' || deliveries FROM idempotency.dead_events WHERE consumer = '$c'"), 'e8 8 3', "$c: it is listed");
	is(sql("SELECT detail::jsonb->>'deliveries' FROM idempotency.ledger WHERE decision = 'dead' AND scope = 'inbox/$c'"), '3', "$c: and in the ledger");
	my $after = $c =~ /id/ ? 'e8' : '@s:8';
	is(sql("SELECT outcome || ' ' || reason FROM idempotency.accept('$c', 's', 'e10', 10, after => '{$after}')"),
		"blocked $after", "$c: what depends on it waits");
	is(sql("SELECT idempotency.redeliver('$c', 's', 'repaired', 'e8', 8)"), 't', "$c: it is to be tried again");
	failing($c, 8, 2);
	is(deliver($c, 8), 'process 3 redelivered', "$c: it fails, and is processed at last");
	like(deliver($c, 8), qr/^duplicate/, "$c: once");
	is(sql("SELECT outcome FROM idempotency.accept('$c', 's', 'e10', 10, after => '{$after}')"), 'process', "$c: what depends on it is processed");
	is(sql("SELECT count(*) FROM idempotency.dead_events WHERE consumer = '$c'"), 0, "$c: nothing is dead");
}
# a rollback to a savepoint counts, success clears
sql(q{DO $$ BEGIN PERFORM FROM idempotency.accept('id', 's', 'sub'); RAISE EXCEPTION 'x'; EXCEPTION WHEN others THEN NULL; END $$});
is(sql("SELECT deliveries FROM idempotency.accept('id', 's', 'sub')"), 2, 'a savepoint that was rolled back was a delivery');
failing('id', 77, 5);
is(sql("SELECT name FROM idempotency.alerts WHERE name = 'dead_events'"), '', 'nothing is dead before somebody asks');
is(deliver('id', 77), 'exhausted 3', 'then it is');
is(sql("SELECT scope || ' ' || value FROM idempotency.alerts WHERE name = 'dead_events'"), 'inbox/id 1', 'an alert says so');

#----------------------------------------------------------------------
# gaps are alerted when they are old
#----------------------------------------------------------------------
sql("SELECT outcome FROM idempotency.accept_many('sequence', 'gap', '{1,3}')");
is(sql("SELECT name FROM idempotency.alerts WHERE name = 'gap_old'"), '', 'a new gap is no alert');
sql("UPDATE idempotency.inbox_stream SET gap_since = now() - interval '10 minutes' WHERE stream = 'gap'");
is(sql("SELECT scope FROM idempotency.alerts WHERE name = 'gap_old'"), 'inbox/sequence', 'an old one is');

#----------------------------------------------------------------------
# crashes: everything is delivered, again and again, until it is processed
#----------------------------------------------------------------------
my $events = 10000;
sql('TRUNCATE effect, answer');
sql("SELECT idempotency.configure_consumer('$_', 's', max_deliveries => 0, max_holes => 20000) IS NOT NULL") foreach qw(id sequence id_and_sequence);
sql("SELECT idempotency.set_position('$_', 's', NULL, 'test') IS NOT NULL") foreach qw(sequence id_and_sequence);
foreach my $round (1 .. 4)
{
	my @running = map {
		start_pgbench($node, "\\set n random(1000, 1000 + $events - 1)\nBEGIN;\nSELECT consume('$_', :n);\nCOMMIT;\n", clients => 4, seconds => 20)
	} qw(id sequence id_and_sequence);
	sleep(0.7 + rand(0.5));
	if ($round % 2) { $node->stop('immediate'); }
	else
	{
		my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1});
		kill 'KILL', $pid if $pid;
		sleep(0.3);
		$node->stop('fast', fail_ok => 1);
	}
	wait_pgbench($_) foreach @running;
	$node->start;
	is(sql('SELECT count(*) FROM (SELECT FROM effect GROUP BY consumer, seq HAVING count(*) > 1) AS e'), 0, "crash $round: nothing was processed twice");
}
foreach my $c (qw(id sequence id_and_sequence))
{
	my $before = sql("SELECT count(*) FROM effect WHERE consumer = '$c'");

	note("$c: $before of $events processed before the last round");
	sql("SELECT consume('$c', n) FROM generate_series(1000, 1000 + $events - 1) AS n");
	is(sql("SELECT count(*) || ' ' || count(DISTINCT seq) FROM effect WHERE consumer = '$c'"), "$events $events", "$c: each event has one effect");
	is(sql("SELECT count(*) FROM generate_series(1000, 1000 + $events - 1) AS n WHERE consume('$c', n) <> 'duplicate'"), 0, "$c: a replay of all changes nothing");
}
is(sql("SELECT count(*) FROM idempotency.gaps('sequence', 's')"), 0, 'nothing is missing');
is(sql("SELECT seq - 999 FROM idempotency.position('sequence', 's')"), $events, 'the position is at the end');

SKIP:
{
	skip 'the library with fault points is not built (make testlib)', 9 unless have_test_library();
	# not preloaded: a session has one library or the other
	my $faults = new_node('inbox_faults');
	my $n = 0;

	$faults->safe_psql('postgres', 'CREATE EXTENSION idempotency; CREATE TABLE effect (seq bigint);');
	use_test_library($faults);
	$faults->safe_psql('postgres', q{SELECT strategy FROM idempotency.configure_consumer('c', strategy => 'sequence')});
	foreach my $point (qw(inbox.before_write inbox.after_write ledger.after_append))
	{
		$n++;
		$faults->psql('postgres', qq{SELECT FROM idempotency.policy('*');
			SET idempotency.fault = '$point:crash';
			BEGIN;
			SELECT FROM idempotency.accept('c', 's', seq => $n);
			INSERT INTO effect VALUES ($n);
			SELECT FROM idempotency.configure_consumer('c', max_holes => 100);
			COMMIT;});
		try_start($faults);
		is($faults->safe_psql('postgres', "SELECT count(*) FROM effect WHERE seq = $n"), 0, "killed at $point: no effect");
		is($faults->safe_psql('postgres', "SELECT outcome FROM idempotency.accept('c', 's', seq => $n)"), 'process', '... and the event is processed when it comes again');
	}
	# after the retention, nobody knows the event; the ledger does
	$faults->safe_psql('postgres', "SELECT FROM idempotency.accept('d', 's', 'old')");
	is($faults->safe_psql('postgres', q{SELECT FROM idempotency.policy('*');
			SET idempotency.clock_offset = '3 d';
			SELECT outcome FROM idempotency.accept('d', 's', 'old')}),
		'process', 'delivered once more after the retention: processed');
	is($faults->safe_psql('postgres', q{SELECT string_agg(decision, ' ') FROM idempotency.explain('inbox/d', 'old', 's')}),
		'executed executed', 'and the ledger has it twice');
	# without shared memory nothing that was rolled back is counted
	$faults->safe_psql('postgres', q{SELECT FROM idempotency.configure_consumer('d', max_deliveries => 1)});
	$faults->psql('postgres', q{BEGIN; SELECT FROM idempotency.accept('d', 's', 'failing'); ROLLBACK}) foreach 1 .. 3;
	is($faults->safe_psql('postgres', "SELECT outcome FROM idempotency.accept('d', 's', 'failing')"), 'process', 'without shared memory nothing is given up');
	$faults->stop;
}

#----------------------------------------------------------------------
# dump and restore
#----------------------------------------------------------------------
my $dump = $node->backup_dir . '/inbox.sql';
sql("SELECT idempotency.redeliver('sequence', 's', 'test', seq => 1005) IS NOT NULL");
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'dump');
sql('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('restored') ], 'restore');
is($node->safe_psql('restored', q{SELECT string_agg(consume(c, 1500), ' ') FROM unnest('{id,sequence,id_and_sequence}'::text[]) AS c}),
	'duplicate duplicate duplicate', 'what was processed is known after a restore');
is($node->safe_psql('restored', q{SELECT consume('sequence', 1005) || ' ' || consume('sequence', 1005)}), 'process duplicate', '... and what is to be once more');
is($node->safe_psql('restored', q{SELECT max_deliveries FROM idempotency.consumer_policy('ordered')}), 3, '... and the settings');
is($node->safe_psql('restored', q{SELECT outcome FROM idempotency.accept('id', 's', 'e77')}), 'exhausted', '... and what is dead');

$node->stop;
done_testing();
