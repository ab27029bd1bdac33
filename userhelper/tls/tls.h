/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd-tls: the way of a migration from one spicebdd to another over TLS, in a
 * process of its own at either end. Both show certificates of one authority.
 */
#ifndef SPICEBD_TLS_H
#define SPICEBD_TLS_H

#include <stdbool.h>

#include <openssl/ssl.h>

#define TLS_CERTIFICATES	"/etc/spicebd/migrate-tls"
#define TLS_LIMIT_S		30	/* for everything until the other spicebdd is reached */
#define TLS_ALLOW_MAX		32

/**
 * struct tls_options - the command line
 * @certificates: the folder of them
 * @allow: names, of which a host that comes has to have one; none: any
 * @ready: (connect) descriptor that is told when the way stands, or -1
 */
struct tls_options {
	const char *certificates;
	const char *allow[TLS_ALLOW_MAX];
	unsigned int nr_allow;
	int ready;
};

/* One line about what went wrong, to stderr. Return: 1, the exit status */
int complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* context.c */

/* The certificates and their authority; NULL: it was said why not. */
SSL_CTX *tls_context(const char *dir, bool server);
/* What OpenSSL says, or the system if it says nothing; till the next call. */
const char *tls_reason(const SSL *ssl);
/* Limits that a network has which does not answer. */
void tls_limits(int fd);

/* pump.c */

/* Between the two until one has ended. */
void tls_pump(SSL *ssl, int in, int out);

/* connect.c, listen.c: Return: exit status */
int tls_connect(const char *host, const char *port, const struct tls_options *o);
int tls_listen(const char *address, const struct tls_options *o);

#endif /* SPICEBD_TLS_H */
