// SPDX-License-Identifier: GPL-2.0-only
/*
 * The other end of QEMU's -chardev socket. Either it listens and we connect, by
 * the opener's hand, or it connects and we listen. There is a connection only while
 * a client has the port, so that the guest sees it come and go; where QEMU connects
 * by itself, that connection waits in our backlog, as does a second one.
 */
#include "relay_guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "loop.h"
#include "opener.h"
#include "relay_impl.h"
#include "sock.h"

#define RETRY_MIN	200	/* ms after a connection that ended at once */
#define RETRY_MAX	5000
#define CHUNK_DATA	(65536u - sizeof(struct chunk))

/* Bytes that QEMU's socket did not take yet. */
struct chunk {
	struct chunk *next;
	uint32_t start, end;
	uint8_t data[];
};

struct guest {
	struct guest *next;
	uint32_t number;
	const struct guest_ops *ops;
	void *opaque;
	bool wanted, announced;
	int fd;				/* -1: none */
	int listener;			/* -1: the opener connects */
	uint32_t tag;			/* of our last wish to the opener */
	struct loop_watch *watch, *listen_watch;
	unsigned int events;		/* that watch waits for */
	struct loop_timer *timer;	/* until the next connection is made */
	uint32_t retry;			/* ms */
	struct loop_task drop;
	const char *why;		/* of drop */
	struct chunk *queue, **queue_tail;
};

static struct guest *guests;
static int opener = -1;
static size_t queued_all, limit;

static void make_connection(struct guest *g);

/* ---- what is kept ---- */

size_t guests_queued(void)
{
	return queued_all;
}

void guests_limit(size_t bytes)
{
	limit = bytes;
}

static void free_first(struct guest *g)
{
	struct chunk *c = g->queue;

	queued_all -= c->end - c->start;
	g->queue = c->next;
	if (!g->queue)
		g->queue_tail = &g->queue;
	free(c);
}

static struct chunk *room(struct guest *g)
{
	struct chunk *c = NULL;

	if (g->queue)
		c = (struct chunk *)((char *)g->queue_tail - offsetof(struct chunk, next));
	if (c && c->end < CHUNK_DATA)
		return c;
	c = malloc(sizeof(*c) + CHUNK_DATA);
	if (!c)
		return NULL;
	memset(c, 0, sizeof(*c));
	*g->queue_tail = c;
	g->queue_tail = &c->next;
	return c;
}

static bool keep(struct guest *g, const uint8_t *data, size_t len)
{
	struct chunk *c;
	size_t n;

	while (len) {
		c = room(g);
		if (!c)
			return false;
		n = CHUNK_DATA - c->end < len ? CHUNK_DATA - c->end : len;
		memcpy(c->data + c->end, data, n);
		c->end += n;
		queued_all += n;
		data += n;
		len -= n;
	}
	return true;
}

/* ---- its connection ---- */

static void wait_for(struct guest *g, unsigned int events)
{
	if (!g->watch || g->events == events)
		return;
	g->events = events;
	loop_watch_set(g->watch, events);
}

static void disconnect(struct guest *g)
{
	loop_cancel(&g->drop);
	loop_watch_remove(g->watch);
	g->watch = NULL;
	if (g->fd >= 0)
		close(g->fd);
	g->fd = -1;
	while (g->queue)
		free_first(g);
	if (!g->announced)
		return;
	g->announced = false;
	g->ops->went(g->opaque);
}

static void do_drop(void *opaque)
{
	struct guest *g = opaque;

	log_info("port %u: the guest's connection ended: %s", g->number, g->why);
	disconnect(g);
	if (!g->wanted)
		return;
	loop_timer_start(g->timer, g->retry);
	g->retry = g->retry * 2 < RETRY_MAX ? g->retry * 2 : RETRY_MAX;
}

void guest_drop(struct guest *g, const char *why)
{
	if (g->fd < 0 || g->drop.queued)
		return;
	g->why = why;
	wait_for(g, 0);
	loop_defer(&g->drop);
}

void guest_is_good(struct guest *g)
{
	g->retry = RETRY_MIN;
}

static void flush(struct guest *g)
{
	struct chunk *c;
	ssize_t n;

	while ((c = g->queue)) {
		n = send(g->fd, c->data + c->start, c->end - c->start,
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0) {
			guest_drop(g, strerror(errno));
			return;
		}
		c->start += n;
		queued_all -= n;
		if (c->start == c->end)
			free_first(g);
	}
	wait_for(g, g->queue ? g->events | LOOP_WRITE : g->events & ~LOOP_WRITE);
}

bool guest_send(struct guest *g, const uint8_t *frame, size_t len)
{
	ssize_t n = 0;

	if (g->fd < 0 || g->drop.queued)
		return true;	/* nobody's any more */
	if (queued_all + len > limit)
		return false;
	if (!g->queue) {
		n = send(g->fd, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			guest_drop(g, strerror(errno));
			return true;
		}
		if (n < 0)
			n = 0;
	}
	if (n == len)
		return true;
	if (keep(g, frame + n, len - n))
		wait_for(g, g->events | LOOP_WRITE);
	else
		guest_drop(g, "out of memory");
	return true;
}

size_t guest_recv(struct guest *g, uint8_t *buf, size_t size)
{
	ssize_t n;

	if (g->fd < 0 || g->drop.queued)
		return 0;
	do {
		n = recv(g->fd, buf, size, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		return n;
	if (n < 0 && errno == EAGAIN)
		wait_for(g, g->events | LOOP_READ);
	else
		guest_drop(g, n ? strerror(errno) : "closed by the other end");
	return 0;
}

static void on_socket(int fd, int events, void *opaque)
{
	struct guest *g = opaque;

	if (events & LOOP_WRITE)
		flush(g);
	if (!(events & LOOP_READ) || g->drop.queued)
		return;
	wait_for(g, g->events & ~LOOP_READ);
	g->ops->readable(g->opaque);
}

static void connected(struct guest *g, int fd)
{
	g->fd = fd;
	g->events = LOOP_READ;
	g->watch = loop_watch_add(fd, LOOP_READ, on_socket, g);
	if (!g->watch) {
		guest_drop(g, strerror(errno));
		return;
	}
	log_info("port %u: the guest's connection stands", g->number);
	g->announced = true;
	g->ops->came(g->opaque);
}

/* ---- by the opener ---- */

static struct guest *find(uint32_t number)
{
	struct guest *g;

	for (g = guests; g && g->number != number; g = g->next)
		;
	return g;
}

static void say_why_not(const struct opener_answer *a)
{
	if (a->error == ENOENT || a->error == ECONNREFUSED)
		log_info("port %u: no QEMU listens; waiting for it", a->number);
	else if (a->error == EACCES || a->error == EPERM)
		log_warn("port %u: QEMU's socket may not be connected to: it is another user's; set user= to that one, or use relay=listen:",
			 a->number);
	else
		log_warn("port %u: cannot connect to QEMU: %s", a->number, strerror(a->error));
}

static void on_opener(int sock, int events, void *opaque)
{
	struct opener_answer a;
	struct guest *g;
	int fd;

	if (!opener_next(sock, &a, &fd))
		return;
	g = find(a.number);
	if (g && g->tag == a.tag && g->wanted && g->fd < 0) {
		if (fd >= 0 && a.is_socket)
			connected(g, fd);
		else
			say_why_not(&a);
		if (fd < 0 || a.is_socket)
			return;
	}
	if (fd >= 0)
		close(fd);
}

bool guests_connect(const char *prefix, bool seal)
{
	opener = opener_start(prefix, seal);
	if (opener < 0)
		return false;
	if (loop_watch_add(opener, LOOP_READ, on_opener, NULL))
		return true;
	log_err("cannot watch the opener of sockets: %s", strerror(errno));
	return false;
}

/* ---- by listening ---- */

static void on_listener(int fd, int events, void *opaque)
{
	struct guest *g = opaque;
	int s = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (s < 0) {
		if (errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS)
			return;
		loop_watch_set(g->listen_watch, 0);	/* the timer tries again */
		loop_timer_start(g->timer, RETRY_MAX);
		return;
	}
	loop_watch_set(g->listen_watch, 0);
	connected(g, s);
}

/* ---- whether there is to be one ---- */

static void make_connection(struct guest *g)
{
	static uint32_t last_tag;

	if (g->listen_watch) {
		loop_watch_set(g->listen_watch, LOOP_READ);
		return;
	}
	g->tag = ++last_tag ? last_tag : ++last_tag;
	opener_want(opener, g->number, g->tag);
}

static void on_timer(void *opaque)
{
	struct guest *g = opaque;

	if (g->wanted && g->fd < 0)
		make_connection(g);
}

void guest_want(struct guest *g, bool want)
{
	if (g->wanted == want)
		return;
	g->wanted = want;
	loop_timer_stop(g->timer);
	if (want) {
		g->retry = RETRY_MIN;
		make_connection(g);
		return;
	}
	if (g->listen_watch)
		loop_watch_set(g->listen_watch, 0);
	else if (g->fd < 0)
		opener_unwant(opener, g->number);
	disconnect(g);
}

/* ---- life ---- */

void guest_free(struct guest *g)
{
	struct guest **p;

	if (!g)
		return;
	guest_want(g, false);
	for (p = &guests; *p && *p != g; p = &(*p)->next)
		;
	if (*p)
		*p = g->next;
	loop_watch_remove(g->listen_watch);
	loop_timer_remove(g->timer);
	free(g);
}

struct guest *guest_new(uint32_t number, const struct guest_ops *ops, void *opaque)
{
	struct guest *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->number = number;
	g->ops = ops;
	g->opaque = opaque;
	g->fd = -1;
	g->queue_tail = &g->queue;
	g->drop = (struct loop_task) { .fn = do_drop, .opaque = g };
	g->timer = loop_timer_add(on_timer, g);
	g->listener = guests_listener(number);
	if (g->timer && g->listener >= 0)
		g->listen_watch = loop_watch_add(g->listener, 0, on_listener, g);
	if (!g->timer || (g->listener >= 0 && !g->listen_watch)) {
		loop_timer_remove(g->timer);
		free(g);
		return NULL;
	}
	g->next = guests;
	guests = g;
	return g;
}
