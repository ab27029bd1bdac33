// SPDX-License-Identifier: GPL-2.0-only
/* The sockets that clients connect to. */
#include "export.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

#define BACKLOG	128

static int listen_unix(struct server *s, char *err, size_t errlen)
{
	const char *path = s->job.path;
	int fd = sock_listen(path, SOCK_STREAM | SOCK_NONBLOCK, 0600);

	if (fd == -EEXIST) {
		snprintf(err, errlen, "Failed to bind socket to %s: what is there is no socket",
			 path);
		return fd;
	}
	if (fd < 0) {
		snprintf(err, errlen, "Failed to bind socket to %s: %s", path, strerror(-fd));
		return fd;
	}
	s->listeners[s->n_listeners++] = fd;
	s->bound = lstat(path, &s->file) == 0;
	return 0;
}

static int listen_one(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, r;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

/* An address that this machine has not is no error while there is another. */
static int listen_all(struct server *s, const struct addrinfo *list)
{
	int last = -EADDRNOTAVAIL;

	for (const struct addrinfo *a = list; a && s->n_listeners < LISTENERS_MAX;
	     a = a->ai_next) {
		int fd = listen_one(a);

		if (fd >= 0)
			s->listeners[s->n_listeners++] = fd;
		else if (fd == -EADDRNOTAVAIL || fd == -EAFNOSUPPORT)
			last = fd;
		else
			return fd;
	}
	return s->n_listeners ? 0 : last;
}

static int listen_inet(struct server *s, char *err, size_t errlen)
{
	const struct export_job *j = &s->job;
	struct addrinfo hints = {
		.ai_flags = AI_PASSIVE,
		.ai_socktype = SOCK_STREAM,
		.ai_family = j->flags & EXPORT_JOB_NO_IPV4 ? AF_INET6 :
			     j->flags & EXPORT_JOB_NO_IPV6 ? AF_INET : AF_UNSPEC,
	}, *list;
	int r = getaddrinfo(j->host[0] ? j->host : NULL, j->port, &hints, &list);

	if (r) {
		snprintf(err, errlen, "address resolution failed for %s:%s: %s", j->host, j->port,
			 gai_strerror(r));
		return -EADDRNOTAVAIL;
	}
	r = listen_all(s, list);
	freeaddrinfo(list);
	if (r < 0)
		snprintf(err, errlen, "Failed to listen on %s:%s: %s", j->host, j->port,
			 strerror(-r));
	return r;
}

int listen_open(struct server *s, char *err, size_t errlen)
{
	int r = s->job.family == EXPORT_UNIX ? listen_unix(s, err, errlen) :
		listen_inet(s, err, errlen);

	if (r < 0)
		listen_close(s);
	return r;
}

/* The file only if it is still the one that we made. */
static void remove_file(struct server *s)
{
	struct stat st;

	if (!s->bound || lstat(s->job.path, &st) < 0)
		return;
	if (S_ISSOCK(st.st_mode) && st.st_dev == s->file.st_dev && st.st_ino == s->file.st_ino) {
		if (unlink(s->job.path) < 0)
			log_warn("cannot remove %s: %s", s->job.path, strerror(errno));
	} else {
		log_warn("%s is another file now: left alone", s->job.path);
	}
}

void listen_close(struct server *s)
{
	remove_file(s);
	s->bound = false;
	for (int i = 0; i < s->n_listeners; i++)
		close(s->listeners[i]);
	s->n_listeners = 0;
}
