/*-------------------------------------------------------------------------
 *
 * inbox_delivery.c
 *		How often the processing of an event was rolled back.
 *
 * A transaction that fails leaves nothing in the database, so that it had
 * accepted an event is counted in shared memory, by the event's id, when it
 * aborts.  There is room for so many events; those that failed last are kept,
 * and a restart of the server forgets all of them.  Without shared memory
 * nothing is counted.
 *
 * Locking: the area's lock, for as long as it takes to look at one set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "inbox.h"
#include "shmem.h"

#define DELIVERY_SETS	512
#define DELIVERY_WAYS	8		/* an event can be in so many places */

/* an event whose processing was rolled back; free if it never was */
typedef struct Delivery
{
	Oid			database;
	int32		failures;
	TimestampTz failed_at;
	pg_uuid_t	event;
} Delivery;

typedef struct DeliveryArea
{
	LWLock	   *lock;
	Delivery	deliveries[DELIVERY_SETS][DELIVERY_WAYS];
} DeliveryArea;

/* an event that this transaction is processing */
typedef struct DeliveryBegun
{
	struct DeliveryBegun *next;
	int			depth;			/* of the subtransaction it belongs to */
	int32		failures;		/* before */
	pg_uuid_t	event;
} DeliveryBegun;

static DeliveryArea *delivery_area = NULL;
static DeliveryBegun *begun = NULL; /* the last one first; in the
									 * transaction's memory */

/* Bytes of shared memory. */
static Size
delivery_size(void)
{
	return sizeof(DeliveryArea);
}

/* Make the area. */
static void
delivery_init_area(void *area, LWLock *lock)
{
	delivery_area = area;
	memset(delivery_area, 0, sizeof(DeliveryArea));
	delivery_area->lock = lock;
}

/* The places in which an event can be. */
static Delivery *
delivery_set(const pg_uuid_t *event)
{
	uint32		hash;

	memcpy(&hash, event->data + UUID_LEN - sizeof(hash), sizeof(hash));
	return delivery_area->deliveries[hash % DELIVERY_SETS];
}

/* The event's place among these, or NULL; the lock is held. */
static Delivery *
delivery_find(Delivery *set, const pg_uuid_t *event)
{
	for (int i = 0; i < DELIVERY_WAYS; i++)
	{
		if (set[i].failures > 0 && set[i].database == MyDatabaseId &&
			memcmp(&set[i].event, event, UUID_LEN) == 0)
			return &set[i];
	}
	return NULL;
}

/*
 * Count a failure; the event that failed longest ago makes room.  Can be
 * called while a transaction aborts: raises nothing, and allocates nothing.
 */
static void
delivery_failed(const pg_uuid_t *event)
{
	Delivery   *set = delivery_set(event);
	Delivery   *found;

	LWLockAcquire(delivery_area->lock, LW_EXCLUSIVE);
	found = delivery_find(set, event);
	if (found == NULL)
	{
		found = &set[0];
		for (int i = 1; i < DELIVERY_WAYS; i++)
		{
			if (set[i].failed_at < found->failed_at)
				found = &set[i];
		}
		found->database = MyDatabaseId;
		found->failures = 0;
		found->event = *event;
	}
	if (found->failures < PG_INT32_MAX)
		found->failures++;
	found->failed_at = GetCurrentTimestamp();
	LWLockRelease(delivery_area->lock);
}

/* Forget an event's failures. */
static void
delivery_drop(const pg_uuid_t *event)
{
	Delivery   *found;

	LWLockAcquire(delivery_area->lock, LW_EXCLUSIVE);
	found = delivery_find(delivery_set(event), event);
	if (found)
		memset(found, 0, sizeof(*found));
	LWLockRelease(delivery_area->lock);
}

/* How often has the event's processing been rolled back, as far as is known? */
int32
inbox_delivery_failures(Identity *event)
{
	Delivery   *found;
	int32		failures = 0;

	if (delivery_area == NULL)
		return 0;
	LWLockAcquire(delivery_area->lock, LW_SHARED);
	found = delivery_find(delivery_set(identity_id(event)),
						  identity_id(event));
	if (found)
		failures = found->failures;
	LWLockRelease(delivery_area->lock);
	return failures;
}

/* The event is being processed; so often, before, it was in vain. */
void
inbox_delivery_begin(Identity *event, int32 failures)
{
	DeliveryBegun *one;

	if (delivery_area == NULL)
		return;
	one = MemoryContextAlloc(TopTransactionContext, sizeof(DeliveryBegun));
	one->depth = GetCurrentTransactionNestLevel();
	one->failures = failures;
	one->event = *identity_id(event);
	one->next = begun;
	begun = one;
}

/* Forget, at once and for good, how often the event has failed. */
void
inbox_delivery_forget(Identity *event)
{
	if (delivery_area)
		delivery_drop(identity_id(event));
}

/* The transaction has ended. */
static void
delivery_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	for (; begun; begun = begun->next)
	{
		if (event == XACT_EVENT_ABORT)
			delivery_failed(&begun->event);
		else if (event == XACT_EVENT_COMMIT && begun->failures > 0)
			delivery_drop(&begun->event);
	}
}

/* A subtransaction has ended; what belongs to it is in front. */
static void
delivery_subxact_callback(SubXactEvent event, SubTransactionId subid,
						  SubTransactionId parent, void *arg)
{
	int			depth = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		for (; begun && begun->depth >= depth; begun = begun->next)
			delivery_failed(&begun->event);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (DeliveryBegun *one = begun; one && one->depth >= depth;
			 one = one->next)
			one->depth = depth - 1;
	}
}

/* Ask for the area, and register the callbacks; called once from _PG_init. */
void
inbox_delivery_init(void)
{
	shmem_register("idempotency deliveries", delivery_size,
				   delivery_init_area, (void **) &delivery_area);
	RegisterXactCallback(delivery_xact_callback, NULL);
	RegisterSubXactCallback(delivery_subxact_callback, NULL);
}
