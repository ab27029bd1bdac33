// SPDX-License-Identifier: GPL-2.0-only
/* The loop, and the end: first nobody comes in, then all are out, then we say so. */
#include "export.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

enum { P_SIG, P_CTL, P_OWNER, P_LISTEN, P_CLIENTS = P_LISTEN + LISTENERS_MAX };
enum { C_SOCK, C_CTL, C_ERR, C_COUNT };
#define P_COUNT (P_CLIENTS + C_COUNT * EXPORT_CLIENTS_MAX)

void server_stop(struct server *s, uint32_t tag)
{
	if (tag)
		s->stop_tag = tag;
	if (s->stopping)
		return;
	s->stopping = true;
	s->stop_deadline = now_ms() + END_MS;
	listen_close(s);
	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++)
		if (s->clients[i].pid)
			client_hang_up(&s->clients[i]);
}

static void check_signals(struct server *s)
{
	struct signalfd_siginfo si;

	while (read(s->sig_fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGCHLD)
			continue;
		log_info("asked to end");
		server_stop(s, 0);
	}
	clients_reap(s);
}

static void fill_client(const struct client *c, struct pollfd *p)
{
	p[C_SOCK] = (struct pollfd){ .fd = c->pid && !c->gone ? c->sock : -1,
				     .events = POLLRDHUP };
	/* While a question waits for spicebdd there is no other. */
	p[C_CTL] = (struct pollfd){ .fd = c->pid && !c->tag ? c->ctl : -1, .events = POLLIN };
	p[C_ERR] = (struct pollfd){ .fd = c->pid ? c->err.fd : -1, .events = POLLIN };
}

static int fill(const struct server *s, struct pollfd p[P_COUNT])
{
	bool full = clients_full(s);
	long long next = s->stopping ? s->stop_deadline : -1, left;

	p[P_SIG] = (struct pollfd){ .fd = s->sig_fd, .events = POLLIN };
	p[P_CTL] = (struct pollfd){ .fd = s->ctl_fd, .events = POLLIN };
	p[P_OWNER] = (struct pollfd){ .fd = s->owner, .events = POLLIN };
	/* Those whom we cannot serve wait in the backlog. */
	for (int i = 0; i < LISTENERS_MAX; i++)
		p[P_LISTEN + i] = (struct pollfd){
			.fd = i < s->n_listeners && !full ? s->listeners[i] : -1,
			.events = POLLIN,
		};
	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++) {
		const struct client *c = &s->clients[i];

		fill_client(c, &p[P_CLIENTS + C_COUNT * i]);
		if (c->pid && c->deadline >= 0 && (next < 0 || c->deadline < next))
			next = c->deadline;
	}
	if (next < 0)
		return -1;
	left = next - now_ms();
	return left < 0 ? 0 : (int)left + 1;
}

static void check_clients(struct server *s, const struct pollfd *p)
{
	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++) {
		struct client *c = &s->clients[i];
		const struct pollfd *q = &p[C_COUNT * i];

		if (c->pid && q[C_ERR].revents && q[C_ERR].fd == c->err.fd)
			errtext_read(&c->err);
		if (c->pid && q[C_CTL].revents && q[C_CTL].fd == c->ctl)
			requests_read(s, c);
		if (c->pid && q[C_SOCK].revents && q[C_SOCK].fd == c->sock)
			client_look(c);
		if (c->pid)
			client_expire(s, c);
	}
}

void server_run(struct server *s)
{
	static struct pollfd p[P_COUNT];

	while (!s->stopping || (clients_any(s) && now_ms() < s->stop_deadline)) {
		if (poll(p, P_COUNT, fill(s, p)) < 0)
			continue;
		/*
		 * Clients before deaths, so that a descriptor's number means
		 * what it meant to poll; new ones last, for the same reason.
		 */
		check_clients(s, &p[P_CLIENTS]);
		if (p[P_OWNER].revents && s->owner == p[P_OWNER].fd)
			owner_read(s);
		if (p[P_SIG].revents)
			check_signals(s);
		if (p[P_CTL].revents)
			owner_accept(s);
		for (int i = 0; i < s->n_listeners; i++)
			if (p[P_LISTEN + i].revents)
				clients_accept(s, p[P_LISTEN + i].fd);
		exps_settle(s);
	}
	if (clients_any(s))
		log_err("some nbdkits do not end: what they read does not answer");
	paths_release(s);
	owner_send(s, EXPORT_EV_ANSWER, s->stop_tag, 0, 0, 0, "");
}
