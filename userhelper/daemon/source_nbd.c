// SPDX-License-Identifier: GPL-2.0-only
/* Any NBD server, by its URI. It can prove nothing about old transmissions. */
#include "source.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sock.h"

#define NBD_PORT	10809

static int nbd_open(struct source *s, struct task *t, struct derr *e)
{
	return 0;
}

static int nbd_resume(struct source *s, bool need_fence, struct source_resume *out,
		      struct task *t, struct derr *e)
{
	/*
	 * The server may have restarted unseen: what it acknowledged and did
	 * not flush is in doubt. Its identity is compared on the connection.
	 */
	out->fenced = s->resend;
	out->flush_lost = true;
	return 0;
}

static struct source *nbd_successor(struct source *s)
{
	struct source *n = source_nbd_new(s->uri);

	n->resend = s->resend;
	n->no_discard = s->no_discard;
	return n;
}

static struct nbd_handle *nbd_connect(struct source *s, struct task *t, struct derr *e)
{
	return nbdconn_uri(s->uri, t, e);
}

/* Where @uri leads. TLS is libnbd's own, and cannot be handed on. */
static GUri *plain_uri(const char *uri, struct derr *e)
{
	GError *ge = NULL;
	GUri *u = g_uri_parse(uri, G_URI_FLAGS_ENCODED_QUERY, &ge);

	if (!u) {
		derr_set(e, EINVAL, "%s: %s", uri, ge->message);
		g_error_free(ge);
		return NULL;
	}
	if (!strcmp(g_uri_get_scheme(u), "nbd") || !strcmp(g_uri_get_scheme(u), "nbd+unix"))
		return u;
	derr_set(e, EOPNOTSUPP, "%s: only nbd:// and nbd+unix:// servers can be exported further",
		 uri);
	g_uri_unref(u);
	return NULL;
}

int source_nbd_check_plain(const struct source *s, struct derr *e)
{
	GUri *u = plain_uri(s->uri, e);

	if (!u)
		return -e->code;
	g_uri_unref(u);
	return 0;
}

static int connect_unix(const char *query, struct derr *e)
{
	GHashTable *q = query ? g_uri_parse_params(query, -1, "&;", 0, NULL) : NULL;
	const char *path = q ? g_hash_table_lookup(q, "socket") : NULL;
	int fd = path ? sock_connect(path, SOCK_STREAM) : -EINVAL;

	if (fd < 0)
		derr_set(e, -fd, "cannot connect to the NBD server: %s: %s", path ?: "no socket=",
			 strerror(-fd));
	if (q)
		g_hash_table_unref(q);
	return fd;
}

static int finish_connect(int fd, struct task *t, struct derr *e)
{
	socklen_t len = sizeof(int);
	int r = task_poll(t, fd, POLLOUT, "NBD server", e), error = 0;

	if (r < 0)
		return r;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	return -error;
}

static int connect_one(const struct addrinfo *a, struct task *t, struct derr *e)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, r;

	if (fd < 0)
		return -errno;
	r = connect(fd, a->ai_addr, a->ai_addrlen) < 0 ? -errno : 0;
	if (r == -EINPROGRESS)
		r = finish_connect(fd, t, e);
	if (r < 0) {
		close(fd);
		return r;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static int connect_tcp(const char *host, int port, struct task *t, struct derr *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
	int fd = -EADDRNOTAVAIL, r;
	char text[16];

	snprintf(text, sizeof(text), "%d", port > 0 ? port : NBD_PORT);
	r = getaddrinfo(host, text, &hints, &list);
	if (r)
		return derr_set(e, EADDRNOTAVAIL, "cannot connect to the NBD server: %s: %s",
				host, gai_strerror(r));
	for (struct addrinfo *a = list; a && fd < 0 && fd != -ECANCELED && fd != -ETIMEDOUT;
	     a = a->ai_next)
		fd = connect_one(a, t, e);
	freeaddrinfo(list);
	if (fd < 0)
		derr_set(e, -fd, "cannot connect to the NBD server: %s: %s", host, strerror(-fd));
	return fd;
}

static int nbd_stream(struct source *s, char **name, struct task *t, struct derr *e)
{
	GUri *u = plain_uri(s->uri, e);
	const char *path, *host;
	int fd;

	if (!u)
		return -e->code;
	path = g_uri_get_path(u);
	host = g_uri_get_host(u);
	fd = !strcmp(g_uri_get_scheme(u), "nbd+unix") ? connect_unix(g_uri_get_query(u), e) :
		connect_tcp(host && *host ? host : "localhost", g_uri_get_port(u), t, e);
	if (fd >= 0)
		*name = g_strdup(*path == '/' ? path + 1 : path);
	g_uri_unref(u);
	return fd;
}

static void nbd_notice(struct source *s, enum source_notice what, const char *text)
{
}

static void nbd_out(struct source *s, bool unanswered)
{
}

static void nbd_save(struct source *s, JsonObject *o)
{
}

static int nbd_load(struct source *s, JsonObject *o)
{
	return 0;
}

static void nbd_free(struct source *s)
{
	g_free(s);
}

static const struct source_ops nbd_ops = {
	.open = nbd_open,
	.resume = nbd_resume,
	.successor = nbd_successor,
	.connect = nbd_connect,
	.stream = nbd_stream,
	.notice = nbd_notice,
	.close = nbd_out,
	.save = nbd_save,
	.load = nbd_load,
	.free = nbd_free,
};

/* The export's name, or where the server is: something short for people. */
static char *nbd_name(const char *uri)
{
	const char *host = strstr(uri, "://"), *path, *socket, *end;
	char *name, *clean;

	host = host ? host + 3 : uri;
	path = host + strcspn(host, "/?#");
	socket = strstr(path, "socket=");
	end = path;
	if (*path == '/') {
		path++;
		end = path + strcspn(path, "?#");
	}
	if (end == path && socket) {
		path = socket + strlen("socket=");
		end = path + strcspn(path, "&#");
		for (const char *p = path; p < end; p++)
			if (*p == '/' && p + 1 < end)
				path = p + 1;
	} else if (end == path) {
		path = host;
		end = host + strcspn(host, "/?#");
	}
	name = g_uri_unescape_segment(path, end, NULL);
	clean = source_clean_name(name && *name ? name : uri);
	g_free(name);
	return clean;
}

struct source *source_nbd_new(const char *uri)
{
	struct source *s = g_new0(struct source, 1);

	s->refs = 1;
	s->ops = &nbd_ops;
	s->type = SOURCE_NBD;
	s->uri = g_strdup(uri);
	s->name = nbd_name(uri);
	s->drive = -1;
	return s;
}
