/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * /run/spicebd/mount/spicebdN: "DEVICE PATH" a line for each mount of the
 * drive that is ours; no file, no mount. spicebdd reads it: a medium whose
 * only users are our mounts needs only be asked for.
 */
#ifndef SPICEBD_MOUNT_MARKER_H
#define SPICEBD_MOUNT_MARKER_H

#include <stdbool.h>
#include <stddef.h>

#include "device.h"

#define MARKER_DIR	"/run/spicebd/mount"

/**
 * marker_set() - a mount of this device is ours from now on
 * @path: where; NULL: there is none any more
 * Return: 0 or -errno
 */
int marker_set(const struct device *d, const char *path);

/**
 * marker_get() - where is this device mounted by us?
 */
bool marker_get(const struct device *d, char *path, size_t size);

#endif /* SPICEBD_MOUNT_MARKER_H */
