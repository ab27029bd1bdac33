/* SPDX-License-Identifier: GPL-2.0-only */
/* One attempt to mount what is in a drive now. */
#ifndef SPICEBD_MOUNT_ATTEMPT_H
#define SPICEBD_MOUNT_ATTEMPT_H

#include <stdbool.h>
#include <stdint.h>

#include "device.h"
#include "mnt.h"

enum attempt {
	ATTEMPT_MOUNTED,	/* and it is ours now */
	ATTEMPT_NOTHING,	/* nothing to mount, not wanted, or broken: told in a line */
	ATTEMPT_LATER,		/* the medium did not answer, or was changed meanwhile */
	ATTEMPT_FAILED,		/* this machine's fault: told in a line */
};

/**
 * struct state - what one process of spicebd-mount cares for
 * @diskseq: the number of the medium of the last attempt
 * @mounted: @mnt is valid, and the mount point @name in the directory @place ours
 * @status: one line for people
 */
struct state {
	struct device dev;
	uint64_t diskseq;
	bool mounted;
	struct mnt mnt;
	int place;
	char name[80];
	char status[400];
};

/**
 * attempt() - look at the medium, and mount it or say why not
 * @stop: readable when there is something more important
 */
enum attempt attempt(struct state *s, int stop);

/**
 * attempt_undo() - the mount is gone: so are its mount point and its mark
 */
void attempt_undo(struct state *s);

#endif /* SPICEBD_MOUNT_ATTEMPT_H */
