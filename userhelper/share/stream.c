// SPDX-License-Identifier: GPL-2.0-only
/*
 * One NBD byte stream: a socket of the NBD server on one side, DATA frames on
 * the other. Both directions are bounded by credit: what the link may send
 * lies in a buffer of at most the window until the server takes it, and what
 * the server says is read only as far as the link's credit and a free buffer
 * go.
 *
 * CLOSE is sent once the server's end was proven gone, never before: the link
 * may resend elsewhere as soon as it has seen it.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core.h"
#include "log.h"
#include "sock.h"

#define OPEN_TIMEOUT_MS	60000	/* as long as the other side ever waits */
#define IN_START	(64u << 10)
#define GATHER		4		/* frames read before they are sent, at most */

struct stream {
	GSource source;		/* first: GLib's part */
	struct port *port;
	uint32_t id;
	struct offer *offer;	/* NULL: refused */
	struct server *srv;	/* NULL: none, or proven gone */
	int fd;
	gpointer tag;		/* of fd in the source, or NULL */
	GIOCondition armed;
	guint open_timer;

	bool opened;		/* OPENED was sent */
	bool starved;		/* waits for a buffer */
	bool fenced;		/* waits for the end of the offer's older servers */
	bool sent_close, got_close;
	bool draining;		/* got CLOSE; what came before it still counts */
	uint32_t code;		/* of our CLOSE */
	char *text;

	uint32_t window;	/* what the link may have on its way to us */
	uint32_t tx_credit;	/* the link's, for what the server says */
	uint32_t rx_credit;	/* ours, as the link knows it */
	uint32_t regrant;	/* taken by the server, not told yet */
	uint8_t *in;
	size_t in_off, in_len, in_cap;
};

static void pump_out(struct stream *s);
static void pump_in(struct stream *s);

/* ---- watching the server's socket */

/*
 * With nothing wanted the descriptor leaves the poll set: poll reports a hang-up
 * whether asked or not, and a stream without credit could not answer it.
 */
static void arm(struct stream *s)
{
	GIOCondition want = 0;

	if (s->fd < 0)
		return;
	if (!s->opened || s->draining || (s->tx_credit && !s->starved))
		want |= G_IO_IN;
	if (s->in_len)
		want |= G_IO_OUT;
	if (want == s->armed)
		return;
	if (!want) {
		g_source_remove_unix_fd(&s->source, s->tag);
		s->tag = NULL;
	} else if (!s->tag) {
		s->tag = g_source_add_unix_fd(&s->source, s->fd, want);
	} else {
		g_source_modify_unix_fd(&s->source, s->tag, want);
	}
	s->armed = want;
}

static gboolean on_io(GSource *source, GSourceFunc fn, gpointer data)
{
	struct stream *s = (struct stream *)source;
	GIOCondition cond = s->tag ? g_source_query_unix_fd(source, s->tag) : 0;
	struct port *p = s->port;

	if (p->batch)
		return G_SOURCE_CONTINUE;	/* a main loop within a handler */
	port_batch_begin(p);
	if (s->armed & G_IO_OUT && cond & (G_IO_OUT | G_IO_ERR | G_IO_HUP))
		pump_in(s);
	if (s->fd >= 0 && s->armed & G_IO_IN && cond & (G_IO_IN | G_IO_ERR | G_IO_HUP))
		pump_out(s);
	port_batch_end(p);
	return G_SOURCE_CONTINUE;
}

static GSourceFuncs stream_funcs = { .dispatch = on_io };

/* ---- end */

static void end_io(struct stream *s)
{
	if (s->tag)
		g_source_remove_unix_fd(&s->source, s->tag);
	s->tag = NULL;
	s->armed = 0;
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	if (s->open_timer)
		g_source_remove(s->open_timer);
	s->open_timer = 0;
	s->fenced = false;
	g_clear_pointer(&s->in, g_free);
	s->in_len = s->in_cap = s->in_off = 0;
	tap_flows(s->port);
	s->starved = false;
}

/* The last stream of a drive on an offer is gone: for the user it is closed. */
static void tell_closed(struct stream *s)
{
	struct port *p = s->port;

	if (!s->opened)
		return;
	s->opened = false;
	if (!offer_streams(s->offer, p->drive))
		share_event(p->share, SPICEBD_SHARE_CLOSED, p->drive, s->offer,
			    s->code ? s->text : NULL);
}

static void forget(struct stream *s)
{
	s->port->streams = g_list_remove(s->port->streams, s);
	if (s->port->direct == s)
		s->port->direct = NULL;
	s->port->share->windows -= s->window;
	offers_sweep_later(s->port->share);
	g_free(s->text);
	g_source_destroy(&s->source);
	g_source_unref(&s->source);
}

/* Goes on only when the server's end is proven gone. */
static void finish(struct stream *s)
{
	if (s->srv || s->fd >= 0)
		return;
	if (!s->sent_close) {
		s->sent_close = true;
		session_send_code(s->port, FRAME_CLOSE, s->id, s->code, s->text);
		tell_closed(s);
	}
	if (s->got_close)
		forget(s);
}

/* The stream may be gone when this returns. */
static void end(struct stream *s, bool kill, uint32_t code, const char *text)
{
	if (!s->text && code) {
		s->code = code;
		s->text = g_strdup(text);
	}
	end_io(s);
	if (s->srv)
		server_end(s->srv, kill);
	else
		finish(s);
}

void stream_fail(struct stream *s, uint32_t code, const char *text)
{
	if (!s->sent_close)
		end(s, true, code, text);
}

/* The server closed its end: by the client's wish, or it died. */
static void server_gone(struct stream *s)
{
	if (!s->opened && !s->got_close)
		end(s, false, FRAME_ERR_SERVER, "the NBD server did not start");
	else
		end(s, false, FRAME_OK, NULL);
}

static void report_death(struct stream *s, int status)
{
	struct offer *o = s->offer;
	g_autofree char *text = NULL;

	text = g_strdup_printf("the NBD server ended unexpectedly (status 0x%x)", status);
	share_event(o->share, SPICEBD_SHARE_ERROR, s->port->drive, o, text);
	if (!s->text) {
		s->code = FRAME_ERR_SERVER;
		s->text = g_strdup("the NBD server ended unexpectedly");
	}
	share_offer_died(o);
}

void stream_server_ended(struct stream *s, int status)
{
	s->srv = NULL;
	if (status && !s->got_close)
		report_death(s, status);
	if (s->draining)
		end_io(s);
	/* What it said last may still be in the socket: read to its end. */
	if (s->fd < 0)
		finish(s);
}

/*
 * What was sent before the CLOSE still goes to the server, which then sees the
 * end and ends by itself, or is killed after a moment; its answers are nobody's.
 */
static void drain(struct stream *s)
{
	s->draining = true;
	if (!s->in_len)
		shutdown(s->fd, SHUT_WR);
	arm(s);
	server_end(s->srv, false);
}

bool stream_closed_by_peer(struct stream *s)
{
	if (s->got_close)
		return false;
	s->got_close = true;
	if (s->sent_close)
		forget(s);
	else if (s->opened && s->srv && s->fd >= 0 && !s->offer->read_only)
		drain(s);
	else
		end(s, true, FRAME_OK, NULL);
	return true;
}

void stream_abort(struct stream *s)
{
	end_io(s);
	if (s->srv) {
		server_detach(s->srv);
		server_end(s->srv, true);
		s->srv = NULL;
		/* What the dead server had not answered is lost with it. */
		if (!s->offer->read_only)
			offer_new_incarnation(s->offer);
	}
	tell_closed(s);
	forget(s);
}

void stream_fail_offer(struct offer *o, uint32_t code, const char *text)
{
	for (GList *l = o->share->ports; l; l = l->next) {
		struct port *p = l->data;

		for (GList *m = p->streams, *next; m; m = next) {
			struct stream *s = m->data;

			next = m->next;
			if (s->offer == o)
				stream_fail(s, code, text);
		}
	}
}

/* ---- server to link */

/*
 * A far path needs what it holds in a round trip; all streams together stay
 * below what a hostile link may make us buffer, but for the least of each.
 */
static uint32_t take_window(struct spicebd_share *share)
{
	size_t left = share->windows < SHARE_WINDOWS ? SHARE_WINDOWS - share->windows : 0;
	uint32_t w = SHARE_WINDOW;

	while (w > SHARE_WINDOW_MIN && w > left / 4)
		w /= 2;
	share->windows += w;
	return w;
}

static void send_opened(struct stream *s)
{
	struct port *p = s->port;
	bool first = !offer_streams(s->offer, p->drive);

	s->opened = true;
	s->window = take_window(p->share);
	s->rx_credit = s->window;
	g_source_remove(s->open_timer);
	s->open_timer = 0;
	session_send_u32(p, FRAME_OPENED, s->id, s->window);
	if (first) {
		s->offer->info.read_bytes = s->offer->info.write_bytes = 0;
		share_event(p->share, SPICEBD_SHARE_OPENED, p->drive, s->offer, NULL);
	}
}

static ssize_t fill_buffer(struct stream *s, struct txbuf *b, size_t room)
{
	ssize_t n;

	do {
		n = recv(s->fd, b->b.data + FRAME_HEADER_LEN, room, 0);
	} while (n < 0 && errno == EINTR);
	return n;
}

static void send_data(struct stream *s, struct txbuf *b, size_t n)
{
	struct port *p = s->port;

	s->tx_credit -= n;
	s->offer->info.read_bytes += n;
	s->offer->info.last_used = now_ms();
	p->share->read_bytes += n;
	identity_stamp(s->offer);
	port_send_buffer(p, b, frame_seal(&p->tx, b->b.data, FRAME_DATA, s->id, n));
}

/* An NBD server speaks first: its first byte says that it stands. */
static bool check_opened(struct stream *s)
{
	char c;
	ssize_t n = recv(s->fd, &c, 1, MSG_PEEK);

	if (n > 0) {
		send_opened(s);
		return true;
	}
	if (!n || (errno != EAGAIN && errno != EINTR))
		server_gone(s);
	return false;
}

static void pump_nowhere(struct stream *s)
{
	char scrap[16384];
	ssize_t n = recv(s->fd, scrap, sizeof(scrap), 0);

	if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
		end_io(s);	/* the server's end will finish it */
}

/* Returns whether there may be more for now. */
static bool pump_frame(struct stream *s)
{
	struct txbuf *b = port_get_buffer(s->port);
	size_t room;
	ssize_t n;

	if (!b) {
		s->starved = true;
		return false;
	}
	room = frame_room(&s->port->tx, MIN(s->port->peer.frame_max, FRAME_MAX));
	room = MIN(room, s->tx_credit);
	n = fill_buffer(s, b, room);
	if (n > 0) {
		send_data(s, b, n);
		return n == room && s->tx_credit;
	}
	port_put_buffer(b);
	if (!n || errno != EAGAIN)
		server_gone(s);
	return false;
}

static void pump_out(struct stream *s)
{
	if (s->draining) {
		pump_nowhere(s);
		return;
	}
	if (!s->opened && !check_opened(s))
		return;
	for (int i = 0; i < GATHER && s->tx_credit && pump_frame(s); i++)
		;
	arm(s);
}

void stream_next_starved(struct port *p)
{
	for (GList *l = p->streams; l; l = l->next) {
		struct stream *s = l->data;

		if (!s->starved)
			continue;
		s->starved = false;
		arm(s);
		/* To the end, so that all come by turns. */
		p->streams = g_list_remove_link(p->streams, l);
		p->streams = g_list_concat(p->streams, l);
		return;
	}
}

bool stream_credit(struct stream *s, uint32_t bytes)
{
	if (!bytes || bytes > FRAME_CREDIT_MAX - s->tx_credit)
		return false;
	s->tx_credit += bytes;
	arm(s);
	return true;
}

/* ---- link to server */

static void taken(struct stream *s, size_t n)
{
	s->offer->info.write_bytes += n;
	s->offer->info.last_used = now_ms();
	identity_stamp(s->offer);
	s->port->share->write_bytes += n;
	s->regrant += n;
	if (s->regrant < s->window / 4 || s->draining)
		return;
	s->rx_credit += s->regrant;
	session_send_u32(s->port, FRAME_CREDIT, s->id, s->regrant);
	s->regrant = 0;
}

/* Returns what the server took, or -1 when it is gone. */
static ssize_t give(struct stream *s, const uint8_t *data, size_t len)
{
	ssize_t n;

	do {
		n = send(s->fd, data, len, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n > 0)
		taken(s, n);
	return n;
}

static void keep(struct stream *s, const uint8_t *data, size_t len)
{
	size_t need = s->in_len + len;

	if (s->in_off + need > s->in_cap && s->in_off) {
		memmove(s->in, s->in + s->in_off, s->in_len);
		s->in_off = 0;
	}
	if (need > s->in_cap) {
		s->in_cap = MAX(s->in_cap, IN_START);
		while (s->in_cap < need)
			s->in_cap *= 2;
		s->in = g_realloc(s->in, s->in_cap);
	}
	memcpy(s->in + s->in_off + s->in_len, data, len);
	s->in_len = need;
}

static void pump_in(struct stream *s)
{
	ssize_t n = give(s, s->in + s->in_off, s->in_len);

	if (n < 0) {
		server_gone(s);
		return;
	}
	s->in_off += n;
	s->in_len -= n;
	if (!s->in_len) {
		g_clear_pointer(&s->in, g_free);
		s->in_off = s->in_cap = 0;
		tap_flows(s->port);
		if (s->draining)
			shutdown(s->fd, SHUT_WR);
	}
	arm(s);
}

void stream_part(struct stream *s, const uint8_t *data, size_t len)
{
	ssize_t n = 0;

	if (s->fd < 0)
		return;		/* our CLOSE is on its way */
	if (!s->in_len)
		n = give(s, data, len);
	if (n < 0) {
		server_gone(s);
		return;
	}
	if (n < len)
		keep(s, data + n, len - n);
	arm(s);
}

bool stream_data(struct stream *s, const uint8_t *data, size_t len)
{
	if (!len || s->got_close || len > s->rx_credit)
		return false;
	s->rx_credit -= len;
	stream_part(s, data, len);
	return true;
}

bool stream_takes_pieces(const struct stream *s, size_t len)
{
	return len && !s->got_close && len <= s->rx_credit && s->fd >= 0 && !s->in_len;
}

void stream_begin(struct stream *s, size_t len)
{
	s->rx_credit -= len;
}

int stream_sink(const struct stream *s)
{
	return s->in_len ? -1 : s->fd;
}

bool stream_is_full(const struct stream *s)
{
	return s->in_len;
}

void stream_moved(struct stream *s, size_t n)
{
	taken(s, n);
}

/* ---- start */

struct stream *stream_find(struct port *p, uint32_t id)
{
	for (GList *l = p->streams; l; l = l->next) {
		struct stream *s = l->data;

		if (s->id == id)
			return s;
	}
	return NULL;
}

unsigned int offer_streams(struct offer *o, int drive)
{
	unsigned int n = 0;

	for (GList *l = o->share->ports; l; l = l->next) {
		struct port *p = l->data;

		if (drive >= 0 && p->drive != drive)
			continue;
		for (GList *m = p->streams; m; m = m->next) {
			struct stream *s = m->data;

			n += s->offer == o && s->opened;
		}
	}
	return n;
}

bool offer_has_streams(const struct offer *o)
{
	for (GList *l = o->share->ports; l; l = l->next) {
		struct port *p = l->data;

		for (GList *m = p->streams; m; m = m->next) {
			struct stream *s = m->data;

			if (s->offer == o)
				return true;
		}
	}
	return false;
}

static gboolean on_open_timeout(gpointer data)
{
	struct stream *s = data;

	s->open_timer = 0;
	stream_fail(s, FRAME_ERR_TIMEOUT, "the NBD server did not answer");
	return G_SOURCE_REMOVE;
}

static void refuse_changed(struct stream *s, struct offer *o)
{
	session_withdraw_all_ports(o);
	offer_renew(o);
	share_event(o->share, SPICEBD_SHARE_CHANGED, -1, o, NULL);
	session_offer_all_ports(o, -1);
	stream_fail_offer(o, FRAME_ERR_SERVER, "the file was changed");
	stream_fail(s, FRAME_ERR_SERVER, "the file was changed");
}

static void serve(struct stream *s)
{
	g_autofree char *error = NULL;
	struct port *p = s->port;
	struct offer *o = s->offer;

	s->srv = server_start(o, s, p->drive, &s->fd, &error);
	if (!s->srv) {
		stream_fail(s, FRAME_ERR_SERVER, error);
		return;
	}
	arm(s);
	if (!o->read_only && o->writer < 0) {
		o->writer = p->drive;
		session_offer_all_ports(o, p->drive);
	}
}

static void start(struct stream *s, struct offer *o)
{
	struct port *p = s->port;

	if (move_refusal(p, o)) {
		stream_fail(s, FRAME_ERR_MOVED, move_refusal(p, o));
		return;
	}
	if (o->writer >= 0 && o->writer != p->drive) {
		stream_fail(s, FRAME_ERR_BUSY, "open for writing by another drive");
		return;
	}
	if (!offer_unchanged(o)) {
		refuse_changed(s, o);
		return;
	}
	s->offer = o;
	s->open_timer = g_timeout_add(OPEN_TIMEOUT_MS, on_open_timeout, s);
	s->fenced = !o->read_only && server_ending(o);
	if (!s->fenced)
		serve(s);
}

/*
 * The link may resend on this stream what an older one, closed but not yet
 * reaped, could still write: nothing is served before that one is gone.
 */
void stream_unfence(struct port *p)
{
	for (GList *l = p->streams, *next; l; l = next) {
		struct stream *s = l->data;

		next = l->next;
		if (!s->fenced || server_ending(s->offer))
			continue;
		s->fenced = false;
		if (move_refusal(p, s->offer))
			stream_fail(s, FRAME_ERR_MOVED, move_refusal(p, s->offer));
		else
			serve(s);
	}
}

void stream_open(struct port *p, uint32_t id, struct offer *o, uint32_t credit)
{
	unsigned int n = g_list_length(p->streams);
	struct stream *s = (struct stream *)g_source_new(&stream_funcs, sizeof(*s));

	memset((char *)s + sizeof(GSource), 0, sizeof(*s) - sizeof(GSource));
	s->port = p;
	s->id = id;
	s->fd = -1;
	s->tx_credit = credit;
	/* Else GLib takes it out of the poll set and in again at each event. */
	g_source_set_can_recurse(&s->source, TRUE);
	g_source_attach(&s->source, NULL);
	p->streams = g_list_append(p->streams, s);
	if (n >= FRAME_STREAMS_MAX)
		stream_fail(s, FRAME_ERR_LIMIT, "too many streams");
	else if (!o)
		stream_fail(s, FRAME_ERR_NO_SUCH_OFFER, "not offered any more");
	else
		start(s, o);
}
