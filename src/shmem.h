/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		Shared memory, where the server preloads the library.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_SHMEM_H
#define IDEMPOTENCY_SHMEM_H

#include "storage/lwlock.h"

/* fills an area when it is made; not called again by those who attach */
typedef void (*ShmemInit) (void *area, LWLock *lock);

extern void shmem_register(const char *name, Size (*size) (void),
						   ShmemInit init, void **area);
extern void shmem_init(void);
extern bool shmem_is_there(void);
extern void shmem_require(const char *what);

#endif							/* IDEMPOTENCY_SHMEM_H */
