# Real payloads, delivered many times.
#
# The payloads are those of the npm package @octokit/webhooks-examples: several
# hundred webhooks as GitHub sends them.  Each is delivered many times, by many
# clients at once, with its payload as the request; each takes effect once,
# duplicates get the first one's response byte for byte, the same payload
# written in another way is the same request, and a changed one is a mismatch.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IdempotencyTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $examples = webhook_examples();
my $node = new_node('webhooks');

install_app($node);
$node->safe_psql('postgres', q{
	SELECT idempotency.configure('webhooks', require_request => true, retention => '3 days');
	CREATE TABLE payload (id int PRIMARY KEY, event text, body text, rewritten text);
	CREATE TABLE told (id int, outcome text, response text);
	-- Receive one webhook; body is what came this time.
	CREATE FUNCTION receive(id int, event text, body text, OUT outcome text, OUT response text)
	LANGUAGE plpgsql AS $$
	DECLARE
		key text := 'delivery-' || id;
	BEGIN
		SELECT c.outcome, c.response INTO outcome, response
			FROM idempotency.claim('webhooks', key, body, principal => event) AS c;
		IF outcome = 'execute' THEN
			INSERT INTO effect (key) VALUES (event || '/' || key);
			response := E'{ "event" :\t"' || event || E'",\n\n"md5": "' || md5(body)
				|| '",  "at": ' || extract(epoch FROM clock_timestamp()) || ', "n": 1.0, "n": 1.00 }';
			PERFORM idempotency.finish('webhooks', key, response, principal => event);
		END IF;
	END;
	$$;
	CREATE FUNCTION receive_again(n int, form int) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		p payload;
	BEGIN
		SELECT * INTO STRICT p FROM payload WHERE id = n;
		INSERT INTO told SELECT n, r.* FROM receive(n, p.event,
			CASE form WHEN 1 THEN p.rewritten WHEN 2 THEN p.body::jsonb::text ELSE p.body END) AS r;
	END;
	$$;
});

#----------------------------------------------------------------------
# load the payloads
#----------------------------------------------------------------------
my $plain = JSON::PP->new->utf8;
my $rewriter = JSON::PP->new->utf8->ascii->pretty->indent_length(7)
  ->sort_by(sub { $JSON::PP::b cmp $JSON::PP::a });
my $n = 0;
my $file = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
my $sql = '';

foreach my $index (glob("$examples/*/index.json"))
{
	foreach my $event (@{ $plain->decode(slurp_file($index)) })
	{
		foreach my $example (@{ $event->{examples} })
		{
			$n++;
			my $body = $plain->encode($example);
			my $rewritten = $rewriter->encode($example);

			die 'a payload contains the quote' if "$body$rewritten" =~ /\$payload\$/;
			$sql .= "INSERT INTO payload VALUES ($n, '$event->{name}', "
			  . "\$payload\$$body\$payload\$, \$payload\$$rewritten\$payload\$);\n";
		}
	}
}
append_to_file($file, "BEGIN;\n$sql\nCOMMIT;\n");
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file ],
	'payloads loaded');
cmp_ok($n, '>=', 300, "there are $n payloads");

#----------------------------------------------------------------------
# the storm
#----------------------------------------------------------------------
my $bench = run_pgbench(
	$node,
	"\\set n random(1, $n)\n\\set form random(0, 2)\nSELECT receive_again(:n, :form);\n",
	clients => 8,
	seconds => 6);
is($bench->{status}, 0, "no client failed in $bench->{processed} deliveries") or diag($bench->{err});

# ... and what the storm has left out
$node->safe_psql('postgres', 'SELECT receive_again(id, 0) FROM payload');

is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT key) FROM effect'),
	"$n|$n", 'every webhook took effect exactly once');
is( $node->safe_psql(
		'postgres', q{
		SELECT count(*) FILTER (WHERE outcome = 'execute'), string_agg(DISTINCT outcome, ' ')
		FROM told}),
	"$n|execute replay",
	'one delivery of each was told to execute, all others to replay');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT (id, response)), count(response) = count(*) FROM told'),
	"$n|t", 'all deliveries of a webhook got the same response, byte for byte');

#----------------------------------------------------------------------
# other payloads under the same keys
#----------------------------------------------------------------------
foreach my $case (
	[ 'another member', q{(body::jsonb || '{"x": 1}')::text} ],
	[ 'a member less', q{(body::jsonb - (SELECT min(k) FROM jsonb_object_keys(body::jsonb) AS k))::text} ],
	[ 'wrapped', q{'[' || body || ']'} ],
	[ 'cut off', q{left(body, -1)} ],
	[ 'empty', q{''} ],
	[ 'the next one', qq{(SELECT q.body FROM payload AS q WHERE q.id = 1 + (p.id + $n / 2) % $n)} ])
{
	my ($name, $expression) = @$case;

	is( $node->safe_psql(
			'postgres',
			"SELECT r.outcome, count(*), count(r.response) FROM payload AS p, LATERAL receive(id, event, $expression) AS r GROUP BY 1"
		),
		"mismatch|$n|0",
		"altered ($name): a mismatch, without the response");
}
is( $node->safe_psql(
		'postgres', q{
		SELECT r.outcome, count(*) FROM payload, LATERAL receive(id, 'other ' || event, body) AS r GROUP BY 1}),
	"execute|$n",
	'the same keys of other principals are other operations');
is( $node->safe_psql(
		'postgres', q{
		SELECT count(*) FROM payload WHERE body <> rewritten
			AND idempotency.fingerprint(body) = idempotency.fingerprint(rewritten)
			AND idempotency.fingerprint(body) = idempotency.fingerprint(body::jsonb::text)}),
	$n,
	'every payload has one fingerprint, however it is written');

$node->stop;
done_testing();
