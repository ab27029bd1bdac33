// SPDX-License-Identifier: GPL-2.0-only
/* Finding spicebdd, and starting it where none runs. */
#include "ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"
#include "sock.h"

#define GREETING_MS	15000	/* one that socket activation is starting */
#define RUN_MS		60000	/* systemctl, or the supervisor until it has detached */
#define GREETING_ASK_MS	3000	/* when the answer is not needed */

extern char **environ;

static bool unit_installed(void)
{
	static const char * const dirs[] = {
		"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
		"/usr/lib/systemd/system", "/lib/systemd/system",
	};
	char path[128];

	for (size_t i = 0; i < G_N_ELEMENTS(dirs); i++) {
		snprintf(path, sizeof(path), "%s/spicebdd.socket", dirs[i]);
		if (access(path, R_OK) == 0)
			return true;
	}
	return false;
}

/* Another run directory than the units' is never theirs. */
bool daemon_by_systemd(void)
{
	return !strcmp(run_dir(), "/run/spicebd") && access("/run/systemd/system", F_OK) == 0 &&
	       unit_installed();
}

/* The last line that a program wrote to @fd, until its end or the limit. */
static void collect(int fd, char *last, size_t size)
{
	long long deadline = now_ms() + RUN_MS;
	char buf[4096];
	size_t len = 0;

	while (len < sizeof(buf) - 1) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		if (wait_poll(&p, deadline) <= 0)
			break;
		n = read(fd, buf + len, sizeof(buf) - 1 - len);
		if (n <= 0)
			break;
		len += n;
	}
	buf[len] = '\0';
	for (char *line = strtok(buf, "\n"); line; line = strtok(NULL, "\n"))
		snprintf(last, size, "%s", line);
}

/* Our own supervisor's name is no news to whoever asked for spicebdd. */
static size_t prefix_len(const char *line)
{
	static const char prefix[] = "spicebd-supervisor: ";

	return strncmp(line, prefix, sizeof(prefix) - 1) ? 0 : sizeof(prefix) - 1;
}

static int await_exit(pid_t pid)
{
	long long deadline = now_ms() + RUN_MS;
	int status;

	for (;;) {
		pid_t r = waitpid(pid, &status, WNOHANG);

		if (r == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
		if (r < 0 && errno != EINTR)
			return 128;
		if (now_ms() > deadline)
			kill(pid, SIGKILL);
		poll(NULL, 0, 5);
	}
}

/* Run to its end; its last line on stderr is the reason when it fails. */
int daemon_run(char *const argv[], struct fault *f)
{
	posix_spawn_file_actions_t fa;
	char last[400] = "";
	int r, p[2];
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0) {
		fault_set(f, EXIT_NO_DAEMON, "no pipe: %s", strerror(errno));
		return -errno;
	}
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, p[1], STDERR_FILENO);
	posix_spawn_file_actions_adddup2(&fa, p[1], STDOUT_FILENO);
	r = posix_spawnp(&pid, argv[0], &fa, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	close(p[1]);
	if (!r) {
		wait_begin_as("starting", RUN_MS);
		collect(p[0], last, sizeof(last));
		wait_end();
	}
	close(p[0]);
	if (r) {
		fault_set(f, EXIT_NO_DAEMON, "cannot run %s: %s", argv[0], strerror(r));
		return -r;
	}
	r = await_exit(pid);
	if (r == 0)
		return 0;
	if (last[0])
		fault_set(f, EXIT_NO_DAEMON, "%s", last + prefix_len(last));
	else
		fault_set(f, EXIT_NO_DAEMON, "%s failed with status %d", argv[0], r);
	return -EIO;
}

static int start_daemon(struct fault *f)
{
	char *systemd[] = {
		"systemctl", "start", "spicebdd.socket", "spicebd-nbdkit.socket",
		"spicebd-export.socket", NULL,
	};
	char path[PATH_MAX + 64];
	char *own[] = { path, "--detach", NULL };

	if (daemon_by_systemd())
		return daemon_run(systemd, f);
	program_path("spicebd-supervisor", path, sizeof(path));
	return daemon_run(own, f);
}

struct qmp *daemon_connect(enum daemon_how how, struct fault *f)
{
	char path[108];
	struct qmp *q;
	bool root = geteuid() == 0;

	/* The status socket is for those who may not do anything. */
	if (!run_path(path, sizeof(path), "%s",
		      how == DAEMON_MUST || root ? "control.sock" : "status.sock")) {
		fault_set(f, EXIT_REFUSED, "the path of the run directory is too long");
		return NULL;
	}
	q = qmp_open(path, "spicebdd", how == DAEMON_MUST ? GREETING_MS :
		     how == DAEMON_IF_QUICK ? FORCE_MS : GREETING_ASK_MS, f);
	if (q || how != DAEMON_MUST || f->status != EXIT_NO_DAEMON)
		return q;
	if (!root && !strcmp(run_dir(), "/run/spicebd")) {
		fault_set(f, EXIT_NO_DAEMON, "spicebdd does not run; only root can start it");
		return NULL;
	}
	if (start_daemon(f) < 0)
		return NULL;
	return qmp_open(path, "spicebdd", GREETING_MS, f);
}

int supervisor_request(const char *text, int timeout_ms, struct fault *f)
{
	struct pollfd p = { .events = POLLIN };
	char path[108], out[512];
	bool answered = false;
	ssize_t n;

	if (!run_path(path, sizeof(path), "supervisor.sock"))
		return -errno;
	p.fd = sock_connect(path, SOCK_SEQPACKET);
	if (p.fd < 0) {
		fault_set(f, EXIT_NO_DAEMON, "no supervisor runs (%s: %s)", path, strerror(-p.fd));
		return p.fd;
	}
	n = sock_send_fd(p.fd, text, strlen(text), -1);
	if (n > 0) {
		wait_begin_as("waiting for the supervisor", timeout_ms);
		answered = wait_poll(&p, now_ms() + timeout_ms) == 1;
		wait_end();
	}
	if (n > 0 && !answered) {
		close(p.fd);
		fault_set(f, EXIT_TIMEOUT, "the supervisor does not answer in time");
		return -ETIMEDOUT;
	}
	if (n > 0)
		n = recv(p.fd, out, sizeof(out) - 1, 0);
	close(p.fd);
	if (n <= 0) {
		fault_set(f, EXIT_REFUSED, "the supervisor ended the connection");
		return -EPIPE;
	}
	out[n] = '\0';
	if (!strcmp(out, "ok"))
		return 0;
	fault_set(f, EXIT_REFUSED, "%s", !strncmp(out, "error ", 6) ? out + 6 : out);
	return -EINVAL;
}
