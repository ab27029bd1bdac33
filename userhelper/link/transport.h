/* SPDX-License-Identifier: GPL-2.0-only */
/* What carries the sessions: ports of a Spice server, or of a virtual machine. */
#ifndef SPICEBD_LINK_TRANSPORT_H
#define SPICEBD_LINK_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

struct session;

struct transport {
	bool (*add)(uint32_t number);		/* a port; true if it exists now */
	void (*del)(uint32_t number);
	struct session *(*session)(uint32_t number);	/* NULL: no such port */
	void (*for_each)(void (*fn)(struct session *s));
	void (*replay)(void);			/* say again who is connected */
};

#endif /* SPICEBD_LINK_TRANSPORT_H */
