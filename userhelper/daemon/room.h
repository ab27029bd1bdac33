/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Making room in a drive for another medium, when that one is ready: the old
 * one goes, the tray opens, a drive that its old users will not leave is made
 * anew.
 */
#ifndef SPICEBD_ROOM_H
#define SPICEBD_ROOM_H

#include <stdbool.h>

#include "derr.h"
#include "work.h"

struct drive;

/**
 * struct room - what is asked for
 * @d: the drive, blocked for others
 * @replace: a medium that is in it may be put out
 * @force: ... whoever uses it
 * @on_tray: the tray is to be open already
 * @patience: seconds for the old one's user to let go, or -1
 * @r, @free, @locked: private
 * @e: why not
 */
struct room {
	struct drive *d;
	bool replace, force, on_tray;
	int patience;
	int r;
	bool free, locked;
	struct derr e;
};

/* Whether the drive could take a medium now, as far as force goes. Main thread. */
int room_check(struct room *room);

/**
 * room_make() - in a task
 *
 * Nothing has happened to the old medium when this fails, unless by force.
 */
int room_make(struct room *room, struct task *t);

#endif /* SPICEBD_ROOM_H */
