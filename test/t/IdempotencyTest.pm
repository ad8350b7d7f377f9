# IdempotencyTest.pm
#		What the TAP tests share: servers with the extension, sessions, load.
#
# The effects table of these tests has no unique constraint, so that a
# duplicate can show.  deliver() is what an application does: claim, leave the
# effect, finish, in one transaction.

package IdempotencyTest;

use strict;
use warnings;

use Exporter 'import';
use File::Spec;
use FindBin;
use IO::Handle;
use IPC::Open2;
use IPC::Run;
use POSIX qw(_exit);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  have_test_library
  use_test_library
  new_node
  install_app
  session
  sqlstate
  run_pgbench
  start_pgbench
  wait_pgbench
  duplicates
  try_start
  kill_backend
  webhook_examples
  start_clients
  move_clients
  stop_clients
  read_journals
  broken_promises
  call
  hang_up
  journal
  leaser
  read_lines
  read_fences
  wrong_fences
);

my $server_conf = q{
max_prepared_transactions = 20
max_connections = 120
shared_buffers = 64MB
log_statement = none
log_min_messages = warning
autovacuum_naptime = 5s
};

# The path of the library with fault points, or undef.
sub have_test_library
{
	my $path = $ENV{IDEMPOTENCY_TESTLIB}
	  // File::Spec->rel2abs("$FindBin::RealBin/../../build/test/idempotency.so");

	return -r $path ? $path : undef;
}

# Make every new session of this database use the library with fault points.
sub use_test_library
{
	my ($node, $db) = @_;
	my $path = have_test_library();

	$node->safe_psql($db // 'postgres',
		"UPDATE pg_proc SET probin = '$path' WHERE probin = '\$libdir/idempotency'"
	);
	return;
}

# A running server; conf => more settings, init => arguments of init().
sub new_node
{
	my ($name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(@{ $opt{init} // [] });
	$node->append_conf('postgresql.conf', $server_conf);
	$node->append_conf('postgresql.conf', $opt{conf}) if defined $opt{conf};
	$node->start;
	return $node;
}

# The extension, and an application on top of it.
sub install_app
{
	my ($node, $db) = @_;

	$node->safe_psql($db // 'postgres', q{
		CREATE EXTENSION idempotency;
		CREATE TABLE effect (key text, xid xid8 DEFAULT pg_current_xact_id(),
			at timestamptz DEFAULT clock_timestamp());
		CREATE FUNCTION deliver(k text, request text DEFAULT NULL)
		RETURNS text LANGUAGE plpgsql AS $$
		DECLARE
			c record;
		BEGIN
			SELECT * INTO c FROM idempotency.claim('app', k, request);
			IF c.outcome = 'execute' THEN
				INSERT INTO effect (key) VALUES (k);
				PERFORM idempotency.finish('app', k, 'by ' || pg_current_xact_id());
				RETURN 'execute: by ' || pg_current_xact_id();
			END IF;
			RETURN c.outcome || coalesce(': ' || c.response, '');
		END;
		$$;
	});
	return;
}

# A session of psql that goes on after an error.
sub session
{
	my ($node, %opt) = @_;

	return $node->background_psql($opt{db} // 'postgres', on_error_stop => 0);
}

# The SQLSTATE with which one command fails; '' if it doesn't.
sub sqlstate
{
	my ($node, $sql, %opt) = @_;
	my ($stdout, $stderr);

	$node->psql(
		$opt{db} // 'postgres', $sql,
		stdout => \$stdout,
		stderr => \$stderr,
		on_error_die => 0,
		on_error_stop => 1,
		extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
	return $stderr =~ /(?:ERROR|FATAL):\s+(\w{5})/ ? $1 : '';
}

# Start pgbench on a script; to be waited for with wait_pgbench().  Options:
# db, clients, seconds or transactions, options => PGOPTIONS, args => [...].
sub start_pgbench
{
	my ($node, $script, %opt) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
	my $bench = { out => '', err => '' };
	my @cmd = (
		$node->installed_command('pgbench'),
		'--no-vacuum', '--file', $file,
		'--client', $opt{clients} // 8,
		'--jobs', 2,
		defined $opt{seconds}
		? ('--time', $opt{seconds})
		: ('--transactions', $opt{transactions} // 100),
		@{ $opt{args} // [] });

	PostgreSQL::Test::Utils::append_to_file($file, $script);
	local %ENV = $node->_get_env();
	local $ENV{PGOPTIONS} = $opt{options} // '';
	local $ENV{PGDATABASE} = $opt{db} // 'postgres';
	$bench->{run} =
	  IPC::Run::start(\@cmd, '<', \undef, '>', \$bench->{out}, '2>', \$bench->{err});
	return $bench;
}

# Wait for it.  Returns how many transactions were processed; what it said is
# in {out} and {err}, how it ended in {status}.
sub wait_pgbench
{
	my ($bench) = @_;

	$bench->{run}->finish;
	$bench->{status} = $bench->{run}->result(0);
	return $bench->{out} =~ /actually processed: (\d+)/ ? $1 : 0;
}

# Run it and wait.
sub run_pgbench
{
	my $bench = start_pgbench(@_);

	$bench->{processed} = wait_pgbench($bench);
	return $bench;
}

# How many keys have taken effect more than once?
sub duplicates
{
	my ($node, $db) = @_;

	return $node->safe_psql($db // 'postgres',
		'SELECT count(*) FROM (SELECT FROM effect GROUP BY key HAVING count(*) > 1) AS d'
	);
}

# Start a server whose postmaster was killed: what it left must be gone first.
sub try_start
{
	my ($node) = @_;

	foreach my $attempt (1 .. 300)
	{
		local %ENV = $node->_get_env();
		my $status = IPC::Run::run(
			[
				$node->installed_command('pg_ctl'), '-w', '-D',
				$node->data_dir, '-l', $node->logfile, '-o',
				'--cluster-name=' . $node->name, 'start'
			],
			'>', '/dev/null', '2>', '/dev/null');

		if ($status)
		{
			$node->_update_pid(1);
			return;
		}
		sleep(0.1);
	}
	die 'could not start the server again';
}

# Kill a process of the server (SIGKILL), and wait until the server, which begins
# anew because of that, is there again: not before it has noticed.
sub kill_backend
{
	my ($node, $pid) = @_;
	my $deadline = time() + 60;

	kill 'KILL', $pid;
	while (kill 0, $pid)
	{
		die "process $pid does not end" if time() > $deadline;
		select(undef, undef, undef, 0.005);
	}
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'the server did not come back';
	return;
}

# Fetch @octokit/webhooks-examples, several hundred webhooks as GitHub sends them;
# returns the path it is unpacked to, or skips all tests.
sub webhook_examples
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my ($out, $err) = ('', '');

	local $ENV{HOME} = $dir;
	local $ENV{npm_config_cache} = "$dir/cache";
	plan skip_all => 'npm is not installed'
	  unless eval { IPC::Run::run([ 'npm', '--version' ], '>', \$out, '2>', \$err) };
	foreach my $attempt (1 .. 3)
	{
		my $done = eval {
			IPC::Run::run(
				[ 'npm', 'pack', '--silent', '@octokit/webhooks-examples@7' ],
				'>', \$out, '2>', \$err,
				init => sub { chdir $dir },
				IPC::Run::timeout(60));
		};

		last if $done;
		plan skip_all => 'could not fetch @octokit/webhooks-examples: ' . ($err =~ /^(.*)/)[0]
		  if $attempt == 3;
	}
	my ($archive) = glob("$dir/*.tgz");
	system_or_bail('tar', 'xzf', $archive, '-C', $dir);
	return "$dir/package";
}

#----------------------------------------------------------------------
# Clients with a journal outside the server, synced to disk: what they are about
# to send, and what they were answered.  A client that loses its connection does
# not know whether its transaction has committed; it sends the same key again
# until it is answered.
#----------------------------------------------------------------------

# Append a line to the journal, on disk when this returns.
sub journal
{
	my ($file, $line) = @_;

	print $file "$line\n";
	$file->flush;
	$file->sync;
	return;
}

# Send one batch; returns its output, or undef if the connection was lost, on
# which a FATAL error may or may not have come through before, or it failed.
sub ask
{
	my ($clients, $session, $sql) = @_;
	my ($state, $answer) = call($clients, $session, $sql);

	return $answer if $state eq '';
	hang_up($session) if $state ne 'lost';
	return;
}

# End a session.
sub hang_up
{
	my ($session) = @_;

	close $$session->{in};
	close $$session->{out};
	waitpid $$session->{pid}, 0;
	$$session = undef;
	return;
}

# Send one batch to a session, which is begun if it is undef.  Returns the
# SQLSTATE of its last command, '' if that succeeded, 'lost' if the connection
# was lost; and the output.
sub call
{
	my ($clients, $session, $sql) = @_;
	my $answer = '';

	if (!$$session)
	{
		my ($out, $in);
		my $connstr = slurp_file("$clients->{dir}/connstr");
		my $pid = open2($out, $in, $clients->{psql}, '-XAtq', '-d', $connstr);

		$$session = { pid => $pid, in => $in, out => $out };
	}
	if (print { $$session->{in} } "$sql\n\\echo END :SQLSTATE\n" and $$session->{in}->flush)
	{
		while (defined(my $line = readline $$session->{out}))
		{
			if ($line =~ /^END (.*)$/)
			{
				# none: the connection is lost; 57P0x: it is about to be
				last if $1 eq '' || $1 =~ /^57P0/;
				chomp $answer;
				return ($1 eq '00000' ? '' : $1, $answer);
			}
			$answer .= $line;
		}
	}
	hang_up($session);
	return ('lost', '');
}

# Deliver until told to stop.
sub deliverer
{
	my ($clients, $number, $file) = @_;
	my $async = defined $clients->{async} && $number == $clients->{async};
	my $unsynced = $async ? 'SET LOCAL synchronous_commit = off\;' : '';
	my $session;

	until (-e "$clients->{dir}/stop")
	{
		my $space = int(time() / 2);
		my $key = ($async ? 'async' : 'sync') . "-$space-" . int(rand(150));
		my $row = "$number-$space-" . rand();
		my $late = rand() < 0.2 ? '\; SELECT pg_sleep(0.02)' : '';
		my $sql = "BEGIN\\; $unsynced SELECT deliver('$key')\\; COMMIT$late;";
		my $answer;

		journal($file, "send $key");
		until (defined($answer = ask($clients, \$session, $sql)))
		{
			journal($file, "lost $key");
			sleep(0.02);
		}
		$answer =~ s/\s*$//;
		journal($file, "answer $key $answer");

		# the control: a row without a claim, and time to lose the answer
		next unless defined $clients->{unchecked} && $number == $clients->{unchecked};
		$sql = "BEGIN\\; INSERT INTO unchecked VALUES ('$row')\\; COMMIT\\; SELECT pg_sleep(0.02);";
		sleep(0.01) until defined ask($clients, \$session, $sql);
	}
	return;
}

# A client's process: does what it is there for until told to stop.
sub client
{
	my ($clients, $number) = @_;
	my $dir = $clients->{dir};
	my $work = $clients->{work} // \&deliverer;

	local $SIG{PIPE} = 'IGNORE';
	srand($number * 1000 + $$);
	open(STDERR, '>', "$dir/stderr.$number") or _exit(1);
	open(my $file, '>', "$dir/journal.$number") or _exit(1);
	eval { $work->($clients, $number, $file); 1 } or do
	{
		print STDERR $@;
		STDERR->flush;
		_exit(1);
	};
	_exit(0);
}

# Start n clients; work => what they do, deliverer by default.  Of delivering
# clients, unchecked => the number of one that also writes rows without a claim
# into table unchecked, async => of one that commits asynchronously.
sub start_clients
{
	my ($node, $n, %opt) = @_;
	my $clients = {
		%opt,
		dir => PostgreSQL::Test::Utils::tempdir(),
		psql => $node->installed_command('psql'),
		pids => []
	};

	move_clients($clients, $node);
	foreach my $number (0 .. $n - 1)
	{
		my $pid = fork() // die "could not fork: $!";

		client($clients, $number) if $pid == 0;
		push @{ $clients->{pids} }, $pid;
	}
	return $clients;
}

# From their next connection on, the clients talk to this server, or, if they
# were started with connstr => ..., to what that says.
sub move_clients
{
	my ($clients, $node) = @_;

	append_to_file("$clients->{dir}/connstr.new",
		$clients->{connstr} // $node->connstr('postgres'));
	rename("$clients->{dir}/connstr.new", "$clients->{dir}/connstr")
	  or die "could not rename: $!";
	return;
}

# Tell the clients to end, and wait until they have.
sub stop_clients
{
	my ($clients) = @_;

	append_to_file("$clients->{dir}/stop", '');
	$clients->{failed} = 0;
	foreach my $pid (@{ $clients->{pids} })
	{
		waitpid $pid, 0;
		$clients->{failed}++ if $? != 0;
	}
	return;
}

# What the clients were told, in all.  {told} has, for each key, the transaction
# that is said to have executed it; an asynchronous client's are left out.
sub read_journals
{
	my ($clients) = @_;
	my (%told, %executed);
	my %result = (
		answers => 0,
		lost => 0,
		resolved => 0,
		strange => '',
		told => \%told);

	foreach my $number (0 .. $#{ $clients->{pids} })
	{
		my %open;

		foreach my $line (split /\n/, slurp_file("$clients->{dir}/journal.$number"))
		{
			my ($what, $key, $answer) = split / /, $line, 3;

			$open{$key} = 1 if $what eq 'lost';
			$result{lost}++ if $what eq 'lost';
			next if $what ne 'answer';
			$result{answers}++;
			if ($answer !~ /^(execute|replay): by (\d+)$/)
			{
				$result{strange} .= "$line\n";
				next;
			}
			$result{resolved}++ if delete $open{$key} && $1 eq 'replay';
			next if $key =~ /^async/;
			$told{$key}{$2} = 1;
			$executed{$key}++ if $1 eq 'execute';
		}
	}
	$result{keys} = keys %told;
	$result{executed_twice} = grep { $_ > 1 } values %executed;
	$result{contradicted} = grep { keys %$_ > 1 } values %told;
	return \%result;
}

#----------------------------------------------------------------------
# Holders of leases, who write down every fence that they were given.
#----------------------------------------------------------------------

# Lease the same few keys of scope leased over and over, and let go of them in
# every way there is, until told to stop.  Options of start_clients(): keys =>
# how many; done => finish other keys as well, each with its own response, and
# don't stop trying until it is acknowledged.
sub leaser
{
	my ($clients, $number, $file) = @_;
	my $n = 0;
	my $session;

	until (-e "$clients->{dir}/stop")
	{
		my $done = $clients->{done} && rand() < 0.3;
		my $key = $done ? "done-$number-$$-" . $n++ : 'k-' . int(rand($clients->{keys} // 12));
		my $lease = $done ? '20 s' : int(10 + rand(40)) . ' ms';
		my ($state, $answer);

		do
		{
			sleep(0.02) if defined $state;
			($state, $answer) = call($clients, \$session,
				"SELECT fence, (extract(epoch FROM claimed_at) * 1000000)::bigint
				FROM idempotency.claim('leased', '$key', lease => '$lease', wait => '0', owner => '$number-$$')
				WHERE outcome IN ('execute', 'resume');");
		} while ($done && $state eq 'lost' && !-e "$clients->{dir}/stop");
		if ($state ne '')
		{
			journal($file, $state eq 'lost' ? "lost $key" : "strange $state claim $key");
			sleep(0.02);
			next;
		}
		next unless $answer =~ /^(\d+)\|(\d+)$/;
		my ($fence, $at) = ($1, $2);
		journal($file, "fence $key $fence $at");
		if ($done)
		{
			while (1)
			{
				($state) = call($clients, \$session,
					"SELECT idempotency.finish('leased', '$key', 'by $fence', fence => $fence);");
				last if $state ne 'lost' || -e "$clients->{dir}/stop";
				journal($file, "lost $key");
				sleep(0.02);
			}
			journal($file, $state eq '' ? "done $key $fence" : "strange $state finish $key") if $state ne 'lost';
			next;
		}
		($state) = call($clients, \$session, let_go($key, $fence));
		journal($file, "strange $state $key") unless $state =~ /^(|lost|ID404|ID409|ID412)$/;
	}
	return;
}

# A way to let go of a lease of scope leased.
sub let_go
{
	my ($key, $fence) = @_;
	my $identity = "'leased', '$key'";
	my @ways = (
		'SELECT 1;',
		"SELECT idempotency.heartbeat($identity, $fence, '30 ms');",
		"SELECT idempotency.checkpoint($identity, $fence, 'half', 'state of $fence');",
		"SELECT idempotency.release($identity, $fence);",
		"SELECT idempotency.fail($identity, 'no', fence => $fence, retry_after_ms => 0);",
		"SELECT idempotency.finish($identity, 'by $fence', fence => $fence);
		SELECT idempotency.forget($identity, 'once more', fence => $fence);",
		"BEGIN; SELECT idempotency.assert_fence($identity, $fence); COMMIT;");

	return $ways[ rand @ways ];
}

# All lines of the clients' journals, each as the list of its words.
sub read_lines
{
	my ($clients) = @_;

	return map { [ split / / ] }
	  map { split /\n/, slurp_file("$clients->{dir}/journal.$_") } 0 .. $#{ $clients->{pids} };
}

# Every fence in the clients' journals: [key, fence, when it was issued].
sub read_fences
{
	my ($clients) = @_;

	return map { [ @$_[ 1 .. 3 ] ] } grep { $_->[0] eq 'fence' } read_lines($clients);
}

# What is wrong with these fences, of whatever servers: how many were issued
# more than once, how many are not greater than one issued before to the same
# key.  A claim that was told of its fence twice is one.
sub wrong_fences
{
	my %claim = map { ("@$_" => $_) } @_;
	my (%issued, %last);
	my ($repeated, $fallen) = (0, 0);

	foreach my $claim (sort { $a->[2] <=> $b->[2] } values %claim)
	{
		my ($key, $fence) = @$claim;

		$repeated++ if $issued{$fence}++;
		$fallen++ if exists $last{$key} && $fence <= $last{$key};
		$last{$key} = $fence;
	}
	return "$repeated repeated, $fallen fallen";
}

# How many keys have not the effect that a client was told of?
sub broken_promises
{
	my ($node, $result) = @_;
	my %effect = map { split /\|/ } split /\n/,
	  $node->safe_psql('postgres', q{SELECT key, xid FROM effect WHERE key LIKE 'sync-%'});

	return scalar grep { !exists $effect{$_} || !exists $result->{told}{$_}{ $effect{$_} } }
	  keys %{ $result->{told} };
}

1;
