// SPDX-License-Identifier: GPL-2.0-only
/*
 * The target's end: a process for each host that comes. What a stranger can reach
 * before the certificate was seen is OpenSSL's handshake, without capabilities, and
 * for a limited time.
 */
#include "tls.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/x509v3.h>

#include "caps.h"
#include "log.h"
#include "sock.h"

#define GUESTS_MAX	8
#define REAP_MS		1000

/* Of [ADDRESS:]PORT; an IPv6 address in brackets. */
static bool split(const char *text, char *host, size_t size, const char **port)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon ? colon - text : 0;

	*port = colon ? colon + 1 : text;
	if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	}
	if (len >= size || !**port || strspn(*port, "0123456789") != strlen(*port))
		return false;
	memcpy(host, text, len);
	host[len] = '\0';
	return true;
}

static int listener(const char *address)
{
	const struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV,
	};
	struct addrinfo *a;
	const int on = 1;
	const char *port;
	char host[256];
	int fd, r;

	if (!split(address, host, sizeof(host), &port)) {
		complain("\"%s\" is not [ADDRESS:]PORT", address);
		return -1;
	}
	r = getaddrinfo(*host ? host : NULL, port, &hints, &a);
	if (r) {
		complain("%s: %s", address, gai_strerror(r));
		return -1;
	}
	fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, GUESTS_MAX) < 0) {
		complain("cannot listen at %s: %s", address, strerror(errno));
		fd = -1;
	}
	freeaddrinfo(a);
	return fd;
}

static void name_of(const X509 *cert, char *out, size_t size)
{
	BIO *b = BIO_new(BIO_s_mem());
	int n = -1;

	if (b && X509_NAME_print_ex(b, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253) >= 0)
		n = BIO_read(b, out, size - 1);
	out[n < 0 ? 0 : n] = '\0';
	BIO_free(b);
}

static bool allowed(X509 *cert, const struct tls_options *o)
{
	for (unsigned int i = 0; i < o->nr_allow; i++)
		if (X509_check_host(cert, o->allow[i], 0, X509_CHECK_FLAG_NO_WILDCARDS, NULL) == 1)
			return true;
	return !o->nr_allow;
}

static int to_spicebdd(void)
{
	char path[108];

	return run_path(path, sizeof(path), "migrate.sock") ? sock_connect(path, SOCK_STREAM) :
	       -ENAMETOOLONG;
}

static int guest(SSL_CTX *ctx, int fd, const struct tls_options *o)
{
	SSL *ssl = SSL_new(ctx);
	char name[256];
	X509 *cert;
	int to;

	/* Whoever is too slow is ended by it. */
	alarm(TLS_LIMIT_S);
	tls_limits(fd);
	errno = 0;
	if (!ssl || SSL_set_fd(ssl, fd) != 1 || SSL_accept(ssl) != 1) {
		log_notice("a host was refused: %s", tls_reason(ssl));
		return 1;
	}
	cert = SSL_get0_peer_certificate(ssl);
	name_of(cert, name, sizeof(name));
	if (!allowed(cert, o)) {
		log_notice("%s was refused: not one of the names that may come", name);
		SSL_write(ssl, "!", 1);
		return 1;
	}
	to = to_spicebdd();
	if (to < 0)
		log_warn("%s came, and spicebdd is not reached: %s", name, strerror(-to));
	if (SSL_write(ssl, to < 0 ? "-" : "+", 1) != 1 || to < 0)
		return 1;
	log_info("%s has come", name);
	alarm(0);
	tls_pump(ssl, to, to);
	return 0;
}

static unsigned int reap(unsigned int guests)
{
	while (guests && waitpid(-1, NULL, WNOHANG) > 0)
		guests--;
	return guests;
}

static void take(SSL_CTX *ctx, int listening, const struct tls_options *o, unsigned int *guests)
{
	int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
	pid_t pid = -1;

	if (fd < 0) {
		/* Of descriptors there may be none for a while: not a reason to spin. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			poll(NULL, 0, REAP_MS);
		return;
	}
	if (*guests >= GUESTS_MAX) {
		log_warn("a host was refused: %d are here already", GUESTS_MAX);
		close(fd);
		return;
	}
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(listening);
		_exit(guest(ctx, fd, o));
	}
	if (pid < 0)
		log_warn("a host was refused: %s", strerror(errno));
	else
		++*guests;
	close(fd);
}

int tls_listen(const char *address, const struct tls_options *o)
{
	SSL_CTX *ctx = tls_context(o->certificates, true);
	struct pollfd p = { .events = POLLIN };
	unsigned int guests = 0;

	if (!ctx)
		return 1;
	p.fd = listener(address);
	if (p.fd < 0)
		return 1;
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	caps_drop_bounding();
	if (caps_set(0) < 0)
		return complain("cannot drop privileges: %s", strerror(errno));
	log_info("other hosts can come at %s", address);
	for (;;) {
		if (poll(&p, 1, guests ? REAP_MS : -1) < 0 && errno != EINTR)
			return complain("poll: %s", strerror(errno));
		guests = reap(guests);
		if (p.revents)
			take(ctx, p.fd, o, &guests);
		p.revents = 0;
	}
}
