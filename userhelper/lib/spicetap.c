// SPDX-License-Identifier: GPL-2.0-only
#include "spicetap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MSG_DATA	101	/* SPICE_MSG_SPICEVMC_DATA, in both directions */
#define MSG_COMPRESSED	102	/* never agreed on for ports */

#define IN_SIZE		(65536u + 256)	/* the largest frame, its message and the next's start */
#define AHEAD		64		/* read beyond a message: the next one's headers */
#define TO_LIB_MAX	65536u		/* bytes that the library has not taken yet */
#define IOV_MAX_	16
#define TURNS		16		/* reads before others get their turn */
#define LOWAT_MIN	8192		/* a rest worth two system calls */
#define DIRECT_MIN	16384		/* of a message, for which a pipe is cheaper than copies */
#define PIPE_SIZE	(256u << 10)	/* far more than IN_SIZE: what comes in small pieces needs room */

struct tap {
	const struct tap_ops *ops;
	void *opaque;
	int fd[2];
	unsigned int events[2];
	uint16_t release_at;
	bool relay;		/* passes on everything */
	bool over;		/* ended() was called */
	unsigned int busy;	/* nested handlers; freeing waits for them */
	bool dead;

	uint8_t in[IN_SIZE];
	size_t start, end;	/* what of in is not worked on yet */
	uint64_t left;		/* of the message that goes on */
	int lowat;		/* bytes that wake us, or 0: any */
	uint16_t type;

	bool large;		/* the last message was: the next one's start is read alone */
	bool ask;		/* begin() has not seen the one that goes on, and is to */
	bool direct;		/* what is left goes past us, as far as it can */
	bool held;		/* by its owner, who has enough for now */
	int pipe[2];		/* empty between two events; -1: none was needed yet */

	uint8_t *to_lib;
	size_t to_lib_len;

	struct tap_buf *from_lib;	/* a message of the library, not whole yet */
	size_t from_lib_have;

	struct tap_buf *out, **out_tail;
	size_t out_done;	/* of the first */
	bool blocked;		/* the connection takes no more for now */
};

static void end(struct tap *t, const char *why)
{
	if (t->over)
		return;
	t->over = true;
	t->ops->ended(t->opaque, why);
}

static void watch(struct tap *t, enum tap_side side, unsigned int events)
{
	if (t->events[side] == events)
		return;
	t->events[side] = events;
	t->ops->watch(t->opaque, side, events);
}

/* A side that is not read stops its sender: what is buffered here has a bound. */
static void update(struct tap *t)
{
	bool lib_takes = t->to_lib_len < TO_LIB_MAX / 2;

	if (t->over)
		return;
	watch(t, TAP_NET, (lib_takes && !t->held ? TAP_IN : 0) | (t->blocked ? TAP_OUT : 0));
	watch(t, TAP_LIB, (t->blocked ? 0 : TAP_IN) | (t->to_lib_len ? TAP_OUT : 0));
}

static bool would_block(void)
{
	return errno == EAGAIN || errno == EINTR;
}

/* ---- towards the connection */

static void put_header(struct tap_buf *b)
{
	uint8_t *h = b->header + 2;

	h[0] = MSG_DATA;
	h[1] = 0;
	h[2] = b->len;
	h[3] = b->len >> 8;
	h[4] = b->len >> 16;
	h[5] = b->len >> 24;
}

static uint8_t *wire_start(struct tap_buf *b)
{
	return b->passed_on ? b->data : b->header + 2;
}

static size_t wire_len(const struct tap_buf *b)
{
	return b->passed_on ? b->len : TAP_HEADER + b->len;
}

static void enqueue(struct tap *t, struct tap_buf *b)
{
	b->next = NULL;
	*t->out_tail = b;
	t->out_tail = &b->next;
}

void tap_send(struct tap *t, struct tap_buf *b, size_t len)
{
	b->len = len;
	b->passed_on = false;
	put_header(b);
	enqueue(t, b);
}

static struct tap_buf *pop(struct tap *t)
{
	struct tap_buf *b = t->out;

	t->out = b->next;
	if (!t->out)
		t->out_tail = &t->out;
	t->out_done = 0;
	return b;
}

static void give_back(struct tap *t, struct tap_buf *b)
{
	if (b->passed_on)
		free(b);
	else
		t->ops->written(t->opaque, b);
}

/* written() may queue more; that goes out with the next round. */
static void written(struct tap *t, size_t n)
{
	size_t rest;

	while (n && t->out) {
		rest = wire_len(t->out) - t->out_done;
		if (n < rest) {
			t->out_done += n;
			return;
		}
		n -= rest;
		give_back(t, pop(t));
	}
}

static ssize_t send_some(struct tap *t)
{
	struct iovec iov[IOV_MAX_];
	struct msghdr m = { .msg_iov = iov };
	struct tap_buf *b;
	size_t skip = t->out_done;

	for (b = t->out; b && m.msg_iovlen < IOV_MAX_; b = b->next) {
		iov[m.msg_iovlen].iov_base = wire_start(b) + skip;
		iov[m.msg_iovlen++].iov_len = wire_len(b) - skip;
		skip = 0;
	}
	return sendmsg(t->fd[TAP_NET], &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void tap_flush(struct tap *t)
{
	ssize_t n;

	t->busy++;
	while (t->out && !t->blocked && !t->over && !t->dead) {
		n = send_some(t);
		if (n < 0 && would_block())
			t->blocked = true;
		else if (n < 0)
			end(t, strerror(errno));
		else
			written(t, n);
	}
	t->busy--;
	if (t->dead && !t->busy)
		free(t);
	else if (!t->dead)
		update(t);
}

bool tap_idle(const struct tap *t)
{
	return !t->out;
}

/* ---- from the library, whole messages */

static uint32_t get32(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static struct tap_buf *passed_on_new(size_t len)
{
	struct tap_buf *b = malloc(sizeof(*b) + len);

	if (b) {
		b->passed_on = true;
		b->len = len;
	}
	return b;
}

/* Where the message ends is only known when its header is there. */
static bool grow_from_lib(struct tap *t)
{
	struct tap_buf *b = t->from_lib;
	uint64_t len;

	if (!b) {
		t->from_lib = passed_on_new(TAP_HEADER);
		t->from_lib_have = 0;
		return t->from_lib;
	}
	if (b->len != TAP_HEADER || t->from_lib_have < TAP_HEADER)
		return true;
	len = TAP_HEADER + (uint64_t)get32(b->data + 2);
	if (len > TAP_OTHER_MAX)
		return false;
	b = realloc(b, sizeof(*b) + len);
	if (!b)
		return false;
	b->len = len;
	t->from_lib = b;
	return true;
}

/* Returns false when there is nothing more for now. */
static bool read_message(struct tap *t)
{
	struct tap_buf *b;
	ssize_t n;

	if (!grow_from_lib(t)) {
		end(t, "a message of the Spice library is too large");
		return false;
	}
	b = t->from_lib;
	if (t->from_lib_have < b->len) {
		n = recv(t->fd[TAP_LIB], b->data + t->from_lib_have, b->len - t->from_lib_have,
			 MSG_DONTWAIT);
		if (n < 0 && would_block())
			return false;
		if (n <= 0) {
			end(t, "the Spice library closed the channel");
			return false;
		}
		t->from_lib_have += n;
	}
	if (t->from_lib_have == b->len &&
	    (b->len > TAP_HEADER || !get32(b->data + 2))) {
		t->from_lib = NULL;
		enqueue(t, b);
	}
	return true;
}

static void from_lib(struct tap *t)
{
	for (int i = 0; i < TURNS && !t->blocked && !t->over; i++)
		if (!read_message(t))
			break;
}

/* ---- towards the library */

static void flush_to_lib(struct tap *t)
{
	ssize_t n;

	if (!t->to_lib_len || t->over)
		return;
	n = send(t->fd[TAP_LIB], t->to_lib, t->to_lib_len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && !would_block())
		end(t, "the Spice library closed the channel");
	if (n <= 0)
		return;
	t->to_lib_len -= n;
	memmove(t->to_lib, t->to_lib + n, t->to_lib_len);
}

/* Returns how much was taken. */
static size_t pass_on(struct tap *t, const uint8_t *p, size_t n)
{
	if (!t->to_lib)
		t->to_lib = malloc(TO_LIB_MAX);
	if (!t->to_lib) {
		end(t, "out of memory");
		return 0;
	}
	if (n > TO_LIB_MAX - t->to_lib_len)
		n = TO_LIB_MAX - t->to_lib_len;
	if (!n)
		return 0;
	memcpy(t->to_lib + t->to_lib_len, p, n);
	t->to_lib_len += n;
	flush_to_lib(t);
	return n;
}

/* ---- from the connection */

static size_t have(const struct tap *t)
{
	return t->end - t->start;
}

/* Takes a message's header. Returns false when it is not there yet, or bad. */
static bool begin_message(struct tap *t)
{
	const uint8_t *h = t->in + t->start;
	uint32_t len;

	if (have(t) < TAP_HEADER)
		return false;
	t->type = h[0] | h[1] << 8;
	len = get32(h + 2);
	if (t->type == MSG_COMPRESSED || (t->type == MSG_DATA && !len) ||
	    (t->type != MSG_DATA && len > TAP_OTHER_MAX)) {
		end(t, "a Spice message that is not allowed here");
		return false;
	}
	t->left = len;
	t->large = t->type == MSG_DATA && len >= DIRECT_MIN && t->ops->direct;
	t->ask = t->large;
	if (t->type == MSG_DATA)
		t->start += TAP_HEADER;
	else
		t->left += TAP_HEADER;	/* goes on with its header */
	return true;
}

/*
 * A message that fits is given as a whole: the frame in it can then be used
 * where it lies, and its rest is on its way.
 */
static bool take_data(struct tap *t)
{
	size_t n = have(t) < t->left ? have(t) : t->left;

	if (!n || (n < t->left && t->left <= IN_SIZE))
		return false;
	t->start += n;
	t->left -= n;
	t->ask = false;
	t->ops->data(t->opaque, t->in + t->start - n, n);
	return true;
}

/*
 * Returns false when the message is to be taken as any other: it is small, or here
 * already, or its owner wants it so.
 */
static bool begin_direct(struct tap *t)
{
	const struct tap_direct *d = t->ops->direct;

	if (!t->ask || have(t) >= t->left || have(t) < d->head)
		return false;
	t->ask = false;
	if (!d->begin(t->opaque, t->in + t->start, t->left))
		return false;
	t->start += d->head;
	t->left -= d->head;
	t->direct = true;
	return true;
}

/* Bytes of it that are here. Returns whether there were any. */
static bool take_part(struct tap *t)
{
	size_t n = have(t) < t->left ? have(t) : t->left;

	t->start += n;
	t->left -= n;
	t->direct = t->left;
	if (n)
		t->ops->direct->part(t->opaque, t->in + t->start - n, n);
	return n;
}

static bool take_other(struct tap *t)
{
	size_t n = have(t);

	if (!t->relay && n > t->left)
		n = t->left;
	n = pass_on(t, t->in + t->start, n);
	t->start += n;
	if (t->relay)
		return n;
	t->left -= n;
	if (!t->left && t->release_at && t->type == t->release_at) {
		t->relay = true;
		t->ops->released(t->opaque);
	}
	return n;
}

/* Returns false when more must be read, or taken by the library, before the next. */
static bool take(struct tap *t)
{
	if (t->over || t->dead || (!t->left && !t->relay && !begin_message(t)))
		return false;
	if (t->direct)
		return take_part(t);
	if (t->type != MSG_DATA || t->relay)
		return take_other(t);
	if (begin_direct(t))
		return true;
	return !t->over && take_data(t);	/* begin() may have ended it */
}

/* How much to read: what must not be moved to the front afterwards, if that is known. */
static size_t wanted(const struct tap *t)
{
	size_t room = IN_SIZE - t->end, head = t->large ? t->ops->direct->head : 0, n;

	if (t->direct)
		n = t->left;
	else if (t->large && !t->left && have(t) < TAP_HEADER + head)
		n = TAP_HEADER + head - have(t);
	else if (t->ask && have(t) < head && head < t->left)
		n = head - have(t);
	else if (t->left > have(t))
		/* No further than the next message's headers. */
		n = t->left - have(t) + AHEAD;
	else
		n = room;
	return n < room ? n : room;
}

/* Returns whether there may be more to read. */
static bool fill(struct tap *t)
{
	size_t want;
	ssize_t n;

	if (t->start) {
		memmove(t->in, t->in + t->start, have(t));
		t->end -= t->start;
		t->start = 0;
	}
	want = wanted(t);
	n = recv(t->fd[TAP_NET], t->in + t->end, want, MSG_DONTWAIT);
	if (n < 0 && would_block())
		return false;
	if (n <= 0) {
		end(t, n ? strerror(errno) : "the connection was closed");
		return false;
	}
	t->end += n;
	return n == want;
}

/*
 * What the sink did not take is read back from the pipe, which is thus empty
 * afterwards: nothing has to be remembered but what part() keeps.
 */
static void read_back(struct tap *t, size_t n)
{
	ssize_t r;

	while (n && !t->over && !t->dead) {
		r = read(t->pipe[0], t->in, n < IN_SIZE ? n : IN_SIZE);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0) {
			end(t, "bytes were lost in a pipe");
			return;
		}
		n -= r;
		t->ops->direct->part(t->opaque, t->in, r);
	}
}

static bool have_pipe(struct tap *t)
{
	if (t->pipe[0] >= 0)
		return true;
	if (pipe2(t->pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
		t->pipe[0] = t->pipe[1] = -1;
		return false;
	}
	/* A wish: with less room it takes more system calls. */
	(void)fcntl(t->pipe[1], F_SETPIPE_SZ, PIPE_SIZE);
	return true;
}

/*
 * As fill(), past this process's memory. Where there must be something (@ready) and
 * is not, it is behind an urgent byte, which splice() does not pass but recv() does.
 */
static bool move(struct tap *t, bool ready)
{
	int to = t->ops->direct->sink(t->opaque);
	ssize_t n, m, sum;

	if (to < 0 || !have_pipe(t))
		return fill(t);
	n = splice(t->fd[TAP_NET], NULL, t->pipe[1], NULL, t->left, SPLICE_F_NONBLOCK);
	if (n < 0 && would_block())
		return ready && fill(t);
	if (n < 0 && errno == EINVAL)
		return fill(t);		/* not of a kind that can */
	if (n <= 0) {
		end(t, n ? strerror(errno) : "the connection was closed");
		return false;
	}
	t->left -= n;
	t->direct = t->left;
	for (sum = 0; sum < n; sum += m) {
		m = splice(t->pipe[0], NULL, to, NULL, n - sum, SPLICE_F_NONBLOCK);
		if (m <= 0)
			break;
	}
	if (sum)
		t->ops->direct->moved(t->opaque, sum);
	read_back(t, n - sum);
	return true;
}

/*
 * A message is of no use before it is whole, and on a far path its rest comes
 * in many small pieces: the kernel is asked to wake us when it is there, or the
 * connection has ended. Where it cannot, it wakes us for each piece.
 */
static void set_lowat(struct tap *t)
{
	size_t rest = t->left > have(t) ? t->left - have(t) : 0;
	int lowat = t->type == MSG_DATA && !t->relay && t->left <= IN_SIZE &&
		    rest >= LOWAT_MIN ? (int)rest : 0;

	if (lowat == t->lowat)
		return;
	t->lowat = lowat;
	lowat = lowat ?: 1;
	(void)setsockopt(t->fd[TAP_NET], SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof(lowat));
}

static bool hold(struct tap *t)
{
	t->held = !t->over && t->ops->direct && t->ops->direct->hold(t->opaque);
	return t->held;
}

void tap_go_on(struct tap *t)
{
	if (!t->held)
		return;
	t->held = false;
	update(t);
}

static void from_net(struct tap *t)
{
	bool more = true;

	for (int i = 0; i < TURNS && more && !hold(t); i++) {
		while (take(t))
			;
		if (t->over || t->dead || t->end - t->start == IN_SIZE)
			return;
		more = t->direct ? move(t, i == 0) : fill(t);
	}
	while (take(t))
		;
	if (!t->over && !t->dead)
		set_lowat(t);
}

/* ---- life */

void tap_event(struct tap *t, enum tap_side side, unsigned int events)
{
	if (t->over)
		return;
	t->busy++;
	if (side == TAP_LIB && events & TAP_OUT) {
		flush_to_lib(t);
		while (take(t))
			;
	}
	if (side == TAP_NET && events & TAP_OUT)
		t->blocked = false;
	if (side == TAP_NET && events & TAP_IN)
		from_net(t);
	if (side == TAP_LIB && events & TAP_IN && !t->over && !t->dead)
		from_lib(t);
	t->busy--;
	if (t->dead && !t->busy)
		free(t);
	else if (!t->dead)
		tap_flush(t);
}

int tap_fd(const struct tap *t, enum tap_side side)
{
	return t->fd[side];
}

struct tap *tap_new(int net, int *lib, uint16_t release_at, const struct tap_ops *ops,
		    void *opaque)
{
	struct tap *t = calloc(1, sizeof(*t));
	int sv[2];

	if (!t || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0) {
		free(t);
		return NULL;
	}
	fcntl(net, F_SETFL, fcntl(net, F_GETFL) | O_NONBLOCK);
	t->ops = ops;
	t->opaque = opaque;
	t->fd[TAP_NET] = net;
	t->fd[TAP_LIB] = sv[0];
	t->release_at = release_at;
	t->pipe[0] = t->pipe[1] = -1;
	t->out_tail = &t->out;
	*lib = sv[1];
	return t;
}

void tap_start(struct tap *t)
{
	update(t);
}

void tap_free(struct tap *t)
{
	if (!t || t->dead)
		return;
	t->over = true;
	shutdown(t->fd[TAP_NET], SHUT_RDWR);
	close(t->fd[TAP_NET]);
	close(t->fd[TAP_LIB]);
	for (int i = 0; i < 2; i++)
		if (t->pipe[i] >= 0)
			close(t->pipe[i]);
	while (t->out)
		give_back(t, pop(t));
	free(t->from_lib);
	free(t->to_lib);
	t->from_lib = NULL;
	t->to_lib = NULL;
	t->dead = true;
	if (!t->busy)
		free(t);
}
