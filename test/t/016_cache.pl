# The cache of doc/patterns.md: many ask for a page while its price changes.
#
# cache.py itself compares what it is shown with the price it knew before it
# asked.  The control changes and invalidates in the wrong order, and must show
# an old price.

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
my $node = new_node('cache');
my %server = $node->_get_env();

$node->safe_psql('postgres', 'CREATE EXTENSION idempotency');
$node->safe_psql('postgres', slurp_file("$dir/schema.sql"));
$node->safe_psql('postgres', q{
	INSERT INTO product VALUES (1, 'tea', 1), (2, 'coffee', 1);
});

# Start cache.py; what it prints goes to $out.
sub cache
{
	my ($out, @arguments) = @_;

	local %ENV = (%server, %ENV, PGUSER => 'app', PGDATABASE => 'postgres');
	return IPC::Run::start([ $python, "$dir/cache.py", @arguments ], '<', \undef, '>', $out, '2>', \my $err);
}

# All at once want what nobody has made.
{
	my @out = ('') x 12;
	my @asking = map { cache(\$out[$_], 'ask', 2) } 0 .. $#out;

	ok($_->finish, 'asked') foreach @asking;
	is(join('', @out), "1\n" x 12, '12 that ask at once are shown the page');
	is($node->safe_psql('postgres', q{SELECT count(*), max(attempt) FROM idempotency.keys WHERE scope = 'page'}),
		'1|1', 'which was made once');
}

# They ask while the price changes.
{
	my @out = ('') x 6;
	my $none = '';
	my @asking = map { cache(\$out[$_], 'ask', 1, 100) } 0 .. $#out;
	my $changing = cache(\$none, 'change', 1, 150);

	ok($changing->finish, 'changed');
	ok($_->finish, 'asked') foreach @asking;
	my @shown = split /\n/, join('', @out);

	is(scalar @shown, 600, 'every question has an answer');
	is(scalar(grep { /stale/ } @shown), 0, 'nobody is shown an older price than he knew');
	my $last = '';
	cache(\$last, 'ask', 1)->finish;
	is($last, "151\n", 'and in the end it is the last one');
}

# Control: invalidated before the change, in a transaction of its own.
$node->safe_psql('postgres', q{SELECT idempotency.invalidate('page', 'product 2', 'too early')});
my $stale = '';
cache(\$stale, 'ask', 2)->finish;
$node->safe_psql('postgres', 'UPDATE product SET price = price + 1 WHERE id = 2');
$stale = '';
cache(\$stale, 'ask', 2)->finish;
is($stale, "stale\n", 'control: invalidated too early, the old price stays');

$node->stop;
done_testing();
