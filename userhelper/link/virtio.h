/* SPDX-License-Identifier: GPL-2.0-only */
/* The virtio-serial ports of a guest: one port and one session for each drive. */
#ifndef SPICEBD_LINK_VIRTIO_H
#define SPICEBD_LINK_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#include "session.h"
#include "transport.h"

struct virtio_hooks {
	void (*client)(bool came, const char *who);
	void (*emit)(struct link_msg *msg, int fd);
};

/**
 * virtio_start() - be ready for ports
 * @prefix: path of the ports but for ".N"
 * @sandbox: restrict the process that opens them
 *
 * Between sandbox_drop() and sandbox_seal(). Return: false (logged)
 */
bool virtio_start(const char *prefix, bool sandbox, const struct session_params *params,
		  const struct virtio_hooks *hooks);

extern const struct transport virtio_transport;

#endif /* SPICEBD_LINK_VIRTIO_H */
