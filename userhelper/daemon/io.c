// SPDX-License-Identifier: GPL-2.0-only
/* The main thread's side. */
#include "io_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log.h"
#include "work.h"

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

void io_post(struct io *io, enum io_event ev, unsigned int round, const char *text)
{
	struct post *m = g_new0(struct post, 1);

	m->io = io;
	m->ev = ev;
	m->round = round;
	g_strlcpy(m->text, text, sizeof(m->text));
	main_post(deliver, m);
}

/* Orders to the threads. */

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

void io_connect(struct io *io, struct nbd_handle **h, unsigned int n, int stall_ms)
{
	g_mutex_lock(&io->lock);
	io->round++;
	for (unsigned int i = 0; i < io->n; i++) {
		struct ioq *q = &io->q[i];

		if (q->new_nbd)
			nbd_close(q->new_nbd);
		q->new_nbd = i < n ? h[i] : NULL;
		q->new_round = io->round;
		q->new_stall_ms = stall_ms;
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
		io_post(io, IO_ENDED, 0, "");
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
	}
	io_set_cbw(io, NULL);
	for (unsigned int i = 0; i < io->n; i++)
		close(io->q[i].order_fd);
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
	return io_acked_writes(io) >
	       __atomic_load_n(&io->flushed, __ATOMIC_SEQ_CST);
}

void io_fail_flush(struct io *io)
{
	g_atomic_int_set(&io->fail_flush, 1);
}

bool io_flush_doubted(const struct io *io)
{
	return g_atomic_int_get(&io->fail_flush);
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
