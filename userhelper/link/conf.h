/* SPDX-License-Identifier: GPL-2.0-only */
/* The configuration of one link: links.d/NAME.conf, Documentation/processes.rst. */
#ifndef SPICEBD_LINK_CONF_H
#define SPICEBD_LINK_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CONF_PASSWORD_MAX	59	/* what libspice-server stores */

struct conf {
	char *address;
	char *password_file, *tls_cert, *tls_key, *tls_ca, *user;
	bool insecure;
	unsigned int memory_max;	/* MiB */
	mode_t socket_mode;
	unsigned int ping_interval;	/* ms */
	unsigned int ping_timeout;
	unsigned int hello_timeout;

	char password[CONF_PASSWORD_MAX + 1];	/* empty: none */
	bool is_unix, loopback;		/* of the address */
};

bool conf_name_ok(const char *name);

/**
 * conf_load() - find, read and check the configuration of a link
 *
 * Reads the password file too. Every failure is logged as one line that says
 * what to do.
 */
bool conf_load(struct conf *c, const char *name);

/**
 * conf_bind() - listen on the configured address
 * Return: descriptor, or -1 (logged)
 */
int conf_bind(const struct conf *c);

/**
 * conf_check_exposure() - whether the rules allow to listen on this socket
 *
 * By the socket's own address, which need not be the configured one when the
 * starter passed it: a password on TCP, TLS beyond loopback.
 */
bool conf_check_exposure(struct conf *c, int fd);

#endif /* SPICEBD_LINK_CONF_H */
