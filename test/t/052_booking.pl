# The booking of doc/patterns.md, killed at each of its lines.
#
# booking.py checks itself that every booking is whole or undone.  Here is that
# it was killed at many lines, that both ends were seen, and a control: where
# what is done outside isn't registered, something must be left over.

use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = abs_path("$FindBin::RealBin/../../doc/patterns");
my ($python) = grep {
	my $path = $_;
	eval { IPC::Run::run([ $path, '-c', 'import psycopg' ], '>', '/dev/null', '2>', '/dev/null') };
} grep { defined } $ENV{PYTHON}, '/usr/bin/python3', 'python3';
plan skip_all => 'there is no Python 3 with psycopg 3' unless defined $python;

$ENV{PYTHONDONTWRITEBYTECODE} = 1;
my $node = new_node('booking', conf => "shared_preload_libraries = 'idempotency'\nidempotency.naptime = 100\n");
my %server = $node->_get_env();

# Run booking.py in a database of its own; returns its status and what it says.
sub booking
{
	my ($db, $outside, %env) = @_;
	my ($out, $err) = ('', '');

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION idempotency');
	(my $schema = slurp_file("$dir/schema.sql")) =~ s/^CREATE ROLE.*$//m if $db ne 'first';
	$schema = slurp_file("$dir/schema.sql") if $db eq 'first';
	$node->safe_psql($db, $schema . slurp_file("$dir/booking.sql"));
	local %ENV = (%server, %ENV, PGUSER => 'app', PGDATABASE => $db, LEASE => '300 ms', DEADLINE => '2 s', OUTSIDE => $outside, %env);
	my $run = IPC::Run::start([ $python, "$dir/booking.py", 'crash' ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(150));
	$run->finish;
	note($out);
	diag($err) if $err ne '';
	return ($run->result(0), $out);
}

my ($status, $out) = booking('first', PostgreSQL::Test::Utils::tempdir());
my $killed = () = $out =~ /booking\.py:\d+/g;
is($status, 0, 'all bookings are whole or undone');
cmp_ok($killed, '>', 30, "killed at $killed lines");
foreach my $end ('ends booked: seat, charge, mail', 'ends undone: no effect', 'ends undone: charge, refund$', 'ends undone: charge, refund, mail, apology')
{
	like($out, qr/$end/m, $end);
}
is($node->safe_psql('first', 'SELECT count(*) FROM idempotency.verify()'), 0, 'verify() finds nothing');

($status, $out) = booking('control', PostgreSQL::Test::Utils::tempdir(), CRASH_CONTROL => 'unregistered', CONVERGE => '8');
is($status, 1, 'control: what was not registered is left over');
like($out, qr/NEITHER WHOLE NOR UNDONE/, 'control: and is found');

done_testing();
