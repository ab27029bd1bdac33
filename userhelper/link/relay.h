/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The relay: between the ports of our Spice listener and the virtio-serial ports
 * of a guest of this machine, behind QEMU's -chardev socket. Port N there is
 * port N here. Hello, epoch and credit are between the guest's link and the
 * share; the relay passes on whole frames of their session and nothing else.
 */
#ifndef SPICEBD_LINK_RELAY_H
#define SPICEBD_LINK_RELAY_H

#include <stdbool.h>

#include "end.h"
#include "linkconf.h"

/**
 * relay_bind() - listen for QEMU, where the configuration says so
 *
 * With the rights that we were started with. Return: false (logged)
 */
bool relay_bind(const struct linkconf *c);

/**
 * relay_start() - be ready for guests, and make the ports
 * @sandbox: restrict the process that connects to QEMU
 *
 * Between sandbox_drop() and sandbox_seal(), after ports_init(). Return: false (logged)
 */
bool relay_start(const struct linkconf *c, bool sandbox);

#endif /* SPICEBD_LINK_RELAY_H */
