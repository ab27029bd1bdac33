// SPDX-License-Identifier: GPL-2.0-only
/*
 * A Spice port channel: what comes in, what goes out, and when it is a new
 * session. Spice queues writes without bound, so the completion of a write is
 * what frees its buffer for the next one; it says "handed to the socket or
 * dropped", never "arrived".
 */
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "log.h"

enum { ON_OPENED, ON_DATA, ON_EVENT, HANDLERS };

/* ---- buffers */

struct txbuf *port_get_buffer(struct port *p)
{
	struct txbuf *b = p->pool;

	if (b) {
		p->pool = b->next;
		return b;
	}
	if (p->pool_made >= SHARE_BUFFERS)
		return NULL;
	b = g_malloc(sizeof(*b) + FRAME_MAX);
	b->pooled = true;
	b->port = p;
	p->pool_made++;
	return b;
}

void port_put_buffer(struct txbuf *b)
{
	b->next = b->port->pool;
	b->port->pool = b;
}

void port_unref(struct port *p)
{
	if (--p->refs)
		return;
	while (p->pool) {
		struct txbuf *b = p->pool;

		p->pool = b->next;
		g_free(b);
	}
	g_object_unref(p->channel);
	share_unhold(p->share);
	g_free(p);
}

/* What waited for a buffer, or for the last frame to be sent. */
static void go_on(struct port *p)
{
	p->returned = false;
	if (p->gone)
		return;
	session_progress(p);
	if (p->share->stopping)
		share_progress(p->share);
}

void port_written(struct txbuf *b)
{
	struct port *p = b->port;

	if (b->pooled) {
		p->data_out--;
		port_put_buffer(b);
	} else {
		p->control_out--;
		g_free(b);
	}
	p->returned = true;
	if (!p->batch)
		go_on(p);
	port_unref(p);
}

static void on_written(GObject *src, GAsyncResult *res, gpointer data)
{
	/* An error only says that the port is not opened, which we know by then. */
	spice_port_channel_write_finish(SPICE_PORT_CHANNEL(src), res, NULL);
	port_written(data);
}

void port_batch_begin(struct port *p)
{
	p->refs++;
	p->batch++;
}

void port_batch_end(struct port *p)
{
	if (p->batch == 1 && p->tap)
		tap_send_now(p);
	if (!--p->batch && p->returned)
		go_on(p);
	port_unref(p);
}

void port_send_buffer(struct port *p, struct txbuf *b, size_t len)
{
	p->refs++;
	if (b->pooled)
		p->data_out++;
	else
		p->control_out++;
	if (!tap_takes(p)) {
		spice_port_channel_write_async(p->channel, b->b.data, len, NULL, on_written, b);
		return;
	}
	port_batch_begin(p);
	tap_send_buffer(p, b, len);
	port_batch_end(p);
}

bool port_send_small(struct port *p, const uint8_t *frame, size_t len)
{
	struct txbuf *b;

	if (!p->opened || p->gone || p->control_out >= SHARE_CONTROL_MAX)
		return false;
	b = g_malloc(sizeof(*b) + len);
	b->pooled = false;
	b->port = p;
	memcpy(b->b.data, frame, len);
	port_send_buffer(p, b, len);
	return true;
}

/* ---- what the channel tells */

/* org.spice-space.spicebd.N, N in plain decimal */
static bool drive_of(const char *name, unsigned int *drive)
{
	const char *n;
	char *end;
	unsigned long v;

	if (!name || !g_str_has_prefix(name, SHARE_PORT_PREFIX))
		return false;
	n = name + strlen(SHARE_PORT_PREFIX);
	if (!g_ascii_isdigit(*n) || (n[0] == '0' && n[1]))
		return false;
	v = strtoul(n, &end, 10);
	if (*end || v >= SHARE_DRIVES_MAX)
		return false;
	*drive = v;
	return true;
}

/* The fence of a drive counts its servers by number: one port each. */
static bool drive_has_port(const struct port *p)
{
	for (GList *l = p->share->ports; l; l = l->next) {
		const struct port *o = l->data;

		if (o != p && o->known && o->opened && o->drive == p->drive)
			return true;
	}
	return false;
}

static void learn_name(struct port *p)
{
	g_autofree char *name = NULL;

	p->drive = 0;
	g_object_get(p->channel, "port-name", &name, NULL);
	p->known = drive_of(name, &p->drive);
	p->drive += p->site * SHARE_DRIVES_MAX;
	if (p->known && drive_has_port(p)) {
		log_warn("the server offers port %s twice; the second is left alone", name);
		p->known = false;
	}
}

/*
 * Every notification is a new session, also one without a close before it: that
 * is how a migration that loses bytes shows. A bare port-event says nothing.
 */
static void on_opened(GObject *obj, GParamSpec *spec, gpointer data)
{
	struct port *p = data;
	bool was_opened = p->opened;
	gboolean opened;

	learn_name(p);
	if (!p->known)
		return;
	g_object_get(p->channel, "port-opened", &opened, NULL);
	if (was_opened)
		session_closed(p, opened ? "the port was opened anew" :
					   "the other end closed the port");
	p->opened = opened;
	if (!opened)
		return;
	/*
	 * The library notifies from within the handling of a message, so that it
	 * is at the boundary of two.
	 */
	if (spec)
		tap_attach(p);
	session_opened(p, was_opened);
}

/*
 * Data can follow a close, and makes spice-glib believe that the port is open;
 * it is nobody's.
 */
void port_data(struct port *p, const uint8_t *data, size_t len)
{
	if (p->known && p->opened)
		session_input(p, data, len);
}

static void on_data(SpicePortChannel *channel, gpointer bytes, int size, gpointer data)
{
	if (size > 0)
		port_data(data, bytes, size);
}

static void on_event(SpiceChannel *channel, SpiceChannelEvent event, gpointer data)
{
	struct port *p = data;

	if (event == SPICE_CHANNEL_OPENED || event == SPICE_CHANNEL_SWITCHING || !p->opened)
		return;
	p->opened = false;
	session_closed(p, "the connection was lost");
}

void port_attach(struct spicebd_share *share, unsigned int site, SpiceChannel *channel)
{
	struct port *p;

	for (GList *l = share->ports; l; l = l->next) {
		p = l->data;
		if (SPICE_CHANNEL(p->channel) == channel)
			return;
	}
	p = g_new0(struct port, 1);
	p->share = share;
	p->site = site;
	share->hold++;
	p->refs = 1;
	p->channel = g_object_ref(SPICE_PORT_CHANNEL(channel));
	p->handlers[ON_OPENED] = g_signal_connect(channel, "notify::port-opened",
						  G_CALLBACK(on_opened), p);
	p->handlers[ON_DATA] = g_signal_connect(channel, "port-data", G_CALLBACK(on_data), p);
	p->handlers[ON_EVENT] = g_signal_connect(channel, "channel-event",
						 G_CALLBACK(on_event), p);
	share->ports = g_list_append(share->ports, p);
	on_opened(NULL, NULL, p);
	spice_channel_connect(channel);
}

void port_detach(struct port *p)
{
	for (int i = 0; i < HANDLERS; i++)
		g_signal_handler_disconnect(p->channel, p->handlers[i]);
	p->share->ports = g_list_remove(p->share->ports, p);
	if (p->opened)
		session_closed(p, "the connection was closed");
	p->opened = false;
	p->gone = true;
	tap_detach(p);
	port_unref(p);
}
