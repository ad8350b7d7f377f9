/*-------------------------------------------------------------------------
 *
 * key.h
 *		Keys that sign and verify notes: Ed25519, in C2SP's text formats.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WITNESS_KEY_H
#define WITNESS_KEY_H

#include <stdbool.h>
#include <stdint.h>

#include "report.h"
#include "text.h"

#define KEY_NAME_MAX 255		/* bytes */
#define KEY_ID_LENGTH 4
#define ED25519_KEY_LENGTH 32	/* of a public and of a private key */
#define ED25519_SIGNATURE_LENGTH 64

/* C2SP's signature types */
#define SIGNATURE_NOTE 0x01		/* Ed25519 over the text */
#define SIGNATURE_COSIGNATURE 0x04	/* tlog-cosignature/v1: with a time */

typedef struct VerifierKey
{
	char		name[KEY_NAME_MAX + 1];
	unsigned char type;
	unsigned char id[KEY_ID_LENGTH];
	unsigned char public_key[ED25519_KEY_LENGTH];
} VerifierKey;

/* one private key signs both types; each type has a verifier key of its own */
typedef struct SignerKey
{
	char		name[KEY_NAME_MAX + 1];
	unsigned char seed[ED25519_KEY_LENGTH];
	unsigned char public_key[ED25519_KEY_LENGTH];
} SignerKey;

extern bool key_name_ok(Span name);
extern bool signer_generate(const char *name, SignerKey *key, Failure *failure);
extern bool signer_save(const SignerKey *key, const char *path, Failure *failure);
extern bool signer_load(const char *path, SignerKey *key, Failure *failure);
extern void signer_forget(SignerKey *key);
extern bool signer_sign(const SignerKey *key, Span message,
						unsigned char signature[ED25519_SIGNATURE_LENGTH], Failure *failure);
extern void signer_verifier(const SignerKey *key, int type, VerifierKey *verifier);

extern bool verifier_parse(Span text, VerifierKey *key, Failure *failure);
extern void verifier_format(Text *text, const VerifierKey *key);
extern bool verifier_check(const VerifierKey *key, Span message,
						   const unsigned char signature[ED25519_SIGNATURE_LENGTH]);

#endif							/* WITNESS_KEY_H */
