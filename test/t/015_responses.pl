# Tokens, invalidation and stampedes: over crashes, dumps and standbys, and with
# many clients at once.
#
# The effects table has no unique constraint, so that a duplicate can show.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $refused = 'ID401';
my $node = new_node('primary', init => [ allows_streaming => 1 ],
	conf => "log_statement = none\nlog_min_messages = log\n");

install_app($node);
$node->safe_psql('postgres', q{
	SELECT idempotency.configure('app.token', require_token => true);
	CREATE TABLE done (key text);
	CREATE FUNCTION bring(token text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		RETURN (SELECT outcome FROM idempotency.run('app.token', token, 'SELECT 1'));
	EXCEPTION WHEN others THEN
		RETURN sqlstate;
	END $$;
	CREATE FUNCTION make(key text, tag text DEFAULT NULL, seconds float DEFAULT 0) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		c record;
	BEGIN
		SELECT * INTO c FROM idempotency.claim('app.page', make.key);
		IF c.outcome = 'execute' THEN
			INSERT INTO done VALUES (make.key);
			PERFORM pg_sleep(seconds);
			PERFORM idempotency.finish('app.page', make.key, 'by ' || pg_backend_pid(), tag => make.tag);
			RETURN 'execute';
		END IF;
		RETURN c.outcome || coalesce(' ' || c.reason, '');
	END $$;
});

# What a claim of a page answers.
sub ask
{
	my ($server, $key, $db) = @_;

	return $server->safe_psql($db // 'postgres', "SELECT make('$key', 'tag')");
}

# One more token.
sub token
{
	my ($server, $db) = @_;

	return $server->safe_psql($db // 'postgres',
		q{SELECT idempotency.issue_token('app.token', ttl => '1 h')});
}

# The answer, or SQLSTATE, of a claim that brings it.
sub bring
{
	my ($token, $db) = @_;

	return $node->safe_psql($db // 'postgres', "SELECT bring('$token')");
}

#----------------------------------------------------------------------
# a standby makes no signing key
#----------------------------------------------------------------------
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

is(sqlstate($standby, q{SELECT idempotency.issue_token('app.token')}), '25006',
	'a standby makes no signing key');
is(sqlstate($standby, q{SELECT idempotency.rotate_token_key()}), '25006', 'nor a new one');

my $token = token($node);
$node->wait_for_catchup($standby);
my $of_standby = token($standby);

is(bring($of_standby), 'execute', 'with a key, it issues tokens that are good on the primary');
is(bring($token), 'execute', "so are the primary's own");

#----------------------------------------------------------------------
# a token that many bring at once executes once
#----------------------------------------------------------------------
$node->safe_psql('postgres', q{
	CREATE TABLE token AS SELECT i, idempotency.issue_token('app.token') AS token FROM generate_series(0, 19) AS i;
	CREATE TABLE spent (token text);
});
my $storm = start_pgbench($node, q{
	\set i random(0, 19)
	WITH t AS (SELECT token FROM token WHERE i = :i)
	SELECT outcome FROM t, idempotency.run('app.token', t.token, 'INSERT INTO spent VALUES ($1 ->> 0)', jsonb_build_array(t.token));
}, clients => 20, transactions => 50);
wait_pgbench($storm);
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT token) FROM spent'), '20|20',
	'20 tokens that 20 clients bring 50 times each: 20 effects');

#----------------------------------------------------------------------
# secrets are in no log, and in no dump
#----------------------------------------------------------------------
$node->safe_psql('postgres', 'SELECT idempotency.rotate_token_key()');
my @secrets = split /\n/, $node->safe_psql('postgres',
	q{SELECT encode(secret, 'hex') FROM idempotency.token_key UNION ALL SELECT encode(secret, 'base64') FROM idempotency.token_key});
my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump.sql";

is(scalar @secrets, 4, 'two keys, in two forms');
$node->safe_psql('postgres', q{SELECT make('dumped', 'tag'), make('kept', 'other')});
$node->safe_psql('postgres', q{SELECT idempotency.invalidate('app.page', 'tag', 'MARK')});
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'a dump');
my $dumped = slurp_file($dump);
my $log = slurp_file($node->logfile);

is(scalar(grep { index($dumped, $_) >= 0 } @secrets), 0, 'the dump has no secret');
unlike($dumped, qr/COPY idempotency\.token_key/, 'nor the table of signing keys');
like($dumped, qr/COPY idempotency\.tag_generation/, 'it has the invalidations');
is(scalar(grep { index($log, $_) >= 0 } @secrets), 0, 'the log has no secret');
unlike($log, qr/\Q$token\E|\Q$of_standby\E/, 'nor a token');
like($log, qr/signing key of idempotency tokens rotated by role/, 'it tells of the rotation');
like($log, qr/responses invalidated by role .* in scope "app.page"\n.*Reason: MARK/, 'and of the invalidation');

$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', $dump ], 'restored');
is($node->safe_psql('restored', 'SELECT count(*) FROM idempotency.token_key'), '0', 'without signing keys');
is(bring(token($node), 'restored'), $refused, "the other database's tokens are refused");
is(bring(token($node, 'restored'), 'restored'), 'execute', 'it makes its own');
is(ask($node, 'kept', 'restored'), 'replay', 'responses are replayed');
is(ask($node, 'dumped', 'restored'), 'execute', 'unless they were invalidated');
is(ask($node, 'dumped', 'restored'), 'replay', 'once');
$node->safe_psql('restored', q{SELECT idempotency.invalidate('app.page', 'tag', 'test')});
is(ask($node, 'dumped', 'restored'), 'execute', 'and generations go on');

#----------------------------------------------------------------------
# what was invalidated stays so over a crash, and on the standby
#----------------------------------------------------------------------
is(ask($node, 'crash'), 'execute', 'a response');
is(ask($node, 'crash'), 'replay', 'replayed');
$node->safe_psql('postgres', q{SELECT idempotency.invalidate('app.page', 'tag', 'test')});
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT reason FROM idempotency.peek('app.page', 'crash')}),
	'invalidated', 'the standby sees the invalidation');
$node->stop('immediate');
$node->start;
is(ask($node, 'crash'), 'execute', 'invalidated, also after a crash');

my $prepared = session($node);
$prepared->query_safe(q{BEGIN; SELECT idempotency.invalidate('app.page', 'tag', 'test'); PREPARE TRANSACTION 'invalidate'});
$prepared->quit;
is(ask($node, 'crash'), 'replay', 'a prepared invalidation is none yet');
$node->stop('immediate');
$node->start;
is(ask($node, 'crash'), 'replay', 'nor after a crash');
# this session has read the generation before, and is told
my $reader = session($node);
is($reader->query_safe(q{SELECT make('crash', 'tag')}), 'replay', 'a session that has read the generation');
$node->safe_psql('postgres', q{COMMIT PREPARED 'invalidate'});
is($reader->query_safe(q{SELECT make('crash', 'tag')}), 'execute', 'learns of it');
# also in the middle of a transaction that holds every lock already
$reader->query_safe(q{BEGIN; LOCK TABLE idempotency.scope_policy IN ACCESS SHARE MODE});
is($reader->query_safe(q{SELECT make('crash', 'tag')}), 'replay', 'in a transaction');
$node->safe_psql('postgres', q{SELECT idempotency.invalidate('app.page', 'tag', 'test')});
is($reader->query_safe(q{SELECT make('crash', 'tag')}), 'execute', 'it learns of it, too');
$reader->query_safe('COMMIT');
$reader->quit;

#----------------------------------------------------------------------
# stampede: one executes, the others wait for it
#----------------------------------------------------------------------
foreach my $wait ('infinity', '20 s')
{
	my $key = "stampede $wait";

	$node->safe_psql('postgres', qq{SELECT idempotency.configure('app.page', wait => '$wait')});
	wait_pgbench(start_pgbench($node, "SELECT make('$key', 'tag', 0.2);", clients => 60, transactions => 1));
	is($node->safe_psql('postgres', "SELECT count(*) FROM done WHERE key = '$key'"), '1',
		"60 clients, wait $wait: one executes");
}
# who doesn't wait is told so
$node->safe_psql('postgres', q{SELECT idempotency.configure('app.page', wait => '0')});
my $executor = session($node);
$executor->query_safe(q{BEGIN; SELECT make('hurry', 'tag')});
is(ask($node, 'hurry'), 'in_progress', 'without waiting: in progress');
$executor->query_safe('ROLLBACK');
$executor->quit;

# the executor dies: one of those who wait takes over, and the others wait for it
$node->safe_psql('postgres', q{SELECT idempotency.configure('app.page', wait => '20 s');
	CREATE TABLE outcome (what text)});
my $doomed = session($node);
my $pid = $doomed->query_safe('SELECT pg_backend_pid()');
$doomed->query_safe(q{BEGIN; SELECT make('doomed', 'tag')});
my $waiters = start_pgbench($node,
	q{INSERT INTO outcome SELECT make('doomed', 'tag', 0.2);}, clients => 20, transactions => 1);
ok($node->poll_query_until('postgres', q{SELECT count(*) = 20 FROM pg_stat_activity
	WHERE query LIKE 'INSERT INTO outcome%' AND state = 'active'}), '20 wait');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_pgbench($waiters);
is($node->safe_psql('postgres', q{SELECT count(*) FROM done WHERE key = 'doomed'}), '1', 'the executor dies: one effect');
is($node->safe_psql('postgres', 'SELECT what, count(*) FROM outcome GROUP BY 1 ORDER BY 1'),
	"execute|1\nreplay|19", 'one of the waiters has taken over, the others have its response');
$doomed->quit;

# an invalidation in the middle of it all: nobody is told what was read before
$node->safe_psql('postgres', q{
	CREATE TABLE price (amount int);
	INSERT INTO price VALUES (0);
	CREATE TABLE told (response int, was int);
});
my $askers = start_pgbench($node, q{
	BEGIN;
	SELECT amount AS before FROM price \gset
	SELECT (response::jsonb -> 0 ->> 'amount')::int AS now FROM idempotency.run('app.price', 'p', 'SELECT amount FROM price', tag => 'price') \gset
	END;
	INSERT INTO told SELECT :now, :before WHERE :now < :before;
}, clients => 8, seconds => 6);
my $n = 0;
my $end = time() + 5;
while (time() < $end)
{
	$node->safe_psql('postgres', q{BEGIN; UPDATE price SET amount = amount + 1;
		SELECT idempotency.invalidate('app.price', 'price', 'test'); COMMIT});
	$n++;
}
wait_pgbench($askers);
cmp_ok($n, '>', 10, "$n invalidations");
is($node->safe_psql('postgres', 'SELECT count(*) FROM told'), '0', 'nobody was told of a price before the one he knew');

#----------------------------------------------------------------------
# what isn't needed any more goes
#----------------------------------------------------------------------
SKIP:
{
	skip 'the library with fault points is not built', 7 unless have_test_library();
	use_test_library($node);
	my $later = session($node);

	$later->query_safe(q{SELECT idempotency.invalidate('app.forever', 'tag', 'test')});
	$later->query_safe(q{SELECT idempotency.configure('app.forever', retention => 'infinity')});
	$later->query_safe('SET idempotency.clock_offset = 86400');
	is($later->query_safe(q{SELECT duty, result FROM idempotency.maintain() WHERE duty IN ('tags', 'token keys')}),
		'token keys|deleted', 'a day later: the old signing key');
	cmp_ok($later->query_safe('SELECT count(*) FROM idempotency.tag_generation'), '>=', 3, 'tags are needed yet');
	# this session knows a generation that is about to go
	my $keeper = session($node);
	$keeper->query_safe(q{SELECT make('keeper', 'tag')});
	is($keeper->query_safe(q{SELECT make('keeper', 'tag')}), 'replay', 'a session remembers the generation');
	$later->query_safe('SET idempotency.clock_offset = 180300');
	is($later->query_safe(q{SELECT duty, result FROM idempotency.maintain() WHERE duty IN ('tags', 'token keys')}),
		'tags|done', 'a day, a lease and a day later: the tags');
	is($later->query_safe('SELECT scope FROM idempotency.tag_generation'), 'app.forever', 'but for those of keys that never expire');
	$later->query_safe('RESET idempotency.clock_offset');
	$later->query_safe(q{SELECT make('later', 'tag')});
	is($keeper->query_safe(q{SELECT make('later', 'tag')}), 'replay', 'and learns that it has gone');
	$keeper->quit;
	$later->query_safe(q{SELECT make('again', 'tag')});
	$later->query_safe(q{SELECT idempotency.invalidate('app.page', 'tag', 'test')});
	is($later->query_safe(q{SELECT make('again', 'tag')}), 'execute', 'and the tag goes on');
	$later->quit;
}

$standby->stop;
$node->stop;
done_testing();
