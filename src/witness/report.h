/*-------------------------------------------------------------------------
 *
 * report.h
 *		Exit codes, failures and messages of the witness.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WITNESS_REPORT_H
#define WITNESS_REPORT_H

#include <stdbool.h>

/* what the program ends with; doc/witness.md says what to do about each */
enum
{
	EXIT_DONE = 0,
	EXIT_TROUBLE = 1,			/* may work later: connection, disk, rights */
	EXIT_USAGE = 2,				/* options, keys, files that are given */
	EXIT_UNVERIFIED = 3,		/* verify: a signature or a proof is wrong */
	EXIT_MALFORMED = 4,			/* verify: what was given is no note, no proof */
	EXIT_LOCKED = 5,			/* another run has the state directory */
	EXIT_STATE = 6,				/* the state directory is damaged */

	/* alarms: from here on, the ledger is not what it was */
	EXIT_SPLIT_VIEW = 10,		/* same size, another root */
	EXIT_REGRESSION = 11,		/* smaller than what is held */
	EXIT_PROOF_MISSING = 12,	/* the database gives no proof */
	EXIT_PROOF_WRONG = 13,		/* the proof does not verify */
	EXIT_HISTORY_GONE = 14,		/* another origin, and another history */
	EXIT_BAD_CHECKPOINT = 15	/* what the database shows is no checkpoint */
};

#define EXIT_IS_ALARM(code) ((code) >= EXIT_SPLIT_VIEW)

/* why something failed, and what the program ends with because of it */
typedef struct Failure
{
	int			code;
	char		text[2048];
} Failure;

extern bool fail(Failure *failure, int code, const char *format,...)
			__attribute__((format(printf, 3, 4)));
extern void notice(const char *format,...)
			__attribute__((format(printf, 1, 2)));
extern void warning(const char *format,...)
			__attribute__((format(printf, 1, 2)));
extern void complain(const Failure *failure);
extern void be_quiet(void);

#endif							/* WITNESS_REPORT_H */
