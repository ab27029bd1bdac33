// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bytes of a WebSocket's messages, and those of a connection to the link. For each way
 * there is one buffer: it is filled, written, and only then filled again, so whoever
 * does not read stops the other one, and nothing else is kept. libsoup's own WebSocket
 * queues without a bound and cannot be made to wait; therefore the frames are ours.
 *
 * Each call that is under way has a reference, and so has the list.
 */
#include "web.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "log.h"
#include "sock.h"
#include "wsframe.h"

#define BUFFER		65535	/* what a frame with a short length holds */

struct bridge {
	unsigned int refs;
	struct conn *conn;
	char *who;
	GIOStream *tab;
	GSocketConnection *link;	/* NULL: not reached yet */
	GCancellable *cancel;
	bool over;

	/* from the tab to the link */
	struct ws_in in;
	uint8_t up[BUFFER];
	long long up_since;	/* of a write that is under way; 0: none */

	/* from the link to the tab: one read and one write at a time */
	uint8_t down[WS_HEADER_MAX + BUFFER];
	size_t down_len;	/* read, and not written yet */
	bool reading, writing;
	long long down_since;
	uint8_t ping[WS_CONTROL_MAX];
	size_t ping_len;
	bool pinged;
	unsigned int close_code;	/* 0: not to be closed */
	const char *close_why;
	bool close_said;
	uint8_t control[WS_HEADER_MAX + WS_CONTROL_MAX];	/* while it is written */
};

static GList *bridges;
static guint ticking;

static void pump_down(struct bridge *b);
static void read_tab(struct bridge *b);

static struct bridge *ref(struct bridge *b)
{
	b->refs++;
	return b;
}

static void unref(struct bridge *b)
{
	if (--b->refs)
		return;
	g_clear_object(&b->link);
	g_object_unref(b->tab);
	g_object_unref(b->cancel);
	g_free(b->who);
	g_free(b);
}

/* Both find their connections ended; what is under way comes back, and the rest goes. */
static void finish(struct bridge *b, const char *why)
{
	if (b->over)
		return;
	b->over = true;
	log_info("%s: %s", b->who, why);
	if (b->link)
		g_socket_shutdown(g_socket_connection_get_socket(b->link), TRUE, TRUE, NULL);
	conn_cut(b->conn);
	b->conn = NULL;
	g_cancellable_cancel(b->cancel);
	bridges = g_list_remove(bridges, b);
	unref(b);
}

/* ---- to the tab */

static void on_written(GObject *o, GAsyncResult *r, gpointer data)
{
	struct bridge *b = data;

	b->writing = false;
	b->down_since = 0;
	if (!g_output_stream_write_all_finish(G_OUTPUT_STREAM(o), r, NULL, NULL))
		finish(b, "the tab is gone");
	else if (b->close_said)
		finish(b, b->close_why);
	else
		pump_down(b);
	unref(b);
}

static void write_tab(struct bridge *b, const uint8_t *data, size_t len)
{
	b->writing = true;
	b->down_since = now_ms();
	g_output_stream_write_all_async(g_io_stream_get_output_stream(b->tab), data, len,
					G_PRIORITY_DEFAULT, b->cancel, on_written, ref(b));
}

static void write_control(struct bridge *b, enum ws_opcode opcode, const void *payload,
			  size_t len)
{
	size_t n = ws_header(b->control, opcode, len);

	memcpy(b->control + n, payload, len);
	write_tab(b, b->control, n + len);
}

static void write_close(struct bridge *b)
{
	uint8_t payload[WS_CONTROL_MAX] = { b->close_code >> 8, b->close_code };
	size_t len = strlen(b->close_why);

	memcpy(payload + 2, b->close_why, len);
	b->close_said = true;
	write_control(b, WS_CLOSE, payload, 2 + len);
}

static void write_data(struct bridge *b)
{
	uint8_t header[WS_HEADER_MAX];
	size_t n = ws_header(header, WS_BINARY, b->down_len), len = n + b->down_len;
	uint8_t *at = b->down + WS_HEADER_MAX - n;

	memcpy(at, header, n);
	b->down_len = 0;
	write_tab(b, at, len);
}

/* @why: of our own, and short enough for a control frame */
static void close_tab(struct bridge *b, unsigned int code, const char *why)
{
	if (b->over || b->close_code)
		return;
	b->close_code = code;
	b->close_why = why;
	pump_down(b);
}

static void on_link_read(GObject *o, GAsyncResult *r, gpointer data)
{
	struct bridge *b = data;
	gssize n = g_input_stream_read_finish(G_INPUT_STREAM(o), r, NULL);

	b->reading = false;
	if (n > 0)
		b->down_len = n;
	if (n <= 0)
		close_tab(b, WS_GOING, "the listener ended the connection");
	else
		pump_down(b);
	unref(b);
}

/* One write at a time; a buffer is filled again only when it has gone. */
static void pump_down(struct bridge *b)
{
	if (b->over || b->writing)
		return;
	if (b->down_len) {
		write_data(b);
	} else if (b->close_code) {
		if (!b->close_said)
			write_close(b);
	} else if (b->pinged) {
		b->pinged = false;
		write_control(b, WS_PONG, b->ping, b->ping_len);
	} else if (b->link && !b->reading) {
		b->reading = true;
		g_input_stream_read_async(g_io_stream_get_input_stream(G_IO_STREAM(b->link)),
					  b->down + WS_HEADER_MAX, BUFFER, G_PRIORITY_DEFAULT,
					  b->cancel, on_link_read, ref(b));
	}
}

/* ---- from the tab */

static void on_link_written(GObject *o, GAsyncResult *r, gpointer data)
{
	struct bridge *b = data;

	b->up_since = 0;
	if (g_output_stream_write_all_finish(G_OUTPUT_STREAM(o), r, NULL, NULL))
		read_tab(b);
	else
		close_tab(b, WS_GOING, "the listener ended the connection");
	unref(b);
}

static void hear_control(struct bridge *b)
{
	if (b->in.fault)
		close_tab(b, b->in.fault, "that is no message for this server");
	else if (b->in.closed)
		close_tab(b, WS_NORMAL, "closed by the tab");
	if (!b->in.pinged)
		return;
	/* Only the last one is answered, if there are several before its turn comes. */
	b->in.pinged = false;
	b->pinged = true;
	b->ping_len = b->in.control_len;
	memcpy(b->ping, b->in.control, b->ping_len);
	pump_down(b);
}

static void on_tab_read(GObject *o, GAsyncResult *r, gpointer data)
{
	struct bridge *b = data;
	gssize n = g_input_stream_read_finish(G_INPUT_STREAM(o), r, NULL);

	if (n <= 0) {
		finish(b, "the tab is gone");
	} else if (!b->over) {
		n = ws_decode(&b->in, b->up, n);
		hear_control(b);
		if (n && !b->over) {
			b->up_since = now_ms();
			g_output_stream_write_all_async(
				g_io_stream_get_output_stream(G_IO_STREAM(b->link)), b->up, n,
				G_PRIORITY_DEFAULT, b->cancel, on_link_written, ref(b));
		} else {
			read_tab(b);
		}
	}
	unref(b);
}

static void read_tab(struct bridge *b)
{
	if (b->over || b->in.fault || b->in.closed)
		return;
	g_input_stream_read_async(g_io_stream_get_input_stream(b->tab), b->up, sizeof(b->up),
				  G_PRIORITY_DEFAULT, b->cancel, on_tab_read, ref(b));
}

/* ---- beginning, and time */

static void on_connected(GObject *o, GAsyncResult *r, gpointer data)
{
	struct bridge *b = data;
	g_autoptr(GError) error = NULL;
	GSocket *s;

	b->link = g_socket_client_connect_finish(G_SOCKET_CLIENT(o), r, &error);
	if (b->link && !b->over) {
		s = g_socket_connection_get_socket(b->link);
		/* It was the limit for connecting. */
		g_socket_set_timeout(s, 0);
		if (g_socket_get_family(s) != G_SOCKET_FAMILY_UNIX)
			g_socket_set_option(s, IPPROTO_TCP, TCP_NODELAY, 1, NULL);
		log_info("%s: connected to the link", b->who);
		read_tab(b);
		pump_down(b);
	} else if (!b->over) {
		log_warn("%s: the link is not reached: %s; is spicebd-link listening there?", b->who,
			 error->message);
		close_tab(b, WS_LATER, "the listener behind this page is not reached");
	}
	unref(b);
}

static bool stalled(long long since)
{
	return since && now_ms() - since >= WEB_STALL_TIME;
}

static gboolean on_tick(gpointer data)
{
	for (GList *l = bridges, *next; l; l = next) {
		struct bridge *b = l->data;

		next = l->next;
		if (stalled(b->down_since))
			finish(b, "the tab takes nothing");
		else if (stalled(b->up_since))
			finish(b, "the link takes nothing");
	}
	return G_SOURCE_CONTINUE;
}

void bridge_new(struct conn *c, GIOStream *stream, GSocketConnectable *link)
{
	g_autoptr(GSocketClient) client = g_socket_client_new();
	struct bridge *b = g_new0(struct bridge, 1);

	b->refs = 1;
	b->conn = c;
	b->who = g_strdup(conn_name(c));
	b->tab = g_object_ref(stream);
	b->cancel = g_cancellable_new();
	bridges = g_list_prepend(bridges, b);
	if (!ticking)
		ticking = g_timeout_add(1000, on_tick, NULL);
	g_socket_client_set_enable_proxy(client, FALSE);
	g_socket_client_set_timeout(client, WEB_LINK_TIME);
	g_socket_client_connect_async(client, link, b->cancel, on_connected, ref(b));
}
