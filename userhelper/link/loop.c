// SPDX-License-Identifier: GPL-2.0-only
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "sock.h"

struct loop_watch {
	struct loop_watch *next_dead;
	loop_watch_fn fn;
	void *opaque;
	int fd;
	unsigned int events;
	bool dead;
};

struct loop_timer {
	struct loop_timer *next;
	loop_timer_fn fn;
	void *opaque;
	long long due;		/* 0: not running */
	bool dead;
};

static int epfd = -1;
static bool quit;
static struct loop_watch *dead_watches;	/* freed when no event can name them */
static struct loop_timer *timers;
static struct loop_task *tasks, **tasks_tail = &tasks;

int loop_init(void)
{
	epfd = epoll_create1(EPOLL_CLOEXEC);
	return epfd < 0 ? -errno : 0;
}

void loop_quit(void)
{
	quit = true;
}

/* ---- watches ---- */

static uint32_t to_epoll(unsigned int events)
{
	return (events & LOOP_READ ? EPOLLIN : 0) | (events & LOOP_WRITE ? EPOLLOUT : 0);
}

struct loop_watch *loop_watch_add(int fd, unsigned int events, loop_watch_fn fn, void *opaque)
{
	struct loop_watch *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->fd = fd;
	w->fn = fn;
	w->opaque = opaque;
	if (events) {
		struct epoll_event ev = { .events = to_epoll(events), .data.ptr = w };

		if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
			free(w);
			return NULL;
		}
	}
	w->events = events;
	return w;
}

/*
 * Nothing wanted means not in the set at all: epoll reports errors and
 * hang-ups of whatever is in it, and nobody would take them.
 */
void loop_watch_set(struct loop_watch *w, unsigned int events)
{
	struct epoll_event ev = { .events = to_epoll(events), .data.ptr = w };
	int op;

	if (w->dead || events == w->events)
		return;
	op = !w->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
	if (epoll_ctl(epfd, op, w->fd, &ev) == 0 || !events)
		w->events = events;
}

void loop_watch_remove(struct loop_watch *w)
{
	if (!w || w->dead)
		return;
	loop_watch_set(w, 0);
	w->dead = true;
	w->next_dead = dead_watches;
	dead_watches = w;
}

static void free_dead_watches(void)
{
	struct loop_watch *w;

	while ((w = dead_watches)) {
		dead_watches = w->next_dead;
		free(w);
	}
}

static void run_watch(struct loop_watch *w, uint32_t got)
{
	unsigned int events = 0;

	if (got & (EPOLLIN | EPOLLHUP | EPOLLERR))
		events |= LOOP_READ;
	if (got & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		events |= LOOP_WRITE;
	events &= w->events;
	if (!w->dead && events)
		w->fn(w->fd, events, w->opaque);
}

/* ---- timers ---- */

struct loop_timer *loop_timer_add(loop_timer_fn fn, void *opaque)
{
	struct loop_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->fn = fn;
	t->opaque = opaque;
	t->next = timers;
	timers = t;
	return t;
}

void loop_timer_start(struct loop_timer *t, uint32_t ms)
{
	t->due = now_ms() + ms;
}

void loop_timer_stop(struct loop_timer *t)
{
	t->due = 0;
}

void loop_timer_remove(struct loop_timer *t)
{
	if (!t)
		return;
	t->due = 0;
	t->dead = true;
}

static int next_timeout(void)
{
	long long now = now_ms(), first = now + 60000;
	struct loop_timer *t;

	if (tasks)
		return 0;
	for (t = timers; t; t = t->next)
		if (t->due && t->due < first)
			first = t->due;
	return first > now ? first - now : 0;
}

static void run_timers(void)
{
	struct loop_timer *t, **p;
	long long now = now_ms();

	for (t = timers; t; t = t->next) {
		if (t->due && t->due <= now) {
			t->due = 0;
			t->fn(t->opaque);
		}
	}
	for (p = &timers; (t = *p);) {
		if (t->dead) {
			*p = t->next;
			free(t);
		} else {
			p = &t->next;
		}
	}
}

/* ---- tasks ---- */

void loop_defer(struct loop_task *t)
{
	if (t->queued)
		return;
	t->queued = true;
	t->next = NULL;
	*tasks_tail = t;
	tasks_tail = &t->next;
}

void loop_cancel(struct loop_task *t)
{
	struct loop_task **p;

	if (!t->queued)
		return;
	for (p = &tasks; *p != t; p = &(*p)->next)
		;
	*p = t->next;
	if (!*p)
		tasks_tail = p;
	t->queued = false;
}

/* Only those that wait now: one that queues itself again lets events in first. */
static void run_tasks(void)
{
	static struct loop_task mark;
	struct loop_task *t;

	loop_defer(&mark);
	while ((t = tasks) != &mark) {
		loop_cancel(t);
		t->fn(t->opaque);
	}
	loop_cancel(&mark);
}

void loop_run(void)
{
	struct epoll_event ev[32];
	int i, n;

	while (!quit) {
		n = epoll_wait(epfd, ev, 32, next_timeout());
		for (i = 0; i < n; i++)
			run_watch(ev[i].data.ptr, ev[i].events);
		run_timers();
		run_tasks();
		free_dead_watches();
	}
}
