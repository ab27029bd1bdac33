/* SPDX-License-Identifier: GPL-2.0-only */
/* Sets of descriptors that peers passed (add-fd), as /dev/fdset/N. Main thread. */
#ifndef SPICEBD_FDSET_H
#define SPICEBD_FDSET_H

#include "derr.h"

#define FDSETS_MAX	256	/* sets at one time */

/**
 * fdset_add() - add a descriptor to a set
 * @owner: peer whose set it is; goes with it
 * @set: number of the set, -1: a new one
 * @fd: taken over, also on error
 * @set_out, @fd_out: out: numbers for the answer
 */
int fdset_add(const void *owner, int set, int fd, int *set_out, int *fd_out, struct derr *e);

/* @fd: -1: the whole set */
int fdset_remove(const void *owner, int set, int fd, struct derr *e);
void fdset_owner_gone(const void *owner);

/* A duplicate of the descriptor behind /dev/fdset/N: writable if one is. */
int fdset_dup(const char *path, struct derr *e);

#endif /* SPICEBD_FDSET_H */
