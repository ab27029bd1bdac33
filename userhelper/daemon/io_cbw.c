// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writes that wait until what they overwrite was copied for a snapshot, and the
 * reads that this takes, which go over the connection of the queue that wants
 * them.
 */
#include "io_impl.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

/* A copy is told from a slot by its address, which for both is even. */
static void *owner_of(struct cbw_copy *copy)
{
	return (char *)copy + 1;
}

bool ioq_is_copy(const void *owner)
{
	return (uintptr_t)owner & 1;
}

static void unlink_copy(struct ioq *q, struct cbw_copy *copy)
{
	struct cbw_copy **p = &q->copying;

	while (*p != copy)
		p = &(*p)->next;
	*p = copy->next;
	copy->next = NULL;
}

void ioq_copy_done(struct ioq *q, void *owner, int error)
{
	struct cbw_copy *copy = (struct cbw_copy *)((char *)owner - 1);

	/* No answer: it is dropped with the connection. */
	if (error == ENOTCONN || error == ESHUTDOWN) {
		ioq_mark_lost(q, error == ESHUTDOWN ? "the server shuts down" :
			      "the connection ended");
		return;
	}
	unlink_copy(q, copy);
	ioq_traffic(q, 0, copy->len);
	cbw_read_done(copy, error);
}

/* The connection is closed: nothing of it comes into their buffers any more. */
void ioq_drop_copies(struct ioq *q)
{
	while (q->copying) {
		struct cbw_copy *copy = q->copying;

		q->copying = copy->next;
		cbw_read_lost(copy);
	}
}

struct read_by_libnbd {
	struct ioq *q;
	struct cbw_copy *copy;
};

/* Called by libnbd with the handle locked. */
static int on_read(void *arg, int *error)
{
	struct read_by_libnbd *r = arg;

	ioq_copy_done(r->q, owner_of(r->copy), *error);
	return 1;
}

static void read_by_libnbd(struct ioq *q, struct cbw_copy *copy)
{
	struct read_by_libnbd *r = g_new(struct read_by_libnbd, 1);
	/* Freed by the handle, also when that is closed without an answer. */
	nbd_completion_callback cb = { .callback = on_read, .user_data = r, .free = g_free };

	r->q = q;
	r->copy = copy;
	if (nbd_aio_pread(q->nbd, copy->buf, copy->len, copy->offset, cb, 0) >= 0)
		return;
	if (nbd_aio_is_dead(q->nbd) || nbd_aio_is_closed(q->nbd))
		ioq_mark_lost(q, nbd_get_error() ?: "the connection ended");
	else
		ioq_copy_done(q, owner_of(copy), nbd_get_errno() ?: EIO);
}

static void read_copy(struct ioq *q, struct cbw_copy *copy)
{
	if (!ioq_under_way(q))
		q->heard = q->now;
	copy->next = q->copying;
	q->copying = copy;
	if (q->wire)
		wire_submit(q->wire, WIRE_READ, 0, copy->offset, copy->len, copy->buf,
			    owner_of(copy));
	else
		read_by_libnbd(q, copy);
}

static struct cbw *take_cbw(struct io *io)
{
	struct cbw *c;

	/* As a rule there is none, which costs no lock. */
	if (!__atomic_load_n(&io->cbw, __ATOMIC_SEQ_CST))
		return NULL;
	g_mutex_lock(&io->lock);
	c = io->cbw ? cbw_ref(io->cbw) : NULL;
	g_mutex_unlock(&io->lock);
	return c;
}

/*
 * Of a request that lies inside the medium. One that had copies made waits in any case,
 * also if the snapshot has ended by now: they took the room that it was to have. Whoever
 * ended it has woken this queue.
 */
bool ioq_must_wait(struct ioq *q, const struct ring_slot *s)
{
	struct cbw *c = take_cbw(q->io);
	bool go = !c, reading = false;

	while (!go && !q->lost) {
		bool can = !q->wire || wire_room(q->wire);
		struct cbw_copy *copy = NULL;

		go = cbw_begin(c, ioq_number(q), s->offset, s->length, can ? &copy : NULL);
		if (!copy)
			break;
		read_copy(q, copy);
		reading = true;
	}
	cbw_unref(c);
	return !go || reading;
}

/* They are older than what has not been sent. */
void ioq_look_at_held(struct ioq *q)
{
	struct slot_list later = q->pending;

	q->pending = q->held;
	q->held = (struct slot_list) { 0 };
	slot_list_move(&q->pending, &later);
}

/* On whatever thread has copied something, or has ended the snapshot. */
void io_wake_held(unsigned int queue, void *arg)
{
	struct io *io = arg;
	struct ioq *q = &io->q[queue];
	uint64_t one = 1;

	g_mutex_lock(&io->lock);
	q->orders |= ORDER_HELD;
	if (write(q->order_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_warn("eventfd: %s", strerror(errno));
	g_mutex_unlock(&io->lock);
}

void io_set_cbw(struct io *io, struct cbw *c)
{
	struct cbw *old;

	if (c)
		cbw_attach(cbw_ref(c), io_wake_held, io);
	g_mutex_lock(&io->lock);
	old = io->cbw;
	__atomic_store_n(&io->cbw, c, __ATOMIC_SEQ_CST);
	g_mutex_unlock(&io->lock);
	if (old)
		cbw_attach(old, NULL, NULL);
	cbw_unref(old);
	/* What waited for the old one does so no longer. */
	for (unsigned int i = 0; i < io->n; i++)
		io_wake_held(i, io);
}
