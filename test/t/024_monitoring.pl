# What is outside of the server: metrics, alert rules, dashboard, page.
#
# A server, Debian's postgres_exporter and Prometheus, all on loopback or a
# Unix socket, started here and ended by their processes.  One database does
# something of everything, in the other every alert is provoked: what the view
# alerts says there, the rules must say, and nothing else; before that, neither
# says anything.  Every query of the dashboard is asked, and returns series.
#
# The role that the exporter uses is that of doc/operations.md.

use strict;
use warnings;

use File::Copy qw(copy);
use FindBin;
use HTTP::Tiny;
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use POSIX qw(_exit);
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $top = "$FindBin::RealBin/../..";
my $dir = PostgreSQL::Test::Utils::tempdir();
my $http = HTTP::Tiny->new(timeout => 30);
my $secret = 'planted-4711';
my @running;

END
{
	my $status = $?;

	$_->kill_kill(grace => 5) foreach @running;
	$? = $status;
}

# Run a command; returns its status, and what it printed.
sub run
{
	my ($command, %opt) = @_;
	my $out = '';
	my $ok = eval {
		IPC::Run::run($command, '<', \($opt{input} // ''), '>', \$out, '2>&1',
			init => sub { chdir($opt{dir} // $dir) }, IPC::Run::timeout($opt{timeout} // 60));
	};

	return ($ok ? 1 : 0, $out);
}

foreach my $program ([ 'prometheus', '--version' ], [ 'promtool', '--version' ],
	[ 'prometheus-postgres-exporter', '--version' ], [ 'gnuplot', '--version' ])
{
	plan skip_all => "$program->[0] is not installed" unless (run($program))[0];
}
delete @ENV{qw(http_proxy HTTP_PROXY all_proxy ALL_PROXY)};

sub free_port
{
	my $socket = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) or die "no port: $!";
	my $port = $socket->sockport;

	close $socket;
	return $port;
}

# Wait until this is true; returns what it returned last.
sub wait_for
{
	my ($condition, $seconds) = @_;
	my $end = time() + ($seconds // 60);
	my $result;

	until ($result = $condition->())
	{
		last if time() > $end;
		sleep(0.2);
	}
	return $result;
}

#----------------------------------------------------------------------
# the rules by themselves
#----------------------------------------------------------------------
my ($ok, $out) = run([ 'promtool', 'check', 'rules', "$top/monitoring/alerts.yaml" ]);
ok($ok, 'promtool check rules') or diag($out);
($ok, $out) = run([ 'promtool', 'test', 'rules', "$top/test/monitoring/alerts_test.yaml" ]);
ok($ok, 'promtool test rules') or diag($out);

# worker_absent of IdempotencyWorkerAbsent
sub in_sql
{
	my ($name) = @_;

	$name =~ s/^Idempotency//;
	$name =~ s/(?<!^)([A-Z])/_$1/g;
	return lc $name;
}
my $rules = slurp_file("$top/monitoring/alerts.yaml");
my %severity;
while ($rules =~ /- alert: (\w+)\n.*?severity: (\w+)/sg)
{
	my ($name, $severity) = ($1, $2);

	$severity{ in_sql($name) } = $severity;
}
is(scalar keys %severity, scalar(() = $rules =~ /- alert:/g), 'every rule has a name and a severity');
my $unit_tests = slurp_file("$top/test/monitoring/alerts_test.yaml");
my @untested = grep { my $name = $_; 1 != grep { in_sql($_) eq $name } $unit_tests =~ /# (\w+) fires/g } keys %severity;
is("@untested", '', 'every rule has its unit test');
my $operations = slurp_file("$top/doc/operations.md");
my %paragraph = map { $_ => 1 } $operations =~ /^### `?([a-z_]+)`?$/mg;
is(join(' ', sort grep { !$paragraph{$_} } keys %severity), '', 'every rule has its paragraph in doc/operations.md');
my ($section) = $operations =~ /^## Alerts$(.*?)^## /ms;
is(join(' ', grep { !$severity{$_} } $section =~ /^### `?([a-z_]+)`?$/mg), '', '... and every paragraph of an alert its rule');
is(join(' ', sort $rules =~ /runbook_url: doc\/operations\.md#(\w+)$/mg), join(' ', sort keys %severity), '... and its runbook_url leads there');

#----------------------------------------------------------------------
# server, exporter, Prometheus
#----------------------------------------------------------------------
my $node = new_node('seen', conf => q{
shared_preload_libraries = 'idempotency'
idempotency.naptime = '200ms'
idempotency.trace_sample_rate = 1
});
my %connection = $node->_get_env();

foreach my $db (qw(shop alarm empty))
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION idempotency');
}

# The statements of a section of doc/operations.md that begin with this one.
sub statements
{
	my ($first) = @_;
	my ($block) = grep { index($_, $first) >= 0 } $operations =~ /^[ ]*```sql\n(.*?)^[ ]*```$/msg;

	return $block // die "no block with \"$first\" in doc/operations.md";
}

# Roles are the cluster's, their rights each database's.
my ($roles) = statements('CREATE ROLE monitor;') =~ /(CREATE ROLE monitor;.*)/s;
$roles .= statements('CREATE ROLE metrics ') . statements('CREATE ROLE reporter ');
(my $rights = $roles) =~ s/CREATE ROLE [^;]*;//g;
$node->safe_psql('shop', $roles);
$node->safe_psql($_, $rights) foreach qw(alarm empty);

my %port = map { $_ => free_port() } qw(exporter prometheus);
{
	local $ENV{DATA_SOURCE_NAME} = join ',',
	  map { "host=$connection{PGHOST} port=$connection{PGPORT} user=metrics dbname=$_ sslmode=disable" } qw(shop alarm);

	push @running, IPC::Run::start(
		[ 'prometheus-postgres-exporter', "--web.listen-address=127.0.0.1:$port{exporter}",
			"--extend.query-path=$top/monitoring/queries.yaml", '--disable-default-metrics',
			'--disable-settings-metrics', '--no-collector.database', '--no-collector.bgwriter' ],
		'<', \undef, '>', "$dir/exporter.log", '2>&1');
}
copy("$top/monitoring/alerts.yaml", "$dir/alerts.yaml") or die "could not copy: $!";
append_to_file("$dir/prometheus.yml", <<"YAML");
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [alerts.yaml]
scrape_configs:
  - job_name: idempotency
    static_configs: [{targets: ['127.0.0.1:$port{exporter}']}]
YAML
push @running, IPC::Run::start(
	[ 'prometheus', "--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/tsdb",
		"--web.listen-address=127.0.0.1:$port{prometheus}", '--log.level=warn' ],
	'<', \undef, '>', "$dir/prometheus.log", '2>&1');

sub metrics
{
	my $answer = $http->get("http://127.0.0.1:$port{exporter}/metrics");

	return $answer->{success} ? $answer->{content} : '';
}

# Ask Prometheus; returns the list of series, or undef and why.
sub ask
{
	my ($path, %parameters) = @_;
	my $answer = $http->get("http://127.0.0.1:$port{prometheus}/api/v1/$path?" . $http->www_form_urlencode(\%parameters));
	my $decoded = eval { decode_json($answer->{content}) } // {};

	return (undef, $decoded->{error} // $answer->{content}) if ($decoded->{status} // '') ne 'success';
	return $path eq 'query' ? $decoded->{data}{result} : $decoded->{data};
}

sub series { my ($found) = ask('query', query => $_[0]); return scalar @{ $found // [] }; }

ok(wait_for(sub { metrics() =~ /^pg_exporter_last_scrape_error 0$/m }), 'the exporter runs every query with the rights of metrics')
  or diag(substr(slurp_file("$dir/exporter.log"), -1000));
ok(wait_for(sub { series('idempotency_worker_running == 1') == 2 }), 'Prometheus has what it tells of both databases')
  or diag(substr(slurp_file("$dir/prometheus.log"), -1000));

# What the view says, and what the rules say, of a database: a name and scope
# in each line.
sub in_view
{
	my ($db) = @_;

	return $node->safe_psql($db, q{SELECT DISTINCT name || ' ' || coalesce(scope, '') FROM idempotency.alerts ORDER BY 1});
}
sub in_rules
{
	my ($db) = @_;
	my ($alerts) = ask('query', query => 'ALERTS{alertname=~"Idempotency.*"}');
	my %line;

	foreach my $alert (map { $_->{metric} } @{ $alerts // [] })
	{
		next if ($alert->{datname} // '') ne $db;
		my $scope = $alert->{segment} // $alert->{relay} // $alert->{scope} // '';

		$scope = "inbox/$alert->{consumer}" if defined $alert->{consumer};
		$line{ in_sql($alert->{alertname}) . " $scope" } = 1;
	}
	return join "\n", sort keys %line;
}

is(in_view($_), '', "nothing is wrong in $_, says the view") foreach qw(shop alarm);
ok(wait_for(sub { in_rules($_) eq '' }), '... and say the rules') foreach qw(shop alarm);
ok(wait_for(sub { !series('ALERTS{alertname="IdempotencyMetricsAbsent"}') }), '... and that there are metrics');

#----------------------------------------------------------------------
# something of everything
#----------------------------------------------------------------------
$node->safe_psql('shop', qq{
	SELECT scope FROM idempotency.configure('card.charge', breaker_failures => 2, breaker_cooldown => '1 h');
	SELECT scope FROM idempotency.configure('report', limit_claims => 1, limit_interval => '1 h');
	SELECT strategy FROM idempotency.configure_consumer('billing', strategy => 'sequence');
	SELECT outcome FROM idempotency.claim('pay <&> "x"', '$secret', lease => '1 h');
	SELECT idempotency.configure_relay('shipper')});
my $n = 0;

# What keeps the counters moving.
sub work
{
	my $event = ++$n;

	$node->safe_psql('shop', qq{
		SELECT idempotency.once('web.orders', '$secret' || i % 10 || $n) FROM generate_series(1, 20) AS i;
		SELECT outcome FROM idempotency.claim('mail.send', 'm$n', lease => '1 h');
		SELECT outcome FROM idempotency.claim('mail.send', 'm$n', lease => '1 h', wait => '1 ms');
		SELECT outcome FROM idempotency.claim('report', 'r$n', lease => '1 h');
		SELECT outcome FROM idempotency.accept('billing', 'orders', seq => $n);
		SELECT idempotency.compensate_with('trip', 't$n', fence, 'seat')
			FROM idempotency.claim('trip', 't$n', lease => '1 h');
		SELECT idempotency.emit('orders', 'created', '$secret')});
	return;
}
work();
$node->safe_psql('shop', q{SELECT count(*) FROM idempotency.outbox_read('shipper', max => 1)});
my %declared;
{
	my $name;
	foreach (split /\n/, slurp_file("$top/monitoring/queries.yaml"))
	{
		$name = $1 if /^(\w+):$/;
		$declared{"${name}_$1"} = $2 if /^    - (\w+): \{usage: "(COUNTER|GAUGE|HISTOGRAM)"/;
	}
}
cmp_ok(scalar keys %declared, '>', 40, 'metrics are declared');

#----------------------------------------------------------------------
# every alert, in the other database
#----------------------------------------------------------------------
$node->safe_psql('alarm', q{
	SELECT scope FROM idempotency.configure('card.charge', breaker_failures => 1, breaker_cooldown => '1 h');
	SELECT scope FROM idempotency.configure('wire', on_lease_expiry => 'indeterminate');
	SELECT outcome FROM idempotency.claim('mail.send', 'k', lease => '1 ms');
	SELECT outcome FROM idempotency.claim('wire', 'k', lease => '1 ms');
	SELECT outcome FROM idempotency.claim('long', 'k', lease => '1 h');
	BEGIN; SELECT outcome FROM idempotency.claim('card.charge', 'k'); ROLLBACK;
	SELECT strategy FROM idempotency.configure_consumer('billing', strategy => 'sequence', first_seq => 1);
	SELECT outcome FROM idempotency.accept('billing', 'orders', seq => 1);
	SELECT outcome FROM idempotency.accept('billing', 'orders', seq => 3);
	SELECT idempotency.configure_relay('shipper');
	SELECT idempotency.emit('orders', 'created', '{}');
	SELECT idempotency.compensate_with(s, 'k', fence, 'seat')
		FROM unnest(ARRAY['trip', 'tour']) AS s, idempotency.claim(s, 'k', lease => '1 h');
	SELECT idempotency.compensate(scope, 'k', fence) FROM idempotency.sagas;
	SELECT fence AS taken FROM idempotency.next_compensation('trip') \gset
	SELECT outcome FROM idempotency.settle_compensation('trip', 'k', 'seat', :taken, success => false, retryable => false)});
# time passes, and what can't be brought about from outside is put in its place
$node->safe_psql('alarm', q{
	UPDATE idempotency.inbox_stream SET gap_since = now() - interval '10 min' WHERE gap_since IS NOT NULL;
	INSERT INTO idempotency.inbox_event (id, noted_at, deliveries, state, consumer, stream, event_id)
		VALUES (gen_random_uuid(), now(), 5, 'd', 'mailer', 'orders', 'e');
	UPDATE idempotency.outbox_0 SET emitted_at = now() - interval '10 min';
	UPDATE idempotency.outbox_1 SET emitted_at = now() - interval '10 min';
	UPDATE idempotency.outbox_2 SET emitted_at = now() - interval '10 min';
	UPDATE idempotency.outbox_3 SET emitted_at = now() - interval '10 min';
	UPDATE idempotency.outbox_relay SET lost_upto = position + 5;
	UPDATE idempotency.saga_run SET due_at = now() - interval '10 min' WHERE scope = 'tour';
	DO $$
	DECLARE
		segment text;
	BEGIN
		FOR segment IN SELECT s.segment FROM idempotency.segments() AS s LOOP
			EXECUTE format('UPDATE idempotency.%I SET claimed_at = now() - interval ''1 h'',
				lease_until = now() + interval ''2 min'' WHERE scope = ''long''', segment);
		END LOOP;
	END
	$$;
});

# replace FUNCTION BODY: what a function returns from now on.
sub replace
{
	my ($function, $body) = @_;
	my $definition = $node->safe_psql('alarm', qq{SELECT pg_get_functiondef('idempotency.$function'::regproc)});

	$definition =~ s/^ LANGUAGE.*//ms;
	$node->safe_psql('alarm', "$definition LANGUAGE sql AS \$stub\$ $body \$stub\$");
	return;
}
replace('segments', q{SELECT 'key_short_1', 'short', now() - interval '11 h', now() - interval '3 h', 8192::int8});
replace('duplicate_rates', q{VALUES ('unusual', 20::int8, 0.31::float8, 20::int8, 0.1::float8, 0::int8, 0::int8),
	('usual', 100, 0.29, 100, 0.1, 0, 0), ('wrong', 0, 0, 0, 0, 3, 0), ('late', 0, 0, 0, 0, 0, 2)});
replace('notes_dropped_at', q{SELECT now() - interval '10 min'});
replace('workers', q{SELECT 'alarm', NULL::int, 'waiting', now(), now(), 1::int8, 1::int8, '53400' WHERE false});
{
	my $columns = $node->safe_psql('alarm', q{SELECT string_agg(format('(%s)::%s AS %I', CASE attname
		WHEN 'unsealed_since' THEN $$now() - interval '2 min'$$ WHEN 'size' THEN '10' WHEN 'witnessed_size' THEN '5'
		WHEN 'witnessed_at' THEN $$now() - interval '2 d'$$ WHEN 'unsealed' THEN '1' ELSE 'NULL' END,
		format_type(atttypid, atttypmod), attname), ', ' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = 'idempotency.ledger_status'::regclass AND attnum > 0});

	$node->safe_psql('alarm', "CREATE OR REPLACE VIEW idempotency.ledger_status AS SELECT $columns");
}
my %of_others = map { $_ => 1 } qw(metrics_absent);
my ($view, $told);
wait_for(sub {
	($view, $told) = (in_view('alarm'), in_rules('alarm'));
	return $view eq $told;
});
is($told, $view, 'what the view says, the rules say');
my %said = map { (split)[0] => 1 } split /\n/, $view;
is(join(' ', sort grep { !$said{$_} && !$of_others{$_} } keys %severity), '', '... every one of them');
is($node->safe_psql('alarm', q{SELECT string_agg(DISTINCT name || ' ' || severity, ' ' ORDER BY name || ' ' || severity) FROM idempotency.alerts}),
	join(' ', map { "$_ $severity{$_}" } sort grep { $said{$_} } keys %severity), '... as severe');
ok(wait_for(sub { in_view('shop') eq in_rules('shop') }), 'and of the other database they say the same, too');

#----------------------------------------------------------------------
# the metrics' names; the dashboard
#----------------------------------------------------------------------
my $metrics = metrics();
is(join(' ', sort grep { my $name = $_; $metrics !~ /^$name(?:_bucket|)\{.*datname=/m } keys %declared), '', 'each metric that is declared has a value');
($ok, $out) = run([ 'promtool', 'check', 'metrics' ], input => join("\n", grep { /^(?:# \w+ )?idempotency_/ } split /\n/, $metrics) . "\n");
ok($ok && $out eq '', 'promtool check metrics') or diag($out);
unlike($metrics, qr/$secret/, 'there is no key or payload in them');
like($metrics, qr/scope="pay <&> \\"x\\""/, '... and scopes as they are');

my $dashboard = decode_json(slurp_file("$top/monitoring/dashboard.json"));
my %queries;
foreach my $panel (map { $_, @{ $_->{panels} // [] } } @{ $dashboard->{panels} })
{
	foreach my $target (@{ $panel->{targets} // [] })
	{
		(my $query = $target->{expr}) =~ s/\$__rate_interval/20s/g;
		$query =~ s/\$(?:datname|scope)/.*/g;
		$queries{$query} = $panel->{title};
	}
}
cmp_ok(scalar keys %queries, '>', 30, 'the dashboard asks');
is(join("\n", grep { /\$/ } keys %queries), '', '... with no variable that is unknown');
my %empty = %queries;
wait_for(sub {
	work();
	delete @empty{ grep { series($_) } keys %empty };
	return !%empty;
}, 20);
is(join("\n", map { "$empty{$_}: $_ " . ((ask('query', query => $_))[1] // '') } sort keys %empty), '', '... and every query returns series');
foreach my $variable (grep { $_->{type} eq 'query' } @{ $dashboard->{templating}{list} })
{
	my ($match, $label) = $variable->{query}{query} =~ /^label_values\((.*), (\w+)\)$/;

	$match =~ s/\$datname/.*/;
	my ($values) = ask("label/$label/values", 'match[]' => $match);
	cmp_ok(scalar @{ $values // [] }, '>', 1, "... the variable $variable->{name} has values");
}

SKIP:
{
	local $ENV{HOME} = $dir;
	local $ENV{npm_config_cache} = "$dir/cache";
	my $npm = "$dir/npm";

	mkdir $npm;
	copy("$top/test/monitoring/package.json", "$npm/package.json") or die "could not copy: $!";
	($ok, $out) = run([ 'npm', 'install', '--silent', '--no-audit', '--no-fund', '--ignore-scripts' ], dir => $npm, timeout => 120);
	skip 'could not fetch @grafana/schema', 2 unless $ok && -e "$npm/node_modules/.bin/tsc";
	foreach my $wrong (0, 1)
	{
		my $source = slurp_file("$top/test/monitoring/dashboard.ts");
		my $json = slurp_file("$top/monitoring/dashboard.json");

		$json =~ s/"gridPos"/"gridPosition"/ if $wrong;
		$source =~ s/DASHBOARD;/$json;/;
		unlink "$npm/dashboard.ts";
		append_to_file("$npm/dashboard.ts", $source);
		($ok, $out) = run([ "$npm/node_modules/.bin/tsc", qw(--noEmit --strict --skipLibCheck --target es2022 --module esnext --moduleResolution node), 'dashboard.ts' ], dir => $npm);
		ok($wrong ? !$ok : $ok, $wrong ? '... which finds what is wrong' : "the dashboard is what Grafana's schema says") or diag($out);
	}
}

#----------------------------------------------------------------------
# the recipe for spans, with a stand-in for the collector
#----------------------------------------------------------------------
# Answer every POST, and keep the bodies; ends with the test.
sub collector
{
	my ($listener, $file) = @_;

	while (my $client = $listener->accept)
	{
		my $length = 0;
		my $body = '';

		while (defined(my $line = <$client>))
		{
			$length = $1 if $line =~ /^Content-Length: (\d+)/i;
			last if $line eq "\r\n";
		}
		read($client, $body, $length);
		append_to_file($file, "$body\n") if $length;
		print $client "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
		close $client;
	}
	_exit(0);
}

SKIP:
{
	skip 'curl is not installed', 4 unless (run([ 'curl', '--version' ]))[0];
	my $listener = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', LocalPort => 0) or die "no port: $!";
	my $port = $listener->sockport;
	my ($recipe) = $operations =~ /^(    while psql .*?^    done\n)/ms;
	my $child = fork() // die "could not fork: $!";

	collector($listener, "$dir/posted") if $child == 0;
	close $listener;
	$recipe =~ s/127\.0\.0\.1:4318/127.0.0.1:$port/;
	$node->safe_psql('shop', q{SET idempotency.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'; SELECT idempotency.once('traced', 'k')});
	my $used = $node->safe_psql('shop', 'SELECT count(*) FROM idempotency.spans');
	{
		local %ENV = (%ENV, %connection, PATH => "$ENV{PATH}:" . ($node->installed_command('psql') =~ m{^(.*)/})[0]);
		($ok, $out) = run([ 'bash', '-euc', $recipe ], dir => $dir);
	}
	kill 'TERM', $child;
	waitpid $child, 0;
	ok($ok, 'the recipe for spans runs to its end') or diag($out);
	my @spans = map { @{ $_->{spans} } } map { @{ $_->{scopeSpans} } } map { @{ $_->{resourceSpans} } }
	  map { decode_json($_) } grep { length } split /\n/, -e "$dir/posted" ? slurp_file("$dir/posted") : '';
	cmp_ok(scalar @spans, '>=', $used, '... and posts every span there was');
	ok((grep { $_->{traceId} eq '0af7651916cd43dd8448eb211c80319c' } @spans), '... with the trace that the caller named');
	is($node->safe_psql('shop', 'SELECT count(*) FROM idempotency.spans'), '0', '... of which none is left');
}

#----------------------------------------------------------------------
# the page
#----------------------------------------------------------------------
foreach my $db (qw(empty shop))
{
	local %ENV = (%ENV, %connection, PGDATABASE => $db, PGUSER => 'reporter', PSQL => $node->installed_command('psql'));

	($ok, $out) = run([ 'bash', "$top/monitoring/report/report.sh", "$dir/$db.html" ]);
	ok($ok, "a page is made of $db") or diag($out);
	my $page = -e "$dir/$db.html" ? slurp_file("$dir/$db.html") : '';

	($ok, $out) = run([ 'python3', '-c', 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])', "$dir/$db.html" ]);
	ok($ok, '... well-formed') or diag($out);
	(my $rest = $page) =~ s/ xmlns="[^"]*"//g;
	unlike($rest, qr{<script|<link|<img|<iframe|\bsrc\s*=|href\s*=|url\(|\@import|https?://}i, '... that loads nothing');
	unlike($page, qr/$secret/, '... without keys or payloads');
	is(() = $page =~ /<svg/g, $db eq 'empty' ? 0 : 4, '... with its pictures');
	like($page, qr/pay &lt;&amp;&gt; &quot;x&quot;/, '... and scopes as they are') if $db eq 'shop';
}

done_testing();
