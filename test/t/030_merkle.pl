# The Merkle tree: vectors of others, and every small tree against a reference.
#
# The reference is RFC 6962's definitions, written down as they stand there, with
# Perl's Digest::SHA; it has the vectors' roots before anything is compared with
# it.  The library is asked through SQL.  Roots and proofs have no function there
# that works without tables: merkle_test() is in the library for tests only.
#
# What a proof is refused for is counted, so that a test of nothing fails.

use strict;
use warnings;

use Digest::SHA qw(sha256 sha256_hex);
use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use JSON::PP qw(decode_json);
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'no library with test functions (make testlib)'
  unless have_test_library();

use constant SIZES    => 300;
use constant MAX_SIZE => 9223372036854775807;

my $vectors = decode_json(slurp_file("$FindBin::RealBin/../vectors/rfc6962.json"));
my $golden = decode_json(slurp_file("$FindBin::RealBin/../vectors/c2sp_checkpoints.json"));
my $node = new_node('merkle', conf => "fsync = off\njit = off\n");
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', 'CREATE EXTENSION idempotency');
use_test_library($node);
$node->safe_psql('postgres', sprintf(q{
	CREATE FUNCTION merkle_test(what text, a bigint, b bigint, data bytea, hashes bytea[])
	RETURNS bytea[] LANGUAGE c IMMUTABLE PARALLEL SAFE AS '%s', 'idempotency_merkle_test';
	-- a proof without its i-th element, and with another in its place
	CREATE FUNCTION dropped(proof bytea[], i int) RETURNS bytea[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
		$$ SELECT proof[:i - 1] || proof[i + 1:] $$;
	CREATE FUNCTION replaced(proof bytea[], i int, element bytea) RETURNS bytea[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
		$$ SELECT proof[:i - 1] || element || proof[i + 1:] $$;
	CREATE FUNCTION swapped(proof bytea[], i int, j int) RETURNS bytea[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
		$$ SELECT proof[:i - 1] || proof[j] || proof[i + 1:j - 1] || proof[i] || proof[j + 1:] $$;
	CREATE FUNCTION flipped(hash bytea, nth int) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
		$$ SELECT set_bit(hash, nth, 1 - get_bit(hash, nth)) $$;
}, have_test_library()));

#----------------------------------------------------------------------
# the reference: RFC 6962, 2.1.  A tree is a function from a range of leaves to
# its root, so that there can be trees whose leaves are nowhere.
#----------------------------------------------------------------------

sub leaf { return sha256("\0" . shift); }
sub node { return sha256("\1" . join('', @_)); }

# The largest power of two below n.
sub split_point
{
	my ($n) = @_;
	my $k = 1;

	$k *= 2 while $k < $n - $k;
	return $k;
}

# MTH: the root over the leaves from a up to b, of these leaf hashes.
sub tree_over
{
	my @leaves = @_;
	my (%known, $mth);

	$mth = sub {
		my ($a, $b) = @_;

		return sha256('') if $a == $b;
		return $leaves[$a] if $b - $a == 1;
		my $k = split_point($b - $a);
		return $known{"$a $b"} //= node($mth->($a, $a + $k), $mth->($a + $k, $b));
	};
	return $mth;
}

# The same of a tree whose leaves are all alike: the place doesn't matter.
sub uniform_tree
{
	my ($leaf) = @_;
	my (%known, $mth);

	$mth = sub {
		my ($a, $b) = @_;
		my $n = $b - $a;

		return $leaf if $n == 1;
		my $k = split_point($n);
		return $known{$n} //= node($mth->(0, $k), $mth->(0, $n - $k));
	};
	return $mth;
}

# PATH(m, D[a:b])
sub path
{
	my ($mth, $m, $a, $b) = @_;

	return () if $b - $a == 1;
	my $k = split_point($b - $a);
	return $m < $a + $k
	  ? (path($mth, $m, $a, $a + $k), $mth->($a + $k, $b))
	  : (path($mth, $m, $a + $k, $b), $mth->($a, $a + $k));
}

# SUBPROOF(m, D[a:b], known)
sub subproof
{
	my ($mth, $m, $a, $b, $known) = @_;

	return $known ? () : ($mth->($a, $b)) if $m == $b;
	my $k = split_point($b - $a);
	return $m <= $a + $k
	  ? (subproof($mth, $m, $a, $a + $k, $known), $mth->($a + $k, $b))
	  : (subproof($mth, $m, $a + $k, $b, 0), $mth->($a, $a + $k));
}

# On which side the hashes of a path stand, deepest first.  Two paths of one
# shape can't be told from each other without the roots.
sub path_shape
{
	my ($m, $n) = @_;

	return '' if $n == 1;
	my $k = split_point($n);
	return $m < $k ? path_shape($m, $k) . 'r' : path_shape($m - $k, $n - $k) . 'l';
}

# The same of the proof that a tree of m leaves is in one of n; it begins with
# the root that is known, or with a hash.
sub proof_shape
{
	my ($m, $n, $known) = @_;

	return $known ? 'K' : 'H' if $m == $n;
	my $k = split_point($n);
	return $m <= $k ? proof_shape($m, $k, $known) . 'r' : proof_shape($m - $k, $n - $k, 0) . 'l';
}

#----------------------------------------------------------------------
# between Perl and SQL
#----------------------------------------------------------------------

sub hex_of { return '\\x' . unpack('H*', shift); }
sub literal { return "'" . hex_of(shift) . "'::bytea"; }
sub array_of { return "'{" . join(',', map { '"\\' . hex_of($_) . '"' } @_) . "}'::bytea[]"; }

# A hash, or hashes separated by blanks, that merkle_test() returns, in hex.
sub library
{
	my ($what, $a, $b, $data, @hashes) = @_;

	return $node->safe_psql('postgres', "SELECT coalesce(string_agg(encode(h, 'hex'), ' ' ORDER BY i), '')
		FROM unnest(merkle_test('$what', $a, $b, " . literal($data) . ', ' . array_of(@hashes) . ')) WITH ORDINALITY AS t(h, i)');
}

# Fill a table from lists of columns; COPY's text format.
sub fill
{
	my ($table, $rows) = @_;

	append_to_file("$dir/$table", join('', map { join("\t", @$_) . "\n" } @$rows));
	$node->safe_psql('postgres', "COPY $table FROM '$dir/$table'");
	return;
}

# An array in it.
sub copied { return '{' . join(',', map { '"\\\\\\\\x' . unpack('H*', $_) . '"' } @_) . '}'; }

# Nothing of this is accepted, and there is something: counts, of a query's
# rows, those for which the condition is true, and all.
sub none
{
	my ($condition, $query, $what) = @_;
	my ($accepted, $all) =
	  split /\|/, $node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE ($condition) IS NOT FALSE), count(*) FROM $query");

	ok($all > 0 && $accepted == 0, "$what: none of $all") or diag("$accepted of $all");
	return;
}

#----------------------------------------------------------------------
# vectors of RFC 6962: hashes, roots
#----------------------------------------------------------------------
my @inputs = map { pack('H*', $_) } @{ $vectors->{leaf_inputs}{hex} };
my @roots = @{ $vectors->{roots}{hex} };
my @leaves = map { leaf($_) } @inputs;
my $tree = tree_over(@leaves);

foreach my $case (@{ $vectors->{hasher}{cases} })
{
	my $data = $case->{data_ascii} // pack('H*', $case->{data_hex} // '');

	if ($case->{op} eq 'empty_root')
	{
		is(library('empty', 0, 0, ''), $case->{want}, 'vector: root of no leaves');
	}
	elsif ($case->{op} eq 'leaf')
	{
		is(library('leaf', 0, 0, $data), $case->{want}, "vector: leaf \"$data\"");
	}
	else
	{
		# of four bytes each, which only the reference can hash
		is(unpack('H*', node($case->{left_ascii}, $case->{right_ascii})), $case->{want}, 'vector: node (the reference)');
	}
}
is(library('node', 0, 0, '', @leaves[ 0, 1 ]), unpack('H*', node(@leaves[ 0, 1 ])), 'a node');
is(join(' ', map { library('leaf', 0, 0, $_) } @inputs), join(' ', map { unpack('H*', $_) } @leaves), 'leaves');
foreach my $n (0 .. $#roots)
{
	is(unpack('H*', $tree->(0, $n)), $roots[$n], "vector: root of $n leaves (the reference)");
	is(library('root', $n, 0, '', @leaves), $roots[$n], "vector: root of $n leaves");
}

#----------------------------------------------------------------------
# vectors of RFC 6962: proofs
#----------------------------------------------------------------------

# 2^64 - 1 is -1 where numbers are signed.
sub signed { return unpack('q', pack('Q', shift)); }

foreach my $kind (qw(inclusion consistency))
{
	my @cases = @{ $vectors->{$kind} };
	my @calls;

	foreach my $v (@cases)
	{
		my $proof = array_of(map { pack('H*', $_) } @{ $v->{proof} });
		my %hash = map { ($_ => literal(pack('H*', $v->{$_} // ''))) } qw(leaf_hash root root1 root2);

		push @calls, $kind eq 'inclusion'
		  ? "idempotency.verify_inclusion(@{[signed($v->{leaf_index})]}, @{[signed($v->{tree_size})]}, $hash{leaf_hash}, $proof, $hash{root})"
		  : "idempotency.verify_consistency(@{[signed($v->{size1})]}, @{[signed($v->{size2})]}, $hash{root1}, $hash{root2}, $proof)";
	}
	my @got = split /\n/, $node->safe_psql('postgres', join(";\n", map { "SELECT $_" } @calls));
	is(scalar @got, scalar @cases, "vectors of $kind: all of " . @cases);
	is($got[$_], $cases[$_]{want_err} ? 'f' : 't', "vector: $cases[$_]{path}") foreach 0 .. $#cases;
}

#----------------------------------------------------------------------
# the golden log
#----------------------------------------------------------------------
my @entries = map { leaf($_) } @{ $golden->{entries_utf8} };
my %golden_root;

is(scalar @entries, 15, 'golden log: entries');
foreach my $size (sort { $a <=> $b } keys %{ $golden->{checkpoints} })
{
	my (undef, $n, $root) = split /\n/, $golden->{checkpoints}{$size};

	$golden_root{$n} = $root;
	is(encode_base64(pack('H*', library('root', $n, 0, '', @entries)), ''), $root, "golden log: root of $n");
}
my $golden_roots = join(', ', map { "($_, decode('$golden_root{$_}', 'base64'))" } grep { $_ > 0 } keys %golden_root);
my $golden_leaves = array_of(@entries);
is( $node->safe_psql('postgres', "WITH c(n, root) AS (VALUES $golden_roots)
		SELECT count(*), bool_and(idempotency.verify_consistency(c.n, d.n, c.root, d.root,
			merkle_test('consistency_proof', c.n, d.n, NULL, $golden_leaves)))
		FROM c JOIN c AS d ON c.n <= d.n"), '28|t', 'golden log: each checkpoint extends those before');
is( $node->safe_psql('postgres', "WITH c(n, root) AS (VALUES $golden_roots), l(leaves) AS (SELECT $golden_leaves)
		SELECT count(*), bool_and(idempotency.verify_inclusion(i, n, leaves[i + 1], merkle_test('inclusion_proof', i, n, NULL, leaves), root))
		FROM c, l, generate_series(0, n - 1) AS i"), '56|t', 'golden log: each entry is in each checkpoint');

#----------------------------------------------------------------------
# every tree of up to 300 leaves: roots and proofs are the reference's
#----------------------------------------------------------------------
my $seed = time();
note("seed $seed");
srand($seed);
@leaves = map { leaf("entry $_ of $seed") } 0 .. SIZES;
$tree = tree_over(@leaves);

$node->safe_psql('postgres', q{
	CREATE UNLOGGED TABLE root (n bigint PRIMARY KEY, root bytea);
	CREATE UNLOGGED TABLE leaf (i bigint PRIMARY KEY, leaf bytea);
	CREATE UNLOGGED TABLE path (m bigint, n bigint, len int, shape text COLLATE "C", proof bytea[]);
	CREATE UNLOGGED TABLE extension (m bigint, n bigint, len int, shape text COLLATE "C", proof bytea[]);
});
fill('root', [ map { [ $_, '\\' . hex_of($tree->(0, $_)) ] } 0 .. SIZES + 1 ]);
fill('leaf', [ map { [ $_, '\\' . hex_of($leaves[$_]) ] } 0 .. SIZES ]);
my (@paths, @extensions);
foreach my $n (1 .. SIZES)
{
	foreach my $m (0 .. $n)
	{
		if ($m < $n)
		{
			my @proof = path($tree, $m, 0, $n);
			push @paths, [ $m, $n, scalar @proof, path_shape($m, $n), copied(@proof) ];
		}
		if ($m > 0)
		{
			my @proof = subproof($tree, $m, 0, $n, 1);
			push @extensions, [ $m, $n, scalar @proof, proof_shape($m, $n, 1), copied(@proof) ];
		}
	}
}
fill('path', \@paths);
fill('extension', \@extensions);
$node->safe_psql('postgres', q{
	CREATE UNLOGGED TABLE leaves AS SELECT array_agg(leaf ORDER BY i) AS leaves FROM leaf;
	-- what a proof is said to prove
	CREATE VIEW inclusion AS SELECT p.*, leaf, root FROM path AS p JOIN leaf AS l ON l.i = p.m JOIN root AS r USING (n);
	CREATE VIEW consistency AS SELECT e.*, s.root AS root1, r.root AS root2
		FROM extension AS e JOIN root AS r USING (n) JOIN root AS s ON s.n = e.m;
	-- every proof of the smaller trees and around those that are full, some of the others
	CREATE FUNCTION compared(m bigint, n bigint) RETURNS bool LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
		$$ SELECT n <= 40 OR n IN (127, 128, 129, 255, 256, 257, 300) OR m % 16 = n % 16 $$;
	-- every element of the proofs of those trees, one of the others'
	CREATE FUNCTION places(m bigint, n bigint, len int) RETURNS SETOF int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
		$$ SELECT i FROM generate_series(1, len) AS i
		   WHERE n <= 40 OR n IN (127, 128, 129, 255, 256, 257, 300) OR i = 1 + (m * 7 + n * 13) % len $$;
	ANALYZE;
});
none('merkle_test(\'root\', n, 0, NULL, leaves) <> ARRAY[root]', 'root, leaves', 'another root');
none('merkle_test(\'subtree\', 0, 0, NULL, leaves[:n]) <> ARRAY[root]', 'root, leaves WHERE n > 0', 'another root over nodes of one height');
none('merkle_test(\'inclusion_proof\', m, n, NULL, leaves) <> proof', 'path, leaves WHERE compared(m, n)', 'another inclusion proof');
none('merkle_test(\'consistency_proof\', m, n, NULL, leaves) <> proof', 'extension, leaves WHERE compared(m, n)', 'another consistency proof');
none('NOT idempotency.verify_inclusion(m, n, leaf, proof, root)', 'inclusion', 'inclusion refused');
none('NOT idempotency.verify_consistency(m, n, root1, root2, proof)', 'consistency', 'consistency refused');

#----------------------------------------------------------------------
# every proof, with something wrong in it
#----------------------------------------------------------------------
my $bit = '((m * 31 + n * 17 + i * 101) % 256)::int';

foreach my $case (
	[ 'inclusion', 'idempotency.verify_inclusion(m, n, leaf, %s, root)' ],
	[ 'consistency', 'idempotency.verify_consistency(m, n, root1, root2, %s)' ])
{
	my ($kind, $call) = @$case;
	my $verify = sub { return sprintf($call, shift); };

	none($verify->("replaced(proof, i, flipped(proof[i], $bit))"), "$kind, places(m, n, len) AS i", "$kind: a bit of an element");
	none($verify->('swapped(proof, i, i + 1)'), "$kind, places(m, n, len) AS i WHERE i < len", "$kind: neighbours swapped");
	none($verify->('swapped(proof, 1, len)'), "$kind WHERE len > 2", "$kind: ends swapped");
	none($verify->('dropped(proof, i)'), "$kind, places(m, n, len) AS i", "$kind: an element dropped");
	none($verify->('proof[:i] || proof[i:]'), "$kind, places(m, n, len) AS i", "$kind: an element twice");
	none($verify->('proof || leaves[1]'), "$kind, leaves", "$kind: a leaf at the end");
	none($verify->('leaves[1] || proof'), "$kind, leaves", "$kind: a leaf in front");
	none($verify->("'{}'"), "$kind WHERE len > 0", "$kind: nothing");
}
none("idempotency.verify_inclusion(m, n, flipped(leaf, $bit), proof, root)", 'inclusion, generate_series(1, 1) AS i', 'inclusion: a bit of the leaf');
none("idempotency.verify_inclusion(m, n, leaf, proof, flipped(root, $bit))", 'inclusion, generate_series(1, 1) AS i', 'inclusion: a bit of the root');
none("idempotency.verify_consistency(m, n, flipped(root1, $bit), root2, proof)", 'consistency, generate_series(1, 1) AS i', 'consistency: a bit of the first root');
none("idempotency.verify_consistency(m, n, root1, flipped(root2, $bit), proof)", 'consistency, generate_series(1, 1) AS i', 'consistency: a bit of the second root');
# every bit of some
none('idempotency.verify_inclusion(m, n, leaf, replaced(proof, i, flipped(proof[i], nth)), root)',
	'inclusion, generate_series(1, len) AS i, generate_series(0, 255) AS nth WHERE (m, n) IN ((6, 7), (255, 257), (123, 300))', 'inclusion: any bit');
none('idempotency.verify_consistency(m, n, root1, root2, replaced(proof, i, flipped(proof[i], nth)))',
	'consistency, generate_series(1, len) AS i, generate_series(0, 255) AS nth WHERE (m, n) IN ((6, 7), (128, 257), (123, 300))', 'consistency: any bit');

#----------------------------------------------------------------------
# every proof, for its neighbours.  With their own roots none is accepted; with
# the proof's, those are whose paths have the proof's shape, and no others.
#----------------------------------------------------------------------
my $around = '(VALUES (-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)) AS d(m, n)';

none('idempotency.verify_inclusion(i.m + d.m, i.n, leaf, proof, root)', "inclusion AS i, $around WHERE d.n = 0", 'inclusion: another index');
none('idempotency.verify_inclusion(i.m, i.n, l.leaf, proof, root)', "inclusion AS i, $around, leaf AS l WHERE d.n = 0 AND l.i = i.m + d.m", 'inclusion: another leaf');
none('idempotency.verify_inclusion(i.m + d.m, i.n + d.n, leaf, proof, r.root)', "inclusion AS i, $around, root AS r WHERE d.n <> 0 AND r.n = i.n + d.n", 'inclusion: another size and its root');
none('idempotency.verify_inclusion(i.m + d.m, i.n + d.n, leaf, i.proof, root) <> (o.shape IS NOT NULL AND o.shape = i.shape)',
	"inclusion AS i CROSS JOIN $around LEFT JOIN path AS o ON o.m = i.m + d.m AND o.n = i.n + d.n WHERE i.n + d.n <= 300", 'inclusion: another place, answered otherwise than its shape says');
none('idempotency.verify_consistency(i.m + d.m, i.n + d.n, r.root, s.root, proof)',
	"consistency AS i, $around, root AS r, root AS s WHERE r.n = i.m + d.m AND s.n = i.n + d.n AND r.n <> s.n AND i.m <> i.n", 'consistency: other sizes and their roots');
none('idempotency.verify_consistency(i.m + d.m, i.n, r.root, root2, proof)', "consistency AS i, $around, root AS r WHERE d.n = 0 AND r.n = i.m + d.m AND r.n <> i.n", 'consistency: another first size and its root');
none('idempotency.verify_consistency(i.m + d.m, i.n + d.n, root1, root2, i.proof) <> (o.shape IS NOT NULL AND o.shape = i.shape)',
	"consistency AS i CROSS JOIN $around LEFT JOIN extension AS o ON o.m = i.m + d.m AND o.n = i.n + d.n WHERE i.n + d.n <= 300", 'consistency: other sizes, answered otherwise than their shape says');
none('idempotency.verify_consistency(0, n, root1, root2, proof) OR idempotency.verify_consistency(n, m, root2, root1, proof) AND m <> n', 'consistency', 'consistency: from nothing, or backwards');

#----------------------------------------------------------------------
# trees as large as there can be
#----------------------------------------------------------------------
my $one = leaf('all alike');
my $uniform = uniform_tree($one);
my (@large, %longest);

# A number below n, of 62 bits; rand() has fewer.
sub any_below { return ((int(rand(1 << 31)) << 31) | int(rand(1 << 31))) % shift; }

foreach my $n ((map { my $p = 1 << $_; ($p - 1, $p, $p + 1) } 8 .. 62), MAX_SIZE, MAX_SIZE - 1, map { 1000 + any_below(1 << 62) } 1 .. 20)
{
	my %m = map { ($_ => 1) } 0, 1, 2, 3, $n >> 1, ($n >> 1) + 1, $n - 2, $n - 1, $n, any_below($n), 1 + any_below(200);

	foreach my $m (map { int } keys %m)
	{
		my %proof = (
			inclusion => $m < $n ? [ path($uniform, $m, 0, $n) ] : undef,
			consistency => $m > 0 ? [ subproof($uniform, $m, 0, $n, 1) ] : undef);

		foreach my $kind (grep { $proof{$_} } keys %proof)
		{
			my $len = @{ $proof{$kind} };

			$longest{$kind} = $len if $len > ($longest{$kind} // 0);
			push @large, [ $kind, $m, $n, '\\' . hex_of($uniform->(0, $m || 1)), '\\' . hex_of($uniform->(0, $n)), copied(@{ $proof{$kind} }) ];
		}
	}
}
is($longest{inclusion}, 63, 'the longest inclusion proof');
is($longest{consistency}, 64, 'the longest consistency proof');
$node->safe_psql('postgres', 'CREATE UNLOGGED TABLE large (kind text, m bigint, n bigint, root1 bytea, root bytea, proof bytea[])');
fill('large', \@large);
$one = literal($one);
none("merkle_test('root', n, 0, NULL, ARRAY[$one]) <> ARRAY[root]", 'large WHERE m = 1', 'large trees: another root');
none("merkle_test(kind || '_proof', m, n, NULL, ARRAY[$one]) <> proof", 'large WHERE m % 2 = n % 2', 'large trees: another proof');
foreach my $case (
	[ 'inclusion', "idempotency.verify_inclusion(m, n, $one, %s, root)" ],
	[ 'consistency', 'idempotency.verify_consistency(m, n, root1, root, %s)' ])
{
	my ($kind, $call) = @$case;
	my $verify = sub { return sprintf($call, shift); };

	none('NOT ' . $verify->('proof'), "large WHERE kind = '$kind'", "large trees: $kind refused");
	none($verify->('trim_array(proof, 1)'), "large WHERE kind = '$kind' AND proof <> '{}'", "large trees: $kind without its last");
	none($verify->('proof || root'), "large WHERE kind = '$kind'", "large trees: $kind with a root more");
	none($verify->('replaced(proof, i, flipped(proof[i], 255))'),
		"large, generate_series(1, array_length(proof, 1)) AS i WHERE kind = '$kind' AND (i + m % 8) % 8 = 0", "large trees: a bit of $kind");
}

#----------------------------------------------------------------------
# whatever they are given: no error, and not true
#----------------------------------------------------------------------
$node->safe_psql('postgres', q{
	CREATE FUNCTION any_number() RETURNS bigint LANGUAGE sql VOLATILE AS $$
		SELECT (ARRAY[NULL, 0, 1, 2, 3, 7, 8, -1, 256, 9223372036854775807, -9223372036854775808, 4611686018427387904,
			(random() * 1e18)::bigint, (random() * -1e18)::bigint])[1 + floor(random() * 14)] $$;
	CREATE FUNCTION any_hash() RETURNS bytea LANGUAGE sql VOLATILE AS $$
		SELECT (ARRAY[NULL, ''::bytea, '\x00', sha256('a'), sha256('b'), sha256(random()::text::bytea), sha256(random()::text::bytea),
			sha256('a') || '\x00'::bytea, substr(sha256('a'), 2), repeat('x', 3000)::bytea])[1 + floor(random() * 10)] $$;
	CREATE FUNCTION any_proof() RETURNS bytea[] LANGUAGE sql VOLATILE AS $$
		SELECT CASE floor(random() * 8)
			WHEN 0 THEN NULL WHEN 1 THEN '{}'
			WHEN 2 THEN array_fill(any_hash(), ARRAY[floor(random() * 70)::int])
			WHEN 3 THEN array_fill(sha256('a'), ARRAY[floor(random() * 3)::int, 2])
			WHEN 4 THEN array_fill(sha256('a'), ARRAY[63 + floor(random() * 3)::int])
			WHEN 5 THEN array_fill(sha256('a'), ARRAY[1 + floor(random() * 4)::int], ARRAY[-3])
			ELSE ARRAY[any_hash(), any_hash(), any_hash()] END $$;
});
is( $node->safe_psql('postgres', q{
		SELECT count(*), count(*) FILTER (WHERE c IS NULL OR i IS NULL), count(*) FILTER (WHERE c AND NOT (m = n AND r = s AND p = '{}')),
			count(*) FILTER (WHERE i AND NOT (m = 0 AND n = 1 AND r = s AND p = '{}'))
		FROM (SELECT *, idempotency.verify_consistency(m, n, r, s, p) AS c, idempotency.verify_inclusion(m, n, r, p, s) AS i
			FROM (SELECT any_number() AS m, any_number() AS n, any_hash() AS r, any_hash() AS s, any_proof() AS p
				FROM generate_series(1, 20000)) AS a) AS b}),
	'20000|0|0|0', 'anything: no error, not NULL, true for what is trivially so');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal|leak/, 'the server was well all the time');
$node->stop;
done_testing();
