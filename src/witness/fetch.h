/*-------------------------------------------------------------------------
 *
 * fetch.h
 *		What the witness asks of the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WITNESS_FETCH_H
#define WITNESS_FETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "report.h"
#include "text.h"
#include "tree.h"

#define LATEST (-1)				/* as the size of a checkpoint */

typedef struct Server Server;

extern Server *server_connect(const char *conninfo, int timeout, Failure *failure);
extern void server_disconnect(Server *server);
extern bool server_checkpoint(Server *server, int64_t size, bool *exists, Text *text,
							  Failure *failure);
extern bool server_consistency(Server *server, int64_t size1, int64_t size2,
							   TreeProof *proof, Failure *failure);
extern bool server_witnessed(Server *server, const Text *note, int64_t size, Failure *failure);

#endif							/* WITNESS_FETCH_H */
