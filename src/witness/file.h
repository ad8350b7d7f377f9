/*-------------------------------------------------------------------------
 *
 * file.h
 *		Files that are there whole or not at all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WITNESS_FILE_H
#define WITNESS_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "report.h"
#include "text.h"

extern bool file_read(int directory, const char *name, size_t max, Text *text, Failure *failure);
extern bool file_write(int directory, const char *name, const char *data, size_t len,
					   Failure *failure);
extern bool file_create_secret(const char *path, const char *data, size_t len, Failure *failure);
extern bool file_exists(int directory, const char *name);
extern bool directory_make(int directory, const char *name, Failure *failure);
extern int	directory_open(int directory, const char *name, Failure *failure);
extern bool directory_sync(int directory, Failure *failure);

#endif							/* WITNESS_FILE_H */
