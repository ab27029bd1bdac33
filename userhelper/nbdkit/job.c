// SPDX-License-Identifier: GPL-2.0-only
/* The job: what came over the socket, checked before anything is done with it. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sock.h"

void answer_error(struct nbdkit_answer *a, int error, const char *fmt, ...)
{
	va_list ap;

	memset(a, 0, sizeof(*a));
	a->magic = NBDKIT_PROTO_MAGIC;
	a->error = error;
	va_start(ap, fmt);
	vsnprintf(a->text, sizeof(a->text), fmt, ap);
	va_end(ap);
}

/* Labels and ids reach command lines and file names. */
static bool job_ok(struct nbdkit_job *job)
{
	static const char plain[] = "0123456789_-. ";

	if (job->magic != NBDKIT_PROTO_MAGIC || job->flags & ~NBDKIT_JOB_READ_ONLY)
		return false;
	if (job->mode < NBDKIT_FILE || job->mode > NBDKIT_FOLDER_FAT)
		return false;
	if (job->threads > 64 || job->id[NBDKIT_ID_LEN] ||
	    !memchr(job->label, 0, sizeof(job->label)))
		return false;
	if (strspn(job->id, "0123456789abcdef") != NBDKIT_ID_LEN)
		return false;
	for (char *p = job->label; *p; p++)
		if (!(*p >= 'a' && *p <= 'z') && !(*p >= 'A' && *p <= 'Z') && !strchr(plain, *p))
			*p = '_';
	if (job->label[0] == '-')
		job->label[0] = '_';
	return true;
}

int job_receive(int sock, struct nbdkit_job *job, int *medium_fd, struct nbdkit_answer *a)
{
	struct pollfd p = { .fd = sock, .events = POLLIN };
	ssize_t n;

	*medium_fd = -1;
	if (poll(&p, 1, JOB_TIMEOUT_MS) <= 0) {
		answer_error(a, ETIMEDOUT, "no job came");
		return -ETIMEDOUT;
	}
	n = sock_recv_fd(sock, job, sizeof(*job), medium_fd);
	if (n != sizeof(*job) || *medium_fd < 0 || !job_ok(job)) {
		answer_error(a, EPROTO, "malformed job; is spicebdd of the same version?");
		return n == 0 ? -EPIPE : -EPROTO;
	}
	return 0;
}

static int check_folder(int fd, const struct stat *st, struct nbdkit_answer *a)
{
	if (!S_ISDIR(st->st_mode)) {
		answer_error(a, ENOTDIR, "not a folder");
		return -ENOTDIR;
	}
	return 0;
}

/*
 * nbdkit opens the very descriptor again by its name in /proc for each of its
 * connections; do the same first, where the reason can be told.
 */
static int check_file(const struct nbdkit_job *job, int fd, const struct stat *st,
		      struct nbdkit_answer *a)
{
	bool ro = job->flags & NBDKIT_JOB_READ_ONLY;
	char path[32];
	int r;

	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode)) {
		answer_error(a, EINVAL, "neither a regular file nor a block device");
		return -EINVAL;
	}
	if (!ro && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR) {
		answer_error(a, EROFS, "it was opened read-only; ask for it --read-only");
		return -EROFS;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = open(path, (ro ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	if (r < 0) {
		r = -errno;
		answer_error(a, -r, "cannot open it: %s", strerror(-r));
		return r;
	}
	close(r);
	return 0;
}

int job_check_medium(const struct nbdkit_job *job, int fd, struct nbdkit_answer *a)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0) {
		r = -errno;
		answer_error(a, -r, "cannot look at it: %s", strerror(-r));
		return r;
	}
	if (job->mode == NBDKIT_FILE)
		return check_file(job, fd, &st, a);
	return check_folder(fd, &st, a);
}
