// SPDX-License-Identifier: GPL-2.0-only
/*
 * A far path on one machine: connections to one address are passed on to another
 * with a delay and at a limited rate, both directions alike.
 *
 *   delayproxy LISTEN TARGET RTT-MS RATE-MBIT
 *
 * LISTEN and TARGET are HOST:PORT or unix:PATH; port 0 takes any. RATE 0 is no
 * limit. Prints "listening on HOST:PORT" when it does, and runs until killed.
 *
 * All connections share the rate, as they would share a line. What waits for
 * the line is bounded by QUEUE_TIME, as by a router; what is on its way is what
 * rate and delay make it. Opening a connection costs its round trip, too. Loss
 * and TCP's own slow start are not modelled: both ends see a local connection.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PIECE		65536
#define QUEUE_TIME	8000000LL	/* ns of the line's time that may wait for it */
#define UNLIMITED_QUEUE	(8u << 20)	/* bytes, where there is no rate */
#define EARLY		20000LL		/* ns; a timer for less is not worth it */

struct piece {
	struct piece *next;
	long long due;
	size_t len, done;	/* len 0: the end */
	uint8_t data[];
};

struct conn;

/* One direction of one connection. */
struct pipe {
	struct conn *conn;
	int from, to;
	unsigned int line;	/* index of the direction's line */
	long long not_before;
	struct piece *first, **last;
	size_t queued;
	bool ended, full, blocked;
};

struct conn {
	struct conn *next;
	struct pipe up, down;
	bool dead;
};

static int epfd, timer, listener;
static long long half_rtt, line_free[2];
static double ns_per_byte;
static struct conn *conns;
static struct sockaddr_storage target;
static socklen_t target_len;

static long long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "delayproxy: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- addresses */

static socklen_t resolve(const char *text, struct sockaddr_storage *ss)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *ai;
	struct sockaddr_un *un = (struct sockaddr_un *)ss;
	char host[256];
	const char *port = strrchr(text, ':');
	socklen_t len;

	memset(ss, 0, sizeof(*ss));
	if (!strncmp(text, "unix:", 5) && strlen(text + 5) < sizeof(un->sun_path)) {
		un->sun_family = AF_UNIX;
		memcpy(un->sun_path, text + 5, strlen(text + 5));
		return sizeof(*un);
	}
	if (!port || port - text >= (long)sizeof(host)) {
		fprintf(stderr, "delayproxy: %s: not HOST:PORT or unix:PATH\n", text);
		exit(2);
	}
	snprintf(host, sizeof(host), "%.*s", (int)(port - text), text);
	if (getaddrinfo(host, port + 1, &hints, &ai) || ai->ai_addrlen > sizeof(*ss)) {
		fprintf(stderr, "delayproxy: %s: no such address\n", text);
		exit(2);
	}
	memcpy(ss, ai->ai_addr, ai->ai_addrlen);
	len = ai->ai_addrlen;
	freeaddrinfo(ai);
	return len;
}

static void start_listening(const char *text)
{
	struct sockaddr_storage ss;
	socklen_t len = resolve(text, &ss);
	int one = 1;

	listener = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (listener < 0)
		die("socket");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&ss, len) < 0 || listen(listener, 64) < 0)
		die(text);
	len = sizeof(ss);
	getsockname(listener, (struct sockaddr *)&ss, &len);
	if (ss.ss_family == AF_INET)
		printf("listening on 127.0.0.1:%d\n",
		       ntohs(((struct sockaddr_in *)&ss)->sin_port));
	else
		printf("listening on %s\n", text);
	fflush(stdout);
}

/* ---- one direction */

static void watch(struct pipe *p)
{
	struct conn *c = p->conn;
	struct epoll_event ev;

	/* A socket is read for one direction and written for the other. */
	ev = (struct epoll_event) { .data.ptr = &c->up };
	ev.events = (c->up.ended || c->up.full ? 0 : EPOLLIN) | (c->down.blocked ? EPOLLOUT : 0);
	epoll_ctl(epfd, EPOLL_CTL_MOD, c->up.from, &ev);
	ev = (struct epoll_event) { .data.ptr = &c->down };
	ev.events = (c->down.ended || c->down.full ? 0 : EPOLLIN) | (c->up.blocked ? EPOLLOUT : 0);
	epoll_ctl(epfd, EPOLL_CTL_MOD, c->down.from, &ev);
}

static size_t queue_max(void)
{
	return ns_per_byte ? (half_rtt + 2 * QUEUE_TIME) / ns_per_byte + PIECE : UNLIMITED_QUEUE;
}

static bool is_full(const struct pipe *p, long long now)
{
	return p->queued >= queue_max() || (ns_per_byte && line_free[p->line] > now + QUEUE_TIME);
}

static void enqueue(struct pipe *p, const uint8_t *data, size_t n, long long now)
{
	struct piece *e = malloc(sizeof(*e) + n);
	long long start = now > p->not_before ? now : p->not_before;

	if (!e)
		die("memory");
	if (n)
		memcpy(e->data, data, n);
	if (line_free[p->line] > start)
		start = line_free[p->line];
	line_free[p->line] = start + n * ns_per_byte;
	e->next = NULL;
	e->len = n;
	e->done = 0;
	e->due = line_free[p->line] + half_rtt;
	*p->last = e;
	p->last = &e->next;
	p->queued += n;
}

static void take(struct pipe *p)
{
	static uint8_t buf[PIECE];
	long long now = now_ns();
	ssize_t n;

	while (!p->ended && !is_full(p, now)) {
		n = recv(p->from, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0)
			p->conn->dead = true;
		if (n <= 0)
			p->ended = true;
		enqueue(p, buf, n > 0 ? n : 0, now);
	}
	p->full = !p->ended && is_full(p, now);
	watch(p);
}

static void give(struct pipe *p, long long now)
{
	struct piece *e;
	ssize_t n;

	while ((e = p->first) && e->due <= now + EARLY && !p->blocked) {
		n = 0;
		if (e->len)
			n = send(p->to, e->data + e->done, e->len - e->done,
				 MSG_DONTWAIT | MSG_NOSIGNAL);
		else
			shutdown(p->to, SHUT_WR);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			p->conn->dead = true;
			return;
		}
		if (n < 0) {
			p->blocked = true;
			watch(p);
			return;
		}
		e->done += n;
		if (e->done < e->len)
			continue;
		p->first = e->next;
		if (!p->first)
			p->last = &p->first;
		p->queued -= e->len;
		free(e);
	}
}

/* ---- connections */

static void setup(struct pipe *p, struct conn *c, unsigned int line, int from, int to,
		  long long not_before)
{
	p->conn = c;
	p->line = line;
	p->from = from;
	p->to = to;
	p->not_before = not_before;
	p->last = &p->first;
}

static void on_connect(void)
{
	struct epoll_event ev = { .events = EPOLLIN };
	long long now = now_ns();
	struct conn *c;
	int a, b, one = 1;

	a = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (a < 0)
		return;
	b = socket(target.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (b < 0 || connect(b, (struct sockaddr *)&target, target_len) < 0) {
		fprintf(stderr, "delayproxy: cannot reach the target: %s\n", strerror(errno));
		close(a);
		if (b >= 0)
			close(b);
		return;
	}
	fcntl(b, F_SETFL, O_NONBLOCK);
	setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c = calloc(1, sizeof(*c));
	if (!c)
		die("memory");
	/* SYN, SYN-ACK, and then the client's first byte; the server's after its arrival. */
	setup(&c->up, c, 0, a, b, now + 2 * half_rtt);
	setup(&c->down, c, 1, b, a, now + 3 * half_rtt);
	ev.data.ptr = &c->up;
	epoll_ctl(epfd, EPOLL_CTL_ADD, a, &ev);
	ev.data.ptr = &c->down;
	epoll_ctl(epfd, EPOLL_CTL_ADD, b, &ev);
	c->next = conns;
	conns = c;
}

static void drop_pieces(struct pipe *p)
{
	struct piece *e;

	while ((e = p->first)) {
		p->first = e->next;
		free(e);
	}
}

static void reap(void)
{
	struct conn *c, **pp;

	for (pp = &conns; (c = *pp);) {
		if (!c->dead && !(c->up.ended && c->down.ended && !c->up.first && !c->down.first)) {
			pp = &c->next;
			continue;
		}
		*pp = c->next;
		close(c->up.from);
		close(c->down.from);
		drop_pieces(&c->up);
		drop_pieces(&c->down);
		free(c);
	}
}

/* ---- the loop */

static void on_event(struct pipe *p, uint32_t events)
{
	struct conn *c = p->conn;
	struct pipe *other = p == &c->up ? &c->down : &c->up;

	if (events & EPOLLERR)
		c->dead = true;
	if (events & (EPOLLOUT | EPOLLHUP) && other->blocked) {
		other->blocked = false;
		watch(p);
	}
	if (events & (EPOLLIN | EPOLLHUP) && !p->full)
		take(p);
}

/* Gives what is due, and returns when there is something to do next. */
static long long run(long long now)
{
	long long next = now + 1000000000LL;
	struct conn *c;

	for (c = conns; c; c = c->next) {
		struct pipe *both[] = { &c->up, &c->down };

		for (int i = 0; i < 2; i++) {
			struct pipe *p = both[i];

			give(p, now);
			if (p->full && !is_full(p, now))
				take(p);
			if (p->full && ns_per_byte && line_free[p->line] - QUEUE_TIME / 2 < next)
				next = line_free[p->line] - QUEUE_TIME / 2;
			if (p->first && !p->blocked && p->first->due < next)
				next = p->first->due;
		}
	}
	reap();
	return next;
}

static void arm(long long at)
{
	struct itimerspec its = { .it_value = { at / 1000000000LL, at % 1000000000LL } };

	timerfd_settime(timer, TFD_TIMER_ABSTIME, &its, NULL);
}

int main(int argc, char **argv)
{
	struct epoll_event ev[64];
	uint64_t ticks;
	int i, n;

	if (argc != 5) {
		fprintf(stderr, "Usage: delayproxy LISTEN TARGET RTT-MS RATE-MBIT\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	half_rtt = atof(argv[3]) * 500000;
	ns_per_byte = atof(argv[4]) > 0 ? 8000 / atof(argv[4]) : 0;
	target_len = resolve(argv[2], &target);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (epfd < 0 || timer < 0)
		die("epoll or timerfd");
	start_listening(argv[1]);
	ev[0] = (struct epoll_event) { .events = EPOLLIN, .data.ptr = &listener };
	epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev[0]);
	ev[0].data.ptr = &timer;
	epoll_ctl(epfd, EPOLL_CTL_ADD, timer, &ev[0]);
	for (;;) {
		arm(run(now_ns()));
		n = epoll_wait(epfd, ev, 64, -1);
		for (i = 0; i < n; i++) {
			if (ev[i].data.ptr == &listener)
				on_connect();
			else if (ev[i].data.ptr == &timer)
				(void)!read(timer, &ticks, sizeof(ticks));
			else
				on_event(ev[i].data.ptr, ev[i].events);
		}
	}
}
