# Random histories against a model.
#
# Three sessions claim, settle, give up and forget a handful of keys, in
# transactions that stay open or not, while the clock moves on (and sometimes a
# little back), policies change and maintain() runs.  A model that knows nothing
# of rings and tables says what each answer must be.
#
# Runs on the library with fault points.  IDEMPOTENCY_SEED repeats a history,
# IDEMPOTENCY_STEPS sets its length.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'the library with fault points is not built (make testlib)'
  unless have_test_library();

my $steps = $ENV{IDEMPOTENCY_STEPS} // 1500;
my @seeds = $ENV{IDEMPOTENCY_SEED} // (map { int(rand(1e9)) } 1 .. 2);
my @fixed = ([ 'a', '20 min' ], [ 'b', '4 h' ], [ 'c', '20 h' ]);
my @varying = ('20 min', '3 h', '4 h', '20 h', '60 h', '10 days', '40 days', 'infinity');

my $node = new_node('model');

#----------------------------------------------------------------------
# one history
#----------------------------------------------------------------------
my (@sessions, %keys, $offset, @log, $last);

# A session that can be asked quickly.
sub ask
{
	my ($s, $sql) = @_;

	push @log, "s$s: $sql";
	my $answer = $sessions[$s]{psql}->query($sql);
	my $error = $sessions[$s]{psql}{stderr};
	$sessions[$s]{psql}{stderr} = '';
	$log[-1] .= "  -->  $answer" . ($error eq '' ? '' : " $error");
	return $error =~ /ERROR:\s+(\w{5})/ ? $1 : $answer;
}

sub now { return time() + $offset; }

# Does a committed row count?  undef: too close to say.
sub live
{
	my ($row) = @_;

	return 0 if !$row;
	return 1 if $row->{expires} eq 'infinity';
	my $left = $row->{expires} - now();
	return abs($left) < 5 ? undef : $left > 0;
}

# What a claim by session s must be answered, as "outcome|response"; undef: too
# close to say.
sub expected
{
	my ($s, $key) = @_;

	if (defined $key->{holder})
	{
		return 'in_progress|' if $key->{holder} != $s || !$key->{own}{kind};
		return row_says($key->{own});
	}
	my $live = live($key->{row});
	return undef if !defined $live;
	return $live ? row_says($key->{row}) : 'execute|';
}

sub row_says
{
	my ($row) = @_;

	return "replay|$row->{response}" if $row->{kind} ne 'retry';
	# the clock may have been set back behind the failure
	return 'execute|' if now() > $row->{failed_before};
	return now() < $row->{failed_after} ? 'retry_later|' : undef;
}

# A transaction ends: what its sessions hold is committed, or isn't.
sub end_transaction
{
	my ($s, $commit) = @_;

	foreach my $key (values %keys)
	{
		next unless defined $key->{holder} && $key->{holder} == $s;
		$key->{row} = $key->{own} if $commit;
		delete $key->{holder};
		delete $key->{own};
	}
	$sessions[$s]{open} = 0;
	return;
}

# The keys that a session holds unsettled.
sub unsettled
{
	my ($s) = @_;

	return grep { defined $_->{holder} && $_->{holder} == $s && !$_->{own}{kind} }
	  map { $keys{$_} } sort keys %keys;
}

# Settle what this session holds unsettled; returns what is in the row then.
sub settle
{
	my ($s, $key) = @_;
	my $how = rand();
	my $response = 'r' . int(rand(1e9));
	my $retention = rand() < 0.3 ? q{, retention => '} . (1 + int(rand(19))) . q{ min'} : '';

	if ($how < 0.75)
	{
		my $expires = ask($s,
			"SELECT coalesce(extract(epoch FROM nullif(e, 'infinity')), -1) FROM idempotency.finish('$key->{scope}', '$key->{key}', '$response'$retention) AS e"
		);
		return undef unless $expires =~ /^-?[\d.]+$/;
		return {
			kind => 'done',
			response => $response,
			expires => $expires == -1 ? 'infinity' : $expires
		};
	}
	my $final = $how < 0.85 ? 'false' : 'true';
	my $failed_after = now();
	my $outcome = ask($s,
		"SELECT outcome FROM idempotency.fail('$key->{scope}', '$key->{key}', '$response', retryable => $final, retry_after_ms => 0$retention)"
	);
	return undef unless $outcome =~ /^(failed|retry_later)$/;
	my $expires = ask($s,
		"SELECT coalesce(extract(epoch FROM nullif(expires_at, 'infinity')), -1) FROM idempotency.peek('$key->{scope}', '$key->{key}')"
	);
	return undef unless $expires =~ /^-?[\d.]+$/;
	return {
		kind => $final eq 'true' ? 'retry' : 'failed',
		response => $final eq 'true' ? '' : "failed $response",
		expires => $expires == -1 ? 'infinity' : $expires,
		failed_after => $failed_after,
		failed_before => now()
	};
}

# One claim, and perhaps its settlement.  Returns what is wrong, or ''.
sub step_claim
{
	my ($s, $key) = @_;
	my $expected = expected($s, $key);

	return '' if !defined $expected;
	# without a transaction, claim and settlement are a transaction of their own
	my $alone = !$sessions[$s]{open};
	if ($alone)
	{
		ask($s, 'BEGIN');
		$sessions[$s]{open} = 1;
	}
	my $many = rand() < 0.2;
	my $answer = ask($s,
		$many
		? "SELECT outcome, coalesce('failed ' || error, response, '') FROM idempotency.claim_many('$key->{scope}', ARRAY['$key->{key}'], wait => '0')"
		: "SELECT outcome, CASE WHEN outcome = 'replay' THEN coalesce('failed ' || error, response, '') ELSE '' END FROM idempotency.claim('$key->{scope}', '$key->{key}', wait => '0')"
	);
	$answer =~ s/^(execute|retry_later)\|.*/$1|/;
	return "expected $expected, got $answer" if $answer ne $expected;
	if ($answer eq 'execute|')
	{
		$key->{before} = defined $key->{holder} ? $key->{own} : live($key->{row}) ? $key->{row} : undef;
		$key->{holder} = $s;
		$key->{own} = {};
		if ($alone || rand() < 0.5)
		{
			$key->{own} = settle($s, $key) // return 'could not settle';
		}
	}
	if ($alone)
	{
		my $error = ask($s, 'COMMIT');
		return "COMMIT: $error" if $error ne '';
		end_transaction($s, 1);
	}
	return '';
}

# One step of the history.  Returns what is wrong, or ''.
sub step
{
	my $s = int(rand(@sessions));
	my $key = $keys{ (sort keys %keys)[ int(rand(keys %keys)) ] };
	my $what = rand();

	$last = $key;
	if ($what < 0.45) { return step_claim($s, $key); }
	if ($what < 0.55)
	{
		# settle, or give up, something that this session holds unsettled
		my ($held) = unsettled($s);

		return '' if !$held;
		$last = $held;
		if (rand() < 0.25 && $held->{before} && $held->{before}{kind} eq 'retry')
		{
			my $answer = ask($s, "SELECT idempotency.release('$held->{scope}', '$held->{key}')");
			return "release: $answer" if $answer ne 't';
			delete $held->{holder};
			delete $held->{own};
			# the row of the attempt before is in this transaction's hands still
			$held->{holder} = $s;
			$held->{own} = { %{ $held->{before} } };
			return '';
		}
		$held->{own} = settle($s, $held) // return 'could not settle';
		return '';
	}
	if ($what < 0.65)
	{
		if (!$sessions[$s]{open})
		{
			ask($s, 'BEGIN');
			$sessions[$s]{open} = 1;
			return '';
		}
		my $commit = rand() < 0.7;
		if ($commit)
		{
			foreach my $held (unsettled($s))
			{
				$held->{own} = settle($s, $held) // return 'could not settle';
			}
		}
		my $error = ask($s, $commit ? 'COMMIT' : 'ROLLBACK');
		return "end: $error" if $error ne '';
		# a SET inside goes with the ROLLBACK
		ask($s, "SET idempotency.clock_offset = $offset");
		end_transaction($s, $commit);
		return '';
	}
	if ($what < 0.70)
	{
		return '' if $sessions[$s]{open};
		my $live = live($key->{row});
		return '' if !defined $live;
		my $expected = defined $key->{holder} ? 'ID409' : $live ? 't' : 'f';
		my $answer = ask($s, "SELECT idempotency.forget('$key->{scope}', '$key->{key}', 'test')");

		delete $key->{row} if $answer eq 't';
		return $answer eq $expected ? '' : "forget: expected $expected, got $answer";
	}
	if ($what < 0.78)
	{
		return '' if defined $key->{holder} && $key->{holder} == $s;
		my $live = live($key->{row});
		return '' if !defined $live;
		my $expected = !$live ? '' : $key->{row}{kind} eq 'retry' ? 'retry_later|' : "replay|$key->{row}{response}";
		my $answer = ask($s,
			"SELECT outcome, CASE WHEN outcome = 'replay' THEN coalesce('failed ' || error, response, '') ELSE '' END FROM idempotency.peek('$key->{scope}', '$key->{key}')"
		);

		return $answer eq $expected ? '' : "peek: expected $expected, got $answer";
	}
	if ($what < 0.90)
	{
		# mostly minutes, sometimes hours, seldom days, or back
		my $kind = rand();
		my $jump =
			$kind < 0.08 ? -int(rand(500))
		  : $kind < 0.65 ? int(rand(1200))
		  : $kind < 0.90 ? int(rand(3 * 3600))
		  : $kind < 0.97 ? int(rand(12 * 3600))
		  : int(rand(15 * 86400));

		$offset += $jump;
		push @log, "clock: $jump";
		# a step back may bring back what has expired; then nobody can say
		# whether the row is there still
		if ($jump < 0)
		{
			foreach my $row (grep { $_ } map { $_->{row} } values %keys)
			{
				next if $row->{expires} eq 'infinity';
				$row->{doubtful} = 1 if $row->{expires} < now() - $jump && $row->{expires} > now() - 5;
			}
			foreach my $k (grep { $_->{row} && $_->{row}{doubtful} } values %keys)
			{
				# wait it out
				my $left = $k->{row}{expires} - now() + 6;
				$offset += int($left) if $left > 0;
			}
		}
		ask($_, "SET idempotency.clock_offset = $offset") foreach 0 .. $#sessions;
		return '';
	}
	if ($what < 0.96)
	{
		return '' if $sessions[$s]{open};
		my $answer = ask($s, 'SELECT count(*) FROM idempotency.maintain()');
		return $answer =~ /^\d+$/ ? '' : "maintain: $answer";
	}
	return '' if $sessions[$s]{open};
	my $retention = $varying[ int(rand(@varying)) ];
	my $answer = ask($s, "SELECT ring FROM idempotency.configure('v', retention => '$retention')");
	return $answer =~ /^\w+$/ && $answer !~ /^ID/ ? '' : "configure: $answer";
}

foreach my $seed (@seeds)
{
	my $db = "history_$seed";
	my $wrong = '';
	my $done = 0;

	srand($seed);
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION idempotency');
	use_test_library($node, $db);
	@log = ();
	$offset = int(rand(40 * 86400));
	@sessions = map { { psql => session($node, db => $db), open => 0 } } 1 .. 3;
	foreach my $s (0 .. $#sessions)
	{
		$sessions[$s]{psql}->query_safe('\\set VERBOSITY sqlstate');
		ask($s, q{SELECT FROM idempotency.policy('*')});
		ask($s, "SET idempotency.clock_offset = $offset");
	}
	ask(0, "SELECT ring FROM idempotency.configure('$_->[0]', retention => '$_->[1]')") foreach @fixed;
	ask(0, q{SELECT ring FROM idempotency.configure('v', retention => '3 h')});
	ask(0, q{SELECT ring FROM idempotency.configure('*', max_attempts => 1000000)});
	%keys = ();
	foreach my $scope ('a', 'b', 'c', 'v')
	{
		$keys{"$scope$_"} = { scope => $scope, key => "k$_" } foreach 1 .. 3;
	}
	while ($done < $steps && $wrong eq '')
	{
		$wrong = step();
		$done++;
	}
	is($wrong, '', "history $seed: $done steps as the model says");
	diag($node->safe_psql($db,
			"SELECT segment, expires_at, claimed_at, attempt, state FROM idempotency.keys WHERE scope = '$last->{scope}' AND key = '$last->{key}'"))
	  if $wrong ne '';
	diag("history $seed, without what other keys were asked:\n"
		  . join("\n", grep { !/'k\d'/ || /'$last->{scope}', (?:ARRAY\[)?'$last->{key}'/ } @log))
	  if $wrong ne '';
	$_->{psql}->quit foreach @sessions;
}

$node->stop;
done_testing();
