/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_DEATHSIG_H
#define SPICEBD_DEATHSIG_H

#include <sys/types.h>

/**
 * deathsig_kill() - between fork and exec: die by SIGKILL with the parent
 * @parent: its pid, as it was before the fork
 *
 * And whatever is executed then cannot ask for less. nbdkit does, with --single
 * or a socket that it is given: it asks for SIGTERM, upon which it serves its
 * clients to their end, and lets land what a fence has to stop.
 *
 * Async-signal-safe. Return: 0 or -errno; the child should not go on then.
 */
int deathsig_kill(pid_t parent);

#endif /* SPICEBD_DEATHSIG_H */
