/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_FILE_H
#define SPICEBD_FILE_H

#include <stddef.h>

/**
 * file_replace() - give a file new content, whole or not at all
 *
 * Written beside it as PATH.new with mode 0600, never through a link, synced,
 * then renamed: a reader and a crash see the old content or the new one.
 * Return: 0 or -errno, the old content then being in place
 */
int file_replace(const char *path, const void *data, size_t len);

#endif /* SPICEBD_FILE_H */
