// SPDX-License-Identifier: GPL-2.0-only
#include "qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib-unix.h>

#include "sock.h"

struct qmp_peer {
	gint refs;
	int fd;
	const struct qmp_ops *ops;
	void *user;
	struct qmp_splitter in;
	GQueue waiting;			/* JsonNode, or NULL for one that did not parse */
	GString *out;
	size_t out_done;
	guint read_source, write_source, idle_source;
	bool negotiated, closed, eof, doomed;
	bool busy;			/* a command is under way */
	JsonNode *id;			/* of that command */
	int fds[QMP_FDS_MAX];
	unsigned int nr_fds;
};

const char *qmp_class_str(enum qmp_class c)
{
	static const char *const names[] = {
		[QMP_GENERIC_ERROR] = "GenericError",
		[QMP_COMMAND_NOT_FOUND] = "CommandNotFound",
		[QMP_DEVICE_NOT_FOUND] = "DeviceNotFound",
		[QMP_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
	};

	return names[c];
}

/* Splitting. */

void qmp_splitter_init(struct qmp_splitter *s)
{
	memset(s, 0, sizeof(*s));
	s->buf = g_string_new(NULL);
}

void qmp_splitter_clear(struct qmp_splitter *s)
{
	g_string_free(s->buf, TRUE);
	s->buf = NULL;
}

void qmp_splitter_next(struct qmp_splitter *s)
{
	/* What one long command needed is not kept for the peer's life. */
	if (s->buf->allocated_len > 65536) {
		g_string_free(s->buf, TRUE);
		s->buf = g_string_new(NULL);
	} else {
		g_string_truncate(s->buf, 0);
	}
	s->depth = 0;
	s->in_string = s->escaped = false;
}

static enum qmp_split split_bad(struct qmp_splitter *s, bool at_line_end)
{
	qmp_splitter_next(s);
	s->skipping = !at_line_end;
	return QMP_SPLIT_BAD;
}

static enum qmp_split split_char(struct qmp_splitter *s, char c)
{
	if (!s->depth) {
		if (c == '{') {
			s->depth = 1;
			g_string_append_c(s->buf, c);
			return QMP_SPLIT_MORE;
		}
		/* QEMU's own peers may send bytes like these between commands. */
		if ((c && strchr(" \t\r\n", c)) || (unsigned char)c == 0xff)
			return QMP_SPLIT_MORE;
		return split_bad(s, false);
	}
	if (s->buf->len >= QMP_LINE_MAX)
		return split_bad(s, c == '\n');
	g_string_append_c(s->buf, c);
	if (s->in_string) {
		if (s->escaped)
			s->escaped = false;
		else if (c == '\\')
			s->escaped = true;
		else if (c == '"')
			s->in_string = false;
		else if (c == '\n')
			return split_bad(s, true);
		return QMP_SPLIT_MORE;
	}
	if (c == '"') {
		s->in_string = true;
	} else if (c == '{' || c == '[') {
		if (++s->depth > QMP_DEPTH_MAX)
			return split_bad(s, false);
	} else if (c == '}' || c == ']') {
		if (!--s->depth)
			return QMP_SPLIT_OBJECT;
	} else if (c == '\0') {
		return split_bad(s, false);
	}
	return QMP_SPLIT_MORE;
}

enum qmp_split qmp_splitter_feed(struct qmp_splitter *s, const char **data, size_t *len)
{
	while (*len) {
		char c = **data;
		enum qmp_split r;

		(*data)++;
		(*len)--;
		if (s->skipping) {
			s->skipping = c != '\n';
			continue;
		}
		r = split_char(s, c);
		if (r != QMP_SPLIT_MORE)
			return r;
	}
	return QMP_SPLIT_MORE;
}

/* Peers. */

struct qmp_peer *qmp_peer_ref(struct qmp_peer *p)
{
	p->refs++;
	return p;
}

void qmp_peer_unref(struct qmp_peer *p)
{
	if (--p->refs)
		return;
	for (unsigned int i = 0; i < p->nr_fds; i++)
		close(p->fds[i]);
	while (!g_queue_is_empty(&p->waiting)) {
		JsonNode *n = g_queue_pop_head(&p->waiting);

		if (n)
			json_node_unref(n);
	}
	if (p->id)
		json_node_unref(p->id);
	if (p->out)
		g_string_free(p->out, TRUE);
	qmp_splitter_clear(&p->in);
	g_free(p);
}

static void drop_source(guint *id)
{
	if (*id)
		g_source_remove(*id);
	*id = 0;
}

void qmp_peer_close(struct qmp_peer *p)
{
	if (p->closed)
		return;
	p->closed = true;
	drop_source(&p->read_source);
	drop_source(&p->write_source);
	drop_source(&p->idle_source);
	close(p->fd);
	p->fd = -1;
	p->ops->closed(p);
	qmp_peer_unref(p);
}

void *qmp_peer_user(const struct qmp_peer *p)
{
	return p->user;
}

bool qmp_peer_gone(const struct qmp_peer *p)
{
	/* Half closed is not gone: that one has only nothing more to say. */
	struct pollfd pfd = { .fd = p->fd };

	return p->closed || (poll(&pfd, 1, 0) == 1 && pfd.revents & (POLLHUP | POLLERR));
}

bool qmp_peer_negotiated(const struct qmp_peer *p)
{
	return p->negotiated && !p->closed;
}

int qmp_peer_take_fd(struct qmp_peer *p)
{
	int fd;

	if (!p->nr_fds)
		return -1;
	fd = p->fds[0];
	p->nr_fds--;
	memmove(p->fds, p->fds + 1, p->nr_fds * sizeof(p->fds[0]));
	return fd;
}

/* Writing. */

static gboolean on_writable(gint fd, GIOCondition cond, gpointer arg);

/* Return: false: the peer is gone. */
static bool write_some(struct qmp_peer *p)
{
	while (p->out_done < p->out->len) {
		ssize_t n = send(p->fd, p->out->str + p->out_done, p->out->len - p->out_done,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			if (!p->write_source)
				p->write_source = g_unix_fd_add(p->fd, G_IO_OUT | G_IO_ERR,
								on_writable, p);
			return true;
		}
		if (n < 0)
			return false;
		p->out_done += n;
	}
	if (p->out->allocated_len > 65536) {
		g_string_free(p->out, TRUE);
		p->out = g_string_new(NULL);
	} else {
		g_string_truncate(p->out, 0);
	}
	p->out_done = 0;
	return true;
}

static gboolean on_writable(gint fd, GIOCondition cond, gpointer arg)
{
	struct qmp_peer *p = arg;

	if (!write_some(p)) {
		p->write_source = 0;
		qmp_peer_close(p);
		return G_SOURCE_REMOVE;
	}
	if (p->out->len)
		return G_SOURCE_CONTINUE;
	p->write_source = 0;
	return G_SOURCE_REMOVE;
}

static gboolean close_later(gpointer arg)
{
	struct qmp_peer *p = arg;

	p->idle_source = 0;
	qmp_peer_close(p);
	return G_SOURCE_REMOVE;
}

/* A peer is closed from the loop only, never under the feet of its caller. */
static void doom(struct qmp_peer *p)
{
	drop_source(&p->read_source);
	drop_source(&p->write_source);
	drop_source(&p->idle_source);
	p->eof = p->doomed = true;
	p->idle_source = g_idle_add(close_later, p);
}

static void put(struct qmp_peer *p, JsonObject *o)
{
	JsonNode *n = json_node_init_object(json_node_alloc(), o);
	char *s;

	json_object_unref(o);
	if (!p->closed && !p->doomed) {
		s = json_to_string(n, FALSE);
		g_string_append(p->out, s);
		g_string_append(p->out, "\r\n");
		g_free(s);
		if ((!p->write_source && !write_some(p)) ||
		    p->out->len - p->out_done > QMP_UNREAD_MAX)
			doom(p);
	}
	json_node_unref(n);
}

void qmp_peer_linger(struct qmp_peer *p, int ms)
{
	struct pollfd pfd = { .fd = p->fd, .events = POLLOUT };
	long long end = now_ms() + ms;

	while (!p->closed && p->out->len && now_ms() < end) {
		if (poll(&pfd, 1, (int)(end - now_ms())) <= 0 || !write_some(p))
			return;
	}
}

/* Commands, one at a time. */

static gboolean next_command(gpointer arg);

static void schedule(struct qmp_peer *p)
{
	if (!p->closed && !p->busy && !p->idle_source && !g_queue_is_empty(&p->waiting))
		p->idle_source = g_idle_add(next_command, p);
}

static gboolean on_readable(gint fd, GIOCondition cond, gpointer arg);

static void read_more(struct qmp_peer *p)
{
	if (!p->closed && !p->eof && !p->read_source &&
	    g_queue_get_length(&p->waiting) < QMP_WAITING_MAX)
		p->read_source = g_unix_fd_add(p->fd, G_IO_IN | G_IO_HUP | G_IO_ERR,
					       on_readable, p);
}

static void finish(struct qmp_peer *p, JsonObject *o)
{
	if (p->id)
		json_object_set_member(o, "id", p->id);
	p->id = NULL;
	p->busy = false;
	put(p, o);
	if (p->eof && g_queue_is_empty(&p->waiting) && !p->closed && !p->doomed)
		doom(p);
	schedule(p);
	read_more(p);
}

void qmp_return(struct qmp_peer *p, JsonNode *ret)
{
	JsonObject *o = json_object_new();

	if (ret)
		json_object_set_member(o, "return", ret);
	else
		json_object_set_object_member(o, "return", json_object_new());
	finish(p, o);
}

void qmp_fail(struct qmp_peer *p, enum qmp_class c, const char *desc)
{
	JsonObject *o = json_object_new(), *e = json_object_new();
	char *utf8 = g_utf8_make_valid(desc, -1);

	json_object_set_string_member(e, "class", qmp_class_str(c));
	json_object_set_string_member(e, "desc", utf8);
	json_object_set_object_member(o, "error", e);
	g_free(utf8);
	finish(p, o);
}

void qmp_event(struct qmp_peer *p, const char *name, JsonObject *data)
{
	JsonObject *o = json_object_new(), *t = json_object_new();
	gint64 now = g_get_real_time();

	json_object_set_int_member(t, "seconds", now / G_USEC_PER_SEC);
	json_object_set_int_member(t, "microseconds", now % G_USEC_PER_SEC);
	json_object_set_object_member(o, "timestamp", t);
	json_object_set_string_member(o, "event", name);
	if (data)
		json_object_set_object_member(o, "data", data);
	put(p, o);
}

/* Nothing can be enabled; to ask for nothing is well. NULL, or what is wrong. */
static char *bad_capabilities(JsonObject *args)
{
	JsonNode *n = args ? json_object_get_member(args, "enable") : NULL;
	JsonArray *a;

	if (args && json_object_get_size(args) > !!n)
		return g_strdup("qmp_capabilities takes 'enable' and nothing else");
	if (!n)
		return NULL;
	if (!JSON_NODE_HOLDS_ARRAY(n))
		return g_strdup("Invalid parameter type for 'enable', expected: array");
	a = json_node_get_array(n);
	if (!json_array_get_length(a))
		return NULL;
	n = json_array_get_element(a, 0);
	if (!JSON_NODE_HOLDS_VALUE(n) || json_node_get_value_type(n) != G_TYPE_STRING)
		return g_strdup("Invalid parameter type for 'enable[0]', expected: string");
	return g_strdup_printf("Capability %s not available", json_node_get_string(n));
}

static void negotiate(struct qmp_peer *p, const char *name, JsonObject *args)
{
	char *bad;

	if (strcmp(name, "qmp_capabilities")) {
		qmp_fail(p, QMP_COMMAND_NOT_FOUND,
			 "Expecting capabilities negotiation with 'qmp_capabilities'");
		return;
	}
	bad = bad_capabilities(args);
	if (bad) {
		qmp_fail(p, QMP_GENERIC_ERROR, bad);
		g_free(bad);
		return;
	}
	p->negotiated = true;
	qmp_return(p, NULL);
}

static void run_command(struct qmp_peer *p, JsonObject *o)
{
	JsonNode *exec = json_object_get_member(o, "execute");
	JsonNode *args = json_object_get_member(o, "arguments");
	JsonNode *id = json_object_get_member(o, "id");
	const char *name;
	GList *members, *l;

	if (id)
		p->id = json_node_copy(id);
	members = json_object_get_members(o);
	for (l = members; l; l = l->next) {
		if (strcmp(l->data, "execute") && strcmp(l->data, "arguments") &&
		    strcmp(l->data, "id")) {
			char *m = g_strdup_printf("QMP input member '%s' is unexpected",
						  (char *)l->data);

			g_list_free(members);
			qmp_fail(p, QMP_GENERIC_ERROR, m);
			g_free(m);
			return;
		}
	}
	g_list_free(members);
	if (!exec || !JSON_NODE_HOLDS_VALUE(exec) ||
	    json_node_get_value_type(exec) != G_TYPE_STRING) {
		qmp_fail(p, QMP_GENERIC_ERROR, exec ?
			 "QMP input member 'execute' must be a string" :
			 "QMP input lacks member 'execute'");
		return;
	}
	if (args && !JSON_NODE_HOLDS_OBJECT(args)) {
		qmp_fail(p, QMP_GENERIC_ERROR, "QMP input member 'arguments' must be an object");
		return;
	}
	name = json_node_get_string(exec);
	if (!p->negotiated) {
		negotiate(p, name, args ? json_node_get_object(args) : NULL);
		return;
	}
	if (!strcmp(name, "qmp_capabilities")) {
		qmp_fail(p, QMP_COMMAND_NOT_FOUND,
			 "Capabilities negotiation is already complete, command ignored");
		return;
	}
	p->ops->command(p, name, args ? json_node_get_object(args) : NULL);
}

static gboolean next_command(gpointer arg)
{
	struct qmp_peer *p = qmp_peer_ref(arg);
	JsonNode *n;

	p->idle_source = 0;
	if (!p->busy && !g_queue_is_empty(&p->waiting)) {
		n = g_queue_pop_head(&p->waiting);
		p->busy = true;
		if (!n)
			qmp_fail(p, QMP_GENERIC_ERROR, "JSON parse error");
		else if (!JSON_NODE_HOLDS_OBJECT(n))
			qmp_fail(p, QMP_GENERIC_ERROR, "QMP input must be a JSON object");
		else
			run_command(p, json_node_get_object(n));
		if (n)
			json_node_unref(n);
	}
	qmp_peer_unref(p);
	return G_SOURCE_REMOVE;
}

static JsonNode *parse(const GString *s)
{
	JsonParser *parser = json_parser_new();
	JsonNode *n = NULL;

	if (g_utf8_validate(s->str, s->len, NULL) &&
	    json_parser_load_from_data(parser, s->str, s->len, NULL))
		n = json_parser_steal_root(parser);
	g_object_unref(parser);
	return n;
}

static void take_bytes(struct qmp_peer *p, const char *data, size_t len)
{
	while (len) {
		enum qmp_split r = qmp_splitter_feed(&p->in, &data, &len);

		if (r == QMP_SPLIT_MORE)
			break;
		/*
		 * One read may hold more than the limit: what it holds is
		 * bounded by the size of the read.
		 */
		g_queue_push_tail(&p->waiting, r == QMP_SPLIT_OBJECT ? parse(p->in.buf) : NULL);
		if (r == QMP_SPLIT_OBJECT)
			qmp_splitter_next(&p->in);
	}
}

static void take_fds(struct qmp_peer *p, struct msghdr *m)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t n;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(fd));
			if (p->nr_fds < QMP_FDS_MAX)
				p->fds[p->nr_fds++] = fd;
			else
				close(fd);
		}
	}
}

static gboolean on_readable(gint fd, GIOCondition cond, gpointer arg)
{
	struct qmp_peer *p = arg;
	char data[4096];
	union {
		struct cmsghdr h;
		char b[CMSG_SPACE(sizeof(int) * QMP_FDS_MAX)];
	} c;
	struct iovec iov = { data, sizeof(data) };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = c.b, .msg_controllen = sizeof(c.b),
	};
	ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return G_SOURCE_CONTINUE;
	if (n <= 0) {
		p->read_source = 0;
		/* The answers to what came before the end are still given. */
		p->eof = true;
		if (n < 0 || (!p->busy && g_queue_is_empty(&p->waiting)))
			qmp_peer_close(p);
		return G_SOURCE_REMOVE;
	}
	take_fds(p, &m);
	take_bytes(p, data, n);
	schedule(p);
	if (g_queue_get_length(&p->waiting) < QMP_WAITING_MAX)
		return G_SOURCE_CONTINUE;
	/* Until some are done the rest waits in the peer's own socket. */
	p->read_source = 0;
	return G_SOURCE_REMOVE;
}

struct qmp_peer *qmp_peer_new(int fd, const struct qmp_ops *ops, void *user)
{
	struct qmp_peer *p = g_new0(struct qmp_peer, 1);
	JsonNode *greeting = ops->greeting();

	p->refs = 1;
	p->fd = fd;
	p->ops = ops;
	p->user = user;
	p->out = g_string_new(NULL);
	g_queue_init(&p->waiting);
	qmp_splitter_init(&p->in);
	put(p, json_object_ref(json_node_get_object(greeting)));
	json_node_unref(greeting);
	read_more(p);
	return p;
}
