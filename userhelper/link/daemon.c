// SPDX-License-Identifier: GPL-2.0-only
#include "daemon.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "loop.h"
#include "sock.h"

/* Twice what a replay of all ports with all offers takes. */
#define QUEUE_MAX	(2 * 64 * (FRAME_OFFERS_MAX + 2))

struct entry {
	struct entry *next;
	struct link_msg msg;
	int fd;
};

static int peer = -1;
static bool broken;		/* until the task has dropped it */
static struct loop_watch *listen_watch, *watch;
static struct entry *queue, **queue_tail = &queue;
static unsigned int n_queue;
static uid_t owner;
static const char *address;
static const struct daemon_hooks *hooks;

static void pop(void)
{
	struct entry *e = queue;

	queue = e->next;
	if (!queue)
		queue_tail = &queue;
	n_queue--;
	if (e->fd >= 0)
		close(e->fd);
	free(e);
}

/*
 * The session ends in a task: daemon_send() is called from deep inside the
 * streams that this closes.
 */
static void drop(void *opaque)
{
	if (peer < 0)
		return;
	loop_watch_remove(watch);
	watch = NULL;
	close(peer);
	peer = -1;
	broken = false;
	while (queue)
		pop();
	log_info("the daemon disconnected");
	hooks->went();
}

static struct loop_task drop_task = { .fn = drop };

static void give_up(const char *why)
{
	if (broken)
		return;
	broken = true;
	log_warn("dropping the daemon: %s", why);
	loop_defer(&drop_task);
}

static void flush(void)
{
	ssize_t n;

	while (queue && !broken) {
		n = sock_send_fd(peer, &queue->msg, sizeof(queue->msg), queue->fd);
		if (n == -EAGAIN)
			break;
		if (n != sizeof(queue->msg)) {
			give_up(n < 0 ? strerror(-n) : "a message was cut");
			return;
		}
		pop();
	}
	if (watch)
		loop_watch_set(watch, LOOP_READ | (queue ? LOOP_WRITE : 0));
}

void daemon_send(struct link_msg *msg, int fd)
{
	struct entry *e = NULL;

	if (peer >= 0 && !broken && n_queue >= QUEUE_MAX)
		give_up("it does not read what it is told");
	if (peer >= 0 && !broken)
		e = malloc(sizeof(*e));
	if (!e) {
		if (fd >= 0)
			close(fd);
		return;
	}
	e->next = NULL;
	e->msg = *msg;
	e->fd = fd;
	*queue_tail = e;
	queue_tail = &e->next;
	if (++n_queue == 1)
		flush();
}

static bool terminated(const struct link_msg *m)
{
	return memchr(m->text, '\0', sizeof(m->text)) != NULL;
}

static void on_peer(int sock, int events, void *opaque)
{
	struct link_msg m;
	unsigned int i;
	ssize_t n;
	int fd;

	if (events & LOOP_WRITE)
		flush();
	for (i = 0; i < 16 && peer >= 0 && !broken; i++) {
		n = sock_recv_fd(sock, &m, sizeof(m), &fd);
		if (n == -EAGAIN)
			return;
		if (fd >= 0)
			close(fd);
		if (n == 0 || n == -ECONNRESET) {
			drop(NULL);
			return;
		}
		if (n != sizeof(m) || fd >= 0 || !terminated(&m)) {
			give_up(n < 0 ? strerror(-n) : "a malformed message");
			return;
		}
		hooks->heard(&m);
	}
}

static bool may_connect(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return false;
	if (cred.uid == 0 || cred.uid == owner)
		return true;
	log_warn("refused process %d of user %u on the private socket", (int)cred.pid,
		 (unsigned int)cred.uid);
	return false;
}

static void on_listener(int listener, int events, void *opaque)
{
	struct link_msg m = { .type = LINK_READY, .version = LINK_PROTO_VERSION };
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	if (!may_connect(fd)) {
		close(fd);
		return;
	}
	drop(NULL);		/* a new daemon ends the session of the old one */
	watch = loop_watch_add(fd, LOOP_READ, on_peer, NULL);
	if (!watch) {
		close(fd);
		return;
	}
	peer = fd;
	log_info("the daemon connected");
	snprintf(m.u.ready.address, sizeof(m.u.ready.address), "%s", address);
	daemon_send(&m, -1);
	hooks->came();
}

bool daemon_init(int listener, uid_t own, const char *addr, const struct daemon_hooks *hks)
{
	owner = own;
	address = addr;
	hooks = hks;
	listen_watch = loop_watch_add(listener, LOOP_READ, on_listener, NULL);
	return listen_watch;
}
