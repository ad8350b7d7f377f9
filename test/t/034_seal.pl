# Sealing while everything happens: nothing is missed, and nothing is sealed twice
# or out of order.
#
# Clients decide about the same few keys in every way there is: commits and
# rollbacks, savepoints, prepared transactions that end later, transactions that
# had their id long before, ones that decide much, leases, bulk loads.  Each
# writes down, in the same transaction, what it decides.  Backends and the
# postmaster are killed meanwhile.  The worker seals every 100 ms, somebody calls
# maintain() all the time, and a reader writes down every checkpoint it is told.
# At the end the tree has each decision that was committed once, in the order of
# their numbers, which for each key is that of its events; and each checkpoint
# that was read is of a tree that this one begins with.
#
# The control is a sealer that takes the greatest number it sees for a watermark:
# it must miss some.
#
# SEAL_SECONDS (10): how long; 600 for a release.

use strict;
use warnings;

use File::Basename;
use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seconds = $ENV{SEAL_SECONDS} // 10;
my $testlib = have_test_library();
my $node = new_node('sealed', conf => q{
	restart_after_crash = on
	track_commit_timestamp = on
	max_worker_processes = 12
	idempotency.naptime = '100ms'
});

# Run commands; returns what they print.
sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# Preload the library, that with fault points if there is one.
sub preload
{
	use_test_library($node) if $testlib;
	$node->append_conf('postgresql.conf', q{dynamic_library_path = '} . dirname($testlib) . q{:$libdir'}) if $testlib;
	$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'idempotency'});
	$node->restart;
	return;
}

sql(q{
	CREATE EXTENSION idempotency;
	SELECT idempotency.configure('app', max_attempts => 1000000, backoff_base => '1 ms');
	SELECT idempotency.configure('leased', max_attempts => 1000000, backoff_base => '1 ms');

	CREATE TABLE decided (key text, decision text);
	-- one step in the life of a key, and what the ledger should say of it
	CREATE FUNCTION step(k text, how int) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		c record;
		what text;
	BEGIN
		SELECT * INTO c FROM idempotency.claim('app', k, wait => '20 ms');
		IF c.outcome = 'execute' AND how < 6 THEN
			PERFORM idempotency.finish('app', k, 'done');
			what := 'executed';
		ELSIF c.outcome = 'execute' AND how < 9 THEN
			PERFORM idempotency.fail('app', k, 'not yet', retry_after_ms => 0);
			what := 'retry';
		ELSIF c.outcome = 'execute' THEN
			PERFORM idempotency.fail('app', k, 'never', retryable => false);
			what := 'failed';
		ELSIF c.outcome = 'replay' THEN
			-- unless somebody else has done so meanwhile
			IF NOT idempotency.forget('app', k, 'once more') THEN
				RETURN 'gone';
			END IF;
			what := 'forgotten';
		ELSE
			RETURN c.outcome;
		END IF;
		INSERT INTO decided VALUES (k, what);
		RETURN what;
	END;
	$$;

	CREATE TABLE bulk (id text);
	CREATE TRIGGER dedup BEFORE INSERT ON bulk FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('bulk', 'id');
	CREATE SEQUENCE bulk_id;
	CREATE FUNCTION load(n int) RETURNS void LANGUAGE sql AS $$
		WITH i AS (INSERT INTO bulk SELECT nextval('bulk_id') FROM generate_series(1, n) RETURNING id)
		INSERT INTO decided SELECT id, 'executed' FROM i $$;

	-- the control
	CREATE TABLE naive (seq bigint);
	CREATE TABLE naive_mark (seq bigint);
	INSERT INTO naive_mark VALUES (0);
	CREATE FUNCTION naive_seal() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		since bigint := (SELECT seq FROM naive_mark);
		upto bigint := (SELECT max(seq) FROM idempotency.ledger_entry);
	BEGIN
		IF upto > since THEN
			INSERT INTO naive SELECT seq FROM idempotency.ledger_entry WHERE seq > since AND seq <= upto;
			UPDATE naive_mark SET seq = upto;
		END IF;
	END;
	$$;
});
preload();

#----------------------------------------------------------------------
# the clients
#----------------------------------------------------------------------
my $transactions = 0;

# A step of some key.
sub a_step { return "SELECT step('k-" . int(rand(40)) . q{', } . int(rand(10)) . ')'; }

# A transaction in one of the ways there are.
sub transaction
{
	my ($gid) = @_;
	my $dice = rand();
	my $end = rand() < 0.7 ? 'COMMIT' : 'ROLLBACK';
	my $sleep = sprintf('SELECT pg_sleep(%.3f)', rand(0.15));
	my @steps;

	if ($dice < 0.25) { return a_step(); }
	elsif ($dice < 0.35) { @steps = (a_step(), $sleep) }
	elsif ($dice < 0.45) { @steps = map { a_step() } 1 .. 1 + int(rand(6)) }
	elsif ($dice < 0.60)
	{
		@steps = (a_step(), 'SAVEPOINT a', a_step(), 'SAVEPOINT b', a_step(), 'ROLLBACK TO b', a_step(),
			rand() < 0.5 ? 'ROLLBACK TO a' : 'RELEASE a', a_step());
	}
	elsif ($dice < 0.70) { @steps = ('SELECT pg_current_xact_id()', $sleep, a_step()) }
	elsif ($dice < 0.80) { @steps = (a_step(), $sleep, a_step()) }
	elsif ($dice < 0.85) { @steps = ('SELECT load(' . int(rand(600)) . ')', $sleep) }
	# so much that it is written before the end
	elsif ($dice < 0.853) { @steps = ('SELECT load(100)', 'SAVEPOINT a', 'SELECT load(12000)', 'ROLLBACK TO a', $sleep, a_step()) }
	elsif ($dice < 0.856) { @steps = ('SELECT load(12000)', $sleep) }
	else
	{
		return join '\; ', 'BEGIN', a_step(), $dice < 0.9 ? 'SELECT load(20)' : $sleep, a_step(),
		  "PREPARE TRANSACTION '$gid'";
	}
	return join '\; ', 'BEGIN', @steps, $end;
}

# Decide something, until told to stop.
sub decider
{
	my ($clients, $number, $file) = @_;
	my ($session, %done);

	for (my $i = 0; !-e "$clients->{dir}/stop"; $i++)
	{
		my $gid = "p-$number-$$-$i";
		my $transaction = transaction($gid);
		my ($state) = call($clients, \$session, "$transaction;");

		if ($transaction =~ /PREPARE/ && $state eq '')
		{
			my ($ending) = rand() < 0.6 ? 'COMMIT' : 'ROLLBACK';

			sleep(rand(0.3));
			($state) = call($clients, \$session, "$ending PREPARED '$gid';");
		}
		call($clients, \$session, 'ROLLBACK;') if $state !~ /^(|lost)$/;
		$done{$state}++;
		sleep(0.02) if $state eq 'lost';
	}
	journal($file, join ' ', 'done', %done);
	return;
}

# Tell what is asked of each of the others: the leaser, whoever calls maintain(),
# the reader, the control.
sub other
{
	my ($clients, $number, $file) = @_;
	my $session;
	my @maintain = (
		'SELECT count(*) FROM idempotency.maintain();',
		'BEGIN ISOLATION LEVEL REPEATABLE READ\; SELECT count(*) FROM idempotency.ledger_checkpoint\; SELECT pg_sleep(0.05)\; SELECT count(*) FROM idempotency.maintain()\; COMMIT;',
		'BEGIN\; SELECT count(*) FROM idempotency.maintain()\; ROLLBACK;');

	$file->autoflush(1);
	return leaser(@_) if $number % 5 == 0;
	return decider(@_) if $number % 5 == 1;
	until (-e "$clients->{dir}/stop")
	{
		my $sql = $number % 5 == 2 ? $maintain[ rand @maintain ]
		  : $number % 5 == 3 ? q{SELECT encode(convert_to(idempotency.checkpoint_text(), 'UTF8'), 'hex');}
		  : 'SELECT naive_seal();';
		my ($state, $answer) = call($clients, \$session, $sql);

		call($clients, \$session, 'ROLLBACK;') if $state !~ /^(|lost)$/;
		print $file "strange $state $sql\n" if $state !~ /^(|lost|40001)$/;
		print $file "seen $1\n" if $answer =~ /^([0-9a-f]+)$/m && $number % 5 == 3;
		sleep(0.03);
	}
	return;
}

# End what was prepared and whose client has lost its connection.
sub end_prepared
{
	my ($age) = @_;

	foreach my $gid (split /\n/, sql("SELECT gid FROM pg_prepared_xacts WHERE prepared < now() - interval '$age'"))
	{
		my $ending = rand() < 0.5 ? 'COMMIT' : 'ROLLBACK';

		$node->psql('postgres', "$ending PREPARED '$gid'");
	}
	return;
}

#----------------------------------------------------------------------
# the experiment
#----------------------------------------------------------------------
my $clients = start_clients($node, 8, work => \&decider);
my $others = start_clients($node, 5, work => \&other, keys => 12);
my ($begin, $killed, $crashed) = (time(), 0, 0);

while ((my $elapsed = time() - $begin) < $seconds)
{
	sleep(0.5);
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'the server did not come back';
	eval { end_prepared('2 s') };
	if ($crashed < 1 + int($elapsed / 60) && $elapsed > $seconds * 0.6)
	{
		$node->kill9;
		try_start($node);
		$crashed++;
	}
	elsif ($killed < 1 + int($elapsed / 5) && $elapsed < $seconds - 2)
	{
		my $pid = eval { sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'
			AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1}) };

		$killed += kill 'KILL', $pid if $pid;
		sleep(0.3);
	}
}
stop_clients($_) foreach ($clients, $others);
is("$clients->{failed} $others->{failed}", '0 0', 'every client ended well');
end_prepared('-1 min') while sql('SELECT count(*) FROM pg_prepared_xacts') ne '0';
ok(is_sealed($node), 'all is sealed in the end');

my @strange = grep { $_->[0] eq 'strange' && $_->[1] !~ /^(|ID\d+|55P03|57P01)$/ } read_lines($others);
is(join(', ', map { "@$_" } grep { defined } @strange[ 0 .. 4 ]), '', 'nobody was told anything strange');
my %ended;
foreach my $line (grep { $_->[0] eq 'done' } map { read_lines($_) } $clients, $others)
{
	my (undef, %done) = map { $_ // '' } @$line;

	$ended{ $_ eq '' ? 'well' : $_ } += $done{$_} foreach keys %done;
}
note('transactions: ' . join ', ', map { "$ended{$_} $_" } sort keys %ended);
cmp_ok($ended{well}, '>', 20 * $seconds, "$ended{well} transactions went well");
cmp_ok($ended{lost} // 0, '>', 0, 'connections were lost');

my @seen = map { pack('H*', $_->[1]) } grep { $_->[0] eq 'seen' } read_lines($others);
my %told = map { $_ => 1 } @seen;
cmp_ok(scalar keys %told, '>', $seconds, keys(%told) . ' checkpoints were told');
my $ledger = ledger_is_right($node, 'every entry is in the tree once, in the order of seq; every checkpoint that was told is of its past',
	seen => [ keys %told ]);
is(scalar @{ $ledger->{entries} }, $ledger->{size}, "0 missed of $ledger->{size}");
is(verify_says($node, 'postgres', @seen ? $seen[-1] : ()), '', 'verify() finds nothing wrong');
is(wrong_keys($ledger), '', '0 inversions: for each key the events, and the fences, rise');
{
	my (%count, %kinds);

	foreach my $e (@{ $ledger->{entries} })
	{
		$kinds{ $e->{decision} }++;
		next if !defined $e->{key} || $e->{scope} eq 'leased' || $e->{decision} eq 'aborted';
		$count{"$e->{key} $e->{decision}"}++;
	}
	$count{$_}-- foreach map { tr/|/ /r } split /\n/, sql('SELECT key, decision FROM decided');
	my @wrong = map { "$_ ($count{$_})" } grep { $count{$_} != 0 } sort keys %count;
	is("@wrong[ 0 .. ($#wrong > 4 ? 4 : $#wrong) ]", '', 'what was committed is what is recorded');
	note('entries: ' . join ', ', map { "$kinds{$_} $_" } sort keys %kinds);
	foreach my $kind (qw(executed retry failed forgotten aborted claimed takeover finished))
	{
		cmp_ok($kinds{$kind} // 0, '>', 0, "... such as $kind");
	}
}
is(sql('SELECT count(*) FROM idempotency.seal_blocked_by'), '0', 'nothing holds sealing up');
my ($missed, $of) = split /\|/, sql(q{SELECT count(*) FILTER (WHERE n.seq IS NULL), count(*)
	FROM idempotency.ledger_entry AS e LEFT JOIN naive AS n USING (seq)
	WHERE e.seq <= (SELECT seq FROM naive_mark)});
cmp_ok($missed, '>', 0, "control: a naive sealer has missed $missed of $of");

#----------------------------------------------------------------------
# how long it takes
#----------------------------------------------------------------------
{
	my $first = sql('SELECT max(seq) FROM idempotency.ledger_entry');
	my $bench = run_pgbench($node, "\\set k random(1, 1000000000)\nSELECT idempotency.once('timed', ':k');\n",
		clients => 4, seconds => $seconds < 60 ? 3 : 30);

	is($bench->{status}, 0, "$bench->{processed} transactions without anybody stalled");
	ok(is_sealed($node), '... are sealed');
	my ($n, $median, $p99) = split /\|/, sql(qq{
		SELECT count(*), round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)), round(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms))
		FROM (SELECT extract(epoch FROM c.sealed_at - pg_xact_commit_timestamp(e.xmin)) * 1000 AS ms
			FROM idempotency.ledger_entry AS e
			JOIN (SELECT sealed_at, sealed_seq, lag(sealed_seq, 1, 0::bigint) OVER (ORDER BY size) AS after
				FROM idempotency.ledger_checkpoint) AS c ON e.seq > c.after AND e.seq <= c.sealed_seq
			WHERE e.seq > $first) AS e});
	cmp_ok($n, '>', 100, "from commit to sealed, $n entries: median $median ms, p99 $p99 ms");
	cmp_ok($p99, '<', 2000, '... soon');
}

#----------------------------------------------------------------------
# who holds sealing up, and who doesn't
#----------------------------------------------------------------------

# The size of the tree, and how many entries are not in it.
sub sealed
{
	return sql('SELECT size, unsealed FROM idempotency.ledger_status');
}

# Decide something; it is sealed, or it isn't.
my $n = 0;
sub decide
{
	return sql(q{SELECT idempotency.once('s', 'decided-} . $n++ . q{')});
}

sub goes_on
{
	my ($name) = @_;
	my $begin;

	decide();
	$begin = time();
	ok(is_sealed($node), sprintf('%s: sealing goes on, %.2f s', $name, time() - $begin));
	cmp_ok(time() - $begin, '<', 3, '... at once');
	return;
}

sub stalls
{
	my ($name, $who) = @_;
	my ($size) = split /\|/, sealed();

	decide();
	decide();
	sleep(0.5);
	my ($now, $unsealed) = split /\|/, sealed();
	is($now, $size, "$name: sealing waits");
	cmp_ok($unsealed, '>=', 2, '... while others go on');
	is(sql(q{SELECT string_agg(coalesce(pid::text, 'none') || ' ' || coalesce(gid, 'none') || ' '
			|| (age_ms BETWEEN 400 AND 60000 AND since BETWEEN now() - interval '1 min' AND now()), ', ') FROM idempotency.seal_blocked_by}),
		"$who true", '... and it says for whom');
	return;
}

is(sql('SELECT count(*) FROM idempotency.seal_blocked_by'), '0', 'nobody holds it up');
{
	my ($writer, $reader) = map { session($node) } 1 .. 2;

	$writer->query_safe(q{BEGIN; SELECT pg_current_xact_id(); SELECT step('idle', 0); SAVEPOINT a; SELECT step('idle too', 0)});
	$reader->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM idempotency.ledger_entry});
	goes_on('a writer idle in its transaction, and a reader');
	is(sql('SELECT count(*) FROM idempotency.seal_blocked_by'), '0', '... which nobody calls an obstacle');
	my $size = $reader->query_safe(q{SELECT size FROM idempotency.ledger_status});
	is($reader->query_safe(q{SELECT split_part(idempotency.checkpoint_text(), chr(10), 2)}), $size, '... and the reader is told of what it sees');
	$writer->query_safe('COMMIT');
	goes_on('they end');
	$_->quit foreach ($writer, $reader);
}
foreach my $ending ('COMMIT', 'ROLLBACK')
{
	sql(qq{BEGIN; SELECT step('prepared $ending', 0); PREPARE TRANSACTION 'held, "$ending"'});
	stalls("prepared, $ending", qq{none held, "$ending"});
	sql(qq{$ending PREPARED 'held, "$ending"'});
	goes_on("prepared, $ending: ended");
}
{
	# one that has decided nothing
	sql(q{BEGIN; CREATE TABLE nothing (); PREPARE TRANSACTION 'nothing'});
	goes_on('prepared without a decision');
	sql(q{COMMIT PREPARED 'nothing'});
	# over a restart
	sql(q{BEGIN; SELECT step('restarted', 0); PREPARE TRANSACTION 'restarted'});
	$node->restart;
	stalls('prepared, over a restart', 'none restarted');
	sql(q{COMMIT PREPARED 'restarted'});
	goes_on('prepared, over a restart: ended');
	# a subtransaction that has written much, and rolls back
	my $loader = session($node);
	my $pid = $loader->query_safe('SELECT pg_backend_pid()');

	$loader->query_safe('BEGIN; SAVEPOINT a; SELECT load(12000)');
	stalls('half of a bulk load', "$pid none");
	$loader->query_safe('ROLLBACK TO a');
	goes_on('half of a bulk load: rolled back');
	$loader->query_safe('COMMIT');
	$loader->quit;
}

SKIP:
{
	skip 'the library with fault points is not built (make testlib)', 1 unless $testlib;

	foreach my $ending ('goes on', 'is terminated', 'is stopped')
	{
		my ($writer, $holder) = map { session($node) } 1 .. 2;
		my $pid = $writer->query_safe('SELECT pg_backend_pid()');

		$holder->query_safe('SELECT pg_advisory_lock(7001)');
		$writer->query_safe(q{SET idempotency.fault = 'ledger.after_append:block'});
		$writer->query_until(qr/waiting/, qq{\\echo waiting\nSELECT step('in between, $ending', 0);\n});
		$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = $pid")
		  or die 'it does not stop there';
		if ($ending eq 'is stopped')
		{
			kill 'STOP', $pid;
			$holder->query_safe('SELECT pg_advisory_unlock(7001)');
		}
		stalls("a commit that $ending", "$pid none");
		sql("SELECT pg_terminate_backend($pid)") if $ending eq 'is terminated';
		$holder->query_safe('SELECT pg_advisory_unlock(7001)') if $ending eq 'goes on';
		kill 'CONT', $pid if $ending eq 'is stopped';
		goes_on("a commit that $ending: ended");
		eval { $_->quit } foreach ($writer, $holder);
	}
	is(sql(q{SELECT string_agg(key, ', ' ORDER BY key) FROM idempotency.ledger WHERE key LIKE 'in between%' AND decision = 'executed'}),
		'in between, goes on, in between, is stopped', 'what was committed is there');
}
ledger_is_right($node, 'the ledger is right', seen => [ keys %told ]);
$node->stop;

#----------------------------------------------------------------------
# maintain() alone
#----------------------------------------------------------------------
$node = new_node('alone');
sql('CREATE EXTENSION idempotency');

my $seal = q{SELECT coalesce(sum(amount), 0) FROM idempotency.maintain() WHERE duty = 'seal'};
my ($one, $two) = map { session($node) } 1 .. 2;
my @told;

decide() foreach 1 .. 3;
foreach my $case (
	[ "BEGIN; $seal; ROLLBACK", 'rolled back' ],
	[ "BEGIN; SAVEPOINT a; $seal; ROLLBACK TO a; $seal; ROLLBACK TO a; COMMIT", 'savepoint rolled back' ],
	[ "BEGIN; $seal; SELECT 1 / 0; COMMIT", 'failed' ])
{
	my ($sql, $name) = @$case;
	my $before = sealed();

	$one->query($sql);
	$one->{stderr} = '';
	is(sealed(), $before, "maintain(), $name: nothing is sealed");
	decide();
}
is($one->query_safe($seal), '7', 'maintain(): the next one seals all');
ledger_is_right($node, '... as it should be', seen => \@told);
foreach my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	$one->query_safe("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM idempotency.ledger_entry");
	decide() foreach 1 .. 2;
	$two->query_safe($seal);
	decide();
	is($one->query_safe($seal), '1', "maintain() in a transaction of $level: what there is now");
	is($two->query_safe($seal), '0', '... and meanwhile nobody else');
	$one->query_safe('COMMIT');
	is($two->query_safe($seal), '0', '... nor afterwards');
	ledger_is_right($node, '... as it should be', seen => \@told);
}
$one->query_safe("BEGIN; SELECT idempotency.configure('s', audit => 'everything'); $seal; COMMIT");
is($one->query_safe($seal), '1', 'maintain(), with a decision: sealed the next time');
# what is written before the end of a transaction that seals itself
$one->query_safe('CREATE TABLE bulk (id int); CREATE TRIGGER dedup BEFORE INSERT ON bulk
	FOR EACH ROW EXECUTE FUNCTION idempotency.dedup($$bulk$$, $$id$$)');
my $answer = $one->query("BEGIN; INSERT INTO bulk SELECT generate_series(1, 25000); $seal; COMMIT");
sql($seal);
is((split /\|/, sealed())[1], '0', 'maintain(), after much was decided: nothing is left out');
ledger_is_right($node, '... it is as it should be', seen => \@told);
$_->quit foreach ($one, $two);
$node->stop;
done_testing();
