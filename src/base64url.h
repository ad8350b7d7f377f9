/*-------------------------------------------------------------------------
 *
 * base64url.h
 *		Bytes as characters that need no escaping in a URL (RFC 4648, 5).
 *
 *-------------------------------------------------------------------------
 */
#ifndef IDEMPOTENCY_BASE64URL_H
#define IDEMPOTENCY_BASE64URL_H

/* characters that stand for n bytes; there is no padding */
#define BASE64URL_LENGTH(n) (((n) * 4 + 2) / 3)

extern void base64url_encode(const uint8 *bytes, int n, char *chars);
extern bool base64url_decode(const char *chars, uint8 *bytes, int n);

#endif							/* IDEMPOTENCY_BASE64URL_H */
