// SPDX-License-Identifier: GPL-2.0-only
/* A request from the kernel's message to its answer. */
#include "io_impl.h"

#include <errno.h>

#include "log.h"

/* Reads under way in one thread: what they touch of the slots' memory. */
#define READ_LIMIT	(32u << 20)
/* See at_depth_one(). */
#define ALONE_NOT	1000

static bool changes_store(uint32_t op)
{
	return op == SPICEBD_OP_WRITE || op == SPICEBD_OP_DISCARD ||
	       op == SPICEBD_OP_WRITE_ZEROES;
}

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
uint64_t io_acked_writes(const struct io *io)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < io->n; i++)
		sum += __atomic_load_n(&io->q[i].acked, __ATOMIC_ACQUIRE);
	return sum;
}

void ioq_note_done(struct ioq *q, const struct ring_slot *s, uint32_t error)
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

void ioq_answer(struct ioq *q, struct ring_slot *s, uint32_t error)
{
	ioq_note_done(q, s, error);
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

void ioq_mark_lost(struct ioq *q, const char *text)
{
	if (!q->lost)
		g_strlcpy(q->lost_text, text, sizeof(q->lost_text));
	q->lost = true;
}

static void measure_sent(struct ioq *q, struct ring_slot *s)
{
	if (q->io->far && s->op == SPICEBD_OP_READ)
		s->mark = far_sent(q->io->far, ioq_number(q), s->length);
}

static void measure_came(struct ioq *q, const struct ring_slot *s)
{
	if (!q->io->far || s->op != SPICEBD_OP_READ)
		return;
	far_came(q->io->far, ioq_number(q), s->mark, s->length, !s->part_error);
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
		ioq_mark_lost(q, error == ESHUTDOWN ? "the server shuts down" :
			  "the connection ended");
		return;
	}
	if (error)
		s->part_error = io_error(error);
	if (--s->parts)
		return;
	slot_list_del(&q->out, s);
	account(q, s, false);
	if (s->op == SPICEBD_OP_READ)
		ioq_traffic(q, 0, s->length);
	ioq_timed_came(q, s);
	measure_came(q, s);
	ioq_answer(q, s, s->part_error);
	q->hot = true;
}

/* Called by libnbd with the handle locked. */
static int on_done(void *arg, int *error)
{
	part_done(arg, *error);
	return 1;
}

void ioq_on_wire_done(void *owner, int error, void *arg)
{
	struct ioq *q = arg;

	if (ioq_is_copy(owner))
		ioq_copy_done(q, owner, error);
	else if (q->io->far && far_owns(q->io->far, owner))
		ioq_block_done(q, owner, error);
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
		s->mark = io_acked_writes(q->io);
	slot_list_add(&q->out, s);
	account(q, s, true);
	if (s->op == SPICEBD_OP_WRITE)
		ioq_traffic(q, s->length, 0);
	ioq_timed_sent(q, s);
	measure_sent(q, s);
	if (q->out.n == 1 && !q->fetching && !q->copying)
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
			ioq_mark_lost(q, nbd_get_error() ?: "the connection ended");
			return;
		}
		log_debug("request refused by libnbd: %s", nbd_get_error());
		s->part_error = EIO;
		if (!--s->parts) {
			slot_list_del(&q->out, s);
			account(q, s, false);
			ioq_timed_came(q, s);
			measure_came(q, s);
			ioq_answer(q, s, s->part_error);
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
			ioq_answer(q, s, EIO);
			io_post(io, IO_FLUSH_FAILED, q->round, "");
			return true;
		}
		if (!io->p.props.flush) {
			ioq_answer(q, s, 0);
			return true;
		}
		return false;
	}
	if (changes_store(s->op) && io->p.read_only) {
		ioq_answer(q, s, EIO);
		return true;
	}
	if (s->offset + s->length > io->p.props.size) {
		ioq_answer(q, s, EIO);
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

void ioq_submit_pending(struct ioq *q)
{
	while (q->pending.first && q->nbd && !q->lost) {
		struct ring_slot *s = q->pending.first;

		if (q->io->far) {
			slot_list_del(&q->pending, s);
			if (ioq_answer_from_cache(q, s, false))
				continue;
			slot_list_add_first(&q->pending, s);
		}
		if (!room_for(q, s) || (q->wire && wire_room(q->wire) < parts_of(q, s)))
			return;
		slot_list_del(&q->pending, s);
		if (answer_here(q, s))
			continue;
		if (changes_store(s->op) && ioq_must_wait(q, s))
			slot_list_add(&q->held, s);
		else
			submit(q, s);
	}
}

void ioq_on_request(struct ring_slot *s, void *arg)
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
