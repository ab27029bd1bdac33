// SPDX-License-Identifier: GPL-2.0-only
#include "exportd.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <unistd.h>

#include <glib-unix.h>

#include "blockers.h"
#include "hex.h"
#include "log.h"
#include "sock.h"
#include "work.h"

#define JOB_MS		15000		/* from the job to "it listens" */
#define CALL_MS		20000		/* it gives itself 10 s to end a client */
#define RETRY_MIN_MS	100
#define RETRY_MAX_MS	5000

enum state {
	OFF,
	STARTING,		/* the job is sent */
	UP,
	DOWN,			/* looked for again at the timer */
};

/* A command under way. */
struct call {
	struct exportd *x;
	uint32_t tag;
	exportd_fn done;
	void *arg;
	guint timer;
};

/* A message that waits for room in the socket. */
struct letter {
	struct export_ctl c;
	int fd[EXPORT_FDS_MAX];
	unsigned int n;
};

struct exportd {
	enum state state;
	struct export_job job;
	const struct exportd_ops *ops;
	void *arg;
	int fd;
	guint in, out, timer;
	unsigned int retry_ms;
	bool stopping;
	uint32_t tag;
	GList *calls;
	GQueue letters;
	exportd_fn started;		/* who waits for the first answer */
	void *started_arg;
	char told[256];			/* the last reason that was logged */
};

static GList *all;			/* of struct exportd */

static void look(struct exportd *x);

bool exportd_wanted(const struct exportd *x)
{
	return x->state != OFF && !x->stopping;
}

const struct export_job *exportd_job(const struct exportd *x)
{
	return &x->job;
}

/* Calls. */

static void call_end(struct call *c, int r, const struct derr *e)
{
	struct exportd *x = c->x;

	x->calls = g_list_remove(x->calls, c);
	if (c->timer)
		g_source_remove(c->timer);
	if (c->done)
		c->done(r, e, c->arg);
	g_free(c);
}

static gboolean call_late(gpointer arg)
{
	struct call *c = arg;
	struct derr e;

	c->timer = 0;
	call_end(c, derr_set(&e, ETIMEDOUT, "the NBD server does not answer"), &e);
	return G_SOURCE_REMOVE;
}

static void calls_fail(struct exportd *x, const char *why)
{
	struct derr e;

	while (x->calls)
		call_end(x->calls->data, derr_set(&e, ECONNRESET, "%s", why), &e);
}

static void answered(struct exportd *x, const struct export_msg *m)
{
	for (GList *i = x->calls; i; i = i->next) {
		struct call *c = i->data;
		struct derr e = { 0 };
		int r = 0;

		if (c->tag != m->tag)
			continue;
		if (m->error)
			r = derr_set(&e, m->error < 4096 ? m->error : EIO, "%s", m->text);
		call_end(c, r, &e);
		return;
	}
}

/* The connection. */

static void letter_free(struct letter *l)
{
	for (unsigned int i = 0; i < l->n; i++)
		close(l->fd[i]);
	g_free(l);
}

static void disconnect(struct exportd *x)
{
	struct letter *l;

	if (x->in)
		g_source_remove(x->in);
	if (x->out)
		g_source_remove(x->out);
	if (x->timer)
		g_source_remove(x->timer);
	x->in = x->out = x->timer = 0;
	if (x->fd >= 0)
		close(x->fd);
	x->fd = -1;
	while ((l = g_queue_pop_head(&x->letters)))
		letter_free(l);
}

static void off(struct exportd *x)
{
	disconnect(x);
	x->state = OFF;
	x->stopping = false;
	memset(&x->job, 0, sizeof(x->job));
}

static gboolean retry(gpointer arg)
{
	struct exportd *x = arg;

	x->timer = 0;
	look(x);
	return G_SOURCE_REMOVE;
}

static void look_later(struct exportd *x, const char *why)
{
	disconnect(x);
	x->state = DOWN;
	/* The same reason again and again is one line. */
	if (strcmp(why, x->told)) {
		log_warn("NBD server: %s: starting another", why);
		g_strlcpy(x->told, why, sizeof(x->told));
	}
	x->ops->down(x->arg);
	x->timer = g_timeout_add(x->retry_ms, retry, x);
	x->retry_ms = MIN(x->retry_ms * 2, RETRY_MAX_MS);
}

/* It is gone, or never came. */
static void lost(struct exportd *x, int code, const char *why)
{
	exportd_fn done = x->started;
	bool stopping = x->stopping;
	struct derr e;

	if (blockers_stopped()) {
		disconnect(x);
		return;
	}
	x->started = NULL;
	if (done || stopping)
		off(x);
	else
		look_later(x, why);
	calls_fail(x, why);
	if (done)
		done(derr_set(&e, code, "%s", why), &e, x->started_arg);
}

static gboolean on_writable(gint fd, GIOCondition cond, gpointer arg);

/* Return: whether there was room */
static bool post(struct exportd *x, struct letter *l)
{
	ssize_t n = sock_send_fds(x->fd, &l->c, sizeof(l->c), l->fd, l->n);

	if (n == -EAGAIN)
		return false;
	/* An error shows at the other watch, as the end of the connection. */
	letter_free(l);
	return true;
}

static gboolean on_writable(gint fd, GIOCondition cond, gpointer arg)
{
	struct exportd *x = arg;

	while (!g_queue_is_empty(&x->letters)) {
		if (!post(x, g_queue_peek_head(&x->letters)))
			return G_SOURCE_CONTINUE;
		g_queue_pop_head(&x->letters);
	}
	x->out = 0;
	return G_SOURCE_REMOVE;
}

/* What waits is bounded: by the exports, and by the clients that ask. */
static void send_ctl(struct exportd *x, const struct export_ctl *c, const int *fd, unsigned int n)
{
	struct letter *l = g_new(struct letter, 1);

	l->c = *c;
	l->c.magic = EXPORT_PROTO_MAGIC;
	l->n = n;
	for (unsigned int i = 0; i < n; i++)
		l->fd[i] = fd[i];
	if (x->state != UP) {
		letter_free(l);
		return;
	}
	if (g_queue_is_empty(&x->letters) && post(x, l))
		return;
	g_queue_push_tail(&x->letters, l);
	if (!x->out)
		x->out = g_unix_fd_add(x->fd, G_IO_OUT, on_writable, x);
}

static void came_up(struct exportd *x, bool again)
{
	struct export_ctl *c = g_new0(struct export_ctl, 1);

	x->state = UP;
	x->retry_ms = RETRY_MIN_MS;
	if (x->told[0])
		log_notice("NBD server: it is there again");
	x->told[0] = '\0';
	if (again) {
		c->cmd = EXPORT_CMD_SYNC_BEGIN;
		send_ctl(x, c, NULL, 0);
		x->ops->up(x->arg);
		c->cmd = EXPORT_CMD_SYNC_END;
		send_ctl(x, c, NULL, 0);
	}
	g_free(c);
}

static void job_answered(struct exportd *x, const struct export_msg *m)
{
	exportd_fn done = x->started;

	if (x->timer)
		g_source_remove(x->timer);
	x->timer = 0;
	if (m->error) {
		lost(x, m->error < 4096 ? m->error : EIO, m->text);
		return;
	}
	x->started = NULL;
	came_up(x, !done);
	if (done)
		done(0, NULL, x->started_arg);
}

static void message(struct exportd *x, const struct export_msg *m)
{
	if (x->state == STARTING)
		job_answered(x, m);
	else if (m->event == EXPORT_EV_ANSWER)
		answered(x, m);
	else if (m->event == EXPORT_EV_OPEN)
		x->ops->open(x->arg, m->tag, m->number);
	else if (m->event == EXPORT_EV_CLIENTS)
		x->ops->clients(x->arg, m->number, m->clients);
}

static gboolean on_message(gint fd, GIOCondition cond, gpointer arg)
{
	struct exportd *x = arg;
	struct export_msg m;
	ssize_t n;
	int got;

	n = sock_recv_fd(fd, &m, sizeof(m), &got);
	if (n == -EAGAIN)
		return G_SOURCE_CONTINUE;
	if (got >= 0)
		close(got);
	if (n != sizeof(m) || m.magic != EXPORT_PROTO_MAGIC) {
		x->in = 0;
		lost(x, ECONNRESET, n ? "spicebd-export makes no sense" : "spicebd-export ended");
		return G_SOURCE_REMOVE;
	}
	m.text[sizeof(m.text) - 1] = '\0';
	message(x, &m);
	/* It may have been closed meanwhile, and another one opened. */
	return x->fd == fd && x->in ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

static gboolean job_late(gpointer arg)
{
	struct exportd *x = arg;

	x->timer = 0;
	lost(x, ETIMEDOUT, "spicebd-export does not start");
	return G_SOURCE_REMOVE;
}

static int connect_to(struct exportd *x, const char *name)
{
	char path[108];
	int fd;

	if (!run_path(path, sizeof(path), "%s", name))
		return -ENAMETOOLONG;
	fd = sock_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK);
	if (fd < 0)
		return fd;
	x->fd = fd;
	x->in = g_unix_fd_add(fd, G_IO_IN, on_message, x);
	return 0;
}

static void give_job(struct exportd *x)
{
	char why[200];
	int r = connect_to(x, "export.sock");

	if (!r && sock_send_fd(x->fd, &x->job, sizeof(x->job), -1) != sizeof(x->job))
		r = -EPIPE;
	if (r < 0) {
		snprintf(why, sizeof(why), "cannot reach export.sock: %s: is spicebd-supervisor "
			 "or spicebd-export.socket running?", strerror(-r));
		lost(x, -r, why);
		return;
	}
	x->state = STARTING;
	x->timer = g_timeout_add(JOB_MS, job_late, x);
}

/* One that lives is found by its control socket. */
static void look(struct exportd *x)
{
	char name[64];

	snprintf(name, sizeof(name), "export/%s.ctl", x->job.id);
	if (connect_to(x, name) == 0)
		came_up(x, true);
	else
		give_job(x);
}

struct exportd *exportd_new(const struct exportd_ops *ops, void *arg)
{
	struct exportd *x = g_new0(struct exportd, 1);

	x->ops = ops;
	x->arg = arg;
	x->fd = -1;
	g_queue_init(&x->letters);
	all = g_list_append(all, x);
	return x;
}

static void really_free(void *arg)
{
	g_free(arg);
}

void exportd_free(struct exportd *x)
{
	if (!x)
		return;
	all = g_list_remove(all, x);
	off(x);
	calls_fail(x, "the NBD server is gone");
	/* One of its own callbacks may be what this is called from. */
	main_post(really_free, x);
}

void exportd_start(struct exportd *x, const struct export_job *job, exportd_fn done, void *arg)
{
	uint8_t raw[EXPORT_ID_LEN / 2];

	x->job = *job;
	x->job.magic = EXPORT_PROTO_MAGIC;
	random_bytes(raw, sizeof(raw));
	hex_encode(raw, sizeof(raw), x->job.id);
	x->started = done;
	x->started_arg = arg;
	x->retry_ms = RETRY_MIN_MS;
	x->told[0] = '\0';
	give_job(x);
}

void exportd_adopt(struct exportd *x, const struct export_job *job)
{
	x->job = *job;
	x->retry_ms = RETRY_MIN_MS;
	look(x);
}

void exportd_call(struct exportd *x, struct export_ctl *c, exportd_fn done, void *arg)
{
	struct derr e;
	struct call *call;

	if (x->state != UP) {
		if (done)
			done(derr_set(&e, EAGAIN, "the NBD server is being started again"), &e,
			     arg);
		return;
	}
	call = g_new0(struct call, 1);
	call->x = x;
	call->tag = c->tag = ++x->tag ?: ++x->tag;
	call->done = done;
	call->arg = arg;
	call->timer = g_timeout_add(CALL_MS, call_late, call);
	x->calls = g_list_append(x->calls, call);
	send_ctl(x, c, NULL, 0);
}

void exportd_stream(struct exportd *x, uint32_t tag, const int *fd, unsigned int n,
		    const char *name, const struct derr *e)
{
	struct export_ctl *c = g_new0(struct export_ctl, 1);

	c->cmd = EXPORT_CMD_STREAM;
	c->tag = tag;
	if (!n) {
		c->error = e->code ?: EIO;
		g_strlcpy(c->text, e->text, sizeof(c->text));
	} else if (g_strlcpy(c->name, name, sizeof(c->name)) >= sizeof(c->name)) {
		c->error = ENAMETOOLONG;
		while (n)
			close(fd[--n]);
	}
	send_ctl(x, c, fd, n);
	g_free(c);
}

/* Stopped, or dead before it could say so. */
struct stop {
	struct exportd *x;
	exportd_fn done;
	void *arg;
};

static void stopped(int r, const struct derr *e, void *arg)
{
	struct stop *s = arg;
	struct exportd *x = s->x;

	if (x->state != OFF)
		off(x);
	calls_fail(x, "the NBD server was stopped");
	if (r == -ECONNRESET)
		r = 0;
	s->done(r, e, s->arg);
	g_free(s);
}

void exportd_stop(struct exportd *x, exportd_fn done, void *arg)
{
	struct export_ctl *c;
	struct stop *s;

	if (x->state != UP) {
		off(x);
		done(0, NULL, arg);
		return;
	}
	s = g_new0(struct stop, 1);
	c = g_new0(struct export_ctl, 1);
	s->x = x;
	s->done = done;
	s->arg = arg;
	x->stopping = true;
	c->cmd = EXPORT_CMD_STOP;
	exportd_call(x, c, stopped, s);
	g_free(c);
}

void exportd_leave(struct exportd *x)
{
	disconnect(x);
}

/* Nobody listens for its answer: whether it ends is seen by the next one of us. */
static void reap_one(const char *id)
{
	static const struct export_ctl stop = {
		.magic = EXPORT_PROTO_MAGIC, .cmd = EXPORT_CMD_STOP,
	};
	char path[108], lock[108];
	int fd;

	if (!run_path(path, sizeof(path), "export/%s.ctl", id) ||
	    !run_path(lock, sizeof(lock), "export/%s.lock", id))
		return;
	fd = sock_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK);
	if (fd >= 0) {
		log_notice("ending an NBD server that is not known");
		sock_send_fd(fd, &stop, sizeof(stop), -1);
		close(fd);
		return;
	}
	fd = open(lock, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
		unlink(path);
		unlink(lock);
	}
	close(fd);
}

static bool known(const char *id)
{
	for (GList *i = all; i; i = i->next) {
		struct exportd *x = i->data;

		if (!strcmp(x->job.id, id))
			return true;
	}
	return false;
}

void exportd_reap(void)
{
	char path[108], id[EXPORT_ID_LEN + 1];
	uint8_t raw[EXPORT_ID_LEN / 2];
	struct dirent *d;
	DIR *dir;

	if (!run_path(path, sizeof(path), "export") || !(dir = opendir(path)))
		return;
	while ((d = readdir(dir))) {
		if (strlen(d->d_name) != EXPORT_ID_LEN + 4 ||
		    strcmp(d->d_name + EXPORT_ID_LEN, ".ctl"))
			continue;
		g_strlcpy(id, d->d_name, sizeof(id));
		if (hex_decode(id, raw, sizeof(raw)) && !known(id))
			reap_one(id);
	}
	closedir(dir);
}
