# The recipes of doc/patterns.md, killed at every line.
#
# The recipes call a payment provider, a process with a ledger of its own that
# is on disk before it answers.  Each recipe is killed, stopped while others go
# on, or made to lose its connection, at each line that it executes; then the
# client's retries, or the completer, bring it to an end.  There must be one
# charge in the provider's ledger, one business row, a finished key, and the
# same response, byte for byte, for every retry.  Two controls take away what
# prevents duplicates, and must show some.

use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib $FindBin::RealBin;
use HTTP::Tiny;
use IdempotencyTest;
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use List::Util qw(max uniq);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $lease = 0.8;			# seconds
my $dir = abs_path("$FindBin::RealBin/../../doc/patterns");
my $tmp = PostgreSQL::Test::Utils::tempdir();

# A Python that has psycopg 3; Debian's has it for its own only.
my ($python) = grep {
	my $path = $_;
	eval { IPC::Run::run([ $path, '-c', 'import psycopg' ], '>', '/dev/null', '2>', '/dev/null') };
} grep { defined } $ENV{PYTHON}, '/usr/bin/python3', 'python3';
plan skip_all => 'there is no Python 3 with psycopg 3' unless defined $python;

$ENV{PYTHONDONTWRITEBYTECODE} = 1;
$ENV{LEASE} = "$lease s";
delete @ENV{qw(http_proxy HTTP_PROXY all_proxy ALL_PROXY)};

my $node = new_node('patterns');
my %server = $node->_get_env();
my @running;
my $http = HTTP::Tiny->new(timeout => 30, keep_alive => 0);

END
{
	my $status = $?;

	$_->kill_kill(grace => 1) foreach @running;
	$? = $status;
}

$node->safe_psql('postgres', 'CREATE EXTENSION idempotency');
$node->safe_psql('postgres', slurp_file("$dir/schema.sql"));
$node->safe_psql('postgres', q{
	SELECT idempotency.configure('payments.create', backoff_base => '100 ms', max_attempts => 1000);
	SELECT idempotency.configure('payments.few', store_request => true, max_attempts => 2,
		backoff_base => '10 ms');
	SELECT idempotency.configure('payments.blind', store_request => true,
		on_lease_expiry => 'indeterminate');
	ALTER ROLE app SET idle_in_transaction_session_timeout = '600 ms';
});

#----------------------------------------------------------------------
# processes
#----------------------------------------------------------------------

# A recipe in the environment it is run in; {env} adds to that.
sub recipe
{
	my ($env, $script, @arguments) = @_;
	my $out = '';

	local %ENV = (%server, %ENV, PGUSER => 'app', PGDATABASE => 'postgres', %$env);
	IPC::Run::run([ $python, "$dir/$script", @arguments ], '<', \undef, '>', \$out, '2>', "$tmp/stderr");
	return $out;
}

# crash.py twice at once; what they print is {die} and {lose}.
sub recipes
{
	my ($die, $lose) = @_;
	my %out = (die => '', lose => '');

	local %ENV = (%server, %ENV, PGUSER => 'app', PGDATABASE => 'postgres');
	IPC::Run::run(
		[ $python, "$dir/crash.py", @$die ],
		'<', \undef, '>', \$out{die}, '2>', "$tmp/stderr",
		'&',
		[ $python, "$dir/crash.py", @$lose ],
		'<', \undef, '>', \$out{lose}, '2>', "$tmp/stderr.lose");
	return \%out;
}

# A recipe that serves, in the background; returns the port that it names.
sub serve
{
	my ($env, $script, @arguments) = @_;
	my $out = '';
	my $deadline = time() + 60;
	my $on;

	local %ENV = (%server, %ENV, PGUSER => 'app', PGDATABASE => 'postgres', %$env);
	my $run = IPC::Run::start([ $python, "$dir/$script", @arguments ],
		'<', \undef, '>', \$out, '2>', "$tmp/stderr.serve");
	push @running, $run;
	until (($on) = $out =~ /on port (\d+)/)
	{
		die "$script does not start: " . slurp_file("$tmp/stderr.serve")
		  if time() > $deadline || !$run->pumpable;
		$run->pump_nb;
		sleep(0.01);
	}
	return $on;
}

# Give leases time to run out.
sub let_leases_run_out
{
	return sleep($lease + 0.1);
}

#----------------------------------------------------------------------
# requests
#----------------------------------------------------------------------

# The body of a payment; the account is the key, so that effects can be counted.
sub body_of
{
	my ($key, $card) = @_;

	return sprintf '{"account": "%s", "amount": 60, "card": "%s"}', $key, $card // 'good';
}

# Send it once; {fault} and {card}.  A status of 599 is a connection that was lost.
sub post
{
	my ($port, $key, %opt) = @_;

	return $http->post("http://127.0.0.1:$port/payments", {
		content => body_of($key, $opt{card}),
		headers => {
			'Idempotency-Key' => $key,
			defined $opt{fault} ? (Fault => $opt{fault}) : ()
		}
	});
}

# What a client does: send it until it is answered, or until the time is over.
sub insist
{
	my ($port, $key, %opt) = @_;
	my $deadline = time() + ($opt{seconds} // 30);

	for (;;)
	{
		my $answer = post($port, $key, %opt);
		my $after = $answer->{content} =~ /"retry_after_ms": (\d+)/ ? $1 / 1000 : undef;

		$after = 0.1 if $answer->{status} == 599 || $answer->{status} == 503;
		return $answer if !defined $after || time() + $after > $deadline;
		sleep($after);
	}
}

#----------------------------------------------------------------------
# faults
#----------------------------------------------------------------------

# The lines at which there was a fault, by key, as crash.py has printed them.
sub faults_in
{
	my ($text) = @_;

	return map { /^\w+ \d+ (\S+).* (\d+) (\w+\.py:\d+): (.*)/ ? ($1 => { pid => $2, line => $3, text => $4 }) : () }
	  split /\n/, $text;
}

my $fault_log = "$tmp/faults";

sub struck
{
	my ($key) = @_;
	my %faults = faults_in(-e $fault_log ? slurp_file($fault_log) : '');

	return $faults{$key};
}

# Send requests with keys "$name-1", "$name-2" ..., the n-th with a fault at its
# n-th line, until one has got past its last line; returns the keys and, by key,
# the answers.
sub sweep
{
	my ($port, $name, $kind, %opt) = @_;
	my (@keys, %answer);

	for (my $n = 1; ; $n++)
	{
		my $key = "$name-$n";

		$answer{$key} = post($port, $key, %opt, fault => "$kind $n");
		push @keys, $key;
		last unless struck($key);
	}
	return (\@keys, \%answer);
}

#----------------------------------------------------------------------
# what must hold
#----------------------------------------------------------------------
my $ledger = "$tmp/ledger";

# How many charges has the provider made, by account?
sub charges
{
	my %n;

	foreach my $line (split /\n/, slurp_file($ledger))
	{
		my $entry = decode_json($line);

		$n{ $entry->{call}{account} }++ if $entry->{charge};
	}
	return \%n;
}

# One number by name, from a query.
sub by_name
{
	my ($sql) = @_;

	return { map { split /\|/ } split /\n/, $node->safe_psql('postgres', $sql) };
}

# Of these keys, those that have not one charge, one payment, a finished key.
sub not_once
{
	my (@keys) = @_;
	my $charges = charges();
	my $payments = by_name('SELECT account, count(*) FROM payment GROUP BY 1');
	my $states = by_name(q{SELECT key, state FROM idempotency.keys WHERE scope = 'payments.create'});

	return map {
		my @found = ($charges->{$_} // 0, $payments->{$_} // 0, $states->{$_} // 'none');

		"@found" eq '1 1 succeeded' ? () : "$_: @found"
	} @keys;
}

# Bring these to an end as their client does, and check what must hold; if
# {told} has an answer that got through before, it must be the same.
sub check_converges
{
	my ($port, $name, $keys, $told) = @_;
	my %stored;
	my @wrong;

	my %first = map { $_ => insist($port, $_) } @$keys;
	%stored = %{ by_name(q{SELECT account, response FROM payment,
		idempotency.peek('payments.create', account)}) };
	foreach my $key (@$keys)
	{
		my $again = post($port, $key);
		my @bodies = ($first{$key}{content}, $again->{content}, $stored{$key} // 'none');

		push @bodies, $told->{$key}{content} if $told && $told->{$key}{status} == 201;
		push @wrong, "$key: $first{$key}{status} $again->{status} " . join(' ', uniq @bodies)
		  if $first{$key}{status} != 201 || $again->{status} != 201 || uniq(@bodies) != 1;
	}
	is(join("\n", @wrong), '', "$name: every client gets the stored response, byte for byte");
	is(join("\n", not_once(@$keys)), '', "$name: one charge, one payment, a finished key each");
	return;
}

# How many charges have no payment, although nobody's client has come back?
sub charged_and_not_booked
{
	my (@keys) = @_;
	my $charges = charges();
	my $payments = by_name('SELECT account, count(*) FROM payment GROUP BY 1');

	return scalar grep { ($charges->{$_} // 0) != ($payments->{$_} // 0) } @keys;
}

{
	my $doc = slurp_file("$dir/../patterns.md");
	my $code = join '', map { slurp_file($_) } glob("$dir/*.py");
	my @shown = $doc =~ /^```python\n(.*?)^```$/msg;

	is(scalar(grep { index($code, $_) < 0 } @shown), 0, 'what the documentation shows is what runs here');
	cmp_ok(scalar @shown, '>=', 3, 'and it shows something');
}

my $provider = serve({}, 'provider.py', 0, $ledger);
$ENV{PROVIDER} = "http://127.0.0.1:$provider";
my $port = serve({}, 'crash.py', 'serve', 0, $fault_log);

#----------------------------------------------------------------------
# what the endpoint answers
#----------------------------------------------------------------------
my $plain = serve({}, 'endpoint.py', 0);
my $url = "http://127.0.0.1:$plain/payments";
my $answer = post($plain, 'plain');
my $charge = decode_json($answer->{content})->{charge};

is($answer->{status}, 201, 'execute: 201');
is(recipe({}, 'client.py', $url, 'plain', body_of('plain')),
	"201 $answer->{content}\n", 'replay: the same');
is(recipe({}, 'client.py', $url, 'plain', '{"account": "plain", "amount": 61, "card": "good"}'),
	qq{422 {"error": "mismatch"}\n}, 'mismatch: 422');
is($http->post($url, { content => '{}' })->{status}, 400, 'no key: 400');
is(post($plain, 'x' x 300)->{status}, 400, 'a key that is too long: 400');
is(post($plain, 'declined', card => 'declined')->{status}, 402, 'declined: 402');
is(post($plain, 'declined', card => 'declined')->{status}, 402, 'and again');
is($node->safe_psql('postgres', q{SELECT state FROM idempotency.keys WHERE key = 'declined'}),
	'failed', 'it has failed for good');

$answer = post($plain, 'busy', card => 'busy');
is($answer->{status}, 429, 'the provider is busy: 429');
like($answer->{headers}{'retry-after'}, qr/^\d+$/, 'with Retry-After');
is(insist($plain, 'busy', card => 'busy')->{status}, 201, 'and later it is done');

# Two attempts at once, the first one asleep before its charge.
{
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$plain", Timeout => 30)
	  // die "could not connect: $!";
	my $body = body_of('slow', 'slow');
	my $late;

	print $socket "POST /payments HTTP/1.0\r\nIdempotency-Key: slow\r\nContent-Length: "
	  . length($body) . "\r\n\r\n$body";
	$socket->flush;
	sleep(0.3);
	$answer = post($plain, 'slow', card => 'slow');
	is($answer->{status}, 409, 'in progress: 409');
	like($answer->{headers}{'retry-after'}, qr/^\d+$/, 'with Retry-After');
	$answer = insist($plain, 'slow', card => 'slow');
	is($answer->{status}, 201, 'the second takes over when the lease is over');
	$late = do { local $/; <$socket> };
	like($late, qr{^HTTP/1.\d 503 }, 'the provider refuses the fence of the first');
	is(join("\n", not_once('slow')), '', 'one charge');
}

$answer = post($port, 'lost', card => 'lost');
is($answer->{status}, 503, "the provider's answer was lost: 503");
$answer = insist($port, 'lost', card => 'lost');
is($answer->{status}, 201, 'and later it is done');
is(join("\n", not_once('lost', 'busy', 'plain')), '', 'one charge each');

# Busy when it was resumed: an earlier attempt may have been charged, so it must
# not be failed.  The line at which the first one dies is that of the call.
{
	my ($charging, $n) = (0, 0);

	until ($charging)
	{
		my $key = 'probe-' . ++$n;

		post($port, $key, fault => "die $n");
		$charging = struck($key)->{text} =~ /^with urllib.request.urlopen/;
	}
	post($port, 'busy-later', card => 'busy', fault => "die $n");
	let_leases_run_out();
	is(post($port, 'busy-later', card => 'busy')->{status}, 503, 'busy after a resume: 503');
	is($node->safe_psql('postgres', q{SELECT state FROM idempotency.keys WHERE key = 'busy-later'}),
		'running', 'and left to its lease');
	is(insist($port, 'busy-later', card => 'busy')->{status}, 201, 'and later it is done');

	# attempts are limited
	my $few = serve({ SCOPE => 'payments.few' }, 'crash.py', 'serve', 0, $fault_log);

	foreach my $attempt (1, 2)
	{
		post($few, 'few', fault => "die $n");
		let_leases_run_out();
	}
	$answer = post($few, 'few');
	is("$answer->{status} $answer->{content}", '409 {"error": "exhausted"}', 'exhausted: 409');
	is(recipe({ SCOPE => 'payments.few' }, 'completer.py', 10), '', 'the completer leaves it');
	is($node->safe_psql('postgres', q{SELECT key FROM idempotency.abandoned('payments.few')}),
		'few', 'abandoned() shows it');

	# a provider that must not be called twice
	my $blind = serve({ SCOPE => 'payments.blind' }, 'crash.py', 'serve', 0, $fault_log);

	foreach my $key ('blind-1', 'blind-2')
	{
		post($blind, $key, fault => 'die ' . ($n + ($key eq 'blind-1' ? 1 : 0)));
	}
	let_leases_run_out();
	foreach my $key ('blind-1', 'blind-2')
	{
		$answer = post($blind, $key);
		is("$answer->{status} $answer->{content}", '409 {"error": "indeterminate"}', 'indeterminate: 409');
	}
	is(recipe({ SCOPE => 'payments.blind' }, 'completer.py', 10), '', 'the completer leaves them');
	$node->safe_psql('postgres', q{
		SELECT idempotency.resolve('payments.blind', 'blind-1', 'succeeded',
			'{"payment": 0, "amount": "60.30", "charge": "ch_0"}', reason => 'found in the ledger');
		SELECT idempotency.resolve('payments.blind', 'blind-2', 'retry', reason => 'not in the ledger');
	});
	is(post($blind, 'blind-1')->{content}, '{"payment": 0, "amount": "60.30", "charge": "ch_0"}',
		'resolved as succeeded: replayed');
	is(insist($blind, 'blind-2')->{status}, 201, 'resolved for a retry: executed');
	is(join(' ', map { charges()->{$_} // 0 } 'blind-1', 'blind-2'), '1 1', 'one charge each');
}

#----------------------------------------------------------------------
# the endpoint, killed at every line
#----------------------------------------------------------------------
my ($keys, $told) = sweep($port, 'die', 'die');
my ($left, undef) = sweep($port, 'left', 'die');
my $lines = @$keys - 1;

cmp_ok($lines, '>=', 50, "the endpoint executes $lines lines");

# in which states has it died?
my %reached;
{
	my $points = by_name(q{SELECT key, coalesce(a.recovery_point, 'claimed')
		FROM idempotency.abandoned('payments.create', 1000) AS a
		UNION ALL SELECT key, 'running' FROM idempotency.keys WHERE state = 'running' AND NOT EXISTS
			(SELECT FROM idempotency.abandoned('payments.create', 1000) AS b WHERE b.key = keys.key)})
	  if let_leases_run_out();
	my $charges = charges();

	foreach my $key (@$left)
	{
		next unless $points->{$key} && $key =~ /-(\d+)$/;
		$reached{ "$points->{$key} " . ($charges->{$key} // 0) } //= $1;
	}
}
is(join(', ', sort keys %reached), 'charged 1, charging 0, charging 1, claimed 0',
	'it has died in every state');

check_converges($port, 'killed, and the client retries', $keys, $told);
like(recipe({}, 'completer.py', 1000), qr/^(completed, at attempt 2\n){20,}$/, 'the completer completes');
is(charged_and_not_booked(@$left), 0, 'killed, and completed: every charge has its payment');
check_converges($port, 'killed, completed, and the client retries', $left);

#----------------------------------------------------------------------
# its connection lost at every line
#----------------------------------------------------------------------
($keys, $told) = sweep($port, 'lose', 'lose');
check_converges($port, 'connection lost', $keys, $told);

#----------------------------------------------------------------------
# stopped at every line, and awake again when others have gone on
#----------------------------------------------------------------------
{
	my (%socket, %late, @wrong);
	my $deadline;

	$keys = [ map { "stop-$_" } 1 .. $lines ];
	foreach my $n (1 .. $lines)
	{
		my $key = "stop-$n";
		my $body = body_of($key);

		$socket{$key} = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 30)
		  // die "could not connect: $!";
		print { $socket{$key} } "POST /payments HTTP/1.0\r\nIdempotency-Key: $key\r\nFault: stop $n\r\n"
		  . 'Content-Length: ' . length($body) . "\r\n\r\n$body";
		$socket{$key}->flush;
	}
	$deadline = time() + 30;
	sleep(0.05) until time() > $deadline || !grep { !struck($_) } @$keys;
	is(join(' ', grep { !struck($_) } @$keys), '', 'stopped at every line');
	let_leases_run_out();
	check_converges($port, 'stopped, and the client retries', $keys);
	kill 'CONT', map { struck($_)->{pid} } @$keys;
	foreach my $key (@$keys)
	{
		my $handle = $socket{$key};

		$late{$key} = do { local $/; <$handle> };
		push @wrong, "$key: $late{$key}"
		  if $late{$key} !~ m{^HTTP/1.\d (409|503) } && $late{$key} !~ /\Q@{[ post($port, $key)->{content} ]}\E$/;
	}
	is(join("\n", @wrong), '', 'those that wake up say the same, or come again');
	check_converges($port, 'stopped, and awake again', $keys);
}

#----------------------------------------------------------------------
# killed twice: in each state, and then at every line of the retry
#----------------------------------------------------------------------
{
	my @twice;
	my $past = 0;

	foreach my $state (sort keys %reached)
	{
		my $name = "twice-$state" =~ tr/ /-/r;

		# every line after the charge, every fifth after the others
		foreach my $n (grep { $state eq 'charging 1' || $_ % 5 == 0 } 1 .. $lines)
		{
			post($port, "$name-$n", fault => "die $reached{$state}");
			push @twice, "$name-$n";
		}
	}
	let_leases_run_out();
	foreach my $key (@twice)
	{
		my ($n) = $key =~ /-(\d+)$/;

		$past++ if post($port, $key, fault => "die $n")->{status} == 201;
	}
	cmp_ok($past, '>', 0, 'some retries got past their last line');
	check_converges($port, 'killed twice', \@twice);
}

#----------------------------------------------------------------------
# the completer, killed at every line
#----------------------------------------------------------------------
{
	my @all;

	foreach my $state (sort keys %reached)
	{
		my @mine = map { "completer-$state-$_" =~ tr/ /-/r } 1 .. 55;

		post($port, $_, fault => "die $reached{$state}") foreach @mine;
		let_leases_run_out();
		my $out = recipe({}, 'crash.py', 'each', 'die', 'completer.py', 1);
		my ($runs) = $out =~ /^runs (\d+) and then status 0$/m;

		ok($runs && $runs > 15 && $runs <= @mine, "the completer was killed at every line, after: $state");
		push @all, @mine;
	}
	let_leases_run_out();
	recipe({}, 'completer.py', 1000);
	is(charged_and_not_booked(@all), 0, 'then another one completes');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM idempotency.abandoned('payments.create')}),
		0, 'and nothing is abandoned');
	is(join("\n", not_once(@all)), '', 'one charge, one payment, a finished key each');
	check_converges($port, 'the completer killed', [ @all[ grep { $_ % 20 == 0 } 0 .. $#all ] ]);
}

#----------------------------------------------------------------------
# the long job, killed at every line, twice; and its connection lost
#----------------------------------------------------------------------

# Of these runs, those that have not paid each of two invoices once.
sub badly_paid
{
	my (@runs) = @_;
	my $charges = charges();
	my $rows = by_name('SELECT invoice, count(*) FROM payout GROUP BY 1');
	my $done = by_name('SELECT run, count(*) FROM payout_run GROUP BY 1');
	my $states = by_name(q{SELECT key, state FROM idempotency.keys WHERE scope = 'payouts.run'});

	return map {
		my $run = $_;
		my @found = (
			$done->{$run} // 0,
			$states->{$run} // 'none',
			map { ($charges->{$_} // 0, $rows->{$_} // 0) } "a-$run", "b-$run");

		"@found" eq '1 succeeded 1 1 1 1' ? () : "$run: @found"
	} @runs;
}

{
	my %job = map { $_ => [ 'payouts.py', "$_-{n}", "a-$_-{n}", "b-$_-{n}" ] } 'die', 'lose';
	my %runs;
	my $out;

	$out = recipes(map { [ 'each', $_, @{ $job{$_} } ] } 'die', 'lose');
	foreach my $kind ('die', 'lose')
	{
		$runs{$kind} = () = $out->{$kind} =~ /^$kind \d+ /mg;
		cmp_ok($runs{$kind}, '>', 50, "payouts, $kind: at each of $runs{$kind} lines");
	}
	let_leases_run_out();
	# killed again, at the same line of the next attempt
	recipe({}, 'crash.py', 'each', 'die', @{ $job{die} });
	let_leases_run_out();
	$out = recipes(map { [ 'times', $runs{$_}, @{ $job{$_} } ] } 'die', 'lose');
	foreach my $kind ('die', 'lose')
	{
		my $done = () = $out->{$kind} =~ /^status 0 /mg;

		is($done, $runs{$kind}, "payouts, $kind: done at last");
		is(join("\n", badly_paid(map { "$kind-$_" } 1 .. $runs{$kind})), '',
			"payouts, $kind: each invoice is paid once, and booked once");
	}
}

# Stopped while others go on, and awake again.
{
	my (@stopped, %status, $deadline, $out);

	foreach my $i (1 .. 12)
	{
		my $n = 22 + 6 * $i;
		my $job = { out => '', run => undef };

		local %ENV = (%server, %ENV, PGUSER => 'app', PGDATABASE => 'postgres');
		$job->{run} = IPC::Run::start(
			[ $python, "$dir/crash.py", 'once', 'stop', $n, 'payouts.py', "stop-$i", "a-stop-$i", "b-stop-$i" ],
			'<', \undef, '>', \$job->{out}, '2>', '/dev/null');
		push @stopped, $job;
		push @running, $job->{run};
	}
	$deadline = time() + 30;
	foreach my $job (@stopped)
	{
		until ($job->{out} =~ /^stop .*\n/m || time() > $deadline)
		{
			$job->{run}->pump_nb;
			sleep(0.01);
		}
	}
	let_leases_run_out();
	$out = recipe({}, 'crash.py', 'times', 12, 'payouts.py', 'stop-{n}', 'a-stop-{n}', 'b-stop-{n}');
	is(scalar(() = $out =~ /^status 0/mg), 12, 'payouts stopped: another one does it');
	foreach my $job (@stopped)
	{
		$job->{run}->signal('CONT');
		$job->{run}->finish;
		$status{ $job->{run}->result(0) }++;
	}
	cmp_ok($status{75} // 0, '>=', 5, 'those that wake up find that they have lost it, and stop');
	is(join("\n", badly_paid(map { "stop-$_" } 1 .. 12)), '', 'each invoice is paid once, and booked once');
}

# It goes on for longer than its lease, and nobody takes it over.
{
	my ($run, $out, $deadline) = (undef, '', 0);
	my @invoices = map { "$_-long" } 'a' .. 'j';
	my $slow = serve({}, 'provider.py', 0, "$tmp/slow_ledger", 0.3);

	{
		local %ENV = (%server, %ENV, PGUSER => 'app', PGDATABASE => 'postgres',
			PROVIDER => "http://127.0.0.1:$slow");
		$run = IPC::Run::start([ $python, "$dir/payouts.py", 'long', @invoices ],
			'<', \undef, '>', \$out, '2>', '/dev/null');
	}
	push @running, $run;
	$deadline = time() + 30;
	until ($out =~ /^execute/ || time() > $deadline)
	{
		$run->pump_nb;
		sleep(0.01);
	}
	let_leases_run_out();
	let_leases_run_out();
	like(recipe({}, 'payouts.py', 'long', @invoices), qr/^in_progress/, 'a lease that is extended is not taken over');
	$run->finish;
	is($run->result(0), 0, 'and the job gets to its end');
	is($node->safe_psql('postgres', q{SELECT attempt FROM idempotency.keys WHERE key = 'long'}), 1,
		'at its first attempt');
}

#----------------------------------------------------------------------
# controls
#----------------------------------------------------------------------
foreach my $control ('no_provider_key', 'no_key')
{
	my $bad = serve({ CRASH_CONTROL => $control }, 'crash.py', 'serve', 0, $fault_log);
	my ($charges, $payments);

	($keys) = sweep($bad, $control, 'die');
	let_leases_run_out();
	insist($bad, $_) foreach @$keys;
	$charges = charges();
	$payments = by_name('SELECT account, count(*) FROM payment GROUP BY 1');
	cmp_ok(max(map { $charges->{$_} // 0 } @$keys), '>', 1, "control, $control: charged twice");
	cmp_ok(max(map { $payments->{$_} // 0 } @$keys), $control eq 'no_key' ? '>' : '==', 1,
		"control, $control: payments");
}

$node->stop;
done_testing();
