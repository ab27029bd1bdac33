// SPDX-License-Identifier: GPL-2.0-only
/* What nbdkit calls: each call is the same one to the export's server. */
#include "plugin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

struct handle {
	struct backend *b;
	struct nbd_handle *h;		/* the backend's */
	uint32_t flags;			/* EXPORT_CTL_* */
	char description[EXPORT_NAME_MAX + 1];
};

static int plugin_config(const char *key, const char *value)
{
	if (!strcmp(key, "control"))
		return ask_set(value);
	nbdkit_error("unknown parameter '%s'", key);
	return -1;
}

static int plugin_config_complete(void)
{
	if (ask_ready())
		return 0;
	nbdkit_error("the parameter control=FD is missing: spicebd-export starts this");
	return -1;
}

static int plugin_after_fork(void)
{
	return sandbox_enter();
}

static int plugin_list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
	struct export_grant *g = malloc(sizeof(*g));
	int fd, r = 0;

	if (!g) {
		nbdkit_error("out of memory");
		return -1;
	}
	for (uint32_t i = 0; !r && i < EXPORTS_MAX; i++) {
		r = ask(EXPORT_ASK_LIST, "", i, g, &fd);
		if (!r)
			r = nbdkit_add_export(exports, g->name, g->text[0] ? g->text : NULL);
	}
	free(g);
	return !r || r == -ENOENT ? 0 : -1;
}

static void *open_granted(struct export_grant *g, int fd)
{
	struct handle *x = calloc(1, sizeof(*x));

	if (!x) {
		nbdkit_error("out of memory");
		return NULL;
	}
	x->flags = g->flags;
	strcpy(x->description, g->text);
	x->b = backend_open(fd, g->name);
	if (!x->b) {
		free(x);
		return NULL;
	}
	x->h = backend_handle(x->b);
	return x;
}

static void *plugin_open(int readonly)
{
	struct export_grant *g = malloc(sizeof(*g));
	void *x = NULL;
	int fd, r;

	if (!g) {
		nbdkit_error("out of memory");
		return NULL;
	}
	r = ask(EXPORT_ASK_OPEN, nbdkit_export_name() ?: "", 0, g, &fd);
	if (r < 0) {
		nbdkit_error("%.200s", g->text[0] ? g->text : strerror(-r));
	} else if (fd < 0) {
		nbdkit_error("no stream came");
	} else {
		x = open_granted(g, fd);
	}
	if (!r && !x)
		ask_close();
	free(g);
	return x;
}

static void plugin_close(void *handle)
{
	struct handle *x = handle;

	backend_close(x->b);
	free(x);
	ask_close();
}

static const char *plugin_description(void *handle)
{
	struct handle *x = handle;

	return x->description[0] ? x->description : NULL;
}

static int64_t plugin_get_size(void *handle)
{
	struct handle *x = handle;

	return nbd_get_size(x->h);
}

static int plugin_block_size(void *handle, uint32_t *min, uint32_t *pref, uint32_t *max)
{
	struct handle *x = handle;
	int64_t a = nbd_get_block_size(x->h, LIBNBD_SIZE_MINIMUM);
	int64_t b = nbd_get_block_size(x->h, LIBNBD_SIZE_PREFERRED);
	int64_t c = nbd_get_block_size(x->h, LIBNBD_SIZE_MAXIMUM);

	*min = *pref = *max = 0;
	/* nbdkit ends the connection over what it finds odd: say nothing then. */
	if (a < 1 || a > 65536 || a & (a - 1) || b < 512 || b < a || b & (b - 1) ||
	    b > 32 << 20 || c < b || c > UINT32_MAX || (c % a && c != UINT32_MAX))
		return 0;
	*min = a;
	*pref = b;
	*max = c;
	return 0;
}

static int plugin_can_write(void *handle)
{
	struct handle *x = handle;

	return x->flags & EXPORT_CTL_WRITABLE && nbd_is_read_only(x->h) == 0;
}

#define CAN(what)					\
static int plugin_can_##what(void *handle)		\
{							\
	struct handle *x = handle;			\
							\
	return nbd_can_##what(x->h) == 1;		\
}
CAN(flush)
CAN(trim)
CAN(zero)
CAN(fast_zero)
/* The other connections' servers are the same one: its word holds for ours. */
CAN(multi_conn)

static int plugin_is_rotational(void *handle)
{
	struct handle *x = handle;

	return nbd_is_rotational(x->h) == 1;
}

static int plugin_can_fua(void *handle)
{
	struct handle *x = handle;

	if (nbd_can_fua(x->h) == 1)
		return NBDKIT_FUA_NATIVE;
	return nbd_can_flush(x->h) == 1 ? NBDKIT_FUA_EMULATE : NBDKIT_FUA_NONE;
}

static int plugin_can_cache(void *handle)
{
	struct handle *x = handle;

	return nbd_can_cache(x->h) == 1 ? NBDKIT_CACHE_NATIVE : NBDKIT_CACHE_NONE;
}

static int plugin_can_extents(void *handle)
{
	struct handle *x = handle;

	return nbd_can_meta_context(x->h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
}

/* Writethrough: each write as if the client had asked for its durability. */
static uint32_t fua(const struct handle *x, uint32_t flags)
{
	bool native = nbd_can_fua(x->h) == 1;

	return native && (flags & NBDKIT_FLAG_FUA || x->flags & EXPORT_CTL_WRITETHROUGH) ?
		LIBNBD_CMD_FLAG_FUA : 0;
}

static int plugin_flush(void *handle, uint32_t flags)
{
	struct handle *x = handle;
	struct command c;
	nbd_completion_callback cb = command_begin(&c, x->b);

	return command_end(&c, nbd_aio_flush(x->h, cb, 0));
}

static int after_write(struct handle *x, int r)
{
	if (r < 0 || !(x->flags & EXPORT_CTL_WRITETHROUGH) || nbd_can_fua(x->h) == 1 ||
	    nbd_can_flush(x->h) != 1)
		return r;
	return plugin_flush(x, 0);
}

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t offset,
			uint32_t flags)
{
	struct handle *x = handle;
	struct command c;
	nbd_completion_callback cb = command_begin(&c, x->b);

	return command_end(&c, nbd_aio_pread(x->h, buf, count, offset, cb, 0));
}

static int plugin_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset,
			 uint32_t flags)
{
	struct handle *x = handle;
	struct command c;
	nbd_completion_callback cb = command_begin(&c, x->b);

	return after_write(x, command_end(&c, nbd_aio_pwrite(x->h, buf, count, offset, cb,
							    fua(x, flags))));
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	struct handle *x = handle;
	struct command c;
	nbd_completion_callback cb = command_begin(&c, x->b);

	return after_write(x, command_end(&c, nbd_aio_trim(x->h, count, offset, cb,
							  fua(x, flags))));
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	struct handle *x = handle;
	uint32_t f = fua(x, flags);
	struct command c;
	nbd_completion_callback cb = command_begin(&c, x->b);

	if (!(flags & NBDKIT_FLAG_MAY_TRIM))
		f |= LIBNBD_CMD_FLAG_NO_HOLE;
	if (flags & NBDKIT_FLAG_FAST_ZERO)
		f |= LIBNBD_CMD_FLAG_FAST_ZERO;
	return after_write(x, command_end(&c, nbd_aio_zero(x->h, count, offset, cb, f)));
}

static int plugin_cache(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	struct handle *x = handle;
	struct command c;
	nbd_completion_callback cb = command_begin(&c, x->b);

	return command_end(&c, nbd_aio_cache(x->h, count, offset, cb, 0));
}

static int on_extents(void *user_data, const char *context, uint64_t offset,
		      uint32_t *entries, size_t n, int *error)
{
	struct nbdkit_extents *extents = user_data;

	if (*error || strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION))
		return 0;
	/* base:allocation's bits are nbdkit's. */
	for (size_t i = 0; i + 1 < n; i += 2) {
		if (nbdkit_add_extent(extents, offset, entries[i],
				      entries[i + 1] & (NBDKIT_EXTENT_HOLE |
							NBDKIT_EXTENT_ZERO)) < 0) {
			*error = errno ?: EINVAL;
			return -1;
		}
		offset += entries[i];
	}
	return 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
			  struct nbdkit_extents *extents)
{
	struct handle *x = handle;
	nbd_extent_callback ecb = { .callback = on_extents, .user_data = extents };
	struct command c;
	nbd_completion_callback cb = command_begin(&c, x->b);

	return command_end(&c, nbd_aio_block_status(x->h, count, offset, ecb, cb,
			   flags & NBDKIT_FLAG_REQ_ONE ? LIBNBD_CMD_FLAG_REQ_ONE : 0));
}

static struct nbdkit_plugin plugin = {
	.name = "spicebd",
	.version = SPICEBD_VERSION,
	.longname = "exports of spicebdd",
	.config = plugin_config,
	.config_complete = plugin_config_complete,
	.after_fork = plugin_after_fork,
	.list_exports = plugin_list_exports,
	.open = plugin_open,
	.close = plugin_close,
	.export_description = plugin_description,
	.get_size = plugin_get_size,
	.block_size = plugin_block_size,
	.can_write = plugin_can_write,
	.can_flush = plugin_can_flush,
	.is_rotational = plugin_is_rotational,
	.can_trim = plugin_can_trim,
	.can_zero = plugin_can_zero,
	.can_fast_zero = plugin_can_fast_zero,
	.can_fua = plugin_can_fua,
	.can_cache = plugin_can_cache,
	.can_extents = plugin_can_extents,
	.can_multi_conn = plugin_can_multi_conn,
	.pread = plugin_pread,
	.pwrite = plugin_pwrite,
	.flush = plugin_flush,
	.trim = plugin_trim,
	.zero = plugin_zero,
	.cache = plugin_cache,
	.extents = plugin_extents,
	.errno_is_preserved = 0,
};

/* nbdkit looks it up by this name; its macro declares no prototype. */
struct nbdkit_plugin *plugin_init(void);

NBDKIT_REGISTER_PLUGIN(plugin)
