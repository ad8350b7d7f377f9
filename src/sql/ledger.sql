-- The ledger: one row for each decision, written in the transaction that made
-- it (src/decision.c), never changed; src/entry.c has what is hashed of it.
CREATE TABLE idempotency.ledger_entry (
	seq pg_catalog.int8 NOT NULL,
	decided_at pg_catalog.timestamptz NOT NULL,
	claimed_at pg_catalog.timestamptz,
	incarnation pg_catalog.int8 NOT NULL,
	fence pg_catalog.int8,
	event_no pg_catalog.int4,
	attempt pg_catalog.int4,
	version pg_catalog.int2 NOT NULL,
	id pg_catalog.uuid,
	decision pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	scope pg_catalog.text COLLATE pg_catalog."C",
	principal pg_catalog.text COLLATE pg_catalog."C",
	key pg_catalog.text COLLATE pg_catalog."C",
	request_digest pg_catalog.bytea,
	response_digest pg_catalog.bytea,
	request_commitment pg_catalog.bytea,
	response_commitment pg_catalog.bytea,
	session_role pg_catalog.text NOT NULL,
	role pg_catalog.text NOT NULL,
	application pg_catalog.text NOT NULL,
	trace_id pg_catalog.bytea,
	detail pg_catalog.text,
	CONSTRAINT ledger_entry_pkey PRIMARY KEY (seq)
);
COMMENT ON TABLE idempotency.ledger_entry IS
	'every decision, in order: append-only, and sealed into a Merkle tree, so that a change shows';
COMMENT ON COLUMN idempotency.ledger_entry.seq IS
	'rises; a transaction that rolls back leaves a gap';
COMMENT ON COLUMN idempotency.ledger_entry.decided_at IS
	'when it was decided; the transaction has committed since';
COMMENT ON COLUMN idempotency.ledger_entry.claimed_at IS
	'when the attempt began that this is about';
COMMENT ON COLUMN idempotency.ledger_entry.incarnation IS
	'the life of the database; 0 before the first one';
COMMENT ON COLUMN idempotency.ledger_entry.fence IS
	'of the lease';
COMMENT ON COLUMN idempotency.ledger_entry.event_no IS
	'numbers the changes of the key while it is remembered, without gaps; where nothing was changed, the last one before';
COMMENT ON COLUMN idempotency.ledger_entry.attempt IS
	'which attempt at the operation';
COMMENT ON COLUMN idempotency.ledger_entry.version IS
	'of the encoding that is hashed';
COMMENT ON COLUMN idempotency.ledger_entry.id IS
	'the key''s id, as in its row; null where it is about a scope or all';
COMMENT ON COLUMN idempotency.ledger_entry.decision IS
	'what was decided; doc/reference.md has the list';
COMMENT ON COLUMN idempotency.ledger_entry.request_digest IS
	'the request''s fingerprint';
COMMENT ON COLUMN idempotency.ledger_entry.response_digest IS
	'SHA-256 of the response, or of the error, in UTF-8';
COMMENT ON COLUMN idempotency.ledger_entry.request_commitment IS
	'HMAC-SHA-256 of the request by its salt, in place of the fingerprint, if the payload is stored';
COMMENT ON COLUMN idempotency.ledger_entry.response_commitment IS
	'HMAC-SHA-256 of the response or error by its salt, in place of the digest, if the payload is stored';
COMMENT ON COLUMN idempotency.ledger_entry.session_role IS
	'who had logged in';
COMMENT ON COLUMN idempotency.ledger_entry.role IS
	'whose rights counted';
COMMENT ON COLUMN idempotency.ledger_entry.application IS
	'application_name';
COMMENT ON COLUMN idempotency.ledger_entry.trace_id IS
	'of idempotency.traceparent (W3C Trace Context), 16 bytes';
COMMENT ON COLUMN idempotency.ledger_entry.detail IS
	'JSON: a reason, a policy, an origin';
-- provenance must survive a dump
SELECT pg_catalog.pg_extension_config_dump('idempotency.ledger_entry', '');
-- shows who did what; grant SELECT to auditors
REVOKE ALL ON idempotency.ledger_entry FROM PUBLIC;

CREATE SEQUENCE idempotency.ledger_seq AS pg_catalog.int8 CACHE 1 NO CYCLE;
COMMENT ON SEQUENCE idempotency.ledger_seq IS
	'numbers the ledger''s entries; never set it back';
-- a restored database must go on where it was
SELECT pg_catalog.pg_extension_config_dump('idempotency.ledger_seq', '');
-- whoever sets it back makes transactions fail
REVOKE ALL ON SEQUENCE idempotency.ledger_seq FROM PUBLIC;

-- Requests and responses, where a scope's policy says audit_payloads.
CREATE TABLE idempotency.ledger_payload (
	seq pg_catalog.int8 NOT NULL,
	part pg_catalog."char" NOT NULL,
	salt pg_catalog.bytea NOT NULL,
	payload pg_catalog.text NOT NULL,
	CONSTRAINT ledger_payload_pkey PRIMARY KEY (seq, part)
);
COMMENT ON TABLE idempotency.ledger_payload IS
	'what an entry''s commitments are of; erase() removes it and leaves the entry';
COMMENT ON COLUMN idempotency.ledger_payload.part IS
	'q: the request, r: the response or error';
COMMENT ON COLUMN idempotency.ledger_payload.salt IS
	'32 random bytes, the key of the HMAC; without it the commitment says nothing';
-- belongs to the entries
SELECT pg_catalog.pg_extension_config_dump('idempotency.ledger_payload', '');
-- holds what clients sent and got
REVOKE ALL ON idempotency.ledger_payload FROM PUBLIC;

-- The tree over the entries (RFC 6962), as C2SP tiles, full ones only.
CREATE TABLE idempotency.ledger_tile (
	level pg_catalog.int2 NOT NULL,
	index pg_catalog.int8 NOT NULL,
	first_seq pg_catalog.int8,
	last_seq pg_catalog.int8,
	root pg_catalog.bytea NOT NULL,
	filter pg_catalog.bytea,
	seqs pg_catalog.bytea,
	hashes pg_catalog.bytea,
	CONSTRAINT ledger_tile_pkey PRIMARY KEY (level, index)
);
-- hashes don't compress
ALTER TABLE idempotency.ledger_tile ALTER COLUMN hashes SET STORAGE EXTERNAL;
ALTER TABLE idempotency.ledger_tile ALTER COLUMN filter SET STORAGE PLAIN;
ALTER TABLE idempotency.ledger_tile ALTER COLUMN root SET STORAGE PLAIN;
COMMENT ON TABLE idempotency.ledger_tile IS
	'256 hashes each of the ledger''s Merkle tree (C2SP tlog-tiles): level 0 are the entries'' own, level n those of full tiles of level n - 1';
COMMENT ON COLUMN idempotency.ledger_tile.root IS
	'of the hashes: one hash of the next level';
COMMENT ON COLUMN idempotency.ledger_tile.first_seq IS
	'of the entries, at level 0';
COMMENT ON COLUMN idempotency.ledger_tile.filter IS
	'a Bloom filter of the entries'' ids, at level 0, by which explain() finds a key';
COMMENT ON COLUMN idempotency.ledger_tile.seqs IS
	'the entries, at level 0: 256 big-endian 8-byte numbers';
COMMENT ON COLUMN idempotency.ledger_tile.hashes IS
	'256 SHA-256 hashes; null if pruned, when level n + 1 has the root';
-- proofs must survive a dump
SELECT pg_catalog.pg_extension_config_dump('idempotency.ledger_tile', '');
-- whoever writes here breaks proofs; grant SELECT to auditors
REVOKE ALL ON idempotency.ledger_tile FROM PUBLIC;

CREATE TABLE idempotency.ledger_checkpoint (
	size pg_catalog.int8 NOT NULL,
	sealed_at pg_catalog.timestamptz NOT NULL,
	lsn pg_catalog.pg_lsn NOT NULL,
	sealed_seq pg_catalog.int8 NOT NULL,
	incarnation pg_catalog.int8 NOT NULL,
	root pg_catalog.bytea NOT NULL,
	origin pg_catalog.text NOT NULL,
	tail_seqs pg_catalog.bytea NOT NULL,
	tail pg_catalog.bytea NOT NULL,
	CONSTRAINT ledger_checkpoint_pkey PRIMARY KEY (size)
);
ALTER TABLE idempotency.ledger_checkpoint ALTER COLUMN tail SET STORAGE EXTERNAL;
COMMENT ON TABLE idempotency.ledger_checkpoint IS
	'what the tree was each time that entries were sealed; checkpoint_text() has the text that is signed';
COMMENT ON COLUMN idempotency.ledger_checkpoint.size IS
	'entries in the tree';
COMMENT ON COLUMN idempotency.ledger_checkpoint.lsn IS
	'where the write-ahead log was; a standby that is past it has the checkpoint''s entries';
COMMENT ON COLUMN idempotency.ledger_checkpoint.sealed_seq IS
	'up to this seq every entry is in the tree';
COMMENT ON COLUMN idempotency.ledger_checkpoint.origin IS
	'names the log and its incarnation';
COMMENT ON COLUMN idempotency.ledger_checkpoint.tail IS
	'the hashes that were added and are in no full tile yet; tail_seqs has their entries';
-- proofs must survive a dump
SELECT pg_catalog.pg_extension_config_dump('idempotency.ledger_checkpoint', '');
-- whoever writes here breaks proofs; grant SELECT to auditors
REVOKE ALL ON idempotency.ledger_checkpoint FROM PUBLIC;

CREATE TABLE idempotency.ledger_witness (
	size pg_catalog.int8 NOT NULL,
	origin pg_catalog.text NOT NULL,
	witnessed_at pg_catalog.timestamptz NOT NULL,
	note pg_catalog.text NOT NULL,
	CONSTRAINT ledger_witness_pkey PRIMARY KEY (size)
);
COMMENT ON TABLE idempotency.ledger_witness IS
	'checkpoints that are known to be held, and signed, outside of the database; written by witnessed()';
-- says what was told to others
SELECT pg_catalog.pg_extension_config_dump('idempotency.ledger_witness', '');
-- whoever writes here can have entries pruned that nobody has witnessed
REVOKE ALL ON idempotency.ledger_witness FROM PUBLIC;

CREATE TABLE idempotency.ledger_prune (
	min_index pg_catalog.int8 NOT NULL,
	pruned_at pg_catalog.timestamptz NOT NULL,
	CONSTRAINT ledger_prune_pkey PRIMARY KEY (min_index)
);
COMMENT ON TABLE idempotency.ledger_prune IS
	'entries below min_index were removed by prune()';
-- verify() must know where the entries begin
SELECT pg_catalog.pg_extension_config_dump('idempotency.ledger_prune', '');
-- whoever writes here hides that entries are missing
REVOKE ALL ON idempotency.ledger_prune FROM PUBLIC;

-- Nobody changes an entry.  (The library writes its tables directly, and fires
-- no trigger; whoever gets past this one is found out by verify().)
CREATE FUNCTION idempotency.ledger_refuse_change()
RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'idempotency_ledger_refuse_change';
COMMENT ON FUNCTION idempotency.ledger_refuse_change IS
	'refuses UPDATE, DELETE and TRUNCATE of the ledger';
-- a trigger function; nobody has to call it
REVOKE ALL ON FUNCTION idempotency.ledger_refuse_change FROM PUBLIC;

CREATE TRIGGER ledger_entry_append_only
	BEFORE UPDATE OR DELETE OR TRUNCATE ON idempotency.ledger_entry
	FOR EACH STATEMENT EXECUTE FUNCTION idempotency.ledger_refuse_change();
CREATE TRIGGER ledger_tile_append_only
	BEFORE UPDATE OR DELETE OR TRUNCATE ON idempotency.ledger_tile
	FOR EACH STATEMENT EXECUTE FUNCTION idempotency.ledger_refuse_change();
CREATE TRIGGER ledger_checkpoint_append_only
	BEFORE UPDATE OR DELETE OR TRUNCATE ON idempotency.ledger_checkpoint
	FOR EACH STATEMENT EXECUTE FUNCTION idempotency.ledger_refuse_change();
