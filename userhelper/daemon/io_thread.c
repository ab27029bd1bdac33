// SPDX-License-Identifier: GPL-2.0-only
/* The threads, one for each queue socket, and their connections. */
#include "io_impl.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"
#include "work.h"

#define RELAX_MS	10000
#define BYE_MS		500
#define RETRY_MS	10

static void close_connection(struct ioq *q)
{
	if (!q->nbd)
		return;
	wire_free(q->wire);
	q->wire = NULL;
	nbd_close(q->nbd);
	q->nbd = NULL;
	ioq_drop_copies(q);
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
	slot_list_move(&q->pending, &q->held);
	slot_list_move(&q->pending, &later);
	/* Nobody writes to its blocks any more, so they may be used again. */
	if (q->io->far)
		far_lost(q->io->far, ioq_number(q));
	q->fetching = 0;
	q->again = false;
	q->write_bytes = q->read_bytes = 0;
	q->timed = NULL;
	q->stalled = false;
}

static void check_connection(struct ioq *q)
{
	if (q->nbd && !q->wire && !q->lost && (nbd_aio_is_dead(q->nbd) || nbd_aio_is_closed(q->nbd)))
		ioq_mark_lost(q, nbd_get_error() ?: "the connection ended");
	if (!q->nbd || !q->lost)
		return;
	drop_connection(q);
	io_post(q->io, IO_LOST, q->round, q->lost_text);
}

static void send_wire(struct ioq *q)
{
	if (q->wire && !q->lost && wire_send(q->wire) < 0)
		ioq_mark_lost(q, wire_error(q->wire));
}

static void turn_wire(struct ioq *q, short revents)
{
	if (revents & (POLLIN | POLLHUP | POLLERR) && wire_receive(q->wire) < 0)
		ioq_mark_lost(q, wire_error(q->wire));
	else if (revents & POLLOUT)
		send_wire(q);
}

static void note_life(struct ioq *q)
{
	q->heard = q->now;
	if (!q->stalled)
		return;
	q->stalled = false;
	io_post(q->io, IO_ALIVE, q->round, "");
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
		ioq_mark_lost(q, "the connection broke");
	if (r < 0)
		ioq_mark_lost(q, nbd_get_error() ?: "the connection ended");
}

/* A server that is told goodbye closes in order; one that hangs is left. */
static void say_goodbye(struct ioq *q)
{
	long long end = now_ms() + BYE_MS;

	if (ioq_under_way(q) || nbd_aio_disconnect(q->nbd, 0) < 0)
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

static void on_flushed_at_end(struct ioq *q, int error, uint64_t mark)
{
	struct ring_slot f = { .op = SPICEBD_OP_FLUSH, .mark = mark };

	if (!error)
		ioq_note_done(q, &f, 0);
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
	uint64_t mark = io_acked_writes(q->io);

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
		q->wire = wire_take(q->nbd, ioq_on_wire_done, q);
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
		q->stall_ms = q->new_stall_ms;
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
	if (!q->nbd || !ioq_under_way(q) || q->stalled ||
	    q->now - q->heard < q->stall_ms)
		return;
	q->stalled = true;
	io_post(q->io, IO_STALLED, q->round, "");
}

static int next_timeout(struct ioq *q, bool flush_again)
{
	long long now = q->now, ms = -1, t;

	if (flush_again)
		return RETRY_MS;
	if (q->draining)
		return (int)MAX(q->drain_end - now, 0);
	if (q->nbd && ioq_under_way(q) && !q->stalled) {
		t = q->heard + q->stall_ms - now;
		ms = MAX(t, 0);
	} else if (!q->relaxed && !q->pending.first && !q->waiting.first && !q->held.first &&
		   !ioq_under_way(q)) {
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
		int n = ring_receive(q->ring, ioq_on_request, q);

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

	if (!q->hot || q->out.first || q->pending.first || q->held.first || q->draining ||
	    q->deaf || !q->nbd || q->io->far)
		return false;
	q->hot = false;
	n = ring_receive_wait(q->ring, ioq_on_request, q);
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
		ioq_try_again(q);
	if (q->held.first)
		ioq_look_at_held(q);
	if (!q->draining)
		ioq_submit_pending(q);
	if (q->io->far)
		ioq_submit_fetches(q);
	send_wire(q);
	check_connection(q);
	check_stall(q);
	if (q->measured)
		ioq_tell_path(q);
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
		ioq_mark_lost(q, wire_error(q->wire));
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
	return !ioq_under_way(q) || !q->nbd || q->now >= q->drain_end;
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

gpointer ioq_thread(gpointer arg)
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
	q->clean = q->draining && !ioq_under_way(q) && q->nbd;
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
		io_post(q->io, IO_ENDED, q->round, "");
	return NULL;
}
