/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		Shared memory, where the server preloads the library.
 *
 * A subject registers its area in its xxx_init(), and gets a pointer to it and
 * a lock of its own; both before any backend runs.  Without
 * shared_preload_libraries there is no area: the pointers stay NULL, and each
 * subject does without.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "shmem.h"

#define SHMEM_TRANCHE	"idempotency"
#define SHMEM_AREAS		16

typedef struct ShmemArea
{
	const char *name;
	Size		(*size) (void);
	ShmemInit	init;
	void	  **area;
} ShmemArea;

static ShmemArea shmem_areas[SHMEM_AREAS];
static int	shmem_nareas = 0;
static bool shmem_ready = false;

static shmem_request_hook_type shmem_previous_request = NULL;
static shmem_startup_hook_type shmem_previous_startup = NULL;

/*
 * Ask for an area; the name is the caller's, for good.  To be called while the
 * library is preloaded; otherwise it does nothing.
 */
void
shmem_register(const char *name, Size (*size) (void), ShmemInit init,
			   void **area)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	if (shmem_nareas == SHMEM_AREAS)
		elog(ERROR, "too many areas of shared memory");
	shmem_areas[shmem_nareas].name = name;
	shmem_areas[shmem_nareas].size = size;
	shmem_areas[shmem_nareas].init = init;
	shmem_areas[shmem_nareas++].area = area;
}

/* The postmaster asks how much we need. */
static void
shmem_request(void)
{
	if (shmem_previous_request)
		shmem_previous_request();
	for (int i = 0; i < shmem_nareas; i++)
		RequestAddinShmemSpace(MAXALIGN(shmem_areas[i].size()));
	RequestNamedLWLockTranche(SHMEM_TRANCHE, shmem_nareas);
}

/* Make the areas, or find them, where each process has memory of its own. */
static void
shmem_startup(void)
{
	LWLockPadded *locks;

	if (shmem_previous_startup)
		shmem_previous_startup();

	/* reset in case this is a restart within the postmaster */
	for (int i = 0; i < shmem_nareas; i++)
		*shmem_areas[i].area = NULL;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	locks = GetNamedLWLockTranche(SHMEM_TRANCHE);
	for (int i = 0; i < shmem_nareas; i++)
	{
		bool		found;
		void	   *area = ShmemInitStruct(shmem_areas[i].name,
										   shmem_areas[i].size(), &found);

		if (!found)
			shmem_areas[i].init(area, &locks[i].lock);
		*shmem_areas[i].area = area;
	}
	LWLockRelease(AddinShmemInitLock);
	shmem_ready = true;
}

/* Install the hooks; called once from _PG_init. */
void
shmem_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	shmem_previous_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
	shmem_previous_startup = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* Does the server preload the library? */
bool
shmem_is_there(void)
{
	return shmem_ready;
}

/* Raises 55000 if the server doesn't preload the library. */
void
shmem_require(const char *what)
{
	if (!shmem_ready)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s needs shared memory", what),
				 errhint("Add idempotency to shared_preload_libraries, and restart the server.")));
}
