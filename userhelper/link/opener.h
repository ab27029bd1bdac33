/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The opener: a child of the link that can do one thing that the link can not
 * any more, open virtio-serial ports, or connect to the sockets of a QEMU in their
 * place. They come and go while the link runs, and closing one is how its session
 * is ended.
 *
 * A link whose opener has ended or is stuck is of no use: it ends, and is started
 * again with one that works.
 */
#ifndef SPICEBD_LINK_OPENER_H
#define SPICEBD_LINK_OPENER_H

#include <stdbool.h>
#include <stdint.h>

#define OPENER_NUMBERS	256	/* ports are numbered below */

/* What the opener says: one descriptor with error 0, none otherwise. */
struct opener_answer {
	uint32_t number;
	uint32_t tag;		/* of the wish that it answers */
	uint32_t error;		/* it goes on trying; told once for each kind */
	uint32_t is_socket;	/* an end of file is final, as with no port */
};

/**
 * opener_start() - fork it
 * @prefix: path of the ports but for ".N"
 * @seal: restrict its system calls
 *
 * Call with the rights that it shall have, before sandbox_seal().
 * Return: non-blocking SOCK_SEQPACKET socket to it, or -1 (logged)
 */
int opener_start(const char *prefix, bool seal);

/**
 * opener_want() - ask for a port
 * @tag: not 0; replaces a wish for the same port that is not answered yet
 *
 * It is answered when the port can be opened, whenever that is.
 */
void opener_want(int sock, uint32_t number, uint32_t tag);

/* Take the wish back; an answer may be under way. */
void opener_unwant(int sock, uint32_t number);

/**
 * opener_next() - the next answer
 * @fd: out: what was opened, the caller's, or -1
 *
 * Return: false: there is none yet
 */
bool opener_next(int sock, struct opener_answer *a, int *fd);

#endif /* SPICEBD_LINK_OPENER_H */
