// SPDX-License-Identifier: GPL-2.0-only
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "probe_child.h"

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

/* The answer, whole or not at all: it fits into the pipe. */
static int receive(int pipe_fd, int stop, int seconds, struct found *out)
{
	long end = now_ms() + seconds * 1000L;
	size_t have = 0;

	while (have < sizeof(*out)) {
		struct pollfd p[2] = {
			{ .fd = pipe_fd, .events = POLLIN },
			{ .fd = stop, .events = POLLIN },
		};
		long left = end - now_ms();
		ssize_t n;

		if (left <= 0)
			return -ETIMEDOUT;
		if (poll(p, 2, left) < 0 && errno != EINTR)
			return -errno;
		if (!p[0].revents && p[1].revents)
			return -EINTR;
		if (!p[0].revents)
			continue;
		n = read(pipe_fd, (char *)out + have, sizeof(*out) - have);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -EPROTO;
		if (n > 0)
			have += n;
	}
	return 0;
}

int probe(int fd, int seconds, int stop, struct found *out)
{
	int p[2], ret;
	pid_t child;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	child = fork();
	if (child < 0) {
		ret = -errno;
		close(p[0]);
		close(p[1]);
		return ret;
	}
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		probe_child(fd, p[1]);
	}
	close(p[1]);
	ret = receive(p[0], stop, seconds, out);
	close(p[0]);
	/*
	 * One that waits for a medium that does not answer dies when the kernel
	 * gives up on that; it is nobody's to wait for until then.
	 */
	kill(child, SIGKILL);
	waitpid(child, NULL, ret == 0 ? 0 : WNOHANG);
	if (ret)
		return ret;
	if (!found_valid(out))
		return -EPROTO;
	return -(int)(out->error & 0xfff);
}
