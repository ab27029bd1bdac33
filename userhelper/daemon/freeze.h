/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Freeze and thaw, as far as the kernel does not do it: commands that wait for
 * it, names of holders, and the clocks of media. Main thread.
 */
#ifndef SPICEBD_FREEZE_H
#define SPICEBD_FREEZE_H

#include <stdbool.h>
#include <stddef.h>

#include "derr.h"
#include "kernel.h"

struct drive;

bool freeze_held(const struct drive *d);

/* Made held and not released yet, and nobody else keeps it frozen. */
bool freeze_at_start(const struct drive *d);

/* Of those that keep it frozen the first, or "?". */
const char *freeze_first_holder(const struct drive *d);

/* "frozen by backup since 12 s" */
const char *freeze_reason(const struct drive *d, char *out, size_t size);

typedef void (*freeze_done_fn)(int r, const struct derr *e, void *arg);

/**
 * freeze_for() - freeze a drive for a part of spicebdd
 * @limit: seconds; it is thawed then by itself
 * @done: it is frozen, or will not be; may be called before this returns
 */
void freeze_for(struct drive *d, const char *holder, uint32_t limit, freeze_done_fn done,
		void *arg);
/* Return: 0; -errno: it was no holder any more */
int freeze_release(struct drive *d, const char *holder);

/* What the kernel tells of a drive's holders; called for all it tells of a drive. */
void freeze_take(struct drive *d, const struct kernel_drive *k);

/* An event, after freeze_take(); the drive may have been removed. */
void freeze_event(struct drive *d, const struct kernel_drive *k);

/* Events were lost: whatever waits looks again. */
void freeze_look_again(void);

/* spicebdd ends: what was not frozen yet is thawed. */
void freeze_leave(void);

#endif /* SPICEBD_FREEZE_H */
