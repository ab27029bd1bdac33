/* SPDX-License-Identifier: GPL-2.0-only */
/* The parts of freeze and thaw; Documentation/freeze.rst. */
#ifndef SPICEBD_CTL_FREEZE_H
#define SPICEBD_CTL_FREEZE_H

#include "ctl.h"

#define FS_MAX	64

/**
 * struct fs - a file system mounted from a drive
 * @dev: of its superblock
 * @where: one place where it is mounted, for people
 * @fd: open on it
 */
struct fs {
	dev_t dev;
	char type[32];
	char where[256];
	int fd;
};

struct fs_list {
	struct fs of[FS_MAX];
	unsigned int n;
};

/**
 * fs_find() - the writable file systems mounted from a drive or its partitions
 * @l: out: in the order in which they were mounted; fs_close() it in any case
 *
 * In all mount namespaces that can be seen. Return: 0 or -errno
 */
int fs_find(const char *drive, struct fs_list *l, struct fault *f);
void fs_close(struct fs_list *l);

/**
 * fs_stacked() - refuse what could not be frozen from here
 *
 * Device mapper, md, loop devices, swap, a btrfs over several devices: what lies
 * upon them would go on writing, or hang.
 */
int fs_stacked(const char *drive, struct fault *f);

/* A process that freezes a drive's file systems, and thaws them after the drive. */
struct fskeep;

/**
 * fskeep_start() - freeze the file systems of a drive
 * @deadline: now_ms() clock
 * @out: out: NULL with 0: it has none
 */
int fskeep_start(const struct kernel_drive *d, const char *holder, long long deadline,
		 struct fskeep **out, struct fault *f);

/* The drive is frozen: they are thawed when it is thawed, whoever does that. */
int fskeep_commit(struct fskeep *k);

/* It will not be: they are thawed now. */
void fskeep_abort(struct fskeep *k);

/**
 * fskeep_finish() - a drive was thawed: wait until its file systems are
 *
 * If the process that kept them was killed they are thawed here.
 */
int fskeep_finish(const char *drive, struct fault *f);

/* Whether file systems of the drive are kept frozen, or were left so. */
bool fskeep_any(const char *drive);

/* freeze_kernel.c: without spicebdd. @limit: seconds, 0 none */
int freeze_by_kernel(const struct kernel_drive *d, unsigned int n, const char *holder,
		     uint32_t limit, struct fault *f);

/* A manager's handle; NULL: @f */
struct kernel *freeze_manager(struct fault *f);

#endif /* SPICEBD_CTL_FREEZE_H */
