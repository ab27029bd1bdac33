// SPDX-License-Identifier: GPL-2.0-only
/*
 * What an I/O thread does for a snapshot before it sends a write: the reads it makes
 * for it, the room that they take from the transmission, and what happens if the
 * snapshot ends, or the connection is lost, at any moment of that. The server is this
 * file: what is sent stays under way until the test answers it.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -pthread -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib -Iuserhelper/daemon -Iuapi selftests/unit/io_cbw_test.c userhelper/daemon/io_cbw.c userhelper/daemon/cbw.c userhelper/lib/snapmap.c userhelper/lib/sock.c userhelper/lib/log.c userhelper/lib/text.c $(pkg-config --cflags --libs json-glib-1.0 glib-2.0 libsystemd)
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io_impl.h"

#define CLUSTER		SNAPMAP_CLUSTER_MIN
#define SIZE		(32 * CLUSTER)
#define WAIT_MS		60000
#define REQUESTS	64

static int number, failed;

static void result(bool ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, name);
	failed += !ok;
}

/* The transmission: what is under way in it, and who meddles when something is sent. */
static struct {
	unsigned int room, nr;
	void *owner[REQUESTS];
	void (*on_submit)(void);
	bool refuse, dead;
	nbd_completion_callback cb[REQUESTS];
} far_end;

static void sent(void *owner)
{
	if (far_end.nr == REQUESTS || !far_end.room)
		abort();
	far_end.owner[far_end.nr++] = owner;
	far_end.room--;
	if (far_end.on_submit)
		far_end.on_submit();
}

unsigned int wire_room(const struct wire *w)
{
	return far_end.room;
}

void wire_submit(struct wire *w, enum wire_cmd cmd, uint16_t flags, uint64_t offset,
		 uint32_t len, void *buf, void *owner)
{
	memset(buf, 'o', len);
	sent(owner);
}

int64_t nbd_aio_pread(struct nbd_handle *h, void *buf, size_t len, uint64_t offset,
		      nbd_completion_callback cb, uint32_t flags)
{
	if (far_end.refuse) {
		cb.free(cb.user_data);
		return -1;
	}
	memset(buf, 'o', len);
	far_end.cb[far_end.nr] = cb;
	sent(NULL);
	return 1;
}

int nbd_aio_is_dead(struct nbd_handle *h)
{
	return far_end.dead;
}

int nbd_aio_is_closed(struct nbd_handle *h)
{
	return 0;
}

const char *nbd_get_error(void)
{
	return "refused";
}

int nbd_get_errno(void)
{
	return EINVAL;
}

void ioq_mark_lost(struct ioq *q, const char *text)
{
	q->lost = true;
}

void ioq_traffic(struct ioq *q, uint64_t out, uint64_t in)
{
}

/* The medium's I/O, with two queues, and its snapshot. */
static struct io io;
static struct cbw *c;
static int ends;

static void on_failed(void *arg)
{
	__atomic_add_fetch(&ends, 1, __ATOMIC_SEQ_CST);
}

static void end_snapshot(void)
{
	cbw_end(c, ESHUTDOWN, "it was deleted");
}

static gpointer other_thread(gpointer arg)
{
	end_snapshot();
	return NULL;
}

/* As it happens: on the main thread, while this one is in ioq_must_wait(). */
static void end_elsewhere(void)
{
	g_thread_join(g_thread_new("main", other_thread, NULL));
}

static void leave(void)
{
	if (c) {
		io_set_cbw(&io, NULL);
		cbw_end(c, ESHUTDOWN, "over");
		cbw_unref(c);
		c = NULL;
	}
	for (unsigned int i = 0; i < io.n; i++)
		close(io.q[i].order_fd);
	g_mutex_clear(&io.lock);
}

static void begin(unsigned int room, bool libnbd)
{
	struct cbw_params p = { .limit_ms = WAIT_MS, .failed = on_failed };
	int map_fd = snapmap_create(&p.map, SIZE, CLUSTER);

	memset(&io, 0, sizeof(io));
	memset(&far_end, 0, sizeof(far_end));
	ends = 0;
	far_end.room = room;
	g_mutex_init(&io.lock);
	io.n = 2;
	for (unsigned int i = 0; i < io.n; i++) {
		io.q[i].io = &io;
		io.q[i].order_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		io.q[i].wire = libnbd ? NULL : (struct wire *)&far_end;
		io.q[i].nbd = (struct nbd_handle *)&far_end;
	}
	p.scratch = memfd_create("scratch", MFD_CLOEXEC);
	if (map_fd < 0 || p.scratch < 0 || ftruncate(p.scratch, SIZE) < 0)
		exit(1);
	close(map_fd);
	c = cbw_new(&p);
	if (!c)
		exit(1);
	io_set_cbw(&io, c);
}

/* The server answers the oldest that is under way. */
static void answer(struct ioq *q, int error)
{
	void *owner = far_end.owner[0];
	nbd_completion_callback cb = far_end.cb[0];

	if (!far_end.nr--)
		abort();
	far_end.room++;
	memmove(far_end.owner, far_end.owner + 1, far_end.nr * sizeof(owner));
	memmove(far_end.cb, far_end.cb + 1, far_end.nr * sizeof(cb));
	if (owner) {
		ioq_copy_done(q, owner, error);
		return;
	}
	cb.callback(cb.user_data, &error);
	cb.free(cb.user_data);
}

/* Until somebody tells the queue to look again. */
static bool woken(struct ioq *q)
{
	struct pollfd p = { .fd = q->order_fd, .events = POLLIN };
	uint64_t n;
	bool told;

	if (poll(&p, 1, WAIT_MS) != 1 || read(q->order_fd, &n, sizeof(n)) < 0)
		return false;
	g_mutex_lock(&io.lock);
	told = q->orders & ORDER_HELD;
	q->orders = 0;
	g_mutex_unlock(&io.lock);
	return told;
}

static void forget_wakes(struct ioq *q)
{
	uint64_t n;

	while (read(q->order_fd, &n, sizeof(n)) > 0)
		;
	q->orders = 0;
}

static struct ring_slot write_of(unsigned int cluster, unsigned int clusters)
{
	return (struct ring_slot) {
		.op = SPICEBD_OP_WRITE, .offset = (uint64_t)cluster * CLUSTER,
		.length = clusters * CLUSTER,
	};
}

static void test_none(void)
{
	struct ring_slot s = write_of(0, 1);

	begin(4, false);
	io_set_cbw(&io, NULL);
	result(!ioq_must_wait(&io.q[0], &s) && !far_end.nr, "without a snapshot nothing waits");
	leave();
}

static void test_one(bool libnbd)
{
	struct ioq *q = &io.q[0];
	struct ring_slot s = write_of(3, 1);
	bool ok;

	begin(4, libnbd);
	forget_wakes(q);
	ok = ioq_must_wait(q, &s) && far_end.nr == 1 && q->copying && ioq_under_way(q);
	/* Looked at again before anything has come. */
	ok = ok && ioq_must_wait(q, &s) && far_end.nr == 1;
	answer(q, 0);
	ok = ok && !q->copying && woken(q) && !ioq_must_wait(q, &s) && far_end.room == 4;
	result(ok, libnbd ? "a write waits for its cluster, by libnbd" :
	       "a write waits for its cluster");
	leave();
}

static void test_room(void)
{
	struct ioq *q = &io.q[0];
	struct ring_slot s = write_of(0, 8);
	unsigned int most = 0, rounds = 0;

	begin(3, false);
	forget_wakes(q);
	while (ioq_must_wait(q, &s) && rounds++ < 100) {
		most = MAX(most, far_end.nr);
		while (far_end.nr)
			answer(q, 0);
		if (!woken(q))
			break;
	}
	result(most == 3 && cbw_copied(c) == 8 * CLUSTER && far_end.room == 3 &&
	       !ioq_must_wait(q, &s), "of many clusters no more are read than there is room for");
	leave();
}

/*
 * Its copies have the transmission's room, and another thread ends the snapshot before
 * it asks again: it would go, and has no place to go to.
 */
static void test_ends_meanwhile(unsigned int room, unsigned int clusters, const char *name)
{
	struct ioq *q = &io.q[0];
	struct ring_slot s = write_of(0, clusters);
	bool ok;

	begin(room, false);
	forget_wakes(q);
	far_end.on_submit = end_elsewhere;
	ok = ioq_must_wait(q, &s);
	far_end.on_submit = NULL;
	if (!ok)
		printf("# it would be sent, with room for %u parts\n", far_end.room);
	ok = ok && far_end.nr == 1 && woken(q);
	while (far_end.nr)
		answer(q, 0);
	ok = ok && !ioq_must_wait(q, &s) && far_end.room == room && !q->copying;
	result(ok, name);
	leave();
}

static void test_ended_before(void)
{
	struct ring_slot s = write_of(0, 1);

	begin(4, false);
	end_snapshot();
	result(!ioq_must_wait(&io.q[0], &s) && !far_end.nr,
	       "once the snapshot has ended nothing is read");
	leave();
}

static void test_two_queues(void)
{
	struct ioq *a = &io.q[0], *b = &io.q[1];
	struct ring_slot s = write_of(5, 1);
	bool ok;

	begin(4, false);
	forget_wakes(a);
	forget_wakes(b);
	ok = ioq_must_wait(a, &s) && ioq_must_wait(b, &s) && far_end.nr == 1 && !b->copying;
	/* The one that reads it loses its connection: the other reads it then. */
	far_end.nr--;
	far_end.room++;
	ioq_drop_copies(a);
	ok = ok && !a->copying && woken(b) && ioq_must_wait(b, &s) && b->copying;
	answer(b, 0);
	ok = ok && woken(b) && !ioq_must_wait(b, &s) && !ioq_must_wait(a, &s);
	result(ok, "a copy that is lost with its connection is made by another queue");
	leave();
}

static void test_lost_answer(void)
{
	struct ioq *q = &io.q[0];
	struct ring_slot s = write_of(1, 2);
	bool ok;

	begin(4, false);
	ok = ioq_must_wait(q, &s) && far_end.nr == 2;
	answer(q, ENOTCONN);
	ok = ok && q->lost && q->copying && ioq_must_wait(q, &s);
	far_end.nr = 0;
	ioq_drop_copies(q);
	result(ok && !ends && !q->copying, "a lost connection ends no snapshot");
	leave();
}

static void test_unreadable(void)
{
	struct ioq *q = &io.q[0];
	struct ring_slot s = write_of(1, 1);
	bool ok;

	begin(4, false);
	forget_wakes(q);
	ok = ioq_must_wait(q, &s);
	answer(q, EIO);
	ok = ok && ends == 1 && woken(q) && !ioq_must_wait(q, &s);
	result(ok, "what cannot be read ends the snapshot, and the write goes");
	leave();
}

/* libnbd says no at once: in the very call that wanted it. */
static void test_refused(void)
{
	struct ioq *q = &io.q[0];
	struct ring_slot s = write_of(1, 1);
	bool ok;

	begin(4, true);
	forget_wakes(q);
	far_end.refuse = true;
	ok = ioq_must_wait(q, &s) && ends == 1 && !q->copying && woken(q) && !ioq_must_wait(q, &s);
	result(ok, "a read that libnbd refuses ends the snapshot");
	leave();
	begin(4, true);
	far_end.refuse = far_end.dead = true;
	ok = ioq_must_wait(q, &s) && q->lost && !ends && q->copying;
	ioq_drop_copies(q);
	result(ok && !q->copying, "... and none if the connection is dead");
	leave();
}

static void test_order(void)
{
	struct ioq *q = &io.q[0];
	struct ring_slot s[3] = { write_of(0, 1), write_of(1, 1), write_of(2, 1) };

	begin(4, false);
	slot_list_add(&q->held, &s[0]);
	slot_list_add(&q->held, &s[1]);
	slot_list_add(&q->pending, &s[2]);
	ioq_look_at_held(q);
	result(!q->held.first && q->pending.n == 3 && q->pending.first == &s[0] &&
	       s[0].next == &s[1] && s[1].next == &s[2] && q->pending.last == &s[2],
	       "what was held is sent before what came later");
	q->pending = (struct slot_list) { 0 };
	leave();
}

static void test_replaced(void)
{
	struct ioq *q = &io.q[1];

	begin(4, false);
	forget_wakes(q);
	io_set_cbw(&io, NULL);
	result(woken(q) && !io.cbw, "a snapshot that goes wakes every queue");
	leave();
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("TAP version 13\n");
	test_none();
	test_one(false);
	test_one(true);
	test_room();
	test_ends_meanwhile(1, 1, "a write whose copy has all the room waits, though the snapshot has ended");
	test_ends_meanwhile(2, 8, "... and one with more to copy, too");
	test_ended_before();
	test_two_queues();
	test_lost_answer();
	test_unreadable();
	test_refused();
	test_order();
	test_replaced();
	printf("1..%d\n", number);
	return failed ? 1 : 0;
}
