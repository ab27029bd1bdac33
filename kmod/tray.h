/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd: tray, medium and lock of a drive, as a pure state machine
 *
 * Calls nothing and allocates nothing, so the same file is compiled into a
 * userspace test.
 */
#ifndef SPICEBD_TRAY_H
#define SPICEBD_TRAY_H

#ifdef __KERNEL__
#include <linux/errno.h>
#include <linux/types.h>
#else
#include <errno.h>
#include <stdbool.h>
#endif

/**
 * struct sbd_tray - the state
 * @has_tray: false for a slot (disk personality): it is always closed
 * @open: the tray is out
 * @medium: there is a medium in the drive or on the open tray
 * @locked: the user of the drive locked the door (never without a tray)
 * @locked_admin: the administrator locked the drive
 */
struct sbd_tray {
	bool has_tray;
	bool open;
	bool medium;
	bool locked;
	bool locked_admin;
};

/**
 * enum sbd_verb - what can be asked of it
 * @SBD_VERB_OPEN: open the tray
 * @SBD_VERB_CLOSE: close the tray
 * @SBD_VERB_INSERT: put a medium in
 * @SBD_VERB_REMOVE: take the medium out
 * @SBD_VERB_EJECT: open the tray, if there is one, and take the medium out
 * @SBD_VERB_LOCK: the drive's user locks the door
 * @SBD_VERB_UNLOCK: ... unlocks it
 * @SBD_VERB_LOCK_ADMIN: the administrator locks the drive
 * @SBD_VERB_UNLOCK_ADMIN: ... unlocks it; with force the door too
 *
 * A change of medium is OPEN, REMOVE, INSERT, CLOSE. A lock keeps the medium
 * from being taken: it holds a closed tray shut, or a medium in its slot.
 */
enum sbd_verb {
	SBD_VERB_OPEN,
	SBD_VERB_CLOSE,
	SBD_VERB_INSERT,
	SBD_VERB_REMOVE,
	SBD_VERB_EJECT,
	SBD_VERB_LOCK,
	SBD_VERB_UNLOCK,
	SBD_VERB_LOCK_ADMIN,
	SBD_VERB_UNLOCK_ADMIN,
	SBD_NR_VERBS
};

/* What the caller knows, and how much it wants it. */
#define SBD_ARG_FORCE		(1U << 0)	/* whoever uses it */
#define SBD_ARG_IN_USE		(1U << 1)	/* somebody else uses the medium */
#define SBD_ARG_STALE		(1U << 2)	/* ... since before a forced eject */
#define SBD_ARG_SELF		(1U << 3)	/* the asker has it open itself */

/* What happened, a set. */
#define SBD_TRAY_MOVED		(1U << 0)
#define SBD_TRAY_READABLE	(1U << 1)	/* a medium can be read from now on */
#define SBD_TRAY_UNREADABLE	(1U << 2)	/* ... can no longer be read */
#define SBD_TRAY_REMOVED	(1U << 3)	/* a medium left the drive */
#define SBD_TRAY_REQUEST	(1U << 4)	/* tell the drive's user that it is wanted */
#define SBD_TRAY_LOCK		(1U << 5)	/* a lock changed */

int sbd_tray_do(struct sbd_tray *t, enum sbd_verb verb, unsigned int args,
		unsigned int *happened);

unsigned int sbd_tray_args(const struct sbd_tray *t, unsigned int args,
			   unsigned int users, bool stale);
bool sbd_tray_goes_stale(const struct sbd_tray *t, unsigned int args,
			 unsigned int happened, unsigned int users);

#endif /* SPICEBD_TRAY_H */
