/*-------------------------------------------------------------------------
 *
 * es6number.c
 *		JSON numbers in the notation of ECMAScript's Number.toString().
 *
 * A token is reduced to a normalised decimal: sign, significant digits
 * without zeros at either end, and the place of the decimal point.  Two
 * tokens denote the same number if and only if their decimals are equal, and
 * the layout below writes equal decimals equally and different ones
 * differently, because what it writes denotes the decimal exactly.
 *
 * There are two ways to fill the decimal: from the token's own digits, which
 * loses nothing, or from the shortest digits that identify the nearest
 * double, which is what RFC 8785 prescribes.  Where a double carries the
 * number, that is, where those shortest digits denote the token's value, both
 * ways give the same text.
 *
 * Tokens must be valid JSON numbers, as the JSON parser delivers them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"

#include "es6number.h"

/* within these places of the decimal point no exponent is written */
#define ES6_MAX_PLAIN_POINT		21
#define ES6_MIN_PLAIN_POINT		(-5)

/* where reading an exponent stops; far beyond what a token's length offsets */
#define EXPONENT_CEILING		INT64CONST(1000000000000)

/* bytes of "-0.", 17 digits, "e" and an exponent, with room to spare */
#define DOUBLE_TEXT_SIZE		40

typedef struct Decimal
{
	bool		negative;		/* never set for zero */
	char	   *digits;			/* significant digits; not terminated */
	int			ndigits;		/* 0 means that the number is zero */
	int64		point;			/* the value is 0.DIGITS * 10^point */
} Decimal;

/*
 * Read the exponent part of a token, "e" included, up to its end.  Stops
 * growing at a ceiling that no length of digits brings back into range.
 */
static int64
read_exponent(const char *at, const char *end)
{
	int64		exponent = 0;
	bool		negative = false;

	for (at++; at < end; at++)
	{
		if (*at == '-')
			negative = true;
		else if (*at != '+' && exponent < EXPONENT_CEILING)
			exponent = exponent * 10 + (*at - '0');
	}
	return negative ? -exponent : exponent;
}

/*
 * Normalise a number's text.  digits has room for len bytes and must outlive
 * the result.
 */
static void
decimal_read(const char *token, int len, char *digits, Decimal *result)
{
	const char *end = token + len;
	const char *at = token;
	bool		fraction = false;

	result->negative = (len > 0 && *at == '-');
	result->digits = digits;
	result->ndigits = 0;
	result->point = 0;

	for (at += result->negative; at < end && *at != 'e' && *at != 'E'; at++)
	{
		if (*at == '.')
			fraction = true;
		else if (*at != '0' || result->ndigits > 0)
		{
			digits[result->ndigits++] = *at;
			result->point += !fraction;
		}
		else
			result->point -= fraction;
	}

	while (result->ndigits > 0 && digits[result->ndigits - 1] == '0')
		result->ndigits--;

	if (result->ndigits == 0)
		result->negative = false;
	else if (at < end)
		result->point += read_exponent(at, end);
}

/* Append count zeros. */
static void
append_zeros(StringInfo out, int count)
{
	while (count-- > 0)
		appendStringInfoCharMacro(out, '0');
}

/*
 * Append a decimal as ECMAScript lays out a number (ECMA-262,
 * Number::toString).  Any number of digits is written in full.
 */
static void
decimal_write(StringInfo out, const Decimal *number)
{
	const char *digits = number->digits;
	int			ndigits = number->ndigits;
	int64		point = number->point;

	if (number->negative)
		appendStringInfoCharMacro(out, '-');

	if (ndigits == 0)
		appendStringInfoCharMacro(out, '0');
	else if (point > ES6_MAX_PLAIN_POINT || point < ES6_MIN_PLAIN_POINT)
	{
		appendStringInfoCharMacro(out, digits[0]);
		if (ndigits > 1)
		{
			appendStringInfoCharMacro(out, '.');
			appendBinaryStringInfo(out, digits + 1, ndigits - 1);
		}
		appendStringInfo(out, "e%+lld", (long long) (point - 1));
	}
	else if (point <= 0)
	{
		appendStringInfoString(out, "0.");
		append_zeros(out, (int) -point);
		appendBinaryStringInfo(out, digits, ndigits);
	}
	else if (point < ndigits)
	{
		appendBinaryStringInfo(out, digits, (int) point);
		appendStringInfoCharMacro(out, '.');
		appendBinaryStringInfo(out, digits + point, ndigits - (int) point);
	}
	else
	{
		appendBinaryStringInfo(out, digits, ndigits);
		append_zeros(out, (int) point - ndigits);
	}
}

/*
 * Does this decimal read back as the (non-negative) double?
 */
static bool
decimal_denotes(const Decimal *number, double value)
{
	char		buffer[DOUBLE_TEXT_SIZE];

	snprintf(buffer, sizeof(buffer), "0.%.*se%d",
			 number->ndigits, number->digits, (int) number->point);
	return strtod(buffer, NULL) == value;
}

/*
 * Drop the last digit if the double is still identified without it.
 *
 * PostgreSQL's shortest digits lie strictly inside the interval that rounds
 * to the double; ECMAScript's may also lie on its border, where a reader
 * rounds half to even (1e23 is such a number).  No shorter number lies
 * inside, so the two neighbours of one digit less are all there is to try.
 * Returns false, with the decimal unchanged, if neither will do.
 */
static bool
decimal_shorten(Decimal *number, double value)
{
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];
	Decimal		shorter = *number;

	if (number->ndigits < 2)
		return false;

	shorter.digits = digits;
	shorter.ndigits = number->ndigits - 1;
	memcpy(digits, number->digits, shorter.ndigits);

	if (!decimal_denotes(&shorter, value))
	{
		/* the neighbour above: add one to the last digit that isn't a nine */
		while (shorter.ndigits > 0 && digits[shorter.ndigits - 1] == '9')
			shorter.ndigits--;
		if (shorter.ndigits > 0)
			digits[shorter.ndigits - 1]++;
		else
		{
			digits[shorter.ndigits++] = '1';
			shorter.point++;
		}
		if (!decimal_denotes(&shorter, value))
			return false;
	}

	while (digits[shorter.ndigits - 1] == '0')
		shorter.ndigits--;
	memcpy(number->digits, digits, shorter.ndigits);
	number->ndigits = shorter.ndigits;
	number->point = shorter.point;
	return true;
}

/*
 * Append the token, a C string, as the double that is nearest to it, in
 * RFC 8785's form.  Returns false, with nothing appended, if it is beyond the
 * range of a double.
 */
bool
es6_append_double(StringInfo out, const char *token)
{
	char		shortest[DOUBLE_SHORTEST_DECIMAL_LEN] = "";
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];
	Decimal		number;
	double		value = strtod(token, NULL);

	if (isinf(value))
		return false;

	decimal_read(shortest, double_to_shortest_decimal_bufn(value, shortest),
				 digits, &number);
	while (decimal_shorten(&number, fabs(value)))
		 /* keep going */ ;
	decimal_write(out, &number);
	return true;
}

/*
 * Append the token's value with all its digits, in the same layout.  Returns
 * false, with nothing appended, if its exponent is out of range: what can't
 * be told apart must not be compared.
 */
bool
es6_append_exact(StringInfo out, const char *token, int len)
{
	char		buffer[64];
	char	   *digits = len <= (int) sizeof(buffer) ? buffer : palloc(len);
	Decimal		number;
	bool		in_range;

	decimal_read(token, len, digits, &number);
	in_range = (number.point - 1 >= PG_INT32_MIN &&
				number.point - 1 <= PG_INT32_MAX);
	if (in_range)
		decimal_write(out, &number);

	if (digits != buffer)
		pfree(digits);
	return in_range;
}
