/* SPDX-License-Identifier: GPL-2.0-only */
/* What relay.c, relay_guest.c and relay_credit.c share, and nobody else includes. */
#ifndef SPICEBD_LINK_RELAY_IMPL_H
#define SPICEBD_LINK_RELAY_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "frame.h"

/* ---- relay_guest.c: the connection to QEMU, and what waits to be written to it */

struct guest;

struct guest_ops {
	void (*came)(void *opaque);
	void (*went)(void *opaque);
	void (*readable)(void *opaque);	/* again only after guest_recv() had nothing */
};

struct guest *guest_new(uint32_t number, const struct guest_ops *ops, void *opaque);
void guest_free(struct guest *g);

/* Whether there is to be a connection. Told went() from within. */
void guest_want(struct guest *g, bool want);

/* Bytes of the guest; 0: none now, or none any more. */
size_t guest_recv(struct guest *g, uint8_t *buf, size_t size);

/**
 * guest_send() - write a frame, or keep what is not taken at once
 * Return: false when no more is kept
 */
bool guest_send(struct guest *g, const uint8_t *frame, size_t len);

size_t guests_queued(void);			/* bytes that are kept, of all guests */
void guests_limit(size_t bytes);		/* that are kept for all guests */

/* Ends the connection, soon and not from here; the next is made after a while. */
void guest_drop(struct guest *g, const char *why);
void guest_is_good(struct guest *g);	/* it says hello: the next one need not wait long */

/* ---- relay_credit.c: what the share may send */

struct credits {
	struct {
		uint32_t stream;	/* 0: free */
		uint32_t left;
	} of[FRAME_STREAMS_MAX];
};

void credits_budget(size_t bytes);	/* of all guests' links together */
void credits_reset(struct credits *c);
/* What the guest's link gives. NULL, or what is wrong with it. */
const char *credits_open(struct credits *c, uint32_t stream, uint32_t bytes);
const char *credits_add(struct credits *c, uint32_t stream, uint32_t bytes);
/* What the share uses; false: more than it has. */
bool credits_take(struct credits *c, uint32_t stream, uint32_t bytes);
void credits_close(struct credits *c, uint32_t stream);	/* the share's CLOSE */

#endif /* SPICEBD_LINK_RELAY_IMPL_H */
