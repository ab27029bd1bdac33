/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_MOUNT_PROBE_CHILD_H
#define SPICEBD_MOUNT_PROBE_CHILD_H

/**
 * probe_child() - the whole life of the child: confine, probe, write, exit
 * @fd: the device
 * @out: one struct found is written there
 */
__attribute__((noreturn))
void probe_child(int fd, int out);

#endif /* SPICEBD_MOUNT_PROBE_CHILD_H */
