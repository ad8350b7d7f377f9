/*-------------------------------------------------------------------------
 *
 * export.c
 *		Checkpoints in files, for others.
 *
 * A duty, of the worker only: every idempotency.export_interval it writes the
 * latest checkpoint that may be told to idempotency.export_directory, as
 *
 *		<database OID>-<size, 20 digits>.checkpoint
 *
 * so that the directory, best one that is somewhere else, has a history of
 * them.  A file appears whole or not at all: it is written under another name,
 * <database OID>.tmp, flushed, and given this one, which fails if the name is
 * taken.  A file with other contents means that this database's history is
 * another one than was told before; it is left alone, and an error says so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/fd.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "duty.h"
#include "export.h"
#include "fault.h"
#include "guc.h"
#include "proof.h"

/* no checkpoint has so many bytes */
#define EXPORT_MAX_BYTES 1024

/*
 * Is there a file of this name with these contents?  Raises XX001 if it has
 * others, and what reading it raises.
 */
static bool
export_is_there(const char *path, const char *text)
{
	char		contents[EXPORT_MAX_BYTES];
	ssize_t		n;
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);

	if (fd < 0)
	{
		if (errno == ENOENT)
			return false;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	}
	n = read(fd, contents, sizeof(contents));
	if (n < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	CloseTransientFile(fd);
	if (n == strlen(text) && memcmp(contents, text, n) == 0)
		return true;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" has another checkpoint of the same size",
					path),
			 errdetail("This database's ledger is not a continuation of the one that was exported."),
			 errhint("Keep the file as evidence, and call verify() with its contents.")));
}

/* Write a file and flush it.  Raises what files do. */
static void
export_write(const char *path, const char *text)
{
	int			fd = OpenTransientFile(path,
									   O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	errno = 0;
	if (write(fd, text, strlen(text)) != strlen(text) || pg_fsync(fd) != 0)
	{
		int			save_errno = errno ? errno : ENOSPC;

		CloseTransientFile(fd);
		unlink(path);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
	FAULT_POINT("export.after_file_write");
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", path)));
}

/*
 * Put a file with these contents into the directory, so that it is there whole
 * or not at all; one that is there already is left alone.  Raises what files
 * do, and XX001 if it has other contents.
 */
static void
export_publish(const char *path, const char *text)
{
	char		temporary[MAXPGPATH];

	snprintf(temporary, sizeof(temporary), "%s/%u.tmp", guc_export_directory,
			 MyDatabaseId);
	export_write(temporary, text);
	FAULT_POINT("export.before_rename");
	if (link(temporary, path) != 0 &&
		(errno != EEXIST || !export_is_there(path, text)))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not link file \"%s\" to \"%s\": %m",
						temporary, path)));
	unlink(temporary);
	(void) fsync_fname_ext(guc_export_directory, true, true, ERROR);
}

/* Duty: export the latest checkpoint, if it is time. */
static void
export_step(int step)
{
	static TimestampTz exported_at = 0;
	static int64 exported_size = 0;
	TimestampTz now = GetCurrentTimestamp();
	Checkpoint *checkpoint;
	char		path[MAXPGPATH];

	if (MyBgworkerEntry == NULL || guc_export_directory == NULL ||
		guc_export_directory[0] == '\0' ||
		(now >= exported_at &&
		 now < TimestampTzPlusMilliseconds(exported_at, guc_export_interval)))
		return;
	checkpoint = palloc(sizeof(Checkpoint));
	if (!proof_publishable(GetActiveSnapshot(), checkpoint) ||
		checkpoint->size == exported_size)
		return;
	snprintf(path, sizeof(path), "%s/%u-%020lld.checkpoint",
			 guc_export_directory, MyDatabaseId, (long long) checkpoint->size);
	if (!export_is_there(path, proof_checkpoint_text(checkpoint)))
		export_publish(path, proof_checkpoint_text(checkpoint));
	exported_at = now;
	exported_size = checkpoint->size;
}

/* Register the duty; called once from _PG_init. */
void
export_init(void)
{
	duty_register("export", 1, export_step);
}
