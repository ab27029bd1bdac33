// SPDX-License-Identifier: GPL-2.0-only
#include "io.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <glib.h>

#include "log.h"
#include "nbdwire.h"
#include "slotlist.h"
#include "sock.h"
#include "work.h"

/* Reads under way in one thread: what they touch of the slots' memory. */
#define READ_LIMIT	(32u << 20)
#define RELAX_MS	10000
#define BYE_MS		500
#define RETRY_MS	10
/* See at_depth_one(). */
#define ALONE_TURNS	16
#define ALONE_NOT	1000

/* ring_slot.flags_io: counted in q->sent_writes */
#define SLOT_SENT	(1u << 0)
/* ... : found nothing in the cache; goes to the server by itself */
#define SLOT_DIRECT	(1u << 1)

enum order {
	ORDER_CONNECT = 1 << 0,
	ORDER_DISCONNECT = 1 << 1,
	ORDER_STOP = 1 << 2,
	ORDER_DRAIN = 1 << 3,
	ORDER_AGAIN = 1 << 4,		/* what waits for blocks may find them */
};

struct ioq {
	struct io *io;
	GThread *thread;
	struct ring *ring;
	struct nbd_handle *nbd;
	struct wire *wire;		/* does the transmission, or NULL: libnbd does */
	int order_fd;

	/* orders of the main thread, written under io->lock */
	gint orders;
	struct nbd_handle *new_nbd;
	unsigned int new_round;

	/* the thread's own */
	unsigned int round;
	struct slot_list pending;	/* not sent, or to be sent again */
	struct slot_list out;		/* sent */
	struct slot_list waiting;	/* for blocks that are coming (io->far) */
	unsigned int fetching;		/* blocks under way here */
	bool again;			/* some have come */
	bool measured;			/* something came, so the path may be known better */
	size_t write_bytes, read_bytes;
	long long now;			/* ms, of this turn of the loop */
	bool lost;
	char lost_text[160];
	long long heard;		/* when the far end last showed life */
	bool stalled;
	bool draining, clean;
	bool deaf;			/* the queue socket is of no use */
	bool hot;			/* an answer has just left */
	int alone;			/* requests in turn that found no other under way */
	long long drain_end;
	long long busy_at;		/* when there last was a request */
	bool relaxed;
	/* written by the thread alone, so that threads share nothing on the way */
	gint unanswered, sent_writes;
	uint64_t acked;			/* writes */
};

struct io {
	struct io_params p;
	GMutex lock;
	struct ioq q[IO_QUEUES_MAX];
	unsigned int n;
	unsigned int round;
	uint32_t queue_write_limit;
	gint running;
	gint started;
	int drain_ms;
	gint unclean;
	gint conns;			/* that the threads hold */
	gint fail_flush, flush_failed;
	struct far *far;		/* NULL: the path is near */
	/* how many of the acknowledged writes of all queues a flush has covered */
	uint64_t flushed;
};

static bool changes_store(uint32_t op)
{
	return op == SPICEBD_OP_WRITE || op == SPICEBD_OP_DISCARD ||
	       op == SPICEBD_OP_WRITE_ZEROES;
}

/* Events to the main thread. */

struct post {
	struct io *io;
	enum io_event ev;
	unsigned int round;
	char text[160];
};

/*
 * The io outlives every event of its threads: it is freed after IO_ENDED, which
 * is the last.
 */
static void deliver(void *arg)
{
	struct post *m = arg;

	m->io->p.event(m->ev, m->round, m->text, m->io->p.arg);
	g_free(m);
}

static void post(struct io *io, enum io_event ev, unsigned int round, const char *text)
{
	struct post *m = g_new0(struct post, 1);

	m->io = io;
	m->ev = ev;
	m->round = round;
	g_strlcpy(m->text, text, sizeof(m->text));
	main_post(deliver, m);
}

/* Requests. */

static uint32_t io_error(int error)
{
	switch (error) {
	case 0:
	case ENOSPC:
	case EOPNOTSUPP:
		return error;
	case EDQUOT:
	case EFBIG:
		return ENOSPC;
	default:
		return EIO;
	}
}

/* Of a counter that only the caller's thread writes. */
static void count(gint *n, int by)
{
	__atomic_store_n(n, *n + by, __ATOMIC_RELAXED);
}

/*
 * Writes acknowledged so far. They are counted one queue after the other: each
 * that is in the sum was acknowledged before, some that are not may have been,
 * so what a flush is said to cover is never too much.
 */
static uint64_t acked_writes(const struct io *io)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < io->n; i++)
		sum += __atomic_load_n(&io->q[i].acked, __ATOMIC_ACQUIRE);
	return sum;
}

static void note_done(struct ioq *q, const struct ring_slot *s, uint32_t error)
{
	struct io *io = q->io;
	uint64_t old;

	if (error)
		return;
	if (changes_store(s->op)) {
		if (!(s->flags & SPICEBD_IO_FUA))
			__atomic_store_n(&q->acked, q->acked + 1, __ATOMIC_SEQ_CST);
		return;
	}
	if (s->op != SPICEBD_OP_FLUSH)
		return;
	old = __atomic_load_n(&io->flushed, __ATOMIC_SEQ_CST);
	while (old < s->mark &&
	       !__atomic_compare_exchange_n(&io->flushed, &old, s->mark, false,
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		;
}

static void answer(struct ioq *q, struct ring_slot *s, uint32_t error)
{
	note_done(q, s, error);
	count(&q->unanswered, -1);
	if (s->flags_io & SLOT_SENT)
		count(&q->sent_writes, -1);
	ring_complete(q->ring, s, error);
}

static void account(struct ioq *q, const struct ring_slot *s, bool out)
{
	size_t *bytes = s->op == SPICEBD_OP_WRITE ? &q->write_bytes :
			s->op == SPICEBD_OP_READ ? &q->read_bytes : NULL;

	if (bytes)
		*bytes += out ? s->length : -(size_t)s->length;
}

static void mark_lost(struct ioq *q, const char *text)
{
	if (!q->lost)
		g_strlcpy(q->lost_text, text, sizeof(q->lost_text));
	q->lost = true;
}

static unsigned int number_of(const struct ioq *q)
{
	return q - q->io->q;
}

static bool under_way(const struct ioq *q)
{
	return q->out.first || q->fetching;
}

static void block_done(struct ioq *q, void *block, int error)
{
	q->fetching--;
	q->measured = true;
	q->again |= far_done(q->io->far, number_of(q), block, error);
	if (error == ENOTCONN || error == ESHUTDOWN)
		mark_lost(q, error == ESHUTDOWN ? "the server shuts down" :
			  "the connection ended");
}

static void measure_sent(struct ioq *q, struct ring_slot *s)
{
	if (q->io->far && s->op == SPICEBD_OP_READ)
		s->mark = far_sent(q->io->far, number_of(q), s->length);
}

static void measure_came(struct ioq *q, const struct ring_slot *s)
{
	if (!q->io->far || s->op != SPICEBD_OP_READ)
		return;
	far_came(q->io->far, number_of(q), s->mark, s->length, !s->part_error);
	q->measured = true;
}

/* Answers of the server. */
static void part_done(struct ring_slot *s, int error)
{
	struct ioq *q = s->owner;

	/*
	 * Not an answer: the connection ended, or the server goes down. The
	 * request stays in the list of those sent, to be sent again.
	 */
	if (error == ENOTCONN || error == ESHUTDOWN) {
		mark_lost(q, error == ESHUTDOWN ? "the server shuts down" :
			  "the connection ended");
		return;
	}
	if (error)
		s->part_error = io_error(error);
	if (--s->parts)
		return;
	slot_list_del(&q->out, s);
	account(q, s, false);
	measure_came(q, s);
	answer(q, s, s->part_error);
	q->hot = true;
}

/* Called by libnbd with the handle locked. */
static int on_done(void *arg, int *error)
{
	part_done(arg, *error);
	return 1;
}

static void on_wire_done(void *owner, int error, void *arg)
{
	struct ioq *q = arg;

	if (q->io->far && far_owns(q->io->far, owner))
		block_done(q, owner, error);
	else
		part_done(owner, error);
}

static void submit_to_wire(struct ioq *q, struct ring_slot *s, uint32_t at, uint32_t len)
{
	static const enum wire_cmd cmds[] = {
		[SPICEBD_OP_READ] = WIRE_READ,
		[SPICEBD_OP_WRITE] = WIRE_WRITE,
		[SPICEBD_OP_FLUSH] = WIRE_FLUSH,
		[SPICEBD_OP_DISCARD] = WIRE_TRIM,
		[SPICEBD_OP_WRITE_ZEROES] = WIRE_ZEROES,
	};
	uint16_t flags = 0;

	if (s->flags & SPICEBD_IO_FUA && changes_store(s->op))
		flags |= WIRE_FUA;
	if (s->flags & SPICEBD_IO_NO_UNMAP && s->op == SPICEBD_OP_WRITE_ZEROES)
		flags |= WIRE_NO_HOLE;
	wire_submit(q->wire, cmds[s->op], flags, s->op == SPICEBD_OP_FLUSH ? 0 : s->offset + at,
		    len, s->buf + at, s);
}

static int64_t submit_part(struct ioq *q, struct ring_slot *s, uint32_t at, uint32_t len)
{
	nbd_completion_callback cb = { .callback = on_done, .user_data = s };
	uint32_t fua = s->flags & SPICEBD_IO_FUA ? LIBNBD_CMD_FLAG_FUA : 0;

	switch (s->op) {
	case SPICEBD_OP_READ:
		return nbd_aio_pread(q->nbd, s->buf + at, len, s->offset + at, cb, 0);
	case SPICEBD_OP_WRITE:
		return nbd_aio_pwrite(q->nbd, s->buf + at, len, s->offset + at, cb, fua);
	case SPICEBD_OP_DISCARD:
		return nbd_aio_trim(q->nbd, len, s->offset + at, cb, fua);
	case SPICEBD_OP_WRITE_ZEROES:
		if (s->flags & SPICEBD_IO_NO_UNMAP)
			fua |= LIBNBD_CMD_FLAG_NO_HOLE;
		return nbd_aio_zero(q->nbd, len, s->offset + at, cb, fua);
	default:
		return nbd_aio_flush(q->nbd, cb, 0);
	}
}

/* What one part of it may carry at most. */
static uint32_t step_of(const struct ioq *q, const struct ring_slot *s)
{
	bool moves = s->op == SPICEBD_OP_READ || s->op == SPICEBD_OP_WRITE;

	return moves ? q->io->p.props.max_payload : UINT32_MAX;
}

static uint32_t parts_of(const struct ioq *q, const struct ring_slot *s)
{
	uint32_t step = step_of(q, s);

	return s->length ? s->length / step + (s->length % step != 0) : 1;
}

static void submit(struct ioq *q, struct ring_slot *s)
{
	uint32_t step = step_of(q, s), parts = parts_of(q, s), left = s->length, at = 0;

	s->owner = q;
	if (changes_store(s->op) && !(s->flags_io & SLOT_SENT)) {
		s->flags_io |= SLOT_SENT;
		count(&q->sent_writes, 1);
	}
	s->parts = parts;
	s->part_error = 0;
	if (s->op == SPICEBD_OP_FLUSH)
		s->mark = acked_writes(q->io);
	slot_list_add(&q->out, s);
	account(q, s, true);
	measure_sent(q, s);
	if (q->out.n == 1 && !q->fetching)
		q->heard = q->now;
	/* A part may be done, and with the last one the slot gone, before the next. */
	for (uint32_t i = 0; i < parts; i++) {
		uint32_t len = MIN(left, step);
		uint32_t part_at = at;

		left -= len;
		at += len;
		if (q->wire) {
			submit_to_wire(q, s, part_at, len);
			continue;
		}
		if (submit_part(q, s, part_at, len) >= 0)
			continue;
		if (nbd_aio_is_dead(q->nbd) || nbd_aio_is_closed(q->nbd)) {
			/* What was not sent counts as sent: all is sent again. */
			mark_lost(q, nbd_get_error() ?: "the connection ended");
			return;
		}
		log_debug("request refused by libnbd: %s", nbd_get_error());
		s->part_error = EIO;
		if (!--s->parts) {
			slot_list_del(&q->out, s);
			account(q, s, false);
			measure_came(q, s);
			answer(q, s, s->part_error);
			return;
		}
	}
}

/* What needs no server; false: it does. */
static bool answer_here(struct ioq *q, struct ring_slot *s)
{
	struct io *io = q->io;

	if (s->op == SPICEBD_OP_FLUSH) {
		if (g_atomic_int_compare_and_exchange(&io->fail_flush, 1, 0)) {
			g_atomic_int_set(&io->flush_failed, 1);
			answer(q, s, EIO);
			return true;
		}
		if (!io->p.props.flush) {
			answer(q, s, 0);
			return true;
		}
		return false;
	}
	if (changes_store(s->op) && io->p.read_only) {
		answer(q, s, EIO);
		return true;
	}
	if (s->offset + s->length > io->p.props.size) {
		answer(q, s, EIO);
		return true;
	}
	return false;
}

static bool room_for(const struct ioq *q, const struct ring_slot *s)
{
	/* One is always allowed, however large. */
	if (s->op == SPICEBD_OP_WRITE && q->io->queue_write_limit && q->write_bytes)
		return q->write_bytes + s->length <= q->io->queue_write_limit;
	if (s->op == SPICEBD_OP_READ && q->read_bytes)
		return q->read_bytes + s->length <= READ_LIMIT;
	return true;
}

/* Reads that the cache has, or will have; false: the request is to be sent. */
static bool answer_from_cache(struct ioq *q, struct ring_slot *s, bool again)
{
	if (s->op != SPICEBD_OP_READ || s->flags_io & SLOT_DIRECT ||
	    s->offset + s->length > q->io->p.props.size)
		return false;
	switch (far_read(q->io->far, number_of(q), s, again)) {
	case FAR_HIT:
		answer(q, s, 0);
		return true;
	case FAR_WAIT:
		slot_list_add(&q->waiting, s);
		return true;
	default:
		s->flags_io |= SLOT_DIRECT;
		return false;
	}
}

/* Those whose blocks have come are answered, those whose have not are sent. */
static void try_again(struct ioq *q)
{
	struct slot_list list = q->waiting;

	q->again = false;
	memset(&q->waiting, 0, sizeof(q->waiting));
	while (list.first) {
		struct ring_slot *s = list.first;

		slot_list_del(&list, s);
		if (!answer_from_cache(q, s, true))
			slot_list_add(&q->pending, s);
	}
}

/* Called by libnbd with the handle locked. */
static int on_block_done(void *arg, int *error)
{
	struct far_fetch *b = arg;
	struct ioq *q = b->owner;

	block_done(q, b->block, *error);
	return 1;
}

static void fetch_by_libnbd(struct ioq *q, const struct far_fetch *f)
{
	struct far_fetch *b = g_memdup2(f, sizeof(*f));
	/* Freed by the handle, also when that is closed without an answer. */
	nbd_completion_callback cb = {
		.callback = on_block_done, .user_data = b, .free = g_free,
	};

	b->owner = q;
	if (nbd_aio_pread(q->nbd, f->buf, f->len, f->offset, cb, 0) >= 0)
		return;
	block_done(q, f->block, nbd_get_errno() ?: EIO);
}

/* After the requests of this turn, which so are ahead of what nobody waits for. */
static void submit_fetches(struct ioq *q)
{
	struct far_fetch f;

	while (q->nbd && !q->lost && !q->draining &&
	       (!q->wire || wire_room(q->wire) > WIRE_PARTS / 2) &&
	       far_next(q->io->far, number_of(q), &f)) {
		if (!under_way(q))
			q->heard = q->now;
		q->fetching++;
		if (q->wire)
			wire_submit(q->wire, WIRE_READ, 0, f.offset, f.len, f.buf, f.block);
		else
			fetch_by_libnbd(q, &f);
	}
}

static void tell_path(struct ioq *q)
{
	q->measured = false;
	if (far_news(q->io->far))
		post(q->io, IO_PATH, q->round, "");
}

static void submit_pending(struct ioq *q)
{
	while (q->pending.first && q->nbd && !q->lost) {
		struct ring_slot *s = q->pending.first;

		if (q->io->far) {
			slot_list_del(&q->pending, s);
			if (answer_from_cache(q, s, false))
				continue;
			slot_list_add_first(&q->pending, s);
		}
		if (!room_for(q, s) || (q->wire && wire_room(q->wire) < parts_of(q, s)))
			return;
		slot_list_del(&q->pending, s);
		if (!answer_here(q, s))
			submit(q, s);
	}
}

static void on_request(struct ring_slot *s, void *arg)
{
	struct ioq *q = arg;

	count(&q->unanswered, 1);
	if (q->out.first || q->pending.first)
		q->alone = -ALONE_NOT;
	else if (q->alone < ALONE_TURNS)
		q->alone++;
	slot_list_add(&q->pending, s);
	q->relaxed = false;
}

/* Connections. */

static void close_connection(struct ioq *q)
{
	if (!q->nbd)
		return;
	wire_free(q->wire);
	q->wire = NULL;
	nbd_close(q->nbd);
	q->nbd = NULL;
	g_atomic_int_add(&q->io->conns, -1);
	change_wake();
}

/*
 * nbd_close() forgets the commands without a word, so whatever is still listed
 * as sent is unanswered. It goes before what waits, in its old order.
 */
static void drop_connection(struct ioq *q)
{
	struct slot_list later = q->pending;

	close_connection(q);
	memset(&q->pending, 0, sizeof(q->pending));
	slot_list_move(&q->pending, &q->out);
	slot_list_move(&q->pending, &q->waiting);
	slot_list_move(&q->pending, &later);
	/* Nobody writes to its blocks any more, so they may be used again. */
	if (q->io->far)
		far_lost(q->io->far, number_of(q));
	q->fetching = 0;
	q->again = false;
	q->write_bytes = q->read_bytes = 0;
	q->stalled = false;
}

static void check_connection(struct ioq *q)
{
	if (q->nbd && !q->wire && !q->lost && (nbd_aio_is_dead(q->nbd) || nbd_aio_is_closed(q->nbd)))
		mark_lost(q, nbd_get_error() ?: "the connection ended");
	if (!q->nbd || !q->lost)
		return;
	drop_connection(q);
	post(q->io, IO_LOST, q->round, q->lost_text);
}

static void send_wire(struct ioq *q)
{
	if (q->wire && !q->lost && wire_send(q->wire) < 0)
		mark_lost(q, wire_error(q->wire));
}

static void turn_wire(struct ioq *q, short revents)
{
	if (revents & (POLLIN | POLLHUP | POLLERR) && wire_receive(q->wire) < 0)
		mark_lost(q, wire_error(q->wire));
	else if (revents & POLLOUT)
		send_wire(q);
}

static void note_life(struct ioq *q)
{
	q->heard = q->now;
	if (!q->stalled)
		return;
	q->stalled = false;
	post(q->io, IO_ALIVE, q->round, "");
}

static void turn_nbd(struct ioq *q, short revents)
{
	unsigned int dir;
	int r = 0;

	if (!revents)
		return;
	note_life(q);
	if (q->wire) {
		turn_wire(q, revents);
		return;
	}
	dir = nbd_aio_get_direction(q->nbd);
	if ((revents & (POLLIN | POLLHUP | POLLERR)) && (dir & LIBNBD_AIO_DIRECTION_READ))
		r = nbd_aio_notify_read(q->nbd);
	else if (revents & POLLOUT)
		r = nbd_aio_notify_write(q->nbd);
	else
		mark_lost(q, "the connection broke");
	if (r < 0)
		mark_lost(q, nbd_get_error() ?: "the connection ended");
}

/* A server that is told goodbye closes in order; one that hangs is left. */
static void say_goodbye(struct ioq *q)
{
	long long end = now_ms() + BYE_MS;

	if (under_way(q) || nbd_aio_disconnect(q->nbd, 0) < 0)
		return;
	while (!nbd_aio_is_closed(q->nbd) && !nbd_aio_is_dead(q->nbd) && now_ms() < end) {
		unsigned int dir = nbd_aio_get_direction(q->nbd);
		struct pollfd p = {
			.fd = nbd_aio_get_fd(q->nbd),
			.events = (dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				  (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0),
		};

		if (poll(&p, 1, (int)(end - now_ms())) <= 0)
			return;
		if (dir & LIBNBD_AIO_DIRECTION_READ && p.revents & ~POLLOUT) {
			if (nbd_aio_notify_read(q->nbd) < 0)
				return;
		} else if (nbd_aio_notify_write(q->nbd) < 0) {
			return;
		}
	}
}

/* The thread. */

static void on_flushed_at_end(struct ioq *q, int error, uint64_t mark)
{
	struct ring_slot f = { .op = SPICEBD_OP_FLUSH, .mark = mark };

	if (!error)
		note_done(q, &f, 0);
}

struct last_flush {
	bool done;
	int error;
};

static int on_last_flush(void *arg, int *error)
{
	struct last_flush *f = arg;

	f->done = true;
	f->error = *error;
	return 1;
}

/* With nothing under way here; others may still write, and flush after us. */
static void flush_at_end(struct ioq *q)
{
	struct last_flush f = { 0 };
	nbd_completion_callback cb = { .callback = on_last_flush, .user_data = &f };
	uint64_t mark = acked_writes(q->io);

	if (!q->nbd || !q->io->p.props.flush ||
	    mark <= __atomic_load_n(&q->io->flushed, __ATOMIC_SEQ_CST))
		return;
	if (nbd_aio_flush(q->nbd, cb, 0) < 0)
		return;
	while (!f.done && now_ms() < q->drain_end) {
		unsigned int dir = nbd_aio_get_direction(q->nbd);
		struct pollfd p = {
			.fd = nbd_aio_get_fd(q->nbd),
			.events = (dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				  (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0),
		};
		int r;

		if (poll(&p, 1, (int)(q->drain_end - now_ms())) <= 0)
			break;
		if (dir & LIBNBD_AIO_DIRECTION_READ && p.revents & ~POLLOUT)
			r = nbd_aio_notify_read(q->nbd);
		else
			r = nbd_aio_notify_write(q->nbd);
		if (r < 0)
			break;
	}
	if (f.done) {
		on_flushed_at_end(q, f.error, mark);
		return;
	}
	/* f is on our stack: the handle must not call back any more. */
	close_connection(q);
}

/* libnbd is the reference: what is odd stays with it, and everything on request. */
static void take_wire(struct ioq *q)
{
	const struct io_params *p = &q->io->p;

	if (!p->libnbd && p->max_io / p->props.max_payload < WIRE_PARTS / 2)
		q->wire = wire_take(q->nbd, on_wire_done, q);
	log_debug("transmission by %s", q->wire ? "spicebdd" : "libnbd");
}

static void take_orders(struct ioq *q, unsigned int *orders)
{
	struct io *io = q->io;
	struct nbd_handle *h;
	uint64_t n;

	if (read(q->order_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		log_warn("eventfd: %s", strerror(errno));
	g_mutex_lock(&io->lock);
	*orders = q->orders;
	q->orders = 0;
	h = q->new_nbd;
	q->new_nbd = NULL;
	if (h) {
		q->round = q->new_round;
		g_atomic_int_inc(&io->conns);
	}
	g_mutex_unlock(&io->lock);
	if (q->nbd && (h || *orders & ORDER_DISCONNECT))
		drop_connection(q);
	if (h) {
		q->nbd = h;
		q->lost = false;
		q->heard = q->now;
		take_wire(q);
	}
	if (*orders & ORDER_AGAIN)
		q->again = true;
	if (*orders & ORDER_DRAIN) {
		q->draining = true;
		q->drain_end = q->now + io->drain_ms;
	}
}

static void check_stall(struct ioq *q)
{
	if (!q->nbd || !under_way(q) || q->stalled ||
	    q->now - q->heard < q->io->p.stall_ms)
		return;
	q->stalled = true;
	post(q->io, IO_STALLED, q->round, "");
}

static int next_timeout(struct ioq *q, bool flush_again)
{
	long long now = q->now, ms = -1, t;

	if (flush_again)
		return RETRY_MS;
	if (q->draining)
		return (int)MAX(q->drain_end - now, 0);
	if (q->nbd && under_way(q) && !q->stalled) {
		t = q->heard + q->io->p.stall_ms - now;
		ms = MAX(t, 0);
	} else if (!q->relaxed && !q->pending.first && !q->waiting.first && !under_way(q)) {
		t = q->busy_at + RELAX_MS - now;
		if (t <= 0) {
			ring_relax(q->ring);
			q->relaxed = true;
		} else {
			ms = t;
		}
	}
	if (ms < 0 && q->relaxed && q->io->far)
		return far_idle(q->io->far, now);
	return (int)ms;
}

static void take_requests(struct ioq *q)
{
	/* Bounded, so that a flood of requests does not starve the answers. */
	for (int i = 0; i < 4; i++) {
		int n = ring_receive(q->ring, on_request, q);

		if (n < 0) {
			log_err("queue socket: %s", strerror(-n));
			q->deaf = true;
		}
		if (n <= 0)
			return;
		q->busy_at = q->now;
		if (n < RING_RX)
			return;
	}
}

/*
 * Where the answer to the only request has just left, the next one is likely
 * to come at once: at depth 1 this saves a poll() for each request. The orders
 * and the server, which cannot have much to say now, wait for it RING_WAIT_US.
 */
static bool wait_for_next(struct ioq *q)
{
	int n;

	if (!q->hot || q->out.first || q->pending.first || q->draining || q->deaf || !q->nbd ||
	    q->io->far)
		return false;
	q->hot = false;
	n = ring_receive_wait(q->ring, on_request, q);
	if (n < 0) {
		log_err("queue socket: %s", strerror(-n));
		q->deaf = true;
	}
	return n > 0;
}

static void finish_turn(struct ioq *q, bool *again)
{
	check_connection(q);
	if (q->again)
		try_again(q);
	if (!q->draining)
		submit_pending(q);
	if (q->io->far)
		submit_fetches(q);
	send_wire(q);
	check_connection(q);
	check_stall(q);
	if (q->measured)
		tell_path(q);
	*again = ring_flush(q->ring) == -EAGAIN;
}

static bool wait_for_reply(struct ioq *q)
{
	int r;

	if (!q->wire || q->lost || q->alone < ALONE_TURNS || !wire_quick(q->wire) ||
	    wire_wants_write(q->wire))
		return false;
	r = wire_receive_wait(q->wire);
	q->now = now_ms();
	if (r < 0)
		mark_lost(q, wire_error(q->wire));
	else if (r)
		note_life(q);
	return r;
}

/*
 * One request at a time and a quick server: what comes next is known, so it is
 * waited for where it comes, without a poll() between. Whether requests still
 * come one at a time only poll() can tell, which is asked every ALONE_TURNS
 * requests; one that comes meanwhile waits for the reply before it, for a tick
 * at most: after that the connection does not count as quick any more.
 */
static void at_depth_one(struct ioq *q, bool *again)
{
	for (int i = 0; i < ALONE_TURNS; i++) {
		if (*again || g_atomic_int_get(&q->orders) || !wait_for_next(q))
			return;
		finish_turn(q, again);
		if (*again || !q->out.first || !wait_for_reply(q))
			return;
		finish_turn(q, again);
	}
}

static bool drained(struct ioq *q)
{
	if (!q->draining)
		return false;
	/* Without a connection nothing more will be answered. */
	return !under_way(q) || !q->nbd || q->now >= q->drain_end;
}

static struct pollfd poll_nbd(const struct ioq *q)
{
	struct pollfd p = { 0 };
	unsigned int dir;

	if (q->wire) {
		p.fd = wire_fd(q->wire);
		p.events = POLLIN | (wire_wants_write(q->wire) ? POLLOUT : 0);
		return p;
	}
	p.fd = nbd_aio_get_fd(q->nbd);
	dir = nbd_aio_get_direction(q->nbd);
	if (dir & LIBNBD_AIO_DIRECTION_READ)
		p.events |= POLLIN;
	if (dir & LIBNBD_AIO_DIRECTION_WRITE)
		p.events |= POLLOUT;
	return p;
}

static gpointer ioq_thread(gpointer arg)
{
	struct ioq *q = arg;
	struct pollfd p[3];
	unsigned int orders = 0;
	bool again = false;

	q->now = q->busy_at = now_ms();
	for (;;) {
		int n = 2;

		at_depth_one(q, &again);
		p[0] = (struct pollfd){ .fd = q->order_fd, .events = POLLIN };
		p[1] = (struct pollfd){ .fd = ring_fd(q->ring), .events = POLLIN };
		if (q->draining || q->deaf)
			p[1].fd = -1;
		if (q->nbd) {
			p[2] = poll_nbd(q);
			n = 3;
		}
		if (poll(p, n, next_timeout(q, again)) < 0 && errno != EINTR)
			log_warn("poll: %s", strerror(errno));
		q->now = now_ms();
		if (p[1].revents)
			take_requests(q);
		if (n == 3)
			turn_nbd(q, p[2].revents);
		if (p[0].revents)
			take_orders(q, &orders);
		if (orders & ORDER_STOP)
			break;
		finish_turn(q, &again);
		if (drained(q))
			break;
	}
	/* What waits unsent is no danger: the kernel holds it for the next helper. */
	q->clean = q->draining && !under_way(q) && q->nbd;
	/* With nothing under way the connection is libnbd's again. */
	wire_free(q->wire);
	q->wire = NULL;
	if (q->clean) {
		ring_flush(q->ring);
		flush_at_end(q);
	}
	if (q->nbd)
		say_goodbye(q);
	if (!q->clean)
		g_atomic_int_inc(&q->io->unclean);
	close_connection(q);
	ring_free(q->ring);
	q->ring = NULL;
	if (g_atomic_int_dec_and_test(&q->io->running))
		post(q->io, IO_ENDED, q->round, "");
	return NULL;
}

/* The main thread's side. */

static void order(struct ioq *q, unsigned int what)
{
	uint64_t one = 1;

	q->orders |= what;
	if (write(q->order_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_warn("eventfd: %s", strerror(errno));
}

/* On another queue's thread, which holds no lock. */
static void wake_queue(unsigned int queue, void *arg)
{
	struct io *io = arg;

	g_mutex_lock(&io->lock);
	order(&io->q[queue], ORDER_AGAIN);
	g_mutex_unlock(&io->lock);
}

static void make_far(struct io *io)
{
	struct far_params f = {
		.size = io->p.props.size, .cache = io->p.cache, .rtt = io->p.props.rtt_us,
		.wake = wake_queue, .arg = io,
	};

	if (!io->p.measure && !io->p.cache)
		return;
	io->far = far_new(&f);
	if (!io->far)
		log_warn("no memory for a cache of %zu bytes: going on without", f.cache);
}

struct io *io_new(const struct io_params *p)
{
	struct io *io = g_new0(struct io, 1);

	io->p = *p;
	g_mutex_init(&io->lock);
	make_far(io);
	return io;
}

int io_add_queue(struct io *io, int sock, const uint8_t key[SPICEBD_KEY_LEN], struct derr *e)
{
	struct ioq *q = &io->q[io->n];
	struct ring_info info;
	char text[160] = "";
	int r;

	q->io = io;
	q->ring = ring_new(sock, io->p.family, io->p.max_io);
	if (!q->ring)
		return derr_set(e, ENOMEM, "out of memory");
	q->order_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = q->order_fd < 0 ? -errno : ring_bind(q->ring, key, io->p.memory, &info, text,
						 sizeof(text));
	if (r < 0) {
		if (q->order_fd >= 0)
			close(q->order_fd);
		ring_free(q->ring);
		memset(q, 0, sizeof(*q));
		return derr_set(e, -r, "%s", *text ? text : strerror(-r));
	}
	log_debug("queue socket bound: credit %u requests, %u bytes; payload in %s",
		  info.credit, info.credit_bytes,
		  info.registered ? "registered memory" : "messages");
	if (io->p.memory && !info.registered)
		log_notice("the kernel does not take %zu bytes of locked memory: payload goes "
			   "in messages, which is slower", io->p.memory);
	io->n++;
	return 0;
}

int io_start(struct io *io)
{
	/* Before the first thread: IO_ENDED means that all have ended. */
	io->queue_write_limit = io->n ? io->p.write_limit / io->n : 0;
	for (unsigned int i = 0; i < io->n; i++) {
		char name[16];

		g_atomic_int_inc(&io->running);
		snprintf(name, sizeof(name), "io%u", i);
		io->q[i].thread = g_thread_try_new(name, ioq_thread, &io->q[i], NULL);
		if (!io->q[i].thread) {
			g_atomic_int_add(&io->running, -1);
			return -EAGAIN;
		}
	}
	io->started = 1;
	return 0;
}

unsigned int io_nr_queues(const struct io *io)
{
	return io->n;
}

void io_connect(struct io *io, struct nbd_handle **h, unsigned int n)
{
	g_mutex_lock(&io->lock);
	io->round++;
	for (unsigned int i = 0; i < io->n; i++) {
		struct ioq *q = &io->q[i];

		if (q->new_nbd)
			nbd_close(q->new_nbd);
		q->new_nbd = i < n ? h[i] : NULL;
		q->new_round = io->round;
		order(q, ORDER_CONNECT);
	}
	g_mutex_unlock(&io->lock);
}

void io_disconnect(struct io *io)
{
	g_mutex_lock(&io->lock);
	for (unsigned int i = 0; i < io->n; i++) {
		if (io->q[i].new_nbd)
			nbd_close(io->q[i].new_nbd);
		io->q[i].new_nbd = NULL;
		order(&io->q[i], ORDER_DISCONNECT);
	}
	g_mutex_unlock(&io->lock);
}

void io_stop(struct io *io, enum io_stop how, int limit_ms)
{
	unsigned int threads = 0;

	g_mutex_lock(&io->lock);
	io->drain_ms = limit_ms;
	for (unsigned int i = 0; i < io->n; i++) {
		if (!io->q[i].thread)
			continue;
		threads++;
		order(&io->q[i], how == IO_STOP_NOW ? ORDER_STOP : ORDER_DRAIN);
	}
	g_mutex_unlock(&io->lock);
	if (!threads)
		post(io, IO_ENDED, 0, "");
}

void io_free(struct io *io)
{
	if (!io)
		return;
	for (unsigned int i = 0; i < io->n; i++) {
		struct ioq *q = &io->q[i];

		if (q->thread)
			g_thread_join(q->thread);
		if (q->new_nbd)
			nbd_close(q->new_nbd);
		ring_free(q->ring);
		close(q->order_fd);
	}
	far_free(io->far);
	g_mutex_clear(&io->lock);
	g_free(io);
}

bool io_clean(const struct io *io)
{
	return !g_atomic_int_get(&io->unclean) && !io_dirty(io);
}

unsigned int io_sent_writes(const struct io *io)
{
	int n = 0;

	for (unsigned int i = 0; i < io->n; i++)
		n += g_atomic_int_get(&io->q[i].sent_writes);
	return n;
}

bool io_disconnected(struct io *io)
{
	bool waiting = false;

	/* A connection that was handed over and not taken yet is one too. */
	g_mutex_lock(&io->lock);
	for (unsigned int i = 0; i < io->n; i++)
		waiting |= io->q[i].new_nbd != NULL;
	g_mutex_unlock(&io->lock);
	return !waiting && !g_atomic_int_get(&io->conns);
}

unsigned int io_unanswered(const struct io *io)
{
	int n = 0;

	for (unsigned int i = 0; i < io->n; i++)
		n += g_atomic_int_get(&io->q[i].unanswered);
	return n;
}

bool io_dirty(const struct io *io)
{
	return acked_writes(io) >
	       __atomic_load_n(&io->flushed, __ATOMIC_SEQ_CST);
}

void io_fail_flush(struct io *io)
{
	g_atomic_int_set(&io->fail_flush, 1);
}

bool io_flush_failed(const struct io *io)
{
	return g_atomic_int_get(&io->flush_failed);
}

void io_forget(struct io *io)
{
	if (io->far)
		far_forget(io->far);
}

bool io_far(struct io *io, struct far_stats *out)
{
	if (io->far)
		far_stats(io->far, out);
	return io->far;
}

unsigned int io_round(const struct io *io)
{
	return io->round;
}

unsigned int io_connections(const struct io *io)
{
	return g_atomic_int_get(&io->conns);
}
