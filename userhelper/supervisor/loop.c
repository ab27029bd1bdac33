// SPDX-License-Identifier: GPL-2.0-only
/* The loop, and the orderly end: spicebdd, then exports, links, nbdkits. */
#include "sup.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

void loop_stop(struct sup *s)
{
	if (s->phase != RUN)
		return;
	log_info("ending");
	s->phase = END_DAEMON;
}

/* Ask all of @kind to end. Return: whether none is left. */
static bool end_kind(struct sup *s, enum kind kind, int grace_ms)
{
	bool none = true;

	for (int i = 0; i < PROCS_MAX; i++) {
		struct proc *p = &s->procs[i];

		if (p->kind != kind)
			continue;
		proc_end(p, grace_ms);
		if (p->pid)
			none = false;
		else
			proc_free(s, p);
	}
	return none;
}

static void end_step(struct sup *s)
{
	if (s->phase == END_DAEMON && end_kind(s, K_DAEMON, 10000))
		s->phase = END_EXPORTS;
	if (s->phase == END_EXPORTS && end_kind(s, K_EXPORT, 12000))
		s->phase = END_LINKS;
	if (s->phase == END_LINKS && end_kind(s, K_LINK, 5000))
		s->phase = END_NBDKITS;
	if (s->phase == END_NBDKITS && end_kind(s, K_NBDKIT, 12000))
		s->phase = END;
}

static void check_signals(struct sup *s)
{
	struct signalfd_siginfo si;

	while (read(s->sig_fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT)
			loop_stop(s);
	}
	procs_reap(s);
}

enum {
	P_SIG, P_REQUEST, P_NBDKIT, P_EXPORT, P_CONTROL, P_STATUS, P_PEERS,
	P_COUNT = P_PEERS + PEERS_MAX
};

static void fill(struct sup *s, struct proc *d, struct pollfd p[P_COUNT])
{
	bool demand = d && d->on_demand;

	for (int i = 0; i < P_COUNT; i++)
		p[i] = (struct pollfd){ .fd = -1, .events = POLLIN };
	p[P_SIG].fd = s->sig_fd;
	p[P_REQUEST].fd = s->request_fd;
	p[P_NBDKIT].fd = s->nbdkit_fd;
	p[P_EXPORT].fd = s->export_fd;
	p[P_CONTROL].fd = demand ? d->fds[0] : -1;
	p[P_STATUS].fd = demand ? d->fds[1] : -1;
	for (int i = 0; i < PEERS_MAX; i++)
		p[P_PEERS + i].fd = s->peers[i].fd;
}

static int wait_ms(const struct sup *s)
{
	long long due = procs_next_due(s), left;
	int most = s->log_fd >= 0 ? 10000 : -1;	/* to look at the log's size */

	if (due < 0)
		return most;
	left = due - now_ms();
	if (left < 0)
		return 0;
	return most >= 0 && left > most ? most : (int)left;
}

static void dispatch(struct sup *s, struct proc *d, const struct pollfd p[P_COUNT])
{
	if (p[P_SIG].revents)
		check_signals(s);
	if (p[P_REQUEST].revents)
		requests_accept(s);
	if (p[P_NBDKIT].revents)
		accepted_start(s, s->nbdkit_fd, K_NBDKIT);
	if (p[P_EXPORT].revents)
		accepted_start(s, s->export_fd, K_EXPORT);
	if ((p[P_CONTROL].revents || p[P_STATUS].revents) && d->on_demand && !d->pid)
		proc_start(s, d);
	for (int i = 0; i < PEERS_MAX; i++)
		if (p[P_PEERS + i].revents && s->peers[i].fd == p[P_PEERS + i].fd)
			requests_read(s, &s->peers[i]);
}

void loop_run(struct sup *s)
{
	struct pollfd p[P_COUNT];

	while (s->phase != END) {
		struct proc *d = proc_find(s, K_DAEMON, "");

		fill(s, d, p);
		if (poll(p, P_COUNT, wait_ms(s)) > 0)
			dispatch(s, d, p);
		procs_timers(s);
		log_bound(s);
		end_step(s);
	}
	leftover_stop_servers();
	socket_remove(s->nbdkit_fd);
	socket_remove(s->export_fd);
	socket_remove(s->request_fd);
	leftover_forget();
	requests_stopped(s);
}
