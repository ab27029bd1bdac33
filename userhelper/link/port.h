/* SPDX-License-Identifier: GPL-2.0-only */
/* The Spice ports: one char device and one session for each drive. */
#ifndef SPICEBD_LINK_PORT_H
#define SPICEBD_LINK_PORT_H

#include <spice.h>
#include <stdbool.h>
#include <stdint.h>

#include "session.h"

#define PORT_NUMBER_MAX	255
#define PORTS_MAX	64	/* far below where libspice-server's teardown gets shaky */

struct port_hooks {
	const uint8_t *(*secret)(void);		/* of the client that is connected */
	int (*connection)(void);		/* of the channel being linked, or -1 */
	void (*end_client)(const char *why);	/* its connections are shut down */
	void (*spoken)(void);			/* its share said hello */
	void (*emit)(struct link_msg *msg, int fd);
};

void ports_init(SpiceServer *server, const struct session_params *params,
		const struct port_hooks *hooks);

bool port_add(uint32_t number);		/* true if it exists now */
void port_del(uint32_t number);
struct session *port_session(uint32_t number);	/* NULL: no such port */
void ports_for_each(void (*fn)(struct session *s));

unsigned int ports_unlinked(void);	/* ports whose channel no client has linked */
unsigned int ports_linked(void);
bool ports_any_up(void);

#endif /* SPICEBD_LINK_PORT_H */
