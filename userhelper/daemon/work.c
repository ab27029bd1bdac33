// SPDX-License-Identifier: GPL-2.0-only
#include "work.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "sock.h"

static GThread *main_thread;
static GMutex change_lock;
static GCond change_cond;
static uint64_t changes;

struct call {
	void (*fn)(void *arg);
	void *arg;
	bool wait, done;
	GMutex lock;
	GCond cond;
};

void work_init(void)
{
	main_thread = g_thread_self();
}

static int derr_va(struct derr *e, enum qmp_class cls, int code, const char *fmt, va_list ap)
{
	if (e) {
		e->cls = cls;
		e->code = code;
		vsnprintf(e->text, sizeof(e->text), fmt, ap);
	}
	return -code;
}

int derr_set(struct derr *e, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	derr_va(e, QMP_GENERIC_ERROR, code, fmt, ap);
	va_end(ap);
	return -code;
}

int derr_class(struct derr *e, enum qmp_class cls, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	derr_va(e, cls, code, fmt, ap);
	va_end(ap);
	return -code;
}

static gboolean do_call(gpointer arg)
{
	struct call *c = arg;

	c->fn(c->arg);
	if (!c->wait) {
		g_free(c);
		return G_SOURCE_REMOVE;
	}
	g_mutex_lock(&c->lock);
	c->done = true;
	g_cond_signal(&c->cond);
	g_mutex_unlock(&c->lock);
	return G_SOURCE_REMOVE;
}

/* One priority for both, so that they keep their order. */
static void queue_call(struct call *c)
{
	GSource *s = g_idle_source_new();

	g_source_set_priority(s, G_PRIORITY_DEFAULT);
	g_source_set_callback(s, do_call, c, NULL);
	g_source_attach(s, NULL);
	g_source_unref(s);
}

void main_call(void (*fn)(void *arg), void *arg)
{
	struct call c = { .fn = fn, .arg = arg, .wait = true };

	if (g_thread_self() == main_thread) {
		fn(arg);
		return;
	}
	g_mutex_init(&c.lock);
	g_cond_init(&c.cond);
	queue_call(&c);
	g_mutex_lock(&c.lock);
	while (!c.done)
		g_cond_wait(&c.cond, &c.lock);
	g_mutex_unlock(&c.lock);
	g_mutex_clear(&c.lock);
	g_cond_clear(&c.cond);
}

void main_post(void (*fn)(void *arg), void *arg)
{
	struct call *c = g_new0(struct call, 1);

	c->fn = fn;
	c->arg = arg;
	queue_call(c);
}

static gpointer task_thread(gpointer arg)
{
	struct task *t = arg;

	t->run(t, t->arg);
	task_unref(t);
	return NULL;
}

struct task *task_new(const char *name, long long deadline,
		      void (*run)(struct task *t, void *arg), void *arg)
{
	struct task *t = g_new0(struct task, 1);

	t->refs = 1;
	t->name = name;
	t->deadline = deadline;
	t->run = run;
	t->arg = arg;
	t->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->cancel_fd < 0) {
		g_free(t);
		return NULL;
	}
	return t;
}

bool task_run(struct task *t)
{
	GThread *thread;

	task_ref(t);
	thread = g_thread_try_new(t->name, task_thread, t, NULL);
	if (!thread) {
		task_unref(t);
		return false;
	}
	g_thread_unref(thread);
	return true;
}

struct task *task_ref(struct task *t)
{
	g_atomic_int_inc(&t->refs);
	return t;
}

void task_unref(struct task *t)
{
	if (!t || !g_atomic_int_dec_and_test(&t->refs))
		return;
	close(t->cancel_fd);
	g_free(t);
}

void task_cancel(struct task *t)
{
	uint64_t one = 1;

	g_atomic_int_set(&t->cancelled, 1);
	/* It is non-blocking, and full only if it is readable already. */
	if (write(t->cancel_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		abort();
	change_wake();
}

bool task_cancelled(struct task *t)
{
	return g_atomic_int_get(&t->cancelled);
}

int task_left(const struct task *t)
{
	long long left;

	if (!t->deadline)
		return -1;
	left = t->deadline - now_ms();
	return left > 0 ? (int)MIN(left, G_MAXINT) : 0;
}

void change_wake(void)
{
	g_mutex_lock(&change_lock);
	changes++;
	g_cond_broadcast(&change_cond);
	g_mutex_unlock(&change_lock);
}

uint64_t change_seq(void)
{
	uint64_t n;

	g_mutex_lock(&change_lock);
	n = changes;
	g_mutex_unlock(&change_lock);
	return n;
}

int task_wait(struct task *t, uint64_t seq, const char *what, struct derr *e)
{
	int r = 0;

	g_mutex_lock(&change_lock);
	while (changes == seq && !r) {
		int left = task_left(t);

		if (task_cancelled(t))
			r = -ECANCELED;
		else if (!left)
			r = -ETIMEDOUT;
		else if (left < 0)
			g_cond_wait(&change_cond, &change_lock);
		else
			g_cond_wait_until(&change_cond, &change_lock,
					  g_get_monotonic_time() + left * 1000LL);
	}
	g_mutex_unlock(&change_lock);
	if (task_cancelled(t))
		r = -ECANCELED;
	if (r == -ECANCELED)
		return derr_set(e, ECANCELED, "%s: ended by an eject", what);
	if (r)
		return derr_set(e, ETIMEDOUT, "%s: timed out", what);
	return 0;
}

bool task_wait_until(struct task *t, uint64_t seq, long long end)
{
	bool changed;

	g_mutex_lock(&change_lock);
	while (changes == seq && !task_cancelled(t) && now_ms() < end)
		g_cond_wait_until(&change_cond, &change_lock,
				  g_get_monotonic_time() + (end - now_ms()) * 1000);
	changed = changes != seq;
	g_mutex_unlock(&change_lock);
	return changed && !task_cancelled(t);
}

int task_poll(struct task *t, int fd, short events, const char *what, struct derr *e)
{
	struct pollfd p[2] = {
		{ .fd = t->cancel_fd, .events = POLLIN },
		{ .fd = fd, .events = events },
	};
	int r;

	do {
		r = poll(p, 2, task_left(t));
	} while (r < 0 && errno == EINTR);
	if (task_cancelled(t) || p[0].revents)
		return derr_set(e, ECANCELED, "%s: ended by an eject", what);
	if (r <= 0)
		return derr_set(e, ETIMEDOUT, "%s: no answer in time", what);
	return p[1].revents;
}

int task_pause(struct task *t, int ms)
{
	struct pollfd p = { .fd = t->cancel_fd, .events = POLLIN };
	int left = task_left(t);

	if (left >= 0 && left < ms)
		ms = left;
	poll(&p, 1, ms);
	if (task_cancelled(t))
		return -ECANCELED;
	return task_left(t) ? 0 : -ETIMEDOUT;
}
