# Events through the lives of a database: what is prepared over a crash, a standby
# that reads and refuses, its promotion, a copy by template; and what comes again
# after it is forgotten.
#
# Dumps are restored in 040 and 061.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $primary = new_node('primary', init => [ allows_streaming => 1 ],
	conf => "shared_preload_libraries = 'idempotency'\nidempotency.naptime = 200ms");

$primary->safe_psql('postgres', q{
	CREATE EXTENSION idempotency;
	CREATE TABLE effect (stream text, seq bigint);
	SELECT FROM idempotency.configure_consumer('any', strategy => 'sequence');
	SELECT FROM idempotency.configure_consumer('next', strategy => 'ordered');
	SELECT FROM idempotency.configure_consumer('id', strategy => 'id');
	-- accept, leave an effect, and tell it on
	CREATE FUNCTION consume(c text, n bigint) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		a record;
	BEGIN
		SELECT * INTO a FROM idempotency.accept(c, 's', CASE WHEN c = 'id' THEN 'e' || n END, CASE WHEN c <> 'id' THEN n END);
		IF a.outcome = 'process' THEN
			INSERT INTO effect VALUES (c, n);
			PERFORM idempotency.emit('told', c, n::text, event_id => c || n);
		END IF;
		RETURN a.outcome;
	END $$;
});

my @consumers = qw(any next id);

sub consume
{
	my ($node, $n, $db) = @_;

	return $node->safe_psql($db // 'postgres', qq{SET lock_timeout = '30 s'; SELECT string_agg(consume(c, $n), ' ' ORDER BY ord) FROM unnest('{@{[ join ',', @consumers ]}}'::text[]) WITH ORDINALITY AS u(c, ord)});
}

# What a relay reads, and acknowledges.
sub relay
{
	my ($node, $db) = @_;

	return $node->safe_psql($db // 'postgres', q{
		WITH r AS MATERIALIZED (SELECT * FROM idempotency.outbox_read('to-all')),
			a AS (SELECT idempotency.outbox_ack('to-all', max("position"), max(fence)) FROM r HAVING count(*) > 0)
		SELECT coalesce(string_agg(event_id, ' ' ORDER BY "position"), '') FROM r LEFT JOIN a ON true});
}

# Relays are given nothing before the server's new life is known.
sub relay_until
{
	my ($node, $last, $db) = @_;
	my $read = '';

	foreach my $attempt (1 .. 300)
	{
		my $more = relay($node, $db);

		$read .= ($read ne '' && $more ne '' ? ' ' : '') . $more;
		last if $read =~ /\Q$last\E$/;
		sleep(0.1);
	}
	return $read;
}

is(consume($primary, $_), 'process process process', "event $_") foreach 1 .. 3;
is(relay($primary), 'any1 next1 id1 any2 next2 id2 any3 next3 id3', 'all are told on');
$primary->safe_psql('postgres', q{SELECT FROM idempotency.accept('any', 's', seq => 6)});

#----------------------------------------------------------------------
# prepared, with a savepoint that is rolled back, over a crash
#----------------------------------------------------------------------
$primary->safe_psql('postgres', q{
	BEGIN;
	SELECT consume('any', 4);
	SAVEPOINT a;
	SELECT consume('id', 4);
	ROLLBACK TO a;
	PREPARE TRANSACTION 'event 4'});
$primary->safe_psql('postgres', q{BEGIN; SELECT consume('id', 5); PREPARE TRANSACTION 'event 5'});
$primary->stop('immediate');
$primary->start;
$primary->safe_psql('postgres', q{SELECT idempotency.configure_consumer(c, wait => '0') IS NULL FROM unnest('{any,id}'::text[]) AS c});
is($primary->safe_psql('postgres', q{SELECT consume('any', 4), consume('id', 5)}), 'in_progress|in_progress', 'what is prepared is in its hands after a crash');
is($primary->safe_psql('postgres', q{SELECT consume('id', 4)}), 'process', 'what was rolled back to a savepoint is not');
is(relay($primary), '', 'relays wait for what is prepared');
$primary->safe_psql('postgres', q{COMMIT PREPARED 'event 4'});
$primary->safe_psql('postgres', q{ROLLBACK PREPARED 'event 5'});
is($primary->safe_psql('postgres', q{SELECT consume('any', 4), consume('id', 5)}), 'duplicate|process', 'committed: a duplicate; rolled back: to be processed');
is(relay_until($primary, 'id5'), 'any4 id4 id5', 'and relays go on');

#----------------------------------------------------------------------
# a standby
#----------------------------------------------------------------------
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->append_conf('postgresql.conf', "synchronous_standby_names = 'standby'\n");
$primary->reload;
$primary->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication})
  or die 'the standby did not become synchronous';

foreach my $call (
	q{accept('id', 's', 'e1')}, q{accept('any', 's', seq => 1)}, q{accept('next', 's', seq => 9)},
	q{accept_many('any', 's', '{1,2}')}, q{skip_gap('any', 's', 'test')},
	q{set_position('any', 's', 1, 'test')}, q{redeliver('any', 's', 'test', seq => 1)},
	q{configure_consumer('any', max_holes => 10)}, q{emit('told', 'x', 'y')},
	q{outbox_read('to-all')}, q{outbox_read('new')}, q{outbox_ack('to-all', 1, 1)},
	q{configure_outbox('told', notify => true)}, q{configure_relay('new')},
	q{reset_relay('to-all', reason => 'test')}, q{forget_relay('to-all', reason => 'test')})
{
	is(sqlstate($standby, "SELECT * FROM idempotency.$call"), '25006', "refused on a standby: $call");
	is(sqlstate($primary, "BEGIN READ ONLY; SELECT * FROM idempotency.$call"), '25006', '... and in a read-only transaction');
}
my @readings = (
	q{SELECT * FROM idempotency.position('any', 's')}, q{SELECT * FROM idempotency.position('none', 's')},
	q{SELECT from_seq, to_seq, missing, since FROM idempotency.gaps('any', 's')}, q{SELECT * FROM idempotency.consumer_policy('next')},
	q{SELECT * FROM idempotency.consumers ORDER BY 1, 2}, q{SELECT * FROM idempotency.dead_events},
	q{SELECT * FROM idempotency.outbox ORDER BY "position"}, q{SELECT relay, "position", read_upto, lag_events FROM idempotency.relays});

sub read_all { my ($node) = @_; return join "\n", map { $node->safe_psql('postgres', $_) } @readings; }

$primary->wait_for_catchup($standby);
is(read_all($standby), read_all($primary), 'what only reads is answered as by the primary');
is($standby->safe_psql('postgres', q{SELECT next_seq, holes FROM idempotency.position('any', 's')}), '5|1', 'the position');
is($standby->safe_psql('postgres', q{SELECT from_seq, to_seq, missing FROM idempotency.gaps('any', 's')}), '5|5|1', 'the gap');
# a session that has the settings in its memory
my $reader = session($standby);
is($reader->query_safe(q{SELECT max_holes FROM idempotency.consumer_policy('next')}), '1000', 'the settings');
$primary->safe_psql('postgres', q{SELECT FROM idempotency.configure_consumer('next', max_holes => 50)});
$primary->wait_for_catchup($standby);
is($reader->query_safe(q{SELECT max_holes FROM idempotency.consumer_policy('next')}), '50', 'and when they change');
$reader->quit;

#----------------------------------------------------------------------
# promoted
#----------------------------------------------------------------------
$primary->safe_psql('postgres', q{BEGIN; SELECT consume('id', 7); PREPARE TRANSACTION 'event 7'});
is($primary->safe_psql('postgres', q{SELECT consume('any', 5), consume('next', 4)}), 'process|process', 'the last that the primary does');
$primary->kill9;
$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$standby->promote;
is($standby->safe_psql('postgres', q{SELECT string_agg(consume(c, n), ' ') FROM (VALUES ('any', 5), ('any', 6), ('next', 4), ('id', 5), ('id', 1)) AS v(c, n)}),
	'duplicate duplicate duplicate duplicate duplicate', 'promoted: what was processed is known');
is($standby->safe_psql('postgres', q{SELECT consume('id', 7)}), 'in_progress', 'promoted: what is prepared is in its hands');
$standby->safe_psql('postgres', q{COMMIT PREPARED 'event 7'});
is($standby->safe_psql('postgres', q{SELECT consume('id', 7)}), 'duplicate', '... until it is committed');
is($standby->safe_psql('postgres', q{SELECT consume('any', 7), consume('next', 5)}), 'process|process', 'promoted: streams go on');
is(relay_until($standby, 'next5'), 'id7 any5 next4 any7 next5', 'promoted: relays go on where they were');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM (SELECT FROM effect GROUP BY stream, seq HAVING count(*) > 1) AS e'), '0', 'nothing had two effects');

#----------------------------------------------------------------------
# copied
#----------------------------------------------------------------------
$standby->safe_psql('postgres', q{SELECT consume('any', 8)});
$standby->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
is(consume($standby, 3, 'copy'), 'duplicate duplicate duplicate', 'a copy knows what was processed');
is($standby->safe_psql('copy', q{SELECT consume('any', 9), consume('next', 6)}), 'process|process', 'and goes on by itself');
is($standby->safe_psql('postgres', q{SELECT consume('next', 6)}), 'process', 'as does the original');
is(relay_until($standby, 'next6', 'copy'), 'any8 any9 next6', 'relays of the copy');
is(relay_until($standby, 'next6'), 'any8 next6', 'and of the original');

# who drops the extension wants nothing of what the transaction has told on
$standby->safe_psql('copy', q{BEGIN; SELECT consume('any', 10); DROP EXTENSION idempotency; COMMIT});
is($standby->safe_psql('copy', 'SELECT count(*) FROM pg_extension'), '1', 'dropped in a transaction that has used it');

#----------------------------------------------------------------------
# what comes again after it is forgotten
#----------------------------------------------------------------------
$standby->safe_psql('postgres', q{SELECT FROM idempotency.configure_consumer('id', retention => '1 s')});
is($standby->safe_psql('postgres', q{SELECT consume('id', 100)}), 'process', 'remembered for a second');
$standby->poll_query_until('postgres', q{SELECT consume('id', 100) = 'process'}) or die 'it is not forgotten';
is($standby->safe_psql('postgres', q{SELECT count(*) FROM effect WHERE stream = 'id' AND seq = 100}), '2', 'after that it is processed once more');
is($standby->safe_psql('postgres', q{SELECT string_agg(decision, ' ') FILTER (WHERE decision = 'executed') FROM idempotency.explain('inbox/id', 'e100', 's')}),
	'executed executed', 'the ledger has it twice');
ok($standby->poll_query_until('postgres', q{SELECT late_duplicates >= 1 FROM idempotency.stats WHERE scope = 'inbox/id'}), 'and it was counted as a late duplicate');
# a sequence forgets nothing
is($standby->safe_psql('postgres', q{SELECT consume('any', 1), consume('next', 1)}), 'duplicate|duplicate', 'positions are not forgotten');

$standby->stop;
done_testing();
