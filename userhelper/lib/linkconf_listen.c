// SPDX-License-Identifier: GPL-2.0-only
/* The address of a link: what may be listened on, and the listening socket. */
#include "linkconf_relay.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
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

static const char *port_name(const struct linkconf *c)
{
	return strncmp(c->address, "port:", 5) ? NULL : c->address + 5;
}

bool linkconf_is_port(const struct linkconf *c, char prefix[LINKCONF_PATH_MAX + 1])
{
	const char *name = port_name(c);

	if (!name || !prefix)
		return name;
	if (*name == '/')
		strcpy(prefix, name);
	else
		snprintf(prefix, LINKCONF_PATH_MAX + 1, LINKCONF_PORT_DIR "/%s",
			 *name ? name : LINKCONF_PORT_NAME);
	return true;
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

/* One line, with the file if the values are from one. Return: -@code. */
static int __attribute__((format(printf, 5, 6)))
refuse(const struct linkconf *c, int code, char *err, size_t errlen, const char *fmt, ...)
{
	va_list ap;
	int n = 0;

	if (c->file[0])
		n = snprintf(err, errlen, "%s: ", c->file);
	if (n >= 0 && n < errlen) {
		va_start(ap, fmt);
		vsnprintf(err + n, errlen - n, fmt, ap);
		va_end(ap);
	}
	return -code;
}

static int check_unix(const struct linkconf *c, const char *path, char *err, size_t errlen)
{
	struct sockaddr_un a;

	if (*path != '/')
		return refuse(c, EINVAL, err, errlen,
			      "address: \"unix:%.64s\" is no absolute path: begin it with /", path);
	if (strlen(path) >= sizeof(a.sun_path))
		return refuse(c, EINVAL, err, errlen,
			      "address: the path of a unix socket has at most %zu bytes: shorten it",
			      sizeof(a.sun_path) - 1);
	if (c->tls_cert[0])
		return refuse(c, EINVAL, err, errlen,
			      "TLS is for TCP addresses only: remove tls-cert, tls-key and tls-ca");
	return 0;
}

/* Who may connect, and how, is for the host to say. */
static int check_port(const struct linkconf *c, const char *name, char *err, size_t errlen)
{
	size_t n = strlen(name);

	if ((*name != '/' && strchr(name, '/')) || (n && name[n - 1] == '/'))
		return refuse(c, EINVAL, err, errlen,
			      "address: \"port:%.64s\" is neither a port's name nor an absolute path",
			      name);
	if (c->relay[0])
		return refuse(c, EINVAL, err, errlen,
			      "a relay is of the host and has a listener: give another address, or remove relay");
	if (c->password_file[0] || c->tls_cert[0])
		return refuse(c, EINVAL, err, errlen,
			      "a port has no password and no TLS, the host's Spice server has: remove them here");
	return 0;
}

static int check_tcp(const struct linkconf *c, char *err, size_t errlen)
{
	if (c->password_file[0])
		return 0;
	return refuse(c, EINVAL, err, errlen,
		      "a TCP address needs a password file, else any web page could connect: give password-file");
}

/* libspice-server does not take a certificate without its authority. */
static int check_tls(const struct linkconf *c, char *err, size_t errlen)
{
	if (!!c->tls_cert[0] == !!c->tls_key[0] && !!c->tls_cert[0] == !!c->tls_ca[0])
		return 0;
	return refuse(c, EINVAL, err, errlen, "TLS needs all of tls-cert, tls-key and tls-ca");
}

int linkconf_check(const struct linkconf *c, char *err, size_t errlen)
{
	const char *path = linkconf_is_unix(c), *relay = linkconf_relay_check(c);
	char host[LINKCONF_ADDRESS_MAX + 1], port[6];
	int r;

	if (relay)
		return refuse(c, EINVAL, err, errlen, "%s", relay);
	if (!c->address[0])
		return refuse(c, EINVAL, err, errlen,
			      "no address= given: write address=unix:/PATH or address=HOST:PORT");
	if (c->ping_timeout < c->ping_interval)
		return refuse(c, EINVAL, err, errlen,
			      "ping-timeout is shorter than ping-interval: make it longer");
	r = check_tls(c, err, errlen);
	if (r < 0)
		return r;
	if (path)
		return check_unix(c, path, err, errlen);
	if (port_name(c))
		return check_port(c, port_name(c), err, errlen);
	if (!split_tcp(c->address, host, sizeof(host), port))
		return refuse(c, EINVAL, err, errlen,
			      "address \"%.100s\" is neither unix:/PATH nor HOST:PORT nor [IPV6]:PORT nor port:NAME",
			      c->address);
	return check_tcp(c, err, errlen);
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

static int check_exposure(const struct linkconf *c, const struct sockaddr *sa, char *err,
			  size_t errlen)
{
	if (is_loopback(sa) || c->tls_cert[0] || c->insecure)
		return 0;
	return refuse(c, EPERM, err, errlen,
		      "%s: beyond loopback TLS is needed: give tls-cert, tls-key and tls-ca, or insecure",
		      c->address);
}

static int bind_tcp(const struct addrinfo *ai)
{
	int fd, one = 1, r;

	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 64) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* The first that can be had; one that is not allowed is never bound. */
static int bind_one_of(const struct linkconf *c, const struct addrinfo *ai, char *err,
		       size_t errlen)
{
	int r = -EADDRNOTAVAIL;

	for (; ai; ai = ai->ai_next) {
		if (check_exposure(c, ai->ai_addr, err, errlen) < 0)
			return -EPERM;
		r = bind_tcp(ai);
		if (r >= 0)
			return r;
	}
	return refuse(c, -r, err, errlen,
		      "cannot listen on %s: %s: choose a free port and an address of this machine",
		      c->address, strerror(-r));
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
	if (r)
		return refuse(c, EADDRNOTAVAIL, err, errlen,
			      "address %s: %s: name an address of this machine", c->address,
			      gai_strerror(r));
	r = bind_one_of(c, ai, err, errlen);
	freeaddrinfo(ai);
	return r;
}

static bool same_address(const struct sockaddr *a, const struct sockaddr *b)
{
	const struct sockaddr_in *a4 = (const void *)a, *b4 = (const void *)b;
	const struct sockaddr_in6 *a6 = (const void *)a, *b6 = (const void *)b;

	if (a->sa_family != b->sa_family)
		return false;
	if (a->sa_family == AF_INET)
		return a4->sin_port == b4->sin_port && a4->sin_addr.s_addr == b4->sin_addr.s_addr;
	return a->sa_family == AF_INET6 && a6->sin6_port == b6->sin6_port &&
	       a6->sin6_scope_id == b6->sin6_scope_id &&
	       !memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(a6->sin6_addr));
}

bool linkconf_is_address(const char *address, const struct sockaddr *sa)
{
	struct addrinfo hints = {
		.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
		.ai_socktype = SOCK_STREAM,
	}, *all, *ai;
	char host[LINKCONF_ADDRESS_MAX + 1], port[6];

	if (!split_tcp(address, host, sizeof(host), port) || getaddrinfo(host, port, &hints, &all))
		return false;
	for (ai = all; ai && !same_address(ai->ai_addr, sa); ai = ai->ai_next)
		;
	freeaddrinfo(all);
	return ai;
}

int linkconf_listen(const struct linkconf *c, char *err, size_t errlen)
{
	const char *path = linkconf_is_unix(c);
	int r;

	r = linkconf_check(c, err, errlen);
	if (r < 0)
		return r;
	if (port_name(c))
		return refuse(c, EINVAL, err, errlen, "a port is not listened on");
	if (!path)
		return listen_tcp(c, err, errlen);
	r = sock_listen(path, SOCK_STREAM | SOCK_NONBLOCK, c->socket_mode);
	if (r < 0)
		refuse(c, -r, err, errlen,
		       "cannot listen on %s: %s: remove what is there or choose another path",
		       path, r == -EEXIST ? "a file that is no socket is there" : strerror(-r));
	return r;
}

int linkconf_check_socket(const struct linkconf *c, int fd, char *err, size_t errlen)
{
	struct sockaddr_storage ss = { 0 };
	socklen_t len = sizeof(ss), optlen = sizeof(int);
	const struct sockaddr *sa = (const void *)&ss;
	int listening = 0, r;

	if (getsockname(fd, (void *)&ss, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &optlen) < 0 || !listening)
		return refuse(c, ENOTSOCK, err, errlen,
			      "the socket that was passed does not listen: check who starts this");
	if (sa->sa_family == AF_UNIX)
		return check_unix(c, "/", err, errlen);
	r = check_tcp(c, err, errlen);
	return r < 0 ? r : check_exposure(c, sa, err, errlen);
}
