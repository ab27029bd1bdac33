// SPDX-License-Identifier: GPL-2.0-only
/* The address of a link: what may be listened on, and the listening socket. */
#include "linkconf.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sock.h"

const char *linkconf_is_unix(const struct linkconf *c)
{
	return strncmp(c->address, "unix:", 5) ? NULL : c->address + 5;
}

/* HOST:PORT or [v6]:PORT; false when it is neither. */
static bool split_tcp(const char *address, char *host, size_t size, char port[6])
{
	const char *colon, *h = address;
	size_t n;

	if (*h == '[') {
		const char *end = strchr(++h, ']');

		if (!end || end[1] != ':')
			return false;
		n = end - h;
		colon = end + 1;
	} else {
		colon = strchr(h, ':');
		if (!colon || strchr(colon + 1, ':'))
			return false;
		n = colon - h;
	}
	if (!n || n >= size)
		return false;
	memcpy(host, h, n);
	host[n] = '\0';
	n = strlen(++colon);
	if (!n || n > 5 || strspn(colon, "0123456789") != n)
		return false;
	strcpy(port, colon);
	return atoi(port) >= 1 && atoi(port) <= 65535;
}

static int check_unix(const char *path, char *err, size_t errlen)
{
	struct sockaddr_un a;

	if (*path != '/') {
		snprintf(err, errlen, "address: \"unix:%.64s\" is no absolute path", path);
		return -EINVAL;
	}
	if (strlen(path) >= sizeof(a.sun_path)) {
		snprintf(err, errlen, "address: the path of a unix socket has at most %zu bytes",
			 sizeof(a.sun_path) - 1);
		return -EINVAL;
	}
	return 0;
}

static int check_tls(const struct linkconf *c, char *err, size_t errlen)
{
	if (!!c->tls_cert[0] == !!c->tls_key[0] && (c->tls_cert[0] || !c->tls_ca[0]))
		return 0;
	snprintf(err, errlen, "TLS needs both tls-cert and tls-key");
	return -EINVAL;
}

int linkconf_check(const struct linkconf *c, char *err, size_t errlen)
{
	const char *path = linkconf_is_unix(c);
	char host[LINKCONF_ADDRESS_MAX + 1], port[6];
	int r;

	if (!c->address[0]) {
		snprintf(err, errlen, "%s: no address= given", c->file[0] ? c->file : c->name);
		return -EINVAL;
	}
	if (c->ping_timeout < c->ping_interval) {
		snprintf(err, errlen, "ping-timeout is shorter than ping-interval");
		return -EINVAL;
	}
	r = check_tls(c, err, errlen);
	if (r < 0)
		return r;
	if (path)
		return check_unix(path, err, errlen);
	if (!split_tcp(c->address, host, sizeof(host), port)) {
		snprintf(err, errlen,
			 "address \"%.100s\" is neither unix:/PATH nor HOST:PORT nor [IPV6]:PORT",
			 c->address);
		return -EINVAL;
	}
	if (!c->password_file[0]) {
		snprintf(err, errlen,
			 "a TCP address needs a password file: else any web page could connect");
		return -EINVAL;
	}
	return 0;
}

static bool is_loopback(const struct sockaddr *sa)
{
	const struct in6_addr *v6;

	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)sa;

		return ntohl(in->sin_addr.s_addr) >> 24 == 127;
	}
	if (sa->sa_family != AF_INET6)
		return false;
	v6 = &((const struct sockaddr_in6 *)sa)->sin6_addr;
	if (IN6_IS_ADDR_V4MAPPED(v6))
		return v6->s6_addr[12] == 127;
	return IN6_IS_ADDR_LOOPBACK(v6);
}

static int bind_tcp(const struct addrinfo *ai)
{
	int fd, one = 1, r;

	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 16) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

static int listen_tcp(const struct linkconf *c, char *err, size_t errlen)
{
	struct addrinfo hints = {
		.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
		.ai_socktype = SOCK_STREAM,
	}, *ai;
	char host[LINKCONF_ADDRESS_MAX + 1], port[6];
	int r;

	if (!split_tcp(c->address, host, sizeof(host), port))
		return -EINVAL;
	r = getaddrinfo(host, port, &hints, &ai);
	if (r) {
		snprintf(err, errlen, "address %s: %s", c->address, gai_strerror(r));
		return -EADDRNOTAVAIL;
	}
	if (!is_loopback(ai->ai_addr) && !c->tls_cert[0] && !c->insecure) {
		snprintf(err, errlen,
			 "%s is beyond loopback: needs tls-cert and tls-key, or insecure",
			 c->address);
		r = -EPERM;
	} else {
		r = bind_tcp(ai);
		if (r < 0)
			snprintf(err, errlen, "cannot listen on %s: %s", c->address, strerror(-r));
	}
	freeaddrinfo(ai);
	return r;
}

int linkconf_listen(const struct linkconf *c, char *err, size_t errlen)
{
	const char *path = linkconf_is_unix(c);
	int r;

	snprintf(err, errlen, "cannot listen on %s", c->address);
	r = linkconf_check(c, err, errlen);
	if (r < 0)
		return r;
	if (!path)
		return listen_tcp(c, err, errlen);
	r = sock_listen(path, SOCK_STREAM | SOCK_NONBLOCK, c->socket_mode);
	if (r < 0)
		snprintf(err, errlen, "cannot listen on %s: %s", path,
			 r == -EEXIST ? "a file that is no socket is there" : strerror(-r));
	return r;
}
