/*-------------------------------------------------------------------------
 *
 * trigger.c
 *		dedup(): a BEFORE INSERT trigger that lets each key in once.
 *
 * A row whose key was seen is skipped, or refused, as the trigger's third
 * argument says.  A key that another transaction is inserting is never
 * "seen": the insert waits, or raises ID409 where the policy says not to
 * wait.  The claim settles itself, with the inserting transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "claim.h"
#include "compat.h"
#include "errors.h"
#include "watch.h"

COMPAT_FUNCTION_INFO(idempotency_dedup);

/* dedup('scope', 'key column' [, 'skip' | 'raise' [, 'principal column']]) */
typedef struct DedupArguments
{
	char	   *scope;
	char	   *key_column;
	bool		raise;
	char	   *principal_column;	/* NULL: principal is '' */
} DedupArguments;

/* Refuse to be called in any other way than a dedup trigger is. */
static void
dedup_check_call(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("dedup() must be used as a BEFORE INSERT FOR EACH ROW trigger")));
}

/* Read the trigger's arguments.  Raises ID400. */
static void
dedup_arguments(const Trigger *trigger, DedupArguments *arguments)
{
	int			n = trigger->tgnargs;
	const char *action = n > 2 ? trigger->tgargs[2] : "skip";

	if (n < 2 || n > 4 ||
		(strcmp(action, "skip") != 0 && strcmp(action, "raise") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("dedup() has wrong trigger arguments"),
				 errhint("Write dedup('scope', 'key column' [, 'skip' or 'raise' [, 'principal column']]).")));
	arguments->scope = trigger->tgargs[0];
	arguments->key_column = trigger->tgargs[1];
	arguments->raise = strcmp(action, "raise") == 0;
	arguments->principal_column = n > 3 ? trigger->tgargs[3] : NULL;
}

/*
 * A column of the new row as text; role says what it is taken for.  Raises
 * ID400 if there is no such column, or it is NULL.
 */
static text *
dedup_column(const TriggerData *trigger, const char *column, const char *role)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	int			attno = SPI_fnumber(desc, column);
	char	   *value;

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("column \"%s\", named by trigger \"%s\", does not exist",
						column, trigger->tg_trigger->tgname)));
	value = SPI_getvalue(trigger->tg_trigtuple, desc, attno);
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BAD_ARGUMENT),
				 errmsg("column \"%s\" must not be null, because trigger \"%s\" takes it for %s",
						column, trigger->tg_trigger->tgname, role)));
	return cstring_to_text(value);
}

/* dedup() returns trigger */
static Datum
dedup_call(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	DedupArguments arguments;
	ClaimRequest claim;
	Answer		answer;

	dedup_check_call(fcinfo);
	dedup_arguments(trigger->tg_trigger, &arguments);
	claim_request_init(&claim, cstring_to_text(arguments.scope),
					   dedup_column(trigger, arguments.key_column,
									"an idempotency key"),
					   NULL,
					   arguments.principal_column ?
					   dedup_column(trigger, arguments.principal_column,
									"a principal") :
					   NULL);
	claim.settles = true;
	claim_execute(&claim, &answer);
	if (answer_gate(&answer, claim.identity.scope, claim.identity.scope_len))
		return PointerGetDatum(trigger->tg_trigtuple);
	if (arguments.raise)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("the row was inserted before, in scope \"%s\"",
						arguments.scope),
				 errtable(trigger->tg_relation)));
	return PointerGetDatum(NULL);
}

WATCH_FUNCTION(idempotency_dedup, STATS_CLAIM, dedup_call);
