// SPDX-License-Identifier: GPL-2.0-only
/*
 * The source's end. The server has to have a certificate of our authority and of the
 * name that we were given. It says one byte, '+' when its spicebdd is reached: only then
 * is it known, too, that our certificate was taken.
 */
#include "tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/x509v3.h>

static void too_late(int sig)
{
	static const char text[] = "spicebd-tls: the other host does not answer\n";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(1);
	_exit(1);
}

static int reach(const char *host, const char *port)
{
	const struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG,
	};
	struct addrinfo *list;
	int r = getaddrinfo(host, port, &hints, &list), fd = -1, error = 0;

	if (r) {
		complain("%s: %s", host, gai_strerror(r));
		return -1;
	}
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0) {
			error = errno;
			continue;
		}
		tls_limits(fd);
		if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
			break;
		error = errno;
		close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	if (fd < 0)
		complain("cannot reach %s, port %s: %s; does spicebd-tls listen there?", host, port,
			 strerror(error));
	return fd;
}

static bool expect_name(SSL *ssl, const char *host)
{
	struct in6_addr a;

	if (inet_pton(AF_INET, host, &a) == 1 || inet_pton(AF_INET6, host, &a) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

static bool greeted(SSL *ssl, const char *host)
{
	char c;

	errno = 0;
	if (SSL_connect(ssl) != 1) {
		complain("%s: not the host that it should be, or no TLS: %s", host,
			 tls_reason(ssl));
		return false;
	}
	if (SSL_read(ssl, &c, 1) != 1) {
		complain("%s refuses us: %s", host, tls_reason(ssl));
		return false;
	}
	if (c == '!')
		complain("%s refuses us: our certificate's name is none of those that may come", host);
	else if (c != '+')
		complain("%s: spicebdd is not reached there; is it running?", host);
	return c == '+';
}

int tls_connect(const char *host, const char *port, const struct tls_options *o)
{
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;

	signal(SIGALRM, too_late);
	alarm(TLS_LIMIT_S);
	ctx = tls_context(o->certificates, false);
	fd = ctx ? reach(host, port) : -1;
	if (fd < 0)
		return 1;
	ssl = SSL_new(ctx);
	if (!ssl || !expect_name(ssl, host) || SSL_set_fd(ssl, fd) != 1)
		return complain("no TLS: %s", tls_reason(NULL));
	if (!greeted(ssl, host))
		return 1;
	alarm(0);
	if (o->ready >= 0 && (write(o->ready, "", 1) != 1 || close(o->ready) < 0))
		return complain("nobody waits for this connection");
	tls_pump(ssl, STDIN_FILENO, STDOUT_FILENO);
	return 0;
}
