# Spans, refusals in the log, and the report, on a server that preloads.
#
# What is exported is judged by OpenTelemetry's own transformer, from npm
# (test/clients/otlp).

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Copy qw(copy);
use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $trace = '4bf92f3577b34da6a3ce929d0e0e4736';
my $parent = "00-$trace-00f067aa0ba902b7";
my $node = new_node('spans', init => [ allows_streaming => 1 ], conf => q{
shared_preload_libraries = 'idempotency'
idempotency.span_buffer = 64kB
idempotency.naptime = 500ms
});

sub sql { return $node->safe_psql('postgres', @_); }
install_app($node);

# Spans that there are, as name and columns; takes them.
sub spans
{
	my ($columns) = @_;
	my $spans = sql("SELECT $columns FROM idempotency.spans");

	sql('SELECT idempotency.otlp_spans(1000000)');
	return $spans;
}

#----------------------------------------------------------------------
# sampling
#----------------------------------------------------------------------
my $traced = "/*traceparent='$parent-01'*/";
sql(qq{SELECT idempotency.once('s', 'off') $traced});
is(sql('SELECT recorded, sample_rate FROM idempotency.trace_status()'), '0|0', 'by default there are no spans');
sql(q{ALTER SYSTEM SET idempotency.trace_sample_rate = 0.000001});
$node->reload;
$node->poll_query_until('postgres', q{SELECT sample_rate > 0 FROM idempotency.trace_status()});
sql(qq{SELECT idempotency.once('s', 'sampled') $traced});
is(spans(q{string_agg(name, ' '), bool_and(trace_id = '} . $trace . q{'), min(parent_span_id) FILTER (WHERE name LIKE '%once') }),
	"idempotency.once idempotency.probe idempotency.insert|t|00f067aa0ba902b7", 'whatever the rate, the client says that it is sampled');
sql(q{ALTER SYSTEM SET idempotency.trace_sample_rate = 1});
$node->reload;
$node->poll_query_until('postgres', q{SELECT sample_rate = 1 FROM idempotency.trace_status()});
sql(qq{SELECT idempotency.once('s', 'unsampled') /*traceparent='$parent-00'*/});
is(spans('count(*)'), '0', '... or that it is not');
sql(q{BEGIN; SELECT outcome FROM idempotency.claim('s', 'own'); SELECT idempotency.finish('s', 'own', 'r'); COMMIT;
	SELECT idempotency.once('s', 'other')});
is(spans(q{string_agg(name, ' '), count(DISTINCT trace_id)}),
	'idempotency.claim idempotency.probe idempotency.insert idempotency.finish idempotency.update idempotency.once idempotency.probe idempotency.insert|2',
	'without a trace each transaction has its own');

#----------------------------------------------------------------------
# where the trace comes from
#----------------------------------------------------------------------
# The trace of a call that ends in this comment, or has this setting.
sub trace_of
{
	my ($comment, $setting) = @_;

	sql(($setting ? "SET idempotency.traceparent = '$setting';" : '') . "SELECT idempotency.once('s', 'trace') $comment");
	return spans(q{min(trace_id) FILTER (WHERE parent_span_id IS NOT NULL AND name LIKE '%once')});
}
sub unparsable { return sql('SELECT unparsable FROM idempotency.trace_status()'); }

my $before = unparsable();
is(trace_of($_), $trace, "read: $_") foreach (
	"/*traceparent='$parent-01'*/",
	"/* application='a%2Fb' , traceparent = '$parent-01' */ ; ",
	"/*a='it\\'s',traceparent='$parent-01',tracestate='x%3Dy'*/",
	"/*trace%70arent='" . ($parent =~ s/-/%2D/gr) . "%2d01'*/\n",
	"/*first*/ /*traceparent='$parent-01'*/",
	"/*traceparent='$parent-01'*/\n;\n");
is(trace_of('', "$parent-01"), $trace, 'read: the setting');
is(trace_of("/*traceparent='$parent-01'*/", '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'), $trace, 'the comment is nearer');
is(trace_of("/*traceparent='x'*/", "$parent-01"), $trace, 'a setting where the comment is unparsable');
is(unparsable(), $before, 'nothing was unparsable');
is(trace_of($_), '', "not read, no error: $_") foreach (
	'/**/', '/*traceparent*/', "/*traceparent=*/", "/*traceparent='$parent-01*/", "/*a='b' traceparent*/",
	"/*xtraceparent='$parent-01'*/", "/*,,,*/", "/*'*/", "/*=*/", "/*a='%*/", '/*' . ('x' x 9000) . '*/',
	"/*traceparent='$parent-01'*/ AS t");
is(unparsable(), $before, '... what has no traceparent is not counted');
is(trace_of($_), '', "unparsable, no error: $_") foreach (
	"/*traceparent=''*/", "/*traceparent='$parent'*/", "/*traceparent='$parent-01-x'*/", "/*traceparent='ff-$trace-00f067aa0ba902b7-01'*/",
	"/*traceparent='00-" . ('0' x 32) . "-00f067aa0ba902b7-01'*/", "/*traceparent='" . ('0' x 500) . "'*/", "/*traceparent='%00$parent-01'*/",
	"/*traceparent='\U$parent\E-01'*/");
is(trace_of('', 'nonsense'), '', '... nor as a setting');
is(unparsable(), $before + 9, '... and each is counted');
sql(qq{BEGIN; SELECT outcome FROM idempotency.claim('s', 'undone') $traced; ROLLBACK});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM idempotency.ledger WHERE decision = 'aborted' AND key = 'undone'});
is(sql(q{SELECT encode(trace_id, 'hex') FROM idempotency.ledger WHERE key = 'undone'}), $trace, 'an attempt that was rolled back has the trace of its claim in the ledger');
is(spans('count(*)'), '3', '... and its spans');

#----------------------------------------------------------------------
# what spans say
#----------------------------------------------------------------------
my $f = sql(q{SELECT fence FROM idempotency.claim('s', 'leased', lease => '1 h')});
my $stale = $f + 1;
is(spans(q{DISTINCT fence = } . $f . q{ FROM idempotency.spans WHERE name = 'idempotency.claim' UNION SELECT true}), 't', 'the fence');
is(sqlstate($node, qq{SELECT idempotency.finish('s', 'leased', 'r', fence => $stale)}), 'ID412', 'a stale fence');
is(spans(q{sqlstate, outcome IS NULL, scope}) =~ s/\n.*//sr, 'ID412|t|s', '... has a span, with its error');
sql(q{SELECT response FROM idempotency.run('s', 'run', 'SELECT idempotency.once(''s'', ''inner'') FROM pg_sleep(0.05)')});
is(sql(q{SELECT c.name FROM idempotency.spans AS c JOIN idempotency.spans AS p ON c.parent_span_id = p.span_id
		WHERE p.name = 'idempotency.run' AND c.trace_id = p.trace_id ORDER BY c.started_at}),
	join("\n", map { "idempotency.$_" } qw(probe insert command once update)), 'run(), its steps, and what its command calls');
is(sql(q{SELECT duration_us >= 50000 FROM idempotency.spans WHERE name = 'idempotency.command'}), 't', '... takes its time');
is(sql(q{SELECT p50_us < 50000 FROM idempotency.latency WHERE scope = 's' AND function = 'run'}), 't', '... which is no latency of the decision');
spans('1');
my $holder = session($node);
$holder->query_safe(q{BEGIN; SELECT outcome FROM idempotency.claim('s', 'held')});
my $waiter = session($node);
$waiter->query_until(qr/waiting/, "\\echo waiting\nSELECT outcome FROM idempotency.claim('s', 'held', wait => '60 s') $traced;\n");
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type IN ('Extension') AND query LIKE '%claim%'});
sleep(0.1);
$holder->query_safe(q{SELECT idempotency.finish('s', 'held', 'r'); COMMIT});
$_->quit foreach $waiter, $holder;
is(sql(qq{SELECT count(*) FROM idempotency.spans WHERE name = 'idempotency.holder_wait' AND duration_us > 90000 AND trace_id = '$trace'}), '1', 'a wait for the holder is one step');
sql(q{SELECT secret FROM (SELECT 'very secret' AS secret) AS s, idempotency.claim('s', s.secret, s.secret, principal => s.secret, lease => '1 h')});
# sagas: what their functions are answered, and attempts to undo a step
spans('1');
sql(q{
	SELECT idempotency.configure('trip', backoff_base => '10 ms', backoff_cap => '20 ms');
	CREATE FUNCTION undo_seat(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM idempotency.once('refund', context->>'idempotency_key'), pg_sleep(0.05);
		IF context->>'attempt' = '1' THEN
			RAISE EXCEPTION 'secret' USING ERRCODE = 'TR001';
		END IF;
	END $$});

# A saga of that key, a seat and a mail; it is given up, and the mail undone.
sub trip
{
	my ($key) = @_;
	my $fence = sql("SELECT fence FROM idempotency.claim('trip', '$key', lease => '1 h')");

	sql(qq{
		SELECT idempotency.compensate_with('trip', '$key', $fence, 'seat', 'undo_seat(text, jsonb)');
		SELECT idempotency.step_done('trip', '$key', $fence, 'seat', 'secret');
		SELECT idempotency.compensate_with('trip', '$key', $fence, 'mail');
		SELECT idempotency.compensate('trip', '$key', $fence);
		SELECT fence AS taken FROM idempotency.next_compensation('trip') \\gset
		SELECT idempotency.settle_compensation('trip', '$key', 'mail', :taken);
		SELECT count(*) FROM idempotency.next_compensation('trip')});
	return $fence;
}
my $fence = trip('secret');
ok($node->poll_query_until('postgres', q{SELECT state = 'compensated' FROM idempotency.sagas WHERE key = 'secret'}), 'a saga is undone by the helper');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM idempotency.spans WHERE name = 'idempotency.compensation'}), '... with a span for each attempt');
is(sql(q{SELECT function, outcome, attempt FROM idempotency.spans WHERE scope = 'trip' AND name = 'idempotency.' || function AND function <> 'claim' ORDER BY started_at}),
	join("\n", 'compensate_with|registered|', 'step_done|done|', 'compensate_with|registered|', 'compensate|compensating|',
		'next_compensation|begun|1', 'settle_compensation|compensated|1', 'next_compensation|nothing|', 'compensation|retry_later|1', 'compensation|compensated|2'),
	'... and what was answered');
is(sql(qq{SELECT string_agg(coalesce(sqlstate, '-'), ' ' ORDER BY attempt), bool_and(fence = $fence), bool_and(parent_span_id IS NULL), count(DISTINCT trace_id), count(DISTINCT pid)
		FROM idempotency.spans WHERE name = 'idempotency.compensation'}), 'TR001 -|t|t|2|1', '... with the error, the fence of the claim, and a trace of its own');
my $below = q{FROM idempotency.spans AS c JOIN idempotency.spans AS p ON c.parent_span_id = p.span_id AND c.trace_id = p.trace_id WHERE p.name = 'idempotency.compensation'};
is(sql("SELECT count(*), bool_and(c.duration_us BETWEEN 50000 AND p.duration_us) $below AND c.name = 'idempotency.handler'"), '2|t', '... the time of the handler');
is(sql("SELECT count(*) $below AND c.name = 'idempotency.once'"), '2', '... and what that calls');
is(sql(q{SELECT string_agg(function, ' ' ORDER BY function), bool_and(p50_us < 50000) FROM idempotency.latency WHERE scope = 'trip'}),
	'claim compensate compensate_with compensation next_compensation settle_compensation step_done|t', 'latencies of all of them, without the handler');
unlike(spans(q{string_agg(s::text, ' ') FROM idempotency.spans AS s UNION ALL SELECT idempotency.otlp_spans(100000)}), qr/secret/, 'no key, result or error');
# by a session: in its trace
$fence = sql(q{SELECT fence FROM idempotency.claim('trip', 'session', lease => '1 h')});
spans('1');
is(sql(qq{BEGIN;
	SELECT idempotency.compensate_with('trip', 'session', $fence, 'seat', 'undo_seat(text, jsonb)');
	SELECT idempotency.compensate('trip', 'session', $fence);
	SELECT outcome, error FROM idempotency.run_compensations() $traced;
	COMMIT}), "1\nt\nretry_later|secret", 'run_compensations()');
is(sql(qq{SELECT outcome, sqlstate, attempt, fence = $fence, parent_span_id FROM idempotency.spans WHERE name = 'idempotency.compensation' AND trace_id = '$trace'}),
	'retry_later|TR001|1|t|00f067aa0ba902b7', '... is in the trace of the caller');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM idempotency.spans WHERE name = 'idempotency.compensation'}), '... and the helper goes on');
ok($node->poll_query_until('postgres', q{SELECT bool_and(state = 'compensated') FROM idempotency.sagas}), '... until it is undone');
like(sql('SELECT idempotency.report()'), qr/^SAGAS\n +2  compensated +trip$/m, 'report: sagas by state');
is(sqlstate($node, q{SELECT idempotency.step_done('trip', 'none', 1, 'seat')}), 'ID404', 'a saga that is not there');
is(sql(q{SELECT sqlstate, scope FROM idempotency.spans WHERE function = 'step_done' AND name = 'idempotency.step_done'}), 'ID404|trip', '... has a span, with its error');
unlike(sql('SELECT idempotency.otlp_spans(100000)'), qr/secret/, 'no key, principal or payload');
is(sql('SELECT idempotency.otlp_spans() IS NULL'), 't', 'taken is taken');
is(sqlstate($node, 'SELECT idempotency.otlp_spans(0)'), 'ID400', 'max = 0 is refused');

#----------------------------------------------------------------------
# a buffer that is full
#----------------------------------------------------------------------
my $room = sql('SELECT room FROM idempotency.trace_status()');
my $dropped = sql('SELECT dropped FROM idempotency.trace_status()');
sql(qq{SELECT count(idempotency.once('s', 'full' || i)) FROM generate_series(1, $room) AS i});
is(sql(qq{SELECT used, dropped - $dropped FROM idempotency.trace_status()}), "$room|" . (2 * $room), 'the oldest make way, and are counted');
is(sql(q{SELECT count(*), count(DISTINCT span_id) FROM idempotency.spans}), "$room|$room", '... the newest are there');
sql('SELECT idempotency.otlp_spans(10)');
is(sql(q{SELECT count(*) FROM idempotency.spans}), $room - 10, 'some are taken');
$node->safe_psql('template1', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION idempotency');
is($node->safe_psql('other', 'SELECT count(*) FROM idempotency.spans; SELECT idempotency.otlp_spans() IS NULL'), "0\nt", 'another database does not see them, nor take them');
# several take at once: no span twice, none lost
spans('1');
my $counted = sql('SELECT taken FROM idempotency.trace_status()');
sql(q{CREATE TABLE taken (t text)});
my $bench = run_pgbench($node, q{
SELECT idempotency.once('s', 'many' || :client_id || '/' || random());
INSERT INTO taken SELECT t FROM idempotency.otlp_spans(2) AS t WHERE t IS NOT NULL;
}, clients => 8, transactions => 40);
is($bench->{processed}, 320, 'eight sessions make spans and take them');
sql(q{INSERT INTO taken SELECT t FROM idempotency.otlp_spans(1000000) AS t WHERE t IS NOT NULL});
is(sql(q{SELECT count(*), count(DISTINCT s ->> 'spanId') FROM taken, jsonb_array_elements(t::jsonb #> '{resourceSpans,0,scopeSpans,0,spans}') AS s}),
	join('|', (sql("SELECT taken - $counted FROM idempotency.trace_status()")) x 2), '... each once');

#----------------------------------------------------------------------
# by OpenTelemetry's own judgement
#----------------------------------------------------------------------
SKIP:
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $clients = abs_path("$FindBin::RealBin/../clients/otlp");
	my ($out, $err) = ('', '');
	my $fetched = 0;
	local $ENV{HOME} = $dir;
	local $ENV{npm_config_cache} = "$dir/cache";
	local $ENV{NODE_PATH} = "$dir/node_modules";

	copy("$clients/package.json", "$dir/package.json") or die "could not copy: $!";
	foreach my $attempt (1 .. 3)
	{
		last if $fetched = eval {
			IPC::Run::run([ 'npm', 'install', '--silent', '--no-audit', '--no-fund', '--ignore-scripts' ],
				'>', \$out, '2>', \$err, init => sub { chdir $dir }, IPC::Run::timeout(120));
		};
	}
	skip 'could not fetch the transformer', 3 unless $fetched;

	sql(q{CREATE DATABASE "od""d ö" ENCODING 'UTF8' TEMPLATE template0});
	my $db = qq{od"d ö};
	sql(qq{BEGIN; SELECT outcome FROM idempotency.claim('s', 'otlp', 'r') $traced; SELECT idempotency.finish('s', 'otlp', 'x'); COMMIT;
		SELECT outcome FROM idempotency.claim('s', 'otlp2', lease => '1 h');
		SELECT idempotency.once(E'quote " back \\\\ slash ö', 'k')});
	is(sqlstate($node, q{SELECT idempotency.claim_or_raise('s', 'otlp', 'other')}), 'ID422', 'an error among them');
	my $json = sql('SELECT idempotency.otlp_spans(1000)');
	my $judged = eval { IPC::Run::run([ 'node', "$clients/otlp.js" ], '<', \$json, '>', \$out, '2>', \$err) };
	is($out, "ok " . (() = $json =~ /"traceId"/g) . "\n", 'the transformer makes the same of them') or diag($err);
	$json =~ s/"startTimeUnixNano"/"start_time_unix_nano"/;
	ok(!eval { IPC::Run::run([ 'node', "$clients/otlp.js" ], '<', \$json, '>', \$out, '2>', \$err) }, 'control: it would have told');
}

#----------------------------------------------------------------------
# refusals in the log
#----------------------------------------------------------------------
# The lines about refusals that this leaves in the log.
sub refusals
{
	my ($sql) = @_;
	my $offset = -s $node->logfile;

	$node->psql('postgres', "SET idempotency.log_refusals = log; SET idempotency.trace_sample_rate = 0; $sql");
	return join("\n", (substr(slurp_file($node->logfile), $offset) =~ /LOG:  (idempotency refusal: .*)/g));
}
is($node->psql('postgres', q{SELECT outcome FROM idempotency.claim('s', 'otlp', 'other')}), 0, 'a refusal');
unlike(slurp_file($node->logfile), qr/idempotency refusal/, 'no line by default');
is(refusals(qq{SELECT outcome FROM idempotency.claim('s', 'otlp', 'secret') $traced}),
	qq{idempotency refusal: class=mismatch function=claim scope="s" trace_id=$trace suppressed=0}, 'a mismatch');
sleep(1.1);
my $lines = refusals(q{SELECT count(*) FROM generate_series(1, 500) AS i, idempotency.claim('s', 'otlp', 'secret' || i)});
my $n = () = $lines =~ /refusal/g;
ok($n >= 1 && $n <= 30, "500 more: $n lines");
sleep(1.1);
my $last = refusals(q{SELECT idempotency.claim_or_raise('s', 'otlp', 'secret')});
my $told = 0;
$told += $_ + 1 foreach "$lines\n$last" =~ /suppressed=(\d+)/g;
like($last, qr/class=mismatch function=claim scope="s" suppressed=\d+$/, 'raised or answered, it is one line');
is($told, 501, '... and lines say how many are left out');
is(refusals(qq{SELECT idempotency.finish('s', 'otlp2', 'secret', fence => $stale)}), 'idempotency refusal: class=fence function=finish scope="s" sqlstate=ID412 suppressed=0', 'a stale fence');
is(refusals(q{SELECT idempotency.finish('s', 'secret', 'secret', fence => 1)}), 'idempotency refusal: class=unknown function=finish scope="s" sqlstate=ID404 suppressed=0', 'an unknown key');
is(refusals(q{BEGIN; SELECT outcome FROM idempotency.claim('s', 'secret key'); COMMIT}), 'idempotency refusal: class=unsettled scope="s" suppressed=0', 'an unsettled claim');
is(refusals(q{SELECT limit_running FROM idempotency.configure('lim', limit_running => 1);
	SELECT outcome FROM idempotency.claim('lim', 'a', lease => '1 h'); SELECT outcome FROM idempotency.claim('lim', 'b', lease => '1 h')}),
	'idempotency refusal: class=limit function=claim scope="lim" reason=limit_running suppressed=0', 'a limit');
is(sql(q{SELECT retry_later, limited_running, limited_claims, breaker_refused FROM idempotency.stats WHERE scope = 'lim'}), '1|1|0|0', '... is counted by itself');
is(refusals(q{SELECT idempotency.claim('s', repeat('secret', 1000))}), 'idempotency refusal: class=argument function=claim sqlstate=ID400 suppressed=0', 'a bad argument');
unlike(join("\n", grep { /refusal/ } split /\n/, slurp_file($node->logfile)), qr/secret|otlp/, 'no line has a key or payload');
my $log = slurp_file($node->logfile);
unlike($log, qr/LOG:  idempotency refusal: [^\n]*\n[^\n]*(STATEMENT|CONTEXT):/, '... nor the statement');
is(sqlstate($node, q{CREATE ROLE app; SET ROLE app; SET idempotency.log_refusals = log}), '42501', 'not for everybody to set');

#----------------------------------------------------------------------
# the report, and what stands out
#----------------------------------------------------------------------
sql(q{SELECT count(idempotency.once('often', 'k')) FROM generate_series(1, 200);
	SELECT count(idempotency.once('seldom', (i % 5000)::text)) FROM generate_series(1, 10000) AS i});
is(sql(q{SELECT scope FROM idempotency.top_duplicates() ORDER BY duplicates DESC LIMIT 1}), 'often', 'the key with most duplicates stays, whatever comes');
is(sql(q{SELECT bool_and(duplicates - excess <= 199), max(duplicates) >= 199 FROM idempotency.top_duplicates() WHERE scope = 'often'}), 't|t', '... and is never counted too low');
is(sql(q{SELECT count(*) BETWEEN 1 AND 16, bool_and(duration_us > 0) FROM idempotency.slowest_calls()}), 't|t', 'slow calls are kept');
my $report = sql('SELECT idempotency.report()');
like($report, qr/^often +\d+ +99\.5 +#{20} /m, 'report: a scope, with its bar');
like($report, qr/^  [0-9a-f-]{36} +\d+  often$/m, '... its duplicates, by id');
like($report, qr/lease_expiring|nothing|warning/, '... and what needs attention');
unlike($report, qr/secret|otlp/, '... without keys');
is($node->safe_psql('other', q{SELECT idempotency.report() LIKE '%none%'}), 't', 'of an empty database, too');

# off
sql(q{ALTER SYSTEM SET idempotency.collect_stats = off});
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('idempotency.collect_stats') = 'off'});
$before = sql(q{SELECT sum(executed), sum(waits) FROM idempotency.stats; SELECT sum(decisions) FROM idempotency.stats_latency});
sql(q{SELECT idempotency.once('often', 'new'); BEGIN; SELECT outcome FROM idempotency.claim('often', 'undone'); ROLLBACK});
is(sql(q{SELECT sum(executed), sum(waits) FROM idempotency.stats; SELECT sum(decisions) FROM idempotency.stats_latency}), $before, 'switched off, nothing is counted');

# what comes with a backup is another server's
$node->stop;
$node->start;
ok(-s $node->data_dir . '/pg_stat/idempotency.stat', 'a file has the counts');
$node->backup('copy');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'copy');
$copy->start;
is($copy->safe_psql('postgres', 'SELECT count(*) FROM idempotency.stats'), '0', 'a copy of the server begins at zero');
is(sql('SELECT count(*) > 0 FROM idempotency.stats'), 't', '... the original does not');
$copy->stop;

# a crash loses spans, and nobody minds
$node->stop('immediate');
$node->start;
is(sql('SELECT count(*) FROM idempotency.spans; SELECT recorded FROM idempotency.trace_status()'), "0\n0", 'after a crash there are none');
$node->stop;

done_testing();
