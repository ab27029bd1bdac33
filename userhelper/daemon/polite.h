/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Asking a drive's user for the medium. The kernel tells him that it is wanted:
 * an automounter unmounts, a probe of udev's ends by itself. Main thread.
 */
#ifndef SPICEBD_POLITE_H
#define SPICEBD_POLITE_H

#include "derr.h"

struct drive;

enum polite_verb {
	POLITE_EJECT,
	POLITE_OPEN,
	POLITE_REMOVE,
};

#define POLITE_TIMEOUT_MAX	3600	/* seconds */

typedef void (*polite_done_fn)(int r, const struct derr *e, void *arg);

/**
 * polite_patience() - for how long a drive's user is waited for, ms
 * @timeout: seconds that were asked for, or -1
 *
 * What our own automounter mounted it unmounts, which may take writing back.
 */
int polite_patience(const struct drive *d, int timeout);

/**
 * polite_drive() - a verb without force, which waits for the drive's user
 * @timeout: seconds, or -1
 * @done: called once, now or within polite_patience()
 */
void polite_drive(struct drive *d, enum polite_verb verb, int timeout, polite_done_fn done,
		  void *arg);

/* The kernel told something of the drive; it may be free now, or deleted. */
void polite_event(struct drive *d);
/* The same from the loop: for who may be called by a verb. */
void polite_event_later(struct drive *d);

#endif /* SPICEBD_POLITE_H */
