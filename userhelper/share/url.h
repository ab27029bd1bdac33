/* SPDX-License-Identifier: GPL-2.0-only */
/* Addresses as media: http:// and https://, which nbdkit reads. */
#ifndef SPICEBD_SHARE_URL_H
#define SPICEBD_SHARE_URL_H

#include <stdbool.h>

/* Whether it is meant as an address and not as a path. */
bool url_is(const char *text);

/**
 * url_check() - look whether an address can be shared
 * Return: NULL, or why not, to be freed by g_free()
 */
char *url_check(const char *text);

/* What a medium from there is called, as far as its address tells; to be freed. */
char *url_base(const char *text);

/**
 * url_unless_changed() - a header that makes a server refuse a later content
 *
 * RFC 9110, 13.1.4. A server that knows no times does not heed it. To be freed.
 */
char *url_unless_changed(void);

#endif /* SPICEBD_SHARE_URL_H */
