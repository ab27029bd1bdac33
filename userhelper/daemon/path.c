// SPDX-License-Identifier: GPL-2.0-only
#include "path.h"

#include <string.h>

#define PERIOD_US	10000000u
/* What counts as a small answer: the path carries it in little more than a round trip. */
#define SMALL		(64u << 10)
/*
 * A train is long enough to be measured: of so many times its largest piece,
 * since all of a piece comes at one moment here, whenever its bytes came.
 */
#define TRAIN_PIECES	12
#define TRAIN_US	4000u
/* Less under way than this says nothing of a path's width. */
#define FULL_MIN	(256u << 10)
#define SAMPLES_MIN	4
/*
 * Before anything was measured: for the kernel, whose files keep what they were
 * opened with, a fast path; for what we do ourselves, and correct at once, a
 * slower one.
 */
#define RATE_GUESS	125000000u
#define RATE_CAREFUL	32000000u

void path_init(struct path *p, uint32_t rtt)
{
	memset(p, 0, sizeof(*p));
	p->rtt[0] = rtt;
}

/* The old one is kept until this one has seen enough. */
static void turn(struct path *p, uint64_t now)
{
	if (!p->period)
		p->period = now;
	if (now < p->period + PERIOD_US)
		return;
	p->period = now;
	if (p->rtt[0]) {
		p->rtt[1] = p->rtt[0];
		p->rtt[0] = 0;
	}
	if (p->samples >= SAMPLES_MIN) {
		/* Idle readers say nothing of a path that was full once. */
		if (p->rate[0]) {
			p->rate[1] = p->rate[0];
			p->rate[0] = 0;
		}
		p->least[1] = p->least[0];
		p->least[0] = 0;
		p->samples = 0;
	}
}

static uint64_t train_us(const struct path *p)
{
	uint32_t half = path_rtt(p) / 2;

	return half > TRAIN_US ? half : TRAIN_US;
}

static void begin_train(struct path *p, uint64_t now)
{
	p->from = now;
	p->bytes = p->depth = 0;
	p->piece = p->pieces = 0;
}

/*
 * More was under way than what the answers' rate needs: something waited for the
 * path. A few requests may just as well have waited for a busy machine.
 */
static bool was_full(const struct path *p, uint64_t rate)
{
	uint64_t need = rate / 1000 * path_rtt(p) / 1000;

	return p->depth / p->pieces >= FULL_MIN && p->depth / p->pieces >= need + need / 4;
}

static void take_rate(struct path *p, uint64_t now, uint32_t len, uint64_t depth)
{
	uint64_t us = now > p->from ? now - p->from : 0, rate;

	if (!p->from) {
		/* The first one brings the clock, not bytes. */
		begin_train(p, depth ? now : 0);
		return;
	}
	p->bytes += len;
	p->depth += depth;
	p->pieces++;
	if (len > p->piece)
		p->piece = len;
	if (us >= train_us(p) && p->bytes >= (uint64_t)TRAIN_PIECES * p->piece) {
		uint64_t *best;

		rate = p->bytes * 1000000 / us;
		best = was_full(p, rate) ? p->rate : p->least;
		if (rate > *best)
			*best = rate;
		p->samples++;
		begin_train(p, now);
	}
	if (!depth)
		p->from = 0;
}

void path_came(struct path *p, uint64_t sent, uint64_t now, uint32_t len, bool alone,
	       uint64_t depth)
{
	uint64_t us = now > sent ? now - sent : 1;

	turn(p, now);
	if (alone && len && len <= SMALL && us < UINT32_MAX) {
		/* Its own bytes took a part of the time. */
		uint64_t rate = path_rate(p), own = rate ? (uint64_t)len * 1000000 / rate : 0;

		us = us > 2 * own ? us - own : us;
		if (!p->rtt[0] || us < p->rtt[0])
			p->rtt[0] = us;
	}
	take_rate(p, now, len, depth);
}

uint32_t path_rtt(const struct path *p)
{
	if (!p->rtt[0] || !p->rtt[1])
		return p->rtt[0] + p->rtt[1];
	return p->rtt[0] < p->rtt[1] ? p->rtt[0] : p->rtt[1];
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

uint64_t path_rate(const struct path *p)
{
	uint64_t full = larger(p->rate[0], p->rate[1]);

	return full ? larger(full, larger(p->least[0], p->least[1])) : 0;
}

static uint64_t product(const struct path *p, uint64_t guess, bool known)
{
	uint64_t rate = path_rate(p);

	if (!known)
		rate = larger(larger(rate, guess), larger(p->least[0], p->least[1]));
	/* No path that exists: keeps the product in its bounds. */
	if (rate > 100000000000u)
		rate = 100000000000u;
	return rate / 1000 * path_rtt(p) / 1000;
}

uint64_t path_bdp(const struct path *p)
{
	return product(p, RATE_CAREFUL, path_rate(p));
}

uint32_t path_read_ahead(const struct path *p)
{
	/* What is opened now keeps it: no less than the guess before it is sure. */
	uint64_t v = 2 * product(p, RATE_GUESS, p->rate[1]);

	v = (v + 0xffff) & ~0xffffull;
	if (v < PATH_READ_AHEAD_MIN)
		return PATH_READ_AHEAD_MIN;
	return v > PATH_READ_AHEAD_MAX ? PATH_READ_AHEAD_MAX : v;
}
