// SPDX-License-Identifier: GPL-2.0-only
/*
 * Child processes: started, listened to, killed, reaped.
 *
 * A child gets a session of its own, or the terminal's Ctrl-C would end the
 * servers before the drives could give their media back, and dies with this
 * process by SIGKILL, so that no server outlives the one that fences it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <glib-unix.h>

#include "core.h"
#include "deathsig.h"
#include "log.h"

#define LOG_LINES_MAX	32	/* of one child; then it is only listened to */

extern char **environ;

struct proc {
	pid_t pid;
	bool dead;
	int err;
	guint err_source;
	char *label;
	char line[256];
	size_t line_len;
	char last[256];
	unsigned int lines;
	proc_fn fn;
	void *data;
};

static void end_line(struct proc *p)
{
	if (!p->line_len)
		return;
	p->line[p->line_len] = '\0';
	memcpy(p->last, p->line, p->line_len + 1);
	p->line_len = 0;
	if (p->lines++ < LOG_LINES_MAX)
		log_debug("%s: nbdkit %d: %s", p->label, p->pid, p->last);
}

static bool read_err(struct proc *p)
{
	char buf[1024];
	ssize_t n = read(p->err, buf, sizeof(buf));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n' || buf[i] == '\r')
			end_line(p);
		else if (p->line_len < sizeof(p->line) - 1)
			p->line[p->line_len++] = buf[i];
	}
	return n > 0;
}

static gboolean on_err(gint fd, GIOCondition cond, gpointer data)
{
	struct proc *p = data;

	if (read_err(p))
		return G_SOURCE_CONTINUE;
	p->err_source = 0;
	return G_SOURCE_REMOVE;
}

static bool pending(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 0) > 0 && (pfd.revents & POLLIN);
}

static void on_exit_status(GPid pid, gint status, gpointer data)
{
	struct proc *p = data;

	p->dead = true;
	/*
	 * What it said last is still in the pipe. A grandchild may hold the
	 * other end, so there may be no end of file.
	 */
	for (int i = 0; i < 64 && pending(p->err); i++)
		read_err(p);
	end_line(p);
	p->fn(p->data, status);
	if (p->err_source)
		g_source_remove(p->err_source);
	close(p->err);
	g_free(p->label);
	g_free(p);
}

/* ---- between fork and exec: only async-signal-safe calls */

static void put_pid(char *at, pid_t pid)
{
	char digits[16];
	int n = 0;

	do {
		digits[n++] = '0' + pid % 10;
		pid /= 10;
	} while (pid);
	while (n)
		*at++ = digits[--n];
	*at = '\0';
}

struct start {
	char *const *argv;
	char **env;
	char *listen_pid;	/* inside env, or NULL */
	int io_in, io_out, err, fd3;
	pid_t parent;
};

static void __attribute__((noreturn)) child(const struct start *s)
{
	sigset_t none;

	if (deathsig_kill(s->parent) < 0)
		_exit(127);
	setsid();
	for (int sig = 1; sig < 32; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(s->io_in, 0) < 0 || dup2(s->io_out, 1) < 0 || dup2(s->err, 2) < 0)
		_exit(127);
	if (s->fd3 >= 0 && dup2(s->fd3, 3) < 0)
		_exit(127);
	if (s->listen_pid)
		put_pid(s->listen_pid, getpid());
	execve(s->argv[0], s->argv, s->env);
	_exit(127);
}

/* ---- */

static char **make_env(bool listening, char **listen_pid)
{
	GPtrArray *env = g_ptr_array_new();

	for (char **e = environ; *e; e++)
		if (!g_str_has_prefix(*e, "LISTEN_"))
			g_ptr_array_add(env, g_strdup(*e));
	*listen_pid = NULL;
	if (listening) {
		char *pid = g_strdup("LISTEN_PID=0000000000000000");

		*listen_pid = pid + strlen("LISTEN_PID=");
		g_ptr_array_add(env, pid);
		g_ptr_array_add(env, g_strdup("LISTEN_FDS=1"));
	}
	g_ptr_array_add(env, NULL);
	return (char **)g_ptr_array_free(env, FALSE);
}

/* Away from the numbers that the child puts its descriptors on. */
static int move_up(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 16);
}

static pid_t fork_child(struct start *s, int io, int fd3)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t pid = -1;

	s->io_in = move_up(io < 0 ? null : io);
	s->io_out = move_up(io < 0 ? null : io);
	s->fd3 = fd3 < 0 ? -1 : move_up(fd3);
	s->parent = getpid();
	if (s->io_in >= 0 && s->io_out >= 0 && (fd3 < 0 || s->fd3 >= 0))
		pid = fork();
	if (!pid)
		child(s);
	for (int *fd = (int[]){ s->io_in, s->io_out, s->fd3, null, -2 }; *fd != -2; fd++)
		if (*fd >= 0)
			close(*fd);
	return pid;
}

struct proc *proc_start(char *const argv[], int io, int fd3, bool listening,
			const char *label, proc_fn fn, void *data)
{
	struct start s = { .argv = argv };
	struct proc *p;
	int err[2], saved;
	pid_t pid;

	if (!g_unix_open_pipe(err, FD_CLOEXEC, NULL))
		return NULL;
	s.err = move_up(err[1]);
	s.env = make_env(listening, &s.listen_pid);
	pid = s.err < 0 ? -1 : fork_child(&s, io, fd3);
	saved = errno;
	g_strfreev(s.env);
	close(err[1]);
	if (s.err >= 0)
		close(s.err);
	if (pid < 0) {
		close(err[0]);
		errno = saved;
		return NULL;
	}
	g_unix_set_fd_nonblocking(err[0], TRUE, NULL);
	p = g_new0(struct proc, 1);
	p->pid = pid;
	p->err = err[0];
	p->label = g_strdup(label);
	p->fn = fn;
	p->data = data;
	p->err_source = g_unix_fd_add(err[0], G_IO_IN | G_IO_HUP, on_err, p);
	g_child_watch_add(pid, on_exit_status, p);
	return p;
}

void proc_kill(struct proc *p)
{
	if (p->dead)
		return;
	/* The group: nbdkit's iso plugin may be running a program. */
	kill(-p->pid, SIGKILL);
	kill(p->pid, SIGKILL);
}

pid_t proc_pid(const struct proc *p)
{
	return p->pid;
}

const char *proc_last_line(const struct proc *p)
{
	return p->last;
}
