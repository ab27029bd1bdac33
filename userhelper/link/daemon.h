/* SPDX-License-Identifier: GPL-2.0-only */
/* The private socket to spicebdd; lib/linkproto.h is what is said there. */
#ifndef SPICEBD_LINK_DAEMON_H
#define SPICEBD_LINK_DAEMON_H

#include <stdbool.h>
#include <sys/types.h>

#include "linkproto.h"

struct daemon_hooks {
	void (*came)(void);
	void (*went)(void);
	void (*heard)(const struct link_msg *msg);
};

/**
 * daemon_init() - serve the private socket
 * @listener: SOCK_SEQPACKET, listening
 * @owner: whose processes may connect, besides root's
 * @address: for LINK_READY
 */
bool daemon_init(int listener, uid_t owner, const char *address,
		 const struct daemon_hooks *hooks);

/* Queue a message; takes fd (or -1) in any case. Without a daemon it is dropped. */
void daemon_send(struct link_msg *msg, int fd);

#endif /* SPICEBD_LINK_DAEMON_H */
