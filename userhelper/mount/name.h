/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_MOUNT_NAME_H
#define SPICEBD_MOUNT_NAME_H

#include <stddef.h>

#include "found.h"

#define NAME_LEN_MAX	64	/* bytes, a collision's suffix not counted */

/**
 * mount_name() - the name of a mount point
 * @s: the file system: its label, else its UUID
 * @device: the name if it has neither
 * @out: out: one path component of UTF-8: no '/', no control characters, no
 *	blanks but single inner ones, no leading '.', '-' or '~', nothing that a
 *	shell or systemd's escaping would have to be told about twice
 * @size: of @out, at least NAME_LEN_MAX + 1
 */
void mount_name(const struct found_signature *s, const char *device, char *out, size_t size);

#endif /* SPICEBD_MOUNT_NAME_H */
