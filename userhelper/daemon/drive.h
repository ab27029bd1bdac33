/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One object for each drive of the kernel's, following the kernel's events. The
 * kernel's word is the truth; what is kept here is a copy of it, and what the
 * kernel does not know: the medium's origin. Main thread only.
 */
#ifndef SPICEBD_DRIVE_H
#define SPICEBD_DRIVE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "blockers.h"
#include "derr.h"
#include "kernel.h"
#include "medium.h"
#include "work.h"

/**
 * struct drive - a drive
 * @k: as the kernel last told
 * @medium: what is in it through us, or NULL
 * @blockers: operations under way, BLOCK_*
 * @op: the task of an insert, to be cancelled by force
 * @renewing: that task deletes it, to make it anew under the same number
 * @keep: a medium in the open tray is there because we were told so
 * @failed: why the last medium was ejected with errors, or NULL
 * @moved: where it went by a migration, or NULL
 */
struct drive {
	uint32_t index;
	bool present;
	struct kernel_drive k;
	struct medium *medium;
	unsigned int blockers;
	struct task *op;
	bool renewing;
	bool keep;
	char *failed;
	char *moved;
};

extern struct kernel *drives_kernel;

/**
 * drives_init() - connect to the kernel, become a manager, read all drives
 *
 * Return: 0 or -errno
 */
int drives_init(struct derr *e);

/* Follow events from now on; media that the kernel has are known by then. */
void drives_follow(void);

struct drive *drive_at(uint32_t index);
struct drive *drive_first(void);
struct drive *drive_next(struct drive *d);
struct drive *drive_find(const char *name, struct derr *e);

/* Ask the kernel anew. */
int drive_refresh(struct drive *d, struct derr *e);
int drive_add(const struct kernel_drive_new *args, struct drive **out, struct derr *e);
int drive_delete(struct drive *d, bool force, struct derr *e);

/**
 * drive_renew_begin() - delete a drive whose old users do not let go
 * drive_renew_end() - make it anew, with the same number and limits
 *
 * In between, drive.renewing is set and drive.present says whether the kernel
 * has done the first.
 */
int drive_renew_begin(struct drive *d, struct derr *e);
int drive_renew_end(struct drive *d, struct derr *e);

/*
 * The verbs. Without force, -EBUSY and -EINPROGRESS: the user of the drive was
 * asked for the medium; polite.h waits for him.
 */
int drive_eject(struct drive *d, bool force, struct derr *e);
int drive_open_tray(struct drive *d, bool force, struct derr *e);
int drive_close_tray(struct drive *d, struct derr *e);
int drive_remove_medium(struct drive *d, bool force, struct derr *e);

/* The administrator's lock; with @force the one of the drive's user is opened, too. */
int drive_lock(struct drive *d, struct derr *e);
int drive_unlock(struct drive *d, bool force, struct derr *e);

bool drive_locked(const struct drive *d);
/* Somebody holds its medium, or locked it. */
bool drive_in_use(const struct drive *d);

/* What the kernel said of a medium that is wanted, in QEMU's words where it has some. */
int drive_in_use_err(const struct drive *d, const struct kernel_err *ke, const char *verb,
		     struct derr *e);

/* The medium cannot go on: out with it, its users get errors. */
void drive_fail(struct drive *d, const char *why);

/* "/dev/spicebd0"; "cdrom" or "disk" */
const char *drive_path(const struct drive *d, char *buf, size_t size);
const char *drive_personality(const struct drive *d);
bool drive_has_tray(const struct drive *d);
bool drive_has_medium(const struct drive *d);

/* An error of the kernel's, made one of the user's. */
int drive_err(const struct drive *d, const struct kernel_err *k, const char *what,
	      struct derr *e);

#endif /* SPICEBD_DRIVE_H */
