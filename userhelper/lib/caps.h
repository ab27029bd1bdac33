/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_CAPS_H
#define SPICEBD_CAPS_H

#include <stdint.h>

/**
 * caps_set() - have these capabilities (of this thread), effective and
 *	permitted, none inheritable, none ambient
 * @caps: bit CAP_x for each
 * Return: 0 or -errno
 */
int caps_set(uint64_t caps);

/**
 * caps_keep() - give up all others, for what is executed, too
 * @caps: bit CAP_x for each; one that this thread has not, it does not get
 * Return: 0 or -errno
 */
int caps_keep(uint64_t caps);

/**
 * caps_drop_bounding() - so that no program executed by uid 0 gets any back
 *
 * Needs CAP_SETPCAP; without it nothing happens.
 */
void caps_drop_bounding(void);

#endif /* SPICEBD_CAPS_H */
