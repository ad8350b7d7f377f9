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

/*
 * What becomes of the saga of a key whose row says that it has one.  In each
 * case "row" is the row to be written, which says afterwards whether the key
 * still has one.
 */
typedef struct KeySaga
{
	/* the key is about to be settled as succeeded */
	void		(*finished) (OpenKey *key, KeyRow *row);
	/* it has failed for good, for this reason: writes the row */
	void		(*failed) (OpenKey *key, KeyRow *row, const char *reason,
						   text *error);
	/* an operator settles what is being compensated; raises ID409 */
	void		(*resolved) (OpenKey *key, KeyRow *row);
} KeySaga;

/* filled in by saga_init() */
extern KeySaga key_saga;

extern void key_open_trusted(OpenKey *key, Identity *identity);
extern void key_open(OpenKey *key, Identity *identity);
extern void key_open_wait(OpenKey *key, Identity *identity);
extern void key_replace(OpenKey *key, KeyRow *row);
extern void key_delete(OpenKey *key);
extern void key_close(OpenKey *key);
extern void key_refuse_unknown(const Identity *identity);

#endif							/* IDEMPOTENCY_KEY_H */
