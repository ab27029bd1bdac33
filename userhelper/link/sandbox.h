/* SPDX-License-Identifier: GPL-2.0-only */
/* What a crashed or taken-over link can still do: as little as possible. */
#ifndef SPICEBD_LINK_SANDBOX_H
#define SPICEBD_LINK_SANDBOX_H

#include <stdbool.h>

/**
 * sandbox_drop() - limits, user, capabilities, no new privileges
 * @user: to become, when started as root; NULL: spicebd-link, else nobody
 * @memory_max: MiB of private memory
 *
 * Call when all files are read and all sockets bound. Return: false (logged)
 * when a part failed; the program must not go on then.
 */
bool sandbox_drop(const char *user, unsigned int memory_max);

/**
 * sandbox_seal() - from here on only the system calls that serving needs
 */
bool sandbox_seal(void);

/**
 * sandbox_seal_opener() - only those that opening ports needs
 */
bool sandbox_seal_opener(void);

#endif /* SPICEBD_LINK_SANDBOX_H */
