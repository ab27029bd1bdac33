/* SPDX-License-Identifier: GPL-2.0-only */
/* Where the relay meets QEMU: sockets that it listens on, or connects to. */
#ifndef SPICEBD_LINK_RELAY_GUEST_H
#define SPICEBD_LINK_RELAY_GUEST_H

#include <stdbool.h>
#include <stdint.h>

/**
 * guests_connect() - QEMU listens
 * @prefix: of its sockets' paths, but for ".N"
 * @seal: restrict the process that connects
 * Return: false (logged)
 */
bool guests_connect(const char *prefix, bool seal);

/* relay_listen.c: the listening socket of a port, or -1: QEMU listens */
int guests_listener(uint32_t number);

#endif /* SPICEBD_LINK_RELAY_GUEST_H */
