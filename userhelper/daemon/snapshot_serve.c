// SPDX-License-Identifier: GPL-2.0-only
/*
 * A snapshot's spicebd-export. Each of its clients gets a stream of the medium's
 * own server, the scratch file and the map, and the end of a pipe that tells when
 * nobody copies any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "drive.h"
#include "snapshot_impl.h"
#include "sock.h"

#define STREAM_MS	12000	/* spicebd-export waits a little longer */
#define NUMBER		1	/* the only export there */

struct stream {
	struct snapshot *s;	/* to be looked for */
	struct exportd *server;	/* its own, which goes with it */
	bool shared;		/* no: export.c's, which stays */
	uint32_t tag;
	struct source *source;
	struct task *task;
	char *name;
	int fd, scratch;
	struct derr e;
};

/* For each client, as the kernel tells each opening once of what is lost. In a task. */
static int open_anew(int fd)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int pass(const struct snapshot *s, const struct stream *st, int *fd)
{
	fd[0] = st->fd;
	fd[1] = fcntl(st->scratch, F_DUPFD_CLOEXEC, 3);
	fd[2] = fcntl(s->map_fd, F_DUPFD_CLOEXEC, 3);
	fd[3] = fcntl(s->life[0], F_DUPFD_CLOEXEC, 3);
	/* What was told to another opening already is not told to this one. */
	cbw_watch(s->c, now_ms());
	if (fd[1] >= 0 && fd[2] >= 0 && fd[3] >= 0)
		return 0;
	for (int i = 1; i < 4; i++)
		if (fd[i] >= 0)
			close(fd[i]);
	return -EMFILE;
}

static void answer(struct stream *st)
{
	struct snapshot *s = st->s;
	int fd[EXPORT_FDS_MAX];

	if (st->fd >= 0 && s->state == SNAPSHOT_STANDS && pass(s, st, fd) == 0) {
		exportd_stream(st->server, st->tag, fd, 4, st->name, NULL);
		return;
	}
	if (st->fd >= 0) {
		close(st->fd);
		derr_set(&st->e, EIO, "the snapshot has ended");
	}
	exportd_stream(st->server, st->tag, NULL, 0, NULL, &st->e);
}

static void too_late(struct stream *st)
{
	struct derr e;

	if (st->fd >= 0)
		close(st->fd);
	derr_set(&e, EIO, "the snapshot has ended");
	if (st->shared)
		exportd_stream(st->server, st->tag, NULL, 0, NULL, &e);
}

static void stream_over(void *arg)
{
	struct stream *st = arg;

	if (g_list_find(snapshots, st->s))
		answer(st);
	else
		too_late(st);
	source_unref(st->source);
	task_unref(st->task);
	if (st->scratch >= 0)
		close(st->scratch);
	g_free(st->name);
	g_free(st);
}

static void stream_run(struct task *t, void *arg)
{
	struct stream *st = arg;

	int fd = open_anew(st->scratch);

	close(st->scratch);
	st->scratch = fd;
	if (fd < 0)
		derr_set(&st->e, errno, "the scratch file: %s", strerror(errno));
	else
		st->fd = st->source->ops->stream(st->source, &st->name, t, &st->e);
	main_post(stream_over, st);
}

void snapshot_stream(struct snapshot *s, struct exportd *server, uint32_t tag)
{
	struct stream *st;
	struct derr e;

	if (s->state != SNAPSHOT_STANDS) {
		derr_set(&e, s->why[0] ? EIO : ENOENT, "%s",
			 s->why[0] ? s->why : "the snapshot is not there");
		exportd_stream(server, tag, NULL, 0, NULL, &e);
		return;
	}
	st = g_new0(struct stream, 1);
	st->s = s;
	st->server = server;
	st->shared = server != s->server;
	st->tag = tag;
	st->fd = -1;
	st->scratch = fcntl(s->scratch_read, F_DUPFD_CLOEXEC, 3);
	st->source = source_ref(s->m->source);
	st->task = task_new("snapshot-open", now_ms() + STREAM_MS, stream_run, st);
	if (!st->task || !task_run(st->task)) {
		derr_set(&st->e, EAGAIN, "out of threads");
		stream_over(st);
	}
}

static void on_open(void *arg, uint32_t tag, uint32_t number)
{
	struct snapshot *s = arg;

	snapshot_stream(s, s->server, tag);
}

static void on_clients(void *arg, uint32_t number, uint32_t n)
{
	struct snapshot *s = arg;

	s->clients = n;
	snapshot_changed(s);
}

void snapshot_announce(struct snapshot *s, exportd_fn done)
{
	struct export_ctl *c = g_new0(struct export_ctl, 1);

	c->cmd = EXPORT_CMD_ADD;
	c->number = NUMBER;
	c->flags = EXPORT_CTL_SNAPSHOT;
	g_strlcpy(c->name, s->name, sizeof(c->name));
	exportd_call(s->server, c, done, s);
	g_free(c);
}

static void on_down(void *arg)
{
	struct snapshot *s = arg;

	s->clients = 0;
	snapshot_changed(s);
}

/* Another one was started after its death: clients come again. */
static void on_up(void *arg)
{
	struct snapshot *s = arg;

	if (s->state == SNAPSHOT_STANDS)
		snapshot_announce(s, NULL);
}

const struct exportd_ops snapshot_ops = {
	.down = on_down,
	.up = on_up,
	.open = on_open,
	.clients = on_clients,
};
