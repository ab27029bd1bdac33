// SPDX-License-Identifier: GPL-2.0-only
/*
 * The NBD server's end of one stream.
 *
 * A file has an nbdkit of its own for each stream, on a socketpair. So the fence
 * is exact: when that process was killed and reaped, nothing that came over the
 * stream can reach the file any more, and no other stream was disturbed. What
 * it wrote is in the page cache, where all the servers of a file meet.
 *
 * A folder has one nbdkit for all streams (folder.c); it is read-only, and a
 * closed connection is fence enough.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core.h"
#include "log.h"

#define LINGER_MS	2000	/* for a server that ends by itself */
#define SLOW_MS		5000	/* after its kill; then it is worth a line */

struct server {
	struct spicebd_share *share;
	struct stream *stream;	/* NULL: nobody waits for its end */
	const struct offer *offer;	/* compared, not followed */
	unsigned int drive;
	bool ending, killed;
	struct proc *proc;	/* NULL: a connection to a folder's server */
	guint timer;
};

static void ended(struct server *srv, int status)
{
	struct spicebd_share *share = srv->share;
	struct stream *s = srv->stream;

	if (srv->timer)
		g_source_remove(srv->timer);
	share->servers = g_list_remove(share->servers, srv);
	g_free(srv);
	if (s)
		stream_server_ended(s, status);
	share_progress(share);
	share_unhold(share);
}

static void on_proc_end(void *data, int status)
{
	struct server *srv = data;

	if (srv->killed && WIFSIGNALED(status))
		status = 0;
	srv->proc = NULL;
	ended(srv, status);
}

/*
 * The file plugin is told to serve the directory of its own descriptors, in
 * which the one allowed export is 3: opening /proc/self/fd/3 opens that very
 * inode again, whatever its path names by now.
 */
static struct proc *start_nbdkit(struct offer *o, int sock, struct server *srv)
{
	char *argv[16];
	int n = 0;

	argv[n++] = o->share->nbdkit;
	argv[n++] = "--single";
	argv[n++] = "--log=stderr";
	if (o->read_only)
		argv[n++] = "--readonly";
	argv[n++] = "--filter=exportname";
	argv[n++] = "file";
	argv[n++] = "dir=/proc/self/fd";
	argv[n++] = "default-export=3";
	argv[n++] = "exportname=";
	argv[n++] = "exportname=3";
	argv[n++] = "exportname-strict=true";
	argv[n++] = "exportname-list=empty";
	argv[n] = NULL;
	return proc_start(argv, sock, o->fd, false, o->info.name, on_proc_end, srv);
}

static int start_own(struct offer *o, struct server *srv)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return -errno;
	srv->proc = start_nbdkit(o, sv[1], srv);
	close(sv[1]);
	if (!srv->proc) {
		int err = -errno;

		close(sv[0]);
		return err ? err : -EAGAIN;
	}
	return sv[0];
}

struct server *server_start(struct offer *o, struct stream *s, unsigned int drive,
			    int *fd, char **error)
{
	struct server *srv = g_new0(struct server, 1);

	srv->share = o->share;
	srv->stream = s;
	srv->offer = o;
	srv->drive = drive;
	*fd = o->folder ? folder_connect(o->folder) : start_own(o, srv);
	if (*fd < 0) {
		*error = g_strdup_printf("cannot start the NBD server: %s", g_strerror(-*fd));
		g_free(srv);
		return NULL;
	}
	fcntl(*fd, F_SETFL, fcntl(*fd, F_GETFL) | O_NONBLOCK);
	o->share->servers = g_list_prepend(o->share->servers, srv);
	o->share->hold++;
	if (srv->proc)
		log_debug("drive %u: nbdkit %d serves %s", drive_no(drive), proc_pid(srv->proc),
			  o->info.name);
	return srv;
}

static gboolean on_slow(gpointer data)
{
	struct server *srv = data;

	log_warn("drive %u: nbdkit %d was killed and does not end (storage that hangs?); "
		 "the drive waits for it", drive_no(srv->drive), proc_pid(srv->proc));
	srv->timer = 0;
	return G_SOURCE_REMOVE;
}

static void kill_now(struct server *srv)
{
	srv->killed = true;
	proc_kill(srv->proc);
	if (srv->timer)
		g_source_remove(srv->timer);
	srv->timer = g_timeout_add(SLOW_MS, on_slow, srv);
}

static gboolean on_linger(gpointer data)
{
	struct server *srv = data;

	srv->timer = 0;
	kill_now(srv);
	return G_SOURCE_REMOVE;
}

void server_end(struct server *srv, bool at_once)
{
	if (!srv->proc) {
		ended(srv, 0);
		return;
	}
	if (srv->killed)
		return;
	if (at_once)
		kill_now(srv);
	else if (!srv->ending)
		srv->timer = g_timeout_add(LINGER_MS, on_linger, srv);
	srv->ending = true;
}

void server_detach(struct server *srv)
{
	srv->stream = NULL;
}

unsigned int server_count(struct spicebd_share *share, int drive, const struct offer *o)
{
	unsigned int n = 0;

	for (GList *l = share->servers; l; l = l->next) {
		const struct server *srv = l->data;

		n += (drive < 0 || srv->drive == drive) && (!o || srv->offer == o);
	}
	return n;
}

bool server_ending(const struct offer *o)
{
	for (GList *l = o->share->servers; l; l = l->next) {
		const struct server *srv = l->data;

		if (srv->offer == o && srv->ending)
			return true;
	}
	return false;
}
