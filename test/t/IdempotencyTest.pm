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
  start_clients
  move_clients
  stop_clients
  read_journals
  broken_promises
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
# which a FATAL error may or may not have come through before.
sub ask
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
	if (print { $$session->{in} } "$sql\n\\echo END :ERROR\n" and $$session->{in}->flush)
	{
		while (defined(my $line = readline $$session->{out}))
		{
			return $answer if $line eq "END false\n";
			last if $line eq "END true\n";
			$answer .= $line;
		}
	}
	close $$session->{in};
	close $$session->{out};
	waitpid $$session->{pid}, 0;
	$$session = undef;
	return;
}

# Deliver until told to stop.
sub client
{
	my ($clients, $number) = @_;
	my $async = defined $clients->{async} && $number == $clients->{async};
	my $unsynced = $async ? 'SET LOCAL synchronous_commit = off\;' : '';
	my $dir = $clients->{dir};
	my $session;

	local $SIG{PIPE} = 'IGNORE';
	srand($number * 1000 + $$);
	open(STDERR, '>', "$dir/stderr.$number") or _exit(1);
	open(my $file, '>', "$dir/journal.$number") or _exit(1);
	until (-e "$dir/stop")
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
	_exit(0);
}

# Start n clients; unchecked => the number of one that also writes rows without
# a claim into table unchecked, async => of one that commits asynchronously.
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

# From their next connection on, the clients talk to this server.
sub move_clients
{
	my ($clients, $node) = @_;

	append_to_file("$clients->{dir}/connstr.new", $node->connstr('postgres'));
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
