/*-------------------------------------------------------------------------
 *
 * setting.h
 *		Values of settings: how they are given, and how they are shown.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_SETTING_H
#define IDEMPOTENCY_SETTING_H

extern int64 setting_duration(text *value);
extern Datum setting_duration_text(int64 duration);
extern int64 setting_retention(const char *name, text *value);
extern int64 setting_wait(text *value);
extern int64 setting_integer(const char *name, int64 value, int64 min,
							 int64 max);
extern Datum setting_role(text *value);

#endif							/* IDEMPOTENCY_SETTING_H */
