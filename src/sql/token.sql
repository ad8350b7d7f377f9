-- Tokens: keys that the server itself has issued.

-- Written by the library.  verifies_until: NULL for the key that signs; others
-- still verify what they have signed, until then.
CREATE TABLE idempotency.token_key (
	id pg_catalog.int4 NOT NULL,
	secret pg_catalog.bytea NOT NULL,
	created_at pg_catalog.timestamptz NOT NULL,
	verifies_until pg_catalog.timestamptz,
	CONSTRAINT token_key_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE idempotency.token_key IS
	'keys that tokens are signed with; made by issue_token() and rotate_token_key()';
-- not dumped: a dump is kept and passed on, secrets shouldn't be; tokens live a
-- day at most, and a restored database makes new keys
-- whoever reads a key can forge tokens: its owner only
REVOKE ALL ON idempotency.token_key FROM PUBLIC;

CREATE FUNCTION idempotency.issue_token(
	scope pg_catalog.text,
	principal pg_catalog.text DEFAULT '',
	ttl pg_catalog.interval DEFAULT '10 min'::pg_catalog.interval)
RETURNS pg_catalog.text
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100
AS 'MODULE_PATHNAME', 'idempotency_issue_token';
COMMENT ON FUNCTION idempotency.issue_token IS
	'a key, good for a short time, that claims of the scope and principal can be required to bring';
-- lets whoever has one claim; grant it to the roles that hand them out
REVOKE ALL ON FUNCTION idempotency.issue_token FROM PUBLIC;

CREATE FUNCTION idempotency.rotate_token_key()
RETURNS pg_catalog.int4
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_rotate_token_key';
COMMENT ON FUNCTION idempotency.rotate_token_key IS
	'makes a new signing key, and returns its id; tokens signed with the old one stay good until they expire';
-- for operators: each call adds a key that must be tried
REVOKE ALL ON FUNCTION idempotency.rotate_token_key FROM PUBLIC;
