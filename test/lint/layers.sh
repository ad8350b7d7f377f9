#!/usr/bin/env bash
#
# layers.sh
#		Holds the layers: a subject includes headers of lower layers only.
#
# A subject is a pair of files, src/<subject>.c and .h.  The table gives each
# its layer.  Within a layer nobody includes anybody, except as the second
# table allows, which must not run in circles.  Layer 0 is for everyone.
#
# A new subject goes into the table, where its layer has to be argued for; a
# new layer doesn't.  One check per subject; prints "ok" or "not ok" for each.

set -eu
cd "$(dirname "$0")/../.."

exec perl - <<'PERL'
use strict;
use warnings;

my @layers = (
	[qw(compat errors)],									# 0: everyone's
	[qw(guc identity canonical jsontree es6number digest merkle fault
		clock ring trace base64url)],									# 1: pure
	[qw(catalog shmem counter entry standby)],				# 2: what a backend shares
	[qw(policy incarnation stats history duty roster watermark span refusal notable)],		# 3: settings, counts, what runs
	[qw(keyrow store fence ledger tree breaker limit note watch setting)],	# 4: rows, and what restrains
	[qw(txn tally decision token tag response)],								# 5: what this transaction holds
	[qw(answer claim configure failure key settle operator lookup lease
		abandoned)],										# 6: the protocol
	[qw(derive newkey inbox outbox saga trigger run batch benchmark explain proof
		prune verify)],										# 7: what is built on it
	[qw(launcher worker maintain health recorder seal export)],	# 8: operation
	[qw(module)]);											# 9: wiring

# Who may include whom in his own layer.
my %sibling = (
	canonical => [qw(digest es6number fault jsontree)],
	jsontree  => [qw(es6number)],
	identity  => [qw(clock digest fault guc trace)],
	guc       => [qw(clock fault)],
	merkle    => [qw(digest)],
	trace     => [qw(guc)],
	history   => [qw(duty stats)],
	stats     => [qw(duty)],
	span      => [qw(stats)],
	notable   => [qw(stats)],
	store     => [qw(keyrow)],
	breaker   => [qw(note)],
	txn       => [qw(decision tally)],
	tag       => [qw(decision)],
	token     => [qw(decision)],
	response  => [qw(tag)],
	claim     => [qw(answer)],
	failure   => [qw(answer)],
	settle    => [qw(answer failure key lease)],
	lease     => [qw(failure key)],
	operator  => [qw(failure key)],
	lookup    => [qw(answer claim)],
	prune     => [qw(explain)],
	abandoned => [qw(answer claim)]);

my %layer;
for my $n (0 .. $#layers)
{
	$layer{$_} = $n for @{ $layers[$n] };
}

# store_probe is a part of store: the parts of one subject may include each
# other, and what the subject may.
sub family
{
	my $subject = shift;
	return $subject if exists $layer{$subject};
	my ($whole) = $subject =~ /^([a-z0-9]+)_/;
	return defined $whole && exists $layer{$whole} ? $whole : $subject;
}

sub may_include
{
	my ($from, $to) = map { family($_) } @_;
	return 1 if $from eq $to;
	return $layer{$to} < $layer{$from} if $layer{$to} != $layer{$from};
	return scalar grep { $_ eq $to } @{ $sibling{$from} || [] };
}

# The exceptions themselves: in one layer, and without a circle.
sub reaches
{
	my ($from, $to, $seen) = @_;
	return 0 if $seen->{$from}++;
	for my $next (@{ $sibling{$from} || [] })
	{
		return 1 if $next eq $to || reaches($next, $to, $seen);
	}
	return 0;
}
my @wrong = grep { reaches($_, $_, {}) } sort keys %sibling;
for my $from (sort keys %sibling)
{
	push @wrong, grep { $layer{$_} != $layer{$from} } @{ $sibling{$from} };
}
print @wrong ? "not ok - the table of siblings is wrong about: @wrong\n"
	: "ok - the table of siblings runs in no circle\n";

my %files;
for my $file (glob 'src/*.c src/*.h')
{
	$file =~ m{src/(\w+)\.[ch]$} or next;
	push @{ $files{$1} }, $file;
}
if (!%files)
{
	print "not ok - there is nothing in src/\n";
	exit 1;
}

for my $subject (sort keys %files)
{
	my @bad;
	if (!exists $layer{ family($subject) })
	{
		print "not ok - $subject: no such subject in the table of layers;"
			. " add it in test/lint/layers.sh\n";
		push @wrong, $subject;
		next;
	}
	for my $file (@{ $files{$subject} })
	{
		open my $in, '<', $file or die "could not open $file: $!\n";
		while (my $line = <$in>)
		{
			next unless $line =~ /^\s*#\s*include\s+"([^"]+)\.h"/;
			my $header = $1;
			# ours carry no directory, the server's mostly do
			next unless $header =~ /^\w+$/ && (-e "src/$header.h" || exists $layer{$header});
			if (!exists $layer{ family($header) })
			{
				push @bad, "$file:$.: $header.h is of no layer";
			}
			elsif (!may_include($subject, $header))
			{
				push @bad, sprintf("%s:%d: layer %d includes %s.h of layer %d", $file, $.,
					$layer{ family($subject) }, $header, $layer{ family($header) });
			}
		}
		close $in;
	}
	my $where = "layer $layer{family($subject)}";
	print @bad ? "not ok - $subject ($where) includes what it may not\n" : "ok - $subject ($where)\n";
	print "    $_\n" for @bad;
	push @wrong, @bad;
}
exit(@wrong ? 1 : 0);
PERL
