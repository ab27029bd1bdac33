// SPDX-License-Identifier: GPL-2.0-only
/* Who asks: the giver of the job, and whoever connects to ID.ctl. */
#include "server.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

void peers_close(struct peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
	p->waits = 0;
}

void peers_accept(struct server *s)
{
	int fd = accept4(s->ctl_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (int i = 1; i < PEERS_MAX; i++) {
		if (s->peers[i].fd >= 0)
			continue;
		s->peers[i].fd = fd;
		s->peers[i].waits = 0;
		return;
	}
	log_warn("more than %d control connections: one refused", PEERS_MAX - 1);
	close(fd);
}

static void send_answer_fd(const struct server *s, struct peer *p, uint32_t error,
			   const char *text, int fd)
{
	struct nbdkit_answer a = {
		.magic = NBDKIT_PROTO_MAGIC,
		.error = error,
		.pid = s->state == ST_RUNNING || s->state == ST_STARTING ? s->pid : 0,
	};

	memcpy(a.incarnation, s->incarnation, sizeof(a.incarnation));
	strncpy(a.text, text, sizeof(a.text) - 1);
	/* A peer that does not read its answers loses its connection. */
	if (sock_send_fd(p->fd, &a, sizeof(a), fd) != sizeof(a))
		peers_close(p);
}

static void send_answer(const struct server *s, struct peer *p, uint32_t error, const char *text)
{
	send_answer_fd(s, p, error, text, -1);
}

void peers_answer(struct server *s, uint32_t cmd, uint32_t error, const char *text)
{
	for (int i = 0; i < PEERS_MAX; i++) {
		if (s->peers[i].fd < 0 || s->peers[i].waits != cmd)
			continue;
		s->peers[i].waits = 0;
		send_answer(s, &s->peers[i], error, text);
	}
}

static void status(struct server *s, struct peer *p, int fd)
{
	switch (s->state) {
	case ST_RUNNING:
		send_answer_fd(s, p, 0, "", fd);
		break;
	case ST_IMAGE:
		send_answer(s, p, EAGAIN, "the image of the folder is being made");
		break;
	case ST_DYING:
		send_answer(s, p, EAGAIN, "nbdkit is being ended");
		break;
	default:
		send_answer(s, p, EAGAIN, "nbdkit is being started");
		break;
	}
}

void peers_read(struct server *s, struct peer *p)
{
	struct nbdkit_ctl c;
	ssize_t n;
	int fd;

	n = sock_recv_fd(p->fd, &c, sizeof(c), &fd);
	if (n == -EAGAIN)
		return;
	if (fd >= 0)
		close(fd);
	if (n != sizeof(c) || fd >= 0 || c.magic != NBDKIT_PROTO_MAGIC) {
		if (n)
			log_warn("malformed message on the control socket");
		peers_close(p);
		return;
	}
	switch (c.cmd) {
	case NBDKIT_CTL_STATUS:
		status(s, p, -1);
		break;
	case NBDKIT_CTL_MEDIUM:
		status(s, p, s->medium_fd);
		break;
	case NBDKIT_CTL_FENCE:
		p->waits = NBDKIT_CTL_FENCE;
		server_fence(s);
		break;
	case NBDKIT_CTL_STOP:
		p->waits = NBDKIT_CTL_STOP;
		server_stop(s, 0);
		break;
	default:
		send_answer(s, p, EOPNOTSUPP, "unknown command");
		break;
	}
}
