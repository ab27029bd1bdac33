/* SPDX-License-Identifier: GPL-2.0-only */
/* Spice passwords in files: one rule for who gives one and who asks for it. */
#ifndef SPICEBD_PASSWORD_H
#define SPICEBD_PASSWORD_H

#include <stddef.h>

#define PASSWORD_MAX	59	/* bytes; Spice's field has 60 with the NUL */

/**
 * password_read() - the first line of a file, without its end
 * @out: empty on error
 * @err: out, on error: one line
 * Return: 0 or -errno; -EINVAL when the line is empty or too long
 */
int password_read(const char *path, char out[PASSWORD_MAX + 1], char *err, size_t errlen);

#endif /* SPICEBD_PASSWORD_H */
