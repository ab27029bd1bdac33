// SPDX-License-Identifier: GPL-2.0-only
/*
 * A virtio-serial port, as its driver behaves:
 * - read() gives at most one page and 0 when no client is at the other end;
 *   write() takes at most 32 KiB. With readv() and writev() the driver goes on
 *   with the next piece in the same system call;
 * - without a client poll() says POLLIN and POLLHUP without end: only the edges
 *   are watched. Each is looked at by reading, which tells all there is to know;
 * - an end of file says that no client is there now, and nothing of sessions: a
 *   client that went and came unseen is found out by the frames;
 * - close() tells the host, and so the client: it is how a session is ended;
 * - one opener at a time.
 */
#include "virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "log.h"
#include "loop.h"
#include "opener.h"
#include "sock.h"

#define PORTS_MAX	64
#define READ_PIECE	4096u		/* what the driver has in one buffer */
#define READ_SIZE	(256u << 10)	/* gathered before anything is done with it */
#define WRITE_PIECE	32768u		/* what it takes at once */
#define ROUNDS_MAX	4		/* buffers in a row before others get their turn */
#define BYE_TIME	200		/* ms for a BYE to leave */
#define REOPEN_TIME	1000		/* ms for which a port that failed stays closed */

struct vport {
	struct vport *next;
	uint32_t number;
	uint32_t tag;			/* of our last wish for it */
	int fd;				/* -1: the opener has it to open */
	bool is_socket;
	bool connected;			/* somebody is at the other end */
	bool closing;
	struct session *session;
	struct loop_watch *watch;
	struct loop_task pull, push;
	struct loop_timer *timer;	/* to close it, or to open it again */
	size_t out_at, out_len;		/* bytes that the port did not take yet */
	uint8_t out[FRAME_MAX];
};

static const struct session_params *params;
static const struct virtio_hooks *hooks;
static struct vport *ports;
static unsigned int n_ports, n_connected;
static int opener = -1;
static uint8_t secret[FRAME_SECRET_LEN];
static uint8_t in[READ_SIZE];		/* of whichever port is being read */
static bool piecemeal;			/* one buffer of the driver's at a time, for comparing */

/* ---- who is there ---- */

static void replay(void)
{
	if (n_connected)
		hooks->client(true, "the host");
}

static void set_connected(struct vport *p, bool connected)
{
	if (p->connected == connected)
		return;
	p->connected = connected;
	n_connected += connected ? 1 : -1;
	if (connected ? n_connected == 1 : !n_connected)
		hooks->client(connected, "the host");
	if (connected) {
		log_info("port %u: a client is at the other end", p->number);
		session_start(p->session, secret);
		return;
	}
	session_stop(p->session, "the client disconnected");
	p->out_len = 0;
}

/* ---- life of the descriptor ---- */

static void want(struct vport *p)
{
	static uint32_t last_tag;

	p->tag = ++last_tag ? last_tag : ++last_tag;
	opener_want(opener, p->number, p->tag);
}

static void port_close(struct vport *p)
{
	loop_cancel(&p->pull);
	loop_cancel(&p->push);
	loop_timer_stop(p->timer);
	p->closing = false;
	set_connected(p, false);
	loop_watch_remove(p->watch);
	p->watch = NULL;
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

static void on_timer(void *opaque)
{
	struct vport *p = opaque;

	if (p->fd < 0) {
		want(p);
		return;
	}
	port_close(p);
	loop_timer_start(p->timer, REOPEN_TIME);
}

/* Not from here: whoever found out is deep inside the session. */
static void close_soon(struct vport *p, uint32_t ms)
{
	if (p->closing || p->fd < 0)
		return;
	p->closing = true;
	loop_timer_start(p->timer, ms);
}

/* ---- in ---- */

/*
 * As much as there is, up to the buffer's size: every piece that is handed on
 * costs the same, however small. Return: errno that ended it, 0 for an end of
 * file, EAGAIN for nothing more now, -1 when the buffer is full.
 */
static int gather(struct vport *p, size_t *have)
{
	struct iovec iov[READ_SIZE / READ_PIECE];
	unsigned int i;
	ssize_t n;

	*have = 0;
	while (*have + READ_PIECE <= READ_SIZE) {
		for (i = 0; *have + (i + 1) * READ_PIECE <= READ_SIZE; i++) {
			iov[i].iov_base = in + *have + i * READ_PIECE;
			iov[i].iov_len = READ_PIECE;
		}
		if (piecemeal && *have)
			return -1;
		if (piecemeal)
			i = 1;
		n = readv(p->fd, iov, i);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? errno : 0;
		*have += n;
	}
	return -1;
}

static void pull(void *opaque)
{
	struct vport *p = opaque;
	unsigned int i;
	size_t have;
	int why = -1;

	for (i = 0; i < ROUNDS_MAX && why == -1; i++) {
		why = gather(p, &have);
		if (have || why == EAGAIN)
			set_connected(p, true);
		if (have)
			session_input(p->session, in, have);
	}
	if (why == -1) {
		loop_defer(&p->pull);
		return;
	}
	if (why == EAGAIN)
		return;
	set_connected(p, false);
	/* An end of file of a port ends with the next client, but not a socket's. */
	if (why || p->is_socket) {
		log_info("port %u: %s", p->number, why ? strerror(why) : "closed by the other end");
		close_soon(p, 0);
	}
}

/* ---- out ---- */

/* Returns false when the port takes no more now. */
static bool flush(struct vport *p)
{
	struct iovec iov[FRAME_MAX / WRITE_PIECE];
	size_t at, end = p->out_at + p->out_len;
	unsigned int i;
	ssize_t n;

	while (p->out_len) {
		for (i = 0, at = p->out_at; at < end; i++, at += WRITE_PIECE) {
			iov[i].iov_base = p->out + at;
			iov[i].iov_len = end - at < WRITE_PIECE ? end - at : WRITE_PIECE;
		}
		n = writev(p->fd, iov, piecemeal ? 1 : i);
		if (n < 0 && errno == EINTR)
			continue;
		/* What is really wrong shows when it is read. */
		if (n <= 0)
			return false;
		p->out_at += n;
		p->out_len -= n;
	}
	return true;
}

static void push(void *opaque)
{
	struct vport *p = opaque;
	unsigned int i;

	if (!p->connected || p->fd < 0)
		return;
	for (i = 0; i < ROUNDS_MAX * 4; i++) {
		if (!flush(p))
			return;
		p->out_at = 0;
		p->out_len = session_output(p->session, p->out, sizeof(p->out));
		if (!p->out_len)
			return;
	}
	loop_defer(&p->push);
}

static void on_port(int fd, int events, void *opaque)
{
	struct vport *p = opaque;

	pull(p);
	push(p);
}

/* ---- what sessions ask of their transport ---- */

static void on_wakeup(void *opaque)
{
	struct vport *p = opaque;

	loop_defer(&p->push);
}

static void on_fail(void *opaque, const char *why)
{
	struct vport *p = opaque;

	loop_defer(&p->push);
	close_soon(p, BYE_TIME);
}

static void on_dead(void *opaque)
{
	close_soon(opaque, 0);
}

static void on_up(void *opaque)
{
}

static struct session_ops session_ops = {
	.wakeup = on_wakeup,
	.fail = on_fail,
	.dead = on_dead,
	.up = on_up,
};

/* ---- ports ---- */

static struct vport *find(uint32_t number)
{
	struct vport *p;

	for (p = ports; p && p->number != number; p = p->next)
		;
	return p;
}

static void opened(struct vport *p, int fd, bool is_socket)
{
	p->fd = fd;
	p->is_socket = is_socket;
	p->watch = loop_watch_add(fd, LOOP_READ | LOOP_WRITE | LOOP_EDGE, on_port, p);
	log_info("port %u: opened", p->number);
	if (p->watch)
		return;
	log_warn("port %u: cannot be watched: %s", p->number, strerror(errno));
	close_soon(p, REOPEN_TIME);
}

static void say_why_not(const struct opener_answer *a)
{
	if (a->error == ENOENT)
		log_info("port %u: the host does not provide it; waiting for it", a->number);
	else if (a->error == EBUSY)
		log_notice("port %u: another program has it open; waiting for it", a->number);
	else if (a->error == EACCES || a->error == EPERM)
		log_warn("port %u: may not be opened: udev's rule of spicebd gives it to the group spicebd-link",
			 a->number);
	else
		log_warn("port %u: cannot be opened: %s", a->number, strerror(a->error));
}

static void on_opener(int sock, int events, void *opaque)
{
	struct opener_answer a;
	struct vport *p;
	int fd;

	if (!opener_next(sock, &a, &fd))
		return;
	p = find(a.number);
	/* An answer to a wish that was taken back, when its drive went, is nobody's. */
	if (p && p->tag == a.tag && p->fd < 0) {
		if (fd >= 0)
			opened(p, fd, a.is_socket);
		else
			say_why_not(&a);
	} else if (fd >= 0) {
		close(fd);
	}
}

static void port_free(struct vport *p)
{
	session_free(p->session);
	loop_timer_remove(p->timer);
	free(p);
}

static bool add(uint32_t number)
{
	struct vport *p = find(number);

	if (p)
		return true;
	if (number >= OPENER_NUMBERS || n_ports >= PORTS_MAX) {
		log_err("port %u: at most %d ports, numbered 0 to %d", number, PORTS_MAX,
			OPENER_NUMBERS - 1);
		return false;
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return false;
	p->number = number;
	p->fd = -1;
	p->pull = (struct loop_task) { .fn = pull, .opaque = p };
	p->push = (struct loop_task) { .fn = push, .opaque = p };
	p->timer = loop_timer_add(on_timer, p);
	p->session = session_new(number, params, &session_ops, p);
	if (!p->timer || !p->session) {
		port_free(p);
		return false;
	}
	p->next = ports;
	ports = p;
	n_ports++;
	want(p);
	return true;
}

static void del(uint32_t number)
{
	struct vport *p = find(number), **pp;

	if (!p)
		return;
	for (pp = &ports; *pp != p; pp = &(*pp)->next)
		;
	*pp = p->next;
	n_ports--;
	if (p->fd < 0)
		opener_unwant(opener, number);
	port_close(p);
	port_free(p);
	log_info("port %u: removed", number);
}

static struct session *session_of(uint32_t number)
{
	struct vport *p = find(number);

	return p ? p->session : NULL;
}

static void for_each(void (*fn)(struct session *s))
{
	struct vport *p;

	for (p = ports; p; p = p->next)
		fn(p->session);
}

const struct transport virtio_transport = {
	.add = add,
	.del = del,
	.session = session_of,
	.for_each = for_each,
	.replay = replay,
};

bool virtio_start(const char *prefix, bool sandbox, const struct session_params *prm,
		  const struct virtio_hooks *hks)
{
	params = prm;
	hooks = hks;
	session_ops.emit = hks->emit;
	piecemeal = secure_getenv("SPICEBD_LINK_PIECEMEAL");
	random_bytes(secret, sizeof(secret));
	opener = opener_start(prefix, sandbox);
	if (opener < 0)
		return false;
	if (loop_watch_add(opener, LOOP_READ, on_opener, NULL))
		return true;
	log_err("cannot watch the opener of ports: %s", strerror(errno));
	return false;
}
