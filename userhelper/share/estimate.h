/* SPDX-License-Identifier: GPL-2.0-only */
/* How large a folder's image will be, before it is made. */
#ifndef SPICEBD_SHARE_ESTIMATE_H
#define SPICEBD_SHARE_ESTIMATE_H

#include <stdbool.h>
#include <stdint.h>

/**
 * struct estimate - what was found
 * @bytes: of the image, about
 * @files: regular files
 * @more: there were too many to look at all
 */
struct estimate {
	uint64_t bytes;
	unsigned int files;
	bool more;
};

/**
 * estimate_folder() - look at all that is in a folder
 * @block: what a file's size is rounded up to
 *
 * Links are not followed, as they are not in the image.
 */
void estimate_folder(const char *path, unsigned int block, struct estimate *e);

/**
 * estimate_room() - look whether an image of so many bytes can be made
 * Return: NULL, or why not, to be freed by g_free()
 */
char *estimate_room(const char *path, uint64_t bytes);

#endif /* SPICEBD_SHARE_ESTIMATE_H */
