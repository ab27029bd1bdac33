// SPDX-License-Identifier: GPL-2.0-only
#include "far.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <glib.h>

#include "cache.h"
#include "io.h"
#include "path.h"
#include "prefetch.h"
#include "sock.h"

/*
 * A request of this size or more, of which little is there, goes to the server as
 * it is, and nothing is fetched behind it: the kernel reads a file ahead by itself,
 * and a second copy would not help.
 */
#define LARGE		(256u << 10)
/* Under way ahead of readers, at most and at least. */
#define AHEAD_MAX	(16u << 20)
#define AHEAD_MIN	(512u << 10)

/* cache_block.flags */
#define BLOCK_AHEAD	(1u << 0)	/* counted in far.ahead */
#define BLOCK_ALONE	(1u << 1)

/* far_sent() */
#define MARK_ALONE	(1ull << 63)

struct far_queue {
	unsigned int out;		/* requests and blocks under way */
	uint64_t bytes;			/* of them */
	/* Blocks that requests wait for and that are not sent, oldest first. */
	struct cache_block *want[64];
	unsigned int first, nr;
};

struct far {
	struct far_params p;
	GMutex lock;
	struct path path;
	struct prefetch prefetch;
	struct cache *cache;		/* NULL: only the path is measured */
	struct far_queue q[IO_QUEUES_MAX];
	uint64_t ahead;			/* bytes under way that nobody waits for */
	uint32_t told;			/* read-ahead */
	long long used;			/* now_ms() of the last read */
	uint64_t wasted;		/* as weighed */
	struct far_stats stats;
};

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void tune(struct far *f)
{
	if (f->cache)
		prefetch_path(&f->prefetch, path_bdp(&f->path),
			      MIN(f->p.cache / 4, (size_t)AHEAD_MAX));
}

struct far *far_new(const struct far_params *p)
{
	struct far *f = g_new0(struct far, 1);

	f->p = *p;
	g_mutex_init(&f->lock);
	path_init(&f->path, p->rtt);
	prefetch_init(&f->prefetch, p->size);
	if (p->cache)
		f->cache = cache_new(p->size, p->cache);
	if (p->cache && !f->cache) {
		far_free(f);
		return NULL;
	}
	f->told = path_read_ahead(&f->path);
	tune(f);
	return f;
}

void far_free(struct far *f)
{
	if (!f)
		return;
	cache_free(f->cache);
	g_mutex_clear(&f->lock);
	g_free(f);
}

/* The path. */

static bool sent_locked(struct far *f, unsigned int queue, uint32_t len)
{
	f->q[queue].bytes += len;
	return f->q[queue].out++ == 0;
}

static uint64_t depth(const struct far *f)
{
	uint64_t bytes = 0;

	for (int i = 0; i < IO_QUEUES_MAX; i++)
		bytes += f->q[i].bytes;
	return bytes;
}

struct came {
	uint64_t sent;
	uint32_t len;
	bool alone, ok;
};

static void came_locked(struct far *f, unsigned int queue, const struct came *c)
{
	struct far_queue *q = &f->q[queue];

	if (!q->out)
		return;
	q->out--;
	q->bytes -= MIN(c->len, q->bytes);
	path_came(&f->path, c->sent, now_us(), c->ok ? c->len : 0, c->alone && c->ok, depth(f));
	tune(f);
}

uint64_t far_sent(struct far *f, unsigned int queue, uint32_t len)
{
	bool alone;

	g_mutex_lock(&f->lock);
	alone = sent_locked(f, queue, len);
	g_mutex_unlock(&f->lock);
	return now_us() | (alone ? MARK_ALONE : 0);
}

void far_came(struct far *f, unsigned int queue, uint64_t mark, uint32_t len, bool ok)
{
	struct came c = {
		.sent = mark & ~MARK_ALONE, .len = len, .alone = mark & MARK_ALONE, .ok = ok,
	};

	g_mutex_lock(&f->lock);
	came_locked(f, queue, &c);
	g_mutex_unlock(&f->lock);
}

bool far_news(struct far *f)
{
	uint32_t want;
	bool tell;

	g_mutex_lock(&f->lock);
	want = path_read_ahead(&f->path);
	/* Whoever is told sets something in the kernel: not for every small step. */
	tell = want > f->told + f->told / 2 || want < f->told / 2;
	if (tell)
		f->told = want;
	g_mutex_unlock(&f->lock);
	return tell;
}

/* Reads. */

struct found {
	unsigned int valid, coming, missing;
};

static void look(struct far *f, uint64_t first, uint64_t last, struct found *out)
{
	memset(out, 0, sizeof(*out));
	for (uint64_t i = first; i <= last; i++) {
		const struct cache_block *b = cache_find(f->cache, i);

		*(!b ? &out->missing : b->valid ? &out->valid : &out->coming) += 1;
	}
}

static void note_waste(struct far *f)
{
	uint64_t wasted = cache_stats(f->cache).wasted;

	if (wasted != f->wasted)
		prefetch_bad(&f->prefetch, wasted - f->wasted);
	f->wasted = wasted;
}

static void fill(struct far *f, struct ring_slot *s, uint64_t first, uint64_t last)
{
	uint64_t end = s->offset + s->length;

	for (uint64_t i = first; i <= last; i++) {
		struct cache_block *b = cache_find(f->cache, i);
		uint64_t begin = i * CACHE_BLOCK;
		uint64_t from = MAX(begin, s->offset), to = MIN(begin + b->len, end);

		memcpy(s->buf + (from - s->offset), b->data + (from - begin), to - from);
		if (b->ahead)
			prefetch_good(&f->prefetch, b->len);
		cache_used(f->cache, b, to == begin + b->len);
	}
}

/* A block to be fetched for a request. */
static bool want(struct far *f, unsigned int queue, uint64_t index)
{
	struct far_queue *q = &f->q[queue];
	struct cache_block *b;

	if (q->nr == G_N_ELEMENTS(q->want))
		return false;
	b = cache_add(f->cache, index, false);
	if (!b)
		return false;
	b->queue = queue;
	q->want[(q->first + q->nr++) % G_N_ELEMENTS(q->want)] = b;
	return true;
}

/* All its blocks are or become such that come, and wake the queue; false: it cannot be. */
static bool wait_for(struct far *f, unsigned int queue, uint64_t first, uint64_t last)
{
	for (uint64_t i = first; i <= last; i++) {
		struct cache_block *b = cache_find(f->cache, i);

		if (!b && !want(f, queue, i))
			return false;
		b = b ?: cache_find(f->cache, i);
		if (b->valid)
			continue;
		b->waiting |= 1u << queue;
		/* It has been asked for now, and may be waited for. */
		if (b->ahead)
			prefetch_good(&f->prefetch, b->len);
		b->ahead = false;
	}
	return true;
}

/* Whether a block's other bytes come at no great cost. */
static bool worth_a_block(const struct far *f)
{
	uint64_t rate = path_rate(&f->path);

	return !rate || rate * path_rtt(&f->path) / 1000000 * 2 >= CACHE_BLOCK;
}

static enum far_verdict judge(struct far *f, unsigned int queue, struct ring_slot *s, bool again)
{
	uint64_t first = s->offset / CACHE_BLOCK;
	uint64_t last = (s->offset + s->length - 1) / CACHE_BLOCK;
	struct found n;

	look(f, first, last, &n);
	if (!n.coming && !n.missing) {
		fill(f, s, first, last);
		if (!again) {
			f->stats.hits++;
			f->stats.hit_bytes += s->length;
		}
		return FAR_HIT;
	}
	/* What it waited for did not come, or went again: no second time. */
	if (again)
		return n.missing || !wait_for(f, queue, first, last) ? FAR_DIRECT : FAR_WAIT;
	*(n.missing ? &f->stats.misses : &f->stats.joined) += 1;
	if (s->length >= LARGE && n.missing > n.valid + n.coming)
		return FAR_DIRECT;
	if (n.missing > last - first && !worth_a_block(f))
		return FAR_DIRECT;
	return wait_for(f, queue, first, last) ? FAR_WAIT : FAR_DIRECT;
}

enum far_verdict far_read(struct far *f, unsigned int queue, struct ring_slot *s, bool again)
{
	enum far_verdict v;

	if (!f->cache)
		return FAR_DIRECT;
	g_mutex_lock(&f->lock);
	f->used = now_ms();
	v = judge(f, queue, s, again);
	if (!again && s->length < LARGE)
		prefetch_read(&f->prefetch, s->offset, s->length, v != FAR_HIT);
	note_waste(f);
	g_mutex_unlock(&f->lock);
	return v;
}

/* Fetches. */

static void give(struct far *f, unsigned int queue, struct cache_block *b, struct far_fetch *out)
{
	b->queue = queue;
	b->flags = (b->ahead ? BLOCK_AHEAD : 0) | (sent_locked(f, queue, b->len) ? BLOCK_ALONE : 0);
	b->sent = now_us();
	if (b->ahead) {
		f->ahead += b->len;
		f->stats.fetched += b->len;
	}
	*out = (struct far_fetch) {
		.block = b, .offset = b->index * CACHE_BLOCK, .len = b->len, .buf = b->data,
	};
}

/*
 * What is under way ahead delays the next request that nobody foresaw: a bit
 * more than fills the path, so that the measured rate can still rise.
 */
static uint64_t ahead_limit(const struct far *f)
{
	uint64_t bdp = path_bdp(&f->path);

	return CLAMP(bdp + bdp / 2, AHEAD_MIN, MIN(f->p.cache / 4, (size_t)AHEAD_MAX));
}

static struct cache_block *next_ahead(struct far *f)
{
	struct cache_block *b = NULL;
	uint64_t index;

	if (f->ahead >= ahead_limit(f))
		return NULL;
	while (!b && prefetch_next(&f->prefetch, CACHE_BLOCK, &index)) {
		if (!cache_find(f->cache, index)) {
			b = cache_add(f->cache, index, true);
			/* Full of others that are coming: not now. */
			if (!b)
				return NULL;
		}
		prefetch_taken(&f->prefetch, CACHE_BLOCK, index);
	}
	return b;
}

bool far_next(struct far *f, unsigned int queue, struct far_fetch *out)
{
	struct far_queue *q = &f->q[queue];
	struct cache_block *b = NULL;

	if (!f->cache)
		return false;
	g_mutex_lock(&f->lock);
	if (q->nr) {
		b = q->want[q->first];
		q->first = (q->first + 1) % G_N_ELEMENTS(q->want);
		q->nr--;
	} else {
		b = next_ahead(f);
		note_waste(f);
	}
	if (b)
		give(f, queue, b, out);
	g_mutex_unlock(&f->lock);
	return b;
}

/* Counts it as over, whatever became of it. */
static void ended(struct far *f, struct cache_block *b)
{
	if (b->flags & BLOCK_AHEAD)
		f->ahead -= b->len;
}

static void wake(struct far *f, uint32_t waiting, unsigned int but)
{
	for (unsigned int i = 0; waiting; i++, waiting >>= 1)
		if (waiting & 1 && i != but)
			f->p.wake(i, f->p.arg);
}

bool far_done(struct far *f, unsigned int queue, void *block, int error)
{
	struct cache_block *b = block;
	struct came c = {
		.sent = b->sent, .len = b->len, .alone = b->flags & BLOCK_ALONE, .ok = !error,
	};
	uint32_t waiting;

	g_mutex_lock(&f->lock);
	came_locked(f, queue, &c);
	ended(f, b);
	waiting = b->waiting;
	b->waiting = 0;
	if (error)
		cache_drop(f->cache, b);
	else
		cache_came(f->cache, b);
	g_mutex_unlock(&f->lock);
	wake(f, waiting, queue);
	return waiting & 1u << queue;
}

bool far_owns(const struct far *f, const void *owner)
{
	return f->cache && cache_owns(f->cache, owner);
}

struct lost {
	struct far *f;
	unsigned int queue;
	uint32_t waiting;
};

static void lose(struct cache_block *b, void *arg)
{
	struct lost *l = arg;

	if (b->queue != l->queue)
		return;
	l->waiting |= b->waiting;
	ended(l->f, b);
	cache_drop(l->f->cache, b);
}

void far_lost(struct far *f, unsigned int queue)
{
	struct lost l = { .f = f, .queue = queue };

	g_mutex_lock(&f->lock);
	if (f->cache)
		cache_coming(f->cache, lose, &l);
	f->q[queue].out = f->q[queue].bytes = 0;
	f->q[queue].first = f->q[queue].nr = 0;
	f->path.from = 0;
	g_mutex_unlock(&f->lock);
	wake(f, l.waiting, queue);
}

void far_forget(struct far *f)
{
	g_mutex_lock(&f->lock);
	if (f->cache) {
		cache_clear(f->cache);
		f->wasted = cache_stats(f->cache).wasted;
	}
	prefetch_stop(&f->prefetch);
	g_mutex_unlock(&f->lock);
}

int far_idle(struct far *f, long long now)
{
	int left = -1;

	g_mutex_lock(&f->lock);
	if (f->cache && cache_stats(f->cache).blocks && !depth(f)) {
		left = (int)MAX(f->used + FAR_IDLE_MS - now, 0);
		if (!left) {
			cache_clear(f->cache);
			left = -1;
		}
	}
	g_mutex_unlock(&f->lock);
	return left;
}

void far_stats(struct far *f, struct far_stats *out)
{
	g_mutex_lock(&f->lock);
	*out = f->stats;
	out->rtt = path_rtt(&f->path);
	out->rate = path_rate(&f->path);
	out->read_ahead = f->told;
	out->limit = f->cache ? f->p.cache : 0;
	if (f->cache) {
		out->used = (size_t)cache_stats(f->cache).blocks * CACHE_BLOCK;
		out->wasted = cache_stats(f->cache).wasted;
	}
	g_mutex_unlock(&f->lock);
}
