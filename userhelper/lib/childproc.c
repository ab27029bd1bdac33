// SPDX-License-Identifier: GPL-2.0-only
#include "childproc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deathsig.h"
#include "log.h"

static void child_environment(bool listens)
{
	char pid[16];

	unsetenv("LISTEN_FDNAMES");
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	if (!listens) {
		unsetenv("LISTEN_FDS");
		unsetenv("LISTEN_PID");
		return;
	}
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_PID", pid, 1);
}

static void child_say(const char *what, const char *program)
{
	dprintf(STDERR_FILENO, "%s%s: %s\n", what, program, strerror(errno));
}

static void child(char *const argv[], const struct childproc_fd *fds, int n_fds, int cwd,
		  bool listens, int err_fd, pid_t parent)
{
	sigset_t none;
	int null;

	/* SIGKILL, not nbdkit's own orderly end: that one lets writes land. */
	if (deathsig_kill(parent) < 0)
		_exit(126);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	null = open("/dev/null", O_RDONLY);
	if (null < 0 || dup2(null, 0) < 0 || dup2(err_fd, 2) < 0 || dup2(err_fd, 1) < 0)
		_exit(126);
	if (null > 2)
		close(null);
	if (cwd >= 0 ? fchdir(cwd) < 0 : chdir("/") < 0) {
		child_say("cannot enter the folder for ", argv[0]);
		_exit(126);
	}
	for (int i = 0; i < n_fds; i++)
		if (dup2(fds[i].from, fds[i].to) < 0)
			_exit(126);
	child_environment(listens);
	execvp(argv[0], argv);
	child_say("cannot run ", argv[0]);
	_exit(errno == ENOENT ? 127 : 126);
}

pid_t childproc_spawn(char *const argv[], const struct childproc_fd *fds, int n_fds, int cwd,
		      bool listens, struct errtext *err)
{
	pid_t parent = getpid(), pid;
	int p[2];

	if (pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	fcntl(p[1], F_SETFL, 0);
	pid = fork();
	if (pid == 0)
		child(argv, fds, n_fds, cwd, listens, p[1], parent);
	close(p[1]);
	if (pid < 0) {
		pid = -errno;
		close(p[0]);
		return pid;
	}
	errtext_finish(err);
	err->last[0] = '\0';
	err->fd = p[0];
	log_debug("started %s as pid %d", argv[0], pid);
	return pid;
}
