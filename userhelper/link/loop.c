// SPDX-License-Identifier: GPL-2.0-only
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "sock.h"
#include "spin.h"

#define EVENTS_MAX	32

struct loop_watch {
	struct loop_watch *next;	/* of all, or of the dead */
	struct loop_watch *next_changed;
	loop_watch_fn fn;
	void *opaque;
	int fd;
	unsigned int events;	/* wanted */
	unsigned int set;	/* what epoll knows */
	bool changed, dead;
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
static struct spin spin;
static struct loop_watch *watches;
static struct loop_watch *changed_watches;	/* epoll is told before it waits */
static struct loop_watch *dead_watches;	/* freed when no event can name them */
static struct loop_timer *timers;
static struct loop_task *tasks, **tasks_tail = &tasks;

int loop_init(void)
{
	spin_init(&spin, true);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	return epfd < 0 ? -errno : 0;
}

void loop_busy_poll(bool yes)
{
	spin_init(&spin, !yes);
}

void loop_quit(void)
{
	quit = true;
}

/* ---- watches ---- */

static uint32_t to_epoll(unsigned int events)
{
	return (events & LOOP_READ ? EPOLLIN : 0) | (events & LOOP_WRITE ? EPOLLOUT : 0) |
	       (events & LOOP_EDGE ? EPOLLET : 0);
}

/*
 * Nothing wanted means not in the set at all: epoll reports errors and
 * hang-ups of whatever is in it, and nobody would take them.
 */
static bool apply(struct loop_watch *w, unsigned int events)
{
	struct epoll_event ev = { .events = to_epoll(events), .data.ptr = w };
	int op;

	if (w->set == events)
		return true;
	op = !w->set ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
	if (epoll_ctl(epfd, op, w->fd, &ev) < 0 && events)
		return false;
	w->set = events;
	return true;
}

struct loop_watch *loop_watch_add(int fd, unsigned int events, loop_watch_fn fn, void *opaque)
{
	struct loop_watch *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->fd = fd;
	w->fn = fn;
	w->opaque = opaque;
	w->events = events;
	if (!apply(w, events)) {
		free(w);
		return NULL;
	}
	w->next = watches;
	watches = w;
	return w;
}

/* What is wanted often changes back before epoll waits, and costs nothing then. */
void loop_watch_set(struct loop_watch *w, unsigned int events)
{
	if (w->dead)
		return;
	w->events = events;
	if (w->changed || w->events == w->set)
		return;
	w->changed = true;
	w->next_changed = changed_watches;
	changed_watches = w;
}

static void apply_changes(void)
{
	struct loop_watch *w;

	while ((w = changed_watches)) {
		changed_watches = w->next_changed;
		w->changed = false;
		if (!w->dead && !apply(w, w->events))
			w->events = w->set;
	}
}

void loop_watch_remove(struct loop_watch *w)
{
	struct loop_watch **p;

	if (!w || w->dead)
		return;
	apply(w, 0);
	w->events = 0;
	w->dead = true;
	for (p = &watches; *p != w; p = &(*p)->next)
		;
	*p = w->next;
	w->next = dead_watches;
	dead_watches = w;
}

/* epoll knows a descriptor by its number and its file: it must forget the old one first. */
int loop_replace(int fd, int with)
{
	struct loop_watch *w;
	int r;

	for (w = watches; w; w = w->next)
		if (w->fd == fd)
			apply(w, 0);
	do {
		r = dup3(with, fd, O_CLOEXEC);
	} while (r < 0 && (errno == EINTR || errno == EBUSY));
	for (w = watches; w; w = w->next)
		if (w->fd == fd)
			apply(w, w->events);
	return r < 0 ? -errno : 0;
}

static void free_dead_watches(void)
{
	struct loop_watch *w;

	while ((w = dead_watches)) {
		dead_watches = w->next;
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

static int look_for_events(struct epoll_event *ev)
{
	uint64_t end = spin_now() + SPIN_NS;
	int n;

	/*
	 * Whoever is to bring the event may have been put on this very processor. If
	 * it is somebody else who takes it, the look ends late, and was in vain.
	 */
	while ((n = epoll_wait(epfd, ev, EVENTS_MAX, 0)) == 0 && spin_now() < end)
		sched_yield();
	spin_looked(&spin, n > 0 && spin_now() < end, n == 1);
	return n;
}

static int wait_for_events(struct epoll_event *ev)
{
	uint64_t from;
	int n = 0;

	if (tasks)
		return epoll_wait(epfd, ev, EVENTS_MAX, 0);
	if (spin_wanted(&spin))
		n = look_for_events(ev);
	if (n)
		return n;
	from = spin.off ? 0 : spin_now();
	n = epoll_wait(epfd, ev, EVENTS_MAX, next_timeout());
	spin_slept(&spin, spin.off ? 0 : spin_now() - from, n == 1);
	return n;
}

void loop_run(void)
{
	struct epoll_event ev[EVENTS_MAX];
	int i, n;

	apply_changes();
	while (!quit) {
		n = wait_for_events(ev);
		for (i = 0; i < n; i++)
			run_watch(ev[i].data.ptr, ev[i].events);
		run_timers();
		run_tasks();
		/* A dead one may still be in the list of changes. */
		apply_changes();
		free_dead_watches();
	}
}
