// SPDX-License-Identifier: GPL-2.0-only
/*
 * nbdkit/ID.{ctl,sock,lock} in the run directory.
 *
 * The lock is held by us and, through the same open file, by every nbdkit that
 * we start: whoever can take it knows that both are gone, also when we were
 * killed and could tell nobody.
 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sock.h"

#define FIRST_FD 10	/* below: where a child finds its own */

static int high_fd(int fd)
{
	int r;

	if (fd < 0)
		return fd;
	r = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD);
	if (r < 0)
		r = -errno;
	close(fd);
	return r;
}

static int take_lock(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		close(fd);
		return -EBUSY;
	}
	return high_fd(fd);
}

static int claim(struct server *s)
{
	char path[108];
	int fd;

	if (!run_path(path, sizeof(path), "nbdkit"))
		return -errno;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -errno;
	if (!run_path(path, sizeof(path), "nbdkit/%s.lock", s->job.id))
		return -errno;
	s->lock_fd = take_lock(path);
	if (s->lock_fd < 0)
		return s->lock_fd;
	run_path(path, sizeof(path), "nbdkit/%s.ctl", s->job.id);
	fd = sock_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, 0600);
	s->ctl_fd = high_fd(fd);
	if (s->ctl_fd < 0)
		return s->ctl_fd;
	run_path(path, sizeof(path), "nbdkit/%s.sock", s->job.id);
	s->listen_fd = high_fd(sock_listen(path, SOCK_STREAM, 0600));
	return s->listen_fd < 0 ? s->listen_fd : 0;
}

int paths_claim(struct server *s, struct nbdkit_answer *a)
{
	int r;

	s->medium_fd = high_fd(s->medium_fd);
	r = s->medium_fd < 0 ? s->medium_fd : claim(s);
	if (r < 0)
		answer_error(a, -r, r == -EBUSY ? "this id is in use" :
			     "cannot make sockets in the run directory: %s", strerror(-r));
	return r;
}

void paths_release(struct server *s)
{
	static const char * const ext[] = { "sock", "ctl", "lock" };
	char path[108];

	if (s->lock_fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		if (run_path(path, sizeof(path), "nbdkit/%s.%s", s->job.id, ext[i]))
			unlink(path);
}

int paths_connect(const struct server *s)
{
	char path[108];

	if (!run_path(path, sizeof(path), "nbdkit/%s.sock", s->job.id))
		return -errno;
	return sock_connect(path, SOCK_STREAM | SOCK_NONBLOCK);
}
