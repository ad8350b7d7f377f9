/*-------------------------------------------------------------------------
 *
 * key.h
 *		One key, locked and looked up, to be written by another than a claim.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_KEY_H
#define IDEMPOTENCY_KEY_H

#include "policy.h"
#include "store.h"

/* from key_open() to key_close() */
typedef struct OpenKey
{
	Identity   *identity;
	Policy		policy;
	Store		store;
	TimestampTz now;			/* the clock to decide by */
	Probe		probe;
} OpenKey;

extern void key_open(OpenKey *key, Identity *identity);
extern void key_open_wait(OpenKey *key, Identity *identity);
extern void key_replace(OpenKey *key, KeyRow *row);
extern void key_delete(OpenKey *key);
extern void key_close(OpenKey *key);
extern void key_refuse_unknown(const Identity *identity);

#endif							/* IDEMPOTENCY_KEY_H */
