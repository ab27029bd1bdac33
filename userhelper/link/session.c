// SPDX-License-Identifier: GPL-2.0-only
/* One port's session: epochs, hello, pings and the order of what is sent. */
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "session_impl.h"
#include "sock.h"

#define HOLD_TIME	5	/* ms */
#define EPOCHS_MAX	16	/* new epochs in ... */
#define EPOCHS_WINDOW	10000	/* ... ms, before it is an attack or a loop */

void session_emit(struct session *s, struct link_msg *m, int fd)
{
	m->port = s->port;
	m->epoch = s->epoch;
	s->ops->emit(m, fd);
}

/* ---- sending ---- */

uint8_t *session_room(struct session *s)
{
	if (CTL_MAX - s->ctl_len >= FRAME_SMALL_MAX)
		return s->ctl + s->ctl_len;
	/* A share that asks but does not read what it is answered. */
	if (!s->failed) {
		s->ctl_len = 0;
		session_fail(s, FRAME_ERR_LIMIT, "more requests than answers taken");
	}
	return NULL;
}

void session_queued(struct session *s, size_t len)
{
	s->ctl_len += len;
	s->tx_frames++;
	s->ops->wakeup(s->opaque);
}

size_t session_output(struct session *s, uint8_t *buf, size_t size)
{
	size_t n;

	if (!s->started)
		return 0;
	/*
	 * Control frames were numbered when they were queued, data frames are
	 * when they leave: nothing may overtake the queue.
	 */
	memcpy(buf, s->ctl, s->ctl_len);
	n = s->ctl_len;
	s->ctl_len = 0;
	if (s->up && !s->failed)
		n += streams_output(s, buf + n, size - n);
	s->tx_bytes += n;
	return n;
}

static void send_hello(struct session *s)
{
	struct frame_hello h = {
		.version = FRAME_VERSION,
		.role = FRAME_ROLE_LINK,
		.epoch = s->epoch,
		.capabilities = FRAME_CAP_ANSWERS | FRAME_CAP_MOVE |
				(s->params->client_insert ? FRAME_CAP_INSERT : 0) |
				(s->params->lossy ? FRAME_CAP_CHECKS : 0),
		.frame_max = FRAME_MAX,
		.ping_interval = s->params->ping_interval,
		.ping_timeout = s->params->ping_timeout,
	};
	uint8_t *out = session_room(s);

	memcpy(h.secret, s->secret, sizeof(h.secret));
	memcpy(h.boot_id, s->params->boot_id, sizeof(h.boot_id));
	memcpy(h.instance, s->params->instance, sizeof(h.instance));
	if (out)
		session_queued(s, frame_pack_hello(&s->tx, out, &h));
}

/* ---- beginning and end ---- */

static void forget_offers(struct session *s)
{
	size_t i;

	for (i = 0; i < FRAME_OFFERS_MAX; i++) {
		free(s->offers[i]);
		s->offers[i] = NULL;
	}
	s->offers_end = false;
}

void session_down(struct session *s, const char *why, bool ended)
{
	struct link_msg m = { .type = LINK_PORT_DOWN, .flags = ended };

	streams_abort(s, false, ENOTCONN, why);
	forget_offers(s);
	if (!s->up)
		return;
	s->up = false;
	log_info("port %u: down: %s", s->port, why);
	snprintf(m.text, sizeof(m.text), "%s", why);
	session_emit(s, &m, -1);
}

static bool epochs_in_bounds(struct session *s)
{
	long long now = now_ms();

	if (now - s->epochs_since > EPOCHS_WINDOW) {
		s->epochs_since = now;
		s->n_epochs = 0;
	}
	return ++s->n_epochs <= EPOCHS_MAX;
}

/* Start anew within the transport: what was sent before is of no meaning now. */
void session_epoch(struct session *s, const char *why)
{
	uint32_t epoch;

	session_down(s, why, false);
	if (!s->started || s->failed)
		return;
	if (!epochs_in_bounds(s)) {
		session_fail(s, FRAME_ERR_LIMIT, "too many new sessions in a short time");
		return;
	}
	do {
		random_bytes(&epoch, sizeof(epoch));
	} while (!epoch || epoch == s->epoch);
	s->epoch = epoch;
	s->tx = (struct frame_tx) { .epoch = epoch };
	s->ctl_len = 0;
	s->next_stream = 1;
	frame_rx_init(s->rx, epoch);
	s->hello_due = now_ms() + s->params->hello_timeout;
	send_hello(s);
	loop_timer_start(s->timer, s->params->hello_timeout);
	log_debug("port %u: epoch %08x: %s", s->port, epoch, why);
}

void session_start(struct session *s, const uint8_t *secret)
{
	memcpy(s->secret, secret, sizeof(s->secret));
	s->started = true;
	s->failed = false;
	s->said_quiet = false;
	s->n_epochs = 0;
	s->last_heard = now_ms();
	session_epoch(s, "connected");
}

void session_stop(struct session *s, const char *why)
{
	session_down(s, why, false);
	s->started = false;
	s->ctl_len = 0;
	loop_timer_stop(s->timer);
}

/*
 * May be called from anywhere, so it frees nothing: the transport, which gives
 * the BYE a moment to leave, ends the session by session_stop().
 */
void session_fail(struct session *s, enum frame_code code, const char *why)
{
	uint8_t *out;

	if (s->failed || !s->started)
		return;
	s->failed = true;
	log_warn("port %u: %s: %s: the client is disconnected", s->port, frame_code_str(code), why);
	out = session_room(s);
	if (out)
		session_queued(s, frame_pack_code(&s->tx, out, FRAME_BYE, 0, code, why));
	loop_timer_stop(s->timer);
	s->ops->fail(s->opaque, why);
}

/* ---- receiving ---- */

void session_input(struct session *s, const uint8_t *data, size_t len)
{
	const uint8_t *payload;
	struct frame_header h;

	s->rx_bytes += len;
	while (s->started && !s->failed) {
		switch (frame_rx_feed(s->rx, &data, &len, &h, &payload)) {
		case FRAME_RX_NEED_MORE:
			return;
		case FRAME_RX_SKIPPED:
			break;
		case FRAME_RX_LOST:
			log_info("port %u: frames were lost: starting a new session", s->port);
			session_epoch(s, "frames were lost");
			break;
		case FRAME_RX_FRAME:
			s->rx_frames++;
			session_hear(s, &h, payload);
			break;
		}
	}
}

/*
 * A stream that ends meanwhile takes the rest of its frame with it: what carries
 * the frames knows where the frame ends.
 */
bool session_begin(struct session *s, const uint8_t *head, size_t len)
{
	struct frame_header h;
	struct stream *st;

	s->direct = NULL;
	if (!s->up || s->failed || !frame_rx_ahead(s->rx, head, len, &h))
		return false;
	st = stream_find(s, h.stream);
	if (!st || !stream_takes_pieces(st, h.length))
		return false;
	frame_rx_passed(s->rx);
	s->rx_frames++;
	s->rx_bytes += FRAME_HEADER_LEN;
	s->last_heard = now_ms();
	stream_begin(st, h.length);
	s->direct = st;
	return true;
}

int session_sink(const struct session *s)
{
	return s->direct ? stream_sink(s->direct) : -1;
}

void session_moved(struct session *s, size_t n)
{
	s->rx_bytes += n;
	s->last_heard = now_ms();
	if (s->direct)
		stream_moved(s->direct, n);
}

void session_part(struct session *s, const uint8_t *data, size_t len)
{
	s->rx_bytes += len;
	s->last_heard = now_ms();
	if (s->direct)
		stream_part(s->direct, data, len);
}

/*
 * What a busy daemon does not take at once would have to be copied to a queue, and
 * left behind in the processor's cache. For a moment it may as well lie with the
 * kernel, which then slows down the share; not for longer, and not with other
 * streams behind it, since pings are there, too.
 */
bool session_hold(struct session *s)
{
	if (s->hold_over || s->n_streams != 1 || !stream_is_full(s->streams))
		return false;
	if (!s->held)
		loop_timer_start(s->hold_timer, HOLD_TIME);
	s->held = true;
	return true;
}

static void hold_ends(void *opaque)
{
	struct session *s = opaque;

	s->held = false;
	s->hold_over = true;
	s->ops->wakeup(s->opaque);
}

void session_flows(struct session *s)
{
	bool was_held = s->held;

	s->held = false;
	s->hold_over = false;
	loop_timer_stop(s->hold_timer);
	if (was_held)
		s->ops->wakeup(s->opaque);
}

/* ---- time ---- */

static void ping(struct session *s, long long now)
{
	uint8_t *out = session_room(s);

	s->ping_due = now + s->params->ping_interval;
	/* One at a time: the round trip is that of the last one answered. */
	s->ping_sent = now;
	if (out)
		session_queued(s, frame_pack_u64(&s->tx, out, FRAME_PING, ++s->ping_token));
}

static void hello_late(struct session *s)
{
	s->hello_due = 0;
	if (s->said_quiet)
		return;
	s->said_quiet = true;
	log_notice("port %u: the client is connected but offers no media: it needs spicebd-share, other viewers are left alone",
		   s->port);
}

static void session_tick(void *opaque)
{
	struct session *s = opaque;
	long long now = now_ms(), next;

	if (!s->started || s->failed)
		return;
	if (!s->up) {
		if (s->hello_due && now >= s->hello_due)
			hello_late(s);
		else if (s->hello_due)
			loop_timer_start(s->timer, s->hello_due - now);
		return;
	}
	if (now - s->last_heard >= s->params->ping_timeout) {
		log_notice("port %u: nothing heard for %lld s: the session is dead", s->port,
			   (now - s->last_heard) / 1000);
		session_down(s, "timed out", false);
		s->ops->dead(s->opaque);
		return;
	}
	if (now >= s->ping_due)
		ping(s, now);
	next = stream_check_deadlines(s, now);
	if (s->last_heard + s->params->ping_timeout < next)
		next = s->last_heard + s->params->ping_timeout;
	if (s->ping_due < next)
		next = s->ping_due;
	loop_timer_start(s->timer, next > now ? next - now : 1);
}

/* ---- what the daemon asks for ---- */

void session_open_stream(struct session *s, uint32_t offer, uint32_t tag)
{
	struct link_msg m = { .type = LINK_STREAM_FAILED, .offer = offer, .tag = tag };
	const char *why = "no client serves this port";
	int err = ENOTCONN;

	if (s->up && !s->failed && stream_open(s, offer, tag, &why, &err))
		return;
	m.error = err;
	snprintf(m.text, sizeof(m.text), "%s", why);
	session_emit(s, &m, -1);
}

void session_notice(struct session *s, uint32_t offer, uint32_t what, const char *text)
{
	bool may_talk = s->peer_caps & FRAME_CAP_ANSWERS;
	uint8_t *out;

	if (!s->up || s->failed || what < FRAME_NOTICE_INSERTED || what > FRAME_NOTICE_BUSY)
		return;
	out = session_room(s);
	if (out)
		session_queued(s, frame_pack_notice(&s->tx, out, what, offer,
						   may_talk ? text : NULL));
}

void session_reset(struct session *s, const char *why)
{
	session_epoch(s, why);
}

void session_get_stats(struct session *s)
{
	struct link_msg m = { .type = LINK_STATS };

	m.u.stats.rx_bytes = s->rx_bytes;
	m.u.stats.tx_bytes = s->tx_bytes;
	m.u.stats.rx_frames = s->rx_frames;
	m.u.stats.tx_frames = s->tx_frames;
	m.u.stats.rtt_us = s->rtt_us;
	m.u.stats.streams = s->n_streams;
	session_emit(s, &m, -1);
}

void session_replay(struct session *s)
{
	struct link_msg m;
	size_t i;

	if (!s->up)
		return;
	session_emit_up(s);
	for (i = 0; i < FRAME_OFFERS_MAX; i++)
		if (s->offers[i])
			session_emit_offer(s, s->offers[i]);
	if (!s->offers_end)
		return;
	m = (struct link_msg) { .type = LINK_OFFERS_END };
	session_emit(s, &m, -1);
}

void session_daemon_gone(struct session *s)
{
	streams_abort(s, true, ECONNRESET, "the daemon went away");
}

/* ---- life ---- */

bool session_is_up(const struct session *s)
{
	return s->up;
}

long long session_last_heard(const struct session *s)
{
	return s->last_heard;
}

struct session *session_new(uint32_t port, const struct session_params *params,
			    const struct session_ops *ops, void *opaque)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->rx = calloc(1, sizeof(*s->rx));
	s->timer = loop_timer_add(session_tick, s);
	s->hold_timer = loop_timer_add(hold_ends, s);
	if (!s->rx || !s->timer || !s->hold_timer) {
		loop_timer_remove(s->hold_timer);
		loop_timer_remove(s->timer);
		free(s->rx);
		free(s);
		return NULL;
	}
	s->port = port;
	s->params = params;
	s->ops = ops;
	s->opaque = opaque;
	return s;
}

void session_free(struct session *s)
{
	if (!s)
		return;
	session_stop(s, "port removed");
	loop_timer_remove(s->hold_timer);
	loop_timer_remove(s->timer);
	free(s->rx);
	free(s);
}
