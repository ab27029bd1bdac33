// SPDX-License-Identifier: GPL-2.0-only
/* Any NBD server, by its URI. It can prove nothing about old transmissions. */
#include "source.h"

#include <string.h>

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

static struct nbd_handle *nbd_connect(struct source *s, struct task *t, struct derr *e)
{
	return nbdconn_uri(s->uri, t, e);
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
	.connect = nbd_connect,
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
