/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_LINK_GUARD_H
#define SPICEBD_LINK_GUARD_H

/**
 * guard_set() - writes to this socket do not fail until the loop runs again
 *
 * Call when libspice-server is about to set up a channel on it.
 */
void guard_set(int fd);

#endif /* SPICEBD_LINK_GUARD_H */
