--
-- n keys of a scope, put into the day ring in bulk, as claims of this moment
-- would leave them.
--
SELECT format('idempotency.key_day_%s',
	floor((extract(epoch FROM now()) - 946684800 + 86400) / 108000)::int8 & 3) AS segment \gset
INSERT INTO :segment (id, expires_at, claimed_at, finished_at, attempt, state,
	scope, principal, key, response)
SELECT encode(substr(sha256(convert_to('idempotency:id:v1', 'UTF8') || '\x00'
		|| int4send(length(:'scope')) || convert_to(:'scope', 'UTF8')
		|| int4send(0)
		|| int4send(36) || convert_to(k.key, 'UTF8')), 1, 16), 'hex')::uuid,
	now() + interval '24 hours', now(), now(), 1, 's', :'scope', '', k.key,
	repeat('x', 200)
FROM (SELECT md5('fill' || i)::uuid::text AS key
	FROM generate_series(1, :n) AS i) AS k
ORDER BY 1;
