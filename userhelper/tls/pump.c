// SPDX-License-Identifier: GPL-2.0-only
/*
 * What passes is a migration's messages, a few thousand bytes: so one direction at a
 * time, and each write waits, within the socket's limits, until all has gone.
 */
#include "tls.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

static bool write_all(int fd, const char *buf, size_t len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		buf += n;
		len -= n;
	}
	return true;
}

/* @deaf: who is at @out listens no more; what it said last is still handed on. */
static bool from_tls(SSL *ssl, int out, bool *deaf)
{
	char buf[16384];
	int n = SSL_read(ssl, buf, sizeof(buf));

	if (n <= 0)
		return SSL_get_error(ssl, n) == SSL_ERROR_WANT_READ;
	if (!*deaf)
		*deaf = !write_all(out, buf, n);
	return true;
}

static bool to_tls(SSL *ssl, int in)
{
	char buf[16384];
	ssize_t n = read(in, buf, sizeof(buf));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	/* All of it, or the connection is broken: the default of a blocking socket. */
	return n && SSL_write(ssl, buf, n) > 0;
}

void tls_pump(SSL *ssl, int in, int out)
{
	struct pollfd p[2] = {
		{ .fd = SSL_get_fd(ssl), .events = POLLIN }, { .fd = in, .events = POLLIN },
	};
	bool deaf = false;

	for (;;) {
		if (!SSL_pending(ssl) && poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if ((SSL_pending(ssl) || p[0].revents) && !from_tls(ssl, out, &deaf))
			break;
		if (p[1].revents && !to_tls(ssl, in))
			break;
		p[0].revents = p[1].revents = 0;
	}
	SSL_shutdown(ssl);
}
