# Sagas with the worker: who executes a handler, what crashes leave, and what
# survives a dump, a restore and a promotion.
#
# The effects of a saga's steps are rows of table effect, which the handlers
# delete and note in table undone; that has no unique constraint, so that a step
# that is undone twice shows.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $conf = q{
shared_preload_libraries = 'idempotency'
idempotency.naptime = 100
max_worker_processes = 16
restart_after_crash = on
autovacuum = off
};
my $node = new_node('sagas', conf => $conf, init => [ allows_streaming => 1 ]);

sub sql { return $node->safe_psql('postgres', shift); }

# Wait until the query is true, through crashes.
sub comes_true
{
	my ($query, $limit) = @_;
	my $begin = time();

	while (time() - $begin < ($limit // 60))
	{
		my ($out, $err) = ('', '');

		$node->psql('postgres', $query, stdout => \$out, stderr => \$err, on_error_die => 0);
		return 1 if $out eq 't';
		sleep(0.05);
	}
	diag($node->psql('postgres', 'SELECT state, reason, next_by, due_at, now(), compensating_step FROM idempotency.sagas; SELECT * FROM idempotency.saga_steps'));
	return 0;
}

sub state_is
{
	my ($key, $state) = @_;

	return comes_true("SELECT coalesce((SELECT state FROM idempotency.sagas WHERE key = '$key'), 'none') = '$state'");
}

sql(q{
	CREATE EXTENSION idempotency;
	CREATE TABLE effect (key text, step text);
	CREATE TABLE undone (key text, step text, role text DEFAULT current_user,
		session text DEFAULT session_user, pid int DEFAULT pg_backend_pid(), path text DEFAULT current_setting('search_path'));
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	GRANT ALL ON effect, undone TO alice, bob;
	CREATE TABLE secret (what text);
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA idempotency TO alice, bob;
	CREATE FUNCTION undo(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		DELETE FROM effect WHERE key = context->>'key' AND step = context->>'step';
		INSERT INTO undone VALUES (context->>'key', context->>'step');
	END $$;
	CREATE FUNCTION slow(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM undo(args, context);
		PERFORM pg_sleep(args::float);
	END $$;
	CREATE FUNCTION steal(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO secret VALUES ('stolen by ' || current_user);
	END $$;
	CREATE FUNCTION rise(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		RESET ROLE;
		RESET SESSION AUTHORIZATION;
		SET search_path = pg_catalog;
		INSERT INTO public.secret VALUES ('stolen by ' || current_user);
	END $$;
	CREATE FUNCTION once_more(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF (SELECT outcome FROM idempotency.claim('refund', context->>'idempotency_key')) = 'execute' THEN
			PERFORM undo(args, context);
			PERFORM idempotency.finish('refund', context->>'idempotency_key', 'refunded');
		END IF;
	END $$;
	CREATE FUNCTION unsettled(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM idempotency.claim('refund', context->>'idempotency_key');
	END $$;
	CREATE FUNCTION suicide(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM undo(args, context);
		PERFORM pg_terminate_backend(pg_backend_pid());
		PERFORM pg_sleep(10);
	END $$;
	CREATE FUNCTION saga(k text, handler regprocedure, steps int, args text DEFAULT NULL, s text DEFAULT 'saga') RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		f bigint := (SELECT fence FROM idempotency.claim(s, k, lease => '1 minute'));
	BEGIN
		FOR n IN 1 .. steps LOOP
			PERFORM idempotency.compensate_with(s, k, f, 's' || n, handler, args);
			INSERT INTO effect VALUES (k, 's' || n);
		END LOOP;
		RETURN f;
	END $$;
	SELECT idempotency.configure('saga', max_attempts => 3, backoff_base => '10 ms', backoff_cap => '20 ms');
});

sub begin_saga
{
	my ($key, $handler, $steps, %opt) = @_;
	my $role = $opt{role} ? "SET ROLE $opt{role};" : '';
	my $args = defined $opt{args} ? "'$opt{args}'" : 'NULL';

	return sql("$role SELECT saga('$key', '$handler(text,jsonb)', $steps, $args)");
}

sub compensate
{
	my ($key, $fence) = @_;

	return sql("SELECT idempotency.compensate('saga', '$key', $fence, 'test')");
}

#----------------------------------------------------------------------
# who executes a handler
#----------------------------------------------------------------------
my %fence = (a => begin_saga('a', 'undo', 3, role => 'alice'), b => begin_saga('b', 'undo', 2, role => 'bob'));
compensate($_, $fence{$_}) foreach sort keys %fence;
ok(state_is($_, 'compensated'), "$_ was compensated") foreach sort keys %fence;
is(sql(q{SELECT string_agg(step, ' ' ORDER BY ctid) FROM undone WHERE key = 'a'}), 's3 s2 s1', 'in reverse order');
is(sql(q{SELECT string_agg(DISTINCT key || role || session, ' ') FROM undone}), 'aalicealice bbobbob', 'each by its role, in a session of its own');
is(sql(q{SELECT count(DISTINCT pid) FROM undone}), 2, 'one process for each role');
is(sql('SELECT count(*) FROM effect'), 0, 'no effect is left');
is(sql(q{SELECT outcome || ' ' || failed FROM idempotency.claim('saga', 'a', lease => '1 s')}), 'replay true', 'duplicates get the failure');

$fence{$_->[0]} = begin_saga($_->[0], $_->[1], 1, role => 'alice') foreach [ 'steal', 'steal' ], [ 'rise', 'rise' ];
compensate($_, $fence{$_}) foreach qw(steal rise);
ok(state_is($_, 'compensation_failed'), "$_: a handler can't do what its role can't") foreach qw(steal rise);
is(sql('SELECT count(*) FROM secret'), 0, 'nothing was stolen');
like(sql(q{SELECT string_agg(error, ' ') FROM idempotency.saga_steps WHERE key IN ('steal', 'rise')}), qr/permission denied for table secret.*permission denied for table secret/, 'the error says so');
is(sql(q{SELECT attempt FROM idempotency.saga_steps WHERE key = 'steal'}), 3, 'after as many attempts as the policy allows');
is(sql(q{SELECT scope || ' ' || value FROM idempotency.alerts WHERE name = 'compensation_failed'}), 'saga 2', 'an alert');

# a handler that claims by itself, settled or not
$fence{claims} = begin_saga('claims', 'once_more', 2, role => 'alice');
compensate('claims', $fence{claims});
ok(state_is('claims', 'compensated'), 'a handler may claim and finish');
$fence{unsettled} = begin_saga('unsettled', 'unsettled', 1, role => 'alice');
compensate('unsettled', $fence{unsettled});
ok(state_is('unsettled', 'compensation_failed'), 'what it claims it must settle');
like(sql(q{SELECT error FROM idempotency.saga_steps WHERE key = 'unsettled'}), qr/did not settle it/, '... the error says so');

# a handler that ends its own process is not repeated for ever
$fence{suicide} = begin_saga('suicide', 'suicide', 1, role => 'bob');
compensate('suicide', $fence{suicide});
ok(state_is('suicide', 'compensation_failed'), 'a handler that ends its process is given up');
is(sql(q{SELECT count(*) FROM undone WHERE key = 'suicide'}), 0, '... and what it did was undone with it');

#----------------------------------------------------------------------
# rights that are lost meanwhile are error states
#----------------------------------------------------------------------
sql('CREATE ROLE carol LOGIN; GRANT ALL ON effect, undone TO carol; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA idempotency TO carol');
sql('CREATE ROLE dora LOGIN; GRANT ALL ON effect, undone TO dora; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA idempotency TO dora');
$fence{login} = begin_saga('login', 'undo', 1, role => 'carol');
$fence{dropped} = begin_saga('dropped', 'undo', 1, role => 'dora');
$fence{execute} = begin_saga('execute', 'slow', 1, role => 'bob', args => '0');
$fence{gone} = begin_saga('gone', 'steal', 1, role => 'bob');
sql('ALTER ROLE carol NOLOGIN; DROP OWNED BY dora; DROP ROLE dora; CREATE ROLE dora LOGIN; GRANT ALL ON effect, undone TO dora');
sql('REVOKE EXECUTE ON FUNCTION slow FROM PUBLIC; DROP FUNCTION steal');
compensate($_, $fence{$_}) foreach qw(login dropped execute gone);
ok(state_is($_, 'compensation_failed'), "$_: given up") foreach qw(login dropped execute gone);
is(sql(q{SELECT string_agg(key || ': ' || error, E'\n' ORDER BY key) FROM idempotency.saga_steps WHERE key IN ('login', 'dropped', 'execute', 'gone')}),
	"dropped: the role that registered the handler does not exist\n"
	  . "execute: permission denied for function slow\n"
	  . "gone: function \"public.steal(pg_catalog.text,pg_catalog.jsonb)\" does not exist\n"
	  . 'login: the role that registered the handler cannot log in', 'each says why');
sql('ALTER ROLE carol LOGIN; GRANT EXECUTE ON FUNCTION slow TO bob');
is(sql("SELECT idempotency.retry_compensation('saga', '$_', 'repaired')"), 't', "$_: an operator has it tried again") foreach qw(login execute);
ok(state_is($_, 'compensated'), "$_: and it is compensated") foreach qw(login execute);
is(sql(q{SELECT role FROM undone WHERE key = 'login'}), 'carol', 'by its role');

#----------------------------------------------------------------------
# deadlines and those who don't come back
#----------------------------------------------------------------------
sql(q{SELECT idempotency.compensate_with('saga', 'late', fence, 's1', 'undo(text,jsonb)', deadline => '200 ms') FROM idempotency.claim('saga', 'late', lease => '1 minute')});
ok(state_is('late', 'compensated'), 'the deadline passes, and it is compensated');
is(sql(q{SELECT error FROM idempotency.peek('saga', 'late')}), "the saga's deadline has passed", '... and has failed because of it');

# the helper ends when nothing is due
ok(comes_true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'idempotency saga helper'}), 'the helpers end');

#----------------------------------------------------------------------
# crashes: of the helper, in the middle of a handler, and of the server
#----------------------------------------------------------------------
sub kill_helper
{
	my ($key, $signal) = @_;
	my $pid;

	comes_true(qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'idempotency saga helper' AND wait_event = 'PgSleep'}) or return 0;
	$pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'idempotency saga helper' AND wait_event = 'PgSleep'});
	# what comes after it is quick
	sql('CREATE OR REPLACE FUNCTION slow(args text, context jsonb) RETURNS void LANGUAGE sql AS $$ SELECT undo(args, context) $$');
	return kill $signal, $pid;
}
my $slow = q{CREATE OR REPLACE FUNCTION slow(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS
	$$ BEGIN PERFORM undo(args, context); PERFORM pg_sleep(args::float); END $$};
foreach my $how (qw(TERM KILL))
{
	sql($slow);
	$fence{$how} = begin_saga($how, 'slow', 2, role => 'bob', args => '60');
	compensate($how, $fence{$how});
	is(kill_helper($how, $how), 1, "the helper gets SIG$how in the middle of a handler");
	ok(state_is($how, 'compensated'), '... and it is compensated all the same');
	is(sql("SELECT string_agg(step, ' ' ORDER BY ctid) FROM undone WHERE key = '$how'"), 's2 s1', '... each step once');
}
sql($slow);
$fence{crash} = begin_saga('crash', 'slow', 2, role => 'bob', args => '60');
compensate('crash', $fence{crash});
ok(comes_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'idempotency saga helper' AND wait_event = 'PgSleep'}), 'a handler is executed');
sql('CREATE OR REPLACE FUNCTION slow(args text, context jsonb) RETURNS void LANGUAGE sql AS $$ SELECT undo(args, context) $$');
$node->stop('immediate');
$node->start;
ok(state_is('crash', 'compensated'), 'the server crashed, and it is compensated all the same');
is(sql(q{SELECT string_agg(step, ' ' ORDER BY ctid) FROM undone WHERE key = 'crash'}), 's2 s1', '... each step once');

# every fault point of a session, in every way
SKIP:
{
	skip 'the library with fault points is not built (make testlib)', 1 unless have_test_library();
	# of its own: a library that is preloaded can't be loaded in another form
	my $faulty = new_node('faulty', conf => "autovacuum = off\n");

	$faulty->safe_psql('postgres', q{
		CREATE EXTENSION idempotency;
		CREATE TABLE effect (key text, step text);
		CREATE TABLE undone (key text, step text);
		CREATE FUNCTION undo(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			DELETE FROM effect WHERE key = context->>'key' AND step = context->>'step';
			INSERT INTO undone VALUES (context->>'key', context->>'step');
		END $$;
		SELECT idempotency.configure('saga', backoff_base => '1 ms', backoff_cap => '1 ms', max_attempts => 1000);
	});
	use_test_library($faulty);
	foreach my $point (qw(saga.after_step saga.before_begin saga.after_begin saga.before_handler saga.after_handler saga.before_settle saga.after_settle))
	{
		foreach my $action (qw(error fatal))
		{
			my $key = "$point:$action";
			my $try = sub {
				my ($sql) = @_;
				my ($out, $err) = ('', '');

				$faulty->psql('postgres', "SET idempotency.fault = '$point:$action'; $sql", stdout => \$out, stderr => \$err, on_error_die => 0, on_error_stop => 1);
				return $err =~ /ERROR|FATAL/ ? 0 : 1;
			};
			my $fence = $faulty->safe_psql('postgres', "SELECT fence FROM idempotency.claim('saga', '$key', lease => '1 minute')");
			my @calls = (
				"BEGIN; SELECT idempotency.compensate_with('saga', '$key', $fence, 's1', 'undo(text,jsonb)'); INSERT INTO effect VALUES ('$key', 's1'); COMMIT",
				"SELECT idempotency.compensate('saga', '$key', $fence, 'test')",
				'SELECT * FROM idempotency.run_compensations(1)');

			foreach my $call (@calls)
			{
				next if $try->($call);
				(my $rest = $call) =~ s/^/SELECT 1; /;
				$faulty->safe_psql('postgres', $rest);
			}
			foreach my $again (1 .. 200)
			{
				last if $faulty->safe_psql('postgres', "SELECT state = 'compensated' FROM idempotency.sagas WHERE key = '$key'") eq 't';
				$faulty->safe_psql('postgres', 'SELECT * FROM idempotency.run_compensations(1)');
				sleep(0.01);
			}
			is($faulty->safe_psql('postgres', "SELECT (SELECT state FROM idempotency.sagas WHERE key = '$key') || ' ' || (SELECT count(*) FROM effect WHERE key = '$key')
				|| ' ' || (SELECT count(*) FROM undone WHERE key = '$key')"), 'compensated 0 1', "$key: undone once");
		}
	}
	is($faulty->safe_psql('postgres', 'SELECT count(*) FROM idempotency.verify()'), 0, 'verify() finds nothing');

	# a key whose saga isn't over outlives its retention, and every rotation
	$faulty->safe_psql('postgres', q{
		SELECT idempotency.configure('short', retention => '1 min', max_lease => '1 min');
		SELECT idempotency.compensate_with('short', key, c.fence, 's1') FROM (VALUES ('undone'), ('failed'), ('forever')) AS k(key),
			LATERAL idempotency.claim('short', key, lease => '1 min') AS c;
		SELECT idempotency.finish('short', 'other', 'x') FROM idempotency.claim('short', 'other');
		SELECT idempotency.compensate('short', key, fence) FROM idempotency.activity WHERE scope = 'short' AND key <> 'forever';
		SELECT idempotency.settle_compensation('short', n.key, n.step, n.fence, false, 'no', false) FROM idempotency.next_compensation('short') AS n;
	});
	my $truncated = 0;
	foreach my $hours (1 .. 20)
	{
		my $later = 'SET idempotency.clock_offset = ' . $hours * 3600;

		$truncated += $faulty->safe_psql('postgres', "$later; SELECT count(*) FROM idempotency.maintain() WHERE result = 'truncated'");
		is($faulty->safe_psql('postgres', "$later; SELECT string_agg(outcome || ' ' || reason, ', ') FROM (VALUES ('undone'), ('failed'), ('forever')) AS k(key),
			LATERAL idempotency.claim('short', key, lease => '1 s')"), join(', ', ('in_progress compensating') x 3), "after $hours hours nobody executes it");
	}
	cmp_ok($truncated, '>', 1, "though $truncated tables were truncated");
	is($faulty->safe_psql('postgres', q{SET idempotency.clock_offset = 72000; SELECT reason FROM idempotency.sagas WHERE key = 'forever'}), 'abandoned', 'what nobody resumed is undone');
	is($faulty->safe_psql('postgres', q{SET idempotency.clock_offset = 72000;
		SELECT outcome FROM idempotency.next_compensation('short') AS n, LATERAL idempotency.settle_compensation('short', n.key, n.step, n.fence)}), 'compensated', 'and it can still be undone');
	is($faulty->safe_psql('postgres', q{SET idempotency.clock_offset = 72000;
		SELECT count(*) FROM (VALUES ('undone'), ('failed'), ('forever')) AS k(key), LATERAL idempotency.claim('short', key, lease => '1 s') WHERE failed}), 1, 'and has failed then');
	is($faulty->safe_psql('postgres', 'SELECT count(*) FROM idempotency.verify()'), 0, 'verify() finds nothing');
	$faulty->stop;
}

#----------------------------------------------------------------------
# prepared transactions
#----------------------------------------------------------------------
my $fence = sql(q{SELECT fence FROM idempotency.claim('saga', 'prepared', lease => '1 minute')});
sql("BEGIN; SELECT idempotency.compensate_with('saga', 'prepared', $fence, 's1', 'undo(text,jsonb)'); PREPARE TRANSACTION 'saga'");
is(sql(q{SELECT outcome FROM idempotency.claim('saga', 'prepared', lease => '1 s', wait => '0')}), 'in_progress', 'a prepared step holds the key');
$node->restart;
sql("COMMIT PREPARED 'saga'");
is(sql(q{SELECT step FROM idempotency.steps('saga', 'prepared')}), 's1', 'it is registered when that is committed');
sql("BEGIN; SELECT idempotency.compensate('saga', 'prepared', $fence); PREPARE TRANSACTION 'saga'");
sql("ROLLBACK PREPARED 'saga'");
is(sql(q{SELECT state FROM idempotency.sagas WHERE key = 'prepared'}), 'running', 'and not compensated when that is rolled back');

#----------------------------------------------------------------------
# dump and restore into another database; promotion
#----------------------------------------------------------------------
$fence{moved} = begin_saga('moved', 'undo', 2, role => 'alice');
sql(q{ALTER ROLE alice NOLOGIN});
sql(q{SELECT idempotency.configure('saga', max_attempts => 1000)});
compensate('moved', $fence{moved});
ok(comes_true(q{SELECT attempt > 0 FROM idempotency.saga_steps WHERE key = 'moved' AND step = 's2'}), 'it can not be undone here');
my $dump = $node->backup_dir . '/saga.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'dump');
sql('CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('restored'), $dump ], 'restore');
is($node->safe_psql('restored', q{SELECT state || ' ' || steps FROM idempotency.sagas WHERE key = 'moved'}), 'compensating 2', 'the saga is there');
sql(q{ALTER ROLE alice LOGIN});
ok(comes_true(q{SELECT state = 'compensated' FROM idempotency.sagas WHERE key = 'moved'}), 'it goes on in the old database');
ok($node->poll_query_until('restored', q{SELECT state = 'compensated' FROM idempotency.sagas WHERE key = 'moved'}), '... and in the new one');
is($node->safe_psql('restored', q{SELECT string_agg(step || role, ' ' ORDER BY ctid) FROM undone WHERE key = 'moved'}), 's2alice s1alice', '... by the role of that name');

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$fence{promoted} = begin_saga('promoted', 'undo', 2, role => 'alice');
sql(q{ALTER ROLE alice NOLOGIN});
compensate('promoted', $fence{promoted});
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', q{SELECT count(*) FROM idempotency.steps('saga', 'promoted')}), 2, 'a standby shows the steps');
is(sqlstate($standby, "SELECT * FROM idempotency.$_"), '25006', "refused on a standby: $_")
  foreach q{compensate_with('saga', 'k', 1, 's')}, q{step_done('saga', 'k', 1, 's')}, q{compensate('saga', 'k', 1)},
  q{next_compensation('saga')}, q{settle_compensation('saga', 'k', 's', 1)}, q{run_compensations()}, q{retry_compensation('saga', 'k', 'r')};
$node->stop('immediate');
$standby->promote;
$standby->safe_psql('postgres', 'ALTER ROLE alice LOGIN');
ok($standby->poll_query_until('postgres', q{SELECT state = 'compensated' FROM idempotency.sagas WHERE key = 'promoted'}), 'it goes on after a promotion');
is($standby->safe_psql('postgres', q{SELECT string_agg(step, ' ' ORDER BY ctid) FROM undone WHERE key = 'promoted'}), 's2 s1', '... each step once');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM idempotency.verify()'), 0, 'verify() finds nothing');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 11/, 'nothing broke');

done_testing();
