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
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

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
		select(undef, undef, undef, 0.1);
	}
	die 'could not start the server again';
}

1;
