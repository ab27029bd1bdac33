// SPDX-License-Identifier: GPL-2.0-only
#include "probe_child.h"

#include <blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "caps.h"
#include "found.h"

#define NOBODY		65534
#define MEMORY_MAX	(256u << 20)
#define CPU_SECONDS	20
#define ROUNDS_MAX	64

/* What libblkid needs once it has the device; all else is told no. */
static const int allowed[] = {
	SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(lseek), SCMP_SYS(write), SCMP_SYS(close),
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
	SCMP_SYS(fstat), SCMP_SYS(fadvise64), SCMP_SYS(futex), SCMP_SYS(getrandom),
	SCMP_SYS(clock_gettime), SCMP_SYS(rt_sigreturn), SCMP_SYS(exit_group),
};

static int seal(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	size_t i;
	int r = f ? 0 : -ENOMEM;

	for (i = 0; r == 0 && i < sizeof(allowed) / sizeof(allowed[0]); i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, 4 /* PROT_EXEC */, 0));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	return r;
}

static int limit(int what, rlim_t value)
{
	struct rlimit r = { value, value };

	return setrlimit(what, &r) < 0 ? -errno : 0;
}

/* Nothing of the parent's is left but these two. */
static void close_others(unsigned int a, unsigned int b)
{
	unsigned int low = a < b ? a : b, high = a < b ? b : a;

	if (low > 0)
		close_range(0, low - 1, 0);
	if (high > low + 1)
		close_range(low + 1, high - 1, 0);
	close_range(high + 1, ~0U, 0);
}

/* In this order: each step takes what the next one does not need. */
static int confine(void)
{
	int r = 0;

	if (limit(RLIMIT_AS, MEMORY_MAX) < 0 || limit(RLIMIT_CORE, 0) < 0 ||
	    limit(RLIMIT_CPU, CPU_SECONDS) < 0 || limit(RLIMIT_FSIZE, 0) < 0)
		r = -errno;
	if (r == 0 && (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
		       setresuid(NOBODY, NOBODY, NOBODY) < 0))
		r = -errno;
	if (r == 0)
		r = caps_set(0);
	if (r == 0 && (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
		       prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0))
		r = -errno;
	return r ? r : seal();
}

/* Cut where a character would be cut too: the label is only for a name. */
static void copy_value(blkid_probe pr, const char *key, char *to, size_t size)
{
	const char *v;
	size_t len;

	if (blkid_probe_lookup_value(pr, key, &v, &len) < 0 || !v)
		return;
	strncpy(to, v, size - 1);
	to[size - 1] = '\0';
}

static void take(blkid_probe pr, struct found *f)
{
	struct found_signature *s = &f->sig[f->n];

	if (blkid_probe_has_value(pr, "PTTYPE"))
		copy_value(pr, "PTTYPE", f->table, sizeof(f->table));
	if (!blkid_probe_has_value(pr, "TYPE") || f->n == FOUND_SIGNATURES_MAX)
		return;
	copy_value(pr, "TYPE", s->type, sizeof(s->type));
	copy_value(pr, "LABEL", s->label, sizeof(s->label));
	copy_value(pr, "UUID", s->uuid, sizeof(s->uuid));
	/* The same thing may be told by several magics, as backups are. */
	for (unsigned int i = 0; i < f->n; i++) {
		if (!strcmp(f->sig[i].type, s->type)) {
			memset(s, 0, sizeof(*s));
			return;
		}
	}
	f->n++;
}

/* All there is, not blkid's best guess: what is ambivalent is not mounted. */
static int look(blkid_probe pr, struct found *f)
{
	int r;

	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL |
					  BLKID_SUBLKS_UUID);
	blkid_probe_enable_partitions(pr, 1);
	for (int i = 0; i < ROUNDS_MAX; i++) {
		errno = 0;
		r = blkid_do_probe(pr);
		if (r < 0)
			return errno ? errno : EIO;
		if (r > 0)
			return 0;
		take(pr, f);
	}
	return ELOOP;
}

void probe_child(int fd, int out)
{
	blkid_probe pr = blkid_new_probe();
	struct found f;
	int r;

	close_others(fd, out);
	memset(&f, 0, sizeof(f));
	/* Asks the device for its size and sort, before system calls are few. */
	if (!pr || blkid_probe_set_device(pr, fd, 0, 0) < 0) {
		f.error = errno ? errno : ENOMEM;
	} else {
		r = confine();
		f.error = r < 0 ? -r : look(pr, &f);
	}
	if (write(out, &f, sizeof(f)) != sizeof(f))
		_exit(1);
	_exit(0);
}
