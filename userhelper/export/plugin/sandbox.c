// SPDX-License-Identifier: GPL-2.0-only
/*
 * Before the first byte of a client is read. All that this process needs from
 * then on is threads, memory, and the sockets that it has or is handed, so the
 * ways to get at anything else are shut. They answer EPERM instead of killing:
 * a library's curiosity shall not end a backup.
 */
#include "plugin.h"

#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

static const char *const shut[] = {
	/* files */
	"open", "openat", "openat2", "creat", "open_by_handle_at", "name_to_handle_at",
	"unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
	"symlinkat", "mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "truncate", "chmod",
	"fchmodat", "chown", "lchown", "fchownat", "utimensat", "setxattr", "lsetxattr",
	"removexattr", "chdir", "fchdir", "chroot", "pivot_root", "mount", "umount2",
	"move_mount", "open_tree", "fsopen", "fsmount", "mount_setattr", "memfd_create",
	/* sockets of its own */
	"socket", "socketpair", "connect", "bind", "listen", "accept", "accept4",
	/* programs and other processes */
	"execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv",
	"process_vm_writev", "kill", "tkill", "pidfd_open", "pidfd_getfd",
	"pidfd_send_signal", "kcmp", "unshare", "setns",
	/* the kernel's odd corners */
	"bpf", "perf_event_open", "io_uring_setup", "userfaultfd", "keyctl", "add_key",
	"request_key", "init_module", "finit_module", "delete_module", "kexec_load",
	"kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "syslog",
	"personality", "modify_ldt", "vmsplice", "fanotify_init", "inotify_init1",
	"setuid", "setgid", "setresuid", "setresgid", "setgroups", "capset", "sethostname",
	"settimeofday", "clock_settime", "adjtimex", "clock_adjtime",
};

static int add_rules(scmp_filter_ctx ctx)
{
	for (size_t i = 0; i < sizeof(shut) / sizeof(shut[0]); i++) {
		int nr = seccomp_syscall_resolve_name(shut[i]), r;

		/* Not every architecture and library knows all of them. */
		if (nr == __NR_SCMP_ERROR)
			continue;
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), nr, 0);
		if (r < 0 && r != -EFAULT)
			return r;
	}
	return 0;
}

int sandbox_enter(void)
{
	scmp_filter_ctx ctx;
	int r;

	/*
	 * nbdkit --single asks for SIGTERM, and then waits for its client to
	 * go. Whoever ends spicebd-export counts on nobody being left.
	 */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
		nbdkit_error("no new privileges: %m");
		return -1;
	}
	ctx = seccomp_init(SCMP_ACT_ALLOW);
	if (!ctx) {
		nbdkit_error("seccomp: out of memory");
		return -1;
	}
	/* Threads that nbdkit may have started, too. */
	r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!r)
		r = add_rules(ctx);
	if (!r)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	if (r < 0) {
		nbdkit_error("seccomp: %s", strerror(-r));
		return -1;
	}
	return 0;
}
