/* SPDX-License-Identifier: GPL-2.0-only */
/* Whether, and as what, a device is mounted: no system call in here. */
#ifndef SPICEBD_MOUNT_DECIDE_H
#define SPICEBD_MOUNT_DECIDE_H

#include <stdbool.h>
#include <stddef.h>

#include "conf.h"
#include "found.h"

enum verdict { MOUNT_IT, LEAVE_IT, REFUSE_IT };

/**
 * struct decision - the answer
 * @sig: what to mount, if MOUNT_IT; points into the struct found
 * @why: one line, otherwise. LEAVE_IT: there is nothing to mount. REFUSE_IT:
 *	there is something that somebody might expect to be mounted.
 */
struct decision {
	enum verdict verdict;
	const struct found_signature *sig;
	char why[256];
};

/**
 * decide() - look at the evidence
 * @here: of the device itself
 * @whole: of the drive's whole medium, if @here is a partition's; else NULL
 * @cdrom: the drive's personality
 */
void decide(struct decision *d, const struct conf *c, const struct found *here,
	    const struct found *whole, bool cdrom);

#endif /* SPICEBD_MOUNT_DECIDE_H */
