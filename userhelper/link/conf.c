// SPDX-License-Identifier: GPL-2.0-only
#include "conf.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "keep.h"
#include "log.h"

#define ERR_MAX	1400	/* a path and what is wrong with it */

bool conf_load(struct conf *c, const char *name)
{
	char err[ERR_MAX];

	c->password[0] = '\0';
	if (linkconf_load(name, &c->file, err, sizeof(err)) == 0 &&
	    (!c->file.password_file[0] ||
	     password_read(c->file.password_file, c->password, err, sizeof(err)) == 0))
		return true;
	log_err("%s", err);
	return false;
}

int conf_listener(const struct conf *c)
{
	int fd = keep_take("spice", c->file.address);
	char err[ERR_MAX];

	if (fd < 0)
		fd = linkconf_listen(&c->file, err, sizeof(err));
	if (fd < 0 || linkconf_check_socket(&c->file, fd, err, sizeof(err)) < 0) {
		log_err("%s", err);
		return -1;
	}
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
		log_err("cannot use the listening socket: %s", strerror(errno));
		return -1;
	}
	return fd;
}
