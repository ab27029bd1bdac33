/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of a medium's I/O share: io.c has the main thread's side,
 * io_thread.c the threads and their connections, io_request.c a request from
 * the kernel's message to its answer, io_cache.c what is fetched ahead, io_cbw.c
 * what writes wait for while there is a snapshot, io_measure.c the figures.
 */
#ifndef SPICEBD_IO_IMPL_H
#define SPICEBD_IO_IMPL_H

#include "io.h"

#include <glib.h>

#include "nbdwire.h"
#include "slotlist.h"

/* See at_depth_one(). */
#define ALONE_TURNS	16

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
	ORDER_HELD = 1 << 5,		/* what waits for copies may go on */
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
	int new_stall_ms;

	/* the thread's own */
	unsigned int round;
	int stall_ms;
	struct slot_list pending;	/* not sent, or to be sent again */
	struct slot_list out;		/* sent */
	struct slot_list waiting;	/* for blocks that are coming (io->far) */
	struct slot_list held;		/* writes, for clusters that are copied (io->cbw) */
	struct cbw_copy *copying;	/* clusters that are read here for that */
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
	uint64_t sent_bytes, received_bytes;
	int64_t latency_us;		/* smoothed; 0: nothing was timed yet */
	/* io_measure.c: the one that is timed, since when, and not before when */
	const struct ring_slot *timed;
	int64_t timed_us;
	long long timed_next;
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
	struct cbw *cbw;		/* a reference, set and taken with lock held; or NULL */
	/* how many of the acknowledged writes of all queues a flush has covered */
	uint64_t flushed;
};

static inline unsigned int ioq_number(const struct ioq *q)
{
	return q - q->io->q;
}

static inline bool ioq_under_way(const struct ioq *q)
{
	return q->out.first || q->fetching || q->copying;
}

/* io.c */
void io_post(struct io *io, enum io_event ev, unsigned int round, const char *text);

/* io_thread.c */
gpointer ioq_thread(gpointer arg);

/* io_request.c */
uint64_t io_acked_writes(const struct io *io);
void ioq_note_done(struct ioq *q, const struct ring_slot *s, uint32_t error);
void ioq_answer(struct ioq *q, struct ring_slot *s, uint32_t error);
void ioq_mark_lost(struct ioq *q, const char *text);
void ioq_on_wire_done(void *owner, int error, void *arg);
void ioq_submit_pending(struct ioq *q);
void ioq_on_request(struct ring_slot *s, void *arg);

/* io_cache.c */
void ioq_block_done(struct ioq *q, void *block, int error);
bool ioq_answer_from_cache(struct ioq *q, struct ring_slot *s, bool again);
void ioq_try_again(struct ioq *q);
void ioq_submit_fetches(struct ioq *q);
void ioq_tell_path(struct ioq *q);

/* io_measure.c */
void ioq_traffic(struct ioq *q, uint64_t sent, uint64_t received);
void ioq_timed_sent(struct ioq *q, const struct ring_slot *s);
void ioq_timed_came(struct ioq *q, const struct ring_slot *s);

/* io_cbw.c */
bool ioq_must_wait(struct ioq *q, const struct ring_slot *s);
void ioq_look_at_held(struct ioq *q);
bool ioq_is_copy(const void *owner);
void ioq_copy_done(struct ioq *q, void *owner, int error);
void ioq_drop_copies(struct ioq *q);
void io_wake_held(unsigned int queue, void *arg);

#endif /* SPICEBD_IO_IMPL_H */
