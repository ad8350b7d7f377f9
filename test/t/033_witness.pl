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
use POSIX ();
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

# Run the witness.  Returns how it ended (-1: killed), what it printed, what it
# complained of.  (Hundreds of times, so without IPC::Run.)
sub witness
{
	my ($args, %opt) = @_;

	write_file('stdin', $opt{stdin} // '');
	my $pid = fork() // die "could not fork: $!";
	if ($pid == 0)
	{
		local %ENV = (%ENV, %{ $opt{env} // {} });
		open STDIN, '<', "$dir/stdin" and open STDOUT, '>', "$dir/stdout" and open STDERR, '>', "$dir/stderr" and exec $program, @$args;
		POSIX::_exit(127);
	}
	waitpid $pid, 0;
	my $code = $? & 127 ? -1 : $? >> 8;
	return ($code, read_file("$dir/stdout"), read_file("$dir/stderr"));
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
	IPC::Run::run([ $openssl, 'pkeyutl', '-sign', '-rawin', '-inkey', "$dir/sign.pem", '-in', write_file('sign.text', $message), '-out', "$dir/sign.sig" ],
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
	(undef, $err) = ends("no private key: $what", 'usage', qr/private key|more than/, [ 'vkey', '--key', "$dir/bad.key" ]);
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

# Every byte of one of them changed, some also dropped or doubled.
my %refused;
foreach my $i (0 .. length($golden{10}) - 1)
{
	my $byte = substr $golden{10}, $i, 1;

	foreach my $change ($byte ^ "\x01", $i % 8 == 0 ? ($byte ^ "\x20", '', $byte x 2) : ())
	{
		my $note = $golden{10};

		substr($note, $i, 1) = $change;
		my ($code, undef, $err) = witness([ 'verify', '--vkey', $golden->{vkey}, '-' ], stdin => $note);
		$refused{$code}++;
		diag("accepted: byte $i is " . unpack('H*', $change)) if $code == 0;
	}
}
ok(!$refused{0} && $refused{ $exit{unverified} } > 50 && $refused{ $exit{malformed} } > 50 && keys(%refused) == 2, 'no mutation of a golden checkpoint is accepted')
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
		next if ($i + $size) % 4;
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

#----------------------------------------------------------------------
# the mock: honest until table lie says otherwise
#----------------------------------------------------------------------
my $node = new_node('mock', conf => "fsync = off\n");

# In a database of this name, a ledger without entries.
sub make_mock
{
	my ($db) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, q{
		CREATE SCHEMA idempotency;
		CREATE TABLE leaf (i bigint PRIMARY KEY, hash bytea);
		CREATE TABLE lie (origin text, shown text, latest bigint, proof text, witnessed text);
		INSERT INTO lie (origin) VALUES ('ledger.example/1');
		CREATE TABLE witnessed (note text);
		CREATE FUNCTION tree_root(first bigint, n bigint) RETURNS bytea LANGUAGE plpgsql AS $$
		DECLARE
			k bigint = 1;
		BEGIN
			IF n = 0 THEN RETURN sha256(''); END IF;
			IF n = 1 THEN RETURN (SELECT hash FROM leaf WHERE i = first); END IF;
			WHILE 2 * k < n LOOP k := 2 * k; END LOOP;
			RETURN sha256('\x01' || tree_root(first, k) || tree_root(first + k, n - k));
		END $$;
		CREATE FUNCTION tree_consistency(m bigint, first bigint, n bigint, whole boolean) RETURNS bytea[] LANGUAGE plpgsql AS $$
		DECLARE
			k bigint = 1;
		BEGIN
			IF m = n THEN RETURN CASE WHEN whole THEN '{}' ELSE ARRAY[tree_root(first, n)] END; END IF;
			WHILE 2 * k < n LOOP k := 2 * k; END LOOP;
			IF m <= k THEN RETURN tree_consistency(m, first, k, whole) || tree_root(first + k, n - k); END IF;
			RETURN tree_consistency(m - k, first + k, n - k, false) || tree_root(first, k);
		END $$;
		CREATE FUNCTION idempotency.checkpoint_text(size bigint = NULL) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE
			l lie;
			n bigint;
		BEGIN
			SELECT * INTO l FROM lie;
			SELECT count(*) INTO n FROM leaf;
			IF l.shown = 'nothing' OR size > n OR (size IS NULL AND l.latest < 0) THEN RETURN NULL; END IF;
			n := coalesce(size, l.latest, n);
			RETURN coalesce(l.shown, format(E'%s\n%s\n%s\n', l.origin, n, encode(tree_root(0, n), 'base64')));
		END $$;
		CREATE FUNCTION idempotency.consistency_proof(size1 bigint, size2 bigint) RETURNS bytea[] LANGUAGE plpgsql AS $$
		DECLARE
			l lie;
			proof bytea[];
		BEGIN
			SELECT * INTO l FROM lie;
			PERFORM pg_advisory_xact_lock_shared(1);
			IF l.proof = 'none' THEN RETURN NULL; END IF;
			IF l.proof = 'error' THEN RAISE EXCEPTION 'size % is unknown', size1; END IF;
			IF l.proof = 'later' THEN RAISE EXCEPTION 'try again' USING ERRCODE = '40001'; END IF;
			IF size1 < 1 OR size1 > size2 OR size2 > (SELECT count(*) FROM leaf) THEN RAISE EXCEPTION 'no such size'; END IF;
			proof := tree_consistency(size1, 0, size2, true);
			RETURN CASE l.proof WHEN 'flipped' THEN set_bit(proof[1], 0, 1 - get_bit(proof[1], 0)) || proof[2:]
				WHEN 'cut' THEN proof[2:] WHEN 'more' THEN proof || sha256('') WHEN 'short' THEN ARRAY['\x00'::bytea] WHEN 'null' THEN ARRAY[NULL::bytea]
				WHEN 'many' THEN array_fill(proof[1], ARRAY[65]) WHEN 'matrix' THEN ARRAY[proof, proof] ELSE proof END;
		END $$;
		CREATE FUNCTION idempotency.witnessed(note text) RETURNS bigint LANGUAGE plpgsql AS $$
		DECLARE
			l lie;
		BEGIN
			SELECT * INTO l FROM lie;
			IF l.witnessed = 'refused' THEN RAISE EXCEPTION 'not a checkpoint of this ledger' USING ERRCODE = 'ID412'; END IF;
			IF l.witnessed = 'denied' THEN RAISE EXCEPTION 'permission denied' USING ERRCODE = '42501'; END IF;
			INSERT INTO witnessed VALUES (note);
			RETURN split_part(note, E'\n', 2)::bigint + CASE WHEN l.witnessed = 'other' THEN 1 ELSE 0 END;
		END $$;
	});
	return;
}

our $db = 'mock1';
make_mock($db);

sub sql { return $node->safe_psql($db, $_[0]); }
# Entries up to this size.
sub grow { return sql("INSERT INTO leaf SELECT i, sha256(convert_to('entry ' || i, 'UTF8')) FROM generate_series((SELECT count(*) FROM leaf), $_[0] - 1) AS i"); }
# Entries beyond this size are gone, those from this index on are others.
sub shrink { return sql("DELETE FROM leaf WHERE i >= $_[0]"); }
sub rewrite { return sql("UPDATE leaf SET hash = sha256(hash) WHERE i >= $_[0]"); }
sub lie { my %l = @_; return sql('UPDATE lie SET ' . join ', ', map { "$_ = " . (defined $l{$_} ? "E'$l{$_}'" : 'NULL') } keys %l); }
sub honest { return lie(shown => undef, latest => undef, proof => undef, witnessed => undef); }

my $state;
# A new state directory.
sub new_state
{
	$state = "$dir/$_[0]";
	mkdir $state or die "could not make $state: $!";
	return;
}

# The arguments of a run.
sub run_args { return [ 'run', '--state', $state, '--key', $key, '--dsn', $node->connstr($db), '--timeout', 20, @_ ]; }

# What is held: origin, size.
sub held
{
	my (undef, undef, $origin, $size) = split /\n/, read_file("$state/held");

	return defined $size ? "$origin $size" : '';
}

# All files of the state directory below a name: path => content.
sub snapshot
{
	my ($below, %files) = @_;

	foreach my $path (glob("$below/* $below/.new"))
	{
		next if $path eq "$state/evidence" || $path eq "$state/lock";
		if (-d $path) { %files = (%files, snapshot($path)); }
		elsif (-f $path) { $files{$path} = read_file($path); }
	}
	return %files;
}

sub evidence { my @found = glob "$state/evidence/*"; return @found; }

#----------------------------------------------------------------------
# run, and all is well
#----------------------------------------------------------------------
new_state('state');
lie(shown => 'nothing');
($out) = ends('no checkpoint yet', 'done', qr/no checkpoint yet/, run_args());
is($out . held(), '', '... nothing is signed, nothing is held');
honest();
($out) = ends('a ledger of no entries', 'done', qr/nothing was held in .*; trusting size 0 of ledger\.example\/1/, run_args());
is(held(), 'ledger.example/1 0', '... is held');
grow(7);
my $began = int(time());
($out, $err) = ends('the ledger has grown', 'done', qr/^$/, run_args());
is(held(), 'ledger.example/1 7', '... and is held');
like($out, qr/^ledger\.example\/1\n7\n\S{44}\n\n$dash witness\.example\/w1 \S+\n$/, '... a note is printed');
is($out =~ s/\n\n.*/\n/sr, sql('SELECT idempotency.checkpoint_text()'), '... of the checkpoint');
is(read_file("$state/latest"), $out, '... it is stored');
my ($by_size) = glob "$state/notes/7-*.note";
is(read_file($by_size), $out, '... by size, too');
is(sql('SELECT note FROM witnessed ORDER BY ctid DESC LIMIT 1'), $out, '... and the database was told');
SKIP:
{
	skip 'no openssl that verifies Ed25519', 3 unless $can_check;
	my $time = independently($out, $vkey);
	ok(defined $time && $time >= $began && $time <= time(), '... openssl verifies the cosignature, and its time is now');
	is(independently($out =~ s/\n7\n/\n8\n/r, $vkey), undef, '... and not of another size');
	is(independently($out, $note_vkey), undef, '... and not as a plain signature');
}
ends('... verify does, too', 'done', qr/^$/, [ 'verify', '--vkey', $vkey, "$state/latest" ]);
my %before = snapshot($state);
($out) = ends('once more', 'done', qr/^$/, run_args());
is($out, '', '... and nothing new is signed');
is_deeply({ snapshot($state) }, \%before, '... nor written');
is(sql('SELECT count(*) FROM witnessed'), '2', '... nor told');
grow(8);
($out, $err) = ends('--quiet', 'done', qr/^$/, run_args('--quiet'));
is($out . held(), 'ledger.example/1 8', '... prints nothing');
grow(300);
($out) = ends('--note', 'done', qr/^$/, run_args('--note'));
SKIP:
{
	skip 'no openssl that verifies Ed25519', 1 unless $can_check;
	is(independently($out, $note_vkey), 0, '... openssl verifies the plain signature');
}
ends('... verify does, too', 'done', qr/^$/, [ 'verify', '--vkey', $note_vkey, "$state/latest" ]);
write_file('proof', lines(map { pack 'H*', $_ } split /\n/, sql(q{SELECT encode(unnest(idempotency.consistency_proof(7, 300)), 'hex')})));
ends('an auditor links two notes of different kinds', 'unverified', qr/no signature/, [ 'verify', '--vkey', $note_vkey, '--consistent-with', $by_size, '--consistency', "$dir/proof", "$state/latest" ]);
grow(301);
ends('the next one', 'done', qr/^$/, run_args());
write_file('proof', lines(map { pack 'H*', $_ } split /\n/, sql(q{SELECT encode(unnest(idempotency.consistency_proof(7, 301)), 'hex')})));
($out) = ends('an auditor links two notes', 'done', qr/^$/, [ 'verify', '--vkey', $vkey, '--consistent-with', $by_size, '--consistency', "$dir/proof", "$state/latest" ]);
like($out, qr/^begins with the 7 of the older note$/m, '... and is told so');
{
	my %env = (PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => $db);
	grow(302);
	ends('the database is named by the environment', 'done', qr/^$/, [ 'run', '--state', $state, '--key', $key ], env => \%env);
	is(held(), 'ledger.example/1 302', '... and is that one');
}

# telling the database
lie(witnessed => 'denied');
grow(303);
ends('the database may not be told', 'done', qr/warning: the database did not record the note: permission denied \(42501\)/, run_args());
is(held(), 'ledger.example/1 303', '... the checkpoint is held all the same');
honest();
ends('... later it may', 'done', qr/^$/, run_args());
is(sql('SELECT note FROM witnessed ORDER BY ctid DESC LIMIT 1'), read_file("$state/latest"), '... and is told then');
lie(witnessed => 'refused');
grow(304);
ends('the database denies its own checkpoint', 'trouble', qr/did not record the note: not a checkpoint of this ledger \(ID412\)/, run_args());
lie(witnessed => 'other');
ends('... or takes it for another', 'trouble', qr/as one of another size/, run_args());
is(held(), 'ledger.example/1 304', '... held it is');
honest();
grow(305);
my $told = sql('SELECT count(*) FROM witnessed');
ends('--no-report', 'done', qr/^$/, run_args('--no-report'));
is(sql('SELECT count(*) FROM witnessed'), $told, '... and it is not told');
ends('... until it is to be', 'done', qr/^$/, run_args());
is(sql('SELECT count(*) FROM witnessed'), $told + 1, '... also of what is held already');

#----------------------------------------------------------------------
# alarms: each ends with its code, and what is held stays
#----------------------------------------------------------------------

# An alarm, twice; what it leaves.
sub alarm_is
{
	my ($what, $code, $complaint, %opt) = @_;
	my %before = snapshot($state);
	my @before = evidence();
	my $shown = sql('SELECT idempotency.checkpoint_text()');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($out, $err) = ends($what, $code, qr/ALARM: .*$complaint/, run_args());
	is($out, '', '... nothing is signed');
	is_deeply({ snapshot($state) }, \%before, '... what is held is untouched');
	my %old = map { ($_ => 1) } @before;
	my ($new) = grep { !$old{$_} } evidence();
	like($new // '', qr/\/evidence\/$code-[0-9a-f]{16}$/, '... there is new evidence') or return '';
	like($err, qr/the evidence is in \Q$new\E$/, '... and it says where');
	is(read_file("$new/shown"), $shown, '... what was shown');
	is(read_file("$new/held"), $before{"$state/latest"}, '... what was held, signed');
	like(read_file("$new/message"), qr/^\d{4}-\S+Z .*$complaint/, '... what was said');
	is(-e "$new/proof" ? 1 : 0, $opt{proof} // 0, '... and the proof, if there was one');
	ends('... once more', $code, qr/ALARM/, run_args());
	is(scalar evidence(), @before + 1, '... and no evidence is left twice');
	return $err;
}

my $was = quotemeta 'held is size 305 of ledger.example/1 with root ' . base64(pack 'H*', sql(q{SELECT encode(tree_root(0, 305), 'hex')}));
rewrite(304);
$err = alarm_is('a split view', 'split-view', qr/split view, two ledgers of one size: $was, shown is size 305 of ledger\.example\/1 with root \S{44}/);
like($err, qr/; up to size 304 it is what was signed here;/, '... and up to where it is the same');
grow(310);
$err = alarm_is('a split view that has grown', 'proof-wrong', qr/the proof of consistency is wrong, history was rewritten: $was, shown is size 310/, proof => 1);
like($err, qr/; up to size 304 it is what was signed here;/, '... and up to where it is the same');
rewrite(3);
$err = alarm_is('all is rewritten', 'proof-wrong', qr/history was rewritten/, proof => 1);
like($err, qr/; up to size 0 it is what was signed here;/, '... from the begin');
shrink(0);
grow(304);
$err = alarm_is('a ledger that has become smaller', 'regression', qr/the ledger has become smaller: $was, shown is size 304/);
like($err, qr/; up to size 304 it is what was signed here;/, '... and that it was only cut');
foreach my $latest (304, 0, -1)
{
	grow(305);
	lie(latest => $latest);
	my %before = snapshot($state);
	my @before = evidence();
	($out) = ends("a ledger that only shows less: $latest", 'done', qr/the database has what is held, size 305, and does not show as much now$/, run_args());
	is_deeply([ $out, { snapshot($state) }, evidence() ], [ '', \%before, @before ], '... is no alarm');
	if ($latest == 304)
	{
		rewrite(304);
		ends('... unless what is held has become another', 'regression', qr/ALARM/, run_args());
	}
	honest();
	shrink(304);
}
lie(shown => 'nothing');
alarm_is('a ledger without any checkpoint', 'regression', qr/has no checkpoint any more: $was/);
honest();
shrink(0);
alarm_is('a ledger without any entry', 'regression', qr/shown is size 0/);
grow(320);
foreach my $kind (qw(none error))
{
	lie(proof => $kind);
	alarm_is("a proof that is not given: $kind", 'proof-missing', $kind eq 'none' ? qr/no proof of consistency \(the database gives no proof\): $was/ : qr/\(the database gives no proof: size 305 is unknown \(P0001\)\): $was/)
	  if $kind eq 'none';
	ends('... or refused', 'proof-missing', qr/gives no proof: size 305 is unknown \(P0001\)\): $was/, run_args()) if $kind eq 'error';
}
foreach my $kind (qw(flipped cut more short null many matrix))
{
	lie(proof => $kind);
	ends("a forged proof: $kind", 'proof-wrong', qr/ALARM: the proof of consistency is wrong/, run_args());
	is(held(), 'ledger.example/1 305', '... is not believed');
}
honest();
my %shown = (
	'empty' => '', 'leading zero' => 'ledger.example/1\n0320\nx\n', 'no newline' => 'ledger.example/1\n320', 'CRLF' => 'ledger.example/1\r\n320\r\n',
	'another line' => '%more\n', 'bad root' => 'ledger.example/1\n320\nAAAA\n', 'a note' => '%\n\xE2\x80\x94 x AAAAAAAA\n', 'a long origin' => ('x' x 2000) . '\n1\n');
my $honest = sql('SELECT idempotency.checkpoint_text()') =~ s/\n/\\n/gr . '\n';
foreach my $what (sort keys %shown)
{
	lie(shown => $shown{$what} =~ s/%/$honest/r);
	ends("no checkpoint: $what", 'bad-checkpoint', qr/ALARM: what the database shows is no checkpoint: the checkpoint/, run_args());
}
is(held(), 'ledger.example/1 305', '... nothing of it is held');
honest();
sql(q{ALTER FUNCTION idempotency.checkpoint_text RENAME TO gone});
ends('the ledger is gone', 'history-gone', qr/ALARM: the database shows no checkpoint: function idempotency\.checkpoint_text\(bigint\) does not exist/, run_args());
sql(q{CREATE FUNCTION idempotency.checkpoint_text(bigint) RETURNS int LANGUAGE sql AS 'SELECT 1'});
ends('... and there is something else', 'bad-checkpoint', qr/not of the type/, run_args());
sql(q{DROP FUNCTION idempotency.checkpoint_text(bigint); ALTER FUNCTION idempotency.gone RENAME TO checkpoint_text});
ends('after all alarms, the honest ledger', 'done', qr/^$/, run_args());
is(held(), 'ledger.example/1 320', '... follows, and is signed');

# what is no alarm
lie(proof => 'later');
grow(321);
ends('a proof that may come later', 'trouble', qr/^idempotency-witness: the database gives no proof: try again \(40001\)$/, run_args());
honest();
lie(origin => 'ledger.example/\u009b2J');
(undef, $err) = witness(run_args('--state', "$dir/none"));
($out, $err) = ends('a terminal is not obeyed', 'done', qr/a new incarnation, ledger\.example\/\?2J, which goes on/, run_args());
unlike($err, qr/\xC2\x9B/, '... not at all');
lie(origin => 'ledger.example/1');
ends('no connection', 'trouble', qr/could not connect: /, [ 'run', '--state', $state, '--key', $key, '--dsn', "host=$dir port=1" ]);
ends('a connection string that is none', 'trouble', qr/could not connect: /, [ 'run', '--state', $state, '--key', $key, '--dsn', 'nonsense=' ]);
ends('a state directory that is not there', 'usage', qr/No such file/, [ 'run', '--state', "$dir/none", '--key', $key ]);
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');
ends('no right to ask', 'trouble', qr/permission denied for schema idempotency \(42501\)/, run_args('--dsn', $node->connstr($db) . ' user=nobody'));
ends('a database without a ledger is not trusted on first sight, either', 'history-gone', qr/does not exist/, run_args('--dsn', $node->connstr('postgres')));
grow(322);
{
	my $lock = $node->background_psql($db);
	$lock->query_safe('SELECT pg_advisory_lock(1)');
	ends('a database that does not answer', 'trouble', qr/has not answered within 1 s/, run_args('--timeout', 1));
	$lock->quit;
}
ends('... later it does', 'done', qr/^/, run_args('--quiet'));

#----------------------------------------------------------------------
# incarnations
#----------------------------------------------------------------------
lie(origin => 'ledger.example/2');
ends('a promotion that lost nothing', 'done', qr/a new incarnation, ledger\.example\/2, which goes on from what is held of ledger\.example\/1/, run_args());
is(held(), 'ledger.example/2 322', '... of the same size');
is(scalar(my @notes = glob "$state/notes/322-*.note"), 2, '... there are two notes of this size');
lie(origin => 'ledger.example/3');
grow(330);
ends('a promotion that lost nothing, and has grown', 'done', qr/a new incarnation/, run_args());
# a restore to size 310, which then goes on differently
lie(origin => 'ledger.example/4');
shrink(315);
$err = alarm_is('a restore to a time before', 'history-gone', qr/history that was held here is gone: held is size 330 of ledger\.example\/3 .*, shown is size 315 of ledger\.example\/4/);
like($err, qr/; up to size 305 it is what was signed here;/, '... and what of it is still there');
sql(q{INSERT INTO leaf SELECT i, sha256(convert_to('another ' || i, 'UTF8')) FROM generate_series(315, 339) AS i});
$err = alarm_is('... that has grown since', 'history-gone', qr/history that was held here is gone/, proof => 1);
lie(proof => 'none');
ends('... and gives no proof', 'history-gone', qr/history that was held here is gone/, run_args());
honest();
%before = snapshot($state);
($out) = ends('... which the operator accepts', 'done', qr/warning: history that was held here is gone.*\n.*warning: accepted: the new incarnation is held from now on, what was held is in \S+\/archive\/\S+$/, run_args('--accept-incarnation'));
is(held(), 'ledger.example/4 340', '... is held');
is(read_file("$state/latest"), $out, '... and signed');
my ($archive) = glob "$state/archive/*";
is_deeply({ snapshot($archive) }, { map { (s/^\Q$state\E/$archive/r => $before{$_}) } keys %before }, '... what was held is in the archive');
is(scalar(@notes = glob "$state/notes/*"), 1, '... with all notes');
ends('... from then on it is as before', 'done', qr/^$/, run_args());
rewrite(339);
ends('--accept-incarnation accepts nothing else', 'split-view', qr/ALARM/, run_args('--accept-incarnation'));
is(held() . scalar(@notes = glob "$state/archive/*"), 'ledger.example/4 3401', '... not at all');

#----------------------------------------------------------------------
# a damaged state directory; clocks
#----------------------------------------------------------------------
new_state('damaged');
honest();
ends('a new state directory', 'done', qr/trusting/, run_args());
my $held = read_file("$state/held");
foreach my $bad ('', substr($held, 0, -2), $held =~ s/ 1\n/ 2\n/r, $held =~ s/\n340\n/\n0340\n/r, "$held\n", $held =~ s/\n\d/\n-/r)
{
	write_file('damaged/held', $bad);
	ends('held is damaged', 'state', qr/held is damaged: restore it/, run_args());
	is(read_file("$state/held"), $bad, '... and stays so');
}
unlink "$state/held";
ends('held is gone', 'state', qr/held is missing: restore it/, run_args());
ok(!-e "$state/held", '... and does not begin anew');
write_file('damaged/held', "idempotency-witness 1\n" . int(time()) . "\n" . (read_file("$state/latest") =~ s/\n\n.*/\n/sr));
ends('it is restored from a note', 'done', qr/^$/, run_args());
is(held(), 'ledger.example/4 340', '... and goes on');
unlink "$state/latest";
($out) = ends('a note that is not there is signed again', 'done', qr/^$/, run_args());
is(read_file("$state/latest"), $out, '... and stored');
grow(345);
my $future = time() + 1800;
write_file('damaged/held', $held =~ s/\n\d+\n/\n@{[ int $future ]}\n/r);
($out) = ends('a clock that is half an hour behind', 'done', qr/^$/, run_args());
SKIP:
{
	skip 'no openssl that verifies Ed25519', 1 unless $can_check;
	is(independently($out, $vkey), int $future, '... and the time of signatures does not go back');
}
grow(346);
write_file('damaged/held', read_file("$state/held") =~ s/\n\d+\n/\n@{[ int($future + 86400) ]}\n/r);
ends('a clock that is a day behind', 'trouble', qr/the clock is \d+ s behind the last signature's/, run_args());
is(held(), 'ledger.example/4 345', '... and nothing is signed');

#----------------------------------------------------------------------
# two runs at a time: never N after N + K
#----------------------------------------------------------------------
# One run stops while it asks for the proof of 350; another is started, for
# 360.  With lock => 0 they don't share one: the control.
sub two_runs
{
	my ($name, %opt) = @_;
	my ($out1, $out2, $err) = ('', '', '');
	my $lock = $node->background_psql($db);

	new_state($name);
	shrink(340);
	witness(run_args());
	grow(350);
	$lock->query_safe('SELECT pg_advisory_lock(1)');
	my $first = IPC::Run::start(run_program(), '>', \$out1, '2>', \$err);
	$node->poll_query_until($db, q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted});
	grow(360);
	unlink "$state/lock" if !$opt{lock};
	my $second = IPC::Run::start(run_program(), '>', \$out2, '2>', \$err);
	$opt{lock}
	  ? sleep(0.3)
	  : $node->poll_query_until($db, q{SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted});
	my $asking = sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted});
	# in the control the second is let go first
	my $pid = $first->{KIDS}[0]{PID};
	kill 'STOP', $pid if !$opt{lock};
	$lock->query_safe('SELECT pg_advisory_unlock(1)');
	$lock->quit;
	$second->finish if !$opt{lock};
	kill 'CONT', $pid;
	$first->finish;
	$second->finish if $opt{lock};
	return ($asking, map { /\n(\d+)\n/ ? $1 : 'none' } $out1, $out2);
}

sub run_program { return [ $program, @{ run_args() } ]; }

is(join(' ', two_runs('race', lock => 1)), '1 350 360', 'the second of two runs asks when the first is done');
is(held(), 'ledger.example/4 360', '... and what is held is what was signed last');
my @asked = two_runs('control', lock => 0);
is("@asked " . held(), '2 350 360 ledger.example/4 350', 'the control: without their lock, 350 is held after 360');
{
	open my $file, '>', "$state/lock" or die;
	flock $file, LOCK_EX;
	ends('a lock that is not given up', 'locked', qr/another run has had \S+ for 1 s/, run_args('--timeout', 1));
}

# (the first may be slower than the test)
new_state('many');
{
	my @runs;

	shrink(340);
	foreach my $i (1 .. 10)
	{
		grow(340 + $i * 3);
		my $run = { out => '', err => '' };
		$run->{run} = IPC::Run::start(run_program(), '>', \$run->{out}, '2>', \$run->{err});
		push @runs, $run;
	}
	$_->{run}->finish foreach @runs;
	is(join('', map { $_->{err} =~ s/.*trusting.*\n//r } @runs), '', 'ten runs at a time end well');
	is(held(), 'ledger.example/4 370', '... the last size is held');
	my %sizes;
	$sizes{$_}++ foreach map { $_->{out} =~ /\n(\d+)\n/ ? $1 : () } @runs;
	is(scalar(grep { $_ > 1 } values %sizes), 0, '... and no size is signed twice');
}

#----------------------------------------------------------------------
# --loop
#----------------------------------------------------------------------
{
	my ($out, $err) = ('', '');
	my $run = IPC::Run::start([ $program, @{ run_args('--loop', 1) } ], '>', \$out, '2>', \$err);

	grow(371);
	my $until = time() + 10;
	while (held() !~ / 371$/ && time() < $until) { sleep(0.05); }
	is(held(), 'ledger.example/4 371', '--loop looks again and again');
	lie(proof => 'later');
	grow(372);
	do { IPC::Run::pump_nb($run); sleep(0.05); } while ($err !~ /try again/ && time() < $until);
	like($err, qr/try again/, '... trouble does not end it');
	honest();
	while (held() !~ / 372$/ && time() < $until) { sleep(0.05); }
	is(held(), 'ledger.example/4 372', '... it goes on');
	rewrite(371);
	$run->finish;
	is($run->result(0), $exit{'split-view'}, '... an alarm ends it');
	IPC::Run::run(run_program(), '>', \$out, '2>', \$err);
}

#----------------------------------------------------------------------
# killed at every point
#----------------------------------------------------------------------
# A library that kills the program before its n-th call that could leave
# something behind.
my $crash_c = q{
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>
static void point(void)
{
	static int n;
	const char *at = getenv("CRASH_AT");
	if (at != NULL && ++n == atoi(at))
		kill(getpid(), SIGKILL);
}
#define REAL(type, name, ...) type (*real)(__VA_ARGS__) = (type (*)(__VA_ARGS__)) dlsym(RTLD_NEXT, name); point()
ssize_t write(int fd, const void *data, size_t len) { REAL(ssize_t, "write", int, const void *, size_t); return real(fd, data, len); }
int fsync(int fd) { REAL(int, "fsync", int); return real(fd); }
int renameat(int a, const char *from, int b, const char *to) { REAL(int, "renameat", int, const char *, int, const char *); return real(a, from, b, to); }
int mkdirat(int fd, const char *name, mode_t mode) { REAL(int, "mkdirat", int, const char *, mode_t); return real(fd, name, mode); }
int openat(int fd, const char *name, int flags, ...)
{
	mode_t mode = 0;
	va_list args;
	REAL(int, "openat", int, const char *, int, mode_t);
	va_start(args, flags);
	if (flags & O_CREAT) mode = va_arg(args, mode_t);
	va_end(args);
	return real(fd, name, flags, mode);
}
};
SKIP:
{
	my $so = "$dir/crash.so";
	skip 'no compiler', 2
	  unless IPC::Run::run([ 'cc', '-shared', '-fPIC', '-o', $so, write_file('crash.c', $crash_c), '-ldl' ], '>', '/dev/null', '2>', '/dev/null');
	my ($points, $wrong, $size) = (0, '', 5);
	my $session = $node->background_psql($db);

	new_state('crash');
	shrink($size);
	lie(origin => 'ledger.example/0');
	witness(run_args());
	# rounds that go on, then rounds in which an incarnation is accepted
	foreach my $accept (0, 1)
	{
		my @args = (@{ run_args() }, $accept ? '--accept-incarnation' : ());

		foreach my $at (1 .. 200)
		{
			my $shown = $accept ? "ledger.example/$at $size" : 'ledger.example/0 ' . ++$size;
			$session->query_safe($accept ? "UPDATE lie SET origin = 'ledger.example/$at'; UPDATE leaf SET hash = sha256(hash)" : "INSERT INTO leaf VALUES ($size - 1, sha256('$at'))");
			my ($code) = witness(\@args, env => { LD_PRELOAD => $so, CRASH_AT => $at });
			# what is signed is held
			foreach my $path ("$state/latest", glob "$state/notes/*")
			{
				my ($origin, $n) = read_file($path) =~ /^(.*)\n(\d+)\n\S+\n\n$dash \S+ \S+\n$/;
				$wrong .= "$at: $path is torn\n" if !defined $n;
				$wrong .= "$at: $origin $n is signed and not held\n" if defined $n && "$origin $n" eq $shown && held() ne $shown;
			}
			$wrong .= "$at: nothing is held\n" if held() eq '';
			last if $code == 0;
			$points++;
			$wrong .= "$at: ended with $code\n" if $code != -1;
			($code, undef, my $err) = witness(\@args);
			$wrong .= "$at: the next run ended with $code: $err" if $code != 0;
			$wrong .= "$at: the next run holds " . held() . "\n" if held() ne $shown;
			$wrong .= "$at: no good note\n" if $at % 8 == 0 && (witness([ 'verify', '--vkey', $vkey, "$state/latest" ]))[0] != 0;
			$wrong .= "$at: no note of what is held\n" if join(' ', (split /\n/, read_file("$state/latest"))[ 0, 1 ]) ne $shown;
		}
	}
	$session->quit;
	cmp_ok($points, '>', 30, "killed at $points points");
	is($wrong, '', '... what is signed is held, and the next run goes on');
}

#----------------------------------------------------------------------
# the ledger itself
#----------------------------------------------------------------------
$db = 'ledger';
$node->safe_psql('postgres', "CREATE DATABASE $db");
sql(q{
	CREATE EXTENSION idempotency;
	CREATE ROLE witness LOGIN;
	GRANT USAGE ON SCHEMA idempotency TO witness;
	GRANT EXECUTE ON FUNCTION idempotency.checkpoint_text, idempotency.consistency_proof TO witness;
});

# So many operations that take effect, sealed.
sub operate
{
	my ($name, $n) = @_;

	return sql("SELECT idempotency.once('orders', '$name ' || i) FROM generate_series(1, $n) AS i; SELECT count(*) FROM idempotency.maintain(); SELECT size FROM idempotency.ledger_status") =~ /(\d+)\n?$/ ? $1 : 0;
}

# The arguments of the witness's run in the database, as its own role.
sub ledger_args { return run_args('--dsn', $node->connstr($_[0] // $db) . ' user=witness', @_[ 1 .. $#_ ]); }

new_state('ledger');
ends('a new ledger', 'done', qr/no checkpoint yet/, ledger_args());
my $size = operate('first', 5);
($out, $err) = ends('its first checkpoint', 'done', qr/trusting size $size of .*warning: the database did not record the note: permission denied for function witnessed \(42501\)/s, ledger_args());
sql('GRANT EXECUTE ON FUNCTION idempotency.witnessed TO witness');
ends('the right to tell it is given', 'done', qr/^$/, ledger_args());
is(sql('SELECT size, note FROM idempotency.ledger_witness'), "$size|$out", '... and the ledger has the note');
my $first = write_file('first.note', $out);
foreach my $n (1, 250, 256, 300)
{
	my $grown = operate("more $n", $n);
	ends("$grown entries follow", 'done', qr/^$/, ledger_args());
	like(held(), qr/ $grown$/, '... and are held');
	cmp_ok($grown, '>', $size, '... they are more');
	$size = $grown;
}
is(sql('SELECT max(size) FROM idempotency.ledger_witness'), $size, 'the ledger knows what is held');

# What an auditor takes home: an entry, its proof, two notes.
{
	my $index = 3;
	my $latest = read_file("$state/latest");

	write_file('data', pack 'H*', sql("SELECT encode(idempotency.leaf_data($index), 'hex')"));
	write_file('proof', sql("SELECT encode(h, 'base64') FROM unnest(idempotency.inclusion_proof($index, $size)) WITH ORDINALITY AS p (h, n) ORDER BY n") . "\n");
	write_file('consistency', sql("SELECT h FROM unnest(idempotency.consistency_proof((SELECT min(size) FROM idempotency.ledger_witness), $size)) WITH ORDINALITY AS p (h, n) ORDER BY n") . "\n");
	($out) = ends('an auditor, at home', 'done', qr/^$/,
		[ 'verify', '--vkey', $vkey, '--leaf-data', "$dir/data", '--index', $index, '--proof', "$dir/proof", '--consistent-with', $first, '--consistency', "$dir/consistency", "$state/latest" ]);
	like($out, qr/^signed by .*\ncheckpoint: size $size .*\nincludes the leaf as number $index\nbegins with the \d+ of the older note\n$/, '... verifies all of it');
	write_file('tlog', "c2sp.org/tlog-proof\@v1\nindex $index\n" . read_file("$dir/proof") . "\n$latest");
	ends('... also as a tlog-proof', 'done', qr/^$/, [ 'verify', '--vkey', $vkey, '--leaf-data', "$dir/data", "$dir/tlog" ]);
	write_file('data', read_file("$dir/data") . "\0");
	ends('... and not another entry', 'unverified', qr/not proved/, [ 'verify', '--vkey', $vkey, '--leaf-data', "$dir/data", "$dir/tlog" ]);
}

# A restore that lost nothing, and one that did.
sub restore
{
	my ($name) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($name), "$dir/dump" ], "a dump is restored to $name");
	local $db = $name;
	return operate("restored to $name", 3);
}

$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", $node->connstr($db) ], 'a dump is made');
my $restored = restore('restored');
ends('the dump lost nothing, and goes on', 'done', qr/a new incarnation, \S+, which goes on from what is held of \S+$/, ledger_args('restored'));
like(held(), qr/ $restored$/, '... which is held');
my $kept = $size;
$size = operate('lost', 20);
ends('the database that was replaced is still there', 'history-gone', qr/history that was held here is gone: .*; up to size $kept it is what was signed here/, ledger_args());
$restored = restore('older');
ends('the dump is restored once more, and lacks entries', 'history-gone', qr/history that was held here is gone: .*; up to size $kept it is what was signed here/, ledger_args('older'));
ends('... which is accepted', 'done', qr/accepted: the new incarnation is held/, ledger_args('older', '--accept-incarnation'));
like(held(), qr/ $restored$/, '... and held');

# Whoever administers the database rewrites an entry, and builds all of the tree
# anew.  It is in itself without fault.
new_state('attack');
ends('another witness', 'done', qr/trusting size $size /, ledger_args());
sub attack
{
	my ($what) = @_;

	sql(qq{SET session_replication_role = replica; $what; DELETE FROM idempotency.ledger_checkpoint; DELETE FROM idempotency.ledger_tile;});
	sql('SELECT * FROM idempotency.maintain()');
	return sql('SELECT max(size) FROM idempotency.ledger_checkpoint');
}
is(attack(q{UPDATE idempotency.ledger_entry SET principal = 'somebody else' WHERE key = 'first 2'}), $size, 'an administrator rewrites an entry and builds the tree anew');
ends('... which is a split view', 'split-view', qr/split view, two ledgers of one size/, ledger_args());
operate('after the attack', 2);
ends('... and stays found out', 'proof-wrong', qr/history was rewritten/, ledger_args());
cmp_ok(attack('DELETE FROM idempotency.ledger_entry WHERE seq > (SELECT max(seq) - 10 FROM idempotency.ledger_entry)'), '<', $size, 'the administrator cuts the end off');
ends('... which is a regression', 'regression', qr/the ledger has become smaller/, ledger_args());
sql('DROP EXTENSION idempotency CASCADE');
ends('the administrator drops it all', 'history-gone', qr/ALARM: the database shows no checkpoint/, ledger_args());
done_testing();
