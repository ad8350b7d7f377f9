# Statistics: what is counted is what happened, and it costs nobody an error.
#
# Counts are compared with what the clients themselves have seen.  Clients count
# with sequences, which a rollback does not undo, and with rows, which it does.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $conf = q{
shared_preload_libraries = 'idempotency'
max_connections = 150
idempotency.naptime = 500ms
};
my @answers = qw(executed resumed replayed in_progress mismatched retry_later exhausted indeterminate expired);
my @settled = qw(finished failed retried released);

# Columns of a scope's statistics.
sub stats
{
	my ($node, $scope, $columns, $db) = @_;

	return $node->safe_psql($db // 'postgres',
		"SELECT $columns FROM idempotency.stats WHERE scope = '$scope'");
}

# The worker's process of a database.
sub worker
{
	my ($node) = @_;

	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM idempotency.workers
		WHERE database = 'postgres' AND state = 'running'}) or die 'the worker does not run';
	return $node->safe_psql('postgres',
		q{SELECT pid FROM idempotency.workers WHERE database = 'postgres'});
}

# A session that is in a transaction, and has claimed this key.
sub claimer
{
	my ($node, $scope, $key) = @_;
	my $session = session($node);

	$session->query_safe("BEGIN; SELECT outcome FROM idempotency.claim('$scope', '$key')");
	return $session;
}

# Every count there is, in an order.
sub all_counts
{
	my ($node, $db) = @_;

	return $node->safe_psql($db // 'postgres', 'SELECT * FROM idempotency.stats ORDER BY scope;
		SELECT * FROM idempotency.stats_latency ORDER BY scope, function, from_us');
}

my $node = new_node('counted', conf => "$conf idempotency.note_buffer = 256kB");

install_app($node);

#----------------------------------------------------------------------
# 64 clients do everything there is to be counted
#----------------------------------------------------------------------
$node->safe_psql('postgres', q{
	CREATE TABLE truth (scope text, what text);
	CREATE FUNCTION saw(s text, what text) RETURNS void LANGUAGE sql AS
		$$ SELECT nextval(format('truth_%s_%s', s, what)) $$;
	CREATE FUNCTION seen(s text, what text) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		n bigint;
	BEGIN
		EXECUTE format('SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM truth_%s_%s', s, what) INTO n;
		RETURN n;
	END $$;
	DO $$
	DECLARE
		s text;
		what text;
	BEGIN
		FOREACH s IN ARRAY ARRAY['w0', 'w1', 'w2', 'w3'] LOOP
			PERFORM idempotency.configure(s, max_attempts => 4);
			FOREACH what IN ARRAY ARRAY['execute', 'resume', 'replay', 'in_progress', 'mismatch', 'retry_later',
				'exhausted', 'indeterminate', 'expired', 'fence_refused'] LOOP
				EXECUTE format('CREATE SEQUENCE truth_%s_%s', s, what);
			END LOOP;
		END LOOP;
	END $$;
	-- note an answer, and whether it was committed
	CREATE FUNCTION answered(s text, what text) RETURNS bool LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM saw(s, what);
		IF what IN ('execute', 'resume') THEN
			INSERT INTO truth VALUES (s, what);
			RETURN true;
		END IF;
		RETURN false;
	END $$;
	CREATE FUNCTION take(s text, k text, asked text, lasts interval DEFAULT NULL, OUT granted bool, OUT f bigint, OUT outcome text) LANGUAGE plpgsql AS $$
	DECLARE
		c record;
	BEGIN
		SELECT * INTO c FROM idempotency.claim(s, k, asked, lease => lasts, wait => '0');
		outcome := c.outcome;
		granted := answered(s, outcome);
		f := coalesce(c.fence, 0);
	END $$;
	-- (to release what was taken over in this transaction leaves it to be taken over)
	CREATE FUNCTION settle(s text, k text, f bigint, way int, begun text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		what text := 'finished';
	BEGIN
		IF way = 0 THEN
			PERFORM idempotency.finish(s, k, 'r', fence => f);
		ELSIF way = 1 THEN
			SELECT CASE outcome WHEN 'retry_later' THEN 'retried' ELSE 'failed' END INTO what
			FROM idempotency.fail(s, k, 'e', fence => f, retry_after_ms => 0);
		ELSIF way = 2 THEN
			SELECT CASE outcome WHEN 'retry_later' THEN 'retried' ELSE 'failed' END INTO what
			FROM idempotency.fail(s, k, 'e', fence => f, retry_after_ms => 3600000);
		ELSIF way = 3 THEN
			PERFORM idempotency.fail(s, k, 'e', retryable => false, fence => f);
			what := 'failed';
		ELSE
			what := CASE WHEN idempotency.release(s, k, f) THEN 'released' ELSE 'nothing' END;
		END IF;
		INSERT INTO truth VALUES (s, what);
		IF what = 'released' AND begun = 'resume' THEN
			INSERT INTO truth VALUES (s, 'left');
		END IF;
	EXCEPTION WHEN SQLSTATE 'ID412' THEN
		PERFORM saw(s, 'fence_refused');
	END $$;
	CREATE FUNCTION transact(s text, k text, asked text, way int) RETURNS bool LANGUAGE plpgsql AS $$
	DECLARE
		t record := take(s, k, asked);
	BEGIN
		IF t.granted THEN
			PERFORM settle(s, k, NULL, way, t.outcome);
		END IF;
		RETURN t.granted;
	END $$;
	CREATE FUNCTION nest(s text, k int, asked text, way int) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		BEGIN
			PERFORM transact(s, 'k' || k, asked, way);
			BEGIN
				PERFORM transact(s, 'k' || k + 1, asked, 0);
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
			PERFORM 1 / (k % 2);
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
		PERFORM transact(s, 'k' || k, asked, way);
	END $$;
	CREATE FUNCTION many(s text, k int, way int) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		c record;
	BEGIN
		FOR c IN SELECT * FROM idempotency.claim_many(s, ARRAY['k' || k, 'k' || k + 1, 'k' || k + 2], wait => '0') LOOP
			IF answered(s, c.outcome) THEN
				PERFORM settle(s, c.key, NULL, way, c.outcome);
			END IF;
		END LOOP;
	END $$;
	CREATE FUNCTION gate(s text, k text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF answered(s, CASE WHEN idempotency.once(s, k) THEN 'execute' ELSE 'replay' END) THEN
			INSERT INTO truth VALUES (s, 'finished');
		END IF;
	END $$;
});
my $storm = q{
\set n random(0, 3)
\set k random(1, 200)
\set act random(1, 14)
\set way random(0, 4)
\set asked random(1, 25) / 25
\if :act <= 3
SELECT transact('w:n', 'k:k', ':asked', :way);
\elif :act = 4
BEGIN;
SELECT transact('w:n', 'k:k', ':asked', :way);
ROLLBACK;
\elif :act <= 6
SELECT nest('w:n', :k, ':asked', :way);
\elif :act = 7
BEGIN;
SAVEPOINT a;
SELECT nest('w:n', :k, ':asked', :way);
RELEASE a;
SAVEPOINT b;
SELECT many('w:n', :k, :way);
ROLLBACK TO b;
SELECT transact('w:n', 'k:k', ':asked', :way);
COMMIT;
\elif :act = 8
SELECT granted::int, f FROM take('w:n', 'k:k', ':asked', '5 min') \gset
\if :granted
SELECT settle('w:n', 'k:k', :f, :way);
\endif
\elif :act <= 10
SELECT granted::int, f FROM take('w:n', 'k:k', ':asked', '1 ms') \gset
\if :granted
\sleep 5 ms
SELECT settle('w:n', 'k:k', :f, :way);
\endif
\elif :act = 11
BEGIN;
SELECT take('w:n', 'k:k', ':asked', '5 min');
ROLLBACK;
\elif :act = 12
SELECT many('w:n', :k, :way);
\elif :act = 13
SELECT gate('w:n', 'once:k');
\else
SELECT granted::int FROM take('w:n', 'lost:k', ':asked', '1 ms') \gset
\if :granted
SELECT answered('w:n', outcome) FROM idempotency.claim('w:n', 'old:client_id-:k-:way', first_sent => now() - interval '2 days');
\endif
\endif
};
my $bench = run_pgbench($node, $storm, clients => 64, transactions => 60);
is($bench->{processed}, 64 * 60, 'every client came to its end') or diag($bench->{err});
foreach my $scope ('w0' .. 'w3')
{
	my $told = $node->safe_psql('postgres', "SELECT seen('$scope', what)
		FROM unnest('{execute,resume,replay,in_progress,mismatch,retry_later,exhausted,indeterminate,expired,fence_refused}'::text[]) AS what");
	my $ends = $node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE what = 'finished'), count(*) FILTER (WHERE what = 'failed'),
		count(*) FILTER (WHERE what = 'retried'), count(*) FILTER (WHERE what = 'released'),
		seen('$scope', 'execute') + seen('$scope', 'resume') - count(*) FILTER (WHERE what IN ('execute', 'resume'))
		FROM truth WHERE scope = '$scope'");

	is(stats($node, $scope, join(' || E\'\n\' || ', map { "$_" } @answers, 'fence_refused')), $told, "$scope: answers are what the clients were told");
	is(stats($node, $scope, join(', ', @settled, 'aborted')), $ends, "$scope: settlements are what was committed, aborted is the rest");
	is( stats($node, $scope, 'executed + resumed - finished - failed - retried - released - aborted'),
		$node->safe_psql('postgres', "SELECT (SELECT count(*) FILTER (WHERE what = 'resume') - count(*) FILTER (WHERE what = 'left') FROM truth WHERE scope = '$scope')
			+ (SELECT count(*) FROM idempotency.keys WHERE scope = '$scope' AND state = 'running')"),
		"$scope: whatever was begun was settled, undone, taken over, or runs");
}
my $seen = $node->safe_psql('postgres', 'SELECT ' . join(', ', map { "sum($_) > 0" } grep { $_ ne 'indeterminate' } @answers, @settled, 'aborted', 'fence_refused')
	. q{ FROM idempotency.stats WHERE scope LIKE 'w_'});
unlike($seen, qr/f/, 'nearly everything that can be counted came up');

#----------------------------------------------------------------------
# single counts
#----------------------------------------------------------------------
my $columns = join(', ', @answers);

is($node->safe_psql('postgres', q{
		SELECT on_lease_expiry FROM idempotency.configure('one', on_lease_expiry => 'indeterminate');
		SELECT outcome FROM idempotency.claim('one', 'l', lease => '1 ms');
		SELECT pg_sleep(0.005);
		SELECT outcome FROM idempotency.claim('one', 'l')}),
	"indeterminate\nexecute\n\nindeterminate", 'a lease is over');
is(stats($node, 'one', $columns), '1|0|0|0|0|0|0|1|0', 'indeterminate');
is(stats($node, 'one', 'takeovers'), '0', '... is nobody\'s to take over');
$node->safe_psql('postgres', q{SELECT outcome FROM unnest('{a,b,c}'::text[]) AS k, idempotency.claim('over', k, lease => '1 ms')});
sleep(0.01);
is($node->safe_psql('postgres', q{SELECT outcome FROM idempotency.claim('over', 'a', lease => '1 min'); SELECT idempotency.once('over', 'b');
		SELECT count(*) FROM idempotency.take_abandoned('over', 5)}), "resume\nt\n1", 'leases that are taken over');
is(stats($node, 'over', 'executed, resumed, takeovers, finished, aborted'), '3|3|3|1|0', '... are counted');
is(sqlstate($node, q{SELECT idempotency.claim_or_raise('one', 'l')}), 'ID500', 'an answer that is raised');
is(stats($node, 'one', 'executed, indeterminate'), '1|2', '... counts as well');
is(sqlstate($node, q{SELECT idempotency.claim('one', '')}), 'ID400', 'a call that is refused');
is(stats($node, 'one', 'executed, indeterminate'), '1|2', '... is no claim');

$node->safe_psql('postgres', q{
	SELECT idempotency.configure('late', retention => '1 s');
	SELECT idempotency.once('late', 'settled');
	SELECT outcome FROM idempotency.claim('late', 'running', lease => '1 ms')});
is($node->safe_psql('postgres', q{SELECT idempotency.once('late', 'settled')}), 'f', 'a duplicate in time');
sleep(1.3);
is($node->safe_psql('postgres', q{SELECT idempotency.once('late', 'settled'); SELECT idempotency.once('late', 'running'); SELECT idempotency.once('late', 'new')}),
	"t\nt\nt", 'one that comes too late is not recognised');
is(stats($node, 'late', 'late_duplicates, replayed'), '1|1', '... and counted; what was never settled is none');

$node->safe_psql('postgres', q{SELECT outcome FROM idempotency.claim('fence', 'k', lease => '5 min')});
foreach my $call (q{finish('fence', 'k', 'r', 1)}, q{fail('fence', 'k', 'e', fence => 1)}, q{release('fence', 'k', 1)},
	q{heartbeat('fence', 'k', 1)}, q{checkpoint('fence', 'k', 1, 'p')}, q{assert_fence('fence', 'k', 1)})
{
	is(sqlstate($node, "SELECT idempotency.$call"), 'ID412', $call);
}
is(stats($node, 'fence', 'fence_refused'), '6', '... each is counted');

# a prepared transaction counts as committed
$node->safe_psql('postgres', q{
	BEGIN;
	SELECT outcome FROM idempotency.claim('prepared', 'k');
	SELECT idempotency.finish('prepared', 'k');
	PREPARE TRANSACTION 'p'});
is(stats($node, 'prepared', 'executed, finished, aborted'), '1|1|0', 'PREPARE TRANSACTION');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
is(stats($node, 'prepared', 'executed, finished, aborted'), '1|1|0', '... COMMIT PREPARED adds nothing');
is(sqlstate($node, q{BEGIN; SELECT idempotency.claim('prepared', 'k2'); PREPARE TRANSACTION 'p2'}), 'ID428', 'a PREPARE that is refused');
is(stats($node, 'prepared', 'executed, finished, aborted'), '2|1|1', '... is a rollback');

# what commit settles; what commit refuses
$node->safe_psql('postgres', q{
	SELECT idempotency.configure('commit', unfinished => 'succeed');
	BEGIN;
	SELECT outcome FROM idempotency.claim_many('commit', '{a,b,c}');
	SELECT idempotency.fail('commit', 'b', retryable => false);
	SAVEPOINT s;
	SELECT outcome FROM idempotency.claim('commit', 'd');
	SELECT idempotency.release('commit', 'c');
	ROLLBACK TO s;
	COMMIT});
is(stats($node, 'commit', 'executed, finished, failed, released, aborted'), '4|2|1|0|1', 'commit settles what is left');
is(sqlstate($node, q{BEGIN; SELECT idempotency.claim('refused', 'a'); COMMIT}), 'ID428', 'a commit that is refused');
is(stats($node, 'refused', 'executed, finished, aborted'), '1|0|1', '... is a rollback');
is($node->safe_psql('postgres', q{SELECT outcome FROM idempotency.run('run', 'k', 'SELECT 1'); SELECT outcome FROM idempotency.run('run', 'k', 'SELECT 1')}),
	"execute\nreplay", 'run()');
is(sqlstate($node, q{SELECT idempotency.run('run', 'k2', 'SELECT 1 / 0')}), '22012', '... and one that fails');
is(stats($node, 'run', 'executed, replayed, finished, aborted'), '2|1|1|1', '... are counted');
$node->safe_psql('postgres', q{
	CREATE TABLE inbox (id text);
	CREATE TRIGGER dedup BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('dedup', 'id');
	INSERT INTO inbox SELECT i % 100 FROM generate_series(1, 1000) AS i;
	BEGIN; INSERT INTO inbox SELECT i FROM generate_series(100, 149) AS i; ROLLBACK});
is(stats($node, 'dedup', 'executed, replayed, finished, aborted'), '150|900|100|50', 'a trigger');

#----------------------------------------------------------------------
# latency: decisions, without what they waited for
#----------------------------------------------------------------------
$node->safe_psql('postgres', q{SELECT idempotency.once('latency', (i % 50)::text) FROM generate_series(1, 200) AS i});
my $holder = claimer($node, 'latency', 'busy');
my @waiters = map { session($node) } 1 .. 2;
$waiters[0]->query_until(qr/waiting/, "\\echo waiting\nSELECT idempotency.once('latency', 'busy');\n");
$waiters[1]->query_until(qr/waiting/, "\\echo waiting\nSELECT outcome FROM idempotency.claim('latency', 'busy', wait => '20 s');\n");
sleep(0.3);
is($node->safe_psql('postgres', q{SELECT outcome FROM idempotency.claim('latency', 'busy', wait => '0')}), 'in_progress', 'one that does not wait');
sleep(0.4);
$holder->query_safe(q{SELECT idempotency.finish('latency', 'busy'); COMMIT});
$_->quit foreach $holder, @waiters;
is(stats($node, 'latency', 'executed + replayed + in_progress'), '204', 'decisions, of which two waited');
is($node->safe_psql('postgres', q{SELECT sum(decisions), max(from_us) < 400000, bool_and(from_us < to_us)
		FROM idempotency.stats_latency WHERE scope = 'latency' AND function IN ('once', 'claim')}),
	'204|t|t', '... are all in the classes, without their waits');
is(stats($node, 'latency', 'waits, wait_us BETWEEN 1000000 AND 30000000'), '2|t', '... which are counted apart');
$holder = session($node);
$holder->query_safe(q{SELECT outcome FROM idempotency.claim('latency', 'leased', lease => '400 ms')});
is($holder->query_safe(q{SELECT outcome FROM idempotency.claim('latency', 'leased', lease => '1 s', wait => '10 s')}), 'resume', 'a lease is waited for');
$holder->quit;
is(stats($node, 'latency', 'waits, wait_us > 1300000'), '3|t', '... that, too');
is($node->safe_psql('postgres', q{SELECT sum(decisions), max(from_us) < 400000 FROM idempotency.stats_latency WHERE scope = 'latency' AND function IN ('once', 'claim')}),
	'206|t', '... apart');
is($node->safe_psql('postgres', q{SELECT sum(decisions), min(to_us) > 300000 FROM idempotency.stats_latency WHERE scope = 'latency' AND function = 'waiting'}),
	'3|t', '... in classes of their own');
is($node->safe_psql('postgres', q{SELECT string_agg(function || ' ' || calls, ', ' ORDER BY function), bool_and(p50_us <= p95_us AND p95_us <= p99_us AND mean_us > 0),
		sum(total_us) FILTER (WHERE function = 'waiting') BETWEEN 1300000 AND 30000000 FROM idempotency.latency WHERE scope = 'latency'}),
	'claim 5, finish 1, once 201, waiting 3|t|t', 'functions have quantiles');

#----------------------------------------------------------------------
# attempts that left nothing else behind
#----------------------------------------------------------------------
$node->safe_psql('postgres', q{
	CREATE FUNCTION key_id(s text, k text) RETURNS uuid LANGUAGE plpgsql AS $$
	DECLARE
		segment text;
		found_id uuid;
	BEGIN
		FOR segment IN SELECT relname FROM pg_class WHERE relnamespace = 'idempotency'::regnamespace AND relkind = 'r' AND relname LIKE 'key\_%' LOOP
			EXECUTE format('SELECT id FROM idempotency.%I WHERE scope = $1 AND key = $2', segment) INTO found_id USING s, k;
			EXIT WHEN found_id IS NOT NULL;
		END LOOP;
		RETURN found_id;
	END $$;
	TRUNCATE idempotency.aborted_attempt});
worker($node);
my %pid;
my $began = time();
$node->psql('postgres', q{BEGIN; SELECT idempotency.claim('note', 'rollback'); ROLLBACK});
$node->psql('postgres', q{SELECT 1 / (attempt - 1) FROM idempotency.claim('note', 'error')});
$node->psql('postgres', q{BEGIN; SELECT idempotency.claim('note', 'unsettled'); COMMIT});
$node->psql('postgres', q{BEGIN; SELECT idempotency.claim('note', 'leased', lease => '1 min'); ROLLBACK});
$node->psql('postgres', q{BEGIN; SELECT idempotency.claim('note', 'disconnected')});
$node->safe_psql('postgres', q{BEGIN; SELECT idempotency.claim('note', 'kept'); SAVEPOINT s; SELECT idempotency.claim('note', 'savepoint');
	ROLLBACK TO s; SELECT idempotency.finish('note', 'kept'); COMMIT});
$node->safe_psql('postgres', q{BEGIN; SELECT idempotency.claim('note', 'second'); SELECT idempotency.fail('note', 'second', retry_after_ms => 0); COMMIT;
	BEGIN; SELECT idempotency.claim('note', 'second'); SELECT idempotency.finish('note', 'second'); ROLLBACK});
$holder = claimer($node, 'note', 'terminated');
$pid{terminated} = $holder->query_safe('SELECT pg_backend_pid()');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid{terminated}, 10000)");
$node->safe_psql('postgres', q{BEGIN; SELECT idempotency.claim('note', 'released'); SELECT idempotency.release('note', 'released'); COMMIT});
my @noted = qw(disconnected error leased rollback savepoint second terminated unsettled);
my $noted = $node->poll_query_until('postgres', q{SELECT count(*) >= 8 FROM idempotency.aborted_attempt WHERE scope = 'note'});
my $took = time() - $began;
ok($noted && $took < 6, sprintf('aborted attempts are written down by the worker: %.1f s', $took));
$node->safe_psql('postgres', join(';', map { "SELECT idempotency.once('note', '$_')" } @noted));
is( $node->safe_psql('postgres', q{SELECT string_agg(k, ' ' ORDER BY k COLLATE "C") FROM unnest(ARRAY['} . join(q{', '}, @noted, 'kept', 'released') . q{']) AS k
		WHERE (SELECT count(*) = 1 FROM idempotency.aborted_attempt WHERE id = key_id('note', k))}),
	"@noted", '... each once, by the id that the key has later');
is( $node->safe_psql('postgres', q{SELECT DISTINCT attempt, scope, claimed_at <= aborted_at AND aborted_at <= now() AND now() - claimed_at < interval '1 min'
		FROM idempotency.aborted_attempt WHERE id <> key_id('note', 'second')}), '1|note|t', '... with the attempt and its time');
is( $node->safe_psql('postgres', q{SELECT attempt FROM idempotency.aborted_attempt WHERE id = key_id('note', 'second')}), '2', '... of a second attempt');
is( $node->safe_psql('postgres', q{SELECT pid FROM idempotency.aborted_attempt WHERE id = key_id('note', 'terminated')}), $pid{terminated}, '... and who it was');
is(stats($node, 'note', 'aborted'), '8', '... and they are counted');

# more of them than there is room for
my $worker = worker($node);
is($node->safe_psql('postgres', 'SELECT idempotency.notes_dropped()'), '0', 'no note was lost so far');
kill 'STOP', $worker;
sleep(0.2);
$node->safe_psql('postgres', q{
	DO $$
	BEGIN
		FOR i IN 1 .. 5000 LOOP
			BEGIN
				PERFORM idempotency.claim('flood', 'k' || i);
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
		END LOOP;
	END $$});
my $dropped = $node->safe_psql('postgres', 'SELECT idempotency.notes_dropped()');
cmp_ok($dropped, '>', 0, 'a flood while the worker is away: notes are dropped');
is($node->safe_psql('postgres', q{SELECT severity, scope IS NULL, value FROM idempotency.alerts WHERE name = 'notes_dropped'}), "warning|t|$dropped", '... which is an alert');
is($node->safe_psql('postgres', q{SELECT hint FROM idempotency.health() WHERE "check" = 'alerts' AND NOT ok AND detail ~ 'notes_dropped'}),
	'See the view idempotency.alerts.', '... and not healthy');
is(stats($node, 'flood', 'executed, aborted'), '5000|5000', '... all are counted');
kill 'CONT', $worker;
ok( $node->poll_query_until('postgres', "SELECT count(*) = 5000 - $dropped FROM idempotency.aborted_attempt WHERE scope = 'flood'"),
	'... the others are written once it is back');
# old ones go
$node->safe_psql('postgres', q{UPDATE idempotency.aborted_attempt SET aborted_at = aborted_at - interval '25 h' WHERE scope = 'flood'});
# (so many at a time)
$node->safe_psql('postgres', 'SELECT * FROM idempotency.maintain()') foreach 1 .. 5;
is($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE scope = 'flood'), count(*) FILTER (WHERE scope = 'note') FROM idempotency.aborted_attempt}),
	'0|8', 'what is older than a day is deleted');

#----------------------------------------------------------------------
# rates of duplicates, and alerts
#----------------------------------------------------------------------
$node->safe_psql('postgres', q{SELECT idempotency.once('rate', 'k' || i) FROM generate_series(1, 10) AS i});
$node->safe_psql('postgres', 'SELECT * FROM idempotency.maintain()');
$node->safe_psql('postgres', q{SELECT idempotency.once('rate', 'k' || i) FROM generate_series(6, 25) AS i});
is($node->safe_psql('postgres', q{SELECT recent_claims, recent_rate, hour_claims, hour_rate FROM idempotency.duplicate_rates() WHERE scope = 'rate'}),
	'20|0.25|0|0', 'the rate since the last sample');
$node->safe_psql('postgres', q{SELECT idempotency.once('rate', 'k1') FROM generate_series(1, 100)});
$node->safe_psql('postgres', 'SELECT * FROM idempotency.maintain()');
$node->safe_psql('postgres', q{SELECT idempotency.stats_reset('rate'); SELECT idempotency.once('rate', 'l' || i) FROM generate_series(1, 500) AS i});
is($node->safe_psql('postgres', q{SELECT count(*) FROM idempotency.duplicate_rates() WHERE scope = 'rate' AND (recent_rate NOT BETWEEN 0 AND 1 OR hour_rate NOT BETWEEN 0 AND 1 OR recent_claims < 0)}),
	'0', '... also after a reset');

$node->safe_psql('postgres', 'CREATE DATABASE alerts');
$node->safe_psql('alerts', q{
	CREATE EXTENSION idempotency;
	CREATE OR REPLACE FUNCTION idempotency.duplicate_rates(OUT scope text, OUT recent_claims int8, OUT recent_rate float8, OUT hour_claims int8, OUT hour_rate float8,
		OUT recent_mismatches int8, OUT recent_late int8)
	RETURNS SETOF record LANGUAGE sql AS $$ VALUES ('usual', 100::int8, 0.29::float8, 100::int8, 0.1::float8, 0::int8, 0::int8), ('unusual', 20, 0.31, 20, 0.1, 0, 0),
		('few', 19, 1, 100, 0, 3, 0), ('young', 100, 1, 19, 0, 0, 2), ('always', 100, 1, 100, 0.5, 0, 0), ('none', 0, 0, 0, 0, 0, 0) $$;
	CREATE OR REPLACE FUNCTION idempotency.segments(OUT segment text, OUT ring text, OUT begins_at timestamptz, OUT ends_at timestamptz, OUT bytes int8)
	RETURNS SETOF record LANGUAGE sql AS $$ VALUES ('now', 'short', now() - interval '4 h', now() + interval '4 h', 8192::int8),
		('over', 'short', now() - interval '9 h', now() - interval '1 h', 8192), ('late', 'short', now() - interval '11 h', now() - interval '3 h', 8192),
		('empty', 'short', now() - interval '11 h', now() - interval '3 h', 0), ('for ever', 'permanent', NULL, NULL, 8192) $$;
	SELECT outcome FROM idempotency.claim('lease', 'k1', lease => '1 ms');
	SELECT outcome FROM idempotency.claim('lease', 'k2', lease => '1 min');
	SELECT outcome FROM idempotency.claim('short', 'k', lease => '1 h');
	UPDATE idempotency.key_day_0 SET claimed_at = claimed_at - interval '10 h' WHERE scope = 'short';
	UPDATE idempotency.key_day_1 SET claimed_at = claimed_at - interval '10 h' WHERE scope = 'short';
	UPDATE idempotency.key_day_2 SET claimed_at = claimed_at - interval '10 h' WHERE scope = 'short';
	UPDATE idempotency.key_day_3 SET claimed_at = claimed_at - interval '10 h' WHERE scope = 'short';
	SELECT on_lease_expiry FROM idempotency.configure('unknown', on_lease_expiry => 'indeterminate');
	SELECT outcome FROM idempotency.claim('unknown', 'k', lease => '1 ms')});
$node->poll_query_until('alerts', q{SELECT count(*) = 1 FROM idempotency.workers WHERE database = 'alerts' AND pid IS NOT NULL});
is( $node->safe_psql('alerts', q{SELECT name, severity, scope, round(value::numeric, CASE WHEN value < 1 THEN 2 ELSE 0 END), round(threshold::numeric, 2) FROM idempotency.alerts WHERE name <> 'notes_dropped' ORDER BY name, scope}),
	"duplicate_rate|warning|unusual|0.31|0.30\nindeterminate|critical|unknown|1|0.00\nlate_duplicates|warning|young|2|0.00\nlease_expiring|warning|short|1|0.00\nleases_expired|warning|lease|1|0.00\nmismatches|warning|few|3|0.00\nrotation_late|warning|late|10800|7200.00",
	'alerts: what is beyond the thresholds, and nothing else');

#----------------------------------------------------------------------
# two databases with the same scopes; a reset
#----------------------------------------------------------------------
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', q{CREATE EXTENSION idempotency; SELECT idempotency.once('run', i::text) FROM generate_series(1, 7) AS i});
is(stats($node, 'run', 'executed, finished', 'shop'), '7|7', 'another database counts for itself');
is(stats($node, 'run', 'executed, finished'), '2|1', '... and not for this one');
is($node->safe_psql('shop', 'SELECT count(*) FROM idempotency.stats'), '1', '... nor shows its scopes');
my $before = stats($node, 'note', 'reset_at, executed');
is($node->safe_psql('postgres', q{SELECT idempotency.stats_reset('run'), idempotency.stats_reset('unknown')}), '1|0', 'one scope is reset');
is(stats($node, 'run', $columns . ', finished, aborted'), '0|0|0|0|0|0|0|0|0|0|0', '... all of it');
is($node->safe_psql('postgres', q{SELECT count(*) FROM idempotency.stats_latency WHERE scope = 'run'}), '0', '... the classes, too');
is(stats($node, 'note', 'reset_at, executed'), $before, '... and nothing else');
is(stats($node, 'run', 'executed', 'shop'), '7', '... of another database');
is(stats($node, 'run', q{now() - reset_at < interval '1 min'}), 't', '... which is dated');

#----------------------------------------------------------------------
# a clean restart keeps all, a crash what was written before
#----------------------------------------------------------------------
$before = all_counts($node);
my $shop = all_counts($node, 'shop');
$holder = claimer($node, 'open', 'k');
$node->safe_psql('postgres', q{SELECT idempotency.stats_reset('open')});
$node->stop('fast');
$node->start;
is($node->safe_psql('postgres', q{SELECT aborted FROM idempotency.stats WHERE scope = 'open'}), '1', 'a clean stop rolls back what is open, and counts it');
$node->safe_psql('postgres', q{SELECT idempotency.once('run', 'after')});
is(stats($node, 'run', 'executed'), '1', '... and counting goes on');
is( join("\n", grep { !/^(open|run)\|/ } split /\n/, all_counts($node)),
	join("\n", grep { !/^(open|run)\|/ } split /\n/, $before), 'a clean restart keeps every count');
is(all_counts($node, 'shop'), $shop, '... of every database');
$node->safe_psql('postgres', 'DROP DATABASE shop');
is($node->safe_psql('postgres', q{SELECT idempotency.once('after drop', 'k')}), 't', 'another database is dropped, and nobody minds');
$node->restart;
is(stats($node, 'after drop', 'executed'), '1', '... a restart does not, either');
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', q{CREATE EXTENSION idempotency; SELECT idempotency.once('run', 'k')});
is(stats($node, 'run', 'executed', 'shop'), '1', '... and one of its name begins at zero');
$node->safe_psql('postgres', q{SELECT idempotency.once('counted', 'k')});
my $kept = 0;
foreach (1 .. 600)
{
	last if $kept = slurp_file($node->data_dir . '/pg_stat/idempotency.stat') =~ /counted/;
	sleep(0.1);
}
ok($kept, 'the worker writes down what is counted');
$before = all_counts($node);
kill 'KILL', (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
try_start($node);
is(all_counts($node), $before, 'killed, and goes on with that');
is($node->safe_psql('postgres', 'SELECT idempotency.notes_dropped()'), '0', '... dropped notes begin at zero');
my $executed = stats($node, 'note', 'executed, replayed');
is($node->safe_psql('postgres', q{SELECT idempotency.once('note', 'rollback'); SELECT idempotency.once('note', 'crashed')}), "f\nt", '... the keys are all there');
is(stats($node, 'note', 'executed, replayed'), join('|', map { $_ + 1 } split(/\|/, $executed)), '... and counting goes on');
$node->stop;
# a file that isn't one
ok(unlink($node->data_dir . '/pg_stat/idempotency.stat'), 'a stopped server has a file');
append_to_file($node->data_dir . '/pg_stat/idempotency.stat', 'x' x 100);
$node->start;
is($node->safe_psql('postgres', q{SELECT count(*) FROM idempotency.stats; SELECT idempotency.once('note', 'crashed')}), "0\nf", 'a file that is not understood does no harm');
like(slurp_file($node->logfile), qr/idempotency\.stat" is not understood/, '... and is reported');
$node->stop;

#----------------------------------------------------------------------
# more scopes than there is room for; settings out of range
#----------------------------------------------------------------------
my $small = new_node('small', conf => "$conf idempotency.max_scopes = 3");

install_app($small);
$small->safe_psql('postgres', 'CREATE DATABASE shop');
$small->safe_psql('shop', 'CREATE EXTENSION idempotency');
$bench = run_pgbench($small, q{
\set n random(1, 20)
\set k random(1, 1000)
SELECT idempotency.once('s:n', 'k:k');
BEGIN;
SELECT outcome FROM idempotency.claim('s:n', 'rolled back :client_id');
ROLLBACK;
}, clients => 64, transactions => 10);
is($bench->{processed}, 640, '20 scopes and room for 3: no claim fails') or diag($bench->{err});
is($small->safe_psql('postgres', q{SELECT count(*), count(*) FILTER (WHERE scope = '(others)'), sum(executed + replayed), sum(finished + aborted + replayed), sum(aborted) FROM idempotency.stats}),
	'4|1|1280|1280|640', '... the others share a row, and the sums are exact');
is($small->safe_psql('postgres', q{SELECT sum(decisions) FROM idempotency.stats_latency WHERE function <> 'waiting'}), '1280', '... of the classes as well');
$small->safe_psql('shop', q{SELECT idempotency.once('shop', i::text) FROM generate_series(1, 5) AS i});
is($small->safe_psql('shop', q{SELECT string_agg(scope, ' ') FROM idempotency.stats}), '(others)', 'a database that comes late has only that row');
is($small->safe_psql('postgres', q{SELECT sum(executed + replayed) FROM idempotency.stats}), '1285', '... it is for all databases');
$small->poll_query_until('postgres', q{SELECT count(*) = 640 FROM idempotency.aborted_attempt});
is($small->safe_psql('postgres', q{SELECT count(DISTINCT scope) > 3, bool_or(scope = '(others)') FROM idempotency.aborted_attempt}), 't|f', 'aborted attempts say of which scope they are, all the same');
is(sqlstate($small, qq{ALTER SYSTEM SET idempotency.max_scopes = $_}), '22023', "max_scopes = $_ is refused") foreach 0, -1, 65537;
is(sqlstate($small, qq{ALTER SYSTEM SET idempotency.naptime = $_}), '22023', "naptime = $_ is refused") foreach 0, 99, -1, 3600001;
is(sqlstate($small, q{SET idempotency.max_scopes = 10}), '55P02', 'max_scopes is not for a session');
$small->append_conf('postgresql.conf', 'idempotency.naptime = 1ms');
$small->reload;
sleep(0.3);
is($small->safe_psql('postgres', 'SHOW idempotency.naptime'), '500ms', 'a bad value in the file, and the old one stays');
is($small->safe_psql('postgres', q{SELECT idempotency.stats_reset() > 3; SELECT sum(executed + aborted + replayed) FROM idempotency.stats}), "t\n0", 'a reset of everything');
$small->append_conf('postgresql.conf', 'idempotency.naptime = 500ms');
$small->append_conf('postgresql.conf', 'idempotency.max_scopes = 2');
$small->safe_psql('postgres', q{SELECT idempotency.once('s' || i, 'new') FROM generate_series(1, 20) AS i});
$small->restart;
is($small->safe_psql('postgres', q{SELECT sum(executed) FROM idempotency.stats}), '20', 'less room after a restart: the sum stays');
$small->append_conf('postgresql.conf', 'idempotency.max_scopes = 65536');
$small->restart;
is($small->safe_psql('postgres', q{SELECT sum(executed), bool_or(scope = '(others)') FROM idempotency.stats; SELECT idempotency.once('unheard of', 'k')}), "20|t\nt", 'the most room there can be: so it does');
is(stats($small, 'unheard of', 'executed'), '1', '... and there is room again');
$small->stop;
# (as PostgreSQL does with any library's setting)
foreach my $value (0, 65537)
{
	my $offset = -s $small->logfile;

	$small->append_conf('postgresql.conf', "idempotency.max_scopes = $value");
	$small->start;
	is($small->safe_psql('postgres', 'SHOW idempotency.max_scopes'), '256', "max_scopes = $value in the file is not taken");
	like(substr(slurp_file($small->logfile), $offset), qr/WARNING:  $value is outside the valid range for parameter "idempotency\.max_scopes"/, '... and it is said');
	$small->stop;
}

done_testing();
