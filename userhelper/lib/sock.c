// SPDX-License-Identifier: GPL-2.0-only
#include "sock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

const char *run_dir(void)
{
	const char *d = secure_getenv("SPICEBD_RUN_DIR");

	return d && *d ? d : "/run/spicebd";
}

char *run_path(char *buf, size_t size, const char *fmt, ...)
{
	va_list ap;
	int n, m;

	n = snprintf(buf, size, "%s/", run_dir());
	if (n < 0 || n >= size) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	va_start(ap, fmt);
	m = vsnprintf(buf + n, size - n, fmt, ap);
	va_end(ap);
	if (m < 0 || m >= size - n) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	return buf;
}

static int sock_addr(struct sockaddr_un *a, const char *path)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(a->sun_path))
		return -ENAMETOOLONG;
	strcpy(a->sun_path, path);
	return 0;
}

static int remove_dead(const char *path, int type)
{
	struct stat st;
	int fd;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = sock_connect(path, (type & ~SOCK_NONBLOCK) | SOCK_NONBLOCK);
	if (fd >= 0 || fd == -EAGAIN) {
		if (fd >= 0)
			close(fd);
		return -EADDRINUSE;
	}
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int sock_remove_dead(const char *path)
{
	return remove_dead(path, SOCK_STREAM);
}

int sock_listen(const char *path, int type, mode_t mode)
{
	struct sockaddr_un a;
	mode_t old;
	int fd, r;

	r = sock_addr(&a, path);
	if (!r)
		r = remove_dead(path, type);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* Nobody connects before listen(), so the mode is in force in time. */
	old = umask(0177);
	r = bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
	umask(old);
	if (!r && chmod(path, mode) < 0)
		r = -errno;
	if (!r && listen(fd, 64) < 0)
		r = -errno;
	if (r) {
		close(fd);
		return r;
	}
	return fd;
}

int sock_connect(const char *path, int type)
{
	struct sockaddr_un a;
	int fd, r;

	r = sock_addr(&a, path);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	do {
		r = connect(fd, (struct sockaddr *)&a, sizeof(a));
	} while (r < 0 && errno == EINTR);
	if (r < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* Room for as many as are ever looked for, so that a surplus is seen and closed. */
union fd_room {
	struct cmsghdr h;
	char b[CMSG_SPACE(sizeof(int) * SOCK_FDS_MAX)];
};

ssize_t sock_send_fds(int sock, const void *data, size_t len, const int *fd, unsigned int nr)
{
	union fd_room c;
	struct iovec iov = { .iov_base = (void *)data, .iov_len = len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (nr > SOCK_FDS_MAX)
		return -EINVAL;
	if (nr) {
		memset(&c, 0, sizeof(c));
		m.msg_control = c.b;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nr);
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int) * nr);
		memcpy(CMSG_DATA(&c.h), fd, sizeof(int) * nr);
	}
	do {
		n = sendmsg(sock, &m, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t sock_send_fd(int sock, const void *data, size_t len, int fd)
{
	return sock_send_fds(sock, data, len, &fd, fd >= 0);
}

ssize_t sock_recv_fds(int sock, void *data, size_t len, int *fd, unsigned int max,
		      unsigned int *nr)
{
	union fd_room c;
	struct iovec iov = { .iov_base = data, .iov_len = len };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = c.b, .msg_controllen = sizeof(c.b),
	};
	int got[SOCK_FDS_MAX];
	unsigned int n_got = 0;
	ssize_t n;

	*nr = 0;
	do {
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		size_t k;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		k = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < k && n_got < SOCK_FDS_MAX; i++)
			memcpy(&got[n_got++], CMSG_DATA(h) + i * sizeof(int), sizeof(int));
	}
	if (n_got <= max && !(m.msg_flags & (MSG_CTRUNC | MSG_TRUNC))) {
		memcpy(fd, got, n_got * sizeof(int));
		*nr = n_got;
		return n;
	}
	for (unsigned int i = 0; i < n_got; i++)
		close(got[i]);
	return m.msg_flags & MSG_TRUNC ? -EMSGSIZE : -EPROTO;
}

ssize_t sock_recv_fd(int sock, void *data, size_t len, int *fd)
{
	unsigned int nr;
	ssize_t n = sock_recv_fds(sock, data, len, fd, 1, &nr);

	if (!nr)
		*fd = -1;
	return n;
}

int listen_fd_named(const char *name)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	const char *names = getenv("LISTEN_FDNAMES");
	int n, fd = 3;

	if (!pid || !fds || !names || atoi(pid) != getpid())
		return -1;
	n = atoi(fds);
	for (const char *p = names; fd < 3 + n; fd++) {
		size_t len = strcspn(p, ":");

		if (len == strlen(name) && !memcmp(p, name, len)) {
			fcntl(fd, F_SETFD, FD_CLOEXEC);
			return fd;
		}
		if (!p[len])
			break;
		p += len + 1;
	}
	return -1;
}

void random_bytes(void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = getrandom(p, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			abort();
		p += n;
		len -= n;
	}
}

long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}
