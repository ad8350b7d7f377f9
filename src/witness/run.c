/*-------------------------------------------------------------------------
 *
 * run.c
 *		The command run: looks at the ledger, and signs what is consistent.
 *
 * A round takes the lock, asks for the latest checkpoint, and demands proof that
 * what is held is the begin of it.  With the proof it holds the new one, THEN
 * signs it, stores the note, prints it, and tells the database.  Without, it
 * raises an alarm, saves the evidence, and goes on holding what it held.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "commands.h"
#include "fetch.h"
#include "note.h"
#include "state.h"

#define CLOCK_TOLERANCE 3600	/* seconds that the clock may have gone back */

/* one round's */
typedef struct Round
{
	const RunOptions *options;
	const SignerKey *key;
	State		state;
	Server	   *server;
	Text		text;			/* what the database shows, as it came */
	Checkpoint	shown;
	TreeProof	proof;
	bool		has_proof;
	Failure		failure;
} Round;

/* The short name of an alarm. */
static const char *
alarm_name(int code)
{
	switch (code)
	{
		case EXIT_SPLIT_VIEW:
			return "split-view";
		case EXIT_REGRESSION:
			return "regression";
		case EXIT_PROOF_MISSING:
			return "proof-missing";
		case EXIT_PROOF_WRONG:
			return "proof-wrong";
		case EXIT_HISTORY_GONE:
			return "history-gone";
		default:
			return "bad-checkpoint";
	}
}

/* The round fails with this alarm: what, and both checkpoints. */
static bool
raise_alarm(Round *round, int code, const char *what)
{
	Text		text = {0};

	text_format(&text, "%s: held is ", what);
	checkpoint_describe(&text, &round->state.held);
	text_format(&text, ", shown is ");
	checkpoint_describe(&text, &round->shown);
	fail(&round->failure, code, "%s", text.data);
	text_free(&text);
	return false;
}

/*
 * Is this checkpoint, which is held or was, the begin of what is shown?  Keeps
 * the proof.  Fails with EXIT_TROUBLE, EXIT_PROOF_MISSING, EXIT_PROOF_WRONG.
 */
static bool
is_begin(Round *round, const Checkpoint *begin, TreeProof *proof, bool *has_proof,
		 Failure *failure)
{
	*has_proof = false;
	proof->n = 0;
	if (begin->size > 0 && begin->size < round->shown.size)
	{
		if (!server_consistency(round->server, begin->size, round->shown.size, proof, failure))
			return false;
		*has_proof = true;
	}
	return tree_verify_consistency(begin->size, round->shown.size, &begin->root,
								   &round->shown.root, proof) ||
		fail(failure, EXIT_PROOF_WRONG, "the proof does not verify");
}

/*
 * How much of what was signed here is still the begin of what is shown?  All
 * notes are consistent with each other, so of the sizes that are provable at
 * all, which what was pruned is not, those that are a begin come first.
 * Appends it in words, or nothing if that isn't known.
 */
static void
describe_survivors(Round *round, Text *text)
{
	char	  **names;
	int64_t		n = state_note_names(&round->state, round->shown.size, &names);
	int64_t		low = 0;
	int64_t		high = n;
	int64_t		survived = -1;
	Failure		failure = {0};

	while (low < high && failure.code != EXIT_TROUBLE)
	{
		int64_t		middle = low + (high - low) / 2;
		Checkpoint	checkpoint;
		TreeProof	proof;
		bool		has_proof;
		bool		known = state_note_at(&round->state, names[middle], &checkpoint);

		if (known && is_begin(round, &checkpoint, &proof, &has_proof, &failure))
			survived = checkpoint.size;
		else if (known && failure.code == EXIT_PROOF_WRONG)
		{
			high = middle;
			continue;
		}
		low = middle + 1;
	}
	free_names(names, n);
	if (failure.code == EXIT_TROUBLE)
		return;
	if (survived >= 0)
		text_format(text, "; up to size %" PRId64 " it is what was signed here", survived);
	else if (high < n)
		text_format(text, "; nothing that was signed here is found in it");
}

/*
 * May the witness go from what is held to what is shown?  They differ.  Fails
 * with the alarm, or with EXIT_TROUBLE.
 */
static bool
judge(Round *round)
{
	const Checkpoint *held = &round->state.held;
	const Checkpoint *shown = &round->shown;
	bool		same_origin = strcmp(held->origin, shown->origin) == 0;

	if (shown->size < held->size)
		return same_origin ?
			raise_alarm(round, EXIT_REGRESSION, "the ledger has become smaller") :
			raise_alarm(round, EXIT_HISTORY_GONE, "history that was held here is gone");
	if (!is_begin(round, held, &round->proof, &round->has_proof, &round->failure))
	{
		if (round->failure.code == EXIT_TROUBLE)
			return false;
		if (!same_origin)
			return raise_alarm(round, EXIT_HISTORY_GONE, "history that was held here is gone");
		if (shown->size == held->size)
			return raise_alarm(round, EXIT_SPLIT_VIEW, "split view, two ledgers of one size");
		if (round->failure.code == EXIT_PROOF_MISSING)
		{
			Text		what = {0};

			text_format(&what, "no proof of consistency (%.800s)", round->failure.text);
			raise_alarm(round, EXIT_PROOF_MISSING, what.data);
			text_free(&what);
			return false;
		}
		return raise_alarm(round, EXIT_PROOF_WRONG,
						   "the proof of consistency is wrong, history was rewritten");
	}
	if (!same_origin)
		notice("a new incarnation, %s, which goes on from what is held of %s",
			   shown->origin, held->origin);
	return true;
}

/* Completes an alarm's message, and saves the evidence. */
static void
save_alarm(Round *round, bool has_shown)
{
	Text		message = {0};
	Text		where = {0};
	Failure		failure;

	text_format(&message, "%s", round->failure.text);
	if (has_shown)
		describe_survivors(round, &message);
	if (!state_save_evidence(&round->state, alarm_name(round->failure.code), &round->text,
							 round->has_proof ? &round->proof : NULL, message.data, &where,
							 &failure))
		text_format(&message, "; the evidence could not be saved: %s", failure.text);
	else if (where.len > 0)
		text_format(&message, "; the evidence is in %s", where.data);
	else
		text_format(&message, "; there is too much evidence already to save this");
	fail(&round->failure, round->failure.code, "%s", message.data);
	text_free(&message);
	text_free(&where);
}

/* Prints the note, for whoever publishes it. */
static void
print_note(const Round *round, const Text *note)
{
	if (round->options->quiet)
		return;
	if (fwrite(note->data, 1, note->len, stdout) != note->len || fflush(stdout) != 0)
		warning("could not print the note; it is in %s/latest", round->state.path);
	clearerr(stdout);
}

/*
 * Signs what is held.  It is on disk by now.  The time never goes back: two
 * cosignatures say in which order they were made.
 */
static bool
sign_held(Round *round)
{
	Text		note = {0};
	bool		ok = note_sign(&note, &round->state.held, round->key, round->options->type,
							   round->state.time, &round->failure) &&
		state_store_note(&round->state, &note, &round->failure);

	if (ok)
		print_note(round, &note);
	text_free(&note);
	return ok;
}

/* Holds what is shown, then signs it. */
static bool
advance(Round *round)
{
	int64_t		now = time(NULL);

	if (now < round->state.time - CLOCK_TOLERANCE)
		return fail(&round->failure, EXIT_TROUBLE, "the clock is %" PRId64 " s behind the last"
					" signature's: set it", round->state.time - now);
	if (now < round->state.time)
		now = round->state.time;
	return state_hold(&round->state, &round->shown, now, &round->failure) && sign_held(round);
}

/*
 * Tells the database that a note is held outside, if it wasn't told before.
 * That it has no right to be told, or no time, is worth a warning only: the
 * note is stored, and the next round tries again.
 */
static bool
report_held(Round *round)
{
	Text		note = {0};
	bool		ok = true;

	if (round->options->report && !state_is_reported(&round->state) &&
		state_latest_note(&round->state, &note))
	{
		ok = server_witnessed(round->server, &note, round->state.held.size, &round->failure);
		if (ok)
			ok = state_set_reported(&round->state, &round->failure);
		else if (round->failure.code == EXIT_TROUBLE || round->failure.code == EXIT_HISTORY_GONE)
		{
			warning("%s", round->failure.text);
			ok = true;
		}
		else
			round->failure.code = EXIT_TROUBLE;
	}
	text_free(&note);
	return ok;
}

/*
 * The latest checkpoint that is shown is smaller than what is held, or there is
 * none.  Does the database have what is held all the same?  Then it only
 * doesn't tell so much at present (idempotency.checkpoint_standbys: not before
 * standbys have it), and nothing is lost.  Fails if it can't be asked.
 */
static bool
is_behind(Round *round, bool *behind)
{
	Text		text = {0};
	Checkpoint	checkpoint;
	Failure		ignored;
	bool		exists;
	bool		ok = server_checkpoint(round->server, round->state.held.size, &exists, &text,
									   &round->failure);

	*behind = false;
	if (ok && exists)
	{
		Span		span = {text.data, text.len};

		*behind = checkpoint_parse(span, &checkpoint, &ignored) &&
			checkpoint_equal(&checkpoint, &round->state.held);
	}
	if (*behind)
		notice("the database has what is held, size %" PRId64 ", and does not show as much now",
			   round->state.held.size);
	text_free(&text);
	return ok;
}

/* There is no checkpoint.  Is that all right?  Otherwise an alarm is raised. */
static bool
judge_nothing(Round *round)
{
	Text		message = {0};
	bool		behind;

	if (!round->state.holds)
	{
		notice("the ledger has no checkpoint yet");
		return true;
	}
	if (!is_behind(round, &behind))
		return false;
	if (behind)
		return true;
	text_format(&message, "the ledger has no checkpoint any more: held is ");
	checkpoint_describe(&message, &round->state.held);
	fail(&round->failure, EXIT_REGRESSION, "%s", message.data);
	text_free(&message);
	return false;
}

/*
 * Fetches what is shown.  *exists is false if there is no checkpoint, and that
 * is all right.
 */
static bool
look(Round *round, bool *exists)
{
	Failure    *failure = &round->failure;
	Span		span;

	if (!server_checkpoint(round->server, LATEST, exists, &round->text, failure))
	{
		if (failure->code == EXIT_HISTORY_GONE && !round->state.holds)
			failure->code = EXIT_TROUBLE;
	}
	else if (!*exists)
	{
		if (judge_nothing(round))
			return true;
	}
	else
	{
		Text		message = {0};

		span.data = round->text.data;
		span.len = round->text.len;
		if (checkpoint_parse(span, &round->shown, failure))
			return true;
		text_format(&message, "what the database shows is no checkpoint: %s", failure->text);
		fail(failure, EXIT_BAD_CHECKPOINT, "%s", message.data);
		text_free(&message);
	}
	if (EXIT_IS_ALARM(failure->code) && round->state.holds)
		save_alarm(round, false);
	return false;
}

/*
 * What is shown does not follow from what is held, and an alarm says so.  If it
 * is another incarnation's, and the operator has said to accept that, begins
 * anew.
 */
static bool
begin_anew(Round *round)
{
	Text		where = {0};
	bool		ok;

	save_alarm(round, true);
	if (round->failure.code != EXIT_HISTORY_GONE || !round->options->accept)
		return false;
	warning("%s", round->failure.text);
	ok = state_archive(&round->state, &where, &round->failure);
	if (ok)
		warning("accepted: the new incarnation is held from now on, what was held is in %s",
				where.data);
	text_free(&where);
	return ok && advance(round);
}

/* What is shown is what is held. */
static bool
stay(Round *round)
{
	Text		note = {0};
	bool		has_note = state_latest_note(&round->state, &note);

	text_free(&note);
	/* a crash may have come between holding and signing */
	return has_note || sign_held(round);
}

/* What is shown isn't what is held, or nothing is. */
static bool
move_on(Round *round)
{
	State	   *state = &round->state;
	bool		behind = false;

	if (!state->holds)
	{
		Text		what = {0};

		checkpoint_describe(&what, &round->shown);
		notice("nothing was held in %s; trusting %s", state->path, what.data);
		text_free(&what);
		return advance(round);
	}
	if (round->shown.size < state->held.size && !is_behind(round, &behind))
		return false;
	if (behind)
		return true;
	if (judge(round))
		return advance(round);
	return EXIT_IS_ALARM(round->failure.code) && begin_anew(round);
}

/* What a round does once it has the lock and a connection. */
static bool
do_round(Round *round)
{
	bool		exists;

	if (!look(round, &exists))
		return false;
	if (!exists)
		return true;
	if (round->state.holds && checkpoint_equal(&round->state.held, &round->shown))
		return stay(round) && report_held(round);
	return move_on(round) && report_held(round);
}

/* One round.  Returns an exit code; why it isn't EXIT_DONE was said. */
static int
run_round(const RunOptions *options, const SignerKey *key)
{
	Round	   *round = &(Round) {.options = options,.key = key};
	bool		ok = state_open(&round->state, options->state, options->timeout,
								&round->failure) &&
		(round->server = server_connect(options->conninfo, options->timeout,
										&round->failure)) != NULL &&
		do_round(round);

	server_disconnect(round->server);
	state_close(&round->state);
	text_free(&round->text);
	if (ok)
		return EXIT_DONE;
	complain(&round->failure);
	return round->failure.code;
}

/*
 * Runs one round, or round after round until there is an alarm, or something
 * else that the next round will not find better.  Returns an exit code.
 */
int
run(const RunOptions *options)
{
	struct rlimit no_core = {0, 0};
	SignerKey	key;
	Failure		failure;
	int			code;

	setrlimit(RLIMIT_CORE, &no_core);
	if (!signer_load(options->key, &key, &failure))
	{
		complain(&failure);
		return failure.code;
	}
	for (;;)
	{
		struct timespec pause = {options->loop, 0};

		code = run_round(options, &key);
		if (options->loop == 0 ||
			(code != EXIT_DONE && code != EXIT_TROUBLE && code != EXIT_LOCKED))
			break;
		nanosleep(&pause, NULL);
	}
	signer_forget(&key);
	return code;
}
