// SPDX-License-Identifier: GPL-2.0-only
#include "nbdwire.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#define REQUEST_MAGIC		0x25609513u
#define SIMPLE_MAGIC		0x67446698u
#define STRUCTURED_MAGIC	0x668e33efu

#define CHUNK_DONE		(1u << 0)
#define CHUNK_NONE		0
#define CHUNK_DATA		1
#define CHUNK_HOLE		2
#define CHUNK_ERROR		(1u << 15)

/*
 * What is read at once. A payload that does not fit is read to its place, so
 * this need not be large; many small replies fit.
 */
#define RX_SIZE			(128 * 1024)
#define IOV_NR			256
/*
 * A payload whose header has come is on its way, and as a rule there in a
 * moment: servers send the two apart. Up to so much of it is waited for in the
 * receiving call, which saves the way through poll(). A connection that once
 * was not quick is never waited for again.
 */
#define WAIT_BYTES		(1024 * 1024)
#define WAIT_US			1000
/* An error's message is of no use to us, but how long it may be is known. */
#define ERROR_MAX		(6 + 4096 + 8)

struct nbd_request {
	uint32_t magic;
	uint16_t flags;
	uint16_t type;
	uint64_t handle;
	uint64_t offset;
	uint32_t length;
} __attribute__((packed));

struct nbd_simple {
	uint32_t magic;
	uint32_t error;
	uint64_t handle;
} __attribute__((packed));

struct nbd_chunk {
	uint32_t magic;
	uint16_t flags;
	uint16_t type;
	uint64_t handle;
	uint32_t length;
} __attribute__((packed));

/**
 * struct part - a request under way
 * @busy: it is; @sent: all of it has left
 * @use: how often this place was used: a part of the handle
 * @got: bytes of a read that have come
 * @next: of the list of those to be sent, or of the free ones
 */
struct part {
	bool busy, sent;
	uint8_t cmd;
	uint32_t use;
	uint32_t len;
	uint32_t got;
	uint32_t error;
	uint64_t offset;
	uint8_t *buf;
	void *owner;
	struct part *next;
	struct nbd_request header;
};

struct wire {
	int fd;
	bool structured;
	wire_done_fn done;
	void *arg;
	const char *error;
	int old_flags;			/* of the descriptor, or -1: not changed */
	bool quick;			/* payloads may be waited for */

	struct part *free;
	unsigned int room;
	struct part *first, *last;	/* to be sent */
	size_t sent;			/* bytes of the first that have left */

	/* Payload that is coming to its place: left bytes, of which part. */
	struct part *coming;
	uint8_t *to;
	size_t left;
	bool finish;			/* the part is answered with it */
	size_t skip;			/* bytes of no use that come next */

	uint8_t *rx;
	size_t rx_at, rx_end;
	struct part part[WIRE_PARTS];
};

struct wire *wire_new(int fd, bool structured, wire_done_fn done, void *arg)
{
	struct wire *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->rx = malloc(RX_SIZE);
	if (!w->rx) {
		free(w);
		return NULL;
	}
	w->fd = fd;
	w->structured = structured;
	w->done = done;
	w->arg = arg;
	w->error = "the connection ended";
	w->old_flags = -1;
	for (int i = WIRE_PARTS - 1; i >= 0; i--) {
		w->part[i].next = w->free;
		w->free = &w->part[i];
	}
	w->room = WIRE_PARTS;
	return w;
}

/* Only calls that say so wait on the socket then, and those have their end. */
void wire_may_wait(struct wire *w)
{
	struct timeval limit = { .tv_usec = WAIT_US };
	int flags = fcntl(w->fd, F_GETFL);

	if (flags < 0 ||
	    setsockopt(w->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
	    fcntl(w->fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
		return;
	w->old_flags = flags;
	w->quick = true;
}

struct wire *wire_take(struct nbd_handle *h, wire_done_fn done, void *arg)
{
	int fd = nbd_aio_get_fd(h);
	struct wire *w;

	/* libnbd reads no further than it needs, so idle means nothing buffered. */
	if (fd < 0 || !nbd_aio_is_ready(h) || nbd_aio_in_flight(h) != 0 ||
	    nbd_get_tls_negotiated(h) != 0)
		return NULL;
	w = wire_new(fd, nbd_get_structured_replies_negotiated(h) == 1, done, arg);
	if (w)
		wire_may_wait(w);
	return w;
}

void wire_free(struct wire *w)
{
	if (!w)
		return;
	if (w->old_flags >= 0)
		(void)fcntl(w->fd, F_SETFL, w->old_flags);
	free(w->rx);
	free(w);
}

int wire_fd(const struct wire *w)
{
	return w->fd;
}

unsigned int wire_room(const struct wire *w)
{
	return w->room;
}

const char *wire_error(const struct wire *w)
{
	return w->error;
}

/* Requests. */

static bool carries_out(const struct part *p)
{
	return p->cmd == WIRE_WRITE;
}

void wire_submit(struct wire *w, enum wire_cmd cmd, uint16_t flags, uint64_t offset,
		 uint32_t len, void *buf, void *owner)
{
	struct part *p = w->free;
	uint64_t handle;

	w->free = p->next;
	w->room--;
	p->use++;
	handle = (uint64_t)p->use << 32 | (uint64_t)(p - w->part);
	p->busy = true;
	p->sent = false;
	p->cmd = cmd;
	p->len = len;
	p->got = 0;
	p->error = 0;
	p->offset = offset;
	p->buf = buf;
	p->owner = owner;
	p->next = NULL;
	p->header = (struct nbd_request){
		.magic = htobe32(REQUEST_MAGIC), .flags = htobe16(flags),
		.type = htobe16(cmd), .handle = htobe64(handle),
		.offset = htobe64(offset), .length = htobe32(len),
	};
	if (w->last)
		w->last->next = p;
	else
		w->first = p;
	w->last = p;
}

bool wire_wants_write(const struct wire *w)
{
	return w->first;
}

/* Adds what is left of a piece after its first @skip bytes. */
static unsigned int add_iov(struct iovec *iov, unsigned int n, void *data, size_t len,
			    size_t *skip)
{
	size_t done = *skip < len ? *skip : len;

	*skip -= done;
	if (done == len)
		return n;
	iov[n] = (struct iovec){ (uint8_t *)data + done, len - done };
	return n + 1;
}

static size_t whole(const struct part *p)
{
	return sizeof(p->header) + (carries_out(p) ? p->len : 0);
}

/* Takes from the list what has left. */
static void note_sent(struct wire *w, size_t n)
{
	w->sent += n;
	while (w->first && w->sent >= whole(w->first)) {
		struct part *p = w->first;

		w->sent -= whole(p);
		w->first = p->next;
		if (!w->first)
			w->last = NULL;
		p->next = NULL;
		p->sent = true;
	}
}

int wire_send(struct wire *w)
{
	while (w->first) {
		struct iovec iov[IOV_NR];
		struct msghdr m = { .msg_iov = iov };
		size_t skip = w->sent;
		unsigned int n = 0;
		ssize_t r;

		for (struct part *p = w->first; p && n + 2 <= IOV_NR; p = p->next) {
			n = add_iov(iov, n, &p->header, sizeof(p->header), &skip);
			if (carries_out(p))
				n = add_iov(iov, n, p->buf, p->len, &skip);
		}
		m.msg_iovlen = n;
		/* One piece is cheaper without the header around it. */
		r = n == 1 ? send(w->fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT) :
		    sendmsg(w->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
		note_sent(w, r);
	}
	return 0;
}

/* Replies. */

static int broken(struct wire *w, const char *why)
{
	w->error = why;
	return -EPROTO;
}

/* The protocol's error numbers, which are not every machine's. */
static int wire_errno(uint32_t error)
{
	switch (error) {
	case 0:
		return 0;
	case 1:
		return EPERM;
	case 12:
		return ENOMEM;
	case 22:
		return EINVAL;
	case 28:
		return ENOSPC;
	case 75:
		return EOVERFLOW;
	case 95:
		return EOPNOTSUPP;
	case 108:
		return ESHUTDOWN;
	default:
		return EIO;
	}
}

static struct part *find(struct wire *w, uint64_t handle)
{
	uint32_t i = (uint32_t)handle;
	struct part *p = i < WIRE_PARTS ? &w->part[i] : NULL;

	/* What has not left completely cannot have been answered. */
	return p && p->busy && p->sent && p->use == handle >> 32 ? p : NULL;
}

static void end_part(struct wire *w, struct part *p, int error)
{
	void *owner = p->owner;

	p->busy = false;
	p->next = w->free;
	w->free = p;
	w->room++;
	w->done(owner, error, w->arg);
}

static int finish(struct wire *w, struct part *p)
{
	if (!p->error && p->cmd == WIRE_READ && p->got != p->len)
		return broken(w, "the server broke the protocol: a read without all its data");
	end_part(w, p, wire_errno(p->error));
	return 0;
}

/* Payload of so many bytes follows, for @p from byte @at on. */
static int expect(struct wire *w, struct part *p, uint32_t at, uint32_t len, bool last)
{
	p->got += len;
	w->coming = p;
	w->to = p->buf + at;
	w->left = len;
	w->finish = last;
	return 0;
}

static int on_simple(struct wire *w, const struct nbd_simple *s)
{
	struct part *p = find(w, be64toh(s->handle));

	if (!p)
		return broken(w, "the server broke the protocol: it answers what was not asked");
	/* A structured read has no simple reply but an error. */
	p->error = be32toh(s->error);
	if (p->cmd != WIRE_READ || p->error)
		return finish(w, p);
	if (w->structured)
		return broken(w, "the server broke the protocol: a simple reply to a read");
	return expect(w, p, 0, p->len, true);
}

/* Whether a chunk's bytes lie in the request and are not too many. */
static bool inside(const struct part *p, uint64_t offset, uint64_t len)
{
	return p->cmd == WIRE_READ && offset >= p->offset && len &&
	       offset - p->offset <= p->len && len <= p->len - (offset - p->offset) &&
	       len <= p->len - p->got;
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

/* Bytes of a chunk's payload that are needed before it can be handled. */
static int chunk_head(struct wire *w, uint16_t type, uint32_t len, size_t *need)
{
	if (type == CHUNK_NONE && !len)
		*need = 0;
	else if (type == CHUNK_DATA && len > 8)
		*need = 8;
	else if (type == CHUNK_HOLE && len == 12)
		*need = 12;
	else if (type & CHUNK_ERROR && len >= 6 && len <= ERROR_MAX)
		*need = 4;
	else
		return broken(w, "the server broke the protocol: a chunk that cannot be");
	return 0;
}

static int on_chunk(struct wire *w, const struct nbd_chunk *c, const uint8_t *head)
{
	uint16_t type = be16toh(c->type);
	uint32_t len = be32toh(c->length);
	bool last = be16toh(c->flags) & CHUNK_DONE;
	struct part *p = find(w, be64toh(c->handle));
	uint64_t offset;

	if (!p)
		return broken(w, "the server broke the protocol: it answers what was not asked");
	if (type & CHUNK_ERROR) {
		if (!p->error)
			p->error = get32(head) ?: 5;
		w->skip = len - 4;
	} else if (type == CHUNK_DATA) {
		offset = get64(head);
		if (!inside(p, offset, len - 8))
			return broken(w, "the server broke the protocol: data out of place");
		return expect(w, p, offset - p->offset, len - 8, last);
	} else if (type == CHUNK_HOLE) {
		offset = get64(head);
		if (!inside(p, offset, get32(head + 8)))
			return broken(w, "the server broke the protocol: a hole out of place");
		memset(p->buf + (offset - p->offset), 0, get32(head + 8));
		p->got += get32(head + 8);
	}
	return last ? finish(w, p) : 0;
}

/*
 * Handles one reply's header.
 *
 * Return: 1; 0: not all of it has come; or an error.
 */
static int take_header(struct wire *w)
{
	const uint8_t *p = w->rx + w->rx_at;
	size_t have = w->rx_end - w->rx_at, need;
	struct nbd_simple s;
	struct nbd_chunk c;
	int r;

	if (have < sizeof(s))
		return 0;
	memcpy(&s, p, sizeof(s));
	if (be32toh(s.magic) == SIMPLE_MAGIC) {
		w->rx_at += sizeof(s);
		r = on_simple(w, &s);
		return r ? r : 1;
	}
	if (be32toh(s.magic) != STRUCTURED_MAGIC || !w->structured)
		return broken(w, "the server broke the protocol: not a reply");
	if (have < sizeof(c))
		return 0;
	memcpy(&c, p, sizeof(c));
	r = chunk_head(w, be16toh(c.type), be32toh(c.length), &need);
	if (r)
		return r;
	if (have < sizeof(c) + need)
		return 0;
	w->rx_at += sizeof(c) + need;
	r = on_chunk(w, &c, p + sizeof(c));
	return r ? r : 1;
}

static int payload_done(struct wire *w)
{
	struct part *p = w->coming;

	w->coming = NULL;
	return w->finish ? finish(w, p) : 0;
}

/* Handles what lies in rx. Return: 0: more is needed; or an error. */
static int parse(struct wire *w)
{
	int r = 1;

	while (r > 0) {
		size_t have = w->rx_end - w->rx_at, n;

		if (w->skip) {
			n = have < w->skip ? have : w->skip;
			w->skip -= n;
			w->rx_at += n;
			if (w->skip)
				return 0;
		} else if (w->coming) {
			n = have < w->left ? have : w->left;
			memcpy(w->to, w->rx + w->rx_at, n);
			w->to += n;
			w->left -= n;
			w->rx_at += n;
			if (w->left)
				return 0;
			r = payload_done(w);
			if (r < 0)
				return r;
			r = 1;
		} else {
			r = take_header(w);
		}
	}
	return r;
}

/* Moves what is left to the front, so that there is room behind it. */
static void make_room(struct wire *w)
{
	size_t have = w->rx_end - w->rx_at;

	if (have)
		memmove(w->rx, w->rx + w->rx_at, have);
	w->rx_at = 0;
	w->rx_end = have;
}

/* What has come, payload first to its place. Return: bytes, or -1 with errno. */
static ssize_t receive_some(struct wire *w, size_t *asked, int flags)
{
	size_t direct = w->coming ? w->left : 0, room;
	struct iovec iov[2];
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n;

	make_room(w);
	room = RX_SIZE - w->rx_end;
	*asked = direct + room;
	if (direct) {
		iov[0] = (struct iovec){ w->to, direct };
		iov[1] = (struct iovec){ w->rx + w->rx_end, room };
		n = recvmsg(w->fd, &m, flags);
	} else {
		n = recv(w->fd, w->rx + w->rx_end, room, flags);
	}
	if (n <= 0)
		return n;
	if (direct > (size_t)n)
		direct = n;
	/* Without a payload there is no place for it to go on from. */
	if (direct) {
		w->to += direct;
		w->left -= direct;
	}
	w->rx_end += n - direct;
	return n;
}

/* The rest of a payload. Return: as receive_some(); 1: all that can be had. */
static ssize_t receive_rest(struct wire *w)
{
	ssize_t n = recv(w->fd, w->to, w->left, MSG_WAITALL);

	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		w->quick = false;
		return 1;
	}
	if (n <= 0)
		return n;
	w->to += n;
	w->left -= n;
	/* Less than all: a signal, or the limit has passed. */
	if (w->left)
		w->quick = false;
	return 1;
}

static bool worth_waiting(const struct wire *w)
{
	return w->quick && w->coming && w->left && w->left <= WAIT_BYTES && w->rx_at == w->rx_end;
}

bool wire_quick(const struct wire *w)
{
	return w->quick;
}

/*
 * Takes what comes, the first time waiting as @flags say. Return: bytes of the
 * first time, 0: nothing was there, or an error.
 */
static ssize_t receive(struct wire *w, int flags)
{
	ssize_t first = 0;

	/* Bounded, so that a flood of replies does not starve the rest. */
	for (int turn = 0; turn < 8; turn++) {
		size_t asked = 0;
		bool waits = worth_waiting(w);
		ssize_t n = waits ? receive_rest(w) : receive_some(w, &asked, flags);
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK ? first : -errno;
		if (!n)
			return -ECONNRESET;
		first = first ?: n;
		flags = MSG_DONTWAIT;
		r = parse(w);
		if (r < 0)
			return r;
		/* A short read: there was no more, but for what is on its way. */
		if (!worth_waiting(w) && (waits ? w->room == WIRE_PARTS : (size_t)n < asked))
			break;
	}
	return first;
}

int wire_receive(struct wire *w)
{
	ssize_t n = receive(w, MSG_DONTWAIT);

	return n < 0 ? n : 0;
}

int wire_receive_wait(struct wire *w)
{
	ssize_t n = receive(w, 0);

	if (!n)
		w->quick = false;
	return n < 0 ? n : n > 0;
}
