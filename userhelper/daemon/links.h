/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The spicebd-link processes of this machine, as far as we are connected to
 * them: their ports and what is offered there. Main thread. Nothing that comes
 * from a link is believed: it parses what strangers send.
 */
#ifndef SPICEBD_LINKS_H
#define SPICEBD_LINKS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include <linux/spicebd.h>

#include "derr.h"
#include "linkproto.h"

struct link_offer {
	uint32_t id;
	uint64_t size;
	uint32_t flags;			/* FRAME_OFFER_* */
	uint32_t kind;			/* enum frame_kind */
	uint32_t owner_epoch;
	uint8_t medium_id[FRAME_UUID_LEN];
	uint8_t incarnation[FRAME_UUID_LEN];
	char name[FRAME_NAME_MAX + 1];
};

/**
 * struct link_port - one port of a link; its number is that of the drive
 * @up: a share said hello
 * @complete: ... and its list of offers has come
 */
struct link_port {
	bool up, complete;
	uint32_t epoch;
	uint8_t boot_id[FRAME_UUID_LEN];
	uint8_t instance[FRAME_UUID_LEN];
	unsigned int nr_offers;
	struct link_offer offers[FRAME_OFFERS_MAX];
};

struct link {
	char name[32];
	int fd;				/* -1: not connected */
	guint source, timer;
	unsigned int tries;
	bool ready;
	bool client;			/* a Spice client is connected */
	char address[128];		/* where it listens, as its configuration has it */
	uint8_t ended[FRAME_UUID_LEN];	/* share that said last that it ends */
	struct link_port *ports[SPICEBD_MAX_DRIVES];
};

/*
 * A stream that was asked for. Made by a task, answered on the main thread;
 * both hold a reference.
 */
struct link_open {
	gint refs;
	gint done;
	uint32_t tag;
	char link[32];
	uint32_t port;
	int fd;
	int error;
	char text[128];
};

/**
 * struct link_ask - a share wants its medium back
 * @force: ... whoever uses it
 * @insert: no: it is to be put in, where no medium is
 * @by: another medium of the same port that shall come instead, or NULL
 */
struct link_ask {
	const char *link;
	uint32_t port;
	const uint8_t *medium_id;
	bool force, insert;
	const uint8_t *by;
};

typedef void (*links_eject_fn)(const struct link_ask *a);
typedef void (*links_changed_fn)(const char *link);

/**
 * links_init() - look for links, now and from now on
 * @eject: a share wants a medium back
 * @changed: offers of a link changed
 */
void links_init(links_eject_fn eject, links_changed_fn changed);

typedef void (*links_move_fn)(struct link *l, uint32_t port, const struct frame_move_state *s);

/* What a share says of moves; without it nobody hears. */
void links_on_move(links_move_fn moved);

/* A drive came or went: its port with it. */
void links_want_port(uint32_t port, bool want);

/* List of struct link; the list's own. */
GList *links_all(void);
struct link *links_find(const char *name);
const struct link_offer *link_port_offer(const struct link_port *p, const uint8_t *medium_id);

/* @text: for the share's user, or NULL */
void links_notice(struct link *l, uint32_t port, uint32_t offer, uint32_t what,
		  const char *text);
void links_reset_port(struct link *l, uint32_t port);

/* A ticket for a share that comes from another host. */
void links_invite(struct link *l, const char *ticket);

/* Ask the share of a port for a move, or what became of it; links_on_move() hears. */
void links_move(struct link *l, uint32_t port, const struct frame_move *m);

/* Ask for a stream; the answer is in @o->done, @o->fd, @o->error. */
void links_open_stream(struct link *l, uint32_t offer, struct link_open *o);
struct link_open *link_open_new(const char *link, uint32_t port);
void link_open_unref(struct link_open *o);

#endif /* SPICEBD_LINKS_H */
