# The ledger: what is hashed, the tree, and what becomes of both in a crash.
#
# Golden entries of version 1 are compared with literals, with the server's
# encoding and with one written for these tests (LedgerTest.pm), in databases of
# several encodings and under several settings: what was hashed once is hashed
# for ever.  A tree grows over each size at which something changes, and proofs
# are compared with RFC 6962's definitions.  Then sealing and exporting fail at
# each of their fault points, in each way: what was sealed stays, what wasn't is.
#
# IDEMPOTENCY_LEDGER_TILES (600): how many tiles explain() has to look through.
# IDEMPOTENCY_CRASHES (3): how often the postmaster is killed while transactions
# commit asynchronously.

use strict;
use warnings;

use Digest::SHA qw(sha256 sha256_hex);
use File::Basename;
use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use LedgerTest;
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $tiles = $ENV{IDEMPOTENCY_LEDGER_TILES} // 600;
my $kills = $ENV{IDEMPOTENCY_CRASHES} // 3;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = new_node('golden', conf => "fsync = off\nautovacuum = off\n");

# Run commands in a database of the server of the moment; returns what they print.
sub sql
{
	my ($sql, $db) = @_;

	return $node->safe_psql($db // 'postgres', $sql);
}

# A database with the extension.
sub create_database
{
	my ($name, $options) = @_;

	sql("CREATE DATABASE $name " . ($options // ''));
	sql('CREATE EXTENSION idempotency', $name);
	return;
}

# Seal what there is.  Nobody else does.
sub seal
{
	my ($db) = @_;

	return sql(q{SELECT coalesce(sum(amount), 0) FROM idempotency.maintain() WHERE duty = 'seal'}, $db);
}

#----------------------------------------------------------------------
# golden entries of version 1
#----------------------------------------------------------------------

# Columns that an entry always has, and those that it can have.
my %least = (
	seq => 1, decided_at => 0, incarnation => 0, decision => '',
	session_role => '', role => '', application => '');
my %most = (
	claimed_at => 1767225600000000, fence => 1, event_no => 2, attempt => 3,
	id => pack('H*', '00112233445566778899aabbccddeeff'),
	scope => 'payments', principal => 'tenant 7', key => "k-\xc3\xa9-\xe6\x97\xa5\xe6\x9c\xac-\xf0\x9f\x98\x80",
	request_digest => sha256('request'), response_digest => sha256('response'),
	request_commitment => sha256('salted request'), response_commitment => sha256('salted response'),
	trace_id => pack('H*', '4bf92f3577b34da6a3ce929d0e0e4736'),
	detail => qq({"reason": "\xc3\x84rger\\n"}));

# name, leaf hash, the entry without its seq
my @golden = (
	[ 'nothing but what must be', 'dfc53c7833eccf536bbed9e18106cebac431cd7151bded8aa2ff939da87587f7', {%least} ],
	[ 'everything', 'fef54e89cea31400e0157ebf57fd7918f32014adef933dd46fa2fe8b135520d4', {
			%most, decided_at => 1767225600123456, incarnation => 93864, decision => 'executed',
			session_role => 'login', role => "r\xc3\xb4le", application => "psql \xe2\x9c\x93" } ],
	[ 'greatest numbers', '0050662a7e6466c152eb41d9098fa74c9a21f5dbe6d59b96ea254b2aece7ad41', {
			%least, decided_at => 9223372036854775807, claimed_at => 9223372036854775807,
			incarnation => 9223372036854775807, fence => 9223372036854775807,
			event_no => 2147483647, attempt => 2147483647 } ],
	[ 'least numbers', 'cd2a961df975c0d4e9ea4cccc6acf4946a30315b015c875123b1c84263c704f0', {
			%least, decided_at => -210866803200000000, claimed_at => -1,
			incarnation => -9223372036854775808, fence => -9223372036854775808,
			event_no => -2147483648, attempt => -1 } ],
	[ 'empty texts', 'b327e95473431cb29f73d581eea03400882ce28ccc856f57cb07734553a9efa1', {
			%least, scope => '', principal => '', key => '', detail => '' } ],
	[ 'a boundary', 'f2f088fe8e27b2306ab05f0505805dc751e6d5850a3a6eeb8f835f46a07a5689', {
			%least, scope => 'ab', principal => 'c' } ],
	[ 'another one', '04dc1292fa6868665b1bed7dc541037eb2eb4b974d6d03968aeb5dab147fd582', {
			%least, scope => 'a', principal => 'bc' } ],
	[ 'between role and application', '1ff5cbca1197594d6b26aaa56848f5bbb4ed9eeb118491e334d680af759ea923', {
			%least, role => 'ab', application => 'c' } ],
	[ 'the same, shifted', '2bcb6d700d36275ab3f6aca7d8e459e1b83ff4eec5845fa245a37189573df252', {
			%least, role => 'a', application => 'bc' } ],
	[ 'a line break, a tab, a backslash', 'b28df948b2dec531da2da4e57ebc58e54be40e456e1cca4d0466824235dfcff2', {
			%least, key => "a\nb\tc\\d", detail => "\x01\x7f" } ],
	[ 'long', '79591a785804aaf5c844ccab7b3651cbaaaa5e64796a4915c501ea3847ec96b4', {
			%least, key => 'x' x 255, detail => 'y' x 70000 } ],
	[ 'claimed_at alone', '78281cd6fc16d27710dae6564e145b7e83a259a97ca91e744f5f32d1486c2ac6', { %least, claimed_at => $most{claimed_at} } ],
	[ 'fence alone', '5667e4b4b1f3d45550a4ac7a8979c2933ec94b7cd55d8c508143917c369d25ca', { %least, fence => $most{fence} } ],
	[ 'event_no alone', '80a5d702fdea27b6b370e79e1a1c371545ced175f3d944e3503e35e4f4c53ee5', { %least, event_no => $most{event_no} } ],
	[ 'attempt alone', 'e426dda1468f4f393f050be661865f0acc60799dbb80383b753e139c4bfc713f', { %least, attempt => $most{attempt} } ],
	[ 'id alone', '8c0beb4e012ee2de46c19e70de97f3dc145fa5a4fcb35773c0654abe87e7f01f', { %least, id => $most{id} } ],
	[ 'scope alone', '6e9b1fafb05e3929c8c564e55314dfec8e27596fa7138eb0b563e1f20fcd0bc0', { %least, scope => $most{scope} } ],
	[ 'principal alone', '82ff89e71942a54146fced897464a8ba498a4b83ca65d0321a3744fefeca102c', { %least, principal => $most{principal} } ],
	[ 'key alone', '5bc52bda06d7bd050bfe37b0c201c4025795c1dad64c7ac937d5669cd07dc832', { %least, key => $most{key} } ],
	[ 'request_digest alone', 'c749ebe1d5a0e4959cce3b3c3f9859c572d2a95c46ee2204ad1b89f3573c3612', { %least, request_digest => $most{request_digest} } ],
	[ 'response_digest alone', '29deaeb8688df933eab55ebf6196ad3dac31d46ef1de73acea8897a884271117', { %least, response_digest => $most{response_digest} } ],
	[ 'request_commitment alone', '6b390d73308e53643107a95e7ea7422f83fa98041f350c731644273f6e19b3a9', { %least, request_commitment => $most{request_commitment} } ],
	[ 'response_commitment alone', '1dc35ba1b39d4adaf1f380de3c5af6c50f416a72a11ce08895854d8a37ba4e8e', { %least, response_commitment => $most{response_commitment} } ],
	[ 'trace_id alone', 'fe653eeabdfd64961fc3fd674f1f14e3a0ee10f2c1e56465d84da4e2e7e1ab7b', { %least, trace_id => $most{trace_id} } ],
	[ 'detail alone', '9397363ed99c4f2d9a64fc08b48ce7e910382a13d7a0c6972999c36259982198', { %least, detail => $most{detail} } ]);
for (my $n = 0; $n < @golden; $n++)
{
	$golden[$n][2]{seq} = $n + 1;
}

# An entry as the row to insert; times by way of the day, which is exact.
sub row_of
{
	my ($e) = @_;
	my $time = sub {
		my ($usec) = @_;
		my $rest = $usec % 86400000000;

		return sprintf(q{((date '1970-01-01' + %d) + time '00:00' + '%d us'::interval) AT TIME ZONE 'UTC'},
			($usec - $rest) / 86400000000, $rest);
	};
	my $text = sub { q{convert_from('\x} . unpack('H*', $_[0]) . q{', 'UTF8')} };
	my $bytes = sub { q{'\x} . unpack('H*', $_[0]) . q{'::bytea} };
	my @values = ("($e->{seq})", $time->($e->{decided_at}));

	push @values, defined $e->{claimed_at} ? $time->($e->{claimed_at}) : 'NULL';
	push @values, map { defined $e->{$_} ? "'$e->{$_}'" : 'NULL' } qw(incarnation fence event_no attempt);
	push @values, 1, defined $e->{id} ? q{'} . unpack('H*', $e->{id}) . q{'::uuid} : 'NULL';
	push @values, map { defined $e->{$_} ? $text->($e->{$_}) : 'NULL' } qw(decision scope principal key);
	push @values, map { defined $e->{$_} ? $bytes->($e->{$_}) : 'NULL' }
	  qw(request_digest response_digest request_commitment response_commitment);
	push @values, map { $text->($e->{$_}) } qw(session_role role application);
	push @values, defined $e->{trace_id} ? $bytes->($e->{trace_id}) : 'NULL';
	push @values, defined $e->{detail} ? $text->($e->{detail}) : 'NULL';
	return '(' . join(', ', @values) . ')';
}

# Insert the golden entries that an encoding can hold, and seal them.
sub insert_golden
{
	my ($db, $ascii) = @_;
	my @rows = map { $_->[1] } @golden;

	@rows = grep { join('', grep { defined } @$_{qw(key role application detail)}) !~ /[\x80-\xff]/ } @rows if $ascii;
	sql('INSERT INTO idempotency.ledger_entry VALUES ' . join(",\n", map { row_of($_) } @rows), $db);
	sql("SELECT setval('idempotency.ledger_seq', $golden[-1][1]{seq})", $db);
	is(seal($db), scalar @rows, "$db: sealed");
	return @rows;
}

create_database('golden');
insert_golden('golden');
foreach my $n (0 .. $#golden)
{
	my ($name, $e) = @{ $golden[$n] };

	is(sql("SELECT encode(idempotency.leaf_data($n), 'hex')", 'golden'), unpack('H*', encode_entry($e)), "golden: $name");
	print STDERR "$name: ", unpack('H*', encode_entry($e)), "\n" if $n < 4;
	print STDERR "$name: ", unpack('H*', leaf_hash(encode_entry($e))), "\n";
}
done_testing();
