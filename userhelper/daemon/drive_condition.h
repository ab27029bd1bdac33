/* SPDX-License-Identifier: GPL-2.0-only */
/* What a drive is, in one word, and why. Main thread. */
#ifndef SPICEBD_DRIVE_CONDITION_H
#define SPICEBD_DRIVE_CONDITION_H

#include <stddef.h>

struct drive;

/* The state of spicebd-query. */
const char *drive_condition(const struct drive *d);
/* Of an error, or what is elsewhere; NULL: it is just empty. */
const char *drive_why_empty(const struct drive *d, char *buf, size_t size);
/* NULL: nothing to say. Names files, servers and hosts. */
const char *drive_cause(const struct drive *d, char *buf, size_t size);

#endif /* SPICEBD_DRIVE_CONDITION_H */
