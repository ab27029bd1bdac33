// SPDX-License-Identifier: GPL-2.0-only
/*
 * One Spice port as a char device of libspice-server.
 *
 * Rules that its code imposes, each learnt from a crash or a stall:
 * - write() takes everything while a client is connected, or bytes of this
 *   client stay queued and reach the next one; and nothing when none is;
 * - a wakeup moves one message, so it is repeated until read() has nothing;
 * - the interface is removed and added again after every client, which alone
 *   empties all of its queues, and never from inside a callback.
 */
#include "port.h"

#include <spice/protocol.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "loop.h"
#include "sock.h"
#include "tap.h"

#define PUMP_MAX	32	/* messages in a row before others get their turn */
#define BYE_TIME	200	/* ms for a BYE to leave */

struct port {
	SpiceCharDeviceInstance sin;	/* first: the callbacks get its address */
	struct port *next;
	uint32_t number;
	char name[48];
	void *end;
	bool connected;
	bool renewing;
	bool moved, empty;		/* what read() did in this wakeup */
	struct loop_task pump, renew;
	struct loop_timer *fail_timer;
	struct port_tap *tap;		/* NULL: data goes through libspice-server */
};

static SpiceServer *server;
static const struct port_end *kind;	/* of all ports */
static const struct session_params *params;
static const struct port_hooks *hooks;
static struct port *ports;
static unsigned int n_ports;

/* ---- callbacks of libspice-server ---- */

static void port_state(SpiceCharDeviceInstance *sin, int connected)
{
	struct port *p = (struct port *)sin;

	if (p->connected == !!connected)
		return;
	p->connected = connected;
	if (connected) {
		/* Nothing has been read yet, and what was written was whole. */
		p->tap = port_tap_new(hooks->connection(), kind, p->end, &p->pump);
		kind->start(p->end, hooks->secret());
		return;
	}
	port_tap_free(p->tap);
	p->tap = NULL;
	kind->stop(p->end, "the client disconnected");
	if (!p->renewing)
		loop_defer(&p->renew);
}

static int port_write(SpiceCharDeviceInstance *sin, const uint8_t *buf, int len)
{
	struct port *p = (struct port *)sin;

	if (!p->connected || len <= 0)
		return 0;
	kind->input(p->end, buf, len);
	return len;
}

static int port_read(SpiceCharDeviceInstance *sin, uint8_t *buf, int len)
{
	struct port *p = (struct port *)sin;
	size_t n;

	if (!p->connected || p->tap || len < (int)FRAME_MAX) {
		p->empty = true;
		return 0;
	}
	n = kind->output(p->end, buf, FRAME_MAX);
	if (n)
		p->moved = true;
	else
		p->empty = true;
	return n;
}

static void port_event(SpiceCharDeviceInstance *sin, uint8_t event)
{
	/* Custom port events are not part of the protocol. */
}

static const SpiceCharDeviceInterface port_interface = {
	.base.type = SPICE_INTERFACE_CHAR_DEVICE,
	.base.description = "spicebd port",
	.base.major_version = SPICE_INTERFACE_CHAR_DEVICE_MAJOR,
	.base.minor_version = SPICE_INTERFACE_CHAR_DEVICE_MINOR,
	.state = port_state,
	.write = port_write,
	.read = port_read,
	.event = port_event,
	.flags = SPICE_CHAR_DEVICE_NOTIFY_WRITABLE,
};

/* ---- output ---- */

static void pump(void *opaque)
{
	struct port *p = opaque;
	unsigned int i;

	if (p->tap) {
		port_tap_pump(p->tap);
		return;
	}
	for (i = 0; i < PUMP_MAX && p->connected; i++) {
		p->moved = false;
		p->empty = false;
		spice_server_char_device_wakeup(&p->sin);
		/* Not moved and not empty: the client's queue is full, read() comes by itself. */
		if (!p->moved || p->empty)
			return;
	}
	if (p->connected)
		loop_defer(&p->pump);
}

/* ---- what ends ask of their port ---- */

void port_wakeup(void *opaque)
{
	struct port *p = opaque;

	loop_defer(&p->pump);
}

static void end_failed(void *opaque)
{
	hooks->end_client("the client broke the protocol");
}

void port_fail(void *opaque, const char *why)
{
	struct port *p = opaque;

	loop_defer(&p->pump);
	loop_timer_start(p->fail_timer, BYE_TIME);
}

/* One port may be stuck alone; a client that says nothing on any port is gone. */
void port_dead(void *opaque)
{
	struct port *p = opaque, *q;

	for (q = ports; q; q = q->next) {
		if (q != p && kind->is_up(q->end) &&
		    now_ms() - kind->last_heard(q->end) < params->ping_timeout) {
			loop_defer(&p->renew);
			return;
		}
	}
	hooks->end_client("the client is dead");
}

void port_up(void *opaque)
{
	hooks->spoken();
}

void port_opened(void *opaque, bool opened)
{
	struct port *p = opaque;

	if (p->sin.st)
		spice_server_port_event(&p->sin, opened ? SPICE_PORT_EVENT_OPENED :
							  SPICE_PORT_EVENT_CLOSED);
}

const struct session_params *port_session_params(void)
{
	return params;
}

const struct port_hooks *port_the_hooks(void)
{
	return hooks;
}

/* ---- the interface's life ---- */

static bool attach(struct port *p)
{
	p->sin.base.sif = &port_interface.base;
	p->sin.subtype = "port";
	p->sin.portname = p->name;
	p->sin.st = NULL;
	/* It answers 0 even when it could not make the device. */
	if (spice_server_add_interface(server, &p->sin.base) < 0 || !p->sin.st) {
		log_err("cannot add the Spice port %s", p->name);
		p->sin.st = NULL;
		return false;
	}
	if (kind->is_open(p->end))
		spice_server_port_event(&p->sin, SPICE_PORT_EVENT_OPENED);
	return true;
}

static void detach(struct port *p)
{
	p->renewing = true;
	if (p->sin.st)
		spice_server_remove_interface(&p->sin.base);
	p->sin.st = NULL;
	port_state(&p->sin, 0);
	p->renewing = false;
	loop_cancel(&p->pump);
	loop_cancel(&p->renew);
	loop_timer_stop(p->fail_timer);
}

static void renew(void *opaque)
{
	struct port *p = opaque;

	detach(p);
	if (!attach(p))
		abort();	/* started again with a server that works */
}

static struct port *find(uint32_t number)
{
	struct port *p;

	for (p = ports; p && p->number != number; p = p->next)
		;
	return p;
}

static void port_free(struct port *p)
{
	if (p->end)
		kind->free(p->end);
	loop_timer_remove(p->fail_timer);
	free(p);
}

bool port_add(uint32_t number)
{
	struct port *p = find(number);

	if (p)
		return true;
	if (number > PORT_NUMBER_MAX || n_ports >= PORTS_MAX) {
		log_err("port %u: at most %d ports, numbered 0 to %d", number, PORTS_MAX,
			PORT_NUMBER_MAX);
		return false;
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return false;
	p->number = number;
	snprintf(p->name, sizeof(p->name), "org.spice-space.spicebd.%u", number);
	p->pump = (struct loop_task) { .fn = pump, .opaque = p };
	p->renew = (struct loop_task) { .fn = renew, .opaque = p };
	p->fail_timer = loop_timer_add(end_failed, p);
	p->end = kind->make(number, p);
	if (!p->fail_timer || !p->end || !attach(p)) {
		port_free(p);
		return false;
	}
	p->next = ports;
	ports = p;
	n_ports++;
	log_info("port %u: added", number);
	return true;
}

void port_del(uint32_t number)
{
	struct port *p = find(number), **pp;

	if (!p)
		return;
	for (pp = &ports; *pp != p; pp = &(*pp)->next)
		;
	*pp = p->next;
	n_ports--;
	detach(p);
	port_free(p);
	log_info("port %u: removed", number);
}

struct session *port_session(uint32_t number)
{
	struct port *p = find(number);

	return p && kind == &session_end ? p->end : NULL;
}

void ports_for_each(void (*fn)(struct session *s))
{
	struct port *p;

	for (p = kind == &session_end ? ports : NULL; p; p = p->next)
		fn(p->end);
}

unsigned int ports_linked(void)
{
	unsigned int n = 0;
	struct port *p;

	for (p = ports; p; p = p->next)
		n += p->connected;
	return n;
}

unsigned int ports_unlinked(void)
{
	return n_ports - ports_linked();
}

bool ports_any_up(void)
{
	struct port *p;

	for (p = ports; p; p = p->next)
		if (kind->is_up(p->end))
			return true;
	return false;
}

void ports_init(SpiceServer *srv, const struct port_end *end, const struct session_params *prm,
		const struct port_hooks *hks)
{
	server = srv;
	kind = end;
	params = prm;
	hooks = hks;
}
