// SPDX-License-Identifier: GPL-2.0-only
/*
 * SOURCE of "insert". Local paths are opened here, with the rights of whoever
 * typed the command; spicebdd gets the descriptor, and opens no path itself.
 */
#include "ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "disc.h"

#define ADD_FD_MS	5000

static const char * const schemes[] = { "spice:", "nbd://", "nbds://", "nbd+unix://" };

static bool is_uri(const char *text)
{
	for (size_t i = 0; i < G_N_ELEMENTS(schemes); i++)
		if (!strncmp(text, schemes[i], strlen(schemes[i])))
			return true;
	return false;
}

/* Not through the path again, where something else may be by now. */
static int reopen(int path_fd, int flags)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* One of our own drives as its own medium would wait for itself. */
static bool is_our_drive(const struct stat *st)
{
	char path[64], real[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(st->st_rdev),
		 minor(st->st_rdev));
	return realpath(path, real) && strstr(real, "/block/spicebd");
}

static int open_write(int path_fd, const struct stat *st)
{
	/* A block device that somebody has mounted is not to be written behind his back. */
	return reopen(path_fd, O_RDWR | (S_ISBLK(st->st_mode) ? O_EXCL : 0));
}

static bool give_way(int err)
{
	return err == -EACCES || err == -EROFS || err == -EPERM || err == -ETXTBSY || err == -EBUSY;
}

static void set_not_writable(const char *text, int err, struct fault *f)
{
	fault_set(f, EXIT_REFUSED, "%s cannot be written: %s; insert it --read-only", text,
		  err == -EBUSY ? "it is in use, mounted for example" : strerror(-err));
}

/* Root may write a file that its owner made read-only; "auto" does not. */
static int open_file(int path_fd, const struct stat *st, bool cdrom, const char *mode,
		     const char *text, struct fault *f)
{
	int fd, w;

	fd = reopen(path_fd, O_RDONLY);
	if (fd < 0) {
		fault_set(f, EXIT_REFUSED, "cannot read %s: %s", text, strerror(-fd));
		return fd;
	}
	if (!strcmp(mode, "read-only") ||
	    (!strcmp(mode, "auto") && (cdrom || !(st->st_mode & 0222) || disc_on_fd(fd))))
		return fd;
	w = open_write(path_fd, st);
	if (w < 0 && !strcmp(mode, "auto") && give_way(w))
		return fd;
	close(fd);
	if (w < 0)
		set_not_writable(text, w, f);
	return w;
}

static int open_folder(int path_fd, const char *mode, const char *text, struct fault *f)
{
	int fd;

	if (!strcmp(mode, "read-write")) {
		fault_set(f, EXIT_REFUSED,
			  "%s is a folder and read-only as a medium; leave out --read-write",
			  text);
		return -EISDIR;
	}
	fd = reopen(path_fd, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		fault_set(f, EXIT_REFUSED, "cannot read %s: %s", text, strerror(-fd));
	return fd;
}

static int open_checked(int path_fd, const char *text, bool cdrom, const char *mode,
			struct fault *f)
{
	struct stat st;

	if (fstat(path_fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return open_folder(path_fd, mode, text, f);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		fault_set(f, EXIT_REFUSED, "%s is not a file, a folder or a block device", text);
		return -EINVAL;
	}
	if (S_ISBLK(st.st_mode) && is_our_drive(&st)) {
		fault_set(f, EXIT_REFUSED, "%s is a drive of spicebd and cannot be a medium", text);
		return -ELOOP;
	}
	return open_file(path_fd, &st, cdrom, mode, text, f);
}

static int open_local(const char *text, bool cdrom, const char *mode, struct source *s,
		      struct fault *f)
{
	int path_fd = open(text, O_PATH | O_CLOEXEC);

	if (path_fd < 0) {
		int r = -errno;

		if (r == -ENOENT && strstr(text, "://"))
			fault_set(f, EXIT_REFUSED,
				  "%s: unknown source; spice:, nbd:, nbds:, nbd+unix: or a path",
				  clean(text));
		else
			fault_set(f, EXIT_REFUSED, "%s: %s", clean(text),
				  r == -ENOENT ? "no such file or folder" : strerror(-r));
		return r;
	}
	if (!realpath(text, s->filename))
		snprintf(s->filename, sizeof(s->filename), "%s", text);
	s->fd = open_checked(path_fd, clean(text), cdrom, mode, f);
	close(path_fd);
	return s->fd < 0 ? s->fd : 0;
}

int source_open(const char *text, bool cdrom, const char *mode, struct source *s, struct fault *f)
{
	s->fd = -1;
	s->uri[0] = s->filename[0] = '\0';
	if (!is_uri(text))
		return open_local(text, cdrom, mode, s, f);
	if (strlen(text) >= sizeof(s->uri)) {
		fault_set(f, EXIT_USAGE, "the source is longer than %zu bytes", sizeof(s->uri) - 1);
		return -ENAMETOOLONG;
	}
	strcpy(s->uri, text);
	return 0;
}

bool source_hand_over(struct qmp *q, struct source *s, struct fault *f)
{
	g_autoptr(JsonNode) r = NULL;
	int64_t set;

	if (s->fd < 0)
		return true;
	r = qmp_call(q, "add-fd", NULL, s->fd, ADD_FD_MS, f);
	if (!r)
		return false;
	set = JSON_NODE_HOLDS_OBJECT(r) ? json_int(json_node_get_object(r), "fdset-id", -1) : -1;
	if (set < 0) {
		fault_set(f, EXIT_REFUSED, "spicebdd took the file but did not say where it is");
		return false;
	}
	snprintf(s->uri, sizeof(s->uri), "/dev/fdset/%lld", (long long)set);
	return true;
}
