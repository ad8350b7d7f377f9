/*-------------------------------------------------------------------------
 *
 * fetch.c
 *		What the witness asks of the database.
 *
 * Nothing that it answers is trusted: every answer is read strictly, and a
 * server that doesn't answer in time is given up.  An error that says that the
 * question could not be dealt with now (or ever, by this user) is trouble;
 * any other in place of a proof is a proof that is missing.
 *
 * Every statement is a transaction of its own and names its functions in full,
 * so it needs nothing of a session, and works behind a pooler.
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libpq-fe.h>

#include "fetch.h"

#define OID_BYTEA 17
#define OID_INT8 20
#define OID_TEXT 25
#define OID_BYTEA_ARRAY 1001

struct Server
{
	PGconn	   *connection;
	int			timeout;		/* seconds, for an answer */
};

/* What libpq knows of why it failed, without the newlines at its end. */
static bool
fail_connection(const Server *server, const char *what, Failure *failure)
{
	const char *message = PQerrorMessage(server->connection);
	size_t		len = strlen(message);

	while (len > 0 && message[len - 1] == '\n')
		len--;
	return fail(failure, EXIT_TROUBLE, "%s: %.*s", what, (int) (len < 1500 ? len : 1500), message);
}

/* Connects; returns NULL if it can't. */
Server *
server_connect(const char *conninfo, int timeout, Failure *failure)
{
	char		seconds[16];
	const char *keywords[6] = {"fallback_application_name"};
	const char *values[6] = {"idempotency-witness"};
	int			n = 1;
	Server	   *server = calloc(1, sizeof(Server));

	if (server == NULL)
	{
		fail(failure, EXIT_TROUBLE, "out of memory");
		return NULL;
	}
	/* what stands before the caller's connection string gives way to it */
	snprintf(seconds, sizeof(seconds), "%d", timeout);
	if (getenv("PGCONNECT_TIMEOUT") == NULL)
	{
		keywords[n] = "connect_timeout";
		values[n++] = seconds;
	}
	keywords[n] = "dbname";
	values[n++] = conninfo;
	keywords[n] = "client_encoding";
	values[n] = "UTF8";
	server->timeout = timeout;
	server->connection = PQconnectdbParams(keywords, values, 1);
	if (PQstatus(server->connection) != CONNECTION_OK)
	{
		fail_connection(server, "could not connect", failure);
		server_disconnect(server);
		return NULL;
	}
	if (PQsetnonblocking(server->connection, 1) != 0)
	{
		fail_connection(server, "could not set the connection up", failure);
		server_disconnect(server);
		return NULL;
	}
	return server;
}

/* Disconnects. */
void
server_disconnect(Server *server)
{
	if (server == NULL)
		return;
	PQfinish(server->connection);
	free(server);
}

/* Milliseconds of a clock that nobody sets. */
static int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until the answer to what was sent is there, or the time is over. */
static bool
wait_answer(Server *server, Failure *failure)
{
	int64_t		until = now_ms() + (int64_t) server->timeout * 1000;
	int			unsent;

	while ((unsent = PQflush(server->connection)) > 0 || PQisBusy(server->connection))
	{
		struct pollfd fd = {PQsocket(server->connection), POLLIN, 0};
		int64_t		left = until - now_ms();

		if (unsent < 0)
			break;
		if (unsent > 0)
			fd.events |= POLLOUT;
		if (left <= 0)
			return fail(failure, EXIT_TROUBLE, "the database has not answered within %d s",
						server->timeout);
		if (poll(&fd, 1, (int) left) < 0 && errno != EINTR)
			return fail(failure, EXIT_TROUBLE, "could not wait for the database: %s",
						strerror(errno));
		if (fd.revents != 0 && PQconsumeInput(server->connection) == 0)
			break;
	}
	if (unsent < 0 || PQisBusy(server->connection))
		return fail_connection(server, "the connection was lost", failure);
	return true;
}

/* Is it an error of the moment, or of rights? */
static bool
is_trouble(const char *state)
{
	static const char *const classes[] = {
		"08", "0A", "25", "28", "3D", "40", "53", "55", "57", "58", "42501", NULL
	};

	if (state == NULL)
		return true;
	for (int i = 0; classes[i] != NULL; i++)
	{
		if (strncmp(state, classes[i], strlen(classes[i])) == 0)
			return true;
	}
	return false;
}

/* What an error of this SQLSTATE means. */
static int
error_code(const char *state)
{
	if (is_trouble(state))
		return EXIT_TROUBLE;
	/* there is no such function, or no schema idempotency */
	if (strcmp(state, "42883") == 0 || strcmp(state, "3F000") == 0)
		return EXIT_HISTORY_GONE;
	return EXIT_BAD_CHECKPOINT;
}

/*
 * Runs a query of one row and column, which must be of this type.  Returns NULL
 * if that fails: with EXIT_TROUBLE, with EXIT_HISTORY_GONE if there is nothing
 * that could be asked, with EXIT_BAD_CHECKPOINT if it is refused.
 */
static PGresult *
ask(Server *server, const char *query, int nparams, const char *const *params,
	Oid type, int format, const char *what, Failure *failure)
{
	PGresult   *result;
	PGresult   *more;

	if (PQsendQueryParams(server->connection, query, nparams, NULL, params, NULL, NULL,
						  format) == 0)
	{
		fail_connection(server, "could not ask the database", failure);
		return NULL;
	}
	if (!wait_answer(server, failure))
		return NULL;
	result = PQgetResult(server->connection);
	while (wait_answer(server, failure) && (more = PQgetResult(server->connection)) != NULL)
		PQclear(more);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
		const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

		if (text == NULL)
			fail_connection(server, what, failure);
		else
			fail(failure, error_code(state), "%s: %.1500s (%.5s)", what, text,
				 state == NULL ? "" : state);
		PQclear(result);
		return NULL;
	}
	if (PQntuples(result) != 1 || PQnfields(result) != 1 || PQftype(result, 0) != type)
	{
		fail(failure, EXIT_BAD_CHECKPOINT, "%s: the answer is not of the type that was agreed on",
			 what);
		PQclear(result);
		return NULL;
	}
	return result;
}

/* Fetches the text of the checkpoint of this size, if there is one. */
bool
server_checkpoint(Server *server, int64_t size, bool *exists, Text *text, Failure *failure)
{
	char		number[24];
	const char *params[1] = {size == LATEST ? NULL : number};
	PGresult   *result;

	snprintf(number, sizeof(number), "%" PRId64, size);
	result = ask(server, "SELECT idempotency.checkpoint_text($1::pg_catalog.int8)", 1, params,
				 OID_TEXT, 0, "the database shows no checkpoint", failure);
	if (result == NULL)
		return false;
	text_clear(text);
	*exists = !PQgetisnull(result, 0, 0);
	if (*exists)
		text_add(text, PQgetvalue(result, 0, 0), PQgetlength(result, 0, 0));
	PQclear(result);
	return true;
}

/* Takes an integer of four bytes off the data. */
static bool
take_int(Span *data, uint32_t *value)
{
	if (data->len < 4)
		return false;
	memcpy(value, data->data, 4);
	*value = ntohl(*value);
	data->data += 4;
	data->len -= 4;
	return true;
}

/*
 * Reads a bytea[] in binary form: dimensions, flags, type, then of each
 * dimension its length and lower bound, then of each element length and bytes.
 */
static bool
read_proof(Span data, TreeProof *proof)
{
	uint32_t	dimensions;
	uint32_t	flags;
	uint32_t	type;
	uint32_t	n = 0;
	uint32_t	lower;

	if (!take_int(&data, &dimensions) || !take_int(&data, &flags) || !take_int(&data, &type) ||
		dimensions > 1 || type != OID_BYTEA)
		return false;
	if (dimensions == 1 && (!take_int(&data, &n) || !take_int(&data, &lower)))
		return false;
	if (n > PROOF_MAX)
		return false;
	for (uint32_t i = 0; i < n; i++)
	{
		uint32_t	len;

		if (!take_int(&data, &len) || len != HASH_LENGTH || data.len < len)
			return false;
		memcpy(proof->hashes[i].bytes, data.data, len);
		data.data += len;
		data.len -= len;
	}
	proof->n = n;
	return data.len == 0;
}

/*
 * Fetches the proof that the tree of the second size begins with that of the
 * first.  A proof that it doesn't give is EXIT_PROOF_MISSING, one that is none
 * EXIT_PROOF_WRONG.
 */
bool
server_consistency(Server *server, int64_t size1, int64_t size2, TreeProof *proof,
				   Failure *failure)
{
	char		sizes[2][24];
	const char *params[2] = {sizes[0], sizes[1]};
	PGresult   *result;
	Span		data;
	bool		ok;

	proof->n = 0;
	snprintf(sizes[0], sizeof(sizes[0]), "%" PRId64, size1);
	snprintf(sizes[1], sizeof(sizes[1]), "%" PRId64, size2);
	result = ask(server, "SELECT idempotency.consistency_proof($1::pg_catalog.int8,"
				 " $2::pg_catalog.int8)", 2, params, OID_BYTEA_ARRAY, 1, "the database gives no proof", failure);
	if (result == NULL)
	{
		if (failure->code != EXIT_TROUBLE)
			failure->code = EXIT_PROOF_MISSING;
		return false;
	}
	if (PQgetisnull(result, 0, 0))
	{
		PQclear(result);
		return fail(failure, EXIT_PROOF_MISSING, "the database gives no proof");
	}
	data.data = PQgetvalue(result, 0, 0);
	data.len = PQgetlength(result, 0, 0);
	ok = read_proof(data, proof) ||
		fail(failure, EXIT_PROOF_WRONG, "what the database gives is no proof: an array of"
			 " at most %d bytea of %d bytes", PROOF_MAX, HASH_LENGTH);
	PQclear(result);
	return ok;
}

/*
 * Tells the database that this note, of a checkpoint of this size, is held
 * outside.  Fails as ask() does.
 */
bool
server_witnessed(Server *server, const Text *note, int64_t size, Failure *failure)
{
	const char *params[1] = {note->data};
	PGresult   *result = ask(server, "SELECT idempotency.witnessed($1::pg_catalog.text)", 1, params,
							 OID_INT8, 0, "the database did not record the note", failure);
	char		expected[24];
	bool		ok;

	if (result == NULL)
		return false;
	snprintf(expected, sizeof(expected), "%" PRId64, size);
	ok = !PQgetisnull(result, 0, 0) && strcmp(PQgetvalue(result, 0, 0), expected) == 0;
	PQclear(result);
	return ok || fail(failure, EXIT_BAD_CHECKPOINT, "the database recorded the note as one of another size");
}
