/* SPDX-License-Identifier: GPL-2.0-only */
/* Mounting by the kernel's mount API: no program of a file system is run. */
#ifndef SPICEBD_MOUNT_MNT_H
#define SPICEBD_MOUNT_MNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "conf.h"

/**
 * struct mnt - a mount that is ours
 * @id: the kernel's, while it is mounted
 * @dev: of the file system
 * @path: where
 * @writable: something may have to be written before it can go
 */
struct mnt {
	int id;
	dev_t dev;
	bool writable;
	char path[400];
};

/**
 * mnt_new() - make the mount, attached to nothing yet
 * @err: out, when negative: what the kernel says
 * Return: descriptor or -errno
 */
int mnt_new(const char *type, const char *source, bool writable, const struct conf *c, char *err,
	    size_t size);

/**
 * mnt_attach() - show it
 * @m: path, dev and writable are filled in; gets the id
 * @fd: from mnt_new(); @at: the directory
 * Return: 0 or -errno, also when it is not of the device that was meant
 */
int mnt_attach(struct mnt *m, int fd, int at);

/**
 * mnt_mounted() - is it still there?
 */
bool mnt_mounted(const struct mnt *m);

/**
 * mnt_find() - what is mounted from @dev at @path, without having made it
 */
bool mnt_find(struct mnt *m, const char *path);

/**
 * mnt_away() - write back and unmount; may take as long as the medium does
 * @detach: nobody can use it any more, so nobody is asked
 * Return: 0 or -errno
 */
int mnt_away(const struct mnt *m, bool detach);

#endif /* SPICEBD_MOUNT_MNT_H */
