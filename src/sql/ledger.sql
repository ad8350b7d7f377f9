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
	'what was decided; doc/ledger.md has the list';
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
	'of the client''s traceparent (W3C Trace Context), 16 bytes';
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

CREATE FUNCTION idempotency.checkpoint_text(size pg_catalog.int8 DEFAULT NULL)
RETURNS pg_catalog.text
LANGUAGE c STABLE PARALLEL UNSAFE COST 100
AS 'MODULE_PATHNAME', 'idempotency_checkpoint_text';
COMMENT ON FUNCTION idempotency.checkpoint_text IS
	'the checkpoint of this size, or the latest one that may be told (idempotency.checkpoint_standbys): origin, size and root, to be signed (C2SP tlog-checkpoint); null if there is none';
-- tells how much happens; grant it to witnesses and auditors
REVOKE ALL ON FUNCTION idempotency.checkpoint_text FROM PUBLIC;

CREATE FUNCTION idempotency.inclusion_proof(
	leaf_index pg_catalog.int8,
	tree_size pg_catalog.int8 DEFAULT NULL)
RETURNS pg_catalog.bytea[]
LANGUAGE c STABLE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_inclusion_proof';
COMMENT ON FUNCTION idempotency.inclusion_proof IS
	'proves that the leaf is in the tree of this size (NULL: the latest checkpoint''s); for verify_inclusion()';
-- tells hashes of what happens; grant it to witnesses and auditors
REVOKE ALL ON FUNCTION idempotency.inclusion_proof FROM PUBLIC;

CREATE FUNCTION idempotency.consistency_proof(
	size1 pg_catalog.int8,
	size2 pg_catalog.int8 DEFAULT NULL)
RETURNS pg_catalog.bytea[]
LANGUAGE c STABLE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_consistency_proof';
COMMENT ON FUNCTION idempotency.consistency_proof IS
	'proves that the tree of size2 (NULL: the latest checkpoint''s) begins with that of size1; for verify_consistency()';
-- tells hashes of what happens; grant it to witnesses and auditors
REVOKE ALL ON FUNCTION idempotency.consistency_proof FROM PUBLIC;

CREATE FUNCTION idempotency.leaf_data(leaf_index pg_catalog.int8)
RETURNS pg_catalog.bytea
LANGUAGE c STABLE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_leaf_data';
COMMENT ON FUNCTION idempotency.leaf_data IS
	'what is hashed of the leaf''s entry: its leaf hash is SHA-256 of a zero byte and this';
-- shows who did what; grant it to auditors
REVOKE ALL ON FUNCTION idempotency.leaf_data FROM PUBLIC;

CREATE FUNCTION idempotency.witnessed(note pg_catalog.text)
RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'idempotency_witnessed';
COMMENT ON FUNCTION idempotency.witnessed IS
	'records a signed checkpoint that is held outside, for prune(), and returns its size; the signature is not checked';
-- lets entries be pruned; grant it to witnesses
REVOKE ALL ON FUNCTION idempotency.witnessed FROM PUBLIC;

CREATE FUNCTION idempotency.explain(
	scope pg_catalog.text,
	key pg_catalog.text,
	principal pg_catalog.text DEFAULT '',
	OUT event_no pg_catalog.int4,
	OUT decided_at pg_catalog.timestamptz,
	OUT decision pg_catalog.text,
	OUT summary pg_catalog.text,
	OUT attempt pg_catalog.int4,
	OUT fence pg_catalog.int8,
	OUT claimed_at pg_catalog.timestamptz,
	OUT role pg_catalog.text,
	OUT session_role pg_catalog.text,
	OUT application pg_catalog.text,
	OUT trace_id pg_catalog.bytea,
	OUT request_digest pg_catalog.bytea,
	OUT response_digest pg_catalog.bytea,
	OUT detail pg_catalog.text,
	OUT incarnation pg_catalog.int8,
	OUT seq pg_catalog.int8,
	OUT leaf_index pg_catalog.int8,
	OUT sealed pg_catalog.bool)
RETURNS SETOF pg_catalog.record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 10000 ROWS 10
AS 'MODULE_PATHNAME', 'idempotency_explain';
COMMENT ON FUNCTION idempotency.explain IS
	'the history of a key: what was decided, when, why and by whom, in order';
-- shows who did what; grant it to operators and auditors
REVOKE ALL ON FUNCTION idempotency.explain FROM PUBLIC;

CREATE FUNCTION idempotency.prune(
	min_index pg_catalog.int8,
	reason pg_catalog.text)
RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 10000
AS 'MODULE_PATHNAME', 'idempotency_prune';
COMMENT ON FUNCTION idempotency.prune IS
	'removes the entries below this leaf index, a multiple of 256 that was witnessed, and returns how many; proofs about the others stay valid';
-- removes evidence; grant it to administrators
REVOKE ALL ON FUNCTION idempotency.prune FROM PUBLIC;

CREATE FUNCTION idempotency.erase(
	scope pg_catalog.text,
	key pg_catalog.text,
	reason pg_catalog.text,
	principal pg_catalog.text DEFAULT '')
RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 10000
AS 'MODULE_PATHNAME', 'idempotency_erase';
COMMENT ON FUNCTION idempotency.erase IS
	'removes what is stored of a key''s requests and responses, and returns how many rows held some; a replay then has no body, and the reason "erased"';
-- removes data; grant it to administrators
REVOKE ALL ON FUNCTION idempotency.erase FROM PUBLIC;

-- Whoever has drawn a number holds this lock until its transaction has ended.
CREATE VIEW idempotency.seal_blocked_by WITH (security_barrier) AS
SELECT l.pid, p.gid,
	CASE WHEN p.gid IS NULL THEN a.xact_start ELSE p.prepared END AS since,
	(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
		CASE WHEN p.gid IS NULL THEN a.xact_start ELSE p.prepared END)
		OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8 AS age_ms
FROM pg_catalog.pg_locks AS l
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid
LEFT JOIN pg_catalog.pg_locks AS x ON l.pid IS NULL
	AND x.virtualtransaction OPERATOR(pg_catalog.=) l.virtualtransaction
	AND x.locktype OPERATOR(pg_catalog.=) 'transactionid'
	AND x.mode OPERATOR(pg_catalog.=) 'ExclusiveLock'
LEFT JOIN pg_catalog.pg_prepared_xacts AS p
	ON p.transaction OPERATOR(pg_catalog.=) x.transactionid
WHERE l.locktype OPERATOR(pg_catalog.=) 'relation'
	AND l.relation OPERATOR(pg_catalog.=) 'idempotency.ledger_seq'::pg_catalog.regclass
	AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database AS d
		WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
	AND l.mode OPERATOR(pg_catalog.=) 'RowExclusiveLock' AND l.granted;
COMMENT ON VIEW idempotency.seal_blocked_by IS
	'transactions that have written to the ledger and not ended: what they decided, and what was decided after it, can''t be sealed; normally a few milliseconds old';
COMMENT ON COLUMN idempotency.seal_blocked_by.pid IS
	'the session; null for a prepared transaction';
COMMENT ON COLUMN idempotency.seal_blocked_by.gid IS
	'of a prepared transaction: COMMIT PREPARED or ROLLBACK PREPARED it';
COMMENT ON COLUMN idempotency.seal_blocked_by.since IS
	'when the transaction began, or was prepared';
-- shows who is doing what; grant it to operators
REVOKE ALL ON idempotency.seal_blocked_by FROM PUBLIC;

CREATE VIEW idempotency.ledger WITH (security_barrier) AS
SELECT e.seq, e.decided_at, e.decision, e.scope, e.principal, e.key, e.event_no,
	e.attempt, e.fence, e.claimed_at, e.request_digest, e.response_digest,
	e.request_commitment, e.response_commitment, e.role, e.session_role,
	e.application, e.trace_id, e.detail, e.incarnation, e.id,
	e.seq OPERATOR(pg_catalog.<=) c.sealed_seq AS sealed
FROM idempotency.ledger_entry AS e
CROSS JOIN (SELECT pg_catalog.max(k.sealed_seq) AS sealed_seq
	FROM (SELECT 0::pg_catalog.int8 AS sealed_seq UNION ALL
		SELECT l.sealed_seq FROM idempotency.ledger_checkpoint AS l) AS k) AS c;
COMMENT ON VIEW idempotency.ledger IS
	'every entry of the ledger, and whether it is sealed';
-- shows who did what; grant it to auditors
REVOKE ALL ON idempotency.ledger FROM PUBLIC;

CREATE VIEW idempotency.ledger_status WITH (security_barrier) AS
SELECT c.size, c.origin, c.root, c.sealed_at, c.sealed_seq,
	pg_catalog.count(e.seq) AS unsealed, pg_catalog.min(e.decided_at) AS unsealed_since,
	(SELECT pg_catalog.max(w.size) FROM idempotency.ledger_witness AS w) AS witnessed_size,
	(SELECT pg_catalog.max(w.witnessed_at) FROM idempotency.ledger_witness AS w) AS witnessed_at,
	(SELECT pg_catalog.max(p.min_index) FROM idempotency.ledger_prune AS p) AS pruned_below
FROM (SELECT NULL) AS one(row)
LEFT JOIN (SELECT k.size, k.origin, k.root, k.sealed_at, k.sealed_seq
	FROM idempotency.ledger_checkpoint AS k ORDER BY k.size USING OPERATOR(pg_catalog.>) LIMIT 1) AS c ON true
LEFT JOIN idempotency.ledger_entry AS e ON e.seq OPERATOR(pg_catalog.>)
	CASE WHEN c.sealed_seq IS NULL THEN 0 ELSE c.sealed_seq END
GROUP BY c.size, c.origin, c.root, c.sealed_at, c.sealed_seq;
COMMENT ON VIEW idempotency.ledger_status IS
	'how far the ledger is sealed, witnessed and pruned';
COMMENT ON COLUMN idempotency.ledger_status.unsealed IS
	'entries that are committed and in no checkpoint yet';
COMMENT ON COLUMN idempotency.ledger_status.unsealed_since IS
	'when the oldest of them was decided';
-- tells how much happens; grant it to operators and auditors
REVOKE ALL ON idempotency.ledger_status FROM PUBLIC;
