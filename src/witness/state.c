/*-------------------------------------------------------------------------
 *
 * state.c
 *		What the witness holds, in a directory.
 *
 *		held			the checkpoint that everything to come must be consistent with
 *		latest			the last signed note
 *		notes/			every signed note, <size>-<begin of SHA-256 of origin>.note
 *		reported		the last checkpoint whose note the database was given
 *		evidence/		what alarms were raised for (evidence.c)
 *		archive/		what was held before --accept-incarnation (evidence.c)
 *		lock
 *
 * "held" is written before anything is signed, so nothing is ever signed that
 * is smaller than what was signed before, wherever a crash comes; a note that
 * a crash has prevented is signed by the next run.
 *
 * Locking: flock() on "lock" from before "held" is read, and before the database
 * is asked, until the note is stored.  Without it one run could sign size N
 * after another has signed N + K.
 *
 *-------------------------------------------------------------------------
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "file.h"
#include "state.h"

#define HELD_HEADER "idempotency-witness 1"
#define ORIGIN_TAG 4			/* bytes of an origin's hash in a file's name */

/* Takes the lock, waiting for at most so many seconds. */
static bool
take_lock(State *state, int patience, Failure *failure)
{
	struct timespec pause = {0, 50 * 1000 * 1000};
	time_t		give_up = time(NULL) + patience;

	state->lock = openat(state->directory, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (state->lock < 0)
		return fail(failure, EXIT_TROUBLE, "could not open %s/lock: %s", state->path,
					strerror(errno));
	while (flock(state->lock, LOCK_EX | LOCK_NB) != 0)
	{
		if (errno != EWOULDBLOCK && errno != EINTR)
			return fail(failure, EXIT_TROUBLE, "could not lock %s/lock: %s", state->path,
						strerror(errno));
		if (time(NULL) >= give_up)
			return fail(failure, EXIT_LOCKED, "another run has had %s for %d s", state->path,
						patience);
		nanosleep(&pause, NULL);
	}
	return true;
}

/* Reads the text of "held". */
static bool
parse_held(Span rest, State *state)
{
	Failure		ignored;
	Span		line;

	return next_line(&rest, &line) && span_is(line, HELD_HEADER) &&
		next_line(&rest, &line) && parse_decimal(line, &state->time) &&
		checkpoint_parse(rest, &state->held, &ignored);
}

/* Are there notes, although nothing is held? */
static bool
has_notes(const State *state)
{
	char	  **names;
	int64_t		n = state_note_names(state, INT64_MAX, &names);

	free_names(names, n);
	return n > 0 || file_exists(state->directory, "latest");
}

/* Reads "held".  A directory that has lost it is not taken for a new one. */
static bool
load_held(State *state, Failure *failure)
{
	Text		text = {0};
	Span		span;
	bool		ok;

	if (!file_exists(state->directory, "held"))
	{
		if (has_notes(state))
			return fail(failure, EXIT_STATE, "%s has notes, but %s/held is missing:"
						" restore it", state->path, state->path);
		return true;
	}
	if (!file_read(state->directory, "held", NOTE_MAX, &text, failure))
	{
		text_free(&text);
		return false;
	}
	span.data = text.data;
	span.len = text.len;
	ok = parse_held(span, state) ||
		fail(failure, EXIT_STATE, "%s/held is damaged: restore it", state->path);
	state->holds = ok;
	text_free(&text);
	return ok;
}

/*
 * Opens a state directory, which must exist, for one run at a time.  To be
 * closed also if it fails.
 */
bool
state_open(State *state, const char *path, int patience, Failure *failure)
{
	memset(state, 0, sizeof(*state));
	state->path = path;
	state->lock = -1;
	state->directory = directory_open(AT_FDCWD, path, failure);
	return state->directory >= 0 &&
		take_lock(state, patience, failure) &&
		load_held(state, failure);
}

/* Lets go of it. */
void
state_close(State *state)
{
	if (state->lock >= 0)
		close(state->lock);
	if (state->directory >= 0)
		close(state->directory);
	state->lock = -1;
	state->directory = -1;
}

/* Holds this checkpoint from now on; it is on disk when this returns. */
bool
state_hold(State *state, const Checkpoint *checkpoint, int64_t time, Failure *failure)
{
	Text		text = {0};
	bool		ok;

	text_format(&text, "%s\n%" PRId64 "\n", HELD_HEADER, time);
	checkpoint_format(&text, checkpoint);
	ok = file_write(state->directory, "held", text.data, text.len, failure);
	text_free(&text);
	if (ok)
	{
		state->held = *checkpoint;
		state->time = time;
		state->holds = true;
	}
	return ok;
}

/* Stores the signed note of what is held. */
bool
state_store_note(const State *state, const Text *note, Failure *failure)
{
	Text		name = {0};
	TreeHash	hash;
	int			notes;
	bool		ok;

	if (!directory_make(state->directory, "notes", failure))
		return false;
	notes = directory_open(state->directory, "notes", failure);
	if (notes < 0)
		return false;
	sha256(state->held.origin, strlen(state->held.origin), &hash);
	text_format(&name, "%" PRId64 "-", state->held.size);
	hex_encode(&name, hash.bytes, ORIGIN_TAG);
	text_add(&name, ".note", 5);
	ok = file_write(notes, name.data, note->data, note->len, failure) &&
		file_write(state->directory, "latest", note->data, note->len, failure);
	text_free(&name);
	close(notes);
	return ok;
}

/* Reads the last signed note; false if there is none of what is held. */
bool
state_latest_note(const State *state, Text *note)
{
	Failure		ignored;
	Note		parsed;
	Span		span;

	if (!file_read(state->directory, "latest", NOTE_MAX, note, &ignored))
		return false;
	span.data = note->data;
	span.len = note->len;
	return note_parse(span, &parsed, &ignored) &&
		checkpoint_equal(&parsed.checkpoint, &state->held);
}

/* The size in the name of a note, -1 if it is none. */
static int64_t
size_of_name(const char *name)
{
	Span		span = {name, strcspn(name, "-")};
	int64_t		size;

	if (strlen(name) != span.len + 1 + 2 * ORIGIN_TAG + strlen(".note") ||
		!parse_decimal(span, &size))
		return -1;
	return size;
}

/* Orders names of notes by size. */
static int
compare_names(const void *a, const void *b)
{
	const char *name_a = *(char *const *) a;
	const char *name_b = *(char *const *) b;
	int64_t		size_a = size_of_name(name_a);
	int64_t		size_b = size_of_name(name_b);

	return size_a < size_b ? -1 : size_a > size_b ? 1 : strcmp(name_a, name_b);
}

/* Gives back what state_note_names() has returned. */
void
free_names(char **names, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

/*
 * The names of the notes up to this size, in the order of their sizes.
 * Returns how many; there are none if they can't be read.
 */
int64_t
state_note_names(const State *state, int64_t max_size, char ***names)
{
	Failure		ignored;
	int			fd = file_exists(state->directory, "notes") ?
		directory_open(state->directory, "notes", &ignored) : -1;
	DIR		   *directory = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;
	int64_t		n = 0;
	int64_t		room = 0;

	*names = NULL;
	if (directory == NULL && fd >= 0)
		close(fd);
	while (directory != NULL && (entry = readdir(directory)) != NULL)
	{
		int64_t		size = size_of_name(entry->d_name);
		char	   *name;

		if (size < 0 || size > max_size)
			continue;
		if (n == room)
		{
			char	  **more = realloc(*names, (room = room * 2 + 64) * sizeof(char *));

			if (more == NULL)
				break;
			*names = more;
		}
		name = strdup(entry->d_name);
		if (name == NULL)
			break;
		(*names)[n++] = name;
	}
	if (directory != NULL)
		closedir(directory);
	if (n > 0)
		qsort(*names, n, sizeof(char *), compare_names);
	return n;
}

/* Reads the checkpoint of a stored note. */
bool
state_note_at(const State *state, const char *name, Checkpoint *checkpoint)
{
	Failure		ignored;
	Text		path = {0};
	Text		text = {0};
	Note		note;
	bool		ok;

	text_format(&path, "notes/%s", name);
	ok = file_read(state->directory, path.data, NOTE_MAX, &text, &ignored);
	if (ok)
	{
		Span		span = {text.data, text.len};

		ok = note_parse(span, &note, &ignored);
		*checkpoint = note.checkpoint;
	}
	text_free(&path);
	text_free(&text);
	return ok;
}

/* Has the database been given the note of what is held? */
bool
state_is_reported(const State *state)
{
	Failure		ignored;
	Checkpoint	checkpoint;
	Text		text = {0};
	bool		is = false;

	if (file_exists(state->directory, "reported") &&
		file_read(state->directory, "reported", NOTE_MAX, &text, &ignored))
	{
		Span		span = {text.data, text.len};

		is = checkpoint_parse(span, &checkpoint, &ignored) &&
			checkpoint_equal(&checkpoint, &state->held);
	}
	text_free(&text);
	return is;
}

/* Notes that it has. */
bool
state_set_reported(const State *state, Failure *failure)
{
	Text		text = {0};
	bool		ok;

	checkpoint_format(&text, &state->held);
	ok = file_write(state->directory, "reported", text.data, text.len, failure);
	text_free(&text);
	return ok;
}
