// SPDX-License-Identifier: GPL-2.0-only
/*
 * A folder becomes an image once, when it is inserted, and the image is served
 * as a file. Were it made anew by each nbdkit, a restart would put other bytes
 * below a mounted file system as soon as somebody touched the folder.
 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

/* An ISO comes on stdout: xorriso refuses to open a name in /proc. */
enum { CHILD_STDOUT = 1, CHILD_IMAGE = 3, CHILD_FOLDER, CHILD_LOCK };

static const char *tmp_dir(void)
{
	const char *d = secure_getenv("SPICEBD_TMPDIR");

	return d && *d ? d : "/var/tmp";
}

static bool installed(const char *program)
{
	const char *path = getenv("PATH");
	char file[512];

	if (!path || !*path)
		path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
	while (*path) {
		int n = strcspn(path, ":");

		if (snprintf(file, sizeof(file), "%.*s/%s", n, path, program) < sizeof(file) &&
		    access(file, X_OK) == 0)
			return true;
		path += n + (path[n] == ':');
	}
	return false;
}

/*
 * Symbolic links are recorded as such (Rock Ridge), never followed: the folder
 * shares what is in it.
 */
static int iso_argv(const struct server *s, char **argv, struct nbdkit_answer *a)
{
	const char *label = s->job.label[0] ? s->job.label : "SPICEBD";
	int n = 0;

	if (installed("xorrisofs")) {		/* files beyond 4 GiB */
		argv[n++] = "xorrisofs";
	} else if (installed("genisoimage")) {
		argv[n++] = "genisoimage";
	} else {
		answer_error(a, ENOENT, "a folder is served as an image; install xorriso");
		return -ENOENT;
	}
	argv[n++] = "-quiet";
	argv[n++] = "-r";
	argv[n++] = "-J";
	argv[n++] = "-joliet-long";
	argv[n++] = "-iso-level";
	argv[n++] = "3";
	argv[n++] = "-V";
	argv[n++] = (char *)label;
	argv[n++] = ".";
	argv[n] = NULL;
	return 0;
}

/* The floppy plugin makes the layout; it is copied out, holes kept. */
static int fat_argv(const struct server *s, char **argv, char *label, size_t size,
		    struct nbdkit_answer *a)
{
	int n = 0;

	if (!installed("nbdkit") || !installed("nbdcopy")) {
		answer_error(a, ENOENT,
			     "a folder as a disk needs nbdcopy: install nbdkit and libnbd-bin");
		return -ENOENT;
	}
	snprintf(label, size, "label=%.11s", s->job.label[0] ? s->job.label : "SPICEBD");
	argv[n++] = "nbdkit";
	argv[n++] = "-f";
	argv[n++] = "-r";
	argv[n++] = "-U";
	argv[n++] = "-";
	argv[n++] = "floppy";
	argv[n++] = "dir=/proc/self/fd/4";
	argv[n++] = label;
	argv[n++] = "--run";
	argv[n++] = "exec nbdcopy \"$uri\" /proc/self/fd/3";
	argv[n] = NULL;
	return 0;
}

/* A file without a name; not every file system (an overlay) can make one so. */
static int nameless_file(void)
{
	char path[PATH_MAX];
	int fd;

	fd = open(tmp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd < 0 ? -errno : fd;
	if (snprintf(path, sizeof(path), "%s/spicebd-XXXXXX", tmp_dir()) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

int image_start(struct server *s, struct nbdkit_answer *a)
{
	char *argv[24], label[32];
	int r, fd;

	r = s->job.mode == NBDKIT_FOLDER_ISO ? iso_argv(s, argv, a) :
	    fat_argv(s, argv, label, sizeof(label), a);
	if (r < 0)
		return r;
	fd = nameless_file();
	if (fd < 0) {
		r = fd;
		answer_error(a, -r, "cannot make an image in %s: %s", tmp_dir(), strerror(-r));
		return r;
	}
	s->image_fd = fcntl(fd, F_DUPFD_CLOEXEC, 10);
	close(fd);
	if (s->image_fd >= 0) {
		const struct childproc_fd fds[] = {
			{ s->image_fd, CHILD_IMAGE },
			{ s->medium_fd, CHILD_FOLDER },
			{ s->lock_fd, CHILD_LOCK },
			{ s->image_fd, CHILD_STDOUT },
		};

		s->pid = childproc_spawn(argv, fds, s->job.mode == NBDKIT_FOLDER_ISO ? 4 : 3,
			       s->medium_fd, false, &s->err);
	}
	if (s->image_fd < 0 || s->pid < 0) {
		answer_error(a, ENOMEM, "cannot start %s", argv[0]);
		return -ENOMEM;
	}
	return 0;
}

void image_finish(struct server *s)
{
	close(s->medium_fd);
	s->medium_fd = s->image_fd;
	s->image_fd = -1;
	s->job.flags |= NBDKIT_JOB_READ_ONLY;
	log_debug("image of the folder: %lld bytes", (long long)lseek(s->medium_fd, 0, SEEK_END));
}
