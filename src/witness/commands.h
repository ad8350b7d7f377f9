/*-------------------------------------------------------------------------
 *
 * commands.h
 *		The commands of the witness.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WITNESS_COMMANDS_H
#define WITNESS_COMMANDS_H

#include <stdbool.h>
#include <stdint.h>

#include "key.h"

#define VERIFIERS_MAX 64

typedef struct RunOptions
{
	const char *state;			/* directory */
	const char *key;			/* file */
	const char *conninfo;		/* NULL: libpq's environment */
	int			type;			/* of the signature */
	int			loop;			/* seconds between rounds; 0: one round */
	int			timeout;		/* seconds, for the database and for the lock */
	bool		report;			/* tell the database */
	bool		accept;			/* --accept-incarnation */
	bool		quiet;
} RunOptions;

typedef struct VerifyOptions
{
	int			nkeys;
	VerifierKey keys[VERIFIERS_MAX];
	int			quorum;			/* so many keys must have signed; 0: all */
	const char *note;			/* file, of a note or of a tlog-proof */
	const char *leaf;			/* its hash, or a file of it */
	const char *leaf_data;		/* file */
	const char *index;
	const char *proof;			/* file */
	const char *old_note;		/* file */
	const char *consistency;	/* file */
} VerifyOptions;

extern int	run(const RunOptions *options);
extern int	verify(const VerifyOptions *options);

#endif							/* WITNESS_COMMANDS_H */
