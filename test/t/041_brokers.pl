# From end to end, with real parts.
#
# producer -> outbox -> relay -> NATS JetStream, and Redis -> consumer with
# accept() -> effect, each a process of its own with the npm client of its part
# (test/clients/events.js), while they, the brokers and the database are killed
# (SIGKILL), and connections to a broker cut, at random.  At the end every
# committed event has exactly one effect per consumer, in the order of the commits
# within a key; the naive consumer beside has duplicates; and to replay everything
# from the beginning changes nothing.
#
# Consumer nats knows events by their ids, and has the order of the broker.
# Consumer redis is handed some batches shuffled, and has the order of accept():
# strategy "ordered", by the number that an event has within its key.  The naive
# consumer of redis is handed them likewise, and mixes them up.
#
# IDEMPOTENCY_EVENTS (8000; 20000 for a release), in 4 partitions.

use strict;
use warnings;

use File::Copy qw(copy);
use FindBin;
use IO::Socket::INET;
use lib $FindBin::RealBin;
use IdempotencyTest;
use IPC::Run;
use POSIX qw(:sys_wait_h _exit);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $events = $ENV{IDEMPOTENCY_EVENTS} // 8000;
my $producers = 4;
my $clients = "$FindBin::RealBin/../clients";
my $dir = PostgreSQL::Test::Utils::tempdir();

# Is this program there?  Debian has servers where only root looks.
local $ENV{PATH} = "$ENV{PATH}:/usr/sbin:/usr/local/sbin";
sub has { my ($out, $err) = ('', ''); return eval { IPC::Run::run([@_], '>', \$out, '2>', \$err) }; }

foreach my $program (qw(nats-server redis-server node npm))
{
	plan skip_all => "$program is not installed" unless has($program, '--version');
}

# The npm clients.
sub fetch_clients
{
	my ($out, $err) = ('', '');

	local $ENV{HOME} = $dir;
	local $ENV{npm_config_cache} = "$dir/cache";
	copy("$clients/package.json", "$dir/package.json") or die "could not copy: $!";
	foreach my $attempt (1 .. 3)
	{
		return if eval {
			IPC::Run::run(
				[ 'npm', 'install', '--silent', '--no-audit', '--no-fund', '--ignore-scripts' ],
				'>', \$out, '2>', \$err, init => sub { chdir $dir }, IPC::Run::timeout(120));
		};
	}
	plan skip_all => 'could not fetch the npm clients: ' . (($err =~ /^(.*)/)[0] // '');
}

fetch_clients();
$ENV{NODE_PATH} = "$dir/node_modules";

sub free_port
{
	my $socket = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) or die "no port: $!";
	my $port = $socket->sockport;

	close $socket;
	return $port;
}
$ENV{NATS_PORT} = free_port();
$ENV{REDIS_PORT} = free_port();

my $node = new_node('brokers', conf => "restart_after_crash = on\n");
install_app($node);
$node->safe_psql('postgres', q{
	CREATE TABLE work (n bigserial, producer int, id text, key int, m int);
	CREATE TABLE counter (key int PRIMARY KEY, m int);
	INSERT INTO counter SELECT k, 0 FROM generate_series(0, 31) AS k;
	-- no constraint on either, so that a duplicate can show
	CREATE TABLE done (n bigserial, who text, id text, key int, m int);
	CREATE TABLE naive (n bigserial, who text, id text);
	CREATE FUNCTION produce(p int, operation text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		k int := hashtext(operation) & 31;
		v int;
		e text;
		c record;
	BEGIN
		SELECT * INTO c FROM idempotency.claim('produce', operation);
		IF c.outcome = 'execute' THEN
			UPDATE counter SET m = m + 1 WHERE key = k RETURNING m INTO v;
			e := idempotency.emit('work', 'done', v::text, k::text);
			INSERT INTO work (producer, id, key, m) VALUES (p, e, k, v);
			PERFORM idempotency.finish('produce', operation, e);
			RETURN e;
		END IF;
		RETURN c.response;
	END $$;
});
$node->safe_psql('postgres', q{
	SELECT FROM idempotency.configure_consumer('nats', strategy => 'id');
	SELECT FROM idempotency.configure_consumer('redis', strategy => 'ordered', first_seq => 1);
	-- what became of a delivery; "gap": events before it have to come first
	CREATE FUNCTION consume(who text, id text, key text, payload text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		a record;
	BEGIN
		IF who = 'redis' THEN
			SELECT * INTO a FROM idempotency.accept(who, 'work/' || key, seq => payload::bigint);
		ELSE
			SELECT * INTO a FROM idempotency.accept(who, 'work', event_id => id);
		END IF;
		IF a.outcome = 'process' THEN
			INSERT INTO done (who, id, key, m) VALUES (who, id, key::int, payload::int);
		ELSIF a.outcome NOT IN ('duplicate', 'gap') THEN
			RAISE EXCEPTION 'accept() answers %', a.outcome;
		END IF;
		RETURN a.outcome;
	END $$;
});
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'postgres';
$ENV{PGUSER} = $node->safe_psql('postgres', 'SELECT current_user');

#----------------------------------------------------------------------
# the processes, started again when they end
#----------------------------------------------------------------------
mkdir "$dir/nats";
mkdir "$dir/redis";
my %command = (
	nats => [ 'nats-server', '-a', '127.0.0.1', '-p', $ENV{NATS_PORT}, '-js', '-sd', "$dir/nats" ],
	redis => [ 'redis-server', '--port', $ENV{REDIS_PORT}, '--bind', '127.0.0.1', '--dir', "$dir/redis",
		'--appendonly', 'yes', '--appendfsync', 'always', '--save', '' ]);
my $js = "$clients/events.js";

$command{"producer $_"} = [ 'node', $js, 'producer', $_, int($events / $producers) ] foreach 1 .. $producers;
foreach my $broker (qw(nats redis))
{
	$command{"relay $broker"} = [ 'node', $js, 'relay', $broker ];
	$command{"consumer $broker"} = [ 'node', $js, 'consumer', $broker, 'consumer', $broker ];
	$command{"naive $broker"} = [ 'node', $js, 'naive', $broker, 'naive' ];
}
my %pid;
my %finished;

sub start
{
	my ($name) = @_;
	my $child = fork();

	die 'could not fork' unless defined $child;
	if ($child == 0)
	{
		open STDOUT, '>>', "$dir/clients.log";
		open STDERR, '>&', \*STDOUT;
		exec @{ $command{$name} } or _exit(127);
	}
	$pid{$name} = $child;
	return;
}

# Start again what has ended, but a producer that is done.
sub look_after
{
	foreach my $name (grep { !$finished{$_} } sort keys %command)
	{
		if (defined $pid{$name})
		{
			next unless waitpid($pid{$name}, WNOHANG) > 0;
			if ($? == 0 && $name =~ /^producer/)
			{
				$finished{$name} = 1;
				delete $pid{$name};
				next;
			}
		}
		start($name);
	}
	return;
}

END
{
	my $status = $?;

	kill 'KILL', values %pid;
	waitpid($_, 0) foreach values %pid;
	$? = $status;
}

# What is there to be killed?  By its first word, if a client, else by itself.
sub kind { return $_[0] =~ /^(\w+)/ ? $1 : die; }

my @kinds = qw(nats redis connections database producer relay consumer);

# Cut all clients' connections to Redis, which lives on.
sub cut_connections
{
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$ENV{REDIS_PORT}", Timeout => 5) or return;

	print $socket "CLIENT KILL TYPE normal SKIPME yes\r\n";
	$socket->flush;
	my $answer = <$socket> // '';
	return $answer =~ /^:[1-9]/;
}

sub count { return $node->safe_psql('postgres', $_[0]); }

start($_) foreach qw(nats redis);
sleep(1);
my $began = time;
my $limit = $began + 60 + $events / 50;
my %kills;
my $next_kill = time + 2;
my $quiet = 0;

while (time < $limit)
{
	look_after();
	sleep(0.1);
	my $producing = grep { !$finished{$_} } grep { /^producer/ } keys %command;
	my $spared = grep { !$kills{$_} && $_ ne 'producer' } @kinds;

	if (time > $next_kill && ($producing || $spared))
	{
		# each kind now and then, and soon
		my ($must) = grep { !$kills{$_} } 'producer', @kinds;
		my @names = (keys %pid, 'database', 'connections');
		my @wanted = grep { $must && kind($_) eq $must } @names;
		my $victim = @wanted && rand() < 0.5 ? $wanted[ rand @wanted ] : $names[ rand @names ];

		if ($victim eq 'database')
		{
			$node->kill9;
			try_start($node);
			$kills{database}++;
		}
		elsif ($victim eq 'connections')
		{
			$kills{connections} += cut_connections() ? 1 : 0;
		}
		elsif (kill 'KILL', $pid{$victim})
		{
			$kills{ kind($victim) }++;
		}
		$next_kill = time + 0.7 + rand(0.8);
	}
	next if $producing || $spared || $quiet++ % 5;
	last if count(q{SELECT (SELECT count(*) FROM done) >= 2 * (SELECT count(*) FROM work)
		AND (SELECT count(DISTINCT (who, id)) FROM naive) >= 2 * (SELECT count(*) FROM work)}) eq 't';
}
note sprintf('%d events in %d s; killed: %s', $events, time - $began, join(', ', map { "$_ $kills{$_}" } sort keys %kills));

is(join(' ', grep { !$kills{$_} } @kinds), '', 'each kind was killed');

#----------------------------------------------------------------------
# what came of it
#----------------------------------------------------------------------
is(count('SELECT count(*), count(DISTINCT id) FROM work'), "$events|$events", 'every operation was executed once, and has its event');
is(count('SELECT count(*) FROM idempotency.outbox'), $events, 'which is in the outbox once');

sub check_effects
{
	my ($when) = @_;

	foreach my $who (qw(nats redis))
	{
		is(count("SELECT count(*), count(DISTINCT id) FROM done WHERE who = '$who' AND id IN (SELECT id FROM work)"),
			"$events|$events", "$when, $who: every event had exactly one effect");
		is(count("SELECT count(*) FROM done WHERE who = '$who' AND id NOT IN (SELECT id FROM work)"), '0', "$when, $who: and nothing else");
		is( count(qq{SELECT count(*) FROM (SELECT m, lag(m) OVER (PARTITION BY key ORDER BY n) AS before FROM done WHERE who = '$who') AS d
			WHERE m <= before}),
			'0', "$when, $who: in the order of the commits within a key");
	}
	return;
}
check_effects('after the crashes');
my $duplicates = count('SELECT count(*) - count(DISTINCT (who, id)) FROM naive');
cmp_ok($duplicates, '>', 0, "control: the naive consumer has duplicates ($duplicates)");

cmp_ok(
	count(q{SELECT count(*) FROM (SELECT m, lag(m) OVER (PARTITION BY key ORDER BY first) AS before
		FROM (SELECT id, min(n) AS first FROM naive WHERE who = 'redis' GROUP BY id) AS f JOIN work USING (id)) AS o WHERE m <= before}),
	'>', 0, 'control: what was handed out shuffled, it has processed so');

# everything once more, from the beginning
foreach my $name (grep { /^(relay|naive|consumer)/ } sort keys %pid)
{
	kill 'KILL', $pid{$name};
	waitpid($pid{$name}, 0);
	delete $pid{$name};
}
foreach my $broker (qw(nats redis))
{
	$command{"replay $broker"} = [ 'node', $js, 'consumer', $broker, 'replay', $broker, $events ];
	start("replay $broker");
}
my $replayed = time + 60 + $events / 50;
foreach my $name (grep { /^replay/ } sort keys %pid)
{
	my $status = '';

	# ends when it was given as many as there are
	while (time < $replayed)
	{
		if (waitpid($pid{$name}, WNOHANG) > 0)
		{
			$status = $?;
			delete $pid{$name};
			last;
		}
		sleep(0.2);
	}
	is($status, 0, "$name: everything was delivered from the beginning");
}
check_effects('after a replay');
done_testing();
