/*-------------------------------------------------------------------------
 *
 * evidence.c
 *		What alarms leave in the state directory, and what an accepted
 *		incarnation leaves behind.
 *
 *		evidence/<kind>-<begin of a hash>/
 *			shown		what the database showed, byte for byte
 *			held		what was held: the signed note, or its text
 *			proof		the proof that the database gave, if it gave one
 *			message		what the alarm said, and when
 *
 * The same alarm again finds its evidence there, and leaves no more.  The name
 * is given last, by a rename, so what has one is complete.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "file.h"
#include "state.h"

#define EVIDENCE_MAX 1000		/* an alarm that nobody heeds must not fill the disk */
#define EVIDENCE_TAG 8			/* bytes of the hash in a name */

/* The time in UTC, for names and messages. */
static void
format_now(char *text, size_t size, const char *format)
{
	time_t		now = time(NULL);
	struct tm	parts;

	if (gmtime_r(&now, &parts) == NULL || strftime(text, size, format, &parts) == 0)
		snprintf(text, size, "%" PRId64, (int64_t) now);
}

/* How much is there already?  Hidden files don't count. */
static int
count_entries(int directory)
{
	int			fd = dup(directory);
	DIR		   *entries = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;
	int			n = 0;

	if (entries == NULL)
	{
		if (fd >= 0)
			close(fd);
		return 0;
	}
	rewinddir(entries);
	while ((entry = readdir(entries)) != NULL)
		n += entry->d_name[0] != '.';
	closedir(entries);
	return n;
}

/* The name of this evidence: the same for the same. */
static void
evidence_name(Text *name, const char *kind, const Text *shown, const Text *proof)
{
	Text		all = {0};
	TreeHash	hash;

	text_add(&all, shown->data, shown->len);
	text_add(&all, "\n", 1);
	text_add(&all, proof->data, proof->len);
	sha256(all.data, all.len, &hash);
	text_format(name, "%s-", kind);
	hex_encode(name, hash.bytes, EVIDENCE_TAG);
	text_free(&all);
}

/* Writes the files of a piece of evidence. */
static bool
write_evidence(const State *state, int directory, const Text *shown, const Text *proof,
			   const char *message, Failure *failure)
{
	char		now[64];
	Text		held = {0};
	Text		said = {0};
	bool		ok;

	if (!state_latest_note(state, &held))
	{
		text_clear(&held);
		checkpoint_format(&held, &state->held);
	}
	format_now(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ");
	text_format(&said, "%s %s\n", now, message);
	/* what a crash may have left of another */
	unlinkat(directory, "proof", 0);
	ok = file_write(directory, "shown", shown->data, shown->len, failure) &&
		file_write(directory, "held", held.data, held.len, failure) &&
		(proof->len == 0 || file_write(directory, "proof", proof->data, proof->len, failure)) &&
		file_write(directory, "message", said.data, said.len, failure);
	text_free(&held);
	text_free(&said);
	return ok;
}

/*
 * Saves what an alarm is about, unless it is there already.  The proof is NULL
 * if there is none.  Where it is saved is appended to where; that stays empty
 * if there is too much of it already.
 */
bool
state_save_evidence(const State *state, const char *kind, const Text *shown,
					const TreeProof *proof, const char *message, Text *where,
					Failure *failure)
{
	Text		hashes = {0};
	Text		name = {0};
	int			evidence = -1;
	int			directory = -1;
	bool		ok = false;

	text_clear(&hashes);
	if (proof != NULL)
		proof_format(&hashes, proof);
	evidence_name(&name, kind, shown, &hashes);
	if (!directory_make(state->directory, "evidence", failure) ||
		(evidence = directory_open(state->directory, "evidence", failure)) < 0)
		goto done;
	ok = true;
	if (!file_exists(evidence, name.data))
	{
		if (count_entries(evidence) >= EVIDENCE_MAX)
			goto done;
		ok = directory_make(evidence, ".making", failure) &&
			(directory = directory_open(evidence, ".making", failure)) >= 0 &&
			write_evidence(state, directory, shown, &hashes, message, failure);
		if (ok && renameat(evidence, ".making", evidence, name.data) != 0)
			ok = fail(failure, EXIT_TROUBLE, "could not rename the evidence: %s", strerror(errno));
		ok = ok && directory_sync(evidence, failure);
	}
	if (ok)
		text_format(where, "%s/evidence/%s", state->path, name.data);
done:
	if (directory >= 0)
		close(directory);
	if (evidence >= 0)
		close(evidence);
	text_free(&hashes);
	text_free(&name);
	return ok;
}

/* Copies a file of the state directory, if it is there. */
static bool
copy_file(const State *state, int to, const char *name, Failure *failure)
{
	Text		text = {0};
	bool		ok;

	if (!file_exists(state->directory, name))
		return true;
	ok = file_read(state->directory, name, NOTE_MAX, &text, failure) &&
		file_write(to, name, text.data, text.len, failure);
	text_free(&text);
	return ok;
}

/* Makes a new directory below archive/, named for now, and opens it. */
static int
make_archive(const State *state, Text *name, Failure *failure)
{
	char		now[64];
	int			archive = -1;
	int			directory = -1;

	format_now(now, sizeof(now), "%Y%m%dT%H%M%SZ");
	if (!directory_make(state->directory, "archive", failure) ||
		(archive = directory_open(state->directory, "archive", failure)) < 0)
		return -1;
	for (int i = 0; i < 100; i++)
	{
		text_clear(name);
		text_format(name, i == 0 ? "%s" : "%s-%d", now, i);
		if (mkdirat(archive, name->data, 0755) == 0)
		{
			if (directory_sync(archive, failure))
				directory = directory_open(archive, name->data, failure);
			break;
		}
		if (errno != EEXIST || i == 99)
		{
			fail(failure, EXIT_TROUBLE, "could not make %s/archive/%s: %s", state->path,
				 name->data, strerror(errno));
			break;
		}
	}
	close(archive);
	return directory;
}

/*
 * Moves what is held, and its notes, to the archive, except "held" itself, of
 * which it leaves a copy there: state_hold() replaces it, so that there is no
 * moment without.
 */
bool
state_archive(State *state, Text *where, Failure *failure)
{
	Text		name = {0};
	int			directory = make_archive(state, &name, failure);
	bool		ok = directory >= 0 &&
		copy_file(state, directory, "held", failure) &&
		copy_file(state, directory, "latest", failure) &&
		copy_file(state, directory, "reported", failure);

	if (ok && file_exists(state->directory, "notes"))
	{
		ok = renameat(state->directory, "notes", directory, "notes") == 0 ||
			fail(failure, EXIT_TROUBLE, "could not move the notes to the archive: %s",
				 strerror(errno));
		ok = ok && directory_sync(directory, failure) &&
			directory_sync(state->directory, failure);
	}
	if (directory >= 0)
		close(directory);
	if (ok)
		text_format(where, "%s/archive/%s", state->path, name.data);
	text_free(&name);
	return ok;
}
