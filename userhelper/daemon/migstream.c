// SPDX-License-Identifier: GPL-2.0-only
#include "migstream.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib-unix.h>

#include "qmp.h"

#define MESSAGES_MAX	64		/* a whole migration takes five */
#define UNSENT_MAX	(64 << 10)
#define MESSAGE_MAX	(32 << 10)

/**
 * struct migstream - one
 * @lost: it is over, and its user was told, or has given it up
 * @refs: its user's, and one while a handler runs
 */
struct migstream {
	unsigned int refs;
	int fd;
	const struct migstream_ops *ops;
	void *user;
	struct qmp_splitter in;
	GString *out;
	guint readable, writable;
	unsigned int messages;
	bool lost;
};

static void drop(guint *source)
{
	if (*source)
		g_source_remove(*source);
	*source = 0;
}

static void unref(struct migstream *s)
{
	if (--s->refs)
		return;
	drop(&s->readable);
	drop(&s->writable);
	close(s->fd);
	qmp_splitter_clear(&s->in);
	g_string_free(s->out, TRUE);
	g_free(s);
}

static void lose(struct migstream *s, const char *why)
{
	if (s->lost)
		return;
	s->lost = true;
	drop(&s->readable);
	drop(&s->writable);
	s->ops->lost(s->user, why);
}

static void take(struct migstream *s)
{
	JsonParser *parser = json_parser_new();
	const GString *text = s->in.buf;
	JsonNode *n = NULL;

	if (text->len <= MESSAGE_MAX && g_utf8_validate(text->str, text->len, NULL) &&
	    json_parser_load_from_data(parser, text->str, text->len, NULL))
		n = json_parser_get_root(parser);
	qmp_splitter_next(&s->in);
	if (!n || !JSON_NODE_HOLDS_OBJECT(n))
		lose(s, "it said something that is no message");
	else if (++s->messages > MESSAGES_MAX)
		lose(s, "it talks too much");
	else
		s->ops->heard(s->user, json_node_get_object(n));
	g_object_unref(parser);
}

static void split(struct migstream *s, const char *data, size_t len)
{
	while (len && !s->lost) {
		enum qmp_split r = qmp_splitter_feed(&s->in, &data, &len);

		if (r == QMP_SPLIT_OBJECT)
			take(s);
		else if (r == QMP_SPLIT_BAD || s->in.buf->len > MESSAGE_MAX)
			lose(s, "it said something that is no message");
	}
}

static gboolean on_readable(gint fd, GIOCondition cond, gpointer arg)
{
	struct migstream *s = arg;
	char buf[4096];
	ssize_t n;

	s->refs++;
	n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n > 0)
		split(s, buf, n);
	else if (!n || (errno != EAGAIN && errno != EINTR))
		lose(s, n ? strerror(errno) : "the connection ended");
	/* A source that was removed meanwhile is gone, whatever is returned here. */
	unref(s);
	return G_SOURCE_CONTINUE;
}

/* An end shows on the other side, where what was said before it is heard first. */
static bool flush(struct migstream *s)
{
	ssize_t n = send(s->fd, s->out->str, s->out->len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n > 0)
		g_string_erase(s->out, 0, n);
	return s->out->len && (n > 0 || errno == EAGAIN || errno == EINTR);
}

static gboolean on_writable(gint fd, GIOCondition cond, gpointer arg)
{
	struct migstream *s = arg;

	if (flush(s))
		return G_SOURCE_CONTINUE;
	s->writable = 0;
	return G_SOURCE_REMOVE;
}

void migstream_say(struct migstream *s, JsonObject *o)
{
	JsonNode *node = json_node_init_object(json_node_alloc(), o);
	char *text = json_to_string(node, FALSE);

	json_object_unref(o);
	json_node_unref(node);
	if (!s->lost && s->out->len < UNSENT_MAX) {
		g_string_append(s->out, text);
		g_string_append_c(s->out, '\n');
		if (!s->writable && flush(s))
			s->writable = g_unix_fd_add(s->fd, G_IO_OUT, on_writable, s);
	}
	g_free(text);
}

void migstream_set(struct migstream *s, const struct migstream_ops *ops, void *user)
{
	s->ops = ops;
	s->user = user;
}

void migstream_free(struct migstream *s)
{
	if (!s)
		return;
	s->lost = true;
	unref(s);
}

struct migstream *migstream_new(int fd, const struct migstream_ops *ops, void *user)
{
	struct migstream *s = g_new0(struct migstream, 1);

	s->refs = 1;
	s->fd = fd;
	s->out = g_string_new(NULL);
	qmp_splitter_init(&s->in);
	migstream_set(s, ops, user);
	s->readable = g_unix_fd_add(fd, G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable, s);
	return s;
}
