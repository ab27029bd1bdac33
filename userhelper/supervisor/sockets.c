// SPDX-License-Identifier: GPL-2.0-only
/* The run directory and the sockets that live as long as we do. */
#include "sup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "sock.h"

static int make_dir(const char *path, mode_t mode)
{
	struct stat st;

	if (mkdir(path, mode) == 0)
		return chmod(path, mode) < 0 ? -errno : 0;
	if (errno != EEXIST)
		return -errno;
	if (lstat(path, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	/* Whoever else may write there could put a socket of his in place of ours. */
	return st.st_uid != geteuid() || st.st_mode & 022 ? -EPERM : 0;
}

int sockets_dirs(char *err, size_t errlen)
{
	static const struct {
		const char *name;
		mode_t mode;
	} dirs[] = { { "nbdkit", 0700 }, { "export", 0700 }, { "link", 0700 }, { "links.d", 0755 } };
	char path[108];
	int r;

	snprintf(path, sizeof(path), "%s", run_dir());
	r = make_dir(path, 0755);
	for (size_t i = 0; !r && i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		if (!run_path(path, sizeof(path), "%s", dirs[i].name))
			r = -errno;
		else
			r = make_dir(path, dirs[i].mode);
	}
	if (r == -EPERM)
		snprintf(err, errlen, "%s: others than its user may write there", path);
	else if (r < 0)
		snprintf(err, errlen, "cannot make %s: %s", path, strerror(-r));
	return r;
}

int sockets_lock(void)
{
	char path[108];
	int fd;

	if (!run_path(path, sizeof(path), "supervisor.lock"))
		return -errno;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int r = errno == EWOULDBLOCK ? -EBUSY : -errno;

		close(fd);
		return r;
	}
	return fd;
}

static int bind_one(int *fd, const char *name, int type, mode_t mode, char *err, size_t errlen)
{
	char path[108];

	if (!run_path(path, sizeof(path), "%s", name)) {
		snprintf(err, errlen, "%s/%s: the path is too long for a socket", run_dir(), name);
		return -ENAMETOOLONG;
	}
	*fd = sock_listen(path, type | SOCK_NONBLOCK, mode);
	if (*fd >= 0)
		return 0;
	if (*fd == -EADDRINUSE)
		snprintf(err, errlen, "%s is in use: spicebdd runs already, started by systemd?",
			 path);
	else
		snprintf(err, errlen, "cannot listen on %s: %s", path, strerror(-*fd));
	return *fd;
}

int sockets_bind(struct sup *s, char *err, size_t errlen)
{
	struct proc *d = proc_new(s, K_DAEMON, "");
	int r;

	d->fdnames = "control:status";
	d->keep = true;
	r = bind_one(&d->fds[0], "control.sock", SOCK_STREAM, 0600, err, errlen);
	if (!r)
		r = bind_one(&d->fds[1], "status.sock", SOCK_STREAM, 0666, err, errlen);
	if (!r)
		r = bind_one(&s->nbdkit_fd, "nbdkit.sock", SOCK_SEQPACKET, 0600, err, errlen);
	if (!r)
		r = bind_one(&s->export_fd, "export.sock", SOCK_SEQPACKET, 0600, err, errlen);
	if (!r)
		r = bind_one(&s->request_fd, "supervisor.sock", SOCK_SEQPACKET, 0600, err, errlen);
	return r;
}

/* Close a listening socket and take its name out of the file system. */
void socket_remove(int fd)
{
	struct sockaddr_un a = { 0 };
	socklen_t len = sizeof(a) - 1;	/* so that the path ends */

	if (fd < 0)
		return;
	if (getsockname(fd, (struct sockaddr *)&a, &len) == 0 && a.sun_family == AF_UNIX &&
	    a.sun_path[0] == '/')
		unlink(a.sun_path);
	close(fd);
}
