// SPDX-License-Identifier: GPL-2.0-only
#include "prefetch.h"

#include <string.h>

#define FIRST_MIN	(64u << 10)
#define FIRST_MAX	(512u << 10)
#define MOST_MIN	(512u << 10)
#define PENALTY_MAX	8
/* Bytes after which good and bad are weighed. */
#define WEIGH		(2u << 20)

void prefetch_init(struct prefetch *p, uint64_t size)
{
	memset(p, 0, sizeof(*p));
	p->size = size;
	p->first = FIRST_MIN;
	p->most = MOST_MIN;
}

static uint32_t clamp(uint64_t v, uint32_t min, uint32_t max)
{
	return v < min ? min : v > max ? max : (uint32_t)v;
}

void prefetch_path(struct prefetch *p, uint64_t bdp, uint32_t limit)
{
	p->first = clamp(bdp / 4, FIRST_MIN, FIRST_MAX);
	/* Twice, so that half a window is always under way while the other is read. */
	p->most = clamp(bdp * 2, MOST_MIN, limit > MOST_MIN ? limit : MOST_MIN);
}

static uint32_t first_window(const struct prefetch *p)
{
	uint32_t w = p->first >> p->penalty;

	return w < FIRST_MIN / 2 ? 0 : w;
}

/* Near its place: a bit back, since requests overtake each other, or not too far on. */
static bool belongs(const struct prefetch *p, const struct prefetch_stream *s, uint64_t offset,
		    uint32_t len)
{
	uint32_t near = s->window > p->first ? s->window : p->first;

	if (!s->used)
		return false;
	return offset + len + near > s->next && offset <= s->next + near;
}

static struct prefetch_stream *find(struct prefetch *p, uint64_t offset, uint32_t len)
{
	struct prefetch_stream *best = NULL;

	for (int i = 0; i < PREFETCH_STREAMS; i++) {
		struct prefetch_stream *s = &p->stream[i];

		if (belongs(p, s, offset, len) && (!best || s->used > best->used))
			best = s;
	}
	return best;
}

static struct prefetch_stream *oldest(struct prefetch *p)
{
	struct prefetch_stream *old = &p->stream[0];

	for (int i = 1; i < PREFETCH_STREAMS; i++)
		if (p->stream[i].used < old->used)
			old = &p->stream[i];
	return old;
}

static void plan(const struct prefetch *p, struct prefetch_stream *s)
{
	uint64_t ahead = s->next + s->window;

	if (ahead > p->size)
		ahead = p->size;
	if (ahead > s->ahead)
		s->ahead = ahead;
}

static void begin(struct prefetch *p, uint64_t offset, uint32_t len)
{
	struct prefetch_stream *s = oldest(p);

	*s = (struct prefetch_stream) {
		.next = offset + len, .fetched = offset + len, .ahead = offset + len,
		.window = first_window(p), .run = len, .used = p->clock,
	};
	plan(p, s);
}

/* A stream that has gone on for a while proves that looking ahead is worth it. */
static void proven(struct prefetch *p, struct prefetch_stream *s, uint64_t run)
{
	s->run += run;
	if (s->run >= p->first && s->window < FIRST_MIN)
		s->window = FIRST_MIN;
}

/* No further ahead than it has come: what is read in vain is less than what was not. */
static uint32_t grown(const struct prefetch *p, const struct prefetch_stream *s)
{
	uint64_t run = s->run > p->first ? s->run : p->first;
	uint64_t w = (uint64_t)s->window * 2;

	return clamp(w < run ? w : run, 0, p->most);
}

void prefetch_read(struct prefetch *p, uint64_t offset, uint32_t len, bool late)
{
	struct prefetch_stream *s = find(p, offset, len);

	p->clock++;
	if (!s) {
		begin(p, offset, len);
		return;
	}
	s->used = p->clock;
	if (offset + len <= s->next)
		return;
	proven(p, s, offset + len - s->next);
	s->next = offset + len;
	if (s->ahead < s->next)
		s->ahead = s->next;
	if (s->fetched < s->next)
		s->fetched = s->next;
	/* Half of it is used up, or it did not suffice. */
	if (!late && s->ahead - s->next >= s->window / 2)
		return;
	s->window = grown(p, s);
	plan(p, s);
}

static struct prefetch_stream *with_plan(struct prefetch *p)
{
	struct prefetch_stream *best = NULL;

	for (int i = 0; i < PREFETCH_STREAMS; i++) {
		struct prefetch_stream *s = &p->stream[i];

		if (s->fetched < s->ahead && (!best || s->used > best->used))
			best = s;
	}
	return best;
}

bool prefetch_next(struct prefetch *p, uint32_t block, uint64_t *index)
{
	struct prefetch_stream *s = with_plan(p);

	if (!s)
		return false;
	*index = s->fetched / block;
	return true;
}

void prefetch_taken(struct prefetch *p, uint32_t block, uint64_t index)
{
	struct prefetch_stream *s = with_plan(p);

	if (s && s->fetched / block == index)
		s->fetched = (index + 1) * block;
}

static void weigh(struct prefetch *p)
{
	if (p->good + p->bad < WEIGH)
		return;
	if (p->bad > p->good && p->penalty < PENALTY_MAX)
		p->penalty++;
	else if (p->bad < p->good / 4 && p->penalty)
		p->penalty--;
	p->good = p->bad = 0;
}

void prefetch_good(struct prefetch *p, uint32_t bytes)
{
	p->good += bytes;
	weigh(p);
}

void prefetch_bad(struct prefetch *p, uint64_t bytes)
{
	p->bad += bytes;
	weigh(p);
}

void prefetch_stop(struct prefetch *p)
{
	for (int i = 0; i < PREFETCH_STREAMS; i++)
		p->stream[i] = (struct prefetch_stream) { 0 };
}
