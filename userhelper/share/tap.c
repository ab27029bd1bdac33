// SPDX-License-Identifier: GPL-2.0-only
/*
 * A port's data past spice-glib, which needs some twenty system calls and three
 * copies for what takes four and none: it makes and destroys event sources with
 * each message and copies it to put six bytes in front.
 *
 * spice-glib's socket is exchanged under it, by descriptor number, while it
 * handles the message that opens the port, and is thus between two messages.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <spice/enums.h>
#include <spice/protocol.h>

#include "core.h"
#include "log.h"

struct tap_source {
	GSource source;		/* first: GLib's part */
	struct port *port;
	struct tap *tap;
	GSocket *socket;	/* the library's; compared, and kept from reuse */
	gpointer tag[2];
	bool released;
	bool hold_over;		/* it was held up for too long: until that flows again */
};

#define HOLD_US	5000

/* ---- what the tap tells */

static void on_tap_data(void *opaque, const uint8_t *data, size_t len)
{
	port_data(((struct tap_source *)opaque)->port, data, len);
}

static void on_tap_written(void *opaque, struct tap_buf *b)
{
	port_written((struct txbuf *)((char *)b - offsetof(struct txbuf, b)));
}

static GIOCondition condition(unsigned int events)
{
	return (events & TAP_IN ? G_IO_IN : 0) | (events & TAP_OUT ? G_IO_OUT : 0);
}

/* With nothing wanted the descriptor leaves the poll set, as in stream.c. */
static void on_tap_watch(void *opaque, enum tap_side side, unsigned int events)
{
	struct tap_source *t = opaque;

	if (!t->tag[side] && events) {
		t->tag[side] = g_source_add_unix_fd(&t->source, tap_fd(t->tap, side),
						    condition(events));
	} else if (!events) {
		g_source_remove_unix_fd(&t->source, t->tag[side]);
		t->tag[side] = NULL;
	} else {
		g_source_modify_unix_fd(&t->source, t->tag[side], condition(events));
	}
}

static void on_tap_released(void *opaque)
{
	((struct tap_source *)opaque)->released = true;
}

/* The library finds its end closed, and tells of it as of any lost connection. */
static void on_tap_ended(void *opaque, const char *why)
{
	struct tap_source *t = opaque;

	log_debug("drive %u: %s", drive_no(t->port->drive), why);
	tap_detach(t->port);
}

static bool on_tap_begin(void *opaque, const uint8_t *head, size_t len)
{
	return session_begin(((struct tap_source *)opaque)->port, head, len);
}

static int on_tap_sink(void *opaque)
{
	return session_sink(((struct tap_source *)opaque)->port);
}

static void on_tap_moved(void *opaque, size_t n)
{
	session_moved(((struct tap_source *)opaque)->port, n);
}

static void on_tap_part(void *opaque, const uint8_t *data, size_t len)
{
	session_part(((struct tap_source *)opaque)->port, data, len);
}

/*
 * What a busy server does not take at once may for a moment lie with the kernel,
 * instead of being copied to a buffer; not for longer, since pings are behind it.
 */
static bool on_tap_hold(void *opaque)
{
	struct tap_source *t = opaque;

	if (t->hold_over || !session_hold(t->port))
		return false;
	g_source_set_ready_time(&t->source, g_get_monotonic_time() + HOLD_US);
	return true;
}

static void hold_ends(struct tap_source *t, bool flows)
{
	t->hold_over = !flows;
	g_source_set_ready_time(&t->source, -1);
	tap_go_on(t->tap);
}

void tap_flows(struct port *p)
{
	if (p->tap)
		hold_ends(p->tap, true);
}

static const struct tap_direct direct = {
	.head = FRAME_HEADER_LEN,
	.begin = on_tap_begin,
	.sink = on_tap_sink,
	.moved = on_tap_moved,
	.part = on_tap_part,
	.hold = on_tap_hold,
};

static const struct tap_ops ops = {
	.data = on_tap_data,
	.written = on_tap_written,
	.watch = on_tap_watch,
	.released = on_tap_released,
	.ended = on_tap_ended,
	.direct = &direct,
};

static void on_side(struct tap_source *t, enum tap_side side)
{
	GIOCondition got;
	unsigned int events = 0;

	if (!t->tag[side])
		return;
	got = g_source_query_unix_fd(&t->source, t->tag[side]);
	if (got & (G_IO_IN | G_IO_HUP | G_IO_ERR))
		events |= TAP_IN;
	if (got & G_IO_OUT)
		events |= TAP_OUT;
	if (events)
		tap_event(t->tap, side, events);
}

static gboolean on_io(GSource *source, GSourceFunc fn, gpointer data)
{
	struct tap_source *t = (struct tap_source *)source;
	struct port *p = t->port;

	if (p->batch) {		/* a main loop within a handler */
		if (g_source_get_ready_time(source) >= 0)
			g_source_set_ready_time(source, g_source_get_time(source) + HOLD_US);
		return G_SOURCE_CONTINUE;
	}
	port_batch_begin(p);
	if (g_source_get_ready_time(source) >= 0 &&
	    g_source_get_time(source) >= g_source_get_ready_time(source))
		hold_ends(t, false);
	on_side(t, TAP_NET);
	on_side(t, TAP_LIB);
	port_batch_end(p);
	return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = { .dispatch = on_io };

/* ---- sending */

bool tap_takes(const struct port *p)
{
	return p->tap && !p->tap->released;
}

void tap_send_buffer(struct port *p, struct txbuf *b, size_t len)
{
	tap_send(p->tap->tap, &b->b, len);
}

void tap_send_now(struct port *p)
{
	tap_flush(p->tap->tap);
}

/* ---- taking over */

/*
 * Inside TLS or SASL's layer the messages cannot be seen. Whether the connection
 * has one is not told, so it is enough that it might.
 */
static bool may_be_wrapped(struct port *p)
{
	g_autofree char *tls_port = NULL;

	g_object_get(p->share->sites[p->site].session, "tls-port", &tls_port, NULL);
	return (tls_port && *tls_port && strcmp(tls_port, "0")) ||
	       spice_channel_test_common_capability(SPICE_CHANNEL(p->channel),
						    SPICE_COMMON_CAP_AUTH_SASL);
}

static struct tap *take_over(struct tap_source *t, int fd)
{
	int net = fcntl(fd, F_DUPFD_CLOEXEC, 3), lib;
	struct tap *tap;

	if (net < 0)
		return NULL;
	tap = tap_new(net, &lib, SPICE_MSG_MIGRATE, &ops, t);
	if (!tap) {
		close(net);
		return NULL;
	}
	/* Cannot fail but for a signal: both descriptors are open. */
	while (dup3(lib, fd, O_CLOEXEC) < 0 && (errno == EINTR || errno == EBUSY))
		;
	close(lib);
	return tap;
}

void tap_attach(struct port *p)
{
	g_autoptr(GSocket) socket = NULL;
	struct tap_source *t;

	g_object_get(p->channel, "socket", &socket, NULL);
	if (p->tap && p->tap->socket == socket)
		return;
	tap_detach(p);
	if (!socket || may_be_wrapped(p) || g_getenv("SPICEBD_SHARE_NO_TAP") ||
	    !spice_channel_test_common_capability(SPICE_CHANNEL(p->channel),
						  SPICE_COMMON_CAP_MINI_HEADER))
		return;
	t = (struct tap_source *)g_source_new(&source_funcs, sizeof(*t));
	memset((char *)t + sizeof(GSource), 0, sizeof(*t) - sizeof(GSource));
	t->port = p;
	t->tap = take_over(t, g_socket_get_fd(socket));
	if (!t->tap) {
		g_source_unref(&t->source);
		return;
	}
	t->socket = g_steal_pointer(&socket);
	/* Else GLib takes it out of the poll set and in again at each event. */
	g_source_set_can_recurse(&t->source, TRUE);
	g_source_attach(&t->source, NULL);
	p->tap = t;
	tap_start(t->tap);
}

void tap_detach(struct port *p)
{
	struct tap_source *t = p->tap;

	if (!t)
		return;
	p->tap = NULL;
	for (int i = 0; i < 2; i++) {
		if (t->tag[i])
			g_source_remove_unix_fd(&t->source, t->tag[i]);
		t->tag[i] = NULL;
	}
	port_batch_begin(p);
	tap_free(t->tap);
	port_batch_end(p);
	g_clear_object(&t->socket);
	g_source_destroy(&t->source);
	g_source_unref(&t->source);
}
