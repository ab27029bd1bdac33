/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Looking at a medium. A stranger made what libblkid parses, so a child does
 * it that has the device's descriptor, a pipe, and no rights at all.
 */
#ifndef SPICEBD_MOUNT_PROBE_H
#define SPICEBD_MOUNT_PROBE_H

#include "found.h"

/**
 * probe() - what is on a device
 * @fd: the device, open for reading; the caller keeps it
 * @seconds: after which the answer is -ETIMEDOUT, and the child is killed
 * @stop: a descriptor: when it gets readable, the answer is -EINTR; or -1
 * Return: 0, @out valid; or -errno
 */
int probe(int fd, int seconds, int stop, struct found *out);

#endif /* SPICEBD_MOUNT_PROBE_H */
