// SPDX-License-Identifier: GPL-2.0-only
/* Sockets for a QEMU that connects: bound while we have the rights to. */
#include "relay.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "opener.h"
#include "relay_guest.h"
#include "sock.h"

static int listeners[OPENER_NUMBERS];	/* descriptor + 1 */

int guests_listener(uint32_t number)
{
	return listeners[number] - 1;
}

/* The one user besides root that may connect: whoever runs QEMU. */
static bool user_of(const struct linkconf *c, uid_t *uid)
{
	struct passwd *pw;

	*uid = -1;
	if (!c->relay_user[0])
		return true;
	pw = getpwnam(c->relay_user);
	if (pw)
		*uid = pw->pw_uid;
	else
		log_err("relay-user=%s: no such user: name the one that QEMU runs as",
			c->relay_user);
	return pw;
}

static int bind_one(const char *path, uid_t uid)
{
	int fd = sock_listen(path, SOCK_STREAM | SOCK_NONBLOCK, 0600);

	if (fd < 0) {
		log_err("cannot listen on %s: %s: remove what is there or choose another path",
			path, strerror(-fd));
		return -1;
	}
	/* Nobody has connected yet who could have put something in its place. */
	if (uid == (uid_t)-1 || lchown(path, uid, -1) == 0)
		return fd;
	log_err("cannot give %s to the user of relay-user=: %s", path, strerror(errno));
	unlink(path);
	close(fd);
	return -1;
}

bool relay_bind(const struct linkconf *c)
{
	char path[LINKCONF_PATH_MAX + 16];
	const char *prefix;
	uid_t uid;

	if (!linkconf_relay_listens(c, &prefix))
		return true;
	if (!user_of(c, &uid))
		return false;
	for (uint32_t i = 0; i < OPENER_NUMBERS; i++) {
		if (!linkconf_relays_port(c, i))
			continue;
		snprintf(path, sizeof(path), "%s.%u", prefix, i);
		listeners[i] = bind_one(path, uid) + 1;
		if (!listeners[i])
			return false;
	}
	return true;
}
