// SPDX-License-Identifier: GPL-2.0-only
/*
 * The signal is raised by the refused call itself, never between two others, so
 * its handler may do what the caller may: nothing in it takes a lock or memory.
 */
#include "refuse.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "log.h"

#define CALLS_MAX	1024	/* numbers above share a bit */

static const int *may_fail;
static size_t n_may_fail;
static _Atomic uint8_t told[CALLS_MAX / 8];

static bool only_fails(int call)
{
	for (size_t i = 0; i < n_may_fail; i++)
		if (may_fail[i] == call)
			return true;
	return false;
}

static bool first_time(unsigned int call)
{
	uint8_t bit = 1u << call % 8;

	return !(atomic_fetch_or(&told[call % CALLS_MAX / 8], bit) & bit);
}

static void set_result(ucontext_t *uc, long result)
{
#if defined(__x86_64__)
	uc->uc_mcontext.gregs[REG_RAX] = result;
#elif defined(__aarch64__)
	uc->uc_mcontext.regs[0] = result;
#else
	/* Elsewhere nobody knows how to go on. */
	_exit(128 + SIGSYS);
#endif
}

static void on_refused(int sig, siginfo_t *si, void *context)
{
	int saved = errno;

	if (!only_fails(si->si_syscall)) {
		log_err("the sandbox refused system call %d, which spicebd-link has no use for: a client may have taken it over: it ends",
			si->si_syscall);
		_exit(128 + SIGSYS);
	}
	if (first_time(si->si_syscall))
		log_info("the sandbox refused system call %d (told once)", si->si_syscall);
	set_result(context, -EPERM);
	errno = saved;
}

bool refuse_init(const int *fail, size_t n)
{
	struct sigaction sa = { .sa_sigaction = on_refused, .sa_flags = SA_SIGINFO };

	may_fail = fail;
	n_may_fail = n;
	return sigaction(SIGSYS, &sa, NULL) == 0;
}
