// SPDX-License-Identifier: GPL-2.0-only
/* A QMP client: one command at a time; events that come between are kept. */
#include "ctl.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sock.h"

#define LINE_MAX_BYTES	(8 << 20)
#define EVENTS_KEPT	256

struct qmp {
	int fd;
	const char *who;	/* for complaints */
	GString *in;		/* received, not yet a whole line */
	GQueue *events;		/* of JsonObject */
	guint64 id;
};

static void set_gone(const struct qmp *q, struct fault *f)
{
	fault_set(f, EXIT_REFUSED, "%s ended the connection; its log says why", q->who);
}

/* One line as an object; NULL with @f. @deadline: now_ms() clock. */
static JsonObject *read_object(struct qmp *q, long long deadline, struct fault *f)
{
	for (;;) {
		char *nl = memchr(q->in->str, '\n', q->in->len);
		struct pollfd p = { .fd = q->fd, .events = POLLIN };
		long long left = deadline - now_ms();
		char buf[16384];
		ssize_t n;

		if (nl) {
			g_autoptr(JsonParser) parser = json_parser_new();
			gsize len = nl - q->in->str;
			JsonObject *o = NULL;

			if (json_parser_load_from_data(parser, q->in->str, len, NULL) &&
			    JSON_NODE_HOLDS_OBJECT(json_parser_get_root(parser)))
				o = json_node_dup_object(json_parser_get_root(parser));
			g_string_erase(q->in, 0, len + 1);
			if (!o)
				fault_set(f, EXIT_REFUSED, "%s answered with no JSON object",
					  q->who);
			return o;
		}
		if (left > 0 && poll(&p, 1, wait_slice(left)) == 0) {
			wait_tell();
			continue;
		}
		if (left <= 0) {
			fault_set(f, EXIT_TIMEOUT, "%s does not answer in time", q->who);
			return NULL;
		}
		n = recv(q->fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0 || q->in->len + n > LINE_MAX_BYTES) {
			set_gone(q, f);
			return NULL;
		}
		g_string_append_len(q->in, buf, n);
	}
}

static bool send_line(struct qmp *q, JsonObject *o, int fd, struct fault *f)
{
	g_autoptr(JsonNode) node = json_node_alloc();
	g_autofree char *text = NULL;
	gsize len, done = 0;

	json_node_init_object(node, o);
	text = json_to_string(node, FALSE);
	len = strlen(text);
	text[len++] = '\n';	/* in place of its end: the length is known */
	while (done < len) {
		ssize_t n = sock_send_fd(q->fd, text + done, len - done, done ? -1 : fd);

		if (n < 0) {
			set_gone(q, f);
			return false;
		}
		done += n;
	}
	return true;
}

static void keep_event(struct qmp *q, JsonObject *o)
{
	if (g_queue_get_length(q->events) >= EVENTS_KEPT)
		json_object_unref(g_queue_pop_head(q->events));
	g_queue_push_tail(q->events, o);
}

static void set_error(const struct qmp *q, struct fault *f, JsonObject *reply)
{
	const char *desc = json_str(json_obj(reply, "error"), "desc", NULL);

	if (desc)
		fault_set(f, EXIT_REFUSED, "%s", desc);
	else
		fault_set(f, EXIT_REFUSED, "%s refused it and said no more", q->who);
}

static JsonNode *call(struct qmp *q, const char *command, JsonObject *args, int fd,
		      int timeout_ms, struct fault *f)
{
	long long deadline = now_ms() + timeout_ms;
	g_autoptr(JsonObject) cmd = json_object_new();
	JsonObject *o;

	json_object_set_string_member(cmd, "execute", command);
	if (args)
		json_object_set_object_member(cmd, "arguments", args);
	json_object_set_int_member(cmd, "id", ++q->id);
	if (!send_line(q, cmd, fd, f))
		return NULL;
	while ((o = read_object(q, deadline, f))) {
		JsonNode *r = NULL;

		if (json_object_has_member(o, "event")) {
			keep_event(q, o);
			continue;
		}
		if (json_int(o, "id", -1) != (gint64)q->id) {
			json_object_unref(o);
			continue;
		}
		if (json_object_has_member(o, "return"))
			r = json_object_dup_member(o, "return");
		else
			set_error(q, f, o);
		json_object_unref(o);
		return r;
	}
	return NULL;
}

JsonNode *qmp_call(struct qmp *q, const char *command, JsonObject *args, int fd,
		   int timeout_ms, struct fault *f)
{
	JsonNode *r;

	wait_begin(command, timeout_ms);
	r = call(q, command, args, fd, timeout_ms, f);
	wait_end();
	return r;
}

JsonObject *qmp_event(struct qmp *q, int timeout_ms, struct fault *f)
{
	long long deadline = now_ms() + timeout_ms;
	JsonObject *o = g_queue_pop_head(q->events);

	while (!o && (o = read_object(q, deadline, f))) {
		if (json_object_has_member(o, "event"))
			break;
		json_object_unref(o);
		o = NULL;
	}
	return o;
}

int qmp_fd(const struct qmp *q)
{
	return q->fd;
}

void qmp_close(struct qmp *q)
{
	if (!q)
		return;
	close(q->fd);
	g_string_free(q->in, TRUE);
	g_queue_free_full(q->events, (GDestroyNotify)json_object_unref);
	g_free(q);
}

static bool greet(struct qmp *q, int timeout_ms, struct fault *f)
{
	g_autoptr(JsonObject) hello = NULL;
	g_autoptr(JsonNode) done = NULL;

	wait_begin_as("waiting for its start", timeout_ms);
	hello = read_object(q, now_ms() + timeout_ms, f);
	wait_end();
	if (!hello)
		return false;
	if (!json_object_has_member(hello, "QMP")) {
		fault_set(f, EXIT_REFUSED, "what answers in place of %s is no QMP server",
			  q->who);
		return false;
	}
	done = qmp_call(q, "qmp_capabilities", NULL, -1, timeout_ms, f);
	return done != NULL;
}

struct qmp *qmp_open(const char *path, const char *who, int timeout_ms, struct fault *f)
{
	struct qmp *q;
	int fd;

	fd = sock_connect(path, SOCK_STREAM);
	if (fd < 0) {
		enum exit_status st = fd == -EACCES ? EXIT_REFUSED : EXIT_NO_DAEMON;

		if (st == EXIT_REFUSED)
			fault_set(f, st, "not allowed to use %s; run it as root", path);
		else
			fault_set(f, st, "%s does not run (%s: %s)", who, path, strerror(-fd));
		return NULL;
	}
	q = g_new0(struct qmp, 1);
	q->fd = fd;
	q->who = who;
	q->in = g_string_new(NULL);
	q->events = g_queue_new();
	if (greet(q, timeout_ms, f))
		return q;
	qmp_close(q);
	return NULL;
}
