/*-------------------------------------------------------------------------
 *
 * note.c
 *		Checkpoints, and the signed notes that they are in.
 *
 * C2SP signed-note, tlog-checkpoint, tlog-cosignature:
 *
 *		<origin>
 *		<size>
 *		<base64 of root>
 *
 *		U+2014 <key's name> <base64 of key's id, signature>
 *
 * What is signed is the text up to the empty line, for a cosignature with
 * "cosignature/v1" and "time <seconds>" in two lines before it; a cosignature's
 * time, in 8 bytes, stands before its 64 bytes.
 *
 * Read strictly: what could be written in two ways is refused in all but one.
 * A checkpoint has three lines; others, which C2SP allows, are refused, as this
 * ledger writes none and nobody would check them.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <string.h>

#include "note.h"

#define SIGNATURE_PREFIX "\xE2\x80\x94 "
#define TIME_LENGTH 8

/* Refuses bytes that no text of a note may have. */
static bool
check_bytes(Span data, const char *what, size_t max, Failure *failure)
{
	size_t		line = 0;

	if (data.len == 0)
		return fail(failure, EXIT_MALFORMED, "%s is empty", what);
	if (data.len > max)
		return fail(failure, EXIT_MALFORMED, "%s has more than %zu bytes", what, max);
	for (size_t i = 0; i < data.len; i++)
	{
		unsigned char c = data.data[i];

		if (c == '\0')
			return fail(failure, EXIT_MALFORMED, "%s has a zero byte", what);
		if (c == '\r')
			return fail(failure, EXIT_MALFORMED,
						"%s has a carriage return: its lines must end with a newline only", what);
		if (c < 0x20 && c != '\n')
			return fail(failure, EXIT_MALFORMED, "%s has the control character 0x%02x", what, c);
		line = c == '\n' ? 0 : line + 1;
		if (line > NOTE_LINE_MAX)
			return fail(failure, EXIT_MALFORMED, "%s has a line of more than %d bytes",
						what, NOTE_LINE_MAX);
	}
	if (data.data[data.len - 1] != '\n')
		return fail(failure, EXIT_MALFORMED, "%s does not end with a newline", what);
	if (!is_utf8(data))
		return fail(failure, EXIT_MALFORMED, "%s is not UTF-8", what);
	return true;
}

/* Reads a checkpoint: exactly three lines. */
bool
checkpoint_parse(Span text, Checkpoint *checkpoint, Failure *failure)
{
	Span		line;
	size_t		len;

	memset(checkpoint, 0, sizeof(*checkpoint));
	if (!check_bytes(text, "the checkpoint", NOTE_MAX, failure))
		return false;
	if (!next_line(&text, &line) || line.len == 0 || line.len > ORIGIN_MAX)
		return fail(failure, EXIT_MALFORMED, "the checkpoint's first line is no origin:"
					" it has 1 to %d bytes", ORIGIN_MAX);
	memcpy(checkpoint->origin, line.data, line.len);
	if (!next_line(&text, &line) || !parse_decimal(line, &checkpoint->size))
		return fail(failure, EXIT_MALFORMED, "the checkpoint's second line is no size:"
					" a decimal number without leading zeros");
	if (!next_line(&text, &line) ||
		!base64_decode(line, checkpoint->root.bytes, HASH_LENGTH, &len) || len != HASH_LENGTH)
		return fail(failure, EXIT_MALFORMED, "the checkpoint's third line is no root:"
					" the base64 of %d bytes", HASH_LENGTH);
	if (text.len > 0)
		return fail(failure, EXIT_MALFORMED, "the checkpoint has more than three lines");
	if (checkpoint->size == 0)
	{
		TreeHash	empty;

		tree_empty(&empty);
		if (!hash_equal(&checkpoint->root, &empty))
			return fail(failure, EXIT_MALFORMED,
						"the checkpoint's size is 0, and its root is not that of no entries");
	}
	return true;
}

/* Appends a checkpoint, which reads back as the same. */
void
checkpoint_format(Text *text, const Checkpoint *checkpoint)
{
	text_format(text, "%s\n%" PRId64 "\n", checkpoint->origin, checkpoint->size);
	base64_encode(text, checkpoint->root.bytes, HASH_LENGTH);
	text_add(text, "\n", 1);
}

/* Do they say the same? */
bool
checkpoint_equal(const Checkpoint *a, const Checkpoint *b)
{
	return strcmp(a->origin, b->origin) == 0 && a->size == b->size &&
		hash_equal(&a->root, &b->root);
}

/* Appends a checkpoint in words, for a message. */
void
checkpoint_describe(Text *text, const Checkpoint *checkpoint)
{
	text_format(text, "size %" PRId64 " of %s with root ", checkpoint->size, checkpoint->origin);
	base64_encode(text, checkpoint->root.bytes, HASH_LENGTH);
}

/* Finds where the text ends and the signatures begin: the last empty line. */
static bool
split_note(Span data, Span *text, Span *signatures, Failure *failure)
{
	for (size_t i = data.len - 1; i > 0; i--)
	{
		if (data.data[i] == '\n' && data.data[i - 1] == '\n')
		{
			text->data = data.data;
			text->len = i;
			signatures->data = data.data + i + 1;
			signatures->len = data.len - i - 1;
			return true;
		}
	}
	return fail(failure, EXIT_MALFORMED,
				"the note has no empty line between its text and its signatures");
}

/* Reads a signature's line. */
static bool
parse_signature(Span line, NoteSignature *signature)
{
	size_t		prefix = strlen(SIGNATURE_PREFIX);
	unsigned char bytes[NOTE_LINE_MAX];
	const char *space;
	size_t		len;

	if (line.len < prefix || memcmp(line.data, SIGNATURE_PREFIX, prefix) != 0)
		return false;
	line.data += prefix;
	line.len -= prefix;
	space = line.len > 0 ? memchr(line.data, ' ', line.len) : NULL;
	if (space == NULL)
		return false;
	signature->name.data = line.data;
	signature->name.len = space - line.data;
	signature->base64.data = space + 1;
	signature->base64.len = line.len - signature->name.len - 1;
	if (!key_name_ok(signature->name) ||
		!base64_decode(signature->base64, bytes, sizeof(bytes), &len) || len <= KEY_ID_LENGTH)
		return false;
	memcpy(signature->id, bytes, KEY_ID_LENGTH);
	return true;
}

/* Do these two say that they are by the same key? */
static bool
same_signer(const NoteSignature *a, const NoteSignature *b)
{
	return a->name.len == b->name.len &&
		memcmp(a->name.data, b->name.data, a->name.len) == 0 &&
		memcmp(a->id, b->id, KEY_ID_LENGTH) == 0;
}

/*
 * Reads a signed checkpoint.  The note points into data.  It is known to be
 * well formed afterwards, and nothing else: no signature is verified.
 */
bool
note_parse(Span data, Note *note, Failure *failure)
{
	Span		rest;
	Span		line;

	memset(note, 0, sizeof(*note));
	if (!check_bytes(data, "the note", NOTE_MAX, failure) ||
		!split_note(data, &note->text, &rest, failure) ||
		!checkpoint_parse(note->text, &note->checkpoint, failure))
		return false;
	while (next_line(&rest, &line))
	{
		NoteSignature *signature = &note->signatures[note->n];

		if (note->n == NOTE_SIGNATURES_MAX)
			return fail(failure, EXIT_MALFORMED, "the note has more than %d signatures",
						NOTE_SIGNATURES_MAX);
		if (!parse_signature(line, signature))
			return fail(failure, EXIT_MALFORMED, "line %d of the note's signatures is none:"
						" an em dash, a key's name, and the base64 of its id and a signature",
						note->n + 1);
		for (int i = 0; i < note->n; i++)
		{
			if (same_signer(&note->signatures[i], signature))
				return fail(failure, EXIT_MALFORMED, "the note has two signatures of %.*s",
							(int) signature->name.len, signature->name.data);
		}
		note->n++;
	}
	if (note->n == 0)
		return fail(failure, EXIT_MALFORMED, "the note has no signature");
	return true;
}

/* Appends what a signature of this type is made of. */
static void
signed_message(Text *message, Span text, int type, int64_t time)
{
	if (type == SIGNATURE_COSIGNATURE)
		text_format(message, "cosignature/v1\ntime %" PRId64 "\n", time);
	text_add(message, text.data, text.len);
}

/* Reads the time of a cosignature; -1 if it is beyond 2^63 - 1. */
static int64_t
parse_time(const unsigned char *bytes)
{
	uint64_t	time = 0;

	for (int i = 0; i < TIME_LENGTH; i++)
		time = time << 8 | bytes[i];
	return time > INT64_MAX ? -1 : (int64_t) time;
}

/*
 * Has this key signed the note?  A cosignature's time goes to *time, in seconds
 * since 1970; it is -1 for a signature that has none.
 */
SignatureState
note_verify(const Note *note, const VerifierKey *key, int64_t *time)
{
	NoteSignature wanted = {{key->name, strlen(key->name)}, {NULL, 0}, {0}};
	size_t		skip = KEY_ID_LENGTH + (key->type == SIGNATURE_COSIGNATURE ? TIME_LENGTH : 0);

	memcpy(wanted.id, key->id, KEY_ID_LENGTH);
	*time = -1;
	for (int i = 0; i < note->n; i++)
	{
		unsigned char bytes[NOTE_LINE_MAX];
		Text		message = {0};
		Span		span;
		size_t		len;
		bool		good;

		if (!same_signer(&note->signatures[i], &wanted))
			continue;
		if (!base64_decode(note->signatures[i].base64, bytes, sizeof(bytes), &len) ||
			len != skip + ED25519_SIGNATURE_LENGTH)
			return SIGNATURE_FORGED;
		if (key->type == SIGNATURE_COSIGNATURE &&
			(*time = parse_time(bytes + KEY_ID_LENGTH)) < 0)
			return SIGNATURE_FORGED;
		signed_message(&message, note->text, key->type, *time);
		span.data = message.data;
		span.len = message.len;
		good = verifier_check(key, span, bytes + skip);
		text_free(&message);
		return good ? SIGNATURE_GOOD : SIGNATURE_FORGED;
	}
	return SIGNATURE_ABSENT;
}

/*
 * Appends a note of this checkpoint, signed with this key.  The time, in
 * seconds since 1970, is for a cosignature.
 */
bool
note_sign(Text *note, const Checkpoint *checkpoint, const SignerKey *key,
		  int type, int64_t time, Failure *failure)
{
	unsigned char bytes[KEY_ID_LENGTH + TIME_LENGTH + ED25519_SIGNATURE_LENGTH];
	size_t		len = KEY_ID_LENGTH;
	VerifierKey verifier;
	Text		text = {0};
	Text		message = {0};
	Span		span;
	bool		ok;

	signer_verifier(key, type, &verifier);
	memcpy(bytes, verifier.id, KEY_ID_LENGTH);
	if (type == SIGNATURE_COSIGNATURE)
	{
		for (int i = TIME_LENGTH - 1; i >= 0; i--)
			bytes[len++] = (uint64_t) time >> (8 * i) & 0xFF;
	}
	checkpoint_format(&text, checkpoint);
	span.data = text.data;
	span.len = text.len;
	signed_message(&message, span, type, time);
	span.data = message.data;
	span.len = message.len;
	ok = signer_sign(key, span, bytes + len, failure);
	if (ok)
	{
		text_format(note, "%s\n%s%s ", text.data, SIGNATURE_PREFIX, key->name);
		base64_encode(note, bytes, len + ED25519_SIGNATURE_LENGTH);
		text_add(note, "\n", 1);
	}
	text_free(&text);
	text_free(&message);
	return ok;
}
