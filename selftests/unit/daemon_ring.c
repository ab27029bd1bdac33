// SPDX-License-Identifier: GPL-2.0-only
/*
 * The queue socket's messages: a whole request, one in pieces, and everything
 * that a kernel would not send. A socket pair stands for the kernel.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib -Iuapi selftests/unit/daemon_ring.c userhelper/lib/ring.c
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/genetlink.h>
#include <linux/netlink.h>

#include "ring.h"

#define FAMILY	42
#define MAX_IO	(256 * 1024)
#define CREDIT	4

static int number, failed;

static void result(int ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, name);
	failed += !ok;
}

/* Building messages. */

struct msg {
	uint8_t b[300000];
	size_t len, start;
};

static struct msg m;

static void begin(uint8_t cmd)
{
	struct nlmsghdr h = { .nlmsg_type = FAMILY };
	struct genlmsghdr g = { .cmd = cmd, .version = 1 };

	m.start = m.len;
	memcpy(m.b + m.len, &h, sizeof(h));
	memcpy(m.b + m.len + NLMSG_HDRLEN, &g, sizeof(g));
	m.len += NLMSG_HDRLEN + GENL_HDRLEN;
}

static void attr(uint16_t type, const void *data, size_t len)
{
	struct nlattr a = { .nla_len = NLA_HDRLEN + len, .nla_type = type };

	memcpy(m.b + m.len, &a, sizeof(a));
	memset(m.b + m.len + NLA_HDRLEN, 0, NLA_ALIGN(len));
	if (data)
		memcpy(m.b + m.len + NLA_HDRLEN, data, len);
	m.len += NLA_HDRLEN + NLA_ALIGN(len);
}

static void u32(uint16_t type, uint32_t v)
{
	attr(type, &v, sizeof(v));
}

static void u64(uint16_t type, uint64_t v)
{
	attr(type, &v, sizeof(v));
}

static void end(void)
{
	uint32_t len = m.len - m.start;

	memcpy(m.b + m.start, &len, sizeof(len));
}

static void request(uint64_t cookie, uint32_t op, uint64_t off, uint32_t len)
{
	begin(SPICEBD_CMD_IO_REQUEST);
	u64(SPICEBD_A_IO_COOKIE, cookie);
	u32(SPICEBD_A_IO_OP, op);
	u64(SPICEBD_A_IO_OFFSET, off);
	u32(SPICEBD_A_IO_LENGTH, len);
}

/* Receiving. */

static struct ring_slot *got[64];
static unsigned int nr_got;

static void take(struct ring_slot *s, void *arg)
{
	if (nr_got < 64)
		got[nr_got++] = s;
}

static struct ring *r;
static int peer;

static void fresh_with(size_t memory)
{
	int sv[2];

	ring_free(r);
	if (peer > 0)
		close(peer);
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, sv) < 0)
		exit(1);
	r = ring_new(sv[0], FAMILY, MAX_IO);
	peer = sv[1];
	if (!r || (memory && ring_map(r, memory) < 0) || ring_prepare(r, CREDIT) < 0)
		exit(1);
	m.len = 0;
	nr_got = 0;
}

static void fresh(void)
{
	fresh_with(0);
}

/* A copy of exact size, so that the sanitizer sees one byte too far. */
static void feed(void)
{
	uint8_t *copy = malloc(m.len ? m.len : 1);

	memcpy(copy, m.b, m.len);
	ring_parse(r, copy, m.len, take, NULL);
	free(copy);
	m.len = 0;
}

static void test_read(void)
{
	fresh();
	request(7, SPICEBD_OP_READ, 4096, 8192);
	end();
	feed();
	result(nr_got == 1 && got[0]->cookie == 7 && got[0]->offset == 4096 &&
	       got[0]->length == 8192 && got[0]->state == RING_GIVEN, "a read");
}

static void test_two_in_one(void)
{
	fresh();
	request(1, SPICEBD_OP_READ, 0, 512);
	end();
	request(2, SPICEBD_OP_FLUSH, 0, 0);
	end();
	feed();
	result(nr_got == 2 && got[1]->op == SPICEBD_OP_FLUSH, "two messages in one datagram");
}

static void piece(uint64_t cookie, uint32_t off, uint32_t len, uint8_t fill)
{
	static uint8_t data[SPICEBD_PIECE_MAX + 16];

	memset(data, fill, sizeof(data));
	begin(SPICEBD_CMD_IO_DATA);
	u64(SPICEBD_A_IO_COOKIE, cookie);
	u32(SPICEBD_A_IO_DATA_OFFSET, off);
	attr(SPICEBD_A_IO_DATA, data, len);
	end();
}

static void test_write_pieces(void)
{
	static uint8_t first[1000];

	fresh();
	request(9, SPICEBD_OP_WRITE, 0, 3000);
	attr(SPICEBD_A_IO_DATA, first, 1000);
	end();
	feed();
	result(nr_got == 0, "a write waits for its payload");
	/* Another request's pieces come in between. */
	request(10, SPICEBD_OP_WRITE, 0, 100);
	end();
	piece(10, 0, 100, 3);
	piece(9, 1000, 1500, 1);
	piece(9, 2500, 500, 2);
	feed();
	result(nr_got == 2 && got[0]->cookie == 10 && got[1]->cookie == 9 &&
	       got[1]->buf[999] == 0 && got[1]->buf[1000] == 1 && got[1]->buf[2999] == 2,
	       "pieces of two writes, mixed");
}

/* Each must end in an answer with an error, or be counted, and give nothing. */
static void hostile(const char *name)
{
	end();
	feed();
	result(nr_got == 0 && ring_stats(r)->malformed > 0, name);
}

static void test_hostile(void)
{
	static uint8_t big[SPICEBD_PIECE_MAX + 4];
	uint32_t len;

	fresh();
	begin(SPICEBD_CMD_IO_REQUEST);
	u32(SPICEBD_A_IO_OP, SPICEBD_OP_READ);
	hostile("a request without a cookie");
	fresh();
	request(1, 77, 0, 512);
	hostile("an unknown operation");
	fresh();
	request(1, SPICEBD_OP_READ, 0, 0);
	hostile("a read of nothing");
	fresh();
	request(1, SPICEBD_OP_READ, 0, MAX_IO + 1);
	hostile("a read larger than a slot");
	fresh();
	request(1, SPICEBD_OP_WRITE, UINT64_MAX - 100, 512);
	hostile("an offset that overflows");
	fresh();
	request(1, SPICEBD_OP_WRITE, 0, 100);
	attr(SPICEBD_A_IO_DATA, big, 101);
	hostile("a first piece longer than the write");
	fresh();
	request(1, SPICEBD_OP_WRITE, 0, MAX_IO);
	attr(SPICEBD_A_IO_DATA, big, sizeof(big));
	hostile("a piece longer than a piece");
	fresh();
	begin(SPICEBD_CMD_IO_REQUEST);
	u32(SPICEBD_A_IO_COOKIE, 1);
	hostile("a cookie of four bytes");

	fresh();
	request(5, SPICEBD_OP_WRITE, 0, 1000);
	end();
	feed();
	piece(5, 10, 100, 0);
	feed();
	result(nr_got == 0 && ring_stats(r)->malformed == 1, "a gap between pieces");
	piece(5, 0, 1000, 0);
	feed();
	result(nr_got == 0 && ring_stats(r)->malformed == 2, "a piece after the write has failed");
	piece(99, 0, 10, 0);
	feed();
	result(ring_stats(r)->malformed == 3, "a piece of no request");

	fresh();
	request(1, SPICEBD_OP_READ, 0, 512);
	end();
	len = 5;
	memcpy(m.b, &len, sizeof(len));
	feed();
	result(nr_got == 0 && ring_stats(r)->malformed, "a message shorter than its header");
	fresh();
	request(1, SPICEBD_OP_READ, 0, 512);
	end();
	len = m.len + 1;
	memcpy(m.b, &len, sizeof(len));
	feed();
	result(nr_got == 0 && ring_stats(r)->malformed, "a message longer than the datagram");
	fresh();
	request(1, SPICEBD_OP_READ, 0, 512);
	end();
	m.b[NLMSG_HDRLEN + GENL_HDRLEN] = 0xff;
	m.b[NLMSG_HDRLEN + GENL_HDRLEN + 1] = 0xff;
	feed();
	result(nr_got == 0 && ring_stats(r)->malformed, "an attribute longer than its message");
}

static void test_credit(void)
{
	fresh();
	for (int i = 0; i < CREDIT + 2; i++) {
		request(i, SPICEBD_OP_READ, 0, 512);
		end();
	}
	feed();
	result(nr_got == CREDIT && ring_stats(r)->no_slot == 2, "more requests than credit");
	for (int i = 0; i < CREDIT; i++)
		ring_complete(r, got[i], 0);
	close(peer);
	peer = 0;
	result(ring_flush(r) != 0, "answers that cannot be sent stay");
}

static void test_error_reply(void)
{
	struct nlmsghdr h = { .nlmsg_len = NLMSG_HDRLEN + 4, .nlmsg_type = NLMSG_ERROR };
	int32_t error = -2;

	fresh();
	memcpy(m.b, &h, sizeof(h));
	memcpy(m.b + NLMSG_HDRLEN, &error, sizeof(error));
	m.len = h.nlmsg_len;
	feed();
	result(ring_stats(r)->refused == 1, "an error of the kernel's is counted");
}

/* Registered memory. */

#define MEMORY	(2 * MAX_IO)

static void list(unsigned int n, const struct spicebd_io_request *q)
{
	begin(SPICEBD_CMD_IO_REQUESTS);
	attr(SPICEBD_A_IO_REQUESTS, q, n * sizeof(*q));
	end();
}

/* The answers that went out, in order; -1 if they are not well formed. */
static int answers(struct spicebd_io_answer *a, int max)
{
	static uint8_t b[65536];
	ssize_t len = recv(peer, b, sizeof(b), MSG_DONTWAIT);
	int n = 0;

	for (ssize_t at = 0; at < len;) {
		struct nlmsghdr h;
		struct nlattr l;
		size_t head = NLMSG_HDRLEN + GENL_HDRLEN;

		memcpy(&h, b + at, sizeof(h));
		memcpy(&l, b + at + head, sizeof(l));
		if (h.nlmsg_type != FAMILY || b[at + NLMSG_HDRLEN] != SPICEBD_CMD_IO_ANSWERS ||
		    l.nla_type != SPICEBD_A_IO_ANSWERS || h.nlmsg_len != head + l.nla_len ||
		    (l.nla_len - NLA_HDRLEN) % sizeof(*a) || l.nla_len <= NLA_HDRLEN)
			return -1;
		for (uint32_t i = 0; i < (l.nla_len - NLA_HDRLEN) / sizeof(*a) && n < max; i++)
			memcpy(&a[n++], b + at + head + NLA_HDRLEN + i * sizeof(*a), sizeof(*a));
		at += h.nlmsg_len;
	}
	return n;
}

static void test_registered(void)
{
	const struct spicebd_io_request good[3] = {
		{ .cookie = 11, .offset = 512, .length = 4096, .buffer = 0, .op = SPICEBD_OP_READ },
		{ .cookie = 12, .offset = 1 << 20, .length = MAX_IO, .buffer = MAX_IO,
		  .op = SPICEBD_OP_WRITE, .flags = SPICEBD_IO_FUA, .queue = 3 },
		{ .cookie = 13, .op = SPICEBD_OP_FLUSH },
	};
	struct spicebd_io_answer a[8];
	int n;

	fresh_with(MEMORY);
	list(3, good);
	feed();
	result(nr_got == 3 && got[0]->cookie == 11 && got[0]->length == 4096 &&
	       got[1]->offset == 1 << 20 && got[1]->flags == SPICEBD_IO_FUA &&
	       got[1]->queue == 3 && got[2]->op == SPICEBD_OP_FLUSH, "a list of requests");
	result(got[1]->buf == got[0]->buf + MAX_IO, "with their places");
	memset(got[1]->buf, 1, MAX_IO);
	ring_complete(r, got[1], 0);
	ring_complete(r, got[0], 5);
	result(ring_flush(r) == 0 && answers(a, 8) == 2 && a[0].cookie == 12 && !a[0].error &&
	       a[1].cookie == 11 && a[1].error == 5, "a list of answers");

	/* What does not lie in the memory, or is no request: answered, not given. */
	const struct spicebd_io_request bad[] = {
		{ .cookie = 21, .length = 4096, .buffer = MEMORY - 4095, .op = SPICEBD_OP_READ },
		{ .cookie = 22, .length = 4096, .buffer = UINT32_MAX, .op = SPICEBD_OP_WRITE },
		{ .cookie = 23, .length = MAX_IO + 1, .op = SPICEBD_OP_READ },
		{ .cookie = 24, .length = 0, .op = SPICEBD_OP_READ },
		{ .cookie = 25, .length = 512, .op = 99 },
		{ .cookie = 26, .length = 512, .offset = UINT64_MAX - 100, .op = SPICEBD_OP_READ },
	};

	fresh_with(MEMORY);
	list(6, bad);
	feed();
	n = ring_flush(r) == 0 ? answers(a, 8) : -1;
	result(nr_got == 0 && n == 6 && a[0].cookie == 21 && a[5].cookie == 26 && a[3].error &&
	       ring_stats(r)->malformed == 6, "what does not fit is answered with an error");

	fresh_with(MEMORY);
	list(3, good);
	list(3, good);
	feed();
	n = ring_flush(r) == 0 ? answers(a, 8) : -1;
	result(nr_got == CREDIT && n == 2 && a[0].cookie == 12 && a[1].cookie == 13,
	       "what exceeds the credit, too");

	fresh_with(MEMORY);
	begin(SPICEBD_CMD_IO_REQUESTS);
	attr(SPICEBD_A_IO_REQUESTS, good, sizeof(good) - 1);
	end();
	request(7, SPICEBD_OP_READ, 4096, 8192);
	end();
	feed();
	result(!nr_got && ring_stats(r)->malformed == 2, "half a request; one in a message");
	fresh();
	list(3, good);
	feed();
	result(!nr_got && ring_stats(r)->malformed == 1, "a list where no memory is registered");
	result(ring_map(r, MEMORY) == -EINVAL, "memory cannot be added later");
}

static void test_registered_mutations(void)
{
	unsigned int seed = 2;

	for (int i = 0; i < 4000; i++) {
		struct spicebd_io_request q[4] = { 0 };

		fresh_with(MEMORY);
		for (int k = 0; k < 4; k++)
			q[k] = (struct spicebd_io_request){
				.cookie = k, .length = 512, .buffer = 4096 * k, .op = k,
			};
		list(4, q);
		for (int k = 0; k < 1 + i % 7; k++)
			m.b[rand_r(&seed) % m.len] = rand_r(&seed);
		feed();
		/* Whatever is given may be used in full. */
		for (unsigned int k = 0; k < nr_got; k++)
			if (got[k]->op == SPICEBD_OP_READ || got[k]->op == SPICEBD_OP_WRITE)
				memset(got[k]->buf, k, got[k]->length);
	}
	result(1, "4000 lists with bytes changed");
}

/* Valid messages with bytes changed: nothing to expect but no sanitizer's word. */
static void test_mutations(void)
{
	unsigned int seed = 1;

	for (int i = 0; i < 20000; i++) {
		fresh();
		request(1, i % 5, 512, 1024);
		end();
		piece(1, 0, 512, 1);
		piece(1, 512, 512, 2);
		for (int k = 0; k < 1 + i % 7; k++)
			m.b[rand_r(&seed) % m.len] = rand_r(&seed);
		if (i % 3 == 0)
			m.len = rand_r(&seed) % m.len;
		feed();
	}
	result(1, "20000 messages with bytes changed");
}

int main(void)
{
	printf("KTAP version 1\n1..%d\n", 31);
	test_read();
	test_two_in_one();
	test_write_pieces();
	test_hostile();
	test_credit();
	test_error_reply();
	test_mutations();
	test_registered();
	test_registered_mutations();
	ring_free(r);
	return failed || number != 31;
}
