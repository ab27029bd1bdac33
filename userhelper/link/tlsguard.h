/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a client may say inside TLS, where the tap cannot look: libspice-server 0.15
 * takes the length of a port's message for an int, allocates too little for a
 * negative one and writes the client's bytes behind it.
 *
 * SSL_read() of the whole program comes here. All that is followed of a
 * connection is where its messages begin.
 */
#ifndef SPICEBD_LINK_TLSGUARD_H
#define SPICEBD_LINK_TLSGUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLSGUARD_MESSAGE_MAX	(1u << 20)	/* far above what any client sends */
#define TLSGUARD_LINK_MAX	4096		/* the link message, with its capabilities */

enum tlsguard_state {
	TLSGUARD_LINK,		/* header of the link message */
	TLSGUARD_MESS,		/* the link message */
	TLSGUARD_AUTH,		/* mechanism, if one is chosen, and ticket */
	TLSGUARD_HEADER,
	TLSGUARD_BODY,
};

struct tlsguard {
	enum tlsguard_state state;
	bool full_headers;	/* the client does not know the short ones */
	uint32_t left;		/* of what state says */
	uint32_t have;		/* of head */
	const char *refused;	/* for good */
	uint8_t head[TLSGUARD_LINK_MAX];
};

/*
 * Asked of each link message, before it is handed on: why it may not be, or NULL.
 * Not set: all may.
 */
extern const char *(*tlsguard_judge)(uint32_t session, uint8_t channel_type);

/*
 * Told, if set, of a connection that is refused from within libspice-server,
 * which will end that one connection: nothing may be torn down in it.
 */
extern void (*tlsguard_refused)(int fd);

void tlsguard_init(struct tlsguard *g);

/* Bytes from the client. Return: NULL, or why nothing more may be taken of it. */
const char *tlsguard_feed(struct tlsguard *g, const uint8_t *p, size_t n);

#endif /* SPICEBD_LINK_TLSGUARD_H */
