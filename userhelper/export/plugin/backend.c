// SPDX-License-Identifier: GPL-2.0-only
/*
 * libnbd's handle locks itself, so commands are issued by the threads that want
 * them; only one thread may read and write the socket, which is the pump. It
 * polls the socket, and an eventfd that tells of new commands, as these may
 * change what it has to poll for.
 *
 * A server that owes answers and says nothing for SILENCE_MS is given up: its
 * connection is shut down, and libnbd ends every command with an error.
 */
#include "plugin.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "sock.h"

#define CONNECT_MS	15000
#define SILENCE_MS	60000
#define POLL_MS		5000

struct backend {
	struct nbd_handle *h;
	int wake;			/* eventfd */
	pthread_t pump;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int under_way;
	bool dead;			/* commands end with an error */
	bool stopping;
};

struct nbd_handle *backend_handle(struct backend *b)
{
	return b->h;
}

static short wanted(struct nbd_handle *h)
{
	unsigned int dir = nbd_aio_get_direction(h);

	return (dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
	       (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
}

/* Return: 0, or -1 when the connection is over */
static int notify(struct nbd_handle *h, short revents)
{
	unsigned int dir = nbd_aio_get_direction(h);

	if ((dir & LIBNBD_AIO_DIRECTION_READ) && revents & (POLLIN | POLLHUP | POLLERR))
		return nbd_aio_notify_read(h);
	if ((dir & LIBNBD_AIO_DIRECTION_WRITE) && revents & (POLLOUT | POLLHUP | POLLERR))
		return nbd_aio_notify_write(h);
	return revents & (POLLHUP | POLLERR | POLLNVAL) ? -1 : 0;
}

static bool over(struct nbd_handle *h)
{
	return nbd_aio_is_dead(h) || nbd_aio_is_closed(h);
}

/*
 * The end of the connection is libnbd's own way to end its commands, so let it
 * see one.
 */
static void finish(struct nbd_handle *h, int sock)
{
	shutdown(sock, SHUT_RDWR);
	for (int i = 0; i < 1000 && !over(h); i++) {
		struct pollfd p = { .fd = sock, .events = wanted(h) };

		if (poll(&p, 1, 10) < 0 || notify(h, p.revents) < 0)
			break;
	}
}

static bool silent(struct backend *b, bool heard_now, long long *heard)
{
	pthread_mutex_lock(&b->lock);
	if (!b->under_way || heard_now)
		*heard = now_ms();
	pthread_mutex_unlock(&b->lock);
	if (now_ms() - *heard <= SILENCE_MS)
		return false;
	nbdkit_error("the export's server has not answered for %d s", SILENCE_MS / 1000);
	return true;
}

static bool stopped(struct backend *b)
{
	bool r;

	pthread_mutex_lock(&b->lock);
	r = b->stopping;
	pthread_mutex_unlock(&b->lock);
	return r;
}

static void *pump(void *arg)
{
	struct backend *b = arg;
	int sock = nbd_aio_get_fd(b->h);
	long long heard = now_ms();

	while (!over(b->h) && !stopped(b)) {
		struct pollfd p[2] = {
			{ .fd = sock, .events = wanted(b->h) },
			{ .fd = b->wake, .events = POLLIN },
		};
		uint64_t n;
		int r = poll(p, 2, POLL_MS);

		if (r < 0 && errno != EINTR)
			break;
		if (r > 0 && p[1].revents && read(b->wake, &n, sizeof(n)) < 0)
			break;
		if (r > 0 && p[0].revents && notify(b->h, p[0].revents) < 0)
			break;
		if (silent(b, r > 0 && p[0].revents & POLLIN, &heard))
			break;
	}
	finish(b->h, sock);
	pthread_mutex_lock(&b->lock);
	b->dead = true;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
	/*
	 * Nothing more can be served, so nothing more is taken from the client;
	 * what it is owed it still gets. A client that connects again is given
	 * another connection.
	 */
	if (!stopped(b)) {
		nbdkit_error("the export's server is gone: ending the connection");
		ask_over();
	}
	return NULL;
}

static int handshake(struct nbd_handle *h)
{
	long long end = now_ms() + CONNECT_MS;

	while (nbd_aio_is_connecting(h)) {
		struct pollfd p = { .fd = nbd_aio_get_fd(h), .events = wanted(h) };
		long long left = end - now_ms();

		if (left <= 0) {
			nbdkit_error("the export's server does not answer");
			return -1;
		}
		if (poll(&p, 1, left) > 0 && notify(h, p.revents) < 0)
			break;
	}
	if (nbd_aio_is_ready(h))
		return 0;
	nbdkit_error("the export's server: %s", nbd_get_error() ?: "it hung up");
	return -1;
}

static struct nbd_handle *connect_handle(int fd, const char *name)
{
	struct nbd_handle *h = nbd_create();

	if (!h) {
		close(fd);
		return NULL;
	}
	nbd_set_export_name(h, name);
	nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION);
	nbd_set_pread_initialize(h, false);
	if (nbd_aio_connect_socket(h, fd) == 0 && handshake(h) == 0)
		return h;
	nbd_close(h);
	return NULL;
}

static int start_pump(struct backend *b)
{
	sigset_t all, old;
	int r;

	/* Signals are nbdkit's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&b->pump, NULL, pump, b);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

/* @fd is taken over. Return: NULL after nbdkit_error() */
struct backend *backend_open(int fd, const char *name)
{
	struct backend *b = calloc(1, sizeof(*b));

	if (!b) {
		nbdkit_error("out of memory");
		close(fd);
		return NULL;
	}
	b->h = connect_handle(fd, name);
	if (!b->h) {
		free(b);
		return NULL;
	}
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->changed, NULL);
	b->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->wake >= 0 && start_pump(b) == 0)
		return b;
	nbdkit_error("cannot start a thread");
	if (b->wake >= 0)
		close(b->wake);
	nbd_close(b->h);
	free(b);
	return NULL;
}

static void wake(struct backend *b)
{
	uint64_t one = 1;

	/* Full means that the pump has not looked yet: it will. */
	if (write(b->wake, &one, sizeof(one)) < 0 && errno != EAGAIN)
		nbdkit_debug("eventfd: %m");
}

/* nbdkit calls it when no command is under way any more. */
void backend_close(struct backend *b)
{
	pthread_mutex_lock(&b->lock);
	b->stopping = true;
	pthread_mutex_unlock(&b->lock);
	wake(b);
	pthread_join(b->pump, NULL);
	nbd_close(b->h);
	close(b->wake);
	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

static int on_completion(void *user_data, int *error)
{
	struct command *c = user_data;

	pthread_mutex_lock(&c->b->lock);
	c->error = *error;
	c->done = true;
	pthread_cond_broadcast(&c->b->changed);
	pthread_mutex_unlock(&c->b->lock);
	return 1;
}

nbd_completion_callback command_begin(struct command *c, struct backend *b)
{
	*c = (struct command){ .b = b };
	pthread_mutex_lock(&b->lock);
	b->under_way++;
	pthread_mutex_unlock(&b->lock);
	return (nbd_completion_callback){ .callback = on_completion, .user_data = c };
}

int command_end(struct command *c, int64_t cookie)
{
	struct backend *b = c->b;
	int error = 0;

	if (cookie < 0) {
		/* What libnbd has against a command after the end is its state: EINVAL. */
		error = over(b->h) ? ENOTCONN : nbd_get_errno() ?: EIO;
		nbdkit_error("%s", nbd_get_error() ?: "the export's server: unknown error");
	} else {
		wake(b);
	}
	pthread_mutex_lock(&b->lock);
	/*
	 * A dead connection answers nothing more: libnbd called back for all
	 * commands when it saw the end, or will never do so.
	 */
	while (!error && !c->done && !b->dead)
		pthread_cond_wait(&b->changed, &b->lock);
	if (!error)
		error = c->done ? c->error : ENOTCONN;
	b->under_way--;
	pthread_mutex_unlock(&b->lock);
	if (!error)
		return 0;
	/* Not the client's connection is meant: its medium is. */
	if (error == ENOTCONN || error == ESHUTDOWN)
		error = EIO;
	nbdkit_set_error(error);
	return -1;
}
