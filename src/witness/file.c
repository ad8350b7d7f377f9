/*-------------------------------------------------------------------------
 *
 * file.c
 *		Files that are there whole or not at all.
 *
 * A file is written beside its place, synced, and renamed to it, and then the
 * directory is synced: a crash at any point leaves the old file or the new
 * one.  What a crash leaves beside is overwritten by the next write; whoever
 * writes holds the lock of the state directory.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "file.h"

#define TEMPORARY ".new"

/*
 * Reads a whole file, "-" is standard input, of at most so many bytes.  A file
 * that isn't there is EXIT_USAGE, what else goes wrong EXIT_TROUBLE.
 */
bool
file_read(int directory, const char *name, size_t max, Text *text, Failure *failure)
{
	bool		is_stdin = directory == AT_FDCWD && strcmp(name, "-") == 0;
	int			fd = is_stdin ? STDIN_FILENO : openat(directory, name, O_RDONLY | O_CLOEXEC);
	char		buffer[65536];
	ssize_t		n;
	int			error;

	if (fd < 0)
		return fail(failure, errno == ENOENT ? EXIT_USAGE : EXIT_TROUBLE,
					"could not open %s: %s", name, strerror(errno));
	text_clear(text);
	do
	{
		n = read(fd, buffer, sizeof(buffer));
		if (n > 0)
			text_add(text, buffer, n);
	} while ((n > 0 && text->len <= max) || (n < 0 && errno == EINTR));
	error = errno;
	if (!is_stdin)
		close(fd);
	OPENSSL_cleanse(buffer, sizeof(buffer));	/* it may have been a key */
	if (n < 0)
		return fail(failure, EXIT_TROUBLE, "could not read %s: %s", name, strerror(error));
	if (text->len > max)
		return fail(failure, EXIT_MALFORMED, "%s has more than %zu bytes", name, max);
	return true;
}

/* Writes all of it, syncs and closes; removes nothing if that fails. */
static bool
write_and_close(int fd, const char *name, const char *data, size_t len, Failure *failure)
{
	size_t		done = 0;
	const char *what = "write";
	int			error = 0;

	while (done < len)
	{
		ssize_t		n = write(fd, data + done, len - done);

		if (n > 0)
			done += n;
		else if (n < 0 && errno != EINTR)
		{
			error = errno;
			break;
		}
	}
	if (error == 0 && fsync(fd) != 0)
	{
		error = errno;
		what = "sync";
	}
	if (close(fd) != 0 && error == 0)
	{
		error = errno;
		what = "close";
	}
	return error == 0 ||
		fail(failure, EXIT_TROUBLE, "could not %s %s: %s", what, name, strerror(error));
}

/* Writes a file anew, on disk and whole when this returns. */
bool
file_write(int directory, const char *name, const char *data, size_t len, Failure *failure)
{
	int			fd = openat(directory, TEMPORARY,
							O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);

	if (fd < 0)
		return fail(failure, EXIT_TROUBLE, "could not create %s: %s", name, strerror(errno));
	if (!write_and_close(fd, name, data, len, failure))
		return false;
	if (renameat(directory, TEMPORARY, directory, name) != 0)
		return fail(failure, EXIT_TROUBLE, "could not rename to %s: %s", name, strerror(errno));
	return directory_sync(directory, failure);
}

/*
 * Writes a file that must not be there yet and that only its owner can read.
 * Removes it again if that fails.
 */
bool
file_create_secret(const char *path, const char *data, size_t len, Failure *failure)
{
	int			fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	char	   *copy;
	int			directory;
	bool		ok;

	if (fd < 0)
		return fail(failure, EXIT_USAGE, "could not create %s: %s", path, strerror(errno));
	if (!write_and_close(fd, path, data, len, failure))
	{
		unlink(path);
		return false;
	}
	copy = strdup(path);
	if (copy == NULL)
		return fail(failure, EXIT_TROUBLE, "out of memory");
	directory = directory_open(AT_FDCWD, dirname(copy), failure);
	ok = directory >= 0 && directory_sync(directory, failure);
	if (directory >= 0)
		close(directory);
	free(copy);
	return ok;
}

/* Is there something of this name? */
bool
file_exists(int directory, const char *name)
{
	return faccessat(directory, name, F_OK, 0) == 0;
}

/* Makes a directory, unless it is there. */
bool
directory_make(int directory, const char *name, Failure *failure)
{
	if (mkdirat(directory, name, 0755) == 0)
		return directory_sync(directory, failure);
	return errno == EEXIST ||
		fail(failure, EXIT_TROUBLE, "could not make the directory %s: %s", name, strerror(errno));
}

/* Opens a directory; returns -1 if it can't. */
int
directory_open(int directory, const char *name, Failure *failure)
{
	int			fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		fail(failure, errno == ENOENT || errno == ENOTDIR ? EXIT_USAGE : EXIT_TROUBLE,
			 "could not open the directory %s: %s", name, strerror(errno));
	return fd;
}

/* What was renamed, made or removed in it is on disk when this returns. */
bool
directory_sync(int directory, Failure *failure)
{
	return fsync(directory) == 0 ||
		fail(failure, EXIT_TROUBLE, "could not sync a directory: %s", strerror(errno));
}
