// SPDX-License-Identifier: GPL-2.0-only
/*
 * What makes a far medium near, without a server: the cache against a model of
 * it, what is fetched ahead of which readers, what is learned of a path, and the
 * three together: hits, reads that wait, failed and lost fetches.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -pthread -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/daemon -Iuserhelper/lib -Iuapi selftests/unit/far_test.c userhelper/daemon/cache.c userhelper/daemon/prefetch.c userhelper/daemon/path.c userhelper/daemon/far.c userhelper/daemon/faropts.c userhelper/lib/sock.c userhelper/lib/log.c userhelper/lib/errtext.c userhelper/lib/text.c $(pkg-config --cflags --libs glib-2.0 json-glib-1.0 libnbd libsystemd)
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "far.h"
#include "faropts.h"
#include "path.h"
#include "prefetch.h"

static int number, failed;

static void result(int ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, name);
	failed += !ok;
}

/* The daemon's, which brings the rest of it along. */
int derr_set(struct derr *e, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	e->code = code;
	return -code;
}

#define MIB	(1u << 20)
#define BLOCKS(bytes)	((bytes) / CACHE_BLOCK)

/* The cache. */

/* What a cache has to be like, whatever it throws away. */
static bool agrees(struct cache *c, const uint8_t *state, unsigned int n, unsigned int limit)
{
	unsigned int there = 0;

	for (unsigned int i = 0; i < n; i++) {
		struct cache_block *b = cache_find(c, i);

		there += b != NULL;
		/* 1: coming, which nobody takes; 2: there, unless it had to go */
		if (state[i] == 1 && (!b || b->valid))
			return false;
		if (!state[i] && b)
			return false;
		if (b && b->valid && (state[i] != 2 || b->data[0] != (uint8_t)i))
			return false;
	}
	return there <= limit && cache_stats(c).blocks == there;
}

static void cache_model(void)
{
	enum { N = 200, LIMIT = 32 };
	struct cache *c = cache_new((uint64_t)N * CACHE_BLOCK - 1000, LIMIT * CACHE_BLOCK);
	uint8_t state[N] = { 0 };
	unsigned int coming = 0, full = 0;
	bool ok = true;

	srand(1);
	for (int step = 0; step < 200000 && ok; step++) {
		unsigned int i = rand() % N;
		struct cache_block *b = cache_find(c, i);

		if (!b) {
			b = cache_add(c, i, rand() & 1);
			ok &= b || coming == LIMIT;
			full += !b;
			state[i] = b ? 1 : 0;
			coming += b != NULL;
		} else if (!b->valid && rand() & 1) {
			memset(b->data, i, b->len);
			cache_came(c, b);
			state[i] = 2;
			coming--;
		} else if (!b->valid && !(rand() & 7)) {
			cache_drop(c, b);
			state[i] = 0;
			coming--;
		} else if (b->valid) {
			cache_used(c, b, rand() & 1);
		}
		/* Each look marks what had to go meanwhile. */
		for (unsigned int k = 0; k < N && !(step & 15); k++)
			if (state[k] == 2 && !cache_find(c, k))
				state[k] = 0;
		ok &= !(step & 15) ? agrees(c, state, N, LIMIT) : true;
	}
	result(ok, "cache: as its model, in 200,000 steps");
	result(full > 0, "cache: full of what is coming it takes nothing more");
	result(cache_add(c, N, false) == NULL, "cache: nothing beyond the medium");
	cache_free(c);
}

static void cache_ends(void)
{
	struct cache *c = cache_new(CACHE_BLOCK + 512, CACHE_MIN);
	struct cache_block *a = cache_add(c, 0, true), *b = cache_add(c, 1, false);

	result(a->len == CACHE_BLOCK && b->len == 512, "cache: the last block is shorter");
	memset(a->data, 7, a->len);
	cache_came(c, a);
	cache_came(c, b);
	cache_clear(c);
	result(!cache_find(c, 0) && !cache_find(c, 1), "cache: cleared, nothing is found");
	result(cache_stats(c).wasted == CACHE_BLOCK, "cache: what nobody asked for was wasted");
	a = cache_add(c, 0, false);
	result(a && !a->data[0], "cache: and its memory was given back");
	cache_clear(c);
	result(cache_find(c, 0) == a, "cache: what is coming is not cleared");
	cache_free(c);
	result(!cache_new(1, CACHE_MIN - 1) && !cache_new(0, CACHE_MIN) &&
	       !cache_new(1, (size_t)CACHE_MAX + 1), "cache: no sizes out of range");
}

static void cache_order(void)
{
	struct cache *c = cache_new(1ull << 30, CACHE_MIN);
	unsigned int n = BLOCKS(CACHE_MIN);

	for (unsigned int i = 0; i < n; i++)
		cache_came(c, cache_add(c, i, false));
	cache_used(c, cache_find(c, 0), false);
	cache_used(c, cache_find(c, n - 1), true);
	cache_add(c, n, false);
	result(!cache_find(c, n - 1) && cache_find(c, 0), "cache: what was read to its end goes first");
	cache_add(c, n + 1, false);
	result(!cache_find(c, 1) && cache_find(c, 0), "cache: then the oldest");
	cache_free(c);
}

/* What is fetched ahead. */

/* Takes all that is planned; returns how many blocks, and the last one's end. */
static unsigned int take(struct prefetch *p, uint64_t *end)
{
	unsigned int n = 0;
	uint64_t i;

	while (prefetch_next(p, CACHE_BLOCK, &i) && n < 100000) {
		prefetch_taken(p, CACHE_BLOCK, i);
		*end = (i + 1) * CACHE_BLOCK;
		n++;
	}
	return n;
}

static void prefetch_stream_grows(void)
{
	struct prefetch p;
	uint64_t end = 0, total = 0, at = 0;
	unsigned int n;
	bool ahead = true, bounded = true;

	prefetch_init(&p, 64 * MIB);
	prefetch_path(&p, 2 * MIB, 16 * MIB);
	prefetch_read(&p, 0, 4096, true);
	n = take(&p, &end);
	result(n == BLOCKS(512u << 10) + 1 || n == BLOCKS(512u << 10),
	       "prefetch: a new reader gets a quarter of what the path carries");
	total = n;
	for (at = 4096; at < 32 * MIB; at += 4096) {
		prefetch_read(&p, at, 4096, false);
		total += take(&p, &end);
		ahead &= end >= at + 4096;
		bounded &= end <= at + 4096 + 4 * MIB + CACHE_BLOCK;
	}
	result(ahead, "prefetch: it is always ahead of one that goes on");
	result(bounded, "prefetch: by twice of that at most");
	result(end > at + MIB, "prefetch: and by much, in the end");
	result(total * (uint64_t)CACHE_BLOCK <= end + CACHE_BLOCK, "prefetch: nothing is planned twice");
}

static void prefetch_short_run(void)
{
	struct prefetch p;
	uint64_t end = 0, at;

	prefetch_init(&p, 64 * MIB);
	prefetch_path(&p, 8 * MIB, 16 * MIB);
	for (at = 0; at < MIB; at += 16384) {
		prefetch_read(&p, at, 16384, true);
		take(&p, &end);
	}
	result(end <= 2 * MIB + CACHE_BLOCK, "prefetch: no further ahead than its reader has come");
}

static void prefetch_two_streams(void)
{
	struct prefetch p;
	uint64_t end, a = 0, b = 40 * MIB;
	unsigned int begun = 0;

	prefetch_init(&p, 64 * MIB);
	prefetch_path(&p, 2 * MIB, 16 * MIB);
	for (int i = 0; i < 400; i++) {
		prefetch_read(&p, a, 8192, false);
		prefetch_read(&p, b, 8192, false);
		take(&p, &end);
		a += 8192;
		b += 8192;
	}
	for (int i = 0; i < PREFETCH_STREAMS; i++)
		begun += p.stream[i].used != 0;
	result(begun == 2, "prefetch: two readers are two streams");
	prefetch_read(&p, a - 4096, 4096, false);
	prefetch_read(&p, a - 8192, 4096, false);
	result(!take(&p, &end), "prefetch: one that looks back needs nothing");
}

static void prefetch_random(void)
{
	struct prefetch p;
	uint64_t end;
	unsigned int first = 0, late = 0;

	prefetch_init(&p, 1ull << 40);
	prefetch_path(&p, 2 * MIB, 16 * MIB);
	srand(2);
	for (int i = 0; i < 1000; i++) {
		unsigned int n;

		prefetch_read(&p, ((uint64_t)rand() << 12) & ((1ull << 40) - 1), 4096, true);
		n = take(&p, &end);
		prefetch_bad(&p, (uint64_t)n * CACHE_BLOCK);
		*(i < 10 ? &first : &late) += n;
	}
	result(first && late < 200, "prefetch: what is wasted is not tried for long");
	for (uint64_t at = 0; at < 8 * MIB; at += 65536)
		prefetch_read(&p, at, 65536, true);
	result(take(&p, &end) > 0, "prefetch: but a reader who goes on gets it");
}

static void prefetch_end(void)
{
	struct prefetch p;
	uint64_t end = 0, size = 3 * MIB + 2048;

	prefetch_init(&p, size);
	prefetch_path(&p, 64 * MIB, 16 * MIB);
	for (uint64_t at = 0; at < 3 * MIB; at += 65536) {
		prefetch_read(&p, at, 65536, true);
		take(&p, &end);
	}
	result(end / CACHE_BLOCK <= (size - 1) / CACHE_BLOCK + 1, "prefetch: nothing beyond the medium");
	prefetch_read(&p, 0, 4096, true);
	prefetch_stop(&p);
	result(!take(&p, &end), "prefetch: stopped, nothing is planned");
}

/* The path. */

/* A train of pieces over a line; @depth of them under way. Ends at the time returned. */
static uint64_t train(struct path *p, uint64_t now, uint64_t rate, uint32_t rtt, uint32_t piece,
		      unsigned int n, unsigned int depth)
{
	uint64_t gap = (uint64_t)piece * 1000000 / rate, turn = rtt / depth;

	for (unsigned int i = 0; i < n; i++) {
		now += gap > turn ? gap : turn;
		path_came(p, now - rtt, now, piece, false,
			  (uint64_t)piece * (n - i - 1 < depth ? n - i - 1 : depth));
	}
	return now;
}

static bool about(uint64_t v, uint64_t want)
{
	return v > want - want / 5 && v < want + want / 5;
}

static void path_measures(void)
{
	struct path p;
	uint64_t now = 1000000;

	path_init(&p, 20000);
	result(path_rtt(&p) == 20000 && !path_rate(&p), "path: the first guess");
	result(about(path_read_ahead(&p), 5000000), "path: read-ahead for a fast line, by the guess");
	path_came(&p, now, now + 15000, 4096, true, 0);
	path_came(&p, now, now + 5000, 4096, false, 0);
	path_came(&p, now, now + 90000, 4096, true, 0);
	result(path_rtt(&p) == 15000, "path: the quickest of those that were alone");
	/* 32 of 64 KiB under way, where 15 ms carry 1.8 MB */
	now = train(&p, now + 100000, 50000000, 15000, 65536, 400, 32);
	result(about(path_rate(&p), 50000000), "path: the rate of a full line");
	result(about(path_bdp(&p), 750000), "path: bandwidth times delay");
	result(path_read_ahead(&p) > 3000000, "path: the read-ahead does not come down at once");
	now = train(&p, now + 11000000, 50000000, 15000, 65536, 400, 32);
	result(about(path_read_ahead(&p), 1500000), "path: but when it is sure");
	now = train(&p, now + 1000, 50000000, 15000, 65536, 400, 2);
	result(about(path_rate(&p), 50000000), "path: a slow reader does not change it");
	/* The line has become slower: known after two periods. */
	for (int i = 0; i < 30; i++)
		now = train(&p, now + 1000, 5000000, 15000, 65536, 100, 32);
	result(about(path_rate(&p), 5000000), "path: a line that became slower");
	now = train(&p, now + 1000, 80000000, 15000, 65536, 400, 64);
	result(about(path_rate(&p), 80000000), "path: and faster, at once");
}

static void path_slow_reader(void)
{
	struct path p;

	path_init(&p, 20000);
	train(&p, 1000000, 1000000000, 20000, 65536, 400, 2);
	result(!path_rate(&p), "path: of a reader who never filled it no rate is known");
	result(about(path_read_ahead(&p), 5000000), "path: and he does not bring the read-ahead down");
	train(&p, 90000000, 1000000000, 20000, 65536, 4000, 150);
	result(path_read_ahead(&p) > 15 * MIB && path_read_ahead(&p) <= PATH_READ_AHEAD_MAX,
	       "path: the read-ahead is bounded");
	path_init(&p, 0);
	path_came(&p, 5, 3, 4096, true, 0);
	train(&p, 10, 1, 1, 4096, 50, 1);
	result(path_read_ahead(&p) == PATH_READ_AHEAD_MIN, "path: clocks that stand still, no delay");
}

/* All together. */

static uint32_t woken;

static void wake(unsigned int queue, void *arg)
{
	woken |= 1u << queue;
}

static struct far *far_begin(uint64_t size, size_t cache)
{
	struct far_params p = { .size = size, .cache = cache, .rtt = 20000, .wake = wake };

	woken = 0;
	return far_new(&p);
}

static uint8_t want_byte(uint64_t at)
{
	return at * 2654435761u >> 13;
}

static void serve(const struct far_fetch *f)
{
	for (uint32_t i = 0; i < f->len; i++)
		((uint8_t *)f->buf)[i] = want_byte(f->offset + i);
}

/* Fetches all that queue 0 is to fetch; returns how many, *again as far_done(). */
static unsigned int fetch_all(struct far *f, unsigned int queue, bool *again)
{
	struct far_fetch x;
	unsigned int n = 0;

	while (far_next(f, queue, &x)) {
		serve(&x);
		*again |= far_done(f, queue, x.block, 0);
		n++;
	}
	return n;
}

static struct ring_slot slot(uint64_t offset, uint32_t len)
{
	static uint8_t buf[4 * MIB];

	memset(buf, 0xee, len);
	return (struct ring_slot) { .op = SPICEBD_OP_READ, .offset = offset, .length = len,
				    .buf = buf };
}

static bool right(const struct ring_slot *s)
{
	for (uint32_t i = 0; i < s->length; i++)
		if (s->buf[i] != want_byte(s->offset + i))
			return false;
	return true;
}

static void far_reads(void)
{
	struct far *f = far_begin(32 * MIB - 2048, 4 * MIB);
	struct ring_slot s = slot(2048, 4096);
	bool again = false;
	unsigned int n;

	result(far_read(f, 0, &s, false) == FAR_WAIT, "far: the first read waits");
	n = fetch_all(f, 0, &again);
	result(n > 1 && again, "far: for its block; others are fetched, too");
	result(far_read(f, 0, &s, true) == FAR_HIT && right(&s), "far: and then it is there");
	s = slot(64 << 10, 65536 + 512);
	result(far_read(f, 0, &s, false) == FAR_HIT && right(&s), "far: the next is there at once");
	s = slot(32 * MIB - 4096, 2048);
	result(far_read(f, 0, &s, false) == FAR_WAIT, "far: the medium's end waits");
	fetch_all(f, 0, &again);
	result(far_read(f, 0, &s, true) == FAR_HIT && right(&s), "far: the medium's end");
	s = slot(16 * MIB, MIB);
	result(far_read(f, 0, &s, false) == FAR_DIRECT, "far: a large one goes by itself");
	far_free(f);
}

static void far_errors(void)
{
	struct far *f = far_begin(32 * MIB, 4 * MIB);
	struct ring_slot s = slot(0, 4096);
	struct far_fetch x, y;

	far_read(f, 0, &s, false);
	far_next(f, 0, &x);
	result(far_done(f, 0, x.block, EIO), "far: a block that fails wakes who waits");
	result(far_read(f, 0, &s, true) == FAR_DIRECT, "far: who is sent by himself then");
	s = slot(0, 4096);
	result(far_read(f, 0, &s, false) == FAR_WAIT, "far: an error is not kept");
	far_next(f, 0, &x);
	far_next(f, 0, &y);
	s = slot(y.offset, 4096);
	result(far_read(f, 1, &s, false) == FAR_WAIT, "far: another queue joins what is coming");
	far_lost(f, 0);
	result(woken == 2, "far: a lost connection wakes the other queue");
	result(far_read(f, 1, &s, true) == FAR_DIRECT, "far: which asks for itself");
	far_free(f);
}

static void far_other_medium(void)
{
	struct far *f = far_begin(32 * MIB, 4 * MIB);
	struct ring_slot s = slot(0, 4096);
	struct far_stats st;
	bool again = false;

	far_read(f, 0, &s, false);
	fetch_all(f, 0, &again);
	far_lost(f, 0);
	far_forget(f);
	far_stats(f, &st);
	result(!st.used, "far: forgotten, nothing is left");
	result(far_read(f, 0, &s, false) == FAR_WAIT, "far: and all is fetched anew");
	far_free(f);
}

static void far_bound(void)
{
	struct far *f = far_begin(64 * MIB, 2 * MIB);
	bool again = false, ok = true;
	struct far_stats st;

	for (uint64_t at = 0; at < 64 * MIB; at += 32768) {
		struct ring_slot s = slot(at, 32768);
		enum far_verdict v = far_read(f, 0, &s, false);

		fetch_all(f, 0, &again);
		if (v == FAR_WAIT)
			v = far_read(f, 0, &s, true);
		ok &= v == FAR_HIT && right(&s);
		far_stats(f, &st);
		ok &= st.used <= 2 * MIB;
	}
	result(ok, "far: a whole medium through a small cache, within its bound");
	result(st.hits > 10 * (st.misses + st.joined), "far: nearly all of it foreseen");
	result(st.wasted < 4 * MIB, "far: and little fetched in vain");
	far_free(f);
}

static void far_under_way_bound(void)
{
	struct far *f = far_begin(64 * MIB, 16 * MIB);
	struct far_fetch x;
	unsigned int n = 0;

	for (uint64_t at = 0; at < 8 * MIB; at += 65536) {
		struct ring_slot s = slot(at, 4096);

		far_read(f, 0, &s, false);
	}
	while (far_next(f, 0, &x) && n < 1000)
		n++;
	result(n < 1000 && n >= 8, "far: what is under way is bounded");
	far_free(f);
}

static void options(void)
{
	static const char * const bad[] = { "", "1", "-1", "64X", "64MM", "2T", "99999999999999M",
					    "on", "0" };
	struct faropts o;
	struct derr e;
	int64_t v;
	bool ok = true;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok &= faropts_cache(bad[i], &v, &e) == -EINVAL;
	result(ok, "options: nonsense is refused");
	ok = !faropts_cache("64M", &v, &e) && v == 64 * MIB;
	ok &= !faropts_cache("auto", &v, &e) && v == FAR_AUTO;
	ok &= !faropts_cache("off", &v, &e) && v == FAR_OFF;
	ok &= !faropts_read_ahead("512K", &v, &e) && v == 512 << 10;
	ok &= faropts_read_ahead("65M", &v, &e) == -EINVAL;
	result(ok, "options: sizes, auto, off");
	setenv("SPICEBD_MEDIUM_CACHE", "8M", 1);
	setenv("SPICEBD_READ_AHEAD", "nonsense", 1);
	o = faropts_resolve(&(struct faropts) { 0 });
	result(o.cache == 8 * MIB && o.read_ahead == FAR_AUTO, "options: of the environment");
	o = (struct faropts) { FAR_AUTO, FAR_AUTO };
	ok = faropts_cache_bytes(&o, true, true, 20000) == FAR_CACHE_DEFAULT &&
	     !faropts_cache_bytes(&o, true, true, 300) &&
	     !faropts_cache_bytes(&o, true, false, 20000) &&
	     !faropts_cache_bytes(&o, false, false, 20000);
	o.cache = 8 * MIB;
	ok &= faropts_cache_bytes(&o, true, false, 300) == 8 * MIB &&
	      !faropts_cache_bytes(&o, false, false, 20000);
	result(ok, "options: a cache for far read-only media, or by order; never for others");
	result(!faropts_first_read_ahead(&o, 100) && faropts_first_read_ahead(&o, 20000) > 4 * MIB,
	       "options: a near medium's read-ahead is left alone");
}

int main(void)
{
	cache_model();
	cache_ends();
	cache_order();
	prefetch_stream_grows();
	prefetch_short_run();
	prefetch_two_streams();
	prefetch_random();
	prefetch_end();
	path_measures();
	path_slow_reader();
	far_reads();
	far_errors();
	far_other_medium();
	far_bound();
	far_under_way_bound();
	options();
	printf("1..%d\n", number);
	return failed != 0;
}
