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
# IDEMPOTENCY_CRASHES (2): how often the postmaster is killed while transactions
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
my $kills = $ENV{IDEMPOTENCY_CRASHES} // 2;
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

# The second one, field by field.
my $everything = pack('H*', join '', qw(
	6964656d706f74656e63792f656e7472792f76310a 0000000000000002 0006474846222240 01 0006474846204000
	0000000000016ea8 01 0000000000000001 01 0000000000000002 01 0000000000000003
	00000008 6578656375746564 01 00000010 00112233445566778899aabbccddeeff 01 00000008 7061796d656e7473
	01 00000008 74656e616e742037 01 00000010 6b2dc3a92de697a5e69cac2df09f9880
	01 00000020 1f58b9145b24d108d7ac38887338b3ea3229833b9c1e418250343f907bfd1047
	01 00000020 a9f4b3d22a523fdada41c85c175425bcd15b32b4cd0f54d9433accd52d7195a1
	01 00000020 7d3fccc1122c5d3efd0a0458f17dddbce86f6c1d28afebee311d25240e398150
	01 00000020 9c9635b08d5f489d5e13bc1c057d2f06efe8d0f66df55351db9ae8fc41dcd5c7
	00000005 6c6f67696e 00000005 72c3b46c65 00000008 7073716c20e29c93
	01 00000010 4bf92f3577b34da6a3ce929d0e0e4736 01 00000016 7b22726561736f6e223a2022c384726765725c6e227d));

# Insert the golden entries all of whose characters are below a limit, and seal
# them.  Returns their numbers.
sub insert_golden
{
	my ($db, $limit) = @_;
	my @those = grep {
		my $texts = join '', grep { defined } @{ $golden[$_][2] }{qw(key role application detail)};

		utf8::decode($texts);
		!grep { ord($_) >= $limit } split //, $texts;
	} 0 .. $#golden;

	sql('INSERT INTO idempotency.ledger_entry VALUES ' . join(",\n", map { row_of($golden[$_][2]) } @those), $db);
	sql(q{SELECT setval('idempotency.ledger_seq', } . @golden . ')', $db);
	is(seal($db), scalar @those, "$db: " . @those . ' golden entries are sealed');
	return @those;
}

# The sealed leaf hashes of a database, in hex, as they are stored.
sub stored_hashes
{
	my ($db) = @_;

	return join '', split /\n/, sql(q{SELECT encode(tail, 'hex') FROM idempotency.ledger_checkpoint ORDER BY size}, $db);
}

# What was hashed of the first n leaves.
sub leaf_datas
{
	my ($db, $n) = @_;

	return map { pack('H*', $_) } split /\n/,
	  sql("SELECT encode(idempotency.leaf_data(i), 'hex') FROM generate_series(0, $n - 1) AS i", $db);
}

create_database('golden');
insert_golden('golden', 0x110000);
{
	my @data = leaf_datas('golden', scalar @golden);

	foreach my $n (0 .. $#golden)
	{
		my ($name, $hash, $e) = @{ $golden[$n] };

		is(unpack('H*', leaf_hash($data[$n])), $hash, "golden: $name: hashed as ever");
		ok($data[$n] eq encode_entry($e), '... encoded as the comment says');
		ok($data[$n] eq $everything, '... which is this') if $name eq 'everything';
	}
}
is(stored_hashes('golden'), join('', map { $_->[1] } @golden), 'golden: the tree has these hashes');
is(scalar(keys %{ { map { $_->[1] => 1 } @golden } }), scalar @golden, 'golden: no two entries hash alike');

# the end of the numbers
seal('golden');
sql('INSERT INTO idempotency.ledger_entry VALUES '
	  . row_of({ %least, seq => 9223372036854775807 })
	  . q{; SELECT setval('idempotency.ledger_seq', 9223372036854775807)}, 'golden');
is(seal('golden'), '1', 'golden: the last number there is is sealed');
is( sql('SELECT encode(idempotency.leaf_data(size - 1), $$hex$$) FROM idempotency.ledger_status', 'golden'),
	unpack('H*', encode_entry({ %least, seq => 9223372036854775807 })), '... and encoded');
is(sqlstate($node, q{SELECT idempotency.once('s', 'k')}, db => 'golden'), '2200H', '... and there is none after it');

#----------------------------------------------------------------------
# other encodings, other settings, other values for nothing
#----------------------------------------------------------------------
foreach my $encoding ([ 'LATIN1', 0x100 ], [ 'SQL_ASCII', 0x80 ])
{
	my ($name, $limit) = @$encoding;
	my $db = lc $name;

	create_database($db, "ENCODING '$name' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	my @those = insert_golden($db, $limit);
	is(stored_hashes($db), join('', map { $golden[$_][1] } @those), "$name: the same hashes");
	cmp_ok(scalar @those, '>', 20, '... of most of them');
}

# a key is a key in every encoding, whatever its bytes are
foreach my $case (
	[ 'SQL_ASCII', '\xe9' ], [ 'WIN1252', '\x818f' ], [ 'EUC_JP', '\xa9a1' ], [ 'LATIN1', '\x80e9ff' ],
	[ 'MULE_INTERNAL', '\x81e9' ])
{
	my ($name, $bytes) = @$case;
	my $db = lc "odd_$name";

	create_database($db, "ENCODING '$name' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	my $state = sqlstate($node, "SELECT idempotency.finish('x', k, k) FROM
			convert_from('$bytes'::bytea, '$name') AS k, LATERAL idempotency.claim('x', k)", db => $db);
	like($state, qr/^$|^ID400$/, "$name: a key of odd bytes is taken, or refused as such");
	sql(q{SELECT idempotency.once('x', 'after')}, $db);
	eval { seal($db) };
	is(sql('SELECT count(*) FROM idempotency.ledger WHERE NOT coalesce(sealed, false) AND key IS NOT NULL', $db),
		'0', '... and keeps nothing from being sealed');
}

{
	my %setting = (
		TimeZone => 'Asia/Kolkata', DateStyle => 'German, DMY', IntervalStyle => 'sql_standard',
		bytea_output => 'escape', extra_float_digits => '-15', client_encoding => 'SQL_ASCII',
		standard_conforming_strings => 'on', xmlbinary => 'hex');

	create_database('settings');
	sql(join '; ', map { "ALTER DATABASE settings SET $_ = '$setting{$_}'" } sort keys %setting);
	is(sql(q{SELECT '2026-01-02 00:00+00'::timestamptz, '\xff'::bytea}, 'settings'),
		'02.01.2026 05:30:00 IST|\377', 'settings: others');
	insert_golden('settings', 0x110000);
	is(stored_hashes('settings') =~ s/\\x//gr, stored_hashes('golden') =~ s/.{64}.{64}$//r, '... the same hashes');
	is(join(' ', map { unpack('H*', $_) } leaf_datas('settings', scalar @golden)),
		join(' ', map { unpack('H*', $_) } leaf_datas('golden', scalar @golden)), '... of the same data');
}

# What is never written so, but can be there: it hashes like nothing that is, and
# always alike.
{
	my @odd = (
		'fence = 0', 'event_no = 0', 'attempt = 0', q{claimed_at = '-infinity'}, q{request_digest = ''},
		q{request_digest = '\x01'}, q{request_digest = '\x02'}, q{response_digest = decode(repeat('00', 33), 'hex')},
		q{request_commitment = '\x01'}, q{response_commitment = '\x01'}, q{trace_id = '\x01'}, q{trace_id = ''});

	create_database('odd');
	sql('INSERT INTO idempotency.ledger_entry VALUES '
		  . join(', ', map { row_of({ %least, seq => $_ }) } 1 .. @odd + 1), 'odd');
	sql('ALTER TABLE idempotency.ledger_entry DISABLE TRIGGER ALL; '
		  . join('; ', map { "UPDATE idempotency.ledger_entry SET $odd[$_] WHERE seq = $_ + 2" } 0 .. $#odd), 'odd');
	sql(q{SELECT setval('idempotency.ledger_seq', } . (@odd + 1) . ')', 'odd');
	is(seal('odd'), @odd + 1, 'odd values: sealed');
	my $stored = stored_hashes('odd');
	my @data = leaf_datas('odd', @odd + 1);
	foreach my $n (0 .. @odd)
	{
		my $data = $data[$n];
		my $name = $n == 0 ? 'nothing' : $odd[ $n - 1 ];

		is(unpack('H*', leaf_hash($data)), substr($stored, 64 * $n, 64), "odd values: $name: hashed as it is shown");
		is(substr($data, -1), $n == 0 ? "\0" : "\xff", $n == 0 ? '... it has no mark' : '... and marked');
	}
}

#----------------------------------------------------------------------
# the tree at each size at which something changes
#----------------------------------------------------------------------
create_database('sizes');
sql(q{
	CREATE TABLE bulk (id int);
	CREATE TRIGGER dedup BEFORE INSERT ON bulk FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('bulk', 'id');
	CREATE SEQUENCE bulk_id;
}, 'sizes');

# Write entries until there are n.
sub grow
{
	my ($n) = @_;

	sql("INSERT INTO bulk SELECT nextval('bulk_id')
		FROM generate_series(1, $n - (SELECT count(*) FROM idempotency.ledger_entry))", 'sizes');
	return;
}

# How many tiles there are of each level, and hashes beside them.
sub tiles_are
{
	return sql(q{SELECT coalesce((SELECT string_agg(n::text, ' ' ORDER BY level)
			FROM (SELECT level, count(*) AS n FROM idempotency.ledger_tile GROUP BY level) AS t), 'none') || ', '
		|| coalesce((SELECT length(tail) / 32 FROM idempotency.ledger_checkpoint ORDER BY size DESC LIMIT 1)::text, 'none')}, 'sizes');
}

# What sealing nothing leaves: not even a transaction id.
sub nothing_is_written
{
	my ($name) = @_;
	my $state = q{SELECT pg_snapshot_xmax(pg_current_snapshot()), pg_current_wal_insert_lsn()};
	my ($before, $sealed, $after);

	# so that nobody prunes a page of the catalogs meanwhile
	sql('CHECKPOINT', 'sizes');
	seal('sizes');
	$before = sql($state, 'sizes');
	$sealed = seal('sizes');
	is("$sealed " . sql($state, 'sizes'), "0 $before", $name);
	return;
}

nothing_is_written('size 0: an empty seal writes nothing');
is(tiles_are(), 'none, none', '... no tile, no checkpoint');
is(sql('SELECT idempotency.checkpoint_text() IS NULL, idempotency.checkpoint_text(0) IS NULL', 'sizes'), 't|t', '... that could be told');
is(sqlstate($node, "SELECT idempotency.$_", db => 'sizes'), 'ID400', "... nor proved: $_")
  foreach ('inclusion_proof(0, 0)', 'inclusion_proof(0)', 'consistency_proof(0, 0)', 'consistency_proof(0)', 'leaf_data(0)');
is(sql(q{SELECT count(*) FROM idempotency.explain('bulk', '1')}, 'sizes'), '0', '... nor explained');

# a story of its own, over all of it
my $fence;
my @story;
sub tell
{
	my ($what, $sql) = @_;

	push @story, $what;
	return sql($sql, 'sizes');
}

sql(q{SELECT idempotency.bump_incarnation('for one entry')}, 'sizes');
foreach my $step (
	[ 1, 'none, 1' ], [ 255, 'none, 254' ], [ 256, '1, 0' ], [ 257, '1, 1' ], [ 512, '2, 0' ], [ 600, '2, 88' ],
	[ 65535, '255, 255' ], [ 65536, '256 1, 0' ], [ 65537, '256 1, 1' ])
{
	my ($n, $tiles_then) = @$step;

	if ($n == 600)
	{
		$fence = tell('claimed', q{SELECT fence FROM idempotency.claim('story', 'k', lease => '1 h')});
		tell('retry', "SELECT outcome FROM idempotency.fail('story', 'k', 'no', fence => $fence, retry_after_ms => 0)");
	}
	$fence = tell('takeover', q{SELECT fence FROM idempotency.claim('story', 'k', lease => '1 h')}) if $n == 65535;
	tell('checkpoint', "SELECT idempotency.checkpoint('story', 'k', $fence, 'half')") if $n == 65536;
	tell('finished', "SELECT idempotency.finish('story', 'k', 'done', fence => $fence)") if $n == 65537;
	grow($n);
	cmp_ok(seal('sizes'), '>', 0, "size $n: sealed");
	is(sql('SELECT size FROM idempotency.ledger_status', 'sizes'), $n, '... all of it');
	is(tiles_are(), $tiles_then, '... with these tiles, and hashes');
	nothing_is_written('... once') if $n == 256;
}
my $ledger = ledger_is_right($node, 'sizes: tiles, roots and checkpoints are as computed here', db => 'sizes');
my $tree = $ledger->{tree};

#----------------------------------------------------------------------
# proofs
#----------------------------------------------------------------------
{
	my $size = $ledger->{size};
	my @edges = (0, 1, 2, 254 .. 257, 511 .. 513, 65279, 65280, 65534 .. 65536);
	my @pairs = map { my $i = $_; map { [ $i, $_ ] } grep { $_ > $i } map { $_ + 1 } @edges } @edges;
	my $wrong = '';
	my $hex = sub { q{'\x} . unpack('H*', $_[0]) . q{'::bytea} };

	push @pairs, map { my $n = 1 + int(rand($size)); [ int(rand($n)), $n ] } 1 .. 150;
	my @rows = map { [ split /\|/, $_, -1 ] } split /\n/, sql(
		'SELECT string_agg(encode(h, $$hex$$), $$ $$ ORDER BY o), bool_and(ok), max(mutated) FROM (VALUES '
		  . join(', ', map {
				"($_, $pairs[$_][0]\::bigint, $pairs[$_][1]\::bigint, "
				  . $hex->($ledger->{leaves}[ $pairs[$_][0] ]) . ', ' . $hex->(tree_root($tree, $pairs[$_][1])) . ')'
			} 0 .. $#pairs)
		  . q{) AS v (nth, i, n, leaf, root),
		LATERAL (SELECT idempotency.inclusion_proof(i, n) AS p OFFSET 0) AS p,
		LATERAL (SELECT idempotency.verify_inclusion(i, n, leaf, p, root) AS ok,
			idempotency.verify_inclusion(i, n, leaf, p || root, root)::int
			+ (n > 1 AND idempotency.verify_inclusion(i, n, leaf, p[2:], root))::int
			+ (n > 1 AND idempotency.verify_inclusion(CASE WHEN i > 0 THEN i - 1 ELSE 1 END, n, leaf, p, root))::int
			+ idempotency.verify_inclusion(i, n, root, p, leaf)::int * (n > 1)::int
			+ idempotency.verify_inclusion(i, n, set_byte(leaf, 7, 255 - get_byte(leaf, 7)), p, root)::int
			+ (SELECT count(*) FROM generate_series(1, cardinality(p)) AS x WHERE idempotency.verify_inclusion(i, n, leaf,
				p[:x - 1] || set_bit(p[x], i % 256, 1 - get_bit(p[x], i % 256)) || p[x + 1:], root)) AS mutated) AS v1
		LEFT JOIN LATERAL unnest(p) WITH ORDINALITY AS u (h, o) ON true GROUP BY nth ORDER BY nth}, 'sizes');
	foreach my $n (0 .. $#pairs)
	{
		my ($i, $of) = @{ $pairs[$n] };
		my $path = join ' ', map { unpack('H*', $_) } inclusion_path($tree, $i, $of);

		$wrong .= " $i in $of" if "@{ $rows[$n] }" ne "$path t 0";
	}
	is($wrong, '', 'inclusion: ' . @pairs . ' proofs are those of the RFC, verify, and do not if anything is changed');

	# between sizes of which there are no checkpoints as well
	@pairs = map { [ $_->[0] + 1, $_->[1] ] } @pairs;
	$wrong = '';
	@rows = map { [ split /\|/, $_, -1 ] } split /\n/, sql(
		'SELECT string_agg(encode(h, $$hex$$), $$ $$ ORDER BY o), bool_and(ok), max(mutated) FROM (VALUES '
		  . join(', ', map {
				"($_, $pairs[$_][0]\::bigint, $pairs[$_][1]\::bigint, "
				  . $hex->(tree_root($tree, $pairs[$_][0])) . ', ' . $hex->(tree_root($tree, $pairs[$_][1])) . ')'
			} 0 .. $#pairs)
		  . q{) AS v (nth, m, n, root1, root2),
		LATERAL (SELECT idempotency.consistency_proof(m, n) AS p OFFSET 0) AS p,
		LATERAL (SELECT idempotency.verify_consistency(m, n, root1, root2, p) AS ok,
			idempotency.verify_consistency(m, n, root1, root2, p || root1)::int
			+ (m < n AND idempotency.verify_consistency(m, n, root1, root2, p[2:]))::int
			+ (m < n AND idempotency.verify_consistency(m, n, root2, root1, p))::int
			+ idempotency.verify_consistency(m, n, set_byte(root1, 7, 255 - get_byte(root1, 7)), root2, p)::int
			+ (SELECT count(*) FROM generate_series(1, cardinality(p)) AS x WHERE idempotency.verify_consistency(m, n, root1, root2,
				p[:x - 1] || set_bit(p[x], m % 256, 1 - get_bit(p[x], m % 256)) || p[x + 1:])) AS mutated) AS v1
		LEFT JOIN LATERAL unnest(p) WITH ORDINALITY AS u (h, o) ON true GROUP BY nth ORDER BY nth}, 'sizes');
	foreach my $n (0 .. $#pairs)
	{
		my ($m, $of) = @{ $pairs[$n] };
		my $path = join ' ', map { unpack('H*', $_) } consistency_path($tree, $m, $of);

		$wrong .= " $m, $of" if "@{ $rows[$n] }" ne "$path t 0";
	}
	is($wrong, '', 'consistency: ' . @pairs . ' likewise');
	is(sqlstate($node, "SELECT idempotency.$_", db => 'sizes'), 'ID400', "refused: $_")
	  foreach ("inclusion_proof($size, $size)", 'inclusion_proof(-1)', "inclusion_proof(0, $size + 1)", 'inclusion_proof(NULL)',
		'consistency_proof(0)', 'consistency_proof(2, 1)', "consistency_proof(1, $size + 1)", "leaf_data($size)", 'leaf_data(NULL)');
}

#----------------------------------------------------------------------
# explain(): one key among many tiles
#----------------------------------------------------------------------
tell('forgotten', q{SELECT idempotency.forget('story', 'k', 'once more')});
grow(100000);
tell('executed', q{SELECT idempotency.once('story', 'k')});
grow($tiles * 256 + 100);
tell('erased', q{SELECT idempotency.erase('story', 'k', 'asked for')});
seal('sizes');
tell('forgotten', q{SELECT idempotency.forget('story', 'k', 'not sealed')});
is( sql(q{SELECT string_agg(x.decision || ' ' || x.event_no || ' ' || x.sealed || ' ' || (x.seq = e.seq AND x.event_no = e.event_no)
				|| ' ' || coalesce((SELECT count(*) = x.leaf_index FROM idempotency.ledger_entry AS f WHERE f.seq < x.seq)::text, 'none'), ', ' ORDER BY n)
			FROM idempotency.explain('story', 'k') WITH ORDINALITY AS x (event_no, decided_at, decision, summary, attempt, fence,
				claimed_at, role, session_role, application, trace_id, request_digest, response_digest, detail, incarnation, seq, leaf_index, sealed, n)
			LEFT JOIN (SELECT seq, event_no, row_number() OVER (ORDER BY seq) AS n FROM idempotency.ledger_entry WHERE scope = 'story') AS e USING (n)}, 'sizes'),
	join(', ', map { my $no = $_ < 6 ? $_ + 1 : $_ - 5; "$story[$_] $no " . ($_ < $#story ? 'true true true' : 'false true none') } 0 .. $#story),
	'explain: a story over all tiles, in order, with its leaves');
is( sql(q{SELECT count(*), count(*) FILTER (WHERE x.seq = e.seq AND x.leaf_index = t.index * 256 + t.index * 7 % 256) FROM idempotency.ledger_tile AS t
			JOIN idempotency.ledger_entry AS e ON e.seq = ('x' || encode(substr(t.seqs, 1 + 8 * (t.index * 7 % 256)::int, 8), 'hex'))::bit(64)::bigint
			LEFT JOIN LATERAL idempotency.explain(e.scope, e.key) AS x ON true
			WHERE t.level = 0 AND e.scope = 'bulk'}, 'sizes'),
	sql(q{SELECT count(*), count(*) FROM idempotency.ledger_tile AS t
			JOIN idempotency.ledger_entry AS e ON e.seq = ('x' || encode(substr(t.seqs, 1 + 8 * (t.index * 7 % 256)::int, 8), 'hex'))::bit(64)::bigint
			WHERE t.level = 0 AND e.scope = 'bulk'}, 'sizes'),
	'explain: one key of each tile is found');
cmp_ok(sql('SELECT count(*) FROM idempotency.ledger_tile WHERE level = 0', 'sizes'), '>=', $tiles, "... of $tiles");
is(sql(q{SELECT count(*) FROM generate_series(1, 300) AS i, LATERAL idempotency.explain('bulk', 'no ' || i)}, 'sizes'),
	'0', 'explain: what never was is nowhere');
$node->stop;

fail_sealing() if have_test_library();

#----------------------------------------------------------------------
# what the worker writes
#----------------------------------------------------------------------
$node = new_node('worker', conf => q{
	shared_preload_libraries = 'idempotency'
	fsync = off
	autovacuum = off
	restart_after_crash = on
	idempotency.naptime = '100ms'
	idempotency.note_buffer = '64kB'
});
sql('CREATE EXTENSION idempotency');

# The entries of a scope, each as the given columns.
sub entries_are
{
	my ($scope, $columns, $expected, $name) = @_;
	my $query = "SELECT coalesce(string_agg(concat_ws(' ', $columns), ', ' ORDER BY seq), '')
		FROM idempotency.ledger WHERE scope = '$scope' AND sealed";

	$node->poll_query_until('postgres', $query, $expected);
	is(sql($query), $expected, $name);
	return;
}

sql(q{SELECT idempotency.configure('watched', audit => 'everything', breaker_failures => 2);
	SELECT idempotency.configure('silent', audit => 'off')});
sql(qq{SET application_name = 'a client'; SET idempotency.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
	SELECT idempotency.finish('$_', 'k', 'done') FROM idempotency.claim('$_', 'k', '{"n": 1}');
	SELECT count(c) FROM generate_series(1, 3) AS i, LATERAL idempotency.claim('$_', 'k', '{"n": ' || i / i || '}') AS c;
	BEGIN; SELECT idempotency.claim('$_', 'gone'); ROLLBACK;
	BEGIN; SELECT idempotency.claim('$_', 'k', '{"n": 2}'); ROLLBACK;
	SELECT idempotency.claim('$_', 'k', '{"n": 3}');
	SELECT idempotency.fail('$_', 'f' || i, 'no', retryable => false) FROM generate_series(1, 2) AS i, LATERAL idempotency.claim('$_', 'f' || i)})
  foreach ('watched', 'plain', 'silent');
# notes come later than what was written meanwhile
my $kinds = q{SELECT string_agg(concat_ws(' ', n, decision, key, event_no, attempt), ', ' ORDER BY decision, key, event_no) FROM (
	SELECT decision, key, event_no, attempt, count(*) AS n FROM idempotency.ledger
	WHERE scope = 'SCOPE' AND sealed AND decision <> 'configured' GROUP BY 1, 2, 3, 4) AS e};
my %expected = (
	watched => '1 aborted gone 1, 1 breaker, 1 executed k 1 1, 1 failed f1 1 1, 1 failed f2 1 1, 2 mismatch k 1 1, 3 replayed k 1 1',
	plain => '1 aborted gone 1, 1 executed k 1 1, 1 failed f1 1 1, 1 failed f2 1 1, 2 mismatch k 1 1',
	silent => '');
foreach my $scope (sort keys %expected)
{
	my $query = $kinds =~ s/SCOPE/$scope/r;

	$node->poll_query_until('postgres', $query, $expected{$scope});
	is(sql($query), $expected{$scope}, "$scope: what was decided is recorded, and what left no other trace");
}
is( sql(q{SELECT count(*), count(DISTINCT seq) FROM idempotency.ledger WHERE scope = 'watched' AND key IS NOT NULL
		AND application = 'a client' AND role = current_user AND session_role = session_user
		AND trace_id = '\x4bf92f3577b34da6a3ce929d0e0e4736'}),
	'9|9', '... with who did it');
is(sql(q{SELECT detail::json->>'to' FROM idempotency.ledger WHERE decision = 'breaker'}), 'open', '... and what became of the breaker');
is( sql(q{SELECT bool_and(claimed_at <= decided_at AND decided_at <= now()), count(*) FROM idempotency.ledger WHERE decision = 'aborted'}),
	't|2', '... and when');
is( sql(q{SELECT string_agg(decision, ' ' ORDER BY seq) FROM idempotency.explain('watched', 'gone')}), 'aborted', '... explain() shows it');
entries_are('silent', 'decision', 'configured', 'a policy is recorded, whatever it says');

# more notes than there is room for
sub change
{
	my ($name, $value) = @_;

	sql("ALTER SYSTEM SET $name = '$value'");
	$node->reload;
	return;
}

change('idempotency.naptime', '1h');
sleep(0.3);
sql(q{SELECT count(c) FROM generate_series(1, 1500) AS i, LATERAL idempotency.claim('watched', 'k', '{"n": ' || i / i || '}') AS c});
my $dropped = sql('SELECT idempotency.notes_dropped()');
cmp_ok($dropped, '>', 0, "$dropped of 1500 notes are dropped");
cmp_ok($dropped, '<', 1500, '... not all');
change('idempotency.naptime', '100ms');
my $lost = q{SELECT string_agg((detail::json->>'notes'), ' ') FROM idempotency.ledger WHERE decision = 'lost' AND sealed};
$node->poll_query_until('postgres', $lost, $dropped);
is(sql($lost), $dropped, '... which an entry says');
is(sql(q{SELECT count(*) FROM idempotency.ledger WHERE decision = 'replayed'}), 1503 - $dropped, '... and the others are there');
sql('SELECT pg_terminate_backend(pid) FROM idempotency.workers');
sql('SELECT count(*) FROM idempotency.maintain()') foreach 1 .. 2;
sql(q{SELECT idempotency.once('plain', 'after the worker')});
entries_are('plain', q{decision}, sql(q{SELECT string_agg(decision, ', ' ORDER BY seq) FROM idempotency.ledger WHERE scope = 'plain'}),
	'another worker');
is(sql($lost), $dropped, '... says it no more');
ledger_is_right($node, 'the worker: the ledger is right');

#----------------------------------------------------------------------
# exported checkpoints
#----------------------------------------------------------------------
my $export = "$dir/export";
my $oid = sql('SELECT oid FROM pg_database WHERE datname = current_database()');

sub export_file { return sprintf('%s/%s-%020d.checkpoint', $export, $oid, $_[0]); }

# The largest exported size, 0 if there is none.
sub exported
{
	my @sizes = sort { $a <=> $b } map { /-0*(\d+)\.checkpoint$/ ? $1 : () } glob("$export/*");

	return $sizes[-1] // 0;
}

# Wait until the latest checkpoint is exported.
sub is_exported
{
	my $begin = time();

	is_sealed($node) or return 0;
	while (time() - $begin < 30)
	{
		return 1 if exported() == sql('SELECT size FROM idempotency.ledger_status');
		sleep(0.05);
	}
	return 0;
}

# Every file is whole, and says what the database says.
sub exports_are_right
{
	my ($name, $but) = @_;
	my $wrong = '';
	my %text = map { my ($size, $text) = split /\|/; ($size => pack('H*', $text)) } split /\n/,
	  sql(q{SELECT size, encode(convert_to(idempotency.checkpoint_text(size), 'UTF8'), 'hex') FROM idempotency.ledger_checkpoint});

	foreach my $file (grep { $_ ne ($but // '') } glob("$export/*.checkpoint"))
	{
		my ($size) = $file =~ /-0*(\d+)\.checkpoint$/;

		$wrong .= " $size" if slurp_file($file) ne ($text{$size} // '');
	}
	is($wrong, '', "$name: every file has the checkpoint of its size");
	return;
}

# How often does the log have it, from this offset on?
sub logged
{
	my ($pattern, $from) = @_;

	return scalar(() = substr(slurp_file($node->logfile), $from) =~ /$pattern/g);
}

# Wait until it does.
sub is_logged
{
	my ($pattern, $from) = @_;

	foreach (1 .. 600)
	{
		return 1 if logged($pattern, $from);
		sleep(0.05);
	}
	return 0;
}

my $n = 0;
my $without_fault = '';
sub decide { return sql("$without_fault SELECT idempotency.once('plain', 'decided-" . $n++ . q{')}); }

mkdir $export or die "could not make $export: $!";
change('idempotency.export_interval', '0');
change('idempotency.export_directory', $export);
ok(is_exported(), 'export: the latest checkpoint is there');
decide(), is_exported() foreach 1 .. 3;
cmp_ok(scalar(() = glob("$export/*.checkpoint")), '>=', 4, '... and those before, since there is a directory');
is(scalar(() = glob("$export/*.tmp")), 0, '... and nothing else');
exports_are_right('export');
is((stat export_file(exported()))[2] & 0022, 0, '... that others cannot change');

my $offset = -s $node->logfile;
SKIP:
{
	skip 'root may write everywhere', 4 if $> == 0;
	chmod 0500, $export;
	decide();
	ok(is_logged('could not create file', $offset), 'export: a directory that cannot be written');
	ok(is_sealed($node), '... sealing goes on');
	chmod 0700, $export;
	ok(is_exported(), '... and exporting, once it can');
	is(logged('could not create file', $offset), 1, '... the log has it once');
}
rename $export, "$export.away";
decide();
ok(is_logged('could not create file .*: No such file', $offset), 'export: a directory that is not there');
rename "$export.away", $export;
ok(is_exported(), '... until it is');

# what somebody else has told of a tree of this size
{
	my $size = sql('SELECT size FROM idempotency.ledger_status') + 1;
	my $other = sql(q{SELECT origin FROM idempotency.ledger_status}) . "\n$size\n" . 'A' x 43 . "=\n";

	$offset = -s $node->logfile;
	append_to_file(export_file($size), $other);
	decide();
	ok(is_logged('has another checkpoint of the same size', $offset), 'export: a file of another history is an error');
	is(slurp_file(export_file($size)), $other, '... and left alone');
	is(sql(q{SELECT state FROM idempotency.workers}), 'failing', '... which the worker says');
	decide();
	ok(is_exported(), '... later ones are exported');
	exports_are_right('... beside it', export_file($size));
	unlink export_file($size);
}
# what another exporter of the same tree has written
{
	change('idempotency.export_directory', '');
	sleep(0.3);
	decide();
	is_sealed($node);
	my $size = sql('SELECT size FROM idempotency.ledger_status');
	append_to_file(export_file($size), sql('SELECT idempotency.checkpoint_text()'));
	my $inode = (stat export_file($size))[1];
	$offset = -s $node->logfile;
	change('idempotency.export_directory', $export);
	sleep(0.5);
	is((stat export_file($size))[1], $inode, 'export: a file that is there already is left alone');
	is(logged('ERROR', $offset), 0, '... which is no error');
	decide();
	ok(is_exported(), '... and the next one is written');
}

fail_worker() if have_test_library();
$node->stop;
lose_commits();
done_testing();

#----------------------------------------------------------------------
# every fault point of sealing by maintain(), and each way to fail there
#----------------------------------------------------------------------
sub fail_sealing
{
	my (@seen, @leaves, $session);

	$node = new_node('faults', conf => "restart_after_crash = on\nfsync = off\nautovacuum = off\n");
	sql(q{
		CREATE EXTENSION idempotency;
		CREATE TABLE bulk (id int);
		CREATE TRIGGER dedup BEFORE INSERT ON bulk FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('bulk', 'id');
		CREATE SEQUENCE bulk_id});
	use_test_library($node);
	my $server = start_clients($node, 0);
	foreach my $point ('ledger.after_append', 'seal.after_read', 'seal.after_tiles', 'seal.before_state', 'seal.after_commit')
	{
		foreach my $how ('error', 'crash')
		{
			my $key = "k-$point-$how";
			my $step = $point =~ /^ledger/
			  ? "SELECT idempotency.once('s', '$key')" : 'SELECT count(*) FROM idempotency.maintain()';
			my $stored = q{SELECT (SELECT count(*) FROM idempotency.ledger_entry),
				(SELECT max(size) FROM idempotency.ledger_checkpoint),
				(SELECT md5(string_agg(t::text, ' ' ORDER BY level, index)) FROM idempotency.ledger_tile AS t)};

			sql(q{INSERT INTO bulk SELECT nextval('bulk_id') FROM generate_series(1, 300)});
			my $before = sql($stored);
			my ($state) = call($server, \$session, "SET idempotency.fault = '$point:$how'; $step;");
			hang_up(\$session) if $session;
			is($state, $how eq 'error' ? 'XX000' : 'lost', "$point, $how");
			try_start($node) if $how eq 'crash';
			is(sql($stored), $before, '... no entry, tile or checkpoint came or went');
			is(sql("SELECT count(*) FROM idempotency.keys WHERE key = '$key'"), '0', '... nor a key');
			cmp_ok(seal(), '>=', 300, '... and everything is sealed then');
			ledger_is_right($node, '... the ledger is right, and goes on', seen => \@seen, leaves => \@leaves);
		}
	}
	$node->stop;
	return;
}

#----------------------------------------------------------------------
# the worker fails at its fault points
#----------------------------------------------------------------------
sub fail_worker
{
	my (@seen, @leaves);

	$without_fault = q{SET idempotency.fault = '';};
	use_test_library($node);
	$node->append_conf('postgresql.conf',
		q{dynamic_library_path = '} . dirname(have_test_library()) . q{:$libdir'});
	$node->restart;
	foreach my $case (
		[ 'ledger.after_append', 'error' ], [ 'seal.after_tiles', 'error' ], [ 'export.before_rename', 'error' ],
		[ 'ledger.after_append', 'kill' ], [ 'seal.before_state', 'kill' ], [ 'seal.after_commit', 'kill' ],
		[ 'export.after_file_write', 'kill' ], [ 'export.before_rename', 'kill' ])
	{
		my ($point, $how) = @$case;
		my $size = sql('SELECT size FROM idempotency.ledger_status');

		is_exported();
		$offset = -s $node->logfile;
		change('idempotency.fault', "$point:$how");
		# something for it to note, to seal and to export
		sql("$without_fault BEGIN; SELECT idempotency.claim('plain', 'aborted-$point-$how'); ROLLBACK");
		eval { decide() } while !logged($how eq 'kill' ? 'worker" \(PID \d+\) was terminated by signal 9' : "fault at $point", $offset);
		unlink $node->data_dir . '/postgresql.auto.conf';
		$node->append_conf('postgresql.auto.conf', "idempotency.export_directory = '$export'\nidempotency.export_interval = 0\n");
		$node->reload;
		$node->poll_query_until('postgres', 'SELECT true') or die 'the server did not come back';
		decide();
		ok(is_sealed($node), "$point, $how of the worker: sealing goes on");
		ok(is_exported(), '... and exporting');
		ledger_is_right($node, '... the ledger is right, and goes on', seen => \@seen, leaves => \@leaves);
		exports_are_right('...');
	}

	# another exporter comes in between
	my $holder = session($node);
	my ($other, $temporary) = ('x' x 200);
	is_exported();
	$holder->query_safe('SELECT pg_advisory_lock(7001)');
	change('idempotency.fault', 'export.before_rename:block');
	my $size = sql('SELECT size FROM idempotency.ledger_status') + 1;
	decide();
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted})
	  or die 'the worker does not stop there';
	append_to_file(export_file($size), $other);
	$offset = -s $node->logfile;
	change('idempotency.fault', '');
	$holder->query_safe('SELECT pg_advisory_unlock(7001)');
	$holder->quit;
	ok(is_logged('has another checkpoint of the same size', $offset), 'export: a file that comes in between is an error');
	is(slurp_file(export_file($size)), $other, '... and left alone');
	unlink export_file($size);
	decide();
	ok(is_exported(), '... and later ones are exported');
	exports_are_right('... beside it');
	return;
}

#----------------------------------------------------------------------
# no checkpoint that anybody has read covers an entry that a crash loses
#----------------------------------------------------------------------
sub lose_commits
{
	my ($lost, @seen, @leaves, @acknowledged) = (0);

	$node = new_node('async', conf => q{
		shared_preload_libraries = 'idempotency'
		synchronous_commit = off
		wal_writer_delay = 10s
		wal_writer_flush_after = 0
		bgwriter_lru_maxpages = 0
		autovacuum = off
		idempotency.naptime = '500ms'
	});
	sql('CREATE EXTENSION idempotency');
	foreach my $round (1 .. $kills)
	{
		my $clients = start_clients($node, 4, work => sub {
			my ($clients, $number, $file) = @_;
			my $session;

			$file->autoflush(1);
			for (my $i = 0; !-e "$clients->{dir}/stop"; $i++)
			{
				my $key = "key-$round-$number-$i";
				my ($state, $answer) = call($clients, \$session, $number == 0
					? q{SELECT encode(convert_to(idempotency.checkpoint_text(), 'UTF8'), 'hex'); SELECT pg_sleep(0.01);}
					: "SELECT idempotency.once('s', '$key');");

				last if $state ne '';
				print $file $number > 0 ? "key $key\n" : $answer =~ /^([0-9a-f]+)/ ? "seen $1\n" : '';
			}
			return;
		});

		sleep(1.1 + rand(0.5));
		$node->kill9;
		stop_clients($clients);
		try_start($node);
		my @lines = read_lines($clients);
		my %there = map { $_ => 1 } split /\n/, sql('SELECT key FROM idempotency.ledger_entry WHERE key IS NOT NULL');
		my %seen = map { pack('H*', $_->[1]) => 1 } grep { $_->[0] eq 'seen' } @lines;
		push @seen, keys %seen;
		cmp_ok(scalar keys %seen, '>=', 1, "committed asynchronously, crash $round: checkpoints were read");
		$lost += grep { $_->[0] eq 'key' && !$there{ $_->[1] } } @lines;
		ledger_is_right($node, '... which cover nothing that was lost', seen => \@seen, leaves => \@leaves);
	}
	cmp_ok($lost, '>', 0, "control: $lost acknowledged entries were lost");
	$node->stop;
	return;
}
