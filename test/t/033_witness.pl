# The witness: it signs what follows from what it holds, and nothing else.
#
# What an honest server never does is done by a mock, a schema idempotency of
# SQL functions over a table of leaves, that can be told to lie.  Trees and
# proofs are built here from RFC 6962's definitions, and signatures verified by
# openssl, so that nothing of the witness vouches for itself.

use strict;
use warnings;

use Digest::SHA qw(sha256 sha256_hex);
use Fcntl qw(:flock :mode);
use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use IPC::Run;
use JSON::PP qw(decode_json);
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $program = File::Spec->rel2abs("$FindBin::RealBin/../../build/witness/idempotency-witness");
plan skip_all => 'the witness was not built (headers of libpq and OpenSSL)' unless -x $program;

my $dir = PostgreSQL::Test::Utils::tempdir();
my ($openssl) = grep { -x } map { "$_/openssl" } split(/:/, $ENV{PATH}), '/usr/bin';
my %exit = (done => 0, trouble => 1, usage => 2, unverified => 3, malformed => 4, locked => 5, state => 6,
	'split-view' => 10, regression => 11, 'proof-missing' => 12, 'proof-wrong' => 13, 'history-gone' => 14, 'bad-checkpoint' => 15);

# Run the witness.  Returns how it ended, what it printed, what it complained of.
sub witness
{
	my ($args, %opt) = @_;
	my ($out, $err) = ('', '');

	local %ENV = (%ENV, %{ $opt{env} // {} });
	IPC::Run::run([ $program, @$args ], '<', \($opt{stdin} // ''), '>', \$out, '2>', \$err);
	return ($? & 127 ? -1 : $? >> 8, $out, $err);
}

# Does it end so, and complain so?
sub ends
{
	my ($name, $code, $complaint, $args, %opt) = @_;
	my ($got, $out, $err) = witness($args, %opt);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($got == $exit{$code} && $err =~ $complaint, $name)
	  or diag("exit code $got instead of $exit{$code}; $err");
	return ($out, $err);
}

sub write_file
{
	my ($name, $text) = @_;

	open my $file, '>:raw', "$dir/$name" or die "could not open $name: $!";
	print $file $text;
	close $file;
	return "$dir/$name";
}

sub read_file
{
	my ($path) = @_;

	open my $file, '<:raw', $path or return '';
	local $/ = undef;
	return scalar <$file>;
}

sub base64 { return encode_base64($_[0], ''); }

#----------------------------------------------------------------------
# the reference: RFC 6962, 2.1, over a list of leaves' hashes
#----------------------------------------------------------------------

# The largest power of two below n.
sub split_point
{
	my $k = 1;

	$k *= 2 while 2 * $k < $_[0];
	return $k;
}

sub root
{
	my $k = split_point(scalar @_);

	return sha256('') if @_ == 0;
	return @_ == 1 ? $_[0] : sha256("\1" . root(@_[ 0 .. $k - 1 ]) . root(@_[ $k .. $#_ ]));
}

sub inclusion
{
	my ($i, @leaves) = @_;
	my $k = split_point(scalar @leaves);

	return () if @leaves == 1;
	return $i < $k
	  ? (inclusion($i, @leaves[ 0 .. $k - 1 ]), root(@leaves[ $k .. $#leaves ]))
	  : (inclusion($i - $k, @leaves[ $k .. $#leaves ]), root(@leaves[ 0 .. $k - 1 ]));
}

sub consistency
{
	my ($m, $whole, @leaves) = @_;
	my $k = split_point(scalar @leaves);

	return $whole ? () : root(@leaves) if $m == @leaves;
	return $m <= $k
	  ? (consistency($m, $whole, @leaves[ 0 .. $k - 1 ]), root(@leaves[ $k .. $#leaves ]))
	  : (consistency($m - $k, 0, @leaves[ $k .. $#leaves ]), root(@leaves[ 0 .. $k - 1 ]));
}

sub checkpoint
{
	my ($origin, @leaves) = @_;

	return "$origin\n" . @leaves . "\n" . base64(root(@leaves)) . "\n";
}

sub lines { return join '', map { base64($_) . "\n" } @_; }

#----------------------------------------------------------------------
# signatures, by openssl
#----------------------------------------------------------------------

# The parts of a verifier key: name, id, type, public key.
sub vkey_parts
{
	my ($name, $id, $base64) = $_[0] =~ /^([^+]+)\+([0-9a-f]{8})\+(\S+)$/ or return;
	my ($type, $public) = unpack 'C a*', decode_base64($base64);

	return ($name, pack('H*', $id), $type, $public);
}

sub vkey
{
	my ($name, $type, $public) = @_;
	my $id = substr sha256_hex("$name\n" . chr($type) . $public), 0, 8;

	return "$name+$id+" . base64(chr($type) . $public);
}

# Is the only signature of this note this key's, says openssl?  Returns the time
# of a cosignature, 0 of a plain signature, undef if it isn't.
sub independently
{
	my ($note, $vkey) = @_;
	my ($name, $id, $type, $public) = vkey_parts($vkey);
	my ($text, $signer, $base64) = $note =~ /^(.*\n)\n\xE2\x80\x94 (\S+) (\S+)\n$/s or return;
	my ($signed_id, $rest) = unpack 'a4 a*', decode_base64($base64);
	my $time = 0;

	return if $signer ne $name || $signed_id ne $id;
	if ($type == 4)
	{
		($time, $rest) = unpack 'Q> a*', $rest;
		$text = "cosignature/v1\ntime $time\n$text";
	}
	write_file('check.pem', "-----BEGIN PUBLIC KEY-----\n" . encode_base64(pack('H*', '302a300506032b6570032100') . $public) . "-----END PUBLIC KEY-----\n");
	my $ok = IPC::Run::run(
		[ $openssl, 'pkeyutl', '-verify', '-rawin', '-pubin', '-inkey', "$dir/check.pem", '-in', write_file('check.text', $text), '-sigfile', write_file('check.sig', $rest) ],
		'>', '/dev/null', '2>', '/dev/null');
	return $ok ? $time : undef;
}

# A note that openssl has signed; time => as a cosignature.
sub foreign_note
{
	my ($text, $seed, $vkey, %opt) = @_;
	my ($name, $id) = vkey_parts($vkey);
	my $message = $opt{time} ? "cosignature/v1\ntime $opt{time}\n$text" : $text;

	write_file('sign.pem', "-----BEGIN PRIVATE KEY-----\n" . encode_base64(pack('H*', '302e020100300506032b657004220420') . $seed) . "-----END PRIVATE KEY-----\n");
	IPC::Run::run([ $openssl, 'pkeyutl', '-sign', '-rawin', '-inkey', "$dir/sign.pem", '-in', write_file('sign.text', $text ne $message ? $message : $text), '-out', "$dir/sign.sig" ],
		'2>', '/dev/null') or return '';
	return "$text\n\xE2\x80\x94 $name " . base64($id . ($opt{time} ? pack('Q>', $opt{time}) : '') . read_file("$dir/sign.sig")) . "\n";
}

my $can_check = $openssl && `$openssl version` =~ /^OpenSSL [3-9]/;

#----------------------------------------------------------------------
# usage, keys
#----------------------------------------------------------------------
my ($out, $err) = ends('--help', 'done', qr/^$/, ['--help']);
like($out, qr/genkey.*run.*verify.*Exit codes/s, '... says what there is');
($out) = ends('--version', 'done', qr/^$/, ['--version']);
like($out, qr/^idempotency-witness \d+\.\d+\.\d+$/, '... says it');
foreach my $bad ([], ['sign'], ['run'], [ 'run', '--state' ], [ 'run', '--state', $dir, 'more' ], [ 'run', '--vkey', 'x' ], ['genkey'], [ 'genkey', '--name', 'n', '--note', '--cosign' ],
	[ 'run', '--state', $dir, '--loop', '0' ], [ 'run', '--state', $dir, '--loop', '1x' ], [ 'run', '--state', $dir, '--loop', '1', '--accept-incarnation' ],
	['verify'], [ 'verify', 'file' ], [ 'verify', '--vkey', 'nonsense', 'file' ])
{
	ends("usage: @$bad", 'usage', qr/^idempotency-witness: .+\n$/, $bad);
}

my $key = "$dir/witness.key";
($out, $err) = ends('a key is made', 'done', qr/^$/, [ 'genkey', '--name', 'witness.example/w1', '--key', $key ]);
chomp(my $vkey = $out);
my ($name, $id, $type, $public) = vkey_parts($vkey);
is_deeply([ $name, $type, length $public, $vkey ], [ 'witness.example/w1', 4, 32, vkey($name, 4, $public) ], '... its verifier key has the id of name, type and public key');
is(sprintf('%o', S_IMODE((stat $key)[2])), '600', '... nobody else can read it');
my $private = read_file($key);
my ($seed) = $private =~ /^PRIVATE\+KEY\+witness\.example\/w1\+[0-9a-f]{8}\+(\S{44})\n$/;
$seed = substr decode_base64($seed), 1;
unlike($out . $err, qr/PRIVATE|\Q${\base64($seed)}\E/, '... and it was not shown');
ends('... it is not overwritten', 'usage', qr/File exists/, [ 'genkey', '--name', 'other', '--key', $key ]);
is(read_file($key), $private, '... not at all');
($out) = ends('its verifier key can be had again', 'done', qr/^$/, [ 'vkey', '--key', $key ]);
is($out, "$vkey\n", '... the same');
($out) = ends('and that of plain signatures', 'done', qr/^$/, [ 'vkey', '--key', $key, '--note' ]);
chomp(my $note_vkey = $out);
is($note_vkey, vkey($name, 1, $public), '... the same key, with another type and id');
foreach my $bad ('', 'a b', 'a+b', "a\nb", "a\tb", "a\xC2\xA0b", "a\xE3\x80\x80b", "a\xFFb", "a\x7Fb", 'x' x 256)
{
	ends('no name of a key: ' . unpack('H*', substr $bad, 0, 8), 'usage', qr/a key's name has/, [ 'genkey', '--name', $bad, '--key', "$dir/bad.key" ]);
}
ok(!-e "$dir/bad.key", '... no file is left');

# Go's own example of such a key
write_file('go.key', "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz\n");
chmod 0600, "$dir/go.key";
($out) = ends('a key that Go made', 'done', qr/^$/, [ 'vkey', '--key', "$dir/go.key", '--note' ]);
is($out, "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\n", '... has the verifier key that Go says');
chmod 0640, "$dir/go.key";
ends('a key that others can read', $> == 0 ? 'done' : 'usage', $> == 0 ? qr/^$/ : qr/others can read/, [ 'vkey', '--key', "$dir/go.key" ]);
chmod 0604, "$dir/go.key";
ends('... by everybody', 'usage', qr/others can read/, [ 'vkey', '--key', "$dir/go.key" ]);
my %bad_key = (
	'empty' => '', 'a verifier key' => "$vkey\n", 'another id' => $private =~ s/\+[0-9a-f]{8}\+/+00000000+/r, 'another name' => $private =~ s/w1/w2/r, 'cut' => substr($private, 0, -6),
	'two lines' => "$private\n", 'a CRLF' => $private =~ s/\n/\r\n/r, 'a zero byte' => $private =~ s/w1/w\0/r, 'another type' => $private =~ s/(\+[0-9a-f]{8}\+)../$1BQ/r, 'huge' => 'x' x 100000);
foreach my $what (sort keys %bad_key)
{
	write_file('bad.key', $bad_key{$what});
	chmod 0600, "$dir/bad.key";
	(undef, $err) = ends("no private key: $what", $what eq 'huge' ? 'usage' : 'usage', qr/private key|more than/, [ 'vkey', '--key', "$dir/bad.key" ]);
	unlike($err, qr/\Q${\substr(base64($seed), 8, 16)}\E/, '... and nothing of it is shown');
}
ends('a key that is a directory', 'usage', qr/not a file/, [ 'vkey', '--key', $dir ]);
ends('a key that is not there', 'usage', qr/No such file/, [ 'vkey', '--key', "$dir/none.key" ]);

#----------------------------------------------------------------------
# verify: what others have signed
#----------------------------------------------------------------------
my $golden = decode_json(slurp_file("$FindBin::RealBin/../vectors/c2sp_checkpoints.json"));
my %golden = map { my $n = $golden->{checkpoints}{$_}; utf8::encode($n); ($_ => $n) } keys %{ $golden->{checkpoints} };
my @golden_leaves = map { sha256("\0$_") } @{ $golden->{entries_utf8} };
my @golden_sizes = sort { $a <=> $b } keys %golden;

# The arguments that verify a golden checkpoint.
sub golden_args
{
	my ($size, @more) = @_;

	return [ 'verify', '--vkey', $golden->{vkey}, @more, write_file("golden.$size", $golden{$size}) ];
}

foreach my $size (@golden_sizes)
{
	($out) = ends("golden checkpoint of size $size", 'done', qr/^$/, golden_args($size));
	is($out, "signed by example.com/log/testdata\ncheckpoint: size $size of example.com/log/testdata with root " . base64(root(@golden_leaves[ 0 .. $size - 1 ])) . "\n",
		'... and its root is that of the golden entries');
}

# Every byte of one of them, changed, dropped and doubled.
my %refused;
foreach my $i (0 .. length($golden{10}) - 1)
{
	foreach my $change (substr($golden{10}, $i, 1) ^ "\x01", substr($golden{10}, $i, 1) ^ "\x20", '', substr($golden{10}, $i, 1) x 2)
	{
		my $note = $golden{10};

		substr($note, $i, 1) = $change;
		my ($code, undef, $err) = witness([ 'verify', '--vkey', $golden->{vkey}, '-' ], stdin => $note);
		$refused{$code}++;
		diag("accepted: byte $i is " . unpack('H*', $change)) if $code == 0;
	}
}
ok(!$refused{0} && $refused{ $exit{unverified} } > 100 && $refused{ $exit{malformed} } > 100 && keys(%refused) == 2, 'no mutation of a golden checkpoint is accepted')
  or diag(explain(\%refused));

# Proofs of the golden log: every leaf in every checkpoint, every pair of them.
my ($accepted, $wrongly) = (0, 0);
foreach my $size (@golden_sizes)
{
	foreach my $i (0 .. $size - 1)
	{
		my @proof = inclusion($i, @golden_leaves[ 0 .. $size - 1 ]);
		my @args = ('--index', $i, '--proof', write_file('proof', lines(@proof)));
		my $leaf = unpack 'H*', $golden_leaves[$i];

		$accepted++ if (witness(golden_args($size, '--leaf', $leaf, @args)))[0] == 0;
		next if ($i + $size) % 3;
		$wrongly++ if (witness(golden_args($size, '--leaf', $leaf, '--index', ($i + 1) % $size, '--proof', "$dir/proof")))[0] != $exit{unverified};
		$wrongly++ if (witness(golden_args($size, '--leaf', sha256_hex("\0wrong"), @args)))[0] != $exit{unverified};
		substr($proof[ $i % @proof ], $i, 1) ^= "\x04";
		write_file('proof', lines(@proof));
		$wrongly++ if (witness(golden_args($size, '--leaf', $leaf, @args)))[0] != $exit{unverified};
	}
	foreach my $old (grep { $_ <= $size } @golden_sizes)
	{
		my @proof = $old > 0 ? consistency($old, 1, @golden_leaves[ 0 .. $size - 1 ]) : ();
		my @args = ('--consistent-with', write_file('old', $golden{$old}), '--consistency', write_file('proof', lines(@proof)));

		$accepted++ if (witness(golden_args($size, @args)))[0] == 0;
		$wrongly++ if $old < $size && (witness([ @{ golden_args($old) }, '--consistent-with', "$dir/golden.$size", '--consistency', "$dir/proof" ]))[0] != $exit{unverified};
		write_file('proof', lines(@proof, $golden_leaves[0]));
		$wrongly++ if (witness(golden_args($size, @args)))[0] != $exit{unverified};
		next if !@proof;
		write_file('proof', lines(@proof[ 0 .. $#proof - 1 ]));
		$wrongly++ if (witness(golden_args($size, @args)))[0] != $exit{unverified};
	}
}
is("$accepted accepted, $wrongly wrongly", 56 + 36 . ' accepted, 0 wrongly', 'inclusion and consistency in the golden log');

# The ways to give a leaf and a proof.
my @proof = inclusion(5, @golden_leaves[ 0 .. 9 ]);
my @at = ('--index', 5, '--proof', write_file('proof', lines(@proof)));
($out) = ends('a leaf by its data', 'done', qr/^$/, golden_args(10, '--leaf-data', write_file('data', 'six'), @at));
like($out, qr/^includes the leaf as number 5$/m, '... and it says so');
ends('... other data', 'unverified', qr/not proved/, golden_args(10, '--leaf-data', write_file('data', "six\n"), @at));
ends('... data of no bytes', 'unverified', qr/not proved/, golden_args(10, '--leaf-data', write_file('data', ''), @at));
ends('a leaf by a file of its hash', 'done', qr/^$/, golden_args(10, '--leaf', write_file('hash', base64($golden_leaves[5]) . "\n"), @at));
write_file('proof', join '', map { '\x' . unpack('H*', $_) . "\n" } @proof);
ends('a proof as psql shows it', 'done', qr/^$/, golden_args(10, '--leaf', unpack('H*', $golden_leaves[5]), @at));
write_file('proof', join '', map { uc(unpack('H*', $_)) . "\n" } @proof);
ends('... in hexadecimal', 'done', qr/^$/, golden_args(10, '--leaf', unpack('H*', $golden_leaves[5]), @at));
my %bad_proof = (
	'no newline at its end' => substr(lines(@proof), 0, -1), 'an empty line' => "\n" . lines(@proof), 'blanks' => ' ' . lines(@proof), 'CRLF' => lines(@proof) =~ s/\n/\r\n/gr,
	'31 bytes' => lines(substr($proof[0], 1)), '33 bytes' => lines($proof[0] . 'x'), '65 hashes' => lines((@proof) x 20), 'a zero byte' => "\0" . lines(@proof), 'huge' => lines((@proof) x 2000),
	'odd hexadecimal' => substr(unpack('H*', $proof[0]), 1) . "\n", 'not canonical' => (lines($proof[0]) =~ s/(.)=\n$/chr(ord($1) + 1) . "=\n"/er));
foreach my $what (sort keys %bad_proof)
{
	write_file('proof', $bad_proof{$what});
	ends("no proof: $what", 'malformed', qr/proof|more than/, golden_args(10, '--leaf', unpack('H*', $golden_leaves[5]), @at));
}
write_file('proof', lines(@proof));
ends("usage: $_->[1]", 'usage', qr/needs?|exclude/, golden_args(10, @{ $_->[0] }))
  foreach [ [@at], 'a proof without leaf' ], [ [ '--leaf', 'x' ], 'a leaf without proof' ], [ [ '--leaf', 'x', '--leaf-data', 'y', @at ], 'two leaves' ],
  [ [ '--consistency', "$dir/proof" ], 'consistency with nothing' ];
ends("an index that is none: $_", 'usage', qr/--index/, golden_args(10, '--leaf', unpack('H*', $golden_leaves[5]), '--proof', "$dir/proof", '--index', $_)) foreach '05', '-1', '5x', '', '9223372036854775808';
ends('a leaf that is none', 'malformed', qr/no hash/, golden_args(10, '--leaf', write_file('hash', "x\n"), @at));

# C2SP's tlog-proof: index, proof and note in one file.
my $tlog = "index 5\n" . lines(@proof) . "\n$golden{10}";
my @tlog_args = ('verify', '--vkey', $golden->{vkey}, '--leaf-data', write_file('data', 'six'));
ends('a tlog-proof', 'done', qr/^$/, [ @tlog_args, write_file('tlog', "c2sp.org/tlog-proof\@v1\n$tlog") ]);
ends('... with extra data', 'done', qr/^$/, [ @tlog_args, write_file('tlog', "c2sp.org/tlog-proof\@v1\nextra AAAA\n$tlog") ]);
ends('... of another leaf', 'unverified', qr/not proved/, [ @tlog_args, write_file('tlog', "c2sp.org/tlog-proof\@v1\n" . $tlog =~ s/5/6/r) ]);
ends('... with a bad index', 'malformed', qr/index/, [ @tlog_args, write_file('tlog', "c2sp.org/tlog-proof\@v1\n" . $tlog =~ s/5/05/r) ]);
ends('... without index', 'malformed', qr/index/, [ @tlog_args, write_file('tlog', "c2sp.org/tlog-proof\@v1\n" . $tlog =~ s/^.*?\n//r) ]);
ends('... that is cut', 'malformed', qr/empty line/, [ @tlog_args, write_file('tlog', "c2sp.org/tlog-proof\@v1\nindex 5\n" . lines(@proof)) ]);
ends('... of another version', 'malformed', qr/checkpoint/, [ @tlog_args, '--index', 5, '--proof', "$dir/proof", write_file('tlog', "c2sp.org/tlog-proof\@v2\n$tlog") ]);

# Malformed notes, by what is said of them.
my ($text, $signature) = $golden{10} =~ /^(.*\n)\n(.*\n)$/s;
my $dash = "\xE2\x80\x94";
my %bad_note = (
	'empty' => [ '', qr/is empty/ ],
	'no final newline' => [ substr($golden{10}, 0, -1), qr/does not end with a newline/ ],
	'CRLF' => [ $golden{10} =~ s/\n/\r\n/gr, qr/carriage return/ ],
	'a zero byte' => [ $golden{10} =~ s/log/l\0g/r, qr/zero byte/ ],
	'a tab' => [ $golden{10} =~ s/log/l\tg/r, qr/control character 0x09/ ],
	'not UTF-8' => [ $golden{10} =~ s/log/l\xFFg/r, qr/not UTF-8/ ],
	'overlong UTF-8' => [ $golden{10} =~ s/log/l\xC1\x81g/r, qr/not UTF-8/ ],
	'a surrogate' => [ $golden{10} =~ s/log/l\xED\xA0\x80g/r, qr/not UTF-8/ ],
	'huge' => [ $golden{10} . ("$dash x AAAAAAAA\n" x 70000), qr/more than 1048576 bytes/ ],
	'a line of 16 kB' => [ $golden{10} . "$dash x " . ('AAAA' x 4096) . "\n", qr/line of more than 16384/ ],
	'a long origin' => [ $golden{10} =~ s/^/'x' x 1025/er, qr/no origin/ ],
	'an empty origin' => [ $golden{10} =~ s/^.*?\n/\n/r, qr/no origin/ ],
	'a leading zero' => [ $golden{10} =~ s/\n10\n/\n010\n/r, qr/no size/ ],
	'a sign' => [ $golden{10} =~ s/\n10\n/\n+10\n/r, qr/no size/ ],
	'a negative size' => [ $golden{10} =~ s/\n10\n/\n-10\n/r, qr/no size/ ],
	'a size of 2^63' => [ $golden{10} =~ s/\n10\n/\n9223372036854775808\n/r, qr/no size/ ],
	'a size of 2^64' => [ $golden{10} =~ s/\n10\n/\n18446744073709551616\n/r, qr/no size/ ],
	'a size with blanks' => [ $golden{10} =~ s/\n10\n/\n10 \n/r, qr/no size/ ],
	'a root of 31 bytes' => [ $golden{10} =~ s/\n[^\n]*=\n/"\n" . base64('x' x 31) . "\n"/er, qr/no root/ ],
	'a root of 33 bytes' => [ $golden{10} =~ s/\n[^\n]*=\n/"\n" . base64('x' x 33) . "\n"/er, qr/no root/ ],
	'a root without padding' => [ $golden{10} =~ s/=\n/\n/r, qr/no root/ ],
	'a root that is not canonical' => [ $golden{10} =~ s/U=\n/V=\n/r, qr/no root/ ],
	'a root in URL base64' => [ $golden{10} =~ s/\//_/r =~ s/y8\//y8_/r, qr/no root/ ],
	'an extension line' => [ $golden{10} =~ s/=\n\n/=\nmore\n\n/r, qr/more than three lines/ ],
	'two lines' => [ "origin\n10\n\n$signature", qr/no root/ ],
	'no signatures' => [ $text, qr/no empty line/ ],
	'nothing after the empty line' => [ "$text\n", qr/no signature/ ],
	'an empty line at its end' => [ "$golden{10}\n", qr/more than three lines/ ],
	'a hyphen for a dash' => [ "$text\n" . $signature =~ s/^$dash/-/r, qr/line 1 of the note's signatures/ ],
	'two blanks' => [ "$text\n" . $signature =~ s/ /  /r, qr/line 1 of the note's signatures/ ],
	'a blank at a line\'s end' => [ "$text\n" . $signature =~ s/\n/ \n/r, qr/line 1 of the note's signatures/ ],
	'bad base64' => [ "$text\n" . $signature =~ s/(?<= M)./!/r, qr/line 1 of the note's signatures/ ],
	'base64 that is not canonical' => [ "$text\n" . $signature =~ s/(.)=\n/chr(ord($1) + 1) . "=\n"/er, qr/line 1 of the note's signatures/ ],
	'an id without signature' => [ "$text\n$dash x AAAAAA==\n", qr/line 1 of the note's signatures/ ],
	'text after the signatures' => [ "$golden{10}x\n", qr/line 2 of the note's signatures/ ],
	'a plus in a name' => [ "$golden{10}$dash x+y AAAAAAAA\n", qr/line 2 of the note's signatures/ ],
	'the same signature twice' => [ $golden{10} . $signature, qr/two signatures of example/ ],
	'two signatures of one key' => [ "$golden{10}$dash x AAAAAAAA\n$dash x AAAAAAAB\n", qr/two signatures of x/ ],
	'65 signatures' => [ $golden{10} . join('', map { "$dash x$_ AAAAAAAA\n" } 1 .. 64), qr/more than 64 signatures/ ]);
foreach my $what (sort keys %bad_note)
{
	ends("no note: $what", 'malformed', $bad_note{$what}[1], [ 'verify', '--vkey', $golden->{vkey}, write_file('note', $bad_note{$what}[0]) ]);
}
ends('a size 0 with another root', 'malformed', qr/size is 0/, [ 'verify', '--vkey', $golden->{vkey}, write_file('note', $golden{0} =~ s/47DEQ/57DEQ/r) ]);
ends('63 more signatures', 'done', qr/^$/, [ 'verify', '--vkey', $golden->{vkey}, write_file('note', $golden{10} . join('', map { "$dash x$_ AAAAAAAA\n" } 1 .. 63)) ]);
ends('no such note', 'usage', qr/No such file/, [ 'verify', '--vkey', $golden->{vkey}, "$dir/none" ]);
ends("a known verifier key: $_", 'unverified', qr/there is no signature of/, [ 'verify', '--vkey', $_, "$dir/golden.10" ])
  foreach 'TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6', 'remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2', $vkey;
ends('a key of the same name and another id is another', 'unverified', qr/there is no signature/, [ 'verify', '--vkey', vkey('example.com/log/testdata', 1, $public), "$dir/golden.10" ]);
ends('two keys, and one has signed', 'unverified', qr/1 of the given keys have signed, 2 must have; there is no signature of witness/, [ 'verify', '--vkey', $golden->{vkey}, '--vkey', $vkey, "$dir/golden.10" ]);
ends('... which is enough', 'done', qr/^$/, [ 'verify', '--vkey', $golden->{vkey}, '--vkey', $vkey, '--quorum', 1, "$dir/golden.10" ]);
ends('one key cannot be two', 'usage', qr/same public key/, [ 'verify', '--vkey', $vkey, '--vkey', $note_vkey, "$dir/golden.10" ]);
ends('a quorum of more than there are', 'usage', qr/quorum/, [ 'verify', '--vkey', $vkey, '--quorum', 2, "$dir/golden.10" ]);

SKIP:
{
	skip 'no openssl that signs with Ed25519', 4 unless $can_check;
	my $note = foreign_note($text, $seed, $vkey, time => 1700000000);

	($out) = ends('a cosignature by openssl', 'done', qr/^$/, [ 'verify', '--vkey', $vkey, write_file('note', $note) ]);
	like($out, qr/^signed by \S+ at 2023-11-14 22:13:20 UTC$/m, '... and its time');
	my $later = $note =~ s/(\S{100,})\n$/my $b = decode_base64($1); substr($b, 11, 1) ^= "\1"; base64($b) . "\n"/er;
	ends('... with another time', 'unverified', qr/signature of witness.example\/w1 is wrong/, [ 'verify', '--vkey', $vkey, write_file('note', $later) ]);
	ends('... and two signatures, one of them wrong', 'unverified', qr/signature of witness.example\/w1 is wrong/,
		[ 'verify', '--vkey', $vkey, '--vkey', $golden->{vkey}, '--quorum', 1, write_file('note', $golden{10} . ($later =~ /\n\n(.*)/s)[0]) ]);

	# transparency-dev's vectors of proofs, in notes signed for it
	my $vectors = decode_json(slurp_file("$FindBin::RealBin/../vectors/rfc6962.json"));
	my ($right, $wrong) = (0, 0);
	my %signed;
	my $sign = sub {
		my ($size, $root) = @_;
		my $text = "vectors\n$size\n" . base64(pack 'H*', $root // '') . "\n";
		return $signed{$text} //= foreign_note($text, $seed, $note_vkey);
	};
	foreach my $v (@{ $vectors->{inclusion} })
	{
		write_file('proof', lines(map { pack 'H*', $_ // '' } @{ $v->{proof} // [] }));
		my ($code) = witness([ 'verify', '--vkey', $note_vkey, '--index', $v->{leaf_index}, '--proof', "$dir/proof", '--leaf', $v->{leaf_hash} // '',
				write_file('note', $sign->($v->{tree_size}, $v->{root})) ]);
		($code == 0) == !$v->{want_err} && $code <= 4 ? $right++ : $wrong++;
	}
	foreach my $v (@{ $vectors->{consistency} })
	{
		write_file('proof', lines(map { pack 'H*', $_ // '' } @{ $v->{proof} // [] }));
		write_file('old', $sign->($v->{size1}, $v->{root1}));
		my ($code) = witness([ 'verify', '--vkey', $note_vkey, '--consistent-with', "$dir/old", '--consistency', "$dir/proof", write_file('note', $sign->($v->{size2}, $v->{root2})) ]);
		($code == 0) == !$v->{want_err} && $code <= 4 ? $right++ : $wrong++;
	}
	is("$right right, $wrong wrong", '98 right, 0 wrong', 'the vectors of others for proofs');
}
done_testing();
