// SPDX-License-Identifier: GPL-2.0-only
#include "privs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "caps.h"
#include "log.h"
#include "ring.h"
#include "sock.h"

#define OPENER_TIMEOUT_MS	1000

static int opener = -1;

/* Sends a reply of one int, 0 or an errno value, with the socket. */
static void opener_loop(int sock)
{
	for (;;) {
		int fd, reply;
		char c;
		ssize_t n = recv(sock, &c, sizeof(c), 0);

		if (n < 0 && errno == EINTR)
			continue;
		/* spicebdd has ended. */
		if (n <= 0)
			return;
		fd = ring_socket(QUEUE_RCVBUF);
		reply = fd < 0 ? -fd : 0;
		if (sock_send_fd(sock, &reply, sizeof(reply), fd) < 0)
			return;
		/* A copy here would hide spicebdd's death from the kernel. */
		if (fd >= 0)
			close(fd);
	}
}

static void __attribute__((noreturn)) opener_main(int sock)
{
	prctl(PR_SET_NAME, "spicebdd-sock");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Signals to the group are spicebdd's: it ends us by ending. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	close_range(3, sock - 1, 0);
	close_range(sock + 1, ~0U, 0);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	caps_drop_bounding();
	if (caps_set(1ULL << CAP_NET_ADMIN) < 0)
		log_warn("no CAP_NET_ADMIN: queue sockets are small, or cannot be bound");
	opener_loop(sock);
	_exit(0);
}

int privs_start_opener(struct derr *e)
{
	int sv[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return derr_set(e, errno, "socketpair: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		return derr_set(e, errno, "fork: %s", strerror(errno));
	if (!pid)
		opener_main(sv[1]);
	close(sv[1]);
	opener = sv[0];
	return 0;
}

int privs_opener_fd(void)
{
	return opener;
}

int privs_queue_socket(struct derr *e)
{
	struct pollfd p = { .fd = opener, .events = POLLIN };
	int fd = -1, reply = 0;
	ssize_t n;

	n = send(opener, "s", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n == 1 && poll(&p, 1, OPENER_TIMEOUT_MS) > 0)
		n = sock_recv_fd(opener, &reply, sizeof(reply), &fd);
	else
		n = -EIO;
	if (n == sizeof(reply) && !reply && fd >= 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return derr_set(e, reply ? reply : EIO, "cannot make a queue socket: %s",
			reply == EPERM ? "spicebdd was started without CAP_NET_ADMIN" :
			reply ? strerror(reply) : "the process that makes them has ended");
}

int privs_drop(struct derr *e)
{
	int r;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return derr_set(e, errno, "no new privileges: %s", strerror(errno));
	caps_drop_bounding();
	r = caps_set(0);
	if (r < 0)
		return derr_set(e, -r, "cannot give up capabilities: %s", strerror(-r));
	return 0;
}
