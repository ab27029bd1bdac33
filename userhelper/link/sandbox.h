/* SPDX-License-Identifier: GPL-2.0-only */
/* What a crashed or taken-over link can still do: as little as possible. */
#ifndef SPICEBD_LINK_SANDBOX_H
#define SPICEBD_LINK_SANDBOX_H

#include <stdbool.h>

/**
 * sandbox_enter() - give up everything that serving needs no more
 * @user: to become, when started as root; NULL: spicebd-link, else nobody
 * @memory_max: MiB of private memory
 *
 * Call when all files are read and all sockets bound. Return: false (logged)
 * when a part failed; the program must not go on then.
 */
bool sandbox_enter(const char *user, unsigned int memory_max);

#endif /* SPICEBD_LINK_SANDBOX_H */
