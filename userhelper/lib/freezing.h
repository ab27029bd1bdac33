/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A drive on its way to being frozen: has it got there, and if not, why. One
 * rule and one wording for spicebdd and for spicebdctl without it.
 */
#ifndef SPICEBD_FREEZING_H
#define SPICEBD_FREEZING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernel.h"

#define FREEZE_TIMEOUT_DEFAULT	60	/* seconds; also for what has no limit afterwards */
#define FREEZE_HOLDER_DEFAULT	"admin"

/**
 * struct freezing - one drive
 * @index, @name: which
 * @holder: for whom
 * @generation, @medium: as it was when it began
 * @end: now_ms() clock, when its limit comes; 0 none
 * @frozen: it was, at the last look
 * @why: why it is not frozen yet, or will not be
 */
struct freezing {
	uint32_t index;
	char name[32];
	char holder[SPICEBD_HOLDER_NAME_MAX + 1];
	uint64_t generation;
	bool medium, frozen;
	long long end;
	char why[240];
};

/**
 * freezing_holder_ok() - letters, digits, '.', '_', '-', '@', ':', 31 at most
 *
 * The kernel takes any name; ours have to stand in lines and commands.
 */
bool freezing_holder_ok(const char *name);

const char *freeze_str(uint32_t state);

/* NULL: it is no holder. */
const struct kernel_holder *freezing_find(const struct kernel_drive *d, const char *holder);

/* "backup since 12 s, for 48 s more; admin since 3 s" */
const char *freezing_by(const struct kernel_drive *d, char *out, size_t size);

void freezing_begin(struct freezing *f, const struct kernel_drive *d, const char *holder);

/**
 * freezing_look() - how far it is
 * @d: the drive as a manager sees it; NULL: it was deleted
 *
 * Return: 1 frozen; 0 not yet; -errno: it will not be, @f->why says why
 */
int freezing_look(struct freezing *f, const struct kernel_drive *d);

/**
 * freezing_culprit() - of several that were to be frozen, the one to name
 * @r: what freezing_look() said of each; at least one of them an error
 *
 * The limit comes to all of them because of one.
 */
unsigned int freezing_culprit(const struct freezing *f, const int *r, unsigned int n);

#endif /* SPICEBD_FREEZING_H */
