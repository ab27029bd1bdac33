/* SPDX-License-Identifier: GPL-2.0-only */
/* Private to linkconf*.c: where configurations are looked for, in order. */
#ifndef SPICEBD_LINKCONF_DIRS_H
#define SPICEBD_LINKCONF_DIRS_H

#include <stdbool.h>
#include <stddef.h>

/* Directory number @i, 0 being the one that is written to; false: no more. */
bool linkconf_dir(int i, char *buf, size_t size);

#endif /* SPICEBD_LINKCONF_DIRS_H */
