// SPDX-License-Identifier: GPL-2.0-only
/*
 * A folder as a medium: one nbdkit with the iso or floppy plugin for the whole
 * life of the offer, since another one would make other bytes of it. Or an address:
 * one with the curl plugin, which is told to take no later content than that of its
 * start.
 *
 * The listening socket is ours and handed over, so a connection may be made
 * before the image stands: it is accepted as soon as it does. The first one
 * asks for the size, and looks what is in it where that decides about the kind.
 */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <glib-unix.h>
#include <libnbd.h>

#include "core.h"
#include "disc.h"
#include "log.h"
#include "sock.h"
#include "url.h"

#define RESTARTS_MAX	5
#define RESTARTS_MS	60000
/* For each request to the server of an address, in seconds. */
#define URL_TIMEOUT	"30"

struct folder {
	struct offer *offer;	/* NULL: stopped, waits to be reaped */
	struct spicebd_share *share;
	char *path;		/* of the socket */
	int listener;
	struct proc *proc;
	struct nbd_handle *nbd;	/* asks for the size */
	char *start;		/* of the volume recognition sequence, while it is read */
	size_t start_len;
	int64_t reading;	/* that request */
	guint nbd_source;
	unsigned int restarts;
	long long restarts_since;
};

static bool spawn(struct folder *f);

static void end_probe(struct folder *f)
{
	if (f->nbd_source)
		g_source_remove(f->nbd_source);
	f->nbd_source = 0;
	if (f->nbd)
		nbd_close(f->nbd);
	f->nbd = NULL;
	g_clear_pointer(&f->start, g_free);
}

static void folder_free(struct folder *f)
{
	struct spicebd_share *share = f->share;

	end_probe(f);
	if (f->listener >= 0)
		close(f->listener);
	if (f->path)
		unlink(f->path);
	g_free(f->path);
	g_free(f);
	share->folders--;
	share_progress(share);
	share_unhold(share);
}

static void fail(struct folder *f, const char *text)
{
	end_probe(f);
	share_offer_failed(f->offer, text);
}

/* ---- size */

static bool watch_probe(struct folder *f);

static void probed(struct folder *f)
{
	end_probe(f);
	share_offer_ready(f->offer);
}

/* Connected. Return: whether there is more to wait for. */
static bool probe_size(struct folder *f)
{
	int64_t size = nbd_get_size(f->nbd);

	if (size <= 0) {
		fail(f, f->offer->source == OFFER_URL ? "there is nothing at that address" :
		     "its image is empty");
		return false;
	}
	f->offer->info.size = size;
	if (!f->offer->ask_kind || size <= DISC_START) {
		probed(f);
		return false;
	}
	f->start_len = MIN(size - DISC_START, DISC_LEN);
	f->start = g_malloc(f->start_len);
	f->reading = nbd_aio_pread(f->nbd, f->start, f->start_len, DISC_START,
				   NBD_NULL_COMPLETION, 0);
	if (f->reading >= 0)
		return true;
	fail(f, "it cannot be read");
	return false;
}

/* Return: whether there is more to wait for. */
static bool probe_start(struct folder *f)
{
	int r = nbd_aio_command_completed(f->nbd, f->reading);

	if (!r)
		return true;
	if (r < 0) {
		proc_kill(f->proc);	/* what it said tells why */
		return false;
	}
	offer_set_kind(f->offer, disc_in_memory(f->start, f->start_len));
	probed(f);
	return false;
}

static gboolean on_probe(gint fd, GIOCondition cond, gpointer data)
{
	struct folder *f = data;
	int r = 0;

	f->nbd_source = 0;
	if (cond & (G_IO_IN | G_IO_HUP | G_IO_ERR))
		r = nbd_aio_notify_read(f->nbd);
	else if (cond & G_IO_OUT)
		r = nbd_aio_notify_write(f->nbd);
	if (r >= 0 && nbd_aio_is_ready(f->nbd) &&
	    !(f->start ? probe_start(f) : probe_size(f)))
		return G_SOURCE_REMOVE;
	if (r < 0 || nbd_aio_is_dead(f->nbd) || nbd_aio_is_closed(f->nbd)) {
		end_probe(f);	/* the server's end tells why; with an address it lives on */
		if (f->offer->source == OFFER_URL)
			proc_kill(f->proc);
	} else if (!watch_probe(f)) {
		fail(f, "its image cannot be opened");
	}
	return G_SOURCE_REMOVE;
}

static bool watch_probe(struct folder *f)
{
	unsigned int dir = nbd_aio_get_direction(f->nbd);
	GIOCondition cond = 0;
	int fd = nbd_aio_get_fd(f->nbd);

	if (fd < 0)
		return false;
	if (dir & LIBNBD_AIO_DIRECTION_READ)
		cond |= G_IO_IN;
	if (dir & LIBNBD_AIO_DIRECTION_WRITE)
		cond |= G_IO_OUT;
	f->nbd_source = g_unix_fd_add(fd, cond, on_probe, f);
	return true;
}

static bool probe(struct folder *f)
{
	int fd = sock_connect(f->path, SOCK_STREAM | SOCK_NONBLOCK);

	if (fd < 0)
		return false;
	f->nbd = nbd_create();
	if (!f->nbd) {
		close(fd);
		return false;
	}
	return nbd_aio_connect_socket(f->nbd, fd) >= 0 && watch_probe(f);
}

/* ---- life */

static bool may_restart(struct folder *f)
{
	long long now = now_ms();

	if (now - f->restarts_since > RESTARTS_MS) {
		f->restarts_since = now;
		f->restarts = 0;
	}
	return f->restarts++ < RESTARTS_MAX;
}

static void on_proc_end(void *data, int status)
{
	struct folder *f = data;
	g_autofree char *text = NULL;

	text = g_strdup_printf("nbdkit cannot serve it: %s",
			       *proc_last_line(f->proc) ? proc_last_line(f->proc) :
			       "it ended with no message");
	f->proc = NULL;
	end_probe(f);
	if (!f->offer) {
		folder_free(f);
		return;
	}
	if (!f->offer->info.ready && !f->restarts) {
		fail(f, text);
		return;
	}
	log_warn("%s: nbdkit ended (status %d); starting another: the drive gets a new medium",
		 f->offer->info.name, status);
	share_offer_died(f->offer);
	if (!may_restart(f) || !spawn(f))
		fail(f, text);
}

/* The plugin puts params through a shell: they are constants and a clean label. */
static void folder_args(const struct offer *o, GPtrArray *argv)
{
	bool iso = o->source == OFFER_ISO;
	char label[17];

	name_label(o->info.name, label, iso ? sizeof(label) : 12);
	g_ptr_array_add(argv, g_strdup(iso ? "iso" : "floppy"));
	g_ptr_array_add(argv, g_strdup_printf("dir=%s", o->info.path));
	g_ptr_array_add(argv, iso ? g_strdup_printf("params=-quiet -J -r -V \"%s\"", label) :
			g_strdup_printf("label=%s", label));
}

static void url_args(const struct offer *o, GPtrArray *argv)
{
	g_autofree char *unless = url_unless_changed();

	g_ptr_array_add(argv, g_strdup("curl"));
	g_ptr_array_add(argv, g_strdup_printf("url=%s", o->info.path));
	g_ptr_array_add(argv, g_strdup("protocols=http,https"));
	g_ptr_array_add(argv, g_strdup("timeout=" URL_TIMEOUT));
	g_ptr_array_add(argv, g_strdup_printf("header=%s", unless));
}

static bool spawn(struct folder *f)
{
	g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
	struct offer *o = f->offer;

	g_ptr_array_add(argv, g_strdup(o->share->nbdkit));
	g_ptr_array_add(argv, g_strdup("--foreground"));
	g_ptr_array_add(argv, g_strdup("--readonly"));
	g_ptr_array_add(argv, g_strdup("--log=stderr"));
	if (o->source == OFFER_URL)
		url_args(o, argv);
	else
		folder_args(o, argv);
	g_ptr_array_add(argv, NULL);
	f->proc = proc_start((char **)argv->pdata, -1, f->listener, true, o->info.name, on_proc_end, f);
	if (!f->proc)
		return false;
	if (probe(f))
		return true;
	proc_kill(f->proc);	/* its end is reported by on_proc_end() */
	return true;
}

static char *make_dir(struct spicebd_share *share)
{
	const char *base = g_get_user_runtime_dir();

	if (share->dir)
		return NULL;
	if (!base || !g_file_test(base, G_FILE_TEST_IS_DIR) || strlen(base) > 60)
		base = "/tmp";
	share->dir = g_build_filename(base, "spicebd-share-XXXXXX", NULL);
	if (g_mkdtemp_full(share->dir, 0700))
		return NULL;
	g_clear_pointer(&share->dir, g_free);
	return g_strdup_printf("%s: no directory for a socket can be made there: %s", base,
			       g_strerror(errno));
}

struct folder *folder_start(struct offer *o, char **error)
{
	struct folder *f;

	*error = make_dir(o->share);
	if (*error)
		return NULL;
	f = g_new0(struct folder, 1);
	f->offer = o;
	f->share = o->share;
	f->share->hold++;
	f->share->folders++;
	f->path = g_strdup_printf("%s/%u.sock", o->share->dir, o->info.id);
	f->listener = sock_listen(f->path, SOCK_STREAM, 0600);
	if (f->listener < 0 || !spawn(f)) {
		*error = g_strdup_printf("%s: nbdkit cannot be started: %s", o->info.path,
					 g_strerror(f->listener < 0 ? -f->listener : errno));
		folder_free(f);
		return NULL;
	}
	return f;
}

int folder_connect(struct folder *f)
{
	if (!f->proc)
		return -ECONNREFUSED;
	return sock_connect(f->path, SOCK_STREAM | SOCK_NONBLOCK);
}

/* nbdkit has it open, and it has no name. */
uint64_t folder_made(const struct folder *f)
{
	g_autofree char *path = f->proc ? g_strdup_printf("/proc/%d/fd", proc_pid(f->proc)) : NULL;
	uint64_t most = 0;
	struct dirent *e;
	struct stat st;
	DIR *dir = path ? opendir(path) : NULL;

	if (!dir)
		return 0;
	while ((e = readdir(dir)))
		if (fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
		    !st.st_nlink && (uint64_t)st.st_size > most)
			most = st.st_size;
	closedir(dir);
	return most;
}

void folder_stop(struct folder *f)
{
	f->offer->folder = NULL;
	f->offer = NULL;
	end_probe(f);
	if (f->proc)
		proc_kill(f->proc);
	else
		folder_free(f);
}
