// SPDX-License-Identifier: GPL-2.0-only
/* --detach: return when spicebdd answers, and say why when it does not. */
#include "sup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

int log_open(void)
{
	char path[108];
	int fd;

	if (!run_path(path, sizeof(path), "log"))
		return -errno;
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}

/* All programs append to it, so cutting it back to nothing loses no order. */
void log_bound(struct sup *s)
{
	struct stat st;

	if (s->log_fd < 0 || fstat(s->log_fd, &st) < 0 || st.st_size < LOG_FILE_MAX)
		return;
	if (ftruncate(s->log_fd, 0) == 0)
		log_notice("the log reached %d MiB and was begun anew", LOG_FILE_MAX >> 20);
}

/* Parent: the child's pid. Child: 0, and *ready_fd, which its death closes. */
int detach(int *ready_fd, char *err, size_t errlen)
{
	int p[2], pid;

	if (pipe2(p, O_CLOEXEC) < 0) {
		snprintf(err, errlen, "no pipe: %s", strerror(errno));
		return -errno;
	}
	pid = fork();
	if (pid < 0) {
		snprintf(err, errlen, "no process: %s", strerror(errno));
		return -errno;
	}
	close(p[pid ? 1 : 0]);
	*ready_fd = p[pid ? 0 : 1];
	if (!pid) {
		signal(SIGPIPE, SIG_IGN);
		setsid();
	}
	return pid;
}

/* The last line that spicebdd wrote: it knows best what is missing. */
static void last_words(char *out, size_t size)
{
	char path[108], buf[4096], *line;
	ssize_t n = -1;
	off_t end;
	int fd;

	snprintf(out, size, "see the log");
	if (!run_path(path, sizeof(path), "log"))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	end = lseek(fd, 0, SEEK_END);
	if (end >= 0)
		n = pread(fd, buf, sizeof(buf) - 1, end > (off_t)sizeof(buf) - 1 ?
			  end - (off_t)sizeof(buf) + 1 : 0);
	close(fd);
	if (n < 0)
		return;
	buf[n] = '\0';
	snprintf(out, size, "see %s", path);
	for (line = strtok(buf, "\n"); line; line = strtok(NULL, "\n"))
		if (!strncmp(line, "spicebdd: ", 10))
			snprintf(out, size, "%s", line + 10);
		else if (strstr(line, "cannot run spicebdd"))
			snprintf(out, size, "%s", line);
}

enum { ASKING = 1, ANSWERED };

/* Connect to control.sock once it is there; ANSWERED when a greeting has come. */
static int ask(struct pollfd *q)
{
	char path[108], buf[512];
	ssize_t n;

	if (q->fd < 0) {
		if (!run_path(path, sizeof(path), "control.sock"))
			return -errno;
		q->fd = sock_connect(path, SOCK_STREAM | SOCK_NONBLOCK);
		return ASKING;
	}
	n = recv(q->fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n > 0)
		return ANSWERED;
	if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		close(q->fd);
		q->fd = -1;
	}
	return ASKING;
}

static int give_up(pid_t pid, const char *why)
{
	char words[300];

	last_words(words, sizeof(words));
	log_err("%s: %s", why, words);
	if (pid > 0)
		kill(pid, SIGTERM);
	return 1;
}

/*
 * @ready_fd: a byte for each death of spicebdd, the end for the supervisor's
 *	own; -1 when the supervisor is not of our making
 */
int await_ready(int ready_fd, pid_t pid)
{
	long long deadline = now_ms() + READY_TIMEOUT_MS;
	struct pollfd p[2] = {
		{ .fd = ready_fd, .events = POLLIN }, { .fd = -1, .events = POLLIN },
	};
	unsigned int deaths = 0;

	while (now_ms() < deadline) {
		char b[8];
		ssize_t n;

		if (ask(&p[1]) == ANSWERED)
			return 0;
		poll(p, 2, 50);
		if (!p[0].revents)
			continue;
		n = read(ready_fd, b, sizeof(b));
		if (n > 0)
			deaths += n;
		if (deaths >= READY_DEATHS)
			return give_up(pid, "spicebdd does not start");
		if (n == 0 && waitpid(pid, NULL, WNOHANG) == pid)
			return 1;	/* it said why */
		if (n == 0)
			p[0].fd = -1;
	}
	return give_up(pid, "spicebdd does not answer");
}
