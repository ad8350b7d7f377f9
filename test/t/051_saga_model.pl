# Random sagas against a model, while things are killed.
#
# A saga has one to six steps.  Each leaves an effect: inside, a row that its
# SQL handler deletes, or outside, a file in the sink, which a client removes.
# A step may fail for good, its client may end before or after the effect, or
# sleep over the deadline; another client then resumes the saga.  A compensation
# may fail some times, or for good.  Meanwhile clients, helpers, the worker and
# the server are killed.
#
# The sink does what is asked once for each idempotency key, and refuses an
# attempt that is older than one it has met; so it can tell a compensation that
# is done twice from one that is only asked for again.
#
# In the end each saga is completed, with all its effects; or compensated, with
# none; or compensation_failed, exactly if a compensation that was begun was
# made to fail for good.  A control, whose sink is asked to do something behind
# the saga's back, must be found.
#
# SAGA_RUNS sagas; 500 by default, 20000 for a release.  SAGA_SEED.

use strict;
use warnings;

use Fcntl qw(:flock);
use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $runs = $ENV{SAGA_RUNS} // 500;
my $seed = $ENV{SAGA_SEED} // int(rand(1_000_000));
my $clients = 6;
my $sink = PostgreSQL::Test::Utils::tempdir();

note("SAGA_RUNS=$runs SAGA_SEED=$seed");
srand($seed);

my $node = new_node('model', conf => q{
shared_preload_libraries = 'idempotency'
idempotency.naptime = 100
restart_after_crash = on
fsync = on
autovacuum = on
});

sub sql { return $node->safe_psql('postgres', shift); }

sql(q{
	CREATE EXTENSION idempotency;
	CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;
	CREATE TABLE effect (key text, step text);
	CREATE TABLE undone (key text, step text);
	CREATE TABLE plan (key text PRIMARY KEY, n serial, steps jsonb);
	CREATE TABLE tries (key text, step text, n int, PRIMARY KEY (key, step));
	GRANT ALL ON effect, undone, plan, tries TO alice, bob;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA idempotency TO alice, bob;
	-- args: 'ok', or 'fail'
	CREATE FUNCTION undo(args text, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		DELETE FROM effect WHERE key = context->>'key' AND step = context->>'step';
		INSERT INTO undone VALUES (context->>'key', context->>'step');
		IF args = 'never' OR (args = 'later' AND (context->>'attempt')::int < 2) THEN
			RAISE 'no';
		END IF;
	END $$;
	SELECT idempotency.configure('saga', max_attempts => 4, backoff_base => '10 ms', backoff_cap => '50 ms');
});

# The plans: for each step kind (sql or sink), role, how the client fares, and
# how its compensation does.
sub pick { my @from = @_; return $from[ rand @from ]; }
my @rows;
my %plan;
foreach my $n (1 .. $runs)
{
	my @steps;

	foreach my $s (1 .. 1 + int(rand(6)))
	{
		push @steps, {
			name => "s$s",
			kind => pick(qw(sql sql sink)),
			role => pick(qw(alice bob)),
			fate => pick((('ok') x 12), qw(fail die_before die_after overtime)),
			undo => pick((('ok') x 12), qw(later never)),
		};
	}
	$plan{"k$n"} = \@steps;
	push @rows, "('k$n', $n, '[" . join(',', map { my $s = $_; '{' . join(',', map { qq("$_":"$s->{$_}") } sort keys %$s) . '}' } @steps) . "]')";
}
while (my @some = splice @rows, 0, 500)
{
	sql('INSERT INTO plan (key, n, steps) VALUES ' . join(',', @some));
}

#----------------------------------------------------------------------
# the sink: outside of the database, fenced
#----------------------------------------------------------------------

# Do something once; the number is that of the step's effect.  Returns whether
# it is, or was, done; an attempt behind a newer one is refused.
sub sink_do
{
	my ($dir, $what, $key, $step, $fence) = @_;
	my $path = "$dir/$key.$step";

	open(my $lock, '>>', "$path.lock") or die "could not open: $!";
	flock($lock, LOCK_EX);
	my $seen = -e "$path.$what" ? slurp_file("$path.$what") : '';
	my ($max) = sort { $b <=> $a } (0, $seen =~ /fence (\d+)/g);
	my $stale = $fence < $max;
	if (open(my $out, '>>', "$path.$what"))
	{
		print $out $stale ? "refused\n" : $seen =~ /^did/m ? "again fence $fence\n" : "did fence $fence\n";
		$out->flush;
	}
	close $lock;
	return !$stale;
}

# How often did the sink do, and undo, a step?
sub sink_count
{
	my ($what, $key, $step) = @_;
	my $path = "$sink/$key.$step.$what";

	return 0 unless -e $path;
	return scalar(() = slurp_file($path) =~ /^did/mg);
}

#----------------------------------------------------------------------
# what clients do
#----------------------------------------------------------------------

# One attempt at a saga.
sub attempt
{
	my ($c, $session, $key, $tag) = @_;
	my ($state, $answer) = call($c, $session,
		"SELECT outcome, fence, attempt FROM idempotency.claim('saga', '$key', lease => '700 ms', wait => '0');");

	return $state eq 'lost' ? 'again' : 'done' if $state ne '';
	my ($outcome, $fence, $n) = split /\|/, $answer;
	chomp $n if defined $n;
	return $outcome =~ /^(in_progress|retry_later)$/ ? 'again' : 'done' unless $outcome =~ /^(execute|resume)$/;

	my %done;
	($state, $answer) = call($c, $session, "SELECT step FROM idempotency.steps('saga', '$key') WHERE done;");
	return 'again' if $state ne '';
	$done{$_} = 1 foreach split /\n/, $answer;
	foreach my $step (@{ $plan{$key} })
	{
		my $name = $step->{name};

		next if $done{$name};
		my $handler = $step->{kind} eq 'sql' ? "'undo(text,jsonb)'" : 'NULL';
		my $call = "idempotency.compensate_with('saga', '$key', $fence, '$name', $handler, '$step->{undo}', deadline => CASE WHEN '$name' = 's1' THEN interval '6 s' END)";
		my $first = $n == 1;

		if ($step->{kind} eq 'sql')
		{
			# with its effect, in one transaction
			my $end = $first && $step->{fate} eq 'die_before' ? 'ROLLBACK' : 'COMMIT';
			($state) = call($c, $session,
				"SET ROLE $step->{role}; BEGIN; SELECT $call; INSERT INTO effect VALUES ('$key', '$name'); SELECT idempotency.step_done('saga', '$key', $fence, '$name'); $end; RESET ROLE;");
		}
		else
		{
			($state) = call($c, $session, "SELECT $call;");
			return 'again' if $state ne '';
			return 'again' if $first && $step->{fate} eq 'die_before';
			# the sink takes nothing from who is stale
			($state) = call($c, $session, "SELECT idempotency.heartbeat('saga', '$key', $fence, '700 ms');");
			return 'again' if $state ne '';
			return 'again' unless sink_do($sink, 'do', $key, $name, $fence);
			($state) = call($c, $session, "SELECT idempotency.step_done('saga', '$key', $fence, '$name');")
			  unless $first && $step->{fate} eq 'die_after';
		}
		call($c, $session, 'ROLLBACK; RESET ROLE;') if $state ne '';
		return 'again' if $state ne '' || ($first && $step->{fate} =~ /^die/);
		sleep(1) if $first && $step->{fate} eq 'overtime';
		if ($step->{fate} eq 'fail')
		{
			call($c, $session, "SELECT idempotency.fail('saga', '$key', 'step $name failed', false, $fence);");
			return 'done';
		}
	}
	($state) = call($c, $session, "SELECT idempotency.finish('saga', '$key', 'all done', $fence);");
	return $state eq 'lost' ? 'again' : 'done';
}

# An external compensation, if one is due.  Returns whether there was one.
sub undo_one
{
	my ($c, $session) = @_;
	my ($state, $answer) = call($c, $session,
		"SELECT key, step, args, attempt, fence, idempotency_key FROM idempotency.next_compensation('saga', '1 s');");

	return 0 if $state ne '' || $answer eq '';
	my ($key, $step, $args, $attempt, $fence) = split /\|/, $answer;
	return 1 if rand() < 0.03;	# the client ends
	my $fails = $args eq 'never' || ($args eq 'later' && $attempt < 2);

	return 1 if !$fails && !sink_do($sink, 'undo', $key, $step, $fence);
	return 1 if rand() < 0.03;
	call($c, $session, "SELECT idempotency.settle_compensation('saga', '$key', '$step', $fence, " . ($fails ? "false, 'no');" : 'true);'));
	return 1;
}

# A client: its share of the sagas, several times if need be, and compensations.
sub work
{
	my ($c, $number, $file) = @_;
	my @mine = grep { my ($n) = /(\d+)/; $n % $clients == $number } sort keys %plan;
	my %open = map { $_ => 1 } @mine;
	my $session;

	srand($seed + $number);
	until (-e "$c->{dir}/stop")
	{
		my @keys = sort keys %open;

		@keys = @keys[ 0 .. 19 ] if @keys > 20;
		foreach my $key (@keys)
		{
			last if -e "$c->{dir}/stop";
			my $result = attempt($c, \$session, $key, "$number");

			if ($result eq 'done')
			{
				delete $open{$key};
				journal($file, "done $key");
			}
		}
		my $undone = 0;
		$undone++ while $undone < 20 && undo_one($c, \$session);
		sleep(0.05) if !$undone && !keys %open;
	}
	return;
}

#----------------------------------------------------------------------
# the run
#----------------------------------------------------------------------
my $began = time();
my $running = start_clients($node, $clients, work => \&work);
my ($crashes, $helpers, $workers, $backends) = (0, 0, 0, 0);
my $limit = $began + 60 + $runs / 5;
my $next = time() + 2;
my $open = 1;

# A query in spite of crashes; undef if it failed.
sub ask_for
{
	my ($query) = @_;
	my ($out, $err) = ('', '');

	return $node->psql('postgres', $query, stdout => \$out, stderr => \$err, on_error_die => 0) == 0 ? $out : undef;
}

# kill -9 of one process of this kind; the server restarts all of them
sub kill_one
{
	my ($where) = @_;
	my $pid = ask_for("SELECT pid FROM pg_stat_activity WHERE $where AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");

	return $pid ? kill('KILL', $pid) : 0;
}

my $kills = 6 + int($runs / 250);
while (time() < $limit)
{
	sleep(0.2);
	if ($kills > 0 && time() > $next)
	{
		my $what = $kills-- % 4;

		$next = time() + 1.5 + rand(1.5);
		if ($what == 0) { $backends += kill_one("backend_type = 'client backend'"); }
		elsif ($what == 1) { $helpers += kill_one("backend_type = 'idempotency saga helper'"); }
		elsif ($what == 2) { $workers += kill_one("backend_type = 'idempotency worker'"); }
		else
		{
			kill 'KILL', (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
			$node->{_pid} = undef;
			sleep(0.1);
			try_start($node);
			$crashes++;
		}
	}
	next if $kills > 0;
	$open = ask_for(q{SELECT count(*) FROM plan AS p LEFT JOIN idempotency.keys AS k ON k.key = p.key AND k.scope = 'saga'
		LEFT JOIN idempotency.sagas AS s ON s.key = p.key
		WHERE k.state IS NULL OR NOT (k.state IN ('succeeded', 'failed') OR coalesce(s.state, '') = 'compensation_failed')});
	last if defined $open && $open eq '0';
}
my $took = time() - $began;
stop_clients($running);
is($open, 0, 'every saga came to an end');
is($running->{failed}, 0, 'no client failed');

#----------------------------------------------------------------------
# the model
#----------------------------------------------------------------------
my %state = map { split /\|/ } split /\n/, sql(q{
	SELECT p.key, CASE WHEN k.state = 'succeeded' THEN 'completed' WHEN k.state = 'failed' THEN 'compensated' ELSE coalesce(s.state, k.state, 'none') END
	FROM plan AS p LEFT JOIN idempotency.keys AS k ON k.key = p.key AND k.scope = 'saga' LEFT JOIN idempotency.sagas AS s ON s.key = p.key});
my %effect = map { $_ => 1 } split /\n/, sql(q{SELECT key || '.' || step FROM effect});
my %undone;
$undone{$_}++ foreach split /\n/, sql(q{SELECT key || '.' || step FROM undone});
my %step_state = map { split /\|/ } split /\n/, sql(q{SELECT key || '.' || step, state FROM idempotency.saga_steps});
my $doubled = sql(q{SELECT count(*) FROM (SELECT FROM effect GROUP BY key, step HAVING count(*) > 1) AS d});
my %n = (completed => 0, compensated => 0, compensation_failed => 0);
my @wrong;

is($doubled, 0, 'no effect was left twice');
foreach my $key (sort keys %plan)
{
	my $state = $state{$key};
	my ($there, $gone, $failed, $any_never) = (0, 0, 0, 0);

	$n{$state}++;
	foreach my $step (@{ $plan{$key} })
	{
		my $id = "$key.$step->{name}";
		my ($did, $undid) = $step->{kind} eq 'sql'
		  ? ((exists $effect{$id} || $undone{$id}) ? 1 : 0, $undone{$id} // 0)
		  : (sink_count('do', $key, $step->{name}), sink_count('undo', $key, $step->{name}));
		my $is = $step->{kind} eq 'sql' ? (exists $effect{$id} ? 1 : 0) : $did && !$undid ? 1 : 0;

		push @wrong, "$id: done $did times" if $did > 1;
		push @wrong, "$id: undone $undid times" if $undid > 1;
		$there += $is;
		$failed++ if ($step_state{$id} // '') eq 'failed';
		$any_never++ if ($step_state{$id} // '') eq 'failed' && $step->{undo} eq 'never';
		push @wrong, "$id: undone, though completed" if $state eq 'completed' && $undid;
		push @wrong, "$id: its compensation was to fail" if ($step_state{$id} // '') eq 'compensated' && $step->{undo} eq 'never';
	}
	my $all = @{ $plan{$key} };
	push @wrong, "$key: completed with $there of $all effects" if $state eq 'completed' && $there != $all;
	push @wrong, "$key: compensated with $there effects left" if $state eq 'compensated' && $there != 0;
	push @wrong, "$key: compensation_failed without reason" if $state eq 'compensation_failed' && ($failed != 1 || $any_never != 1);
	push @wrong, "$key: is $state" unless exists $n{$state} && $state =~ /^comp/;
}
is("@wrong[ 0 .. ($#wrong > 9 ? 9 : $#wrong) ]", '', "$runs sagas are as the model says");
diag(sprintf("%d sagas in %.0f s: %d completed, %d compensated, %d compensation_failed; killed: server %d, worker %d, helper %d, client's backend %d (SAGA_SEED=%d)",
	$runs, $took, @n{qw(completed compensated compensation_failed)}, $crashes, $workers, $helpers, $backends, $seed));
ok($n{$_} > 0, "some are $_") foreach sort keys %n;
is(sql('SELECT count(*) FROM idempotency.verify()'), 0, 'verify() finds nothing');

# the control: the same counting finds what was done behind the saga's back
my ($some) = grep { $state{$_} eq 'completed' && grep { $_->{kind} eq 'sink' } @{ $plan{$_} } } sort keys %plan;
my ($step) = grep { $_->{kind} eq 'sink' } @{ $plan{$some} };
sink_do($sink, 'undo', $some, $step->{name}, 2**62);
is(sink_count('undo', $some, $step->{name}), 1, 'control: an effect that was undone behind its back is found');

done_testing();
