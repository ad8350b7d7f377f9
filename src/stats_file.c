/*-------------------------------------------------------------------------
 *
 * stats_file.c
 *		What was counted, in a file, over a restart.
 *
 * The postmaster writes the file when the server is stopped, and the workers
 * while it runs, every STATS_EVERY if there is something new: so a crash
 * loses what was counted since.  The next start reads it.
 *
 * The file is of this server's past: one that comes with a base backup, or on
 * a standby, is of another's, and removed.  So is one that isn't understood,
 * or was written by a library that counts something else.
 *
 * Layout: magic, number of slots; for each slot its StatsSaved and as many
 * StatsSavedClass as it has; the CRC of all that.  In the server's own byte
 * order and alignment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "stats_area.h"

#define STATS_FILE		PGSTAT_STAT_PERMANENT_DIRECTORY "/idempotency.stat"
#define STATS_MAGIC		(0x1D3E0000 + (uint32) sizeof(StatsScope))
#define STATS_EVERY		(10 * USECS_PER_SEC)

/* a class of a histogram that isn't empty */
typedef struct StatsSavedClass
{
	int32		histogram;
	int32		class;
	uint64		n;
} StatsSavedClass;

/* a slot */
typedef struct StatsSaved
{
	Oid			database;
	int32		scope_len;
	char		scope[SCOPE_MAX_BYTES];
	uint64		reset_at;
	uint64		counters[STATS_COUNTERS];
	uint64		latency_us[STATS_FUNCTIONS];
	int64		nclasses;
} StatsSaved;

/* a file that is being written; or, without one, what it would be */
typedef struct StatsOut
{
	FILE	   *file;
	pg_crc32c	crc;
	bool		failed;
} StatsOut;

/* Write some bytes. */
static void
stats_put(StatsOut *out, const void *data, Size len)
{
	COMP_CRC32C(out->crc, data, len);
	if (out->file && !out->failed)
		out->failed = fwrite(data, len, 1, out->file) != 1;
}

/* Write a slot, as it is now. */
static void
stats_put_slot(StatsOut *out, StatsScope *slot)
{
	static StatsSavedClass classes[STATS_HISTOGRAMS * STATS_LATENCY_CLASSES];
	StatsSaved	saved;

	memset(&saved, 0, sizeof(saved));
	saved.database = slot->database;
	saved.scope_len = slot->scope_len;
	memcpy(saved.scope, slot->scope, slot->scope_len);
	saved.reset_at = pg_atomic_read_u64(&slot->reset_at);
	for (int i = 0; i < STATS_COUNTERS; i++)
		saved.counters[i] = pg_atomic_read_u64(&slot->counters[i]);
	for (int i = 0; i < STATS_FUNCTIONS; i++)
		saved.latency_us[i] = pg_atomic_read_u64(&slot->latency_us[i]);
	for (int h = 0; h < STATS_HISTOGRAMS; h++)
	{
		for (int i = 0; i < STATS_LATENCY_CLASSES; i++)
		{
			uint64		n = pg_atomic_read_u64(&slot->latency[h][i]);

			if (n == 0)
				continue;
			classes[saved.nclasses].histogram = h;
			classes[saved.nclasses].class = i;
			classes[saved.nclasses++].n = n;
		}
	}
	stats_put(out, &saved, sizeof(saved));
	if (saved.nclasses > 0)
		stats_put(out, classes, saved.nclasses * sizeof(StatsSavedClass));
}

/* Write all of it; without a file, only find out its CRC. */
static void
stats_put_all(StatsOut *out)
{
	const uint32 magic = STATS_MAGIC;
	int32		n = stats_area->nslots;

	INIT_CRC32C(out->crc);
	stats_put(out, &magic, sizeof(magic));
	stats_put(out, &n, sizeof(n));
	for (int i = 0; i < n; i++)
		stats_put_slot(out, &stats_area->slots[i]);
	FIN_CRC32C(out->crc);
	if (out->file && !out->failed)
		out->failed = fwrite(&out->crc, sizeof(out->crc), 1, out->file) != 1;
}

/* Write the file.  Raises nothing. */
static pg_crc32c
stats_save(void)
{
	StatsOut	out = {AllocateFile(STATS_FILE ".tmp", PG_BINARY_W)};

	out.failed = out.file == NULL;
	if (!out.failed)
	{
		stats_put_all(&out);
		out.failed |= FreeFile(out.file) != 0;
	}
	if (out.failed)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", STATS_FILE ".tmp")));
		unlink(STATS_FILE ".tmp");
	}
	else
		(void) durable_rename(STATS_FILE ".tmp", STATS_FILE, LOG);
	return out.crc;
}

/* Write the area to its file, unless the server crashes. */
void
stats_save_at_exit(int code, Datum arg)
{
	if (code == 0 && stats_area)
		(void) stats_save();
}

/*
 * Duty: write the file, if that is some time ago and there is something new.
 * Whoever sets the time of the last one does it.
 */
void
stats_save_now_and_then(int step)
{
	static pg_crc32c last = 0;
	TimestampTz now = GetCurrentTimestamp();
	uint64		saved_at;
	StatsOut	out = {NULL};

	if (stats_area == NULL || RecoveryInProgress())
		return;
	saved_at = pg_atomic_read_u64(&stats_area->saved_at);
	if ((now >= (TimestampTz) saved_at &&
		 now < (TimestampTz) saved_at + STATS_EVERY) ||
		!pg_atomic_compare_exchange_u64(&stats_area->saved_at, &saved_at, now))
		return;
	stats_put_all(&out);
	if (out.crc != last)
		last = stats_save();
}

/* Is the file of another server, or of this one's past life? */
static bool
stats_file_is_foreign(void)
{
	static const char *const signs[] = {
		"backup_label", "standby.signal", "recovery.signal"
	};
	struct stat unused;

	for (int i = 0; i < lengthof(signs); i++)
	{
		if (stat(signs[i], &unused) == 0)
			return true;
	}
	return false;
}

/* Read the whole file into palloc'd memory; NULL if it isn't to be read. */
static char *
stats_read_file(Size *size)
{
	FILE	   *file = AllocateFile(STATS_FILE, PG_BINARY_R);
	struct stat status;
	char	   *data = NULL;

	if (file == NULL)
		return NULL;
	if (fstat(fileno(file), &status) == 0 && status.st_size > 0)
	{
		*size = status.st_size;
		data = MemoryContextAllocHuge(CurrentMemoryContext, *size);
		if (fread(data, *size, 1, file) != 1)
		{
			pfree(data);
			data = NULL;
		}
	}
	FreeFile(file);
	return data;
}

/*
 * Add what was saved of a slot to one in memory; returns where it ends.
 */
static const char *
stats_restore(const char *at, StatsScope *slot)
{
	StatsSaved	saved;

	memcpy(&saved, at, sizeof(saved));
	at += sizeof(saved);
	for (int i = 0; i < STATS_COUNTERS; i++)
		pg_atomic_fetch_add_u64(&slot->counters[i], saved.counters[i]);
	for (int i = 0; i < STATS_FUNCTIONS; i++)
		pg_atomic_fetch_add_u64(&slot->latency_us[i], saved.latency_us[i]);
	for (int64 i = 0; i < saved.nclasses; i++)
	{
		StatsSavedClass class;

		memcpy(&class, at, sizeof(class));
		at += sizeof(class);
		pg_atomic_fetch_add_u64(&slot->latency[class.histogram][class.class],
								class.n);
	}
	return at;
}

/*
 * Take over all slots; those for which there is no room any more are added to
 * that of the others.
 */
static void
stats_restore_all(const char *at)
{
	int32		n;

	at += sizeof(uint32);
	memcpy(&n, at, sizeof(n));
	at += sizeof(n);
	for (int i = 0; i < n; i++)
	{
		StatsScope *slot = &stats_area->slots[STATS_OTHERS];
		StatsSaved	saved;

		memcpy(&saved, at, sizeof(saved));
		if (i > 0 && i < stats_area->max_slots)
		{
			slot = &stats_area->slots[i];
			slot->database = saved.database;
			slot->scope_len = saved.scope_len;
			memcpy(slot->scope, saved.scope, sizeof(slot->scope));
			stats_clear_slot(slot);
			stats_publish(i);
			stats_area->nslots = i + 1;
		}
		if (i < stats_area->max_slots)
			pg_atomic_write_u64(&slot->reset_at, saved.reset_at);
		at = stats_restore(at, slot);
	}
}

/* Is this a file of this library, and whole? */
static bool
stats_is_whole(const char *data, Size size)
{
	uint32		magic;
	pg_crc32c	crc;
	pg_crc32c	written;

	if (size < 2 * sizeof(uint32) + sizeof(StatsSaved) + sizeof(crc))
		return false;
	memcpy(&magic, data, sizeof(magic));
	memcpy(&written, data + size - sizeof(crc), sizeof(crc));
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, size - sizeof(crc));
	FIN_CRC32C(crc);
	return magic == STATS_MAGIC && EQ_CRC32C(crc, written);
}

/* Read what stats_save() has left.  The caller is alone. */
void
stats_load(void)
{
	Size		size = 0;
	char	   *data;

	if (stats_file_is_foreign())
	{
		unlink(STATS_FILE);
		return;
	}
	data = stats_read_file(&size);
	if (data == NULL)
		return;
	if (stats_is_whole(data, size))
		stats_restore_all(data);
	else
	{
		ereport(LOG,
				(errmsg("file \"%s\" is not understood, and ignored",
						STATS_FILE)));
		unlink(STATS_FILE);
	}
	pfree(data);
}
