/*-------------------------------------------------------------------------
 *
 * roster.h
 *		Which databases have a worker, or are to have one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_ROSTER_H
#define IDEMPOTENCY_ROSTER_H

/* how a worker leaves */
typedef enum RosterLeave
{
	ROSTER_STOPPED,				/* not of its own accord: it comes back */
	ROSTER_YIELDS,				/* somebody wants the database to himself */
	ROSTER_NOT_WANTED			/* the extension isn't here */
} RosterLeave;

extern void roster_init(void);
extern int64 roster_clock(void);
extern bool roster_database_is_wanted(Oid database);

/* the launcher's */
extern void roster_attach_launcher(void);
extern void roster_add(Oid database);
extern void roster_remove(Oid database);
extern void roster_starting(Oid database, int patience);
extern void roster_postpone(Oid database, RosterLeave reason);
extern bool roster_is_starting(void);
extern Oid	roster_next_due(void);
extern int	roster_due_in(int limit);

/* the worker's */
extern bool roster_attach_worker(Oid database);
extern void roster_leave(RosterLeave reason);
extern void roster_begin_round(void);
extern void roster_end_round(bool troubled, int sqlstate);

#endif							/* IDEMPOTENCY_ROSTER_H */
