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
 * @keep: a medium in the open tray is there because we were told so
 * @failed: why the last medium was ejected with errors, or NULL
 */
struct drive {
	uint32_t index;
	bool present;
	struct kernel_drive k;
	struct medium *medium;
	unsigned int blockers;
	struct task *op;
	bool keep;
	char *failed;
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

int drive_eject(struct drive *d, bool force, struct derr *e);

/**
 * drive_eject_asked() - eject without force, giving its user time to let go
 * @done: called once, now or within EJECT_PATIENCE_MS
 *
 * The kernel tells the user of the medium that it is wanted: an automounter
 * unmounts, a probe of udev's ends by itself.
 */
#define EJECT_PATIENCE_MS	2000
void drive_eject_asked(struct drive *d, void (*done)(int r, const struct derr *e, void *arg),
		       void *arg);
int drive_open_tray(struct drive *d, bool force, struct derr *e);
int drive_close_tray(struct drive *d, struct derr *e);
int drive_remove_medium(struct drive *d, struct derr *e);

/* The medium cannot go on: out with it, its users get errors. */
void drive_fail(struct drive *d, const char *why);

bool drive_has_tray(const struct drive *d);
bool drive_has_medium(const struct drive *d);
const char *drive_state_str(const struct drive *d);

/* An error of the kernel's, made one of the user's. */
int drive_err(const struct drive *d, const struct kernel_err *k, const char *what,
	      struct derr *e);

#endif /* SPICEBD_DRIVE_H */
