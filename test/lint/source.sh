#!/usr/bin/env bash
#
# source.sh
#		Holds what can be checked of a source file without a compiler.
#
# C in src/: length of files and functions, a comment before each function,
# what a header may include, where PG_VERSION_NUM may stand, where SQLSTATEs
# come from, white space.  Install SQL in src/sql/: plain CREATE, qualified
# names, a COMMENT for each object.  All files: no path of somebody's machine.
#
# One check per file and subject; prints "ok" or "not ok" for each.

set -eu
cd "$(dirname "$0")/../.."

# PostgreSQL's own error codes, where its headers are installed
codes=$("${PG_CONFIG:-pg_config}" --includedir-server 2>/dev/null || true)/utils/errcodes.h
[ -f "$codes" ] || codes=''

exec perl - "$codes" <<'PERL'
use strict;
use warnings;

use constant MAX_FILE     => 600;
use constant MAX_FUNCTION => 60;

my ($core_codes) = @ARGV;
my $failed = 0;

# check WHAT, COMPLAINTS...: one check, failed if there are complaints
sub check
{
	my ($what, @complaints) = @_;
	print @complaints ? "not ok - $what\n" : "ok - $what\n";
	print "    $_\n" for @complaints;
	$failed = 1 if @complaints;
}

sub read_lines
{
	my $file = shift;
	open my $in, '<', $file or die "could not open $file: $!\n";
	my @lines = <$in>;
	close $in;
	chomp @lines;
	return @lines;
}

# ---------------------------------------------------------------- C

# The functions of a file: name, first line of the head, last line of the body.
# In PostgreSQL's layout both braces of a body stand in column 0 and the name
# begins a line.
sub functions
{
	my @lines = @_;
	my @found;
	for (my $i = 0; $i < @lines; $i++)
	{
		next unless $lines[$i] =~ /^\{/ && $i > 0 && $lines[$i - 1] =~ /\)\s*$/;
		my $name = $i - 1;
		$name-- while $name > 0 && $lines[$name] !~ /^[A-Za-z_]\w*\(/;
		my $end = $i;
		$end++ while $end < $#lines && $lines[$end] !~ /^\}/;
		my $head = $name;
		$head-- if $head > 0 && $lines[ $head - 1 ] =~ /^[A-Za-z_][\w\s\*]*$/;
		my ($id) = $lines[$name] =~ /^(\w+)/;
		push @found, { name => $id, head => $head, first => $name, last => $end };
		$i = $end;
	}
	return @found;
}

# Does a comment end right before this line?  PG_FUNCTION_INFO_V1 and the blank
# line after it may stand in between.
sub is_commented
{
	my ($head, @lines) = @_;
	my $i = $head - 1;
	if ($i > 0 && $lines[$i] =~ /^\s*$/ && $lines[ $i - 1 ] =~ /^PG_FUNCTION_INFO_V1/)
	{
		$i--;
	}
	$i-- while $i > 0 && $lines[$i] =~ /^PG_FUNCTION_INFO_V1/;
	return $i >= 0 && $lines[$i] =~ m{\*/\s*$};
}

my %known_code;
for my $file ('src/errors.h', grep { length } $core_codes)
{
	next unless -f $file;
	for (read_lines($file))
	{
		$known_code{$1} = 1 if /^#define\s+(ERRCODE_\w+)/;
	}
}

sub check_c
{
	my $file  = shift;
	my @lines = read_lines($file);
	my (@size, @comment, @include, @code, @white);

	push @size, sprintf('%s: %d lines, at most %d', $file, scalar @lines, MAX_FILE)
		if @lines > MAX_FILE;
	for my $f (functions(@lines))
	{
		my $length = $f->{last} - $f->{first} + 1;
		push @size, sprintf('%s:%d: %s is %d lines long, at most %d', $file, $f->{first} + 1,
			$f->{name}, $length, MAX_FUNCTION)
			if $length > MAX_FUNCTION;
		push @comment, sprintf('%s:%d: no comment before %s', $file, $f->{first} + 1, $f->{name})
			if !is_commented($f->{head}, @lines);
	}
	push @comment, "$file: does not open with a comment" if ($lines[0] // '') !~ m{^/\*};
	for my $n (1 .. @lines)
	{
		my $line = $lines[ $n - 1 ];
		push @include, "$file:$n: a header includes postgres.h"
			if $file =~ /\.h$/ && $line =~ /^\s*#\s*include\s+"postgres\.h"/;
		push @include, "$file:$n: PG_VERSION_NUM is for compat.h"
			if $file ne 'src/compat.h' && $line =~ /\bPG_VERSION_NUM\b/;
		while ($line =~ /\berrcode\(\s*(\w+)/g)
		{
			my $code = $1;
			# a variable's value is not ours to judge; without PostgreSQL's
			# headers a name of its pattern has to do
			next if $code =~ /^[a-z]/ || $known_code{$code};
			push @code, "$file:$n: $code is neither of errors.h nor of PostgreSQL's error codes"
				if $core_codes || $code !~ /^ERRCODE_(?!IDEM_)/;
		}
		push @code, "$file:$n: MAKE_SQLSTATE is for errors.h"
			if $file ne 'src/errors.h' && $line =~ /\bMAKE_SQLSTATE\b/;
		push @white, "$file:$n: blanks at the end of the line" if $line =~ /[ \t\r]$/;
		push @white, "$file:$n: indented with blanks instead of tabs"
			if $line =~ /^\t* {4,}\S/ && $line !~ /^ +\*/;
		push @white, "$file:$n: blanks before a tab" if $line =~ /^\t* +\t/;
	}
	check("$file: length", @size);
	check("$file: comments", @comment);
	check("$file: includes and versions", @include);
	check("$file: SQLSTATEs", @code);
	check("$file: white space", @white);
}

# ---------------------------------------------------------------- SQL

# SQL with comments, strings and bodies blanked out, line numbers kept.
sub without_text
{
	my $sql = shift;
	my $blank = sub { my $t = shift; $t =~ s/[^\n]/ /g; return $t; };
	$sql =~ s{(--[^\n]*|/\*.*?\*/|(\$\w*\$).*?\2|'(?:[^']|'')*')}{$blank->($1)}gse;
	return $sql;
}

# Splits at commas that are in no parentheses or brackets.
sub split_list
{
	my ($text) = @_;
	my ($depth, $part, @parts) = (0, '');
	for my $c (split //, $text)
	{
		$depth++ if $c =~ /[(\[]/;
		$depth-- if $c =~ /[)\]]/;
		if ($c eq ',' && $depth == 0) { push @parts, $part; $part = ''; next; }
		$part .= $c;
	}
	push @parts, $part if $part =~ /\S/;
	return @parts;
}

sub check_sql
{
	my $file = shift;
	my $sql  = without_text(join "\n", read_lines($file));
	my (@create, @name, @comment, @white);
	my $line_of = sub { return 1 + (substr($sql, 0, shift) =~ tr/\n//); };

	while ($sql =~ /\b(OR\s+REPLACE|IF\s+NOT\s+EXISTS)\b/gi)
	{
		push @create, "$file:" . $line_of->($-[0]) . ": $1";
	}
	while ($sql =~ /\bCREATE\s+(?:OR\s+REPLACE\s+|UNLOGGED\s+)?(FUNCTION|PROCEDURE|TABLE|VIEW|SEQUENCE|TYPE|DOMAIN|AGGREGATE)\s+([^\s(;]+)\s*(\((?:[^()]++|\((?:[^()]++|\([^()]*\))*\))*\))?/gi)
	{
		my ($kind, $object, $args, $at) = (uc $1, $2, $3 // '', $-[0]);
		my $end  = $+[0];
		my $line = $line_of->($at);
		push @name, "$file:$line: $object is not qualified with idempotency."
			if $object !~ /^idempotency\./;
		push @comment, "$file:$line: no COMMENT ON $kind $object"
			if $kind =~ /^(FUNCTION|PROCEDURE|TABLE|VIEW)$/
			&& substr($sql, $end) !~ /\bCOMMENT\s+ON\s+$kind\s+\Q$object\E(?![\w.])/i;
		next unless $kind =~ /^(FUNCTION|PROCEDURE)$/;
		for my $arg (split_list(substr($args, 1, -1)))
		{
			$arg =~ s/\s+(DEFAULT\b|=).*//si;
			$arg =~ s/^\s+|\s+$//g;
			push @name, "$file:$line: argument \"$arg\" of $object: its type is not qualified"
				if $arg !~ /\b(pg_catalog|idempotency)\./;
		}
		my ($type) = substr($sql, $end) =~ /^\s*RETURNS\s+(?:SETOF\s+)?([^\s;]+)/i;
		push @name, "$file:$line: $object returns \"$type\", which is not qualified"
			if defined $type && $type !~ /^(pg_catalog\.|idempotency\.|TABLE\b)/i;
	}
	my @lines = read_lines($file);
	push @create, sprintf('%s: %d lines, at most %d', $file, scalar @lines, MAX_FILE)
		if @lines > MAX_FILE;
	for my $n (1 .. @lines)
	{
		push @white, "$file:$n: blanks at the end of the line" if $lines[ $n - 1 ] =~ /[ \t\r]$/;
	}
	check("$file: plain CREATE, length", @create);
	check("$file: qualified names", @name);
	check("$file: comments on objects", @comment);
	check("$file: white space", @white);
}

# ---------------------------------------------------------------- all files

# What git knows, or would if asked to add; without git what there is.
sub all_files
{
	my @files = `git ls-files -co --exclude-standard 2>/dev/null`;
	@files = `find . -path ./.git -prune -o -path ./tmp -prune -o -path ./build -prune -o -name node_modules -prune -o -type f -print`
		if !@files;
	chomp @files;
	return grep { -f && -T } @files;
}

sub check_paths
{
	my @bad;
	# spelled so that this file does not find itself
	my $machine = qr{(?<![\w.\$\}-])/(?:[w]ork(?![\w-])|[t]mp/h(?![\w-]))};
	for my $file (all_files())
	{
		my $n = 0;
		for my $line (read_lines($file))
		{
			$n++;
			push @bad, "$file:$n: $&" if $line =~ $machine;
		}
	}
	check('no file names a place on somebody\'s machine', @bad);
}

my @c = glob 'src/*.c src/*.h src/witness/*.c src/witness/*.h';
my @sql = glob 'src/sql/*.sql';
check('there is C in src/', @c ? () : 'none found');
check('there is SQL in src/sql/', @sql ? () : 'none found');
check_c($_) for @c;
check_sql($_) for @sql;
check_paths();
exit $failed;
PERL
