// SPDX-License-Identifier: GPL-2.0-only
/* supervisor.sock: one request, one answer, both one line of text. */
#include "sup.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

void peer_close(struct peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
	p->awaits = NULL;
	p->stop = false;
}

void requests_accept(struct sup *s)
{
	int fd = accept4(s->request_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (int i = 0; i < PEERS_MAX; i++)
		if (s->peers[i].fd < 0) {
			s->peers[i].fd = fd;
			return;
		}
	log_warn("more than %d requests at once: one refused", PEERS_MAX);
	close(fd);
}

static void answer(struct peer *p, const char *text)
{
	size_t n = strlen(text);

	if (sock_send_fd(p->fd, text, n, -1) != n)
		log_debug("an asker went away before its answer");
	peer_close(p);
}

static void do_link_start(struct sup *s, struct peer *p, const char *name)
{
	char err[200] = "", text[256];

	if (link_start(s, name, err, sizeof(err)) < 0) {
		snprintf(text, sizeof(text), "error %s", err);
		answer(p, text);
		return;
	}
	answer(p, "ok");
}

static void do_link_stop(struct sup *s, struct peer *p, const char *name)
{
	struct proc *l = linkconf_name_ok(name) ? proc_find(s, K_LINK, name) : NULL;

	if (!l) {
		answer(p, "error this link does not listen");
		return;
	}
	p->awaits = l;
	proc_end(l, 5000);
	if (!l->pid)
		proc_free(s, l);
}

static void request(struct sup *s, struct peer *p, const char *text)
{
	if (!strcmp(text, "ping")) {
		answer(p, "ok");
	} else if (!strcmp(text, "stop")) {
		p->stop = true;
		loop_stop(s);
	} else if (s->phase != RUN) {
		answer(p, "error the supervisor is ending");
	} else if (!strncmp(text, "link-start ", 11)) {
		do_link_start(s, p, text + 11);
	} else if (!strncmp(text, "link-stop ", 10)) {
		do_link_stop(s, p, text + 10);
	} else {
		answer(p, "error unknown request");
	}
}

void requests_read(struct sup *s, struct peer *p)
{
	char text[REQUEST_MAX + 1];
	ssize_t n;
	int fd;

	n = sock_recv_fd(p->fd, text, REQUEST_MAX, &fd);
	if (n == -EAGAIN)
		return;
	if (fd >= 0)
		close(fd);
	if (n <= 0 || fd >= 0 || p->awaits || p->stop) {
		peer_close(p);
		return;
	}
	if (text[n - 1] == '\n')
		n--;
	text[n] = '\0';
	request(s, p, text);
}

void requests_proc_gone(struct sup *s, struct proc *p)
{
	for (int i = 0; i < PEERS_MAX; i++)
		if (s->peers[i].fd >= 0 && s->peers[i].awaits == p)
			answer(&s->peers[i], "ok");
}

void requests_stopped(struct sup *s)
{
	for (int i = 0; i < PEERS_MAX; i++)
		if (s->peers[i].fd >= 0 && s->peers[i].stop)
			answer(&s->peers[i], "ok");
}

int request_send(const char *text, char *out, size_t size, int timeout_ms)
{
	struct pollfd p = { .events = POLLIN };
	char path[108];
	ssize_t n;

	if (!run_path(path, sizeof(path), "supervisor.sock"))
		return -errno;
	p.fd = sock_connect(path, SOCK_SEQPACKET);
	if (p.fd < 0)
		return p.fd;
	n = sock_send_fd(p.fd, text, strlen(text), -1);
	if (n >= 0)
		n = poll(&p, 1, timeout_ms) == 1 ? recv(p.fd, out, size - 1, 0) : -ETIMEDOUT;
	close(p.fd);
	if (n < 0)
		return n == -1 ? -EIO : (int)n;
	out[n] = '\0';
	return n ? 0 : -EPIPE;
}
