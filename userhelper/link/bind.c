// SPDX-License-Identifier: GPL-2.0-only
/* Where a link listens, and whether it may. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conf.h"
#include "log.h"
#include "sock.h"

/* HOST:PORT or [v6]:PORT into two strings inside buf. */
static bool split_address(char *buf, char **host, char **port)
{
	char *colon = strrchr(buf, ':'), *end;

	if (!colon)
		return false;
	*colon = '\0';
	*port = colon + 1;
	*host = buf;
	if (*buf == '[') {
		end = strchr(buf, ']');
		if (!end || end[1])
			return false;
		*end = '\0';
		*host = buf + 1;
	} else if (strchr(buf, ':')) {
		return false;
	}
	return **host && **port;
}

static int bind_one(const struct addrinfo *ai)
{
	int fd, one = 1, err;

	fd = socket(ai->ai_family, ai->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, ai->ai_protocol);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, 64) == 0)
		return fd;
	err = errno;
	close(fd);
	errno = err;
	return -1;
}

static int bind_tcp(const struct conf *c)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *res, *ai;
	char *copy = strdup(c->address), *host, *port;
	int fd = -1, r;

	if (!copy || !split_address(copy, &host, &port)) {
		log_err("address=%s: write HOST:PORT, [v6]:PORT or unix:/PATH", c->address);
		free(copy);
		return -1;
	}
	r = getaddrinfo(host, port, &hints, &res);
	if (r) {
		log_err("address=%s: %s: write a host and port of this machine", c->address,
			gai_strerror(r));
		free(copy);
		return -1;
	}
	for (ai = res; ai && fd < 0; ai = ai->ai_next)
		fd = bind_one(ai);
	if (fd < 0)
		log_err("cannot listen on %s: %s: choose a free port of this machine", c->address,
			strerror(errno));
	freeaddrinfo(res);
	free(copy);
	return fd;
}

int conf_bind(const struct conf *c)
{
	int fd;

	if (!c->is_unix)
		return bind_tcp(c);
	fd = sock_listen(c->address + 5, SOCK_STREAM | SOCK_NONBLOCK, c->socket_mode);
	if (fd < 0) {
		log_err("cannot listen on %s: %s: remove what is there or choose another path",
			c->address, strerror(-fd));
		return -1;
	}
	return fd;
}

static bool is_loopback(const struct sockaddr_storage *ss)
{
	const struct sockaddr_in *in = (const void *)ss;
	const struct sockaddr_in6 *in6 = (const void *)ss;

	if (ss->ss_family == AF_INET)
		return ntohl(in->sin_addr.s_addr) >> 24 == 127;
	if (ss->ss_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
	return false;
}

bool conf_check_exposure(struct conf *c, int fd)
{
	struct sockaddr_storage ss = { 0 };
	socklen_t len = sizeof(ss);
	int listening = 0;
	socklen_t optlen = sizeof(listening);

	if (getsockname(fd, (void *)&ss, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &optlen) < 0 || !listening) {
		log_err("the socket passed as \"spice\" is not a listening socket: check the unit");
		return false;
	}
	c->is_unix = ss.ss_family == AF_UNIX;
	c->loopback = is_loopback(&ss);
	if (c->is_unix) {
		if (!c->tls_cert)
			return true;
		log_err("address=%s: TLS is for TCP addresses only: remove tls-cert=, tls-key=, tls-ca=",
			c->address);
		return false;
	}
	if (!*c->password) {
		log_err("address=%s: a TCP address needs a password: write password-file=FILE",
			c->address);
		return false;
	}
	if (!c->loopback && !c->tls_cert && !c->insecure) {
		log_err("address=%s: beyond loopback TLS is needed: write tls-cert=, tls-key=, tls-ca=, or insecure=yes",
			c->address);
		return false;
	}
	return true;
}
