// SPDX-License-Identifier: GPL-2.0-only
/* Start one of the programs, with its listening sockets and nothing else. */
#include "sup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"
#include "program.h"

/* From descriptors at any number to 3, 4, …, all else being close-on-exec. */
static void pass(const int *fds, int n_fds, const char *fdnames)
{
	int high[2];
	char num[16];

	for (int i = 0; i < n_fds; i++) {
		high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3 + n_fds);
		if (high[i] < 0)
			_exit(126);
	}
	for (int i = 0; i < n_fds; i++)
		if (dup2(high[i], 3 + i) < 0)
			_exit(126);
	if (!fdnames)
		return;
	snprintf(num, sizeof(num), "%d", n_fds);
	setenv("LISTEN_FDS", num, 1);
	setenv("LISTEN_FDNAMES", fdnames, 1);
	snprintf(num, sizeof(num), "%d", getpid());
	setenv("LISTEN_PID", num, 1);
}

/*
 * Like fork(), but we go on only when the child has executed its program or
 * ended. Until then it has a copy of every socket of ours, and a listener that
 * we close in that time would go on listening.
 */
static pid_t fork_until_exec(void)
{
	struct clone_args a = { .flags = CLONE_VFORK, .exit_signal = SIGCHLD };
	long r = syscall(SYS_clone3, &a, sizeof(a));

	return r < 0 && (errno == ENOSYS || errno == EPERM) ? fork() : r;
}

/*
 * As the units have it: memory may have to be freed by writing to a drive, and
 * without its helpers a drive frees none. Not permitted: then not.
 */
static void spare_from_oom(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "-900", 4) < 0)
		log_debug("oom_score_adj: %s", strerror(errno));
	close(fd);
}

pid_t spawn(const char *program, const char *arg, const int *fds, int n_fds,
	    const char *fdnames, bool dies_with_us)
{
	char *argv[] = { (char *)program, (char *)arg, NULL };
	pid_t parent = getpid(), pid;
	char path[PATH_MAX + 64];
	sigset_t none;

	pid = fork_until_exec();
	if (pid)
		return pid < 0 ? -errno : pid;
	/*
	 * A daemon without its supervisor would keep drives from the next one.
	 * SIGKILL, not SIGTERM: the next one shall find what a crash leaves,
	 * and go on with it, rather than media put away in order.
	 */
	if (dies_with_us) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(126);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	spare_from_oom();
	pass(fds, n_fds, fdnames);
	if (debug)
		setenv("SPICEBD_DEBUG", "1", 1);
	program_path(program, path, sizeof(path));
	execvp(path, argv);
	log_err("cannot run %s: %s", program, strerror(errno));
	_exit(127);
}
