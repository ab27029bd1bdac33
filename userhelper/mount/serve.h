/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_MOUNT_SERVE_H
#define SPICEBD_MOUNT_SERVE_H

#include "device.h"

/**
 * serve() - the service of one device: mount, wait, unmount
 *
 * SIGUSR1: somebody wants the medium back. SIGHUP: udev has seen a change.
 * SIGTERM: the end; the medium may be gone already.
 * Return: exit status
 */
int serve(const struct device *dev);

/**
 * serve_clean() - what a process of the above that was killed has left
 * Return: exit status
 */
int serve_clean(const struct device *dev);

#endif /* SPICEBD_MOUNT_SERVE_H */
