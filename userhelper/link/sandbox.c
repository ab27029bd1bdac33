// SPDX-License-Identifier: GPL-2.0-only
/*
 * The order is forced: limits and the bounding set while we may change them,
 * groups before the user, no new privileges before seccomp (which needs it when
 * unprivileged), and seccomp last, since it forbids all the rest.
 */
#include "sandbox.h"

#include <errno.h>
#include <grp.h>
#include <linux/sockios.h>
#include <pwd.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "caps.h"
#include "log.h"
#include "refuse.h"

#define FILES_MAX	2048

static bool limit(int what, const char *name, rlim_t value)
{
	struct rlimit r = { value, value };

	if (setrlimit(what, &r) == 0)
		return true;
	log_err("cannot limit %s: %s", name, strerror(errno));
	return false;
}

static bool set_limits(unsigned int memory_max)
{
	return limit(RLIMIT_DATA, "memory", (rlim_t)memory_max << 20) &&
	       limit(RLIMIT_CORE, "core dumps", 0) &&
	       limit(RLIMIT_NOFILE, "open files", FILES_MAX);
}

static bool become(const char *user)
{
	struct passwd *pw;

	if (geteuid() != 0) {
		if (user)
			log_warn("not started as root: staying user %u, not becoming %s",
				 (unsigned int)geteuid(), user);
		return true;
	}
	pw = getpwnam(user ? user : "spicebd-link");
	if (!pw && !user)
		pw = getpwnam("nobody");
	if (!pw) {
		log_err("user=%s: no such user: create it or name another one", user ? user : "nobody");
		return false;
	}
	if (pw->pw_uid == 0) {
		log_err("user=%s: root is not allowed here: name an unprivileged user", user);
		return false;
	}
	if (setgroups(0, NULL) < 0 || setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) < 0 ||
	    setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) < 0) {
		log_err("cannot become user %s: %s", pw->pw_name, strerror(errno));
		return false;
	}
	return true;
}

/* What the loop, libspice-server, OpenSSL and malloc use once all is open. */
static const int allowed[] = {
	SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(close),
	SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg),
	SCMP_SYS(accept4), SCMP_SYS(shutdown), SCMP_SYS(setsockopt), SCMP_SYS(getsockopt),
	SCMP_SYS(getsockname), SCMP_SYS(getpeername),
	SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(poll),
	SCMP_SYS(ppoll), SCMP_SYS(fcntl), SCMP_SYS(dup3), SCMP_SYS(pipe2), SCMP_SYS(splice),
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
	SCMP_SYS(futex), SCMP_SYS(sched_yield),
	SCMP_SYS(getrandom), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time),
	SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep), SCMP_SYS(getpid), SCMP_SYS(gettid),
	SCMP_SYS(getppid),
	SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid),
	SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sigaltstack), SCMP_SYS(restart_syscall),
	SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(uname), SCMP_SYS(sysinfo),
};

/*
 * What libraries try and can do without: name look-ups, time zones, the
 * journal's socket, terminal queries. They are told no; all else ends it.
 */
static const int denied[] = {
	SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(access),
	SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(stat), SCMP_SYS(lstat),
	SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(readlink),
	SCMP_SYS(readlinkat), SCMP_SYS(unlink), SCMP_SYS(unlinkat), SCMP_SYS(getcwd),
	SCMP_SYS(socket), SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(listen),
	SCMP_SYS(lseek), SCMP_SYS(prctl), SCMP_SYS(prlimit64),
	SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setscheduler), SCMP_SYS(setpriority),
	SCMP_SYS(rseq), SCMP_SYS(membarrier), SCMP_SYS(eventfd2), SCMP_SYS(ioctl),
};

/* Sockets for the daemon only; memory that is never executable; signals to nobody else. */
static int add_conditional(scmp_filter_ctx f)
{
	int r;

	r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
			     SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, 4 /* PROT_EXEC */, 0));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
	/* libspice-server asks how much of a socket's queue is unsent. */
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_EQ, SIOCOUTQ));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				     SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	return r;
}

/* What the opener uses: it has the directory of the ports to watch, and no memory to make. */
static const int allowed_opener[] = {
	SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(restart_syscall), SCMP_SYS(read), SCMP_SYS(write),
	SCMP_SYS(close), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(fcntl),
	SCMP_SYS(inotify_add_watch), SCMP_SYS(stat), SCMP_SYS(newfstatat), SCMP_SYS(open),
	SCMP_SYS(openat), SCMP_SYS(connect), SCMP_SYS(rt_sigreturn), SCMP_SYS(exit_group),
};

static int add_conditional_opener(scmp_filter_ctx f)
{
	return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
				SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
}

static int allow_all(scmp_filter_ctx f, const int *calls, size_t n)
{
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && i < n; i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, calls[i], 0);
	return r;
}

/* @fail: calls that fail; those of neither list end the process. */
static bool load(scmp_filter_ctx f, int r, const int *fail, size_t n_fail)
{
	if (r == 0 && !refuse_init(fail, n_fail))
		r = -errno;
	/* There is one thread; were there more, all would be shut in, or none. */
	if (r == 0)
		r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	if (r == 0)
		return true;
	log_err("cannot restrict system calls: %s", strerror(-r));
	return false;
}

bool sandbox_seal(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_TRAP);
	int r = f ? 0 : -ENOMEM;

	if (r == 0)
		r = allow_all(f, allowed, sizeof(allowed) / sizeof(allowed[0]));
	if (r == 0)
		r = add_conditional(f);
	return load(f, r, denied, sizeof(denied) / sizeof(denied[0]));
}

bool sandbox_seal_opener(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_TRAP);
	int r = f ? 0 : -ENOMEM;

	if (r == 0)
		r = allow_all(f, allowed_opener,
			      sizeof(allowed_opener) / sizeof(allowed_opener[0]));
	if (r == 0)
		r = add_conditional_opener(f);
	return load(f, r, NULL, 0);
}

bool sandbox_drop(const char *user, unsigned int memory_max)
{
	int r;

	umask(077);
	if (!set_limits(memory_max))
		return false;
	caps_drop_bounding();
	if (!become(user))
		return false;
	r = caps_set(0);
	if (r < 0) {
		log_err("cannot drop capabilities: %s", strerror(-r));
		return false;
	}
	/* After the change of user, which sets it back. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
		log_err("cannot give up privileges: %s", strerror(errno));
		return false;
	}
	return true;
}
