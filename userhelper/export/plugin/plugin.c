// SPDX-License-Identifier: GPL-2.0-only
/* What nbdkit calls: each call is the same one to the export's server. */
#include "plugin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

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
	int fd[EXPORT_FDS_MAX], r = 0;
	unsigned int n;

	if (!g) {
		nbdkit_error("out of memory");
		return -1;
	}
	for (uint32_t i = 0; !r && i < EXPORTS_MAX; i++) {
		r = ask(EXPORT_ASK_LIST, "", i, g, fd, &n);
		if (!r)
			r = nbdkit_add_export(exports, g->name, g->text[0] ? g->text : NULL);
	}
	free(g);
	return !r || r == -ENOENT ? 0 : -1;
}

static bool open_view(struct handle *x, const int *fd)
{
	int64_t size = nbd_get_size(x->h);

	x->view = view_open(fd, size < 0 ? 0 : size);
	if (!x->view)
		nbdkit_error("the snapshot's map makes no sense");
	return x->view;
}

static void close_handle(struct handle *x)
{
	if (x->view)
		view_close(x->view);
	backend_close(x->b);
	free(x);
}

/* @fd: the stream, and with a snapshot what view.h wants. */
static void *open_granted(struct export_grant *g, const int *fd, unsigned int n)
{
	struct handle *x = calloc(1, sizeof(*x));

	if (x)
		x->b = backend_open(fd[0], g->name);
	else
		nbdkit_error("out of memory");
	if (!x || !x->b) {
		for (unsigned int i = x ? 1 : 0; i < n; i++)
			close(fd[i]);
		free(x);
		return NULL;
	}
	x->flags = g->flags;
	strcpy(x->description, g->text);
	x->h = backend_handle(x->b);
	if (n > 1 && !open_view(x, fd + 1)) {
		close_handle(x);
		return NULL;
	}
	return x;
}

static void *plugin_open(int readonly)
{
	struct export_grant *g = malloc(sizeof(*g));
	int fd[EXPORT_FDS_MAX], r;
	unsigned int n = 0;
	void *x = NULL;

	if (!g) {
		nbdkit_error("out of memory");
		return NULL;
	}
	r = ask(EXPORT_ASK_OPEN, nbdkit_export_name() ?: "", 0, g, fd, &n);
	if (r < 0) {
		nbdkit_error("%.200s", g->text[0] ? g->text : strerror(-r));
	} else if (n != (g->flags & EXPORT_CTL_SNAPSHOT ? 1 + VIEW_FDS : 1)) {
		nbdkit_error("no stream came");
		while (n)
			close(fd[--n]);
	} else {
		x = open_granted(g, fd, n);
	}
	if (!r && !x)
		ask_close();
	free(g);
	return x;
}

static void plugin_close(void *handle)
{
	close_handle(handle);
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

/*
 * The other connections' servers are the same one: its word holds for ours. A
 * snapshot is the same on all of them.
 */
static int plugin_can_multi_conn(void *handle)
{
	struct handle *x = handle;

	return x->view || nbd_can_multi_conn(x->h) == 1;
}

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

static int read_medium(void *handle, void *buf, uint32_t count, uint64_t offset)
{
	struct handle *x = handle;
	struct command c;
	nbd_completion_callback cb = command_begin(&c, x->b);

	return command_end(&c, nbd_aio_pread(x->h, buf, count, offset, cb, 0));
}

/* Every answer of a snapshot's that is no good is an error of the client's. */
static int judge(const struct handle *x, int r)
{
	char why[SNAPMAP_WHY_MAX] = "its scratch file cannot be read";

	if (r <= 0)
		return r;
	view_over(x->view, why);
	nbdkit_error("the snapshot: %s", why);
	nbdkit_set_error(EIO);
	return -1;
}

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t offset,
			uint32_t flags)
{
	struct handle *x = handle;

	if (!x->view)
		return read_medium(x, buf, count, offset);
	return judge(x, view_pread(x->view, buf, count, offset, read_medium, x));
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
	.extents = extents_get,
	.errno_is_preserved = 0,
};

/* nbdkit looks it up by this name; its macro declares no prototype. */
struct nbdkit_plugin *plugin_init(void);

NBDKIT_REGISTER_PLUGIN(plugin)
