/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What needs privilege, and giving it up.
 *
 * A queue socket's receive buffer has to be forced beyond the system's limit
 * whenever a medium is inserted, long after the rights to do so were given up.
 * So a second process, forked at the start, keeps CAP_NET_ADMIN alone; it makes
 * such sockets, hands them over, and does nothing else: it reads one byte a
 * time, from us.
 */
#ifndef SPICEBD_PRIVS_H
#define SPICEBD_PRIVS_H

#include "derr.h"

/* Receive buffer of a queue socket: sixteen writes of 1 MiB under way. */
#define QUEUE_RCVBUF	(24u << 20)

/* Fork the maker of sockets; before any thread. */
int privs_start_opener(struct derr *e);

/* Hangs up when that process ends: without it no medium can be inserted. */
int privs_opener_fd(void);

/* A queue socket, or -errno. Waits for the other process a second at most. */
int privs_queue_socket(struct derr *e);

/* Without a capability, for good; of this thread and those it makes. */
int privs_drop(struct derr *e);

#endif /* SPICEBD_PRIVS_H */
