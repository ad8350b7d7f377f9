/*-------------------------------------------------------------------------
 *
 * key.c
 *		Keys that sign and verify notes: Ed25519, in C2SP's text formats.
 *
 * A verifier key is <name>+<hex of id>+<base64 of type, public key>, and a
 * private key the same with PRIVATE+KEY+ before it and the seed in place of
 * the public key, as Go's sumdb/note has them.  The id is the begin of the
 * SHA-256 of <name> newline type, public key.
 *
 * A private key is in a file that nobody else can read, is shown to nobody,
 * and is wiped from memory when it isn't needed any more.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "file.h"
#include "key.h"
#include "tree.h"

#define PRIVATE_PREFIX "PRIVATE+KEY+"
#define KEY_FILE_MAX 4096

/* Is it a name that a key can have?  C2SP: no spaces, no plus. */
bool
key_name_ok(Span name)
{
	if (name.len == 0 || name.len > KEY_NAME_MAX || !is_utf8(name) || has_space(name))
		return false;
	for (size_t i = 0; i < name.len; i++)
	{
		unsigned char c = name.data[i];

		if (c < 0x20 || c == 0x7F || c == '+')
			return false;
	}
	return true;
}

/* The id of a key of this name, type and public key. */
static void
key_id(const char *name, int type, const unsigned char *public_key, unsigned char *id)
{
	Text		text = {0};
	unsigned char byte = (unsigned char) type;
	TreeHash	hash;

	text_format(&text, "%s\n", name);
	text_add(&text, &byte, 1);
	text_add(&text, public_key, ED25519_KEY_LENGTH);
	sha256(text.data, text.len, &hash);
	memcpy(id, hash.bytes, KEY_ID_LENGTH);
	text_free(&text);
}

/*
 * Splits <name>+<hex of id>+<base64 of type and key>; the key's bytes go to
 * key, its type is returned, -1 if it isn't of this form.
 */
static int
key_split(Span text, char *name, unsigned char *id, unsigned char *key)
{
	unsigned char bytes[ED25519_KEY_LENGTH + 1];
	const char *plus = text.len > 0 ? memchr(text.data, '+', text.len) : NULL;
	size_t		len;
	Span		part;
	int			type;

	if (plus == NULL)
		return -1;
	part.data = text.data;
	part.len = plus - text.data;
	if (!key_name_ok(part))
		return -1;
	memcpy(name, part.data, part.len);
	name[part.len] = '\0';

	/* the base64 may have plus signs, the hexadecimal has a fixed length */
	text.data += part.len + 1;
	text.len -= part.len + 1;
	part.data = text.data;
	part.len = 2 * KEY_ID_LENGTH;
	if (text.len <= part.len || text.data[part.len] != '+' ||
		!hex_decode(part, id, KEY_ID_LENGTH))
		return -1;
	text.data += part.len + 1;
	text.len -= part.len + 1;
	if (!base64_decode(text, bytes, sizeof(bytes), &len) || len != sizeof(bytes))
		return -1;
	type = bytes[0];
	memcpy(key, bytes + 1, ED25519_KEY_LENGTH);
	OPENSSL_cleanse(bytes, sizeof(bytes));
	return type;
}

/* Computes the public key of a seed. */
static bool
signer_complete(SignerKey *key, Failure *failure)
{
	EVP_PKEY   *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL,
													key->seed, sizeof(key->seed));
	size_t		len = sizeof(key->public_key);
	bool		ok = pkey != NULL &&
		EVP_PKEY_get_raw_public_key(pkey, key->public_key, &len) == 1 &&
		len == sizeof(key->public_key);

	EVP_PKEY_free(pkey);
	return ok || fail(failure, EXIT_TROUBLE, "OpenSSL does not do Ed25519 here");
}

/* Makes a new key. */
bool
signer_generate(const char *name, SignerKey *key, Failure *failure)
{
	Span		span = {name, strlen(name)};

	if (!key_name_ok(span))
		return fail(failure, EXIT_USAGE, "a key's name has 1 to %d bytes of UTF-8,"
					" no spaces, control characters and plus signs", KEY_NAME_MAX);
	memcpy(key->name, name, span.len + 1);
	if (RAND_priv_bytes(key->seed, sizeof(key->seed)) != 1)
		return fail(failure, EXIT_TROUBLE, "OpenSSL has no random bytes");
	return signer_complete(key, failure);
}

/* Writes a private key to a new file that only its owner can read. */
bool
signer_save(const SignerKey *key, const char *path, Failure *failure)
{
	VerifierKey verifier;
	unsigned char bytes[ED25519_KEY_LENGTH + 1];
	Text		text = {0};
	bool		ok;

	signer_verifier(key, SIGNATURE_NOTE, &verifier);
	bytes[0] = SIGNATURE_NOTE;
	memcpy(bytes + 1, key->seed, sizeof(key->seed));
	/* all the room it takes, so that no copy of the seed is left behind */
	text_format(&text, "%*s", 1024, "");
	text_clear(&text);
	text_format(&text, "%s%s+", PRIVATE_PREFIX, key->name);
	hex_encode(&text, verifier.id, sizeof(verifier.id));
	text_add(&text, "+", 1);
	base64_encode(&text, bytes, sizeof(bytes));
	text_add(&text, "\n", 1);
	ok = file_create_secret(path, text.data, text.len, failure);
	OPENSSL_cleanse(bytes, sizeof(bytes));
	OPENSSL_cleanse(text.data, text.len);
	text_free(&text);
	return ok;
}

/* Reads the text of a private key. */
static bool
signer_parse(Span text, const char *path, SignerKey *key, Failure *failure)
{
	size_t		prefix = strlen(PRIVATE_PREFIX);
	VerifierKey verifier;
	int			type;

	/* the newline at its end */
	if (text.len > 0 && text.data[text.len - 1] == '\n')
		text.len--;
	if (text.len < prefix || memcmp(text.data, PRIVATE_PREFIX, prefix) != 0)
		return fail(failure, EXIT_USAGE, "%s is no private key: it does not begin with %s",
					path, PRIVATE_PREFIX);
	text.data += prefix;
	text.len -= prefix;
	type = key_split(text, key->name, verifier.id, key->seed);
	if (type < 0)
		return fail(failure, EXIT_USAGE, "%s is no private key: it is malformed", path);
	if (type != SIGNATURE_NOTE && type != SIGNATURE_COSIGNATURE)
		return fail(failure, EXIT_USAGE, "%s is a private key of type %d, not an Ed25519 one",
					path, type);
	if (!signer_complete(key, failure))
		return false;
	key_id(key->name, type, key->public_key, verifier.public_key);
	if (memcmp(verifier.id, verifier.public_key, KEY_ID_LENGTH) != 0)
		return fail(failure, EXIT_USAGE, "%s is no private key: its id is another's", path);
	return true;
}

/*
 * Reads a private key.  As libpq has it: others must not be able to read it,
 * a group only if it is root's.
 */
bool
signer_load(const char *path, SignerKey *key, Failure *failure)
{
	Text		text = {0};
	struct stat st;
	Span		span;
	bool		ok;

	if (stat(path, &st) != 0)
		return fail(failure, EXIT_USAGE, "could not read the key %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return fail(failure, EXIT_USAGE, "the key %s is not a file", path);
	if ((st.st_mode & (st.st_uid == 0 ? S_IRWXO | S_IWGRP : S_IRWXO | S_IRWXG)) != 0)
		return fail(failure, EXIT_USAGE,
					"others can read the key %s: it must have mode 0600, or 0640 and be root's", path);
	ok = file_read(AT_FDCWD, path, KEY_FILE_MAX, &text, failure);
	if (ok)
	{
		span.data = text.data;
		span.len = text.len;
		ok = signer_parse(span, path, key, failure);
	}
	else
		failure->code = EXIT_USAGE;
	if (text.size > 0)
		OPENSSL_cleanse(text.data, text.size);
	text_free(&text);
	if (!ok)
		signer_forget(key);
	return ok;
}

/* Wipes a private key. */
void
signer_forget(SignerKey *key)
{
	OPENSSL_cleanse(key, sizeof(*key));
}

/* Signs a message. */
bool
signer_sign(const SignerKey *key, Span message,
			unsigned char signature[ED25519_SIGNATURE_LENGTH], Failure *failure)
{
	EVP_PKEY   *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL,
													key->seed, sizeof(key->seed));
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	size_t		len = ED25519_SIGNATURE_LENGTH;
	bool		ok = pkey != NULL && context != NULL &&
		EVP_DigestSignInit(context, NULL, NULL, NULL, pkey) == 1 &&
		EVP_DigestSign(context, signature, &len,
					   (const unsigned char *) message.data, message.len) == 1 &&
		len == ED25519_SIGNATURE_LENGTH;

	EVP_MD_CTX_free(context);
	EVP_PKEY_free(pkey);
	return ok || fail(failure, EXIT_TROUBLE, "OpenSSL could not sign");
}

/* The key that verifies what this one signs as this type. */
void
signer_verifier(const SignerKey *key, int type, VerifierKey *verifier)
{
	memcpy(verifier->name, key->name, sizeof(verifier->name));
	verifier->type = (unsigned char) type;
	memcpy(verifier->public_key, key->public_key, sizeof(verifier->public_key));
	key_id(key->name, type, key->public_key, verifier->id);
}

/* Reads a verifier key. */
bool
verifier_parse(Span text, VerifierKey *key, Failure *failure)
{
	unsigned char id[KEY_ID_LENGTH];
	int			type = key_split(text, key->name, key->id, key->public_key);

	if (type < 0)
		return fail(failure, EXIT_USAGE, "\"%.*s\" is no verifier key: it is malformed",
					(int) (text.len < 300 ? text.len : 300), text.data);
	if (type != SIGNATURE_NOTE && type != SIGNATURE_COSIGNATURE)
		return fail(failure, EXIT_USAGE, "the verifier key of %s is of type %d:"
					" only Ed25519 is known, 1 and 4", key->name, type);
	key->type = (unsigned char) type;
	key_id(key->name, type, key->public_key, id);
	if (memcmp(key->id, id, KEY_ID_LENGTH) != 0)
		return fail(failure, EXIT_USAGE, "the verifier key of %s has not the id of its"
					" name and public key", key->name);
	return true;
}

/* Appends a verifier key. */
void
verifier_format(Text *text, const VerifierKey *key)
{
	unsigned char bytes[ED25519_KEY_LENGTH + 1];

	bytes[0] = key->type;
	memcpy(bytes + 1, key->public_key, sizeof(key->public_key));
	text_format(text, "%s+", key->name);
	hex_encode(text, key->id, sizeof(key->id));
	text_add(text, "+", 1);
	base64_encode(text, bytes, sizeof(bytes));
}

/* Is this the key's signature of the message? */
bool
verifier_check(const VerifierKey *key, Span message,
			   const unsigned char signature[ED25519_SIGNATURE_LENGTH])
{
	EVP_PKEY   *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key->public_key,
												   sizeof(key->public_key));
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool		ok = pkey != NULL && context != NULL &&
		EVP_DigestVerifyInit(context, NULL, NULL, NULL, pkey) == 1 &&
		EVP_DigestVerify(context, signature, ED25519_SIGNATURE_LENGTH,
						 (const unsigned char *) message.data, message.len) == 1;

	EVP_MD_CTX_free(context);
	EVP_PKEY_free(pkey);
	return ok;
}
