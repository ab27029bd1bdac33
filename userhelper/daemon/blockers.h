/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which operation on a drive is refused because of what, in one table: of what somebody
 * does with it, and of what it is. Nothing else in spicebdd says that a drive is busy;
 * what only the kernel knows, whether it is open or locked, the kernel refuses.
 */
#ifndef SPICEBD_BLOCKERS_H
#define SPICEBD_BLOCKERS_H

#include <stdbool.h>
#include <stddef.h>

#include "derr.h"

struct drive;

enum operation {
	OP_INSERT,
	OP_CHANGE,
	OP_EJECT,
	OP_REMOVE,
	OP_TRAY,
	OP_DELETE,
	OP_FREEZE,
	OP_MIGRATE,
	OP_SNAPSHOT,
	OP_RESIZE,
	OPERATIONS
};

enum blocker {
	BLOCK_INSERT	= 1 << 0,	/* an insert is in progress */
	BLOCK_DELETE	= 1 << 1,	/* the drive is being deleted */
	BLOCK_ADOPT	= 1 << 2,	/* the medium of an earlier spicebdd is being adopted */
	BLOCK_EXPORT	= 1 << 3,	/* the medium is exported, and has clients there */
	BLOCK_FREEZE	= 1 << 4,	/* it is frozen: not among drive.blockers, the kernel knows */
	BLOCK_HELD	= 1 << 5,	/* ... by more than being made held */
	BLOCK_MIGRATE	= 1 << 6,	/* it is being migrated, from here or to here */
	BLOCK_SNAPSHOT	= 1 << 7,	/* it has a snapshot: snapshot.c knows */
	/* What the drive is. None of these is among drive.blockers. */
	BLOCK_LINK	= 1 << 8,	/* its medium's far end is lost */
	BLOCK_EMPTY	= 1 << 9,	/* no medium that spicebdd serves */
	BLOCK_FULL	= 1 << 10,	/* a medium */
	BLOCK_SIZE	= 1 << 11,	/* a medium's size is what it is: always */
};

/**
 * blockers_check() - whether an operation may begin now
 * @force: what it would end by itself is no reason against it
 *
 * What is told first is what somebody does with the drive, then what it is.
 *
 * Return: 0, or with the reason in @e: -EBUSY, or of what the drive is -ENOMEDIUM,
 *	-EEXIST (there is a medium), -ENOTCONN, -EOPNOTSUPP
 */
int blockers_check(const struct drive *d, enum operation op, bool force, struct derr *e);

/* The same for one that has begun, and is a blocker itself: only of what the drive is. */
int blockers_check_begun(const struct drive *d, enum operation op, bool force, struct derr *e);

/**
 * struct blocker_info - a reason that there is now
 * @owner: whose it is: "insert", "export NAME", "holder NAME", …
 * @text: the reason, as an error would say it
 * @blocks: bits of enum operation
 */
struct blocker_info {
	const char *owner, *text;
	unsigned int blocks;
};

/* All but that there is, or is no, medium. @fn's strings are its own only while it runs. */
void blockers_each(const struct drive *d,
		   void (*fn)(const struct blocker_info *i, void *arg), void *arg);

/* "eject", as in a list of operations; also the words of QMP. */
const char *operation_str(enum operation op);

/* The daemon is ending: nothing new begins. */
void blockers_stop(void);
bool blockers_stopped(void);

#endif /* SPICEBD_BLOCKERS_H */
