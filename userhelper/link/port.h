/* SPDX-License-Identifier: GPL-2.0-only */
/* The Spice ports: one char device and one session for each drive. */
#ifndef SPICEBD_LINK_PORT_H
#define SPICEBD_LINK_PORT_H

#include <spice.h>
#include <stdbool.h>
#include <stdint.h>

#include "end.h"
#include "session.h"

#define PORT_NUMBER_MAX	255
#define PORTS_MAX	64	/* far below where libspice-server's teardown gets shaky */

struct port_hooks {
	const uint8_t *(*secret)(void);		/* of the client that is connected */
	int (*connection)(void);		/* of the channel being linked, or -1 */
	void (*end_client)(const char *why);	/* its connections are shut down */
	void (*spoken)(void);			/* its share said hello */
	void (*learn)(const uint8_t *secret);	/* ... to a guest that has this one */
	void (*emit)(struct link_msg *msg, int fd);
};

void ports_init(SpiceServer *server, const struct port_end *end,
		const struct session_params *params, const struct port_hooks *hooks);

bool port_add(uint32_t number);		/* true if it exists now */
void port_del(uint32_t number);
struct session *port_session(uint32_t number);	/* NULL: no such port, or a relay's */
void ports_for_each(void (*fn)(struct session *s));

unsigned int ports_unlinked(void);	/* ports whose channel no client has linked */
unsigned int ports_linked(void);
bool ports_any_up(void);

/* ---- for the ends of ports; opaque is the port ---- */

const struct session_params *port_session_params(void);
const struct port_hooks *port_the_hooks(void);
void port_wakeup(void *opaque);		/* there is output to fetch */
void port_fail(void *opaque, const char *why);	/* the client broke the protocol */
void port_dead(void *opaque);		/* nothing is heard of the client */
void port_up(void *opaque);		/* its share said hello */
void port_opened(void *opaque, bool opened);	/* is_open() has changed */

#endif /* SPICEBD_LINK_PORT_H */
