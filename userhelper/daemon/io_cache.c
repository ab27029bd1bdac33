// SPDX-License-Identifier: GPL-2.0-only
/* Reads that the cache answers, and what is fetched ahead of readers. */
#include "io_impl.h"

#include <errno.h>
#include <string.h>

void ioq_block_done(struct ioq *q, void *block, int error)
{
	q->fetching--;
	q->measured = true;
	q->again |= far_done(q->io->far, ioq_number(q), block, error);
	if (error == ENOTCONN || error == ESHUTDOWN)
		ioq_mark_lost(q, error == ESHUTDOWN ? "the server shuts down" :
			  "the connection ended");
}

/* Reads that the cache has, or will have; false: the request is to be sent. */
bool ioq_answer_from_cache(struct ioq *q, struct ring_slot *s, bool again)
{
	if (s->op != SPICEBD_OP_READ || s->flags_io & SLOT_DIRECT ||
	    s->offset + s->length > q->io->p.props.size)
		return false;
	switch (far_read(q->io->far, ioq_number(q), s, again)) {
	case FAR_HIT:
		ioq_answer(q, s, 0);
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
void ioq_try_again(struct ioq *q)
{
	struct slot_list list = q->waiting;

	q->again = false;
	memset(&q->waiting, 0, sizeof(q->waiting));
	while (list.first) {
		struct ring_slot *s = list.first;

		slot_list_del(&list, s);
		if (!ioq_answer_from_cache(q, s, true))
			slot_list_add(&q->pending, s);
	}
}

/* Called by libnbd with the handle locked. */
static int on_block_done(void *arg, int *error)
{
	struct far_fetch *b = arg;
	struct ioq *q = b->owner;

	ioq_block_done(q, b->block, *error);
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
	ioq_block_done(q, f->block, nbd_get_errno() ?: EIO);
}

/* After the requests of this turn, which so are ahead of what nobody waits for. */
void ioq_submit_fetches(struct ioq *q)
{
	struct far_fetch f;

	while (q->nbd && !q->lost && !q->draining &&
	       (!q->wire || wire_room(q->wire) > WIRE_PARTS / 2) &&
	       far_next(q->io->far, ioq_number(q), &f)) {
		if (!ioq_under_way(q))
			q->heard = q->now;
		q->fetching++;
		if (q->wire)
			wire_submit(q->wire, WIRE_READ, 0, f.offset, f.len, f.buf, f.block);
		else
			fetch_by_libnbd(q, &f);
	}
}

void ioq_tell_path(struct ioq *q)
{
	q->measured = false;
	if (far_news(q->io->far))
		io_post(q->io, IO_PATH, q->round, "");
}
