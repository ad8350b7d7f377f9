# The outbox when things die, and over time.
#
# Producers commit events with effects while postmaster, backends and relays are
# killed, and emitting and reading fail at each fault point in each way: every
# committed event is read at least once, none that isn't committed, in the order
# of the positions, which within a key is the order of the commits.  Beside them
# a naive reader follows max(position), and misses events.
#
# Autovacuum is off: a table that it is busy with is emptied some other time.
#
# Then time passes: tables are emptied when everybody has seen what they hold,
# and a relay that stays behind is told what it has lost.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $kills = $ENV{IDEMPOTENCY_CRASHES} // 5;

plan skip_all => 'there is no library with fault points' unless have_test_library();
my $node = new_node('outbox', conf => "restart_after_crash = on\nwal_level = logical\nautovacuum = off\n");

install_app($node);
use_test_library($node);
$node->safe_psql('postgres', q{
	CREATE TABLE work (id text, key int, n int, at timestamptz DEFAULT clock_timestamp());
	CREATE TABLE seen (n bigserial, who text, id text, "position" bigint, key text, payload text);
	-- emit as part of work; per key, the numbers are those of the commits
	CREATE TABLE counter (key int PRIMARY KEY, n int);
	INSERT INTO counter SELECT k, 0 FROM generate_series(0, 3) AS k;
	CREATE FUNCTION produce(k int, pause float8 DEFAULT 0) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		m int;
		e text;
	BEGIN
		UPDATE counter SET n = n + 1 WHERE key = k RETURNING n INTO m;
		e := idempotency.emit('work', 'done', m::text, k::text);
		INSERT INTO work (id, key, n) VALUES (e, k, m);
		RETURN e;
	END $$;
	-- what a relay does; publishing is an insert of its own, before the ack
	CREATE PROCEDURE relay(who text, batch int DEFAULT 20, lease interval DEFAULT '200 ms') LANGUAGE plpgsql AS $$
	DECLARE
		rows record;
	BEGIN
		SELECT array_agg(r.event_id) AS ids, array_agg(r."position") AS positions, array_agg(r.key) AS keys,
				array_agg(r.payload) AS payloads, max(r."position") AS upto, max(r.fence) AS fence
			INTO rows FROM idempotency.outbox_read(who, 'work', batch, lease) AS r;
		COMMIT;
		IF rows.upto IS NULL THEN
			RETURN;
		END IF;
		INSERT INTO seen (who, id, "position", key, payload)
			SELECT who, * FROM unnest(rows.ids, rows.positions, rows.keys, rows.payloads);
		COMMIT;
		PERFORM idempotency.outbox_ack(who, rows.upto, rows.fence);
	END $$;
	-- what not to do
	CREATE PROCEDURE naive() LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO seen (who, id, "position")
			SELECT 'naive', id, "position" FROM idempotency.outbox
			WHERE "position" > (SELECT coalesce(max(s."position"), 0) FROM seen AS s WHERE who = 'naive');
	END $$;
});

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Read until there is nothing more.
sub drain
{
	my ($who) = @_;
	my $until = time + 30;

	while (time < $until)
	{
		$node->psql('postgres', "CALL relay('$who', 1000)", on_error_die => 0);
		return if sql("SELECT coalesce(max(lag_events), 1) = 0 FROM idempotency.relays WHERE relay = '$who'") eq 't';
		sleep(0.05);
	}
	die "$who does not come to an end";
}

# Is everything that was promised there?
sub check_seen
{
	my ($who, $when) = @_;

	drain($who);
	is(sql("SELECT count(*) FROM work AS w WHERE NOT EXISTS (SELECT FROM seen AS s WHERE s.who = '$who' AND s.id = w.id)"),
		'0', "$when: every committed event was read");
	is(sql("SELECT count(*) FROM seen AS s WHERE who = '$who' AND NOT EXISTS (SELECT FROM work AS w WHERE w.id = s.id)"),
		'0', "$when: no other was");
	# the first time that each was seen
	is( sql(qq{
			SELECT count(*) FROM (
				SELECT "position", lag("position") OVER (ORDER BY n) AS before,
					payload::int AS m, lag(payload::int) OVER (PARTITION BY key ORDER BY n) AS before_m
				FROM (SELECT DISTINCT ON (id) * FROM seen WHERE who = '$who' ORDER BY id, n) AS f) AS o
			WHERE "position" <= before OR m <= before_m}),
		'0', "$when: in the order of positions, and of commits within a key");
	return;
}

#----------------------------------------------------------------------
# each fault point, in each way
#----------------------------------------------------------------------

# Execute a statement with a fault, and wait for the server if that kills it.
sub with_fault
{
	my ($fault, $statement) = @_;
	my $out;

	$node->psql('postgres', "SELECT pg_backend_pid(); SELECT idempotency.policy('*') IS NULL; SET idempotency.fault = '$fault'; $statement;",
		stdout => \$out, on_error_die => 0);
	kill_backend($node, $1) if $fault =~ /:kill$/ && $out =~ /^(\d+)$/m;
	return;
}

foreach my $point (qw(outbox.before_position outbox.after_position outbox.before_insert outbox.after_write))
{
	foreach my $action (qw(error kill))
	{
		my $before = sql('SELECT count(*) FROM work');
		my $emit = $point eq 'outbox.before_insert'
		  ? q{WITH e AS (SELECT idempotency.emit('work', 'done', n::text, '9', event_id => 'given ' || n) AS id, n FROM (SELECT count(*) AS n FROM work) AS c)
			INSERT INTO work (id, key, n) SELECT id, 9, n FROM e}
		  : q{SELECT produce(0)};
		with_fault("$point:$action", $emit);
		is(sql('SELECT count(*) FROM work'), $before, "$point:$action: nothing was committed");
		sql($emit);
	}
}
check_seen('faults', 'emitting fails');
foreach my $point (qw(outbox.before_cursor outbox.after_cursor outbox.before_ack outbox.after_ack))
{
	foreach my $action (qw(error kill))
	{
		sql('SELECT produce(1) FROM generate_series(1, 3)');
		with_fault("$point:$action", q{CALL relay('faults')});
		check_seen('faults', "$point:$action");
	}
}

#----------------------------------------------------------------------
# under load, with crashes
#----------------------------------------------------------------------
my $load = q{
\set k random(0, 3)
\set pause random(1, 20)
BEGIN;
SELECT produce(:k);
COMMIT;
};
# transactions that emit early in their lives, as naive readers need them
my $slow = q{
BEGIN;
SELECT count(idempotency.emit('slow', 'x', 'y')) FROM generate_series(1, 10001);
SELECT pg_sleep(0.1);
COMMIT;
};

# Clients that come back after each crash, until told to stop, or until the test
# has ended, however it ends.
my $is_loop;
my @loops;

END
{
	my $status = $?;

	kill 'TERM', @loops unless $is_loop;
	$? = $status;
}

sub start_loop
{
	my ($sql, $pause) = @_;
	my $pid = fork();

	die 'could not fork' unless defined $pid;
	return $pid if $pid;
	$is_loop = 1;
	$SIG{TERM} = sub { POSIX::_exit(0) };
	while (1)
	{
		my $in = "$sql\n" x 50;

		eval {
			IPC::Run::run(
				[ 'psql', '-X', '-q', '-d', $node->connstr('postgres') ],
				'<', \$in, '>', '/dev/null', '2>', '/dev/null');
		};
		sleep($pause);
	}
}

@loops = (
	(map { start_loop("SELECT produce($_);\nBEGIN; SELECT produce($_); ROLLBACK;", 0.01) } 0 .. 3),
	start_loop($slow, 0.2),
	start_loop("CALL relay('load');", 0.05),
	start_loop("CALL relay('load', 7);", 0.05),
	start_loop('CALL naive();', 0.05));

foreach my $round (1 .. $kills)
{
	sleep(0.7 + rand(0.6));
	if ($round % 2)
	{
		$node->kill9;
		try_start($node);
	}
	else
	{
		my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'
			AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1});
		kill_backend($node, $pid) if $pid;
	}
	ok(sql('SELECT count(*) FROM work') > 0, "crash $round");
}
sleep(1.5);
kill 'TERM', @loops;
waitpid($_, 0) foreach @loops;
@loops = ();
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()});
note 'committed: ' . sql('SELECT count(*) FROM work') . ', read: ' . sql(q{SELECT count(*) FROM seen WHERE who = 'load'});
check_seen('load', 'after the crashes');
sql('CALL naive()');
my $missed = sql(q{SELECT count(*) FROM idempotency.outbox AS o WHERE NOT EXISTS (SELECT FROM seen AS s WHERE s.who = 'naive' AND s.id = o.id)});
cmp_ok($missed, '>', 0, "control: who follows max(position) has missed events ($missed)");

#----------------------------------------------------------------------
# logical decoding
#----------------------------------------------------------------------
sql(q{SELECT pg_create_logical_replication_slot('outbox', 'test_decoding')});
my $id = sql('SELECT produce(2)');
like(sql(q{SELECT data FROM pg_logical_slot_get_changes('outbox', NULL, NULL)}),
	qr/table idempotency.outbox_\d: INSERT:.* id\[text\]:'\Q$id\E' aggregatetype\[text\]:'work' aggregateid\[text\]:'2' type\[text\]:'done' payload\[text\]:/,
	'an event is an insert that logical decoding shows');
sql(q{SELECT pg_drop_replication_slot('outbox')});

#----------------------------------------------------------------------
# time passes
#----------------------------------------------------------------------
sub at
{
	my ($offset, $sql) = @_;
	my $out = sql("SELECT idempotency.policy('*') IS NULL; SET idempotency.clock_offset = $offset; $sql");

	$out =~ s/^[tf]\n//;
	return $out;
}

sub rotated { return at($_[0], q{SELECT count(*) FROM idempotency.maintain() WHERE duty = 'outbox' AND result = 'truncated'}); }

sql(q{SELECT idempotency.configure_outbox(retention => '1 hour', max_age => '1 day')});
# the tables of before are of other hours
my $filled = sql(q{SELECT count(DISTINCT tableoid) FROM (SELECT tableoid FROM idempotency.outbox_0 UNION ALL SELECT tableoid FROM idempotency.outbox_1
	UNION ALL SELECT tableoid FROM idempotency.outbox_2 UNION ALL SELECT tableoid FROM idempotency.outbox_3) AS t});
my $last = sql(q{SELECT max("position") FROM idempotency.outbox});
drain($_) foreach qw(faults load);
is(rotated(1800), '0', 'nothing is removed within the retention');
sql(q{SELECT idempotency.configure_relay('behind')});
is(rotated(3 * 3600 + 1900), '0', 'nor while a relay has not read it');
like(at(3 * 3600, q{SELECT string_agg(relay || lag_events, ',') FROM idempotency.relays WHERE lag_events > 0}), qr/^behind/, 'which the view shows');
# relays that have only one stream get past the others' events
is(sql(q{SELECT count(*) FROM idempotency.relays WHERE relay IN ('faults', 'load') AND lag_events > 0}), '0', 'the others are not behind');
is(rotated(25 * 3600 + 1900 * 0) + rotated(25 * 3600 + 1800) + rotated(25 * 3600 + 3600), $filled, 'older than max_age: removed');
is(sqlstate($node, q{SELECT * FROM idempotency.outbox_read('behind')}), 'ID410', 'the relay is told');
is(sql(q{SELECT lost_upto FROM idempotency.relays WHERE relay = 'behind'}), $last, 'up to where');
is(sql(q{SELECT name FROM idempotency.alerts WHERE name LIKE 'outbox%' AND scope = 'behind'}), 'outbox_lost', 'and an operator');
is(sql(q{SELECT count(*) FROM idempotency.relays WHERE lost_upto > 0}), '1', 'nobody else has lost anything');
like(sql(q{SELECT string_agg(detail, ' ') FROM idempotency.ledger}), qr/"lost_upto": $last/, 'and the ledger says so');
sql(q{SELECT idempotency.reset_relay('behind', reason => 'taken from a backup')});
is(sqlstate($node, q{SELECT * FROM idempotency.outbox_read('behind')}), '', 'it goes on');
$id = sql('SELECT produce(3)');
is(sql(q{SELECT event_id FROM idempotency.outbox_read('behind')}), $id, 'with what comes');

# a transaction that was prepared holds readers up across a restart
sql(q{BEGIN; SELECT idempotency.emit('work', 'done', '0', '8', event_id => 'prepared'); INSERT INTO work (id) VALUES ('prepared'); PREPARE TRANSACTION 'p'});
$node->stop('immediate');
$node->start;
sql('SELECT produce(3)');
is(sql(q{SELECT count(*) FROM idempotency.outbox_read('waits', lease => '1 ms') WHERE event_id <> '} . $id . q{'}), '0', 'what comes after a prepared transaction is not read');
sql(q{COMMIT PREPARED 'p'});
is(sql(q{SELECT event_id FROM idempotency.outbox_read('waits') LIMIT 2}) =~ /prepared/ ? 1 : 0, 1, 'until it has committed');

# a dump carries on
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'dumped');
sql('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('restored') ], 'restored');
is($node->safe_psql('restored', q{SELECT idempotency.reset_relay('waits', NULL, 0, 'test'); SELECT count(*) > 1 FROM idempotency.outbox_read('waits')}) =~ /t$/ ? 1 : 0,
	1, 'events and relays are there');
done_testing();
