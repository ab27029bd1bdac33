// SPDX-License-Identifier: GPL-2.0-only
/*
 * Streams: NBD byte streams between frames and the sockets that the daemon
 * was given.
 *
 * Towards the share nothing is stored: bytes leave the socket when a frame for
 * them leaves. From the share, what the socket does not take at once is queued,
 * and the credit that the share has left is what bounds the queue.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "session_impl.h"
#include "sock.h"

#define CHUNK_DATA	(65536u - sizeof(struct chunk))

#define CHUNKS_KEPT	32u	/* 2 MiB: malloc() would give each back and clear the next */

static size_t budget_used;	/* sum of the windows of all streams of all ports */
static struct chunk *kept;	/* for the next queues */
static unsigned int n_kept;

struct stream *stream_find(struct session *s, uint32_t id)
{
	struct stream *st;

	for (st = s->streams; st; st = st->next)
		if (st->id == id && st->state != STREAM_DRAINING)
			return st;
	return NULL;
}

/* ---- end ---- */

static struct chunk *chunk_new(void)
{
	struct chunk *c = kept;

	if (c) {
		kept = c->next;
		n_kept--;
	} else {
		c = malloc(sizeof(*c) + CHUNK_DATA);
	}
	if (!c)
		return NULL;
	c->next = NULL;
	c->start = 0;
	c->end = 0;
	return c;
}

static void chunk_free(struct chunk *c)
{
	if (n_kept == CHUNKS_KEPT) {
		free(c);
		return;
	}
	c->next = kept;
	kept = c;
	n_kept++;
}

static void drop_queue(struct stream *st)
{
	struct chunk *c;

	while ((c = st->queue)) {
		st->queue = c->next;
		chunk_free(c);
	}
	st->queue_tail = &st->queue;
	session_flows(st->session);
}

static void close_socket(struct stream *st)
{
	loop_watch_remove(st->watch);
	st->watch = NULL;
	if (st->fd >= 0)
		close(st->fd);
	st->fd = -1;
	drop_queue(st);
}

static void stream_free(struct stream *st)
{
	struct session *s = st->session;
	struct stream **p;

	for (p = &s->streams; *p != st; p = &(*p)->next)
		;
	*p = st->next;
	if (s->turn == st)
		s->turn = st->next;
	if (s->direct == st)
		s->direct = NULL;
	s->n_streams--;
	budget_used -= st->window;
	close_socket(st);
	free(st);
}

static void send_close(struct stream *st, uint32_t code, const char *text)
{
	struct session *s = st->session;
	uint8_t *out = session_room(s);

	if (out)
		session_queued(s, frame_pack_code(&s->tx, out, FRAME_CLOSE, st->id, code, text));
}

static void tell_failed(struct stream *st, int err, const char *text)
{
	struct link_msg m = {
		.type = LINK_STREAM_FAILED, .offer = st->offer, .tag = st->tag, .error = err,
	};

	snprintf(m.text, sizeof(m.text), "%s", text);
	session_emit(st->session, &m, -1);
}

/* Our side is done with it; the share's CLOSE is still to come. */
static void close_by_us(struct stream *st, uint32_t code, const char *text)
{
	close_socket(st);
	st->state = STREAM_CLOSING;
	send_close(st, code, text);
}

void streams_abort(struct session *s, bool tell_share, int err, const char *why)
{
	struct stream *st, *next;

	for (st = s->streams; st; st = next) {
		next = st->next;
		if (st->state == STREAM_OPENING)
			tell_failed(st, err, why);
		if (!tell_share || st->state == STREAM_DRAINING)
			stream_free(st);
		else if (st->state != STREAM_CLOSING)
			close_by_us(st, FRAME_OK, why);
	}
}

long long stream_check_deadlines(struct session *s, long long now)
{
	long long first = LLONG_MAX;
	struct stream *st, *next;

	for (st = s->streams; st; st = next) {
		next = st->next;
		if (st->state == STREAM_OPENING && now >= st->deadline) {
			tell_failed(st, ETIMEDOUT, "the share did not open the stream in time");
			close_by_us(st, FRAME_ERR_TIMEOUT, "not opened in time");
		} else if (st->state == STREAM_OPENING && st->deadline < first) {
			first = st->deadline;
		}
	}
	return first;
}

/* ---- beginning ---- */

/* The windows of all streams together stay below the budget. */
static uint32_t take_window(const struct session *s)
{
	size_t left = s->params->credit_budget - budget_used;
	uint32_t w = STREAM_WINDOW;

	while (w > STREAM_WINDOW_MIN && w > left / 4)
		w /= 2;
	return w <= left ? w : 0;
}

bool stream_open(struct session *s, uint32_t offer, uint32_t tag, const char **why, int *err)
{
	struct stream *st;
	uint32_t v[2] = { offer };
	uint8_t *out;
	size_t i;

	*err = ENOENT;
	*why = "the share offers no such medium";
	for (i = 0; i < FRAME_OFFERS_MAX; i++)
		if (s->offers[i] && s->offers[i]->id == offer)
			break;
	if (i == FRAME_OFFERS_MAX)
		return false;
	*err = EMFILE;
	*why = "too many streams on this port";
	v[1] = take_window(s);
	if (s->n_streams >= FRAME_STREAMS_MAX || !v[1])
		return false;
	*err = ENOMEM;
	*why = "out of memory";
	st = calloc(1, sizeof(*st));
	out = session_room(s);
	if (!st || !out) {
		free(st);
		return false;
	}
	st->session = s;
	st->id = s->next_stream++;
	st->offer = offer;
	st->tag = tag;
	st->fd = -1;
	st->state = STREAM_OPENING;
	st->deadline = now_ms() + OPEN_TIMEOUT;
	loop_timer_start(s->timer, 1);	/* it finds out what is due first */
	st->window = v[1];
	st->rx_credit = v[1];
	st->queue_tail = &st->queue;
	st->next = s->streams;
	s->streams = st;
	s->n_streams++;
	budget_used += st->window;
	session_queued(s, frame_pack_u32s(&s->tx, out, FRAME_OPEN, st->id, v, 2));
	return true;
}

static void want(struct stream *st, unsigned int events)
{
	if (st->wanted == events || !st->watch)
		return;
	st->wanted = events;
	loop_watch_set(st->watch, events);
}

static void stream_event(int fd, int events, void *opaque);

void stream_opened(struct stream *st, uint32_t credit)
{
	struct session *s = st->session;
	struct link_msg m = { .type = LINK_STREAM, .offer = st->offer, .tag = st->tag };
	int sv[2];

	if (st->state == STREAM_CLOSING)	/* crossed our CLOSE */
		return;
	if (st->state != STREAM_OPENING || credit > FRAME_CREDIT_MAX) {
		session_fail(s, FRAME_ERR_PROTOCOL, "an OPENED out of place or with too much credit");
		return;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0) {
		tell_failed(st, errno, "cannot make a socket pair");
		close_by_us(st, FRAME_ERR_LIMIT, "out of descriptors");
		return;
	}
	st->fd = sv[0];
	st->wanted = LOOP_READ;
	st->watch = loop_watch_add(st->fd, LOOP_READ, stream_event, st);
	if (!st->watch) {
		close(sv[1]);
		tell_failed(st, ENOMEM, "out of memory");
		close_by_us(st, FRAME_ERR_LIMIT, "out of memory");
		return;
	}
	st->state = STREAM_OPEN;
	st->tx_credit = credit;
	session_emit(s, &m, sv[1]);
}

/* ---- from the share to the daemon ---- */

/* Grant what the daemon took, in steps big enough not to be a load themselves. */
static void drained(struct stream *st, size_t n)
{
	struct session *s = st->session;
	uint32_t v;
	uint8_t *out;

	st->drained += n;
	if (st->state != STREAM_OPEN || st->drained < st->window / 4)
		return;
	out = session_room(s);
	if (!out)
		return;
	v = st->drained;
	st->drained = 0;
	st->rx_credit += v;
	session_queued(s, frame_pack_u32s(&s->tx, out, FRAME_CREDIT, st->id, &v, 1));
}

static bool enqueue(struct stream *st, const uint8_t *data, size_t len)
{
	struct chunk *c;
	size_t n;

	while (len) {
		c = st->queue ? (struct chunk *)((char *)st->queue_tail - offsetof(struct chunk, next))
			      : NULL;
		if (!c || c->end == CHUNK_DATA) {
			c = chunk_new();
			if (!c)
				return false;
			*st->queue_tail = c;
			st->queue_tail = &c->next;
		}
		n = CHUNK_DATA - c->end < len ? CHUNK_DATA - c->end : len;
		memcpy(c->data + c->end, data, n);
		c->end += n;
		data += n;
		len -= n;
	}
	return true;
}

/* Returns bytes taken by the socket, or -1 when the daemon has closed its end. */
static ssize_t give(struct stream *st, const uint8_t *data, size_t len)
{
	ssize_t n = send(st->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	return n;
}

void stream_part(struct stream *st, const uint8_t *data, size_t len)
{
	ssize_t n = 0;

	if (st->state != STREAM_OPEN)
		return;
	if (!st->queue)
		n = give(st, data, len);
	if (n < 0) {
		close_by_us(st, FRAME_OK, "");
		return;
	}
	if (n < len) {
		if (!enqueue(st, data + n, len - n)) {
			close_by_us(st, FRAME_ERR_LIMIT, "out of memory");
			return;
		}
		want(st, st->wanted | LOOP_WRITE);
	}
	drained(st, n);
}

void stream_data(struct stream *st, const uint8_t *data, size_t len)
{
	if (!len || len > st->rx_credit || st->state == STREAM_OPENING) {
		session_fail(st->session, FRAME_ERR_PROTOCOL,
			     !len ? "an empty DATA frame" :
			     st->state == STREAM_OPENING ? "data before the stream was opened" :
			     "more data than credit was given for");
		return;
	}
	st->rx_credit -= len;
	stream_part(st, data, len);
}

bool stream_takes_pieces(const struct stream *st, size_t len)
{
	return st->state == STREAM_OPEN && len && len <= st->rx_credit && !st->queue;
}

void stream_begin(struct stream *st, size_t len)
{
	st->rx_credit -= len;
}

int stream_sink(const struct stream *st)
{
	return st->state == STREAM_OPEN && !st->queue ? st->fd : -1;
}

bool stream_is_full(const struct stream *st)
{
	return st->queue;
}

void stream_moved(struct stream *st, size_t n)
{
	drained(st, n);
}

/* Returns false when the stream is gone. */
static bool flush_queue(struct stream *st)
{
	struct chunk *c;
	ssize_t n;

	while ((c = st->queue)) {
		n = give(st, c->data + c->start, c->end - c->start);
		if (n == 0)
			return true;
		if (n < 0) {
			if (st->state == STREAM_DRAINING) {
				stream_free(st);
				return false;
			}
			close_by_us(st, FRAME_OK, "");
			return true;
		}
		c->start += n;
		if (c->start == c->end) {
			st->queue = c->next;
			if (!st->queue)
				st->queue_tail = &st->queue;
			chunk_free(c);
		}
		drained(st, n);
	}
	if (st->state == STREAM_DRAINING) {
		stream_free(st);
		return false;
	}
	want(st, st->wanted & ~LOOP_WRITE);
	session_flows(st->session);
	return true;
}

static int errno_of(uint32_t code)
{
	switch (code) {
	case FRAME_ERR_NO_SUCH_OFFER:
		return ENOENT;
	case FRAME_ERR_BUSY:
		return EBUSY;
	case FRAME_ERR_LIMIT:
		return EMFILE;
	case FRAME_ERR_TIMEOUT:
		return ETIMEDOUT;
	case FRAME_ERR_SHUTDOWN:
		return ESHUTDOWN;
	case FRAME_ERR_PROTOCOL:
	case FRAME_ERR_VERSION:
		return EPROTO;
	default:
		return EIO;
	}
}

/* The share's CLOSE. What it sent before is still given to the daemon. */
void stream_closed(struct stream *st, uint32_t code, const char *text)
{
	if (code != FRAME_OK)
		log_info("port %u: stream %u: %s%s%s", st->session->port, st->id,
			 frame_code_str(code), *text ? ": " : "", text);
	switch (st->state) {
	case STREAM_OPENING:
		tell_failed(st, errno_of(code), *text ? text : frame_code_str(code));
		send_close(st, FRAME_OK, "");
		stream_free(st);
		break;
	case STREAM_OPEN:
		send_close(st, FRAME_OK, "");
		st->state = STREAM_DRAINING;
		want(st, LOOP_WRITE);
		flush_queue(st);
		break;
	default:
		stream_free(st);
	}
}

/* ---- from the daemon to the share ---- */

void stream_credit(struct stream *st, uint32_t bytes)
{
	if (!bytes || st->state == STREAM_OPENING || bytes > FRAME_CREDIT_MAX - st->tx_credit) {
		session_fail(st->session, FRAME_ERR_PROTOCOL, "a CREDIT out of place or of a wrong size");
		return;
	}
	if (st->state != STREAM_OPEN)
		return;
	st->tx_credit += bytes;
	if (st->readable)
		st->session->ops->wakeup(st->session->opaque);
}

static void stream_event(int fd, int events, void *opaque)
{
	struct stream *st = opaque;

	if (events & LOOP_WRITE && !flush_queue(st))
		return;
	if (events & LOOP_READ && st->state == STREAM_OPEN) {
		st->readable = true;
		want(st, st->wanted & ~LOOP_READ);
		st->session->ops->wakeup(st->session->opaque);
	}
}

/* One frame's worth from one stream. Returns bytes of the frame. */
static size_t take(struct stream *st, uint8_t *buf, size_t size)
{
	struct session *s = st->session;
	size_t max = frame_room(&s->tx, size < s->peer_frame_max ? size : s->peer_frame_max);
	ssize_t n;

	if (max > st->tx_credit)
		max = st->tx_credit;
	n = recv(st->fd, buf + FRAME_HEADER_LEN, max, MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		n = 0;
	if (n == 0) {
		close_by_us(st, FRAME_OK, "");
		return 0;
	}
	if (n < (ssize_t)max) {
		st->readable = false;
		want(st, st->wanted | LOOP_READ);
	}
	if (n < 0)
		return 0;
	st->tx_credit -= n;
	s->tx_frames++;
	return frame_seal(&s->tx, buf, FRAME_DATA, st->id, n);
}

static bool can_send(const struct stream *st)
{
	return st->state == STREAM_OPEN && st->readable && st->tx_credit;
}

static struct stream *next_turn(struct session *s)
{
	struct stream *st;

	for (st = s->turn; st; st = st->next)
		if (can_send(st))
			return st;
	for (st = s->streams; st && st != s->turn; st = st->next)
		if (can_send(st))
			return st;
	return NULL;
}

size_t streams_output(struct session *s, uint8_t *buf, size_t size)
{
	struct stream *st;
	size_t n = 0;

	/* A CLOSE in the queue has its number: no data frame may leave before it. */
	while (!s->ctl_len && size - n > FRAME_HEADER_LEN + 64 && (st = next_turn(s))) {
		s->turn = st->next;
		n += take(st, buf + n, size - n);
	}
	return n;
}
