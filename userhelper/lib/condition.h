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

#endif /* SPICEBD_CONDITION_H */
