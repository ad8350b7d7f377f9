# LedgerTest.pm
#		What the TAP tests of the ledger share: the ledger as somebody else sees it.
#
# The encoding of an entry, the tree and its proofs are computed here once more,
# from what the comments in src/entry.c and src/tree.c say and from RFC 6962, out
# of nothing but the columns of the tables.

package LedgerTest;

use strict;
use warnings;

use Digest::SHA qw(sha256);
use Exporter 'import';
use IdempotencyTest;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  encode_entry
  leaf_hash
  new_tree
  tree_root
  inclusion_path
  consistency_path
  checkpoint_of
  read_checkpoint
  read_ledger
  wrong_ledger
  wrong_keys
  ledger_is_right
  verify_says
  is_sealed
);

use constant TILE => 256;

#----------------------------------------------------------------------
# entries
#----------------------------------------------------------------------

# The columns of an entry, in the table's order: name, and how it is hashed.
my @columns = (
	[ seq => 'integer' ], [ decided_at => 'time' ], [ claimed_at => 'time' ],
	[ incarnation => 'integer' ], [ fence => 'integer' ], [ event_no => 'integer' ],
	[ attempt => 'integer' ], [ version => 'integer' ], [ id => 'uuid' ],
	[ decision => 'text' ], [ scope => 'text' ], [ principal => 'text' ], [ key => 'text' ],
	[ request_digest => 'bytes' ], [ response_digest => 'bytes' ],
	[ request_commitment => 'bytes' ], [ response_commitment => 'bytes' ],
	[ session_role => 'text' ], [ role => 'text' ], [ application => 'text' ],
	[ trace_id => 'bytes' ], [ detail => 'text' ]);

# Each as SQL that depends on no setting and has no character to be escaped.
my %as_sql = (
	integer => sub { $_[0] },
	time => sub { "(extract(epoch FROM $_[0]) * 1000000)::numeric(30, 0)" },
	uuid => sub { "replace($_[0]\::text, '-', '')" },
	text => sub { "encode(convert_to($_[0], 'UTF8'), 'hex')" },
	bytes => sub { "encode($_[0], 'hex')" });

# What is hashed of an entry: { column => value }, texts in UTF-8, times as
# microseconds since 1970, null as undef.
sub encode_entry
{
	my ($e) = @_;
	my $integer = sub { pack('q>', $_[0]) };
	my $bytes = sub { pack('N', length $_[0]) . $_[0] };
	my $nullable = sub { defined $_[1] ? "\1" . $_[0]->($_[1]) : "\0" };

	return join '',
	  "idempotency/entry/v1\n",
	  $integer->($e->{seq}), $integer->($e->{decided_at}),
	  $nullable->($integer, $e->{claimed_at}), $integer->($e->{incarnation}),
	  (map { $nullable->($integer, $e->{$_}) } qw(fence event_no attempt)),
	  $bytes->($e->{decision}),
	  (map { $nullable->($bytes, $e->{$_}) }
		  qw(id scope principal key request_digest response_digest request_commitment response_commitment)),
	  (map { $bytes->($e->{$_}) } qw(session_role role application)),
	  (map { $nullable->($bytes, $e->{$_}) } qw(trace_id detail));
}

#----------------------------------------------------------------------
# RFC 6962, 2.1
#----------------------------------------------------------------------

# The hash of a leaf.
sub leaf_hash
{
	return sha256("\0" . $_[0]);
}

# A tree of these leaf hashes: a list per level of the complete subtrees' roots.
sub new_tree
{
	my @levels = ([@_]);

	while (@{ $levels[-1] } > 1)
	{
		my $below = $levels[-1];

		push @levels,
		  [ map { sha256("\1" . $below->[ 2 * $_ ] . $below->[ 2 * $_ + 1 ]) } 0 .. int(@$below / 2) - 1 ];
	}
	return \@levels;
}

# Where a range of so many leaves is split: the largest power of two below n.
sub split_point
{
	my ($n) = @_;
	my $k = 1;

	$k *= 2 while $k * 2 < $n;
	return $k;
}

# MTH(D[a:b])
sub mth
{
	my ($tree, $a, $b) = @_;
	my ($n, $height) = ($b - $a, 0);

	return sha256('') if $n == 0;
	$height++ while 1 << $height < $n;
	return $tree->[$height][ $a >> $height ] if 1 << $height == $n;
	my $k = split_point($n);
	return sha256("\1" . mth($tree, $a, $a + $k) . mth($tree, $a + $k, $b));
}

# The root of the tree's first n leaves.
sub tree_root
{
	my ($tree, $n) = @_;

	return mth($tree, 0, $n);
}

# PATH(m, D[a:b])
sub inclusion_path
{
	my ($tree, $m, $b, $a) = @_;

	$a //= 0;
	return () if $b - $a == 1;
	my $k = split_point($b - $a);
	return $m < $a + $k
	  ? (inclusion_path($tree, $m, $a + $k, $a), mth($tree, $a + $k, $b))
	  : (inclusion_path($tree, $m, $b, $a + $k), mth($tree, $a, $a + $k));
}

# PROOF(m, D[0:n])
sub consistency_path
{
	my ($tree, $m, $n) = @_;

	return subproof($tree, $m, 0, $n, 1);
}

# SUBPROOF(m, D[a:b], known)
sub subproof
{
	my ($tree, $m, $a, $b, $known) = @_;

	return $known ? () : (mth($tree, $a, $b)) if $m == $b;
	my $k = split_point($b - $a);
	return $m <= $a + $k
	  ? (subproof($tree, $m, $a, $a + $k, $known), mth($tree, $a + $k, $b))
	  : (subproof($tree, $m, $a + $k, $b, 0), mth($tree, $a, $a + $k));
}

#----------------------------------------------------------------------
# a whole ledger
#----------------------------------------------------------------------

# The text of a checkpoint.
sub checkpoint_of
{
	my ($origin, $size, $root) = @_;

	return "$origin\n$size\n" . encode_base64($root, '') . "\n";
}

# Origin, size and root (base64) of a checkpoint's text.
sub read_checkpoint
{
	my ($text) = @_;

	return split /\n/, $text;
}

# The rows of queries, all by one snapshot: a list for each of lists of columns,
# null as undef.
sub read_rows
{
	my ($node, $db, @queries) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my @rows;

	$node->safe_psql($db, join("\n",
		"BEGIN ISOLATION LEVEL REPEATABLE READ;\nSET LOCAL search_path = pg_catalog;",
		(map { "COPY ($queries[$_]) TO '$dir/$_';" } 0 .. $#queries),
		'COMMIT;'));
	foreach my $n (0 .. $#queries)
	{
		open my $in, '<', "$dir/$n" or die "could not open $dir/$n: $!";
		push @rows, [ map { chomp; [ map { $_ eq '\N' ? undef : $_ } split /\t/, $_, -1 ] } <$in> ];
		close $in;
		unlink "$dir/$n";
	}
	return @rows;
}

# An entry from a row of the query below.
sub entry_of_row
{
	my ($row) = @_;
	my %entry;

	foreach my $i (0 .. $#columns)
	{
		my ($name, $type) = @{ $columns[$i] };
		my $value = $row->[$i];

		$entry{$name} = !defined $value || $type =~ /^(integer|time)$/ ? $value : pack('H*', $value);
	}
	return \%entry;
}

# A ledger: all of its entries, what they should hash to, and what is stored of
# the tree.  Options: db; before => the hashes of leaves that were pruned.
sub read_ledger
{
	my ($node, %opt) = @_;
	my $select = join ', ', map { $as_sql{ $_->[1] }->("e.$_->[0]") } @columns;
	my ($entries, $tiles, $checkpoints, $latest) = read_rows($node, $opt{db} // 'postgres',
		"SELECT $select FROM idempotency.ledger_entry AS e ORDER BY e.seq",
		q{SELECT level, index, first_seq, last_seq, encode(root, 'hex'), encode(filter, 'hex'),
			encode(seqs, 'hex'), encode(hashes, 'hex')
			FROM idempotency.ledger_tile ORDER BY level, index},
		q{SELECT size, origin, encode(root, 'hex'), sealed_seq, incarnation, encode(tail_seqs, 'hex'),
			encode(tail, 'hex'), encode(convert_to(idempotency.checkpoint_text(size), 'UTF8'), 'hex')
			FROM idempotency.ledger_checkpoint ORDER BY size},
		q{SELECT encode(convert_to(idempotency.checkpoint_text(), 'UTF8'), 'hex')});
	my %ledger = (
		entries => [ map { entry_of_row($_) } @$entries ],
		tiles => [
			map {
				my %tile;
				@tile{qw(level index first last)} = @$_[ 0 .. 3 ];
				@tile{qw(root filter seqs hashes)} =
				  map { defined $_ ? pack('H*', $_) : undef } @$_[ 4 .. 7 ];
				\%tile
			} @$tiles
		],
		checkpoints => [
			map {
				my %checkpoint;
				@checkpoint{qw(size origin root sealed_seq incarnation tail_seqs tail text)} =
				  ($_->[0], $_->[1], pack('H*', $_->[2]), $_->[3], $_->[4], map { pack('H*', $_) } @$_[ 5 .. 7 ]);
				\%checkpoint
			} @$checkpoints
		],
		before => $opt{before} // [],
		latest => defined $latest->[0][0] ? pack('H*', $latest->[0][0]) : undef);

	$ledger{leaves} = [ @{ $ledger{before} }, map { leaf_hash(encode_entry($_)) } @{ $ledger{entries} } ];
	$ledger{tree} = new_tree(@{ $ledger{leaves} });
	$ledger{size} = @{ $ledger{checkpoints} } ? $ledger{checkpoints}[-1]{size} : 0;
	return \%ledger;
}

# The tiles that a tree of this size has, as "level index".
sub tiles_of
{
	my ($size) = @_;
	my @tiles;

	for (my $level = 0; (my $n = $size >> 8 * ($level + 1)) > 0; $level++)
	{
		push @tiles, map { "$level $_" } 0 .. $n - 1;
	}
	return @tiles;
}

# What is wrong with a tile of this ledger?
sub wrong_tile
{
	my ($ledger, $tile) = @_;
	my ($level, $index) = @$tile{qw(level index)};
	my $first = $index * TILE;
	my $pruned = @{ $ledger->{before} };
	my @wrong;

	push @wrong, "tile $level/$index: hashes"
	  if $tile->{hashes} ne join('', @{ $ledger->{tree}[ 8 * $level ] }[ $first .. $first + TILE - 1 ]);
	push @wrong, "tile $level/$index: root" if $tile->{root} ne $ledger->{tree}[ 8 * $level + 8 ][$index];
	if ($level > 0)
	{
		push @wrong, "tile $level/$index: seqs" if grep { defined } @$tile{qw(first last seqs filter)};
	}
	elsif ($first >= $pruned)
	{
		my @seqs = map { $_->{seq} } @{ $ledger->{entries} }[ $first - $pruned .. $first - $pruned + TILE - 1 ];

		push @wrong, "tile $level/$index: seqs"
		  if $tile->{seqs} ne pack('q>*', @seqs) || "$tile->{first} $tile->{last}" ne "@seqs[ 0, -1 ]";
	}
	return @wrong;
}

# What is wrong with the checkpoints of this ledger?
sub wrong_checkpoints
{
	my ($ledger) = @_;
	my ($pruned, $before) = (scalar @{ $ledger->{before} }, undef);
	my ($full, @wrong) = (0);

	foreach my $c (@{ $ledger->{checkpoints} })
	{
		my $size = $c->{size};
		my $n = $size - $pruned;

		push(@wrong, "checkpoint $size: more than there is"), last if $size > @{ $ledger->{leaves} };
		push @wrong, "checkpoint $size: root" if $c->{root} ne tree_root($ledger->{tree}, $size);
		push @wrong, "checkpoint $size: text" if $c->{text} ne checkpoint_of(@$c{qw(origin size root)});
		# all entries up to sealed_seq are in it
		push @wrong, "checkpoint $size: sealed_seq"
		  if ($n > 0 && $ledger->{entries}[ $n - 1 ]{seq} > $c->{sealed_seq})
		  || ($n < @{ $ledger->{entries} } && $ledger->{entries}[$n]{seq} <= $c->{sealed_seq});
		push @wrong, "checkpoint $size: order"
		  if $before && ($c->{sealed_seq} <= $before->{sealed_seq} || $c->{incarnation} < $before->{incarnation});
		# what it added, without what is in a full tile since
		my $from = $before ? $before->{size} : $pruned;
		$from = $size - $size % TILE if $size - $size % TILE > $from;
		push @wrong, "checkpoint $size: tail"
		  if ($before || !$pruned)
		  && ($c->{tail} ne join('', @{ $ledger->{leaves} }[ $from .. $size - 1 ])
			|| $c->{tail_seqs} ne pack('q>*', map { $_->{seq} } @{ $ledger->{entries} }[ $from - $pruned .. $n - 1 ]));
		$before = $c;
	}
	return @wrong;
}

# What is wrong with a ledger, as it is stored: a text, empty if nothing is.
# @seen are texts of checkpoints that somebody read at some time.
sub wrong_ledger
{
	my ($ledger, @seen) = @_;
	my $pruned = @{ $ledger->{before} };
	my @wrong = wrong_checkpoints($ledger);
	my %expected = map { $_ => 1 } tiles_of($ledger->{size});

	foreach my $tile (@{ $ledger->{tiles} })
	{
		if (delete $expected{"$tile->{level} $tile->{index}"})
		{
			push @wrong, wrong_tile($ledger, $tile);
		}
		else
		{
			push @wrong, "tile $tile->{level}/$tile->{index}: is there";
		}
	}
	# tiles of pruned leaves may be gone where there is one above
	foreach my $missing (keys %expected)
	{
		my ($level, $index) = split / /, $missing;

		push @wrong, "tile $level/$index: isn't there"
		  if $level > 0 || ($index | 255) >= $pruned / TILE;
	}
	foreach my $text (@seen)
	{
		my ($origin, $size, $root) = read_checkpoint($text);

		push @wrong, "checkpoint $size that was seen: another one"
		  if $size > @{ $ledger->{leaves} }
		  || encode_base64(tree_root($ledger->{tree}, $size), '') ne $root;
	}
	splice @wrong, 10 if @wrong > 10;
	return join '; ', @wrong;
}

# What is wrong with the order of what happened to each key?  Every change of a
# key is numbered one more than the last, until it was given up or forgotten; and
# fences rise.
sub wrong_keys
{
	my ($ledger) = @_;
	my (%event, %fence, %ended, @wrong);

	foreach my $e (@{ $ledger->{entries} })
	{
		next if !defined $e->{id} || $e->{decision} =~ /^(mismatch|expired|replayed|aborted)$/;
		my $id = unpack('H*', $e->{id});
		my $place = "$e->{seq} ($e->{decision}, $e->{key})";

		if ($e->{event_no} == 1)
		{
			push @wrong, "$place: begins anew after event $event{$id}" if $event{$id} && !$ended{$id};
		}
		elsif ($e->{event_no} != ($event{$id} // 0) + 1)
		{
			push @wrong, "$place: event $e->{event_no} after " . ($event{$id} // 'none');
		}
		$event{$id} = $e->{event_no};
		$ended{$id} = $e->{decision} =~ /^(released|forgotten)$/;
		next unless $e->{decision} =~ /^(claimed|takeover)$/;
		push @wrong, "$place: fence $e->{fence} after $fence{$id}"
		  if defined $fence{$id} && $e->{fence} <= $fence{$id};
		$fence{$id} = $e->{fence};
	}
	splice @wrong, 10 if @wrong > 10;
	return join '; ', @wrong;
}

# A test: a ledger is as it should be, and goes on from the checkpoints and leaf
# hashes that were seen before.  Options: those of read_ledger(); seen => list of
# texts, leaves => list of hashes, to both of which what is there is added.
# Returns the ledger.
sub ledger_is_right
{
	my ($node, $name, %opt) = @_;
	my $ledger = read_ledger($node, %opt);
	my $wrong = wrong_ledger($ledger, @{ $opt{seen} // [] });
	my $leaves = $opt{leaves} // [];

	$wrong .= ' leaves that were sealed are others now'
	  if join('', @$leaves) ne join('', @{ $ledger->{leaves} }[ 0 .. $#$leaves ]);
	is($wrong, '', $name);
	push @{ $opt{seen} }, $ledger->{latest} if $opt{seen} && defined $ledger->{latest};
	push @$leaves, @{ $ledger->{leaves} }[ @$leaves .. $ledger->{size} - 1 ] if $opt{leaves};
	return $ledger;
}

# What verify() finds, against these external checkpoints; '' if nothing.
sub verify_says
{
	my ($node, $db, @external) = @_;
	my $texts = join ', ', map { q{convert_from('\x} . unpack('H*', $_) . q{', 'UTF8')} } @external;
	return $node->safe_psql($db // 'postgres',
		"SELECT concat_ws(': ', severity, what, place, detail) FROM idempotency.verify(external => ARRAY[$texts]::text[])");
}

# Wait until all that was committed is sealed; returns whether it was.
sub is_sealed
{
	my ($node, $db) = @_;

	return $node->poll_query_until($db // 'postgres', q{
		SELECT (SELECT max(seq) FROM idempotency.ledger_entry)
			<= (SELECT max(sealed_seq) FROM idempotency.ledger_checkpoint)});
}

1;
