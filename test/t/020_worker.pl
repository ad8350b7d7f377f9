# The worker: where it runs, when it makes way, what it survives, what it does.
#
# A database that has the extension has one worker, if the server preloads the
# library; nobody has to wait for it, and it is in nobody's way.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use File::Basename;
use IdempotencyTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $conf = q{
shared_preload_libraries = 'idempotency'
max_worker_processes = 12
autovacuum = off
};

# The first column of the first row of workers for this database.
sub worker
{
	my ($node, $what, $db) = @_;

	return $node->safe_psql('postgres',
		"SELECT $what FROM idempotency.workers WHERE database = '" . ($db // 'postgres') . q{'});
}

# Wait until the query is true; returns after how many seconds, or -1.
sub seconds_until
{
	my ($node, $query, $limit) = @_;
	my $begin = time();

	while (time() - $begin < ($limit // 30))
	{
		return time() - $begin if $node->safe_psql('postgres', $query) eq 't';
		sleep(0.05);
	}
	return -1;
}

# Wait until the database's worker is in this state.
sub becomes
{
	my ($node, $state, $db, $limit) = @_;

	$db //= 'postgres';
	return seconds_until($node, "SELECT coalesce((SELECT state FROM idempotency.workers
		WHERE database = '$db'), 'none') = '$state'", $limit) >= 0;
}

# How many processes of ours there are.
sub processes
{
	my ($node, $type) = @_;

	return $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'idempotency $type'");
}

# Change a setting of the server.
sub setting
{
	my ($node, $name, $value) = @_;

	$node->safe_psql('postgres', defined $value ? "ALTER SYSTEM SET $name = '$value'" : "ALTER SYSTEM RESET $name");
	$node->reload;
	return;
}

# Run a command; it must succeed, and within five seconds.
sub quick
{
	my ($node, $sql, $what, $db) = @_;
	my $begin = time();
	my $status = $node->psql($db // 'postgres', $sql);
	my $took = time() - $begin;

	ok($status == 0 && $took < 5, sprintf('%s: %.1f s', $what, $took));
	return;
}

# How often does the log have it, from this offset on?
sub logged
{
	my ($node, $pattern, $from) = @_;
	my $log = substr(slurp_file($node->logfile), $from // 0);

	return scalar(() = $log =~ /$pattern/g);
}

#----------------------------------------------------------------------
# a server that doesn't preload the library
#----------------------------------------------------------------------
{
	my $node = new_node('plain');

	install_app($node);
	is($node->safe_psql('postgres', 'SELECT count(*) FROM idempotency.workers'),
		'0', 'not preloaded: no workers');
	is($node->safe_psql('postgres', 'SELECT idempotency.worker_start()'),
		'f', 'not preloaded: worker_start() says so');
	like($node->safe_psql('postgres', q{SELECT deliver('k')}), qr/^execute/, 'not preloaded: claims work');
	is(processes($node, 'launcher') + processes($node, 'worker'), 0, 'not preloaded: no process');
	$node->stop;
}

my $node = new_node('preloaded', conf => "$conf\nallow_in_place_tablespaces = on\nrestart_after_crash = on\n");

#----------------------------------------------------------------------
# it starts with CREATE EXTENSION, and ends with DROP EXTENSION
#----------------------------------------------------------------------
is(processes($node, 'launcher'), 1, 'the launcher runs');
$node->safe_psql('postgres', 'BEGIN; CREATE EXTENSION idempotency; ROLLBACK');
sleep(0.5);
is(processes($node, 'worker'), 0, 'no worker for a CREATE EXTENSION that was rolled back');

install_app($node);
my $took = seconds_until($node, q{SELECT state = 'running' FROM idempotency.workers});
ok($took >= 0 && $took < 1, sprintf('it starts with CREATE EXTENSION: after %.2f s', $took));
is( $node->safe_psql('postgres', q{
		SELECT w.database = a.datname, a.backend_type, started_at <= last_round_at, last_error IS NULL
		FROM idempotency.workers AS w JOIN pg_stat_activity AS a USING (pid)}),
	't|idempotency worker|t|t', 'the view tells of it');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM pg_locks JOIN idempotency.workers USING (pid)}),
	'0', 'it holds no lock between rounds');
is( $node->safe_psql('postgres', q{
		SELECT has_table_privilege('pg_monitor', 'idempotency.workers', 'SELECT'),
			has_function_privilege('pg_monitor', 'idempotency.workers()', 'EXECUTE'),
			has_function_privilege('pg_monitor', 'idempotency.worker_start()', 'EXECUTE')}),
	'f|f|f', 'nobody is let in without a grant');

{
	my $dropper = session($node);

	$dropper->query_safe('BEGIN; DROP EXTENSION idempotency CASCADE');
	sleep(2.5);
	is($dropper->query_safe("SELECT count(*) FROM pg_stat_activity
			WHERE backend_type = 'idempotency worker' AND wait_event_type = 'Lock'"),
		'0', 'a DROP EXTENSION that is open does not stop it');
	$dropper->query_safe('ROLLBACK');
	ok(becomes($node, 'running'), '... and once it is rolled back, all is well');
	$dropper->quit;
}
quick($node, 'DROP EXTENSION idempotency CASCADE', 'DROP EXTENSION');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity
	WHERE backend_type = 'idempotency worker'}) or die 'the worker did not end';
pass('it ends when the extension is gone');
$node->safe_psql('postgres', 'DROP TABLE effect; DROP FUNCTION deliver');
foreach my $turn (1 .. 5)
{
	$node->safe_psql('postgres', 'CREATE EXTENSION idempotency');
	sleep(rand() * 1.5);
	$node->safe_psql('postgres', 'DROP EXTENSION idempotency');
}
install_app($node);
ok(becomes($node, 'running'), 'after some quick changes it runs again');
is(processes($node, 'worker'), 1, '... once');

#----------------------------------------------------------------------
# whoever wants the database for himself gets it, however long the naptime
#----------------------------------------------------------------------
setting($node, 'idempotency.naptime', '1h');
sleep(1.5);
$node->safe_psql('postgres', 'CREATE DATABASE shop');
install_app($node, 'shop');
ok(becomes($node, 'running', 'shop'), 'a second database has its worker');
quick($node, 'CREATE DATABASE copied TEMPLATE shop', 'CREATE DATABASE ... TEMPLATE');
ok(becomes($node, 'running', 'shop'), '... and the worker comes back');
is(worker($node, 'count(*)', 'copied'), '0', 'nobody has used the copy yet');
like($node->safe_psql('copied', q{SELECT deliver('k')}), qr/^execute/, 'a claim in the copy');
ok(becomes($node, 'running', 'copied'), '... and it has a worker');
quick($node, 'ALTER DATABASE copied RENAME TO renamed', 'ALTER DATABASE ... RENAME');
ok(becomes($node, 'running', 'renamed'), '... and the worker comes back');
$node->safe_psql('postgres', q{CREATE TABLESPACE elsewhere LOCATION ''});
quick($node, 'ALTER DATABASE renamed SET TABLESPACE elsewhere', 'ALTER DATABASE ... SET TABLESPACE');
ok(becomes($node, 'running', 'renamed'), '... and the worker comes back');
my $offset = -s $node->logfile;
quick($node, 'DROP DATABASE renamed', 'DROP DATABASE');
sleep(2.5);
is($node->safe_psql('postgres', 'SELECT count(*) FROM idempotency.workers'),
	'2', '... and nothing is left of its worker');
is(logged($node, 'FATAL', $offset), 0, '... nor was it started into the drop');
quick($node, 'DROP DATABASE shop WITH (FORCE)', 'DROP DATABASE ... WITH (FORCE)');

$node->safe_psql('postgres', 'CREATE DATABASE model IS_TEMPLATE true');
$node->safe_psql('model', 'CREATE EXTENSION idempotency');
sleep(1);
is(worker($node, 'count(*)', 'model'), '0', 'no worker in a template');
$node->safe_psql('postgres', 'CREATE DATABASE shop TEMPLATE model');
$node->safe_psql('shop', q{SELECT idempotency.once('s', 'k')});
ok(becomes($node, 'running', 'shop'), 'but in what was made from it');
setting($node, 'idempotency.naptime', '100ms');
$node->safe_psql('postgres', 'ALTER DATABASE shop IS_TEMPLATE true');
ok(becomes($node, 'none', 'shop'), 'it leaves what has become a template');
$node->safe_psql('postgres', 'ALTER DATABASE shop IS_TEMPLATE false');
$node->safe_psql('shop', 'SELECT idempotency.worker_start()');
ok(becomes($node, 'running', 'shop'), 'and can be asked back');
$node->safe_psql('postgres', 'ALTER DATABASE shop ALLOW_CONNECTIONS false');
ok(becomes($node, 'none', 'shop'), 'it leaves what is closed to connections');
$node->safe_psql('postgres', 'ALTER DATABASE shop ALLOW_CONNECTIONS true');
$node->safe_psql('shop', 'SELECT idempotency.worker_start()');
ok(becomes($node, 'running', 'shop'), 'and comes back when it is open again');

#----------------------------------------------------------------------
# signals
#----------------------------------------------------------------------
my $pid = worker($node, 'pid');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid) FROM generate_series(1, 20)");
sleep(0.5);
is(worker($node, 'pid'), $pid, 'a cancel does not harm it');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
$took = seconds_until($node, "SELECT pid <> $pid AND state = 'running' FROM idempotency.workers WHERE database = 'postgres'");
ok($took >= 0 && $took < 5, sprintf('terminated, it comes back after %.1f s', $took));

$pid = worker($node, 'pid');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE backend_type = 'idempotency launcher'});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity
		WHERE backend_type = 'idempotency launcher'}), 'the launcher can be terminated');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'idempotency launcher'}), '... and comes back');
sleep(1);
is(worker($node, 'pid'), $pid, '... with the workers as they were');
is(processes($node, 'worker'), 2, '... each once');

foreach my $type ('worker', 'launcher')
{
	my $victim = $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'idempotency $type' LIMIT 1");

	kill_backend($node, $victim);
	ok(becomes($node, 'running'), "after a kill -9 of the $type the workers come back");
	ok(becomes($node, 'running', 'shop'), '... all of them');
	is( $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $victim"),
		'0', '... with new processes');
	like($node->safe_psql('postgres', "SELECT deliver('after $type')"), qr/^execute/, '... and claims go on');
}

#----------------------------------------------------------------------
# a stop, and a start
#----------------------------------------------------------------------
{
	my $begin = time();

	$node->stop('fast');
	cmp_ok(time() - $begin, '<', 5, 'a fast stop is fast');
	$node->start;
	ok(becomes($node, 'running', 'shop'), 'after a start each database is tried, and has its worker');
	ok(becomes($node, 'running'), '... each');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM idempotency.workers'), '2', '... that is to have one');
}

#----------------------------------------------------------------------
# an idle worker costs nothing
#----------------------------------------------------------------------
SKIP:
{
	setting($node, 'idempotency.naptime');
	$node->safe_psql('postgres', q{
		SELECT idempotency.configure('p', retention => 'infinity');
		SELECT idempotency.configure('m', retention => '50 days');
		SELECT idempotency.configure('w', retention => '10 days');
		SELECT idempotency.configure('s', retention => '1 h');
		SELECT count(idempotency.once(s, i::text))
		FROM unnest('{p,m,w,d,s}'::text[]) AS s, generate_series(1, 300) AS i});
	sleep(2.5);
	$node->safe_psql('postgres', 'VACUUM; CHECKPOINT');
	my $state = 'SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot())';
	my $cpu = '/proc/' . worker($node, 'pid') . '/schedstat';

	ok($node->poll_query_until('postgres', q{
			SELECT set_config('t.before', pg_current_wal_insert_lsn()::text, false) IS NOT NULL
				AND pg_sleep(1.2) IS NOT NULL
				AND current_setting('t.before') = pg_current_wal_insert_lsn()::text}),
		'the server settles');
	my $before = $node->safe_psql('postgres', $state);
	my ($used) = -r $cpu ? split(/ /, slurp_file($cpu)) : ();
	my $rounds = worker($node, 'rounds');
	my $begin = time();
	sleep(10);
	my $elapsed = time() - $begin;
	is($node->safe_psql('postgres', $state), $before, 'idle: no WAL, no transaction id');
	cmp_ok(worker($node, 'rounds') - $rounds, '>=', 8, 'idle: it has made its rounds');
	skip 'this system does not say how much of a processor a process uses', 1 unless defined $used;
	($used) = (split(/ /, slurp_file($cpu)))[0] - $used;
	my $percent = $used / $elapsed / 1e7;
	cmp_ok($percent, '<', 0.1, sprintf('idle: it uses %.3f %% of a processor', $percent));
}

#----------------------------------------------------------------------
# the extension is of another version
#----------------------------------------------------------------------
{
	$offset = -s $node->logfile;
	$node->safe_psql('postgres', q{UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'idempotency';
		SELECT pg_terminate_backend(pid) FROM idempotency.workers WHERE database = 'postgres'});
	ok(becomes($node, 'failing'), 'another version: it does nothing');
	is(worker($node, 'last_error'), '55000', '... and says why');
	is(worker($node, 'state', 'shop'), 'running', '... while others work');
	sleep(5);
	cmp_ok(worker($node, 'failures'), '>=', 2, '... it has tried again');
	cmp_ok(worker($node, 'failures'), '<=', 4, '... but not all the time');
	is(logged($node, 'ERROR:  library "idempotency" has version', $offset), 1, '... the log has it once');
	$node->safe_psql('postgres', q{UPDATE pg_extension SET extversion = '0.1.0' WHERE extname = 'idempotency'});
	ok(becomes($node, 'running'), '... the right version again: it works');
}

#----------------------------------------------------------------------
# pg_upgrade starts servers in a mode of their own
#----------------------------------------------------------------------
{
	$node->stop;
	command_ok([ 'pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, '-o', '-b', 'start' ],
		'a start as pg_upgrade makes it');
	$node->_update_pid(1);
	$node->safe_psql('postgres', 'SELECT idempotency.worker_start()');
	sleep(1);
	is(processes($node, 'launcher') + processes($node, 'worker'), 0, '... without workers');
	$node->stop;
}

#----------------------------------------------------------------------
# no free slot for a worker
#----------------------------------------------------------------------
{
	# one is the launcher's, one logical replication's
	$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
	$offset = -s $node->logfile;
	$node->start;
	$node->poll_query_until('postgres', q{SELECT count(*) = 2 AND count(pid) = 1 FROM idempotency.workers
		WHERE state IN ('running', 'waiting')}) or die 'no worker started, or no other waits';
	pass('one slot: one worker runs, the other waits');
	my ($has, $waits) = split /,/, $node->safe_psql('postgres',
		q{SELECT string_agg(database, ',' ORDER BY pid) FROM idempotency.workers});
	$node->safe_psql($waits, q{SELECT idempotency.once('s', 'waits')});
	pass('... claims go on');
	sleep(4);
	is(logged($node, 'no background worker is free', $offset), 1, '... the log has it once');
	$node->safe_psql($has, 'DROP EXTENSION idempotency CASCADE');
	$node->safe_psql($has, 'SELECT pg_sleep(1.5)');
	$node->poll_query_until($waits, q{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'idempotency worker' AND datname = current_database()})
	  or die 'the one that waited did not start';
	pass('a slot is free: the one that waited starts');
	$node->stop;
	$node->append_conf('postgresql.conf', 'max_worker_processes = 1');
	$node->start;
	$node->safe_psql($waits, q{SELECT idempotency.once('s', 'alone')});
	is( $node->safe_psql($waits, 'SELECT state, pid FROM idempotency.workers'),
		'waiting|', 'no room for the launcher: the server runs, claims go on, the view says it');
	$node->stop;
}

#----------------------------------------------------------------------
# a standby
#----------------------------------------------------------------------
{
	my $primary = new_node('primary', init => [ allows_streaming => 1 ], conf => $conf);
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	install_app($primary);
	ok(becomes($primary, 'running'), 'the primary has a worker');
	$primary->backup('base');
	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;
	is($standby->safe_psql('postgres', q{SELECT count(*) FROM idempotency.peek('app', 'k')}),
		'0', 'a standby reads');
	sleep(1);
	is(processes($standby, 'launcher') + processes($standby, 'worker'), 0, '... without workers');
	is($standby->safe_psql('postgres', 'SELECT count(*) FROM idempotency.workers'), '0', '... and its view is empty');
	is($standby->safe_psql('postgres', 'SELECT idempotency.worker_start()'), 'f', '... whoever asks');
	$standby->promote;
	ok(becomes($standby, 'running'), 'once promoted it has one');
	$primary->stop;
	$standby->stop;
}

#----------------------------------------------------------------------
# what it does, on the library with fault points
#----------------------------------------------------------------------
my $testlib = have_test_library();
if (!defined $testlib)
{
	note('the library with fault points is not built (make testlib)');
	done_testing();
	exit;
}

my $clocked = new_node('clocked');
install_app($clocked);
use_test_library($clocked);
$clocked->append_conf('postgresql.conf', "$conf
	dynamic_library_path = '" . dirname($testlib) . ":\$libdir'
	idempotency.naptime = '200ms'");
$clocked->restart;
ok(becomes($clocked, 'running'), 'with fault points: it runs');
$clocked->safe_psql('postgres', q{SELECT idempotency.configure('app', retention => '1 h')});

# What others may have left about, for the worker to stumble over.
$clocked->safe_psql('postgres', q{
	CREATE TABLE stumbled (who text, what text);
	CREATE FUNCTION public.trap(text, text) RETURNS bool LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.stumbled VALUES (current_user, 'operator'); RETURN true; END $$;
	CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.trap);
	CREATE FUNCTION public.int8mod(int8, int8) RETURNS int8 LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.stumbled VALUES (current_user, 'function'); RETURN 0; END $$;
	CREATE TABLE public.segment_state (name text, epoch int8, next_block int8);
	CREATE FUNCTION public.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.stumbled VALUES (current_user, tg_tag); END $$;
	ALTER ROLE postgres SET search_path = public, pg_catalog;
	ALTER DATABASE postgres SET default_transaction_read_only = on;
	ALTER DATABASE postgres SET default_transaction_isolation = serializable;
	ALTER DATABASE postgres SET statement_timeout = 1;
	ALTER DATABASE postgres SET lock_timeout = 1;
	CREATE EVENT TRIGGER on_start ON ddl_command_start EXECUTE FUNCTION public.on_ddl();
	CREATE EVENT TRIGGER on_end ON ddl_command_end EXECUTE FUNCTION public.on_ddl();
	CREATE EVENT TRIGGER on_rewrite ON table_rewrite EXECUTE FUNCTION public.on_ddl();
} =~ s/current_user/current_user::text/gr);
my $superuser = $clocked->safe_psql('postgres', 'SELECT current_user');
$clocked->safe_psql('template1', "ALTER ROLE \"$superuser\" IN DATABASE postgres SET search_path = public, pg_catalog");
$clocked->safe_psql('template1', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE backend_type = 'idempotency worker'});

# A session that is free of all that.
$ENV{PGOPTIONS} = '-c search_path=pg_catalog,public -c default_transaction_read_only=off'
  . ' -c default_transaction_isolation=read\ committed -c statement_timeout=0 -c lock_timeout=0';
ok(becomes($clocked, 'running'), 'it runs again, among hostile objects');

my $width = 7200;
my $started = time();

# Set the server's clock to s seconds into the nth epoch of the short ring.
sub set_clock
{
	my ($epoch, $seconds) = @_;
	my $boundary = $started - $started % $width + $width;

	setting($clocked, 'idempotency.clock_offset', int($boundary + $epoch * $width + $seconds - time()));
	return;
}

my $old = q{SELECT count(*) = 0 FROM idempotency.keys WHERE scope = 'app' AND key LIKE 'old-%'};

set_clock(0, 3000);
sleep(0.5);
$clocked->safe_psql('postgres', q{SELECT deliver('old-' || i) FROM generate_series(1, 300) AS i});
{
	my $bench = start_pgbench($clocked, "\\set k random(1, 20000)\nSELECT deliver('load-:k');\n",
		clients => 4, seconds => 8, options => $ENV{PGOPTIONS});
	my $table = $clocked->safe_psql('postgres', q{SELECT min(segment) FROM idempotency.keys WHERE key = 'old-1'});

	foreach my $epoch (1 .. 5)
	{
		set_clock($epoch, 3600);
		sleep(1.2);
	}
	wait_pgbench($bench);
	is($bench->{status}, 0, 'rotation under load: no error');
	unlike($bench->{err}, qr/ERROR/, '... none at all');
	ok(seconds_until($clocked, $old) >= 0, '... what has expired is gone');
	like($clocked->safe_psql('postgres', 'SELECT string_agg(name, chr(32)) FROM idempotency.segment_state'),
		qr/\b$table\b/, '... its table was truncated');
	is(worker($clocked, 'failures'), '0', '... without a failure');
	is(worker($clocked, 'state'), 'running', '... of the worker');
}
is( $clocked->safe_psql('postgres', q{SELECT coalesce(string_agg(DISTINCT what, ','), '') FROM stumbled WHERE what NOT LIKE 'CREATE%'}),
	'', 'nothing of anybody ran');

# A table that somebody reads, as pg_dump does.
{
	my $reader = session($clocked);
	my $claimed;

	set_clock(10, 3600);
	sleep(0.5);
	$clocked->safe_psql('postgres', q{SELECT deliver('old-' || i) FROM generate_series(1, 300) AS i});
	my $table = $clocked->safe_psql('postgres', q{SELECT min(segment) FROM idempotency.keys WHERE key = 'old-1'});
	$reader->query_safe("BEGIN; LOCK TABLE idempotency.$table IN ACCESS SHARE MODE");
	set_clock(12, 3600);
	$claimed = time();
	foreach my $n (1 .. 200)
	{
		$clocked->safe_psql('postgres', "SELECT deliver('beside-$n')") if $n % 10 == 0;
		is($clocked->safe_psql('postgres', q{SELECT count(*) FROM pg_locks JOIN idempotency.workers USING (pid)
				WHERE NOT granted}), '0', 'it queues for no lock') if $n % 50 == 0;
	}
	is($clocked->safe_psql('postgres', $old), 'f', 'a table that is being read is not truncated');
	is(worker($clocked, 'failures'), '0', '... which is no failure');
	$reader->query_safe('COMMIT');
	ok(seconds_until($clocked, $old) >= 0, '... but later');
	$reader->quit;
}

# An error, in what it does and around it.
sub fails_and_recovers
{
	my ($fault, $pattern, $what) = @_;
	my $from = -s $clocked->logfile;

	setting($clocked, 'idempotency.fault', $fault);
	ok(becomes($clocked, 'failing'), "$what: it fails");
	sleep(4);
	like($clocked->safe_psql('postgres', "SELECT deliver('at ' || clock_timestamp())"), qr/^execute/,
		'... claims go on');
	is(logged($clocked, "ERROR:  $pattern", $from), 1, '... the log has it once');
	setting($clocked, 'idempotency.fault');
	ok(becomes($clocked, 'running'), '... and it recovers');
	return;
}

fails_and_recovers('worker.step:error', 'fault at worker.step', 'an error outside of the duties');
is(worker($clocked, 'last_error'), 'XX000', '... and the view remembers it');
set_clock(20, 3600);
sleep(0.5);
$clocked->safe_psql('postgres', q{SELECT deliver('old-' || i) FROM generate_series(1, 300) AS i});
$pid = worker($clocked, 'pid');
setting($clocked, 'idempotency.fault', 'sweep.after_select:error');
set_clock(22, 3600);
fails_and_recovers('sweep.after_select:error', 'fault at sweep.after_select', 'an error in a duty');
ok(seconds_until($clocked, $old) >= 0, '... and does what it could not do');
is(worker($clocked, 'pid'), $pid, 'all in one process');

$offset = -s $clocked->logfile;
setting($clocked, 'idempotency.fault', 'worker.step:fatal');
sleep(5);
setting($clocked, 'idempotency.fault');
ok(becomes($clocked, 'running'), 'an error that ends it: it comes back');
my $ends = logged($clocked, 'FATAL:  fault at worker.step', $offset);
ok($ends >= 1 && $ends <= 4, "... more and more slowly ($ends times in 5 s)");

# a claim that ends with an error while the limit counts leases holds no place
$clocked->safe_psql('postgres', q{SELECT FROM idempotency.configure('places', limit_running => 1)});
for my $n (1 .. 3)
{
	my ($status, undef, $error) = $clocked->psql('postgres', qq{
		SET idempotency.fault = 'limit.count:error';
		SELECT outcome FROM idempotency.claim('places', 'failed-$n', lease => '1 min')},
		on_error_stop => 1);
	like($error, qr/fault at limit\.count/, "an error while leases are counted, $n");
}
is($clocked->safe_psql('postgres', q{SELECT outcome FROM idempotency.claim('places', 'first', lease => '1 min')}),
	'execute', '... leaves the only place free');
is($clocked->safe_psql('postgres', q{SELECT outcome, reason FROM idempotency.claim('places', 'second', lease => '1 min')}),
	'retry_later|limit_running', '... and there is only that one');
$clocked->stop;
done_testing();
