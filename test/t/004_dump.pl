# Dump and restore: what took effect does not do so again after a restore.
#
# A dump carries the keys and the policies, in every format, whole or in parts,
# into a fresh cluster; nothing in it fails.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('dumped');
my $fresh = new_node('fresh');
my $dir = PostgreSQL::Test::Utils::tempdir();

install_app($node);
$node->safe_psql('postgres', q{
	CREATE ROLE app_role;
	GRANT USAGE ON SCHEMA idempotency TO app_role;
	GRANT EXECUTE ON FUNCTION idempotency.claim, idempotency.finish TO app_role;
	GRANT SELECT ON idempotency.keys TO app_role;
	SELECT idempotency.configure('short', retention => '1 h', wait => '0');
	SELECT idempotency.configure('week', retention => '10 days', exclude => ARRAY['$.sent_at']);
	SELECT idempotency.configure('month', retention => '60 days', role => 'app_role');
	SELECT idempotency.configure('ever', retention => 'infinity', store_request => true);
	SELECT idempotency.configure('*', max_attempts => 3);
	-- a scope that is on its way to another ring
	SELECT idempotency.configure('moved', retention => '10 days');
	SELECT idempotency.finish('moved', 'k-1', 'before') FROM idempotency.claim('moved', 'k-1');
	SELECT idempotency.configure('moved', retention => '1 h');
});
$node->safe_psql('postgres', q{
	SELECT count(idempotency.finish(s, 'k-' || i, CASE i % 4
			WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN E'line\nbreak \\ tab\t "quoted"'
			ELSE repeat('päckchen ', 20000) END, principal => 'tenant ' || i % 3))
	FROM unnest(ARRAY['short', 'day', 'week', 'month', 'ever']) AS s, generate_series(1, 60) AS i,
		LATERAL idempotency.claim(s, 'k-' || i, '{"amount": ' || i || ', "sent_at": 1}',
			principal => 'tenant ' || i % 3) AS c;
});
$node->safe_psql('postgres', q{
	SELECT f.outcome FROM idempotency.claim('day', 'failed') AS c,
		LATERAL idempotency.fail('day', 'failed', 'no money', retryable => false) AS f;
	SELECT f.outcome FROM idempotency.claim('day', 'retry') AS c,
		LATERAL idempotency.fail('day', 'retry', 'later', retry_after_ms => 3600000) AS f;
	SELECT deliver('from-app-' || i) FROM generate_series(1, 100) AS i;
});
my $fence = $node->safe_psql('postgres', q{
	SELECT fence FROM idempotency.claim('day', 'leased', '{"n": 1}', lease => '1 h', owner => 'me', state => 'begun')});
$node->safe_psql('postgres', qq{SELECT idempotency.checkpoint('day', 'leased', $fence, 'half', E'h\303\244lf \t')});

# What is remembered, every byte and column of it.
my $fingerprint_of_all = q{
	SELECT count(*), md5(string_agg(md5(k::text), '' ORDER BY k.scope, k.principal, k.key))
	FROM (
		SELECT k.*, p.response, p.error, p.outcome AS peeked
		FROM idempotency.keys AS k,
			LATERAL idempotency.peek(k.scope, k.key, k.principal) AS p) AS k};
my $policies = q{SELECT md5(string_agg(p::text, '' ORDER BY p.scope)) FROM idempotency.scope_policy AS p};
my $keys = $node->safe_psql('postgres', $fingerprint_of_all);
my $settings = $node->safe_psql('postgres', $policies);

like($keys, qr/^404\|/, 'there are keys in every ring');

# What an application meets after a restore.
sub check_restored
{
	my ($server, $db, $what) = @_;

	is($server->safe_psql($db, $fingerprint_of_all), $keys, "$what: all keys are there");
	is($server->safe_psql($db, $policies), $settings, "$what: and all policies");
	is( $server->safe_psql(
			$db, q{
			SELECT count(*) FROM unnest(ARRAY['short', 'day', 'week', 'month', 'ever']) AS s,
				generate_series(1, 60) AS i,
				LATERAL idempotency.claim(s, 'k-' || i, '{"sent_at": 1, "amount": ' || i || '.0}',
					principal => 'tenant ' || i % 3) AS c
			WHERE c.outcome = 'replay'}),
		'300',
		"$what: every claim is a replay");
	is( $server->safe_psql(
			$db, q{
			SELECT string_agg(DISTINCT c.outcome, ' ') FROM generate_series(1, 60) AS i,
				LATERAL idempotency.claim('week', 'k-' || i, '{"amount": 0}',
					principal => 'tenant ' || i % 3) AS c}),
		'mismatch',
		"$what: with another request, a mismatch");
	is( $server->safe_psql(
			$db, q{
			SELECT outcome, failed, error FROM idempotency.claim('day', 'failed')
			UNION ALL SELECT outcome, failed, error FROM idempotency.claim('day', 'retry')
			UNION ALL SELECT outcome, failed, response FROM idempotency.claim('moved', 'k-1')}),
		"replay|t|no money\nretry_later|t|later\nreplay|f|before",
		"$what: failures, and the scope that was moving");
	like($server->safe_psql($db, q{SELECT deliver('new one')}),
		qr/^execute/, "$what: what is new executes");
	is( $server->safe_psql(
			$db, q{
			SELECT outcome, fence, attempt, recovery_point, state = E'h\303\244lf \t'
			FROM idempotency.claim('day', 'leased', '{"n": 1.0}', lease => '1 h', owner => 'me')}),
		"resume|$fence|1|half|t",
		"$what: the holder of a lease is known, and how far it has come");
	is( $server->safe_psql($db, "SELECT outcome FROM idempotency.claim('day', 'leased', wait => '0');
			SELECT idempotency.finish('day', 'leased', 'done', fence => $fence) IS NOT NULL;
			SELECT outcome, response FROM idempotency.claim('day', 'leased')"),
		"in_progress\nt\nreplay|done",
		"$what: ... and finishes");
	is( $server->safe_psql(
			$db, q{SELECT has_function_privilege('app_role', 'idempotency.finish(text, text, text, bigint, interval, text, text)', 'EXECUTE')
				AND has_table_privilege('app_role', 'idempotency.keys', 'SELECT')
				AND NOT has_table_privilege('app_role', 'idempotency.key_day_0', 'SELECT')}),
		't',
		"$what: with the rights that were granted");
	return;
}

# Run a client program on a server; it must say nothing but what it is told to.
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

$fresh->safe_psql('postgres', 'CREATE ROLE app_role');

#----------------------------------------------------------------------
# whole dumps, each format
#----------------------------------------------------------------------
run_ok($node, 'custom: dumped', 'pg_dump', '-Fc', '-f', "$dir/custom", 'postgres');
run_ok($node, 'directory: dumped', 'pg_dump', '-Fd', '-j2', '-f', "$dir/directory", 'postgres');
run_ok($node, 'plain: dumped', 'pg_dump', '-Fp', '-f', "$dir/plain", 'postgres');
run_ok($node, 'tar: dumped', 'pg_dump', '-Ft', '-f', "$dir/tar", 'postgres');

foreach my $format ('custom', 'directory', 'tar')
{
	my @jobs = $format eq 'tar' ? () : ('-j2');

	$fresh->safe_psql('postgres', "CREATE DATABASE $format");
	run_ok($fresh, "$format: restored", 'pg_restore', '--exit-on-error', @jobs, '-d', $format,
		"$dir/$format");
	check_restored($fresh, $format, $format);
}
$fresh->safe_psql('postgres', 'CREATE DATABASE plain');
run_ok($fresh, 'plain: restored', 'psql', '-Xqo', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-d', 'plain',
	'-f', "$dir/plain");
check_restored($fresh, 'plain', 'plain');

# restored once more, over what is there
run_ok($fresh, 'clean: restored', 'pg_restore', '--exit-on-error', '--clean', '--if-exists', '-d',
	'custom', "$dir/custom");
check_restored($fresh, 'custom', 'clean');

#----------------------------------------------------------------------
# in parts: first the schema, then the data
#----------------------------------------------------------------------
run_ok($node, 'schema only: dumped', 'pg_dump', '--schema-only', '-Fc', '-f', "$dir/schema", 'postgres');
run_ok($node, 'data only: dumped', 'pg_dump', '--data-only', '-Fc', '-f', "$dir/data", 'postgres');
$fresh->safe_psql('postgres', 'CREATE DATABASE parts');
run_ok($fresh, 'schema only: restored', 'pg_restore', '--exit-on-error', '-d', 'parts', "$dir/schema");
is( $fresh->safe_psql('parts', q{SELECT count(*) FROM idempotency.keys}),
	'0', 'schema only: no key is in it');
run_ok($fresh, 'data only: restored', 'pg_restore', '--exit-on-error', '-d', 'parts', "$dir/data");
check_restored($fresh, 'parts', 'parts');

# the data into a database where the extension was in use already, in a session
# that had read the policies before
$fresh->safe_psql('postgres', 'CREATE DATABASE used');
run_ok($fresh, 'used: schema restored', 'pg_restore', '--exit-on-error', '-d', 'used', "$dir/schema");
my $session = session($fresh, db => 'used');
like($session->query_safe(q{SELECT retention FROM idempotency.policy('short')}),
	qr/^24:00:00$/, 'used: the default policy before the restore');
run_ok($fresh, 'used: data restored', 'pg_restore', '--exit-on-error', '-d', 'used', "$dir/data");
$session->quit;
$session = session($fresh, db => 'used');
is($session->query_safe(q{SELECT wait FROM idempotency.policy('short')}),
	'00:00:00', 'used: the restored policy in a new session');
$session->quit;
check_restored($fresh, 'used', 'used');

#----------------------------------------------------------------------
# single tables
#----------------------------------------------------------------------
run_ok($node, 'tables: dumped', 'pg_dump', '--data-only', '-Fc', '-t', 'idempotency.key_*', '-t',
	'idempotency.scope_policy', '-f', "$dir/tables", 'postgres');
$fresh->safe_psql('postgres', 'CREATE DATABASE tables');
run_ok($fresh, 'tables: schema restored', 'pg_restore', '--exit-on-error', '-d', 'tables', "$dir/schema");
run_ok($fresh, 'tables: restored', 'pg_restore', '--exit-on-error', '-d', 'tables', "$dir/tables");
check_restored($fresh, 'tables', 'tables');

# a dump of the application alone leaves the keys out, and says so by restoring
# without them
run_ok($node, 'one table: dumped', 'pg_dump', '-Fc', '-t', 'effect', '-f', "$dir/one", 'postgres');
$fresh->safe_psql('postgres', 'CREATE DATABASE one');
run_ok($fresh, 'one table: restored', 'pg_restore', '--exit-on-error', '-d', 'one', "$dir/one");
is($fresh->safe_psql('one', 'SELECT count(*) FROM effect'), '100', 'one table: its rows are there');

$node->stop;
$fresh->stop;
done_testing();
