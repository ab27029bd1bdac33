// SPDX-License-Identifier: GPL-2.0-only
/*
 * The opener's own process. It takes numbers and gives descriptors, and knows
 * nothing else; it lives as long as the link does.
 */
#include "opener.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linkconf.h"
#include "log.h"
#include "sandbox.h"
#include "sock.h"

#define RETRY_MIN	100	/* ms; when something else than absence is in the way */
#define RETRY_MAX	5000

struct wish {
	uint32_t number, tag;
};

static struct {
	const char *prefix;
	char dir[LINKCONF_PATH_MAX + 1], above[LINKCONF_PATH_MAX + 1];
	int sock, notify;
	uint32_t wanted[OPENER_NUMBERS];	/* tag; 0: not wanted */
	int told[OPENER_NUMBERS];	/* errno that the link was told of */
	int retry;			/* ms; 0: only an event helps */
} me;

/* ---- one port ---- */

static int try_path(const char *path, bool *is_socket)
{
	struct stat st;
	int fd;

	if (stat(path, &st) < 0)
		return -errno;
	*is_socket = S_ISSOCK(st.st_mode);
	if (*is_socket)
		return sock_connect(path, SOCK_STREAM | SOCK_NONBLOCK);
	if (!S_ISCHR(st.st_mode))
		return -ENOTTY;
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

/* Returns false when the link does not listen any more. */
static bool answer(const struct opener_answer *a, int fd)
{
	return sock_send_fd(me.sock, a, sizeof(*a), fd) == sizeof(*a);
}

static bool try_one(uint32_t number)
{
	struct opener_answer a = { .number = number, .tag = me.wanted[number] };
	char path[LINKCONF_PATH_MAX + 16];
	bool is_socket = false, alive;
	int fd;

	snprintf(path, sizeof(path), "%s.%u", me.prefix, number);
	fd = try_path(path, &is_socket);
	if (fd >= 0) {
		me.wanted[number] = 0;
		me.told[number] = 0;
		a.is_socket = is_socket;
		alive = answer(&a, fd);
		close(fd);
		return alive;
	}
	/* It is there and cannot be had: no event will tell when it can. */
	if (fd != -ENOENT && !me.retry)
		me.retry = RETRY_MIN;
	if (-fd == me.told[number])
		return true;
	me.told[number] = -fd;
	a.error = -fd;
	return answer(&a, -1);
}

static bool try_all(void)
{
	uint32_t i;

	for (i = 0; i < OPENER_NUMBERS; i++)
		if (me.wanted[i] && !try_one(i))
			return false;
	return true;
}

static bool any_stuck(void)
{
	uint32_t i;

	for (i = 0; i < OPENER_NUMBERS; i++)
		if (me.wanted[i] && me.told[i] && me.told[i] != ENOENT)
			return true;
	return false;
}

/* ---- waiting ---- */

/* The ports' directory goes with the last port; then the one above tells. */
static void watch(void)
{
	uint32_t mask = IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | IN_ONLYDIR;

	if (inotify_add_watch(me.notify, me.dir, mask) < 0)
		inotify_add_watch(me.notify, me.above, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR |
				  IN_ONESHOT);
}

static void drain(void)
{
	char buf[4096] __attribute__((aligned(8)));

	while (read(me.notify, buf, sizeof(buf)) > 0)
		;
	watch();
}

static bool take_wish(void)
{
	struct wish w;
	ssize_t n;
	int fd;

	n = sock_recv_fd(me.sock, &w, sizeof(w), &fd);
	if (fd >= 0)
		close(fd);
	if (n != sizeof(w) || w.number >= OPENER_NUMBERS)
		return false;
	me.wanted[w.number] = w.tag;
	me.told[w.number] = 0;
	return !w.tag || try_one(w.number);
}

static void serve(void)
{
	struct pollfd p[2] = {
		{ .fd = me.sock, .events = POLLIN }, { .fd = me.notify, .events = POLLIN },
	};
	int n;

	watch();
	for (;;) {
		n = poll(p, 2, me.retry ? me.retry : -1);
		if (n < 0 && errno != EINTR)
			return;
		if (n > 0 && p[0].revents && !take_wish())
			return;
		if (n > 0 && p[1].revents)
			drain();
		if (n == 0 || (n > 0 && p[1].revents)) {
			if (!try_all())
				return;
		}
		if (n == 0)
			me.retry = me.retry * 2 < RETRY_MAX ? me.retry * 2 : RETRY_MAX;
		if (!any_stuck())
			me.retry = 0;
	}
}

/* ---- life ---- */

static bool split(const char *prefix)
{
	char *slash;

	if (snprintf(me.dir, sizeof(me.dir), "%s", prefix) >= sizeof(me.dir))
		return false;
	slash = strrchr(me.dir, '/');
	if (!slash)
		return false;
	slash[slash == me.dir] = '\0';
	strcpy(me.above, me.dir);
	slash = strrchr(me.above, '/');
	slash[slash == me.above] = '\0';
	me.prefix = prefix;
	return true;
}

/* The link's other descriptors are none of its business. */
static void close_others(void)
{
	unsigned int a = me.sock, b = me.notify;

	if (a > b) {
		a = me.notify;
		b = me.sock;
	}
	if (a > 3)
		close_range(3, a - 1, 0);
	if (b > a + 1)
		close_range(a + 1, b - 1, 0);
	close_range(b + 1, ~0u, 0);
}

static void child(pid_t parent, bool seal)
{
	close_others();
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	prctl(PR_SET_NAME, "spicebd-opener", 0, 0, 0);
	if (getppid() != parent || (seal && !sandbox_seal_opener()))
		_exit(1);
	serve();
	_exit(0);
}

int opener_start(const char *prefix, bool seal)
{
	pid_t parent = getpid(), pid;
	int sv[2];

	if (!split(prefix)) {
		log_err("%s: the path is too long", prefix);
		return -1;
	}
	me.notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (me.notify < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
		log_err("cannot set up the opener of ports: %s", strerror(errno));
		return -1;
	}
	pid = fork();
	if (pid == 0) {
		me.sock = sv[1];
		child(parent, seal);
	}
	close(sv[1]);
	close(me.notify);
	if (pid < 0 || fcntl(sv[0], F_SETFL, O_NONBLOCK) < 0) {
		log_err("cannot start the opener of ports: %s", strerror(errno));
		close(sv[0]);
		return -1;
	}
	return sv[0];
}

static void lost(const char *how)
{
	log_err("the opener %s", how);
	_exit(1);
}

void opener_want(int sock, uint32_t number, uint32_t tag)
{
	struct wish w = { number, tag };

	if (sock_send_fd(sock, &w, sizeof(w), -1) != sizeof(w))
		lost("is stuck");
}

void opener_unwant(int sock, uint32_t number)
{
	opener_want(sock, number, 0);
}

bool opener_next(int sock, struct opener_answer *a, int *fd)
{
	ssize_t n = sock_recv_fd(sock, a, sizeof(*a), fd);

	if (n == -EAGAIN)
		return false;
	if (n != sizeof(*a))
		lost("ended");
	return true;
}
