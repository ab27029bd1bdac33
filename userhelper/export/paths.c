// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control socket, and the lock that says that we live: also when we were
 * killed, nobody takes what another one listens on.
 */
#include "export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sock.h"

static int claim(struct server *s)
{
	char path[108];

	if (!run_path(path, sizeof(path), "export"))
		return -errno;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -errno;
	if (!run_path(path, sizeof(path), "export/%s.lock", s->job.id))
		return -errno;
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->lock_fd < 0)
		return -errno;
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		close(s->lock_fd);
		s->lock_fd = -1;
		return -EBUSY;
	}
	run_path(path, sizeof(path), "export/%s.ctl", s->job.id);
	s->ctl_fd = sock_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, 0600);
	return s->ctl_fd < 0 ? s->ctl_fd : 0;
}

int paths_claim(struct server *s, char *err, size_t errlen)
{
	int r = claim(s);

	if (r < 0)
		snprintf(err, errlen, "cannot make sockets in the run directory: %s",
			 r == -EBUSY ? "this id is in use" : strerror(-r));
	return r;
}

void paths_release(struct server *s)
{
	static const char *const ext[] = { "ctl", "lock" };
	char path[108];

	if (s->lock_fd < 0)
		return;
	for (int i = 0; i < 2; i++)
		if (run_path(path, sizeof(path), "export/%s.%s", s->job.id, ext[i]))
			unlink(path);
}
