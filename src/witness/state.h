/*-------------------------------------------------------------------------
 *
 * state.h
 *		What the witness holds, in a directory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WITNESS_STATE_H
#define WITNESS_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "note.h"
#include "report.h"
#include "text.h"

typedef struct State
{
	const char *path;
	int			directory;
	int			lock;
	bool		holds;			/* is something held? */
	Checkpoint	held;
	int64_t		time;			/* when held was, or will be, signed */
} State;

extern bool state_open(State *state, const char *path, int patience, Failure *failure);
extern void state_close(State *state);
extern bool state_hold(State *state, const Checkpoint *checkpoint, int64_t time,
					   Failure *failure);

extern bool state_store_note(const State *state, const Text *note, Failure *failure);
extern bool state_latest_note(const State *state, Text *note);
extern bool state_note_at(const State *state, const char *name, Checkpoint *checkpoint);
extern int64_t state_note_names(const State *state, int64_t max_size, char ***names);
extern void free_names(char **names, int64_t n);

extern bool state_is_reported(const State *state);
extern bool state_set_reported(const State *state, Failure *failure);

extern bool state_archive(State *state, Text *where, Failure *failure);
extern bool state_save_evidence(const State *state, const char *kind, const Text *shown,
								const TreeProof *proof, const char *message, Text *where,
								Failure *failure);

#endif							/* WITNESS_STATE_H */
