# Random deliveries against a model.
#
# Three sessions accept events of a handful of streams, each with a strategy of
# its own, one by one and many at once, in transactions and savepoints that are
# kept or rolled back; operators skip gaps, set positions and have events
# processed once more.  A model that knows of sets of events, and nothing of
# ranges, rows and locks, says what each answer must be.
#
# IDEMPOTENCY_SEED repeats a history, IDEMPOTENCY_STEPS sets its length.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Storable qw(dclone);
use Test::More;

my $steps = $ENV{IDEMPOTENCY_STEPS} // 2500;
my @seeds = $ENV{IDEMPOTENCY_SEED} // (map { int(rand(1e9)) } 1 .. 3);

# consumers, each with one stream; pairs: events share a seq
my %consumers = (
	any => { strategy => 'sequence', pairs => 1 },
	few => { strategy => 'sequence', holes => 5 },
	begun => { strategy => 'sequence', first => 4, pairs => 1 },
	epochs => { strategy => 'sequence', epochs => 1 },
	next => { strategy => 'ordered', pairs => 1 },
	next_begun => { strategy => 'ordered', first => 2 },
	latest => { strategy => 'high_water', pairs => 1 },
	ids => { strategy => 'id' },
	both => { strategy => 'id_and_sequence' });
my @names = sort keys %consumers;

my $node = new_node('inbox_model');
my (@sessions, %committed, @log, %seen, $asked);

# An error is answered as its SQLSTATE.
sub ask
{
	my ($s, $sql) = @_;

	push @log, "s$s: $sql";
	my $answer = $sessions[$s]{psql}->query($sql);
	my $error = $sessions[$s]{psql}{stderr};
	$sessions[$s]{psql}{stderr} = '';
	$log[-1] .= '  -->  ' . join(' ', split /\n/, $answer) . ($error eq '' ? '' : " $error");
	return $error =~ /ERROR:\s+(\w{5})/ ? $1 : $answer;
}

#----------------------------------------------------------------------
# what is known of a stream
#
# {there}: it has a row; {done}: events by "seq/subseq"; {mark}: of the
# strategies that only know the last one; {first}, {closed}: where it begins,
# and up to where an operator has put it; {ids}: by the event's id.  Beside it,
# "again ...": events to be processed once more, and those whose rows a
# transaction has touched.
#----------------------------------------------------------------------
sub begin_sequence
{
	my ($c, $state) = @_;

	$state->{done} = {};
	delete @{$state}{qw(mark first closed)};
	$state->{first} = $consumers{$c}{first} if defined $consumers{$c}{first};
	return;
}

# What session s sees of a stream, and whether somebody else has its hand on it.
sub view
{
	my ($s, $c) = @_;

	foreach my $other (0 .. $#sessions)
	{
		return (undef, 1) if $other != $s && $sessions[$other]{work}{$c};
	}
	return ($sessions[$s]{work}{$c} // $committed{$c}, 0);
}

# The stream as session s changes it.
sub change
{
	my ($s, $c) = @_;

	return $sessions[$s]{work}{$c} //= dclone($committed{$c});
}

# The seq up to which nothing is missing, of a stream in any order; undef: none.
sub reached
{
	my ($state) = @_;
	my @seqs = sort { $a <=> $b } map { m{^(\d+)/0$} ? $1 : () } keys %{ $state->{done} };
	my $at = defined $state->{closed} ? $state->{closed}
	  : defined $state->{first} ? $state->{first} - 1
	  : @seqs ? $seqs[0]
	  : return undef;

	$at++ while $state->{done}{ ($at + 1) . '/0' };
	return $at;
}

# How many runs of events there are that the model of "few" counts.
sub gaps
{
	my ($state) = @_;
	my $at = reached($state) // return 0;
	my $gaps = 0;

	foreach my $seq (sort { $a <=> $b } map { m{^(\d+)/0$} ? $1 : () } keys %{ $state->{done} })
	{
		$gaps++ if $seq > $at + 1 && !$state->{done}{ ($seq - 1) . '/0' };
	}
	return $gaps;
}

sub compare { my ($x, $y) = @_; return $x->[0] <=> $y->[0] || $x->[1] <=> $y->[1]; }

# What an event is answered by its sequence, without changing anything.
sub decide
{
	my ($c, $state, $seq, $sub) = @_;
	my $strategy = $consumers{$c}{strategy};
	my $first = $state->{first};

	if ($strategy eq 'sequence' || $strategy eq 'id_and_sequence')
	{
		return 'duplicate' if $state->{done}{"$seq/$sub"};
		if (defined $state->{closed})
		{
			my ($at, $upto) = ($state->{closed}, $state->{closed_sub});
			return 'duplicate' if $seq <= $at && $sub == 0 || $seq == $at && $sub <= $upto;
			return 'late' if $seq < $at;
		}
		return 'late' if defined $first && $seq < $first;
		my $holes = $consumers{$c}{holes};
		if ($holes && defined reached($state) && gaps($state) >= $holes)
		{
			my $low = (sort { $a <=> $b } map { m{^(\d+)/0$} ? $1 : () } keys %{ $state->{done} })[0];
			return 'gap'
			  unless $state->{done}{ ($seq - 1) . '/0' }
			  || $state->{done}{ ($seq + 1) . '/0' }
			  || $seq == reached($state) + 1;
		}
		return 'process';
	}
	return 'late' if defined $first && $seq < $first;
	my $mark = $state->{mark};
	if ($strategy eq 'ordered')
	{
		$mark //= [ $first - 1, 0 ] if defined $first;
		return 'process' if !$mark;
		return 'duplicate' if compare([ $seq, $sub ], $mark) <= 0;
		return 'process'
		  if ($seq == $mark->[0] && $sub == $mark->[1] + 1)
		  || ($seq == $mark->[0] + 1 && $sub == 0);
		return 'gap';
	}
	return 'process' if !$mark;
	return ('late', 'duplicate', 'process')[ 1 + compare([ $seq, $sub ], $mark) ];
}

# The event is processed.
sub done
{
	my ($c, $state, $seq, $sub) = @_;

	if ($consumers{$c}{strategy} =~ /sequence/) { $state->{done}{"$seq/$sub"} = 1; }
	else
	{
		$state->{first} //= $seq;
		$state->{mark} = [ $seq, $sub ];
	}
	return;
}

# The position that an answer shows.
sub position
{
	my ($c, $state) = @_;
	my $at = $consumers{$c}{strategy} =~ /sequence/ ? reached($state)
	  : $state->{mark} ? $state->{mark}[0]
	  : $state->{there} && defined $state->{first} ? $state->{first} - 1
	  : undef;

	return defined $at && $at >= 0 ? $at : '';
}

# Was the event, which is known by this name, to be processed once more?
sub take_again
{
	my ($s, $c, $name, $outcome) = @_;

	return $outcome if $outcome ne 'duplicate' && $outcome ne 'late';
	my ($again, $busy) = view($s, "again $c");
	return $outcome if !$busy && !$again->{$name};
	if ($busy)
	{
		# somebody else's: only what he has changed is his
		foreach my $other (0 .. $#sessions)
		{
			my $his = $other == $s ? undef : $sessions[$other]{work}{"again $c"};
			next unless $his && $his->{"touched $name"};
			return 'in_progress';
		}
		$again = $sessions[$s]{work}{"again $c"} // $committed{"again $c"};
		return $outcome if !$again->{$name};
	}
	my $changed = change($s, "again $c");

	delete $changed->{$name};
	$changed->{"touched $name"} = 1;
	return 'process';
}

#----------------------------------------------------------------------
# steps; each returns what is wrong, or ''
#----------------------------------------------------------------------
sub near
{
	my ($c, $state) = @_;
	my $at = position($c, $state);
	my $seq = ($at eq '' ? 5 : $at) - 3 + int(rand($consumers{$c}{holes} ? 30 : 8));

	return ($seq < 0 ? 0 : $seq, $consumers{$c}{pairs} && rand() < 0.4 ? int(rand(3)) : 0);
}

# Before an event is decided: its epoch.  Returns 0 if that is over.
sub prepare
{
	my ($s, $c, $epoch) = @_;
	my ($state) = view($s, $c);

	return 0 if defined $epoch && defined $state->{epoch} && $epoch < $state->{epoch};
	if (!$state->{there} || (defined $epoch && $epoch > ($state->{epoch} // -1)))
	{
		my $changed = change($s, $c);

		begin_sequence($c, $changed);
		$changed->{there} = 1;
		$changed->{epoch} = $epoch;
	}
	return 1;
}

sub step_ids
{
	my ($s, $c) = @_;
	# mostly new ones
	my $id = 'e' . (int(rand(8)) + int($asked++ / 3));
	my $expected;
	my ($state) = view($s, "$c $id");

	if (!$state) { $expected = 'in_progress'; }
	elsif ($state->{done})
	{
		$expected = take_again($s, $c, $id, 'duplicate');
	}
	else
	{
		$expected = 'process';
		change($s, "$c $id")->{done} = 1;
	}
	my $answer = ask($s, "SELECT outcome FROM idempotency.accept('$c', 's', '$id')");
	end_statement($s);
	$seen{"$c $expected"}++;
	return $answer eq $expected ? '' : "$c: expected $expected, got $answer";
}

sub step_accept
{
	my ($s, $c) = @_;

	return step_ids($s, $c) if $c eq 'ids';
	my ($state, $busy) = view($s, $c);
	my ($seq, $sub) = near($c, $state // $committed{$c});
	my $epoch = $consumers{$c}{epochs} ? int(($state // $committed{$c})->{epoch} // 1) - (rand() < 0.1) + (rand() < 0.05) : undef;
	my $id = $c eq 'both' ? 'e' . (rand() < 0.8 ? $seq : int(rand(12))) : undef;
	my ($expected, $position) = ('in_progress', '');

	$epoch = 0 if defined $epoch && $epoch < 0;
	if (!$busy && !prepare($s, $c, $epoch)) { $expected = 'stale_epoch'; }
	elsif (!$busy)
	{
		($state) = view($s, $c);
		$expected = decide($c, $state, $seq, $sub);
		done($c, change($s, $c), $seq, $sub) if $expected eq 'process';
		($state) = view($s, $c);
		$position = position($c, $state);
		if (defined $id && $expected eq 'process')
		{
			if ($state->{ids}{$id}) { $expected = 'duplicate'; }
			else { change($s, $c)->{ids}{$id} = 1; }
		}
		my $name = $id // (defined $epoch ? "$epoch:" : '') . "$seq/$sub";
		$expected = take_again($s, $c, $name, $expected);
		$position = '' if $expected eq 'in_progress';
	}
	my $answer = ask($s, "SELECT outcome, position FROM idempotency.accept('$c', 's', seq => $seq, subseq => $sub"
		  . (defined $epoch ? ", epoch => $epoch" : '') . (defined $id ? ", event_id => '$id'" : '') . ')');
	end_statement($s);
	$seen{"$c $expected"}++;
	return $answer eq "$expected|$position" ? '' : "$c: expected $expected|$position, got $answer";
}

sub step_many
{
	my ($s) = @_;
	my $c = (qw(any few begun next latest))[ int(rand(5)) ];
	my ($state, $busy) = view($s, $c);
	my @events = map { [ near($c, $state // $committed{$c}) ] } 1 .. 1 + int(rand(6));
	my @expected;

	prepare($s, $c, undef) if !$busy;
	foreach my $event (@events)
	{
		my $outcome = 'in_progress';

		if (!$busy)
		{
			($state) = view($s, $c);
			$outcome = decide($c, $state, @$event);
			done($c, change($s, $c), @$event) if $outcome eq 'process';
		}
		push @expected, $outcome;
	}
	foreach my $i (0 .. $#events)
	{
		$expected[$i] = take_again($s, $c, "$events[$i][0]/$events[$i][1]", $expected[$i]);
	}
	my $answer = ask($s, sprintf(
			q{SELECT string_agg(outcome, ' ' ORDER BY ordinal) FROM idempotency.accept_many('%s', 's', '{%s}', '{%s}')},
			$c, join(',', map { $_->[0] } @events), join(',', map { $_->[1] } @events)));
	end_statement($s);
	$seen{'many'}++;
	return $answer eq "@expected" ? '' : "$c: expected @expected, got $answer";
}

# Operators act while no other transaction is open: they would wait for it.
sub step_operator
{
	my ($s) = @_;
	my $c = $names[ int(rand(@names)) ];
	my $strategy = $consumers{$c}{strategy};
	my ($state) = view($s, $c);
	my $what = rand();
	my ($expected, $answer) = ('', '');

	return '' if grep { $_ != $s && $sessions[$_]{open} } 0 .. $#sessions;
	if ($what < 0.5)
	{
		my ($seq, $sub) = near($c, $state // $committed{$c});
		my $id = 'e' . ($c eq 'both' ? $seq : int(rand(50)));
		my $name = $strategy =~ /id/ ? $id : (defined $state->{epoch} ? "$state->{epoch}:" : '') . "$seq/$sub";
		my ($again) = view($s, "again $c");
		my $known = $c eq 'ids' ? (view($s, "$c $id"))[0]{done}
		  : $c eq 'both' ? $state->{ids}{$id}
		  : $state->{there} && was_done($c, $state, $seq, $sub);

		$expected = $again->{$name} || $known ? 't' : 'f';
		@{ change($s, "again $c") }{ $name, "touched $name" } = (1, 1) if $expected eq 't';
		$answer = ask($s, "SELECT idempotency.redeliver('$c', 's', 'test', "
			  . ($strategy =~ /id/ ? "event_id => '$id')" : "seq => $seq, subseq => $sub)"));
	}
	elsif ($what < 0.8 && $strategy =~ /sequence/)
	{
		return '' if !$state->{there} || !defined reached($state);
		my $at = reached($state);
		my ($next) = sort { $a <=> $b } grep { $_ > $at } map { m{^(\d+)/0$} ? $1 : () } keys %{ $state->{done} };

		$next = $at + 1 if !defined $next;
		my $changed = $next > $at + 1 ? change($s, $c) : $state;
		$changed->{done}{"$_/0"} = 1 foreach $at + 1 .. $next - 1;
		$expected = ($next - 1 - $at) . '|' . position($c, $changed);
		$answer = ask($s, "SELECT skipped, position FROM idempotency.skip_gap('$c', 's', 'test')");
	}
	elsif ($what > 0.97 && $strategy ne 'id')
	{
		my ($seq, $sub) = near($c, $state);
		my $changed = change($s, $c);
		my $again = change($s, "again $c");

		begin_sequence($c, $changed);
		$changed->{there} = 1;
		$changed->{first} = 0;
		@{$changed}{qw(closed closed_sub)} = ($seq, $sub);
		$changed->{mark} = [ $seq, $sub ];
		%$again = map { /^touched/ ? ($_ => 1) : ("touched $_" => 1) } keys %$again;
		$expected = $seq;
		$answer = ask($s, "SELECT position FROM idempotency.set_position('$c', 's', $seq, 'test', $sub)");
	}
	end_statement($s);
	$seen{"operator $expected"}++ if $expected =~ /^[tf]$/;
	return $answer eq $expected ? '' : "$c: expected $expected, got $answer";
}

# Was the event processed, or is that past?
sub was_done
{
	my ($c, $state, $seq, $sub) = @_;

	if ($consumers{$c}{strategy} =~ /sequence/)
	{
		return 1 if $sub > 0 && defined $state->{closed} && $seq < $state->{closed};
		return decide($c, $state, $seq, $sub) eq 'duplicate';
	}
	my $mark = $state->{mark} // (defined $state->{first} ? [ $state->{first} - 1, 0 ] : return 0);
	return $seq >= $state->{first} && compare([ $seq, $sub ], $mark) <= 0;
}

# What a transaction has done is committed, or isn't.
sub end_transaction
{
	my ($s, $commit) = @_;

	if ($commit)
	{
		foreach my $what (keys %{ $sessions[$s]{work} })
		{
			my $work = $sessions[$s]{work}{$what};

			if ($what !~ /^again/) { $committed{$what} = $work; next; }
			# several transactions may each have touched some
			foreach my $name (map { /^touched (.*)/ ? $1 : () } keys %$work)
			{
				if ($work->{$name}) { $committed{$what}{$name} = 1; }
				else { delete $committed{$what}{$name}; }
			}
		}
	}
	@{ $sessions[$s] }{qw(work saved open)} = ({}, [], 0);
	return;
}

sub end_statement { my ($s) = @_; end_transaction($s, 1) if !$sessions[$s]{open}; return; }

sub step_transaction
{
	my ($s) = @_;
	my $session = $sessions[$s];
	my $what = rand();
	my $answer;

	if (!$session->{open})
	{
		$session->{open} = 1;
		$answer = ask($s, 'BEGIN');
	}
	elsif ($what < 0.3)
	{
		push @{ $session->{saved} }, dclone($session->{work});
		$answer = ask($s, 'SAVEPOINT s' . @{ $session->{saved} });
	}
	elsif ($what < 0.5 && @{ $session->{saved} })
	{
		my $n = 1 + int(rand(@{ $session->{saved} }));

		splice @{ $session->{saved} }, $n;
		$session->{work} = dclone($session->{saved}[-1]);
		$answer = ask($s, "ROLLBACK TO s$n");
	}
	elsif ($what < 0.65 && @{ $session->{saved} })
	{
		my $n = 1 + int(rand(@{ $session->{saved} }));

		splice @{ $session->{saved} }, $n - 1;
		$answer = ask($s, "RELEASE s$n");
	}
	else
	{
		my $commit = $what < 0.88;

		$answer = ask($s, $commit ? 'COMMIT' : 'ROLLBACK');
		end_transaction($s, $commit);
	}
	return $answer eq '' ? '' : "transaction: $answer";
}

# What is missing, by the model and by gaps(); and what others see.
sub step_look
{
	my ($s) = @_;
	my $c = (qw(any few begun epochs))[ int(rand(4)) ];
	my $state = $sessions[$s]{work}{$c} // $committed{$c};
	my $at = $state->{there} ? reached($state) : undef;
	my @missing;

	if (defined $at)
	{
		my @ahead = sort { $a <=> $b } grep { $_ > $at } map { m{^(\d+)/0$} ? $1 : () } keys %{ $state->{done} };

		@missing = grep { !$state->{done}{"$_/0"} } $at + 1 .. $ahead[-1] if @ahead;
	}
	my $answer = ask($s,
		"SELECT string_agg(i::text, ' ' ORDER BY i) FROM idempotency.gaps('$c', 's'), generate_series(from_seq, to_seq) AS i");
	return $answer eq "@missing" ? '' : "$c: expected gaps @missing, got $answer";
}

sub step
{
	my $s = int(rand(@sessions));
	my $what = rand();

	return $what < 0.55 ? step_accept($s, $names[ int(rand(@names)) ])
	  : $what < 0.65 ? step_many($s)
	  : $what < 0.85 ? step_transaction($s)
	  : $what < 0.93 ? step_operator($s)
	  : step_look($s);
}

foreach my $seed (@seeds)
{
	my $db = "inbox_$seed";
	my ($wrong, $done) = ('', 0);

	srand($seed);
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION idempotency');
	@log = ();
	$asked = 0;
	%committed = ();
	@sessions = map { { psql => session($node, db => $db), open => 0, work => {}, saved => [] } } 1 .. 3;
	$_->{psql}->query_safe('\\set VERBOSITY sqlstate') foreach @sessions;
	foreach my $c (@names)
	{
		my $of = $consumers{$c};

		ask(0, "SELECT strategy FROM idempotency.configure_consumer('$c', strategy => '$of->{strategy}', wait => '0'"
			  . ($of->{holes} ? ", max_holes => $of->{holes}" : '')
			  . (defined $of->{first} ? ", first_seq => $of->{first}" : '') . ')');
		$committed{$c} = { done => {} };
		$committed{"again $c"} = {};
		$committed{"$c e$_"} = {} foreach 0 .. 400;
	}
	while ($done < $steps && $wrong eq '')
	{
		$wrong = step();
		$done++;
	}
	is($wrong, '', "history $seed: $done steps as the model says");
	diag(join("\n", @log[ ($#log > 60 ? $#log - 60 : 0) .. $#log ])) if $wrong ne '';
	$_->{psql}->quit foreach @sessions;
}
# a model that never gets anywhere proves nothing
if (!defined $ENV{IDEMPOTENCY_SEED} && $steps >= 2000)
{
	my @missing = grep { !$seen{$_} } (
		'any process', 'any duplicate', 'any in_progress', 'few process', 'few gap', 'begun late',
		'epochs stale_epoch', 'next process', 'next gap', 'next duplicate', 'next_begun late', 'latest late',
		'latest process', 'ids process', 'ids duplicate', 'ids in_progress', 'both process', 'both duplicate',
		'operator t', 'operator f', 'many');

	is("@missing", '', 'every common kind of answer has come');
}
note(join(', ', map { "$_: $seen{$_}" } sort keys %seen));

$node->stop;
done_testing();
