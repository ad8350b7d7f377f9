# Random histories against a model.
#
# Three sessions claim a handful of keys, with a lease or without, settle, extend
# and give up what they or others hold, with the right fence or an old one, take
# over what is abandoned, resolve and forget, in transactions that stay open or
# not, while the clock moves on (and sometimes a little back), policies change
# and maintain() runs.  A model that knows nothing of rings and tables says what
# each answer must be.
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

my $steps = $ENV{IDEMPOTENCY_STEPS} // 3000;
my @seeds = $ENV{IDEMPOTENCY_SEED} // (map { int(rand(1e9)) } 1 .. 2);
my %scopes = (
	a => { retention => '2 h', expiry => 'resume', attempts => 2 },
	b => { retention => '4 h', expiry => 'forget', attempts => 1000000 },
	c => { retention => '20 h', expiry => 'indeterminate', attempts => 1000000 },
	v => { retention => '3 h', expiry => 'resume', attempts => 1000000 });
my @varying = ('20 min', '3 h', '4 h', '20 h', '60 h', '10 days', '40 days', 'infinity');
my @leases = ('1 h', '3 h', '4 days');

my $node = new_node('model');

#----------------------------------------------------------------------
# one history
#
# $keys{...}{row} is the committed row; while a transaction has its hand on the
# key, {holder} is its session and {own} what it has written.  A row's kind is
# lease, done, failed, retry or exhausted; of an own one also held (claimed
# without a lease, not settled) or none (deleted).
#----------------------------------------------------------------------
my (@sessions, %keys, $offset, @log, $last, $max_fence, %seen);

# A session that can be asked quickly.  An error is answered as its SQLSTATE.
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

# The same where an error is expected: an open transaction survives it.
sub ask_safely
{
	my ($s, $sql) = @_;

	return ask($s, $sql) if !$sessions[$s]{open};
	ask($s, 'SAVEPOINT safe');
	my $answer = ask($s, $sql);
	ask($s, $answer =~ /^ID\d{3}$/ ? 'ROLLBACK TO safe' : 'RELEASE safe');
	return $answer;
}

sub now { return time() + $offset; }

# Has this moment passed?  undef: too close to say.
sub passed
{
	my ($moment) = @_;

	return 0 if $moment eq 'infinity';
	my $left = $moment - now();
	return abs($left) < 5 ? undef : $left < 0;
}

# Does a committed row count?  undef: too close to say.
sub live
{
	my ($row) = @_;

	return 0 if !$row;
	my $over = passed($row->{expires});
	return defined $over ? !$over : undef;
}

# What a session finds: 'busy', 'none', or the row; undef: too close to say.
sub look
{
	my ($s, $key) = @_;

	if (defined $key->{holder})
	{
		return 'busy' if $key->{holder} != $s;
		return $key->{own}{kind} eq 'none' ? 'none' : $key->{own};
	}
	my $live = live($key->{row});
	return undef if !defined $live;
	return $live ? $key->{row} : 'none';
}

# What session s has written: a row, or { kind => 'none' }.
sub wrote
{
	my ($s, $key, $row) = @_;

	if ($sessions[$s]{open})
	{
		$key->{holder} = $s;
		$key->{own} = $row;
	}
	elsif ($row->{kind} eq 'none') { delete $key->{row}; }
	else { $key->{row} = $row; }
	return;
}

# A transaction ends: what its session holds is committed, or isn't.
sub end_transaction
{
	my ($s, $commit) = @_;

	$sessions[$s]{open} = 0;
	foreach my $key (values %keys)
	{
		next unless defined $key->{holder} && $key->{holder} == $s;
		my $own = $key->{own};

		delete $key->{holder};
		delete $key->{own};
		wrote($s, $key, $own) if $commit;
	}
	return;
}

# The keys that a session has claimed without a lease and not settled.
sub unsettled
{
	my ($s) = @_;

	return grep { defined $_->{holder} && $_->{holder} == $s && $_->{own}{kind} eq 'held' }
	  map { $keys{$_} } sort keys %keys;
}

# Until when does the session see the key remembered?
sub expires_at
{
	my ($s, $key) = @_;
	my $expires = ask($s,
		"SELECT coalesce(extract(epoch FROM nullif(expires_at, 'infinity')), -1) FROM idempotency.peek('$key->{scope}', '$key->{key}')"
	);

	return $expires eq '-1' ? 'infinity' : $expires;
}

# The row that a failure leaves of this one.
sub failed_row
{
	my ($key, $row, $final, $error, $since) = @_;
	my $kind = $final ? 'failed'
	  : $row->{attempt} >= $scopes{ $key->{scope} }{attempts} ? 'exhausted' : 'retry';

	return {
		%$row,
		kind => $kind,
		text => $error,
		error => $error,
		$kind eq 'retry' ? () : (point => '', saved => ''),
		failed_after => $since,
		failed_before => now(),
		released => 0
	};
}

my %fail_outcome = (failed => 'failed', retry => 'retry_later', exhausted => 'exhausted');

# Settle what this session holds without a lease; returns what is in the row
# then.
sub settle
{
	my ($s, $key) = @_;
	my $how = rand();
	my $text = 'r' . int(rand(1e9));
	my $retention = rand() < 0.3 ? q{, retention => '} . (1 + int(rand(19))) . q{ min'} : '';
	my $since = now();
	my $row;

	if ($how < 0.7)
	{
		return undef if ask($s, "SELECT idempotency.finish('$key->{scope}', '$key->{key}', '$text'$retention) IS NOT NULL") ne 't';
		$row = { %{ $key->{own} }, kind => 'done', text => $text, point => '', saved => '' };
	}
	else
	{
		my $final = $how < 0.8 ? 'false' : 'true';
		my $outcome = ask($s,
			"SELECT outcome FROM idempotency.fail('$key->{scope}', '$key->{key}', '$text', retryable => $final, retry_after_ms => 0$retention)"
		);
		$row = failed_row($key, $key->{own}, $final eq 'false', $text, $since);
		return undef if $outcome ne $fail_outcome{ $row->{kind} };
	}
	$row->{fence} = 0;
	$row->{expires} = expires_at($s, $key);
	return $row->{expires} =~ /^(infinity|[\d.]+)$/ ? $row : undef;
}

# What a claim by session s must be answered; undef: too close to say.
sub expect_claim
{
	my ($s, $key, $owner) = @_;
	my $row = look($s, $key);
	my %first = (grant => 1, outcome => 'execute', attempt => 1, point => '', saved => '');

	return undef if !defined $row;
	return { outcome => 'in_progress' } if $row eq 'busy';
	return \%first if $row eq 'none';

	my $kind = $row->{kind};
	my %next = (
		%first,
		outcome => $row->{point} ne '' ? 'resume' : 'execute',
		attempt => $row->{attempt} + 1,
		point => $row->{point},
		saved => $row->{saved},
		before => $row);
	return { outcome => 'in_progress' } if $kind eq 'held';
	return { outcome => 'replay', text => $row->{text} } if $kind eq 'done';
	return { outcome => 'replay', text => "failed $row->{text}" } if $kind eq 'failed';
	return { outcome => 'exhausted' } if $kind eq 'exhausted';
	if ($kind eq 'retry')
	{
		# the clock may have been set back behind the failure
		return \%next if now() > $row->{failed_before};
		return now() < $row->{failed_after} ? { outcome => 'retry_later' } : undef;
	}

	my $policy = $scopes{ $key->{scope} };
	my $over = passed($row->{until});
	return undef if !defined $over;
	if (!$over)
	{
		return { outcome => 'in_progress', lease => $row } if $owner eq '' || $owner ne $row->{owner};
		return { %next, same => $row, attempt => $row->{attempt} };
	}
	return \%first if $policy->{expiry} eq 'forget';
	return { outcome => 'indeterminate', lease => $row } if $policy->{expiry} eq 'indeterminate';
	return { outcome => 'exhausted' } if $row->{attempt} >= $policy->{attempts};
	return { %next, outcome => 'resume' };
}

# The columns by which a claim is checked.
my $columns = q{outcome, CASE WHEN outcome = 'replay' THEN coalesce('failed ' || error, response, '') ELSE '' END,
	coalesce(attempt, 0), coalesce(recovery_point, ''), coalesce(state, ''), coalesce(fence, 0),
	coalesce(extract(epoch FROM lease_until), 0), coalesce(extract(epoch FROM nullif(expires_at, 'infinity')), -1)};

# One claim, and perhaps its settlement.  Returns what is wrong, or ''.
sub step_claim
{
	my ($s, $key) = @_;
	my $minutes = rand() < 0.5 ? 0 : 1 + int(rand(20));
	my $owner = $minutes && rand() < 0.7 ? (rand() < 0.8 ? 'one' : 'two') : '';
	my $many = rand() < 0.2;
	$owner = '' if $many;
	my $saved = $minutes && !$many && rand() < 0.3 ? 's' . int(rand(1e6)) : '';
	my $expected = expect_claim($s, $key, $owner);

	return '' if !defined $expected;
	# without a transaction, claim and settlement are a transaction of their own
	my $alone = !$sessions[$s]{open};
	if ($alone)
	{
		ask($s, 'BEGIN');
		$sessions[$s]{open} = 1;
	}
	my $lease = $minutes ? ", lease => '$minutes min'" : '';
	$lease .= ", owner => '$owner'" if $owner ne '';
	$lease .= ", state => '$saved'" if $saved ne '';
	my $answer = ask($s,
		$many
		? "SELECT $columns FROM idempotency.claim_many('$key->{scope}', ARRAY['$key->{key}'], wait => '0'$lease)"
		: "SELECT $columns FROM idempotency.claim('$key->{scope}', '$key->{key}', wait => '0'$lease)"
	);
	my ($outcome, $text, $attempt, $point, $state, $fence, $until, $expires) = split /\|/, $answer, -1;
	my $wrong = "expected $expected->{outcome}, got $answer";

	$seen{ ($expected->{same} ? 'again ' : '') . $outcome }++;
	return $wrong if $outcome ne $expected->{outcome} || $text ne ($expected->{text} // '');
	if (my $row = $expected->{lease} // $expected->{same})
	{
		return "$wrong: of another attempt or lease"
		  if $attempt != $row->{attempt} || abs($until - $row->{until}) > 0.01;
	}
	if ($expected->{grant})
	{
		$saved = $expected->{saved} if $expected->{saved} ne '';
		$saved = $expected->{saved} if $expected->{same};
		return "$wrong: expected attempt $expected->{attempt}, point '$expected->{point}', state '$saved'"
		  if $attempt != $expected->{attempt} || $point ne $expected->{point} || $state ne $saved;
	}
	elsif ($fence != 0) { return "$wrong: a fence for a stranger"; }

	if (my $row = $expected->{same}) { return "$wrong: another fence" if $fence != $row->{fence}; }
	elsif ($expected->{grant} && $minutes)
	{
		return "$wrong: not greater than $max_fence" if $fence <= $max_fence;
		return "$wrong: a lease of another length" if abs($until - now() - $minutes * 60) > 5;
		$max_fence = $fence;
		unshift @{ $key->{fences} }, $fence;
		wrote($s, $key, {
			kind => 'lease',
			attempt => $attempt,
			point => $point,
			saved => $saved,
			fence => $fence,
			owner => $owner,
			until => $until,
			expires => $expires == -1 ? 'infinity' : $expires,
			error => $expected->{before} ? $expected->{before}{error} : undef
		});
	}
	elsif ($expected->{grant})
	{
		return "$wrong: a fence without a lease" if $fence != 0;
		wrote($s, $key, {
			kind => 'held',
			attempt => $attempt,
			point => $point,
			saved => $saved,
			before => $expected->{before}
		});
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

# A call of a holder, or of who believes to be one.  Returns what is wrong, or
# ''.
sub step_holder
{
	my ($s, $key) = @_;
	my $row = look($s, $key);

	return '' if !defined $row || $row eq 'busy';
	my $found = ref $row ? $row : { kind => 'none' };
	my $fence = $found->{fence} || 4711;
	if (rand() < 0.25)
	{
		my @old = grep { $_ != $fence } @{ $key->{fences} // [] };
		$fence = @old ? $old[ int(rand(@old)) ] : 4711;
	}
	my $matches = ($found->{fence} // 0) == $fence;
	my $running = $matches && $found->{kind} eq 'lease';
	my $what = ('heartbeat', 'checkpoint', 'checkpoint', 'assert_fence', 'finish', 'fail', 'fail', 'release')[ int(rand(8)) ];
	my $name = "'$key->{scope}', '$key->{key}'";
	my $minutes = 1 + int(rand(20));
	# sometimes the same answer once more
	my $text = rand() < 0.4 && defined $found->{text} ? $found->{text} : 'h' . int(rand(1e9));
	my $final = rand() < 0.25;
	my $saved = rand() < 0.5 ? 's' . int(rand(1e6)) : '';
	my $since = now();
	my %sql = (
		heartbeat => "extract(epoch FROM idempotency.heartbeat($name, $fence, '$minutes min'))",
		checkpoint => "idempotency.checkpoint($name, $fence, '$text'" . ($saved eq '' ? ')' : ", '$saved')"),
		assert_fence => "idempotency.assert_fence($name, $fence)",
		finish => "idempotency.finish($name, '$text', $fence) IS NOT NULL",
		fail => "outcome FROM idempotency.fail($name, '$text', " . ($final ? 'false' : 'true') . ", $fence, 0)",
		release => "idempotency.release($name, $fence)");
	my $expected = 't';
	my $next;

	if ($running)
	{
		$next =
			$what eq 'heartbeat' ? { %$found, until => $since + $minutes * 60 }
		  : $what eq 'checkpoint' ? { %$found, point => $text, $saved ne '' ? (saved => $saved) : () }
		  : $what eq 'finish' ? { %$found, kind => 'done', text => $text, error => undef, point => '', saved => '' }
		  : $what eq 'fail' ? failed_row($key, $found, $final, $text, $since)
		  : $what eq 'assert_fence' ? {%$found}
		  : $found->{attempt} == 1 ? { kind => 'none' }
		  : { %$found, kind => 'retry', attempt => $found->{attempt} - 1, text => $found->{error}, released => 1,
			failed_after => $since };
		$expected = $fail_outcome{ $next->{kind} } if $what eq 'fail';
	}
	elsif ($found->{kind} eq 'none') { $expected = $what eq 'release' ? 'f' : 'ID404'; }
	elsif (!$matches) { $expected = 'ID412'; }
	elsif ($what eq 'release') { $expected = $found->{kind} eq 'retry' && $found->{released} ? 'f' : 'ID412'; }
	elsif ($what eq 'finish') { $expected = 'ID412' unless $found->{kind} eq 'done' && $found->{text} eq $text; }
	elsif ($what eq 'fail' && $found->{kind} ne 'done' && $final == ($found->{kind} eq 'failed')
		&& defined $found->{error} && $found->{error} eq $text)
	{
		$expected = $fail_outcome{ $found->{kind} };
	}
	else { $expected = 'ID412'; }

	my $answer = ask_safely($s, "SELECT $sql{$what}");
	$seen{"$what $expected"}++;
	if ($running && $what eq 'heartbeat' && $answer =~ /^[\d.]+$/)
	{
		return "heartbeat: $answer" if abs($answer - $next->{until}) > 5;
		$next->{until} = $answer;
	}
	elsif ($answer ne $expected) { return "$what with fence $fence: expected $expected, got $answer"; }
	return '' if !$next;
	$next->{failed_before} = now() if $next->{kind} eq 'retry';
	wrote($s, $key, $next);
	# (what its policy forgets is not to be seen, but the holder's still)
	if ($next->{kind} ne 'none' && ($scopes{ $key->{scope} }{expiry} ne 'forget' || $what !~ /checkpoint|assert/))
	{
		$next->{expires} = expires_at($s, $key);
		return "$what: $next->{expires}" if $next->{expires} !~ /^(infinity|[\d.]+)$/;
	}
	return '';
}

# An operator resolves.  Returns what is wrong, or ''.
sub step_resolve
{
	my ($s, $key) = @_;
	my $row = look($s, $key);

	return '' if !defined $row;
	my $over = ref $row && $row->{kind} eq 'lease' ? passed($row->{until}) : 0;
	return '' if !defined $over;
	my $expected =
		$row eq 'none' ? 'ID404'
	  : $row eq 'busy' || $row->{kind} eq 'held' ? 'ID409'
	  : $row->{kind} eq 'lease' ? ($over ? 't' : 'ID409')
	  : $row->{kind} =~ /^(retry|exhausted)$/ ? 't' : 'ID412';
	my $kind = ('done', 'failed', 'retry')[ int(rand(3)) ];
	my %outcome = (done => 'succeeded', failed => 'failed', retry => 'retry');
	my $text = 'o' . int(rand(1e9));
	my $since = now();
	my $answer = ask_safely($s, "SELECT idempotency.resolve('$key->{scope}', '$key->{key}', '$outcome{$kind}', '$text', 'test')");

	$seen{"resolve $expected"}++;
	return "resolve: expected $expected, got $answer" if $answer ne $expected;
	return '' if $expected ne 't';
	my $next = {
		%$row,
		kind => $kind,
		text => $text,
		error => $kind eq 'done' ? undef : $text,
		failed_after => $since,
		failed_before => now(),
		released => 0,
		$kind eq 'retry' ? () : (point => '', saved => '')
	};
	wrote($s, $key, $next);
	$next->{expires} = expires_at($s, $key);
	return $next->{expires} =~ /^(infinity|[\d.]+)$/ ? '' : "resolve: $next->{expires}";
}

# What is abandoned is shown, or taken.  Returns what is wrong, or ''.
sub step_abandoned
{
	my ($s) = @_;
	my $scope = (sort keys %scopes)[ int(rand(keys %scopes)) ];
	my (@shown, @takable);

	return '' if $sessions[$s]{open};
	foreach my $key (grep { $_->{scope} eq $scope } map { $keys{$_} } sort keys %keys)
	{
		my $row = $key->{row};
		my $live = live($row);

		return '' if !defined $live;
		next if !$live || $row->{kind} ne 'lease';
		my $over = passed($row->{until});
		return '' if !defined $over;
		next if !$over;
		push @shown, $key;
		push @takable, $key
		  if !defined $key->{holder} && $scopes{$scope}{expiry} eq 'resume' && $row->{attempt} < $scopes{$scope}{attempts};
	}
	@shown = sort { $a->{row}{until} <=> $b->{row}{until} } @shown;
	@takable = sort { $a->{row}{until} <=> $b->{row}{until} } @takable;

	my $answer = ask($s, "SELECT coalesce(string_agg(key, ' '), '') FROM idempotency.abandoned('$scope')");
	my $expected = join(' ', map { $_->{key} } @shown);
	return "abandoned in $scope: expected '$expected', got '$answer'" if $answer ne $expected;
	return '' if rand() < 0.5;

	my $n = 1 + int(rand(3));
	splice @takable, $n if @takable > $n;
	my @taken = split /\n/, ask($s, "SELECT key, $columns FROM idempotency.take_abandoned('$scope', $n, '5 min')");
	foreach my $key (@takable)
	{
		my $row = $key->{row};
		my ($name, $outcome, $text, $attempt, $point, $state, $fence, $until, $expires) = split /\|/, shift(@taken) // '', -1;

		$seen{'taken'}++;
		return "take_abandoned in $scope: not $key->{key}" if ($name // '') ne $key->{key};
		return "take_abandoned: $key->{key}: $outcome $attempt $point $state $fence"
		  if $outcome ne 'resume' || $attempt != $row->{attempt} + 1 || $point ne $row->{point}
		  || $state ne $row->{saved} || $fence <= $max_fence || abs($until - now() - 300) > 5;
		$max_fence = $fence;
		unshift @{ $key->{fences} }, $fence;
		$key->{row} = { %$row, attempt => $attempt, fence => $fence, owner => '', until => $until,
			expires => $expires == -1 ? 'infinity' : $expires };
	}
	return @taken ? "take_abandoned in $scope: also @taken" : '';
}

# A reader looks at what is committed.  Returns what is wrong, or ''.
sub step_peek
{
	my ($s, $key) = @_;
	my $row = $key->{row};

	return '' if defined $key->{holder} && $key->{holder} == $s;
	my $live = live($row);
	return '' if !defined $live;
	my $over = $live && $row->{kind} eq 'lease' ? passed($row->{until}) : 0;
	return '' if !defined $over;
	my $policy = $scopes{ $key->{scope} };
	my $expected =
		!$live ? ''
	  : $row->{kind} eq 'done' ? "replay|$row->{text}"
	  : $row->{kind} eq 'failed' ? "replay|failed $row->{text}"
	  : $row->{kind} eq 'retry' ? 'retry_later|'
	  : $row->{kind} eq 'exhausted' ? 'exhausted|'
	  : !$over ? 'in_progress|'
	  : $policy->{expiry} eq 'forget' ? ''
	  : $policy->{expiry} eq 'indeterminate' ? 'indeterminate|'
	  : $row->{attempt} >= $policy->{attempts} ? 'exhausted|' : 'in_progress|lease_expired';
	my $answer = ask($s,
		"SELECT outcome, CASE WHEN outcome = 'replay' THEN coalesce('failed ' || error, response, '') WHEN outcome = 'in_progress' THEN coalesce(reason, '') ELSE '' END FROM idempotency.peek('$key->{scope}', '$key->{key}')"
	);

	return $answer eq $expected ? '' : "peek: expected $expected, got $answer";
}

# An operator forgets.  Returns what is wrong, or ''.
sub step_forget
{
	my ($s, $key) = @_;

	return '' if $sessions[$s]{open};
	my $row = look($s, $key);
	return '' if !defined $row;
	my $over = ref $row && $row->{kind} eq 'lease' ? passed($row->{until}) : 1;
	return '' if !defined $over;
	my $fence = rand() < 0.3 ? ($key->{fences} // [4711])->[0] : 0;
	my $expected =
		$row eq 'busy' ? 'ID409'
	  : $row eq 'none' || ($fence && $fence != ($row->{fence} // 0)) ? 'f'
	  : $over ? 't' : 'ID409';
	my $answer = ask($s,
		"SELECT idempotency.forget('$key->{scope}', '$key->{key}', 'test'" . ($fence ? ", $fence)" : ')'));

	delete $key->{row} if $answer eq 't';
	return $answer eq $expected ? '' : "forget: expected $expected, got $answer";
}

# Settle, or give up, something that this session holds without a lease.
# Returns what is wrong, or ''.
sub step_settle
{
	my ($s) = @_;
	my ($held) = unsettled($s);

	return '' if !$held;
	$last = $held;
	if (rand() < 0.25)
	{
		my $before = $held->{own}{before};
		my $answer = ask($s, "SELECT idempotency.release('$held->{scope}', '$held->{key}')");

		return "release: $answer" if $answer ne 't';
		# the row of the attempt before is in this transaction's hands still
		$held->{own} = $before ? {%$before} : { kind => 'none' };
		return '';
	}
	$held->{own} = settle($s, $held) // return 'could not settle';
	return '';
}

# Begin a transaction, or end the one that is open.  Returns what is wrong, or
# ''.
sub step_transaction
{
	my ($s) = @_;

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

# The clock moves: mostly minutes, sometimes hours, seldom days, or back.
sub step_clock
{
	my $kind = rand();
	my $jump =
		$kind < 0.08 ? -int(rand(500))
	  : $kind < 0.45 ? int(rand(400))
	  : $kind < 0.75 ? int(rand(1200))
	  : $kind < 0.92 ? int(rand(3 * 3600))
	  : $kind < 0.98 ? int(rand(12 * 3600))
	  : int(rand(15 * 86400));

	$offset += $jump;
	push @log, "clock: $jump";
	# a step back may bring back what has expired; then nobody can say whether
	# the row is there still: wait it out
	if ($jump < 0)
	{
		foreach my $row (grep { $_ && $_->{expires} ne 'infinity' } map { $_->{row} } values %keys)
		{
			next unless $row->{expires} < now() - $jump && $row->{expires} > now() - 5;
			$row->{doubtful} = 1;
		}
		foreach my $row (grep { $_ && $_->{doubtful} } map { $_->{row} } values %keys)
		{
			my $left = $row->{expires} - now() + 6;
			$offset += int($left) if $left > 0;
		}
	}
	ask($_, "SET idempotency.clock_offset = $offset") foreach 0 .. $#sessions;
	return '';
}

# The policy of one scope changes.  Returns what is wrong, or ''.
sub step_policy
{
	my ($s) = @_;

	return '' if $sessions[$s]{open};
	my $retention = $varying[ int(rand(@varying)) ];
	my $max_lease = $leases[ int(rand(@leases)) ];
	my $answer = ask($s, "SELECT ring FROM idempotency.configure('v', retention => '$retention', max_lease => '$max_lease')");

	return $answer =~ /^(short|day|week|month|permanent)$/ ? '' : "configure: $answer";
}

# One step of the history.  Returns what is wrong, or ''.
sub step
{
	my $s = int(rand(@sessions));
	my $key = $keys{ (sort keys %keys)[ int(rand(keys %keys)) ] };
	my $what = rand();

	$last = $key;
	if ($what < 0.34) { return step_claim($s, $key); }
	if ($what < 0.52) { return step_holder($s, $key); }
	if ($what < 0.58) { return step_settle($s); }
	if ($what < 0.67) { return step_transaction($s); }
	if ($what < 0.70) { return step_forget($s, $key); }
	if ($what < 0.73) { return step_resolve($s, $key); }
	if ($what < 0.79) { return step_abandoned($s); }
	if ($what < 0.84) { return step_peek($s, $key); }
	if ($what < 0.91) { return step_clock(); }
	if ($what < 0.96)
	{
		return '' if $sessions[$s]{open};
		my $answer = ask($s, 'SELECT count(*) FROM idempotency.maintain()');
		return $answer =~ /^\d+$/ ? '' : "maintain: $answer";
	}
	return step_policy($s);
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
	$max_fence = 0;
	$offset = int(rand(40 * 86400));
	@sessions = map { { psql => session($node, db => $db), open => 0 } } 1 .. 3;
	foreach my $s (0 .. $#sessions)
	{
		$sessions[$s]{psql}->query_safe('\\set VERBOSITY sqlstate');
		ask($s, q{SELECT FROM idempotency.policy('*')});
		ask($s, "SET idempotency.clock_offset = $offset");
	}
	foreach my $scope (sort keys %scopes)
	{
		my $p = $scopes{$scope};

		ask(0, "SELECT ring FROM idempotency.configure('$scope', retention => '$p->{retention}', max_attempts => $p->{attempts}, on_lease_expiry => '$p->{expiry}')");
	}
	# the database's first leased claim is one that others wait for
	ask(0, q{SELECT idempotency.release('v', 'first', fence) FROM idempotency.claim('v', 'first', lease => '1 s')});
	%keys = ();
	foreach my $scope (sort keys %scopes)
	{
		$keys{"$scope$_"} = { scope => $scope, key => "k$_" } foreach 1 .. 2;
	}
	while ($done < $steps && $wrong eq '')
	{
		$wrong = step();
		$done++;
	}
	is($wrong, '', "history $seed: $done steps as the model says");
	diag($node->safe_psql($db,
			"SELECT segment, expires_at, claimed_at, attempt, state, lease_until, fence FROM idempotency.keys WHERE scope = '$last->{scope}' AND key = '$last->{key}'"))
	  if $wrong ne '';
	diag("history $seed, without what other keys were asked:\n"
		  . join("\n", grep { !/'k\d'/ || /'$last->{scope}', (?:ARRAY\[)?'$last->{key}'/ } @log))
	  if $wrong ne '';
	$_->{psql}->quit foreach @sessions;
}
# a model that never gets anywhere proves nothing
if (!defined $ENV{IDEMPOTENCY_SEED} && $steps >= 1000)
{
	my @missing = grep { !$seen{$_} } (
		'execute', 'resume', 'again execute', 'replay', 'in_progress', 'indeterminate',
		'heartbeat t', 'heartbeat ID404', 'heartbeat ID412', 'checkpoint t', 'checkpoint ID412', 'assert_fence t',
		'assert_fence ID412', 'finish t', 'finish ID412', 'fail retry_later', 'fail ID412', 'release t',
		'release f', 'release ID412', 'resolve t', 'resolve ID404', 'resolve ID409', 'resolve ID412');

	is("@missing", '', 'every common kind of answer has come');
}
note(join(', ', map { "$_: $seen{$_}" } sort keys %seen));

$node->stop;
done_testing();
