# The recipes of doc/patterns.md for consumers of events.
#
# Offsets of a partitioned log, webhooks with the payloads that GitHub sends, and
# changes of another database, out of its WAL: each recipe is killed at each line
# that it executes, or made to lose its connection there, and started again; an
# owner of a partition that was stopped meanwhile awakes.  Everything must have
# been processed once, in its order; and delivered from the beginning, no more.
# Controls take away accept(), and the isolation level, and must show duplicates.

use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib $FindBin::RealBin;
use HTTP::Tiny;
use Digest::SHA qw(hmac_sha256_hex);
use IdempotencyTest;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $dir = abs_path("$FindBin::RealBin/../../doc/patterns");
my $tmp = PostgreSQL::Test::Utils::tempdir();
my ($python) = grep {
	my $path = $_;
	eval { IPC::Run::run([ $path, '-c', 'import psycopg' ], '>', '/dev/null', '2>', '/dev/null') };
} grep { defined } $ENV{PYTHON}, '/usr/bin/python3', 'python3';
plan skip_all => 'there is no Python 3 with psycopg 3' unless defined $python;
my $examples = webhook_examples();

$ENV{PYTHONDONTWRITEBYTECODE} = 1;
$ENV{TOPIC} = "$tmp/topic";
$ENV{BATCH} = 2;
delete @ENV{qw(http_proxy HTTP_PROXY all_proxy ALL_PROXY)};
mkdir $ENV{TOPIC};

my $node = new_node('recipes', conf => "wal_level = logical\nmax_replication_slots = 4\n");
my %server = $node->_get_env();
my @running;

END
{
	my $status = $?;

	$_->kill_kill(grace => 1) foreach @running;
	$? = $status;
}

sub sql { return $node->safe_psql('postgres', $_[0]); }

sql('CREATE EXTENSION idempotency');
sql(slurp_file("$dir/schema.sql"));
sql(q{ALTER ROLE app SET idle_in_transaction_session_timeout = '600 ms'});

# Start a recipe; what it prints goes to $out.
sub start_recipe
{
	my ($out, @arguments) = @_;

	local %ENV = (%server, %ENV, PGUSER => 'app', PGDATABASE => 'postgres');
	my $run = IPC::Run::start([ $python, map { /\.py$/ ? "$dir/$_" : $_ } @arguments ],
		'<', \undef, '>', $out, '2>', \my $err);
	push @running, $run;
	return $run;
}

# Run one to its end; returns what it prints.
sub recipe
{
	my $out = '';

	start_recipe(\$out, @_)->finish;
	return $out;
}

# Run one with a fault at its first line, at its second, and so on, until it gets
# to its end; returns the number of runs.  $struck is the lines.
my $struck;

sub crash
{
	my ($kind, $script, @arguments) = @_;

	my $out = $struck = recipe('crash.py', 'each', $kind, $script, @arguments);
	my ($runs) = $out =~ /^runs (\d+) and then status 0$/m;
	return $runs // 0;
}

sub wait_for
{
	my ($run, $out, $what) = @_;
	my $deadline = time() + 60;
	my $found;

	until (($found) = $$out =~ $what)
	{
		die "no $what" if time() > $deadline || !$run->pumpable;
		$run->pump_nb;
		sleep(0.01);
	}
	return $found;
}

#----------------------------------------------------------------------
# offsets
#----------------------------------------------------------------------

# Offsets have holes, as a log's that holds markers, too.
sub append_records
{
	my ($partition, $from, $n) = @_;

	append_to_file("$ENV{TOPIC}/$partition",
		join('', map { sprintf qq({"offset": %d, "key": "a%d", "value": %d}\n), 2 * $_ + int($_ / 4), $_ % 3, $_ } $from .. $from + $n - 1));
	return;
}

# What was booked of a partition, in its order.
sub booked { return sql("SELECT string_agg(amount::text, ' ' ORDER BY n) FROM posting WHERE part = '$_[0]'"); }

foreach my $kind ('die', 'lose')
{
	append_records("$kind-$_", 0, 3) foreach 1 .. 200;
	my $runs = crash($kind, 'offsets.py', "$kind-{n}", 1);

	cmp_ok($runs, '>', 25, "offsets, $kind: at each of " . ($runs - 1) . ' lines');
	recipe('crash.py', 'times', $runs, 'offsets.py', "$kind-{n}", 1);
	is(sql(qq{SELECT booked, count(*) FROM (SELECT string_agg(amount::text, ' ' ORDER BY n) AS booked FROM posting
			WHERE part LIKE '$kind-%' GROUP BY part) AS p GROUP BY 1}), "0 1 2|$runs", "offsets, $kind: each record once, in order");
}
my ($accepting) = $struck =~ /^\w+ (\d+) .*: answer = /m or die 'no line calls accept()';

# started again and again, at each line, on one partition
append_records('one', 0, 40);
crash('die', 'offsets.py', 'one', 1);
is(booked('one'), join(' ', 0 .. 39), 'offsets: one partition, killed again and again');

# The owner is stopped; another one is given the partition; the first awakes.
{
	my (@stopped, %status);

	foreach my $i (1 .. 8)
	{
		my $owner = { out => '', partition => "stop-$i" };

		append_records("stop-$i", 0, 6);
		$owner->{run} = start_recipe(\$owner->{out}, 'crash.py', 'once', 'stop', 4 * $i, 'offsets.py', "stop-$i", 1);
		push @stopped, $owner;
	}
	wait_for($_->{run}, \$_->{out}, qr/^(stop) /m) foreach @stopped;
	my @next = map { my $out = ''; start_recipe(\$out, 'offsets.py', $_->{partition}, 2) } @stopped;
	ok($_->finish, 'the next owner goes on') foreach @next;
	is(sql("SELECT string_agg(DISTINCT epoch::text, ' ') FROM idempotency.consumers WHERE stream LIKE 'stop-%'"), '2', 'in its own epoch');
	append_records($_->{partition}, 6, 3) foreach @stopped;
	foreach my $owner (@stopped)
	{
		$owner->{run}->signal('CONT');
		$owner->{run}->finish;
		$status{ $owner->{run}->result(0) }++;
	}
	cmp_ok($status{75} // 0, '>=', 2, 'those that awake find that they have lost it');
	is($status{0} // 0, 0, 'none goes on');
	is(join(', ', grep { $_ ne '0 1 2 3 4 5' } map { booked("stop-$_") } 1 .. 8), '', 'each record once, in order');
	recipe('offsets.py', "stop-$_", 2) foreach 1 .. 8;
	is(join(', ', grep { $_ ne '0 1 2 3 4 5 6 7 8' } map { booked("stop-$_") } 1 .. 8), '', 'and so is what came later');
}
# Two owners at once, of one generation and of two.
foreach my $second (1, 2)
{
	my (@out) = ('', '');

	append_records("two-$second", 0, 60);
	my @owners = map { start_recipe(\$out[$_], 'offsets.py', "two-$second", $_ ? $second : 1) } 0, 1;
	$_->finish foreach @owners;
	is(booked("two-$second"), join(' ', 0 .. 59), "two owners at once (generations 1 and $second): each record once, in order");
}
# A new owner has read the position and is stopped; the former one goes on.
foreach my $control ('', 'read_committed')
{
	my ($out, $partition) = ('', "seek $control");

	local $ENV{CRASH_CONTROL} = $control;
	local $ENV{PGOPTIONS} = '-c idle_in_transaction_session_timeout=60s';
	append_records($partition, 0, 3);
	my $owner = start_recipe(\$out, 'crash.py', 'once', 'stop', $accepting, 'offsets.py', $partition, 2);
	wait_for($owner, \$out, qr/^(stop) /m);
	recipe('offsets.py', $partition, 1);
	is(booked($partition), '0 1 2', 'the former owner goes on');
	$owner->signal('CONT');
	$owner->finish;
	is(booked($partition), $control ? '0 1 2 0 1 2' : '0 1 2',
		$control ? 'control, READ COMMITTED: the new one repeats it' : 'the new one begins behind that');
}
# A broker that delivers everything once more.
is(sql(q{SELECT string_agg(DISTINCT outcome, ' ') FROM posting,
		LATERAL idempotency.accept('ledger', part, seq => "offset", epoch => (SELECT epoch FROM idempotency.position('ledger', part)))}),
	'duplicate late', 'all offsets from the beginning: nothing is processed');

#----------------------------------------------------------------------
# webhooks
#----------------------------------------------------------------------
my $json = JSON::PP->new->utf8->canonical;
my @payloads;
my $http = HTTP::Tiny->new(timeout => 30, keep_alive => 0);

foreach my $index (sort glob("$examples/*/index.json"))
{
	foreach my $event (@{ $json->decode(slurp_file($index)) })
	{
		push @payloads, map { { event => $event->{name}, body => $json->encode($_) } } @{ $event->{examples} };
	}
}
# every other one; 007 has them all
@payloads = @payloads[ map { 2 * $_ } 0 .. $#payloads / 2 ];
my $n = @payloads;
cmp_ok($n, '>=', 300, "there are $n payloads");
$payloads[$_]{id} = sprintf '%08x-57c0-11e9-8000-0123456789ab', $_ foreach 0 .. $#payloads;

# Deliver one; returns the status.
sub deliver
{
	my ($port, $payload, %opt) = @_;
	my $body = $opt{body} // $payload->{body};

	return $http->post("http://127.0.0.1:$port/", {
		content => $body,
		headers => {
			'X-GitHub-Event' => $payload->{event},
			'X-GitHub-Delivery' => $opt{id} // $payload->{id},
			'X-Hub-Signature-256' => 'sha256=' . hmac_sha256_hex($body, $opt{secret} // 'not a secret'),
			defined $opt{fault} ? (Fault => $opt{fault}) : () } })->{status};
}

# How often was each status answered?
sub statuses
{
	my %seen;

	$seen{$_}++ foreach @_;
	return join ' ', map { "$_: $seen{$_}" } sort keys %seen;
}

{
	my ($out, $faulty_out) = ('', '');
	my $server = start_recipe(\$out, 'webhook.py', 0);
	my $port = wait_for($server, \$out, qr/on port (\d+)/);
	my $rewriter = JSON::PP->new->utf8->ascii->pretty->sort_by(sub { $JSON::PP::b cmp $JSON::PP::a });
	my @some = @payloads[ map { $_ * 7 } 0 .. ($n - 1) / 7 ];

	is(statuses(map { deliver($port, $_) } @payloads), "200: $n", 'webhooks: each is taken');
	is(sql('SELECT count(*), count(DISTINCT delivery) FROM webhook'), "$n|$n", 'and has its effect');
	is(statuses(map { deliver($port, $_) } @some), '200: ' . @some, 'delivered again: a success');
	is(statuses(map { deliver($port, $_, body => $rewriter->encode($json->decode($_->{body}))) } @some), '200: ' . @some,
		'delivered again, written in another way: a success');
	is(statuses(map { deliver($port, $_, body => $json->encode({ %{ $json->decode($_->{body}) }, action => 'other' })) } @some),
		'422: ' . @some, 'the same id with another body: 422');
	is(statuses(map { deliver($port, $_, secret => 'x', id => "x$_->{id}") } @some[ 0 .. 4 ]), '401: 5', 'not signed: 401');
	is(deliver($port, $some[0], body => '{', id => 'no JSON'), 400, 'no JSON: 400');
	is(deliver($port, $some[0], id => ''), 400, 'no id: 400');
	is(sql('SELECT count(*) FROM webhook'), $n, 'nothing of that had an effect');
	$server->kill_kill;

	# killed at each line
	my $faulty = start_recipe(\$faulty_out, 'crash.py', 'serve', 0, "$tmp/faults", 'webhook');
	$port = wait_for($faulty, \$faulty_out, qr/on port (\d+)/);
	foreach my $kind ('die', 'lose')
	{
		my $line = 0;
		my $fault = 1;

		while ($fault)
		{
			my $id = "$kind-" . ++$line;
			my $status = deliver($port, $some[$line], id => $id, fault => "$kind $line");

			$fault = slurp_file("$tmp/faults") =~ /^$kind $line $id /m;
			next if $status == 200;
			foreach my $again (1 .. 50)
			{
				last if ($status = deliver($port, $some[$line], id => $id)) == 200;
				sleep(0.1);
			}
		}
		cmp_ok($line, '>', 15, "webhooks, $kind: at each of $line lines");
		is(sql("SELECT count(*), count(DISTINCT delivery) FROM webhook WHERE delivery LIKE '$kind-%'"), "$line|$line", 'each had one effect');
	}
}

#----------------------------------------------------------------------
# changes of another database
#----------------------------------------------------------------------
$node->safe_psql('postgres', 'CREATE ROLE reader LOGIN REPLICATION');
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', q{
	CREATE TABLE account (id int PRIMARY KEY, balance int);
	SELECT pg_create_logical_replication_slot('accounts', 'test_decoding');
});
$ENV{SOURCE} = 'dbname=source user=reader';

# Transactions of several changes; returns what the slot has of them.
sub change_source
{
	my ($from, $transactions) = @_;

	foreach my $i ($from .. $from + $transactions - 1)
	{
		$node->safe_psql('source', "BEGIN; INSERT INTO account SELECT 10 * $i + j, j FROM generate_series(0, 2) AS j;
			UPDATE account SET balance = balance + 1 WHERE id = 10 * $i; COMMIT;");
	}
	return $node->safe_psql('source', q{SELECT count(*), md5(string_agg(data, E'\n' ORDER BY lsn)) FROM pg_logical_slot_peek_changes('accounts', NULL, NULL, 'include-xids', '0', 'skip-empty-xacts', '1')
		WHERE data !~ '^(BEGIN|COMMIT)'});
}

sub copied { return sql("SELECT count(*), md5(string_agg(change, E'\\n' ORDER BY n_in_all)) FROM copied"); }

my $expected = change_source(0, 3);
my $runs = crash('die', 'cdc.py', 'accounts');
my ($applying) = $struck =~ /^die (\d+) .*: answer = /m or die 'no line calls accept()';
cmp_ok($runs, '>', 20, "changes: killed at $runs lines");
is(copied(), $expected, 'each change was applied once, in order');
sql('TRUNCATE copied');
$expected = change_source(10, 3);
crash('lose', 'cdc.py', 'accounts');
is(copied(), $expected, 'likewise where the connection was lost');

# Control: without accept()
{
	local $ENV{CRASH_CONTROL} = 'no_accept';
	change_source(15, 2);
	crash('die', 'cdc.py', 'accounts');
	cmp_ok(sql('SELECT count(*) - count(DISTINCT (position, n)) FROM copied'), '>', 0, 'control, without accept(): duplicates');
}

# In the middle of a transaction.
sql('TRUNCATE copied');
$expected = change_source(20, 1);
my $middle = 0;
foreach my $line ($applying .. $applying + 60)
{
	recipe('crash.py', 'once', 'die', $line, 'cdc.py', 'accounts');
	$middle = sql('SELECT count(*) FROM copied');
	last if $middle > 1;
}
is($middle, 2, 'it dies after the second change of four');
is(sql("SELECT subseq FROM idempotency.position('copy', 'accounts')"), '1', 'which is where its position is');
recipe('cdc.py', 'accounts');
is(copied(), $expected, 'and goes on with the third');
# the source goes back, as after a restore of its slot
is(sql(q{SELECT string_agg(DISTINCT outcome, ' ') FROM copied, LATERAL idempotency.accept('copy', 'accounts', seq => position, subseq => n)}),
	'duplicate late', 'delivered once more: nothing is processed');

$node->stop;
done_testing();
