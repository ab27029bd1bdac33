/* SPDX-License-Identifier: GPL-2.0-only */
/* What the kernel calls a drive's condition, in words. */
#ifndef SPICEBD_CONDITION_H
#define SPICEBD_CONDITION_H

#include <stddef.h>

#include "kernel.h"

/* "ready", "empty", ...; the words of sysfs */
const char *condition_str(uint32_t condition);

/* Why, as far as the kernel knows; "" when there is nothing to say. */
const char *condition_cause(const struct kernel_drive *d, char *out, size_t size);

/* "WHY: requests fail in 42 s": for how long those that wait still do. */
void condition_wait(const struct kernel_drive *d, const char *why, char *out, size_t size);

/* "WHY, 12 s ago: insert another, or eject": of an error, or what moved. */
void condition_verdict(const struct kernel_drive *d, const char *why, char *out, size_t size);

#endif /* SPICEBD_CONDITION_H */
