// SPDX-License-Identifier: GPL-2.0-only
/* The table of programs: started, reaped, started again. */
#include "sup.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

static const char *program_of(const struct proc *p)
{
	switch (p->kind) {
	case K_DAEMON:
		return "spicebdd";
	case K_LINK:
		return "spicebd-link";
	case K_EXPORT:
		return "spicebd-export";
	default:
		return "spicebd-nbdkit";
	}
}

struct proc *proc_new(struct sup *s, enum kind kind, const char *name)
{
	unsigned int used = 0;
	struct proc *p = NULL;

	for (int i = 0; i < PROCS_MAX; i++) {
		used += s->procs[i].kind == kind;
		if (!p && s->procs[i].kind == K_NONE)
			p = &s->procs[i];
	}
	if (!p || (kind == K_NBDKIT && used >= NBDKITS_MAX) ||
	    (kind == K_EXPORT && used >= EXPORT_SERVERS_MAX) ||
	    (kind == K_LINK && used >= LINKCONF_LINKS_MAX))
		return NULL;
	memset(p, 0, sizeof(*p));
	p->kind = kind;
	p->fds[0] = p->fds[1] = -1;
	p->backoff = BACKOFF_MIN_MS;
	snprintf(p->name, sizeof(p->name), "%s", name);
	return p;
}

struct proc *proc_find(struct sup *s, enum kind kind, const char *name)
{
	for (int i = 0; i < PROCS_MAX; i++)
		if (s->procs[i].kind == kind && !strcmp(s->procs[i].name, name))
			return &s->procs[i];
	return NULL;
}

void proc_free(struct sup *s, struct proc *p)
{
	for (int i = 0; i < 2; i++)
		socket_remove(p->fds[i]);
	requests_proc_gone(s, p);
	memset(p, 0, sizeof(*p));
	p->fds[0] = p->fds[1] = -1;
}

static void start_later(struct proc *p)
{
	long long now = now_ms();

	if (now - p->started >= GOOD_LIFE_MS)
		p->backoff = BACKOFF_MIN_MS;
	p->due = now + p->backoff;
	p->backoff = p->backoff * 2 < BACKOFF_MAX_MS ? p->backoff * 2 : BACKOFF_MAX_MS;
}

void proc_start(struct sup *s, struct proc *p)
{
	int n = p->fds[1] >= 0 ? 2 : 1;

	p->due = 0;
	p->on_demand = false;
	p->started = now_ms();
	p->pid = spawn(program_of(p), p->kind == K_LINK ? p->name : NULL, p->fds, n,
		       p->fdnames, p->kind == K_DAEMON || p->kind == K_LINK);
	if (p->pid < 0) {
		log_err("cannot start %s: %s", program_of(p), strerror(-p->pid));
		p->pid = 0;
		if (p->keep)
			start_later(p);
		return;
	}
	log_info("started %s%s%s (pid %d)", program_of(p), p->name[0] ? " " : "", p->name, p->pid);
	leftover_record(s);
}

void proc_end(struct proc *p, int grace_ms)
{
	p->keep = p->on_demand = false;
	p->due = 0;
	if (!p->pid || p->kill_at)
		return;
	kill(p->pid, SIGTERM);
	p->kill_at = now_ms() + grace_ms;
}

static void tell_death(const struct proc *p, int status)
{
	const char *what = WIFSIGNALED(status) ? "was ended by signal" : "ended with status";
	int n = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);

	log_line(p->keep ? LOG_L_WARN : LOG_L_INFO, "%s%s%s (pid %d) %s %d", program_of(p),
		 p->name[0] ? " " : "", p->name, p->pid, what, n);
}

static void tell_starter(struct sup *s, const struct proc *p)
{
	if (p->kind != K_DAEMON || s->ready_fd < 0)
		return;
	s->daemon_deaths++;
	if (write(s->ready_fd, "D", 1) != 1 || s->daemon_deaths >= READY_DEATHS) {
		close(s->ready_fd);
		s->ready_fd = -1;
	}
}

static void reaped(struct sup *s, struct proc *p, int status)
{
	tell_death(p, status);
	tell_starter(s, p);
	p->pid = 0;
	p->kill_at = 0;
	/* Its configuration is wrong: trying again does not help, as in its unit. */
	if (p->keep && p->kind == K_LINK && WIFEXITED(status) &&
	    WEXITSTATUS(status) == LINK_EXIT_CONFIG) {
		log_err("link %s is given up until link-start", p->name);
		p->keep = false;
	}
	if (!p->keep && p->kind != K_DAEMON) {
		proc_free(s, p);
		return;
	}
	if (!p->keep)
		return;
	/* It was asked to go (QMP quit): until somebody wants it, as a unit would. */
	if (p->kind == K_DAEMON && WIFEXITED(status) && !WEXITSTATUS(status))
		p->on_demand = true;
	else
		start_later(p);
}

void procs_reap(struct sup *s)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (int i = 0; i < PROCS_MAX; i++)
			if (s->procs[i].kind != K_NONE && s->procs[i].pid == pid) {
				reaped(s, &s->procs[i], status);
				break;
			}
		leftover_record(s);
	}
}

void procs_timers(struct sup *s)
{
	long long now = now_ms();

	for (int i = 0; i < PROCS_MAX; i++) {
		struct proc *p = &s->procs[i];

		if (p->kind == K_NONE)
			continue;
		if (p->due && now >= p->due && !p->pid)
			proc_start(s, p);
		if (p->pid && p->kill_at && now >= p->kill_at) {
			log_warn("%s (pid %d) does not end: killed", program_of(p), p->pid);
			kill(p->pid, SIGKILL);
			p->kill_at = now + BACKOFF_MAX_MS;
		}
	}
}

long long procs_next_due(const struct sup *s)
{
	long long next = -1;

	for (int i = 0; i < PROCS_MAX; i++) {
		const struct proc *p = &s->procs[i];
		long long t = p->kind == K_NONE ? 0 : p->pid ? p->kill_at : p->due;

		if (t && (next < 0 || t < next))
			next = t;
	}
	return next;
}
