/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_MOUNT_OWNER_H
#define SPICEBD_MOUNT_OWNER_H

#include "conf.h"

/**
 * owner_choose() - who mounts what is inserted now
 * Return: "spicebd", "udisks" or "no"
 */
const char *owner_choose(const struct conf *c);

#endif /* SPICEBD_MOUNT_OWNER_H */
