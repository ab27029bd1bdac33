// SPDX-License-Identifier: GPL-2.0-only
#include "tls.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include <openssl/err.h>

const char *tls_reason(const SSL *ssl)
{
	long verified = ssl ? SSL_get_verify_result(ssl) : X509_V_OK;
	unsigned long e = ERR_peek_error();
	const char *text = e ? ERR_reason_error_string(e) : NULL;

	if (e && ERR_SYSTEM_ERROR(e))
		return strerror(ERR_GET_REASON(e));
	if (verified != X509_V_OK)
		return X509_verify_cert_error_string(verified);
	if (text)
		return text;
	return errno ? strerror(errno) : "the connection ended";
}

/* A key that others can read proves nothing. */
static bool is_private(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		complain("%s: %s", path, strerror(errno));
		return false;
	}
	if (st.st_mode & 077) {
		complain("%s can be read by others: make it 0600", path);
		return false;
	}
	return true;
}

static bool load(SSL_CTX *ctx, const char *dir, const char *who)
{
	char ca[512], cert[512], key[512];

	if (snprintf(ca, sizeof(ca), "%s/ca-cert.pem", dir) >= sizeof(ca) ||
	    snprintf(cert, sizeof(cert), "%s/%s-cert.pem", dir, who) >= sizeof(cert) ||
	    snprintf(key, sizeof(key), "%s/%s-key.pem", dir, who) >= sizeof(key)) {
		complain("the folder's name is too long");
		return false;
	}
	errno = 0;
	if (SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1) {
		complain("%s, the certificate of the authority: %s", ca, tls_reason(NULL));
		return false;
	}
	if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1) {
		complain("%s, our certificate: %s", cert, tls_reason(NULL));
		return false;
	}
	if (!is_private(key))
		return false;
	if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_check_private_key(ctx) != 1) {
		complain("%s, the key of our certificate: %s", key, tls_reason(NULL));
		return false;
	}
	return true;
}

SSL_CTX *tls_context(const char *dir, bool server)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

	if (!ctx) {
		complain("no TLS: %s", tls_reason(NULL));
		return NULL;
	}
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	if (!load(ctx, dir, server ? "server" : "client")) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

void tls_limits(int fd)
{
	const struct timeval limit = { .tv_sec = TLS_LIMIT_S };
	const int on = 1, idle = 15, interval = 5, count = 3;
	const unsigned int unanswered_ms = TLS_LIMIT_S * 1000;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof(unanswered_ms));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}
