// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is a hole, and what is zero: the medium's server says so; of a snapshot it
 * does for what was not copied, the rest is data.
 */
#include "plugin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

/* base:allocation's bits are nbdkit's. */
#define BITS	(NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO)
/* More of a reply are left for the client's next question. */
#define EXTENTS_MAX	4096

struct extent {
	uint64_t offset, count;
	uint32_t bits;
};

struct reply {
	struct extent *of;
	unsigned int n;
};

static int on_extents(void *user_data, const char *context, uint64_t offset,
		      uint32_t *entries, size_t n, int *error)
{
	struct reply *r = user_data;

	if (*error || strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION))
		return 0;
	for (size_t i = 0; i + 1 < n && r->n < EXTENTS_MAX; i += 2) {
		r->of[r->n++] = (struct extent){
			.offset = offset, .count = entries[i], .bits = entries[i + 1] & BITS,
		};
		offset += entries[i];
	}
	return 0;
}

struct cut {
	struct nbdkit_extents *to;
	struct extent *e;		/* what of it was not told yet */
};

static int tell(const struct cut *c, uint64_t count, uint32_t bits)
{
	if (count && nbdkit_add_extent(c->to, c->e->offset, count, bits) < 0)
		return errno ?: EINVAL;
	c->e->offset += count;
	c->e->count -= count;
	return 0;
}

/* A part of the extent is the scratch file's, where all is data. */
static int on_copied(void *arg, uint64_t offset, uint64_t count)
{
	struct cut *c = arg;
	int r = tell(c, offset - c->e->offset, c->e->bits);

	return r ? r : tell(c, count, 0);
}

static int give(const struct handle *x, struct reply *r, struct nbdkit_extents *to)
{
	int e = 0;

	for (unsigned int i = 0; i < r->n && !e; i++) {
		struct cut c = { .to = to, .e = &r->of[i] };
		uint64_t size = nbd_get_size(x->h);

		/* A server's count may go beyond the end; nobody's clusters do. */
		if (c.e->offset >= size)
			break;
		if (c.e->count > size - c.e->offset)
			c.e->count = size - c.e->offset;
		if (x->view)
			e = view_copied(x->view, c.e->offset, c.e->count, on_copied, &c);
		if (!e)
			e = tell(&c, c.e->count, c.e->bits);
	}
	return e;
}

static int ask_medium(struct handle *x, uint32_t count, uint64_t offset, uint32_t flags,
		      struct reply *r)
{
	nbd_extent_callback ecb = { .callback = on_extents, .user_data = r };
	struct command c;
	nbd_completion_callback cb = command_begin(&c, x->b);

	return command_end(&c, nbd_aio_block_status(x->h, count, offset, ecb, cb,
			   flags & NBDKIT_FLAG_REQ_ONE ? LIBNBD_CMD_FLAG_REQ_ONE : 0));
}

int extents_get(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
		struct nbdkit_extents *extents)
{
	struct reply r = { .of = malloc(EXTENTS_MAX * sizeof(struct extent)) };
	char why[SNAPMAP_WHY_MAX];
	struct handle *x = handle;
	int e;

	if (!r.of) {
		nbdkit_error("out of memory");
		nbdkit_set_error(ENOMEM);
		return -1;
	}
	e = ask_medium(x, count, offset, flags, &r);
	if (!e) {
		e = give(x, &r, extents);
		/* After that, as with what is read. */
		if (x->view && view_over(x->view, why)) {
			nbdkit_error("the snapshot: %s", why);
			e = EIO;
		}
		if (e) {
			nbdkit_set_error(e);
			e = -1;
		}
	}
	free(r.of);
	return e;
}
