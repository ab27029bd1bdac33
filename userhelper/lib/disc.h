/* SPDX-License-Identifier: GPL-2.0-only */
/* Whether a medium is a disc image (ISO 9660 or UDF), by its content. */
#ifndef SPICEBD_DISC_H
#define SPICEBD_DISC_H

#include <stdbool.h>
#include <stddef.h>

#define DISC_SECTOR	2048
#define DISC_START	(16 * DISC_SECTOR)	/* of the volume recognition sequence */
#define DISC_LEN	(32 * DISC_SECTOR)	/* looked at; real ones have 3 to 6 sectors */

/**
 * disc_in_memory() - judge what begins at byte DISC_START of a medium
 * @len: as much as there is; more than DISC_LEN is not needed
 */
bool disc_in_memory(const void *data, size_t len);

/**
 * disc_on_fd() - the same, read from a file or block device
 */
bool disc_on_fd(int fd);

#endif /* SPICEBD_DISC_H */
