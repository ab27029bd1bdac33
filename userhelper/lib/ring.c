// SPDX-License-Identifier: GPL-2.0-only
#include "ring.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/genetlink.h>
#include <linux/netlink.h>

#include "slotlist.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED	24
#endif

#define BIND_TIMEOUT_MS	5000
/* A datagram of the kernel fits 64 KiB; twice that is room, not need. */
#define RX_SIZE		(128 * 1024)
#define CREDIT_MAX	(SPICEBD_MAX_QUEUES * SPICEBD_MAX_QUEUE_DEPTH)
/*
 * What one sendmsg() carries: the kernel copies it into one buffer, which
 * becomes dear when it is large.
 */
#define TX_BYTES	(256 * 1024)
#define TX_MSGS		128
#define HDR_ROOM	128
#define IOV_PER_MSG	3

struct tx {
	uint8_t hdr[TX_MSGS][HDR_ROOM];
	struct iovec iov[TX_MSGS * IOV_PER_MSG];
	unsigned int nr_msgs, nr_iov;
	size_t bytes;
};

/* Messages with answers to requests whose payload is in registered memory. */
#define LIST_MSG	(NLMSG_HDRLEN + GENL_HDRLEN + NLA_HDRLEN +			\
			 SPICEBD_BATCH_MAX * sizeof(struct spicebd_io_answer))
#define LIST_MSGS	16

struct ring {
	int fd;
	uint16_t family;
	uint32_t max_io;
	uint32_t credit;
	struct ring_slot *slots;
	uint8_t *payload;		/* of the slots, or registered */
	size_t payload_len;
	bool registered;
	uint8_t lists[LIST_MSGS * LIST_MSG];
	struct slot_list receiving;
	struct slot_list answering;
	struct ring_slot *free;
	uint32_t answer_done;		/* bytes of the first answer already sent */
	uint8_t *rx;
	struct mmsghdr mm[RING_RX];
	struct iovec mm_iov[RING_RX];
	struct sockaddr_nl mm_from[RING_RX];
	struct tx tx;
	struct ring_stats stats;
	/* errors for requests that found no slot */
	uint64_t orphan[TX_MSGS];
	unsigned int nr_orphans;
};

static void slot_free(struct ring *r, struct ring_slot *s)
{
	s->state = RING_FREE;
	s->prev = NULL;
	s->next = r->free;
	r->free = s;
}

static void unmap(struct ring *r)
{
	if (r->payload)
		munmap(r->payload, r->payload_len);
	r->payload = NULL;
	r->registered = false;
}

int ring_socket(uint32_t rcvbuf)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	int fd, one = 1, r;
	int rcv = rcvbuf / 2, snd = RING_SNDBUF;	/* the kernel doubles both */
	struct timeval wait = { .tv_usec = RING_WAIT_US };

	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &rcv, sizeof(rcv)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &snd, sizeof(snd)) < 0 ||
	    /* without it a full buffer latches the socket until it is drained */
	    setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one)) < 0 ||
	    /* for ring_receive_wait(); the others do not wait */
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0 ||
	    bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

struct ring *ring_new(int fd, uint16_t family, uint32_t max_io)
{
	struct ring *r = calloc(1, sizeof(*r));

	if (!r || !(r->rx = malloc((size_t)RX_SIZE * RING_RX))) {
		free(r);
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	r->fd = fd;
	r->family = family;
	r->max_io = max_io;
	for (int i = 0; i < RING_RX; i++) {
		r->mm_iov[i].iov_base = r->rx + (size_t)RX_SIZE * i;
		r->mm_iov[i].iov_len = RX_SIZE;
	}
	return r;
}

void ring_free(struct ring *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	unmap(r);
	free(r->slots);
	free(r->rx);
	free(r);
}

int ring_fd(const struct ring *r)
{
	return r->fd;
}

const struct ring_stats *ring_stats(const struct ring *r)
{
	return &r->stats;
}

int ring_prepare(struct ring *r, uint32_t credit)
{
	if (!credit || credit > CREDIT_MAX || !r->max_io ||
	    r->max_io > SPICEBD_MAX_MAX_IO || r->slots)
		return -EINVAL;
	if (!r->registered) {
		r->payload_len = (size_t)credit * r->max_io;
		/* Address space only: a page is there once a request has used it. */
		r->payload = mmap(NULL, r->payload_len, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (r->payload == MAP_FAILED) {
			r->payload = NULL;
			return -ENOMEM;
		}
	}
	r->slots = calloc(credit, sizeof(*r->slots));
	if (!r->slots)
		return -ENOMEM;
	r->credit = credit;
	/* The lowest slot is used first, so that few are ever touched. */
	for (uint32_t i = credit; i-- > 0;) {
		r->slots[i].buf = r->payload + (r->registered ? 0 : (size_t)i * r->max_io);
		slot_free(r, &r->slots[i]);
	}
	return 0;
}

int ring_map(struct ring *r, size_t memory)
{
	void *p;

	if (r->payload || memory < r->max_io)
		return -EINVAL;
	p = mmap(NULL, memory, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	r->payload = p;
	r->payload_len = memory;
	r->registered = true;
	/* A child's copy would cost its size, and locked it stays where it is. */
	if (madvise(p, memory, MADV_DONTFORK) < 0 || mlock(p, memory) < 0) {
		int err = -errno;

		unmap(r);
		return err;
	}
	return 0;
}

/* Attributes. */

struct attr {
	const uint8_t *data;
	uint32_t len;
};

/* False: the attributes overrun their message. */
static bool parse_attrs(const uint8_t *p, size_t len, struct attr *tb, unsigned int max)
{
	memset(tb, 0, sizeof(*tb) * (max + 1));
	while (len >= NLA_HDRLEN) {
		struct nlattr h;
		uint16_t type;
		size_t step;

		memcpy(&h, p, sizeof(h));
		type = h.nla_type & NLA_TYPE_MASK;
		if (h.nla_len < NLA_HDRLEN || h.nla_len > len)
			return false;
		if (type <= max) {
			tb[type].data = p + NLA_HDRLEN;
			tb[type].len = h.nla_len - NLA_HDRLEN;
		}
		step = NLA_ALIGN(h.nla_len);
		if (step >= len)
			return true;
		p += step;
		len -= step;
	}
	return len == 0;
}

static bool attr_u32(const struct attr *a, uint32_t *v)
{
	if (!a->data || a->len != sizeof(*v))
		return false;
	memcpy(v, a->data, sizeof(*v));
	return true;
}

static bool attr_u64(const struct attr *a, uint64_t *v)
{
	if (!a->data || a->len != sizeof(*v))
		return false;
	memcpy(v, a->data, sizeof(*v));
	return true;
}

static void *put_attr(uint8_t **p, uint16_t type, const void *data, uint16_t len)
{
	struct nlattr h = { .nla_len = NLA_HDRLEN + len, .nla_type = type };

	memcpy(*p, &h, sizeof(h));
	if (data)
		memcpy(*p + NLA_HDRLEN, data, len);
	*p += NLA_HDRLEN + NLA_ALIGN(len);
	return *p;
}

/* Requests. */

static bool has_payload(uint32_t op)
{
	return op == SPICEBD_OP_WRITE;
}

static bool moves_data(uint32_t op)
{
	return op == SPICEBD_OP_READ || op == SPICEBD_OP_WRITE;
}

static bool request_ok(const struct ring *r, uint32_t op, uint64_t offset, uint32_t length)
{
	if (op > SPICEBD_OP_WRITE_ZEROES)
		return false;
	if (op == SPICEBD_OP_FLUSH)
		return true;
	if (!length || offset > INT64_MAX - length)
		return false;
	return !moves_data(op) || length <= r->max_io;
}

static bool take_piece(struct ring_slot *s, uint32_t offset, const struct attr *data)
{
	if (!data->data || !data->len || data->len > SPICEBD_PIECE_MAX)
		return false;
	if (offset != s->have || data->len > s->length - s->have)
		return false;
	memcpy(s->buf + s->have, data->data, data->len);
	s->have += data->len;
	return true;
}

static void give(struct ring_slot *s, ring_request_fn fn, void *arg)
{
	s->state = RING_GIVEN;
	s->next = NULL;
	s->prev = NULL;
	fn(s, arg);
}

static void answer_without_slot(struct ring *r, uint64_t cookie)
{
	r->stats.no_slot++;
	if (r->nr_orphans < TX_MSGS)
		r->orphan[r->nr_orphans++] = cookie;
}

static void on_request(struct ring *r, const struct attr *tb, ring_request_fn fn, void *arg)
{
	struct ring_slot n = { 0 }, *s = r->free;
	uint8_t *buf;

	if (!attr_u64(&tb[SPICEBD_A_IO_COOKIE], &n.cookie)) {
		r->stats.malformed++;
		return;
	}
	if (!s) {
		answer_without_slot(r, n.cookie);
		return;
	}
	if (!attr_u32(&tb[SPICEBD_A_IO_OP], &n.op))
		goto bad;
	(void)attr_u32(&tb[SPICEBD_A_IO_FLAGS], &n.flags);
	(void)attr_u64(&tb[SPICEBD_A_IO_OFFSET], &n.offset);
	(void)attr_u32(&tb[SPICEBD_A_IO_LENGTH], &n.length);
	(void)attr_u32(&tb[SPICEBD_A_IO_QUEUE], &n.queue);
	(void)attr_u64(&tb[SPICEBD_A_IO_GENERATION], &n.generation);
	if (!request_ok(r, n.op, n.offset, n.length))
		goto bad;
	r->free = s->next;
	buf = s->buf;
	*s = n;
	s->buf = buf;
	r->stats.requests++;
	if (!has_payload(s->op)) {
		give(s, fn, arg);
		return;
	}
	if (tb[SPICEBD_A_IO_DATA].data && !take_piece(s, 0, &tb[SPICEBD_A_IO_DATA])) {
		r->stats.malformed++;
		ring_complete(r, s, EIO);
	} else if (s->have == s->length) {
		give(s, fn, arg);
	} else {
		s->state = RING_RECEIVING;
		slot_list_add(&r->receiving, s);
	}
	return;
bad:
	r->stats.malformed++;
	answer_without_slot(r, n.cookie);
}

static void on_data(struct ring *r, const struct attr *tb, ring_request_fn fn, void *arg)
{
	struct ring_slot *s;
	uint64_t cookie;
	uint32_t offset = 0;

	if (!attr_u64(&tb[SPICEBD_A_IO_COOKIE], &cookie)) {
		r->stats.malformed++;
		return;
	}
	(void)attr_u32(&tb[SPICEBD_A_IO_DATA_OFFSET], &offset);
	/* Few writes are under way at a time: those of the hardware queues. */
	for (s = r->receiving.first; s && s->cookie != cookie; s = s->next)
		;
	if (!s) {
		r->stats.malformed++;
		return;
	}
	if (!take_piece(s, offset, &tb[SPICEBD_A_IO_DATA])) {
		r->stats.malformed++;
		slot_list_del(&r->receiving, s);
		ring_complete(r, s, EIO);
	} else if (s->have == s->length) {
		slot_list_del(&r->receiving, s);
		give(s, fn, arg);
	}
}

static bool in_memory(const struct ring *r, const struct spicebd_io_request *q)
{
	if (!moves_data(q->op))
		return true;
	return q->buffer <= r->payload_len && q->length <= r->payload_len - q->buffer;
}

/* One request whose payload is in registered memory. */
static void on_listed(struct ring *r, const struct spicebd_io_request *q, ring_request_fn fn,
		      void *arg)
{
	struct ring_slot *s = r->free;

	if (!s) {
		answer_without_slot(r, q->cookie);
		return;
	}
	if (!request_ok(r, q->op, q->offset, q->length) || !in_memory(r, q)) {
		r->stats.malformed++;
		answer_without_slot(r, q->cookie);
		return;
	}
	r->free = s->next;
	s->op = q->op;
	s->flags = q->flags;
	s->length = s->have = q->length;
	s->cookie = q->cookie;
	s->offset = q->offset;
	s->generation = q->generation;
	s->queue = q->queue;
	s->error = s->parts = s->part_error = s->flags_io = 0;
	s->buf = r->payload + (moves_data(q->op) ? q->buffer : 0);
	r->stats.requests++;
	give(s, fn, arg);
}

static void on_list(struct ring *r, const struct attr *list, ring_request_fn fn, void *arg)
{
	struct spicebd_io_request q;

	if (!r->registered || !list->data || list->len % sizeof(q)) {
		r->stats.malformed++;
		return;
	}
	for (uint32_t at = 0; at < list->len; at += sizeof(q)) {
		memcpy(&q, list->data + at, sizeof(q));
		on_listed(r, &q, fn, arg);
	}
}

void ring_parse(struct ring *r, const void *data, size_t len, ring_request_fn fn, void *arg)
{
	const uint8_t *p = data;

	while (len >= NLMSG_HDRLEN) {
		struct attr tb[SPICEBD_A_IO_MAX + 1];
		struct genlmsghdr g;
		struct nlmsghdr h;
		size_t step;

		memcpy(&h, p, sizeof(h));
		if (h.nlmsg_len < NLMSG_HDRLEN || h.nlmsg_len > len) {
			r->stats.malformed++;
			return;
		}
		if (h.nlmsg_type == NLMSG_ERROR) {
			int32_t error = 0;

			if (h.nlmsg_len >= NLMSG_HDRLEN + sizeof(error))
				memcpy(&error, p + NLMSG_HDRLEN, sizeof(error));
			if (error)
				r->stats.refused++;
		} else if (h.nlmsg_type == r->family &&
			   h.nlmsg_len >= NLMSG_HDRLEN + GENL_HDRLEN) {
			memcpy(&g, p + NLMSG_HDRLEN, sizeof(g));
			if (!parse_attrs(p + NLMSG_HDRLEN + GENL_HDRLEN,
					 h.nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN,
					 tb, SPICEBD_A_IO_MAX))
				r->stats.malformed++;
			else if (g.cmd == SPICEBD_CMD_IO_REQUESTS)
				on_list(r, &tb[SPICEBD_A_IO_REQUESTS], fn, arg);
			else if (r->registered)
				r->stats.malformed++;
			else if (g.cmd == SPICEBD_CMD_IO_REQUEST)
				on_request(r, tb, fn, arg);
			else if (g.cmd == SPICEBD_CMD_IO_DATA)
				on_data(r, tb, fn, arg);
		}
		step = NLMSG_ALIGN(h.nlmsg_len);
		if (step >= len)
			return;
		p += step;
		len -= step;
	}
	if (len)
		r->stats.malformed++;
}

static int receive_error(void)
{
	return errno == EAGAIN || errno == EINTR || errno == ENOBUFS ? 0 : -errno;
}

int ring_receive_wait(struct ring *r, ring_request_fn fn, void *arg)
{
	struct sockaddr_nl from = { 0 };
	socklen_t fromlen = sizeof(from);
	ssize_t n;

	/* MSG_TRUNC: the length that it had, so that what is cut off shows. */
	n = recvfrom(r->fd, r->rx, RX_SIZE, MSG_TRUNC, (struct sockaddr *)&from, &fromlen);
	if (n < 0)
		return receive_error();
	if (n > RX_SIZE) {
		r->stats.truncated++;
		n = RX_SIZE;
	}
	/* Anybody may send to a netlink socket: only the kernel is 0. */
	if (!from.nl_pid)
		ring_parse(r, r->rx, n, fn, arg);
	return 1;
}

int ring_receive(struct ring *r, ring_request_fn fn, void *arg)
{
	int n;

	for (int i = 0; i < RING_RX; i++) {
		struct msghdr *m = &r->mm[i].msg_hdr;

		m->msg_iov = &r->mm_iov[i];
		m->msg_iovlen = 1;
		m->msg_name = &r->mm_from[i];
		m->msg_namelen = sizeof(r->mm_from[i]);
		m->msg_control = NULL;
		m->msg_controllen = 0;
	}
	n = recvmmsg(r->fd, r->mm, RING_RX, MSG_DONTWAIT, NULL);
	if (n < 0)
		return receive_error();
	for (int i = 0; i < n; i++) {
		if (r->mm_from[i].nl_pid)
			continue;
		if (r->mm[i].msg_hdr.msg_flags & MSG_TRUNC)
			r->stats.truncated++;
		ring_parse(r, r->mm_iov[i].iov_base, r->mm[i].msg_len, fn, arg);
	}
	return n;
}

/* Answers. */

void ring_complete(struct ring *r, struct ring_slot *s, uint32_t error)
{
	s->state = RING_ANSWERING;
	s->error = error;
	slot_list_add(&r->answering, s);
}

/* One message: header and attributes in a place of its own, payload by reference. */
static void tx_add(struct ring *r, uint8_t cmd, uint64_t cookie, uint32_t error,
		   const uint8_t *data, uint32_t offset, uint16_t len)
{
	static const uint8_t zeros[NLA_ALIGNTO];
	struct tx *t = &r->tx;
	uint8_t *h = t->hdr[t->nr_msgs++], *p = h + NLMSG_HDRLEN + GENL_HDRLEN;
	struct nlmsghdr n = {
		.nlmsg_type = r->family,
		.nlmsg_flags = NLM_F_REQUEST,
	};
	struct genlmsghdr g = { .cmd = cmd, .version = SPICEBD_FAMILY_VERSION };
	uint32_t pad = 0;

	memset(h, 0, HDR_ROOM);
	put_attr(&p, SPICEBD_A_IO_COOKIE, &cookie, sizeof(cookie));
	if (error)
		put_attr(&p, SPICEBD_A_IO_ERROR, &error, sizeof(error));
	if (len) {
		struct nlattr d = {
			.nla_len = NLA_HDRLEN + len, .nla_type = SPICEBD_A_IO_DATA,
		};

		put_attr(&p, SPICEBD_A_IO_DATA_OFFSET, &offset, sizeof(offset));
		memcpy(p, &d, sizeof(d));
		p += NLA_HDRLEN;
		pad = NLA_ALIGN(len) - len;
	}
	n.nlmsg_len = (p - h) + len + pad;
	memcpy(h, &n, sizeof(n));
	memcpy(h + NLMSG_HDRLEN, &g, sizeof(g));
	t->iov[t->nr_iov++] = (struct iovec){ h, p - h };
	if (len)
		t->iov[t->nr_iov++] = (struct iovec){ (void *)data, len };
	if (pad)
		t->iov[t->nr_iov++] = (struct iovec){ (void *)zeros, pad };
	t->bytes += n.nlmsg_len;
}

static bool tx_room(const struct tx *t)
{
	return t->nr_msgs < TX_MSGS && t->bytes + HDR_ROOM + SPICEBD_PIECE_MAX <= TX_BYTES;
}

static int tx_send(struct ring *r)
{
	/* Without a name it is for the kernel. */
	struct msghdr m = { .msg_iov = r->tx.iov, .msg_iovlen = r->tx.nr_iov };
	int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
	ssize_t n;

	do {
		/* One piece is cheaper without the header around it. */
		n = r->tx.nr_iov == 1 ?
		    send(r->fd, r->tx.iov->iov_base, r->tx.iov->iov_len, flags) :
		    sendmsg(r->fd, &m, flags);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ENOMEM || errno == ENOBUFS ? -EAGAIN : -errno;
	return 0;
}

/* Where the next batch has got to; taken over only once it is sent. */
struct tx_mark {
	struct ring_slot *slot;
	uint32_t done;
};

static void tx_fill(struct ring *r, struct tx_mark *m)
{
	r->tx.nr_msgs = r->tx.nr_iov = 0;
	r->tx.bytes = 0;
	m->slot = r->answering.first;
	m->done = r->answer_done;
	while (m->slot && tx_room(&r->tx)) {
		struct ring_slot *s = m->slot;
		uint32_t left = 0, piece;

		if (s->op == SPICEBD_OP_READ && !s->error)
			left = s->length - m->done;
		piece = left < SPICEBD_PIECE_MAX ? left : SPICEBD_PIECE_MAX;
		tx_add(r, piece == left ? SPICEBD_CMD_IO_COMPLETE : SPICEBD_CMD_IO_DATA,
		       s->cookie, s->error, s->buf + m->done, m->done, piece);
		if (piece == left) {
			m->slot = s->next;
			m->done = 0;
		} else {
			m->done += piece;
		}
	}
}

/* Answers in lists, for registered memory. */

struct list_fill {
	uint8_t *at;		/* where the next message begins */
	unsigned int n;		/* answers in the one that is being filled */
};

static void list_begin(struct ring *r, struct list_fill *f)
{
	f->at = r->lists;
	f->n = 0;
	r->tx.nr_iov = 0;
}

static size_t list_len(unsigned int n)
{
	return NLMSG_HDRLEN + GENL_HDRLEN + NLA_HDRLEN + n * sizeof(struct spicebd_io_answer);
}

static void list_end(struct ring *r, struct list_fill *f)
{
	size_t list = f->n * sizeof(struct spicebd_io_answer);
	struct nlmsghdr h = {
		.nlmsg_len = list_len(f->n), .nlmsg_type = r->family,
		.nlmsg_flags = NLM_F_REQUEST,
	};
	struct genlmsghdr g = {
		.cmd = SPICEBD_CMD_IO_ANSWERS, .version = SPICEBD_FAMILY_VERSION,
	};
	struct nlattr a = { .nla_len = NLA_HDRLEN + list, .nla_type = SPICEBD_A_IO_ANSWERS };

	if (!f->n)
		return;
	memcpy(f->at, &h, sizeof(h));
	memcpy(f->at + NLMSG_HDRLEN, &g, sizeof(g));
	memcpy(f->at + NLMSG_HDRLEN + GENL_HDRLEN, &a, sizeof(a));
	f->at += h.nlmsg_len;
	f->n = 0;
}

static bool list_room(const struct ring *r, const struct list_fill *f)
{
	return (size_t)(r->lists + sizeof(r->lists) - f->at) >= list_len(f->n + 1);
}

static void list_add(struct ring *r, struct list_fill *f, uint64_t cookie, uint32_t error)
{
	struct spicebd_io_answer a = { .cookie = cookie, .error = error };

	memcpy(f->at + list_len(f->n), &a, sizeof(a));
	if (++f->n == SPICEBD_BATCH_MAX)
		list_end(r, f);
}

static int list_send(struct ring *r, struct list_fill *f)
{
	list_end(r, f);
	r->tx.iov[0] = (struct iovec){ r->lists, f->at - r->lists };
	r->tx.nr_iov = 1;
	return tx_send(r);
}

static int flush_lists(struct ring *r)
{
	while (r->nr_orphans || r->answering.first) {
		struct ring_slot *s = r->answering.first;
		struct list_fill f;
		unsigned int i;
		int err;

		list_begin(r, &f);
		for (i = 0; i < r->nr_orphans && list_room(r, &f); i++)
			list_add(r, &f, r->orphan[i], EIO);
		for (; s && list_room(r, &f); s = s->next)
			list_add(r, &f, s->cookie, s->error);
		err = list_send(r, &f);
		if (err)
			return err;
		r->nr_orphans -= i;
		memmove(r->orphan, r->orphan + i, r->nr_orphans * sizeof(*r->orphan));
		while (r->answering.first != s) {
			struct ring_slot *done = r->answering.first;

			slot_list_del(&r->answering, done);
			slot_free(r, done);
			r->stats.answers++;
		}
	}
	return 0;
}

static int flush_orphans(struct ring *r)
{
	int err;

	if (!r->nr_orphans)
		return 0;
	r->tx.nr_msgs = r->tx.nr_iov = 0;
	r->tx.bytes = 0;
	for (unsigned int i = 0; i < r->nr_orphans; i++)
		tx_add(r, SPICEBD_CMD_IO_COMPLETE, r->orphan[i], EIO, NULL, 0, 0);
	err = tx_send(r);
	if (!err)
		r->nr_orphans = 0;
	return err;
}

int ring_flush(struct ring *r)
{
	int err;

	if (r->registered)
		return flush_lists(r);
	err = flush_orphans(r);
	while (!err && r->answering.first) {
		struct tx_mark m;

		tx_fill(r, &m);
		err = tx_send(r);
		if (err)
			break;
		while (r->answering.first != m.slot) {
			struct ring_slot *s = r->answering.first;

			slot_list_del(&r->answering, s);
			slot_free(r, s);
			r->stats.answers++;
		}
		r->answer_done = m.done;
	}
	return err;
}

void ring_relax(struct ring *r)
{
	if (r->registered)
		return;
	/* A few stay warm; a slot in use keeps its pages. */
	for (uint32_t i = 4; i < r->credit; i++)
		if (r->slots[i].state == RING_FREE)
			(void)madvise(r->slots[i].buf, r->max_io, MADV_DONTNEED_LOCKED);
}

/* Binding. */

static void error_text(const uint8_t *p, uint32_t len, const struct nlmsghdr *h, int code,
		       char *text, size_t size)
{
	struct attr tb[NLMSGERR_ATTR_MAX + 1];
	size_t off = NLMSG_ALIGN(NLMSG_HDRLEN + sizeof(struct nlmsgerr));

	snprintf(text, size, "%s", strerror(code));
	if (!(h->nlmsg_flags & NLM_F_ACK_TLVS) || !(h->nlmsg_flags & NLM_F_CAPPED) ||
	    len <= off || !parse_attrs(p + off, len - off, tb, NLMSGERR_ATTR_MAX))
		return;
	if (tb[NLMSGERR_ATTR_MSG].data)
		snprintf(text, size, "%.*s", (int)tb[NLMSGERR_ATTR_MSG].len,
			 (const char *)tb[NLMSGERR_ATTR_MSG].data);
}

static int bind_answer(struct ring *r, const uint8_t *p, size_t len, struct ring_info *info,
		       char *text, size_t size)
{
	struct attr tb[SPICEBD_A_HELPER_MAX + 1];
	struct genlmsghdr g;
	struct nlmsghdr h;
	int32_t error;

	if (len < NLMSG_HDRLEN)
		return -EBADMSG;
	memcpy(&h, p, sizeof(h));
	if (h.nlmsg_len > len || h.nlmsg_len < NLMSG_HDRLEN + sizeof(error))
		return -EBADMSG;
	if (h.nlmsg_type == NLMSG_ERROR) {
		memcpy(&error, p + NLMSG_HDRLEN, sizeof(error));
		if (error >= 0)
			return -EBADMSG;
		error_text(p, h.nlmsg_len, &h, -error, text, size);
		return error;
	}
	if (h.nlmsg_type != r->family)
		return -EBADMSG;
	memcpy(&g, p + NLMSG_HDRLEN, sizeof(g));
	if (g.cmd != SPICEBD_CMD_QUEUE_BIND ||
	    !parse_attrs(p + NLMSG_HDRLEN + GENL_HDRLEN,
			 h.nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN, tb, SPICEBD_A_HELPER_MAX) ||
	    !attr_u32(&tb[SPICEBD_A_HELPER_INDEX], &info->index) ||
	    !attr_u32(&tb[SPICEBD_A_HELPER_CREDIT], &info->credit))
		return -EBADMSG;
	info->credit_bytes = 0;
	(void)attr_u32(&tb[SPICEBD_A_HELPER_CREDIT_BYTES], &info->credit_bytes);
	return 0;
}

static int bind_try(struct ring *r, const uint8_t key[SPICEBD_KEY_LEN], struct ring_info *info,
		    char *text, size_t size)
{
	uint8_t msg[128] = { 0 }, *p = msg + NLMSG_HDRLEN + GENL_HDRLEN;
	struct genlmsghdr g = {
		.cmd = SPICEBD_CMD_QUEUE_BIND, .version = SPICEBD_FAMILY_VERSION,
	};
	struct nlmsghdr n = { .nlmsg_type = r->family, .nlmsg_flags = NLM_F_REQUEST };
	struct pollfd pfd = { .fd = r->fd, .events = POLLIN };
	ssize_t len;
	int err;

	put_attr(&p, SPICEBD_A_HELPER_KEY, key, SPICEBD_KEY_LEN);
	if (r->registered) {
		uint64_t addr = (uintptr_t)r->payload, bytes = r->payload_len;

		put_attr(&p, SPICEBD_A_HELPER_BUFFER_ADDR, &addr, sizeof(addr));
		put_attr(&p, SPICEBD_A_HELPER_BUFFER_LEN, &bytes, sizeof(bytes));
	}
	n.nlmsg_len = p - msg;
	memcpy(msg, &n, sizeof(n));
	memcpy(msg + NLMSG_HDRLEN, &g, sizeof(g));
	r->tx.iov[0] = (struct iovec){ msg, n.nlmsg_len };
	r->tx.nr_iov = 1;
	err = tx_send(r);
	if (!err && poll(&pfd, 1, BIND_TIMEOUT_MS) <= 0)
		err = -ETIMEDOUT;
	if (err)
		return err;
	/* Requests may follow the answer at once: only this one datagram is taken here. */
	len = recv(r->fd, r->rx, RX_SIZE, MSG_DONTWAIT);
	return len < 0 ? -errno : bind_answer(r, r->rx, len, info, text, size);
}

/* What the kernel says when it does not take the memory; the key is still good. */
static bool memory_refused(int err)
{
	return err == -ENOMEM || err == -EFAULT || err == -ENOSPC || err == -EINVAL;
}

int ring_bind(struct ring *r, const uint8_t key[SPICEBD_KEY_LEN], size_t memory,
	      struct ring_info *info, char *text, size_t size)
{
	int err;

	text[0] = '\0';
	if (memory)
		(void)ring_map(r, memory);
	err = bind_try(r, key, info, text, size);
	if (r->registered && memory_refused(err)) {
		unmap(r);
		text[0] = '\0';
		err = bind_try(r, key, info, text, size);
	}
	if (!err)
		err = ring_prepare(r, info->credit);
	info->registered = r->registered;
	if (err && !*text)
		snprintf(text, size, "cannot bind a queue socket: %s", strerror(-err));
	return err;
}
