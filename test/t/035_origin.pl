# One ledger through the lives of its database; what administrators do to it; and
# who may.
#
# A database is promoted, recovered to a point in time, restored and copied.  Each
# time the first entry of the new life names the log, size and root that it goes
# on from, what was not sealed yet is, and what was told before is a part of it,
# or, where history was lost, is shown not to be.  With
# idempotency.checkpoint_standbys nothing is told that a promotion could lose.
#
# SEAL_SECONDS: with 60 or more it waits longer for what is restored.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use File::Basename;
use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use IPC::Run;
use JSON::PP qw(decode_json);
use LedgerTest;
use MIME::Base64 qw(encode_base64 decode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $long = ($ENV{SEAL_SECONDS} // 0) >= 60;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $conf = q{
shared_preload_libraries = 'idempotency'
max_worker_processes = 12
autovacuum = off
fsync = off
idempotency.naptime = '100ms'
wal_keep_size = 128MB
};

# Run commands on a server; returns what they print.
sub sql
{
	my ($node, $sql, $db) = @_;

	return $node->safe_psql($db // 'postgres', $sql);
}

# Change a setting of a server.
sub change
{
	my ($node, $name, $value) = @_;

	sql($node, defined $value ? "ALTER SYSTEM SET $name = '$value'" : "ALTER SYSTEM RESET $name");
	$node->reload;
	return;
}

# Write n entries, about keys of their own.
sub decide
{
	my ($node, $n, $db) = @_;

	sql($node, "INSERT INTO bulk SELECT gen_random_uuid() FROM generate_series(1, $n)", $db);
	return;
}

# The application.
my $application = q{
	CREATE EXTENSION idempotency;
	CREATE TABLE bulk (id uuid);
	CREATE TRIGGER dedup BEFORE INSERT ON bulk FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('bulk', 'id');
};

# The latest checkpoint that is told.
sub told
{
	my ($node, $db) = @_;

	return sql($node, 'SELECT idempotency.checkpoint_text()', $db);
}

# Seal all there is; returns the checkpoint.
sub sealed
{
	my ($node, $db) = @_;

	is_sealed($node, $db) or die 'nobody seals';
	return sql($node, 'SELECT idempotency.checkpoint_text(size) FROM idempotency.ledger_status', $db);
}

# A new life of the database has begun, after a checkpoint: everything is sealed,
# its first entry tells what it follows, and what was told is a part of it.
sub lives
{
	my ($node, $name, %opt) = @_;
	my ($db, $before, $seen) = @opt{qw(db before seen)};
	my $begin = time();

	ok(is_sealed($node, $db), sprintf('%s: what was not sealed is, after %.1f s', $name, time() - $begin));
	my $ledger = ledger_is_right($node, '... as one ledger', db => $db, seen => $seen);
	my ($incarnation, $origin, $reason) = split /\|/, sql($node,
		'SELECT number, origin, reason FROM idempotency.incarnation ORDER BY number DESC LIMIT 1', $db);
	my ($first) = grep { $_->{incarnation} == $incarnation } @{ $ledger->{entries} };
	my ($old_origin, $size, $root) = read_checkpoint($before);
	my $detail = decode_json($first->{detail} // '{}');

	like($reason, $opt{reason}, "... of another life: $reason");
	is($first->{decision}, 'incarnation', '... its first entry says so');
	is_deeply($detail,
		{ origin => $origin, reason => $reason, previous => { origin => $old_origin, size => $size, root => $root } },
		'... what it follows, and its name');
	is((read_checkpoint($ledger->{latest}))[0], $origin, '... checkpoints have it');
	isnt($origin, $old_origin, '... which is new');
	like($origin, $opt{origin}, '... and as it should be') if $opt{origin};

	my ($new_size, $new_root) = @{ $ledger->{checkpoints}[-1] }{qw(size root)};
	cmp_ok($new_size, '>', $size, '... it goes on');
	is( sql($node, "SELECT idempotency.verify_consistency($size, $new_size, decode('$root', 'base64'), '\\x"
				. unpack('H*', $new_root) . "', idempotency.consistency_proof($size, $new_size))", $db),
		't', '... and is proved to');
	is(verify_says($node, $db, @$seen), '', '... verify() agrees');
	return $ledger;
}

#----------------------------------------------------------------------
# the name of the log
#----------------------------------------------------------------------
my $first = new_node('first', init => [ allows_streaming => 'logical' ], conf => $conf);

foreach my $bad ('', ' ', 'a b', 'a+b', "a\nb", "a\tb", "a\x7fb", "\x01", "caf\xc3\xa9", 'x' x 129)
{
	my $quoted = "E'" . join('', map { sprintf '\x%02x', ord } split //, $bad) . q{'};

	is(sqlstate($first, "SET idempotency.origin = $quoted"), '22023', "refused as an origin: $quoted");
}
is(sqlstate($first, "SET idempotency.origin = '" . 'x' x 128 . q{'}), '', 'but not a long one');
sql($first, 'CREATE ROLE nobody');
is(sqlstate($first, q{SET ROLE nobody; SET idempotency.origin = 'mine'}), '42501', 'nor by anybody');

sql($first, $application);
decide($first, 700);
my @told = (sealed($first));
like($told[0], qr{^idempotency/\d+/\d+/\d+\n\d+\n[A-Za-z0-9+/]{43}=\n?$}, 'without a name it is that of system and database');
change($first, 'idempotency.origin', 'example.com/payments');
decide($first, 3);
push @told, sealed($first);
is((read_checkpoint($told[1]))[0], (read_checkpoint($told[0]))[0], 'a name counts from the next incarnation on');
sql($first, q{SELECT idempotency.bump_incarnation('by hand')});
my $life = sql($first, 'SELECT max(number) FROM idempotency.incarnation');
lives($first, 'bump_incarnation()', before => $told[-1], seen => \@told, reason => qr/^by hand$/,
	origin => qr{^example\.com/payments/$life$});

#----------------------------------------------------------------------
# a standby
#----------------------------------------------------------------------
$first->backup('base');
my $second = PostgreSQL::Test::Cluster->new('second');
$second->init_from_backup($first, 'base', has_streaming => 1);
$second->start;
change($second, 'idempotency.origin', 'example.com/second');
$first->append_conf('postgresql.conf', "synchronous_standby_names = 'second'\n");
$first->reload;
$first->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication})
  or die 'the standby did not become synchronous';
sql($first, q{SELECT idempotency.once('s', 'k'); SELECT idempotency.once('s', 'k')});
push @told, sealed($first);
$first->wait_for_catchup($second);

foreach my $query (
	'SELECT idempotency.checkpoint_text()', 'SELECT idempotency.checkpoint_text(size) FROM idempotency.ledger_checkpoint ORDER BY size LIMIT 1',
	'SELECT idempotency.inclusion_proof(0), idempotency.inclusion_proof(600), idempotency.inclusion_proof(3, 7)',
	'SELECT idempotency.consistency_proof(1), idempotency.consistency_proof(257, 700)', 'SELECT idempotency.leaf_data(5)',
	q{SELECT decision, seq, leaf_index, sealed FROM idempotency.explain('s', 'k')}, q{SELECT count(*) FROM idempotency.explain('s', 'other')},
	'SELECT count(*), max(seq), bool_and(sealed) FROM idempotency.ledger', 'SELECT size, unsealed, root FROM idempotency.ledger_status',
	'SELECT count(*) FROM idempotency.seal_blocked_by', 'SELECT count(*) FROM idempotency.verify()')
{
	is(sql($second, $query), sql($first, $query), "a standby answers as its primary: $query");
}
ledger_is_right($second, '... and has the same ledger', seen => \@told);
foreach my $call (q{witnessed('x')}, q{prune(256, 'test')}, q{erase('s', 'k', 'test')}, 'maintain()', q{bump_incarnation('test')})
{
	is(sqlstate($second, "SELECT * FROM idempotency.$call"), '25006', "refused on a standby: $call");
	is(sqlstate($first, "BEGIN READ ONLY; SELECT * FROM idempotency.$call"), '25006', '... and in a read-only transaction');
}

#----------------------------------------------------------------------
# it is promoted
#----------------------------------------------------------------------
# entries that nobody has sealed
change($first, 'idempotency.naptime', '1h');
sleep(0.3);
decide($first, 5);
sql($first, q{BEGIN; INSERT INTO bulk VALUES (gen_random_uuid()); PREPARE TRANSACTION 'over the promotion'});
is(sql($first, 'SELECT unsealed FROM idempotency.ledger_status'), '5', 'entries are not sealed');
$first->kill9;
change($second, 'synchronous_standby_names', '');
$second->promote;
# nobody asks for a new life while a transaction of the old one is open
$second->poll_query_until('postgres', q{SELECT count(*) = 1 FROM idempotency.seal_blocked_by WHERE gid = 'over the promotion'});
is(sql($second, q{SELECT gid FROM idempotency.seal_blocked_by}), 'over the promotion', 'promoted: what was prepared holds sealing up');
sql($second, q{COMMIT PREPARED 'over the promotion'});
lives($second, 'promoted', before => $told[-1], seen => \@told, reason => qr/^another timeline/,
	origin => qr{^example\.com/second/\d+$});
is(sql($second, q{SELECT count(*) FROM idempotency.ledger WHERE incarnation = } . $life), sql($second, q{SELECT count(*) FROM idempotency.ledger AS e
		WHERE seq > (SELECT seq FROM idempotency.ledger WHERE incarnation = } . $life . q{ ORDER BY seq LIMIT 1) - 1
		AND seq < (SELECT seq FROM idempotency.ledger WHERE incarnation > } . $life . q{ ORDER BY seq LIMIT 1)}),
	'... entries of the old life are before it');

#----------------------------------------------------------------------
# nothing is told that a standby hasn't got; it is promoted with a lost tail
#----------------------------------------------------------------------
change($second, 'idempotency.checkpoint_standbys', 1);
is(told($second), '', 'checkpoint_standbys: nothing is told without a standby');
SKIP:
{
	skip 'no test_decoding', 1 unless -e $second->config_data('--pkglibdir') . '/test_decoding.so'
	  && sql($second, 'SHOW wal_level') eq 'logical';
	my $connstr = $second->connstr('postgres');
	my ($out, $err) = ('', '');
	my @cmd = ($second->installed_command('pg_recvlogical'), '-d', $connstr, '--slot', 'logical', '--start', '-F', '0', '-s', '1', '-f', "$dir/logical");

	sql($second, q{SELECT pg_create_logical_replication_slot('logical', 'test_decoding')});
	my $run = IPC::Run::start(\@cmd, '<', \undef, '>', \$out, '2>', \$err);
	decide($second, 1);
	$second->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn > 
		(SELECT lsn FROM idempotency.ledger_checkpoint ORDER BY size DESC LIMIT 1)}) or die 'nothing is received';
	is(told($second), '', '... a logical subscriber is none');
	$run->signal('TERM');
	eval { $run->finish };
	$second->poll_query_until('postgres', q{SELECT count(pg_drop_replication_slot(slot_name)) = 1 FROM pg_replication_slots
		WHERE slot_name = 'logical' AND NOT active});
}
$second->backup('base');
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init_from_backup($second, 'base', has_streaming => 1);
$third->enable_archiving;
$third->start;
ok($second->poll_query_until('postgres', q{SELECT idempotency.checkpoint_text() = idempotency.checkpoint_text(size)
		FROM idempotency.ledger_status}), '... with one, what it has');
decide($second, 10);
is_sealed($second);
ok($second->poll_query_until('postgres', q{SELECT idempotency.checkpoint_text() = idempotency.checkpoint_text(size)
		FROM idempotency.ledger_status}), '... as it comes');
push @told, told($second);
change($second, 'idempotency.checkpoint_standbys', 2);
is(told($second), '', '... with one of two, nothing');
change($second, 'idempotency.checkpoint_standbys', 1);

my $receiver = sql($third, q{SELECT pid FROM pg_stat_wal_receiver});
kill 'STOP', $receiver;
foreach (1 .. 4)
{
	# more than the connection holds
	decide($second, 1500);
	is_sealed($second);
	push @told, told($second);
}
my $external = sealed($second);
my (undef, $external_size) = read_checkpoint($external);
my (undef, $told_size) = read_checkpoint($told[-1]);
cmp_ok($told_size, '<', $external_size - 1500, "... and not $external_size, while it stands still at $told_size");
is(sql($second, "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >=
		(SELECT lsn FROM idempotency.ledger_checkpoint WHERE size = $told_size)"), '1', '... which it has got');
$second->kill9;
kill 'CONT', $receiver;
change($third, 'idempotency.origin', 'example.com/third');
change($third, 'idempotency.checkpoint_standbys', 0);
$third->promote;
decide($third, 20);
is_sealed($third);
my $previous = decode_json(sql($third, q{SELECT detail FROM idempotency.ledger WHERE decision = 'incarnation' ORDER BY seq DESC LIMIT 1}))->{previous};
my $before = sql($third, "SELECT idempotency.checkpoint_text($previous->{size})");
my $ledger = lives($third, 'promoted, a tail is lost', before => $before, seen => \@told, reason => qr/^another timeline/,
	origin => qr{^example\.com/third/\d+$});
cmp_ok($ledger->{size}, '<', $external_size, 'what somebody was told without asking for standbys is more than there is');
like(verify_says($third, 'postgres', @told, $external), qr/^error: .*smaller/, '... which verify() says');
decide($third, $external_size);
is_sealed($third);
$ledger = ledger_is_right($third, '... also once there is more', seen => \@told);
isnt(encode_base64(tree_root($ledger->{tree}, $external_size), ''), (read_checkpoint($external))[2], '... since it is of another history');
like(verify_says($third, 'postgres', @told, $external), qr/^error: [^\n]*root[^\n]*$/, '... which verify() says');
is(sql($third, "SELECT idempotency.verify_consistency($external_size, $ledger->{size}, decode('" . (read_checkpoint($external))[2]
		. "', 'base64'), '\\x" . unpack('H*', $ledger->{checkpoints}[-1]{root}) . "', idempotency.consistency_proof($external_size, $ledger->{size}))"),
	'f', '... and no proof says otherwise');

#----------------------------------------------------------------------
# recovered to a point in time
#----------------------------------------------------------------------
$third->backup('base');
decide($third, 300);
my $at_point = sealed($third);
push @told, $at_point;
change($third, 'idempotency.naptime', '1h');
sleep(0.3);
decide($third, 7);
sql($third, q{SELECT pg_create_restore_point('here')});
change($third, 'idempotency.naptime', '100ms');
decide($third, 50);
my $beyond = sealed($third);
my $segment = sql($third, 'SELECT pg_walfile_name(pg_switch_wal())');
$third->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver")
  or die 'the log was not archived';
$third->stop;

my $fourth = PostgreSQL::Test::Cluster->new('fourth');
$fourth->init_from_backup($third, 'base', has_restoring => 1, standby => 0);
$fourth->append_conf('postgresql.conf',
	"recovery_target_name = 'here'\nrecovery_target_action = 'promote'\narchive_mode = off\nidempotency.naptime = '100ms'\n");
$fourth->start;
$fourth->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'the recovery did not end';
lives($fourth, 'recovered', before => $at_point, seen => \@told, reason => qr/^another timeline/);
like(verify_says($fourth, 'postgres', $beyond), qr/^error: /, '... what was told after that point is not of it');

#----------------------------------------------------------------------
# dumped and restored
#----------------------------------------------------------------------

# Run a client program on a server; it must say nothing.
sub run_ok
{
	my ($server, $name, @cmd) = @_;
	my ($out, $err) = ('', '');

	local %ENV = $server->_get_env();
	$cmd[0] = $server->installed_command($cmd[0]);
	my $status = IPC::Run::run(\@cmd, '>', \$out, '2>', \$err);
	ok($status && $err eq '', $name) or diag("$out$err");
	return;
}

sql($fourth, q{SELECT count(*) FROM idempotency.maintain()});
my $before_dump = sealed($fourth);
push @told, $before_dump;
change($fourth, 'idempotency.naptime', '1h');
sleep(0.3);
decide($fourth, 3000);
sql($fourth, q{SELECT idempotency.once('s', 'not sealed')});
is(sql($fourth, 'SELECT unsealed FROM idempotency.ledger_status'), '3001', 'dumped: entries are not sealed');
run_ok($fourth, 'custom: dumped', 'pg_dump', '-Fc', '-f', "$dir/custom", 'postgres');
run_ok($fourth, 'directory: dumped', 'pg_dump', '-Fd', '-j2', '-f', "$dir/directory", 'postgres');
run_ok($fourth, 'plain: dumped', 'pg_dump', '-f', "$dir/plain", 'postgres');
run_ok($fourth, 'data only: dumped', 'pg_dump', '-Fc', '--data-only', '-f', "$dir/data", 'postgres');
run_ok($fourth, 'schema only: dumped', 'pg_dump', '-Fc', '--schema-only', '-f', "$dir/schema", 'postgres');

my $fifth = new_node('fifth', conf => $conf);
cmp_ok(sql($fifth, 'SELECT pg_current_xact_id()'), '<', sql($fourth, 'SELECT pg_current_xact_id()'), 'restored: transaction ids are lower');
sql($fifth, 'CREATE ROLE nobody');
foreach my $format ('custom', 'directory', 'plain', 'data')
{
	my @seen = @told;

	sql($fifth, "CREATE DATABASE $format");
	run_ok($fifth, "$format: schema restored", 'pg_restore', '--exit-on-error', '-d', $format, "$dir/schema") if $format eq 'data';
	# time enough for a worker to do what it shouldn't
	sleep(0.5) if $format eq 'data';
	run_ok($fifth, "$format: restored", $format eq 'plain' ? ('psql', '-Xqo', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-d', $format, '-f', "$dir/plain")
		: ('pg_restore', '--exit-on-error', '-j4', ($format eq 'data' ? '--disable-triggers' : ()), '-d', $format, "$dir/$format"));
	# after a restore in parallel the worker looks for what came late only now and then, or when there is more
	decide($fifth, 1, $format) if $format eq 'custom' || ($format eq 'directory' && !$long);
	my $restored = lives($fifth, $format, db => $format, before => $before_dump, seen => \@seen, reason => qr/^another system/);
	cmp_ok($restored->{size}, '>', sql($fourth, 'SELECT count(*) FROM idempotency.ledger_entry'), '... all of it, and that');
	is(sql($fifth, q{SELECT outcome FROM idempotency.claim('s', 'not sealed')}, $format), 'replay', '... what was decided is known');
	decide($fifth, 3, $format);
	is_sealed($fifth, $format);
	ledger_is_right($fifth, '... and it goes on', db => $format, seen => \@seen);
}
change($fourth, 'idempotency.naptime', '100ms');
push @told, sealed($fourth);
sql($fourth, 'CREATE DATABASE copy TEMPLATE postgres', 'template1');
decide($fourth, 1, 'copy');
{
	my @seen = @told;

	lives($fourth, 'copied', db => 'copy', before => $told[-1], seen => \@seen, reason => qr/^another database/);
}
decide($fourth, 1);
is_sealed($fourth);
ledger_is_right($fourth, '... and where it was copied from', seen => \@told);
is(sql($fourth, q{SELECT count(*) FROM idempotency.incarnation}), sql($fourth, q{SELECT count(*) - 1 FROM idempotency.incarnation}, 'copy'),
	'... no new life has begun');
$fourth->stop;
$fifth->stop;

#----------------------------------------------------------------------
# prune
#----------------------------------------------------------------------
my $node = new_node('pruned', conf => "fsync = off\nautovacuum = off\n");
my (@before, @seen);

sql($node, $application);
sql($node, q{CREATE TABLE numbered (id int);
	CREATE TRIGGER dedup BEFORE INSERT ON numbered FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('numbered', 'id')});

sub seal
{
	sql($node, q{SELECT count(*) FROM idempotency.maintain()});
	return sealed($node);
}

# Have a checkpoint witnessed.
sub witnessed
{
	my ($text) = @_;

	return sqlstate($node, "SELECT idempotency.witnessed('$text' || chr(10) || chr(8212) || ' witness.example/w Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=' || chr(10))");
}

# Proofs about the leaves from one on, and consistency from that size on.
sub proofs_are_right
{
	my ($name, $ledger, $from) = @_;
	my $size = $ledger->{size};
	my $wrong = '';
	my @leaves = ($from, $from + 1, $size - 1, map { $from + int(rand($size - $from)) } 1 .. 20);
	my $list = join ',', @leaves;
	my $sizes = join ',', map { $_ + 1 } @leaves;
	my @rows = split /\n/, sql($node, "SELECT (SELECT string_agg(encode(h, 'hex'), ' ') FROM unnest(idempotency.inclusion_proof(i, $size)) AS h)
		FROM unnest(ARRAY[$list]::bigint[]) WITH ORDINALITY AS u (i, n) ORDER BY n");
	my @more = split /\n/, sql($node, "SELECT (SELECT string_agg(encode(h, 'hex'), ' ') FROM unnest(idempotency.consistency_proof(i, $size)) AS h)
		FROM unnest(ARRAY[$sizes]::bigint[]) WITH ORDINALITY AS u (i, n) ORDER BY n");

	foreach my $n (0 .. $#leaves)
	{
		$wrong .= " leaf $leaves[$n]" if $rows[$n] ne join ' ', map { unpack('H*', $_) } inclusion_path($ledger->{tree}, $leaves[$n], $size);
		$wrong .= " size $leaves[$n] + 1" if ($more[$n] // '') ne join ' ', map { unpack('H*', $_) } consistency_path($ledger->{tree}, $leaves[$n] + 1, $size);
	}
	is($wrong, '', "$name: proofs about the rest are as ever");
	return;
}

# What is left of it: entries, tiles per level, checkpoints.
sub left
{
	return sql($node, q{SELECT (SELECT count(*) FROM idempotency.ledger_entry),
		(SELECT string_agg(n::text, ' ' ORDER BY level) FROM (SELECT level, count(*) AS n FROM idempotency.ledger_tile GROUP BY level) AS t),
		(SELECT min(size) FROM idempotency.ledger_checkpoint)});
}

# prune() and check everything.
sub prune
{
	my ($min_index, $name) = @_;
	my $gone = $min_index - @before;
	my $leaves = read_ledger($node, before => \@before)->{leaves};

	is(sql($node, "SELECT idempotency.prune($min_index, 'old enough')"), $gone, "$name: $gone entries are removed");
	@before = @$leaves[ 0 .. $min_index - 1 ];
	my $pruned = ledger_is_right($node, '... the rest is as it was', before => \@before, seen => \@seen);
	my $entry = $pruned->{entries}[-1];
	is("$entry->{decision} $entry->{detail}", qq(pruned {"min_index": $min_index, "entries": $gone, "reason": "old enough"}), '... and an entry says it');
	proofs_are_right('...', $pruned, $min_index);
	is(verify_says($node, 'postgres', grep { (read_checkpoint($_))[1] >= $min_index } @seen), '', '... verify() agrees');
	decide($node, 10);
	seal();
	$pruned = ledger_is_right($node, '... sealing goes on', before => \@before, seen => \@seen);
	proofs_are_right('...', $pruned, $min_index);
	return;
}

sql($node, 'INSERT INTO numbered SELECT generate_series(1, 599)');
sql($node, q{SELECT idempotency.finish('story', 'k', 'done') FROM idempotency.claim('story', 'k')});
push @seen, seal();
is(sqlstate($node, "SELECT idempotency.prune(256, 'old')"), 'ID412', 'prune: not what nobody outside has a checkpoint of');
is(witnessed($seen[0]), '', 'witnessed');
is(witnessed($seen[0]), '', '... twice');
is(sql($node, 'SELECT count(*), max(witnessed_size) FROM idempotency.ledger_witness, idempotency.ledger_status'), '1|601', '... once');
is(witnessed($seen[0] =~ s/^601$/600/mr), 'ID412', '... not of a size that never was');
is(witnessed(checkpoint_of((read_checkpoint($seen[0]))[ 0, 1 ], 'x' x 32)), 'ID412', '... nor with another root');
is(witnessed($seen[0] =~ s/^idempotency/idempotence/r), 'ID412', '... nor of another log');
is(sqlstate($node, "SELECT idempotency.witnessed(idempotency.checkpoint_text())"), 'ID400', '... nor without a signature');
is(sqlstate($node, "SELECT idempotency.prune($_)"), 'ID400', "prune: refused: $_")
  foreach (q{0, 'x'}, q{-256, 'x'}, q{255, 'x'}, q{257, 'x'}, q{NULL, 'x'}, '256, NULL', q{256, ''}, q{256, repeat('x', 2000)});
is(sqlstate($node, "SELECT idempotency.prune(768, 'x')"), 'ID412', 'prune: not beyond what was witnessed');
{
	my $before = left();
	my $pruner = session($node);

	$pruner->query_safe(q{BEGIN; SELECT idempotency.prune(256, 'not really')});
	is(sqlstate($node, q{SET lock_timeout = '2 s'; SELECT idempotency.once('s', 'meanwhile')}), '', 'prune: claims go on meanwhile');
	is(sql($node, q{SELECT count(*) FROM idempotency.maintain() WHERE duty = 'seal'}), '0', '... sealing waits');
	is(sqlstate($node, q{SET lock_timeout = '50 ms'; SELECT idempotency.prune(512, 'another')}), '55P03', '... so does another one');
	$pruner->query_safe('ROLLBACK');
	$pruner->quit;
	is(left(), $before =~ s/^(\d+)/$1 + 1/er, '... rolled back, nothing is gone');
}
prune(256, 'prune');
is(left(), '357|2|601', '... tiles stay, of checkpoints the witnessed one');
is(sqlstate($node, 'SELECT idempotency.leaf_data(255)'), 'ID404', '... leaves that are gone are not found');
is(sqlstate($node, 'SELECT idempotency.leaf_data(256)'), '', '... others are');
is(sql($node, q{SELECT count(*) FROM idempotency.explain('numbered', '7')}), '0', '... explain() knows nothing of a key that is gone');
is(sql($node, q{SELECT leaf_index || ' ' || sealed FROM idempotency.explain('story', 'k')}), '600 true', '... but of another');
is(sqlstate($node, "SELECT idempotency.prune(256, 'again')"), 'ID400', '... once is enough');
prune(512, 'a second prune');

sql($node, 'INSERT INTO numbered SELECT generate_series(600, 66500)');
push @seen, seal();
my $witnessed = $seen[-1];
is(witnessed($witnessed), '', 'a larger one is witnessed');
sql($node, 'INSERT INTO numbered SELECT generate_series(66501, 66600)');
push @seen, seal();
prune(65280, 'up to a tile before the end of a level');
is((split /\|/, left())[1], '260 1', '... no tile goes');
prune(65536, 'up to the end of a level');
is((split /\|/, left())[1], '4 1', '... the tiles below go');
is(sqlstate($node, "SELECT idempotency.$_"), 'ID404', "... so that there is no more of: $_") foreach ('inclusion_proof(5)', 'consistency_proof(100)');
prune(66048, 'and beyond');
is((split /\|/, left())[1], '4 1', '... others stay');
is(sql($node, 'SELECT pruned_below, witnessed_size FROM idempotency.ledger_status'), '66048|' . (read_checkpoint($witnessed))[1], '... which the status shows');

#----------------------------------------------------------------------
# erase
#----------------------------------------------------------------------
sql($node, q{SELECT idempotency.configure('private', audit_payloads => true, store_request => true)});
sql($node, q{SELECT idempotency.finish('private', 'k-' || i, 'Mr. ' || i) FROM generate_series(1, 2) AS i,
	LATERAL idempotency.claim('private', 'k-' || i, '{"card": "4111"}')});
seal();
my %committed = map { my ($key, $part, $salt, $payload, $commitment) = split /\|/;
	("$key $part" => hmac_sha256_hex($payload, pack('H*', $salt)) eq $commitment) }
  split /\n/, sql($node, q{SELECT key, part, encode(salt, 'hex'), payload, encode(CASE part WHEN 'q' THEN request_commitment ELSE response_commitment END, 'hex')
	FROM idempotency.ledger_payload JOIN idempotency.ledger_entry USING (seq) WHERE scope = 'private'});
is_deeply(\%committed, { map { ($_ => 1) } 'k-1 q', 'k-1 r', 'k-2 q', 'k-2 r' }, 'erase: commitments are HMACs of what is stored');
is(sql($node, q{SELECT count(*) FROM idempotency.ledger_entry WHERE scope = 'private' AND (request_digest IS NOT NULL OR response_digest IS NOT NULL)}),
	'0', '... and nothing else says what it is');
my $leaf = sql($node, q{SELECT leaf_index FROM idempotency.explain('private', 'k-1')});
my $data = sql($node, "SELECT idempotency.leaf_data($leaf)");
is(sql($node, q{SELECT idempotency.erase('private', 'k-1', 'asked for')}), '3', '... erased: its row and two payloads');
is(sql($node, q{SELECT string_agg(concat_ws(' ', key, part), ', ' ORDER BY key, part) FROM idempotency.ledger_payload JOIN idempotency.ledger_entry USING (seq)}),
	'k-2 q, k-2 r', '... with their salts, and no others');
is(sql($node, q{SELECT outcome, response, reason FROM idempotency.claim('private', 'k-1', '{"card": "4111"}')}), 'replay||erased', '... a duplicate is one still');
is(sql($node, q{SELECT outcome, response, reason FROM idempotency.claim('private', 'k-2', '{"card": "4111"}')}), 'replay|Mr. 2|', '... of another nothing is lost');
is(sql($node, "SELECT idempotency.leaf_data($leaf)"), $data, '... the entry is as it was');
is(sql($node, q{SELECT decision || ' ' || event_no || coalesce(' ' || detail, '') FROM idempotency.explain('private', 'k-1')}),
	qq(executed 1\nerased 2 {"reason": "asked for"}), '... what happened is recorded');
is(sql($node, q{SELECT count(*) FROM (SELECT k::text FROM idempotency.keys AS k WHERE key = 'k-1'
		UNION ALL SELECT e::text FROM idempotency.ledger_entry AS e WHERE key = 'k-1') AS t (text) WHERE text LIKE '%4111%' OR text LIKE '%Mr. 1%'}),
	'0', '... and what was there is nowhere');
is(sql($node, q{SELECT idempotency.erase('private', 'never', 'asked for')}), '0', '... there is nothing of a key that never was');
is(sqlstate($node, q{BEGIN; SELECT idempotency.claim('private', 'running'); SELECT idempotency.erase('private', 'running', 'x')}), 'ID409', '... not while it runs');
is(sqlstate($node, q{SELECT idempotency.claim('private', 'leased', lease => '1 h'); SELECT idempotency.erase('private', 'leased', 'x')}), 'ID409', '... nor while it is leased');
{
	my $claimer = session($node);

	$claimer->query_safe(q{BEGIN; SELECT idempotency.finish('private', 'own', 'Mr. 3') FROM idempotency.claim('private', 'own', '{"card": "4111"}')});
	is(sqlstate($node, q{SELECT idempotency.erase('private', 'own', 'x')}), 'ID409', '... nor before it has committed');
	$claimer->query(q{SELECT idempotency.erase('private', 'own', 'x')});
	$claimer->{stderr} = '';
	$claimer->query('COMMIT');
	$claimer->{stderr} = '';
	is(sql($node, q{SELECT count(*) FROM idempotency.explain('private', 'own') WHERE decision = 'erased'
			AND EXISTS (SELECT FROM idempotency.ledger_payload JOIN idempotency.ledger_entry USING (seq) WHERE key = 'own')}),
		'0', '... what is said to be erased is, whoever has claimed it');
	$claimer->quit;
}
is(sqlstate($node, "SELECT idempotency.erase('private', 'k-2', $_)"), 'ID400', "... not without a reason: $_") foreach ('NULL', q{''});
seal();
ledger_is_right($node, '... the ledger is right', before => \@before, seen => \@seen);
is(verify_says($node, 'postgres', $seen[-1]), '', '... verify() agrees');
like(verify_says($node, 'postgres', $seen[0]), qr/^warning: [^\n]* pruned\.$/, '... as far as it can');

#----------------------------------------------------------------------
# rights
#----------------------------------------------------------------------
sql($node, q{
	CREATE ROLE nobody;
	CREATE ROLE operator;
	GRANT USAGE ON SCHEMA idempotency TO nobody, operator;
	GRANT EXECUTE ON FUNCTION idempotency.configure TO operator;
});
foreach my $what (
	'checkpoint_text()', 'inclusion_proof(65536)', 'consistency_proof(65537)', 'leaf_data(66048)', q{witnessed('x')}, q{explain('s', 'k')},
	q{prune(66304, 'x')}, q{erase('private', 'k-2', 'x')}, 'verify()', 'maintain()', q{bump_incarnation('x')}, 'ledger', 'ledger_status', 'seal_blocked_by',
	'ledger_entry', 'ledger_payload', 'ledger_tile', 'ledger_checkpoint', 'ledger_witness', 'ledger_prune')
{
	is(sqlstate($node, "SET ROLE nobody; SELECT * FROM idempotency.$what"), '42501', "not for everybody: $what");
}
is(sqlstate($node, "SET ROLE nobody; SELECT idempotency.verify_$_"), '', "for everybody: verify_$_")
  foreach (q{inclusion(0, 1, '\x00', '{}', '\x00')}, q{consistency(1, 1, '\x00', '\x00', '{}')});
foreach my $table ('ledger_entry', 'ledger_tile', 'ledger_checkpoint')
{
	is(sqlstate($node, $_), '42501', "not even for a superuser: $_")
	  foreach ("DELETE FROM idempotency.$table", "TRUNCATE idempotency.$table", "UPDATE idempotency.$table SET " . ($table eq 'ledger_entry' ? 'scope = scope' : 'root = root'));
	is(sqlstate($node, "SET ROLE operator; INSERT INTO idempotency.$table SELECT * FROM idempotency.$table"), '42501', "not for operators: INSERT INTO $table");
}
is(sqlstate($node, q{SET ROLE operator; SELECT idempotency.configure('private', wait => '0')}), '', 'an operator configures');
foreach my $audit (q{audit => 'off'}, q{audit => 'decisions'}, q{audit => 'everything'}, 'audit_payloads => false', 'audit_payloads => true')
{
	is(sqlstate($node, "SET ROLE operator; SELECT idempotency.configure('private', $audit)"), '42501', "... but not $audit");
}
is(sqlstate($node, q{SET ROLE operator; SELECT setval('idempotency.ledger_seq', 1)}), '42501', '... nor the numbers');
$node->stop;
done_testing();
