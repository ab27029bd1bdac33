// SPDX-License-Identifier: GPL-2.0-only
/*
 * Has a thread of another process make a system call, as somebody would who took
 * it over, and prints what came of it: "= N", a result, or "ended".
 *
 * usage: inject TID open PATH | exec PATH | connect | socket
 *
 * The thread is stopped on its way out of a system call, so the instruction before
 * it is one that makes it. A signal that comes of the call is delivered, and its
 * handler run to its end. connect is one of descriptor 0 to 127.0.0.1, port 1.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEPS	1000000

static pid_t tid;

static void die(const char *what)
{
	fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void ended(int status)
{
	printf("ended %s %d\n", WIFSIGNALED(status) ? "by signal" : "with status",
	       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	exit(0);
}

static int wait_stop(void)
{
	int status;

	if (waitpid(tid, &status, __WALL) != tid)
		die("waitpid");
	if (!WIFSTOPPED(status))
		ended(status);
	return WSTOPSIG(status);
}

static void poke(unsigned long at, const void *data, size_t len)
{
	long word;

	for (size_t i = 0; i < len; i += sizeof(word)) {
		word = 0;
		memcpy(&word, (const char *)data + i,
		       len - i < sizeof(word) ? len - i : sizeof(word));
		if (ptrace(PTRACE_POKEDATA, tid, at + i, word) < 0)
			die("cannot write to its memory");
	}
}

static void arguments(struct user_regs_struct *r, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(1),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	unsigned long at = (r->rsp - 4096) & ~15ul;	/* below the red zone */

	if (argv[1])
		poke(at, argv[1], strlen(argv[1]) + 1);
	r->rdi = at;
	r->rsi = r->rdx = r->r10 = 0;
	if (!strcmp(argv[0], "open")) {
		r->rax = SYS_open;
	} else if (!strcmp(argv[0], "exec")) {
		r->rax = SYS_execve;
	} else if (!strcmp(argv[0], "socket")) {
		r->rax = SYS_socket;
		r->rdi = AF_INET;
		r->rsi = SOCK_STREAM;
	} else if (!strcmp(argv[0], "connect")) {
		poke(at, &a, sizeof(a));
		r->rax = SYS_connect;
		r->rdi = 0;
		r->rsi = at;
		r->rdx = sizeof(a);
	} else {
		fprintf(stderr, "inject: %s is none of its calls\n", argv[0]);
		exit(2);
	}
}

/* One step is the call; a handler is run until it comes back to after it. */
static long make_call(unsigned long after)
{
	struct user_regs_struct r;
	int sig = 0;

	for (int i = 0; i < STEPS; i++) {
		if (ptrace(PTRACE_SINGLESTEP, tid, 0, sig) < 0)
			die("cannot step it");
		sig = wait_stop();
		if (sig == SIGTRAP)
			sig = 0;
		if (ptrace(PTRACE_GETREGS, tid, 0, &r) < 0)
			die("cannot read its registers");
		if (!sig && r.rip == after)
			return r.rax;
	}
	fprintf(stderr, "inject: the call did not come back\n");
	exit(2);
}

int main(int argc, char **argv)
{
	struct user_regs_struct saved, r;
	long result;
	long code;

	if (argc < 3)
		return 2;
	tid = atoi(argv[1]);
	if (ptrace(PTRACE_ATTACH, tid, 0, 0) < 0)
		die("cannot attach");
	wait_stop();
	if (ptrace(PTRACE_GETREGS, tid, 0, &saved) < 0)
		die("cannot read its registers");
	errno = 0;
	code = ptrace(PTRACE_PEEKTEXT, tid, saved.rip - 2, 0);
	if (errno || (code & 0xffff) != 0x050f) {
		fprintf(stderr, "inject: it does not wait in a system call\n");
		return 3;
	}
	r = saved;
	r.rip -= 2;
	r.orig_rax = -1;	/* nothing to restart */
	arguments(&r, argv + 2);
	if (ptrace(PTRACE_SETREGS, tid, 0, &r) < 0)
		die("cannot set its registers");
	result = make_call(saved.rip);
	printf("= %ld\n", result);
	fflush(stdout);
	if (ptrace(PTRACE_SETREGS, tid, 0, &saved) < 0 || ptrace(PTRACE_DETACH, tid, 0, 0) < 0)
		die("cannot let it go");
	return 0;
}
