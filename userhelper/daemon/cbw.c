// SPDX-License-Identifier: GPL-2.0-only
#include "cbw.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <glib.h>

#include "log.h"
#include "sock.h"

/* Memory for clusters on their way: allocated before the first of them. */
#define POOL_BYTES	(4u << 20)
#define POOL_MIN	4
#define POOL_MAX	64

/*
 * lock guards all that is not constant. The map's bits are set with it held, and
 * read without; other processes read them at any time.
 */
struct cbw {
	gint refs;
	GMutex lock;
	GCond work;
	struct snapmap map;
	int scratch, limit_ms;
	void (*failed)(void *arg);
	void *failed_arg;
	void (*wake)(unsigned int queue, void *arg);
	void *wake_arg;
	uint32_t waiting;		/* queues to be woken */
	bool over;
	uint64_t copied;
	uint64_t *claimed;		/* bits: being copied */
	uint8_t *memory;
	struct cbw_copy copy[POOL_MAX];
	struct cbw_copy *free;
	struct cbw_copy *first, *last;	/* read, to be written; the first is being so */
};

static gpointer writer(gpointer arg);

static bool bit(const uint64_t *bits, uint64_t n)
{
	return bits[n / 64] >> n % 64 & 1;
}

static void make_pool(struct cbw *c)
{
	unsigned int n = CLAMP(POOL_BYTES / c->map.cluster, POOL_MIN, POOL_MAX);

	c->memory = malloc((size_t)n * c->map.cluster);
	/* Touched now: under memory pressure it would be the drive that waits. */
	if (c->memory)
		memset(c->memory, 0, (size_t)n * c->map.cluster);
	for (unsigned int i = 0; i < n; i++) {
		c->copy[i].c = c;
		c->copy[i].buf = c->memory + (size_t)i * c->map.cluster;
		c->copy[i].next = c->free;
		c->free = &c->copy[i];
	}
}

static void release(struct cbw *c)
{
	free(c->memory);
	free(c->claimed);
	g_mutex_clear(&c->lock);
	g_cond_clear(&c->work);
	g_free(c);
}

struct cbw *cbw_new(const struct cbw_params *p)
{
	struct cbw *c = g_new0(struct cbw, 1);
	GThread *t = NULL;

	c->refs = 2;		/* the caller's and the thread's */
	c->map = p->map;
	c->scratch = p->scratch;
	c->limit_ms = p->limit_ms;
	c->failed = p->failed;
	c->failed_arg = p->arg;
	g_mutex_init(&c->lock);
	g_cond_init(&c->work);
	c->claimed = calloc((c->map.nr + 63) / 64, sizeof(uint64_t));
	make_pool(c);
	if (c->memory && c->claimed)
		t = g_thread_try_new("snapshot", writer, c, NULL);
	if (!t) {
		release(c);
		return NULL;
	}
	g_thread_unref(t);
	return c;
}

struct cbw *cbw_ref(struct cbw *c)
{
	g_atomic_int_inc(&c->refs);
	return c;
}

void cbw_unref(struct cbw *c)
{
	if (!c || !g_atomic_int_dec_and_test(&c->refs))
		return;
	snapmap_close(&c->map);
	close(c->scratch);
	release(c);
}

void cbw_attach(struct cbw *c, void (*wake)(unsigned int queue, void *arg), void *arg)
{
	g_mutex_lock(&c->lock);
	c->wake = wake;
	c->wake_arg = arg;
	g_mutex_unlock(&c->lock);
}

static void wake_all(struct cbw *c)
{
	uint32_t waiting = c->waiting;

	c->waiting = 0;
	for (unsigned int i = 0; c->wake && waiting; i++, waiting >>= 1)
		if (waiting & 1)
			c->wake(i, c->wake_arg);
}

/* The readers are told before any write that was not copied for can be sent. */
static bool end_locked(struct cbw *c, int error, const char *why)
{
	if (c->over)
		return false;
	snapmap_end(&c->map, error, why);
	c->over = true;
	wake_all(c);
	g_cond_signal(&c->work);
	return true;
}

void cbw_end(struct cbw *c, int error, const char *why)
{
	g_mutex_lock(&c->lock);
	end_locked(c, error, why);
	g_mutex_unlock(&c->lock);
}

static void fail(struct cbw *c, int error, const char *why)
{
	bool mine;

	g_mutex_lock(&c->lock);
	mine = end_locked(c, error, why);
	g_mutex_unlock(&c->lock);
	if (mine)
		c->failed(c->failed_arg);
}

static struct cbw_copy *claim(struct cbw *c, uint64_t cluster)
{
	struct cbw_copy *copy = c->free;

	if (!copy)
		return NULL;
	c->free = copy->next;
	copy->next = NULL;
	copy->cluster = cluster;
	copy->offset = cluster * c->map.cluster;
	copy->len = snapmap_len(&c->map, cluster);
	c->claimed[cluster / 64] |= 1ull << cluster % 64;
	cbw_ref(c);
	return copy;
}

bool cbw_begin(struct cbw *c, unsigned int queue, uint64_t offset, uint64_t len,
	       struct cbw_copy **copy)
{
	uint64_t last = (offset + len - 1) / c->map.cluster;
	bool go = true;

	if (copy)
		*copy = NULL;
	if (!len)
		return true;
	g_mutex_lock(&c->lock);
	for (uint64_t i = offset / c->map.cluster; i <= last && !c->over; i++) {
		if (snapmap_copied(&c->map, i))
			continue;
		go = false;
		if (bit(c->claimed, i))
			continue;
		if (copy)
			*copy = claim(c, i);
		break;
	}
	if (!go)
		c->waiting |= 1u << queue;
	g_mutex_unlock(&c->lock);
	return go;
}

/* Its buffer is another's, and so may be its cluster. */
static void put(struct cbw_copy *copy)
{
	struct cbw *c = copy->c;

	c->claimed[copy->cluster / 64] &= ~(1ull << copy->cluster % 64);
	copy->next = c->free;
	c->free = copy;
	wake_all(c);
}

void cbw_read_lost(struct cbw_copy *copy)
{
	struct cbw *c = copy->c;

	g_mutex_lock(&c->lock);
	put(copy);
	g_mutex_unlock(&c->lock);
	cbw_unref(c);
}

void cbw_read_done(struct cbw_copy *copy, int error)
{
	struct cbw *c = copy->c;
	char why[SNAPMAP_WHY_MAX];

	if (error) {
		snprintf(why, sizeof(why), "the medium cannot be read at %llu: %s",
			 (unsigned long long)copy->offset, strerror(error));
		fail(c, EIO, why);
		cbw_read_lost(copy);
		return;
	}
	g_mutex_lock(&c->lock);
	if (c->over) {
		put(copy);
		g_mutex_unlock(&c->lock);
		cbw_unref(c);
		return;
	}
	/* Its reference goes along. */
	copy->since = now_ms();
	copy->next = NULL;
	if (c->last)
		c->last->next = copy;
	else
		c->first = copy;
	c->last = copy;
	g_cond_signal(&c->work);
	g_mutex_unlock(&c->lock);
}

static bool zeroes(const uint8_t *p, size_t n)
{
	return !p[0] && !memcmp(p, p + 1, n - 1);
}

/* What is zero stays a hole. Return: 0 or errno value */
static int store(const struct cbw *c, const struct cbw_copy *copy)
{
	uint32_t done = zeroes(copy->buf, copy->len) ? copy->len : 0;

	while (done < copy->len) {
		ssize_t n = pwrite(c->scratch, copy->buf + done, copy->len - done,
				   copy->offset + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? errno : EIO;
		done += n;
	}
	return snapmap_lost(c->scratch);
}

static void stored(struct cbw *c, struct cbw_copy *copy, int error)
{
	char why[SNAPMAP_WHY_MAX];

	if (error) {
		snprintf(why, sizeof(why), "the scratch file: %s", strerror(error));
		fail(c, error, why);
	}
	g_mutex_lock(&c->lock);
	c->first = copy->next;
	if (!c->first)
		c->last = NULL;
	if (!error) {
		snapmap_set(&c->map, copy->cluster);
		c->copied += copy->len;
	}
	put(copy);
	g_mutex_unlock(&c->lock);
	cbw_unref(c);
}

static gpointer writer(gpointer arg)
{
	struct cbw *c = arg;

	for (;;) {
		struct cbw_copy *copy;
		bool over;

		g_mutex_lock(&c->lock);
		while (!c->first && !c->over)
			g_cond_wait(&c->work, &c->lock);
		copy = c->first;
		over = c->over;
		g_mutex_unlock(&c->lock);
		if (!copy)
			break;
		stored(c, copy, over ? ECANCELED : store(c, copy));
	}
	/* Over: nobody may read it any more, and its room may be needed badly. */
	if (ftruncate(c->scratch, 0) < 0)
		log_debug("scratch file: %s", strerror(errno));
	cbw_unref(c);
	return NULL;
}

void cbw_watch(struct cbw *c, long long now)
{
	int lost = snapmap_lost(c->scratch);
	char why[SNAPMAP_WHY_MAX];
	bool late;

	g_mutex_lock(&c->lock);
	late = c->first && now - c->first->since > c->limit_ms;
	g_mutex_unlock(&c->lock);
	if (lost) {
		snprintf(why, sizeof(why), "the scratch file: %s", strerror(lost));
		fail(c, lost, why);
	}
	if (!late)
		return;
	snprintf(why, sizeof(why), "the scratch file's storage does not answer for %d s",
		 c->limit_ms / 1000);
	fail(c, ETIMEDOUT, why);
}

int cbw_over(struct cbw *c, char *why)
{
	return snapmap_over(&c->map, why);
}

uint64_t cbw_copied(struct cbw *c)
{
	uint64_t n;

	g_mutex_lock(&c->lock);
	n = c->copied;
	g_mutex_unlock(&c->lock);
	return n;
}
