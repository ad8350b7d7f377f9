/*-------------------------------------------------------------------------
 *
 * main.c
 *		idempotency-witness: stands outside of the database, and keeps its
 *		ledger honest.
 *
 * Who administers a database can rewrite all of it, with every hash in it.  A
 * witness remembers what it has seen, and signs nothing that does not follow
 * from it.
 *
 *-------------------------------------------------------------------------
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "commands.h"

#ifndef WITNESS_VERSION
#define WITNESS_VERSION "unknown"
#endif

#define DEFAULT_KEY "witness.key"

enum
{
	OPT_NAME = 1000, OPT_KEY, OPT_STATE, OPT_DSN, OPT_LOOP, OPT_TIMEOUT, OPT_QUIET,
	OPT_NOTE, OPT_COSIGN, OPT_NO_REPORT, OPT_ACCEPT,
	OPT_VKEY, OPT_QUORUM, OPT_LEAF, OPT_LEAF_DATA, OPT_INDEX, OPT_PROOF,
	OPT_CONSISTENT_WITH, OPT_CONSISTENCY, OPT_HELP, OPT_VERSION
};

static const char help_text[] =
"idempotency-witness remembers the checkpoints of an idempotency ledger, and\n"
"signs what follows from them.\n"
"\n"
"  idempotency-witness genkey --name NAME [--key FILE] [--note]\n"
"      makes a private key, and prints its verifier key\n"
"  idempotency-witness vkey [--key FILE] [--note]\n"
"      prints the verifier key of a private key\n"
"      --name NAME            of the key, such as witness.example.com/ledger\n"
"      --key FILE             the private key (" DEFAULT_KEY ")\n"
"      --note                 for signatures of run --note\n"
"\n"
"  idempotency-witness run --state DIR [--key FILE] [--dsn CONNINFO] ...\n"
"      looks at the ledger, signs its checkpoint if it follows from the last\n"
"      --state DIR            what is held; an existing directory\n"
"      --key FILE             the private key (" DEFAULT_KEY ")\n"
"      --dsn CONNINFO         the database; otherwise PGHOST, PGSERVICE, ... say it\n"
"      --cosign               signs as a C2SP cosignature, with a time (default)\n"
"      --note                 signs as a plain C2SP note\n"
"      --loop SECONDS         again and again, until there is an alarm\n"
"      --timeout SECONDS      how long it waits for the database, and a lock (60)\n"
"      --no-report            does not tell the database what is held\n"
"      --accept-incarnation   begins anew with an incarnation that has lost history\n"
"      --quiet                prints neither notes nor notices\n"
"\n"
"  idempotency-witness verify --vkey VKEY ... FILE ...\n"
"      verifies a signed note, without a database; FILE may be a tlog-proof\n"
"      --vkey VKEY            who must have signed; may be repeated\n"
"      --quorum N             so many of them suffice (all)\n"
"      --leaf HASH            that this leaf is in it: hash in hexadecimal, or file of it\n"
"      --leaf-data FILE       the same, of the leaf's data\n"
"      --index N              the leaf's index\n"
"      --proof FILE           the inclusion proof, one hash a line\n"
"      --consistent-with FILE that it begins with this older note\n"
"      --consistency FILE     the consistency proof, one hash a line\n"
"\n"
"  idempotency-witness --help, --version\n"
"\n"
"Exit codes: 0 good; 1 could not be done, may work later; 2 usage; 3 not verified;\n"
"4 malformed; 5 locked; 6 state damaged.  Alarms: 10 split view; 11 regression;\n"
"12 no proof; 13 wrong proof; 14 history gone; 15 bad checkpoint.\n";

/* all options of all commands; each takes its own */
typedef struct Options
{
	const char *name;
	RunOptions	run;
	VerifyOptions verify;
	bool		note;
	bool		cosign;
} Options;

typedef struct Command
{
	const char *name;
	const int  *takes;			/* options, up to 0 */
	int			arguments;		/* how many, after the options */
} Command;

static const int genkey_options[] = {OPT_NAME, OPT_KEY, OPT_NOTE, OPT_COSIGN, 0};
static const int vkey_options[] = {OPT_KEY, OPT_NOTE, OPT_COSIGN, 0};
static const int run_options[] = {
	OPT_STATE, OPT_KEY, OPT_DSN, OPT_COSIGN, OPT_NOTE, OPT_LOOP, OPT_TIMEOUT,
	OPT_NO_REPORT, OPT_ACCEPT, OPT_QUIET, 0
};
static const int verify_options[] = {
	OPT_VKEY, OPT_QUORUM, OPT_LEAF, OPT_LEAF_DATA, OPT_INDEX, OPT_PROOF,
	OPT_CONSISTENT_WITH, OPT_CONSISTENCY, 0
};

static const Command commands[] = {
	{"genkey", genkey_options, 0},
	{"vkey", vkey_options, 0},
	{"run", run_options, 0},
	{"verify", verify_options, 1},
	{NULL, NULL, 0}
};

static const struct option long_options[] = {
	{"name", required_argument, NULL, OPT_NAME},
	{"key", required_argument, NULL, OPT_KEY},
	{"state", required_argument, NULL, OPT_STATE},
	{"dsn", required_argument, NULL, OPT_DSN},
	{"loop", required_argument, NULL, OPT_LOOP},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"quiet", no_argument, NULL, OPT_QUIET},
	{"note", no_argument, NULL, OPT_NOTE},
	{"cosign", no_argument, NULL, OPT_COSIGN},
	{"no-report", no_argument, NULL, OPT_NO_REPORT},
	{"accept-incarnation", no_argument, NULL, OPT_ACCEPT},
	{"vkey", required_argument, NULL, OPT_VKEY},
	{"quorum", required_argument, NULL, OPT_QUORUM},
	{"leaf", required_argument, NULL, OPT_LEAF},
	{"leaf-data", required_argument, NULL, OPT_LEAF_DATA},
	{"index", required_argument, NULL, OPT_INDEX},
	{"proof", required_argument, NULL, OPT_PROOF},
	{"consistent-with", required_argument, NULL, OPT_CONSISTENT_WITH},
	{"consistency", required_argument, NULL, OPT_CONSISTENCY},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{NULL, 0, NULL, 0}
};

/* Complains about how it was called. */
static int
usage(const char *what)
{
	Failure		failure;

	fail(&failure, EXIT_USAGE, "%s; see --help", what);
	complain(&failure);
	return failure.code;
}

/* Reads a number from 1 to max. */
static bool
parse_count(const char *option, const char *text, int max, int *number, Failure *failure)
{
	Span		span = {text, strlen(text)};
	int64_t		value;

	if (!parse_decimal(span, &value) || value < 1 || value > max)
		return fail(failure, EXIT_USAGE, "--%s takes a number from 1 to %d", option, max);
	*number = (int) value;
	return true;
}

/* Takes one option of verify. */
static bool
take_verify_option(VerifyOptions *options, int option, Failure *failure)
{
	Span		span;

	switch (option)
	{
		case OPT_VKEY:
			if (options->nkeys == VERIFIERS_MAX)
				return fail(failure, EXIT_USAGE, "there are more than %d --vkey", VERIFIERS_MAX);
			span.data = optarg;
			span.len = strlen(optarg);
			if (!verifier_parse(span, &options->keys[options->nkeys], failure))
				return false;
			for (int i = 0; i < options->nkeys; i++)
			{
				/* one key must not count twice towards a quorum */
				if (memcmp(options->keys[i].public_key, options->keys[options->nkeys].public_key,
						   ED25519_KEY_LENGTH) == 0)
					return fail(failure, EXIT_USAGE, "two --vkey have the same public key");
			}
			options->nkeys++;
			return true;
		case OPT_QUORUM:
			return parse_count("quorum", optarg, VERIFIERS_MAX, &options->quorum, failure);
		case OPT_LEAF:
			options->leaf = optarg;
			return true;
		case OPT_LEAF_DATA:
			options->leaf_data = optarg;
			return true;
		case OPT_INDEX:
			options->index = optarg;
			return true;
		case OPT_PROOF:
			options->proof = optarg;
			return true;
		case OPT_CONSISTENT_WITH:
			options->old_note = optarg;
			return true;
		default:
			options->consistency = optarg;
			return true;
	}
}

/* Takes one option. */
static bool
take_option(Options *options, int option, Failure *failure)
{
	switch (option)
	{
		case OPT_NAME:
			options->name = optarg;
			return true;
		case OPT_KEY:
			options->run.key = optarg;
			return true;
		case OPT_STATE:
			options->run.state = optarg;
			return true;
		case OPT_DSN:
			options->run.conninfo = optarg;
			return true;
		case OPT_LOOP:
			return parse_count("loop", optarg, 86400, &options->run.loop, failure);
		case OPT_TIMEOUT:
			return parse_count("timeout", optarg, 86400, &options->run.timeout, failure);
		case OPT_QUIET:
			options->run.quiet = true;
			return true;
		case OPT_NOTE:
			options->note = true;
			return true;
		case OPT_COSIGN:
			options->cosign = true;
			return true;
		case OPT_NO_REPORT:
			options->run.report = false;
			return true;
		case OPT_ACCEPT:
			options->run.accept = true;
			return true;
		default:
			return take_verify_option(&options->verify, option, failure);
	}
}

/* The name of an option. */
static const char *
option_name(int option)
{
	const struct option *found = long_options;

	while (found->name != NULL && found->val != option)
		found++;
	return found->name != NULL ? found->name : "?";
}

/* Takes the options of a command, and refuses those of others. */
static bool
take_options(const Command *command, int argc, char **argv, Options *options, Failure *failure)
{
	int			option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
	{
		const int  *takes = command->takes;

		if (option == '?')
			return fail(failure, EXIT_USAGE, "%s is unknown, ambiguous, or lacks its value",
						argv[optind - 1]);
		while (*takes != 0 && *takes != option)
			takes++;
		if (*takes == 0 && option != OPT_HELP)
			return fail(failure, EXIT_USAGE, "%s does not take --%s", command->name,
						option_name(option));
		if (option == OPT_HELP)
		{
			fputs(help_text, stdout);
			exit(EXIT_DONE);
		}
		if (!take_option(options, option, failure))
			return false;
	}
	if (argc - optind != command->arguments)
		return fail(failure, EXIT_USAGE, "%s takes %s", command->name,
					command->arguments == 0 ? "options only" : "one file");
	if (options->note && options->cosign)
		return fail(failure, EXIT_USAGE, "--note and --cosign exclude each other");
	options->run.type = options->note ? SIGNATURE_NOTE : SIGNATURE_COSIGNATURE;
	return true;
}

/* The commands genkey and vkey. */
static int
print_vkey(const Options *options, bool generate)
{
	struct rlimit no_core = {0, 0};
	SignerKey	key;
	VerifierKey verifier;
	Text		text = {0};
	Failure		failure;
	bool		ok;

	setrlimit(RLIMIT_CORE, &no_core);
	ok = generate ? signer_generate(options->name, &key, &failure) &&
		signer_save(&key, options->run.key, &failure) :
		signer_load(options->run.key, &key, &failure);
	if (ok)
	{
		signer_verifier(&key, options->run.type, &verifier);
		verifier_format(&text, &verifier);
		printf("%s\n", text.data);
		if (fflush(stdout) != 0)
			ok = fail(&failure, EXIT_TROUBLE, "could not write to standard output");
	}
	signer_forget(&key);
	text_free(&text);
	if (ok)
		return EXIT_DONE;
	complain(&failure);
	return failure.code;
}

/* Runs the command that it is. */
static int
execute(const Command *command, Options *options, char **arguments)
{
	if (strcmp(command->name, "genkey") == 0)
		return options->name == NULL ? usage("genkey needs --name") : print_vkey(options, true);
	if (strcmp(command->name, "vkey") == 0)
		return print_vkey(options, false);
	if (strcmp(command->name, "run") == 0)
	{
		if (options->run.state == NULL)
			return usage("run needs --state");
		if (options->run.accept && options->run.loop > 0)
			return usage("--accept-incarnation is for one run, not for every round of --loop");
		if (options->run.quiet)
			be_quiet();
		return run(&options->run);
	}
	if (options->verify.nkeys == 0)
		return usage("verify needs --vkey");
	if (options->verify.quorum > options->verify.nkeys)
		return usage("--quorum is more than there are --vkey");
	options->verify.note = arguments[0];
	return verify(&options->verify);
}

/* Finds the command and its options. */
int
main(int argc, char **argv)
{
	static Options options = {.run = {.key = DEFAULT_KEY,.timeout = 60,.report = true}};
	const Command *command = commands;
	Failure		failure;

	/* a reader that has gone is seen when writing to him fails */
	signal(SIGPIPE, SIG_IGN);
	if (argc < 2)
		return usage("no command is given");
	if (strcmp(argv[1], "--help") == 0)
	{
		fputs(help_text, stdout);
		return EXIT_DONE;
	}
	if (strcmp(argv[1], "--version") == 0)
	{
		printf("idempotency-witness %s\n", WITNESS_VERSION);
		return EXIT_DONE;
	}
	while (command->name != NULL && strcmp(command->name, argv[1]) != 0)
		command++;
	if (command->name == NULL)
		return usage("there is no such command");
	if (!take_options(command, argc - 1, argv + 1, &options, &failure))
		return usage(failure.text);
	return execute(command, &options, argv + 1 + optind);
}
