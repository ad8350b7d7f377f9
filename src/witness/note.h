/*-------------------------------------------------------------------------
 *
 * note.h
 *		Checkpoints, and the signed notes that they are in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WITNESS_NOTE_H
#define WITNESS_NOTE_H

#include <stdbool.h>
#include <stdint.h>

#include "key.h"
#include "report.h"
#include "text.h"
#include "tree.h"

#define NOTE_MAX (1024 * 1024)	/* bytes of a note */
#define NOTE_LINE_MAX 16384		/* bytes of one of its lines */
#define NOTE_SIGNATURES_MAX 64
#define ORIGIN_MAX 1024			/* bytes */

/* C2SP tlog-checkpoint, without extension lines */
typedef struct Checkpoint
{
	char		origin[ORIGIN_MAX + 1];
	int64_t		size;
	TreeHash	root;
} Checkpoint;

typedef struct NoteSignature
{
	Span		name;
	Span		base64;			/* of id and signature */
	unsigned char id[KEY_ID_LENGTH];
} NoteSignature;

/* what was read; points into the bytes that it was read from */
typedef struct Note
{
	Span		text;			/* what is signed */
	Checkpoint	checkpoint;
	int			n;
	NoteSignature signatures[NOTE_SIGNATURES_MAX];
} Note;

typedef enum SignatureState
{
	SIGNATURE_ABSENT,			/* none of this key */
	SIGNATURE_GOOD,
	SIGNATURE_FORGED			/* one of this key's name and id that is wrong */
} SignatureState;

extern bool checkpoint_parse(Span text, Checkpoint *checkpoint, Failure *failure);
extern void checkpoint_format(Text *text, const Checkpoint *checkpoint);
extern bool checkpoint_equal(const Checkpoint *a, const Checkpoint *b);
extern void checkpoint_describe(Text *text, const Checkpoint *checkpoint);

extern bool note_parse(Span data, Note *note, Failure *failure);
extern SignatureState note_verify(const Note *note, const VerifierKey *key, int64_t *time);
extern bool note_sign(Text *note, const Checkpoint *checkpoint, const SignerKey *key,
					  int type, int64_t time, Failure *failure);

#endif							/* WITNESS_NOTE_H */
