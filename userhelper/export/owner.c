// SPDX-License-Identifier: GPL-2.0-only
/* spicebdd: the giver of the job, then whoever connected last to ID.ctl. */
#include "export.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

void owner_close(struct server *s)
{
	if (s->owner >= 0)
		close(s->owner);
	s->owner = -1;
}

void owner_accept(struct server *s)
{
	int fd = accept4(s->ctl_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	/* A spicebdd that died has not closed its end in vain. */
	owner_close(s);
	s->owner = fd;
	log_info("spicebdd is there");
}

void owner_send(struct server *s, uint32_t event, uint32_t tag, uint32_t number,
		uint32_t error, uint32_t clients, const char *text)
{
	struct export_msg m = {
		.magic = EXPORT_PROTO_MAGIC, .event = event, .tag = tag, .number = number,
		.error = error, .clients = clients,
	};

	if (s->owner < 0)
		return;
	snprintf(m.text, sizeof(m.text), "%s", text);
	/* One that does not read is lost; when it comes back it is told all anew. */
	if (sock_send_fd(s->owner, &m, sizeof(m), -1) != sizeof(m)) {
		log_warn("spicebdd does not listen");
		owner_close(s);
	}
}

static bool ctl_ok(const struct export_ctl *c, ssize_t n)
{
	return n == sizeof(*c) && c->magic == EXPORT_PROTO_MAGIC &&
	       memchr(c->name, 0, sizeof(c->name)) && memchr(c->text, 0, sizeof(c->text));
}

static void command(struct server *s, const struct export_ctl *c, const int *fd, unsigned int n_fd)
{
	switch (c->cmd) {
	case EXPORT_CMD_ADD:
		exp_add(s, c);
		break;
	case EXPORT_CMD_DEL:
		exp_del(s, c);
		break;
	case EXPORT_CMD_STREAM:
		requests_stream(s, c, fd, n_fd);
		break;
	case EXPORT_CMD_SYNC_BEGIN:
		exp_sync_begin(s);
		break;
	case EXPORT_CMD_SYNC_END:
		exp_sync_end(s, c->tag);
		break;
	case EXPORT_CMD_STOP:
		server_stop(s, c->tag);
		break;
	default:
		owner_send(s, EXPORT_EV_ANSWER, c->tag, c->number, EOPNOTSUPP, 0,
			   "unknown command");
		break;
	}
}

void owner_read(struct server *s)
{
	static struct export_ctl c;
	int fd[EXPORT_FDS_MAX];
	unsigned int n_fd;
	ssize_t n;

	n = sock_recv_fds(s->owner, &c, sizeof(c), fd, EXPORT_FDS_MAX, &n_fd);
	if (n == -EAGAIN)
		return;
	if (ctl_ok(&c, n)) {
		command(s, &c, fd, n_fd);
	} else {
		if (n)
			log_warn("malformed message on the control socket");
		owner_close(s);
	}
	for (unsigned int i = 0; i < n_fd; i++)
		close(fd[i]);
}
