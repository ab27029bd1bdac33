// SPDX-License-Identifier: GPL-2.0-only
#include "keep.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "linkconf.h"
#include "log.h"
#include "sock.h"

static int ready_sock = -1;

static bool have_systemd(void)
{
	return getenv("NOTIFY_SOCKET");
}

/* A socket whose file was removed or replaced cannot be reached any more. */
static bool path_leads_to(const struct sockaddr_un *a, const char *path)
{
	struct stat st;

	return !strcmp(a->sun_path, path) && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static bool listens_at(int fd, const char *address)
{
	union {
		struct sockaddr sa;
		struct sockaddr_un un;
		struct sockaddr_storage ss;
	} a = { 0 };
	socklen_t len = sizeof(a) - 1;

	if (getsockname(fd, &a.sa, &len) < 0)
		return false;
	if (!strncmp(address, "unix:", 5))
		return a.sa.sa_family == AF_UNIX && path_leads_to(&a.un, address + 5);
	return a.sa.sa_family != AF_UNIX && linkconf_is_address(address, &a.sa);
}

int keep_take(const char *name, const char *address)
{
	int fd = listen_fd_named(name);

	if (fd < 0 || !have_systemd() || listens_at(fd, address))
		return fd;
	log_notice("the socket kept for %s is of another address: a new one is made", address);
	close(fd);
	sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
	return -1;
}

/* Storing the same one again is no second copy: systemd compares them. */
void keep_store(const char *name, int fd)
{
	char state[64];
	int r;

	if (!have_systemd())
		return;
	snprintf(state, sizeof(state), "FDSTORE=1\nFDNAME=%s", name);
	r = sd_pid_notify_with_fds(0, 0, state, &fd, 1);
	if (r < 0)
		log_warn("systemd does not keep the %s socket: %s", name, strerror(-r));
}

void keep_ready_prepare(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	size_t n = path ? strlen(path) : 0;

	if (!n || n >= sizeof(a.sun_path))
		return;
	memcpy(a.sun_path, path, n);
	if (*path == '@')
		a.sun_path[0] = '\0';
	ready_sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (ready_sock >= 0 &&
	    connect(ready_sock, (void *)&a, offsetof(struct sockaddr_un, sun_path) + n) < 0)
		log_warn("cannot reach systemd at %s: %s", path, strerror(errno));
}

void keep_ready(void)
{
	static const char ready[] = "READY=1";

	if (ready_sock < 0)
		return;
	if (send(ready_sock, ready, sizeof(ready) - 1, MSG_NOSIGNAL) < 0)
		log_warn("cannot tell systemd that we are ready: %s", strerror(errno));
	close(ready_sock);
	ready_sock = -1;
}
