/* SPDX-License-Identifier: GPL-2.0-only */
/* A link's configuration as it runs: the file's values and the secret itself. */
#ifndef SPICEBD_LINK_CONF_H
#define SPICEBD_LINK_CONF_H

#include <stdbool.h>

#include "linkconf.h"
#include "password.h"

struct conf {
	struct linkconf file;
	char password[PASSWORD_MAX + 1];	/* empty: none */
};

/**
 * conf_load() - find, read and check the configuration of a link
 *
 * Reads the password file too. Every failure is logged as one line.
 */
bool conf_load(struct conf *c, const char *name);

/**
 * conf_listener() - the socket to accept clients on, passed or bound here
 * Return: descriptor (non-blocking), or -1 (logged)
 */
int conf_listener(const struct conf *c);

#endif /* SPICEBD_LINK_CONF_H */
