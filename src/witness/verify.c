/*-------------------------------------------------------------------------
 *
 * verify.c
 *		The command verify: an auditor's, without a database.
 *
 * Of a note it verifies the signatures, and with it that an entry is in the
 * ledger of this checkpoint (inclusion), and that this ledger begins with that
 * of an older note (consistency).  The note and its inclusion proof may come
 * as one file, a C2SP tlog-proof.
 *
 *-------------------------------------------------------------------------
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "commands.h"
#include "file.h"
#include "note.h"

#define PROOF_FILE_MAX 65536
#define LEAF_DATA_MAX (256 * 1024 * 1024)
#define TLOG_PROOF "c2sp.org/tlog-proof@v1\n"

/* what is verified */
typedef struct Claim
{
	Text		file;
	Note		note;
	bool		has_index;
	int64_t		index;
	bool		has_proof;
	TreeProof	proof;
} Claim;

/* Reads a whole file, which is what the caller says. */
static bool
read_input(const char *path, size_t max, Text *text, Span *span, Failure *failure)
{
	if (!file_read(AT_FDCWD, path, max, text, failure))
		return false;
	span->data = text->data;
	span->len = text->len;
	return true;
}

/*
 * Takes the head off a tlog-proof: an optional line of extra data, which says
 * nothing that would be verified, the index, and the hashes up to an empty line.
 */
static bool
take_proof(Span *data, Claim *claim, Failure *failure)
{
	Span		hashes;
	Span		line;

	data->data += strlen(TLOG_PROOF);
	data->len -= strlen(TLOG_PROOF);
	if (data->len > 6 && memcmp(data->data, "extra ", 6) == 0)
		next_line(data, &line);
	if (!next_line(data, &line) || line.len < 6 || memcmp(line.data, "index ", 6) != 0)
		return fail(failure, EXIT_MALFORMED, "the tlog-proof has no line with an index");
	line.data += 6;
	line.len -= 6;
	if (!parse_decimal(line, &claim->index))
		return fail(failure, EXIT_MALFORMED,
					"the tlog-proof's index is no decimal number without leading zeros");
	hashes = *data;
	do
	{
		if (!next_line(data, &line))
			return fail(failure, EXIT_MALFORMED,
						"the tlog-proof has no empty line between its hashes and its note");
	} while (line.len > 0);
	hashes.len = line.data - hashes.data;
	claim->has_index = true;
	claim->has_proof = true;
	return proof_parse(hashes, &claim->proof, failure);
}

/* Reads the note, or the tlog-proof. */
static bool
read_claim(const char *path, Claim *claim, Failure *failure)
{
	Span		span;

	if (!read_input(path, NOTE_MAX, &claim->file, &span, failure))
		return false;
	if (span.len >= strlen(TLOG_PROOF) && memcmp(span.data, TLOG_PROOF, strlen(TLOG_PROOF)) == 0 &&
		!take_proof(&span, claim, failure))
		return false;
	return note_parse(span, &claim->note, failure);
}

/* Says who has signed, and when. */
static void
print_signature(const VerifierKey *key, int64_t when)
{
	printf("signed by %s", key->name);
	if (when >= 0)
	{
		char		text[64] = "";
		time_t		seconds = when;
		struct tm	parts;

		if (gmtime_r(&seconds, &parts) == NULL ||
			strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &parts) == 0)
			snprintf(text, sizeof(text), "%" PRId64, when);
		printf(" at %s", text);
	}
	printf("\n");
}

/*
 * Have enough of the keys signed it?  A signature that claims to be of one of
 * them and isn't refuses the note, however many others there are.
 */
static bool
verify_signatures(const VerifyOptions *options, const Note *note, bool print, Failure *failure)
{
	int			quorum = options->quorum > 0 ? options->quorum : options->nkeys;
	int			good = 0;
	const char *missing = "";

	for (int i = 0; i < options->nkeys; i++)
	{
		const VerifierKey *key = &options->keys[i];
		int64_t		when;

		switch (note_verify(note, key, &when))
		{
			case SIGNATURE_GOOD:
				good++;
				if (print)
					print_signature(key, when);
				break;
			case SIGNATURE_ABSENT:
				missing = key->name;
				break;
			case SIGNATURE_FORGED:
				return fail(failure, EXIT_UNVERIFIED, "the signature of %s is wrong", key->name);
		}
	}
	if (good < quorum)
		return fail(failure, EXIT_UNVERIFIED, "%d of the given keys have signed, %d must have;"
					" there is no signature of %s", good, quorum, missing);
	return true;
}

/* Reads the hash of the leaf: given, in a file, or that of a file's bytes. */
static bool
read_leaf(const VerifyOptions *options, TreeHash *leaf, Failure *failure)
{
	Text		text = {0};
	Span		span;
	bool		ok;

	if (options->leaf != NULL)
	{
		span.data = options->leaf;
		span.len = strlen(options->leaf);
		if (hex_decode(span, leaf->bytes, HASH_LENGTH))
			return true;
		ok = read_input(options->leaf, PROOF_FILE_MAX, &text, &span, failure);
		if (ok && span.len > 0 && span.data[span.len - 1] == '\n')
			span.len--;
		ok = ok && (hash_parse(span, leaf) ||
					fail(failure, EXIT_MALFORMED, "%s has no hash in base64 or hexadecimal",
						 options->leaf));
	}
	else
	{
		ok = read_input(options->leaf_data, LEAF_DATA_MAX, &text, &span, failure);
		if (ok)
			tree_leaf(span.data, span.len, leaf);
	}
	text_free(&text);
	return ok;
}

/* Is the leaf in the ledger of the note? */
static bool
verify_inclusion(const VerifyOptions *options, Claim *claim, Failure *failure)
{
	const Checkpoint *checkpoint = &claim->note.checkpoint;
	Text		text = {0};
	Span		span;
	TreeHash	leaf;
	bool		ok = true;

	if (!read_leaf(options, &leaf, failure))
		return false;
	if (options->index != NULL)
	{
		span.data = options->index;
		span.len = strlen(options->index);
		if (!parse_decimal(span, &claim->index))
			return fail(failure, EXIT_USAGE,
						"--index is no decimal number without leading zeros");
	}
	if (options->proof != NULL)
	{
		ok = read_input(options->proof, PROOF_FILE_MAX, &text, &span, failure) &&
			proof_parse(span, &claim->proof, failure);
		text_free(&text);
	}
	if (!ok)
		return false;
	if (!tree_verify_inclusion(claim->index, checkpoint->size, &leaf, &claim->proof,
							   &checkpoint->root))
		return fail(failure, EXIT_UNVERIFIED, "the leaf is not proved to be number %" PRId64
					" of the %" PRId64 " of the checkpoint", claim->index, checkpoint->size);
	printf("includes the leaf as number %" PRId64 "\n", claim->index);
	return true;
}

/* Does the ledger of the note begin with that of the older one? */
static bool
verify_consistency(const VerifyOptions *options, const Claim *claim, Failure *failure)
{
	const Checkpoint *checkpoint = &claim->note.checkpoint;
	Claim		old = {0};
	Text		text = {0};
	TreeProof	proof = {0};
	Span		span;
	const Checkpoint *begin = &old.note.checkpoint;
	bool		ok = read_claim(options->old_note, &old, failure) &&
		verify_signatures(options, &old.note, false, failure);

	if (ok && options->consistency != NULL)
		ok = read_input(options->consistency, PROOF_FILE_MAX, &text, &span, failure) &&
			proof_parse(span, &proof, failure);
	if (ok && !tree_verify_consistency(begin->size, checkpoint->size, &begin->root,
									   &checkpoint->root, &proof))
		ok = fail(failure, EXIT_UNVERIFIED, "the ledger of size %" PRId64
				  " is not proved to begin with that of size %" PRId64,
				  checkpoint->size, begin->size);
	if (ok)
	{
		printf("begins with the %" PRId64 " of the older note\n", begin->size);
		if (strcmp(begin->origin, checkpoint->origin) != 0)
			printf("(the older note is of another incarnation, %s)\n", begin->origin);
	}
	text_free(&old.file);
	text_free(&text);
	return ok;
}

/* Are the options such that there is something to verify? */
static bool
check_options(const VerifyOptions *options, const Claim *claim, Failure *failure)
{
	bool		leaf = options->leaf != NULL || options->leaf_data != NULL;

	if (options->leaf != NULL && options->leaf_data != NULL)
		return fail(failure, EXIT_USAGE, "--leaf and --leaf-data exclude each other");
	if (claim->has_proof && (options->index != NULL || options->proof != NULL))
		return fail(failure, EXIT_USAGE, "a tlog-proof has the index and the proof in it");
	if (claim->has_proof && !leaf)
		return fail(failure, EXIT_USAGE, "a tlog-proof needs --leaf or --leaf-data");
	if (leaf && !claim->has_proof && (options->index == NULL || options->proof == NULL))
		return fail(failure, EXIT_USAGE, "a leaf needs --index and --proof");
	if (!leaf && (options->index != NULL || options->proof != NULL))
		return fail(failure, EXIT_USAGE, "--index and --proof need --leaf or --leaf-data");
	if (options->consistency != NULL && options->old_note == NULL)
		return fail(failure, EXIT_USAGE, "--consistency needs --consistent-with");
	return true;
}

/* Verifies; says on standard output what has been.  Returns an exit code. */
int
verify(const VerifyOptions *options)
{
	Claim		claim = {0};
	Failure		failure;
	Text		text = {0};
	bool		ok = read_claim(options->note, &claim, &failure) &&
		check_options(options, &claim, &failure) &&
		verify_signatures(options, &claim.note, true, &failure);

	if (ok)
	{
		checkpoint_describe(&text, &claim.note.checkpoint);
		printf("checkpoint: %s\n", text.data);
		text_free(&text);
		if (options->leaf != NULL || options->leaf_data != NULL)
			ok = verify_inclusion(options, &claim, &failure);
		if (ok && options->old_note != NULL)
			ok = verify_consistency(options, &claim, &failure);
	}
	text_free(&claim.file);
	if (ok && fflush(stdout) != 0)
		ok = fail(&failure, EXIT_TROUBLE, "could not write to standard output");
	if (ok)
		return EXIT_DONE;
	complain(&failure);
	return failure.code;
}
