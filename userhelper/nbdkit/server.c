// SPDX-License-Identifier: GPL-2.0-only
/*
 * The states of the one child, and the loop.
 *
 * ST_STARTING, ST_RUNNING and ST_IMAGE own a child; kill_child() moves any of
 * them to ST_DYING, and only reaping leads out of there: what happens next
 * (end, another start, giving up) is decided when the child is really gone.
 */
#include "server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

static void enter(struct server *s, enum state state, int timeout_ms)
{
	s->state = state;
	s->deadline = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
}

static void fail(struct server *s, uint32_t error, const char *text)
{
	s->fail_error = error;
	snprintf(s->fail_text, sizeof(s->fail_text), "%s", text);
}

static void kill_child(struct server *s)
{
	probe_end(&s->probe);
	kill(s->pid, SIGKILL);
	enter(s, ST_DYING, KILL_TIMEOUT_MS);
}

/* The giver of the job, before it has had its answer. */
static void answer_job(struct server *s, uint32_t error, const char *text)
{
	struct nbdkit_answer a = {
		.magic = NBDKIT_PROTO_MAGIC, .error = error, .pid = error ? 0 : s->pid,
	};

	s->answered = true;
	memcpy(a.incarnation, s->incarnation, sizeof(a.incarnation));
	strncpy(a.text, text, sizeof(a.text) - 1);
	if (s->peers[0].fd >= 0 &&
	    sock_send_fd(s->peers[0].fd, &a, sizeof(a), -1) != sizeof(a))
		peers_close(&s->peers[0]);
}

static void done(struct server *s)
{
	paths_release(s);
	peers_answer(s, NBDKIT_CTL_STOP, 0, "");
	peers_answer(s, NBDKIT_CTL_FENCE, ESHUTDOWN, "stopped meanwhile");
	enter(s, ST_DONE, -1);
}

/* Whether there may be one more restart within the window. */
static bool restart_allowed(struct server *s)
{
	long long now = now_ms();
	unsigned int kept = 0;

	for (unsigned int i = 0; i < s->n_restarts; i++)
		if (now - s->restarts[i] < RESTART_WINDOW_MS)
			s->restarts[kept++] = s->restarts[i];
	s->n_restarts = kept;
	if (kept == RESTARTS_MAX)
		return false;
	s->restarts[s->n_restarts++] = now;
	return true;
}

static void try_again(struct server *s)
{
	if (!restart_allowed(s)) {
		log_err("nbdkit ended more than %d times in %d s: giving up", RESTARTS_MAX,
			RESTART_WINDOW_MS / 1000);
		s->exit_status = 1;
		done(s);
		return;
	}
	enter(s, ST_BACKOFF, s->n_restarts == 1 ? 0 : 100 << s->n_restarts);
}

/* A start came to nothing, for the reason in fail_error and fail_text. */
static void start_failed(struct server *s)
{
	log_err("nbdkit did not start: %s", s->fail_text);
	peers_answer(s, NBDKIT_CTL_FENCE, s->fail_error, s->fail_text);
	if (s->answered) {
		try_again(s);
		return;
	}
	answer_job(s, s->fail_error, s->fail_text);
	s->exit_status = 1;
	done(s);
}

static void start(struct server *s)
{
	int r;

	s->fail_error = 0;
	r = child_start(s);
	if (r < 0) {
		s->pid = 0;
		fail(s, -r, "cannot start a process");
		start_failed(s);
		return;
	}
	enter(s, ST_STARTING, START_TIMEOUT_MS);
	r = probe_begin(&s->probe, s);
	if (r < 0) {
		fail(s, -r, "cannot connect to the NBD socket");
		kill_child(s);
	}
}

void server_begin(struct server *s)
{
	struct nbdkit_answer a;

	if (s->job.mode == NBDKIT_FILE) {
		start(s);
		return;
	}
	if (image_start(s, &a) < 0) {
		fail(s, a.error, a.text);
		start_failed(s);
		return;
	}
	enter(s, ST_IMAGE, IMAGE_TIMEOUT_MS);
}

void server_fence(struct server *s)
{
	switch (s->state) {
	case ST_STARTING:	/* it may serve already, and so may hold a write */
	case ST_RUNNING:
		log_info("fencing nbdkit, pid %d", s->pid);
		kill_child(s);
		break;
	case ST_BACKOFF:
		start(s);
		break;
	case ST_IMAGE:		/* nothing has been served yet: wait for it */
	case ST_DYING:
	case ST_DONE:
		break;
	}
}

void server_stop(struct server *s, int exit_status)
{
	s->stopping = true;
	s->exit_status = exit_status;
	if (s->state == ST_BACKOFF)
		done(s);
	else if (s->state != ST_DYING && s->state != ST_DONE)
		kill_child(s);
}

static void describe_exit(const struct server *s, int status, char *text, size_t size)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		snprintf(text, size, "nbdkit is not installed: install the package nbdkit");
	else if (s->err.last[0])
		snprintf(text, size, "%s", s->err.last);
	else if (WIFEXITED(status))
		snprintf(text, size, "it ended at once with status %d", WEXITSTATUS(status));
	else
		snprintf(text, size, "it was ended by signal %d", WTERMSIG(status));
}

static void image_reaped(struct server *s, int status)
{
	char text[200];

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		image_finish(s);
		start(s);
		return;
	}
	describe_exit(s, status, text, sizeof(text));
	fail(s, EIO, text);
	start_failed(s);
}

static void reaped(struct server *s, int status)
{
	enum state was = s->state;
	char text[200];

	errtext_finish(&s->err);
	probe_end(&s->probe);
	describe_exit(s, status, text, sizeof(text));
	log_debug("pid %d ended: %s", s->pid, text);
	s->pid = 0;
	if (s->stopping) {
		if (!s->answered)
			answer_job(s, s->fail_error ?: ESHUTDOWN,
				   s->fail_error ? s->fail_text : "stopped");
		done(s);
		return;
	}
	switch (was) {
	case ST_IMAGE:
		image_reaped(s, status);
		break;
	case ST_STARTING:
		fail(s, WIFEXITED(status) && WEXITSTATUS(status) == 127 ? ENOENT : EIO, text);
		start_failed(s);
		break;
	case ST_RUNNING:
		log_warn("nbdkit ended by itself: %s", text);
		try_again(s);
		break;
	default:
		if (s->fail_error)
			start_failed(s);
		else
			start(s);
		break;
	}
}

static void check_child(struct server *s)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == s->pid)
			reaped(s, status);
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
	check_child(s);
}

static void check_probe(struct server *s)
{
	switch (probe_step(&s->probe)) {
	case PROBE_WAIT:
		return;
	case PROBE_OK:
		enter(s, ST_RUNNING, -1);
		log_info("nbdkit serves, pid %d", s->pid);
		peers_answer(s, NBDKIT_CTL_FENCE, 0, "");
		if (!s->answered)
			answer_job(s, 0, "");
		return;
	case PROBE_REFUSED:
		errtext_read(&s->err);
		fail(s, EIO, s->err.last[0] ? s->err.last : "nbdkit cannot open the medium");
		break;
	case PROBE_BROKEN:
		/* Most often it is ending, and its exit tells more: look first. */
		probe_end(&s->probe);
		return;
	}
	kill_child(s);
}

static void check_deadline(struct server *s)
{
	if (s->deadline < 0 || now_ms() < s->deadline)
		return;
	s->deadline = -1;
	switch (s->state) {
	case ST_IMAGE:
		fail(s, ETIMEDOUT, "making the image of the folder took too long");
		kill_child(s);
		break;
	case ST_STARTING:
		fail(s, ETIMEDOUT, "nbdkit did not answer in time");
		kill_child(s);
		break;
	case ST_DYING:
		log_err("nbdkit, pid %d, cannot be killed: its storage does not answer", s->pid);
		peers_answer(s, NBDKIT_CTL_FENCE, ETIMEDOUT, "nbdkit's storage does not answer");
		peers_answer(s, NBDKIT_CTL_STOP, ETIMEDOUT, "nbdkit's storage does not answer");
		break;
	case ST_BACKOFF:
		start(s);
		break;
	default:
		break;
	}
}

/* Nobody waits for a medium whose asker has gone before it was served. */
static void check_orphaned(struct server *s)
{
	if (s->answered || s->peers[0].fd >= 0 || s->stopping)
		return;
	log_info("the asker went away before the medium was ready");
	server_stop(s, 1);
}

enum { P_SIG, P_CTL, P_ERR, P_PROBE, P_PEERS, P_COUNT = P_PEERS + PEERS_MAX };

static int wait_ms(const struct server *s)
{
	long long left;

	if (s->deadline < 0)
		return -1;
	left = s->deadline - now_ms();
	return left < 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

static void wait_events(struct server *s, struct pollfd p[P_COUNT])
{
	p[P_SIG] = (struct pollfd){ .fd = s->sig_fd, .events = POLLIN };
	p[P_CTL] = (struct pollfd){ .fd = s->ctl_fd, .events = POLLIN };
	p[P_ERR] = (struct pollfd){ .fd = s->err.fd, .events = POLLIN };
	p[P_PROBE] = (struct pollfd){ .fd = s->probe.fd, .events = POLLIN };
	for (int i = 0; i < PEERS_MAX; i++)
		/* One command at a time; a hang-up is noticed all the same. */
		p[P_PEERS + i] = (struct pollfd){
			.fd = s->peers[i].fd,
			.events = s->peers[i].waits ? 0 : POLLIN,
		};
	if (poll(p, P_COUNT, wait_ms(s)) < 0)
		for (int i = 0; i < P_COUNT; i++)
			p[i].revents = 0;
}

void server_run(struct server *s)
{
	struct pollfd p[P_COUNT];

	while (s->state != ST_DONE) {
		wait_events(s, p);
		if (p[P_ERR].revents && s->err.fd == p[P_ERR].fd)
			errtext_read(&s->err);
		if (p[P_SIG].revents)
			check_signals(s);
		if (p[P_PROBE].revents && s->probe.fd == p[P_PROBE].fd)
			check_probe(s);
		for (int i = 0; i < PEERS_MAX; i++)
			if (p[P_PEERS + i].revents && s->peers[i].fd == p[P_PEERS + i].fd &&
			    s->peers[i].fd >= 0)
				peers_read(s, &s->peers[i]);
		if (p[P_CTL].revents)
			peers_accept(s);
		check_orphaned(s);
		check_deadline(s);
	}
}
