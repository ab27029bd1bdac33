// SPDX-License-Identifier: GPL-2.0-only
/* The plugin's questions, one at a time, over the descriptor it was born with. */
#include "plugin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "sock.h"

/* Longer than spicebd-export lets spicebdd think about it. */
#define ANSWER_S	20

static int sock = -1;

int ask_set(const char *value)
{
	struct timeval t = { .tv_sec = ANSWER_S };

	if (nbdkit_parse_int("control", value, &sock) < 0)
		return -1;
	if (sock < 3 || fcntl(sock, F_SETFD, FD_CLOEXEC) < 0 ||
	    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) < 0 ||
	    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)) < 0) {
		nbdkit_error("control=%s is no socket: spicebd-export starts this", value);
		return -1;
	}
	return 0;
}

bool ask_ready(void)
{
	return sock >= 0;
}

static int send_ask(uint32_t kind, const char *name, uint32_t index)
{
	struct export_ask *a = calloc(1, sizeof(*a));
	ssize_t n;

	if (!a)
		return -ENOMEM;
	a->magic = EXPORT_PROTO_MAGIC;
	a->kind = kind;
	a->index = index;
	/* Longer names exist in no NBD message. */
	strncpy(a->name, name, EXPORT_NAME_MAX);
	n = sock_send_fd(sock, a, sizeof(*a), -1);
	free(a);
	return n < 0 ? (int)n : 0;
}

static void close_all(const int *fd, unsigned int *n)
{
	while (*n)
		close(fd[--*n]);
}

/* Return: 0, or -errno with the reason in @g->text, as far as there is one */
int ask(uint32_t kind, const char *name, uint32_t index, struct export_grant *g, int *fd,
	unsigned int *n_fd)
{
	int r = send_ask(kind, name, index);
	ssize_t n;

	*n_fd = 0;
	g->text[0] = '\0';
	if (r < 0)
		return r;
	n = sock_recv_fds(sock, g, sizeof(*g), fd, EXPORT_FDS_MAX, n_fd);
	if (n != sizeof(*g) || g->magic != EXPORT_PROTO_MAGIC) {
		g->text[0] = '\0';
		close_all(fd, n_fd);
		return n == -EAGAIN ? -ETIMEDOUT : -EPIPE;
	}
	g->name[EXPORT_NAME_MAX] = g->text[EXPORT_NAME_MAX] = '\0';
	if (!g->error)
		return 0;
	close_all(fd, n_fd);
	return g->error < 4096 ? -(int)g->error : -EIO;
}

void ask_close(void)
{
	send_ask(EXPORT_ASK_CLOSE, "", 0);
}

/* nbdkit has its client's connection where no plugin can reach it. */
void ask_over(void)
{
	send_ask(EXPORT_ASK_OVER, "", 0);
}
