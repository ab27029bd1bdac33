// SPDX-License-Identifier: GPL-2.0-only
#include "view.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snapmap.h"

/**
 * struct view - one
 * @lost: the scratch file's storage has lost some of it; guarded by @lock, as that is
 *	told once
 */
struct view {
	struct snapmap map;
	int scratch, life;
	pthread_mutex_t lock;
	int lost;
};

struct view *view_open(const int fd[VIEW_FDS], uint64_t size)
{
	struct view *v = calloc(1, sizeof(*v));
	bool good = v && snapmap_open(&v->map, fd[1]) == 0;

	close(fd[1]);
	if (good && v->map.size != size) {
		snapmap_close(&v->map);
		good = false;
	}
	if (!good) {
		close(fd[0]);
		close(fd[2]);
		free(v);
		return NULL;
	}
	v->scratch = fd[0];
	v->life = fd[2];
	pthread_mutex_init(&v->lock, NULL);
	return v;
}

void view_close(struct view *v)
{
	snapmap_close(&v->map);
	close(v->scratch);
	close(v->life);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

/* To be asked after reading; see snapmap_lost(). */
static int lost(struct view *v)
{
	int r;

	pthread_mutex_lock(&v->lock);
	if (!v->lost)
		v->lost = snapmap_lost(v->scratch);
	r = v->lost;
	pthread_mutex_unlock(&v->lock);
	return r;
}

/*
 * Nobody of another spicebdd's can have the drive before the pipe of this one is
 * closed, so as long as it is open what was not copied was not written.
 */
static bool orphaned(const struct view *v)
{
	struct pollfd p = { .fd = v->life, .events = POLLIN };

	return poll(&p, 1, 0) != 0;
}

int view_over(const struct view *v, char *why)
{
	int over = snapmap_over(&v->map, why);

	if (over)
		return over;
	if (!orphaned(v))
		return 0;
	strcpy(why, "spicebdd has ended");
	return ESHUTDOWN;
}

static int read_scratch(const struct view *v, uint8_t *buf, uint64_t count, uint64_t offset)
{
	while (count) {
		ssize_t n = pread(v->scratch, buf, count, offset);

		if (n < 0 && errno == EINTR)
			continue;
		/* It has the medium's size as long as the snapshot stands. */
		if (n <= 0)
			return EIO;
		buf += n;
		count -= n;
		offset += n;
	}
	return 0;
}

struct run {
	uint64_t offset, count;
	bool copied;
};

/* The longest run from @offset on whose clusters are all copied, or all not. */
static struct run run_at(const struct view *v, uint64_t offset, uint64_t end)
{
	uint64_t i = offset / v->map.cluster;
	struct run r = { .offset = offset, .copied = snapmap_copied(&v->map, i) };

	while (++i * v->map.cluster < end && snapmap_copied(&v->map, i) == r.copied)
		;
	r.count = (i * v->map.cluster < end ? i * v->map.cluster : end) - offset;
	return r;
}

struct target {
	const struct view *v;
	uint8_t *buf;
	uint64_t offset;
};

static int from_scratch(void *arg, uint64_t offset, uint64_t count)
{
	struct target *t = arg;

	return read_scratch(t->v, t->buf + (offset - t->offset), count, offset);
}

int view_copied(struct view *v, uint64_t offset, uint64_t count,
		int (*fn)(void *arg, uint64_t offset, uint64_t count), void *arg)
{
	uint64_t end = offset + count;
	int r = 0;

	while (offset < end && !r) {
		struct run run = run_at(v, offset, end);

		if (run.copied)
			r = fn(arg, run.offset, run.count);
		offset += run.count;
	}
	return r;
}

int view_pread(struct view *v, void *buf, uint32_t count, uint64_t offset, view_read_fn read,
	       void *arg)
{
	struct target t = { .v = v, .buf = buf, .offset = offset };
	uint64_t at = offset, end = offset + count;
	char why[SNAPMAP_WHY_MAX];
	int r;

	while (at < end) {
		struct run run = run_at(v, at, end);

		if (!run.copied && read(arg, t.buf + (at - offset), run.count, at) < 0)
			return -1;
		at += run.count;
	}
	/*
	 * Only now: what is not copied by now had not been written when it was
	 * read. And whether that can be relied on is asked after that.
	 */
	r = view_copied(v, offset, count, from_scratch, &t) ?: lost(v);
	return view_over(v, why) ?: r;
}
