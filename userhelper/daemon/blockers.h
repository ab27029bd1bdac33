/* SPDX-License-Identifier: GPL-2.0-only */
/* Which operation on a drive is refused because of which other, in one table. */
#ifndef SPICEBD_BLOCKERS_H
#define SPICEBD_BLOCKERS_H

#include <stdbool.h>

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
};

enum blocker {
	BLOCK_INSERT	= 1 << 0,	/* an insert is in progress */
	BLOCK_DELETE	= 1 << 1,	/* the drive is being deleted */
	BLOCK_ADOPT	= 1 << 2,	/* the medium of an earlier spicebdd is being adopted */
	BLOCK_EXPORT	= 1 << 3,	/* the medium is exported, and has clients there */
	BLOCK_FREEZE	= 1 << 4,	/* it is frozen: not among drive.blockers, the kernel knows */
	BLOCK_HELD	= 1 << 5,	/* ... by more than being made held */
	BLOCK_MIGRATE	= 1 << 6,	/* it is being migrated, from here or to here */
};

/**
 * blockers_check() - whether an operation may begin now
 * @force: what it would end by itself is no reason against it
 * Return: 0, or -EBUSY with the reason in @e
 */
int blockers_check(const struct drive *d, enum operation op, bool force, struct derr *e);

/* The daemon is ending: nothing new begins. */
void blockers_stop(void);
bool blockers_stopped(void);

#endif /* SPICEBD_BLOCKERS_H */
