/* SPDX-License-Identifier: GPL-2.0-only */
/* The directory of the mount points, and the mount points in it. */
#ifndef SPICEBD_MOUNT_PLACE_H
#define SPICEBD_MOUNT_PLACE_H

#include <stddef.h>

/**
 * place_open() - open the directory, making what is missing of its path
 * @path: absolute
 * @err: out, when negative: one line
 *
 * No component is a symbolic link, and each is root's and nobody else's to
 * write, so that no one can put something else there meanwhile.
 * Return: O_PATH descriptor or -errno
 */
int place_open(const char *path, char *err, size_t size);

/**
 * place_make() - a new directory for a mount
 * @name: in: as wanted; out: as made, with a suffix if the name was taken
 * @size: of @name
 * Return: O_PATH descriptor or -errno
 */
int place_make(int place, char *name, size_t size);

/**
 * place_remove() - remove such a directory; one that is not empty stays
 */
void place_remove(int place, const char *name);

#endif /* SPICEBD_MOUNT_PLACE_H */
