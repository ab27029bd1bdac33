// SPDX-License-Identifier: GPL-2.0-only
/*
 * Clients: each has a nbdkit of its own, which gets the connection as its
 * standard input and output and ends with it. We keep the connection too, to
 * see at once that the client has gone, and to hang up on it.
 */
#include "export.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "childproc.h"
#include "log.h"
#include "program.h"
#include "sock.h"

#define FIRST_FD	10	/* below: where a child finds its own */
#define PLUGIN		"nbdkit-spicebd-plugin.so"
#define THREADS		"8"	/* each with a request of a client's in memory */

static struct client *free_client(struct server *s)
{
	unsigned int used = 0;
	struct client *free_one = NULL;

	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++) {
		if (s->clients[i].pid)
			used++;
		else if (!free_one)
			free_one = &s->clients[i];
	}
	return used < s->job.max_clients ? free_one : NULL;
}

bool clients_full(const struct server *s)
{
	return !free_client((struct server *)s);
}

bool clients_any(const struct server *s)
{
	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++)
		if (s->clients[i].pid)
			return true;
	return false;
}

static void client_free(struct client *c)
{
	if (c->sock >= 0)
		close(c->sock);
	if (c->ctl >= 0)
		close(c->ctl);
	errtext_finish(&c->err);
	memset(c, 0, sizeof(*c));
	c->sock = c->ctl = c->err.fd = -1;
}

static int start(struct client *c, int child_ctl)
{
	const struct childproc_fd fds[] = {
		{ c->sock, 0 }, { c->sock, 1 }, { child_ctl, 3 },
	};
	const char *nbdkit = secure_getenv("SPICEBD_NBDKIT");
	char plugin[PATH_MAX + 64];
	char *argv[] = {
		(char *)(nbdkit && *nbdkit ? nbdkit : "nbdkit"), "--single",
		"--threads=" THREADS, plugin, "control=3", NULL,
	};

	program_object_path(PLUGIN, plugin, sizeof(plugin));
	c->pid = childproc_spawn(argv, fds, 3, -1, false, &c->err);
	return c->pid < 0 ? (int)c->pid : 0;
}

static int move_up(int *fd)
{
	int high = fcntl(*fd, F_DUPFD_CLOEXEC, FIRST_FD);

	if (high < 0)
		return -errno;
	close(*fd);
	*fd = high;
	return 0;
}

static int serve(struct client *c)
{
	int sv[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return -errno;
	c->ctl = sv[0];
	r = move_up(&sv[1]);
	if (!r)
		r = start(c, sv[1]);
	close(sv[1]);
	/* Ours only: nbdkit waits for its answers. */
	fcntl(c->ctl, F_SETFL, fcntl(c->ctl, F_GETFL) | O_NONBLOCK);
	return r;
}

void clients_accept(struct server *s, int listener)
{
	struct client *c = free_client(s);
	int fd, one = 1, r;

	if (!c)
		return;
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return;
	if (s->job.family == EXPORT_INET) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		/* A client that vanished holds its export no longer than this. */
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	}
	c->sock = fd;
	c->deadline = now_ms() + HANDSHAKE_MS;
	r = move_up(&c->sock);
	if (!r)
		r = serve(c);
	if (r < 0) {
		log_err("cannot serve a client: %s", strerror(-r));
		c->pid = 0;
		client_free(c);
	}
}

/*
 * No answer reaches the client any more, and nothing of it is read. Killed: its
 * nbdkit could still wait for a server that does not answer.
 */
void client_hang_up(struct client *c)
{
	shutdown(c->sock, SHUT_RDWR);
	c->gone = true;
	kill(c->pid, SIGKILL);
}

void client_look(struct client *c)
{
	struct pollfd p = { .fd = c->sock, .events = POLLRDHUP };

	if (c->gone || poll(&p, 1, 0) <= 0)
		return;
	c->gone = true;
	c->deadline = now_ms() + END_MS;
}

void client_expire(struct server *s, struct client *c)
{
	if (c->deadline < 0 || now_ms() < c->deadline)
		return;
	if (c->tag && !c->gone) {
		requests_expired(s, c);
		return;
	}
	log_info(c->gone ? "a client's nbdkit does not end: killed" :
		 "a client chose no export in %d s: sent away", HANDSHAKE_MS / 1000);
	c->deadline = now_ms() + END_MS;
	client_hang_up(c);
}

static void reaped(struct client *c, int status)
{
	if (WIFSIGNALED(status) && !(c->gone && WTERMSIG(status) == SIGKILL))
		log_warn("nbdkit (pid %d) was ended by signal %d", c->pid, WTERMSIG(status));
	else if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		log_err("nbdkit is not installed: install the package nbdkit");
	log_debug("client of pid %d is gone", c->pid);
	client_free(c);
}

void clients_reap(struct server *s)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (int i = 0; i < EXPORT_CLIENTS_MAX; i++)
			if (s->clients[i].pid == pid) {
				reaped(&s->clients[i], status);
				break;
			}
}
