# 032_tamper.pl
#		Whatever is done to the ledger, verify() finds; and it finds nothing
#		where nothing was done.
#
# The tampers are done by a superuser, past the triggers, each in a
# subtransaction that is rolled back; files are edited while the server is down.
# What rewrites the tree as well is found only against a checkpoint that was
# kept outside.  For the clean runs, clients settle, fail, roll back, prepare,
# forget and erase, and sealing goes on, while verify() looks.
#
# TAMPER_RUNS (100) is the number of random tampers, and of clean runs; 1000 for
# a release (about 4 minutes).  TAMPER_SEED repeats a run.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $runs = $ENV{TAMPER_RUNS} // 100;
my $seed = $ENV{TAMPER_SEED} // int(rand(1_000_000));

my $node = PostgreSQL::Test::Cluster->new('tamper');
$node->init(
	extra => $node->pg_version >= 18 ? ['--no-data-checksums'] : []);
$node->append_conf(
	'postgresql.conf', q{
max_prepared_transactions = 20
shared_buffers = 64MB
log_min_messages = warning
autovacuum = off
});
$node->start;
diag("TAMPER_SEED=$seed, $runs runs");
srand($seed);

#----------------------------------------------------------------------
# A ledger with everything in it, and gaps in its numbers
#----------------------------------------------------------------------

$node->safe_psql('postgres', q{
CREATE EXTENSION idempotency;
CREATE EXTENSION pageinspect;
CREATE SCHEMA t;

CREATE PROCEDURE t.seal() LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		PERFORM * FROM idempotency.maintain();
		COMMIT;
		EXIT WHEN (SELECT unsealed = 0 FROM idempotency.ledger_status);
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;

-- one thing that a client may do
CREATE FUNCTION t.work() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	r float := random();
	k text := 'k' || (random() * 150)::int;
	s text := (ARRAY['t.tx', 't.lease', 't.payload'])[1 + (random() * 2)::int];
	c record;
BEGIN
	IF r < 0.05 THEN
		PERFORM idempotency.forget(s, k, 'test');
	ELSIF r < 0.08 THEN
		PERFORM idempotency.erase(s, k, 'test');
	ELSIF r < 0.12 THEN
		PERFORM idempotency.resolve(s, k, (ARRAY['succeeded', 'failed', 'retry'])[1 + (random() * 2)::int], 'resolved', 'test');
	ELSIF r < 0.2 THEN
		PERFORM idempotency.once('t.bulk', k || '-' || i || '-' || random(), 'request') FROM generate_series(1, 1 + (random() * 20)::int) AS i;
	ELSE
		SELECT * INTO c FROM idempotency.claim(s, k, CASE WHEN random() < 0.9 THEN 'request of ' || k ELSE 'another' END,
			lease => CASE WHEN s = 't.lease' AND random() < 0.7 THEN interval '20 ms' END, wait => '0');
		IF c.outcome IN ('execute', 'resume') THEN
			r := random();
			IF c.fence IS NOT NULL AND r < 0.2 THEN
				PERFORM idempotency.checkpoint(s, k, c.fence, 'half', 'state');
				IF random() < 0.5 THEN RETURN; END IF;
			ELSIF c.fence IS NOT NULL AND r < 0.3 THEN
				PERFORM idempotency.heartbeat(s, k, c.fence, '30 ms');
				RETURN;
			END IF;
			r := random();
			IF r < 0.6 THEN
				PERFORM idempotency.finish(s, k, CASE WHEN random() < 0.9 THEN 'response ' || repeat('x', (random() * 5000)::int) END, c.fence);
			ELSIF r < 0.75 THEN
				PERFORM idempotency.fail(s, k, 'error', true, c.fence, 0);
			ELSIF r < 0.85 THEN
				PERFORM idempotency.fail(s, k, 'error', false, c.fence);
			ELSE
				PERFORM idempotency.release(s, k, c.fence);
			END IF;
		END IF;
	END IF;
	IF random() < 0.1 THEN
		RAISE EXCEPTION 'rolled back';
	END IF;
EXCEPTION WHEN OTHERS THEN
	NULL;
END $$;
CREATE TABLE t.bulk (id text PRIMARY KEY);
CREATE TRIGGER dedup BEFORE INSERT ON t.bulk FOR EACH ROW EXECUTE FUNCTION idempotency.dedup('t.dedup', 'id');
SELECT idempotency.configure('t.payload', audit_payloads => true);
SELECT idempotency.configure('t.lease', max_attempts => 4);
SELECT idempotency.configure('t.tx', max_attempts => 1000, store_failures => false);
});

# Half of it sealed in one piece, the rest in many.
sub make_history
{
	my ($rounds) = @_;
	my $sql = "SELECT setseed(0.5);\n";

	foreach my $round (1 .. $rounds)
	{
		$sql .= "SELECT t.work();\n";
		$sql .= "BEGIN; SELECT idempotency.once('t.bulk', 'prepared $round'); PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p';\n"
		  if $round % 20 == 0;
		$sql .= "CALL t.seal();\n" if $round % 25 == 0 && $round > $rounds / 2;
	}
	$node->safe_psql('postgres', "$sql CALL t.seal();");
	return;
}

make_history(500);
$node->safe_psql('postgres', "INSERT INTO t.bulk SELECT i::text FROM generate_series(1, 300) AS i; CALL t.seal();");
$node->safe_psql('postgres', "SET application_name = 'marked-here'; SELECT idempotency.once('t.bulk', 'marked', 'request'); CALL t.seal();");
$node->safe_psql('postgres', "SELECT idempotency.once('t.bulk', 'later ' || i) FROM generate_series(1, 20) AS i; CALL t.seal();");
my $kept = $node->safe_psql('postgres', 'SELECT idempotency.checkpoint_text()') . "\n";
my $size = (split /\n/, $kept)[1];

cmp_ok($size, '>', 1024, 'there is a ledger');
is( $node->safe_psql('postgres', "SELECT count(DISTINCT decision) >= 12 FROM idempotency.ledger_entry"),
	't', '... with decisions of many kinds');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM idempotency.ledger_checkpoint'),
	'>=', 10, '... sealed many times');
is($node->safe_psql('postgres', "SELECT * FROM idempotency.verify(external => ARRAY['$kept'])"),
	'', 'it is clean');

#----------------------------------------------------------------------
# Tampering
#----------------------------------------------------------------------

$node->safe_psql('postgres', qq{
CREATE TABLE t.kept AS SELECT '$kept'::text AS checkpoint;
} . q{
CREATE VIEW t.free AS
SELECT n AS seq FROM generate_series(1, (SELECT max(sealed_seq) FROM idempotency.ledger_checkpoint)) AS n
WHERE NOT EXISTS (SELECT FROM idempotency.ledger_entry AS e WHERE e.seq = n);

CREATE FUNCTION t.pick(a anyarray) RETURNS anyelement LANGUAGE sql AS
$$ SELECT a[1 + floor(random() * cardinality(a))::int] $$;

-- another value for a column, which can be null or not
CREATE FUNCTION t.other(old text, type text, nullable bool) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	b bytea;
	bit int;
BEGIN
	IF old IS NULL THEN
		RETURN CASE type WHEN 'text' THEN t.pick('{"", x}'::text[]) WHEN 'bytea' THEN t.pick(ARRAY['\x', '\x' || repeat('00', 32)])
			WHEN 'uuid' THEN gen_random_uuid()::text WHEN 'timestamp with time zone' THEN t.pick('{-infinity, now}'::text[])
			ELSE t.pick('{0, 1}'::text[]) END;
	END IF;
	IF nullable AND random() < 0.2 THEN
		RETURN NULL;
	END IF;
	CASE type
	WHEN 'text' THEN
		RETURN CASE WHEN old <> '' AND random() < 0.5 THEN left(old, -1)
			ELSE overlay(old PLACING t.pick('{"~", "~~"}'::text[]) FROM greatest(1, ceil(random() * length(old))::int) FOR 1) END;
	WHEN 'bytea' THEN
		b := old::bytea;
		IF length(b) = 0 OR random() < 0.2 THEN
			RETURN t.pick(ARRAY[(b || '\x00')::text, substr(b, 1, length(b) - 1)::text]);
		END IF;
		bit := floor(random() * 8 * length(b));
		RETURN set_bit(b, bit, 1 - get_bit(b, bit))::text;
	WHEN 'uuid' THEN
		b := uuid_send(old::uuid);
		bit := floor(random() * 128);
		RETURN encode(set_bit(b, bit, 1 - get_bit(b, bit)), 'hex');
	WHEN '"char"' THEN
		RETURN chr(ascii(old) + 1);
	WHEN 'timestamp with time zone' THEN
		RETURN (old::timestamptz + t.pick('{1 us, -1 us, 1 day}'::text[])::interval)::text;
	ELSE
		RETURN (old::bigint + t.pick('{1, -1, 2, 256}'::bigint[]))::text;
	END CASE;
END $$;

-- change one column (NULL: any) of a row
CREATE FUNCTION t.change(rel regclass, tid tid, columns text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	a record;
	old text;
	new text;
BEGIN
	SELECT attname, format_type(atttypid, NULL) AS type, NOT attnotnull AS nullable INTO STRICT a
	FROM pg_attribute WHERE attrelid = rel AND attname = ANY (columns) ORDER BY random() LIMIT 1;
	EXECUTE format('SELECT %I::text FROM %s WHERE ctid = $1', a.attname, rel) INTO STRICT old USING tid;
	new := t.other(old, a.type, a.nullable);
	IF new IS NOT DISTINCT FROM old THEN
		RAISE 'changed nothing: %, %', a.attname, old;
	END IF;
	EXECUTE format('UPDATE %s SET %I = %L::%s WHERE ctid = $1', rel, a.attname, new, a.type) USING tid;
	RETURN format('%s.%s: %L to %L', rel, a.attname, left(old, 80), left(new, 80));
END $$;

CREATE FUNCTION t.entry(wanted bigint) RETURNS tid LANGUAGE sql AS
$$ SELECT ctid FROM idempotency.ledger_entry WHERE seq = wanted $$;
CREATE FUNCTION t.any_seq() RETURNS bigint LANGUAGE sql AS
$$ SELECT seq FROM idempotency.ledger_entry WHERE seq > 5 ORDER BY random() LIMIT 1 $$;
CREATE FUNCTION t.any_free() RETURNS bigint LANGUAGE sql AS
$$ SELECT seq FROM t.free ORDER BY random() LIMIT 1 $$;
CREATE FUNCTION t.entry_columns() RETURNS text[] LANGUAGE sql AS
$$ SELECT array_agg(attname::text) FROM pg_attribute WHERE attrelid = 'idempotency.ledger_entry'::regclass AND attnum > 1 $$;
CREATE FUNCTION t.insert_as(source bigint, wanted bigint) RETURNS void LANGUAGE sql AS
$$ INSERT INTO idempotency.ledger_entry SELECT (jsonb_populate_record(e, jsonb_build_object('seq', wanted))).* FROM idempotency.ledger_entry AS e WHERE seq = source $$;

-- make the tree anew, from what is there
CREATE FUNCTION t.reseal() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE idempotency.ledger_tile, idempotency.ledger_checkpoint;
	PERFORM * FROM idempotency.maintain();
	IF NOT EXISTS (SELECT FROM idempotency.ledger_checkpoint) THEN
		RAISE 'not sealed';
	END IF;
END $$;

-- Tamper in one way.  Says what was done, and which seqs a finding must name.
CREATE FUNCTION t.tamper(way text, columns text[], OUT done text, OUT seqs bigint[]) LANGUAGE plpgsql AS $$
DECLARE
	s bigint := t.any_seq();
	f bigint := t.any_free();
	e record;
	rel regclass;
	tid tid;
BEGIN
	seqs := '{}';
	CASE way
	WHEN 'column' THEN
		done := t.change('idempotency.ledger_entry', t.entry(s), coalesce(columns, t.entry_columns()));
		seqs := ARRAY[s];
	WHEN 'shift' THEN
		SELECT seq, scope, principal, key INTO STRICT e FROM idempotency.ledger_entry WHERE key IS NOT NULL AND seq > 5 ORDER BY random() LIMIT 1;
		IF random() < 0.5 THEN
			UPDATE idempotency.ledger_entry SET scope = left(e.scope, -1), principal = right(e.scope, 1) || e.principal WHERE seq = e.seq;
		ELSE
			UPDATE idempotency.ledger_entry SET key = substr(e.key, 2), principal = e.principal || left(e.key, 1) WHERE seq = e.seq;
		END IF;
		done := 'a byte between columns';
		seqs := ARRAY[e.seq];
	WHEN 'delete' THEN
		DELETE FROM idempotency.ledger_entry WHERE seq = s;
		done := 'deleted';
		seqs := ARRAY[s];
	WHEN 'insert' THEN
		PERFORM t.insert_as(s, f);
		done := 'inserted ' || f;
		seqs := ARRAY[f];
	WHEN 'renumber' THEN
		UPDATE idempotency.ledger_entry SET seq = f WHERE seq = s;
		done := s || ' to ' || f;
		seqs := ARRAY[f];
	WHEN 'swap' THEN
		SELECT seq INTO STRICT f FROM idempotency.ledger_entry WHERE seq > 5 AND seq <> s ORDER BY random() LIMIT 1;
		UPDATE idempotency.ledger_entry SET seq = -s WHERE seq = s;
		UPDATE idempotency.ledger_entry SET seq = s WHERE seq = f;
		UPDATE idempotency.ledger_entry SET seq = f WHERE seq = -s;
		done := s || ' and ' || f;
		seqs := ARRAY[s, f];
	WHEN 'duplicate' THEN
		UPDATE pg_index SET indisunique = false WHERE indexrelid = 'idempotency.ledger_entry_pkey'::regclass;
		PERFORM t.insert_as(s, s);
		UPDATE pg_index SET indisunique = true WHERE indexrelid = 'idempotency.ledger_entry_pkey'::regclass;
		done := 'twice';
		seqs := ARRAY[s];
	WHEN 'tile' THEN
		SELECT ctid, level INTO STRICT e FROM idempotency.ledger_tile ORDER BY random() LIMIT 1;
		IF random() < 0.2 THEN
			DELETE FROM idempotency.ledger_tile WHERE ctid = e.ctid;
			done := 'deleted';
		ELSE
			done := t.change('idempotency.ledger_tile', e.ctid, CASE WHEN e.level = 0 THEN '{index,first_seq,last_seq,root,filter,seqs,hashes}'::text[] ELSE '{index,root,hashes}'::text[] END);
		END IF;
	WHEN 'checkpoint' THEN
		SELECT ctid INTO STRICT tid FROM idempotency.ledger_checkpoint WHERE length(tail) > 0 ORDER BY random() LIMIT 1;
		done := t.change('idempotency.ledger_checkpoint', tid, '{root,origin,incarnation,tail_seqs,tail}');
	WHEN 'key' THEN
		SELECT k.tableoid::regclass, k.ctid INTO STRICT rel, tid FROM t.keys AS k
		WHERE event_no > 0 AND state IN ('s', 'x') AND withheld IS NULL AND expires_at > clock_timestamp() + interval '1 hour' ORDER BY random() LIMIT 1;
		done := t.change(rel, tid, '{id,claimed_at,attempt,event_no,state,scope,principal,key,response,fence}');
		IF done LIKE '%.fence: NULL to ''0''' THEN
			RAISE 'which is the same';
		END IF;
	WHEN 'payload' THEN
		SELECT ctid INTO STRICT tid FROM idempotency.ledger_payload ORDER BY random() LIMIT 1;
		done := t.change('idempotency.ledger_payload', tid, '{seq,part,salt,payload}');
	WHEN 'recompute' THEN
		done := t.change('idempotency.ledger_entry', t.entry(s), array_remove(t.entry_columns(), 'version'));
		PERFORM t.reseal();
	WHEN 'forget' THEN
		DELETE FROM idempotency.ledger_entry WHERE seq = s;
		PERFORM t.reseal();
		done := 'deleted, and a new tree';
	WHEN 'cut' THEN
		DELETE FROM idempotency.ledger_entry WHERE seq >= s;
		PERFORM t.reseal();
		done := 'from ' || s;
	WHEN 'truncate' THEN
		EXECUTE 'TRUNCATE ' || t.pick('{idempotency.ledger_entry, idempotency.ledger_tile, idempotency.ledger_checkpoint,
			"idempotency.ledger_entry, idempotency.ledger_tile, idempotency.ledger_checkpoint"}'::text[]);
		done := 'truncated';
	END CASE;
END $$;

-- Tamper, look, undo.  local: found without the external checkpoint.
CREATE FUNCTION t.try(way text, columns text[], OUT done text, OUT found bool, OUT local bool, OUT named bool, OUT said text) LANGUAGE plpgsql
SET session_replication_role = replica SET client_min_messages = warning AS $$
DECLARE
	seqs bigint[];
BEGIN
	LOOP
		BEGIN
			SELECT x.done, x.seqs INTO STRICT done, seqs FROM t.tamper(way, columns) AS x;
			WITH v AS (SELECT * FROM idempotency.verify(external => ARRAY(SELECT checkpoint FROM t.kept)))
			SELECT count(*) > 0, coalesce(bool_or(what !~ 'external checkpoint'), false),
				NOT EXISTS (SELECT FROM unnest(seqs) AS s WHERE NOT EXISTS (SELECT FROM v AS w WHERE w.place ~ ('seqs? ' || s || '$'))),
				left(string_agg(what || ' (' || place || ')', ', '), 300)
			INTO found, local, named, said FROM v WHERE severity = 'error';
			RAISE SQLSTATE 'ZZZZZ';
		EXCEPTION
			WHEN SQLSTATE 'ZZZZZ' THEN EXIT;
			-- what would have had no effect, or can't be
			WHEN raise_exception OR unique_violation THEN NULL;
		END;
	END LOOP;
END $$;
});

# A table of all keys, which is where they are.
my $keys = join(' UNION ALL ', map { "SELECT tableoid, ctid, event_no, state, withheld, expires_at FROM idempotency.$_" }
	  split /\n/, $node->safe_psql('postgres', q{SELECT relname FROM pg_class WHERE relnamespace = 'idempotency'::regnamespace AND relkind = 'r' AND relname ~ '^key_'}));
$node->safe_psql('postgres', "CREATE VIEW t.keys AS $keys");

# What these tampers come to: "way: found of all" unless all were found where
# they have to be.
sub failures
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT format('%s: %s: found %s, local %s, named %s: %s', way, done, found, local, named, said)
		FROM ($sql) AS tampered
		WHERE NOT (found AND named AND (local OR way IN ('recompute', 'forget', 'cut', 'truncate')))});
}

# each column of an entry, several times
is(failures(q{
	SELECT 'column' AS way, t.* FROM generate_series(1, 3) AS n, unnest(t.entry_columns()) AS a, LATERAL t.try('column', ARRAY[a]) AS t WHERE n > 0}),
	'', 'a change of any column of an entry is found, and the entry named');

# at random
my @ways = qw(column column column shift delete insert renumber swap duplicate tile checkpoint key payload recompute forget cut truncate);
my ($failed, $done, $started) = ('', 0, time());
my %count;
while ($done < $runs)
{
	my $n = $runs - $done < 50 ? $runs - $done : 50;
	my @batch = map { $ways[ int(rand(@ways)) ] } 1 .. $n;

	$count{$_}++ foreach @batch;
	$failed .= failures('SELECT w AS way, t.* FROM unnest(ARRAY['
		  . join(', ', map { "'$_'" } @batch)
		  . ']) AS w, LATERAL t.try(w, NULL) AS t');
	$done += $n;
}
is($failed, '', "$runs random tampers are found");
diag(sprintf('%d tampers in %.1f s: %s', $runs, time() - $started, join(', ', map { "$_ $count{$_}" } sort keys %count)));

# what was cut before it was sealed shows in what is remembered of the keys
is( $node->safe_psql('postgres', q{
		SELECT idempotency.once('t.bulk', 'unsealed');
		SET session_replication_role = replica;
		CREATE TABLE t.cut AS SELECT * FROM idempotency.ledger_entry ORDER BY seq DESC LIMIT 1;
		DELETE FROM idempotency.ledger_entry WHERE seq = (SELECT seq FROM t.cut);
		SELECT what FROM idempotency.verify();
		INSERT INTO idempotency.ledger_entry SELECT * FROM t.cut;
		SELECT what FROM idempotency.verify()}),
	"t\nkey without entry", 'an entry that was deleted before it was sealed');

# who may
is(sqlstate($node, "SET ROLE pg_monitor; $_"), '42501', "$_: not by anybody")
  foreach 'DELETE FROM idempotency.ledger_entry', 'TRUNCATE idempotency.ledger_entry', 'SELECT * FROM idempotency.verify()';
is(sqlstate($node, $_), '42501', "$_: not even by a superuser")
  foreach 'DELETE FROM idempotency.ledger_entry', 'UPDATE idempotency.ledger_tile SET level = 0', 'TRUNCATE idempotency.ledger_checkpoint';

#----------------------------------------------------------------------
# Files that are edited while the server is down
#----------------------------------------------------------------------

$node->safe_psql('postgres', 'CALL t.seal()');
$node->safe_psql('postgres', 'VACUUM FREEZE idempotency.ledger_entry');
$kept = $node->safe_psql('postgres', 'SELECT idempotency.checkpoint_text()') . "\n";
my $path = file_of('idempotency.ledger_entry');
my $tiles = file_of(q{(SELECT reltoastrelid FROM pg_class WHERE oid = 'idempotency.ledger_tile'::regclass)});
my ($keys_table) = $node->safe_psql('postgres', q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'idempotency'::regnamespace AND relkind = 'r' AND relname ~ '^key_'
	ORDER BY pg_relation_size(oid) DESC LIMIT 1});
my $keys_file = file_of($keys_table);

# The path of a relation's file.
sub file_of
{
	my ($relation) = @_;
	my $expression = $relation =~ /^\(/ ? $relation : "'$relation'";

	return $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath($expression)");
}

# Where the values of each row begin and end in a table's file, and its seq.
sub rows_of
{
	my ($table, $seq) = @_;

	return map { [ split /\|/ ] } split /\n/, $node->safe_psql('postgres', qq{
		SELECT (SELECT $seq FROM $table WHERE ctid = format('(%s,%s)', b, i.lp)::tid), b * current_setting('block_size')::int + lp_off, t_hoff, lp_len
		FROM generate_series(0, pg_relation_size('$table') / current_setting('block_size')::int - 1) AS b,
			LATERAL heap_page_items(get_raw_page('$table', b::int)) AS i
		WHERE t_hoff IS NOT NULL});
}
my @rows = rows_of('idempotency.ledger_entry', 'seq');
my @key_rows = rows_of($keys_table, 'attempt');
my $digest = $node->safe_psql('postgres', 'SELECT md5(string_agg(e::text, $$,$$ ORDER BY seq)) FROM idempotency.ledger_entry AS e');

$node->stop;
my $file = slurp_file($path);

# Replace a file's contents.
sub write_file
{
	my ($to, $contents) = @_;

	open(my $handle, '+<:raw', $to) or die "could not open $to: $!";
	print $handle $contents;
	close $handle;
	return;
}

# Put these bytes into a file, start, and return what is found, and a digest of
# the entries, if that is nothing.  The file is as it was afterwards.
sub edited
{
	my ($at, $bytes, $where) = @_;
	my $original = slurp_file($where // $path);
	my $contents = $original;
	my ($out, $err);
	my $same = '';

	substr($contents, $at, length $bytes) = $bytes;
	write_file($where // $path, $contents);
	$node->start;
	$node->psql('postgres', "SELECT DISTINCT what FROM idempotency.verify(external => ARRAY['$kept']) ORDER BY what",
		stdout => \$out, stderr => \$err, extra_params => ['-q']);
	$out .= $err if $err =~ /server closed|connection/;
	$same = $node->safe_psql('postgres', 'SELECT md5(string_agg(e::text, $$,$$ ORDER BY seq)) FROM idempotency.ledger_entry AS e')
	  if $out eq '';
	$node->stop('immediate');
	write_file($where // $path, $original);
	return ($out, $same);
}

my ($found, $same) = edited(0, substr($file, 0, 1));
is($found, '', 'a file that was not edited is clean');
my ($marked) = grep { index(substr($file, $_->[1], $_->[3]), 'marked-here') > 0 } @rows;
($found) = edited(index($file, 'marked-here', $marked->[1]), 'Marked-here');
is($found, 'entry changed', 'a letter in the file');
my $row = $rows[ $#rows - 30 ];
($found) = edited($row->[1] + $row->[2], pack('q', $row->[0] + 1_000_000));
is($found, "heap differs from index\nindex differs from heap",
	'a seq in the file, and the index is left as it was');
($found) = edited($row->[1] + $row->[2], "\xFF" x 7 . "\x7F");
like($found, qr/index differs from heap/, 'the greatest seq there can be');
# by a transaction that has committed: t_xmax, and two bits of t_infomask
my $head = substr($file, $row->[1], 23);
substr($head, 4, 4) = pack('L', 3);
substr($head, 20, 2) = pack('S', unpack('S', substr($head, 20, 2)) & ~0x0800 | 0x0400);
($found) = edited($row->[1], $head);
like($found, qr/^entry missing/, 'a row that is deleted in the file');
my $block = int($row->[1] / 8192) * 8192;
($found) = edited($block, "\xFF" x 24);
like($found, qr/could not be read/, 'a page whose head is overwritten');
($found) = edited($block, "\0" x 8192);
like($found, qr/entry missing/, 'a page of zeros');

($found) = edited(0, "\0" x 8192, $tiles);
like($found, qr/could not be read/, 'a page of zeros where the hashes of tiles are');
($found) = edited(0, "\xFF" x 8192, $tiles);
like($found, qr/could not be read/, '... and one that is overwritten');

# bytes at random, in the rows' values: found, or it was one between values
my $flips = int($runs / 20) || 1;
my $bad = '';
my $nfound = 0;
foreach my $flip (1 .. $flips)
{
	my $victim = $rows[ int(rand(@rows)) ];
	my $at = $victim->[1] + $victim->[2] + int(rand($victim->[3] - $victim->[2]));
	my $byte = chr(ord(substr($file, $at, 1)) ^ (1 << int(rand(8))));

	($found, $same) = edited($at, $byte);
	$nfound++ if $found ne '';
	$bad .= "seq $victim->[0], byte $at: $found\n"
	  if $found =~ /server closed/ || ($found eq '' && $same ne $digest);
}
is($bad, '', "$flips random bytes in the file");
diag("$nfound of $flips random bytes were found, the others are between values");
$bad = '';
foreach my $flip (1 .. $flips)
{
	my $victim = $key_rows[ int(rand(@key_rows)) ];
	my $at = $victim->[1] + $victim->[2] + int(rand($victim->[3] - $victim->[2]));

	($found) = edited($at, chr(int(rand(256))), $keys_file);
	$bad .= "byte $at: $found\n" if $found =~ /server closed/;
}
is($bad, '', "$flips random bytes in the file of a table of keys don't hurt");
$node->start;
is($node->safe_psql('postgres', "SELECT * FROM idempotency.verify(external => ARRAY['$kept'])"), '', 'restored, it is clean');

#----------------------------------------------------------------------
# No false alarm
#----------------------------------------------------------------------

my $old = session($node);
$old->set_query_timer_restart;
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM idempotency.ledger_entry;');
my @scripts = ('SELECT t.work();',
	q{\set r random(1, 1000000000)
BEGIN;
SELECT t.work();
PREPARE TRANSACTION 'p:client_id-:r';
\set c random(1, 2)
\if :c = 1
COMMIT PREPARED 'p:client_id-:r';
\else
ROLLBACK PREPARED 'p:client_id-:r';
\endif
},
	'SELECT count(*) FROM idempotency.maintain();');
my @files;
foreach my $script (@scripts)
{
	push @files, PostgreSQL::Test::Utils::tempdir() . '/clean' . @files . '.sql';
	PostgreSQL::Test::Utils::append_to_file($files[-1], $script);
}
$started = time();
my $bench = start_pgbench($node, 'SELECT 1;', clients => 4, seconds => 3600,
	args => [ '--rate', 100, '-f', "$files[0]\@10", '-f', "$files[1]\@3", '-f', "$files[2]\@2" ]);
my $clean = '';
my $looks = 0;
while ($looks < $runs)
{
	my $n = $runs - $looks < 10 ? $runs - $looks : 10;

	$clean .= $node->safe_psql('postgres', 'SET client_min_messages = warning;'
		  . join('', map { "SELECT * FROM idempotency.verify(external => ARRAY['$kept', idempotency.checkpoint_text()]);
			SELECT FROM pg_sleep(0.08);" } 1 .. $n));
	$looks += $n;
}
$clean .= $old->query_safe("SELECT * FROM idempotency.verify(external => ARRAY['$kept']); COMMIT;");
$old->quit;
$bench->{run}->signal('TERM');
wait_pgbench($bench);
unlike($bench->{err}, qr/error|aborted/, 'the clients worked');
is($clean, '', "$runs times clean, while clients work and entries are sealed");
$node->safe_psql('postgres', 'CALL t.seal()');
is($node->safe_psql('postgres', "SELECT * FROM idempotency.verify(external => ARRAY['$kept'])"), '', 'and in the end');
diag(sprintf('%d clean runs in %.1f s, %s entries in the end', $runs, time() - $started,
	$node->safe_psql('postgres', 'SELECT count(*) FROM idempotency.ledger_entry')));
done_testing();
